/* test_search_pack.c - rows as a saved search has them: all that the table says of them, and only of those that have changed. */
#include "hs_search_rig.h"

enum { ROWS_MAX = 400, ROOM = 1 << 20, HEAD_SIZE = 40, ROW_SIZE = 32, EDGE_SIZE = 24 };

static const game REWARDING = {.width = 3, .plies = 6, .rewards = true, .chance = true};
static uint8_t room[ROOM];
static uint64_t marks[ROWS_MAX];

/* A table with some simulations in it; the next ones go on from its root. */
static void *searched(const game *g, uint64_t simulations, uint64_t *rng, uint32_t *root) {
    hs_search_config config = search_config(ROWS_MAX, 2);
    void *memory = search_make(&config);
    REQUIRE(place_insert(memory, g, (place){0, 0}, 0, root) == 1);
    uint64_t completed = 0;
    hs_search_tickets(memory, (int64_t)simulations);
    CHECK_EQ_INT(simulate(memory, g, 0, 7, *root, rng, &completed), HS_OK);
    memset(marks, 0, sizeof marks);
    return memory;
}

static uint32_t rows_of(const void *memory) {
    hs_search_totals totals;
    REQUIRE(hs_search_counts(memory, &totals) == HS_OK);
    return totals.rows;
}

/* All that has changed; returns its bytes. */
static int64_t pack(const void *memory, uint64_t size) {
    uint32_t row = 0;
    return hs_search_pack(memory, &row, rows_of(memory), marks, room, size);
}

static uint32_t take32(const uint8_t **at) {
    uint32_t value;
    memcpy(&value, *at, sizeof value);
    *at += sizeof value;
    return value;
}
static double take_double(const uint8_t **at) {
    double value;
    memcpy(&value, *at, sizeof value);
    *at += sizeof value;
    return value;
}

/* An edge's bytes say what hs_search_edges says. */
static void edge_check(const uint8_t **at, const hs_search_edge *edge, uint32_t index) {
    bool rewards = edge->rewards[0] != 0 || edge->rewards[1] != 0, child = edge->child != UINT32_MAX;
    CHECK_EQ_INT(take32(at), index);
    CHECK_EQ_INT(take32(at), (child ? 1u : 0u) | (rewards ? 2u : 0u));
    CHECK_EQ_INT(take32(at), edge->visits);
    CHECK_EQ_INT(take32(at), 0);
    CHECK(take_double(at) == edge->value_sum);
    if (child) {
        CHECK(memcmp(*at, edge->child_id, 32) == 0);
        *at += 32;
    }
    for (int player = 0; rewards && player < 2; player++) CHECK(take_double(at) == edge->rewards[player]);
}

/* A row's bytes say what hs_search_row and hs_search_edges say. Returns where they end. */
static const uint8_t *row_check(const void *memory, const uint8_t *at) {
    hs_search_row_info info;
    hs_search_edge edges[8];
    const uint8_t *id = at;
    at += 32;
    uint32_t number = take32(&at), size = take32(&at);
    const uint8_t *end = at + size;
    REQUIRE(hs_search_row(memory, number, &info) == HS_OK);
    REQUIRE(hs_search_edges(memory, number, edges, 8) == (int)info.num_actions);
    CHECK(memcmp(id, info.id, 32) == 0);
    bool follow = (at[5] & 1) != 0;
    CHECK(at[0] == 1 && at[1] == info.kind && (int16_t)(at[2] | at[3] << 8) == info.player && at[4] == 2);
    at += 8;
    CHECK_EQ_INT(take32(&at), info.num_actions);
    uint32_t count = take32(&at), found = 0;
    CHECK_EQ_INT(take32(&at), info.own_visits);
    CHECK_EQ_INT(take32(&at), 0);
    CHECK(take_double(&at) == info.own_value_sum);
    for (int player = 0; info.kind == HS_SEARCH_TERMINAL && player < 2; player++)
        CHECK(take_double(&at) == info.returns[player]);
    for (uint32_t i = 0; i < info.num_actions; i++)
        CHECK(follow ? hs_search_float(take32(&at)) == edges[i].prior
                     : edges[i].prior == 1.0f / (float)info.num_actions);
    for (uint32_t i = 0; i < info.num_actions; i++)
        if (edges[i].visits != 0 || edges[i].child != UINT32_MAX) {
            edge_check(&at, &edges[i], i);
            found++;
        }
    CHECK_EQ_INT(count, found);
    CHECK(at == end);
    return end;
}

static uint32_t rows_check(const void *memory, int64_t used) {
    uint32_t count = 0;
    for (const uint8_t *at = room; at < room + used; count++) at = row_check(memory, at);
    return count;
}

static void rows_are_packed_as_the_table_says(void) {
    uint64_t rng = 1;
    uint32_t root;
    void *memory = searched(&REWARDING, 300, &rng, &root);
    float logits[3] = {0, 1, 2};
    CHECK_EQ_INT(hs_search_priors(memory, root, logits, 3), HS_OK);
    CHECK_EQ_INT(rows_check(memory, pack(memory, ROOM)), rows_of(memory));
    search_break(memory);
}

static void only_what_has_changed_is_packed_again(void) {
    uint64_t rng = 2, completed = 0;
    uint32_t root;
    void *memory = searched(&REWARDING, 100, &rng, &root);
    CHECK(pack(memory, ROOM) > 0);
    CHECK_EQ_INT(pack(memory, ROOM), 0);
    uint32_t before = rows_of(memory);
    hs_search_tickets(memory, 1);
    CHECK_EQ_INT(simulate(memory, &REWARDING, 0, 7, root, &rng, &completed), HS_OK);
    uint32_t changed = rows_check(memory, pack(memory, ROOM));
    CHECK(changed >= 2 && changed <= 7 && rows_of(memory) <= before + 1);
    float logits[3] = {0, 1, 2};
    CHECK_EQ_INT(hs_search_priors(memory, root, logits, 3), HS_OK);
    CHECK_EQ_INT(rows_check(memory, pack(memory, ROOM)), 1);
    search_break(memory);
}

static void little_room_takes_some_rows_at_a_time(void) {
    uint64_t rng = 3;
    uint32_t root, row = 0, count = 0;
    void *memory = searched(&REWARDING, 200, &rng, &root);
    uint32_t rows = rows_of(memory);
    CHECK_EQ_INT(hs_search_pack(memory, &row, rows, marks, room, HEAD_SIZE - 1), HS_FULL);
    CHECK_EQ_INT(hs_search_pack(memory, &row, rows, marks, room, HEAD_SIZE + ROW_SIZE), HS_FULL);
    CHECK_EQ_INT(row, 0);
    CHECK_EQ_INT(marks[0], 0);
    for (;;) {
        memset(room, 0xee, 1024);
        int64_t used = hs_search_pack(memory, &row, rows, marks, room, 800);
        REQUIRE(used >= 0 && used <= 800);
        CHECK(room[800] == 0xee);
        if (used == 0) break;
        count += rows_check(memory, used);
    }
    CHECK_EQ_INT(count, rows);
    CHECK_EQ_INT(row, rows);
    search_break(memory);
}

static void sum_that_has_overflowed_is_packed_as_the_greatest_number(void) {
    hs_search_config config = search_config(ROWS_MAX, 1);
    void *memory = search_make(&config);
    uint32_t root;
    REQUIRE(place_insert(memory, &REWARDING, (place){0, 0}, 0, &root) == 1);
    hs_pair *own = &hs_search_map_of(memory).rows[root].own;
    hs_store_relaxed(&own->high, hs_search_double_bits(-INFINITY));
    memset(marks, 0, sizeof marks);
    REQUIRE(pack(memory, ROOM) == HEAD_SIZE + ROW_SIZE);
    const uint8_t *at = room + HEAD_SIZE + 24;
    CHECK(take_double(&at) == -1.7e308);
    search_break(memory);
}

/* Searches until its tickets are used up, on a lane of its own. */
typedef struct searcher {
    void *memory;
    uint32_t root;
    uint64_t completed;
} searcher;
static void *searching(void *arg) {
    searcher *me = arg;
    uint64_t rng = 9;
    CHECK_EQ_INT(simulate(me->memory, &REWARDING, 1, 8, me->root, &rng, &me->completed), HS_OK);
    return NULL;
}

/* The visits that the bytes of a row say that it has, and whether its sums are numbers that so many values add up to. */
static uint64_t row_visits(const uint8_t **at) {
    *at += 36;
    uint32_t size = take32(at);
    const uint8_t *row = *at, *edge = row + 12, *end = row + size;
    uint32_t edges = take32(&edge), visits = take32(&edge);
    edge = row + ROW_SIZE + (row[1] == HS_SEARCH_TERMINAL ? 16 : 0);
    for (uint32_t i = 0; i < edges; i++) {
        edge += 4;
        uint32_t flags = take32(&edge), count = take32(&edge);
        edge += 4;
        double sum = take_double(&edge),
               most = 1.25 * 6 + 1; /* of a value: rewards of six plies, and the end */
        CHECK(fabs(sum) <= count * most && (count != 0 || sum == 0));
        edge += ((flags & 1) != 0 ? 32 : 0) + ((flags & 2) != 0 ? 16 : 0);
        visits += count;
    }
    CHECK(edge == end);
    *at = end;
    return visits;
}

static void rows_are_packed_beside_somebody_who_searches(void) {
    uint64_t rng = 4, seen[ROWS_MAX] = {0};
    uint32_t root;
    void *memory = searched(&REWARDING, 10, &rng, &root);
    searcher other = {.memory = memory, .root = root};
    hs_search_tickets(memory, 4000);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, searching, &other) == 0);
    for (bool last = false; !last;) {
        last = hs_search_tickets(memory, 0) == 0;
        if (last) REQUIRE(pthread_join(thread, NULL) == 0);
        int64_t used = pack(memory, ROOM);
        REQUIRE(used >= 0);
        for (const uint8_t *at = room; at < room + used;) {
            uint32_t row;
            memcpy(&row, at + 32, sizeof row);
            uint64_t visits = row_visits(&at);
            CHECK(visits >= seen[row]);
            seen[row] = visits;
        }
    }
    for (uint32_t row = 0; row < rows_of(memory); row++)
        CHECK_EQ_INT(seen[row], row_info(memory, row).visits);
    CHECK_EQ_INT(seen[root], 4010);
    search_break(memory);
}

int main(void) {
    RUN(rows_are_packed_as_the_table_says);
    RUN(only_what_has_changed_is_packed_again);
    RUN(little_room_takes_some_rows_at_a_time);
    RUN(sum_that_has_overflowed_is_packed_as_the_greatest_number);
    RUN(rows_are_packed_beside_somebody_who_searches);
    return hs_test_report();
}
