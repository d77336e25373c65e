// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One guest in several hands, and its migration: the engine that moves it, and whoever audits it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use precopy::dirty::DirtyTracker;
use precopy::engine::{self, CancelToken, CreatedGuest, EventSink, SourceOptions, SourceParts};
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::MappedMemory;
use precopy::report::Report;
use precopy::transport::Connector;
use precopy::units::Throttle;
use precopy::wire::Hello;

use crate::vcpu::lock;
use crate::{AuditReport, GuestConfig, KvmGuest, Tracking, layout};

/// A guest that several parts of the program control.
#[derive(Clone, Debug)]
pub struct SharedGuest(Arc<Mutex<KvmGuest>>);

impl SharedGuest {
    /// A guest at its start, paused.
    ///
    /// # Errors
    /// As [`KvmGuest::new`].
    pub fn start(config: GuestConfig, tracking: Tracking) -> Result<Self, GuestError> {
        let mut guest = KvmGuest::new(config, tracking)?;
        guest.start()?;
        Ok(Self(Arc::new(Mutex::new(guest))))
    }

    /// The guest that a source announces, for [`Receiver::receive`](engine::Receiver::receive).
    ///
    /// # Errors
    /// [`GuestError`] if it is none of this kind, or larger than `pages_max` pages.
    pub fn create(
        hello: &Hello,
        tracking: Tracking,
        pages_max: u64,
    ) -> Result<(CreatedGuest, Self), GuestError> {
        let because = |error| GuestError::because("be created", error);
        let config: GuestConfig = hello.guest.parse().map_err(because)?;
        if config.pages > pages_max {
            let why = format!("it has {} pages of data; at most {pages_max} may run", config.pages);
            return Err(GuestError::because("be created here", why));
        }
        let table = layout::regions(&config);
        if table.ok().as_ref() != Some(&hello.regions) {
            return Err(GuestError::because("be created", "its memory map is not this kind's"));
        }
        let guest = Self(Arc::new(Mutex::new(KvmGuest::new(config, tracking)?)));
        let memory = guest.memory();
        Ok((CreatedGuest { memory, guest: Box::new(guest.clone()) }, guest))
    }

    /// Migrates it; the engine says what became of it. Names the guest in `options`.
    ///
    /// # Errors
    /// [`GuestError`] if nothing was begun.
    pub fn send(
        &self,
        mut options: SourceOptions,
        connector: &mut dyn Connector,
        cancel: &CancelToken,
        sink: &mut dyn EventSink,
    ) -> Result<Report, GuestError> {
        let (mut tracker, why) = {
            let guest = self.guest();
            options.guest = guest.config().to_string();
            (guest.tracker()?, guest.tracker_why().to_owned())
        };
        let (memory, mut control) = (self.memory(), self.clone());
        let regions = memory.table().clone();
        let parts =
            SourceParts::new(memory, regions, &mut *tracker, &mut control).with_tracker_why(why);
        engine::send(options, connector, parts, cancel, sink)
            .map_err(|error| GuestError::because("migrate", error))
    }

    /// Brings it to the end of a step, compares all memory with what it must hold, and lets it go
    /// on if it ran.
    ///
    /// # Errors
    /// As [`KvmGuest::audit`].
    pub fn audit(&self) -> Result<AuditReport, GuestError> {
        let mut guest = self.guest();
        let ran = guest.is_running();
        let report = guest.audit()?;
        if ran && report.is_clean() {
            guest.resume()?;
        }
        Ok(report)
    }

    /// [`KvmGuest::config`].
    #[must_use]
    pub fn config(&self) -> GuestConfig {
        self.guest().config().clone()
    }

    /// [`KvmGuest::memory`].
    #[must_use]
    pub fn memory(&self) -> Arc<MappedMemory> {
        Arc::clone(self.guest().memory())
    }

    /// [`KvmGuest::progress`].
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.guest().progress()
    }

    /// [`KvmGuest::slowed`].
    #[must_use]
    pub fn slowed(&self) -> Duration {
        self.guest().slowed()
    }

    /// [`KvmGuest::fault`].
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.guest().fault()
    }

    /// [`KvmGuest::tracker`].
    ///
    /// # Errors
    /// As there.
    pub fn tracker(&self) -> Result<Box<dyn DirtyTracker>, GuestError> {
        self.guest().tracker()
    }

    /// [`KvmGuest::tracker_why`].
    #[must_use]
    pub fn tracker_why(&self) -> String {
        self.guest().tracker_why().to_owned()
    }

    fn guest(&self) -> MutexGuard<'_, KvmGuest> {
        lock(&self.0)
    }
}

impl GuestControl for SharedGuest {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.guest().pause()
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.guest().resume()
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        self.guest().throttle(throttle)
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        self.guest().export_state()
    }

    fn import_state(&mut self, state: Bytes) -> Result<(), GuestError> {
        self.guest().import_state(state)
    }

    fn is_running(&self) -> bool {
        self.guest().is_running()
    }
}
