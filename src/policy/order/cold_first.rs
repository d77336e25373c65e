// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cold pages first, continuously: always the owed page that is written most rarely, with a
//! harvest every few tens of milliseconds instead of rounds.
//!
//! For pages that are written independently and without memory, keeping the coldest ones clean is
//! the best that anyone can do who does not know the future (heuristics.md 2.3, 6.1): whoever
//! stops at an instant that the pages know nothing of then owes just the hottest.
//!
//! A page's temperature is the mean time between the harvests that reported it, as a moving
//! average of its logarithm, in eighths of an octave of milliseconds (one byte). Owed pages lie in
//! one bitmap an octave; within an octave they go round by address. A page that no harvest has
//! reported yet is the coldest. 7 bytes a page at most.

use std::time::Duration;

use super::{OrderInfo, PageOrder, milliseconds};
use crate::bitmap::DenseBitmap;
use crate::policy::parameters::{ParameterInfo, ParameterKind};
use crate::units::{PageIndex, PageRun, Tick};

pub(super) const INFO: OrderInfo = OrderInfo {
    name: "cold-first",
    rule: "continuously the owed page that is written most rarely, by the time between its \
           reports; a harvest every slice",
    source: "precopy; heuristics.md 6.1 (cf. Cho and Garcia-Molina 2003 on crawlers)",
    parameters: &[
        ParameterInfo::new(
            "slice_ms",
            ParameterKind::Integer { min: 1, max: 60_000 },
            "50",
            "longest time from a harvest to the next",
        ),
        ParameterInfo::new(
            "least_ms",
            ParameterKind::Integer { min: 0, max: 60_000 },
            "10",
            "least time from a harvest to the next",
        ),
        ParameterInfo::new(
            "weight",
            ParameterKind::NumberOr { min: 0.01, max: 1.0, word: "-" },
            "0.25",
            "of the newest interval in a page's mean",
        ),
    ],
    build: |values| {
        let mut order = ColdFirst::new(milliseconds(values, "slice_ms"));
        order.least = milliseconds(values, "least_ms");
        order.weight = values.number_or("weight").unwrap_or(0.25);
        Box::new(order)
    },
};

/// Octaves of milliseconds: the last holds 2^19 ms (9 minutes) and more, and pages without report.
const CLASSES: usize = 20;
/// Steps an octave.
const STEPS: u8 = 8;
/// A page that was never reported.
const UNKNOWN: u8 = u8::MAX;

/// Cold pages first.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct ColdFirst {
    slice: Duration,
    least: Duration,
    weight: f64,
    /// Mean interval of each page in eighths of an octave of milliseconds.
    interval: Vec<u8>,
    /// When each page was reported last, in milliseconds; wraps after 49 days.
    reported_ms: Vec<u32>,
    /// Owed pages by octave.
    classes: Vec<Class>,
}

#[derive(Clone, PartialEq, Debug)]
struct Class {
    owed: DenseBitmap,
    pages: u64,
    cursor: PageIndex,
}

impl Class {
    fn insert(&mut self, page: PageIndex) {
        if !self.owed.contains(page) {
            self.owed.set(page);
            self.pages += 1;
        }
    }

    fn remove(&mut self, page: PageIndex) {
        if self.owed.contains(page) {
            self.owed.clear(page);
            self.pages -= 1;
        }
    }

    /// Hands out up to `pages_max` pages from the cursor on, going round once.
    fn take(&mut self, pages_max: u64, runs_max: usize, into: &mut Vec<PageRun>) -> u64 {
        let mut taken = 0;
        while taken < pages_max && self.pages > 0 && into.len() < runs_max {
            let Some(run) = self.owed.next_run(self.cursor, pages_max - taken) else {
                self.cursor = PageIndex::new(0);
                continue;
            };
            self.owed.clear_run(run);
            self.pages -= run.pages();
            self.cursor = run.end();
            taken += run.pages();
            into.push(run);
        }
        taken
    }
}

impl ColdFirst {
    /// With a harvest every `slice`.
    #[must_use]
    pub fn new(slice: Duration) -> Self {
        Self {
            slice,
            least: Duration::from_millis(10),
            weight: 0.25,
            interval: Vec::new(),
            reported_ms: Vec::new(),
            classes: Vec::new(),
        }
    }

    fn make_room(&mut self, pages: u64) {
        let Ok(count) = usize::try_from(pages) else { return };
        if self.interval.len() != count {
            self.interval = vec![UNKNOWN; count];
            self.reported_ms = vec![0; count];
            let class =
                || Class { owed: DenseBitmap::new(pages), pages: 0, cursor: PageIndex::new(0) };
            self.classes = (0..CLASSES).map(|_| class()).collect();
        }
    }

    fn class_of(interval: u8) -> usize {
        usize::from(interval / STEPS).min(CLASSES - 1)
    }

    /// Takes a report at `now_ms` into the page's mean and returns its class. A first report says
    /// that the page had been quiet since the beginning, at least.
    fn report(&mut self, page: usize, now_ms: u32) -> usize {
        let gap = f64::from(now_ms.wrapping_sub(self.reported_ms[page]).max(1));
        let newest = gap.log2() * f64::from(STEPS);
        let before = self.interval[page];
        let mean = match before {
            UNKNOWN => newest,
            _ => f64::from(before) * (1.0 - self.weight) + newest * self.weight,
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "kept within a byte, below UNKNOWN"
        )]
        let mean = mean.round().clamp(0.0, f64::from(UNKNOWN - 1)) as u8;
        self.interval[page] = mean;
        self.reported_ms[page] = now_ms;
        Self::class_of(mean)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it wraps after 49 days")]
fn wrapping_ms(now: Tick) -> u32 {
    (now.as_nanos() / 1_000_000) as u32
}

impl PageOrder for ColdFirst {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn begin(&mut self, now: Tick, owed: &DenseBitmap) {
        let learnt = !self.interval.is_empty();
        self.make_room(owed.len());
        for class in &mut self.classes {
            class.owed.clear_all();
            class.pages = 0;
        }
        if !learnt {
            self.reported_ms.fill(wrapping_ms(now));
        }
        for run in owed.runs() {
            for page in run.iter() {
                let class = Self::class_of(self.interval[page.as_usize()]);
                self.classes[class].insert(page);
            }
        }
    }

    fn harvested(&mut self, now: Tick, _interval: Duration, set: &DenseBitmap) {
        if self.interval.is_empty() {
            self.make_room(set.len());
        }
        let now_ms = wrapping_ms(now);
        for run in set.runs() {
            for page in run.iter() {
                let at = page.as_usize();
                let before = Self::class_of(self.interval[at]);
                let class = self.report(at, now_ms);
                if class != before {
                    self.classes[before].remove(page);
                }
                self.classes[class].insert(page);
            }
        }
    }

    fn picks(&self) -> bool {
        true
    }

    fn pick(
        &mut self,
        _owed: &DenseBitmap,
        pages_max: u64,
        runs_max: usize,
        into: &mut Vec<PageRun>,
    ) {
        let mut left = pages_max;
        for class in self.classes.iter_mut().rev() {
            left -= class.take(left, runs_max, into);
            if left == 0 || into.len() >= runs_max {
                return;
            }
        }
    }

    fn slice(&self) -> Option<Duration> {
        Some(self.slice)
    }

    fn least_interval(&self) -> Duration {
        self.least
    }

    fn fork(&self) -> Box<dyn PageOrder> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_of(pages: &[u64]) -> DenseBitmap {
        let mut set = DenseBitmap::new(64);
        pages.iter().for_each(|page| set.set(PageIndex::new(*page)));
        set
    }

    fn picked(order: &mut ColdFirst, pages_max: u64) -> Vec<u64> {
        let mut runs = Vec::new();
        order.pick(&DenseBitmap::new(64), pages_max, 64, &mut runs);
        runs.iter().flat_map(|run| run.iter()).map(PageIndex::get).collect()
    }

    #[test]
    fn pages_without_report_go_first_then_by_rising_rate() {
        let at = |ms: u64| Tick::from_nanos(ms * 1_000_000);
        let slice = Duration::from_millis(50);
        let mut order = ColdFirst::new(slice);
        order.begin(at(0), &set_of(&[1, 2, 3, 4]));
        // Page 1 every 50 ms, page 2 every 400 ms, page 3 once; page 4 never.
        for step in 1..=32 {
            let mut pages = vec![1];
            if step % 8 == 0 {
                pages.push(2);
            }
            if step == 32 {
                pages.push(3);
            }
            order.harvested(at(step * 50), slice, &set_of(&pages));
        }
        assert_eq!(picked(&mut order, 1), [4]);
        assert_eq!(picked(&mut order, 1), [3]);
        assert_eq!(picked(&mut order, 9), [2, 1]);
        assert_eq!(picked(&mut order, 9), [0; 0]);
        // What was learnt outlives a new beginning.
        order.begin(at(2000), &set_of(&[1, 2, 5]));
        assert_eq!(picked(&mut order, 9), [5, 2, 1]);
    }

    #[test]
    fn one_class_goes_round_by_address() {
        let mut order = ColdFirst::new(Duration::from_millis(50));
        order.begin(Tick::ZERO, &set_of(&[1, 2, 3, 9]));
        assert_eq!(picked(&mut order, 2), [1, 2]);
        order.begin(Tick::ZERO, &set_of(&[1, 2, 3, 9]));
        assert_eq!(picked(&mut order, 9), [3, 9, 1, 2]);
    }
}
