// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy bench`: throughput, downtime and the cost of tracking, between real processes.

pub(crate) mod copy;
mod downtime;
mod rig;
mod sparse;
mod throughput;
mod tracking;
mod zero;

use serde_json::json;

use crate::args::{BenchArgs, BenchCase};
use crate::exit::Exit;
use crate::{document, system};

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<Exit> {
    document::prepare(args.json.as_deref())?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (kernel, cores) = (kernel.trim(), std::thread::available_parallelism()?);
    let huge = system::huge_pages();
    println!("{cores} cores, Linux {kernel}, transparent huge pages: {huge}");
    if cfg!(debug_assertions) {
        eprintln!("warning: this is no release build; build with --release for figures");
    }
    let figures = match args.case {
        BenchCase::Throughput => throughput::run(args.quick)?,
        BenchCase::Zero => zero::run(args.quick)?,
        BenchCase::Sparse => sparse::run(args.quick)?,
        BenchCase::Downtime => downtime::run(args.quick)?,
        BenchCase::Tracking => tracking::run(args.quick)?,
    };
    if let Some(path) = &args.json {
        let all = json!({
            "precopy": env!("CARGO_PKG_VERSION"),
            "kernel": kernel,
            "cores": cores,
            "transparent_huge_pages": huge,
            "quick": args.quick,
            "figures": figures,
        });
        document::write(&all, Some(path))?;
    }
    Ok(Exit::Done)
}
