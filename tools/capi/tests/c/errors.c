/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Everything that goes wrong, seen from C: arguments, handles, memory, callbacks that fail, peers
 * that die, cancelling. Prints a line for each case; exits with 1 at the first that is not as it
 * should be.
 *
 *   errors [CASE]
 */
#define _GNU_SOURCE
#include <precopy.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 512 };
/* Longer than any thread stands still, also under valgrind on a busy machine. */
enum { PATIENCE_MS = 60000 };

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s is not so: ", __FILE__, __LINE__, #condition);              \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Checks status and a part of the message, and frees the error. */
static void expect(int line, precopy_status status, precopy_status wanted, precopy_error *error,
                   const char *part) {
    const char *message = precopy_error_message(error);
    if (status != wanted || precopy_error_status(error) != wanted || strstr(message, part) == NULL) {
        fprintf(stderr, "line %d: status %d for %d, and \"%s\" for \"%s\"\n", line, (int)status,
                (int)wanted, message, part);
        exit(1);
    }
    CHECK(precopy_error_free(error) == PRECOPY_OK, "line %d", line);
}
/* The call in `call` sets `error`, so it comes first. */
#define EXPECT(call, wanted, part)                                                                 \
    do {                                                                                           \
        precopy_status got = (call);                                                               \
        expect(__LINE__, got, (wanted), error, (part));                                            \
    } while (0)

static void sleep_ms(long ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* ---- A guest without vCPUs, whose functions can be told to fail. ---- */

struct vm {
    unsigned char *host;
    precopy_memory *memory;
    bool running;
    int pauses, resumes, imports;
    const char *fail; /* Name of the function that fails. */
    bool die_at_resume;
    unsigned char state[100];
};

static struct vm vm_new(void) {
    struct vm vm = {0};
    vm.host = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(vm.host != MAP_FAILED, "mmap");
    precopy_region region = {.guest_address = 0x100000, .length = PAGES * PAGE, .host = vm.host};
    CHECK(precopy_memory_new(&region, 1, sizeof region, 0, &vm.memory, NULL) == PRECOPY_OK, "new");
    return vm;
}

static void vm_free(struct vm *vm) {
    CHECK(precopy_memory_free(vm->memory) == PRECOPY_OK, "free");
    munmap(vm->host, PAGES * PAGE);
}

static void fill(struct vm *vm) {
    for (size_t i = 0; i < PAGES * PAGE; i += 512)
        vm->host[i] = (unsigned char)(i / 512 % 251 + 1);
    for (size_t i = 0; i < sizeof vm->state; i++)
        vm->state[i] = (unsigned char)i;
}

static bool same(const struct vm *a, const struct vm *b) {
    return memcmp(a->host, b->host, PAGES * PAGE) == 0 &&
           memcmp(a->state, b->state, sizeof a->state) == 0;
}

static int fails(struct vm *vm, const char *name, char *why, size_t why_size) {
    if (vm->fail == NULL || strcmp(vm->fail, name) != 0)
        return 0;
    snprintf(why, why_size, "%s is out of order", name);
    return 1;
}

static int do_pause(void *user, char *why, size_t why_size) {
    struct vm *vm = user;
    if (fails(vm, "pause", why, why_size))
        return -5;
    vm->pauses++;
    vm->running = false;
    return 0;
}

static int do_resume(void *user, char *why, size_t why_size) {
    struct vm *vm = user;
    if (vm->die_at_resume)
        kill(getpid(), SIGKILL);
    if (fails(vm, "resume", why, why_size))
        return -1;
    vm->resumes++;
    vm->running = true;
    return 0;
}

static int do_export(void *user, precopy_state_sink *into, char *why, size_t why_size) {
    struct vm *vm = user;
    if (fails(vm, "export", why, why_size))
        return -1;
    /* In two parts. */
    if (precopy_state_write(into, vm->state, 40) || precopy_state_write(into, vm->state + 40, 60))
        return -1;
    CHECK(precopy_state_write(into, NULL, 0) == PRECOPY_OK, "nothing is fine");
    CHECK(precopy_state_write(into, NULL, 1) == PRECOPY_ERROR_ARGUMENT, "null");
    CHECK(precopy_state_write(into, vm->state, SIZE_MAX) == PRECOPY_ERROR_ARGUMENT, "length");
    return 0;
}

static int do_import(void *user, const void *state, size_t length, char *why, size_t why_size) {
    struct vm *vm = user;
    if (fails(vm, "import", why, why_size) || length != sizeof vm->state)
        return -1;
    memcpy(vm->state, state, length);
    vm->imports++;
    return 0;
}

static int is_running(void *user) { return ((struct vm *)user)->running; }

static precopy_guest guest_of(struct vm *vm) {
    return (precopy_guest){.size = sizeof(precopy_guest),
                           .user = vm,
                           .pause = do_pause,
                           .resume = do_resume,
                           .export_state = do_export,
                           .import_state = do_import,
                           .is_running = is_running};
}

/* ---- A destination in a thread. ---- */

struct side {
    struct vm vm;
    precopy_receiver *receiver;
    precopy_cancel_token *cancel;
    const char *refuse; /* Why `create` refuses, or NULL. */
    bool small;         /* `create` gives too little memory. */
    bool freed;         /* `create` gives a handle that was freed. */
    precopy_guest controls;
    pthread_t thread;
    precopy_status status;
    precopy_runs_here here;
    char message[500];
    bool reported;
};

static int create(void *user, const precopy_request *request, precopy_memory **memory,
                  const precopy_guest **guest, char *why, size_t why_size) {
    struct side *side = user;
    CHECK(request->range_count == 1 && request->page_bytes == PAGE, "the source's map");
    CHECK(request->ranges[0].guest_address == 0x100000, "the source's address");
    CHECK(strcmp(request->guest, "test guest") == 0, "%s", request->guest);
    CHECK(strlen(request->migration_id) == 32, "%s", request->migration_id);
    precopy_error *error;
    precopy_destination again = {.size = sizeof again, .user = side, .create = create};
    EXPECT(precopy_receiver_run(side->receiver, &again, NULL, &error), PRECOPY_ERROR_BUSY, "runs");
    if (side->refuse != NULL) {
        snprintf(why, why_size, "%s", side->refuse);
        return 1;
    }
    if (side->small) {
        precopy_memory_free(side->vm.memory);
        precopy_region region = {
            .guest_address = 0x100000, .length = PAGE, .host = side->vm.host};
        precopy_memory_new(&region, 1, sizeof region, 0, &side->vm.memory, NULL);
    }
    side->controls = guest_of(&side->vm);
    *memory = side->freed ? (precopy_memory *)(void *)side : side->vm.memory;
    *guest = &side->controls;
    return 0;
}

static struct side side_new(const char *listen, const char *journal) {
    struct side side = {.vm = vm_new()};
    precopy_receiver_options options = {
        .size = sizeof options, .listen = listen, .journal = journal};
    precopy_error *error;
    precopy_status status = precopy_receiver_new(&options, &side.receiver, &error);
    CHECK(status == PRECOPY_OK, "%s", precopy_error_message(error));
    CHECK(precopy_cancel_token_new(&side.cancel, NULL) == PRECOPY_OK, "token");
    return side;
}

static void *receive(void *argument) {
    struct side *side = argument;
    precopy_destination to = {
        .size = sizeof to, .user = side, .create = create, .cancel = side->cancel};
    precopy_report *report;
    precopy_error *error;
    side->status = precopy_receiver_run(side->receiver, &to, &report, &error);
    snprintf(side->message, sizeof side->message, "%s", precopy_error_message(error));
    side->here = error != NULL ? precopy_error_runs_here(error) : precopy_report_runs_here(report);
    side->reported = report != NULL;
    CHECK(precopy_report_free(report) == PRECOPY_OK && precopy_error_free(error) == PRECOPY_OK,
          "free");
    return NULL;
}

static void side_start(struct side *side) {
    CHECK(pthread_create(&side->thread, NULL, receive, side) == 0, "thread");
}

static void side_end(struct side *side, precopy_status status, const char *part) {
    pthread_join(side->thread, NULL);
    CHECK(side->status == status && strstr(side->message, part) != NULL, "%d, %s",
          (int)side->status, side->message);
    precopy_runs_here here = status == PRECOPY_OK ? PRECOPY_RUNS_HERE_YES : PRECOPY_RUNS_HERE_NO;
    CHECK(side->here == here, "%d", (int)side->here);
}

static void side_free(struct side *side) {
    CHECK(precopy_receiver_free(side->receiver) == PRECOPY_OK, "receiver");
    CHECK(precopy_cancel_token_free(side->cancel) == PRECOPY_OK, "token");
    vm_free(&side->vm);
}

static precopy_source_options to_address(const char *address) {
    return (precopy_source_options){.size = sizeof(precopy_source_options),
                                    .destination = address,
                                    .guest = "test guest",
                                    .tracking = PRECOPY_TRACK_MARKED,
                                    .stall_timeout_ms = PATIENCE_MS,
                                    .commit_timeout_ms = PATIENCE_MS,
                                    .query_timeout_ms = PATIENCE_MS};
}

static precopy_source_options to_side(const struct side *side) {
    return to_address(precopy_receiver_address(side->receiver));
}

/* Sends a guest; what is wanted of a source that keeps it. */
static void send_fails(int line, struct vm *vm, const precopy_source_options *options,
                       precopy_status wanted, const char *part, bool began) {
    precopy_guest guest = guest_of(vm);
    precopy_report *report;
    precopy_error *error;
    vm->running = true;
    precopy_status status = precopy_send(options, vm->memory, &guest, &report, &error);
    CHECK(precopy_error_runs_here(error) == PRECOPY_RUNS_HERE_YES, "line %d", line);
    CHECK((report != NULL) == began, "line %d: %s", line, precopy_error_message(error));
    if (began)
        CHECK(precopy_report_runs_here(report) == PRECOPY_RUNS_HERE_YES, "line %d", line);
    CHECK(vm->running, "line %d: the source goes on", line);
    expect(line, status, wanted, error, part);
    CHECK(precopy_report_free(report) == PRECOPY_OK, "line %d", line);
}
#define SEND_FAILS(vm, options, wanted, part, began)                                               \
    send_fails(__LINE__, (vm), (options), (wanted), (part), (began))

/* ---- The cases. ---- */

static void versions(void) {
    precopy_error *error;
    CHECK(precopy_abi_version() == PRECOPY_ABI_VERSION, "header and library");
    CHECK(precopy_check_abi(PRECOPY_ABI_VERSION, &error) == PRECOPY_OK && error == NULL, "abi");
    EXPECT(precopy_check_abi(999, &error), PRECOPY_ERROR_ABI, "version 999");
    CHECK(precopy_check_abi(0, NULL) == PRECOPY_ERROR_ABI, "no place for an error");
    CHECK(strchr(precopy_version(), '.') != NULL, "%s", precopy_version());
    for (int status = 0; status <= PRECOPY_ERROR_INTERNAL; status++)
        CHECK(strstr(precopy_status_text(status), "no status") == NULL, "%d", status);
    CHECK(strstr(precopy_status_text(99), "no status") != NULL, "99");
    CHECK(strstr(precopy_status_text(-1), "no status") != NULL, "-1");
}

static void arguments(void) {
    struct vm vm = vm_new();
    precopy_guest guest = guest_of(&vm);
    precopy_report *report;
    precopy_error *error;
#define TRY(change, part)                                                                          \
    do {                                                                                           \
        precopy_source_options o = to_address("127.0.0.1:1");                                      \
        precopy_guest g = guest;                                                                   \
        change;                                                                                    \
        EXPECT(precopy_send(&o, vm.memory, &g, &report, &error), PRECOPY_ERROR_ARGUMENT, part);     \
        CHECK(report == NULL && vm.pauses == 0, part);                                             \
    } while (0)
    TRY(o.size = 0, "size is 0");
    TRY(o.size = 100000, "sizeof(precopy_source_options)");
    TRY(o.destination = NULL, "destination is NULL");
    TRY(o.destination = "", "destination is NULL or empty");
    TRY(o.destination = "\xff\xfe", "destination is not UTF-8");
    TRY(o.strategy = "no-such", "no-such");
    TRY(o.strategy = "qemu:downtime_ms=x", "strategy");
    TRY(o.encoder = "zip", "zip");
    TRY(o.migration_id = "not hex", "migration id");
    TRY(o.channels = 65, "65 channels");
    TRY(o.channels = 1000, "255 channels");
    TRY(o.flags = 1u << 30, "flags 0x40000000");
    TRY(o.tracking = 64, "tracking 0x40");
    TRY(o.tracking = PRECOPY_TRACK_CALLBACK, "dirty_log");
    TRY(precopy_dirty_log log = {.size = sizeof log}; o.dirty_log = &log, "harvest");
    TRY(g.size = 8, "precopy_guest.size");
    TRY(g.pause = NULL, "pause is NULL");
    TRY(g.resume = NULL, "resume is NULL");
    TRY(g.export_state = NULL, "export_state is NULL");
    char long_text[5000];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    TRY(o.guest = long_text, "longer than");
    long_text[2000] = 0;
    TRY(o.guest = long_text, "1 KiB");
#undef TRY
    precopy_source_options options = to_address("127.0.0.1:1");
    EXPECT(precopy_send(NULL, vm.memory, &guest, NULL, &error), PRECOPY_ERROR_ARGUMENT, "NULL");
    EXPECT(precopy_send(&options, vm.memory, NULL, NULL, &error), PRECOPY_ERROR_ARGUMENT, "NULL");
    EXPECT(precopy_send(&options, NULL, &guest, NULL, &error), PRECOPY_ERROR_HANDLE, "memory");
    CHECK(precopy_send(NULL, NULL, NULL, NULL, NULL) == PRECOPY_ERROR_ARGUMENT, "all NULL");
    /* A struct of a later header, with and without a field that is not known here. */
    struct {
        precopy_source_options known;
        uint64_t later;
    } larger = {to_address("127.0.0.1:1"), 0};
    larger.known.size = sizeof larger;
    EXPECT(precopy_send(&larger.known, vm.memory, &guest, NULL, &error), PRECOPY_ERROR_CONNECT, "");
    larger.later = 1;
    EXPECT(precopy_send(&larger.known, vm.memory, &guest, NULL, &error), PRECOPY_ERROR_ARGUMENT,
           "older than the program's header");

    precopy_receiver *receiver = (precopy_receiver *)(void *)&vm;
    precopy_receiver_options listen = {.size = sizeof listen};
    EXPECT(precopy_receiver_new(&listen, &receiver, &error), PRECOPY_ERROR_ARGUMENT, "listen");
    CHECK(receiver == NULL, "cleared");
    listen.listen = "0.0.0.0:0";
    EXPECT(precopy_receiver_new(&listen, &receiver, &error), PRECOPY_ERROR_ARGUMENT, "WITHOUT_TLS");
    listen.listen = "nowhere";
    EXPECT(precopy_receiver_new(&listen, &receiver, &error), PRECOPY_ERROR_ARGUMENT, "nowhere");
    listen.listen = "127.0.0.1:0";
    listen.flags = 64;
    EXPECT(precopy_receiver_new(&listen, &receiver, &error), PRECOPY_ERROR_ARGUMENT, "flags");
    listen.flags = 0;
    listen.channels_max = 65;
    EXPECT(precopy_receiver_new(&listen, &receiver, &error), PRECOPY_ERROR_ARGUMENT, "channels");
    listen.channels_max = 0;
    listen.journal = "/no/such/folder/journal";
    EXPECT(precopy_receiver_new(&listen, &receiver, &error), PRECOPY_ERROR_JOURNAL, "journal");
    EXPECT(precopy_receiver_new(&listen, NULL, &error), PRECOPY_ERROR_ARGUMENT, "receiver is NULL");
    listen.journal = NULL;
    listen.flags = PRECOPY_LISTEN_REMOTE_WITHOUT_TLS;
    CHECK(precopy_receiver_new(&listen, &receiver, NULL) == PRECOPY_OK, "127.0.0.1");
    precopy_destination to = {.size = sizeof to};
    EXPECT(precopy_receiver_run(receiver, &to, &report, &error), PRECOPY_ERROR_ARGUMENT, "create");
    EXPECT(precopy_receiver_run(receiver, NULL, &report, &error), PRECOPY_ERROR_ARGUMENT, "NULL");
    precopy_receiver_free(receiver);
    EXPECT(precopy_report_json(NULL, NULL, &error), PRECOPY_ERROR_ARGUMENT, "json is NULL");
    EXPECT(precopy_cancel_token_new(NULL, &error), PRECOPY_ERROR_ARGUMENT, "token is NULL");
    EXPECT(precopy_set_log(NULL, NULL, 6, &error), PRECOPY_ERROR_ARGUMENT, "0 to 5");
    precopy_runs_here here;
    EXPECT(precopy_ask("127.0.0.1:1", "xyz", 100, &here, &error), PRECOPY_ERROR_ARGUMENT, "xyz");
    EXPECT(precopy_ask("127.0.0.1:1", "1", 100, NULL, &error), PRECOPY_ERROR_ARGUMENT, "runs_here");
    EXPECT(precopy_ask(NULL, "1", 100, &here, &error), PRECOPY_ERROR_ARGUMENT, "destination");
    vm_free(&vm);
}

static void memory(void) {
    precopy_memory *made;
    precopy_error *error;
    size_t bytes = 64 * PAGE;
    unsigned char *host = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = memfd_create("guest", MFD_CLOEXEC), pipes[2];
    CHECK(host != MAP_FAILED && fd >= 0 && ftruncate(fd, (off_t)bytes) == 0, "memory");
    CHECK(pipe(pipes) == 0, "pipe");
    unsigned char *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(shared != MAP_FAILED, "shared");
#define TRY(status, part, ...)                                                                     \
    do {                                                                                           \
        precopy_region r[] = {__VA_ARGS__};                                                        \
        size_t count = sizeof r / sizeof r[0];                                                     \
        EXPECT(precopy_memory_new(r, count, sizeof r[0], 0, &made, &error), status, part);         \
        CHECK(made == NULL, part);                                                                 \
    } while (0)
    const precopy_status bad = PRECOPY_ERROR_MEMORY;
    TRY(bad, "no pages", {.host = host});
    TRY(bad, "whole pages", {.host = host, .length = PAGE + 1});
    TRY(bad, "multiple of the page", {.host = host, .length = PAGE, .guest_address = 1});
    TRY(bad, "whole pages", {.host = host + 8, .length = PAGE});
    TRY(bad, "neither a host address nor a file", {.length = PAGE});
    TRY(bad, "past the last address", {.host = (void *)-PAGE, .length = 2 * PAGE});
    TRY(bad, "64-bit address space", {.host = host, .length = PAGE, .guest_address = (uint64_t)-PAGE});
    TRY(bad, "overlaps", {.host = host, .length = 2 * PAGE},
        {.host = host + 8 * PAGE, .length = PAGE, .guest_address = PAGE});
    TRY(bad, "out of order", {.host = host, .length = PAGE, .guest_address = 8 * PAGE},
        {.host = host + PAGE, .length = PAGE});
    TRY(bad, "same host memory", {.host = host, .length = 4 * PAGE},
        {.host = host + 3 * PAGE, .length = PAGE, .guest_address = 8 * PAGE});
    TRY(PRECOPY_ERROR_ARGUMENT, "flags", {.host = host, .length = PAGE, .flags = 2});
    TRY(bad, "descriptor 9999", {.flags = PRECOPY_REGION_FILE, .fd = 9999, .length = PAGE});
    TRY(bad, "no memfd", {.flags = PRECOPY_REGION_FILE, .fd = pipes[0], .length = PAGE});
    TRY(bad, "the file ends before", {.flags = PRECOPY_REGION_FILE, .fd = fd, .length = 65 * PAGE});
    TRY(bad, "same bytes of a file", {.flags = PRECOPY_REGION_FILE, .fd = fd, .length = 2 * PAGE},
        {.flags = PRECOPY_REGION_FILE, .fd = fd, .length = PAGE, .file_offset = PAGE,
         .guest_address = 8 * PAGE});
    TRY(bad, "is not its file",
        {.flags = PRECOPY_REGION_FILE, .fd = fd, .length = PAGE, .host = host});
    TRY(bad, "is not its file", {.flags = PRECOPY_REGION_FILE, .fd = fd, .length = PAGE,
                                 .host = shared, .file_offset = PAGE});
    mprotect(host + 4 * PAGE, PAGE, PROT_NONE);
    TRY(bad, "not readable", {.host = host, .length = 8 * PAGE});
    munmap(host + 4 * PAGE, PAGE);
    TRY(bad, "not mapped", {.host = host, .length = 8 * PAGE});
    precopy_region one = {.host = host, .length = PAGE};
    EXPECT(precopy_memory_new(&one, 1, sizeof one, 3000, &made, &error), PRECOPY_ERROR_ARGUMENT,
           "3000");
    EXPECT(precopy_memory_new(&one, 1, 8, 0, &made, &error), PRECOPY_ERROR_ARGUMENT, "region_size");
    EXPECT(precopy_memory_new(&one, 0, sizeof one, 0, &made, &error), PRECOPY_ERROR_ARGUMENT, "0 ");
    EXPECT(precopy_memory_new(&one, SIZE_MAX, sizeof one, 0, &made, &error), PRECOPY_ERROR_ARGUMENT,
           "regions");
    EXPECT(precopy_memory_new(NULL, 1, sizeof one, 0, &made, &error), PRECOPY_ERROR_ARGUMENT, "NULL");
    EXPECT(precopy_memory_new(&one, 1, sizeof one, 0, NULL, &error), PRECOPY_ERROR_ARGUMENT, "NULL");

    /* What the kernel cannot track. */
    struct vm vm = {0};
    precopy_guest guest = guest_of(&vm);
    precopy_source_options options = to_address("127.0.0.1:1");
    options.tracking = 0;
    precopy_region unmapped = {.flags = PRECOPY_REGION_FILE, .fd = fd, .length = bytes};
    CHECK(precopy_memory_new(&unmapped, 1, sizeof unmapped, 0, &made, NULL) == PRECOPY_OK, "file");
    EXPECT(precopy_send(&options, made, &guest, NULL, &error), PRECOPY_ERROR_TRACKING, "host address");
    precopy_memory_free(made);
    precopy_region unknown = {.host = shared, .length = bytes};
    CHECK(precopy_memory_new(&unknown, 1, sizeof unknown, 0, &made, NULL) == PRECOPY_OK, "shared");
    EXPECT(precopy_send(&options, made, &guest, NULL, &error), PRECOPY_ERROR_TRACKING, "");
    options.tracker = "no-such";
    EXPECT(precopy_send(&options, made, &guest, NULL, &error), PRECOPY_ERROR_TRACKING, "no-such");

    CHECK(precopy_mark_dirty(made, 0, bytes) == PRECOPY_OK, "all");
    CHECK(precopy_mark_dirty(made, 0, 0) == PRECOPY_OK, "nothing");
    CHECK(precopy_mark_dirty(made, 1, bytes) == PRECOPY_ERROR_ARGUMENT, "past the end");
    CHECK(precopy_mark_dirty(made, UINT64_MAX, UINT64_MAX) == PRECOPY_ERROR_ARGUMENT, "nowhere");
    CHECK(precopy_mark_dirty(NULL, 0, 1) == PRECOPY_ERROR_HANDLE, "null");
    precopy_memory_free(made);
#undef TRY
    close(pipes[0]), close(pipes[1]), close(fd);
    munmap(host, bytes), munmap(shared, bytes);
}

static void handles(void) {
    struct vm vm = vm_new();
    precopy_memory *memory_handle = vm.memory;
    precopy_error *error;
    precopy_cancel_token *token;
    CHECK(precopy_cancel_token_new(&token, NULL) == PRECOPY_OK, "token");
    /* Of another kind. */
    CHECK(precopy_memory_free((precopy_memory *)(void *)token) == PRECOPY_ERROR_HANDLE, "kind");
    CHECK(precopy_report_free((precopy_report *)(void *)token) == PRECOPY_ERROR_HANDLE, "kind");
    CHECK(precopy_receiver_free((precopy_receiver *)(void *)token) == PRECOPY_ERROR_HANDLE, "kind");
    CHECK(precopy_string_free("mine") == PRECOPY_ERROR_HANDLE, "a text of the program's");
    vm_free(&vm);
    /* Freed twice. */
    CHECK(precopy_memory_free(memory_handle) == PRECOPY_ERROR_HANDLE, "memory");
    CHECK(precopy_cancel_token_free(token) == PRECOPY_OK, "token");
    CHECK(precopy_cancel_token_free(token) == PRECOPY_ERROR_HANDLE, "token");
    CHECK(precopy_check_abi(0, &error) == PRECOPY_ERROR_ABI, "abi");
    CHECK(precopy_error_free(error) == PRECOPY_OK, "error");
    CHECK(precopy_error_free(error) == PRECOPY_ERROR_HANDLE, "error");
    CHECK(precopy_error_status(error) == PRECOPY_ERROR_HANDLE, "used after it was freed");
    CHECK(*precopy_error_message(error) == 0, "used after it was freed");
    /* Used after it was freed. */
    precopy_guest guest = guest_of(&vm);
    precopy_source_options options = to_address("127.0.0.1:1");
    EXPECT(precopy_send(&options, memory_handle, &guest, NULL, &error), PRECOPY_ERROR_HANDLE, "memory");
    vm = vm_new();
    options.cancel = token;
    EXPECT(precopy_send(&options, vm.memory, &guest, NULL, &error), PRECOPY_ERROR_HANDLE, "token");
    /* NULL. */
    CHECK(precopy_memory_free(NULL) == PRECOPY_OK && precopy_report_free(NULL) == PRECOPY_OK, "null");
    CHECK(precopy_receiver_free(NULL) == PRECOPY_OK && precopy_string_free(NULL) == PRECOPY_OK, "null");
    CHECK(precopy_error_free(NULL) == PRECOPY_OK && precopy_cancel_token_free(NULL) == PRECOPY_OK, "null");
    CHECK(precopy_error_status(NULL) == PRECOPY_OK && *precopy_error_message(NULL) == 0, "null");
    CHECK(precopy_report_runs_here(NULL) == PRECOPY_RUNS_HERE_UNKNOWN, "null");
    CHECK(*precopy_report_migration_id(NULL) == 0 && *precopy_receiver_address(NULL) == 0, "null");
    const char *json = "x";
    EXPECT(precopy_report_json(NULL, &json, &error), PRECOPY_ERROR_HANDLE, "report");
    CHECK(json == NULL, "cleared");
    precopy_cancel(NULL);
    /* Sinks outside of their calls. */
    CHECK(precopy_state_write(NULL, "x", 1) == PRECOPY_ERROR_HANDLE, "sink");
    CHECK(precopy_dirty_set_mark(NULL, 0, 1) == PRECOPY_ERROR_HANDLE, "set");
    uint64_t bits = 0;
    CHECK(precopy_dirty_set_bitmap(NULL, 0, &bits, 1) == PRECOPY_ERROR_HANDLE, "set");
    vm_free(&vm);
}

static atomic_int progress_seen, events_seen, lines_seen;

static void see_progress(void *user, const precopy_progress *seen) {
    CHECK(user == &progress_seen && seen->size >= sizeof *seen, "progress");
    progress_seen++;
}

static void see_event(void *user, const char *json) {
    CHECK(user == &progress_seen && json[0] == '{', "%s", json);
    events_seen++;
}

static void see_line(void *user, int level, const char *text) {
    CHECK(user == &lines_seen && level >= 1 && level <= 5 && *text != 0, "log");
    CHECK(precopy_set_log(NULL, NULL, 0, NULL) == PRECOPY_ERROR_BUSY, "from within");
    lines_seen++;
}

/* A migration that works, over memory at the destination that was used before. */
static void works(void) {
    struct side side = side_new("127.0.0.1:0", NULL);
    memset(side.vm.host, 0xee, 50 * PAGE);
    struct vm vm = vm_new();
    fill(&vm);
    memset(vm.host, 0, 20 * PAGE);
    side_start(&side);
    precopy_observer observer = {.size = sizeof observer,
                                 .user = &progress_seen,
                                 .progress = see_progress,
                                 .event = see_event};
    precopy_source_options options = to_side(&side);
    options.migration_id = "00000000000000000000000000000abc";
    options.observer = &observer;
    options.strategy = "fixed-rounds";
    options.channels = 3;
    options.flags = PRECOPY_SEND_VERIFY;
    options.bandwidth_cap_bytes_per_s = 4 << 20;
    precopy_guest guest = guest_of(&vm);
    precopy_report *report;
    precopy_error *error;
    vm.running = true;
    precopy_status status = precopy_send(&options, vm.memory, &guest, &report, &error);
    CHECK(status == PRECOPY_OK && error == NULL, "%s", precopy_error_message(error));
    CHECK(precopy_report_runs_here(report) == PRECOPY_RUNS_HERE_NO, "handed over");
    CHECK(strcmp(precopy_report_migration_id(report), options.migration_id) == 0, "id");
    const char *json;
    CHECK(precopy_report_json(report, &json, NULL) == PRECOPY_OK, "json");
    CHECK(strstr(json, "\"outcome\":\"handed_over\"") != NULL, "%s", json);
    CHECK(strstr(json, "\"verified\":true") != NULL, "%s", json);
    CHECK(precopy_string_free(json) == PRECOPY_OK, "string");
    CHECK(precopy_string_free(json) == PRECOPY_ERROR_HANDLE, "freed twice");
    CHECK(precopy_report_free(report) == PRECOPY_OK, "report");
    side_end(&side, PRECOPY_OK, "");
    CHECK(same(&vm, &side.vm) && side.vm.running && !vm.running, "the guest is there");
    CHECK(progress_seen > 0 && events_seen > 5, "%d, %d", progress_seen, events_seen);
    precopy_runs_here here;
    status = precopy_ask(options.destination, options.migration_id, PATIENCE_MS, &here, NULL);
    CHECK(status == PRECOPY_OK && here == PRECOPY_RUNS_HERE_NO, "%d", (int)here);
    status = precopy_ask(options.destination, "123", PATIENCE_MS, &here, NULL);
    CHECK(status == PRECOPY_OK && here == PRECOPY_RUNS_HERE_UNKNOWN, "%d", (int)here);
    side_free(&side);
    vm_free(&vm);
}

/* A guest that its user paused arrives paused. */
static void paused_guests_stay_paused(void) {
    struct side side = side_new("127.0.0.1:0", NULL);
    struct vm vm = vm_new();
    fill(&vm);
    side_start(&side);
    precopy_source_options options = to_side(&side);
    precopy_guest guest = guest_of(&vm);
    CHECK(precopy_send(&options, vm.memory, &guest, NULL, NULL) == PRECOPY_OK, "sent");
    side_end(&side, PRECOPY_OK, "");
    CHECK(same(&vm, &side.vm) && !side.vm.running && side.vm.resumes == 0, "paused");
    side_free(&side);
    vm_free(&vm);
}

/* From a memfd that the source has mapped, to one of which the library has only the descriptor. */
static void files(void) {
    const size_t bytes = 2 * PAGES * PAGE, half = bytes / 2;
    struct side side = {.vm = {.fail = NULL}};
    struct vm vm = {.running = true};
    struct vm *ends[2] = {&vm, &side.vm};
    int fds[2];
    for (int i = 0; i < 2; i++) {
        fds[i] = memfd_create("guest", MFD_CLOEXEC);
        CHECK(fds[i] >= 0 && ftruncate(fds[i], (off_t)bytes) == 0, "memfd");
        ends[i]->host = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
        CHECK(ends[i]->host != MAP_FAILED, "mmap");
        /* The second half only: the first must stay as it is. */
        precopy_region region = {.guest_address = 0x100000,
                                 .length = half,
                                 .flags = PRECOPY_REGION_FILE,
                                 .fd = fds[i],
                                 .file_offset = half};
        if (i == 0)
            region.host = ends[i]->host + half;
        precopy_error *error;
        precopy_memory_new(&region, 1, sizeof region, 0, &ends[i]->memory, &error);
        CHECK(error == NULL, "%s", precopy_error_message(error));
    }
    close(fds[0]), close(fds[1]);
    memset(vm.host, 1, bytes - 100 * PAGE);
    memset(side.vm.host, 2, bytes);
    precopy_receiver_options listen = {.size = sizeof listen, .listen = "127.0.0.1:0"};
    CHECK(precopy_receiver_new(&listen, &side.receiver, NULL) == PRECOPY_OK, "receiver");
    side_start(&side);
    precopy_source_options options = to_side(&side);
    precopy_guest guest = guest_of(&vm);
    CHECK(precopy_send(&options, vm.memory, &guest, NULL, NULL) == PRECOPY_OK, "sent");
    side_end(&side, PRECOPY_OK, "");
    CHECK(memcmp(vm.host + half, side.vm.host + half, half) == 0, "memory");
    for (size_t i = 0; i < half; i++)
        CHECK(side.vm.host[i] == 2, "byte %zu is not the guest's", i);
    precopy_receiver_free(side.receiver);
    for (int i = 0; i < 2; i++) {
        precopy_memory_free(ends[i]->memory);
        munmap(ends[i]->host, bytes);
    }
}

static void nobody_listens(void) {
    struct vm vm = vm_new();
    precopy_source_options options = to_address("127.0.0.1:1");
    SEND_FAILS(&vm, &options, PRECOPY_ERROR_CONNECT, "127.0.0.1:1", false);
    CHECK(vm.pauses == 0 && vm.resumes == 0, "not touched");
    precopy_error *error;
    precopy_runs_here here;
    EXPECT(precopy_ask("127.0.0.1:1", "1", 300, &here, &error), PRECOPY_ERROR_UNANSWERED, "ask again");
    CHECK(here == PRECOPY_RUNS_HERE_UNKNOWN, "nobody knows");
    vm_free(&vm);
}

/* The guest cannot be resumed at the destination, which says so: it goes on at the source. */
static void resume_fails(void) {
    struct side side = side_new("127.0.0.1:0", NULL);
    side.vm.fail = "resume";
    struct vm vm = vm_new();
    fill(&vm);
    side_start(&side);
    precopy_source_options options = to_side(&side);
    SEND_FAILS(&vm, &options, PRECOPY_ERROR_FAILED, "resume is out of order", true);
    side_end(&side, PRECOPY_ERROR_FAILED, "resume is out of order");
    CHECK(vm.resumes == 1 && !side.vm.running && side.vm.imports == 1, "%d", vm.resumes);
    side_free(&side);
    vm_free(&vm);
}

/* Functions that fail, each at its side. */
static void callbacks_fail(void) {
    struct vm vm = vm_new();
    fill(&vm);
    CHECK(precopy_set_log(see_line, &lines_seen, 5, NULL) == PRECOPY_OK, "log");
    struct {
        const char *source, *destination, *refuse, *part;
        bool small, freed;
    } cases[] = {
        {.source = "pause", .part = "pause is out of order"},
        {.source = "export", .part = "export is out of order"},
        {.destination = "import", .part = "import is out of order"},
        {.refuse = "no room here", .part = "no room here"},
        {.small = true, .part = "another map than the source's"},
        {.freed = true, .part = "memory handle that is none"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct side side = side_new("127.0.0.1:0", NULL);
        vm.fail = cases[i].source;
        side.vm.fail = cases[i].destination;
        side.refuse = cases[i].refuse;
        side.small = cases[i].small;
        side.freed = cases[i].freed;
        side_start(&side);
        precopy_source_options options = to_side(&side);
        SEND_FAILS(&vm, &options, PRECOPY_ERROR_FAILED, cases[i].part, true);
        /* Each side has the other's reason. */
        side_end(&side, PRECOPY_ERROR_FAILED, cases[i].part);
        CHECK(side.reported && !side.vm.running && side.vm.resumes == 0, "never there");
        side_free(&side);
    }
    CHECK(precopy_set_log(NULL, NULL, 0, NULL) == PRECOPY_OK && lines_seen > 0, "log");
    CHECK(vm.pauses == 2 && vm.resumes >= 2, "paused %d times, resumed %d times", vm.pauses, vm.resumes);
    vm_free(&vm);
}

static int gave_back, harvests, harvest_fails_at;

static int log_start(void *user, char *why, size_t why_size) {
    (void)user, (void)why, (void)why_size;
    harvests = gave_back = 0;
    return 0;
}

static int log_harvest(void *user, precopy_dirty_set *into, char *why, size_t why_size) {
    static uint64_t bits[PAGES / 64];
    struct vm *vm = user;
    CHECK(precopy_dirty_set_mark(into, 0x100000 + 7 * PAGE + 5, 1) == PRECOPY_OK, "mark");
    CHECK(precopy_dirty_set_mark(into, 0, PAGE) == PRECOPY_ERROR_ARGUMENT, "no guest memory");
    bits[1] = 2;
    CHECK(precopy_dirty_set_bitmap(into, 0x100000, bits, PAGES) == PRECOPY_OK, "bits");
    CHECK(precopy_dirty_set_bitmap(into, 0x100000, bits, PAGES + 1) == PRECOPY_ERROR_ARGUMENT, "bits");
    CHECK(precopy_dirty_set_bitmap(into, 0x100000, NULL, 1) == PRECOPY_ERROR_ARGUMENT, "null");
    vm->host[7 * PAGE]++;
    if (++harvests != harvest_fails_at)
        return 0;
    snprintf(why, why_size, "the log is full");
    return 1;
}

static int log_give_back(void *user, precopy_range range, char *why, size_t why_size) {
    (void)user, (void)why, (void)why_size;
    CHECK(range.guest_address >= 0x100000 && range.length >= PAGE, "range");
    gave_back++;
    return 0;
}

static void dirty_logs(void) {
    struct vm vm = vm_new();
    fill(&vm);
    precopy_dirty_log log = {.size = sizeof log, .user = &vm, .start = log_start,
                             .harvest = log_harvest, .stop = log_start, .give_back = log_give_back};
    log.stop = NULL;
    for (harvest_fails_at = 2; harvest_fails_at >= 0; harvest_fails_at -= 2) {
        struct side side = side_new("127.0.0.1:0", NULL);
        side_start(&side);
        precopy_source_options options = to_side(&side);
        options.tracking = PRECOPY_TRACK_CALLBACK | PRECOPY_TRACK_MARKED;
        options.dirty_log = &log;
        options.strategy = "fixed-rounds:rounds=3";
        if (harvest_fails_at > 0) {
            SEND_FAILS(&vm, &options, PRECOPY_ERROR_FAILED, "the log is full", true);
            side_end(&side, PRECOPY_ERROR_FAILED, "the log is full");
            CHECK(gave_back > 0, "what was harvested comes back");
        } else {
            precopy_guest guest = guest_of(&vm);
            CHECK(precopy_send(&options, vm.memory, &guest, NULL, NULL) == PRECOPY_OK, "sent");
            side_end(&side, PRECOPY_OK, "");
            CHECK(same(&vm, &side.vm) && harvests >= 2 && gave_back == 0, "%d harvests", harvests);
        }
        side_free(&side);
    }
    vm_free(&vm);
}

/* ---- Cancelling. ---- */

static precopy_cancel_token *shared_token;

static void on_alarm(int signal) {
    (void)signal;
    int before = errno;
    errno = 4321;
    precopy_cancel(shared_token);
    CHECK(errno == 4321, "errno");
    errno = before;
}

static void *cancel_soon(void *argument) {
    sleep_ms(150);
    precopy_cancel(argument);
    return NULL;
}

static void cancelled(void) {
    struct vm vm = vm_new();
    fill(&vm);
    /* Before, by another thread, by a signal. */
    for (int how = 0; how < 3; how++) {
        struct side side = side_new("127.0.0.1:0", NULL);
        side_start(&side);
        precopy_source_options options = to_side(&side);
        CHECK(precopy_cancel_token_new(&shared_token, NULL) == PRECOPY_OK, "token");
        options.cancel = shared_token;
        options.bandwidth_cap_bytes_per_s = 200 << 10;
        pthread_t thread;
        if (how == 0) {
            precopy_cancel(shared_token);
        } else if (how == 1) {
            CHECK(pthread_create(&thread, NULL, cancel_soon, shared_token) == 0, "thread");
        } else {
            signal(SIGALRM, on_alarm);
            struct itimerval timer = {.it_value = {.tv_usec = 150000}};
            setitimer(ITIMER_REAL, &timer, NULL);
        }
        SEND_FAILS(&vm, &options, PRECOPY_ERROR_CANCELLED, "", true);
        if (how == 1)
            pthread_join(thread, NULL);
        precopy_cancel(side.cancel);
        pthread_join(side.thread, NULL);
        CHECK(side.here == PRECOPY_RUNS_HERE_NO && !side.vm.running, "never there");
        CHECK(precopy_cancel_token_free(shared_token) == PRECOPY_OK, "token");
        side_free(&side);
    }
    /* A destination that waits. */
    struct side side = side_new("127.0.0.1:0", NULL);
    side_start(&side);
    precopy_cancel(side.cancel);
    side_end(&side, PRECOPY_ERROR_CANCELLED, "before a source came");
    CHECK(!side.reported, "nobody came");
    side_free(&side);
    vm_free(&vm);
}

static precopy_status nested;

static void send_again(void *user, const char *json) {
    (void)json;
    struct vm *vm = user;
    precopy_source_options options = to_address("127.0.0.1:1");
    precopy_guest guest = guest_of(vm);
    nested = precopy_send(&options, vm->memory, &guest, NULL, NULL);
}

static void memory_is_used_once(void) {
    struct side side = side_new("127.0.0.1:0", NULL);
    struct vm vm = vm_new();
    fill(&vm);
    side_start(&side);
    precopy_source_options options = to_side(&side);
    precopy_observer observer = {.size = sizeof observer, .user = &vm, .event = send_again};
    options.observer = &observer;
    precopy_guest guest = guest_of(&vm);
    CHECK(precopy_send(&options, vm.memory, &guest, NULL, NULL) == PRECOPY_OK, "sent");
    CHECK(nested == PRECOPY_ERROR_BUSY, "%d", (int)nested);
    side_end(&side, PRECOPY_OK, "");
    side_free(&side);
    vm_free(&vm);
}

/* ---- Destinations that die. ---- */

struct child {
    pid_t pid;
    char address[64];
};

/* A destination in a process of its own; no thread exists yet. */
static struct child child_new(bool die_at_resume, const char *journal) {
    struct child child = {0};
    int ends[2];
    CHECK(pipe(ends) == 0, "pipe");
    child.pid = fork();
    CHECK(child.pid >= 0, "fork");
    if (child.pid == 0) {
        struct side side = side_new("127.0.0.1:0", journal);
        side.vm.die_at_resume = die_at_resume;
        const char *address = precopy_receiver_address(side.receiver);
        CHECK(write(ends[1], address, strlen(address) + 1) > 0, "write");
        receive(&side);
        _exit(0);
    }
    close(ends[1]);
    CHECK(read(ends[0], child.address, sizeof child.address - 1) > 0, "read");
    close(ends[0]);
    return child;
}

/* Once pages have moved. */
static void kill_half_way(void *user, const precopy_progress *seen) {
    if (seen->moved_pages > 0)
        kill(*(pid_t *)user, SIGKILL);
}

static void destination_is_killed(void) {
    struct child child = child_new(false, NULL);
    struct vm vm = vm_new();
    fill(&vm);
    precopy_observer observer = {
        .size = sizeof observer, .user = &child.pid, .progress = kill_half_way};
    precopy_source_options options = to_address(child.address);
    options.bandwidth_cap_bytes_per_s = 200 << 10;
    options.observer = &observer;
    SEND_FAILS(&vm, &options, PRECOPY_ERROR_FAILED, "", true);
    waitpid(child.pid, NULL, 0);
    vm_free(&vm);
}

static void in_doubt(void) {
    char journal[] = "/tmp/precopy-journal-XXXXXX";
    int fd = mkstemp(journal);
    CHECK(fd >= 0, "journal");
    close(fd);
    unlink(journal);
    struct child child = child_new(true, journal);
    struct vm vm = vm_new();
    fill(&vm);
    precopy_source_options options = to_address(child.address);
    /* Nobody will answer. */
    options.query_timeout_ms = 700;
    precopy_guest guest = guest_of(&vm);
    precopy_report *report;
    precopy_error *error;
    vm.running = true;
    precopy_status status = precopy_send(&options, vm.memory, &guest, &report, &error);
    CHECK(precopy_error_runs_here(error) == PRECOPY_RUNS_HERE_UNKNOWN, "in doubt");
    CHECK(precopy_report_runs_here(report) == PRECOPY_RUNS_HERE_UNKNOWN, "in doubt");
    CHECK(!vm.running && vm.resumes == 0, "it stays paused");
    EXPECT(status, PRECOPY_ERROR_IN_DOUBT, "");
    waitpid(child.pid, NULL, 0);
    /* The destination comes back, and knows. */
    struct side again = side_new("127.0.0.1:0", journal);
    precopy_runs_here here;
    const char *id = precopy_report_migration_id(report);
    status = precopy_ask(precopy_receiver_address(again.receiver), id, PATIENCE_MS, &here, &error);
    CHECK(status == PRECOPY_OK && error == NULL && here == PRECOPY_RUNS_HERE_NO, "%d", (int)here);
    precopy_report_free(report);
    side_free(&again);
    vm_free(&vm);
    unlink(journal);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        /* Those that fork come first: later there have been threads. */
        {"destination_is_killed", destination_is_killed},
        {"in_doubt", in_doubt},
        {"versions", versions},
        {"arguments", arguments},
        {"memory", memory},
        {"handles", handles},
        {"works", works},
        {"paused_guests_stay_paused", paused_guests_stay_paused},
        {"files", files},
        {"nobody_listens", nobody_listens},
        {"resume_fails", resume_fails},
        {"callbacks_fail", callbacks_fail},
        {"dirty_logs", dirty_logs},
        {"cancelled", cancelled},
        {"memory_is_used_once", memory_is_used_once},
    };
    int ran = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (argc > 1 && strcmp(argv[1], cases[i].name) != 0)
            continue;
        struct timespec began, ended;
        clock_gettime(CLOCK_MONOTONIC, &began);
        cases[i].run();
        clock_gettime(CLOCK_MONOTONIC, &ended);
        double took = (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9;
        printf("ok %-25s %5.1f s\n", cases[i].name, took);
        fflush(stdout);
        ran++;
    }
    return ran > 0 ? 0 : 2;
}
