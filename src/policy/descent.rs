// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Descend after the budget is met: a residual that may be sent within the downtime limit is no
//! reason to stop while it still falls.
//!
//! In a lull the residual falls by what the link carries less what the guest writes: a millisecond
//! of waiting saves up to a millisecond of downtime (heuristics.md 6.2). So at the first residual
//! within the limit a *descent* begins: whatever is owed is sent and harvested at once, round by
//! round, each shorter than the one before, until one is not shorter by `gain_percent` (the guest
//! writes as much as was sent meanwhile, or a burst has begun) or the residual costs less than the
//! fixed part of a switchover. Then the guest is paused, if the residual is still within the
//! limit; else the descent has failed and the policy waits for the next one.

use std::time::Duration;

use super::parameters::{ParameterInfo, ParameterKind, Values};
use super::{DowntimeLimit, Moment, Observation, PolicyInfo, StopPolicy, Verdict};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "descend",
    rule: "when the residual fits the downtime limit, go on while it falls, in ever shorter \
           rounds, and pause at its first rise",
    source: "precopy; heuristics.md 6.2",
    parameters: &[DowntimeLimit::PARAMETER, DowntimeLimit::FIXED_COST_PARAMETER, Descent::GAIN],
    build: |values| {
        Box::new(Descend {
            limit: DowntimeLimit::from_values(values),
            descent: Descent::from_values(values),
        })
    },
};

/// How a descent goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// The residual still falls: send it and harvest at once.
    Falling,
    /// This is the bottom.
    Bottom,
}

/// One descent: residuals harvest by harvest.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Descent {
    gain: f64,
    /// Residual time at the last harvest of this descent.
    last: Option<Duration>,
}

impl Descent {
    pub(super) const GAIN: ParameterInfo = ParameterInfo::new(
        "gain_percent",
        ParameterKind::Integer { min: 0, max: 99 },
        "10",
        "a descent goes on while each residual is this much smaller than the one before",
    );

    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    pub(super) fn from_values(values: &Values) -> Self {
        Self { gain: values.integer("gain_percent") as f64 / 100.0, last: None }
    }

    pub(super) fn gain(&self) -> f64 {
        self.gain
    }

    pub(super) fn under_way(&self) -> bool {
        self.last.is_some()
    }

    /// The verdict between two harvests: while descending a round that was sent is harvested at
    /// once.
    pub(super) fn between_harvests(&self, seen: &Observation) -> Verdict {
        if seen.moment == Moment::Sent && self.under_way() && seen.residual_pages == 0 {
            return Verdict::Harvest { reason: "descending".to_owned() };
        }
        Verdict::go_on("within a round")
    }

    pub(super) fn end(&mut self) {
        self.last = None;
    }

    /// A harvest found a residual that takes `residual`; a switchover costs `fixed` on top.
    ///
    /// The next round cannot end with less than what the guest writes meanwhile, so a residual far
    /// below the fixed cost is the bottom: another round would win less than it costs.
    pub(super) fn step(&mut self, residual: Duration, fixed: Duration) -> Step {
        let falls = self.last.is_none_or(|last| residual < last.mul_f64(1.0 - self.gain));
        self.last = Some(residual);
        if falls && residual > fixed / 4 { Step::Falling } else { Step::Bottom }
    }
}

/// Goes on after the budget is met.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Descend {
    limit: DowntimeLimit,
    descent: Descent,
}

impl Descend {
    fn at_harvest(&mut self, seen: &Observation) -> Verdict {
        if seen.rounds_sent == 0 {
            return Verdict::go_on("the first pass is not over");
        }
        let Some(residual) = seen.residual_time(seen.smooth_bandwidth_bytes_per_s) else {
            return Verdict::go_on("the link is not known yet");
        };
        let within = self.limit.for_pages(seen).is_some_and(|limit| residual <= limit);
        if !within {
            self.descent.end();
            return Verdict::go_on(format!("the residual takes {residual:.1?}, over the limit"));
        }
        match self.descent.step(residual, seen.fixed_switchover_cost) {
            Step::Falling => Verdict::go_on(format!("{residual:.1?} and falling")),
            Step::Bottom => Verdict::stop(format!("the bottom of a descent at {residual:.1?}")),
        }
    }
}

impl StopPolicy for Descend {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        match seen.moment {
            Moment::Harvested => self.at_harvest(seen),
            Moment::Cadence | Moment::Sent => self.descent.between_harvests(seen),
        }
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Tick;

    /// A harvest that finds `residual_ms` at 1 MB/s, with a fixed cost of 1 ms and a limit of
    /// 300 ms.
    fn harvested(residual_ms: u64) -> Observation {
        Observation {
            moment: Moment::Harvested,
            now: Tick::ZERO,
            rounds_sent: 1,
            page_bytes: 4096,
            residual_pages: residual_ms,
            residual_wire_bytes: residual_ms * 1000,
            smooth_bandwidth_bytes_per_s: Some(1e6),
            fixed_switchover_cost: Duration::from_millis(1),
            downtime_limit: Duration::from_millis(300),
            ..Observation::default()
        }
    }

    fn words(residuals: &[u64]) -> Vec<&'static str> {
        let spec: crate::policy::PolicySpec = "descend".parse().unwrap();
        let mut policy = spec.build();
        residuals.iter().map(|ms| policy.judge(&harvested(*ms)).word()).collect()
    }

    #[test]
    fn a_residual_within_the_limit_is_followed_down_to_its_first_rise() {
        assert_eq!(words(&[900, 290, 120, 40, 45]).last(), Some(&"stop_and_copy"));
        assert_eq!(words(&[900, 290, 120, 40]), ["continue"; 4]);
        // Less than a tenth below the one before is no fall.
        assert_eq!(words(&[290, 265]).last(), Some(&"stop_and_copy"));
        // Nothing left to win.
        assert_eq!(words(&[290, 0]).last(), Some(&"stop_and_copy"));
    }

    #[test]
    fn a_small_residual_within_the_first_pass_is_no_bottom() {
        let spec: crate::policy::PolicySpec = "descend".parse().unwrap();
        let mut policy = spec.build();
        for residual_ms in [200, 100, 100, 0] {
            let seen = Observation { rounds_sent: 0, ..harvested(residual_ms) };
            assert_eq!(policy.judge(&seen).word(), "continue");
        }
    }

    #[test]
    fn a_descent_that_leaves_the_limit_has_failed() {
        assert_eq!(words(&[290, 310, 250]), ["continue"; 3]);
    }

    #[test]
    fn while_descending_a_sent_round_is_harvested_at_once() {
        let spec: crate::policy::PolicySpec = "descend".parse().unwrap();
        let mut policy = spec.build();
        let sent = Observation { moment: Moment::Sent, residual_pages: 0, ..harvested(0) };
        assert_eq!(policy.judge(&sent).word(), "continue");
        policy.judge(&harvested(200));
        assert_eq!(policy.judge(&sent).word(), "harvest");
        let skipped = Observation { moment: Moment::Sent, ..harvested(5) };
        assert_eq!(policy.judge(&skipped).word(), "continue");
    }
}
