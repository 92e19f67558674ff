/* hs_tree_walk: see hs_tree_walk.h. */
#include "hs_tree_walk.h"
#include "helios_shm.h"
#include "hs_blake3.h"

static const uint8_t empty_root[32] = {0x38, 0x3b, 0x83, 0xcf, 0x43, 0x5a, 0x98, 0x25, 0xa4, 0xc6, 0x75,
                                       0x72, 0xa8, 0xe0, 0xf1, 0x12, 0x75, 0x79, 0xf4, 0x9f, 0x38, 0xfd,
                                       0x27, 0xf2, 0x41, 0x16, 0xba, 0x04, 0x7b, 0x5a, 0xd0, 0x76};
static const uint8_t empty_leaf[HS_NODE_HEAD_SIZE + HS_NODE_TOTALS_SIZE] = {HS_NODE_LEAF, 1};

void hs_tree_empty_root(uint8_t out[32]) { memcpy(out, empty_root, 32); }

/* Who reads one value of a leaf will probably read others. */
static void expect_values(const hs_tree *tree, const hs_node *leaf) {
    unsigned offset = leaf->values;
    for (unsigned i = 0; i < leaf->count; i++) {
        uint8_t form = leaf->bytes[hs_node_form_offset(leaf, i) + 1];
        if (form == HS_NODE_FORM_HASHED) tree->io.expect(tree->io.context, leaf->bytes + offset + 8);
        offset += hs_node_form_size(form);
    }
}

/* Not in the cache: load it. */
static __attribute__((noinline)) int node_load(hs_tree *tree, const uint8_t id[32], hs_cached **out) {
    uint8_t buffer[HS_NODE_SIZE_MAX];
    size_t size = sizeof empty_leaf;
    if (memcmp(id, empty_root, 32) == 0) {
        memcpy(buffer, empty_leaf, sizeof empty_leaf);
    } else {
        int status = tree->io.load(tree->io.context, id, buffer, &size);
        if (status == HS_MISSING) memcpy(tree->missing, id, 32);
        if (status != HS_OK) return status;
        if (size > sizeof buffer) return HS_CORRUPT;
    }
    int status = hs_cache_add(tree->cache, id, buffer, size, true);
    if (status != HS_OK) return status;
    *out = hs_cache_get(tree->cache, id);
    if (!*out) return HS_NO_MEMORY;
    if (tree->io.expect && (*out)->node.level == 0) expect_values(tree, &(*out)->node);
    return HS_OK;
}

static inline int node_get(hs_tree *tree, const uint8_t id[32], hs_cached **out) {
    hs_cached *found = hs_cache_get(tree->cache, id);
    if (!found) return node_load(tree, id, out);
    *out = found;
    return HS_OK;
}

int hs_tree_root(hs_tree *tree, const uint8_t root[32], hs_cached **out) {
    hs_cached *node;
    int status = node_get(tree, root, &node);
    if (status != HS_OK) return status;
    if (node->node.type == HS_NODE_INNER && node->node.count < 2) return HS_CORRUPT;
    *out = node;
    return HS_OK;
}

/* Does the child have the level, the last key and the place that the parent says? */
static bool child_fits(const hs_node *parent, unsigned index, const hs_node *child) {
    uint8_t key[HS_KEY_MAX];
    if (child->level + 1 != parent->level || child->count == 0) return false;
    hs_key told = hs_node_key(parent, index), last = hs_node_key(child, child->count - 1u);
    hs_key_copy(&told, key);
    if (hs_key_compare(&last, key, hs_key_size(&told)) != 0) return false;
    if (index == 0) return true;
    hs_key before = hs_node_key(parent, index - 1), first = hs_node_key(child, 0);
    hs_key_copy(&before, key);
    return hs_key_compare(&first, key, hs_key_size(&before)) > 0;
}

int hs_tree_child_load(hs_tree *tree, hs_cached *parent, unsigned index, hs_cached **out) {
    hs_cached *child;
    int status = node_get(tree, hs_node_child_id(&parent->node, index), &child);
    if (status != HS_OK) return status;
    if (!child_fits(&parent->node, index, &child->node)) return HS_CORRUPT;
    hs_cached_links(parent)[index] = hs_cache_link(tree->cache, child);
    *out = child;
    return HS_OK;
}

/* --- the cursor --- */

int hs_cursor_open(hs_cursor *cursor, hs_tree *tree, const uint8_t root[32]) {
    hs_cached *node;
    int status = hs_tree_root(tree, root, &node);
    if (status != HS_OK) return status;
    cursor->tree = tree;
    cursor->top = cursor->level = node->node.level;
    cursor->node[cursor->top] = node;
    cursor->at[cursor->top] = 0;
    return HS_OK;
}

/* From node[from] down to `level`, by key. */
static int seek_down(hs_cursor *cursor, unsigned from, unsigned level, const uint8_t *key, size_t key_size,
                     bool *found) {
    cursor->level = level;
    for (unsigned l = from;; l--) {
        const hs_node *node = &cursor->node[l]->node;
        unsigned at = hs_node_find(node, key, key_size, found);
        if (l > level && at == node->count) at--; /* behind the last one: so it is in the last child, too */
        cursor->at[l] = (uint16_t)at;
        if (l == level) return HS_OK;
        int status = hs_tree_child(cursor->tree, cursor->node[l], at, &cursor->node[l - 1]);
        if (status != HS_OK) return status;
        hs_cached_prefetch(cursor->node[l - 1]);
    }
}

int hs_cursor_seek(hs_cursor *cursor, unsigned level, const uint8_t *key, size_t key_size, bool *found) {
    return seek_down(cursor, cursor->top, level, key, key_size, found);
}

int hs_cursor_seek_on(hs_cursor *cursor, const uint8_t *key, size_t key_size, bool *found) {
    unsigned from = cursor->level;
    for (; from < cursor->top; from++) {
        const hs_node *node = &cursor->node[from]->node;
        hs_key last = hs_node_key(node, node->count - 1u);
        if (hs_key_compare(&last, key, key_size) >= 0) break;
    }
    return seek_down(cursor, from, cursor->level, key, key_size, found);
}

/* From node[from], whose at is set, down to `level` along first or last entries. */
static int edge_down(hs_cursor *cursor, unsigned from, unsigned level, bool last) {
    for (unsigned l = from; l > level; l--) {
        hs_cached *child;
        int status = hs_tree_child(cursor->tree, cursor->node[l], cursor->at[l], &child);
        if (status != HS_OK) return status;
        cursor->node[l - 1] = child;
        cursor->at[l - 1] = last ? (uint16_t)(child->node.count - 1) : 0;
    }
    return HS_OK;
}

static int to_edge(hs_cursor *cursor, unsigned level, bool last) {
    uint16_t count = cursor->node[cursor->top]->node.count;
    cursor->level = level;
    cursor->at[cursor->top] = last && count ? (uint16_t)(count - 1) : 0;
    return edge_down(cursor, cursor->top, level, last);
}

int hs_cursor_first(hs_cursor *cursor, unsigned level) { return to_edge(cursor, level, false); }
int hs_cursor_last(hs_cursor *cursor, unsigned level) { return to_edge(cursor, level, true); }

/* Is all of `right` above all of `left`? A child's first key was compared with the entry before it in its own parent
 * only. */
static bool stand_in_order(const hs_node *left, const hs_node *right) {
    uint8_t key[HS_KEY_MAX];
    hs_key last = hs_node_key(left, left->count - 1u), first = hs_node_key(right, 0);
    hs_key_copy(&last, key);
    return hs_key_compare(&first, key, hs_key_size(&last)) > 0;
}

static int to_neighbour(hs_cursor *cursor, bool next) {
    unsigned level = cursor->level, from = level + 1;
    const hs_cached *here = cursor->node[level];
    while (from <= cursor->top &&
           (next ? cursor->at[from] + 1u == cursor->node[from]->node.count : cursor->at[from] == 0))
        from++;
    if (from > cursor->top) return HS_NOT_FOUND;
    hs_cursor before = *cursor;
    cursor->at[from] = (uint16_t)(next ? cursor->at[from] + 1 : cursor->at[from] - 1);
    int status = edge_down(cursor, from, level, !next);
    const hs_cached *there = cursor->node[level];
    if (status == HS_OK && from > level + 1 &&
        !stand_in_order(&(next ? here : there)->node, &(next ? there : here)->node))
        status = HS_CORRUPT;
    if (status != HS_OK) *cursor = before;
    return status;
}

int hs_cursor_next_node(hs_cursor *cursor) { return to_neighbour(cursor, true); }
int hs_cursor_prev_node(hs_cursor *cursor) { return to_neighbour(cursor, false); }

bool hs_cursor_key_before(const hs_cursor *cursor, hs_key *out) {
    for (unsigned l = cursor->level + 1; l <= cursor->top; l++) {
        if (cursor->at[l] == 0) continue;
        *out = hs_node_key(&cursor->node[l]->node, cursor->at[l] - 1u);
        return true;
    }
    return false;
}
