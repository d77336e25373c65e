// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Check 1: the mix of actions and their rate.

use webvm::site::Action;

use super::Check;

/// How often each action occurs in the long run, in the order of [`Action::ALL`]: the stationary
/// distribution of Olio's matrix (workload.md, 1.1).
pub const STATIONARY: [f64; 7] = [0.26152, 0.10223, 0.33445, 0.24681, 0.02611, 0.00843, 0.02045];

/// Mean time from the start of an action to the start of the user's next one: negative
/// exponential with a mean of 5 s, cut at 25 s (workload.md, 1.2).
pub const CYCLE_MEAN_S: f64 = 4.966;

/// Actions from which the shares are judged.
const ACTIONS_LEAST: f64 = 20_000.0;

/// Check 1. `counts` are the completed actions, in the order of [`Action::ALL`]; `cycles_s` the
/// times that users intended from one start to the next; `users` and `throughput_per_s` are of
/// the steady state.
///
/// A share must be within 2 % of the stationary one. For the rare actions 20,000 draws are not
/// enough for that: 4 standard errors of the draw are allowed where they are more than 2 % of the
/// share, but never more than Faban's own 2 points.
#[must_use]
pub fn mix(counts: &[u64; 7], cycles_s: &[f64], users: u32, throughput_per_s: f64) -> Vec<Check> {
    let total = counts.iter().sum::<u64>() as f64;
    let mut checks = vec![Check::new(
        1,
        "actions counted",
        total,
        (ACTIONS_LEAST, f64::INFINITY),
        "fewer say little about shares",
    )];
    for ((action, &count), share) in Action::ALL.into_iter().zip(counts).zip(STATIONARY) {
        let draw = 4.0 * (share * (1.0 - share) / total).sqrt();
        let off = draw.max(0.02 * share).min(0.02);
        checks.push(Check::new(
            1,
            format!("share of {action}"),
            count as f64 / total,
            ((share - off).max(0.0), share + off),
            format!("stationary {:.2} %", share * 100.0),
        ));
    }
    let mean = cycles_s.iter().sum::<f64>() / cycles_s.len() as f64;
    checks.push(Check::new(
        1,
        "mean cycle, s",
        mean,
        (CYCLE_MEAN_S * 0.98, CYCLE_MEAN_S * 1.02),
        "negative exponential, 5 s, cut at 25 s; 2 %",
    ));
    checks.push(Check::new(
        1,
        "users per action/s",
        f64::from(users) / throughput_per_s,
        (f64::NEG_INFINITY, 5.25),
        "Olio's own pass line",
    ));
    checks
}
