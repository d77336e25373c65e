// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Getting a vCPU out of the guest, from another thread.
//!
//! A signal interrupts a vCPU that is in the guest, and `immediate_exit` stops one that is on its
//! way in; both together leave no gap.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use memmap2::{MmapOptions, MmapRaw};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// The first page of what a vCPU shares with its VMM, mapped once more.
pub(crate) struct Kick(MmapRaw);

impl Kick {
    /// For one vCPU.
    ///
    /// # Errors
    /// If the page cannot be mapped.
    pub(crate) fn new(vcpu: &VcpuFd) -> io::Result<Self> {
        MmapOptions::new().len(size_of::<kvm_run>()).map_raw(vcpu).map(Self)
    }

    /// Makes the vCPU leave the guest at once, or not enter it.
    pub(crate) fn kick(&self, thread: &JoinHandle<()>) {
        self.immediate_exit().store(1, Ordering::SeqCst);
        // A thread that has ended runs no vCPU.
        let _ = thread.kill(SIGRTMIN());
    }

    /// Makes the vCPU leave at its next entry, once what it was about to do is complete. For the
    /// thread that runs it.
    pub(crate) fn leave_next(&self) {
        self.immediate_exit().store(1, Ordering::SeqCst);
    }

    /// Lets it in again.
    pub(crate) fn clear(&self) {
        self.immediate_exit().store(0, Ordering::SeqCst);
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        let run = self.0.as_mut_ptr().cast::<kvm_run>();
        // SAFETY: the mapping is page-aligned, holds a `kvm_run` and lives as long as `self`.
        let field = unsafe { &raw mut (*run).immediate_exit };
        // SAFETY: the byte is valid as above; the kernel only reads it, and this program only
        // touches it here.
        unsafe { AtomicU8::from_ptr(field) }
    }
}

/// Has the signal interrupt system calls rather than end the process.
///
/// # Errors
/// If the system refuses.
pub(crate) fn prepare_kicks() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    Ok(register_signal_handler(SIGRTMIN(), nothing)?)
}
