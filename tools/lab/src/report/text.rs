// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The most important of a report for a terminal: claims, capacity, policies, Table 2, the
//! verdicts of Fig. 3.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use webvm::site::Action;

use super::curve;
use super::data::{Capacity, Fig3Panel, PolicyResult, Report, Table2};
use super::format::{seconds, sig};
use super::html::{kind_name, paper_violated};
use super::judge::{Judged, Verdict};
use super::paper;
use super::rank::ranked;

/// Longest line, columns.
const WIDTH: usize = 100;

/// Claims, capacity, policies, Table 2 and the verdicts of Fig. 3 as text, the paper's numbers
/// beside ours.
#[must_use]
pub fn render(report: &Report, claims: &[Judged]) -> String {
    let mut out = String::new();
    if let Some(partial) = &report.run.partial {
        let _ = writeln!(out, "*** PARTIAL: {} ***\n", plain(partial));
    }
    if report.run.off_scale {
        let _ = writeln!(out, "Another size than the paper's: its claims are not judged");
    } else {
        claims_table(&mut out, claims);
    }
    if let Some(capacity) = &report.capacity {
        capacity_text(&mut out, capacity);
    }
    if !report.policies.is_empty() {
        policies_text(&mut out, &report.policies);
    }
    if let Some(table2) = &report.table2 {
        table2_text(&mut out, table2);
    }
    if let Some(fig3) = &report.fig3 {
        let _ = writeln!(out, "\nFig. 3: HomePage at {} users, limit 1 s\n", fig3.users);
        let _ = writeln!(
            out,
            "{:<34}{:<10}{:<22}{:<10}Ours p99",
            "Panel", "Paper p90", "Ours p90", "Paper p99"
        );
        for panel in &fig3.panels {
            fig3_row(&mut out, panel);
        }
    }
    out
}

/// Text from elsewhere without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn claims_table(out: &mut String, claims: &[Judged]) {
    let _ = writeln!(
        out,
        "{:<23}{:<21}{:<28} {:<15}Section",
        "Claim of the paper", "Paper", "Ours (range)", "Verdict"
    );
    for judged in claims {
        let ours = if judged.ours.is_empty() { "-" } else { judged.ours.as_str() };
        let _ = writeln!(
            out,
            "{:<23}{:<21}{ours:<28} {:<15}{}",
            judged.claim.id,
            judged.claim.paper,
            judged.verdict.name(),
            judged.claim.section
        );
        if judged.verdict == Verdict::NotReproduced {
            wrapped(out, &plain(&judged.why));
        }
    }
    let of = |verdict| claims.iter().filter(|judged| judged.verdict == verdict).count();
    let _ = writeln!(
        out,
        "\n{} claims: {} reproduced, {} not reproduced, {} not measured",
        claims.len(),
        of(Verdict::Reproduced),
        of(Verdict::NotReproduced),
        of(Verdict::NotMeasured)
    );
}

/// A paragraph under a row, set in.
fn wrapped(out: &mut String, text: &str) {
    let mut line = String::from("   ");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH && line.trim() != "" {
            let _ = writeln!(out, "{line}");
            line = String::from("   ");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(out, "{line}");
}

fn capacity_text(out: &mut String, capacity: &Capacity) {
    let _ = writeln!(out, "\nCapacity without a migration\n");
    for step in &capacity.steps {
        let rate = step.throughput.median().map_or_else(|| "-".to_owned(), sig);
        let verdict = if step.pass { "passes" } else { "fails" };
        let _ = writeln!(out, "{:>5} users {rate:>8} op/s  {verdict}", step.users);
        wrapped(out, &plain(&step.reason));
    }
}

/// Policies, best first.
fn policies_text(out: &mut String, policies: &[PolicyResult]) {
    let _ = writeln!(
        out,
        "\nPolicies, best first: p99 kept, then p90, then the prober's downtime\n\n\
         {:>9} {:>9} {:>10} {:>8} {:>9} {:>9}  Policy",
        "p99 kept", "p90 kept", "Downtime", "Rounds", "Total", "Sent"
    );
    for policy in ranked(policies) {
        let of = |kept: u32| format!("{kept}/{}", policy.runs);
        let with = |value: Option<f64>, unit: &str| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{} {unit}", sig(value)))
        };
        let _ = writeln!(
            out,
            "{:>9} {:>9} {:>10} {:>8} {:>9} {:>9}  {}",
            of(policy.p99_kept),
            of(policy.p90_kept),
            with(policy.downtime_probe_s.median(), "s"),
            policy.rounds.median().map_or_else(|| "-".to_owned(), sig),
            with(policy.total_s.median(), "s"),
            with(policy.sent_mb.median().map(|mb| mb / 1e3), "GB"),
            plain(&policy.name),
        );
    }
}

fn table2_text(out: &mut String, table2: &Table2) {
    let listed: BTreeSet<u32> = table2.cells.iter().map(|cell| cell.users).collect();
    let _ = writeln!(
        out,
        "\nTable 2: largest p99 (s) with one migration: ours / the paper's, least and greatest run \
         under it;\n! above the limit\n"
    );
    let _ = write!(out, "{:<13}{:>5}", "Action", "Limit");
    for users in listed.iter().rev() {
        let _ = write!(out, "{:>16}", format!("{users} users"));
    }
    out.push('\n');
    for action in Action::ALL {
        let limit_s = paper::limit_s(action);
        let _ = write!(out, "{:<13}{:>5}", action.name(), sig(limit_s));
        let mut ranges = " ".repeat(18);
        for &users in listed.iter().rev() {
            let found = table2.cells.iter().find(|c| c.action == action && c.users == users);
            let values = found.map(|cell| &cell.p99_s);
            let ends = values.and_then(|v| Some((v.median()?, v.min()?, v.max()?)));
            let (ours, range) = ends.map_or_else(
                || ("-".to_owned(), String::new()),
                |(median, min, max)| {
                    let sign = if median > limit_s { "!" } else { "" };
                    let range = format!("[{} {}]", seconds(min), seconds(max));
                    (format!("{sign}{}", seconds(median)), range)
                },
            );
            let paper = paper::table2_s(action, users).map_or_else(|| "-".to_owned(), seconds);
            let _ = write!(out, "{:>16}", format!("{ours} / {paper}"));
            let _ = write!(ranges, "{range:>16}");
        }
        let _ = writeln!(out, "\n{}", ranges.trim_end());
    }
}

fn fig3_row(out: &mut String, panel: &Fig3Panel) {
    let verdict = curve::violations(panel);
    let (p90, p99) = paper_violated(panel.kind);
    let says = |violated: Option<bool>| match violated {
        Some(true) => "violated",
        Some(false) => "kept",
        None => "not said",
    };
    let ours = |violated: bool, peak_s: f64| {
        format!("{}, peak {} s", says(Some(violated)), seconds(peak_s))
    };
    let _ = writeln!(
        out,
        "{:<34}{:<10}{:<22}{:<10}{}",
        kind_name(panel.kind),
        says(p90),
        ours(verdict.p90_mean, verdict.p90_peak_s),
        says(p99),
        ours(verdict.p99_mean, verdict.p99_peak_s)
    );
}
