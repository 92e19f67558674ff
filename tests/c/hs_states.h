/*
 * hs_states: states for the tests of the tree, and the plain way from a state to its root: sort, cut, hash, level by
 * level, the whole of it each time. What hs_tree_apply.c does by halves must come out the same.
 */
#ifndef HS_STATES_H
#define HS_STATES_H

#include "hs_checksum.h"
#include "hs_nodes.h"

enum { HS_STATE_MAX = 8192 };

/* A set of keys out of a fixed list, each with its value; absent where `remove` is set. */
typedef struct hs_state {
    hs_edit items[HS_STATE_MAX]; /* sorted by key */
    size_t count;
} hs_state;

typedef struct hs_plain {
    hs_key key;
    uint8_t id[32];
    uint64_t keys, value_bytes;
    const hs_edit *edit;
} hs_plain;

static inline int hs_plain_order(const void *a, const void *b) {
    const hs_edit *x = a, *y = b;
    return hs_bytes_compare(x->key, x->key_size, y->key, y->key_size);
}

static inline bool hs_plain_ends(const hs_plain *items, size_t count, size_t i, size_t start,
                                 unsigned level) {
    if (i + 1 == count) return true;
    if (count <= HS_TREE_SMALL) return false;
    size_t bytes = 0;
    for (size_t j = start; j <= i; j++) bytes += hs_key_size(&items[j].key);
    if (i + 1 - start >= HS_NODE_COUNT_MAX || bytes >= HS_NODE_KEY_BYTES_MAX) return true;
    if (i < HS_TREE_SIDE || i + HS_TREE_SIDE >= count) return false;
    uint64_t hash[2 * HS_TREE_SIDE + 1];
    for (size_t j = 0; j <= 2 * HS_TREE_SIDE; j++) {
        const hs_key *key = &items[i + j - HS_TREE_SIDE].key;
        hash[j] = hs_key_hash_level(hs_key_hash(key->suffix, key->suffix_size), level);
    }
    for (size_t j = 0; j <= 2 * HS_TREE_SIDE; j++)
        if (j != HS_TREE_SIDE && hash[j] <= hash[HS_TREE_SIDE]) return false;
    return true;
}

/* Entries [start, end) become one item of the level above. */
static inline hs_plain hs_plain_node(const hs_plain *items, size_t start, size_t end, unsigned level) {
    static hs_node_entry entries[HS_NODE_COUNT_MAX];
    static uint8_t bytes[HS_NODE_SIZE_MAX];
    hs_plain above = {.keys = 0};
    hs_node node;
    for (size_t i = start; i < end; i++) {
        entries[i - start].key = items[i].key;
        if (level)
            entries[i - start].id = items[i].id;
        else
            entries[i - start].value = items[i].edit->value;
        above.keys += items[i].keys;
        above.value_bytes += items[i].value_bytes;
        above.key = items[i].key;
    }
    hs_node_build(level, entries, sizeof *entries, (unsigned)(end - start), above.keys, above.value_bytes,
                  bytes, &node);
    hs_blake3(bytes, node.size, above.id);
    return above;
}

/* Root, keys and value bytes of the state. */
static inline void hs_state_root(const hs_state *state, hs_apply_result *out) {
    static hs_plain items[HS_STATE_MAX];
    size_t count = 0;
    for (size_t i = 0; i < state->count; i++) {
        const hs_edit *edit = state->items + i;
        if (edit->remove) continue;
        items[count++] = (hs_plain){.key = {edit->key, edit->key, 0, edit->key_size},
                                    .keys = 1,
                                    .value_bytes = edit->value.size,
                                    .edit = edit};
    }
    for (unsigned level = 0;; level++) {
        size_t nodes = 0, start = 0;
        if (count == 0) items[nodes++] = hs_plain_node(items, 0, 0, 0);
        for (size_t i = 0; i < count; i++) {
            if (!hs_plain_ends(items, count, i, start, level)) continue;
            items[nodes++] = hs_plain_node(items, start, i + 1, level);
            start = i + 1;
        }
        count = nodes;
        if (nodes == 1) break;
    }
    memcpy(out->root, items[0].id, 32);
    out->keys = items[0].keys;
    out->value_bytes = items[0].value_bytes;
}

static inline uint64_t hs_random(uint64_t *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* Values are slices of one fixed area: no value has to be kept. */
static inline hs_value hs_state_value(uint64_t random) {
    static uint8_t area[512];
    if (area[1] == 0)
        for (size_t i = 0; i < sizeof area; i++) area[i] = (uint8_t)(i * 167 + 13);
    static const uint8_t sizes[] = {48, 48, 48, 0, 1, 63, 64, 65};
    hs_value value = {.kind = (uint8_t)(random >> 8) % HS_KIND_COUNT, .size = sizes[random % 8]};
    value.hashed = value.size > HS_INLINE_MAX;
    value.bytes = area + (random >> 16) % 256;
    return value;
}

/* Keys by a pattern of printf with one %; all absent. */
static inline void hs_state_open(hs_state *state, const char *pattern, size_t count) {
    state->count = count;
    for (size_t i = 0; i < count; i++) {
        uint8_t *key = malloc(HS_KEY_MAX + 1);
        if (!key) abort();
        int size = snprintf((char *)key, HS_KEY_MAX + 1, pattern, (int)i);
        state->items[i] = (hs_edit){.key = key, .key_size = (uint32_t)size, .remove = true};
    }
    qsort(state->items, count, sizeof *state->items, hs_plain_order);
}

static inline void hs_state_close(hs_state *state) {
    for (size_t i = 0; i < state->count; i++) free((void *)(uintptr_t)state->items[i].key);
}

/* Apply as a caller has to: bring what is missing, offer again what had no room. trim: evict between runs. */
static inline int hs_states_apply(hs_nodes *nodes, hs_tree *tree, const uint8_t base[32],
                                  const hs_edit *edits, size_t count, bool trim, hs_apply_result *out) {
    hs_apply *apply;
    int status = hs_apply_new(tree, base, edits, count, &apply);
    if (status != HS_OK) return status;
    while ((status = hs_apply_run(apply, out)) == HS_MISSING || status == HS_WAIT) {
        if (trim) hs_cache_trim(tree->cache);
        if (status == HS_MISSING && (status = hs_nodes_bring(nodes, tree)) != HS_OK) break;
    }
    hs_apply_free(apply);
    return status;
}

static inline int hs_states_apply_one(hs_nodes *nodes, hs_tree *tree, const uint8_t base[32],
                                      const hs_edit *edit, hs_apply_result *out) {
    int status;
    while ((status = hs_tree_apply_one(tree, base, edit, out)) == HS_MISSING || status == HS_WAIT)
        if (status == HS_MISSING && (status = hs_nodes_bring(nodes, tree)) != HS_OK) break;
    return status;
}

#endif
