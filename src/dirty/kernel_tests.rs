// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the trackers that need the kernel: pagemap and mprotect, over every kind of memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::conformance::{self, Rig, SLOTS, TrackedMemory, Traits};
use super::{DirtyTracker, MprotectTracker, PagemapTracker};
use crate::bitmap::DenseBitmap;
use crate::memory::{MapOptions, MappedMemory, PageReader, PageWriter};
use crate::region::{Region, RegionTable};
use crate::sys::{Backing, Mapping, UffdMode};
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
    first.arm().unwrap();
    drop(first);
    second.arm().unwrap();
    fill(&memory, [5]);
    assert_eq!(harvest(&mut second), BTreeSet::from([5]));
}

/// More separate pages than the system has mappings for: nothing is lost.
#[test]
fn mprotect_survives_without_mappings() {
    let _turn = alone();
    let table = RegionTable::single(PageSize::BASE, 150_000).unwrap();
    let memory = memory(&table, Backing::Anonymous);
    let mut tracker = MprotectTracker::new(Arc::clone(memory.host())).unwrap();
    tracker.arm().unwrap();
    let written: BTreeSet<u64> = (0..150_000).step_by(2).collect();
    fill(&memory, written.iter().copied());
    assert!(harvest(&mut tracker).is_superset(&written));
    fill(&memory, [1]);
    assert_eq!(harvest(&mut tracker), BTreeSet::from([1]));
}

/// A write that faulted just before tracking ended must go through.
#[test]
fn mprotect_ends_under_fire() {
    let _turn = alone();
    let table = RegionTable::single(PageSize::BASE, 64).unwrap();
    let memory = memory(&table, Backing::Anonymous);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2usize {
            let (memory, stop) = (&memory, &stop);
            scope.spawn(move || {
                let mut value = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    value += 1;
                    for page in 0..64 {
                        memory.store_u64(PageIndex::new(page), thread * 8, value).unwrap();
                    }
                }
            });
        }
        for _ in 0..300 {
            let mut tracker = MprotectTracker::new(Arc::clone(memory.host())).unwrap();
            tracker.arm().unwrap();
            harvest(&mut tracker);
            tracker.disarm().unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
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

/// Huge pages taken from the system for one test, and given back.
struct HugePages {
    before: u64,
}

const POOL: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    /// At least `pages` more huge pages than there are; `None`, with a line that says so, if they
    /// cannot be had.
    fn reserve(pages: u64) -> Option<Self> {
        let read = || std::fs::read_to_string(POOL).ok()?.trim().parse::<u64>().ok();
        let before = read()?;
        let _ = std::fs::write(POOL, (before + pages).to_string());
        let pool = Self { before };
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

/// The conformance suite again, in a process that has no privilege.
#[test]
fn an_unprivileged_user_tracks_too() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root || !has_pagemap() {
        crate::skipped("the tests run unprivileged already, or without userfaultfd");
        return;
    }
    // Whoever runs the child may not be able to reach the build folder.
    let copy = std::env::temp_dir().join(format!("precopy-unprivileged-{}", std::process::id()));
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let test = "dirty::kernel_tests::pagemap_conforms_for_user_mode_only";
    let output = std::process::Command::new(&copy)
        .args(["--exact", test, "--nocapture"])
        .uid(65534)
        .gid(65534)
        .current_dir("/")
        .output();
    std::fs::remove_file(&copy).unwrap();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    let skipped = String::from_utf8_lossy(&output.stderr);
    assert!(!skipped.contains("SKIPPED"), "{skipped}");
}
