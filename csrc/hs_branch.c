/* hs_branch.c - tags enter by compare-and-swap, heads move by compare-and-swap. Eviction is the coordinator's: hs_drain.c. */
#include "hs_branch.h"
#include "helios_shm.h"
#include "hs_checksum.h"
#include "hs_futex.h"
#include "hs_step.h"

uint64_t hs_branch_tag(const hs_segment *segment, const uint8_t *name, size_t name_size) {
    uint64_t tag = hs_checksum(segment->seed, name, name_size);
    return tag != 0 ? tag : 1;
}

/* The slot with this tag, or -1. */
static int64_t window_look(const hs_segment *segment, uint64_t tag) {
    for (uint32_t i = 0; i < HS_BRANCH_WINDOW; i++) {
        uint32_t slot = hs_branch_window_slot(tag, i);
        if (hs_load_acquire(&segment->branch_tags[slot]) == tag) return slot;
    }
    return -1;
}

/* While no tag can leave the window: all who insert one tag meet at its lowest empty word. */
static int64_t window_insert(hs_segment *segment, uint64_t tag) {
    int64_t found = window_look(segment, tag);
    if (found >= 0) return found;
    for (uint32_t i = 0; i < HS_BRANCH_WINDOW; i++) {
        uint32_t slot = hs_branch_window_slot(tag, i);
        uint64_t there = hs_load_acquire(&segment->branch_tags[slot]);
        if (there == 0) {
            HS_STEP(tag_before);
            if (hs_cas_seq_cst(&segment->branch_tags[slot], &there, tag)) {
                HS_STEP(tag_after);
                return slot;
            }
        }
        if (there == tag) return slot;
    }
    return -1;
}

int hs_branch_slot_look(const hs_segment *segment, const uint8_t *name, size_t name_size, uint32_t *slot) {
    int64_t found = window_look(segment, hs_branch_tag(segment, name, name_size));
    if (found < 0) return HS_NOT_FOUND;
    *slot = (uint32_t)found;
    return HS_OK;
}

int hs_branch_slot_find(hs_segment *segment, const hs_participant *self, const uint8_t *name,
                        size_t name_size, uint32_t *slot) {
    uint64_t tag = hs_branch_tag(segment, name, name_size);
    int64_t found = window_look(segment, tag);
    if (found < 0) {
        hs_word32 *inserting = self != NULL && self->slot != NULL ? &self->slot->inserting : NULL;
        if (inserting != NULL) {
            hs_store32_relaxed(inserting, 1);
            hs_fence_seq_cst(); /* E9: I insert, before I look whether tags are being taken out */
            if (hs_load32_acquire(&segment->header->evicting) != 0) { /* E19 (acquire end) */
                hs_store32_release(inserting, 0);
                return HS_WAIT;
            }
        }
        found = window_insert(segment, tag);
        if (inserting != NULL) hs_store32_release(inserting, 0);
    }
    if (found < 0) {
        hs_store32_release(&segment->header->evict_wanted, 1 + hs_branch_window_slot(tag, 0));
        return HS_FULL;
    }
    *slot = (uint32_t)found;
    return HS_OK;
}

bool hs_branch_slot_is(const hs_segment *segment, uint32_t slot, const uint8_t *name, size_t name_size) {
    return slot < HS_BRANCH_SLOTS &&
           hs_load_acquire(&segment->branch_tags[slot]) == hs_branch_tag(segment, name, name_size);
}

uint64_t hs_branch_head_load(const hs_segment *segment, uint32_t slot) {
    return hs_load_acquire(&segment->branches[slot].head); /* E3 (acquire end) */
}

void hs_branch_head_wake(hs_segment *segment, uint32_t slot) {
    hs_fence_seq_cst(); /* E10, E24: the head moved, before I look whether somebody waits, or watches */
    if (hs_load32_relaxed(&segment->branches[slot].waiters) != 0)
        hs_futex_wake_all(hs_futex_half(&segment->branches[slot].head));
    if (HS_UNLIKELY(hs_load32_relaxed(&segment->header->watched) != 0)) hs_branch_watch_wake(segment);
}

void hs_branch_watch_wake(hs_segment *segment) {
    hs_segment_header *header = segment->header;
    /* In this order: if the 0 overwrites the 1 of a later watch, the count it begins with is old, and it does not sleep. */
    hs_store32_relaxed(&header->watched, 0);
    hs_add32_seq_cst(&header->moved, 1); /* E25 (release end) */
    hs_futex_wake_all(&header->moved);
}

uint32_t hs_branch_watch_begin(hs_segment *segment) {
    hs_segment_header *header = segment->header;
    uint32_t seen = hs_load32_acquire(&header->moved); /* before `watched`: E25 (acquire end) */
    hs_store32_relaxed(&header->watched, 1);
    hs_fence_seq_cst(); /* E24: I watch, before I look at the heads */
    return seen;
}

int hs_branch_watch_sleep(hs_segment *segment, uint32_t seen, unsigned wait_ms) {
    return hs_futex_wait(&segment->header->moved, seen, wait_ms) ? HS_OK : HS_TIMED_OUT;
}

bool hs_branch_head_compare_and_set(hs_segment *segment, uint32_t slot, uint64_t *expected,
                                    uint64_t desired) {
    HS_STEP(head_before);
    if (!hs_cas_seq_cst(&segment->branches[slot].head, expected, desired))
        return false; /* E3 (release end) */
    HS_STEP(head_after);
    hs_branch_head_wake(segment, slot);
    return true;
}

int hs_branch_head_wait(hs_segment *segment, uint32_t slot, uint64_t word, unsigned wait_ms) {
    hs_branch_slot *branch = &segment->branches[slot];
    hs_add32_seq_cst(&branch->waiters, 1);
    hs_fence_seq_cst(); /* E10: I wait, before I look at the head */
    if (hs_load_acquire(&branch->head) == word)
        hs_futex_wait(hs_futex_half(&branch->head), (uint32_t)word, wait_ms);
    hs_add32_seq_cst(&branch->waiters, UINT32_MAX);
    return hs_load_acquire(&branch->head) != word ? HS_OK : HS_TIMED_OUT;
}
