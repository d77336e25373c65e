// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The runs of a tournament: every strategy on every trace, over every link, from every offset.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use precopy::sim::Rng;

use super::input::Input;
use super::plan::Plan;

/// Bytes of a page with its part of the frames around it, for estimates only.
const PAGE_WIRE_BYTES: f64 = 4120.0;

/// What strategies meet: a trace from an offset on, over a link.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Case {
    /// Index of the trace.
    pub trace: usize,
    /// Index of the link in the plan.
    pub link: usize,
    /// Seed of the offsets.
    pub seed: u64,
    /// Where in the trace the migration begins.
    pub offset: Duration,
    /// Whether it is the offset from which the first copy ends at the worst time.
    pub worst_phase: bool,
}

/// Strategies that send alike, in one case: one thread runs them all, because what the oracles
/// say holds for all of them.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Group {
    /// What they meet.
    pub case: Case,
    /// What they have in common.
    pub mechanism: String,
    /// Indices of the strategies in the plan, ascending.
    pub strategies: Vec<usize>,
}

/// All groups, in the order in which results are listed.
#[must_use]
pub fn groups(plan: &Plan, inputs: &[Input]) -> Vec<Group> {
    let mut mechanisms: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, strategy) in plan.strategies.iter().enumerate() {
        mechanisms.entry(strategy.mechanism()).or_default().push(index);
    }
    let mut groups = Vec::new();
    for (trace, input) in inputs.iter().enumerate() {
        for link in 0..plan.links.len() {
            for case in cases(plan, input, trace, link) {
                let one = |(mechanism, strategies): (&String, &Vec<usize>)| Group {
                    case: case.clone(),
                    mechanism: mechanism.clone(),
                    strategies: strategies.clone(),
                };
                groups.extend(mechanisms.iter().map(one));
            }
        }
    }
    groups
}

/// The offsets of a trace over a link: for each seed evenly over the trace, and the worst phase.
fn cases(plan: &Plan, input: &Input, trace: usize, link: usize) -> Vec<Case> {
    let length = input.length();
    let mut cases = Vec::new();
    for &seed in &plan.seeds {
        let shift = Rng::new(seed).unit();
        for at in 0..plan.offsets {
            let share = (f64::from(at) + shift) / f64::from(plan.offsets);
            let offset = length.mul_f64(share.min(1.0 - 1e-12));
            cases.push(Case { trace, link, seed, offset, worst_phase: false });
        }
    }
    if plan.worst_phase {
        let bytes = input.populated.count() as f64 * PAGE_WIRE_BYTES;
        let copy = bytes / plan.links[link].bandwidth_bytes_per_s;
        let end = input.busiest_second().as_secs_f64() - copy;
        let offset = end.rem_euclid(length.as_secs_f64().max(1e-9));
        let offset = Duration::try_from_secs_f64(offset).unwrap_or(Duration::ZERO);
        let seed = plan.seeds.first().copied().unwrap_or(0);
        cases.push(Case { trace, link, seed, offset, worst_phase: true });
    }
    cases
}

/// How many runs these are.
#[must_use]
pub fn count(groups: &[Group]) -> usize {
    groups.iter().map(|group| group.strategies.len()).sum()
}

/// Names a run by everything that decides how it goes, apart from the program itself: a run of
/// an earlier tournament with the same key need not be repeated.
#[must_use]
pub fn key(plan: &Plan, inputs: &[Input], case: &Case, strategy: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    let (input, link) = (&inputs[case.trace], &plan.links[case.link]);
    let strategy = &plan.strategies[strategy];
    // Names too: they stand in the record.
    (&input.name, &input.family, input.split, input.fingerprint).hash(&mut hasher);
    input.speed.to_bits().hash(&mut hasher);
    (&link.name, link.bandwidth_bytes_per_s.to_bits(), link.rtt_ms.to_bits()).hash(&mut hasher);
    if link.jitter_ms > 0.0 {
        link.jitter_ms.to_bits().hash(&mut hasher);
    }
    for change in &link.changes {
        (change.at_s.to_bits(), change.bandwidth_bytes_per_s.to_bits()).hash(&mut hasher);
    }
    (&strategy.name, strategy.definition()).hash(&mut hasher);
    (case.seed, case.offset, case.worst_phase).hash(&mut hasher);
    settings(plan).hash(&mut hasher);
    hasher.finish()
}

/// Everything of a plan that all its runs depend on.
fn settings(plan: &Plan) -> u64 {
    let mut hasher = DefaultHasher::new();
    [plan.budget_ms, plan.t_max_s, plan.d0_ms, plan.fault_us].map(f64::to_bits).hash(&mut hasher);
    for weights in &plan.weights {
        weights.name.hash(&mut hasher);
        [weights.time_ms_per_s, weights.bytes_ms_per_gib, weights.guest_loss_ms_per_s]
            .map(f64::to_bits)
            .hash(&mut hasher);
    }
    hasher.finish()
}
