// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KVM's dirty log, read without clearing and cleared by hand.
//!
//! # Two phases
//! A harvest copies the log and leaves it as it is; a page's bit is cleared, and the page protected
//! again, when the page is about to be read. So a harvest is short, and what is written between a
//! harvest and the reading costs no second sending.
//!
//! The kernel clears whole words of 64 pages or parts of them, as a mask says. Beside the pages of
//! the run, pages of the same words that an earlier harvest has reported are cleared in the same
//! call: they are owed already, and their turn comes later, so that a write from now on is logged
//! and a write until now is read. Pages that no harvest has reported keep their bit. So scattered
//! pages cost one call for each word of the log rather than for each page.

use std::sync::Arc;

use super::system;
use crate::bitmap::{DenseBitmap, LengthMismatch};
use crate::dirty::{DirtyError, DirtyTracker, Harvest};
use crate::sys::KvmSlots;
use crate::units::{PageIndex, PageRun};

const NAME: &str = "kvm-log";

/// When bits of the log are cleared and pages protected again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum ClearAt {
    /// When a page is about to be read (see [`DirtyTracker::needs_rearm`]).
    #[default]
    Send,
    /// At once, for all pages that a harvest reports: one call a slot, and a peek sees every page.
    Harvest,
}

/// Dirty tracking by the dirty log of KVM's memory slots.
#[derive(Debug)]
pub struct KvmLogTracker {
    slots: Arc<KvmSlots>,
    clear_at: ClearAt,
    armed: bool,
    /// Since the tracker was armed.
    harvested: bool,
    /// Put back; in pages of the guest.
    restored: DenseBitmap,
    /// For each region, in words of its log: reported, and not cleared yet.
    reported: Vec<Vec<u64>>,
    /// Room for one region's log.
    words: Vec<u64>,
}

impl KvmLogTracker {
    /// A tracker over a VM's memory slots. Arms nothing.
    ///
    /// # Errors
    /// [`DirtyError::Unsupported`] if the kernel has no log that is cleared by hand.
    pub fn new(slots: Arc<KvmSlots>, clear_at: ClearAt) -> Result<Self, DirtyError> {
        slots.protect_by_hand().map_err(|error| DirtyError::Unsupported {
            tracker: NAME,
            why: format!("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 (Linux 5.0 and later): {error}"),
        })?;
        let restored = DenseBitmap::new(slots.table().pages());
        let lengths = (0..slots.count()).map(|region| slots.log_words(region));
        let words = Vec::with_capacity(lengths.clone().max().unwrap_or(0));
        let reported = lengths.map(|length| vec![0; length]).collect();
        Ok(Self { slots, clear_at, armed: false, harvested: false, restored, reported, words })
    }

    fn check_armed(&self) -> Result<(), DirtyError> {
        if self.armed { Ok(()) } else { Err(DirtyError::NotArmed { tracker: NAME }) }
    }

    /// Reads a region's log into `words`.
    fn read(&mut self, region: usize) -> Result<(), DirtyError> {
        self.words.clear();
        self.words.resize(self.slots.log_words(region), 0);
        let read = self.slots.read_log(region, &mut self.words);
        read.map_err(system(NAME, "read the dirty log"))
    }

    /// Clears the bits of `words` in a region's log, from word `from` on, and forgets that they
    /// were reported.
    fn clear_words(&mut self, region: usize, from: usize) -> Result<(), DirtyError> {
        let cleared = self.slots.clear(region, from, &self.words);
        cleared.map_err(system(NAME, "clear the dirty log"))?;
        for (reported, cleared) in self.reported[region][from..].iter_mut().zip(&self.words) {
            *reported &= !cleared;
        }
        Ok(())
    }

    /// Clears what was reported in the words of a run, and, if `all`, every page of the run.
    fn clear_run(&mut self, run: PageRun, all: bool) -> Result<(), DirtyError> {
        let slots = Arc::clone(&self.slots);
        let shift = slots.page_shift();
        for piece in slots.table().split(run) {
            let first = piece.first_page << shift;
            let pages = PageRun::new(PageIndex::new(first), piece.run.pages() << shift);
            let (from, end) = (word_of(first), word_of(pages.end().get() - 1) + 1);
            let reported = &self.reported[piece.region];
            let Some(reported) = reported.get(from..end.min(reported.len())) else { continue };
            self.words.clear();
            if all {
                let of_run = (from..end).zip(reported);
                self.words.extend(of_run.map(|(word, reported)| reported | mask(word, pages)));
            } else {
                self.words.extend_from_slice(reported);
            }
            if self.words.iter().any(|word| *word != 0) {
                self.clear_words(piece.region, from)?;
            }
        }
        Ok(())
    }
}

impl DirtyTracker for KvmLogTracker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pages(&self) -> u64 {
        self.slots.table().pages()
    }

    fn arm(&mut self) -> Result<(), DirtyError> {
        // A log that is ended and begun again is empty.
        self.disarm()?;
        self.slots.log(true).map_err(system(NAME, "begin a dirty log"))?;
        (self.armed, self.harvested) = (true, false);
        self.restored.clear_all();
        self.reported.iter_mut().for_each(|words| words.fill(0));
        Ok(())
    }

    fn harvest(&mut self, into: &mut DenseBitmap) -> Result<Harvest, DirtyError> {
        LengthMismatch::check(self.pages(), into.len())?;
        self.check_armed()?;
        let mut harvest = Harvest::default();
        let put_back = self.restored.count();
        if put_back > 0 {
            into.or_with(&self.restored)?;
            self.restored.clear_all();
        }
        for region in 0..self.slots.count() {
            self.read(region)?;
            let (slots, whole) = (&self.slots, self.slots.table().region_run(region));
            harvest.pages += report(&self.words, whole.unwrap_or_default(), slots, into);
            harvest.steps += self.words.len() as u64;
            // What was reported before and is not cleared is still in the log.
            self.reported[region].copy_from_slice(&self.words);
            if self.clear_at == ClearAt::Harvest && self.words.iter().any(|word| *word != 0) {
                self.clear_words(region, 0)?;
            }
        }
        self.harvested = true;
        harvest.pages += put_back;
        Ok(harvest)
    }

    fn needs_rearm(&self) -> bool {
        self.clear_at == ClearAt::Send
    }

    /// Clears what was reported of the run. Before the first harvest, what was written since the
    /// log began: it is about to be read.
    fn rearm(&mut self, run: PageRun) -> Result<(), DirtyError> {
        self.check_armed()?;
        self.clear_run(run, !self.harvested)
    }

    fn clear(&mut self, runs: &[PageRun]) -> Result<(), DirtyError> {
        self.check_armed()?;
        runs.iter().try_for_each(|run| self.clear_run(*run, true))
    }

    /// Pages that were reported and are still to be read keep their bit, so nothing can be said of
    /// them: they are left out.
    fn peek(&mut self, window: PageRun, into: &mut DenseBitmap) -> Result<bool, DirtyError> {
        LengthMismatch::check(self.pages(), into.len())?;
        self.check_armed()?;
        let slots = Arc::clone(&self.slots);
        let shift = slots.page_shift();
        for piece in slots.table().split(window) {
            self.read(piece.region)?;
            let first = piece.first_page << shift;
            let pages = PageRun::new(PageIndex::new(first), piece.run.pages() << shift);
            for ((word, dirty), reported) in
                (0..).zip(&mut self.words).zip(&self.reported[piece.region])
            {
                *dirty &= mask(word, pages) & !reported;
            }
            let whole = slots.table().region_run(piece.region).unwrap_or_default();
            report(&self.words, whole, &slots, into);
        }
        Ok(true)
    }

    fn restore(&mut self, set: &DenseBitmap) -> Result<(), DirtyError> {
        Ok(self.restored.or_with(set)?)
    }

    fn disarm(&mut self) -> Result<(), DirtyError> {
        if self.armed {
            self.slots.log(false).map_err(system(NAME, "end the dirty log"))?;
            self.armed = false;
        }
        Ok(())
    }
}

impl Drop for KvmLogTracker {
    fn drop(&mut self) {
        if let Err(error) = self.disarm() {
            tracing::warn!(%error, "The guest stays logged, and slower for it");
        }
    }
}

/// Adds the pages of a log, that of the region with the dense pages `whole`, and counts them.
fn report(words: &[u64], whole: PageRun, slots: &KvmSlots, into: &mut DenseBitmap) -> u64 {
    let shift = slots.page_shift();
    let first = whole.start().get();
    if shift == 0 {
        into.or_words(first, 0, words);
        return words.iter().map(|word| u64::from(word.count_ones())).sum();
    }
    let mut pages = 0;
    for (index, mut word) in (0u64..).zip(words.iter().copied()) {
        while word != 0 {
            let page = first + ((index * 64 + u64::from(word.trailing_zeros())) >> shift);
            pages += u64::from(into.insert(PageIndex::new(page)));
            word &= word - 1;
        }
    }
    pages
}

fn word_of(slot_page: u64) -> usize {
    PageIndex::new(slot_page / 64).as_usize()
}

/// The bits of word `word` of a log that lie in `pages`.
fn mask(word: usize, pages: PageRun) -> u64 {
    let first = word as u64 * 64;
    let from = pages.start().get().clamp(first, first + 64) - first;
    let end = pages.end().get().clamp(first, first + 64) - first;
    if from >= end { 0 } else { (u64::MAX >> (64 - (end - from))) << from }
}
