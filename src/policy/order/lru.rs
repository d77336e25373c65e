// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Least recently written first, continuously: each report moves a page to the end of the queue,
//! so that a page that is written all the time comes when nothing else is left.
//!
//! Zaw and Thein keep recency to tell the working set, which they send last; Checconi et al. send
//! by it. 8 bytes a page.

use std::time::Duration;

use super::pace::{CLEAR, LEAST, Pace, SLICE, paced};
use super::queue::Queue;
use super::{OrderInfo, PageOrder};
use crate::bitmap::DenseBitmap;
use crate::units::{PageRun, Tick};

pub(super) const INFO: OrderInfo = OrderInfo {
    name: "lru",
    rule: "continuously the owed page whose last report is the longest ago; a harvest every slice",
    source: "Zaw and Thein 2012 (working set by LRU); Checconi et al. 2009",
    parameters: &[SLICE, LEAST, CLEAR],
    build: |values| Box::new(Lru { queue: Queue::default(), pace: Pace::read(values) }),
};

/// Least recently written first.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Lru {
    queue: Queue,
    pace: Pace,
}

impl Lru {
    /// With a harvest every `slice`.
    #[must_use]
    pub fn new(slice: Duration) -> Self {
        Self { queue: Queue::default(), pace: Pace::every(slice) }
    }
}

impl PageOrder for Lru {
    fn name(&self) -> &'static str {
        INFO.name
    }

    /// What a pre-flight reported and did not send keeps its order, behind all other pages.
    fn begin(&mut self, _now: Tick, owed: &DenseBitmap) {
        self.queue.make_room(owed);
        self.queue.retain(|page| owed.contains(page));
        let mut first = None;
        for page in owed.runs().flat_map(PageRun::iter) {
            if !self.queue.contains(page) {
                self.queue.push_back(page);
                first.get_or_insert(page);
            }
        }
        first.into_iter().for_each(|page| self.queue.start_at(page));
    }

    fn harvested(&mut self, _now: Tick, _interval: Duration, set: &DenseBitmap) {
        self.queue.make_room(set);
        for page in set.runs().flat_map(PageRun::iter) {
            if self.queue.contains(page) {
                self.queue.remove(page);
            }
            self.queue.push_back(page);
        }
    }

    fn pick(
        &mut self,
        _owed: &DenseBitmap,
        pages_max: u64,
        runs_max: usize,
        into: &mut Vec<PageRun>,
    ) {
        self.queue.take(pages_max, runs_max, into);
    }

    paced!();
}
