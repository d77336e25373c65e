// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest seam: what a VMM gives the engine beside memory and dirty tracking.

use bytes::Bytes;

use crate::report::GuestStall;
use crate::units::{RequestLoad, Throttle};

/// Control over a guest's vCPUs and devices. Called from one thread at a time.
pub trait GuestControl: Send {
    /// Stops every vCPU and quiesces every device that writes guest memory. When it returns, no
    /// write is under way or will follow, and every write made so far is visible to a harvest
    /// and to a reader. Pausing a paused guest does nothing.
    ///
    /// # Errors
    /// [`GuestError`]; the guest must then still run, or be able to [`resume`](Self::resume).
    fn pause(&mut self) -> Result<(), GuestError>;

    /// Lets the vCPUs run, from where they were paused or from the imported state. Resuming a
    /// running guest does nothing.
    ///
    /// # Errors
    /// [`GuestError`]; the guest then does not run.
    fn resume(&mut self) -> Result<(), GuestError>;

    /// Slows the vCPUs. A guest that cannot be slowed returns an error, and the engine goes on
    /// without.
    ///
    /// # Errors
    /// [`GuestError`] if it cannot.
    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError>;

    /// The state of vCPUs and devices, while paused. Everything else is in guest memory.
    ///
    /// # Errors
    /// [`GuestError`] if it cannot be read.
    fn export_state(&mut self) -> Result<Bytes, GuestError>;

    /// Takes over the state at a destination, while paused and before the first resume.
    ///
    /// # Errors
    /// [`GuestError`] if the state is not one of this kind of guest.
    fn import_state(&mut self, state: Bytes) -> Result<(), GuestError>;

    /// Whether the guest is running at this moment (it may have been paused by its user).
    fn is_running(&self) -> bool;

    /// At a source: Commit is about to be tried. Until the attempt has ended, the guest may run at
    /// the destination, and only the destination's word lets it go on here (R4). For whoever
    /// must know when this process dies.
    fn committing(&mut self) {}

    /// The requests that the guest serves, if it knows of any; policies see it.
    fn requests(&self) -> Option<RequestLoad> {
        None
    }

    /// The guest's own measurement of how long it stood still, if it has one.
    fn stall(&self) -> Option<GuestStall> {
        None
    }
}

/// A guest did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("The guest could not {what}")]
#[non_exhaustive]
pub struct GuestError {
    /// What was asked, as a verb phrase: `pause within 5 s`, `import the state`.
    pub what: String,
    /// The guest's reason.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl GuestError {
    /// An error with a verb phrase and no deeper reason.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// An error with a verb phrase and its reason.
    #[must_use]
    pub fn because(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { what: what.into(), source: Some(source.into()) }
    }
}
