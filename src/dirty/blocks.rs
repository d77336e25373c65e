// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which 4 KiB units of guest memory the kernel held when the pagemap tracker last looked, in
//! blocks of 2 MiB (one lower-level page table each, where regions begin at such a boundary).
//!
//! It serves two ends. A unit that was held and is no longer was discarded: it reads as zeros now
//! and must be reported. And a block whose units are all held may be scanned in the fast way that
//! counts empty entries as written: the only entries that can be empty there are discarded ones,
//! which must be reported anyway.

use std::ops::Range;

use crate::bitmap::DenseBitmap;
use crate::sys::{Area, HUGE_PAGE_BYTES};
use crate::units::PageIndex;

/// Bytes of a unit.
pub(super) const UNIT_BYTES: usize = 4096;
/// Units of a block.
const BLOCK_UNITS: usize = HUGE_PAGE_BYTES / UNIT_BYTES;
const BLOCK_WORDS: usize = BLOCK_UNITS / 64;

/// Shortest run of full blocks that is worth system calls of its own.
const FULL_RUN_MIN: usize = 4;

/// One bit a unit.
type Units = [u64; BLOCK_WORDS];

/// What is known of every block of every region.
#[derive(Debug)]
pub(super) struct Blocks {
    /// `first[i]` is the number of region i's first block; one more entry holds the total.
    first: Vec<usize>,
    /// Bytes of each region's `known` units.
    known_bytes: Vec<u64>,
    /// Held when last settled.
    known: Vec<Units>,
    /// Held, as seen since then. All zero between harvests.
    seen: Vec<Units>,
    /// Blocks with a unit in `known` or `seen`.
    touched: DenseBitmap,
    /// Blocks of which every unit is in `known`.
    full: DenseBitmap,
}

/// Blocks of one region that are scanned in one way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    /// Byte offsets in the region's mapping, whole blocks; the last one may go past its end.
    pub(super) bytes: Range<usize>,
    /// Whether all of them are full.
    pub(super) full: bool,
}

impl Blocks {
    /// Nothing is known yet.
    pub(super) fn new(areas: &[Area]) -> Self {
        let mut first = vec![0];
        let mut total = 0;
        for area in areas {
            total += area.addresses.len().div_ceil(HUGE_PAGE_BYTES);
            first.push(total);
        }
        Self {
            first,
            known_bytes: vec![0; areas.len()],
            known: vec![Units::default(); total],
            seen: vec![Units::default(); total],
            touched: DenseBitmap::new(total as u64),
            full: DenseBitmap::new(total as u64),
        }
    }

    /// Bytes of the units of a region that were held when last settled.
    pub(super) fn known_bytes(&self, region: usize) -> u64 {
        self.known_bytes[region]
    }

    /// The next blocks of `region` at or after byte `from` (a block's start) that are scanned in
    /// one way; `None` at the region's end.
    pub(super) fn next_segment(&self, region: usize, from: usize) -> Option<Segment> {
        let first = *self.first.get(region)?;
        let end = *self.first.get(region + 1)?;
        let start = first + from / HUGE_PAGE_BYTES;
        if start >= end {
            return None;
        }
        let segment = |from: usize, to: usize, full| Segment {
            bytes: (from - first) * HUGE_PAGE_BYTES..(to - first) * HUGE_PAGE_BYTES,
            full,
        };
        let mut at = start;
        while let Some(run) = self.full.next_run(PageIndex::new(at as u64), u64::MAX) {
            let (run_start, run_end) = (run.start().as_usize(), run.end().as_usize().min(end));
            if run_start >= end {
                break;
            }
            if run_end - run_start >= FULL_RUN_MIN.min(end - first) {
                return Some(if run_start == start {
                    segment(start, run_end, true)
                } else {
                    segment(start, run_start, false)
                });
            }
            at = run.end().as_usize();
        }
        Some(segment(start, end, false))
    }

    /// Whether the unit at byte `from` of a region was held when last settled, and the end, at
    /// most `end`, of the run of units from there on of which that is just as true or false.
    pub(super) fn known_run(&self, region: usize, from: usize, end: usize) -> (bool, usize) {
        let first = self.first[region];
        let word = |unit: usize| self.known[first + unit / BLOCK_UNITS][unit % BLOCK_UNITS / 64];
        let mut unit = from / UNIT_BYTES;
        let known = word(unit) >> (unit % 64) & 1 != 0;
        while unit * UNIT_BYTES < end {
            if !known && unit.is_multiple_of(BLOCK_UNITS) {
                let block = PageIndex::new((first + unit / BLOCK_UNITS) as u64);
                match self.touched.next_set(block).map(|block| block.as_usize() - first) {
                    Some(block) if block * HUGE_PAGE_BYTES < end => unit = block * BLOCK_UNITS,
                    _ => return (known, end),
                }
            }
            let other = (if known { !word(unit) } else { word(unit) }) >> (unit % 64);
            if other != 0 {
                unit += other.trailing_zeros() as usize;
                break;
            }
            unit = (unit + 1).next_multiple_of(64);
        }
        (known, (unit * UNIT_BYTES).min(end))
    }

    /// Notes that the kernel holds these bytes of a region.
    pub(super) fn see(&mut self, region: usize, bytes: Range<usize>) {
        let mut unit = bytes.start / UNIT_BYTES;
        let end = bytes.end.div_ceil(UNIT_BYTES);
        while unit < end {
            let block = self.first[region] + unit / BLOCK_UNITS;
            let low = unit % 64;
            let taken = (64 - low).min(end - unit);
            self.seen[block][unit % BLOCK_UNITS / 64] |= (u64::MAX >> (64 - taken)) << low;
            self.touched.set(PageIndex::new(block as u64));
            unit += taken;
        }
    }

    /// Ends a look at some blocks of a region, from a block's start up to the end of one or of the
    /// region: what was seen is known from now on, and the bytes of each unit that was known and
    /// not seen are handed to `gone`.
    pub(super) fn settle(
        &mut self,
        region: usize,
        bytes: Range<usize>,
        mut gone: impl FnMut(Range<usize>),
    ) {
        let first = self.first[region];
        let mut at = PageIndex::new((first + bytes.start / HUGE_PAGE_BYTES) as u64);
        let end = first + bytes.end.div_ceil(HUGE_PAGE_BYTES);
        while let Some(page) = self.touched.next_set(at).filter(|page| page.as_usize() < end) {
            let block = page.as_usize();
            let offset = (block - first) * HUGE_PAGE_BYTES;
            let seen = std::mem::take(&mut self.seen[block]);
            let known = std::mem::replace(&mut self.known[block], seen);
            for (word, (known, seen)) in known.iter().zip(seen).enumerate() {
                let mut lost = known & !seen;
                while lost != 0 {
                    let unit = word * 64 + lost.trailing_zeros() as usize;
                    let start = offset + unit * UNIT_BYTES;
                    gone(start..start + UNIT_BYTES);
                    lost &= lost - 1;
                }
            }
            let count = |units: Units| units.iter().map(|word| u64::from(word.count_ones())).sum();
            let (held, before): (u64, u64) = (count(seen), count(known));
            self.known_bytes[region] += held * UNIT_BYTES as u64;
            self.known_bytes[region] -= before * UNIT_BYTES as u64;
            if held == BLOCK_UNITS as u64 {
                self.full.set(page);
            } else {
                self.full.clear(page);
            }
            if held == 0 {
                self.touched.clear(page);
            }
            at = page + 1;
        }
    }
}
