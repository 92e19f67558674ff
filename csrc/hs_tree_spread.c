/* hs_tree_spread: see hs_tree_spread.h. */
#include "hs_tree_spread.h"
#include "helios_shm.h"

#include <stdlib.h>

#define AHEAD 12u /* nodes brought near before they are looked into */

static int spot_push(hs_spots *spots, hs_spot spot) {
    if (spots->count == spots->capacity) {
        uint32_t capacity = spots->capacity ? spots->capacity * 2 : 64;
        if (capacity < spots->capacity) return HS_NO_MEMORY;
        hs_spot *items = realloc(spots->items, capacity * sizeof *items);
        if (!items) return HS_NO_MEMORY;
        spots->items = items;
        spots->capacity = capacity;
    }
    spots->items[spots->count++] = spot;
    return HS_OK;
}

int hs_spread_begin(hs_spread *spread, hs_cached *root, const hs_edit_list *edits) {
    for (unsigned l = 0; l < HS_LEVEL_MAX; l++) spread->levels[l].count = 0;
    spread->top = spread->level = root->node.level;
    spread->spot = spread->edit = 0;
    return spot_push(spread->levels + spread->top, (hs_spot){root, HS_SPOT_NONE, (uint32_t)edits->count, 0});
}

static inline bool is_above(const hs_key *key, const hs_edit *edit) {
    return hs_key_compare(key, edit->key, edit->key_size) >= 0;
}

/* The first of the edits [from, end) that is above a key; the edit before `from` is not. In steps that double. */
static uint32_t first_above(const hs_edit_list *edits, uint32_t from, uint32_t end, const hs_key *key) {
    uint32_t step = 1, low = from, high = from;
    while (high < end && is_above(key, edits->refs[high].edit)) {
        low = high + 1;
        high = end - high > step ? high + step : end;
        step *= 2;
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (is_above(key, edits->refs[middle].edit))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Deal a node's edits out to its children. */
static int deal(hs_spread *spread, hs_tree *tree, const hs_edit_list *edits, const hs_spot *spot) {
    const hs_node *node = &spot->node->node;
    spot->node->used = 1;
    while (spread->edit < spot->end) {
        const hs_edit *edit = edits->refs[spread->edit].edit;
        bool found;
        unsigned at = hs_node_find(node, edit->key, edit->key_size, &found);
        uint32_t end = spot->end;
        if (at + 1u < node->count) {
            hs_key last = hs_node_key(node, at);
            end = first_above(edits, spread->edit + 1, end, &last);
        } else {
            at = node->count - 1u; /* what is behind the last key belongs into the last child, too */
        }
        hs_cached *child = hs_cache_peek(tree->cache, hs_cached_links(spot->node)[at]);
        int status = child ? HS_OK : hs_tree_child_load(tree, spot->node, at, &child);
        if (status != HS_OK) return status;
        status =
            spot_push(spread->levels + spread->level - 1, (hs_spot){child, spread->spot, end, (uint16_t)at});
        if (status != HS_OK) return status;
        spread->edit = end;
    }
    return HS_OK;
}

int hs_spread_run(hs_spread *spread, hs_tree *tree, const hs_edit_list *edits) {
    for (; spread->level > 0; spread->level--, spread->spot = spread->edit = 0) {
        const hs_spots *spots = spread->levels + spread->level;
        for (; spread->spot < spots->count; spread->spot++) {
            if (spots->count - spread->spot > AHEAD)
                hs_cached_prefetch(spots->items[spread->spot + AHEAD].node);
            int status = deal(spread, tree, edits, spots->items + spread->spot);
            if (status != HS_OK) return status;
        }
    }
    return HS_OK;
}

void hs_spread_free(hs_spread *spread) {
    for (unsigned l = 0; l < HS_LEVEL_MAX; l++) free(spread->levels[l].items);
    *spread = (hs_spread){.top = 0};
}

size_t hs_spread_size(const hs_spread *spread) {
    size_t size = 0;
    for (unsigned l = 0; l < HS_LEVEL_MAX; l++) size += spread->levels[l].capacity * sizeof(hs_spot);
    return size;
}
