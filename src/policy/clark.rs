// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rule of Clark et al., "Live Migration of Virtual Machines" (NSDI 2005), from memory of the
//! paper.
//!
//! Each round is sent at the rate at which the round before it dirtied pages, plus a constant.
//! The rounds end when that rate would be above the most that is allowed, or when little is left.
//! Asked at each harvest after the first round.
//!
//! # Differences
//! This is the stop rule alone: the rate at which rounds are sent is a rate policy's affair. Bytes
//! left are whole pages; the dirty rate is of distinct pages over the time between two harvests.

use super::parameters::{ParameterInfo, ParameterKind, Values};
use super::{BudgetTest, Moment, Observation, PolicyInfo, StopPolicy, Verdict};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "clark",
    rule: "pause when less than 256 KiB are left, or when following the dirty rate would take \
           more than the most that is allowed",
    source: "Clark et al., NSDI 2005, section on dynamic rate limiting",
    parameters: &[
        ParameterInfo::new(
            "min_bytes",
            ParameterKind::Integer { min: 0, max: 1 << 50 },
            "262144",
            "fewer bytes left than this are sent paused",
        ),
        DirtyRate::MAX,
        DirtyRate::STEP,
    ],
    build: |values| {
        Box::new(Clark {
            min_bytes: values.integer("min_bytes"),
            rate: DirtyRate::from_values(values),
        })
    },
};

/// A sending rate that follows the dirty rate up to a limit, as in the paper and in Xen's
/// `ADAPTIVE_SAVE`.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct DirtyRate {
    max_mbit: f64,
    step_mbit: f64,
}

impl DirtyRate {
    pub(super) const MAX: ParameterInfo = ParameterInfo::new(
        "max_mbit",
        ParameterKind::Integer { min: 1, max: 1_000_000_000 },
        "500",
        "most that may be sent, in megabits per second (MAX_MBIT_RATE)",
    );

    pub(super) const STEP: ParameterInfo = ParameterInfo::new(
        "step_mbit",
        ParameterKind::Integer { min: 0, max: 1_000_000_000 },
        "50",
        "by how much sending is faster than the guest dirtied pages, in megabits per second",
    );

    #[expect(clippy::cast_precision_loss, reason = "bounded far below 2^52")]
    pub(super) fn from_values(values: &Values) -> Self {
        let mbit = |info: ParameterInfo| values.integer(info.name) as f64;
        Self { max_mbit: mbit(Self::MAX), step_mbit: mbit(Self::STEP) }
    }

    pub(super) fn max_mbit(&self) -> f64 {
        self.max_mbit
    }

    /// What the guest dirtied over the last harvest interval, in megabits per second.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(super) fn dirty_mbit(seen: &Observation) -> Option<f64> {
        Some(seen.dirty_pages_per_s? * seen.page_bytes as f64 * 8.0 / 1e6)
    }

    /// The rate for the next round, without the limit.
    pub(super) fn wanted_mbit(&self, seen: &Observation) -> Option<f64> {
        Some(Self::dirty_mbit(seen)? + self.step_mbit)
    }
}

/// The rule of Clark et al.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Clark {
    min_bytes: u64,
    rate: DirtyRate,
}

impl StopPolicy for Clark {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        if seen.moment != Moment::Harvested || seen.rounds_sent == 0 {
            return Verdict::go_on("asked only at a harvest after a round");
        }
        let (left, max) = (BudgetTest::pending_bytes(seen), self.rate.max_mbit);
        if left < self.min_bytes {
            return Verdict::stop(format!("{left} bytes left, fewer than {}", self.min_bytes));
        }
        match self.rate.wanted_mbit(seen) {
            Some(rate) if rate > max => {
                Verdict::stop(format!("the next round would need {rate:.0} of {max} Mbit/s"))
            }
            Some(rate) => Verdict::go_on(format!("the next round needs {rate:.0} Mbit/s")),
            None => Verdict::go_on("no dirty rate is known yet"),
        }
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::tests::{play_named, seen};
    use crate::policy::{Moment, parse};

    #[test]
    fn little_left_ends_the_rounds() {
        // 64 pages are 256 KiB.
        assert_eq!(play_named("clark", &[10_000, 64, 63, 9]), (2, "stop_and_copy"));
        assert_eq!(play_named("clark", &[9, 64, 64]).0, u32::MAX, "round 0 is sent");
    }

    #[test]
    fn a_dirty_rate_that_cannot_be_followed_ends_the_rounds() {
        let mut policy = parse("clark").unwrap();
        let mut word = |mbit: f64| {
            let mut now = seen(Moment::Harvested, 1, 5000);
            now.dirty_pages_per_s = Some(mbit * 1e6 / 8.0 / 4096.0);
            policy.judge(&now).word()
        };
        assert_eq!(word(449.9), "continue");
        assert_eq!(word(450.1), "stop_and_copy");
    }
}
