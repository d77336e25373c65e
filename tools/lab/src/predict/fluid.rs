// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The site as a fluid: how many requests share the processor while a migration slows it, stops
//! it, and leaves it with a backlog.
//!
//! The users' closed loop is [`Load::step`]. Below capacity a fluid has no queue, but processor
//! sharing has: n requests with probability (1 - rho) rho^n, whatever the service times
//! (M/G/1-PS). So a request that needs s seconds of the processor and starts at t, at speed v(t),
//! is done when `integral of v / n = s`, with n the larger of the fluid and a draw of that
//! distribution.

use super::load::Load;

/// Step in seconds.
pub(super) const STEP_S: f64 = 0.05;
/// Most steps of one run: 14 hours.
const STEPS_MAX: usize = 1_000_000;
/// Time in which the queue of an overloaded site settles before anything is looked at.
const SETTLE_S: f64 = 300.0;
/// Utilisation above which the queue is left to the fluid.
const RHO_MAX: f64 = 0.97;
/// Draws of the number of requests: the last of them stands for 0.1 % of the time.
pub(super) const DRAWS: usize = 11;

/// A stretch of time in which the processor is slower than usual.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Slow {
    pub(super) from_s: f64,
    pub(super) until_s: f64,
    /// Share of the capacity that is left.
    pub(super) speed: f64,
}

/// What a request meets, step by step from `-window_s` on.
#[derive(Debug)]
pub(super) struct Fluid {
    /// Requests that start in a step.
    pub(super) arrivals: Vec<f64>,
    /// For each draw: seconds of processor that a request present from the first step to the
    /// start of this one would have had.
    attained: Vec<Vec<f64>>,
}

/// Weight of a draw: halves, down to the last two, which are alike.
pub(super) fn weight(draw: usize) -> f64 {
    let halvings = i32::try_from((draw + 1).min(DRAWS - 1)).unwrap_or(i32::MAX);
    0.5f64.powi(halvings)
}

/// The number of requests in the processor at this draw and utilisation, the new one included.
fn requests(draw: usize, rho: f64) -> f64 {
    if rho <= 0.0 {
        return 1.0;
    }
    // The share of time above the middle of the draw's stretch.
    let rarer = weight(draw) * if draw + 1 == DRAWS { 0.37 } else { 0.5f64.sqrt() * 2.0 };
    1.0 + (rarer.ln() / rho.min(RHO_MAX).ln()).max(0.0)
}

fn speed_in(slow: &[Slow], from_s: f64) -> f64 {
    let until_s = from_s + STEP_S;
    let lost = |s: &Slow| {
        let overlap = until_s.min(s.until_s) - from_s.max(s.from_s);
        overlap.max(0.0) / STEP_S * (1.0 - s.speed)
    };
    (1.0 - slow.iter().map(lost).sum::<f64>()).clamp(0.0, 1.0)
}

impl Fluid {
    /// Runs the site from `-window_s` to `until_s`.
    pub(super) fn run(load: &Load, slow: &[Slow], until_s: f64) -> Self {
        let settle = steps(SETTLE_S);
        let count = (settle + steps(load.window_s + until_s)).min(STEPS_MAX);
        let mut fluid =
            Self { arrivals: Vec::with_capacity(count), attained: vec![vec![0.0]; DRAWS] };
        let (mut queue, mut rho) = (0.0f64, 0.0f64);
        for step in 0..count {
            let at = as_f64(step) * STEP_S - SETTLE_S - load.window_s;
            let speed = speed_in(slow, at);
            let before = queue;
            let flow = load.step(&mut queue, speed, STEP_S);
            if flow.able > 0.0 {
                rho = flow.asked / flow.able;
            }
            if step >= settle {
                fluid.arrivals.push(flow.begun * STEP_S);
                for (draw, attained) in fluid.attained.iter_mut().enumerate() {
                    let n = before.max(requests(draw, rho));
                    let so_far = attained.last().copied().unwrap_or(0.0);
                    attained.push(so_far + speed * STEP_S / n);
                }
            }
        }
        fluid
    }

    /// Probability that a request which starts in `step` and needs a Gamma(2) time of the
    /// processor with mean `service_s` is not done `within_s` seconds later.
    pub(super) fn slow(&self, step: usize, service_s: f64, within_s: f64) -> f64 {
        let end = as_f64(step) + within_s / STEP_S;
        let late = |(draw, attained): (usize, &Vec<f64>)| {
            let got = interpolate(attained, end) - attained[step];
            weight(draw) * longer(got / service_s)
        };
        self.attained.iter().enumerate().map(late).sum()
    }
}

/// The same for a site that is never disturbed.
pub(super) fn slow_at_rest(load: &Load, service_s: f64, within_s: f64) -> f64 {
    let rho = load.offered_ops_per_s() / load.capacity_ops_per_s;
    let late = |draw| weight(draw) * longer(within_s / requests(draw, rho) / service_s);
    (0..DRAWS).map(late).sum()
}

/// Probability that a Gamma(2) variable of mean 1 is above `x`.
fn longer(x: f64) -> f64 {
    (-2.0 * x).exp() * (1.0 + 2.0 * x)
}

/// The value at a place between two entries; past the end it goes on as it ended.
fn interpolate(values: &[f64], place: f64) -> f64 {
    let last = values.len() - 1;
    let below = floor(place).min(last.saturating_sub(1));
    let next = values[(below + 1).min(last)];
    values[below] + (next - values[below]) * (place - as_f64(below))
}

pub(super) fn steps(seconds: f64) -> usize {
    floor((seconds / STEP_S).ceil())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative, and a place in memory"
)]
fn floor(place: f64) -> usize {
    place.max(0.0) as usize
}

#[expect(clippy::cast_precision_loss, reason = "a place in memory")]
fn as_f64(place: usize) -> f64 {
    place as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_geometric_distribution() {
        let sum: f64 = (0..DRAWS).map(weight).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        for rho in [0.5, 0.8, 0.915] {
            let mean: f64 = (0..DRAWS).map(|d| weight(d) * (requests(d, rho) - 1.0)).sum();
            let expected = rho / (1.0 - rho);
            // Numbers of requests are whole; the draws are not.
            assert!((mean - expected).abs() < 0.6 + 0.05 * expected, "{rho}: {mean} {expected}");
        }
        assert!(requests(3, 0.0) == 1.0);
    }

    #[test]
    fn a_pause_holds_everyone_back_for_as_long_as_it_lasts() {
        let load = Load::web(100.0);
        let slow = [Slow { from_s: 0.0, until_s: 3.0, speed: 0.0 }];
        let fluid = Fluid::run(&load, &slow, 60.0);
        let at = |seconds: f64| steps(load.window_s + seconds);
        let home = load.service_s(&load.actions[0]);
        for (start, within, least, most) in [
            (0.5, 2.4, 1.0, 1.0),
            (-60.0, 1.0, 0.0, 1e-3),
            (2.9, 2.0, 0.0, 0.2),
            (50.0, 1.0, 0.0, 1e-3),
        ] {
            let late = fluid.slow(at(start), home, within);
            assert!((least - 1e-9..=most + 1e-9).contains(&late), "{start} s: {late}");
        }
    }

    /// Twenty users arrive a second; five a second more than can be done pile up.
    #[test]
    fn overload_piles_up_and_drains() {
        let mut load = Load::web(200_000.0);
        (load.cycle_s, load.capacity_ops_per_s) = (10_000.0, 30.0);
        let slow = [Slow { from_s: 0.0, until_s: 40.0, speed: 0.5 }];
        let fluid = Fluid::run(&load, &slow, 100.0);
        // At 40 s: (20 - 15) * 40 = 200 requests, each gets a 200th of the processor.
        let at = steps(load.window_s + 40.0);
        let fast = &fluid.attained[0];
        let got = fast[at + 1] - fast[at];
        assert!((got - STEP_S / 200.0).abs() < 0.05 * STEP_S / 200.0, "{got}");
        // Drained at 40 + 200 / (30 - 20) = 60 s.
        let got = |s: f64| {
            let at = steps(load.window_s + s);
            fast[at + 1] - fast[at]
        };
        assert!(
            got(58.0) < STEP_S / 10.0 && got(62.0) > STEP_S / 5.0,
            "{} {}",
            got(58.0),
            got(62.0)
        );
    }
}
