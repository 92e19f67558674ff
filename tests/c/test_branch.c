/* test_branch.c - tags enter once, heads move by compare-and-swap, eviction mixes no branches. */
#include <sched.h>
#include "hs_rig.h"

#define BYTES(name) (const uint8_t *)(name), strlen(name)

static void name_has_one_slot_for_everybody(void) {
    rig r;
    worker a, b;
    uint32_t slot;
    rig_make(&r, 4);
    worker_join(&r, &a);
    worker_join(&r, &b);
    CHECK_EQ_INT(hs_branch_slot_look(&r.segment, BYTES("main"), &slot), HS_NOT_FOUND);
    uint32_t mine = slot_of(&a, "main");
    CHECK_EQ_INT(slot_of(&b, "main"), mine);
    CHECK(slot_of(&b, "other") != mine);
    CHECK_EQ_INT(hs_branch_slot_look(&r.segment, BYTES("main"), &slot), HS_OK);
    CHECK_EQ_INT(slot, mine);
    CHECK(hs_branch_slot_is(&r.segment, mine, BYTES("main")));
    CHECK(!hs_branch_slot_is(&r.segment, mine, BYTES("other")));
    CHECK(!hs_branch_slot_is(&r.segment, HS_BRANCH_SLOTS, BYTES("main")));
    CHECK((hs_branch_head_load(&r.segment, mine) & HS_WORD_IN_L2) != 0);
    hs_participant none;
    hs_participant_none(&none); /* a segment of its own needs no slot */
    CHECK_EQ_INT(hs_branch_slot_find(&r.segment, &none, BYTES("third"), &slot), HS_OK);
    CHECK_EQ_INT(hs_branch_slot_find(&r.segment, NULL, BYTES("third"), &slot), HS_OK);
    worker_leave(&a);
    worker_leave(&b);
    rig_break(&r);
}

static void head_moves_from_what_was_expected_only(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint32_t slot = slot_of(&w, "main");
    uint64_t first = hs_branch_head_load(&r.segment, slot), expected = first;
    CHECK(hs_branch_head_compare_and_set(&r.segment, slot, &expected, 17));
    CHECK_EQ_INT(hs_branch_head_load(&r.segment, slot), 17);
    CHECK(!hs_branch_head_compare_and_set(&r.segment, slot, &expected, 18));
    CHECK_EQ_INT(expected, 17);
    worker_leave(&w);
    rig_break(&r);
}

static void waiter_sees_a_head_that_moved_before_it_slept(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint32_t slot = slot_of(&w, "main");
    uint64_t word = hs_branch_head_load(&r.segment, slot);
    CHECK_EQ_INT(hs_branch_head_wait(&r.segment, slot, word, 1), HS_TIMED_OUT);
    CHECK_EQ_INT(hs_branch_head_wait(&r.segment, slot, word + 1, 50), HS_OK);
    CHECK_EQ_INT(hs_load32_relaxed(&r.segment.branches[slot].waiters), 0);
    worker_leave(&w);
    rig_break(&r);
}

typedef struct waiter {
    hs_segment *segment;
    uint32_t slot;
    uint64_t word;
} waiter;

static void *wait_for_move(void *argument) {
    waiter *w = argument;
    while (hs_branch_head_wait(w->segment, w->slot, w->word, 50) != HS_OK) continue;
    return NULL;
}

static void move_wakes_who_waits(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    waiter here = {&r.segment, slot_of(&w, "main"), 0};
    here.word = hs_branch_head_load(&r.segment, here.slot);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, wait_for_move, &here) == 0);
    while (hs_load32_acquire(&r.segment.branches[here.slot].waiters) == 0) sched_yield();
    uint64_t expected = here.word;
    CHECK(hs_branch_head_compare_and_set(&r.segment, here.slot, &expected, 99));
    pthread_join(thread, NULL);
    CHECK_EQ_INT(hs_load32_relaxed(&r.segment.branches[here.slot].waiters), 0);
    worker_leave(&w);
    rig_break(&r);
}

typedef struct watcher {
    hs_segment *segment;
    uint32_t slots[2];
    uint64_t before[2];
} watcher;

static void *watch_until_both_moved(void *argument) {
    const watcher *w = argument;
    for (;;) {
        uint32_t seen = hs_branch_watch_begin(w->segment), moved = 0;
        for (int i = 0; i < 2; i++) moved += hs_branch_head_load(w->segment, w->slots[i]) != w->before[i];
        if (moved == 2) return NULL;
        hs_branch_watch_sleep(w->segment, seen, 50);
    }
}

static void move_of_any_head_wakes_who_watches_them_all(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    watcher here = {&r.segment, {slot_of(&w, "main"), slot_of(&w, "other")}, {0, 0}};
    for (int i = 0; i < 2; i++) here.before[i] = hs_branch_head_load(&r.segment, here.slots[i]);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        REQUIRE(pthread_create(&threads[i], NULL, watch_until_both_moved, &here) == 0);
    for (int i = 0; i < 2; i++) {
        while (hs_load32_acquire(&r.segment.header->watched) == 0) sched_yield();
        uint64_t expected = here.before[i];
        CHECK(hs_branch_head_compare_and_set(&r.segment, here.slots[i], &expected, (uint64_t)(90 + i)));
    }
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    CHECK(hs_load32_relaxed(&r.segment.header->moved) >= 2);
    worker_leave(&w);
    rig_break(&r);
}

static void who_watches_sleeps_only_if_nothing_moved_since_it_began(void) {
    rig r;
    rig_make(&r, 4);
    uint32_t seen = hs_branch_watch_begin(&r.segment);
    CHECK_EQ_INT(hs_branch_watch_sleep(&r.segment, seen, 1), HS_TIMED_OUT);
    hs_branch_watch_wake(&r.segment);
    CHECK_EQ_INT(hs_branch_watch_sleep(&r.segment, seen, 50), HS_OK);
    CHECK_EQ_INT(hs_load32_relaxed(&r.segment.header->watched), 0);
    hs_branch_head_wake(&r.segment, 0); /* nobody watches: nothing is counted */
    CHECK_EQ_INT(hs_load32_relaxed(&r.segment.header->moved), seen + 1);
    rig_break(&r);
}

enum { MOVES = 2000 };
static void *move_many(void *argument) {
    waiter *w = argument;
    for (int i = 0; i < MOVES; i++) {
        uint64_t seen = hs_branch_head_load(w->segment, w->slot);
        while (!hs_branch_head_compare_and_set(w->segment, w->slot, &seen, seen + 1)) continue;
    }
    return NULL;
}

static void no_move_is_lost(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    waiter here = {&r.segment, slot_of(&w, "main"), 0};
    here.word = hs_branch_head_load(&r.segment, here.slot);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, move_many, &here) == 0);
    move_many(&here);
    pthread_join(thread, NULL);
    CHECK_EQ_INT(hs_branch_head_load(&r.segment, here.slot) - here.word, 2 * MOVES);
    worker_leave(&w);
    rig_break(&r);
}

static void *find_many(void *argument) {
    rig *r = argument;
    worker w;
    char name[32];
    uint32_t *slots = calloc(3000, sizeof *slots);
    REQUIRE(slots != NULL);
    worker_join(r, &w);
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "branch/%d", i);
        slots[i] = slot_of(&w, name);
    }
    worker_leave(&w);
    return slots;
}

static void concurrent_inserts_of_one_name_meet_in_one_slot(void) {
    rig r;
    rig_make(&r, 4);
    pthread_t thread;
    void *theirs;
    REQUIRE(pthread_create(&thread, NULL, find_many, &r) == 0);
    uint32_t *mine = find_many(&r);
    pthread_join(thread, &theirs);
    CHECK_EQ_MEM(mine, theirs, 3000 * sizeof *mine);
    uint32_t used = 0;
    for (uint32_t i = 0; i < HS_BRANCH_SLOTS; i++) used += hs_load_relaxed(&r.segment.branch_tags[i]) != 0;
    CHECK_EQ_INT(used, 3000);
    free(mine);
    free(theirs);
    rig_break(&r);
}

/* The slot of a name, with evictions when its window is full. */
static uint32_t slot_with_evictions(rig *r, worker *w, const char *name, int *evictions) {
    uint32_t slot = 0;
    int status;
    while ((status = hs_branch_slot_find(&r->segment, &w->self, BYTES(name), &slot)) == HS_FULL) {
        hs_drain_round round;
        drain_round(r, &round);
        REQUIRE(hs_drain_evict(r->drain) > 0);
        ++*evictions;
    }
    REQUIRE(status == HS_OK);
    return slot;
}

static void more_branches_than_slots_find_room_by_eviction(void) {
    enum { NAMES = 20000 };
    rig r;
    worker w;
    rig_make(&r, 64);
    worker_join(&r, &w);
    int evictions = 0;
    char name[32];
    uint64_t *last = calloc(NAMES, sizeof *last);
    REQUIRE(last != NULL);
    for (int i = 0; i < NAMES; i++) {
        snprintf(name, sizeof name, "b%d", i);
        uint32_t slot = slot_with_evictions(&r, &w, name, &evictions);
        uint64_t head = hs_branch_head_load(&r.segment, slot);
        CHECK((head & HS_WORD_IN_L2) != 0); /* never the head of another */
        CHECK(hs_branch_slot_is(&r.segment, slot, BYTES(name)));
        CHECK_EQ_INT(commit(&w, slot, name, 1, head, &last[i]), HS_OK);
        if (i % 1000 == 999) {
            hs_drain_round round;
            drain_round(&r, &round);
            hs_drain_evict(r.drain);
        }
    }
    uint32_t present = 0, used = 0;
    for (uint32_t i = 0; i < HS_BRANCH_SLOTS; i++) used += hs_load_relaxed(&r.segment.branch_tags[i]) != 0;
    for (int i = 0; i < NAMES; i++) {
        uint32_t slot;
        snprintf(name, sizeof name, "b%d", i);
        if (hs_branch_slot_look(&r.segment, BYTES(name), &slot) != HS_OK) continue;
        present++;
        CHECK(hs_branch_head_load(&r.segment, slot) == last[i]);
    }
    CHECK_EQ_INT(present, used);
    CHECK(used <= HS_BRANCH_SLOTS / 4 * 3 + 1000);
    CHECK(hs_load32_relaxed(&r.segment.header->evicting) == 0);
    free(last);
    worker_leave(&w);
    rig_break(&r);
}

/* Fill the window that begins at slot `home` with other tags, so that it is full. */
static void window_fill(rig *r, uint64_t tag) {
    for (uint32_t i = 0; i < HS_BRANCH_WINDOW; i++) {
        hs_word *word = &r->segment.branch_tags[hs_branch_window_slot(tag, i)];
        if (hs_load_relaxed(word) == 0) hs_store_relaxed(word, 1000 + i);
    }
}

static void full_window_is_reported_and_evicted(void) {
    rig r;
    worker w;
    uint32_t slot;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint64_t tag = hs_branch_tag(&r.segment, BYTES("late"));
    window_fill(&r, tag);
    CHECK_EQ_INT(hs_branch_slot_find(&r.segment, &w.self, BYTES("late"), &slot), HS_FULL);
    CHECK_EQ_INT(hs_load32_relaxed(&w.self.slot->inserting), 0);
    CHECK_EQ_INT(hs_drain_sleep(r.drain, 50, 1), HS_OK); /* somebody asks */
    CHECK_EQ_INT(hs_drain_evict(r.drain), HS_BRANCH_WINDOW / 2);
    CHECK_EQ_INT(hs_branch_slot_find(&r.segment, &w.self, BYTES("late"), &slot), HS_OK);
    CHECK_EQ_INT(hs_drain_evict(r.drain), 0); /* nobody asks any more */
    worker_leave(&w);
    rig_break(&r);
}

static void moved_or_awaited_head_is_not_evicted(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint32_t slot = slot_of(&w, "busy");
    uint64_t tag = hs_branch_tag(&r.segment, BYTES("busy")), head = hs_branch_head_load(&r.segment, slot),
             word;
    CHECK_EQ_INT(commit(&w, slot, "busy", 1, head, &word), HS_OK);
    window_fill(&r, tag);
    for (uint32_t i = 0; i < HS_BRANCH_WINDOW; i++)
        if (hs_branch_window_slot(tag, i) != slot)
            hs_store32_relaxed(&r.segment.branches[hs_branch_window_slot(tag, i)].waiters, 1);
    hs_store32_relaxed(&r.segment.header->evict_wanted, 1 + hs_branch_window_slot(tag, 0));
    CHECK_EQ_INT(hs_drain_evict(r.drain), 0); /* the one head is not in L2, the others are waited for */
    CHECK(hs_branch_slot_is(&r.segment, slot, BYTES("busy")));
    hs_drain_round round;
    drain_round(&r, &round);
    hs_store32_relaxed(&r.segment.header->evict_wanted, 1 + hs_branch_window_slot(tag, 0));
    CHECK_EQ_INT(hs_drain_evict(r.drain), 1);
    CHECK(!hs_branch_slot_is(&r.segment, slot, BYTES("busy")));
    /* A commit that had loaded the head before loses. */
    CHECK(!hs_branch_head_compare_and_set(&r.segment, slot, &word, 5));
    CHECK((word & HS_WORD_IN_L2) != 0 && word != head);
    worker_leave(&w);
    rig_break(&r);
}

static void nobody_inserts_while_tags_are_taken_out(void) {
    rig r;
    worker w;
    uint32_t slot;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint32_t old = slot_of(&w, "old");
    hs_store32_relaxed(&r.segment.header->evicting, 1);
    CHECK_EQ_INT(hs_branch_slot_find(&r.segment, &w.self, BYTES("new"), &slot), HS_WAIT);
    CHECK_EQ_INT(hs_load32_relaxed(&w.self.slot->inserting), 0);
    CHECK_EQ_INT(slot_of(&w, "old"), old); /* who is there is found */
    hs_store32_relaxed(&r.segment.header->evicting, 0);
    hs_store32_relaxed(&w.self.slot->inserting, 1); /* and no tag is taken out while somebody inserts */
    hs_store32_relaxed(&r.segment.header->evict_wanted, 1 + old);
    CHECK_EQ_INT(hs_drain_evict(r.drain), 0);
    CHECK_EQ_INT(hs_load32_relaxed(&r.segment.header->evicting), 0);
    hs_store32_relaxed(&w.self.slot->inserting, 0);
    worker_leave(&w);
    rig_break(&r);
}

static void insert_tag(void *context) {
    worker w;
    worker_join(context, &w);
    slot_of(&w, "late");
}

static void death_while_inserting_blocks_no_eviction(void) {
    const char *labels[] = {"tag_before", "tag_after"};
    for (int i = 0; i < 2; i++) {
        rig r;
        uint32_t slot;
        rig_make(&r, 4);
        CHECK(dies_at(labels[i], 1, insert_tag, &r));
        CHECK_EQ_INT(hs_load32_relaxed(&r.segment.participants[0].inserting), 1);
        CHECK_EQ_INT(hs_branch_slot_look(&r.segment, BYTES("late"), &slot), i == 0 ? HS_NOT_FOUND : HS_OK);
        uint64_t tag = hs_branch_tag(&r.segment, BYTES("late"));
        window_fill(&r, tag);
        hs_store32_relaxed(&r.segment.header->evict_wanted, 1 + hs_branch_window_slot(tag, 0));
        CHECK_EQ_INT(hs_drain_evict(r.drain), HS_BRANCH_WINDOW / 2);
        hs_drain_round round;
        drain_round(&r, &round);
        CHECK_EQ_INT(hs_load32_relaxed(&r.segment.participants[0].inserting), 0);
        rig_break(&r);
    }
}

static void eviction_left_half_done_is_undone_by_the_next_coordinator(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint32_t slot = slot_of(&w, "main");
    uint64_t head = hs_branch_head_load(&r.segment, slot), word;
    CHECK_EQ_INT(commit(&w, slot, "main", 1, head, &word), HS_OK);
    /* As if it had died between taking the tag out and changing the head. */
    hs_store32_relaxed(&r.segment.header->evicting, 1);
    hs_store_relaxed(&r.segment.branches[slot].evicted_tag, hs_load_relaxed(&r.segment.branch_tags[slot]));
    hs_store_relaxed(&r.segment.branch_tags[slot], 0);
    hs_drain_close(r.drain);
    REQUIRE(hs_drain_open(&r.segment, r.probe_fd, &r.drain) == HS_OK);
    CHECK_EQ_INT(slot_of(&w, "main"), slot);
    CHECK(hs_branch_head_load(&r.segment, slot) == word);
    CHECK_EQ_INT(hs_load_relaxed(&r.segment.branches[slot].evicted_tag), 0);
    CHECK_EQ_INT(hs_load32_relaxed(&r.segment.header->evicting), 0);
    worker_leave(&w);
    rig_break(&r);
}

/* Branches are committed to and evicted at once: each keeps its own serials, none is lost. The "L2" of the test is what the
 * drain handed out: serial by name. */
enum { BUSY_NAMES = 40, BUSY_COMMITS = 600 };
typedef struct busy {
    rig *r;
    hs_word32 stop;
    uint64_t l2[BUSY_NAMES]; /* guarded by lock */
    pthread_mutex_t lock;
} busy;

static void l2_take(busy *b) {
    uint8_t record[HS_RECORD_SIZE_MAX];
    uint32_t slot;
    uint64_t word;
    size_t size;
    hs_record decoded;
    while (hs_drain_next_head(b->r->drain, &slot, &word, record, sizeof record, &size) == HS_OK) {
        REQUIRE(hs_record_decode(record, size, &decoded) == HS_OK);
        int n = 0;
        for (int i = 1; i < decoded.name_size; i++) n = 10 * n + decoded.name[i] - '0';
        REQUIRE(n < BUSY_NAMES);
        pthread_mutex_lock(&b->lock);
        CHECK(decoded.serial >= b->l2[n]);
        b->l2[n] = decoded.serial;
        pthread_mutex_unlock(&b->lock);
    }
}

static void *drain_and_evict(void *argument) {
    busy *b = argument;
    hs_drain_round round;
    bool stop;
    do {
        stop = hs_load32_acquire(&b->stop) != 0;
        CHECK_EQ_INT(hs_drain_collect(b->r->drain, &round), HS_OK);
        l2_take(b);
        CHECK_EQ_INT(hs_drain_finish(b->r->drain), HS_OK);
        for (uint32_t home = 0; home < HS_BRANCH_SLOTS;
             home += HS_BRANCH_WINDOW / 2) { /* as if every window were full */
            bool any = false;
            for (uint32_t i = 0; i < HS_BRANCH_WINDOW; i++)
                any |= hs_load_relaxed(&b->r->segment.branch_tags[(home + i) % HS_BRANCH_SLOTS]) > 2000;
            if (!any) continue;
            for (uint32_t i = 0; i < HS_BRANCH_WINDOW; i++) {
                uint64_t none = 0;
                hs_cas_seq_cst(&b->r->segment.branch_tags[(home + i) % HS_BRANCH_SLOTS], &none, 1000 + i);
            }
            hs_store32_relaxed(&b->r->segment.header->evict_wanted, 1 + home);
            hs_drain_evict(b->r->drain);
        }
    } while (!stop);
    return NULL;
}

/* One commit on name n, as the commit layer does it; the new serial. */
static uint64_t busy_commit(busy *b, worker *w, int n) {
    char name[16];
    snprintf(name, sizeof name, "n%d", n);
    for (;;) {
        uint32_t slot;
        int status = hs_branch_slot_find(&b->r->segment, &w->self, BYTES(name), &slot);
        if (status == HS_FULL || status == HS_WAIT) continue;
        uint64_t head = hs_branch_head_load(&b->r->segment, slot), serial, word;
        if (!hs_branch_slot_is(&b->r->segment, slot, BYTES(name))) continue;
        uint8_t bytes[HS_RECORD_SIZE_MAX];
        hs_ring_hit hit;
        hs_record record;
        if (hs_ring_read(&b->r->segment, head, bytes, sizeof bytes, &hit) == HS_OK) {
            REQUIRE(hs_record_decode(bytes, hit.stored_size, &record) == HS_OK);
            CHECK(record.name_size == strlen(name) && memcmp(record.name, name, record.name_size) == 0);
            serial = record.serial;
        } else {
            pthread_mutex_lock(&b->lock);
            serial = b->l2[n];
            pthread_mutex_unlock(&b->lock);
        }
        status = commit(w, slot, name, serial + 1, head, &word);
        if (status == HS_OK) return serial + 1;
        CHECK(status == HS_MOVED || status == HS_WAIT);
    }
}

static void *commit_many(void *argument) {
    busy *b = argument;
    worker w;
    worker_join(b->r, &w);
    for (int i = 0; i < BUSY_COMMITS; i++) busy_commit(b, &w, i * 7 % BUSY_NAMES);
    worker_leave(&w);
    return NULL;
}

static void eviction_under_commits_loses_and_mixes_nothing(void) {
    static rig r;
    static busy b;
    rig_make(&r, 8);
    b.r = &r;
    pthread_mutex_init(&b.lock, NULL);
    pthread_t drainer, writer;
    REQUIRE(pthread_create(&drainer, NULL, drain_and_evict, &b) == 0);
    REQUIRE(pthread_create(&writer, NULL, commit_many, &b) == 0);
    commit_many(&b);
    pthread_join(writer, NULL);
    hs_store32_release(&b.stop, 1);
    pthread_join(drainer, NULL);
    uint64_t total = 0;
    for (int i = 0; i < BUSY_NAMES; i++) total += b.l2[i];
    CHECK_EQ_INT(total, 2 * BUSY_COMMITS);
    rig_break(&r);
}

static void head_move(void *context) {
    worker w;
    uint64_t word;
    worker_join(context, &w);
    uint32_t slot = slot_of(&w, "main");
    commit(&w, slot, "main", 1, hs_branch_head_load(w.ring.segment, slot), &word);
}

static void death_around_the_head_move_leaves_it_moved_or_not(void) {
    const char *labels[] = {"head_before", "head_after"};
    for (int i = 0; i < 2; i++) {
        rig r;
        hs_drain_round round;
        uint32_t slot;
        rig_make(&r, 4);
        CHECK(dies_at(labels[i], 1, head_move, &r));
        CHECK_EQ_INT(hs_branch_slot_look(&r.segment, BYTES("main"), &slot), HS_OK);
        uint64_t head = hs_branch_head_load(&r.segment, slot);
        CHECK_EQ_INT((head & HS_WORD_IN_L2) != 0, i == 0);
        drain_round(&r, &round);
        CHECK_EQ_INT(round.heads, i);
        CHECK(hs_branch_head_load(&r.segment, slot) == head);
        rig_break(&r);
    }
}

int main(void) {
    RUN(name_has_one_slot_for_everybody);
    RUN(head_moves_from_what_was_expected_only);
    RUN(waiter_sees_a_head_that_moved_before_it_slept);
    RUN(move_wakes_who_waits);
    RUN(move_of_any_head_wakes_who_watches_them_all);
    RUN(who_watches_sleeps_only_if_nothing_moved_since_it_began);
    RUN(no_move_is_lost);
    RUN(concurrent_inserts_of_one_name_meet_in_one_slot);
    RUN(more_branches_than_slots_find_room_by_eviction);
    RUN(full_window_is_reported_and_evicted);
    RUN(moved_or_awaited_head_is_not_evicted);
    RUN(nobody_inserts_while_tags_are_taken_out);
    RUN(death_while_inserting_blocks_no_eviction);
    RUN(eviction_left_half_done_is_undone_by_the_next_coordinator);
    RUN(eviction_under_commits_loses_and_mixes_nothing);
    RUN(death_around_the_head_move_leaves_it_moved_or_not);
    return hs_test_report();
}
