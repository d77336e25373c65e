// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What went wrong, as a C program is told.

use std::error::Error;
use std::ffi::CString;

use precopy::engine::MigrateError;
use precopy::report::MayRunHere;

use crate::sys::types::{precopy_runs_here as RunsHere, precopy_status as Status};

/// A status, whether the guest may run here, and a message.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) here: RunsHere,
    pub(crate) message: CString,
}

impl Failure {
    /// At a source: nothing was begun, the guest was not touched.
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, here: RunsHere::PRECOPY_RUNS_HERE_YES, message: c_text(message.into()) }
    }

    /// An argument that cannot be.
    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Self::new(Status::PRECOPY_ERROR_ARGUMENT, message)
    }

    /// The system refused something.
    pub(crate) fn system(what: &str, error: &dyn Error) -> Self {
        Self::new(Status::PRECOPY_ERROR_SYSTEM, format!("Could not {what}: {}", chain(error)))
    }

    /// A handle that is none.
    pub(crate) fn handle(kind: &str) -> Self {
        let message = format!("This is no {kind}, or one that was freed before");
        Self::new(Status::PRECOPY_ERROR_HANDLE, message)
    }

    /// The same, for a side on which the guest may run or not.
    pub(crate) fn at(mut self, here: RunsHere) -> Self {
        self.here = here;
        self
    }
}

impl From<MigrateError> for Failure {
    fn from(error: MigrateError) -> Self {
        let status = match &error {
            MigrateError::Connect { .. } => Status::PRECOPY_ERROR_CONNECT,
            MigrateError::Options { .. } => Status::PRECOPY_ERROR_ARGUMENT,
            MigrateError::Journal(_) => Status::PRECOPY_ERROR_JOURNAL,
            MigrateError::Cancelled => Status::PRECOPY_ERROR_CANCELLED,
            MigrateError::NotTakenOver { .. } => Status::PRECOPY_ERROR_FAILED,
            MigrateError::Unanswered { .. } => Status::PRECOPY_ERROR_UNANSWERED,
            _ => Status::PRECOPY_ERROR_SYSTEM,
        };
        Self::new(status, chain(&error)).at(runs_here(error.may_run_here()))
    }
}

/// The library's answer in the words of the C API.
pub(crate) fn runs_here(may: MayRunHere) -> RunsHere {
    match may {
        MayRunHere::Yes => RunsHere::PRECOPY_RUNS_HERE_YES,
        MayRunHere::No => RunsHere::PRECOPY_RUNS_HERE_NO,
        MayRunHere::Unknown => RunsHere::PRECOPY_RUNS_HERE_UNKNOWN,
    }
}

/// An error with everything that caused it.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// A text as C holds it: up to the first 0.
pub(crate) fn c_text(text: impl Into<Vec<u8>>) -> CString {
    let mut bytes = text.into();
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    CString::new(bytes).unwrap_or_default()
}
