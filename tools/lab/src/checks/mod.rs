// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The seven checks that a guest writes memory as a Web 2.0 site does (workload.md, 6.7).
//!
//! Each takes plain data, from wherever it was measured, and says for each figure what it is and
//! what it should be. What cannot be computed is a check that failed, with the reason as its note.

mod check;
mod curve;
mod pattern;
mod traffic;

#[cfg(test)]
mod tests;

pub use check::{Check, all_passed, table};
pub use curve::{Analytic, CurvePoint, OpsCurve, against_trace, dirty_rate, wws_curve};
pub use pattern::{Popularity, RegionContent, RegionKind, burstiness, content, skew};
pub use traffic::{CYCLE_MEAN_S, STATIONARY, mix};
