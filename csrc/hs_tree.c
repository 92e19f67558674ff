/* hs_tree: find, totals, count, scan; see hs_tree.h. */
#include "hs_tree.h"
#include "helios_shm.h"
#include "hs_tree_walk.h"

int hs_tree_find(hs_tree *tree, const uint8_t root[32], const uint8_t *key, size_t key_size, hs_value *out) {
    hs_cached *cached;
    bool found;
    int status = hs_tree_root(tree, root, &cached);
    while (status == HS_OK) {
        const hs_node *node = &cached->node;
        unsigned at = hs_node_find(node, key, key_size, &found);
        if (at == node->count) return HS_NOT_FOUND;
        if (node->level == 0) {
            if (!found) return HS_NOT_FOUND;
            hs_node_value_at(node, at, hs_node_value_offset(node, at), out);
            return HS_OK;
        }
        status = hs_tree_child(tree, cached, at, &cached);
        if (status == HS_OK) hs_cached_prefetch(cached);
    }
    return status;
}

int hs_tree_totals(hs_tree *tree, const uint8_t root[32], uint64_t *keys, uint64_t *value_bytes) {
    hs_cached *cached;
    int status = hs_tree_root(tree, root, &cached);
    if (status != HS_OK) return status;
    *keys = hs_node_keys(&cached->node);
    *value_bytes = hs_node_value_bytes(&cached->node);
    return HS_OK;
}

/* --- count --- */

/* Sum of the keys below children [from, to). */
static int keys_of_children(hs_tree *tree, hs_cached *parent, unsigned from, unsigned to, uint64_t *keys) {
    uint64_t sum = 0;
    for (unsigned i = from; i < to; i++) {
        hs_cached *child;
        int status = hs_tree_child(tree, parent, i, &child);
        if (status != HS_OK) return status;
        sum += hs_node_keys(&child->node);
    }
    *keys = sum;
    return HS_OK;
}

/* A range has no more keys than all of the tree, unless totals lie. */
static int count_check(hs_tree *tree, const uint8_t root[32], uint64_t keys) {
    uint64_t all, value_bytes;
    int status = hs_tree_totals(tree, root, &all, &value_bytes);
    if (status != HS_OK) return status;
    return keys <= all ? HS_OK : HS_CORRUPT;
}

/* Number of keys below `key`. On the way down, the children on the shorter side are summed. */
static int keys_below(hs_tree *tree, const uint8_t root[32], const uint8_t *key, size_t key_size,
                      uint64_t *keys) {
    hs_cached *cached;
    uint64_t sum = 0, part = 0;
    bool found;
    int status = hs_tree_root(tree, root, &cached);
    while (status == HS_OK) {
        const hs_node *node = &cached->node;
        unsigned at = hs_node_find(node, key, key_size, &found);
        if (node->level == 0) {
            *keys = sum + at;
            return HS_OK;
        }
        if (at == node->count) {
            *keys = sum + hs_node_keys(node);
            return HS_OK;
        }
        bool left = at <= node->count / 2u;
        status = keys_of_children(tree, cached, left ? 0 : at, left ? at : node->count, &part);
        sum += left ? part : hs_node_keys(node) - part;
        if (status == HS_OK) status = hs_tree_child(tree, cached, at, &cached);
    }
    return status;
}

int hs_tree_count(hs_tree *tree, const uint8_t root[32], const hs_range *range, uint64_t *keys) {
    uint64_t below_start = 0, below_stop = 0, value_bytes;
    int status = HS_OK;
    if (range && range->start) status = keys_below(tree, root, range->start, range->start_size, &below_start);
    if (status != HS_OK) return status;
    if (range && range->stop)
        status = keys_below(tree, root, range->stop, range->stop_size, &below_stop);
    else
        status = hs_tree_totals(tree, root, &below_stop, &value_bytes);
    uint64_t count = below_stop > below_start ? below_stop - below_start : 0;
    if (status == HS_OK) status = count_check(tree, root, count);
    if (status == HS_OK) *keys = count;
    return status;
}

/* --- scan --- */

typedef struct scan {
    hs_cursor cursor;
    const uint8_t *bound; /* the range's far end */
    size_t bound_size;
    hs_scan_visit visit;
    void *context;
} scan;

/* Visit entries [from, to) of a leaf, in order or in reverse; false: the scan ends. */
static bool visit_leaf(const scan *s, const hs_node *node, unsigned from, unsigned to, bool reverse) {
    uint8_t key[HS_KEY_MAX];
    memcpy(key, node->bytes + node->suffixes - node->prefix_size, node->prefix_size);
    unsigned offset = hs_node_value_offset(node, reverse ? to : from);
    for (unsigned i = from; i < to; i++) {
        unsigned index = reverse ? to - 1 - (i - from) : i;
        unsigned stored = hs_node_form_size(node->bytes[hs_node_form_offset(node, index) + 1]);
        hs_key entry = hs_node_key(node, index);
        hs_value value;
        if (reverse) offset -= stored;
        hs_node_value_at(node, index, offset, &value);
        if (!reverse) offset += stored;
        memcpy(key + entry.prefix_size, entry.suffix, entry.suffix_size);
        if (!s->visit(s->context, key, hs_key_size(&entry), &value)) return false;
    }
    return true;
}

static int scan_forward(scan *s) {
    for (;;) {
        const hs_node *node = &hs_cursor_node(&s->cursor)->node;
        bool found;
        unsigned to = s->bound ? hs_node_find(node, s->bound, s->bound_size, &found) : node->count;
        if (!visit_leaf(s, node, hs_cursor_at(&s->cursor), to, false) || to < node->count) return HS_OK;
        int status = hs_cursor_next_node(&s->cursor);
        if (status != HS_OK) return status == HS_NOT_FOUND ? HS_OK : status;
    }
}

/* The cursor stands behind what is to be visited in its leaf. */
static int scan_backward(scan *s, unsigned to) {
    for (;;) {
        const hs_node *node = &hs_cursor_node(&s->cursor)->node;
        bool found;
        unsigned from = s->bound ? hs_node_find(node, s->bound, s->bound_size, &found) : 0;
        if (from < to && !visit_leaf(s, node, from, to, true)) return HS_OK;
        if (from > 0) return HS_OK;
        int status = hs_cursor_prev_node(&s->cursor);
        if (status != HS_OK) return status == HS_NOT_FOUND ? HS_OK : status;
        to = hs_cursor_node(&s->cursor)->node.count;
    }
}

int hs_tree_scan(hs_tree *tree, const uint8_t root[32], const hs_range *range, bool reverse,
                 hs_scan_visit visit, void *context) {
    static const hs_range all = {0};
    scan s = {.visit = visit, .context = context};
    bool found;
    if (!range) range = &all;
    const uint8_t *near = reverse ? range->stop : range->start;
    size_t near_size = reverse ? range->stop_size : range->start_size;
    s.bound = reverse ? range->start : range->stop;
    s.bound_size = reverse ? range->start_size : range->stop_size;
    if (range->start && range->stop &&
        hs_bytes_compare(range->start, range->start_size, range->stop, range->stop_size) >= 0)
        return HS_OK;
    int status = hs_cursor_open(&s.cursor, tree, root);
    if (status != HS_OK) return status;
    if (near)
        status = hs_cursor_seek(&s.cursor, 0, near, near_size, &found);
    else
        status = reverse ? hs_cursor_last(&s.cursor, 0) : hs_cursor_first(&s.cursor, 0);
    if (status != HS_OK) return status;
    if (!reverse) return scan_forward(&s);
    return scan_backward(&s, near ? hs_cursor_at(&s.cursor) : hs_cursor_node(&s.cursor)->node.count);
}
