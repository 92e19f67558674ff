/* test_search_compact.c - what a compaction keeps: roots, paths that are out, and of the rest the most visited; and that it keeps it whole. */
#include "hs_search_rig.h"

enum { ROWS = 600, WIDTH = 6 };
static const game GAME = {.width = WIDTH, .plies = 10, .rewards = true};

typedef struct scene {
    void *memory;
    uint32_t root;
} scene;

static scene scene_make(int64_t simulations, uint64_t seed) {
    hs_search_config config = search_config(ROWS, 4);
    scene s = {.memory = search_make(&config)};
    uint64_t completed = 0;
    REQUIRE(place_insert(s.memory, &GAME, (place){0, 0}, 0, &s.root) == 1);
    hs_search_tickets(s.memory, simulations);
    REQUIRE(simulate(s.memory, &GAME, 0, 1, s.root, &seed, &completed) == HS_OK);
    return s;
}

static hs_search_totals totals_of(const scene *s) {
    hs_search_totals totals;
    hs_search_counts(s->memory, &totals);
    return totals;
}

/* All that can be asked of a table, to compare it with what it is later. */
typedef struct image {
    uint32_t rows;
    hs_search_row_info info[ROWS];
    hs_search_edge edges[ROWS][WIDTH];
    bool there[ROWS];
} image;

static image *image_make(const scene *s) {
    image *made = calloc(1, sizeof *made);
    made->rows = totals_of(s).rows;
    for (uint32_t row = 0; row < made->rows; row++) {
        made->there[row] = hs_search_row(s->memory, row, &made->info[row]) == HS_OK;
        if (made->there[row]) hs_search_edges(s->memory, row, made->edges[row], WIDTH);
    }
    return made;
}

/* What is kept is what it was, but that children which went are gone, with their rewards. */
static void kept_check(const scene *s, const image *before, const uint32_t *remap, uint32_t kept) {
    uint32_t count = 0;
    const double none[HS_SEARCH_PLAYERS_MAX] = {0};
    for (uint32_t row = 0; row < before->rows; row++) {
        uint32_t now = remap[row], found;
        if (now == UINT32_MAX) {
            if (before->there[row])
                CHECK_EQ_INT(hs_search_find(s->memory, before->info[row].id, &found), HS_NOT_FOUND);
            continue;
        }
        count++;
        hs_search_row_info info = row_info(s->memory, now);
        CHECK_EQ_MEM(&info, &before->info[row], sizeof info);
        CHECK(hs_search_find(s->memory, info.id, &found) == HS_OK && found == now);
        hs_search_edge edges[WIDTH];
        CHECK_EQ_INT(hs_search_edges(s->memory, now, edges, WIDTH), info.num_actions);
        for (uint32_t i = 0; i < info.num_actions; i++) {
            const hs_search_edge *was = &before->edges[row][i];
            uint32_t child = was->child == UINT32_MAX ? UINT32_MAX : remap[was->child];
            CHECK_EQ_INT(edges[i].child, child);
            CHECK(edges[i].visits == was->visits && edges[i].value_sum == was->value_sum &&
                  edges[i].prior == was->prior && edges[i].in_flight == was->in_flight);
            CHECK_EQ_MEM(edges[i].rewards, child == UINT32_MAX ? none : was->rewards, sizeof none);
        }
    }
    CHECK_EQ_INT(count, kept);
    CHECK_EQ_INT(totals_of(s).rows, kept);
    CHECK_EQ_INT(totals_of(s).full, 0);
}

/* The rows that a plain search of the best keeps: again and again the most visited child of what is kept. */
static void chosen_compute(const image *of, uint32_t root, uint32_t rows_max, bool *kept) {
    memset(kept, 0, ROWS * sizeof *kept);
    kept[root] = true;
    for (uint32_t count = 1; count < rows_max; count++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t row = 0; row < of->rows; row++)
            for (uint32_t i = 0; kept[row] && i < of->info[row].num_actions; i++) {
                uint32_t child = of->edges[row][i].child;
                if (child == UINT32_MAX || kept[child]) continue;
                if (best == UINT32_MAX || of->info[child].visits > of->info[best].visits ||
                    (of->info[child].visits == of->info[best].visits && child < best))
                    best = child;
            }
        if (best == UINT32_MAX) return;
        kept[best] = true;
    }
}

static void the_most_visited_rows_are_kept_and_hang_together(void) {
    for (uint64_t seed = 0; seed < 5; seed++)
        for (uint32_t rows_max = 1; rows_max < 80; rows_max = rows_max * 3 + 1) {
            scene s = scene_make(1500, seed);
            image *before = image_make(&s);
            uint32_t remap[ROWS];
            bool chosen[ROWS];
            int64_t kept = hs_search_compact(s.memory, &s.root, 1, rows_max, remap);
            CHECK_EQ_INT(kept, rows_max);
            kept_check(&s, before, remap, (uint32_t)kept);
            chosen_compute(before, s.root, rows_max, chosen);
            for (uint32_t row = 0; row < before->rows; row++)
                CHECK((remap[row] != UINT32_MAX) == chosen[row]);
            free(before);
            search_break(s.memory);
        }
}

static void nothing_goes_that_fits_and_the_search_goes_on(void) {
    scene s = scene_make(1500, 3);
    image *before = image_make(&s);
    uint32_t remap[ROWS];
    hs_search_totals totals = totals_of(&s);
    CHECK_EQ_INT(hs_search_compact(s.memory, &s.root, 1, ROWS, remap), totals.rows);
    for (uint32_t row = 0; row < totals.rows; row++) CHECK_EQ_INT(remap[row], row);
    kept_check(&s, before, remap, totals.rows);
    CHECK_EQ_INT(totals_of(&s).slots, totals.slots);
    uint64_t rng = 8, completed = 0;
    hs_search_tickets(s.memory, 500);
    CHECK_EQ_INT(simulate(s.memory, &GAME, 2, 1, s.root, &rng, &completed), HS_OK);
    counts_check(s.memory, s.root, 2000);
    free(before);
    search_break(s.memory);
}

static void what_a_new_root_does_not_lead_to_goes(void) {
    scene s = scene_make(1500, 4);
    image *before = image_make(&s);
    uint32_t remap[ROWS], next = before->edges[s.root][2].child;
    int64_t kept = hs_search_compact(s.memory, &next, 1, ROWS, remap);
    CHECK(kept > 1 && kept < before->rows && remap[s.root] == UINT32_MAX);
    kept_check(&s, before, remap, (uint32_t)kept);
    bool chosen[ROWS];
    chosen_compute(before, next, ROWS, chosen);
    for (uint32_t row = 0; row < before->rows; row++) CHECK((remap[row] != UINT32_MAX) == chosen[row]);
    free(before);
    search_break(s.memory);
}

/* A table that fills up again and again is compacted again and again; all simulations are done. */
static void full_table_has_room_again(void) {
    hs_search_config config = search_config(60, 1);
    REQUIRE(hs_search_size(&config, &config.size_bytes) == HS_OK);
    scene s = {.memory = search_make(&config)};
    REQUIRE(place_insert(s.memory, &GAME, (place){0, 0}, 0, &s.root) == 1);
    uint64_t rng = 5, completed = 0;
    uint32_t times = 0;
    hs_search_tickets(s.memory, 3000);
    while (simulate(s.memory, &GAME, 0, 0, s.root, &rng, &completed) == HS_FULL) {
        uint32_t remap[60];
        CHECK_EQ_INT(totals_of(&s).full, 1);
        int64_t kept = hs_search_compact(s.memory, &s.root, 1, 30, remap);
        CHECK(kept == 30);
        s.root = remap[s.root];
        times++;
    }
    CHECK(times > 5);
    CHECK_EQ_INT(completed, 3000);
    CHECK_EQ_INT(row_info(s.memory, s.root).visits, 3000);
    search_break(s.memory);
}

static void slots_are_a_bound_as_well(void) {
    hs_search_config config = search_config(ROWS, 1);
    REQUIRE(hs_search_size(&config, &config.size_bytes) == HS_OK);
    config.size_bytes -= (16 * ROWS - 700) * 32;
    scene s = {.memory = search_make(&config)};
    REQUIRE(place_insert(s.memory, &GAME, (place){0, 0}, 0, &s.root) == 1);
    uint64_t rng = 5, completed = 0;
    hs_search_tickets(s.memory, 3000);
    CHECK_EQ_INT(simulate(s.memory, &GAME, 0, 0, s.root, &rng, &completed), HS_FULL);
    int64_t kept = hs_search_compact(s.memory, &s.root, 1, ROWS, NULL);
    CHECK(kept > 20 && totals_of(&s).slots > 300 && totals_of(&s).slots <= 350);
    search_break(s.memory);
}

static uint32_t most_visited(const scene *s, uint32_t row, uint32_t *action) {
    hs_search_edge edges[WIDTH];
    hs_search_edges(s->memory, row, edges, WIDTH);
    *action = 0;
    for (uint32_t i = 1; i < WIDTH; i++)
        if (edges[i].visits > edges[*action].visits) *action = i;
    return edges[*action].child;
}

static void simulations_that_are_out_stay_out(void) {
    scene s = scene_make(1500, 6);
    uint64_t rng = 7;
    hs_search_leaf leaf[4];
    hs_search_tickets(s.memory, 4);
    uint32_t deep[3], row = s.root;
    for (int i = 0; i < 3; i++) row = most_visited(&s, row, &deep[i]);
    CHECK_EQ_INT(hs_search_replay(s.memory, 1, 0, s.root, deep, 3, &leaf[1]),
                 HS_OK); /* at a row that is there */
    CHECK_EQ_INT(leaf[1].what, HS_SEARCH_EVALUATE);
    uint32_t lone, gone;
    uint8_t id[32] = {1};
    REQUIRE(hs_search_insert(s.memory, 0, id, HS_SEARCH_CHOICE, 0, 2, NULL, NULL, &lone) == 1);
    CHECK_EQ_INT(hs_search_begin(s.memory, 2, 0, lone, &rng, &leaf[2]),
                 HS_OK); /* before a row that is not; another root */
    CHECK_EQ_INT(leaf[2].what, HS_SEARCH_EXPAND);
    uint32_t remap[ROWS], rows[2][4], actions[2][4];
    image *before = image_make(&s);
    CHECK_EQ_INT(hs_search_path(s.memory, 1, rows[0], actions[0], 4), 3);
    int64_t kept = hs_search_compact(s.memory, &s.root, 1, 1, remap);
    CHECK_EQ_INT(kept, 5);
    kept_check(&s, before, remap, 5);
    CHECK_EQ_INT(hs_search_path(s.memory, 1, rows[1], actions[1], 4), 3);
    for (int i = 0; i < 3; i++) CHECK(rows[1][i] == remap[rows[0][i]] && actions[1][i] == deep[i]);
    double values[2] = {0.25, -0.25};
    CHECK_EQ_INT(hs_search_backup(s.memory, 1, values, 1), HS_OK);
    CHECK_EQ_INT(hs_search_find(s.memory, leaf[1].id, &gone), HS_OK);
    CHECK_EQ_INT(row_info(s.memory, gone).own_visits, before->info[leaf[1].row].own_visits + 1);
    uint32_t root = remap[s.root];
    CHECK_EQ_INT(row_info(s.memory, root).visits, 1501);
    CHECK_EQ_INT(row_info(s.memory, root).in_flight, 0);
    CHECK_EQ_INT(hs_search_path(s.memory, 2, rows[1], actions[1], 4), 1);
    CHECK(rows[1][0] == remap[lone] && actions[1][0] == leaf[2].action);
    CHECK_EQ_INT(hs_search_link(s.memory, 2, root, NULL), 0);
    CHECK_EQ_INT(hs_search_resume(s.memory, 2, &rng, &leaf[2]), HS_OK);
    CHECK_EQ_INT(hs_search_abandon(s.memory, 2), HS_OK);
    CHECK_EQ_INT(row_info(s.memory, root).in_flight, 0);
    free(before);
    search_break(s.memory);
}

static void table_in_the_middle_of_something_is_left_alone(void) {
    scene s = scene_make(20, 1);
    hs_search_map map = hs_search_map_of(s.memory);
    uint32_t nothing = 500;
    CHECK_EQ_INT(hs_search_compact(s.memory, &nothing, 1, 5, NULL), HS_ARGUMENT);
    hs_store_release(&hs_search_lane_at(&map, 3)->word, hs_search_lane_word(1, 0, HS_SEARCH_DOWN));
    CHECK_EQ_INT(hs_search_compact(s.memory, &s.root, 1, 5, NULL), HS_ARGUMENT);
    search_break(s.memory);
}

int main(void) {
    RUN(the_most_visited_rows_are_kept_and_hang_together);
    RUN(nothing_goes_that_fits_and_the_search_goes_on);
    RUN(what_a_new_root_does_not_lead_to_goes);
    RUN(full_table_has_room_again);
    RUN(slots_are_a_bound_as_well);
    RUN(simulations_that_are_out_stay_out);
    RUN(table_in_the_middle_of_something_is_left_alone);
    return hs_test_report();
}
