// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Simulated migrations as text and as CSV.

use std::io::{self, Write};
use std::time::Duration;

use precopy::report::Outcome;
use precopy::sim::pair::PairResult;
use precopy::units::Tick;

use super::Simulated;
use crate::show;

fn or_dash<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

fn outcome(result: &PairResult) -> &'static str {
    match result.outcome {
        Some(Outcome::HandedOver) => "handed over",
        Some(Outcome::SourceKeepsRunning) => "kept",
        Some(Outcome::InDoubt) => "in doubt",
        None => "died",
    }
}

/// From the first page to the resume, or to the end.
fn took(result: &PairResult) -> Duration {
    result.totals.duration
}

/// Least residual that was seen, and when.
fn least(result: &PairResult) -> Option<(u64, Duration)> {
    let began = result.rounds.first().map_or(Tick::ZERO, |round| round.started);
    let live = result.curve.iter().filter(|p| result.paused_at.is_none_or(|at| p.at < at));
    live.min_by_key(|p| p.stale_pages).map(|p| (p.stale_pages, p.at.since(began)))
}

/// The sums of one migration.
pub(super) fn totals(one: &Simulated) -> String {
    let result = &one.result;
    let totals = &result.totals;
    let mut lines = vec![
        ("strategy", one.policy.clone()),
        ("outcome", outcome(result).to_owned()),
        ("downtime", or_dash(result.downtime, show::time)),
        ("expected", or_dash(result.expected_downtime, show::time)),
        ("total time", show::time(took(result))),
        ("rounds", show::count(totals.rounds.into())),
        ("on the wire", show::bytes(totals.wire_bytes)),
        ("pages sent", show::count(totals.sent_pages)),
        ("guest writes", show::count(result.guest_writes)),
        ("guest lost", show::time(result.guest_lost)),
    ];
    if let Some((pages, at)) = least(result) {
        let least = format!("{} pages, after {}", show::count(pages), show::time(at));
        lines.push(("least residual", least));
    }
    let rows = lines.iter().map(|(name, value)| format!("{name:<16}{value}\n"));
    rows.collect()
}

/// One line a migration.
pub(super) fn compare(all: &[Simulated]) -> String {
    let mut out = format!(
        "{:<36} {:>11} {:>12} {:>12} {:>10} {:>7} {:>12} {:>12}\n",
        "strategy", "outcome", "downtime", "expected", "total", "rounds", "wire", "guest lost",
    );
    for one in all {
        let result = &one.result;
        out.push_str(&format!(
            "{:<36} {:>11} {:>12} {:>12} {:>10} {:>7} {:>12} {:>12}\n",
            one.policy,
            outcome(result),
            or_dash(result.downtime, show::time),
            or_dash(result.expected_downtime, show::time),
            show::time(took(result)),
            result.totals.rounds,
            show::bytes(result.totals.wire_bytes),
            show::time(result.guest_lost),
        ));
    }
    out
}

/// A text as a field of CSV.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// The residual over time.
pub(super) fn curve_csv(to: &mut dyn Write, all: &[Simulated]) -> io::Result<()> {
    writeln!(to, "policy,at_s,stale_pages,sent_wire_bytes,guest_lost_s")?;
    for one in all {
        let policy = field(&one.policy);
        for point in &one.result.curve {
            let at = point.at.since(Tick::ZERO).as_secs_f64();
            let lost = point.guest_lost.as_secs_f64();
            let (stale, sent) = (point.stale_pages, point.sent_wire_bytes);
            writeln!(to, "{policy},{at},{stale},{sent},{lost}")?;
        }
    }
    Ok(())
}

/// The rounds.
pub(super) fn rounds_csv(to: &mut dyn Write, all: &[Simulated]) -> io::Result<()> {
    writeln!(
        to,
        "policy,round,paused,started_s,duration_s,harvested_pages,sent_pages,zero_pages,\
         skipped_pages,wire_bytes,dirty_pages_per_s,bandwidth_bytes_per_s,verdict"
    )?;
    let rate = |rate: Option<f64>| rate.map_or_else(String::new, |rate| rate.to_string());
    for one in all {
        let policy = field(&one.policy);
        for round in &one.result.rounds {
            writeln!(
                to,
                "{policy},{},{},{},{},{},{},{},{},{},{},{},{}",
                round.round,
                round.paused,
                round.started.since(Tick::ZERO).as_secs_f64(),
                round.duration.as_secs_f64(),
                round.harvested_pages,
                round.sent_pages,
                round.zero_pages,
                round.skipped_pages,
                round.wire_bytes,
                rate(round.dirty_pages_per_s),
                rate(round.bandwidth_bytes_per_s),
                round.verdict,
            )?;
        }
    }
    Ok(())
}
