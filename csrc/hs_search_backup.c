/* hs_search_backup.c - a simulation's end: backed up, taken back, or, when its process is dead, whichever of the two is due.
 *
 *   backup   own cell of the last row, then its edges up to the root:  in_flight - 1, visits + count, value_sum + count * G
 *            G at an edge = its reward + discount * G below it, of the player who moves there
 *   undo     edges from the last to the root: in_flight - 1; then the ticket
 *
 * What an edge gets follows from the values at the end of the path and from the rewards on it, which never change: whoever finishes
 * a backup adds what its lane would have added. */
#include <math.h>
#include "hs_search.h"

/* What an edge on a path is worth to each player: G below it in, G at it out. */
static void fold(const hs_search_map *map, const hs_search_lane *lane, uint32_t level, double *returns) {
    const hs_search_edge_data *edge =
        (const hs_search_edge_data *)hs_search_cell_at(map, hs_load32_relaxed(&lane->path[level].cell));
    const hs_search_config *config = &map->header->config;
    uint32_t slot = hs_load32_acquire(&edge->rewards); /* E34 */
    const double *rewards = slot == 0 ? NULL : hs_search_numbers(map, slot - 1);
    for (uint32_t player = 0; player < config->num_players; player++)
        returns[player] = (rewards == NULL ? 0 : rewards[player]) + config->discount * returns[player];
}

static void raise(hs_word *greatest, double q) {
    uint64_t seen = hs_load_relaxed(greatest);
    while (q > hs_search_double(seen) && !hs_cas_seq_cst(greatest, &seen, hs_search_double_bits(q))) continue;
}

static void lower(hs_word *least, double q) {
    uint64_t seen = hs_load_relaxed(least);
    while (q < hs_search_double(seen) && !hs_cas_seq_cst(least, &seen, hs_search_double_bits(q))) continue;
}

static void q_met(const hs_search_map *map, const hs_search_counts_now *now) {
    if (!map->header->config.normalize) return;
    double q = now->value / hs_search_visits(now->word);
    raise(&map->header->q_greatest, q);
    lower(&map->header->q_least, q);
}

void hs_search_backup_from(const hs_search_map *map, hs_search_lane *lane, uint32_t level) {
    double returns[HS_SEARCH_PLAYERS_MAX];
    memcpy(returns, lane->values, sizeof returns);
    for (uint32_t below = lane->depth; below > level;) fold(map, lane, --below, returns);
    for (;; level--) {
        const hs_search_row_data *row = &map->rows[hs_load32_relaxed(&lane->path[level].row)];
        hs_search_counts_now now;
        hs_search_change change = {.state = HS_SEARCH_UP,
                                   .level = level,
                                   .counts = lane->count * HS_SEARCH_VISITS_ONE -
                                             (level < lane->depth ? HS_SEARCH_IN_FLIGHT_ONE : 0),
                                   .value = lane->count * returns[hs_search_player(row)]};
        hs_search_lane_change(map, lane, &change, &now);
        if (level < lane->depth) q_met(map, &now);
        if (level == 0) break;
        fold(map, lane, level - 1, returns);
    }
    hs_search_lane_say(lane, 0, HS_SEARCH_IDLE);
}

void hs_search_undo_from(const hs_search_map *map, hs_search_lane *lane, uint32_t entered) {
    while (entered > 0) {
        hs_search_change leave = {
            .state = HS_SEARCH_UNDO, .level = --entered, .counts = -HS_SEARCH_IN_FLIGHT_ONE};
        hs_search_lane_change(map, lane, &leave, NULL);
    }
    hs_search_change give = {.state = HS_SEARCH_GIVE, .counts = HS_SEARCH_VISITS_ONE, .value = 1};
    hs_search_lane_change(map, lane, &give, NULL);
    hs_search_lane_say(lane, 0, HS_SEARCH_IDLE);
}

int hs_search_backup(void *memory, uint32_t number, const double *values, uint32_t count) {
    hs_search_map map = hs_search_map_of(memory);
    const hs_search_config *config = &map.header->config;
    if (number >= config->lanes || count < 1 || count > HS_SEARCH_COUNT_MAX) return HS_ARGUMENT;
    hs_search_lane *lane = hs_search_lane_at(&map, number);
    if (hs_search_word_state(hs_load_relaxed(&lane->word)) != HS_SEARCH_OUT ||
        hs_load32_relaxed(&lane->path[lane->depth].row) == HS_SEARCH_NO_ROW)
        return HS_ARGUMENT;
    for (uint32_t player = 0; player < config->num_players; player++)
        if (!isfinite(values[player])) return HS_ARGUMENT;
    memcpy(lane->values, values, config->num_players * sizeof *values);
    lane->count = count;
    hs_search_backup_from(&map, lane, lane->depth);
    return HS_OK;
}

int hs_search_abandon(void *memory, uint32_t number) {
    hs_search_map map = hs_search_map_of(memory);
    if (number >= map.header->config.lanes) return HS_ARGUMENT;
    hs_search_lane *lane = hs_search_lane_at(&map, number);
    uint32_t state = hs_search_word_state(hs_load_relaxed(&lane->word));
    if (state == HS_SEARCH_IDLE) return HS_OK;
    if (state != HS_SEARCH_OUT) return HS_ARGUMENT;
    hs_search_undo_from(&map, lane, lane->depth);
    return HS_OK;
}

/* Go on in the place of a lane whose process is dead. True if its simulation counts, false if it never was. */
static bool lane_repair(const hs_search_map *map, hs_search_lane *lane) {
    uint64_t word = hs_load_acquire(&lane->word);
    bool made = hs_search_word_state(word) != HS_SEARCH_OUT && hs_search_lane_was_made(map, lane, &word);
    uint32_t state = hs_search_word_state(word) & ~(uint32_t)HS_SEARCH_DONE;
    uint32_t level = hs_search_word_level(word);
    if (state == HS_SEARCH_UP && !(made && level == 0))
        hs_search_backup_from(map, lane, made ? level - 1 : level);
    else if (state == HS_SEARCH_DOWN)
        hs_search_undo_from(map, lane, made ? level + 1 : level);
    else if (state == HS_SEARCH_UNDO)
        hs_search_undo_from(map, lane, made ? level : level + 1);
    else if (state == HS_SEARCH_OUT)
        hs_search_undo_from(map, lane, level);
    else if (state == (made ? HS_SEARCH_TAKE : HS_SEARCH_GIVE))
        hs_search_undo_from(map, lane, 0);
    else
        hs_search_lane_say(lane, 0, HS_SEARCH_IDLE);
    return state == HS_SEARCH_UP;
}

int hs_search_repair(void *memory, uint32_t owner, uint32_t *finished, uint32_t *undone) {
    hs_search_map map = hs_search_map_of(memory);
    *finished = *undone = 0;
    for (uint32_t number = 0; number < map.header->config.lanes; number++) {
        hs_search_lane *lane = hs_search_lane_at(&map, number);
        if (hs_load32_relaxed(&lane->owner) != owner ||
            hs_search_word_state(hs_load_acquire(&lane->word)) == HS_SEARCH_IDLE)
            continue;
        if (lane_repair(&map, lane))
            ++*finished;
        else
            ++*undone;
    }
    return HS_OK;
}
