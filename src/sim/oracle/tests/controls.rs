// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Negative controls (heuristics.md 5): where nothing can be forecast, forecasts gain nothing.

use std::time::Duration;

use super::strategies::{PAGE_WIRE_BYTES, StopAfter, ms, plan};
use crate::bitmap::DenseBitmap;
use crate::policy::{Moment, Observation, Strategy, StrategySpec, parse};
use crate::sim::oracle::theory::mccall_reservation;
use crate::sim::pair;
use crate::sim::{ReplayOptions, Rng, TraceGuest};
use crate::trace::{MemoryTrace, TraceHeader, TraceTick};
use crate::units::{PageIndex, Tick};

const PAGES: u64 = 4000;
const LINK_PAGES_PER_S: f64 = 4000.0;

/// Busy for half a second, with four times the link's rate over 1600 pages, then quiet for as
/// long, in ticks of 2 ms.
fn phases(shuffled: bool) -> MemoryTrace {
    let mut rng = Rng::new(21);
    let mut sets: Vec<DenseBitmap> = (0..2500)
        .map(|tick| {
            let mut set = DenseBitmap::new(PAGES);
            if tick / 250 % 2 == 0 {
                (0..32).for_each(|_| set.set(PageIndex::new(rng.below(1600))));
            }
            set
        })
        .collect();
    if shuffled {
        for at in (1..sets.len()).rev() {
            sets.swap(at, rng.below(at as u64 + 1) as usize);
        }
    }
    let tick = |(number, set): (usize, &DenseBitmap)| {
        TraceTick::new(Tick::ZERO + ms(2 * (number as u64 + 1)), set.runs().collect())
    };
    let ticks = sets.iter().enumerate().map(tick).collect();
    MemoryTrace::new(TraceHeader::new(PAGES, "phases"), ticks)
}

/// Downtime over 16 offsets, on average, in milliseconds.
fn mean_downtime_ms(trace: &MemoryTrace, strategy: impl Fn(&mut Rng) -> Strategy) -> f64 {
    let mut rng = Rng::new(22);
    let runs = 16;
    let all = (0..runs).map(|run| {
        let options = ReplayOptions::at(ms(run * 613));
        let Ok(mut guest) = TraceGuest::new(trace.clone(), &options);
        let plan = plan(PAGES, strategy(&mut rng), PAGE_WIRE_BYTES * LINK_PAGES_PER_S);
        let ran = pair::run_guest(plan, &mut guest);
        assert!(ran.violations.is_empty(), "{:?} {:?}", ran.violations, ran.failure);
        ran.downtime.unwrap().as_secs_f64() * 1e3
    });
    all.sum::<f64>() / runs as f64
}

/// Who waits for a lull gains on a trace with lulls over who stops at any time, by the same
/// mechanism, and nothing on the same trace with its ticks shuffled.
#[test]
fn a_shuffled_trace_has_nothing_to_wait_for() {
    loses_its_edge("mccall:cost_ms_per_s=3,learn_looks=40+cold-first:slice_ms=20");
    loses_its_edge("renewal:wait_ms_per_s=3,warmup_ms=2000+cold-first:slice_ms=20");
}

fn loses_its_edge(text: &str) {
    let edge = |shuffled: bool| {
        let trace = phases(shuffled);
        let waits = |_: &mut Rng| StrategySpec::parse(text).unwrap().build();
        let stops = |rng: &mut Rng| {
            let mut strategy = waits(rng);
            strategy.stop = Box::new(StopAfter(ms(3500 + rng.below(2000))));
            strategy
        };
        mean_downtime_ms(&trace, stops) - mean_downtime_ms(&trace, waits)
    };
    let (in_order, shuffled) = (edge(false), edge(true));
    let figures = format!("{text}: {shuffled} ms gained shuffled, {in_order} in order");
    assert!(in_order > 50.0 && shuffled.abs() < in_order / 4.0, "{figures}");
}

/// With residuals that are independent draws of one law, McCall's rule stops below the oracle's
/// reservation, whatever the law.
#[test]
#[expect(clippy::cast_sign_loss, reason = "numbers of pages")]
fn independent_residuals_have_mccalls_reservation() {
    let laws: [fn(&mut Rng) -> f64; 3] = [
        |rng| 100.0 + 900.0 * rng.unit(),
        |rng| -300.0 * (1.0 - rng.unit()).ln(),
        |rng| if rng.one_in(10) { 50.0 } else { 1000.0 },
    ];
    for (number, law) in laws.iter().enumerate() {
        let mut rng = Rng::new(30 + number as u64);
        let sample: Vec<f64> = (0..2000).map(|_| law(&mut rng).round()).collect();
        let text = "mccall:cost_ms_per_s=20,learn_looks=2000,window=2000";
        let mut policy = parse(text).unwrap();
        // One look a second, a page a millisecond.
        let seen = |second: u64, pages: f64| {
            let bytes = (pages * 4096.0) as u64;
            Observation {
                moment: Moment::Harvested,
                elapsed: Duration::from_secs(second),
                rounds_sent: 1,
                residual_pages: pages as u64,
                residual_wire_bytes: bytes,
                round_bandwidth_bytes_per_s: Some(4096e3),
                smooth_bandwidth_bytes_per_s: Some(4096e3),
                ..Observation::default()
            }
        };
        for (second, pages) in sample.iter().enumerate() {
            assert_eq!(policy.judge(&seen(second as u64 + 1, *pages)).word(), "continue");
        }
        let xi = mccall_reservation(&sample, 20.0).unwrap();
        let word = |pages: f64| policy.fork().judge(&seen(2001, pages)).word();
        assert_eq!(word((xi - 1.0).floor()), "stop_and_copy", "law {number}: {xi}");
        assert_eq!(word((xi + 1.0).ceil()), "continue", "law {number}: {xi}");
    }
}
