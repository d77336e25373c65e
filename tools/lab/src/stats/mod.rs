// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Statistics that the checks of the model need.

mod burst;
mod error;
mod fit;
mod skew;
mod summary;

#[cfg(test)]
mod tests;

pub use burst::{Hurst, aggregate, hurst, index_of_dispersion};
pub use error::StatsError;
pub use fit::{Line, linear};
pub use skew::{RankFrequency, Uniformity, ZipfFit, chi_square_uniform, rank_frequency, zipf};
pub use summary::{Summary, entropy_bits, summary};
