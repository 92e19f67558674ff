/* test_turn.c - turns at a branch: who has one goes ahead, for a bounded time, and nothing else depends on it. */
#include "hs_clock.h"
#include "hs_engine_rig.h"
#include "hs_turn.h"

enum { MINE = 7, OTHERS = 8, SLOT = 5 };

static hs_word *turn_of(hs_segment *segment) { return &segment->branches[SLOT].turn; }

static void turn_is_taken_kept_and_given(void) {
    rig r;
    rig_open(&r, 4);
    hs_segment *segment = &r.engine[0]->segment;
    CHECK(hs_turn_is_nobodys(segment, SLOT));
    CHECK(hs_turn_take(segment, SLOT, MINE, HS_TURN_US_MAX));
    CHECK(hs_turn_others(segment, SLOT, OTHERS) != 0);
    CHECK_EQ_INT(hs_turn_others(segment, SLOT, MINE), 0);
    CHECK(!hs_turn_take(segment, SLOT, OTHERS, HS_TURN_US_MAX));
    CHECK(hs_turn_take(segment, SLOT, MINE, HS_TURN_US_MAX));
    hs_turn_give(segment, SLOT, OTHERS);
    CHECK(hs_turn_others(segment, SLOT, OTHERS) != 0);
    hs_turn_give(segment, SLOT, MINE);
    CHECK(hs_turn_is_nobodys(segment, SLOT));
    CHECK(hs_turn_take(segment, SLOT, OTHERS, HS_TURN_US_MAX));
    rig_close(&r);
}

static void turn_is_over_after_its_time_whoever_has_it(void) {
    rig r;
    rig_open(&r, 4);
    hs_segment *segment = &r.engine[0]->segment;
    CHECK(hs_turn_take(segment, SLOT, OTHERS, 1000));
    uint64_t seen = hs_load_relaxed(turn_of(segment)), turns = 0;
    for (; hs_turn_others(segment, SLOT, MINE) != 0; turns++) hs_turn_wait(segment, SLOT, seen, 50);
    CHECK(turns <= 50);
    CHECK(hs_turn_take(segment, SLOT, MINE, 1000));
    rig_close(&r);
}

static void word_without_sense_is_nobodys_turn(void) {
    rig r;
    rig_open(&r, 4);
    hs_segment *segment = &r.engine[0]->segment;
    uint64_t now = hs_clock_ns(CLOCK_MONOTONIC) / 1000;
    uint64_t words[] = {UINT64_MAX, (now + HS_TURN_US_MAX * 1000u) << 16 | OTHERS, (now - 1) << 16 | OTHERS,
                        OTHERS};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        hs_store_relaxed(turn_of(segment), words[i]);
        CHECK_EQ_INT(hs_turn_others(segment, SLOT, MINE), 0);
        CHECK(hs_turn_take(segment, SLOT, MINE, 1000));
        CHECK(hs_turn_others(segment, SLOT, OTHERS) != 0);
    }
    rig_close(&r);
}

static int64_t put(rig *r, int who, hs_branch_ref *ref, const uint8_t *base, const char *key) {
    return hs_commit_one(&r->call[who], ref, base, (const uint8_t *)key, strlen(key), (const uint8_t *)"v",
                         1);
}

static void start_branch(rig *r, hs_branch_ref ref[2], uint8_t base[40]) {
    uint8_t nothing[40] = {0};
    memcpy(nothing, r->empty, 32);
    for (int who = 0; who < 2; who++) {
        ref[who] = rig_branch("main");
        rig_absent(r, who, &ref[who]);
    }
    REQUIRE(put(r, 0, &ref[0], nothing, "first") > 0);
    rig_base(r->data[0], base);
}

static void commits_of_others_wait_and_the_one_whose_turn_it_is_gives_it_back(void) {
    rig r;
    rig_open(&r, 4);
    hs_branch_ref ref[2];
    uint8_t base[40];
    uint32_t ticket = 0;
    start_branch(&r, ref, base);
    CHECK_EQ_INT(hs_branch_turn_take(&r.call[1], &ref[1], &ticket, HS_TURN_US_MAX), HS_OK);
    CHECK(ticket != 0);
    CHECK_EQ_INT(put(&r, 0, &ref[0], base, "a"), HS_YIELD);
    r.call[1].ticket = ticket;
    CHECK(put(&r, 1, &ref[1], base, "b") > 0);
    r.call[1].ticket = 0;
    CHECK(hs_turn_is_nobodys(&r.engine[0]->segment, ref[0].slot));
    CHECK_EQ_INT(hs_branch_yield(&r.call[0], &ref[0], 0, 50), HS_OK);
    CHECK(hs_commit_continue(&r.call[0]) > 0);
    CHECK(r.call[0].state == NULL);
    rig_close(&r);
}

static void moves_wait_too_and_a_turn_may_be_given_without_a_commit(void) {
    rig r;
    rig_open(&r, 4);
    hs_branch_ref ref[2];
    uint8_t base[40];
    uint32_t ticket = 0, another = 0;
    start_branch(&r, ref, base);
    CHECK_EQ_INT(hs_branch_turn_take(&r.call[1], &ref[1], &ticket, HS_TURN_US_MAX), HS_OK);
    CHECK_EQ_INT(hs_branch_turn_take(&r.call[0], &ref[0], &another, HS_TURN_US_MAX), HS_YIELD);
    CHECK(another != ticket);
    CHECK_EQ_INT(hs_commit_root(&r.call[0], &ref[0], HS_MOVE_RESTORE, r.empty, NULL), HS_YIELD);
    hs_branch_turn_give(&r.call[1], &ref[1], ticket);
    CHECK(hs_commit_continue(&r.call[0]) > 0);
    rig_close(&r);
}

/* It has waited for three turns, and a millisecond: then the next one is its own, and over when it has ended. */
static void commit_that_is_passed_too_often_leaves_no_turn_behind(void) {
    rig r;
    rig_open(&r, 4);
    hs_branch_ref ref[2];
    uint8_t base[40];
    start_branch(&r, ref, base);
    hs_segment *segment = &r.engine[0]->segment;
    CHECK(hs_turn_take(segment, ref[0].slot, 60000, HS_TURN_US_MAX));
    int64_t result = put(&r, 0, &ref[0], base, "a");
    uint64_t begin = hs_clock_ns(CLOCK_MONOTONIC);
    while (hs_clock_ns(CLOCK_MONOTONIC) - begin < 1500000) {
    }
    for (int i = 0; i < 3; i++) {
        CHECK_EQ_INT(result, HS_YIELD);
        CHECK(hs_turn_take(segment, ref[0].slot, 60000, HS_TURN_US_MAX));
        result = hs_commit_continue(&r.call[0]);
    }
    CHECK_EQ_INT(result, HS_YIELD);
    hs_turn_give(segment, ref[0].slot, 60000);
    CHECK(hs_commit_continue(&r.call[0]) > 0);
    CHECK(hs_turn_is_nobodys(segment, ref[0].slot));
    rig_close(&r);
}

int main(void) {
    RUN(turn_is_taken_kept_and_given);
    RUN(turn_is_over_after_its_time_whoever_has_it);
    RUN(word_without_sense_is_nobodys_turn);
    RUN(commits_of_others_wait_and_the_one_whose_turn_it_is_gives_it_back);
    RUN(moves_wait_too_and_a_turn_may_be_given_without_a_commit);
    RUN(commit_that_is_passed_too_often_leaves_no_turn_behind);
    return hs_test_report();
}
