// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy trackers`: tries every way of dirty tracking on every kind of memory.

use std::error::Error;
use std::sync::Arc;

use precopy::bitmap::DenseBitmap;
use precopy::dirty::{self, DirtyError, TRACKER_NAMES, probe};
use precopy::memory::{MapOptions, MappedMemory};
use precopy::region::RegionTable;
use precopy::sys::Backing;
use precopy::units::{PageIndex, PageSize};
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
    if args.json {
        println!("{}", serde_json::to_string_pretty(&trials)?);
        return Ok(Exit::Done);
    }
    println!("{:<11} {:<13} {:<6} ", "memory", "tracker", "works");
    for trial in &trials {
        let works = match (trial.works, trial.chosen) {
            (true, true) => "yes *",
            (true, false) => "yes",
            (false, _) => "no",
        };
        println!("{:<11} {:<13} {works:<6} {}", trial.memory, trial.tracker, trial.why);
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

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
