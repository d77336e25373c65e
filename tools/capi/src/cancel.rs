// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cancelling from any thread and from a signal handler: the handler rings an eventfd, and a
//! thread that lives as long as the migration passes it on to the library, whose own token takes
//! a lock.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use precopy::engine::CancelToken;

use crate::failure::Failure;

/// Longest time between two looks, should a ring get lost.
const IDLE_MS: u16 = 1000;

/// What a C program cancels by. Once cancelled, always cancelled.
#[derive(Debug)]
pub(crate) struct Cancel {
    asked: AtomicBool,
    bell: EventFd,
}

impl Cancel {
    pub(crate) fn new() -> Result<Self, Failure> {
        Ok(Self { asked: AtomicBool::new(false), bell: bell()? })
    }

    /// Async-signal-safe: an atomic store and write(2), and errno stays as it is.
    pub(crate) fn cancel(&self) {
        let errno = Errno::last_raw();
        self.asked.store(true, Ordering::SeqCst);
        // It fails only if it rang often enough before.
        let _ = self.bell.write(1);
        Errno::set_raw(errno);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}

fn bell() -> Result<EventFd, Failure> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    EventFd::from_value_and_flags(0, flags)
        .map_err(|error| Failure::system("open an eventfd", &error))
}

/// Rings when it is dropped, so that the watching thread ends also after a panic.
struct Done<'a>(&'a EventFd);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        // A fresh eventfd takes one write.
        let _ = self.0.write(1);
    }
}

/// Runs a migration on this thread with a token that follows `cancel`.
pub(crate) fn watched<T>(
    cancel: Option<&Cancel>,
    run: impl FnOnce(&CancelToken) -> T,
) -> Result<T, Failure> {
    let token = CancelToken::new();
    let Some(cancel) = cancel else { return Ok(run(&token)) };
    let over = bell()?;
    thread::scope(|scope| {
        let watch = || watch(cancel, &over, &token);
        thread::Builder::new()
            .name("precopy-cancel".to_owned())
            .spawn_scoped(scope, watch)
            .map_err(|error| Failure::system("start a thread", &error))?;
        let _done = Done(&over);
        Ok(run(&token))
    })
}

/// Waits until it is cancelled or over.
fn watch(cancel: &Cancel, over: &EventFd, token: &CancelToken) {
    loop {
        if cancel.is_cancelled() {
            return token.cancel();
        }
        let mut bells = [
            PollFd::new(cancel.bell.as_fd(), PollFlags::POLLIN),
            PollFd::new(over.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut bells, PollTimeout::from(IDLE_MS)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "Cannot be cancelled any more");
                return;
            }
        }
        if bells[1].any().unwrap_or(false) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_reaches_the_migration_before_and_while_it_runs() {
        let cancel = Cancel::new().unwrap();
        let seen = watched(Some(&cancel), |token| {
            assert!(!token.is_cancelled());
            cancel.cancel();
            let mut looks = 0;
            while !token.is_cancelled() && looks < 10_000 {
                looks += 1;
                thread::sleep(std::time::Duration::from_millis(1));
            }
            token.is_cancelled()
        });
        assert!(seen.unwrap());
        // The watching thread has seen it by the time it is over, or the next one does.
        assert!(cancel.is_cancelled());
        assert!(!watched(None, CancelToken::is_cancelled).unwrap());
    }

    #[test]
    fn errno_survives() {
        let cancel = Cancel::new().unwrap();
        Errno::set_raw(17);
        for _ in 0..3 {
            cancel.cancel();
        }
        assert_eq!(Errno::last_raw(), 17);
    }

    #[test]
    fn a_panic_ends_the_watching_thread() {
        let cancel = Cancel::new().unwrap();
        let run = || watched(Some(&cancel), |_| panic!("on purpose")).map(|(): ()| ());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        assert!(panicked.is_err(), "and did not wait for ever");
    }
}
