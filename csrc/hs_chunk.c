/* hs_chunk.c - the writer's transitions of the chunk word. The coordinator's (to SEALED, to FREE) are in hs_drain.c. */
#include "hs_chunk.h"
#include <assert.h>
#include "helios_shm.h"
#include "hs_step.h"

#define FAULT_AROUND (64u << 10) /* bytes that one read fault maps */
#define ROOM_MIN     64u         /* units; with fewer left a chunk is given up as full */

static bool own(hs_segment *segment, const hs_participant *self, hs_chunk_writer *writer, uint32_t chunk,
                uint64_t word, uint32_t generation, uint32_t cursor) {
    HS_STEP(claim_before);
    /* E2 (acquire end): the coordinator freed it after L2 had all of it; or its last owner released it.
     * E18 (release end): who sees that it is mine sees that I have joined. */
    uint64_t mine = hs_chunk_word_make(generation, HS_CHUNK_BUSY, self->index, cursor);
    if (!hs_cas_seq_cst(&segment->chunks[chunk].word, &word, mine)) return false;
    hs_fence_release(); /* E4: a reader that sees a byte of mine sees the new generation as well */
    HS_STEP(claim_after);
    *writer = (hs_chunk_writer){
        .owned = true, .chunk = chunk, .generation = generation, .published = cursor, .end = cursor};
    return true;
}

static void seal_idle(hs_segment *segment, uint32_t chunk, uint64_t word) {
    hs_chunk_state_word w = hs_chunk_word_decode(word);
    hs_cas_seq_cst(&segment->chunks[chunk].word, &word,
                   hs_chunk_word_make(w.generation, HS_CHUNK_SEALED, 0, w.cursor));
}

/* Take an IDLE chunk over if it has room; seal it if not. */
static bool own_idle(hs_segment *segment, const hs_participant *self, hs_chunk_writer *writer, uint32_t chunk,
                     uint32_t units) {
    uint64_t word = hs_load_acquire(&segment->chunks[chunk].word);
    hs_chunk_state_word w = hs_chunk_word_decode(word);
    if (w.state != HS_CHUNK_IDLE) return false;
    if (w.cursor + units <= HS_CHUNK_UNITS)
        return own(segment, self, writer, chunk, word, w.generation, w.cursor);
    seal_idle(segment, chunk, word);
    return false;
}

static void fault_in(const hs_segment *segment, uint32_t chunk) {
    const uint8_t *start = hs_chunk_address(segment, chunk, 0);
    for (uint32_t offset = 0; offset < HS_CHUNK_SIZE; offset += FAULT_AROUND)
        (void)hs_load_relaxed((const hs_word *)(const void *)(start + offset));
}

/* HS_OK: owned; HS_NOT_FOUND: none is FREE; HS_NO_SPACE: those that are have no memory. */
static int own_free(hs_segment *segment, const hs_participant *self, hs_chunk_writer *writer) {
    uint32_t count = segment->chunk_count, first = (uint32_t)hs_load_relaxed(&segment->header->claim_hint);
    int no_memory = HS_NOT_FOUND;
    for (uint32_t i = 1; i <= count; i++) {
        uint32_t chunk = (uint32_t)(((uint64_t)first + i) % count);
        uint64_t word = hs_load_acquire(&segment->chunks[chunk].word);
        hs_chunk_state_word w = hs_chunk_word_decode(word);
        if (w.state != HS_CHUNK_FREE || w.generation >= HS_GENERATION_MAX) continue;
        if (!hs_load32_acquire(&segment->chunks[chunk].allocated)) {
            if (no_memory == HS_NOT_FOUND) no_memory = hs_segment_allocate_chunk(segment, chunk);
            if (no_memory != HS_OK) continue; /* tried once: one that has memory may follow */
            no_memory = HS_NOT_FOUND;
        }
        if (!own(segment, self, writer, chunk, word, w.generation + 1, 0)) continue;
        hs_store_relaxed(&segment->header->claim_hint, chunk);
        fault_in(segment, chunk);
        return HS_OK;
    }
    return no_memory;
}

static bool any_allocated(const hs_segment *segment) {
    for (uint32_t chunk = 0; chunk < segment->chunk_count; chunk++)
        if (hs_load32_acquire(&segment->chunks[chunk].allocated)) return true;
    return false;
}

/* The newest chunk, if nobody has it just now and it has room. Those who write by turns share it, instead of leaving half a chunk
 * open each; those who write at the same time find it BUSY. */
static bool own_newest(hs_segment *segment, const hs_participant *self, hs_chunk_writer *writer,
                       uint32_t units) {
    uint32_t newest = (uint32_t)(hs_load_relaxed(&segment->header->claim_hint) % segment->chunk_count);
    uint64_t word = hs_load_acquire(&segment->chunks[newest].word);
    hs_chunk_state_word w = hs_chunk_word_decode(word);
    return w.state == HS_CHUNK_IDLE && w.cursor + units <= HS_CHUNK_UNITS &&
           own(segment, self, writer, newest, word, w.generation, w.cursor);
}

int hs_chunk_claim(hs_segment *segment, const hs_participant *self, hs_chunk_writer *writer, uint32_t units) {
    assert(!writer->owned && units <= HS_CHUNK_UNITS);
    if (HS_LIKELY(writer->generation != 0)) {
        if (own_idle(segment, self, writer, writer->chunk, units)) return HS_OK;
        if (own_newest(segment, self, writer, units)) return HS_OK;
    }
    int status = own_free(segment, self, writer);
    if (status == HS_OK) return HS_OK;
    uint32_t first = (uint32_t)hs_load_relaxed(&segment->header->claim_hint);
    for (uint32_t i = 1; i <= segment->chunk_count; i++) {
        uint32_t chunk = (uint32_t)(((uint64_t)first + i) % segment->chunk_count);
        if (!own_idle(segment, self, writer, chunk, units)) continue;
        fault_in(segment, chunk);
        return HS_OK;
    }
    /* A smaller /dev/shm than the ring is a smaller ring, as long as there is something to go round in. */
    return status == HS_NOT_FOUND || any_allocated(segment) ? HS_WAIT : status;
}

void hs_chunk_join_newest(const hs_segment *segment, hs_chunk_writer *writer) {
    assert(!writer->owned);
    uint32_t newest = (uint32_t)(hs_load_relaxed(&segment->header->claim_hint) % segment->chunk_count);
    hs_chunk_state_word w = hs_chunk_word_decode(hs_load_acquire(&segment->chunks[newest].word));
    if (w.state == HS_CHUNK_IDLE) *writer = (hs_chunk_writer){.chunk = newest, .generation = w.generation};
}

int hs_chunk_publish(hs_segment *segment, const hs_participant *self, hs_chunk_writer *writer) {
    assert(writer->owned);
    if (writer->end == writer->published) return HS_OK;
    HS_STEP(publish_before);
    uint64_t mine = hs_chunk_word_make(writer->generation, HS_CHUNK_BUSY, self->index, writer->published);
    uint64_t next = hs_chunk_word_make(writer->generation, HS_CHUNK_BUSY, self->index, writer->end);
    if (!hs_cas_seq_cst(&segment->chunks[writer->chunk].word, &mine, next)) { /* E1 (release end) */
        *writer = (hs_chunk_writer){.owned = false};
        return HS_REAPED;
    }
    writer->published = writer->end;
    HS_STEP(publish_after);
    return HS_OK;
}

void hs_chunk_release(hs_segment *segment, const hs_participant *self, hs_chunk_writer *writer, bool seal) {
    if (!writer->owned) return;
    uint32_t state = seal || writer->published + ROOM_MIN > HS_CHUNK_UNITS ? HS_CHUNK_SEALED : HS_CHUNK_IDLE;
    HS_STEP(release_before);
    uint64_t mine = hs_chunk_word_make(writer->generation, HS_CHUNK_BUSY, self->index, writer->published);
    uint64_t next = hs_chunk_word_make(writer->generation, state, 0, writer->published);
    /* E5 (release end): who sees it SEALED sees the head that I moved. A failure means that I was reaped: it is SEALED. */
    hs_cas_seq_cst(&segment->chunks[writer->chunk].word, &mine, next);
    writer->owned = false;
    writer->end = writer->published;
    HS_STEP(release_after);
}

bool hs_chunk_is_persisted(const hs_segment *segment, uint32_t chunk, uint32_t generation, uint32_t offset) {
    const hs_chunk_slot *slot = &segment->chunks[chunk];
    if (hs_chunk_word_generation(hs_load_acquire(&slot->word)) != generation) return true;
    uint64_t mark = hs_load_acquire(&slot->persisted); /* E14 (acquire end) */
    return (uint32_t)(mark >> 32) == generation && offset < (uint32_t)mark;
}

uint32_t hs_chunk_age(const hs_segment *segment, uint32_t chunk) {
    uint64_t newest = hs_load_relaxed(&segment->header->claim_hint) % segment->chunk_count;
    return (uint32_t)((newest + segment->chunk_count - chunk) % segment->chunk_count);
}
