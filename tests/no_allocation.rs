// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A harvest happens every round, the last one within the downtime: it must not allocate. This
//! is a binary of its own because it counts allocations by a global allocator.

use std::sync::Arc;

use precopy::bitmap::{AtomicBitmap, DenseBitmap};
use precopy::dirty::{DirtyTracker, MarkedTracker, UnionTracker};
use precopy::units::{PageIndex, PageRun};

const PAGES: u64 = 100_000;

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
