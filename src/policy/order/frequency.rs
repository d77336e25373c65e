// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! By rising write count: in each round the pages come first that the fewest harvests reported, so
//! that those which are written most often are sent last and stay clean for longest.
//!
//! Counts below 8 are told apart; from there on half octaves are one class, sent by address.
//! 7 bytes a page at most.

use std::time::Duration;

use super::classes::Classes;
use super::pace::{CLEAR, LEAST, Pace, SLICE, paced};
use super::{OrderInfo, PageOrder};
use crate::bitmap::DenseBitmap;
use crate::policy::parameters::ParameterInfo;
use crate::units::{PageIndex, PageRun, Tick};

pub(super) const INFO: OrderInfo = OrderInfo {
    name: "frequency",
    rule: "rounds by rising number of harvests that reported the page",
    source: "Svard, Hudzia, Tordsson and Elmroth 2011, dynamic page transfer reordering",
    parameters: &[
        ParameterInfo { default: "off", ..SLICE },
        ParameterInfo { default: "0", ..LEAST },
        ParameterInfo { default: "false", ..CLEAR },
    ],
    build: |values| Box::new(Frequency { pace: Pace::read(values), ..Frequency::default() }),
};

/// 0 to 7, then two an octave up to 2^16.
const CLASSES: usize = 8 + 2 * 13;

/// By rising write count.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Frequency {
    counts: Vec<u16>,
    classes: Classes,
    pace: Pace,
}

impl Default for Frequency {
    /// Whole rounds.
    fn default() -> Self {
        let pace = Pace { slice: None, least: Duration::ZERO, clear: false };
        Self { counts: Vec::new(), classes: Classes::default(), pace }
    }
}

fn class_of(count: u16) -> usize {
    match count {
        0..8 => usize::from(count),
        _ => {
            let octave = count.ilog2();
            8 + 2 * (octave as usize - 3) + usize::from(count >> (octave - 1) & 1)
        }
    }
}

impl Frequency {
    fn make_room(&mut self, set: &DenseBitmap) {
        let pages = PageIndex::new(set.len()).as_usize();
        if self.counts.len() != pages {
            self.counts = vec![0; pages];
            self.classes = Classes::new(CLASSES, pages);
        }
    }
}

impl PageOrder for Frequency {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn begin(&mut self, _now: Tick, owed: &DenseBitmap) {
        self.make_room(owed);
        self.classes.clear_all();
        for page in owed.runs().flat_map(PageRun::iter).map(PageIndex::as_usize) {
            self.classes.insert(class_of(self.counts[page]), page);
        }
    }

    fn harvested(&mut self, _now: Tick, _interval: Duration, set: &DenseBitmap) {
        self.make_room(set);
        for page in set.runs().flat_map(PageRun::iter).map(PageIndex::as_usize) {
            let before = self.counts[page];
            let count = before.saturating_add(1);
            self.counts[page] = count;
            if class_of(count) != class_of(before) {
                self.classes.remove(class_of(before), page);
            }
            self.classes.insert(class_of(count), page);
        }
    }

    fn pick(
        &mut self,
        _owed: &DenseBitmap,
        pages_max: u64,
        runs_max: usize,
        into: &mut Vec<PageRun>,
    ) {
        self.classes.take(0..CLASSES, pages_max, runs_max, into);
    }

    paced!();
}
