/* hs_step.h - the labelled steps of the protocol, where a crash test makes a process die or stop.
 *
 * HS_STEP(publish_before) costs one load and one never-taken branch. The labels are those of docs/CONCURRENCY.md ("dies
 * after step n") and of the models in tests/models; a meta test compares the sets. Only tests arm a step.
 */
#ifndef HS_STEP_H
#define HS_STEP_H
#include "hs_atomic.h"
#include "hs_base.h"

/* Every label, once, in the order of the protocol. */
/* clang-format off */
#define HS_STEPS(X)                                                                                          \
  X(claim_before) X(claim_after)             /* writer: the chunk word FREE or IDLE -> BUSY */               \
  X(append_header) X(append_payload)         /* writer: an entry's bytes, not yet published */               \
  X(publish_before) X(publish_after)         /* writer: the cursor moved by compare-and-swap */              \
  X(index_before) X(index_after)             /* writer: the index word */                                    \
  X(head_before) X(head_after)               /* writer: the branch's head word */                            \
  X(release_before) X(release_after)         /* writer: BUSY -> IDLE or SEALED */                            \
  X(tag_before) X(tag_after)                 /* writer: a branch tag enters the table */                     \
  X(join_locked) X(join_after)               /* a participant: lock taken; slot filled */                    \
  X(collect_reaped) X(collect_heads) X(collect_cursors) /* coordinator: the three passes */                  \
  X(txn_before) X(txn_after)                 /* coordinator: the synced transaction (called from Python) */  \
  X(locator_after) X(marks_after) X(free_after) X(round_done) X(round_after) /* coordinator: what follows it */ \
  X(evict_begun) X(evict_untagged) X(evict_moved) /* coordinator: a branch's tag leaves the table */         \
  X(commit_begun) X(commit_leased)           /* writer: in a commit; its result is held, it still is in it */ \
  X(stop_raised) X(stop_lowered)             /* coordinator: no commit begins; stale marks stand, before they go on */ \
  X(leave_unlinked)                          /* coordinator: the segment has no name (called from Python) */ \
  X(gc_trimmed) X(gc_marked) X(gc_copied) X(gc_pending) /* collection: before its flip (called from Python) */ \
  X(gc_flipped) X(gc_committed)              /* collection: in the flip's transaction; after it */           \
  X(gc_gone) X(gc_deleted) X(gc_trashed) X(gc_punched) X(gc_told) /* collection: giving back; answered */    \
  X(box_written) X(box_asked) X(box_read)  /* mailbox, asker: the request; its box ASKED; the answer taken out */ \
  X(box_taken) X(box_answering) X(box_answered) /* mailbox, evaluator: a box TAKEN; values; the box ANSWERED */ \
  X(search_pending) X(search_witness) X(search_changed) X(search_said) /* search: a lane's word, a witness, a cell, a word */ \
  X(search_row) X(search_rewards) /* search: a row that the index does not name; rewards without child */
/* clang-format on */

#define HS_STEP_ENUM(label) HS_STEP_##label,
enum hs_step { HS_STEPS(HS_STEP_ENUM) HS_STEP_COUNT };

/* The armed step, or HS_STEP_COUNT; written by hs_step_arm only. */
extern hs_word32 hs_step_armed;
void hs_step_reached(enum hs_step step);
#define HS_STEP(label)                                                                                       \
    (HS_UNLIKELY(hs_load32_relaxed(&hs_step_armed) == HS_STEP_##label) ? hs_step_reached(HS_STEP_##label)    \
                                                                       : (void)0)

enum hs_step_action { HS_STEP_KILL = 1, HS_STEP_STOP = 2 }; /* the action of hs_step_arm (helios_shm.h) */
#endif
