// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The library's log, handed to a function of the program's.

use std::cell::Cell;
use std::sync::{OnceLock, PoisonError, RwLock};

use log::{LevelFilter, Log, Metadata, Record};

use crate::failure::{Failure, c_text};
use crate::sys::calls::LogCall;
use crate::sys::types::precopy_status as Status;

static SINK: RwLock<Option<LogCall>> = RwLock::new(None);
/// Whether the log of this process is ours. Asked once: it cannot be taken back or tried again.
static OURS: OnceLock<bool> = OnceLock::new();

thread_local! {
    /// This thread is in the program's function: what it logs itself would never end.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        !BUSY.get()
    }

    fn log(&self, record: &Record<'_>) {
        if BUSY.replace(true) {
            return;
        }
        if let Some(call) = &*SINK.read().unwrap_or_else(PoisonError::into_inner) {
            call.line(record.level() as i32, &c_text(record.args().to_string()));
        }
        BUSY.set(false);
    }

    fn flush(&self) {}
}

/// Sets the function, or none, and the least serious level that it gets (0 to 5). When it returns,
/// no thread is in the function that was set before.
pub(crate) fn set(call: Option<LogCall>, level: i32) -> Result<(), Failure> {
    const LEVELS: [LevelFilter; 6] = [
        LevelFilter::Off,
        LevelFilter::Error,
        LevelFilter::Warn,
        LevelFilter::Info,
        LevelFilter::Debug,
        LevelFilter::Trace,
    ];
    let level = usize::try_from(level).ok().and_then(|level| LEVELS.get(level));
    let level = *level.ok_or_else(|| Failure::argument("Log levels go from 0 to 5"))?;
    if BUSY.get() {
        let why = "The log cannot be changed from within its own function";
        return Err(Failure::new(Status::PRECOPY_ERROR_BUSY, why));
    }
    if !OURS.get_or_init(|| log::set_logger(&Logger).is_ok()) {
        let why = "Other Rust code in this process has the log already";
        return Err(Failure::new(Status::PRECOPY_ERROR_BUSY, why));
    }
    log::set_max_level(if call.is_some() { level } else { LevelFilter::Off });
    *SINK.write().unwrap_or_else(PoisonError::into_inner) = call;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_others_have_is_refused_each_time() {
        struct Other;
        impl Log for Other {
            fn enabled(&self, _: &Metadata<'_>) -> bool {
                false
            }
            fn log(&self, _: &Record<'_>) {}
            fn flush(&self) {}
        }
        log::set_logger(&Other).unwrap();
        for _ in 0..2 {
            assert_eq!(set(None, 3).unwrap_err().status, Status::PRECOPY_ERROR_BUSY);
        }
    }
}
