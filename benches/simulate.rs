// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How fast the simulator is: simulated seconds and page events (pages written, pages sent) per
//! second on one core. Run with `cargo bench --bench simulate [FILTER]`; about a minute.
//!
//! The guest is synthetic: a hot set, a log that runs through memory, and scattered writes, in
//! ticks of 10 ms. What it writes does not depend on the machine. Before that, the memory that a
//! guest of 1 TiB takes which is written all over (another half a minute; not with a FILTER).

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use precopy::bitmap::DenseBitmap;
use precopy::policy::{Strategy, StrategySpec};
use precopy::region::RegionTable;
use precopy::session::SourceConfig;
use precopy::sim::pair::{NeverStop, PairPlan, PairResult, run_guest};
use precopy::sim::{Populated, ReplayOptions, Rng, TraceGuest};
use precopy::trace::{MemoryTrace, TraceHeader, TraceTick};
use precopy::units::{MigrationId, PageIndex, PageRun, PageSize, Tick};

const TICKS: u64 = 3000;
const TICK_NANOS: u64 = 10_000_000;

/// Half a minute of a guest that reports about `pages_per_s` pages a second.
fn trace(pages: u64, pages_per_s: u64) -> MemoryTrace {
    let mut rng = Rng::new(5);
    let a_tick = pages_per_s / 100;
    let tick = |number: u64| {
        let mut set = DenseBitmap::new(pages);
        for _ in 0..a_tick * 6 / 10 {
            set.set(PageIndex::new(rng.below(pages / 64)));
        }
        let at = number * a_tick % (pages - a_tick);
        set.set_run(PageRun::from_range(at..at + a_tick * 3 / 10));
        for _ in 0..a_tick / 10 {
            set.set(PageIndex::new(rng.below(pages)));
        }
        TraceTick::new(Tick::from_nanos((number + 1) * TICK_NANOS), set.runs().collect())
    };
    MemoryTrace::new(TraceHeader::new(pages, "bench"), (0..TICKS).map(tick).collect())
}

/// Ten seconds of a guest that writes 300,000 pages a second anywhere.
fn scattered(pages: u64) -> MemoryTrace {
    let mut rng = Rng::new(6);
    let tick = |number: u64| {
        let written: BTreeSet<u64> = (0..3000).map(|_| rng.below(pages)).collect();
        let mut runs: Vec<PageRun> = Vec::with_capacity(written.len());
        for page in written {
            match runs.last_mut().filter(|run| run.end().get() == page) {
                Some(run) => *run = PageRun::from_range(run.start().get()..page + 1),
                None => runs.push(PageRun::new(PageIndex::new(page), 1)),
            }
        }
        TraceTick::new(Tick::from_nanos((number + 1) * TICK_NANOS), runs)
    };
    MemoryTrace::new(TraceHeader::new(pages, "bench"), (0..1000).map(tick).collect())
}

fn strategy(name: &str) -> Strategy {
    match StrategySpec::parse(name) {
        Ok(spec) => spec.build(),
        Err(error) => unreachable!("{name}: {error}"),
    }
}

fn never(order: &str) -> Strategy {
    let mut strategy = strategy(&format!("stop-at-once+{order}"));
    strategy.stop = Box::new(NeverStop::new(Duration::from_secs(60)));
    strategy
}

fn migrate(trace: &MemoryTrace, bytes_per_s: f64, strategy: Strategy) -> PairResult {
    let mut options = ReplayOptions::default();
    options.populated = Populated::All;
    let mut guest = match TraceGuest::new(trace.clone(), &options) {
        Ok(guest) => guest,
        Err(never) => match never {},
    };
    let pages = precopy::trace::TickSource::header(trace).pages;
    let regions = match RegionTable::single(PageSize::BASE, pages) {
        Ok(regions) => regions,
        Err(error) => unreachable!("{error}"),
    };
    let config = SourceConfig::new(MigrationId::new(1), regions);
    let mut plan = PairPlan::for_guest(config, strategy);
    plan.link.bandwidth_bytes_per_s = bytes_per_s;
    // As tournaments do.
    plan.keep_log = false;
    run_guest(plan, &mut guest)
}

/// Runs once and tells how fast that was. Returns the page events.
fn tell(name: &str, trace: &MemoryTrace, bytes_per_s: f64, strategy: Strategy) -> u64 {
    let began = Instant::now();
    let ran = migrate(trace, bytes_per_s, strategy);
    let took = began.elapsed().as_secs_f64();
    let simulated = ran.ended_at.since(Tick::ZERO).as_secs_f64();
    let events = ran.guest_writes + ran.totals.sent_pages;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let millions = events as f64 / took / 1e6;
    println!(
        "{name}: {:.0} simulated s/s, {millions:.1} million page events/s, {} rounds",
        simulated / took,
        ran.totals.rounds,
    );
    events
}

/// Most memory that this process ever had, in MiB, as Linux tells.
fn most_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn memory() {
    let trace = scattered(1 << 28);
    let before = most_mib();
    tell("1TiB-12.5GB/qemu", &trace, 12.5e9, strategy("qemu"));
    println!("1TiB-12.5GB/qemu: {} MiB beside the trace", most_mib() - before);
}

fn simulate(c: &mut Criterion) {
    if std::env::args().skip(1).all(|argument| argument.starts_with('-')) {
        memory();
    }
    let (small, large) = (trace(1 << 18, 10_000), trace(1 << 24, 100_000));
    let cases = [("1GiB-125MB", &small, 125e6), ("64GiB-1.25GB", &large, 1.25e9)];
    for (guest, trace, rate) in cases {
        let mut group = c.benchmark_group(guest);
        group.sample_size(10);
        let runs: [(&str, &dyn Fn() -> Strategy); 4] = [
            ("qemu", &|| strategy("qemu")),
            ("qemu+cold-first", &|| strategy("qemu+cold-first")),
            ("never", &|| never("address")),
            ("never+cold-first", &|| never("cold-first")),
        ];
        for (name, build) in runs {
            let events = tell(&format!("{guest}/{name}"), trace, rate, build());
            group.throughput(Throughput::Elements(events));
            group.bench_function(name, |b| {
                b.iter(|| black_box(migrate(trace, rate, build())));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, simulate);
criterion_main!(benches);
