// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a caller may want to show while a migration runs.

use std::time::Duration;

use serde::Serialize;

use crate::session::SessionEvent;
use crate::session::destination::DestinationPhase;
use crate::units::{MigrationId, Tick};

/// Least time between two snapshots of progress.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Something happened, at either side.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "side")]
#[non_exhaustive]
pub enum EngineEvent {
    /// At the source: phases, decisions, rounds.
    Source(SessionEvent),
    /// At the source: how far it is.
    SourceProgress(Progress),
    /// At the destination: a source came.
    Incoming {
        /// Which migration.
        migration_id: MigrationId,
        /// From where.
        peer: String,
    },
    /// At the destination: a phase began.
    Destination {
        /// When.
        at: Tick,
        /// Which.
        phase: DestinationPhase,
    },
    /// At the destination: how far it is.
    DestinationProgress(Received),
}

/// How far a source is.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Progress {
    /// When.
    pub at: Tick,
    /// The round in progress.
    pub round: u32,
    /// Pages of the guest.
    pub total_pages: u64,
    /// Pages sent since the start, zero pages included.
    pub sent_pages: u64,
    /// Pages still owed in this round.
    pub owed_pages: u64,
    /// Bytes sent since the start.
    pub wire_bytes: u64,
    /// Bytes per second since the snapshot before.
    pub bandwidth_bytes_per_s: f64,
    /// Pages that the guest dirtied per second before the last harvest.
    pub dirty_pages_per_s: Option<f64>,
}

/// What has come in at a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Received {
    /// When.
    pub at: Tick,
    /// Pages written, zero pages included.
    pub pages: u64,
    /// Bytes of page frames.
    pub wire_bytes: u64,
}

/// Takes events. Called from the migration's main thread: what it takes long to do, the
/// migration waits for.
pub trait EventSink {
    /// Something happened.
    fn event(&mut self, event: &EngineEvent);
}

/// Ignores everything.
impl EventSink for () {
    fn event(&mut self, _event: &EngineEvent) {}
}

impl<F: FnMut(&EngineEvent)> EventSink for F {
    fn event(&mut self, event: &EngineEvent) {
        self(event);
    }
}
