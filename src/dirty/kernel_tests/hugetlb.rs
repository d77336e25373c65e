// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Huge pages of the system's pool.

use std::collections::BTreeSet;
use std::fs::File;

use nix::fcntl::{Flock, FlockArg};

use super::conformance::{self, Traits};
use super::{
    alone, fill, harvest, has_pagemap, members, memory, mprotect_rig, pagemap, pagemap_rig,
};
use crate::bitmap::DenseBitmap;
use crate::dirty::DirtyTracker;
use crate::memory::PageReader;
use crate::region::RegionTable;
use crate::sys::{Backing, UffdMode};
use crate::units::PageSize;

/// Huge pages taken from the system for one test, and given back.
struct HugePages {
    before: u64,
    /// Whoever else runs this test waits: what one gives back, the other would count on.
    _turn: Flock<File>,
}

const POOL: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    /// At least `pages` more huge pages than there are; `None`, with a line that says so, if they
    /// cannot be had.
    fn reserve(pages: u64) -> Option<Self> {
        let turn = Flock::lock(File::open(POOL).ok()?, FlockArg::LockExclusive).ok()?;
        let read = || std::fs::read_to_string(POOL).ok()?.trim().parse::<u64>().ok();
        let before = read()?;
        let _ = std::fs::write(POOL, (before + pages).to_string());
        let pool = Self { before, _turn: turn };
        if read()? < before + pages {
            crate::skipped(format_args!("no {pages} huge pages of 2 MiB can be had"));
            return None;
        }
        Some(pool)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(POOL, self.before.to_string());
    }
}

/// Huge pages of the pool: conformance, discards, and both sizes of guest page. One test, because
/// the pool belongs to the whole system.
#[test]
fn hugetlb_memory() {
    let _turn = alone();
    let Some(_pool) = HugePages::reserve(64).filter(|_| has_pagemap()) else { return };
    let traits = Traits::default().with_peek();
    conformance::check(|t| pagemap_rig(t, Backing::Hugetlb, UffdMode::Best), traits);
    conformance::check(|t| mprotect_rig(t, Backing::Hugetlb), traits);

    let small = RegionTable::single(PageSize::BASE, 16 * 512).unwrap();
    let large = RegionTable::single(PageSize::new(2 << 20).unwrap(), 16).unwrap();
    for table in [small, large] {
        let block = 16 * (2 << 20) / table.bytes() * table.pages() / 16;
        let memory = memory(&table, Backing::Hugetlb);
        let blocks = |of: &[u64]| -> BTreeSet<u64> {
            of.iter().flat_map(|b| b * block..(b + 1) * block).collect()
        };
        fill(&memory, (0..8).map(|b| b * block));
        let mut set = DenseBitmap::new(table.pages());
        memory.populated(&mut set).unwrap();
        assert_eq!(members(&set), blocks(&[0, 1, 2, 3, 4, 5, 6, 7]));
        let mut tracker = pagemap(&memory, UffdMode::UserOnly);
        tracker.arm().unwrap();
        assert_eq!(harvest(&mut tracker), BTreeSet::new());
        fill(&memory, [3 * block, 9 * block + block / 2]);
        assert_eq!(harvest(&mut tracker), blocks(&[3, 9]));
        let map = &memory.host().maps()[0];
        map.discard(5 * (2 << 20)..6 * (2 << 20)).unwrap();
        assert_eq!(harvest(&mut tracker), blocks(&[5]));
        assert_eq!(harvest(&mut tracker), BTreeSet::new());
        fill(&memory, [5 * block]);
        assert_eq!(harvest(&mut tracker), blocks(&[5]));
    }
}
