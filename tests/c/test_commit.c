/* hs_commit.c: from edits to the head, over a real segment. */
#include <pthread.h>
#include "hs_engine_rig.h"
#include "hs_record.h"

static int64_t put(rig *r, int who, hs_branch_ref *ref, const uint8_t *base, const char *key,
                   const char *value) {
    return hs_commit_one(&r->call[who], ref, base, (const uint8_t *)key, strlen(key), (const uint8_t *)value,
                         strlen(value));
}

static void check_value(rig *r, int who, const uint8_t *root, const char *key, const char *value) {
    int64_t n = hs_get(&r->call[who], root, (const uint8_t *)key, strlen(key));
    CHECK_EQ_INT(n, (int64_t)strlen(value));
    if (n == (int64_t)strlen(value)) CHECK_EQ_MEM(r->data[who], value, strlen(value));
}

/* A branch with one commit, known to both engines; base is what a fork of it stands on. */
static void start_branch(rig *r, hs_branch_ref ref[2], uint8_t base[40]) {
    uint8_t nothing[40] = {0};
    memcpy(nothing, r->empty, 32);
    for (int i = 0; i < 2; i++) {
        ref[i] = rig_branch("main");
        rig_absent(r, i, &ref[i]);
    }
    REQUIRE(put(r, 0, &ref[0], nothing, "a", "1") > 0);
    rig_base(r->data[0], base);
}

static void detached_commit_is_read_by_another_process(void) {
    rig r;
    rig_open(&r, 4);
    char large[1000];
    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = 0;
    int64_t n = put(&r, 0, NULL, r.empty, "key", large);
    REQUIRE((n & ~HS_LOOK_AFTER) == (int64_t)HS_RECORD_FIXED_SIZE);
    hs_record record;
    REQUIRE(hs_record_decode(r.data[0], (size_t)(n & ~HS_LOOK_AFTER), &record) == HS_OK);
    CHECK_EQ_INT(record.serial, 0);
    CHECK_EQ_INT(record.changed_keys, 1);
    CHECK_EQ_INT(record.new_nodes, 1);
    CHECK(record.new_bytes > sizeof large - 1);
    CHECK_EQ_MEM(record.parent, r.empty, 32);
    check_value(&r, 1, record.root, "key", large);
    CHECK_EQ_INT(hs_get(&r.call[1], record.root, (const uint8_t *)"kez", 3), HS_NOT_FOUND);
    rig_close(&r);
}

static void many_edits_come_in_one_call(void) {
    rig r;
    rig_open(&r, 4);
    uint32_t key_sizes[4] = {1, 1, 1, 1}, value_sizes[4] = {2, 100, 0, 40};
    uint8_t values[142], forms[4] = {HS_KIND_EXECUTABLE, HS_KIND_FILE, HS_EDIT_REMOVE, HS_EDIT_BLOB};
    memset(values, 'v', sizeof values);
    hs_store_u64(values + 102 + 32, 1 << 20); /* the blob's size, behind its id */
    hs_edits edits = {.count = 4,
                      .keys = (const uint8_t *)"abcd",
                      .key_sizes = key_sizes,
                      .values = values,
                      .value_sizes = value_sizes,
                      .forms = forms};
    REQUIRE(hs_commit_many(&r.call[0], NULL, r.empty, &edits) > 0);
    uint8_t root[32];
    memcpy(root, r.data[0] + 16, 32);
    CHECK_EQ_INT(hs_totals(&r.call[1], root), HS_OK);
    CHECK_EQ_INT(r.call[1].keys, 3);
    CHECK_EQ_INT(hs_stat(&r.call[1], root, (const uint8_t *)"a", 1), HS_OK);
    CHECK_EQ_INT(r.call[1].value_kind, HS_KIND_EXECUTABLE);
    CHECK_EQ_INT(r.call[1].size, 2);
    CHECK_EQ_INT(hs_get(&r.call[1], root, (const uint8_t *)"d", 1),
                 HS_MISSING); /* a blob is a file, not in L1 */
    CHECK_EQ_INT(r.call[1].missing_kind, HS_ENTRY_VALUE);
    CHECK_EQ_MEM(r.call[1].missing, "vvvvvvvvvvvvvvvv", 16);
    rig_close(&r);
}

/* Where keys and values stand makes no difference: the same state, by either way. */
static void edits_strewn_over_memory_are_the_same(void) {
    rig r;
    rig_open(&r, 4);
    uint32_t key_sizes[3] = {1, 2, 3}, value_sizes[3] = {70, 0, 5};
    uint8_t values[75], root[32];
    memset(values, 'v', sizeof values);
    const uint8_t *key_at[3] = {(const uint8_t *)"b", (const uint8_t *)"ab", (const uint8_t *)"abc"};
    const uint8_t *value_at[3] = {values + 5, values, values};
    hs_edits edits = {.count = 3,
                      .keys = (const uint8_t *)"bababc",
                      .key_sizes = key_sizes,
                      .values = values,
                      .value_sizes = value_sizes};
    REQUIRE(hs_commit_many(&r.call[0], NULL, r.empty, &edits) > 0);
    memcpy(root, r.data[0] + 16, 32);
    edits.keys = edits.values = NULL;
    edits.key_at = key_at;
    edits.value_at = value_at;
    REQUIRE(hs_commit_many(&r.call[0], NULL, r.empty, &edits) > 0);
    CHECK_EQ_MEM(r.data[0] + 16, root, 32);
    rig_close(&r);
}

static void bad_edits_are_refused(void) {
    rig r;
    rig_open(&r, 4);
    uint32_t key_size = 1, value_size = 2;
    uint8_t form = HS_EDIT_BLOB;
    hs_edits edits = {.count = 1,
                      .keys = (const uint8_t *)"k",
                      .key_sizes = &key_size,
                      .values = (const uint8_t *)"vv",
                      .value_sizes = &value_size,
                      .forms = &form};
    CHECK_EQ_INT(hs_commit_many(&r.call[0], NULL, r.empty, &edits),
                 HS_ARGUMENT); /* too short to hold an id */
    form = HS_KIND_COUNT;
    CHECK_EQ_INT(hs_commit_many(&r.call[0], NULL, r.empty, &edits), HS_ARGUMENT);
    form = 0;
    key_size = HS_KEY_MAX + 1;
    CHECK_EQ_INT(hs_commit_many(&r.call[0], NULL, r.empty, &edits), HS_ARGUMENT);
    CHECK_EQ_INT(put(&r, 0, NULL, r.empty, "", "v"), HS_ARGUMENT);
    CHECK_EQ_INT(hs_commit_continue(&r.call[0]), HS_ARGUMENT);
    hs_commit_cancel(&r.call[0]);
    rig_close(&r);
}

static void branch_moves_and_others_see_it(void) {
    rig r;
    rig_open(&r, 4);
    hs_branch_ref ref[2];
    uint8_t base[40];
    start_branch(&r, ref, base);
    REQUIRE(hs_branch_word(&r.call[1], &ref[1]) == HS_OK);
    CHECK_EQ_INT(r.call[1].word, r.call[0].word);
    int64_t n = hs_record_get(&r.call[1], r.call[1].word);
    hs_record record;
    REQUIRE(n > 0 && hs_record_decode(r.data[1], (size_t)n, &record) == HS_OK);
    CHECK_EQ_INT(record.sequence, 1);
    CHECK_EQ_INT(record.incarnation, 1);
    CHECK_EQ_INT(record.flags & HS_RECORD_HAS_PARENT, 0);
    check_value(&r, 1, record.root, "a", "1");
    CHECK_EQ_INT(hs_record_get(&r.call[1], HS_WORD_IN_L2 | 1), HS_NOT_FOUND);
    uint32_t slot = 0;
    uint64_t words[4];
    CHECK_EQ_INT(hs_branch_words(r.engine[1], &slot, words, 4), 1);
    CHECK_EQ_INT(words[0], r.call[0].word);
    rig_close(&r);
}

static void disjoint_keys_are_rebased(void) {
    rig r;
    rig_open(&r, 4);
    hs_branch_ref ref[2];
    uint8_t base[40];
    start_branch(&r, ref, base);
    REQUIRE(put(&r, 0, &ref[0], base, "left", "L") > 0);
    int64_t n = put(&r, 1, &ref[1], base, "right", "R");
    REQUIRE(n > 0);
    hs_record record;
    REQUIRE(hs_record_decode(r.data[1], (size_t)(n & ~HS_LOOK_AFTER), &record) == HS_OK);
    CHECK_EQ_INT(record.sequence, 3);
    check_value(&r, 0, record.root, "left", "L");
    check_value(&r, 0, record.root, "right", "R");
    check_value(&r, 0, record.root, "a", "1");
    rig_close(&r);
}

static void same_key_is_a_conflict_even_with_the_same_value(void) {
    rig r;
    rig_open(&r, 4);
    hs_branch_ref ref[2];
    uint8_t base[40];
    start_branch(&r, ref, base);
    REQUIRE(put(&r, 0, &ref[0], base, "a", "2") > 0);
    uint8_t head[32];
    memcpy(head, r.data[0] + 16, 32);
    CHECK_EQ_INT(put(&r, 1, &ref[1], base, "a", "2"), HS_CONFLICT);
    CHECK_EQ_INT(r.call[1].conflict, 0);
    CHECK_EQ_MEM(r.call[1].head_root, head, 32);
    r.call[1].no_rebase = 1;
    CHECK_EQ_INT(put(&r, 1, &ref[1], base, "b", "2"), HS_MOVED);
    r.call[1].no_rebase = 0;
    REQUIRE(put(&r, 0, &ref[0], base, "b", "2") >
            0); /* 0 is no nearer: its base is as old, b is new on both sides */
    CHECK_EQ_INT(put(&r, 1, &ref[1], base, "b", "2"), HS_CONFLICT);
    rig_close(&r);
}

static void nothing_changed_is_no_commit(void) {
    rig r;
    rig_open(&r, 4);
    hs_branch_ref ref[2];
    uint8_t base[40];
    start_branch(&r, ref, base);
    CHECK_EQ_INT(put(&r, 0, &ref[0], base, "a", "1"), HS_UNCHANGED);
    r.call[0].message = (const uint8_t *)"said";
    r.call[0].message_size = 4;
    int64_t n = put(&r, 0, &ref[0], base, "a", "1");
    hs_record record;
    REQUIRE(n > 0 && hs_record_decode(r.data[0], (size_t)(n & ~HS_LOOK_AFTER), &record) == HS_OK);
    CHECK_EQ_INT(record.message_size, 4);
    CHECK_EQ_MEM(record.message, "said", 4);
    rig_close(&r);
}

static int64_t move(rig *r, int who, hs_branch_ref *ref, uint32_t how, const uint8_t *root,
                    const uint8_t *expected) {
    return hs_commit_root(&r->call[who], ref, how, root, expected);
}

static void branch_is_restored_compared_deleted_and_made_anew(void) {
    rig r;
    rig_open(&r, 4);
    hs_branch_ref ref[2];
    uint8_t base[40], second[40];
    start_branch(&r, ref, base);
    REQUIRE(put(&r, 0, &ref[0], base, "a", "2") > 0);
    rig_base(r.data[0], second);
    CHECK_EQ_INT(move(&r, 1, &ref[1], HS_MOVE_COMPARE, base, base), HS_MOVED);
    CHECK(move(&r, 1, &ref[1], HS_MOVE_COMPARE, base, second) > 0);
    CHECK(move(&r, 1, &ref[1], HS_MOVE_RESTORE, second, NULL) > 0);
    CHECK_EQ_INT(move(&r, 0, &ref[0], HS_MOVE_CREATE, base, NULL), HS_EXISTS);
    CHECK(move(&r, 0, &ref[0], HS_MOVE_DELETE, r.empty, NULL) > 0);
    CHECK_EQ_INT(move(&r, 0, &ref[0], HS_MOVE_DELETE, r.empty, NULL), HS_NOT_FOUND);
    CHECK_EQ_INT(move(&r, 0, &ref[0], HS_MOVE_COMPARE, base, second), HS_NOT_FOUND);
    CHECK_EQ_INT(put(&r, 1, &ref[1], second, "z", "3"), HS_DELETED);
    CHECK(move(&r, 0, &ref[0], HS_MOVE_CREATE, base, NULL) > 0);
    hs_record record;
    REQUIRE(hs_record_decode(r.data[0], 192 + 4, &record) == HS_OK);
    CHECK_EQ_INT(record.sequence, 1);
    CHECK_EQ_INT(record.incarnation, 2);
    CHECK_EQ_INT(record.serial, 6);
    CHECK_EQ_INT(put(&r, 1, &ref[1], second, "z", "3"), HS_DELETED); /* made anew is another branch */
    rig_close(&r);
}

static void head_that_only_l2_has_suspends_the_commit(void) {
    rig r;
    rig_open(&r, 4);
    hs_branch_ref ref = rig_branch("cold");
    uint8_t base[40] = {0};
    memcpy(base, r.empty, 32);
    CHECK_EQ_INT(put(&r, 0, &ref, base, "k", "v"), HS_HEAD_IN_L2);
    REQUIRE(r.call[0].state != NULL);
    REQUIRE(hs_branch_provide(&r.call[0], &ref, r.call[0].word, r.empty, 7, 3, 2, 0) == HS_OK);
    int64_t n = hs_commit_continue(&r.call[0]);
    hs_record record;
    REQUIRE(n > 0 && hs_record_decode(r.data[0], (size_t)(n & ~HS_LOOK_AFTER), &record) == HS_OK);
    CHECK_EQ_INT(record.serial, 8);
    CHECK_EQ_INT(record.sequence, 4);
    CHECK(r.call[0].state == NULL);
    rig_close(&r);
}

/* A row that says the last of all serials: the commit after it would have none, and an assertion ended the process. */
static void head_without_a_successor_is_corrupt(void) {
    static const uint64_t last[][3] = {{UINT64_MAX, 1, 1}, {9, UINT64_MAX, 1}, {9, 1, UINT64_MAX}};
    for (size_t i = 0; i < sizeof last / sizeof *last; i++) {
        rig r;
        rig_open(&r, 4);
        hs_branch_ref ref = rig_branch("far");
        uint8_t base[40] = {0};
        memcpy(base, r.empty, 32);
        CHECK_EQ_INT(put(&r, 0, &ref, base, "k", "v"), HS_HEAD_IN_L2);
        REQUIRE(hs_branch_provide(&r.call[0], &ref, r.call[0].word, r.empty, last[i][0], last[i][1],
                                  last[i][2], 0) == HS_OK);
        CHECK_EQ_INT(hs_commit_continue(&r.call[0]), HS_CORRUPT);
        CHECK(r.call[0].state == NULL);
        rig_close(&r);
    }
}

static void missing_node_suspends_and_a_cancelled_commit_leaves_nothing(void) {
    rig r;
    rig_open(&r, 4);
    uint8_t unknown[32];
    memset(unknown, 9, sizeof unknown);
    CHECK_EQ_INT(put(&r, 0, NULL, unknown, "k", "v"), HS_MISSING);
    CHECK_EQ_MEM(r.call[0].missing, unknown, 32);
    CHECK_EQ_INT(r.call[0].missing_kind, HS_ENTRY_NODE);
    CHECK_EQ_INT(hs_commit_continue(&r.call[0]), HS_MISSING);
    hs_commit_cancel(&r.call[0]);
    CHECK(r.call[0].state == NULL);
    hs_engine_stats stats;
    REQUIRE(hs_engine_stats_get(r.engine[0], &stats) == HS_OK);
    CHECK_EQ_INT(stats.chunks_busy, 0);
    CHECK_EQ_INT(stats.commits, 0);
    rig_close(&r);
}

/* More than the ring holds: the commit waits for rounds of the drain, and ends. */
static void commit_larger_than_the_ring_flows_through(void) {
    enum { COUNT = 12000, SIZE = 1000 };
    rig r;
    rig_open(&r, 4);
    char *keys = malloc(COUNT * 6 + 1);
    uint32_t *key_sizes = malloc(COUNT * 4), *value_sizes = malloc(COUNT * 4);
    uint8_t *values = malloc((size_t)COUNT * SIZE);
    for (uint32_t i = 0; i < COUNT; i++) {
        snprintf(keys + i * 6, 7, "%06u", (unsigned)i);
        key_sizes[i] = 6;
        value_sizes[i] = SIZE;
        memset(values + (size_t)i * SIZE, 'a' + (int)(i % 26), SIZE);
        memcpy(values + (size_t)i * SIZE, &i, 4);
    }
    hs_edits edits = {.count = COUNT,
                      .keys = (const uint8_t *)keys,
                      .key_sizes = key_sizes,
                      .values = values,
                      .value_sizes = value_sizes};
    int64_t n = hs_commit_many(&r.call[0], NULL, r.empty, &edits);
    int waits = 0;
    while (n == HS_WAIT) {
        waits++;
        rig_round(&r);
        n = hs_commit_continue(&r.call[0]);
    }
    CHECK(n > 0);
    CHECK(waits >= 2);
    CHECK_EQ_INT(hs_totals(&r.call[0], r.data[0] + 16), HS_OK);
    CHECK_EQ_INT(r.call[0].keys, COUNT);
    CHECK_EQ_INT(r.call[0].value_bytes, (uint64_t)COUNT * SIZE);
    free(keys);
    free(key_sizes);
    free(value_sizes);
    free(values);
    rig_close(&r);
}

typedef struct racer {
    rig *r;
    int who, won, lost;
    hs_branch_ref ref;
    uint8_t base[40];
} racer;

static void *race(void *argument) {
    racer *me = argument;
    char key[16];
    for (int i = 0; i < 300; i++) {
        snprintf(key, sizeof key, "%d/%d", me->who, i);
        int64_t n = put(me->r, me->who, &me->ref, me->base, key, "v");
        while (n == HS_CONTENDED || n == HS_YIELD) n = hs_commit_continue(&me->r->call[me->who]);
        if (n > 0)
            me->won++;
        else
            me->lost++;
    }
    return NULL;
}

/* Both commit from one old base, keys disjoint: every commit lands, none twice. */
static void two_writers_on_one_branch_lose_nothing(void) {
    rig r;
    rig_open(&r, 8);
    hs_branch_ref ref[2];
    racer racers[2] = {{.r = &r, .who = 0}, {.r = &r, .who = 1}};
    uint8_t base[40];
    start_branch(&r, ref, base);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        racers[i].ref = ref[i];
        memcpy(racers[i].base, base, 40);
        pthread_create(&threads[i], NULL, race, &racers[i]);
    }
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    CHECK_EQ_INT(racers[0].won + racers[1].won, 600);
    REQUIRE(hs_branch_word(&r.call[0], &ref[0]) == HS_OK);
    hs_record record;
    int64_t n = hs_record_get(&r.call[0], r.call[0].word);
    REQUIRE(n > 0 && hs_record_decode(r.data[0], (size_t)n, &record) == HS_OK);
    CHECK_EQ_INT(record.serial, 601);
    uint8_t root[32];
    memcpy(root, record.root, 32);
    CHECK_EQ_INT(hs_totals(&r.call[0], root), HS_OK);
    CHECK_EQ_INT(r.call[0].keys, 601);
    rig_close(&r);
}

static void writer_taken_for_dead_begins_again(void) {
    rig r;
    rig_open(&r, 8);
    hs_branch_ref ref[2];
    uint8_t base[40];
    start_branch(&r, ref, base);
    /* Suspended with values put and a node missing; then everything that it put is declared lost. */
    char value[100];
    memset(value, 'q', sizeof value);
    uint8_t unknown[32];
    memset(unknown, 9, sizeof unknown);
    CHECK_EQ_INT(hs_commit_one(&r.call[0], NULL, unknown, (const uint8_t *)"k", 1, (const uint8_t *)value,
                               sizeof value),
                 HS_MISSING);
    r.engine[0]->reaped++;
    CHECK_EQ_INT(hs_commit_continue(&r.call[0]), HS_MISSING);
    hs_commit_cancel(&r.call[0]);
    CHECK(put(&r, 0, &ref[0], base, "after", "ok") > 0);
    rig_close(&r);
}

static int (*ring_load)(void *, const uint8_t *, uint8_t *, size_t *);

/* Load a node; before that, do what a coordinator does that takes the writer for dead. */
static int load_and_be_reaped(void *context, const uint8_t id[32], uint8_t *buffer, size_t *size) {
    hs_engine *engine = context;
    engine->tree.io.load = ring_load;
    for (uint32_t i = 0; i < engine->segment.chunk_count; i++) {
        uint64_t word = hs_load_acquire(&engine->segment.chunks[i].word);
        hs_chunk_state_word w = hs_chunk_word_decode(word);
        uint64_t sealed = hs_chunk_word_make(w.generation, HS_CHUNK_SEALED, 0, w.cursor);
        if (w.state == HS_CHUNK_BUSY) CHECK(hs_cas_seq_cst(&engine->segment.chunks[i].word, &word, sealed));
    }
    return ring_load(context, id, buffer, size);
}

/* A commit that was suspended found out that its chunk was not its own any more only when it published what it had put so far;
 * it forgot that, and went on without its values: the head would have named what nobody has. */
static void suspended_writer_taken_for_dead_puts_its_values_again(void) {
    rig r;
    rig_open(&r, 8);
    char value[100];
    memset(value, 'q', sizeof value);
    uint8_t unknown[32], id[32];
    memset(unknown, 9, sizeof unknown);
    hs_blake3((const uint8_t *)value, sizeof value, id);
    ring_load = r.engine[0]->tree.io.load;
    r.engine[0]->tree.io.load = load_and_be_reaped;
    CHECK_EQ_INT(hs_commit_one(&r.call[0], NULL, unknown, (const uint8_t *)"k", 1, (const uint8_t *)value,
                               sizeof value),
                 HS_MISSING);
    CHECK(r.engine[0]->tree.io.load == ring_load);
    CHECK(hs_l1_get(&r.call[1], id) < 0); /* it is lost */
    CHECK_EQ_INT(hs_commit_continue(&r.call[0]), HS_MISSING);
    CHECK_EQ_INT(hs_l1_get(&r.call[1], id), sizeof value);
    hs_commit_cancel(&r.call[0]);
    rig_close(&r);
}

/* The coordinator takes a tag out, and finds that the head moved under it: for that instant the commit was in no list. */
static void branch_is_listed_while_its_tag_is_away(void) {
    rig r;
    rig_open(&r, 4);
    hs_branch_ref ref[2];
    uint8_t base[40];
    start_branch(&r, ref, base);
    uint64_t words[2] = {0};
    uint32_t slot = 0;
    CHECK_EQ_INT(hs_branch_words(r.engine[1], &slot, words, 2), 1);
    hs_word *tag = &r.engine[0]->segment.branch_tags[ref[0].slot];
    uint64_t before = hs_load_acquire(tag), word = words[0];
    hs_store32_release(&r.engine[0]->segment.header->evicting, 1);
    hs_store_release(tag, 0);
    slot = 0;
    CHECK_EQ_INT(hs_branch_words(r.engine[1], &slot, words, 2), 1);
    CHECK(words[0] == word);
    hs_store_release(tag, before);
    hs_store32_release(&r.engine[0]->segment.header->evicting, 0);
    rig_close(&r);
}

static void waiting_for_the_head_ends_when_it_moves(void) {
    rig r;
    rig_open(&r, 4);
    hs_branch_ref ref[2];
    uint8_t base[40];
    start_branch(&r, ref, base);
    uint64_t before = r.call[0].word;
    CHECK_EQ_INT(hs_branch_wait(&r.call[1], &ref[1], before, 1), HS_TIMED_OUT);
    REQUIRE(put(&r, 0, &ref[0], base, "b", "1") > 0);
    CHECK_EQ_INT(hs_branch_wait(&r.call[1], &ref[1], before, 50), HS_OK);
    rig_close(&r);
}

int main(void) {
    RUN(detached_commit_is_read_by_another_process);
    RUN(many_edits_come_in_one_call);
    RUN(edits_strewn_over_memory_are_the_same);
    RUN(bad_edits_are_refused);
    RUN(branch_moves_and_others_see_it);
    RUN(disjoint_keys_are_rebased);
    RUN(same_key_is_a_conflict_even_with_the_same_value);
    RUN(nothing_changed_is_no_commit);
    RUN(branch_is_restored_compared_deleted_and_made_anew);
    RUN(head_that_only_l2_has_suspends_the_commit);
    RUN(head_without_a_successor_is_corrupt);
    RUN(missing_node_suspends_and_a_cancelled_commit_leaves_nothing);
    RUN(commit_larger_than_the_ring_flows_through);
    RUN(two_writers_on_one_branch_lose_nothing);
    RUN(writer_taken_for_dead_begins_again);
    RUN(suspended_writer_taken_for_dead_puts_its_values_again);
    RUN(branch_is_listed_while_its_tag_is_away);
    RUN(waiting_for_the_head_ends_when_it_moves);
    return hs_test_report();
}
