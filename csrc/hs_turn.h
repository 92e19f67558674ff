/* hs_turn.h - turns at a branch: who has lost its races for too long asks the others to let it go first, for a bounded time.
 *
 *   turn of a branch slot   {until:48 ticket:16}     until: microseconds of the monotonic clock; 0: nobody's
 *
 *   lost too often  --take-->  commit: head moved  --give-->  wake who waits
 *                                 |
 *   others: before they move the head, sleep while it is somebody else's turn and its time is not over
 *
 * A turn is advice. Nothing rests on it: a head moves by its compare-and-swap alone, whoever's turn it is; a word that makes no
 * sense is nobody's turn; the turn of a process that stands still or is dead is over after HS_TURN_US_MAX at the latest. A ticket names an
 * operation; two that draw the same one go ahead together. A slot that is evicted may take a turn along to another branch. */
#ifndef HS_TURN_H
#define HS_TURN_H
#include "hs_segment.h"

#define HS_TURN_US_MAX 50000u

static inline bool hs_turn_is_nobodys(const hs_segment *segment, uint32_t slot) {
    return hs_load_relaxed(&segment->branches[slot].turn) == 0;
}
/* Take the turn (or hold on to it) for this operation, unless it is somebody else's. ticket is not 0. */
bool hs_turn_take(hs_segment *segment, uint32_t slot, uint32_t ticket, unsigned hold_us);
/* Give it back, if it is still this operation's, and wake who waits for that. */
void hs_turn_give(hs_segment *segment, uint32_t slot, uint32_t ticket);
/* The turn, if it is somebody else's and goes on; 0: go ahead. */
uint64_t hs_turn_others(const hs_segment *segment, uint32_t slot, uint32_t ticket);
/* Sleep while the turn is `seen` and goes on, at most wait_ms. */
void hs_turn_wait(hs_segment *segment, uint32_t slot, uint64_t seen, unsigned wait_ms);
#endif
