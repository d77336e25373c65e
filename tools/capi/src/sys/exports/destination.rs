// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The destination.

use std::ffi::c_char;
use std::sync::Arc;

use super::super::calls::{DestinationCalls, ObserverCalls};
use super::super::input;
use super::super::types::{
    precopy_destination, precopy_error, precopy_receiver, precopy_receiver_options, precopy_report,
    precopy_status,
};
use super::general::free;
use super::{forever, guarded, report as hand_out, token};
use crate::destination::{Listening, RECEIVERS, Run, not_here};
use crate::failure::Failure;
use crate::observe::Observer;

/// Starts to listen. As long as the receiver lives, it also answers what became of past
/// migrations: keep it for a while after a takeover, in case the source missed the answer.
///
/// Threads: any. The receiver has threads of its own until it is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn precopy_receiver_new(
    options: *const precopy_receiver_options,
    receiver: *mut *mut precopy_receiver,
    error: *mut *mut precopy_error,
) -> precopy_status {
    let make = || {
        // SAFETY: the caller of this function vouches for its arguments.
        unsafe { input::clear(receiver, "receiver") }?;
        // SAFETY: as above.
        let numbers = unsafe { input::sized(options) }?;
        // SAFETY: as above.
        let listen = unsafe { input::needed(numbers.listen, "listen") }?;
        // SAFETY: as above.
        let journal = unsafe { input::text(numbers.journal, "journal") }?;
        let made = Listening::new(&numbers, &listen, journal)?;
        let made = RECEIVERS.add(Arc::new(made)).cast_mut().cast();
        // SAFETY: as above.
        unsafe { input::put(receiver, made) };
        Ok(())
    };
    // SAFETY: the caller of this function vouches for its arguments.
    unsafe { guarded(error, || make().map_err(not_here)) }
}

/// Where it listens, `address:port`. Lives until the receiver is freed; empty for what is none.
/// Never NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_receiver_address(receiver: *const precopy_receiver) -> *const c_char {
    let found = RECEIVERS.get(receiver.addr());
    found.map_or_else(|| forever(c""), |listening| listening.address.as_ptr())
}

/// Waits for a source and takes its guest over. Returns once the outcome is decided.
///
/// `PRECOPY_OK`: the guest runs here (or is paused, as it was at the source). Anything else: it
/// does not, and that attempt's never will. Then, and after a takeover, it may be called again for
/// the next one. Sources that come meanwhile are told that the destination is busy. `report` (if
/// it is not NULL) gets a report whenever a source came, and NULL otherwise; `error` (likewise)
/// what went wrong, or NULL.
///
/// Threads: any, one at a time; the functions of `destination` and of the guest that it creates
/// are called on this one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn precopy_receiver_run(
    receiver: *mut precopy_receiver,
    destination: *const precopy_destination,
    report: *mut *mut precopy_report,
    error: *mut *mut precopy_error,
) -> precopy_status {
    let run = || {
        // SAFETY: the caller of this function vouches for its arguments.
        unsafe { input::put(report, std::ptr::null_mut()) };
        let found = RECEIVERS.get(receiver.addr());
        let listening = found.ok_or_else(|| Failure::handle("receiver"))?;
        // SAFETY: as above.
        let raw = unsafe { input::sized(destination) }?;
        // SAFETY: as above.
        let observer = unsafe { input::optional(raw.observer) }?;
        let run = Run {
            cancel: token(raw.cancel)?,
            observer: Observer(observer.map(ObserverCalls::new)),
            calls: DestinationCalls::new(raw)?,
        };
        let (account, done) = listening.run(run);
        // SAFETY: as above.
        unsafe { hand_out(report, account) };
        done
    };
    // SAFETY: the caller of this function vouches for its arguments.
    unsafe { guarded(error, || run().map_err(not_here)) }
}

/// Stops listening and frees the receiver. NULL is fine.
///
/// Threads: any. While another thread runs the receiver, it goes on until that returns.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_receiver_free(receiver: *mut precopy_receiver) -> precopy_status {
    free(&RECEIVERS, receiver, "receiver")
}
