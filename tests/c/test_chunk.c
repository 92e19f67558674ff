/* test_chunk.c - the writer's side of the chunk word. */
#include "hs_rig.h"

static uint32_t state_of(rig *r, uint32_t chunk) {
    return hs_chunk_word_decode(hs_load_acquire(&r->segment.chunks[chunk].word)).state;
}

static void append(rig *r, worker *w, uint32_t units) {
    CHECK_EQ_INT(hs_chunk_claim(&r->segment, &w->self, &w->ring.writer, units), HS_OK);
    w->ring.writer.end += units;
    CHECK_EQ_INT(hs_chunk_publish(&r->segment, &w->self, &w->ring.writer), HS_OK);
}

static void word_carries_all_its_parts(void) {
    uint64_t word = hs_chunk_word_make(0xfffffffe, HS_CHUNK_SEALED, 8191, HS_CHUNK_UNITS);
    hs_chunk_state_word w = hs_chunk_word_decode(word);
    CHECK(w.generation == 0xfffffffe && w.state == HS_CHUNK_SEALED && w.owner == 8191 &&
          w.cursor == HS_CHUNK_UNITS);
    uint64_t place = hs_place_make(HS_GENERATION_MAX, 65534, 65535);
    CHECK(hs_place_generation(place) == HS_GENERATION_MAX && hs_place_chunk(place) == 65534 &&
          hs_place_offset(place) == 65535);
    CHECK((place & HS_WORD_IN_L2) == 0);
}

static void claimed_chunk_is_busy_and_released_idle(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    append(&r, &w, 10);
    hs_chunk_state_word word = hs_chunk_word_decode(hs_load_acquire(&r.segment.chunks[0].word));
    CHECK(word.generation == 1 && word.state == HS_CHUNK_BUSY && word.owner == w.self.index &&
          word.cursor == 10);
    CHECK_EQ_INT(hs_load32_relaxed(&r.segment.chunks[0].allocated), 1);
    hs_chunk_release(&r.segment, &w.self, &w.ring.writer, false);
    CHECK_EQ_INT(state_of(&r, 0), HS_CHUNK_IDLE);
    append(&r, &w, 10); /* goes on where it was */
    CHECK_EQ_INT(w.ring.writer.chunk, 0);
    CHECK_EQ_INT(w.ring.writer.published, 20);
    hs_chunk_release(&r.segment, &w.self, &w.ring.writer, true);
    hs_chunk_release(&r.segment, &w.self, &w.ring.writer, true);
    CHECK_EQ_INT(state_of(&r, 0), HS_CHUNK_SEALED);
    worker_leave(&w);
    rig_break(&r);
}

static void those_who_join_the_newest_chunk_share_it(void) {
    rig r;
    worker w[2];
    rig_make(&r, 4);
    for (int i = 0; i < 2; i++) {
        worker_join(&r, &w[i]);
        append(&r, &w[i], 10);
        hs_chunk_release(&r.segment, &w[i].self, &w[i].ring.writer, false);
    }
    CHECK_EQ_INT(w[0].ring.writer.chunk, 0);
    CHECK_EQ_INT(w[1].ring.writer.chunk, 1);
    hs_chunk_join_newest(&r.segment, &w[0].ring.writer);
    append(&r, &w[0], 10);
    CHECK_EQ_INT(w[0].ring.writer.chunk, 1);
    CHECK_EQ_INT(w[0].ring.writer.published, 20);
    hs_chunk_join_newest(&r.segment, &w[1].ring.writer); /* BUSY: no */
    append(&r, &w[1], 10);
    CHECK_EQ_INT(w[1].ring.writer.chunk, 2);
    for (int i = 0; i < 2; i++) worker_leave(&w[i]);
    rig_break(&r);
}

static void who_has_filled_a_chunk_goes_on_in_the_newest_if_nobody_has_it(void) {
    rig r;
    worker w[2];
    rig_make(&r, 4);
    for (int i = 0; i < 2; i++) {
        worker_join(&r, &w[i]);
        append(&r, &w[i], 60000);
        hs_chunk_release(&r.segment, &w[i].self, &w[i].ring.writer, false);
    }
    append(&r, &w[0], 5000);
    hs_chunk_release(&r.segment, &w[0].self, &w[0].ring.writer, true);
    append(&r, &w[0], 5000); /* its own is full, the other's has room */
    CHECK_EQ_INT(w[0].ring.writer.chunk, 1);
    hs_chunk_release(&r.segment, &w[0].self, &w[0].ring.writer, false);
    append(&r, &w[0], 600); /* and now that one is full, too */
    CHECK_EQ_INT(w[0].ring.writer.chunk, 2);
    worker_leave(&w[0]);
    worker_leave(&w[1]);
    rig_break(&r);
}

static void unpublished_bytes_are_forgotten(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    append(&r, &w, 10);
    w.ring.writer.end += 7;
    hs_chunk_release(&r.segment, &w.self, &w.ring.writer, false);
    CHECK_EQ_INT(hs_chunk_claim(&r.segment, &w.self, &w.ring.writer, 1), HS_OK);
    CHECK_EQ_INT(w.ring.writer.end, 10);
    CHECK_EQ_INT(hs_chunk_publish(&r.segment, &w.self, &w.ring.writer), HS_OK); /* nothing to publish */
    worker_leave(&w);
    rig_break(&r);
}

static void two_writers_have_two_chunks(void) {
    rig r;
    worker a, b;
    rig_make(&r, 4);
    worker_join(&r, &a);
    worker_join(&r, &b);
    append(&r, &a, 10);
    append(&r, &b, 10);
    CHECK_EQ_INT(a.ring.writer.chunk, 0);
    CHECK_EQ_INT(b.ring.writer.chunk, 1);
    worker_leave(&a);
    worker_leave(&b);
    rig_break(&r);
}

static void idle_chunk_of_another_is_taken_over_when_none_is_free(void) {
    rig r;
    worker w[5];
    rig_make(&r, 4);
    for (int i = 0; i < 5; i++) worker_join(&r, &w[i]);
    for (int i = 0; i < 4; i++) append(&r, &w[i], i == 2 ? 1000 : 60000);
    for (int i = 1; i < 4; i++) hs_chunk_release(&r.segment, &w[i].self, &w[i].ring.writer, false);
    append(&r, &w[4], 10000); /* chunk 1 is too full: sealed on the way; chunk 2 has room */
    CHECK_EQ_INT(w[4].ring.writer.chunk, 2);
    CHECK_EQ_INT(w[4].ring.writer.published, 11000);
    CHECK_EQ_INT(state_of(&r, 0), HS_CHUNK_BUSY);
    CHECK_EQ_INT(hs_chunk_claim(&r.segment, &w[1].self, &w[1].ring.writer, 10000), HS_WAIT);
    CHECK_EQ_INT(state_of(&r, 1), HS_CHUNK_SEALED);
    CHECK_EQ_INT(state_of(&r, 3), HS_CHUNK_SEALED);
    for (int i = 0; i < 5; i++) worker_leave(&w[i]);
    rig_break(&r);
}

static void full_chunk_is_sealed_on_release(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    append(&r, &w, HS_CHUNK_UNITS);
    hs_chunk_release(&r.segment, &w.self, &w.ring.writer, false);
    CHECK_EQ_INT(state_of(&r, 0), HS_CHUNK_SEALED);
    worker_leave(&w);
    rig_break(&r);
}

static void wrongly_reaped_writer_cannot_publish(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    append(&r, &w, 10);
    uint64_t busy = hs_load_acquire(&r.segment.chunks[0].word);
    w.ring.writer.end += 5;
    REQUIRE(hs_cas_seq_cst(&r.segment.chunks[0].word, &busy, hs_chunk_word_make(1, HS_CHUNK_SEALED, 0, 10)));
    CHECK_EQ_INT(hs_chunk_publish(&r.segment, &w.self, &w.ring.writer), HS_REAPED);
    CHECK(!w.ring.writer.owned);
    CHECK_EQ_INT(hs_chunk_word_decode(hs_load_acquire(&r.segment.chunks[0].word)).cursor, 10);
    append(&r, &w, 3); /* begins again elsewhere */
    CHECK_EQ_INT(w.ring.writer.chunk, 1);
    worker_leave(&w);
    rig_break(&r);
}

static void wrongly_reaped_writer_does_not_release_what_is_not_its_own(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    append(&r, &w, 10);
    uint64_t busy = hs_load_acquire(&r.segment.chunks[0].word),
             other = hs_chunk_word_make(2, HS_CHUNK_BUSY, 9, 0);
    REQUIRE(hs_cas_seq_cst(&r.segment.chunks[0].word, &busy, other));
    hs_chunk_release(&r.segment, &w.self, &w.ring.writer, false);
    CHECK(hs_load_acquire(&r.segment.chunks[0].word) == other);
    worker_leave(&w);
    rig_break(&r);
}

static void reused_or_marked_places_are_persisted(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    append(&r, &w, 10);
    CHECK(!hs_chunk_is_persisted(&r.segment, 0, 1, 0));
    CHECK(hs_chunk_is_persisted(&r.segment, 0, 7, 0)); /* the generation has passed */
    hs_store_release(&r.segment.chunks[0].persisted, UINT64_C(1) << 32 | 4);
    CHECK(hs_chunk_is_persisted(&r.segment, 0, 1, 3));
    CHECK(!hs_chunk_is_persisted(&r.segment, 0, 1, 4));
    hs_store_release(&r.segment.chunks[0].persisted,
                     UINT64_C(9) << 32 | 4); /* a mark of another generation */
    CHECK(!hs_chunk_is_persisted(&r.segment, 0, 1, 3));
    worker_leave(&w);
    rig_break(&r);
}

static void chunk_at_its_last_generation_is_left_alone(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    hs_store_release(&r.segment.chunks[0].word, hs_chunk_word_make(HS_GENERATION_MAX, HS_CHUNK_FREE, 0, 0));
    append(&r, &w, 10);
    CHECK_EQ_INT(w.ring.writer.chunk, 1);
    worker_leave(&w);
    rig_break(&r);
}

typedef struct claimant {
    rig *r;
    uint32_t claims;
} claimant;

static hs_word32 owners[8]; /* how many think that they own this chunk */

static void *claim_many(void *argument) {
    claimant *c = argument;
    worker w;
    worker_join(c->r, &w);
    for (int i = 0; i < 3000; i++) {
        if (hs_chunk_claim(&c->r->segment, &w.self, &w.ring.writer, 4) != HS_OK) continue;
        uint32_t chunk = w.ring.writer.chunk;
        CHECK_EQ_INT(hs_add32_seq_cst(&owners[chunk], 1), 0);
        memset(hs_chunk_address(&c->r->segment, chunk, w.ring.writer.end), (int)w.self.index, 64);
        w.ring.writer.end += 4;
        CHECK_EQ_INT(hs_chunk_publish(&c->r->segment, &w.self, &w.ring.writer), HS_OK);
        CHECK_EQ_INT(hs_add32_seq_cst(&owners[chunk], UINT32_MAX), 1);
        hs_chunk_release(&c->r->segment, &w.self, &w.ring.writer, false);
        c->claims++;
    }
    worker_leave(&w);
    return NULL;
}

static void chunk_has_one_owner_at_a_time(void) {
    rig r;
    rig_make(&r, 4);
    pthread_t threads[3];
    claimant claimants[3];
    for (int i = 0; i < 3; i++) {
        claimants[i] = (claimant){.r = &r};
        REQUIRE(i == 2 || pthread_create(&threads[i], NULL, claim_many, &claimants[i]) == 0);
    }
    claim_many(&claimants[2]);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    uint32_t units = 0;
    for (uint32_t i = 0; i < 4; i++)
        units += hs_chunk_word_decode(hs_load_acquire(&r.segment.chunks[i].word)).cursor;
    CHECK_EQ_INT(units, 4 * (claimants[0].claims + claimants[1].claims + claimants[2].claims));
    CHECK(claimants[2].claims > 0);
    rig_break(&r);
}

static void claim_publish_release(void *context) {
    worker w;
    worker_join(context, &w);
    append(context, &w, 8);
    hs_chunk_release(&((rig *)context)->segment, &w.self, &w.ring.writer, false);
}

static void death_at_each_step_leaves_a_chunk_that_comes_free(void) {
    const char *labels[] = {"claim_before",  "claim_after",    "publish_before",
                            "publish_after", "release_before", "release_after"};
    const uint32_t states[] = {HS_CHUNK_FREE, HS_CHUNK_BUSY, HS_CHUNK_BUSY,
                               HS_CHUNK_BUSY, HS_CHUNK_BUSY, HS_CHUNK_IDLE};
    const uint32_t cursors[] = {0, 0, 0, 8, 8, 8};
    for (int i = 0; i < 6; i++) {
        rig r;
        hs_drain_round round;
        rig_make(&r, 4);
        CHECK(dies_at(labels[i], 1, claim_publish_release, &r));
        hs_chunk_state_word w = hs_chunk_word_decode(hs_load_acquire(&r.segment.chunks[0].word));
        CHECK_EQ_INT(w.state, states[i]);
        CHECK_EQ_INT(w.cursor, cursors[i]);
        drain_round(&r, &round);
        CHECK_EQ_INT(round.reaped, 1);
        w = hs_chunk_word_decode(hs_load_acquire(&r.segment.chunks[0].word));
        CHECK_EQ_INT(w.state, i == 5 ? HS_CHUNK_IDLE : HS_CHUNK_FREE);
        CHECK_EQ_INT(w.cursor, cursors[i]);
        rig_break(&r);
    }
}

int main(void) {
    RUN(word_carries_all_its_parts);
    RUN(claimed_chunk_is_busy_and_released_idle);
    RUN(those_who_join_the_newest_chunk_share_it);
    RUN(who_has_filled_a_chunk_goes_on_in_the_newest_if_nobody_has_it);
    RUN(unpublished_bytes_are_forgotten);
    RUN(two_writers_have_two_chunks);
    RUN(idle_chunk_of_another_is_taken_over_when_none_is_free);
    RUN(full_chunk_is_sealed_on_release);
    RUN(wrongly_reaped_writer_cannot_publish);
    RUN(wrongly_reaped_writer_does_not_release_what_is_not_its_own);
    RUN(reused_or_marked_places_are_persisted);
    RUN(chunk_at_its_last_generation_is_left_alone);
    RUN(chunk_has_one_owner_at_a_time);
    RUN(death_at_each_step_leaves_a_chunk_that_comes_free);
    return hs_test_report();
}
