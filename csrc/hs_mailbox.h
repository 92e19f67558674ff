/* hs_mailbox.h - boxes in which workers put what is to be evaluated, and an evaluator the answers.
 *
 *   header | a line for each asker | boxes, all of one size: word, sizes, request, values, logits
 *
 *              ask                 gather               answer               read
 *     FREE ----------> ASKED ----------------> TAKEN ----------> ANSWERED ----------> FREE
 *      ^    (asker)      |    (evaluator)      |  |  (evaluator)    |      (asker)     ^
 *      +-----------------+                     |  +--- withdraw     +------------------+
 *            withdraw   ^----------------------+         |               withdraw
 *                        the evaluator is dead           v
 *                                                    ORPHANED ---- answer, or the evaluator is dead ----> FREE
 *
 * A box belongs to one asker (a worker), and has one word {generation:32 taker:24 state:8}, which is changed by compare-and-swap only.
 * The generation counts the box's questions, the taker the evaluator's lives; so an answer fits one question, taken by one life.
 *
 * Invariants. The request's bytes change only while the box is FREE, and only by its asker. The answer's bytes change only while the box is
 * TAKEN (or ORPHANED), and only by its taker. Who is dead writes nothing more: only then is anything taken back in another's name. A question is
 * evaluated at least once, unless it is withdrawn, and answered once.
 *
 * The memory is one that all processes map (helios_shm/mcts/mailbox.py); nothing in it is an address. docs/CONCURRENCY.md, "Batched evaluation". */
#ifndef HS_MAILBOX_H
#define HS_MAILBOX_H
#include "helios_shm.h"
#include "hs_atomic.h"
#include "hs_base.h"

#define HS_MAILBOX_MAGIC     UINT64_C(0x31584f424f494c48) /* "HLIOBOX1" */
#define HS_MAILBOX_LINE      64u
#define HS_MAILBOX_TAKER_MAX UINT32_C(0xffffff)

enum hs_box_state {
    HS_BOX_FREE = 0,
    HS_BOX_ASKED = 1,
    HS_BOX_TAKEN = 2,
    HS_BOX_ANSWERED = 3,
    HS_BOX_ORPHANED = 4 /* taken, and nobody wants the answer any more */
};

/* An asker's state, and in its low half the futex that it sleeps on. */
enum hs_asker_state { HS_ASKER_ABSENT = 0, HS_ASKER_AT_WORK = 1, HS_ASKER_WAITING = 2 };

typedef struct hs_mailbox_asker {
    _Alignas(HS_MAILBOX_LINE) hs_word state;
} hs_mailbox_asker;
_Static_assert(sizeof(hs_mailbox_asker) == HS_MAILBOX_LINE, "an asker's waiting disturbs nobody else");

typedef struct hs_mailbox_header {
    uint64_t magic; /* last */
    uint64_t size;
    uint64_t boxes_offset, box_size;
    hs_mailbox_config config;
    uint32_t reserved;
    _Alignas(HS_MAILBOX_LINE)
        hs_word asked; /* how often anybody asked; since its box was ASKED before, never too many */
    /* {questions at which to be woken:32 asleep:32}; 0: the evaluator is awake. */
    _Alignas(HS_MAILBOX_LINE) hs_word sleeper;
    _Alignas(HS_MAILBOX_LINE) hs_word closed; /* once 1, all waits end */
    hs_word next;                      /* the box to look at first, so that each has its turn; a hint */
    hs_word batches, answers, busy_ns; /* statistics */
} hs_mailbox_header;
_Static_assert(sizeof(hs_mailbox_header) % HS_MAILBOX_LINE == 0, "askers begin at a line");

typedef struct hs_box {
    _Alignas(HS_MAILBOX_LINE) hs_word word;
    hs_word asked_ns;     /* CLOCK_MONOTONIC */
    hs_word request_size; /* bytes */
    hs_word numbers;      /* of the answer: {logits:32 values:32} */
    double values[]; /* num_players of them; then the logits, floats; then, from a new line on, the request */
} hs_box;

static inline uint64_t hs_box_word(uint32_t generation, uint32_t taker, enum hs_box_state state) {
    return (uint64_t)generation << 32 | (uint64_t)taker << 8 | (uint64_t)state;
}
static inline enum hs_box_state hs_box_state(uint64_t word) { return (enum hs_box_state)(word & 0xff); }
static inline uint32_t hs_box_taker(uint64_t word) { return (uint32_t)(word >> 8) & HS_MAILBOX_TAKER_MAX; }
static inline uint32_t hs_box_generation(uint64_t word) { return (uint32_t)(word >> 32); }
#endif
