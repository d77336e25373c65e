// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An all-zero guest against plain reading of as much memory.

use std::time::Instant;

use memmap2::{Advice, MmapOptions};
use serde_json::{Value, json};

use super::rig::{self, float, median};
use crate::plan::MigrationPlan;
use crate::show;

/// Measures.
pub(super) fn run(quick: bool) -> anyhow::Result<Value> {
    let (bytes, repetitions) = if quick { (1u64 << 30, 3) } else { (4u64 << 30, 5) };
    rig::need(bytes * 3 / 2)?;
    println!(
        "All-zero guest of {}, every page populated; medians of {repetitions}",
        show::bytes(bytes)
    );
    let read = plain_read(bytes, repetitions)?;
    println!("\nplain read, one thread: {}", show::rate(read));
    let plan = rig::guest(bytes, "vcpus=1,pattern=idle,filling=zero")?;
    let memory = rig::filled(&plan)?;
    let mut figures = Vec::new();
    for channels in [1, 2, 4] {
        let migration = MigrationPlan::plain("fixed-rounds:rounds=1", channels)?;
        let mut rates = Vec::new();
        let mut wire = 0;
        for _ in 0..repetitions {
            let report = rig::migrate(&plan, &memory, &migration, false)?.report;
            let first = &report.rounds[0];
            let sent = float(first.sent_pages * report.page_bytes);
            rates.push(sent / first.duration.as_secs_f64());
            wire = report.totals.wire_bytes;
        }
        let rate = median(&rates);
        println!(
            "{channels} channels: {} ({:.2} of the plain read; aim: 8 GB/s or 0.5), {} on the wire",
            show::rate(rate),
            rate / read,
            show::bytes(wire)
        );
        figures.push(json!({
            "channels": channels,
            "bytes_per_s": rate,
            "ratio": rate / read,
            "wire_bytes": wire,
        }));
    }
    Ok(json!({ "bytes": bytes, "plain_read_bytes_per_s": read, "rows": figures }))
}

/// Reads every word of as much memory once.
fn plain_read(bytes: u64, repetitions: u32) -> anyhow::Result<f64> {
    let mut memory = MmapOptions::new().len(usize::try_from(bytes)?).map_anon()?;
    // Only for speed.
    let _ = memory.advise(Advice::HugePage);
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
        page[0] = 0;
    }
    let mut rates = Vec::new();
    for _ in 0..repetitions {
        let began = Instant::now();
        let words = memory.as_chunks::<8>().0.iter();
        let all = words.fold(0, |all, word| all | u64::from_ne_bytes(*word));
        std::hint::black_box(all);
        rates.push(float(bytes) / began.elapsed().as_secs_f64());
    }
    Ok(median(&rates))
}
