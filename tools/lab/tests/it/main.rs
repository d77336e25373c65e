// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The laboratory as its users see it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod plans;
mod report;
#[path = "../../examples/sample_report/sample.rs"]
mod sample;
