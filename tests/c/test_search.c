/* test_search.c - the table of a search as one process uses it: rows, descents, backups, and selection against the formulae. */
#include "hs_search_rig.h"

static const game PLAIN = {.width = 3, .plies = 6};

static uint32_t root_insert(void *memory, const game *g) {
    uint32_t root;
    REQUIRE(place_insert(memory, g, (place){0, 0}, 0, &root) == 1);
    return root;
}

/* Searches a game with a fresh table; the counts must add up. */
static void *searched(hs_search_config *config, const game *g, uint64_t simulations, uint64_t seed,
                      uint32_t *root) {
    void *memory = search_make(config);
    uint64_t completed = 0;
    *root = root_insert(memory, g);
    CHECK_EQ_INT(hs_search_tickets(memory, (int64_t)simulations), simulations);
    CHECK_EQ_INT(simulate(memory, g, 0, 7, *root, &seed, &completed), HS_OK);
    CHECK_EQ_INT(completed, simulations);
    CHECK_EQ_INT(hs_search_tickets(memory, 0), 0);
    counts_check(memory, *root, simulations);
    return memory;
}

/* ---- the table --------------------------------------------------------------------------------------------------------------- */
static void table_that_was_formatted_is_known_again_and_nothing_else_is(void) {
    hs_search_config config = search_config(100, 3), out;
    config.widening_c = 2;
    void *memory = search_make(&config);
    CHECK_EQ_INT(hs_search_format(memory, &config), HS_EXISTS);
    CHECK_EQ_INT(hs_search_attach(memory, config.size_bytes, &out), HS_OK);
    CHECK(out.rows_max == 100 && out.lanes == 3 && out.widening_c == 2 && isnan(out.fpu));
    CHECK_EQ_INT(hs_search_attach(memory, config.size_bytes - 1, &out), HS_FORMAT);
    CHECK_EQ_INT(hs_search_attach(memory, 16, NULL), HS_FORMAT);
    hs_search_header *header = memory;
    uint64_t *words[] = {&header->magic, &header->lanes_offset, &header->index_offset, &header->rows_offset,
                         &header->slots_offset};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        *words[i] += 64;
        CHECK_EQ_INT(hs_search_attach(memory, config.size_bytes, NULL), HS_FORMAT);
        *words[i] -= 64;
    }
    header->config.num_players = 0;
    CHECK_EQ_INT(hs_search_attach(memory, config.size_bytes, NULL), HS_FORMAT);
    search_break(memory);
}

static void settings_out_of_their_bounds_are_refused(void) {
    hs_search_config good = search_config(100, 3), bad;
    uint64_t size;
#define REFUSED(field, out_of_bounds)                                                                        \
    do {                                                                                                     \
        bad = good;                                                                                          \
        bad.field = (out_of_bounds);                                                                         \
        CHECK_EQ_INT(hs_search_size(&bad, &size), HS_ARGUMENT);                                              \
    } while (0)
    REFUSED(lanes, 0);
    REFUSED(lanes, HS_SEARCH_LANES_MAX + 1);
    REFUSED(num_players, 0);
    REFUSED(num_players, HS_SEARCH_PLAYERS_MAX + 1);
    REFUSED(depth_max, 0);
    REFUSED(depth_max, HS_SEARCH_DEPTH_MAX + 1);
    REFUSED(rule, 2);
    REFUSED(in_flight_rule, 2);
    REFUSED(normalize, 2);
    REFUSED(c, -1);
    REFUSED(c, NAN);
    REFUSED(discount, INFINITY);
    REFUSED(fpu, INFINITY);
    REFUSED(virtual_loss, NAN);
    REFUSED(widening_c, -1);
    REFUSED(widening_alpha, NAN);
    REFUSED(rows_max, 0);
    REFUSED(rows_max, UINT32_MAX);
    _Alignas(64) uint8_t small[sizeof(hs_search_header) + 64] = {0};
    bad = good;
    CHECK_EQ_INT(hs_search_format(small, &bad), HS_ARGUMENT); /* size_bytes 0 */
    bad.size_bytes = sizeof small;
    CHECK_EQ_INT(hs_search_format(small, &bad), HS_ARGUMENT);
    bad.rows_max = 0;
    CHECK_EQ_INT(hs_search_format(small, &bad), HS_ARGUMENT);
    bad.size_bytes = UINT64_C(1) << 40;
    CHECK_EQ_INT(hs_search_format(small, &bad), HS_ARGUMENT);
}

static void table_holds_as_many_rows_as_its_size_allows(void) {
    hs_search_config config = search_config(0, 3);
    config.size_bytes = 1 << 20;
    void *memory = search_make(&config);
    hs_search_totals totals;
    hs_search_counts(memory, &totals);
    CHECK(totals.rows_max > 1700 && totals.slots_max >= 16 * totals.rows_max &&
          totals.slots_max < 17 * totals.rows_max);
    CHECK(totals.rows == 0 && totals.slots == 0 && totals.lanes == 3 && totals.lanes_busy == 0);
    search_break(memory);
}

static void row_is_what_was_inserted_first(void) {
    hs_search_config config = search_config(10, 1);
    config.num_players = 5;
    void *memory = search_make(&config);
    uint8_t id[32] = {1}, other[32] = {1, [31] = 1}, third[32] = {9};
    float logits[] = {0, logf(3), -INFINITY};
    double returns[] = {1, 2, 3, 4, 5};
    uint32_t row, again;
    hs_search_row_info info;
    hs_search_edge edges[3];
    CHECK_EQ_INT(hs_search_find(memory, id, &row), HS_NOT_FOUND);
    CHECK_EQ_INT(hs_search_row(memory, 0, &info), HS_NOT_FOUND);
    CHECK_EQ_INT(hs_search_insert(memory, 4, id, HS_SEARCH_CHOICE, 3, 3, logits, NULL, &row), 1);
    CHECK_EQ_INT(hs_search_insert(memory, 5, other, HS_SEARCH_TERMINAL, 4, 0, NULL, returns, &again), 1);
    CHECK_EQ_INT(hs_search_row(memory, again, &info), HS_OK);
    CHECK(info.kind == HS_SEARCH_TERMINAL && info.num_actions == 0 && info.player == 4 && info.made_by == 5);
    CHECK_EQ_MEM(info.returns, returns, sizeof returns);
    CHECK_EQ_INT(hs_search_edges(memory, again, edges, 3), 0);
    CHECK_EQ_INT(hs_search_insert(memory, 5, id, HS_SEARCH_CHANCE, -1, 2, NULL, NULL, &again), 0);
    CHECK_EQ_INT(again, row);
    CHECK_EQ_INT(hs_search_find(memory, id, &again), HS_OK);
    CHECK_EQ_INT(again, row);
    CHECK_EQ_INT(hs_search_row(memory, row, &info), HS_OK);
    CHECK(info.kind == HS_SEARCH_CHOICE && info.num_actions == 3 && info.player == 3 && info.made_by == 4);
    CHECK_EQ_MEM(info.id, id, 32);
    CHECK_EQ_INT(hs_search_edges(memory, row, edges, 2), 3);
    CHECK(edges[0].prior == 0.25f && edges[1].prior == 0.75f && edges[1].child == HS_SEARCH_NO_ROW &&
          edges[0].visits == 0);
    CHECK_EQ_INT(hs_search_row(memory, 7, &info), HS_NOT_FOUND);
    CHECK_EQ_INT(hs_search_edges(memory, 7, edges, 3), HS_NOT_FOUND);
    /* What is no row. */
    float nan[] = {NAN}, infinite[] = {INFINITY}, impossible[] = {-INFINITY};
    double bad[] = {1, 2, 3, 4, NAN};
    CHECK_EQ_INT(hs_search_insert(memory, 0, third, HS_SEARCH_CHOICE, 5, 1, NULL, NULL, &row), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_insert(memory, 0, third, HS_SEARCH_CHOICE, -1, 1, NULL, NULL, &row), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_insert(memory, 0, third, HS_SEARCH_CHANCE, 0, 1, NULL, NULL, &row), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_insert(memory, 0, third, HS_SEARCH_CHOICE, 0, 0, NULL, NULL, &row), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_insert(memory, 0, third, HS_SEARCH_CHOICE, 0, 1, nan, NULL, &row), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_insert(memory, 0, third, HS_SEARCH_CHOICE, 0, 1, infinite, NULL, &row),
                 HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_insert(memory, 0, third, HS_SEARCH_CHOICE, 0, 1, impossible, NULL, &row),
                 HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_insert(memory, 0, third, HS_SEARCH_TERMINAL, 0, 0, NULL, NULL, &row), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_insert(memory, 0, third, HS_SEARCH_TERMINAL, 0, 0, NULL, bad, &row), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_insert(memory, 0, third, 0, 0, 1, NULL, NULL, &row), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_find(memory, third, &row), HS_NOT_FOUND);
    search_break(memory);
}

static void full_table_says_so_and_keeps_what_it_has(void) {
    for (int of_slots = 0; of_slots < 2; of_slots++) {
        hs_search_config config = search_config(of_slots ? 100 : 5, 1);
        if (of_slots) {
            REQUIRE(hs_search_size(&config, &config.size_bytes) == HS_OK);
            config.size_bytes -= 32 * (1600 - 20);
        }
        void *memory = search_make(&config);
        const game g = {.width = 4, .plies = 6, .rewards = true};
        uint64_t rng = 3, completed = 0;
        uint32_t root = root_insert(memory, &g);
        hs_search_totals totals;
        hs_search_tickets(memory, 100);
        CHECK_EQ_INT(simulate(memory, &g, 0, 1, root, &rng, &completed), HS_FULL);
        hs_search_counts(memory, &totals);
        CHECK(totals.full == 1 && totals.lanes_busy == 0 && completed > 0);
        CHECK_EQ_INT(hs_search_tickets(memory, 0), 100 - completed);
        if (of_slots) CHECK(totals.slots <= totals.slots_max && totals.rows < totals.rows_max);
        counts_check(memory, root, completed);
        search_break(memory);
    }
}

/* ---- descents and backups ------------------------------------------------------------------------------------------------ */
static void counts_and_values_add_up_in_every_kind_of_game(void) {
    const game games[] = {PLAIN,
                          {.width = 3, .plies = 6, .rewards = true},
                          {.width = 4, .plies = 5, .chance = true},
                          {.width = 3, .plies = 4, .circle = true},
                          {.width = 3, .plies = 7, .circle = true, .chance = true, .rewards = true}};
    for (size_t i = 0; i < sizeof games / sizeof *games; i++)
        for (uint32_t mode = 0; mode < 16; mode++) {
            hs_search_config config = search_config(500, 1);
            config.rule = mode & 1;
            config.in_flight_rule = mode >> 1 & 1;
            config.normalize = mode >> 2 & 1;
            if (mode & 8) config.depth_max = 3;
            uint32_t root;
            search_break(searched(&config, &games[i], 300, mode, &root));
        }
}

static void same_seed_gives_the_same_search(void) {
    hs_search_config config = search_config(500, 1);
    uint32_t root[3];
    void *memory[3];
    for (int i = 0; i < 3; i++) memory[i] = searched(&config, &PLAIN, 200, 5 + (uint64_t)(i == 2), &root[i]);
    hs_search_header *header = memory[0];
    uint64_t size = config.size_bytes - header->index_offset;
    CHECK(memcmp((uint8_t *)memory[0] + header->index_offset, (uint8_t *)memory[1] + header->index_offset,
                 size) == 0);
    CHECK(memcmp((uint8_t *)memory[0] + header->index_offset, (uint8_t *)memory[2] + header->index_offset,
                 size) != 0);
    for (int i = 0; i < 3; i++) search_break(memory[i]);
}

static void search_finds_the_better_action(void) {
    /* One ply of chance of 1/2 between +-1 against a sure 0.5: player 0 takes the sure one. */
    for (uint32_t rule = 0; rule < 2; rule++) {
        hs_search_config config = search_config(10, 1);
        config.rule = rule;
        void *memory = search_make(&config);
        uint8_t ids[5][32] = {{1}, {2}, {3}, {4}, {5}};
        double returns[3][2] = {{0.5, -0.5}, {1, -1}, {-1, 1}};
        uint32_t root, chance, ends[3], lane = 0;
        REQUIRE(hs_search_insert(memory, 0, ids[0], HS_SEARCH_CHOICE, 0, 2, NULL, NULL, &root) == 1);
        REQUIRE(hs_search_insert(memory, 0, ids[1], HS_SEARCH_CHANCE, -1, 2, NULL, NULL, &chance) == 1);
        for (int i = 0; i < 3; i++)
            REQUIRE(hs_search_insert(memory, 0, ids[2 + i], HS_SEARCH_TERMINAL, 0, 0, NULL, returns[i],
                                     &ends[i]) == 1);
        hs_search_edge at_root[2], at_chance[2];
        hs_search_edges(memory, root, at_root, 2);
        hs_search_edges(memory, chance, at_chance, 2);
        at_root[0].child = chance;
        at_root[1].child = ends[0];
        at_chance[0].child = ends[1];
        at_chance[1].child = ends[2];
        CHECK_EQ_INT(hs_search_restore(memory, root, 0, 0, at_root, 2), HS_OK);
        CHECK_EQ_INT(hs_search_restore(memory, chance, 0, 0, at_chance, 2), HS_OK);
        hs_search_tickets(memory, 5000);
        hs_search_leaf leaf;
        uint64_t rng = 1, completed = 0;
        do {
            CHECK_EQ_INT(hs_search_begin(memory, lane, 0, root, &rng, &leaf), HS_OK);
            CHECK(leaf.completed <= 256 && (leaf.what == HS_SEARCH_AGAIN || leaf.what == HS_SEARCH_NONE));
            completed += leaf.completed;
        } while (leaf.what == HS_SEARCH_AGAIN);
        CHECK_EQ_INT(completed, 5000);
        hs_search_edges(memory, root, at_root, 2);
        hs_search_edges(memory, chance, at_chance, 2);
        CHECK(at_root[1].visits > 4500 && at_root[1].value_sum == 0.5 * at_root[1].visits);
        CHECK(at_chance[0].visits > 0 && at_chance[1].visits > 0);
        search_break(memory);
    }
}

static void returns_are_discounted_on_the_way_up(void) {
    hs_search_config config = search_config(10, 1);
    config.discount = 0.5;
    config.num_players = 3;
    void *memory = search_make(&config);
    uint8_t ids[3][32] = {{1}, {2}, {3}};
    uint32_t rows[3], actions[2] = {0, 1};
    for (int i = 0; i < 3; i++)
        REQUIRE(hs_search_insert(memory, 0, ids[i], HS_SEARCH_CHOICE, i, 2, NULL, NULL, &rows[i]) == 1);
    double rewards[2][3] = {{1, 2, 3}, {10, 20, 30}}, values[3] = {100, 200, 300};
    hs_search_leaf leaf;
    hs_search_tickets(memory, 1);
    CHECK_EQ_INT(hs_search_replay(memory, 0, 0, rows[0], actions, 2, &leaf), HS_OK);
    CHECK(leaf.what == HS_SEARCH_EXPAND && leaf.row == rows[0] && leaf.action == 0 && leaf.depth == 1);
    CHECK_EQ_INT(hs_search_link(memory, 0, rows[1], rewards[0]), 0);
    CHECK_EQ_INT(hs_search_abandon(memory, 0), HS_OK);
    CHECK_EQ_INT(hs_search_replay(memory, 0, 0, rows[0], actions, 2, &leaf), HS_OK);
    CHECK(leaf.what == HS_SEARCH_EXPAND && leaf.row == rows[1] && leaf.action == 1 && leaf.depth == 2);
    CHECK_EQ_INT(hs_search_link(memory, 0, rows[2], rewards[1]), 0);
    CHECK_EQ_INT(hs_search_backup(memory, 0, values, 4), HS_OK);
    hs_search_edge edges[2];
    hs_search_row_info info = row_info(memory, rows[2]);
    CHECK(info.own_visits == 4 && info.own_value_sum == 4 * 300.0);
    hs_search_edges(memory, rows[1], edges, 2);
    CHECK(edges[1].visits == 4 && edges[1].value_sum == 4 * (20 + 0.5 * 200) && edges[1].rewards[2] == 30);
    hs_search_edges(memory, rows[0], edges, 2);
    CHECK(edges[0].visits == 4 && edges[0].value_sum == 4 * (1 + 0.5 * (10 + 0.5 * 100)) &&
          edges[0].in_flight == 0);
    search_break(memory);
}

static void lane_refuses_what_is_out_of_order(void) {
    hs_search_config config = search_config(50, 2);
    void *memory = search_make(&config);
    uint32_t root = root_insert(memory, &PLAIN), child, rows[4], actions[4], far[1] = {9};
    uint64_t rng = 1;
    double values[2] = {1, -1}, nan[2] = {NAN, 0};
    hs_search_leaf leaf;
    CHECK_EQ_INT(hs_search_begin(memory, 0, 0, root, &rng, &leaf), HS_OK);
    CHECK(leaf.what == HS_SEARCH_NONE && hs_search_path(memory, 0, rows, actions, 4) == 0);
    hs_search_tickets(memory, 2);
    hs_search_stop(memory, 1);
    CHECK_EQ_INT(hs_search_begin(memory, 0, 0, root, &rng, &leaf), HS_OK);
    CHECK_EQ_INT(leaf.what, HS_SEARCH_NONE);
    hs_search_stop(memory, 0);
    CHECK_EQ_INT(hs_search_begin(memory, 2, 0, root, &rng, &leaf), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_begin(memory, 0, 0, root + 1, &rng, &leaf), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_backup(memory, 0, values, 1), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_resume(memory, 0, &rng, &leaf), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_link(memory, 0, root, NULL), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_abandon(memory, 0), HS_OK);
    CHECK_EQ_INT(hs_search_replay(memory, 0, 0, root, far, 1, &leaf), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_tickets(memory, 0), 2);
    CHECK_EQ_INT(hs_search_begin(memory, 0, 0, root, &rng, &leaf), HS_OK);
    CHECK_EQ_INT(leaf.what, HS_SEARCH_EXPAND);
    CHECK_EQ_INT(hs_search_path(memory, 0, rows, actions, 4), 1);
    CHECK(rows[0] == root && actions[0] == leaf.action &&
          hs_search_path(memory, 2, rows, actions, 4) == HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_begin(memory, 0, 0, root, &rng, &leaf), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_resume(memory, 0, &rng, &leaf), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_backup(memory, 0, values, 1), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_link(memory, 0, root + 1, NULL), HS_ARGUMENT);
    REQUIRE(place_insert(memory, &PLAIN, place_after(&PLAIN, (place){0, 0}, leaf.action), 0, &child) == 1);
    CHECK_EQ_INT(hs_search_link(memory, 0, child, NULL), 0);
    CHECK_EQ_INT(hs_search_link(memory, 0, child, NULL), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_backup(memory, 0, nan, 1), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_backup(memory, 0, values, 0), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_backup(memory, 0, values, HS_SEARCH_COUNT_MAX + 1), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_backup(memory, 2, values, 1), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_abandon(memory, 2), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_backup(memory, 0, values, 1), HS_OK);
    counts_check(memory, root, 1);
    search_break(memory);
}

static void first_to_link_an_edge_decides_for_all(void) {
    hs_search_config config = search_config(50, 2);
    void *memory = search_make(&config);
    const game g = {.width = 1, .plies = 6};
    uint32_t root = root_insert(memory, &g), mine, other, rows[2], actions[2];
    uint64_t rng = 1;
    hs_search_leaf leaf[2];
    double values[2] = {0.25, -0.25}, rewards[2][2] = {{1, 0}, {2, 0}};
    hs_search_tickets(memory, 2);
    for (uint32_t lane = 0; lane < 2; lane++) {
        CHECK_EQ_INT(hs_search_begin(memory, lane, lane, root, &rng, &leaf[lane]), HS_OK);
        CHECK_EQ_INT(leaf[lane].what, HS_SEARCH_EXPAND);
    }
    CHECK_EQ_INT(row_info(memory, root).in_flight, 2);
    place_insert(memory, &g, (place){1, 1}, 0, &mine);
    place_insert(memory, &g, (place){1, 2}, 0, &other);
    CHECK_EQ_INT(hs_search_link(memory, 1, mine, rewards[0]), 0);
    CHECK_EQ_INT(hs_search_link(memory, 0, other, rewards[1]), 1);
    CHECK_EQ_INT(hs_search_resume(memory, 0, &rng, &leaf[0]), HS_OK);
    CHECK(leaf[0].what == HS_SEARCH_EXPAND && leaf[0].row == mine && leaf[0].depth == 2);
    CHECK_EQ_INT(hs_search_path(memory, 0, rows, actions, 2), 2);
    CHECK(rows[0] == root && rows[1] == mine);
    hs_search_edge edge;
    hs_search_edges(memory, root, &edge, 1);
    CHECK(edge.child == mine && edge.rewards[0] == 1);
    CHECK_EQ_INT(hs_search_abandon(memory, 0), HS_OK);
    CHECK_EQ_INT(hs_search_backup(memory, 1, values, 1), HS_OK);
    CHECK_EQ_INT(hs_search_tickets(memory, 0), 1);
    counts_check(memory, root, 1);
    search_break(memory);
}

static void replay_goes_where_the_actions_lead(void) {
    hs_search_config config = search_config(500, 2);
    uint32_t root, actions[] = {1, 2, 0, 1, 1, 2}, none = 0;
    void *memory = searched(&config, &PLAIN, 4000, 9, &root);
    hs_search_leaf leaf;
    hs_search_tickets(memory, 3);
    CHECK_EQ_INT(hs_search_replay(memory, 1, 0, root, actions, 2, &leaf), HS_OK);
    place at = place_of(&PLAIN, leaf.id);
    CHECK(leaf.what == HS_SEARCH_EVALUATE && leaf.depth == 2 && at.ply == 2 && at.sum == 3);
    double values[2] = {place_value(at), -place_value(at)};
    CHECK_EQ_INT(hs_search_backup(memory, 1, values, 1), HS_OK);
    CHECK_EQ_INT(hs_search_replay(memory, 1, 0, root, actions, 6, &leaf), HS_OK);
    CHECK(leaf.what == HS_SEARCH_AGAIN && leaf.completed == 1);
    CHECK_EQ_INT(hs_search_replay(memory, 1, 0, root, &none, 0, &leaf), HS_OK);
    CHECK(leaf.what == HS_SEARCH_EVALUATE && leaf.depth == 0 && leaf.row == root);
    CHECK_EQ_INT(hs_search_abandon(memory, 1), HS_OK);
    counts_check(memory, root, 4002);
    search_break(memory);
}

static void a_row_that_stands_on_the_path_is_evaluated_and_not_entered_again(void) {
    const game g = {.width = 3, .plies = 4, .circle = true};
    hs_search_config config = search_config(500, 1);
    void *memory = search_make(&config);
    uint32_t root = root_insert(memory, &g), rows[64], actions[64], circles = 0;
    uint64_t rng = 4, completed = 0;
    hs_search_leaf leaf;
    for (int i = 0; i < 400; i++) {
        hs_search_tickets(memory, 1);
        CHECK_EQ_INT(hs_search_begin(memory, 0, 0, root, &rng, &leaf), HS_OK);
        int depth = hs_search_path(memory, 0, rows, actions, 64), times = 0;
        for (int at = 0; at < depth; at++) {
            times += rows[at] == leaf.row;
            for (int before = 0; before < at; before++) CHECK(rows[before] != rows[at]);
        }
        CHECK(leaf.what == HS_SEARCH_EXPAND || leaf.what == HS_SEARCH_EVALUATE);
        CHECK_EQ_INT(times, 1);
        circles += leaf.what == HS_SEARCH_EVALUATE;
        CHECK_EQ_INT(leaf_finish(memory, &g, 0, &rng, &leaf, &completed), HS_OK);
    }
    CHECK(circles > 100);
    counts_check(memory, root, 400);
    search_break(memory);
}

static void tickets_never_fall_below_none(void) {
    hs_search_config config = search_config(50, 1);
    void *memory = search_make(&config);
    CHECK_EQ_INT(hs_search_tickets(memory, 10), 10);
    CHECK_EQ_INT(hs_search_tickets(memory, -3), 7);
    CHECK_EQ_INT(hs_search_tickets(memory, -8), 0);
    CHECK_EQ_INT(hs_search_tickets(memory, -1), 0);
    CHECK_EQ_INT(hs_search_tickets(memory, INT64_MAX), INT64_C(1) << 53);
    CHECK_EQ_INT(hs_search_tickets(memory, INT64_MAX), INT64_C(1) << 53);
    CHECK_EQ_INT(hs_search_tickets(memory, INT64_MIN), 0);
    search_break(memory);
}

static void edge_without_room_for_more_visits_is_not_entered(void) {
    hs_search_config config = search_config(50, 1);
    void *memory = search_make(&config);
    const game g = {.width = 1, .plies = 6};
    uint32_t root = root_insert(memory, &g);
    uint64_t rng = 1;
    hs_search_leaf leaf;
    hs_search_edge edge;
    hs_search_edges(memory, root, &edge, 1);
    edge.visits = HS_SEARCH_VISITS_FULL;
    CHECK_EQ_INT(hs_search_restore(memory, root, 0, 0, &edge, 1), HS_OK);
    hs_search_tickets(memory, 1);
    CHECK_EQ_INT(hs_search_begin(memory, 0, 0, root, &rng, &leaf), HS_FULL);
    CHECK_EQ_INT(hs_search_tickets(memory, 0), 1);
    CHECK_EQ_INT(row_info(memory, root).in_flight, 0);
    search_break(memory);
}

/* ---- counts brought back ------------------------------------------------------------------------------------------------- */
static void restored_table_is_the_table_that_was_read(void) {
    const game g = {.width = 3, .plies = 6, .rewards = true};
    hs_search_config config = search_config(500, 1);
    uint32_t root;
    void *memory = searched(&config, &g, 700, 2, &root), *copy = search_make(&config);
    hs_search_totals totals, other;
    hs_search_counts(memory, &totals);
    for (uint32_t row = 0; row < totals.rows; row++) {
        hs_search_row_info info = row_info(memory, row);
        uint32_t number;
        bool ended = info.kind == HS_SEARCH_TERMINAL;
        CHECK_EQ_INT(hs_search_insert(copy, info.made_by, info.id, info.kind, info.player, info.num_actions,
                                      NULL, ended ? info.returns : NULL, &number),
                     1);
        CHECK_EQ_INT(number, row);
    }
    hs_search_edge edges[3], back[3];
    for (uint32_t row = 0; row < totals.rows; row++) {
        hs_search_row_info info = row_info(memory, row), read;
        uint32_t n = (uint32_t)hs_search_edges(memory, row, edges, 3);
        for (int twice = 0; twice < 2; twice++)
            CHECK_EQ_INT(hs_search_restore(copy, row, info.own_visits, info.own_value_sum, edges, n), HS_OK);
        CHECK_EQ_INT(hs_search_edges(copy, row, back, 3), n);
        CHECK_EQ_MEM(back, edges, n * sizeof *edges);
        read = row_info(copy, row);
        CHECK_EQ_MEM(&read, &info, sizeof info);
    }
    hs_search_counts(copy, &other);
    CHECK(other.rows == totals.rows && other.slots == totals.slots);
    counts_check(copy, root, 700);
    hs_search_edges(copy, root, edges, 3);
    hs_search_edge bad[3] = {edges[0], edges[1], edges[2]};
#define BAD(field, out_of_bounds)                                                                            \
    do {                                                                                                     \
        memcpy(bad, edges, sizeof bad);                                                                      \
        bad[1].field = (out_of_bounds);                                                                      \
        CHECK_EQ_INT(hs_search_restore(copy, root, 0, 0, bad, 3), HS_ARGUMENT);                              \
    } while (0)
    BAD(visits, UINT32_MAX);
    BAD(value_sum, NAN);
    BAD(prior, 1.5f);
    BAD(child, totals.rows);
    BAD(rewards[1], INFINITY);
    CHECK_EQ_INT(hs_search_restore(copy, root, 0, 0, edges, 2), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_restore(copy, totals.rows, 0, 0, edges, 3), HS_NOT_FOUND);
    CHECK_EQ_INT(row_info(copy, root).visits, 700);
    search_break(copy);
    search_break(memory);
}

/* ---- selection against the formulae --------------------------------------------------------------------------------------- */
enum { WIDE = 12 };
typedef struct counted { /* what a row's formulae are about */
    hs_search_edge edges[WIDE];
    double noise[WIDE];
    uint32_t own_visits;
    double own_sum;
} counted;

/* The score of each action, as the literature has it, written without a look at the code. */
static void scores_compute(const hs_search_config *c, const counted *row, double *scores) {
    double total = row->own_visits, finished = row->own_visits, sum = row->own_sum;
    for (int a = 0; a < WIDE; a++) {
        total += row->edges[a].visits + row->edges[a].in_flight;
        finished += row->edges[a].visits;
        sum += row->edges[a].value_sum;
    }
    double mean = finished > 0 ? sum / finished : 0;
    for (int a = 0; a < WIDE; a++) {
        const hs_search_edge *e = &row->edges[a];
        double n = e->visits + e->in_flight, q;
        if (c->in_flight_rule == HS_SEARCH_WU_UCT)
            q = e->visits ? e->value_sum / e->visits : isnan(c->fpu) ? mean : c->fpu;
        else
            q = n > 0 ? (e->value_sum - c->virtual_loss * e->in_flight) / n : isnan(c->fpu) ? mean : c->fpu;
        if (c->rule == HS_SEARCH_UCT)
            scores[a] = n == 0 ? 1e300 : q + c->c * sqrt(log(total) / n);
        else
            scores[a] = q + c->c * ((double)e->prior + row->noise[a]) * sqrt(total > 1 ? total : 1) / (1 + n);
        if (c->widening_c > 0 && a >= ceil(c->widening_c * pow(total > 1 ? total : 1, c->widening_alpha)))
            scores[a] = -1e300;
    }
}

static uint64_t next_random(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

/* A row with random counts: visits and sums by restore, in_flight by lanes that stand behind its edges. */
static counted random_row(void *memory, uint64_t *random, uint32_t row) {
    counted made = {.own_visits = (uint32_t)(next_random(random) % 3)};
    float logits[WIDE], noise[WIDE];
    hs_search_edges(memory, row, made.edges, WIDE);
    for (uint32_t a = 0; a < WIDE; a++) {
        made.edges[a].visits = next_random(random) % 4 == 0 ? 0 : (uint32_t)(next_random(random) % 50);
        made.edges[a].value_sum = made.edges[a].visits * ((double)(next_random(random) % 2001) / 1000 - 1);
        logits[a] = (float)(next_random(random) % 1000) / 300;
        noise[a] = (float)(next_random(random) % 1000) / 1000;
    }
    made.own_sum = made.own_visits * 0.5;
    CHECK_EQ_INT(hs_search_restore(memory, row, made.own_visits, made.own_sum, made.edges, WIDE), HS_OK);
    CHECK_EQ_INT(hs_search_priors(memory, row, logits, WIDE), HS_OK);
    double fraction = next_random(random) % 2 ? 0.25 : 0;
    CHECK_EQ_INT(hs_search_noise(memory, row, noise, WIDE, fraction), HS_OK);
    for (uint32_t lane = 1; lane < 6; lane++) {
        uint32_t action = (uint32_t)(next_random(random) % WIDE);
        hs_search_leaf leaf;
        CHECK_EQ_INT(hs_search_replay(memory, lane, 0, row, &action, 1, &leaf), HS_OK);
    }
    hs_search_edges(memory, row, made.edges, WIDE);
    for (uint32_t a = 0; a < WIDE; a++)
        made.noise[a] = (double)(float)(fraction * ((double)noise[a] - (double)made.edges[a].prior));
    return made;
}

static void selection_is_what_the_formulae_say(void) {
    uint64_t random = 77, rng = 1;
    for (uint32_t mode = 0; mode < 32; mode++) {
        hs_search_config config = search_config(10, 8);
        config.rule = mode & 1;
        config.in_flight_rule = mode >> 1 & 1;
        if (mode & 4) config.fpu = -0.25;
        if (mode & 8) {
            config.widening_c = 1.5;
            config.widening_alpha = 0.4;
        }
        if (mode & 16) config.virtual_loss = 3;
        for (int trial = 0; trial < 20; trial++) {
            void *memory = search_make(&config);
            uint8_t id[32] = {1};
            uint32_t row;
            REQUIRE(hs_search_insert(memory, 0, id, HS_SEARCH_CHOICE, 0, WIDE, NULL, NULL, &row) == 1);
            hs_search_tickets(memory, 100);
            counted about = random_row(memory, &random, row);
            double scores[WIDE], best = -INFINITY;
            scores_compute(&config, &about, scores);
            for (int a = 0; a < WIDE; a++) best = scores[a] > best ? scores[a] : best;
            uint32_t chosen = 0, ties = 0;
            for (int a = 0; a < WIDE; a++) ties |= scores[a] >= best - 1e-9 ? 1u << a : 0;
            for (int i = 0; i < 200; i++) {
                hs_search_leaf leaf;
                CHECK_EQ_INT(hs_search_begin(memory, 0, 0, row, &rng, &leaf), HS_OK);
                chosen |= 1u << leaf.action;
                CHECK_EQ_INT(hs_search_abandon(memory, 0), HS_OK);
            }
            CHECK_EQ_INT(chosen, ties); /* only the best, and all of them */
            search_break(memory);
        }
    }
}

static void scale_of_values_makes_no_difference_when_normalized(void) {
    /* The same game, its values times 1000: the same visits. */
    uint32_t visits[2][3];
    for (int large = 0; large < 2; large++) {
        hs_search_config config = search_config(10, 1);
        config.normalize = 1;
        void *memory = search_make(&config);
        uint8_t ids[4][32] = {{1}, {2}, {3}, {4}};
        uint32_t root, ends[3];
        hs_search_edge edges[3];
        REQUIRE(hs_search_insert(memory, 0, ids[0], HS_SEARCH_CHOICE, 0, 3, NULL, NULL, &root) == 1);
        hs_search_edges(memory, root, edges, 3);
        for (int i = 0; i < 3; i++) {
            double value = (i - 1) * (large ? 1024 : 1), returns[2] = {value, -value};
            REQUIRE(hs_search_insert(memory, 0, ids[1 + i], HS_SEARCH_TERMINAL, 0, 0, NULL, returns,
                                     &ends[i]) == 1);
            edges[i].child = ends[i];
        }
        hs_search_restore(memory, root, 0, 0, edges, 3);
        hs_search_tickets(memory, 200);
        hs_search_leaf leaf;
        uint64_t rng = 4;
        CHECK_EQ_INT(hs_search_begin(memory, 0, 0, root, &rng, &leaf), HS_OK);
        CHECK_EQ_INT(leaf.completed, 200);
        hs_search_edges(memory, root, edges, 3);
        for (int i = 0; i < 3; i++) visits[large][i] = edges[i].visits;
        search_break(memory);
    }
    CHECK_EQ_MEM(visits[0], visits[1], sizeof visits[0]);
    CHECK(visits[0][2] > visits[0][1] && visits[0][1] > visits[0][0] && visits[0][0] > 0);
}

static void chance_is_drawn_by_its_probabilities(void) {
    hs_search_config config = search_config(10, 1);
    void *memory = search_make(&config);
    uint8_t id[32] = {1};
    float logits[] = {logf(0.5f), -INFINITY, logf(0.2f), logf(0.3f), -INFINITY};
    double want[] = {0.5, 0, 0.2, 0.3, 0};
    uint32_t row, drawn[5] = {0};
    REQUIRE(hs_search_insert(memory, 0, id, HS_SEARCH_CHANCE, -1, 5, logits, NULL, &row) == 1);
    hs_search_tickets(memory, 1);
    uint64_t rng = 5;
    enum { DRAWS = 20000 };
    for (int i = 0; i < DRAWS; i++) {
        hs_search_leaf leaf;
        CHECK_EQ_INT(hs_search_begin(memory, 0, 0, row, &rng, &leaf), HS_OK);
        drawn[leaf.action]++;
        CHECK_EQ_INT(hs_search_abandon(memory, 0), HS_OK);
    }
    for (int a = 0; a < 5; a++) /* within five standard deviations */
        CHECK(fabs(drawn[a] - DRAWS * want[a]) <= 5 * sqrt(DRAWS * want[a] * (1 - want[a])));
    search_break(memory);
}

static void widening_opens_one_action_after_the_other(void) {
    hs_search_config config = search_config(5000, 1);
    config.widening_c = 1;
    config.widening_alpha = 0.5;
    const game g = {.width = 30, .plies = 4};
    void *memory = search_make(&config);
    uint32_t root = root_insert(memory, &g);
    uint64_t rng = 2, completed = 0;
    hs_search_edge edges[30];
    for (uint32_t n = 1; n <= 400; n++) {
        hs_search_tickets(memory, 1);
        CHECK_EQ_INT(simulate(memory, &g, 0, 0, root, &rng, &completed), HS_OK);
        hs_search_edges(memory, root, edges, 30);
        uint32_t open = (uint32_t)ceil(sqrt(n - 1 > 1 ? n - 1 : 1));
        for (uint32_t a = 0; a < 30; a++) CHECK((edges[a].visits > 0) == (a < open));
    }
    search_break(memory);
}

static void priors_and_noise_that_make_no_sense_are_refused(void) {
    hs_search_config config = search_config(10, 1);
    void *memory = search_make(&config);
    uint8_t id[32] = {1};
    float good[] = {0.5f, 0.5f}, bad[] = {0.5f, NAN}, large[] = {0.5f, 1.5f};
    uint32_t row;
    REQUIRE(hs_search_insert(memory, 0, id, HS_SEARCH_CHOICE, 0, 2, NULL, NULL, &row) == 1);
    CHECK_EQ_INT(hs_search_priors(memory, row, good, 1), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_priors(memory, row, bad, 2), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_priors(memory, row + 1, good, 2), HS_NOT_FOUND);
    CHECK_EQ_INT(hs_search_noise(memory, row, bad, 2, 0.5), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_noise(memory, row, large, 2, 0.5), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_noise(memory, row, good, 1, 0.5), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_noise(memory, row, good, 2, 1.5), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_noise(memory, row, NULL, 2, 0.5), HS_ARGUMENT);
    CHECK_EQ_INT(hs_search_noise(memory, row + 1, good, 2, 0.5), HS_NOT_FOUND);
    CHECK_EQ_INT(hs_search_noise(memory, row, NULL, 2, 0), HS_OK);
    search_break(memory);
}

int main(void) {
    RUN(table_that_was_formatted_is_known_again_and_nothing_else_is);
    RUN(settings_out_of_their_bounds_are_refused);
    RUN(table_holds_as_many_rows_as_its_size_allows);
    RUN(row_is_what_was_inserted_first);
    RUN(full_table_says_so_and_keeps_what_it_has);
    RUN(counts_and_values_add_up_in_every_kind_of_game);
    RUN(same_seed_gives_the_same_search);
    RUN(search_finds_the_better_action);
    RUN(returns_are_discounted_on_the_way_up);
    RUN(lane_refuses_what_is_out_of_order);
    RUN(first_to_link_an_edge_decides_for_all);
    RUN(replay_goes_where_the_actions_lead);
    RUN(a_row_that_stands_on_the_path_is_evaluated_and_not_entered_again);
    RUN(tickets_never_fall_below_none);
    RUN(edge_without_room_for_more_visits_is_not_entered);
    RUN(restored_table_is_the_table_that_was_read);
    RUN(selection_is_what_the_formulae_say);
    RUN(scale_of_values_makes_no_difference_when_normalized);
    RUN(chance_is_drawn_by_its_probabilities);
    RUN(widening_opens_one_action_after_the_other);
    RUN(priors_and_noise_that_make_no_sense_are_refused);
    return hs_test_report();
}
