// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Data of what goes beyond the paper: contrasts, sensitivity, policies, working sets, checks,
//! predictions.
#![expect(
    clippy::exhaustive_structs,
    reason = "rows of data that experiments fill; the schema's version says what they hold"
)]

use serde::{Deserialize, Serialize};

use super::super::real;
use super::{Point, Spread};

/// The same migration under one setting of the server.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContrastArm {
    /// The setting, such as `keep-alive on`.
    pub name: String,
    /// Workers that wrote memory in 3 s.
    pub busy_workers: Spread,
    /// Distinct memory dirtied in 3 s, MB.
    pub dirtied_3s_mb: Spread,
    /// Total time, s.
    pub total_s: Spread,
    /// Downtime by the engine's clock, s.
    pub downtime_s: Spread,
    /// Largest 99th percentile of HomePage, s.
    pub p99_s: Spread,
}

/// How the results move with a parameter, all others at their defaults.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sensitivity {
    /// The parameter, such as `w`.
    pub parameter: String,
    /// Its unit, such as `pages/op`.
    pub unit: String,
    /// Its default.
    #[serde(with = "real")]
    pub default: f64,
    /// The values tried, in order.
    pub points: Vec<SensitivityPoint>,
}

/// One value of a parameter.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SensitivityPoint {
    /// The value.
    #[serde(with = "real")]
    pub value: f64,
    /// Total time, s.
    pub total_s: Spread,
    /// Downtime by the engine's clock, s.
    pub downtime_s: Spread,
    /// Largest 90th percentile of HomePage, s.
    pub p90_s: Spread,
    /// Largest 99th percentile of HomePage, s.
    pub p99_s: Spread,
}

/// What a policy makes of the guest.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyResult {
    /// The policy with its settings.
    pub name: String,
    /// Rounds.
    pub rounds: Spread,
    /// Total time, s.
    pub total_s: Spread,
    /// Bytes on the wire, MB.
    pub sent_mb: Spread,
    /// Downtime by the prober, s.
    pub downtime_probe_s: Spread,
    /// Longest time without a completion, s.
    pub downtime_gap_s: Spread,
    /// Downtime by the engine's clock, s.
    pub downtime_engine_s: Spread,
    /// Runs.
    pub runs: u32,
    /// Runs in which the 90th percentile of every action kept its limit.
    pub p90_kept: u32,
    /// Runs in which the 99th percentile of every action kept its limit.
    pub p99_kept: u32,
}

/// A named curve.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// Its points in order of x.
    pub points: Vec<Point>,
}

/// The working set against time, beside what the link can send.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Wws {
    /// Length of the window (s), distinct memory dirtied in it (MB).
    pub curves: Vec<Curve>,
    /// What the link sends, MB/s.
    #[serde(with = "real")]
    pub bandwidth_mb_s: f64,
    /// Where a curve meets the line of the link: length of the round (s), memory sent (MB).
    pub fixed_points: Vec<Point>,
}

/// The working set against operations, beside recorded guests.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TraceComparison {
    /// Operations in the window, distinct pages dirtied in it: this guest.
    pub model: Curve,
    /// The recorded guests.
    pub traces: Vec<Curve>,
    /// Allowed relative distance, such as 0.25.
    #[serde(with = "real")]
    pub tolerance: f64,
}

/// A check of the model.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// What was measured.
    #[serde(with = "real")]
    pub measured: f64,
    /// The unit; may be empty.
    pub unit: String,
    /// Least value that passes.
    pub low: Option<f64>,
    /// Greatest value that passes.
    pub high: Option<f64>,
    /// Where the range comes from.
    pub source: String,
}

impl Check {
    /// Whether the value lies in the range. Not-a-number never does.
    #[must_use]
    pub fn passes(&self) -> bool {
        !self.measured.is_nan()
            && self.low.is_none_or(|low| self.measured >= low)
            && self.high.is_none_or(|high| self.measured <= high)
    }
}

/// A prediction beside what came.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Prediction {
    /// The case, such as `500 users, 117.5 MB/s, xen`.
    pub name: String,
    /// Total time.
    pub total: Estimate,
    /// Downtime by the engine's clock.
    pub downtime: Estimate,
}

/// An estimate with its interval, beside the measured value; s.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Estimate {
    /// The prediction.
    #[serde(with = "real")]
    pub predicted_s: f64,
    /// Lower end of its interval.
    #[serde(with = "real")]
    pub low_s: f64,
    /// Upper end of its interval.
    #[serde(with = "real")]
    pub high_s: f64,
    /// What came.
    #[serde(with = "real")]
    pub measured_s: f64,
}

impl Estimate {
    /// |predicted/measured - 1|; `None` where nothing was measured.
    #[must_use]
    pub fn error(&self) -> Option<f64> {
        let error = (self.predicted_s / self.measured_s - 1.0).abs();
        (self.measured_s > 0.0 && error.is_finite()).then_some(error)
    }
}

/// One figure, measured in two ways.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SideBySide {
    /// What it is, with its unit.
    pub name: String,
    /// The virtual run.
    pub virtual_run: Spread,
    /// The live run.
    pub live_run: Spread,
    /// Allowed relative distance; `None` where there is no such limit.
    pub tolerance: Option<f64>,
}
