// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers, tables and sentences for people.

use std::time::Duration;

use precopy::report::{
    DeltaReport, DestinationReport, Downtime, GuestStall, Outcome, Report, RoundReport,
};

use crate::shadows;

/// Rounds shown from the start and from the end of a long table.
const HEAD_ROUNDS: usize = 8;
const TAIL_ROUNDS: usize = 12;
/// Columns of a reason in a table.
const REASON_COLUMNS: usize = 64;

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn float(number: u64) -> f64 {
    number as f64
}

/// Bytes with a unit.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = float(bytes);
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 100.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Bytes per second with a unit.
pub(crate) fn rate(bytes_per_s: f64) -> String {
    if bytes_per_s >= 1e9 {
        format!("{:.2} GB/s", bytes_per_s / 1e9)
    } else {
        format!("{:.1} MB/s", bytes_per_s / 1e6)
    }
}

/// A count with thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Pages per second.
pub(crate) fn pages_per_s(rate: f64) -> String {
    format!("{rate:.0} pages/s")
}

/// Milliseconds as a number.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A time with a unit that fits.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds >= 1.0 { format!("{seconds:.2} s") } else { format!("{:.2} ms", seconds * 1e3) }
}

fn or_dash<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

/// What happened in one round, in one line.
pub(crate) fn round_line(round: &RoundReport) -> String {
    format!(
        "  round {}{}: {} pages in {}, {}",
        round.round,
        if round.paused { " (paused)" } else { "" },
        count(round.sent_pages),
        time(round.duration),
        or_dash(round.bandwidth_bytes_per_s, rate),
    )
}

/// The table of rounds.
pub(crate) fn rounds(report: &Report) -> String {
    round_table(&report.rounds)
}

/// The same for any rounds.
pub(crate) fn round_table(rounds: &[RoundReport]) -> String {
    let mut out = format!(
        "{:>5} {:>10} {:>10} {:>9} {:>9} {:>8} {:>10} {:>9} {:>9} {:>11} {:>10}  {}\n",
        "round",
        "harvested",
        "sent",
        "zero",
        "delta",
        "skipped",
        "wire",
        "time ms",
        "dirty p/s",
        "bandwidth",
        "est. down",
        "verdict",
    );
    let total = rounds.len();
    for (at, round) in rounds.iter().enumerate() {
        if at == HEAD_ROUNDS && total > HEAD_ROUNDS + TAIL_ROUNDS {
            out.push_str(&format!("  ... {} rounds\n", total - HEAD_ROUNDS - TAIL_ROUNDS));
        }
        if at >= HEAD_ROUNDS && at + TAIL_ROUNDS < total {
            continue;
        }
        out.push_str(&format!(
            "{:>4}{} {:>10} {:>10} {:>9} {:>9} {:>8} {:>10} {:>9.1} {:>9} {:>11} {:>10}  {}\n",
            round.round,
            if round.paused { '*' } else { ' ' },
            count(round.harvested_pages),
            count(round.sent_pages),
            count(round.zero_pages),
            count(round.delta.pages),
            count(round.skipped_pages),
            bytes(round.wire_bytes),
            millis(round.duration),
            or_dash(round.dirty_pages_per_s, |rate| format!("{rate:.0}")),
            or_dash(round.bandwidth_bytes_per_s, rate),
            or_dash(round.expected_downtime, time),
            verdict(round),
        ));
    }
    out.push_str("      (*: the guest was paused)\n");
    out
}

fn verdict(round: &RoundReport) -> String {
    let text = match (round.verdict.as_str(), round.reason.as_str()) {
        ("", reason) => reason.to_owned(),
        (word, "") => word.to_owned(),
        (word, reason) => format!("{word}: {reason}"),
    };
    match text.char_indices().nth(REASON_COLUMNS) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// The downtime by part, on both clocks.
pub(crate) fn downtime(parts: &Downtime) -> String {
    let line = |name: &str, time: Duration| format!("    {name:<34}{:>10.3} ms\n", millis(time));
    let mut out = String::new();
    out.push_str("  on the source's clock\n");
    out.push_str(&line("pause the vCPUs", parts.pause));
    out.push_str(&line("last harvest", parts.final_harvest));
    out.push_str(&line("residual pages", parts.residual));
    out.push_str(&line("vCPU state", parts.state));
    out.push_str(&line("prepare (digests included)", parts.prepare));
    out.push_str(&line("commit", parts.commit));
    out.push_str(&line("total, pause to Committed", parts.source_total));
    out.push_str("  on the destination's clock\n");
    out.push_str(&line("import the state", parts.destination_import));
    out.push_str(&line("digest of memory", parts.destination_digest));
    out.push_str(&line("Commit to resume", parts.destination_resume));
    out.push_str(&line("first residual page to resume", parts.destination_total));
    out
}

/// The summary of an attempt.
pub(crate) fn summary(report: &Report) -> String {
    let totals = &report.totals;
    let outcome = match report.outcome {
        Outcome::HandedOver => "handed over: the destination runs the guest",
        Outcome::SourceKeepsRunning => "not handed over: the guest is safe at the source",
        Outcome::InDoubt => "in doubt: the destination may run the guest; it is paused here",
    };
    let mut out = format!("Migration {}: {outcome}\n", report.migration_id);
    if let Some(failure) = &report.failure {
        out.push_str(&format!("  reason: {failure}\n"));
    }
    out.push_str(&format!(
        "  {} in {} rounds and {}: {} pages, {} of them zero, {} on the wire, {}\n",
        bytes(report.total_pages * report.page_bytes),
        totals.rounds,
        time(totals.duration),
        count(totals.sent_pages),
        count(totals.zero_pages),
        bytes(totals.wire_bytes),
        rate(totals.bandwidth_bytes_per_s),
    ));
    out.push_str(&format!("  policy   {}\n", report.policy));
    out.push_str(&format!("  tracker  {}\n", report.tracker));
    out.push_str(&format!(
        "  channels {}, encoder {}, memory digests {}\n",
        report.channels,
        report.encoder,
        if report.verified { "compared: equal" } else { "not compared" },
    ));
    if let Some(delta) = &report.delta {
        out.push_str(&deltas(delta));
    }
    out
}

/// What deltas did.
fn deltas(delta: &DeltaReport) -> String {
    let cache = &delta.cache;
    let mean = delta.sent.bytes.checked_div(delta.sent.pages).unwrap_or(0);
    let mut out = format!(
        "  deltas   {} pages of {} on average, {} saved; {} encoding\n",
        count(delta.sent.pages),
        bytes(mean),
        bytes(delta.saved_bytes),
        time(delta.encode_time),
    );
    out.push_str(&format!(
        "           cache {} of {}: {} hits on copies, {} on lines ({} went in full), {} misses\n",
        bytes(cache.cache_bytes),
        bytes(cache.cache_limit_bytes),
        count(cache.hits),
        count(cache.line_hits),
        count(cache.overflows),
        count(cache.misses),
    ));
    out.push_str(&format!(
        "           copies: {} entered, {} gave way, {} stayed out\n",
        count(cache.admitted),
        count(cache.evicted),
        count(cache.declined),
    ));
    out
}

/// All of a report.
pub(crate) fn report(report: &Report) -> String {
    let mut out = summary(report);
    if !report.rounds.is_empty() {
        out.push('\n');
        out.push_str(&rounds(report));
    }
    if let Some(parts) = &report.downtime {
        out.push_str(&format!("\nDowntime {}\n", time(parts.source_total)));
        out.push_str(&downtime(parts));
    }
    out.push_str(&shadows::table(report));
    out
}

/// What a destination saw.
pub(crate) fn destination(report: &DestinationReport) -> String {
    format!(
        "{} from {}: {} of memory, {} pages received, {} on the wire, in {}; memory digests {}",
        report.migration_id,
        report.peer,
        bytes(report.total_pages * report.page_bytes),
        count(report.received_pages),
        bytes(report.wire_bytes),
        time(report.duration),
        if report.verified { "equal" } else { "not compared" },
    )
}

/// What the guest itself measured.
pub(crate) fn stall(stall: &GuestStall) -> String {
    format!(
        "longest {}, 99.9 % {}, 99 % {}, median {} ({} steps)",
        time(stall.longest),
        time(stall.p999),
        time(stall.p99),
        time(stall.p50),
        count(stall.samples),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1 << 30), "1.0 GiB");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(999), "999");
        assert_eq!(rate(1.5e9), "1.50 GB/s");
        assert_eq!(time(Duration::from_micros(1500)), "1.50 ms");
    }
}
