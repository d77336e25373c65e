// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sets of pages, one bit each.
//!
//! - [`DenseBitmap`]: owned by one side of one thread; the ledger, harvests, the wire.
//! - [`AtomicBitmap`]: shared by many writers and one harvester.
//! - runs: walking the set bits word by word as [`PageRun`](crate::units::PageRun)s.

mod atomic;
mod dense;
#[cfg(feature = "vm-memory")]
mod vm_memory;
mod walk;

pub use atomic::{AtomicBitmap, Fences, HarvestError};
pub use dense::{DenseBitmap, LengthMismatch};
#[cfg(feature = "vm-memory")]
pub use vm_memory::{AtomicBitmapSlice, HoldsAtomicBitmap};
pub use walk::Runs;
