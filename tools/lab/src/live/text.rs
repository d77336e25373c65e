// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A live experiment in words, for a terminal.

use std::fmt;
use std::time::Duration;

use precopy::report::Report;
use precopy::units::Tick;
use webvm::sla::Percentile;

use super::{LiveMigration, LiveRun};

impl fmt::Display for LiveRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "! {note}")?;
        }
        writeln!(f, "guest       {}", self.site)?;
        writeln!(f, "link        {}", self.link)?;
        let end_s = self.end.since(Tick::ZERO).as_secs_f64();
        let counters = &self.counters;
        writeln!(
            f,
            "users       {} for {end_s:.1} s: {} actions, {} requests; {} resets, {} time-outs, {} \
             refused, {} answers out of order",
            self.users.users,
            counters.completed,
            counters.responses,
            counters.resets,
            counters.timed_out,
            counters.refused,
            counters.violations,
        )?;
        for (number, migration) in self.migrations.iter().enumerate() {
            writeln!(f, "\nmigration {number} by {}: {migration}", self.policy)?;
        }
        if let Some(sla) = &self.sla {
            let (p90, p99) = (sla.verdict(Percentile::P90), sla.verdict(Percentile::P99));
            writeln!(f, "\nservice levels: 90th percentile {p90:?}, 99th {p99:?}")?;
        }
        match &self.audit {
            Some(audit) => writeln!(f, "audit: {audit}"),
            None => writeln!(f, "audit: none"),
        }
    }
}

impl fmt::Display for LiveMigration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { started, from, downtime, .. } = self;
        let outcome = match (self.runs_at, &self.source) {
            (None, _) => "in doubt",
            (Some(_), None) => "not tried",
            (Some(at), Some(_)) if at == *from => "the guest stayed",
            (Some(_), Some(_)) => "handed over",
        };
        writeln!(f, "from {from}, {:.1} s into the run: {outcome}", seconds(*started))?;
        if let Some(failure) = &self.failure {
            writeln!(f, "  {failure}")?;
        }
        if let Some(report) = &self.source {
            rounds(report, f)?;
        }
        writeln!(
            f,
            "  downtime: {} by the prober, {} by the users, {} by engine and guest",
            millis(downtime.prober),
            millis(downtime.users),
            millis(downtime.engine),
        )?;
        let recovery = millis(self.recovery_ns.map(Duration::from_nanos));
        write!(f, "  recovery: {recovery}; actions dropped: {}", self.dropped)
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn rounds(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mega = |bytes: u64| bytes as f64 / 1e6;
    writeln!(
        f,
        "  {:>5} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "round", "harvested", "sent", "MB", "s", "MB/s"
    )?;
    for round in &report.rounds {
        writeln!(
            f,
            "  {:>4}{} {:>9} {:>9} {:>9.1} {:>8.3} {:>8.1}",
            round.round,
            if round.paused { '*' } else { ' ' },
            round.harvested_pages,
            round.sent_pages,
            mega(round.wire_bytes),
            round.duration.as_secs_f64(),
            round.bandwidth_bytes_per_s.unwrap_or(0.0) / 1e6,
        )?;
    }
    let totals = &report.totals;
    writeln!(
        f,
        "  total {:.2} s, {:.1} MB in {} rounds (* paused)",
        totals.duration.as_secs_f64(),
        mega(totals.wire_bytes),
        totals.rounds
    )?;
    let Some(parts) = &report.downtime else { return Ok(()) };
    writeln!(
        f,
        "  pause {} harvest {} residual {} state {} prepare {} commit {}",
        millis(Some(parts.pause)),
        millis(Some(parts.final_harvest)),
        millis(Some(parts.residual)),
        millis(Some(parts.state)),
        millis(Some(parts.prepare)),
        millis(Some(parts.commit)),
    )
}

fn seconds(at: Tick) -> f64 {
    at.since(Tick::ZERO).as_secs_f64()
}

fn millis(time: Option<Duration>) -> String {
    time.map_or_else(|| "unknown".to_owned(), |time| format!("{:.1} ms", time.as_secs_f64() * 1e3))
}
