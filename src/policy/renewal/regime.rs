// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether the link is still the one that the law of residuals was learnt over.
//!
//! What stays dirty follows from how fast it is sent, so residuals seen over a slower link say
//! nothing about what a faster one will come to: the fall to its lower level would be taken for a
//! lull, and stopped in.

use std::time::Duration;

/// Time over which the rate is smoothed: a small round tells little.
const SMOOTHING: Duration = Duration::from_millis(300);
/// After a change, the rate is followed for so long before it is what others are compared with.
const SETTLING: Duration = Duration::from_secs(1);
/// Least time from one change to the next: over a link that never rests, there is one law of all
/// that it does.
const HOLD: Duration = Duration::from_secs(5);
/// A rate this many times higher or lower is another link's.
const CHANGE: f64 = 1.6;

/// The rate of the link, in bytes per second of smoothed time.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Regime {
    /// When it began, by the clock of the law.
    since: Duration,
    seen_at: Duration,
    rate: Option<f64>,
    /// What is compared with.
    reference: Option<f64>,
}

impl Regime {
    /// Since when the link is the same, by the clock of the law.
    pub(super) fn since(&self) -> Duration {
        self.since
    }

    /// Takes the rate measured now; whether another regime begins with it.
    pub(super) fn changes(&mut self, now: Duration, bytes_per_s: f64) -> bool {
        let passed = now.saturating_sub(self.seen_at);
        self.seen_at = now;
        let weight = 1.0 - (-passed.as_secs_f64() / SMOOTHING.as_secs_f64()).exp();
        let rate = self.rate.map_or(bytes_per_s, |old| old + weight * (bytes_per_s - old));
        self.rate = Some(rate);
        let age = now.saturating_sub(self.since);
        let reference = match self.reference {
            Some(reference) if age >= SETTLING => reference,
            _ => *self.reference.insert(rate),
        };
        let far = rate > reference * CHANGE || rate * CHANGE < reference;
        if !far || age < HOLD {
            return false;
        }
        (self.since, self.reference) = (now, Some(rate));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When changes are noticed, in steps of 100 ms, for rates by step.
    fn changes(rates: impl IntoIterator<Item = f64>) -> Vec<u64> {
        let mut regime = Regime::default();
        let steps = (0..).zip(rates);
        let at = |step: u64| Duration::from_millis(step * 100);
        steps
            .filter(|(step, rate)| regime.changes(at(*step), *rate))
            .map(|(step, _)| step)
            .collect()
    }

    #[test]
    fn a_link_that_recovers_is_another_one() {
        let rates = (0..400).map(|step| if (100..200).contains(&step) { 40e6 } else { 120e6 });
        let found = changes(rates);
        let [down, up] = found[..] else { panic!("{found:?}") };
        assert!((100..105).contains(&down) && (200..205).contains(&up), "{found:?}");
    }

    #[test]
    fn noise_and_single_rounds_change_nothing() {
        let noise = changes((0..400).map(|step| if step % 2 == 0 { 100e6 } else { 150e6 }));
        let single = changes((0..400).map(|step| if step % 40 == 39 { 200e6 } else { 100e6 }));
        assert!(noise.is_empty() && single.is_empty(), "{noise:?} {single:?}");
    }

    #[test]
    fn a_link_that_never_rests_changes_now_and_then() {
        let restless = (0..600).map(|step| if step / 15 % 2 == 0 { 30e6 } else { 300e6 });
        let found = changes(restless);
        assert!(!found.is_empty());
        assert!(found.windows(2).all(|pair| pair[1] - pair[0] >= 50), "{found:?}");
    }
}
