// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Quantiles, and the mean of the worst.

use super::StatsError;
use super::error::{enough, finite};

/// Values in order, for any number of quantiles.
#[derive(Clone, PartialEq, Debug)]
pub struct Sorted(Vec<f64>);

impl Sorted {
    /// Of these values.
    ///
    /// # Errors
    /// [`StatsError`] without values, or with one that is not finite.
    pub fn new(mut values: Vec<f64>) -> Result<Self, StatsError> {
        enough("values", values.len(), 1)?;
        finite("value", &values)?;
        values.sort_unstable_by(f64::total_cmp);
        Ok(Self(values))
    }

    /// The values, ascending.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// The quantile of a share from 0 to 1, by straight lines between order statistics (type 7 of
    /// Hyndman and Fan, as R and `NumPy` have it).
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.0.len() - 1;
        let at = share.clamp(0.0, 1.0) * last as f64;
        let below = super::whole(at.floor()).min(last);
        let above = (below + 1).min(last);
        self.0[below] + (self.0[above] - self.0[below]) * (at - below as f64)
    }

    /// Mean of the worst share of values (conditional value at risk): of the largest
    /// ceil(share n), at least one.
    #[must_use]
    pub fn mean_of_worst(&self, share: f64) -> f64 {
        let count = (self.0.len() as f64 * share.clamp(0.0, 1.0)).ceil().max(1.0);
        let worst = &self.0[self.0.len() - super::whole(count).min(self.0.len())..];
        worst.iter().sum::<f64>() / worst.len() as f64
    }

    /// The largest value.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }
}
