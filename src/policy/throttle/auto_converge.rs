// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU's auto-converge: throttle step by step while the guest dirties more than half of what is
//! sent.
//!
//! Each time that QEMU's test triggers (bytes dirtied above `threshold_percent` of those sent, in
//! two periods of a second and more), the throttle starts at `initial_percent`, or rises by
//! `increment_percent`, up to `max_percent`; it never falls. With `tail_slow` a step is no larger
//! than what the excess asks for: min(increment, cpu - cpu * allowed / dirty), cpu being the share
//! of time that the guest still gets.

use super::period::{Excess, PERIOD, Period, THRESHOLD};
use super::{ThrottleInfo, ThrottlePolicy};
use crate::policy::Observation;
use crate::policy::parameters::{ParameterInfo, ParameterKind};
use crate::units::Throttle;

const PERCENT: ParameterKind = ParameterKind::Integer { min: 1, max: 99 };

pub(super) const INFO: ThrottleInfo = ThrottleInfo {
    name: "auto-converge",
    rule: "when the guest dirtied more than half of what was sent twice, throttle it by 20 %, and \
           by 10 % more each further time, up to 99 %",
    source: "QEMU, migration/ram.c, migration_trigger_throttle, mig_throttle_guest_down",
    parameters: &[
        THRESHOLD,
        ParameterInfo::new("initial_percent", PERCENT, "20", "the first throttle"),
        ParameterInfo::new("increment_percent", PERCENT, "10", "each further step"),
        ParameterInfo::new("max_percent", PERCENT, "99", "the hardest throttle"),
        ParameterInfo::new(
            "tail_slow",
            ParameterKind::Switch,
            "false",
            "smaller steps where the excess asks for less",
        ),
        PERIOD,
    ],
    build: |values| {
        let percent = |name| u8::try_from(values.integer(name)).unwrap_or(99);
        Box::new(AutoConverge {
            period: Period::read(values),
            initial_percent: percent("initial_percent"),
            increment_percent: percent("increment_percent"),
            max_percent: percent("max_percent"),
            tail_slow: values.switch("tail_slow"),
            percent: 0,
        })
    },
};

/// QEMU's auto-converge.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct AutoConverge {
    period: Period,
    initial_percent: u8,
    increment_percent: u8,
    max_percent: u8,
    tail_slow: bool,
    percent: u8,
}

impl AutoConverge {
    fn step_up(&mut self, excess: Excess) {
        let step = if self.percent == 0 {
            self.initial_percent
        } else if self.tail_slow {
            let cpu = u64::from(100 - self.percent);
            // What is allowed is less than what was dirtied.
            let ideal = u128::from(cpu) * u128::from(excess.allowed_bytes)
                / u128::from(excess.dirty_bytes.max(1));
            let wanted = cpu - u64::try_from(ideal).unwrap_or(cpu);
            u8::try_from(wanted).unwrap_or(u8::MAX).min(self.increment_percent)
        } else {
            self.increment_percent
        };
        self.percent = self.percent.saturating_add(step).min(self.max_percent);
    }
}

impl ThrottlePolicy for AutoConverge {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn throttle(&mut self, seen: &Observation) -> Throttle {
        if let Some(excess) = self.period.harvested(seen) {
            self.step_up(excess);
        }
        Throttle::percent(self.percent)
    }

    fn fork(&self) -> Box<dyn ThrottlePolicy> {
        Box::new(self.clone())
    }
}
