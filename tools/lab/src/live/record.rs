// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records the guest of a live experiment, wherever it runs.

use std::fs::File;
use std::io::BufWriter;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use precopy::bitmap::{AtomicBitmap, DenseBitmap};
use precopy::dirty::MarkedTracker;
use precopy::guest::GuestControl;
use precopy::memory::{MappedMemory, PageReader};
use precopy::trace::{RecordError, TickFacts, TraceError, TraceHeader};
use precopy::units::Tick;
use webvm::record::{Facts, Recording, RecordingError};
use webvm::site::LiveSite;

use super::{LiveError, LiveOptions, LiveRecording, RecordOptions};

/// A recording that will begin, goes on, or was not asked for.
pub(super) struct Recorder<'a> {
    options: Option<&'a RecordOptions>,
    /// What the guest marks, at either host.
    marks: Option<Arc<AtomicBitmap>>,
    running: Option<Recording>,
    /// The guest where it runs now.
    guest: Arc<Mutex<Option<LiveSite>>>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(options: &'a LiveOptions) -> Self {
        let marks = options.record.as_ref();
        let marks = marks.map(|_| Arc::new(AtomicBitmap::new(options.site.pages)));
        let guest = Arc::default();
        Self { options: options.record.as_ref(), marks, running: None, guest }
    }

    /// What the guest must mark.
    pub(super) fn marks(&self) -> Option<Arc<AtomicBitmap>> {
        self.marks.clone()
    }

    /// Begins, if that is due so long after the start of the steady state.
    pub(super) fn begin_if_due(
        &mut self,
        since_steady: Option<std::time::Duration>,
        site: &LiveSite,
        memory: &MappedMemory,
        what: &str,
    ) -> Result<(), LiveError> {
        let (Some(options), Some(marks)) = (self.options, &self.marks) else { return Ok(()) };
        if self.running.is_some() || since_steady.is_none_or(|since| since < options.begin) {
            return Ok(());
        }
        self.moved(site);
        let mut header = TraceHeader::new(marks.len(), what);
        header.tick = options.tick;
        let mut populated = DenseBitmap::new(marks.len());
        memory.populated(&mut populated)?;
        header.populated = Some(populated.runs().collect());
        let begin = || {
            let file = File::create(&options.path)
                .map_err(|source| RecordError::from(TraceError::Write { offset: 0, source }))?;
            let sink = BufWriter::with_capacity(1 << 18, file);
            let tracker = Box::new(MarkedTracker::new(Arc::clone(marks)));
            Recording::start(tracker, sink, &header, options.writer, facts(&self.guest))
        };
        let begun = begin().map_err(|source| failed(options, source));
        // What failed is not tried again.
        self.options = self.options.filter(|_| begun.is_ok());
        self.running = Some(begun?);
        Ok(())
    }

    /// The guest runs here from now on.
    pub(super) fn moved(&self, site: &LiveSite) {
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = Some(site.clone());
    }

    /// Ends it; `origin` is the start of the run.
    pub(super) fn finish(&mut self, origin: Instant) -> Result<Option<LiveRecording>, LiveError> {
        let (Some(options), Some(running)) = (self.options, self.running.take()) else {
            return Ok(None);
        };
        let recorded = running.finish().map_err(|source| failed(options, source))?;
        let began = Tick::ZERO + recorded.began.saturating_duration_since(origin);
        Ok(Some(LiveRecording { began, recorded }))
    }
}

fn failed(options: &RecordOptions, source: RecordingError) -> LiveError {
    LiveError::Record { path: options.path.clone(), source }
}

/// Requests that the guest has answered and works on, wherever it runs. A guest that has just
/// arrived counts anew.
fn facts(guest: &Arc<Mutex<Option<LiveSite>>>) -> Facts {
    let guest = Arc::clone(guest);
    let mut before = None;
    Box::new(move || {
        let guest = guest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(site) = &*guest else { return TickFacts::default() };
        let answered = site.answered();
        let new = answered.saturating_sub(before.replace(answered).unwrap_or(answered));
        TickFacts {
            requests: Some(u32::try_from(new).unwrap_or(u32::MAX)),
            in_flight: site.requests().map(|load| load.in_flight),
            guest_time: None,
        }
    })
}
