// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that the engine and a test both hold.

use std::sync::Arc;

use precopy::bitmap::AtomicBitmap;
use precopy::dirty::{DirtyTracker, MarkedTracker, UnionTracker, tracker_by_name};
use precopy::guest::GuestControl;
use precopy::memory::{MapOptions, MappedMemory};
use precopy::region::RegionTable;
use precopy::sys::Backing;
use webvm::{GuestConfig, SharedVm, WriteHook};

/// A guest that the engine and the test both hold.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) vm: SharedVm,
    pub(crate) memory: MappedMemory,
    marks: Arc<AtomicBitmap>,
}

impl Shared {
    pub(crate) fn new(config: &GuestConfig, memory: MappedMemory) -> Self {
        let marks = Arc::new(AtomicBitmap::new(memory.table().pages()));
        let hooked = Arc::clone(&marks);
        let hook: WriteHook = Arc::new(move |page| hooked.mark(page));
        let ram = Arc::new(memory.clone());
        let vm = SharedVm::new(config.clone(), ram, Some(hook)).unwrap();
        Self { vm, memory, marks }
    }

    pub(crate) fn tracker(&self, name: &str) -> Box<dyn DirtyTracker> {
        let marked = || Box::new(MarkedTracker::new(Arc::clone(&self.marks)));
        match name {
            "marked" => marked(),
            "union" => {
                let pagemap = tracker_by_name(self.memory.host(), "pagemap").unwrap().tracker;
                Box::new(UnionTracker::new(vec![marked(), pagemap]).unwrap())
            }
            name => tracker_by_name(self.memory.host(), name).unwrap().tracker,
        }
    }

    /// Stops the guest and compares every page with a replay of all its ops.
    pub(crate) fn audit(&self) -> u64 {
        self.vm.clone().pause().unwrap();
        let audit = self.vm.audit().unwrap();
        assert!(audit.is_clean(), "{audit:?}");
        self.vm.ops()
    }
}

pub(crate) fn memory(table: RegionTable, backing: Backing) -> MappedMemory {
    MappedMemory::new(table, MapOptions::new(backing)).unwrap()
}
