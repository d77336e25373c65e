// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Clark's adaptive rate: a little more than what the guest dirties.
//!
//! The first round goes at the least rate; after each round the rate becomes the dirty rate of
//! that round plus a step, within bounds. As in Xen's code it only ever rises.

use super::{RateInfo, RatePolicy};
use crate::policy::parameters::{ParameterInfo, ParameterKind};
use crate::policy::{Moment, Observation};

pub(super) const INFO: RateInfo = RateInfo {
    name: "clark-rate",
    rule: "the least rate at first, then the dirty rate of the last round plus a step, up to a \
           maximum; never lower again",
    source: "Clark et al., NSDI 2005, 3.3; Xen before 2011, tools/libxc, ADAPTIVE_SAVE",
    parameters: &[
        ParameterInfo::new(
            "min_bytes_per_s",
            ParameterKind::Integer { min: 1, max: 1 << 50 },
            "12500000",
            "rate of the first round (100 Mb/s)",
        ),
        ParameterInfo::new(
            "max_bytes_per_s",
            ParameterKind::Integer { min: 1, max: 1 << 50 },
            "62500000",
            "highest rate (500 Mb/s)",
        ),
        ParameterInfo::new(
            "step_bytes_per_s",
            ParameterKind::Integer { min: 0, max: 1 << 50 },
            "6250000",
            "what is added to the dirty rate (50 Mb/s)",
        ),
    ],
    build: |values| {
        let min = values.integer("min_bytes_per_s");
        Box::new(ClarkRate {
            max_bytes_per_s: values.integer("max_bytes_per_s").max(min),
            step_bytes_per_s: values.integer("step_bytes_per_s"),
            rate_bytes_per_s: min,
        })
    },
};

/// Clark's adaptive rate.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ClarkRate {
    max_bytes_per_s: u64,
    step_bytes_per_s: u64,
    rate_bytes_per_s: u64,
}

impl RatePolicy for ClarkRate {
    fn name(&self) -> &'static str {
        INFO.name
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an estimated rate"
    )]
    fn rate(&mut self, seen: &Observation) -> Option<u64> {
        if let (Moment::Harvested, Some(dirty)) = (seen.moment, seen.dirty_pages_per_s) {
            let dirty = (dirty * seen.page_bytes as f64) as u64;
            let wanted = dirty.saturating_add(self.step_bytes_per_s).min(self.max_bytes_per_s);
            self.rate_bytes_per_s = self.rate_bytes_per_s.max(wanted);
        }
        Some(self.rate_bytes_per_s)
    }

    fn fork(&self) -> Box<dyn RatePolicy> {
        Box::new(self.clone())
    }
}
