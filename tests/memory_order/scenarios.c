/* scenarios.c - the product's own functions, two or three processes at a time, a step or two each.
 *
 * Each scenario names the edges of docs/CONCURRENCY.md that it walks over. A thread stands for a process: it has a slot, a ring, a
 * drain of its own, and shares the memory of rig.h alone. What was there before is made by the same functions, one
 * after the other (begin). */
#include "scenarios.h"
#include "hs_branch.h"
#include "hs_checksum.h"
#include "hs_drain.h"
#include "hs_engine.h"
#include "hs_locator.h"
#include "mailbox.h"
#include "rig.h"
#include "search.h"

static uint64_t value_seen, place_seen, old_place;
static int status_of[THREADS_MAX];
static uint32_t slot_of[THREADS_MAX];
static hs_drain_round round_of;

static void forget(void) {
    value_seen = place_seen = 0;
    for (int t = 0; t < THREADS_MAX; t++) {
        status_of[t] = 1;
        slot_of[t] = UINT32_MAX;
    }
    round_of = (hs_drain_round){0};
    rig_begin();
}

/* ---- publish and drain: E1 ---- */

static void begin_with_owner(void) {
    forget();
    rig_store(0, 'o', 1);
    rig_drained();
    rig_claim(0);
}

static void publish_one(void) {
    rig_put(0, 'a', 7, NULL);
    hs_ring_flush(&rings[0]);
}

static void drain_one(void) {
    uint32_t entries = rig_collect();
    promise(entries * 64 == round_seen.bytes, "what lies below a cursor is whole for the drain");
}

/* ---- index: E6 ---- */

static void probe_and_read(void) {
    uint8_t id[32];
    uint64_t places[HS_INDEX_CANDIDATES];
    hs_index_key key = hs_index_key_make(&segment, rig_id('a', id));
    uint32_t found = hs_index_probe(&segment, &key, places);
    for (uint32_t i = 0; i < found; i++) {
        uint64_t value = 0;
        promise(rig_read(places[i], &value) == HS_OK && value == 7,
                "who finds a place finds a published entry there");
    }
}

/* ---- one id from two writers: E6 ---- */

static void put_and_find(void) {
    int me = model_thread();
    uint64_t value = 0;
    rig_put(me, 'a', 7, NULL);
    hs_ring_flush(&rings[me]);
    promise(rig_get(me, 'a', &value) == HS_OK && value == 7, "an id is found when its insert has returned");
}

/* ---- head: E3 ---- */

static void commit_one(void) {
    uint64_t place, expected = HEAD_OF_NOTHING;
    rig_put_record(0, 7, &place);
    hs_ring_flush(&rings[0]);
    hs_branch_head_compare_and_set(&segment, 0, &expected, place);
}

static void load_head_and_read(void) {
    uint64_t value = 0, word = hs_branch_head_load(&segment, 0);
    if (word == HEAD_OF_NOTHING) return;
    promise(rig_read(word, &value) == HS_OK && value == 7, "who loads a head finds its record");
}

/* ---- two writers on one head: E3 with a failed swap ---- */

static void begin_with_two_owners(void) {
    begin_with_owner();
    rig_claim(1);
}

static void commit_and_retry(void) {
    int me = model_thread();
    uint64_t place, expected = HEAD_OF_NOTHING, value = 0;
    rig_put_record(me, 10 + (uint64_t)me, &place);
    hs_ring_flush(&rings[me]);
    status_of[me] = hs_branch_head_compare_and_set(&segment, 0, &expected, place);
    if (status_of[me]) return;
    promise(expected != HEAD_OF_NOTHING, "a swap fails because the head has moved");
    promise(rig_read(expected, &value) == HS_OK && value == 11 - (uint64_t)me,
            "who loses a race can read the winner's record");
    status_of[me] = 2 * hs_branch_head_compare_and_set(&segment, 0, &expected, place);
}

static void one_first_one_second(void) {
    promise(status_of[0] + status_of[1] == 3, "of two commits one is first and one is second");
}

/* ---- a chain of two commits of two writers, collected: E3, E5 ---- */

static void commit_and_seal(void) {
    commit_one();
    hs_chunk_release(&segment, &people[0], &rings[0].writer, true);
}

static void commit_on_what_is_there(void) {
    uint64_t place, word = hs_branch_head_load(&segment, 0);
    if (word == HEAD_OF_NOTHING) return;
    rig_put_record(1, word, &place);
    hs_ring_flush(&rings[1]);
    hs_branch_head_compare_and_set(&segment, 0, &word, place);
    hs_chunk_release(&segment, &people[1], &rings[1].writer, true);
}

static void follow_the_collected_head(void) {
    static uint8_t record[HS_RECORD_SIZE_MAX];
    uint32_t slot;
    uint64_t word = 0, value = 0;
    size_t size;
    rig_collect();
    hs_drain_next_head(drain, &slot, &word, record, sizeof record, &size);
    if (word == 0) return;
    promise(rig_read(word, &value) == HS_OK, "the record of a head that was collected is published");
    if (value != 7) promise(rig_read(value, &value) == HS_OK && value == 7, "and so is the one before it");
    hs_drain_finish(drain);
}

/* ---- a node that another process published: E6 or E1 at the reader, then E3 ---- */

static void put_standing_and_commit(void) {
    bool added = true;
    uint64_t place, expected = HEAD_OF_NOTHING;
    rig_put(1, 'a', 7, &added);
    if (added) {
        hs_ring_end(&rings[1]);
        return;
    }
    rig_put_record(1, 9, &place);
    hs_ring_flush(&rings[1]);
    hs_branch_head_compare_and_set(&segment, 0, &expected, place);
}

static void read_what_the_head_needs(void) {
    uint64_t value = 0;
    if (hs_branch_head_load(&segment, 0) == HEAD_OF_NOTHING) return;
    promise(rig_get(2, 'a', &value) == HS_OK && value == 7,
            "what a commit relies on is found by who loads its head");
}

/* ---- a chunk is claimed again under a reader: E4 ---- */

static void begin_with_old_entry(void) {
    forget();
    old_place = rig_store(0, 0, 1);
    rig_seal(0);
    rig_drained();
    hs_store_relaxed(&segment.header->claim_hint, CHUNKS - 1);
}

static void claim_and_overwrite(void) {
    uint64_t place;
    rig_put_record(1, 2, &place);
    hs_ring_flush(&rings[1]);
    promise(hs_place_chunk(place) == hs_place_chunk(old_place) && place != old_place,
            "the chunk is used again");
}

static void read_old_place(void) {
    uint64_t value = 0;
    int status = rig_read(old_place, &value);
    promise(status == HS_NOT_FOUND || (status == HS_OK && value == 1), "a place means one entry for ever");
}

static void begin_with_old_name(void) {
    forget();
    rig_store(0, 'o', 1);
    rig_seal(0);
    rig_drained();
    hs_store_relaxed(&segment.header->claim_hint, CHUNKS - 1);
}

static void claim_for_another_name(void) {
    rig_put(1, 'n', 2, NULL);
    hs_ring_flush(&rings[1]);
}

static void get_old_name(void) {
    uint64_t value = 0;
    int status = rig_get(2, 'o', &value);
    promise(status == HS_NOT_FOUND || (status == HS_OK && value == 1),
            "an id leads to its own bytes or to none");
}

/* ---- a writer that was wrongly taken for dead goes on: the sum ---- */

static void begin_with_reaped(void) {
    forget();
    rig_claim(0);
    rig_put_record(0, 1, &old_place);
    hs_store_relaxed(&segment.chunks[0].word, hs_chunk_word_make(1, HS_CHUNK_FREE, 0, 0));
    hs_store_relaxed(&segment.header->claim_hint, CHUNKS - 1);
}

static void go_on_after_reaping(void) {
    rings[0].writer.end = rings[0].writer.published;
    uint64_t place;
    rig_put_record(0, 3, &place);
    promise(hs_ring_flush(&rings[0]) == HS_REAPED, "a writer that was taken for dead finds out");
}

static void write_and_read_own(void) {
    uint64_t place, value = 0;
    rig_put_record(1, 2, &place);
    promise(hs_ring_flush(&rings[1]) == HS_OK, "the new owner publishes");
    int status = rig_read(place, &value);
    promise(status == HS_CORRUPT || (status == HS_OK && value == 2),
            "stray bytes are never returned as a value");
}

/* ---- given up by one writer, taken over by another: E2 ---- */

static void begin_with_one_idle(void) {
    begin_with_owner();
    for (uint32_t chunk = 1; chunk < CHUNKS; chunk++)
        hs_store_relaxed(&segment.chunks[chunk].word, hs_chunk_word_make(1, HS_CHUNK_BUSY, 2, 0));
}

static void put_and_give_up(void) {
    rig_put(0, 'a', 7, NULL);
    hs_ring_end(&rings[0]);
}

static void take_over(void) { status_of[1] = rig_put(1, 'n', 2, NULL); }

/* ---- freed by the drain, claimed by a writer: E2 ---- */

static void begin_with_sealed(void) {
    forget();
    rig_store(0, 'o', 1);
    rig_seal(0);
    for (uint32_t chunk = 1; chunk < CHUNKS; chunk++)
        hs_store_relaxed(&segment.chunks[chunk].word, hs_chunk_word_make(1, HS_CHUNK_BUSY, 2, 0));
    rig_locator();
}

static void drain_to_locator(void) {
    uint32_t entries = rig_collect();
    promise(entries == 1, "the drain finds the entry");
    rig_locate(5, 'o');
    hs_drain_finish(drain);
}

static void claim_and_look_in_l2(void) {
    bool added;
    if (rig_put(1, 'n', 2, &added) != HS_OK) return;
    promise(rig_is_located(5, 'o'), "a chunk is overwritten only when all of it is in L2 and the locator");
}

static void begin_with_one_free(void) {
    begin_with_sealed();
    rig_drained();
}

static void claim_the_free_one(void) {
    int me = model_thread();
    status_of[me] = hs_chunk_claim(&segment, &people[me], &rings[me].writer, 4);
}

static void one_of_them_owns_it(void) {
    promise(status_of[0] + status_of[1] == HS_OK + HS_WAIT &&
                rings[0].writer.owned + rings[1].writer.owned == 1,
            "of two who claim a chunk one owns it");
}

/* ---- sealed, then drained: E5 ---- */

static void drain_round(void) {
    rig_collect();
    hs_drain_finish(drain);
}

static void freed_only_with_its_head(void) {
    uint64_t word = model_last((uintptr_t)&segment.chunks[0].word, 8);
    promise(hs_chunk_word_decode(word).state != HS_CHUNK_FREE || round_seen.heads == 1,
            "a chunk is freed only with the heads that name records in it");
}

/* ---- dead, reaped and freed: E23 ---- */

static void begin_with_mortal(void) {
    begin_with_owner();
    runtime_mortal = 1;
}

static void commit_and_die(void) {
    commit_one();
    runtime_die(0);
}

/* ---- the bell: E7, E12 ---- */

static void commit_and_ring(void) {
    uint64_t expected = HEAD_OF_NOTHING;
    uint32_t slot = model_thread() == 0 ? 0 : 1;
    hs_branch_head_compare_and_set(&segment, slot, &expected, hs_place_make(1, 0, slot));
    hs_ring_bell(&segment);
}

static void publish_and_ring(void) {
    publish_one();
    hs_ring_bell(&segment);
}

static void hurry(void) { hs_ring_hurry(&segment); }

static void gather_once(void) { hs_drain_sleep(drain, 50, 1); }

static void sleep_once(void) { hs_drain_sleep(drain, 50, 0); }

static void nobody_sleeps(void) {
    promise(!sleeps(0) && !sleeps(1) && !sleeps(2), "who waits is woken or sees what it waits for");
}

static void sleep_twice(void) {
    hs_drain_sleep(drain, 50, 0);
    hs_drain_collect(drain, &round_of);
    hs_drain_finish(drain);
    if (round_of.heads == 2) return;
    hs_drain_sleep(drain, 50, 0);
}

/* ---- done: E8, E13 ---- */

static void finish_round(void) { hs_drain_finish(drain); }

static void begin_collected(void) {
    forget();
    hs_drain_collect(drain, &round_of);
}

static void wait_for_round(void) {
    uint32_t seen = hs_ring_done_bell(&segment);
    if (hs_load_acquire(&segment.header->rounds_done) == round_of.round) return;
    hs_ring_wait_done(&segment, seen, 50);
}

/* ---- a tag enters, a tag leaves: E9, E19 and E3 ---- */

static void begin_with_window(void) {
    forget();
    uint32_t home = rig_names();
    for (uint32_t i = 0; i + 1 < HS_BRANCH_WINDOW; i++)
        hs_store_relaxed(&segment.branch_tags[(home + i) % HS_BRANCH_SLOTS], i == 0 ? rig_tag(1) : 1000 + i);
    for (uint32_t i = 1; i + 1 < HS_BRANCH_WINDOW; i++)
        hs_store32_relaxed(&segment.branches[(home + i) % HS_BRANCH_SLOTS].waiters, 1);
    hs_store32_relaxed(&segment.header->evict_wanted, 1 + home);
}

static void insert_tag(void) {
    int me = model_thread();
    status_of[me] = rig_slot_find(me, 0, &slot_of[me]);
}

static void evict_tag(void) { hs_drain_evict(drain); }

static void a_tag_stands_once(void) {
    int stands = 0;
    for (uint32_t slot = 0; slot < HS_BRANCH_SLOTS; slot++)
        stands += model_last((uintptr_t)&segment.branch_tags[slot], 8) == rig_tag(0);
    promise(stands <= 1, "a tag stands once");
}

static void look_at_head(void) {
    uint64_t word = hs_branch_head_load(&segment, rig_home());
    if (word != HEAD_OF_NOTHING)
        promise(!rig_slot_is(rig_home(), 1), "who loads the word of an evicted slot finds the tag gone");
}

static void commit_while_evicted(void) {
    uint64_t word = hs_branch_head_load(&segment, rig_home());
    if (!rig_slot_is(rig_home(), 1)) return;
    status_of[1] = hs_branch_head_compare_and_set(&segment, rig_home(), &word, hs_place_make(1, 0, 0));
}

static void a_moved_head_keeps_its_tag(void) {
    if (status_of[1] != true) return;
    uint64_t tag = model_last((uintptr_t)&segment.branch_tags[rig_home()], 8);
    promise(tag == rig_tag(1), "a commit on a branch that was to be evicted keeps it in its slot");
}

static void begin_without_commit(void) {
    begin_with_window();
    status_of[1] = false;
}

/* Rule 12: find the slot, load the head, ask whether the slot is still mine, swap. */
static void commit_by_name(void) {
    int me = model_thread();
    status_of[me] = false;
    if (rig_slot_find(me, me, &slot_of[me]) != HS_OK) return;
    uint64_t word = hs_branch_head_load(&segment, slot_of[me]);
    if (!rig_slot_is(slot_of[me], me)) return;
    status_of[me] =
        hs_branch_head_compare_and_set(&segment, slot_of[me], &word, hs_place_make(1, 0, (uint32_t)me));
}

static void commits_stand_on_their_branches(void) {
    for (int me = 0; me < 2; me++) {
        if (status_of[me] != true) continue;
        uint64_t tag = model_last((uintptr_t)&segment.branch_tags[slot_of[me]], 8);
        uint64_t head = model_last((uintptr_t)&segment.branches[slot_of[me]].head, 8);
        promise(tag == rig_tag(me) && head == hs_place_make(1, 0, (uint32_t)me),
                "a commit stands on the branch that it was made for");
    }
}

/* The last coordinator died while it took a tag out; the next puts it back. */
static void begin_with_half_eviction(void) {
    begin_with_window();
    uint32_t home = rig_home();
    hs_store_relaxed(&segment.branch_tags[home], 0);
    hs_store_relaxed(&segment.branches[(home + HS_BRANCH_WINDOW - 1) % HS_BRANCH_SLOTS].evicted_tag,
                     rig_tag(0));
    hs_store32_relaxed(&segment.header->evicting, 1);
}

static void take_over_coordination(void) { hs_drain_open(&segment, 100, &drain); }

/* ---- who waits for a head: E10 ---- */

static void move_head(void) {
    uint64_t expected = HEAD_OF_NOTHING;
    hs_branch_head_compare_and_set(&segment, 0, &expected, hs_place_make(1, 0, 4));
}

static void wait_for_head(void) { hs_branch_head_wait(&segment, 0, HEAD_OF_NOTHING, 50); }

/* ---- who watches all heads: E24, E25 ---- */

static void move_own_head(void) {
    uint64_t expected = HEAD_OF_NOTHING;
    uint32_t slot = (uint32_t)model_thread();
    hs_branch_head_compare_and_set(&segment, slot, &expected, hs_place_make(1, 0, slot));
}

/* Until `wanted` of the first two heads have moved. */
static void watch_heads(uint32_t wanted, uint32_t times) {
    for (uint32_t i = 0; i < times; i++) {
        uint32_t seen = hs_branch_watch_begin(&segment), moved = 0;
        for (uint32_t slot = 0; slot < 2; slot++)
            moved += hs_branch_head_load(&segment, slot) != HEAD_OF_NOTHING;
        if (moved >= wanted) return;
        hs_branch_watch_sleep(&segment, seen, 50);
    }
}

static void watch_one(void) { watch_heads(1, 1); }

static void watch_two(void) { watch_heads(2, 2); }

/* ---- the locator: E11, E15 ---- */

static void begin_with_locator(void) {
    forget();
    rig_locator();
}

static void enter_and_mark(void) { rig_locate(5, 'a'); }

static void mark_then_row(void) {
    hs_locator_info info;
    hs_locator_info_get(locator, &info);
    if (info.mark >= 5) promise(rig_is_located(5, 'a'), "a pack at or below the mark is in the table");
}

static void begin_with_other_boot(void) {
    begin_with_locator();
    rig_mark(9, 1);
}

static void mark_in_new_boot(void) { rig_mark(5, 2); }

static void believe_the_mark_of_this_boot(void) {
    hs_locator_info info;
    hs_locator_info_get(locator, &info);
    if (rig_is_boot(&info, 2)) promise(info.mark == 5, "a mark is believed only in the boot that set it");
}

/* ---- persisted, then dropped from the index: E14 ---- */

static void begin_with_full_bucket(void) {
    forget();
    for (char name = 'a'; name < 'a' + (char)HS_INDEX_WAYS; name++) rig_store(0, name, 1);
    rig_claim(1);
    rig_put(1, 'n', 2, NULL);
    hs_chunk_publish(&segment, &people[1], &rings[1].writer);
    rig_locator();
    rig_collect();
}

static void persist(void) {
    rig_locate(5, 'a');
    hs_drain_finish(drain);
}

static void index_when_persisted(void) { status_of[1] = hs_ring_flush(&rings[1]); }

static void find_somewhere(void) {
    uint64_t value = 0;
    int status = rig_get(2, 'a', &value);
    promise(status == HS_OK || rig_is_located(5, 'a'), "what the index gave up is in the locator");
}

/* ---- durable: E20, E21, E22 ---- */

static hs_engine engine;
static uint64_t round_wanted;

static void begin_with_engine(void) {
    begin_with_locator();
    rig_claim(0);
    engine.segment = segment;
}

static void publish_and_wait_until_durable(void) {
    publish_one();
    round_wanted = hs_round_target(&engine);
    if (hs_round_wait(&engine, round_wanted, 50) != HS_OK) return;
    promise(rig_is_located(5, 'a'),
            "what was published before a round began is in L2 when that round is done");
}

static void who_asks_is_not_forgotten(void) {
    uint64_t begun = model_last((uintptr_t)&segment.header->rounds_started, 8);
    bool asked = model_last((uintptr_t)&segment.header->urgent, 4) != 0;
    promise(round_wanted <= begun || asked, "who asks for the next round is not erased by this one");
}

static void round_into_l2(void) {
    if (rig_collect() != 0) rig_locate(5, 'a');
    hs_drain_finish(drain);
}

/* ---- participants: E16, E17, E18 ---- */

static void begin_with_dead(void) {
    forget();
    runtime_living = ~1u;
    people[1] = people[0];
    hs_store32_relaxed(&people[0].slot->inserting, 1);
    rig_claim(2);
    hs_drain_collect(drain, &round_of);
}

static void join_and_insert(void) {
    status_of[1] = hs_participant_join(&segment, "participants", &people[1]);
    if (status_of[1] == HS_OK) hs_store32_relaxed(&people[1].slot->inserting, 1);
}

static void a_new_owner_has_the_last_word(void) {
    if (status_of[1] != HS_OK) return;
    promise(model_last((uintptr_t)&segment.participants[0].inserting, 4) == 1,
            "what a slot's last owner wrote is behind what the next one writes");
    promise(model_last((uintptr_t)&segment.participants[0].state, 4) == 1, "a slot that was joined is taken");
}

static void begin_with_free_slot(void) {
    forget();
    runtime_living = ~1u;
    hs_store32_relaxed(&people[0].slot->state, 0);
}

static void join_and_publish(void) {
    status_of[0] = hs_participant_join(&segment, "participants", &people[0]);
    promise(status_of[0] == HS_OK, "a free slot is found");
    uint64_t place;
    rig_put_record(0, 7, &place);
    promise(hs_ring_flush(&rings[0]) == HS_OK, "who has joined is not taken for dead");
}

static void collect_once(void) { hs_drain_collect(drain, &round_of); }

/* ---- commits and leases beside a deletion: E26, E27, E28, E29 ---- */

static hs_leases *leases;
static bool is_deleted, was_leased;

static void begin_with_leases(void) {
    begin_with_engine();
    leases = rig_leases();
    engine.self = people[0];
    engine.leases = leases;
    is_deleted = was_leased = false;
}

static enum hs_lease_result hold(char name) {
    uint8_t id[32];
    return hs_lease_add(leases, rig_id(name, id), 1);
}

static void stop_and_delete(void) {
    uint64_t pid;
    is_deleted = hs_drain_stop(drain, 0, &pid) == HS_OK;
    if (!is_deleted) return;
    was_leased = rig_is_leased('a');
    hs_drain_go(drain, 1);
}

/* Nothing was deleted when it began, and its result is held when it ends. */
static void commit_and_hold(void) {
    if (hs_engine_enter(&engine) != 0) return;
    status_of[0] = HS_OK;
    hold('a');
    hs_engine_leave(&engine);
}

static void what_was_made_before_is_held(void) {
    if (status_of[0] == HS_OK && is_deleted)
        promise(was_leased, "a deletion comes before a commit, or after it, and sees its result held");
}

static void hold_and_look(void) { status_of[0] = hold('a'); }

static void what_is_trusted_was_seen(void) {
    if (status_of[0] == HS_LEASE_TRUSTED && is_deleted)
        promise(was_leased, "what is held is seen by a deletion, or not trusted");
}

static void commit_after_a_deletion(void) {
    if (hs_engine_enter(&engine) != 2) return;
    promise(hs_load_relaxed(&segment.chunks[rings[0].writer.chunk].stale) != 0,
            "who begins after a deletion relies on nothing from before it");
}

/* ---- All of them ---- */

static void nothing(void) {}

/* Name, edges, processes; what was there before, what is judged when all have ended; whose bytes may race, a bit each. */
/* clang-format off */
const scenario scenarios[] = {
    {"publish and drain", "E1", 2, {publish_one, drain_one},
     begin_with_owner, nothing, 0},
    {"publish and find", "E6", 2, {publish_one, probe_and_read},
     begin_with_owner, nothing, 0},
    {"indexed twice", "E6", 2, {put_and_find, put_and_find},
     begin_with_two_owners, nothing, 0},
    {"head and record", "E3", 2, {commit_one, load_head_and_read},
     begin_with_owner, nothing, 0},
    {"two on one head", "E3", 2, {commit_and_retry, commit_and_retry},
     begin_with_two_owners, one_first_one_second, 0},
    {"a chain of two", "E3 E5", 3, {commit_and_seal, commit_on_what_is_there, follow_the_collected_head},
     begin_with_two_owners, nothing, 0},
    {"relied upon", "E1 E3 E6", 3, {publish_one, put_standing_and_commit, read_what_the_head_needs},
     begin_with_two_owners, nothing, 0},
    {"claimed under a reader", "E4", 2, {claim_and_overwrite, read_old_place},
     begin_with_old_entry, nothing, 1 << 1},
    {"claimed under a finder", "E4 E6", 2, {claim_for_another_name, get_old_name},
     begin_with_old_name, nothing, 1 << 1},
    {"wrongly reaped", "", 2, {go_on_after_reaping, write_and_read_own},
     begin_with_reaped, nothing, 1 << 0},
    {"given up and taken over", "E2", 2, {put_and_give_up, take_over},
     begin_with_one_idle, nothing, 0},
    {"freed and claimed", "E2", 2, {drain_to_locator, claim_and_look_in_l2},
     begin_with_sealed, nothing, 0},
    {"claimed by two", "E2", 2, {claim_the_free_one, claim_the_free_one},
     begin_with_one_free, one_of_them_owns_it, 0},
    {"sealed and freed", "E5", 2, {commit_and_seal, drain_round},
     begin_with_owner, freed_only_with_its_head, 0},
    {"dead and freed", "E23", 2, {commit_and_die, drain_round},
     begin_with_mortal, freed_only_with_its_head, 0},
    {"published and asleep", "E7", 2, {publish_and_ring, sleep_once},
     begin_with_owner, nobody_sleeps, 0},
    {"hurried", "E12", 2, {hurry, gather_once},
     forget, nobody_sleeps, 0},
    {"rung late", "E7 E12", 3, {commit_and_ring, commit_and_ring, sleep_twice},
     forget, nobody_sleeps, 0},
    {"done and waited for", "E8 E13", 2, {finish_round, wait_for_round},
     begin_collected, nobody_sleeps, 0},
    {"inserted and evicted", "E9 E19", 3, {insert_tag, insert_tag, evict_tag},
     begin_with_window, a_tag_stands_once, 0},
    {"evicted and loaded", "E3", 2, {evict_tag, look_at_head},
     begin_with_window, nothing, 0},
    {"evicted and moved", "E3", 2, {evict_tag, commit_while_evicted},
     begin_without_commit, a_moved_head_keeps_its_tag, 0},
    {"evicted and taken", "E3 E9 E19", 3, {commit_by_name, commit_by_name, evict_tag},
     begin_with_window, commits_stand_on_their_branches, 0},
    {"put back", "E19", 2, {insert_tag, take_over_coordination},
     begin_with_half_eviction, a_tag_stands_once, 0},
    {"moved and waited for", "E10", 2, {move_head, wait_for_head},
     forget, nobody_sleeps, 0},
    {"moved and watched", "E24", 2, {move_own_head, watch_one},
     forget, nobody_sleeps, 0},
    {"woken late", "E24 E25", 3, {move_own_head, move_own_head, watch_two},
     forget, nobody_sleeps, 0},
    {"entered and marked", "E11", 2, {enter_and_mark, mark_then_row},
     begin_with_locator, nothing, 0},
    {"marked in another boot", "E15", 2, {mark_in_new_boot, believe_the_mark_of_this_boot},
     begin_with_other_boot, nothing, 0},
    {"persisted and replaced", "E11 E14", 3, {persist, index_when_persisted, find_somewhere},
     begin_with_full_bucket, nothing, 0},
    {"published and durable", "E20 E21 E22", 2, {publish_and_wait_until_durable, round_into_l2},
     begin_with_engine, who_asks_is_not_forgotten, 0},
    {"freed and joined", "E16", 2, {finish_round, join_and_insert},
     begin_with_dead, a_new_owner_has_the_last_word, 0},
    {"committed and deleted", "E26 E28", 2, {commit_and_hold, stop_and_delete},
     begin_with_leases, what_was_made_before_is_held, 0},
    {"held and deleted", "E27", 2, {hold_and_look, stop_and_delete},
     begin_with_leases, what_is_trusted_was_seen, 0},
    {"deleted and begun", "E29", 2, {commit_after_a_deletion, stop_and_delete},
     begin_with_leases, nothing, 0},
    {"joined and collected", "E17 E18", 2, {join_and_publish, collect_once},
     begin_with_free_slot, nothing, 0},
    {"asked and taken", "E40", 2, {mailbox_ask, mailbox_take_and_read},
     mailbox_begin, nothing, 0},
    {"asked and asleep", "E41", 2, {mailbox_ask, mailbox_gather_one},
     mailbox_begin, nobody_sleeps, 0},
    {"answered and waiting", "E42", 2, {mailbox_collect, mailbox_answer},
     mailbox_begin_taken, nobody_sleeps, 0},
    {"all wait", "E43", 3, {mailbox_collect, mailbox_collect, mailbox_gather_all},
     mailbox_begin_asked, mailbox_all_are_taken, 0},
    {"withdrawn and asked", "E44", 2, {mailbox_read_and_answer, mailbox_ask},
     mailbox_begin_withdrawn, nothing, 0},
    {"answered and read", "E45", 2, {mailbox_answer, mailbox_read},
     mailbox_begin_taken, nothing, 0},
    {"counted and asleep", "E46", 2, {mailbox_ask_two_more, mailbox_gather_all},
     mailbox_begin_with_one, mailbox_all_are_taken, 0},
    {"closed and asleep", "E47", 3, {mailbox_collect, mailbox_close, mailbox_gather_one},
     mailbox_begin, nobody_sleeps, 0},
    {"changed and overwritten", "E30", 2, {search_die, search_change},
     search_begin, nothing, 0},
    {"overwritten and repaired", "E31", 2, {search_look, search_change},
     search_begin_changed, nothing, 0},
    {"inserted and found", "E32", 2, {search_insert, search_find},
     search_begin, nothing, 0},
    {"linked and read", "E33 E34", 2, {search_link, search_read},
     search_begin_out, nothing, 0},
    {"inserted and gone through", "E35", 2, {search_insert, search_iterate},
     search_begin, nothing, 0},
};
/* clang-format on */
const size_t scenario_count = sizeof scenarios / sizeof *scenarios;
