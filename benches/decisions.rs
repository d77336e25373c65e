// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a decision costs: nanoseconds for each verdict of a stop policy, and for each page that a
//! page order takes from a harvest and hands out, medians of nine. Run with
//! `cargo bench --bench decisions`; half a minute.
//!
//! All get the same: what the production session saw of a synthetic guest of 1 GiB (a Zipf hot set
//! with bursts) over 1 Gb/s in a minute of virtual time, at harvests and every 10 ms.

use std::hint::black_box;
use std::time::{Duration, Instant};

use precopy::bitmap::DenseBitmap;
use precopy::policy::order::{PageOrder, orders};
use precopy::policy::{Observation, PolicySpec, Strategy, StrategySpec, policies};
use precopy::region::RegionTable;
use precopy::session::SourceConfig;
use precopy::sim::pair::{NeverStop, PairPlan, run_guest};
use precopy::sim::{ReplayOptions, Rng, TraceGuest};
use precopy::trace::synth::{SynthSpec, SynthTrace};
use precopy::trace::{MemoryTrace, Trace as _};
use precopy::units::{MigrationId, PageIndex, PageRun, PageSize, Tick};

const PAGES: u64 = 1 << 18;

/// Repetitions of a line of the table.
const REPEAT: usize = 9;

fn strategy(name: &str) -> Strategy {
    match StrategySpec::parse(name) {
        Ok(spec) => spec.build(),
        Err(error) => unreachable!("{name}: {error}"),
    }
}

/// What a policy sees of a guest that nobody stops, sent in this order.
fn observations(order: &str) -> Vec<Observation> {
    let made = SynthSpec::parse("zipf:rate=20000+bursts").and_then(|spec| {
        let (tick, length) = (Duration::from_millis(10), Duration::from_secs(60));
        SynthTrace::new(spec, PAGES, tick, length, 1)
    });
    let made = made.map(|trace| trace.open().and_then(|mut source| MemoryTrace::read(&mut source)));
    let Ok(Ok(trace)) = made else { unreachable!("the trace is a constant") };
    let guest = TraceGuest::new(trace, &ReplayOptions::default());
    let mut guest = match guest {
        Ok(guest) => guest,
        Err(never) => match never {},
    };
    let Ok(regions) = RegionTable::single(PageSize::BASE, PAGES) else {
        unreachable!("a constant")
    };
    let mut strategy = strategy(&format!("stop-at-once+{order}"));
    strategy.stop = Box::new(NeverStop::new(Duration::from_secs(60)));
    let plan = PairPlan::for_guest(SourceConfig::new(MigrationId::new(1), regions), strategy);
    run_guest(plan, &mut guest).decisions.into_iter().map(|decision| decision.seen).collect()
}

fn judge_all(spec: &PolicySpec, seen: &[Observation]) -> usize {
    let mut policy = spec.build();
    seen.iter().map(|seen| black_box(policy.judge(seen)).word().len()).sum()
}

/// Harvests of the hot and the cold, each with the pages that are owed by then.
struct Harvests {
    sets: Vec<DenseBitmap>,
    pages: u64,
}

impl Harvests {
    fn new() -> Self {
        let mut rng = Rng::new(3);
        let one = |_| {
            let mut set = DenseBitmap::new(PAGES);
            for _ in 0..3000 {
                set.set(PageIndex::new(rng.below(PAGES / 64)));
            }
            for _ in 0..500 {
                set.set(PageIndex::new(rng.below(PAGES)));
            }
            set
        };
        let sets: Vec<_> = (0..100).map(one).collect();
        let pages = sets.iter().map(DenseBitmap::count).sum();
        Self { sets, pages }
    }

    /// All harvests through an order, which hands out what is owed after each.
    fn through(&self, order: &mut dyn PageOrder) -> u64 {
        const INTERVAL: Duration = Duration::from_millis(50);
        let (mut owed, mut now) = (DenseBitmap::new(PAGES), Tick::ZERO);
        let (mut picked, mut runs) = (0, Vec::<PageRun>::new());
        order.begin(now, &owed);
        for set in &self.sets {
            now += INTERVAL;
            let Ok(()) = owed.or_with(set) else { unreachable!("sets of one guest") };
            order.harvested(now, INTERVAL, set);
            while order.picks() {
                runs.clear();
                order.pick(&owed, 1024, 1024, &mut runs);
                if runs.is_empty() {
                    break;
                }
                for run in &runs {
                    owed.clear_run(*run);
                    picked += run.pages();
                }
            }
        }
        picked
    }
}

/// The median of some times, in nanoseconds for each of `count`.
fn median(mut times: Vec<Duration>, count: u64) -> f64 {
    times.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let count = count.max(1) as f64;
    times[times.len() / 2].as_secs_f64() * 1e9 / count
}

fn timed(mut run: impl FnMut()) -> Vec<Duration> {
    let one = |_| {
        let began = Instant::now();
        run();
        began.elapsed()
    };
    (0..REPEAT).map(one).collect()
}

fn main() {
    let (rounds, slices) = (observations("address"), observations("cold-first"));
    println!("ns a decision ({} in rounds, {} in slices)", rounds.len(), slices.len());
    for info in policies() {
        let Ok(spec) = info.name.parse::<PolicySpec>() else { continue };
        let each = [&rounds, &slices]
            .map(|seen| median(timed(|| _ = black_box(judge_all(&spec, seen))), seen.len() as u64));
        println!("{:<18} {:>8.0} {:>8.0}", info.name, each[0], each[1]);
    }
    let harvests = Harvests::new();
    println!("ns a harvested page");
    for info in orders() {
        let mut order = strategy(&format!("qemu+{}", info.name)).order;
        let times = timed(|| _ = black_box(harvests.through(&mut *order)));
        println!("{:<18} {:>8.1}", info.name, median(times, harvests.pages));
    }
}
