// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The mprotect tracker at the limits of the system, and at its end.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{alone, fill, harvest, memory};
use crate::dirty::{DirtyTracker, MprotectTracker};
use crate::region::RegionTable;
use crate::sys::{Backing, LateHandler};
use crate::units::{PageIndex, PageSize};

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

/// A handler that has made a page writable and gets no further: nobody knows which page others may
/// have written since, so all are reported, until it is through.
#[test]
fn a_late_handler_makes_every_page_count() {
    let _turn = alone();
    let table = RegionTable::single(PageSize::BASE, 70).unwrap();
    let memory = memory(&table, Backing::Anonymous);
    let mut tracker = MprotectTracker::new(Arc::clone(memory.host())).unwrap();
    tracker.arm().unwrap();
    let late = LateHandler::new();
    fill(&memory, [3]);
    // Who has waited before, and for what, changes nothing.
    for _ in 0..2 {
        assert_eq!(harvest(&mut tracker), (0..70).collect());
    }
    drop(late);
    fill(&memory, [5]);
    assert_eq!(harvest(&mut tracker), BTreeSet::from([5]));
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
