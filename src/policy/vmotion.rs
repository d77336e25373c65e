// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A rule like VMware VMotion's, from memory of Nelson et al., "Fast Transparent Migration for
//! Virtual Machines" (USENIX ATC 2005), and of later product documents; no source was read.
//!
//! Rounds go on until little is left, or until a round made no forward progress: in 2005 fewer
//! than 16 MiB, or less than 1 MiB less than the round before. Later releases switch over once
//! what is left takes less than a switchover time of half a second. Asked at each harvest after
//! the first round.
//!
//! # Differences
//! The original of 2005 is `switchover_ms=off`. What vMotion does beyond this when the guest
//! dirties faster than the link sends (slowing its processors) is a throttle policy's affair.

use std::time::Duration;

use super::estimate::Rounds;
use super::parameters::{ParameterInfo, ParameterKind};
use super::{BudgetTest, Moment, Observation, PolicyInfo, StopPolicy, Verdict};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "vmotion",
    rule: "pause when less than 16 MiB or half a second is left, or when a round made less than \
           1 MiB of progress",
    source: "like VMware VMotion: Nelson et al., USENIX ATC 2005, and later documents",
    parameters: &[
        ParameterInfo::new(
            "min_bytes",
            ParameterKind::Integer { min: 0, max: 1 << 50 },
            "16777216",
            "fewer bytes left than this are sent paused",
        ),
        ParameterInfo::new(
            "min_progress_bytes",
            ParameterKind::Integer { min: 0, max: 1 << 50 },
            "1048576",
            "a harvest that is not at least so much smaller than the last one ends the rounds",
        ),
        ParameterInfo::new(
            "switchover_ms",
            ParameterKind::IntegerOr { min: 1, max: 2_000_000, word: "off" },
            "500",
            "what takes less than this at the last round's bandwidth is sent paused",
        ),
    ],
    build: |values| {
        Box::new(Vmotion {
            min_bytes: values.integer("min_bytes"),
            min_progress_bytes: values.integer("min_progress_bytes"),
            switchover: values.integer_or("switchover_ms").map(Duration::from_millis),
            rounds: Rounds::default(),
            last_bytes: None,
        })
    },
};

/// A rule like VMotion's.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Vmotion {
    min_bytes: u64,
    min_progress_bytes: u64,
    switchover: Option<Duration>,
    rounds: Rounds,
    /// Bytes left when the last round ended.
    last_bytes: Option<u64>,
}

impl StopPolicy for Vmotion {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        if seen.moment != Moment::Harvested {
            return Verdict::go_on("asked only at a harvest");
        }
        let left = BudgetTest::pending_bytes(seen);
        if seen.rounds_sent == 0 {
            self.last_bytes.get_or_insert(left);
            return Verdict::go_on("the first round");
        }
        if left < self.min_bytes {
            return Verdict::stop(format!("{left} bytes left, fewer than {}", self.min_bytes));
        }
        let time = seen.residual_time(seen.round_bandwidth_bytes_per_s);
        if let (Some(time), Some(limit)) = (time, self.switchover)
            && time < limit
        {
            return Verdict::stop(format!("the residual takes {time:.1?}, less than {limit:?}"));
        }
        let last = self.rounds.ended(seen).and_then(|_| self.last_bytes.replace(left));
        match last {
            Some(last) if last.saturating_sub(left) < self.min_progress_bytes => {
                Verdict::stop(format!("no progress: {left} bytes left, after {last}"))
            }
            _ => Verdict::go_on(format!("{left} bytes left")),
        }
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::tests::play_named;

    #[test]
    fn each_of_the_three_conditions_ends_the_rounds() {
        // 4096 pages are 16 MiB, 256 are 1 MiB; 1000 pages take one second.
        let old = "vmotion:switchover_ms=off";
        assert_eq!(play_named(old, &[10_000, 5000, 4096, 3840]), (3, "stop_and_copy"));
        assert_eq!(play_named(old, &[10_000, 9744, 9488, 9233]), (3, "stop_and_copy"), "gain 255");
        assert_eq!(play_named(old, &[10_000, 9744, 9488, 9232]).0, u32::MAX, "gain 256");
        let timed = "vmotion:min_bytes=0,min_progress_bytes=0";
        assert_eq!(play_named(timed, &[10_000, 600, 500, 499]), (3, "stop_and_copy"));
        assert_eq!(play_named("vmotion", &[10_000, 20_000]), (1, "stop_and_copy"), "growth");
        assert_eq!(play_named("vmotion", &[9]).0, u32::MAX, "the first round is sent");
    }
}
