/* hs_chunk.h - claim, publish and release a chunk of the ring: the writer's side of the chunk word.
 *
 *   chunk of 65536 units:   | entry | entry | entry . . . . |                         |
 *                           0               persisted       cursor (published)  end    65536
 *                                                           `-- mine alone, unpublished
 *
 * Invariants: only its owner writes above the cursor; nobody writes below it; a writer owns at most one chunk, and only while it
 * appends; the word changes by compare-and-swap alone, so a writer that was wrongly taken for dead cannot publish. */
#ifndef HS_CHUNK_H
#define HS_CHUNK_H
#include "hs_participant.h"

/* Decoded chunk word. */
typedef struct hs_chunk_state_word {
    uint32_t generation, state, owner, cursor;
} hs_chunk_state_word;

static inline hs_chunk_state_word hs_chunk_word_decode(uint64_t word) {
    return (hs_chunk_state_word){
        .generation = (uint32_t)(word >> HS_CHUNK_GENERATION_SHIFT),
        .state = (uint32_t)(word >> HS_CHUNK_STATE_SHIFT) & ((1u << HS_CHUNK_STATE_BITS) - 1),
        .owner = (uint32_t)(word >> HS_CHUNK_OWNER_SHIFT) & ((1u << HS_CHUNK_OWNER_BITS) - 1),
        .cursor = (uint32_t)word & ((1u << HS_CHUNK_CURSOR_BITS) - 1),
    };
}
static inline uint64_t hs_chunk_word_make(uint32_t generation, uint32_t state, uint32_t owner,
                                          uint32_t cursor) {
    return (uint64_t)generation << HS_CHUNK_GENERATION_SHIFT | (uint64_t)state << HS_CHUNK_STATE_SHIFT |
           (uint64_t)owner << HS_CHUNK_OWNER_SHIFT | cursor;
}
static inline uint32_t hs_chunk_word_generation(uint64_t word) {
    return (uint32_t)(word >> HS_CHUNK_GENERATION_SHIFT);
}

/* Bytes of a chunk that are published and not in L2, by its word and its mark. */
static inline uint64_t hs_chunk_unpersisted(uint64_t word, uint64_t mark) {
    hs_chunk_state_word chunk = hs_chunk_word_decode(word);
    uint32_t persisted = (uint32_t)(mark >> 32) == chunk.generation ? (uint32_t)mark : 0;
    if (chunk.state == HS_CHUNK_FREE || chunk.cursor <= persisted) return 0;
    return (uint64_t)(chunk.cursor - persisted) * HS_UNIT;
}

/* A place {generation, chunk, offset in units}. */
static inline uint64_t hs_place_make(uint32_t generation, uint32_t chunk, uint32_t offset) {
    return (uint64_t)generation << HS_PLACE_GENERATION_SHIFT | (uint64_t)chunk << HS_PLACE_CHUNK_SHIFT |
           offset;
}
static inline uint32_t hs_place_generation(uint64_t place) {
    return (uint32_t)(place >> HS_PLACE_GENERATION_SHIFT) & HS_GENERATION_MAX;
}
static inline uint32_t hs_place_chunk(uint64_t place) {
    return (uint32_t)(place >> HS_PLACE_CHUNK_SHIFT) & 0xffff;
}
static inline uint32_t hs_place_offset(uint64_t place) { return (uint32_t)place & 0xffff; }
/* Where a unit of a chunk lies. */
static inline uint8_t *hs_chunk_address(const hs_segment *segment, uint32_t chunk, uint32_t offset) {
    return segment->ring + (size_t)chunk * HS_CHUNK_SIZE + (size_t)offset * HS_UNIT;
}

/* Copy bytes of a chunk that its next writer may overwrite meanwhile: generation and sum tell, afterwards. ThreadSanitizer
 * cannot know that this race is meant. */
#ifdef __SANITIZE_THREAD__
__attribute__((no_sanitize("thread"), unused)) static void hs_chunk_copy(void *to, const void *from,
                                                                         size_t size) {
    for (size_t i = 0; i < size; i++) ((uint8_t *)to)[i] = ((const uint8_t *)from)[i];
}
#else
static inline void hs_chunk_copy(void *to, const void *from, size_t size) { memcpy(to, from, size); }
#endif

/* The chunk that this process appends to (owned), or last appended to (not owned). Private to the process; starts as zeros. */
typedef struct hs_chunk_writer {
    bool owned;
    uint32_t chunk, generation; /* generation 0: none yet */
    uint32_t published;         /* cursor that the word carries, units */
    uint32_t end;               /* where the next entry goes, units; >= published */
} hs_chunk_writer;

/* Own a chunk with at least `units` free: the last one if it is still IDLE and has room, else (for who had one) the newest if it is
 * IDLE and has room, else the next FREE one in ring order
 * from the claim hint, else somebody's IDLE one with room. Those found IDLE and too full are sealed on the way. HS_WAIT if
 * there is none; HS_NO_SPACE if no memory was left for the ring's very first chunk. On a fresh chunk: allocate its memory,
 * fault its pages in. The writer owns none when this is called. */
int hs_chunk_claim(hs_segment *segment, const hs_participant *self, hs_chunk_writer *writer, uint32_t units);
/* Have the next claim go on in the newest chunk, if it is IDLE then: those who append little share one open chunk, instead of leaving
 * half a chunk open each. The writer owns none. */
void hs_chunk_join_newest(const hs_segment *segment, hs_chunk_writer *writer);
/* Move the word's cursor to writer->end by compare-and-swap; HS_REAPED, and no longer owned, if the word is not mine any more.
 * Edge E1 (release). */
int hs_chunk_publish(hs_segment *segment, const hs_participant *self, hs_chunk_writer *writer);
/* Give the chunk up: IDLE if it still has room, SEALED otherwise or if `seal`. Unpublished bytes are forgotten. */
void hs_chunk_release(hs_segment *segment, const hs_participant *self, hs_chunk_writer *writer, bool seal);
/* Is this place's entry persisted, or its chunk reused since (then it is in L2 as well)? */
bool hs_chunk_is_persisted(const hs_segment *segment, uint32_t chunk, uint32_t generation, uint32_t offset);
/* How many chunks were claimed in ring order since this one, about: 0 newest, chunk_count - 1 next to be reused. */
uint32_t hs_chunk_age(const hs_segment *segment, uint32_t chunk);
#endif
