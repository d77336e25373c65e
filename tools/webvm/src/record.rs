// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records what a running guest writes, in a thread of its own.
//!
//! A guest may be tracked twice: by the tracker of a migration, and by a bitmap that its write
//! hook marks ([`also_marking`]), so that a recording and a migration see the same writes.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use precopy::bitmap::AtomicBitmap;
use precopy::dirty::{DirtyError, DirtyTracker};
use precopy::trace::{RecordError, TickFacts, TraceHeader, TraceRecorder, WriterOptions, Written};
use precopy::units::Tick;
use serde::Serialize;

use crate::WriteHook;

/// A hook that marks `bitmap`, too.
#[must_use]
pub fn also_marking(bitmap: Arc<AtomicBitmap>, hook: Option<WriteHook>) -> WriteHook {
    match hook {
        None => Arc::new(move |page| bitmap.mark(page)),
        Some(hook) => Arc::new(move |page| {
            hook(page);
            bitmap.mark(page);
        }),
    }
}

/// A recording failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// Tracker or trace.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// No thread.
    #[error("The recorder's thread cannot be started")]
    Thread {
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The thread panicked.
    #[error("The recorder panicked; this is a bug")]
    Panicked,
}

/// What a recording costs and did.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Recorded {
    /// What was written.
    pub written: Written,
    /// Ticks that have no line of their own, because the one before took too long or the host
    /// had no time; the next tick covers them.
    pub missed: u64,
    /// Mean time to harvest and write a tick, in microseconds.
    pub mean_us: f64,
    /// The longest one.
    pub max_us: f64,
    /// Share of the recording in which its thread worked.
    pub busy_share: f64,
    /// Whether the tracked process ended, and the recording with it.
    #[serde(skip)]
    pub target_ended: bool,
    /// When it began, by the system's monotonic clock.
    #[serde(skip)]
    pub began: Instant,
}

/// A recording that goes on. Dropping it ends it, and the file can only be salvaged.
pub struct Recording {
    stop: Sender<()>,
    thread: JoinHandle<Result<Recorded, RecordingError>>,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").finish_non_exhaustive()
    }
}

/// Asked once a tick for what is known beside the pages.
pub type Facts = Box<dyn FnMut() -> TickFacts + Send>;

impl Recording {
    /// Arms the tracker, and records a tick whenever the header's intended one has passed, until
    /// [`finish`](Self::finish), or until a tick fails.
    ///
    /// # Errors
    /// [`RecordingError`] if the tracker cannot be armed, the header not be written, or no thread
    /// be started.
    pub fn start<W: Write + Send + 'static>(
        mut tracker: Box<dyn DirtyTracker>,
        sink: W,
        header: &TraceHeader,
        options: WriterOptions,
        facts: Facts,
    ) -> Result<Self, RecordingError> {
        let recorder = TraceRecorder::begin(&mut *tracker, sink, header, options)?;
        let (began, tick) = (Instant::now(), header.tick);
        let (stop, stopped) = mpsc::channel::<()>();
        let work = move || {
            let wait = |time| !matches!(stopped.recv_timeout(time), Err(RecvTimeoutError::Timeout));
            record(recorder, &mut *tracker, tick, began, facts, wait)
        };
        let thread = thread::Builder::new().name("recorder".to_owned()).spawn(work);
        let thread = thread.map_err(|source| RecordingError::Thread { source })?;
        Ok(Self { stop, thread })
    }

    /// Whether it has ended by itself, which means that it failed.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Records a last tick and ends the trace.
    ///
    /// # Errors
    /// [`RecordingError`] of any tick or of the end.
    pub fn finish(self) -> Result<Recorded, RecordingError> {
        // A thread that has ended listens no more.
        self.stop.send(()).ok();
        self.thread.join().unwrap_or(Err(RecordingError::Panicked))
    }
}

fn record<W: Write>(
    mut recorder: TraceRecorder<W>,
    tracker: &mut dyn DirtyTracker,
    tick: Duration,
    began: Instant,
    mut facts: Facts,
    wait: impl Fn(Duration) -> bool,
) -> Result<Recorded, RecordingError> {
    let (mut due, mut missed) = (tick, 0);
    let (mut busy, mut longest) = (Duration::ZERO, Duration::ZERO);
    let mut target_ended = false;
    loop {
        let stopped = wait(due.saturating_sub(began.elapsed()));
        let now = began.elapsed();
        match recorder.tick(tracker, Tick::ZERO + now, facts()) {
            // What it wrote in its last tick nobody knows; the ticks before are whole.
            Err(RecordError::Tracker(DirtyError::Gone { .. })) => {
                target_ended = true;
                break;
            }
            ticked => ticked?,
        };
        let took = began.elapsed().saturating_sub(now);
        (busy, longest) = (busy + took, longest.max(took));
        if stopped {
            break;
        }
        due += tick;
        // Slots that are over already get no tick: two at once would say nothing.
        while due <= began.elapsed() {
            due += tick;
            missed += 1;
        }
    }
    let all = began.elapsed();
    tracker.disarm().map_err(RecordError::from)?;
    let (_, written) = recorder.finish()?;
    Ok(Recorded {
        written,
        missed,
        mean_us: busy.as_secs_f64() * 1e6 / written.ticks.max(1) as f64,
        max_us: longest.as_secs_f64() * 1e6,
        busy_share: busy.as_secs_f64() / all.as_secs_f64().max(1e-9),
        target_ended,
        began,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::Mutex;

    use precopy::dirty::MarkedTracker;
    use precopy::trace::{TickSource, TraceReader, TraceTick};
    use precopy::units::{PageIndex, PageRun};

    use super::*;

    /// A sink whose bytes can be had.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_written_while_it_records_is_in_the_trace_and_in_the_first_hook() {
        let (ours, theirs) = (Arc::new(AtomicBitmap::new(64)), Arc::new(AtomicBitmap::new(64)));
        let marked = Arc::clone(&theirs);
        let first: WriteHook = Arc::new(move |page| marked.mark(page));
        let hook = also_marking(Arc::clone(&ours), Some(first));
        let sink = Kept::default();
        let mut header = TraceHeader::new(64, "test");
        header.tick = Duration::from_millis(1);
        let mut asked = 0;
        let facts = Box::new(move || {
            asked += 1;
            TickFacts { requests: Some(asked), ..TickFacts::default() }
        });
        let tracker = Box::new(MarkedTracker::new(ours));
        let options = WriterOptions::default();
        let recording = Recording::start(tracker, sink.clone(), &header, options, facts).unwrap();
        hook(PageIndex::new(3));
        hook(PageIndex::new(9));
        assert!(!recording.has_ended());
        let recorded = recording.finish().unwrap();
        assert_eq!(recorded.written.page_events, 2);
        assert!(recorded.mean_us <= recorded.max_us && recorded.busy_share <= 1.0);
        let bytes = sink.0.lock().unwrap().clone();
        let mut reader = TraceReader::new(Cursor::new(bytes)).unwrap();
        let (mut tick, mut runs, mut ticks) = (TraceTick::default(), Vec::new(), 0);
        while reader.next_tick(&mut tick).unwrap() {
            ticks += 1;
            assert_eq!(tick.requests, Some(ticks));
            runs.extend(tick.runs.iter().copied());
        }
        runs.sort_unstable();
        assert_eq!(runs, [3, 9].map(|page| PageRun::new(PageIndex::new(page), 1)));
        let mut set = precopy::bitmap::DenseBitmap::new(64);
        theirs.harvest_into(&mut set).unwrap();
        assert_eq!(set.count(), 2);
    }
}
