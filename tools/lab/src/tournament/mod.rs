// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tournaments: every strategy on every trace, over every link, from many start offsets, beside
//! what a clairvoyant could have done (heuristics.md, section 5).

pub mod fuzzing;
pub mod input;
pub mod job;
pub mod journal;
pub mod plan;
pub mod play;
pub mod record;
pub mod replay;
pub mod score;
pub mod summary;
pub mod tables;

#[cfg(test)]
mod tests;
