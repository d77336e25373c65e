// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The secretary rule, as a negative control: it makes the best pick likely, not a bad one rare.
//!
//! Of a horizon of n harvests the first n/e are only looked at; then the first that is below all of
//! them is taken, or the last. In a random order this finds the least with probability near 1/e,
//! whatever the values; it does nothing for the expected downtime (heuristics catalogue, T19).

use super::parameters::{ParameterInfo, ParameterKind};
use super::{Moment, Observation, PolicyInfo, StopPolicy, Verdict};
use crate::limits;

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "secretary",
    rule: "look at the first 1/e of 30 harvests, then pause at the first below all of them, or at \
           the last (a negative control)",
    source: "the secretary problem; Ferguson, Statistical Science 1989",
    parameters: &[ParameterInfo::new(
        "horizon",
        ParameterKind::Integer { min: 1, max: limits::ROUNDS_MAX as u64 },
        "30",
        "harvests after the first round, at the last of which it pauses",
    )],
    build: |values| {
        let horizon = values.small("horizon");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "less than the horizon"
        )]
        let looks = (f64::from(horizon) / std::f64::consts::E) as u32;
        Box::new(Secretary { horizon, looks, seen: 0, least: None })
    },
};

/// The secretary rule.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Secretary {
    horizon: u32,
    /// Harvests that are only looked at.
    looks: u32,
    /// Harvests so far.
    seen: u32,
    least: Option<u64>,
}

impl StopPolicy for Secretary {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        if seen.moment != Moment::Harvested || seen.rounds_sent == 0 {
            return Verdict::go_on("asked only at a harvest after a round");
        }
        let pages = seen.residual_pages;
        self.seen = self.seen.saturating_add(1);
        let best = self.least.is_none_or(|least| pages < least);
        self.least = Some(self.least.map_or(pages, |least| least.min(pages)));
        let why = format!("{pages} pages at harvest {} of {}", self.seen, self.horizon);
        Verdict::stop_if(self.seen >= self.horizon || (best && self.seen > self.looks), why)
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::tests::play_named;
    use crate::sim::Rng;

    #[test]
    fn looks_first_then_takes_the_first_better_one() {
        // 11 of 30 are only looked at.
        let mut harvests = vec![10_000];
        harvests.extend([500, 400, 300, 600, 600, 600, 600, 600, 600, 600, 600]);
        harvests.extend([300, 299, 1]);
        assert_eq!(play_named("secretary", &harvests), (13, "stop_and_copy"));
        assert_eq!(play_named("secretary", &[500; 40]), (30, "stop_and_copy"), "the last");
        assert_eq!(play_named("secretary:horizon=1", &[500; 4]), (1, "stop_and_copy"));
    }

    #[test]
    fn it_finds_the_least_about_once_in_e() {
        let mut rng = Rng::new(7);
        let found = (0..4000).filter(|_| {
            let mut harvests: Vec<u64> = (0..31).collect();
            for at in (2..31).rev() {
                harvests.swap(at, 1 + usize::try_from(rng.below(at as u64)).unwrap());
            }
            let (round, _) = play_named("secretary", &harvests);
            harvests[round as usize] == 1
        });
        let share = found.count() as f64 / 4000.0;
        // The exact probability for n = 30 and 11 looks is 0.3786.
        assert!((share - 0.3786).abs() < 0.03, "{share}");
    }
}
