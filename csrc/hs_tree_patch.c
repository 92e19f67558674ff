/* hs_tree_patch: one edit; see hs_tree.h.
 *
 * A new value for a key that is there, the hottest case of all, moves no boundary: descend once, copy the nodes of the
 * path straight into the cache, change the value and then each 32-byte id, and rehash from the first changed block on.
 * Anything else is the work of hs_tree_apply.c. */
#include "hs_blake3.h"
#include "hs_tree_edits.h"
#include "hs_tree_walk.h"

typedef struct path {
    hs_cached *node[HS_LEVEL_MAX];
    uint16_t at[HS_LEVEL_MAX];
    unsigned top;
    bool found;
} path;

/* The nodes from the root to the key's leaf; without the leaf, and not found, if all keys are below. */
static int path_find(hs_tree *tree, const uint8_t root[32], const hs_edit *edit, path *out) {
    hs_cached *cached;
    int status = hs_tree_root(tree, root, &cached);
    if (status != HS_OK) return status;
    out->top = cached->node.level;
    for (;;) {
        unsigned level = cached->node.level;
        unsigned at = hs_node_find(&cached->node, edit->key, edit->key_size, &out->found);
        out->node[level] = cached;
        out->at[level] = (uint16_t)at;
        if (level == 0) return HS_OK;
        if (at == cached->node.count) {
            out->found = false;
            return HS_OK;
        }
        status = hs_tree_child(tree, cached, at, &cached);
        if (status != HS_OK) return status;
        hs_cached_prefetch(cached);
    }
}

/* Room for a successor of `old`: of the given size, its bytes before `same` and the chaining values up to there copied. */
static hs_cached *copy_begin(hs_tree *tree, const hs_cached *old, uint32_t size, unsigned same) {
    hs_node shape = old->node;
    shape.size = size;
    hs_cached *copy =
        hs_cache_reserve(tree->cache, &shape, size <= HS_BLAKE3_CHUNK ? (unsigned)hs_blake3_blocks(size) : 0);
    if (!copy) return NULL;
    memcpy((uint8_t *)(uintptr_t)copy->node.bytes, old->node.bytes, same);
    return copy;
}

/* The copy's bytes are whole and differ from the old node's from `changed` on, totals aside, which stand behind. Hash,
 * store, enter. *out: the cache's node of this id. */
static int copy_finish(hs_tree *tree, hs_cached *old, hs_cached *copy, unsigned changed,
                       hs_apply_result *result, hs_cached **out) {
    const uint8_t *bytes = copy->node.bytes;
    size_t size = copy->node.size;
    tree->blocks_hashed += hs_cached_hash(copy, old, changed / HS_BLAKE3_BLOCK, copy->id);
    hs_cache_prefetch(tree->cache, copy->id);
    bool added = false;
    int status = tree->io.store(tree->io.context, copy->id, bytes, size, &added);
    if (status != HS_OK) return status;
    result->new_nodes += added;
    result->new_node_bytes += added ? size : 0;
    *out = hs_cache_get(tree->cache, copy->id);
    if (*out) return HS_OK;
    hs_cache_enter(tree->cache, copy);
    *out = copy;
    return HS_OK;
}

/* The leaf with another value for entry `at`. */
static int leaf_patch(hs_tree *tree, hs_cached *old, unsigned at, const hs_value *was, const hs_value *value,
                      hs_apply_result *result, hs_cached **out) {
    const hs_node *node = &old->node;
    unsigned form_at = hs_node_form_offset(node, at);
    unsigned value_at = (unsigned)(was->bytes - node->bytes) - (was->hashed ? 8u : 0u);
    unsigned was_stored = hs_node_form_size(hs_value_form(was)),
             stored = hs_node_form_size(hs_value_form(value));
    uint32_t size = node->size - was_stored + stored;
    hs_cached *copy = copy_begin(tree, old, size, value_at);
    if (!copy) return HS_NO_MEMORY;
    uint8_t *bytes = (uint8_t *)(uintptr_t)copy->node.bytes;
    unsigned rest = value_at + was_stored;
    memcpy(bytes + value_at + stored, node->bytes + rest, node->size - rest);
    hs_value_store(bytes + value_at, value);
    unsigned changed = value_at;
    if (was->kind != value->kind || hs_value_form(was) != hs_value_form(value)) {
        bytes[form_at] = value->kind;
        bytes[form_at + 1] = hs_value_form(value);
        changed = form_at;
    }
    hs_store_u64(bytes + size - 8, hs_node_value_bytes(node) + value->size - was->size);
    return copy_finish(tree, old, copy, changed, result, out);
}

/* The inner node with another child in place `at`. */
static int inner_patch(hs_tree *tree, hs_cached *old, unsigned at, const hs_cached *child,
                       uint64_t more_bytes, hs_apply_result *result, hs_cached **out) {
    const hs_node *node = &old->node;
    unsigned id_at = node->values + 32u * at;
    hs_cached *copy = copy_begin(tree, old, node->size, node->size);
    if (!copy) return HS_NO_MEMORY;
    uint8_t *bytes = (uint8_t *)(uintptr_t)copy->node.bytes;
    memcpy(hs_cached_links(copy), hs_cached_links(old), node->count * sizeof(hs_link));
    hs_cached_links(copy)[at] = hs_cache_link(tree->cache, child);
    memcpy(bytes + id_at, child->id, 32);
    hs_store_u64(bytes + node->size - 8, hs_node_value_bytes(node) + more_bytes);
    return copy_finish(tree, old, copy, id_at, result, out);
}

static int unchanged(const uint8_t base[32], const path *p, hs_apply_result *out) {
    const hs_node *root = &p->node[p->top]->node;
    *out = (hs_apply_result){.keys = hs_node_keys(root), .value_bytes = hs_node_value_bytes(root)};
    memcpy(out->root, base, 32);
    return HS_OK;
}

/* By the general way, with the memory that the cache keeps for it. */
static int apply_alone(hs_tree *tree, const uint8_t base[32], const hs_edit *edit, hs_apply_result *out) {
    hs_apply *apply;
    int status = hs_apply_new(tree, base, edit, 1, &apply);
    if (status != HS_OK) return status;
    status = hs_apply_run(apply, out);
    hs_apply_free(apply);
    return status;
}

int hs_tree_apply_one(hs_tree *tree, const uint8_t base[32], const hs_edit *edit, hs_apply_result *out) {
    path p;
    hs_value was;
    if (!hs_edit_is_valid(edit)) return HS_ARGUMENT;
    int status = path_find(tree, base, edit, &p);
    if (status != HS_OK) return status;
    if (!p.found && edit->remove) return unchanged(base, &p, out);
    if (!p.found || edit->remove) return apply_alone(tree, base, edit, out);
    const hs_node *leaf = &p.node[0]->node;
    hs_node_value_at(leaf, p.at[0], hs_node_value_offset(leaf, p.at[0]), &was);
    if (hs_value_equal(&was, &edit->value)) return unchanged(base, &p, out);
    hs_apply_result result = {.changed_keys = 1};
    hs_cached *node;
    status = leaf_patch(tree, p.node[0], p.at[0], &was, &edit->value, &result, &node);
    for (unsigned l = 1; status == HS_OK && l <= p.top; l++)
        status = inner_patch(tree, p.node[l], p.at[l], node, edit->value.size - was.size, &result, &node);
    if (status != HS_OK) return status;
    memcpy(result.root, node->id, 32);
    result.keys = hs_node_keys(&node->node);
    result.value_bytes = hs_node_value_bytes(&node->node);
    *out = result;
    return HS_OK;
}
