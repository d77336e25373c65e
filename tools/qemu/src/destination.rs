// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The destination's QEMU as the engine's guest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use precopy::guest::{GuestControl, GuestError};
use precopy::units::Throttle;
use serde_json::Value;

use crate::error::QemuError;
use crate::guard::{Guard, Stage};
use crate::machine::status;
use crate::process::QemuProcess;
use crate::source::{RUN_TIMEOUT, SharedQmp, announce, pause};
use crate::state;

/// Longest time for a QEMU that was told to end, and then for one that was killed.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// A QEMU that waits for a guest.
///
/// Dropped after it took a device state and before its guest was [kept](Kept::keep), it ends
/// QEMU: what it holds is a copy of a guest that must not run, and a `cont` by anybody would
/// run it twice.
#[derive(Debug)]
pub struct DestinationGuest {
    qmp: SharedQmp,
    process: QemuProcess,
    kept: Kept,
    guard: Option<Guard>,
    imported: bool,
}

/// Whether the guest of a [`DestinationGuest`] is this host's.
#[derive(Clone, Debug, Default)]
pub struct Kept(Arc<AtomicBool>);

impl Kept {
    /// The guest was taken over.
    pub fn keep(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_kept(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl DestinationGuest {
    /// Prepares a QEMU for a guest. A guard puts it right if this process dies.
    ///
    /// # Errors
    /// [`QemuError`] if it does not wait for one any more.
    pub fn new(
        qmp: SharedQmp,
        process: QemuProcess,
        kept: Kept,
        guard: Option<Guard>,
    ) -> Result<Self, QemuError> {
        state::expect(&mut qmp.lock())?;
        Ok(Self { qmp, process, kept, guard, imported: false })
    }

    /// Whether its guest runs; `None` if QEMU does not say.
    fn runs(&self) -> Option<bool> {
        if self.process.wait_for_end(Duration::ZERO) {
            return Some(false);
        }
        status(&mut self.qmp.lock()).ok().map(|status| status == "running")
    }

    /// Ends QEMU; whether it is gone for sure.
    fn end(&self) -> bool {
        // Asked nicely it removes its files; the rest is for one that does not hear.
        let asked = self.qmp.lock().execute("quit", Value::Null);
        (asked.is_ok() && self.process.wait_for_end(END_TIMEOUT)) || self.process.kill(END_TIMEOUT)
    }
}

impl GuestControl for DestinationGuest {
    fn pause(&mut self) -> Result<(), GuestError> {
        pause(&mut self.qmp.lock()).map_err(|error| GuestError::because("be stopped", error))
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        let done = self.qmp.lock().execute_within("cont", Value::Null, RUN_TIMEOUT);
        let why = match done {
            // It ran: whatever stops it afterwards stops this host's guest.
            Ok(_) => {
                // The network was told once when the state came in, which was before the guest
                // could answer.
                announce(&mut self.qmp.lock());
                return Ok(());
            }
            Err(_) if self.runs() == Some(true) => return Ok(()),
            Err(error) => error.to_string(),
        };
        // The source will run the guest once it hears that this failed: so here it must not.
        if self.end() {
            return Err(GuestError::because("be started, and QEMU was ended", why));
        }
        tracing::error!(why, pid = self.process.pid(), "QEMU may run the guest and does not end");
        Ok(())
    }

    fn throttle(&mut self, _throttle: Throttle) -> Result<(), GuestError> {
        Err(GuestError::new("be slowed: it is a destination"))
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        Err(GuestError::new("give a device state: it is a destination"))
    }

    fn import_state(&mut self, state: Bytes) -> Result<(), GuestError> {
        if let Some(guard) = &mut self.guard {
            guard.tell(Stage::Importing);
        }
        self.imported = true;
        let done = state::import(&mut self.qmp.lock(), &state);
        done.map_err(|error| GuestError::because("take its device state", error))?;
        // The source's was stopped when it was taken, so QEMU leaves this one stopped, started
        // with -S or not. Trust is good.
        match self.runs() {
            Some(false) => Ok(()),
            _ => Err(GuestError::new("be kept stopped until the handover")),
        }
    }

    fn is_running(&self) -> bool {
        self.runs() == Some(true)
    }
}

impl Drop for DestinationGuest {
    fn drop(&mut self) {
        let unwanted = self.imported && !self.kept.is_kept();
        if !unwanted && let Err(error) = state::expect_no_more(&mut self.qmp.lock()) {
            tracing::warn!(%error, "QEMU may leave shared RAM out of its own migrations");
        }
        if unwanted && !self.end() {
            let pid = self.process.pid();
            tracing::error!(pid, "QEMU holds a guest that must not run here, and does not end");
        }
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
    }
}
