/* hs_tree_diff: keys that differ between two trees; see hs_tree.h.
 *
 * Two cursors walk side by side. Each stands on an item: an entry of a leaf, or a whole subtree (an entry of an inner
 * node), and everything before the item has been dealt with.
 *
 *   both on subtrees of equal id         step over both, and over all such that follow in their nodes
 *   a subtree on the higher level        step into it (into both, on equal levels)
 *   both on leaf entries                 report the lower key, or both if they are equal; step over
 *   the same, in twin leaves             report what differs in all of the leaf; step over it
 *
 * Twins have the same keys, and values of the same kinds and forms: a changed value leaves one where a leaf was, and all that
 * can differ stands in the same place.
 *
 * Stepping over the last item of a node climbs to the item behind its parent, so that after a difference the cursors find
 * each other again as high up as they can. What is stepped into is mostly cold memory: both sides' nodes are fetched
 * together, and the next pair that differs while this one is walked. */
#include "hs_tree_walk.h"

typedef struct side {
    hs_cursor cursor;
    bool ended;
    bool whole;        /* stands on the root itself, as one item above all levels */
    uint32_t value_at; /* offset of the leaf entry's value */
} side;

static inline unsigned side_level(const side *s) { return s->cursor.level + s->whole; }

static inline const uint8_t *side_id(const side *s) {
    hs_cached *node = hs_cursor_node(&s->cursor);
    return s->whole ? node->id : hs_node_child_id(&node->node, hs_cursor_at(&s->cursor));
}

/* Off the end of a node: to the item behind its parent. */
static void side_climb(side *s) {
    while (!hs_cursor_in_node(&s->cursor)) {
        if (s->cursor.level == s->cursor.top) {
            s->ended = true;
            return;
        }
        s->cursor.level++;
        s->cursor.at[s->cursor.level]++;
    }
}

static void side_step_over(side *s) {
    hs_cursor *cursor = &s->cursor;
    if (s->whole) {
        s->ended = true;
        return;
    }
    if (cursor->level == 0) {
        const hs_node *leaf = &hs_cursor_node(cursor)->node;
        s->value_at += hs_node_form_size(leaf->bytes[hs_node_form_offset(leaf, hs_cursor_at(cursor)) + 1]);
    }
    cursor->at[cursor->level]++;
    side_climb(s);
}

static int side_step_into(side *s) {
    hs_cursor *cursor = &s->cursor;
    hs_cached *child;
    if (s->whole) {
        s->whole = false;
        child = hs_cursor_node(cursor);
    } else {
        int status = hs_tree_child(cursor->tree, hs_cursor_node(cursor), hs_cursor_at(cursor), &child);
        if (status != HS_OK) return status;
        cursor->node[--cursor->level] = child;
    }
    cursor->at[cursor->level] = 0;
    s->value_at = child->node.values;
    side_climb(s); /* the empty tree's root */
    return HS_OK;
}

static int side_open(side *s, hs_tree *tree, const uint8_t root[32], const hs_range *range) {
    bool found;
    s->ended = false;
    int status = hs_cursor_open(&s->cursor, tree, root);
    s->whole = !range->start;
    if (status != HS_OK || s->whole) return status;
    status = hs_cursor_seek(&s->cursor, 0, range->start, range->start_size, &found);
    if (status != HS_OK) return status;
    s->value_at = hs_node_value_offset(&hs_cursor_node(&s->cursor)->node, hs_cursor_at(&s->cursor));
    side_climb(s);
    return HS_OK;
}

/* --- fetching ahead --- */

static void prefetch_child(const side *s, unsigned at) {
    const hs_cached *child =
        hs_cache_peek(s->cursor.tree->cache, hs_cached_links(hs_cursor_node(&s->cursor))[at]);
    if (child) hs_cached_prefetch(child);
}

/* Both are about to step into a child of theirs: fetch these, and the next two in the same place that differ. */
static void prefetch_pair(const side *a, const side *b) {
    const hs_node *m = &hs_cursor_node(&a->cursor)->node, *n = &hs_cursor_node(&b->cursor)->node;
    unsigned at = hs_cursor_at(&a->cursor), next = at + 1;
    prefetch_child(a, at);
    prefetch_child(b, hs_cursor_at(&b->cursor));
    if (at != hs_cursor_at(&b->cursor) || m->count != n->count) return;
    while (next < m->count && memcmp(hs_node_child_id(m, next), hs_node_child_id(n, next), 32) == 0) next++;
    if (next == m->count) return;
    prefetch_child(a, next);
    prefetch_child(b, next);
}

typedef struct difference {
    side sides[2]; /* old, new */
    const hs_range *range;
    hs_diff_visit visit;
    void *context;
} difference;

static bool is_below_stop(const difference *d, const uint8_t *key, size_t size) {
    return !d->range->stop || hs_bytes_compare(key, size, d->range->stop, d->range->stop_size) < 0;
}

static hs_key side_key(const side *s) {
    return hs_node_key(&hs_cursor_node(&s->cursor)->node, hs_cursor_at(&s->cursor));
}

/* Both that have not ended stand on leaf entries. Report the lower key; *more: go on. */
static void report(difference *d, bool *more) {
    uint8_t key[HS_KEY_MAX];
    hs_key keys[2];
    hs_value values[2];
    const hs_value *shown[2] = {NULL, NULL};
    for (unsigned i = 0; i < 2; i++)
        if (!d->sides[i].ended) keys[i] = side_key(d->sides + i);
    int order = d->sides[0].ended ? 1 : -1;
    unsigned low = d->sides[0].ended;
    hs_key_copy(keys + low, key);
    size_t size = hs_key_size(keys + low);
    if (!d->sides[0].ended && !d->sides[1].ended) {
        order = -hs_key_compare(keys + 1, key, size);
        if (order > 0) {
            low = 1;
            hs_key_copy(keys + 1, key);
            size = hs_key_size(keys + 1);
        }
    }
    *more = is_below_stop(d, key, size);
    if (!*more) return;
    for (unsigned i = 0; i < 2; i++) {
        if (order != 0 && i != low) continue;
        side *s = d->sides + i;
        hs_node_value_at(&hs_cursor_node(&s->cursor)->node, hs_cursor_at(&s->cursor), s->value_at,
                         values + i);
        shown[i] = values + i;
    }
    if (order != 0 || !hs_value_equal(values, values + 1))
        *more = d->visit(d->context, key, size, shown[0], shown[1]);
    for (unsigned i = 0; i < 2; i++)
        if (shown[i]) side_step_over(d->sides + i);
}

/* --- twins --- */

static bool are_twins(const hs_node *m, const hs_node *n) {
    return m->count == n->count && m->values == n->values && m->prefix_size == n->prefix_size &&
           memcmp(m->bytes + HS_NODE_HEAD_SIZE, n->bytes + HS_NODE_HEAD_SIZE,
                  m->values - HS_NODE_HEAD_SIZE) == 0;
}

/* Entry `at` of twins has two values, at this offset in both. False: the walk ends. */
static bool report_twin(const difference *d, const hs_node *m, const hs_node *n, unsigned at,
                        unsigned offset) {
    uint8_t key[HS_KEY_MAX];
    hs_value values[2];
    hs_key same = hs_node_key(m, at);
    hs_key_copy(&same, key);
    if (!is_below_stop(d, key, hs_key_size(&same))) return false;
    hs_node_value_at(m, at, offset, values);
    hs_node_value_at(n, at, offset, values + 1);
    return d->visit(d->context, key, hs_key_size(&same), values, values + 1);
}

/* Both stand on the same entry of twins: deal with it and all behind it. */
static void report_twins(difference *d, bool *more) {
    side *a = d->sides, *b = d->sides + 1;
    const hs_node *m = &hs_cursor_node(&a->cursor)->node, *n = &hs_cursor_node(&b->cursor)->node;
    const uint8_t *form = m->bytes + hs_node_form_offset(m, 0) + 1;
    unsigned offset = a->value_at;
    for (unsigned at = hs_cursor_at(&a->cursor); at < m->count && *more; at++) {
        unsigned stored = hs_node_form_size(form[2 * at]);
        if (memcmp(m->bytes + offset, n->bytes + offset, stored) != 0)
            *more = report_twin(d, m, n, at, offset);
        offset += stored;
    }
    a->cursor.at[0] = b->cursor.at[0] = m->count;
    side_climb(a);
    side_climb(b);
}

static bool stand_on_twins(const side *a, const side *b) {
    return !a->ended && !b->ended && hs_cursor_at(&a->cursor) == hs_cursor_at(&b->cursor) &&
           are_twins(&hs_cursor_node(&a->cursor)->node, &hs_cursor_node(&b->cursor)->node);
}

/* --- the walk --- */

/* Both stand on children of inner nodes, of one level and of equal id. */
static void step_over_equal(side *a, side *b) {
    const hs_node *m = &hs_cursor_node(&a->cursor)->node, *n = &hs_cursor_node(&b->cursor)->node;
    unsigned i = hs_cursor_at(&a->cursor), j = hs_cursor_at(&b->cursor);
    do i++, j++;
    while (i < m->count && j < n->count && memcmp(hs_node_child_id(m, i), hs_node_child_id(n, j), 32) == 0);
    a->cursor.at[a->cursor.level] = (uint16_t)i;
    b->cursor.at[b->cursor.level] = (uint16_t)j;
    side_climb(a);
    side_climb(b);
}

static int step_into_both(side *a, side *b) {
    if (!a->whole && !b->whole) prefetch_pair(a, b);
    int status = side_step_into(a);
    return status == HS_OK ? side_step_into(b) : status;
}

/* One step of the walk. */
static int walk(difference *d, bool *more) {
    side *a = d->sides, *b = d->sides + 1;
    unsigned a_level = a->ended ? 0 : side_level(a), b_level = b->ended ? 0 : side_level(b);
    *more = true;
    if (a_level == 0 && b_level == 0) {
        if (stand_on_twins(a, b))
            report_twins(d, more);
        else
            report(d, more);
        return HS_OK;
    }
    if (a_level != b_level) return side_step_into(a_level > b_level ? a : b);
    if (memcmp(side_id(a), side_id(b), 32) != 0) return step_into_both(a, b);
    if (!a->whole && !b->whole) {
        step_over_equal(a, b);
    } else {
        side_step_over(a);
        side_step_over(b);
    }
    return HS_OK;
}

int hs_tree_diff(hs_tree *tree, const uint8_t old_root[32], const uint8_t new_root[32], const hs_range *range,
                 hs_diff_visit visit, void *context) {
    static const hs_range all = {0};
    difference d = {.range = range ? range : &all, .visit = visit, .context = context};
    if (memcmp(old_root, new_root, 32) == 0) return HS_OK;
    int status = side_open(d.sides, tree, old_root, d.range);
    if (status == HS_OK) status = side_open(d.sides + 1, tree, new_root, d.range);
    bool more = true;
    while (status == HS_OK && more && !(d.sides[0].ended && d.sides[1].ended)) status = walk(&d, &more);
    return status;
}
