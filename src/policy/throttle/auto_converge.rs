// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU's auto-converge: throttle step by step while the guest dirties more than half of what is
//! sent.
//!
//! At each harvest the bytes dirtied since the one before are compared with the bytes sent in the
//! same time. Twice in a row (not counting the first pass) above `threshold_percent` of them, the
//! throttle starts at `initial_percent`, and rises by `increment_percent` each further time, up to
//! `max_percent`. With `tail_slow` a step is no larger than what the excess asks for:
//! min(increment, cpu - cpu * threshold / dirty), cpu being the share of time the guest still gets.

use super::{ThrottleInfo, ThrottlePolicy};
use crate::policy::parameters::{ParameterInfo, ParameterKind};
use crate::policy::{Moment, Observation};
use crate::units::Throttle;

const PERCENT: ParameterKind = ParameterKind::Integer { min: 1, max: 99 };

pub(super) const INFO: ThrottleInfo = ThrottleInfo {
    name: "auto-converge",
    rule: "when the guest twice dirties more than half of what was sent, throttle it by 20 %, and \
           by 10 % more each further time, up to 99 %",
    source: "QEMU, migration/ram.c, migration_trigger_throttle, mig_throttle_guest_down",
    parameters: &[
        ParameterInfo::new(
            "threshold_percent",
            ParameterKind::Integer { min: 1, max: 100 },
            "50",
            "share of the bytes sent that the guest may dirty in the same time",
        ),
        ParameterInfo::new("initial_percent", PERCENT, "20", "the first throttle"),
        ParameterInfo::new("increment_percent", PERCENT, "10", "each further step"),
        ParameterInfo::new("max_percent", PERCENT, "99", "the hardest throttle"),
        ParameterInfo::new(
            "tail_slow",
            ParameterKind::Switch,
            "false",
            "smaller steps where the excess asks for less",
        ),
    ],
    build: |values| {
        let percent = |name| u8::try_from(values.integer(name)).unwrap_or(99);
        Box::new(AutoConverge {
            threshold_percent: values.integer("threshold_percent"),
            initial_percent: percent("initial_percent"),
            increment_percent: percent("increment_percent"),
            max_percent: percent("max_percent"),
            tail_slow: values.switch("tail_slow"),
            sent_before: 0,
            over: 0,
            percent: 0,
        })
    },
};

/// QEMU's auto-converge.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct AutoConverge {
    threshold_percent: u64,
    initial_percent: u8,
    increment_percent: u8,
    max_percent: u8,
    tail_slow: bool,
    /// Bytes sent by the last harvest.
    sent_before: u64,
    /// Harvests in a row above the threshold.
    over: u8,
    percent: u8,
}

impl AutoConverge {
    fn step_up(&mut self, dirty_bytes: u64, allowed_bytes: u64) {
        if self.percent == 0 {
            self.percent = self.initial_percent;
        } else if self.tail_slow {
            let cpu = u64::from(100 - self.percent);
            let wanted = cpu.saturating_sub(cpu * allowed_bytes / dirty_bytes.max(1));
            let step = wanted.min(u64::from(self.increment_percent));
            self.percent += u8::try_from(step).unwrap_or(self.increment_percent);
        } else {
            self.percent = self.percent.saturating_add(self.increment_percent);
        }
        self.percent = self.percent.min(self.max_percent);
    }
}

impl ThrottlePolicy for AutoConverge {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn throttle(&mut self, seen: &Observation) -> Throttle {
        if let (Moment::Harvested, Some(pages)) = (seen.moment, seen.harvested_pages) {
            let sent = seen.sent_wire_bytes.saturating_sub(self.sent_before);
            self.sent_before = seen.sent_wire_bytes;
            let dirty = pages.saturating_mul(seen.page_bytes);
            let allowed = sent.saturating_mul(self.threshold_percent) / 100;
            // The first pass sends everything; QEMU, too, waits for it (and for its first sync).
            if seen.rounds_sent > 0 && dirty > allowed {
                self.over += 1;
                if self.over >= 2 {
                    self.over = 0;
                    self.step_up(dirty, allowed);
                }
            }
        }
        Throttle::percent(self.percent)
    }

    fn fork(&self) -> Box<dyn ThrottlePolicy> {
        Box::new(self.clone())
    }
}
