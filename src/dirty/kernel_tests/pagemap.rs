// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The pagemap tracker: blocks, holes, pages that are discarded or reclaimed.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;

use proptest::prelude::*;

use super::{alone, bytes, fill, harvest, has_pagemap, kinds, members, memory, pagemap};
use crate::bitmap::DenseBitmap;
use crate::dirty::{DirtyTracker, MprotectTracker, PagemapTracker};
use crate::memory::{MapOptions, MappedMemory, PageReader, PageWriter};
use crate::region::{Region, RegionTable};
use crate::sys::{Backing, Mapping, UffdMode};
use crate::units::{GuestAddress, PageIndex, PageRun, PageSize};

/// A full guest, of which most is scanned in the fast way: the same answers.
#[test]
fn full_blocks_are_exact() {
    if !has_pagemap() {
        return;
    }
    let table = RegionTable::single(PageSize::BASE, 16 * 512 + 77).unwrap();
    for (kind, memory, _vmm) in kinds(&table) {
        fill(&memory, 0..table.pages());
        let mut tracker = pagemap(&memory, UffdMode::Best);
        tracker.arm().unwrap();
        assert_eq!(harvest(&mut tracker), BTreeSet::new());
        let written = BTreeSet::from([0, 1, 511, 512, 5000, 8191, 8192, table.pages() - 1]);
        fill(&memory, written.iter().copied());
        assert_eq!(harvest(&mut tracker), written, "{kind}");
        assert_eq!(harvest(&mut tracker), BTreeSet::new());
    }
}

/// Holes cost nothing and are not reported; what is populated in one later is, wherever.
#[test]
fn pages_populated_in_holes_are_reported() {
    if !has_pagemap() {
        return;
    }
    for backing in [Backing::Anonymous, Backing::Memfd] {
        let pages = (64u64 << 30) >> 12;
        let table = RegionTable::single(PageSize::BASE, pages).unwrap();
        let memory = memory(&table, backing);
        let early: Vec<u64> = (0..12 * 512).chain([1 << 20]).collect();
        fill(&memory, early.iter().copied());
        let mut tracker = pagemap(&memory, UffdMode::Best);
        tracker.arm().unwrap();
        assert_eq!(harvest(&mut tracker), BTreeSet::new(), "{backing:?}");
        // In a page table that exists, in a block beside it, and far away.
        let late = BTreeSet::from([(1 << 20) + 1, (1 << 20) + 512, pages - 1, 9_000_000]);
        fill(&memory, late.iter().copied());
        assert_eq!(harvest(&mut tracker), late, "{backing:?}");
        fill(&memory, late.iter().copied());
        assert_eq!(harvest(&mut tracker), late, "armed like the others: {backing:?}");
        assert_eq!(harvest(&mut tracker), BTreeSet::new());
        let mut populated = DenseBitmap::new(pages);
        memory.populated(&mut populated).unwrap();
        assert_eq!(populated.count(), (early.len() + late.len()) as u64, "no page was made");
    }
}

/// Discarded pages read as zeros, and the destination must learn of it: full blocks, blocks with
/// holes, whole blocks; and a discarded page that is written again.
#[test]
fn discarded_pages_are_reported_once() {
    if !has_pagemap() {
        return;
    }
    let table = RegionTable::single(PageSize::BASE, 40 * 512).unwrap();
    for (kind, memory, _vmm) in kinds(&table) {
        fill(&memory, (0..20 * 512).chain(25 * 512..25 * 512 + 100));
        let map = &memory.host().maps()[0];
        let mut tracker = pagemap(&memory, UffdMode::Best);
        tracker.arm().unwrap();
        for gone in [3..4, 512..1024, 5000..6000, 25 * 512 + 7..25 * 512 + 9, 30 * 512..31 * 512] {
            map.discard(bytes(gone.clone())).unwrap();
            let held = if gone.start == 30 * 512 { 0..0 } else { gone.clone() };
            assert_eq!(harvest(&mut tracker), held.collect(), "{kind} {gone:?}");
        }
        assert_eq!(harvest(&mut tracker), BTreeSet::new());
        map.discard(bytes(7..9)).unwrap();
        fill(&memory, [7]);
        assert_eq!(harvest(&mut tracker), BTreeSet::from([7, 8]), "{kind}");
        fill(&memory, [8]);
        assert_eq!(harvest(&mut tracker), BTreeSet::from([8]), "{kind}");
        assert!(memory.is_zero(PageIndex::new(5000)).unwrap());
    }
}

/// The same where memory ends within a block: in the part of one that is left over, and in memory
/// that has less than a block in all.
#[test]
fn discarded_pages_are_reported_in_parts_of_blocks() {
    if !has_pagemap() {
        return;
    }
    for whole in [0, 3 * 512] {
        let table = RegionTable::single(PageSize::BASE, whole + 77).unwrap();
        for (kind, memory, _vmm) in kinds(&table) {
            fill(&memory, 0..whole + 70);
            let mut tracker = pagemap(&memory, UffdMode::Best);
            tracker.arm().unwrap();
            for gone in [whole + 3..whole + 5, whole + 60..whole + 70] {
                memory.host().maps()[0].discard(bytes(gone.clone())).unwrap();
                assert_eq!(harvest(&mut tracker), gone.collect(), "{kind} {whole}");
                assert_eq!(harvest(&mut tracker), BTreeSet::new(), "{kind} {whole}");
            }
        }
    }
}

/// Reclaim of a memfd leaves empty entries behind pages that were written: none may be lost.
#[test]
fn reclaimed_writes_are_reported() {
    if !has_pagemap() {
        return;
    }
    // One guest with full blocks, one with a hole in each.
    for pages_filled in [512u64, 300] {
        let table = RegionTable::single(PageSize::BASE, 16 * 512).unwrap();
        let memory = memory(&table, Backing::Memfd);
        let filled = (0..16 * 512u64).filter(|page| page % 512 < pages_filled);
        fill(&memory, filled.clone());
        let map: &Mapping = &memory.host().maps()[0];
        let mut tracker = pagemap(&memory, UffdMode::Best);
        tracker.arm().unwrap();
        for step in [1usize, 3, 64] {
            let written: BTreeSet<u64> = filled.clone().step_by(step).collect();
            fill(&memory, written.iter().copied());
            map.drop_pages(0..map.guest_bytes()).unwrap();
            let seen = harvest(&mut tracker);
            assert!(seen.is_superset(&written), "{pages_filled} {step}: lost a write");
            assert!(seen.iter().all(|page| page % 512 < pages_filled), "a hole was reported");
        }
        for page in filled {
            assert_eq!(memory.load_u64(PageIndex::new(page), 0).unwrap(), page + 1);
        }
    }
}

/// Guest pages larger than the kernel's: a part that is written or discarded counts.
#[test]
fn large_guest_pages() {
    let _turn = alone();
    if !has_pagemap() {
        return;
    }
    let size = PageSize::new(64 << 10).unwrap();
    let regions = [(0, 100), (200, 3)]
        .map(|(start, pages)| Region { start: GuestAddress::new(start << 16), pages });
    let table = RegionTable::new(size, &regions).unwrap();
    for backing in [Backing::Anonymous, Backing::Memfd] {
        let memory = memory(&table, backing);
        let mut tracker = pagemap(&memory, UffdMode::Best);
        tracker.arm().unwrap();
        for page in [0, 99, 100, 102] {
            memory.store_u64(PageIndex::new(page), 65528, 1).unwrap();
            memory.store_u64(PageIndex::new(page), 0, 1).unwrap();
        }
        assert_eq!(harvest(&mut tracker), BTreeSet::from([0, 99, 100, 102]));
        memory.host().maps()[1].discard(0..4096).unwrap();
        assert_eq!(harvest(&mut tracker), BTreeSet::from([100]), "{backing:?}");
        let mut mprotect = MprotectTracker::new(Arc::clone(memory.host())).unwrap();
        tracker.disarm().unwrap();
        mprotect.arm().unwrap();
        memory.store_u64(PageIndex::new(102), 32768, 1).unwrap();
        assert_eq!(harvest(&mut mprotect), BTreeSet::from([102]));
    }
}

/// With transparent huge pages, a write splits its block and is reported as one page.
#[test]
fn huge_pages_are_tracked_in_small_ones() {
    if !has_pagemap() {
        return;
    }
    let table = RegionTable::single(PageSize::BASE, 8 * 512).unwrap();
    let options = MapOptions::new(Backing::Anonymous).with_thp(true);
    let memory = MappedMemory::new(table.clone(), options).unwrap();
    memory.prefault(table.all()).unwrap();
    let mut tracker = pagemap(&memory, UffdMode::Best);
    tracker.arm().unwrap();
    fill(&memory, [0, 700, 4095]);
    assert_eq!(harvest(&mut tracker), BTreeSet::from([0, 700, 4095]));
    memory.host().maps()[0].discard(bytes(1024..1536)).unwrap();
    assert_eq!(harvest(&mut tracker), (1024..1536).collect());
}

/// A tracker that is dropped or armed again while another one holds the memory.
#[test]
fn trackers_come_and_go() {
    if !has_pagemap() {
        return;
    }
    let table = RegionTable::single(PageSize::BASE, 100).unwrap();
    let memory = memory(&table, Backing::Anonymous);
    let mut first = pagemap(&memory, UffdMode::Best);
    let mut second = pagemap(&memory, UffdMode::Best);
    first.arm().unwrap();
    assert!(second.arm().is_err(), "the memory is taken");
    // A child that was forked somewhere in this process has copies of every descriptor.
    let copy = |tracker: &PagemapTracker| {
        tracker.uffd.as_ref().unwrap().as_fd().try_clone_to_owned().unwrap()
    };
    let _copy = copy(&first);
    first.arm().unwrap();
    let _copy = copy(&first);
    drop(first);
    second.arm().unwrap();
    fill(&memory, [5]);
    assert_eq!(harvest(&mut second), BTreeSet::from([5]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// A copy of the guest that takes over only what each harvest reports equals the guest, after
    /// any mix of writes, discards, clearing and reclaim, over regions with holes.
    #[test]
    fn a_copy_by_harvests_is_whole(
        shared in any::<bool>(),
        prefilled in 0u64..6000,
        steps in prop::collection::vec((0u8..5, 0u64..6000, 1u64..1500), 1..24),
    ) {
        if !has_pagemap() {
            return Ok(());
        }
        let backing = if shared { Backing::Memfd } else { Backing::Anonymous };
        let regions = [(0, 3001), (4000, 2400), (9000, 599)]
            .map(|(start, pages)| Region { start: GuestAddress::new(start << 12), pages });
        let table = RegionTable::new(PageSize::BASE, &regions).unwrap();
        let memory = memory(&table, backing);
        fill(&memory, 0..prefilled);
        let word = |page: u64| memory.load_u64(PageIndex::new(page), 0).unwrap();
        let mut tracker = pagemap(&memory, UffdMode::Best);
        tracker.arm().unwrap();
        let mut populated = DenseBitmap::new(6000);
        memory.populated(&mut populated).unwrap();
        let mut copy = vec![0; 6000];
        let mut seen = members(&populated);
        for (salt, (what, start, pages)) in steps.into_iter().enumerate() {
            for page in std::mem::take(&mut seen) {
                copy[PageIndex::new(page).as_usize()] = word(page);
            }
            let run = PageRun::from_range(start..(start + pages).min(6000));
            match what {
                0 | 1 => for page in run.iter().step_by(1 + 6 * usize::from(what)) {
                    memory.store_u64(page, 0, page.get() + salt as u64 + 1).unwrap();
                },
                2 => memory.zero_run(run).unwrap(),
                3 => for piece in memory.host().pieces(run) {
                    piece.map.discard(piece.bytes).unwrap();
                },
                _ => if shared {
                    for piece in memory.host().pieces(run) {
                        piece.map.drop_pages(piece.bytes).unwrap();
                    }
                },
            }
            seen = harvest(&mut tracker);
        }
        for page in seen {
            copy[PageIndex::new(page).as_usize()] = word(page);
        }
        for page in 0..6000 {
            prop_assert_eq!(copy[PageIndex::new(page).as_usize()], word(page), "page {}", page);
        }
    }
}
