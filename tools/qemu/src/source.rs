// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source's QEMU as the engine's guest.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use precopy::guest::{GuestControl, GuestError};
use precopy::units::Throttle;
use serde_json::{Value, json};

use crate::error::QemuError;
use crate::guard::{Guard, Stage};
use crate::machine::status;
use crate::qmp::{Qmp, QmpError};
use crate::state;

/// Longest time for `stop` and `cont`: both wait for disks.
pub(crate) const RUN_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a guest that must go on is told to.
const RESUME_TRIES: u32 = 5;
/// Time between two tries.
const RESUME_INTERVAL: Duration = Duration::from_millis(200);

/// A connection that several hold.
#[derive(Clone, Debug)]
pub struct SharedQmp(Arc<Mutex<Qmp>>);

impl SharedQmp {
    /// Shares a connection.
    #[must_use]
    pub fn new(qmp: Qmp) -> Self {
        Self(Arc::new(Mutex::new(qmp)))
    }

    /// Takes it for a while.
    pub fn lock(&self) -> MutexGuard<'_, Qmp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running QEMU whose guest is to be moved.
#[derive(Debug)]
pub struct SourceGuest {
    qmp: SharedQmp,
    guard: Option<Guard>,
}

impl SourceGuest {
    /// Takes control. A guard lets the guest go on if this process dies.
    #[must_use]
    pub fn new(qmp: SharedQmp, guard: Option<Guard>) -> Self {
        Self { qmp, guard }
    }

    /// The migration is over and this process knows how: QEMU forgets what its own migration was
    /// told, and the guard goes.
    pub fn finish(mut self) {
        if let Err(error) = state::settle(&mut self.qmp.lock()) {
            tracing::warn!(%error, "QEMU may still leave shared RAM out of its own migrations");
        }
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
    }

    fn tell(&mut self, stage: Stage) {
        if let Some(guard) = &mut self.guard {
            guard.tell(stage);
        }
    }
}

impl GuestControl for SourceGuest {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.tell(Stage::Stopping);
        pause(&mut self.qmp.lock()).map_err(|error| GuestError::because("be stopped", error))
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        let done = go_on(&mut self.qmp.lock());
        done.map_err(|error| GuestError::because("be started again", error))?;
        self.tell(Stage::Running);
        Ok(())
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        if throttle == Throttle::NONE {
            return Ok(());
        }
        Err(GuestError::new("be slowed: QEMU slows vCPUs in its own migration only"))
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        let state = state::export(&mut self.qmp.lock());
        state.map_err(|error| GuestError::because("give its device state", error))
    }

    fn import_state(&mut self, _state: Bytes) -> Result<(), GuestError> {
        Err(GuestError::new("take a device state: it is a source"))
    }

    fn is_running(&self) -> bool {
        status(&mut self.qmp.lock()).is_ok_and(|status| status == "running")
    }

    fn committing(&mut self) {
        self.tell(Stage::Committing);
    }
}

/// Stops the vCPUs, waits for every device, and makes sure.
pub(crate) fn pause(qmp: &mut Qmp) -> Result<(), QemuError> {
    qmp.execute_within("stop", Value::Null, RUN_TIMEOUT)?;
    match &*status(qmp)? {
        "running" => Err(QemuError::DeviceState {
            what: "stop QEMU",
            why: "somebody started it again at once".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Tells the network where the guest is.
pub(crate) fn announce(qmp: &mut Qmp) {
    let how = json!({ "initial": 50, "max": 550, "rounds": 5, "step": 100 });
    if let Err(error) = qmp.execute("announce-self", how) {
        tracing::debug!(%error, "QEMU did not announce its guest");
    }
}

/// Lets the guest of a source go on, whatever was done to it. Does nothing if it runs.
///
/// # Errors
/// [`QemuError`] if it does not run.
pub fn go_on(qmp: &mut Qmp) -> Result<(), QemuError> {
    for _ in 1..RESUME_TRIES {
        match try_to_go_on(qmp) {
            Ok(()) => return Ok(()),
            Err(gone @ QemuError::Qmp(QmpError::Closed { .. } | QmpError::Io { .. })) => {
                return Err(gone);
            }
            Err(error) => tracing::warn!(%error, "QEMU does not go on yet"),
        }
        thread::sleep(RESUME_INTERVAL);
    }
    try_to_go_on(qmp)
}

fn try_to_go_on(qmp: &mut Qmp) -> Result<(), QemuError> {
    if status(qmp)? == "running" {
        return Ok(());
    }
    // First let it run; what is left to tidy up does not hold it back.
    let settled = state::settle(qmp);
    qmp.execute_within("cont", Value::Null, RUN_TIMEOUT)?;
    match &*status(qmp)? {
        "running" => {
            // A destination that took the state over has told the network that it is there.
            announce(qmp);
            settled
        }
        other => {
            Err(QemuError::DeviceState { what: "start QEMU again", why: format!("it is {other}") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::tests::Server;

    #[test]
    fn a_guest_that_goes_on_here_says_where_it_is() {
        let server = Server::greeting(|talk| {
            let mut expect = |command: &str, answer: Value| {
                let ask = talk.hear();
                assert_eq!(ask["execute"], command);
                talk.answer(&ask, &answer);
            };
            expect("query-status", json!({ "status": "postmigrate" }));
            expect("query-migrate", json!({ "status": "completed" }));
            expect("migrate-set-capabilities", json!({}));
            expect("cont", json!({}));
            expect("query-status", json!({ "status": "running" }));
            expect("announce-self", json!({}));
        });
        go_on(&mut server.connect().unwrap()).unwrap();
    }
}
