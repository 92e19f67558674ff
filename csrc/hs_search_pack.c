/* hs_search_pack.c - rows of a search's table as a saved search has them (docs/FORMAT.md), of those that have changed since somebody looked.
 *
 * Whoever saves keeps a mark for each row: a sum of the bytes that it had. A row is packed, its sum compared, and handed out if it is
 * another one. So a look at a table costs a pass over it and no more, and what has changed is exact.
 *
 * Reads only, beside any process that searches: a cell is read as one, rows and edges as they are when it is their turn. */
#include <math.h>
#include "hs_checksum.h"
#include "hs_search.h"

enum { HEAD_SIZE = 40, ROW_VERSION = 1, PRIORS_FOLLOW = 1, HAS_CHILD = 1, HAS_REWARDS = 2 };

/* Counts what it is given, and keeps what it has room for. */
typedef struct packer {
    uint8_t *out;
    uint64_t size, at;
} packer;

static void put(packer *packer, const void *data, uint64_t size) {
    if (packer->at + size <= packer->size) memcpy(packer->out + packer->at, data, size);
    packer->at += size;
}
static void put8(packer *packer, uint32_t value) { put(packer, &(uint8_t){(uint8_t)value}, 1); }
static void put16(packer *packer, uint32_t value) { put(packer, &(uint16_t){(uint16_t)value}, 2); }
static void put32(packer *packer, uint32_t value) { put(packer, &value, 4); }
static void put64(packer *packer, uint64_t value) { put(packer, &value, 8); }
/* A sum that has overflowed is the greatest one that has not. */
static void put_sum(packer *packer, uint64_t bits) {
    double sum = hs_search_double(bits);
    put64(packer, isfinite(sum) ? bits : hs_search_double_bits(copysign(1.7e308, sum)));
}

/* A cell's word and sum of one moment: its word is another one after each change. */
static hs_pair cell_read(const hs_pair *cell) {
    for (;;) {
        uint64_t low = hs_load_acquire(&cell->low);
        uint64_t high = hs_load_acquire(&cell->high);
        if (HS_LIKELY(hs_load_relaxed(&cell->low) == low)) return (hs_pair){.low = low, .high = high};
    }
}

static bool priors_alike(const hs_search_edge_data *edges, uint32_t n) {
    uint32_t alike = hs_search_float_bits(1.0f / (float)n);
    for (uint32_t i = 0; i < n; i++)
        if (hs_load32_relaxed(&edges[i].prior) != alike) return false;
    return true;
}

/* Rewards of an edge, or NULL: they are all 0. */
static const double *rewards_of(const hs_search_map *map, const hs_search_edge_data *edge) {
    uint32_t slot = hs_load32_acquire(&edge->rewards); /* E34 */
    const double *rewards = slot == 0 ? NULL : hs_search_numbers(map, slot - 1);
    for (uint32_t i = 0; rewards != NULL && i < map->header->config.num_players; i++)
        if (rewards[i] != 0) return rewards;
    return NULL;
}

static bool edge_pack(const hs_search_map *map, const hs_search_edge_data *edge, uint32_t index,
                      packer *packer) {
    hs_pair cell = cell_read(&edge->cell);
    uint32_t visits = hs_search_visits(cell.low), child = hs_load32_acquire(&edge->child); /* E33 */
    if (visits == 0 && child == 0) return false;
    const double *rewards = rewards_of(map, edge);
    put32(packer, index);
    put32(packer, (child != 0 ? HAS_CHILD : 0u) | (rewards != NULL ? HAS_REWARDS : 0u));
    put64(packer, visits);
    put_sum(packer, cell.high);
    if (child != 0) put(packer, map->rows[child - 1].id, 32);
    if (rewards != NULL) put(packer, rewards, map->header->config.num_players * sizeof *rewards);
    return true;
}

static void row_pack(const hs_search_map *map, const hs_search_row_data *row, packer *packer) {
    uint32_t shape = hs_load32_relaxed(&row->shape), players = map->header->config.num_players;
    bool ended = hs_search_shape_kind(shape) == HS_SEARCH_TERMINAL;
    const hs_search_edge_data *edges = hs_search_edges_of(map, row);
    bool follow = !ended && !priors_alike(edges, row->num_actions);
    hs_pair own = cell_read(&row->own);
    put8(packer, ROW_VERSION);
    put8(packer, hs_search_shape_kind(shape));
    put16(packer, (uint32_t)hs_search_shape_player(shape));
    put8(packer, players);
    put8(packer, follow ? PRIORS_FOLLOW : 0);
    put16(packer, 0);
    put32(packer, row->num_actions);
    uint64_t count_at = packer->at;
    put32(packer, 0);
    put64(packer, hs_search_visits(own.low));
    put_sum(packer, own.high);
    if (ended) put(packer, hs_search_numbers(map, row->slots), players * sizeof(double));
    for (uint32_t i = 0; follow && i < row->num_actions; i++)
        put32(packer, hs_load32_relaxed(&edges[i].prior));
    uint32_t count = 0;
    for (uint32_t i = 0; i < row->num_actions; i++) count += edge_pack(map, &edges[i], i, packer);
    if (count_at + sizeof count <= packer->size) memcpy(packer->out + count_at, &count, sizeof count);
}

int64_t hs_search_pack(const void *memory, uint32_t *row, uint32_t rows, uint64_t *marks, uint8_t *out,
                       uint64_t size) {
    static const uint64_t seed[2] = {UINT64_C(0x243f6a8885a308d3), UINT64_C(0x13198a2e03707344)};
    hs_search_map map = hs_search_map_of(memory);
    uint64_t used = 0;
    for (; *row < rows; ++*row) {
        if (!hs_search_is_row(&map, *row)) continue;
        if (used + HEAD_SIZE > size) return used == 0 ? HS_FULL : (int64_t)used;
        packer packer = {.out = out + used + HEAD_SIZE, .size = size - used - HEAD_SIZE};
        row_pack(&map, &map.rows[*row], &packer);
        if (packer.at > packer.size || packer.at > UINT32_MAX) return used == 0 ? HS_FULL : (int64_t)used;
        uint64_t mark = hs_checksum(seed, packer.out, packer.at) | 1;
        if (mark == marks[*row]) continue;
        marks[*row] = mark;
        memcpy(out + used, map.rows[*row].id, 32);
        memcpy(out + used + 32, row, 4);
        memcpy(out + used + 36, &(uint32_t){(uint32_t)packer.at}, 4);
        used += HEAD_SIZE + packer.at;
    }
    return (int64_t)used;
}
