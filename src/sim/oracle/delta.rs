// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! O4: O1 for a sender that may send deltas in the pause (heuristics.md 2.4).
//!
//! Each page is sent after its last write (nothing is left for the pause), or was sent earlier
//! (its delta is left), or not at all (the whole page is left). Sends after the last write compete
//! for the link as in O1; any other send finds a place whenever there are as many sends as pages.
//! So the best choice is a heaviest set of pages that can all be sent after their last write, the
//! weight being what the pause then saves. Such sets form a matroid: taking pages by falling delta
//! size as long as they fit is optimal. In full, with `C(x)` what the link carries from `x` to now
//! and `u = max(0, N - C(0))` the pages for which there is no send at all:
//!
//! ```text
//! least = u + sum of the deltas of all pages but a set S that is the heaviest with
//!         |pages of S last written at x or later| <= C(x) + u   for all x
//! ```
//!
//! With deltas as large as pages this is R*. A delta is that of the page's last write alone, so
//! that the result is a bound from below whatever came before; pages that held nothing at the
//! start need no earlier send.

use super::clairvoyant::{UNIT, fixed, pages_of, signed};
use super::{OracleError, Release};
use crate::limits;
use crate::trace::{PageContent, TraceTick};
use crate::units::{PageIndex, PageRun, PageSize};

/// Delta sizes are rounded down to sixteenths of a page.
const FULL: u8 = 16;
const CLASSES: usize = FULL as usize + 1;
/// The page was not written since the beginning.
const NEVER: u32 = 0;

/// How large the deltas of written pages are of which the trace says nothing, as a share of a
/// page; the trace's own word counts where there is one.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "one number")]
pub struct DeltaShare(pub f64);

/// The clairvoyant's residual with deltas, as of the last tick. Memory: 5 bytes a page, 80 a tick.
#[derive(Clone, Debug)]
pub struct DeltaOracle {
    release: Release,
    page_bytes: usize,
    unknown: u8,
    /// For each page the position of its last write, counted from 1, and its class.
    last: Vec<(u32, u8)>,
    /// For each position what the link had carried, and the pages last written in it by class.
    positions: Vec<(i64, [u32; CLASSES])>,
    carried: i64,
    at_start: u64,
}

impl DeltaOracle {
    /// For a guest of `pages` pages of which those in `populated` (`None`: all) hold something
    /// when the migration begins.
    ///
    /// # Errors
    /// [`OracleError::Pages`] for too many pages, [`OracleError::Run`] for a run past the last
    /// one, [`OracleError::Share`] for a share outside 0 to 1.
    pub fn new(
        pages: u64,
        page_size: PageSize,
        populated: Option<&[PageRun]>,
        unknown: DeltaShare,
        release: Release,
    ) -> Result<Self, OracleError> {
        if pages > limits::PAGES_MAX {
            return Err(OracleError::Pages { pages });
        }
        if !(0.0..=1.0).contains(&unknown.0) {
            return Err(OracleError::Share { what: "Size of a delta", share: unknown.0 });
        }
        for run in populated.unwrap_or_default() {
            if run.end().get() > pages {
                return Err(OracleError::Run { run: *run, tick: 0, pages });
            }
        }
        let at_start = populated.map_or(pages, |runs| runs.iter().map(|run| run.pages()).sum());
        Ok(Self {
            release,
            page_bytes: page_size.bytes(),
            unknown: class_of(unknown.0),
            last: vec![(NEVER, 0); PageIndex::new(pages).as_usize()],
            positions: Vec::new(),
            carried: 0,
            at_start,
        })
    }

    /// One more tick, as for [`Clairvoyant::tick`](super::Clairvoyant::tick). Pages whose content
    /// did not change do not count as written, pages that are zero now have no delta.
    ///
    /// # Errors
    /// [`OracleError::Ticks`] and [`OracleError::Run`] if there are too many ticks or a run lies
    /// past the last page; the oracle must not be used any more.
    pub fn tick(&mut self, carried_pages: f64, tick: &TraceTick) -> Result<(), OracleError> {
        if self.positions.len() >= PageIndex::new(limits::ORACLE_TICKS_MAX.into()).as_usize() {
            return Err(OracleError::Ticks);
        }
        let carried = fixed(carried_pages).max(self.carried);
        let before = std::mem::replace(&mut self.carried, carried);
        let released = if self.release == Release::TickStart { before } else { carried };
        self.positions.push((released, [0; CLASSES]));
        let mut known = tick.content.iter().copied().peekable();
        for run in &tick.runs {
            self.check(*run)?;
            let mut rest = *run;
            while let Some((part, content)) = known.next_if(|(part, _)| part.end() <= run.end()) {
                let (plain, after) =
                    rest.split_at(part.start().get().saturating_sub(rest.start().get()));
                self.write(plain, self.unknown);
                let (part, after) = after.split_at(part.pages());
                match content {
                    PageContent::Unchanged => {}
                    PageContent::Zero => self.write(part, 0),
                    PageContent::Delta(bytes) => {
                        #[expect(clippy::cast_precision_loss, reason = "a page's size")]
                        let share = f64::from(bytes) / self.page_bytes as f64;
                        self.write(part, class_of(share));
                    }
                    PageContent::Full => self.write(part, FULL),
                }
                rest = after;
            }
            self.write(rest, self.unknown);
        }
        Ok(())
    }

    /// The least that any schedule can leave for a pause now, in pages' worth of bytes. Takes time
    /// in proportion to the ticks so far.
    #[must_use]
    pub fn residual_pages(&self) -> f64 {
        let unsent = (signed(self.at_start) * UNIT - self.carried).max(0);
        let live = self.positions.iter().filter(|(_, counts)| counts.iter().any(|n| *n > 0));
        let live: Vec<_> = live.collect();
        let mut slack: Vec<i64> =
            live.iter().map(|(released, _)| self.carried - released + unsent).collect();
        let mut left = 0.0;
        for class in (1..CLASSES).rev() {
            let mut taken = vec![0i64; live.len()];
            // The least room at this position or before, with what was taken meanwhile.
            let mut room = i64::MAX;
            let mut turned_away = 0;
            for (at, (_, counts)) in live.iter().enumerate() {
                let wanted = i64::from(counts[class]) * UNIT;
                room = room.min(slack[at]);
                taken[at] = wanted.min(room.max(0));
                room -= taken[at];
                turned_away += wanted - taken[at];
            }
            let mut later = 0;
            for (slack, taken) in slack.iter_mut().zip(&taken).rev() {
                later += taken;
                *slack -= later;
            }
            #[expect(clippy::cast_precision_loss, reason = "at most 16")]
            let share = class as f64 / f64::from(FULL);
            left += pages_of(turned_away) * share;
        }
        pages_of(unsent) + left
    }

    fn check(&self, run: PageRun) -> Result<(), OracleError> {
        let pages = self.last.len() as u64;
        if run.end().get() > pages {
            return Err(OracleError::Run { run, tick: self.positions.len() as u64, pages });
        }
        Ok(())
    }

    #[expect(clippy::cast_possible_truncation, reason = "bounded by ORACLE_TICKS_MAX")]
    fn write(&mut self, run: PageRun, class: u8) {
        let now = self.positions.len();
        for last in &mut self.last[run.start().as_usize()..run.end().as_usize()] {
            let (at, old) = std::mem::replace(last, (now as u32, class));
            if at != NEVER {
                self.positions[at as usize - 1].1[usize::from(old)] -= 1;
            }
            self.positions[now - 1].1[usize::from(class)] += 1;
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 16")]
fn class_of(share: f64) -> u8 {
    (share * f64::from(FULL)).clamp(0.0, f64::from(FULL)) as u8
}
