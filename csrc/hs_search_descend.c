/* hs_search_descend.c - a simulation's way down: from the root to the first edge without a child, and on from there.
 *
 *   root --edge--> row --edge--> row --edge--> (no child yet)      EXPAND: the lane's user applies the action, inserts what it
 *   path[0]        path[1]       path[2]       path[3]             leads to, links it, and either evaluates it or goes on
 *
 * A simulation that comes to a terminal row is backed up at once. One that comes to a row which stands on its path already, or
 * whose path is full, ends there: EVALUATE. */
#include "hs_search.h"
#include "hs_step.h"

enum { COMPLETED_MAX = 256 }; /* simulations that one call backs up by itself */

/* A descent by the rules, or by actions that are given. */
typedef struct guide {
    uint64_t *rng;
    const uint32_t *actions;
    uint32_t count;
} guide;

static bool lane_is(const hs_search_map *map, uint32_t number, enum hs_search_state state,
                    hs_search_lane **lane) {
    if (number >= map->header->config.lanes) return false;
    *lane = hs_search_lane_at(map, number);
    return hs_search_word_state(hs_load_relaxed(&(*lane)->word)) == (uint32_t)state;
}

static void path_set(const hs_search_map *map, hs_search_lane *lane, uint32_t depth, uint32_t row,
                     const hs_pair *cell) {
    hs_store32_relaxed(&lane->path[depth].row, row);
    hs_store32_relaxed(&lane->path[depth].cell, hs_search_cell_number(map, cell));
}

static hs_search_edge_data *edge_at(const hs_search_map *map, const hs_search_lane *lane, uint32_t depth) {
    return (hs_search_edge_data *)hs_search_cell_at(map, hs_load32_relaxed(&lane->path[depth].cell));
}

static bool is_on_path(const hs_search_lane *lane, uint32_t depth, uint32_t row) {
    for (uint32_t i = 0; i < depth; i++)
        if (hs_load32_relaxed(&lane->path[i].row) == row) return true;
    return false;
}

/* The lane's user goes on: what it is given. */
static int leaf_out(const hs_search_map *map, hs_search_lane *lane, uint32_t what, uint32_t row,
                    uint32_t action, hs_search_leaf *out) {
    hs_search_lane_say(lane, lane->depth, HS_SEARCH_OUT);
    *out = (hs_search_leaf){
        .what = what, .row = row, .action = action, .depth = lane->depth, .completed = out->completed};
    memcpy(out->id, map->rows[row].id, 32);
    return HS_OK;
}

static int terminal_backup(const hs_search_map *map, hs_search_lane *lane, const hs_search_row_data *row,
                           hs_search_leaf *out) {
    memcpy(lane->values, hs_search_numbers(map, row->slots),
           map->header->config.num_players * sizeof *lane->values);
    lane->count = 1;
    hs_search_backup_from(map, lane, lane->depth);
    out->what = HS_SEARCH_AGAIN;
    out->completed++;
    return HS_OK;
}

/* The action at the lane's depth: HS_ARGUMENT if the one that is given is none; HS_FULL if its edge has no room for another visit. */
static int action_of(const hs_search_map *map, const hs_search_lane *lane, const hs_search_row_data *row,
                     const guide *by, uint32_t *action) {
    *action = by->actions == NULL ? hs_search_select(map, row, by->rng) : by->actions[lane->depth];
    if (*action >= row->num_actions) return HS_ARGUMENT;
    uint64_t word = hs_load_relaxed(&hs_search_edges_of(map, row)[*action].cell.low);
    return hs_search_visits(word) >= HS_SEARCH_VISITS_FULL ? HS_FULL : HS_OK;
}

/* Go on down from a row, at the lane's depth. */
static int descend(const hs_search_map *map, hs_search_lane *lane, uint32_t number, const guide *by,
                   hs_search_leaf *out) {
    for (;;) {
        hs_search_row_data *row = &map->rows[number];
        path_set(map, lane, lane->depth, number, &row->own);
        if (hs_search_shape_kind(hs_load32_relaxed(&row->shape)) == HS_SEARCH_TERMINAL)
            return terminal_backup(map, lane, row, out);
        if (lane->depth == map->header->config.depth_max || is_on_path(lane, lane->depth, number) ||
            (by->actions != NULL && lane->depth == by->count))
            return leaf_out(map, lane, HS_SEARCH_EVALUATE, number, 0, out);
        uint32_t action;
        int status = action_of(map, lane, row, by, &action);
        if (status != HS_OK) {
            hs_search_undo_from(map, lane, lane->depth);
            return status;
        }
        hs_search_edge_data *edge = &hs_search_edges_of(map, row)[action];
        path_set(map, lane, lane->depth, number, &edge->cell);
        hs_search_change enter = {
            .state = HS_SEARCH_DOWN, .level = lane->depth, .counts = HS_SEARCH_IN_FLIGHT_ONE};
        hs_search_lane_change(map, lane, &enter, NULL);
        lane->depth++;
        uint32_t child = hs_load32_acquire(&edge->child); /* E33 */
        if (child == 0) {
            hs_store32_relaxed(&lane->path[lane->depth].row, HS_SEARCH_NO_ROW);
            return leaf_out(map, lane, HS_SEARCH_EXPAND, number, action, out);
        }
        number = child - 1;
    }
}

/* Take a ticket; false if there is none. */
static bool ticket_take(const hs_search_map *map, uint32_t number, uint32_t owner, uint32_t root) {
    hs_search_lane *lane = hs_search_lane_at(map, number);
    if (hs_load32_relaxed(&map->header->stop) != 0 ||
        hs_search_double(hs_load_relaxed(&map->header->tickets.high)) < 1)
        return false;
    hs_search_change change = {.state = HS_SEARCH_TAKE, .counts = HS_SEARCH_VISITS_ONE, .value = -1};
    hs_store32_relaxed(&lane->owner, owner);
    lane->number = number;
    lane->root = root;
    lane->depth = 0;
    if (hs_search_lane_change(map, lane, &change, NULL)) return true;
    hs_search_lane_say(lane, 0, HS_SEARCH_IDLE);
    return false;
}

static int begin(void *memory, uint32_t number, uint32_t owner, uint32_t root, const guide *by,
                 hs_search_leaf *out) {
    hs_search_map map = hs_search_map_of(memory);
    hs_search_lane *lane;
    if (!lane_is(&map, number, HS_SEARCH_IDLE, &lane) || !hs_search_is_row(&map, root)) return HS_ARGUMENT;
    int status = HS_OK;
    hs_search_leaf leaf = {.what = HS_SEARCH_NONE};
    do {
        if (!ticket_take(&map, number, owner, root)) {
            leaf.what = HS_SEARCH_NONE;
            break;
        }
        status = descend(&map, lane, root, by, &leaf);
    } while (status == HS_OK && leaf.what == HS_SEARCH_AGAIN && by->actions == NULL &&
             leaf.completed < COMPLETED_MAX);
    if (status == HS_OK) *out = leaf;
    return status;
}

int hs_search_begin(void *memory, uint32_t lane, uint32_t owner, uint32_t root, uint64_t *rng,
                    hs_search_leaf *out) {
    return begin(memory, lane, owner, root, &(guide){.rng = rng}, out);
}

int hs_search_replay(void *memory, uint32_t lane, uint32_t owner, uint32_t root, const uint32_t *actions,
                     uint32_t n, hs_search_leaf *out) {
    static const uint32_t none[1];
    return begin(memory, lane, owner, root, &(guide){.actions = n == 0 ? none : actions, .count = n}, out);
}

int hs_search_resume(void *memory, uint32_t number, uint64_t *rng, hs_search_leaf *out) {
    hs_search_map map = hs_search_map_of(memory);
    hs_search_lane *lane;
    if (!lane_is(&map, number, HS_SEARCH_OUT, &lane)) return HS_ARGUMENT;
    uint32_t row = hs_load32_relaxed(&lane->path[lane->depth].row);
    if (row == HS_SEARCH_NO_ROW) return HS_ARGUMENT;
    hs_search_leaf leaf = {.what = HS_SEARCH_NONE};
    int status = descend(&map, lane, row, &(guide){.rng = rng}, &leaf);
    if (status == HS_OK) *out = leaf;
    return status;
}

int hs_search_link(void *memory, uint32_t number, uint32_t child_row, const double *rewards) {
    hs_search_map map = hs_search_map_of(memory);
    hs_search_lane *lane;
    if (!lane_is(&map, number, HS_SEARCH_OUT, &lane) || !hs_search_is_row(&map, child_row) ||
        hs_load32_relaxed(&lane->path[lane->depth].row) != HS_SEARCH_NO_ROW)
        return HS_ARGUMENT;
    hs_search_edge_data *edge = edge_at(&map, lane, lane->depth - 1);
    uint32_t none = 0, slot, child = hs_load32_acquire(&edge->child); /* E33 */
    if (child == 0) {
        if (hs_load32_relaxed(&edge->rewards) == 0) {
            int status = hs_search_rewards_put(&map, rewards, &slot);
            if (status != HS_OK) return status;
            if (slot != 0) hs_cas32_seq_cst(&edge->rewards, &none, slot); /* E34 */
            HS_STEP(search_rewards);
        }
        if (hs_cas32_seq_cst(&edge->child, &child, child_row + 1)) child = child_row + 1; /* E33 */
    }
    path_set(&map, lane, lane->depth, child - 1, &map.rows[child - 1].own);
    return child == child_row + 1 ? HS_OK : 1;
}

int hs_search_path(const void *memory, uint32_t number, uint32_t *rows, uint32_t *actions, uint32_t n) {
    hs_search_map map = hs_search_map_of(memory);
    hs_search_lane *lane;
    if (number >= map.header->config.lanes) return HS_ARGUMENT;
    if (!lane_is(&map, number, HS_SEARCH_OUT, &lane)) return 0;
    for (uint32_t i = 0; i < n && i < lane->depth; i++) {
        rows[i] = hs_load32_relaxed(&lane->path[i].row);
        actions[i] = (uint32_t)(edge_at(&map, lane, i) - hs_search_edges_of(&map, &map.rows[rows[i]]));
    }
    return (int)lane->depth;
}
