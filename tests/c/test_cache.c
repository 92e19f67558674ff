/* The node cache: bounded, links never dangle, what is used stays, and nothing wrong gets in. */
#include "hs_test.h"

#include "hs_states.h"

static uint8_t bytes[HS_NODE_SIZE_MAX];

/* A leaf of its own for each number. */
static size_t make_leaf(uint64_t number, size_t value_size, uint8_t id[32]) {
    static uint8_t value[64];
    hs_node node;
    char key[32];
    int size = snprintf(key, sizeof key, "key/%llu", (unsigned long long)number);
    hs_node_entry entry = {.key = {(uint8_t *)key, (uint8_t *)key, 0, (uint32_t)size},
                           .value = {.size = value_size, .bytes = value}};
    hs_node_build(0, &entry, sizeof entry, 1, 0, 0, bytes, &node);
    hs_blake3(bytes, node.size, id);
    return node.size;
}

static void a_node_is_found_by_its_id(void) {
    hs_cache *cache;
    uint8_t id[32];
    REQUIRE(hs_cache_new((size_t)64 << 20, &cache) == HS_OK);
    for (uint64_t i = 0; i < 20000; i++) {
        size_t size = make_leaf(i, i % 65, id);
        CHECK(hs_cache_get(cache, id) == NULL);
        CHECK_EQ_INT(hs_cache_add(cache, id, bytes, size, i % 2), HS_OK);
    }
    for (uint64_t i = 0; i < 20000; i++) {
        size_t size = make_leaf(i, i % 65, id);
        hs_cached *cached = hs_cache_get(cache, id);
        REQUIRE(cached);
        CHECK_EQ_INT(cached->node.size, size);
        CHECK_EQ_MEM(cached->node.bytes, bytes, size);
        CHECK(hs_cache_follow(cache, hs_cache_link(cache, cached)) == cached);
    }
    hs_cache_stats stats;
    hs_cache_stats_get(cache, &stats);
    CHECK_EQ_INT(stats.nodes, 20000);
    CHECK_EQ_INT(stats.evicted, 0);
    hs_cache_free(cache);
}

static void adding_twice_keeps_one(void) {
    hs_cache *cache;
    uint8_t id[32];
    hs_cache_stats stats;
    REQUIRE(hs_cache_new((size_t)1 << 20, &cache) == HS_OK);
    size_t size = make_leaf(1, 5, id);
    for (unsigned i = 0; i < 3; i++) CHECK_EQ_INT(hs_cache_add(cache, id, bytes, size, false), HS_OK);
    hs_cache_stats_get(cache, &stats);
    CHECK_EQ_INT(stats.nodes, 1);
    hs_cache_free(cache);
}

static void what_is_wrong_does_not_get_in(void) {
    hs_cache *cache;
    uint8_t id[32];
    REQUIRE(hs_cache_new((size_t)1 << 20, &cache) == HS_OK);
    size_t size = make_leaf(1, 5, id);
    id[7] ^= 1;
    CHECK_EQ_INT(hs_cache_add(cache, id, bytes, size, false), HS_CORRUPT);
    CHECK(hs_cache_get(cache, id) == NULL);
    id[7] ^= 1;
    CHECK_EQ_INT(hs_cache_add(cache, id, bytes, size - 1, true), HS_CORRUPT);
    bytes[3] = 1;
    hs_blake3(bytes, size, id);
    CHECK_EQ_INT(hs_cache_add(cache, id, bytes, size, false), HS_CORRUPT);
    hs_cache_free(cache);
}

static void trimming_keeps_the_limit_and_what_is_used(void) {
    enum { COUNT = 40000 };
    hs_cache *cache;
    hs_cache_stats stats;
    uint8_t id[32], used[32];
    size_t size = make_leaf(0, 64, used);
    REQUIRE(hs_cache_new((size_t)1 << 20, &cache) == HS_OK);
    CHECK_EQ_INT(hs_cache_add(cache, used, bytes, size, false), HS_OK);
    for (uint64_t i = 1; i < COUNT; i++) {
        CHECK(hs_cache_get(cache, used) != NULL);
        size = make_leaf(i, 64, id);
        CHECK_EQ_INT(hs_cache_add(cache, id, bytes, size, true), HS_OK);
        hs_cache_trim(cache);
        hs_cache_stats_get(cache, &stats);
        CHECK(stats.bytes <= stats.limit);
    }
    CHECK(stats.evicted > 0);
    CHECK_EQ_INT(stats.nodes + stats.evicted, COUNT);
    make_leaf(0, 64, id);
    hs_cached *kept = hs_cache_get(cache, used);
    REQUIRE(kept);
    CHECK_EQ_MEM(kept->node.bytes, bytes, kept->node.size);
    hs_cache_free(cache);
}

/* A link outlives its slab: it must lead to its own node or nowhere, however often the slab was filled again. */
static void a_link_to_what_was_evicted_leads_nowhere(void) {
    enum { LINKS = 64 };
    hs_cache *cache;
    hs_link links[LINKS];
    uint8_t ids[LINKS][32], id[32];
    REQUIRE(hs_cache_new((size_t)1 << 20, &cache) == HS_OK);
    for (uint64_t i = 0; i < LINKS; i++) {
        size_t size = make_leaf(i, 64, ids[i]);
        REQUIRE(hs_cache_add(cache, ids[i], bytes, size, true) == HS_OK);
        links[i] = hs_cache_link(cache, hs_cache_get(cache, ids[i]));
    }
    uint64_t epoch = hs_cache_epoch(cache);
    for (uint64_t i = LINKS; i < 60000; i++) {
        size_t size = make_leaf(i, 64, id);
        REQUIRE(hs_cache_add(cache, id, bytes, size, true) == HS_OK);
        hs_cache_trim(cache);
        if (i % 100) continue;
        for (unsigned l = 0; l < LINKS; l++) {
            hs_cached *cached = hs_cache_follow(cache, links[l]);
            CHECK(cached == NULL || memcmp(cached->id, ids[l], 32) == 0);
        }
    }
    CHECK(hs_cache_epoch(cache) > epoch);
    CHECK(hs_cache_follow(cache, 0) == NULL);
    hs_cache_free(cache);
}

/* Ids that all want the same place: probing stays bounded, and the newest is there. */
static void crowded_ids_are_forgotten_not_searched_for_ever(void) {
    hs_cache *cache;
    uint8_t id[32] = {7, 7, 7, 7};
    REQUIRE(hs_cache_new((size_t)16 << 20, &cache) == HS_OK);
    size_t size = make_leaf(1, 5, (uint8_t[32]){0});
    unsigned found = 0;
    for (uint32_t i = 0; i < 3000; i++) {
        hs_store_u32(id + 8, i);
        CHECK_EQ_INT(hs_cache_add(cache, id, bytes, size, true), HS_OK);
        CHECK(hs_cache_get(cache, id) != NULL);
    }
    for (uint32_t i = 0; i < 3000; i++) {
        hs_store_u32(id + 8, i);
        found += hs_cache_get(cache, id) != NULL;
    }
    CHECK(found >= 8 && found <= 32);
    hs_cache_free(cache);
}

/* 1000 forks of one state, a key changed in each: what they share is there once. */
static void a_thousand_forks_stay_small(void) {
    static hs_nodes nodes;
    static hs_tree tree;
    static hs_state state;
    hs_apply_result base, result;
    hs_cache_stats stats;
    uint8_t root[32];
    hs_nodes_open(&nodes, &tree, (size_t)64 << 20);
    hs_state_open(&state, "perf/%04d", 100);
    for (size_t i = 0; i < state.count; i++) {
        state.items[i].remove = false;
        state.items[i].value = hs_state_value(0);
    }
    hs_tree_empty_root(root);
    REQUIRE(hs_states_apply(&nodes, &tree, root, state.items, state.count, false, &base) == HS_OK);
    for (uint32_t i = 0; i < 1000; i++) {
        hs_edit edit = state.items[i % 100];
        uint8_t value[48] = {1};
        hs_store_u32(value + 4, i);
        edit.value.bytes = value;
        edit.value.size = sizeof value;
        CHECK_EQ_INT(hs_tree_apply_one(&tree, base.root, &edit, &result), HS_OK);
        CHECK(result.new_nodes >= 2 && result.new_nodes <= 3);
    }
    hs_cache_stats_get(tree.cache, &stats);
    CHECK(stats.bytes < (size_t)4 << 20);
    hs_state_close(&state);
    hs_nodes_close(&nodes, &tree);
}

static void after_a_fork_new_nodes_go_to_fresh_memory(void) {
    hs_cache *cache;
    uint8_t id[32], other[32];
    REQUIRE(hs_cache_new((size_t)8 << 20, &cache) == HS_OK);
    size_t size = make_leaf(1, 5, id);
    REQUIRE(hs_cache_add(cache, id, bytes, size, true) == HS_OK);
    hs_cache_after_fork(cache);
    size = make_leaf(2, 5, other);
    REQUIRE(hs_cache_add(cache, other, bytes, size, true) == HS_OK);
    CHECK(hs_cache_get(cache, id)->slab != hs_cache_get(cache, other)->slab);
    hs_cache_free(cache);
}

static void what_was_forgotten_is_not_found_and_can_come_back(void) {
    hs_cache *cache;
    uint8_t id[32];
    hs_cache_stats stats;
    REQUIRE(hs_cache_new((size_t)1 << 20, &cache) == HS_OK);
    hs_cache_clear(cache);
    for (unsigned round = 0; round < 3; round++) {
        hs_link link = 0;
        for (uint64_t i = 0; i < 5000; i++) { /* several slabs, and a table that grew */
            size_t size = make_leaf(i, i % 65, id);
            CHECK(hs_cache_get(cache, id) == NULL);
            CHECK_EQ_INT(hs_cache_add(cache, id, bytes, size, true), HS_OK);
            hs_cached *cached = hs_cache_get(cache, id);
            REQUIRE(cached);
            if (i == 4999) link = hs_cache_link(cache, cached);
            if (i % 100 == 0) hs_cache_trim(cache); /* also in the middle of an eviction */
        }
        hs_cache_clear(cache);
        hs_cache_stats_get(cache, &stats);
        CHECK_EQ_INT(stats.nodes, 0);
        CHECK_EQ_INT(stats.bytes, 0);
        CHECK(hs_cache_follow(cache, link) == NULL);
    }
    hs_cache_free(cache);
}

enum { TWINS = 9, TWIN_SIZE_MAX = 2048 };

/* A leaf of TWINS entries whose values are filled with `fill`, but entry `changed` with its complement. */
static size_t make_twin(uint8_t *out, hs_node *node, unsigned value_size, uint8_t fill, unsigned changed) {
    static uint8_t values[TWINS][HS_INLINE_MAX];
    static char keys[TWINS][32];
    hs_node_entry entries[TWINS];
    for (unsigned i = 0; i < TWINS; i++) {
        int size = snprintf(keys[i], sizeof keys[i], "a/rather/long/key/%u", i);
        memset(values[i], i == changed ? ~fill : fill, value_size);
        entries[i] = (hs_node_entry){.key = {(uint8_t *)keys[i], (uint8_t *)keys[i], 0, (uint32_t)size},
                                     .value = {.size = value_size, .bytes = values[i]}};
    }
    hs_node_build(0, entries, sizeof *entries, TWINS, 0, 0, out, node);
    return node->size;
}

/* Enter a node that is `old` with other bytes from `changed` on; its id must be what hashing all of it gives. */
static hs_cached *enter_changed(hs_cache *cache, hs_cached *old, const hs_node *node, unsigned changed) {
    uint8_t id[32];
    unsigned blocks = (unsigned)hs_blake3_blocks(node->size);
    hs_cached *cached = hs_cache_reserve(cache, node, blocks);
    REQUIRE(cached);
    memcpy((uint8_t *)(uintptr_t)cached->node.bytes, node->bytes, node->size);
    unsigned hashed = hs_cached_hash(cached, old, changed / HS_BLAKE3_BLOCK, cached->id);
    unsigned left = blocks - changed / HS_BLAKE3_BLOCK; /* the value before the last block is not kept */
    bool resumes = old && changed >= node->values && blocks > hs_node_chain_first(node) + 1;
    CHECK_EQ_INT(hashed, resumes ? (left == 1 ? 2 : left) : blocks);
    hs_blake3(node->bytes, node->size, id);
    CHECK_EQ_MEM(cached->id, id, 32);
    CHECK_EQ_MEM(cached->node.bytes, node->bytes, node->size);
    hs_cache_enter(cache, cached);
    return cached;
}

/* Whichever value changes, and whatever it was made from, the kept chaining values lead to the right id. */
static void a_changed_node_is_rehashed_from_its_change(void) {
    static uint8_t whole[TWIN_SIZE_MAX], changed[TWIN_SIZE_MAX];
    hs_cache *cache;
    hs_node node, next;
    REQUIRE(hs_cache_new((size_t)8 << 20, &cache) == HS_OK);
    for (unsigned value_size = 1; value_size <= HS_INLINE_MAX; value_size++) {
        make_twin(whole, &node, value_size, 5, TWINS);
        hs_cached *base = enter_changed(cache, NULL, &node, 0);
        for (unsigned i = 0; i < TWINS; i++) {
            make_twin(changed, &next, value_size, 5, i);
            hs_cached *first = enter_changed(cache, base, &next, node.values + i * value_size);
            make_twin(changed, &next, value_size, 7, i);
            enter_changed(cache, first, &next, node.values);
            make_twin(changed, &next, value_size, 9, i);
            enter_changed(cache, first, &next, HS_NODE_HEAD_SIZE); /* as when an entry's form changes */
        }
    }
    hs_cache_free(cache);
}

int main(void) {
    RUN(a_changed_node_is_rehashed_from_its_change);
    RUN(a_node_is_found_by_its_id);
    RUN(adding_twice_keeps_one);
    RUN(what_is_wrong_does_not_get_in);
    RUN(trimming_keeps_the_limit_and_what_is_used);
    RUN(a_link_to_what_was_evicted_leads_nowhere);
    RUN(crowded_ids_are_forgotten_not_searched_for_ever);
    RUN(a_thousand_forks_stay_small);
    RUN(what_was_forgotten_is_not_found_and_can_come_back);
    RUN(after_a_fork_new_nodes_go_to_fresh_memory);
    return hs_test_report();
}
