// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! OpenStack Nova's staged downtime (nova/virt/libvirt/migration.py, `downtime_steps`,
//! `update_downtime`, `should_trigger_timeout_action`) over QEMU's budget test.
//!
//! With a target D in n steps the budget begins at D/n and grows by (D - D/n)/n every
//! `delay` x GiB of memory, n times, to D. Past `completion_timeout` x GiB it gives up, or pauses
//! anyway. A guest counts for at least 2 GiB.
//!
//! # Differences
//! The first step is in force from the start; in Nova it is from its first look, half a second
//! in, and QEMU's own default before. Nova looks every half second, cuts the delay to whole
//! seconds and counts disks that it copies; this has no disks. Force-complete pauses; where
//! post-copy is permitted Nova would switch to it.

use std::time::Duration;

use super::parameters::{ParameterInfo, ParameterKind};
use super::{BudgetTest, Observation, PolicyInfo, StopPolicy, Verdict};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "nova",
    rule: "qemu with a budget that grows to 500 ms in 10 steps of 75 s per GiB; gives up after \
           800 s per GiB",
    source: "OpenStack Nova, nova/virt/libvirt/migration.py, downtime_steps",
    parameters: &[
        ParameterInfo::new(
            "downtime_ms",
            ParameterKind::Integer { min: 1, max: 2_000_000 },
            "500",
            "budget at the last step in milliseconds (live_migration_downtime)",
        ),
        ParameterInfo::new(
            "steps",
            ParameterKind::Integer { min: 1, max: 1000 },
            "10",
            "steps to it (live_migration_downtime_steps)",
        ),
        ParameterInfo::new(
            "delay_ms_per_gib",
            ParameterKind::Integer { min: 1, max: 1_000_000_000 },
            "75000",
            "milliseconds between steps for each GiB of memory (live_migration_downtime_delay)",
        ),
        ParameterInfo::new(
            "completion_timeout_ms_per_gib",
            ParameterKind::IntegerOr { min: 1, max: 1_000_000_000, word: "off" },
            "800000",
            "time limit in milliseconds for each GiB (live_migration_completion_timeout)",
        ),
        ParameterInfo::new(
            "timeout_action",
            ParameterKind::Choice(&["abort", "force-complete"]),
            "abort",
            "past the time limit: give up, or pause anyway (live_migration_timeout_action)",
        ),
        ParameterInfo::new(
            "min_gib",
            ParameterKind::Integer { min: 0, max: 16_384 },
            "2",
            "a smaller guest counts as one of so many GiB",
        ),
        BudgetTest::SWITCHOVER_BANDWIDTH,
        BudgetTest::SLICE,
        BudgetTest::HARVEST_INTERVAL,
    ],
    build: |values| {
        Box::new(Nova {
            downtime_ms: values.integer("downtime_ms"),
            steps: values.integer("steps"),
            delay_ms_per_gib: values.integer("delay_ms_per_gib"),
            timeout_ms_per_gib: values.integer_or("completion_timeout_ms_per_gib"),
            gives_up: values.is("timeout_action", "abort"),
            min_gib: f64::from(values.small("min_gib")),
            test: BudgetTest::from_values(values),
        })
    },
};

/// Nova's staged budget.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Nova {
    downtime_ms: u64,
    steps: u64,
    delay_ms_per_gib: u64,
    timeout_ms_per_gib: Option<u64>,
    gives_up: bool,
    min_gib: f64,
    test: BudgetTest,
}

impl Nova {
    /// `ms_per_gib` for the guest's size.
    #[expect(clippy::cast_precision_loss, reason = "a time limit")]
    fn scaled(&self, seen: &Observation, ms_per_gib: u64) -> Duration {
        let gib = seen.total_pages as f64 * seen.page_bytes as f64 / (1u64 << 30) as f64;
        let seconds = ms_per_gib as f64 / 1e3 * gib.max(self.min_gib);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// The budget of step `step`, cut to whole milliseconds as in Nova.
    fn budget(&self, step: u64) -> Duration {
        // base + (D - base) / n * i with base = D/n, over the common denominator n * n.
        let (target, steps) = (self.downtime_ms, self.steps);
        Duration::from_millis((target * steps + target * (steps - 1) * step) / (steps * steps))
    }

    fn step(&self, seen: &Observation) -> u64 {
        let delay = self.scaled(seen, self.delay_ms_per_gib);
        // A step begins after its time, not at it.
        let elapsed = seen.elapsed.saturating_sub(Duration::from_nanos(1));
        match u64::try_from(elapsed.as_nanos().checked_div(delay.as_nanos()).unwrap_or(u128::MAX)) {
            Ok(step) => step.min(self.steps),
            Err(_) => self.steps,
        }
    }
}

impl StopPolicy for Nova {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        let budget = self.budget(self.step(seen));
        let verdict = self.test.judge(seen, Some(budget));
        let limit = self.timeout_ms_per_gib.map(|ms| self.scaled(seen, ms));
        if let (Some(limit), Verdict::Continue { .. } | Verdict::Harvest { .. }) = (limit, &verdict)
            && seen.elapsed > limit
        {
            let why = format!("not completed after {limit:.1?}");
            return if self.gives_up { Verdict::give_up(why) } else { Verdict::stop(why) };
        }
        verdict
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::policy::tests::{seen, sending};
    use crate::policy::{Moment, Observation, parse};

    /// A guest of 3 GiB, 1000 pages per second.
    fn three_gib(moment: Moment, residual: u64, ms: u64) -> Observation {
        let mut now = sending(seen(moment, 3, residual), ms);
        now.total_pages = 3 << 18;
        now
    }

    #[test]
    fn the_schedule_of_novas_own_example() {
        // The doc string of downtime_steps: 10 steps, 30 s, 3 GiB, 400 ms. The budget is looked
        // at through the residual that just fits: 40 ms are 40 pages, and 39 are below.
        let mut policy = parse("nova:downtime_ms=400,delay_ms_per_gib=30000").unwrap();
        let steps = [40, 76, 112, 148, 184, 220, 256, 292, 328, 364, 400];
        for (step, budget) in (0u64..).zip(steps) {
            for (ms, budget) in [(step * 90_000 + 1, budget), ((step + 1) * 90_000, budget)] {
                let mut word =
                    |pages| policy.judge(&three_gib(Moment::Harvested, pages, ms)).word();
                assert_eq!(word(budget), "continue", "{budget} ms at {ms}");
                assert_eq!(word(budget - 1), "stop_and_copy", "{budget} ms at {ms}");
            }
        }
    }

    #[test]
    fn a_step_begins_after_its_time_and_small_guests_count_for_two_gib() {
        // 1 GiB counts as 2: 150 s for a step, 50 ms at first, then 95 ms.
        let mut policy = parse("nova").unwrap();
        let mut word = |ms, pages| {
            let mut now = sending(seen(Moment::Harvested, 3, pages), ms);
            now.total_pages = 1 << 18;
            policy.judge(&now).word()
        };
        assert_eq!(word(0, 50), "continue");
        assert_eq!(word(150_000, 50), "continue");
        assert_eq!(word(150_001, 50), "stop_and_copy");
        assert_eq!(word(150_001, 95), "continue");
    }

    #[test]
    fn the_time_limit_gives_up_or_pauses() {
        for (action, word) in [("abort", "give_up"), ("force-complete", "stop_and_copy")] {
            let text = format!("nova:timeout_action={action}");
            let mut policy = parse(&text).unwrap();
            let mut at = |moment, ms| policy.judge(&three_gib(moment, 9000, ms)).word();
            assert_eq!(at(Moment::Harvested, 2_400_000), "continue");
            assert_eq!(at(Moment::Cadence, 2_400_001), word);
        }
        let mut policy = parse("nova:completion_timeout_ms_per_gib=off").unwrap();
        let mut late = three_gib(Moment::Harvested, 9000, 0);
        late.elapsed = Duration::from_secs(1 << 40);
        assert_eq!(policy.judge(&late).word(), "continue");
    }
}
