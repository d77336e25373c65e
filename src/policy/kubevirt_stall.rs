// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KubeVirt's stall detection and switchover at a local minimum (VEP 248;
//! pkg/virt-launcher/virtwrap/stall-detector.go and live-migration-source.go at d923fdb8, merged
//! as an alpha feature) over QEMU's budget test.
//!
//! Until something stalls this is QEMU's rule with a budget of 300 ms, or the greatest budget if
//! that is less. At the end of each iteration [`super::stall_detector`] says whether progress has
//! ended. If it has, and what is left is at a local minimum, and sending it at the bandwidth
//! (smoothed, from QEMU's slices of 100 ms as seen every 400 ms) fits the completion time-out
//! times a factor:
//! - with disruption allowed the budget becomes QEMU's greatest, 2000 s: it pauses;
//! - what takes at most the greatest budget times 1.5 makes the greatest budget the one in force,
//!   for at most `switchover_timeout_ms`, after which the migration is given up;
//! - anything more gives the migration up.
//!
//! Past the completion time-out it pauses if disruption is allowed and the residual still fits,
//! and gives up otherwise.
//!
//! # Differences
//! KubeVirt hears of an iteration from libvirt after QEMU has begun it, and QEMU tests the new
//! budget at its next look; here both are one question, so that a pause comes one look earlier.
//! Time limits are not cut to whole seconds. Post-copy, which goes before a pause where it is
//! allowed, does not exist here.

use std::time::Duration;

use super::estimate::Ewma;
use super::kubevirt_ramp::CompletionTimeout;
use super::parameters::{ParameterInfo, ParameterKind};
use super::stall_detector::{StallDetector, StallRules};
use super::{BudgetTest, Moment, Observation, PolicyInfo, StopPolicy, Verdict};
use crate::units::Tick;

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "kubevirt-stall",
    rule: "qemu, and once the residual is not 4 % below its least of over 40 s ago, pause at a \
           local minimum if it takes at most 900 ms, or give up",
    source: "KubeVirt VEP 248, virtwrap/stall-detector.go",
    parameters: &[
        CompletionTimeout::MAX_DOWNTIME,
        ParameterInfo::new(
            "initial_downtime_ms",
            ParameterKind::Integer { min: 0, max: 2_000_000 },
            "300",
            "budget until something stalls, at most the greatest (QEMUDefaultTargetDowntimeMS)",
        ),
        ParameterInfo::new(
            "stall_margin_percent",
            ParameterKind::Number { min: 0.0, max: 100.0 },
            "4",
            "what counts as progress, and as near a minimum, in percent (DefaultStallMargin)",
        ),
        ParameterInfo::new(
            "progress_timeout_ms",
            ParameterKind::Integer { min: 0, max: 86_400_000 },
            "40000",
            "how old what progress is measured against must be (DefaultStallProgressTimeout)",
        ),
        ParameterInfo::new(
            "patience_decay",
            ParameterKind::Number { min: 0.0, max: 1.0 },
            "0.5",
            "by what patience is multiplied when it runs out (DefaultPatienceWindowDecayFactor)",
        ),
        ParameterInfo::new(
            "search_local_minima",
            ParameterKind::Switch,
            "true",
            "wait for a local minimum (DefaultSearchLocalMinima)",
        ),
        ParameterInfo::new(
            "precopy_possible_factor",
            ParameterKind::Number { min: 1.0, max: 1000.0 },
            "1.5",
            "times the greatest budget is worth waiting for (DefaultPrecopyPossibleFactor)",
        ),
        ParameterInfo::new(
            "switchover_timeout_ms",
            ParameterKind::Integer { min: 0, max: 86_400_000 },
            "60000",
            "how long it waits then, in milliseconds (DefaultSwitchoverTimeout)",
        ),
        ParameterInfo::new(
            "ewma_alpha",
            ParameterKind::Number { min: 0.001, max: 1.0 },
            "0.4",
            "weight of the newest bandwidth sample (DefaultEwmaAlpha)",
        ),
        ParameterInfo::new(
            "poll_ms",
            ParameterKind::Integer { min: 1, max: 60_000 },
            "400",
            "milliseconds between bandwidth samples (monitorSleepPeriodMS)",
        ),
        ParameterInfo::new(
            "completion_timeout_factor",
            ParameterKind::Number { min: 1.0, max: 1000.0 },
            "2",
            "times the time limit by which a residual must be sent \
             (DefaultCompletionTimeoutFactor)",
        ),
        CompletionTimeout::PER_GB,
        CompletionTimeout::DISRUPTION,
        BudgetTest::SWITCHOVER_BANDWIDTH,
        BudgetTest::SLICE,
        BudgetTest::HARVEST_INTERVAL,
    ],
    build: |values| {
        let milliseconds = |name| Duration::from_millis(values.integer(name));
        let greatest = milliseconds(CompletionTimeout::MAX_DOWNTIME.name);
        Box::new(KubevirtStall {
            greatest,
            precopy_possible_factor: values.number("precopy_possible_factor"),
            search_local_minima: values.switch("search_local_minima"),
            switchover_timeout: milliseconds("switchover_timeout_ms"),
            timeout_factor: values.number("completion_timeout_factor"),
            timeout: CompletionTimeout::from_values(values),
            poll: milliseconds("poll_ms"),
            budget: milliseconds("initial_downtime_ms").min(greatest),
            detector: StallDetector::new(StallRules {
                margin: values.number("stall_margin_percent") / 100.0,
                progress_timeout: milliseconds("progress_timeout_ms"),
                patience_decay: values.number("patience_decay"),
            }),
            bandwidth: Ewma::new(values.number("ewma_alpha")),
            woken: None,
            left: 0,
            switchover_deadline: None,
            test: BudgetTest::from_values(values),
        })
    },
};

/// QEMU's greatest downtime limit, which means "now".
const QEMU_GREATEST: Duration = Duration::from_secs(2000);

/// KubeVirt's stall detection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KubevirtStall {
    greatest: Duration,
    precopy_possible_factor: f64,
    search_local_minima: bool,
    switchover_timeout: Duration,
    timeout_factor: f64,
    timeout: CompletionTimeout,
    poll: Duration,
    /// The budget in force.
    budget: Duration,
    detector: StallDetector,
    bandwidth: Ewma,
    /// The last iteration or sample.
    woken: Option<Tick>,
    /// Bytes left at the last end of an iteration.
    left: u64,
    /// Set once a switchover was asked for: when it is given up.
    switchover_deadline: Option<Duration>,
    test: BudgetTest,
}

impl KubevirtStall {
    /// Time to send what is left.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn estimate(&self) -> Option<Duration> {
        let seconds = self.left as f64 / self.bandwidth.get()?;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    /// Whether the residual can be sent in what is left of the time limit times its factor.
    fn can_finish(&self, seen: &Observation) -> bool {
        let limit = self.timeout.limit(seen).as_secs_f64() * self.timeout_factor;
        let limit = Duration::try_from_secs_f64(limit).unwrap_or(Duration::MAX);
        let rest = limit.checked_sub(seen.elapsed);
        self.estimate().zip(rest).is_some_and(|(time, rest)| time <= rest)
    }

    fn switch_over(&mut self, seen: &Observation, budget: Duration) {
        self.budget = budget;
        self.switchover_deadline = Some(seen.elapsed.saturating_add(self.switchover_timeout));
    }

    /// The end of an iteration. A reason gives up.
    fn iteration(&mut self, seen: &Observation) -> Option<String> {
        self.left = BudgetTest::pending_bytes(seen);
        let time = self.estimate()?;
        if self.switchover_deadline.is_some() || !self.detector.iteration(seen.elapsed, self.left) {
            return None;
        }
        let there = !self.search_local_minima || self.detector.is_local_minimum(self.left);
        if !there || !self.can_finish(seen) {
            return None;
        }
        let possible = self.greatest.as_secs_f64() * self.precopy_possible_factor;
        if self.timeout.allows_disruption() {
            self.switch_over(seen, QEMU_GREATEST);
        } else if time.as_secs_f64() <= possible {
            self.switch_over(seen, self.greatest);
        } else {
            let greatest = self.greatest;
            return Some(format!("stalled: {time:.1?} at a local minimum, {greatest:?} allowed"));
        }
        None
    }

    /// The time limits. A reason gives up.
    fn overdue(&mut self, seen: &Observation) -> Option<String> {
        let deadline = self.switchover_deadline.unwrap_or_else(|| self.timeout.limit(seen));
        if seen.elapsed <= deadline {
            return None;
        }
        let asked = self.switchover_deadline.is_some();
        if !asked && self.timeout.allows_disruption() && self.can_finish(seen) {
            self.switch_over(seen, QEMU_GREATEST);
            return None;
        }
        Some(format!("not completed after {deadline:.1?}"))
    }

    fn sample(&mut self, seen: &Observation) {
        self.test.measure(seen);
        let woken = *self.woken.get_or_insert(seen.now);
        if seen.moment == Moment::Harvested {
            self.woken = Some(seen.now);
        } else if seen.now.since(woken) >= self.poll {
            self.woken = Some(seen.now);
            if let Some(bandwidth) = self.test.bandwidth() {
                self.bandwidth.add(bandwidth);
            }
        }
    }
}

impl StopPolicy for KubevirtStall {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        self.sample(seen);
        let hopeless = match seen.moment {
            Moment::Harvested => self.iteration(seen),
            Moment::Cadence | Moment::Sent => None,
        };
        let hopeless = hopeless.or_else(|| self.overdue(seen));
        let verdict = self.test.judge(seen, Some(self.budget));
        match (hopeless, &verdict) {
            // What QEMU's test lets through is paused before anybody gives up.
            (Some(why), Verdict::Continue { .. } | Verdict::Harvest { .. }) => {
                Verdict::give_up(why)
            }
            _ => verdict,
        }
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

/// Cases after KubeVirt's own tests (live-migration-source_test.go at d923fdb8: `decideAction`,
/// `canFinishByDeadline`, `processCompletionTimeouts`, `processInflightMigration`), seen from
/// outside. They use a progress time-out of 25 s; 1000 pages take one second.
#[cfg(test)]
mod tests {
    use crate::policy::tests::{seen, sending};
    use crate::policy::{Moment, StopPolicy, parse};

    const TEXT: &str = "kubevirt-stall:progress_timeout_ms=25000";

    /// Something said at `s` seconds of `pages` that are left.
    fn ask(policy: &mut dyn StopPolicy, moment: Moment, s: f64, pages: u64) -> &'static str {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let ms = (s * 1e3) as u64;
        policy.judge(&sending(seen(moment, 3, pages), ms)).word()
    }

    /// A policy that has seen its bandwidth and, at 1.5 s, so many pages left.
    fn with_past(text: &str, pages: u64) -> Box<dyn StopPolicy> {
        let mut policy = parse(text).unwrap();
        for s in [0.0, 0.5, 1.0] {
            assert_eq!(ask(&mut *policy, Moment::Cadence, s, 9000), "continue");
        }
        assert_eq!(ask(&mut *policy, Moment::Harvested, 1.5, pages), "continue");
        policy
    }

    #[test]
    fn until_something_stalls_the_budget_is_qemus_or_the_greatest() {
        for (greatest, budget) in [(150, 150), (5000, 300)] {
            let text = format!("{TEXT},max_downtime_ms={greatest}");
            let mut policy = with_past(&text, 9000);
            assert_eq!(ask(&mut *policy, Moment::Harvested, 2.0, budget), "continue");
            assert_eq!(ask(&mut *policy, Moment::Harvested, 2.5, budget - 1), "stop_and_copy");
        }
    }

    #[test]
    fn a_local_minimum_within_the_greatest_budget_switches_over() {
        // 1.04 x 850 pages are 884.
        let mut policy = with_past(TEXT, 850);
        assert_eq!(ask(&mut *policy, Moment::Harvested, 26.4, 850), "continue", "25 s not over");
        assert_eq!(ask(&mut *policy, Moment::Harvested, 27.0, 885), "continue", "stalled, above");
        assert_eq!(ask(&mut *policy, Moment::Harvested, 27.5, 884), "stop_and_copy");
    }

    #[test]
    fn progress_beyond_the_margin_is_no_stall() {
        let mut policy = with_past(TEXT, 850);
        // 0.96 x 850 pages are 816.
        assert_eq!(ask(&mut *policy, Moment::Harvested, 27.0, 815), "continue");
        assert_eq!(ask(&mut *policy, Moment::Harvested, 28.0, 815), "continue");
        let mut policy = with_past(TEXT, 850);
        assert_eq!(ask(&mut *policy, Moment::Harvested, 27.0, 816), "stop_and_copy");
    }

    #[test]
    fn within_the_factor_the_greatest_budget_is_set_and_waited_for() {
        // 1000 ms are not within 900, but within 1350: the budget is 900 ms from now on.
        let mut policy = with_past(TEXT, 1000);
        assert_eq!(ask(&mut *policy, Moment::Harvested, 27.0, 1000), "continue");
        assert_eq!(ask(&mut *policy, Moment::Harvested, 28.0, 900), "continue");
        let mut lucky = policy.fork();
        assert_eq!(ask(&mut *lucky, Moment::Harvested, 29.0, 899), "stop_and_copy");
        // Switchover was asked for: nothing is decided again, and after 60 s it is given up.
        assert_eq!(ask(&mut *policy, Moment::Harvested, 30.0, 5000), "continue");
        assert_eq!(ask(&mut *policy, Moment::Cadence, 87.0, 5000), "continue");
        assert_eq!(ask(&mut *policy, Moment::Cadence, 87.1, 5000), "give_up");
    }

    #[test]
    fn far_beyond_the_greatest_budget_it_gives_up() {
        let mut policy = with_past(TEXT, 1350);
        assert_eq!(ask(&mut *policy, Moment::Harvested, 27.0, 1350), "continue", "1.5 x 900");
        let mut policy = with_past(TEXT, 1351);
        assert_eq!(ask(&mut *policy, Moment::Harvested, 27.0, 1351), "give_up");
        let text = format!("{TEXT},precopy_possible_factor=2");
        let mut policy = with_past(&text, 1351);
        assert_eq!(ask(&mut *policy, Moment::Harvested, 27.0, 1351), "continue");
    }

    #[test]
    fn with_disruption_a_local_minimum_pauses_whatever_it_takes() {
        let text = format!("{TEXT},allow_disruption=true");
        let mut policy = with_past(&text, 9000);
        assert_eq!(ask(&mut *policy, Moment::Harvested, 27.0, 9361), "continue");
        assert_eq!(ask(&mut *policy, Moment::Harvested, 27.5, 9360), "stop_and_copy");
    }

    #[test]
    fn without_the_search_any_stall_decides() {
        let text = format!("{TEXT},search_local_minima=false");
        let mut policy = with_past(&text, 400);
        assert_eq!(ask(&mut *policy, Moment::Harvested, 27.0, 800), "stop_and_copy");
    }

    #[test]
    fn the_best_is_relaxed_until_what_is_there_will_do() {
        let mut policy = with_past(TEXT, 400);
        assert_eq!(ask(&mut *policy, Moment::Harvested, 27.0, 800), "continue", "stalls");
        assert_eq!(ask(&mut *policy, Moment::Harvested, 28.0, 800), "continue");
        assert_eq!(ask(&mut *policy, Moment::Harvested, 32.0, 850), "continue");
        assert_eq!(ask(&mut *policy, Moment::Harvested, 51.9, 850), "continue", "patience");
        // At 52 s patience ends and 800, the least since the stall, will do.
        assert_eq!(ask(&mut *policy, Moment::Harvested, 52.0, 850), "continue");
        assert_eq!(ask(&mut *policy, Moment::Harvested, 52.1, 832), "stop_and_copy");
    }

    #[test]
    fn without_a_bandwidth_nothing_is_decided() {
        let mut policy = parse("kubevirt-stall:progress_timeout_ms=0").unwrap();
        for ms in 0..300 {
            let s = f64::from(ms) / 1e3;
            assert_eq!(ask(&mut *policy, Moment::Harvested, s, 400), "continue");
        }
    }

    #[test]
    fn what_cannot_be_sent_by_the_deadline_waits() {
        // One GB: 1 s x 30 is the time limit, twice that the deadline of a residual.
        let text = format!("{TEXT},allow_disruption=true,completion_timeout_ms_per_gb=30000");
        let mut policy = with_past(&text, 34_000);
        // 34 s from 27 s on are later than 60 s.
        assert_eq!(ask(&mut *policy, Moment::Harvested, 27.0, 34_000), "continue");
        assert_eq!(ask(&mut *policy, Moment::Harvested, 28.0, 32_000), "stop_and_copy");
    }

    #[test]
    fn past_the_time_limit_it_gives_up_or_forces_the_switchover() {
        let text = format!("{TEXT},completion_timeout_ms_per_gb=20000");
        let mut policy = with_past(&text, 9000);
        assert_eq!(ask(&mut *policy, Moment::Cadence, 20.0, 9000), "continue");
        assert_eq!(ask(&mut *policy, Moment::Cadence, 20.1, 9000), "give_up");
        let text = format!("{text},allow_disruption=true");
        let mut policy = with_past(&text, 9000);
        assert_eq!(ask(&mut *policy, Moment::Cadence, 20.0, 9000), "continue");
        assert_eq!(ask(&mut *policy, Moment::Cadence, 20.1, 9000), "harvest", "2000 s allowed");
        assert_eq!(ask(&mut *policy, Moment::Harvested, 20.2, 9000), "stop_and_copy");
        // What could not be sent by twice the time limit is given up even then.
        let mut policy = with_past(&text, 21_000);
        assert_eq!(ask(&mut *policy, Moment::Cadence, 20.1, 21_000), "give_up");
        // Without a bandwidth there is nothing to wait for.
        let mut policy = parse(&text).unwrap();
        assert_eq!(ask(&mut *policy, Moment::Harvested, 20.1, 9000), "give_up");
    }
}
