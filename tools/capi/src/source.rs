// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source: from the VMM's options to a report.

use std::sync::Arc;
use std::time::Duration;

use precopy::dirty::{
    DirtyError, DirtyTracker, MarkedTracker, PagemapTracker, UnionTracker, tracker_by_name,
};
use precopy::encode::EncoderError;
use precopy::engine::{self, SourceOptions, SourceParts};
use precopy::policy::{GuardAction, Guards, StrategySpec};
use precopy::report::Outcome;
use precopy::sys::UffdMode;
use precopy::transport::{TcpConnector, TcpOptions};
use precopy::units::{MigrationId, UnitError};
use precopy::wire::Fate;

use crate::cancel::{Cancel, watched};
use crate::dirty::CallbackTracker;
use crate::failure::{Failure, chain};
use crate::guest::CallbackGuest;
use crate::memory::Memory;
use crate::observe::{Account, Observer};
use crate::sys::calls::DirtyLogCalls;
use crate::sys::types::{
    PRECOPY_SEND_GIVE_UP, PRECOPY_SEND_UNCAP_PAUSED, PRECOPY_SEND_VERIFY, PRECOPY_TRACK_CALLBACK,
    PRECOPY_TRACK_KERNEL, PRECOPY_TRACK_MARKED, precopy_runs_here as RunsHere,
    precopy_source_options as RawOptions, precopy_status as Status,
};

/// What `precopy_send` was handed, without pointers.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) numbers: RawOptions,
    pub(crate) destination: String,
    pub(crate) strategy: Option<String>,
    pub(crate) encoder: Option<String>,
    pub(crate) guest_text: Option<String>,
    pub(crate) migration_id: Option<String>,
    pub(crate) tracker: Option<String>,
    pub(crate) dirty_log: Option<DirtyLogCalls>,
    pub(crate) cancel: Option<Arc<Cancel>>,
    pub(crate) observer: Observer,
}

/// Migrates. A report comes whenever an attempt began; a failure whenever the destination does not
/// run the guest.
pub(crate) fn send(
    mut request: Request,
    memory: &Arc<Memory>,
    mut guest: CallbackGuest,
) -> (Option<Account>, Result<(), Failure>) {
    // First: a tracker that is tried while another one is armed would fail for no reason.
    let _in_use = match Arc::clone(memory).take() {
        Ok(in_use) => in_use,
        Err(failure) => return (None, Err(failure)),
    };
    let (options, mut tracker, why) = match prepare(&mut request, memory) {
        Ok(prepared) => prepared,
        Err(failure) => return (None, Err(failure)),
    };
    let mut connector = TcpConnector::new(&request.destination, TcpOptions::default());
    let cancel = request.cancel.clone();
    let attempt = watched(cancel.as_deref(), |token| {
        let reader = Arc::new(memory.mapped.clone());
        let parts = SourceParts::new(reader, memory.table.clone(), &mut *tracker, &mut guest);
        let parts = parts.with_tracker_why(why);
        engine::send(options, &mut connector, parts, token, &mut request.observer)
    });
    let report = match attempt {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => return (None, Err(error.into())),
        Err(failure) => return (None, Err(failure)),
    };
    let cancelled = cancel.is_some_and(|cancel| cancel.is_cancelled());
    let status = match report.outcome {
        Outcome::HandedOver => return (Some(Account::source(report)), Ok(())),
        Outcome::SourceKeepsRunning if cancelled => Status::PRECOPY_ERROR_CANCELLED,
        Outcome::SourceKeepsRunning => Status::PRECOPY_ERROR_FAILED,
        Outcome::InDoubt => Status::PRECOPY_ERROR_IN_DOUBT,
    };
    let why = report.failure.clone().unwrap_or_else(|| "No reason is known".to_owned());
    let account = Account::source(report);
    let failure = Failure::new(status, why).at(account.here);
    (Some(account), Err(failure))
}

type Prepared = (SourceOptions, Box<dyn DirtyTracker>, String);

/// Checks everything that can be checked before anything begins.
fn prepare(request: &mut Request, memory: &Memory) -> Result<Prepared, Failure> {
    let options = options(request)?;
    let (tracker, why) = tracker(request, memory)?;
    Ok((options, tracker, why))
}

fn options(request: &Request) -> Result<SourceOptions, Failure> {
    let numbers = &request.numbers;
    let known = PRECOPY_SEND_VERIFY | PRECOPY_SEND_UNCAP_PAUSED | PRECOPY_SEND_GIVE_UP;
    if numbers.flags & !known != 0 {
        return Err(Failure::argument(format!("Unknown flags {:#x}", numbers.flags & !known)));
    }
    let has = |flag| numbers.flags & flag != 0;
    let text = request.strategy.as_deref().unwrap_or("qemu");
    let strategy = StrategySpec::parse(text)
        .map_err(|error| Failure::argument(format!("strategy: {}", chain(&error))))?;
    let mut guards = Guards::default();
    if numbers.max_rounds != 0 {
        guards.max_rounds = Some(numbers.max_rounds);
    }
    guards.max_duration = millis(numbers.max_time_ms);
    if has(PRECOPY_SEND_GIVE_UP) {
        guards.action = GuardAction::GiveUp;
    }
    let mut options = SourceOptions::new(strategy.build().guarded(&guards));
    options.policy_text = format!("{strategy} ({guards})");
    if let Some(id) = &request.migration_id {
        options.migration_id = migration_id(id)?;
    }
    if let Some(name) = &request.encoder {
        let unknown = |error: EncoderError| Failure::argument(error.to_string());
        options.encoder = name.parse().map_err(unknown)?;
    }
    if numbers.channels != 0 {
        options.channels = u8::try_from(numbers.channels).unwrap_or(u8::MAX);
    }
    options.guest = request.guest_text.clone().unwrap_or_default();
    options.verify = has(PRECOPY_SEND_VERIFY);
    options.cap_paused = !has(PRECOPY_SEND_UNCAP_PAUSED);
    options.bandwidth_cap_bytes_per_s =
        Some(numbers.bandwidth_cap_bytes_per_s).filter(|cap| *cap != 0);
    options.deadline = millis(numbers.deadline_ms);
    options.preflight = Duration::from_millis(numbers.preflight_ms);
    for (time, given) in [
        (&mut options.downtime_limit, numbers.downtime_limit_ms),
        (&mut options.connect_timeout, numbers.connect_timeout_ms),
        (&mut options.negotiate_timeout, numbers.negotiate_timeout_ms),
        (&mut options.stall_timeout, numbers.stall_timeout_ms),
        (&mut options.ready_timeout, numbers.ready_timeout_ms),
        (&mut options.commit_timeout, numbers.commit_timeout_ms),
        (&mut options.query_timeout, numbers.query_timeout_ms),
    ] {
        *time = millis(given).unwrap_or(*time);
    }
    Ok(options)
}

/// A time, or 0 for the default.
pub(crate) fn millis(millis: u64) -> Option<Duration> {
    (millis != 0).then(|| Duration::from_millis(millis))
}

fn migration_id(text: &str) -> Result<MigrationId, Failure> {
    text.parse().map_err(|error: UnitError| Failure::argument(error.to_string()))
}

/// The trackers that were asked for, as one, and why.
fn tracker(
    request: &mut Request,
    memory: &Memory,
) -> Result<(Box<dyn DirtyTracker>, String), Failure> {
    let tracking = match request.numbers.tracking {
        0 => PRECOPY_TRACK_KERNEL,
        tracking => tracking,
    };
    let known = PRECOPY_TRACK_KERNEL | PRECOPY_TRACK_MARKED | PRECOPY_TRACK_CALLBACK;
    if tracking & !known != 0 {
        return Err(Failure::argument(format!("Unknown tracking {:#x}", tracking & !known)));
    }
    let mut parts: Vec<Box<dyn DirtyTracker>> = Vec::new();
    if tracking & PRECOPY_TRACK_KERNEL != 0 {
        parts.push(kernel(request.tracker.as_deref().unwrap_or("auto"), memory)?);
    }
    if tracking & PRECOPY_TRACK_MARKED != 0 {
        parts.push(Box::new(MarkedTracker::new(Arc::clone(&memory.marks))));
    }
    if tracking & PRECOPY_TRACK_CALLBACK != 0 {
        let calls = request.dirty_log.take().ok_or_else(|| {
            Failure::argument("PRECOPY_TRACK_CALLBACK needs dirty_log, which is NULL")
        })?;
        parts.push(Box::new(CallbackTracker::new(calls, memory.table.clone())));
    }
    let names: Vec<_> = parts.iter().map(|part| part.name()).collect();
    let why = format!("{}, as the VMM asked", names.join(" and "));
    if parts.len() > 1 {
        let union = UnionTracker::new(parts).map_err(|error| untracked(&error))?;
        return Ok((Box::new(union), why));
    }
    let only = parts.pop().ok_or_else(|| Failure::argument("No tracking was asked for"))?;
    Ok((only, why))
}

fn untracked(error: &DirtyError) -> Failure {
    Failure::new(Status::PRECOPY_ERROR_TRACKING, chain(error))
}

/// The kernel's record. The fallback by signals is never chosen unasked: it breaks system calls
/// that write guest memory, and KVM.
fn kernel(name: &str, memory: &Memory) -> Result<Box<dyn DirtyTracker>, Failure> {
    if !memory.seen_by_kernel {
        let why = "Memory that is not mapped by the VMM in this process cannot be tracked by the \
                   kernel's record: give host addresses, or mark pages, or bring a dirty log";
        return Err(Failure::new(Status::PRECOPY_ERROR_TRACKING, why));
    }
    let host = memory.mapped.host();
    if name == "auto" {
        let tracker = PagemapTracker::new(Arc::clone(host), UffdMode::Best);
        return tracker.map(|tracker| Box::new(tracker) as _).map_err(|error| {
            let mut failure = untracked(&error);
            let hint = "; mark pages, bring a dirty log, or ask for the tracker mprotect";
            failure.message =
                crate::failure::c_text([failure.message.as_bytes(), hint.as_bytes()].concat());
            failure
        });
    }
    if name == "mprotect" && !memory.writable {
        let why = "The tracker mprotect would make memory writable that is not";
        return Err(Failure::new(Status::PRECOPY_ERROR_TRACKING, why));
    }
    match tracker_by_name(host, name) {
        Ok(probed) => Ok(probed.tracker),
        Err(error) => Err(untracked(&error)),
    }
}

/// Asks a destination what became of a migration.
pub(crate) fn ask(destination: &str, id: &str, timeout_ms: u64) -> Result<RunsHere, Failure> {
    let unknown = |failure: Failure| failure.at(RunsHere::PRECOPY_RUNS_HERE_UNKNOWN);
    let id = migration_id(id).map_err(unknown)?;
    let mut connector = TcpConnector::new(destination, TcpOptions::default());
    let timeout = millis(timeout_ms).unwrap_or(Duration::from_secs(30));
    match engine::settle(&mut connector, id, timeout)? {
        Fate::Committed => Ok(RunsHere::PRECOPY_RUNS_HERE_NO),
        Fate::NeverCommitted => Ok(RunsHere::PRECOPY_RUNS_HERE_YES),
        _ => Ok(RunsHere::PRECOPY_RUNS_HERE_UNKNOWN),
    }
}
