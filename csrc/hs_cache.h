/* hs_cache: L0, the process-private cache of nodes, by id.
 *
 * Bounded (limit bytes), inherited copy-on-write by a forked child, on huge-page memory. Beside a node's canonical
 * bytes it keeps a link to each child's copy, so that a walk needs no hash look-up, and BLAKE3's chaining value before
 * each block (of one-chunk nodes) from the one on in which the values or ids begin, so that a changed one is rehashed
 * from its block on. The blocks before hold keys alone, which no change of a value touches; and the value before the last
 * block is left out: one block more to hash for the few changes that lie in the last one alone.
 *
 *   table    buckets of 8 words {tag 32, slab 15, offset 16, 1}; an id lives in one of 4 neighbouring buckets
 *   slab     | node | node | node | free .......|       slabs are filled one after the other and given up oldest first
 *   node     | hs_cached, 64 bytes | hs_link[count] (inner) | canonical bytes | chaining values [..][8] |
 *   link     {generation of the slab 32, slab 15, offset 16, 1}: stale when the slab has been given up, never dangling
 *
 * Invariants: a node in the table is canonical and its bytes hash to its id, or its giver vouched for that; a node does
 * not move or end but in hs_cache_trim; a link that is set was checked: the child has the level, the last key and the
 * place that its parent says.
 *
 * Not thread-safe: the engine's mutex is held. Nothing is evicted but in hs_cache_trim. */
#ifndef HS_CACHE_H
#define HS_CACHE_H
#include "hs_base.h"
#include "hs_node.h"

typedef struct hs_cache hs_cache;
int hs_cache_new(size_t limit, hs_cache **out);
/* Forget every node; links to them end. What does not keep pointers across calls may go on. */
void hs_cache_clear(hs_cache *cache);
void hs_cache_free(hs_cache *cache);
/* Evict (oldest slab first; what was used lately is kept) towards the limit, a slab or two at a time. Called at the
 * beginning of an operation: pointers into the cache end here. Cheap when there is nothing to do. */
void hs_cache_trim(hs_cache *cache);
/* Enter a node that came from outside: size and canonical form validated, BLAKE3 compared unless `trusted` (checked
 * already). HS_OK, HS_CORRUPT, HS_NO_MEMORY. */
int hs_cache_add(hs_cache *cache, const uint8_t id[32], const uint8_t *bytes, size_t size, bool trusted);
/* In a forked child, before its first operation: what it adds goes to memory of its own, so that it does not copy the
 * parent's pages one by one. Optional. */
void hs_cache_after_fork(hs_cache *cache);
typedef struct hs_cache_stats {
    uint64_t nodes, bytes, limit, evicted;
} hs_cache_stats;
void hs_cache_stats_get(const hs_cache *cache, hs_cache_stats *out);

/* --- for the tree alone --- */

typedef uint64_t hs_link; /* 0: none */

typedef struct hs_cached {
    uint8_t id[32];
    hs_node node;  /* node.bytes points behind the links */
    uint32_t size; /* of all of it, a multiple of 32 */
    uint16_t slab;
    uint8_t used; /* since the last trim that came by */
    uint8_t
        blocks; /* BLAKE3's, if chaining values are kept; 0 if unknown or the node has more than one chunk */
} hs_cached;
_Static_assert(sizeof(hs_cached) == 64, "two halves of a cache line: the id, and what a walk needs");

static inline hs_link *hs_cached_links(hs_cached *cached) { return (hs_link *)(cached + 1); }
/* The first block before which a node's chaining value is kept. */
static inline unsigned hs_node_chain_first(const hs_node *node) { return node->values / 64u; }
/* How many are kept. */
static inline unsigned hs_node_chain_kept(const hs_node *node, unsigned blocks) {
    unsigned first = hs_node_chain_first(node);
    return blocks > first + 1 ? blocks - 1 - first : 0;
}
/* The chaining values: entry b is the one before block b, of hs_node_chain_kept blocks from hs_node_chain_first on. Below
 * stand the node's bytes; what stands behind is not the node's. */
static inline uint32_t (*hs_cached_chain(hs_cached *cached))[8] {
    return (uint32_t (*)[8])(void *)((uint8_t *)cached + cached->size + 32u - 32u * cached->blocks);
}

/* Bring the place near where this id is looked up: worth it a few hundred instructions before. */
void hs_cache_prefetch(const hs_cache *cache, const uint8_t id[32]);
/* Bring the memory near that the next nodes will be written to. */
void hs_cache_prefetch_room(const hs_cache *cache, size_t size);
/* The node of an id, or NULL. */
hs_cached *hs_cache_get(hs_cache *cache, const uint8_t id[32]);
/* The node that a link leads to, or NULL if there is none any more. Peek touches no memory of the node's: it does not count as
 * used then, which is left to the caller. */
static inline hs_cached *hs_cache_follow(hs_cache *cache, hs_link link);
static inline hs_cached *hs_cache_peek(hs_cache *cache, hs_link link);
hs_link hs_cache_link(const hs_cache *cache, const hs_cached *cached);
/* Room for a node: links cleared for an inner one, `bytes` to be filled by the caller (node and id too). It is lost unless
 * entered; another reserve takes the same place. NULL: out of memory. */
hs_cached *hs_cache_reserve(hs_cache *cache, const hs_node *shape, unsigned blocks);
/* Hash the bytes of a reserved node; fill its chaining values. The bytes before block `changed` are those of `old` (NULL:
 * of no node), whose chaining values serve up to there. Returns the number of blocks hashed. */
unsigned hs_cached_hash(hs_cached *cached, hs_cached *old, unsigned changed, uint8_t id[32]);
/* Make what was reserved last a node of the cache; its id must not be there yet. */
void hs_cache_enter(hs_cache *cache, hs_cached *cached);
/* Counts the slabs given up: while it stands still, no pointer into the cache has ended. */
uint64_t hs_cache_epoch(const hs_cache *cache);
/* A slot for an object that the tree keeps between operations; freed by release(object) with the cache. */
typedef struct hs_cache_spare {
    void *object;
    void (*release)(void *object);
} hs_cache_spare;
hs_cache_spare *hs_cache_spare_slot(hs_cache *cache);

/* --- inline parts --- */

typedef struct hs_cache_slab {
    uint8_t *base; /* NULL: unused */
    uint32_t generation;
    uint32_t filled; /* bytes */
    uint32_t nodes;
    int32_t next; /* in order of age; -1: none */
} hs_cache_slab;

/* The first member of hs_cache, so that links can be followed inline. */
typedef struct hs_cache_face {
    hs_cache_slab *slabs;
} hs_cache_face;

static inline hs_cached *hs_cache_peek(hs_cache *cache, hs_link link) {
    if (link == 0) return NULL;
    const hs_cache_slab *slab = ((const hs_cache_face *)(const void *)cache)->slabs + ((link >> 17) & 0x7FFF);
    if (slab->generation != (uint32_t)(link >> 32)) return NULL;
    return (hs_cached *)(void *)(slab->base + ((link & 0x1FFFE) << 4));
}

static inline hs_cached *hs_cache_follow(hs_cache *cache, hs_link link) {
    hs_cached *cached = hs_cache_peek(cache, link);
    if (cached && !cached->used) cached->used = 1;
    return cached;
}
#endif
