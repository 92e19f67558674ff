/* hs_turn.c - see hs_turn.h. All orders are relaxed but for the compare-and-swaps: what is missed is missed for a moment. */
#include "hs_turn.h"
#include "hs_clock.h"
#include "hs_futex.h"

#define TICKET_BITS 16
#define TICKET_MASK UINT64_C(0xffff)

static uint64_t now_us(void) { return hs_clock_ns(CLOCK_MONOTONIC) / 1000; }

/* Microseconds that a turn still goes on; 0: it is over, or no turn at all. */
static uint64_t left_us(uint64_t turn) {
    if (turn == 0) return 0;
    uint64_t until = turn >> TICKET_BITS, now = now_us();
    return until > now && until - now <= HS_TURN_US_MAX ? until - now : 0;
}

bool hs_turn_take(hs_segment *segment, uint32_t slot, uint32_t ticket, unsigned hold_us) {
    hs_word *word = &segment->branches[slot].turn;
    uint64_t turn = hs_load_relaxed(word), hold = hold_us < HS_TURN_US_MAX ? hold_us : HS_TURN_US_MAX;
    if ((turn & TICKET_MASK) != ticket && left_us(turn) > 0) return false;
    return hs_cas_seq_cst(word, &turn, (now_us() + hold) << TICKET_BITS | ticket);
}

void hs_turn_give(hs_segment *segment, uint32_t slot, uint32_t ticket) {
    hs_word *word = &segment->branches[slot].turn;
    uint64_t turn = hs_load_relaxed(word);
    if ((turn & TICKET_MASK) == ticket && hs_cas_seq_cst(word, &turn, 0))
        hs_futex_wake_all(hs_futex_half(word));
}

uint64_t hs_turn_others(const hs_segment *segment, uint32_t slot, uint32_t ticket) {
    uint64_t turn = hs_load_relaxed(&segment->branches[slot].turn);
    return (turn & TICKET_MASK) != ticket && left_us(turn) > 0 ? turn : 0;
}

void hs_turn_wait(hs_segment *segment, uint32_t slot, uint64_t seen, unsigned wait_ms) {
    unsigned left_ms = (unsigned)(left_us(seen) / 1000) + 1;
    hs_futex_wait(hs_futex_half(&segment->branches[slot].turn), (uint32_t)seen,
                  left_ms < wait_ms ? left_ms : wait_ms);
}
