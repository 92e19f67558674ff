/* Spots: every edit lies in exactly the nodes that a cursor finds for its key, level by level. */
#include "hs_test.h"

#include "hs_states.h"
#include "hs_tree_spread.h"

static hs_nodes nodes;
static hs_tree tree;
static hs_state state;
static hs_edit edits[HS_STATE_MAX];
static hs_edit_list list;
static hs_spread spread;
static uint8_t root[32];
static uint64_t seed = 88172645463325252u;

static void open_tree(size_t keys, size_t cache_limit) {
    hs_nodes_open(&nodes, &tree, cache_limit);
    hs_state_open(&state, "dir/%05d", keys);
    hs_tree_empty_root(root);
    for (size_t i = 0; i < keys; i++) {
        state.items[i].remove = false;
        state.items[i].value = hs_state_value(hs_random(&seed));
    }
    hs_apply_result result;
    CHECK_EQ_INT(hs_states_apply(&nodes, &tree, root, state.items, keys, false, &result), HS_OK);
    memcpy(root, result.root, 32);
}

static void close_tree(void) {
    hs_state_close(&state);
    hs_nodes_close(&nodes, &tree);
}

/* Keys of the tree and keys between, before and behind them. */
static void choose(size_t count) {
    static uint8_t other[4][HS_KEY_MAX];
    static const char *const far[4] = {"a", "dir/00500/x", "dir/99999", "z"};
    for (size_t i = 0; i < 4; i++) {
        memcpy(other[i], far[i], strlen(far[i]));
        edits[i] = (hs_edit){.key = other[i], .key_size = (uint32_t)strlen(far[i]), .remove = true};
    }
    size_t chosen = 4, step = state.count / count;
    for (size_t i = hs_random(&seed) % step; i < state.count; i += step) edits[chosen++] = state.items[i];
    REQUIRE(hs_edits_take(&list, edits, chosen) == HS_OK);
}

/* The spot of an edit at a level: they are in order, each with the edits from the one before it on. */
static const hs_spot *spot_of(unsigned level, uint32_t edit) {
    const hs_spots *spots = spread.levels + level;
    uint32_t s = 0;
    while (s < spots->count && spots->items[s].end <= edit) s++;
    return s < spots->count ? spots->items + s : NULL;
}

static void check_spots(void) {
    hs_cursor cursor;
    REQUIRE(hs_cursor_open(&cursor, &tree, root) == HS_OK);
    CHECK_EQ_INT(spread.top, cursor.top);
    for (uint32_t e = 0; e < list.count; e++) {
        bool found;
        const hs_edit *edit = list.refs[e].edit;
        REQUIRE(hs_cursor_seek(&cursor, 0, edit->key, edit->key_size, &found) == HS_OK);
        for (unsigned l = 0; l <= spread.top; l++) {
            const hs_spot *spot = spot_of(l, e);
            REQUIRE(spot != NULL);
            CHECK(spot->node == cursor.node[l]);
            if (l == spread.top) continue;
            CHECK_EQ_INT(spot->at, cursor.at[l + 1]);
            CHECK(spread.levels[l + 1].items + spot->up == spot_of(l + 1, e));
        }
    }
    for (unsigned l = 0; l <= spread.top; l++) {
        const hs_spots *spots = spread.levels + l;
        for (uint32_t s = 1; s < spots->count; s++) CHECK(spots->items[s - 1].end < spots->items[s].end);
        CHECK_EQ_INT(spots->items[spots->count - 1].end, list.count);
    }
}

static void run(unsigned *misses) {
    int status;
    hs_cached *node;
    while (hs_tree_root(&tree, root, &node) == HS_MISSING) REQUIRE(hs_nodes_bring(&nodes, &tree) == HS_OK);
    REQUIRE(hs_spread_begin(&spread, node, &list) == HS_OK);
    while ((status = hs_spread_run(&spread, &tree, &list)) == HS_MISSING) {
        REQUIRE(hs_nodes_bring(&nodes, &tree) == HS_OK);
        ++*misses;
    }
    CHECK_EQ_INT(status, HS_OK);
}

static void spots_are_where_a_cursor_goes(void) {
    unsigned misses = 0;
    open_tree(5000, (size_t)64 << 20);
    for (size_t count = 1; count <= 2500; count = count * 3 + 1) {
        choose(count);
        run(&misses);
        check_spots();
    }
    CHECK_EQ_INT(misses, 0);
    close_tree();
}

/* Each node is asked for once: a run goes on where it stopped. */
static void what_is_missing_is_brought_one_by_one(void) {
    unsigned misses = 0;
    open_tree(3000, (size_t)64 << 20);
    choose(700);
    hs_cache_clear(tree.cache);
    nodes.cold = true;
    run(&misses);
    check_spots();
    uint32_t spots = 0;
    for (unsigned l = 0; l < spread.top; l++) spots += spread.levels[l].count;
    CHECK_EQ_INT(misses, spots);
    close_tree();
}

int main(void) {
    RUN(spots_are_where_a_cursor_goes);
    RUN(what_is_missing_is_brought_one_by_one);
    hs_spread_free(&spread);
    hs_edits_free(&list);
    return hs_test_report();
}
