// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Setting the extended state of a vCPU.

use kvm_bindings::kvm_xsave;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

/// Sets SSE, AVX and what else there is of a vCPU that needs no more than `kvm_xsave` holds.
///
/// # Errors
/// If KVM refuses.
pub(crate) fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> errno::Result<()> {
    // SAFETY: the kernel reads as many bytes as the process has enabled state for; dynamically
    // enabled state (AMX), which alone exceeds `kvm_xsave`, is never asked for in this process.
    unsafe { vcpu.set_xsave(xsave) }
}
