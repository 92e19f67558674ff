/* test_drain.c - the coordinator's side: all that was published arrives once it says so, in order, whoever dies. */
#define _GNU_SOURCE
#include <sched.h>
#include "hs_rig.h"

enum { PACK_CAPACITY = 2 << 20, BLOCK_CAPACITY = 4 << 20 };

/* Find a thing in a pack; NULL if it is not there with its bytes. */
static const uint8_t *pack_find(const uint8_t *pack, const thing *t) {
    for (uint32_t i = 0; i < hs_pack_count(pack); i++) {
        hs_pack_row row = hs_pack_row_get(pack, i);
        if (memcmp(row.id, t->id, 32) == 0 && row.stored_size == t->size &&
            memcmp(pack + row.offset, t->bytes, t->size) == 0)
            return pack + row.offset;
    }
    return NULL;
}

static void pack_holds_what_was_published_and_no_records(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    static uint8_t buffer[PACK_CAPACITY];
    uint8_t *pack = NULL;
    uint64_t place, word;
    bool added;
    thing things[3] = {thing_make(1, 600), thing_make(2, 0), thing_make(3, 77)}, late = thing_make(4, 50);
    for (int i = 0; i < 3; i++) CHECK_EQ_INT(put(&w, &things[i], &place, &added), HS_OK);
    hs_ring_item blob = {.kind = HS_ENTRY_BLOB, .id = late.id, .raw_size = UINT64_C(1) << 33};
    CHECK_EQ_INT(hs_ring_put(&w.ring, &blob, &place, &added), HS_OK);
    uint32_t slot = slot_of(&w, "main");
    CHECK_EQ_INT(commit(&w, slot, "main", 1, hs_branch_head_load(&r.segment, slot), &word), HS_OK);
    CHECK_EQ_INT(put(&w, &late, &place, &added), HS_OK); /* appended, not published */

    hs_drain_round round;
    size_t size;
    uint32_t count;
    CHECK_EQ_INT(hs_drain_pack(r.drain, buffer, sizeof buffer, &pack, &size, &count),
                 HS_ARGUMENT); /* nothing collected */
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    CHECK(round.round == 1 && round.heads == 1 && round.chunks_busy == 1 && round.chunks_free == 3 &&
          round.bytes > 0);
    CHECK_EQ_INT(hs_drain_pack(r.drain, buffer, HS_CHUNK_SIZE, &pack, &size, &count),
                 HS_ARGUMENT); /* too small a buffer */
    CHECK_EQ_INT(hs_drain_pack(r.drain, buffer, sizeof buffer, &pack, &size, &count), HS_OK);
    CHECK_EQ_INT(count, 4);
    CHECK_EQ_INT(hs_pack_validate(pack, size), HS_OK);
    for (int i = 0; i < 3; i++) CHECK(pack_find(pack, &things[i]) != NULL);
    hs_pack_row row = hs_pack_row_get(pack, 3);
    CHECK(row.kind == HS_ENTRY_BLOB && row.stored_size == 0 && row.raw_size == UINT64_C(1) << 33);
    CHECK_EQ_INT(hs_drain_pack(r.drain, buffer, sizeof buffer, &pack, &size, &count), HS_OK);
    CHECK(size == 0 && count == 0);
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_ARGUMENT);
    CHECK_EQ_INT(hs_load_acquire(&r.segment.header->rounds_done), 1);
    CHECK(hs_chunk_is_persisted(&r.segment, hs_place_chunk(word), hs_place_generation(word),
                                hs_place_offset(word)));
    CHECK_EQ_INT(hs_drain_has_work(r.drain, 1), 0);
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK);
    CHECK_EQ_INT(hs_drain_has_work(r.drain, 0), 1);
    hs_ring_end(&w.ring);
    CHECK_EQ_INT(drain_round(&r, &round), 1); /* the value, beside the blob's name of the same id */
    worker_leave(&w);
    rig_break(&r);
}

static void packs_stay_within_their_capacity(void) {
    rig r;
    worker w;
    rig_make(&r, 8);
    worker_join(&r, &w);
    enum { COUNT = 3000 };
    for (uint64_t n = 0; n < COUNT; n++) {
        thing t = thing_make(n, 1500);
        uint64_t place;
        bool added;
        CHECK_EQ_INT(put(&w, &t, &place, &added), HS_OK);
    }
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK);
    static uint8_t buffer[PACK_CAPACITY];
    uint8_t *pack = NULL;
    hs_drain_round round;
    size_t size = 1;
    uint32_t count, packs = 0;
    uint64_t next = 0;
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    for (;;) {
        CHECK_EQ_INT(hs_drain_pack(r.drain, buffer, sizeof buffer, &pack, &size, &count), HS_OK);
        if (size == 0) break;
        CHECK(pack >= buffer && pack + size <= buffer + sizeof buffer);
        CHECK_EQ_INT(hs_pack_validate(pack, size), HS_OK);
        packs++;
        for (uint32_t i = 0; i < count; i++, next++) {
            thing t = thing_make(next, 1500);
            CHECK_EQ_MEM(hs_pack_row_get(pack, i).id, t.id, 32);
        }
    }
    CHECK_EQ_INT(next, COUNT);
    CHECK_EQ_INT(packs, 3);
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);
    hs_drain_collect(r.drain, &round);
    CHECK_EQ_INT(round.entries, 0);
    hs_drain_finish(r.drain);
    worker_leave(&w);
    rig_break(&r);
}

/* More rows than the guess leaves room for: the pack ends early, and the next one is laid out by what entries are like. */
static void packs_of_many_small_entries_hold_them_all(void) {
    rig r;
    worker w;
    rig_make(&r, 16);
    worker_join(&r, &w);
    enum { COUNT = 20000 };
    for (uint64_t n = 0; n < COUNT; n++) {
        thing t = thing_make(n, 8);
        uint64_t place;
        bool added;
        CHECK_EQ_INT(put(&w, &t, &place, &added), HS_OK);
    }
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK);
    static uint8_t buffer[PACK_CAPACITY];
    uint8_t *pack;
    hs_drain_round round;
    size_t size;
    uint32_t count, first = 0, packs = 0;
    uint64_t next = 0;
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    while (hs_drain_pack(r.drain, buffer, sizeof buffer, &pack, &size, &count) == HS_OK && size > 0) {
        CHECK_EQ_INT(hs_pack_validate(pack, size), HS_OK);
        if (packs++ == 0) first = count;
        for (uint32_t i = 0; i < count; i++, next++) {
            thing t = thing_make(next, 8);
            CHECK_EQ_MEM(hs_pack_row_get(pack, i).id, t.id, 32);
        }
    }
    CHECK_EQ_INT(next, COUNT);
    CHECK_EQ_INT(packs, 2);
    CHECK(first < COUNT / 2);
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);
    worker_leave(&w);
    rig_break(&r);
}

static void damaged_entry_is_passed_over_alone(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint64_t places[5];
    for (uint64_t n = 0; n < 5; n++) {
        thing t = thing_make(n, 200);
        places[n] = store(&w, &t);
    }
    hs_chunk_address(&r.segment, 0, hs_place_offset(places[2]))[100] ^= 1;
    hs_drain_round round;
    CHECK_EQ_INT(drain_round(&r, &round), 4);
    hs_drain_collect(r.drain, &round);
    CHECK_EQ_INT(round.damaged, 1);
    hs_drain_finish(r.drain);
    worker_leave(&w);
    rig_break(&r);
}

static void impossible_size_ends_its_range_and_no_other(void) {
    const uint32_t sizes[] = {UINT32_MAX, HS_ENTRY_PAYLOAD_MAX + 1, HS_ENTRY_PAYLOAD_MAX, 100000};
    for (int i = 0; i < 4; i++) {
        rig r;
        worker a, b;
        rig_make(&r, 4);
        worker_join(&r, &a);
        worker_join(&r, &b);
        uint64_t second = 0;
        for (uint64_t n = 0; n < 5; n++) {
            thing t = thing_make(n, 200), u = thing_make(100 + n, 200);
            uint64_t place = store(&a, &t);
            if (n == 1) second = place;
            store(&b, &u);
        }
        CHECK_EQ_INT(hs_place_chunk(second), 0);
        hs_entry header;
        uint8_t *entry = hs_chunk_address(&r.segment, 0, hs_place_offset(second));
        memcpy(&header, entry, sizeof header);
        header.stored_size = sizes[i];
        header.raw_size = sizes[i];
        memcpy(entry, &header, sizeof header);
        hs_drain_round round;
        uint32_t rows = drain_round(&r, &round);
        CHECK_EQ_INT(rows, 1 + 5); /* the first of a's, all of b's */
        CHECK_EQ_INT(hs_drain_has_work(r.drain, 0), 0);
        thing next = thing_make(7, 200); /* what is appended after the damage is read again */
        store(&a, &next);
        CHECK_EQ_INT(drain_round(&r, &round), 1);
        CHECK_EQ_INT(round.damaged, 1);
        worker_leave(&a);
        worker_leave(&b);
        rig_break(&r);
    }
}

static void garbage_in_a_range_never_stops_the_walk(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint32_t state = 12345;
    for (int lap = 0; lap < 40; lap++) {
        thing t = thing_make((uint64_t)lap, 2000);
        uint64_t place = store(&w, &t);
        uint8_t *entry = hs_chunk_address(&r.segment, hs_place_chunk(place), hs_place_offset(place));
        for (int i = 0; i < 1900; i++) {
            state = state * 1664525u + 1013904223u;
            entry[i] = (uint8_t)(lap % 2 ? state >> 24 : (state >> 24 & 3) == 0);
        }
        hs_drain_round round;
        drain_round(&r, &round);
        CHECK_EQ_INT(hs_drain_has_work(r.drain, 0), 0);
    }
    worker_leave(&w);
    rig_break(&r);
}

/* ---- Chains ---- */

/* Commit serials first .. last on a branch. The head word before goes in, the new one comes out. */
static uint64_t commit_run(worker *w, uint32_t slot, const char *name, uint64_t first, uint64_t last,
                           uint64_t word) {
    for (uint64_t serial = first; serial <= last; serial++) {
        int status;
        while ((status = commit(w, slot, name, serial, word, &word)) == HS_WAIT) hs_ring_wait(&w->ring, 50);
        CHECK_EQ_INT(status, HS_OK);
    }
    return word;
}

/* Take the whole chain of a slot, in blocks of `capacity` bytes; the last serial. */
static uint64_t chain_take(rig *r, uint32_t slot, uint64_t l2_serial, size_t capacity, const char *name) {
    uint8_t *block = malloc(capacity);
    REQUIRE(block != NULL);
    for (;;) {
        size_t size;
        uint32_t count;
        int status = hs_drain_chain(r->drain, slot, l2_serial, block, capacity, &size, &count);
        CHECK_EQ_INT(status, HS_OK);
        if (status != HS_OK || count == 0) break;
        CHECK(size <= capacity);
        CHECK_EQ_INT(hs_log_validate(block, size), HS_OK);
        CHECK_EQ_INT(hs_load_u32(block + 4), count);
        CHECK_EQ_INT(hs_load_u64(block + 8), l2_serial + 1);
        uint32_t start = hs_load_u32(block + 16), end = hs_load_u32(block + 20);
        hs_record record;
        CHECK_EQ_INT(hs_record_decode(block + start, end - start, &record), HS_OK);
        CHECK(record.name_size == strlen(name) && memcmp(record.name, name, record.name_size) == 0);
        l2_serial += count;
    }
    free(block);
    return l2_serial;
}

static int next_head(rig *r, uint32_t *slot, uint64_t *word, hs_record *record) {
    static uint8_t bytes[HS_RECORD_SIZE_MAX];
    size_t size;
    int status = hs_drain_next_head(r->drain, slot, word, bytes, sizeof bytes, &size);
    if (status == HS_OK) CHECK_EQ_INT(hs_record_decode(bytes, size, record), HS_OK);
    return status;
}

static void chain_is_followed_across_chunks(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint32_t slot = slot_of(&w, "main"), found;
    uint64_t first = hs_branch_head_load(&r.segment, slot), head;
    uint64_t last =
        commit_run(&w, slot, "main", 1, 9000, first); /* 9000 records of 256 bytes: three chunks */
    CHECK(hs_place_chunk(last) >= 2);
    hs_drain_round round;
    hs_record record;
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    CHECK_EQ_INT(next_head(&r, &found, &head, &record), HS_OK);
    CHECK(found == slot && head == last && record.serial == 9000);
    CHECK_EQ_INT(next_head(&r, &found, &head, &record), HS_NOT_FOUND);
    CHECK_EQ_INT(chain_take(&r, slot, 0, BLOCK_CAPACITY, "main"), 9000);
    CHECK_EQ_INT(chain_take(&r, slot, 0, 10000, "main"), 9000);
    CHECK_EQ_INT(chain_take(&r, slot, 8990, 10000, "main"), 9000);
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);

    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK); /* nothing moved since */
    CHECK_EQ_INT(round.heads, 0);
    CHECK_EQ_INT(next_head(&r, &found, &head, &record), HS_NOT_FOUND);
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);
    commit_run(&w, slot, "main", 9001, 9003, last);
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    CHECK_EQ_INT(round.heads, 1);
    CHECK_EQ_INT(chain_take(&r, slot, 9000, 10000, "main"), 9003);
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);
    worker_leave(&w);
    rig_break(&r);
}

static void chain_ends_at_what_l2_has_after_a_restart(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint32_t slot = slot_of(&w, "main"), found;
    uint64_t word = commit_run(&w, slot, "main", 1, 5, hs_branch_head_load(&r.segment, slot)), head;
    hs_drain_round round;
    hs_record record;
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    CHECK_EQ_INT(chain_take(&r, slot, 0, 10000, "main"), 5);
    hs_drain_close(r.drain); /* dies after the transaction, before the marks */
    REQUIRE(hs_drain_open(&r.segment, r.probe_fd, &r.drain) == HS_OK);
    CHECK_EQ_INT(hs_drain_has_work(r.drain, 0), 1);
    word = commit_run(&w, slot, "main", 6, 7, word);
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    CHECK_EQ_INT(round.round, 2);
    CHECK_EQ_INT(next_head(&r, &found, &head, &record), HS_OK);
    CHECK(record.serial == 7 && head == word);
    CHECK_EQ_INT(chain_take(&r, slot, 5, 10000, "main"),
                 7); /* by L2's serial, not by what shared memory remembers */
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);
    CHECK_EQ_INT(hs_load_acquire(&r.segment.header->rounds_done), 2);
    hs_drain_close(r.drain); /* and once more with everything done */
    REQUIRE(hs_drain_open(&r.segment, r.probe_fd, &r.drain) == HS_OK);
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    CHECK_EQ_INT(next_head(&r, &found, &head, &record), HS_OK);
    CHECK_EQ_INT(chain_take(&r, slot, 7, 10000, "main"), 7);
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);
    worker_leave(&w);
    rig_break(&r);
}

static void chain_that_does_not_lead_to_l2_is_corrupt(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint32_t slot = slot_of(&w, "main"), count;
    uint64_t word =
        commit_run(&w, slot, "main", 5, 7, hs_branch_head_load(&r.segment, slot)); /* begins at 5 */
    uint8_t block[4096];
    size_t size;
    hs_drain_round round;
    CHECK_EQ_INT(hs_drain_chain(r.drain, slot, 4, block, sizeof block, &size, &count),
                 HS_ARGUMENT); /* nothing collected */
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    CHECK_EQ_INT(hs_drain_chain(r.drain, slot, 4, block, sizeof block, &size, &count), HS_OK);
    CHECK_EQ_INT(count, 3);
    CHECK_EQ_INT(hs_drain_chain(r.drain, slot, 3, block, sizeof block, &size, &count),
                 HS_CORRUPT); /* ends in L2 too early */
    CHECK_EQ_INT(hs_drain_chain(r.drain, slot, 8, block, sizeof block, &size, &count),
                 HS_CORRUPT); /* L2 is ahead */
    CHECK_EQ_INT(hs_drain_chain(r.drain, slot, 4, block, 100, &size, &count), HS_SMALL);
    CHECK_EQ_INT(hs_drain_chain(r.drain, slot + 1, 4, block, sizeof block, &size, &count), HS_ARGUMENT);
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);
    CHECK_EQ_INT(commit(&w, slot, "main", 9, word, &word), HS_OK); /* leaves 8 out */
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    CHECK_EQ_INT(hs_drain_chain(r.drain, slot, 7, block, sizeof block, &size, &count), HS_CORRUPT);
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);
    worker_leave(&w);
    rig_break(&r);
}

static void damaged_head_record_names_its_slot(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint32_t bad = slot_of(&w, "bad"), good = slot_of(&w, "good"), found = 0;
    uint64_t word = commit_run(&w, bad, "bad", 1, 1, hs_branch_head_load(&r.segment, bad)), head = 0;
    commit_run(&w, good, "good", 1, 1, hs_branch_head_load(&r.segment, good));
    hs_chunk_address(&r.segment, hs_place_chunk(word), hs_place_offset(word))[80] ^= 1;
    hs_drain_round round;
    hs_record record;
    int corrupt = 0, fine = 0, status;
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    while ((status = next_head(&r, &found, &head, &record)) != HS_NOT_FOUND) {
        corrupt += status == HS_CORRUPT && found == bad && head == word;
        fine += status == HS_OK && found == good;
    }
    CHECK(corrupt == 1 && fine == 1);
    uint8_t small[64];
    size_t size;
    hs_drain_finish(r.drain);
    commit_run(&w, good, "good", 2, 2, hs_branch_head_load(&r.segment, good));
    CHECK_EQ_INT(hs_drain_next_head(r.drain, &found, &head, small, sizeof small, &size), HS_ARGUMENT);
    hs_drain_collect(r.drain, &round);
    CHECK_EQ_INT(hs_drain_next_head(r.drain, &found, &head, small, sizeof small, &size), HS_SMALL);
    hs_drain_finish(r.drain);
    worker_leave(&w);
    rig_break(&r);
}

static void head_whose_record_was_reused_is_left_to_l2(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint32_t slot = slot_of(&w, "main"), found;
    uint64_t word = commit_run(&w, slot, "main", 1, 1, hs_branch_head_load(&r.segment, slot)), head;
    hs_drain_round round;
    hs_record record;
    drain_round(&r, &round);
    for (uint64_t lap = 0; lap < 2; lap++) { /* the ring goes round */
        thing t;
        uint64_t place;
        bool added;
        for (uint64_t n = lap * 100000;; n++) {
            t = thing_make(n, 2048);
            if (put(&w, &t, &place, &added) != HS_OK) break;
        }
        drain_round(&r, &round);
    }
    hs_ring_hit hit;
    CHECK_EQ_INT(hs_ring_read(&r.segment, word, NULL, 0, &hit), HS_NOT_FOUND);
    hs_drain_close(r.drain);
    REQUIRE(hs_drain_open(&r.segment, r.probe_fd, &r.drain) == HS_OK);
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    CHECK_EQ_INT(next_head(&r, &found, &head, &record), HS_NOT_FOUND);
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);
    CHECK_EQ_INT(hs_drain_has_work(r.drain, 0), 0);
    worker_leave(&w);
    rig_break(&r);
}

/* ---- Reaping, freeing ---- */

static void chunk_sealed_after_the_first_pass_is_not_freed_in_this_round(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing t = thing_make(1, 100);
    uint64_t place;
    bool added;
    CHECK_EQ_INT(put(&w, &t, &place, &added), HS_OK);
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK);
    hs_drain_round round;
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    hs_chunk_release(&r.segment, &w.self, &w.ring.writer, true);
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);
    CHECK_EQ_INT(chunk_of(&r.segment, place).state, HS_CHUNK_SEALED); /* a head may have moved in between */
    CHECK_EQ_INT(hs_drain_has_work(r.drain, 0), 1);
    drain_round(&r, &round);
    CHECK_EQ_INT(chunk_of(&r.segment, place).state, HS_CHUNK_FREE);
    CHECK_EQ_INT(hs_drain_has_work(r.drain, 0), 0);
    worker_leave(&w);
    rig_break(&r);
}

static void what_is_published_after_the_collection_waits_for_the_next_round(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing a = thing_make(1, 100), b = thing_make(2, 100);
    store(&w, &a);
    hs_drain_round round;
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    uint64_t place = store(&w, &b);
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);
    CHECK(!hs_chunk_is_persisted(&r.segment, hs_place_chunk(place), hs_place_generation(place),
                                 hs_place_offset(place)));
    CHECK_EQ_INT(drain_round(&r, &round), 1);
    worker_leave(&w);
    rig_break(&r);
}

static void stopped_writer_holds_one_chunk_and_not_the_ring(void) {
    rig r;
    rig_make(&r, 4);
    pid_t child = fork();
    if (child == 0) {
        worker w;
        worker_join(&r, &w);
        thing t = thing_make(1, 100);
        hs_step_arm("publish_after", 1, HS_STEP_STOP);
        store(&w, &t);
        _exit(0);
    }
    int status;
    REQUIRE(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    worker w;
    hs_drain_round round;
    worker_join(&r, &w);
    uint64_t place, n = 10;
    bool added;
    for (int lap = 0; lap < 3; lap++) {
        uint64_t before = n;
        for (;; n++) {
            thing t = thing_make(n, 2000);
            if (put(&w, &t, &place, &added) != HS_OK) break;
        }
        CHECK(n - before > 3 * 450);
        drain_round(&r, &round);
        CHECK_EQ_INT(round.chunks_busy, 1);
    }
    kill(child, SIGCONT); /* and it goes on as if nothing had been */
    REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    worker_leave(&w);
    rig_break(&r);
}

static void owner_that_left_its_chunk_behind_is_cleaned_up(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing t = thing_make(1, 100);
    uint64_t place;
    bool added;
    CHECK_EQ_INT(put(&w, &t, &place, &added), HS_OK);
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK);
    hs_participant_leave(&w.self); /* without release */
    hs_drain_round round;
    CHECK_EQ_INT(drain_round(&r, &round), 1);
    CHECK_EQ_INT(chunk_of(&r.segment, place).state, HS_CHUNK_FREE);
    rig_break(&r);
}

static void dead_found_between_collect_and_finish_waits_for_the_next_round(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing t = thing_make(1, 100);
    uint64_t place;
    bool added;
    CHECK_EQ_INT(put(&w, &t, &place, &added), HS_OK);
    hs_drain_round round;
    CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
    close(w.self.fd); /* dies now, with a chunk */
    CHECK_EQ_INT(hs_drain_participants(r.drain), 0);
    CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);
    CHECK_EQ_INT(hs_load32_acquire(&r.segment.participants[0].state), 1); /* its chunk is not sealed yet */
    CHECK_EQ_INT(hs_drain_has_work(r.drain, 1), 1);
    drain_round(&r, &round);
    CHECK_EQ_INT(round.reaped, 1);
    CHECK_EQ_INT(hs_load32_acquire(&r.segment.participants[0].state), 0);
    CHECK_EQ_INT(chunk_of(&r.segment, place).state, HS_CHUNK_FREE);
    rig_break(&r);
}

/* ---- A coordinator that dies in a round ---- */

static void one_round(void *context) {
    rig *r = context;
    hs_drain *drain;
    hs_drain_round round;
    if (hs_drain_open(&r->segment, r->probe_fd, &drain) != HS_OK) _exit(5);
    hs_drain_collect(drain, &round);
    hs_drain_finish(drain);
}

static void death_of_the_coordinator_at_each_step_loses_nothing(void) {
    const char *labels[] = {"collect_reaped", "collect_heads", "collect_cursors",
                            "marks_after",    "free_after",    "round_after"};
    for (int i = 0; i < 6; i++) {
        rig r;
        worker w;
        rig_make(&r, 4);
        worker_join(&r, &w);
        uint32_t slot = slot_of(&w, "main"), found;
        thing t = thing_make(1, 100);
        store(&w, &t);
        uint64_t word = commit_run(&w, slot, "main", 1, 3, hs_branch_head_load(&r.segment, slot)), head;
        hs_chunk_claim(&r.segment, &w.self, &w.ring.writer, 1);
        hs_chunk_release(&r.segment, &w.self, &w.ring.writer, true);
        CHECK(dies_at(labels[i], 1, one_round, &r));
        bool marked = hs_chunk_is_persisted(&r.segment, 0, 1, 0);
        CHECK_EQ_INT(marked, i >= 3);
        CHECK_EQ_INT(chunk_of(&r.segment, word).state, i >= 4 ? HS_CHUNK_FREE : HS_CHUNK_SEALED);
        CHECK_EQ_INT(hs_load_acquire(&r.segment.header->rounds_done), i == 5);
        hs_drain_close(r.drain);
        REQUIRE(hs_drain_open(&r.segment, r.probe_fd, &r.drain) == HS_OK);
        hs_drain_round round;
        hs_record record;
        CHECK_EQ_INT(hs_drain_collect(r.drain, &round), HS_OK);
        CHECK_EQ_INT(next_head(&r, &found, &head, &record),
                     HS_OK); /* the chain can still be followed, however far it got */
        CHECK_EQ_INT(chain_take(&r, slot, marked ? 3 : 0, 10000, "main"), 3);
        static uint8_t buffer[PACK_CAPACITY];
        uint8_t *pack = NULL;
        size_t size;
        uint32_t count;
        CHECK_EQ_INT(hs_drain_pack(r.drain, buffer, sizeof buffer, &pack, &size, &count), HS_OK);
        CHECK_EQ_INT(count, marked ? 0 : 1);
        CHECK_EQ_INT(hs_drain_finish(r.drain), HS_OK);
        CHECK_EQ_INT(chunk_of(&r.segment, word).state, HS_CHUNK_FREE);
        CHECK_EQ_INT(hs_load_acquire(&r.segment.header->rounds_done), 2);
        CHECK_EQ_INT(hs_drain_has_work(r.drain, 1), 0);
        worker_leave(&w);
        rig_break(&r);
    }
}

/* ---- Waiting ---- */

typedef struct runner {
    rig *r;
    hs_word32 stop;
    uint64_t rows;
} runner;

static void *run_drain(void *argument) {
    runner *d = argument;
    hs_drain_round round;
    while (hs_load32_acquire(&d->stop) == 0 || hs_drain_has_work(d->r->drain, 0)) {
        if (hs_drain_has_work(d->r->drain, 0)) d->rows += drain_round(d->r, &round);
        hs_drain_sleep(d->r->drain, 50, 0);
    }
    return NULL;
}

static void commit_larger_than_the_ring_flows_through(void) {
    static runner d;
    rig r;
    worker w;
    rig_make(&r, 4);
    d = (runner){.r = &r};
    worker_join(&r, &w);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, run_drain, &d) == 0);
    enum { COUNT = 9000 }; /* 18 MiB through 4 */
    uint64_t place = 0;
    bool added;
    for (uint64_t n = 0; n < COUNT;) {
        thing t = thing_make(n, 2000);
        int status = put(&w, &t, &place, &added);
        if (status == HS_WAIT) hs_ring_wait(&w.ring, 50);
        CHECK(status == HS_OK || status == HS_WAIT);
        n += status == HS_OK;
    }
    uint32_t slot = slot_of(&w, "main");
    uint64_t word;
    while (commit(&w, slot, "main", 1, hs_branch_head_load(&r.segment, slot), &word) == HS_WAIT)
        hs_ring_wait(&w.ring, 50);
    uint64_t target = hs_load_acquire(&r.segment.header->rounds_started) + 1;
    for (;;) { /* until a round that began after the commit is done */
        uint32_t seen = hs_ring_done_bell(&r.segment);
        if (hs_load_acquire(&r.segment.header->rounds_done) >= target ||
            hs_chunk_is_persisted(&r.segment, hs_place_chunk(word), hs_place_generation(word),
                                  hs_place_offset(word)))
            break;
        hs_ring_wait_done(&r.segment, seen, 50);
    }
    hs_store32_release(&d.stop, 1);
    hs_ring_hurry(&r.segment);
    pthread_join(thread, NULL);
    CHECK_EQ_INT(d.rows, COUNT);
    CHECK_EQ_INT(hs_load32_relaxed(&r.segment.header->done_waiters), 0);
    worker_leave(&w);
    rig_break(&r);
}

static void sleep_ends_at_once_when_there_is_work(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    CHECK_EQ_INT(hs_drain_sleep(r.drain, 1, 0), HS_TIMED_OUT);
    CHECK_EQ_INT(hs_drain_sleep(r.drain, 1, 1), HS_TIMED_OUT);
    thing t = thing_make(1, 100);
    store(&w, &t);
    CHECK_EQ_INT(hs_drain_sleep(r.drain, 50, 0), HS_OK);
    CHECK_EQ_INT(hs_load32_relaxed(&r.segment.header->sleeping), 0);
    CHECK_EQ_INT(hs_drain_sleep(r.drain, 1, 1), HS_TIMED_OUT); /* gathering: work alone is no reason */
    hs_ring_hurry(&r.segment);
    CHECK_EQ_INT(hs_drain_sleep(r.drain, 50, 1), HS_OK);
    hs_drain_round round;
    drain_round(&r, &round); /* has answered */
    CHECK_EQ_INT(hs_drain_sleep(r.drain, 1, 1), HS_TIMED_OUT);
    worker_leave(&w);
    rig_break(&r);
}

/* A branch that moved in the last rounds is missed until it moves again, or is in L2 alone. */
static void branches_that_moved_lately_are_waited_for(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    CHECK_EQ_INT(hs_drain_rejoin(r.drain), 0);
    hs_drain_round round;
    uint64_t one = 0, two = 0;
    uint32_t first = slot_of(&w, "one"), second = slot_of(&w, "two");
    CHECK_EQ_INT(commit(&w, first, "one", 1, hs_branch_head_load(&r.segment, first), &one), HS_OK);
    drain_round(&r, &round);
    CHECK_EQ_INT(commit(&w, second, "two", 1, hs_branch_head_load(&r.segment, second), &two), HS_OK);
    CHECK_EQ_INT(hs_drain_rejoin(r.drain), 1);
    drain_round(&r, &round);
    for (int i = 0; i < 5; i++) CHECK_EQ_INT(hs_drain_rejoin(r.drain), 2); /* skipped or in vain */
    CHECK_EQ_INT(commit(&w, first, "one", 2, one, &one), HS_OK);
    CHECK_EQ_INT(hs_drain_rejoin(r.drain), 1);
    CHECK_EQ_INT(commit(&w, second, "two", 2, two, &two), HS_OK);
    CHECK_EQ_INT(hs_drain_rejoin(r.drain), 0);
    CHECK_EQ_INT(drain_round(&r, &round), 0);
    CHECK_EQ_INT(round.heads, 2);
    worker_leave(&w);
    rig_break(&r);
}

static void *ring_until_awake(void *argument) {
    runner *d = argument;
    while (hs_load32_acquire(&d->r->segment.header->sleeping) == 0 && hs_load32_acquire(&d->stop) == 0)
        sched_yield();
    hs_ring_bell(&d->r->segment);
    return NULL;
}

static void bell_wakes_the_coordinator(void) {
    static runner d;
    rig r;
    rig_make(&r, 4);
    d = (runner){.r = &r};
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, ring_until_awake, &d) == 0);
    int woken = 0;
    for (int i = 0; i < 200 && !woken; i++) woken = hs_drain_sleep(r.drain, 50, 0) == HS_OK;
    hs_store32_release(&d.stop, 1);
    pthread_join(thread, NULL);
    CHECK(woken);
    rig_break(&r);
}

static void memory_is_made_ahead_of_the_writers(void) {
    rig r;
    worker w;
    rig_make(&r, 8);
    worker_join(&r, &w);
    thing t = thing_make(1, 100);
    CHECK_EQ_INT(hs_place_chunk(store(&w, &t)), 0);
    CHECK_EQ_INT(hs_drain_allocate_ahead(r.drain, 3), 3);
    for (uint32_t i = 1; i < 8; i++) CHECK_EQ_INT(hs_load32_relaxed(&r.segment.chunks[i].allocated), i < 4);
    CHECK_EQ_INT(hs_drain_allocate_ahead(r.drain, 100), 4);
    CHECK_EQ_INT(hs_drain_allocate_ahead(r.drain, 100), 0);
    worker_leave(&w);
    rig_break(&r);
}

static void coordinator_says_who_it_is(void) {
    rig r;
    rig_make(&r, 4);
    hs_drain_announce(r.drain, 5, 4711);
    CHECK_EQ_INT(hs_load_relaxed(&r.segment.header->coordinator_epoch), 5);
    CHECK_EQ_INT(hs_load_relaxed(&r.segment.header->coordinator_pid), 4711);
    hs_drain_close(NULL);
    rig_break(&r);
}

int main(void) {
    RUN(pack_holds_what_was_published_and_no_records);
    RUN(packs_stay_within_their_capacity);
    RUN(packs_of_many_small_entries_hold_them_all);
    RUN(damaged_entry_is_passed_over_alone);
    RUN(impossible_size_ends_its_range_and_no_other);
    RUN(garbage_in_a_range_never_stops_the_walk);
    RUN(chain_is_followed_across_chunks);
    RUN(chain_ends_at_what_l2_has_after_a_restart);
    RUN(chain_that_does_not_lead_to_l2_is_corrupt);
    RUN(damaged_head_record_names_its_slot);
    RUN(head_whose_record_was_reused_is_left_to_l2);
    RUN(chunk_sealed_after_the_first_pass_is_not_freed_in_this_round);
    RUN(what_is_published_after_the_collection_waits_for_the_next_round);
    RUN(stopped_writer_holds_one_chunk_and_not_the_ring);
    RUN(owner_that_left_its_chunk_behind_is_cleaned_up);
    RUN(dead_found_between_collect_and_finish_waits_for_the_next_round);
    RUN(death_of_the_coordinator_at_each_step_loses_nothing);
    RUN(commit_larger_than_the_ring_flows_through);
    RUN(sleep_ends_at_once_when_there_is_work);
    RUN(branches_that_moved_lately_are_waited_for);
    RUN(bell_wakes_the_coordinator);
    RUN(memory_is_made_ahead_of_the_writers);
    RUN(coordinator_says_who_it_is);
    return hs_test_report();
}
