// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! O1: the least residual that any schedule of page sends can leave (heuristics.md 2.4).
//!
//! A page that is clean at `tau` was sent after its last write, so of the pages that were last
//! written at `x` or later no more are clean than the link carries from `x` to `tau`:
//!
//! ```text
//! f(x)    = pages last written at x or later  -  pages that the link carries from x to tau
//! R*(tau) = max(0, f(0), max over all writes' times x of f(x))
//! ```
//!
//! All pages count as released at time 0. These are unit jobs with one common deadline, so that
//! the bound is met, by any schedule that sends released pages and never idles.
//!
//! # In almost constant time a page
//!
//! A write at `t` to a page last written at `u` adds 1 to `f(x)` for `u < x <= t`; time takes the
//! same from all. So of two times `x < y`, `f(y)` gains whenever `f(x)` does: once `f(y) >= f(x)`,
//! `x` never decides again. What is left is a falling sequence of candidates whose first is the
//! maximum; a write closes the gap before the first candidate after `u` by 1, and a gap that is
//! closed merges two candidates. With the candidate after `u` found by union-find a page costs an
//! amortised inverse Ackermann function of the ticks, and what a run's pages have in common is
//! done once. Memory: 4 bytes a page, 16 bytes a tick.

use super::{OracleError, TickResidual};
use crate::limits;
use crate::units::{PageIndex, PageRun};

/// Pages are counted in fixed point, so that sums do not drift: 2^-20 page, up to 2^42 pages.
pub(super) const UNIT: i64 = 1 << 20;

/// The page held nothing when the migration began, and has not been written.
const EMPTY: u32 = 0;
/// The page has been there since the migration began. A page written in position `i` has `i + 1`.
const OLD: u32 = 1;

/// Where within its tick a page may have been written, as far as it matters when it can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Release {
    /// At the tick's end: right for a replay that writes there.
    #[default]
    TickEnd,
    /// As early as the tick began, though it is dirty only from the tick's end on: a lower bound
    /// for every way to spread a tick's writes over the tick.
    TickStart,
}

/// The clairvoyant's residual, kept up to date tick by tick.
#[derive(Clone, Debug)]
pub struct Clairvoyant {
    release: Release,
    /// For each page, the first position whose `f` the page's next write raises.
    raises: Vec<u32>,
    positions: Positions,
    carried: i64,
    zero_page: i64,
    pages: u64,
    markers: u64,
}

impl Clairvoyant {
    /// For a guest of `pages` pages of which those in `populated` (`None`: all) hold something
    /// when the migration begins. `zero_page_cost` is what it takes to send one of the others, as
    /// a share of a page: 0 if the destination's memory is zero anyway.
    ///
    /// # Errors
    /// [`OracleError::Pages`] and [`OracleError::Run`] if there are too many pages or a run lies
    /// past the last one, [`OracleError::Share`] for a cost outside 0 to 1.
    pub fn new(
        pages: u64,
        populated: Option<&[PageRun]>,
        zero_page_cost: f64,
        release: Release,
    ) -> Result<Self, OracleError> {
        if pages > limits::PAGES_MAX {
            return Err(OracleError::Pages { pages });
        }
        if !(0.0..=1.0).contains(&zero_page_cost) {
            return Err(OracleError::Share { what: "Cost of a zero page", share: zero_page_cost });
        }
        let len = PageIndex::new(pages).as_usize();
        let raises = match populated {
            None => vec![OLD; len],
            Some(runs) => {
                let mut raises = vec![EMPTY; len];
                for run in runs {
                    slice_of(&mut raises, *run, 0)?.fill(OLD);
                }
                raises
            }
        };
        let old = raises.iter().filter(|r| **r == OLD).count() as u64;
        let zero_page = fixed(zero_page_cost);
        let at_start = signed(old) * UNIT + signed(pages - old) * zero_page;
        let markers = pages - old;
        let positions = Positions::new(at_start);
        Ok(Self { release, raises, positions, carried: 0, zero_page, pages: old, markers })
    }

    /// One more tick: the link has carried `carried_pages` by its end, counted from the beginning
    /// of the migration, and these pages were written in it. Returns the residual just before and
    /// just after its writes.
    ///
    /// # Errors
    /// [`OracleError::Ticks`] and [`OracleError::Run`] if there are too many ticks or a run lies
    /// past the last page; the oracle must not be used any more.
    pub fn tick(
        &mut self,
        carried_pages: f64,
        runs: &[PageRun],
    ) -> Result<TickResidual, OracleError> {
        self.tick_of(carried_pages, |oracle| runs.iter().try_for_each(|run| oracle.write(*run)))
    }

    /// The same with single pages, in any order.
    ///
    /// # Errors
    /// As for [`tick`](Self::tick).
    pub fn tick_pages(
        &mut self,
        carried_pages: f64,
        pages: &[PageIndex],
    ) -> Result<TickResidual, OracleError> {
        self.tick_of(carried_pages, |oracle| {
            pages.iter().try_for_each(|page| oracle.write(PageRun::new(*page, 1)))
        })
    }

    fn tick_of(
        &mut self,
        carried_pages: f64,
        write: impl FnOnce(&mut Self) -> Result<(), OracleError>,
    ) -> Result<TickResidual, OracleError> {
        if self.positions.len() >= limits::ORACLE_TICKS_MAX {
            return Err(OracleError::Ticks);
        }
        let carried = fixed(carried_pages).max(self.carried);
        let passed = carried - std::mem::replace(&mut self.carried, carried);
        if self.release == Release::TickStart {
            self.positions.open();
        }
        self.positions.elapse(passed);
        let (before_pages, to_send_pages) = (self.residual_pages(), self.to_send_pages());
        if self.release == Release::TickEnd {
            self.positions.open();
        }
        write(self)?;
        let after_pages = self.residual_pages();
        Ok(TickResidual { before_pages, after_pages, to_send_pages })
    }

    /// R*, in pages, now.
    #[must_use]
    pub fn residual_pages(&self) -> f64 {
        pages_of(self.positions.top.max(0))
    }

    /// What is to be sent if the guest stops now, each page once: pages that hold something, and
    /// markers of the others as the pages that they cost.
    #[must_use]
    pub fn to_send_pages(&self) -> f64 {
        pages_of(signed(self.pages) * UNIT + signed(self.markers) * self.zero_page)
    }

    fn write(&mut self, run: PageRun) -> Result<(), OracleError> {
        let now = self.positions.stamp();
        let tick = u64::from(self.positions.len() - 1);
        let mut rest = slice_of(&mut self.raises, run, tick)?;
        while let Some(first) = rest.first().copied() {
            // Neighbours were often written together before, too.
            let same = rest.iter().position(|r| *r != first).unwrap_or(rest.len());
            let (group, others) = rest.split_at_mut(same);
            rest = others;
            let weight = signed(same as u64) * UNIT;
            if first == EMPTY {
                // Its marker is not needed any more.
                let marker = signed(same as u64) * self.zero_page;
                self.pages += same as u64;
                self.markers -= same as u64;
                self.positions.raise(EMPTY, weight - marker);
                self.positions.raise(OLD, marker);
            } else if first < now {
                self.positions.raise(first, weight);
            }
            group.fill(now);
        }
        Ok(())
    }
}

/// The times at which writes happened, oldest first, and of `f` what can still decide.
#[derive(Clone, Debug)]
struct Positions {
    /// Union-find: towards the next candidate.
    next: Vec<u32>,
    /// For a candidate, the one before it (if it is not the first).
    before: Vec<u32>,
    /// For a candidate, by how much `f` there is lower than at the one before it; positive.
    gap: Vec<i64>,
    first: u32,
    /// `f` at the first candidate: the maximum.
    top: i64,
    /// `f` at the last candidate: the newest position.
    bottom: i64,
}

impl Positions {
    fn new(at_start: i64) -> Self {
        let (next, before, gap) = (vec![0], vec![0], vec![0]);
        Self { next, before, gap, first: 0, top: at_start, bottom: at_start }
    }

    #[expect(clippy::cast_possible_truncation, reason = "bounded by ORACLE_TICKS_MAX")]
    fn len(&self) -> u32 {
        self.next.len() as u32
    }

    /// What a page holds that was written in the newest position.
    fn stamp(&self) -> u32 {
        self.len()
    }

    /// Time passes in which the link carries so much.
    fn elapse(&mut self, carried: i64) {
        self.top -= carried;
        self.bottom -= carried;
    }

    /// A new position, now: nothing was written in it yet, `f` is 0.
    fn open(&mut self) {
        let (new, mut last) = (self.len(), self.len() - 1);
        let mut gap = self.bottom;
        self.next.push(new);
        while gap <= 0 && last != self.first {
            self.next[last as usize] = new;
            gap += self.gap[last as usize];
            last = self.before[last as usize];
        }
        if gap <= 0 {
            self.next[last as usize] = new;
            (self.first, self.top) = (new, 0);
        }
        self.before.push(last);
        self.gap.push(gap);
        self.bottom = 0;
    }

    /// Raises `f` by `weight` at `from` and all later positions.
    fn raise(&mut self, from: u32, weight: i64) {
        let at = self.candidate(from);
        self.bottom += weight;
        if at == self.first {
            self.top += weight;
            return;
        }
        let at_index = at as usize;
        let mut gap = self.gap[at_index] - weight;
        while gap <= 0 {
            let before = self.before[at_index];
            self.next[before as usize] = at;
            if before == self.first {
                self.first = at;
                self.top -= gap;
                break;
            }
            gap += self.gap[before as usize];
            self.before[at_index] = self.before[before as usize];
        }
        self.gap[at_index] = gap;
    }

    /// The first candidate at or after a position.
    fn candidate(&mut self, mut at: u32) -> u32 {
        loop {
            let next = self.next[at as usize];
            if next == at {
                return at;
            }
            let after = self.next[next as usize];
            self.next[at as usize] = after;
            at = after;
        }
    }
}

fn slice_of(pages: &mut [u32], run: PageRun, tick: u64) -> Result<&mut [u32], OracleError> {
    let of = pages.len() as u64;
    pages.get_mut(run.start().as_usize()..run.end().as_usize()).ok_or(OracleError::Run {
        run,
        tick,
        pages: of,
    })
}

/// Pages in fixed point; what is no number or below 0 counts as 0.
#[expect(clippy::cast_possible_truncation, reason = "held below 2^61")]
pub(super) fn fixed(pages: f64) -> i64 {
    #[expect(clippy::cast_precision_loss, reason = "a power of two")]
    let units = pages * UNIT as f64;
    units.clamp(0.0, 2f64.powi(61)) as i64
}

#[expect(clippy::cast_precision_loss, reason = "a count of pages below 2^42 and 20 bits")]
pub(super) fn pages_of(fixed: i64) -> f64 {
    fixed as f64 / UNIT as f64
}

/// A count of pages, at most `PAGES_MAX`.
#[expect(clippy::cast_possible_wrap, reason = "at most 2^32")]
pub(super) fn signed(pages: u64) -> i64 {
    pages as i64
}
