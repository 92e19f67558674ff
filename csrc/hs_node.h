/* hs_node: codec of tree nodes: validate, read in place, build. Pure; any thread.
 *
 *    0  u8 type (1 leaf, 2 inner) | u8 version = 1 | u8 level (0 for leaves) | u8 0 | u16 count | u16 prefix_size
 *    8  u16 key_end[count]       where suffix i ends, from the start of the suffixes
 *       leaf only: {u8 kind, u8 form}[count]    form: inline size 0..64, or 255: hashed
 *       prefix | suffixes
 *       leaf: values in order: inline bytes, or {u64 size, BLAKE3[32]}       inner: BLAKE3[32] of each child
 *  end  u64 keys | u64 value_bytes        totals below this node
 *
 * Little-endian. Invariants of a node, each checked by hs_node_open: one encoding for a given content; keys strictly
 * ascending by bytes; prefix is the longest common one of the node's keys (the whole key when there is one, empty
 * when there is none); inline if and only if size <= HS_INLINE_MAX; a leaf's totals are the sums of its entries; the
 * keys before the last one sum to less than HS_NODE_KEY_BYTES_MAX. An inner entry's key is the last key of its child.
 * Key material first, hashes last: a changed value touches only the tail.
 *
 * Who may call it: the cache and the tree. docs/FORMAT.md has a worked example. */
#ifndef HS_NODE_H
#define HS_NODE_H
#include "hs_base.h"

#define HS_KEY_MAX        1024u
#define HS_INLINE_MAX     64u
#define HS_NODE_COUNT_MAX 256u /* entries */
#define HS_NODE_KEY_BYTES_MAX                                                                                \
    32768u /* a node ends with the entry whose key brings the sum of its keys' sizes here */
#define HS_NODE_SIZE_MAX    65536u /* no canonical node is larger */
#define HS_LEVEL_MAX        24u
#define HS_VALUE_SIZE_MAX   (UINT64_C(1) << 32)
#define HS_NODE_KEYS_MAX    (UINT64_MAX >> 1) /* below a node, as it says */
#define HS_NODE_HEAD_SIZE   8u
#define HS_NODE_TOTALS_SIZE 16u
#define HS_NODE_FORM_HASHED 255u
#define HS_NODE_HASHED_SIZE 40u /* u64 size, BLAKE3[32] */
enum hs_node_type { HS_NODE_LEAF = 1, HS_NODE_INNER = 2 };
enum hs_value_kind {
    HS_KIND_FILE = 0,
    HS_KIND_EXECUTABLE = 1,
    HS_KIND_SYMLINK = 2,
    HS_KIND_DIRECTORY = 3,
    HS_KIND_SNAPSHOT = 4,
    HS_KIND_COUNT = 5
};

/* A leaf entry's value. */
typedef struct hs_value {
    uint8_t kind;
    bool hashed;   /* bytes: the 32-byte id; else the value itself */
    uint64_t size; /* of the value, bytes */
    const uint8_t *bytes;
} hs_value;

/* A validated node in place: offsets from the first byte. */
typedef struct hs_node {
    const uint8_t *bytes;
    uint32_t size;
    uint16_t count, prefix_size;
    uint16_t suffixes, values; /* where the suffixes start; where the values or child ids start */
    uint8_t type, level;
} hs_node;

/* A key in two pieces, as it stands in a node; a whole key is a suffix without prefix. */
typedef struct hs_key {
    const uint8_t *prefix, *suffix;
    uint32_t prefix_size, suffix_size;
} hs_key;

/* May a node with so many entries say that so many keys are below it? */
static inline bool hs_node_keys_fit(unsigned count, uint64_t keys) {
    return keys >= count && keys <= HS_NODE_KEYS_MAX;
}

/* Validate canonical form; no byte outside [bytes, bytes + size) is read. HS_OK or HS_CORRUPT. */
int hs_node_open(const uint8_t *bytes, size_t size, hs_node *out);

/* First entry whose key is not below `key`; *found: it is equal. The key must be readable for key_size bytes only. */
unsigned hs_node_find(const hs_node *node, const uint8_t *key, size_t key_size, bool *found);
/* The offset of a leaf entry's value. */
unsigned hs_node_value_offset(const hs_node *node, unsigned index);
/* The value at an offset, whose entry is `index`. */
void hs_node_value_at(const hs_node *node, unsigned index, unsigned offset, hs_value *out);

static inline uint32_t hs_key_size(const hs_key *key) { return key->prefix_size + key->suffix_size; }
/* Copy the key to out (HS_KEY_MAX bytes) in one piece. */
static inline void hs_key_copy(const hs_key *key, uint8_t *out) {
    memcpy(out, key->prefix, key->prefix_size);
    memcpy(out + key->prefix_size, key->suffix, key->suffix_size);
}
/* Order by bytes: below 0, 0, above 0. */
int hs_key_compare(const hs_key *a, const uint8_t *b, size_t b_size);
int hs_bytes_compare(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size);

static inline unsigned hs_node_key_end(const hs_node *node, unsigned index) {
    return hs_load_u16(node->bytes + HS_NODE_HEAD_SIZE + 2 * index);
}
static inline hs_key hs_node_key(const hs_node *node, unsigned index) {
    unsigned start = index ? hs_node_key_end(node, index - 1) : 0;
    const uint8_t *suffixes = node->bytes + node->suffixes;
    return (hs_key){suffixes - node->prefix_size, suffixes + start, node->prefix_size,
                    hs_node_key_end(node, index) - start};
}
/* Where a leaf's {kind, form} of an entry stands. */
static inline unsigned hs_node_form_offset(const hs_node *node, unsigned index) {
    return HS_NODE_HEAD_SIZE + 2u * node->count + 2u * index;
}
/* What a value takes in a leaf whose form byte this is. */
static inline unsigned hs_node_form_size(uint8_t form) {
    return form == HS_NODE_FORM_HASHED ? HS_NODE_HASHED_SIZE : form;
}
static inline uint8_t hs_value_form(const hs_value *value) {
    return value->hashed ? HS_NODE_FORM_HASHED : (uint8_t)value->size;
}
static inline const uint8_t *hs_node_child_id(const hs_node *node, unsigned index) {
    return node->bytes + node->values + 32u * index;
}
static inline uint64_t hs_node_keys(const hs_node *node) {
    return hs_load_u64(node->bytes + node->size - 16);
}
static inline uint64_t hs_node_value_bytes(const hs_node *node) {
    return hs_load_u64(node->bytes + node->size - 8);
}
/* Kind, size and bytes are equal. */
bool hs_value_equal(const hs_value *a, const hs_value *b);
/* Write a value's stored bytes; returns how many. */
unsigned hs_value_store(uint8_t *out, const hs_value *value);

/* One entry of a node to be built: of a leaf, key and value; of an inner node, key and id. */
typedef struct hs_node_entry {
    hs_key key;
    union {
        hs_value value;
        const uint8_t *id;
    };
} hs_node_entry;

/* Build a node of entries that are in order and within the limits, `stride` bytes apart. `out` has HS_NODE_SIZE_MAX
 * bytes. For level 0 the totals are summed up and the arguments ignored. Fills *node, which points to out. */
void hs_node_build(unsigned level, const hs_node_entry *entries, size_t stride, unsigned count, uint64_t keys,
                   uint64_t value_bytes, uint8_t *out, hs_node *node);
#endif
