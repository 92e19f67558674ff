/* test_ring.c - what is put is found, by everybody, and nothing else ever is. */
#define _GNU_SOURCE
#include "hs_metrics.h"
#include "hs_rig.h"

static void put_is_found_by_a_reader_without_a_slot(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    const uint32_t sizes[] = {0, 1, 7, 8, 9, 48, 600, 1024, 2048};
    for (uint64_t i = 0; i < 9; i++) {
        thing t = thing_make(i, sizes[i]);
        CHECK_EQ_INT(find(&r.segment, &t), HS_NOT_FOUND);
        store(&w, &t);
        CHECK_EQ_INT(find(&r.segment, &t), HS_OK);
    }
    CHECK_EQ_INT(hs_metrics_counter(&r.segment, HS_COUNT_PUTS), 9);
    CHECK_EQ_INT(hs_metrics_counter(&r.segment, HS_COUNT_APPENDED), (uint64_t)w.ring.writer.end * HS_UNIT);
    worker_leave(&w);
    rig_break(&r);
}

static void nothing_is_found_before_it_is_flushed(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing t = thing_make(1, 600);
    uint64_t place;
    bool added;
    CHECK_EQ_INT(put(&w, &t, &place, &added), HS_OK);
    CHECK(added);
    CHECK_EQ_INT(find(&r.segment, &t), HS_NOT_FOUND);
    hs_ring_hit hit;
    CHECK_EQ_INT(hs_ring_read(&r.segment, place, NULL, 0, &hit), HS_CORRUPT); /* above the cursor */
    hs_ring_end(&w.ring);                                                     /* given up */
    CHECK_EQ_INT(find(&r.segment, &t), HS_NOT_FOUND);
    thing u = thing_make(2, 600);
    CHECK(store(&w, &u) == place); /* written over */
    CHECK_EQ_INT(find(&r.segment, &u), HS_OK);
    worker_leave(&w);
    rig_break(&r);
}

static void same_id_is_put_once(void) {
    rig r;
    worker a, b;
    rig_make(&r, 4);
    worker_join(&r, &a);
    worker_join(&r, &b);
    thing t = thing_make(1, 600);
    uint64_t first, again;
    bool added;
    CHECK_EQ_INT(put(&a, &t, &first, &added), HS_OK);
    CHECK(added);
    CHECK_EQ_INT(put(&a, &t, &again, &added), HS_OK); /* not flushed yet */
    CHECK(!added && again == first);
    CHECK_EQ_INT(put(&b, &t, &again, &added), HS_OK); /* b cannot know */
    CHECK(added && again != first);
    hs_ring_end(&b.ring);
    CHECK_EQ_INT(hs_ring_flush(&a.ring), HS_OK);
    CHECK_EQ_INT(put(&b, &t, &again, &added), HS_OK);
    CHECK(!added && again == first);
    worker_leave(&a);
    worker_leave(&b);
    rig_break(&r);
}

static int offer(worker *w, const thing *t, bool *added) {
    hs_ring_item item = {.kind = HS_ENTRY_NODE,
                         .id = t->id,
                         .payload = t->bytes,
                         .stored_size = (uint32_t)t->size,
                         .raw_size = t->size};
    return hs_ring_offer(&w->ring, &item, added);
}

static void offer_is_looked_up_by_what_comes_next(void) {
    rig r;
    worker a, b;
    rig_make(&r, 4);
    worker_join(&r, &a);
    worker_join(&r, &b);
    thing t = thing_make(1, 600), u = thing_make(2, 300), v = thing_make(3, 400);
    bool added;
    CHECK_EQ_INT(offer(&a, &t, &added), HS_OK);
    CHECK(added);
    CHECK_EQ_INT(offer(&a, &t, &added), HS_OK); /* a repeat within the commit */
    CHECK(!added);
    CHECK_EQ_INT(hs_ring_flush(&a.ring), HS_OK);
    CHECK_EQ_INT(find(&r.segment, &t), HS_OK);
    CHECK_EQ_INT(a.ring.spared.nodes, 0);

    CHECK_EQ_INT(offer(&b, &t, &added), HS_OK); /* a guess: it stands */
    CHECK(added);
    uint32_t end = b.ring.writer.end;
    CHECK_EQ_INT(offer(&b, &u, &added), HS_OK); /* looked up by the next, which takes its place */
    CHECK_EQ_INT(b.ring.spared.nodes, 1);
    CHECK_EQ_INT(b.ring.spared.node_bytes, 600);
    CHECK(b.ring.writer.end < end);
    CHECK_EQ_INT(offer(&b, &t, &added), HS_OK);
    hs_ring_settle(&b.ring);
    CHECK_EQ_INT(b.ring.spared.nodes, 2);
    CHECK_EQ_INT(offer(&b, &t, &added), HS_OK);
    CHECK_EQ_INT(hs_ring_flush(&b.ring), HS_OK);
    CHECK_EQ_INT(b.ring.spared.nodes, 3);
    CHECK_EQ_INT(find(&r.segment, &u), HS_OK);
    CHECK_EQ_INT(offer(&b, &v, &added), HS_OK);
    hs_ring_end(&b.ring); /* given up before it was looked up */
    CHECK_EQ_INT(hs_ring_flush(&b.ring), HS_OK);
    CHECK_EQ_INT(find(&r.segment, &v), HS_NOT_FOUND);
    worker_leave(&a);
    worker_leave(&b);
    rig_break(&r);
}

static void blob_name_and_value_of_one_id_are_two_things(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing t = thing_make(1, 600);
    hs_ring_item blob = {.kind = HS_ENTRY_BLOB, .id = t.id, .raw_size = 600};
    uint64_t place;
    bool added;
    CHECK_EQ_INT(hs_ring_put(&w.ring, &blob, &place, &added), HS_OK);
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK);
    CHECK_EQ_INT(put(&w, &t, &place, &added), HS_OK);
    CHECK(added);
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK);
    CHECK_EQ_INT(find(&r.segment, &t), HS_OK);
    worker_leave(&w);
    rig_break(&r);
}

static void impossible_items_are_refused(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    static uint8_t big[HS_ENTRY_PAYLOAD_MAX + 1];
    uint8_t id[32] = {1};
    uint64_t place;
    bool added;
    hs_ring_item bad[] = {
        {.kind = HS_ENTRY_VALUE, .id = id, .payload = big, .stored_size = sizeof big, .raw_size = sizeof big},
        {.kind = HS_ENTRY_VALUE, .id = id, .payload = big, .stored_size = 10, .raw_size = 11},
        {.kind = HS_ENTRY_VALUE, .payload = big, .stored_size = 10, .raw_size = 10},
        {.kind = HS_ENTRY_RECORD, .id = id, .payload = big, .stored_size = 10, .raw_size = 10},
        {.kind = HS_ENTRY_BLOB, .id = id, .payload = big, .stored_size = 10, .raw_size = 10},
        {.kind = 0, .id = id},
        {.kind = 5, .id = id},
        {.kind = HS_ENTRY_NODE, .codec = 2, .id = id},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_EQ_INT(hs_ring_put(&w.ring, &bad[i], &place, &added), HS_ARGUMENT);
        CHECK_EQ_INT(hs_ring_append(&w.ring, &bad[i], &place), HS_ARGUMENT);
    }
    hs_ring_item largest = {.kind = HS_ENTRY_VALUE,
                            .codec = HS_CODEC_LZ4,
                            .id = id,
                            .payload = big,
                            .stored_size = HS_ENTRY_PAYLOAD_MAX,
                            .raw_size = 1 << 30};
    CHECK_EQ_INT(hs_ring_put(&w.ring, &largest, &place, &added), HS_OK);
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK);
    worker_leave(&w);
    rig_break(&r);
}

static void small_buffer_is_told_the_size(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing t = thing_make(3, 600);
    uint64_t place = store(&w, &t);
    uint8_t buffer[600];
    hs_ring_hit hit;
    CHECK_EQ_INT(hs_ring_get(&w.ring, t.id, buffer, 599, &hit), HS_SMALL);
    CHECK_EQ_INT(hit.stored_size, 600);
    CHECK_EQ_INT(hs_ring_get(&w.ring, t.id, buffer, 600, &hit), HS_OK);
    CHECK(hit.place == place && hit.kind == HS_ENTRY_VALUE && hit.raw_size == 600);
    CHECK_EQ_INT(hs_ring_read(&r.segment, place, buffer, 10, &hit), HS_SMALL);
    CHECK_EQ_INT(hs_ring_read(&r.segment, place, buffer, 600, &hit), HS_OK);
    CHECK_EQ_MEM(buffer, t.bytes, 600);
    worker_leave(&w);
    rig_break(&r);
}

static void words_that_are_no_places_are_in_l2(void) {
    rig r;
    hs_ring_hit hit;
    uint8_t buffer[64];
    rig_make(&r, 4);
    CHECK_EQ_INT(hs_ring_read(&r.segment, HS_WORD_IN_L2 | 5, buffer, 64, &hit), HS_NOT_FOUND);
    CHECK_EQ_INT(hs_ring_read(&r.segment, 0, buffer, 64, &hit), HS_NOT_FOUND);
    CHECK_EQ_INT(hs_ring_read(&r.segment, hs_place_make(1, 4, 0), buffer, 64, &hit),
                 HS_NOT_FOUND); /* no such chunk */
    CHECK_EQ_INT(hs_ring_read(&r.segment, hs_place_make(1, 2, 0), buffer, 64, &hit),
                 HS_NOT_FOUND); /* no such generation */
    rig_break(&r);
}

static void damaged_byte_is_never_returned(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing t = thing_make(3, 100);
    uint64_t place = store(&w, &t);
    uint8_t *entry = hs_chunk_address(&r.segment, hs_place_chunk(place), hs_place_offset(place)), buffer[200];
    hs_ring_hit hit;
    for (size_t i = 0; i < sizeof(hs_entry) + 100; i++) {
        entry[i] ^= 0x10;
        CHECK_EQ_INT(hs_ring_get(&w.ring, t.id, buffer, sizeof buffer, &hit), HS_NOT_FOUND);
        CHECK_EQ_INT(hs_ring_read(&r.segment, place, buffer, sizeof buffer, &hit), HS_CORRUPT);
        entry[i] ^= 0x10;
    }
    CHECK_EQ_INT(find(&r.segment, &t), HS_OK);
    uint32_t huge = UINT32_MAX;
    memcpy(entry + offsetof(hs_entry, stored_size), &huge, 4);
    CHECK_EQ_INT(hs_ring_get(&w.ring, t.id, buffer, sizeof buffer, &hit), HS_NOT_FOUND);
    worker_leave(&w);
    rig_break(&r);
}

static void damaged_cursor_leads_no_reader_out_of_the_chunk(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing t = thing_make(3, 100);
    store(&w, &t);
    hs_store_release(&r.segment.chunks[0].word,
                     hs_chunk_word_make(1, HS_CHUNK_SEALED, 0, (1u << HS_CHUNK_CURSOR_BITS) - 1));
    CHECK_EQ_INT(find(&r.segment, &t), HS_OK);
    uint8_t *last = hs_chunk_address(&r.segment, 0, HS_CHUNK_UNITS - 4);
    hs_entry header = {.kind = HS_ENTRY_VALUE, .stored_size = 5000, .raw_size = 5000};
    uint8_t buffer[5000];
    hs_ring_hit hit;
    memcpy(last, &header, sizeof header);
    CHECK_EQ_INT(
        hs_ring_read(&r.segment, hs_place_make(1, 0, HS_CHUNK_UNITS - 4), buffer, sizeof buffer, &hit),
        HS_CORRUPT);
    hs_store_release(&r.segment.chunks[0].persisted, UINT64_MAX);
    hs_drain_round round;
    drain_round(&r, &round); /* walks up to the damage, and ends */
    CHECK_EQ_INT(hs_drain_has_work(r.drain, 0), 0);
    worker_leave(&w);
    rig_break(&r);
}

/* Fill the ring with things first, first + 1 ... until it is full; how many went in. */
static uint64_t fill(worker *w, uint64_t first, uint32_t size) {
    uint64_t n = first, place;
    for (;; n++) {
        thing t = thing_make(n, size);
        bool added;
        int status = put(w, &t, &place, &added);
        if (status == HS_WAIT) break;
        CHECK_EQ_INT(status, HS_OK);
        if (status != HS_OK) break;
    }
    return n - first;
}

/* How many damaged entries there are; the first one's place and id. */
static uint32_t damage_count(const hs_segment *segment, uint64_t *first, uint8_t id[32]) {
    uint32_t chunk = 0, offset = 0, found = 0;
    uint64_t place;
    uint8_t one[32];
    while (hs_ring_damage(segment, &chunk, &offset, &place, one) == HS_OK) {
        if (found++ > 0) continue;
        *first = place;
        memcpy(id, one, 32);
    }
    return found;
}

static void damage_is_found_by_its_place_and_what_is_behind_it_is_looked_at(void) {
    rig r;
    worker w;
    uint64_t places[3], found;
    uint8_t id[32];
    thing things[3];
    rig_make(&r, 4);
    worker_join(&r, &w);
    for (int i = 0; i < 3; i++) {
        things[i] = thing_make((uint64_t)i, 200);
        places[i] = store(&w, &things[i]);
    }
    CHECK_EQ_INT(damage_count(&r.segment, &found, id), 0);
    uint8_t *entry = hs_chunk_address(&r.segment, hs_place_chunk(places[1]), hs_place_offset(places[1]));
    entry[sizeof(hs_entry) + 7] ^= 4;
    CHECK_EQ_INT(damage_count(&r.segment, &found, id), 1);
    CHECK(found == places[1]);
    CHECK_EQ_MEM(id, things[1].id, 32);
    entry[sizeof(hs_entry) + 7] ^= 4;
    entry[offsetof(hs_entry, kind)] = 77; /* no header at all: what is behind it cannot be found */
    static const uint8_t zeros[32];
    CHECK_EQ_INT(damage_count(&r.segment, &found, id), 1);
    CHECK(found == places[1]);
    CHECK_EQ_MEM(id, zeros, 32);
    worker_leave(&w);
    rig_break(&r);
}

static void full_ring_waits_with_its_chunks_sealed_and_published(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint64_t count = fill(&w, 0, 2048);
    CHECK(count > 4 * 480 && count < 4 * 500);
    CHECK(!w.ring.writer.owned);
    CHECK_EQ_INT(w.ring.pending_count, 0);
    for (uint32_t i = 0; i < 4; i++)
        CHECK_EQ_INT(hs_chunk_word_decode(hs_load_acquire(&r.segment.chunks[i].word)).state, HS_CHUNK_SEALED);
    for (uint64_t n = 0; n < count; n += 97) {
        thing t = thing_make(n, 2048);
        CHECK_EQ_INT(find(&r.segment, &t), HS_OK);
    }
    CHECK_EQ_INT(hs_ring_wait(&w.ring, 1), HS_TIMED_OUT);
    CHECK_EQ_INT(hs_load32_acquire(&r.segment.header->urgent), 1);
    hs_drain_round round;
    CHECK_EQ_INT(drain_round(&r, &round), count);
    CHECK_EQ_INT(round.chunks_sealed, 4);
    CHECK_EQ_INT(hs_ring_wait(&w.ring, 10000), HS_OK); /* the round was done since the put that had to wait */
    for (uint64_t n = 0; n < count; n += 97) {         /* freed, not yet overwritten: still a cache */
        thing t = thing_make(n, 2048);
        CHECK_EQ_INT(find(&r.segment, &t), HS_OK);
    }
    worker_leave(&w);
    rig_break(&r);
}

static void ring_goes_round_and_forgets_what_was_drained(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    uint64_t first = 0, count = 0;
    hs_drain_round round;
    for (int lap = 0; lap < 5; lap++) {
        first += count;
        count = fill(&w, first, 2048);
        CHECK(count > 4 * 480);
        CHECK_EQ_INT(drain_round(&r, &round), count);
    }
    for (uint64_t n = 0; n < first; n += 31) {
        thing t = thing_make(n, 2048);
        CHECK_EQ_INT(find(&r.segment, &t), HS_NOT_FOUND);
    }
    for (uint64_t n = first; n < first + count; n += 31) {
        thing t = thing_make(n, 2048);
        CHECK_EQ_INT(find(&r.segment, &t), HS_OK);
    }
    CHECK_EQ_INT(hs_chunk_word_decode(hs_load_acquire(&r.segment.chunks[0].word)).generation, 5);
    worker_leave(&w);
    rig_break(&r);
}

/* Hit thing n of chunk 0, `times`; what its chunk's next claim should keep. */
static void hit(rig *r, worker *w, uint64_t n, int times) {
    thing t = thing_make(n, 2048);
    uint8_t buffer[2048];
    hs_ring_hit found;
    CHECK_EQ_INT(hs_ring_get(&w->ring, t.id, buffer, sizeof buffer, &found), HS_OK);
    CHECK_EQ_INT(hs_place_chunk(found.place), 0);
    for (int i = 0; i < times; i++) hs_heat_touch(&r->segment, found.place);
}

/* Claim the next chunk, by putting a thing that fills `size`. */
static uint32_t claim_next(worker *w, uint64_t n, uint32_t size) {
    thing t = thing_make(n, size);
    uint32_t chunk = hs_place_chunk(store(w, &t));
    return chunk;
}

static void what_was_hit_is_kept_by_who_claims_its_chunk(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    hs_drain_round round;
    uint64_t count = fill(&w, 0, 2048), in_chunk = count / 4;
    drain_round(&r, &round);
    for (uint64_t n = 0; n < in_chunk; n += 3) hit(&r, &w, n, 1);
    CHECK_EQ_INT(claim_next(&w, count, 2048), 0);
    uint64_t units = (in_chunk + 2) / 3 * hs_ring_units(2048);
    CHECK_EQ_INT(hs_load_relaxed(&r.segment.header->kept), units);
    CHECK_EQ_INT(chunk_of(&r.segment, hs_place_make(2, 0, 0)).cursor, units + hs_ring_units(2048));
    uint8_t buffer[2048];
    hs_ring_hit found;
    for (uint64_t n = 0; n < in_chunk; n++) {
        thing t = thing_make(n, 2048);
        CHECK_EQ_INT(find(&r.segment, &t), n % 3 == 0 ? HS_OK : HS_NOT_FOUND);
        if (n % 3 != 0) continue;
        CHECK_EQ_INT(hs_ring_get(&w.ring, t.id, buffer, sizeof buffer, &found), HS_OK);
        CHECK(found.flags == HS_ENTRY_CACHED && hs_place_generation(found.place) == 2);
    }
    CHECK_EQ_INT(drain_round(&r, &round), 1); /* the drain passes over what is kept: L2 has it */
    CHECK_EQ_INT(round.damaged, 0);
    worker_leave(&w);
    rig_break(&r);
}

/* Seal the chunk at hand, drain it, and claim `chunks` more. */
static void lap(rig *r, worker *w, uint64_t *next, int chunks) {
    hs_drain_round round;
    for (int i = 0; i < chunks; i++) {
        w->ring.writer.owned = false;
        hs_participant *self = &w->self;
        CHECK_EQ_INT(hs_chunk_claim(&r->segment, self, &w->ring.writer, 1), HS_OK);
        hs_chunk_release(&r->segment, self, &w->ring.writer, true);
        drain_round(r, &round);
        claim_next(w, (*next)++, 100);
    }
}

static void each_hit_is_a_lap_and_three_are_the_most(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing once = thing_make(0, 2048), often = thing_make(1, 2048), never = thing_make(2, 2048);
    CHECK_EQ_INT(hs_place_chunk(store(&w, &once)), 0);
    store(&w, &often);
    store(&w, &never);
    uint64_t next = 100;
    hit(&r, &w, 0, 1);
    hit(&r, &w, 1, 100);
    for (int laps = 0; laps < 5; laps++) {
        CHECK_EQ_INT(find(&r.segment, &never), laps < 1 ? HS_OK : HS_NOT_FOUND);
        CHECK_EQ_INT(find(&r.segment, &once), laps < 2 ? HS_OK : HS_NOT_FOUND);
        CHECK_EQ_INT(find(&r.segment, &often), laps < 4 ? HS_OK : HS_NOT_FOUND);
        lap(&r, &w, &next, 4);
    }
    worker_leave(&w);
    rig_break(&r);
}

static void what_is_damaged_or_stands_elsewhere_is_not_kept(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    hs_drain_round round;
    uint64_t count = fill(&w, 0, 2048), place;
    drain_round(&r, &round);
    for (uint64_t n = 0; n < 6; n++) hit(&r, &w, n, 1);
    hs_chunk_address(&r.segment, 0, 0)[sizeof(hs_entry) + 100] ^= 1; /* the payload of 0 */
    hs_chunk_address(&r.segment, 0, hs_ring_units(2048))[20] ^= 2;   /* the kind of 1 */
    hs_heat_set(&r.segment, 0, 2 * hs_ring_units(2048) + 3, 2);      /* amid 2 */
    hs_heat_set(&r.segment, 0, HS_CHUNK_UNITS - 1, 2);               /* no room for an entry */
    thing t = thing_make(3, 2048);
    hs_ring_item item = thing_item(&t);
    w.ring.writer.chunk = 0; /* another copy of 3, in the chunk after */
    hs_store_relaxed(&r.segment.header->claim_hint, 0);
    CHECK_EQ_INT(hs_ring_append(&w.ring, &item, &place), HS_OK);
    CHECK_EQ_INT(hs_place_chunk(place), 1);
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK);
    hs_chunk_release(&r.segment, &w.self, &w.ring.writer, true);
    hs_store_relaxed(&r.segment.header->claim_hint, 3);
    CHECK_EQ_INT(claim_next(&w, count, 2048), 0);
    CHECK_EQ_INT(hs_load_relaxed(&r.segment.header->kept), 2 * hs_ring_units(2048)); /* 4 and 5 */
    for (uint64_t n = 0; n < 6; n++) {
        t = thing_make(n, 2048);
        CHECK_EQ_INT(find(&r.segment, &t), n < 3 ? HS_NOT_FOUND : HS_OK);
    }
    worker_leave(&w);
    rig_break(&r);
}

static void what_is_kept_leaves_room_for_what_is_new(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    hs_drain_round round;
    uint64_t count = fill(&w, 0, 2048);
    drain_round(&r, &round);
    for (uint64_t n = 0; n < count / 4; n++) hit(&r, &w, n, 1);
    uint8_t *large = calloc(1, HS_ENTRY_PAYLOAD_MAX);
    thing name = thing_make(count, 32);
    uint64_t place;
    hs_ring_item item = {.kind = HS_ENTRY_VALUE,
                         .id = name.id,
                         .payload = large,
                         .stored_size = HS_ENTRY_PAYLOAD_MAX,
                         .raw_size = HS_ENTRY_PAYLOAD_MAX};
    CHECK_EQ_INT(hs_ring_append(&w.ring, &item, &place), HS_OK);
    CHECK_EQ_INT(hs_place_chunk(place), 0);
    CHECK(hs_place_offset(place) > HS_CHUNK_UNITS / 2 - 2 * hs_ring_units(2048));
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK);
    free(large);
    worker_leave(&w);
    rig_break(&r);
}

static void reaped_writer_begins_again(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing kept = thing_make(1, 600), lost = thing_make(2, 600);
    uint64_t place;
    bool added;
    CHECK_EQ_INT(put(&w, &kept, &place, &added), HS_OK);
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK);
    CHECK_EQ_INT(put(&w, &lost, &place, &added), HS_OK);
    /* The lock is lost behind the engine's back: the coordinator takes this process for dead. */
    struct flock unlock = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    REQUIRE(fcntl(w.self.fd, F_OFD_SETLK, &unlock) == 0);
    hs_drain_round round;
    CHECK_EQ_INT(drain_round(&r, &round), 1);
    CHECK_EQ_INT(round.reaped, 1);
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_REAPED);
    CHECK_EQ_INT(w.ring.pending_count, 0);
    CHECK_EQ_INT(find(&r.segment, &kept), HS_OK);
    CHECK_EQ_INT(find(&r.segment, &lost), HS_NOT_FOUND);
    place = store(&w, &lost);
    CHECK_EQ_INT(find(&r.segment, &lost), HS_OK);
    worker_leave(&w);
    rig_break(&r);
}

static void writer_reaped_while_its_chunk_is_reused_yields_no_wrong_bytes(void) {
    rig r;
    worker suspect, other;
    rig_make(&r, 4);
    worker_join(&r, &suspect);
    worker_join(&r, &other);
    thing mine = thing_make(1, 600), theirs = thing_make(2, 600);
    uint64_t place;
    bool added;
    CHECK_EQ_INT(put(&suspect, &mine, &place, &added), HS_OK);
    hs_store_release(&r.segment.chunks[0].word,
                     hs_chunk_word_make(2, HS_CHUNK_IDLE, 0, 0)); /* reaped, freed, claimed, released */
    other.ring.writer = (hs_chunk_writer){.chunk = 0, .generation = 2};
    CHECK_EQ_INT(hs_place_chunk(store(&other, &theirs)), 0);
    CHECK_EQ_INT(find(&r.segment, &theirs), HS_OK);
    memcpy(hs_chunk_address(&r.segment, 0, 0) + 300, mine.bytes + 300, 50); /* the suspect goes on writing */
    CHECK_EQ_INT(find(&r.segment, &theirs), HS_NOT_FOUND);
    CHECK_EQ_INT(hs_ring_flush(&suspect.ring), HS_REAPED);
    worker_leave(&suspect);
    worker_leave(&other);
    rig_break(&r);
}

/* Stopped before it wrote, taken for dead, and continued when another owned the chunk: it wrote a whole entry, with a sum that was right
 * for where it thought it was, over the other's. The head that named the other's record then led to this one. */
static void late_entry_of_a_reaped_writer_is_whole_in_its_own_use_of_the_chunk_only(void) {
    rig r;
    worker old, new;
    rig_make(&r, 4);
    worker_join(&r, &old);
    worker_join(&r, &new);
    uint8_t late[64], buffer[8] = "late", other[8] = "new";
    hs_ring_item item = {.kind = HS_ENTRY_RECORD, .payload = buffer, .stored_size = 8, .raw_size = 8};
    uint64_t first, second;
    bool added;
    hs_ring_hit hit;
    CHECK_EQ_INT(hs_ring_put(&old.ring, &item, &first, &added), HS_OK);
    uint8_t *at = hs_chunk_address(&r.segment, hs_place_chunk(first), hs_place_offset(first));
    memcpy(late, at, sizeof late);
    /* Reaped; its chunk, in which nothing was published, is the first to be claimed again. */
    hs_store_release(&r.segment.chunks[hs_place_chunk(first)].word,
                     hs_chunk_word_make(hs_place_generation(first), HS_CHUNK_FREE, 0, 0));
    hs_store_relaxed(&r.segment.header->claim_hint, hs_place_chunk(first) + 3);
    item.payload = other;
    CHECK_EQ_INT(hs_ring_put(&new.ring, &item, &second, &added), HS_OK);
    CHECK_EQ_INT(hs_ring_flush(&new.ring), HS_OK);
    REQUIRE(hs_place_chunk(second) == hs_place_chunk(first) && second != first);
    memcpy(at, late, sizeof late);
    CHECK_EQ_INT(hs_ring_read(&r.segment, second, buffer, 8, &hit), HS_CORRUPT);
    CHECK_EQ_INT(hs_ring_flush(&old.ring), HS_REAPED);
    worker_leave(&old);
    worker_leave(&new);
    rig_break(&r);
}

static void put_after_being_reaped_in_a_full_chunk_says_so(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing t = thing_make(1, 2048);
    uint64_t place;
    bool added;
    CHECK_EQ_INT(put(&w, &t, &place, &added), HS_OK);
    hs_store_release(&r.segment.chunks[0].word, hs_chunk_word_make(1, HS_CHUNK_SEALED, 0, 0));
    w.ring.writer.end = HS_CHUNK_UNITS - 1;
    t = thing_make(2, 2048);
    CHECK_EQ_INT(put(&w, &t, &place, &added), HS_REAPED);
    CHECK_EQ_INT(put(&w, &t, &place, &added), HS_OK);
    worker_leave(&w);
    rig_break(&r);
}

static void long_run_of_puts_flushes_by_itself(void) {
    rig r;
    worker w;
    rig_make(&r, 4);
    worker_join(&r, &w);
    thing first = thing_make(0, 40);
    uint64_t place;
    bool added;
    for (uint64_t n = 0; n <= HS_RING_PENDING_MAX; n++) {
        thing t = thing_make(n, 40);
        CHECK_EQ_INT(put(&w, &t, &place, &added), HS_OK);
    }
    CHECK_EQ_INT(find(&r.segment, &first), HS_OK);
    worker_leave(&w);
    rig_break(&r);
}

/* Two writers and a reader: the reader finds each thing whole or not at all, and at the end all of them. */
enum { EACH = 3000 };
typedef struct actor {
    rig *r;
    uint64_t first;
    hs_word32 *done;
} actor;

static void *write_many(void *argument) {
    actor *a = argument;
    worker w;
    worker_join(a->r, &w);
    for (uint64_t n = a->first; n < a->first + EACH;) {
        thing t = thing_make(n, 900);
        uint64_t place;
        bool added;
        int status = put(&w, &t, &place, &added);
        if (status == HS_OK && n % 3 == 0) {
            status = hs_ring_flush(&w.ring);
            hs_ring_end(&w.ring);
        }
        if (status == HS_OK) n++;
        if (status == HS_WAIT) hs_ring_wait(&w.ring, 50);
        CHECK(status == HS_OK || status == HS_WAIT);
    }
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK);
    worker_leave(&w);
    hs_add32_seq_cst(a->done, 1);
    return NULL;
}

static void *drain_many(void *argument) {
    actor *a = argument;
    hs_drain_round round;
    while (hs_load32_acquire(a->done) < 2 || hs_drain_has_work(a->r->drain, 0)) {
        if (hs_drain_has_work(a->r->drain, 0)) drain_round(a->r, &round);
        hs_drain_sleep(a->r->drain, 5, 0);
    }
    return NULL;
}

static void readers_see_whole_entries_while_the_ring_goes_round(void) {
    rig r;
    rig_make(&r, 4); /* 4 MiB for 6 */
    hs_word32 done = 0;
    actor actors[3] = {{&r, 0, &done}, {&r, EACH, &done}, {&r, 0, &done}};
    pthread_t threads[3];
    REQUIRE(pthread_create(&threads[0], NULL, write_many, &actors[0]) == 0);
    REQUIRE(pthread_create(&threads[1], NULL, write_many, &actors[1]) == 0);
    REQUIRE(pthread_create(&threads[2], NULL, drain_many, &actors[2]) == 0);
    uint64_t found = 0;
    uint8_t buffer[900];
    hs_ring reader;
    hs_ring_init(&reader, &r.segment, NULL);
    for (uint64_t n = 0; hs_load32_acquire(&done) < 2; n = (n + 61) % (2 * EACH)) {
        thing t = thing_make(n, 900);
        hs_ring_hit hit;
        int status = hs_ring_get(&reader, t.id, buffer, sizeof buffer, &hit);
        CHECK(status == HS_OK || status == HS_NOT_FOUND);
        if (status != HS_OK) continue;
        CHECK(hit.stored_size == t.size && memcmp(buffer, t.bytes, t.size) == 0);
        hs_heat_touch(&r.segment, hit.place); /* so that it is moved while others read it */
        found++;
    }
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    thing last = thing_make(2 * EACH - 1, 900);
    CHECK(found > 0 || find(&r.segment, &last) == HS_OK);
    rig_break(&r);
}

static void bell_rings_only_for_one_who_sleeps(void) {
    rig r;
    rig_make(&r, 4);
    hs_segment_header *header = r.segment.header;
    hs_ring_bell(&r.segment);
    CHECK_EQ_INT(hs_load32_relaxed(&header->bell), 0);
    hs_store32_relaxed(&header->sleeping, 1);
    hs_ring_bell(&r.segment);
    CHECK_EQ_INT(hs_load32_relaxed(&header->bell), 1);
    CHECK_EQ_INT(hs_load32_relaxed(&header->sleeping), 0);
    rig_break(&r);
}

static void put_and_flush(void *context) {
    worker w;
    worker_join(context, &w);
    thing t = thing_make(7, 600);
    store(&w, &t);
}

static void death_at_each_step_of_a_put_leaves_it_whole_or_absent(void) {
    const char *labels[] = {"append_header", "append_payload", "publish_before",
                            "publish_after", "index_before",   "index_after"};
    for (int i = 0; i < 6; i++) {
        rig r;
        hs_drain_round round;
        rig_make(&r, 4);
        CHECK(dies_at(labels[i], 1, put_and_flush, &r));
        thing t = thing_make(7, 600);
        CHECK_EQ_INT(find(&r.segment, &t), i == 5 ? HS_OK : HS_NOT_FOUND);
        CHECK_EQ_INT(drain_round(&r, &round),
                     i < 3 ? 0 : 1); /* what is published reaches L2, indexed or not */
        CHECK_EQ_INT(round.damaged, 0);
        CHECK_EQ_INT(hs_drain_has_work(r.drain, 1), 0);
        worker w;
        worker_join(&r, &w);
        store(&w, &t);
        CHECK_EQ_INT(find(&r.segment, &t), HS_OK);
        worker_leave(&w);
        rig_break(&r);
    }
}

static void private_segment_needs_no_participant(void) {
    hs_segment_config config = rig_config(4);
    hs_segment s;
    worker w;
    hs_drain *drain;
    hs_drain_round round;
    REQUIRE(hs_segment_create_private(&config, &s) == HS_OK);
    hs_participant_none(&w.self);
    hs_ring_init(&w.ring, &s, &w.self);
    thing t = thing_make(1, 600);
    store(&w, &t);
    CHECK_EQ_INT(find(&s, &t), HS_OK);
    REQUIRE(hs_drain_open(&s, -1, &drain) == HS_OK);
    uint64_t place;
    bool added;
    thing u = thing_make(2, 600);
    CHECK_EQ_INT(put(&w, &u, &place, &added), HS_OK);
    CHECK_EQ_INT(hs_drain_collect(drain, &round), HS_OK);
    CHECK_EQ_INT(round.chunks_busy, 1); /* nobody dies here */
    CHECK_EQ_INT(hs_drain_finish(drain), HS_OK);
    CHECK_EQ_INT(hs_ring_flush(&w.ring), HS_OK);
    hs_ring_expect(&w.ring, u.id);
    CHECK_EQ_INT(find(&s, &u), HS_OK);
    hs_drain_close(drain);
    hs_ring_end(&w.ring);
    hs_segment_detach(&s);
}

int main(void) {
    RUN(put_is_found_by_a_reader_without_a_slot);
    RUN(nothing_is_found_before_it_is_flushed);
    RUN(same_id_is_put_once);
    RUN(offer_is_looked_up_by_what_comes_next);
    RUN(blob_name_and_value_of_one_id_are_two_things);
    RUN(impossible_items_are_refused);
    RUN(small_buffer_is_told_the_size);
    RUN(words_that_are_no_places_are_in_l2);
    RUN(damaged_byte_is_never_returned);
    RUN(damage_is_found_by_its_place_and_what_is_behind_it_is_looked_at);
    RUN(damaged_cursor_leads_no_reader_out_of_the_chunk);
    RUN(full_ring_waits_with_its_chunks_sealed_and_published);
    RUN(ring_goes_round_and_forgets_what_was_drained);
    RUN(what_was_hit_is_kept_by_who_claims_its_chunk);
    RUN(each_hit_is_a_lap_and_three_are_the_most);
    RUN(what_is_damaged_or_stands_elsewhere_is_not_kept);
    RUN(what_is_kept_leaves_room_for_what_is_new);
    RUN(reaped_writer_begins_again);
    RUN(writer_reaped_while_its_chunk_is_reused_yields_no_wrong_bytes);
    RUN(late_entry_of_a_reaped_writer_is_whole_in_its_own_use_of_the_chunk_only);
    RUN(put_after_being_reaped_in_a_full_chunk_says_so);
    RUN(long_run_of_puts_flushes_by_itself);
    RUN(readers_see_whole_entries_while_the_ring_goes_round);
    RUN(bell_rings_only_for_one_who_sleeps);
    RUN(death_at_each_step_of_a_put_leaves_it_whole_or_absent);
    RUN(private_segment_needs_no_participant);
    return hs_test_report();
}
