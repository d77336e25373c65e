// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A policy of one's own: look at a few residuals, then take the first that is about as small as
//! the smallest.

use precopy::policy::{Moment, Observation, StopPolicy, Verdict};

/// Stops in a lull.
#[derive(Clone, Debug)]
pub struct Lull {
    look: u32,
    seen: u32,
    least_pages: u64,
}

impl Lull {
    /// Looks at `look` harvests before it takes one whose downtime is over the limit.
    #[must_use]
    pub fn new(look: u32) -> Self {
        Self { look, seen: 0, least_pages: u64::MAX }
    }
}

impl StopPolicy for Lull {
    fn name(&self) -> &'static str {
        "lull"
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        // Only a harvest tells the residual exactly; the first pass has to be over.
        if seen.moment != Moment::Harvested || seen.unsent_pages > 0 {
            return Verdict::go_on("between two harvests");
        }
        if seen.expected_downtime().is_some_and(|downtime| downtime <= seen.downtime_limit) {
            return Verdict::stop("the residual fits the downtime limit");
        }
        let pages = seen.residual_pages;
        let small = pages <= self.least_pages.saturating_add(self.least_pages / 10);
        self.least_pages = self.least_pages.min(pages);
        self.seen += 1;
        if self.seen > self.look && small {
            return Verdict::stop(format!("{pages} pages: as few as ever in {} looks", self.seen));
        }
        Verdict::go_on(format!("{pages} pages, look {}", self.seen))
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}
