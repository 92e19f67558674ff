/* hs_search_rig.h - a table of a search in memory of its own, and a small game to search: what tests of hs_search*.c stand on.
 *
 * The game: a state is {ply, sum}. Each of `width` actions adds its number to the sum, so that orders of moves meet in one state; at ply
 * `plies` it has ended, and who gets what follows from the sum. */
#ifndef HS_SEARCH_RIG_H
#define HS_SEARCH_RIG_H
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "hs_search.h"
#include "hs_step.h"
#include "hs_test.h"

typedef struct game {
    uint32_t width, plies;
    bool rewards; /* each action is worth something at once, too */
    bool chance;  /* every third ply is chance's */
    bool circle;  /* no end: ply counts modulo plies */
} game;

typedef struct place { /* a state of the game */
    uint32_t ply, sum;
} place;

__attribute__((unused)) static hs_search_config search_config(uint32_t rows_max, uint32_t lanes) {
    return (hs_search_config){.rows_max = rows_max,
                              .lanes = lanes,
                              .num_players = 2,
                              .depth_max = 64,
                              .rule = HS_SEARCH_UCT,
                              .c = 1.4142135623730951,
                              .discount = 1,
                              .fpu = NAN,
                              .virtual_loss = 1};
}

/* A table; search_break gives it back. */
__attribute__((unused)) static void *search_make(hs_search_config *config) {
    if (config->size_bytes == 0) REQUIRE(hs_search_size(config, &config->size_bytes) == HS_OK);
    void *memory = mmap(NULL, config->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    REQUIRE(hs_search_format(memory, config) == HS_OK);
    REQUIRE(hs_search_attach(memory, config->size_bytes, config) == HS_OK);
    return memory;
}
__attribute__((unused)) static void search_break(void *memory) {
    munmap(memory, hs_search_map_of(memory).header->config.size_bytes);
}

__attribute__((unused)) static void place_id(place at, uint8_t *id) {
    uint32_t words[2] = {at.ply, at.sum};
    hs_blake3((const uint8_t *)words, sizeof words, id);
}
__attribute__((unused)) static double place_value(place at) { return (double)((at.sum * 37u) % 17u) / 8 - 1; }
__attribute__((unused)) static double action_reward(place at, uint32_t action) {
    return (double)((at.sum + action) % 5u) / 4;
}
__attribute__((unused)) static place place_after(const game *g, place at, uint32_t action) {
    place next = {at.ply + 1, at.sum + action + (action == 0)};
    if (g->circle) next = (place){next.ply % g->plies, next.sum % 11};
    return next;
}

/* The state's row, perhaps a new one: as hs_search_insert. */
__attribute__((unused)) static int place_insert(void *memory, const game *g, place at, uint32_t made_by,
                                                uint32_t *row) {
    uint8_t id[32];
    place_id(at, id);
    if (at.ply == g->plies) {
        double returns[2] = {place_value(at), -place_value(at)};
        return hs_search_insert(memory, made_by, id, HS_SEARCH_TERMINAL, 0, 0, NULL, returns, row);
    }
    bool chance = g->chance && at.ply % 3 == 2;
    return hs_search_insert(memory, made_by, id, chance ? HS_SEARCH_CHANCE : HS_SEARCH_CHOICE,
                            chance ? -1 : (int32_t)(at.ply % 2), g->width, NULL, NULL, row);
}

/* Which state a row is: found by going through all. */
__attribute__((unused)) static place place_of(const game *g, const uint8_t *id) {
    uint8_t other[32];
    for (uint32_t ply = 0; ply <= g->plies; ply++)
        for (uint32_t sum = 0; sum <= g->plies * g->width; sum++) {
            place_id((place){ply, sum}, other);
            if (memcmp(id, other, 32) == 0) return (place){ply, sum};
        }
    REQUIRE(false);
    return (place){0, 0};
}

/* What a lane is given is carried through: expanded, linked, evaluated. Simulations that it completed. */
__attribute__((unused)) static int leaf_finish(void *memory, const game *g, uint32_t lane, uint64_t *rng,
                                               hs_search_leaf *leaf, uint64_t *completed) {
    while (leaf->what == HS_SEARCH_EXPAND) {
        place at = place_of(g, leaf->id), next = place_after(g, at, leaf->action);
        double reward = action_reward(at, leaf->action), rewards[2] = {reward, -reward};
        uint32_t child;
        int made = place_insert(memory, g, next, lane, &child);
        if (made < 0) return made;
        int linked = hs_search_link(memory, lane, child, g->rewards ? rewards : NULL);
        if (linked < 0) return linked;
        if (made == 1 && next.ply != g->plies) {
            double values[2] = {place_value(next), -place_value(next)};
            ++*completed;
            return hs_search_backup(memory, lane, values, 1);
        }
        int status = hs_search_resume(memory, lane, rng, leaf);
        if (status < 0) return status;
        *completed += leaf->completed;
    }
    if (leaf->what != HS_SEARCH_EVALUATE) return HS_OK;
    place at = place_of(g, leaf->id);
    double values[2] = {place_value(at), -place_value(at)};
    ++*completed;
    return hs_search_backup(memory, lane, values, 1);
}

/* Simulate until no ticket is left, or the table is full. */
__attribute__((unused)) static int simulate(void *memory, const game *g, uint32_t lane, uint32_t owner,
                                            uint32_t root, uint64_t *rng, uint64_t *completed) {
    hs_search_leaf leaf;
    for (;;) {
        int status = hs_search_begin(memory, lane, owner, root, rng, &leaf);
        if (status < 0) return status;
        *completed += leaf.completed;
        if (leaf.what == HS_SEARCH_NONE) return HS_OK;
        status = leaf_finish(memory, g, lane, rng, &leaf, completed);
        if (status < 0) {
            REQUIRE(hs_search_abandon(memory, lane) == HS_OK);
            return status;
        }
    }
}

/* What a row's counts say of all simulations through it. */
__attribute__((unused)) static hs_search_row_info row_info(const void *memory, uint32_t row) {
    hs_search_row_info info;
    REQUIRE(hs_search_row(memory, row, &info) == HS_OK);
    return info;
}

/* At rest, with discount 1 and values that doubles add without loss: nothing is in flight; each row has as many visits as it was entered (the
 * root by every simulation), and what came in by edges is what went out by edges and ended here, in visits and in value. */
typedef struct flow {
    uint64_t visits;
    double value; /* of player 0 */
} flow;

__attribute__((unused)) static double of_player_0(const hs_search_row_info *info, double value) {
    return info->player == 1 ? -value : value;
}

__attribute__((unused)) static void counts_check(const void *memory, uint32_t root, uint64_t simulations) {
    hs_search_totals totals;
    hs_search_counts(memory, &totals);
    flow *in = calloc(totals.rows + 1u, sizeof *in), *out = calloc(totals.rows + 1u, sizeof *out);
    hs_search_edge *edges = calloc(4096, sizeof *edges);
    in[root].visits = simulations;
    CHECK_EQ_INT(totals.lanes_busy, 0);
    hs_search_row_info info;
    for (uint32_t row = 0; row < totals.rows; row++) {
        if (hs_search_row(memory, row, &info) != HS_OK) continue;
        CHECK_EQ_INT(info.in_flight, 0);
        out[row] = (flow){info.visits, of_player_0(&info, info.own_value_sum)};
        int n = hs_search_edges(memory, row, edges, 4096);
        for (int i = 0; i < n; i++) {
            double value = of_player_0(&info, edges[i].value_sum);
            out[row].value += value;
            if (edges[i].child == HS_SEARCH_NO_ROW) {
                CHECK_EQ_INT(edges[i].visits, 0);
                continue;
            }
            in[edges[i].child].visits += edges[i].visits;
            in[edges[i].child].value += value - edges[i].visits * edges[i].rewards[0];
        }
    }
    for (uint32_t row = 0; row < totals.rows; row++) {
        if (hs_search_row(memory, row, &info) != HS_OK) continue;
        CHECK_EQ_INT(out[row].visits, in[row].visits);
        if (row != root) CHECK(out[row].value == in[row].value);
    }
    free(edges);
    free(in);
    free(out);
}
#endif
