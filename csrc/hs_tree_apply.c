/* hs_tree_apply: many edits in one go; see hs_tree.h.
 *
 * Each level is the same problem: sorted edits {set, remove} to a sequence of entries that is cut into nodes, which gives
 * sorted edits to the sequence of the level above.
 *
 *   old nodes    [a b c d][e f g h i][j k l m][n o p q r]        edits   g = new value,   - k
 *                          |           |
 *                 patch: positions,    stream: from a node start with at least 3 entries before the first insertion or
 *                 boundaries stay      removal, old entries merged with edits, boundaries anew; until a boundary that
 *                                      is an old node's end, 3 untouched entries before it and after it
 *   edits above  i = new id            - m, r = new id  (say)
 *
 * Before the first level the edits are dealt out to the old nodes that they lie in (hs_tree_spread.h): a patch finds its node
 * there. A cursor finds what comes of a stream, and everything once the cache has given up what the spots point to.
 *
 * A boundary depends on three neighbours on each side, so the rest of the level is what it was. Nodes are staged, hashed
 * together, stored, entered into the cache; then their ids stand in the edits above.
 *
 * Resumption. `mark` says where the open stream stood when its last node was closed. Every step that can fail does so
 * before it changes anything, so a run goes on in the middle of a node as long as the cache has given nothing up
 * (its epoch); otherwise it goes on from the mark.
 *
 * Invariants: edits below `next` are done, and what they change stands in `out`, in order; `out` is staged nodes' parents'
 * edits; nothing that `mark`, `in`, `out` and the stage hold points into the cache. */
#include "hs_blake3.h"
#include "hs_checksum.h"
#include "hs_tree_spread.h"

#include <stdlib.h>

#define ENTRIES_MAX (HS_NODE_COUNT_MAX + HS_TREE_SIDE + 1)
#define STAGE_NODES 64u
#define STAGE_BYTES (4 * (size_t)HS_NODE_SIZE_MAX)
#define STAGE_LINKS 2048u
#define STAGE_BACK  2u /* patched nodes at most that a stream takes back */
#define SPOTS_AHEAD 8u /* nodes brought near before they are patched */
#define CHAIN_MAX   (HS_BLAKE3_CHUNK / HS_BLAKE3_BLOCK)
#define ARENA_BLOCK ((size_t)64 << 10)
#define KEEP_BYTES  ((size_t)1 << 20) /* larger lists are not kept for the next apply */

/* An edit to level 1 or above. Totals: of the child; `more`: new minus old, modulo 2^64. */
typedef struct change {
    const uint8_t *key;
    uint32_t key_size;
    bool remove;
    uint32_t changed; /* edits of the user's that it counts, on the way from level 0 */
    uint32_t spot;    /* where the node that it changes was found, or HS_SPOT_NONE */
    uint8_t id[32];
    hs_link link;
    uint64_t keys, value_bytes, more_keys, more_bytes;
} change;

typedef struct change_list {
    change *items;
    size_t count, capacity;
} change_list;

typedef struct arena_block {
    struct arena_block *next;
    size_t size;
    uint8_t bytes[];
} arena_block;
typedef struct arena {
    arena_block *blocks; /* the one in use first */
    size_t filled;
} arena;

/* An entry of the node that the stream is filling, or ahead of it. */
typedef struct entry {
    hs_node_entry node; /* must be first: hs_node_build */
    uint64_t hash;
    hs_cached *old; /* the node it came from; NULL: inserted */
    const change *change;
    hs_link link;
    size_t edit_after; /* first edit behind it */
    uint32_t changed_after, at, run;
    bool changed;
} entry;

typedef struct staged {
    hs_node node; /* its bytes are in the stage */
    size_t out;   /* whose id it is */
    uint32_t links_at, chain_at, chain_blocks;
    uint8_t id[32];
} staged;

/* Where the stream stood after its last closed node. */
typedef struct stream_mark {
    size_t edit;
    uint32_t key_size, changed, run;
    uint32_t counted;    /* entries, while they are only counted */
    unsigned hash_count; /* hashes of entries before, nearest first */
    bool hashes_whole;   /* there are no others */
    uint64_t hashes[HS_TREE_SIDE];
    uint8_t key[HS_KEY_MAX]; /* go on behind it; size 0: from the level's start */
} stream_mark;

struct hs_apply {
    hs_tree *tree;
    uint8_t base[32];
    uint64_t epoch;
    hs_apply_result result;
    bool started, rooted; /* it ran before; result.root is known */

    /* the level */
    unsigned level;
    bool begun, has_old; /* the old tree has this level */
    bool small_known, small;
    size_t count, next;
    hs_edit_list edits; /* level 0 */
    hs_spread spread;
    bool spreads;  /* the spots hold: the cache's epoch is the one they were found in */
    uint32_t spot; /* level 0: that of `next` or one before it */
    change_list in, out;
    arena in_keys, out_keys;
    size_t closed;      /* nodes of this level that were made or walked over */
    uint8_t single[32]; /* child of the only entry of a level */

    /* the stream */
    bool streaming, live, ended, old_ended, counting, cursor_stands;
    hs_cursor cursor;
    stream_mark mark;
    entry entries[ENTRIES_MAX];
    unsigned have, decided;
    uint32_t key_bytes, run, changed, counted, value_at;
    size_t edit;
    hs_cached **ends; /* old nodes whose end was passed and not yet settled */
    size_t ends_first, ends_count, ends_capacity;

    /* the stage */
    staged stage[STAGE_NODES];
    unsigned staged, hashed, stored;
    size_t stage_filled;
    uint32_t stage_links;
    hs_link links[STAGE_LINKS];
    uint32_t chains[STAGE_NODES * CHAIN_MAX][8]; /* of the nodes that are hashed, back to back */
    uint8_t bytes[STAGE_BYTES];
};

/* --- lists --- */

static uint8_t *arena_take(arena *keys, size_t size) {
    if (!keys->blocks || keys->filled + size > keys->blocks->size) {
        arena_block *block = malloc(sizeof *block + ARENA_BLOCK);
        if (!block) return NULL;
        *block = (arena_block){keys->blocks, ARENA_BLOCK};
        keys->blocks = block;
        keys->filled = 0;
    }
    uint8_t *taken = keys->blocks->bytes + keys->filled;
    keys->filled += size;
    return taken;
}

/* Empty; one block stays. */
static void arena_clear(arena *keys) {
    while (keys->blocks && keys->blocks->next) {
        arena_block *block = keys->blocks;
        keys->blocks = block->next;
        free(block);
    }
    keys->filled = 0;
}

/* Room for one more change, key included; they are filled by the caller. */
static change *out_take(hs_apply *a, const hs_key *key) {
    change_list *out = &a->out;
    if (out->count == out->capacity) {
        size_t capacity = out->capacity ? out->capacity * 2 : 64;
        change *items = realloc(out->items, capacity * sizeof *items);
        if (!items) return NULL;
        out->items = items;
        out->capacity = capacity;
    }
    uint8_t *bytes = arena_take(&a->out_keys, hs_key_size(key));
    if (!bytes) return NULL;
    hs_key_copy(key, bytes);
    change *taken = out->items + out->count++;
    *taken = (change){.key = bytes, .key_size = hs_key_size(key), .spot = HS_SPOT_NONE};
    return taken;
}

static bool ends_push(hs_apply *a, hs_cached *node) {
    if (a->ends_count == a->ends_capacity) {
        size_t capacity = a->ends_capacity ? a->ends_capacity * 2 : 64;
        hs_cached **ends = realloc(a->ends, capacity * sizeof(hs_cached *));
        if (!ends) return false;
        a->ends = ends;
        a->ends_capacity = capacity;
    }
    a->ends[a->ends_count++] = node;
    return true;
}

/* --- the edits of a level --- */

static inline const uint8_t *edit_key(const hs_apply *a, size_t i, size_t *size) {
    if (a->level == 0) {
        *size = a->edits.refs[i].edit->key_size;
        return a->edits.refs[i].edit->key;
    }
    *size = a->in.items[i].key_size;
    return a->in.items[i].key;
}

static inline bool edit_removes(const hs_apply *a, size_t i) {
    return a->level == 0 ? a->edits.refs[i].edit->remove : a->in.items[i].remove;
}

static uint64_t hash_of(const hs_apply *a, const hs_key *key) {
    uint8_t whole[HS_KEY_MAX];
    const uint8_t *bytes = key->suffix;
    if (key->prefix_size) {
        hs_key_copy(key, whole);
        bytes = whole;
    }
    return hs_key_hash_level(hs_key_hash(bytes, hs_key_size(key)), a->level);
}

/* --- the stage --- */

static void stage_hash(hs_apply *a, unsigned upto) {
    hs_blake3_job jobs[STAGE_NODES];
    size_t count = 0;
    for (unsigned i = a->hashed; i < upto; i++, count++) {
        staged *s = a->stage + i;
        bool one_chunk = s->node.size <= HS_BLAKE3_CHUNK;
        s->chain_blocks = one_chunk ? (uint32_t)hs_blake3_blocks(s->node.size) : 0;
        s->chain_at = i ? s[-1].chain_at + s[-1].chain_blocks : 0;
        jobs[count] =
            (hs_blake3_job){s->node.bytes, s->node.size, s->id, one_chunk ? a->chains + s->chain_at : NULL};
        a->tree->blocks_hashed += hs_blake3_blocks(s->node.size);
    }
    hs_blake3_many(jobs, count);
    for (unsigned i = a->hashed; i < upto; i++) {
        hs_cache_prefetch(a->tree->cache, a->stage[i].id);
        if (a->tree->io.expect) a->tree->io.expect(a->tree->io.context, a->stage[i].id);
    }
    a->hashed = upto;
}

/* Into the cache, unless it is there. */
static int stage_enter(hs_apply *a, unsigned i, hs_link *link) {
    hs_cache *cache = a->tree->cache;
    const staged *s = a->stage + i;
    hs_cached *cached = hs_cache_get(cache, s->id);
    if (!cached) {
        cached = hs_cache_reserve(cache, &s->node, s->chain_blocks);
        if (!cached) return HS_NO_MEMORY;
        memcpy(cached->id, s->id, 32);
        memcpy((uint8_t *)(uintptr_t)cached->node.bytes, s->node.bytes, s->node.size);
        unsigned first = s->chain_blocks ? hs_node_chain_first(&s->node) : 0;
        memcpy(hs_cached_chain(cached)[first], a->chains[s->chain_at + first],
               32u * hs_node_chain_kept(&s->node, s->chain_blocks));
        if (s->node.level)
            memcpy(hs_cached_links(cached), a->links + s->links_at, s->node.count * sizeof(hs_link));
        hs_cache_enter(cache, cached);
    }
    *link = hs_cache_link(cache, cached);
    return HS_OK;
}

/* What is left in the stage moves to its front. */
static void stage_shift(hs_apply *a, unsigned from) {
    a->stage_filled = a->stage_links = 0;
    for (unsigned i = from; i < a->staged; i++) {
        staged *s = a->stage + (i - from);
        *s = a->stage[i];
        memmove(a->bytes + a->stage_filled, s->node.bytes, s->node.size);
        s->node.bytes = a->bytes + a->stage_filled;
        a->stage_filled += hs_align_up(s->node.size, 8);
        if (s->node.level == 0) continue;
        memmove(a->links + a->stage_links, a->links + s->links_at, s->node.count * sizeof(hs_link));
        s->links_at = a->stage_links;
        a->stage_links += s->node.count;
    }
    a->staged -= from;
    a->hashed = a->stored = 0;
}

/* Hash and store all but the last `back` nodes; their ids reach the edits above. */
static int stage_flush(hs_apply *a, unsigned back) {
    if (a->staged <= back) return HS_OK;
    unsigned upto = a->staged - back;
    if (a->hashed < upto) stage_hash(a, upto);
    for (; a->stored < upto; a->stored++) {
        staged *s = a->stage + a->stored;
        bool added = false;
        int status = a->tree->io.store(a->tree->io.context, s->id, s->node.bytes, s->node.size, &added);
        if (status != HS_OK) return status;
        if (added) {
            a->result.new_nodes++;
            a->result.new_node_bytes += s->node.size;
        }
        change *above = a->out.items + s->out;
        memcpy(above->id, s->id, 32);
        status = stage_enter(a, a->stored, &above->link);
        if (status != HS_OK) return status;
    }
    stage_shift(a, upto);
    return HS_OK;
}

/* There is room for any node afterwards. */
static int stage_make_room(hs_apply *a, unsigned back) {
    bool room = a->staged < STAGE_NODES && a->stage_filled + HS_NODE_SIZE_MAX <= STAGE_BYTES &&
                a->stage_links + HS_NODE_COUNT_MAX <= STAGE_LINKS;
    return room ? HS_OK : stage_flush(a, back);
}

/* The node that was written at the end of the stage is entered; its edit above is the last one of `out`. */
static void stage_put(hs_apply *a, const hs_node *node) {
    staged *s = a->stage + a->staged++;
    *s = (staged){.node = *node, .out = a->out.count - 1, .links_at = a->stage_links};
    a->stage_filled += hs_align_up(node->size, 8);
    if (node->level) a->stage_links += node->count;
}

/* Take back the edits above whose keys are behind `key`, and their nodes. */
static void out_take_back(hs_apply *a, const uint8_t *key, size_t key_size) {
    while (a->out.count) {
        const change *last = a->out.items + a->out.count - 1;
        if (key_size && hs_bytes_compare(last->key, last->key_size, key, key_size) <= 0) break;
        a->result.changed_keys -= last->changed;
        a->out.count--;
        a->closed--;
    }
    while (a->staged && a->stage[a->staged - 1].out >= a->out.count) {
        staged *s = a->stage + --a->staged;
        a->stage_filled -= hs_align_up(s->node.size, 8);
        if (s->node.level) a->stage_links -= s->node.count;
    }
}

/* --- patch: the edits in one node are all new values of keys that are there --- */

typedef struct patch {
    hs_cached *node;
    uint32_t spot; /* of the node, or HS_SPOT_NONE */
    unsigned count;
    size_t next; /* first edit behind the node */
    struct {
        uint16_t at;
        size_t edit;
    } items[HS_NODE_COUNT_MAX];
} patch;

static bool level_ends_with(const hs_cursor *cursor) {
    for (unsigned l = cursor->level + 1; l <= cursor->top; l++)
        if (cursor->at[l] + 1u < cursor->node[l]->node.count) return false;
    return true;
}

/* Find the edits from `next` on that lie in the cursor's node. *insertion: it is not a patch; the cursor stands where the
 * first insertion or removal goes. */
static void patch_find(hs_apply *a, patch *p, bool *insertion) {
    const hs_node *node = &hs_cursor_node(&a->cursor)->node;
    p->node = hs_cursor_node(&a->cursor);
    p->spot = HS_SPOT_NONE;
    p->count = 0;
    *insertion = false;
    for (p->next = a->next; p->next < a->count; p->next++) {
        size_t size;
        bool found;
        const uint8_t *key = edit_key(a, p->next, &size);
        unsigned at = hs_node_find(node, key, size, &found);
        if (at == node->count && !level_ends_with(&a->cursor)) return;
        bool removes = edit_removes(a, p->next);
        if (!found && removes) continue;
        if (!found || removes) {
            a->cursor.at[a->level] = (uint16_t)at;
            *insertion = true;
            return;
        }
        p->items[p->count].at = (uint16_t)at;
        p->items[p->count++].edit = p->next;
    }
}

/* The same for the leaf of a spot, without a cursor; false: it is not a patch. */
static bool patch_find_leaf(hs_apply *a, patch *p) {
    const hs_spots *spots = a->spread.levels;
    while (a->spot > 0 && spots->items[a->spot - 1].end > a->next) a->spot--;
    while (spots->items[a->spot].end <= a->next) a->spot++;
    p->node = spots->items[a->spot].node;
    p->node->used = 1;
    p->spot = a->spot;
    p->count = 0;
    if (spots->count - a->spot > SPOTS_AHEAD) hs_cached_prefetch(spots->items[a->spot + SPOTS_AHEAD].node);
    for (p->next = a->next; p->next < spots->items[a->spot].end; p->next++) {
        const hs_edit *edit = a->edits.refs[p->next].edit;
        bool found;
        unsigned at = hs_node_find(&p->node->node, edit->key, edit->key_size, &found);
        if (!found && edit->remove) continue;
        if (!found || edit->remove) return false;
        p->items[p->count].at = (uint16_t)at;
        p->items[p->count++].edit = p->next;
    }
    return true;
}

/* The same for an inner node: the spots of its children's changes say where they stand in it. */
static bool patch_find_inner(hs_apply *a, patch *p) {
    const hs_spot *below = a->spread.levels[a->level - 1].items;
    const hs_spots *spots = a->spread.levels + a->level;
    const change *next = a->in.items + a->next, *end = a->in.items + a->count;
    if (next->spot == HS_SPOT_NONE) return false;
    p->spot = below[next->spot].up;
    p->node = spots->items[p->spot].node;
    p->count = 0;
    if (spots->count - p->spot > SPOTS_AHEAD) hs_cached_prefetch(spots->items[p->spot + SPOTS_AHEAD].node);
    for (; next < end && next->spot != HS_SPOT_NONE && below[next->spot].up == p->spot; next++) {
        p->items[p->count].at = below[next->spot].at;
        p->items[p->count++].edit = (size_t)(next - a->in.items);
    }
    p->next = (size_t)(next - a->in.items);
    if (next == end || next->spot != HS_SPOT_NONE) return true;
    /* A change of unknown place: is it beyond this node? */
    hs_key last = hs_node_key(&p->node->node, p->node->node.count - 1u);
    return p->spot + 1 < spots->count && hs_key_compare(&last, next->key, next->key_size) < 0;
}

/* Drop the edits that change nothing; *resized: a value takes another number of bytes than before. */
static void patch_compare(hs_apply *a, patch *p, bool *resized) {
    const hs_node *node = &p->node->node;
    unsigned kept = 0, offset = node->values, i = 0;
    *resized = false;
    for (unsigned n = 0; n < p->count; n++) {
        unsigned at = p->items[n].at;
        for (; i < at; i++) offset += hs_node_form_size(node->bytes[hs_node_form_offset(node, i) + 1]);
        hs_value old;
        const hs_value *value = &a->edits.refs[p->items[n].edit].edit->value;
        hs_node_value_at(node, at, offset, &old);
        if (hs_value_equal(&old, value)) continue;
        *resized |= hs_node_form_size(hs_value_form(&old)) != hs_node_form_size(hs_value_form(value));
        p->items[kept++] = p->items[n];
    }
    p->count = kept;
}

/* The node's copy in the stage gets the new values in their places. Returns the change of value bytes. */
static uint64_t patch_values(hs_apply *a, const patch *p, const hs_node *node, uint8_t *bytes) {
    unsigned offset = node->values, i = 0;
    uint64_t more = 0;
    for (unsigned n = 0; n < p->count; n++) {
        unsigned at = p->items[n].at;
        for (; i < at; i++) offset += hs_node_form_size(node->bytes[hs_node_form_offset(node, i) + 1]);
        hs_value old;
        const hs_value *value = &a->edits.refs[p->items[n].edit].edit->value;
        hs_node_value_at(node, at, offset, &old);
        uint8_t *form = bytes + hs_node_form_offset(node, at);
        form[0] = value->kind;
        form[1] = hs_value_form(value);
        hs_value_store(bytes + offset, value);
        more += value->size - old.size;
    }
    return more;
}

/* The node anew, with values of other sizes. Returns the change of value bytes. */
static uint64_t patch_rebuild(hs_apply *a, const patch *p, const hs_node *old, uint8_t *bytes,
                              hs_node *node) {
    unsigned offset = old->values;
    for (unsigned i = 0, n = 0; i < old->count; i++) {
        hs_node_entry *e = &a->entries[i].node;
        e->key = hs_node_key(old, i);
        hs_node_value_at(old, i, offset, &e->value);
        offset += hs_node_form_size(hs_value_form(&e->value));
        if (n < p->count && p->items[n].at == i) e->value = a->edits.refs[p->items[n++].edit].edit->value;
    }
    hs_node_build(0, &a->entries[0].node, sizeof(entry), old->count, 0, 0, bytes, node);
    return hs_node_value_bytes(node) - hs_node_value_bytes(old);
}

/* The children's new ids and links. */
static void patch_ids(hs_apply *a, const patch *p, hs_cached *old, uint8_t *bytes, change *above) {
    hs_link *links = a->links + a->stage_links;
    memcpy(links, hs_cached_links(old), old->node.count * sizeof(hs_link));
    for (unsigned n = 0; n < p->count; n++) {
        const change *c = a->in.items + p->items[n].edit;
        memcpy(bytes + old->node.values + 32u * p->items[n].at, c->id, 32);
        links[p->items[n].at] = c->link;
        above->more_keys += c->more_keys;
        above->more_bytes += c->more_bytes;
    }
}

static int patch_put(hs_apply *a, const patch *p, bool resized) {
    const hs_node *old = &p->node->node;
    hs_key last = hs_node_key(old, old->count - 1u);
    change *above = out_take(a, &last);
    if (!above) return HS_NO_MEMORY;
    above->spot = p->spot;
    uint8_t *bytes = a->bytes + a->stage_filled;
    hs_node node = *old;
    node.bytes = bytes;
    if (!resized) memcpy(bytes, old->bytes, old->size);
    if (a->level)
        patch_ids(a, p, p->node, bytes, above);
    else if (resized)
        above->more_bytes = patch_rebuild(a, p, old, bytes, &node);
    else
        above->more_bytes = patch_values(a, p, old, bytes);
    above->keys = hs_node_keys(old) + above->more_keys;
    if (!hs_node_keys_fit(node.count, above->keys)) return HS_CORRUPT;
    above->value_bytes = hs_node_value_bytes(old) + above->more_bytes;
    hs_store_u64(bytes + node.size - 16, above->keys);
    hs_store_u64(bytes + node.size - 8, above->value_bytes);
    above->changed = a->level ? 0 : p->count;
    a->result.changed_keys += above->changed;
    a->closed++;
    stage_put(a, &node);
    return HS_OK;
}

/* --- stream: entries --- */

/* Old nodes that ended before `key` have vanished; *replaced: the one that ended with it. Without key: all. */
static int ends_settle(hs_apply *a, const uint8_t *key, size_t key_size, hs_cached **replaced) {
    *replaced = NULL;
    for (; a->ends_first < a->ends_count; a->ends_first++) {
        const hs_node *old = &a->ends[a->ends_first]->node;
        hs_key last = hs_node_key(old, old->count - 1u);
        int order = key ? hs_key_compare(&last, key, key_size) : -1;
        if (order > 0) break;
        if (order == 0) {
            *replaced = a->ends[a->ends_first++];
            break;
        }
        change *above = out_take(a, &last);
        if (!above) return HS_NO_MEMORY;
        above->remove = true;
        above->more_keys = -hs_node_keys(old);
        above->more_bytes = -hs_node_value_bytes(old);
    }
    if (a->ends_first == a->ends_count) a->ends_first = a->ends_count = 0;
    return HS_OK;
}

/* The hashes before the stream's start, out of the nodes before. */
static int hashes_complete(hs_apply *a) {
    hs_cursor back = a->cursor;
    stream_mark *mark = &a->mark;
    bool found;
    unsigned count = 0;
    int status = hs_cursor_seek(&back, a->level, mark->key, mark->key_size, &found);
    if (status != HS_OK) return status;
    uint64_t hashes[HS_TREE_SIDE];
    for (unsigned at = hs_cursor_at(&back) + found; count < HS_TREE_SIDE;) {
        if (at == 0) {
            status = hs_cursor_prev_node(&back);
            if (status == HS_NOT_FOUND) break;
            if (status != HS_OK) return status;
            at = hs_cursor_node(&back)->node.count;
        }
        hs_key key = hs_node_key(&hs_cursor_node(&back)->node, --at);
        hashes[count++] = hash_of(a, &key);
    }
    memcpy(mark->hashes, hashes, sizeof hashes);
    mark->hash_count = count;
    mark->hashes_whole = true;
    return HS_OK;
}

/* No entry is open at an old node's start: what was removed up to here is settled, and need not be walked again. */
static int mark_follow(hs_apply *a) {
    hs_cached *none;
    hs_key before;
    int status = a->mark.hashes_whole ? HS_OK : hashes_complete(a);
    if (status == HS_OK) status = ends_settle(a, NULL, 0, &none);
    if (status != HS_OK || !hs_cursor_key_before(&a->cursor, &before)) return status;
    hs_key_copy(&before, a->mark.key);
    a->mark.key_size = hs_key_size(&before);
    a->mark.edit = a->edit;
    a->mark.run = a->run;
    a->mark.counted = a->counted;
    if (a->level == 0 && !a->counting) a->result.changed_keys += a->changed - a->mark.changed;
    a->mark.changed = a->changed;
    return HS_OK;
}

/* Stand on an old entry, or behind the last one. */
static int old_stand(hs_apply *a) {
    while (!a->old_ended && !hs_cursor_in_node(&a->cursor)) {
        int status = hs_cursor_next_node(&a->cursor);
        if (status == HS_NOT_FOUND) {
            a->old_ended = true;
            return HS_OK;
        }
        if (status != HS_OK) return status;
        a->value_at = hs_cursor_node(&a->cursor)->node.values;
        bool dropped = a->have == 0 && a->edit > a->mark.edit;
        if (dropped && (status = mark_follow(a)) != HS_OK) return status;
    }
    return HS_OK;
}

/* Step over the old entry that the cursor stands on. */
static int old_pass(hs_apply *a) {
    hs_cached *cached = hs_cursor_node(&a->cursor);
    const hs_node *node = &cached->node;
    unsigned at = hs_cursor_at(&a->cursor);
    if (at + 1u == node->count && !a->counting && !ends_push(a, cached)) return HS_NO_MEMORY;
    if (a->level == 0) a->value_at += hs_node_form_size(node->bytes[hs_node_form_offset(node, at) + 1]);
    a->cursor.at[a->level]++;
    return HS_OK;
}

/* The next entry's place; its key and value are filled by the caller. */
static entry *entry_take(hs_apply *a) {
    entry *e = a->entries + a->have;
    *e = (entry){.edit_after = 0};
    return e;
}

static void entry_finish(hs_apply *a, entry *e) {
    if (!a->small && !a->counting) e->hash = hash_of(a, &e->node.key);
    a->changed += e->changed;
    e->run = a->run;
    e->edit_after = a->edit;
    e->changed_after = a->changed;
    a->have++;
}

/* The old entry that the cursor stands on; its value replaced by the edit's, if `replaced`. */
static int entry_take_old(hs_apply *a, bool replaced) {
    entry *e = entry_take(a);
    hs_cached *cached = hs_cursor_node(&a->cursor);
    e->at = hs_cursor_at(&a->cursor);
    e->old = cached;
    e->node.key = hs_node_key(&cached->node, e->at);
    if (a->level == 0) {
        hs_node_value_at(&cached->node, e->at, a->value_at, &e->node.value);
        if (replaced) {
            const hs_value *value = &a->edits.refs[a->edit].edit->value;
            e->changed = !hs_value_equal(&e->node.value, value);
            e->node.value = *value;
        }
    } else {
        e->change = replaced ? a->in.items + a->edit : NULL;
        e->changed = replaced;
        e->node.id = replaced ? e->change->id : hs_node_child_id(&cached->node, e->at);
        e->link = replaced ? e->change->link : hs_cached_links(cached)[e->at];
    }
    int status = old_pass(a);
    if (status != HS_OK) return status;
    a->edit += replaced;
    a->run++;
    entry_finish(a, e);
    return HS_OK;
}

static void entry_take_new(hs_apply *a) {
    entry *e = entry_take(a);
    size_t size;
    e->node.key.suffix = edit_key(a, a->edit, &size);
    e->node.key.suffix_size = (uint32_t)size;
    e->node.key.prefix = e->node.key.suffix;
    if (a->level == 0) {
        e->node.value = a->edits.refs[a->edit].edit->value;
    } else {
        e->change = a->in.items + a->edit;
        e->node.id = e->change->id;
        e->link = e->change->link;
    }
    e->changed = true;
    a->edit++;
    a->run = 0;
    entry_finish(a, e);
}

/* One more entry: the old sequence merged with the edits. HS_NOT_FOUND: there are no more. */
static int entry_next(hs_apply *a) {
    for (;;) {
        int status = old_stand(a);
        if (status != HS_OK) return status;
        if (a->have == ENTRIES_MAX) return HS_CORRUPT; /* the totals lied about a small level */
        size_t size = 0;
        const uint8_t *key = a->edit < a->count ? edit_key(a, a->edit, &size) : NULL;
        if (a->old_ended && !key) return HS_NOT_FOUND;
        int order = 1;
        if (!a->old_ended) {
            hs_key old = hs_node_key(&hs_cursor_node(&a->cursor)->node, hs_cursor_at(&a->cursor));
            order = key ? hs_key_compare(&old, key, size) : -1;
        }
        if (order < 0) return entry_take_old(a, false);
        if (!edit_removes(a, a->edit)) {
            if (order == 0) return entry_take_old(a, true);
            entry_take_new(a);
            return HS_OK;
        }
        if (order == 0) {
            status = old_pass(a);
            if (status != HS_OK) return status;
            a->run = 0;
            a->changed++;
        }
        a->edit++;
    }
}

/* At the mark; the cursor is another matter. */
static void stream_reset(hs_apply *a) {
    a->have = a->decided = 0;
    a->key_bytes = 0;
    a->ended = false;
    a->edit = a->mark.edit;
    a->run = a->mark.run;
    a->changed = a->mark.changed;
    a->counted = a->mark.counted;
    a->ends_first = a->ends_count = 0;
    a->old_ended = !a->has_old;
    a->live = true;
}

/* Begin, or begin again, at the mark. */
static int stream_enter(hs_apply *a) {
    if (a->has_old) {
        bool found = false;
        int status = a->mark.key_size
                         ? hs_cursor_seek(&a->cursor, a->level, a->mark.key, a->mark.key_size, &found)
                         : hs_cursor_first(&a->cursor, a->level);
        if (status != HS_OK) return status;
        if (found) a->cursor.at[a->level]++;
        hs_cached *cached = hs_cursor_node(&a->cursor);
        if (a->level == 0) a->value_at = hs_node_value_offset(&cached->node, hs_cursor_at(&a->cursor));
    }
    stream_reset(a);
    return HS_OK;
}

/* --- stream: boundaries --- */

/* Is entry d the strict minimum of its neighbours? Those behind it are in `entries`, unless the level ends. */
static int is_minimum(hs_apply *a, unsigned d, bool *out) {
    uint64_t hash = a->entries[d].hash;
    *out = false;
    if (a->have - d - 1 < HS_TREE_SIDE) return HS_OK;
    for (unsigned i = 1; i <= HS_TREE_SIDE; i++)
        if (a->entries[d + i].hash <= hash) return HS_OK;
    for (unsigned i = 1; i <= HS_TREE_SIDE; i++) {
        if (i <= d) {
            if (a->entries[d - i].hash <= hash) return HS_OK;
            continue;
        }
        unsigned before = i - d - 1;
        if (before >= a->mark.hash_count && !a->mark.hashes_whole) {
            int status = hashes_complete(a);
            if (status != HS_OK) return status;
        }
        if (before >= a->mark.hash_count || a->mark.hashes[before] <= hash) return HS_OK;
    }
    *out = true;
    return HS_OK;
}

static int is_boundary(hs_apply *a, unsigned d, bool *out) {
    *out = a->ended && d + 1 == a->have;
    if (*out || a->small) return HS_OK;
    *out = d + 1 >= HS_NODE_COUNT_MAX ||
           a->key_bytes + hs_key_size(&a->entries[d].node.key) >= HS_NODE_KEY_BYTES_MAX;
    return *out ? HS_OK : is_minimum(a, d, out);
}

/* --- stream: closing a node --- */

/* Are entries 0..d an old node, all of it, as far as keys go? */
static bool is_old_span(const hs_apply *a, unsigned d) {
    const hs_cached *old = a->entries[0].old;
    return old && a->entries[d].old == old && a->entries[0].at == 0 && d + 1u == old->node.count &&
           a->entries[d].at == d && a->entries[d].run >= a->entries[0].run + d;
}

/* Totals of entries 0..d of an inner level. */
static int entries_totals(hs_apply *a, unsigned d, uint64_t *keys, uint64_t *value_bytes) {
    bool old_span = is_old_span(a, d);
    *keys = old_span ? hs_node_keys(&a->entries[0].old->node) : 0;
    *value_bytes = old_span ? hs_node_value_bytes(&a->entries[0].old->node) : 0;
    for (unsigned i = 0; i <= d; i++) {
        const entry *e = a->entries + i;
        if (e->change) {
            *keys += old_span ? e->change->more_keys : e->change->keys;
            *value_bytes += old_span ? e->change->more_bytes : e->change->value_bytes;
        } else if (!old_span) {
            hs_cached *child;
            int status = hs_tree_child(a->tree, e->old, e->at, &child);
            if (status != HS_OK) return status;
            *keys += hs_node_keys(&child->node);
            *value_bytes += hs_node_value_bytes(&child->node);
        }
    }
    return HS_OK;
}

/* Entries 0..d become a node of the stage. */
static int node_put(hs_apply *a, unsigned d, const hs_cached *replaced, uint64_t keys, uint64_t value_bytes) {
    hs_node node;
    if (a->level && !hs_node_keys_fit(d + 1, keys)) return HS_CORRUPT; /* the totals below lie */
    change *above = out_take(a, &a->entries[d].node.key);
    if (!above) return HS_NO_MEMORY;
    hs_node_build(a->level, &a->entries[0].node, sizeof(entry), d + 1, keys, value_bytes,
                  a->bytes + a->stage_filled, &node);
    for (unsigned i = 0; a->level && i <= d; i++) a->links[a->stage_links + i] = a->entries[i].link;
    above->keys = hs_node_keys(&node);
    above->value_bytes = hs_node_value_bytes(&node);
    above->more_keys = above->keys - (replaced ? hs_node_keys(&replaced->node) : 0);
    above->more_bytes = above->value_bytes - (replaced ? hs_node_value_bytes(&replaced->node) : 0);
    stage_put(a, &node);
    return HS_OK;
}

/* The mark moves behind entry d. */
static void mark_move(hs_apply *a, unsigned d) {
    stream_mark *mark = &a->mark;
    const entry *last = a->entries + d;
    uint64_t hashes[HS_TREE_SIDE];
    unsigned count = 0;
    for (; count < HS_TREE_SIDE && count <= d; count++) hashes[count] = a->entries[d - count].hash;
    for (unsigned i = 0; count < HS_TREE_SIDE && i < mark->hash_count; i++) hashes[count++] = mark->hashes[i];
    memcpy(mark->hashes, hashes, sizeof hashes);
    mark->hash_count = count;
    if (count == HS_TREE_SIDE) mark->hashes_whole = true;
    mark->key_size = hs_key_size(&last->node.key);
    hs_key_copy(&last->node.key, mark->key);
    mark->edit = last->edit_after;
    mark->run = last->run;
    if (a->level == 0) a->result.changed_keys += last->changed_after - mark->changed;
    mark->changed = last->changed_after;
}

/* Entry d ends a node. All that can fail for want of a node or room comes first. */
static int node_close(hs_apply *a, unsigned d) {
    uint64_t keys = 0, value_bytes = 0;
    hs_cached *replaced;
    bool changed =
        a->level >= a->cursor.top || !is_old_span(a, d); /* the old root is no entry of a level above */
    for (unsigned i = 0; i <= d && !changed; i++) changed = a->entries[i].changed;
    int status = HS_OK;
    if (changed) status = stage_make_room(a, 0);
    if (status == HS_OK && changed && a->level) status = entries_totals(a, d, &keys, &value_bytes);
    if (status != HS_OK) return status;
    uint8_t key[HS_KEY_MAX];
    hs_key_copy(&a->entries[d].node.key, key);
    status = ends_settle(a, key, hs_key_size(&a->entries[d].node.key), &replaced);
    if (status == HS_OK && changed) status = node_put(a, d, replaced, keys, value_bytes);
    if (status != HS_OK) return status;
    mark_move(a, d);
    a->closed++;
    return HS_OK;
}

/* Behind entry d nothing differs from the old tree until the next edit, which is another stream's. */
static bool stream_is_over(const hs_apply *a, unsigned d) {
    const entry *e = a->entries + d;
    if (!e->old || e->at + 1u != e->old->node.count || e->run < HS_TREE_SIDE || a->small) return false;
    return a->have > d + HS_TREE_SIDE && a->entries[d + HS_TREE_SIDE].run >= e->run + HS_TREE_SIDE;
}

/* Entries 0..d have gone into a node. */
static void entries_shift(hs_apply *a, unsigned d) {
    a->have -= d + 1;
    memmove(a->entries, a->entries + d + 1, a->have * sizeof(entry));
    a->decided = 0;
    a->key_bytes = 0;
}

/* The level's last entry has been closed. */
static int stream_end(hs_apply *a) {
    hs_cached *none;
    int status = HS_OK;
    bool empty = a->level == 0 && a->closed == 0 && a->small;
    if (empty) status = stage_make_room(a, 0);
    if (status == HS_OK) status = ends_settle(a, NULL, 0, &none);
    if (status != HS_OK) return status;
    if (a->level == 0) a->result.changed_keys += a->changed - a->mark.changed;
    a->mark.changed = a->changed;
    if (empty) {
        hs_node node;
        hs_key no_key = {.suffix = a->base, .prefix = a->base};
        if (!out_take(a, &no_key)) return HS_NO_MEMORY;
        hs_node_build(0, &a->entries[0].node, sizeof(entry), 0, 0, 0, a->bytes + a->stage_filled, &node);
        stage_put(a, &node);
        a->closed++;
    }
    a->streaming = false;
    a->next = a->count;
    return HS_OK;
}

static int stream_run(hs_apply *a) {
    if (!a->live) {
        int status = stream_enter(a);
        if (status != HS_OK) return status;
    }
    for (;;) {
        int status = HS_OK;
        while (!a->ended && a->have - a->decided <= HS_TREE_SIDE && status == HS_OK) status = entry_next(a);
        if (status == HS_NOT_FOUND) {
            a->ended = true;
            status = HS_OK;
        }
        if (status != HS_OK) return status;
        if (a->decided == a->have) return stream_end(a);
        unsigned d = a->decided;
        bool boundary;
        status = is_boundary(a, d, &boundary);
        if (status == HS_OK && boundary) status = node_close(a, d);
        if (status != HS_OK) return status;
        if (!boundary) {
            a->key_bytes += hs_key_size(&a->entries[d].node.key);
            a->decided++;
            continue;
        }
        if (stream_is_over(a, d)) {
            a->next = a->mark.edit;
            a->streaming = false;
            return HS_OK;
        }
        entries_shift(a, d);
    }
}

/* --- stream: where it begins --- */

static void mark_reset(hs_apply *a) {
    stream_mark *mark = &a->mark;
    mark->edit = 0;
    mark->key_size = mark->changed = mark->run = mark->counted = 0;
    mark->hash_count = 0;
    mark->hashes_whole = true;
    a->live = false;
}

/* Entries of the old level at least, if the tree is what it says it is. */
static uint64_t old_entries_min(const hs_apply *a) {
    const hs_node *root = &a->cursor.node[a->cursor.top]->node;
    if (a->level == 0) return hs_node_keys(root);
    uint64_t entries = root->count;
    for (unsigned l = a->cursor.top; l > a->level; l--)
        entries = entries * 2 > HS_TREE_SMALL ? entries * 2 : HS_TREE_SMALL + 1;
    return entries;
}

/* Count entries until it is clear that the level is not small. The id of the last one is kept. */
static int level_count(hs_apply *a) {
    int status = HS_OK;
    if (!a->counting) {
        mark_reset(a);
        a->counting = true;
    }
    if (!a->live) status = stream_enter(a);
    while (status == HS_OK && a->counted <= HS_TREE_SMALL) {
        status = entry_next(a);
        if (status != HS_OK) break;
        if (a->level) memcpy(a->single, a->entries[0].node.id, 32);
        a->have = 0;
        a->counted++;
    }
    if (status != HS_OK && status != HS_NOT_FOUND) return status;
    a->counting = a->live = false;
    return HS_OK;
}

/* Will the level be one node, undivided, for want of entries? Asked before the first stream of a level. */
static int level_measure(hs_apply *a) {
    size_t sets = 0, removes = 0;
    for (size_t i = 0; i < a->count; i++) *(edit_removes(a, i) ? &removes : &sets) += 1;
    bool large = sets > HS_TREE_SMALL || (a->has_old && old_entries_min(a) > HS_TREE_SMALL + removes);
    int status = large ? HS_OK : level_count(a);
    if (status != HS_OK) return status;
    if (large) a->counted = HS_TREE_SMALL + 1;
    a->small = a->counted <= HS_TREE_SMALL;
    a->small_known = true;
    return HS_OK;
}

/* Edits whose keys are behind the mark are done again. */
static void next_take_back(hs_apply *a) {
    const stream_mark *mark = &a->mark;
    out_take_back(a, mark->key, mark->key_size);
    while (a->next > 0) {
        size_t size;
        const uint8_t *key = edit_key(a, a->next - 1, &size);
        if (mark->key_size && hs_bytes_compare(key, size, mark->key, mark->key_size) <= 0) break;
        a->next--;
    }
}

/* The cursor stands where the first insertion or removal goes. */
static int stream_begin(hs_apply *a) {
    stream_mark *mark = &a->mark;
    hs_key before;
    bool within = a->has_old && !a->small;
    for (unsigned ahead = within ? hs_cursor_at(&a->cursor) : 0; within && ahead < HS_TREE_SIDE;) {
        int status = hs_cursor_prev_node(&a->cursor);
        if (status == HS_NOT_FOUND) break;
        if (status != HS_OK) return status;
        ahead += hs_cursor_node(&a->cursor)->node.count;
    }
    mark_reset(a);
    if (within && hs_cursor_key_before(&a->cursor, &before)) {
        mark->key_size = hs_key_size(&before);
        hs_key_copy(&before, mark->key);
        mark->hashes[0] = hash_of(a, &before);
        mark->hash_count = 1;
        mark->hashes_whole = false;
        mark->run = HS_TREE_SIDE;
    }
    next_take_back(a);
    mark->edit = a->next;
    a->streaming = true;
    if (!within) return HS_OK;
    a->cursor.at[a->level] = 0;
    a->value_at = hs_cursor_node(&a->cursor)->node.values;
    stream_reset(a);
    return HS_OK;
}

/* --- levels --- */

static int patch_do(hs_apply *a, patch *p) {
    bool resized = false;
    if (a->level == 0) patch_compare(a, p, &resized);
    int status = p->count ? patch_put(a, p, resized) : HS_OK;
    if (status == HS_OK) a->next = p->next;
    return status;
}

/* By the cursor. */
static int patch_seek(hs_apply *a, patch *p, bool *insertion) {
    size_t size;
    bool found, on = a->cursor_stands;
    const uint8_t *key = edit_key(a, a->next, &size);
    a->cursor_stands = false;
    int status = on ? hs_cursor_seek_on(&a->cursor, key, size, &found)
                    : hs_cursor_seek(&a->cursor, a->level, key, size, &found);
    if (status != HS_OK) return status;
    patch_find(a, p, insertion);
    a->cursor_stands = !*insertion;
    return HS_OK;
}

/* Edits from `next` on, as far as one node or one stream goes. */
static int region_run(hs_apply *a) {
    if (a->streaming) return stream_run(a);
    if (!a->counting && a->has_old) {
        patch p;
        bool insertion = false;
        int status = stage_make_room(a, STAGE_BACK);
        if (status != HS_OK) return status;
        if (a->spreads && (a->level ? patch_find_inner(a, &p) : patch_find_leaf(a, &p)))
            return patch_do(a, &p);
        status = patch_seek(a, &p, &insertion);
        if (status != HS_OK) return status;
        if (!insertion) return patch_do(a, &p);
    }
    if (!a->small_known) {
        int status = level_measure(a);
        if (status != HS_OK) return status;
        if (a->level > 0 && a->counted == 0) return HS_CORRUPT;
        return HS_OK; /* the cursor has moved: seek again */
    }
    int status = stream_begin(a);
    return status == HS_OK ? stream_run(a) : status;
}

static int root_is(hs_apply *a, const uint8_t root[32]) {
    memcpy(a->result.root, root, 32);
    a->rooted = true;
    return HS_OK;
}

static int level_begin(hs_apply *a) {
    a->has_old = a->level <= a->cursor.top;
    a->next = a->closed = 0;
    a->counted = 0;
    a->small_known = a->small = a->streaming = a->live = a->counting = a->cursor_stands = false;
    a->begun = true;
    return a->level < HS_LEVEL_MAX ? HS_OK : HS_CORRUPT;
}

/* The edits above become the edits of the next level. */
static void level_rise(hs_apply *a) {
    change_list in = a->in;
    arena keys = a->in_keys;
    a->in = a->out;
    a->in_keys = a->out_keys;
    a->out = in;
    a->out.count = 0;
    a->out_keys = keys;
    arena_clear(&a->out_keys);
    a->count = a->in.count;
    a->level++;
    a->begun = false;
}

/* One level, from its first edit to its last, then up, unless the root is known. */
static int level_run(hs_apply *a) {
    int status = a->begun ? HS_OK : level_begin(a);
    bool single = false;
    while (status == HS_OK && !single && (a->streaming || a->next < a->count)) {
        status = region_run(a);
        single = status == HS_OK && a->level > 0 && a->small_known && a->counted == 1;
    }
    if (status != HS_OK) return status;
    if (single) return root_is(a, a->single);
    status = stage_flush(a, 0);
    if (status != HS_OK) return status;
    if (a->out.count == 0) return root_is(a, a->base);
    if (a->level >= a->cursor.top && a->closed == 1) {
        const change *root = a->out.items;
        while (root->remove) root++;
        return root_is(a, root->id);
    }
    level_rise(a);
    return HS_OK;
}

/* Deal the edits out to the old tree's nodes, in the first run; later ones go on with it. */
static int spread_run(hs_apply *a, hs_cached *root) {
    if (!a->started && a->count > 1 && a->count < HS_SPOT_NONE && root->node.level > 0) {
        int status = hs_spread_begin(&a->spread, root, &a->edits);
        if (status != HS_OK) return status;
        a->spreads = true;
    }
    a->started = true;
    return a->spreads ? hs_spread_run(&a->spread, a->tree, &a->edits) : HS_OK;
}

int hs_apply_run(hs_apply *a, hs_apply_result *out) {
    hs_cached *root;
    int status = hs_tree_root(a->tree, a->base, &root);
    if (status != HS_OK) return status;
    if (a->epoch != hs_cache_epoch(a->tree->cache)) a->live = a->spreads = false;
    a->epoch = hs_cache_epoch(a->tree->cache);
    a->cursor_stands = false;
    if (!a->live) status = hs_cursor_open(&a->cursor, a->tree, a->base);
    if (status == HS_OK) status = spread_run(a, root);
    while (status == HS_OK && !a->rooted) status = level_run(a);
    if (status == HS_OK)
        status = hs_tree_totals(a->tree, a->result.root, &a->result.keys, &a->result.value_bytes);
    if (status == HS_OK) *out = a->result;
    return status;
}

/* --- life: one of them is kept by the cache, so that its memory is there already --- */

static void apply_release(void *object) {
    hs_apply *a = object;
    if (!a) return;
    arena_clear(&a->in_keys);
    arena_clear(&a->out_keys);
    free(a->in_keys.blocks);
    free(a->out_keys.blocks);
    free(a->in.items);
    free(a->out.items);
    hs_edits_free(&a->edits);
    hs_spread_free(&a->spread);
    free(a->ends);
    free(a);
}

static hs_apply *apply_make(hs_cache *cache) {
    hs_cache_spare *spare = hs_cache_spare_slot(cache);
    if (spare->object) {
        hs_apply *a = spare->object;
        spare->object = NULL;
        return a;
    }
    hs_apply *a = malloc(sizeof *a);
    if (!a) return NULL;
    a->edits = (hs_edit_list){0};
    a->spread = (hs_spread){.top = 0};
    a->in = a->out = (change_list){0};
    a->in_keys = a->out_keys = (arena){0};
    a->ends = NULL;
    a->ends_capacity = 0;
    return a;
}

void hs_apply_free(hs_apply *a) {
    if (!a) return;
    hs_cache_spare *spare = hs_cache_spare_slot(a->tree->cache);
    size_t kept = (a->in.capacity + a->out.capacity) * sizeof(change) +
                  2 * a->edits.capacity * sizeof(hs_edit_ref) + hs_spread_size(&a->spread) +
                  a->ends_capacity * sizeof(hs_cached *);
    if (spare->object || kept > KEEP_BYTES) {
        apply_release(a);
        return;
    }
    arena_clear(&a->in_keys);
    arena_clear(&a->out_keys);
    spare->object = a;
    spare->release = apply_release;
}

int hs_apply_new(hs_tree *tree, const uint8_t base[32], const hs_edit *edits, size_t count, hs_apply **out) {
    hs_apply *a = apply_make(tree->cache);
    if (!a) return HS_NO_MEMORY;
    a->tree = tree;
    memcpy(a->base, base, 32);
    a->epoch = hs_cache_epoch(tree->cache);
    a->result = (hs_apply_result){0};
    a->rooted = a->begun = a->live = a->started = a->spreads = false;
    a->spot = 0;
    a->level = 0;
    a->in.count = a->out.count = 0;
    a->ends_first = a->ends_count = 0;
    a->staged = a->hashed = a->stored = 0;
    a->stage_filled = 0;
    a->stage_links = 0;
    int status = hs_edits_take(&a->edits, edits, count);
    a->count = count;
    if (status != HS_OK) {
        hs_apply_free(a);
        return status;
    }
    *out = a;
    return HS_OK;
}
