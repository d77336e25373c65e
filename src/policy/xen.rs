// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Xen's rule today (`simple_precopy_policy`, tools/libs/guest/xg_sr_save.c).
//!
//! Xen asks twice per pass: when the dirty pages are known (here [`Moment::Harvested`]) and, with
//! their number unknown, after they were sent ([`Moment::Sent`]). Both times it stops once 5
//! passes were sent, and the first time also when fewer than 50 pages are dirty. But a stop at the
//! first question still sends the set live before the pause, so that the answer is remembered
//! here until the set was sent. An empty set is not sent.

use super::parameters::{ParameterInfo, ParameterKind};
use super::{Moment, Observation, PolicyInfo, StopPolicy, Verdict};
use crate::limits;

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "xen",
    rule: "pause after 5 rounds, or after sending a harvest of fewer than 50 pages live",
    source: "Xen, tools/libs/guest/xg_sr_save.c, simple_precopy_policy",
    parameters: &[
        ParameterInfo::new(
            "max_rounds",
            ParameterKind::Integer { min: 1, max: limits::ROUNDS_MAX as u64 },
            "5",
            "live rounds at most, the full one included (SPP_MAX_ITERATIONS)",
        ),
        ParameterInfo::new(
            "min_pages",
            ParameterKind::Integer { min: 0, max: limits::PAGES_MAX },
            "50",
            "a harvest of fewer pages than this is the last live one (SPP_TARGET_DIRTY_COUNT)",
        ),
    ],
    build: |values| {
        Box::new(Xen {
            max_rounds: values.small("max_rounds"),
            min_pages: values.integer("min_pages"),
            last: false,
        })
    },
};

/// Xen's rule today.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Xen {
    max_rounds: u32,
    min_pages: u64,
    /// The round that is being sent is the last live one.
    last: bool,
}

impl StopPolicy for Xen {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        let (rounds, pages) = (seen.rounds_sent, seen.residual_pages);
        match seen.moment {
            Moment::Harvested => {
                let few = pages < self.min_pages;
                self.last = few || rounds >= self.max_rounds;
                let why = match few {
                    true => format!("{pages} pages dirty, fewer than {}", self.min_pages),
                    false => format!("{pages} pages dirty after {rounds} rounds"),
                };
                match (pages, self.last) {
                    (0, true) => Verdict::stop(why),
                    (_, true) => Verdict::go_on(why + ": sends them live, then stops"),
                    (_, false) => Verdict::go_on(why),
                }
            }
            Moment::Sent if self.last => Verdict::stop("the last live set was sent"),
            Moment::Sent if rounds >= self.max_rounds => {
                Verdict::stop(format!("{rounds} rounds sent"))
            }
            Moment::Sent => Verdict::go_on(format!("{rounds} of {} rounds sent", self.max_rounds)),
            Moment::Cadence => Verdict::go_on("within a round"),
        }
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}
