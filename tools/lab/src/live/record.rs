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
use webvm::record::{Facts, Recorded, Recording, RecordingError};
use webvm::site::LiveSite;

use super::run::chain;
use super::{LiveError, LiveOptions, LiveRecording, RecordOptions};

/// A recording that will begin, goes on, or was not asked for.
pub(super) struct Recorder<'a> {
    options: Option<&'a RecordOptions>,
    /// What the guest marks, at either host.
    marks: Option<Arc<AtomicBitmap>>,
    running: Option<Recording>,
    /// Why there is no recording, if there was to be one.
    failure: Option<String>,
    /// The guest where it runs now.
    guest: Arc<Mutex<Option<LiveSite>>>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(options: &'a LiveOptions) -> Self {
        let marks = options.record.as_ref();
        let marks = marks.map(|_| Arc::new(AtomicBitmap::new(options.site.pages)));
        let guest = Arc::default();
        Self { options: options.record.as_ref(), marks, running: None, failure: None, guest }
    }

    /// What the guest must mark.
    pub(super) fn marks(&self) -> Option<Arc<AtomicBitmap>> {
        self.marks.clone()
    }

    /// Begins, if that is due so long after the start of the steady state; once it has begun,
    /// tells if it has failed.
    pub(super) fn follow(
        &mut self,
        since_steady: Option<std::time::Duration>,
        site: &LiveSite,
        memory: &MappedMemory,
        what: &str,
    ) -> Result<(), LiveError> {
        self.look()?;
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
        match begin() {
            Ok(running) => self.running = Some(running),
            Err(source) => return Err(self.failed(options, source)),
        }
        Ok(())
    }

    /// Fails if the recording has ended by itself.
    fn look(&mut self) -> Result<(), LiveError> {
        if self.running.as_ref().is_some_and(Recording::has_ended) {
            self.end()?;
        }
        Ok(())
    }

    /// Notes why there is no recording. What failed is not tried again.
    fn failed(&mut self, options: &RecordOptions, source: RecordingError) -> LiveError {
        self.options = None;
        let error = LiveError::Record { path: options.path.clone(), source };
        self.failure = Some(chain(&error));
        error
    }

    /// Why there is no recording, if there was to be one.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.clone()
    }

    /// The guest runs here from now on.
    pub(super) fn moved(&self, site: &LiveSite) {
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = Some(site.clone());
    }

    /// Ends it; `origin` is the start of the run.
    pub(super) fn finish(&mut self, origin: Instant) -> Result<Option<LiveRecording>, LiveError> {
        let Some(recorded) = self.end()? else { return Ok(None) };
        let began = Tick::ZERO + recorded.began.saturating_duration_since(origin);
        Ok(Some(LiveRecording { began, recorded }))
    }

    fn end(&mut self) -> Result<Option<Recorded>, LiveError> {
        let (Some(options), Some(running)) = (self.options, self.running.take()) else {
            return Ok(None);
        };
        running.finish().map(Some).map_err(|source| self.failed(options, source))
    }
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

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::time::Duration;

    use precopy::trace::WriterOptions;

    use super::*;

    /// A disk with room for a header only.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            if self.0 > 4096 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(bytes.len()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_recording_that_fails_is_told_while_the_guest_runs() {
        let marks = Arc::new(AtomicBitmap::new(64));
        let options = RecordOptions::new("/nowhere/full.ptrace");
        let mut header = TraceHeader::new(64, "test");
        header.tick = Duration::from_micros(100);
        let writer = WriterOptions { chunk: Duration::from_micros(100), ..Default::default() };
        let tracker = Box::new(MarkedTracker::new(Arc::clone(&marks)));
        let facts = Box::new(TickFacts::default);
        let running = Recording::start(tracker, Full(0), &header, writer, facts).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while !running.has_ended() {
            assert!(Instant::now() < until, "it goes on without a disk");
            std::thread::sleep(Duration::from_millis(1));
        }
        let (failure, guest) = (None, Arc::default());
        let marks = Some(marks);
        let mut recorder =
            Recorder { options: Some(&options), marks, running: Some(running), failure, guest };
        let error = recorder.look().unwrap_err();
        assert!(matches!(error, LiveError::Record { .. }), "{error}");
        let told = recorder.failure().unwrap();
        assert!(told.contains("/nowhere/full.ptrace") && told.contains("could not be"), "{told}");
        // It is told once, and nothing is left to finish.
        recorder.look().unwrap();
        assert!(recorder.finish(Instant::now()).unwrap().is_none());
    }
}
