// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A run beside the oracles: which of its plug-ins lost how much.

use serde::{Deserialize, Serialize};

/// The cost J of one run, of the best stop for its mechanism (O2), and of the clairvoyant (O1), in
/// milliseconds and with the fixed downtime in each: without it a ratio has no bound.
///
/// J / J(O1) = (J / J(O2)) x (J(O2) / J(O1)) = stop loss x mechanism gap.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "three numbers of one kind")]
pub struct Score {
    /// Of the run.
    pub cost_ms: f64,
    /// Of O2.
    pub best_stop_ms: f64,
    /// Of O1.
    pub clairvoyant_ms: f64,
}

impl Score {
    /// What the choice of the moment cost: J - J(O2).
    #[must_use]
    pub fn regret_ms(&self) -> f64 {
        self.cost_ms - self.best_stop_ms
    }

    /// What the whole strategy cost: J - J(O1).
    #[must_use]
    pub fn clairvoyant_regret_ms(&self) -> f64 {
        self.cost_ms - self.clairvoyant_ms
    }

    /// J / J(O2): what a better stop policy could gain.
    #[must_use]
    pub fn stop_loss(&self) -> f64 {
        ratio(self.cost_ms, self.best_stop_ms)
    }

    /// J(O2) / J(O1): what a better page order, rate or encoding could gain.
    #[must_use]
    pub fn mechanism_gap(&self) -> f64 {
        ratio(self.best_stop_ms, self.clairvoyant_ms)
    }

    /// J / J(O1), the product of the two.
    #[must_use]
    pub fn ratio_to_clairvoyant(&self) -> f64 {
        ratio(self.cost_ms, self.clairvoyant_ms)
    }
}

/// Two costs of nothing are equally good.
fn ratio(of: f64, to: f64) -> f64 {
    if of <= 0.0 && to <= 0.0 { 1.0 } else { of / to }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_multiply_to_the_whole() {
        let score = Score { cost_ms: 90.0, best_stop_ms: 60.0, clairvoyant_ms: 20.0 };
        assert!((score.stop_loss() - 1.5).abs() < 1e-12);
        assert!((score.mechanism_gap() - 3.0).abs() < 1e-12);
        assert!((score.ratio_to_clairvoyant() - 4.5).abs() < 1e-12);
        assert!((score.regret_ms() - 30.0).abs() < 1e-12);
        assert!((score.clairvoyant_regret_ms() - 70.0).abs() < 1e-12);
        let nothing = Score { cost_ms: 0.0, best_stop_ms: 0.0, clairvoyant_ms: 0.0 };
        assert!((nothing.ratio_to_clairvoyant() - 1.0).abs() < 1e-12);
    }
}
