// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Soft landing: a deep throttle for a moment, where it drains the last pages, instead of a long
//! one.
//!
//! When a harvest finds the residual no higher than at any of the last `lull` harvests, and what
//! is left takes no longer than `reach_ms` to send, the guest is throttled hard for up to
//! `longest_ms`: in that time almost nothing is added, and the residual falls at the link's speed
//! to what the stop policy waits for. If no stop comes of it the throttle is let go, and the next
//! attempt comes no sooner than `rest_ms` later.

use std::collections::VecDeque;
use std::time::Duration;

use super::{ThrottleInfo, ThrottlePolicy};
use crate::policy::parameters::{ParameterInfo, ParameterKind};
use crate::policy::{Moment, Observation};
use crate::units::{Throttle, Tick};

const TIME: ParameterKind = ParameterKind::Integer { min: 1, max: 600_000 };

pub(super) const INFO: ThrottleInfo = ThrottleInfo {
    name: "soft-landing",
    rule: "at a low of the residual that the link could drain at once, throttle hard for a moment",
    source: "precopy; heuristics.md 6.9",
    parameters: &[
        ParameterInfo::new("percent", ParameterKind::Integer { min: 1, max: 99 }, "95", "how hard"),
        ParameterInfo::new("reach_ms", TIME, "200", "what is left takes no longer to send"),
        ParameterInfo::new("longest_ms", TIME, "100", "for no longer than this"),
        ParameterInfo::new("rest_ms", TIME, "1000", "from the end of one to the next, at least"),
        ParameterInfo::new(
            "lull",
            ParameterKind::Integer { min: 0, max: 1000 },
            "10",
            "so many harvests before had as much left or more",
        ),
    ],
    build: |values| {
        let time = |name| Duration::from_millis(values.integer(name));
        Box::new(SoftLanding {
            throttle: Throttle::percent(u8::try_from(values.integer("percent")).unwrap_or(99)),
            reach: time("reach_ms"),
            longest: time("longest_ms"),
            rest: time("rest_ms"),
            lull: values.small("lull") as usize,
            residuals: VecDeque::new(),
            until: None,
            not_before: Tick::ZERO,
        })
    },
};

/// Soft landing.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SoftLanding {
    throttle: Throttle,
    reach: Duration,
    longest: Duration,
    rest: Duration,
    lull: usize,
    /// Of the last harvests, in pages.
    residuals: VecDeque<u64>,
    /// While it throttles.
    until: Option<Tick>,
    not_before: Tick,
}

impl SoftLanding {
    fn lands(&self, seen: &Observation) -> bool {
        let time = seen.residual_time(seen.round_bandwidth_bytes_per_s);
        seen.unsent_pages == 0
            && seen.now >= self.not_before
            && time.is_some_and(|time| time <= self.reach)
            && self.residuals.len() >= self.lull
            && self.residuals.iter().all(|before| seen.residual_pages <= *before)
    }
}

impl ThrottlePolicy for SoftLanding {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn throttle(&mut self, seen: &Observation) -> Throttle {
        if let Some(until) = self.until.filter(|until| seen.now >= *until) {
            (self.until, self.not_before) = (None, until + self.rest);
        }
        if seen.moment == Moment::Harvested {
            if self.until.is_none() && self.lands(seen) {
                self.until = Some(seen.now + self.longest);
            }
            if seen.unsent_pages == 0 {
                self.residuals.push_back(seen.residual_pages);
            }
            while self.residuals.len() > self.lull {
                self.residuals.pop_front();
            }
        }
        if self.until.is_some() { self.throttle } else { Throttle::NONE }
    }

    fn fork(&self) -> Box<dyn ThrottlePolicy> {
        Box::new(self.clone())
    }
}
