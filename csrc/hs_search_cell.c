/* hs_search_cell.c - how a lane changes a cell, and how it is known afterwards whether it did.
 *
 *   lane's word:  ... IDLE -> {s, level, PENDING} --------------------> {s+1, next level, PENDING} ...
 *                                  |        \                                 ^
 *   cell:                          |         swap with stamp {lane, s}        | the next word says that s was made
 *   another lane:                  +-> DONE, then its own swap: a witness     +
 *
 * Linearisation point of a change: the swap. */
#include "hs_search.h"
#include "hs_step.h"

/* Which cell a word with a PENDING state is about. */
static hs_pair *cell_of(const hs_search_map *map, const hs_search_lane *lane, uint64_t word) {
    uint32_t state = hs_search_word_state(word) & ~(uint32_t)HS_SEARCH_DONE;
    if (state == HS_SEARCH_TAKE || state == HS_SEARCH_GIVE) return &map->header->tickets;
    return hs_search_cell_at(map, hs_load32_relaxed(&lane->path[hs_search_word_level(word)].cell));
}

static uint64_t stamp_of(const hs_search_lane *lane, uint32_t serial) {
    return (uint64_t)(lane->number + 1) << HS_SEARCH_OP_BITS | (uint16_t)serial;
}

/* The stamp that was seen in a cell is about to be overwritten: if its lane does not say yet that the change was made, say it. */
static void bear_witness(const hs_search_map *map, hs_pair *cell, uint64_t seen) {
    uint32_t number = (uint32_t)(seen & HS_SEARCH_STAMP_MASK) >> HS_SEARCH_OP_BITS;
    if (number == 0) return;
    hs_search_lane *lane = hs_search_lane_at(map, number - 1);
    uint64_t word = hs_load_acquire(&lane->word); /* E30: that of the stamp, or a later one */
    if (!hs_search_state_is_pending(hs_search_word_state(word)) ||
        (uint16_t)hs_search_word_serial(word) != (uint16_t)seen || cell_of(map, lane, word) != cell)
        return;
    if (((hs_load_acquire(&cell->low) ^ seen) & HS_SEARCH_STAMP_MASK) != 0)
        return; /* another has overwritten it, and has borne witness */
    hs_cas_seq_cst(&lane->word, &word, word | HS_SEARCH_DONE); /* E31 */
    HS_STEP(search_witness);
}

/* Change a cell, under a stamp (0: nobody's). False if the sum would be below 0 and the change is of that kind. */
static bool cell_change(const hs_search_map *map, hs_pair *cell, uint64_t stamp,
                        const hs_search_change *change, hs_search_counts_now *after) {
    for (;;) {
        uint64_t word = hs_load_acquire(&cell->low); /* E30 */
        uint64_t value = hs_load_relaxed(&cell->high);
        double sum = hs_search_double(value) + change->value;
        if (change->state == HS_SEARCH_TAKE && sum < 0) return false;
        bear_witness(map, cell, word);
        uint64_t now = ((word & ~HS_SEARCH_STAMP_MASK) + change->counts) | stamp;
        if (!hs_cas_pair_seq_cst(cell, hs_pair_join(word, value),
                                 hs_pair_join(now, hs_search_double_bits(sum)))) /* E30, E31 */
            continue;
        HS_STEP(search_changed);
        if (after != NULL) *after = (hs_search_counts_now){.word = now, .value = sum};
        return true;
    }
}

void hs_search_lane_say(hs_search_lane *lane, uint32_t level, enum hs_search_state state) {
    uint32_t serial = hs_search_word_serial(hs_load_relaxed(&lane->word));
    hs_store_release(&lane->word, hs_search_lane_word(serial, level, state));
    HS_STEP(search_said);
}

bool hs_search_lane_change(const hs_search_map *map, hs_search_lane *lane, const hs_search_change *change,
                           hs_search_counts_now *after) {
    uint32_t serial = hs_search_word_serial(hs_load_relaxed(&lane->word)) + 1;
    hs_pair *cell = cell_of(map, lane, hs_search_lane_word(0, change->level, change->state));
    uint64_t stood = hs_load_relaxed(&cell->low) & HS_SEARCH_STAMP_MASK;
    if (stood == stamp_of(lane, serial)) serial++; /* else an old stamp would pass for this change's */
    hs_store_release(&lane->word, hs_search_lane_word(serial, change->level, change->state)); /* E30 */
    HS_STEP(search_pending);
    return cell_change(map, cell, stamp_of(lane, serial), change, after);
}

bool hs_search_lane_was_made(const hs_search_map *map, hs_search_lane *lane, uint64_t *word) {
    *word = hs_load_acquire(&lane->word);
    uint64_t stamp = stamp_of(lane, hs_search_word_serial(*word));
    uint64_t stood = hs_load_acquire(&cell_of(map, lane, *word)->low); /* E31: first the cell ... */
    if ((stood & HS_SEARCH_STAMP_MASK) == stamp) return true;
    *word = hs_load_acquire(&lane->word); /* ... then the word */
    return (hs_search_word_state(*word) & HS_SEARCH_DONE) != 0;
}

/* A double counts without gaps up to 2^53, and so far tickets are given. */
int64_t hs_search_tickets(void *memory, int64_t add) {
    hs_search_map map = hs_search_map_of(memory);
    hs_pair *cell = &map.header->tickets;
    hs_search_counts_now now;
    for (;;) {
        now.value = hs_search_double(hs_load_relaxed(&cell->high));
        double left = now.value + (double)add;
        left = left < 0 ? 0 : left > 0x1p53 ? 0x1p53 : left;
        hs_search_change change = {
            .state = HS_SEARCH_TAKE, .counts = HS_SEARCH_VISITS_ONE, .value = left - now.value};
        if (change.value == 0 || cell_change(&map, cell, 0, &change, &now)) return (int64_t)now.value;
    }
}
