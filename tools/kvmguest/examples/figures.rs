// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What KVM's dirty log costs here: reading it, clearing it run by run and at once, and what the
//! guest loses by it.
//!
//! `cargo run --release -p kvmguest --example figures [MIB]`

use std::time::{Duration, Instant};

use kvmguest::{GuestConfig, KvmGuest, Tracking};
use precopy::bitmap::DenseBitmap;
use precopy::guest::GuestControl;

/// Time between harvests.
const INTERVAL: Duration = Duration::from_millis(200);
const HARVESTS: u32 = 25;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mib = std::env::args().nth(1).map_or(Ok(256), |text| text.parse::<u64>())?;
    for vcpus in [2, 4] {
        for tracking in [Tracking::Log, Tracking::LogAtHarvest] {
            measure(GuestConfig::new(vcpus, mib * 256), tracking)?;
        }
    }
    Ok(())
}

/// Steps per second over as long as a series of harvests takes.
fn steps_per_s(guest: &KvmGuest, began: Instant, before: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate to show")]
    let steps = (guest.progress() - before) as f64;
    steps / began.elapsed().as_secs_f64()
}

fn measure(config: GuestConfig, tracking: Tracking) -> Result<(), Box<dyn std::error::Error>> {
    let mut guest = KvmGuest::new(config, tracking)?;
    guest.start()?;
    guest.resume()?;
    std::thread::sleep(INTERVAL);
    let (began, before) = (Instant::now(), guest.progress());
    std::thread::sleep(INTERVAL * HARVESTS);
    let unlogged = steps_per_s(&guest, began, before);

    let mut tracker = guest.tracker()?;
    let mut set = DenseBitmap::new(tracker.pages());
    let armed = Instant::now();
    tracker.arm()?;
    let arming = armed.elapsed();
    let (mut reading, mut clearing, mut runs, mut pages) = (Vec::new(), Duration::ZERO, 0, 0);
    let (began, before) = (Instant::now(), guest.progress());
    for _ in 0..HARVESTS {
        std::thread::sleep(INTERVAL);
        set.clear_all();
        let at = Instant::now();
        tracker.harvest(&mut set)?;
        reading.push(at.elapsed());
        pages += set.count();
        if tracker.needs_rearm() {
            let at = Instant::now();
            for run in set.runs() {
                tracker.rearm(run)?;
                runs += 1;
            }
            clearing += at.elapsed();
        }
    }
    let logged = steps_per_s(&guest, began, before);
    tracker.disarm()?;
    reading.sort_unstable();
    println!("{} ({tracking:?})", guest.config());
    println!("  steps/s: {unlogged:.0} unlogged, {logged:.0} logged; arming {arming:.1?}");
    println!(
        "  harvest: median {:.1?}, longest {:.1?}; {} pages each",
        reading[reading.len() / 2],
        reading[reading.len() - 1],
        pages / u64::from(HARVESTS)
    );
    if runs > 0 {
        println!("  clearing as sent: {runs} runs, {:.2?} each", clearing / runs);
    }
    drop(tracker);
    let report = guest.audit()?;
    if report.is_clean() { Ok(()) } else { Err(report.to_string().into()) }
}
