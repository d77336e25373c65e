// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Paired comparisons over a few clusters of observations that depend on one another: all starts
//! in one trace meet the same guest, so the trace is the unit (heuristics.md, section 5).

use precopy::sim::Rng;
use serde::{Deserialize, Serialize};

use super::StatsError;
use super::error::{enough, finite};
use super::quantile::Sorted;

/// Clusters up to which every combination of signs is tried; beyond, so many at random.
const EXACT_MAX: usize = 16;
const RANDOM_SIGNS: u32 = 1 << 16;

/// A mean with its interval.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "plain numbers")]
pub struct Interval {
    /// The mean over clusters.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The mean of the clusters' values with its 95 % percentile bootstrap interval: clusters are
/// drawn with replacement, as a whole. With one cluster the interval is that value.
///
/// # Errors
/// [`StatsError`] without clusters, or with a value that is not finite.
pub fn bootstrap(clusters: &[f64], resamples: usize, seed: u64) -> Result<Interval, StatsError> {
    enough("clusters", clusters.len(), 1)?;
    finite("cluster", clusters)?;
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / clusters.len() as f64;
    let mut rng = Rng::new(seed);
    let drawn = (0..resamples.max(1)).map(|_| {
        mean(&mut (0..clusters.len()).map(|_| {
            let at = rng.below(clusters.len() as u64);
            clusters[usize::try_from(at).unwrap_or(0)]
        }))
    });
    let drawn = Sorted::new(drawn.collect())?;
    let mean = mean(&mut clusters.iter().copied());
    Ok(Interval { mean, low: drawn.quantile(0.025), high: drawn.quantile(0.975) })
}

/// Two-sided p-value of "the clusters' differences are as often and as far above zero as below",
/// by flipping the signs of whole clusters: exact for up to 16 clusters, else 65,536 random flips.
/// With n clusters it cannot be below 2 / 2^n.
///
/// # Errors
/// [`StatsError`] without clusters, or with a value that is not finite.
pub fn sign_flip(clusters: &[f64], seed: u64) -> Result<f64, StatsError> {
    enough("clusters", clusters.len(), 1)?;
    finite("cluster", clusters)?;
    let observed = clusters.iter().sum::<f64>().abs();
    // Sums that are equal but for rounding count as equal.
    let slack = 1e-9 * clusters.iter().map(|value| value.abs()).sum::<f64>();
    let extreme = |signs: u64| {
        let flip = |(at, value): (usize, &f64)| if signs >> at & 1 == 1 { -value } else { *value };
        let sum: f64 = clusters.iter().enumerate().map(flip).sum();
        sum.abs() >= observed - slack
    };
    if clusters.len() <= EXACT_MAX {
        let all = 1u64 << clusters.len();
        let count = (0..all).filter(|signs| extreme(*signs)).count();
        return Ok(count as f64 / all as f64);
    }
    let mut rng = Rng::new(seed);
    let random = |_: &u32| {
        let flip = |value: &f64| if rng.one_in(2) { -value } else { *value };
        clusters.iter().map(flip).sum::<f64>().abs() >= observed - slack
    };
    let count = (0..RANDOM_SIGNS).filter(random).count();
    // The flip that was observed is one of them.
    Ok((count as f64 + 1.0) / (f64::from(RANDOM_SIGNS) + 1.0))
}

/// Holm's correction: p-values of several comparisons, so that the chance of any wrong rejection
/// stays below the level at which they are read. In the order given.
#[must_use]
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut least: f64 = 0.0;
    for (rank, &at) in order.iter().enumerate() {
        least = least.max((p_values[at] * (p_values.len() - rank) as f64).min(1.0));
        adjusted[at] = least;
    }
    adjusted
}
