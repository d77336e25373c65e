// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! oVirt's convergence schedule (VDSM, lib/vdsm/virt/migration.py, `MonitorThread`; the schedules
//! are the engine's `MigrationPolicies`) over QEMU's budget test.
//!
//! The budget is 100 ms at first. VDSM looks every 10 s; when the number of iterations has grown
//! since its last look, it compares the iterations since its first look with the limit of the next
//! action, and does it (one action a look) if they are more: 150, 200, 300, 400 ms after more than
//! 1, 2, 3, 4 iterations, 500 ms after more than 6. The last actions have no limit: *minimal
//! downtime* gives up, *suspend workload if needed* allows 5 s and then gives up.
//!
//! The counter is called `stalling`, and documents speak of iterations without progress, but
//! the code counts every iteration; the least amount left is only logged. `count=stalls` is the
//! rule of the documents.
//!
//! # Differences
//! An iteration of QEMU is a synchronisation of its bitmap, here a round. The policies' throttle
//! (auto-converge) and compression are other plug-ins' affair; the post-copy policy is not here.

use std::time::Duration;

use super::parameters::{ParameterInfo, ParameterKind};
use super::{BudgetTest, Observation, PolicyInfo, StopPolicy, Verdict};
use crate::units::Tick;

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "ovirt",
    rule: "qemu with a budget of 100 ms that steps to 150, 200, 300, 400 and 500 ms as iterations \
           go by; then gives up",
    source: "oVirt, VDSM lib/vdsm/virt/migration.py, and the engine's MigrationPolicies",
    parameters: &[
        ParameterInfo::new(
            "schedule",
            ParameterKind::Choice(&["minimal-downtime", "suspend-workload"]),
            "minimal-downtime",
            "after the last step: give up, or allow 5 s and then give up",
        ),
        ParameterInfo::new(
            "poll_ms",
            ParameterKind::Integer { min: 1, max: 3_600_000 },
            "10000",
            "milliseconds between looks (migration_monitor_interval)",
        ),
        ParameterInfo::new(
            "count",
            ParameterKind::Choice(&["iterations", "stalls"]),
            "iterations",
            "what the steps wait for: iterations (VDSM's code), or looks without a new minimum of \
             what is left (its documents)",
        ),
        BudgetTest::SWITCHOVER_BANDWIDTH,
        BudgetTest::SLICE,
        BudgetTest::HARVEST_INTERVAL,
    ],
    build: |values| {
        Box::new(Ovirt {
            schedule: match values.is("schedule", "minimal-downtime") {
                true => MINIMAL_DOWNTIME,
                false => SUSPEND_WORKLOAD,
            },
            poll: Duration::from_millis(values.integer("poll_ms")),
            counts_stalls: values.is("count", "stalls"),
            budget: INITIAL,
            last_poll: None,
            iterations: None,
            least_bytes: None,
            stalls: 0,
            test: BudgetTest::from_values(values),
        })
    },
};

const INITIAL: Duration = Duration::from_millis(100);

/// What to do after more than so many iterations; without a number after any. `None` gives up.
type Action = (Option<u32>, Option<Duration>);

const fn at(iterations: u32, ms: u64) -> Action {
    (Some(iterations), Some(Duration::from_millis(ms)))
}

const MINIMAL_DOWNTIME: &[Action] =
    &[at(1, 150), at(2, 200), at(3, 300), at(4, 400), at(6, 500), (None, None)];

const SUSPEND_WORKLOAD: &[Action] = &[
    at(1, 150),
    at(2, 200),
    at(3, 300),
    at(4, 400),
    at(6, 500),
    (None, Some(Duration::from_secs(5))),
    (None, None),
];

/// oVirt's schedule.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Ovirt {
    /// Actions still to come.
    schedule: &'static [Action],
    poll: Duration,
    counts_stalls: bool,
    budget: Duration,
    last_poll: Option<Tick>,
    /// Iterations at the first and at the last look.
    iterations: Option<(u32, u32)>,
    least_bytes: Option<u64>,
    stalls: u32,
    test: BudgetTest,
}

impl Ovirt {
    /// A look. `true` gives up.
    fn look(&mut self, seen: &Observation) -> bool {
        let bytes = BudgetTest::pending_bytes(seen);
        let stalled = self.least_bytes.is_some_and(|least| bytes >= least);
        self.stalls = self.stalls.saturating_add(u32::from(stalled));
        self.least_bytes = Some(self.least_bytes.map_or(bytes, |least| least.min(bytes)));
        let now = seen.rounds_sent;
        let (first, last) = *self.iterations.get_or_insert((now, now));
        let (due, count) = match self.counts_stalls {
            true => (stalled, self.stalls),
            false => (now > last, now.saturating_sub(first)),
        };
        self.iterations = Some((first, last.max(now)));
        if let (true, Some(((limit, action), rest))) = (due, self.schedule.split_first())
            && limit.is_none_or(|limit| count > limit)
        {
            // Giving up is for good.
            let Some(budget) = action else { return true };
            (self.budget, self.schedule) = (*budget, rest);
        }
        false
    }
}

impl StopPolicy for Ovirt {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        let last = *self.last_poll.get_or_insert(seen.now);
        let verdict = self.test.judge(seen, Some(self.budget));
        if seen.now.since(last) >= self.poll {
            self.last_poll = Some(seen.now);
            if self.look(seen) && !matches!(verdict, Verdict::StopAndCopy { .. }) {
                return Verdict::give_up(format!("not converged within {:?}", self.budget));
            }
        }
        verdict
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::tests::{seen, sending};
    use crate::policy::{Moment, StopPolicy, parse};

    /// What is said of 9000 pages at a look, and the budget after it in ms, which is in pages what
    /// just does not fit.
    fn look(policy: &mut dyn StopPolicy, s: u64, rounds: u32) -> (&'static str, u64) {
        let word = policy.judge(&sending(seen(Moment::Cadence, rounds, 9000), s * 1000)).word();
        let fits = |pages: &u64| {
            let now = sending(seen(Moment::Harvested, rounds, *pages), s * 1000 + 1);
            policy.fork().judge(&now).word() == "stop_and_copy"
        };
        (word, (1..6000).take_while(fits).count() as u64 + 1)
    }

    #[test]
    fn vdsm_counts_iterations_since_its_first_look() {
        let mut policy = parse("ovirt").unwrap();
        let mut look = |s, rounds| look(&mut *policy, s, rounds);
        assert_eq!(look(0, 0), ("continue", 100));
        // The first look: from here on iterations are counted.
        assert_eq!(look(10, 5), ("continue", 100));
        assert_eq!(look(20, 6), ("continue", 100), "1 is not more than 1");
        assert_eq!(look(30, 6), ("continue", 100), "no new iteration");
        assert_eq!(look(40, 30), ("continue", 150), "one action a look");
        assert_eq!(look(45, 31), ("continue", 150), "no look is due");
        assert_eq!(look(50, 31), ("continue", 200));
        assert_eq!(look(60, 32), ("continue", 300));
        assert_eq!(look(70, 33), ("continue", 400));
        assert_eq!(look(80, 34), ("continue", 500));
        assert_eq!(look(90, 34), ("continue", 500));
        assert_eq!(look(100, 35), ("give_up", 500));
        assert_eq!(look(110, 36), ("give_up", 500), "it stays given up");
    }

    #[test]
    fn steps_wait_for_their_iterations() {
        let mut policy = parse("ovirt:schedule=suspend-workload").unwrap();
        let budgets: Vec<_> =
            (0u32..12).map(|i| look(&mut *policy, u64::from(i) * 10, i)).collect();
        let expected = [100, 100, 100, 150, 200, 300, 400, 400, 500, 5000, 5000, 5000];
        assert!(budgets.iter().map(|(_, ms)| *ms).eq(expected), "{budgets:?}");
        let words = budgets.iter().map(|(word, _)| *word);
        assert!(words.eq([vec!["continue"; 10], vec!["give_up"; 2]].concat()), "{budgets:?}");
    }

    #[test]
    fn the_documented_rule_counts_looks_without_a_new_minimum() {
        let mut policy = parse("ovirt:count=stalls,poll_ms=1000").unwrap();
        let mut word = |s: u64, pages| {
            policy.judge(&sending(seen(Moment::Cadence, 9, pages), s * 1000)).word()
        };
        // Shrinking, however slowly, is no stall.
        for s in 0..20 {
            assert_eq!(word(s, 9000 - s), "continue");
        }
        // Stalls 2, 3, 4, 5 and 7 take the five steps, the eighth gives up.
        let words: Vec<_> = (20..29).map(|s| word(s, 9000)).collect();
        assert_eq!(words[..7], ["continue"; 7]);
        assert_eq!(words[7], "give_up");
    }
}
