// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a handover costs when there is nothing left to send.

use std::time::Duration;

use precopy::report::Downtime;
use serde_json::{Value, json};

use super::rig::{self, largest, median};
use crate::plan::MigrationPlan;
use crate::show;

type Part = (&'static str, fn(&Downtime) -> Duration);

const PARTS: [Part; 11] = [
    ("source: pause", |parts| parts.pause),
    ("source: last harvest", |parts| parts.final_harvest),
    ("source: residual", |parts| parts.residual),
    ("source: state", |parts| parts.state),
    ("source: prepare", |parts| parts.prepare),
    ("source: commit", |parts| parts.commit),
    ("source: total", |parts| parts.source_total),
    ("destination: import", |parts| parts.destination_import),
    ("destination: digest", |parts| parts.destination_digest),
    ("destination: resume", |parts| parts.destination_resume),
    ("destination: total", |parts| parts.destination_total),
];

/// Measures.
pub(super) fn run(quick: bool) -> anyhow::Result<Value> {
    let (bytes, repetitions) = if quick { (1u64 << 30, 5) } else { (4u64 << 30, 20) };
    rig::need(bytes * 9 / 4)?;
    println!(
        "Quiet guest of {} on loopback, every page populated, two live rounds, no digests; \
         {repetitions} migrations",
        show::bytes(bytes)
    );
    let plan = rig::guest(bytes, "vcpus=1,pattern=idle")?;
    let memory = rig::filled(&plan)?;
    let migration = MigrationPlan::plain("fixed-rounds:rounds=2", 2)?;
    let mut runs = Vec::new();
    for repetition in 0..repetitions {
        let run = rig::migrate(&plan, &memory, &migration, true)?;
        runs.extend(run.report.downtime);
        eprintln!(
            "  run {} of {repetitions}: {}, destination {}",
            repetition + 1,
            run.report.downtime.map(|parts| show::time(parts.source_total)).unwrap_or_default(),
            show::time(run.destination.paused),
        );
    }
    println!("\n{:<24} {:>12} {:>12}", "part", "median ms", "largest ms");
    let mut figures = serde_json::Map::new();
    for (name, part) in PARTS {
        let values: Vec<_> = runs.iter().map(|parts| show::millis(part(parts))).collect();
        let (middle, most) = (median(&values), largest(&values));
        println!("{name:<24} {middle:>12.3} {most:>12.3}");
        figures.insert(name.to_owned(), json!({ "median_ms": middle, "largest_ms": most }));
    }
    println!("\n(aim: source total at most 3 ms in the median)");
    Ok(json!({ "bytes": bytes, "repetitions": repetitions, "parts": figures }))
}
