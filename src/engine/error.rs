// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong outside of an attempt with a decided outcome.

use std::io;
use std::time::Duration;

use super::journal::JournalError;
use crate::report::{DestinationReport, MayRunHere};
use crate::units::MigrationId;

/// A migration could not be tried, or (at a destination) did not lead to a takeover.
///
/// At the source, an attempt that began always ends in a [`Report`](crate::report::Report) with
/// its outcome; an error means that nothing was begun and the guest was not touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The destination cannot be reached.
    #[error("Could not connect to the destination at {target}")]
    Connect {
        /// Where it was looked for.
        target: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Options or parts that do not fit together.
    #[error("This migration cannot be tried: {why}")]
    Options {
        /// What does not fit.
        why: String,
    },
    /// The system refused something that the engine needs.
    #[error("Could not {what}")]
    System {
        /// What was tried, as a verb phrase.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The destination does not accept connections any more.
    #[error("No longer listening at {local}: {why}")]
    Listener {
        /// Where it listened.
        local: String,
        /// The system's answer, in words.
        why: String,
    },
    /// The destination's record of outcomes.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Cancelled while no migration was in progress.
    #[error("Cancelled before a source came")]
    Cancelled,
    /// A source came, and its guest does not run here and never will.
    #[error(
        "The guest of migration {} was not taken over: {}",
        .report.migration_id,
        .report.failure.as_deref().unwrap_or("no reason is known")
    )]
    NotTakenOver {
        /// What happened.
        report: Box<DestinationReport>,
    },
    /// The destination did not say what became of a migration.
    #[error(
        "The destination at {target} did not say within {:.1} s what became of migration {id} \
         ({last}); keep the guest paused and ask again",
        waited.as_secs_f64()
    )]
    Unanswered {
        /// Where it was asked.
        target: String,
        /// Which migration.
        id: MigrationId,
        /// How long it was asked.
        waited: Duration,
        /// Why the last question had no answer.
        last: io::Error,
    },
}

impl MigrateError {
    /// Whether the guest may run at the side that holds this error. From [`send`](super::send) it
    /// always may: nothing was begun. From a [`Receiver`](super::Receiver) it never may.
    #[must_use]
    pub const fn may_run_here(&self) -> MayRunHere {
        match self {
            Self::Connect { .. } | Self::Options { .. } | Self::System { .. } => MayRunHere::Yes,
            Self::Listener { .. }
            | Self::Journal(_)
            | Self::Cancelled
            | Self::NotTakenOver { .. } => MayRunHere::No,
            Self::Unanswered { .. } => MayRunHere::Unknown,
        }
    }
}
