// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sliding evaluation against one that sorts every window anew, and the corners of the rules.

use std::ops::Range;
use std::time::Duration;

use precopy::sim::Rng;
use precopy::units::Tick;
use proptest::prelude::*;

use super::*;
use crate::site::Action;

fn at(ms: u64) -> Tick {
    Tick::from_nanos(ms * 1_000_000)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn sample(action: Action, start_ms: u64, end_ms: u64, status: Status) -> Sample {
    Sample {
        user: 0,
        action,
        intended_start: at(start_ms),
        start: at(start_ms),
        end: at(end_ms),
        status,
    }
}

fn home(start_ms: u64, end_ms: u64) -> Sample {
    sample(Action::HomePage, start_ms, end_ms, Status::Ok)
}

fn time(value_ms: u64) -> Option<Quantile> {
    Some(Quantile::Time(ms(value_ms)))
}

/// Small windows, so that few samples make many of them.
fn small(attribution: Attribution, method: Method) -> Options {
    Options {
        levels: Levels([ms(300); 7]),
        window: Duration::from_secs(5),
        step: Duration::from_secs(1),
        attribution,
        method,
    }
}

/// The formula of workload.md 6.8 as it is written, with nothing clever.
fn naive(
    samples: &[Sample],
    steady: &Range<Tick>,
    options: &Options,
    action: Action,
    start: Tick,
    percent: f64,
) -> (usize, Option<f64>) {
    let end = start + options.window;
    let mut x: Vec<f64> = samples
        .iter()
        .filter(|s| s.action == action && s.start >= steady.start && s.end < steady.end)
        .filter(|s| {
            let t = if options.attribution == Attribution::Start { s.start } else { s.end };
            t >= start && t < end
        })
        .map(|s| match s.status {
            Status::Ok => s.response_time().as_secs_f64(),
            _ => f64::INFINITY,
        })
        .collect();
    x.sort_by(f64::total_cmp);
    if x.is_empty() {
        return (0, None);
    }
    let n = x.len();
    let value = if options.method == Method::NearestRank {
        // The smallest rank that is not below p * n.
        let rank = (1..=n).find(|&k| k as f64 * 100.0 >= percent * n as f64).unwrap();
        x[rank - 1]
    } else {
        // Value `i` stands at position i * 100 of a ruler that is (n - 1) * 100 long.
        let position = percent * (n - 1) as f64;
        let low = (0..n).rev().find(|&i| i as f64 * 100.0 <= position).unwrap();
        let part = (position - low as f64 * 100.0) / 100.0;
        match x.get(low + 1) {
            Some(high) if part > 0.0 && high.is_infinite() => f64::INFINITY,
            Some(high) if part > 0.0 => x[low] + part * (high - x[low]),
            _ => x[low],
        }
    };
    (x.len(), Some(value))
}

fn check_against_naive(samples: &[Sample], steady: Range<Tick>, options: &Options) {
    let report = evaluate(samples, steady.clone(), options).unwrap();
    for action in Action::ALL {
        let of_action = report.action(action);
        assert_eq!(of_action.curve.len(), report.windows);
        for (point, i) in of_action.curve.iter().zip(0..) {
            let start = steady.start + options.step * i;
            assert_eq!(point.time, start + options.window);
            for (percentile, percent) in [(Percentile::P90, 90.0), (Percentile::P99, 99.0)] {
                let (n, want) = naive(samples, &steady, options, action, start, percent);
                let got = point.quantile(percentile).map(Quantile::as_secs_f64);
                assert_eq!(point.samples, n);
                assert_eq!(got.is_some(), want.is_some());
                let (got, want) = (got.unwrap_or(0.0), want.unwrap_or(0.0));
                assert!(got == want || (got - want).abs() < 1e-6, "{got} for {want}");
            }
        }
        for percentile in Percentile::ALL {
            let values: Vec<_> =
                of_action.curve.iter().map(|p| (p.samples, p.quantile(percentile))).collect();
            let level = of_action.level(percentile);
            assert_eq!(level.worst, values.iter().filter_map(|v| v.1).max());
            // n >= 1 / (1 - p), in whole numbers.
            let enough = |n: usize| n >= if percentile == Percentile::P90 { 10 } else { 100 };
            let over = |v: &(usize, Option<Quantile>)| {
                v.1.is_some_and(|q| q.as_secs_f64() > of_action.limit.as_secs_f64())
            };
            let violations = values.iter().filter(|v| enough(v.0) && over(v)).count();
            assert_eq!(level.violations, violations);
            assert_eq!(level.undetermined, values.iter().filter(|v| !enough(v.0)).count());
        }
    }
}

fn statuses() -> impl Strategy<Value = Status> {
    prop_oneof![
        30 => Just(Status::Ok),
        1 => Just(Status::Refused),
        1 => Just(Status::Reset),
        1 => Just(Status::TimedOut),
    ]
}

fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let one = (0_usize..3, 0_u64..14_000, 0_u64..800, statuses());
    prop::collection::vec(one, 0..400).prop_map(|rows| {
        rows.into_iter()
            .map(|(a, start, took, status)| sample(Action::ALL[a], start, start + took, status))
            .collect()
    })
}

proptest! {
    #[test]
    fn sliding_windows_are_sorted_windows(
        samples in samples(),
        start_ms in 0_u64..3000,
        length_ms in 5000_u64..12_000,
        by_start: bool,
        linear: bool,
    ) {
        let attribution = if by_start { Attribution::Start } else { Attribution::Completion };
        let method = if linear { Method::Linear } else { Method::NearestRank };
        let steady = at(start_ms)..at(start_ms + length_ms);
        check_against_naive(&samples, steady, &small(attribution, method));
    }

    #[test]
    fn ranks_are_selected_in_order(
        ops in prop::collection::vec((0_usize..70, any::<bool>()), 0..300),
    ) {
        let mut set = rank::RankSet::new(70);
        let mut model = std::collections::BTreeSet::new();
        for (rank, add) in ops {
            if add && model.insert(rank) {
                set.insert(rank);
            } else if !add && model.remove(&rank) {
                set.remove(rank);
            }
            prop_assert_eq!(set.len(), model.len());
            for (k, member) in model.iter().enumerate() {
                prop_assert_eq!(set.select(k + 1), *member);
            }
        }
    }

    #[test]
    fn the_longest_silence_is_the_longest(
        ends in prop::collection::vec(0_u64..5000, 0..40),
        from in 0_u64..2000,
        length in 1_u64..3000,
    ) {
        let samples: Vec<_> = ends.iter().map(|&e| home(0, e)).collect();
        let during = at(from)..at(from + length);
        let gap = longest_silence(&samples, &during).unwrap();
        // Millisecond by millisecond: the longest run without a completion.
        let mut last = from;
        let mut longest = 0;
        for t in from..=from + length {
            if t == from + length || ends.contains(&t) {
                longest = longest.max(t - last);
                last = t;
            }
        }
        prop_assert_eq!(gap.length(), ms(longest));
        prop_assert!(gap.from >= during.start && gap.to <= during.end);
    }
}

#[test]
fn a_run_of_the_papers_size_is_evaluated_window_by_window() {
    // 1200 s of steady state, 125 samples a second, spot-checked against the naive formula.
    let mut rng = Rng::new(7);
    let samples: Vec<Sample> = (0..150_000_u64)
        .map(|i| {
            let start = i * 8;
            let took = rng.below(900) + if (400_000..403_000).contains(&start) { 3000 } else { 0 };
            let action = Action::ALL[rng.below(7) as usize];
            let status = if rng.one_in(5000) { Status::TimedOut } else { Status::Ok };
            sample(action, start, start + took, status)
        })
        .collect();
    let steady = at(0)..at(1_200_000);
    let options = Options::default();
    let report = evaluate(&samples, steady.clone(), &options).unwrap();
    assert_eq!(report.windows, 901);
    for (action, i) in Action::ALL.into_iter().zip((0..901_u64).step_by(137)) {
        let point = report.action(action).curve[i as usize];
        for (percentile, percent) in [(Percentile::P90, 90.0), (Percentile::P99, 99.0)] {
            let (n, want) = naive(&samples, &steady, &options, action, at(i * 1000), percent);
            assert_eq!(point.samples, n);
            assert_eq!(point.quantile(percentile).map(Quantile::as_secs_f64), want);
        }
    }
}

#[test]
fn windows_are_half_open_and_wholly_inside() {
    let options = small(Attribution::Completion, Method::NearestRank);
    // One sample ends exactly at the start of the second window, one exactly at its end.
    let samples = [home(900, 1000), home(5900, 6000)];
    let report = evaluate(&samples, at(0)..at(6500), &options).unwrap();
    let counts: Vec<_> = report.actions[0].curve.iter().map(|p| p.samples).collect();
    assert_eq!(counts, [1, 1]);
    let report = evaluate(&samples, at(0)..at(7000), &options).unwrap();
    let counts: Vec<_> = report.actions[0].curve.iter().map(|p| p.samples).collect();
    assert_eq!(counts, [1, 1, 1]);
    assert_eq!(report.actions[0].curve[2].time, at(7000));
}

#[test]
fn only_samples_of_the_steady_state_count() {
    let options = small(Attribution::Completion, Method::NearestRank);
    let samples = [home(999, 1500), home(1000, 1500), home(5500, 5999), home(5500, 6000)];
    let report = evaluate(&samples, at(1000)..at(6000), &options).unwrap();
    assert_eq!((report.samples, report.outside), (2, 2));
    assert_eq!(report.actions[0].curve[0].samples, 2);
}

#[test]
fn the_limit_itself_is_no_violation() {
    let options = small(Attribution::Completion, Method::NearestRank);
    let exactly: Vec<_> = (0..20).map(|i| home(i * 100, i * 100 + 300)).collect();
    let report = evaluate(&exactly, at(0)..at(5000), &options).unwrap();
    assert_eq!(report.actions[0].level(Percentile::P90).verdict, Verdict::Met);
    let mut over = exactly;
    for s in &mut over {
        s.end += Duration::from_nanos(1);
    }
    let report = evaluate(&over, at(0)..at(5000), &options).unwrap();
    let level = report.actions[0].level(Percentile::P90);
    assert_eq!((level.verdict, level.violations), (Verdict::Violated, 1));
    assert_eq!(level.first_violation, Some(at(5000)));
    assert_eq!(report.p90, Verdict::Violated);
}

#[test]
fn too_few_samples_decide_nothing() {
    let options = small(Attribution::Completion, Method::NearestRank);
    // 51 samples, one of them slow: enough for p90, and p99 is the maximum.
    let mut samples: Vec<_> = (0..51).map(|i| home(i * 50, i * 50 + 100)).collect();
    samples[30].end = at(4000);
    let report = evaluate(&samples, at(0)..at(5000), &options).unwrap();
    let action = report.action(Action::HomePage);
    assert_eq!(action.level(Percentile::P90).verdict, Verdict::Met);
    let p99 = action.level(Percentile::P99);
    assert_eq!(p99.worst, time(2500));
    assert_eq!((p99.violations, p99.undetermined, p99.undetermined_over), (0, 1, 1));
    assert_eq!(p99.verdict, Verdict::Undetermined);
    // The other actions have no samples at all.
    assert_eq!(report.action(Action::Login).level(Percentile::P90).worst, None);
    assert_eq!(report.p90, Verdict::Undetermined);
}

#[test]
fn determination_changes_at_ten_and_at_a_hundred() {
    assert!(Percentile::P90.is_undetermined(9) && !Percentile::P90.is_undetermined(10));
    assert!(Percentile::P99.is_undetermined(99) && !Percentile::P99.is_undetermined(100));
    assert_eq!([1, 10, 11, 51].map(|n| Percentile::P90.nearest_rank(n)), [1, 9, 10, 46]);
    assert_eq!([1, 100, 101, 51].map(|n| Percentile::P99.nearest_rank(n)), [1, 99, 100, 51]);
}

#[test]
fn errors_are_longer_than_any_time() {
    let options = small(Attribution::Completion, Method::NearestRank);
    let mut samples: Vec<_> = (0..20).map(|i| home(i * 100, i * 100 + 10)).collect();
    for s in &mut samples[3..6] {
        s.status = Status::Refused;
    }
    let report = evaluate(&samples, at(0)..at(5000), &options).unwrap();
    let action = report.action(Action::HomePage);
    assert_eq!((action.errors, action.level(Percentile::P90).worst), (3, Some(Quantile::Infinite)));
    assert_eq!(action.level(Percentile::P90).verdict, Verdict::Violated);
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["actions"][0]["levels"][0]["worst"].is_null());
    assert_eq!(json["actions"][0]["limit_ns"], 300_000_000);
}

#[test]
fn errors_name_what_to_change() {
    let day = at(0)..at(86_400_000);
    let short = evaluate(&[], at(5000)..at(125_000), &Options::default()).unwrap_err();
    assert_eq!(
        short.to_string(),
        "The steady state lasts 120s, which is shorter than the window of 300s: run for longer, \
         or choose a window of at most 120s"
    );
    let zero = evaluate(&[], day.clone(), &Options { step: ms(0), ..Options::default() });
    assert!(matches!(zero, Err(SlaError::Zero { field: "step", .. })));
    let fine = evaluate(&[], day.clone(), &Options { step: ms(1), ..Options::default() });
    assert!(matches!(fine, Err(SlaError::TooFine { field: "step", max: 864_000, .. })));
    assert!(matches!(throughput(&[], &day, ms(0)), Err(SlaError::Zero { field: "bin", .. })));
    assert!(matches!(throughput(&[], &day, ms(1)), Err(SlaError::TooFine { field: "bin", .. })));
}

#[test]
fn lines_hold_mean_and_longest() {
    let mut samples = vec![home(0, 100), home(700, 1000), home(900, 1999), home(2000, 2500)];
    samples.push(sample(Action::HomePage, 1200, 1300, Status::Reset));
    samples.push(sample(Action::Login, 1200, 1300, Status::Ok));
    let during = at(0)..at(3500);
    let second = Duration::from_secs(1);
    assert_eq!(throughput(&samples, &during, second).unwrap(), [1, 3, 1, 0]);
    let line = response_lines(&samples, Action::HomePage, &during, second, Attribution::Completion)
        .unwrap();
    let rows: Vec<_> = line.iter().map(|p| (p.count, p.errors, p.mean_ns, p.max_ns)).collect();
    assert_eq!(rows[0], (1, 0, Some(100_000_000), Some(100_000_000)));
    assert_eq!(rows[1], (2, 1, Some(699_500_000), Some(1_099_000_000)));
    assert_eq!(rows[3], (0, 0, None, None));
    assert_eq!(line[3].time, at(3000));
    let line =
        response_lines(&samples, Action::HomePage, &during, second, Attribution::Start).unwrap();
    assert_eq!(line.iter().map(|p| p.count).collect::<Vec<_>>(), [3, 0, 1, 0]);
}

#[test]
fn a_pause_shows_as_silence_recovery_and_drops() {
    let mut samples: Vec<_> = (0..100).map(|i| home(i * 100, i * 100 + 50)).collect();
    let pause = at(3000)..at(6000);
    samples.retain(|s| !pause.contains(&s.start));
    samples.extend([
        home(3010, 6100),
        home(5999, 8200),
        home(2999, 9000),
        sample(Action::Login, 4000, 20_000, Status::TimedOut),
        sample(Action::Login, 4001, 6000, Status::Reset),
    ]);
    let steady = at(0)..at(10_000);
    let gap = longest_silence(&samples, &steady).unwrap();
    assert_eq!((gap.from, gap.to), (at(2950), at(6050)));
    let recovery = recovery(&samples, &pause);
    assert_eq!(recovery.time_ns, 2_200_000_000);
    assert_eq!((recovery.started, recovery.unanswered), (4, 2));
    let drops = drops(&samples, &steady);
    assert_eq!((drops.resets, drops.timeouts, drops.total()), (1, 1, 2));
    // A guest that does not come back is down until the end.
    samples.retain(|s| s.end < pause.end);
    assert_eq!(longest_silence(&samples, &steady).unwrap().to, steady.end);
    assert_eq!(longest_silence(&samples, &(at(1)..at(1))), None);
}

#[test]
fn the_prober_measures_the_gap_less_its_period() {
    let probes: Vec<Probe> = (0..500_u64)
        .map(|i| {
            let sent = i * 10;
            // Nothing is answered between 2000 and 3000; then all that waited is.
            let done = if (2000..3000).contains(&sent) { 3001 } else { sent + 1 };
            Probe::on_time(at(sent), (i != 499).then(|| at(done)))
        })
        .collect();
    let outage = probe_outage(&probes, ms(10)).unwrap();
    assert_eq!((outage.gap.from, outage.gap.to), (at(1991), at(3001)));
    assert_eq!(outage.downtime_ns, 1_000_000_000);
    assert_eq!(outage.unanswered, 1);
    assert_eq!(probe_outage(&probes[..1], ms(10)), None);
    let steady = probe_outage(&probes[..100], ms(10)).unwrap();
    assert_eq!(steady.downtime_ns, 0);
}

#[test]
fn bands_are_mean_least_and_greatest() {
    let curve = |values: &[(u64, Option<u64>)]| -> Vec<(Tick, Quantile)> {
        values
            .iter()
            .map(|&(t, v)| (at(t), v.map_or(Quantile::Infinite, |v| Quantile::Time(ms(v)))))
            .collect()
    };
    let bands = bands(&[
        curve(&[(1, Some(10)), (2, Some(30))]),
        curve(&[(1, Some(20)), (2, None)]),
        curve(&[(1, Some(60))]),
    ]);
    assert_eq!(bands.len(), 2);
    assert_eq!((Some(bands[0].mean), Some(bands[0].min)), (time(30), time(10)));
    assert_eq!((Some(bands[0].max), bands[0].runs), (time(60), 3));
    assert_eq!((bands[1].mean, bands[1].runs), (Quantile::Infinite, 2));
    assert_eq!((Some(bands[1].min), bands[1].max), (time(30), Quantile::Infinite));
}
