// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cold pages first, continuously: always the owed page that is written most rarely, with a
//! harvest every few tens of milliseconds instead of rounds.
//!
//! For pages that are written independently and without memory, keeping the coldest ones clean is
//! the best that anyone can do who does not know the future (heuristics.md 2.3, 6.1): whoever
//! stops at an instant that the pages know nothing of then owes just the hottest.
//!
//! A page's temperature is the mean time between the harvests that reported it, as a moving
//! average of its logarithm, in eighths of an octave of milliseconds. Owed pages lie in classes of
//! an octave each; within a class they go round by address. A page that no harvest has reported
//! yet is the coldest. A page that waits in a hot class and has been quiet for eight times its
//! mean has changed: it counts as that cold from then on. 4 bytes a page and a bit for each class,
//! 7 bytes in all; a report takes some nanoseconds.

use std::time::Duration;

use super::classes::Classes;
use super::pace::{CLEAR, LEAST, Pace, SLICE, paced};
use super::{OrderInfo, PageOrder};
use crate::bitmap::DenseBitmap;
use crate::policy::parameters::{ParameterInfo, ParameterKind};
use crate::units::{PageIndex, PageRun, Tick};

pub(super) const INFO: OrderInfo = OrderInfo {
    name: "cold-first",
    rule: "continuously the owed page that is written most rarely, by the time between its \
           reports; a harvest every slice",
    source: "precopy; heuristics.md 6.1 (cf. Cho and Garcia-Molina 2003 on crawlers)",
    parameters: &[
        SLICE,
        LEAST,
        ParameterInfo::new(
            "weight",
            ParameterKind::Number { min: 0.01, max: 1.0 },
            "0.25",
            "of the newest interval in a page's mean",
        ),
        ParameterInfo::new(
            "age",
            ParameterKind::Switch,
            "true",
            "count a page as cold again after it was quiet for eight times its mean",
        ),
        CLEAR,
    ],
    build: |values| {
        let mut order = ColdFirst::with_pace(Pace::read(values));
        order.age = values.switch("age");
        order.weight = weight_of(values.number("weight"));
        Box::new(order)
    },
};

/// Octaves of milliseconds: the last holds 2^19 ms (9 minutes) and more, and pages without report.
const CLASSES: usize = 20;
/// Steps an octave, as a power of two.
const STEP_BITS: u32 = 3;
/// Octaves by which a page's quiet must exceed its mean to change its class.
const AGE_OCTAVES: usize = 3;
/// A moving average's weights are in parts of so many.
const WEIGHT_BITS: u32 = 16;
const WEIGHTS: i32 = 1 << WEIGHT_BITS;

/// Cold pages first.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct ColdFirst {
    pace: Pace,
    age: bool,
    /// Of the newest interval, in [`WEIGHTS`].
    weight: i32,
    /// When tracking began, in milliseconds.
    began_ms: u32,
    /// As plain numbers: zeros that nobody wrote take no memory then, and of a large guest most
    /// pages are never reported.
    pages: Vec<u32>,
    /// Owed pages by octave.
    classes: Classes,
    /// When each class was looked through for pages that have been quiet.
    aged_ms: [u32; CLASSES],
}

/// What is known of a page: 0 if nothing; else in the low byte its mean interval in eighths of an
/// octave, plus 1, and above it when it was reported last, in milliseconds, modulo 2^24.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Page(u32);

impl Page {
    fn new(mean: i32, now_ms: u32) -> Self {
        // Within a byte: clamped.
        Self((now_ms << 8) | (mean.clamp(0, 254).unsigned_abs() + 1))
    }

    /// Its mean interval, once it was reported.
    fn mean(self) -> Option<i32> {
        (self.0 & 0xff).checked_sub(1).and_then(|mean| i32::try_from(mean).ok())
    }

    /// Milliseconds since its last report, at least 1; right up to 4.6 hours.
    fn quiet_ms(self, now_ms: u32) -> u32 {
        ((now_ms.wrapping_sub(self.0 >> 8)) & 0xff_ffff).max(1)
    }

    fn class(self) -> usize {
        self.mean().map_or(CLASSES - 1, class_of)
    }
}

fn class_of(mean: i32) -> usize {
    ((mean.unsigned_abs() >> STEP_BITS) as usize).min(CLASSES - 1)
}

/// An interval of at least 1 ms in eighths of an octave; straight lines between the octaves.
fn steps(interval_ms: u32) -> i32 {
    let octave = interval_ms.ilog2();
    let above = u64::from(interval_ms - (1 << octave));
    let eighths = (octave << STEP_BITS) + u32::try_from(above << STEP_BITS >> octave).unwrap_or(0);
    i32::try_from(eighths).unwrap_or(i32::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "from 0.01 to 1 of 2^16")]
fn weight_of(share: f64) -> i32 {
    ((share * f64::from(WEIGHTS)).round() as i32).clamp(1, WEIGHTS)
}

#[expect(clippy::cast_possible_truncation, reason = "it wraps after 49 days")]
fn wrapping_ms(at: Tick) -> u32 {
    (at.as_nanos() / 1_000_000) as u32
}

impl ColdFirst {
    /// With a harvest every `slice`.
    #[must_use]
    pub fn new(slice: Duration) -> Self {
        Self::with_pace(Pace::every(slice))
    }

    fn with_pace(pace: Pace) -> Self {
        Self {
            pace,
            age: true,
            weight: weight_of(0.25),
            began_ms: 0,
            pages: Vec::new(),
            classes: Classes::default(),
            aged_ms: [0; CLASSES],
        }
    }

    /// Begins to learn at `now_ms`, unless it has begun.
    fn make_room(&mut self, pages: u64, now_ms: u32) {
        let pages = PageIndex::new(pages).as_usize();
        if self.pages.len() != pages {
            self.pages = vec![0; pages];
            self.classes = Classes::new(CLASSES, pages);
            self.began_ms = now_ms;
            self.aged_ms = [now_ms; CLASSES];
        }
    }

    /// Takes a report into a page's mean. A first report says that the page had been quiet since
    /// the beginning, at least.
    #[inline]
    fn report(&self, page: Page, now_ms: u32) -> Page {
        let Some(before) = page.mean() else {
            return Page::new(steps(now_ms.wrapping_sub(self.began_ms).max(1)), now_ms);
        };
        let change = (steps(page.quiet_ms(now_ms)) - before) * self.weight;
        Page::new(before + ((change + WEIGHTS / 2) >> WEIGHT_BITS), now_ms)
    }

    /// Finds the owed pages that have been quiet for so long that their class is not theirs any
    /// more. A class is looked through once in four times the mean of its pages.
    fn age(&mut self, now_ms: u32) {
        let mut grown: Vec<(usize, usize)> = Vec::new();
        for class in 0..CLASSES - AGE_OCTAVES {
            let due = 1 << (class + AGE_OCTAVES - 1);
            if now_ms.wrapping_sub(self.aged_ms[class]) < due {
                continue;
            }
            self.aged_ms[class] = now_ms;
            let pages = &mut self.pages;
            self.classes.retain(class, |at| {
                let page = Page(pages[at]);
                let quiet = steps(page.quiet_ms(now_ms));
                let stays = class_of(quiet) < class + AGE_OCTAVES;
                if !stays {
                    let grew = Page((page.0 & !0xff) | Page::new(quiet, 0).0);
                    pages[at] = grew.0;
                    grown.push((grew.class(), at));
                }
                stays
            });
        }
        grown.into_iter().for_each(|(class, page)| self.classes.insert(class, page));
    }
}

impl PageOrder for ColdFirst {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn begin(&mut self, now: Tick, owed: &DenseBitmap) {
        self.make_room(owed.len(), wrapping_ms(now));
        self.classes.clear_all();
        for (index, word) in owed.words().iter().enumerate().filter(|(_, word)| **word != 0) {
            let mut unknown = *word;
            let pages = &self.pages[index * 64..self.pages.len().min(index * 64 + 64)];
            if pages.iter().fold(0, |any, page| any | page) != 0 {
                let known = pages.iter().map(|page| Page(*page)).enumerate();
                for (bit, page) in known.filter(|(bit, page)| page.0 != 0 && word >> bit & 1 != 0) {
                    unknown &= !(1 << bit);
                    self.classes.insert(page.class(), index * 64 + bit);
                }
            }
            self.classes.insert_word(CLASSES - 1, index, unknown);
        }
    }

    fn harvested(&mut self, now: Tick, interval: Duration, set: &DenseBitmap) {
        let now_ms = wrapping_ms(now);
        let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
        self.make_room(set.len(), now_ms.wrapping_sub(interval_ms));
        for run in set.runs() {
            for at in run.start().as_usize()..run.end().as_usize() {
                let before = Page(self.pages[at]);
                let page = self.report(before, now_ms);
                self.pages[at] = page.0;
                if page.class() != before.class() {
                    self.classes.remove(before.class(), at);
                }
                self.classes.insert(page.class(), at);
            }
        }
        if self.age {
            self.age(now_ms);
        }
    }

    fn pick(
        &mut self,
        _owed: &DenseBitmap,
        pages_max: u64,
        runs_max: usize,
        into: &mut Vec<PageRun>,
    ) {
        self.classes.take((0..CLASSES).rev(), pages_max, runs_max, into);
    }

    paced!();
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

    fn at(ms: u64) -> Tick {
        Tick::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn pages_without_report_go_first_then_by_rising_rate() {
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

    #[test]
    fn a_hot_page_that_falls_silent_gets_cold_again() {
        let slice = Duration::from_millis(50);
        let order = |age: bool| {
            let mut order = ColdFirst { age, ..ColdFirst::new(slice) };
            order.begin(at(0), &set_of(&[]));
            for step in 1..=40 {
                // Page 1 every 50 ms for a second; page 2 every 200 ms.
                let ones: &[u64] = if step <= 20 { &[1] } else { &[] };
                let twos: &[u64] = if step % 4 == 0 { &[2] } else { &[] };
                order.harvested(at(step * 50), slice, &set_of(&[ones, twos].concat()));
            }
            picked(&mut order, 9)
        };
        assert_eq!(order(false), [2, 1]);
        assert_eq!(order(true), [1, 2]);
    }

    #[test]
    fn a_preflight_that_begins_late_on_the_clock_learns_the_same() {
        let learn = |first_ms: u64| {
            let mut order = ColdFirst::new(Duration::from_millis(50));
            for step in 1..=8 {
                let set = set_of(if step % 4 == 0 { &[1, 2] } else { &[1] });
                order.harvested(at(first_ms + step * 50), Duration::from_millis(50), &set);
            }
            order.pages.iter().map(|page| Page(*page).mean()).collect::<Vec<_>>()
        };
        // Across the wrap of 24 bits of milliseconds, too.
        assert_eq!(learn(0), learn(7_200_000));
        assert_eq!(learn(0), learn((1 << 24) - 120));
    }

    #[test]
    fn logarithms_rise_by_an_eighth_octave_at_most() {
        for (interval_ms, eighths) in [(1, 0), (2, 8), (3, 12), (4, 16), (1000, 79), (1024, 80)] {
            assert_eq!(steps(interval_ms), eighths, "{interval_ms} ms");
        }
        assert_eq!(steps(u32::MAX), 255);
        for interval_ms in 8..100_000 {
            let exact = f64::from(interval_ms).log2() * 8.0;
            assert!((f64::from(steps(interval_ms)) - exact).abs() < 1.7, "{interval_ms} ms");
        }
    }
}
