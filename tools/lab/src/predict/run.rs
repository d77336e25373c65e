// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Migrations of the synthetic guest, one for each seed, and intervals over them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use precopy::policy::{Guards, StrategySpec};
use precopy::region::RegionTable;
use precopy::session::SourceConfig;
use precopy::sim::Rng;
use precopy::sim::pair::{self, Link, PairPlan, PairResult};
use precopy::units::{MigrationId, PageSize, Tick};
use serde::{Deserialize, Serialize};

use super::curve::{Spread, WwsCurve};
use super::fit::WwsModel;
use super::guest::{SyntheticGuest, factor};
use super::load::Load;
use super::risk::{self, Risk};
use super::{PredictError, within};

/// Most seeds of one prediction.
const SEEDS_MAX: u32 = 1000;
/// Time limit for policies with none of their own.
const TIME_GUARD: Duration = Duration::from_secs(600);

/// The link that a migration will have.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "plain numbers that callers write")]
pub struct LinkModel {
    /// Payload bytes per second of the whole link; the guest's own traffic goes off it.
    pub bandwidth_bytes_per_s: f64,
    /// One-way latency, in seconds.
    pub latency_s: f64,
    /// Relative standard deviation of the bandwidth from one migration to the next.
    pub spread: f64,
}

impl LinkModel {
    /// A link of a data centre with so many bytes per second: 0.1 ms, 2 % from run to run.
    #[must_use]
    pub fn new(bandwidth_bytes_per_s: f64) -> Self {
        Self { bandwidth_bytes_per_s, latency_s: 1e-4, spread: 0.02 }
    }
}

/// What is to be predicted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scenario {
    /// The guest's working set.
    pub curve: WwsCurve,
    /// How much it varies; from the curve unless told otherwise.
    pub spread: Spread,
    /// The link.
    pub link: LinkModel,
    /// When to stop, and what to do until then.
    pub policy: StrategySpec,
    /// Limits on top of the policy; 10 minutes and 1000 rounds unless told otherwise.
    pub guards: Guards,
    /// Downtime that the policy may aim at.
    pub downtime_limit: Duration,
    /// The site, for the risk and for its share of the link.
    pub load: Option<Load>,
    /// How many migrations to try.
    pub seeds: u32,
    /// The first seed.
    pub first_seed: u64,
}

impl Scenario {
    /// Ten migrations under the default guards, without a load.
    #[must_use]
    pub fn new(curve: WwsCurve, link: LinkModel, policy: impl Into<StrategySpec>) -> Self {
        let mut guards = Guards::default();
        guards.max_duration = Some(TIME_GUARD);
        Self {
            spread: curve.spread(),
            curve,
            link,
            policy: policy.into(),
            guards,
            downtime_limit: Duration::from_millis(300),
            load: None,
            seeds: 10,
            first_seed: 1,
        }
    }

    fn check(&self) -> Result<(), PredictError> {
        let bandwidth = self.link.bandwidth_bytes_per_s;
        within("bandwidth_bytes_per_s", bandwidth, 1e5, 1e12, "from 100000 to 10^12")?;
        within("latency_s", self.link.latency_s, 0.0, 10.0, "from 0 to 10")?;
        within("the link's spread", self.link.spread, 0.0, 1.0, "a share from 0 to 1")?;
        within("the short spread", self.spread.short, 0.0, 1.0, "a share from 0 to 1")?;
        within("the long spread", self.spread.long, 0.0, 1.0, "a share from 0 to 1")?;
        within("seeds", self.seeds.into(), 1.0, SEEDS_MAX.into(), "from 1 to 1000")?;
        self.load.as_ref().map_or(Ok(()), Load::check)
    }
}

/// Median, and the tenth and ninetieth percentile, over the seeds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "three numbers")]
pub struct Interval {
    /// A tenth of the seeds is below.
    pub p10: f64,
    /// Half of the seeds.
    pub median: f64,
    /// A tenth of the seeds is above.
    pub p90: f64,
}

impl Interval {
    /// The interval of some values, by linear interpolation; `None` without a value.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a place in a short list"
        )]
        let at = |share: f64| {
            let place = share * last as f64;
            let below = place as usize;
            let above = (below + 1).min(last);
            sorted[below] + (sorted[above] - sorted[below]) * place.fract()
        };
        Some(Self { p10: at(0.1), median: at(0.5), p90: at(0.9) })
    }
}

/// One round of one predicted migration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PredictedRound {
    /// Pages sent.
    pub pages: u64,
    /// How long it took, in seconds.
    pub duration_s: f64,
    /// Whether the guest was paused.
    pub paused: bool,
}

/// One predicted migration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PredictedRun {
    /// Its seed.
    pub seed: u64,
    /// Whether the destination took over.
    pub handed_over: bool,
    /// Rounds sent, the paused one included.
    pub rounds: u32,
    /// From the start to the resume at the destination, or to the end without one, in seconds.
    pub total_s: f64,
    /// From the start to the call to pause (to the end without one), in seconds.
    pub live_s: f64,
    /// From the call to pause to the resume, in seconds.
    pub downtime_s: Option<f64>,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// The last decision's reason.
    pub reason: String,
    /// Round by round.
    pub history: Vec<PredictedRound>,
}

/// What a migration will cost.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Prediction {
    /// Policy and parameters.
    pub policy: String,
    /// The link.
    pub link: LinkModel,
    /// The fitted working set.
    pub model: WwsModel,
    /// Rounds sent, the paused one included.
    pub rounds: Interval,
    /// Total time in seconds.
    pub total_s: Interval,
    /// Downtime in seconds, over the runs that handed over; `None` if none did.
    pub downtime_s: Option<Interval>,
    /// Bytes on the wire.
    pub wire_bytes: Interval,
    /// Share of the runs that handed over.
    pub handed_over: f64,
    /// What it does to the service level, if a load was given.
    pub risk: Option<Risk>,
    /// The runs, by seed.
    pub runs: Vec<PredictedRun>,
}

/// Predicts a migration.
///
/// # Errors
/// [`PredictError`] if the scenario makes no sense.
pub fn predict(scenario: &Scenario) -> Result<Prediction, PredictError> {
    let (model, runs) = runs_of(scenario)?;
    let over = |value: &dyn Fn(&PredictedRun) -> f64| {
        Interval::of(runs.iter().map(value)).unwrap_or(Interval { p10: 0.0, median: 0.0, p90: 0.0 })
    };
    let handed_over = over_seeds(runs.iter().filter(|run| run.handed_over).count(), runs.len());
    #[expect(clippy::cast_precision_loss, reason = "a size")]
    let wire_bytes = over(&|run| run.wire_bytes as f64);
    Ok(Prediction {
        policy: scenario.policy.to_string(),
        link: scenario.link,
        model,
        rounds: over(&|run| run.rounds.into()),
        total_s: over(&|run| run.total_s),
        downtime_s: Interval::of(runs.iter().filter_map(|run| run.downtime_s)),
        wire_bytes,
        handed_over,
        risk: scenario.load.as_ref().map(|load| risk::of(load, &runs)),
        runs,
    })
}

/// Fits the working set and migrates it, once for each seed.
pub(super) fn runs_of(scenario: &Scenario) -> Result<(WwsModel, Vec<PredictedRun>), PredictError> {
    scenario.check()?;
    let model = WwsModel::fit(&scenario.curve);
    let table = RegionTable::single(PageSize::BASE, scenario.curve.total_pages())?;
    let runs = on_all_cores(scenario.seeds, |at| {
        migrate(scenario, &model, &table, scenario.first_seed.wrapping_add(at.into()))
    });
    Ok((model, runs))
}

#[expect(clippy::cast_precision_loss, reason = "a share of a few seeds")]
pub(super) fn over_seeds(some: usize, all: usize) -> f64 {
    some as f64 / all.max(1) as f64
}

/// Calls `work` for 0 to `count` on all cores; results in order.
pub(super) fn on_all_cores<T: Send>(count: u32, work: impl Fn(u32) -> T + Sync) -> Vec<T> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Ok(at) = u32::try_from(next.fetch_add(1, Ordering::Relaxed)) {
                    if at >= count {
                        return;
                    }
                    let result = work(at);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

fn migrate(scenario: &Scenario, model: &WwsModel, table: &RegionTable, seed: u64) -> PredictedRun {
    let total = scenario.curve.total_pages();
    let load = scenario.load.clone();
    let mut guest = SyntheticGuest::new(model, total, scenario.spread, load, seed);
    let mut config = SourceConfig::new(MigrationId::new(1), table.clone());
    config.downtime_limit = scenario.downtime_limit;
    // One reads while the other sends, as with the command's default.
    config.channels = 2;
    let strategy = scenario.policy.build().guarded(&scenario.guards);
    let mut plan = PairPlan::for_guest(config, strategy);
    let mut rng = Rng::new(seed ^ 0x6c69_6e6b);
    let bandwidth = scenario.link.bandwidth_bytes_per_s * factor(&mut rng, scenario.link.spread);
    let latency = Duration::from_secs_f64(scenario.link.latency_s);
    plan.link = Link { bandwidth_bytes_per_s: bandwidth, latency };
    let ran = pair::run_guest(plan, &mut guest);
    debug_assert!(ran.violations.is_empty(), "{:?}", ran.violations);
    PredictedRun::new(seed, &ran)
}

impl PredictedRun {
    fn new(seed: u64, ran: &PairResult) -> Self {
        let seconds = |at: Tick| at.since(Tick::ZERO).as_secs_f64();
        let resumed = ran.resumed_at.filter(|_| ran.downtime.is_some());
        let round = |round: &precopy::report::RoundReport| PredictedRound {
            pages: round.sent_pages,
            duration_s: round.duration.as_secs_f64(),
            paused: round.paused,
        };
        Self {
            seed,
            handed_over: resumed.is_some(),
            rounds: ran.totals.rounds,
            total_s: seconds(resumed.unwrap_or(ran.ended_at)),
            live_s: seconds(ran.paused_at.filter(|_| resumed.is_some()).unwrap_or(ran.ended_at)),
            downtime_s: ran.downtime.filter(|_| resumed.is_some()).map(|d| d.as_secs_f64()),
            wire_bytes: ran.totals.wire_bytes,
            reason: ran.decisions.last().map_or("", |d| d.verdict.reason()).to_owned(),
            history: ran.rounds.iter().map(round).collect(),
        }
    }
}
