/* test_search.c - one process's search: the table, descents, backups; selection against the formulae. */
#include "hs_search_rig.h"

static void counts_follow_from_the_simulations(void) {
    game g = {.width = 3, .plies = 6};
    hs_search_config config = search_config(2000, 2);
    void *memory = search_make(&config);
    uint32_t root;
    uint64_t rng = 1, completed = 0;
    CHECK_EQ_INT(place_insert(memory, &g, (place){0, 0}, 0, &root), 1);
    CHECK_EQ_INT(place_insert(memory, &g, (place){0, 0}, 0, &root), 0);
    CHECK_EQ_INT(hs_search_tickets(memory, 1000), 1000);
    CHECK_EQ_INT(simulate(memory, &g, 0, 7, root, &rng, &completed), HS_OK);
    CHECK_EQ_INT(completed, 1000);
    CHECK_EQ_INT(row_info(memory, root).visits, 1000);
    CHECK_EQ_INT(hs_search_tickets(memory, 0), 0);
    counts_check(memory, root, 1000);
    search_break(memory);
}

int main(void) {
    RUN(counts_follow_from_the_simulations);
    return hs_test_report();
}
