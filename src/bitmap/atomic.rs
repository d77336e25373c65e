// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A set of pages shared by many writers, who mark, and one harvester, who takes.
//!
//! # Why this is not one atomic swap a word
//! A writer stores data and then marks the page. Marking is on the path of every guest write that
//! the VMM makes, and nearly always the page is marked already, so a mark should be a few loads.
//! But "skip the read-modify-write if the bit is set" is the store-buffering pattern: the
//! writer's load of the bit may pass its own data store, see the bit that the harvester is about
//! to clear, and skip; the harvester then clears the bit and reads the page before the data
//! arrives. That write is lost. And a harvester that swaps every dirty word pays a locked
//! instruction for each.
//!
//! # How it works
//! There are two halves, each with a bit a page (*words*) and a bit a word (*summary*), and an
//! epoch whose parity names the half that writers mark:
//!
//! ```text
//! writer                                  harvester
//!   store data                              epoch = e + 1
//!   e = epoch            (acquire)          HEAVY FENCE
//!   set word and summary bits in half e%2   take and clear half e%2 with plain loads and stores
//!     (each skipped if already set)         ... the caller reads the pages
//!   LIGHT FENCE
//!   again, if epoch != e
//! ```
//!
//! *Claim: when a mark returns, having last seen epoch e, the harvest that ends epoch e reports
//! the page, and whoever reads the page after that harvest sees the data.* The two fences order
//! the writer's "everything before, then load epoch" against the harvester's "store epoch, then
//! everything after". If the harvester's fence came first, the writer's last load would have seen
//! e + 1. So the writer's fence came first, and all it did before is visible to the harvester
//! after its own: the data, and both bits, whether the writer set them or saw them set. (A bit
//! that it saw set was not a bit of an earlier epoch that is cleared meanwhile: the half was
//! cleared before epoch e was published with release, and is not touched before the fence.)
//!
//! Hence the harvester needs no atomic read-modify-write. A writer that is late may still write
//! into the half that is being taken; its bit may be overwritten, or stay behind and be reported
//! one harvest later. Neither matters: it sees the new epoch and marks again. A stale bit is an
//! over-report (allowed by R2), and so that a stale word bit never hides a mark, every mark looks
//! at the summary bit too. Comparing epochs rather than parities rules out that two flips in the
//! middle of a mark go unnoticed.
//!
//! # Clearing without a harvest
//! A harvester that is about to read some pages may clear their bits in the half in use, with an
//! atomic and; then it moves the epoch on by two, which keeps the half, and executes its fence.
//! The claim holds for this as it does for a harvest: a mark that returns having last seen the old
//! epoch was before the fence, so that its data is visible, cleared or not; any other mark sees a
//! new epoch, and with it the cleared bits, and marks again. Summary bits stay as they are.
//!
//! # The fences
//! Where membarrier(2) works the harvester's fence is [`sys::membarrier`](crate::sys), which
//! executes a full barrier on all threads of this process, and the writer's is a compiler fence:
//! free. Elsewhere, and under loom, both are `fence(SeqCst)`. The kernel's own stores on behalf of
//! a thread (`read(2)` into guest memory) are ordered likewise, for they precede the mark in that
//! thread. Stores by devices or other processes are not; their owners keep logs of their own.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::PoisonError;

use crossbeam_utils::CachePadded;

use crate::bitmap::{DenseBitmap, LengthMismatch};
use crate::sync::{AtomicU64, Mutex, Ordering, compiler_fence, fence};
use crate::units::{PageIndex, PageRun};

/// A set of pages that any number of threads mark and one harvester takes; see the module.
pub struct AtomicBitmap {
    pages: u64,
    fences: Fences,
    halves: [Half; 2],
    epoch: CachePadded<AtomicU64>,
    /// Held during a harvest: two at once would take the half that writers are marking.
    harvester: Mutex<()>,
}

/// Who pays for the order between a mark and a harvest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fences {
    /// The harvester, by membarrier(2). Marks are a few loads.
    Asymmetric,
    /// Both sides, by a full fence for each mark and each harvest.
    Full,
}

/// A harvest of an [`AtomicBitmap`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HarvestError {
    /// Bitmaps of different length (R2). Nothing was taken.
    #[error(transparent)]
    Length(#[from] LengthMismatch),
    /// The harvester could not order itself with the writers. Treat every page as dirty.
    #[error(
        "Could not order the harvest with the writers by membarrier(2); treat every page as \
         dirty, and allow the call or build the bitmap with full fences"
    )]
    Barrier(#[source] io::Error),
}

struct Half {
    words: Box<[AtomicU64]>,
    summary: Box<[AtomicU64]>,
}

impl Half {
    fn new(words: usize) -> Self {
        let zeros = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self { words: zeros(words), summary: zeros(words.div_ceil(64)) }
    }

    /// Sets the bits of `mask` in a word, and its summary bit.
    #[inline]
    fn or(&self, index: usize, mask: u64) {
        set_bits(&self.words[index], mask);
        set_bits(&self.summary[index / 64], 1 << (index % 64));
    }

    /// Takes every dirty word, some consecutive ones at a time, and leaves them clean. Returns the
    /// number of words visited.
    fn take(&self, mut each: impl FnMut(usize, &[u64])) -> u64 {
        let mut visited = self.summary.len() as u64;
        let mut taken = [0; 64];
        for (at, (summary, words)) in self.summary.iter().zip(self.words.chunks(64)).enumerate() {
            let mut bits = summary.load(Ordering::Relaxed);
            if bits == 0 {
                continue;
            }
            summary.store(0, Ordering::Relaxed);
            if bits.count_ones() >= DENSE_SUMMARY {
                let taken = &mut taken[..words.len()];
                for (taken, word) in taken.iter_mut().zip(words) {
                    *taken = take_word(word);
                }
                visited += words.len() as u64;
                each(at * 64, taken);
                continue;
            }
            visited += u64::from(bits.count_ones());
            while bits != 0 {
                let index = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                each(at * 64 + index, &[take_word(&words[index])]);
            }
        }
        visited
    }
}

/// From so many dirty words of 64 on it is cheaper to take all 64 than to find the dirty ones.
const DENSE_SUMMARY: u32 = 12;

/// No read-modify-write: nobody relies on marks made in a half that is being taken.
#[inline]
fn take_word(word: &AtomicU64) -> u64 {
    let taken = word.load(Ordering::Relaxed);
    word.store(0, Ordering::Relaxed);
    taken
}

#[inline]
fn set_bits(word: &AtomicU64, mask: u64) {
    if word.load(Ordering::Relaxed) & mask != mask {
        word.fetch_or(mask, Ordering::Relaxed);
    }
}

impl AtomicBitmap {
    /// A clean bitmap of `pages` pages, with the cheapest fences that this system offers.
    #[must_use]
    pub fn new(pages: u64) -> Self {
        let asymmetric = !cfg!(loom) && crate::sys::membarrier::available();
        Self::with_fences(pages, if asymmetric { Fences::Asymmetric } else { Fences::Full })
    }

    /// A clean bitmap with chosen fences. [`Fences::Full`] is for processes whose seccomp filter
    /// does not let membarrier(2) through.
    #[must_use]
    pub fn with_fences(pages: u64, fences: Fences) -> Self {
        let words = PageIndex::new(pages).as_usize().div_ceil(64);
        Self {
            pages,
            fences,
            halves: [Half::new(words), Half::new(words)],
            epoch: CachePadded::new(AtomicU64::new(0)),
            harvester: Mutex::new(()),
        }
    }

    /// How many pages the set ranges over.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.pages
    }

    /// Whether it ranges over no page at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// Who pays for ordering marks with harvests.
    #[must_use]
    pub fn fences(&self) -> Fences {
        self.fences
    }

    /// Marks a page, after the store to it (R1). A page past the end is ignored.
    #[inline]
    pub fn mark(&self, page: PageIndex) {
        if page.get() < self.pages {
            self.settle(|half| half.or(page.as_usize() / 64, 1 << (page.get() % 64)));
        }
    }

    /// Marks the pages `[first, end)`, whole words at a time, after the stores to them (R1).
    /// Pages past the end are ignored.
    #[inline]
    pub fn mark_range(&self, first: u64, end: u64) {
        let end = end.min(self.pages);
        if first < end {
            self.settle(|half| {
                let run = PageRun::from_range(first..end);
                super::walk::for_words(run, |index, mask| half.or(index, mask));
            });
        }
    }

    /// Marks what `set` holds of this bitmap's pages, page 0 of this bitmap being page `first` of
    /// `set`.
    pub(crate) fn mark_window(&self, set: &DenseBitmap, first: u64) {
        let words = set.words();
        self.settle(|half| {
            for index in 0..half.words.len() {
                let mask = window_word(words, first, index) & self.tail_mask(index);
                if mask != 0 {
                    half.or(index, mask);
                }
            }
        });
    }

    /// Whether the page is marked at this moment; `false` past the end.
    #[must_use]
    pub fn is_marked(&self, page: PageIndex) -> bool {
        page.get() < self.pages
            && self.active().words[page.as_usize() / 64].load(Ordering::Relaxed)
                & (1 << (page.get() % 64))
                != 0
    }

    /// ORs the marked pages into `into` and leaves them clean. Returns how many pages were marked
    /// and how many words were visited. Allocates nothing. A second harvester waits.
    ///
    /// # Errors
    /// [`HarvestError`].
    pub fn harvest_into(&self, into: &mut DenseBitmap) -> Result<(u64, u64), HarvestError> {
        LengthMismatch::check(into.len(), self.pages)?;
        self.harvest_at(into, 0)
    }

    /// As [`harvest_into`](Self::harvest_into), with page 0 of this bitmap being page `first` of
    /// `into`, which must reach at least `first` plus this bitmap's length.
    pub(crate) fn harvest_at(
        &self,
        into: &mut DenseBitmap,
        first: u64,
    ) -> Result<(u64, u64), HarvestError> {
        if into.len() < first + self.pages {
            return Err(LengthMismatch { ours: into.len(), theirs: first + self.pages }.into());
        }
        let _one_harvester = self.harvester.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch.load(Ordering::Relaxed);
        // Release: whoever sees the new epoch sees the other half as the last harvest left it.
        self.epoch.store(epoch + 1, Ordering::Release);
        let ordered = self.heavy_fence();
        let mut pages = 0;
        let words = self.half(epoch).take(|index, words| {
            pages += words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            into.or_words(first, index, words);
        });
        // Even if the barrier failed nothing must stay behind in the half that was taken.
        ordered.map(|()| (pages, words)).map_err(HarvestError::Barrier)
    }

    /// Clears the marks of the pages of `runs`, page 0 of this bitmap being page `first` there: who
    /// reads the pages after this sees every write whose mark is missing from later harvests.
    /// Pages outside are ignored. One barrier, if anything was marked.
    ///
    /// # Errors
    /// [`HarvestError::Barrier`].
    pub(crate) fn clear_at(&self, runs: &[PageRun], first: u64) -> Result<(), HarvestError> {
        let _one_harvester = self.harvester.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch.load(Ordering::Relaxed);
        let half = self.half(epoch);
        let mut cleared = false;
        for run in runs {
            let from = run.start().get().max(first) - first;
            let end = run.end().get().clamp(first, first + self.pages) - first;
            if from >= end {
                continue;
            }
            super::walk::for_words(PageRun::from_range(from..end), |index, mask| {
                let word = &half.words[index];
                if word.load(Ordering::Relaxed) & mask != 0 {
                    word.fetch_and(!mask, Ordering::Relaxed);
                    cleared = true;
                }
            });
        }
        if !cleared {
            return Ok(());
        }
        // Release: whoever sees the new epoch sees the cleared bits.
        self.epoch.store(epoch + 2, Ordering::Release);
        self.heavy_fence().map_err(HarvestError::Barrier)
    }

    /// ORs the pages of `window` that are marked into `into`, page 0 of this bitmap being page
    /// `first` there, and clears nothing. Pages outside either are ignored.
    pub(crate) fn peek_at(&self, window: PageRun, into: &mut DenseBitmap, first: u64) {
        let from = window.start().get().max(first);
        let end = window.end().get().min(first + self.pages).min(into.len());
        if from < end {
            let half = self.active();
            let run = PageRun::from_range(from - first..end - first);
            super::walk::for_words(run, |index, mask| {
                let word = half.words[index].load(Ordering::Relaxed) & mask;
                if word != 0 {
                    into.or_words(first, index, &[word]);
                }
            });
        }
    }

    /// Marks in the half of the current epoch, and again for as long as the epoch moves on.
    #[inline]
    fn settle(&self, mark: impl Fn(&Half)) {
        loop {
            let epoch = self.epoch.load(Ordering::Acquire);
            mark(self.half(epoch));
            self.light_fence();
            if self.epoch.load(Ordering::Relaxed) == epoch {
                return;
            }
        }
    }

    #[inline]
    fn half(&self, epoch: u64) -> &Half {
        &self.halves[usize::from(epoch & 1 == 1)]
    }

    fn active(&self) -> &Half {
        self.half(self.epoch.load(Ordering::Acquire))
    }

    fn tail_mask(&self, index: usize) -> u64 {
        let rest = self.pages - (index as u64 * 64).min(self.pages);
        if rest >= 64 { u64::MAX } else { (1 << rest) - 1 }
    }

    #[inline]
    fn light_fence(&self) {
        match self.fences {
            Fences::Asymmetric => compiler_fence(Ordering::SeqCst),
            Fences::Full => fence(Ordering::SeqCst),
        }
    }

    fn heavy_fence(&self) -> io::Result<()> {
        fence(Ordering::SeqCst);
        match self.fences {
            // Loom has no membarrier: there an asymmetric bitmap is one whose writers lack their
            // fence, and the tests prove that it loses writes.
            Fences::Asymmetric if cfg!(loom) => Ok(()),
            Fences::Asymmetric => crate::sys::membarrier::barrier(),
            Fences::Full => Ok(()),
        }
    }
}

/// Word `index` of the bits of `words` from bit `first` on; zeros past the end.
fn window_word(words: &[u64], first: u64, index: usize) -> u64 {
    let at = PageIndex::new(first / 64).as_usize() + index;
    let word = |i: usize| words.get(i).copied().unwrap_or(0);
    match first % 64 {
        0 => word(at),
        shift => word(at) >> shift | word(at + 1) << (64 - shift),
    }
}

impl std::fmt::Debug for AtomicBitmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AtomicBitmap")
            .field("pages", &self.pages)
            .field("fences", &self.fences)
            .finish_non_exhaustive()
    }
}
