// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A tournament as one page that needs nothing but itself, every run included.

mod charts;
mod method;
mod tables;

use std::io::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::super::format::{count, sig};
use super::super::markup::{Node, el, text_el};
use super::document;
use super::page::{Page, p};
use crate::tournament::record::RunRecord;
use crate::tournament::summary::{Scope, Summary, complete};

/// Tables of runs larger than this are compressed before they go into the page.
const PLAIN_BYTES_MAX: usize = 1 << 20;

/// The whole page.
pub(in super::super) fn render(
    summary: &Summary,
    runs: &[RunRecord],
    csv: &[u8],
    json: &[u8],
) -> io::Result<String> {
    let mut page = Page::default();
    findings(&mut page, summary);
    tables::rankings(&mut page, summary);
    charts::forest(&mut page, summary);
    let counted = complete(summary.strategies.len(), runs);
    charts::pareto(&mut page, summary, &counted);
    charts::losses(&mut page, summary);
    charts::distributions(&mut page, summary, &counted);
    tables::traces(&mut page, summary);
    tables::plan(&mut page, summary);
    downloads(&mut page, summary, csv, json)?;
    method::method(&mut page, summary);
    Ok(document(&summary.title, header(summary), page))
}

fn header(summary: &Summary) -> Node {
    let mut header = el("header").child(text_el("h1", summary.title.as_str()));
    if summary.finished < summary.planned {
        let told = format!(
            "{} of {} runs were made. Every number is of the {} runs of those starts at which \
             each strategy has run; the other starts are missing.",
            count(summary.finished as u64),
            count(summary.planned as u64),
            count(summary.counted as u64)
        );
        header = header.child(
            el("div")
                .class("partial")
                .with("role", "alert")
                .child(text_el("strong", "PARTIAL"))
                .child(text_el("span", told)),
        );
    }
    let facts = [
        ("Runs", count(summary.finished as u64)),
        ("Traces", summary.traces.len().to_string()),
        ("Strategies", summary.strategies.len().to_string()),
        ("Links", summary.links.len().to_string()),
        ("Budget", format!("{} ms", sig(summary.budget_ms))),
        ("Longest migration", format!("{} s", sig(summary.t_max_s))),
        ("Reference", summary.reference.clone()),
        ("Version", summary.version.clone()),
    ];
    let facts = facts
        .into_iter()
        .map(|(name, value)| el("div").child(text_el("dt", name)).child(text_el("dd", value)));
    header = header.child(el("dl").class("facts").children(facts));
    if summary.notes.is_empty() { header } else { header.child(p(summary.notes.as_str())) }
}

/// Name of a scope, for headings.
fn scope_name(scope: &Scope) -> String {
    let mut name = match scope.split.name() {
        "test" => "Test traces".to_owned(),
        _ => "Train traces".to_owned(),
    };
    for part in [&scope.link, &scope.family].into_iter().flatten() {
        name = format!("{name}, {part}");
    }
    name
}

/// Whether a scope is all of its split.
fn is_whole(scope: &Scope) -> bool {
    scope.link.is_none() && scope.family.is_none()
}

/// In words: who is first, and how far from what was possible.
fn findings(page: &mut Page, summary: &Summary) {
    let weights = summary.weights.first().map_or("", |weights| weights.name.as_str());
    let mut inside = Vec::new();
    for scope in summary.scopes.iter().filter(|scope| is_whole(scope)) {
        let Some(best) = scope.rows.first() else { continue };
        let median = best.downtime_ms.map_or_else(String::new, |downtime| {
            let (median, p95) = (sig(downtime.median), sig(downtime.p95));
            format!(" Its downtime is {median} ms in the median and {p95} ms at p95.")
        });
        let ratio = best.ratio_o2.map_or_else(String::new, |ratio| {
            let (median, p95) = (sig(ratio.median), sig(ratio.p95));
            format!(" It costs {median} times the best stop of its own mechanism (p95 {p95}).")
        });
        let against = scope.comparisons.iter().find(|c| c.strategy == best.strategy);
        let against = against.filter(|c| c.recordings > 1).map_or_else(String::new, |c| {
            format!(
                " Against {}: {} ms of cost J on average (95 % interval {} to {}, p = {} after \
                 Holm).",
                summary.reference,
                sig(c.cost_ms.mean),
                sig(c.cost_ms.low),
                sig(c.cost_ms.high),
                sig(c.p_holm)
            )
        });
        inside.push(p(format!(
            "{}: {} costs least under the weights \u{201c}{weights}\u{201d} ({} of {} runs \
             stopped within the time).{median}{ratio}{against}",
            scope_name(scope),
            best.strategy,
            best.stopped,
            best.runs,
        )));
    }
    page.section("findings", "Findings", inside);
}

fn downloads(page: &mut Page, summary: &Summary, csv: &[u8], json: &[u8]) -> io::Result<()> {
    let link = |name: &str, kind: &str, bytes: &[u8], told: &str| {
        let href = format!("data:{kind};base64,{}", BASE64.encode(bytes));
        let link = text_el("a", name).with("href", href).with("download", name);
        el("p").child(link).text(format!(" {told}"))
    };
    let rows = count(summary.finished as u64);
    let told = format!("every run: {rows} rows with the columns below");
    let runs = if csv.len() <= PLAIN_BYTES_MAX {
        link("runs.csv", "text/csv", csv, &told)
    } else {
        link("runs.csv.gz", "application/gzip", &gzip(csv)?, &told)
    };
    let json = link("summary.json", "application/json", json, "every number of this page");
    let inside = vec![
        p("All data is part of this page; the same runs lie beside it as CSV and Parquet."),
        runs,
        json,
        tables::columns(summary),
    ];
    page.section("data", "Data", inside);
    Ok(())
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}
