/* test_participant.c - a slot's lock lives as long as its process, and nothing else does. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <sys/syscall.h>
#include "hs_metrics.h"
#include "hs_rig.h"

static void slot_is_alive_until_its_owner_leaves(void) {
    rig r;
    worker a, b;
    rig_make(&r, 4);
    CHECK_EQ_INT(hs_participant_alive(r.probe_fd, 0), 0);
    worker_join(&r, &a);
    worker_join(&r, &b);
    CHECK_EQ_INT(a.self.index, 0);
    CHECK_EQ_INT(b.self.index, 1);
    CHECK_EQ_INT(hs_load_relaxed(&a.self.slot->pid), getpid());
    CHECK_EQ_INT(hs_participant_alive(r.probe_fd, 0), 1);
    CHECK_EQ_INT(hs_participant_alive(r.probe_fd, 1), 1);
    CHECK_EQ_INT(hs_drain_participants(r.drain), 2);
    worker_leave(&a);
    CHECK_EQ_INT(hs_participant_alive(r.probe_fd, 0), 0);
    CHECK_EQ_INT(hs_participant_alive(r.probe_fd, 1), 1);
    CHECK(a.self.fd < 0 && a.self.slot == NULL);
    worker_leave(&a); /* once more changes nothing */
    worker_join(&r, &a);
    CHECK_EQ_INT(a.self.index, 0);
    worker_leave(&a);
    worker_leave(&b);
    CHECK_EQ_INT(hs_drain_participants(r.drain), 0);
    rig_break(&r);
}

static void counters_of_those_who_left_are_kept(void) {
    rig r;
    worker a;
    rig_make(&r, 4);
    worker_join(&r, &a);
    thing t = thing_make(1, 100);
    store(&a, &t);
    hs_metrics_count(a.self.metrics, HS_COUNT_HITS, 5);
    worker_leave(&a);
    worker_join(&r, &a); /* and the next goes on where it stopped */
    hs_metrics_count(a.self.metrics, HS_COUNT_HITS, 2);
    CHECK_EQ_INT(hs_metrics_counter(&r.segment, HS_COUNT_PUTS), 1);
    CHECK_EQ_INT(hs_metrics_counter(&r.segment, HS_COUNT_HITS), 7);
    worker_leave(&a);
    CHECK_EQ_INT(hs_metrics_counter(&r.segment, HS_COUNT_HITS), 7);
    rig_break(&r);
}

static void join_and_exit(void *context) {
    worker w;
    worker_join(context, &w);
    _exit(0);
}

static void dead_participant_is_found_and_its_slot_freed(void) {
    rig r;
    hs_drain_round round;
    rig_make(&r, 4);
    CHECK(!dies_at("join_after", 2, join_and_exit, &r)); /* it ends without leaving */
    CHECK_EQ_INT(hs_load32_acquire(&r.segment.participants[0].state), 1);
    CHECK_EQ_INT(hs_participant_alive(r.probe_fd, 0), 0);
    CHECK_EQ_INT(hs_drain_participants(r.drain), 0);
    worker w;
    worker_join(&r, &w);
    CHECK_EQ_INT(w.self.index, 1); /* only the coordinator frees the slots of the dead */
    drain_round(&r, &round);
    CHECK_EQ_INT(round.reaped, 1);
    CHECK_EQ_INT(hs_load32_acquire(&r.segment.participants[0].state), 0);
    CHECK_EQ_INT(hs_load32_acquire(&r.segment.participants[1].state), 1);
    worker_leave(&w);
    rig_break(&r);
}

static void death_while_joining_leaves_a_free_or_a_dead_slot(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    CHECK(dies_at("join_locked", 1, join_and_exit, &r));
    CHECK_EQ_INT(hs_load32_acquire(&r.segment.participants[0].state), 0);
    worker_join(&r, &w);
    CHECK_EQ_INT(w.self.index, 0);
    worker_leave(&w);
    CHECK(dies_at("join_after", 1, join_and_exit, &r));
    CHECK_EQ_INT(hs_drain_has_work(r.drain, 1), 1);
    hs_drain_round round;
    drain_round(&r, &round);
    CHECK_EQ_INT(hs_drain_has_work(r.drain, 1), 0);
    rig_break(&r);
}

static void forked_child_does_not_keep_its_parent_alive(void) {
    rig r;
    int up[2], down[2];
    char byte = 0;
    rig_make(&r, 4);
    REQUIRE(pipe(up) == 0 && pipe(down) == 0);
    pid_t parent = fork();
    if (parent == 0) { /* a participant that forks a child and dies */
        worker w;
        worker_join(&r, &w);
        if (fork() == 0) {
            hs_participant_abandon(&w.self);
            close(down[1]);
            (void)!write(up[1], "x", 1);
            (void)!read(down[0], &byte, 1); /* until the test has looked */
            _exit(0);
        }
        for (;;) pause();
    }
    REQUIRE(read(up[0], &byte, 1) == 1);
    CHECK_EQ_INT(hs_participant_alive(r.probe_fd, 0), 1);
    kill(parent, SIGKILL);
    waitpid(parent, NULL, 0);
    CHECK_EQ_INT(hs_participant_alive(r.probe_fd, 0), 0);
    close(down[1]);
    close(down[0]);
    close(up[0]);
    close(up[1]);
    rig_break(&r);
}

static void stopped_participant_lives(void) {
    rig r;
    rig_make(&r, 4);
    pid_t child = fork();
    if (child == 0) {
        worker w;
        hs_step_arm("join_after", 1, HS_STEP_STOP);
        worker_join(&r, &w);
        _exit(0);
    }
    int status;
    REQUIRE(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    hs_drain_round round;
    drain_round(&r, &round);
    CHECK_EQ_INT(round.reaped, 0);
    CHECK_EQ_INT(hs_drain_participants(r.drain), 1);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    drain_round(&r, &round);
    CHECK_EQ_INT(round.reaped, 1);
    rig_break(&r);
}

/* A slot changes hands while the coordinator asks for its lock: one owner leaves before, another joins after. */
static struct {
    rig *r; /* NULL: nothing happens */
    worker *leaving, *joining;
} relay;

int fcntl(int fd, int command, ...) {
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    rig *r = command == F_OFD_GETLK ? relay.r : NULL;
    relay.r = r != NULL ? NULL : relay.r;
    if (r != NULL) worker_leave(relay.leaving);
    int result = (int)syscall(SYS_fcntl, fd, command, argument);
    if (r != NULL) worker_join(r, relay.joining);
    return result;
}

/* The coordinator saw the slot taken, then its lock free, and took the owner for dead: it sealed the chunk of the next owner
 * under its hands, freed its slot, and could then leave, and take the segment's name away, while that one was there. */
static void slot_that_changes_hands_while_it_is_probed_is_nobodys_death(void) {
    rig r;
    worker first, second;
    rig_make(&r, 4);
    worker_join(&r, &first);
    relay.r = &r;
    relay.leaving = &first;
    relay.joining = &second;
    hs_drain_round round;
    drain_round(&r, &round);
    CHECK(relay.r == NULL); /* it was asked for */
    CHECK_EQ_INT(round.reaped, 0);
    CHECK_EQ_INT(second.self.index, 0);
    CHECK_EQ_INT(hs_load32_acquire(&second.self.slot->state), 1);
    CHECK_EQ_INT(hs_drain_participants(r.drain), 1);
    worker_leave(&second);
    rig_break(&r);
}

static void all_slots_taken_is_full(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    for (uint32_t i = 0; i < HS_PARTICIPANTS; i++) hs_store32_relaxed(&r.segment.participants[i].state, 1);
    CHECK_EQ_INT(hs_participant_join(&r.segment, r.path, &w.self), HS_FULL);
    hs_drain_round round;
    drain_round(&r, &round); /* none of them holds its lock */
    CHECK_EQ_INT(round.reaped, HS_PARTICIPANTS);
    worker_join(&r, &w);
    worker_leave(&w);
    CHECK_EQ_INT(hs_participant_join(&r.segment, "/no/such/directory", &w.self), HS_SYSTEM);
    CHECK_EQ_INT(hs_errno(), ENOENT);
    CHECK_EQ_INT(hs_participant_alive(-1, 0), HS_SYSTEM);
    rig_break(&r);
}

/* The lock is free in the file but the state says free too: somebody who holds the gate is just filling it. */
static void slot_that_another_has_locked_is_passed_over(void) {
    rig r;
    worker a, b;
    rig_make(&r, 4);
    worker_join(&r, &a);
    hs_store32_relaxed(&a.self.slot->state, 0);
    worker_join(&r, &b);
    CHECK_EQ_INT(b.self.index, 1);
    hs_store32_relaxed(&a.self.slot->state, 1);
    worker_leave(&b);
    worker_leave(&a);
    rig_break(&r);
}

int main(void) {
    RUN(slot_is_alive_until_its_owner_leaves);
    RUN(counters_of_those_who_left_are_kept);
    RUN(dead_participant_is_found_and_its_slot_freed);
    RUN(death_while_joining_leaves_a_free_or_a_dead_slot);
    RUN(forked_child_does_not_keep_its_parent_alive);
    RUN(stopped_participant_lives);
    RUN(slot_that_changes_hands_while_it_is_probed_is_nobodys_death);
    RUN(all_slots_taken_is_full);
    RUN(slot_that_another_has_locked_is_passed_over);
    return hs_test_report();
}
