// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What C programs see, by the names that they see it by: `precopy.h` is made from this file and
//! from the functions beside it.
#![allow(
    non_camel_case_types,
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    reason = "the names and layouts of the C API"
)]

use std::ffi::{c_char, c_int, c_void};

/// The version of this interface. Functions and fields at the end of structs may be added without
/// a new one; anything that would break a program that was built before raises it.
pub const PRECOPY_ABI_VERSION: u32 = 1;

/// `precopy_region.flags`: `fd` and `file_offset` say which file the memory is.
pub const PRECOPY_REGION_FILE: u32 = 1;

/// `precopy_source_options.tracking`: the kernel's record of what is written through the mappings
/// of this process (userfaultfd and PAGEMAP_SCAN, Linux 6.7 and later). The default. Sees vCPU
/// threads, KVM included, and system calls, but no other process and no device that writes by DMA.
pub const PRECOPY_TRACK_KERNEL: u32 = 1;
/// `precopy_source_options.tracking`: what the VMM says by `precopy_mark_dirty`.
pub const PRECOPY_TRACK_MARKED: u32 = 2;
/// `precopy_source_options.tracking`: the VMM's own record, asked by `precopy_dirty_log`.
pub const PRECOPY_TRACK_CALLBACK: u32 = 4;

/// `precopy_source_options.flags`: compare a digest of all memory before the guest is handed over.
/// It is paused meanwhile.
pub const PRECOPY_SEND_VERIFY: u32 = 1;
/// `precopy_source_options.flags`: the bandwidth cap does not hold while the guest is paused.
pub const PRECOPY_SEND_UNCAP_PAUSED: u32 = 2;
/// `precopy_source_options.flags`: at `max_rounds` or `max_time_ms`, leave the guest here, rather
/// than pause it however long what is left takes.
pub const PRECOPY_SEND_GIVE_UP: u32 = 4;

/// `precopy_receiver_options.flags`: listen on an address that other hosts can reach, although
/// nothing is encrypted: anybody there can read a guest on its way, or start one here.
pub const PRECOPY_LISTEN_REMOTE_WITHOUT_TLS: u32 = 1;
/// `precopy_receiver_options.flags`: wait until the disk has each record of the journal.
pub const PRECOPY_LISTEN_JOURNAL_SYNC: u32 = 2;
/// `precopy_receiver_options.flags`: the memory that `create` gives is known to be all zeros, fresh
/// from the system. Without it the library looks, and clears what is not.
pub const PRECOPY_LISTEN_FRESH_MEMORY: u32 = 4;

/// How a call ended.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum precopy_status {
    /// Done. From `precopy_send`: the destination runs the guest.
    PRECOPY_OK = 0,
    /// An argument that cannot be: a null pointer, a length, a text that is not UTF-8, a struct of
    /// an unknown size, an unknown name. Nothing was begun.
    PRECOPY_ERROR_ARGUMENT = 1,
    /// A handle that is none of this kind, or was freed before.
    PRECOPY_ERROR_HANDLE = 2,
    /// The object is in use by another thread.
    PRECOPY_ERROR_BUSY = 3,
    /// Memory that cannot be migrated: not mapped, not whole pages, overlapping.
    PRECOPY_ERROR_MEMORY = 4,
    /// Writes to this memory cannot be tracked in the way that was asked for.
    PRECOPY_ERROR_TRACKING = 5,
    /// The destination cannot be reached. Nothing was begun.
    PRECOPY_ERROR_CONNECT = 6,
    /// The system refused something: a thread, a descriptor, an address to listen on.
    PRECOPY_ERROR_SYSTEM = 7,
    /// The destination's record of outcomes cannot be used.
    PRECOPY_ERROR_JOURNAL = 8,
    /// It was cancelled in time. At the source the guest runs on.
    PRECOPY_ERROR_CANCELLED = 9,
    /// The attempt failed. At the source the guest runs on, or stays paused if it was; at the
    /// destination it was not taken over and never will be.
    PRECOPY_ERROR_FAILED = 10,
    /// The destination may run the guest or not. It is paused here and must stay so until
    /// `precopy_ask` knows.
    PRECOPY_ERROR_IN_DOUBT = 11,
    /// The destination did not say what became of a migration. Ask again.
    PRECOPY_ERROR_UNANSWERED = 12,
    /// The program was built for another version of this interface.
    PRECOPY_ERROR_ABI = 13,
    /// A fault in this library. If it came from a migration, treat it as in doubt.
    PRECOPY_ERROR_INTERNAL = 14,
}

/// Whether the guest may run at the side that asks.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum precopy_runs_here {
    /// Nobody here knows: keep it paused, and ask the other side.
    PRECOPY_RUNS_HERE_UNKNOWN = 0,
    /// It may run here. No other side does or will.
    PRECOPY_RUNS_HERE_YES = 1,
    /// It must never run here again: the other side runs it, or has the right to.
    PRECOPY_RUNS_HERE_NO = 2,
}

/// What went wrong: a status, a message, and whether the guest may run here. Freed by
/// `precopy_error_free`.
#[derive(Debug)]
pub struct precopy_error {
    _opaque: [u8; 0],
}

/// A guest's memory. Made by `precopy_memory_new`, freed by `precopy_memory_free`.
#[derive(Debug)]
pub struct precopy_memory {
    _opaque: [u8; 0],
}

/// What happened in a migration, as this side saw it. Freed by `precopy_report_free`.
#[derive(Debug)]
pub struct precopy_report {
    _opaque: [u8; 0],
}

/// Asks migrations to stop. Made by `precopy_cancel_token_new`, freed by
/// `precopy_cancel_token_free`.
#[derive(Debug)]
pub struct precopy_cancel_token {
    _opaque: [u8; 0],
}

/// A destination that listens. Made by `precopy_receiver_new`, freed by `precopy_receiver_free`.
#[derive(Debug)]
pub struct precopy_receiver {
    _opaque: [u8; 0],
}

/// Where `export_state` writes to. Lives as long as that call.
#[derive(Debug)]
pub struct precopy_state_sink {
    _opaque: [u8; 0],
}

/// Where `harvest` marks pages. Lives as long as that call.
#[derive(Debug)]
pub struct precopy_dirty_set {
    _opaque: [u8; 0],
}

/// One contiguous piece of guest-physical memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct precopy_region {
    /// Guest-physical address of the first byte; a multiple of the page size.
    pub guest_address: u64,
    /// Bytes; a multiple of the page size.
    pub length: u64,
    /// Where this process has it mapped: a multiple of the page size, and of 2 MiB for huge pages.
    /// NULL with `PRECOPY_REGION_FILE`: the library maps the file itself. It then sees none of the
    /// VMM's writes; mark them, or bring a dirty log.
    pub host: *mut c_void,
    /// With `PRECOPY_REGION_FILE`, the memfd or the file in /dev/shm that the memory is, open for
    /// reading and writing. The library opens it anew; the descriptor stays the caller's. Shared
    /// memory needs it for `PRECOPY_TRACK_KERNEL`.
    pub fd: c_int,
    /// `PRECOPY_REGION_FILE`, or 0.
    pub flags: u32,
    /// With `PRECOPY_REGION_FILE`, where in the file the region starts.
    pub file_offset: u64,
}

/// A range of guest-physical memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct precopy_range {
    /// Address of the first byte.
    pub guest_address: u64,
    /// Bytes.
    pub length: u64,
}

/// Control over a guest's vCPUs and devices. Set `size` and everything that is not optional.
///
/// Each function returns 0 if it did what was asked, and anything else if not; then it may write
/// why, in UTF-8, to `why`, which holds `why_size` bytes with the final 0. `user` is passed on as
/// it is. All are called on the thread that called `precopy_send` or `precopy_receiver_run`, one
/// at a time, and must return: nothing else happens meanwhile. They must not throw exceptions,
/// longjmp, or end the thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct precopy_guest {
    /// `sizeof(precopy_guest)`.
    pub size: usize,
    /// Handed to every function.
    pub user: *mut c_void,
    /// Stops every vCPU and every device that writes guest memory. When it returns, no write is
    /// under way or will follow. Pausing a paused guest does nothing. If it fails, the guest must
    /// still run, or be able to resume.
    pub pause:
        Option<unsafe extern "C" fn(user: *mut c_void, why: *mut c_char, why_size: usize) -> c_int>,
    /// Lets the vCPUs run, from where they were paused or from the imported state. Resuming a
    /// running guest does nothing.
    pub resume:
        Option<unsafe extern "C" fn(user: *mut c_void, why: *mut c_char, why_size: usize) -> c_int>,
    /// The state of vCPUs and devices, while paused, written by `precopy_state_write`. Only called
    /// at a source.
    pub export_state: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            into: *mut precopy_state_sink,
            why: *mut c_char,
            why_size: usize,
        ) -> c_int,
    >,
    /// Takes over the state, while paused and before the first resume. Only called at a
    /// destination.
    pub import_state: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            state: *const c_void,
            length: usize,
            why: *mut c_char,
            why_size: usize,
        ) -> c_int,
    >,
    /// Optional. Holds the vCPUs for this share of the time, 0 to 99 percent.
    pub throttle: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            percent: u32,
            why: *mut c_char,
            why_size: usize,
        ) -> c_int,
    >,
    /// Optional. Whether the guest runs at this moment: not 0 if so. Without it the library takes
    /// it to run at a source, and remembers what it asked for.
    pub is_running: Option<unsafe extern "C" fn(user: *mut c_void) -> c_int>,
}

/// A dirty log of the VMM's own, such as KVM's. Set `size`, `harvest`, and what else there is.
///
/// Results, `why`, and threads are as for `precopy_guest`; the functions are called at a source.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct precopy_dirty_log {
    /// `sizeof(precopy_dirty_log)`.
    pub size: usize,
    /// Handed to every function.
    pub user: *mut c_void,
    /// Optional. Starts to record: from its return on every write to the guest's memory is.
    pub start:
        Option<unsafe extern "C" fn(user: *mut c_void, why: *mut c_char, why_size: usize) -> c_int>,
    /// Marks every page that was written since the last harvest (or the start) in `into`, by
    /// `precopy_dirty_set_mark` or `precopy_dirty_set_bitmap`; forgets them; and records writes to
    /// them anew before it returns. Too many are harmless, one too few corrupts the guest.
    pub harvest: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            into: *mut precopy_dirty_set,
            why: *mut c_char,
            why_size: usize,
        ) -> c_int,
    >,
    /// Optional. Ends recording.
    pub stop:
        Option<unsafe extern "C" fn(user: *mut c_void, why: *mut c_char, why_size: usize) -> c_int>,
    /// Optional. An attempt failed, and what was harvested in this range is still to be recorded,
    /// for whoever else relies on the log. Migrations do not: each begins with all memory.
    pub give_back: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            range: precopy_range,
            why: *mut c_char,
            why_size: usize,
        ) -> c_int,
    >,
}

/// How far a migration is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct precopy_progress {
    /// `sizeof(precopy_progress)` of the library.
    pub size: usize,
    /// Time since the attempt began, in nanoseconds.
    pub at_ns: u64,
    /// The round in progress; 0 at a destination.
    pub round: u32,
    /// 0 at the source, 1 at the destination.
    pub at_destination: u32,
    /// Pages of the guest; 0 at a destination.
    pub total_pages: u64,
    /// Pages sent, or at a destination received, zero pages included.
    pub moved_pages: u64,
    /// Pages still owed in this round; 0 at a destination.
    pub residual_pages: u64,
    /// Bytes on the wire so far.
    pub wire_bytes: u64,
    /// Bytes per second since the call before; 0 at a destination.
    pub bandwidth_bytes_per_s: f64,
    /// Pages that the guest dirtied per second before the last harvest; below 0 if nobody knows.
    pub dirty_pages_per_s: f64,
}

/// Looks on. Set `size` and what is wanted. Called on the thread of the migration, which waits.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct precopy_observer {
    /// `sizeof(precopy_observer)`.
    pub size: usize,
    /// Handed to every function.
    pub user: *mut c_void,
    /// Optional. About ten times a second.
    pub progress:
        Option<unsafe extern "C" fn(user: *mut c_void, progress: *const precopy_progress)>,
    /// Optional. Phases, rounds, decisions: one JSON object, which lives as long as the call.
    pub event: Option<unsafe extern "C" fn(user: *mut c_void, json: *const c_char)>,
}

/// How to migrate. Clear it, then set `size`, `destination` and what else is wanted: 0 and NULL
/// stand for the defaults.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct precopy_source_options {
    /// `sizeof(precopy_source_options)`.
    pub size: usize,
    /// Where to, `host:port`. Not optional.
    pub destination: *const c_char,
    /// When to stop and copy, and more: `qemu` (the default), `xen`, `qemu:downtime_ms=50`,
    /// `qemu+cold-first+auto-converge`. The list: `precopy policies`.
    pub strategy: *const c_char,
    /// How pages travel: `raw` (the default), `lz4`.
    pub encoder: *const c_char,
    /// Describes the guest to the destination's `create`, at most 1 KiB.
    pub guest: *const c_char,
    /// Names the attempt, 32 hexadecimal digits: to be kept before, in case this process dies in
    /// doubt. A random one by default.
    pub migration_id: *const c_char,
    /// Which tracker of the kernel's: `auto` (the default) or `pagemap`, `pagemap-user`; or
    /// `mprotect`, which handles SIGSEGV for the whole process, and under which system calls and
    /// KVM fail to write guest memory.
    pub tracker: *const c_char,
    /// The VMM's own record, for `PRECOPY_TRACK_CALLBACK`.
    pub dirty_log: *const precopy_dirty_log,
    /// Stops the attempt, or NULL.
    pub cancel: *mut precopy_cancel_token,
    /// Looks on, or NULL.
    pub observer: *const precopy_observer,
    /// Who knows what the guest writes: any of `PRECOPY_TRACK_*` together; a page is dirty if one
    /// of them says so. 0: `PRECOPY_TRACK_KERNEL`.
    pub tracking: u32,
    /// Any of `PRECOPY_SEND_*`.
    pub flags: u32,
    /// TCP connections, 1 (the default) to 64.
    pub channels: u32,
    /// Live rounds at most; 1000 by default.
    pub max_rounds: u32,
    /// Time at most from the first page; no limit by default.
    pub max_time_ms: u64,
    /// Most bytes per second over all channels together; no limit by default.
    pub bandwidth_cap_bytes_per_s: u64,
    /// Downtime that strategies aim at; 300 by default.
    pub downtime_limit_ms: u64,
    /// Time after the first page by which you want to be done; strategies look at it.
    pub deadline_ms: u64,
    /// How long to watch the guest's writes before the first page.
    pub preflight_ms: u64,
    /// Longest time for one connection to be made; 5,000 by default.
    pub connect_timeout_ms: u64,
    /// Longest time until the destination is ready for pages; 30,000 by default.
    pub negotiate_timeout_ms: u64,
    /// Longest time without any progress; 10,000 by default.
    pub stall_timeout_ms: u64,
    /// Longest time from the last page to the destination's word that it is ready; 60,000 by
    /// default.
    pub ready_timeout_ms: u64,
    /// Longest wait for the answer to Commit before the destination is asked anew; 10,000 by
    /// default.
    pub commit_timeout_ms: u64,
    /// How long to go on asking; 30,000 by default.
    pub query_timeout_ms: u64,
}

/// Where to listen. Clear it, then set `size`, `listen` and what else is wanted.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct precopy_receiver_options {
    /// `sizeof(precopy_receiver_options)`.
    pub size: usize,
    /// An address of this host, `address:port`; port 0 for one of the system's choice. Not
    /// optional.
    pub listen: *const c_char,
    /// A file in which outcomes are written down, so that a destination that is started again can
    /// say what became of a Commit in doubt. Without one it does not know.
    pub journal: *const c_char,
    /// Any of `PRECOPY_LISTEN_*`.
    pub flags: u32,
    /// Most connections of one migration; 64 by default.
    pub channels_max: u32,
    /// Largest guest that is taken, in bytes; no limit by default.
    pub memory_bytes_max: u64,
    /// Largest state that is taken, in bytes; 256 MiB by default, and at most.
    pub state_bytes_max: u64,
    /// Longest time without a word from the source; 15,000 by default.
    pub stall_timeout_ms: u64,
    /// Longest time from Ready to Commit; 30,000 by default.
    pub commit_timeout_ms: u64,
}

/// A guest that a source wants to send here. It lives as long as the call of `create`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct precopy_request {
    /// `sizeof(precopy_request)` of the library.
    pub size: usize,
    /// Names the attempt.
    pub migration_id: *const c_char,
    /// The source's description of the guest; not to be trusted.
    pub guest: *const c_char,
    /// The guest's memory map, sorted.
    pub ranges: *const precopy_range,
    /// How many ranges.
    pub range_count: usize,
    /// Bytes of a page.
    pub page_bytes: u32,
}

/// What receives guests. Set `size` and `create`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct precopy_destination {
    /// `sizeof(precopy_destination)`.
    pub size: usize,
    /// Handed to `create`.
    pub user: *mut c_void,
    /// Creates the guest that a source describes, paused, with memory of exactly those ranges and
    /// pages. `memory` and `guest` are for the answer: the handle stays the caller's, to be freed
    /// after `precopy_receiver_run`; what `guest` points to is copied when `create` returns. To
    /// refuse, it returns something else than 0 and says why: the source is told. If the guest
    /// is not taken over in the end, `precopy_receiver_run` says so, and the VMM takes it down.
    pub create: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            request: *const precopy_request,
            memory: *mut *mut precopy_memory,
            guest: *mut *const precopy_guest,
            why: *mut c_char,
            why_size: usize,
        ) -> c_int,
    >,
    /// Ends the wait or the attempt, or NULL.
    pub cancel: *mut precopy_cancel_token,
    /// Looks on, or NULL.
    pub observer: *const precopy_observer,
}

/// Takes a line of the library's log: `level` is 1 for an error to 5 for a trace. Called from any
/// thread, from several at a time.
pub type precopy_log_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, level: c_int, text: *const c_char)>;
