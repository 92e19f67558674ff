/* hs_ring.h - L1: put and get of entries over chunks and index.
 *
 *   put: append to my chunk, remember {id, place} -> flush: publish (cursor), then index -> (commit: head) -> end: release
 *
 * Not thread-safe: the engine's mutex is held. Readers in other processes need nothing, not even a participant's slot.
 *
 * Invariants: an id enters the index only after its entry is published; nothing that is read is believed before its bounds,
 * its chunk's generation (before and after), its sum and its id agree. */
#ifndef HS_RING_H
#define HS_RING_H
#include "hs_heat.h"
#include "hs_index.h"

#define HS_RING_PENDING_MAX                                                                                  \
    64u /* appended entries that wait for their flush; put flushes when there are so many */

typedef struct hs_ring_offered { /* the entry that was appended last and not looked up yet */
    uint8_t kind;                /* 0: there is none */
    uint8_t flags;
    uint64_t raw_size;
} hs_ring_offered;

typedef struct hs_ring_spared { /* offered, and taken back because they stood already */
    uint32_t nodes;
    uint64_t node_bytes, value_bytes;
} hs_ring_spared;

typedef struct hs_ring {
    hs_segment *segment;
    hs_participant *self; /* NULL: this ring only reads */
    hs_chunk_writer writer;
    uint32_t pending_count; /* appended, not yet in the index */
    uint32_t done_seen;     /* done_bell before the last look for room */
    hs_ring_offered offered;
    hs_ring_spared spared; /* since whoever counts them set it to zero */
    uint64_t pending_head
        [HS_RING_PENDING_MAX]; /* first 8 bytes of the id: repeats within a commit are found here */
    uint64_t pending_place[HS_RING_PENDING_MAX];
    hs_index_key pending_key[HS_RING_PENDING_MAX];
    bool pending_new
        [HS_RING_PENDING_MAX]; /* looked up when it was put: no word of the index could be its id's */
    uint8_t pending_id[HS_RING_PENDING_MAX][32];
} hs_ring;

typedef struct hs_ring_item {   /* what is put */
    uint8_t kind, codec, flags; /* enum hs_entry_kind, hs_codec, HS_ENTRY_CACHED */
    const uint8_t *id;          /* 32 bytes; NULL for records, which are found by place and never indexed */
    const void *payload;
    uint32_t stored_size;
    uint64_t raw_size;
} hs_ring_item;

typedef struct hs_ring_hit { /* what is got */
    uint8_t kind, codec, flags;
    uint32_t stored_size;
    uint64_t raw_size;
    uint64_t place;
} hs_ring_hit;

void hs_ring_init(hs_ring *ring, hs_segment *segment, hs_participant *self);
/* Whoever claims a chunk keeps of its last use what was hit there (hs_heat.h), moved to its front and flagged CACHED: what is
 * appended here may begin with that.
 *
 * Append; *place tells where, *added whether (false: an entry of that id stands in L1 already and *place is its place). What is flagged
 * CACHED, or lies below its chunk's stale mark, stands for nothing but other CACHED entries: a collection may have deleted it from L2,
 * or may count it among what is old.
 * Flushes by itself now and then. HS_WAIT: no chunk, or a bucket of the index is full: everything appended so far has been
 * published and the full chunk sealed; call again later with the same item. HS_REAPED: what was appended since the last flush
 * is lost; begin again. HS_NO_SPACE. HS_ARGUMENT: payload above HS_ENTRY_PAYLOAD_MAX, sizes that disagree. */
int hs_ring_put(hs_ring *ring, const hs_ring_item *item, uint64_t *place, bool *added);
/* The same in two steps, for whoever has something to do between them: append now, and look the id up, whose index lines come near
 * meanwhile, at the next append or flush, or by hs_ring_settle. So *added is a guess; what was taken back is counted in `spared`. */
int hs_ring_offer(hs_ring *ring, const hs_ring_item *item, bool *added);
/* The same for a value of at most one chunk of BLAKE3, whose id is not known yet: hashed, copied and summed in one pass. */
int hs_ring_offer_value(hs_ring *ring, const uint8_t *bytes, uint32_t size, uint8_t id[32], bool *added);
void hs_ring_settle(hs_ring *ring);
/* The same without looking whether the id stands there already. */
int hs_ring_append(hs_ring *ring, const hs_ring_item *item, uint64_t *place);
/* Publish what was appended, then enter it in the index. HS_WAIT: a bucket holds only unpersisted words (what could not be
 * entered stays pending; call again). HS_REAPED as above. */
int hs_ring_flush(hs_ring *ring);
/* Release the chunk (after the head moved, or when the commit is given up or suspended). What was not published is forgotten;
 * what was, and waits for a word of the index, stays pending for the next flush. */
void hs_ring_end(hs_ring *ring);
/* Bring the index line near that the id is looked for in first: worth it a microsecond before put or get. */
static inline void hs_ring_expect(const hs_ring *ring, const uint8_t id[32]) {
    hs_index_key key = hs_index_key_make(ring->segment, id);
    hs_index_prefetch(ring->segment, &key);
}
/* Some hundred instructions later: bring the entry near that the first bucket has for the id, of about so many bytes. */
void hs_ring_ahead(const hs_ring *ring, const uint8_t id[32], size_t size);
/* Bring the memory near that the next entries will be written to, last touched a whole ring ago. */
void hs_ring_prefetch_room(const hs_ring *ring, size_t size);
/* Copy the payload of this id's entry to buffer and verify it. HS_NOT_FOUND: not in L1 (never, reused, or failed verification).
 * HS_SMALL: hit is filled (sizes not yet verified), the buffer is too small and not touched. After HS_NOT_FOUND the buffer's
 * content is undefined. Counting hits and misses, also at hs_heat, is the caller's. */
int hs_ring_get(hs_ring *ring, const uint8_t id[32], void *buffer, size_t capacity, hs_ring_hit *hit);
/* The same by place (commit records). HS_NOT_FOUND: the chunk's generation has changed, or the word is none of a place
 * (HS_WORD_IN_L2): it is in L2. HS_CORRUPT: the entry is there and damaged. */
int hs_ring_read(const hs_segment *segment, uint64_t place, void *buffer, size_t capacity, hs_ring_hit *hit);
/* Does a node of this id stand in the ring that L2 has, or will have, whatever was deleted so far? */
bool hs_ring_stands(const hs_segment *segment, const uint8_t id[32]);
/* The next entry whose header or sum is wrong, from *offset of *chunk on; see hs_l1_damage. */
int hs_ring_damage(const hs_segment *segment, uint32_t *chunk, uint32_t *offset, uint64_t *place,
                   uint8_t id[32]);
/* After HS_WAIT: sleep until a round was done since (chunks freed), at most wait_ms. HS_OK or HS_TIMED_OUT. Hurries the coordinator. */
int hs_ring_wait(hs_ring *ring, unsigned wait_ms);
/* The same for other conditions: read the bell, look at the condition, wait. */
uint32_t hs_ring_done_bell(const hs_segment *segment);
int hs_ring_wait_done(hs_segment *segment, uint32_t done_seen, unsigned wait_ms);
/* Wake the coordinator if it says that it sleeps. Edge E7. */
void hs_ring_bell(hs_segment *segment);
/* Wake it whether it sleeps or gathers: somebody waits for a round. */
void hs_ring_hurry(hs_segment *segment);

/* An entry's sum in a chunk of that generation, as hs_layout.h says; `payload_sum` is hs_checksum of the payload with the segment's
 * seed. */
uint64_t hs_ring_checksum(const uint64_t seed[2], uint32_t generation, const hs_entry *header,
                          uint64_t payload_sum);
/* Units that an entry with such a payload takes. */
static inline uint32_t hs_ring_units(uint32_t stored_size) {
    return (uint32_t)((sizeof(hs_entry) + (uint64_t)stored_size + HS_UNIT - 1) / HS_UNIT);
}
/* Can this header stand with `units_left` units from its place to the end of what is readable? Bounds only, no sums. */
bool hs_ring_header_fits(const hs_entry *header, uint32_t units_left);
#endif
