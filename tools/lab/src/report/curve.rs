// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mean and range of the curves of several runs, and what they say about a limit.

use webvm::site::Action;

use super::data::{Fig3Panel, Point};
use super::paper;

/// Mean and range of several runs at one x.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Summary {
    pub(super) x: f64,
    pub(super) mean: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// Mean and range of curves over the x of the first; values at the same place of each belong
/// together. Shorter curves say nothing about what they do not reach.
pub(super) fn mean_and_band<'a>(curves: impl Iterator<Item = &'a [Point]>) -> Vec<Summary> {
    let curves: Vec<&[Point]> = curves.collect();
    let Some(first) = curves.first() else { return Vec::new() };
    let at = |(place, point): (usize, &Point)| {
        let values: Vec<f64> =
            curves.iter().filter_map(|curve| curve.get(place)).map(|p| p.y).collect();
        Summary {
            x: point.x,
            mean: values.iter().sum::<f64>() / values.len() as f64,
            low: values.iter().copied().fold(f64::INFINITY, f64::min),
            high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    };
    first.iter().enumerate().map(at).collect()
}

/// The means as a curve.
pub(super) fn means(curve: &[Summary]) -> Vec<Point> {
    curve.iter().map(|point| Point::new(point.x, point.mean)).collect()
}

/// The range as at most `most` points; each spans the range of those that it stands for.
pub(super) fn thin_band(curve: &[Summary], most: usize) -> Vec<(f64, f64, f64)> {
    let size = curve.len().div_ceil(most.max(1)).max(1);
    let mut band: Vec<_> = curve
        .chunks(size)
        .filter_map(|chunk| {
            let low = chunk.iter().map(|p| p.low).fold(f64::INFINITY, f64::min);
            let high = chunk.iter().map(|p| p.high).fold(f64::NEG_INFINITY, f64::max);
            Some((chunk.first()?.x, low, high))
        })
        .collect();
    if let (Some(last), true) = (curve.last(), size > 1) {
        band.push((last.x, last.low, last.high));
    }
    band
}

/// What a panel of Fig. 3 says about the limit of HomePage.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Violations {
    /// Whether the mean of the runs is ever above it.
    pub(super) p90_mean: bool,
    pub(super) p99_mean: bool,
    /// Greatest mean, s.
    pub(super) p90_peak_s: f64,
    pub(super) p99_peak_s: f64,
    /// Runs that are ever above it.
    pub(super) p90_runs: usize,
    pub(super) p99_runs: usize,
}

pub(super) fn violations(panel: &Fig3Panel) -> Violations {
    let limit_s = paper::limit_s(Action::HomePage);
    let peak = |points: &[Point]| points.iter().map(|p| p.y).fold(0.0, f64::max);
    let mean = |curves: Vec<&[Point]>| peak(&means(&mean_and_band(curves.into_iter())));
    let p90_peak_s = mean(panel.runs.iter().map(|run| run.p90.as_slice()).collect());
    let p99_peak_s = mean(panel.runs.iter().map(|run| run.p99.as_slice()).collect());
    Violations {
        p90_mean: p90_peak_s > limit_s,
        p99_mean: p99_peak_s > limit_s,
        p90_peak_s,
        p99_peak_s,
        p90_runs: panel.runs.iter().filter(|run| peak(&run.p90) > limit_s).count(),
        p99_runs: panel.runs.iter().filter(|run| peak(&run.p99) > limit_s).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::{Fig3Kind, Fig3Run};
    use super::*;

    fn run(seed: u64, p90: [f64; 3], p99: [f64; 3]) -> Fig3Run {
        let curve = |values: [f64; 3]| {
            values.into_iter().zip(300u32..).map(|(y, x)| Point::new(f64::from(x), y)).collect()
        };
        Fig3Run { seed, migrations: Vec::new(), p90: curve(p90), p99: curve(p99) }
    }

    #[test]
    fn the_mean_may_keep_a_limit_that_a_run_breaks() {
        let panel = Fig3Panel {
            kind: Fig3Kind::One,
            runs: vec![
                run(1, [0.2, 1.1, 0.2], [1.0, 1.0, 1.0]),
                run(2, [0.2, 0.7, 0.4], [0.9, 1.3, 1.0]),
            ],
        };
        let found = violations(&panel);
        assert!((found.p90_peak_s - 0.9).abs() < 1e-12 && !found.p90_mean);
        assert_eq!(found.p90_runs, 1);
        // Exactly the limit is no violation.
        assert!((found.p99_peak_s - 1.15).abs() < 1e-12 && found.p99_mean);
        assert_eq!(found.p99_runs, 1);
        let p90 = mean_and_band(panel.runs.iter().map(|run| run.p90.as_slice()));
        assert_eq!((p90[1].x, p90[1].low, p90[1].high), (301.0, 0.7, 1.1));
    }

    #[test]
    fn a_thinned_band_still_holds_every_run() {
        let curve: Vec<Summary> = (0..1_000u32)
            .map(|i| {
                let (x, high) = (f64::from(i), if i == 777 { 9.0 } else { 1.0 });
                Summary { x, mean: 0.5, low: 0.1, high }
            })
            .collect();
        let band = thin_band(&curve, 100);
        assert!(band.len() <= 101);
        assert!(band.iter().any(|(_, _, high)| *high == 9.0));
        assert_eq!(band.last().map(|last| last.0), Some(999.0));
        assert!(mean_and_band([].into_iter()).is_empty());
    }
}
