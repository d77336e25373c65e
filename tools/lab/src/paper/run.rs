// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One run of the site and its users in virtual time, with the migrations that it is to have.

use std::ops::Range;
use std::time::Duration;

use precopy::policy::{Guards, PolicyError, StrategySpec};
use precopy::region::{RegionError, RegionTable};
use precopy::report::Outcome;
use precopy::session::SourceConfig;
use precopy::sim::pair::{self, Link, PairPlan, PairResult};
use precopy::units::{MigrationId, PageSize, Tick};
use webvm::site::{Action, Counters, SiteConfig};
use webvm::sla::{self, Probe, Sample, SlaError, SlaReport};
use webvm::users::UsersConfig;
use webvm::world::{ServiceNetwork, World, WorldError};

use super::figures::{Moved, Seen};

/// Time between two probes.
const PROBE_PERIOD: Duration = Duration::from_millis(10);

/// A run could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The site or its users.
    #[error(transparent)]
    World(#[from] WorldError),
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The guest's memory.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The service level.
    #[error(transparent)]
    Sla(#[from] SlaError),
    /// A migration that begins outside of steady state, or before the last one is over.
    #[error(
        "Migration {number} is to begin at {at_s} s; the guest is free from {free_s} s to \
         {steady_s} s of steady state"
    )]
    BadTime {
        /// Its number.
        number: usize,
        /// When it is to begin.
        at_s: f64,
        /// From when on it may.
        free_s: f64,
        /// End of steady state.
        steady_s: f64,
    },
    /// The simulation broke one of the engine's rules: a fault of this program.
    #[error("The simulated migration broke a rule ({rule}); please report this with the seed")]
    Broken {
        /// Which, and how.
        rule: String,
    },
    /// A migration did not hand the guest over.
    #[error("Migration {number} did not hand the guest over: {why}")]
    NotHandedOver {
        /// Its number.
        number: usize,
        /// What the source says.
        why: String,
    },
}

/// What is to be run.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Scenario {
    /// The site.
    pub site: SiteConfig,
    /// The users.
    pub users: UsersConfig,
    /// When migrations begin, in seconds of steady state.
    pub migrations: Vec<f64>,
    /// When they stop, and what they do until then.
    pub policy: StrategySpec,
    /// Bytes per second of the link, which the site's own traffic shares.
    pub bandwidth_bytes_per_s: f64,
    /// Share of the guest's processor that a migration takes while the guest runs.
    pub tax: f64,
    /// Time after which the guest is paused whatever the policy says, in seconds.
    pub max_time_s: Option<f64>,
}

impl Scenario {
    /// The paper's run of 10 minutes with this many users and this seed (workload.md 6.6).
    #[must_use]
    pub fn paper(users: u32, seed: u64) -> Self {
        let mut site = SiteConfig { users, seed, ..SiteConfig::default() };
        // The guest of the paper: laid out for 600 users, whoever comes.
        site.max_workers = 640.max(users + 40);
        // Of Xen's two rules the one that comes closest to the paper in both its figures.
        let policy = StrategySpec::parse("xen");
        Self {
            site,
            // Faban's clients wait as long as it takes; two minutes are longer than any answer.
            users: UsersConfig { users, seed, time_out_s: 120.0, ..UsersConfig::default() },
            migrations: Vec::new(),
            policy: policy.expect("a policy that exists"),
            bandwidth_bytes_per_s: 117.5e6,
            tax: 0.15,
            max_time_s: None,
        }
    }

    /// With migrations that begin at these seconds of steady state.
    #[must_use]
    pub fn with_migrations(mut self, at_s: impl IntoIterator<Item = f64>) -> Self {
        self.migrations = at_s.into_iter().collect();
        self
    }

    /// With this length of steady state in seconds.
    #[must_use]
    pub fn lasting(mut self, steady_s: f64) -> Self {
        self.users.steady_s = steady_s;
        self
    }

    /// Steady state on the world's clock.
    #[must_use]
    pub fn steady(&self) -> Range<Tick> {
        self.users.steady_start()..self.users.steady_end()
    }
}

/// A migration of a run, on the world's clock.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Migrated {
    /// When it began.
    pub began: Tick,
    /// When the guest was paused.
    pub paused: Tick,
    /// When it ran at the destination.
    pub resumed: Tick,
    /// What the simulator says.
    pub result: PairResult,
}

/// What a run came to.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Ran {
    /// Steady state on the world's clock.
    pub steady: Range<Tick>,
    /// Every action.
    pub samples: Vec<Sample>,
    /// Its migrations.
    pub migrations: Vec<Migrated>,
    /// Probes around the migrations.
    pub probes: Vec<Probe>,
    /// Service levels; none if the steady state is shorter than their window.
    pub sla: Option<SlaReport>,
    /// What the site has counted.
    pub counters: Counters,
    /// Answers that must not be: lost, doubled, out of order.
    pub violations: u64,
    /// Whether the audit found every acknowledged write, once.
    pub audit_clean: bool,
}

impl Ran {
    /// Operations per second in steady state.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        self.seen().throughput()
    }

    /// Largest percentile of an action over all windows, in seconds.
    #[must_use]
    pub fn worst_s(&self, action: Action, percentile: sla::Percentile) -> f64 {
        self.seen().worst_s(action, percentile)
    }

    /// The run as its users saw it.
    #[must_use]
    pub fn seen(&self) -> Seen<'_> {
        Seen {
            steady: self.steady.clone(),
            samples: &self.samples,
            probes: self.probes.clone(),
            probe_period: PROBE_PERIOD,
            sla: self.sla.as_ref(),
        }
    }
}

impl Migrated {
    /// The migration on its run's clock.
    #[must_use]
    pub fn moved(&self) -> Moved<'_> {
        Moved {
            began: self.began,
            paused: self.paused,
            resumed: self.resumed,
            ended: self.result.ended_at,
            rounds: &self.result.rounds,
            totals: &self.result.totals,
        }
    }
}

fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s).unwrap_or(Duration::ZERO)
}

/// Runs a scenario to its end.
///
/// # Errors
/// [`RunError`] if the scenario makes no sense, or a migration of it fails.
pub fn run(scenario: &Scenario) -> Result<Ran, RunError> {
    let steady = scenario.steady();
    let network = ServiceNetwork {
        bandwidth_bytes_per_s: scenario.bandwidth_bytes_per_s,
        ..ServiceNetwork::default()
    };
    let mut world = World::new(scenario.site.clone(), scenario.users.clone(), network)?;
    let (mut migrations, mut probes) = (Vec::new(), Vec::new());
    for (number, at_s) in scenario.migrations.iter().copied().enumerate() {
        let at = steady.start + seconds(at_s);
        if at < world.now() || at >= steady.end || !at_s.is_finite() {
            return Err(RunError::BadTime {
                number: number + 1,
                at_s,
                free_s: world.now().since(steady.start).as_secs_f64(),
                steady_s: steady.end.since(steady.start).as_secs_f64(),
            });
        }
        world.run_until(at);
        world.probe(Some(PROBE_PERIOD));
        migrations.push(migrate(scenario, &mut world, number + 1)?);
        // Long enough for the backlog of the pause to be gone.
        world.run_until((world.now() + Duration::from_secs(2)).min(scenario.users.end()));
        probes.extend(world.take_probes());
        world.probe(None);
    }
    world.run_until(scenario.users.end());
    let samples = world.users().take_samples();
    let sla = match sla::evaluate(&samples, steady.clone(), &sla::Options::default()) {
        Err(SlaError::SteadyTooShort { .. }) => None,
        judged => Some(judged?),
    };
    let audit_clean = world.audit().is_clean();
    Ok(Ran {
        steady,
        samples,
        migrations,
        probes,
        sla,
        counters: world.counters(),
        violations: world.users().counters().violations,
        audit_clean,
    })
}

/// Migrates the world's guest now.
///
/// # Errors
/// As [`run`].
pub fn migrate(
    scenario: &Scenario,
    world: &mut World,
    number: usize,
) -> Result<Migrated, RunError> {
    let regions = RegionTable::single(PageSize::BASE, scenario.site.pages)?;
    let config = SourceConfig::new(MigrationId::new(number as u128), regions);
    let mut guards = Guards::default();
    guards.max_duration = scenario.max_time_s.map(seconds);
    let strategy = scenario.policy.build().guarded(&guards);
    let mut plan = PairPlan::for_guest(config, strategy);
    let latency = Duration::from_micros(100);
    plan.link = Link { bandwidth_bytes_per_s: scenario.bandwidth_bytes_per_s, latency };
    plan.starts_at = world.now();
    let began = world.now();
    world.begin_migration(scenario.tax);
    let result = pair::run_guest(plan, world);
    world.end_migration();
    if let Some(violation) = result.violations.first() {
        return Err(RunError::Broken { rule: format!("{violation:?}") });
    }
    match (result.outcome, result.paused_at, result.resumed_at) {
        (Some(Outcome::HandedOver), Some(paused), Some(resumed)) => {
            Ok(Migrated { began, paused, resumed, result })
        }
        _ => {
            let why = result.failure.clone().unwrap_or_else(|| "no reason given".to_owned());
            Err(RunError::NotHandedOver { number, why })
        }
    }
}
