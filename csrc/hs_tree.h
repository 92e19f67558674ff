/* hs_tree: L0: find, apply, scan, diff over immutable nodes.
 *
 * The canonical tree, exactly. Level 0 is the sorted sequence of keys with their values; level L + 1 is the sequence of
 * (last key, id) of the nodes of level L. A level of at most HS_TREE_SMALL entries is one node; a level that is one node
 * is the root. Otherwise entry i ends its node
 *   - if its hash hs_key_hash_level(hs_key_hash(key), level) is the strict minimum of the three neighbours on each side,
 *     all six of which exist, or
 *   - if the node has reached HS_NODE_COUNT_MAX entries, or its keys' sizes sum to HS_NODE_KEY_BYTES_MAX or more, or
 *   - if it is the last.
 * The empty tree is a leaf without entries. So all is a pure function of the content, whatever the order of the edits.
 *
 *   hs_tree.c        find, totals, count, scan          hs_tree_walk.[ch]   from id to node; the cursor (internal)
 *   hs_tree_diff.c   diff                               hs_tree_apply.c     many edits; hs_tree_patch.c one edit
 *   hs_tree_edits.[ch]   edits in order (internal)      hs_tree_spread.[ch] the nodes they lie in (internal)
 *
 * Not thread-safe: the engine's mutex is held. No function trims the cache: whoever begins an operation does. */
#ifndef HS_TREE_H
#define HS_TREE_H
#include "hs_cache.h"
#include "hs_node.h"

#define HS_TREE_SMALL 16u /* entries of a level that is never divided */
#define HS_TREE_SIDE  3u  /* neighbours on each side that decide on a boundary */

/* Where nodes come from and go to (the ring, in the library; a script of failures, in tests). */
typedef struct hs_node_io {
    void *context;
    /* Copy a node's bytes to buffer (HS_NODE_SIZE_MAX), and vouch that they are what the id names (the ring's checksum
     * does); their form is validated by the caller. HS_OK, HS_MISSING (bring it from L2), HS_CORRUPT ... */
    int (*load)(void *context, const uint8_t id[32], uint8_t *buffer, size_t *size);
    /* Take a new node. *added: it was not there before. HS_OK, HS_WAIT (no room; offer it again), HS_REAPED ... */
    int (*store)(void *context, const uint8_t id[32], const uint8_t *bytes, size_t size, bool *added);
    /* This node will be stored soon, or this value, in a leaf that was just loaded, may be read soon. May be NULL. */
    void (*expect)(void *context, const uint8_t id[32]);
} hs_node_io;

typedef struct hs_tree {
    hs_cache *cache;
    hs_node_io io;
    uint8_t missing[32];    /* set with HS_MISSING: the node to bring */
    uint64_t blocks_hashed; /* BLAKE3 compressions since the tree was made */
} hs_tree;

typedef struct hs_edit {
    const uint8_t *key;
    uint32_t key_size;
    bool remove; /* removing an absent key changes nothing */
    hs_value value;
} hs_edit;

typedef struct hs_apply_result {
    uint8_t root[32];
    uint64_t keys, value_bytes; /* totals of the new root */
    uint64_t new_node_bytes;    /* of nodes that were not stored before */
    uint32_t new_nodes;
    uint32_t changed_keys; /* edits that changed something */
} hs_apply_result;

/* Keys from start (inclusive) to stop (exclusive; NULL: no bound). */
typedef struct hs_range {
    const uint8_t *start, *stop;
    size_t start_size, stop_size;
} hs_range;

/* The empty tree's root is known to every tree and never loaded. */
void hs_tree_empty_root(uint8_t out[32]);
/* The value of a key; value.bytes points into the cache and is good until the next call on this tree. HS_NOT_FOUND,
 * HS_MISSING, HS_CORRUPT. */
int hs_tree_find(hs_tree *tree, const uint8_t root[32], const uint8_t *key, size_t key_size, hs_value *out);
int hs_tree_totals(hs_tree *tree, const uint8_t root[32], uint64_t *keys, uint64_t *value_bytes);
/* Number of keys in a range (NULL: all): O(depth), by totals. */
int hs_tree_count(hs_tree *tree, const uint8_t root[32], const hs_range *range, uint64_t *keys);

/* In order, or in reverse; visit returns false to end the scan (HS_OK). After HS_MISSING: what was visited stands; go on
 * from there with a narrower range. `visit` must not call the tree. range NULL: all. */
typedef bool (*hs_scan_visit)(void *context, const uint8_t *key, size_t key_size, const hs_value *value);
int hs_tree_scan(hs_tree *tree, const uint8_t root[32], const hs_range *range, bool reverse,
                 hs_scan_visit visit, void *context);

/* Keys that differ, in order; old or new is NULL for added and removed. Subtrees of equal id are not entered. Resumed as
 * a scan is. */
typedef bool (*hs_diff_visit)(void *context, const uint8_t *key, size_t key_size, const hs_value *old_value,
                              const hs_value *new_value);
int hs_tree_diff(hs_tree *tree, const uint8_t old_root[32], const uint8_t new_root[32], const hs_range *range,
                 hs_diff_visit visit, void *context);

/* Many edits in one go, in any order, keys unique (else HS_ARGUMENT). The edits and what they point to must live until
 * hs_apply_free. After HS_MISSING or HS_WAIT, run again: it goes on where it stopped (no pointer into the cache is kept
 * between runs). New nodes go to io.store level by level, before their parents, and to the cache.
 * After any other status it can only be freed. It must be freed before its cache is. */
typedef struct hs_apply hs_apply;
int hs_apply_new(hs_tree *tree, const uint8_t base[32], const hs_edit *edits, size_t count, hs_apply **out);
int hs_apply_run(hs_apply *apply, hs_apply_result *out);
void hs_apply_free(hs_apply *apply);
/* One edit, without allocation (but for the cache's growth): the same result. After HS_MISSING or HS_WAIT call again
 * from the start. */
int hs_tree_apply_one(hs_tree *tree, const uint8_t base[32], const hs_edit *edit, hs_apply_result *out);
#endif
