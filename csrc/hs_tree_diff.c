/* hs_tree_diff: keys that differ between two trees; see hs_tree.h.
 *
 * Two cursors walk side by side. Each stands on an item: an entry of a leaf, or a whole subtree (an entry of an inner
 * node), and everything before the item has been dealt with.
 *
 *   both on subtrees of equal id         step over both
 *   a subtree on the higher level        step into it (into both, on equal levels)
 *   both on leaf entries                 report the lower key, or both if they are equal; step over
 *
 * Stepping over the last item of a node climbs to the item behind its parent, so that after a difference the cursors find
 * each other again as high up as they can. */
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

typedef struct difference {
    side sides[2]; /* old, new */
    const hs_range *range;
    hs_diff_visit visit;
    void *context;
} difference;

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
    *more = !d->range->stop || hs_bytes_compare(key, size, d->range->stop, d->range->stop_size) < 0;
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

/* One step of the walk. */
static int walk(difference *d, bool *more) {
    side *a = d->sides, *b = d->sides + 1;
    unsigned a_level = a->ended ? 0 : side_level(a), b_level = b->ended ? 0 : side_level(b);
    *more = true;
    if (a_level == 0 && b_level == 0) {
        report(d, more);
        return HS_OK;
    }
    if (a_level == b_level && memcmp(side_id(a), side_id(b), 32) == 0) {
        side_step_over(a);
        side_step_over(b);
        return HS_OK;
    }
    int status = a_level >= b_level ? side_step_into(a) : HS_OK;
    if (status == HS_OK && b_level >= a_level) status = side_step_into(b);
    return status;
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
