/* hs_engine.c: attaching, leaving, forking, counting. */
#include <signal.h>
#include <sys/wait.h>
#include "hs_engine_rig.h"

static void second_process_attaches_to_the_same_segment(void) {
    rig r;
    rig_open(&r, 4);
    hs_engine_stats stats;
    REQUIRE(hs_engine_stats_get(r.engine[0], &stats) == HS_OK);
    CHECK_EQ_INT(stats.participants, 2);
    CHECK_EQ_INT(stats.chunks, 4);
    CHECK_EQ_INT(hs_engine_is_named(r.engine[1]), 1);
    uint64_t nonce = stats.segment_nonce;
    REQUIRE(hs_engine_stats_get(r.engine[1], &stats) == HS_OK);
    CHECK_EQ_INT(stats.segment_nonce, nonce);
    rig_close(&r);
}

static void other_store_is_refused(void) {
    rig r;
    rig_open(&r, 4);
    hs_open_args args = rig_args(&r, HS_OPEN_PARTICIPANT, 4);
    args.store_inode = 3;
    hs_engine *engine = NULL;
    CHECK_EQ_INT(hs_engine_open(&args, &engine), HS_FORMAT);
    CHECK(engine == NULL);
    rig_close(&r);
}

static void counters_outlive_who_counted(void) {
    rig r;
    rig_open(&r, 4);
    REQUIRE(hs_commit_one(&r.call[1], NULL, r.empty, (const uint8_t *)"k", 1, (const uint8_t *)"v", 1) > 0);
    hs_engine_close(r.engine[1]);
    r.engine[1] = NULL;
    hs_engine_stats stats;
    REQUIRE(hs_engine_stats_get(r.engine[0], &stats) == HS_OK);
    CHECK_EQ_INT(stats.participants, 1);
    CHECK_EQ_INT(stats.commits, 1);
    CHECK(stats.unpersisted_bytes > 0);
    CHECK(stats.persist_lag_ns > 0);
    rig_round(&r);
    REQUIRE(hs_engine_stats_get(r.engine[0], &stats) == HS_OK);
    CHECK_EQ_INT(stats.unpersisted_bytes, 0);
    CHECK_EQ_INT(stats.rounds_done, 1);
    rig_close(&r);
}

static void forked_child_takes_a_slot_of_its_own(void) {
    rig r;
    rig_open(&r, 4);
    pid_t child = fork();
    if (child == 0) {
        int status = r.engine[0]->self.fd == -1 ? hs_engine_after_fork(r.engine[0]) : -99;
        hs_engine_stats stats;
        if (status == HS_OK) status = hs_engine_stats_get(r.engine[0], &stats);
        int64_t n =
            hs_commit_one(&r.call[0], NULL, r.empty, (const uint8_t *)"child", 5, (const uint8_t *)"v", 1);
        _exit(status == HS_OK && stats.participants == 3 && n > 0 ? 0 : 1);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    hs_drain_round round;
    REQUIRE(hs_drain_collect(r.drain, &round) == HS_OK);
    REQUIRE(hs_drain_finish(r.drain) == HS_OK);
    CHECK_EQ_INT(hs_drain_participants(r.drain),
                 2); /* it never left, but its lock died with it; its parent's did not */
    rig_close(&r);
}

static void child_of_a_given_up_segment_is_told_so(void) {
    rig r;
    rig_open(&r, 4);
    CHECK_EQ_INT(hs_engine_unlink(r.coordinator), HS_OK);
    pid_t child = fork();
    if (child == 0) _exit(hs_engine_after_fork(r.engine[0]) == HS_CLOSING ? 0 : 1);
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    hs_drain_close(r.drain);
    hs_engine_close(r.coordinator);
    for (int i = 0; i < 2; i++) {
        hs_engine_close(r.engine[i]);
        free(r.data[i]);
    }
    unlink(r.participants);
}

static void waiter_for_a_round_is_woken_or_times_out(void) {
    rig r;
    rig_open(&r, 4);
    uint64_t target = hs_round_target(r.engine[0]);
    CHECK_EQ_INT(hs_round_wait(r.engine[0], target, 1), HS_TIMED_OUT);
    rig_round(&r);
    CHECK_EQ_INT(hs_round_wait(r.engine[0], target, 1), HS_OK);
    CHECK_EQ_INT(hs_room_wait(r.engine[0], 1),
                 HS_OK); /* a round was done since it last looked for room: never */
    rig_close(&r);
}

static void private_engine_works_alone(void) {
    hs_open_args args = {.ring_size = 4 * HS_CHUNK_SIZE, .cache_size = 1 << 20, .mode = HS_OPEN_PRIVATE};
    hs_engine *engine = NULL;
    REQUIRE(hs_engine_open(&args, &engine) == HS_OK);
    uint8_t data[70000], empty[32];
    hs_call call = {.engine = engine, .data = data, .capacity = sizeof data};
    hs_empty_root(empty);
    CHECK(hs_commit_one(&call, NULL, empty, (const uint8_t *)"k", 1, (const uint8_t *)"v", 1) > 0);
    CHECK_EQ_INT(hs_get(&call, data + 16, (const uint8_t *)"k", 1), 1);
    uint64_t pids[4];
    CHECK_EQ_INT(hs_engine_busy_pids(engine, pids, 4), 0);
    hs_engine_close(engine);
}

static void value_about_to_be_evicted_gets_a_second_chance(void) {
    rig r;
    rig_open(&r, 8);
    uint8_t value[4096] = {1}, id[32];
    REQUIRE(hs_l1_put(&r.call[0], value, sizeof value) == HS_OK);
    memcpy(id, r.call[0].id, 32);
    for (uint32_t i = 0; i < 40 * 256; i++) { /* ten times the ring, with a look at it now and then */
        uint8_t other[4096] = {2};
        memcpy(other + 8, &i, 4);
        int status;
        while ((status = hs_l1_put(&r.call[0], other, sizeof other)) == HS_WAIT) rig_round(&r);
        REQUIRE(status == HS_OK);
        if (i % 32 == 0) CHECK_EQ_INT(hs_l1_get(&r.call[0], id), (int64_t)sizeof value);
        if (i % 256 == 0) rig_round(&r);
    }
    CHECK_EQ_INT(hs_l1_get(&r.call[1], id), (int64_t)sizeof value);
    rig_close(&r);
}

int main(void) {
    RUN(second_process_attaches_to_the_same_segment);
    RUN(other_store_is_refused);
    RUN(counters_outlive_who_counted);
    RUN(forked_child_takes_a_slot_of_its_own);
    RUN(child_of_a_given_up_segment_is_told_so);
    RUN(waiter_for_a_round_is_woken_or_times_out);
    RUN(private_engine_works_alone);
    RUN(value_about_to_be_evicted_gets_a_second_chance);
    return hs_test_report();
}
