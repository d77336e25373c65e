// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory and what is written to it.

use std::ffi::c_void;
use std::slice;
use std::sync::Arc;

use super::super::input;
use super::super::types::{
    precopy_dirty_set, precopy_error, precopy_memory, precopy_region, precopy_state_sink,
    precopy_status,
};
use super::general::free;
use super::{guarded, status_of};
use crate::dirty::DIRTY_SETS;
use crate::failure::Failure;
use crate::guest::STATE_SINKS;
use crate::memory::{MEMORIES, Memory};

use precopy::limits::{PAGES_MAX, REGIONS_MAX};

/// Describes a guest's memory: `count` regions, sorted by guest address, each `region_size` =
/// `sizeof(precopy_region)` bytes long, in pages of `page_bytes` (0: 4096). Host addresses are
/// looked up in /proc/self/maps. They must stay mapped, and be the same memory, until the handle
/// is freed and no migration uses it.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn precopy_memory_new(
    regions: *const precopy_region,
    count: usize,
    region_size: usize,
    page_bytes: u32,
    memory: *mut *mut precopy_memory,
    error: *mut *mut precopy_error,
) -> precopy_status {
    let make = || {
        // SAFETY: the caller of this function vouches for its arguments.
        unsafe { input::clear(memory, "memory") }?;
        if regions.is_null() || !regions.is_aligned() {
            return Err(Failure::argument("regions is NULL or not aligned"));
        }
        if region_size != size_of::<precopy_region>() {
            let size = size_of::<precopy_region>();
            return Err(Failure::argument(format!(
                "region_size is {region_size}, not {size}: set it to sizeof(precopy_region)"
            )));
        }
        if count == 0 || count > REGIONS_MAX {
            return Err(Failure::argument(format!(
                "{count} regions; from 1 to {REGIONS_MAX} can be"
            )));
        }
        // SAFETY: the caller vouches for so many regions, which are plain numbers.
        let regions = unsafe { slice::from_raw_parts(regions, count) };
        let made = Memory::new(regions, page_bytes)?;
        let made = MEMORIES.add(Arc::new(made)).cast_mut().cast();
        // SAFETY: as above.
        unsafe { input::put(memory, made) };
        Ok(())
    };
    // SAFETY: the caller of this function vouches for its arguments.
    unsafe { guarded(error, make) }
}

/// Frees a description of memory; the memory itself is the VMM's. NULL is fine.
///
/// Threads: any, once no thread can hand it to `precopy_mark_dirty`.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_memory_free(memory: *mut precopy_memory) -> precopy_status {
    free(&MEMORIES, memory, "memory")
}

/// Marks what was written, for `PRECOPY_TRACK_MARKED`: call it after the write, and before the
/// write's effects can be seen elsewhere (a vCPU that is told of them, a device that answers).
/// Marking before the write loses it. Marks count at all times; those from before a migration
/// change nothing. `PRECOPY_ERROR_ARGUMENT` if a part of the range is no guest memory; the rest is
/// marked all the same.
///
/// Threads: any, at any time; it takes no lock, allocates nothing and does no system call. So it
/// cannot check that the handle is one, and not freed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn precopy_mark_dirty(
    memory: *mut precopy_memory,
    guest_address: u64,
    length: u64,
) -> precopy_status {
    // SAFETY: a handle that was made and not freed is the address of a live `Memory`, which any
    // thread may use at any time.
    let memory = unsafe { memory.cast::<Memory>().as_ref() };
    match memory {
        None => precopy_status::PRECOPY_ERROR_HANDLE,
        Some(memory) if memory.mark(guest_address, length) => precopy_status::PRECOPY_OK,
        Some(_) => precopy_status::PRECOPY_ERROR_ARGUMENT,
    }
}

/// Appends to the guest's state, from within `export_state`, as often as is convenient; 256 MiB in
/// all. Returns `PRECOPY_ERROR_HANDLE` outside of that call.
///
/// Threads: any, while `export_state` has not returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn precopy_state_write(
    into: *mut precopy_state_sink,
    state: *const c_void,
    length: usize,
) -> precopy_status {
    status_of(|| {
        let sink = STATE_SINKS.get(into.addr()).ok_or_else(|| Failure::handle("state sink"))?;
        if length == 0 {
            return Ok(());
        }
        if state.is_null() || isize::try_from(length).is_err() {
            return Err(Failure::argument("state is NULL, or longer than memory"));
        }
        // SAFETY: the caller of this function vouches for so many bytes.
        let state = unsafe { slice::from_raw_parts(state.cast::<u8>(), length) };
        if sink.write(state) { Ok(()) } else { Err(Failure::argument("The state is too long")) }
    })
}

/// Marks the pages of a range, from within `harvest`. `PRECOPY_ERROR_ARGUMENT` if a part of it is
/// no guest memory; the rest is marked all the same. `PRECOPY_ERROR_HANDLE` outside of that call.
///
/// Threads: any, while `harvest` has not returned.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_dirty_set_mark(
    into: *mut precopy_dirty_set,
    guest_address: u64,
    length: u64,
) -> precopy_status {
    status_of(|| {
        let set = DIRTY_SETS.get(into.addr()).ok_or_else(|| Failure::handle("dirty set"))?;
        if set.mark(guest_address, length) {
            return Ok(());
        }
        Err(Failure::argument("A part of the range is no guest memory"))
    })
}

/// Marks the pages whose bits are set in `bits`, from within `harvest`: bit i % 64 of word i / 64
/// is the i-th page from `guest_address` on, as KVM_GET_DIRTY_LOG has it on little-endian machines.
/// All `pages` pages must lie in one region.
///
/// Threads: any, while `harvest` has not returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn precopy_dirty_set_bitmap(
    into: *mut precopy_dirty_set,
    guest_address: u64,
    bits: *const u64,
    pages: u64,
) -> precopy_status {
    status_of(|| {
        let set = DIRTY_SETS.get(into.addr()).ok_or_else(|| Failure::handle("dirty set"))?;
        if bits.is_null() || !bits.is_aligned() {
            return Err(Failure::argument("bits is NULL or not aligned"));
        }
        let words = usize::try_from(pages.div_ceil(64)).ok().filter(|_| pages <= PAGES_MAX);
        let words = words.ok_or_else(|| Failure::argument("More pages than a guest can have"))?;
        // SAFETY: the caller of this function vouches for one bit a page.
        let bits = unsafe { slice::from_raw_parts(bits, words) };
        if set.mark_bits(guest_address, bits, pages) {
            return Ok(());
        }
        Err(Failure::argument("The pages do not all lie in one region"))
    })
}
