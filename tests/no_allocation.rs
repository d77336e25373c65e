// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A harvest happens every round, the last one within the downtime: it must not allocate. This
//! is a binary of its own because it counts allocations by a global allocator.

use std::sync::Arc;

use precopy::bitmap::{AtomicBitmap, DenseBitmap};
use precopy::dirty::{
    DirtyError, DirtyTracker, MarkedTracker, MprotectTracker, PagemapTracker, UnionTracker,
};
use precopy::memory::{MapOptions, MappedMemory};
use precopy::region::RegionTable;
use precopy::sys::UffdMode;
use precopy::units::{PageIndex, PageRun, PageSize};

const PAGES: u64 = 100_000;
/// For trackers that work on real memory.
const WATCHED_PAGES: u64 = 5000;

/// Rounds of write, peek, clear, harvest, walk and restore on memory that the system watches. The first harvest
/// may make room for the others.
fn assert_allocates_nothing_more(
    make: impl FnOnce(&MappedMemory) -> Result<Box<dyn DirtyTracker>, DirtyError>,
) {
    let table = RegionTable::single(PageSize::BASE, WATCHED_PAGES).expect("a table");
    let memory = MappedMemory::new(table, MapOptions::default()).expect("memory");
    let mut tracker = match make(&memory) {
        Ok(tracker) => tracker,
        Err(error) => return precopy::skipped(format_args!("{error}")),
    };
    tracker.arm().expect("arms");
    let mut set = DenseBitmap::new(WATCHED_PAGES);
    let mut seen = 0;
    let mut turn = |round: u64| {
        for page in (0..WATCHED_PAGES).step_by(PageIndex::new(round * 7).as_usize()) {
            memory.store_u64(PageIndex::new(page), 8, round).expect("writes");
        }
        set.clear_all();
        let window = PageRun::from_range(WATCHED_PAGES - 50..WATCHED_PAGES);
        if tracker.peek(window, &mut set).expect("peeks") {
            tracker.clear(&[window]).expect("clears");
        }
        tracker.harvest(&mut set).expect("harvests");
        seen += set.runs().map(PageRun::pages).sum::<u64>();
        tracker.restore(&set).expect("restores");
    };
    turn(1);
    let counted = allocation_counter::measure(|| (1..8).for_each(&mut turn));
    assert!(seen > WATCHED_PAGES / 7, "nothing was harvested, so nothing was proved");
    assert_eq!(counted.count_total, 0, "{}: {counted:?}", tracker.name());
    tracker.disarm().expect("disarms");
}

/// Rounds of mark, peek, harvest, walk and restore: `mark` dirties pages as the guest would.
fn assert_allocates_nothing(tracker: &mut dyn DirtyTracker, mark: impl Fn(u64)) {
    tracker.arm().expect("arms");
    let mut set = DenseBitmap::new(PAGES);
    let mut seen = 0;
    let counted = allocation_counter::measure(|| {
        for round in 1..20u64 {
            (0..PAGES).step_by(PageIndex::new(round * 7).as_usize()).for_each(&mark);
            set.clear_all();
            tracker.peek(PageRun::from_range(5..5000), &mut set).expect("peeks");
            tracker.harvest(&mut set).expect("harvests");
            seen += set.runs().map(PageRun::pages).sum::<u64>();
            tracker.restore(&set).expect("restores");
        }
    });
    assert!(seen > PAGES / 7, "nothing was harvested, so nothing was proved");
    assert_eq!(counted.count_total, 0, "{}: {counted:?}", tracker.name());
}

#[test]
fn the_count_works() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![1u8; 100])));
    assert_eq!(counted.count_total, 1);
}

#[test]
fn marked() {
    let bitmap = Arc::new(AtomicBitmap::new(PAGES));
    let mut tracker = MarkedTracker::new(bitmap.clone());
    assert_allocates_nothing(&mut tracker, |page| bitmap.mark(PageIndex::new(page)));
}

#[test]
fn marked_in_parts() {
    let parts = [1000, 30_003, PAGES - 31_003].map(|pages| Arc::new(AtomicBitmap::new(pages)));
    let mut tracker = MarkedTracker::from_parts(parts.clone());
    assert_allocates_nothing(&mut tracker, |page| parts[1].mark_range(page / 4, page / 4 + 9));
}

#[test]
fn union() {
    let bitmaps = [0, 1].map(|_| Arc::new(AtomicBitmap::new(PAGES)));
    let parts = bitmaps.iter().map(|b| Box::new(MarkedTracker::new(b.clone())) as _).collect();
    let mut tracker = UnionTracker::new(parts).expect("equal lengths");
    assert_allocates_nothing(&mut tracker, |page| bitmaps[0].mark(PageIndex::new(page)));
}

#[test]
fn pagemap() {
    assert_allocates_nothing_more(|memory| {
        let tracker = PagemapTracker::new(Arc::clone(memory.host()), UffdMode::default())?;
        Ok(Box::new(tracker))
    });
}

#[test]
fn mprotect() {
    assert_allocates_nothing_more(|memory| {
        Ok(Box::new(MprotectTracker::new(Arc::clone(memory.host()))?))
    });
}
