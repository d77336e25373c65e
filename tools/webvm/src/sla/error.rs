// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why samples could not be judged.

use std::time::Duration;

/// Samples could not be evaluated as asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlaError {
    /// No window fits into the steady state.
    #[error(
        "The steady state lasts {steady:?}, which is shorter than the window of {window:?}: run \
         for longer, or choose a window of at most {steady:?}"
    )]
    SteadyTooShort {
        /// Length of the steady state.
        steady: Duration,
        /// Length of a window.
        window: Duration,
    },
    /// A time that must not be zero is zero.
    #[error("{field} is 0; it must be at least 1 ns, and is usually {usual:?}")]
    Zero {
        /// The field: `window`, `step` or `bin`.
        field: &'static str,
        /// A sensible value.
        usual: Duration,
    },
    /// The grid is too fine for the time that it covers.
    #[error(
        "{field} {step:?} divides {span:?} into {count} parts, more than {max}: choose a longer \
         {field}"
    )]
    TooFine {
        /// The field: `step` or `bin`.
        field: &'static str,
        /// The distance of two grid points.
        step: Duration,
        /// The time covered.
        span: Duration,
        /// Parts that this makes.
        count: u64,
        /// The most that are allowed.
        max: u64,
    },
}
