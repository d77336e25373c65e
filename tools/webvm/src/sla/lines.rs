// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Throughput and response times over time, as Fig. 2 of the paper draws them.

use std::ops::Range;
use std::time::Duration;

use precopy::units::Tick;
use serde::Serialize;

use super::evaluate::WINDOWS_MAX;
use super::quantile::nanos;
use super::{Attribution, Sample, SlaError, Status};
use crate::site::Action;

/// One bin of one action's response-time line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct LinePoint {
    /// Start of the bin.
    pub time: Tick,
    /// Samples that ended with success.
    pub count: usize,
    /// Samples that did not.
    pub errors: usize,
    /// Their mean response time in nanoseconds; nothing without a successful sample.
    pub mean_ns: Option<u64>,
    /// The longest one.
    pub max_ns: Option<u64>,
}

/// Actions completed with success in each bin (1 s for a rate per second) of `during`, over all
/// actions. The last bin may be cut by the end.
///
/// # Errors
/// [`SlaError::Zero`] and [`SlaError::TooFine`] for a bin that cannot be used.
pub fn throughput(
    samples: &[Sample],
    during: &Range<Tick>,
    bin: Duration,
) -> Result<Vec<usize>, SlaError> {
    let mut counts = vec![0; bins(during, bin)?];
    for sample in samples.iter().filter(|s| s.status == Status::Ok) {
        if let Some(i) = bin_of(sample.end, during, bin) {
            counts[i] += 1;
        }
    }
    Ok(counts)
}

/// Mean and longest response time of one action in each bin of `during`.
///
/// # Errors
/// [`SlaError::Zero`] and [`SlaError::TooFine`] for a bin that cannot be used.
pub fn response_lines(
    samples: &[Sample],
    action: Action,
    during: &Range<Tick>,
    bin: Duration,
    attribution: Attribution,
) -> Result<Vec<LinePoint>, SlaError> {
    let mut sums = vec![(0_usize, 0_usize, 0_u128, 0_u64); bins(during, bin)?];
    for sample in samples.iter().filter(|s| s.action == action) {
        let Some(i) = bin_of(attribution.time(sample), during, bin) else { continue };
        let (count, errors, sum, max) = &mut sums[i];
        if sample.status == Status::Ok {
            let time = nanos(sample.response_time());
            *count += 1;
            *sum += u128::from(time);
            *max = time.max(*max);
        } else {
            *errors += 1;
        }
    }
    let step = nanos(bin);
    let points = sums.into_iter().zip(0_u64..).map(|((count, errors, sum, max), i)| LinePoint {
        time: during.start + Duration::from_nanos(i * step),
        count,
        errors,
        mean_ns: sum.checked_div(count as u128).map(|mean| u64::try_from(mean).unwrap_or(u64::MAX)),
        max_ns: (count > 0).then_some(max),
    });
    Ok(points.collect())
}

/// Number of bins that cover `during`.
fn bins(during: &Range<Tick>, bin: Duration) -> Result<usize, SlaError> {
    if bin.is_zero() {
        return Err(SlaError::Zero { field: "bin", usual: Duration::from_secs(1) });
    }
    let span = during.end.since(during.start);
    let count = nanos(span).div_ceil(nanos(bin));
    if count > WINDOWS_MAX {
        let max = WINDOWS_MAX;
        return Err(SlaError::TooFine { field: "bin", step: bin, span, count, max });
    }
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

fn bin_of(time: Tick, during: &Range<Tick>, bin: Duration) -> Option<usize> {
    during
        .contains(&time)
        .then(|| usize::try_from(nanos(time.since(during.start)) / nanos(bin)).ok())
        .flatten()
}
