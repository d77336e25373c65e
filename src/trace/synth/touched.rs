// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The pages that were written in one tick, while they are being written.

use crate::limits;
use crate::units::PageRun;

/// Collects pages in any order, any number of times.
#[derive(Debug, Default)]
pub struct Touched {
    /// First page and one past the last.
    ranges: Vec<(u64, u64)>,
    pages: u64,
    /// Length at which ranges are put in order to keep what is held small.
    tidy_at: usize,
}

const TIDY_FROM: usize = 1 << 16;
#[expect(clippy::cast_possible_truncation, reason = "2^22")]
const RUNS_MAX: usize = limits::TRACE_TICK_RUNS_MAX as usize;

impl Touched {
    pub(super) fn begin(&mut self, pages: u64) {
        self.ranges.clear();
        (self.pages, self.tidy_at) = (pages, TIDY_FROM);
    }

    /// One page; counts from the guest's beginning again after its last one.
    pub fn page(&mut self, page: u64) {
        self.run(page, 1);
    }

    /// Pages from `start`, at most as many as the guest has; counts from the guest's beginning
    /// again after its last one.
    pub fn run(&mut self, start: u64, pages: u64) {
        let (start, pages) = (start % self.pages, pages.min(self.pages));
        let end = start + pages;
        self.add(start, end.min(self.pages));
        if end > self.pages {
            self.add(0, end - self.pages);
        }
    }

    fn add(&mut self, start: u64, end: u64) {
        if start == end {
            return;
        }
        if let Some(last) = self.ranges.last_mut().filter(|last| last.1 == start) {
            last.1 = end;
            return;
        }
        self.ranges.push((start, end));
        if self.ranges.len() >= self.tidy_at {
            self.tidy();
            self.tidy_at = (2 * self.ranges.len()).max(TIDY_FROM);
        }
    }

    fn tidy(&mut self) {
        self.ranges.sort_unstable();
        self.ranges.dedup_by(|next, before| {
            let joined = next.0 <= before.1;
            if joined {
                before.1 = before.1.max(next.1);
            }
            joined
        });
        if let Some(&(_, end)) = self.ranges.get(RUNS_MAX..).and_then(|beyond| beyond.last()) {
            self.ranges.truncate(RUNS_MAX);
            self.ranges[RUNS_MAX - 1].1 = end;
        }
    }

    /// The pages as runs: ascending, not touching. Where there are more runs than a trace can
    /// hold, those beyond are made one, with the pages in between: more than was written.
    pub(super) fn finish(&mut self, into: &mut Vec<PageRun>) {
        self.tidy();
        into.clear();
        into.extend(self.ranges.iter().map(|&(start, end)| PageRun::from_range(start..end)));
    }
}
