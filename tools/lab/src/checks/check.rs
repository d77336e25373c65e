// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One figure beside what it should be, and a table of them.

use std::fmt::Write as _;

use serde::Serialize;

/// One figure of a check.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// Which of the seven checks it belongs to.
    pub number: u8,
    /// What was measured, with its unit.
    pub name: String,
    /// The figure; nothing if it could not be computed.
    pub measured: Option<f64>,
    /// The least that is expected; nothing if there is no such bound.
    pub expected_low: Option<f64>,
    /// The most that is expected.
    pub expected_high: Option<f64>,
    /// Whether it is within both.
    pub passed: bool,
    /// Where the bounds come from, or why there is no figure.
    pub note: String,
}

impl Check {
    /// A figure with the range that it should be in; an infinite end is no bound.
    pub(super) fn new(
        number: u8,
        name: impl Into<String>,
        measured: f64,
        (low, high): (f64, f64),
        note: impl Into<String>,
    ) -> Self {
        Self {
            number,
            name: name.into(),
            measured: measured.is_finite().then_some(measured),
            expected_low: low.is_finite().then_some(low),
            expected_high: high.is_finite().then_some(high),
            // A figure that is not finite is within nothing.
            passed: measured.is_finite() && measured >= low && measured <= high,
            note: note.into(),
        }
    }

    /// The same for a figure that may not exist.
    pub(super) fn of<E: std::fmt::Display>(
        number: u8,
        name: impl Into<String>,
        measured: Result<f64, E>,
        range: (f64, f64),
        note: impl Into<String>,
    ) -> Self {
        match measured {
            Ok(value) => Self::new(number, name, value, range, note),
            Err(error) => Self::new(number, name, f64::NAN, range, error.to_string()),
        }
    }
}

/// Whether there is a check and every one passed.
#[must_use]
pub fn all_passed(checks: &[Check]) -> bool {
    !checks.is_empty() && checks.iter().all(|c| c.passed)
}

/// The checks as a text table, one line each, and a line that sums them up.
#[must_use]
pub fn table(checks: &[Check]) -> String {
    let rows: Vec<[String; 4]> = checks
        .iter()
        .map(|c| [c.name.clone(), figure(c.measured), expected(c), c.note.clone()])
        .collect();
    let width = |column: usize, least: usize| {
        rows.iter().map(|r| r[column].chars().count()).fold(least, usize::max)
    };
    let (name, measured, range) = (width(0, 5), width(1, 8), width(2, 8));
    let mut text = format!(
        "     # {:name$}  {:>measured$}  {:range$}  note\n",
        "check", "measured", "expected"
    );
    for (check, row) in checks.iter().zip(&rows) {
        let mark = if check.passed { "ok" } else { "FAIL" };
        let line = format!(
            "{mark:4} {} {:name$}  {:>measured$}  {:range$}  {}",
            check.number, row[0], row[1], row[2], row[3]
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let failed = checks.iter().filter(|c| !c.passed).count();
    let _ = writeln!(text, "{} checks, {failed} failed", checks.len());
    text
}

/// Three significant digits, in full for large numbers.
fn figure(value: Option<f64>) -> String {
    let Some(value) = value else { return "none".into() };
    match value.abs() {
        a if a >= 100.0 || value == 0.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        a if a >= 0.1 => format!("{value:.3}"),
        a if a >= 0.0001 => format!("{value:.5}"),
        _ => format!("{value:.1e}"),
    }
}

fn expected(check: &Check) -> String {
    match (check.expected_low, check.expected_high) {
        (Some(low), Some(high)) => format!("{} .. {}", figure(Some(low)), figure(Some(high))),
        (Some(low), None) => format!(">= {}", figure(Some(low))),
        (None, Some(high)) => format!("<= {}", figure(Some(high))),
        (None, None) => "a number".into(),
    }
}
