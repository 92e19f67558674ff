/* hs_tree_walk: from an id to a node, from a node to its child, and the cursor. Internal to hs_tree*.c.
 *
 *   cursor    node[top]  --at[top]-->  node[top - 1]  --at-->  ...  -->  node[level]  --at[level]-->  an entry
 *
 * Invariants: node[l] is at level l and is child at[l + 1] of node[l + 1]; at[l] < node[l].count for l above `level`.
 * A child was checked when its link was made: its level, its last key, and that its first key stands above its parent's
 * entry before. Whatever the bytes say, each step down lowers the level, so no walk is endless. */
#ifndef HS_TREE_WALK_H
#define HS_TREE_WALK_H
#include "hs_tree.h"
#include "helios_shm.h"

typedef struct hs_cursor {
    hs_tree *tree;
    unsigned top, level;
    hs_cached *node[HS_LEVEL_MAX];
    uint16_t at[HS_LEVEL_MAX];
} hs_cursor;

/* The node of an id: from the cache, else from io.load. HS_MISSING sets tree->missing. */
int hs_tree_root(hs_tree *tree, const uint8_t root[32], hs_cached **out);
int hs_tree_child_load(hs_tree *tree, hs_cached *parent, unsigned index, hs_cached **out);

/* The child of an inner node. */
static inline int hs_tree_child(hs_tree *tree, hs_cached *parent, unsigned index, hs_cached **out) {
    hs_cached *child = hs_cache_follow(tree->cache, hs_cached_links(parent)[index]);
    if (HS_UNLIKELY(!child)) return hs_tree_child_load(tree, parent, index, out);
    *out = child;
    return HS_OK;
}

/* Put the cursor above the root; the root's level is at least `level`. */
int hs_cursor_open(hs_cursor *cursor, hs_tree *tree, const uint8_t root[32]);
/* Stand on the first entry of `level` whose key is not below `key`; if all are below, behind the last one. *found: equal. */
int hs_cursor_seek(hs_cursor *cursor, unsigned level, const uint8_t *key, size_t key_size, bool *found);
/* The same for a cursor that stands at that level, and a key not below what it stands on. */
int hs_cursor_seek_on(hs_cursor *cursor, const uint8_t *key, size_t key_size, bool *found);
/* Stand on the first (last) entry of `level`. */
int hs_cursor_first(hs_cursor *cursor, unsigned level);
int hs_cursor_last(hs_cursor *cursor, unsigned level);
/* To the first entry of the next node of its level (the last one of the node before). HS_NOT_FOUND, and the cursor as it
 * was, if there is none. HS_CORRUPT if the nodes are not in order. */
int hs_cursor_next_node(hs_cursor *cursor);
int hs_cursor_prev_node(hs_cursor *cursor);
/* The last key of the node before, as the ancestors have it; false: this is the level's first node. */
bool hs_cursor_key_before(const hs_cursor *cursor, hs_key *out);

static inline hs_cached *hs_cursor_node(const hs_cursor *cursor) { return cursor->node[cursor->level]; }
static inline unsigned hs_cursor_at(const hs_cursor *cursor) { return cursor->at[cursor->level]; }
static inline bool hs_cursor_in_node(const hs_cursor *cursor) {
    return hs_cursor_at(cursor) < hs_cursor_node(cursor)->node.count;
}

static inline void hs_cached_prefetch(const hs_cached *cached) {
    for (unsigned line = 0; line < 6; line++) __builtin_prefetch((const uint8_t *)cached + 64 * line);
}
#endif
