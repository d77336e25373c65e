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

#[cfg(test)]
mod tests {
    use super::super::spread::Spread;
    use super::*;

    fn policy(name: &str, runs: u32, p90_kept: u32, p99_kept: u32, down_s: f64) -> PolicyResult {
        PolicyResult {
            name: name.to_owned(),
            runs,
            p90_kept,
            p99_kept,
            downtime_probe_s: Spread::of([down_s]),
            ..PolicyResult::default()
        }
    }

    #[test]
    fn kept_limits_come_before_downtime() {
        let policies = [
            policy("short, but breaks p99", 5, 5, 4, 0.01),
            policy("breaks both", 5, 4, 0, 0.001),
            policy("keeps all, slower", 5, 5, 5, 0.9),
            policy("keeps all", 3, 3, 3, 0.8),
            policy("nothing measured", 0, 0, 0, f64::NAN),
            policy("breaks p99 always", 5, 5, 0, 3.0),
        ];
        let names: Vec<&str> = ranked(&policies).iter().map(|p| p.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "keeps all",
                "keeps all, slower",
                "short, but breaks p99",
                "breaks p99 always",
                "breaks both",
                "nothing measured",
            ]
        );
    }
}
