// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The loop of p.haul, CRIU's live-migration driver (phaul/iters.py, `__check_live_iter_progress`).
//!
//! After each pre-dump (here a round, asked when it was sent), in this order: stop if it wrote at
//! most 64 pages; if it wrote over 10 % more than the one before it; if it was the ninth (they
//! are counted from 0, and the count is compared with 8). The growth is a whole number of
//! percent, rounded down, so that 10.9 % are not more than 10.
//!
//! # Differences
//! p.haul counts pages that CRIU wrote, this the pages that a round sent. Its conditions on file
//! systems and its mode without pre-dumps have no counterpart.

use super::estimate::Rounds;
use super::parameters::{ParameterInfo, ParameterKind};
use super::{Moment, Observation, PolicyInfo, StopPolicy, Verdict};
use crate::limits;

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "phaul",
    rule: "pause after a round of at most 64 pages, or over 10 % larger than the last, or the \
           ninth",
    source: "p.haul (CRIU), phaul/iters.py, __check_live_iter_progress",
    parameters: &[
        ParameterInfo::new(
            "max_rounds",
            ParameterKind::Integer { min: 1, max: limits::ROUNDS_MAX as u64 },
            "9",
            "live rounds at most, the full one included (MAX_ITERS_COUNT is 8, counted from 0)",
        ),
        ParameterInfo::new(
            "min_pages",
            ParameterKind::Integer { min: 0, max: limits::PAGES_MAX },
            "64",
            "a round of no more pages than this is the last live one (MIN_ITER_PAGES_COUNT)",
        ),
        ParameterInfo::new(
            "max_growth_percent",
            ParameterKind::Integer { min: 0, max: 1_000_000 },
            "10",
            "a round that grew by more whole percent than this is the last (MAX_ITER_GROW_RATE)",
        ),
    ],
    build: |values| {
        Box::new(Phaul {
            max_rounds: values.small("max_rounds"),
            min_pages: values.integer("min_pages"),
            max_growth_percent: values.integer("max_growth_percent"),
            rounds: Rounds::default(),
            last_pages: None,
        })
    },
};

/// p.haul's loop.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Phaul {
    max_rounds: u32,
    min_pages: u64,
    max_growth_percent: u64,
    rounds: Rounds,
    /// Pages of the round before the last.
    last_pages: Option<u64>,
}

impl StopPolicy for Phaul {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        let Some(pages) = self.rounds.ended_at(Moment::Sent, seen) else {
            return Verdict::go_on("asked only after a round");
        };
        let last = self.last_pages.replace(pages);
        if pages <= self.min_pages {
            let min = self.min_pages;
            return Verdict::stop(format!("the round had {pages} pages, at most {min}"));
        }
        let growth = |last: u64| {
            let more = u128::from(pages.saturating_sub(last)) * 100;
            more.checked_div(u128::from(last)).unwrap_or(u128::MAX)
        };
        if let Some(last) = last.filter(|last| growth(*last) > self.max_growth_percent.into()) {
            let max = self.max_growth_percent;
            return Verdict::stop(format!("{pages} pages after {last}: over {max} % more"));
        }
        match seen.rounds_sent >= self.max_rounds {
            true => Verdict::stop(format!("{} rounds sent", seen.rounds_sent)),
            false => Verdict::go_on(format!("the round had {pages} pages")),
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
    fn small_growing_and_many_rounds_stop() {
        assert_eq!(play_named("phaul", &[500, 65, 64]), (3, "stop_and_copy"));
        assert_eq!(play_named("phaul", &[64]), (1, "stop_and_copy"));
        assert_eq!(play_named("phaul", &[500; 20]), (9, "stop_and_copy"));
        // 10.9 % is not more than 10 whole percent; 11 % is.
        assert_eq!(play_named("phaul", &[5000, 1000, 1109, 500]).0, u32::MAX);
        assert_eq!(play_named("phaul", &[5000, 1000, 1110, 500]), (3, "stop_and_copy"));
    }
}
