// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A run beside the oracles: from what happened to the record that is published.

use super::input::Input;
use super::job::Group;
use super::plan::{Plan, Weights};
use super::record::{Costs, Ending, RunRecord};

/// What a stop costs.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain numbers")]
pub struct Stop {
    /// When the guest is paused, ms since the start.
    pub at_ms: f64,
    /// Pause to resume, ms.
    pub downtime_ms: f64,
    /// Start to resume, ms.
    pub total_ms: f64,
    /// All bytes sent by then.
    pub wire_bytes: f64,
    /// Guest work lost by then, ms.
    pub guest_loss_ms: f64,
}

impl Stop {
    /// J = D + `c_T` T + `c_X` X + `c_G` G in milliseconds (heuristics.md, section 5).
    #[must_use]
    pub fn cost_ms(&self, weights: &Weights) -> f64 {
        const GIB: f64 = (1u64 << 30) as f64;
        self.downtime_ms
            + weights.time_ms_per_s * self.total_ms / 1e3
            + weights.bytes_ms_per_gib * self.wire_bytes / GIB
            + weights.guest_loss_ms_per_s * self.guest_loss_ms / 1e3
    }
}

/// What the oracles say of a case and a mechanism: every stop up to the longest time, by time.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct Bounds {
    /// O1.
    pub o1: Vec<Stop>,
    /// The mechanism's own stops, for O2.
    pub mechanism: Vec<Stop>,
}

impl Bounds {
    /// These.
    #[must_use]
    pub fn new(o1: Vec<Stop>, mechanism: Vec<Stop>) -> Self {
        Self { o1, mechanism }
    }
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

fn least(stops: &[Stop], cost: impl Fn(&Stop) -> f64) -> Option<&Stop> {
    stops.iter().min_by(|a, b| cost(a).total_cmp(&cost(b)))
}

/// The record of a run.
#[must_use]
pub fn record(
    plan: &Plan,
    inputs: &[Input],
    group: &Group,
    strategy: usize,
    run: Run,
    bounds: &Bounds,
) -> RunRecord {
    let (case, input) = (&group.case, &inputs[group.case.trace]);
    let link = &plan.links[case.link];
    let shortest = |stops| least(stops, |stop: &Stop| stop.downtime_ms);
    let (o1, o2) = (shortest(&bounds.o1), shortest(&bounds.mechanism));
    let forced = bounds.mechanism.last();
    let end = run.downtime_ms.map(|downtime_ms| Stop {
        at_ms: run.total_ms - downtime_ms,
        downtime_ms,
        total_ms: run.total_ms,
        wire_bytes: run.bytes.iter().sum::<u64>() as f64,
        guest_loss_ms: run.guest_loss_ms,
    });
    // Who gives up has not migrated: that costs what it would have to be done by force.
    let counted = end.or_else(|| forced.copied());
    let costs = plan.weights.iter().map(|weights| {
        let best = |stops| least(stops, |s: &Stop| s.cost_ms(weights)).map(|s| s.cost_ms(weights));
        Costs {
            run_ms: counted.map(|stop| stop.cost_ms(weights)),
            o1_ms: best(&bounds.o1),
            o2_ms: best(&bounds.mechanism),
        }
    });
    let t_max_ms = plan.t_max_s * 1e3;
    let bytes_max = link.bandwidth_bytes_per_s * plan.t_max_s;
    let volume = |axis: fn(&Stop) -> f64, max: f64| {
        let downtime_max = bounds.o1.first()?.downtime_ms;
        let whole = dominated(&bounds.o1, axis, max, downtime_max);
        let own = dominated(end.as_slice(), axis, max, downtime_max);
        (whole > 0.0).then(|| own / whole)
    };
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
        o1_downtime_ms: o1.map(|stop| stop.downtime_ms),
        o1_at_ms: o1.map(|stop| stop.at_ms),
        o2_downtime_ms: o2.map(|stop| stop.downtime_ms),
        o2_at_ms: o2.map(|stop| stop.at_ms),
        forced_downtime_ms: forced.map(|stop| stop.downtime_ms),
        volume_time: volume(|stop| stop.total_ms, t_max_ms),
        volume_bytes: volume(|stop| stop.wire_bytes, bytes_max),
        volume_guest: volume(|stop| stop.guest_loss_ms, t_max_ms),
        costs: costs.collect(),
        log_hash: run.log_hash,
    }
}

/// The area below `max` and `downtime_max` that some stop beats in both: the hypervolume.
fn dominated(stops: &[Stop], axis: impl Fn(&Stop) -> f64, max: f64, downtime_max: f64) -> f64 {
    let mut points: Vec<(f64, f64)> =
        stops.iter().map(|s| (axis(s), s.downtime_ms)).filter(|(x, _)| *x < max).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let (mut area, mut lowest) = (0.0, downtime_max);
    for (x, downtime) in points {
        if downtime < lowest {
            area += (max - x) * (lowest - downtime);
            lowest = downtime;
        }
    }
    area
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(total_ms: f64, downtime_ms: f64) -> Stop {
        Stop { at_ms: 0.0, downtime_ms, total_ms, wire_bytes: 0.0, guest_loss_ms: 0.0 }
    }

    #[test]
    fn areas_by_hand() {
        let area = |stops: &[Stop]| dominated(stops, |s| s.total_ms, 10.0, 8.0);
        assert_eq!(area(&[stop(4.0, 2.0)]), 6.0 * 6.0);
        // The second is dominated, the third is past the end, the fourth adds a strip.
        let all = [stop(4.0, 2.0), stop(5.0, 3.0), stop(11.0, 0.0), stop(8.0, 1.0)];
        assert_eq!(area(&all), 36.0 + 2.0);
        assert_eq!(area(&[stop(1.0, 9.0)]), 0.0);
        assert_eq!(area(&[]), 0.0);
    }

    #[test]
    fn costs_add_up() {
        let stop = Stop {
            at_ms: 0.0,
            downtime_ms: 50.0,
            total_ms: 4000.0,
            wire_bytes: 3.0 * (1u64 << 30) as f64,
            guest_loss_ms: 500.0,
        };
        let weights = Weights {
            name: String::new(),
            time_ms_per_s: 3.0,
            bytes_ms_per_gib: 5.0,
            guest_loss_ms_per_s: 10.0,
        };
        assert!((stop.cost_ms(&weights) - (50.0 + 12.0 + 15.0 + 5.0)).abs() < 1e-9);
    }
}
