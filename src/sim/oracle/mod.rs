// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Oracles: what the best could have done, in the words of heuristics.md 2.
//!
//! None of them is a strategy: they know what no engine knows, and are what results stand beside.
//!
//! | oracle | knows | tells |
//! |---|---|---|
//! | O1 [`Clairvoyant`] | every write to come | the least residual of any schedule of page sends |
//! | O2 [`CostCurve`] | what stopping costs at each moment of a run | the best moment to stop |
//! | O3 [`RateOracle`] | every page's write rate | the least residual at a random moment |
//! | O4 [`DeltaOracle`] | as O1, and the deltas' sizes | O1 for a pause in which deltas are sent |
//!
//! [`clairvoyant_curve`] gives O1 for a trace and a link as the curve on which O2 works; a
//! [`Score`] puts a run beside both. [`theory`] has the closed forms that they must agree with.

use std::time::Duration;

use crate::limits;
use crate::units::{PageRun, Tick};

mod capacity;
mod clairvoyant;
mod cost;
mod curve;
mod delta;
mod looped;
mod rates;
mod score;
#[cfg(test)]
mod tests;
pub mod theory;

pub use capacity::Capacity;
pub use clairvoyant::{Clairvoyant, Release};
pub use cost::{Axis, CostCurve, CostPoint, Infeasible, Weights};
pub use curve::{
    ClairvoyantSetting, TickResidual, clairvoyant_curve, clairvoyant_guest, clairvoyant_ticks,
};
pub use delta::{DeltaOracle, DeltaShare};
pub use looped::{Looped, TraceOracleError};
pub use rates::{RateOracle, page_rates, rate_oracle};
pub use score::Score;

/// An oracle cannot be asked this.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OracleError {
    /// Too many pages.
    #[error("A guest of {pages} pages is too large: at most {}", limits::PAGES_MAX)]
    Pages {
        /// How many.
        pages: u64,
    },
    /// Too many ticks.
    #[error(
        "The run is longer than {} ticks; end it earlier or use longer ticks",
        limits::ORACLE_TICKS_MAX
    )]
    Ticks,
    /// A page that the guest does not have.
    #[error("Tick {tick} names {run}, but the guest has {pages} pages")]
    Run {
        /// The run.
        run: PageRun,
        /// Number of the tick, from 1; 0 for what held something at the start.
        tick: u64,
        /// Pages of the guest.
        pages: u64,
    },
    /// A rate of the link that cannot be.
    #[error(
        "From {} s on the link has {bytes_per_s} bytes/s; it must be a finite number from 0 up, \
         and each time later than the one before",
        .from.as_secs_f64()
    )]
    Rate {
        /// From when on.
        from: Duration,
        /// The rate.
        bytes_per_s: f64,
    },
    /// A page without a size.
    #[error("A page takes {bytes} bytes on the wire; it must be a finite number above 0")]
    PageBytes {
        /// The number.
        bytes: f64,
    },
    /// A share that is none.
    #[error("{what} is {share}; it must be from 0 to 1")]
    Share {
        /// Of what.
        what: &'static str,
        /// The number.
        share: f64,
    },
    /// A trace that is over before it is to begin.
    #[error("The trace has no tick after {} ms; start earlier", .offset.as_nanos() as f64 / 1e6)]
    Offset {
        /// Where it was to begin.
        offset: Tick,
    },
}
