/* hs_search_compact.c - room in a full table: what is visited least, and what no root leads to any more, goes.
 *
 *   roots, paths of lanes that are out --> kept, whatever the bounds
 *   then, again and again: of all children of kept rows that are not kept yet, the one with the most visits
 *
 * so that what is kept hangs together, and a row is kept before those that are visited less. Edges to rows that went are without child and
 * rewards again, and keep their counts. Kept rows keep their order and get numbers without gaps; rows and slots are written anew
 * beside the table, then copied back.
 *
 * Only while nobody else touches the table. Who dies within it leaves a table that nobody can use. */
#include <stdlib.h>
#include "hs_search.h"

typedef struct candidate {
    uint64_t visits;
    uint32_t row;
} candidate;

typedef struct compaction {
    hs_search_map map;
    uint32_t rows, rows_max;   /* that there are; that may be kept */
    uint32_t slots, slots_max; /* that kept ones need; that they may */
    uint32_t kept, heap_size;
    uint8_t *seen;   /* row: is or was a candidate */
    uint32_t *remap; /* row: 0 while it is kept, HS_SEARCH_NO_ROW if not; then its new number */
    candidate *heap; /* the best first */
    hs_search_row_data *new_rows;
    uint8_t *new_slots;
} compaction;

/* ---- which rows ------------------------------------------------------------------------------------------------------------- */
static bool is_better(candidate a, candidate b) {
    return a.visits != b.visits ? a.visits > b.visits : a.row < b.row;
}

static void heap_push(compaction *c, candidate entry) {
    uint32_t at = c->heap_size++;
    for (; at > 0 && is_better(entry, c->heap[(at - 1) / 2]); at = (at - 1) / 2)
        c->heap[at] = c->heap[(at - 1) / 2];
    c->heap[at] = entry;
}

static candidate heap_pop(compaction *c) {
    candidate best = c->heap[0], last = c->heap[--c->heap_size];
    uint32_t at = 0;
    for (;;) {
        uint32_t below = 2 * at + 1;
        if (below + 1 < c->heap_size && is_better(c->heap[below + 1], c->heap[below])) below++;
        if (below >= c->heap_size || !is_better(c->heap[below], last)) break;
        c->heap[at] = c->heap[below];
        at = below;
    }
    c->heap[at] = last;
    return best;
}

static uint64_t visits_of(const hs_search_map *map, uint32_t row) {
    const hs_search_row_data *data = &map->rows[row];
    const hs_search_edge_data *edges = hs_search_edges_of(map, data);
    uint64_t visits = hs_search_visits(hs_load_relaxed(&data->own.low));
    for (uint32_t i = 0; i < data->num_actions; i++)
        visits += hs_search_visits(hs_load_relaxed(&edges[i].cell.low));
    return visits;
}

/* Slots that a row needs if all of its edges keep their rewards. */
static uint32_t slots_of(const hs_search_map *map, uint32_t row) {
    const hs_search_row_data *data = &map->rows[row];
    const hs_search_edge_data *edges = hs_search_edges_of(map, data);
    if (data->num_actions == 0) return hs_search_slots_for(map);
    uint32_t slots = data->num_actions;
    for (uint32_t i = 0; i < data->num_actions; i++)
        if (hs_load32_relaxed(&edges[i].rewards) != 0) slots += hs_search_slots_for(map);
    return slots;
}

static void row_keep(compaction *c, uint32_t row) {
    c->remap[row] = 0;
    c->kept++;
    c->slots += slots_of(&c->map, row);
    const hs_search_row_data *data = &c->map.rows[row];
    const hs_search_edge_data *edges = hs_search_edges_of(&c->map, data);
    for (uint32_t i = 0; i < data->num_actions; i++) {
        uint32_t child = hs_load32_relaxed(&edges[i].child);
        if (child == 0 || c->seen[child - 1]) continue;
        c->seen[child - 1] = 1;
        heap_push(c, (candidate){.visits = visits_of(&c->map, child - 1), .row = child - 1});
    }
}

/* Rows that stay whatever the bounds: a candidate for each is in the heap only if another row led to it first. */
static void row_force(compaction *c, uint32_t row) {
    c->seen[row] = 1;
    if (c->remap[row] == HS_SEARCH_NO_ROW) row_keep(c, row);
}

static bool lane_is_out(const hs_search_lane *lane) {
    return hs_search_word_state(hs_load_relaxed(&lane->word)) == HS_SEARCH_OUT;
}

static void rows_choose(compaction *c, const uint32_t *roots, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) row_force(c, roots[i]);
    for (uint32_t number = 0; number < c->map.header->config.lanes; number++) {
        const hs_search_lane *lane = hs_search_lane_at(&c->map, number);
        for (uint32_t i = 0; lane_is_out(lane) && i <= lane->depth; i++) {
            uint32_t row = hs_load32_relaxed(&lane->path[i].row);
            if (row != HS_SEARCH_NO_ROW) row_force(c, row);
        }
    }
    while (c->heap_size > 0 && c->kept < c->rows_max) {
        uint32_t row = heap_pop(c).row;
        if (c->remap[row] == HS_SEARCH_NO_ROW && c->slots + (uint64_t)slots_of(&c->map, row) <= c->slots_max)
            row_keep(c, row);
    }
}

/* ---- written anew ----------------------------------------------------------------------------------------------------------- */
static void number_rows(compaction *c) {
    uint32_t next = 0;
    for (uint32_t row = 0; row < c->rows; row++)
        if (c->remap[row] != HS_SEARCH_NO_ROW) c->remap[row] = next++;
}

/* Numbers for each player, moved. */
static uint32_t numbers_move(compaction *c, uint32_t from) {
    uint32_t to = c->slots;
    memcpy(c->new_slots + (uint64_t)to * HS_SEARCH_SLOT_SIZE, hs_search_numbers(&c->map, from),
           (uint64_t)hs_search_slots_for(&c->map) * HS_SEARCH_SLOT_SIZE);
    c->slots += hs_search_slots_for(&c->map);
    return to;
}

static void cell_unstamp(hs_pair *cell) {
    hs_store_relaxed(&cell->low, hs_load_relaxed(&cell->low) & ~HS_SEARCH_STAMP_MASK);
}

static void edges_move(compaction *c, const hs_search_row_data *from, hs_search_row_data *to) {
    to->slots = c->slots;
    c->slots += from->num_actions;
    hs_search_edge_data *edges =
        (hs_search_edge_data *)(c->new_slots + (uint64_t)to->slots * HS_SEARCH_SLOT_SIZE);
    memcpy(edges, hs_search_edges_of(&c->map, from), (uint64_t)from->num_actions * sizeof *edges);
    for (uint32_t i = 0; i < from->num_actions; i++) {
        uint32_t child = hs_load32_relaxed(&edges[i].child), rewards = hs_load32_relaxed(&edges[i].rewards);
        child = child == 0 ? 0 : c->remap[child - 1] + 1; /* 0 as well if that row goes */
        hs_store32_relaxed(&edges[i].child, child);
        hs_store32_relaxed(&edges[i].rewards,
                           child == 0 || rewards == 0 ? 0 : numbers_move(c, rewards - 1) + 1);
        cell_unstamp(&edges[i].cell);
    }
}

static void rows_move(compaction *c) {
    c->slots = 0;
    for (uint32_t row = 0; row < c->rows; row++) {
        if (c->remap[row] == HS_SEARCH_NO_ROW) continue;
        const hs_search_row_data *from = &c->map.rows[row];
        hs_search_row_data *to = &c->new_rows[c->remap[row]];
        memcpy(to, from, sizeof *to);
        cell_unstamp(&to->own);
        if (from->num_actions == 0)
            to->slots = numbers_move(c, from->slots);
        else
            edges_move(c, from, to);
    }
}

/* The path of a lane that is out, as it will be once the new rows are in the table's place. */
static void path_move(compaction *c, hs_search_lane *lane) {
    const hs_search_map *map = &c->map;
    lane->root = c->remap[lane->root];
    for (uint32_t i = 0; i <= lane->depth; i++) {
        uint32_t row = hs_load32_relaxed(&lane->path[i].row);
        if (row == HS_SEARCH_NO_ROW) continue;
        const hs_search_row_data *to = &c->new_rows[c->remap[row]];
        uint64_t cell = hs_search_cell_number(map, &map->rows[c->remap[row]].own);
        if (i < lane->depth) {
            uint32_t first = hs_search_cell_number(map, &hs_search_edges_of(map, &map->rows[row])->cell);
            cell = hs_search_cell_number(map, &hs_search_edges_of(map, to)->cell) +
                   (uint64_t)(hs_load32_relaxed(&lane->path[i].cell) - first);
        }
        hs_store32_relaxed(&lane->path[i].row, c->remap[row]);
        hs_store32_relaxed(&lane->path[i].cell, (uint32_t)cell);
    }
}

static void put_back(compaction *c) {
    const hs_search_map *map = &c->map;
    uint64_t slots_old = hs_load_relaxed(&map->header->slots_next);
    for (uint32_t number = 0; number < map->header->config.lanes; number++)
        if (lane_is_out(hs_search_lane_at(map, number))) path_move(c, hs_search_lane_at(map, number));
    memcpy(map->rows, c->new_rows, (uint64_t)c->kept * sizeof *map->rows);
    memset(&map->rows[c->kept], 0, (uint64_t)(c->rows - c->kept) * sizeof *map->rows);
    memcpy(map->slots, c->new_slots, (uint64_t)c->slots * HS_SEARCH_SLOT_SIZE);
    memset(map->slots + (uint64_t)c->slots * HS_SEARCH_SLOT_SIZE, 0,
           (slots_old - c->slots) * HS_SEARCH_SLOT_SIZE);
    memset(map->index, 0, (uint64_t)map->header->index_size * sizeof *map->index);
    for (uint32_t row = 0; row < c->kept; row++) {
        uint32_t found;
        hs_store32_relaxed(hs_search_probe(map, map->rows[row].id, &found), row + 1);
    }
    hs_store_relaxed(&map->header->rows_next, c->kept);
    hs_store_relaxed(&map->header->slots_next, c->slots);
    hs_store32_relaxed(&map->header->full, 0);
}

/* ---- all of it ----------------------------------------------------------------------------------------------------------------- */
static bool may_compact(const hs_search_map *map, const uint32_t *roots, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (!hs_search_is_row(map, roots[i])) return false;
    for (uint32_t number = 0; number < map->header->config.lanes; number++) {
        uint32_t state = hs_search_word_state(hs_load_relaxed(&hs_search_lane_at(map, number)->word));
        if (state != HS_SEARCH_IDLE && state != HS_SEARCH_OUT) return false;
    }
    return true;
}

static int compact(compaction *c, const uint32_t *roots, uint32_t n, uint32_t *remap_out) {
    memset(c->remap, 0xff, (uint64_t)c->rows * sizeof *c->remap);
    rows_choose(c, roots, n);
    c->new_rows = aligned_alloc(64, (c->kept + 1u) * sizeof *c->new_rows);
    c->new_slots = aligned_alloc(64, (c->slots / 2u + 1u) * (uint64_t)(2 * HS_SEARCH_SLOT_SIZE));
    if (c->new_rows == NULL || c->new_slots == NULL) return HS_NO_MEMORY;
    number_rows(c);
    rows_move(c);
    put_back(c);
    if (remap_out != NULL) memcpy(remap_out, c->remap, (uint64_t)c->rows * sizeof *c->remap);
    return HS_OK;
}

int64_t hs_search_compact(void *memory, const uint32_t *roots, uint32_t n, uint32_t rows_keep_max,
                          uint32_t *remap_out) {
    compaction c = {.map = hs_search_map_of(memory), .rows_max = rows_keep_max};
    if (!may_compact(&c.map, roots, n)) return HS_ARGUMENT;
    c.rows = (uint32_t)hs_load_relaxed(&c.map.header->rows_next);
    c.slots_max = c.map.header->slots_max / 2;
    c.seen = calloc(c.rows + 1u, 1);
    c.remap = calloc(c.rows + 1u, sizeof *c.remap);
    c.heap = calloc(c.rows + 1u, sizeof *c.heap);
    int status =
        c.seen == NULL || c.remap == NULL || c.heap == NULL ? HS_NO_MEMORY : compact(&c, roots, n, remap_out);
    free(c.seen);
    free(c.remap);
    free(c.heap);
    free(c.new_rows);
    free(c.new_slots);
    return status == HS_OK ? (int64_t)c.kept : status;
}
