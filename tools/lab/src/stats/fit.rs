// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Least squares.

use serde::Serialize;

use super::StatsError;
use super::error::{enough, finite};

/// A straight line through points.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Line {
    /// Rise per unit.
    pub slope: f64,
    /// Value at 0.
    pub intercept: f64,
    /// Share of the variance that the line explains, 0 to 1; 1 if there is none to explain.
    pub r2: f64,
}

impl Line {
    /// The line's value.
    #[must_use]
    pub fn at(&self, x: f64) -> f64 {
        self.intercept + self.slope * x
    }
}

/// Ordinary least squares.
///
/// # Errors
/// [`StatsError`] with fewer than two points, equal abscissas, or values that are not finite.
pub fn linear(points: &[(f64, f64)]) -> Result<Line, StatsError> {
    enough("points", points.len(), 2)?;
    let (x, y): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
    finite("abscissa", &x)?;
    finite("ordinate", &y)?;
    let n = points.len() as f64;
    let (mean_x, mean_y) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    // Sums of products of deviations: numerically sound where raw sums cancel.
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in points {
        let (dx, dy) = (x - mean_x, y - mean_y);
        xx += dx * dx;
        xy += dx * dy;
        yy += dy * dy;
    }
    if xx == 0.0 {
        return Err(StatsError::Flat { what: "abscissas" });
    }
    let slope = xy / xx;
    let r2 = if yy == 0.0 { 1.0 } else { xy * xy / (xx * yy) };
    Ok(Line { slope, intercept: mean_y - slope * mean_x, r2 })
}
