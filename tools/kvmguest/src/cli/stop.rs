// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ctrl-C, SIGTERM, and the end of whoever started this process.

use std::io::Read;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use crossbeam_channel::{Receiver, unbounded};
use precopy::engine::CancelToken;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Exit code after a second Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;

/// Requests to stop: the first cancels, the second ends the process, and its guest with it.
#[derive(Debug)]
pub(crate) struct Stop {
    token: CancelToken,
    requests: Receiver<()>,
}

impl Stop {
    /// Listens from now on; at the end of standard input, too, if told so.
    pub(crate) fn install(stop_at_eof: bool) -> anyhow::Result<Self> {
        let token = CancelToken::new();
        let (sender, requests) = unbounded();
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("Could not listen for Ctrl-C")?;
        let (cancel, told) = (token.clone(), sender.clone());
        let listen = move || {
            for (count, _) in signals.forever().enumerate() {
                if count > 0 {
                    signal_hook::low_level::exit(INTERRUPTED);
                }
                cancel.cancel();
                // Nobody may be waiting.
                let _ = told.send(());
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(listen).context("No thread")?;
        if stop_at_eof {
            let cancel = token.clone();
            let watch = move || {
                let mut byte = [0];
                while !matches!(std::io::stdin().read(&mut byte), Ok(0) | Err(_)) {}
                cancel.cancel();
                let _ = sender.send(());
            };
            thread::Builder::new().name("stdin".to_owned()).spawn(watch).context("No thread")?;
        }
        Ok(Self { token, requests })
    }

    /// Cancelled by the first request.
    pub(crate) fn token(&self) -> &CancelToken {
        &self.token
    }

    /// Waits for a time, or until there is a request.
    pub(crate) fn wait(&self, time: Duration) {
        if !self.token.is_cancelled() {
            // The time is over, or there is a request: both end the wait.
            let _ = self.requests.recv_timeout(time);
        }
    }
}
