// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every page order, rate and throttle through the pair: no page is lost, no round spins, and the
//! residual is what theory says.

use std::time::Duration;

use proptest::prelude::*;

use super::{Link, PairPlan, PairResult, run};
use crate::policy::order::orders;
use crate::policy::rate::rates;
use crate::policy::throttle::throttles;
use crate::policy::{Moment, Observation, StopPolicy, StrategySpec, Verdict};
use crate::region::RegionTable;
use crate::report::Outcome;
use crate::session::SourceConfig;
use crate::sim::workload::{Pattern, Workload};
use crate::units::{MigrationId, PageSize};

/// Stops at the first harvest after a time, or at the first low residual.
#[derive(Clone, Debug)]
struct StopLate {
    after: Duration,
    below_pages: u64,
}

impl StopPolicy for StopLate {
    fn name(&self) -> &'static str {
        "stop-late"
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        let low = seen.unsent_pages == 0 && seen.residual_pages < self.below_pages;
        if seen.moment == Moment::Harvested && (seen.elapsed >= self.after || low) {
            return Verdict::stop("late enough");
        }
        Verdict::go_on("not yet")
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

/// A strategy but for its stop policy, which stops after `after_ms`.
fn plan(parts: &str, pages: u64, workload: Workload, after_ms: u64) -> PairPlan {
    let regions = RegionTable::single(PageSize::BASE, pages).unwrap();
    let config = SourceConfig::new(MigrationId::new(1), regions);
    let mut strategy = StrategySpec::parse(&format!("qemu{parts}")).unwrap().build();
    let after = Duration::from_millis(after_ms);
    strategy.stop = Box::new(StopLate { after, below_pages: 0 });
    PairPlan::new(config, strategy, workload)
}

/// Everything that can stand behind a stop policy, each alone, and some together.
fn parts() -> Vec<String> {
    let names = orders().iter().map(|info| info.name);
    let names = names.chain(rates().iter().map(|info| info.name));
    let names = names.chain(throttles().iter().map(|info| info.name));
    let more = [
        "cold-first:clear=false,slice_ms=3,least_ms=0+clark-rate+stun",
        "fifo:slice_ms=1,least_ms=0+constant:bytes_per_s=2000000",
        "history:rounds=1,dirty=1,least_ms=1+deadline:deadline_ms=300",
        "frequency:slice_ms=10,clear=true+auto-converge:period_ms=0",
        "lru:slice_ms=off+soft-landing:lull=0",
        "xen-skip:first=true",
    ];
    names.chain(more).map(|name| format!("+{name}")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// R1 to R7 hold and both digests are equal, whatever decides the order.
    #[test]
    fn no_page_is_lost(
        which in any::<prop::sample::Index>(),
        pages in 1u64..500,
        (batch_pages, channels, two_phase) in (1u32..65, 1u8..5, any::<bool>()),
        (pattern, ratio) in (0usize..5, 0.0f64..3.0),
        (bandwidth, latency_us) in (prop_oneof![Just(2e6), Just(2e7), Just(1e9)], 1u64..3000),
        (preflight_ms, expected) in (0u64..40, prop::option::of(1u64..10_000_000)),
        (after_ms, below_pages) in (1u64..600, 0u64..40),
        seed in any::<u64>(),
    ) {
        let pattern = [
            Pattern::Idle,
            Pattern::Uniform { span: 0.5 },
            Pattern::Zipf { exponent: 0.9 },
            Pattern::HotSet { hot: 0.1, probability: 0.9 },
            Pattern::Bursts { period_ms: 30, duty: 0.3 },
        ][pattern];
        let writes_per_s = (bandwidth / 4096.0 * ratio).min(50_000.0);
        let workload = Workload::new(pattern, writes_per_s, pages, seed);
        let all = parts();
        let parts: &String = which.get(&all);
        let mut plan = plan(parts, pages, workload, after_ms);
        let after = Duration::from_millis(after_ms);
        plan.strategy.stop = Box::new(StopLate { after, below_pages });
        let latency = Duration::from_micros(latency_us);
        plan.link = Link { bandwidth_bytes_per_s: bandwidth, latency };
        let config = &mut plan.source;
        (config.batch_pages, config.channels, config.verify) = (batch_pages, channels, true);
        config.tracker_rearms = two_phase;
        (config.preflight, config.preflight_interval) =
            (Duration::from_millis(preflight_ms), Duration::from_millis(7));
        config.expected_bandwidth_bytes_per_s = expected;
        let ran = run(plan);
        prop_assert!(ran.violations.is_empty(), "{:?}", ran.violations);
        prop_assert_eq!(ran.outcome, Some(Outcome::HandedOver), "{:?}", ran.failure);
    }
}

/// Harvests that the running guest saw, and how long it was sent.
fn harvests(ran: &PairResult) -> (u32, Duration) {
    let last = ran.decisions.last().expect("a stop");
    (last.seen.harvests, last.seen.elapsed)
}

#[test]
fn a_round_that_sends_nothing_waits() {
    // All pages are hot soon: nothing is sent, and a harvest comes every 20 ms, not every 0.2 ms.
    let workload = Workload::new(Pattern::Sequential { span: 1.0 }, 100_000.0, 50, 1);
    let ran = run(plan("+history:rounds=3,dirty=2,least_ms=20", 50, workload, 2000));
    assert_eq!(ran.outcome, Some(Outcome::HandedOver), "{:?}", ran.failure);
    let (harvests, elapsed) = harvests(&ran);
    let expected = elapsed.as_millis() / 20;
    assert!((expected - 4..=expected).contains(&u128::from(harvests)), "{harvests} {expected}");
    let idle = ran.rounds.iter().filter(|round| round.sent_pages == 0).count();
    assert!(idle + 8 > ran.rounds.len(), "{idle} of {} rounds", ran.rounds.len());
    assert_eq!(ran.rounds.last().map(|round| round.sent_pages), Some(50), "the pause sends all");
}

#[test]
fn a_continuous_round_is_a_pass_and_a_harvest_is_a_harvest() {
    // 2000 pages at 1000 a second and 500 written a second: the first pass takes 2 s, the second
    // less than half a second, and a harvest comes every 50 ms, or 10 when nothing is left.
    let workload = Workload::new(Pattern::Uniform { span: 1.0 }, 500.0, 2000, 3);
    let mut plan = plan("+fifo", 2000, workload, 5000);
    plan.link.bandwidth_bytes_per_s = 4.12e6;
    // What is queued when a round is cut is sent first: little, on so slow a link.
    plan.source.batch_pages = 4;
    let ran = run(plan);
    let at: Vec<_> = ran.decisions.iter().filter(|d| d.seen.moment == Moment::Harvested).collect();
    assert!(at.windows(2).all(|two| two[1].seen.harvests == two[0].seen.harvests + 1));
    let passes = |from_s: f64, to_s: f64| {
        let within =
            |d: &&&crate::report::Decision| (from_s..to_s).contains(&d.seen.elapsed.as_secs_f64());
        let seen: Vec<u32> = at.iter().filter(within).map(|d| d.seen.rounds_sent).collect();
        (seen.first().copied(), seen.last().copied())
    };
    assert_eq!(passes(0.0, 1.9), (Some(0), Some(0)), "the first pass is not over");
    assert_eq!(passes(2.2, 2.35), (Some(1), Some(1)), "the second has begun");
    let last = &at.last().unwrap().seen;
    assert!((90..=450).contains(&last.harvests), "{}", last.harvests);
    assert!(last.rounds_sent > 2 && last.rounds_sent + 25 <= last.harvests, "{last:?}");
    // In rounds both are the same.
    let workload = Workload::new(Pattern::Uniform { span: 1.0 }, 500.0, 2000, 3);
    let ran = run(self::plan("+frequency", 2000, workload, 500));
    let seen = &ran.decisions.last().unwrap().seen;
    assert!(seen.harvests == seen.rounds_sent && seen.harvests > 3, "{seen:?}");
}

/// Mean residual at harvests, as a share of the guest, from a third of the run on.
fn mean_residual(parts: &str, lambda: f64, after_ms: u64) -> f64 {
    const PAGES: u64 = 4000;
    let link_pages_per_s = 4000.0;
    let uniform = Pattern::Uniform { span: 1.0 };
    let workload = Workload::new(uniform, link_pages_per_s * lambda, PAGES, 5);
    let mut plan = plan(parts, PAGES, workload, after_ms);
    plan.link.bandwidth_bytes_per_s = link_pages_per_s * 4128.0;
    // Nothing but writes and pages: a link that never waits, and no page that waits once cleared.
    (plan.source.batch_pages, plan.harvest_cost) = (4, Duration::ZERO);
    plan.per_page = Duration::ZERO;
    plan.link.latency = Duration::from_micros(1);
    let ran = run(plan);
    assert_eq!(ran.outcome, Some(Outcome::HandedOver), "{:?}", ran.failure);
    let third = Duration::from_millis(after_ms / 3);
    let late = ran
        .decisions
        .iter()
        .filter(|d| d.seen.moment == Moment::Harvested && d.seen.elapsed > third);
    let shares: Vec<f64> = late.map(|d| d.seen.residual_pages as f64 / PAGES as f64).collect();
    shares.iter().sum::<f64>() / shares.len() as f64
}

/// heuristics.md 2.2, the continuous column: 1 - 1/lambda, and what rounds leave.
#[test]
fn uniform_writes_leave_what_theory_says() {
    for lambda in [1.5, 2.0, 4.0] {
        let expected = 1.0 - 1.0 / lambda;
        for parts in ["+fifo", "+lru", "+clear-at-send"] {
            let found = mean_residual(parts, lambda, 15_000);
            assert!((found - expected).abs() < 0.01, "{parts} {lambda}: {found}, {expected}");
        }
    }
    let rounds = mean_residual("+address", 2.0, 15_000);
    assert!((rounds - 0.797).abs() < 0.01, "{rounds}");
}

#[test]
fn cold_first_leaves_less_than_rounds_and_fifo() {
    let residual = |parts: &str| {
        let zipf = Pattern::Zipf { exponent: 0.95 };
        let mut plan = plan(parts, 4000, Workload::new(zipf, 8000.0, 4000, 7), 12_000);
        plan.link.bandwidth_bytes_per_s = 2000.0 * 4120.0;
        let ran = run(plan);
        let late = ran.decisions.iter().filter(|d| d.seen.elapsed > Duration::from_secs(4));
        let late = late.filter(|d| d.seen.moment == Moment::Harvested);
        let pages: Vec<u64> = late.map(|d| d.seen.residual_pages).collect();
        pages.iter().sum::<u64>() as f64 / pages.len() as f64
    };
    let [rounds, fifo, cold] = ["+address", "+fifo", "+cold-first"].map(residual);
    println!("rounds {rounds:.0}, fifo {fifo:.0}, cold-first {cold:.0} pages");
    assert!(cold * 1.2 < fifo && fifo < rounds, "{cold} {fifo} {rounds}");
}

/// The rate policies hold the sender back, and the pause is free of them.
#[test]
fn rates_are_kept_while_the_guest_runs() {
    let took = |parts: &str| {
        let ran = run(plan(parts, 2000, Workload::new(Pattern::Idle, 0.0, 2000, 1), 1));
        ran.rounds[0].duration.as_secs_f64()
    };
    let bytes = 2000.0 * 4120.0;
    let constant = took("+constant:bytes_per_s=4000000");
    assert!((constant - bytes / 4e6).abs() < 0.1, "{constant}");
    // Half of what is left at any time is sent in half of the time that is left.
    let paced = took("+deadline:deadline_ms=3000,min_bytes_per_s=1");
    assert!((2.7..3.1).contains(&paced), "{paced}");
}

/// A guest that dirties at twice the link's rate converges under each throttle that is to see to
/// it, and not without.
#[test]
fn throttles_make_a_guest_converge() {
    let residual = |parts: &str| {
        let uniform = Pattern::Uniform { span: 1.0 };
        let mut plan = plan(parts, 4000, Workload::new(uniform, 8000.0, 4000, 9), 40_000);
        plan.link.bandwidth_bytes_per_s = 4000.0 * 4120.0;
        let after = Duration::from_secs(40);
        plan.strategy.stop = Box::new(StopLate { after, below_pages: 200 });
        let ran = run(plan);
        ran.decisions.last().unwrap().seen.residual_pages
    };
    assert!(residual("+fifo") > 1500);
    let limit = "+fifo+dirty-limit:quota_bytes_per_s=8000000,band_bytes_per_s=1000000";
    for parts in ["+fifo+auto-converge", limit, "+fifo+stun:target_percent=20"] {
        let left = residual(parts);
        assert!(left < 200, "{parts}: {left}");
    }
}
