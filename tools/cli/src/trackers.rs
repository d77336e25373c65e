// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy trackers`: tries every way of dirty tracking on every kind of memory, and on another
//! process.

use std::error::Error;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use precopy::bitmap::DenseBitmap;
use precopy::dirty::{self, DirtyError, DirtyTracker, ProcessTracker, TRACKER_NAMES, probe};
use precopy::memory::{MapOptions, MappedMemory};
use precopy::region::RegionTable;
use precopy::sys::{Backing, Process, ProcessMap, inject};
use precopy::units::{GuestAddress, PageIndex, PageSize};
use serde::Serialize;

use crate::args::TrackersArgs;
use crate::exit::Exit;

/// Pages that are tried: one huge page.
const PAGES: u64 = 512;

#[derive(Debug, Serialize)]
struct Trial {
    memory: &'static str,
    tracker: &'static str,
    works: bool,
    why: String,
    chosen: bool,
}

/// Runs the command.
pub(crate) fn run(args: &TrackersArgs) -> anyhow::Result<Exit> {
    let mut trials = Vec::new();
    for backing in [Backing::Anonymous, Backing::Memfd, Backing::Hugetlb] {
        try_all(backing, &mut trials)?;
    }
    trials.push(try_process());
    if args.json {
        println!("{}", serde_json::to_string_pretty(&trials)?);
        return Ok(Exit::Done);
    }
    println!("{:<13} {:<13} {:<6} ", "memory", "tracker", "works");
    for trial in &trials {
        let works = match (trial.works, trial.chosen) {
            (true, true) => "yes *",
            (true, false) => "yes",
            (false, _) => "no",
        };
        println!("{:<13} {:<13} {works:<6} {}", trial.memory, trial.tracker, trial.why);
    }
    println!(
        "\n(*: what --tracker auto picks. `marked` works anywhere: the guest marks its writes.)"
    );
    Ok(Exit::Done)
}

fn try_all(backing: Backing, trials: &mut Vec<Trial>) -> anyhow::Result<()> {
    let table = RegionTable::single(PageSize::BASE, PAGES)?;
    let memory = match MappedMemory::new(table, MapOptions::new(backing)) {
        Ok(memory) => Arc::new(memory),
        Err(error) => {
            let mut why = chain(&error);
            if backing == Backing::Hugetlb {
                why.push_str(" (reserve some with /proc/sys/vm/nr_hugepages)");
            }
            let memory = backing.name();
            trials.push(Trial { memory, tracker: "any", works: false, why, chosen: false });
            return Ok(());
        }
    };
    let chosen = probe(memory.host()).ok();
    let (best, why_best) = match &chosen {
        Some(probed) => (Some(probed.name), probed.why.clone()),
        None => (None, String::new()),
    };
    drop(chosen);
    for tracker in TRACKER_NAMES {
        let tried = try_one(&memory, tracker);
        let chosen = best == Some(tracker);
        let (works, why) = match tried {
            Ok(()) if chosen => (true, why_best.clone()),
            Ok(()) => (true, "found a write".to_owned()),
            Err(why) => (false, why),
        };
        trials.push(Trial { memory: backing.name(), tracker, works, why, chosen });
    }
    Ok(())
}

/// Arms the tracker, writes a page, and looks whether it says so.
fn try_one(memory: &MappedMemory, name: &str) -> Result<(), String> {
    let page = PageIndex::new(PAGES / 2);
    let work = || -> Result<bool, DirtyError> {
        let mut tracker = dirty::tracker_by_name(memory.host(), name)?.tracker;
        tracker.arm()?;
        let mut found = DenseBitmap::new(PAGES);
        tracker.harvest(&mut found)?;
        found = DenseBitmap::new(PAGES);
        let stored = memory.store_u64(page, 0, 1).is_ok();
        tracker.harvest(&mut found)?;
        tracker.disarm()?;
        Ok(stored && found.contains(page))
    };
    match work() {
        Ok(true) => Ok(()),
        Ok(false) => Err("it missed a write".to_owned()),
        Err(DirtyError::Unsupported { why, .. }) => Err(why),
        Err(error) => Err(chain(&error)),
    }
}

/// Attaches to a process that was started for it, and looks whether its memory can be tracked.
fn try_process() -> Trial {
    let (works, why) = match attach_to_child() {
        Ok(pause) => {
            let micros = pause.as_micros();
            let whose = "those of this user, or all as root (CAP_SYS_PTRACE)";
            (true, format!("attached to a child, which stopped for {micros} us; {whose}"))
        }
        Err(error) => (false, format!("{error:#}")),
    };
    Trial { memory: "other process", tracker: "process", works, why, chosen: false }
}

fn attach_to_child() -> anyhow::Result<Duration> {
    inject::check()?;
    // A program that is everywhere, and waits as long as nothing comes.
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("There is no program to try it on")?;
    let tried = track(child.id());
    // It ends by itself when its input does; the entry is all that is left to be cleared.
    drop(child.stdin.take());
    child.wait()?;
    tried
}

fn track(pid: u32) -> anyhow::Result<Duration> {
    let process = Arc::new(Process::open(pid)?);
    let attachment = inject::attach(&process)?;
    let mappings = process.mappings()?;
    let stack = mappings.iter().find(|mapping| mapping.path.as_os_str() == "[stack]");
    let stack = stack.context("It has no stack")?.addresses.clone();
    let place = [(GuestAddress::new(0), stack)];
    let map = ProcessMap::new(process, PageSize::BASE, &place)?;
    let mut tracker = ProcessTracker::with_attachment(Arc::new(map), attachment)?;
    tracker.arm()?;
    tracker.harvest(&mut DenseBitmap::new(tracker.pages()))?;
    tracker.disarm()?;
    Ok(tracker.attach_pause())
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
