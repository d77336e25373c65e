// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The test guest under the engine: integrity over many migrations, and every way to end one.

#![allow(clippy::unwrap_used, clippy::too_many_lines, missing_docs)]

mod endings;
mod guest;
mod migrations;
mod tiers;
