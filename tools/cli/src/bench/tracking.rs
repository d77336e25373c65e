// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What tracking costs the guest, and how long a harvest takes.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use precopy::bitmap::DenseBitmap;
use precopy::guest::GuestControl;
use precopy::memory::MappedMemory;
use precopy::units::PageIndex;
use serde_json::{Value, json};

use super::rig::{self, float, median};
use crate::args::TrackerName;
use crate::plan::GuestPlan;
use crate::show;
use crate::source::track;
use webvm::SharedVm;

const TRACKERS: [(&str, TrackerName); 4] = [
    ("marked", TrackerName::Marked),
    ("pagemap", TrackerName::Pagemap),
    ("pagemap-user", TrackerName::PagemapUser),
    ("mprotect", TrackerName::Mprotect),
];
/// Shares of pages that are dirty at a harvest, in percent. In this order: huge pages are whole at
/// the first, and split into small ones at the last.
const SHARES: [f64; 6] = [0.0, 0.1, 1.0, 10.0, 100.0, 0.0];
/// Time between two harvests while the guest writes.
const INTERVAL: Duration = Duration::from_millis(100);

/// Measures.
pub(super) fn run(quick: bool) -> anyhow::Result<Value> {
    let writes = write_throughput(quick)?;
    let harvests = harvest_time(quick)?;
    Ok(json!({ "write_throughput": writes, "harvest": harvests }))
}

fn write_throughput(quick: bool) -> anyhow::Result<Value> {
    let (bytes, repetitions) = if quick { (256u64 << 20, 3) } else { (1u64 << 30, 5) };
    let time = Duration::from_millis(if quick { 500 } else { 1000 });
    rig::need(bytes * 3 / 2)?;
    println!(
        "Writes per second of a guest of {}, one vCPU, uniform, as fast as it can, a harvest every \
         {} ms; medians of {repetitions}",
        show::bytes(bytes),
        INTERVAL.as_millis()
    );
    let plan = rig::guest(bytes, "vcpus=1,pattern=uniform,body_bytes=64")?;
    let memory = rig::filled(&plan)?;
    let mut rates: Vec<(&str, Vec<f64>)> = vec![("untracked", Vec::new())];
    rates.extend(TRACKERS.map(|(name, _)| (name, Vec::new())));
    for _ in 0..repetitions {
        rates[0].1.push(writes_per_s(&plan, &memory, None, time)?);
        for (at, (name, tracker)) in TRACKERS.into_iter().enumerate() {
            match writes_per_s(&plan, &memory, Some(tracker), time) {
                Ok(rate) => rates[at + 1].1.push(rate),
                Err(error) => eprintln!("  {name}: {error:#}"),
            }
        }
    }
    let untracked = median(&rates[0].1);
    println!("\n{:<14} {:>14} {:>8}", "tracker", "writes/s", "share");
    let row = |(name, rates): &(&str, Vec<f64>)| {
        let rate = median(rates);
        println!("{name:<14} {rate:>14.0} {:>7.0}%", 100.0 * rate / untracked);
        json!({ "tracker": name, "writes_per_s": rate, "share": rate / untracked })
    };
    Ok(rates.iter().map(row).collect())
}

fn writes_per_s(
    plan: &GuestPlan,
    memory: &Arc<MappedMemory>,
    name: Option<TrackerName>,
    time: Duration,
) -> anyhow::Result<f64> {
    let (hook, mut tracker) = match name {
        None => (None, None),
        Some(name) => {
            let (hook, tracker, _) = track(memory, name)?;
            (hook, Some(tracker))
        }
    };
    let mut vm = SharedVm::new(plan.config.clone(), Arc::clone(memory) as _, hook)?;
    let mut found = DenseBitmap::new(memory.table().pages());
    if let Some(tracker) = &mut tracker {
        tracker.arm()?;
    }
    vm.resume()?;
    let (began, first) = (Instant::now(), vm.ops());
    while began.elapsed() < time {
        thread::sleep(INTERVAL.min(time.saturating_sub(began.elapsed())));
        if let Some(tracker) = &mut tracker {
            found.clear_all();
            tracker.harvest(&mut found)?;
        }
    }
    let (ops, took) = (vm.ops() - first, began.elapsed());
    vm.pause()?;
    if let Some(tracker) = &mut tracker {
        tracker.disarm()?;
    }
    Ok(float(ops) / took.as_secs_f64())
}

fn harvest_time(quick: bool) -> anyhow::Result<Value> {
    let (bytes, repetitions) = if quick { (1u64 << 30, 3) } else { (4u64 << 30, 5) };
    rig::need(bytes * 5 / 4)?;
    println!(
        "\nTime of one harvest over {}, all populated, pages dirtied one by one and evenly \
         spread; medians of {repetitions}, in ms. Each row begins with whole huge pages, and ends \
         with them split",
        show::bytes(bytes)
    );
    let plan = rig::guest(bytes, "vcpus=1,pattern=idle,filling=zero")?;
    let head: Vec<_> = SHARES.iter().map(|share| format!("{:>12}", format!("{share} %"))).collect();
    println!("\n{:<14}{}", "tracker", head.join(""));
    let mut rows = Vec::new();
    for (name, tracker) in TRACKERS {
        let memory = rig::filled(&plan)?;
        let mut cells = Vec::new();
        for share in SHARES {
            // Signals for every page of a large guest take longer than anybody waits.
            let repetitions = if share > 50.0 { repetitions.min(2) } else { repetitions };
            cells.push(harvests(&memory, tracker, share, repetitions)?);
        }
        let text: Vec<_> = cells.iter().map(|ms| format!("{ms:>12.3}")).collect();
        println!("{name:<14}{}", text.join(""));
        rows.push(json!({ "tracker": name, "dirty_percent": SHARES, "harvest_ms": cells }));
    }
    Ok(json!({ "bytes": bytes, "rows": rows }))
}

fn harvests(
    memory: &Arc<MappedMemory>,
    name: TrackerName,
    percent: f64,
    repetitions: u32,
) -> anyhow::Result<f64> {
    let (hook, mut tracker, _) = track(memory, name)?;
    let pages = memory.table().pages();
    let mut found = DenseBitmap::new(pages);
    tracker.arm()?;
    tracker.harvest(&mut found)?;
    let step = if percent > 0.0 { 100.0 / percent } else { f64::INFINITY };
    let mut times = Vec::new();
    for _ in 0..repetitions {
        let mut at = 0.0;
        while at < float(pages) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "below the number of pages"
            )]
            let page = PageIndex::new(at as u64);
            if step.is_finite() {
                memory.store_u64(page, 8, 0)?;
                if let Some(hook) = &hook {
                    hook(page);
                }
            }
            at += step;
        }
        found.clear_all();
        let began = Instant::now();
        tracker.harvest(&mut found)?;
        times.push(show::millis(began.elapsed()));
        let least = (float(pages) * percent / 100.0).floor();
        anyhow::ensure!(float(found.count()) >= least, "A harvest missed writes");
    }
    tracker.disarm()?;
    Ok(median(&times))
}
