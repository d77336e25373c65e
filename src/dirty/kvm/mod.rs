// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tracking by KVM: what vCPUs write, exactly, page by page. What the VMM itself writes to guest
//! memory (devices, an imported state) is not seen: mark it, and join both with
//! [`UnionTracker`](super::UnionTracker). Nor is what vCPUs write in system management mode, where
//! a VM has slots of their own for that (KVM's second address space).
//!
//! Two back-ends, of which a VM can have one:
//! - [`KvmLogTracker`]: a bitmap for each memory slot (`KVM_GET_DIRTY_LOG`, `KVM_CLEAR_DIRTY_LOG`).
//! - [`KvmRingTracker`]: a ring for each vCPU. Its cost follows what is written rather than the
//!   size of the guest. Kernels are known that offer it and lose entries:
//!   [`test_ring`](crate::sys::test_ring) says whether this one does.

mod log;
mod ring;
#[cfg(test)]
mod tests;

pub use log::{ClearAt, KvmLogTracker};
pub use ring::{KvmRingLog, KvmRingTracker};

use std::io;

use super::DirtyError;

fn system(tracker: &'static str, what: &'static str) -> impl Fn(io::Error) -> DirtyError {
    move |source| DirtyError::System { tracker, what, source }
}
