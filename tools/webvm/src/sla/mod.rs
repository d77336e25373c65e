// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Service levels: raw samples, and what they say over every window.

mod bands;
mod error;
mod evaluate;
mod lines;
mod outage;
mod quantile;
mod rank;
mod report;
mod sample;

#[cfg(test)]
mod tests;

pub use bands::{Band, bands};
pub use error::SlaError;
pub use evaluate::{Attribution, Levels, Options, WINDOW, evaluate, in_steady_state};
pub use lines::{LinePoint, response_lines, throughput};
pub use outage::{
    Drops, Gap, Probe, ProbeOutage, Recovery, drops, longest_silence, probe_outage, recovery,
};
pub use quantile::{Method, Percentile, Quantile};
pub use report::{ActionReport, LevelReport, Point, SlaReport, Verdict};
pub use sample::{Sample, Status};
