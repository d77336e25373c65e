/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A hypervisor in C that migrates its guest to another process, over TCP.
 *
 *   migrate [kernel|marked|callback] [memfd] [small]
 *
 * The guest has vCPU threads that count in guest memory; the words say who tracks their writes (the
 * kernel, unless told otherwise), and whether guest memory is a memfd. Two processes: the parent is
 * the source, the child the destination. Once the guest runs there, the child checks every page
 * against the vCPUs' registers: a write that was lost or done twice shows. Prints both reports.
 *
 *   cc -std=c11 migrate.c $(pkg-config --cflags --libs precopy) -pthread
 */
#define _GNU_SOURCE
#include <precopy.h>

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, VCPUS = 2, BATCH = 20 };

/* Two regions, as below and above the 32-bit PCI window. */
static const precopy_range MAP[2] = {{0, 4 << 20}, {UINT64_C(4) << 30, 60 << 20}};

static bool use_memfd, mark_writes, log_writes;
static unsigned pages_per_vcpu = 6000;

/* ---- The hypervisor: guest memory, vCPUs, pausing. ---- */

struct vm {
    unsigned char *host; /* Both regions, one after the other. */
    int fd;              /* Of the memfd, or -1. */
    precopy_memory *memory;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool running, quit;
    unsigned inside;         /* vCPUs that execute. */
    atomic_uint throttle;    /* Percent of the time in which they are held. */
    uint64_t count[VCPUS];   /* The vCPUs' registers. */
    pthread_t thread[VCPUS]; /* If started. */
    unsigned threads;
    _Atomic(uint64_t) *dirty; /* A dirty log of the VMM's own, one bit a page. */
};

struct vcpu {
    struct vm *vm;
    unsigned number;
};

static size_t memory_bytes(void) { return (size_t)(MAP[0].length + MAP[1].length); }

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* Where the guest's page number `page` is for the guest. */
static uint64_t guest_address(size_t page) {
    uint64_t offset = (uint64_t)page * PAGE;
    return offset < MAP[0].length ? offset : MAP[1].guest_address + (offset - MAP[0].length);
}

/* A vCPU writes page after page of its own, everywhere in memory, the number of its step. */
static size_t page_of(unsigned vcpu, uint64_t step) {
    uint64_t pages = memory_bytes() / PAGE;
    return (size_t)((step % pages_per_vcpu * VCPUS + vcpu) * 37 % pages);
}

static void step(struct vm *vm, unsigned vcpu) {
    uint64_t count = ++vm->count[vcpu];
    size_t page = page_of(vcpu, count);
    volatile uint64_t *word = (volatile uint64_t *)(void *)(vm->host + page * PAGE);
    word[0] = count;
    /* After the write; see precopy_mark_dirty. */
    if (mark_writes)
        precopy_mark_dirty(vm->memory, guest_address(page), sizeof word[0]);
    if (log_writes)
        atomic_fetch_or(&vm->dirty[page / 64], UINT64_C(1) << (page % 64));
}

static void *run_vcpu(void *argument) {
    struct vcpu self = *(struct vcpu *)argument;
    struct vm *vm = self.vm;
    free(argument);
    pthread_mutex_lock(&vm->lock);
    while (!vm->quit) {
        if (!vm->running) {
            pthread_cond_wait(&vm->changed, &vm->lock);
            continue;
        }
        vm->inside++;
        pthread_mutex_unlock(&vm->lock);
        for (int i = 0; i < BATCH; i++)
            step(vm, self.number);
        struct timespec pause = {0, 100000 + 10000 * (long)atomic_load(&vm->throttle)};
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&vm->lock);
        vm->inside--;
        pthread_cond_broadcast(&vm->changed);
    }
    pthread_mutex_unlock(&vm->lock);
    return NULL;
}

static void vm_set_running(struct vm *vm, bool running) {
    pthread_mutex_lock(&vm->lock);
    vm->running = running;
    pthread_cond_broadcast(&vm->changed);
    while (!running && vm->inside > 0)
        pthread_cond_wait(&vm->changed, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
}

static struct vm *vm_new(void) {
    struct vm *vm = calloc(1, sizeof *vm);
    if (vm == NULL)
        die("calloc");
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->changed, NULL);
    vm->fd = -1;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (use_memfd) {
        vm->fd = memfd_create("guest", MFD_CLOEXEC);
        if (vm->fd < 0 || ftruncate(vm->fd, (off_t)memory_bytes()) != 0)
            die("memfd");
        flags = MAP_SHARED;
    }
    vm->host = mmap(NULL, memory_bytes(), PROT_READ | PROT_WRITE, flags, vm->fd, 0);
    vm->dirty = calloc(memory_bytes() / PAGE / 64, sizeof *vm->dirty);
    if (vm->host == MAP_FAILED || vm->dirty == NULL)
        die("memory");

    precopy_region regions[2] = {{0}};
    for (size_t i = 0, offset = 0; i < 2; offset += MAP[i].length, i++) {
        regions[i].guest_address = MAP[i].guest_address;
        regions[i].length = MAP[i].length;
        regions[i].host = vm->host + offset;
        if (use_memfd) {
            regions[i].flags = PRECOPY_REGION_FILE;
            regions[i].fd = vm->fd;
            regions[i].file_offset = offset;
        }
    }
    precopy_error *error;
    if (precopy_memory_new(regions, 2, sizeof regions[0], PAGE, &vm->memory, &error)) {
        fprintf(stderr, "memory: %s\n", precopy_error_message(error));
        exit(1);
    }
    return vm;
}

static void vm_start(struct vm *vm) {
    for (; vm->threads < VCPUS; vm->threads++) {
        struct vcpu *vcpu = malloc(sizeof *vcpu);
        if (vcpu == NULL)
            die("malloc");
        *vcpu = (struct vcpu){vm, vm->threads};
        if (pthread_create(&vm->thread[vm->threads], NULL, run_vcpu, vcpu) != 0)
            die("pthread_create");
    }
}

static void vm_free(struct vm *vm) {
    vm_set_running(vm, false);
    pthread_mutex_lock(&vm->lock);
    vm->quit = true;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    while (vm->threads > 0)
        pthread_join(vm->thread[--vm->threads], NULL);
    precopy_memory_free(vm->memory);
    munmap(vm->host, memory_bytes());
    if (vm->fd >= 0)
        close(vm->fd);
    free(vm->dirty);
    pthread_mutex_destroy(&vm->lock);
    pthread_cond_destroy(&vm->changed);
    free(vm);
}

/* Pages that do not hold what the vCPUs' registers say. The guest is paused. */
static unsigned vm_audit(struct vm *vm) {
    unsigned wrong = 0;
    for (unsigned vcpu = 0; vcpu < VCPUS; vcpu++) {
        for (uint64_t slot = 0; slot < pages_per_vcpu; slot++) {
            uint64_t count = vm->count[vcpu], found;
            uint64_t past = (count % pages_per_vcpu + pages_per_vcpu - slot) % pages_per_vcpu;
            uint64_t wanted = count >= past ? count - past : 0;
            memcpy(&found, vm->host + page_of(vcpu, slot) * PAGE, sizeof found);
            wrong += found != wanted;
        }
    }
    return wrong;
}

/* ---- What precopy calls. ---- */

static int guest_pause(void *user, char *why, size_t why_size) {
    (void)why, (void)why_size;
    vm_set_running(user, false);
    return 0;
}

static int guest_resume(void *user, char *why, size_t why_size) {
    (void)why, (void)why_size;
    vm_start(user);
    vm_set_running(user, true);
    return 0;
}

static int guest_export(void *user, precopy_state_sink *into, char *why, size_t why_size) {
    struct vm *vm = user;
    if (precopy_state_write(into, vm->count, sizeof vm->count) == PRECOPY_OK)
        return 0;
    snprintf(why, why_size, "the registers do not fit");
    return -1;
}

static int guest_import(void *user, const void *state, size_t length, char *why, size_t why_size) {
    struct vm *vm = user;
    if (length != sizeof vm->count) {
        snprintf(why, why_size, "%zu bytes are no state of %d vCPUs", length, VCPUS);
        return -1;
    }
    memcpy(vm->count, state, length);
    return 0;
}

static int guest_throttle(void *user, uint32_t percent, char *why, size_t why_size) {
    (void)why, (void)why_size;
    atomic_store(&((struct vm *)user)->throttle, percent);
    return 0;
}

static precopy_guest guest_of(struct vm *vm) {
    return (precopy_guest){
        .size = sizeof(precopy_guest),
        .user = vm,
        .pause = guest_pause,
        .resume = guest_resume,
        .export_state = guest_export,
        .import_state = guest_import,
        .throttle = guest_throttle,
    };
}

/* The VMM's own dirty log, region by region. */
static int log_harvest(void *user, precopy_dirty_set *into, char *why, size_t why_size) {
    struct vm *vm = user;
    uint64_t bits[60 << 20 >> 12 >> 6];
    size_t word = 0;
    for (size_t i = 0; i < 2; i++) {
        size_t pages = (size_t)MAP[i].length / PAGE;
        for (size_t end = word + pages / 64, at = 0; word < end; word++, at++)
            bits[at] = atomic_exchange(&vm->dirty[word], 0);
        if (precopy_dirty_set_bitmap(into, MAP[i].guest_address, bits, pages) != PRECOPY_OK) {
            snprintf(why, why_size, "region %zu is not the guest's", i);
            return -1;
        }
    }
    return 0;
}

static void show_progress(void *user, const precopy_progress *seen) {
    const char *side = user;
    fprintf(stderr, "%s: round %" PRIu32 ", %" PRIu64 " pages moved, %" PRIu64 " to go\n", side,
            seen->round, seen->moved_pages, seen->residual_pages);
}

/* ---- The two sides. ---- */

static void print_report(const char *side, precopy_report *report) {
    const char *json;
    if (precopy_report_json(report, &json, NULL) == PRECOPY_OK) {
        printf("%s %s\n", side, json);
        fflush(stdout);
        precopy_string_free(json);
    }
    precopy_report_free(report);
}

static int create(void *user, const precopy_request *request, precopy_memory **memory,
                  const precopy_guest **guest, char *why, size_t why_size) {
    static precopy_guest controls;
    struct vm **vm = user;
    if (strcmp(request->guest, "counters") != 0) {
        snprintf(why, why_size, "%.40s is no guest that runs here", request->guest);
        return -1;
    }
    *vm = vm_new();
    controls = guest_of(*vm);
    *memory = (*vm)->memory;
    *guest = &controls;
    return 0;
}

/* Receives one guest, lets it run, and checks it. */
static int destination(int address_pipe) {
    precopy_receiver_options options = {.size = sizeof options, .listen = "127.0.0.1:0"};
    precopy_receiver *receiver;
    precopy_error *error;
    if (precopy_receiver_new(&options, &receiver, &error)) {
        fprintf(stderr, "destination: %s\n", precopy_error_message(error));
        return 1;
    }
    const char *address = precopy_receiver_address(receiver);
    if (write(address_pipe, address, strlen(address) + 1) < 0)
        die("write");
    close(address_pipe);

    struct vm *vm = NULL;
    precopy_observer observer = {.size = sizeof observer, .user = "destination",
                                 .progress = show_progress};
    precopy_destination to = {.size = sizeof to, .user = &vm, .create = create,
                              .observer = &observer};
    precopy_report *report;
    precopy_status status = precopy_receiver_run(receiver, &to, &report, &error);
    if (status != PRECOPY_OK) {
        fprintf(stderr, "destination: %s: %s\n", precopy_status_text(status),
                precopy_error_message(error));
        precopy_error_free(error);
    }
    print_report("destination", report);

    int result = status != PRECOPY_OK;
    if (result == 0) {
        uint64_t before = vm->count[0];
        struct timespec while_it_runs = {0, 200000000};
        /* On a busy machine its turn may be long in coming. */
        for (int tries = 0; tries < 50; tries++) {
            vm_set_running(vm, true);
            nanosleep(&while_it_runs, NULL);
            vm_set_running(vm, false);
            if (vm->count[0] > before)
                break;
        }
        unsigned wrong = vm_audit(vm);
        printf("audit %u wrong pages, %" PRIu64 " steps, %" PRIu64 " of them here\n", wrong,
               vm->count[0], vm->count[0] - before);
        result = wrong != 0 || vm->count[0] == 0;
    }
    if (vm != NULL)
        vm_free(vm);
    precopy_receiver_free(receiver);
    return result;
}

/* Runs a guest, and sends it. */
static int source(const char *address, pid_t child) {
    struct vm *vm = vm_new();
    vm_start(vm);
    vm_set_running(vm, true);
    struct timespec warm_up = {0, 300000000};
    nanosleep(&warm_up, NULL);

    precopy_guest guest = guest_of(vm);
    precopy_dirty_log log = {.size = sizeof log, .user = vm, .harvest = log_harvest};
    precopy_observer observer = {.size = sizeof observer, .user = "source",
                                 .progress = show_progress};
    precopy_source_options options = {
        .size = sizeof options,
        .destination = address,
        .guest = "counters",
        .strategy = "qemu:downtime_ms=50+auto-converge",
        .encoder = "lz4",
        .channels = 2,
        /* Then it is paused, however much is left. */
        .max_time_ms = 5000,
        .bandwidth_cap_bytes_per_s = 250 * 1000 * 1000,
        .flags = PRECOPY_SEND_VERIFY,
        .tracking = mark_writes  ? PRECOPY_TRACK_MARKED
                    : log_writes ? PRECOPY_TRACK_CALLBACK
                                 : PRECOPY_TRACK_KERNEL,
        .dirty_log = &log,
        .observer = &observer,
    };
    precopy_report *report;
    precopy_error *error;
    precopy_status status = precopy_send(&options, vm->memory, &guest, &report, &error);
    if (status == PRECOPY_ERROR_IN_DOUBT) {
        /* The guest is paused. Only the destination knows. */
        precopy_runs_here here;
        precopy_ask(address, precopy_report_migration_id(report), 10000, &here, NULL);
        if (here == PRECOPY_RUNS_HERE_YES)
            vm_set_running(vm, true);
    }
    if (status != PRECOPY_OK) {
        fprintf(stderr, "source: %s: %s\n", precopy_status_text(status),
                precopy_error_message(error));
        precopy_error_free(error);
    }
    /* If nothing was begun, the child waits in vain. Else it first says what it has to say. */
    if (report == NULL)
        kill(child, SIGTERM);
    int ended = -1;
    waitpid(child, &ended, 0);
    print_report("source", report);
    vm_free(vm);
    return status != PRECOPY_OK || !WIFEXITED(ended) || WEXITSTATUS(ended) != 0;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "marked") == 0) {
            mark_writes = true;
        } else if (strcmp(argv[i], "callback") == 0) {
            log_writes = true;
        } else if (strcmp(argv[i], "memfd") == 0) {
            use_memfd = true;
        } else if (strcmp(argv[i], "small") == 0) {
            pages_per_vcpu = 300;
        } else if (strcmp(argv[i], "kernel") != 0) {
            fprintf(stderr, "usage: migrate [kernel|marked|callback] [memfd] [small]\n");
            return 2;
        }
    }
    if (precopy_check_abi(PRECOPY_ABI_VERSION, NULL) != PRECOPY_OK) {
        fprintf(stderr, "built for another version than %s\n", precopy_version());
        return 1;
    }
    int ends[2];
    if (pipe(ends) != 0)
        die("pipe");
    /* Before any thread exists. */
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child == 0) {
        close(ends[0]);
        return destination(ends[1]);
    }
    close(ends[1]);
    char address[64] = "";
    if (read(ends[0], address, sizeof address - 1) <= 0)
        die("no address");
    close(ends[0]);
    return source(address, child);
}
