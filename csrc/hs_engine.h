/* hs_engine.h - the engine: what one process holds of a segment, behind one mutex.
 *
 *   hs_engine = segment (shared) + participant (slot, lock) + ring writer + node cache and tree (private) + head cache
 *
 * Invariants. Everything private is touched with `lock` held; nothing sleeps with it held. A process has at most one chunk, and
 * only while a call is inside: every call ends with the chunk released. pthread_atfork handlers take all engines' locks
 * around fork, so that a child inherits whole structures, and close the child's copy of the participant's descriptor. */
#ifndef HS_ENGINE_H
#define HS_ENGINE_H
#include <pthread.h>
#include "helios_shm.h"
#include "hs_branch.h"
#include "hs_lease.h"
#include "hs_ring.h"
#include "hs_tree.h"

/* What is known of a branch's head; words are unique for ever, so knowledge about a word never goes stale. */
typedef struct hs_head {
    uint64_t word, serial, sequence, incarnation;
    uint32_t known, deleted; /* a branch that never was: known, deleted, serial 0 */
    uint8_t root[32];
} hs_head;

struct hs_engine {
    pthread_mutex_t lock;
    hs_segment segment;
    hs_participant self;
    hs_ring ring;
    hs_tree tree;
    hs_head *heads;  /* by branch slot */
    uint64_t reaped; /* times that this process was wrongly taken for dead: suspended commits begin again */
    uint64_t value_blocks; /* BLAKE3 compressions spent on values */
    uint64_t looked_after_ns;
    uint32_t tickets; /* drawn so far (hs_turn.h) */
    uint64_t
        collection; /* the collection word of the last commit: what was pending under another is forgotten */
    hs_leases *leases; /* NULL: nothing is held */
    char *segment_name, *participants_path;
    uint32_t mode;
    int probe_fd;     /* of the participants file, for the drain */
    uint8_t *scratch; /* HS_NODE_SIZE_MAX bytes or a record, whichever is larger */
    hs_engine *next;  /* list of engines of this process, for fork */
};

void hs_engine_lock(hs_engine *engine);
bool hs_engine_try_lock(hs_engine *engine);
void hs_engine_unlock(hs_engine *engine);
/* An entry by id, counted as hit or miss; a hit lets it stay a lap longer. */
int hs_engine_ring_get(hs_engine *engine, const uint8_t id[32], void *buffer, size_t capacity,
                       hs_ring_hit *hit);
/* Be in a commit: until hs_engine_leave nothing is deleted. The collection word; odd: something is about to be, and it was left again. */
uint64_t hs_engine_enter(hs_engine *engine);
void hs_engine_leave(hs_engine *engine);
/* hs_commit_one for who holds the lock already. */
int64_t hs_commit_one_locked(hs_call *call, hs_branch_ref *branch, const uint8_t *base, const uint8_t *key,
                             size_t key_size, const uint8_t *value, size_t value_size);
/* Note what tree calls leave: HS_MISSING's id into the call. */
int hs_call_status(hs_call *call, int status);
#endif
