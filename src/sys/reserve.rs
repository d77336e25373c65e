// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finding room in the address space, aligned to huge pages.
#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::mapping::HUGE_PAGE_BYTES;

/// What is put into the reserved room.
pub(super) enum Content<'a> {
    /// Anonymous private memory, with extra flags.
    Anonymous(MapFlags),
    /// A file, shared, from an offset on.
    File(BorrowedFd<'a>, u64, Access),
}

/// What may be done with a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// Maps `bytes` (a multiple of the huge page) readable, and writable if asked, at an address that
/// is a multiple of the huge page. Nothing is committed.
pub(super) fn map_aligned(bytes: usize, content: &Content<'_>) -> io::Result<NonNull<u8>> {
    let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
    let room = bytes.checked_add(HUGE_PAGE_BYTES).and_then(NonZeroUsize::new);
    let room = room.ok_or_else(too_large)?;
    let length = NonZeroUsize::new(bytes).ok_or_else(too_large)?;
    let none = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let start = unsafe { mmap_anonymous(None, room, ProtFlags::PROT_NONE, none) }?.cast::<u8>();
    let head = start.as_ptr().align_offset(HUGE_PAGE_BYTES);
    // SAFETY: `head` is below the huge page's size, and the room is that much longer than
    // `bytes`, so the result and `bytes` after it lie inside the reserved room.
    let base = unsafe { start.add(head) };
    let rw = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let at = NonZeroUsize::new(base.as_ptr().addr());
    let mapped = match content {
        Content::Anonymous(extra) => {
            let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED | *extra;
            // SAFETY: MAP_FIXED replaces only the part of the room reserved above, which nobody
            // else knows of.
            unsafe { mmap_anonymous(at, length, rw, flags) }
        }
        Content::File(file, offset, access) => {
            let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED | MapFlags::MAP_NORESERVE;
            let access = if *access == Access::Read { ProtFlags::PROT_READ } else { rw };
            // Past the last file offset the kernel refuses.
            let offset = i64::try_from(*offset).unwrap_or(i64::MAX);
            // SAFETY: as above.
            unsafe { mmap(at, length, access, flags, file, offset) }
        }
    };
    if let Err(refused) = mapped {
        give_back(start, room.get());
        return Err(refused.into());
    }
    give_back(start, head);
    // SAFETY: `base + bytes` is at most the end of the room.
    let tail = unsafe { base.add(bytes) };
    give_back(tail, HUGE_PAGE_BYTES - head);
    Ok(base)
}

/// Unmaps a part of the address space that [`map_aligned`] reserved and nobody refers to.
pub(super) fn give_back(start: NonNull<u8>, bytes: usize) {
    if bytes == 0 {
        return;
    }
    // SAFETY: callers pass room that they reserved and to which no reference exists (any more).
    let result = unsafe { munmap(start.cast(), bytes) };
    debug_assert!(result.is_ok(), "unmapping our own room: {result:?}");
}
