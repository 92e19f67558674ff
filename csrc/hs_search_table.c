/* hs_search_table.c - the table of a search: made, found valid, and what stands in it: rows, edges, priors, counts.
 *
 * A row is written whole, then named by the index (E32). Who finds the place taken by the same id has lost a race and uses the
 * winner's row; what it wrote stays unnamed until hs_search_compact. */
#include <math.h>
#include "hs_search.h"
#include "hs_step.h"

/* ---- where everything stands ---------------------------------------------------------------------------------------------- */
/* Differs between builds whose layouts differ. */
static uint32_t fingerprint(void) {
    const uint64_t sizes[] = {sizeof(hs_search_header),   sizeof(hs_search_lane),
                              sizeof(hs_search_row_data), sizeof(hs_search_edge_data),
                              sizeof(hs_search_config),   sizeof(hs_search_step)};
    uint8_t digest[32];
    hs_blake3((const uint8_t *)sizes, sizeof sizes, digest);
    return hs_load_u32(digest);
}

static uint32_t index_size_for(uint32_t rows_max) {
    uint32_t size = 64;
    while (size < 2 * (uint64_t)rows_max) size *= 2;
    return size;
}

static uint64_t lane_size_for(const hs_search_config *config) {
    return hs_align_up(sizeof(hs_search_lane) + (config->depth_max + 1u) * sizeof(hs_search_step), 64);
}

/* The header of a table with so many rows; slots_max is what is left of config->size_bytes, perhaps nothing. */
static hs_search_header laid_out(const hs_search_config *config, uint32_t rows_max) {
    hs_search_header header = {.magic = HS_SEARCH_MAGIC,
                               .version = HS_SEARCH_VERSION,
                               .fingerprint = fingerprint(),
                               .config = *config,
                               .lanes_offset = hs_align_up(sizeof(hs_search_header), 64),
                               .index_size = index_size_for(rows_max),
                               .lane_size = (uint32_t)lane_size_for(config)};
    header.config.rows_max = rows_max;
    header.index_offset = header.lanes_offset + (uint64_t)config->lanes * header.lane_size;
    header.rows_offset = header.index_offset + (uint64_t)header.index_size * sizeof(hs_word32);
    header.slots_offset = header.rows_offset + (uint64_t)rows_max * sizeof(hs_search_row_data);
    if (config->size_bytes > header.slots_offset)
        header.slots_max = (uint32_t)((config->size_bytes - header.slots_offset) / HS_SEARCH_SLOT_SIZE);
    return header;
}

static bool is_sane(const hs_search_config *config) {
    return config->lanes >= 1 && config->lanes <= HS_SEARCH_LANES_MAX && config->num_players >= 1 &&
           config->num_players <= HS_SEARCH_PLAYERS_MAX && config->depth_max >= 1 &&
           config->depth_max <= HS_SEARCH_DEPTH_MAX && config->rule <= HS_SEARCH_PUCT &&
           config->in_flight_rule <= HS_SEARCH_VIRTUAL_LOSS && config->normalize <= 1 && config->c >= 0 &&
           isfinite(config->c) && isfinite(config->discount) && !isinf(config->fpu) &&
           isfinite(config->virtual_loss) && config->widening_c >= 0 && isfinite(config->widening_c) &&
           isfinite(config->widening_alpha) && config->rows_max <= INT32_MAX;
}

int hs_search_size(const hs_search_config *config, uint64_t *size_bytes) {
    if (!is_sane(config) || config->rows_max == 0) return HS_ARGUMENT;
    hs_search_header header = laid_out(config, config->rows_max);
    *size_bytes = header.slots_offset + (uint64_t)config->rows_max * HS_SEARCH_ROOM * HS_SEARCH_SLOT_SIZE;
    return HS_OK;
}

/* As many rows as a size holds with the usual room for slots. */
static uint32_t rows_that_fit(const hs_search_config *config) {
    uint64_t low = 0, high = config->size_bytes / (sizeof(hs_search_row_data) + HS_SEARCH_SLOT_SIZE);
    if (high > INT32_MAX) high = INT32_MAX;
    while (low < high) {
        uint32_t rows = (uint32_t)((low + high + 1) / 2);
        if (laid_out(config, rows).slots_max >= (uint64_t)rows * HS_SEARCH_ROOM)
            low = rows;
        else
            high = rows - 1;
    }
    return (uint32_t)low;
}

/* Cells are counted by 32 bits. */
static bool is_addressable(uint64_t size_bytes) { return size_bytes / sizeof(hs_pair) <= UINT32_MAX; }

int hs_search_format(void *memory, const hs_search_config *config) {
    hs_search_header *header = memory;
    if (!is_sane(config) || !is_addressable(config->size_bytes) ||
        config->size_bytes < sizeof(hs_search_header))
        return HS_ARGUMENT;
    if (header->magic != 0) return HS_EXISTS;
    uint32_t rows_max = config->rows_max == 0 ? rows_that_fit(config) : config->rows_max;
    hs_search_header made = laid_out(config, rows_max);
    if (rows_max == 0 || made.slots_max == 0) return HS_ARGUMENT;
    *header = made;
    hs_store_relaxed(&header->q_least, hs_search_double_bits(INFINITY));
    hs_store_relaxed(&header->q_greatest, hs_search_double_bits(-INFINITY));
    return HS_OK;
}

int hs_search_attach(const void *memory, uint64_t size_bytes, hs_search_config *out) {
    const hs_search_header *header = memory;
    if (size_bytes < sizeof *header || header->magic != HS_SEARCH_MAGIC ||
        header->version != HS_SEARCH_VERSION || header->fingerprint != fingerprint())
        return HS_FORMAT;
    const hs_search_config *config = &header->config;
    if (!is_sane(config) || config->size_bytes > size_bytes || !is_addressable(config->size_bytes))
        return HS_FORMAT;
    hs_search_header made = laid_out(config, config->rows_max);
    if (made.lanes_offset != header->lanes_offset || made.index_offset != header->index_offset ||
        made.rows_offset != header->rows_offset || made.slots_offset != header->slots_offset ||
        made.slots_max != header->slots_max || made.index_size != header->index_size ||
        made.lane_size != header->lane_size || made.slots_max == 0)
        return HS_FORMAT;
    if (out != NULL) *out = *config;
    return HS_OK;
}

/* ---- rows -------------------------------------------------------------------------------------------------------------------- */
static bool is_same_id(const uint8_t *a, const uint8_t *b) {
    for (size_t at = 0; at < 32; at += 8)
        if (hs_load_u64(a + at) != hs_load_u64(b + at)) return false;
    return true;
}

hs_word32 *hs_search_probe(const hs_search_map *map, const uint8_t *id, uint32_t *found) {
    uint32_t mask = map->header->index_size - 1;
    for (uint32_t at = (uint32_t)hs_load_u64(id) & mask;; at = (at + 1) & mask) {
        *found = hs_load32_acquire(&map->index[at]); /* E32: the row is whole */
        if (*found == 0 || is_same_id(map->rows[*found - 1].id, id)) return &map->index[at];
    }
}

bool hs_search_is_row(const hs_search_map *map, uint32_t row) {
    uint32_t found;
    if (row >= hs_load_relaxed(&map->header->rows_next)) return false;
    if (hs_load32_acquire(&map->rows[row].shape) == 0) return false; /* E35: its id is written */
    hs_search_probe(map, map->rows[row].id, &found);
    return found == row + 1;
}

int hs_search_find(const void *memory, const uint8_t *id, uint32_t *row) {
    hs_search_map map = hs_search_map_of(memory);
    uint32_t found;
    hs_search_probe(&map, id, &found);
    if (found == 0) return HS_NOT_FOUND;
    *row = found - 1;
    return HS_OK;
}

/* Hand out n of what is counted by a word. */
static int take(const hs_search_map *map, hs_word *next, uint32_t n, uint32_t max, uint32_t *first) {
    uint64_t seen = hs_load_relaxed(next);
    do {
        if (n > max - seen) {
            hs_store32_relaxed(&map->header->full, 1);
            return HS_FULL;
        }
    } while (!hs_cas_seq_cst(next, &seen, seen + n));
    *first = (uint32_t)seen;
    return HS_OK;
}

int hs_search_take_slots(const hs_search_map *map, uint32_t n, uint32_t *first) {
    return take(map, &map->header->slots_next, n, map->header->slots_max, first);
}

/* A softmax. False if a logit is not a number or no weight is above 0. */
static bool probabilities(const float *logits, uint32_t n, hs_search_edge_data *edges, bool write) {
    double greatest = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY) return false;
        if (logits[i] > greatest) greatest = logits[i];
    }
    if (greatest == -INFINITY) return false;
    if (!write) return true;
    for (uint32_t i = 0; i < n; i++) sum += exp(logits[i] - greatest);
    for (uint32_t i = 0; i < n; i++)
        hs_store32_relaxed(&edges[i].prior, hs_search_float_bits((float)(exp(logits[i] - greatest) / sum)));
    return true;
}

static bool are_finite(const double *numbers, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(numbers[i])) return false;
    return true;
}

static bool may_be_row(const hs_search_map *map, uint32_t kind, int32_t player, uint32_t n,
                       const float *logits, const double *returns) {
    int32_t players = (int32_t)map->header->config.num_players;
    if (player < -1 || player >= players || (player == -1) != (kind == HS_SEARCH_CHANCE)) return false;
    if (kind == HS_SEARCH_TERMINAL)
        return n == 0 && logits == NULL && returns != NULL && are_finite(returns, (uint32_t)players);
    return (kind == HS_SEARCH_CHOICE || kind == HS_SEARCH_CHANCE) && n >= 1 && returns == NULL &&
           (logits == NULL || probabilities(logits, n, NULL, false));
}

/* What follows a row: a terminal one's returns, or edges. The slots are zeros. */
static void slots_fill(const hs_search_map *map, uint32_t slots, uint32_t n, const float *logits,
                       const double *returns) {
    double *numbers = hs_search_numbers(map, slots);
    hs_search_edge_data *edges = (hs_search_edge_data *)numbers;
    if (returns != NULL)
        memcpy(numbers, returns, map->header->config.num_players * sizeof *returns);
    else if (logits != NULL)
        probabilities(logits, n, edges, true);
    else
        for (uint32_t i = 0; i < n; i++)
            hs_store32_relaxed(&edges[i].prior, hs_search_float_bits(1.0f / (float)n));
}

/* A row that the index does not name yet. */
static int row_make(const hs_search_map *map, const hs_search_row_info *as, const float *logits,
                    const double *returns, uint32_t *number) {
    struct {
        uint8_t id[32];
        uint32_t slots, num_actions;
    } head = {.num_actions = as->num_actions};
    uint32_t needed = returns != NULL ? hs_search_slots_for(map) : as->num_actions;
    int status = hs_search_take_slots(map, needed, &head.slots);
    if (status == HS_OK) status = take(map, &map->header->rows_next, 1, map->header->config.rows_max, number);
    if (status != HS_OK) return status;
    hs_search_row_data *made = &map->rows[*number];
    memcpy(head.id, as->id, sizeof head.id);
    memcpy(made, &head, sizeof head);
    hs_store32_relaxed(&made->made_by, as->made_by);
    slots_fill(map, head.slots, head.num_actions, logits, returns);
    hs_store32_release(&made->shape, hs_search_shape(as->kind, as->player)); /* E35 */
    return HS_OK;
}

int hs_search_insert(void *memory, uint32_t made_by, const uint8_t *id, uint32_t kind, int32_t player,
                     uint32_t n, const float *logits, const double *returns, uint32_t *row) {
    hs_search_map map = hs_search_map_of(memory);
    uint32_t found, number = 0;
    if (!may_be_row(&map, kind, player, n, logits, returns)) return HS_ARGUMENT;
    hs_word32 *place = hs_search_probe(&map, id, &found);
    if (found == 0) {
        hs_search_row_info as = {.kind = kind, .player = player, .num_actions = n, .made_by = made_by};
        memcpy(as.id, id, sizeof as.id);
        int status = row_make(&map, &as, logits, returns, &number);
        if (status != HS_OK) return status;
        HS_STEP(search_row);
    }
    while (found == 0) {
        if (hs_cas32_seq_cst(place, &found, number + 1)) { /* E32 */
            *row = number;
            return 1;
        }
        place = hs_search_probe(&map, id, &found);
    }
    *row = found - 1;
    return 0;
}

/* ---- priors and noise ---------------------------------------------------------------------------------------------------------- */
int hs_search_priors(void *memory, uint32_t row, const float *logits, uint32_t n) {
    hs_search_map map = hs_search_map_of(memory);
    if (!hs_search_is_row(&map, row)) return HS_NOT_FOUND;
    if (n == 0 || map.rows[row].num_actions != n) return HS_ARGUMENT;
    return probabilities(logits, n, hs_search_edges_of(&map, &map.rows[row]), true) ? HS_OK : HS_ARGUMENT;
}

int hs_search_noise(void *memory, uint32_t row, const float *noise, uint32_t n, double fraction) {
    hs_search_map map = hs_search_map_of(memory);
    if (!hs_search_is_row(&map, row)) return HS_NOT_FOUND;
    if (map.rows[row].num_actions != n || !(fraction >= 0 && fraction <= 1) ||
        (fraction > 0 && noise == NULL))
        return HS_ARGUMENT;
    for (uint32_t i = 0; fraction > 0 && i < n; i++)
        if (!(noise[i] >= 0 && noise[i] <= 1)) return HS_ARGUMENT;
    hs_search_edge_data *edges = hs_search_edges_of(&map, &map.rows[row]);
    for (uint32_t i = 0; i < n; i++) {
        double prior = hs_search_float(hs_load32_relaxed(&edges[i].prior));
        double more = fraction > 0 ? fraction * (noise[i] - prior) : 0;
        hs_store32_relaxed(&edges[i].noise, hs_search_float_bits((float)more));
    }
    return HS_OK;
}

/* ---- what stands there -------------------------------------------------------------------------------------------------------- */
int hs_search_row(const void *memory, uint32_t row, hs_search_row_info *out) {
    hs_search_map map = hs_search_map_of(memory);
    if (!hs_search_is_row(&map, row)) return HS_NOT_FOUND;
    const hs_search_row_data *data = &map.rows[row];
    uint32_t shape = hs_load32_relaxed(&data->shape);
    *out = (hs_search_row_info){.kind = hs_search_shape_kind(shape),
                                .player = hs_search_shape_player(shape),
                                .num_actions = data->num_actions,
                                .made_by = hs_load32_relaxed(&data->made_by),
                                .own_visits = hs_search_visits(hs_load_relaxed(&data->own.low)),
                                .own_value_sum = hs_search_double(hs_load_relaxed(&data->own.high))};
    memcpy(out->id, data->id, 32);
    out->visits = out->own_visits;
    const hs_search_edge_data *edges = hs_search_edges_of(&map, data);
    for (uint32_t i = 0; i < data->num_actions; i++) {
        uint64_t word = hs_load_relaxed(&edges[i].cell.low);
        out->visits += hs_search_visits(word);
        out->in_flight += hs_search_in_flight(word);
    }
    if (out->kind == HS_SEARCH_TERMINAL)
        memcpy(out->returns, hs_search_numbers(&map, data->slots),
               map.header->config.num_players * sizeof(double));
    return HS_OK;
}

static void edge_read(const hs_search_map *map, const hs_search_edge_data *edge, hs_search_edge *out) {
    uint64_t word = hs_load_relaxed(&edge->cell.low);
    uint32_t child = hs_load32_acquire(&edge->child);     /* E33 */
    uint32_t rewards = hs_load32_acquire(&edge->rewards); /* E34 */
    *out = (hs_search_edge){.visits = hs_search_visits(word),
                            .in_flight = hs_search_in_flight(word),
                            .value_sum = hs_search_double(hs_load_relaxed(&edge->cell.high)),
                            .prior = hs_search_float(hs_load32_relaxed(&edge->prior)),
                            .child = child - 1};
    if (child != 0) memcpy(out->child_id, map->rows[child - 1].id, 32);
    if (rewards != 0)
        memcpy(out->rewards, hs_search_numbers(map, rewards - 1),
               map->header->config.num_players * sizeof(double));
}

int hs_search_edges(const void *memory, uint32_t row, hs_search_edge *out, uint32_t n) {
    hs_search_map map = hs_search_map_of(memory);
    if (!hs_search_is_row(&map, row)) return HS_NOT_FOUND;
    const hs_search_row_data *data = &map.rows[row];
    const hs_search_edge_data *edges = hs_search_edges_of(&map, data);
    for (uint32_t i = 0; i < n && i < data->num_actions; i++) edge_read(&map, &edges[i], &out[i]);
    return (int)data->num_actions;
}

int hs_search_counts(const void *memory, hs_search_totals *out) {
    hs_search_map map = hs_search_map_of(memory);
    const hs_search_header *header = map.header;
    *out = (hs_search_totals){
        .rows = (uint32_t)hs_load_relaxed(&header->rows_next),
        .rows_max = header->config.rows_max,
        .slots = (uint32_t)hs_load_relaxed(&header->slots_next),
        .slots_max = header->slots_max,
        .full = hs_load32_relaxed(&header->full),
        .stop = hs_load32_relaxed(&header->stop),
        .tickets = (uint64_t)hs_search_double(hs_load_relaxed(&header->tickets.high)),
        .lanes = header->config.lanes,
    };
    for (uint32_t lane = 0; lane < out->lanes; lane++)
        if (hs_search_word_state(hs_load_relaxed(&hs_search_lane_at(&map, lane)->word)) != HS_SEARCH_IDLE)
            out->lanes_busy++;
    return HS_OK;
}

int hs_search_stop(void *memory, uint32_t on) {
    hs_store32_relaxed(&hs_search_map_of(memory).header->stop, on != 0);
    return HS_OK;
}

/* ---- counts brought back -------------------------------------------------------------------------------------------------------- */
static bool may_be_edge(const hs_search_map *map, const hs_search_edge *edge) {
    return edge->visits <= HS_SEARCH_VISITS_FULL && isfinite(edge->value_sum) && edge->prior >= 0 &&
           edge->prior <= 1 && are_finite(edge->rewards, map->header->config.num_players) &&
           (edge->child == HS_SEARCH_NO_ROW || hs_search_is_row(map, edge->child));
}

static void cell_restore(hs_pair *cell, uint32_t visits, double value_sum) {
    uint64_t in_flight = hs_search_in_flight(hs_load_relaxed(&cell->low));
    hs_store_relaxed(&cell->low,
                     (uint64_t)visits << HS_SEARCH_VISITS_SHIFT | in_flight << HS_SEARCH_IN_FLIGHT_SHIFT);
    hs_store_relaxed(&cell->high, hs_search_double_bits(value_sum));
}

static bool has_rewards(const hs_search_map *map, const double *rewards) {
    for (uint32_t i = 0; i < map->header->config.num_players; i++)
        if (rewards[i] != 0) return true;
    return false;
}

/* Rewards of an edge that has none yet: a slot of them, or 0 if they are all zero. */
int hs_search_rewards_put(const hs_search_map *map, const double *rewards, uint32_t *slot) {
    *slot = 0;
    if (rewards == NULL || !has_rewards(map, rewards)) return HS_OK;
    uint32_t first;
    int status = hs_search_take_slots(map, hs_search_slots_for(map), &first);
    if (status != HS_OK) return status;
    memcpy(hs_search_numbers(map, first), rewards, map->header->config.num_players * sizeof *rewards);
    *slot = first + 1;
    return HS_OK;
}

static int edge_restore(const hs_search_map *map, hs_search_edge_data *edge, const hs_search_edge *from) {
    uint32_t slot = hs_load32_relaxed(&edge->rewards);
    if (slot != 0)
        memcpy(hs_search_numbers(map, slot - 1), from->rewards,
               map->header->config.num_players * sizeof(double));
    else {
        int status = hs_search_rewards_put(map, from->rewards, &slot);
        if (status != HS_OK) return status;
    }
    hs_store32_release(&edge->rewards, slot);
    hs_store32_relaxed(&edge->prior, hs_search_float_bits(from->prior));
    hs_store32_release(&edge->child, from->child + 1);
    cell_restore(&edge->cell, from->visits, from->value_sum);
    return HS_OK;
}

int hs_search_restore(void *memory, uint32_t row, uint32_t own_visits, double own_value_sum,
                      const hs_search_edge *edges, uint32_t n) {
    hs_search_map map = hs_search_map_of(memory);
    if (!hs_search_is_row(&map, row)) return HS_NOT_FOUND;
    hs_search_row_data *data = &map.rows[row];
    if (n != data->num_actions || own_visits > HS_SEARCH_VISITS_FULL || !isfinite(own_value_sum))
        return HS_ARGUMENT;
    for (uint32_t i = 0; i < n; i++)
        if (!may_be_edge(&map, &edges[i])) return HS_ARGUMENT;
    cell_restore(&data->own, own_visits, own_value_sum);
    for (uint32_t i = 0; i < n; i++) {
        int status = edge_restore(&map, &hs_search_edges_of(&map, data)[i], &edges[i]);
        if (status != HS_OK) return status;
    }
    return HS_OK;
}
