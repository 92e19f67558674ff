/* Fuzz target: find, count, scan, diff and apply over nodes that somebody else made.
 *
 *   input   {flags} {node}* {stop} {question}*
 *   node    a leaf of generated keys, an inner node over nodes made before, bare bytes, a whole tree, or a node of it
 *           with another child; then, by its flags, lies: a byte changed, totals changed, an entry's key not its
 *           child's last one, a child that is none, a false id
 *   question  one of the operations below, on two of the nodes as roots
 *
 * Every node is named by the BLAKE3 of its bytes, as in a pack, unless its flags give it a false id, as another process
 * of the same user could do in the ring. Promises: no report of a sanitizer; every operation ends; a scan that succeeds
 * gives strictly ascending keys, the same in both directions; where a base can be scanned, what apply makes of it is the
 * base with the edits. */
#include "hs_fuzz.h"
#include "hs_nodes.h"

enum { SMALL_CACHE = 1, FAIL_NOW_AND_THEN = 2 };
enum {
    LIE_BYTE = 1,
    LIE_TOTALS = 2,
    LIE_KEY = 4,
    LIE_CHILD = 8,
    LIE_ID = 16,
    LIE_LEVEL = 32,
    LIE_ORDER = 64
};
enum { NODES_MAX = 64, QUESTIONS_MAX = 12, EDITS_MAX = 48, ENTRIES_MAX = 2500, GROWN_MAX = 1000 };
enum { ROOM = 1 << 19, TRIES_MAX = 1000 };

typedef struct made {
    uint8_t id[32], last[HS_KEY_MAX];
    uint32_t last_size;
    unsigned level;
    uint64_t keys, value_bytes;
} made;

typedef struct world {
    fuzz_input in;
    hs_nodes nodes;
    hs_tree tree;
    made made[NODES_MAX];
    unsigned count;
    uint8_t room[ROOM], keys[HS_NODE_COUNT_MAX * HS_KEY_MAX]; /* a node being made; its keys */
    hs_node_entry entries[HS_NODE_COUNT_MAX];
} world;

/* What the library writes, it can read. */
static int store(void *context, const uint8_t id[32], const uint8_t *bytes, size_t size, bool *added) {
    hs_node node;
    MUST(hs_node_open(bytes, size, &node) == HS_OK);
    return hs_nodes_store(context, id, bytes, size, added);
}

/* --- keys: a prefix of one repeated byte and a number --- */

typedef struct key_shape {
    uint8_t fill;
    uint32_t prefix_size, width;
} key_shape;

static key_shape shape_take(fuzz_input *in) {
    static const uint16_t sizes[] = {0, 1, 3, 7, 8, 15, 64, 300, 900, 1018, 1019};
    unsigned choice = (unsigned)fuzz_take(in, 1);
    return (key_shape){.fill = (uint8_t)('a' + choice % 3),
                       .prefix_size = sizes[choice / 3 % (sizeof sizes / sizeof *sizes)],
                       .width = 1 + choice / 64};
}

static uint32_t key_make(const key_shape *shape, uint64_t number, uint8_t *out) {
    memset(out, shape->fill, shape->prefix_size);
    for (unsigned i = 0; i < shape->width; i++)
        out[shape->prefix_size + i] = (uint8_t)(number >> (8 * (shape->width - 1 - i)));
    return shape->prefix_size + shape->width;
}

/* Inline values of `choice` bytes, or hashed ones: a static array stands for the bytes of all. */
static hs_value value_make(unsigned choice) {
    static const uint8_t bytes[HS_INLINE_MAX] =
        "0123456789 a value as good as any other, it is of no importance";
    unsigned size = choice % (HS_INLINE_MAX + 4);
    hs_value value = {.kind = (uint8_t)(choice % HS_KIND_COUNT), .bytes = bytes, .size = size};
    value.hashed = size > HS_INLINE_MAX;
    if (size == HS_INLINE_MAX + 3) value.size = HS_VALUE_SIZE_MAX;
    return value;
}

/* --- making nodes --- */

/* As hs_node_build, but for keys in any order, too, and of any size; what comes out may be no node at all. */
static size_t encode(unsigned level, const hs_node_entry *entries, unsigned count, uint64_t keys,
                     uint64_t value_bytes, uint8_t *out) {
    const hs_key *first = &entries[0].key;
    uint32_t prefix = count ? first->suffix_size : 0;
    for (unsigned i = 1; i < count; i++) {
        const hs_key *key = &entries[i].key;
        if (key->suffix_size < prefix) prefix = key->suffix_size;
        while (prefix && memcmp(first->suffix, key->suffix, prefix) != 0) prefix--;
    }
    uint8_t head[HS_NODE_HEAD_SIZE] = {level ? HS_NODE_INNER : HS_NODE_LEAF, 1, (uint8_t)level};
    hs_store_u16(head + 4, (uint16_t)count);
    hs_store_u16(head + 6, (uint16_t)prefix);
    memcpy(out, head, sizeof head);
    uint8_t *table = out + HS_NODE_HEAD_SIZE, *form = table + 2 * count, *at = form + (level ? 0 : 2 * count);
    if (count) memcpy(at, first->suffix, prefix);
    at += prefix;
    const uint8_t *suffixes = at;
    for (unsigned i = 0; i < count; i++) {
        const hs_key *key = &entries[i].key;
        memcpy(at, key->suffix + prefix, key->suffix_size - prefix);
        at += key->suffix_size - prefix;
        hs_store_u16(table + 2 * i, (uint16_t)(at - suffixes));
    }
    for (unsigned i = 0; i < count; i++) {
        if (level) {
            memcpy(at, entries[i].id, 32);
            at += 32;
            continue;
        }
        form[2 * i] = entries[i].value.kind;
        form[2 * i + 1] = hs_value_form(&entries[i].value);
        at += hs_value_store(at, &entries[i].value);
        value_bytes += entries[i].value.size;
    }
    hs_store_u64(at, level ? keys : count);
    hs_store_u64(at + 8, value_bytes);
    return (size_t)(at + 16 - out);
}

/* What a parent says of a node. */
static void describe(made *m, const uint8_t *bytes, size_t size) {
    hs_node node;
    if (hs_node_open(bytes, size, &node) != HS_OK) return;
    m->level = node.level;
    m->keys = hs_node_keys(&node);
    m->value_bytes = hs_node_value_bytes(&node);
    if (!node.count) return;
    hs_key last = hs_node_key(&node, node.count - 1u);
    hs_key_copy(&last, m->last);
    m->last_size = hs_key_size(&last);
}

static void node_take(world *w, size_t size, unsigned level, unsigned lies) {
    fuzz_input *in = &w->in;
    if (size > HS_NODE_SIZE_MAX) size = HS_NODE_SIZE_MAX;
    made *m = w->made + w->count;
    memset(m, 0, sizeof *m);
    m->level = level;
    if ((lies & LIE_TOTALS) && size >= 16) {
        hs_store_u64(w->room + size - 16, fuzz_take(in, 8));
        hs_store_u64(w->room + size - 8, fuzz_take(in, 8));
    }
    if ((lies & LIE_BYTE) && size > 0) {
        size_t at = fuzz_take(in, 2) % size;
        w->room[at] = (uint8_t)fuzz_take(in, 1);
    }
    uint8_t *exact = fuzz_memory(size);
    memcpy(exact, w->room, size);
    hs_blake3(exact, size, m->id);
    if (lies & LIE_ID) memset(m->id, (int)fuzz_below(in, 4), 32);
    describe(m, exact, size);
    hs_nodes_put(&w->nodes, m->id, exact, size);
    free(exact);
    w->count++;
}

static void make_leaf(world *w, unsigned lies) {
    fuzz_input *in = &w->in;
    key_shape shape = shape_take(in);
    unsigned count = fuzz_below(in, HS_NODE_COUNT_MAX + 1), stride = 1 + fuzz_below(in, 8);
    uint64_t from = fuzz_take(in, 2);
    unsigned value = (unsigned)fuzz_take(in, 1), turn = (unsigned)fuzz_take(in, 1);
    for (unsigned i = 0; i < count; i++) {
        uint64_t number = from + (uint64_t)i * stride;
        if ((lies & LIE_ORDER) && i == turn) number = from;
        uint8_t *key = w->keys + (size_t)i * HS_KEY_MAX;
        uint32_t size = key_make(&shape, number, key);
        w->entries[i] = (hs_node_entry){.key = {.prefix = key, .suffix = key, .suffix_size = size},
                                        .value = value_make(value + i * turn)};
    }
    node_take(w, encode(0, w->entries, count, 0, 0, w->room), 0, lies);
}

static void make_inner(world *w, unsigned lies) {
    fuzz_input *in = &w->in;
    unsigned from = fuzz_below(in, w->count ? w->count : 1), count = 1 + fuzz_below(in, 16);
    unsigned victim = fuzz_below(in, count), step = 1 + fuzz_below(in, 32), level = 0;
    uint64_t keys = 0, value_bytes = 0;
    if (from + (count - 1) * step >= w->count) count = (w->count - 1 - from) / step + 1;
    for (unsigned i = 0; i < count; i++) {
        const made *child = w->made + from + i * step;
        uint8_t *key = w->keys + (size_t)i * HS_KEY_MAX;
        uint32_t size = child->last_size;
        memcpy(key, child->last, size);
        if ((lies & LIE_KEY) && i == victim && size)
            key[size - 1] = (uint8_t)(key[size - 1] + fuzz_take(in, 1));
        const uint8_t *id = child->id;
        if ((lies & LIE_CHILD) && i == victim) id = w->made[fuzz_below(in, w->count)].id;
        w->entries[i] = (hs_node_entry){.key = {.prefix = key, .suffix = key, .suffix_size = size}, .id = id};
        keys += child->keys;
        value_bytes += child->value_bytes;
        level = child->level;
    }
    level++;
    if (lies & LIE_LEVEL) level = (unsigned)fuzz_take(in, 1);
    if (!level) level = 1;
    node_take(w, encode(level, w->entries, count, keys, value_bytes, w->room), level, lies);
}

static void make_raw(world *w, unsigned lies) {
    size_t size;
    uint8_t *bytes = fuzz_bytes(&w->in, fuzz_take(&w->in, 2), &size);
    memcpy(w->room, bytes, size);
    free(bytes);
    node_take(w, size, 0, lies);
}

/* One inner node over the last one, again and again. */
static void make_chain(world *w) {
    unsigned length = fuzz_below(&w->in, HS_LEVEL_MAX + 2);
    for (unsigned i = 0; i < length && w->count && w->count < NODES_MAX; i++) {
        const made *below = w->made + w->count - 1;
        hs_node_entry entry = {
            .key = {.prefix = below->last, .suffix = below->last, .suffix_size = below->last_size},
            .id = below->id};
        unsigned level = below->level + 1;
        node_take(w, encode(level, &entry, 1, below->keys, below->value_bytes, w->room), level, 0);
    }
}

/* A node of the store, under its own id. */
static bool adopt(world *w, const uint8_t id[32]) {
    const hs_nodes_item *item = hs_nodes_get(&w->nodes, id);
    if (!item || w->count == NODES_MAX) return false;
    made *m = w->made + w->count++;
    memset(m, 0, sizeof *m);
    memcpy(m->id, id, 32);
    describe(m, item->bytes, item->size);
    return true;
}

/* A canonical tree of so many keys; its nodes are there to be forged, the first ones of each node first. */
static void make_tree(world *w) {
    fuzz_input *in = &w->in;
    key_shape shape = shape_take(in);
    unsigned count = fuzz_below(in, GROWN_MAX), value = (unsigned)fuzz_take(in, 1), first = w->count;
    static hs_edit edits[GROWN_MAX];
    static uint8_t keys[GROWN_MAX * HS_KEY_MAX];
    uint8_t root[32];
    for (unsigned i = 0; i < count; i++) {
        uint8_t *key = keys + (size_t)i * HS_KEY_MAX;
        edits[i] =
            (hs_edit){.key = key, .key_size = key_make(&shape, i, key), .value = value_make(value + i)};
    }
    hs_apply *apply;
    hs_apply_result result;
    uint64_t every = w->nodes.every;
    w->nodes.every = 0;
    hs_tree_empty_root(root);
    if (hs_apply_new(&w->tree, root, edits, count, &apply) == HS_OK) { /* not if the shape repeats a key */
        MUST(hs_apply_run(apply, &result) == HS_OK && result.keys == count);
        hs_apply_free(apply);
        (void)adopt(w, result.root);
    }
    w->nodes.every = every;
    for (unsigned n = first; n < w->count && w->made[n].level; n++) {
        const hs_nodes_item *item = hs_nodes_get(&w->nodes, w->made[n].id);
        hs_node node;
        MUST(hs_node_open(item->bytes, item->size, &node) == HS_OK);
        for (unsigned i = 0; i < node.count && w->count < NODES_MAX / 2; i++)
            MUST(adopt(w, hs_node_child_id(&node, i)));
    }
}

/* A node made before, one of its children another one, and with whatever lies: then its parent is to be forged. */
static void make_forged(world *w, unsigned lies) {
    fuzz_input *in = &w->in;
    unsigned n = fuzz_below(in, w->count), child = fuzz_below(in, HS_NODE_COUNT_MAX);
    const hs_nodes_item *item = hs_nodes_get(&w->nodes, w->made[n].id);
    const uint8_t *id = w->made[w->count - 1 - fuzz_below(in, w->count)].id;
    hs_node node;
    if (!item) return;
    memcpy(w->room, item->bytes, item->size);
    if (hs_node_open(item->bytes, item->size, &node) == HS_OK && node.level)
        memcpy(w->room + node.values + 32u * (child % node.count), id, 32);
    node_take(w, item->size, w->made[n].level, lies);
}

/* False: there are to be no more. */
static bool make(world *w) {
    unsigned lies = (unsigned)fuzz_take(&w->in, 1), what = (unsigned)fuzz_take(&w->in, 1) % 12;
    if (what < 3)
        make_leaf(w, lies);
    else if (what < 5 && w->count)
        make_inner(w, lies);
    else if (what == 5)
        make_raw(w, lies);
    else if (what == 6)
        make_chain(w);
    else if (what < 10 && w->count)
        make_forged(w, lies);
    else if (what == 10)
        make_tree(w);
    return what != 11;
}

/* --- what a scan saw --- */

typedef struct seen {
    uint8_t keys[ENTRIES_MAX * HS_KEY_MAX];
    uint32_t ends[ENTRIES_MAX];
    hs_value values[ENTRIES_MAX]; /* their bytes copied behind */
    uint8_t bytes[ENTRIES_MAX][HS_INLINE_MAX];
    unsigned count;
    bool reverse, full;
} seen;

/* Large, and made anew for every question: not worth an allocation each. */
static seen *seen_make(unsigned which) {
    static seen all[3];
    all[which].count = 0;
    all[which].full = all[which].reverse = false;
    return all + which;
}

static const uint8_t *seen_key(const seen *s, unsigned i, size_t *size) {
    uint32_t from = i ? s->ends[i - 1] : 0;
    *size = s->ends[i] - from;
    return s->keys + from;
}

static void seen_add(seen *s, const uint8_t *key, size_t size, const hs_value *value) {
    uint32_t from = s->count ? s->ends[s->count - 1] : 0;
    memcpy(s->keys + from, key, size);
    s->ends[s->count] = from + (uint32_t)size;
    s->values[s->count] = *value;
    memcpy(s->bytes[s->count], value->bytes, value->hashed ? 32 : (size_t)value->size);
    s->values[s->count].bytes = s->bytes[s->count];
    s->count++;
}

static bool see(void *context, const uint8_t *key, size_t size, const hs_value *value) {
    seen *s = context;
    if (s->count == ENTRIES_MAX) {
        s->full = true;
        return false;
    }
    if (s->count) {
        size_t last_size;
        const uint8_t *last = seen_key(s, s->count - 1, &last_size);
        int order = hs_bytes_compare(last, last_size, key, size);
        MUST(s->reverse ? order > 0 : order < 0);
    }
    seen_add(s, key, size, value);
    return true;
}

static bool see_difference(void *context, const uint8_t *key, size_t size, const hs_value *a,
                           const hs_value *b) {
    unsigned *count = context;
    MUST(size >= 1 && size <= HS_KEY_MAX && key && (a || b));
    ++*count;
    return true;
}

static bool seen_same(const seen *a, const seen *b) {
    for (unsigned i = 0; i < a->count; i++) {
        size_t a_size, b_size;
        unsigned other = a->reverse == b->reverse ? i : b->count - 1 - i;
        if (i >= b->count) return false;
        const uint8_t *x = seen_key(a, i, &a_size), *y = seen_key(b, other, &b_size);
        if (a_size != b_size || memcmp(x, y, a_size) != 0 ||
            !hs_value_equal(a->values + i, b->values + other))
            return false;
    }
    return a->count == b->count;
}

/* --- questions --- */

/* After a status: may the same be asked again? Brings what is missing. */
static bool again(world *w, int status, unsigned *tries) {
    if (++*tries > TRIES_MAX) return false;
    if (status == HS_WAIT) return true;
    return status == HS_MISSING && hs_nodes_bring(&w->nodes, &w->tree) == HS_OK;
}

static int scan(world *w, const uint8_t *root, bool reverse, seen *s) {
    unsigned tries = 0;
    int status;
    hs_cache_trim(w->tree.cache); /* not between tries, or a small cache would forget what was brought */
    do {
        s->count = 0;
        s->full = false;
        s->reverse = reverse;
        status = hs_tree_scan(&w->tree, root, NULL, reverse, see, s);
    } while (again(w, status, &tries));
    return s->full ? HS_FULL : status;
}

static void ask_scan(world *w, const uint8_t *root) {
    seen *forward = seen_make(0), *backward = seen_make(1);
    int one = scan(w, root, false, forward), other = scan(w, root, true, backward);
    if (one == HS_OK && other == HS_OK) MUST(seen_same(forward, backward));
}

static void range_take(world *w, hs_range *range, uint8_t *start, uint8_t *stop) {
    unsigned which = (unsigned)fuzz_take(&w->in, 1);
    *range = (hs_range){0};
    key_shape shape = shape_take(&w->in);
    if (which & 1) {
        range->start = start;
        range->start_size = key_make(&shape, fuzz_take(&w->in, 2), start);
        if (which & 4) range->start_size = 0;
    }
    if (which & 2) {
        range->stop = stop;
        range->stop_size = key_make(&shape, fuzz_take(&w->in, 2), stop);
    }
}

static void ask_range(world *w, const uint8_t *root, const uint8_t *other) {
    uint8_t start[HS_KEY_MAX], stop[HS_KEY_MAX];
    hs_range range;
    uint64_t keys, all, value_bytes;
    unsigned tries = 0, differences = 0;
    int status;
    range_take(w, &range, start, stop);
    do status = hs_tree_count(&w->tree, root, &range, &keys);
    while (again(w, status, &tries));
    if (status == HS_OK && hs_tree_totals(&w->tree, root, &all, &value_bytes) == HS_OK) MUST(keys <= all);
    seen *s = seen_make(0);
    s->reverse = fuzz_chance(&w->in);
    (void)hs_tree_scan(&w->tree, root, &range, s->reverse, see, s);
    do status = hs_tree_diff(&w->tree, root, other, &range, see_difference, &differences);
    while (again(w, status, &tries));
}

static void ask_find(world *w, const uint8_t *root) {
    uint8_t key[HS_KEY_MAX];
    key_shape shape = shape_take(&w->in);
    hs_value value;
    unsigned tries = 0;
    uint32_t size = key_make(&shape, fuzz_take(&w->in, 2), key);
    uint8_t *exact = fuzz_memory(size);
    memcpy(exact, key, size);
    int status;
    do status = hs_tree_find(&w->tree, root, exact, size, &value);
    while (again(w, status, &tries));
    if (status == HS_OK) MUST(value.kind < HS_KIND_COUNT && value.size <= HS_VALUE_SIZE_MAX);
    free(exact);
}

/* --- apply --- */

typedef struct edits {
    hs_edit edits[EDITS_MAX];
    uint8_t keys[EDITS_MAX][HS_KEY_MAX];
    unsigned count;
} edits;

static int edit_order(const void *a, const void *b) {
    const hs_edit *x = a, *y = b;
    return hs_bytes_compare(x->key, x->key_size, y->key, y->key_size);
}

/* Sorted, without repeats. */
static void edits_take(world *w, edits *e) {
    fuzz_input *in = &w->in;
    unsigned count = 1 + fuzz_below(in, EDITS_MAX), stride = fuzz_below(in, 64);
    key_shape shape = shape_take(in);
    uint64_t from = fuzz_take(in, 2);
    unsigned choice = (unsigned)fuzz_take(in, 1), removes = (unsigned)fuzz_take(in, 1);
    for (unsigned i = 0; i < count; i++) {
        hs_edit *edit = e->edits + i;
        edit->key_size = key_make(&shape, from + (uint64_t)i * (stride + 1), e->keys[i]);
        edit->key = e->keys[i];
        edit->remove = removes >> (i % 8) & 1;
        edit->value = value_make(choice + i);
    }
    qsort(e->edits, count, sizeof *e->edits, edit_order);
    e->count = 0;
    for (unsigned i = 0; i < count; i++)
        if (!i || edit_order(e->edits + e->count - 1, e->edits + i) != 0) e->edits[e->count++] = e->edits[i];
}

/* The base with the edits. */
static void merge(const seen *base, const edits *e, seen *out) {
    unsigned i = 0, k = 0;
    while (i < base->count || k < e->count) {
        size_t size = 0;
        const uint8_t *key = i < base->count ? seen_key(base, i, &size) : NULL;
        const hs_edit *edit = k < e->count ? e->edits + k : NULL;
        int order = !key ? 1 : !edit ? -1 : hs_bytes_compare(key, size, edit->key, edit->key_size);
        if (out->count == ENTRIES_MAX) {
            out->full = true;
            return;
        }
        if (order < 0) seen_add(out, key, size, base->values + i);
        if (order >= 0 && !edit->remove) seen_add(out, edit->key, edit->key_size, &edit->value);
        i += order <= 0;
        k += order >= 0;
    }
}

static int apply(world *w, const uint8_t *root, const edits *e, bool one, hs_apply_result *result) {
    unsigned tries = 0;
    int status;
    hs_apply *running;
    hs_cache_trim(w->tree.cache);
    if (one) {
        do status = hs_tree_apply_one(&w->tree, root, e->edits, result);
        while (again(w, status, &tries));
        return status;
    }
    status = hs_apply_new(&w->tree, root, e->edits, e->count, &running);
    if (status != HS_OK) return status;
    do status = hs_apply_run(running, result);
    while (again(w, status, &tries));
    hs_apply_free(running);
    return status;
}

static void ask_apply(world *w, const uint8_t *root) {
    static edits asked;
    edits *e = &asked;
    edits_take(w, e);
    bool one = fuzz_chance(&w->in);
    if (one) e->count = 1;
    seen *before = seen_make(0), *wanted = seen_make(1), *after = seen_make(2);
    bool known = scan(w, root, false, before) == HS_OK;
    hs_apply_result result;
    if (apply(w, root, e, one, &result) == HS_OK) {
        int status = scan(w, result.root, false, after);
        if (known) merge(before, e, wanted);
        if (known && status == HS_OK && !wanted->full) MUST(seen_same(after, wanted));
        if (w->count < NODES_MAX) memcpy(w->made[w->count++].id, result.root, 32);
    }
}

static void ask(world *w) {
    unsigned what = (unsigned)fuzz_take(&w->in, 1) % 5;
    uint8_t root[32], other[32];
    memcpy(root, w->made[w->count - 1 - fuzz_below(&w->in, w->count)].id, 32);
    memcpy(other, w->made[w->count - 1 - fuzz_below(&w->in, w->count)].id, 32);
    hs_cache_trim(w->tree.cache);
    if (what == 0) ask_scan(w, root);
    if (what == 1) ask_range(w, root, other);
    if (what == 2) ask_find(w, root);
    if (what >= 3) ask_apply(w, root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static world the_world;
    world *w = &the_world;
    w->in = (fuzz_input){data, size};
    w->count = 0;
    unsigned flags = (unsigned)fuzz_take(&w->in, 1);
    hs_nodes_open(&w->nodes, &w->tree, flags & SMALL_CACHE ? 1 << 10 : 8 << 20);
    w->tree.io.store = store;
    if (flags & FAIL_NOW_AND_THEN) w->nodes.every = 2 + flags / 4 % 8;
    while (w->count < NODES_MAX && w->in.left && make(w)) {
    }
    for (unsigned i = 0; i < QUESTIONS_MAX && w->count && (i == 0 || w->in.left); i++) ask(w);
    hs_nodes_close(&w->nodes, &w->tree);
    return 0;
}
