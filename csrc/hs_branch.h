/* hs_branch.h - the table of branch heads: tags, head words, waiting.
 *
 *   name -> tag (64 bits) -> window of 32 tags:  | . | T | . | T' | ...     slot n: { head word, waiters }
 *
 * The table is a cache of the list in L2: the coordinator may take a tag out (evict) when the head is persisted. So a slot
 * number is believed only for a moment: load the head first, then ask hs_branch_slot_is; if that holds, the head was this
 * branch's, and a compare-and-swap from it can succeed for this branch only, since eviction puts a word there that never
 * was and never will be anywhere else.
 *
 * Two names may share a tag (once in 2^64): whoever reads a head's record compares the name in it. */
#ifndef HS_BRANCH_H
#define HS_BRANCH_H
#include "hs_participant.h"

/* Never 0. From hs_checksum under the segment's secret seed: names come from users, who do not know it. */
uint64_t hs_branch_tag(const hs_segment *segment, const uint8_t *name, size_t name_size);
/* Tag number i (0 <= i < HS_BRANCH_WINDOW) of the window in which a tag may stand. */
static inline uint32_t hs_branch_window_slot(uint64_t tag, uint32_t i) {
    return ((uint32_t)(tag >> 40) + i) % HS_BRANCH_SLOTS;
}
/* Find the slot of a name; HS_NOT_FOUND. Needs no participant. */
int hs_branch_slot_look(const hs_segment *segment, const uint8_t *name, size_t name_size, uint32_t *slot);
/* Find the slot of a name, inserting its tag if need be (lowest empty tag of the window, by compare-and-swap; guarded against
 * eviction by the participant's `inserting` flag; one without a slot inserts unguarded, in a segment of its own). HS_FULL: the
 * window is full and the coordinator is asked to evict: wait for a round (hs_ring_wait_done), try again. HS_WAIT: an eviction
 * is under way: the same. */
int hs_branch_slot_find(hs_segment *segment, const hs_participant *self, const uint8_t *name,
                        size_t name_size, uint32_t *slot);
/* Is this slot still that name's? (It may have been evicted.) Ask after the head was loaded. */
bool hs_branch_slot_is(const hs_segment *segment, uint32_t slot, const uint8_t *name, size_t name_size);
uint64_t hs_branch_head_load(const hs_segment *segment, uint32_t slot); /* acquire; edge E3 */
/* The linearisation point of a commit on a branch: edge E3 (release). False: *expected holds what was found. Wakes waiters. */
bool hs_branch_head_compare_and_set(hs_segment *segment, uint32_t slot, uint64_t *expected, uint64_t desired);
/* Sleep until the head is not `word`, at most wait_ms. HS_OK or HS_TIMED_OUT (also on a signal). */
int hs_branch_head_wait(hs_segment *segment, uint32_t slot, uint64_t word, unsigned wait_ms);
/* Wake who waits for this head, or watches all of them (done by compare_and_set already). */
void hs_branch_head_wake(hs_segment *segment, uint32_t slot);

/* For who waits for any of many heads: begin, look at them, sleep until some head of the segment has moved since the begin, at most
 * wait_ms; begin again. HS_TIMED_OUT: the time is over. */
uint32_t hs_branch_watch_begin(hs_segment *segment);
int hs_branch_watch_sleep(hs_segment *segment, uint32_t seen, unsigned wait_ms);
/* Wake all who sleep so. */
void hs_branch_watch_wake(hs_segment *segment);
#endif
