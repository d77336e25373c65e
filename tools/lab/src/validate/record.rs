// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records what a live guest writes, beside whatever tracker the engine uses: the guest marks a
//! bitmap of the recorder's own, which a recording empties every 2 ms.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use precopy::bitmap::{AtomicBitmap, DenseBitmap};
use precopy::dirty::MarkedTracker;
use precopy::memory::{MappedMemory, MemoryError, PageReader};
use precopy::trace::{
    MemoryTrace, RecordError, TickFacts, TickSource, TraceError, TraceHeader, TraceReader,
    TraceTick, WriterOptions,
};
use precopy::units::PageIndex;
use webvm::WriteHook;
use webvm::record::{Recording, RecordingError, also_marking};

/// Length of a tick. A page counts once a tick: whoever harvests again within a tick finds too
/// little in a replay.
const TICK: Duration = Duration::from_millis(2);

/// What was recorded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recorded {
    /// The writes.
    pub trace: MemoryTrace,
    /// Where in the trace the migration began.
    pub migrated_at: Duration,
    /// Pages that held something else than zeros then.
    pub populated: DenseBitmap,
}

impl Recorded {
    /// The same as a recorder with ticks `factor` times as long would have had it.
    #[must_use]
    pub fn coarser(&self, factor: usize) -> Self {
        let mut set = DenseBitmap::new(self.trace.header().pages);
        let join = |ticks: &[TraceTick]| {
            set.clear_all();
            ticks.iter().flat_map(|tick| &tick.runs).for_each(|run| set.set_run(*run));
            let end = ticks.last().map(|tick| tick.end).unwrap_or_default();
            TraceTick::new(end, set.runs().collect())
        };
        let ticks = self.trace.ticks().chunks(factor.max(1)).map(join).collect();
        let mut header = self.trace.header().clone();
        header.tick *= u32::try_from(factor.max(1)).unwrap_or(u32::MAX);
        Self { trace: MemoryTrace::new(header, ticks), ..self.clone() }
    }
}

/// A recording that goes on, and the file that it goes to.
type Running = (Recording, File);

#[derive(Debug, Default)]
struct State {
    memory: Option<Arc<MappedMemory>>,
    running: Option<Running>,
    migrated: Option<(Instant, DenseBitmap)>,
}

/// A recorder of one guest.
#[derive(Debug)]
pub struct Recorder {
    marked: Arc<AtomicBitmap>,
    state: Mutex<State>,
}

impl Recorder {
    /// For a guest of so many pages.
    #[must_use]
    pub fn new(pages: u64) -> Arc<Self> {
        let marked = Arc::new(AtomicBitmap::new(pages));
        Arc::new(Self { marked, state: Mutex::default() })
    }

    /// What the guest calls for every page that it writes.
    #[must_use]
    pub fn hook(&self) -> WriteHook {
        also_marking(Arc::clone(&self.marked), None)
    }

    /// The guest is ready to run in `memory`: from here on its writes are recorded, those that
    /// filled it are not.
    ///
    /// # Errors
    /// If there is no temporary file, or no thread can be started.
    pub fn booted(&self, memory: Arc<MappedMemory>) -> Result<(), RecordingError> {
        let mut header = TraceHeader::new(self.marked.len(), "recorded beside a live migration");
        header.tick = TICK;
        let file = tempfile::tempfile().map_err(unwritable)?;
        let sink = BufWriter::new(file.try_clone().map_err(unwritable)?);
        let tracker = Box::new(MarkedTracker::new(Arc::clone(&self.marked)));
        let (options, facts) = (WriterOptions::default(), Box::new(TickFacts::default));
        let recording = Recording::start(tracker, sink, &header, options, facts)?;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) =
            State { memory: Some(memory), running: Some((recording, file)), migrated: None };
        Ok(())
    }

    /// The migration begins.
    ///
    /// # Errors
    /// If the guest's memory cannot be read.
    pub fn migrating(&self) -> Result<(), MemoryError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(memory) = &state.memory {
            let populated = not_zero(memory)?;
            state.migrated = Some((Instant::now(), populated));
        }
        Ok(())
    }

    /// Ends the recording. `None` if the guest was never booted or never migrated.
    ///
    /// # Errors
    /// If the recording failed.
    pub fn finish(&self) -> Result<Option<Recorded>, RecordingError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((recording, file)) = state.running.take() else { return Ok(None) };
        let began = recording.finish()?.began;
        let Some((migrated, populated)) = state.migrated.take() else { return Ok(None) };
        let mut reader = TraceReader::new(BufReader::new(file)).map_err(RecordError::from)?;
        let whole = MemoryTrace::read(&mut reader).map_err(RecordError::from)?;
        let mut ticks = whole.ticks().to_vec();
        // The guest stands still, or has gone.
        while ticks.last().is_some_and(|tick| tick.runs.is_empty()) {
            ticks.pop();
        }
        let mut header = whole.header().clone();
        header.populated = Some(populated.runs().collect());
        let trace = MemoryTrace::new(header, ticks);
        let migrated_at = migrated.saturating_duration_since(began);
        Ok(Some(Recorded { trace, migrated_at, populated }))
    }
}

fn unwritable(source: io::Error) -> RecordingError {
    RecordError::from(TraceError::Write { offset: 0, source }).into()
}

fn not_zero(memory: &MappedMemory) -> Result<DenseBitmap, MemoryError> {
    let mut populated = DenseBitmap::new(memory.table().pages());
    memory.populated(&mut populated)?;
    let zero = populated
        .runs()
        .flat_map(|run| run.iter().collect::<Vec<PageIndex>>())
        .map(|page| Ok((page, memory.is_zero(page)?)))
        .collect::<Result<Vec<_>, MemoryError>>()?;
    for (page, _) in zero.into_iter().filter(|(_, zero)| *zero) {
        populated.clear(page);
    }
    Ok(populated)
}
