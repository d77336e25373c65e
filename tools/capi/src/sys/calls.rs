// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Calling the VMM's functions.
//!
//! What makes all of these calls sound is one promise, which the header states at each struct: the
//! functions take what they are declared to take, return, and do not unwind; and whatever `user`
//! points to lasts as long as the call of the API that they were handed to (for the log: until it
//! is set anew).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use precopy::wire::Hello;

use super::input;
use super::types::{
    precopy_destination, precopy_dirty_log, precopy_dirty_set, precopy_guest, precopy_log_fn,
    precopy_memory, precopy_observer, precopy_progress, precopy_range, precopy_request,
    precopy_state_sink,
};
use crate::dirty::DirtySet;
use crate::failure::{Failure, c_text};
use crate::guest::StateSink;

/// Room for a reason, in bytes.
const WHY_BYTES: usize = 512;

/// The reason of a call that failed.
fn answer(name: &str, call: impl FnOnce(*mut c_char, usize) -> c_int) -> Result<(), String> {
    let mut why = [0u8; WHY_BYTES];
    let code = call(why.as_mut_ptr().cast(), why.len());
    if code == 0 {
        return Ok(());
    }
    let end = why.iter().position(|byte| *byte == 0).unwrap_or(why.len());
    match String::from_utf8_lossy(&why[..end]).trim() {
        "" => Err(format!("`{name}` returned {code} and did not say why")),
        text => Err(text.to_owned()),
    }
}

fn missing(of: &str, name: &str) -> Failure {
    Failure::argument(format!("{of}.{name} is NULL, and not optional"))
}

type Simple = unsafe extern "C" fn(*mut c_void, *mut c_char, usize) -> c_int;

/// The functions of a `precopy_guest`.
#[derive(Debug)]
pub(crate) struct GuestCalls {
    raw: precopy_guest,
    pause: Simple,
    resume: Simple,
}

// SAFETY: the library asks for controls that can be handed to another thread, but calls them on
// the one that called the API, as the header promises; the pointers themselves are only numbers.
unsafe impl Send for GuestCalls {}

impl GuestCalls {
    /// Checks that there is everything that is not optional.
    pub(crate) fn new(raw: precopy_guest) -> Result<Self, Failure> {
        let none = |name| missing("precopy_guest", name);
        Ok(Self {
            raw,
            pause: raw.pause.ok_or_else(|| none("pause"))?,
            resume: raw.resume.ok_or_else(|| none("resume"))?,
        })
    }

    /// At a source.
    pub(crate) fn exporting(self) -> Result<Self, Failure> {
        match self.raw.export_state {
            Some(_) => Ok(self),
            None => Err(missing("precopy_guest", "export_state")),
        }
    }

    pub(crate) fn pause(&self) -> Result<(), String> {
        // SAFETY: the promise of the module's text.
        answer("pause", |why, size| unsafe { (self.pause)(self.raw.user, why, size) })
    }

    pub(crate) fn resume(&self) -> Result<(), String> {
        // SAFETY: the promise of the module's text.
        answer("resume", |why, size| unsafe { (self.resume)(self.raw.user, why, size) })
    }

    pub(crate) fn throttle(&self, percent: u32) -> Result<(), String> {
        let throttle = self.raw.throttle.ok_or("this VMM cannot hold its vCPUs")?;
        // SAFETY: the promise of the module's text.
        answer("throttle", |why, size| unsafe { throttle(self.raw.user, percent, why, size) })
    }

    pub(crate) fn export_state(&self, into: *const StateSink) -> Result<(), String> {
        let export = self.raw.export_state.ok_or("there is no `export_state`")?;
        let into = into.cast::<precopy_state_sink>().cast_mut();
        // SAFETY: the promise of the module's text. What `into` points to is never looked at.
        answer("export_state", |why, size| unsafe { export(self.raw.user, into, why, size) })
    }

    pub(crate) fn import_state(&self, state: &[u8]) -> Result<(), String> {
        let import = self.raw.import_state.ok_or("there is no `import_state`")?;
        let (start, length) = (state.as_ptr().cast(), state.len());
        answer("import_state", |why, size| {
            // SAFETY: the promise of the module's text; the state lives until the call is over.
            unsafe { import(self.raw.user, start, length, why, size) }
        })
    }

    pub(crate) fn is_running(&self) -> Option<bool> {
        // SAFETY: the promise of the module's text.
        self.raw.is_running.map(|running| unsafe { running(self.raw.user) } != 0)
    }
}

/// The functions of a `precopy_dirty_log`.
#[derive(Debug)]
pub(crate) struct DirtyLogCalls {
    raw: precopy_dirty_log,
}

// SAFETY: as for `GuestCalls`.
unsafe impl Send for DirtyLogCalls {}

impl DirtyLogCalls {
    /// Checks that there is everything that is not optional.
    pub(super) fn new(raw: precopy_dirty_log) -> Result<Self, Failure> {
        match raw.harvest {
            Some(_) => Ok(Self { raw }),
            None => Err(missing("precopy_dirty_log", "harvest")),
        }
    }

    pub(crate) fn start(&self) -> Result<(), String> {
        let Some(start) = self.raw.start else { return Ok(()) };
        // SAFETY: the promise of the module's text.
        answer("start", |why, size| unsafe { start(self.raw.user, why, size) })
    }

    pub(crate) fn harvest(&self, into: *const DirtySet) -> Result<(), String> {
        let harvest = self.raw.harvest.ok_or("there is no `harvest`")?;
        let into = into.cast::<precopy_dirty_set>().cast_mut();
        // SAFETY: the promise of the module's text. What `into` points to is never looked at.
        answer("harvest", |why, size| unsafe { harvest(self.raw.user, into, why, size) })
    }

    pub(crate) fn stop(&self) -> Result<(), String> {
        let Some(stop) = self.raw.stop else { return Ok(()) };
        // SAFETY: the promise of the module's text.
        answer("stop", |why, size| unsafe { stop(self.raw.user, why, size) })
    }

    pub(crate) fn takes_back(&self) -> bool {
        self.raw.give_back.is_some()
    }

    pub(crate) fn give_back(&self, range: precopy_range) -> Result<(), String> {
        let Some(give_back) = self.raw.give_back else { return Ok(()) };
        // SAFETY: the promise of the module's text.
        answer("give_back", |why, size| unsafe { give_back(self.raw.user, range, why, size) })
    }
}

/// The functions of a `precopy_observer`.
#[derive(Debug)]
pub(crate) struct ObserverCalls {
    raw: precopy_observer,
}

impl ObserverCalls {
    pub(super) fn new(raw: precopy_observer) -> Self {
        Self { raw }
    }

    pub(crate) fn progress(&self, progress: &precopy_progress) {
        if let Some(call) = self.raw.progress {
            // SAFETY: the promise of the module's text; the argument lives until it is over.
            unsafe { call(self.raw.user, progress) };
        }
    }

    pub(crate) fn event(&self, json: &CStr) {
        if let Some(call) = self.raw.event {
            // SAFETY: the promise of the module's text; the argument lives until it is over.
            unsafe { call(self.raw.user, json.as_ptr()) };
        }
    }
}

type Create = unsafe extern "C" fn(
    *mut c_void,
    *const precopy_request,
    *mut *mut precopy_memory,
    *mut *const precopy_guest,
    *mut c_char,
    usize,
) -> c_int;

/// The functions of a `precopy_destination`.
#[derive(Debug)]
pub(crate) struct DestinationCalls {
    user: *mut c_void,
    create: Create,
}

impl DestinationCalls {
    /// Checks that there is everything that is not optional.
    pub(super) fn new(raw: precopy_destination) -> Result<Self, Failure> {
        let create = raw.create.ok_or_else(|| missing("precopy_destination", "create"))?;
        Ok(Self { user: raw.user, create })
    }

    /// Has a guest created: the handle of its memory, and its controls.
    pub(crate) fn create(&self, hello: &Hello) -> Result<(usize, GuestCalls), String> {
        let table = &hello.regions;
        let ranges: Vec<_> = table
            .regions()
            .iter()
            .map(|region| precopy_range {
                guest_address: region.start.get(),
                length: region.pages << table.page_size().log2(),
            })
            .collect();
        let (id, text) = (c_text(hello.migration_id.to_string()), c_text(hello.guest.as_str()));
        let request = precopy_request {
            size: size_of::<precopy_request>(),
            migration_id: id.as_ptr(),
            guest: text.as_ptr(),
            ranges: ranges.as_ptr(),
            range_count: ranges.len(),
            page_bytes: table.page_size().bytes_u32(),
        };
        let (mut memory, mut guest) = (ptr::null_mut::<precopy_memory>(), ptr::null());
        answer("create", |why, size| {
            // SAFETY: the promise of the module's text; all arguments live until it is over.
            unsafe {
                (self.create)(self.user, &raw const request, &mut memory, &mut guest, why, size)
            }
        })?;
        // SAFETY: the header asks `create` for a struct that is valid when it returns.
        let guest = unsafe { input::sized(guest) };
        let guest =
            guest.and_then(GuestCalls::new).and_then(|calls| match calls.raw.import_state {
                Some(_) => Ok(calls),
                None => Err(missing("precopy_guest", "import_state")),
            });
        let guest = guest.map_err(|failure| failure.message.to_string_lossy().into_owned())?;
        Ok((memory.addr(), guest))
    }
}

/// The function that takes the log.
#[derive(Debug)]
pub(crate) struct LogCall {
    call: unsafe extern "C" fn(*mut c_void, c_int, *const c_char),
    user: *mut c_void,
}

// SAFETY: the header says that any thread calls it, several at a time.
unsafe impl Send for LogCall {}
// SAFETY: as above.
unsafe impl Sync for LogCall {}

impl LogCall {
    pub(super) fn new(call: precopy_log_fn, user: *mut c_void) -> Option<Self> {
        call.map(|call| Self { call, user })
    }

    pub(crate) fn line(&self, level: c_int, text: &CStr) {
        // SAFETY: the promise of the module's text; the argument lives until it is over.
        unsafe { (self.call)(self.user, level, text.as_ptr()) };
    }
}
