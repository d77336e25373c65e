// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The test guest, shared between the engine and whoever audits it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use precopy::engine::CreatedGuest;
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::{MapOptions, MappedMemory, PageWriter};
use precopy::report::GuestStall;
use precopy::units::Throttle;
use precopy::wire::Hello;
use webvm::{AuditReport, GuestConfig, WebVm, WriteHook};

/// What a source calls this kind of guest.
const KIND: &str = "webvm ";

/// How a source describes its guest to the destination.
pub(crate) fn describe(config: &GuestConfig) -> String {
    format!("{KIND}{config}")
}

/// A guest that several parts of the program control.
#[derive(Clone, Debug)]
pub(crate) struct SharedVm(Arc<Mutex<WebVm>>);

impl SharedVm {
    /// A paused guest over this memory.
    pub(crate) fn new(
        config: GuestConfig,
        memory: &Arc<MappedMemory>,
        hook: Option<WriteHook>,
    ) -> Result<Self, GuestError> {
        let memory = Arc::clone(memory);
        Ok(Self(Arc::new(Mutex::new(WebVm::new(config, memory, hook)?))))
    }

    fn vm(&self) -> MutexGuard<'_, WebVm> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fill(&self) -> Result<(), GuestError> {
        self.vm().fill()
    }

    pub(crate) fn ops(&self) -> u64 {
        self.vm().ops()
    }

    pub(crate) fn blackout(&self) -> Option<Duration> {
        self.vm().blackout()
    }

    /// Pauses the guest, checks every page, and lets it go on if it ran.
    pub(crate) fn audit(&self) -> Result<AuditReport, GuestError> {
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

    fn requests_in_flight(&self) -> Option<u32> {
        self.vm().requests_in_flight()
    }

    fn stall(&self) -> Option<GuestStall> {
        self.vm().stall()
    }
}

/// Builds the guest that a source describes, and its handle.
pub(crate) fn create(
    hello: &Hello,
    map: MapOptions,
    pretouch: bool,
) -> Result<(CreatedGuest, SharedVm), GuestError> {
    let line = hello.guest.strip_prefix(KIND).ok_or_else(|| {
        GuestError::because(
            "be built",
            format!("this host runs test guests, not {:?}", hello.guest),
        )
    })?;
    let config: GuestConfig =
        line.parse().map_err(|error| GuestError::because("be built", error))?;
    let memory = MappedMemory::new(hello.regions.clone(), map)
        .map_err(|error| GuestError::because("get its memory", error))?;
    if pretouch {
        memory
            .prefault(hello.regions.all())
            .map_err(|error| GuestError::because("get its memory", error))?;
    }
    let memory = Arc::new(memory);
    let vm = SharedVm::new(config, &memory, None)?;
    Ok((CreatedGuest { memory, guest: Box::new(vm.clone()) }, vm))
}
