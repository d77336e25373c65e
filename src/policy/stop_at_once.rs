// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pure stop-and-copy, also called cold migration: pause at the first question.
//!
//! Downtime is then the time to send every populated page: the upper end of what a live
//! migration improves on.

use super::{Observation, PolicyInfo, StopPolicy, Verdict};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "stop-at-once",
    rule: "pause before the first page is sent (pure stop-and-copy, cold migration)",
    source: "baseline; \"cold\" migration in the literature",
    parameters: &[],
    build: |_| Box::new(StopAtOnce),
};

/// Pauses at the first question.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct StopAtOnce;

impl StopPolicy for StopAtOnce {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        Verdict::stop(format!("stops at once with {} pages to send", seen.residual_pages))
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(*self)
    }
}
