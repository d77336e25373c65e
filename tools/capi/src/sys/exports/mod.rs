// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The functions that C programs call. Each reads its arguments, hands them to safe code, and
//! writes the answer; a panic becomes an error.
#![allow(
    clippy::missing_safety_doc,
    reason = "the texts are those of the header: what each function asks for is said there, and \
              in its beginning for all of them"
)]

mod destination;
mod general;
mod memory;
mod source;

pub use destination::*;
pub use general::*;
pub use memory::*;
pub use source::*;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use super::input;
use super::types::{
    precopy_cancel_token, precopy_error, precopy_report, precopy_runs_here as RunsHere,
    precopy_status as Status,
};
use crate::cancel::Cancel;
use crate::failure::Failure;
use crate::observe::{Account, REPORTS};
use crate::registry::Registry;
use general::CANCELS;

/// All errors that C programs hold.
pub(super) static ERRORS: Registry<Failure> = Registry::new();

/// Runs the body of a function, and says how it ended.
///
/// # Safety
/// `error` is null or may be written.
unsafe fn guarded(
    error: *mut *mut precopy_error,
    body: impl FnOnce() -> Result<(), Failure>,
) -> Status {
    let (status, written) = match caught(body) {
        Ok(()) => (Status::PRECOPY_OK, ptr::null_mut()),
        Err(failure) if error.is_null() => (failure.status, ptr::null_mut()),
        Err(failure) => (failure.status, ERRORS.add(Arc::new(failure)).cast_mut().cast()),
    };
    // SAFETY: the caller vouches for it.
    unsafe { input::put(error, written) };
    status
}

/// The same for a function that has only its status to answer with.
fn status_of(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    caught(body).map_or_else(|failure| failure.status, |()| Status::PRECOPY_OK)
}

fn caught<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    // What a panic leaves behind half done is behind locks that do not mind, or is dropped.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(internal(&*panic)))
}

fn internal(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = format!("A fault in precopy: {}", text.unwrap_or("no reason is known"));
    Failure::new(Status::PRECOPY_ERROR_INTERNAL, text).at(RunsHere::PRECOPY_RUNS_HERE_UNKNOWN)
}

/// The token that a pointer stands for, if there is one.
fn token(cancel: *mut precopy_cancel_token) -> Result<Option<Arc<Cancel>>, Failure> {
    if cancel.is_null() {
        return Ok(None);
    }
    let found = CANCELS.get(cancel.addr());
    found.map(Some).ok_or_else(|| Failure::handle("cancel token"))
}

/// Hands out a report, if there is one and somebody wants it.
///
/// # Safety
/// `place` is null or may be written.
unsafe fn report(place: *mut *mut precopy_report, account: Option<Account>) {
    if let (Some(account), false) = (account, place.is_null()) {
        let report = REPORTS.add(Arc::new(account)).cast_mut().cast();
        // SAFETY: the caller vouches for it.
        unsafe { input::put(place, report) };
    }
}

/// A text that lives as long as the library.
fn forever(text: &'static std::ffi::CStr) -> *const std::ffi::c_char {
    text.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_does_not_cross_the_boundary() {
        let mut error = ptr::null_mut();
        // SAFETY: the place is ours.
        let status = unsafe { guarded(&raw mut error, || panic!("on purpose {}", 7)) };
        assert_eq!(status, Status::PRECOPY_ERROR_INTERNAL);
        let failure = ERRORS.remove(error.addr()).unwrap();
        assert!(failure.message.to_string_lossy().contains("on purpose 7"));
        assert_eq!(failure.here, RunsHere::PRECOPY_RUNS_HERE_UNKNOWN);
        // SAFETY: null is allowed.
        let status = unsafe { guarded(ptr::null_mut(), || panic!("on purpose")) };
        assert_eq!(status, Status::PRECOPY_ERROR_INTERNAL);
        assert_eq!(status_of(|| Err(Failure::argument("x"))) as i32, 1);
    }
}
