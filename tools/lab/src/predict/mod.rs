// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a migration will cost, before it is tried.
//!
//! From a curve of the guest's working set ([`WwsCurve`]) and a link, in three steps:
//! 1. The curve is fitted by classes of pages, each rewritten at its own rate ([`WwsModel`]).
//! 2. A guest made of these classes is migrated in virtual time, once for each seed, by the
//!    production session under the real policy ([`predict`]): whatever policy the engine has is
//!    predicted by itself and not by a formula for it. Dirty rate and link vary from seed to seed
//!    as much as they are known to.
//! 3. A fluid model of the site over the predicted rounds says which share of the requests of a
//!    5-minute window is slow ([`Load`], [`Risk`]).
//!
//! [`highest_safe_load`] and [`shortest_safe_spacing`] search over these.

mod curve;
mod fit;
mod fluid;
mod guest;
mod load;
mod nnls;
mod recorded;
mod risk;
mod run;
mod search;
#[cfg(test)]
mod tests;

pub use curve::{PAGES_MAX, POINTS_MAX, Spread, WwsCurve, WwsPoint};
pub use fit::{PageClass, WwsModel};
pub use load::{ActionLoad, Load};
pub use risk::{ActionRisk, Percentile, Risk};
pub use run::{Interval, LinkModel, PredictedRound, PredictedRun, Prediction, Scenario, predict};
pub use search::{SafeLoad, SafeSpacing, TriedLoad, highest_safe_load, shortest_safe_spacing};

/// A prediction cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PredictError {
    /// The working set makes no sense.
    #[error("The WWS curve cannot be used: {what}")]
    Curve {
        /// Field, value and valid range.
        what: String,
    },
    /// A line of a CSV file is no point of a curve.
    #[error(
        "Line {line} is no point of a WWS curve: {text:?}; expected window_s,pages or \
         window_s,pages,sd_pages as numbers"
    )]
    Csv {
        /// Line number, from 1.
        line: usize,
        /// Its beginning.
        text: String,
    },
    /// A parameter is out of range.
    #[error("{field} is {value}; {range}")]
    Parameter {
        /// Which.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        range: &'static str,
    },
    /// A trace is too short for a window.
    #[error(transparent)]
    Trace(#[from] crate::traces::TraceError),
    /// The guest has no memory map.
    #[error("The guest of the prediction cannot be made")]
    Region(#[from] precopy::region::RegionError),
}

/// Refuses a number that is not between `least` and `most`.
fn within(
    field: &'static str,
    value: f64,
    least: f64,
    most: f64,
    range: &'static str,
) -> Result<(), PredictError> {
    if value.is_finite() && (least..=most).contains(&value) {
        return Ok(());
    }
    Err(PredictError::Parameter { field, value: value.to_string(), range })
}
