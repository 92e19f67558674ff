/*
 * hs_nodes: a node store in plain memory, as a tree's hs_node_io, whose failures are scripted.
 *
 *   fail_at = n: the n-th call from now on (1 is the next) returns `fail_with`, once; loads and stores are counted
 *   together. every = k: each k-th call fails besides. What a failed load asked for may then be "brought", as L2 does.
 */
#ifndef HS_NODES_H
#define HS_NODES_H

#include "helios_shm.h"
#include "hs_blake3.h"
#include "hs_tree.h"

#include <stdlib.h>

typedef struct hs_nodes_item {
    uint8_t id[32];
    uint8_t *bytes;
    size_t size;
} hs_nodes_item;

typedef struct hs_nodes {
    hs_nodes_item *items; /* open addressing; a power of two, at most half full */
    size_t capacity, count;
    uint64_t loads, stores, calls;
    uint64_t fail_at, every;
    int load_fails_with, store_fails_with;
    bool cold; /* every load misses: the caller has to bring the node */
} hs_nodes;

static inline hs_nodes_item *hs_nodes_slot(const hs_nodes *nodes, const uint8_t id[32]) {
    size_t at = (size_t)hs_load_u64(id + 8) & (nodes->capacity - 1);
    while (nodes->items[at].bytes && memcmp(nodes->items[at].id, id, 32) != 0)
        at = (at + 1) & (nodes->capacity - 1);
    return nodes->items + at;
}

static inline void hs_nodes_grow(hs_nodes *nodes) {
    hs_nodes old = *nodes;
    nodes->capacity = old.capacity ? old.capacity * 2 : 1024;
    nodes->items = calloc(nodes->capacity, sizeof *nodes->items);
    if (!nodes->items) abort();
    for (size_t i = 0; i < old.capacity; i++)
        if (old.items[i].bytes) *hs_nodes_slot(nodes, old.items[i].id) = old.items[i];
    free(old.items);
}

/* True if it was not there before. */
static inline bool hs_nodes_put(hs_nodes *nodes, const uint8_t id[32], const uint8_t *bytes, size_t size) {
    if (nodes->count * 2 >= nodes->capacity) hs_nodes_grow(nodes);
    hs_nodes_item *item = hs_nodes_slot(nodes, id);
    if (item->bytes) return false;
    memcpy(item->id, id, 32);
    item->bytes = malloc(size ? size : 1);
    if (!item->bytes) abort();
    memcpy(item->bytes, bytes, size);
    item->size = size;
    nodes->count++;
    return true;
}

static inline const hs_nodes_item *hs_nodes_get(const hs_nodes *nodes, const uint8_t id[32]) {
    const hs_nodes_item *item = nodes->capacity ? hs_nodes_slot(nodes, id) : NULL;
    return item && item->bytes ? item : NULL;
}

static inline bool hs_nodes_fails(hs_nodes *nodes) {
    nodes->calls++;
    if (nodes->every && nodes->calls % nodes->every == 0) return true;
    return nodes->fail_at && --nodes->fail_at == 0;
}

static inline int hs_nodes_load(void *context, const uint8_t id[32], uint8_t *buffer, size_t *size) {
    hs_nodes *nodes = context;
    nodes->loads++;
    if (hs_nodes_fails(nodes)) return nodes->load_fails_with;
    const hs_nodes_item *item = hs_nodes_get(nodes, id);
    if (!item || nodes->cold) return HS_MISSING;
    memcpy(buffer, item->bytes, item->size);
    *size = item->size;
    return HS_OK;
}

static inline int hs_nodes_store(void *context, const uint8_t id[32], const uint8_t *bytes, size_t size,
                                 bool *added) {
    hs_nodes *nodes = context;
    nodes->stores++;
    if (hs_nodes_fails(nodes)) return nodes->store_fails_with;
    *added = hs_nodes_put(nodes, id, bytes, size);
    return HS_OK;
}

/* What Python does after HS_MISSING. */
static inline int hs_nodes_bring(const hs_nodes *nodes, hs_tree *tree) {
    const hs_nodes_item *item = hs_nodes_get(nodes, tree->missing);
    return item ? hs_cache_add(tree->cache, item->id, item->bytes, item->size, false) : HS_NOT_FOUND;
}

static inline void hs_nodes_open(hs_nodes *nodes, hs_tree *tree, size_t cache_limit) {
    *nodes = (hs_nodes){.load_fails_with = HS_MISSING, .store_fails_with = HS_WAIT};
    *tree = (hs_tree){.io = {nodes, hs_nodes_load, hs_nodes_store}};
    if (hs_cache_new(cache_limit, &tree->cache) != HS_OK) abort();
}

static inline void hs_nodes_close(hs_nodes *nodes, hs_tree *tree) {
    hs_cache_free(tree->cache);
    for (size_t i = 0; i < nodes->capacity; i++) free(nodes->items[i].bytes);
    free(nodes->items);
}

#endif
