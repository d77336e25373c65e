// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Version, errors, texts, reports, cancelling, log.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::calls::LogCall;
use super::super::input;
use super::super::types::{
    PRECOPY_ABI_VERSION, precopy_cancel_token, precopy_error, precopy_log_fn, precopy_report,
    precopy_runs_here, precopy_status,
};
use super::{ERRORS, forever, guarded, status_of};
use crate::cancel::Cancel;
use crate::failure::Failure;
use crate::logging;
use crate::observe::REPORTS;
use crate::registry::Registry;

/// All tokens.
pub(super) static CANCELS: Registry<Cancel> = Registry::new();

/// All texts that C programs hold, by address.
static STRINGS: Mutex<BTreeMap<usize, CString>> = Mutex::new(BTreeMap::new());

/// Hands out a text, to be freed by `precopy_string_free`.
pub(super) fn text(text: CString) -> *const c_char {
    let pointer = text.as_ptr();
    let mut strings = STRINGS.lock().unwrap_or_else(PoisonError::into_inner);
    strings.insert(pointer.addr(), text);
    pointer
}

/// The version of this interface that the library has: `PRECOPY_ABI_VERSION` when it was built.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_abi_version() -> u32 {
    PRECOPY_ABI_VERSION
}

/// Whether a program that was built with this header's `PRECOPY_ABI_VERSION` can use the library:
/// `PRECOPY_OK`, or `PRECOPY_ERROR_ABI`. Call it first.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn precopy_check_abi(
    abi_version: u32,
    error: *mut *mut precopy_error,
) -> precopy_status {
    let check = || {
        if abi_version == PRECOPY_ABI_VERSION {
            return Ok(());
        }
        let why = format!(
            "The program was built for version {abi_version} of the interface; this library, \
             {}, has version {PRECOPY_ABI_VERSION}",
            env!("CARGO_PKG_VERSION")
        );
        Err(Failure::new(precopy_status::PRECOPY_ERROR_ABI, why))
    };
    // SAFETY: the caller of this function vouches for its arguments.
    unsafe { guarded(error, check) }
}

/// The version of the library, such as `0.1.0`.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    forever(CStr::from_bytes_with_nul(VERSION.as_bytes()).unwrap_or(c"?"))
}

/// What a status means, in a few words. Never NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_status_text(status: i32) -> *const c_char {
    forever(match status {
        0 => c"done",
        1 => c"an argument that cannot be",
        2 => c"no such handle",
        3 => c"in use by another thread",
        4 => c"memory that cannot be migrated",
        5 => c"writes cannot be tracked",
        6 => c"the destination cannot be reached",
        7 => c"the system refused",
        8 => c"the journal cannot be used",
        9 => c"cancelled",
        10 => c"failed; the source keeps the guest",
        11 => c"in doubt; ask the destination",
        12 => c"the destination did not answer",
        13 => c"built for another version",
        14 => c"a fault in precopy",
        _ => c"no status of this library",
    })
}

/// The status of an error; `PRECOPY_OK` for NULL, `PRECOPY_ERROR_HANDLE` for what is none.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_error_status(error: *const precopy_error) -> precopy_status {
    if error.is_null() {
        return precopy_status::PRECOPY_OK;
    }
    let found = ERRORS.get(error.addr());
    found.map_or(precopy_status::PRECOPY_ERROR_HANDLE, |failure| failure.status)
}

/// What happened, where, and what to do next: UTF-8, one line. Lives until the error is freed;
/// empty for NULL and for what is no error. Never NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_error_message(error: *const precopy_error) -> *const c_char {
    let found = ERRORS.get(error.addr());
    found.map_or_else(|| forever(c""), |failure| failure.message.as_ptr())
}

/// Whether the guest may run at the side that got the error.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_error_runs_here(error: *const precopy_error) -> precopy_runs_here {
    let found = ERRORS.get(error.addr());
    found.map_or(precopy_runs_here::PRECOPY_RUNS_HERE_UNKNOWN, |failure| failure.here)
}

/// Frees an error. NULL is no error, and is fine.
///
/// Threads: any, once nobody reads its message.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_error_free(error: *mut precopy_error) -> precopy_status {
    free(&ERRORS, error, "error")
}

/// Frees a text that the library handed out to be freed. NULL is fine.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_string_free(string: *const c_char) -> precopy_status {
    status_of(|| {
        let mut strings = STRINGS.lock().unwrap_or_else(PoisonError::into_inner);
        if string.is_null() || strings.remove(&string.addr()).is_some() {
            return Ok(());
        }
        Err(Failure::handle("text of this library"))
    })
}

/// Frees an object. NULL is fine.
pub(super) fn free<T, H>(all: &Registry<T>, handle: *mut H, kind: &str) -> precopy_status {
    status_of(|| {
        if handle.is_null() || all.remove(handle.addr()).is_some() {
            return Ok(());
        }
        Err(Failure::handle(kind))
    })
}

/// Whether the guest may run at the side that has the report.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_report_runs_here(report: *const precopy_report) -> precopy_runs_here {
    let found = REPORTS.get(report.addr());
    found.map_or(precopy_runs_here::PRECOPY_RUNS_HERE_UNKNOWN, |account| account.here)
}

/// The name of the attempt, for `precopy_ask`. Lives until the report is freed; empty for what is
/// no report. Never NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_report_migration_id(report: *const precopy_report) -> *const c_char {
    let found = REPORTS.get(report.addr());
    found.map_or_else(|| forever(c""), |account| account.migration_id.as_ptr())
}

/// Everything about the attempt, as one JSON object: rounds, decisions, downtime by part. `json`
/// gets a text that `precopy_string_free` frees.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn precopy_report_json(
    report: *const precopy_report,
    json: *mut *const c_char,
    error: *mut *mut precopy_error,
) -> precopy_status {
    let write = || {
        if json.is_null() {
            return Err(Failure::argument("json is NULL"));
        }
        // SAFETY: the caller of this function vouches for its arguments.
        unsafe { input::put(json, ptr::null()) };
        let account = REPORTS.get(report.addr()).ok_or_else(|| Failure::handle("report"))?;
        let account = account.json()?;
        // SAFETY: as above.
        unsafe { input::put(json, text(account)) };
        Ok(())
    };
    // SAFETY: the caller of this function vouches for its arguments.
    unsafe { guarded(error, write) }
}

/// Frees a report. NULL is fine.
///
/// Threads: any, once nobody reads its name.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_report_free(report: *mut precopy_report) -> precopy_status {
    free(&REPORTS, report, "report")
}

/// Makes a token by which any number of migrations can be cancelled.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn precopy_cancel_token_new(
    token: *mut *mut precopy_cancel_token,
    error: *mut *mut precopy_error,
) -> precopy_status {
    let make = || {
        // SAFETY: the caller of this function vouches for its arguments.
        unsafe { input::clear(token, "token") }?;
        let made = CANCELS.add(Arc::new(Cancel::new()?)).cast_mut().cast();
        // SAFETY: as above.
        unsafe { input::put(token, made) };
        Ok(())
    };
    // SAFETY: the caller of this function vouches for its arguments.
    unsafe { guarded(error, make) }
}

/// Asks every migration that has this token to stop, now and later; it cannot be taken back. At a
/// source the guest then runs on, unless the migration had gone too far: its call says. NULL is
/// fine.
///
/// Threads: any, and signal handlers: it takes no lock, allocates nothing and leaves errno alone.
/// So it cannot check that the token is one, and not freed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn precopy_cancel(token: *mut precopy_cancel_token) {
    // SAFETY: a token that was made and not freed is the address of a live `Cancel`, all of whose
    // fields any thread may use at any time.
    let cancel = unsafe { token.cast::<Cancel>().as_ref() };
    if let Some(cancel) = cancel {
        cancel.cancel();
    }
}

/// Frees a token. A migration that has it goes on and can no longer be cancelled. NULL is fine.
///
/// Threads: any, once no signal handler and no other thread can hand it to `precopy_cancel`.
#[unsafe(no_mangle)]
pub extern "C" fn precopy_cancel_token_free(token: *mut precopy_cancel_token) -> precopy_status {
    free(&CANCELS, token, "cancel token")
}

/// Hands the library's log to a function, from the serious to lines of `level`: 1 errors, 2
/// warnings, 3 information, 4 debugging, 5 everything. NULL ends it; when that returns, no thread
/// is in the function any more. One log for the whole process.
///
/// Threads: any, but not from within the function itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn precopy_set_log(
    log: precopy_log_fn,
    user: *mut c_void,
    level: c_int,
    error: *mut *mut precopy_error,
) -> precopy_status {
    // SAFETY: the caller of this function vouches for its arguments.
    unsafe { guarded(error, || logging::set(LogCall::new(log, user), level)) }
}
