// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Deadline pacing: just fast enough to be done in time.
//!
//! The rate is the work that is left over the time that is left, and on top of it what the guest
//! dirties meanwhile, or the work would not shrink: `residual / (deadline - elapsed) + dirty rate`.
//! Asked after each harvest and at the cadence; the rate never falls below the least one, and once
//! the deadline has passed nothing holds it back.

use std::time::Duration;

use super::{RateInfo, RatePolicy};
use crate::policy::parameters::{ParameterInfo, ParameterKind};
use crate::policy::{Moment, Observation};

pub(super) const INFO: RateInfo = RateInfo {
    name: "deadline",
    rule: "the work left over the time left to the deadline, plus what the guest dirties",
    source: "heuristics.md 1D, R5; cf. Pacer (ICAC 2013)",
    parameters: &[
        ParameterInfo::new(
            "deadline_ms",
            ParameterKind::IntegerOr { min: 1, max: 31_536_000_000, word: "limit" },
            "limit",
            "time to be done in, from the first page; limit: the run's deadline, if it has one",
        ),
        ParameterInfo::new(
            "min_bytes_per_s",
            ParameterKind::Integer { min: 1, max: 1 << 50 },
            "1000000",
            "least rate",
        ),
    ],
    build: |values| {
        Box::new(DeadlinePacing {
            deadline: values.integer_or("deadline_ms").map(Duration::from_millis),
            min_bytes_per_s: values.integer("min_bytes_per_s"),
            rate_bytes_per_s: None,
        })
    },
};

/// Deadline pacing.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DeadlinePacing {
    deadline: Option<Duration>,
    min_bytes_per_s: u64,
    rate_bytes_per_s: Option<u64>,
}

impl RatePolicy for DeadlinePacing {
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
        // What a round that was sent leaves is not known before the harvest that follows.
        if seen.moment != Moment::Sent {
            let left = self.deadline.or(seen.deadline)?.saturating_sub(seen.elapsed);
            self.rate_bytes_per_s = (!left.is_zero()).then(|| {
                let work = seen.residual_wire_bytes as f64 / left.as_secs_f64();
                let dirty = seen.dirty_pages_per_s.unwrap_or(0.0) * seen.page_bytes as f64;
                ((work + dirty) as u64).max(self.min_bytes_per_s)
            });
        }
        self.rate_bytes_per_s
    }

    fn fork(&self) -> Box<dyn RatePolicy> {
        Box::new(self.clone())
    }
}
