// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Takes part in memory that the VMM mapped.

use std::ffi::c_void;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use precopy::sys::{Backing, Mapping};

/// A VMM's memory, which `precopy_memory_new` was told of and `/proc/self/maps` knows.
pub(crate) fn mapping(
    host: *mut c_void,
    bytes: usize,
    backing: Backing,
    file: Option<(OwnedFd, u64)>,
) -> io::Result<Mapping> {
    let base = NonNull::new(host.cast::<u8>()).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: the VMM vouches in the contract of `precopy_memory_new` that the memory stays mapped
    // and of its kind until the handle is freed and no migration uses it; that it is mapped now,
    // readable and of this kind was just seen in /proc/self/maps. A destination needs it writable,
    // which `precopy_receiver_run` checks. No Rust code knows of it.
    unsafe { Mapping::adopt(base, bytes, backing, file) }
}
