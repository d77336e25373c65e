// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Walking the words of a set of pages: by blocks that may hold something, by runs, within a run.

use crate::units::{PageIndex, PageRun};

/// Words of a block.
pub(super) const BLOCK: usize = 16;

/// The words of a block of a bitmap of so many words.
pub(super) fn of_block(block: usize, words: usize) -> std::ops::Range<usize> {
    (block * BLOCK).min(words)..((block + 1) * BLOCK).min(words)
}

/// The first bit at or after `from`.
pub(super) fn next_bit(words: &[u64], from: usize) -> Option<usize> {
    let mut index = from / 64;
    let mut word = *words.get(index)? & (u64::MAX << (from % 64));
    while word == 0 {
        index += 1;
        word = *words.get(index)?;
    }
    Some(index * 64 + word.trailing_zeros() as usize)
}

/// The first word at or after word `from` that is not 0.
pub(super) fn next_full(words: &[u64], blocks: &[u64], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let block = next_bit(blocks, at / BLOCK)?;
        at = at.max(block * BLOCK);
        let rest = words.get(at..of_block(block, words.len()).end)?;
        if let Some(found) = rest.iter().position(|word| *word != 0) {
            return Some(at + found);
        }
        at = (block + 1) * BLOCK;
    }
}

/// The word of a run that lies in one, and its bits there.
#[inline]
pub(super) fn one_word(run: PageRun) -> Option<(usize, u64)> {
    let (bit, pages) = (run.start().get() % 64, run.pages());
    let within = pages > 0 && bit + pages <= 64;
    within.then(|| (run.start().as_usize() / 64, (u64::MAX >> (64 - pages)) << bit))
}

/// Calls `visit` with each word index that `run` touches and the mask of its bits there.
pub(super) fn for_words(run: PageRun, mut visit: impl FnMut(usize, u64)) {
    let (mut at, end) = (run.start().get(), run.end().get());
    while at < end {
        let low = at % 64;
        let taken = (64 - low).min(end - at);
        let mask = if taken == 64 { u64::MAX } else { ((1 << taken) - 1) << low };
        visit(PageIndex::new(at / 64).as_usize(), mask);
        at += taken;
    }
}

/// Iterator over the runs of a [`DenseBitmap`](super::DenseBitmap).
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    words: &'a [u64],
    blocks: &'a [u64],
    /// The word that is being walked, and what is left of it.
    index: usize,
    rest: u64,
}

impl<'a> Runs<'a> {
    pub(super) fn new(words: &'a [u64], blocks: &'a [u64]) -> Self {
        Self { words, blocks, index: 0, rest: words.first().copied().unwrap_or(0) }
    }
}

impl Iterator for Runs<'_> {
    type Item = PageRun;

    // Adding a word's lowest set bit carries through the run that starts there: the sum's lowest
    // set bit is the run's end, and the bits that word and sum share are what is left.
    #[inline]
    fn next(&mut self) -> Option<PageRun> {
        if self.rest == 0 {
            self.index += 1;
            self.rest = *self.words.get(self.index)?;
            if self.rest == 0 {
                self.index = next_full(self.words, self.blocks, self.index)?;
                self.rest = self.words[self.index];
            }
        }
        let at = |index: usize, bit: u32| index as u64 * 64 + u64::from(bit);
        let start = at(self.index, self.rest.trailing_zeros());
        let (sum, to_the_end) = self.rest.overflowing_add(self.rest & self.rest.wrapping_neg());
        self.rest &= sum;
        if !to_the_end {
            return Some(PageRun::from_range(start..at(self.index, sum.trailing_zeros())));
        }
        loop {
            let Some(&word) = self.words.get(self.index + 1) else {
                // The last word is full, so the set ends with it.
                return Some(PageRun::from_range(start..at(self.index + 1, 0)));
            };
            self.index += 1;
            if word != u64::MAX {
                self.rest = word & word.wrapping_add(1);
                return Some(PageRun::from_range(start..at(self.index, word.trailing_ones())));
            }
        }
    }
}
