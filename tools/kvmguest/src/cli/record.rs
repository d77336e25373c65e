// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `kvmguest record`: what a KVM guest writes, tick by tick, as KVM's own log or rings tell it.

use std::fs::OpenOptions;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use command::{Exit, Stop};
use indicatif::ProgressBar;
use kvmguest::SharedGuest;
use precopy::bitmap::DenseBitmap;
use precopy::guest::GuestControl;
use precopy::memory::PageReader;
use precopy::trace::{TickFacts, TraceHeader, WriterOptions};
use webvm::record::{Facts, Recorded, Recording};

use super::args::RecordArgs;
use super::host;
use super::lines::{Line, say};

/// How often it is looked whether to end.
const LOOK: Duration = Duration::from_millis(100);

/// Runs the command.
pub(crate) fn run(args: &RecordArgs) -> anyhow::Result<Exit> {
    anyhow::ensure!(args.run.run_for >= args.tick, "--run-for is shorter than a tick");
    // The guest first: where none can run, a file that is to be replaced stays what it was.
    let (guest, stop) = host::begin(&args.guest, args.tracker, args.run.json)?;
    let sink = create(&args.to, args.force)?;
    let recorded = record(&guest, args.tick, sink, Box::new(TickFacts::default), |recording| {
        watch(args, recording, &stop);
    });
    let file = args.to.display().to_string();
    let recorded = recorded.inspect_err(|_| discard_empty(&args.to)).with_context(|| {
        format!("Nothing whole was recorded; if {file} is there, `precopy trace salvage` may help")
    })?;
    host::check(&guest, &args.run)?;
    let (ticks, page_events) = (recorded.written.ticks, recorded.written.page_events);
    let (bytes, missed, mean_us) = (recorded.written.bytes, recorded.missed, recorded.mean_us);
    let line = Line::Recorded { file, ticks, page_events, bytes, missed, mean_us };
    Ok(Exit::Done.and_written(say(&line, args.run.json)))
}

fn create(path: &Path, force: bool) -> anyhow::Result<BufWriter<std::fs::File>> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).create_new(!force);
    let file = options.open(path).with_context(|| {
        let advice = if force { "" } else { "; --force replaces a file that is there" };
        format!("Could not create {}{advice}", path.display())
    })?;
    Ok(BufWriter::with_capacity(1 << 18, file))
}

/// Takes away what a recording that never began has left.
fn discard_empty(path: &Path) {
    if std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == 0) {
        // It may be gone already; the error that is reported is the other one.
        let _ = std::fs::remove_file(path);
    }
}

/// Records a guest that runs until `wait` returns, and stops it.
fn record(
    guest: &SharedGuest,
    tick: Duration,
    sink: impl Write + Send + 'static,
    facts: Facts,
    wait: impl FnOnce(&Recording),
) -> anyhow::Result<Recorded> {
    let memory = guest.memory();
    let pages = memory.table().pages();
    let mut header = TraceHeader::new(pages, format!("kvmguest: {}", guest.config()));
    header.tick = tick;
    header.notes = guest.tracker_why();
    let mut populated = DenseBitmap::new(pages);
    memory.populated(&mut populated)?;
    header.populated = Some(populated.runs().collect());
    let tracker = guest.tracker()?;
    let recording = Recording::start(tracker, sink, &header, WriterOptions::default(), facts)?;
    wait(&recording);
    let recorded = recording.finish()?;
    // No tick is open any more: it may stop.
    guest.clone().pause()?;
    Ok(recorded)
}

/// Waits for the recording's time, or until Ctrl-C, or until it ends by itself.
fn watch(args: &RecordArgs, recording: &Recording, stop: &Stop) {
    let (began, time) = (Instant::now(), args.run.run_for);
    let bar = (!args.run.json && std::io::stderr().is_terminal())
        .then(|| ProgressBar::new(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)));
    loop {
        let left = time.saturating_sub(began.elapsed());
        if left.is_zero() || recording.has_ended() || stop.wait(0, Some(left.min(LOOK))) {
            break;
        }
        if let Some(bar) = &bar {
            bar.set_position(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::{BufReader, Seek};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use kvmguest::{GuestConfig, Tracking};
    use precopy::trace::{TickSource, TraceReader, TraceTick};
    use precopy::units::{PageIndex, PageRun};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(120);
    /// A quarter of its steps write the pages of the ring, one after the other.
    const STEPS: u64 = 1024;

    /// Every page that is written while it records is in the trace, however the guest and the
    /// recorder take turns.
    #[test]
    fn what_the_guest_writes_is_in_the_trace() {
        for tracking in [Tracking::Log, Tracking::LogAtHarvest, Tracking::Ring] {
            let mut guest = match SharedGuest::start(GuestConfig::new(1, 1024), tracking) {
                Ok(guest) => guest,
                Err(why) => return precopy::skipped(format_args!("no guest is recorded: {why}")),
            };
            guest.resume().unwrap();
            let asked = Arc::new(AtomicU64::new(0));
            let count = Arc::clone(&asked);
            let facts = Box::new(move || {
                count.fetch_add(1, Relaxed);
                TickFacts::default()
            });
            let wait = |_: &Recording| {
                let (from, until) = (guest.progress(), Instant::now() + PATIENCE);
                while asked.load(Relaxed) < 3 || guest.progress() < from + STEPS {
                    assert!(Instant::now() < until, "guest or recorder stand still");
                    std::thread::sleep(Duration::from_millis(1));
                }
            };
            let mut file = tempfile::tempfile().unwrap();
            let sink = file.try_clone().unwrap();
            let tick = Duration::from_millis(20);
            let recorded = record(&guest, tick, sink, facts, wait).unwrap();
            assert!(guest.audit().unwrap().is_clean() && !guest.is_running());

            file.rewind().unwrap();
            let mut trace = TraceReader::new(BufReader::new(file)).unwrap();
            let (mut tick, mut ticks, mut written) = (TraceTick::default(), 0, BTreeSet::new());
            while trace.next_tick(&mut tick).unwrap() {
                ticks += 1;
                written.extend(tick.runs.iter().copied().flat_map(PageRun::iter));
            }
            assert_eq!((ticks, ticks), (recorded.written.ticks, asked.load(Relaxed)));
            assert!(ticks >= 3 && trace.header().notes.contains("KVM"), "{ticks} ticks");
            let pages = trace.header().pages;
            assert!(written.iter().all(|page| *page < PageIndex::new(pages)));
            assert!(written.len() > 100, "{tracking:?}: {} pages", written.len());
        }
    }
}
