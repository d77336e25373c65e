// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ctrl-C and SIGTERM.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
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
    requests: Mutex<u32>,
    changed: Condvar,
    awaited: AtomicBool,
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
                    let requests = listener.request();
                    let awaited = listener.inner.awaited.load(Ordering::SeqCst);
                    if requests > 2 || (requests == 2 && !awaited) {
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

    fn request(&self) -> u32 {
        let requests = {
            let mut requests = self.inner.requests.lock().unwrap_or_else(PoisonError::into_inner);
            *requests += 1;
            *requests
        };
        self.inner.changed.notify_all();
        self.inner.token.cancel();
        requests
    }

    /// Cancelled by the first request.
    pub fn token(&self) -> &CancelToken {
        &self.inner.token
    }

    /// Requests so far.
    pub fn requests(&self) -> u32 {
        *self.inner.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a time, or for ever, or until there were more than `seen` requests. Returns
    /// whether there were.
    pub fn wait(&self, seen: u32, time: Option<Duration>) -> bool {
        self.inner.awaited.store(true, Ordering::SeqCst);
        let until = time.and_then(|time| Instant::now().checked_add(time));
        let mut requests = self.inner.requests.lock().unwrap_or_else(PoisonError::into_inner);
        while *requests <= seen {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                break;
            }
            let left = left.unwrap_or(Duration::from_secs(3600));
            let waited = self.inner.changed.wait_timeout(requests, left);
            requests = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.inner.awaited.store(false, Ordering::SeqCst);
        *requests > seen
    }
}
