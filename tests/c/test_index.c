/* test_index.c - what is published and unpersisted is found; what is not may be forgotten. */
#include "hs_rig.h"

enum { WAYS = HS_INDEX_WAYS };

static void id_is_found_at_its_place(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing t = thing_make(1, 600), other = thing_make(2, 600);
    uint64_t place = store(&w, &t), places[HS_INDEX_CANDIDATES];
    hs_index_key key = hs_index_key_make(&r.segment, t.id);
    CHECK_EQ_INT(hs_index_probe(&r.segment, &key, places), 1);
    CHECK(places[0] == place);
    key = hs_index_key_make(&r.segment, other.id);
    CHECK_EQ_INT(hs_index_probe(&r.segment, &key, places), 0);
    worker_leave(&w);
    rig_break(&r);
}

static void buckets_follow_from_the_seed(void) {
    rig a, b;
    rig_make(&a, 16);
    rig_make(&b, 16);
    int same = 0;
    for (uint64_t n = 0; n < 64; n++) {
        thing t = thing_make(n, 16);
        same +=
            hs_index_key_make(&a.segment, t.id).bucket[0] == hs_index_key_make(&b.segment, t.id).bucket[0];
    }
    CHECK(same < 8);
    rig_break(&a);
    rig_break(&b);
}

/* Things whose two buckets are those of the first, so that they fill up. Returns how many were made. */
static int crowd_make(const hs_segment *segment, thing *crowd, int count) {
    crowd[0] = thing_make(1000000, 16);
    hs_index_key key = hs_index_key_make(segment, crowd[0].id);
    int made = 1;
    for (uint64_t n = 1; made < count && n < 100000000; n++) {
        thing t = {.size = 16};
        memcpy(t.id, &n, 8); /* ids need not be hashes of anything here */
        t.id[31] = 1;
        hs_index_key k = hs_index_key_make(segment, t.id);
        if ((k.bucket[0] != key.bucket[0] && k.bucket[0] != key.bucket[1]) ||
            (k.bucket[1] != key.bucket[0] && k.bucket[1] != key.bucket[1]))
            continue;
        crowd[made++] = t;
    }
    return made;
}

enum { CROWD = 2 * WAYS + 2 };

/* Things with the same first bucket: what comes when that is more than half full stands in the second, and each is got. */
static void both_buckets_are_probed_and_each_by_itself(void) {
    enum { MANY = 48, SAME = WAYS / 2 + 3 };
    rig r;
    worker w;
    static thing crowd[MANY];
    rig_make(&r, 4);
    r.segment.index_mask = 7; /* few buckets, so that a crowd is soon found */
    r.segment.seed[0] = 3;    /* and one whose two buckets differ */
    r.segment.seed[1] = 5;
    worker_join(&r, &w);
    REQUIRE(crowd_make(&r.segment, crowd, MANY) == MANY);
    uint32_t bucket = hs_index_key_make(&r.segment, crowd[0].id).bucket[0], in[2] = {0};
    for (int i = 0, same = 0; i < MANY && same < SAME; i++) {
        hs_index_key key = hs_index_key_make(&r.segment, crowd[i].id);
        if (key.bucket[0] != bucket) continue;
        same++;
        uint64_t place = store(&w, &crowd[i]), all[HS_INDEX_CANDIDATES], some[HS_INDEX_WAYS];
        uint32_t found = hs_index_probe(&r.segment, &key, all), seen = 0;
        for (int which = 0; which < 2; which++) {
            uint32_t here = hs_index_probe_one(&r.segment, &key, which, some);
            for (uint32_t n = 0; n < here; n++) {
                CHECK(some[n] == all[seen + n]);
                in[which] += some[n] == place;
            }
            seen += here;
        }
        CHECK_EQ_INT(seen, found);
        CHECK_EQ_INT(find(&r.segment, &crowd[i]), HS_OK);
        uint8_t buffer[64];
        hs_ring_hit hit;
        CHECK_EQ_INT(hs_ring_get(&w.ring, crowd[i].id, buffer, sizeof buffer, &hit), HS_OK);
        CHECK(hit.place == place);
    }
    CHECK(in[0] > 0 && in[1] > 0);
    worker_leave(&w);
    rig_break(&r);
}

static void full_bucket_makes_the_writer_wait_and_forgets_nothing(void) {
    rig r;
    worker w;
    static thing crowd[CROWD];
    rig_make(&r, 4);
    r.segment.index_mask = 7; /* few buckets, so that a crowd is soon found */
    worker_join(&r, &w);
    REQUIRE(crowd_make(&r.segment, crowd, CROWD) == CROWD);
    uint64_t place;
    bool added;
    int waits = 0, entered = 0;
    for (int i = 0; i < CROWD && waits == 0; i++) {
        CHECK_EQ_INT(put(&w, &crowd[i], &place, &added), HS_OK);
        int status = hs_ring_flush(&w.ring);
        entered += status == HS_OK;
        waits += status == HS_WAIT;
    }
    CHECK_EQ_INT(waits, 1);
    CHECK(entered >= WAYS && entered <= 2 * WAYS);
    for (int i = 0; i < entered; i++) CHECK_EQ_INT(find(&r.segment, &crowd[i]), HS_OK);
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_WAIT); /* still */
    CHECK_EQ_INT(w.ring.pending_count, 1);
    hs_drain_round round;
    drain_round(&r, &round);
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK); /* it was drained from the BUSY chunk meanwhile: L2 has it */
    CHECK_EQ_INT(w.ring.pending_count, 0);
    CHECK_EQ_INT(put(&w, &crowd[entered + 1], &place, &added), HS_OK);
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK); /* in the place of a persisted one */
    CHECK_EQ_INT(find(&r.segment, &crowd[entered + 1]), HS_OK);
    worker_leave(&w);
    rig_break(&r);
}

/* A put looks where an insert would have gone: a second bucket counts only where the first is more than half full. */
static void what_a_put_looks_for_is_found_in_either_bucket(void) {
    rig r;
    worker w;
    static thing crowd[CROWD];
    rig_make(&r, 4);
    r.segment.index_mask = 7;
    worker_join(&r, &w);
    REQUIRE(crowd_make(&r.segment, crowd, CROWD) == CROWD);
    uint64_t place, places[HS_INDEX_CANDIDATES];
    bool added;
    for (int i = 0; i < 2 * WAYS; i++) {
        if (put(&w, &crowd[i], &place, &added) != HS_OK || hs_ring_flush(&w.ring) != HS_OK) break;
        for (int k = 0; k <= i; k++) {
            hs_index_key key = hs_index_key_make(&r.segment, crowd[k].id);
            CHECK(hs_index_probe_first(&r.segment, &key, places) >= 1);
        }
    }
    worker_leave(&w);
    rig_break(&r);
}

static void stale_word_is_replaced_before_a_persisted_one(void) {
    rig r;
    worker w;
    static thing crowd[CROWD];
    rig_make(&r, 4);
    r.segment.index_mask = 0; /* one bucket: both candidates are the same */
    worker_join(&r, &w);
    REQUIRE(crowd_make(&r.segment, crowd, CROWD) == CROWD);
    store(&w, &crowd[0]); /* chunk 0 */
    hs_chunk_claim(&r.segment, &w.self, &w.ring.writer, 1);
    hs_chunk_release(&r.segment, &w.self, &w.ring.writer, true);
    for (int i = 1; i < WAYS; i++) store(&w, &crowd[i]); /* chunk 1 */
    hs_drain_round round;
    drain_round(&r, &round); /* chunk 0 comes free; all are persisted */
    for (int i = 0; i < WAYS; i++) CHECK_EQ_INT(find(&r.segment, &crowd[i]), HS_OK);
    uint64_t freed = hs_load_acquire(&r.segment.chunks[0].word);
    hs_store_release(&r.segment.chunks[0].word, freed + (UINT64_C(1) << HS_CHUNK_GENERATION_SHIFT));
    store(&w, &crowd[WAYS]);
    for (int i = 1; i <= WAYS; i++) CHECK_EQ_INT(find(&r.segment, &crowd[i]), HS_OK);
    CHECK_EQ_INT(find(&r.segment, &crowd[0]), HS_NOT_FOUND);
    worker_leave(&w);
    rig_break(&r);
}

static void oldest_persisted_word_goes_first(void) {
    rig r;
    worker w;
    static thing crowd[CROWD];
    rig_make(&r, 16);
    r.segment.index_mask = 0;
    worker_join(&r, &w);
    REQUIRE(crowd_make(&r.segment, crowd, CROWD) == CROWD);
    for (int i = 0; i < WAYS; i++) { /* each in a chunk of its own */
        store(&w, &crowd[i]);
        hs_chunk_claim(&r.segment, &w.self, &w.ring.writer, 1);
        hs_chunk_release(&r.segment, &w.self, &w.ring.writer, true);
    }
    hs_drain_round round;
    drain_round(&r, &round);
    for (int i = 0; i < 3; i++) {
        store(&w, &crowd[WAYS + i]);
        CHECK_EQ_INT(find(&r.segment, &crowd[i]), HS_NOT_FOUND);
        CHECK_EQ_INT(find(&r.segment, &crowd[i + 1]), HS_OK);
        CHECK_EQ_INT(find(&r.segment, &crowd[WAYS + i]), HS_OK);
    }
    worker_leave(&w);
    rig_break(&r);
}

static void same_id_takes_one_word(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing t = thing_make(5, 64);
    store(&w, &t);
    hs_ring_item item = thing_item(&t);
    uint64_t place, places[HS_INDEX_CANDIDATES];
    CHECK_EQ_INT(hs_ring_append(&w.ring, &item, &place), HS_OK);
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK);
    hs_index_key key = hs_index_key_make(&r.segment, t.id);
    CHECK_EQ_INT(hs_index_probe(&r.segment, &key, places), 1);
    CHECK(places[0] == place);
    worker_leave(&w);
    rig_break(&r);
}

static void damaged_word_leads_nowhere(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing t = thing_make(9, 64);
    hs_index_key key = hs_index_key_make(&r.segment, t.id);
    uint64_t tag = (uint64_t)key.tag << HS_INDEX_TAG_SHIFT;
    hs_word *words = r.segment.index[key.bucket[0]].words;
    hs_store_relaxed(&words[0],
                     tag | UINT64_C(1) << HS_INDEX_GENERATION_SHIFT | 60000u << HS_PLACE_CHUNK_SHIFT);
    hs_store_relaxed(&words[1], tag | UINT64_C(0) << HS_INDEX_GENERATION_SHIFT | 2u << HS_PLACE_CHUNK_SHIFT |
                                    65535); /* end of a chunk */
    hs_store_relaxed(&words[2], tag | 77);
    CHECK_EQ_INT(find(&r.segment, &t), HS_NOT_FOUND);
    store(&w, &t);
    CHECK_EQ_INT(find(&r.segment, &t), HS_OK);
    worker_leave(&w);
    rig_break(&r);
}

enum { EACH = 4000 };
typedef struct inserter {
    rig *r;
    uint64_t first;
} inserter;

static void *insert_many(void *argument) {
    inserter *i = argument;
    worker w;
    worker_join(i->r, &w);
    for (uint64_t n = i->first; n < i->first + EACH; n++) {
        thing t = thing_make(n, 32);
        store(&w, &t);
    }
    worker_leave(&w);
    return NULL;
}

static void concurrent_inserts_lose_nothing(void) {
    rig r;
    rig_make(&r, 8);
    r.segment.index_mask = 2047; /* twice as many words as things */
    pthread_t other;
    inserter a = {&r, 0}, b = {&r, EACH - 500}; /* 500 ids in common */
    REQUIRE(pthread_create(&other, NULL, insert_many, &a) == 0);
    insert_many(&b);
    pthread_join(other, NULL);
    for (uint64_t n = 0; n < 2 * EACH - 500; n++) {
        thing t = thing_make(n, 32);
        CHECK_EQ_INT(find(&r.segment, &t), HS_OK);
    }
    rig_break(&r);
}

int main(void) {
    RUN(id_is_found_at_its_place);
    RUN(both_buckets_are_probed_and_each_by_itself);
    RUN(buckets_follow_from_the_seed);
    RUN(full_bucket_makes_the_writer_wait_and_forgets_nothing);
    RUN(what_a_put_looks_for_is_found_in_either_bucket);
    RUN(stale_word_is_replaced_before_a_persisted_one);
    RUN(oldest_persisted_word_goes_first);
    RUN(same_id_takes_one_word);
    RUN(damaged_word_leads_nowhere);
    RUN(concurrent_inserts_lose_nothing);
    return hs_test_report();
}
