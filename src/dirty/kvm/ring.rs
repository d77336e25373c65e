// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KVM's dirty rings: what each vCPU writes down, taken and protected again in one step.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VcpuFd;

use super::system;
use crate::bitmap::{DenseBitmap, LengthMismatch};
use crate::dirty::{DirtyError, DirtyTracker, Harvest};
use crate::limits;
use crate::sys::{KvmRings, KvmSlots};
use crate::units::PageIndex;

const NAME: &str = "kvm-ring";

/// A VM's rings, shared by the tracker and the threads that run vCPUs.
pub struct KvmRingLog {
    slots: Arc<KvmSlots>,
    state: Mutex<State>,
}

struct State {
    rings: KvmRings,
    /// Taken out of the rings, not harvested yet.
    taken: DenseBitmap,
    /// Exits in a row for a full ring that held nothing.
    stalls: u32,
}

impl KvmRingLog {
    /// Rings over a VM's memory slots.
    #[must_use]
    pub fn new(slots: Arc<KvmSlots>, rings: KvmRings) -> Arc<Self> {
        let taken = DenseBitmap::new(slots.table().pages());
        Arc::new(Self { slots, state: Mutex::new(State { rings, taken, stalls: 0 }) })
    }

    /// Takes in the ring of a vCPU, before it runs.
    ///
    /// # Errors
    /// [`DirtyError::System`] if it cannot be mapped.
    pub fn add(&self, vcpu: &VcpuFd) -> Result<(), DirtyError> {
        self.lock().rings.add(vcpu).map_err(system(NAME, "map a dirty ring"))
    }

    /// Makes room in the rings: whoever runs a vCPU calls it at `KVM_EXIT_DIRTY_RING_FULL` and runs
    /// the vCPU again.
    ///
    /// # Errors
    /// [`DirtyError`] if the kernel refuses, or calls a ring full again and again that is empty.
    pub fn relieve(&self) -> Result<(), DirtyError> {
        let mut state = self.lock();
        let taken = self.take(&mut state)?;
        // A harvest in between may have taken everything, but not so often in a row.
        state.stalls = if taken == 0 { state.stalls + 1 } else { 0 };
        if state.stalls > limits::KVM_RING_STALLS_MAX {
            return Err(DirtyError::Unsupported {
                tracker: NAME,
                why: "the kernel calls a ring full for ever although nothing is in it".to_owned(),
            });
        }
        Ok(())
    }

    fn take(&self, state: &mut State) -> Result<u64, DirtyError> {
        let State { rings, taken, .. } = state;
        let (table, shift) = (self.slots.table(), self.slots.page_shift());
        let entries = rings.take(|slot, page| {
            // Slots of the VM's other memory, such as a ROM, are in the rings too.
            let region = self.slots.region_of(slot).and_then(|region| table.region_run(region));
            let page = page >> shift;
            if let Some(run) = region.filter(|run| page < run.pages()) {
                taken.set(PageIndex::new(run.start().get() + page));
            }
        });
        entries.map_err(system(NAME, "reset the dirty rings"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for KvmRingLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmRingLog").field("slots", &self.slots).finish_non_exhaustive()
    }
}

/// Dirty tracking by the dirty rings of KVM's vCPUs. Where the processor itself keeps a list of
/// written pages (Intel's PML), a vCPU shows its last pages only when it leaves the guest; a paused
/// one has shown all.
#[derive(Debug)]
pub struct KvmRingTracker {
    log: Arc<KvmRingLog>,
    armed: bool,
    restored: DenseBitmap,
}

impl KvmRingTracker {
    /// A tracker over a VM's rings. Arms nothing.
    #[must_use]
    pub fn new(log: Arc<KvmRingLog>) -> Self {
        let restored = DenseBitmap::new(log.slots.table().pages());
        Self { log, armed: false, restored }
    }
}

impl DirtyTracker for KvmRingTracker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pages(&self) -> u64 {
        self.log.slots.table().pages()
    }

    fn arm(&mut self) -> Result<(), DirtyError> {
        self.disarm()?;
        self.log.slots.log(true).map_err(system(NAME, "begin to log"))?;
        self.armed = true;
        self.restored.clear_all();
        Ok(())
    }

    fn harvest(&mut self, into: &mut DenseBitmap) -> Result<Harvest, DirtyError> {
        LengthMismatch::check(self.pages(), into.len())?;
        if !self.armed {
            return Err(DirtyError::NotArmed { tracker: NAME });
        }
        let mut pages = self.restored.count();
        into.or_with(&self.restored)?;
        self.restored.clear_all();
        let mut state = self.log.lock();
        let steps = self.log.take(&mut state)?;
        pages += state.taken.count();
        into.or_with(&state.taken)?;
        state.taken.clear_all();
        Ok(Harvest::new(pages, steps))
    }

    fn restore(&mut self, set: &DenseBitmap) -> Result<(), DirtyError> {
        Ok(self.restored.or_with(set)?)
    }

    fn disarm(&mut self) -> Result<(), DirtyError> {
        if self.armed {
            self.log.slots.log(false).map_err(system(NAME, "end logging"))?;
            self.armed = false;
            // What is left in the rings is of no use to anyone; it must not fill them.
            let mut state = self.log.lock();
            self.log.take(&mut state)?;
            state.taken.clear_all();
        }
        Ok(())
    }
}

impl Drop for KvmRingTracker {
    fn drop(&mut self) {
        if let Err(error) = self.disarm() {
            tracing::warn!(%error, "The guest stays logged, and slower for it");
        }
    }
}
