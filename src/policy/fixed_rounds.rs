// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A fixed number of live rounds.
//!
//! Cloud Hypervisor did five before 2026-03 and Propolis does one; others use it as a baseline.

use super::parameters::{ParameterInfo, ParameterKind};
use super::{Moment, Observation, PolicyInfo, StopPolicy, Verdict};
use crate::limits;

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "fixed-rounds",
    rule: "pause after a fixed number of live rounds, whatever they achieved",
    source: "baseline; Propolis does 1, Cloud Hypervisor did 5 before 2026-03",
    parameters: &[ParameterInfo::new(
        "rounds",
        ParameterKind::Integer { min: 1, max: limits::ROUNDS_MAX as u64 },
        "3",
        "live rounds, the full one included",
    )],
    build: |values| Box::new(FixedRounds::new(values.small("rounds"))),
};

/// Pauses after a fixed number of live rounds.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FixedRounds {
    rounds: u32,
}

impl FixedRounds {
    /// Pauses after `rounds` live rounds, the full one included.
    #[must_use]
    pub const fn new(rounds: u32) -> Self {
        Self { rounds }
    }
}

impl StopPolicy for FixedRounds {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        let (sent, wanted) = (seen.rounds_sent, self.rounds);
        match seen.moment {
            Moment::Cadence => Verdict::go_on("within a round"),
            _ if sent >= wanted => Verdict::stop(format!("{sent} of {wanted} rounds sent")),
            _ => Verdict::go_on(format!("{sent} of {wanted} rounds sent")),
        }
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}
