// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A run beside the oracles: from what happened to the record that is published.

use std::time::Duration;

use precopy::sim::oracle::{Axis, CostCurve, CostPoint};

use super::input::Input;
use super::job::Group;
use super::plan::Plan;
use super::record::{Costs, Ending, RunRecord};

/// What the oracles say of a case and a mechanism: every stop up to the longest time.
#[derive(Clone, PartialEq, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "plain data that a runner fills")]
pub struct Bounds {
    /// O1.
    pub o1: CostCurve,
    /// The mechanism's own stops, for O2.
    pub mechanism: CostCurve,
    /// Why the mechanism's own run does not count, if it failed: then no run of it counts.
    pub broken: Option<String>,
}

/// How a run went, as the simulator tells.
#[derive(Clone, PartialEq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain data that a runner fills")]
pub struct Run {
    /// How it ended.
    pub ending: Ending,
    /// Why.
    pub reason: String,
    /// Pause to resume, ms.
    pub downtime_ms: Option<f64>,
    /// Start to resume or to the end of the attempt, ms.
    pub total_ms: f64,
    /// First copy, resent, and while paused: bytes.
    pub bytes: [u64; 3],
    /// Rounds, the paused one included.
    pub rounds: u32,
    /// Times that the strategy was asked.
    pub decisions: u64,
    /// Guest work lost, ms.
    pub guest_loss_ms: f64,
    /// Hash over its events.
    pub log_hash: u64,
}

/// The record of a run.
#[must_use]
pub fn record(
    plan: &Plan,
    inputs: &[Input],
    group: &Group,
    strategy: usize,
    mut run: Run,
    bounds: &Bounds,
) -> RunRecord {
    if let Some(why) = &bounds.broken {
        (run.ending, run.reason) = (Ending::Failed, why.clone());
    }
    let failed = run.ending == Ending::Failed;
    if failed {
        // Something broke: none of its figures can be trusted.
        run.downtime_ms = None;
    }
    let (case, input) = (&group.case, &inputs[group.case.trace]);
    let link = &plan.links[case.link];
    let longest = Duration::from_secs_f64(plan.t_max_s);
    let shortest = |curve: &CostCurve| {
        let all = curve.points().iter();
        all.min_by(|a, b| a.downtime.cmp(&b.downtime)).copied()
    };
    let (o1, o2) = (shortest(&bounds.o1), shortest(&bounds.mechanism));
    let forced = bounds.mechanism.points().iter().rfind(|point| point.at <= longest).copied();
    let end = end(&run);
    // Who gives up has not migrated: that costs what it would have to be done by force.
    let counted = end.or_else(|| forced.filter(|_| !failed));
    let costs = plan.weights.iter().map(|weights| {
        let weights = weights.oracle();
        let best = |curve: &CostCurve| Some(curve.best(&weights).ok()?.cost_ms(&weights));
        Costs {
            run_ms: counted.map(|point| point.cost_ms(&weights)),
            o1_ms: best(&bounds.o1),
            o2_ms: best(&bounds.mechanism),
        }
    });
    let bytes_max = link.bandwidth_bytes_per_s * plan.t_max_s;
    let volume = |axis: Axis, max: f64| {
        let downtime_max = bounds.o1.points().first()?.downtime.as_secs_f64();
        let whole = bounds.o1.hypervolume(axis, max, downtime_max);
        let own = CostCurve::new(end.into_iter().collect());
        (whole > 0.0 && !failed).then(|| own.hypervolume(axis, max, downtime_max) / whole)
    };
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    RunRecord {
        trace: input.name.clone(),
        family: input.family.clone(),
        split: input.split,
        link: link.name.clone(),
        strategy: plan.strategies[strategy].name.clone(),
        mechanism: group.mechanism.clone(),
        offset_ms: case.offset.as_secs_f64() * 1e3,
        worst_phase: case.worst_phase,
        seed: case.seed,
        ending: run.ending,
        reason: run.reason,
        downtime_ms: run.downtime_ms,
        total_ms: run.total_ms,
        bulk_bytes: run.bytes[0],
        resend_bytes: run.bytes[1],
        final_bytes: run.bytes[2],
        rounds: run.rounds,
        decisions: run.decisions,
        guest_loss_ms: run.guest_loss_ms,
        o1_downtime_ms: o1.map(|point| ms(point.downtime)),
        o1_at_ms: o1.map(|point| ms(point.at)),
        o2_downtime_ms: o2.map(|point| ms(point.downtime)),
        o2_at_ms: o2.map(|point| ms(point.at)),
        forced_downtime_ms: forced.map(|point| ms(point.downtime)),
        volume_time: volume(Axis::TotalTime, plan.t_max_s),
        volume_bytes: volume(Axis::Bytes, bytes_max),
        volume_guest: volume(Axis::GuestLoss, plan.t_max_s),
        costs: costs.collect(),
        log_hash: run.log_hash,
    }
}

/// The stop at which a run ended; none if it did not hand over.
fn end(run: &Run) -> Option<CostPoint> {
    let time = |ms: f64| Duration::try_from_secs_f64(ms / 1e3).unwrap_or(Duration::ZERO);
    let downtime_ms = run.downtime_ms?;
    Some(CostPoint {
        at: time(run.total_ms - downtime_ms),
        residual_pages: 0.0,
        residual_bytes: 0.0,
        sent_bytes: run.bytes.iter().sum::<u64>() as f64,
        guest_loss_s: run.guest_loss_ms / 1e3,
        downtime: time(downtime_ms),
    })
}
