// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy trace record`: what a built-in guest writes; `process` records any other process.

use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use command::Stop;
use lab::live::{Link, LiveOptions, RecordOptions};
use precopy::bitmap::DenseBitmap;
use precopy::guest::GuestControl;
use precopy::memory::{MappedMemory, PageReader};
use precopy::trace::{TickFacts, TraceHeader};
use serde::Serialize;
use webvm::SharedVm;
use webvm::record::{Recorded, Recording};

use super::file;
use crate::args::{GuestArgs, RecordArgs, RecordGuest, TrackerName, untouched};
use crate::exit::{Exit, usage};
use crate::plan::{GuestPlan, MEMORY_BYTES};
use crate::spectator::Spectator;
use crate::{progress, show, site, source, system};

/// Time in which the users come in.
const RAMP: Duration = Duration::from_secs(4);
/// Shortest tick and longest recording.
const TICK_MIN: Duration = Duration::from_millis(1);
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked whether to stop.
const LOOK: Duration = Duration::from_millis(100);

/// What the recording cost, as it is printed.
#[derive(Debug, Serialize)]
struct Cost {
    missed_ticks: u64,
    harvest_mean_us: f64,
    harvest_max_us: f64,
    /// Share of one processor that the recorder took.
    recorder_busy_share: f64,
    /// What the guest did a second just before the recording and during it; the site: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    guest_writes_per_s: Option<BeforeAndDuring>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct BeforeAndDuring {
    before: f64,
    during: f64,
}

/// Runs the command.
pub(super) fn run(args: &RecordArgs) -> anyhow::Result<Exit> {
    if args.tick < TICK_MIN || args.time < args.tick || args.time > TIME_MAX {
        return Err(usage("--tick is at least 1ms, --for at least a tick and at most 24h"));
    }
    if let Some(pid) = args.process.pid {
        return super::process::run(args, pid);
    }
    let (recorded, writes) = match args.kind {
        RecordGuest::Web => (web(args)?, None),
        RecordGuest::Counters => {
            let (recorded, writes) = counters(args)?;
            (recorded, Some(writes))
        }
    };
    let cost = Cost {
        missed_ticks: recorded.missed,
        harvest_mean_us: recorded.mean_us,
        harvest_max_us: recorded.max_us,
        recorder_busy_share: recorded.busy_share,
        guest_writes_per_s: writes,
    };
    if !args.file.json {
        tell_cost(&recorded);
        if let Some(BeforeAndDuring { before, during }) = writes {
            println!("The guest wrote {before:.0} times a second before, {during:.0} meanwhile");
        }
    }
    file::say(&args.to, recorded.written, cost, args.file.json)?;
    Ok(Exit::Done)
}

/// Prints what the recording cost.
pub(super) fn tell_cost(recorded: &Recorded) {
    println!(
        "A tick took {:.0} us to harvest and write, the longest {:.0} us: {:.2} % of a \
         processor; {} ticks were missed",
        recorded.mean_us,
        recorded.max_us,
        recorded.busy_share * 100.0,
        recorded.missed
    );
}

/// Refuses options of the guest, if any was typed.
pub(super) fn no_guest_options(args: &RecordArgs) -> anyhow::Result<()> {
    let plain: GuestArgs = untouched()?;
    if plain == args.guest && args.tracker == TrackerName::Marked && args.users.is_none() {
        return Ok(());
    }
    Err(usage(
        "--pid records a process as it is: --users, --tracker and what is under Guest do not go \
         with it",
    ))
}

/// What the options say of the site, checked.
fn options(args: &RecordArgs) -> anyhow::Result<LiveOptions> {
    if args.tracker != TrackerName::Marked {
        return Err(usage("--tracker belongs to `--guest counters`"));
    }
    let memory = args.guest.memory.unwrap_or(MEMORY_BYTES);
    let (site, mut config) = site::plan(&args.guest, memory, args.users)?;
    config.ramp_up_s = RAMP.as_secs_f64();
    config.steady_s = (args.warm_up + args.time).as_secs_f64();
    config.ramp_down_s = 0.0;
    config.check().map_err(usage)?;
    let mut options = LiveOptions::new(site, config, "xen");
    options.migrate_at = Vec::new();
    options.link = Link::Loopback;
    let mut record = RecordOptions::new(&args.to);
    (record.begin, record.tick) = (args.warm_up, args.tick);
    record.writer = args.file.options();
    options.record = Some(record);
    Ok(options)
}

fn web(args: &RecordArgs) -> anyhow::Result<Recorded> {
    let options = options(args)?;
    // The file is made now, so that one that exists is not found a minute later.
    drop(file::create(&args.to, args.file.force)?);
    let stop = Stop::install()?;
    let mut spectator = Spectator::new(args.file.json, options.users.users);
    let run = lab::live::run(&options, stop.token(), &mut |event| spectator.event(event));
    spectator.finish();
    let recorded = run.map_err(Into::into).and_then(|run| {
        run.notes.iter().for_each(|note| tell(note, args.file.json));
        let why = run.recording_failed.as_deref().unwrap_or("it ended before it began");
        let recorded = run.recorded.with_context(|| format!("The recording failed: {why}"))?;
        Ok(recorded.recorded)
    });
    file::discard_if_failed(recorded, &args.to)
}

/// What is to be known beside the recording; not that it is too short for service levels.
fn tell(note: &str, quiet: bool) {
    if !quiet && !note.starts_with("No service levels") {
        eprintln!("Note: {note}");
    }
}

fn counters(args: &RecordArgs) -> anyhow::Result<(Recorded, BeforeAndDuring)> {
    if args.users.is_some() {
        return Err(usage("--users belongs to `--guest web`"));
    }
    let plan = GuestPlan::new(&args.guest, args.guest.memory.unwrap_or(MEMORY_BYTES))?;
    let populated = plan.populated_bytes();
    if let Some(free) = system::available_bytes().filter(|free| *free < populated) {
        let (needs, free) = (show::bytes(populated), show::bytes(free));
        anyhow::bail!("The guest would occupy {needs} and {free} are free: try less --memory");
    }
    let sink = file::create(&args.to, args.file.force)?;
    file::discard_if_failed(record_counters(args, &plan, sink), &args.to)
}

fn record_counters<W: Write + Send + 'static>(
    args: &RecordArgs,
    plan: &GuestPlan,
    sink: BufWriter<W>,
) -> anyhow::Result<(Recorded, BeforeAndDuring)> {
    let memory = Arc::new(MappedMemory::new(plan.table.clone(), plan.map)?);
    let (hook, tracker, _) = source::track(&memory, args.tracker)?;
    let mut vm = SharedVm::new(plan.config.clone(), Arc::clone(&memory) as _, hook)?;
    vm.fill()?;
    let header = header(args, plan, &memory)?;
    let stop = Stop::install()?;
    vm.resume()?;
    let before = pace(&vm, &stop, args.warm_up.max(LOOK), None);
    let facts = Box::new(TickFacts::default);
    let recording = Recording::start(tracker, sink, &header, args.file.options(), facts)?;
    let during = pace(&vm, &stop, args.time, Some((&recording, args.file.json)));
    let recorded = recording.finish()?;
    vm.pause()?;
    Ok((recorded, BeforeAndDuring { before, during }))
}

fn header(
    args: &RecordArgs,
    plan: &GuestPlan,
    memory: &MappedMemory,
) -> anyhow::Result<TraceHeader> {
    let pages = plan.table.pages();
    let mut header = TraceHeader::new(pages, format!("counters: {}", plan.config));
    header.tick = args.tick;
    let mut populated = DenseBitmap::new(pages);
    memory.populated(&mut populated)?;
    header.populated = Some(populated.runs().collect());
    Ok(header)
}

/// Lets the guest run for a time, or until Ctrl-C, or until its recording ends. Returns its
/// writes per second.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn pace(vm: &SharedVm, stop: &Stop, time: Duration, shown: Option<(&Recording, bool)>) -> f64 {
    let (began, ops) = (Instant::now(), vm.ops());
    watch(stop, time, shown);
    (vm.ops() - ops) as f64 / began.elapsed().as_secs_f64().max(1e-9)
}

/// Waits for a time, or until Ctrl-C, or until the recording ends. Shows how far it is, unless
/// told to be quiet.
pub(super) fn watch(stop: &Stop, time: Duration, shown: Option<(&Recording, bool)>) {
    let began = Instant::now();
    let bar = shown.filter(|(_, quiet)| !quiet);
    let bar = bar.and_then(|_| {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        progress::bar(millis, "recording [{bar:30}] {percent} %")
    });
    loop {
        let left = time.saturating_sub(began.elapsed());
        let ended = shown.is_some_and(|(recording, _)| recording.has_ended());
        if left.is_zero() || ended || stop.wait(0, Some(left.min(LOOK))) {
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
