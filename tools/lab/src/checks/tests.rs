// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Data that passes each check, and data that fails it.

#![expect(clippy::cast_sign_loss, reason = "generated values are positive")]

use precopy::sim::Rng;
use precopy::units::PageRun;
use webvm::site::Action;

use super::*;
use crate::traces::{Q300, Recording};

/// Names of the checks that failed.
fn failed(checks: &[Check]) -> Vec<&str> {
    checks.iter().filter(|c| !c.passed).map(|c| c.name.as_str()).collect()
}

/// Olio's matrix (workload.md, 1.1), walked by one user.
fn walk(rng: &mut Rng, actions: usize) -> [u64; 7] {
    const MATRIX: [[u64; 7]; 7] = [
        [0, 11, 52, 36, 0, 1, 0],
        [0, 0, 60, 20, 0, 0, 20],
        [21, 6, 41, 31, 0, 1, 0],
        [72, 21, 0, 0, 6, 1, 0],
        [52, 6, 0, 31, 11, 0, 0],
        [0, 0, 0, 0, 100, 0, 0],
        [0, 0, 0, 100, 0, 0, 0],
    ];
    let mut counts = [0; 7];
    let mut at = 0;
    for _ in 0..actions {
        counts[at] += 1;
        let mut draw = rng.below(100);
        at = (0..7)
            .find(|&next| {
                let hit = draw < MATRIX[at][next];
                draw = draw.saturating_sub(MATRIX[at][next]);
                hit
            })
            .unwrap();
    }
    counts
}

fn cycles(rng: &mut Rng, mean: f64, count: usize) -> Vec<f64> {
    (0..count).map(|_| (-mean * (1.0 - rng.unit()).ln()).min(25.0)).collect()
}

#[test]
fn the_mix_of_olio_passes_and_others_fail() {
    let mut rng = Rng::new(2);
    let cycles = cycles(&mut rng, 5.0, 40_000);
    for _ in 0..20 {
        let counts = walk(&mut rng, 20_000);
        let checks = mix(&counts, &cycles, 600, 120.8);
        assert!(all_passed(&checks), "{}", table(&checks));
        assert_eq!(checks.len(), 10);
    }
    // No uploads at all; one action in thirty replaced by another.
    let mut counts = walk(&mut rng, 40_000);
    counts[Action::AddEvent.index()] = 0;
    assert_eq!(failed(&mix(&counts, &cycles, 600, 120.8)), ["share of AddEvent"]);
    let mut counts = walk(&mut rng, 100_000);
    counts[0] += 3300;
    counts[2] -= 3300;
    let checks = mix(&counts, &cycles, 600, 120.8);
    assert_eq!(failed(&checks), ["share of HomePage", "share of TagSearch"]);
    // Too few, too slow, too long a cycle, and nothing at all.
    let counts = walk(&mut rng, 19_999);
    let slow = mix(&counts, &[5.2], 600, 114.0);
    assert_eq!(failed(&slow), ["actions counted", "mean cycle, s", "users per action/s"]);
    let nothing = mix(&[0; 7], &[], 600, 0.0);
    assert_eq!(failed(&nothing).len(), nothing.len());
}

#[test]
fn the_analytic_curve_is_that_of_the_specification() {
    // MB at 600 users (workload.md, 6.4).
    let analytic = Analytic::default();
    let mb = |users, t| analytic.pages(users, t) * 4096e-6;
    for (t, want) in [(0.25, 51.0), (1.0, 129.0), (3.0, 292.0), (16.0, 734.0)] {
        assert!((mb(600.0, t) - want).abs() < 0.5, "{} for {want}", mb(600.0, t));
    }
    assert!((mb(100.0, 1.0) - 39.0).abs() < 0.5 && (mb(300.0, 1.0) - 77.0).abs() < 0.5);
}

#[test]
fn dirty_rates_near_the_curve_pass() {
    let analytic = Analytic::default();
    let at = |factors: [f64; 3]| -> Vec<(f64, f64)> {
        [100.0, 300.0, 600.0]
            .into_iter()
            .zip(factors)
            .map(|(users, f)| (users, analytic.pages(users, 1.0) * f))
            .collect()
    };
    let checks = dirty_rate(&at([1.1, 0.95, 1.05]), &analytic);
    assert!(all_passed(&checks) && checks.len() == 4, "{}", table(&checks));
    let checks = dirty_rate(&at([0.84, 1.0, 1.16]), &analytic);
    assert_eq!(failed(&checks), ["distinct MB in 1 s, 100 users", "distinct MB in 1 s, 600 users"]);
    // A set that does not grow with the users.
    let shared = [(100.0, 20_000.0), (300.0, 20_500.0), (600.0, 20_400.0)];
    assert_eq!(failed(&dirty_rate(&shared, &analytic)).last(), Some(&"linear in users: R2"));
    assert_eq!(failed(&dirty_rate(&at([1.0; 3])[..2], &analytic)), ["linear in users: R2"]);
}

fn curve(pages: impl Fn(f64) -> f64) -> Vec<CurvePoint> {
    [0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 8.0]
        .into_iter()
        .map(|window| CurvePoint { window, pages: pages(window) })
        .collect()
}

#[test]
fn wide_private_sets_are_concave_and_small_hot_sets_are_not() {
    let analytic = Analytic::default();
    let at_600 = curve(|t| analytic.pages(600.0, t));
    let checks = wws_curve(&at_600, 600.0, &analytic, 108e6, 9000.0);
    assert!(all_passed(&checks) && checks.len() == 6, "{}", table(&checks));
    // The analytic fixed point: 108 MB/s against D(t), by hand between 1.8 and 2.2 s.
    let t = checks[4].measured.unwrap();
    assert!((analytic.pages(600.0, t) - 108e6 / 4096.0 * t).abs() < 30.0, "{t}");
    // Hot: everything is written within half a second.
    let hot = curve(|t| 6000.0 * (1.0 - (-t * 10.0).exp()) + 100.0 * t);
    let names = failed(&wws_curve(&hot, 600.0, &analytic, 108e6, 100.0)).len();
    assert_eq!(names, 5, "{}", table(&wws_curve(&hot, 600.0, &analytic, 108e6, 100.0)));
    // Straight: a logger that never writes a page again.
    let straight = curve(|t| 30_000.0 * t);
    let checks = wws_curve(&straight, 600.0, &analytic, 108e6, 1000.0);
    assert_eq!(failed(&checks).len(), 5, "{}", table(&checks));
    // Keep-alive that makes no difference, and a curve that ends too early.
    let checks = wws_curve(&at_600, 600.0, &analytic, 108e6, 40_000.0);
    assert_eq!(failed(&checks), ["D(3 s) with keep-alive on / off"]);
    let checks = wws_curve(&at_600[..6], 600.0, &analytic, 108e6, 9000.0);
    assert_eq!(failed(&checks), ["D(8 s) / D(4 s)"]);
    assert_eq!(checks[3].note, "the curve does not reach to 8 s");
}

#[test]
fn a_guest_that_converges_has_no_round_that_repeats() {
    let analytic = Analytic { kernel_pages: 0.0, ..Analytic::default() };
    let calm = curve(|t| analytic.pages(100.0, t));
    let checks = wws_curve(&calm, 100.0, &analytic, 1.25e9, 1.0);
    assert!(checks[4].passed, "{}", table(&checks));
    let busy = curve(|t| 400_000.0 * t.powf(0.5));
    let checks = wws_curve(&busy, 100.0, &analytic, 1.25e9, 1.0);
    assert!(!checks[4].passed, "{}", table(&checks));
}

/// Counts whose rank-frequency line has a slope.
fn ranked(slope: f64, pages: u32) -> Vec<u64> {
    (1..=pages).map(|r| (1e6 * f64::from(r).powf(-slope)).round() as u64).collect()
}

#[test]
fn skew_is_that_of_the_recordings() {
    let mut rng = Rng::new(8);
    let uniform: Vec<u64> = (0..50).map(|_| 1000 + rng.below(100)).collect();
    let (whole, heaps) = (ranked(1.1, 5000), ranked(0.5, 5000));
    let checks = skew(&whole, &heaps, Popularity::Uniform(&uniform));
    assert!(all_passed(&checks) && checks.len() == 3, "{}", table(&checks));
    let zipf = |exponent| Popularity::Zipf { exponent, counts: &whole };
    assert!(all_passed(&skew(&whole, &heaps, zipf(1.12))));
    assert_eq!(failed(&skew(&whole, &heaps, zipf(0.9))), ["objects: Zipf exponent"]);
    let checks = skew(&heaps, &whole, Popularity::Uniform(&ranked(0.9, 50)));
    assert_eq!(failed(&checks).len(), 3, "{}", table(&checks));
    // Nothing recorded.
    let checks = skew(&[], &[], Popularity::Uniform(&[]));
    assert_eq!(failed(&checks).len(), 3);
    assert_eq!(checks[0].note, "0 counts above 0 are too few; at least 2 are needed");
    assert_eq!(checks[0].measured, None);
}

/// A recording in epochs of 0.5 s: in how many of them each page was written, and the pages
/// written in each.
fn half_seconds(recording: Recording) -> (Vec<u64>, Vec<f64>) {
    let trace = recording.trace().unwrap();
    let mut counts = vec![0; trace.pages()];
    let mut last = vec![usize::MAX; trace.pages()];
    let mut series: Vec<f64> = Vec::new();
    for epoch in 0..trace.epochs() {
        let half = (trace.times()[epoch].as_nanos() / 500_000_000) as usize;
        series.resize(series.len().max(half + 1), 0.0);
        for page in trace.runs(epoch).flat_map(PageRun::iter) {
            if std::mem::replace(&mut last[page.as_usize()], half) != half {
                counts[page.as_usize()] += 1;
                series[half] += 1.0;
            }
        }
    }
    (counts, series)
}

#[test]
fn recorded_guests_pass_what_the_checks_ask_of_a_model() {
    for recording in [Recording::Web20, Recording::Web50] {
        let (counts, series) = half_seconds(recording);
        let checks = skew(&counts, &ranked(0.5, 100), Popularity::Uniform(&[100; 20]));
        assert!(all_passed(&checks), "{}", table(&checks));
        let failures = match recording {
            // 11 users on an idle guest are bursty at half a second, but not on longer scales:
            // that comes with load. Their H is 0.50.
            Recording::Web20 => &["dispersion at 8 s / 2 s", "Hurst parameter, 0.5 to 16 s"][..],
            _ => &[],
        };
        assert_eq!(failed(&burstiness(&series)), failures);
        let companion = recording.companion().unwrap().unwrap();
        for sample in [companion.content_start, companion.content_end].into_iter().flatten() {
            let checks = content(sample.sampled_pages, sample.unchanged_content, &[]);
            assert!(checks[0].passed, "{}", table(&checks));
        }
        assert!(companion.content_start.is_some() && companion.content_end.is_some());
    }
}

#[test]
fn bursts_on_every_scale_pass_and_steady_writers_fail() {
    // Loads of very different length: a random walk between levels.
    let mut rng = Rng::new(4);
    let mut level = 5000.0_f64;
    let bursty: Vec<f64> = (0..512)
        .map(|_| {
            level = (level + 4000.0 * (rng.unit() - 0.5)).clamp(500.0, 20_000.0);
            level + 500.0 * rng.unit()
        })
        .collect();
    let checks = burstiness(&bursty);
    assert!(all_passed(&checks) && checks.len() == 5, "{}", table(&checks));
    // The same values in random order: as dispersed at 0.5 s, but no more than that.
    let mut shuffled = bursty.clone();
    for i in (1..shuffled.len()).rev() {
        shuffled.swap(i, rng.below(i as u64 + 1) as usize);
    }
    assert!(failed(&burstiness(&shuffled)).contains(&"Hurst parameter, 0.5 to 16 s"));
    let steady: Vec<f64> = (0..512).map(|_| 5000.0 + rng.unit()).collect();
    assert!(failed(&burstiness(&steady)).contains(&"dispersion at 0.5 s"));
    // Alternating bursts cancel out in longer windows.
    let alternating: Vec<f64> =
        (0..512).map(|i| if i % 2 == 0 { 9000.0 } else { 1000.0 + rng.unit() }).collect();
    assert!(failed(&burstiness(&alternating)).contains(&"dispersion at 2 s / 0.5 s"));
    assert!(failed(&burstiness(&bursty[..100])).contains(&"length recorded, s"));
    assert_eq!(failed(&burstiness(&[])).len(), 5);
}

#[test]
fn contents_are_split_by_region() {
    let region = |name, kind, entropy_bits| RegionContent { name, kind, entropy_bits };
    let regions = [
        region("heaps", RegionKind::Text, 4.4),
        region("page cache", RegionKind::Compressed, 7.94),
        region("never written", RegionKind::Zero, 0.0),
    ];
    let checks = content(1000, 310, &regions);
    assert!(all_passed(&checks) && checks.len() == 4, "{}", table(&checks));
    for unchanged in [190, 410] {
        let checks = content(1000, unchanged, &regions);
        assert_eq!(failed(&checks), ["share of dirtied pages unchanged"]);
    }
    let random = [
        region("heaps", RegionKind::Text, 7.95),
        region("page cache", RegionKind::Compressed, 4.4),
        region("never written", RegionKind::Zero, 0.1),
    ];
    assert_eq!(failed(&content(1000, 300, &random)).len(), 3);
    assert_eq!(failed(&content(0, 0, &[])).len(), 3);
}

fn points(points: &[(f64, f64)]) -> Vec<CurvePoint> {
    points.iter().map(|&(window, pages)| CurvePoint { window, pages }).collect()
}

#[test]
fn models_near_a_recording_pass() {
    let q300: Vec<CurvePoint> = Q300
        .iter()
        .map(|p| CurvePoint { window: f64::from(p.operations), pages: p.pages as f64 })
        .collect();
    // The power law of workload.md 2.3, measured at other windows than the recording's.
    let law = |factor: f64| -> Vec<CurvePoint> {
        (0..12)
            .map(|i| 20.0 * 1.5_f64.powi(i))
            .map(|n| CurvePoint { window: n, pages: factor * 2400.0 * n.powf(0.59) })
            .collect()
    };
    let trace = OpsCurve { name: "q300", points: &q300 };
    let checks = against_trace(&law(1.0), trace);
    assert!(all_passed(&checks) && checks.len() == 5, "{}", table(&checks));
    assert_eq!(failed(&against_trace(&law(1.4), trace)).len(), 5);
    assert_eq!(failed(&against_trace(&law(0.6), trace)).len(), 5);
    // A model measured too briefly, and a recording outside of the check's range.
    let checks = against_trace(&law(1.0)[..4], trace);
    assert_eq!(failed(&checks).len(), 4);
    assert_eq!(checks[1].note, "the model was not measured at this window");
    let short = points(&[(10.0, 3000.0), (39.0, 7000.0)]);
    let checks = against_trace(&law(1.0), OpsCurve { name: "short", points: &short });
    assert_eq!(failed(&checks), ["model / short"]);
    // At the windows of a recording nothing is interpolated.
    assert!(all_passed(&against_trace(&q300, trace)));
}

#[test]
fn tables_are_aligned_and_say_what_failed() {
    let checks = [
        Check::new(1, "mean cycle, s", 4.9661, (4.87, 5.07), "2 %"),
        Check::new(5, "dispersion", 12.0, (50.0, f64::INFINITY), "real site 277"),
        Check::of(4, "objects", Err::<f64, _>("no draws"), (0.001, f64::INFINITY), "unused"),
    ];
    assert_eq!(
        table(&checks),
        "     # check          measured  expected        note\n\
         ok   1 mean cycle, s     4.966  4.870 .. 5.070  2 %\n\
         FAIL 5 dispersion         12.0  >= 50.0         real site 277\n\
         FAIL 4 objects            none  >= 0.00100      no draws\n\
         3 checks, 2 failed\n"
    );
    assert!(!all_passed(&checks) && all_passed(&checks[..1]) && !all_passed(&[]));
    let json = serde_json::to_value(&checks[1]).unwrap();
    assert!(json["expected_high"].is_null() && json["passed"] == false);
}
