// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A live run beside the virtual one, for a terminal.

use lab::report::Spread;
use lab::report::data::SideBySide;
use webvm::sla::{Percentile, SlaReport};

fn number(spread: &Spread) -> String {
    match spread.median() {
        None => "-".to_owned(),
        Some(value) if value.fract() == 0.0 || value.abs() >= 1000.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.3}"),
    }
}

/// One line for each figure.
pub(super) fn sides(rows: &[SideBySide]) -> String {
    let mut out = format!("\n{:<42}{:>12}{:>12}{:>10}\n", "", "live", "virtual", "apart");
    for row in rows {
        let both = row.live_run.median().zip(row.virtual_run.median());
        let apart = both.map(|(live, model)| (live / model - 1.0) * 100.0);
        let apart = apart.filter(|apart| apart.is_finite());
        out.push_str(&format!(
            "{:<42}{:>12}{:>12}{:>10}\n",
            row.name,
            number(&row.live_run),
            number(&row.virtual_run),
            apart.map_or_else(|| "-".to_owned(), |apart| format!("{apart:+.1} %")),
        ));
    }
    out
}

/// The verdicts on service levels.
pub(super) fn levels(live: Option<&SlaReport>, model: Option<&SlaReport>) -> String {
    let verdict = |report: Option<&SlaReport>, percentile| {
        report.map_or_else(
            || "not evaluated: steady state shorter than 300 s".to_owned(),
            |report| report.verdict(percentile).to_string(),
        )
    };
    let lines = Percentile::ALL.map(|percentile| {
        format!(
            "Service level p{}: live {}; virtual {}\n",
            percentile.percent(),
            verdict(live, percentile),
            verdict(model, percentile)
        )
    });
    lines.concat()
}
