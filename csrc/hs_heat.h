/* hs_heat.h - what was hit and what was missed lately: hints that decide what stays in L1.
 *
 *   hit   -> a count at the entry's spot of its chunk:   | . . . 2 . . . . 1 . . 3 |      what is hit now and then is kept
 *   claim <- the chunk's counts, and they are cleared:   who claims it keeps what was hit and forgets the rest (hs_ring.c)
 *   miss  -> the id's tag among the ghosts of the ring;  found there: it was missed before, and is worth a place in L1
 *
 * So an entry lives for a lap of the ring, and one lap more for each hit (three at most): a clock, which follows the
 * frequencies that a queue of last uses forgets. What is read but once, as by a scan, takes no place from what is hot: while
 * claims keep much, a first miss is only noted. While they keep little, what stands in the ring is cold, and any miss may enter;
 * so it may while many misses are repeated ones, since others are read now than those that are kept.
 *
 * Invariants. Nothing but time depends on any of this: words are loaded and stored without order, a store may be lost to
 * another process's, and whoever follows a count verifies the entry that it names. */
#ifndef HS_HEAT_H
#define HS_HEAT_H
#include "hs_chunk.h"

#define HS_HEAT_SPOTS     (HS_CHUNK_SIZE / HS_HEAT_SPOT)
#define HS_HEAT_COUNT_MAX 3u

/* The entry at this place was hit. */
void hs_heat_touch(const hs_segment *segment, uint64_t place);
/* Carry a count over to where its entry stands now. */
void hs_heat_set(const hs_segment *segment, uint32_t chunk, uint32_t offset, uint32_t count);
/* Take the counts of a chunk, by spot, and clear them; false: there are none. By the chunk's new owner. */
bool hs_heat_take(const hs_segment *segment, uint32_t chunk, uint8_t spots[HS_HEAT_SPOTS]);
/* Which unit of the chunk a count is of, and how many hits it says. */
static inline uint32_t hs_heat_offset(uint32_t spot, uint8_t count) {
    return spot * (HS_HEAT_SPOT / HS_UNIT) + (count & 15);
}
static inline uint32_t hs_heat_count(uint8_t count) { return count >> 4; }
/* An id was missed in L1 and found in L2: should it enter L1? Notes the miss. */
bool hs_heat_admit(const hs_segment *segment, const uint8_t id[32]);
/* The claim that was just made kept so many units. */
void hs_heat_kept(const hs_segment *segment, uint32_t units);
#endif
