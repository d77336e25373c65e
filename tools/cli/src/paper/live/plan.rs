// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the options of a live experiment mean, checked.

use std::fmt;
use std::time::Duration;

use lab::live::{Link, LiveOptions, LiveRun};
use lab::paper::{self, Scenario, experiments};
use precopy::policy::{StrategySpec, policies};
use webvm::net::rig::RigOptions;
use webvm::site::{PAGES_MAX, PAGES_MIN, Site, SiteConfig, WORKERS_MAX};
use webvm::users::UsersConfig;

use crate::args::{Experiment, LinkName, LiveArgs, PaperArgs};
use crate::exit::usage;
use crate::{show, system};

const MEMORY: u64 = 2 << 30;
const PAGE: u64 = 4096;
const RAMP: Duration = Duration::from_secs(60);
const STEADY: Duration = Duration::from_secs(400);
/// Users stay so long after the steady state, so that its last answers are like the others.
const RAMP_DOWN_S: f64 = 5.0;
/// Longest phase.
const PHASE_MAX: Duration = Duration::from_secs(86_400);
/// The paper's link, in bytes per second.
const LINK_RATE: u64 = 125_000_000;

/// A live experiment.
#[derive(Clone, Debug)]
pub(super) struct LivePlan {
    pub(super) site: SiteConfig,
    pub(super) users: UsersConfig,
    pub(super) migrate_at: Duration,
    pub(super) policy: String,
    pub(super) policies: Vec<String>,
    pub(super) seeds: Vec<u64>,
    /// The share that the virtual run takes; what was measured if there is none.
    pub(super) slowdown: Option<f64>,
    link: Link,
    rate_bytes_per_s: u64,
    verify: bool,
    destination_dies: Option<Duration>,
}

impl LivePlan {
    /// Checks the options.
    pub(super) fn new(args: &PaperArgs) -> anyhow::Result<Self> {
        let live = &args.live;
        if !matches!(args.experiment, Experiment::Fig2 | Experiment::Policies | Experiment::All) {
            let what = format!("{:?}", args.experiment).to_lowercase();
            return Err(usage(format!("--live runs fig2, policies, or all for both, not {what}")));
        }
        let (site, mut users) = load(args)?;
        let steady = phase("--steady", live.steady, STEADY, Duration::from_secs(1))?;
        (users.steady_s, users.ramp_down_s) = (steady.as_secs_f64(), RAMP_DOWN_S);
        users.ramp_up_s = phase("--ramp", live.ramp, RAMP, Duration::ZERO)?.as_secs_f64();
        users.check().map_err(usage)?;
        let migrate_at = live.migrate_at.unwrap_or(steady / 2);
        if migrate_at >= steady {
            return Err(usage(format!(
                "--migrate-at is {} s; it must be less than the {} s of --steady",
                migrate_at.as_secs_f64(),
                steady.as_secs_f64(),
            )));
        }
        let paper = Scenario::paper(experiments::USERS, 1).policy.to_string();
        let policy = args.policy.clone().unwrap_or(paper);
        let policies = listed(live, &policy);
        for policy in policies.iter().chain([&policy]) {
            StrategySpec::parse(policy)
                .map_err(|error| usage(format!("{error}; see `precopy policies`")))?;
        }
        let rate_bytes_per_s = live.link_rate.unwrap_or(LINK_RATE);
        Ok(Self {
            site,
            users,
            migrate_at,
            policy,
            policies,
            seeds: (1..=args.seeds.unwrap_or(1)).collect(),
            slowdown: super::super::slowdown(args)?,
            link: link(live.link, rate_bytes_per_s)?,
            rate_bytes_per_s,
            verify: live.verify,
            destination_dies: live.destination_dies,
        })
    }

    /// Whether guest or load are not the paper's.
    pub(super) fn is_off_scale(&self) -> bool {
        self.site.pages != MEMORY / PAGE || self.users.users != experiments::USERS
    }

    /// One run.
    pub(super) fn options(&self, policy: &str, seed: u64) -> LiveOptions {
        let site = SiteConfig { seed, ..self.site.clone() };
        let users = UsersConfig { seed, ..self.users.clone() };
        let mut options = LiveOptions::new(site, users, policy);
        options.migrate_at = vec![self.migrate_at];
        options.verify = self.verify;
        options.link = self.link;
        options.destination_dies = self.destination_dies.map(|after| (0, after));
        options
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

impl fmt::Display for LivePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UsersConfig { users, ramp_up_s, steady_s, ramp_down_s, .. } = &self.users;
        write!(
            f,
            "{users} users, {} of memory, {ramp_up_s} s of ramp, {steady_s} s of steady state with \
             a migration after {} s, {ramp_down_s} s more",
            show::bytes(self.site.pages * PAGE),
            self.migrate_at.as_secs_f64(),
        )
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
    let pages = memory / PAGE;
    if !memory.is_multiple_of(PAGE) || !(PAGES_MIN..=PAGES_MAX).contains(&pages) {
        return Err(usage(format!(
            "--memory is {}; it must be from {} to {} in steps of 4 KiB",
            show::bytes(memory),
            show::bytes(PAGES_MIN * PAGE),
            show::bytes(PAGES_MAX * PAGE),
        )));
    }
    let users = args.live.users.unwrap_or(experiments::USERS);
    if !(1..=WORKERS_MAX).contains(&users) {
        return Err(usage(format!("--users is {users}; it must be from 1 to {WORKERS_MAX}")));
    }
    let (mut site, users) = paper::live::load(pages, users, 1);
    if !args.site.is_empty() {
        site =
            format!("{site},{}", args.site).parse().map_err(|e| usage(format!("--site: {e}")))?;
    }
    if let Err(error) = Site::new(site.clone()) {
        return Err(usage(format!("--memory, --users or --site: {error}")));
    }
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

/// The policies to run: those that were named, or the paper's and all that the engine has.
fn listed(args: &LiveArgs, paper: &str) -> Vec<String> {
    let Some(list) = &args.policies else {
        let all = policies().iter().map(|info| info.name.to_owned());
        return std::iter::once(paper.to_owned()).chain(all).collect();
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
    policies
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
            ramp: None,
            steady: None,
            migrate_at: None,
            link: None,
            link_rate: None,
            verify: false,
            policies: Some(list.to_owned()),
            destination_dies: None,
        };
        assert_eq!(
            listed(&args("xen-legacy:growth=dirty,skip=false,qemu,stop-at-once"), ""),
            ["xen-legacy:growth=dirty,skip=false", "qemu", "stop-at-once"]
        );
    }
}
