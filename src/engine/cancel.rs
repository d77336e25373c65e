// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cancelling from another thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Waker = Box<dyn Fn() + Send>;

/// Asks a migration to stop. Clones share one state; once cancelled, always cancelled.
///
/// [`cancel`](Self::cancel) takes a lock, so call it from a thread, not from a signal handler: a
/// program that listens for Ctrl-C does so in a thread of its own.
#[derive(Clone, Default)]
pub struct CancelToken {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    cancelled: AtomicBool,
    wakers: Mutex<Wakers>,
}

#[derive(Default)]
struct Wakers {
    next: u64,
    list: Vec<(u64, Waker)>,
}

impl CancelToken {
    /// A token that nobody has cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks whoever holds a clone to stop, and wakes them.
    pub fn cancel(&self) {
        self.inner.cancelled.store(true, Ordering::SeqCst);
        for (_, wake) in &self.wakers().list {
            wake();
        }
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancelled.load(Ordering::SeqCst)
    }

    /// Calls `wake` at each cancel for as long as the guard lives; at once, if that has happened.
    pub(super) fn on_cancel(&self, wake: impl Fn() + Send + 'static) -> CancelGuard<'_> {
        let mut wakers = self.wakers();
        let key = wakers.next;
        wakers.next += 1;
        if self.is_cancelled() {
            wake();
        }
        wakers.list.push((key, Box::new(wake)));
        CancelGuard { token: self, key }
    }

    fn wakers(&self) -> MutexGuard<'_, Wakers> {
        self.inner.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish()
    }
}

pub(super) struct CancelGuard<'a> {
    token: &'a CancelToken,
    key: u64,
}

impl Drop for CancelGuard<'_> {
    fn drop(&mut self) {
        self.token.wakers().list.retain(|(key, _)| *key != self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn wakes_whoever_listens_and_nobody_else() {
        let (token, woken) = (CancelToken::new(), Arc::new(AtomicU32::new(0)));
        let count = |woken: &Arc<AtomicU32>| {
            let woken = Arc::clone(woken);
            move || {
                woken.fetch_add(1, Ordering::SeqCst);
            }
        };
        drop(token.on_cancel(count(&woken)));
        let guard = token.on_cancel(count(&woken));
        token.clone().cancel();
        assert!(token.is_cancelled());
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        drop(guard);
        let _late = token.on_cancel(count(&woken));
        assert_eq!(woken.load(Ordering::SeqCst), 2, "a late listener is told at once");
    }
}
