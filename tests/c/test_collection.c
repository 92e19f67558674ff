/* test_collection.c - commits beside the moment at which a collection deletes: who is in one is waited for, who comes waits, and what was
 * found before a deletion is not relied on after it. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/wait.h>
#include "hs_blake3.h"
#include "hs_engine_rig.h"
#include "hs_lease.h"
#include "hs_record.h"
#include "hs_step.h"

static int64_t put(rig *r, int who, const uint8_t *base, const char *key, const char *value, size_t size) {
    return hs_commit_one(&r->call[who], NULL, base, (const uint8_t *)key, strlen(key), (const uint8_t *)value,
                         size);
}

static int stop(rig *r) {
    uint64_t pid = 0;
    return hs_drain_stop(r->drain, 0, &pid);
}

/* A collection that deletes something, all of the ring persisted before. */
static void delete_something(rig *r) {
    rig_round(r);
    REQUIRE(stop(r) == HS_OK);
    CHECK_EQ_INT(hs_drain_go(r->drain, 1), HS_OK);
}

static uint64_t place_of(rig *r, const uint8_t id[32]) {
    uint8_t buffer[HS_NODE_SIZE_MAX];
    hs_ring_hit hit = {0};
    return hs_ring_get(&r->engine[1]->ring, id, buffer, sizeof buffer, &hit) == HS_OK ? hit.place : 0;
}

static void commit_waits_while_something_is_deleted(void) {
    rig r;
    rig_open(&r, 4);
    REQUIRE(stop(&r) == HS_OK);
    CHECK_EQ_INT(put(&r, 0, r.empty, "k", "v", 1), HS_STOPPED);
    CHECK_EQ_INT(hs_load32_relaxed(&r.engine[0]->self.slot->committing), 0);
    CHECK(r.call[0].state != NULL && r.call[0].collection == 1);
    CHECK_EQ_INT(hs_commit_continue(&r.call[0]), HS_STOPPED);
    CHECK_EQ_INT(hs_collection_wait(r.engine[0], 1, 1), HS_TIMED_OUT);
    CHECK_EQ_INT(hs_drain_go(r.drain, 0), HS_OK);
    CHECK_EQ_INT(hs_collection_wait(r.engine[0], 1, 50), HS_OK);
    CHECK_EQ_INT(hs_engine_collection(r.engine[0]), 0);
    CHECK(hs_commit_continue(&r.call[0]) > 0);
    CHECK_EQ_INT(hs_drain_go(r.drain, 0), HS_ARGUMENT); /* nothing is stopped */
    REQUIRE(stop(&r) == HS_OK);
    CHECK_EQ_INT(put(&r, 0, r.empty, "k", "v", 1), HS_STOPPED);
    hs_commit_cancel(&r.call[0]);
    CHECK_EQ_INT(hs_drain_go(r.drain, 1), HS_OK);
    CHECK_EQ_INT(hs_engine_collection(r.engine[0]), 2);
    rig_close(&r);
}

static void round_fits_between_stop_and_go(void) {
    rig r;
    rig_open(&r, 4);
    REQUIRE(put(&r, 0, r.empty, "k", "v", 1) > 0);
    uint8_t root[32];
    memcpy(root, r.data[0] + HS_RECORD_BASE_OFFSET, 32);
    hs_drain_round round;
    REQUIRE(hs_drain_collect(r.drain, &round) == HS_OK);
    CHECK_EQ_INT(stop(&r), HS_ARGUMENT); /* not in the middle of a round */
    REQUIRE(hs_drain_finish(r.drain) == HS_OK);
    CHECK(hs_root_stands(r.engine[1], root));
    REQUIRE(stop(&r) == HS_OK);
    rig_round(&r);
    CHECK_EQ_INT(hs_engine_collection(r.engine[0]), 1);
    CHECK_EQ_INT(hs_drain_go(r.drain, 1), HS_OK);
    CHECK(!hs_root_stands(r.engine[1], root)); /* L2 says whether it is there */
    rig_close(&r);
}

static void what_was_put_before_a_deletion_is_put_again(void) {
    rig r;
    rig_open(&r, 4);
    char value[200];
    uint8_t id[32], root[32];
    memset(value, 'v', sizeof value);
    hs_blake3((const uint8_t *)value, sizeof value, id);
    REQUIRE(put(&r, 0, r.empty, "k", value, sizeof value) > 0);
    memcpy(root, r.data[0] + HS_RECORD_BASE_OFFSET, 32);
    uint64_t first = place_of(&r, id), node = place_of(&r, root);
    REQUIRE(put(&r, 0, r.empty, "k", value, sizeof value) > 0);
    CHECK(place_of(&r, id) == first && place_of(&r, root) == node); /* it stands, and is relied on */
    delete_something(&r);
    CHECK(place_of(&r, id) == first && !hs_root_stands(r.engine[1], root)); /* read, and not relied on */
    REQUIRE(put(&r, 0, r.empty, "k", value, sizeof value) > 0);
    CHECK(place_of(&r, id) != first && place_of(&r, root) != node);
    CHECK(hs_root_stands(r.engine[1], root));
    first = place_of(&r, id);
    rig_round(&r);
    CHECK_EQ_INT(hs_drain_age(r.drain), HS_OK); /* as does what has become old */
    REQUIRE(put(&r, 0, r.empty, "k", value, sizeof value) > 0);
    CHECK(place_of(&r, id) != first);
    rig_close(&r);
}

static void what_came_from_l2_is_not_relied_on(void) {
    rig r;
    rig_open(&r, 4);
    uint8_t value[100], id[32];
    memset(value, 'c', sizeof value);
    hs_blake3(value, sizeof value, id);
    for (int i = 0; i < 3; i++) /* missed before: worth a place */
        hs_l1_put_cached(&r.call[0], HS_ENTRY_VALUE, id, 0, value, sizeof value, sizeof value);
    uint64_t cached = place_of(&r, id);
    CHECK(cached != 0);
    hs_l1_put_cached(&r.call[1], HS_ENTRY_VALUE, id, 0, value, sizeof value, sizeof value);
    CHECK(place_of(&r, id) == cached); /* for another of its kind it does */
    REQUIRE(put(&r, 0, r.empty, "k", (char *)value, sizeof value) > 0);
    CHECK(place_of(&r, id) != cached);
    rig_close(&r);
}

/* A base that nobody has brought suspends the commit, with its value put. */
static void suspended_commit_puts_its_values_again_after_a_deletion(void) {
    rig r;
    rig_open(&r, 4);
    char value[100];
    uint8_t unknown[32], id[32];
    memset(unknown, 9, sizeof unknown);
    memset(value, 'q', sizeof value);
    hs_blake3((const uint8_t *)value, sizeof value, id);
    CHECK_EQ_INT(put(&r, 0, unknown, "k", value, sizeof value), HS_MISSING);
    uint64_t first = place_of(&r, id);
    CHECK(first != 0);
    CHECK_EQ_INT(hs_commit_continue(&r.call[0]), HS_MISSING);
    CHECK(place_of(&r, id) == first);
    rig_round(&r);
    REQUIRE(stop(&r) == HS_OK);
    CHECK_EQ_INT(hs_drain_go(r.drain, 0), HS_OK); /* nothing was deleted after all */
    CHECK_EQ_INT(hs_commit_continue(&r.call[0]), HS_MISSING);
    CHECK(place_of(&r, id) == first);
    delete_something(&r);
    CHECK_EQ_INT(hs_commit_continue(&r.call[0]), HS_MISSING);
    CHECK(place_of(&r, id) != first);
    hs_commit_cancel(&r.call[0]);
    rig_close(&r);
}

static void files_seen_before_a_deletion_are_formed_again(void) {
    rig r;
    rig_open(&r, 4);
    uint8_t value[40] = {7}, form = HS_EDIT_BLOB;
    hs_store_u64(value + 32, 1 << 20);
    uint32_t key_size = 1, value_size = sizeof value;
    hs_edits edits = {.count = 1,
                      .keys = (const uint8_t *)"k",
                      .key_sizes = &key_size,
                      .values = value,
                      .value_sizes = &value_size,
                      .forms = &form};
    r.call[0].formed_under = hs_engine_collection(r.engine[0]);
    delete_something(&r);
    CHECK_EQ_INT(hs_commit_many(&r.call[0], NULL, r.empty, &edits), HS_COLLECTED);
    CHECK(r.call[0].state == NULL);
    CHECK_EQ_INT(hs_load32_relaxed(&r.engine[0]->self.slot->committing), 0);
    r.call[0].formed_under = hs_engine_collection(r.engine[0]);
    CHECK(hs_commit_many(&r.call[0], NULL, r.empty, &edits) > 0);
    rig_close(&r);
}

static void result_is_held_until_it_is_let_go(void) {
    rig r;
    rig_open(&r, 4);
    hs_leases *leases = NULL;
    REQUIRE(hs_leases_open(NULL, &leases) == HS_OK);
    r.engine[0]->leases = leases;
    REQUIRE(put(&r, 0, r.empty, "k", "1", 1) > 0);
    CHECK(r.call[0].held == 2 && hs_leases_count(leases) == 1);
    CHECK_EQ_MEM(r.call[0].held_root, r.data[0] + HS_RECORD_BASE_OFFSET, 32);
    REQUIRE(put(&r, 0, r.empty, "k", "2", 1) > 0); /* nobody took the first */
    CHECK(r.call[0].held == 2 && hs_leases_count(leases) == 1);
    hs_call_let_go(&r.call[0]);
    hs_call_let_go(&r.call[0]);
    CHECK(r.call[0].held == 0 && hs_leases_count(leases) == 0);
    rig_close(&r);
    hs_leases_close(leases);
}

/* A child that commits, and stops or dies in the middle of it. */
static pid_t child_in_a_commit(rig *r, const char *label, int action) {
    pid_t child = fork();
    if (child == 0) {
        if (hs_engine_after_fork(r->engine[0]) != HS_OK) _exit(2);
        r->engine[0]->leases = NULL;
        if (hs_leases_open(NULL, &r->engine[0]->leases) != HS_OK) _exit(3);
        hs_step_arm(label, 1, action);
        _exit(put(r, 0, r->empty, "k", "v", 1) > 0 ? 0 : 1);
    }
    REQUIRE(child > 0);
    return child;
}

static void who_is_stopped_in_a_commit_keeps_the_collection_waiting(void) {
    rig r;
    rig_open(&r, 4);
    const char *labels[] = {"commit_begun", "publish_after", "commit_leased"};
    for (int i = 0; i < 3; i++) {
        int status;
        uint64_t pid = 0;
        pid_t child = child_in_a_commit(&r, labels[i], HS_STEP_STOP);
        REQUIRE(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
        CHECK_EQ_INT(hs_drain_stop(r.drain, 3, &pid), HS_TIMED_OUT);
        CHECK_EQ_INT(pid, child);
        CHECK_EQ_INT(hs_engine_collection(r.engine[1]) & 1, 0); /* nobody else is kept from anything */
        CHECK(put(&r, 1, r.empty, "other", "v", 1) > 0);
        kill(child, SIGCONT);
        REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status));
        CHECK_EQ_INT(WEXITSTATUS(status), 0);
        delete_something(&r);
    }
    rig_close(&r);
}

static void who_dies_in_a_commit_is_not_waited_for(void) {
    rig r;
    rig_open(&r, 4);
    const char *labels[] = {"commit_begun", "publish_after", "commit_leased"};
    for (int i = 0; i < 3; i++) {
        int status;
        pid_t child = child_in_a_commit(&r, labels[i], HS_STEP_KILL);
        REQUIRE(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
        delete_something(&r);
    }
    CHECK_EQ_INT(hs_engine_collection(r.engine[0]), 6);
    CHECK(put(&r, 0, r.empty, "k", "v", 1) > 0);
    rig_close(&r);
}

static void coordinator_stops_and_dies(rig *r, const char *label) {
    pid_t child = fork();
    if (child == 0) {
        hs_step_arm(label, 1, HS_STEP_KILL);
        if (stop(r) == HS_OK) hs_drain_go(r->drain, 1);
        _exit(0);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
}

/* It may have deleted: its successor takes it that it has, once all of the ring is persisted. */
static void next_coordinator_ends_what_a_dead_one_has_stopped(void) {
    const char *labels[] = {"stop_raised", "stop_lowered"};
    for (int i = 0; i < 2; i++) {
        rig r;
        rig_open(&r, 4);
        uint8_t root[32];
        REQUIRE(put(&r, 1, r.empty, "k", "v", 1) > 0);
        memcpy(root, r.data[1] + HS_RECORD_BASE_OFFSET, 32);
        rig_round(&r);
        coordinator_stops_and_dies(&r, labels[i]);
        CHECK_EQ_INT(put(&r, 0, r.empty, "k", "w", 1), HS_STOPPED);
        hs_drain_close(r.drain);
        REQUIRE(hs_engine_drain(r.coordinator, &r.drain) == HS_OK);
        CHECK_EQ_INT(hs_drain_has_work(r.drain, 0), 1);
        CHECK_EQ_INT(stop(&r), HS_ARGUMENT); /* a round comes first */
        CHECK_EQ_INT(hs_engine_collection(r.engine[0]), 1);
        rig_round(&r);
        CHECK_EQ_INT(hs_engine_collection(r.engine[0]), 2);
        CHECK(!hs_root_stands(r.engine[1], root));
        CHECK(hs_commit_continue(&r.call[0]) > 0);
        rig_close(&r);
    }
}

int main(void) {
    RUN(commit_waits_while_something_is_deleted);
    RUN(round_fits_between_stop_and_go);
    RUN(what_was_put_before_a_deletion_is_put_again);
    RUN(what_came_from_l2_is_not_relied_on);
    RUN(suspended_commit_puts_its_values_again_after_a_deletion);
    RUN(files_seen_before_a_deletion_are_formed_again);
    RUN(result_is_held_until_it_is_let_go);
    RUN(who_is_stopped_in_a_commit_keeps_the_collection_waiting);
    RUN(who_dies_in_a_commit_is_not_waited_for);
    RUN(next_coordinator_ends_what_a_dead_one_has_stopped);
    return hs_test_report();
}
