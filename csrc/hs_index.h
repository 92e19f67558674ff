/* hs_index.h - the shared index: id -> places in the ring.
 *
 *   id --seed--> {bucket a, bucket b, tag}         bucket (one cache line):  | w0 | w1 | w2 | w3 | w4 | w5 | w6 | w7 |
 *                                                   word: {tag:12 generation:20 chunk:16 offset:16}, 0 empty
 *
 * An id may stand in either of two buckets, chosen by mixing it with the segment's secret seed: nobody can aim ids at one
 * bucket. A word is a hint: whoever follows it compares the entry's full id. A word may be replaced when it is empty, of the
 * same id, stale (its chunk has another generation) or persisted (L2 finds it); never otherwise.
 *
 * Invariant: the id of every published and unpersisted entry is found, once its writer's insert has returned.
 * Any process, any thread; words change by compare-and-swap. */
#ifndef HS_INDEX_H
#define HS_INDEX_H
#include "hs_chunk.h"

#define HS_INDEX_CANDIDATES (2 * HS_INDEX_WAYS)

typedef struct hs_index_key {
    uint32_t bucket[2];
    uint32_t tag;
} hs_index_key;

hs_index_key hs_index_key_make(const hs_segment *segment, const uint8_t id[32]);
/* Bring the cache line near that is looked at first; the second is looked at seldom. */
static inline void hs_index_prefetch(const hs_segment *segment, const hs_index_key *key) {
    __builtin_prefetch(&segment->index[key->bucket[0]]);
}
/* Places (of current generations) whose word carries the key's tag; returns how many. Edge E6 (acquire). */
uint32_t hs_index_probe(const hs_segment *segment, const hs_index_key *key,
                        uint64_t places[HS_INDEX_CANDIDATES]);
/* The same of one of the two buckets (0 or 1): who looks for an entry finds most in the first, and need not touch the other. */
uint32_t hs_index_probe_one(const hs_segment *segment, const hs_index_key *key, int which,
                            uint64_t places[HS_INDEX_WAYS]);
/* The same where a miss costs little: in the second bucket only if the first is more than half full, as an insert would. */
uint32_t hs_index_probe_first(const hs_segment *segment, const hs_index_key *key,
                              uint64_t places[HS_INDEX_CANDIDATES]);
/* Enter a published place; id NULL: it was looked for lately, and stood nowhere. HS_WAIT: both buckets hold nothing but unpersisted words. Edge E6 (release). */
int hs_index_insert(hs_segment *segment, const hs_index_key *key, const uint8_t id[32], uint64_t place);
#endif
