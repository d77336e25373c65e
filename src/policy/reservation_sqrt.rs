// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The reservation rule for a residual between known bounds (El-Yaniv et al., "Optimal Search and
//! One-Way Trading Online Algorithms", Algorithmica 2001): pause at the first harvest of at most
//! the geometric mean of the bounds, or at the last that is allowed.
//!
//! If all residuals are between m and M, the one that is taken is at most sqrt(M/m) times the
//! least: one that was taken early is at most sqrt(mM) where the least is at least m; and if none
//! was, the least is over sqrt(mM) where the last is at most M. No deterministic rule that does
//! not know the future has a better ratio.

use super::parameters::{ParameterInfo, ParameterKind};
use super::{Moment, Observation, PolicyInfo, StopPolicy, Verdict};
use crate::limits;

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "reservation-sqrt",
    rule: "pause at the first harvest of at most sqrt(m M) pages, where m = 64 and M = the memory \
           bound it, or after 30 rounds",
    source: "El-Yaniv, Fiat, Karp, Turpin, Algorithmica 2001, reservation price policy",
    parameters: &[
        ParameterInfo::new(
            "min_pages",
            ParameterKind::Integer { min: 1, max: limits::PAGES_MAX },
            "64",
            "no harvest is expected to be smaller (m)",
        ),
        ParameterInfo::new(
            "max_pages",
            ParameterKind::IntegerOr { min: 1, max: limits::PAGES_MAX, word: "populated" },
            "populated",
            "no harvest is expected to be larger (M)",
        ),
        ParameterInfo::new(
            "max_rounds",
            ParameterKind::Integer { min: 1, max: limits::ROUNDS_MAX as u64 },
            "30",
            "live rounds at most, after which it pauses at whatever is there",
        ),
    ],
    build: |values| {
        Box::new(ReservationSqrt {
            min_pages: values.integer("min_pages"),
            max_pages: values.integer_or("max_pages"),
            max_rounds: values.small("max_rounds"),
        })
    },
};

/// The reservation rule for a residual between known bounds.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ReservationSqrt {
    min_pages: u64,
    max_pages: Option<u64>,
    max_rounds: u32,
}

impl StopPolicy for ReservationSqrt {
    fn name(&self) -> &'static str {
        INFO.name
    }

    #[expect(clippy::cast_precision_loss, reason = "page counts are below 2^52")]
    fn judge(&mut self, seen: &Observation) -> Verdict {
        if seen.moment != Moment::Harvested || seen.rounds_sent == 0 {
            return Verdict::go_on("asked only at a harvest after a round");
        }
        let (pages, max) = (seen.residual_pages, self.max_pages.unwrap_or(seen.populated_pages));
        let reservation = (self.min_pages as f64 * max as f64).sqrt();
        let why = format!("{pages} pages dirty, reservation {reservation:.0}");
        Verdict::stop_if(pages as f64 <= reservation || seen.rounds_sent >= self.max_rounds, why)
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::policy::tests::play_named;

    #[test]
    fn the_reservation_is_the_geometric_mean() {
        // sqrt(64 x 10 000) = 800.
        assert_eq!(play_named("reservation-sqrt", &[10_000, 801, 800]), (2, "stop_and_copy"));
        let narrow = "reservation-sqrt:min_pages=400,max_pages=900";
        assert_eq!(play_named(narrow, &[10_000, 601, 600]), (2, "stop_and_copy"));
        assert_eq!(play_named("reservation-sqrt", &[5000; 40]), (30, "stop_and_copy"));
    }

    proptest! {
        /// Whatever comes between the bounds, what is taken is at most sqrt(M/m) of the least.
        #[test]
        fn the_ratio_is_bounded(
            (min, max, harvests) in (1u64..500, 1u64..500).prop_flat_map(|(a, b)| {
                let (min, max) = (a.min(b), a.max(b));
                (Just(min), Just(max), prop::collection::vec(min..=max, 1..30))
            })
        ) {
            let rounds = harvests.len();
            let text = format!(
                "reservation-sqrt:min_pages={min},max_pages={max},max_rounds={rounds}"
            );
            let all = [&[10_000], &harvests[..]].concat();
            let (round, word) = play_named(&text, &all);
            prop_assert_eq!(word, "stop_and_copy");
            let least = harvests.iter().min().unwrap();
            let ratio = all[round as usize] as f64 / *least as f64;
            prop_assert!(ratio <= (max as f64 / min as f64).sqrt() * (1.0 + 1e-12));
        }
    }
}
