/* test_search_kills.c - counts stay exact whoever searches at once, and whoever of them is killed, stopped or repaired, at whatever step.
 *
 *   test_search_kills [SEED KILLS]     so many kills at random, of that seed, alone (tests/crash/stages/search_kills.py) */
#define _GNU_SOURCE
#include <sched.h>
#include "hs_search_rig.h"

static const game GAME = {.width = 3, .plies = 5, .rewards = true};

typedef struct scene { /* a table with some simulations in it */
    void *memory;
    const game *game;
    uint32_t root;
    int64_t given; /* tickets */
} scene;

static void tickets_give(scene *s, int64_t count) {
    s->given += count;
    hs_search_tickets(s->memory, count);
}

static int search_some(scene *s, uint32_t lane, uint32_t owner, int64_t count, uint64_t seed) {
    uint64_t completed = 0;
    if (count > 0) tickets_give(s, count);
    return simulate(s->memory, s->game, lane, owner, s->root, &seed, &completed);
}

static scene scene_make(const game *g, uint32_t rows_max, uint32_t lanes, int64_t warm) {
    hs_search_config config = search_config(rows_max, lanes);
    scene s = {.memory = search_make(&config), .game = g};
    REQUIRE(place_insert(s.memory, g, (place){0, 0}, 0, &s.root) == 1);
    if (warm > 0) CHECK_EQ_INT(search_some(&s, 1, 1, warm, 42), HS_OK);
    return s;
}

/* All that was given is either left or was done. */
static void scene_check(const scene *s) {
    counts_check(s->memory, s->root, (uint64_t)(s->given - hs_search_tickets(s->memory, 0)));
}

/* A child process that does something, with a step armed or not. */
typedef void child_body(scene *s);
static pid_t child_start(scene *s, child_body *body, const char *label, int nth, int action) {
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child != 0) return child;
    if (label != NULL && hs_step_arm(label, nth, action) != HS_OK) _exit(3);
    body(s);
    _exit(0);
}

/* It ended: true if by a kill. */
static bool child_was_killed(pid_t child) {
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

enum { VICTIM = 7, HELPER = 8, REPAIRER = 9 }; /* owners */

static void victim_searches(scene *s) { search_some(s, 0, VICTIM, 0, 5); }
/* A simulation that is taken back, then others. */
static void victim_abandons(scene *s) {
    hs_search_leaf leaf;
    uint64_t rng = 5;
    do
        if (hs_search_begin(s->memory, 0, VICTIM, s->root, &rng, &leaf) != HS_OK) _exit(5);
    while (leaf.what != HS_SEARCH_EXPAND && leaf.what != HS_SEARCH_NONE);
    hs_search_abandon(s->memory, 0);
    search_some(s, 0, VICTIM, 0, 6);
}
static void helper_searches(scene *s) { search_some(s, 1, HELPER, 0, 6); }
static void repairer_repairs(scene *s) {
    uint32_t finished, undone;
    hs_search_repair(s->memory, VICTIM, &finished, &undone);
}

static uint32_t repair(scene *s, uint32_t owner) {
    uint32_t finished = 9, undone = 9;
    CHECK_EQ_INT(hs_search_repair(s->memory, owner, &finished, &undone), HS_OK);
    return finished + undone;
}

static const char *const LABELS[] = {"search_pending", "search_changed", "search_said", "search_row",
                                     "search_rewards"};

/* The victim dies at every step of its simulations, one after the other; others overwrite its stamps or do not; it is repaired. */
static void dies_at_every_step(child_body *victim, int64_t warm) {
    for (size_t label = 0; label < sizeof LABELS / sizeof *LABELS; label++)
        for (int overwritten = 0; overwritten < 2; overwritten++)
            for (int nth = 1;; nth++) {
                scene s = scene_make(&GAME, 200, 4, warm);
                tickets_give(&s, 3);
                bool killed = child_was_killed(child_start(&s, victim, LABELS[label], nth, HS_STEP_KILL));
                if (overwritten) CHECK_EQ_INT(search_some(&s, 1, HELPER, 8, 6), HS_OK);
                uint32_t repaired = repair(&s, VICTIM);
                CHECK(repaired <= (uint32_t)killed);
                scene_check(&s);
                CHECK_EQ_INT(search_some(&s, 0, VICTIM, 20, 8), HS_OK); /* the lane can be used again */
                CHECK_EQ_INT(hs_search_tickets(s.memory, 0), 0);
                scene_check(&s);
                search_break(s.memory);
                if (!killed) {
                    CHECK(nth > 3 || label >= 3);
                    break;
                }
            }
}

static void counts_are_exact_whichever_step_a_search_dies_at(void) {
    dies_at_every_step(victim_searches, 25);
}
static void counts_are_exact_whichever_step_the_first_simulation_dies_at(void) {
    dies_at_every_step(victim_searches, 0);
}
static void counts_are_exact_whichever_step_of_taking_back_it_dies_at(void) {
    dies_at_every_step(victim_abandons, 12);
}

static void counts_are_exact_if_the_repairer_dies_too(void) {
    static const char *const dies_at[] = {"search_pending", "search_changed", "search_said"};
    for (int trial = 0; trial < 40; trial++)
        for (int nth = 1;; nth++) {
            scene s = scene_make(&GAME, 200, 4, 20);
            tickets_give(&s, 3);
            child_was_killed(
                child_start(&s, victim_searches, LABELS[trial % 2], 1 + trial / 2, HS_STEP_KILL));
            bool killed =
                child_was_killed(child_start(&s, repairer_repairs, dies_at[trial % 3], nth, HS_STEP_KILL));
            if (trial % 4 < 2) CHECK_EQ_INT(search_some(&s, 1, HELPER, 8, 6), HS_OK);
            repair(&s, VICTIM);
            CHECK_EQ_INT(repair(&s, VICTIM), 0);
            scene_check(&s);
            search_break(s.memory);
            if (!killed) break;
        }
}

static void counts_are_exact_if_the_witness_dies(void) {
    int witnesses = 0;
    for (int before = 0; before < 2; before++)
        for (int nth = 1;; nth++) {
            scene s = scene_make(&GAME, 200, 4, 20);
            tickets_give(&s, 40);
            bool killed =
                child_was_killed(child_start(&s, victim_searches, LABELS[before], nth, HS_STEP_KILL));
            if (child_was_killed(child_start(&s, helper_searches, "search_witness", 1, HS_STEP_KILL))) {
                CHECK(!before || killed);
                witnesses++;
            }
            if (nth % 2 == 0) repair(&s, HELPER);
            repair(&s, VICTIM);
            repair(&s, HELPER);
            scene_check(&s);
            search_break(s.memory);
            if (!killed || nth == 60) break;
        }
    CHECK(witnesses > 10);
}

static void who_was_stopped_goes_on_or_dies_and_all_is_counted(void) {
    for (int killed_then = 0; killed_then < 2; killed_then++)
        for (int nth = 1; nth <= 24; nth++) {
            scene s = scene_make(&GAME, 200, 4, 20);
            tickets_give(&s, 3);
            pid_t victim = child_start(&s, victim_searches, LABELS[nth % 3], nth, HS_STEP_STOP);
            int status;
            REQUIRE(waitpid(victim, &status, WUNTRACED) == victim);
            bool stopped = WIFSTOPPED(status);
            CHECK_EQ_INT(search_some(&s, 1, HELPER, 10, 6), HS_OK);
            if (stopped) kill(victim, killed_then ? SIGKILL : SIGCONT);
            if (stopped) CHECK_EQ_INT(child_was_killed(victim), killed_then);
            CHECK(repair(&s, VICTIM) <= (uint32_t)killed_then);
            scene_check(&s);
            search_break(s.memory);
        }
}

/* Stamps hold 16 bits of a serial. One of a change that was made long ago must not pass for one that was not made. */
static void serial_set_before(scene *s, uint32_t lane_number, uint64_t stamp) {
    hs_search_map map = hs_search_map_of(s->memory);
    hs_search_lane *lane = hs_search_lane_at(&map, lane_number);
    uint32_t serial = (uint32_t)(stamp & 0xffff) + 0x20000 - 1;
    hs_store_release(&lane->word, hs_search_lane_word(serial, 0, HS_SEARCH_IDLE));
}

static void an_old_stamp_in_the_same_cell_is_not_taken_for_a_new_one(void) {
    scene s = scene_make(&GAME, 200, 4, 20);
    CHECK_EQ_INT(search_some(&s, 0, VICTIM, 1, 3), HS_OK);
    hs_search_header *header = s.memory;
    serial_set_before(&s, 0, hs_load_relaxed(&header->tickets.low));
    hs_store_relaxed(&header->tickets.high, hs_search_double_bits(1)); /* a ticket; the stamp stays */
    s.given++;
    CHECK(child_was_killed(child_start(&s, victim_searches, "search_pending", 1, HS_STEP_KILL)));
    repair(&s, VICTIM);
    CHECK_EQ_INT(hs_search_tickets(s.memory, 0), 1);
    scene_check(&s);
    search_break(s.memory);
}

static void an_old_stamp_in_another_cell_is_no_witness(void) {
    scene s = scene_make(&GAME, 200, 4, 0);
    CHECK_EQ_INT(search_some(&s, 0, VICTIM, 20, 3), HS_OK);
    tickets_give(&s, 2);
    hs_search_map map = hs_search_map_of(s.memory);
    uint64_t stamp = hs_load_relaxed(&hs_search_edges_of(&map, &map.rows[s.root])[0].cell.low);
    serial_set_before(&s, 0, stamp);
    CHECK(child_was_killed(child_start(&s, victim_searches, "search_pending", 1, HS_STEP_KILL)));
    hs_search_leaf leaf;
    uint32_t action = 0;
    CHECK_EQ_INT(hs_search_replay(s.memory, 1, HELPER, s.root, &action, 1, &leaf), HS_OK);
    CHECK_EQ_INT(hs_search_abandon(s.memory, 1), HS_OK);
    repair(&s, VICTIM);
    CHECK_EQ_INT(hs_search_tickets(s.memory, 0), 2);
    scene_check(&s);
    search_break(s.memory);
}

/* ---- many at once ------------------------------------------------------------------------------------------------------------ */
enum { THREADS = 4, STATES = 400 };
typedef struct thread {
    scene *scene;
    uint32_t number, made;
} thread;

static void *states_insert(void *argument) {
    thread *t = argument;
    for (uint32_t i = 0; i < STATES; i++) {
        uint32_t state = (i * (2 * t->number + 1)) % STATES, row, again;
        uint8_t id[32];
        place_id((place){state, 1}, id);
        if (state % 64 < 60) memset(id, 1, 4); /* many that begin alike */
        int made = hs_search_insert(t->scene->memory, t->number, id, HS_SEARCH_CHOICE, 0, 1 + state % 5, NULL,
                                    NULL, &row);
        CHECK(made == 0 || made == 1);
        t->made += (uint32_t)made;
        hs_search_row_info info = row_info(t->scene->memory, row);
        CHECK(info.num_actions == 1 + state % 5 && memcmp(info.id, id, 32) == 0);
        CHECK(hs_search_find(t->scene->memory, id, &again) == HS_OK && again == row);
        hs_search_totals totals;
        hs_search_counts(t->scene->memory, &totals);
        hs_search_row(t->scene->memory, totals.rows - 1, &info); /* perhaps just being written */
    }
    return NULL;
}

static void threads_run(scene *s, void *(*body)(void *), thread *threads) {
    pthread_t running[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        threads[i] = (thread){.scene = s, .number = i};
        REQUIRE(pthread_create(&running[i], NULL, body, &threads[i]) == 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) pthread_join(running[i], NULL);
}

static void one_state_is_one_row_whoever_inserts_it(void) {
    scene s = scene_make(&GAME, 4 * STATES + 1, 4, 0);
    thread threads[THREADS];
    threads_run(&s, states_insert, threads);
    uint32_t made = 0, rows = 0;
    hs_search_totals totals;
    hs_search_row_info info;
    for (int i = 0; i < THREADS; i++) made += threads[i].made;
    hs_search_counts(s.memory, &totals);
    for (uint32_t row = 0; row < totals.rows; row++) rows += hs_search_row(s.memory, row, &info) == HS_OK;
    CHECK_EQ_INT(made, STATES);
    CHECK_EQ_INT(rows, STATES + 1);
    search_break(s.memory);
}

static void *thread_searches(void *argument) {
    thread *t = argument;
    CHECK_EQ_INT(search_some(t->scene, t->number, t->number, 0, t->number), HS_OK);
    return NULL;
}

static void counts_of_threads_add_up(void) {
    const game wide = {.width = 4, .plies = 7, .rewards = true, .chance = true};
    scene s = scene_make(&wide, 2000, THREADS, 0);
    thread threads[THREADS];
    tickets_give(&s, 4000);
    threads_run(&s, thread_searches, threads);
    CHECK_EQ_INT(hs_search_tickets(s.memory, 0), 0);
    scene_check(&s);
    search_break(s.memory);
}

/* Workers with two lanes each, one simulation a lane in flight at once. */
static void worker_searches(scene *s, uint32_t worker, uint64_t seed) {
    hs_search_leaf leaves[2];
    uint64_t completed = 0;
    for (;;) {
        for (uint32_t i = 0; i < 2; i++) {
            int status = hs_search_begin(s->memory, 2 * worker + i, worker, s->root, &seed, &leaves[i]);
            if (status != HS_OK) _exit(3);
        }
        if (leaves[0].what == HS_SEARCH_NONE && leaves[1].what == HS_SEARCH_NONE) _exit(0);
        for (uint32_t i = 0; i < 2; i++)
            if (leaf_finish(s->memory, s->game, 2 * worker + i, &seed, &leaves[i], &completed) < 0) _exit(4);
    }
}

static pid_t worker_start(scene *s, uint32_t worker, uint64_t seed) {
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) worker_searches(s, worker, seed);
    return child;
}

static uint64_t random_seed = 11;
static int random_kills = 60;

static void counts_are_exact_while_workers_are_killed_at_random(void) {
    enum { WORKERS = 3 };
    const game wide = {.width = 3, .plies = 6, .rewards = true, .chance = true};
    scene s = scene_make(&wide, 5000, 2 * WORKERS, 0);
    uint64_t random = random_seed;
    pid_t workers[WORKERS];
    uint32_t repaired = 0;
    tickets_give(&s, INT64_C(1) << 40);
    for (uint32_t i = 0; i < WORKERS; i++) workers[i] = worker_start(&s, i, i);
    for (int kills = 0; kills < random_kills; kills++) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        int64_t until = hs_search_tickets(s.memory, 0) - (int64_t)(random >> 33) % 300 - 1;
        while (hs_search_tickets(s.memory, 0) > until) sched_yield();
        uint32_t who = (uint32_t)(random >> 50) % WORKERS;
        kill(workers[who], SIGKILL);
        CHECK(child_was_killed(workers[who]));
        repaired += repair(&s, who);
        CHECK_EQ_INT(repair(&s, who), 0);
        workers[who] = worker_start(&s, who, random);
    }
    hs_search_stop(s.memory, 1);
    for (uint32_t i = 0; i < WORKERS; i++) CHECK(!child_was_killed(workers[i]));
    CHECK(repaired > (uint32_t)random_kills / 2);
    scene_check(&s);
    printf("killed %d, repaired %u lanes, %lld simulations\n", random_kills, repaired,
           (long long)(s.given - hs_search_tickets(s.memory, 0)));
    search_break(s.memory);
}

int main(int count, char **arguments) {
    if (count == 3) {
        random_seed = strtoull(arguments[1], NULL, 10);
        random_kills = atoi(arguments[2]);
        RUN(counts_are_exact_while_workers_are_killed_at_random);
        return hs_test_report();
    }
    RUN(counts_are_exact_whichever_step_a_search_dies_at);
    RUN(counts_are_exact_whichever_step_the_first_simulation_dies_at);
    RUN(counts_are_exact_whichever_step_of_taking_back_it_dies_at);
    RUN(counts_are_exact_if_the_repairer_dies_too);
    RUN(counts_are_exact_if_the_witness_dies);
    RUN(who_was_stopped_goes_on_or_dies_and_all_is_counted);
    RUN(an_old_stamp_in_the_same_cell_is_not_taken_for_a_new_one);
    RUN(an_old_stamp_in_another_cell_is_no_witness);
    RUN(one_state_is_one_row_whoever_inserts_it);
    RUN(counts_of_threads_add_up);
    RUN(counts_are_exact_while_workers_are_killed_at_random);
    return hs_test_report();
}
