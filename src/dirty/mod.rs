// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty tracking: which pages did the guest write since they were last sent?
//!
//! # Contract (rules R1, R2, R5)
//! From the moment [`DirtyTracker::arm`] returns, every write to a tracked page is reported by a
//! later harvest, or by the current one. Reporting a page that was not written is allowed;
//! leaving one out is not. A harvest clears the tracker's own record and re-arms every page that
//! it reports *before* it returns: whoever reads a reported page afterwards either sees the write
//! or will be told of it again. Trackers with two phases ([`DirtyTracker::needs_rearm`]) report
//! without re-arming and re-arm page by page when [`DirtyTracker::rearm`] is called, which the
//! engine does before it reads the page.
//!
//! A migration attempt that fails puts back what it harvested ([`DirtyTracker::restore`]): others
//! may rely on the record, and the next attempt must send everything (R5).

mod blocks;
#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
#[cfg(test)]
mod kernel_tests;
mod marked;
mod mprotect;
mod pagemap;
mod probe;
mod process;
#[cfg(test)]
mod process_tests;
mod scan;
mod union;

#[cfg(feature = "vm-memory")]
pub(crate) use marked::BitmapHolder;
pub use marked::MarkedTracker;
pub use mprotect::MprotectTracker;
pub use pagemap::PagemapTracker;
pub use probe::{Probed, TRACKER_NAMES, probe, tracker_by_name};
pub use process::ProcessTracker;
pub use union::UnionTracker;

use std::time::Duration;

use crate::bitmap::{DenseBitmap, LengthMismatch};
use crate::units::PageRun;

/// A source of dirty pages. One harvester; any number of writers.
pub trait DirtyTracker: Send {
    /// A short name for reports and logs: `marked`, `pagemap`, `mprotect`, ...
    fn name(&self) -> &'static str;

    /// Number of pages that the tracker covers; every bitmap passed in has this length.
    fn pages(&self) -> u64;

    /// Starts to record. From its return on every write is recorded; what was recorded before may
    /// be forgotten.
    ///
    /// # Errors
    /// [`DirtyError`] if the system refuses; nothing is tracked then.
    fn arm(&mut self) -> Result<(), DirtyError>;

    /// ORs the pages written since the last harvest (or since arming) into `into`, clears its own
    /// record and re-arms those pages. Allocates nothing.
    ///
    /// # Errors
    /// [`DirtyError`]; the record may have been taken in part, and the caller must treat every
    /// page as dirty.
    fn harvest(&mut self, into: &mut DenseBitmap) -> Result<Harvest, DirtyError>;

    /// Whether [`rearm`](Self::rearm) must be called for each run before it is read.
    fn needs_rearm(&self) -> bool {
        false
    }

    /// Re-arms the pages of a run that a harvest reported. Only for trackers with two phases.
    ///
    /// # Errors
    /// [`DirtyError`] if the system refuses.
    fn rearm(&mut self, run: PageRun) -> Result<(), DirtyError> {
        let _ = run;
        Ok(())
    }

    /// Forgets what is recorded for the pages of some runs, which are about to be read: a write
    /// that is complete by now needs no other send. Any other write is reported by a later
    /// harvest, as ever (R1). A tracker that cannot may do nothing, and reports more than it must.
    ///
    /// # Errors
    /// [`DirtyError`] if the system refuses.
    fn clear(&mut self, runs: &[PageRun]) -> Result<(), DirtyError> {
        let _ = runs;
        Ok(())
    }

    /// ORs the pages of `window` that are dirty at this moment into `into` without clearing
    /// anything. Returns `false`, having done nothing, if the tracker cannot look without
    /// clearing. Only a hint: pages may be missing.
    ///
    /// # Errors
    /// [`DirtyError`] if the system refuses.
    fn peek(&mut self, window: PageRun, into: &mut DenseBitmap) -> Result<bool, DirtyError> {
        let _ = (window, into);
        Ok(false)
    }

    /// Puts pages back: the next harvest reports them (R5).
    ///
    /// # Errors
    /// [`DirtyError`] if the lengths differ or the system refuses.
    fn restore(&mut self, set: &DenseBitmap) -> Result<(), DirtyError>;

    /// Stops recording and gives back what tracking cost the guest. What was put back by
    /// [`restore`](Self::restore) survives until the next [`arm`](Self::arm) for trackers that
    /// outlive one migration.
    ///
    /// # Errors
    /// [`DirtyError`] if the system refuses.
    fn disarm(&mut self) -> Result<(), DirtyError>;
}

/// What one harvest did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Harvest {
    /// Pages reported, counting a page once per report of the tracker.
    pub pages: u64,
    /// System calls or words visited, as the back-end counts its work.
    pub steps: u64,
    /// Time that the caller measured around the harvest; trackers leave it zero.
    pub took: Duration,
}

impl Harvest {
    /// A harvest of `pages` pages that took `steps` steps.
    #[must_use]
    pub fn new(pages: u64, steps: u64) -> Self {
        Self { pages, steps, took: Duration::ZERO }
    }
}

/// Dirty tracking failed. The guest is unharmed; what was recorded can no longer be relied on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirtyError {
    /// Bitmaps of different length (R2).
    #[error(transparent)]
    Length(#[from] LengthMismatch),
    /// The call needs an armed tracker.
    #[error("The {tracker} tracker is not armed")]
    NotArmed {
        /// The tracker.
        tracker: &'static str,
    },
    /// This machine or this memory cannot be tracked in this way.
    #[error("The {tracker} tracker cannot be used here: {why}")]
    Unsupported {
        /// The tracker.
        tracker: &'static str,
        /// Which requirement is missing.
        why: String,
    },
    /// The process could not be attached to.
    #[error(transparent)]
    Attach(#[from] crate::sys::inject::InjectError),
    /// The process whose memory is tracked is no more what it was.
    #[error("Process {pid} has ended, or has started another program: its memory is gone")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// The process has changed what it has mapped, so that writes may have been missed.
    #[error(
        "Process {pid} has mapped something else into memory that is tracked; start again, with \
         no memory hotplug or the like under way"
    )]
    Remapped {
        /// The process.
        pid: u32,
    },
    /// The system refused.
    #[error("The {tracker} tracker could not {what}")]
    System {
        /// The tracker.
        tracker: &'static str,
        /// What was tried, as a verb phrase.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}
