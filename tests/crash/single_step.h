/* single_step.h - what single_step.c stands on: a process that is stepped, a copy of the segment, an oracle.
 *
 *   writer (traced)  --MAP_SHARED-->  segment in /dev/shm  <--MAP_SHARED--  judge: has a byte changed?
 *                                            ^----------------MAP_PRIVATE--  judge: reader and recovery, thrown away after
 *
 * The judge's private mapping shows the segment as it is while the writer stands still; what recovery writes there is
 * the judge's alone, and MADV_DONTNEED forgets it. Recovery looks for the living in a second participants file, in which
 * nobody has locked a byte: so the writer, which lives, is dead. */
#ifndef SINGLE_STEP_H
#define SINGLE_STEP_H
#include <stdarg.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <time.h>
#include <ucontext.h>
#include "hs_checksum.h"
#include "hs_engine.h"
#include "hs_rig.h"

enum { PACK_CAPACITY = 2 << 20, DATA_CAPACITY = 1 << 18, STORED_MAX = 4096, SHOWN_MAX = 10 };

/* What judge and stepped processes say to each other, in memory that both see. */
typedef struct board {
    hs_word32 running;    /* the stepped process is inside what is judged */
    int64_t result;       /* of the writer's operation */
    uint64_t want, place; /* the reader: which thing, or which record, at which place */
    hs_word32 reads, found, wrong;
} board;

/* An entry that L2 has. */
typedef struct stored {
    uint8_t id[32];
    uint8_t *bytes;
    uint32_t size;
} stored;

typedef struct judge {
    char name[64], alive[512], dead[512]; /* segment; participants files: as it is, and as if nobody lived */
    int alive_fd, dead_fd;
    hs_segment real, copy;
    uint8_t *shadow; /* the segment's bytes at the state that was judged last */
    board *board;
    const char *what; /* is being stepped */
    uint64_t at;      /* its instruction */
    uint64_t seed;
    bool first_only; /* the first violation is enough */
    uint64_t instructions, states, looks, suspicions, violations;
    stored l2[STORED_MAX];
    uint32_t l2_count;
    uint64_t l2_serial; /* of the branch's newest record in L2 */
    uint8_t l2_root[32];
    uint8_t *pack, *block, *record, *data;
} judge;

/* How this process is stepped by itself: see below. */
static struct {
    judge *j;
    void (*at)(judge *, void *context);
    void *context;
    bool over, is_branch;
} stepping;
static uint64_t steps_taken;

static void figures_print(const judge *j);

/* Where one violation is enough, this was it. */
static void violations_seen(const judge *j) {
    if (!j->first_only || stepping.is_branch) return;
    figures_print(j);
    exit(0);
}

__attribute__((format(printf, 2, 3), unused)) static void violate(judge *j, const char *format, ...) {
    va_list arguments;
    if (j->violations++ < SHOWN_MAX) {
        printf("violation %s, instruction %llu: ", j->what, (unsigned long long)j->at);
        va_start(arguments, format);
        vprintf(format, arguments);
        va_end(arguments);
        printf(" (seed %llu)\n", (unsigned long long)j->seed);
    }
    violations_seen(j);
}

/* ---- Stepped processes ---- */

/* Run `body` in a process that stops before it; the judge steps it. */
static pid_t tracee_start(judge *j, void (*body)(judge *, const void *), const void *context) {
    fflush(stdout);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) _exit(3);
        body(j, context);
        _exit(0);
    }
    return child;
}

/* Until the process stops by itself; false: it has ended. */
static bool tracee_stopped(judge *j, pid_t child) {
    int status = 0;
    REQUIRE(waitpid(child, &status, __WALL) == child);
    if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP) {
        ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_EXITKILL);
        return true;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return false;
    violate(j, "the process ended by itself, with wait status 0x%x", status);
    REQUIRE(!WIFSTOPPED(status));
    return false;
}

/* One instruction. False: the process has ended or got a signal. */
static bool tracee_step(judge *j, pid_t child) {
    int status = 0;
    if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) != 0) return false;
    REQUIRE(waitpid(child, &status, __WALL) == child);
    if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP) return true;
    if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP) return true;
    violate(j, "the stepped process got signal %d", WIFSTOPPED(status) ? WSTOPSIG(status) : status);
    return false;
}

static void tracee_end(pid_t child) {
    int status;
    kill(child, SIGKILL);
    while (waitpid(child, &status, __WALL) == child && !WIFEXITED(status) && !WIFSIGNALED(status)) {
    }
}

/* ---- This process, stepped by itself ---- */

/* The trap flag makes the processor stop after each instruction; the signal's handler stands for all other processes. At
 * any instruction it may branch off: a forked child, with a private copy of all that there is, tries how things go on from
 * here, while its parent waits, and then takes the next instruction. */

enum { TRAP_FLAG = 0x100 };

static void steps_trap(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    steps_taken++;
    stepping.at(stepping.j, stepping.context);
    if (stepping.over) ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
}

/* From here to steps_end: `at` after each instruction of this process. */
__attribute__((noinline)) static void steps_begin(judge *j, void (*at)(judge *, void *), void *context) {
    struct sigaction action = {.sa_sigaction = steps_trap, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    stepping.j = j, stepping.at = at, stepping.context = context;
    stepping.over = false;
    steps_taken = 0;
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() | TRAP_FLAG);
}

__attribute__((noinline)) static void steps_end(void) {
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~(uint64_t)TRAP_FLAG);
}

/* True in the branch. What it finds wrong is counted here. */
static bool branch_off(judge *j) {
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        stepping.is_branch = true;
        j->violations = 0;
        return true;
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) > 1)
        violate(j, "what follows ended with wait status 0x%x", status);
    j->violations += WIFEXITED(status) && WEXITSTATUS(status) == 1;
    if (j->violations > 0) violations_seen(j);
    return false;
}

static void branch_end(const judge *j) {
    if (!stepping.is_branch) return;
    fflush(stdout);
    _exit(j->violations > 0);
}

/* ---- Segments ---- */

static void participants_file(char *path, const char *directory, const char *name, int *fd) {
    snprintf(path, 512, "%s/%s", directory, name);
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(*fd >= 0);
}

/* A fresh segment under j->name, its seed the run's; nothing is in L2. */
static void segment_fresh(judge *j) {
    hs_segment_config config = rig_config(4);
    REQUIRE(hs_segment_create(j->name, &config, &j->real) == HS_OK);
    for (int i = 0; i < 2; i++)
        j->real.header->seed[i] = j->real.seed[i] = hs_key_hash(&j->seed, 8) + (uint64_t)i;
    j->copy = j->real;
    j->copy.base = mmap(NULL, j->real.size, PROT_READ | PROT_WRITE, MAP_PRIVATE, j->real.fd, 0);
    REQUIRE(j->copy.base != MAP_FAILED);
#define MOVED(part) j->copy.part = (void *)(j->copy.base + ((uint8_t *)j->real.part - j->real.base))
    MOVED(header), MOVED(participants), MOVED(branch_tags), MOVED(branches), MOVED(index), MOVED(chunks),
        MOVED(ring);
#undef MOVED
    j->shadow = mmap(NULL, j->real.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(j->shadow != MAP_FAILED);
    memset(j->l2_root, 0, sizeof j->l2_root);
    j->l2_serial = 0;
    j->board->result = 0;
    hs_store32_relaxed(&j->board->running, 0);
}

static void l2_forget(judge *j, uint32_t from) {
    while (j->l2_count > from) free(j->l2[--j->l2_count].bytes);
}

static void segment_end(judge *j) {
    l2_forget(j, 0);
    munmap(j->shadow, j->real.size);
    munmap(j->copy.base, j->copy.size);
    hs_segment_unlink(j->name);
    hs_segment_detach(&j->real);
}

/* The copy shows the segment again. */
static void copy_refresh(judge *j) { REQUIRE(madvise(j->copy.base, j->copy.size, MADV_DONTNEED) == 0); }

/* ---- L2, as far as the oracle needs it ---- */

static const stored *l2_find(const judge *j, const uint8_t id[32]) {
    for (uint32_t i = 0; i < j->l2_count; i++)
        if (memcmp(j->l2[i].id, id, 32) == 0) return &j->l2[i];
    return NULL;
}

static void l2_add(judge *j, const uint8_t *pack, const hs_pack_row *row) {
    uint8_t id[32];
    const uint8_t *bytes = pack + row->offset;
    hs_blake3(bytes, row->stored_size, id);
    if (memcmp(id, row->id, 32) != 0) violate(j, "recovery takes wrong bytes to L2");
    if (l2_find(j, id) != NULL) return;
    REQUIRE(j->l2_count < STORED_MAX);
    stored *entry = &j->l2[j->l2_count++];
    memcpy(entry->id, id, 32);
    entry->size = row->stored_size;
    entry->bytes = malloc(row->stored_size + 1);
    REQUIRE(entry->bytes != NULL);
    memcpy(entry->bytes, bytes, row->stored_size);
}

/* The chain of one moved head, to L2. */
static void chain_take(judge *j, hs_drain *drain, uint32_t slot) {
    size_t size;
    uint32_t count;
    int status = hs_drain_chain(drain, slot, j->l2_serial, j->block, PACK_CAPACITY, &size, &count);
    if (status != HS_OK) {
        violate(j, "the chain of the branch cannot be followed: %s", hs_strerror(status));
        return;
    }
    if (count == 0) return;
    hs_record last;
    const uint8_t *rows = j->block + HS_LOG_FIXED_SIZE + 4 * (count - 1);
    uint32_t from = hs_load_u32(rows), to = hs_load_u32(rows + 4);
    if (hs_log_validate(j->block, size) != HS_OK || hs_load_u64(j->block + 8) != j->l2_serial + 1 ||
        hs_record_decode(j->block + from, to - from, &last) != HS_OK) {
        violate(j, "the chain of the branch is not a whole log from serial %llu on",
                (unsigned long long)j->l2_serial + 1);
        return;
    }
    j->l2_serial += count;
    memcpy(j->l2_root, last.root, 32);
}

/* One round, to the oracle's L2. */
static void round_take(judge *j, hs_drain *drain, hs_drain_round *round) {
    uint8_t *pack;
    size_t size, record_size;
    uint32_t count, slot;
    uint64_t word;
    REQUIRE(hs_drain_collect(drain, round) == HS_OK);
    for (;;) {
        REQUIRE(hs_drain_pack(drain, j->pack, PACK_CAPACITY, &pack, &size, &count) == HS_OK);
        if (size == 0) break;
        if (hs_pack_validate(pack, size) != HS_OK) violate(j, "recovery writes a pack that is none");
        for (uint32_t i = 0; i < count; i++) {
            hs_pack_row row = hs_pack_row_get(pack, i);
            l2_add(j, pack, &row);
        }
    }
    int status;
    while ((status = hs_drain_next_head(drain, &slot, &word, j->record, HS_RECORD_SIZE_MAX, &record_size)) ==
           HS_OK)
        chain_take(j, drain, slot);
    if (status != HS_NOT_FOUND) violate(j, "a head's record cannot be read: %s", hs_strerror(status));
    REQUIRE(hs_drain_finish(drain) == HS_OK);
}

/* One round by a coordinator of its own, for whom the participants are alive or dead. */
static void round_run(judge *j, hs_segment *segment, int participants_fd) {
    hs_drain *drain;
    hs_drain_round round;
    REQUIRE(hs_drain_open(segment, participants_fd, &drain) == HS_OK);
    round_take(j, drain, &round);
    hs_drain_close(drain);
}

/* ---- What must be whole ---- */

/* Bytes of an id, from the ring (NULL: not) or, with l2, from L2; -1: neither has it. Whatever is found was asked for. */
static int64_t bytes_of(judge *j, hs_segment *segment, bool l2, const uint8_t id[32], uint8_t *out) {
    hs_ring reader;
    hs_ring_hit hit;
    uint8_t found[32];
    hs_ring_init(&reader, segment, NULL);
    if (segment != NULL && hs_ring_get(&reader, id, out, HS_NODE_SIZE_MAX, &hit) == HS_OK) {
        hs_blake3(out, hit.stored_size, found);
        if (memcmp(found, id, 32) != 0) violate(j, "a reader was given wrong bytes");
        return hit.stored_size;
    }
    const stored *entry = l2 ? l2_find(j, id) : NULL;
    if (entry == NULL) return -1;
    memcpy(out, entry->bytes, entry->size);
    return entry->size;
}

/* Is everything below this node there, byte by byte what the ids say? */
static bool tree_is_whole(judge *j, hs_segment *segment, bool l2, const uint8_t id[32], unsigned level_max) {
    hs_node node;
    hs_value value;
    uint8_t empty[32], *bytes = malloc(2 * HS_NODE_SIZE_MAX);
    REQUIRE(bytes != NULL);
    hs_empty_root(empty);
    bool whole = memcmp(id, empty, 32) == 0;
    int64_t size = whole ? 0 : bytes_of(j, segment, l2, id, bytes);
    if (size > 0 && hs_node_open(bytes, (size_t)size, &node) == HS_OK && node.level <= level_max) {
        whole = true;
        for (unsigned i = 0; i < node.count && whole; i++) {
            if (node.level > 0) {
                whole = tree_is_whole(j, segment, l2, hs_node_child_id(&node, i), node.level - 1u);
                continue;
            }
            hs_node_value_at(&node, i, hs_node_value_offset(&node, i), &value);
            whole = !value.hashed ||
                    bytes_of(j, segment, l2, value.bytes, bytes + HS_NODE_SIZE_MAX) == (int64_t)value.size;
        }
    }
    free(bytes);
    return whole;
}

/* What is below the cursors is whole: entry after entry, sums and sizes. */
static void chunks_are_whole(judge *j, const hs_segment *segment) {
    for (uint32_t chunk = 0; chunk < segment->chunk_count; chunk++) {
        hs_chunk_state_word w = hs_chunk_word_decode(hs_load_acquire(&segment->chunks[chunk].word));
        uint64_t mark = hs_load_acquire(&segment->chunks[chunk].persisted);
        uint32_t offset = (uint32_t)(mark >> 32) == w.generation ? (uint32_t)mark : 0;
        while (offset < w.cursor) {
            hs_entry header;
            const uint8_t *entry = hs_chunk_address(segment, chunk, offset);
            memcpy(&header, entry, sizeof header);
            bool whole = hs_ring_header_fits(&header, w.cursor - offset);
            if (whole) {
                uint64_t sum = hs_checksum(segment->seed, entry + sizeof header, header.stored_size);
                whole = hs_ring_checksum(segment->seed, w.generation, &header, sum) == header.checksum;
            }
            if (!whole) {
                violate(j, "the cursor of chunk %u is past an entry that is not whole", chunk);
                break;
            }
            offset += hs_ring_units(header.stored_size);
        }
    }
}

/* What the index leads to, in chunks of this generation, is published (edge E6). */
static void index_is_published(judge *j, const hs_segment *segment) {
    const hs_word *words = (const hs_word *)(const void *)segment->index;
    for (uint64_t i = 0; i < ((uint64_t)segment->index_mask + 1) * HS_INDEX_WAYS; i++) {
        uint64_t word = hs_load_relaxed(&words[i]);
        if (word == 0) continue;
        uint32_t chunk = (uint32_t)(word >> HS_PLACE_CHUNK_SHIFT) & 0xffff;
        if (chunk >= segment->chunk_count) {
            violate(j, "an index word leads to chunk %u", chunk);
            continue;
        }
        hs_chunk_state_word w = hs_chunk_word_decode(hs_load_acquire(&segment->chunks[chunk].word));
        uint64_t generation = word >> HS_INDEX_GENERATION_SHIFT & HS_INDEX_GENERATION_MASK;
        if (generation == w.generation && (word & 0xffff) >= w.cursor)
            violate(j, "an index word leads to unit %llu of chunk %u, whose cursor is %u",
                    (unsigned long long)(word & 0xffff), chunk, w.cursor);
    }
}
#endif
