// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How unevenly events fall on objects.

use serde::Serialize;
use statrs::function::gamma::checked_gamma_ur;

use super::error::enough;
use super::{StatsError, linear};

/// The rank-frequency line of counts.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct RankFrequency {
    /// How steeply counts fall with rank in logarithms: 1 for Zipf's law. Positive.
    pub slope: f64,
    /// How straight the line is.
    pub r2: f64,
    /// First rank fitted, from 1.
    pub first_rank: usize,
    /// Last rank fitted.
    pub last_rank: usize,
}

/// Least squares of the logarithm of the count over the logarithm of the rank, over *all* ranks
/// with a count above zero, or over the first `ranks` of them. Every rank weighs the same, so the
/// long tail decides; recordings of different length have different tails (workload.md, 6.7.4).
///
/// # Errors
/// [`StatsError`] with fewer than two counts above zero.
pub fn rank_frequency(counts: &[u64], ranks: Option<usize>) -> Result<RankFrequency, StatsError> {
    let mut counts: Vec<u64> = counts.iter().copied().filter(|&c| c > 0).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts.truncate(ranks.unwrap_or(usize::MAX));
    enough("counts above 0", counts.len(), 2)?;
    let points: Vec<(f64, f64)> =
        counts.iter().zip(1_u32..).map(|(&c, r)| (f64::from(r).ln(), (c as f64).ln())).collect();
    let line = linear(&points)?;
    // Not -0.0 for counts that are all equal.
    let slope = 0.0 - line.slope;
    Ok(RankFrequency { slope, r2: line.r2, first_rank: 1, last_rank: counts.len() })
}

/// The exponent of Zipf's law that makes counts most likely.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct ZipfFit {
    /// The exponent; between 0 and 8.
    pub exponent: f64,
    /// Its standard error.
    pub error: f64,
}

/// The largest exponent tried.
const EXPONENT_MAX: f64 = 8.0;

/// Maximum likelihood for Zipf's law over exactly `counts.len()` objects: `counts[i]` is how
/// often the object of rank `i + 1` was drawn. Where the ranks are not known, counts in
/// descending order serve, with a bias upwards if many objects were drawn only a few times.
///
/// At the maximum the mean logarithm of the rank under the law is that of the data; it falls
/// strictly with the exponent, so bisection finds it.
///
/// # Errors
/// [`StatsError`] with fewer than two objects or without draws.
pub fn zipf(counts: &[u64]) -> Result<ZipfFit, StatsError> {
    enough("objects", counts.len(), 2)?;
    let draws = counts.iter().sum::<u64>() as f64;
    if draws == 0.0 {
        return Err(StatsError::TooFew { what: "draws", got: 0, least: 1 });
    }
    let logs: Vec<f64> = (1_u32..).take(counts.len()).map(|r| f64::from(r).ln()).collect();
    let seen = counts.iter().zip(&logs).map(|(&c, l)| c as f64 * l).sum::<f64>() / draws;
    let (mut low, mut high) = (0.0, EXPONENT_MAX);
    // 8 / 2^40 is far below any standard error.
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if log_moments(&logs, middle).0 > seen {
            low = middle;
        } else {
            high = middle;
        }
    }
    let exponent = f64::midpoint(low, high);
    let variance = log_moments(&logs, exponent).1;
    Ok(ZipfFit { exponent, error: 1.0 / (draws * variance).sqrt() })
}

/// Mean and variance of the logarithm of the rank under Zipf's law.
fn log_moments(logs: &[f64], exponent: f64) -> (f64, f64) {
    let (mut total, mut first, mut second) = (0.0, 0.0, 0.0);
    for &log in logs {
        let weight = (-exponent * log).exp();
        total += weight;
        first += weight * log;
        second += weight * log * log;
    }
    let mean = first / total;
    (mean, second / total - mean * mean)
}

/// Pearson's test of whether all objects are equally likely.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Uniformity {
    /// The statistic.
    pub chi_square: f64,
    /// Degrees of freedom: objects less one.
    pub degrees: usize,
    /// How likely a statistic as large as this is if they are: small values speak against it.
    pub p_value: f64,
}

/// Tests whether counts come from a uniform distribution over their objects.
///
/// # Errors
/// [`StatsError`] with fewer than two objects, or fewer than five draws an object: then the
/// statistic does not follow the chi-square distribution. Merge objects, or draw more.
pub fn chi_square_uniform(counts: &[u64]) -> Result<Uniformity, StatsError> {
    enough("objects", counts.len(), 2)?;
    let draws = counts.iter().sum::<u64>();
    let got = usize::try_from(draws).unwrap_or(usize::MAX);
    enough("draws", got, counts.len().saturating_mul(5))?;
    let expected = draws as f64 / counts.len() as f64;
    let chi_square: f64 = counts.iter().map(|&c| (c as f64 - expected).powi(2) / expected).sum();
    let degrees = counts.len() - 1;
    // The regularised upper incomplete gamma function; it is defined for every positive number,
    // and 1 at zero.
    let p_value = checked_gamma_ur(degrees as f64 / 2.0, chi_square / 2.0).unwrap_or(1.0);
    Ok(Uniformity { chi_square, degrees, p_value })
}
