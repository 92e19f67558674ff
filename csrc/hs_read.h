/* hs_read.h - reading, for who holds the engine's lock and has memory of his own for what is read: csrc/python, which fills
 * objects of Python's in place. For all others there are hs_get, hs_scan and hs_l1_get.
 *
 *   hs_engine_try_lock  ->  hs_read_find  ->  room for value.size bytes  ->  hs_read_value  ->  hs_engine_unlock
 *                                                    (the index's lines come near meanwhile)
 *
 * Invariant: what was found points into the node cache, and is good until the next find or scan, or until the lock is given
 * up. */
#ifndef HS_READ_H
#define HS_READ_H
#include "hs_engine.h"

/* As hs_get says of its result; HS_OK: *out is the value of the key. */
int hs_read_find(hs_call *call, const uint8_t *root, const uint8_t *key, size_t key_size, hs_value *out);
/* The bytes of a value that was found, to memory of at least HS_INLINE_MAX bytes: as hs_get says of its result. */
int64_t hs_read_value(hs_call *call, const hs_value *value, uint8_t *to, size_t capacity);
/* Bring near the index's lines of a value that the tree names by id; then, some hundred instructions later, its entry. */
static inline void hs_read_expect(hs_engine *engine, const hs_value *value) {
    hs_ring_expect(&engine->ring, value->bytes);
}
static inline void hs_read_ahead(hs_engine *engine, const hs_value *value) {
    hs_ring_ahead(&engine->ring, value->bytes, (size_t)value->size);
}
/* hs_tree_scan, with HS_MISSING noted in the call. */
int hs_read_scan(hs_call *call, const uint8_t *root, const hs_range *range, bool reverse, hs_scan_visit visit,
                 void *context);
int64_t hs_l1_get_locked(hs_call *call, const uint8_t *id);
int hs_l1_put_locked(hs_call *call, const uint8_t *bytes, size_t size);
#endif
