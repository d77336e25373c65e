// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KVM: memory slots with their dirty logs, and dirty rings.
//!
//! kvm-ioctls has neither `KVM_CLEAR_DIRTY_LOG` nor the rings, and its `KVM_GET_DIRTY_LOG`
//! allocates at each call; numbers and layouts are those of `include/uapi/linux/kvm.h`.
#![allow(unsafe_code)]

mod ring;
mod ring_test;
mod slots;

pub use ring::KvmRings;
pub use ring_test::{RingTest, test_ring};
#[cfg(test)]
pub(crate) use ring_test::{set_flat_mode, within};
pub use slots::KvmSlots;

use kvm_bindings::{kvm_clear_dirty_log, kvm_dirty_log};

/// The magic number of KVM's system calls.
const KVMIO: u8 = 0xAE;

nix::ioctl_write_ptr!(
    /// `KVM_GET_DIRTY_LOG`.
    get_dirty_log,
    KVMIO,
    0x42,
    kvm_dirty_log
);
nix::ioctl_readwrite!(
    /// `KVM_CLEAR_DIRTY_LOG`.
    clear_dirty_log,
    KVMIO,
    0xC0,
    kvm_clear_dirty_log
);
nix::ioctl_none!(
    /// `KVM_RESET_DIRTY_RINGS`.
    reset_dirty_rings,
    KVMIO,
    0xC7
);

const _: () = assert!(size_of::<kvm_dirty_log>() == 16);
const _: () = assert!(size_of::<kvm_clear_dirty_log>() == 24);
