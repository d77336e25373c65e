// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The residual over time, for a terminal.

use std::time::Duration;

use precopy::sim::pair::{CurvePoint, PairResult};

use crate::show;

const COLUMNS: usize = 72;
const ROWS: usize = 12;

/// Pages that a stop would have had to send, over time: a column for each 72nd of the run, from
/// the least to the most in that time, on a logarithmic axis.
pub(super) fn residual(result: &PairResult) -> String {
    let points = &result.curve;
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return "The migration was over before anything could be seen.\n".to_owned();
    };
    let span = last.at.since(first.at);
    if span.is_zero() {
        return "The migration was over before anything could be seen.\n".to_owned();
    }
    let columns = columns(points, first, span);
    let most = points.iter().map(|p| p.stale_pages).max().unwrap_or(0);
    let top = most.max(10);
    let mut out = String::from("Pages that a stop would have had to send, over time:\n");
    for row in (0..ROWS).rev() {
        let bottom = if row == 0 { 0 } else { level(top, row) };
        let label = if row == ROWS - 1 { top } else { bottom };
        let labelled = row == ROWS - 1 || row % 3 == 0;
        let label = if labelled { show::count(label) } else { String::new() };
        let cells = columns.iter().map(|column| match column {
            None => ' ',
            Some((low, _)) if row_of(top, *low) > row => ' ',
            Some((_, high)) if row_of(top, *high) < row => ' ',
            Some(_) => '█',
        });
        let cells: String = cells.collect();
        out.push_str(&format!("{label:>12} │{}\n", cells.trim_end()));
    }
    out.push_str(&format!("{:>12} └{}\n", "", "─".repeat(COLUMNS)));
    let end = show::time(span);
    out.push_str(&format!("{:>14}0{:>width$}\n", "", end, width = COLUMNS - 1));
    out
}

/// Least and most of each column; `None` where no sample lies.
fn columns(points: &[CurvePoint], first: &CurvePoint, span: Duration) -> Vec<Option<(u64, u64)>> {
    let mut columns: Vec<Option<(u64, u64)>> = vec![None; COLUMNS];
    for point in points {
        let at = point.at.since(first.at).as_nanos() * COLUMNS as u128 / (span.as_nanos() + 1);
        let Some(column) = usize::try_from(at).ok().and_then(|at| columns.get_mut(at)) else {
            continue;
        };
        let (low, high) = column.unwrap_or((u64::MAX, 0));
        *column = Some((low.min(point.stale_pages), high.max(point.stale_pages)));
    }
    columns
}

/// The row in which a number of pages lies, from 0 for less than 10 pages.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a row of a dozen"
)]
fn row_of(top: u64, pages: u64) -> usize {
    if pages < 10 {
        return 0;
    }
    let share = (pages as f64 / 10.0).ln() / (top as f64 / 10.0).ln().max(1e-9);
    (1 + (share * (ROWS - 1) as f64) as usize).min(ROWS - 1)
}

/// The least number of pages of a row.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a row of a dozen"
)]
fn level(top: u64, row: usize) -> u64 {
    let share = (row - 1) as f64 / (ROWS - 1) as f64;
    (10.0 * (top as f64 / 10.0).powf(share)).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_levels_agree() {
        let top = 262_144;
        assert_eq!((row_of(top, 0), row_of(top, 9), row_of(top, 10)), (0, 0, 1));
        assert_eq!((row_of(top, top), row_of(top, top * 2)), (ROWS - 1, ROWS - 1));
        for row in 1..ROWS {
            let pages = level(top, row);
            assert_eq!(row_of(top, pages + 1), row, "{pages}");
            assert!(row_of(top, pages - 1) < row, "{pages}");
        }
    }
}
