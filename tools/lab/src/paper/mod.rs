// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The experiments of the paper, again: capacity, Fig. 2, Fig. 3, Table 2, and what they hang on.

mod content;
pub mod experiments;
mod explain;
pub mod figures;
pub mod live;
pub mod model;
pub mod pool;
mod predicted;
pub mod rows;
mod run;

#[cfg(test)]
mod tests;

pub use explain::explain;
pub use run::{Migrated, Ran, RunError, Scenario, migrate, run};
