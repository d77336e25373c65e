// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `receive --json` says, one line each.

use precopy::report::{DestinationReport, GuestStall};
use serde::{Deserialize, Serialize};
use webvm::AuditReport;

use crate::system::Resident;

/// One line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(crate) enum Line {
    /// Sources can come.
    Listening { address: String },
    /// A source came.
    Incoming { migration_id: String, peer: String },
    /// The guest runs here.
    TakenOver { report: DestinationReport, memory: Resident },
    /// The guest does not run here.
    NotTakenOver { report: DestinationReport },
    /// The guest was audited.
    Audit(Audit),
    /// The guest was paused for good.
    Stopped { ops: u64, stall: Option<GuestStall>, blackout_ms: Option<f64> },
}

impl Line {
    /// Prints it.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        use std::io::Write;
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, self)?;
        writeln!(out)?;
        Ok(out.flush()?)
    }
}

/// What an audit found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Audit {
    /// Every page is right.
    pub(crate) clean: bool,
    /// Ops since the guest's start.
    pub(crate) ops: u64,
    /// Ops at this side.
    pub(crate) ops_here: u64,
    /// Pages that were compared.
    pub(crate) pages: u64,
    /// Writes that are missing.
    pub(crate) lost_writes: u64,
    /// Writes that happened more often than they should.
    pub(crate) duplicated_writes: u64,
    /// In words.
    pub(crate) text: String,
}

impl Audit {
    /// From the guest's own report.
    pub(crate) fn new(report: &AuditReport, ops_here: u64) -> Self {
        Self {
            clean: report.is_clean(),
            ops: report.ops,
            ops_here,
            pages: report.pages,
            lost_writes: report.lost_writes,
            duplicated_writes: report.duplicated_writes,
            text: report.to_string(),
        }
    }
}
