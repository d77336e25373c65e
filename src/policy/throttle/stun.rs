// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stun during page send: while the guest dirties faster than the link sends, short sleeps slow it
//! to what the link can follow.
//!
//! At each harvest after the first pass: the rate at which the guest would dirty unthrottled is
//! what was measured over the share of time that it had; it gets the share that brings this to
//! `target_percent` of the delivered bandwidth. Where that is all of it, nothing is throttled, so
//! the throttle goes as soon as it is not needed any more.

use super::{ThrottleInfo, ThrottlePolicy, bytes, share};
use crate::policy::parameters::{ParameterInfo, ParameterKind};
use crate::policy::{Moment, Observation};
use crate::units::Throttle;

pub(super) const INFO: ThrottleInfo = ThrottleInfo {
    name: "stun",
    rule: "while the dirty rate is above the rate of sending, throttle the guest to the share of \
           time that brings it below",
    source: "VMware vSphere 5, Stun During Page Send (SDPS); Clark et al. 2005, rogue processes",
    parameters: &[
        ParameterInfo::new(
            "target_percent",
            ParameterKind::Integer { min: 1, max: 100 },
            "90",
            "what the dirty rate is brought to, as a share of the rate of sending",
        ),
        ParameterInfo::new(
            "max_percent",
            ParameterKind::Integer { min: 1, max: 99 },
            "95",
            "the hardest throttle",
        ),
    ],
    build: |values| {
        Box::new(Stun {
            target: bytes(values.integer("target_percent")) / 100.0,
            max_share: bytes(values.integer("max_percent")) / 100.0,
            share: 0.0,
        })
    },
};

/// Stun during page send.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Stun {
    target: f64,
    max_share: f64,
    share: f64,
}

impl ThrottlePolicy for Stun {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn throttle(&mut self, seen: &Observation) -> Throttle {
        let rates = seen.dirty_pages_per_s.zip(seen.round_bandwidth_bytes_per_s);
        if let (Moment::Harvested, 0, Some((dirty, sending))) =
            (seen.moment, seen.unsent_pages, rates)
        {
            let ran = 1.0 - f64::from(seen.throttle.get()) / 100.0;
            let freely = dirty * bytes(seen.page_bytes) / ran.max(0.01);
            let follows = if freely > 0.0 { sending * self.target / freely } else { 1.0 };
            self.share = (1.0 - follows).clamp(0.0, self.max_share);
        }
        share(self.share)
    }

    fn fork(&self) -> Box<dyn ThrottlePolicy> {
        Box::new(self.clone())
    }
}
