// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Makes another process open a userfaultfd and takes it from there, so that its writes can be
//! tracked from here.
//!
//! One of its threads is stopped by ptrace, made to do two system calls, and let go: some 50 us.
//! The other threads run on. The thread's registers are put back exactly, and whatever system call
//! it was in is taken up again by the kernel, as after any stop. Only this process holds the
//! userfaultfd afterwards: whatever becomes of it, the kernel then ends the registrations and
//! lifts the protection.
//!
//! # What if somebody is killed meanwhile?
//! - This process: the ptrace part is done by a helper, forked for it, in a session of its own.
//!   It goes on to the end, and what it fetched is closed with it.
//! - That process: an error.
//! - The helper: nothing else knows it, and it takes no signals; only SIGKILL by its number or to
//!   its whole control group could hit it. Before and after the two calls that does no harm: the
//!   kernel lets go of a thread whose tracer has ended. During them, the thread runs on: one that
//!   waited in a system call sees that call return a small number and one register changed (its
//!   own `syscall` instruction was used, nothing else differs); one that was computing sees
//!   the same where it was, but for the microseconds before the call begins, in which it would run
//!   into code of the vDSO. Most processes have a thread that waits; it is preferred. A
//!   userfaultfd that nobody uses may be left open in it.

mod error;
#[cfg(target_arch = "x86_64")]
mod helper;
#[cfg(target_arch = "x86_64")]
mod launch;
#[cfg(target_arch = "x86_64")]
mod raw;
#[cfg(target_arch = "x86_64")]
mod target;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

use std::time::Duration;

pub use error::InjectError;

use super::process::Process;
use super::uffd::{UffdMode, Userfaultfd};
#[cfg(target_arch = "x86_64")]
use crate::limits;

/// A hold on the memory of another process: its userfaultfd. Dropping it ends all registrations.
#[derive(Debug)]
pub struct Attachment {
    uffd: Userfaultfd,
    pause: Duration,
}

impl Attachment {
    /// The userfaultfd, which acts on that process.
    #[must_use]
    pub fn uffd(&self) -> &Userfaultfd {
        &self.uffd
    }

    /// For how long a thread was stopped at most: from the request to the release.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.pause
    }
}

/// Whether this kernel and architecture have what [`attach`] needs; not whether a given process
/// may be attached to.
///
/// # Errors
/// [`InjectError::Architecture`] or [`InjectError::Kernel`].
pub fn check() -> Result<(), InjectError> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err(InjectError::Architecture);
    }
    Userfaultfd::check(UffdMode::UserOnly).map_err(|source| InjectError::Kernel { source })
}

/// Opens a userfaultfd in another process and takes it.
///
/// # Errors
/// [`InjectError`] says why not, and what to do about it.
pub fn attach(process: &Process) -> Result<Attachment, InjectError> {
    check()?;
    #[cfg(not(target_arch = "x86_64"))]
    let _ = process;
    #[cfg(not(target_arch = "x86_64"))]
    return Err(InjectError::Architecture);
    #[cfg(target_arch = "x86_64")]
    once_it_has_code(|| launch::attach(process))
}

/// Tries again while the process has nothing mapped that it could run.
#[cfg(target_arch = "x86_64")]
fn once_it_has_code<T>(
    mut attach: impl FnMut() -> Result<T, InjectError>,
) -> Result<T, InjectError> {
    for _ in 1..limits::ATTACH_FRESH_TRIES {
        match attach() {
            Err(InjectError::NoGadget { .. }) => std::thread::sleep(limits::ATTACH_FRESH_PAUSE),
            tried => return tried,
        }
    }
    attach()
}
