// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memory slots that hold a guest's regions, and their dirty logs.

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_MEM_LOG_DIRTY_PAGES, kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_dirty_log,
    kvm_dirty_log__bindgen_ty_1, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;

use super::{clear_dirty_log, get_dirty_log};
use crate::region::RegionTable;
use crate::sys::{HostMap, base_page_bytes};
use crate::units::PageRun;

/// Pages of a word of a log.
const WORD: u64 = 64;
/// Most pages that one call clears: the kernel counts them in 32 bits.
const CLEAR_PAGES_MAX: u64 = 1 << 30;

/// Memory slots of a VM, one a region of the guest's memory map, in the map's order.
///
/// Logs count in the system's base pages, whatever the size of the guest's: a *slot page*.
pub struct KvmSlots {
    vm: Arc<VmFd>,
    table: RegionTable,
    slots: Vec<kvm_userspace_memory_region>,
    /// The memory, if the slots were made here. They go before it does.
    host: Option<Arc<HostMap>>,
}

impl KvmSlots {
    /// Gives a VM its memory: one slot for each region, numbered from `first_slot`. The slots are
    /// taken away again when this is dropped.
    ///
    /// # Errors
    /// If KVM refuses: numbers or addresses that are in use, or more slots than it has.
    pub fn map(vm: Arc<VmFd>, host: Arc<HostMap>, first_slot: u32) -> io::Result<Self> {
        let table = host.table().clone();
        let mut made = Self { vm, table, slots: Vec::new(), host: Some(host) };
        let Some(host) = made.host.clone() else { return Ok(made) };
        for ((slot, region), map) in (first_slot..).zip(made.table.regions()).zip(host.maps()) {
            let slot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start.get(),
                memory_size: map.guest_bytes() as u64,
                userspace_addr: map.addresses().start as u64,
            };
            // SAFETY: the addresses are those of a mapping that `host` keeps alive, and `host`
            // outlives the slot: see `drop`. What the guest does to the memory is what another
            // thread does by atomics.
            unsafe { made.vm.set_user_memory_region(slot) }?;
            made.slots.push(slot);
        }
        Ok(made)
    }

    /// Slots that a VMM made by itself, in the order of `table`'s regions, with the flags that they
    /// have besides logging. They stay when this is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if they are not the table's regions.
    ///
    /// # Safety
    /// Each slot must exist in the VM exactly as given, for as long as this value lives: setting
    /// its flags would otherwise give the guest whatever lies at these addresses.
    pub unsafe fn adopt(
        vm: Arc<VmFd>,
        table: RegionTable,
        slots: Vec<kvm_userspace_memory_region>,
    ) -> io::Result<Self> {
        let regions = table.regions().iter().enumerate().map(|(index, region)| {
            let run = table.region_run(index).unwrap_or_default();
            (region.start.get(), run.bytes(table.page_size()) as u64)
        });
        if !regions.eq(slots.iter().map(|slot| (slot.guest_phys_addr, slot.memory_size))) {
            let why = "the slots are not the regions of the memory map, in its order";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(Self { vm, table, slots, host: None })
    }

    /// The guest's memory map.
    #[must_use]
    pub fn table(&self) -> &RegionTable {
        &self.table
    }

    /// The VM.
    #[must_use]
    pub fn vm(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// How many slots there are: one a region.
    #[must_use]
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// The region whose slot has this number.
    #[must_use]
    pub fn region_of(&self, slot: u32) -> Option<usize> {
        self.slots.iter().position(|s| s.slot == slot)
    }

    /// Slot pages of a guest page, as a power of two.
    #[must_use]
    pub fn page_shift(&self) -> u32 {
        self.table.page_size().log2() - base_page_bytes().trailing_zeros()
    }

    /// Slot pages of a region.
    #[must_use]
    pub fn slot_pages(&self, region: usize) -> u64 {
        self.slots.get(region).map_or(0, |s| s.memory_size / base_page_bytes() as u64)
    }

    /// Words of a region's log.
    #[must_use]
    pub fn log_words(&self, region: usize) -> usize {
        PageRun::from_range(0..self.slot_pages(region).div_ceil(WORD)).end().as_usize()
    }

    /// Asks for logs that reading does not clear: [`clear`](Self::clear) does, and protects pages
    /// again then (Linux 5.0 and later).
    ///
    /// # Errors
    /// If the kernel cannot.
    pub fn protect_by_hand(&self) -> io::Result<()> {
        let mut cap =
            kvm_enable_cap { cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, ..Default::default() };
        // Not "initially set": every page, holes too, would count as written until it is cleared.
        cap.args[0] = u64::from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
        Ok(self.vm.enable_cap(&cap)?)
    }

    /// Starts or ends logging in all slots. A log starts empty. If KVM refuses to start one, none
    /// is logged.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn log(&self, on: bool) -> io::Result<()> {
        for at in 0..self.slots.len() {
            if let Err(refused) = self.set_logging(at, on) {
                // What cannot be ended either was not begun, or costs the guest some speed.
                (0..if on { at } else { 0 }).for_each(|done| drop(self.set_logging(done, false)));
                return Err(refused);
            }
        }
        Ok(())
    }

    fn set_logging(&self, at: usize, on: bool) -> io::Result<()> {
        let mut slot = self.slots[at];
        if on {
            slot.flags |= KVM_MEM_LOG_DIRTY_PAGES;
        }
        // SAFETY: the slot exists with this memory (it was made by `map`, or `adopt`'s caller says
        // so); only its flags change.
        unsafe { self.vm.set_user_memory_region(slot) }.map_err(io::Error::from)
    }

    /// Copies the log of a region's slot: bit i is slot page i. With
    /// [`protect_by_hand`](Self::protect_by_hand) it stays as it is.
    ///
    /// # Errors
    /// If the slot is not logged, or `into` has not [`log_words`](Self::log_words) words.
    pub fn read_log(&self, region: usize, into: &mut [u64]) -> io::Result<()> {
        let slot = self.slots.get(region).filter(|_| into.len() == self.log_words(region));
        let slot = slot.ok_or(io::ErrorKind::InvalidInput)?.slot;
        let log = kvm_dirty_log {
            slot,
            padding1: 0,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 {
                dirty_bitmap: into.as_mut_ptr().cast(),
            },
        };
        // SAFETY: the kernel writes one bit a page, in whole words: the length just checked.
        unsafe { get_dirty_log(self.vm.as_raw_fd(), &raw const log) }?;
        Ok(())
    }

    /// Clears pages in the log of a region's slot and protects them again: those set in `mask`,
    /// whose first word is word `from` of the log. A write from here on is logged again.
    ///
    /// # Errors
    /// If the slot is not logged by hand, or has not so many words.
    pub fn clear(&self, region: usize, from: usize, mask: &[u64]) -> io::Result<()> {
        let end = from.checked_add(mask.len()).filter(|end| *end <= self.log_words(region));
        let (Some(slot), Some(_)) = (self.slots.get(region), end) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let pages = self.slot_pages(region);
        let mut first_page = from as u64 * WORD;
        let words_max = PageRun::from_range(0..CLEAR_PAGES_MAX / WORD).end().as_usize();
        for part in mask.chunks(words_max) {
            let num_pages = (part.len() as u64 * WORD).min(pages - first_page);
            let mut clear = kvm_clear_dirty_log {
                slot: slot.slot,
                num_pages: u32::try_from(num_pages).map_err(|_| io::ErrorKind::InvalidInput)?,
                first_page,
                __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
                    dirty_bitmap: part.as_ptr().cast_mut().cast(),
                },
            };
            // SAFETY: the kernel reads one bit a page, in whole words, from a bitmap that is
            // borrowed for the call; it does not write to it.
            unsafe { clear_dirty_log(self.vm.as_raw_fd(), &raw mut clear) }?;
            first_page += num_pages;
        }
        Ok(())
    }
}

impl fmt::Debug for KvmSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmSlots").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl Drop for KvmSlots {
    fn drop(&mut self) {
        let Some(host) = self.host.take() else { return };
        for slot in &self.slots {
            let gone = kvm_userspace_memory_region { memory_size: 0, flags: 0, ..*slot };
            // SAFETY: a slot of no size is a slot taken away: the guest loses access to memory.
            if let Err(refused) = unsafe { self.vm.set_user_memory_region(gone) } {
                tracing::warn!(slot = slot.slot, %refused, "A memory slot cannot be taken away");
                // The guest can still reach the memory: it must never be used for anything else.
                mem::forget(Arc::clone(&host));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Backing;
    use crate::units::PageSize;
    use kvm_ioctls::Kvm;

    /// Slots that a VMM made: they must be the memory map's, can be logged, and stay.
    #[test]
    fn slots_of_others_are_adopted() {
        let Ok(vm) = Kvm::new().and_then(|kvm| kvm.create_vm()) else {
            crate::skipped("no VM can be had from /dev/kvm");
            return;
        };
        let (vm, table) = (Arc::new(vm), RegionTable::single(PageSize::BASE, 100).unwrap());
        let host = Arc::new(HostMap::new(table.clone(), Backing::Anonymous).unwrap());
        let theirs = KvmSlots::map(Arc::clone(&vm), Arc::clone(&host), 3).unwrap();
        let other = RegionTable::single(PageSize::BASE, 99).unwrap();
        // SAFETY: the slot is the one that `theirs` made, and `theirs` outlives both values.
        let refused = unsafe { KvmSlots::adopt(Arc::clone(&vm), other, theirs.slots.clone()) };
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        // SAFETY: as above.
        let adopted = unsafe { KvmSlots::adopt(Arc::clone(&vm), table, theirs.slots.clone()) };
        let adopted = adopted.unwrap();
        assert_eq!((adopted.region_of(3), adopted.slot_pages(0)), (Some(0), 100));
        adopted.log(true).unwrap();
        theirs.read_log(0, &mut [0; 2]).unwrap();
        drop(adopted);
        theirs.read_log(0, &mut [0; 2]).unwrap();
        theirs.log(false).unwrap();
        assert!(theirs.read_log(0, &mut [0; 2]).is_err(), "nothing is logged");
        drop(theirs);
        // The addresses and the number are free again.
        KvmSlots::map(vm, host, 3).unwrap();
    }
}
