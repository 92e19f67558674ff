/* hs_cache: see hs_cache.h. */
#include "hs_cache.h"
#include "helios_shm.h"
#include "hs_blake3.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

#define SLAB_SIZE_MAX  ((size_t)2 << 20)   /* a huge page; offsets count units in 16 bits */
#define SLAB_SIZE_MIN  ((size_t)128 << 10) /* holds the largest node, with its links */
#define HS_CACHE_UNIT  32u                 /* bytes; nodes begin at multiples of it */
#define SLABS_MAX      32768u
#define BEHIND         32u /* bytes that hashing a node may write behind it */
#define BUCKET_WORDS   8u
#define RECENT         16u
#define BUCKETS_TRIED  4u
#define BUCKETS_MIN    256u
#define EVICTED_A_TRIM 12u                 /* nodes: more than an operation adds, few enough to be no pause */
#define SLABS_A_TRIM   2u                  /* given up at once after a batch that went over the limit */
#define IDLE_MAX       (SLABS_A_TRIM + 1u) /* slabs whose memory is kept: as many as one trim can give up */
#define HEADS_AHEAD    32u /* nodes between a head that is fetched and the node that is evicted */
#define BUCKETS_AHEAD  16u /* the same for buckets */

struct hs_cache {
    hs_cache_face face; /* must be first */
    size_t slab_size, limit;
    uint32_t slab_capacity;
    uint32_t slabs_in_use;
    int32_t oldest, current; /* -1: none */
    uint32_t evicted_to;     /* nodes of the oldest slab that were evicted or kept elsewhere already */
    size_t kept;             /* bytes of it that were kept elsewhere */
    uint8_t *idle[IDLE_MAX]; /* memory of slabs, mapped and unused */
    uint32_t idle_count;
    uint64_t *table;
    uint64_t buckets; /* a power of two */
    uint64_t nodes, evicted;
    uint64_t epoch; /* slabs given up */
    hs_link recent
        [RECENT]; /* nodes found or entered lately, by a byte of their id: a root is asked for again and again */
    hs_cache_spare spare;
};

/* --- places --- */

static inline uint32_t place_of(const hs_cache *cache, const hs_cached *cached) {
    uint64_t offset = (uint64_t)((const uint8_t *)cached - cache->face.slabs[cached->slab].base);
    return (uint32_t)cached->slab << 17 | (uint32_t)(offset >> 4) | 1u;
}

static inline hs_cached *at_place(const hs_cache *cache, uint32_t place) {
    return (hs_cached *)(void *)(cache->face.slabs[place >> 17].base + ((place & 0x1FFFEu) << 4));
}

static inline uint64_t word_of(const hs_cache *cache, const hs_cached *cached) {
    return (uint64_t)hs_load_u32(cached->id) << 32 | place_of(cache, cached);
}

hs_link hs_cache_link(const hs_cache *cache, const hs_cached *cached) {
    return (uint64_t)cache->face.slabs[cached->slab].generation << 32 | place_of(cache, cached);
}

/* Where the nodes of a slab begin, in units: a list that grows down from the slab's end, one entry a node. */
static inline uint16_t *start_of(const hs_cache *cache, const hs_cache_slab *slab, uint32_t node) {
    return (uint16_t *)(void *)(slab->base + cache->slab_size) - 1 - node;
}

static inline hs_cached *node_of(const hs_cache *cache, const hs_cache_slab *slab, uint32_t node) {
    return (hs_cached *)(void *)(slab->base + (size_t)*start_of(cache, slab, node) * HS_CACHE_UNIT);
}

/* --- the table: bounded probing; a crowd of equal tags costs look-ups from the ring, never time without bound --- */

static inline uint64_t *bucket_of(const hs_cache *cache, uint32_t tag, unsigned tried) {
    return cache->table + ((tag + tried) & (cache->buckets - 1)) * BUCKET_WORDS;
}

void hs_cache_prefetch(const hs_cache *cache, const uint8_t id[32]) {
    __builtin_prefetch(bucket_of(cache, hs_load_u32(id), 0), 1);
}

static inline hs_link *recent_of(hs_cache *cache, const uint8_t id[32]) {
    return &cache->recent[id[4] % RECENT];
}

hs_cached *hs_cache_get(hs_cache *cache, const uint8_t id[32]) {
    hs_cached *recent = hs_cache_follow(cache, *recent_of(cache, id));
    if (recent && memcmp(recent->id, id, 32) == 0) return recent;
    uint32_t tag = hs_load_u32(id);
    for (unsigned tried = 0; tried < BUCKETS_TRIED; tried++) {
        const uint64_t *bucket = bucket_of(cache, tag, tried);
        for (unsigned i = 0; i < BUCKET_WORDS; i++) {
            if (bucket[i] == 0) return NULL;
            if ((uint32_t)(bucket[i] >> 32) != tag) continue;
            hs_cached *cached = at_place(cache, (uint32_t)bucket[i]);
            if (memcmp(cached->id, id, 32) != 0) continue;
            cached->used = 1;
            *recent_of(cache, id) = hs_cache_link(cache, cached);
            return cached;
        }
    }
    return NULL;
}

/* Words of a bucket stand without gaps. Where all four are full, one word of the first is forgotten. */
static void table_put(hs_cache *cache, uint64_t word) {
    uint32_t tag = (uint32_t)(word >> 32);
    for (unsigned tried = 0; tried < BUCKETS_TRIED; tried++) {
        uint64_t *bucket = bucket_of(cache, tag, tried);
        for (unsigned i = 0; i < BUCKET_WORDS; i++) {
            if (bucket[i] != 0) continue;
            bucket[i] = word;
            return;
        }
    }
    bucket_of(cache, tag, 0)[(word >> 1) % BUCKET_WORDS] = word;
}

static void table_remove(hs_cache *cache, uint64_t word) {
    for (unsigned tried = 0; tried < BUCKETS_TRIED; tried++) {
        uint64_t *bucket = bucket_of(cache, (uint32_t)(word >> 32), tried);
        for (unsigned i = 0; i < BUCKET_WORDS; i++) {
            if (bucket[i] != word) continue;
            unsigned last = i;
            while (last + 1 < BUCKET_WORDS && bucket[last + 1] != 0) last++;
            bucket[i] = bucket[last];
            bucket[last] = 0;
            return;
        }
    }
}

/* All zeros; on huge pages once it has their size, since every look-up goes somewhere else in it. */
static uint64_t *table_make(uint64_t buckets) {
    size_t size = buckets * 64;
    uint64_t *table = aligned_alloc(size < SLAB_SIZE_MAX ? 64 : SLAB_SIZE_MAX, size);
    if (!table) return NULL;
    if (size >= SLAB_SIZE_MAX) madvise(table, size, MADV_HUGEPAGE);
    memset(table, 0, size);
    return table;
}

/* Twice the buckets. Without memory for it the table stays as it is, and forgets. */
static void table_grow(hs_cache *cache) {
    uint64_t old_buckets = cache->buckets, *old = cache->table;
    uint64_t *table = old_buckets < (UINT64_C(1) << 31) ? table_make(old_buckets * 2) : NULL;
    if (!table) return;
    cache->table = table;
    cache->buckets = old_buckets * 2;
    for (uint64_t i = 0; i < old_buckets * BUCKET_WORDS; i++)
        if (old[i]) table_put(cache, old[i]);
    free(old);
}

/* --- slabs --- */

static uint8_t *slab_map(size_t size) {
    uint8_t *raw =
        mmap(NULL, size * 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) return NULL;
    uint8_t *base = (uint8_t *)hs_align_up((uintptr_t)raw, size);
    if (base > raw) munmap(raw, (size_t)(base - raw));
    size_t tail = size - (size_t)(base - raw);
    if (tail) munmap(base + size, tail);
    if (size == SLAB_SIZE_MAX) madvise(base, size, MADV_HUGEPAGE);
    return base;
}

/* An index without memory, or -1. */
static int32_t slab_index(hs_cache *cache) {
    for (uint32_t i = 0; i < cache->slab_capacity; i++)
        if (!cache->face.slabs[i].base) return (int32_t)i;
    uint32_t capacity = cache->slab_capacity ? cache->slab_capacity * 2 : 64;
    if (capacity > SLABS_MAX) return -1;
    hs_cache_slab *slabs = realloc(cache->face.slabs, capacity * sizeof *slabs);
    if (!slabs) return -1;
    for (uint32_t i = cache->slab_capacity; i < capacity; i++)
        slabs[i] = (hs_cache_slab){.generation = 1, .next = -1};
    int32_t index = (int32_t)cache->slab_capacity;
    cache->face.slabs = slabs;
    cache->slab_capacity = capacity;
    return index;
}

/* A fresh slab becomes the current one. */
static bool slab_begin(hs_cache *cache) {
    int32_t index = slab_index(cache);
    if (index < 0) return false;
    uint8_t *base = cache->idle_count ? cache->idle[--cache->idle_count] : slab_map(cache->slab_size);
    if (!base) return false;
    hs_cache_slab *slab = cache->face.slabs + index;
    slab->base = base;
    slab->filled = slab->nodes = 0;
    slab->next = -1;
    if (cache->current >= 0)
        cache->face.slabs[cache->current].next = index;
    else
        cache->oldest = index;
    cache->current = index;
    cache->slabs_in_use++;
    return true;
}

/* The oldest slab's memory is given up; its links end. */
static void slab_end(hs_cache *cache) {
    hs_cache_slab *slab = cache->face.slabs + cache->oldest;
    cache->oldest = slab->next;
    if (cache->oldest < 0) cache->current = -1;
    slab->generation++;
    cache->epoch++;
    if (cache->idle_count == IDLE_MAX)
        munmap(slab->base, cache->slab_size);
    else
        cache->idle[cache->idle_count++] = slab->base;
    slab->base = NULL;
    cache->slabs_in_use--;
}

static void idle_release(hs_cache *cache) {
    while (cache->idle_count) munmap(cache->idle[--cache->idle_count], cache->slab_size);
}

/* --- nodes --- */

hs_cached *hs_cache_reserve(hs_cache *cache, const hs_node *shape, unsigned blocks) {
    size_t links = shape->type == HS_NODE_INNER ? shape->count * sizeof(hs_link) : 0;
    size_t chain = 32u * hs_node_chain_kept(shape, blocks);
    size_t size = hs_align_up(sizeof(hs_cached) + links + hs_align_up(shape->size, 4) + chain, HS_CACHE_UNIT);
    hs_cache_slab *slab = cache->current >= 0 ? cache->face.slabs + cache->current : NULL;
    if (!slab || slab->filled + size + BEHIND + sizeof(uint16_t) * (slab->nodes + 1) > cache->slab_size) {
        if (!slab_begin(cache)) return NULL;
        slab = cache->face.slabs + cache->current;
    }
    hs_cached *cached = (hs_cached *)(void *)(slab->base + slab->filled);
    cached->node = *shape;
    cached->node.bytes = (uint8_t *)(cached + 1) + links;
    cached->size = (uint32_t)size;
    cached->slab = (uint16_t)cache->current;
    cached->used = 0;
    cached->blocks = (uint8_t)blocks;
    if (links) memset(cached + 1, 0, links);
    return cached;
}

/* Hashing leaves the chaining value before the last block behind the node, where the next one will begin. */
static unsigned hash_from(hs_cached *cached, hs_cached *old, unsigned from, uint8_t id[32]) {
    unsigned first = hs_node_chain_first(&cached->node);
    memcpy(hs_cached_chain(cached)[first], hs_cached_chain(old)[first], 32u * (from + 1 - first));
    hs_blake3_resume(cached->node.bytes, cached->node.size, hs_cached_chain(cached), from, id);
    return cached->blocks - from;
}

unsigned hs_cached_hash(hs_cached *cached, hs_cached *old, unsigned changed, uint8_t id[32]) {
    const hs_node *node = &cached->node;
    unsigned first = hs_node_chain_first(node), blocks = cached->blocks;
    if (!blocks) {
        hs_blake3(node->bytes, node->size, id);
        return (unsigned)hs_blake3_blocks(node->size);
    }
    if (HS_LIKELY(old && changed >= first && hs_node_chain_first(&old->node) == first)) {
        unsigned least = blocks < old->blocks ? blocks : old->blocks;
        if (HS_LIKELY(least > first + 1))
            return hash_from(cached, old, changed < least - 1 ? changed : least - 2, id);
    }
    uint32_t whole[HS_BLAKE3_CHUNK / HS_BLAKE3_BLOCK][8];
    hs_blake3_resume(node->bytes, node->size, whole, 0, id);
    memcpy(hs_cached_chain(cached)[first], whole[first], 32u * hs_node_chain_kept(node, blocks));
    return blocks;
}

void hs_cache_enter(hs_cache *cache, hs_cached *cached) {
    hs_cache_slab *slab = cache->face.slabs + cached->slab;
    assert((uint8_t *)cached == slab->base + slab->filled);
    *start_of(cache, slab, slab->nodes++) = (uint16_t)(slab->filled / HS_CACHE_UNIT);
    slab->filled += cached->size;
    cache->nodes++;
    if (cache->nodes * 2 > cache->buckets * BUCKET_WORDS) table_grow(cache);
    table_put(cache, word_of(cache, cached));
    *recent_of(cache, cached->id) = hs_cache_link(cache, cached);
}

int hs_cache_add(hs_cache *cache, const uint8_t id[32], const uint8_t *bytes, size_t size, bool trusted) {
    if (hs_cache_get(cache, id)) return HS_OK;
    hs_node node;
    int status = hs_node_open(bytes, size, &node);
    if (status != HS_OK) return status;
    unsigned blocks = !trusted && size <= HS_BLAKE3_CHUNK ? (unsigned)hs_blake3_blocks(size) : 0;
    hs_cached *cached = hs_cache_reserve(cache, &node, blocks);
    if (!cached) return HS_NO_MEMORY;
    memcpy((uint8_t *)(uintptr_t)cached->node.bytes, bytes, size);
    memcpy(cached->id, id, 32);
    if (!trusted) {
        uint8_t found[32];
        (void)hs_cached_hash(cached, NULL, 0, found);
        if (memcmp(found, id, 32) != 0) return HS_CORRUPT;
    }
    hs_cache_enter(cache, cached);
    return HS_OK;
}

/* --- eviction --- */

/* Move a node of the oldest slab to the current one. */
static bool node_keep(hs_cache *cache, hs_cached *old) {
    hs_cached *kept = hs_cache_reserve(cache, &old->node, old->blocks);
    if (!kept) return false;
    uint16_t slab = kept->slab;
    const uint8_t *bytes = kept->node.bytes;
    memcpy(kept, old, old->size);
    kept->node.bytes = bytes;
    kept->slab = slab;
    kept->used = 0;
    hs_cache_enter(cache, kept);
    return true;
}

static inline void evict_prefetch(const hs_cache *cache, const hs_cache_slab *slab, uint32_t node) {
    __builtin_prefetch(bucket_of(cache, hs_load_u32(node_of(cache, slab, node)->id), 0), 1);
}

/* Evict the next nodes of the oldest slab, or keep those used lately in the current one: at most half of the slab, so that each
 * eviction makes room. Cold memory, all of it: what comes next is fetched ahead, first heads (the first ones a call before),
 * then the buckets that they lead to. */
static void evict_nodes(hs_cache *cache, uint32_t count) {
    hs_cache_slab slab = cache->face.slabs[cache->oldest]; /* a copy: keeping may move the list of slabs */
    uint32_t from = cache->evicted_to, to = slab.nodes - from > count ? from + count : slab.nodes;
    for (uint32_t n = from; n < to && n - from < BUCKETS_AHEAD; n++) evict_prefetch(cache, &slab, n);
    for (uint32_t n = from; n < to; n++) {
        if (to - n > HEADS_AHEAD) __builtin_prefetch(node_of(cache, &slab, n + HEADS_AHEAD));
        if (to - n > BUCKETS_AHEAD) evict_prefetch(cache, &slab, n + BUCKETS_AHEAD);
        hs_cached *cached = node_of(cache, &slab, n);
        table_remove(cache, word_of(cache, cached));
        cache->nodes--;
        bool keep = cached->used && cache->kept + cached->size <= cache->slab_size / 2;
        if (keep && node_keep(cache, cached))
            cache->kept += cached->size;
        else
            cache->evicted++;
    }
    for (uint32_t n = to; n < slab.nodes && n - to < count; n++) __builtin_prefetch(node_of(cache, &slab, n));
    cache->evicted_to = to;
    if (to < slab.nodes) return;
    cache->evicted_to = 0;
    cache->kept = 0;
    slab_end(cache);
}

void hs_cache_trim(hs_cache *cache) {
    if (HS_LIKELY((cache->slabs_in_use + 1) * cache->slab_size <= cache->limit)) return;
    if (cache->oldest != cache->current) evict_nodes(cache, EVICTED_A_TRIM);
    for (unsigned i = 0; i < SLABS_A_TRIM; i++) {
        if (cache->slabs_in_use * cache->slab_size <= cache->limit || cache->oldest == cache->current) return;
        evict_nodes(cache, UINT32_MAX);
    }
}

void hs_cache_after_fork(hs_cache *cache) {
    idle_release(cache);
    slab_begin(cache); /* without memory for it the old slab goes on */
}

/* --- life --- */

static size_t slab_size_for(size_t limit) {
    size_t size = SLAB_SIZE_MAX;
    while (size > SLAB_SIZE_MIN && size > limit / 8) size /= 2;
    return size;
}

int hs_cache_new(size_t limit, hs_cache **out) {
    hs_cache *cache = calloc(1, sizeof *cache);
    if (!cache) return HS_NO_MEMORY;
    cache->limit = limit;
    cache->slab_size = slab_size_for(limit);
    cache->oldest = cache->current = -1;
    cache->buckets = BUCKETS_MIN;
    cache->table = table_make(BUCKETS_MIN);
    if (!cache->table || !slab_begin(cache)) {
        hs_cache_free(cache);
        return HS_NO_MEMORY;
    }
    *out = cache;
    return HS_OK;
}

void hs_cache_clear(hs_cache *cache) {
    while (cache->oldest >= 0) slab_end(cache); /* the next node begins a slab */
    memset(cache->table, 0, cache->buckets * BUCKET_WORDS * sizeof *cache->table);
    cache->nodes = cache->kept = cache->evicted_to = 0;
}

void hs_cache_free(hs_cache *cache) {
    if (!cache) return;
    if (cache->spare.release) cache->spare.release(cache->spare.object);
    while (cache->oldest >= 0) slab_end(cache);
    idle_release(cache);
    free(cache->face.slabs);
    free(cache->table);
    free(cache);
}

void hs_cache_prefetch_room(const hs_cache *cache, size_t size) {
    if (cache->current < 0) return;
    const hs_cache_slab *slab = cache->face.slabs + cache->current;
    const uint8_t *at = slab->base + slab->filled, *end = slab->base + cache->slab_size;
    for (size_t offset = 0; offset < size && at + offset < end; offset += 64)
        __builtin_prefetch(at + offset, 1);
}

uint64_t hs_cache_epoch(const hs_cache *cache) { return cache->epoch; }
hs_cache_spare *hs_cache_spare_slot(hs_cache *cache) { return &cache->spare; }

void hs_cache_stats_get(const hs_cache *cache, hs_cache_stats *out) {
    uint64_t bytes = 0;
    for (int32_t i = cache->oldest; i >= 0; i = cache->face.slabs[i].next)
        bytes += cache->face.slabs[i].filled;
    *out = (hs_cache_stats){cache->nodes, bytes, cache->limit, cache->evicted};
}
