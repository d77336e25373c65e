// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which policy is best.

use std::cmp::Ordering;

use super::data::PolicyResult;

/// Policies, best first: by the share of runs that keep the 99th percentile, then the 90th, then
/// by the prober's downtime. Equal ones stay in their order.
pub(super) fn ranked(policies: &[PolicyResult]) -> Vec<&PolicyResult> {
    let mut all: Vec<&PolicyResult> = policies.iter().collect();
    all.sort_by(|a, b| compare(a, b));
    all
}

fn compare(a: &PolicyResult, b: &PolicyResult) -> Ordering {
    // Shares without a division: 3 of 4 is more than 2 of 3 because 9 is more than 8.
    let share = |a: u32, of_a: u32, b: u32, of_b: u32| {
        let left = u64::from(b) * u64::from(of_a.max(1));
        left.cmp(&(u64::from(a) * u64::from(of_b.max(1))))
    };
    let down = |policy: &PolicyResult| policy.downtime_probe_s.median().unwrap_or(f64::INFINITY);
    share(a.p99_kept, a.runs, b.p99_kept, b.runs)
        .then_with(|| share(a.p90_kept, a.runs, b.p90_kept, b.runs))
        .then_with(|| down(a).total_cmp(&down(b)))
}
