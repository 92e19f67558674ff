/* hs_ring.c - put, flush, get. The order of stores is the protocol's: bytes, cursor, index; the head is the caller's. */
#include "hs_ring.h"
#include "helios_shm.h"
#include "hs_blake3.h"
#include "hs_checksum.h"
#include "hs_futex.h"
#include "hs_metrics.h"
#include "hs_step.h"

#define PREFETCHED_MAX 1024u /* bytes of a payload: what comes behind them, the processor sees coming */
#define KEPT_UNITS_MAX (HS_CHUNK_UNITS / 8 * 7) /* of a chunk: what is new must find room too */

void hs_ring_init(hs_ring *ring, hs_segment *segment, hs_participant *self) {
    memset(ring, 0, sizeof *ring);
    ring->segment = segment;
    ring->self = self;
}

uint64_t hs_ring_checksum(const uint64_t seed[2], uint32_t generation, const hs_entry *header,
                          uint64_t payload_sum) {
    uint64_t seeded[2] = {seed[0] ^ payload_sum, seed[1] ^ generation};
    _Static_assert(sizeof *header - offsetof(hs_entry, raw_size) == 48, "what the sum is of");
    return hs_checksum_48(seeded, &header->raw_size);
}

/* Do kind, codec and sizes agree, whoever says so? */
static bool sizes_agree(uint8_t kind, uint8_t codec, uint32_t stored_size, uint64_t raw_size) {
    if (stored_size > HS_ENTRY_PAYLOAD_MAX || kind < HS_ENTRY_NODE || kind > HS_ENTRY_BLOB ||
        codec > HS_CODEC_LZ4)
        return false;
    if (kind == HS_ENTRY_BLOB) return stored_size == 0;
    return codec != HS_CODEC_RAW || stored_size == raw_size;
}

bool hs_ring_header_fits(const hs_entry *header, uint32_t units_left) {
    return sizes_agree(header->kind, header->codec, header->stored_size, header->raw_size) &&
           hs_ring_units(header->stored_size) <= units_left;
}

/* ---- Reading ---- */

/* Units from this place to its chunk's cursor, 0 if the generation is not (or no longer) the place's. E1 (acquire end). */
static uint32_t units_readable(const hs_segment *segment, uint64_t place) {
    hs_chunk_state_word w =
        hs_chunk_word_decode(hs_load_acquire(&segment->chunks[hs_place_chunk(place)].word));
    uint32_t cursor = w.cursor < HS_CHUNK_UNITS ? w.cursor : HS_CHUNK_UNITS, offset = hs_place_offset(place);
    return w.generation == hs_place_generation(place) && offset < cursor ? cursor - offset : 0;
}

/* Is the chunk still of the place's generation, after its bytes were read? E4 (acquire end). */
static bool still_current(const hs_segment *segment, uint64_t place) {
    hs_fence_acquire();
    uint64_t word = hs_load_relaxed(&segment->chunks[hs_place_chunk(place)].word);
    return hs_chunk_word_generation(word) == hs_place_generation(place);
}

/* Copy payload bytes that may be overwritten meanwhile; the sum is of what was stored. */
static inline uint64_t copy_sum(const uint64_t seed[2], void *to, const void *from, size_t size) {
#ifdef __SANITIZE_THREAD__
    hs_chunk_copy(to, from, size);
    return hs_checksum(seed, to, size);
#else
    return hs_checksum_copy(seed, to, from, size);
#endif
}

/* Copy the header out; false if there is no entry with possible sizes there. */
static bool header_read(const hs_segment *segment, uint64_t place, hs_entry *header) {
    uint32_t units = units_readable(segment, place);
    if (units < hs_ring_units(0)) return false;
    hs_chunk_copy(header, hs_chunk_address(segment, hs_place_chunk(place), hs_place_offset(place)),
                  sizeof *header);
    return hs_ring_header_fits(header, units);
}

/* Copy and verify the payload under a header that was copied before. */
static int payload_read(const hs_segment *segment, uint64_t place, const hs_entry *header, void *buffer,
                        size_t capacity, hs_ring_hit *hit) {
    if (header->stored_size <= capacity) {
        const uint8_t *entry = hs_chunk_address(segment, hs_place_chunk(place), hs_place_offset(place));
        uint64_t sum = copy_sum(segment->seed, buffer, entry + sizeof *header, header->stored_size);
        if (hs_ring_checksum(segment->seed, hs_place_generation(place), header, sum) != header->checksum)
            return HS_CORRUPT;
    }
    if (!still_current(segment, place)) return HS_NOT_FOUND;
    *hit = (hs_ring_hit){.kind = header->kind,
                         .codec = header->codec,
                         .flags = header->flags,
                         .place = place,
                         .stored_size = header->stored_size,
                         .raw_size = header->raw_size};
    return header->stored_size <= capacity ? HS_OK : HS_SMALL;
}

/* Ask for an entry's lines all at once: header and payload come from memory side by side, not one after the other. */
static void entry_prefetch(const hs_segment *segment, uint64_t place, size_t size) {
    const uint8_t *entry = hs_chunk_address(segment, hs_place_chunk(place), hs_place_offset(place));
    size_t end = sizeof(hs_entry) + (size < PREFETCHED_MAX ? size : PREFETCHED_MAX);
    for (size_t at = 0; at < end; at += 64) __builtin_prefetch(entry + at);
}

void hs_ring_ahead(const hs_ring *ring, const uint8_t id[32], size_t size) {
    hs_index_key key = hs_index_key_make(ring->segment, id);
    uint64_t places[HS_INDEX_WAYS];
    if (hs_index_probe_one(ring->segment, &key, 0, places) > 0)
        entry_prefetch(ring->segment, places[0], size);
}

/* From the places that one bucket of the index has for the id. */
static int bucket_get(const hs_segment *segment, const hs_index_key *key, int which, const uint8_t id[32],
                      void *buffer, size_t capacity, hs_ring_hit *hit) {
    uint64_t places[HS_INDEX_WAYS];
    uint32_t candidates = hs_index_probe_one(segment, key, which, places);
    if (candidates > 0) entry_prefetch(segment, places[0], capacity);
    for (uint32_t i = 0; i < candidates; i++) {
        hs_entry header;
        if (!header_read(segment, places[i], &header) || memcmp(header.id, id, 32) != 0) continue;
        int status = payload_read(segment, places[i], &header, buffer, capacity, hit);
        if (status == HS_OK || status == HS_SMALL) return status;
    }
    return HS_NOT_FOUND;
}

int hs_ring_get(hs_ring *ring, const uint8_t id[32], void *buffer, size_t capacity, hs_ring_hit *hit) {
    hs_index_key key = hs_index_key_make(ring->segment, id);
    int status = bucket_get(ring->segment, &key, 0, id, buffer, capacity, hit);
    return status == HS_NOT_FOUND ? bucket_get(ring->segment, &key, 1, id, buffer, capacity, hit) : status;
}

int hs_ring_read(const hs_segment *segment, uint64_t place, void *buffer, size_t capacity, hs_ring_hit *hit) {
    if ((place & HS_WORD_IN_L2) != 0 || place == 0 || hs_place_chunk(place) >= segment->chunk_count)
        return HS_NOT_FOUND;
    hs_entry header;
    int status = header_read(segment, place, &header)
                     ? payload_read(segment, place, &header, buffer, capacity, hit)
                     : HS_CORRUPT;
    return status == HS_CORRUPT && !still_current(segment, place) ? HS_NOT_FOUND : status;
}

/* Is the entry at this place what its sum says? *units: to the next one, or, where its header cannot be, to the end. */
static bool entry_is_whole(const hs_segment *segment, uint64_t place, hs_entry *header, uint32_t *units) {
    if (!header_read(segment, place, header)) {
        memset(header, 0, sizeof *header);
        return false;
    }
    const uint8_t *entry = hs_chunk_address(segment, hs_place_chunk(place), hs_place_offset(place));
    uint64_t sum = hs_checksum(segment->seed, entry + sizeof *header, header->stored_size);
    *units = hs_ring_units(header->stored_size);
    return hs_ring_checksum(segment->seed, hs_place_generation(place), header, sum) == header->checksum;
}

int hs_ring_damage(const hs_segment *segment, uint32_t *chunk, uint32_t *offset, uint64_t *place,
                   uint8_t id[32]) {
    for (; *chunk < segment->chunk_count; ++*chunk, *offset = 0) {
        uint32_t generation =
            hs_chunk_word_generation(hs_load_acquire(&segment->chunks[*chunk].word)) & HS_GENERATION_MAX;
        while (*offset < HS_CHUNK_UNITS) {
            uint64_t at = hs_place_make(generation, *chunk, *offset);
            uint32_t units = units_readable(segment, at);
            hs_entry header;
            if (units == 0) break;
            bool whole = entry_is_whole(segment, at, &header, &units);
            *offset += units;
            if (whole) continue;
            if (!still_current(segment, at))
                break; /* reused meanwhile: what is new there was not asked for */
            *place = at;
            memcpy(id, header.id, sizeof header.id);
            return HS_OK;
        }
    }
    return HS_NOT_FOUND;
}

/* ---- Writing ---- */

/* May who writes rely on an entry that stands, so that L2 has it or will have it? Not on what came from L2, nor on what was
 * put before the last deletion, or long ago. */
static bool is_relied_on(const hs_segment *segment, const hs_entry *header, uint64_t place) {
    uint64_t stale = hs_load_relaxed(&segment->chunks[hs_place_chunk(place)].stale);
    if ((header->flags & HS_ENTRY_CACHED) != 0) return false;
    return (uint32_t)(stale >> 32) != hs_place_generation(place) || hs_place_offset(place) >= (uint32_t)stale;
}

/* The id's place in the ring, if it stands there verifiably under this header; 0 if not. BLOB names say less than bytes. `flags`: of what
 * is put; CACHED: it need not be relied on. *alone: no word of the index may be this id's. */
static uint64_t find_standing(const hs_segment *segment, const hs_index_key *key, const uint8_t id[32],
                              uint8_t kind, uint8_t flags, bool *alone) {
    uint64_t places[HS_INDEX_CANDIDATES];
    uint32_t candidates = hs_index_probe_first(segment, key, places);
    *alone = candidates == 0;
    for (uint32_t i = 0; i < candidates; i++) {
        hs_entry header;
        if (!header_read(segment, places[i], &header) || memcmp(header.id, id, 32) != 0) continue;
        if ((header.kind == HS_ENTRY_BLOB) != (kind == HS_ENTRY_BLOB) || !still_current(segment, places[i]))
            continue;
        if ((flags & HS_ENTRY_CACHED) == 0 && !is_relied_on(segment, &header, places[i])) continue;
        return places[i];
    }
    return 0;
}

bool hs_ring_stands(const hs_segment *segment, const uint8_t id[32]) {
    hs_index_key key = hs_index_key_make(segment, id);
    uint64_t places[HS_INDEX_WAYS];
    for (int which = 0; which < 2; which++) {
        uint32_t count = hs_index_probe_one(segment, &key, which, places);
        for (uint32_t i = 0; i < count; i++) {
            hs_entry header;
            if (header_read(segment, places[i], &header) && memcmp(header.id, id, 32) == 0 &&
                header.kind == HS_ENTRY_NODE && is_relied_on(segment, &header, places[i]) &&
                still_current(segment, places[i]))
                return true;
        }
    }
    return false;
}

static uint64_t find_pending(const hs_ring *ring, const uint8_t id[32]) {
    uint64_t head = hs_load_u64(id);
    for (uint32_t i = 0; i < ring->pending_count; i++)
        if (HS_UNLIKELY(ring->pending_head[i] == head) && memcmp(ring->pending_id[i], id, 32) == 0)
            return ring->pending_place[i];
    return 0;
}

/* An entry was appended: it waits for its flush. */
static void pending_add(hs_ring *ring, const hs_index_key *key, const uint8_t id[32], uint64_t place) {
    uint32_t n = ring->pending_count++;
    ring->pending_head[n] = hs_load_u64(id);
    ring->pending_place[n] = place;
    ring->pending_key[n] = *key;
    ring->pending_new[n] = false;
    memcpy(ring->pending_id[n], id, 32);
}

/* Look the entry up that was appended last. What turns out to stand already is taken back, since nobody has seen it. Its place then; 0:
 * it is new. */
static uint64_t look_up_last(hs_ring *ring) {
    uint32_t last = ring->pending_count - 1;
    uint64_t standing = find_standing(ring->segment, &ring->pending_key[last], ring->pending_id[last],
                                      ring->offered.kind, ring->offered.flags, &ring->pending_new[last]);
    if (standing != 0) {
        ring->writer.end = hs_place_offset(ring->pending_place[last]);
        ring->pending_count--;
    }
    ring->offered.kind = 0;
    return standing;
}

void hs_ring_settle(hs_ring *ring) {
    if (ring->offered.kind == 0) return;
    bool node = ring->offered.kind == HS_ENTRY_NODE;
    uint64_t size = ring->offered.raw_size;
    if (look_up_last(ring) == 0) return;
    ring->spared.nodes += node;
    ring->spared.node_bytes += node ? size : 0;
    ring->spared.value_bytes += node ? 0 : size;
}

static int reaped(hs_ring *ring) {
    ring->pending_count = 0;
    ring->offered.kind = 0;
    return HS_REAPED;
}

/* Publish what was appended to the chunk at hand. */
static int publish(hs_ring *ring) {
    uint64_t units = ring->writer.end - ring->writer.published;
    int status = hs_chunk_publish(ring->segment, ring->self, &ring->writer);
    if (status == HS_OK) hs_metrics_count(ring->self->metrics, HS_COUNT_APPENDED, units * HS_UNIT);
    return status;
}

/* Enter what is pending; what finds no word stays, moved to the front. */
static int index_pending(hs_ring *ring) {
    uint32_t kept = 0, total = ring->pending_count;
    for (uint32_t i = 0; i < total; i++) {
        uint64_t place = ring->pending_place[i];
        /* A published place may be persisted, freed and even reused while it waits for a word: then L2 finds it. */
        if (!hs_chunk_is_persisted(ring->segment, hs_place_chunk(place), hs_place_generation(place),
                                   hs_place_offset(place))) {
            const uint8_t *known = ring->pending_new[i] ? NULL : ring->pending_id[i];
            if (hs_index_insert(ring->segment, &ring->pending_key[i], known, place) == HS_OK) continue;
            ring->pending_head[kept] = ring->pending_head[i];
            ring->pending_place[kept] = place;
            ring->pending_key[kept] = ring->pending_key[i];
            ring->pending_new[kept] = ring->pending_new[i];
            memmove(ring->pending_id[kept], ring->pending_id[i], 32);
            kept++;
        }
    }
    ring->pending_count = kept;
    hs_metrics_count(ring->self->metrics, HS_COUNT_PUTS, total - kept);
    return kept == 0 ? HS_OK : HS_WAIT;
}

int hs_ring_flush(hs_ring *ring) {
    hs_ring_settle(ring);
    if (ring->writer.owned && publish(ring) != HS_OK) return reaped(ring);
    if (ring->pending_count == 0) return HS_OK;
    ring->done_seen = hs_ring_done_bell(ring->segment);
    return index_pending(ring);
}

void hs_ring_end(hs_ring *ring) {
    if (ring->writer.owned && ring->writer.end != ring->writer.published) ring->pending_count = 0;
    ring->offered.kind = 0; /* if there was one, it was not published */
    hs_chunk_release(ring->segment, ring->self, &ring->writer, false);
}

/* ---- Keeping ---- */

/* What is kept is in L2: where the index has no word for it now, it is forgotten. */
static int kept_flush(hs_ring *ring) {
    if (publish(ring) != HS_OK) return reaped(ring);
    (void)index_pending(ring);
    ring->pending_count = 0;
    return HS_OK;
}

/* Is there, where a count says so, a whole entry of the chunk's last use that L2 can give back by its id, and that stands
 * nowhere else by now? *sum: of its payload. */
static bool is_worth_keeping(const hs_ring *ring, uint64_t place, uint32_t units_left, hs_entry *header,
                             uint64_t *sum) {
    const hs_segment *segment = ring->segment;
    const uint8_t *entry = hs_chunk_address(segment, hs_place_chunk(place), hs_place_offset(place));
    if (units_left < hs_ring_units(0)) return false;
    memcpy(header, entry, sizeof *header);
    if (!hs_ring_header_fits(header, units_left)) return false;
    if (header->kind != HS_ENTRY_NODE && header->kind != HS_ENTRY_VALUE) return false;
    *sum = hs_checksum(segment->seed, entry + sizeof *header, header->stored_size);
    if (hs_ring_checksum(segment->seed, hs_place_generation(place), header, *sum) != header->checksum)
        return false;
    hs_index_key key = hs_index_key_make(segment, header->id);
    bool alone;
    return find_standing(segment, &key, header->id, header->kind, HS_ENTRY_CACHED, &alone) == 0;
}

/* Move an entry of the last use down to the end of what is kept. */
static void keep(hs_ring *ring, uint32_t offset, hs_entry *header, uint64_t sum) {
    hs_chunk_writer *writer = &ring->writer;
    uint32_t units = hs_ring_units(header->stored_size);
    uint8_t *to = hs_chunk_address(ring->segment, writer->chunk, writer->end);
    memmove(to, hs_chunk_address(ring->segment, writer->chunk, offset), (size_t)units * HS_UNIT);
    header->flags |= HS_ENTRY_CACHED;
    header->checksum = hs_ring_checksum(ring->segment->seed, writer->generation, header, sum);
    memcpy(to, header, sizeof *header);
    hs_index_key key = hs_index_key_make(ring->segment, header->id);
    pending_add(ring, &key, header->id, hs_place_make(writer->generation, writer->chunk, writer->end));
    writer->end += units;
}

/* A chunk was just claimed. Of what stood there, all of it persisted, keep what was hit: it moves to the front, in order,
 * and the rest, with room for `units`, is free. */
static int keep_hit(hs_ring *ring, uint32_t units) {
    hs_chunk_writer *writer = &ring->writer;
    uint8_t spots[HS_HEAT_SPOTS];
    if (writer->end != 0) return HS_OK; /* it was IDLE, and goes on */
    uint64_t mark = hs_load_acquire(&ring->segment->chunks[writer->chunk].persisted);
    uint32_t last = writer->generation - 1, readable = (uint32_t)(mark >> 32) == last ? (uint32_t)mark : 0;
    uint32_t most = HS_CHUNK_UNITS - units < KEPT_UNITS_MAX ? HS_CHUNK_UNITS - units : KEPT_UNITS_MAX;
    bool any = hs_heat_take(ring->segment, writer->chunk, spots) && readable <= HS_CHUNK_UNITS;
    for (uint32_t spot = 0; any && spot < HS_HEAT_SPOTS; spot++) {
        uint32_t offset = hs_heat_offset(spot, spots[spot]), count = hs_heat_count(spots[spot]);
        hs_entry header;
        uint64_t sum;
        if (count == 0 || offset < writer->end || offset >= readable) continue;
        uint64_t place = hs_place_make(last, writer->chunk, offset);
        if (!is_worth_keeping(ring, place, readable - offset, &header, &sum)) continue;
        if (writer->end + hs_ring_units(header.stored_size) > most) continue;
        if (count > 1) hs_heat_set(ring->segment, writer->chunk, writer->end, count - 1);
        keep(ring, offset, &header, sum);
        if (ring->pending_count == HS_RING_PENDING_MAX && kept_flush(ring) != HS_OK) return HS_REAPED;
    }
    hs_heat_kept(ring->segment, writer->end);
    return ring->pending_count > 0 ? kept_flush(ring) : HS_OK;
}

/* Own a chunk with room for `units`, and have room for one more pending. */
static int room_make(hs_ring *ring, uint32_t units) {
    bool fits = ring->writer.owned && ring->writer.end + units <= HS_CHUNK_UNITS;
    if (HS_LIKELY(fits && ring->pending_count < HS_RING_PENDING_MAX)) return HS_OK;
    ring->done_seen =
        hs_ring_done_bell(ring->segment); /* before the look: a round that ends after it is not missed */
    if (ring->writer.owned && publish(ring) != HS_OK) return reaped(ring);
    if (!fits) hs_chunk_release(ring->segment, ring->self, &ring->writer, true); /* sealed before any wait */
    if (ring->pending_count > 0 && index_pending(ring) != HS_OK) return HS_WAIT;
    if (fits) return HS_OK;
    int status = hs_chunk_claim(ring->segment, ring->self, &ring->writer, units);
    return status == HS_OK ? keep_hit(ring, units) : status;
}

/* The header of an entry above the cursor, without its sum. */
static void header_write(uint8_t *entry, const hs_entry *header) {
    memcpy(entry + offsetof(hs_entry, raw_size), &header->raw_size,
           sizeof *header - offsetof(hs_entry, raw_size));
    HS_STEP(append_header);
}

/* Header and payload stand: zeros behind them, and the sum of it all. The entry's place. */
static uint64_t entry_finish(hs_ring *ring, uint8_t *entry, const hs_entry *header, uint64_t sum,
                             uint32_t units) {
    hs_chunk_writer *writer = &ring->writer;
    size_t used = sizeof *header + header->stored_size;
    memset(entry + used, 0, (size_t)units * HS_UNIT - used);
    hs_store_u64(entry, hs_ring_checksum(ring->segment->seed, writer->generation, header, sum));
    HS_STEP(append_payload);
    uint64_t place = hs_place_make(writer->generation, writer->chunk, writer->end);
    writer->end += units;
    return place;
}

/* Write the entry above the cursor. */
static uint64_t entry_write(hs_ring *ring, const hs_ring_item *item, uint32_t units) {
    uint8_t *entry = hs_chunk_address(ring->segment, ring->writer.chunk, ring->writer.end);
    hs_entry header = {.raw_size = item->raw_size,
                       .stored_size = item->stored_size,
                       .kind = item->kind,
                       .codec = item->codec,
                       .flags = item->flags};
    if (item->id != NULL) memcpy(header.id, item->id, 32);
    header_write(entry, &header);
    uint64_t sum =
        hs_checksum_copy(ring->segment->seed, entry + sizeof header, item->payload, item->stored_size);
    return entry_finish(ring, entry, &header, sum, units);
}

static bool item_is_possible(const hs_ring_item *item) {
    return sizes_agree(item->kind, item->codec, item->stored_size, item->raw_size) &&
           (item->id == NULL) == (item->kind == HS_ENTRY_RECORD);
}

/* `key` is that of the item's id, if it has one. */
static int append(hs_ring *ring, const hs_ring_item *item, const hs_index_key *key, uint64_t *place) {
    uint32_t units = hs_ring_units(item->stored_size);
    hs_ring_settle(ring);
    int status = room_make(ring, units);
    if (status != HS_OK) return status;
    *place = entry_write(ring, item, units);
    if (item->id == NULL) return HS_OK;
    pending_add(ring, key, item->id, *place);
    return HS_OK;
}

int hs_ring_append(hs_ring *ring, const hs_ring_item *item, uint64_t *place) {
    if (!item_is_possible(item)) return HS_ARGUMENT;
    hs_index_key key = {0};
    if (item->id != NULL) key = hs_index_key_make(ring->segment, item->id);
    return append(ring, item, &key, place);
}

/* Append it, to be looked up when its index lines have come near. */
static int offer(hs_ring *ring, const hs_ring_item *item, uint64_t *place, bool *added) {
    hs_index_key key = hs_index_key_make(ring->segment, item->id);
    hs_index_prefetch(ring->segment, &key);
    hs_ring_settle(ring);
    *place = find_pending(ring, item->id);
    *added = *place == 0;
    if (!*added) return HS_OK;
    int status = append(ring, item, &key, place);
    if (status == HS_OK)
        ring->offered =
            (hs_ring_offered){.kind = item->kind, .flags = item->flags, .raw_size = item->raw_size};
    return status;
}

int hs_ring_offer(hs_ring *ring, const hs_ring_item *item, bool *added) {
    uint64_t place;
    return item_is_possible(item) && item->id ? offer(ring, item, &place, added) : HS_ARGUMENT;
}

int hs_ring_offer_value(hs_ring *ring, const uint8_t *bytes, uint32_t size, uint8_t id[32], bool *added) {
    if (size > HS_BLAKE3_CHUNK) return HS_ARGUMENT;
    uint32_t units = hs_ring_units(size);
    hs_ring_settle(ring);
    int status = room_make(ring, units);
    if (status != HS_OK) return status;
    hs_chunk_writer *writer = &ring->writer;
    uint8_t *entry = hs_chunk_address(ring->segment, writer->chunk, writer->end);
    hs_entry header = {.raw_size = size, .stored_size = size, .kind = HS_ENTRY_VALUE};
    uint64_t sum = hs_blake3_copy(ring->segment->seed, bytes, size, entry + sizeof header, id);
    *added = find_pending(ring, id) == 0;
    if (!*added) return HS_OK;
    hs_index_key key = hs_index_key_make(ring->segment, id);
    hs_index_prefetch(ring->segment, &key);
    memcpy(header.id, id, 32);
    header_write(entry, &header);
    uint64_t place = entry_finish(ring, entry, &header, sum, units);
    pending_add(ring, &key, id, place);
    ring->offered = (hs_ring_offered){.kind = HS_ENTRY_VALUE, .raw_size = size};
    return HS_OK;
}

int hs_ring_put(hs_ring *ring, const hs_ring_item *item, uint64_t *place, bool *added) {
    if (!item_is_possible(item)) return HS_ARGUMENT;
    int status = item->id ? offer(ring, item, place, added) : append(ring, item, NULL, place);
    if (status != HS_OK) return status;
    if (!item->id) *added = true;
    if (!item->id || !*added) return HS_OK;
    uint64_t standing = look_up_last(ring);
    if (standing == 0) return HS_OK;
    *place = standing;
    *added = false;
    return HS_OK;
}

void hs_ring_prefetch_room(const hs_ring *ring, size_t size) {
    const hs_chunk_writer *writer = &ring->writer;
    if (writer->generation == 0) return;
    const uint8_t *at = hs_chunk_address(ring->segment, writer->chunk, writer->end);
    size_t room = (size_t)(HS_CHUNK_UNITS - writer->end) * HS_UNIT;
    for (size_t offset = 0; offset < size && offset < room; offset += 64) __builtin_prefetch(at + offset, 1);
}

/* ---- Bells ---- */

uint32_t hs_ring_done_bell(const hs_segment *segment) {
    return hs_load32_acquire(&segment->header->done_bell); /* E13 (acquire end) */
}

void hs_ring_bell(hs_segment *segment) {
    hs_segment_header *header = segment->header;
    hs_fence_seq_cst(); /* E7: what I published, before I look whether it sleeps */
    if (HS_LIKELY(hs_load32_relaxed(&header->sleeping) == 0)) return;
    /* In this order: if the 0 overwrites the 1 of a later sleep, the count it reads is old, and it does not sleep. */
    hs_store32_relaxed(&header->sleeping, 0);
    hs_add32_seq_cst(&header->bell, 1); /* E12 (release end) */
    hs_futex_wake_all(&header->bell);
}

void hs_ring_hurry(hs_segment *segment) {
    hs_segment_header *header = segment->header;
    hs_store32_release(&header->urgent, 1);
    hs_store32_relaxed(&header->sleeping, 0);
    hs_add32_seq_cst(&header->bell, 1); /* E12 (release end): who sees the count sees that I ask */
    hs_futex_wake_all(&header->bell);
}

int hs_ring_wait_done(hs_segment *segment, uint32_t done_seen, unsigned wait_ms) {
    hs_segment_header *header = segment->header;
    hs_add32_seq_cst(&header->done_waiters, 1); /* E8: I wait, before the kernel looks at the bell */
    hs_ring_hurry(segment);
    hs_futex_wait(&header->done_bell, done_seen, wait_ms);
    hs_add32_seq_cst(&header->done_waiters, UINT32_MAX);
    return hs_ring_done_bell(segment) != done_seen ? HS_OK : HS_TIMED_OUT;
}

int hs_ring_wait(hs_ring *ring, unsigned wait_ms) {
    return hs_ring_wait_done(ring->segment, ring->done_seen, wait_ms);
}
