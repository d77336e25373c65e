// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rankings in a terminal.

use lab::tournament::summary::{Row, Scope, Spread, Summary};

/// Prints the ranking of each split, the best first.
pub(crate) fn print(summary: &Summary) {
    let weights = summary.weights.first().map_or("", |weights| weights.name.as_str());
    for scope in summary.scopes.iter().filter(|s| s.link.is_none() && s.family.is_none()) {
        scope_table(scope, weights);
    }
}

fn scope_table(scope: &Scope, weights: &str) {
    let split = scope.split.name();
    println!(
        "{split}: {} traces of {} recordings, by mean cost J ({weights})",
        scope.traces, scope.recordings
    );
    let width = scope.rows.iter().map(|row| row.strategy.chars().count()).max().unwrap_or(0);
    let width = width.max("strategy".len());
    println!(
        "  {:width$} {:>9} {:>9} {:>9} {:>5} {:>8} {:>6} {:>7} {:>6} {:>8} {:>8} {:>9} {:>8} {:>8}",
        "strategy",
        "J ms",
        "median ms",
        "p95 ms",
        "hits",
        "success",
        "forced",
        "gave up",
        "failed",
        "time s",
        "GiB",
        "regret ms",
        "J/O2",
        "J/O1"
    );
    for row in &scope.rows {
        line(row, width);
    }
    println!();
}

fn line(row: &Row, width: usize) {
    let real = |value: Option<f64>| match value {
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
        None => "-".to_owned(),
    };
    let of = |spread: Option<Spread>, get: fn(&Spread) -> f64| real(spread.as_ref().map(get));
    println!(
        "  {:width$} {:>9} {:>9} {:>9} {:>4.0}% {:>7.0}% {:>6} {:>7} {:>6} {:>8} {:>8} {:>9} {:>8} \
         {:>8}",
        row.strategy,
        real(row.cost_ms.map(|cost| cost.mean)),
        of(row.downtime_ms, |s| s.median),
        of(row.downtime_ms, |s| s.p95),
        row.hit_share * 100.0,
        row.success_share * 100.0,
        row.forced,
        row.gave_up,
        row.failed,
        real(row.total_s),
        real(row.gib),
        of(row.regret_ms, |s| s.median),
        of(row.ratio_o2, |s| s.median),
        of(row.ratio_o1, |s| s.median),
    );
}
