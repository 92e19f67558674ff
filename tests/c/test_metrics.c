/* test_metrics.c - what was counted stays counted, whoever leaves or dies; only slots that were used have memory. */
#define _GNU_SOURCE
#include "hs_metrics.h"
#include <sys/stat.h>
#include "hs_rig.h"

static void commits_conflicts_and_bytes_are_counted_by_whoever_made_them(void) {
    rig r;
    worker a, b;
    hs_metrics_totals totals;
    rig_make(&r, 4);
    worker_join(&r, &a);
    worker_join(&r, &b);
    hs_metrics_count(a.self.metrics, HS_COUNT_COMMITS, 3);
    hs_metrics_count(b.self.metrics, HS_COUNT_COMMITS, 4);
    hs_metrics_measure(a.self.metrics, HS_MEASURE_COMMIT, 1000);
    hs_metrics_measure(b.self.metrics, HS_MEASURE_COMMIT, 3000);
    hs_metrics_measure(hs_metrics_coordinator(&r.segment), HS_MEASURE_ROUND, 70000);
    hs_metrics_sum(&r.segment, &totals);
    CHECK_EQ_INT(totals.counters[HS_COUNT_COMMITS], 7);
    CHECK_EQ_INT(hs_metrics_counter(&r.segment, HS_COUNT_COMMITS), 7);
    CHECK_EQ_INT(totals.measured[HS_MEASURE_COMMIT].sum, 4000);
    CHECK_EQ_INT(totals.measured[HS_MEASURE_COMMIT].max, 3000);
    CHECK_EQ_INT(totals.measured[HS_MEASURE_ROUND].buckets[hs_histogram_bucket(70000)], 1);
    hs_metrics_count(NULL, HS_COUNT_COMMITS, 1); /* who has no set counts nowhere */
    CHECK_EQ_INT(hs_metrics_counter(&r.segment, HS_COUNT_COMMITS), 7);
    worker_leave(&a);
    worker_leave(&b);
    rig_break(&r);
}

static void count_and_die(void *context) {
    worker w;
    worker_join(context, &w);
    for (int i = 0; i < 5; i++) hs_metrics_count(w.self.metrics, HS_COUNT_COMMITS, 1);
    _exit(0);
}

static void finish(void *drain) { hs_drain_finish(drain); }

static void counts_of_the_dead_are_neither_lost_nor_doubled(void) {
    rig r;
    hs_drain_round round;
    rig_make(&r, 4);
    CHECK(!dies_at("join_after", 2, count_and_die, &r)); /* it ends without leaving */
    CHECK_EQ_INT(hs_metrics_counter(&r.segment, HS_COUNT_COMMITS), 5);
    REQUIRE(hs_drain_collect(r.drain, &round) == HS_OK);
    CHECK_EQ_INT(round.reaped, 1);
    CHECK(dies_at("free_after", 1, finish, r.drain)); /* the coordinator, before it frees slots */
    CHECK_EQ_INT(hs_metrics_counter(&r.segment, HS_COUNT_COMMITS), 5);
    REQUIRE(hs_drain_finish(r.drain) == HS_OK);
    CHECK_EQ_INT(hs_metrics_counter(&r.segment, HS_COUNT_COMMITS), 5);
    CHECK_EQ_INT(hs_metrics_counter(&r.segment, HS_COUNT_HITS), 0);
    rig_break(&r);
}

static void only_slots_that_were_taken_have_memory(void) {
    rig r;
    worker w;
    struct stat before, after;
    rig_make(&r, 4);
    REQUIRE(fstat(r.segment.fd, &before) == 0);
    worker_join(&r, &w);
    REQUIRE(fstat(r.segment.fd, &after) == 0);
    CHECK_EQ_INT((after.st_blocks - before.st_blocks) * 512, sizeof(hs_metrics));
    worker_leave(&w);
    worker_join(&r, &w);
    hs_metrics_totals totals;
    hs_metrics_sum(&r.segment, &totals); /* looking allocates nothing */
    REQUIRE(fstat(r.segment.fd, &before) == 0);
    CHECK_EQ_INT(after.st_blocks, before.st_blocks);
    worker_leave(&w);
    rig_break(&r);
}

int main(void) {
    RUN(commits_conflicts_and_bytes_are_counted_by_whoever_made_them);
    RUN(counts_of_the_dead_are_neither_lost_nor_doubled);
    RUN(only_slots_that_were_taken_have_memory);
    return hs_test_report();
}
