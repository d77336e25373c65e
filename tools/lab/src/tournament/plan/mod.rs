// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Plans: what competes, on what, and how it is scored. TOML; see [`EXAMPLE`].
//!
//! A plan is data, read without touching a file. Every number in it is bounded, so that the runs
//! that it asks for can be counted before anything is begun.

mod error;
mod names;
mod read;
mod table;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use precopy::policy::StrategySpec;
use precopy::trace::synth::SynthSpec;
use serde::{Deserialize, Serialize};

pub use error::PlanError;

use crate::traces::Shipped;

/// A plan with every key and what it means.
pub const EXAMPLE: &str = include_str!("../../../plans/example.toml");

/// The standard plan: every shipped trace at 1 and 10 Gb/s, every strategy.
pub const STANDARD: &str = include_str!("../../../plans/standard.toml");

/// Synthetic guests and links that are made to deceive a stop policy.
pub const ADVERSARIAL: &str = include_str!("../../../plans/adversarial.toml");

/// A minute's worth, for a look at a new strategy.
pub const QUICK: &str = include_str!("../../../plans/quick.toml");

/// Most bytes of a plan.
pub const PLAN_BYTES_MAX: usize = 1 << 20;
/// Most traces, before folders are looked into.
pub const TRACES_MAX: usize = 1000;
/// Most strategies.
pub const STRATEGIES_MAX: usize = 200;
/// Most links.
pub const LINKS_MAX: usize = 32;
/// Most changes of one link.
pub const CHANGES_MAX: usize = 1000;
/// Most start offsets of a trace.
pub const OFFSETS_MAX: u64 = 10_000;
/// Most seeds.
pub const SEEDS_MAX: usize = 1000;
/// Most memory of a synthetic guest, in MiB: its trace is held in memory.
pub const SYNTH_MIB_MAX: u64 = 64 * 1024;
/// Longest synthetic trace, in seconds.
pub const SYNTH_S_MAX: u64 = 3600;
/// Most sets of weights.
pub const WEIGHTS_MAX: usize = 16;

/// Whether parameters may be tuned on a trace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a trace is the one or the other")]
pub enum Split {
    /// They may.
    Train,
    /// They may not.
    Test,
}

impl Split {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Train, Self::Test];

    /// As plans and tables have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// Where a trace comes from.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Origin {
    /// A file; relative to the plan's folder.
    File(PathBuf),
    /// Every trace of a folder, by name; relative to the plan's folder.
    Folder(PathBuf),
    /// One that comes with the program.
    Recording(Shipped),
    /// A synthetic guest.
    Synth(Synth),
}

/// A synthetic guest (`precopy trace synth --list`), made anew each time: same entry, same trace.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Synth {
    /// How it writes.
    pub spec: SynthSpec,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// How long the trace is, in seconds.
    pub length_s: u64,
    /// Seed of everything random about it.
    pub seed: u64,
}

/// A trace, or a folder of them.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct TraceSpec {
    /// Name in tables; the file's name if it is not given.
    pub name: Option<String>,
    /// Traces of one kind are reported together.
    pub family: String,
    /// Train or test.
    pub split: Split,
    /// Where it comes from.
    pub origin: Origin,
    /// The trace's time runs by so much faster: 16 turns a recording of a guest that was emulated
    /// 16 times too slowly into one at native speed.
    pub speed: f64,
    /// Line of the plan.
    pub line: usize,
}

/// How the parameters of a strategy came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Tuning {
    /// As its source publishes them.
    Default,
    /// Chosen on the train traces of this plan.
    Train,
}

/// What competes.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// Name in tables; differs from all others.
    pub name: String,
    /// When it stops, which page comes next, how fast, how hard it throttles.
    pub strategy: StrategySpec,
    /// Seconds for which it watches the guest before the first page is sent.
    pub preflight_s: f64,
    /// How its parameters came about.
    pub tuning: Tuning,
    /// Line of the plan.
    pub line: usize,
}

impl Entry {
    /// Everything of it but the name, as text.
    #[must_use]
    pub fn definition(&self) -> String {
        format!("{}, preflight {} s", self.strategy, self.preflight_s)
    }

    /// Everything but when it stops: strategies of one mechanism send the same pages at the same
    /// times until one of them stops.
    #[must_use]
    pub fn mechanism(&self) -> String {
        let StrategySpec { stop, order, rate, throttle, .. } = &self.strategy;
        let mut text = order.as_ref().map_or_else(|| "address".to_owned(), ToString::to_string);
        // Legacy Xen's peek comes with its stop policy.
        if stop.build().skips_redirtied(1) {
            text.push_str("+skip");
        }
        for part in
            [rate.as_ref().map(ToString::to_string), throttle.as_ref().map(ToString::to_string)]
                .into_iter()
                .flatten()
        {
            text = format!("{text}+{part}");
        }
        if self.preflight_s > 0.0 {
            text = format!("{text}, preflight {} s", self.preflight_s);
        }
        text
    }
}

/// A bandwidth from some time of the migration on.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// Seconds since the start of the migration.
    pub at_s: f64,
    /// Bytes per second from then on; 0 is an outage.
    pub bandwidth_bytes_per_s: f64,
}

/// A link.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct LinkSpec {
    /// Name in tables.
    pub name: String,
    /// Bytes per second at the start.
    pub bandwidth_bytes_per_s: f64,
    /// Round trip time in milliseconds.
    pub rtt_ms: f64,
    /// Most time in milliseconds by which a message comes later than that.
    pub jitter_ms: f64,
    /// Later bandwidths, by time.
    pub changes: Vec<Change>,
    /// Line of the plan.
    #[serde(skip)]
    pub line: usize,
}

/// What a second, a GiB and a second of lost guest work cost, in milliseconds of downtime
/// (heuristics.md, 5: J = D + `c_T` T + `c_X` X + `c_G` G).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Weights {
    /// Name in tables.
    pub name: String,
    /// `c_T`, ms per s.
    pub time_ms_per_s: f64,
    /// `c_X`, ms per GiB.
    pub bytes_ms_per_gib: f64,
    /// `c_G`, ms per s.
    pub guest_loss_ms_per_s: f64,
}

impl Weights {
    /// Without the name, as the oracles take them.
    #[must_use]
    pub fn oracle(&self) -> precopy::sim::oracle::Weights {
        precopy::sim::oracle::Weights {
            time_ms_per_s: self.time_ms_per_s,
            bytes_ms_per_gib: self.bytes_ms_per_gib,
            guest_loss_ms_per_s: self.guest_loss_ms_per_s,
        }
    }
}

/// A plan, checked.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// Heading of the report.
    pub title: String,
    /// Remarks for the report.
    pub notes: String,
    /// Index of the strategy that all others are compared with.
    pub reference: usize,
    /// Downtime that counts as a hit, and that strategies are told, in milliseconds.
    pub budget_ms: f64,
    /// Longest migration; who has not stopped by then is stopped.
    pub t_max_s: f64,
    /// Fixed cost of a switchover in milliseconds, the network's round trips apart.
    pub d0_ms: f64,
    /// Time that a guest loses at the first write to a page after a harvest, in microseconds.
    pub fault_us: f64,
    /// Start offsets for each trace, evenly over it.
    pub offsets: u32,
    /// Whether one more offset is the one whose first copy ends as the busiest second begins.
    pub worst_phase: bool,
    /// Seeds: each shifts the offsets by a part of their distance.
    pub seeds: Vec<u64>,
    /// Traces.
    pub traces: Vec<TraceSpec>,
    /// Strategies.
    pub strategies: Vec<Entry>,
    /// Links.
    pub links: Vec<LinkSpec>,
    /// Weights; the first ranks.
    pub weights: Vec<Weights>,
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// [`PlanError`] says what is wrong, in which line and key, and what there is instead.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        read::plan(text)
    }

    /// The same, small enough for a minute: three offsets, the first link, one seed.
    #[must_use]
    pub fn quick(mut self) -> Self {
        self.offsets = self.offsets.min(3);
        self.worst_phase = false;
        self.links.truncate(1);
        self.seeds.truncate(1);
        self
    }
}
