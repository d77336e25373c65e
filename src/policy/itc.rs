// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stopping when a round gains too little for its cost (ITC-LM, Zhu et al., NPC 2013), from the
//! abstract and memory.
//!
//! A round costs the pages that it sends, and gains what the residual is smaller afterwards. When
//! the gain is less than a share of the cost, the guest is paused. Asked at each harvest after
//! the first round.
//!
//! # Differences
//! The paper adapts its threshold by a rule that could not be checked; here it is a parameter. A
//! small harvest stops too, as in Xen, on which the paper was built.

use super::estimate::Rounds;
use super::parameters::{ParameterInfo, ParameterKind};
use super::{Moment, Observation, PolicyInfo, StopPolicy, Verdict};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "itc",
    rule: "pause when a round made the residual smaller by less than 10 % of what it sent, or at a \
           harvest of fewer than 50 pages",
    source: "ITC-LM, Zhu et al., NPC 2013",
    parameters: &[
        ParameterInfo::new(
            "min_gain_percent",
            ParameterKind::Number { min: -1e6, max: 100.0 },
            "10",
            "least gain of a round, in percent of the pages that it sent",
        ),
        ParameterInfo::FEW_PAGES,
    ],
    build: |values| {
        Box::new(Itc {
            min_gain: values.number("min_gain_percent") / 100.0,
            min_pages: values.integer(ParameterInfo::FEW_PAGES.name),
            rounds: Rounds::default(),
            last_pages: None,
        })
    },
};

/// Stops when a round gains too little.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Itc {
    min_gain: f64,
    min_pages: u64,
    rounds: Rounds,
    /// Pages that were left when the round before the last ended.
    last_pages: Option<u64>,
}

impl StopPolicy for Itc {
    fn name(&self) -> &'static str {
        INFO.name
    }

    #[expect(clippy::cast_precision_loss, reason = "compared with a rough share")]
    fn judge(&mut self, seen: &Observation) -> Verdict {
        if seen.moment != Moment::Harvested {
            return Verdict::go_on("asked only at a harvest after a round");
        }
        let (pages, cost) = (seen.residual_pages, self.rounds.ended(seen));
        let last = *self.last_pages.get_or_insert(pages);
        let Some(cost) = cost else {
            return Verdict::go_on("asked only at a harvest after a round");
        };
        self.last_pages = Some(pages);
        if pages < self.min_pages {
            return Verdict::stop(format!("{pages} pages dirty, fewer than {}", self.min_pages));
        }
        let gain = (last as f64 - pages as f64) / (cost.max(1) as f64);
        let why = format!("the round gained {:.1} % of {cost} pages sent", gain * 100.0);
        if gain < self.min_gain { Verdict::stop(why) } else { Verdict::go_on(why) }
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::tests::play_named;

    #[test]
    fn a_round_must_gain_its_share() {
        // 10 % of 1000 is 100.
        assert_eq!(play_named("itc", &[10_000, 1000, 900, 811]), (3, "stop_and_copy"));
        assert_eq!(play_named("itc", &[10_000, 1000, 901, 50]), (2, "stop_and_copy"));
        assert_eq!(play_named("itc:min_gain_percent=0", &[10_000, 1000, 1000, 900]).0, u32::MAX);
        assert_eq!(play_named("itc:min_gain_percent=0", &[10_000, 1000, 1001]).0, 2);
        assert_eq!(play_named("itc", &[10_000, 49]), (1, "stop_and_copy"));
        assert_eq!(play_named("itc", &[9]).0, u32::MAX, "the first round is sent");
    }
}
