// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Makes announced pages resident ahead of their arrival.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::intake::Target;
use super::{Shared, ToDestination};
use crate::engine::source::Chain;
use crate::memory::MemoryError;
use crate::session::DestinationInput;
use crate::units::PageRun;

/// Bytes made resident in one go: what stopping has to wait for.
const STEP_BYTES: u64 = 2 << 20;

/// How far this thread may be ahead before a page with contents has come, in bytes. Announced
/// pages may all be zeros, which need no memory here: after this, it goes by what comes.
const HEAD_START_BYTES: u64 = 64 << 20;
/// How long to wait for more pages to come before looking again.
const PAUSE: Duration = Duration::from_millis(1);

/// Works until there are no more announcements, or until it is told to stop.
pub(super) fn run(
    target: &Target,
    announced: &Receiver<Vec<PageRun>>,
    shared: &Shared,
    stop: &AtomicBool,
    inbox: &Sender<ToDestination>,
) {
    let stopped = || stop.load(Ordering::Relaxed) || shared.quits();
    let page_shift = target.regions.page_size().log2();
    let step_pages = (STEP_BYTES >> page_shift).max(1);
    let mut made = 0;
    let too_far = |made: u64| {
        let came = shared.contents.load(Ordering::Relaxed) << page_shift;
        made > HEAD_START_BYTES + 2 * came
    };
    for runs in announced {
        for run in runs {
            let mut rest = run;
            while !rest.is_empty() {
                while too_far(made) && !stopped() {
                    thread::sleep(PAUSE);
                }
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
                made += step.pages() << page_shift;
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
