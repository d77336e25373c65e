// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ctrl-C and SIGTERM.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use precopy::engine::CancelToken;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Exit code after a second Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;

/// Counts requests to stop. The first cancels; a second one exits at once, unless somebody waits
/// for it.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    token: CancelToken,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    requests: u32,
    /// Somebody waits for the next one.
    awaited: bool,
}

impl Stop {
    /// Listens for SIGINT and SIGTERM from now on.
    pub fn install() -> anyhow::Result<Self> {
        let stop = Self::default();
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("Could not listen for Ctrl-C")?;
        let listener = stop.clone();
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for _ in signals.forever() {
                    if listener.request() {
                        signal_hook::low_level::exit(INTERRUPTED);
                    }
                }
            })
            .context("Could not start a thread")?;
        Ok(stop)
    }

    /// The end of standard input is a request, too: whoever started this process is gone.
    pub fn at_end_of_input(&self) -> anyhow::Result<()> {
        let stop = self.clone();
        let watch = move || {
            let mut byte = [0];
            while !matches!(std::io::stdin().read(&mut byte), Ok(0) | Err(_)) {}
            stop.request();
        };
        thread::Builder::new().name("stdin".to_owned()).spawn(watch).context("No thread")?;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request. Returns whether the program is to end at once.
    fn request(&self) -> bool {
        let at_once = {
            let mut state = self.state();
            state.requests += 1;
            // Decided here: whoever was waiting may be off the moment the lock is free.
            state.requests > 2 || (state.requests == 2 && !state.awaited)
        };
        self.inner.changed.notify_all();
        self.inner.token.cancel();
        at_once
    }

    /// Cancelled by the first request.
    pub fn token(&self) -> &CancelToken {
        &self.inner.token
    }

    /// Requests so far.
    pub fn requests(&self) -> u32 {
        self.state().requests
    }

    /// Waits for a time, or for ever, or until there were more than `seen` requests. Returns
    /// whether there were.
    pub fn wait(&self, seen: u32, time: Option<Duration>) -> bool {
        let until = time.and_then(|time| Instant::now().checked_add(time));
        let mut state = self.state();
        state.awaited = true;
        while state.requests <= seen {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                break;
            }
            let left = left.unwrap_or(Duration::from_secs(3600));
            let waited = self.inner.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.awaited = false;
        state.requests > seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_request_ends_the_program_unless_somebody_waits_for_it() {
        let stop = Stop::default();
        assert!(!stop.request(), "the first cancels");
        assert!(stop.token().is_cancelled() && stop.requests() == 1);
        assert!(stop.request(), "nobody waits");

        let stop = Stop::default();
        stop.request();
        let waiter = stop.clone();
        let waits = thread::spawn(move || waiter.wait(1, None));
        while !stop.state().awaited {
            thread::yield_now();
        }
        assert!(!stop.request(), "it is waited for");
        assert!(waits.join().unwrap(), "and heard");
        assert!(stop.request(), "the third ends it in any case");
        assert!(stop.wait(1, None), "what has come is not waited for");
    }
}
