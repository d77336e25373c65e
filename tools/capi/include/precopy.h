/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * precopy: live migration of a running guest, for hypervisors in C and C++.
 *
 * Made by cbindgen from the Rust sources; do not edit. How to use it: README.md beside it.
 *
 * For all functions:
 * - Texts end in 0 and are UTF-8. What a pointer points to lasts until the call returns, unless
 *   the function says otherwise; the library keeps no pointer but the host addresses of memory,
 *   the log's function, and `user` pointers while a call with them is under way.
 * - Structs with a field `size` are cleared and then given it: `precopy_guest guest = { .size =
 *   sizeof guest };`. So a program goes on to work with a later library.
 * - Handles (memory, tokens, receivers, reports, errors) are looked up: one that was freed, or is
 *   of another kind, gives PRECOPY_ERROR_HANDLE. Only precopy_mark_dirty and precopy_cancel,
 *   which must be quick or safe in signal handlers, cannot look.
 * - `error` may be NULL. If not, it gets what went wrong, to be freed by precopy_error_free, or
 *   NULL if nothing did.
 * - Nothing unwinds, exits, or raises SIGPIPE. After fork(2) the child must not
 *   call the library if the parent had receivers or migrations under way.
 */

#ifndef PRECOPY_H
#define PRECOPY_H

#include <stddef.h>
#include <stdint.h>

/**
 * The version of this interface. Functions and fields at the end of structs may be added without
 * a new one; anything that would break a program that was built before raises it.
 */
#define PRECOPY_ABI_VERSION 1

/**
 * `precopy_region.flags`: `fd` and `file_offset` say which file the memory is.
 */
#define PRECOPY_REGION_FILE 1

/**
 * `precopy_source_options.tracking`: the kernel's record of what is written through the mappings
 * of this process (userfaultfd and PAGEMAP_SCAN, Linux 6.7 and later). The default. Sees vCPU
 * threads, KVM included, and system calls, but no other process and no device that writes by DMA.
 */
#define PRECOPY_TRACK_KERNEL 1

/**
 * `precopy_source_options.tracking`: what the VMM says by `precopy_mark_dirty`.
 */
#define PRECOPY_TRACK_MARKED 2

/**
 * `precopy_source_options.tracking`: the VMM's own record, asked by `precopy_dirty_log`.
 */
#define PRECOPY_TRACK_CALLBACK 4

/**
 * `precopy_source_options.flags`: compare a digest of all memory before the guest is handed over.
 * It is paused meanwhile.
 */
#define PRECOPY_SEND_VERIFY 1

/**
 * `precopy_source_options.flags`: the bandwidth cap does not hold while the guest is paused.
 */
#define PRECOPY_SEND_UNCAP_PAUSED 2

/**
 * `precopy_source_options.flags`: at `max_rounds` or `max_time_ms`, leave the guest here, rather
 * than pause it however long what is left takes.
 */
#define PRECOPY_SEND_GIVE_UP 4

/**
 * `precopy_receiver_options.flags`: listen on an address that other hosts can reach, although
 * nothing is encrypted: anybody there can read a guest on its way, or start one here.
 */
#define PRECOPY_LISTEN_REMOTE_WITHOUT_TLS 1

/**
 * `precopy_receiver_options.flags`: wait until the disk has each record of the journal.
 */
#define PRECOPY_LISTEN_JOURNAL_SYNC 2

/**
 * `precopy_receiver_options.flags`: the memory that `create` gives is known to be all zeros, fresh
 * from the system. Without it the library looks, and clears what is not.
 */
#define PRECOPY_LISTEN_FRESH_MEMORY 4

/**
 * How a call ended.
 */
enum precopy_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Done. From `precopy_send`: the destination runs the guest.
     */
    PRECOPY_OK = 0,
    /**
     * An argument that cannot be: a null pointer, a length, a text that is not UTF-8, a struct of
     * an unknown size, an unknown name. Nothing was begun.
     */
    PRECOPY_ERROR_ARGUMENT = 1,
    /**
     * A handle that is none of this kind, or was freed before.
     */
    PRECOPY_ERROR_HANDLE = 2,
    /**
     * The object is in use by another thread.
     */
    PRECOPY_ERROR_BUSY = 3,
    /**
     * Memory that cannot be migrated: not mapped, not whole pages, overlapping.
     */
    PRECOPY_ERROR_MEMORY = 4,
    /**
     * Writes to this memory cannot be tracked in the way that was asked for.
     */
    PRECOPY_ERROR_TRACKING = 5,
    /**
     * The destination cannot be reached. Nothing was begun.
     */
    PRECOPY_ERROR_CONNECT = 6,
    /**
     * The system refused something: a thread, a descriptor, an address to listen on.
     */
    PRECOPY_ERROR_SYSTEM = 7,
    /**
     * The destination's record of outcomes cannot be used.
     */
    PRECOPY_ERROR_JOURNAL = 8,
    /**
     * It was cancelled in time. At the source the guest runs on.
     */
    PRECOPY_ERROR_CANCELLED = 9,
    /**
     * The attempt failed. At the source the guest runs on, or stays paused if it was; at the
     * destination it was not taken over and never will be.
     */
    PRECOPY_ERROR_FAILED = 10,
    /**
     * The destination may run the guest or not. It is paused here and must stay so until
     * `precopy_ask` knows.
     */
    PRECOPY_ERROR_IN_DOUBT = 11,
    /**
     * The destination did not say what became of a migration. Ask again.
     */
    PRECOPY_ERROR_UNANSWERED = 12,
    /**
     * The program was built for another version of this interface.
     */
    PRECOPY_ERROR_ABI = 13,
    /**
     * A fault in this library. If it came from a migration, treat it as in doubt.
     */
    PRECOPY_ERROR_INTERNAL = 14,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum precopy_status precopy_status;
#else
typedef int32_t precopy_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Whether the guest may run at the side that asks.
 */
enum precopy_runs_here
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Nobody here knows: keep it paused, and ask the other side.
     */
    PRECOPY_RUNS_HERE_UNKNOWN = 0,
    /**
     * It may run here. No other side does or will.
     */
    PRECOPY_RUNS_HERE_YES = 1,
    /**
     * It must never run here again: the other side runs it, or has the right to.
     */
    PRECOPY_RUNS_HERE_NO = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum precopy_runs_here precopy_runs_here;
#else
typedef int32_t precopy_runs_here;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Asks migrations to stop. Made by `precopy_cancel_token_new`, freed by
 * `precopy_cancel_token_free`.
 */
typedef struct precopy_cancel_token precopy_cancel_token;

/**
 * Where `harvest` marks pages. Lives as long as that call.
 */
typedef struct precopy_dirty_set precopy_dirty_set;

/**
 * What went wrong: a status, a message, and whether the guest may run here. Freed by
 * `precopy_error_free`.
 */
typedef struct precopy_error precopy_error;

/**
 * A guest's memory. Made by `precopy_memory_new`, freed by `precopy_memory_free`.
 */
typedef struct precopy_memory precopy_memory;

/**
 * A destination that listens. Made by `precopy_receiver_new`, freed by `precopy_receiver_free`.
 */
typedef struct precopy_receiver precopy_receiver;

/**
 * What happened in a migration, as this side saw it. Freed by `precopy_report_free`.
 */
typedef struct precopy_report precopy_report;

/**
 * Where `export_state` writes to. Lives as long as that call.
 */
typedef struct precopy_state_sink precopy_state_sink;

/**
 * Takes a line of the library's log: `level` is 1 for an error to 5 for a trace. Called from any
 * thread, from several at a time.
 */
typedef void (*precopy_log_fn)(void *user, int level, const char *text);

/**
 * One contiguous piece of guest-physical memory.
 */
typedef struct precopy_region {
    /**
     * Guest-physical address of the first byte; a multiple of the page size.
     */
    uint64_t guest_address;
    /**
     * Bytes; a multiple of the page size.
     */
    uint64_t length;
    /**
     * Where this process has it mapped: a multiple of the page size, and of 2 MiB for huge pages.
     * NULL with `PRECOPY_REGION_FILE`: the library maps the file itself. It then sees none of the
     * VMM's writes; mark them, or bring a dirty log.
     */
    void *host;
    /**
     * With `PRECOPY_REGION_FILE`, the memfd or the file in /dev/shm that the memory is, open for
     * reading and writing. The library opens it anew; the descriptor stays the caller's. Shared
     * memory needs it for `PRECOPY_TRACK_KERNEL`.
     */
    int fd;
    /**
     * `PRECOPY_REGION_FILE`, or 0.
     */
    uint32_t flags;
    /**
     * With `PRECOPY_REGION_FILE`, where in the file the region starts.
     */
    uint64_t file_offset;
} precopy_region;

/**
 * A range of guest-physical memory.
 */
typedef struct precopy_range {
    /**
     * Address of the first byte.
     */
    uint64_t guest_address;
    /**
     * Bytes.
     */
    uint64_t length;
} precopy_range;

/**
 * A dirty log of the VMM's own, such as KVM's. Set `size`, `harvest`, and what else there is.
 *
 * Results, `why`, and threads are as for `precopy_guest`; the functions are called at a source.
 */
typedef struct precopy_dirty_log {
    /**
     * `sizeof(precopy_dirty_log)`.
     */
    size_t size;
    /**
     * Handed to every function.
     */
    void *user;
    /**
     * Optional. Starts to record: from its return on every write to the guest's memory is.
     */
    int (*start)(void *user, char *why, size_t why_size);
    /**
     * Marks every page that was written since the last harvest (or the start) in `into`, by
     * `precopy_dirty_set_mark` or `precopy_dirty_set_bitmap`; forgets them; and records writes to
     * them anew before it returns. Too many are harmless, one too few corrupts the guest.
     */
    int (*harvest)(void *user, struct precopy_dirty_set *into, char *why, size_t why_size);
    /**
     * Optional. Ends recording.
     */
    int (*stop)(void *user, char *why, size_t why_size);
    /**
     * Optional. An attempt failed, and what was harvested in this range is still to be recorded,
     * for whoever else relies on the log. Migrations do not: each begins with all memory.
     */
    int (*give_back)(void *user, struct precopy_range range, char *why, size_t why_size);
} precopy_dirty_log;

/**
 * How far a migration is.
 */
typedef struct precopy_progress {
    /**
     * `sizeof(precopy_progress)` of the library.
     */
    size_t size;
    /**
     * Time since the attempt began, in nanoseconds.
     */
    uint64_t at_ns;
    /**
     * The round in progress; 0 at a destination.
     */
    uint32_t round;
    /**
     * 0 at the source, 1 at the destination.
     */
    uint32_t at_destination;
    /**
     * Pages of the guest; 0 at a destination.
     */
    uint64_t total_pages;
    /**
     * Pages sent, or at a destination received, zero pages included.
     */
    uint64_t moved_pages;
    /**
     * Pages still owed in this round; 0 at a destination.
     */
    uint64_t residual_pages;
    /**
     * Bytes on the wire so far.
     */
    uint64_t wire_bytes;
    /**
     * Bytes per second since the call before; 0 at a destination.
     */
    double bandwidth_bytes_per_s;
    /**
     * Pages that the guest dirtied per second before the last harvest; below 0 if nobody knows.
     */
    double dirty_pages_per_s;
} precopy_progress;

/**
 * Looks on. Set `size` and what is wanted. Called on the thread of the migration, which waits.
 */
typedef struct precopy_observer {
    /**
     * `sizeof(precopy_observer)`.
     */
    size_t size;
    /**
     * Handed to every function.
     */
    void *user;
    /**
     * Optional. About ten times a second.
     */
    void (*progress)(void *user, const struct precopy_progress *progress);
    /**
     * Optional. Phases, rounds, decisions: one JSON object, which lives as long as the call.
     */
    void (*event)(void *user, const char *json);
} precopy_observer;

/**
 * How to migrate. Clear it, then set `size`, `destination` and what else is wanted: 0 and NULL
 * stand for the defaults.
 */
typedef struct precopy_source_options {
    /**
     * `sizeof(precopy_source_options)`.
     */
    size_t size;
    /**
     * Where to, `host:port`. Not optional.
     */
    const char *destination;
    /**
     * When to stop and copy, and more: `qemu` (the default), `xen`, `qemu:downtime_ms=50`,
     * `qemu+cold-first+auto-converge`. The list: `precopy policies`.
     */
    const char *strategy;
    /**
     * How pages travel: `raw` (the default), `lz4`.
     */
    const char *encoder;
    /**
     * Describes the guest to the destination's `create`, at most 1 KiB.
     */
    const char *guest;
    /**
     * Names the attempt, 32 hexadecimal digits: to be kept before, in case this process dies in
     * doubt. A random one by default.
     */
    const char *migration_id;
    /**
     * Which tracker of the kernel's: `auto` (the default) or `pagemap`, `pagemap-user`; or
     * `mprotect`, which handles SIGSEGV for the whole process, and under which system calls and
     * KVM fail to write guest memory.
     */
    const char *tracker;
    /**
     * The VMM's own record, for `PRECOPY_TRACK_CALLBACK`.
     */
    const struct precopy_dirty_log *dirty_log;
    /**
     * Stops the attempt, or NULL.
     */
    struct precopy_cancel_token *cancel;
    /**
     * Looks on, or NULL.
     */
    const struct precopy_observer *observer;
    /**
     * Who knows what the guest writes: any of `PRECOPY_TRACK_*` together; a page is dirty if one
     * of them says so. 0: `PRECOPY_TRACK_KERNEL`.
     */
    uint32_t tracking;
    /**
     * Any of `PRECOPY_SEND_*`.
     */
    uint32_t flags;
    /**
     * TCP connections, 1 (the default) to 64.
     */
    uint32_t channels;
    /**
     * Live rounds at most; 1000 by default.
     */
    uint32_t max_rounds;
    /**
     * Time at most from the first page; no limit by default.
     */
    uint64_t max_time_ms;
    /**
     * Most bytes per second over all channels together; no limit by default.
     */
    uint64_t bandwidth_cap_bytes_per_s;
    /**
     * Downtime that strategies aim at; 300 by default.
     */
    uint64_t downtime_limit_ms;
    /**
     * Time after the first page by which you want to be done; strategies look at it.
     */
    uint64_t deadline_ms;
    /**
     * How long to watch the guest's writes before the first page.
     */
    uint64_t preflight_ms;
    /**
     * Longest time for one connection to be made; 5,000 by default.
     */
    uint64_t connect_timeout_ms;
    /**
     * Longest time until the destination is ready for pages; 30,000 by default.
     */
    uint64_t negotiate_timeout_ms;
    /**
     * Longest time without any progress; 10,000 by default.
     */
    uint64_t stall_timeout_ms;
    /**
     * Longest time from the last page to the destination's word that it is ready; 60,000 by
     * default.
     */
    uint64_t ready_timeout_ms;
    /**
     * Longest wait for the answer to Commit before the destination is asked anew; 10,000 by
     * default.
     */
    uint64_t commit_timeout_ms;
    /**
     * How long to go on asking; 30,000 by default.
     */
    uint64_t query_timeout_ms;
} precopy_source_options;

/**
 * Control over a guest's vCPUs and devices. Set `size` and everything that is not optional.
 *
 * Each function returns 0 if it did what was asked, and anything else if not; then it may write
 * why, in UTF-8, to `why`, which holds `why_size` bytes with the final 0. `user` is passed on as
 * it is. All are called on the thread that called `precopy_send` or `precopy_receiver_run`, one
 * at a time, and must return: nothing else happens meanwhile. They must not throw exceptions,
 * longjmp, or end the thread.
 */
typedef struct precopy_guest {
    /**
     * `sizeof(precopy_guest)`.
     */
    size_t size;
    /**
     * Handed to every function.
     */
    void *user;
    /**
     * Stops every vCPU and every device that writes guest memory. When it returns, no write is
     * under way or will follow. Pausing a paused guest does nothing. If it fails, the guest must
     * still run, or be able to resume.
     */
    int (*pause)(void *user, char *why, size_t why_size);
    /**
     * Lets the vCPUs run, from where they were paused or from the imported state. Resuming a
     * running guest does nothing.
     */
    int (*resume)(void *user, char *why, size_t why_size);
    /**
     * The state of vCPUs and devices, while paused, written by `precopy_state_write`. Only called
     * at a source.
     */
    int (*export_state)(void *user, struct precopy_state_sink *into, char *why, size_t why_size);
    /**
     * Takes over the state, while paused and before the first resume. Only called at a
     * destination.
     */
    int (*import_state)(void *user, const void *state, size_t length, char *why, size_t why_size);
    /**
     * Optional. Holds the vCPUs for this share of the time, 0 to 99 percent.
     */
    int (*throttle)(void *user, uint32_t percent, char *why, size_t why_size);
    /**
     * Optional. Whether the guest runs at this moment: not 0 if so. Without it the library takes
     * it to run at a source, and remembers what it asked for.
     */
    int (*is_running)(void *user);
} precopy_guest;

/**
 * Where to listen. Clear it, then set `size`, `listen` and what else is wanted.
 */
typedef struct precopy_receiver_options {
    /**
     * `sizeof(precopy_receiver_options)`.
     */
    size_t size;
    /**
     * An address of this host, `address:port`; port 0 for one of the system's choice. Not
     * optional.
     */
    const char *listen;
    /**
     * A file in which outcomes are written down, so that a destination that is started again can
     * say what became of a Commit in doubt. Without one it does not know.
     */
    const char *journal;
    /**
     * Any of `PRECOPY_LISTEN_*`.
     */
    uint32_t flags;
    /**
     * Most connections of one migration; 64 by default.
     */
    uint32_t channels_max;
    /**
     * Largest guest that is taken, in bytes; no limit by default.
     */
    uint64_t memory_bytes_max;
    /**
     * Largest state that is taken, in bytes; 256 MiB by default, and at most.
     */
    uint64_t state_bytes_max;
    /**
     * Longest time without a word from the source; 15,000 by default.
     */
    uint64_t stall_timeout_ms;
    /**
     * Longest time from Ready to Commit; 30,000 by default.
     */
    uint64_t commit_timeout_ms;
} precopy_receiver_options;

/**
 * A guest that a source wants to send here. It lives as long as the call of `create`.
 */
typedef struct precopy_request {
    /**
     * `sizeof(precopy_request)` of the library.
     */
    size_t size;
    /**
     * Names the attempt.
     */
    const char *migration_id;
    /**
     * The source's description of the guest; not to be trusted.
     */
    const char *guest;
    /**
     * The guest's memory map, sorted.
     */
    const struct precopy_range *ranges;
    /**
     * How many ranges.
     */
    size_t range_count;
    /**
     * Bytes of a page.
     */
    uint32_t page_bytes;
} precopy_request;

/**
 * What receives guests. Set `size` and `create`.
 */
typedef struct precopy_destination {
    /**
     * `sizeof(precopy_destination)`.
     */
    size_t size;
    /**
     * Handed to `create`.
     */
    void *user;
    /**
     * Creates the guest that a source describes, paused, with memory of exactly those ranges and
     * pages. `memory` and `guest` are for the answer: the handle stays the caller's, to be freed
     * after `precopy_receiver_run`; what `guest` points to is copied when `create` returns. To
     * refuse, it returns something else than 0 and says why: the source is told. If the guest
     * is not taken over in the end, `precopy_receiver_run` says so, and the VMM takes it down.
     */
    int (*create)(void *user,
                  const struct precopy_request *request,
                  struct precopy_memory **memory,
                  const struct precopy_guest **guest,
                  char *why,
                  size_t why_size);
    /**
     * Ends the wait or the attempt, or NULL.
     */
    struct precopy_cancel_token *cancel;
    /**
     * Looks on, or NULL.
     */
    const struct precopy_observer *observer;
} precopy_destination;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of this interface that the library has: `PRECOPY_ABI_VERSION` when it was built.
 *
 * Threads: any.
 */
uint32_t precopy_abi_version(void);

/**
 * Whether a program that was built with this header's `PRECOPY_ABI_VERSION` can use the library:
 * `PRECOPY_OK`, or `PRECOPY_ERROR_ABI`. Call it first.
 *
 * Threads: any.
 */
precopy_status precopy_check_abi(uint32_t abi_version, struct precopy_error **error);

/**
 * The version of the library, such as `0.1.0`.
 *
 * Threads: any.
 */
const char *precopy_version(void);

/**
 * What a status means, in a few words. Never NULL.
 *
 * Threads: any.
 */
const char *precopy_status_text(int32_t status);

/**
 * The status of an error; `PRECOPY_OK` for NULL, `PRECOPY_ERROR_HANDLE` for what is none.
 *
 * Threads: any.
 */
precopy_status precopy_error_status(const struct precopy_error *error);

/**
 * What happened, where, and what to do next: UTF-8, one line. Lives until the error is freed;
 * empty for NULL and for what is no error. Never NULL.
 *
 * Threads: any.
 */
const char *precopy_error_message(const struct precopy_error *error);

/**
 * Whether the guest may run at the side that got the error.
 *
 * Threads: any.
 */
precopy_runs_here precopy_error_runs_here(const struct precopy_error *error);

/**
 * Frees an error. NULL is no error, and is fine.
 *
 * Threads: any, once nobody reads its message.
 */
precopy_status precopy_error_free(struct precopy_error *error);

/**
 * Frees a text that the library handed out to be freed. NULL is fine.
 *
 * Threads: any.
 */
precopy_status precopy_string_free(const char *string);

/**
 * Whether the guest may run at the side that has the report.
 *
 * Threads: any.
 */
precopy_runs_here precopy_report_runs_here(const struct precopy_report *report);

/**
 * The name of the attempt, for `precopy_ask`. Lives until the report is freed; empty for what is
 * no report. Never NULL.
 *
 * Threads: any.
 */
const char *precopy_report_migration_id(const struct precopy_report *report);

/**
 * Everything about the attempt, as one JSON object: rounds, decisions, downtime by part. `json`
 * gets a text that `precopy_string_free` frees.
 *
 * Threads: any.
 */
precopy_status precopy_report_json(const struct precopy_report *report,
                                   const char **json,
                                   struct precopy_error **error);

/**
 * Frees a report. NULL is fine.
 *
 * Threads: any, once nobody reads its name.
 */
precopy_status precopy_report_free(struct precopy_report *report);

/**
 * Makes a token by which any number of migrations can be cancelled.
 *
 * Threads: any.
 */
precopy_status precopy_cancel_token_new(struct precopy_cancel_token **token,
                                        struct precopy_error **error);

/**
 * Asks every migration that has this token to stop, now and later; it cannot be taken back. At a
 * source the guest then runs on, unless the migration had gone too far: its call says. NULL is
 * fine.
 *
 * Threads: any, and signal handlers: it takes no lock, allocates nothing and leaves errno alone.
 * So it cannot check that the token is one, and not freed yet.
 */
void precopy_cancel(struct precopy_cancel_token *token);

/**
 * Frees a token. A migration that has it goes on and can no longer be cancelled. NULL is fine.
 *
 * Threads: any, once no signal handler and no other thread can hand it to `precopy_cancel`.
 */
precopy_status precopy_cancel_token_free(struct precopy_cancel_token *token);

/**
 * Hands the library's log to a function, from the serious to lines of `level`: 1 errors, 2
 * warnings, 3 information, 4 debugging, 5 everything. NULL ends it; when that returns, no thread
 * is in the function any more. One log for the whole process.
 *
 * Threads: any, but not from within the function itself.
 */
precopy_status precopy_set_log(precopy_log_fn log,
                               void *user,
                               int level,
                               struct precopy_error **error);

/**
 * Describes a guest's memory: `count` regions, sorted by guest address, each `region_size` =
 * `sizeof(precopy_region)` bytes long, in pages of `page_bytes` (0: 4096). Host addresses are
 * looked up in /proc/self/maps. They must stay mapped, and be the same memory, until the handle
 * is freed and no migration uses it.
 *
 * Threads: any.
 */
precopy_status precopy_memory_new(const struct precopy_region *regions,
                                  size_t count,
                                  size_t region_size,
                                  uint32_t page_bytes,
                                  struct precopy_memory **memory,
                                  struct precopy_error **error);

/**
 * Frees a description of memory; the memory itself is the VMM's. NULL is fine.
 *
 * Threads: any, once no thread can hand it to `precopy_mark_dirty`.
 */
precopy_status precopy_memory_free(struct precopy_memory *memory);

/**
 * Marks what was written, for `PRECOPY_TRACK_MARKED`: call it after the write, and before the
 * write's effects can be seen elsewhere (a vCPU that is told of them, a device that answers).
 * Marking before the write loses it. Marks count at all times; those from before a migration
 * change nothing. `PRECOPY_ERROR_ARGUMENT` if a part of the range is no guest memory; the rest is
 * marked all the same.
 *
 * Threads: any, at any time; it takes no lock, allocates nothing and does no system call. So it
 * cannot check that the handle is one, and not freed yet.
 */
precopy_status precopy_mark_dirty(struct precopy_memory *memory,
                                  uint64_t guest_address,
                                  uint64_t length);

/**
 * Appends to the guest's state, from within `export_state`, as often as is convenient; 256 MiB in
 * all. Returns `PRECOPY_ERROR_HANDLE` outside of that call.
 *
 * Threads: any, while `export_state` has not returned.
 */
precopy_status precopy_state_write(struct precopy_state_sink *into,
                                   const void *state,
                                   size_t length);

/**
 * Marks the pages of a range, from within `harvest`. `PRECOPY_ERROR_ARGUMENT` if a part of it is
 * no guest memory; the rest is marked all the same. `PRECOPY_ERROR_HANDLE` outside of that call.
 *
 * Threads: any, while `harvest` has not returned.
 */
precopy_status precopy_dirty_set_mark(struct precopy_dirty_set *into,
                                      uint64_t guest_address,
                                      uint64_t length);

/**
 * Marks the pages whose bits are set in `bits`, from within `harvest`: bit i % 64 of word i / 64
 * is the i-th page from `guest_address` on, as KVM_GET_DIRTY_LOG has it on little-endian machines.
 * All `pages` pages must lie in one region.
 *
 * Threads: any, while `harvest` has not returned.
 */
precopy_status precopy_dirty_set_bitmap(struct precopy_dirty_set *into,
                                        uint64_t guest_address,
                                        const uint64_t *bits,
                                        uint64_t pages);

/**
 * Migrates a running guest. Returns once the outcome is decided and every thread that it started
 * has ended.
 *
 * `PRECOPY_OK`: the destination runs the guest. Anything else leaves the guest at the source, but
 * for `PRECOPY_ERROR_IN_DOUBT` and `PRECOPY_ERROR_INTERNAL`: then it may run at the destination,
 * is paused here, and must stay so until `precopy_ask` knows. `report` (if it is not NULL) gets a
 * report whenever an attempt began, and NULL otherwise; `error` (likewise) what went wrong, or
 * NULL.
 *
 * Threads: any; the guest's functions are called on this one. Two migrations at a time may not
 * have the same memory.
 */
precopy_status precopy_send(const struct precopy_source_options *options,
                            struct precopy_memory *memory,
                            const struct precopy_guest *guest,
                            struct precopy_report **report,
                            struct precopy_error **error);

/**
 * Asks a destination what became of a migration, again and again for up to `timeout_ms` (0:
 * 30,000), after `PRECOPY_ERROR_IN_DOUBT` or when a source was started again. `runs_here` gets
 * whether the guest may run at the source: yes is the destination's promise that it never will
 * there; no, that it does; unknown, that it has no record (another host, or no journal): keep the
 * guest paused.
 *
 * `PRECOPY_ERROR_UNANSWERED` if nobody answered: keep the guest paused, and ask again.
 *
 * Threads: any.
 */
precopy_status precopy_ask(const char *destination,
                           const char *migration_id,
                           uint64_t timeout_ms,
                           precopy_runs_here *runs_here,
                           struct precopy_error **error);

/**
 * Starts to listen. As long as the receiver lives, it also answers what became of past
 * migrations: keep it for a while after a takeover, in case the source missed the answer.
 *
 * Threads: any. The receiver has threads of its own until it is freed.
 */
precopy_status precopy_receiver_new(const struct precopy_receiver_options *options,
                                    struct precopy_receiver **receiver,
                                    struct precopy_error **error);

/**
 * Where it listens, `address:port`. Lives until the receiver is freed; empty for what is none.
 * Never NULL.
 *
 * Threads: any.
 */
const char *precopy_receiver_address(const struct precopy_receiver *receiver);

/**
 * Waits for a source and takes its guest over. Returns once the outcome is decided.
 *
 * `PRECOPY_OK`: the guest runs here (or is paused, as it was at the source). Anything else: it
 * does not, and that attempt's never will. Then, and after a takeover, it may be called again for
 * the next one. Sources that come meanwhile are told that the destination is busy. `report` (if
 * it is not NULL) gets a report whenever a source came, and NULL otherwise; `error` (likewise)
 * what went wrong, or NULL.
 *
 * Threads: any, one at a time; the functions of `destination` and of the guest that it creates
 * are called on this one.
 */
precopy_status precopy_receiver_run(struct precopy_receiver *receiver,
                                    const struct precopy_destination *destination,
                                    struct precopy_report **report,
                                    struct precopy_error **error);

/**
 * Stops listening and frees the receiver. NULL is fine.
 *
 * Threads: any. While another thread runs the receiver, it goes on until that returns.
 */
precopy_status precopy_receiver_free(struct precopy_receiver *receiver);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* PRECOPY_H */
