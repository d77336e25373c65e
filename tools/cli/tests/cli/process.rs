// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy trace record --pid`: recordings of other processes.

use std::collections::BTreeSet;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use precopy::trace::{TickSource, Trace, TraceFile, TraceTick};
use precopy::units::{PageIndex, PageRun};
use serde_json::Value;

use crate::support::{Running, precopy, wait_for};

const WRITER: &str = "PRECOPY_TEST_WRITER";
const PAGE: usize = 4096;
const PAGES: usize = 4096;
/// Pages that each step of the writer writes, `APART` pages apart.
const STEP_PAGES: usize = 20;
const APART: usize = 3;
const STEPS: usize = 50;

fn pages_of(step: usize) -> impl Iterator<Item = usize> {
    (0..STEP_PAGES).map(move |at| step * (STEP_PAGES * APART + 5) + at * APART)
}

/// Not a test by itself: a process that writes known pages when it is told to, and says when.
#[test]
fn writer() {
    if std::env::var_os(WRITER).is_none() {
        return;
    }
    let mut block = vec![1u8; (PAGES + 1) * PAGE];
    let skipped = block.as_ptr().align_offset(PAGE);
    println!("\n@{}", block[skipped..].as_ptr().addr());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    for line in std::io::stdin().lines() {
        let step: usize = line.unwrap().parse().unwrap();
        let before = now();
        for page in pages_of(step) {
            block[skipped + page * PAGE] = 2;
        }
        black_box(&mut block);
        println!("@{before} {}", now());
    }
}

struct Writer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    start: usize,
}

impl Writer {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::writer", "--nocapture", "--quiet"])
            .env(WRITER, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut writer = Self { child, input, output, start: 0 };
        writer.start = writer.numbers()[0].try_into().unwrap();
        writer
    }

    fn numbers(&mut self) -> Vec<u64> {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the writer has ended");
            if let Some(said) = line.strip_prefix('@') {
                return said.trim_end().split(' ').map(|word| word.parse().unwrap()).collect();
            }
        }
    }

    /// Waits until all that was written is harvested.
    fn harvested(&self) {
        wait_harvested(self.child.id(), self.start..self.start + PAGES * PAGE);
    }

    /// Has a step's pages written; when that was.
    fn step(&mut self, step: usize) -> Range<u64> {
        writeln!(self.input, "{step}").unwrap();
        let times = self.numbers();
        times[0]..times[1]
    }

    fn range(&self) -> String {
        format!("{:x}-{:#x}", self.start, self.start + PAGES * PAGE)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until every page of a process's memory is write-protected: first when its writes begin to
/// be tracked, then whenever what it has written since is harvested.
fn wait_harvested(pid: u32, memory: Range<usize>) {
    // As Documentation/admin-guide/mm/pagemap.rst numbers them.
    const PRESENT: u64 = 1 << 63;
    const PROTECTED: u64 = 1 << 57;
    let pages = File::open(format!("/proc/{pid}/pagemap")).unwrap();
    let mut bits = vec![0; memory.len() / PAGE * 8];
    wait_for("a harvest", || {
        pages.read_exact_at(&mut bits, (memory.start / PAGE * 8) as u64).unwrap();
        let entries =
            bits.chunks_exact(8).map(|bytes| u64::from_ne_bytes(bytes.try_into().unwrap()));
        let mut present = entries.filter(|entry| entry & PRESENT != 0).peekable();
        let any = present.peek().is_some();
        (any && present.all(|entry| entry & PROTECTED != 0)).then_some(())
    });
}

/// Whether other processes can be attached to here; says so if not.
fn can_attach() -> bool {
    let assert = precopy(&["trackers", "--json"]).assert().success();
    let trials: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    let trial = trials.as_array().unwrap().iter().find(|trial| trial["tracker"] == "process");
    let trial = trial.unwrap();
    if trial["works"] != true {
        precopy::skipped(format_args!("{}", trial["why"]));
    }
    trial["works"] == true
}

fn ticks(path: &std::path::Path) -> Vec<TraceTick> {
    let mut trace = TraceFile::new(path).open().unwrap();
    let (mut ticks, mut tick) = (Vec::new(), TraceTick::default());
    while trace.next_tick(&mut tick).unwrap() {
        ticks.push(tick.clone());
    }
    ticks
}

/// The ticks that have a page: one; or more if the writer lost its processor between the fault of
/// its store and the store.
fn ticks_of(ticks: &[TraceTick], page: usize) -> Vec<usize> {
    let page = PageIndex::new(page as u64);
    let has =
        |tick: &TraceTick| tick.runs.iter().any(|run| run.start() <= page && page < run.end());
    ticks.iter().enumerate().filter(|(_, tick)| has(tick)).map(|(at, _)| at).collect()
}

/// The trace has exactly the pages that were written, each in the tick in which it was.
#[test]
fn a_recording_holds_what_the_process_wrote_when() {
    if !can_attach() {
        return;
    }
    let mut writer = Writer::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("writer.ptrace");
    let (pid, range) = (writer.child.id().to_string(), writer.range());
    let to = path.to_str().unwrap();
    let what = ["trace", "record", "--pid", &pid, "--range", &range, "--json"];
    let when = ["--for", "10m", "--tick", "10ms"];
    let recorder = Running::start(&[&what[..], &when, &[to]].concat());
    let mut steps = Vec::new();
    for step in 0..STEPS {
        writer.harvested();
        // Anywhere in a tick.
        std::thread::sleep(Duration::from_micros(step as u64 * 1700 % 10_000));
        steps.push(writer.step(step));
    }
    writer.harvested();
    recorder.signal(Signal::SIGINT);
    let (status, out, errors) = recorder.finish();
    assert!(status.success(), "{errors}");
    let said: Value = serde_json::from_str(&out).unwrap();
    let ticks = ticks(&path);
    let began = said["began_unix_ns"].as_u64().unwrap();
    // Clocks are read one after the other; a harvest takes some time from when it is stamped.
    let longest = Duration::from_secs_f64(said["harvest_max_us"].as_f64().unwrap() * 1e-6);
    let slack = 1_000_000 + u64::try_from(longest.as_nanos()).unwrap();
    let (mut repeated, mut written) = (0, BTreeSet::new());
    // What the first two wrote may have been protected again while the tracker was being armed.
    for (step, times) in steps.iter().enumerate().skip(2) {
        for page in pages_of(step) {
            written.insert(page as u64);
            let found = ticks_of(&ticks, page);
            assert!(!found.is_empty(), "step {step}: page {page} is lost");
            repeated += usize::from(found.len() > 1);
            let ended = |at: usize| began + ticks[at].end.as_nanos();
            for at in found {
                let early = ended(at) + slack < times.start;
                assert!(!early, "step {step}: page {page} comes too early");
                let late = at > 0 && ended(at - 1) > times.end + slack;
                assert!(!late, "step {step}: page {page} comes too late");
            }
        }
    }
    // A harvest may come between the fault of a store and the store: here and there.
    assert!(repeated <= STEPS, "{repeated} pages are in more than one tick");
    let recorded: BTreeSet<u64> = ticks
        .iter()
        .flat_map(|tick| tick.runs.iter().copied().flat_map(PageRun::iter))
        .map(PageIndex::get)
        .collect();
    let edge: BTreeSet<u64> = (0..steps.len()).flat_map(pages_of).map(|page| page as u64).collect();
    assert!(written.is_subset(&recorded) && recorded.is_subset(&edge));
    assert_eq!(said["pages"], PAGES);
    assert!(said["attach_pause_us"].as_f64().unwrap() > 0.0);
    assert!(said["process_cost_share"].as_f64().unwrap() < 0.5, "{said}");
    // It was left as it was.
    writer.step(STEPS);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("TracerPid:\t0"));
}

#[test]
fn a_process_that_ends_leaves_a_whole_trace() {
    if !can_attach() {
        return;
    }
    let mut writer = Writer::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ended.ptrace");
    let pid = writer.child.id().to_string();
    let to = path.to_str().unwrap();
    let recorder = Running::start(&["trace", "record", "--pid", &pid, "--largest", "--json", to]);
    for step in 0..3 {
        writer.harvested();
        writer.step(step);
    }
    writer.harvested();
    writer.child.kill().unwrap();
    writer.child.wait().unwrap();
    let (status, out, errors) = recorder.finish();
    assert!(status.success(), "{errors}");
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["process_ended"], true);
    let pages: u64 = ticks(&path).iter().map(TraceTick::pages).sum();
    assert!(pages >= STEP_PAGES as u64 && said["page_events"] == pages, "{said}");
}

/// The largest mapping of a process that it may write and that is no file's.
fn largest_mapping(pid: u32) -> Range<usize> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let anonymous = maps.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (place, rights) = (fields.next()?, fields.next()?);
        let (start, end) = place.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let file = fields.nth(3);
        (rights.starts_with("rw") && file.is_none()).then_some(number(start)?..number(end)?)
    });
    anonymous.max_by_key(ExactSizeIterator::len).unwrap()
}

/// An interpreter, as it comes: nothing is known of its memory.
#[test]
fn a_program_in_python_is_recorded() {
    let program = "import sys\nb = bytearray(1 << 24)\nprint(1, flush=True)\n\
                   for line in sys.stdin:\n  \
                   for i in range(0, 1 << 24, 1 << 16): b[i] = b[i] + 1 & 255\n  \
                   c = bytearray(1 << 21)\n  print(2, flush=True)";
    let started = Command::new("python3")
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(child) = started else {
        precopy::skipped("there is no python3");
        return;
    };
    struct Killed(Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let mut child = Killed(child);
    if !can_attach() {
        return;
    }
    let mut says = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut input = child.0.stdin.take().unwrap();
    assert_eq!(says.next().unwrap().unwrap(), "1");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("python.ptrace");
    let (pid, to) = (child.0.id().to_string(), path.to_str().unwrap());
    let record = ["trace", "record", "--pid", &pid, "--for", "10m", "--above", "64KiB", to];
    let largest = largest_mapping(child.0.id());
    let recorder = Running::start(&record);
    for _ in 0..3 {
        wait_harvested(child.0.id(), largest.clone());
        writeln!(input, "again").unwrap();
        assert_eq!(says.next().unwrap().unwrap(), "2");
    }
    wait_harvested(child.0.id(), largest);
    recorder.signal(Signal::SIGINT);
    let (status, text, errors) = recorder.finish();
    assert!(status.success(), "{errors}");
    for word in ["python", "mappings", "[heap]", "us to attach", "First writes cost"] {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
    let pages: BTreeSet<u64> = ticks(&path)
        .iter()
        .flat_map(|tick| tick.runs.iter().copied().flat_map(PageRun::iter))
        .map(PageIndex::get)
        .collect();
    assert!(pages.len() >= 256, "{} pages", pages.len());
    assert!(child.0.try_wait().unwrap().is_none(), "it runs on");
}

#[test]
fn mistakes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.ptrace");
    let to = path.to_str().unwrap();
    let own = std::process::id().to_string();
    for (arguments, code, word) in [
        (&["--pid", "4194305"][..], 1, "there is no process 4194305"),
        (&["--pid", "x"], 2, "invalid value"),
        (&["--pid", &own, "--users", "3"], 2, "--users"),
        (&["--pid", &own, "--range", "7-7"], 2, "hexadecimal"),
        (&["--largest"], 2, "--pid"),
        (&["--pid", &own, "--all", "--largest"], 2, "cannot be used with"),
    ] {
        let assert = precopy(&[&["trace", "record", to], arguments].concat()).assert().code(code);
        let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(text.contains(word), "{arguments:?}: no {word:?} in {text}");
        assert!(!path.exists(), "{arguments:?}");
    }
    if can_attach() {
        let writer = Writer::start();
        let pid = writer.child.id().to_string();
        let nowhere = ["--pid", &pid, "--range", "1000-2000"];
        let assert = precopy(&[&["trace", "record", to], &nowhere[..]].concat()).assert().code(2);
        let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(text.contains("nothing writable in --range"), "{text}");
    }
}
