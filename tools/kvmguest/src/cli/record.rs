// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `kvmguest record`: what a KVM guest writes, tick by tick, as KVM's own log or rings tell it.

use std::fs::OpenOptions;
use std::io::{BufWriter, IsTerminal};
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
use webvm::record::{Recorded, Recording};

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
    let recorded = record(args, &guest, sink, &stop);
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

fn record(
    args: &RecordArgs,
    guest: &SharedGuest,
    sink: BufWriter<std::fs::File>,
    stop: &Stop,
) -> anyhow::Result<Recorded> {
    let memory = guest.memory();
    let pages = memory.table().pages();
    let mut header = TraceHeader::new(pages, format!("kvmguest: {}", guest.config()));
    header.tick = args.tick;
    header.notes = guest.tracker_why();
    let mut populated = DenseBitmap::new(pages);
    memory.populated(&mut populated)?;
    header.populated = Some(populated.runs().collect());
    let facts = Box::new(TickFacts::default);
    let tracker = guest.tracker()?;
    let recording = Recording::start(tracker, sink, &header, WriterOptions::default(), facts)?;
    watch(args, &recording, stop);
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
