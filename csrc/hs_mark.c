/* hs_mark.c - what is reachable: a set of ids, and for each how far it was looked at. The functions are in helios_shm.h. Pure.
 *
 *   table   | fingerprint 32, index 32 | . . |        open addressing by the first 6 bytes of an id, which is what a lease says of one
 *   ids     | id | id | id | id | . . .               in the order in which they were marked: what grew is the end
 *   state   | .. | .. | .. | .. | . . .
 *   tags    | tag | . | tag | . . .                   of leases: open addressing; tag + 1, 0 is empty
 *
 * A node is wanted when a root, a parent, a leaf of kind snapshot or a lease names it; it is expanded when its row was met, once. A
 * pack is gone through from its last row to its first: parents are put after their children, so that one pass mostly follows a
 * whole tree.
 *
 * Invariants. What is expanded has all that it names marked. An id is marked once; marks are never taken back. */
#include <stdlib.h>
#include "helios_shm.h"
#include "hs_lease.h"
#include "hs_node.h"
#include "hs_pack.h"
#include "hs_tree.h"

#define ROWS_A_CALL  2000u
#define BYTES_A_CALL ((size_t)1 << 20)
#define TABLE_MIN    1024u
enum mark_state { WANTED = 1, EXPANDED = 2, PLACED = 4 };

typedef struct mark_slot {
    uint32_t fingerprint, index; /* index + 1; 0: empty */
} mark_slot;

struct hs_mark {
    uint8_t (*ids)[32];
    uint8_t *states;
    uint32_t count, capacity;
    mark_slot *table;
    uint64_t *tags;
    uint32_t table_mask, tags_mask, tags_count;
    uint32_t watched, hand; /* first id of those that grew; where `wanted` goes on */
    uint64_t pending;
    uint8_t empty_root[32];
};

int hs_mark_open(hs_mark **out) {
    hs_mark *mark = calloc(1, sizeof *mark);
    if (!mark) return HS_NO_MEMORY;
    mark->table = calloc(TABLE_MIN, sizeof *mark->table);
    mark->table_mask = TABLE_MIN - 1;
    hs_tree_empty_root(mark->empty_root);
    if (!mark->table) {
        free(mark);
        return HS_NO_MEMORY;
    }
    *out = mark;
    return HS_OK;
}

void hs_mark_close(hs_mark *mark) {
    if (!mark) return;
    free(mark->ids);
    free(mark->states);
    free(mark->table);
    free(mark->tags);
    free(mark);
}

/* ---- The set ---- */

static uint32_t fingerprint_of(uint64_t tag) { return (uint32_t)(tag >> 16); }

/* Where the id stands, or the empty slot where it would. */
static mark_slot *slot_of(const hs_mark *mark, const uint8_t *id) {
    uint64_t tag = hs_lease_tag(id);
    for (uint32_t at = (uint32_t)tag & mark->table_mask;; at = (at + 1) & mark->table_mask) {
        mark_slot *slot = &mark->table[at];
        if (slot->index == 0) return slot;
        if (slot->fingerprint == fingerprint_of(tag) && memcmp(mark->ids[slot->index - 1], id, 32) == 0)
            return slot;
    }
}

static bool any_begins_with(const hs_mark *mark, uint64_t tag) {
    for (uint32_t at = (uint32_t)tag & mark->table_mask;; at = (at + 1) & mark->table_mask) {
        const mark_slot *slot = &mark->table[at];
        if (slot->index == 0) return false;
        if (slot->fingerprint == fingerprint_of(tag) && hs_lease_tag(mark->ids[slot->index - 1]) == tag)
            return true;
    }
}

static bool table_grow(hs_mark *mark) {
    uint32_t mask = mark->table_mask * 2 + 1;
    mark_slot *table = calloc((size_t)mask + 1, sizeof *table);
    if (!table) return false;
    for (uint32_t i = 0; i < mark->count; i++) {
        uint64_t tag = hs_lease_tag(mark->ids[i]);
        uint32_t at = (uint32_t)tag & mask;
        while (table[at].index != 0) at = (at + 1) & mask;
        table[at] = (mark_slot){fingerprint_of(tag), i + 1};
    }
    free(mark->table);
    mark->table = table;
    mark->table_mask = mask;
    return true;
}

static bool ids_grow(hs_mark *mark) {
    if (mark->capacity > UINT32_MAX / 4) return false;
    uint32_t capacity = mark->capacity ? mark->capacity * 2 : TABLE_MIN;
    void *ids = realloc(mark->ids, (size_t)capacity * sizeof *mark->ids);
    if (ids) mark->ids = ids;
    uint8_t *states = realloc(mark->states, capacity);
    if (states) mark->states = states;
    if (!ids || !states) return false;
    mark->capacity = capacity;
    return true;
}

/* Mark an id. Its index, or HS_NO_MEMORY. *known: it was marked before. */
static int64_t enter(hs_mark *mark, const uint8_t *id, bool *known) {
    mark_slot *slot = slot_of(mark, id);
    *known = slot->index != 0;
    if (*known) return (int64_t)slot->index - 1;
    if (mark->count == mark->capacity && !ids_grow(mark)) return HS_NO_MEMORY;
    if (mark->count >= mark->table_mask / 4 * 3) {
        if (!table_grow(mark)) return HS_NO_MEMORY;
        slot = slot_of(mark, id);
    }
    uint32_t index = mark->count++;
    memcpy(mark->ids[index], id, 32);
    mark->states[index] = 0;
    *slot = (mark_slot){fingerprint_of(hs_lease_tag(id)), index + 1};
    return index;
}

int hs_mark_has(const hs_mark *mark, const uint8_t *id) { return slot_of(mark, id)->index != 0; }

int hs_mark_add(hs_mark *mark, const uint8_t *id) {
    bool known;
    if (memcmp(id, mark->empty_root, 32) == 0) return 0;
    int64_t index = enter(mark, id, &known);
    if (index < 0) return (int)index;
    if (mark->states[index] & WANTED) return 0;
    mark->states[index] |= WANTED;
    mark->pending++;
    return 1;
}

/* ---- Leases ---- */

static bool is_leased(const hs_mark *mark, const uint8_t *id) {
    if (mark->tags_count == 0) return false;
    uint64_t tag = hs_lease_tag(id);
    for (uint32_t at = (uint32_t)tag & mark->tags_mask; mark->tags[at] != 0; at = (at + 1) & mark->tags_mask)
        if (mark->tags[at] == tag + 1) return true;
    return false;
}

/* Enter a tag into a table with room; false: it is there. */
static bool tag_enter(uint64_t *tags, uint32_t mask, uint64_t tag) {
    uint32_t at = (uint32_t)tag & mask;
    for (; tags[at] != 0; at = (at + 1) & mask)
        if (tags[at] == tag + 1) return false;
    tags[at] = tag + 1;
    return true;
}

static bool tags_grow(hs_mark *mark) {
    uint32_t mask = mark->tags ? mark->tags_mask * 2 + 1 : TABLE_MIN - 1;
    uint64_t *tags = calloc((size_t)mask + 1, sizeof *tags);
    if (!tags) return false;
    for (uint32_t at = 0; mark->tags && at <= mark->tags_mask; at++)
        if (mark->tags[at] != 0) tag_enter(tags, mask, mark->tags[at] - 1);
    free(mark->tags);
    mark->tags = tags;
    mark->tags_mask = mask;
    return true;
}

int hs_mark_lease(hs_mark *mark, uint64_t tag) {
    if ((!mark->tags || mark->tags_count >= mark->tags_mask / 4 * 3) && !tags_grow(mark)) return HS_NO_MEMORY;
    mark->tags_count += tag_enter(mark->tags, mark->tags_mask, tag);
    return tag != hs_lease_tag(mark->empty_root) && !any_begins_with(mark, tag);
}

/* ---- Expanding ---- */

/* Mark what a node names. */
static int node_follow(hs_mark *mark, const hs_node *node) {
    if (node->type == HS_NODE_INNER) {
        for (unsigned i = 0; i < node->count; i++) {
            int status = hs_mark_add(mark, hs_node_child_id(node, i));
            if (status < 0) return status;
        }
        return HS_OK;
    }
    unsigned offset = node->count ? hs_node_value_offset(node, 0) : 0;
    for (unsigned i = 0; i < node->count; i++) {
        hs_value value;
        bool known;
        hs_node_value_at(node, i, offset, &value);
        offset += hs_node_form_size(hs_value_form(&value));
        int64_t status = HS_OK;
        if (value.hashed)
            status = enter(mark, value.bytes, &known);
        else if (value.kind == HS_KIND_SNAPSHOT && value.size == 32)
            status = hs_mark_add(mark, value.bytes);
        if (status < 0) return (int)status;
    }
    return HS_OK;
}

int hs_mark_node(hs_mark *mark, const uint8_t *id, const uint8_t *bytes, size_t size) {
    uint32_t index = slot_of(mark, id)->index;
    hs_node node;
    if (index == 0 || (mark->states[index - 1] & (WANTED | EXPANDED)) != WANTED) return HS_OK;
    if (hs_node_open(bytes, size, &node) != HS_OK) return HS_CORRUPT;
    int status = node_follow(mark, &node);
    if (status != HS_OK) return status;
    mark->states[index - 1] |= EXPANDED;
    mark->pending--;
    return HS_OK;
}

static bool bit_of(const uint8_t *bitmap, uint32_t row) {
    return bitmap && (bitmap[row / 8] >> (row % 8) & 1) != 0;
}

/* One row: of a wanted node, what it names. *bytes: how much was gone through. */
static int row_expand(hs_mark *mark, const uint8_t *pack, const hs_pack_row *row, uint32_t flags,
                      size_t *bytes) {
    if (row->kind != HS_ENTRY_NODE) return HS_OK;
    if ((flags & HS_MARK_YOUNG) || is_leased(mark, row->id)) {
        int status = hs_mark_add(mark, row->id);
        if (status < 0) return status;
    }
    uint32_t index = slot_of(mark, row->id)->index;
    if (index == 0 || (mark->states[index - 1] & (WANTED | EXPANDED)) != WANTED) return HS_OK;
    if (row->codec != 0) return HS_CORRUPT;
    *bytes += row->stored_size;
    return hs_mark_node(mark, row->id, pack + row->offset, row->stored_size);
}

int hs_mark_pack(hs_mark *mark, const uint8_t *pack, size_t size, const uint8_t *dead, uint32_t flags,
                 uint32_t *row) {
    uint32_t count = size >= HS_PACK_HEADER_SIZE ? hs_pack_count(pack) : 0;
    size_t bytes = 0;
    if (hs_pack_payload_start(count) > size) return HS_CORRUPT;
    if (*row > count) *row = count;
    for (uint32_t seen = 0; *row > 0 && seen < ROWS_A_CALL && bytes < BYTES_A_CALL; seen++) {
        hs_pack_row at = hs_pack_row_get(pack, *row - 1);
        if ((uint64_t)at.offset + at.stored_size > size) return HS_CORRUPT;
        int status = bit_of(dead, *row - 1) ? HS_OK : row_expand(mark, pack, &at, flags, &bytes);
        if (status != HS_OK) return status;
        --*row;
    }
    return HS_OK;
}

/* ---- What it came to ---- */

uint64_t hs_mark_pending(const hs_mark *mark) { return mark->pending; }

uint32_t hs_mark_wanted(hs_mark *mark, uint8_t *ids, uint32_t capacity) {
    uint32_t given = 0;
    for (; mark->hand < mark->count && given < capacity; mark->hand++)
        if ((mark->states[mark->hand] & (WANTED | EXPANDED)) == WANTED)
            memcpy(ids + 32 * (size_t)given++, mark->ids[mark->hand], 32);
    if (given == 0) mark->hand = 0;
    return given;
}

void hs_mark_watch(hs_mark *mark) { mark->watched = mark->count; }

uint64_t hs_mark_grown(const hs_mark *mark, uint8_t *ids, uint64_t capacity) {
    uint64_t grown = mark->count - mark->watched;
    if (grown > 0 && grown <= capacity) memcpy(ids, mark->ids[mark->watched], grown * 32);
    return grown;
}

int hs_mark_place(hs_mark *mark, const uint8_t *pack, size_t size, const uint8_t *dead_before, uint8_t *dead,
                  uint64_t *live_bytes, uint32_t *live_rows) {
    uint32_t count = size >= HS_PACK_HEADER_SIZE ? hs_pack_count(pack) : 0, rows = 0;
    uint64_t bytes = 0;
    if (hs_pack_payload_start(count) > size) return HS_CORRUPT;
    memset(dead, 0, ((size_t)count + 7) / 8);
    for (uint32_t row = 0; row < count; row++) {
        hs_pack_row at = hs_pack_row_get(pack, row);
        uint32_t index = slot_of(mark, at.id)->index;
        if (bit_of(dead_before, row) || index == 0 || (mark->states[index - 1] & PLACED)) {
            dead[row / 8] |= (uint8_t)(1u << (row % 8));
            continue;
        }
        mark->states[index - 1] |= PLACED;
        rows++;
        bytes += at.stored_size;
    }
    *live_bytes = bytes;
    *live_rows = rows;
    return HS_OK;
}
