/* runtime.c - what the product's code calls instead of ThreadSanitizer, the C library and the kernel.
 *
 * Shared memory is one static area: its bytes are the image, set before each execution and never changed by the threads; what they
 * write is in the graph. Everything outside the area is a thread's own, and simply done.
 *
 * A futex is two words more: who waits, and how often it was woken; both in one location that is changed under the kernel's lock of the
 * bucket, here an acquire and release addition. FUTEX_WAIT passes a full barrier between announcing itself and looking
 * at the word (kernel/futex, "smp_mb (A)"); it can be weakened like any other site, under the name kernel:FUTEX_WAIT. Nobody is
 * woken by time: who is not rung sleeps for good. */
#define _GNU_SOURCE
#include "runtime.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include "model.h"

_Alignas(4096) uint8_t shared[SHARED_SIZE];
static _Alignas(64) uint8_t memory[MEMORY_SIZE];
static size_t memory_used;

#define FAIL(what) (fprintf(stderr, "runtime: %s\n", what), exit(3))

unsigned runtime_living, runtime_mortal;

static bool is_shared(const volatile void *p) {
    return !model_beginning && (uintptr_t)p >= (uintptr_t)shared &&
           (uintptr_t)p < (uintptr_t)shared + SHARED_SIZE;
}

/* ---- Which sites are weaker in this run ---- */

typedef struct weakening {
    const char *file;
    int line;
    unsigned bits;
    bool met;
} weakening;

static weakening weakenings[16];
static int weakening_count;

void runtime_weaken(const char *file, int line, unsigned bits) {
    if (weakening_count == 16) FAIL("too many weakenings");
    weakenings[weakening_count++] = (weakening){file, line, bits, false};
}

bool runtime_weakenings_were_met(void) {
    for (int i = 0; i < weakening_count; i++)
        if (!weakenings[i].met) {
            printf("not met: %s:%d\n", weakenings[i].file, weakenings[i].line);
            return false;
        }
    return true;
}

static void site_look_up(void) {
    site *here = model_site;
    if (here == NULL || here->looked_up) return;
    here->looked_up = true;
    for (int i = 0; i < weakening_count; i++)
        if (weakenings[i].line == here->line && strcmp(weakenings[i].file, here->file) == 0) {
            here->weaker = weakenings[i].bits;
            weakenings[i].met = true;
        }
}

/* ---- Words ---- */

uint64_t model_image(uintptr_t address, unsigned size) {
    if ((address & 1) != 0) return 0; /* no memory: a location of the kernel's */
    uint64_t value = 0;
    memcpy(&value, (const void *)address, size);
    return value;
}

static unsigned order_of(int c11) {
    static const unsigned orders[] = {RELAXED, ACQUIRE,           ACQUIRE,
                                      RELEASE, ACQUIRE | RELEASE, ACQUIRE | RELEASE | SEQ_CST};
    return orders[c11];
}

/* For a read-modify-write: acquire and release at most. */
static unsigned order_of_update(int c11) { return order_of(c11) & (ACQUIRE | RELEASE); }

#define ATOMICS(bits, type)                                                                                  \
    type __tsan_atomic##bits##_load(const volatile type *p, int order) {                                     \
        site_look_up();                                                                                      \
        return is_shared(p) ? (type)model_load((uintptr_t)p, bits / 8, order_of(order) & ACQUIRE, false)     \
                            : *p;                                                                            \
    }                                                                                                        \
    void __tsan_atomic##bits##_store(volatile type *p, type value, int order) {                              \
        site_look_up();                                                                                      \
        if (is_shared(p))                                                                                    \
            model_store((uintptr_t)p, bits / 8, value, order_of(order) & RELEASE, false);                    \
        else                                                                                                 \
            *p = value;                                                                                      \
    }                                                                                                        \
    type __tsan_atomic##bits##_fetch_add(volatile type *p, type value, int order) {                          \
        site_look_up();                                                                                      \
        if (!is_shared(p)) return (*p = (type)(*p + value)), (type)(*p - value);                             \
        update add = {.kind = UPDATE_ADD, .operand = value};                                                 \
        return (type)model_update((uintptr_t)p, bits / 8, add, order_of_update(order), RELAXED);             \
    }                                                                                                        \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile type *p, type *expected, type desired,        \
                                                      int order, int order_failed) {                         \
        site_look_up();                                                                                      \
        if (!is_shared(p)) return *p == *expected ? (*p = desired, 1) : (*expected = *p, 0);                 \
        update swap = {.kind = UPDATE_SWAP_IF, .operand = desired, .expected = *expected};                   \
        type was = (type)model_update((uintptr_t)p, bits / 8, swap, order_of_update(order),                  \
                                      order_of(order_failed) & ACQUIRE);                                     \
        bool same = was == *expected;                                                                        \
        *expected = was;                                                                                     \
        return same;                                                                                         \
    }
ATOMICS(64, uint64_t)
ATOMICS(32, uint32_t)

void __tsan_atomic_thread_fence(int order) {
    if (model_beginning) return;
    site_look_up();
    model_fence(order_of(order));
}

/* Words that change are atomic: a plain access may only be to what never changes. */
static void plain_access(const void *p, unsigned size, bool write) {
    if (!is_shared(p)) return;
    uintptr_t first = (uintptr_t)p & ~(uintptr_t)7;
    for (uintptr_t a = first; a < (uintptr_t)p + size; a += 4)
        if (write || model_size(a) != 0) FAIL("a plain access to a shared word");
}

#define PLAIN(size)                                                                                          \
    void __tsan_read##size(void *p) { plain_access(p, size, false); }                                        \
    void __tsan_write##size(void *p) { plain_access(p, size, true); }
#define PLAIN_UNALIGNED(size)                                                                                \
    void __tsan_unaligned_read##size(void *p) { plain_access(p, size, false); }                              \
    void __tsan_unaligned_write##size(void *p) { plain_access(p, size, true); }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)
PLAIN_UNALIGNED(2)
PLAIN_UNALIGNED(4)
PLAIN_UNALIGNED(8)
PLAIN_UNALIGNED(16)
void __tsan_read_range(void *p, unsigned long size) { plain_access(p, (unsigned)size, false); }
void __tsan_write_range(void *p, unsigned long size) { plain_access(p, (unsigned)size, true); }
void __tsan_func_entry(void *caller) { (void)caller; }
void __tsan_func_exit(void) {}
void __tsan_init(void) {}

/* ---- Bytes of chunks: eight at a time ---- */

void *hook_memcpy(site *here, void *to, const void *from, size_t size) {
    bool reads = is_shared(from), writes = is_shared(to);
    if (!reads && !writes) return memcpy(to, from, size);
    model_site = here;
    site_look_up();
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = 0;
        if (size - i < 8) FAIL("bytes of a chunk that are not whole words");
        if (reads)
            word = model_load((uintptr_t)from + i, 8, RELAXED, true);
        else
            memcpy(&word, (const uint8_t *)from + i, 8);
        if (writes)
            model_store((uintptr_t)to + i, 8, word, RELAXED, true);
        else
            memcpy((uint8_t *)to + i, &word, 8);
    }
    return to;
}

void *hook_memset(site *here, void *to, int byte, size_t size) {
    if (!is_shared(to)) return memset(to, byte, size);
    model_site = here;
    if (size % 8 != 0 || byte != 0) FAIL("bytes of a chunk that are not whole words of zeros");
    for (size_t i = 0; i < size; i += 8) model_store((uintptr_t)to + i, 8, 0, RELAXED, true);
    return to;
}

/* ---- The kernel ---- */

#define QUEUE_OF(word) ((uintptr_t)(word) | 1) /* {woken:32 waiting:32} */

static uint64_t queue_wake(uint64_t queue) {
    return (uint32_t)queue == 0 ? queue : ((queue >> 32) + 1) << 32;
}

static uint64_t queue_leave(uint64_t queue) { return (uint32_t)queue == 0 ? queue : queue - 1; }
static bool queue_woken(uint64_t queue, uint64_t woken_before) { return queue >> 32 != woken_before; }

static site barrier = {.file = "kernel", .function = "FUTEX_WAIT", .line = 1};
static site bucket = {.file = "kernel", .function = "bucket lock", .line = 2};

/* The low half of a 64-bit word is looked at as a part of it. */
static uint32_t futex_look(uintptr_t word) {
    unsigned size = model_size(word);
    return (uint32_t)model_load(word, size == 0 ? 4 : size, RELAXED, false);
}

static long futex_wait(uintptr_t word, uint32_t expected) {
    model_site = &bucket;
    update come = {.kind = UPDATE_ADD, .operand = 1}, go = {.kind = UPDATE_CALL, .call = queue_leave};
    uint64_t queue = model_update(QUEUE_OF(word), 8, come, ACQUIRE | RELEASE, RELAXED);
    model_site = &barrier;
    site_look_up();
    model_fence(ACQUIRE | RELEASE | SEQ_CST);
    model_site = &bucket;
    if (futex_look(word) != expected) {
        model_update(QUEUE_OF(word), 8, go, ACQUIRE | RELEASE, RELAXED);
        errno = EAGAIN;
        return -1;
    }
    model_await(QUEUE_OF(word), 8, queue_woken, queue >> 32);
    return 0;
}

long hook_futex(long call, ...) {
    va_list rest;
    va_start(rest, call);
    uintptr_t word = va_arg(rest, uintptr_t);
    int operation = va_arg(rest, int);
    uint32_t value = va_arg(rest, uint32_t);
    va_end(rest);
    if (model_beginning) return 0;
    if (call != SYS_futex || !is_shared((void *)word)) FAIL("a system call that is not known");
    if (operation == FUTEX_WAIT) return futex_wait(word, value);
    update wake = {.kind = UPDATE_CALL, .call = queue_wake};
    model_site = &bucket;
    model_update(QUEUE_OF(word), 8, wake, ACQUIRE | RELEASE, RELAXED);
    return 0;
}

/* Locks of bytes: a word each, 1 while it is locked. They are asked for no order: relaxed. Those of `runtime_living` are others'.
 * That of a mortal is 1 when it has fallen, and what its owner did before is seen by who looks at it then: kernel:3, kernel:4. */
#define LOCK_OF(byte) ((uintptr_t)(16 * (byte) + 1))

static site fallen = {.file = "kernel", .function = "exit", .line = 3};
static site looked_at = {.file = "kernel", .function = "F_OFD_GETLK", .line = 4};

void runtime_die(int n) {
    model_site = &fallen;
    site_look_up();
    model_store(LOCK_OF(n), 8, 1, RELEASE, false);
}

int hook_file_lock(int fd, int command, struct flock *lock) {
    (void)fd;
    bool mortal = (runtime_mortal >> lock->l_start & 1) != 0;
    bool others = (runtime_living >> lock->l_start & 1) != 0 && (!mortal || model_beginning);
    if (model_beginning && !others) lock->l_type = F_UNLCK;
    if (model_beginning || others) return errno = EAGAIN, command == F_OFD_GETLK ? 0 : -1;
    model_site = NULL;
    uintptr_t word = LOCK_OF(lock->l_start);
    if (mortal) {
        model_site = &looked_at;
        site_look_up();
        if (model_load(word, 8, ACQUIRE, false) != 0) lock->l_type = F_UNLCK;
        return 0;
    }
    if (command == F_OFD_GETLK) {
        if (model_load(word, 8, RELAXED, false) == 0) lock->l_type = F_UNLCK;
        return 0;
    }
    update swap = {.kind = UPDATE_SWAP_IF, .operand = 1, .expected = 0};
    if (model_update(word, 8, swap, RELAXED, RELAXED) == 0) return 0;
    errno = EAGAIN;
    return -1;
}

int hook_open(const char *path, int flags, ...) {
    (void)path;
    (void)flags;
    return 100;
}

int hook_close(int fd) {
    (void)fd;
    return 0;
}

int hook_clock(clockid_t clock, struct timespec *out) {
    (void)clock;
    *out = (struct timespec){.tv_sec = 1};
    return 0;
}

/* Private memory: all of it is given back when an execution begins. */
void *hook_memory(void *grown, size_t size) {
    size_t bytes = (size + 63) / 64 * 64;
    if (grown != NULL || bytes > MEMORY_SIZE - memory_used) FAIL("no memory is left");
    void *p = memory + memory_used;
    memory_used += bytes;
    return p;
}

void *hook_zeros(size_t count, size_t size) {
    return memset(hook_memory(NULL, count * size), 0, count * size);
}

void runtime_begin(void) { memory_used = 0; }

/* The locator's file is a part of the shared memory. */
void *hook_map(size_t size) {
    if (size > SHARED_SIZE - LOCATOR_OFFSET) FAIL("the locator is too large");
    return shared + LOCATOR_OFFSET;
}

int hook_status(int fd, struct stat *out) {
    (void)fd;
    memset(out, 0, sizeof *out);
    return 0;
}

long hook_random(void *out, size_t size, unsigned flags) {
    (void)flags;
    memset(out, 7, size);
    return (long)size;
}
