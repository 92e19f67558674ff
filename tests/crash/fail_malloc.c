/* fail_malloc.c - every allocation of the C core fails once: the nth of a scenario, for n = 1, 2, 3 ... until a run does
 * not reach it. To be linked with the core under ASan, and with -Wl,--wrap= for each function below.
 *
 *   scenario --malloc, mmap ...--> __wrap_ --the nth--> NULL, or MAP_FAILED
 *                                     \____ others ___> ASan's
 *
 * After each run: what failed said so by HS_NO_MEMORY or was done without, the same again succeeds, and what is held
 * is what was held before: blocks and mapped bytes are counted here, and LeakSanitizer looks at the end. A write
 * through NULL, or to what was freed, ends the program.
 *
 * Prints "COUNT n" (allocations that failed) for each scenario, and "FAILED sentence" for what is wrong. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include "hs_engine_rig.h"

/* ---- the allocator ---- */

static struct {
    unsigned nth, count;
    bool armed, reached;
    long blocks, mapped;
} now;

static bool refused(void) {
    if (!now.armed || ++now.count != now.nth) return false;
    now.reached = true;
    errno = ENOMEM;
    return true;
}

static void *taken(void *block) {
    now.blocks += block != NULL;
    return block;
}

void *__real_malloc(size_t), *__real_calloc(size_t, size_t), *__real_realloc(void *, size_t);
void *__real_aligned_alloc(size_t, size_t), *__real_mmap(void *, size_t, int, int, int, off_t);
char *__real_strdup(const char *);
void __real_free(void *);
int __real_munmap(void *, size_t);

void *__wrap_malloc(size_t size) { return refused() ? NULL : taken(__real_malloc(size)); }
void *__wrap_calloc(size_t count, size_t size) {
    return refused() ? NULL : taken(__real_calloc(count, size));
}
void *__wrap_aligned_alloc(size_t alignment, size_t size) {
    return refused() ? NULL : taken(__real_aligned_alloc(alignment, size));
}
char *__wrap_strdup(const char *text) { return refused() ? NULL : taken(__real_strdup(text)); }
void *__wrap_realloc(void *block, size_t size) {
    if (refused()) return NULL;
    void *moved = __real_realloc(block, size);
    return block ? moved : taken(moved);
}
void __wrap_free(void *block) {
    now.blocks -= block != NULL;
    __real_free(block);
}
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    if (refused()) return MAP_FAILED;
    void *made = __real_mmap(at, size, protection, flags, fd, offset);
    if (made != MAP_FAILED) now.mapped += (long)size;
    return made;
}
int __wrap_munmap(void *at, size_t size) {
    int result = __real_munmap(at, size);
    if (result == 0) now.mapped -= (long)size;
    return result;
}

/* ---- what the scenarios share ---- */

enum { KEYS = 12000, CHUNKS = 24, CHAIN = 1100, CAPACITY = 1 << 16 };

static const char *scenario;
static int failures;
static uint8_t boot[16];

static void fail(const char *what, int status) {
    printf("FAILED %s, allocation %u: %s: %s\n", scenario, now.nth, what, hs_strerror(status));
    failures++;
}

/* A step of a scenario: it succeeded, or memory was what it lacked; then the same again succeeds. */
#define STEP(expression)                                                                                     \
    do {                                                                                                     \
        int64_t status_ = (expression);                                                                      \
        if (status_ < 0 && status_ != HS_NO_MEMORY) fail(#expression, (int)status_);                         \
        if (status_ == HS_NO_MEMORY) {                                                                       \
            now.armed = false;                                                                               \
            status_ = (expression);                                                                          \
            if (status_ < 0) fail("again: " #expression, (int)status_);                                      \
        }                                                                                                    \
    } while (0)

typedef struct fixture {
    rig rig;
    hs_branch_ref main;
    uint8_t base[40];
    uint32_t key_sizes[KEYS], value_sizes[KEYS];
    uint8_t *keys, *values;
    hs_edits edits;
} fixture;

static void edits_make(fixture *f, uint32_t count, uint32_t round) {
    uint8_t *key = f->keys, *value = f->values;
    for (uint32_t i = 0; i < count; i++) {
        f->key_sizes[i] = (uint32_t)sprintf((char *)key, "dir%u/%06u/%s", i % 7, i, "a-path-of-some-length");
        f->value_sizes[i] = (uint32_t)sprintf((char *)value, "value %u of round %u", i, round);
        key += f->key_sizes[i];
        value += f->value_sizes[i];
    }
    f->edits = (hs_edits){.count = count,
                          .keys = f->keys,
                          .key_sizes = f->key_sizes,
                          .values = f->values,
                          .value_sizes = f->value_sizes};
}

/* Through whatever suspends it: a branch that L2 does not know. A commit that waits for room gets it by a round. */
static int64_t commit(fixture *f, int64_t result) {
    hs_call *call = &f->rig.call[0];
    while (call->state) {
        if (result == HS_HEAD_IN_L2)
            hs_branch_provide(call, &f->main, call->word, f->rig.empty, 0, 0, 0, 0);
        else if (result == HS_WAIT)
            rig_round(&f->rig);
        else {
            hs_commit_cancel(call);
            return result;
        }
        result = hs_commit_continue(call);
    }
    if (result > 0) rig_base(f->rig.data[0], f->base);
    return result;
}

static int64_t commit_many(fixture *f, uint32_t count, uint32_t round) {
    edits_make(f, count, round);
    return commit(f, hs_commit_many(&f->rig.call[0], &f->main, f->base, &f->edits));
}

static int64_t commit_one(fixture *f) {
    return commit(f, hs_commit_one(&f->rig.call[0], &f->main, f->base, (const uint8_t *)"one", 3,
                                   (const uint8_t *)"value", 5));
}

static int64_t restore(fixture *f) {
    return commit(f, hs_commit_root(&f->rig.call[0], &f->main, HS_MOVE_RESTORE, f->base, NULL));
}

static int read_back(fixture *f, uint32_t count) {
    hs_call *call = &f->rig.call[1];
    for (uint32_t i = 0; i < count; i += 97) {
        uint8_t key[64];
        size_t size = (size_t)sprintf((char *)key, "dir%u/%06u/%s", i % 7, i, "a-path-of-some-length");
        int64_t n = hs_get(call, f->base, key, size);
        if (n < 0) return (int)n;
    }
    return HS_OK;
}

/* ---- scenarios: prepared without faults, run with one ---- */

static void open_and_close(fixture *f) {
    hs_engine *engine = NULL;
    hs_drain *drain = NULL;
    hs_open_args args = rig_args(&f->rig, HS_OPEN_PARTICIPANT, CHUNKS);
    STEP(hs_engine_open(&args, &engine));
    if (engine) hs_engine_close(engine);
    engine = NULL;
    args = rig_args(&f->rig, HS_OPEN_PRIVATE, CHUNKS);
    STEP(hs_engine_open(&args, &engine));
    if (!engine) return;
    STEP(hs_engine_drain(engine, &drain));
    hs_drain_round round;
    if (drain) STEP(hs_drain_collect(drain, &round));
    hs_drain_close(drain);
    hs_engine_close(engine);
}

static void commit_and_read(fixture *f) {
    STEP(commit_one(f));
    STEP(commit_many(f, KEYS, 1));
    STEP(commit_many(f, KEYS / 2, 2));
    STEP(restore(f));
    STEP(read_back(f, KEYS / 2));
}

static int drain_all(fixture *f, uint8_t *pack, uint8_t *record) {
    hs_drain_round round;
    uint8_t *start;
    size_t size;
    uint32_t count, slot;
    uint64_t word;
    int status = hs_drain_collect(f->rig.drain, &round);
    do
        if (status == HS_OK) status = hs_drain_pack(f->rig.drain, pack, 4 << 20, &start, &size, &count);
    while (status == HS_OK && size > 0);
    if (status != HS_OK) return status;
    while ((status = hs_drain_next_head(f->rig.drain, &slot, &word, record, 70000, &size)) == HS_OK)
        if ((status = hs_drain_chain(f->rig.drain, slot, 0, pack, 1 << 20, &size, &count)) != HS_OK)
            return status;
    return status == HS_NOT_FOUND ? hs_drain_finish(f->rig.drain) : status;
}

static void drain_a_round(fixture *f) {
    uint8_t *pack = __real_malloc(4 << 20), *record = __real_malloc(70000);
    STEP(drain_all(f, pack, record));
    __real_free(pack);
    __real_free(record);
}

static void drain_prepare(fixture *f) {
    for (uint32_t round = 0; round < CHAIN; round++) (void)commit_many(f, 1, round);
    (void)commit_many(f, KEYS, CHAIN);
}

static void locator(fixture *f) {
    char path[96];
    hs_locator *made = NULL, *again = NULL;
    snprintf(path, sizeof path, "%s-locator", f->rig.participants);
    STEP(hs_locator_create(path, CAPACITY, boot, &made));
    STEP(hs_locator_open(path, 0, &again));
    if (made) hs_locator_close(made);
    if (again) hs_locator_close(again);
    unlink(path);
}

/* A cache of few slabs that are turned over: another process's tree of many nodes is read. */
static void read_prepare(fixture *f) { (void)commit_many(f, KEYS, 7); }
static void read_cold(fixture *f) { STEP(read_back(f, KEYS)); }

/* ---- running ---- */

static void run_once(void (*prepare)(fixture *), void (*act)(fixture *), unsigned nth) {
    long blocks = now.blocks, mapped = now.mapped;
    static fixture f;
    memset(&f, 0, sizeof f);
    f.keys = __real_malloc(KEYS * 64);
    f.values = __real_malloc(KEYS * 64);
    rig_open(&f.rig, CHUNKS);
    f.main = rig_branch("main");
    hs_empty_root(f.base);
    if (prepare) prepare(&f);
    now.nth = nth;
    now.count = 0;
    now.reached = false;
    now.armed = true;
    act(&f);
    now.armed = false;
    rig_close(&f.rig);
    __real_free(f.keys);
    __real_free(f.values);
    if (now.blocks != blocks) {
        printf("FAILED %s, allocation %u: %ld blocks are left\n", scenario, nth, now.blocks - blocks);
        failures++;
    }
    if (now.mapped != mapped) {
        printf("FAILED %s, allocation %u: %ld mapped bytes are left\n", scenario, nth, now.mapped - mapped);
        failures++;
    }
}

static void run(const char *name, void (*prepare)(fixture *), void (*act)(fixture *)) {
    scenario = name;
    unsigned nth = 0;
    do run_once(prepare, act, ++nth);
    while (now.reached && failures < 10);
    printf("COUNT %u\n", nth - 1);
    fflush(stdout);
}

int main(void) {
    run("open and close", NULL, open_and_close);
    run("commit and read", NULL, commit_and_read);
    run("read cold", read_prepare, read_cold);
    run("drain a round", drain_prepare, drain_a_round);
    run("locator", NULL, locator);
    return failures != 0;
}
