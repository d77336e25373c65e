// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Median, range, and the entropy of bytes.

use serde::Serialize;

use super::StatsError;
use super::error::{enough, finite};

/// A few values in short: what repeats of an experiment are reported by.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Number of values.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// The middle one, or the mean of the two middle ones.
    pub median: f64,
    /// The mean.
    pub mean: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Largest less smallest.
    #[must_use]
    pub fn range(&self) -> f64 {
        self.max - self.min
    }
}

/// Sums values up.
///
/// # Errors
/// [`StatsError`] without values, or with one that is not finite.
pub fn summary(values: &[f64]) -> Result<Summary, StatsError> {
    enough("values", values.len(), 1)?;
    finite("value", values)?;
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let count = sorted.len();
    Ok(Summary {
        count,
        min: sorted[0],
        median: f64::midpoint(sorted[(count - 1) / 2], sorted[count / 2]),
        mean: sorted.iter().sum::<f64>() / count as f64,
        max: sorted[count - 1],
    })
}

/// Shannon entropy of bytes in bits a byte: 0 for equal bytes, near 8 for compressed content (7.95
/// for 4096 random bytes). 0 without bytes.
#[must_use]
pub fn entropy_bits(bytes: &[u8]) -> f64 {
    let mut counts = [0_usize; 256];
    for &byte in bytes {
        counts[usize::from(byte)] += 1;
    }
    let total = bytes.len() as f64;
    counts
        .into_iter()
        .filter(|&c| c > 0)
        .map(|c| {
            let share = c as f64 / total;
            -share * share.log2()
        })
        .fold(0.0, |sum, part| sum + part)
}
