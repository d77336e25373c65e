// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The loop of go-criu (phaul/client.go, `isLastIter`).
//!
//! After each pre-dump (here a round, asked when it was sent), in this order: stop if it was the
//! eighth; if it wrote fewer than 64 pages; if it wrote at least 32 pages more than the one before.
//!
//! The original compares the first pre-dump with an empty record, that is with 0 pages written.
//! Whatever it wrote is then either fewer than 64 pages or at least 32 more than none, so that
//! the original stops after one pre-dump, always. `first_counts=false` is the loop as it reads:
//! the first pre-dump is compared with nothing.
//!
//! # Differences
//! go-criu counts pages that CRIU wrote, this the pages that a round sent.

use super::estimate::Rounds;
use super::parameters::{ParameterInfo, ParameterKind};
use super::{Moment, Observation, PolicyInfo, StopPolicy, Verdict};
use crate::limits;

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "go-criu",
    rule: "pause after 8 rounds, a round of fewer than 64 pages, or one of 32 pages more than the \
           last; the first is compared with none, which ends it",
    source: "go-criu, phaul/client.go, isLastIter",
    parameters: &[
        ParameterInfo::new(
            "max_rounds",
            ParameterKind::Integer { min: 1, max: limits::ROUNDS_MAX as u64 },
            "8",
            "live rounds at most, the full one included (maxIters)",
        ),
        ParameterInfo::new(
            "min_pages",
            ParameterKind::Integer { min: 0, max: limits::PAGES_MAX },
            "64",
            "a round of fewer pages than this is the last live one (minPagesWritten)",
        ),
        ParameterInfo::new(
            "max_growth_pages",
            ParameterKind::Integer { min: 1, max: limits::PAGES_MAX },
            "32",
            "a round of so many more pages than the last is the last one (maxGrowDelta)",
        ),
        ParameterInfo::new(
            "first_counts",
            ParameterKind::Switch,
            "true",
            "compare the first round with one of 0 pages, as the original does",
        ),
    ],
    build: |values| {
        Box::new(GoCriu {
            max_rounds: values.small("max_rounds"),
            min_pages: values.integer("min_pages"),
            max_growth_pages: values.integer("max_growth_pages"),
            rounds: Rounds::default(),
            last_pages: values.switch("first_counts").then_some(0),
        })
    },
};

/// go-criu's loop.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct GoCriu {
    max_rounds: u32,
    min_pages: u64,
    max_growth_pages: u64,
    rounds: Rounds,
    /// Pages of the round before the last.
    last_pages: Option<u64>,
}

impl StopPolicy for GoCriu {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        let Some(pages) = self.rounds.ended_at(Moment::Sent, seen) else {
            return Verdict::go_on("asked only after a round");
        };
        let last = self.last_pages.replace(pages);
        if seen.rounds_sent >= self.max_rounds {
            return Verdict::stop(format!("{} rounds sent", seen.rounds_sent));
        }
        if pages < self.min_pages {
            let min = self.min_pages;
            return Verdict::stop(format!("the round had {pages} pages, fewer than {min}"));
        }
        match last {
            Some(last) if pages.saturating_sub(last) >= self.max_growth_pages => {
                Verdict::stop(format!("the round had {pages} pages, after {last}"))
            }
            _ => Verdict::go_on(format!("the round had {pages} pages")),
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
    fn the_original_stops_after_one_round_whatever_it_held() {
        for pages in [0, 63, 64, 10_000] {
            assert_eq!(play_named("go-criu", &[pages, 500, 500]), (1, "stop_and_copy"));
        }
    }

    #[test]
    fn the_loop_as_it_reads() {
        let read = "go-criu:first_counts=false";
        assert_eq!(play_named(read, &[500; 20]), (8, "stop_and_copy"));
        assert_eq!(play_named(read, &[500, 64, 63]), (3, "stop_and_copy"));
        assert_eq!(play_named(read, &[500, 531, 562]).0, u32::MAX);
        assert_eq!(play_named(read, &[500, 532, 562]), (2, "stop_and_copy"));
    }
}
