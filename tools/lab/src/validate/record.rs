// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records what a live guest writes, beside whatever tracker the engine uses: the guest marks a
//! bitmap of the recorder's own, which a thread empties every 2 ms.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use precopy::bitmap::{AtomicBitmap, DenseBitmap};
use precopy::memory::{MappedMemory, MemoryError, PageReader};
use precopy::trace::{MemoryTrace, TickSource, TraceHeader, TraceTick};
use precopy::units::{PageIndex, Tick};
use webvm::WriteHook;

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

#[derive(Debug, Default)]
struct State {
    memory: Option<Arc<MappedMemory>>,
    thread: Option<JoinHandle<Vec<TraceTick>>>,
    origin: Option<Instant>,
    migrated: Option<(Duration, DenseBitmap)>,
}

/// A recorder of one guest.
#[derive(Debug)]
pub struct Recorder {
    marked: Arc<AtomicBitmap>,
    quit: Arc<AtomicBool>,
    state: Mutex<State>,
}

impl Recorder {
    /// For a guest of so many pages.
    #[must_use]
    pub fn new(pages: u64) -> Arc<Self> {
        Arc::new(Self {
            marked: Arc::new(AtomicBitmap::new(pages)),
            quit: Arc::new(AtomicBool::new(false)),
            state: Mutex::default(),
        })
    }

    /// What the guest calls for every page that it writes.
    #[must_use]
    pub fn hook(&self) -> WriteHook {
        let marked = Arc::clone(&self.marked);
        Arc::new(move |page| marked.mark(page))
    }

    /// The guest is ready to run in `memory`: from here on its writes are recorded.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn booted(&self, memory: Arc<MappedMemory>) -> io::Result<()> {
        let (marked, quit) = (Arc::clone(&self.marked), Arc::clone(&self.quit));
        let origin = Instant::now();
        let thread = thread::Builder::new()
            .name("lab-recorder".to_owned())
            .spawn(move || record(&marked, &quit, origin))?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State {
            memory: Some(memory),
            thread: Some(thread),
            origin: Some(origin),
            migrated: None,
        };
        Ok(())
    }

    /// The migration begins.
    ///
    /// # Errors
    /// If the guest's memory cannot be read.
    pub fn migrating(&self) -> Result<(), MemoryError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(memory), Some(origin)) = (&state.memory, state.origin) {
            let populated = not_zero(memory)?;
            state.migrated = Some((origin.elapsed(), populated));
        }
        Ok(())
    }

    /// Ends the recording. `None` if the guest was never booted or never migrated.
    #[must_use]
    pub fn finish(&self) -> Option<Recorded> {
        self.quit.store(true, Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ticks = state.thread.take()?.join().ok()?;
        let (migrated_at, populated) = state.migrated.take()?;
        // The guest stands still, or has gone.
        while ticks.last().is_some_and(|tick| tick.runs.is_empty()) {
            ticks.pop();
        }
        let mut header = TraceHeader::new(self.marked.len(), "recorded beside a live migration");
        header.tick = TICK;
        header.populated = Some(populated.runs().collect());
        let trace = MemoryTrace::new(header, ticks);
        Some(Recorded { trace, migrated_at, populated })
    }
}

impl Drop for Recorder {
    /// An experiment that fails leaves no thread behind.
    fn drop(&mut self) {
        self.quit.store(true, Ordering::Relaxed);
    }
}

fn record(marked: &AtomicBitmap, quit: &AtomicBool, origin: Instant) -> Vec<TraceTick> {
    let mut set = DenseBitmap::new(marked.len());
    // What was marked while the guest was filled.
    let _ = marked.harvest_into(&mut set);
    let (mut ticks, mut due) = (Vec::new(), origin + TICK);
    while !quit.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        set.clear_all();
        // Without the barrier a mark may come a tick late, and none is lost.
        let _ = marked.harvest_into(&mut set);
        let end = Instant::now();
        let nanos = u64::try_from(end.duration_since(origin).as_nanos()).unwrap_or(u64::MAX);
        ticks.push(TraceTick::new(Tick::from_nanos(nanos), set.runs().collect()));
        due = (due + TICK).max(end);
    }
    ticks
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
