// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! History deferral: a page that was dirty in K of its last N harvests waits for the stop; all
//! others are sent in rounds, by address.
//!
//! A page whose history cools down is sent again. If nothing but hot pages is left, a round sends
//! nothing, and the next harvest comes after `least_ms`. Of the last N harvests the sets are kept
//! (N bits a page), and 64 pages at a time are counted.
//!
//! Deferring does not pay where downtime is the aim: the hot set is a floor under the residual
//! (heuristics.md 6.8, 6.11).

use std::collections::VecDeque;
use std::time::Duration;

use super::{OrderInfo, PageOrder};
use crate::bitmap::DenseBitmap;
use crate::policy::parameters::{ParameterInfo, ParameterKind};
use crate::units::{PageIndex, PageRun, Tick};

const LONGEST: u64 = 16;

pub(super) const INFO: OrderInfo = OrderInfo {
    name: "history",
    rule: "rounds by address; a page that was dirty in K of the last N harvests waits for the stop",
    source: "Hu et al., ICPADS 2011 (time series, TO_SEND_h); Sharma and Chawla 2016 (TPO)",
    parameters: &[
        ParameterInfo::new(
            "rounds",
            ParameterKind::Integer { min: 1, max: LONGEST },
            "5",
            "harvests that are remembered, N",
        ),
        ParameterInfo::new(
            "dirty",
            ParameterKind::Integer { min: 1, max: LONGEST },
            "3",
            "of so many of them a page is deferred, K",
        ),
        ParameterInfo { default: "20", ..super::pace::LEAST },
    ],
    build: |values| {
        Box::new(History {
            rounds: values.small("rounds") as usize,
            dirty: values.small("dirty"),
            least: Duration::from_millis(values.integer(super::pace::LEAST.name)),
            sets: VecDeque::new(),
            hot: Vec::new(),
            cursor: PageIndex::new(0),
        })
    },
};

/// History deferral.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct History {
    rounds: usize,
    dirty: u32,
    least: Duration,
    /// What the last harvests reported, the newest at the back.
    sets: VecDeque<DenseBitmap>,
    /// Pages that are deferred, in words.
    hot: Vec<u64>,
    cursor: PageIndex,
}

impl History {
    /// Pages of word `index` that are in `dirty` sets or more.
    fn hot_word(&self, index: usize) -> u64 {
        // Bit p of digits[d]: binary digit d of the count of page p, which is 16 at most.
        let mut digits = [0u64; 5];
        for set in &self.sets {
            let mut carry = set.words()[index];
            for digit in &mut digits {
                (*digit, carry) = (*digit ^ carry, *digit & carry);
            }
        }
        // From the highest digit down: more than K so far, or the same as K so far.
        let (mut more, mut same) = (0, u64::MAX);
        for (place, digit) in digits.iter().enumerate().rev() {
            if self.dirty >> place & 1 == 0 {
                more |= same & digit;
                same &= !digit;
            } else {
                same &= digit;
            }
        }
        more | same
    }
}

/// The words of a set that hold pages; some twice.
fn words_of(set: &DenseBitmap) -> impl Iterator<Item = usize> {
    set.runs().flat_map(|run| run.start().as_usize() / 64..run.end().as_usize().div_ceil(64))
}

impl PageOrder for History {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn begin(&mut self, _now: Tick, _owed: &DenseBitmap) {
        self.cursor = PageIndex::new(0);
    }

    fn harvested(&mut self, _now: Tick, _interval: Duration, set: &DenseBitmap) {
        self.cursor = PageIndex::new(0);
        if self.sets.back().is_some_and(|old| old.len() != set.len()) {
            self.sets.clear();
            self.hot.clear();
        }
        self.hot.resize(set.words().len(), 0);
        let oldest = (self.sets.len() >= self.rounds).then(|| self.sets.pop_front()).flatten();
        let mut newest = oldest.unwrap_or_else(|| DenseBitmap::new(set.len()));
        // Counts change where the oldest set, which is forgotten, or the newest holds pages.
        let mut changed: Vec<usize> = words_of(&newest).collect();
        changed.extend(words_of(set));
        newest.clear_all();
        // Both have one length.
        let _ = newest.or_with(set);
        self.sets.push_back(newest);
        for index in changed {
            self.hot[index] = self.hot_word(index);
        }
    }

    fn picks(&self) -> bool {
        true
    }

    fn pick(
        &mut self,
        owed: &DenseBitmap,
        pages_max: u64,
        runs_max: usize,
        into: &mut Vec<PageRun>,
    ) {
        let (mut left, runs_end) = (pages_max, into.len() + runs_max);
        while left > 0 && into.len() < runs_end {
            let Some(page) = owed.next_set(self.cursor) else {
                self.cursor = PageIndex::new(owed.len());
                return;
            };
            let index = page.as_usize() / 64;
            let low = page.get() % 64;
            let cold = !self.hot.get(index).copied().unwrap_or(0);
            let bits = (owed.words()[index] & cold) >> low;
            let word_end = PageIndex::new((index as u64 + 1) * 64);
            if bits == 0 {
                self.cursor = word_end;
                continue;
            }
            let start = page + u64::from(bits.trailing_zeros());
            let run = u64::from((!(bits >> bits.trailing_zeros())).trailing_zeros());
            let run = PageRun::new(start, run.min(word_end - start).min(left));
            left -= run.pages();
            self.cursor = run.end();
            into.push(run);
        }
    }

    fn least_interval(&self) -> Duration {
        self.least
    }

    fn fork(&self) -> Box<dyn PageOrder> {
        Box::new(self.clone())
    }
}
