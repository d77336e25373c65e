// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How unevenly events fall in time.

use serde::Serialize;

use super::error::{enough, finite};
use super::{StatsError, linear};

/// Sums of `factor` successive values; what does not fill the last sum is dropped. A factor of 0
/// counts as 1.
#[must_use]
pub fn aggregate(series: &[f64], factor: usize) -> Vec<f64> {
    series.chunks_exact(factor.max(1)).map(|chunk| chunk.iter().sum()).collect()
}

/// Index of dispersion for counts: the variance of the counts of successive windows over their
/// mean; 1 for a Poisson process whatever the window.
///
/// # Errors
/// [`StatsError`] with fewer than two windows, values that are not finite, or a mean of zero.
pub fn index_of_dispersion(counts: &[f64]) -> Result<f64, StatsError> {
    let (mean, variance) = mean_variance(counts)?;
    if mean == 0.0 {
        return Err(StatsError::Flat { what: "counts" });
    }
    Ok(variance / mean)
}

/// How the variance of a series shrinks as windows grow.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Hurst {
    /// The parameter: 0.5 for independent values, towards 1 for bursts on every scale.
    pub h: f64,
    /// How straight the line is.
    pub r2: f64,
    /// Window, in values of the series, and variance of the window means.
    pub points: Vec<(usize, f64)>,
}

/// The Hurst parameter by aggregated variance: the variance of means over `m` successive values
/// falls as `m` to the power `2 H - 2`. Windows are `1, 2, 4, ..` up to `longest` values, as far
/// as at least four of them fit.
///
/// # Errors
/// [`StatsError`] with fewer than two window lengths, or if the values do not vary.
pub fn hurst(series: &[f64], longest: usize) -> Result<Hurst, StatsError> {
    enough("values", series.len(), 8)?;
    let mut points = Vec::new();
    let mut window = 1;
    while window <= longest && series.len() / window >= 4 {
        let means: Vec<f64> =
            aggregate(series, window).into_iter().map(|sum| sum / window as f64).collect();
        points.push((window, mean_variance(&means)?.1));
        window *= 2;
    }
    if points.iter().any(|p| p.1 == 0.0) {
        return Err(StatsError::Flat { what: "window means" });
    }
    let logs: Vec<(f64, f64)> = points.iter().map(|&(m, v)| ((m as f64).ln(), v.ln())).collect();
    let line = linear(&logs)?;
    Ok(Hurst { h: 1.0 + line.slope / 2.0, r2: line.r2, points })
}

/// Mean, and variance as estimated from a sample.
fn mean_variance(values: &[f64]) -> Result<(f64, f64), StatsError> {
    enough("windows", values.len(), 2)?;
    finite("window", values)?;
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    Ok((mean, squares / (n - 1.0)))
}
