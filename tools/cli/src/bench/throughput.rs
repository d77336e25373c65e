// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A quiet guest that no encoder makes smaller, against a plain copy of as many bytes.

use std::sync::Arc;

use precopy::memory::MappedMemory;
use serde_json::{Value, json};

use super::copy::{Copy, touched};
use super::rig::{self, float, median};
use crate::plan::{GuestPlan, MigrationPlan};
use crate::show;

/// One channel count.
#[derive(Debug, Default)]
struct Row {
    channels: u8,
    round: Vec<f64>,
    whole: Vec<f64>,
    copy: Vec<f64>,
}

/// Measures.
pub(super) fn run(quick: bool) -> anyhow::Result<Value> {
    let (bytes, repetitions) = if quick { (512 << 20, 2) } else { (2u64 << 30, 5) };
    rig::need(bytes * 4)?;
    println!(
        "Quiet, incompressible guest of {} over loopback, two processes, memory touched before on \
         both sides; medians of {repetitions}, migrations and plain copies in turn",
        show::bytes(bytes)
    );
    let plan = rig::guest(bytes, "vcpus=1,pattern=idle")?;
    let memory = rig::filled(&plan)?;
    let plain = touched(usize::try_from(bytes)?)?;
    let mut rows = Vec::new();
    for channels in [1, 2, 4] {
        rows.push(measure(channels, repetitions, &plan, &memory, &plain)?);
    }
    println!(
        "\n{:>8} {:>14} {:>14} {:>14} {:>9} {:>9}",
        "channels", "plain copy", "round 0", "start to end", "ratio", "whole"
    );
    let figure = |row: &Row| {
        let (copy, round, whole) = (median(&row.copy), median(&row.round), median(&row.whole));
        println!(
            "{:>8} {:>14} {:>14} {:>14} {:>9.2} {:>9.2}",
            row.channels,
            show::rate(copy),
            show::rate(round),
            show::rate(whole),
            round / copy,
            whole / copy
        );
        json!({
            "channels": row.channels,
            "plain_copy_bytes_per_s": copy,
            "round_bytes_per_s": round,
            "whole_bytes_per_s": whole,
            "ratio": round / copy,
            "ratio_whole": whole / copy,
        })
    };
    let figures: Vec<_> = rows.iter().map(figure).collect();
    let best =
        |of: fn(&Row) -> &Vec<f64>| rows.iter().map(|row| median(of(row))).fold(0.0, f64::max);
    let ratio = best(|row| &row.round) / best(|row| &row.copy);
    println!("\nBest migration against best plain copy: {ratio:.2} (aim: 0.9)");
    println!("(round 0: first page to acknowledgement; start to end: with scan and handover)");
    Ok(json!({ "bytes": bytes, "repetitions": repetitions, "rows": figures, "best_ratio": ratio }))
}

fn measure(
    channels: u8,
    repetitions: u32,
    plan: &GuestPlan,
    memory: &Arc<MappedMemory>,
    plain: &[u8],
) -> anyhow::Result<Row> {
    let migration = MigrationPlan::plain("fixed-rounds:rounds=1", channels)?;
    let mut row = Row { channels, ..Row::default() };
    for repetition in 0..repetitions {
        eprintln!("  {channels} channels, run {} of {repetitions}", repetition + 1);
        // A fresh receiving end each time, as for the migration, and only one at a time: memory
        // is held three times, not four.
        let copy = Copy::start(channels, plain.len(), 1)?;
        row.copy.push(float(plain.len() as u64) / copy.run(plain)?.as_secs_f64());
        copy.finish()?;
        let report = rig::migrate(plan, memory, &migration, true)?.report;
        let bytes = float(report.total_pages * report.page_bytes);
        let first = &report.rounds[0];
        row.round.push(float(first.sent_pages * report.page_bytes) / first.duration.as_secs_f64());
        let negotiated = first.started.since(precopy::units::Tick::ZERO);
        let whole = report.totals.duration.saturating_sub(negotiated);
        row.whole.push(bytes / whole.as_secs_f64());
    }
    Ok(row)
}
