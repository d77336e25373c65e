// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KubeVirt's dynamic downtime (VEP 291; pkg/virt-launcher/virtwrap/live-migration-source.go,
//! `tuneDowntime`, at d923fdb8) over QEMU's budget test.
//!
//! The budget begins at 150 ms. From the third iteration on it grows every 10 s by a seventh of
//! the way to its ceiling, in whole milliseconds and at least one, until it is there. Past the
//! completion time-out it gives up, or pauses where disruption is allowed.
//!
//! # Differences
//! KubeVirt looks every 400 ms and this at every question; QEMU's own 300 ms hold there before
//! the first look. Its test for a migration that is stuck altogether (no progress of what is left
//! in 150 s) is about the network and is not here. Allowed post-copy comes before the pause there.

use std::time::Duration;

use super::parameters::{ParameterInfo, ParameterKind, Values};
use super::{BudgetTest, Observation, PolicyInfo, StopPolicy, Verdict};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "kubevirt-ramp",
    rule: "qemu with a budget that ramps from 150 to 900 ms in 7 steps of 10 s, from the third \
           iteration on",
    source: "KubeVirt VEP 291, virtwrap/live-migration-source.go, tuneDowntime",
    parameters: &[
        CompletionTimeout::MAX_DOWNTIME,
        ParameterInfo::new(
            "initial_downtime_ms",
            ParameterKind::Integer { min: 0, max: 2_000_000 },
            "150",
            "budget at first in milliseconds, at most the ceiling (defaultInitialDowntimeMs)",
        ),
        ParameterInfo::new(
            "steps",
            ParameterKind::Integer { min: 1, max: 1_000_000 },
            "7",
            "steps from there to the ceiling (defaultDowntimeSteps)",
        ),
        ParameterInfo::new(
            "start_after_iteration",
            ParameterKind::Integer { min: 0, max: 1_000_000 },
            "3",
            "iteration from which on it grows; the full round is the first \
             (defaultStartAfterIteration)",
        ),
        ParameterInfo::new(
            "cooldown_ms",
            ParameterKind::Integer { min: 1, max: 3_600_000 },
            "10000",
            "least milliseconds between steps (defaultCooldownSeconds)",
        ),
        CompletionTimeout::PER_GB,
        CompletionTimeout::DISRUPTION,
        BudgetTest::SWITCHOVER_BANDWIDTH,
        BudgetTest::SLICE,
        BudgetTest::HARVEST_INTERVAL,
    ],
    build: |values| {
        let ceiling_ms = values.integer(CompletionTimeout::MAX_DOWNTIME.name);
        Box::new(KubevirtRamp {
            ceiling_ms,
            initial_ms: values.integer("initial_downtime_ms").min(ceiling_ms),
            steps: values.integer("steps"),
            start_after_iteration: values.small("start_after_iteration"),
            cooldown: Duration::from_millis(values.integer("cooldown_ms")),
            timeout: CompletionTimeout::from_values(values),
            tuned: None,
            test: BudgetTest::from_values(values),
        })
    },
};

/// How long a migration may take, by the guest's size, and what happens then; both of KubeVirt's
/// rules have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CompletionTimeout {
    ms_per_gb: u64,
    allows_disruption: bool,
}

impl CompletionTimeout {
    pub(super) const MAX_DOWNTIME: ParameterInfo = ParameterInfo::new(
        "max_downtime_ms",
        ParameterKind::Integer { min: 1, max: 2_000_000 },
        "900",
        "greatest budget in milliseconds (DefaultMigrationMaxDowntimeMs)",
    );

    pub(super) const PER_GB: ParameterInfo = ParameterInfo::new(
        "completion_timeout_ms_per_gb",
        ParameterKind::Integer { min: 1, max: 1_000_000_000 },
        "150000",
        "time limit in milliseconds for each 10^9 bytes, rounded up \
         (MigrationCompletionTimeoutPerGiB)",
    );

    pub(super) const DISRUPTION: ParameterInfo = ParameterInfo::new(
        "allow_disruption",
        ParameterKind::Switch,
        "false",
        "pause rather than give up, whatever the downtime (AllowWorkloadDisruption)",
    );

    pub(super) fn from_values(values: &Values) -> Self {
        Self {
            ms_per_gb: values.integer(Self::PER_GB.name),
            allows_disruption: values.switch(Self::DISRUPTION.name),
        }
    }

    pub(super) fn allows_disruption(&self) -> bool {
        self.allows_disruption
    }

    pub(super) fn limit(&self, seen: &Observation) -> Duration {
        let gb = seen.total_pages.saturating_mul(seen.page_bytes).div_ceil(1_000_000_000);
        Duration::from_millis(self.ms_per_gb.saturating_mul(gb))
    }
}

/// KubeVirt's ramp.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct KubevirtRamp {
    ceiling_ms: u64,
    initial_ms: u64,
    steps: u64,
    start_after_iteration: u32,
    cooldown: Duration,
    timeout: CompletionTimeout,
    /// The budget in force, and when it was set.
    tuned: Option<(u64, Duration)>,
    test: BudgetTest,
}

impl KubevirtRamp {
    fn tune(&mut self, seen: &Observation) -> Duration {
        let (mut ms, mut at) = *self.tuned.get_or_insert((self.initial_ms, seen.elapsed));
        // QEMU counts the full round as iteration 1.
        let iteration = seen.rounds_sent.saturating_add(1);
        let rested = seen.elapsed.saturating_sub(at) >= self.cooldown;
        if iteration >= self.start_after_iteration && rested && ms < self.ceiling_ms {
            let step = ((self.ceiling_ms - self.initial_ms) / self.steps).max(1);
            (ms, at) = ((ms + step).min(self.ceiling_ms), seen.elapsed);
            self.tuned = Some((ms, at));
        }
        Duration::from_millis(ms)
    }
}

impl StopPolicy for KubevirtRamp {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        let budget = self.tune(seen);
        let verdict = self.test.judge(seen, Some(budget));
        let limit = self.timeout.limit(seen);
        if !matches!(verdict, Verdict::StopAndCopy { .. }) && seen.elapsed > limit {
            let why = format!("not completed after {limit:?}");
            return match self.timeout.allows_disruption {
                true => Verdict::stop(why),
                false => Verdict::give_up(why),
            };
        }
        verdict
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

/// Cases after KubeVirt's own tests of `tuneDowntime` and `newDowntimeTuningConfig`
/// (live-migration-source_test.go), seen from outside.
#[cfg(test)]
mod tests {
    use crate::policy::tests::{seen, sending};
    use crate::policy::{Moment, StopPolicy, parse};

    /// The budget in ms after a question: pages that just do not fit.
    fn budget(policy: &mut dyn StopPolicy, ms: u64, rounds: u32) -> u64 {
        policy.judge(&sending(seen(Moment::Cadence, rounds, 9000), ms));
        let fits = |pages: &u64| {
            let now = sending(seen(Moment::Harvested, rounds, *pages), ms);
            policy.fork().judge(&now).word() == "stop_and_copy"
        };
        (1..6000).take_while(fits).count() as u64 + 1
    }

    #[test]
    fn steps_up_and_respects_the_ceiling() {
        let text = "kubevirt-ramp:max_downtime_ms=1000,initial_downtime_ms=100,steps=3,\
                    start_after_iteration=2,cooldown_ms=1000";
        let mut policy = parse(text).unwrap();
        let mut budget = |ms, rounds| budget(&mut *policy, ms, rounds);
        assert_eq!(budget(0, 4), 100);
        assert_eq!(budget(999, 4), 100, "respects the cooldown");
        assert_eq!(
            [1000, 2000, 3000, 4000, 5000].map(|ms| budget(ms, 4)),
            [400, 700, 1000, 1000, 1000]
        );
    }

    #[test]
    fn does_nothing_before_the_iteration() {
        let mut policy = parse("kubevirt-ramp").unwrap();
        let mut budget = |s: u64, rounds| budget(&mut *policy, s * 1000, rounds);
        assert_eq!(budget(0, 0), 150);
        assert_eq!(budget(50, 1), 150, "the second iteration");
        // 750 ms in sevenths of whole milliseconds take an eighth step for the rest.
        let steps = [257, 364, 471, 578, 685, 792, 899, 900, 900];
        for (at, ms) in (6..).zip(steps) {
            assert_eq!(budget(at * 10, 2), ms);
        }
    }

    #[test]
    fn the_initial_budget_is_at_most_the_ceiling() {
        let mut policy = parse("kubevirt-ramp:max_downtime_ms=100").unwrap();
        assert_eq!(budget(&mut *policy, 0, 0), 100);
    }

    #[test]
    fn the_time_limit_gives_up_or_pauses() {
        // 40.96 MB count as 1 GB.
        for (switch, word) in [("false", "give_up"), ("true", "stop_and_copy")] {
            let text = format!("kubevirt-ramp:allow_disruption={switch}");
            let mut policy = parse(&text).unwrap();
            let mut at = |ms| policy.judge(&sending(seen(Moment::Cadence, 9, 9000), ms)).word();
            assert_eq!(at(150_000), "continue");
            assert_eq!(at(150_001), word);
        }
    }
}
