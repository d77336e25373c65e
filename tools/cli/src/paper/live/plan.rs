// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the options of a live experiment mean, checked.

use std::time::Duration;

use anyhow::Context as _;
use lab::live::{Destination, Link, LiveOptions, LiveRun};
use lab::paper::{self, Scenario, experiments};
use precopy::policy::StrategySpec;
use webvm::net::rig::RigOptions;
use webvm::site::{Site, SiteConfig};
use webvm::sla;
use webvm::users::UsersConfig;

use super::case::{self, Case, default_apart, default_steady};
use crate::args::{Experiment, LinkName, LiveArgs, PaperArgs};
use crate::exit::usage;
use crate::site::checked_load;
use crate::{show, system};

const MEMORY: u64 = 2 << 30;
const PAGE: u64 = 4096;
const RAMP: Duration = Duration::from_secs(60);
/// Users stay so long after the steady state, so that its last answers are like the others.
pub(super) const RAMP_DOWN_S: f64 = 5.0;
/// Longest phase.
const PHASE_MAX: Duration = Duration::from_secs(86_400);
/// The paper's link, in bytes per second.
const LINK_RATE: u64 = 125_000_000;
/// Most loads of one experiment.
const LOADS_MAX: usize = 100;
/// What runs live, in order: what says most comes first.
const LIVE: [Experiment; 5] = [
    Experiment::Fig2,
    Experiment::Policies,
    Experiment::Capacity,
    Experiment::Fig3,
    Experiment::Table2,
];

/// The live experiments of one command.
#[derive(Clone, Debug)]
pub(super) struct LivePlan {
    /// What is to run, in order.
    pub(super) experiments: Vec<Experiment>,
    pub(super) site: SiteConfig,
    pub(super) users: UsersConfig,
    pub(super) policy: String,
    pub(super) policies: Vec<String>,
    pub(super) seeds: Vec<u64>,
    /// The share that the virtual run takes; what was measured if there is none.
    pub(super) slowdown: Option<f64>,
    /// Settings of the site beyond those of its size.
    settings: String,
    loads: Option<Vec<u32>>,
    steady: Option<Duration>,
    migrate_at: Option<Duration>,
    apart: Option<Duration>,
    link: Link,
    rate_bytes_per_s: u64,
    verify: bool,
    destination: Destination,
    destination_dies: Option<Duration>,
    query_timeout: Option<Duration>,
}

impl LivePlan {
    /// Checks the options.
    pub(super) fn new(args: &PaperArgs) -> anyhow::Result<Self> {
        let live = &args.live;
        let experiments: Vec<_> = LIVE
            .into_iter()
            .filter(|one| [Experiment::All, *one].contains(&args.experiment))
            .collect();
        if experiments.is_empty() {
            return Err(usage(format!(
                "--live runs capacity, fig2, fig3, table2, policies, or all of these; {} is for \
                 virtual time",
                format!("{:?}", args.experiment).to_lowercase()
            )));
        }
        let (site, mut users) = load(args)?;
        users.ramp_down_s = RAMP_DOWN_S;
        users.ramp_up_s = phase("--ramp", live.ramp, RAMP, Duration::ZERO)?.as_secs_f64();
        phase("--steady", live.steady, case::STEADY, Duration::from_secs(1))?;
        users.check().map_err(usage)?;
        let paper = Scenario::paper(experiments::USERS, 1).policy.to_string();
        let policy = args.policy.clone().unwrap_or(paper);
        let policies = listed(live, &known(&policy)?)?;
        for policy in &policies {
            known(policy)?;
        }
        let rate_bytes_per_s = live.link_rate.unwrap_or(LINK_RATE);
        let plan = Self {
            experiments,
            site,
            users,
            policy,
            policies,
            seeds: (1..=args.seeds.unwrap_or(1)).collect(),
            slowdown: super::super::slowdown(args)?,
            settings: args.site.clone(),
            loads: live.loads.clone(),
            steady: live.steady,
            migrate_at: live.migrate_at,
            apart: live.apart,
            link: link(live.link, rate_bytes_per_s)?,
            rate_bytes_per_s,
            verify: live.verify,
            destination: destination(live)?,
            destination_dies: live.destination_dies,
            query_timeout: live.query_timeout,
        };
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> anyhow::Result<()> {
        if let Some(loads) = &self.loads {
            let rises = loads.windows(2).all(|pair| pair[0] < pair[1]);
            if !(1..=LOADS_MAX).contains(&loads.len()) || !rises {
                return Err(usage(format!(
                    "--loads has {} numbers; it must be 1 to {LOADS_MAX} that rise, such as \
                     500,600,700",
                    loads.len()
                )));
            }
        }
        for case in self.experiments.iter().flat_map(|experiment| self.cases(*experiment)) {
            let (steady_s, last) = (case.steady.as_secs_f64(), case.migrate_at.last());
            if let Some(at) = last.filter(|at| **at >= case.steady) {
                let what = match case.migrate_at.len() {
                    1 => "--migrate-at is",
                    _ => "With --apart the second migration begins at",
                };
                return Err(usage(format!(
                    "{what} {} s; it must be less than the {steady_s} s of --steady",
                    at.as_secs_f64(),
                )));
            }
            self.load(case.users, 1)
                .map_err(|error| usage(format!("--loads has {}: {error:#}", case.users)))?;
        }
        Ok(())
    }

    /// The cases of an experiment.
    pub(super) fn cases(&self, experiment: Experiment) -> Vec<Case> {
        match experiment {
            Experiment::Fig2 => case::fig2(self),
            Experiment::Policies => case::policies(self),
            Experiment::Capacity => case::capacity(self),
            Experiment::Table2 => case::table2(self),
            Experiment::Fig3 => case::fig3(self).into_iter().map(|(_, case)| case).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn steady(&self, experiment: Experiment) -> Duration {
        self.steady.unwrap_or_else(|| default_steady(experiment))
    }

    /// When the first migration begins.
    pub(super) fn migrate_at(&self, experiment: Experiment) -> Duration {
        self.migrate_at.unwrap_or_else(|| self.steady(experiment) / 2)
    }

    /// How long after the first one, which begins at `first`, the second migration begins.
    pub(super) fn apart(&self, first: Duration) -> Duration {
        self.apart.unwrap_or_else(|| default_apart(first, self.steady(Experiment::Fig3)))
    }

    /// The loads that were given, or these in proportion to the usual load, without those that
    /// the guest has no room for.
    pub(super) fn loads(&self, paper: &[u32]) -> Vec<u32> {
        let scaled = |users: &u32| {
            let scaled = u64::from(*users) * u64::from(self.users.users);
            u32::try_from(scaled / u64::from(experiments::USERS)).unwrap_or(u32::MAX).max(1)
        };
        let fits = |users: &u32| self.load(*users, 1).is_ok();
        let usual = || paper.iter().map(scaled).filter(fits).collect();
        self.loads.clone().unwrap_or_else(usual)
    }

    /// Whether guest, load or windows are not the paper's.
    pub(super) fn is_off_scale(&self) -> bool {
        let mut cases = self.experiments.iter().flat_map(|experiment| self.cases(*experiment));
        self.site.pages != MEMORY / PAGE
            || self.users.users != experiments::USERS
            || cases.any(|case| case.window < sla::WINDOW)
            // How soon limits break shows only in windows that end before that.
            || (self.experiments.contains(&Experiment::Fig3)
                && self.migrate_at(Experiment::Fig3) < sla::WINDOW)
    }

    /// A site in the guest's memory and so many users of it.
    fn load(&self, users: u32, seed: u64) -> anyhow::Result<(SiteConfig, UsersConfig)> {
        let (site, load) = paper::live::load(self.site.pages, users, seed);
        let site = settled(site, &self.settings)?;
        let UsersConfig { ramp_up_s, ramp_down_s, .. } = self.users;
        Ok((site, UsersConfig { ramp_up_s, ramp_down_s, ..load }))
    }

    /// One run.
    pub(super) fn options(&self, case: &Case, seed: u64) -> anyhow::Result<LiveOptions> {
        let (site, users) = self.load(case.users, seed)?;
        let users = UsersConfig { steady_s: case.steady.as_secs_f64(), ..users };
        let mut options = LiveOptions::new(site, users, &case.policy);
        options.migrate_at.clone_from(&case.migrate_at);
        options.guards.max_duration = case.patience;
        options.sla_window = case.window;
        options.verify = self.verify;
        options.link = self.link;
        options.destination = self.destination.clone();
        options.destination_dies = self.destination_dies.map(|after| (0, after));
        options.query_timeout = self.query_timeout.unwrap_or(options.query_timeout);
        Ok(options)
    }

    /// What TCP gets of the link: 1448 bytes of payload in each 1538 of Ethernet.
    #[expect(clippy::cast_precision_loss, reason = "bytes per second")]
    pub(super) fn payload_bytes_per_s(&self) -> f64 {
        payload(self.rate_bytes_per_s) as f64
    }

    /// The migration's own cap in a run, if it had one.
    pub(super) fn cap_bytes_per_s(&self, run: &LiveRun) -> Option<u64> {
        let capped = self.link != Link::Loopback && run.link_bytes_per_s.is_none();
        capped.then(|| payload(self.rate_bytes_per_s))
    }
}

fn payload(bytes_per_s: u64) -> u64 {
    bytes_per_s / 1538 * 1448
}

fn phase(
    name: &str,
    given: Option<Duration>,
    default: Duration,
    least: Duration,
) -> anyhow::Result<Duration> {
    let time = given.unwrap_or(default);
    if (least..=PHASE_MAX).contains(&time) {
        return Ok(time);
    }
    let more = if name == "--steady" { "; service levels need at least 300 s" } else { "" };
    Err(usage(format!(
        "{name} is {} s; it must be from {} s to {} s{more}",
        time.as_secs_f64(),
        least.as_secs(),
        PHASE_MAX.as_secs(),
    )))
}

/// The guest and its users.
fn load(args: &PaperArgs) -> anyhow::Result<(SiteConfig, UsersConfig)> {
    let memory = args.live.memory.unwrap_or(MEMORY);
    let users = args.live.users.unwrap_or(experiments::USERS);
    let (site, users) = checked_load(memory, Some(users), 1)?;
    let site = settled(site, &args.site)?;
    // Guest memory is held by both hosts, which are this machine.
    if let Some(free) = system::available_bytes().filter(|free| *free < memory.saturating_mul(2)) {
        anyhow::bail!(
            "Source and destination would hold {} each and {} are free; choose a smaller --memory",
            show::bytes(memory),
            show::bytes(free)
        );
    }
    Ok((site, users))
}

/// The site with further settings, checked.
fn settled(mut site: SiteConfig, settings: &str) -> anyhow::Result<SiteConfig> {
    if !settings.is_empty() {
        site = format!("{site},{settings}").parse().map_err(|e| usage(format!("--site: {e}")))?;
    }
    match Site::new(site.clone()) {
        Ok(_) => Ok(site),
        Err(error) => Err(usage(format!("--memory, --users or --site: {error}"))),
    }
}

/// What destinations are: this program again, if they are to be processes.
fn destination(live: &LiveArgs) -> anyhow::Result<Destination> {
    if !live.destination_process {
        return Ok(Destination::Thread);
    }
    let program = std::env::current_exe().context("This program's own file cannot be found")?;
    let mut arguments = vec!["host".to_owned()];
    if live.destination_dies_at_commit {
        arguments.push("--die-at-commit".to_owned());
    }
    Ok(Destination::Process { program, arguments })
}

fn link(name: Option<LinkName>, rate_bytes_per_s: u64) -> anyhow::Result<Link> {
    let rate_bits_per_s = rate_bytes_per_s.saturating_mul(8);
    if !(1_000_000..=10_000_000_000).contains(&rate_bits_per_s) {
        return Err(usage(format!(
            "--link-rate is {rate_bits_per_s} bit/s; it must be from 1Mbit/s to 10Gbit/s"
        )));
    }
    let mut rig = RigOptions::default();
    rig.rate_bits_per_s = rate_bits_per_s;
    Ok(match name {
        None => Link::ShapedIfPossible(rig),
        Some(LinkName::Shaped) => Link::Shaped(rig),
        Some(LinkName::Capped) => Link::Capped { bytes_per_s: payload(rate_bytes_per_s) },
        Some(LinkName::Loopback) => Link::Loopback,
    })
}

fn known(policy: &str) -> anyhow::Result<StrategySpec> {
    StrategySpec::parse(policy).map_err(|error| usage(format!("{error}; see `precopy policies`")))
}

/// The policies to run: those that were named, or those of the virtual ranking.
fn listed(args: &LiveArgs, paper: &StrategySpec) -> anyhow::Result<Vec<String>> {
    let Some(list) = &args.policies else {
        let all = experiments::ranked_policies(paper).map_err(usage)?;
        return Ok(all.iter().map(ToString::to_string).collect());
    };
    let mut policies: Vec<String> = Vec::new();
    for part in list.split(',') {
        // `a:x=1,y=2,b`: what has a value but no name goes on with the policy before it.
        let goes_on = part.contains('=') && !part.contains(':');
        match policies.last_mut() {
            Some(policy) if goes_on => policy.push_str(&format!(",{part}")),
            _ => policies.push(part.to_owned()),
        }
    }
    Ok(policies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_policies_with_parameters() {
        let args = |list: &str| LiveArgs {
            live: true,
            memory: None,
            users: None,
            loads: None,
            ramp: None,
            steady: None,
            migrate_at: None,
            apart: None,
            link: None,
            link_rate: None,
            verify: false,
            policies: Some(list.to_owned()),
            destination_process: false,
            destination_dies_at_commit: false,
            destination_dies: None,
            query_timeout: None,
        };
        let paper = known("xen").unwrap();
        assert_eq!(
            listed(&args("xen-legacy:growth=dirty,skip=false,qemu,stop-at-once"), &paper).unwrap(),
            ["xen-legacy:growth=dirty,skip=false", "qemu", "stop-at-once"]
        );
    }
}
