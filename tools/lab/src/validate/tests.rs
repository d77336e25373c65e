// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Counts only: what a machine's speed does to time is no matter of tests.

use std::time::Duration;

use precopy::policy::Guards;
use precopy::sim::touched_pages;
use precopy::trace::TraceTick;
use precopy::units::Tick;

use super::*;

#[test]
fn errors_and_orders_are_told() {
    let costs = Costs {
        bandwidth_bytes_per_s: 1e6,
        latency: Duration::ZERO,
        pause: Duration::ZERO,
        harvest: Duration::ZERO,
        state: Duration::ZERO,
    };
    let row = |name: &str, live: (u64, f64), simulated: (u64, f64)| {
        let figures = |(wire_bytes, downtime_s)| Figures {
            rounds: 3,
            wire_bytes,
            time_s: 1.0,
            downtime_s,
            ..Figures::default()
        };
        Compared::new("guest", name, vec![(figures(live), figures(simulated))], costs)
    };
    let rows = vec![
        row("a", (1000, 0.010), (1010, 0.011)),
        row("b", (2000, 0.020), (1900, 0.030)),
        row("c", (4000, 0.040), (4800, 0.025)),
        row("d", (4040, 0.040), (4000, 0.040)),
    ];
    let compared = Comparison::new("guest", rows);
    let [rounds, bytes, time, downtime] = &compared.errors[..] else { panic!("{compared}") };
    assert_eq!((rounds.median, rounds.largest, time.median), (0.0, 0.0, 0.0));
    // Of 1 %, 5 %, 20 % and 1 %.
    assert!((bytes.median - 0.03).abs() < 1e-3 && (bytes.largest - 0.2).abs() < 1e-9);
    assert_eq!(bytes.swapped, [], "c and d are a tie");
    assert_eq!(downtime.swapped, [("b".to_owned(), "c".to_owned())]);
    assert!(compared.to_string().contains("in another order: b and c"), "{compared}");
}

/// A live migration and its replay agree on what does not depend on the machine's speed: a
/// quiet guest's pages, and that a strategy of so many rounds sends so many.
#[test]
fn a_recorded_migration_is_simulated() {
    // It writes only what is there, so that the same pages are populated all the time.
    let guest = "vcpus=4,pattern=zipf,skew=0.9,pages_per_s=2000,fill=50%,working_set=50%";
    let guest = guest.parse().unwrap();
    let case = LiveCase {
        guest: Guest::Counters { pages: 4096, config: guest },
        strategy: "fixed-rounds:rounds=3".to_owned(),
        guards: Guards::default(),
        downtime_limit: Duration::from_millis(50),
        cap_bytes_per_s: 40_000_000,
        warm_up: Duration::from_millis(100),
    };
    let live = measure(&case).unwrap();
    let ticks = live.recorded.trace.ticks();
    assert!(ticks.iter().map(TraceTick::pages).sum::<u64>() > 0, "writes were recorded");
    let costs = Costs::of(&live.report, 40e6);
    let (simulated, result) =
        simulate(&live.recorded, &case.strategy, &case.guards, case.downtime_limit, costs).unwrap();
    assert_eq!(result.violations.len(), 0, "{:?}", result.violations);
    assert_eq!(simulated.rounds, live.figures.rounds, "{live:?} {result:?}");
    // All populated pages in the first round.
    let (first, replayed) = (&live.report.rounds[0], &result.rounds[0]);
    let listed = first.sent_pages - first.zero_pages;
    assert_eq!((listed, replayed.sent_pages), (2048, 2048));
    // Then what the guest wrote meanwhile, unless the machine left it no time for that.
    let began = Tick::ZERO + live.recorded.migrated_at + replayed.started.since(Tick::ZERO);
    let wrote = |pair: &[TraceTick]| {
        pair[0].end >= began && pair[1].end <= began + replayed.duration / 2 && pair[1].pages() > 0
    };
    assert!(result.rounds[1].sent_pages > 0 || !ticks.windows(2).any(wrote));
    let coarse = live.recorded.coarser(5);
    assert_eq!(coarse.trace.ticks().len(), ticks.len().div_ceil(5));
    let all = |trace: &precopy::trace::MemoryTrace| touched_pages(&mut trace.clone()).unwrap();
    assert_eq!(all(&coarse.trace), all(&live.recorded.trace), "no page is lost");
    let again =
        simulate(&live.recorded, &case.strategy, &case.guards, case.downtime_limit, costs).unwrap();
    assert_eq!(result.log_hash, again.1.log_hash, "a replay is always the same");
}
