/* Edits to the tree: whatever their order, grouping and interruptions, the root is the plain one of the state. */
#include "hs_test.h"

#include "hs_states.h"

static hs_nodes nodes;
static hs_tree tree;
static hs_state state;
static hs_edit edits[HS_STATE_MAX];
static uint8_t root[32];
static uint64_t seed = 88172645463325252u;

static void open_state(const char *pattern, size_t count, size_t limit) {
    hs_nodes_open(&nodes, &tree, limit);
    hs_state_open(&state, pattern, count);
    hs_tree_empty_root(root);
}

static void close_state(void) {
    hs_state_close(&state);
    hs_nodes_close(&nodes, &tree);
}

/* Take `count` edits in a run of keys from `from` on (or strewn, if from is out of range) into the state. */
static size_t choose(size_t from, size_t count, unsigned removes_of_16) {
    static bool taken[HS_STATE_MAX];
    memset(taken, 0, sizeof taken);
    size_t chosen = 0;
    for (size_t i = 0; i < count; i++) {
        size_t at = from < state.count ? (from + i) % state.count : hs_random(&seed) % state.count;
        if (taken[at]) continue;
        taken[at] = true;
        hs_edit *item = state.items + at;
        item->remove = hs_random(&seed) % 16 < removes_of_16;
        if (!item->remove) item->value = hs_state_value(hs_random(&seed));
        edits[chosen++] = *item;
    }
    for (size_t i = chosen; i > 1; i--) {
        size_t j = hs_random(&seed) % i;
        hs_edit swapped = edits[i - 1];
        edits[i - 1] = edits[j];
        edits[j] = swapped;
    }
    return chosen;
}

static void check_state(const hs_apply_result *result) {
    hs_apply_result plain;
    hs_state_root(&state, &plain);
    CHECK_EQ_MEM(result->root, plain.root, 32);
    CHECK_EQ_INT(result->keys, plain.keys);
    CHECK_EQ_INT(result->value_bytes, plain.value_bytes);
    memcpy(root, result->root, 32);
}

static void round_of(size_t from, size_t count, unsigned removes_of_16) {
    hs_apply_result result;
    size_t chosen = choose(from, count, removes_of_16);
    CHECK_EQ_INT(hs_states_apply(&nodes, &tree, root, edits, chosen, false, &result), HS_OK);
    check_state(&result);
}

static const char *const patterns[] = {"perf/%05d/file", "%d", "k%07d",
                                       "a/rather/long/common/prefix/%x/tail"};

static void any_batch_gives_the_plain_root(void) {
    for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
        open_state(patterns[p], 900, (size_t)16 << 20);
        for (unsigned i = 0; i < 60; i++) {
            static const unsigned removes[] = {0, 2, 8, 14, 16};
            size_t count = i % 3 == 0 ? 1 + hs_random(&seed) % 6 : 1 + hs_random(&seed) % 400;
            round_of(i % 2 ? SIZE_MAX : hs_random(&seed) % 900, count, removes[hs_random(&seed) % 5]);
        }
        close_state();
    }
}

static void one_edit_at_a_time_gives_the_plain_root(void) {
    open_state("perf/%03d", 60, (size_t)16 << 20);
    for (unsigned i = 0; i < 1500; i++) {
        hs_apply_result result;
        size_t chosen = choose(SIZE_MAX, 1, i % 300 < 200 ? 5 : 13);
        CHECK_EQ_INT(chosen, 1);
        CHECK_EQ_INT(hs_tree_apply_one(&tree, root, edits, &result), HS_OK);
        check_state(&result);
    }
    close_state();
}

/* 15, 16, 17, 18 entries, down to none, and back: the edge between a level that is cut and one that is not. */
static void small_levels_grow_and_shrink(void) {
    open_state("%03d", 80, (size_t)16 << 20);
    for (unsigned i = 0; i < 80; i++) round_of(i, 1, 0);
    for (unsigned i = 0; i < 80; i++) round_of(i, 1, 16);
    hs_apply_result empty = {.keys = 0};
    hs_tree_empty_root(empty.root);
    CHECK_EQ_MEM(root, empty.root, 32);
    for (unsigned kept = 14; kept < 20; kept++) {
        round_of(0, 80, 0);
        round_of(0, 80 - kept, 16);
        round_of(80 - kept, kept / 2, 0);
        round_of(0, 80, 16);
        CHECK_EQ_MEM(root, empty.root, 32);
    }
    close_state();
}

/* Keys whose hashes only rise have no local minimum among them: the i-th key gets a tail that puts its hash into the
 * i-th slice of all hashes. */
static void make_rising(hs_edit *item, size_t i, size_t count, const char *pattern) {
    uint64_t slice = UINT64_MAX / count, hash = 0;
    for (int tail = 0; tail == 0 || hash / slice != i; tail++) {
        item->key_size =
            (uint32_t)snprintf((char *)(uintptr_t)item->key, HS_KEY_MAX + 1, pattern, (int)i, tail);
        hash = hs_key_hash_level(hs_key_hash(item->key, item->key_size), 0);
    }
}

static void check_without_boundaries(const char *pattern, size_t count) {
    open_state("%d", count, (size_t)64 << 20);
    for (size_t i = 0; i < count; i++) make_rising(state.items + i, i, count, pattern);
    round_of(0, count, 0);
    CHECK(nodes.count < 6);
    for (unsigned i = 0; i < 40; i++) round_of(i % 2 ? SIZE_MAX : i * 7, 1 + i, i % 16);
    round_of(0, count, 15);
    round_of(0, count, 0);
    close_state();
}

static void keys_without_natural_boundary_are_cut_by_count(void) {
    check_without_boundaries("%06d/%d", HS_NODE_COUNT_MAX + 150);
}

static void keys_without_natural_boundary_are_cut_by_size(void) {
    check_without_boundaries("%06d/%01017d", 80);
}

/* A node that was full at 256 entries says nothing of its last hash: the entries behind it may hold a minimum, which
 * depends on hashes of the full node. Key 257 is the lowest of all, so nodes end at 255 and 257. */
static void a_minimum_behind_a_full_node_looks_back_into_it(void) {
    enum { COUNT = 300, LOWEST = 257 };
    open_state("%d", COUNT, (size_t)64 << 20);
    for (size_t i = 0; i < COUNT; i++) {
        uint64_t slice = UINT64_MAX / (COUNT + 1), hash = slice * (COUNT + 1);
        hs_edit *item = state.items + i;
        for (int tail = 0; hash / slice != (i == LOWEST ? 0 : i + 1); tail++) {
            item->key_size =
                (uint32_t)snprintf((char *)(uintptr_t)item->key, HS_KEY_MAX + 1, "%06d/%d", (int)i, tail);
            hash = hs_key_hash_level(hs_key_hash(item->key, item->key_size), 0);
        }
    }
    for (size_t at = LOWEST - 2; at < LOWEST + 7; at++) {
        for (size_t count = 1; count < 5; count++) {
            round_of(0, COUNT, 0);
            round_of(at, count, 16);
            round_of(at, count, 0);
        }
    }
    close_state();
}

static void a_run_goes_on_after_each_failure(void) {
    static const struct {
        size_t from, count;
        unsigned removes;
    } shapes[] = {{SIZE_MAX, 40, 0}, {100, 300, 16}, {SIZE_MAX, 60, 8}, {0, 395, 16}, {50, 1, 0}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        bool reached = true;
        for (uint64_t n = 1; reached; n++) {
            hs_apply_result result;
            seed = 1234567 + s;
            open_state("perf/%03d", 400, (size_t)1 << 20);
            round_of(0, 400, 0);
            hs_cache_free(tree.cache);
            REQUIRE(hs_cache_new((size_t)1 << 20, &tree.cache) == HS_OK);
            size_t chosen = choose(shapes[s].from, shapes[s].count, shapes[s].removes);
            nodes.fail_at = n;
            CHECK_EQ_INT(hs_states_apply(&nodes, &tree, root, edits, chosen, n % 2, &result), HS_OK);
            reached = nodes.fail_at == 0;
            check_state(&result);
            close_state();
            if (n > 40) n += n / 8;
        }
    }
}

/* Every node of a cold tree has to be brought: as many runs as nodes, not more, if nothing is evicted. */
static void a_cold_batch_is_not_walked_again(void) {
    open_state("perf/%04d", 4000, (size_t)64 << 20);
    round_of(0, 4000, 0);
    uint64_t stored = nodes.count;
    for (unsigned removes = 0; removes <= 16; removes += 8) {
        hs_apply_result result;
        hs_cache_free(tree.cache);
        REQUIRE(hs_cache_new((size_t)64 << 20, &tree.cache) == HS_OK);
        nodes.cold = true;
        nodes.loads = 0;
        size_t chosen = choose(0, 3990, removes);
        CHECK_EQ_INT(hs_states_apply(&nodes, &tree, root, edits, chosen, true, &result), HS_OK);
        CHECK(nodes.loads <= stored * 2);
        nodes.cold = false;
        check_state(&result);
        stored = nodes.count;
    }
    close_state();
}

static void other_failures_are_passed_through(void) {
    hs_apply_result result;
    open_state("perf/%03d", 100, (size_t)16 << 20);
    round_of(0, 100, 0);
    nodes.store_fails_with = HS_REAPED;
    nodes.fail_at = 1;
    size_t chosen = choose(SIZE_MAX, 20, 0);
    CHECK_EQ_INT(hs_states_apply(&nodes, &tree, root, edits, chosen, false, &result), HS_REAPED);
    nodes.fail_at = 1;
    CHECK_EQ_INT(hs_tree_apply_one(&tree, root, edits, &result), HS_REAPED);
    nodes.store_fails_with = HS_WAIT;
    nodes.fail_at = 1;
    CHECK_EQ_INT(hs_tree_apply_one(&tree, root, edits, &result), HS_WAIT);
    CHECK_EQ_INT(hs_states_apply(&nodes, &tree, root, edits, chosen, false, &result), HS_OK);
    check_state(&result);
    close_state();
}

static void what_changes_nothing_keeps_the_root(void) {
    hs_apply_result result;
    open_state("perf/%03d", 200, (size_t)16 << 20);
    round_of(0, 200, 4);
    memcpy(edits, state.items, state.count * sizeof *edits);
    uint64_t stores = nodes.stores;
    CHECK_EQ_INT(hs_states_apply(&nodes, &tree, root, edits, state.count, false, &result), HS_OK);
    CHECK_EQ_INT(result.changed_keys, 0);
    CHECK_EQ_INT(nodes.stores, stores);
    CHECK_EQ_MEM(result.root, root, 32);
    for (size_t i = 0; i < 20; i++) {
        CHECK_EQ_INT(hs_tree_apply_one(&tree, root, edits + i, &result), HS_OK);
        CHECK_EQ_INT(result.changed_keys, 0);
        CHECK_EQ_MEM(result.root, root, 32);
    }
    CHECK_EQ_INT(hs_states_apply(&nodes, &tree, root, edits, 0, false, &result), HS_OK);
    check_state(&result);
    close_state();
}

static void edits_out_of_bounds_are_refused(void) {
    hs_apply_result result;
    open_state("perf/%03d", 3, (size_t)16 << 20);
    hs_edit good = state.items[0];
    good.remove = false;
    good.value = hs_state_value(0);
    hs_edit bad[5] = {good, good, good, good, good};
    bad[0].key_size = 0;
    bad[1].key_size = HS_KEY_MAX + 1;
    bad[2].value.kind = HS_KIND_COUNT;
    bad[3].value.hashed = true;
    bad[4].value.size = HS_VALUE_SIZE_MAX + 1;
    bad[4].value.hashed = true;
    for (size_t i = 0; i < 5; i++) {
        CHECK_EQ_INT(hs_tree_apply_one(&tree, root, bad + i, &result), HS_ARGUMENT);
        CHECK_EQ_INT(hs_states_apply(&nodes, &tree, root, bad + i, 1, false, &result), HS_ARGUMENT);
    }
    hs_edit twice[2] = {good, good};
    CHECK_EQ_INT(hs_states_apply(&nodes, &tree, root, twice, 2, false, &result), HS_ARGUMENT);
    close_state();
}

int main(void) {
    RUN(any_batch_gives_the_plain_root);
    RUN(one_edit_at_a_time_gives_the_plain_root);
    RUN(small_levels_grow_and_shrink);
    RUN(keys_without_natural_boundary_are_cut_by_count);
    RUN(keys_without_natural_boundary_are_cut_by_size);
    RUN(a_minimum_behind_a_full_node_looks_back_into_it);
    RUN(a_run_goes_on_after_each_failure);
    RUN(a_cold_batch_is_not_walked_again);
    RUN(other_failures_are_passed_through);
    RUN(what_changes_nothing_keeps_the_root);
    RUN(edits_out_of_bounds_are_refused);
    return hs_test_report();
}
