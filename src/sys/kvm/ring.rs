// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty rings: each vCPU writes down the pages that it dirties, in memory shared with its VMM.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_DIRTY_LOG_PAGE_OFFSET,
    kvm_dirty_gfn, kvm_enable_cap,
};
use kvm_ioctls::{VcpuFd, VmFd};
use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;

use super::reset_dirty_rings;
use crate::limits;
use crate::sys::base_page_bytes;

/// What an entry says: a page was dirtied; and, by whoever has taken it: it may be used again.
const DIRTY: u32 = 1;
const RESET: u32 = 2;

/// `struct kvm_dirty_gfn`, shared with the kernel.
#[repr(C)]
struct Entry {
    flags: AtomicU32,
    slot: AtomicU32,
    offset: AtomicU64,
}

const _: () = assert!(size_of::<Entry>() == size_of::<kvm_dirty_gfn>());
const _: () = assert!(align_of::<Entry>() == align_of::<kvm_dirty_gfn>());

/// The ring of a vCPU.
struct Ring {
    map: MmapRaw,
    /// The next entry to look at.
    next: usize,
}

impl Ring {
    fn new(vcpu: &VcpuFd, entries: u32) -> io::Result<Self> {
        let bytes = entries as usize * size_of::<Entry>();
        let offset = u64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * base_page_bytes() as u64;
        // The mapping holds on to the vCPU's file by itself.
        let map = MmapOptions::new().offset(offset).len(bytes).map_raw(vcpu)?;
        Ok(Self { map, next: 0 })
    }

    fn entries(&self) -> &[Entry] {
        let count = self.map.len() / size_of::<Entry>();
        // SAFETY: the mapping is page-aligned, as long as this says, and lives as long as `self`;
        // an entry is three atomics, and the kernel writes them as another thread would.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<Entry>(), count) }
    }

    /// Takes what is there; `None` if it is as many entries as the ring has. A kernel stops the
    /// vCPU well before that; one that did not has written over entries that nobody had taken.
    fn take(&mut self, visit: &mut impl FnMut(u32, u64)) -> Option<u64> {
        let (mut taken, mut next) = (0, self.next);
        let entries = self.entries();
        while taken < entries.len() {
            let entry = &entries[next];
            // Pairs with the kernel's release: what it wrote before is seen.
            if entry.flags.load(Ordering::Acquire) & DIRTY == 0 {
                break;
            }
            visit(entry.slot.load(Ordering::Relaxed), entry.offset.load(Ordering::Relaxed));
            entry.flags.store(RESET, Ordering::Release);
            next = (next + 1) % entries.len();
            taken += 1;
        }
        self.next = next;
        (taken < self.entries().len()).then_some(taken as u64)
    }
}

/// The dirty rings of a VM's vCPUs.
pub struct KvmRings {
    vm: Arc<VmFd>,
    entries: u32,
    rings: Vec<Ring>,
    /// Entries were taken that the kernel has not been told of.
    unreset: bool,
}

impl KvmRings {
    /// Has a VM that has no vCPU yet keep dirty rings of so many entries, in place of its logs.
    ///
    /// # Errors
    /// If the kernel has none (Linux 5.11 and later do), or the number is not a power of two from
    /// a page's worth to 65,536.
    pub fn enable(vm: Arc<VmFd>, entries: u32) -> io::Result<Self> {
        let bytes = u64::from(entries) * size_of::<Entry>() as u64;
        let mut refused = io::Error::from(io::ErrorKind::Unsupported);
        for cap in [KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING] {
            let mut enable = kvm_enable_cap { cap, ..Default::default() };
            enable.args[0] = bytes;
            match vm.enable_cap(&enable) {
                Ok(()) => return Ok(Self { vm, entries, rings: Vec::new(), unreset: false }),
                Err(error) => refused = error.into(),
            }
        }
        Err(refused)
    }

    /// Takes a vCPU's ring in.
    ///
    /// # Errors
    /// If it cannot be mapped.
    pub fn add(&mut self, vcpu: &VcpuFd) -> io::Result<()> {
        self.rings.push(Ring::new(vcpu, self.entries)?);
        Ok(())
    }

    /// Hands every page that was dirtied to `visit`, as slot number and slot page, perhaps more
    /// than once, and has the kernel protect them again. Returns the number of entries.
    ///
    /// # Errors
    /// If the kernel refuses, or has lost entries. What was visited is then taken, and may not be
    /// protected.
    pub fn take(&mut self, mut visit: impl FnMut(u32, u64)) -> io::Result<u64> {
        let mut taken = Some(0);
        for ring in &mut self.rings {
            taken = ring.take(&mut visit).and_then(|one| Some(one + taken?));
        }
        let taken = taken.ok_or_else(|| {
            io::Error::other(
                "the kernel filled a ring to the last entry instead of stopping the \
                 vCPU, and has written over entries that nobody had taken",
            )
        })?;
        self.unreset |= taken > 0;
        let mut interrupted = 0;
        while self.unreset {
            // SAFETY: takes no argument; it resets the entries that were marked above.
            match unsafe { reset_dirty_rings(self.vm.as_raw_fd()) } {
                Ok(_) => self.unreset = false,
                Err(Errno::EINTR) if interrupted < limits::KVM_INTERRUPTIONS_MAX => {
                    interrupted += 1;
                }
                Err(refused) => return Err(refused.into()),
            }
        }
        Ok(taken)
    }
}

impl fmt::Debug for KvmRings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rings, entries) = (self.rings.len(), self.entries);
        f.debug_struct("KvmRings").field("rings", &rings).field("entries", &entries).finish()
    }
}
