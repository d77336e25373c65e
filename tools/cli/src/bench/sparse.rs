// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A large region with little in it against a small region that is full.

use serde_json::{Value, json};

use super::rig::{self, float, median};
use crate::plan::MigrationPlan;
use crate::show;
use crate::system::Resident;

const POPULATED: u64 = 256 << 20;

/// Medians for one size of region.
struct Row {
    seconds: f64,
    source_bytes: f64,
    destination_bytes: f64,
    wire_bytes: u64,
}

/// Measures.
pub(super) fn run(quick: bool) -> anyhow::Result<Value> {
    let (large, repetitions) = if quick { (64u64 << 30, 3) } else { (256u64 << 30, 5) };
    rig::need(POPULATED * 4)?;
    println!(
        "{} populated in a region of {} and in one of {}; medians of {repetitions}",
        show::bytes(POPULATED),
        show::bytes(large),
        show::bytes(POPULATED),
    );
    let small = measure(POPULATED, repetitions)?;
    let sparse = measure(large, repetitions)?;
    println!(
        "\n{:>10} {:>10} {:>18} {:>18} {:>10}",
        "region", "time", "source holds", "destination holds", "wire"
    );
    let figure = |bytes: u64, row: &Row| {
        let holds = |bytes: f64| {
            format!("{:.0} MiB ({:.2} x)", bytes / 1048576.0, bytes / float(POPULATED))
        };
        println!(
            "{:>10} {:>7.0} ms {:>18} {:>18} {:>10}",
            show::bytes(bytes),
            row.seconds * 1e3,
            holds(row.source_bytes),
            holds(row.destination_bytes),
            show::bytes(row.wire_bytes)
        );
        json!({
            "region_bytes": bytes,
            "seconds": row.seconds,
            "source_bytes": row.source_bytes,
            "destination_bytes": row.destination_bytes,
            "wire_bytes": row.wire_bytes,
        })
    };
    let rows = [figure(POPULATED, &small), figure(large, &sparse)];
    let ratio = sparse.seconds / small.seconds;
    println!("\nTime: {ratio:.2} times that of the small region (aim: 1.3)");
    println!("(holds: resident memory and page tables of the whole process; aim: 1.2 x)");
    Ok(json!({ "populated_bytes": POPULATED, "rows": rows, "time_ratio": ratio }))
}

fn measure(region: u64, repetitions: u32) -> anyhow::Result<Row> {
    let part = "fill=256M,working_set=256M";
    let plan = rig::guest(region, &format!("vcpus=1,pattern=idle,{part}"))?;
    let memory = rig::filled(&plan)?;
    let migration = MigrationPlan::plain("fixed-rounds:rounds=1", 2)?;
    let (mut seconds, mut source, mut destination) = (Vec::new(), Vec::new(), Vec::new());
    let mut wire_bytes = 0;
    for _ in 0..repetitions {
        let run = rig::migrate(&plan, &memory, &migration, false)?;
        seconds.push(run.report.totals.duration.as_secs_f64());
        source.push(float(Resident::own().bytes()));
        destination.push(float(run.destination_memory.bytes()));
        wire_bytes = run.report.totals.wire_bytes;
    }
    Ok(Row {
        seconds: median(&seconds),
        source_bytes: median(&source),
        destination_bytes: median(&destination),
        wire_bytes,
    })
}
