/* Reading trees: find, scan, count, diff against the state itself; interrupted; and trees that lie. */
#include "hs_test.h"

#include "hs_states.h"

static hs_nodes nodes;
static hs_tree tree;
static hs_state state, other;
static uint8_t root[32], other_root[32];
static uint64_t seed = 42;

static void write_state(hs_state *s, uint8_t out[32], unsigned removes_of_16) {
    hs_apply_result result;
    for (size_t i = 0; i < s->count; i++) {
        s->items[i].remove = hs_random(&seed) % 16 < removes_of_16;
        s->items[i].value = hs_state_value(hs_random(&seed));
    }
    hs_tree_empty_root(out);
    REQUIRE(hs_states_apply(&nodes, &tree, out, s->items, s->count, false, &result) == HS_OK);
    memcpy(out, result.root, 32);
}

/* `other` is the state with some of its keys changed, removed and added. */
static void open_states(size_t count, size_t changes) {
    hs_apply_result result;
    hs_nodes_open(&nodes, &tree, (size_t)16 << 20);
    hs_state_open(&state, "perf/%04d", count);
    write_state(&state, root, 4);
    memcpy(other.items, state.items, count * sizeof *state.items);
    other.count = count;
    for (size_t i = 0; i < changes; i++) {
        hs_edit *item = other.items + hs_random(&seed) % count;
        item->remove = hs_random(&seed) % 3 == 0;
        item->value = hs_state_value(hs_random(&seed));
    }
    REQUIRE(hs_states_apply(&nodes, &tree, root, other.items, count, false, &result) == HS_OK);
    memcpy(other_root, result.root, 32);
}

static void close_states(void) {
    hs_state_close(&state);
    hs_nodes_close(&nodes, &tree);
}

static void make_cold(void) {
    hs_cache_free(tree.cache);
    REQUIRE(hs_cache_new((size_t)1 << 20, &tree.cache) == HS_OK);
    nodes.cold = true;
    nodes.loads = 0;
}

static void every_key_is_found_with_its_value(void) {
    open_states(2000, 0);
    for (size_t i = 0; i < state.count; i++) {
        const hs_edit *item = state.items + i;
        hs_value value;
        int status = hs_tree_find(&tree, root, item->key, item->key_size, &value);
        CHECK_EQ_INT(status, item->remove ? HS_NOT_FOUND : HS_OK);
        if (status == HS_OK) CHECK(hs_value_equal(&value, &item->value));
        CHECK_EQ_INT(hs_tree_find(&tree, root, item->key, item->key_size - 1, &value), HS_NOT_FOUND);
    }
    hs_value value;
    CHECK_EQ_INT(hs_tree_find(&tree, root, (const uint8_t *)"q", 1, &value), HS_NOT_FOUND);
    CHECK_EQ_INT(hs_tree_find(&tree, root, (const uint8_t *)"", 0, &value), HS_NOT_FOUND);
    close_states();
}

static uint64_t values_told;
static void told_value(void *context, const uint8_t id[32]) {
    (void)context;
    (void)id;
    values_told++;
}

static void values_of_a_leaf_are_expected_when_it_is_loaded(void) {
    open_states(2000, 0);
    hs_cache_free(tree.cache);
    REQUIRE(hs_cache_new((size_t)1 << 20, &tree.cache) == HS_OK);
    tree.io.expect = told_value;
    values_told = 0;
    uint64_t hashed = 0;
    hs_value value;
    for (int again = 0; again < 2; again++)
        for (size_t i = 0; i < state.count; i++) {
            const hs_edit *item = state.items + i;
            hashed += !again && !item->remove && item->value.hashed;
            (void)hs_tree_find(&tree, root, item->key, item->key_size, &value);
        }
    CHECK(hashed > 0);
    CHECK_EQ_INT(values_told, hashed);
    close_states();
}

static void the_empty_tree_has_nothing_and_is_never_loaded(void) {
    uint8_t empty[32];
    uint64_t keys = 1, value_bytes = 1;
    hs_value value;
    hs_nodes_open(&nodes, &tree, (size_t)1 << 20);
    hs_tree_empty_root(empty);
    CHECK_EQ_INT(hs_tree_find(&tree, empty, (const uint8_t *)"a", 1, &value), HS_NOT_FOUND);
    CHECK_EQ_INT(hs_tree_totals(&tree, empty, &keys, &value_bytes), HS_OK);
    CHECK_EQ_INT(keys + value_bytes, 0);
    CHECK_EQ_INT(nodes.loads, 0);
    hs_nodes_close(&nodes, &tree);
}

static void a_missing_node_is_named(void) {
    uint8_t unknown[32] = {1, 2, 3};
    hs_value value;
    hs_nodes_open(&nodes, &tree, (size_t)1 << 20);
    CHECK_EQ_INT(hs_tree_find(&tree, unknown, (const uint8_t *)"a", 1, &value), HS_MISSING);
    CHECK_EQ_MEM(tree.missing, unknown, 32);
    nodes.load_fails_with = HS_CORRUPT;
    nodes.fail_at = 1;
    CHECK_EQ_INT(hs_tree_find(&tree, unknown, (const uint8_t *)"a", 1, &value), HS_CORRUPT);
    hs_nodes_close(&nodes, &tree);
}

/* --- walks: what is expected is a list of positions in the state --- */

typedef struct walk {
    hs_range range;
    bool reverse;
    size_t next; /* counted from the walk's near end */
    size_t left; /* visits until the visitor ends the walk */
    uint8_t last[HS_KEY_MAX + 1];
    size_t last_size;
} walk;

static bool in_range(const hs_range *range, const hs_edit *item) {
    return (!range->start ||
            hs_bytes_compare(item->key, item->key_size, range->start, range->start_size) >= 0) &&
           (!range->stop || hs_bytes_compare(item->key, item->key_size, range->stop, range->stop_size) < 0);
}

static bool wanted(const walk *w, size_t i, bool differing) {
    if (!in_range(&w->range, state.items + i)) return false;
    const hs_edit *old = state.items + i, *new = other.items + i;
    if (!differing) return !old->remove;
    if (old->remove || new->remove) return old->remove != new->remove;
    return !hs_value_equal(&old->value, &new->value);
}

/* The position that must be visited next; state.count if none. */
static size_t expect(walk *w, bool differing) {
    for (; w->next < state.count; w->next++) {
        size_t i = w->reverse ? state.count - 1 - w->next : w->next;
        if (!wanted(w, i, differing)) continue;
        w->next++;
        return i;
    }
    return state.count;
}

static bool visited(walk *w, const uint8_t *key, size_t key_size, size_t i) {
    CHECK(i < state.count);
    if (i >= state.count) return false;
    CHECK_EQ_INT(hs_bytes_compare(key, key_size, state.items[i].key, state.items[i].key_size), 0);
    memcpy(w->last, key, key_size);
    w->last_size = key_size;
    return --w->left > 0;
}

static bool visit_scan(void *context, const uint8_t *key, size_t key_size, const hs_value *value) {
    size_t i = expect(context, false);
    if (i < state.count) CHECK(hs_value_equal(value, &state.items[i].value));
    return visited(context, key, key_size, i);
}

static bool visit_diff(void *context, const uint8_t *key, size_t key_size, const hs_value *old_value,
                       const hs_value *new_value) {
    size_t i = expect(context, true);
    if (i >= state.count) return visited(context, key, key_size, i);
    CHECK_EQ_INT(old_value == NULL, state.items[i].remove);
    CHECK_EQ_INT(new_value == NULL, other.items[i].remove);
    if (old_value) CHECK(hs_value_equal(old_value, &state.items[i].value));
    if (new_value) CHECK(hs_value_equal(new_value, &other.items[i].value));
    return visited(context, key, key_size, i);
}

/* Walk, narrowing the range and bringing nodes after each interruption. */
static void walk_all(walk *w, bool differing) {
    hs_range left = w->range;
    uint8_t behind[HS_KEY_MAX + 1];
    int status;
    for (;;) {
        status = differing ? hs_tree_diff(&tree, root, other_root, &left, visit_diff, w)
                           : hs_tree_scan(&tree, root, &left, w->reverse, visit_scan, w);
        if (status != HS_MISSING) break;
        REQUIRE(hs_nodes_bring(&nodes, &tree) == HS_OK);
        if (w->last_size == 0) continue;
        memcpy(behind, w->last, w->last_size);
        behind[w->last_size] = 0;
        if (w->reverse) {
            left.stop = behind;
            left.stop_size = w->last_size;
        } else {
            left.start = behind;
            left.start_size = w->last_size + 1;
        }
    }
    CHECK_EQ_INT(status, HS_OK);
    if (w->left > 0) CHECK_EQ_INT(expect(w, differing), state.count);
}

static hs_range random_range(void) {
    hs_range range = {0};
    const hs_edit *a = state.items + hs_random(&seed) % state.count,
                  *b = state.items + hs_random(&seed) % state.count;
    uint64_t shape = hs_random(&seed) % 4;
    if (shape & 1) range.start = a->key, range.start_size = a->key_size;
    if (shape & 2) range.stop = b->key, range.stop_size = b->key_size;
    return range;
}

static void scans_visit_each_key_of_the_range_in_order(void) {
    open_states(700, 0);
    for (unsigned i = 0; i < 200; i++) {
        walk w = {.range = random_range(), .reverse = i % 2, .left = i % 5 ? SIZE_MAX : 1 + i};
        if (i >= 150) make_cold();
        walk_all(&w, false);
    }
    close_states();
}

static void count_agrees_with_the_range(void) {
    open_states(700, 0);
    for (unsigned i = 0; i < 200; i++) {
        hs_range range = random_range();
        uint64_t keys, expected = 0;
        for (size_t k = 0; k < state.count; k++)
            expected += !state.items[k].remove && in_range(&range, state.items + k);
        CHECK_EQ_INT(hs_tree_count(&tree, root, &range, &keys), HS_OK);
        CHECK_EQ_INT(keys, expected);
    }
    close_states();
}

static void diff_reports_each_differing_key_in_order(void) {
    static const size_t changes[] = {0, 1, 5, 100, 3000};
    for (size_t c = 0; c < 5; c++) {
        open_states(700, changes[c]);
        for (unsigned i = 0; i < 60; i++) {
            walk w = {.range = random_range(), .left = i % 5 ? SIZE_MAX : 1 + i};
            if (i >= 40) make_cold();
            walk_all(&w, true);
        }
        close_states();
    }
}

/* Another value of the same kind and form in some places: leaves that are twins. One key more: one leaf that is none. */
static void change_values_alone(size_t changes, bool one_more) {
    hs_apply_result result;
    memcpy(other.items, state.items, state.count * sizeof *state.items);
    for (size_t i = 0; i < changes; i++) {
        hs_value *value = &other.items[hs_random(&seed) % state.count].value;
        value->bytes = hs_state_value(hs_random(&seed)).bytes;
    }
    if (one_more) other.items[state.count / 2].remove = !state.items[state.count / 2].remove;
    REQUIRE(hs_states_apply(&nodes, &tree, root, other.items, state.count, false, &result) == HS_OK);
    memcpy(other_root, result.root, 32);
}

static void diff_of_twins_reports_each_differing_value(void) {
    static const size_t changes[] = {1, 5, 100, 3000};
    for (size_t c = 0; c < 8; c++) {
        open_states(700, 0);
        change_values_alone(changes[c % 4], c >= 4);
        for (unsigned i = 0; i < 60; i++) {
            walk w = {.range = random_range(), .left = i % 5 ? SIZE_MAX : 1 + i};
            if (i >= 40) make_cold();
            walk_all(&w, true);
        }
        close_states();
    }
}

static void diff_enters_only_what_differs(void) {
    open_states(4000, 1);
    walk w = {.left = SIZE_MAX};
    make_cold();
    nodes.cold = false;
    walk_all(&w, true);
    CHECK(nodes.loads > 0);
    CHECK(nodes.loads <= 16);
    close_states();
}

/* --- trees that lie --- */

static void put_node(unsigned level, const hs_node_entry *entries, unsigned count, uint64_t keys,
                     uint8_t out[32]) {
    static uint8_t bytes[HS_NODE_SIZE_MAX];
    hs_node node;
    hs_node_build(level, entries, sizeof *entries, count, keys, 0, bytes, &node);
    hs_blake3(bytes, node.size, out);
    hs_nodes_put(&nodes, out, bytes, node.size);
}

static hs_node_entry leaf_entry(const char *key) {
    const uint8_t *bytes = (const uint8_t *)key;
    return (hs_node_entry){.key = {bytes, bytes, 0, (uint32_t)strlen(key)}, .value = {.bytes = bytes}};
}

static hs_node_entry inner_entry(const char *key, const uint8_t id[32]) {
    const uint8_t *bytes = (const uint8_t *)key;
    return (hs_node_entry){.key = {bytes, bytes, 0, (uint32_t)strlen(key)}, .id = id};
}

static bool visit_any(void *context, const uint8_t *key, size_t key_size, const hs_value *value) {
    (void)key, (void)key_size, (void)value;
    ++*(size_t *)context;
    return true;
}

static void check_corrupt(const uint8_t id[32]) {
    size_t visits = 0;
    hs_apply_result result;
    CHECK_EQ_INT(hs_tree_scan(&tree, id, NULL, false, visit_any, &visits), HS_CORRUPT);
    CHECK_EQ_INT(hs_tree_scan(&tree, id, NULL, true, visit_any, &visits), HS_CORRUPT);
    hs_edit edits[2] = {{.key = (const uint8_t *)"a", .key_size = 1},
                        {.key = (const uint8_t *)"zz", .key_size = 2}};
    CHECK_EQ_INT(hs_states_apply(&nodes, &tree, id, edits, 2, false, &result), HS_CORRUPT);
}

static void a_child_that_is_not_what_its_parent_says_is_corrupt(void) {
    uint8_t low[32], high[32], middle[32], id[32];
    hs_nodes_open(&nodes, &tree, (size_t)1 << 20);
    hs_node_entry ab[] = {leaf_entry("a"), leaf_entry("b")}, cd[] = {leaf_entry("c"), leaf_entry("d")};
    put_node(0, ab, 2, 2, low);
    put_node(0, cd, 2, 2, high);
    hs_node_entry wrong_key[] = {inner_entry("a", low), inner_entry("d", high)};
    put_node(1, wrong_key, 2, 4, id);
    check_corrupt(id);
    hs_node_entry wrong_place[] = {inner_entry("b", low), inner_entry("c", high)};
    put_node(1, wrong_place, 2, 4, id);
    check_corrupt(id);
    hs_node_entry one[] = {inner_entry("b", low)};
    put_node(1, one, 1, 2, middle);
    check_corrupt(middle); /* a root with one child */
    hs_node_entry wrong_level[] = {inner_entry("b", middle), inner_entry("d", high)};
    put_node(1, wrong_level, 2, 4, id);
    check_corrupt(id);
    put_node(2, wrong_level, 2, 4, id);
    check_corrupt(id);
    hs_node_entry empty[] = {inner_entry("b", low), inner_entry("d", high)};
    hs_tree_empty_root(high);
    put_node(1, empty, 2, 4, id);
    check_corrupt(id);
    hs_nodes_close(&nodes, &tree);
}

/* Two subtrees that overlap: seen only where a walk goes from one to the other. */
static void subtrees_out_of_order_are_corrupt(void) {
    uint8_t leaf[4][32], inner[2][32], id[32];
    hs_nodes_open(&nodes, &tree, (size_t)1 << 20);
    hs_node_entry entries[4][2] = {{leaf_entry("b"), leaf_entry("c")},
                                   {leaf_entry("d"), leaf_entry("f")},
                                   {leaf_entry("e"), leaf_entry("g")},
                                   {leaf_entry("h"), leaf_entry("i")}};
    for (size_t i = 0; i < 4; i++) put_node(0, entries[i], 2, 2, leaf[i]);
    hs_node_entry left[] = {inner_entry("c", leaf[0]), inner_entry("f", leaf[1])};
    hs_node_entry right[] = {inner_entry("g", leaf[2]), inner_entry("i", leaf[3])};
    put_node(1, left, 2, 4, inner[0]);
    put_node(1, right, 2, 4, inner[1]);
    hs_node_entry top[] = {inner_entry("f", inner[0]), inner_entry("i", inner[1])};
    put_node(2, top, 2, 8, id);
    size_t visits = 0;
    CHECK_EQ_INT(hs_tree_scan(&tree, id, NULL, false, visit_any, &visits), HS_CORRUPT);
    CHECK_EQ_INT(visits, 4);
    CHECK_EQ_INT(hs_tree_scan(&tree, id, NULL, true, visit_any, &visits), HS_CORRUPT);
    hs_nodes_close(&nodes, &tree);
}

/* Totals cannot be checked without the whole tree; they may cost a wrong size, never more. */
static void false_totals_do_no_harm(void) {
    uint8_t low[32], high[32], id[32];
    hs_apply_result result;
    static char keys[512][16];
    static hs_node_entry entries[2][256];
    hs_nodes_open(&nodes, &tree, (size_t)1 << 20);
    for (int i = 0; i < 512; i++) {
        snprintf(keys[i], sizeof keys[i], "k%04d", i);
        entries[i / 256][i % 256] = leaf_entry(keys[i]);
    }
    put_node(0, entries[0], 256, 256, low);
    put_node(0, entries[1], 256, 256, high);
    hs_node_entry top[] = {inner_entry("k0255", low), inner_entry("k0511", high)};
    for (uint64_t lie = 2; lie; lie = lie == 2 ? 17 : lie == 17 ? HS_NODE_KEYS_MAX : 0) {
        put_node(1, top, 2, lie, id);
        for (size_t removes = 1; removes <= 512; removes *= 2) {
            static hs_edit edits[512];
            for (size_t i = 0; i < removes; i++)
                edits[i] = (hs_edit){.key = (uint8_t *)keys[i], .key_size = 5, .remove = true};
            int status = hs_states_apply(&nodes, &tree, id, edits, removes, false, &result);
            CHECK(status == HS_OK || status == HS_CORRUPT);
        }
    }
    hs_nodes_close(&nodes, &tree);
}

/* A count is where false totals could show: as more keys than there are, or, below zero, as nearly 2^64. */
static void a_count_that_cannot_be_is_corrupt(void) {
    uint8_t low[32], high[32], id[32];
    uint64_t keys = 7;
    hs_range range = {
        .start = (const uint8_t *)"b", .start_size = 1, .stop = (const uint8_t *)"d", .stop_size = 1};
    hs_nodes_open(&nodes, &tree, (size_t)1 << 20);
    hs_node_entry ab[] = {leaf_entry("a"), leaf_entry("b")}, cd[] = {leaf_entry("c"), leaf_entry("d")};
    put_node(0, ab, 2, 2, low);
    put_node(0, cd, 2, 2, high);
    hs_node_entry top[] = {inner_entry("b", low), inner_entry("d", high)};
    put_node(1, top, 2, 4, id);
    CHECK_EQ_INT(hs_tree_count(&tree, id, &range, &keys), HS_OK);
    CHECK_EQ_INT(keys, 2);
    hs_node_entry ac[] = {leaf_entry("a"), leaf_entry("aa"), leaf_entry("ab"), leaf_entry("b")};
    put_node(0, ac, 4, 4, low);
    hs_node_entry lying[] = {inner_entry("b", low), inner_entry("d", high)};
    put_node(1, lying, 2, 2, id); /* six keys, says two: those before "d" are five */
    range.start = NULL;
    CHECK_EQ_INT(hs_tree_count(&tree, id, &range, &keys), HS_CORRUPT);
    CHECK_EQ_INT(keys, 2);
    hs_nodes_close(&nodes, &tree);
}

int main(void) {
    RUN(every_key_is_found_with_its_value);
    RUN(values_of_a_leaf_are_expected_when_it_is_loaded);
    RUN(the_empty_tree_has_nothing_and_is_never_loaded);
    RUN(a_missing_node_is_named);
    RUN(scans_visit_each_key_of_the_range_in_order);
    RUN(count_agrees_with_the_range);
    RUN(diff_reports_each_differing_key_in_order);
    RUN(diff_of_twins_reports_each_differing_value);
    RUN(diff_enters_only_what_differs);
    RUN(a_child_that_is_not_what_its_parent_says_is_corrupt);
    RUN(subtrees_out_of_order_are_corrupt);
    RUN(false_totals_do_no_harm);
    RUN(a_count_that_cannot_be_is_corrupt);
    return hs_test_report();
}
