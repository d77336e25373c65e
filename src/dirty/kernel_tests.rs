// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the trackers that need the kernel: pagemap and mprotect, over every kind of memory.

mod hugetlb;
mod mprotect;
mod pagemap;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::conformance::{self, Rig, SLOTS, TrackedMemory, Traits};
use super::{DirtyTracker, MprotectTracker, PagemapTracker};
use crate::bitmap::DenseBitmap;
use crate::memory::{MapOptions, MappedMemory};
use crate::region::{Region, RegionTable};
use crate::sys::test_child::ProgramCopy;
use crate::sys::{Backing, UffdMode};
use crate::units::{GuestAddress, PageIndex, PageRun, PageSize};

struct KernelRig {
    tracker: Box<dyn DirtyTracker>,
    memory: MappedMemory,
    /// Who mapped the memory, if that is somebody else. Dropped last.
    _vmm: Option<MappedMemory>,
}

impl TrackedMemory for MappedMemory {
    fn store(&self, page: PageIndex, slot: usize, value: u64) {
        assert!(slot < SLOTS);
        self.store_u64(page, slot * 8, value).unwrap();
    }

    fn load(&self, page: PageIndex, slot: usize) -> u64 {
        self.load_u64(page, slot * 8).unwrap()
    }
}

impl Rig for KernelRig {
    fn parts(&mut self) -> (&mut dyn DirtyTracker, &dyn TrackedMemory) {
        (&mut *self.tracker, &self.memory)
    }
}

fn memory(table: &RegionTable, backing: Backing) -> MappedMemory {
    MappedMemory::new(table.clone(), MapOptions::new(backing)).unwrap()
}

fn pagemap(memory: &MappedMemory, mode: UffdMode) -> PagemapTracker {
    PagemapTracker::new(Arc::clone(memory.host()), mode).unwrap()
}

/// Private and shared memory, made here and made by a VMM. The last of each is its owner.
fn kinds(table: &RegionTable) -> Vec<(&'static str, MappedMemory, Option<MappedMemory>)> {
    let ours = |kind, backing| (kind, memory(table, backing), None);
    let theirs = |kind, backing| {
        let (memory, vmm) = adopted(table, backing);
        (kind, memory, Some(vmm))
    };
    vec![
        ours("anonymous", Backing::Anonymous),
        ours("memfd", Backing::Memfd),
        theirs("a VMM's anonymous", Backing::Anonymous),
        theirs("a VMM's memfd", Backing::Memfd),
    ]
}

/// Whether the kernel has what the pagemap tracker needs; says so if not.
fn has_pagemap() -> bool {
    let table = RegionTable::single(PageSize::BASE, 1).unwrap();
    let host = Arc::clone(memory(&table, Backing::Anonymous).host());
    match PagemapTracker::new(host, UffdMode::UserOnly) {
        Ok(_) => true,
        Err(why) => {
            crate::skipped(format_args!("{why}"));
            false
        }
    }
}

fn pagemap_rig(table: &RegionTable, backing: Backing, mode: UffdMode) -> KernelRig {
    let memory = memory(table, backing);
    KernelRig { tracker: Box::new(pagemap(&memory, mode)), memory, _vmm: None }
}

/// Memory that a VMM mapped, which begins and ends anywhere in a huge page and in a file.
fn adopted(table: &RegionTable, backing: Backing) -> (MappedMemory, MappedMemory) {
    let mut end = 0;
    let larger = table.regions().iter().map(|region| {
        let start = GuestAddress::new(end << PageSize::BASE.log2());
        end += region.pages + 1;
        Region { start, pages: region.pages + 1 }
    });
    let larger: Vec<_> = larger.collect();
    let vmm = memory(&RegionTable::new(PageSize::BASE, &larger).unwrap(), backing);
    let host = vmm.host().adopted(table.clone()).unwrap();
    (MappedMemory::from_host(Arc::new(host)), vmm)
}

/// How finely the mprotect tracker reports depends on how many mappings the whole process has
/// split, so tests that ask for exact answers, or use up the budget, take turns.
fn alone() -> impl Drop {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn mprotect_rig(table: &RegionTable, backing: Backing) -> KernelRig {
    let memory = memory(table, backing);
    let tracker = MprotectTracker::new(Arc::clone(memory.host())).unwrap();
    KernelRig { tracker: Box::new(tracker), memory, _vmm: None }
}

fn members(set: &DenseBitmap) -> BTreeSet<u64> {
    set.runs().flat_map(PageRun::iter).map(PageIndex::get).collect()
}

fn harvest(tracker: &mut dyn DirtyTracker) -> BTreeSet<u64> {
    let mut set = DenseBitmap::new(tracker.pages());
    tracker.harvest(&mut set).unwrap();
    members(&set)
}

fn fill(memory: &MappedMemory, pages: impl IntoIterator<Item = u64>) {
    for page in pages {
        memory.store_u64(PageIndex::new(page), 0, page + 1).unwrap();
    }
}

/// Byte range of dense pages of a guest with one region.
fn bytes(pages: std::ops::Range<u64>) -> std::ops::Range<usize> {
    let run = PageRun::from_range(pages);
    let start = PageRun::from_range(0..run.start().get()).bytes(PageSize::BASE);
    start..start + run.bytes(PageSize::BASE)
}

#[test]
fn pagemap_conforms_on_anonymous_memory() {
    if has_pagemap() {
        let traits = Traits::exact().with_peek().with_clear();
        conformance::check(|t| pagemap_rig(t, Backing::Anonymous, UffdMode::Best), traits);
    }
}

#[test]
fn pagemap_conforms_on_memfd() {
    if has_pagemap() {
        let traits = Traits::exact().with_peek().with_clear();
        conformance::check(|t| pagemap_rig(t, Backing::Memfd, UffdMode::Best), traits);
    }
}

#[test]
fn pagemap_conforms_for_user_mode_only() {
    if has_pagemap() {
        let traits = Traits::exact().with_peek().with_clear();
        conformance::check(|t| pagemap_rig(t, Backing::Anonymous, UffdMode::UserOnly), traits);
        conformance::check(|t| pagemap_rig(t, Backing::Memfd, UffdMode::UserOnly), traits);
    }
}

#[test]
fn trackers_conform_on_the_memory_of_a_vmm() {
    let _turn = alone();
    for backing in [Backing::Anonymous, Backing::Memfd] {
        if has_pagemap() {
            let rig = |table: &RegionTable| {
                let (memory, vmm) = adopted(table, backing);
                let tracker = Box::new(pagemap(&memory, UffdMode::Best));
                KernelRig { tracker, memory, _vmm: Some(vmm) }
            };
            conformance::check(rig, Traits::exact().with_peek().with_clear());
        }
        let rig = |table: &RegionTable| {
            let (memory, vmm) = adopted(table, backing);
            let tracker = MprotectTracker::new(Arc::clone(memory.host())).unwrap();
            KernelRig { tracker: Box::new(tracker), memory, _vmm: Some(vmm) }
        };
        conformance::check(rig, Traits::exact().with_peek());
    }
}

#[test]
fn mprotect_conforms() {
    let _turn = alone();
    let traits = Traits::exact().with_peek();
    conformance::check(|t| mprotect_rig(t, Backing::Anonymous), traits);
    conformance::check(|t| mprotect_rig(t, Backing::Memfd), traits);
}

/// The conformance suite again, in a process that has no privilege.
#[test]
fn an_unprivileged_user_tracks_too() {
    use std::os::unix::fs::MetadataExt;
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root || !has_pagemap() {
        crate::skipped("the tests run unprivileged already, or without userfaultfd");
        return;
    }
    let copy = ProgramCopy::new();
    let test = "dirty::kernel_tests::pagemap_conforms_for_user_mode_only";
    let output = copy.unprivileged().args(["--exact", test, "--nocapture"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    let skipped = String::from_utf8_lossy(&output.stderr);
    assert!(!skipped.contains("SKIPPED"), "{skipped}");
}
