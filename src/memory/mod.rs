// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading and writing guest pages.
//!
//! The guest may write a page while it is read, so nothing here ever forms a `&[u8]` over guest
//! memory: pages are copied once into a private buffer (see [`crate::sys`]), and whatever is
//! checked, hashed or encoded is that copy.

mod digest;
mod mapped;
mod populated;
mod process;
#[cfg(feature = "vm-memory")]
pub mod vm_memory;

pub use digest::{digest_page, digest_run};
pub use mapped::{MapOptions, MappedMemory, ReadOnlyMemory};
pub use process::ProcessMemory;

use crate::bitmap::DenseBitmap;
use crate::units::{PageIndex, PageRun};

/// The source's side of guest memory.
pub trait PageReader: Send + Sync {
    /// Copies the pages of `run` into `into`, whose length is exactly the run's in bytes. Every
    /// 8-byte word is read once; different words may be of different age if the guest writes.
    ///
    /// # Errors
    /// [`MemoryError`] if the run lies outside the guest or the system refuses.
    fn read_run(&self, run: PageRun, into: &mut [u8]) -> Result<(), MemoryError>;

    /// Whether the page holds only zeros, without copying it. Each word is read once, so a `true`
    /// is as good as a copy that was checked.
    ///
    /// # Errors
    /// [`MemoryError`] if the page lies outside the guest or the system refuses.
    fn is_zero(&self, page: PageIndex) -> Result<bool, MemoryError>;

    /// ORs into `into` every page that may hold something else than zeros. A page that was never
    /// written need not be reported; a page that was must be, swapped out or not. Reads nothing
    /// and populates nothing.
    ///
    /// # Errors
    /// [`MemoryError`] if the lengths differ or the system refuses.
    fn populated(&self, into: &mut DenseBitmap) -> Result<(), MemoryError>;
}

/// The destination's side of guest memory. It starts as zeros.
pub trait PageWriter: Send + Sync {
    /// Writes whole pages; `bytes` has exactly the run's length.
    ///
    /// # Errors
    /// [`MemoryError`] if the run lies outside the guest or the system refuses.
    fn write_run(&self, run: PageRun, bytes: &[u8]) -> Result<(), MemoryError>;

    /// Makes the pages read as zeros. Long runs may be given back to the system.
    ///
    /// # Errors
    /// [`MemoryError`] if the run lies outside the guest or the system refuses.
    fn zero_run(&self, run: PageRun) -> Result<(), MemoryError>;

    /// Makes the pages resident ahead of their arrival. Only a hint: contents do not change.
    ///
    /// # Errors
    /// [`MemoryError`] if the system refuses, for instance for want of memory.
    fn prefault(&self, run: PageRun) -> Result<(), MemoryError>;
}

/// Guest memory that can be read and written: what a migration source or destination holds.
pub trait GuestMemory: PageReader + PageWriter {}

impl<M: PageReader + PageWriter> GuestMemory for M {}

/// Guest memory could not be read, written or mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The run does not lie inside the guest, or the buffer has another length than the run.
    #[error("{run} with a buffer of {buffer_bytes} bytes does not fit a guest of {pages} pages")]
    OutOfRange {
        /// The run.
        run: PageRun,
        /// Length of the buffer in bytes.
        buffer_bytes: usize,
        /// Pages of the guest.
        pages: u64,
    },
    /// Bitmaps of different length (R2).
    #[error(transparent)]
    Length(#[from] crate::bitmap::LengthMismatch),
    /// The system refused.
    #[error("Could not {what}")]
    System {
        /// What was tried, as a verb phrase.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}
