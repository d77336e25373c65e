// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest whose controls are functions of the VMM's.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use precopy::guest::{GuestControl, GuestError};
use precopy::limits::STATE_BYTES_MAX;
use precopy::units::Throttle;

use crate::registry::Registry;
use crate::sys::calls::GuestCalls;

/// The states that exports under way write.
pub(crate) static STATE_SINKS: Registry<StateSink> = Registry::new();

/// What `export_state` writes to.
#[derive(Debug, Default)]
pub(crate) struct StateSink {
    bytes: Mutex<Vec<u8>>,
}

impl StateSink {
    /// Appends; `false` if the state gets longer than can be sent.
    pub(crate) fn write(&self, bytes: &[u8]) -> bool {
        let mut state = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = (state.len() + bytes.len()) as u64 <= STATE_BYTES_MAX;
        if fits {
            state.extend_from_slice(bytes);
        }
        fits
    }
}

/// Guest controls over the VMM's functions.
#[derive(Debug)]
pub(crate) struct CallbackGuest {
    calls: GuestCalls,
    /// What was asked for last.
    running: bool,
}

impl CallbackGuest {
    /// A guest that runs, or not.
    pub(crate) fn new(calls: GuestCalls, running: bool) -> Self {
        Self { calls, running }
    }
}

fn failed(what: &'static str) -> impl Fn(String) -> GuestError {
    move |why| GuestError::because(what, why)
}

impl GuestControl for CallbackGuest {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.calls.pause().map_err(failed("pause"))?;
        self.running = false;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.calls.resume().map_err(failed("resume"))?;
        self.running = true;
        Ok(())
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        self.calls.throttle(throttle.get().into()).map_err(failed("be slowed"))
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        let sink = Arc::new(StateSink::default());
        let handle = STATE_SINKS.add(Arc::clone(&sink));
        let done = self.calls.export_state(handle);
        STATE_SINKS.remove(handle.addr());
        done.map_err(failed("export the state"))?;
        let mut state = sink.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *state).into())
    }

    fn import_state(&mut self, state: Bytes) -> Result<(), GuestError> {
        self.calls.import_state(&state).map_err(failed("import the state"))
    }

    fn is_running(&self) -> bool {
        self.calls.is_running().unwrap_or(self.running)
    }
}
