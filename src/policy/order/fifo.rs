// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Oldest dirt first, continuously: a page is queued by the harvest that makes it owed, and keeps
//! its place however often it is written until it is sent.
//!
//! The plainest sender without rounds: for uniform writes at lambda times the link's rate it
//! leaves a share 1 - 1/lambda of the working set dirty, where rounds leave more (heuristics.md
//! 2.2). 8 bytes a page.

use std::time::Duration;

use super::pace::{CLEAR, LEAST, Pace, SLICE, paced};
use super::queue::Queue;
use super::{OrderInfo, PageOrder};
use crate::bitmap::DenseBitmap;
use crate::units::{PageRun, Tick};

pub(super) const INFO: OrderInfo = OrderInfo {
    name: "fifo",
    rule: "continuously the page that has been owed for longest; a harvest every slice",
    source: "precopy; heuristics.md 2.2, continuous sending",
    parameters: &[SLICE, LEAST, CLEAR],
    build: |values| Box::new(Fifo { queue: Queue::default(), pace: Pace::read(values) }),
};

/// Oldest dirt first.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Fifo {
    queue: Queue,
    pace: Pace,
}

impl Fifo {
    /// With a harvest every `slice`.
    #[must_use]
    pub fn new(slice: Duration) -> Self {
        Self { queue: Queue::default(), pace: Pace::every(slice) }
    }

    fn add(&mut self, set: &DenseBitmap) {
        self.queue.make_room(set);
        for page in set.runs().flat_map(PageRun::iter) {
            if !self.queue.contains(page) {
                self.queue.push_back(page);
            }
        }
    }
}

impl PageOrder for Fifo {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn begin(&mut self, _now: Tick, owed: &DenseBitmap) {
        self.queue.clear();
        self.add(owed);
    }

    fn harvested(&mut self, _now: Tick, _interval: Duration, set: &DenseBitmap) {
        self.add(set);
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
