// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owed pages in classes: a bitmap a class, and within a class round and round by address.
//!
//! A bit a page and class, and one more for each 64 pages (*summary*), so that a class with few
//! pages in a large guest is found without looking through it.

use crate::units::{PageIndex, PageRun};

/// Pages of several classes. A page is in one of them at most; the caller sees to that.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Classes {
    classes: Vec<Class>,
}

#[derive(Clone, PartialEq, Debug)]
struct Class {
    words: Vec<u64>,
    /// Bit i: word i may hold a page.
    summary: Vec<u64>,
    pages: u64,
    /// Where the next page is taken from.
    cursor: usize,
}

impl Classes {
    /// `count` empty classes over `pages` pages.
    pub(super) fn new(count: usize, pages: usize) -> Self {
        let words = pages.div_ceil(64);
        let class = || Class {
            words: vec![0; words],
            summary: vec![0; words.div_ceil(64)],
            pages: 0,
            cursor: 0,
        };
        Self { classes: (0..count).map(|_| class()).collect() }
    }

    pub(super) fn clear_all(&mut self) {
        for class in self.classes.iter_mut().filter(|class| class.pages > 0) {
            class.words.fill(0);
            class.summary.fill(0);
            class.pages = 0;
        }
    }

    #[inline]
    pub(super) fn insert(&mut self, class: usize, page: usize) {
        let (class, index, mask) = (&mut self.classes[class], page / 64, 1 << (page % 64));
        let word = &mut class.words[index];
        class.pages += u64::from(*word & mask == 0);
        *word |= mask;
        class.summary[index / 64] |= 1 << (index % 64);
    }

    /// Inserts the pages of `mask` of the `index`-th 64 pages.
    #[inline]
    pub(super) fn insert_word(&mut self, class: usize, index: usize, mask: u64) {
        let class = &mut self.classes[class];
        let word = &mut class.words[index];
        class.pages += u64::from((mask & !*word).count_ones());
        *word |= mask;
        class.summary[index / 64] |= 1 << (index % 64);
    }

    #[inline]
    pub(super) fn remove(&mut self, class: usize, page: usize) {
        let class = &mut self.classes[class];
        let word = &mut class.words[page / 64];
        let mask = 1 << (page % 64);
        class.pages -= u64::from(*word & mask != 0);
        *word &= !mask;
    }

    /// Calls `keep` with each page of a class, in ascending order, and takes out those for which
    /// it says no.
    pub(super) fn retain(&mut self, class: usize, mut keep: impl FnMut(usize) -> bool) {
        let class = &mut self.classes[class];
        if class.pages == 0 {
            return;
        }
        for (at, summary) in class.summary.iter().enumerate() {
            let mut groups = *summary;
            while groups != 0 {
                let index = at * 64 + groups.trailing_zeros() as usize;
                groups &= groups - 1;
                let mut bits = class.words[index];
                while bits != 0 {
                    let bit = bits & bits.wrapping_neg();
                    if !keep(index * 64 + bit.trailing_zeros() as usize) {
                        class.words[index] &= !bit;
                        class.pages -= 1;
                    }
                    bits &= !bit;
                }
            }
        }
    }

    /// Takes up to `pages_max` pages out of the classes in the given order, in up to `runs_max`
    /// runs.
    pub(super) fn take(
        &mut self,
        order: impl Iterator<Item = usize>,
        pages_max: u64,
        runs_max: usize,
        into: &mut Vec<PageRun>,
    ) {
        let (mut left, runs_end) = (pages_max, into.len() + runs_max);
        for class in order {
            left -= self.classes[class].take(left, runs_end, into);
            if left == 0 || into.len() >= runs_end {
                return;
            }
        }
    }
}

impl Class {
    /// The first word at or after `index` that holds a page, with what it holds. Clears summary
    /// bits that promise too much.
    fn next_word(&mut self, index: usize) -> Option<(usize, u64)> {
        let mut at = index / 64;
        let mut groups = self.summary.get(at)? & (u64::MAX << (index % 64));
        loop {
            while groups == 0 {
                at += 1;
                groups = *self.summary.get(at)?;
            }
            let bit = groups & groups.wrapping_neg();
            let index = at * 64 + bit.trailing_zeros() as usize;
            if self.words[index] != 0 {
                return Some((index, self.words[index]));
            }
            self.summary[at] &= !bit;
            groups &= !bit;
        }
    }

    fn take(&mut self, pages_max: u64, runs_end: usize, into: &mut Vec<PageRun>) -> u64 {
        let first = into.len();
        let mut taken = 0;
        while taken < pages_max && self.pages > 0 && into.len() < runs_end {
            let Some((index, word)) = self.next_word(self.cursor / 64) else {
                self.cursor = 0;
                continue;
            };
            let from = if index == self.cursor / 64 { self.cursor % 64 } else { 0 };
            let bits = word & (u64::MAX << from);
            if bits == 0 {
                self.cursor = (index + 1) * 64;
                continue;
            }
            let start = bits.trailing_zeros();
            let most = u32::try_from(pages_max - taken).unwrap_or(64);
            let count = (!(bits >> start)).trailing_zeros().min(64 - start).min(most);
            let mask = (u64::MAX >> (64 - count)) << start;
            self.words[index] &= !mask;
            self.pages -= u64::from(count);
            taken += u64::from(count);
            let at = index as u64 * 64 + u64::from(start);
            let end = at + u64::from(count);
            self.cursor = PageIndex::new(end).as_usize();
            match into[first..].last_mut().filter(|run| run.end().get() == at) {
                Some(run) => *run = PageRun::from_range(run.start().get()..end),
                None => into.push(PageRun::from_range(at..end)),
            }
        }
        taken
    }
}
