// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Measures the test guest alone: filling, ops per second, pause latency, audit speed.
//!
//! `cargo run --release -p webvm --example figures -- [MiB] [pages_per_s]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use precopy::guest::GuestControl;
use precopy::memory::{MapOptions, MappedMemory};
use precopy::region::RegionTable;
use precopy::units::PageSize;
use webvm::{GuestConfig, WebVm};

const PAUSES: u32 = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mib: u64 = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let pace: u64 = arguments.next().map_or(Ok(0), |text| text.parse())?;
    for pattern in ["sequential", "uniform", "zipf", "log", "idle"] {
        for vcpus in [1, 2, 4] {
            let line = format!("vcpus={vcpus},pattern={pattern},pages_per_s={pace}");
            measure(mib, line.parse()?)?;
        }
    }
    Ok(())
}

fn measure(mib: u64, config: GuestConfig) -> Result<(), Box<dyn std::error::Error>> {
    let table = RegionTable::single(PageSize::BASE, mib << 8)?;
    let memory = Arc::new(MappedMemory::new(table, MapOptions::default())?);
    let (pattern, vcpus) = (config.pattern, config.vcpus);
    let mut guest = WebVm::new(config, memory, None)?;

    let begin = Instant::now();
    guest.fill()?;
    let fill = begin.elapsed();

    let mut pauses = Vec::new();
    let mut running = Duration::ZERO;
    for _ in 0..PAUSES {
        guest.resume()?;
        let resumed = Instant::now();
        std::thread::sleep(Duration::from_millis(10));
        let pause = Instant::now();
        running += pause - resumed;
        guest.pause()?;
        pauses.push(pause.elapsed());
    }
    pauses.sort_unstable();
    let longest = pauses[pauses.len() - 1];
    #[expect(clippy::cast_precision_loss, reason = "printed with three digits")]
    let rate = guest.ops() as f64 / running.as_secs_f64() / 1e6;

    let begin = Instant::now();
    let report = guest.audit()?;
    println!(
        "{pattern:?} x {vcpus}: fill {fill:.1?}; {rate:.2} M ops/s; pause {:.0?} median, \
         {longest:.0?} longest; audit {:.2?} of {report}",
        pauses[pauses.len() / 2],
        begin.elapsed(),
    );
    Ok(())
}
