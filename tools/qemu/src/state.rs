// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device state, out of one QEMU and into another as bytes.
//!
//! QEMU's own migration does it: with the capability `x-ignore-shared` it leaves out RAM that is
//! mapped shared, and what is left (vCPUs, devices, ROMs: some 200 KB) goes to a socket whose
//! other end is here. The socket is passed to QEMU as a descriptor (`getfd`), so no file name,
//! no directory and no rights are in the way, whoever QEMU runs as.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use precopy::limits::STATE_BYTES_MAX;
use serde_json::{Value, json};

use crate::error::QemuError;
use crate::machine::{IGNORE_SHARED, is_under_way, migration_status};
use crate::qmp::{Qmp, QmpError};

/// Longest time for the state to come out of or go into a QEMU. It takes milliseconds; a disk
/// that is being flushed may take seconds.
const STATE_TIMEOUT: Duration = Duration::from_secs(30);
/// How QEMU names the descriptor.
const NAME: &str = "precopy-state";
/// No bound on the bandwidth of a local socket: QEMU's default would hold video memory back.
const BANDWIDTH: u64 = 1 << 40;
/// Longest time for a migration of QEMU's that was cancelled to end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked at.
const CANCEL_INTERVAL: Duration = Duration::from_millis(10);

/// Takes the device state out of a stopped QEMU. Afterwards its run state is `postmigrate`.
///
/// # Errors
/// [`QemuError`]; [`settle`] brings QEMU back.
pub(crate) fn export(qmp: &mut Qmp) -> Result<Bytes, QemuError> {
    set_capabilities(qmp, &[(IGNORE_SHARED, true)])?;
    qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": BANDWIDTH }))?;
    let mut ours = hand_over_socket(qmp)?;
    qmp.execute("migrate", json!({ "uri": format!("fd:{NAME}") }))?;
    let state = read_all(&mut ours)?;
    // QEMU closes its end after it knows how it went.
    match &*migration_status(qmp)? {
        "completed" => Ok(state),
        other => Err(QemuError::DeviceState {
            what: "take the device state out of QEMU",
            why: format!("its migration is {other} after {} bytes", state.len()),
        }),
    }
}

/// Puts the device state into a QEMU that was started with `-incoming defer`. It stays paused,
/// because the source's was when the state was taken.
///
/// # Errors
/// [`QemuError`]. QEMU then ends itself, or holds half a guest and must be ended.
pub(crate) fn import(qmp: &mut Qmp, state: &[u8]) -> Result<(), QemuError> {
    const WHAT: &str = "put the device state into QEMU";
    let mut ours = hand_over_socket(qmp)?;
    qmp.forget_events();
    qmp.execute("migrate-incoming", json!({ "uri": format!("fd:{NAME}") }))?;
    let written = write_all(&mut ours, state);
    // A QEMU that refuses closes its end before everything is written; it says why itself.
    let over = |event: &crate::qmp::Event| {
        let status = event.data["status"].as_str();
        event.name == "MIGRATION" && status.is_some_and(|status| !is_under_way(status))
    };
    let failed = |why: String| QemuError::DeviceState { what: WHAT, why };
    let event = qmp.wait_for(STATE_TIMEOUT, over).map_err(|error| match error {
        QmpError::Closed { .. } => failed(
            "QEMU ended while it took it over; what it wrote to its standard error says why \
             (most likely the two QEMUs were started with different options)"
                .to_owned(),
        ),
        other => other.into(),
    })?;
    match event.as_ref().and_then(|event| event.data["status"].as_str()) {
        Some("completed") => written,
        Some(other) => Err(failed(format!("its migration is {other}"))),
        None => Err(failed(format!("it took longer than {} s", STATE_TIMEOUT.as_secs()))),
    }
}

/// Prepares a destination before the first page comes.
///
/// # Errors
/// [`QmpError`].
pub(crate) fn expect(qmp: &mut Qmp) -> Result<(), QmpError> {
    let on = [(IGNORE_SHARED, true), ("events", true), ("late-block-activate", true)];
    set_capabilities(qmp, &on)
}

/// Undoes [`expect`]: a later migration of QEMU's own must not leave out RAM unnoticed.
///
/// # Errors
/// [`QmpError`].
pub(crate) fn expect_no_more(qmp: &mut Qmp) -> Result<(), QmpError> {
    set_capabilities(qmp, &[(IGNORE_SHARED, false), ("late-block-activate", false)])
}

/// Brings a QEMU back from whatever an export left: cancels what is under way, and turns the
/// capability off, so that no later migration of QEMU's own leaves out RAM unnoticed.
///
/// # Errors
/// [`QemuError`] if it does not end.
pub(crate) fn settle(qmp: &mut Qmp) -> Result<(), QemuError> {
    if is_under_way(&migration_status(qmp)?) {
        qmp.execute("migrate_cancel", Value::Null)?;
        let until = Instant::now() + CANCEL_TIMEOUT;
        loop {
            let status = migration_status(qmp)?;
            if !is_under_way(&status) {
                break;
            }
            if Instant::now() >= until {
                let why = format!("it is still {status}");
                return Err(QemuError::DeviceState { what: "cancel QEMU's migration", why });
            }
            std::thread::sleep(CANCEL_INTERVAL);
        }
    }
    Ok(set_capabilities(qmp, &[(IGNORE_SHARED, false)])?)
}

fn set_capabilities(qmp: &mut Qmp, wanted: &[(&str, bool)]) -> Result<(), QmpError> {
    let list: Vec<_> = wanted
        .iter()
        .map(|(capability, state)| json!({ "capability": capability, "state": state }))
        .collect();
    qmp.execute("migrate-set-capabilities", json!({ "capabilities": list })).map(drop)
}

/// Gives QEMU one end of a socket and keeps the other.
fn hand_over_socket(qmp: &mut Qmp) -> Result<UnixStream, QemuError> {
    let system = |what| move |source| QemuError::System { what, source };
    let (ours, theirs) =
        UnixStream::pair().map_err(system("make a socket for the device state"))?;
    let time = Some(STATE_TIMEOUT);
    let limited = ours.set_read_timeout(time).and_then(|()| ours.set_write_timeout(time));
    limited.map_err(system("limit the time for the device state"))?;
    // Our copy of QEMU's end goes at the end of this function: so its end is our end of file.
    qmp.execute_with_fd("getfd", json!({ "fdname": NAME }), theirs.as_fd())?;
    Ok(ours)
}

fn read_all(from: &mut UnixStream) -> Result<Bytes, QemuError> {
    let failed = |why| QemuError::DeviceState { what: "take the device state out of QEMU", why };
    let until = Instant::now() + STATE_TIMEOUT;
    let (mut state, mut chunk) = (BytesMut::new(), vec![0; 256 << 10]);
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(state.freeze()),
            Ok(read) => state.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error.to_string())),
        }
        if state.len() as u64 > STATE_BYTES_MAX {
            return Err(failed(format!("it has more than {STATE_BYTES_MAX} bytes")));
        }
        if Instant::now() > until {
            return Err(failed(format!("it took longer than {} s", STATE_TIMEOUT.as_secs())));
        }
    }
}

fn write_all(to: &mut UnixStream, state: &[u8]) -> Result<(), QemuError> {
    let written = to.write_all(state).and_then(|()| to.shutdown(Shutdown::Write));
    written.map_err(|error| QemuError::DeviceState {
        what: "put the device state into QEMU",
        why: error.to_string(),
    })
}
