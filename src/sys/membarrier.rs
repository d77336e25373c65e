// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A memory barrier on every running thread of this process, paid by the caller alone.
//!
//! membarrier(2) with `PRIVATE_EXPEDITED` (Linux >= 4.14) interrupts the processors that run a
//! thread of this process and has each execute a full barrier; a thread that is not running passes
//! one when it is switched in. So a thread that pays only a compiler fence is ordered with the
//! caller as if both had executed a full barrier.
#![allow(unsafe_code)]

use std::io;
use std::sync::OnceLock;

use nix::libc;

/// From `linux/membarrier.h`; libc does not export them for every target.
const CMD_PRIVATE_EXPEDITED: libc::c_long = 1 << 3;
const CMD_REGISTER_PRIVATE_EXPEDITED: libc::c_long = 1 << 4;

fn membarrier(command: libc::c_long) -> io::Result<()> {
    // SAFETY: membarrier takes three integers (command, flags, processor), reads and writes no
    // memory of ours, and the two commands used change nothing but the order of accesses.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether [`barrier`] works in this process. Asks the kernel once, by doing it.
pub(crate) fn available() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        membarrier(CMD_REGISTER_PRIVATE_EXPEDITED)
            .and_then(|()| membarrier(CMD_PRIVATE_EXPEDITED))
            .is_ok()
    })
}

/// Executes a full barrier on the caller and on every other thread of this process.
///
/// # Errors
/// The system's answer, for instance when a seccomp filter was installed since.
pub(crate) fn barrier() -> io::Result<()> {
    match membarrier(CMD_PRIVATE_EXPEDITED) {
        // The registration belongs to the address space; a child process may have to renew it.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            membarrier(CMD_REGISTER_PRIVATE_EXPEDITED)?;
            membarrier(CMD_PRIVATE_EXPEDITED)
        }
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barrier_works_where_it_is_available() {
        if available() {
            barrier().unwrap();
        } else {
            crate::skipped("membarrier(2) PRIVATE_EXPEDITED is missing here");
        }
    }
}
