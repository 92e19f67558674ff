/* Fuzz target: the node decoder. Input: {flags, a key's size, the key, a node's bytes}.
 *
 * The bytes are taken for a node as a pack or another process would hand them over. What hs_node_open accepts is read in
 * every way that there is, and built anew from what was read: a node has one encoding, so the same bytes must come out. */
#include "hs_fuzz.h"
#include "hs_node.h"

enum { FIX_HEAD = 1, FIX_TOTALS = 2, FIX_VERSION = 4 };

/* Set right what a mutation most often breaks, so that the checks behind it are reached. */
static void fix(uint8_t *bytes, size_t size, unsigned flags) {
    if (size < HS_NODE_HEAD_SIZE + HS_NODE_TOTALS_SIZE) return;
    if (flags & FIX_VERSION) bytes[1] = 1, bytes[3] = 0;
    if (flags & FIX_HEAD) {
        bytes[0] = bytes[0] % 2 ? HS_NODE_LEAF : HS_NODE_INNER;
        bytes[2] = bytes[0] == HS_NODE_LEAF ? 0 : (uint8_t)(1 + bytes[2] % (HS_LEVEL_MAX - 1));
    }
    if (flags & FIX_TOTALS) hs_store_u64(bytes + size - 16, hs_load_u16(bytes + 4));
}

/* Every entry's key is found where it stands, and keys beside it where they would go. */
static void look_up(const hs_node *node) {
    uint8_t key[HS_KEY_MAX];
    bool found;
    for (unsigned i = 0; i < node->count; i++) {
        hs_key at = hs_node_key(node, i);
        size_t size = hs_key_size(&at);
        MUST(size >= 1 && size <= HS_KEY_MAX);
        hs_key_copy(&at, key);
        MUST(hs_node_find(node, key, size, &found) == i && found);
        MUST(hs_key_compare(&at, key, size) == 0);
        MUST(hs_node_find(node, key, size - 1, &found) <= i && (!found || i > 0));
        key[size - 1]--;
        (void)hs_node_find(node, key, size, &found);
    }
}

static void build_again(const hs_node *node) {
    hs_node_entry *entries = fuzz_memory((node->count + 1u) * sizeof *entries);
    uint8_t *out = fuzz_memory(HS_NODE_SIZE_MAX);
    unsigned offset = node->values;
    for (unsigned i = 0; i < node->count; i++) {
        entries[i].key = hs_node_key(node, i);
        if (node->level) {
            entries[i].id = hs_node_child_id(node, i);
            continue;
        }
        MUST(hs_node_value_offset(node, i) == offset);
        hs_node_value_at(node, i, offset, &entries[i].value);
        offset += hs_node_form_size(hs_value_form(&entries[i].value));
    }
    hs_node built;
    hs_node_build(node->level, entries, sizeof *entries, node->count, hs_node_keys(node),
                  hs_node_value_bytes(node), out, &built);
    MUST(built.size == node->size && memcmp(out, node->bytes, node->size) == 0);
    MUST(built.values == node->values && built.suffixes == node->suffixes);
    free(entries);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    unsigned flags = (unsigned)fuzz_take(&in, 1);
    size_t key_size, node_size;
    uint8_t *key = fuzz_bytes(&in, fuzz_take(&in, 1), &key_size);
    uint8_t *bytes = fuzz_bytes(&in, in.left, &node_size);
    fix(bytes, node_size, flags);
    hs_node node;
    if (hs_node_open(bytes, node_size, &node) == HS_OK) {
        bool found;
        MUST(hs_node_find(&node, key, key_size, &found) <= node.count);
        look_up(&node);
        build_again(&node);
    }
    free(key);
    free(bytes);
    return 0;
}
