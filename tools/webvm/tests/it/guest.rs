// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that the engine and a test both hold.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use precopy::bitmap::AtomicBitmap;
use precopy::dirty::{DirtyTracker, MarkedTracker, UnionTracker, tracker_by_name};
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::{MapOptions, MappedMemory};
use precopy::region::RegionTable;
use precopy::sys::Backing;
use precopy::units::Throttle;
use webvm::{GuestConfig, WebVm, WriteHook};

/// A guest that the engine and the test both hold.
#[derive(Clone)]
pub(crate) struct Shared {
    vm: Arc<Mutex<WebVm>>,
    pub(crate) memory: MappedMemory,
    marks: Arc<AtomicBitmap>,
}

impl Shared {
    pub(crate) fn new(config: &GuestConfig, memory: MappedMemory) -> Self {
        let marks = Arc::new(AtomicBitmap::new(memory.table().pages()));
        let hooked = Arc::clone(&marks);
        let hook: WriteHook = Arc::new(move |page| hooked.mark(page));
        let vm = WebVm::new(config.clone(), Arc::new(memory.clone()), Some(hook)).unwrap();
        Self { vm: Arc::new(Mutex::new(vm)), memory, marks }
    }

    pub(crate) fn vm(&self) -> MutexGuard<'_, WebVm> {
        self.vm.lock().unwrap()
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
        let mut vm = self.vm();
        vm.pause().unwrap();
        let audit = vm.audit().unwrap();
        assert!(audit.is_clean(), "{audit:?}");
        vm.ops()
    }
}

impl GuestControl for Shared {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.vm().pause()
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.vm().resume()
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        self.vm().throttle(throttle)
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        self.vm().export_state()
    }

    fn import_state(&mut self, state: Bytes) -> Result<(), GuestError> {
        self.vm().import_state(state)
    }

    fn is_running(&self) -> bool {
        self.vm().is_running()
    }
}

pub(crate) fn memory(table: RegionTable, backing: Backing) -> MappedMemory {
    MappedMemory::new(table, MapOptions::new(backing)).unwrap()
}
