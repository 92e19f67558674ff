/* hs_tree_spread: which nodes of a tree the edits of an apply lie in. Internal to hs_tree_*.c.
 *
 *   level 2                 [a . . . . . . z]                      one spot for each node, in order:
 *                         edits 0..8                                 up   its parent's spot
 *   level 1        [. . .]              [. . . .]                    at   which child of the parent
 *                  0..3                  3..8                        end  its edits end here, and the next spot's begin
 *   level 0   [...]      [..]      [....]     [..]
 *             0..2       2..3      3..7       7..8
 *
 * The tree is descended a level at a time: a node's edits are dealt out to its children, and the nodes that come next are
 * brought near while it is done, so that a walk over cold memory is not one cache miss after the other. Whoever changes
 * these nodes finds each of them, and its place in its parent, without a search.
 *
 * Invariants: spots point into the cache, so they hold while the cache's epoch stands still. They are a way to go
 * faster and never the only one: where there are none, a cursor finds the node. */
#ifndef HS_TREE_SPREAD_H
#define HS_TREE_SPREAD_H
#include "hs_tree_edits.h"
#include "hs_tree_walk.h"

#define HS_SPOT_NONE UINT32_MAX

typedef struct hs_spot {
    hs_cached *node;
    uint32_t up, end;
    uint16_t at;
} hs_spot;

typedef struct hs_spots {
    hs_spot *items;
    uint32_t count, capacity;
} hs_spots;

typedef struct hs_spread {
    hs_spots levels[HS_LEVEL_MAX];
    unsigned top, level; /* spots are complete from `top` down to `level` */
    uint32_t spot, edit; /* where in `level` the dealing stands */
} hs_spread;

/* Begin with the root. */
int hs_spread_begin(hs_spread *spread, hs_cached *root, const hs_edit_list *edits);
/* Down to the leaves. HS_MISSING: run again, it goes on where it stopped while the epoch stands still. */
int hs_spread_run(hs_spread *spread, hs_tree *tree, const hs_edit_list *edits);
void hs_spread_free(hs_spread *spread);
/* Bytes of its memory. */
size_t hs_spread_size(const hs_spread *spread);
#endif
