// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a process says: a sentence for people, or an object of JSON a line for programs.

use std::fmt;
use std::io::Write;

use anyhow::Context;
use precopy::report::{DestinationReport, Report};
use serde::{Deserialize, Serialize};

/// An audit in numbers and words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Audit {
    pub(crate) clean: bool,
    pub(crate) steps: u64,
    pub(crate) text: String,
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Line {
    Listening { address: String },
    Started { guest: String, tracker: String },
    TakenOver { report: Box<DestinationReport> },
    NotTakenOver { why: String },
    Audit(Audit),
    Sent { report: Box<Report> },
    Ended { steps: u64 },
    Recorded { file: String, ticks: u64, page_events: u64, bytes: u64, missed: u64, mean_us: f64 },
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening { address } => write!(f, "Listening on {address}"),
            Self::Started { guest, tracker } => write!(f, "Started {guest}; writes: {tracker}"),
            Self::TakenOver { report } => write!(f, "Took a guest over from {}", report.peer),
            Self::NotTakenOver { why } => write!(f, "No guest was taken over: {why}"),
            Self::Audit(audit) => write!(f, "Checked: {}", audit.text),
            Self::Sent { report } => sent(report, f),
            Self::Recorded { file, ticks, page_events, bytes, missed, mean_us } => write!(
                f,
                "{file}: {ticks} ticks, {page_events} pages over all of them, {bytes} bytes; \
                 {mean_us:.0} us a tick, {missed} missed"
            ),
            Self::Ended { steps } => write!(f, "The guest ended here after {steps} steps"),
        }
    }
}

fn sent(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let totals = &report.totals;
    write!(
        f,
        "{:?}: {} rounds, {} pages, {:.1?} in all",
        report.outcome, totals.rounds, totals.sent_pages, totals.duration
    )?;
    if let Some(downtime) = &report.downtime {
        write!(f, ", downtime at most {:.1?}", downtime.source_total)?;
    }
    report.failure.iter().try_for_each(|why| write!(f, "; {why}"))
}

/// Says it.
pub(crate) fn say(line: &Line, json: bool) -> anyhow::Result<()> {
    let text = if json { serde_json::to_string(line)? } else { line.to_string() };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("Could not write the output")
}
