/* search.c - see the header. Rows are named by one byte again and again; rewards are 7. */
#include "search.h"
#include "hs_search.h"
#include "model.h"
#include "runtime.h"

enum { TABLE_SIZE = 1 << 14 };
static const double REWARD = 7;

static void *const table = shared;
static uint32_t root, child;

static int insert(uint8_t name, uint32_t *row) {
    uint8_t id[32];
    for (int i = 0; i < 32; i++) id[i] = name;
    return hs_search_insert(table, 0, id, HS_SEARCH_CHOICE, 0, 1, NULL, NULL, row);
}

/* The lane's path leads to the root's only edge. */
static void stand(uint32_t number) {
    hs_search_map map = hs_search_map_of(table);
    hs_search_lane *lane = hs_search_lane_at(&map, number);
    hs_pair *cell = &hs_search_edges_of(&map, &map.rows[root])->cell;
    lane->number = number;
    hs_store32_relaxed(&lane->path[0].row, root);
    hs_store32_relaxed(&lane->path[0].cell, hs_search_cell_number(&map, cell));
}

static void change(uint32_t number) {
    hs_search_map map = hs_search_map_of(table);
    hs_search_change enter = {.state = HS_SEARCH_DOWN, .counts = HS_SEARCH_IN_FLIGHT_ONE};
    hs_search_lane_change(&map, hs_search_lane_at(&map, number), &enter, NULL);
}

void search_begin(void) {
    hs_search_config config = {
        .size_bytes = TABLE_SIZE, .rows_max = 4, .lanes = 3, .num_players = 1, .depth_max = 2, .discount = 1};
    runtime_begin();
    memset(shared, 0, TABLE_SIZE);
    hs_search_format(table, &config);
    insert(1, &root);
    stand(0);
    stand(1);
}

void search_begin_changed(void) {
    search_begin();
    change(0);
}

void search_begin_out(void) {
    uint64_t rng = 1;
    hs_search_leaf leaf;
    search_begin();
    insert(2, &child);
    hs_search_tickets(table, 1);
    hs_search_begin(table, 0, 0, root, &rng, &leaf);
}

void search_change(void) { change(1); }

void search_die(void) {
    change(0);
    search_look();
}

void search_look(void) {
    hs_search_map map = hs_search_map_of(table);
    uint64_t word;
    promise(hs_search_lane_was_made(&map, hs_search_lane_at(&map, 0), &word),
            "of the dead it is known what they did");
}

void search_insert(void) {
    uint32_t row;
    insert(2, &row);
}

void search_find(void) {
    uint8_t id[32];
    uint32_t row;
    for (int i = 0; i < 32; i++) id[i] = 2;
    if (hs_search_find(table, id, &row) != HS_OK) return;
    hs_search_map map = hs_search_map_of(table);
    promise(hs_search_is_row(&map, row), "a row that the index names is whole");
}

void search_iterate(void) {
    hs_search_map map = hs_search_map_of(table);
    hs_search_is_row(&map, 1);
}

void search_link(void) { hs_search_link(table, 0, child, &REWARD); }

void search_read(void) {
    hs_search_edge edge;
    hs_search_edges(table, root, &edge, 1);
    promise(edge.child == UINT32_MAX || edge.rewards[0] == REWARD, "a child comes with the edge's rewards");
}
