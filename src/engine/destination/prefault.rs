// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Makes announced pages resident ahead of their arrival.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};

use super::intake::Target;
use super::{Shared, ToDestination};
use crate::engine::source::Chain;
use crate::memory::MemoryError;
use crate::session::DestinationInput;
use crate::units::PageRun;

/// Bytes made resident in one go: what stopping has to wait for.
const STEP_BYTES: u64 = 2 << 20;

/// Works until there are no more announcements, or until it is told to stop.
pub(super) fn run(
    target: &Target,
    announced: &Receiver<Vec<PageRun>>,
    shared: &Shared,
    stop: &AtomicBool,
    inbox: &Sender<ToDestination>,
) {
    let stopped = || stop.load(Ordering::Relaxed) || shared.quits();
    let step_pages = (STEP_BYTES >> target.regions.page_size().log2()).max(1);
    for runs in announced {
        for run in runs {
            let mut rest = run;
            while !rest.is_empty() {
                if stopped() {
                    return;
                }
                // Steps lie on their own boundaries, so that whole huge pages can be used.
                let to_boundary = step_pages - rest.start().get() % step_pages;
                let (step, tail) = rest.split_at(to_boundary);
                rest = tail;
                // What has come already is resident: the pages outran this thread.
                if target.received.contains(step.start()) {
                    continue;
                }
                if let Err(error) = target.memory.prefault(step) {
                    let reason = Chain(&error).to_string();
                    if is_want_of_memory(&error) {
                        let failed = DestinationInput::Failed { reason };
                        let _ = inbox.send(ToDestination::Session(failed));
                    } else {
                        tracing::debug!(reason, "Pages are not made resident ahead");
                    }
                    return;
                }
            }
        }
    }
}

/// Memory that is not there now will not be there when the pages come, and then it would kill
/// this process instead.
fn is_want_of_memory(error: &MemoryError) -> bool {
    matches!(error, MemoryError::System { source, .. }
        if source.kind() == io::ErrorKind::OutOfMemory)
}
