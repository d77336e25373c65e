// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From runs to rankings: plain data, written as JSON as it is.
//!
//! A recording counts as much as any other in its scope, however many runs it has and at however
//! many speeds it is replayed. Train and test traces never meet in one number.
#![expect(clippy::exhaustive_structs, reason = "rows of data; the schema's version tells")]

mod paired;

use serde::{Deserialize, Serialize};

use super::input::Input;
use super::plan::{Entry, LinkSpec, Plan, Split, Tuning, Weights};
use super::play::Played;
use super::record::{Costs, Ending, RunRecord};
use crate::stats::{Interval, Sorted, bootstrap};
pub use paired::complete;
use paired::{Recordings, comparisons};

/// Version of the layout of `summary.json`.
pub const SCHEMA_VERSION: u32 = 1;
/// Bootstrap samples of an interval.
pub const RESAMPLES: usize = 2000;
/// Seed of the bootstrap.
const SEED: u64 = 20;

/// Everything that a report shows, but the runs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Summary {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Heading.
    pub title: String,
    /// Remarks of the plan.
    pub notes: String,
    /// Version of the program.
    pub version: String,
    /// Runs that there were to be.
    pub planned: usize,
    /// Runs that there are.
    pub finished: usize,
    /// Runs that the figures are made of: see [`complete`].
    pub counted: usize,
    /// Downtime that counts as a hit.
    pub budget_ms: f64,
    /// Longest migration.
    pub t_max_s: f64,
    /// Fixed cost of a switchover.
    pub d0_ms: f64,
    /// Start offsets of each trace, evenly.
    pub offsets: u32,
    /// Whether the worst phase is one more.
    pub worst_phase: bool,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Weights; the first ranks.
    pub weights: Vec<Weights>,
    /// Links.
    pub links: Vec<LinkSpec>,
    /// Name of the strategy that others are compared with.
    pub reference: String,
    /// Traces.
    pub traces: Vec<TraceFacts>,
    /// Strategies, in the order of the plan.
    pub strategies: Vec<StrategyFacts>,
    /// Rankings: for each split all of it, then by link, then by family.
    pub scopes: Vec<Scope>,
    /// For each trace and link.
    pub tables: Vec<TraceTable>,
}

/// What there is to know of a trace.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TraceFacts {
    /// Name.
    pub name: String,
    /// Kind of guest.
    pub family: String,
    /// Train or test.
    pub split: Split,
    /// How much faster than recorded.
    pub speed: f64,
    /// The first trace of the same recording: they depend on one another and count as one.
    pub recording: String,
    /// Length at that speed.
    pub length_s: f64,
    /// Pages of the guest.
    pub pages: u64,
    /// Pages that hold something.
    pub populated_pages: u64,
    /// Pages reported as written, per second.
    pub reports_per_s: f64,
}

/// What there is to know of a strategy.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StrategyFacts {
    /// Name.
    pub name: String,
    /// Its parts and parameters.
    pub definition: String,
    /// What it shares with those that only stop at another time.
    pub mechanism: String,
    /// How its parameters came about.
    pub tuning: Tuning,
    /// What it may look at.
    pub information: String,
}

/// What a ranking is about.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Scope {
    /// Train or test.
    pub split: Split,
    /// Only this link.
    pub link: Option<String>,
    /// Only this kind of guest.
    pub family: Option<String>,
    /// Traces in it.
    pub traces: usize,
    /// Recordings that they are of: a trace at another speed is none of its own.
    pub recordings: usize,
    /// Strategies, best first.
    pub rows: Vec<Row>,
    /// Each against the reference, in the order of the rows.
    pub comparisons: Vec<Comparison>,
}

/// One trace over one link.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TraceTable {
    /// The trace.
    pub trace: String,
    /// The link.
    pub link: String,
    /// Strategies, best first.
    pub rows: Vec<Row>,
}

/// How downtimes are spread.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Spread {
    /// Half are below.
    pub median: f64,
    /// 95 % are below.
    pub p95: f64,
    /// Mean of the worst 5 %.
    pub cvar95: f64,
    /// The worst.
    pub max: f64,
}

/// A strategy in a scope.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub strategy: String,
    /// Its runs.
    pub runs: usize,
    /// Runs that it stopped itself.
    pub stopped: usize,
    /// Runs that the time ended.
    pub forced: usize,
    /// Runs that it gave up.
    pub gave_up: usize,
    /// Runs that broke.
    pub failed: usize,
    /// Downtime in ms, of the runs that handed over.
    pub downtime_ms: Option<Spread>,
    /// Median time from start to resume, s, of the same.
    pub total_s: Option<f64>,
    /// Median of all bytes sent, GiB, of the same.
    pub gib: Option<f64>,
    /// Mean guest work lost, ms, of all runs.
    pub guest_loss_ms: f64,
    /// Share of runs within budget and time.
    pub hit_share: f64,
    /// Share of runs stopped by the strategy within the time.
    pub success_share: f64,
    /// J under the first weights: mean over recordings, 95 % interval over recordings.
    pub cost_ms: Option<Interval>,
    /// Mean J under each set of weights.
    pub costs_ms: Vec<Option<f64>>,
    /// J less J of O2 under the first weights, ms.
    pub regret_ms: Option<Spread>,
    /// J over J of O2.
    pub ratio_o2: Option<Spread>,
    /// J over J of O1.
    pub ratio_o1: Option<Spread>,
    /// Geometric mean of J over J of O2: what another moment to stop would gain.
    pub stop_loss: Option<f64>,
    /// Geometric mean of J of O2 over J of O1: what another mechanism could gain.
    pub mechanism_gap: Option<f64>,
    /// Mean hypervolume over that of O1: downtime against time, bytes, guest loss.
    pub volumes: [Option<f64>; 3],
}

/// A strategy against the reference, over the same starts in the same traces.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Comparison {
    /// Its name.
    pub strategy: String,
    /// Pairs of runs.
    pub pairs: usize,
    /// Traces that they are of.
    pub traces: usize,
    /// Recordings that these are of.
    pub recordings: usize,
    /// J less J of the reference, ms: mean over recordings; below zero is better.
    pub cost_ms: Interval,
    /// Two-sided, by flipping signs of whole recordings.
    pub p_value: f64,
    /// After Holm's correction for all strategies of the scope.
    pub p_holm: f64,
    /// Downtime over that of the reference: geometric mean over pairs where both handed over.
    pub downtime_ratio: Option<Interval>,
    /// Effect size: share of pairs with less J, minus share with more; 1 is always better.
    pub dominance: f64,
}

/// Sums a tournament up.
#[must_use]
pub fn summarize(plan: &Plan, inputs: &[Input], played: &Played) -> Summary {
    let runs = complete(plan.strategies.len(), &played.runs);
    let recordings = Recordings::new(inputs);
    Summary {
        schema_version: SCHEMA_VERSION,
        title: plan.title.clone(),
        notes: plan.notes.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        planned: played.planned,
        finished: played.runs.len(),
        counted: runs.len(),
        budget_ms: plan.budget_ms,
        t_max_s: plan.t_max_s,
        d0_ms: plan.d0_ms,
        offsets: plan.offsets,
        worst_phase: plan.worst_phase,
        seeds: plan.seeds.clone(),
        weights: plan.weights.clone(),
        links: plan.links.clone(),
        reference: plan.strategies[plan.reference].name.clone(),
        traces: inputs.iter().map(|input| trace_facts(input, &recordings)).collect(),
        strategies: plan.strategies.iter().map(strategy_facts).collect(),
        scopes: scopes(plan, inputs, &recordings, &runs),
        tables: tables(plan, inputs, &recordings, &runs),
    }
}

fn trace_facts(input: &Input, recordings: &Recordings<'_>) -> TraceFacts {
    TraceFacts {
        name: input.name.clone(),
        family: input.family.clone(),
        split: input.split,
        speed: input.speed,
        recording: recordings.of(&input.name).to_owned(),
        length_s: input.length().as_secs_f64(),
        pages: input.populated.len(),
        populated_pages: input.populated.count(),
        reports_per_s: input.reports_per_s(),
    }
}

fn strategy_facts(entry: &Entry) -> StrategyFacts {
    let strategy = entry.strategy.build();
    let mut information = vec!["round totals"];
    if strategy.order.picks() || strategy.order.clears_at_send() {
        information.push("per-page bitmaps");
    }
    if entry.preflight_s > 0.0 {
        information.push("pre-migration history");
        // A pre-flight is told the link's rate: nothing was sent yet that could be measured.
        information.push("link rate");
    }
    StrategyFacts {
        name: entry.name.clone(),
        definition: entry.strategy.to_string(),
        mechanism: entry.mechanism(),
        tuning: entry.tuning,
        information: information.join(", "),
    }
}

fn scopes(
    plan: &Plan,
    inputs: &[Input],
    recordings: &Recordings<'_>,
    runs: &[&RunRecord],
) -> Vec<Scope> {
    let scope = |runs: &[&RunRecord], split, link, family| {
        let traces = recordings.count(runs.iter().map(|run| run.trace.as_str()));
        let rows = rank(plan, recordings, runs);
        let comparisons = comparisons(plan, recordings, runs, &rows);
        let (traces, recordings) = traces;
        Scope { split, link, family, traces, recordings, rows, comparisons }
    };
    let mut scopes = Vec::new();
    for split in Split::ALL {
        let of_split: Vec<&RunRecord> = runs.iter().copied().filter(|r| r.split == split).collect();
        if of_split.is_empty() {
            continue;
        }
        scopes.push(scope(&of_split, split, None, None));
        for link in plan.links.iter().filter(|_| plan.links.len() > 1) {
            let runs: Vec<_> = of_split.iter().copied().filter(|r| r.link == link.name).collect();
            scopes.push(scope(&runs, split, Some(link.name.clone()), None));
        }
        let mut families: Vec<&str> =
            inputs.iter().filter(|i| i.split == split).map(|i| i.family.as_str()).collect();
        families.sort_unstable();
        families.dedup();
        for family in families.iter().filter(|_| families.len() > 1) {
            let runs: Vec<_> = of_split.iter().copied().filter(|r| r.family == *family).collect();
            scopes.push(scope(&runs, split, None, Some((*family).to_owned())));
        }
    }
    scopes
}

fn tables(
    plan: &Plan,
    inputs: &[Input],
    recordings: &Recordings<'_>,
    runs: &[&RunRecord],
) -> Vec<TraceTable> {
    let mut tables = Vec::new();
    for input in inputs {
        for link in &plan.links {
            let here = |run: &&RunRecord| run.trace == input.name && run.link == link.name;
            let runs: Vec<_> = runs.iter().copied().filter(here).collect();
            let rows = rank(plan, recordings, &runs);
            let (trace, link) = (input.name.clone(), link.name.clone());
            tables.push(TraceTable { trace, link, rows });
        }
    }
    tables
}

/// All strategies that have runs, by mean J, then by name; those with failed runs last, because
/// their figures lack cases that the others' have.
fn rank(plan: &Plan, recordings: &Recordings<'_>, runs: &[&RunRecord]) -> Vec<Row> {
    let of = |entry: &Entry| -> Vec<&RunRecord> {
        runs.iter().copied().filter(|run| run.strategy == entry.name).collect()
    };
    let mut rows: Vec<Row> = plan
        .strategies
        .iter()
        .map(|entry| (entry, of(entry)))
        .filter(|(_, runs)| !runs.is_empty())
        .map(|(entry, runs)| row(plan, recordings, &entry.name, &runs))
        .collect();
    rows.sort_by(|a, b| {
        let cost = |row: &Row| row.cost_ms.map_or(f64::INFINITY, |cost| cost.mean);
        let failed = (a.failed > 0).cmp(&(b.failed > 0));
        failed.then(cost(a).total_cmp(&cost(b))).then_with(|| a.strategy.cmp(&b.strategy))
    });
    rows
}

fn row(plan: &Plan, recordings: &Recordings<'_>, strategy: &str, runs: &[&RunRecord]) -> Row {
    let count = |ending| runs.iter().filter(|run| run.ending == ending).count();
    let share = |of: &dyn Fn(&RunRecord) -> bool| {
        runs.iter().filter(|run| of(run)).count() as f64 / runs.len().max(1) as f64
    };
    let over: Vec<&RunRecord> =
        runs.iter().copied().filter(|run| run.downtime_ms.is_some()).collect();
    let median = |get: &dyn Fn(&RunRecord) -> f64| {
        Sorted::new(over.iter().map(|run| get(run)).collect()).ok().map(|v| v.quantile(0.5))
    };
    let first = |get: fn(&Costs) -> Option<f64>| -> Vec<f64> {
        runs.iter().filter_map(|run| run.costs.first().and_then(get)).collect()
    };
    let cost = |at: usize| {
        recordings.means(
            runs.iter().filter_map(|run| Some((run.trace.as_str(), run.costs.get(at)?.run_ms?))),
        )
    };
    let volume = |get: fn(&RunRecord) -> Option<f64>| mean(runs.iter().filter_map(|run| get(run)));
    Row {
        strategy: strategy.to_owned(),
        runs: runs.len(),
        stopped: count(Ending::Stopped),
        forced: count(Ending::Forced),
        gave_up: count(Ending::GaveUp),
        failed: count(Ending::Failed),
        downtime_ms: spread(over.iter().filter_map(|run| run.downtime_ms).collect()),
        total_s: median(&|run| run.total_ms / 1e3),
        gib: median(&|run| run.wire_bytes() as f64 / (1u64 << 30) as f64),
        guest_loss_ms: mean(runs.iter().map(|run| run.guest_loss_ms)).unwrap_or(0.0),
        hit_share: share(&|run| run.hit(plan.budget_ms)),
        success_share: share(&RunRecord::succeeded),
        cost_ms: bootstrap(&cost(0), RESAMPLES, SEED).ok(),
        costs_ms: (0..plan.weights.len()).map(|at| mean(cost(at).into_iter())).collect(),
        regret_ms: spread(first(Costs::regret_ms)),
        ratio_o2: spread(first(Costs::stop_loss)),
        ratio_o1: spread(first(Costs::ratio_o1)),
        stop_loss: geometric(first(Costs::stop_loss)),
        mechanism_gap: geometric(first(Costs::mechanism_gap)),
        volumes: [
            volume(|r| r.volume_time),
            volume(|r| r.volume_bytes),
            volume(|r| r.volume_guest),
        ],
    }
}

fn spread(values: Vec<f64>) -> Option<Spread> {
    let sorted = Sorted::new(values).ok()?;
    let (median, p95) = (sorted.quantile(0.5), sorted.quantile(0.95));
    Some(Spread { median, p95, cvar95: sorted.mean_of_worst(0.05), max: sorted.max() })
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

fn geometric(values: Vec<f64>) -> Option<f64> {
    mean(values.into_iter().filter(|value| *value > 0.0).map(f64::ln)).map(f64::exp)
}
