// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the runs of one case, in virtual time or live, to its row or curve in a report.

use webvm::site::Action;
use webvm::sla::{Percentile, Quantile, SlaReport, Verdict};

use super::figures::{self, Moved, Seen};
use crate::report::Spread;
use crate::report::data::{
    ActionPercentiles, Capacity, CapacityStep, Fig3Run, MigrationFigures, PolicyResult, Table2Cell,
};

/// How a step of the capacity search is judged.
const CAPACITY_RULE: &str = "in more than half of the runs, every action keeps its limit in \
    every 5-minute window, at the 90th and the 99th percentile";
/// Steps that fail before the search ends.
const FAILED_STEPS: usize = 2;

/// A capacity search without any step.
#[must_use]
pub fn capacity_search() -> Capacity {
    Capacity { steps: Vec::new(), found_users: None, rule: CAPACITY_RULE.to_owned() }
}

/// Adds a step, which must be for more users than the last one, and says whether the search has
/// ended: two steps have failed.
pub fn search_on(found: &mut Capacity, step: CapacityStep) -> bool {
    if step.pass && found.steps.iter().all(|step| step.pass) {
        found.found_users = Some(step.users);
    }
    found.steps.push(step);
    found.steps.iter().filter(|step| !step.pass).count() >= FAILED_STEPS
}

/// One step of the capacity search: the runs with so many users, and how they are judged.
#[must_use]
pub fn capacity_step(users: u32, seen: &[Seen<'_>]) -> CapacityStep {
    let of = |action, percentile| seen.iter().map(|r| r.worst_s(action, percentile)).collect();
    let actions: Vec<_> = Action::ALL
        .into_iter()
        .map(|action| ActionPercentiles {
            action,
            p90_s: of(action, Percentile::P90),
            p99_s: of(action, Percentile::P99),
        })
        .collect();
    let kept = seen.iter().filter(|s| kept(s).into_iter().all(|kept| kept)).count();
    let over = |median: Option<f64>, action: Action| {
        median.is_some_and(|value| value > action.limit().as_secs_f64())
    };
    let failed: Vec<String> = actions
        .iter()
        .flat_map(|a| {
            let p90 = over(a.p90_s.median(), a.action).then(|| format!("{} p90", a.action.name()));
            let p99 = over(a.p99_s.median(), a.action).then(|| format!("{} p99", a.action.name()));
            [p90, p99]
        })
        .flatten()
        .collect();
    CapacityStep {
        users,
        throughput: seen.iter().map(Seen::throughput).collect(),
        pass: kept * 2 > seen.len(),
        reason: if failed.is_empty() {
            format!("{kept} of {} runs keep all limits", seen.len())
        } else {
            format!("over the limit: {}", failed.join(", "))
        },
        actions,
    }
}

/// One run as Fig. 3 draws it.
#[must_use]
pub fn fig3_run(seen: &Seen<'_>, moved: &[Moved<'_>], seed: u64) -> Fig3Run {
    let ends = |m: &Moved<'_>| [seen.steady_s(m.began), seen.steady_s(m.resumed)];
    Fig3Run {
        seed,
        migrations: moved.iter().map(ends).collect(),
        p90: figures::home_curve(seen, Percentile::P90),
        p99: figures::home_curve(seen, Percentile::P99),
    }
}

/// A column of Table 2: the cell of every action for so many users, from the service levels of
/// each seed.
#[must_use]
pub fn table2_column(users: u32, reports: &[&SlaReport]) -> Vec<Table2Cell> {
    let cell = |action: Action| {
        let of_action = reports.iter().map(|report| report.action(action));
        let levels: Vec<_> = of_action.map(|a| (a.level(Percentile::P99), a.curve.len())).collect();
        let worst = levels.iter().filter_map(|(level, _)| level.worst);
        let undetermined =
            levels.iter().filter(|(level, windows)| level.undetermined == *windows).count();
        Table2Cell {
            action,
            users,
            p99_s: worst.map(Quantile::as_secs_f64).collect(),
            undetermined: u32::try_from(undetermined).unwrap_or(u32::MAX),
        }
    };
    Action::ALL.into_iter().map(cell).collect()
}

/// A migration's figures and the largest percentiles of HomePage, and whether all actions kept
/// their limits.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The figures.
    pub cost: MigrationFigures,
    /// Largest 90th percentile, s; not a number without a window.
    pub p90_s: f64,
    /// Largest 99th percentile, s.
    pub p99_s: f64,
    /// Whether all actions kept their limits at each of the two.
    pub kept: [bool; 2],
}

impl Outcome {
    /// What a run with one migration came to.
    #[must_use]
    pub fn of(seen: &Seen<'_>, moved: Option<&Moved<'_>>, seed: u64) -> Self {
        Self {
            cost: moved.map(|m| figures::cost(seen, m, seed)).unwrap_or_default(),
            p90_s: seen.worst_s(Action::HomePage, Percentile::P90),
            p99_s: seen.worst_s(Action::HomePage, Percentile::P99),
            kept: kept(seen),
        }
    }
}

/// Whether no action is over its limit, at each of the two percentiles.
fn kept(seen: &Seen<'_>) -> [bool; 2] {
    Percentile::ALL.map(|p| seen.sla.is_some_and(|sla| sla.verdict(p) != Verdict::Violated))
}

/// One value of each outcome.
pub(super) fn spread(outcomes: &[Outcome], value: impl Fn(&Outcome) -> f64) -> Spread {
    outcomes.iter().map(value).collect()
}

/// What a policy made of several runs.
#[must_use]
pub fn policy_result(name: &str, done: &[Outcome]) -> PolicyResult {
    let kept = |p: Percentile| done.iter().filter(|o| o.kept[p.index()]).count();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    PolicyResult {
        name: name.to_owned(),
        rounds: spread(done, |o| f64::from(o.cost.rounds)),
        total_s: spread(done, |o| o.cost.total_s),
        sent_mb: spread(done, |o| o.cost.sent_mb),
        downtime_probe_s: spread(done, |o| o.cost.downtime_probe_s),
        downtime_gap_s: spread(done, |o| o.cost.downtime_gap_s),
        downtime_engine_s: spread(done, |o| o.cost.downtime_engine_s),
        runs: count(done.len()),
        p90_kept: count(kept(Percentile::P90)),
        p99_kept: count(kept(Percentile::P99)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use precopy::units::Tick;
    use webvm::sla::{self, Sample, Status};

    use super::*;

    /// A steady state of 300 s with 200 home pages that take so long each.
    fn report(response_ms: u64) -> (Vec<Sample>, SlaReport) {
        let at = |ms: u64| Tick::ZERO + Duration::from_millis(ms);
        let sample = |n: u64| Sample {
            user: 0,
            action: Action::HomePage,
            intended_start: at(1000 * n),
            start: at(1000 * n),
            end: at(1000 * n + response_ms),
            status: Status::Ok,
        };
        let samples: Vec<_> = (0..200).map(sample).collect();
        let steady = Tick::ZERO..at(300_000);
        let report = sla::evaluate(&samples, steady, &sla::Options::default()).unwrap();
        (samples, report)
    }

    fn step(users: u32, response_ms: u64) -> CapacityStep {
        let (samples, sla) = report(response_ms);
        let steady = sla.steady_start..sla.steady_end;
        let (probes, probe_period) = (Vec::new(), Duration::from_millis(10));
        let seen = Seen { steady, samples: &samples, probes, probe_period, sla: Some(&sla) };
        capacity_step(users, &[seen])
    }

    #[test]
    fn a_step_over_the_limit_fails_and_says_where() {
        let (good, bad) = (step(100, 900), step(200, 1100));
        assert!(good.pass && good.reason == "1 of 1 runs keep all limits", "{good:?}");
        assert!(!bad.pass && bad.reason.contains("HomePage p90, HomePage p99"), "{bad:?}");
        assert!((good.throughput.median().unwrap() - 200.0 / 300.0).abs() < 1e-9);
    }

    #[test]
    fn the_search_ends_after_two_failures_and_finds_the_last_load_before_the_first() {
        let mut found = capacity_search();
        let steps = [(100, 900), (200, 1100), (300, 900), (400, 1100)];
        let ended: Vec<bool> =
            steps.iter().map(|(users, ms)| search_on(&mut found, step(*users, *ms))).collect();
        assert_eq!(ended, [false, false, false, true]);
        assert_eq!(found.found_users, Some(100), "300 users passed by luck");
    }

    #[test]
    fn a_column_has_every_action_and_says_what_has_too_few_samples() {
        let (_, sla) = report(700);
        let column = table2_column(300, &[&sla, &sla]);
        assert_eq!(column.len(), 7);
        let home = column.iter().find(|cell| cell.action == Action::HomePage).unwrap();
        assert_eq!((home.p99_s.values(), home.undetermined), (&[0.7, 0.7][..], 0));
        let others = column.iter().filter(|cell| cell.action != Action::HomePage);
        assert!(others.clone().all(|cell| cell.undetermined == 2), "{column:?}");
    }
}
