// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Version counters of a guest's pages, in blocks that take memory only where pages differ.
//!
//! A block has one number and, where its pages are not all of one version, what they have above
//! it: a list of the few that have anything, or a field for each, in as few bits as the largest
//! needs: 1, 2, 4, 8, 16 or 32. Memory that nobody wrote since it was populated, and at the
//! destination everything that arrived once, is one number a block. A guest of 1 TiB takes 12 MiB,
//! twice to four times that where every block has pages that are written again and again, and
//! more only where most pages of a block are.

use std::hash::{Hash, Hasher};
use std::ops::Range;

use crate::bitmap::DenseBitmap;
use crate::units::{PageIndex, PageRun};

mod block;

use block::Block;

/// Pages of a block: whole words of a bitmap.
const BLOCK: u64 = 512;

/// One counter a page.
#[derive(Clone, Debug, Default)]
pub(super) struct Versions {
    blocks: Vec<Block>,
    pages: u64,
}

/// The parts of a run that lie in one block each: the block, and the places in it.
fn parts(run: PageRun) -> impl Iterator<Item = (usize, Range<usize>)> {
    let (start, end) = (run.start().get(), run.end().get());
    (start / BLOCK..end.div_ceil(BLOCK)).map(move |block| {
        let first = block * BLOCK;
        let place = |page: u64| PageIndex::new(page.clamp(first, first + BLOCK) - first).as_usize();
        (PageIndex::new(block).as_usize(), place(start)..place(end))
    })
}

fn place(page: PageIndex) -> (usize, usize) {
    let (block, at) = (page.get() / BLOCK, page.get() % BLOCK);
    (PageIndex::new(block).as_usize(), PageIndex::new(at).as_usize())
}

impl Versions {
    /// Version 1 for these pages, version 0 for all others.
    pub(super) fn of(populated: &DenseBitmap) -> Self {
        let pages = populated.len();
        let mut versions = Self::zero(pages);
        let words = populated.words().chunks(PageIndex::new(BLOCK / 64).as_usize());
        for ((number, block), words) in versions.blocks.iter_mut().enumerate().zip(words) {
            let first = number as u64 * BLOCK;
            let run = PageRun::from_range(first..(first + BLOCK).min(pages));
            let count = populated.count_run(run);
            if count == run.pages() {
                *block = Block::Same(1);
            } else if count > 0 {
                // Fields of one bit.
                *block = Block::Packed { base: 0, log2: 0, words: words.into() };
            }
        }
        versions
    }

    /// Version 0 for every page.
    pub(super) fn zero(pages: u64) -> Self {
        let blocks = PageIndex::new(pages.div_ceil(BLOCK)).as_usize();
        Self { blocks: vec![Block::default(); blocks], pages }
    }

    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// The version of a page; 0 past the end.
    pub(super) fn get(&self, page: PageIndex) -> u32 {
        let (block, at) = place(page);
        self.blocks.get(block).filter(|_| page.get() < self.pages).map_or(0, |block| block.get(at))
    }

    /// Pages of a block.
    fn pages_of(&self, block: usize) -> usize {
        PageIndex::new(BLOCK.min(self.pages - block as u64 * BLOCK)).as_usize()
    }

    /// One more write of a page, which must be there.
    #[inline]
    pub(super) fn add(&mut self, page: PageIndex) {
        let (number, at) = place(page);
        let pages = self.pages_of(number);
        self.blocks[number].add(at, pages);
    }

    /// Appends the versions of a run.
    pub(super) fn read(&self, run: PageRun, into: &mut Vec<u32>) {
        if run.pages() == 1 {
            let (number, at) = place(run.start());
            into.push(self.blocks[number].get(at));
        } else {
            parts(run).for_each(|(block, places)| self.blocks[block].unpack(places, into));
        }
    }

    /// Puts versions over those of a run, and shows each page that falls with what it had and has
    /// now.
    pub(super) fn write(
        &mut self,
        run: PageRun,
        versions: &[u32],
        mut fell: impl FnMut(PageIndex, u32, u32),
    ) {
        if let [version] = versions
            && let (number, at) = place(run.start())
            && at + 1 < self.pages_of(number)
            && let Some(old) = self.blocks[number].replace(at, *version)
        {
            if *version < old {
                fell(run.start(), old, *version);
            }
            return;
        }
        let mut rest = versions;
        for (number, places) in parts(run) {
            let (new, after) = rest.split_at(places.len().min(rest.len()));
            rest = after;
            let (first, pages) = (PageIndex::new(number as u64 * BLOCK), self.pages_of(number));
            let block = &mut self.blocks[number];
            block.put(places.start, new, pages, |at, old, new| fell(first + at as u64, old, new));
            if places.end == pages {
                block.settle(places.len(), pages);
            }
        }
    }

    /// Every page with its version.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PageIndex, u32)> {
        let pages = (0..self.pages).map(PageIndex::new);
        pages.map(|page| (page, self.get(page)))
    }

    /// The first page that has another version there.
    pub(super) fn first_difference(&self, other: &Self) -> Option<PageIndex> {
        let alike = |(number, (a, b)): &(usize, (&Block, &Block))| {
            let pages = self.pages_of(*number);
            let all = |block: &Block| {
                let mut versions = Vec::with_capacity(pages);
                block.unpack(0..pages, &mut versions);
                versions
            };
            pages == other.pages_of(*number) && (a == b || all(a) == all(b))
        };
        let both = self.blocks.iter().zip(&other.blocks).enumerate();
        let equal = both.take_while(alike).count() as u64 * BLOCK;
        let end = self.pages.max(other.pages);
        (equal..end).map(PageIndex::new).find(|page| self.get(*page) != other.get(*page))
    }

    /// The pages of a version above 0.
    pub(super) fn above_zero(&self) -> DenseBitmap {
        let mut set = DenseBitmap::new(self.pages);
        for (number, block) in self.blocks.iter().enumerate() {
            let (first, pages) = (number as u64 * BLOCK, self.pages_of(number));
            match block {
                Block::Same(0) => {}
                Block::Packed { base: 0, log2: 0, words } => {
                    let words = (PageIndex::new(first / 64).as_usize()..).zip(words);
                    words.for_each(|(index, word)| set.or_word(index, *word));
                }
                Block::Few { base: 0, .. } | Block::Packed { base: 0, .. } => {
                    let above = (first..).zip(0..pages).filter(|(_, at)| block.get(*at) > 0);
                    above.for_each(|(page, _)| set.set(PageIndex::new(page)));
                }
                _ => set.set_run(PageRun::from_range(first..first + pages as u64)),
            }
        }
        set
    }
}

// Two guests with the same versions are equal, however their blocks are kept.
impl PartialEq for Versions {
    fn eq(&self, other: &Self) -> bool {
        self.pages == other.pages && self.first_difference(other).is_none()
    }
}

impl Eq for Versions {}

impl Hash for Versions {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pages.hash(state);
        self.iter().for_each(|(_, version)| version.hash(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two blocks and a part of one.
    const PAGES: u64 = 1100;

    #[derive(Clone, Debug)]
    enum Step {
        Add(u64),
        Copy(u64, u64),
        Level(u64, u64, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let run = || (0..PAGES, prop_oneof![1u64..20, 1u64..1000]);
        prop_oneof![
            // Anywhere, or so often in one block that a list of a few does not do.
            prop_oneof![0..PAGES, 500..530u64].prop_map(Step::Add),
            run().prop_map(|(start, pages)| Step::Copy(start, pages)),
            (run(), 0u32..3, 0u32..=31).prop_map(|((start, pages), low, high)| Step::Level(
                start,
                pages,
                low << high
            )),
        ]
    }

    fn cut(start: u64, pages: u64) -> PageRun {
        PageRun::from_range(start..(start + pages).min(PAGES))
    }

    proptest! {
        /// Two guests and copies between them agree with plain vectors.
        #[test]
        fn follows_plain_counters(
            populated in prop::collection::btree_set(0..PAGES, 0..5),
            all in any::<bool>(),
            steps in prop::collection::vec(step(), 0..80),
        ) {
            let mut set = if all { DenseBitmap::full(PAGES) } else { DenseBitmap::new(PAGES) };
            populated.iter().for_each(|p| {
                set.insert(PageIndex::new(*p));
            });
            let (mut here, mut there) = (Versions::of(&set), Versions::zero(PAGES));
            let mut plain: Vec<u32> =
                (0..PAGES).map(|p| u32::from(set.contains(PageIndex::new(p)))).collect();
            let mut plain_there = vec![0; plain.len()];
            for step in steps {
                match step {
                    Step::Add(page) => {
                        here.add(PageIndex::new(page));
                        plain[PageIndex::new(page).as_usize()] += 1;
                    }
                    Step::Copy(start, pages) => {
                        let (run, mut read) = (cut(start, pages), Vec::new());
                        here.read(run, &mut read);
                        let range = run.start().as_usize()..run.end().as_usize();
                        prop_assert_eq!(&read, &plain[range.clone()]);
                        let mut fell = Vec::new();
                        there.write(run, &read, |page, old, new| fell.push((page, old, new)));
                        let (at, now) = (|p: PageIndex| plain_there[p.as_usize()], &plain);
                        let both = run.iter().map(|p| (p, at(p), now[p.as_usize()]));
                        let expected: Vec<_> = both.filter(|(_, old, new)| new < old).collect();
                        prop_assert_eq!(fell, expected);
                        plain_there[range.clone()].copy_from_slice(&plain[range]);
                    }
                    Step::Level(start, pages, version) => {
                        let run = cut(start, pages);
                        let range = run.start().as_usize()..run.end().as_usize();
                        here.write(run, &vec![version; range.len()], |_, _, _| {});
                        plain[range].fill(version);
                    }
                }
                let all: Vec<u32> = here.iter().map(|(_, version)| version).collect();
                prop_assert_eq!(&all, &plain);
                let differs = (0..plain.len()).find(|p| plain[*p] != plain_there[*p]);
                let found = here.first_difference(&there).map(PageIndex::as_usize);
                prop_assert_eq!(found, differs);
                prop_assert_eq!(there == here, differs.is_none());
                let above = here.above_zero();
                prop_assert!((0..PAGES).map(PageIndex::new)
                    .all(|p| above.contains(p) == (plain[p.as_usize()] > 0)));
            }
        }
    }

    #[test]
    fn a_few_hot_pages_of_a_block_are_a_list_on_both_sides() {
        let mut here = Versions::of(&DenseBitmap::full(BLOCK));
        for round in 0..9 {
            (0..=round).for_each(|page| here.add(PageIndex::new(page * 50)));
        }
        // As the first round sends it.
        let mut there = Versions::zero(BLOCK);
        for start in [0, BLOCK / 2] {
            let (run, mut read) = (PageRun::new(PageIndex::new(start), BLOCK / 2), Vec::new());
            here.read(run, &mut read);
            there.write(run, &read, |_, _, _| {});
        }
        assert!(matches!(&here.blocks[0], Block::Few { base: 1, few } if few.len() == 9));
        assert_eq!(here.blocks, there.blocks);
    }

    #[test]
    fn what_arrived_in_order_takes_no_memory() {
        let (mut there, pages) = (Versions::zero(10_000), vec![1; 100]);
        for start in (0..10_000).step_by(100) {
            there.write(PageRun::new(PageIndex::new(start), 100), &pages, |_, _, _| {});
        }
        assert!(there.blocks.iter().all(|block| *block == Block::Same(1)));
    }
}
