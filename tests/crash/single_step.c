/* single_step.c - a writer dies at every instruction; a reader and a recovery look at what it leaves.
 *
 *   suspicions   a writer that lives is taken for dead after each of its changes: its chunk is given to another, who
 *                publishes there; then it goes on, and writes over what the other has published.
 *   reuses       a reader is stepped through its look; at each of its instructions the chunk that it reads is drained,
 *                freed, claimed and written anew before it goes on.
 *   deaths       a writer is stepped through put, claim, publish, index, release, tag, head, whole commits. After each
 *                instruction that changed a byte of the segment it counts as dead: on a copy, a reader reads all there is,
 *                a coordinator recovers, a newcomer finishes what the dead one began.
 *   schedules    reader and writer are stepped in turns, a instructions of the one, b of the other.
 *
 * Proves: in every one of these interleavings, in the order in which this processor retires instructions, no reader is
 * given other bytes than were put, what was published is recovered, a head moves whole or not at all, and nothing is left
 * that keeps a newcomer from its work. An instruction that leaves the segment as it was is stepped and not judged again.
 * Does not prove: anything about two processors at once (the memory model is the model checker's), or about the disk. And a
 * suspect is one that puts, not one that commits: a live process whose lock is gone does not exist, and a head moved by
 * one after its record was drained and its chunk given away would name a record that is not there.
 *
 * Prints "figure NAME NUMBER" and "violation SENTENCE" lines. single_step DIRECTORY SEGMENT SEED SCALE FIRST_ONLY */
#define _GNU_SOURCE
#include "single_step.h"
#include "hs_metrics.h"

enum {
    KEYS = 24,  /* of the first commit: two levels */
    PUTS = 101, /* things of this number and above are put by the operation; lower ones stand before */
    RING_WINDOW = 32768, /* bytes above the cursor in which a writer writes between two publishes */
    STEPS_MAX = 400000   /* of one operation: it hangs */
};
static const char BRANCH[] = "main";

/* ---- Who acts ---- */

typedef struct actor {
    hs_engine *engine;
    hs_call call;
    hs_branch_ref branch;
} actor;

static thing numbered(uint64_t n) {
    static const uint32_t sizes[] = {700, 48, 1000, 2000, 64, 333};
    return thing_make(n, sizes[n % 6]);
}

/* Those that are asked for at every state, made once. */
static thing standing[4], coming[3];

static void things_make(void) {
    for (uint64_t n = 0; n < 4; n++) standing[n] = numbered(n);
    for (uint64_t n = 0; n < 3; n++) coming[n] = numbered(PUTS + n);
}

static int64_t put_thing(actor *a, const thing *t) { return hs_l1_put(&a->call, t->bytes, t->size); }

static hs_branch_ref branch_ref(void) {
    hs_branch_ref ref = {.slot = UINT32_MAX, .name_size = sizeof BRANCH - 1};
    memcpy(ref.name, BRANCH, sizeof BRANCH - 1);
    return ref;
}

/* Many keys: small values that stand in the leaf, larger ones by their ids. */
static int64_t commit_first(hs_call *call, hs_branch_ref *branch, const uint8_t base[40]) {
    static uint8_t keys[KEYS * 6], values[KEYS * 400];
    static uint32_t key_sizes[KEYS], value_sizes[KEYS];
    size_t used = 0;
    for (uint32_t i = 0; i < KEYS; i++) {
        keys[6 * i] = 'k', keys[6 * i + 1] = 'e', keys[6 * i + 2] = 'y', keys[6 * i + 3] = '/';
        keys[6 * i + 4] = (uint8_t)('0' + i / 10), keys[6 * i + 5] = (uint8_t)('0' + i % 10);
        key_sizes[i] = 6;
        value_sizes[i] = i % 4 == 0 ? 100 + 11 * i : 10 + i;
        memset(values + used, (int)('a' + i), value_sizes[i]);
        used += value_sizes[i];
    }
    hs_edits edits = {
        .count = KEYS, .keys = keys, .key_sizes = key_sizes, .values = values, .value_sizes = value_sizes};
    return hs_commit_many(call, branch, base, &edits);
}

static int64_t commit_second(hs_call *call, hs_branch_ref *branch, const uint8_t base[40]) {
    uint8_t value[500];
    memset(value, 'z', sizeof value);
    return hs_commit_one(call, branch, base, (const uint8_t *)"key/07", 6, value, sizeof value);
}

/* Where the branch stands: its {root, incarnation}; the empty state if it is not there. */
static void base_now(judge *j, actor *a, uint8_t base[40]) {
    memset(base, 0, 40);
    hs_empty_root(base);
    REQUIRE(hs_branch_word(&a->call, &a->branch) == HS_OK);
    uint64_t word = a->call.word;
    if (hs_record_get(&a->call, word) > 0) {
        memcpy(base, a->call.data + 16, 40);
        return;
    }
    uint64_t known = j->l2_serial;
    if (known > 0) memcpy(base, j->l2_root, 32);
    if (known > 0) base[32] = 1;
    REQUIRE(hs_branch_provide(&a->call, &a->branch, word, base, known, known, known > 0, known == 0) ==
            HS_OK);
}

/* ---- Operations ---- */

typedef struct operation {
    const char *name;
    void (*prepare)(judge *, actor *); /* not judged */
    bool drained;                     /* between prepare and run all goes to L2, and the coordinator sleeps */
    bool reused;                      /* ... and the next claim takes chunk 0 */
    int64_t (*run)(judge *, actor *); /* stepped; a status or more */
    uint32_t before, puts;            /* things that stand before; that are put */
    uint32_t root_before, root_after; /* of the branch: 0 none, 1 first commit, 2 second */
} operation;

static void prepare_nothing(judge *j, actor *a) { (void)j, (void)a; }

static void prepare_one(judge *j, actor *a) {
    (void)j;
    REQUIRE(put_thing(a, &standing[1]) == HS_OK);
}

/* A chunk with less room than the next thing takes. */
static void prepare_full(judge *j, actor *a) {
    (void)j;
    hs_ring *ring = &a->engine->ring;
    uint64_t n = 1;
    do {
        thing t = numbered(n++);
        REQUIRE(put_thing(a, &t) == HS_OK);
    } while (ring->writer.end + 2 * hs_ring_units(2048) < HS_CHUNK_UNITS);
}

/* All of chunk 0 is in L2, and it is free. */
static void prepare_free(judge *j, actor *a) {
    (void)j;
    for (int n = 1; n <= 3; n++) REQUIRE(put_thing(a, &standing[n]) == HS_OK);
    hs_ring *ring = &a->engine->ring;
    REQUIRE(hs_chunk_claim(ring->segment, ring->self, &ring->writer, 1) == HS_OK);
    hs_chunk_release(ring->segment, ring->self, &ring->writer, true);
}

static void prepare_branch(judge *j, actor *a) {
    uint8_t base[40];
    base_now(j, a, base);
}

static void prepare_first(judge *j, actor *a) {
    uint8_t base[40];
    base_now(j, a, base);
    REQUIRE(commit_first(&a->call, &a->branch, base) > 0);
}

static int64_t run_put(judge *j, actor *a) {
    (void)j;
    return put_thing(a, &coming[0]);
}

/* Three things, one flush. */
static int64_t run_puts(judge *j, actor *a) {
    (void)j;
    hs_ring *ring = &a->engine->ring;
    int status = HS_OK;
    for (int i = 0; i < 3 && status == HS_OK; i++) {
        hs_ring_item item = thing_item(&coming[i]);
        uint64_t place;
        bool added;
        status = hs_ring_put(ring, &item, &place, &added);
    }
    if (status == HS_OK) status = hs_ring_flush(ring);
    hs_ring_end(ring);
    return status;
}

static int64_t run_join(judge *j, actor *a) {
    hs_participant second;
    int status = hs_participant_join(&a->engine->segment, j->alive, &second);
    if (status == HS_OK) hs_participant_leave(&second);
    return status;
}

static int64_t run_tag(judge *j, actor *a) {
    (void)j;
    return hs_branch_word(&a->call, &a->branch);
}

static int64_t run_first(judge *j, actor *a) {
    uint8_t base[40] = {0};
    (void)j;
    hs_empty_root(base);
    return commit_first(&a->call, &a->branch, base);
}

static int64_t run_second(judge *j, actor *a) {
    uint8_t base[40];
    (void)j;
    memcpy(base, a->call.data + 16, 40); /* the record that the first commit left there */
    return commit_second(&a->call, &a->branch, base);
}

static const operation operations[] = {
    {"commit of one key", prepare_first, false, false, run_second, 0, 0, 1, 2},
    {"put into a fresh chunk", prepare_nothing, false, false, run_put, 0, 1, 0, 0},
    {"three puts with one flush", prepare_one, false, false, run_puts, 1, 3, 0, 0},
    {"put over a chunk that was freed", prepare_free, true, true, run_puts, 3, 3, 0, 0},
    {"put while the coordinator sleeps", prepare_one, true, false, run_put, 1, 1, 0, 0},
    {"puts that fill a chunk and claim the next", prepare_full, true, false, run_puts, 3, 3, 0, 0},
    {"join and leave", prepare_nothing, false, false, run_join, 0, 0, 0, 0},
    {"branch tag", prepare_nothing, false, false, run_tag, 0, 0, 0, 0},
    {"first commit of a branch", prepare_branch, false, false, run_first, 0, 0, 0, 1},
    {"commit on what is in L2 already", prepare_first, true, false, run_second, 0, 0, 1, 2},
};
enum { OPERATIONS = sizeof operations / sizeof *operations };

static uint8_t roots[3][32]; /* of the branch; [0] the empty state's */

/* What the commits must come to: made in private memory, by nobody else seen. */
static void roots_make(void) {
    hs_open_args args = {.ring_size = 4 * HS_CHUNK_SIZE, .cache_size = 8 << 20, .mode = HS_OPEN_PRIVATE};
    actor a = {0};
    uint8_t base[40] = {0}, *data = malloc(DATA_CAPACITY);
    REQUIRE(data != NULL && hs_engine_open(&args, &a.engine) == HS_OK);
    a.call = (hs_call){.engine = a.engine, .data = data, .capacity = DATA_CAPACITY};
    hs_empty_root(base);
    memcpy(roots[0], base, 32);
    REQUIRE(commit_first(&a.call, NULL, base) > 0);
    memcpy(roots[1], data + 16, 32);
    memcpy(base, roots[1], 32);
    REQUIRE(commit_second(&a.call, NULL, base) > 0);
    memcpy(roots[2], data + 16, 32);
    hs_engine_close(a.engine);
    free(data);
}

/* ---- The writer, in its process ---- */

static void writer_body(judge *j, const void *context) {
    const operation *op = context;
    hs_segment_config config = rig_config(4);
    hs_open_args args = {.segment_name = j->name,
                         .participants_path = j->alive,
                         .store_device = config.store_device,
                         .store_inode = config.store_inode,
                         .ring_size = config.ring_size,
                         .cache_size = 8 << 20,
                         .mode = HS_OPEN_PARTICIPANT};
    memcpy(args.store_uuid, config.store_uuid, 16);
    memcpy(args.boot_id, config.boot_id, 16);
    actor a = {.branch = branch_ref()};
    if (hs_engine_open(&args, &a.engine) != HS_OK) _exit(4);
    a.call = (hs_call){.engine = a.engine, .data = j->data, .capacity = DATA_CAPACITY};
    op->prepare(j, &a);
    raise(SIGSTOP);
    hs_store32_release(&j->board->running, 1);
    j->board->result = op->run(j, &a);
    hs_store32_release(&j->board->running, 0);
    raise(SIGSTOP);
}

/* ---- What a state must be like ---- */

static bool differs(judge *j, const void *start, size_t size) {
    size_t offset = (size_t)((const uint8_t *)start - j->real.base);
    if (memcmp(start, j->shadow + offset, size) == 0) return false;
    memcpy(j->shadow + offset, start, size);
    return true;
}

/* Has a byte changed since the last look, where a writer may write? segment_is_as_seen finds what changed elsewhere. */
static bool changed(judge *j) {
    const hs_segment *s = &j->real;
    uint64_t tag = hs_branch_tag(s, (const uint8_t *)BRANCH, sizeof BRANCH - 1);
    uint32_t home = hs_branch_window_slot(tag, 0);
    bool any = differs(j, s->header, sizeof *s->header);
    any |= differs(j, s->participants, 8 * sizeof *s->participants);
    any |= differs(j, &s->branch_tags[home], sizeof *s->branch_tags);
    any |= differs(j, &s->branches[home], sizeof *s->branches);
    any |= differs(j, s->index, ((size_t)s->index_mask + 1) * sizeof *s->index);
    any |= differs(j, s->chunks, s->chunk_count * sizeof *s->chunks);
    for (uint32_t chunk = 0; chunk < s->chunk_count; chunk++) {
        hs_chunk_state_word w = hs_chunk_word_decode(hs_load_acquire(&s->chunks[chunk].word));
        if (w.state != HS_CHUNK_BUSY || w.cursor >= HS_CHUNK_UNITS) continue;
        size_t room = (size_t)(HS_CHUNK_UNITS - w.cursor) * HS_UNIT;
        any |= differs(j, hs_chunk_address(s, chunk, w.cursor), room < RING_WINDOW ? room : RING_WINDOW);
    }
    /* What is counted, by the writer and by the judge in the coordinator's place, makes no other state. */
    (void)differs(j, s->metrics, 8 * sizeof *s->metrics);
    (void)differs(j, hs_metrics_coordinator(s), sizeof *s->metrics);
    return any;
}

static void segment_is_as_seen(judge *j) {
    for (size_t offset = 0; offset < j->real.size; offset += 4096)
        if (memcmp(j->real.base + offset, j->shadow + offset, 4096) != 0) {
            violate(j, "a byte changed near offset %zu, where this writer may not write", offset);
            return;
        }
}

/* The branch as a reader finds it: which of the two roots. */
static uint32_t head_read(judge *j, hs_segment *segment, bool l2, const operation *op) {
    uint32_t slot;
    hs_ring_hit hit;
    hs_record record;
    if (hs_branch_slot_look(segment, (const uint8_t *)BRANCH, sizeof BRANCH - 1, &slot) != HS_OK) return 0;
    uint64_t word = hs_branch_head_load(segment, slot);
    if ((word & HS_WORD_IN_L2) != 0) return 0;
    int status = hs_ring_read(segment, word, j->record, HS_RECORD_SIZE_MAX, &hit);
    if (status == HS_OK) status = hs_record_decode(j->record, hit.stored_size, &record);
    if (status != HS_OK) {
        violate(j, "the head's record is not whole: %s", hs_strerror(status));
        return op->root_before;
    }
    uint32_t root = memcmp(record.root, roots[op->root_after], 32) == 0 ? op->root_after : op->root_before;
    if (memcmp(record.root, roots[root], 32) != 0) violate(j, "the head has a root that nobody committed");
    if (record.name_size != sizeof BRANCH - 1 || memcmp(record.name, BRANCH, sizeof BRANCH - 1) != 0)
        violate(j, "the head's record is of another branch");
    if (!tree_is_whole(j, segment, l2, record.root, 2)) violate(j, "the head's tree is not whole");
    return root;
}

/* What stands is found, what is being put is found whole or not at all; returns how many of these. */
static uint32_t things_read(judge *j, hs_segment *segment, const operation *op, bool found[]) {
    uint32_t count = 0;
    for (uint32_t n = 1; n <= op->before; n++) {
        int status = find(segment, &standing[n]);
        if (status == HS_CORRUPT) violate(j, "thing %u that stood before has wrong bytes", n);
        if (status != HS_OK && l2_find(j, standing[n].id) == NULL)
            violate(j, "thing %u that stood before is lost", n);
    }
    for (uint32_t i = 0; i < op->puts; i++) {
        int status = find(segment, &coming[i]);
        found[i] = status == HS_OK;
        count += found[i];
        if (status != HS_OK && status != HS_NOT_FOUND)
            violate(j, "thing %u that is being put has wrong bytes: %s", i, hs_strerror(status));
    }
    return count;
}

/* ---- Recovery, and a newcomer ---- */

static int newcomer_load(void *context, const uint8_t id[32], uint8_t *buffer, size_t *size) {
    int64_t found = bytes_of(context, &((judge *)context)->copy, true, id, buffer);
    if (found < 0) return HS_MISSING;
    *size = (size_t)found;
    return HS_OK;
}

/* A newcomer's ring, for the tree's callback: one at a time. */
static hs_ring *newcomer_ring;

static int newcomer_store(void *context, const uint8_t id[32], const uint8_t *bytes, size_t size,
                          bool *added) {
    hs_ring_item item = {
        .kind = HS_ENTRY_NODE, .id = id, .payload = bytes, .stored_size = (uint32_t)size, .raw_size = size};
    uint64_t place;
    (void)context;
    return hs_ring_put(newcomer_ring, &item, &place, added);
}

/* A participant of the copy, with an engine of its own: hs_engine_open would lead to the segment itself. */
static bool newcomer_open(judge *j, hs_engine *engine) {
    memset(engine, 0, sizeof *engine);
    engine->segment = j->copy;
    engine->mode = HS_OPEN_PARTICIPANT;
    engine->probe_fd = -1;
    pthread_mutex_init(&engine->lock, NULL);
    engine->scratch = malloc(HS_NODE_SIZE_MAX + HS_RECORD_SIZE_MAX);
    engine->heads = calloc(HS_BRANCH_SLOTS, sizeof *engine->heads);
    REQUIRE(engine->scratch != NULL && engine->heads != NULL);
    REQUIRE(hs_cache_new(1 << 20, &engine->tree.cache) == HS_OK);
    int status = hs_participant_join(&engine->segment, j->dead, &engine->self);
    if (status != HS_OK) violate(j, "no newcomer can join: %s", hs_strerror(status));
    engine->tree.io = (hs_node_io){.context = j, .load = newcomer_load, .store = newcomer_store};
    hs_ring_init(&engine->ring, &engine->segment, &engine->self);
    newcomer_ring = &engine->ring;
    return status == HS_OK;
}

static void newcomer_close(hs_engine *engine) {
    if (engine->self.fd >= 0) hs_participant_leave(&engine->self);
    hs_cache_free(engine->tree.cache);
    free(engine->heads);
    free(engine->scratch);
    pthread_mutex_destroy(&engine->lock);
}

/* The newcomer does what the dead one was about to do. */
static void newcomer_works(judge *j, const operation *op) {
    hs_engine engine;
    if (newcomer_open(j, &engine)) {
        actor a = {.engine = &engine, .branch = branch_ref()};
        a.call = (hs_call){.engine = &engine, .data = j->data + DATA_CAPACITY, .capacity = DATA_CAPACITY};
        for (int i = 0; i < 3; i++) {
            int64_t status = put_thing(&a, &coming[i]);
            if (status != HS_OK || find(&engine.segment, &coming[i]) != HS_OK)
                violate(j, "the newcomer cannot put thing %d: %s", i, hs_strerror((int)status));
        }
        uint8_t base[40];
        base_now(j, &a, base);
        int64_t result = op->root_after == 2 ? commit_second(&a.call, &a.branch, base)
                                             : commit_first(&a.call, &a.branch, base);
        if (result < 0 && result != HS_UNCHANGED)
            violate(j, "the newcomer cannot commit: %s", hs_strerror((int)result));
    }
    newcomer_close(&engine);
}

/* After rounds without a living writer: nothing is owned, nothing is left to do. */
static void all_is_free(judge *j, hs_drain *drain, const hs_drain_round *round) {
    if (round->damaged != 0)
        violate(j, "recovery found %llu damaged entries", (unsigned long long)round->damaged);
    if (hs_drain_has_work(drain, 1)) violate(j, "recovery is never done");
    for (uint32_t chunk = 0; chunk < j->copy.chunk_count; chunk++) {
        uint32_t state = hs_chunk_word_decode(hs_load_acquire(&j->copy.chunks[chunk].word)).state;
        if (state != HS_CHUNK_FREE && state != HS_CHUNK_IDLE)
            violate(j, "chunk %u is in state %u when all are dead", chunk, state);
    }
    for (uint32_t n = 0; n < HS_PARTICIPANTS; n++)
        if (hs_load32_acquire(&j->copy.participants[n].state) != 0) violate(j, "slot %u is never freed", n);
}

/* A coordinator finds the writer dead, and drains; all that a reader found is in L2, and the head is what it was. */
static void recover(judge *j, hs_drain *drain, const operation *op, const bool found[], uint32_t root) {
    hs_drain_round round;
    round_take(j, drain, &round);
    round_take(j, drain, &round);
    all_is_free(j, drain, &round);
    for (uint32_t n = 1; n <= op->before; n++)
        if (l2_find(j, standing[n].id) == NULL) violate(j, "thing %u that stood before did not reach L2", n);
    for (uint32_t i = 0; i < op->puts; i++) {
        if (found[i] && l2_find(j, coming[i].id) == NULL)
            violate(j, "thing %u was read, and did not reach L2", i);
    }
    if (head_read(j, &j->copy, true, op) != root) violate(j, "recovery moved the head");
    if (root != 0 && memcmp(j->l2_root, roots[root], 32) != 0)
        violate(j, "the head's commit did not reach L2");
    if (root != 0 && !tree_is_whole(j, NULL, true, roots[root], 2))
        violate(j, "the head's tree did not reach L2 whole");
}

/* The writer is dead here. Returns the root that the branch had. */
static uint32_t state_check(judge *j, const operation *op) {
    bool found[3] = {false};
    uint32_t count = j->l2_count, end = op->root_after ? op->root_after : 1;
    uint64_t serial = j->l2_serial;
    uint8_t l2_root[32];
    hs_drain *drain;
    hs_drain_round round;
    memcpy(l2_root, j->l2_root, 32);
    j->states++;
    copy_refresh(j);
    chunks_are_whole(j, &j->copy);
    index_is_published(j, &j->copy);
    (void)things_read(j, &j->copy, op, found);
    uint32_t root = head_read(j, &j->copy, true, op);
    REQUIRE(hs_drain_open(&j->copy, j->dead_fd, &drain) == HS_OK);
    recover(j, drain, op, found, root);
    newcomer_works(j, op);
    round_take(j, drain, &round);
    round_take(j, drain, &round);
    all_is_free(j, drain, &round);
    if (memcmp(j->l2_root, roots[end], 32) != 0) violate(j, "the newcomer's commit did not reach L2");
    hs_drain_close(drain);
    l2_forget(j, count);
    j->l2_serial = serial;
    memcpy(j->l2_root, l2_root, 32);
    return root;
}

/* ---- Deaths ---- */

/* Between prepare and run. */
static void between(judge *j, const operation *op) {
    if (op->drained) round_run(j, &j->real, j->alive_fd);
    if (op->drained) hs_store32_relaxed(&j->real.header->sleeping, 1);
    if (op->reused) hs_store_relaxed(&j->real.header->claim_hint, j->real.chunk_count - 1);
    memcpy(j->shadow, j->real.base, j->real.size);
}

static void operation_step(judge *j, const operation *op, pid_t child) {
    uint32_t root = state_check(j, op);
    if (root != op->root_before) violate(j, "the branch is not at its root before the operation");
    while (!hs_load32_acquire(&j->board->running) && tracee_step(j, child)) {
    }
    while (hs_load32_acquire(&j->board->running) && j->at < STEPS_MAX && tracee_step(j, child)) {
        j->at++;
        if (!changed(j)) continue;
        uint32_t now = state_check(j, op);
        if (now != root && now != op->root_after) violate(j, "the branch went back");
        root = now;
    }
    segment_is_as_seen(j);
    bool found[3];
    j->instructions += j->at;
    if (j->at == STEPS_MAX) violate(j, "the operation does not end");
    if (j->board->result < 0) violate(j, "the operation failed: %s", hs_strerror((int)j->board->result));
    if (root != op->root_after) violate(j, "the commit was acknowledged, and the head has not moved");
    if (things_read(j, &j->real, op, found) != op->puts)
        violate(j, "a put was acknowledged, and is not found");
}

static void deaths(judge *j) {
    for (int i = 0; i < OPERATIONS; i++) {
        const operation *op = &operations[i];
        j->what = op->name;
        j->at = 0;
        segment_fresh(j);
        pid_t child = tracee_start(j, writer_body, op);
        if (tracee_stopped(j, child)) {
            between(j, op);
            operation_step(j, op, child);
        }
        tracee_end(child);
        segment_end(j);
    }
}

/* ---- A live reader ---- */

/* One look for a thing by its id, or (thing NULL) for a record by its place; counts what it finds on the board. */
static void look(judge *j, hs_ring *reader, const thing *t) {
    static uint8_t buffer[HS_RECORD_SIZE_MAX];
    board *b = j->board;
    hs_ring_hit hit;
    hs_record record;
    bool right = false;
    int status = t == NULL ? hs_ring_read(reader->segment, b->place, buffer, sizeof buffer, &hit)
                           : hs_ring_get(reader, t->id, buffer, sizeof buffer, &hit);
    steps_end();
    if (status == HS_OK && t == NULL)
        right = hs_record_decode(buffer, hit.stored_size, &record) == HS_OK && record.serial == b->want;
    else if (status == HS_OK)
        right = hit.stored_size == t->size && memcmp(buffer, t->bytes, t->size) == 0;
    if (status != HS_NOT_FOUND && !right) hs_add32_seq_cst(&b->wrong, 1);
    if (right) hs_add32_seq_cst(&b->found, 1);
    hs_add32_seq_cst(&b->reads, 1);
}

/* A writer that goes round in chunk 0 of the copy: what it put last is drained, the chunk is freed, thing and record
 * number n + 1 are put there. */
typedef struct circle {
    worker w;
    bool record;
    uint64_t number, place;
} circle;

static thing circle_thing(const circle *c) { return thing_make(c->number, c->record ? 600 : 48); }

static void circle_turn(judge *j, circle *c) {
    worker *w = &c->w;
    hs_chunk_release(&j->copy, &w->self, &w->ring.writer, true);
    round_run(j, &j->copy, j->alive_fd);
    hs_store_relaxed(&j->copy.header->claim_hint, j->copy.chunk_count - 1);
    c->number++;
    thing t = circle_thing(c);
    uint8_t bytes[HS_RECORD_FIXED_SIZE + HS_RECORD_NAME_MAX];
    size_t size = record_make(BRANCH, c->number, 0, bytes);
    hs_ring_item items[2] = {
        thing_item(&t),
        {.kind = HS_ENTRY_RECORD, .payload = bytes, .stored_size = (uint32_t)size, .raw_size = size}};
    uint64_t other;
    bool added;
    REQUIRE(hs_ring_put(&w->ring, &items[c->record], &c->place, &added) == HS_OK);
    REQUIRE(hs_ring_put(&w->ring, &items[!c->record], &other, &added) == HS_OK);
    REQUIRE(hs_ring_flush(&w->ring) == HS_OK);
    if (hs_place_chunk(c->place) != 0 || hs_place_offset(c->place) != 0)
        violate(j, "the chunk did not come free");
}

/* At each instruction of the look, a branch in which the chunk is used anew before the look goes on. */
static void turn_across(judge *j, void *context) {
    j->at = steps_taken;
    if (!branch_off(j)) return;
    circle_turn(j, context);
    stepping.over = true;
}

static void reuses(judge *j, bool record) {
    circle c = {.record = record};
    hs_ring reader;
    segment_fresh(j);
    copy_refresh(j);
    REQUIRE(hs_participant_join(&j->copy, j->alive, &c.w.self) == HS_OK);
    hs_ring_init(&c.w.ring, &j->copy, &c.w.self);
    hs_ring_init(&reader, &j->copy, NULL);
    j->what = record ? "chunk reused under a reader of a record" : "chunk reused under a reader of a value";
    circle_turn(j, &c);
    thing t = circle_thing(&c);
    j->board->want = c.number;
    j->board->place = c.place;
    hs_store32_relaxed(&j->board->found, 0);
    steps_begin(j, turn_across, &c);
    look(j, &reader, record ? NULL : &t);
    if (hs_load32_relaxed(&j->board->wrong) != 0) violate(j, "a reader was given what was put there since");
    branch_end(j);
    j->instructions += steps_taken;
    j->looks += steps_taken;
    uint32_t found = hs_load32_relaxed(&j->board->found);
    if (found < 2 || found > steps_taken) violate(j, "of all looks %u found what they looked for", found);
    worker_leave(&c.w);
    segment_end(j);
}

/* ---- Reader and writer in turns ---- */

static void overwriter_body(judge *j, const void *context) {
    worker w = *(const worker *)context;
    raise(SIGSTOP);
    j->board->result = 1;
    for (int i = 0; i < 2; i++) (void)store(&w, &coming[i]);
    j->board->result = 0;
    raise(SIGSTOP);
}

/* Looks for one thing for ever. */
static void watcher_body(judge *j, const void *context) {
    hs_ring reader;
    hs_ring_init(&reader, &j->real, NULL);
    raise(SIGSTOP);
    for (;;) look(j, &reader, context);
}

static void turns_take(judge *j, pid_t reader, pid_t writer, unsigned a, unsigned b) {
    bool alive = true;
    uint32_t before = hs_load32_acquire(&j->board->reads);
    while (alive && j->board->result == 0 && tracee_step(j, writer)) {
    }
    while (alive && j->board->result == 1) {
        for (unsigned i = 0; i < b && alive && j->board->result == 1; i++, j->at++)
            alive = tracee_step(j, writer);
        for (unsigned i = 0; i < a && alive; i++) alive = tracee_step(j, reader);
        j->instructions += a + b;
    }
    j->looks += hs_load32_acquire(&j->board->reads) - before;
    if (hs_load32_acquire(&j->board->wrong) != 0)
        violate(j, "a reader beside the writer was given wrong bytes, in turns of %u and %u instructions", a,
                b);
    hs_store32_relaxed(&j->board->wrong, 0);
}

/* The reader wants what is being overwritten, or what is being put. */
static void schedule(judge *j, unsigned a, unsigned b, const thing *wanted) {
    worker w;
    segment_fresh(j);
    REQUIRE(hs_participant_join(&j->real, j->alive, &w.self) == HS_OK);
    hs_ring_init(&w.ring, &j->real, &w.self);
    j->what =
        wanted == &standing[1] ? "turns of an overwriter and a reader" : "turns of a writer and a reader";
    j->at = 0;
    (void)store(&w, &standing[1]);
    REQUIRE(hs_chunk_claim(&j->real, &w.self, &w.ring.writer, 1) == HS_OK);
    hs_chunk_release(&j->real, &w.self, &w.ring.writer, true);
    round_run(j, &j->real, j->alive_fd);
    hs_store_relaxed(&j->real.header->claim_hint, j->real.chunk_count - 1);
    pid_t reader = tracee_start(j, watcher_body, wanted), writer = tracee_start(j, overwriter_body, &w);
    REQUIRE(tracee_stopped(j, reader) && tracee_stopped(j, writer));
    turns_take(j, reader, writer, a, b);
    tracee_end(reader);
    tracee_end(writer);
    worker_leave(&w);
    segment_end(j);
}

static void schedules(judge *j, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        uint64_t dice = hs_key_hash_level(j->seed, i);
        schedule(j, 1 + (unsigned)(dice % 7), 1 + (unsigned)(dice / 7 % 7),
                 i % 3 == 2 ? &coming[1] : &standing[1]);
    }
}

/* ---- A writer that is wrongly taken for dead ---- */

/* The suspect, the other that is given its chunk, and what that chunk was like at the last look. All on the copy. */
typedef struct suspect {
    worker w, other;
    bool is_suspected;
    uint64_t word;
    uint8_t bytes[8192];
} suspect;

static int suspect_puts(worker *w) {
    uint64_t place;
    bool added;
    int status = HS_OK;
    for (int i = 0; i < 2 && status == HS_OK; i++) status = put(w, &coming[i], &place, &added);
    if (status == HS_OK) status = hs_ring_flush(&w->ring);
    hs_ring_end(&w->ring);
    return status;
}

static bool chunk_changed(judge *j, suspect *s) {
    uint64_t word = hs_load_acquire(&j->copy.chunks[0].word);
    if (word == s->word && memcmp(s->bytes, j->copy.ring, sizeof s->bytes) == 0) return false;
    s->word = word;
    memcpy(s->bytes, j->copy.ring, sizeof s->bytes);
    return true;
}

/* Everybody is taken for dead, and another claims chunk 0, every other time with the suspect's very slot. */
static void suspicion(judge *j, suspect *s) {
    for (int i = 0; i < 2; i++) round_run(j, &j->copy, j->dead_fd);
    hs_store_relaxed(&j->copy.header->claim_hint, j->copy.chunk_count - 1);
    REQUIRE(hs_participant_join(&j->copy, j->suspicions % 2 ? j->dead : j->alive, &s->other.self) == HS_OK);
    hs_ring_init(&s->other.ring, &j->copy, &s->other.self);
    for (int n = 1; n <= 3; n++) {
        uint64_t place;
        bool added;
        REQUIRE(put(&s->other, &standing[n], &place, &added) == HS_OK);
    }
    REQUIRE(hs_ring_flush(&s->other.ring) == HS_OK);
    s->is_suspected = true;
    (void)chunk_changed(j, s);
}

/* All that the other has published is read as it was put, or not at all. */
static void other_is_unharmed(judge *j, suspect *s) {
    uint64_t word = s->word;
    if (!chunk_changed(j, s)) return;
    if (s->word != word) violate(j, "the suspect changed another's chunk word");
    for (int n = 1; n <= 3; n++)
        if (find(&j->copy, &standing[n]) == HS_CORRUPT)
            violate(j, "a reader was given bytes that the suspect wrote");
}

/* After each change a branch in which the suspicion falls; every fourth of them is watched at each instruction that follows. */
static void suspect_step(judge *j, void *context) {
    suspect *s = context;
    j->at = steps_taken;
    if (s->is_suspected) {
        other_is_unharmed(j, s);
    } else if (chunk_changed(j, s)) {
        j->suspicions++;
        if (!branch_off(j)) return;
        suspicion(j, s);
        stepping.over = j->suspicions % 4 != 0;
    }
}

/* What the suspect was told is in the ring or in L2. */
static void suspect_was_told_right(judge *j, suspect *s, int status) {
    if (status == HS_REAPED) status = suspect_puts(&s->w);
    if (status != HS_OK) violate(j, "the suspect cannot put: %s", hs_strerror(status));
    for (int i = 0; i < 2; i++)
        if (find(&j->copy, &coming[i]) != HS_OK && l2_find(j, coming[i].id) == NULL)
            violate(j, "what the suspect was told is put is lost");
}

static void suspicions(judge *j) {
    static suspect s;
    segment_fresh(j);
    copy_refresh(j);
    j->what = "writer taken for dead";
    REQUIRE(hs_participant_join(&j->copy, j->alive, &s.w.self) == HS_OK);
    hs_ring_init(&s.w.ring, &j->copy, &s.w.self);
    REQUIRE(hs_segment_allocate_chunk(&j->copy, 0) == HS_OK);
    (void)chunk_changed(j, &s);
    steps_begin(j, suspect_step, &s);
    int status = suspect_puts(&s.w);
    steps_end();
    if (s.is_suspected) other_is_unharmed(j, &s);
    suspect_was_told_right(j, &s, status);
    branch_end(j);
    j->instructions += steps_taken;
    worker_leave(&s.w);
    segment_end(j);
}

/* ---- All of it ---- */

static void figures_print(const judge *j) {
    printf("figure operations %d\n", OPERATIONS);
    printf("figure instructions %llu\n", (unsigned long long)j->instructions);
    printf("figure states %llu\n", (unsigned long long)j->states);
    printf("figure looks %llu\n", (unsigned long long)j->looks);
    printf("figure suspicions %llu\n", (unsigned long long)j->suspicions);
    printf("figure wrong or unrecoverable %llu\n", (unsigned long long)j->violations);
    fflush(stdout);
}

static judge the_judge;

static void segment_unlink(void) { hs_segment_unlink(the_judge.name); }

int main(int argc, char **argv) {
    judge *j = &the_judge;
    REQUIRE(argc == 6);
    snprintf(j->name, sizeof j->name, "/%s", argv[2]);
    participants_file(j->alive, argv[1], "alive", &j->alive_fd);
    participants_file(j->dead, argv[1], "dead", &j->dead_fd);
    j->seed = strtoull(argv[3], NULL, 10);
    double scale = strtod(argv[4], NULL);
    j->first_only = argv[5][0] == '1';
    j->board = mmap(NULL, sizeof *j->board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    j->pack = malloc(PACK_CAPACITY);
    j->block = malloc(PACK_CAPACITY);
    j->record = malloc(HS_RECORD_SIZE_MAX);
    j->data = malloc(2 * DATA_CAPACITY);
    REQUIRE(j->board != MAP_FAILED && j->pack && j->block && j->record && j->data);
    atexit(segment_unlink);
    things_make();
    roots_make();
    suspicions(j); /* the short ones first: where one violation is enough, it is found soon */
    reuses(j, false);
    reuses(j, true);
    deaths(j);
    schedules(j, (unsigned)(10 * scale) + 2);
    figures_print(j);
    return 0;
}
