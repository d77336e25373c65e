// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Xen's rule when it was built with `ADAPTIVE_SAVE` (tools/libxc/xc_domain_save.c, added in 2004,
//! behind an `#ifdef` from 2005, removed by e611ad5b in 2011).
//!
//! [`XenLegacy`](super::XenLegacy)'s three limits, and a fourth: stop when a pass sent more than
//! the one before it although sending is at its greatest rate. The rate begins at 100 Mbit/s;
//! when a pass is over and more was dirtied in it per second than the rate, the rate becomes that
//! plus 50, at most 500. It is never lowered.
//!
//! # Differences
//! The rate is followed for the stop rule only; sending at it is a rate policy's affair. Xen
//! counts rates in whole megabits.

use super::clark::DirtyRate;
use super::estimate::Rounds;
use super::parameters::{ParameterInfo, ParameterKind};
use super::{Moment, Observation, PolicyInfo, StopPolicy, Verdict, XenLegacy};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "xen-adaptive",
    rule: "xen-legacy, and pause when a round sent more than the last although the rate, which \
           follows the dirty rate, is at its greatest",
    source: "Xen up to 4.1 with ADAPTIVE_SAVE, tools/libxc/xc_domain_save.c",
    parameters: &[
        XenLegacy::MAX_ROUNDS,
        XenLegacy::MAX_FACTOR,
        XenLegacy::MIN_PAGES,
        XenLegacy::SKIP,
        ParameterInfo::new(
            "start_mbit",
            ParameterKind::Integer { min: 1, max: 1_000_000_000 },
            "100",
            "rate of the first round in megabits per second (START_MBIT_RATE)",
        ),
        DirtyRate::MAX,
        DirtyRate::STEP,
    ],
    build: |values| {
        Box::new(XenAdaptive {
            legacy: XenLegacy::from_values(values),
            rate: DirtyRate::from_values(values),
            mbit: f64::from(values.small("start_mbit")),
            rounds: Rounds::default(),
            last_sent: None,
        })
    },
};

/// Xen's rule with `ADAPTIVE_SAVE`.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct XenAdaptive {
    legacy: XenLegacy,
    rate: DirtyRate,
    /// The rate in force.
    mbit: f64,
    rounds: Rounds,
    /// Pages sent in the round before the last.
    last_sent: Option<u64>,
}

impl XenAdaptive {
    fn follow(&mut self, seen: &Observation) {
        if DirtyRate::dirty_mbit(seen).is_some_and(|dirty| dirty > self.mbit)
            && let Some(wanted) = self.rate.wanted_mbit(seen)
        {
            self.mbit = wanted.min(self.rate.max_mbit());
        }
    }
}

impl StopPolicy for XenAdaptive {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        match seen.moment {
            Moment::Harvested => self.follow(seen),
            Moment::Sent => {
                if let Some(sent) = self.rounds.ended(seen) {
                    let last = self.last_sent.replace(sent).unwrap_or(seen.total_pages);
                    if sent > last && self.mbit >= self.rate.max_mbit() {
                        return Verdict::stop(format!(
                            "the round sent {sent} pages, after {last}, at the greatest rate"
                        ));
                    }
                }
            }
            Moment::Cadence => {}
        }
        self.legacy.judge(seen)
    }

    fn skips_redirtied(&self, round: u32) -> bool {
        self.legacy.skips_redirtied(round)
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::tests::{play_named, seen};
    use crate::policy::{Moment, StopPolicy, parse};

    /// Round `rounds` that sent `sent` pages after a harvest at `mbit` of dirty pages, and
    /// `before` sent until then.
    fn round(
        policy: &mut dyn StopPolicy,
        rounds: u32,
        mbit: f64,
        (before, sent): (u64, u64),
    ) -> &'static str {
        let mut now = seen(Moment::Harvested, rounds, sent);
        now.dirty_pages_per_s = (rounds > 0).then_some(mbit * 1e6 / 8.0 / 4096.0);
        assert_eq!(policy.judge(&now).word(), "continue");
        let mut now = seen(Moment::Sent, rounds + 1, 0);
        (now.round_sent_pages, now.sent_pages) = (sent, before + sent);
        policy.judge(&now).word()
    }

    #[test]
    fn growth_counts_only_at_the_greatest_rate() {
        let mut policy = parse("xen-adaptive").unwrap();
        assert_eq!(round(&mut *policy, 0, 0.0, (0, 10_000)), "continue");
        assert_eq!(round(&mut *policy, 1, 449.0, (10_000, 900)), "continue");
        // 449 + 50 Mbit/s are not the greatest rate.
        assert_eq!(
            round(&mut *policy, 2, 400.0, (10_900, 901)),
            "continue",
            "below the rate: kept at 499"
        );
        assert_eq!(round(&mut *policy, 3, 499.5, (11_801, 901)), "continue", "no growth");
        assert_eq!(
            round(&mut *policy, 4, 10.0, (12_702, 902)),
            "stop_and_copy",
            "the rate is never lowered"
        );
    }

    #[test]
    fn the_legacy_limits_hold() {
        let mut rounds = vec![10_000];
        rounds.extend([700; 40]);
        assert_eq!(play_named("xen-adaptive", &rounds), (29, "stop_and_copy"));
        assert_eq!(play_named("xen-adaptive", &[10_000, 50, 49, 9]), (3, "stop_and_copy"));
        assert!(parse("xen-adaptive").unwrap().skips_redirtied(1));
    }
}
