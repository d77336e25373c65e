// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an evaluation says, as plain data.

use std::fmt;
use std::time::Duration;

use precopy::units::Tick;
use serde::{Serialize, Serializer};

use super::{Attribution, Method, Percentile, Quantile};
use crate::site::Action;

/// Whether a service level was met.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "yes, no, and too few samples to say")]
pub enum Verdict {
    /// Within the limit in every window.
    Met,
    /// Over the limit in a window that has enough samples.
    Violated,
    /// Over the limit, but only in windows with fewer than `1 / (1 - p)` samples, whose
    /// percentile is their maximum; or no samples at all.
    Undetermined,
}

impl Verdict {
    /// The verdict over both: the worse one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Violated, _) | (_, Self::Violated) => Self::Violated,
            (Self::Undetermined, _) | (_, Self::Undetermined) => Self::Undetermined,
            (Self::Met, Self::Met) => Self::Met,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Met => "met",
            Self::Violated => "violated",
            Self::Undetermined => "undetermined",
        })
    }
}

/// One window of one action.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Point {
    /// End of the window, `s + W`: the time at which Fig. 3 draws it.
    pub time: Tick,
    /// Samples in the window, errors included.
    pub samples: usize,
    /// Its 90th percentile; nothing without samples.
    pub p90: Option<Quantile>,
    /// Its 99th percentile; nothing without samples.
    pub p99: Option<Quantile>,
}

impl Point {
    /// One of the percentiles.
    #[must_use]
    pub fn quantile(&self, percentile: Percentile) -> Option<Quantile> {
        match percentile {
            Percentile::P90 => self.p90,
            Percentile::P99 => self.p99,
        }
    }
}

/// One percentile of one action over all windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct LevelReport {
    /// Which percentile.
    pub percentile: Percentile,
    /// The largest value over all windows that have samples: what the paper's Table 2 prints.
    pub worst: Option<Quantile>,
    /// End of the first window with that value.
    pub worst_at: Option<Tick>,
    /// Windows with enough samples and a value strictly over the limit.
    pub violations: usize,
    /// End of the first of them.
    pub first_violation: Option<Tick>,
    /// Windows with fewer than `1 / (1 - p)` samples.
    pub undetermined: usize,
    /// Those of them whose value is over the limit.
    pub undetermined_over: usize,
    /// What follows from it.
    pub verdict: Verdict,
}

/// One action over all windows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct ActionReport {
    /// Which action.
    pub action: Action,
    /// Its limit.
    #[serde(rename = "limit_ns", serialize_with = "as_nanos")]
    pub limit: Duration,
    /// Samples in the steady state, errors included.
    pub samples: usize,
    /// Those that did not end with success.
    pub errors: usize,
    /// The 90th and the 99th percentile, in the order of [`Percentile::ALL`].
    pub levels: [LevelReport; 2],
    /// Both percentiles of every window, in order of time.
    pub curve: Vec<Point>,
}

impl ActionReport {
    /// One of the percentiles.
    #[must_use]
    pub fn level(&self, percentile: Percentile) -> &LevelReport {
        &self.levels[percentile.index()]
    }

    /// The curve of one percentile over time, without the windows that have no samples.
    #[must_use]
    pub fn curve_of(&self, percentile: Percentile) -> Vec<(Tick, Quantile)> {
        self.curve.iter().filter_map(|p| Some((p.time, p.quantile(percentile)?))).collect()
    }
}

/// What samples say about the service levels.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct SlaReport {
    /// Start of the steady state.
    pub steady_start: Tick,
    /// End of the steady state.
    pub steady_end: Tick,
    /// Length of a window.
    #[serde(rename = "window_ns", serialize_with = "as_nanos")]
    pub window: Duration,
    /// By which time a sample belongs to a window.
    pub attribution: Attribution,
    /// How percentiles are read.
    pub method: Method,
    /// Windows evaluated for each action.
    pub windows: usize,
    /// Samples in the steady state.
    pub samples: usize,
    /// Samples outside it, which were not used.
    pub outside: usize,
    /// All seven actions, in order.
    pub actions: Vec<ActionReport>,
    /// The system's verdict at the 90th percentile: over all actions.
    pub p90: Verdict,
    /// The system's verdict at the 99th percentile.
    pub p99: Verdict,
}

impl SlaReport {
    /// The system's verdict.
    #[must_use]
    pub fn verdict(&self, percentile: Percentile) -> Verdict {
        match percentile {
            Percentile::P90 => self.p90,
            Percentile::P99 => self.p99,
        }
    }

    /// One action.
    #[must_use]
    pub fn action(&self, action: Action) -> &ActionReport {
        &self.actions[action.index()]
    }
}

fn as_nanos<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(super::quantile::nanos(*time))
}
