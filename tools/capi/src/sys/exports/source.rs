// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source.

use std::ffi::c_char;

use super::super::calls::{DirtyLogCalls, GuestCalls, ObserverCalls};
use super::super::input;
use super::super::types::{
    precopy_error, precopy_guest, precopy_memory, precopy_report, precopy_runs_here,
    precopy_source_options, precopy_status,
};
use super::{guarded, report as hand_out, token};
use crate::failure::Failure;
use crate::guest::CallbackGuest;
use crate::memory::MEMORIES;
use crate::observe::Observer;
use crate::source::{self, Request};

/// Migrates a running guest. Returns once the outcome is decided and every thread that it started
/// has ended.
///
/// `PRECOPY_OK`: the destination runs the guest. Anything else leaves the guest at the source, but
/// for `PRECOPY_ERROR_IN_DOUBT` and `PRECOPY_ERROR_INTERNAL`: then it may run at the destination,
/// is paused here, and must stay so until `precopy_ask` knows. `report` (if it is not NULL) gets a
/// report whenever an attempt began, and NULL otherwise; `error` (likewise) what went wrong, or
/// NULL.
///
/// Threads: any; the guest's functions are called on this one. Two migrations at a time may not
/// have the same memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn precopy_send(
    options: *const precopy_source_options,
    memory: *mut precopy_memory,
    guest: *const precopy_guest,
    report: *mut *mut precopy_report,
    error: *mut *mut precopy_error,
) -> precopy_status {
    let send = || {
        // SAFETY: the caller of this function vouches for its arguments.
        unsafe { input::put(report, std::ptr::null_mut()) };
        // SAFETY: as above.
        let request = unsafe { request(options) }?;
        let memory = MEMORIES.get(memory.addr()).ok_or_else(|| Failure::handle("memory"))?;
        // SAFETY: as above.
        let guest = unsafe { input::sized(guest) }?;
        let guest = CallbackGuest::new(GuestCalls::new(guest)?.exporting()?, true);
        let (account, done) = source::send(request, &memory, guest);
        // SAFETY: as above.
        unsafe { hand_out(report, account) };
        done
    };
    // SAFETY: the caller of this function vouches for its arguments.
    unsafe { guarded(error, send) }
}

/// Reads the options.
///
/// # Safety
/// `options` is null, or what the header asks for.
unsafe fn request(options: *const precopy_source_options) -> Result<Request, Failure> {
    // SAFETY: the caller vouches for it.
    let numbers = unsafe { input::sized(options) }?;
    // SAFETY: as above.
    let text = |pointer, name| unsafe { input::text(pointer, name) };
    // SAFETY: as above.
    let dirty_log = unsafe { input::optional(numbers.dirty_log) }?;
    // SAFETY: as above.
    let observer = unsafe { input::optional(numbers.observer) }?;
    Ok(Request {
        // SAFETY: as above.
        destination: unsafe { input::needed(numbers.destination, "destination") }?,
        strategy: text(numbers.strategy, "strategy")?,
        encoder: text(numbers.encoder, "encoder")?,
        guest_text: text(numbers.guest, "guest")?,
        migration_id: text(numbers.migration_id, "migration_id")?,
        tracker: text(numbers.tracker, "tracker")?,
        dirty_log: dirty_log.map(DirtyLogCalls::new).transpose()?,
        cancel: token(numbers.cancel)?,
        observer: Observer(observer.map(ObserverCalls::new)),
        numbers,
    })
}

/// Asks a destination what became of a migration, again and again for up to `timeout_ms` (0:
/// 30,000), after `PRECOPY_ERROR_IN_DOUBT` or when a source was started again. `runs_here` gets
/// whether the guest may run at the source: yes is the destination's promise that it never will
/// there; no, that it does; unknown, that it has no record (another host, or no journal): keep the
/// guest paused.
///
/// `PRECOPY_ERROR_UNANSWERED` if nobody answered: keep the guest paused, and ask again.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn precopy_ask(
    destination: *const c_char,
    migration_id: *const c_char,
    timeout_ms: u64,
    runs_here: *mut precopy_runs_here,
    error: *mut *mut precopy_error,
) -> precopy_status {
    let unknown = precopy_runs_here::PRECOPY_RUNS_HERE_UNKNOWN;
    let ask = || {
        if runs_here.is_null() {
            return Err(Failure::argument("runs_here is NULL"));
        }
        // SAFETY: the caller of this function vouches for its arguments.
        unsafe { input::put(runs_here, unknown) };
        // SAFETY: as above.
        let destination = unsafe { input::needed(destination, "destination") }?;
        // SAFETY: as above.
        let id = unsafe { input::needed(migration_id, "migration_id") }?;
        let answer = source::ask(&destination, &id, timeout_ms)?;
        // SAFETY: as above.
        unsafe { input::put(runs_here, answer) };
        Ok(())
    };
    // SAFETY: the caller of this function vouches for its arguments.
    unsafe { guarded(error, || ask().map_err(|failure| failure.at(unknown))) }
}
