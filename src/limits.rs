// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every bound on every loop, queue, allocation and peer-sent number, in one place.
//!
//! Rule R6: nothing that a peer says sizes an allocation or a loop before it was compared with a
//! number from this file or with the region table. The relations between the numbers are checked
//! when the crate is compiled.

use std::time::Duration;

/// Most connections of one migration.
pub const CHANNELS_MAX: u8 = 64;
/// Most memory regions of one guest (KVM's memory slots: 509 and more; QEMU uses a dozen).
pub const REGIONS_MAX: usize = 1024;
/// Most pages of one guest: 16 TiB of 4 KiB pages.
pub const PAGES_MAX: u64 = 1 << 32;

/// Most pages in one page frame.
pub const FRAME_PAGES_MAX: u32 = 256;
/// Most entries (runs or single pages) in one page frame: at worst one a page.
pub const FRAME_ENTRIES_MAX: u32 = FRAME_PAGES_MAX;
/// Most bytes of one frame's body, of any kind.
pub const FRAME_BODY_MAX: u32 = 4 << 20;
/// Largest page that travels in a page frame, in bytes.
pub const FRAME_PAGE_BYTES_MAX: u32 = 2 << 20;
/// Most raw page bytes in one page frame; decides how many pages of a given size fit.
pub const FRAME_PAGE_PAYLOAD_MAX: u32 = 2 << 20;
/// Most runs in one announcement of populated pages.
pub const ANNOUNCE_RUNS_MAX: u32 = 4096;
/// Most announcements of one migration; past it the source stops announcing (it is only a hint).
pub const ANNOUNCES_MAX: u32 = 64;

/// Most bytes of vCPU and device state.
pub const STATE_BYTES_MAX: u64 = 256 << 20;
/// Most bytes of state in one frame.
pub const STATE_CHUNK_MAX: u32 = 1 << 20;
/// Most bytes of a reason that one side tells the other.
pub const REASON_BYTES_MAX: usize = 1024;

/// Most bytes of a Hello's body, in any version of the protocol.
pub const HELLO_BODY_MAX: u32 = 64 << 10;
/// Most bytes of a body that holds no list: a few numbers and at most one text.
pub const SMALL_BODY_MAX: u32 = 2048;
/// Most of anything that one side says it counted in one round; sums over channels cannot overflow.
pub const ROUND_COUNT_MAX: u64 = 1 << 56;

/// Most rounds of one migration, whatever the policy says.
pub const ROUNDS_MAX: u32 = 1_000_000;
/// Most times that a page order is asked in a row while it names only pages that are not owed.
pub const IDLE_PICKS_MAX: u32 = 1000;
/// Most round reports that a report keeps; the oldest live ones are folded into one past it.
pub const ROUND_REPORTS_MAX: usize = 10_000;
/// Most decisions that a report keeps.
pub const DECISIONS_MAX: usize = 10_000;

/// Most strategies that are judged beside the acting one. Each costs up to a few microseconds
/// whenever the acting one is asked (`cargo bench --bench decisions`).
pub const SHADOWS_MAX: usize = 64;
/// Most of them with a page order of their own, whose sender is modelled: each holds up to 9 bytes
/// a page, and picks every page that it would send.
pub const SHADOW_ORDERS_MAX: usize = 8;

/// Connections that have not yet said what they are, at a listening destination.
pub const PENDING_CONNECTIONS_MAX: usize = 128;
/// How long a connection may take to say what it is.
pub const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// Pages that one peek at the dirty record looks ahead (legacy Xen looked ahead 1024).
pub const PEEK_WINDOW_PAGES: u64 = 4096;
/// Batches queued on one channel ahead of the one that is being sent.
pub const CHANNEL_QUEUE_BATCHES: usize = 2;
/// Share of the guest's memory that the delta cache may take unless told otherwise: one part of so
/// many.
pub const DELTA_CACHE_DEFAULT_SHARE: u64 = 8;
/// Most bytes that it takes unless told otherwise.
pub const DELTA_CACHE_DEFAULT_MAX: u64 = 4 << 30;
/// On a capped connection the kernel may hold unsent what it sends in this part of a second: 5 ms.
const UNSENT_PART_OF_SECOND: u64 = 200;
/// Least bytes that it may hold so; two of its packets.
const UNSENT_BYTES_LEAST: u32 = 128 << 10;

/// Most bytes that the kernel may hold unsent on a connection that is capped at `bytes_per_s`.
#[must_use]
pub fn unsent_bytes_max(bytes_per_s: u64) -> u32 {
    let bytes = bytes_per_s / UNSENT_PART_OF_SECOND;
    u32::try_from(bytes).unwrap_or(u32::MAX).max(UNSENT_BYTES_LEAST)
}

/// Messages and batches that wait for one channel's sending thread. Holds a whole state, all
/// announcements and more; only a destination that reads nothing fills it.
pub const SOURCE_QUEUE_JOBS: usize = 1024;
/// Events that wait for the main thread of a source or a destination; who brings more waits.
pub const INBOX_EVENTS: usize = 1024;
/// Most bytes of a destination's journal: half a million migrations.
pub const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// A journal that is longer than this when it is opened is made shorter.
pub const JOURNAL_COMPACT_BYTES: u64 = 1 << 20;
/// Migrations that a shortened journal still knows, the newest ones.
pub const JOURNAL_MIGRATIONS_KEPT: usize = 4096;
/// Outcomes of past migrations that a destination remembers without a journal.
pub const OUTCOMES_REMEMBERED: usize = 1024;

/// Most separate parts of guest memory that the mprotect tracker makes writable one page at a
/// time. Each costs up to two of the process's mappings, of which Linux allows 65,530 by default,
/// and a process that runs out of them can start no thread.
pub const MPROTECT_SPLITS_MAX: usize = 16 << 10;
/// Calls of the kernel's page walk without progress after which a scan gives up.
pub const PAGEMAP_STALLS_MAX: u32 = 16;

/// Most mappings of another process that are looked at (Linux allows 65,530 by default).
pub const PROCESS_MAPPINGS_MAX: usize = 1 << 20;
/// Most open files of another process among which the one of a mapping is looked for.
pub const PROCESS_FILES_MAX: usize = 1 << 16;
/// Most threads of another process that are looked at to find one that stops quickly.
pub const ATTACH_THREADS_MAX: usize = 256;
/// How long each thread of another process may take to stop before the next one is tried.
pub const ATTACH_STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may take in all to open a userfaultfd in another process.
pub const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);
/// How often, and how far apart, it is tried on a process that has no code mapped: execve(2) lets
/// go of the parent before the new program is in place.
pub const ATTACH_FRESH_TRIES: u32 = 25;
/// See [`ATTACH_FRESH_TRIES`].
pub const ATTACH_FRESH_PAUSE: Duration = Duration::from_millis(10);

/// Most runs of pages in one tick of a trace, and in its list of contents: 64 MiB and 96 MiB in
/// memory. All pages of 64 GiB are at most twice as many.
pub const TRACE_TICK_RUNS_MAX: u64 = 1 << 22;
/// Most bytes of one chunk of a trace, before and after compression.
pub const TRACE_CHUNK_BYTES_MAX: u32 = 32 << 20;
/// Most ticks of one chunk of a trace.
pub const TRACE_CHUNK_TICKS_MAX: u32 = 1 << 16;
/// Most chunks of a trace: 12 days at one a second.
pub const TRACE_CHUNKS_MAX: u32 = 1 << 20;
/// Most bytes of a trace's header, the populated pages of the guest included.
pub const TRACE_HEADER_BYTES_MAX: u32 = 4 << 20;
/// Most bytes of each text in a trace's header.
pub const TRACE_TEXT_BYTES_MAX: u32 = 64 << 10;
/// Longest intended tick of a trace.
pub const TRACE_TICK_MAX: Duration = Duration::from_secs(3600);
/// Most ticks that an oracle looks ahead, at 16 bytes each: 7 days in ticks of 10 ms.
pub const ORACLE_TICKS_MAX: u32 = 60_480_000;
/// How often a signal may interrupt one call to KVM before it counts as refused.
pub const KVM_INTERRUPTIONS_MAX: u32 = 1000;
/// How often in a row a vCPU may find its dirty ring full although nothing is in it.
pub const KVM_RING_STALLS_MAX: u32 = 1000;

const _: () = assert!(FRAME_PAGE_PAYLOAD_MAX >= FRAME_PAGE_BYTES_MAX);
const _: () = assert!(FRAME_BODY_MAX >= 2 * FRAME_PAGE_PAYLOAD_MAX, "worst case: raw plus table");
const _: () = assert!(HELLO_BODY_MAX as usize > 16 * REGIONS_MAX + 2 * REASON_BYTES_MAX);
const _: () = assert!(SMALL_BODY_MAX as usize >= REASON_BYTES_MAX + 64);
const _: () = assert!(ROUND_COUNT_MAX.checked_mul(CHANNELS_MAX as u64).is_some());
const _: () = assert!(STATE_CHUNK_MAX < FRAME_BODY_MAX);
const _: () = assert!(STATE_BYTES_MAX.is_multiple_of(STATE_CHUNK_MAX as u64));
const _: () = assert!(
    SOURCE_QUEUE_JOBS as u64
        > STATE_BYTES_MAX / STATE_CHUNK_MAX as u64 + 2 * ANNOUNCES_MAX as u64 + 64
);
const _: () = assert!(JOURNAL_COMPACT_BYTES < JOURNAL_BYTES_MAX);
const _: () =
    assert!(JOURNAL_MIGRATIONS_KEPT as u64 * 128 <= JOURNAL_COMPACT_BYTES / 2, "shortening pays");
const _: () = assert!(PENDING_CONNECTIONS_MAX > CHANNELS_MAX as usize);
const _: () = assert!(PEEK_WINDOW_PAGES >= FRAME_PAGES_MAX as u64);
const _: () = assert!(TRACE_HEADER_BYTES_MAX > 2 * TRACE_TEXT_BYTES_MAX + 1024);
const _: () = assert!(
    TRACE_TICK_RUNS_MAX * 7 < TRACE_CHUNK_BYTES_MAX as u64,
    "the largest tick fits a chunk"
);
