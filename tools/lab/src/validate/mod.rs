// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Live against simulated: a guest migrates in real time over a capped link while its writes are
//! recorded; then the same strategy migrates a replay of that record in virtual time. Both run the
//! same session and the same policies, so what differs is what the simulator leaves out.

mod compare;
mod live;
mod record;
mod simulate;
#[cfg(test)]
mod tests;

pub use compare::{Compared, Comparison, ErrorSummary, Figures};
pub use live::{Guest, LiveCase, LiveMeasured, calibrate, measure};
pub use record::{Recorded, Recorder};
pub use simulate::{Costs, simulate};

use precopy::dirty::DirtyError;
use precopy::engine::MigrateError;
use precopy::guest::GuestError;
use precopy::memory::MemoryError;
use precopy::policy::PolicyError;
use precopy::region::RegionError;

/// Why there is nothing to compare.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValidateError {
    /// The strategy.
    #[error("The strategy cannot be used")]
    Policy(#[from] PolicyError),
    /// The guest's memory.
    #[error("The guest cannot have its memory")]
    Memory(#[from] MemoryError),
    /// Its memory map.
    #[error("The guest's memory map is not valid")]
    Region(#[from] RegionError),
    /// The guest.
    #[error("The guest cannot be run")]
    Guest(#[from] GuestError),
    /// The tracker.
    #[error("The guest's writes cannot be tracked")]
    Dirty(#[from] DirtyError),
    /// The migration.
    #[error("Nothing was migrated")]
    Migrate(#[from] MigrateError),
    /// The site and its users.
    #[error("The site cannot be run")]
    Live(#[from] crate::live::LiveError),
    /// The recorder.
    #[error("The guest's writes cannot be recorded")]
    Recording(#[from] webvm::record::RecordingError),
    /// Threads and sockets.
    #[error("The machine refuses")]
    System(#[from] std::io::Error),
    /// It did not come to a handover.
    #[error("{strategy} did not hand over: {why}; try a higher cap or a calmer guest")]
    NotHandedOver {
        /// The strategy.
        strategy: String,
        /// Why.
        why: String,
    },
    /// A thread panicked.
    #[error("The {what} panicked; please report this")]
    Panicked {
        /// Which.
        what: &'static str,
    },
}
