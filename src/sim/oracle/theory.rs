// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Closed forms that simulators and oracles must agree with (heuristics.md 2.1 to 2.5).
//!
//! `lambda` is the dirty rate over the link's rate, both in pages per second. Shares are of the
//! write working set, W. Nothing here looks at a trace.

use std::time::Duration;

/// Rounds with a constant rate of distinct dirty pages and no limit to the working set
/// (heuristics.md 2.1, after Liu 2011 and Cerroni): round i sends N lambda^i pages.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "the parameters of a published formula")]
pub struct Geometric {
    /// N: pages of the guest.
    pub pages: f64,
    /// lambda; below 1, or the rounds do not converge.
    pub lambda: f64,
    /// L: the link while the guest runs, pages per second.
    pub link_pages_per_s: f64,
    /// The link during the pause, pages per second.
    pub stop_link_pages_per_s: f64,
    /// d0: fixed part of the pause.
    pub fixed_downtime: Duration,
}

/// What the geometric model says of one migration.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct GeometricResult {
    /// n: live rounds; the pause sends what the last of them left.
    pub rounds: u32,
    /// X: pages sent, those in the pause included.
    pub sent_pages: f64,
    /// N lambda^n: pages sent in the pause.
    pub residual_pages: f64,
    /// T, in seconds.
    pub total_s: f64,
    /// D, in seconds.
    pub downtime_s: f64,
}

impl Geometric {
    /// Rounds until at most `residual_pages` are left; `None` if they do not converge: then
    /// stopping at once is best.
    #[must_use]
    pub fn until(&self, residual_pages: f64) -> Option<GeometricResult> {
        let converges = self.lambda > 0.0 && self.lambda < 1.0 && residual_pages > 0.0;
        if !converges {
            return None;
        }
        let rounds = ((residual_pages / self.pages).ln() / self.lambda.ln()).ceil().max(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 up, and a cast of more saturates"
        )]
        let rounds = rounds as u32;
        Some(self.after(rounds))
    }

    /// The same with a fixed number of rounds, for any lambda but 1.
    #[must_use]
    pub fn after(&self, rounds: u32) -> GeometricResult {
        let exponent = f64::from(rounds);
        let residual_pages = self.pages * self.lambda.powf(exponent);
        let live_pages = self.pages * (1.0 - self.lambda.powf(exponent)) / (1.0 - self.lambda);
        let downtime_s =
            self.fixed_downtime.as_secs_f64() + residual_pages / self.stop_link_pages_per_s;
        GeometricResult {
            rounds,
            sent_pages: live_pages + residual_pages,
            residual_pages,
            total_s: live_pages / self.link_pages_per_s + downtime_s,
            downtime_s,
        }
    }
}

/// Share of W that a round of uniform Poisson writes dirties, if it sends the share `sent`:
/// 1 - e^(-lambda sent) (heuristics.md 2.2).
#[must_use]
pub fn next_round_share(lambda: f64, sent: f64) -> f64 {
    -(-lambda * sent).exp_m1()
}

/// Share of W that rounds settle at: the fixed point of [`next_round_share`], which is
/// 1 + W0(-lambda e^(-lambda)) / lambda; 0 up to lambda = 1 (heuristics.md 2.2).
#[must_use]
pub fn rounds_plateau(lambda: f64) -> f64 {
    if lambda <= 1.0 {
        return 0.0;
    }
    // For lambda > 1 the principal branch is the one that is not -lambda itself.
    1.0 + lambert_w0(-lambda * (-lambda).exp()) / lambda
}

/// Share of W that is dirty at any time if pages are sent without rounds, in any order that does
/// not look at pages' rates: 1 - 1/lambda; 0 up to lambda = 1 (heuristics.md 2.2).
#[must_use]
pub fn continuous_share(lambda: f64) -> f64 {
    (1.0 - 1.0 / lambda).max(0.0)
}

/// Share of W that the clairvoyant leaves for the pause: 1 - (1 + ln lambda)/lambda; 0 up to
/// lambda = 1 (heuristics.md 2.2).
#[must_use]
pub fn clairvoyant_share(lambda: f64) -> f64 {
    if lambda <= 1.0 { 0.0 } else { 1.0 - (1.0 + lambda.ln()) / lambda }
}

/// The principal branch of Lambert's W, the x from -1 up with x e^x = z, for z from -1/e up; NaN
/// below. Halley's iteration from the series at the branch point or from the logarithm (Corless et
/// al. 1996).
#[must_use]
pub fn lambert_w0(z: f64) -> f64 {
    // Distance from the branch point, as the series there has it.
    let above = 2.0 * (std::f64::consts::E * z + 1.0);
    if above.is_nan() || above < -1e-12 {
        return f64::NAN;
    }
    let p = above.max(0.0).sqrt();
    if p < 1e-6 {
        return p - 1.0;
    }
    let mut x = if z < 0.0 { p - 1.0 - p * p / 3.0 + p * p * p * 11.0 / 72.0 } else { z.ln_1p() };
    for _ in 0..64 {
        let (exp, plus) = (x.exp(), x + 1.0);
        let off = x * exp - z;
        let step = off / (exp * plus - (x + 2.0) * off / (2.0 * plus));
        x -= step;
        if step.abs() <= 1e-15 * x.abs().max(1e-300) {
            break;
        }
    }
    x
}

/// What a pause costs requests, in a fluid queue (heuristics.md 2.5).
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "the parameters of a published formula")]
pub struct RequestCost {
    /// q: requests per second.
    pub requests_per_s: f64,
    /// rho: share of its capacity that the service uses, below 1.
    pub utilisation: f64,
}

impl RequestCost {
    /// Sum of all requests' extra delay, in seconds: q D^2 / (2 (1 - rho)).
    #[must_use]
    pub fn delay_sum_s(&self, downtime: Duration) -> f64 {
        let down = downtime.as_secs_f64();
        self.requests_per_s * down * down / (2.0 * (1.0 - self.utilisation))
    }

    /// Requests that are answered later than `limit`: q max(0, D - S) / (1 - rho).
    #[must_use]
    pub fn late_requests(&self, downtime: Duration, limit: Duration) -> f64 {
        let over = downtime.saturating_sub(limit).as_secs_f64();
        self.requests_per_s * over / (1.0 - self.utilisation)
    }
}

/// The reservation price of a search with recall of nothing, over independent draws of one known
/// law, here that of `sample`: the xi with `look_cost` = E[(xi - X)^+] (McCall 1970, T21). Stopping
/// at the first X <= xi costs xi on average, looks included, and nothing costs less. `None` for an
/// empty sample or a cost below 0.
#[must_use]
pub fn mccall_reservation(sample: &[f64], look_cost: f64) -> Option<f64> {
    if sample.is_empty() || look_cost.is_nan() || look_cost < 0.0 {
        return None;
    }
    let mut sorted = sample.to_vec();
    sorted.sort_by(f64::total_cmp);
    // E[(xi - X)^+] rises piecewise linearly; up to which draw does xi reach?
    #[expect(clippy::cast_precision_loss, reason = "a size")]
    let due = look_cost * sorted.len() as f64;
    let (mut sum, mut below) = (0.0, 0.0);
    for x in sorted {
        if x * below - sum >= due && below > 0.0 {
            break;
        }
        sum += x;
        below += 1.0;
    }
    Some((due + sum) / below)
}

/// The same with a deadline: what it costs on average to go on with 0, 1, ... looks left, at
/// `look_cost` each. With none left the guest is stopped at what comes next, so that the first is
/// E\[X\]; v(k) = E[min(X, v(k-1) + `look_cost`)]. With k looks left stop at X <= v(k-1) +
/// `look_cost`. Empty for an empty sample.
#[must_use]
pub fn deadline_reservations(sample: &[f64], look_cost: f64, looks: usize) -> Vec<f64> {
    if sample.is_empty() {
        return Vec::new();
    }
    #[expect(clippy::cast_precision_loss, reason = "a size")]
    let mean = |value: &dyn Fn(f64) -> f64| {
        sample.iter().map(|x| value(*x)).sum::<f64>() / sample.len() as f64
    };
    let mut values = vec![mean(&|x| x)];
    while values.len() <= looks {
        let go_on = values.last().copied().unwrap_or(0.0) + look_cost;
        values.push(mean(&|x| x.min(go_on)));
    }
    values
}
