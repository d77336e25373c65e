// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a statistic does not exist.

/// A statistic could not be computed from the data given.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatsError {
    /// Too little data.
    #[error("{got} {what} are too few; at least {least} are needed")]
    TooFew {
        /// What there is too little of.
        what: &'static str,
        /// How many there are.
        got: usize,
        /// How many are needed.
        least: usize,
    },
    /// A value is no finite number.
    #[error("{what} number {index} is {value}; it must be a finite number")]
    NotFinite {
        /// What it is.
        what: &'static str,
        /// Its position, from 0.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// Every value is the same, so that nothing can be fitted.
    #[error("All {what} are equal, so nothing can be fitted; they must vary")]
    Flat {
        /// What is equal.
        what: &'static str,
    },
}

/// Fails on the first value that is no finite number.
pub(super) fn finite(what: &'static str, values: &[f64]) -> Result<(), StatsError> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(StatsError::NotFinite { what, index, value: values[index] }),
        None => Ok(()),
    }
}

/// Fails if there are less than `least`.
pub(super) fn enough(what: &'static str, got: usize, least: usize) -> Result<(), StatsError> {
    if got < least { Err(StatsError::TooFew { what, got, least }) } else { Ok(()) }
}
