// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Version counters of a guest's pages, in blocks that take memory only where pages differ.
//!
//! A block whose pages all have the same version is one number: memory that nobody wrote since it
//! was populated, and at the destination everything that arrived once. A guest of 1 TiB takes
//! 16 MiB and 1 KiB for each block of 1 MiB in which some pages were written more often than
//! others.

use std::hash::{Hash, Hasher};

use crate::bitmap::DenseBitmap;
use crate::units::{PageIndex, PageRun};

/// Pages of a block.
const BLOCK: u64 = 256;

#[derive(Clone, Debug)]
enum Block {
    /// Every page has this version.
    Same(u32),
    Each(Box<[u32]>),
}

/// One counter a page.
#[derive(Clone, Debug, Default)]
pub(super) struct Versions {
    blocks: Vec<Block>,
    pages: u64,
}

/// The parts of a run that lie in one block each: the block, and the places in it.
fn parts(run: PageRun) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
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
        for (number, block) in versions.blocks.iter_mut().enumerate() {
            let first = number as u64 * BLOCK;
            let run = PageRun::from_range(first..(first + BLOCK).min(pages));
            let count = populated.count_run(run);
            *block = if count == 0 {
                Block::Same(0)
            } else if count == run.pages() {
                Block::Same(1)
            } else {
                Block::Each(run.iter().map(|p| u32::from(populated.contains(p))).collect())
            };
        }
        versions
    }

    /// Version 0 for every page.
    pub(super) fn zero(pages: u64) -> Self {
        let blocks = PageIndex::new(pages.div_ceil(BLOCK)).as_usize();
        Self { blocks: vec![Block::Same(0); blocks], pages }
    }

    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// The version of a page; 0 past the end.
    pub(super) fn get(&self, page: PageIndex) -> u32 {
        let (block, at) = place(page);
        match self.blocks.get(block) {
            None => 0,
            Some(Block::Same(version)) => *version,
            Some(Block::Each(versions)) => versions.get(at).copied().unwrap_or(0),
        }
    }

    /// The counters of a block, each for itself from here on.
    fn each(&mut self, block: usize) -> &mut [u32] {
        let first = block as u64 * BLOCK;
        let length = PageIndex::new(BLOCK.min(self.pages - first)).as_usize();
        let block = &mut self.blocks[block];
        if let Block::Same(version) = *block {
            *block = Block::Each(vec![version; length].into());
        }
        match block {
            Block::Each(versions) => versions,
            Block::Same(_) => &mut [],
        }
    }

    /// One more write of a page, which must be there.
    pub(super) fn add(&mut self, page: PageIndex) {
        let (block, at) = place(page);
        match &mut self.blocks[block] {
            Block::Each(versions) => versions[at] += 1,
            Block::Same(_) => self.each(block)[at] += 1,
        }
    }

    /// Appends the versions of a run.
    pub(super) fn read(&self, run: PageRun, into: &mut Vec<u32>) {
        for (block, places) in parts(run) {
            match &self.blocks[block] {
                Block::Same(version) => into.extend(places.map(|_| *version)),
                Block::Each(versions) => into.extend_from_slice(&versions[places]),
            }
        }
    }

    /// Puts versions over those of a run, and shows each page with what it had and has now.
    pub(super) fn write(
        &mut self,
        run: PageRun,
        versions: &[u32],
        mut seen: impl FnMut(PageIndex, u32, u32),
    ) {
        let mut rest = versions;
        for (block, places) in parts(run) {
            let (new, after) = rest.split_at(places.len().min(rest.len()));
            rest = after;
            let first = PageIndex::new(block as u64 * BLOCK + places.start as u64);
            match self.blocks[block] {
                Block::Same(old) if new.iter().all(|new| *new == old) => {}
                _ => {
                    let block = self.each(block);
                    for ((at, old), new) in (0..).zip(&mut block[places.clone()]).zip(new) {
                        seen(first + at, *old, *new);
                        *old = *new;
                    }
                }
            }
            self.join(block, places.end);
        }
    }

    /// A block that was written up to its last page may be of one version again.
    fn join(&mut self, block: usize, end: usize) {
        if let Block::Each(versions) = &self.blocks[block]
            && end == versions.len()
            && let Some((first, rest)) = versions.split_first()
            && rest.iter().all(|version| version == first)
        {
            self.blocks[block] = Block::Same(*first);
        }
    }

    /// Every page with its version.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PageIndex, u32)> {
        let pages = (0..self.pages).map(PageIndex::new);
        pages.map(|page| (page, self.get(page)))
    }

    /// The first page that has another version there.
    pub(super) fn first_difference(&self, other: &Self) -> Option<PageIndex> {
        let same = |(a, b): &(&Block, &Block)| match (a, b) {
            (Block::Same(a), Block::Same(b)) => a == b,
            (Block::Each(a), Block::Each(b)) => a == b,
            (Block::Same(one), Block::Each(all)) | (Block::Each(all), Block::Same(one)) => {
                all.iter().all(|version| version == one)
            }
        };
        let both = self.blocks.iter().zip(&other.blocks);
        let equal = both.take_while(same).count() as u64 * BLOCK;
        let end = self.pages.max(other.pages);
        (equal..end).map(PageIndex::new).find(|page| self.get(*page) != other.get(*page))
    }

    /// The pages of a version above 0.
    pub(super) fn above_zero(&self) -> DenseBitmap {
        let mut set = DenseBitmap::new(self.pages);
        for (number, block) in self.blocks.iter().enumerate() {
            let first = number as u64 * BLOCK;
            match block {
                Block::Same(0) => {}
                Block::Same(_) => {
                    set.set_run(PageRun::from_range(first..(first + BLOCK).min(self.pages)));
                }
                Block::Each(versions) => {
                    let above = (first..).zip(versions).filter(|(_, version)| **version > 0);
                    above.for_each(|(page, _)| set.set(PageIndex::new(page)));
                }
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

    const PAGES: u64 = 600;

    #[derive(Clone, Debug)]
    enum Step {
        Add(u64),
        Copy(u64, u64),
        Level(u64, u64, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let run = || (0..PAGES, 1u64..400);
        prop_oneof![
            (0..PAGES).prop_map(Step::Add),
            run().prop_map(|(start, pages)| Step::Copy(start, pages)),
            (run(), 0u32..3)
                .prop_map(|((start, pages), version)| { Step::Level(start, pages, version) }),
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
            steps in prop::collection::vec(step(), 0..40),
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
                        let mut wrong = 0;
                        there.write(run, &read, |page, old, new| {
                            wrong += u32::from(old != plain_there[page.as_usize()]);
                            wrong += u32::from(new != plain[page.as_usize()]);
                        });
                        prop_assert_eq!(wrong, 0);
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
    fn what_arrived_in_order_takes_no_memory() {
        let (mut there, pages) = (Versions::zero(10_000), vec![1; 100]);
        for start in (0..10_000).step_by(100) {
            there.write(PageRun::new(PageIndex::new(start), 100), &pages, |_, _, _| {});
        }
        assert!(there.blocks.iter().all(|block| matches!(block, Block::Same(1))));
    }
}
