// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The mean of several runs' curves, with the range that they span.

use std::collections::BTreeMap;
use std::time::Duration;

use precopy::units::Tick;
use serde::Serialize;

use super::Quantile;

/// Several runs at one time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Band {
    /// The time.
    pub time: Tick,
    /// Runs that have a value there.
    pub runs: usize,
    /// Their mean; infinite if one of them is.
    pub mean: Quantile,
    /// The smallest.
    pub min: Quantile,
    /// The largest.
    pub max: Quantile,
}

/// Mean, least and greatest value of the curves at every time that at least one of them has, in
/// order of time. The paper's Fig. 3 is the mean of five runs.
#[must_use]
pub fn bands(curves: &[Vec<(Tick, Quantile)>]) -> Vec<Band> {
    let mut at: BTreeMap<Tick, Vec<Quantile>> = BTreeMap::new();
    for &(time, value) in curves.iter().flatten() {
        at.entry(time).or_default().push(value);
    }
    at.into_iter().filter_map(|(time, values)| band(time, &values)).collect()
}

fn band(time: Tick, values: &[Quantile]) -> Option<Band> {
    let sum: Option<u128> = values.iter().map(|v| v.time().map(|t| t.as_nanos())).sum();
    let mean = sum.and_then(|sum| u64::try_from(sum / values.len() as u128).ok());
    Some(Band {
        time,
        runs: values.len(),
        mean: mean.map_or(Quantile::Infinite, |n| Quantile::Time(Duration::from_nanos(n))),
        min: *values.iter().min()?,
        max: *values.iter().max()?,
    })
}
