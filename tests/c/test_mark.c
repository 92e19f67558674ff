/* test_mark.c - what is marked is what is reachable, against a walk over the same nodes in plain memory. */
#include "hs_lease.h"
#include "hs_node.h"
#include "hs_nodes.h"
#include "hs_pack.h"
#include "hs_test.h"

enum { PACK_MAX = 4 << 20, PACKS = 5 };

static void nodes_free(hs_nodes *nodes) {
    for (size_t i = 0; i < nodes->capacity; i++) free(nodes->items[i].bytes);
    free(nodes->items);
}

/* Trees whose nodes, and values by id, stand in packs. */
typedef struct world {
    hs_nodes nodes;
    hs_tree tree;
    uint8_t *packs[PACKS];
    size_t sizes[PACKS];
} world;

static void world_open(world *w) {
    memset(w, 0, sizeof *w);
    hs_nodes_open(&w->nodes, &w->tree, 16 << 20);
}

static void world_close(world *w) {
    hs_cache_free(w->tree.cache);
    nodes_free(&w->nodes);
    for (int i = 0; i < PACKS; i++) free(w->packs[i]);
}

/* A value's id, by number. */
static void value_id(unsigned n, uint8_t id[32]) { hs_blake3((const uint8_t *)&n, sizeof n, id); }

/* `count` keys, values by id from `first` on, on a base; `nested` (NULL: none) under one more key. */
static void state_make(world *w, const uint8_t *base, unsigned count, unsigned first, const uint8_t *nested,
                       uint8_t root[32]) {
    hs_edit *edits = calloc(count + 1, sizeof *edits);
    char (*keys)[16] = calloc(count + 1, sizeof *keys);
    uint8_t (*ids)[32] = calloc(count + 1, sizeof *ids);
    for (unsigned i = 0; i < count; i++) {
        int size = snprintf(keys[i], sizeof keys[i], "k%07u", i * 3);
        value_id(first + i, ids[i]);
        edits[i] = (hs_edit){.key = (uint8_t *)keys[i],
                             .key_size = (uint32_t)size,
                             .value = {.hashed = true, .size = 1000, .bytes = ids[i]}};
    }
    if (nested)
        edits[count++] = (hs_edit){.key = (const uint8_t *)"nested",
                                   .key_size = 6,
                                   .value = {.kind = HS_KIND_SNAPSHOT, .size = 32, .bytes = nested}};
    hs_apply *apply = NULL;
    hs_apply_result result;
    REQUIRE(hs_apply_new(&w->tree, base, edits, count, &apply) == HS_OK);
    REQUIRE(hs_apply_run(apply, &result) == HS_OK);
    hs_apply_free(apply);
    memcpy(root, result.root, 32);
    free(edits);
    free(keys);
    free(ids);
}

/* Put every node into one of the packs, by its id; and values 0 .. values - 1. */
static void packs_make(world *w, unsigned values) {
    for (uint32_t p = 0; p < PACKS; p++) {
        uint32_t count = 0;
        for (size_t i = 0; i < w->nodes.capacity; i++)
            count += w->nodes.items[i].bytes && w->nodes.items[i].id[9] % PACKS == p;
        for (unsigned n = p; n < values; n += PACKS) count++;
        uint8_t *pack = malloc(PACK_MAX);
        size_t end = hs_pack_payload_start(count);
        uint32_t row = 0;
        for (size_t i = 0; i < w->nodes.capacity; i++) {
            const hs_nodes_item *item = &w->nodes.items[i];
            if (!item->bytes || item->id[9] % PACKS != p) continue;
            REQUIRE(end + item->size <= PACK_MAX);
            hs_pack_row at = {.id = item->id,
                              .offset = (uint32_t)end,
                              .stored_size = (uint32_t)item->size,
                              .raw_size = item->size,
                              .kind = HS_ENTRY_NODE};
            memcpy(pack + end, item->bytes, item->size);
            end += item->size;
            hs_pack_row_set(pack, row++, &at);
        }
        for (unsigned n = p; n < values; n += PACKS) {
            uint8_t id[32];
            value_id(n, id);
            hs_pack_row at = {.id = id, .offset = (uint32_t)end, .kind = HS_ENTRY_BLOB, .raw_size = 1000};
            hs_pack_row_set(pack, row++, &at);
        }
        hs_pack_seal(pack, count, end - hs_pack_payload_start(count));
        REQUIRE(hs_pack_validate(pack, end) == HS_OK);
        free(w->packs[p]);
        w->packs[p] = pack;
        w->sizes[p] = end;
    }
}

static void mark_pack(const world *w, hs_mark *mark, int p, const uint8_t *dead, uint32_t flags) {
    uint32_t row = UINT32_MAX;
    do CHECK_EQ_INT(hs_mark_pack(mark, w->packs[p], w->sizes[p], dead, flags, &row), HS_OK);
    while (row > 0);
}

/* Until nothing is left to be found. */
static void mark_all(const world *w, hs_mark *mark) {
    for (int pass = 0; pass < 100 && hs_mark_pending(mark) > 0; pass++)
        for (int p = PACKS - 1; p >= 0; p--) mark_pack(w, mark, p, NULL, 0);
}

/* The walk that marking is held against: everything below a root, nested states included. */
static void walk(const world *w, const uint8_t id[32], hs_nodes *seen) {
    const hs_nodes_item *item = hs_nodes_get(&w->nodes, id);
    hs_node node;
    if (!item || !hs_nodes_put(seen, id, (const uint8_t *)"n", 1)) return;
    REQUIRE(hs_node_open(item->bytes, item->size, &node) == HS_OK);
    for (unsigned i = 0, offset = 0; i < node.count; i++) {
        if (node.type == HS_NODE_INNER) {
            walk(w, hs_node_child_id(&node, i), seen);
            continue;
        }
        hs_value value;
        if (i == 0) offset = hs_node_value_offset(&node, 0);
        hs_node_value_at(&node, i, offset, &value);
        offset += hs_node_form_size(hs_value_form(&value));
        if (value.hashed) (void)hs_nodes_put(seen, value.bytes, (const uint8_t *)"v", 1);
        if (value.kind == HS_KIND_SNAPSHOT) walk(w, value.bytes, seen);
    }
}

static void check_marked(const world *w, hs_mark *mark, const hs_nodes *seen) {
    uint64_t rows = 0, live = 0, expected = 0;
    for (int p = 0; p < PACKS; p++) {
        uint32_t count = hs_pack_count(w->packs[p]), live_rows;
        uint64_t live_bytes;
        uint8_t *dead = malloc((count + 7) / 8);
        CHECK_EQ_INT(hs_mark_place(mark, w->packs[p], w->sizes[p], NULL, dead, &live_bytes, &live_rows),
                     HS_OK);
        for (uint32_t row = 0; row < count; row++) {
            bool is_seen = hs_nodes_get(seen, hs_pack_row_get(w->packs[p], row).id) != NULL;
            CHECK_EQ_INT(dead[row / 8] >> (row % 8) & 1, !is_seen);
            expected += is_seen;
        }
        rows += count;
        live += live_rows;
        free(dead);
    }
    CHECK_EQ_INT(live, expected);
    CHECK(rows > 0);
}

static void what_is_below_a_root_is_marked_and_nothing_else(void) {
    world w;
    world_open(&w);
    uint8_t empty[32], inner[32], old[32], root[32];
    hs_tree_empty_root(empty);
    state_make(&w, empty, 300, 0, NULL, inner);
    state_make(&w, empty, 3000, 400, NULL, old);
    state_make(&w, old, 200, 5000, inner, root);
    packs_make(&w, 6000);
    hs_mark *mark = NULL;
    REQUIRE(hs_mark_open(&mark) == HS_OK);
    CHECK_EQ_INT(hs_mark_add(mark, root), 1);
    CHECK_EQ_INT(hs_mark_add(mark, root), 0);
    CHECK_EQ_INT(hs_mark_add(mark, empty), 0);
    CHECK_EQ_INT(hs_mark_pending(mark), 1);
    mark_all(&w, mark);
    CHECK_EQ_INT(hs_mark_pending(mark), 0);
    hs_nodes seen = {0};
    walk(&w, root, &seen);
    CHECK(hs_nodes_get(&seen, inner) != NULL && !hs_mark_has(mark, old));
    check_marked(&w, mark, &seen);
    nodes_free(&seen);
    hs_mark_close(mark);
    world_close(&w);
}

static void leased_state_is_wanted_where_its_row_is_live(void) {
    world w;
    world_open(&w);
    uint8_t empty[32], root[32];
    hs_tree_empty_root(empty);
    state_make(&w, empty, 2000, 0, NULL, root);
    packs_make(&w, 2000);
    hs_mark *mark = NULL;
    REQUIRE(hs_mark_open(&mark) == HS_OK);
    CHECK_EQ_INT(hs_mark_lease(mark, hs_lease_tag(root)), 1);
    CHECK_EQ_INT(hs_mark_lease(mark, hs_lease_tag(empty)), 0);
    for (uint64_t n = 0; n < 5000; n++) hs_mark_lease(mark, n * UINT64_C(0x9e3779b97f)); /* of other states */
    int home = root[9] % PACKS;
    uint8_t *dead = malloc(hs_pack_count(w.packs[home]));
    memset(dead, 0xff, hs_pack_count(w.packs[home]));
    mark_pack(&w, mark, home, dead, 0);
    CHECK(!hs_mark_has(mark, root));
    mark_pack(&w, mark, home, NULL, 0);
    CHECK(hs_mark_has(mark, root) && hs_mark_pending(mark) > 0);
    CHECK_EQ_INT(hs_mark_lease(mark, hs_lease_tag(root)), 0);
    mark_all(&w, mark);
    hs_nodes seen = {0};
    walk(&w, root, &seen);
    check_marked(&w, mark, &seen);
    nodes_free(&seen);
    free(dead);
    hs_mark_close(mark);
    world_close(&w);
}

static void every_node_of_a_young_pack_is_wanted(void) {
    world w;
    world_open(&w);
    uint8_t empty[32], root[32];
    hs_tree_empty_root(empty);
    state_make(&w, empty, 3000, 0, NULL, root);
    packs_make(&w, 3000);
    hs_mark *mark = NULL;
    REQUIRE(hs_mark_open(&mark) == HS_OK);
    for (int p = 0; p < PACKS; p++) mark_pack(&w, mark, p, NULL, HS_MARK_YOUNG);
    CHECK_EQ_INT(hs_mark_pending(mark), 0);
    for (size_t i = 0; i < w.nodes.capacity; i++)
        if (w.nodes.items[i].bytes) CHECK(hs_mark_has(mark, w.nodes.items[i].id));
    hs_mark_close(mark);
    world_close(&w);
}

static void what_is_wanted_can_be_brought_by_hand(void) {
    world w;
    world_open(&w);
    uint8_t empty[32], root[32], ids[7][32];
    hs_tree_empty_root(empty);
    state_make(&w, empty, 3000, 0, NULL, root);
    hs_mark *mark = NULL;
    REQUIRE(hs_mark_open(&mark) == HS_OK);
    hs_mark_add(mark, root);
    hs_mark_watch(mark);
    CHECK_EQ_INT(hs_mark_node(mark, root, (const uint8_t *)"no node", 7), HS_CORRUPT);
    while (hs_mark_pending(mark) > 0) {
        uint32_t count = hs_mark_wanted(mark, ids[0], 7);
        for (uint32_t i = 0; i < count; i++) {
            const hs_nodes_item *item = hs_nodes_get(&w.nodes, ids[i]);
            REQUIRE(item != NULL);
            CHECK_EQ_INT(hs_mark_node(mark, ids[i], item->bytes, item->size), HS_OK);
            CHECK_EQ_INT(hs_mark_node(mark, ids[i], item->bytes, item->size), HS_OK); /* once is enough */
        }
    }
    hs_nodes seen = {0};
    walk(&w, root, &seen);
    uint64_t grown = hs_mark_grown(mark, NULL, 0);
    CHECK_EQ_INT(grown, seen.count - 1);
    uint8_t (*all)[32] = malloc(grown * 32);
    CHECK_EQ_INT(hs_mark_grown(mark, all[0], grown), grown);
    for (uint64_t i = 0; i < grown; i++) CHECK(hs_nodes_get(&seen, all[i]) != NULL);
    CHECK_EQ_INT(hs_mark_wanted(mark, ids[0], 7), 0);
    free(all);
    nodes_free(&seen);
    hs_mark_close(mark);
    world_close(&w);
}

static void row_is_placed_once_and_dead_ones_stay_dead(void) {
    world w;
    world_open(&w);
    uint8_t empty[32], root[32], dead[64], dead_before[64] = {1};
    uint64_t bytes;
    uint32_t rows;
    hs_tree_empty_root(empty);
    state_make(&w, empty, 5, 0, NULL, root);
    packs_make(&w, 5);
    hs_mark *mark = NULL;
    REQUIRE(hs_mark_open(&mark) == HS_OK);
    hs_mark_add(mark, root);
    mark_all(&w, mark);
    int home = root[9] % PACKS;
    uint32_t count = hs_pack_count(w.packs[home]);
    CHECK_EQ_INT(hs_mark_place(mark, w.packs[home], w.sizes[home], dead_before, dead, &bytes, &rows), HS_OK);
    CHECK(rows == count - 1 && (dead[0] & 1) == 1);
    CHECK_EQ_INT(hs_mark_place(mark, w.packs[home], w.sizes[home], NULL, dead, &bytes, &rows), HS_OK);
    CHECK_EQ_INT(rows, 1); /* the one that was dead; the others stand in the first */
    CHECK_EQ_INT(hs_mark_place(mark, w.packs[home], 10, NULL, dead, &bytes, &rows), HS_CORRUPT);
    CHECK_EQ_INT(hs_mark_place(mark, w.packs[home], 40, NULL, dead, &bytes, &rows), HS_CORRUPT);
    uint32_t row = UINT32_MAX;
    CHECK_EQ_INT(hs_mark_pack(mark, w.packs[home], 40, NULL, 0, &row), HS_CORRUPT);
    hs_mark_close(mark);
    world_close(&w);
}

int main(void) {
    RUN(what_is_below_a_root_is_marked_and_nothing_else);
    RUN(leased_state_is_wanted_where_its_row_is_live);
    RUN(every_node_of_a_young_pack_is_wanted);
    RUN(what_is_wanted_can_be_brought_by_hand);
    RUN(row_is_placed_once_and_dead_ones_stay_dead);
    return hs_test_report();
}
