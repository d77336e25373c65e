// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Version counters of a guest's pages, in blocks that take memory only where pages differ.
//!
//! A block has one number and, if its pages are not all of one version, what each has above it, in
//! as few bits as the largest needs: 1, 2, 4, 8, 16 or 32. Memory that nobody wrote since it was
//! populated, and at the destination everything that arrived once, is one number a block. A guest
//! of 1 TiB takes 12 MiB, and where pages were written a few times 32 to 128 MiB more.

use std::hash::{Hash, Hasher};
use std::ops::Range;

use crate::bitmap::DenseBitmap;
use crate::units::{PageIndex, PageRun};

/// Pages of a block: whole words of a bitmap.
const BLOCK: u64 = 512;

/// The counters of a block.
#[derive(Clone, Debug, Default)]
struct Block {
    base: u32,
    /// Bits of an offset, as a power of two.
    log2: u8,
    /// What each page has above the base, from the lowest bits of the first word up; none if all
    /// have the base.
    offsets: Box<[u64]>,
}

impl Block {
    fn same(version: u32) -> Self {
        Self { base: version, ..Self::default() }
    }

    /// These versions, in as few bits as they need.
    fn packed(versions: &[u32]) -> Self {
        let (base, highest) = bounds(versions);
        if base == highest {
            return Self::same(base);
        }
        let log2 = log2_for(highest - base);
        let word = |versions: &[u32]| {
            let offsets = versions.iter().rev().map(|version| u64::from(version - base));
            offsets.fold(0, |word, offset| word << (1 << log2) | offset)
        };
        let offsets = versions.chunks(64 >> log2).map(word).collect();
        Self { base, log2, offsets }
    }

    /// Gives a block of `pages` pages, which all have one version, room for `spread` more each.
    fn open(&mut self, spread: u32, pages: usize) {
        self.log2 = log2_for(spread);
        self.offsets = vec![0; (pages << self.log2).div_ceil(64)].into();
    }

    /// Changes its versions, whatever room they need.
    fn change(&mut self, pages: usize, change: impl FnOnce(&mut [u32])) {
        let mut versions = Vec::with_capacity(pages);
        self.unpack(0..pages, &mut versions);
        change(&mut versions);
        *self = Self::packed(&versions);
    }

    /// Appends the versions of some places.
    #[expect(clippy::cast_possible_truncation, reason = "an offset has 32 bits at most")]
    fn unpack(&self, places: Range<usize>, into: &mut Vec<u32>) {
        if self.offsets.is_empty() {
            into.resize(into.len() + places.len(), self.base);
            return;
        }
        let (bits, most, mut at) = (1 << self.log2, self.most(), places.start);
        while at < places.end {
            let (word, bit) = self.field(at);
            let mut rest = self.offsets[word] >> bit;
            let here = ((64 - bit) >> self.log2).min(places.end - at);
            into.extend((0..here).map(|_| {
                let offset = rest & most;
                rest >>= bits;
                self.base + offset as u32
            }));
            at += here;
        }
    }

    /// The largest offset that there is room for.
    fn most(&self) -> u64 {
        (1 << (1u32 << self.log2)) - 1
    }

    /// Where an offset lies: its word, and its lowest bit there.
    fn field(&self, at: usize) -> (usize, usize) {
        let bit = at << self.log2;
        (bit / 64, bit % 64)
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "an offset has 32 bits at most")]
    fn get(&self, at: usize) -> u32 {
        let (word, bit) = self.field(at);
        let offset = self.offsets.get(word).map_or(0, |word| word >> bit & self.most());
        self.base + offset as u32
    }

    /// One more, if there is room for it.
    #[inline]
    fn add(&mut self, at: usize) -> bool {
        let ((word, bit), most) = (self.field(at), self.most());
        match self.offsets.get_mut(word) {
            Some(word) if *word >> bit & most < most => {
                *word += 1 << bit;
                true
            }
            _ => false,
        }
    }

    /// Puts versions over those from place `first` on, and shows each place that falls with what
    /// it had and has now.
    #[expect(clippy::cast_possible_truncation, reason = "an offset has 32 bits at most")]
    fn put(
        &mut self,
        first: usize,
        new: &[u32],
        pages: usize,
        mut fell: impl FnMut(usize, u32, u32),
    ) {
        let (lowest, highest) = bounds(new);
        if self.offsets.is_empty() {
            if lowest == self.base && highest == self.base {
                return;
            }
            if lowest >= self.base {
                self.open(highest - self.base, pages);
            }
        }
        let most = self.most();
        if self.offsets.is_empty() || lowest < self.base || u64::from(highest - self.base) > most {
            return self.change(pages, |versions| {
                for (at, new) in (first..).zip(new) {
                    let old = std::mem::replace(&mut versions[at], *new);
                    if *new < old {
                        fell(at, old, *new);
                    }
                }
            });
        }
        if u64::from(lowest - self.base) == most {
            // As high as can be.
            return self.fill(first..first + new.len());
        }
        for (at, new) in (first..).zip(new) {
            let (word, bit) = self.field(at);
            let word = &mut self.offsets[word];
            let (old, offset) = (*word >> bit & most, u64::from(new - self.base));
            // Both have room: the bits of the others stay.
            *word ^= (old ^ offset) << bit;
            if offset < old {
                fell(at, self.base + old as u32, *new);
            }
        }
    }

    /// Puts the largest offset at some places.
    fn fill(&mut self, places: Range<usize>) {
        let (mut at, end) = (places.start << self.log2, places.end << self.log2);
        while at < end {
            let bits = (64 - at % 64).min(end - at);
            self.offsets[at / 64] |= (u64::MAX >> (64 - bits)) << (at % 64);
            at += bits;
        }
    }

    /// Whether the first `pages` pages, which may be all, have one version.
    fn even(&self, pages: usize) -> bool {
        let Some(first) = self.offsets.first().map(|word| word & self.most()) else { return true };
        // That offset at every place of a word.
        let word = first * (u64::MAX / self.most());
        let (whole, rest) = self.field(pages);
        let last = self.offsets.get(whole).map_or(0, |last| (last ^ word) & ((1 << rest) - 1));
        self.offsets[..whole].iter().all(|offsets| *offsets == word) && last == 0
    }
}

/// Bits that an offset above 0 needs, as a power of two.
fn log2_for(offset: u32) -> u8 {
    let bits = (u32::BITS - offset.leading_zeros()).next_power_of_two();
    u8::try_from(bits.trailing_zeros()).unwrap_or(u8::MAX)
}

/// The lowest and the highest of some versions.
fn bounds(versions: &[u32]) -> (u32, u32) {
    let first = versions.first().copied().unwrap_or(0);
    versions.iter().fold((first, first), |(low, high), one| (low.min(*one), high.max(*one)))
}

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
                *block = Block::same(1);
            } else if count > 0 {
                // Offsets of one bit.
                *block = Block { base: 0, log2: 0, offsets: words.into() };
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
    pub(super) fn add(&mut self, page: PageIndex) {
        let (number, at) = place(page);
        if self.blocks[number].add(at) {
            return;
        }
        let pages = self.pages_of(number);
        let block = &mut self.blocks[number];
        if block.offsets.is_empty() {
            block.open(1, pages);
            block.add(at);
        } else {
            block.change(pages, |versions| versions[at] += 1);
        }
    }

    /// Appends the versions of a run.
    pub(super) fn read(&self, run: PageRun, into: &mut Vec<u32>) {
        for (block, places) in parts(run) {
            self.blocks[block].unpack(places, into);
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
        let mut rest = versions;
        for (number, places) in parts(run) {
            let (new, after) = rest.split_at(places.len().min(rest.len()));
            rest = after;
            let (first, pages) = (PageIndex::new(number as u64 * BLOCK), self.pages_of(number));
            let block = &mut self.blocks[number];
            block.put(places.start, new, pages, |at, old, new| fell(first + at as u64, old, new));
            // A block that was written up to its last page may be of one version again.
            if places.end == pages && block.even(pages) {
                *block = Block::same(block.get(0));
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
            let kept_alike = a.base == b.base && a.log2 == b.log2 && a.offsets == b.offsets;
            let pages = self.pages_of(*number);
            pages == other.pages_of(*number)
                && (kept_alike || (0..pages).all(|at| a.get(at) == b.get(at)))
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
            let first = number as u64 * BLOCK;
            if block.base > 0 {
                set.set_run(PageRun::from_range(first..(first + BLOCK).min(self.pages)));
            } else if block.log2 == 0 {
                let words = (PageIndex::new(first / 64).as_usize()..).zip(&block.offsets);
                words.for_each(|(index, word)| set.or_word(index, *word));
            } else {
                let pages = (first..self.pages).take(self.pages_of(number)).zip(0..);
                let above = pages.filter(|(_, at)| block.get(*at) > 0);
                above.for_each(|(page, _)| set.set(PageIndex::new(page)));
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
            (0..PAGES).prop_map(Step::Add),
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
                        let mut fell = Vec::new();
                        there.write(run, &read, |page, old, new| fell.push((page, old, new)));
                        let lower = |page: &PageIndex| {
                            plain[page.as_usize()] < plain_there[page.as_usize()]
                        };
                        let both = |p: PageIndex| (p, plain_there[p.as_usize()], plain[p.as_usize()]);
                        let expected: Vec<_> = run.iter().filter(lower).map(both).collect();
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
    fn what_arrived_in_order_takes_no_memory() {
        let (mut there, pages) = (Versions::zero(10_000), vec![1; 100]);
        for start in (0..10_000).step_by(100) {
            there.write(PageRun::new(PageIndex::new(start), 100), &pages, |_, _, _| {});
        }
        assert!(there.blocks.iter().all(|block| block.base == 1 && block.offsets.is_empty()));
    }
}
