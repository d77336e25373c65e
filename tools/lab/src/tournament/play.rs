// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All runs of a tournament, over all processors, with those of an earlier attempt kept.

use super::input::Input;
use super::job::{self, Group};
use super::journal::{Journal, JournalError};
use super::plan::Plan;
use super::record::RunRecord;
use super::score::{Bounds, Run, record};
use crate::paper::pool::{Watch, each_on};

/// A run that could not be simulated at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlayError {
    /// The simulator refused.
    #[error("{strategy} on {trace} from {offset_ms:.0} ms on over {link} could not be simulated")]
    Run {
        /// The strategy, or the mechanism of several.
        strategy: String,
        /// The trace.
        trace: String,
        /// The offset.
        offset_ms: f64,
        /// The link.
        link: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A finished run could not be written down.
    #[error("A finished run could not be kept")]
    Journal(
        /// Why.
        #[from]
        JournalError,
    ),
}

/// Why a runner refuses.
pub type Refusal = Box<dyn std::error::Error + Send + Sync>;

/// What simulates runs.
pub trait Runner: Sync {
    /// What the oracles say of a group's case and mechanism.
    ///
    /// # Errors
    /// If the case cannot be simulated.
    fn bounds(&self, group: &Group) -> Result<Bounds, Refusal>;

    /// One run: the strategy of this index in the group's case.
    ///
    /// # Errors
    /// If the case cannot be simulated. A migration that fails is no error but a result.
    fn run(&self, group: &Group, strategy: usize) -> Result<Run, Refusal>;
}

/// What came of it.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Played {
    /// Every finished run, in the order of the plan.
    pub runs: Vec<RunRecord>,
    /// How many there were to be.
    pub planned: usize,
    /// How many of them an earlier attempt had finished.
    pub kept: usize,
}

/// Plays a tournament on so many threads. Until the watch cancels it; then what there is.
///
/// # Errors
/// [`PlayError`]: the first, by the order of the plan.
pub fn play(
    plan: &Plan,
    inputs: &[Input],
    runner: &dyn Runner,
    journal: Option<&Journal>,
    threads: usize,
    watch: &dyn Watch,
) -> Result<Played, PlayError> {
    let groups = job::groups(plan, inputs);
    let kept = |group: &Group, strategy: usize| {
        let key = job::key(plan, inputs, &group.case, strategy);
        journal.and_then(|journal| journal.get(key))
    };
    let finished = groups.iter().flat_map(|group| {
        group.strategies.iter().filter(|strategy| kept(group, **strategy).is_some())
    });
    let finished = finished.count();
    let results = each_on(threads, "groups of runs", &groups, watch, |group| {
        let old: Vec<_> = group.strategies.iter().map(|&s| kept(group, s).cloned()).collect();
        if let Some(all) = old.iter().cloned().collect::<Option<Vec<RunRecord>>>() {
            return Ok(all);
        }
        let runs = play_group(plan, inputs, runner, group, old)?;
        if let Some(journal) = journal {
            let key = |strategy: &usize| job::key(plan, inputs, &group.case, *strategy);
            journal.append(group.strategies.iter().map(key).zip(&runs))?;
        }
        Ok::<_, PlayError>(runs)
    })?;
    let runs: Vec<RunRecord> = results.into_iter().flatten().flatten().collect();
    Ok(Played { runs, planned: job::count(&groups), kept: finished })
}

/// The runs of a group that are not there yet, and those that are.
fn play_group(
    plan: &Plan,
    inputs: &[Input],
    runner: &dyn Runner,
    group: &Group,
    old: Vec<Option<RunRecord>>,
) -> Result<Vec<RunRecord>, PlayError> {
    let refused = |strategy: &str| {
        let (case, strategy) = (&group.case, strategy.to_owned());
        let trace = inputs[case.trace].name.clone();
        let (link, offset_ms) =
            (plan.links[case.link].name.clone(), case.offset.as_secs_f64() * 1e3);
        move |source| PlayError::Run { strategy, trace, offset_ms, link, source }
    };
    let bounds = runner.bounds(group).map_err(refused(&group.mechanism))?;
    let one = |(&strategy, old): (&usize, Option<RunRecord>)| {
        if let Some(old) = old {
            return Ok(old);
        }
        let name = &plan.strategies[strategy].name;
        let run = runner.run(group, strategy).map_err(refused(name))?;
        Ok(record(plan, inputs, group, strategy, run, &bounds))
    };
    group.strategies.iter().zip(old).map(one).collect()
}
