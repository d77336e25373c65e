// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The downtime limit as policies use it.

use std::time::Duration;

use super::Observation;
use super::parameters::{ParameterInfo, ParameterKind, Values};

/// A downtime limit, the policy's own or the migration's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct DowntimeLimit {
    own: Option<Duration>,
    count_fixed_cost: bool,
}

impl DowntimeLimit {
    /// QEMU allows at most 2000 s; so does this.
    pub(super) const PARAMETER: ParameterInfo = ParameterInfo::new(
        "downtime_ms",
        ParameterKind::IntegerOr { min: 0, max: 2_000_000, word: "limit" },
        "limit",
        "downtime allowed in milliseconds; `limit` is the migration's own (the peer's: 300)",
    );

    pub(super) const FIXED_COST_PARAMETER: ParameterInfo = ParameterInfo::new(
        "count_fixed_cost",
        ParameterKind::Switch,
        "false",
        "take what a switchover costs apart from the pages off the limit; the peer does not",
    );

    pub(super) fn from_values(values: &Values) -> Self {
        Self {
            own: values.integer_or("downtime_ms").map(Duration::from_millis),
            count_fixed_cost: values.switch("count_fixed_cost"),
        }
    }

    /// The limit in force.
    pub(super) fn of(&self, seen: &Observation) -> Duration {
        self.own.unwrap_or(seen.downtime_limit)
    }

    /// What of the limit is left for sending the residual; `None` if the fixed cost alone is
    /// more than is allowed.
    pub(super) fn for_pages(&self, seen: &Observation) -> Option<Duration> {
        match self.count_fixed_cost {
            true => self.of(seen).checked_sub(seen.fixed_switchover_cost),
            false => Some(self.of(seen)),
        }
    }
}
