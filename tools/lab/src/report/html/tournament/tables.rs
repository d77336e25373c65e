// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rankings, trace by trace, and what the plan was.

use super::super::super::format::{NONE, count, percent, sig};
use super::super::super::markup::{Node, el, text_el};
use super::super::page::{Page, cell, details, head, number, p, table};
use super::{is_whole, scope_name};
use crate::stats::Interval;
use crate::tournament::plan::{LinkSpec, Tuning};
use crate::tournament::record::columns as all_columns;
use crate::tournament::summary::{Comparison, Row, Scope, Spread, Summary};

fn real(value: Option<f64>) -> Node {
    number(value.map_or_else(|| NONE.to_owned(), sig))
}

fn of(spread: Option<Spread>, get: fn(&Spread) -> f64) -> Node {
    real(spread.as_ref().map(get))
}

fn interval(value: Option<Interval>) -> Node {
    let Some(value) = value else { return number(NONE) };
    let ends = format!("{} \u{2026} {}", sig(value.low), sig(value.high));
    number(sig(value.mean)).child(text_el("span", ends).class("note block"))
}

/// Rankings of every scope; those of whole splits open.
pub(super) fn rankings(page: &mut Page, summary: &Summary) {
    let weights = summary.weights.first().map_or("", |weights| weights.name.as_str());
    let mut inside = vec![p(format!(
        "By mean cost J = D + c_T T + c_X X + c_G G under the weights \u{201c}{weights}\u{201d}, \
         in milliseconds of downtime; each recording counts the same, intervals are 95 % \
         bootstrap intervals over recordings. Oracles are not ranked. Parameters marked \
         \u{201c}train\u{201d} were tuned on the train traces only, all others are as published by \
         their source."
    ))];
    for scope in &summary.scopes {
        let several = |n: usize, what: &str| match n {
            1 => format!("1 {what}"),
            _ => format!("{n} {what}s"),
        };
        let title = format!(
            "{} ({} of {})",
            scope_name(scope),
            several(scope.traces, "trace"),
            several(scope.recordings, "recording")
        );
        let tables = el("div").child(ranking(summary, &scope.rows)).child(against(summary, scope));
        if is_whole(scope) {
            inside.extend([text_el("h3", title), tables]);
        } else {
            inside.push(details(&title, tables));
        }
    }
    page.section("rankings", "Rankings", inside);
}

const RANKING: &[&str] = &[
    "",
    "strategy",
    "J, ms",
    "downtime median, ms",
    "p95, ms",
    "CVaR 95, ms",
    "worst, ms",
    "hits",
    "success",
    "time, s",
    "data, GiB",
    "guest loss, ms",
    "regret to O2, ms",
    "J / O2 median",
    "p95",
    "J / O1 median",
    "stop loss",
    "mechanism gap",
    "forced",
    "gave up",
    "failed",
];

fn ranking(summary: &Summary, rows: &[Row]) -> Node {
    let rows = rows.iter().enumerate().map(|(at, row)| {
        let facts = summary.strategies.iter().find(|facts| facts.name == row.strategy);
        let tuned = facts.is_some_and(|facts| facts.tuning == Tuning::Train);
        let mut name = head(row.strategy.as_str());
        if tuned {
            name = name.child(text_el("span", "train").class("note block"));
        }
        vec![
            number((at + 1).to_string()),
            name,
            interval(row.cost_ms),
            of(row.downtime_ms, |s| s.median),
            of(row.downtime_ms, |s| s.p95),
            of(row.downtime_ms, |s| s.cvar95),
            of(row.downtime_ms, |s| s.max),
            number(percent(row.hit_share)),
            number(percent(row.success_share)),
            real(row.total_s),
            real(row.gib),
            number(sig(row.guest_loss_ms)),
            of(row.regret_ms, |s| s.median),
            of(row.ratio_o2, |s| s.median),
            of(row.ratio_o2, |s| s.p95),
            of(row.ratio_o1, |s| s.median),
            real(row.stop_loss),
            real(row.mechanism_gap),
            number(row.forced.to_string()),
            number(row.gave_up.to_string()),
            number(row.failed.to_string()),
        ]
    });
    table(RANKING, rows)
}

fn against(summary: &Summary, scope: &Scope) -> Node {
    let rows = scope.comparisons.iter().map(|comparison: &Comparison| {
        vec![
            head(comparison.strategy.as_str()),
            interval(Some(comparison.cost_ms)),
            number(sig(comparison.p_value)),
            number(sig(comparison.p_holm)),
            interval(comparison.downtime_ratio),
            number(sig(comparison.dominance)),
            number(count(comparison.pairs as u64)),
            number(format!("{} ({})", comparison.traces, comparison.recordings)),
        ]
    });
    let header = [
        "strategy",
        "difference in J, ms",
        "p",
        "p, Holm",
        "downtime ratio",
        "dominance",
        "pairs",
        "traces (recordings)",
    ];
    details(&format!("Against {}, pair by pair", summary.reference), table(&header, rows))
}

/// Every trace over every link.
pub(super) fn traces(page: &mut Page, summary: &Summary) {
    let mut inside =
        vec![p("For each trace and link on its own, with the columns of the rankings. \
         The interval of J is over one trace and therefore a point.")];
    for trace in &summary.tables {
        let title = format!("{}, {}", trace.trace, trace.link);
        inside.push(details(&title, ranking(summary, &trace.rows)));
    }
    page.section("traces", "Trace by trace", inside);
}

/// What competed on what.
pub(super) fn plan(page: &mut Page, summary: &Summary) {
    let strategies = summary.strategies.iter().map(|s| {
        let tuning = match s.tuning {
            Tuning::Train => "on train traces",
            _ => "as published",
        };
        vec![
            head(s.name.as_str()),
            cell(s.definition.as_str()),
            cell(s.mechanism.as_str()),
            cell(tuning),
            cell(s.information.as_str()),
        ]
    });
    let traces = summary.traces.iter().map(|t| {
        vec![
            head(t.name.as_str()),
            cell(t.family.as_str()),
            cell(t.split.name()),
            number(sig(t.speed)),
            cell(if t.recording == t.name { "" } else { t.recording.as_str() }),
            number(sig(t.length_s)),
            number(count(t.pages)),
            number(count(t.populated_pages)),
            number(sig(t.reports_per_s)),
        ]
    });
    let links = summary.links.iter().map(|link: &LinkSpec| {
        let changes = link.changes.iter().map(|change| {
            let rate = sig(change.bandwidth_bytes_per_s / 1e6);
            format!("{rate} MB/s from {} s", sig(change.at_s))
        });
        vec![
            head(link.name.as_str()),
            number(sig(link.bandwidth_bytes_per_s / 1e6)),
            number(sig(link.rtt_ms)),
            number(sig(link.jitter_ms)),
            cell(changes.collect::<Vec<_>>().join(", ")),
        ]
    });
    let inside = vec![
        text_el("h3", "Strategies"),
        table(&["name", "parts", "mechanism", "parameters", "may look at"], strategies),
        text_el("h3", "Traces"),
        table(
            &[
                "name",
                "family",
                "split",
                "speed",
                "same recording as",
                "length, s",
                "pages",
                "populated",
                "pages reported per s",
            ],
            traces,
        ),
        text_el("h3", "Links"),
        table(&["name", "MB/s", "round trip, ms", "jitter, ms", "changes"], links),
        text_el("h3", "Mean cost J under every set of weights"),
        grid(summary),
    ];
    page.section("plan", "What competed, on what", inside);
}

/// Mean J of each strategy under each set of weights.
fn grid(summary: &Summary) -> Node {
    let mut header = vec!["split".to_owned(), "strategy".to_owned()];
    header.extend(summary.weights.iter().map(|weights| {
        format!(
            "{}: {} ms/s, {} ms/GiB, {} ms per s of loss",
            weights.name,
            sig(weights.time_ms_per_s),
            sig(weights.bytes_ms_per_gib),
            sig(weights.guest_loss_ms_per_s)
        )
    }));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let scopes = summary.scopes.iter().filter(|scope| is_whole(scope));
    let rows = scopes.flat_map(|scope| {
        scope.rows.iter().map(|row| {
            let mut cells = vec![cell(scope.split.name()), head(row.strategy.as_str())];
            cells.extend(row.costs_ms.iter().map(|cost| real(*cost)));
            cells
        })
    });
    table(&header, rows)
}

/// What the columns of the table of runs are.
pub(super) fn columns(summary: &Summary) -> Node {
    let columns = all_columns(&summary.weights);
    let rows = columns.iter().map(|column| vec![head(column.name.as_str()), cell(column.doc)]);
    details("Columns of the table of runs", table(&["column", "what it is"], rows))
}
