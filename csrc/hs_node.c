/* hs_node: see hs_node.h. */
#include "hs_node.h"
#include "helios_shm.h"

/* --- keys --- */

int hs_bytes_compare(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size) {
    size_t common = a_size < b_size ? a_size : b_size;
    int order = common ? memcmp(a, b, common) : 0;
    if (order) return order;
    return (a_size > b_size) - (a_size < b_size);
}

int hs_key_compare(const hs_key *a, const uint8_t *b, size_t b_size) {
    if (b_size <= a->prefix_size) {
        int order = hs_bytes_compare(a->prefix, a->prefix_size, b, b_size);
        return order ? order : (a->suffix_size > 0);
    }
    int order = a->prefix_size ? memcmp(a->prefix, b, a->prefix_size) : 0;
    if (order) return order;
    return hs_bytes_compare(a->suffix, a->suffix_size, b + a->prefix_size, b_size - a->prefix_size);
}

/* The first 8 of `size` bytes as a big-endian number, zeros after them; 8 bytes must be readable. */
static inline uint64_t word_of(const uint8_t *p, size_t size) {
    uint64_t word = __builtin_bswap64(hs_load_u64(p));
    if (HS_LIKELY(size >= 8)) return word;
    return size ? word & (~UINT64_C(0) << (64 - 8 * size)) : 0;
}

/* The same of what remains of a key from `at` on, reading the key's own bytes only. */
static inline uint64_t word_of_rest(const uint8_t *key, size_t key_size, size_t at) {
    size_t rest = key_size - at;
    if (rest >= 8) return __builtin_bswap64(hs_load_u64(key + at));
    if (rest == 0) return 0;
    if (key_size >= 8) return __builtin_bswap64(hs_load_u64(key + key_size - 8)) << (64 - 8 * rest);
    uint64_t word = 0;
    for (size_t i = 0; i < rest; i++) word |= (uint64_t)key[at + i] << (56 - 8 * i);
    return word;
}

/* Is suffix i below the rest of the key, whose first word is `word`? The suffixes are followed by at least 16 bytes of
 * the node, so that a word can always be read. */
static inline bool suffix_is_below(const hs_node *node, const uint8_t *suffixes, unsigned i, uint64_t word,
                                   const uint8_t *rest, size_t rest_size) {
    unsigned start = i ? hs_node_key_end(node, i - 1) : 0;
    unsigned size = hs_node_key_end(node, i) - start;
    uint64_t mine = word_of(suffixes + start, size);
    if (HS_LIKELY(mine != word)) return mine < word;
    return hs_bytes_compare(suffixes + start, size, rest, rest_size) < 0;
}

unsigned hs_node_find(const hs_node *node, const uint8_t *key, size_t key_size, bool *found) {
    const uint8_t *suffixes = node->bytes + node->suffixes;
    size_t prefix = node->prefix_size;
    *found = false;
    if (prefix) {
        size_t common = key_size < prefix ? key_size : prefix;
        int order = memcmp(key, suffixes - prefix, common);
        if (order) return order < 0 ? 0 : node->count;
        if (key_size < prefix) return 0;
    }
    const uint8_t *rest = key + prefix;
    size_t rest_size = key_size - prefix;
    uint64_t word = word_of_rest(key, key_size, prefix);
    unsigned low = 0, left = node->count;
    while (left > 0) {
        unsigned half = left / 2;
        bool below = suffix_is_below(node, suffixes, low + half, word, rest, rest_size);
        low = below ? low + half + 1 : low;
        left = below ? left - half - 1 : half;
    }
    if (low < node->count) {
        hs_key at = hs_node_key(node, low);
        *found = at.suffix_size == rest_size && memcmp(at.suffix, rest, rest_size) == 0;
    }
    return low;
}

/* --- values --- */

unsigned hs_node_value_offset(const hs_node *node, unsigned index) {
    const uint8_t *form = node->bytes + hs_node_form_offset(node, 0) + 1;
    unsigned offset = node->values;
    for (unsigned i = 0; i < index; i++) offset += hs_node_form_size(form[2 * i]);
    return offset;
}

void hs_node_value_at(const hs_node *node, unsigned index, unsigned offset, hs_value *out) {
    const uint8_t *form = node->bytes + hs_node_form_offset(node, index), *bytes = node->bytes + offset;
    out->kind = form[0];
    out->hashed = form[1] == HS_NODE_FORM_HASHED;
    out->size = out->hashed ? hs_load_u64(bytes) : form[1];
    out->bytes = out->hashed ? bytes + 8 : bytes;
}

bool hs_value_equal(const hs_value *a, const hs_value *b) {
    if (a->kind != b->kind || a->hashed != b->hashed || a->size != b->size) return false;
    size_t size = a->hashed ? 32 : (size_t)a->size;
    return size == 0 || memcmp(a->bytes, b->bytes, size) == 0;
}

unsigned hs_value_store(uint8_t *out, const hs_value *value) {
    if (!value->hashed) {
        if (value->size) memcpy(out, value->bytes, (size_t)value->size);
        return (unsigned)value->size;
    }
    hs_store_u64(out, value->size);
    memcpy(out + 8, value->bytes, 32);
    return HS_NODE_HASHED_SIZE;
}

/* --- validation: each step trusts only what the steps before it have checked --- */

static bool head_is_valid(const uint8_t *bytes, size_t size, hs_node *node) {
    if (size < HS_NODE_HEAD_SIZE + HS_NODE_TOTALS_SIZE || size > HS_NODE_SIZE_MAX) return false;
    node->bytes = bytes;
    node->size = (uint32_t)size;
    node->type = bytes[0];
    node->level = bytes[2];
    node->count = hs_load_u16(bytes + 4);
    node->prefix_size = hs_load_u16(bytes + 6);
    bool leaf = node->type == HS_NODE_LEAF;
    if ((!leaf && node->type != HS_NODE_INNER) || bytes[1] != 1 || bytes[3] != 0) return false;
    if (leaf ? node->level != 0 : node->level == 0 || node->level >= HS_LEVEL_MAX) return false;
    if (node->count > HS_NODE_COUNT_MAX || node->prefix_size > HS_KEY_MAX) return false;
    if (node->count == 0 && (!leaf || node->prefix_size != 0)) return false;
    return true;
}

/* Suffix ends do not fall, keys have 1..HS_KEY_MAX bytes, and all of it lies before the totals. */
static bool key_table_is_valid(hs_node *node) {
    size_t room = node->size - HS_NODE_TOTALS_SIZE;
    size_t prefix_at = HS_NODE_HEAD_SIZE + (node->type == HS_NODE_LEAF ? 4u : 2u) * (size_t)node->count;
    if (prefix_at + node->prefix_size > room) return false;
    node->suffixes = (uint16_t)(prefix_at + node->prefix_size);
    unsigned end = 0, key_bytes = 0;
    for (unsigned i = 0; i < node->count; i++) {
        unsigned next = hs_node_key_end(node, i);
        if (next < end || key_bytes >= HS_NODE_KEY_BYTES_MAX) return false;
        unsigned key_size = node->prefix_size + next - end;
        if (key_size == 0 || key_size > HS_KEY_MAX) return false;
        key_bytes += key_size;
        end = next;
    }
    if (node->suffixes + (size_t)end > room) return false;
    node->values = (uint16_t)(node->suffixes + end);
    return true;
}

static bool keys_are_in_order(const hs_node *node) {
    if (node->count == 0) return true;
    hs_key first = hs_node_key(node, 0), last = first;
    if (node->count == 1) return first.suffix_size == 0;
    for (unsigned i = 1; i < node->count; i++) {
        hs_key key = hs_node_key(node, i);
        if (hs_bytes_compare(last.suffix, last.suffix_size, key.suffix, key.suffix_size) >= 0) return false;
        last = key;
    }
    return first.suffix_size == 0 || first.suffix[0] != last.suffix[0];
}

static bool leaf_values_are_valid(const hs_node *node) {
    size_t at = node->values, end = node->size - HS_NODE_TOTALS_SIZE;
    const uint8_t *form = node->bytes + hs_node_form_offset(node, 0);
    uint64_t total = 0;
    for (unsigned i = 0; i < node->count; i++, form += 2) {
        if (form[0] >= HS_KIND_COUNT) return false;
        if (form[1] > HS_INLINE_MAX && form[1] != HS_NODE_FORM_HASHED) return false;
        size_t stored = hs_node_form_size(form[1]);
        if (stored > end - at) return false;
        uint64_t size = form[1];
        if (form[1] == HS_NODE_FORM_HASHED) {
            size = hs_load_u64(node->bytes + at);
            if (size <= HS_INLINE_MAX || size > HS_VALUE_SIZE_MAX) return false;
        }
        total += size;
        at += stored;
    }
    return at == end && hs_node_keys(node) == node->count && hs_node_value_bytes(node) == total;
}

int hs_node_open(const uint8_t *bytes, size_t size, hs_node *out) {
    hs_node node = {0};
    if (!head_is_valid(bytes, size, &node) || !key_table_is_valid(&node) || !keys_are_in_order(&node))
        return HS_CORRUPT;
    if (node.type == HS_NODE_LEAF) {
        if (!leaf_values_are_valid(&node)) return HS_CORRUPT;
    } else {
        size_t ids = node.size - HS_NODE_TOTALS_SIZE - node.values;
        if (ids != 32u * (size_t)node.count || !hs_node_keys_fit(node.count, hs_node_keys(&node)))
            return HS_CORRUPT;
    }
    *out = node;
    return HS_OK;
}

int hs_node_validate(const uint8_t *bytes, size_t size) {
    hs_node node;
    return hs_node_open(bytes, size, &node);
}

/* --- building --- */

static inline const hs_node_entry *entry_at(const hs_node_entry *entries, size_t stride, unsigned i) {
    return (const hs_node_entry *)(const void *)((const uint8_t *)entries + stride * i);
}

static inline uint8_t key_byte(const hs_key *key, uint32_t i) {
    return i < key->prefix_size ? key->prefix[i] : key->suffix[i - key->prefix_size];
}

static uint32_t common_prefix_size(const hs_key *a, const hs_key *b) {
    uint32_t a_size = hs_key_size(a), b_size = hs_key_size(b);
    uint32_t most = a_size < b_size ? a_size : b_size, size = 0;
    if (a->prefix == b->prefix) size = a->prefix_size < b->prefix_size ? a->prefix_size : b->prefix_size;
    while (size < most && key_byte(a, size) == key_byte(b, size)) size++;
    return size;
}

/* Write bytes [from, to) of a key. */
static uint8_t *write_key(uint8_t *out, const hs_key *key, uint32_t from, uint32_t to) {
    if (from < key->prefix_size) {
        uint32_t end = to < key->prefix_size ? to : key->prefix_size;
        memcpy(out, key->prefix + from, end - from);
        out += end - from;
        from = end;
    }
    if (from < to) memcpy(out, key->suffix + (from - key->prefix_size), to - from);
    return out + (to - from);
}

/* Head, table and key material; returns the offset of the values. */
static unsigned write_keys(unsigned level, const hs_node_entry *entries, size_t stride, unsigned count,
                           uint8_t *out) {
    uint32_t prefix = 0;
    unsigned table = level == 0 ? 4u * count : 2u * count;
    uint8_t *at = out + HS_NODE_HEAD_SIZE + table, *suffixes;
    if (count) {
        const hs_key *first = &entry_at(entries, stride, 0)->key;
        prefix = common_prefix_size(first, &entry_at(entries, stride, count - 1)->key);
        at = write_key(at, first, 0, prefix);
    }
    out[0] = level == 0 ? HS_NODE_LEAF : HS_NODE_INNER;
    out[1] = 1;
    out[2] = (uint8_t)level;
    out[3] = 0;
    hs_store_u16(out + 4, (uint16_t)count);
    hs_store_u16(out + 6, (uint16_t)prefix);
    suffixes = at;
    for (unsigned i = 0; i < count; i++) {
        const hs_key *key = &entry_at(entries, stride, i)->key;
        at = write_key(at, key, prefix, hs_key_size(key));
        hs_store_u16(out + HS_NODE_HEAD_SIZE + 2 * i, (uint16_t)(at - suffixes));
    }
    return (unsigned)(at - out);
}

void hs_node_build(unsigned level, const hs_node_entry *entries, size_t stride, unsigned count, uint64_t keys,
                   uint64_t value_bytes, uint8_t *out, hs_node *node) {
    unsigned values = write_keys(level, entries, stride, count, out);
    uint8_t *at = out + values;
    if (level == 0) {
        uint8_t *form = out + HS_NODE_HEAD_SIZE + 2 * count;
        keys = count;
        value_bytes = 0;
        for (unsigned i = 0; i < count; i++, form += 2) {
            const hs_value *value = &entry_at(entries, stride, i)->value;
            form[0] = value->kind;
            form[1] = hs_value_form(value);
            at += hs_value_store(at, value);
            value_bytes += value->size;
        }
    } else {
        for (unsigned i = 0; i < count; i++, at += 32) memcpy(at, entry_at(entries, stride, i)->id, 32);
    }
    hs_store_u64(at, keys);
    hs_store_u64(at + 8, value_bytes);
    at += HS_NODE_TOTALS_SIZE;
    node->bytes = out;
    node->size = (uint32_t)(at - out);
    node->count = (uint16_t)count;
    node->prefix_size = hs_load_u16(out + 6);
    node->suffixes = (uint16_t)(HS_NODE_HEAD_SIZE + (level == 0 ? 4u : 2u) * count + node->prefix_size);
    node->values = (uint16_t)values;
    node->type = out[0];
    node->level = (uint8_t)level;
}
