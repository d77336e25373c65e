// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Strategies against the reference, pair by pair, with the recording as the unit: what is
//! replayed twice, at two speeds, is not two independent guests.

use std::collections::{BTreeMap, BTreeSet};

use super::{Comparison, RESAMPLES, Row, SEED, mean};
use crate::stats::{Interval, bootstrap, holm, sign_flip};
use crate::tournament::input::Input;
use crate::tournament::plan::Plan;
use crate::tournament::record::RunRecord;

/// Which traces are of one recording.
pub(super) struct Recordings<'i> {
    /// For each trace the place and name of the first that is of the same recording.
    firsts: BTreeMap<&'i str, (usize, &'i str)>,
}

impl<'i> Recordings<'i> {
    pub(super) fn new(inputs: &'i [Input]) -> Self {
        let first = |input: &Input| inputs.iter().position(|i| i.fingerprint == input.fingerprint);
        let firsts = inputs.iter().filter_map(|input| {
            let at = first(input)?;
            Some((input.name.as_str(), (at, inputs[at].name.as_str())))
        });
        Self { firsts: firsts.collect() }
    }

    fn first<'s>(&'s self, trace: &'s str) -> (usize, &'s str) {
        // Every run is of a trace of the plan; any other would stand for itself.
        self.firsts.get(trace).copied().unwrap_or((usize::MAX, trace))
    }

    /// The first trace of the same recording.
    pub(super) fn of<'s>(&'s self, trace: &'s str) -> &'s str {
        self.first(trace).1
    }

    /// How many different traces these are, and of how many recordings.
    pub(super) fn count<'s>(&'s self, traces: impl Iterator<Item = &'s str>) -> (usize, usize) {
        let traces: BTreeSet<&str> = traces.collect();
        let recordings: BTreeSet<_> = traces.iter().map(|trace| self.first(trace)).collect();
        (traces.len(), recordings.len())
    }

    /// The mean of each recording: of the means of its traces' values. In the order of the plan.
    pub(super) fn means<'s>(&'s self, values: impl Iterator<Item = (&'s str, f64)>) -> Vec<f64> {
        let mut traces: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (trace, value) in values {
            traces.entry(trace).or_default().push(value);
        }
        let mut recordings: BTreeMap<(usize, &str), Vec<f64>> = BTreeMap::new();
        for (trace, values) in traces {
            recordings.entry(self.first(trace)).or_default().extend(mean(values.into_iter()));
        }
        recordings.into_values().filter_map(|values| mean(values.into_iter())).collect()
    }
}

/// What two runs must have in common to be a pair.
type PairKey<'r> = (&'r str, &'r str, u64, u64, bool);

fn pair_key(run: &RunRecord) -> PairKey<'_> {
    (&run.trace, &run.link, run.offset_ms.to_bits(), run.seed, run.worst_phase)
}

/// The runs of those starts at which each of so many strategies has run: of other starts some
/// strategies lack the easy cases, some the hard ones, and a ranking would compare the two.
#[must_use]
pub fn complete(strategies: usize, runs: &[RunRecord]) -> Vec<&RunRecord> {
    let mut counts: BTreeMap<PairKey<'_>, usize> = BTreeMap::new();
    for run in runs {
        *counts.entry(pair_key(run)).or_default() += 1;
    }
    runs.iter().filter(|run| counts.get(&pair_key(run)) == Some(&strategies)).collect()
}

pub(super) fn comparisons(
    plan: &Plan,
    recordings: &Recordings<'_>,
    runs: &[&RunRecord],
    rows: &[Row],
) -> Vec<Comparison> {
    let reference = plan.strategies[plan.reference].name.as_str();
    let of = |name: &str| -> BTreeMap<PairKey<'_>, &RunRecord> {
        runs.iter().filter(|r| r.strategy == name).map(|r| (pair_key(r), *r)).collect()
    };
    let base = of(reference);
    let others = rows.iter().filter(|row| row.strategy != reference);
    let compare = |row: &Row| compare(recordings, &row.strategy, &of(&row.strategy), &base);
    let mut all: Vec<Comparison> = others.filter_map(compare).collect();
    let corrected = holm(&all.iter().map(|c| c.p_value).collect::<Vec<_>>());
    for (comparison, p_holm) in all.iter_mut().zip(corrected) {
        comparison.p_holm = p_holm;
    }
    all
}

fn compare(
    recordings: &Recordings<'_>,
    strategy: &str,
    runs: &BTreeMap<PairKey<'_>, &RunRecord>,
    base: &BTreeMap<PairKey<'_>, &RunRecord>,
) -> Option<Comparison> {
    let pairs: Vec<(&RunRecord, &RunRecord)> =
        runs.iter().filter_map(|(key, run)| Some((*run, *base.get(key)?))).collect();
    let cost = |run: &RunRecord| run.costs.first().and_then(|costs| costs.run_ms);
    let differences: Vec<(&str, f64)> = pairs
        .iter()
        .filter_map(|(run, base)| Some((run.trace.as_str(), cost(run)? - cost(base)?)))
        .collect();
    let ratios = pairs.iter().filter_map(|(run, base)| {
        let (own, theirs) = (run.downtime_ms?, base.downtime_ms?);
        (own > 0.0 && theirs > 0.0).then(|| (run.trace.as_str(), (own / theirs).ln()))
    });
    let ratio = bootstrap(&recordings.means(ratios), RESAMPLES, SEED).ok().map(|log| Interval {
        mean: log.mean.exp(),
        low: log.low.exp(),
        high: log.high.exp(),
    });
    let clusters = recordings.means(differences.iter().copied());
    let (traces, recorded) = recordings.count(differences.iter().map(|(trace, _)| *trace));
    // Costs that differ by less than this are as good as equal.
    let sign = |value: f64| if value.abs() < 1e-6 { 0.0 } else { -value.signum() };
    let signs = recordings.means(differences.iter().map(|(t, v)| (*t, sign(*v))));
    let p_value = sign_flip(&clusters, SEED).ok()?;
    Some(Comparison {
        strategy: strategy.to_owned(),
        pairs: differences.len(),
        traces,
        recordings: recorded,
        cost_ms: bootstrap(&clusters, RESAMPLES, SEED).ok()?,
        p_value,
        p_holm: p_value,
        downtime_ratio: ratio,
        dominance: mean(signs.into_iter())?,
    })
}
