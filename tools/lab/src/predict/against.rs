// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Predictions against the runs that they predict.
//!
//! The site and its users run in virtual time until they are in a steady state; for a while the
//! guest's writes are harvested, as a tracker would, and nothing else is known of it. The
//! prediction made from that is compared with the migration of that very guest, which then
//! follows.

use std::time::Duration;

use precopy::bitmap::DenseBitmap;
use precopy::policy::{Guards, PolicyError, StrategySpec};
use precopy::region::RegionTable;
use precopy::session::SourceConfig;
use precopy::sim::VirtualGuest as _;
use precopy::sim::pair::{self, Link, PairPlan};
use precopy::units::{MigrationId, PageSize, Tick};
use serde::{Deserialize, Serialize};
use webvm::site::SiteConfig;
use webvm::users::UsersConfig;
use webvm::world::{ServiceNetwork, World, WorldError};

use super::{LinkModel, Load, PredictError, Scenario, WwsCurve, predict};

/// Time from one harvest to the next while the guest is watched.
const INTERVAL: Duration = Duration::from_millis(100);
/// Share of the processor that a migration takes (workload.md 6.5).
const SLOWDOWN: f64 = 0.15;
/// Seeds of a prediction.
const SEEDS: u32 = 10;
/// The longest that a migration may take before its guest is paused anyway.
const TIME_GUARD: Duration = Duration::from_secs(180);

/// A run to predict.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a row of a table that callers write")]
pub struct Case {
    /// Users of the site.
    pub users: u32,
    /// Payload bytes per second of the link.
    pub bandwidth_bytes_per_s: f64,
    /// Policy with parameters.
    pub policy: String,
    /// Seed of site and users.
    pub seed: u64,
    /// Pages of the guest.
    pub pages: u64,
    /// Seconds of steady state before the guest is watched.
    pub settle_s: f64,
    /// Seconds for which it is watched.
    pub watch_s: f64,
}

/// A prediction beside what happened.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Compared {
    /// The run.
    pub case: Case,
    /// Predicted rounds, median.
    pub predicted_rounds: f64,
    /// Rounds of the run.
    pub rounds: u32,
    /// Predicted total time in seconds: tenth percentile, median, ninetieth.
    pub predicted_total_s: [f64; 3],
    /// Total time of the run in seconds.
    pub total_s: f64,
    /// Predicted downtime in seconds: tenth percentile, median, ninetieth.
    pub predicted_downtime_s: [f64; 3],
    /// Downtime of the run in seconds.
    pub downtime_s: f64,
}

impl Compared {
    /// Relative error of the predicted total time.
    #[must_use]
    pub fn total_error(&self) -> f64 {
        (self.predicted_total_s[1] / self.total_s - 1.0).abs()
    }

    /// Relative error of the predicted downtime.
    #[must_use]
    pub fn downtime_error(&self) -> f64 {
        (self.predicted_downtime_s[1] / self.downtime_s - 1.0).abs()
    }
}

/// A comparison could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgainstError {
    /// The site or its users.
    #[error(transparent)]
    World(#[from] WorldError),
    /// The prediction.
    #[error(transparent)]
    Predict(#[from] PredictError),
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The guest's memory.
    #[error("The guest's memory map cannot be made")]
    Region(#[from] precopy::region::RegionError),
    /// No handover to compare with.
    #[error("{what} did not hand the guest over under {policy}, so there is nothing to compare")]
    Kept {
        /// The run or the prediction.
        what: &'static str,
        /// The policy.
        policy: String,
    },
}

/// Twenty runs of the 2 GiB guest: five loads and links, four policies each.
#[must_use]
pub fn standard_cases() -> Vec<Case> {
    let places = [(200, 117.5e6), (350, 90e6), (500, 117.5e6), (600, 117.5e6), (600, 200e6)];
    let policies = [
        "xen-legacy:growth=dirty,skip=false",
        "xen-legacy",
        "fixed-rounds:rounds=5",
        "qemu:downtime_ms=1000",
    ];
    let mut cases = Vec::new();
    for (users, bandwidth_bytes_per_s) in places {
        for policy in policies {
            let seed = 100 + cases.len() as u64;
            let (pages, settle_s, watch_s) = (524_288, 30.0, 60.0);
            let policy = policy.to_owned();
            cases.push(Case {
                users,
                bandwidth_bytes_per_s,
                policy,
                seed,
                pages,
                settle_s,
                watch_s,
            });
        }
    }
    cases
}

/// Predicts a run and lets it happen.
///
/// # Errors
/// [`AgainstError`] if the case makes no sense, or the guest is not handed over.
pub fn compare(case: &Case) -> Result<Compared, AgainstError> {
    let policy = StrategySpec::parse(&case.policy)?;
    let mut guards = Guards::default();
    guards.max_duration = Some(TIME_GUARD);
    let mut site = SiteConfig::scaled(case.pages, case.users);
    site.seed = case.seed;
    let users = UsersConfig { users: case.users, seed: case.seed, ..UsersConfig::default() };
    let mut load = Load::web(case.users.into());
    (load.capacity_ops_per_s, load.slowdown) = (site.capacity, SLOWDOWN);
    let network = ServiceNetwork {
        bandwidth_bytes_per_s: case.bandwidth_bytes_per_s,
        ..ServiceNetwork::default()
    };
    let start = users.steady_start();
    let mut world = World::new(site, users, network)?;
    world.run_until(start + seconds(case.settle_s));
    let (curve, service_bytes_per_s) = watch(&mut world, case)?;
    load.service_bytes_per_op = service_bytes_per_s / load.offered_ops_per_s().max(1e-9);
    let link = LinkModel::new(case.bandwidth_bytes_per_s);
    let mut scenario = Scenario::new(curve, link, policy.clone());
    (scenario.guards, scenario.load, scenario.seeds) = (guards.clone(), Some(load), SEEDS);
    let predicted = predict(&scenario)?;

    let regions = RegionTable::single(PageSize::BASE, case.pages)?;
    let config = SourceConfig::new(MigrationId::new(1), regions);
    let mut plan = PairPlan::for_guest(config, policy.build().guarded(&guards));
    let latency = Duration::from_secs_f64(link.latency_s);
    plan.link = Link { bandwidth_bytes_per_s: case.bandwidth_bytes_per_s, latency };
    plan.starts_at = world.now();
    let began: Tick = world.now();
    world.begin_migration(SLOWDOWN);
    let ran = pair::run_guest(plan, &mut world);
    world.end_migration();
    let kept = |what| AgainstError::Kept { what, policy: case.policy.clone() };
    let (resumed, downtime) = ran.resumed_at.zip(ran.downtime).ok_or_else(|| kept("The run"))?;
    let down = predicted.downtime_s.ok_or_else(|| kept("The prediction"))?;
    let total = predicted.total_s;
    Ok(Compared {
        case: case.clone(),
        predicted_rounds: predicted.rounds.median,
        rounds: ran.totals.rounds,
        predicted_total_s: [total.p10, total.median, total.p90],
        total_s: resumed.since(began).as_secs_f64(),
        predicted_downtime_s: [down.p10, down.median, down.p90],
        downtime_s: downtime.as_secs_f64(),
    })
}

/// Harvests the running guest, and measures what it sends: the curve, and bytes per second.
fn watch(world: &mut World, case: &Case) -> Result<(WwsCurve, f64), AgainstError> {
    let (began, sent) = (world.now(), world.counters().sent_bytes);
    let end = began + seconds(case.watch_s);
    let mut harvests = Vec::new();
    while world.now() + INTERVAL <= end {
        let mut set = DenseBitmap::new(case.pages);
        let until = world.now() + INTERVAL;
        world.run_tracked(until, &mut |page| {
            if page.get() < case.pages {
                set.set(page);
            }
        });
        harvests.push(set);
    }
    let populated = world.populated().map_or(case.pages, |set| set.count()).max(1);
    let curve = WwsCurve::from_harvests(INTERVAL.as_secs_f64(), &harvests, populated)?;
    let time = world.now().since(began).as_secs_f64().max(1e-9);
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = (world.counters().sent_bytes - sent) as f64 / time;
    Ok((curve.with_total_pages(case.pages)?, rate))
}

fn seconds(time: f64) -> Duration {
    Duration::try_from_secs_f64(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest of 256 MiB with an eighth of the users, over an eighth of the link.
    #[test]
    fn a_small_site_does_what_was_predicted() {
        for (policy, seed) in [("fixed-rounds:rounds=4", 1), ("xen-legacy:skip=false", 2)] {
            let case = Case {
                users: 75,
                bandwidth_bytes_per_s: 14.7e6,
                policy: policy.to_owned(),
                seed,
                pages: 65_536,
                settle_s: 5.0,
                watch_s: 30.0,
            };
            let compared = compare(&case).unwrap();
            println!("{compared:?}");
            assert!(compared.total_error() < 0.15, "{compared:?}");
            // A small guest of few users is harder to tell than the full one.
            assert!(compared.downtime_error() < 0.40, "{compared:?}");
        }
    }
}
