// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What destinations say, one line each.

use precopy::report::{DestinationReport, GuestStall};
use serde::{Deserialize, Serialize};
use webvm::AuditReport;

use crate::show;
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
    /// Says it, to a program or to people.
    pub(crate) fn say(&self, json: bool) {
        if json {
            println!("{}", serde_json::to_string(self).expect("plain data is JSON"));
            return;
        }
        match self {
            Self::Listening { address } => {
                println!("Listening on {address}; waiting for a guest (Ctrl-C ends)");
            }
            Self::Incoming { migration_id, peer } => {
                println!("Migration {migration_id} from {peer}");
            }
            Self::TakenOver { report, .. } => {
                println!("Took over and runs here: {}", show::destination(report));
            }
            Self::NotTakenOver { report } => {
                let why = report.failure.as_deref().unwrap_or("no reason is known");
                println!("Not taken over: {why}");
            }
            Self::Audit(audit) => println!("Audit: {}", audit.text),
            Self::Stopped { ops, stall, blackout_ms } => {
                println!("Stopped the guest after {} writes", show::count(*ops));
                if let Some(stall) = stall {
                    println!("Gaps between vCPU steps here: {}", show::stall(stall));
                }
                if let Some(blackout) = blackout_ms {
                    println!("Its vCPUs stood still for {blackout:.1} ms across the migration");
                }
            }
        }
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
