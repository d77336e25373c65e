// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Statistics that the checks of the model need.

mod burst;
mod compare;
mod error;
mod fit;
mod quantile;
mod skew;
mod summary;

#[cfg(test)]
mod tests;

pub use burst::{Hurst, aggregate, hurst, index_of_dispersion};
pub use compare::{Interval, bootstrap, holm, sign_flip};
pub use error::StatsError;
pub use fit::{Line, linear};
pub use quantile::Sorted;
pub use skew::{RankFrequency, Uniformity, ZipfFit, chi_square_uniform, rank_frequency, zipf};
pub use summary::{Summary, entropy_bits, summary};

/// A whole number that a float stands for; 0 if it stands for none.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn whole(value: f64) -> usize {
    value as usize
}
