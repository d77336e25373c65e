// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! System calls and raw memory: the only module with `unsafe` in it.
//!
//! Everything exported from here is safe to call. Guest memory is only ever seen as a slice of
//! relaxed atomic words ([`Mapping::words`]): any thread may read and write it at any time, no
//! `&[u8]` over it is ever formed, and a torn or stale word is the worst that a reader can meet.

mod copy;
mod file_part;
mod hostmap;
pub mod inject;
#[cfg(all(feature = "kvm", target_arch = "x86_64"))]
pub(crate) mod kvm;
mod mapping;
pub(crate) mod membarrier;
mod pagemap;
mod process;
mod reserve;
mod segv;
pub(crate) mod socket;
mod uffd;

pub use copy::{copy_from_words, copy_to_words, is_zero, read_bytes, write_bytes};
pub use file_part::FilePart;
pub use hostmap::{HostMap, HostPiece};
pub(crate) use hostmap::{bytes_of, pages_touched};
#[cfg(all(feature = "kvm", target_arch = "x86_64"))]
pub use kvm::{KvmRings, KvmSlots, RingTest, test_ring};
pub use mapping::{Backing, HUGE_PAGE_BYTES, Mapping, base_page_bytes};
pub use pagemap::{Categories, Pagemap, Query, RegionBuffer};
#[cfg(test)]
pub(crate) use process::test_child;
pub(crate) use process::{Area, Entries};
pub use process::{Process, ProcessMap, ProcessMapError, ProcessMapping};
pub(crate) use reserve::Access;
#[cfg(test)]
pub(crate) use segv::LateHandler;
pub use segv::{SLOTS as WRITE_WATCHES_MAX, WriteWatch};
pub use uffd::{UffdMode, Userfaultfd};
