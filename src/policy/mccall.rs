// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! McCall's reservation rule: pause when one more look costs more than it can be expected to gain.
//!
//! Looks at the residual are taken for draws of one law, and each look costs c. The best rule is
//! then to take the first X that is at most the reservation xi, where c = E\[(xi - X)+\]: below xi
//! a look costs more than what a better one gains, and xi is the expected cost of going on. The law
//! is that of the last looks; X is the time to send the residual and c the time between looks,
//! which counts a few milliseconds of downtime a second. Asked at each harvest after the first
//! round.
//!
//! # Differences
//! In the textbook the law is known. Residuals of a real guest are no independent draws: before
//! anything has settled they fall, and in a lull they stay low, so that this is the rule that a
//! forecast must beat (heuristics catalogue, T21).

use std::time::Duration;

use super::estimate::Window;
use super::parameters::{ParameterInfo, ParameterKind};
use super::{Moment, Observation, PolicyInfo, StopPolicy, Verdict};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "mccall",
    rule: "pause when another look at the residual would cost more (3 ms a second) than the law \
           of the last 100 looks lets expect from it",
    source: "McCall, Quarterly Journal of Economics 1970",
    parameters: &[
        ParameterInfo::new(
            "cost_ms_per_s",
            ParameterKind::Number { min: 0.0, max: 1e6 },
            "3",
            "milliseconds of downtime that a second of migration is worth",
        ),
        ParameterInfo::new(
            "learn_looks",
            ParameterKind::Integer { min: 1, max: 100_000 },
            "5",
            "looks before the first at which it may pause",
        ),
        ParameterInfo::new(
            "window",
            ParameterKind::Integer { min: 1, max: 100_000 },
            "100",
            "looks of which the law is made, at least as many as it learns from",
        ),
    ],
    build: |values| {
        let learn_looks = values.small("learn_looks") as usize;
        Box::new(McCall {
            cost_per_s: values.number("cost_ms_per_s") / 1e3,
            learn_looks,
            looks: Window::new((values.small("window") as usize).max(learn_looks)),
        })
    },
};

/// The time to send the residual at one look, in seconds, and when that was.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Look {
    send_s: f64,
    at: Duration,
}

/// McCall's reservation rule.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct McCall {
    /// Seconds of downtime that a second of migration is worth.
    cost_per_s: f64,
    learn_looks: usize,
    looks: Window<Look>,
}

/// xi of c = E\[(xi - X)+\] for the empirical law of `sample`; `None` without a sample.
///
/// The right side is piecewise linear in xi: with the k least values below xi it is
/// (k xi - their sum) / n.
#[expect(clippy::cast_precision_loss, reason = "counts")]
fn reservation(sample: &mut [f64], cost: f64) -> Option<f64> {
    sample.sort_by(f64::total_cmp);
    let total = sample.len() as f64 * cost;
    let mut sum = 0.0;
    for (below, value) in (1usize..).zip(sample.iter()) {
        sum += value;
        let xi = (total + sum) / below as f64;
        if sample.get(below).is_none_or(|next| xi <= *next) {
            return Some(xi);
        }
    }
    None
}

impl McCall {
    /// The reservation by the looks so far, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "counts")]
    fn reservation_s(&self) -> Option<f64> {
        let (first, last) = (self.looks.iter().next()?, self.looks.iter().last()?);
        let steps = self.looks.len().saturating_sub(1).max(1) as f64;
        let step_s = last.at.saturating_sub(first.at).as_secs_f64() / steps;
        let mut sample: Vec<f64> = self.looks.iter().map(|look| look.send_s).collect();
        reservation(&mut sample, self.cost_per_s * step_s)
    }
}

impl StopPolicy for McCall {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        if seen.moment != Moment::Harvested || seen.rounds_sent == 0 {
            return Verdict::go_on("asked only at a harvest after a round");
        }
        let bandwidth = seen.smooth_bandwidth_bytes_per_s.or(seen.round_bandwidth_bytes_per_s);
        let Some(time) = seen.residual_time(bandwidth) else {
            return Verdict::go_on("no bandwidth was measured yet");
        };
        let send_s = time.as_secs_f64();
        let learnt = self.looks.len();
        let known = self.reservation_s().filter(|_| learnt >= self.learn_looks);
        self.looks.push(Look { send_s, at: seen.elapsed });
        match known {
            Some(xi) if send_s <= xi => {
                Verdict::stop(format!("{send_s:.4} s to send, reservation {xi:.4} s"))
            }
            Some(xi) => Verdict::go_on(format!("{send_s:.4} s to send, reservation {xi:.4} s")),
            None => Verdict::go_on(format!("{send_s:.4} s to send, {learnt} looks so far")),
        }
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parse;
    use crate::policy::tests::{at_ms, seen};
    use crate::sim::Rng;

    #[test]
    fn the_reservation_of_small_samples() {
        let xi = |sample: &[f64], cost| reservation(&mut sample.to_vec(), cost);
        assert_eq!(xi(&[], 1.0), None);
        assert_eq!(xi(&[5.0], 2.0), Some(7.0));
        assert_eq!(xi(&[5.0], 0.0), Some(5.0));
        // (xi - 1) / 3 = 1/3 at xi = 2; the others are not below it.
        assert_eq!(xi(&[3.0, 1.0, 2.0], 1.0 / 3.0), Some(2.0));
        // (xi - 1 + xi - 2) / 3 = 2/3.
        assert_eq!(xi(&[3.0, 1.0, 2.0], 2.0 / 3.0), Some(2.5));
        assert_eq!(xi(&[3.0, 1.0, 2.0], 100.0), Some(102.0));
    }

    /// Independent looks, one a second, uniform up to 1000 pages, which take a second. At 20 ms
    /// a look xi solves 0.02 = xi^2 / 2: 0.2 s, and that is also the expected cost of looking on
    /// until a residual is at most xi, plus the residual.
    #[test]
    fn independent_residuals_match_the_optimum() {
        const LEARN: u32 = 1000;
        let mut rng = Rng::new(1);
        let text = format!("mccall:cost_ms_per_s=20,learn_looks={LEARN},window=100000");
        let mut learning = parse(&text).unwrap();
        let ask = |policy: &mut Box<dyn StopPolicy>, look: u32, pages| {
            let ms = u64::from(look) * 1000;
            policy.judge(&at_ms(seen(Moment::Harvested, 1, pages), ms)).word()
        };
        for look in 0..LEARN {
            assert_eq!(ask(&mut learning, look, rng.below(1001)), "continue");
        }
        let (mut cost_s, mut taken_max, runs) = (0.0, 0, 2000);
        for _ in 0..runs {
            let mut policy = learning.fork();
            for look in LEARN.. {
                let pages = rng.below(1001);
                cost_s += 0.02;
                if ask(&mut policy, look, pages) == "stop_and_copy" {
                    cost_s += pages as f64 / 1e3;
                    taken_max = taken_max.max(pages);
                    break;
                }
            }
        }
        assert!((190..=210).contains(&taken_max), "reservation {taken_max} ms");
        let mean_s = cost_s / f64::from(runs);
        assert!((mean_s - 0.2).abs() < 0.01, "{mean_s}");
    }

    #[test]
    fn it_learns_before_it_stops_and_needs_a_bandwidth() {
        let mut policy = parse("mccall:learn_looks=2,cost_ms_per_s=0").unwrap();
        let mut ask = |s: u64, pages| {
            policy.judge(&at_ms(seen(Moment::Harvested, 1, pages), s * 1000)).word()
        };
        assert_eq!(ask(1, 500), "continue");
        assert_eq!(ask(2, 400), "continue");
        assert_eq!(ask(3, 401), "continue", "looking on costs nothing");
        assert_eq!(ask(4, 400), "stop_and_copy", "and yet nothing is better");
        let mut policy = parse("mccall").unwrap();
        assert!(policy.judge(&seen(Moment::Harvested, 0, 9)).reason().contains("after a round"));
    }
}
