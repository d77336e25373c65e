// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a test says that cannot run here.

use std::fmt::Display;
use std::io::Write;

/// Prints the reason on one line that starts with `SKIPPED:`, past the test harness, which would
/// show it only of tests that fail.
pub fn skipped(why: impl Display) {
    // One write, so that the lines of two tests do not mix; there is nobody to tell of a failure.
    let _ = std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes());
}
