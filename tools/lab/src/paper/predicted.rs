// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Predictions beside the runs that they predict.

use super::pool::{self, Watch};
use crate::predict::against::{AgainstError, compare, standard_cases};
use crate::report::data::{Estimate, Prediction};

/// Predictions from a minute of tracking, each beside the run that it predicts: twenty cases over
/// load, link and policy.
///
/// # Errors
/// [`AgainstError`] if a case makes no sense.
pub fn predictions(watch: &dyn Watch) -> Result<Vec<Prediction>, AgainstError> {
    let done = pool::each("predictions", &standard_cases(), watch, |case| {
        let compared = compare(case)?;
        let estimate = |[low_s, predicted_s, high_s]: [f64; 3], measured_s| Estimate {
            predicted_s,
            low_s,
            high_s,
            measured_s,
        };
        let bandwidth_mb_s = case.bandwidth_bytes_per_s / 1e6;
        Ok::<_, AgainstError>(Prediction {
            name: format!("{} users, {bandwidth_mb_s} MB/s, {}", case.users, case.policy),
            total: estimate(compared.predicted_total_s, compared.total_s),
            downtime: estimate(compared.predicted_downtime_s, compared.downtime_s),
        })
    })?;
    Ok(done.into_iter().flatten().collect())
}
