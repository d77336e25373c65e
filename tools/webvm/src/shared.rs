// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One guest in several hands: the engine that migrates it and whoever audits it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use precopy::guest::{GuestControl, GuestError};
use precopy::report::GuestStall;
use precopy::units::{RequestLoad, Throttle};

use crate::{AuditReport, GuestConfig, GuestRam, WebVm, WriteHook};

/// A guest that several parts of the program control.
#[derive(Clone, Debug)]
pub struct SharedVm(Arc<Mutex<WebVm>>);

impl SharedVm {
    /// A paused guest over this memory.
    ///
    /// # Errors
    /// As [`WebVm::new`].
    pub fn new(
        config: GuestConfig,
        memory: Arc<dyn GuestRam>,
        hook: Option<WriteHook>,
    ) -> Result<Self, GuestError> {
        Ok(Self(Arc::new(Mutex::new(WebVm::new(config, memory, hook)?))))
    }

    fn vm(&self) -> MutexGuard<'_, WebVm> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`WebVm::fill`].
    ///
    /// # Errors
    /// As there.
    pub fn fill(&self) -> Result<(), GuestError> {
        self.vm().fill()
    }

    /// [`WebVm::ops`].
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.vm().ops()
    }

    /// What the guest does.
    #[must_use]
    pub fn config(&self) -> GuestConfig {
        self.vm().config().clone()
    }

    /// [`WebVm::blackout`].
    #[must_use]
    pub fn blackout(&self) -> Option<Duration> {
        self.vm().blackout()
    }

    /// Pauses the guest, checks every page, and lets it go on if it ran.
    ///
    /// # Errors
    /// As [`WebVm::audit`].
    pub fn audit(&self) -> Result<AuditReport, GuestError> {
        let mut vm = self.vm();
        let ran = vm.is_running();
        vm.pause()?;
        let report = vm.audit()?;
        if ran {
            vm.resume()?;
        }
        Ok(report)
    }
}

impl GuestControl for SharedVm {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.vm().pause()
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.vm().resume()
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        self.vm().throttle(throttle)
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        self.vm().export_state()
    }

    fn import_state(&mut self, state: Bytes) -> Result<(), GuestError> {
        self.vm().import_state(state)
    }

    fn is_running(&self) -> bool {
        self.vm().is_running()
    }

    fn requests(&self) -> Option<RequestLoad> {
        self.vm().requests()
    }

    fn stall(&self) -> Option<GuestStall> {
        self.vm().stall()
    }
}
