// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a dirty tracker to a trace. Whoever drives it hands in the time.

use std::io::Write;
use std::time::Duration;

use crate::bitmap::DenseBitmap;
use crate::dirty::{DirtyError, DirtyTracker, Harvest};
use crate::units::Tick;

use super::{TraceError, TraceHeader, TraceTick, TraceWriter, WriterOptions, Written};

/// What is known of a tick beside its pages; [`TraceTick`] says what the fields mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "plain values, all with defaults")]
pub struct TickFacts {
    /// Requests answered.
    pub requests: Option<u32>,
    /// Requests that are being worked on.
    pub in_flight: Option<u32>,
    /// Time for which the guest ran.
    pub guest_time: Option<Duration>,
}

/// A recording failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The tracker.
    #[error("The guest's writes could not be harvested")]
    Tracker(#[from] DirtyError),
    /// The trace.
    #[error("The trace could not be written")]
    Trace(#[from] TraceError),
    /// Tracker and trace are of different guests.
    #[error("The tracker covers {tracker} pages, the trace {trace}")]
    Pages {
        /// Pages of the tracker.
        tracker: u64,
        /// Pages of the trace.
        trace: u64,
    },
}

/// Harvests a tracker into a trace.
///
/// The tracker belongs to the recording: a migration that runs beside it needs one of its own.
#[derive(Debug)]
pub struct TraceRecorder<W> {
    writer: TraceWriter<W>,
    set: DenseBitmap,
    tick: TraceTick,
}

impl<W: Write> TraceRecorder<W> {
    /// Arms `tracker` and begins a trace; its time 0 is when this returns.
    ///
    /// # Errors
    /// [`RecordError`] if the tracker cannot be armed or the header not be written.
    pub fn begin(
        tracker: &mut dyn DirtyTracker,
        sink: W,
        header: &TraceHeader,
        options: WriterOptions,
    ) -> Result<Self, RecordError> {
        if tracker.pages() != header.pages {
            let (tracker, trace) = (tracker.pages(), header.pages);
            return Err(RecordError::Pages { tracker, trace });
        }
        let writer = TraceWriter::new(sink, header, options)?;
        let set = DenseBitmap::new(header.pages);
        tracker.arm()?;
        Ok(Self { writer, set, tick: TraceTick::default() })
    }

    /// Ends a tick at `now`, the time since the trace began: what the guest has written since the
    /// tick before becomes its pages.
    ///
    /// # Errors
    /// [`RecordError`]; after one of the tracker the recording must end, for ticks may be missing.
    pub fn tick(
        &mut self,
        tracker: &mut dyn DirtyTracker,
        now: Tick,
        facts: TickFacts,
    ) -> Result<Harvest, RecordError> {
        let harvest = tracker.harvest(&mut self.set)?;
        self.tick.clear();
        self.tick.end = now;
        self.tick.runs.extend(self.set.runs());
        if tracker.needs_rearm() {
            for run in &self.tick.runs {
                tracker.rearm(*run)?;
            }
        }
        let TickFacts { requests, in_flight, guest_time } = facts;
        (self.tick.requests, self.tick.in_flight) = (requests, in_flight);
        self.tick.guest_time = guest_time;
        // A tick that could not be written leaves its pages to the next one.
        self.writer.push(&self.tick)?;
        self.set.clear_all();
        Ok(harvest)
    }

    /// What has been recorded so far.
    pub fn written(&self) -> Written {
        self.writer.written()
    }

    /// Ends the trace; gives the sink back. The tracker may be disarmed then.
    ///
    /// # Errors
    /// [`RecordError::Trace`].
    pub fn finish(self) -> Result<(W, Written), RecordError> {
        Ok(self.writer.finish()?)
    }
}
