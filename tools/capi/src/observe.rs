// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Progress and events for an observer of the VMM's, and reports of what happened.

use std::ffi::CString;

use precopy::engine::{EngineEvent, EventSink};
use precopy::report::{DestinationReport, Report};

use crate::failure::{Failure, c_text, runs_here};
use crate::registry::Registry;
use crate::sys::calls::ObserverCalls;
use crate::sys::types::{
    precopy_progress as RawProgress, precopy_runs_here as RunsHere, precopy_status as Status,
};

/// All reports.
pub(crate) static REPORTS: Registry<Account> = Registry::new();

/// Passes on what a migration says.
#[derive(Debug)]
pub(crate) struct Observer(pub(crate) Option<ObserverCalls>);

impl EventSink for Observer {
    fn event(&mut self, event: &EngineEvent) {
        let Some(calls) = &self.0 else { return };
        let progress = match event {
            EngineEvent::SourceProgress(seen) => RawProgress {
                size: size_of::<RawProgress>(),
                at_ns: seen.at.as_nanos(),
                round: seen.round,
                at_destination: 0,
                total_pages: seen.total_pages,
                moved_pages: seen.sent_pages,
                residual_pages: seen.owed_pages,
                wire_bytes: seen.wire_bytes,
                bandwidth_bytes_per_s: seen.bandwidth_bytes_per_s,
                dirty_pages_per_s: seen.dirty_pages_per_s.unwrap_or(-1.0),
            },
            EngineEvent::DestinationProgress(seen) => RawProgress {
                size: size_of::<RawProgress>(),
                at_ns: seen.at.as_nanos(),
                round: 0,
                at_destination: 1,
                total_pages: 0,
                moved_pages: seen.pages,
                residual_pages: 0,
                wire_bytes: seen.wire_bytes,
                bandwidth_bytes_per_s: 0.0,
                dirty_pages_per_s: -1.0,
            },
            other => {
                match serde_json::to_vec(other) {
                    Ok(json) => calls.event(&c_text(json)),
                    Err(error) => tracing::warn!(%error, "An event has no text"),
                }
                return;
            }
        };
        calls.progress(&progress);
    }
}

/// What happened, as one side saw it.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) here: RunsHere,
    pub(crate) migration_id: CString,
    what: Side,
}

#[derive(Debug)]
enum Side {
    Source(Box<Report>),
    Destination(Box<DestinationReport>),
}

impl Account {
    pub(crate) fn source(report: Report) -> Self {
        Self {
            here: runs_here(report.outcome.source_may_run()),
            migration_id: c_text(report.migration_id.to_string()),
            what: Side::Source(Box::new(report)),
        }
    }

    pub(crate) fn destination(report: DestinationReport) -> Self {
        Self {
            here: runs_here(report.may_run),
            migration_id: c_text(report.migration_id.to_string()),
            what: Side::Destination(Box::new(report)),
        }
    }

    /// As one JSON object.
    pub(crate) fn json(&self) -> Result<CString, Failure> {
        let text = match &self.what {
            Side::Source(report) => serde_json::to_vec(report),
            Side::Destination(report) => serde_json::to_vec(report),
        };
        text.map(c_text).map_err(|error| {
            let why = format!("The report has no text: {error}");
            Failure::new(Status::PRECOPY_ERROR_INTERNAL, why)
        })
    }
}
