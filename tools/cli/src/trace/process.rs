// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy trace record --pid`: what a process that runs already writes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use command::Stop;
use precopy::bitmap::DenseBitmap;
use precopy::dirty::{DirtyTracker, PagemapTracker, ProcessTracker};
use precopy::limits;
use precopy::memory::{MapOptions, MappedMemory, PageReader, ProcessMemory};
use precopy::region::RegionTable;
use precopy::sys::inject::{self, Attachment};
use precopy::sys::{Backing, Process, ProcessMap, ProcessMapError, ProcessMapping, UffdMode};
use precopy::trace::{TickFacts, TraceHeader};
use precopy::units::{GuestAddress, PageIndex, PageSize, Tick};
use serde::Serialize;
use webvm::record::{Recorded, Recording};

use super::{file, record};
use crate::args::{ProcessArgs, RecordArgs};
use crate::exit::{Exit, usage};
use crate::show;

const PAGE: usize = 4096;
/// How often the mappings are looked at again because some have gone meanwhile.
const LOOKS: u32 = 5;
/// Mappings that are printed and noted in the trace, the largest ones.
const SHOWN: usize = 200;
/// More runs of populated pages than this are not written to the trace's header.
const POPULATED_RUNS_MAX: usize = 100_000;
/// How often it is tried what a first write costs, and with how many pages.
const TRIALS: u64 = 64;
const TRIAL_PAGES: u64 = 64;
/// How often two clocks are read together.
const CLOCK_TRIES: u32 = 16;

/// One mapping, or a part of one, that is recorded.
#[derive(Clone, Debug, Serialize)]
struct Part {
    /// Its addresses, as in `/proc/PID/maps`.
    addresses: String,
    bytes: usize,
    what: String,
    /// Its first page in the trace.
    first_page: u64,
    #[serde(skip)]
    range: Range<usize>,
}

/// What is printed beside the trace.
#[derive(Debug, Serialize)]
struct Said {
    pid: u32,
    name: String,
    /// Whether the process ended, and the recording with it.
    process_ended: bool,
    /// When the trace's time 0 was, by the system's clock.
    began_unix_ns: u64,
    pages: u64,
    mappings: Vec<Part>,
    mappings_not_trackable: usize,
    /// Writable mappings that were there at the end and not at the beginning, and the other way
    /// round.
    mappings_appeared: usize,
    mappings_vanished: usize,
    /// How often one was found to have changed; its pages then count as written.
    mappings_changed: u64,
    /// How long one thread of the process was stopped at most.
    attach_pause_us: f64,
    missed_ticks: u64,
    harvest_mean_us: f64,
    harvest_max_us: f64,
    /// Share of one processor that the recorder took.
    recorder_busy_share: f64,
    /// What a first write costs more, as measured here on other memory.
    first_write_ns: Option<f64>,
    /// Share of one processor that the process lost by its first writes, estimated.
    process_cost_share: Option<f64>,
}

/// Runs the command.
pub(super) fn run(args: &RecordArgs, pid: u32) -> anyhow::Result<Exit> {
    record::no_guest_options(args)?;
    let sink = file::create(&args.to, args.file.force)?;
    let result = attach_and_record(args, pid, sink);
    let (recorded, said) = file::discard_if_failed(result, &args.to)?;
    if !args.file.json {
        tell(&recorded, &said);
    }
    file::say(&args.to, recorded.written, said, args.file.json)?;
    Ok(Exit::Done)
}

fn attach_and_record(
    args: &RecordArgs,
    pid: u32,
    sink: BufWriter<File>,
) -> anyhow::Result<(Recorded, Said)> {
    let process = Arc::new(Process::open(pid).with_context(|| format!("--pid {pid}"))?);
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = name.trim_end().to_owned();
    let first_write_ns = first_write_ns();
    let attachment = inject::attach(&process)?;
    let attach_pause_us = attachment.pause().as_secs_f64() * 1e6;
    let (map, parts, not_trackable) = choose(&process, &attachment, &args.process)?;
    let before = writable(&process)?;
    if !args.file.json {
        announce(&name, pid, &parts);
    }
    let tracker = ProcessTracker::with_attachment(Arc::clone(&map), attachment)?.follow(true);
    let changes = tracker.changes();
    let header = header(args, &name, &map, &parts)?;
    let stop = Stop::install()?;
    let facts = Box::new(TickFacts::default);
    let tracker = Box::new(tracker);
    let recording = Recording::start(tracker, sink, &header, args.file.options(), facts)?;
    record::watch(&stop, args.time, Some((&recording, args.file.json)));
    let recorded = recording.finish()?;
    // Of a process that has ended there is nothing to compare.
    let after = writable(&process).unwrap_or_else(|_| before.clone());
    let seconds = recorded.written.end.since(Tick::ZERO).as_secs_f64().max(1e-9);
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let cost = |ns: f64| recorded.written.page_events as f64 * ns * 1e-9 / seconds;
    let said = Said {
        pid,
        name,
        process_ended: recorded.target_ended,
        began_unix_ns: unix_ns(recorded.began),
        pages: map.table().pages(),
        mappings: parts,
        mappings_not_trackable: not_trackable,
        mappings_appeared: after.difference(&before).count(),
        mappings_vanished: before.difference(&after).count(),
        mappings_changed: changes.load(Relaxed),
        attach_pause_us,
        missed_ticks: recorded.missed,
        harvest_mean_us: recorded.mean_us,
        harvest_max_us: recorded.max_us,
        recorder_busy_share: recorded.busy_share,
        first_write_ns,
        process_cost_share: first_write_ns.map(cost),
    };
    Ok((recorded, said))
}

/// Picks what is recorded, tries that it can be, and finds it in the process.
fn choose(
    process: &Arc<Process>,
    attachment: &Attachment,
    args: &ProcessArgs,
) -> anyhow::Result<(Arc<ProcessMap>, Vec<Part>, usize)> {
    let mut looks = 0;
    loop {
        looks += 1;
        let mut parts = pick(&process.mappings()?, args);
        let picked = parts.len();
        parts.retain(|part| {
            let uffd = attachment.uffd();
            uffd.register(&part.range).and_then(|()| uffd.unregister(&part.range)).is_ok()
        });
        if parts.is_empty() {
            return Err(nothing(process, picked, args));
        }
        let mut page = 0;
        for part in &mut parts {
            part.first_page = page;
            page += (part.bytes / PAGE) as u64;
        }
        let places: Vec<_> = parts
            .iter()
            .map(|part| (GuestAddress::new(part.range.start as u64), part.range.clone()))
            .collect();
        match ProcessMap::new(Arc::clone(process), PageSize::BASE, &places) {
            Ok(map) => return Ok((Arc::new(map), parts, picked - places.len())),
            Err(ProcessMapError::NotMapped { .. }) if looks < LOOKS => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Why nothing is left to record.
fn nothing(process: &Process, picked: usize, args: &ProcessArgs) -> anyhow::Error {
    let pid = process.pid();
    if picked > 0 {
        anyhow::anyhow!(
            "None of the {picked} mappings of process {pid} can be tracked; another program may \
             track them already"
        )
    } else if args.ranges.is_empty() {
        usage(format!(
            "Process {pid} has no writable memory mapping of {} or more: try a smaller --above, \
             or --all",
            show::bytes(args.above)
        ))
    } else {
        usage(format!(
            "Process {pid} has nothing writable in --range; /proc/{pid}/maps shows what it has"
        ))
    }
}

/// The parts of mappings that the options ask for, ascending; the largest if there are too many.
fn pick(mappings: &[ProcessMapping], args: &ProcessArgs) -> Vec<Part> {
    let whole = 0..usize::MAX;
    let ranges = if args.ranges.is_empty() { std::slice::from_ref(&whole) } else { &args.ranges };
    let mut parts = Vec::new();
    for mapping in mappings.iter().filter(|mapping| mapping.readable && mapping.writable) {
        let of_file = mapping.path.is_absolute() && !is_in_memory(mapping);
        let asked = args.all || !args.ranges.is_empty();
        if !asked && (of_file || (mapping.bytes() as u64) < args.above) {
            continue;
        }
        // Ranges may overlap; each page is recorded once.
        let mut from = mapping.addresses.start;
        let mut inside: Vec<_> = ranges.iter().collect();
        inside.sort_unstable_by_key(|range| range.start);
        for range in inside {
            let start = (range.start - range.start % PAGE).max(from);
            let end = range.end.checked_next_multiple_of(PAGE).unwrap_or(range.end);
            let end = end.min(mapping.addresses.end);
            if start < end {
                parts.push(part(mapping, start..end));
                from = end;
            }
        }
    }
    let most = if args.largest { 1 } else { limits::REGIONS_MAX };
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    parts.truncate(most);
    parts.sort_by_key(|part| part.range.start);
    parts
}

/// Whether the file of a mapping lies in memory: memfd, shared anonymous memory, /dev/shm.
fn is_in_memory(mapping: &ProcessMapping) -> bool {
    let path = mapping.path.to_string_lossy();
    let starts = ["/memfd:", "/dev/zero", "/dev/shm/", "/SYSV", "/anon_hugepage"];
    mapping.shared && starts.iter().any(|start| path.starts_with(start))
        || path.starts_with("/anon_hugepage")
}

fn part(mapping: &ProcessMapping, range: Range<usize>) -> Part {
    let path = mapping.path.to_string_lossy();
    let kind = if mapping.shared { "shared" } else { "private" };
    Part {
        addresses: format!("{:x}-{:x}", range.start, range.end),
        bytes: range.len(),
        what: if path.is_empty() { kind.to_owned() } else { format!("{kind} {path}") },
        first_page: 0,
        range,
    }
}

/// Addresses of all writable mappings.
fn writable(process: &Process) -> anyhow::Result<BTreeSet<(usize, usize)>> {
    let mappings = process.mappings()?;
    let writable = mappings.iter().filter(|mapping| mapping.writable);
    Ok(writable.map(|mapping| (mapping.addresses.start, mapping.addresses.end)).collect())
}

fn header(
    args: &RecordArgs,
    name: &str,
    map: &Arc<ProcessMap>,
    parts: &[Part],
) -> anyhow::Result<TraceHeader> {
    let (pid, pages) = (map.process().pid(), map.table().pages());
    let mut header = TraceHeader::new(pages, format!("process {pid} ({name})"));
    header.tick = args.tick;
    header.notes = largest(parts).iter().fold(String::new(), |notes, part| {
        format!("{notes}page {}: {} {}\n", part.first_page, part.addresses, shortened(&part.what))
    });
    let mut populated = DenseBitmap::new(pages);
    ProcessMemory::new(Arc::clone(map)).populated(&mut populated)?;
    let runs: Vec<_> = populated.runs().take(POPULATED_RUNS_MAX + 1).collect();
    header.populated = (runs.len() <= POPULATED_RUNS_MAX).then_some(runs);
    Ok(header)
}

/// The largest parts, in the order of their addresses.
fn largest(parts: &[Part]) -> Vec<&Part> {
    let mut parts: Vec<_> = parts.iter().collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    parts.truncate(SHOWN);
    parts.sort_by_key(|part| part.range.start);
    parts
}

/// Not longer than a few hundred of them may be in a trace's header.
fn shortened(text: &str) -> String {
    text.chars().take(120).collect()
}

/// What the first write to a page after a harvest costs more than another one: of many short
/// trials the middle one, for others want the processor, too.
fn first_write_ns() -> Option<f64> {
    let table = RegionTable::single(PageSize::BASE, TRIALS * TRIAL_PAGES).ok()?;
    let memory = MappedMemory::new(table, MapOptions::new(Backing::Anonymous)).ok()?;
    let write = |trial: u64| {
        let pages = trial * TRIAL_PAGES..(trial + 1) * TRIAL_PAGES;
        let began = Instant::now();
        let mut stored = pages.map(|page| memory.store_u64(PageIndex::new(page), 0, 1));
        stored.all(|stored| stored.is_ok()).then(|| began.elapsed())
    };
    let all = || {
        let mut times = (0..TRIALS).map(write).collect::<Option<Vec<_>>>()?;
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    };
    all()?;
    let mut tracker = PagemapTracker::new(Arc::clone(memory.host()), UffdMode::UserOnly).ok()?;
    tracker.arm().ok()?;
    let (first, again) = (all()?, all()?);
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    let mean = first.saturating_sub(again).as_secs_f64() * 1e9 / TRIAL_PAGES as f64;
    Some(mean)
}

/// When that was by the system's clock. Two clocks are read one after the other, and this thread
/// may stand still between them: what counts is the closest of some tries.
fn unix_ns(at: Instant) -> u64 {
    let read = |_| {
        let (before, system) = (Instant::now(), SystemTime::now());
        (before.elapsed(), before, system)
    };
    let (_, now, system) = (1..CLOCK_TRIES)
        .map(read)
        .fold(read(0), |best, other| if other.0 < best.0 { other } else { best });
    let at = system.checked_sub(now.saturating_duration_since(at)).unwrap_or(UNIX_EPOCH);
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn announce(name: &str, pid: u32, parts: &[Part]) {
    let bytes: usize = parts.iter().map(|part| part.bytes).sum();
    println!(
        "Process {pid} ({name}): {} in {} mappings",
        show::bytes(bytes as u64),
        show::count(parts.len() as u64)
    );
    for part in largest(parts).iter().take(20) {
        let size = show::bytes(part.bytes as u64);
        println!("  {:>10}  {}  {}", size, part.addresses, part.what);
    }
    if parts.len() > 20 {
        println!("  and {} more", parts.len() - 20);
    }
}

fn tell(recorded: &Recorded, said: &Said) {
    println!("A thread of the process was stopped for {:.0} us to attach", said.attach_pause_us);
    record::tell_cost(recorded);
    if let (Some(ns), Some(share)) = (said.first_write_ns, said.process_cost_share) {
        println!(
            "First writes cost the process an estimated {:.2} % of a processor ({} at {ns:.0} ns)",
            share * 100.0,
            show::count(recorded.written.page_events)
        );
    }
    let (appeared, vanished) = (said.mappings_appeared, said.mappings_vanished);
    if appeared + vanished > 0 {
        println!(
            "Note: {appeared} writable mappings appeared and are not in the trace, {vanished} \
             vanished or changed their size"
        );
    }
    if said.mappings_changed > 0 {
        println!(
            "Note: {} times recorded memory was found mapped anew; its pages count as written",
            said.mappings_changed
        );
    }
    if said.mappings_not_trackable > 0 {
        println!("Note: {} mappings could not be tracked", said.mappings_not_trackable);
    }
    if said.process_ended {
        println!("Note: the process ended, and the trace with it");
    }
}
