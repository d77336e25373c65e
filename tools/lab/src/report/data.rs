// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a report is made from: plain data, filled by the experiments, written as JSON as it is.
//!
//! Times are seconds. Where nothing else is said they count from the start of steady state.
//! A value that is infinite (a request that was never answered counts so in a percentile) is
//! the string `"inf"` in JSON, because JSON has no such number.
#![expect(
    clippy::exhaustive_structs,
    clippy::exhaustive_enums,
    reason = "rows of data that experiments fill; the schema's version says what they hold"
)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use webvm::site::Action;

use super::claims::Quantity;
use super::real;

mod beyond;

pub use super::spread::Spread;
pub use beyond::{
    Check, ContrastArm, Curve, Estimate, PolicyResult, Prediction, Sensitivity, SensitivityPoint,
    SideBySide, TraceComparison, Wws,
};

/// Version of the layout of `report.json`. It grows by one when a field changes its meaning or
/// goes; new fields leave it as it is.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything that one report shows. Sections that were not run stay empty and are left out.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// [`SCHEMA_VERSION`] of the writer. [`write`](fn@super::write) sets it.
    pub schema_version: u32,
    /// What was run, and where.
    pub run: RunInfo,
    /// One migration in steady state.
    pub fig2: Option<Fig2>,
    /// Percentiles in 5-minute windows with one and with two migrations.
    pub fig3: Option<Fig3>,
    /// Largest 99th percentile per action and load with one migration.
    pub table2: Option<Table2>,
    /// Search for the greatest load.
    pub capacity: Option<Capacity>,
    /// The same migration under different server settings: keep-alive on first, off second, then
    /// others.
    pub contrast: Vec<ContrastArm>,
    /// How the results move with each uncertain parameter.
    pub sensitivity: Vec<Sensitivity>,
    /// What each policy makes of the same guest.
    pub policies: Vec<PolicyResult>,
    /// The working set against time, beside what the link can send.
    pub wws: Option<Wws>,
    /// The working set against operations, beside recorded guests.
    pub traces: Option<TraceComparison>,
    /// Checks of the model.
    pub checks: Vec<Check>,
    /// Predictions beside what came.
    pub predictions: Vec<Prediction>,
    /// Live runs beside virtual ones, and anything else of the form name, two values.
    pub side_by_side: Vec<SideBySide>,
    /// Measured values for the claims, beyond what the sections above give by themselves.
    /// A value here takes precedence.
    pub measured: BTreeMap<Quantity, Measured>,
    /// Further remarks on method and limits, one paragraph each.
    pub remarks: Vec<String>,
}

/// What was run, and where.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunInfo {
    /// Heading of the report.
    pub title: String,
    /// The command line.
    pub command: String,
    /// Version of the program, with the commit when it is known.
    pub version: String,
    /// Virtual or real time.
    pub mode: Mode,
    /// Whether guest or load are of another size than the paper's: then its claims, which are
    /// about 2 GiB and hundreds of users, are not judged.
    pub off_scale: bool,
    /// The policy of the experiments that are not about policies.
    pub policy: String,
    /// The seeds, in the order of use.
    pub seeds: Vec<u64>,
    /// Parameters worth knowing, in the order of display.
    pub parameters: Vec<Parameter>,
    /// The machine.
    pub machine: Machine,
    /// When it began, as text.
    pub started: String,
    /// How long it took, s of real time.
    #[serde(with = "real")]
    pub wall_s: f64,
    /// How much time was simulated, s; zero for live runs.
    #[serde(with = "real")]
    pub simulated_s: f64,
    /// Set when the run did not come to its end: what happened, what is missing.
    pub partial: Option<String>,
}

/// Virtual or real time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// On the simulator's clock; repeatable bit for bit.
    #[default]
    Virtual,
    /// Threads, TCP connections and the machine's clock.
    Live,
}

/// A parameter of the run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its value with the unit.
    pub value: String,
    /// Where the value comes from; may be empty.
    pub source: String,
}

/// The machine of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Processors that the program could use.
    pub cores: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Processor and system, as text.
    pub description: String,
}

/// A point of a curve: `[x, y]` in JSON.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(into = "real::Pair", from = "real::Pair")]
pub struct Point {
    /// Abscissa; the curve says of what.
    pub x: f64,
    /// Ordinate; the curve says of what.
    pub y: f64,
}

impl Point {
    /// A point.
    #[must_use]
    pub const fn new(x: f64, y: f64) -> Self {
        Self { x, y }
    }
}

/// One round of a migration.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Round {
    /// Its number, from 1.
    pub number: u32,
    /// When it began, s.
    #[serde(with = "real")]
    pub begin_s: f64,
    /// When it ended, s.
    #[serde(with = "real")]
    pub end_s: f64,
    /// Pages sent.
    pub pages: u64,
    /// Bytes on the wire.
    pub bytes: u64,
    /// Whether the guest stood still during it.
    pub paused: bool,
}

impl Round {
    /// Rate on the wire, MB/s (10^6 bytes); `None` for a round of no length.
    #[must_use]
    pub fn rate_mb_s(&self) -> Option<f64> {
        let length_s = self.end_s - self.begin_s;
        (length_s > 0.0).then(|| self.bytes as f64 / 1e6 / length_s)
    }
}

/// A migration on the time axis of a run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Migration {
    /// When it was begun, s.
    #[serde(with = "real")]
    pub begin_s: f64,
    /// When the guest was paused, s.
    #[serde(with = "real")]
    pub pause_s: f64,
    /// When the guest went on at the destination, s.
    #[serde(with = "real")]
    pub resume_s: f64,
    /// When the source was done with it, s; rarely later than the resume.
    #[serde(with = "real")]
    pub end_s: f64,
    /// Its rounds, in order; may be empty.
    pub rounds: Vec<Round>,
}

/// What a migration cost in one run.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MigrationFigures {
    /// The run's seed.
    pub seed: u64,
    /// Begin to resume, s.
    #[serde(with = "real")]
    pub total_s: f64,
    /// Downtime that an open-loop prober saw, s (workload.md 6.8 a).
    #[serde(with = "real")]
    pub downtime_probe_s: f64,
    /// Longest time without a completion over all users, s (6.8 b).
    #[serde(with = "real")]
    pub downtime_gap_s: f64,
    /// Pause to the first instruction at the destination, s (6.8 c).
    #[serde(with = "real")]
    pub downtime_engine_s: f64,
    /// Resume until the last request that was started during the pause is complete, s.
    #[serde(with = "real")]
    pub recovery_s: f64,
    /// Requests that ended in a reset, a refusal or a timeout.
    pub dropped: u64,
    /// Rounds, the one with the guest paused included.
    pub rounds: u32,
    /// Bytes on the wire, MB (10^6 bytes).
    #[serde(with = "real")]
    pub sent_mb: f64,
    /// Highest HomePage response time of the run, s.
    #[serde(with = "real")]
    pub peak_s: f64,
    /// When it completed, s after the resume; negative if before.
    #[serde(with = "real")]
    pub peak_after_resume_s: f64,
    /// Mean HomePage response time in the minute before the migration, s.
    #[serde(with = "real")]
    pub response_before_s: f64,
    /// Mean HomePage response time from begin to pause, s.
    #[serde(with = "real")]
    pub response_during_s: f64,
}

/// One migration in steady state (paper, Fig. 2).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Fig2 {
    /// Concurrent users.
    pub users: u32,
    /// Length of steady state, s.
    #[serde(with = "real")]
    pub steady_s: f64,
    /// Seed of the run that is drawn.
    pub seed: u64,
    /// HomePage: when complete (s), response time (s).
    pub samples: Vec<Point>,
    /// Second (its begin), operations completed in it, all actions.
    pub throughput: Vec<Point>,
    /// The migration that is drawn.
    pub migration: Migration,
    /// The figures of every seed.
    pub runs: Vec<MigrationFigures>,
}

/// Percentiles of HomePage in 5-minute windows (paper, Fig. 3).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Fig3 {
    /// Concurrent users.
    pub users: u32,
    /// The panels, in order.
    pub panels: Vec<Fig3Panel>,
}

/// How many migrations a panel of Fig. 3 has, and how far apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fig3Kind {
    /// None.
    None,
    /// One.
    #[default]
    One,
    /// Two in a short period.
    TwoClose,
    /// Two so far apart that no window holds both.
    TwoSpaced,
}

/// A panel of Fig. 3.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Fig3Panel {
    /// What happens in it.
    pub kind: Fig3Kind,
    /// The runs, all on the same grid of times.
    pub runs: Vec<Fig3Run>,
}

/// One run of a panel of Fig. 3.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Fig3Run {
    /// Its seed.
    pub seed: u64,
    /// Begin and end of each migration, s.
    pub migrations: Vec<[f64; 2]>,
    /// End of the window (s), 90th percentile (s).
    pub p90: Vec<Point>,
    /// End of the window (s), 99th percentile (s).
    pub p99: Vec<Point>,
}

/// Largest 99th percentile per action and load (paper, Table 2).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Table2 {
    /// Length of steady state, s.
    #[serde(with = "real")]
    pub steady_s: f64,
    /// The cells, in any order.
    pub cells: Vec<Table2Cell>,
}

/// A cell of Table 2.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Table2Cell {
    /// The action.
    pub action: Action,
    /// Concurrent users.
    pub users: u32,
    /// Largest 99th percentile over all windows, s, one value per seed.
    pub p99_s: Spread,
    /// Seeds in which no window had samples enough: 100 for a 99th percentile. Their values
    /// above are the maximum of the window.
    pub undetermined: u32,
}

/// Search for the greatest load.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    /// The steps, in order of users.
    pub steps: Vec<CapacityStep>,
    /// The greatest load that keeps the service level; `None` if even the first step fails.
    pub found_users: Option<u32>,
    /// The rule by which a step passes, in words.
    pub rule: String,
}

/// A step of the search.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CapacityStep {
    /// Concurrent users.
    pub users: u32,
    /// Operations per second, one value per seed.
    pub throughput: Spread,
    /// Percentiles per action.
    pub actions: Vec<ActionPercentiles>,
    /// Whether the step passes.
    pub pass: bool,
    /// What failed; empty if nothing.
    pub reason: String,
}

/// Percentiles of an action, the largest over all windows.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ActionPercentiles {
    /// The action.
    pub action: Action,
    /// 90th percentile, s, one value per seed.
    pub p90_s: Spread,
    /// 99th percentile, s, one value per seed.
    pub p99_s: Spread,
}

/// Measured values for a claim.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// One value per run. A yes-or-no claim takes 1 for yes and 0 for no.
    pub values: Spread,
    /// Why the result is as it is, one sentence; may be empty.
    pub why: String,
}
