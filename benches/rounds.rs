// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Round counts in virtual time: `cargo bench --bench rounds [-- --json FILE]`.
//!
//! A micro-benchmark of decisions, not of the machine: the same figures on every run.

use std::error::Error;
use std::fs;

use precopy::sim::rounds::{
    Row, Setting, faster_link_longer_downtime, render, skipping_saves_bytes, table,
};

#[derive(serde::Serialize)]
struct Document {
    rounds: Vec<Row>,
    faster_link_longer_downtime: Vec<Row>,
    skipping_saves_bytes: Vec<Row>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut json = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = Some(arguments.next().ok_or("--json needs a file")?),
            // Cargo adds it to every bench.
            "--bench" => {}
            other => return Err(format!("unknown argument {other}; there is --json FILE").into()),
        }
    }
    let setting = Setting::standard();
    let document = Document {
        rounds: table(&setting)?,
        faster_link_longer_downtime: faster_link_longer_downtime(&setting)?,
        skipping_saves_bytes: skipping_saves_bytes(&setting)?,
    };
    println!("256 MiB over 1 Gb/s; * paused by the guard of {:?}", setting.time_guard);
    println!("{}", render(&document.rounds));
    println!("A faster link can lengthen the downtime:");
    println!("{}", render(&document.faster_link_longer_downtime));
    println!("Leaving out pages that are dirty again saves bytes:");
    println!("{}", render(&document.skipping_saves_bytes));
    if let Some(file) = json {
        fs::write(&file, serde_json::to_string_pretty(&document)? + "\n")?;
        println!("wrote {file}");
    }
    Ok(())
}
