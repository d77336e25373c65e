// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An owned set of pages.
//!
//! The bits belong to a `bitvec` (bit i of the set is bit i % 64 of word i / 64); everything that
//! is called once a round walks the raw words. Invariant: bits past the length are zero, so that
//! word-wise counting and walking need no special case at the end.
//!
//! Beside the words there is a bit for each block of 16 of them (4 MiB of a guest). While it is
//! clear the block holds no page, and whatever walks the set passes over the block: ten pages of
//! a 64 GiB guest cost about as much as ten pages of a small one.

use std::hash::{Hash, Hasher};

use bitvec::prelude::{BitVec, Lsb0};

use super::walk::{BLOCK, Runs, for_words, next_bit, next_full, of_block, one_word};
use crate::units::{PageIndex, PageRun};

/// An owned set of pages with a fixed length.
#[derive(Clone)]
pub struct DenseBitmap {
    bits: BitVec<u64, Lsb0>,
    /// One bit a block; set if the block may hold something.
    blocks: Vec<u64>,
}

// Two sets with the same pages are equal, whatever they know of their empty blocks.
impl PartialEq for DenseBitmap {
    fn eq(&self, other: &Self) -> bool {
        self.bits == other.bits
    }
}

impl Eq for DenseBitmap {}

impl Hash for DenseBitmap {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bits.hash(state);
    }
}

/// Two bitmaps of different length met. Rule R2: that is an error, never a truncation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("A bitmap of {theirs} pages was combined with one of {ours} pages")]
#[non_exhaustive]
pub struct LengthMismatch {
    /// Pages of the bitmap that was written to.
    pub ours: u64,
    /// Pages of the other one.
    pub theirs: u64,
}

impl LengthMismatch {
    /// Compares the lengths of two bitmaps, or of a guest and a bitmap, in pages.
    ///
    /// # Errors
    /// If they differ.
    pub fn check(ours: u64, theirs: u64) -> Result<(), Self> {
        if ours == theirs { Ok(()) } else { Err(Self { ours, theirs }) }
    }
}

impl DenseBitmap {
    /// An empty set over `pages` pages.
    #[must_use]
    pub fn new(pages: u64) -> Self {
        Self::of_words(pages, 0)
    }

    /// The set of all `pages` pages.
    #[must_use]
    pub fn full(pages: u64) -> Self {
        Self::of_words(pages, u64::MAX)
    }

    /// An empty set's words come zeroed from the system and are not touched until something is
    /// set: a bitmap over a sparse guest of many TiB costs what is in it.
    fn of_words(pages: u64, word: u64) -> Self {
        let words = PageIndex::new(pages.div_ceil(64)).as_usize();
        let mut bits = BitVec::from_vec(vec![word; words]);
        bits.truncate(PageIndex::new(pages).as_usize());
        let blocks = vec![word; words.div_ceil(BLOCK * 64)];
        Self { bits, blocks }.trimmed()
    }

    /// How many pages the set ranges over.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bits.len() as u64
    }

    /// Whether it ranges over no page at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }

    /// Whether no page is in the set. Stops at the first page found.
    #[must_use]
    pub fn none_set(&self) -> bool {
        next_full(self.words(), &self.blocks, 0).is_none()
    }

    /// The raw words; bits past the length are zero.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        self.bits.as_raw_slice()
    }

    /// Adds the pages of a whole word, `word` being that of pages `64 * index ..`. Bits past the
    /// length are dropped.
    ///
    /// # Panics
    /// If `index` lies past the last word.
    pub fn or_word(&mut self, index: usize, word: u64) {
        let tail = self.tail_mask(index);
        self.bits.as_raw_mut_slice()[index] |= word & tail;
        self.note(index);
    }

    /// Adds the pages of `words`, which are those from word `index` on of a bitmap whose page 0 is
    /// page `first` of this one. Bits past the length are dropped.
    pub(crate) fn or_words(&mut self, first: u64, index: usize, words: &[u64]) {
        let at = PageIndex::new(first / 64).as_usize() + index;
        let shift = first % 64;
        if shift == 0 {
            let ours = self.bits.as_raw_mut_slice();
            let end = ours.len().min(at + words.len());
            for (ours, theirs) in ours[at.min(end)..end].iter_mut().zip(words) {
                *ours |= theirs;
            }
            (at / BLOCK..end.div_ceil(BLOCK)).for_each(|block| self.note(block * BLOCK));
            self.trim();
            return;
        }
        for (at, word) in (at..).zip(words).filter(|(_, word)| **word != 0) {
            for (at, part) in [(at, word << shift), (at + 1, word >> (64 - shift))] {
                if part != 0 && at < self.words().len() {
                    self.or_word(at, part);
                }
            }
        }
    }

    /// Adds a page. A page past the end is a bug of the caller: it panics in every build.
    #[inline]
    pub fn set(&mut self, page: PageIndex) {
        self.insert(page);
    }

    /// Adds a page and says whether it was not there before. Panics past the end.
    #[inline]
    pub fn insert(&mut self, page: PageIndex) -> bool {
        let (index, mask) = self.place(page);
        let word = &mut self.bits.as_raw_mut_slice()[index];
        let new = *word & mask == 0;
        if new {
            *word |= mask;
            self.note(index);
        }
        new
    }

    /// Removes a page. Panics past the end.
    pub fn clear(&mut self, page: PageIndex) {
        self.remove(page);
    }

    /// Removes a page and says whether it was there. Panics past the end.
    pub fn remove(&mut self, page: PageIndex) -> bool {
        let (index, mask) = self.place(page);
        let word = &mut self.bits.as_raw_mut_slice()[index];
        let was = *word & mask != 0;
        *word &= !mask;
        if was && *word == 0 {
            self.note_emptied(index / BLOCK);
        }
        was
    }

    /// The word of a page, which must be there, and its bit.
    #[inline]
    fn place(&self, page: PageIndex) -> (usize, u64) {
        assert!(page.get() < self.len(), "{page} in a bitmap of {} pages", self.len());
        (page.as_usize() / 64, 1 << (page.get() % 64))
    }

    /// Whether the page is in the set; `false` past the end.
    #[must_use]
    pub fn contains(&self, page: PageIndex) -> bool {
        let word = self.words().get(page.as_usize() / 64);
        word.is_some_and(|word| word >> (page.get() % 64) & 1 != 0)
    }

    /// Adds every page of a run, whole words at a time. Panics past the end.
    pub fn set_run(&mut self, run: PageRun) {
        self.check_run(run);
        if let Some((index, mask)) = one_word(run) {
            self.bits.as_raw_mut_slice()[index] |= mask;
            return self.note(index);
        }
        for_words(run, |index, mask| {
            self.bits.as_raw_mut_slice()[index] |= mask;
            self.note(index);
        });
    }

    /// Removes every page of a run, whole words at a time, and passes over what is empty. Panics
    /// past the end.
    pub fn clear_run(&mut self, run: PageRun) {
        self.check_run(run);
        let words = self.bits.as_raw_mut_slice();
        if let Some((index, mask)) = one_word(run) {
            words[index] &= !mask;
            if words[index] == 0 {
                self.note_emptied(index / BLOCK);
            }
            return;
        }
        let (start, end) = (run.start().get(), run.end().get());
        if run.is_empty() {
            return;
        }
        let (first, last) = (run.start().as_usize() / 64, PageIndex::new(end - 1).as_usize() / 64);
        // What the outer words keep.
        let kept = [
            (first, words[first] & !(u64::MAX << (start % 64))),
            (last, words[last] & !(u64::MAX >> (63 - (end - 1) % 64))),
        ];
        let (count, mut at) = (words.len(), first / BLOCK);
        while let Some(block) = next_bit(&self.blocks, at).filter(|block| *block <= last / BLOCK) {
            let all = of_block(block, count);
            words[all.start.max(first)..all.end.min(last + 1)].fill(0);
            self.blocks[block / 64] &= !(1 << (block % 64));
            at = block + 1;
        }
        for (index, bits) in kept {
            words[index] |= bits;
            let block = of_block(index / BLOCK, count);
            if words[block].iter().any(|word| *word != 0) {
                self.blocks[index / BLOCK / 64] |= 1 << (index / BLOCK % 64);
            }
        }
    }

    /// Removes every page.
    pub fn clear_all(&mut self) {
        let (words, mut at) = (self.bits.as_raw_mut_slice(), 0);
        let count = words.len();
        while let Some(block) = next_bit(&self.blocks, at) {
            words[of_block(block, count)].fill(0);
            at = block + 1;
        }
        self.blocks.fill(0);
    }

    /// Adds every page of `other`.
    ///
    /// # Errors
    /// [`LengthMismatch`] if the lengths differ; nothing was changed then.
    pub fn or_with(&mut self, other: &Self) -> Result<(), LengthMismatch> {
        self.or_counting(other).map(drop)
    }

    /// Adds every page of `other` and returns how many were not there before. Where `other` is
    /// empty, nothing is touched.
    ///
    /// # Errors
    /// [`LengthMismatch`] if the lengths differ; nothing was changed then.
    pub fn or_counting(&mut self, other: &Self) -> Result<u64, LengthMismatch> {
        LengthMismatch::check(self.len(), other.len())?;
        Ok(other.blocks().map(|(block, words)| self.or_block(block, words)).sum())
    }

    /// The blocks that may hold something, by number, each with its words.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (usize, &[u64])> {
        let (words, mut at) = (self.words(), 0);
        std::iter::from_fn(move || {
            // A full set may have bits past its last block.
            let block = next_bit(&self.blocks, at).filter(|at| at * BLOCK < words.len())?;
            at = block + 1;
            Some((block, &words[of_block(block, words.len())]))
        })
    }

    /// Adds the pages of a block of another bitmap of this length. Returns how many were not there
    /// before.
    #[inline]
    pub(crate) fn or_block(&mut self, block: usize, words: &[u64]) -> u64 {
        let ours = &mut self.bits.as_raw_mut_slice()[block * BLOCK..];
        let mut added = 0;
        for (ours, theirs) in ours.iter_mut().zip(words) {
            // Most words of a small set are empty, and to count bits takes long.
            if *theirs != 0 {
                added += u64::from((theirs & !*ours).count_ones());
                *ours |= theirs;
            }
        }
        self.blocks[block / 64] |= 1 << (block % 64);
        added
    }

    /// How many pages are in these words.
    pub(crate) fn count_words(words: &[u64]) -> u64 {
        let full = words.iter().filter(|word| **word != 0);
        full.map(|word| u64::from(word.count_ones())).sum()
    }

    /// Removes every page of `other`.
    ///
    /// # Errors
    /// [`LengthMismatch`] if the lengths differ; nothing was changed then.
    pub fn and_not(&mut self, other: &Self) -> Result<(), LengthMismatch> {
        self.combine(other, |ours, theirs| *ours &= !theirs)
    }

    /// Keeps only pages that are also in `other`.
    ///
    /// # Errors
    /// [`LengthMismatch`] if the lengths differ; nothing was changed then.
    pub fn and_with(&mut self, other: &Self) -> Result<(), LengthMismatch> {
        self.combine(other, |ours, theirs| *ours &= theirs)
    }

    /// How many pages are in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.blocks().map(|(_, words)| Self::count_words(words)).sum()
    }

    /// How many pages of `run` are in the set.
    #[must_use]
    pub fn count_run(&self, run: PageRun) -> u64 {
        let mut pages = 0;
        for_words(run, |index, mask| {
            pages += u64::from((self.words()[index] & mask).count_ones());
        });
        pages
    }

    /// The first run of set pages at or after `from`, cut at `limit` pages; `None` if there is no
    /// set page left.
    #[must_use]
    pub fn next_run(&self, from: PageIndex, limit: u64) -> Option<PageRun> {
        let start = self.next_set(from)?;
        let bit = start.get() % 64;
        let ones = u64::from((self.words()[start.as_usize() / 64] >> bit).trailing_ones());
        let pages = if bit + ones < 64 {
            ones.min(limit.max(1))
        } else {
            self.next_clear(start, limit) - start.get()
        };
        Some(PageRun::new(start, pages))
    }

    /// All runs of set pages in ascending order, each as long as it can be.
    #[must_use]
    pub fn runs(&self) -> Runs<'_> {
        Runs::new(self.words(), &self.blocks)
    }

    /// The first set page at or after `from`.
    #[inline]
    #[must_use]
    pub fn next_set(&self, from: PageIndex) -> Option<PageIndex> {
        let words = self.words();
        let mut index = from.as_usize() / 64;
        let mut word = *words.get(index)? & (u64::MAX << (from.get() % 64));
        if word == 0 {
            index = next_full(words, &self.blocks, index + 1)?;
            word = words[index];
        }
        Some(PageIndex::new(index as u64 * 64 + u64::from(word.trailing_zeros())))
    }

    /// The first clear page after `start` (which is set), at most `start + limit` and the length.
    fn next_clear(&self, start: PageIndex, limit: u64) -> u64 {
        let words = self.words();
        let bound = start.get().saturating_add(limit.max(1)).min(self.len());
        let mut index = start.as_usize() / 64;
        let mut clear = !words[index] & (u64::MAX << (start.get() % 64));
        while clear == 0 {
            index += 1;
            if index == words.len() || index as u64 * 64 >= bound {
                return bound;
            }
            clear = !words[index];
        }
        (index as u64 * 64 + u64::from(clear.trailing_zeros())).min(bound)
    }

    /// Changes every block in which there may be something, by an operation that adds nothing.
    fn combine(
        &mut self,
        other: &Self,
        mut op: impl FnMut(&mut u64, u64),
    ) -> Result<(), LengthMismatch> {
        LengthMismatch::check(self.len(), other.len())?;
        let (ours, theirs) = (self.bits.as_raw_mut_slice(), other.words());
        let mut at = 0;
        while let Some(block) = next_bit(&self.blocks, at) {
            let (words, mut left) = (of_block(block, theirs.len()), 0);
            for (ours, theirs) in ours[words.clone()].iter_mut().zip(&theirs[words]) {
                op(ours, *theirs);
                left |= *ours;
            }
            if left == 0 {
                self.blocks[block / 64] &= !(1 << (block % 64));
            }
            at = block + 1;
        }
        Ok(())
    }

    fn check_run(&self, run: PageRun) {
        assert!(run.end().get() <= self.len(), "{run} in a bitmap of {} pages", self.len());
    }

    /// Something may have been put into word `index`.
    fn note(&mut self, index: usize) {
        let block = index / BLOCK;
        self.blocks[block / 64] |= 1 << (block % 64);
    }

    /// Something was taken from a block.
    fn note_emptied(&mut self, block: usize) {
        let words = self.words();
        if words[of_block(block, words.len())].iter().all(|word| *word == 0) {
            self.blocks[block / 64] &= !(1 << (block % 64));
        }
    }

    fn tail_mask(&self, index: usize) -> u64 {
        let rest = self.len() - (index as u64 * 64).min(self.len());
        if rest >= 64 { u64::MAX } else { (1 << rest) - 1 }
    }

    /// Restores the invariant after an operation that fills whole words.
    fn trimmed(mut self) -> Self {
        self.trim();
        self
    }

    fn trim(&mut self) {
        if let Some(last) = self.words().len().checked_sub(1) {
            let tail = self.tail_mask(last);
            self.bits.as_raw_mut_slice()[last] &= tail;
        }
    }
}

impl std::fmt::Debug for DenseBitmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DenseBitmap({} of {} pages", self.count(), self.len())?;
        for run in self.runs().take(8) {
            write!(f, ", {}..{}", run.start().get(), run.end().get())?;
        }
        write!(f, ")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set_of(len: u64, pages: &BTreeSet<u64>) -> DenseBitmap {
        let mut set = DenseBitmap::new(len);
        for page in pages {
            set.set(PageIndex::new(*page));
        }
        set
    }

    fn members(set: &DenseBitmap) -> BTreeSet<u64> {
        set.runs().flat_map(|r| r.iter().map(PageIndex::get).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn lengths_must_agree() {
        let (mut a, b) = (DenseBitmap::new(64), DenseBitmap::full(65));
        assert_eq!(a.or_with(&b), Err(LengthMismatch { ours: 64, theirs: 65 }));
        assert!(a.none_set());
    }

    #[test]
    fn nothing_is_set_past_the_end() {
        for len in [0, 1, 63, 64, 65, 127, 128, 200] {
            let mut set = DenseBitmap::full(len);
            assert_eq!(set.count(), len);
            if len > 0 {
                set.or_word(PageIndex::new((len - 1) / 64).as_usize(), u64::MAX);
                assert_eq!(set.count(), len);
                assert!(set.contains(PageIndex::new(len - 1)));
            }
            assert!(!set.contains(PageIndex::new(len)));
        }
    }

    #[test]
    fn a_full_set_of_any_length_is_added_and_counted() {
        for len in [1, 200, 1024, 70_000] {
            let (mut set, full) = (DenseBitmap::new(len), DenseBitmap::full(len));
            assert_eq!((set.or_counting(&full), full.count()), (Ok(len), len));
        }
    }

    #[test]
    fn a_last_word_that_is_full_ends_the_walk() {
        for len in [64, 128, 256] {
            let set = DenseBitmap::full(len);
            assert_eq!(set.runs().collect::<Vec<_>>(), [PageRun::from_range(0..len)]);
            let mut runs = set.runs();
            assert!(runs.next().is_some() && runs.next().is_none() && runs.next().is_none());
        }
        assert_eq!(DenseBitmap::new(0).runs().next(), None);
    }

    proptest! {
        /// Long runs across words, from lengths of holes and runs.
        #[test]
        fn runs_come_back(
            shape in prop::collection::vec((1u64..150, 1u64..150), 0..12),
            tail in 0u64..70,
        ) {
            let (mut at, mut runs) = (0, Vec::new());
            for (hole, pages) in shape {
                runs.push(PageRun::from_range(at + hole..at + hole + pages));
                at += hole + pages;
            }
            let mut set = DenseBitmap::new(at + tail);
            runs.iter().for_each(|run| set.set_run(*run));
            prop_assert_eq!(set.runs().collect::<Vec<_>>(), runs);
        }

        /// OR-ing words at a place agrees with doing it page by page, and never leaves the end.
        #[test]
        fn words_are_or_ed_at_a_place(
            len in 1u64..300,
            first in 0u64..200,
            index in 0usize..3,
            words in prop::collection::vec(
                prop_oneof![Just(0), Just(u64::MAX), any::<u64>()],
                0..5,
            ),
        ) {
            let (mut fast, mut slow) = (DenseBitmap::new(len), DenseBitmap::new(len));
            fast.or_words(first, index, &words);
            for (word, bit) in (0..words.len()).flat_map(|w| (0..64).map(move |b| (w, b))) {
                let page = first + (index + word) as u64 * 64 + bit;
                if words[word] >> bit & 1 == 1 && page < len {
                    slow.set(PageIndex::new(page));
                }
            }
            prop_assert_eq!(fast, slow);
        }

        /// Every operation agrees with a set of numbers.
        #[test]
        fn behaves_like_a_set(
            far in any::<bool>(),
            len in 1u64..400,
            a in prop::collection::btree_set(0u64..400, 0..200),
            b in prop::collection::btree_set(0u64..400, 0..200),
            from in 0u64..400,
            pages in 0u64..400,
        ) {
            // Close together, or in four places near the borders of blocks.
            let place = |p: u64| if far { p % 100 + p / 100 * 4050 } else { p };
            let len = place(len).max(1);
            let within = |set: BTreeSet<u64>| -> BTreeSet<u64> {
                set.into_iter().map(place).filter(|p| *p < len).collect()
            };
            let (a, b) = (within(a), within(b));
            let (from, pages) = (place(from).min(len), place(pages));
            let run = PageRun::from_range(from..(from + pages).min(len));
            let (set, other) = (set_of(len, &a), set_of(len, &b));
            prop_assert_eq!(set.count(), a.len() as u64);
            prop_assert_eq!(set.count_run(run),
                a.range(run.start().get()..run.end().get()).count() as u64);
            prop_assert_eq!(set.next_set(PageIndex::new(from)).map(PageIndex::get),
                a.range(from..).next().copied());
            let with = |op: &dyn Fn(&mut DenseBitmap)| {
                let mut s = set.clone();
                op(&mut s);
                members(&s)
            };
            let fresh = b.difference(&a).count() as u64;
            prop_assert_eq!(set.clone().or_counting(&other).unwrap(), fresh);
            prop_assert_eq!(with(&|s| s.or_with(&other).unwrap()), a.union(&b).copied().collect());
            let difference = a.difference(&b).copied().collect();
            prop_assert_eq!(with(&|s| s.and_not(&other).unwrap()), difference);
            let intersection = a.intersection(&b).copied().collect();
            prop_assert_eq!(with(&|s| s.and_with(&other).unwrap()), intersection);
            let range: BTreeSet<u64> = (run.start().get()..run.end().get()).collect();
            prop_assert_eq!(with(&|s| s.set_run(run)), a.union(&range).copied().collect());
            prop_assert_eq!(with(&|s| s.clear_run(run)), a.difference(&range).copied().collect());
            prop_assert_eq!(members(&set), a.clone());
            // Blocks that are emptied are passed over, and come back when they are filled.
            let again = with(&|s| {
                set.runs().for_each(|r| s.clear_run(r));
                assert!(s.none_set() && s.runs().next().is_none() && s.count() == 0);
                s.or_with(&other).unwrap();
                other.runs().flat_map(PageRun::iter).for_each(|p| assert!(s.remove(p)));
                assert!(s.none_set() && s.next_set(PageIndex::new(0)).is_none());
                set.runs().flat_map(PageRun::iter).for_each(|p| assert!(s.insert(p)));
                s.and_not(&set).unwrap();
                assert!(*s == DenseBitmap::new(len) && s.none_set());
                s.or_with(&set).unwrap();
                s.clear_all();
                s.or_with(&other).unwrap();
            });
            prop_assert_eq!(again, b);
            for r in set.runs() {
                prop_assert!(!r.is_empty());
                prop_assert!(!set.contains(r.end()), "runs are as long as they can be");
            }
            if let Some(r) = set.next_run(PageIndex::new(from), 3) {
                let page = set.next_set(PageIndex::new(from)).unwrap().get();
                let run = (page..).take_while(|p| a.contains(p)).take(3).count() as u64;
                prop_assert_eq!((r.start().get(), r.pages()), (page, run));
            }
        }
    }
}
