/* The node codec: golden bytes read and built back, and every other string of bytes refused. */
#include "hs_test.h"

#include "helios_shm.h"
#include "hs_blake3.h"
#include "hs_node.h"

static char line[200000];
static uint8_t golden[HS_NODE_SIZE_MAX], golden_id[32];

static size_t unhex(const char *hex, uint8_t *out) {
    size_t size = 0;
    unsigned byte;
    while (sscanf(hex + 2 * size, "%2x", &byte) == 1) out[size++] = (uint8_t)byte;
    return size;
}

/* Size of the golden node of that name; 0 if there is none. */
static size_t golden_find(const char *name) {
    FILE *file = fopen("tests/golden/nodes_v1.txt", "r");
    REQUIRE(file);
    size_t size = 0, length = strlen(name);
    while (size == 0 && fgets(line, sizeof line, file)) {
        if (strncmp(line, name, length) != 0 || line[length] != ' ') continue;
        line[length + 65] = 0;
        unhex(line + length + 1, golden_id);
        size = unhex(line + length + 66, golden);
    }
    fclose(file);
    return size;
}

static const char *const names[] = {"empty",    "example", "one",          "long",
                                    "prefixes", "inner",   "inner_of_one", "level_23"};
#define NAMES (sizeof names / sizeof *names)

static void golden_nodes_are_valid_and_built_back(void) {
    for (size_t n = 0; n < NAMES; n++) {
        size_t size = golden_find(names[n]);
        hs_node node, built;
        hs_node_entry entries[HS_NODE_COUNT_MAX];
        uint8_t id[32];
        static uint8_t out[HS_NODE_SIZE_MAX];
        REQUIRE(hs_node_open(golden, size, &node) == HS_OK);
        hs_blake3(golden, size, id);
        CHECK_EQ_MEM(id, golden_id, 32);
        for (unsigned i = 0, at = node.values; i < node.count; i++) {
            entries[i].key = hs_node_key(&node, i);
            if (node.level) {
                entries[i].id = hs_node_child_id(&node, i);
                continue;
            }
            hs_node_value_at(&node, i, at, &entries[i].value);
            CHECK_EQ_INT(hs_node_value_offset(&node, i), at);
            at += hs_node_form_size(hs_value_form(&entries[i].value));
        }
        hs_node_build(node.level, entries, sizeof *entries, node.count, hs_node_keys(&node),
                      hs_node_value_bytes(&node), out, &built);
        CHECK_EQ_INT(built.size, size);
        CHECK_EQ_MEM(out, golden, size);
        CHECK_EQ_INT(built.values, node.values);
        CHECK_EQ_INT(built.suffixes, node.suffixes);
    }
}

static void each_key_is_found_and_its_neighbours_are_not(void) {
    for (size_t n = 0; n < NAMES; n++) {
        size_t size = golden_find(names[n]);
        hs_node node;
        REQUIRE(hs_node_open(golden, size, &node) == HS_OK);
        for (unsigned i = 0; i < node.count; i++) {
            hs_key key = hs_node_key(&node, i);
            size_t key_size = hs_key_size(&key);
            /* Exactly as large as the key: a byte read too far is the sanitizer's. */
            uint8_t *bytes = malloc(key_size + 1);
            bool found;
            hs_key_copy(&key, bytes);
            CHECK_EQ_INT(hs_node_find(&node, bytes, key_size, &found), i);
            CHECK(found);
            bytes[key_size] = 0;
            CHECK_EQ_INT(hs_node_find(&node, bytes, key_size + 1, &found), i + 1);
            CHECK(!found);
            uint8_t *shorter = malloc(key_size);
            memcpy(shorter, bytes, key_size - 1);
            unsigned at = hs_node_find(&node, shorter, key_size - 1, &found);
            CHECK(found ? at < i : at <= i);
            free(shorter);
            free(bytes);
        }
    }
}

/* Whatever is valid has one encoding, so a valid neighbour of a valid node must build back to itself. */
static bool builds_back(const uint8_t *bytes, size_t size) {
    hs_node node, built;
    static hs_node_entry entries[HS_NODE_COUNT_MAX];
    static uint8_t out[HS_NODE_SIZE_MAX];
    if (hs_node_open(bytes, size, &node) != HS_OK) return true;
    for (unsigned i = 0; i < node.count; i++) {
        entries[i].key = hs_node_key(&node, i);
        if (node.level)
            entries[i].id = hs_node_child_id(&node, i);
        else
            hs_node_value_at(&node, i, hs_node_value_offset(&node, i), &entries[i].value);
    }
    hs_node_build(node.level, entries, sizeof *entries, node.count, hs_node_keys(&node),
                  hs_node_value_bytes(&node), out, &built);
    return built.size == size && memcmp(out, bytes, size) == 0;
}

static void every_changed_byte_is_refused_or_canonical(void) {
    for (size_t n = 0; n < NAMES; n++) {
        size_t size = golden_find(names[n]);
        uint8_t *bytes = malloc(size);
        for (size_t at = 0; at < size && at < 1200; at++) {
            for (unsigned flip = 1; flip < 256; flip++) {
                memcpy(bytes, golden, size);
                bytes[at] ^= (uint8_t)flip;
                CHECK(builds_back(bytes, size));
            }
        }
        free(bytes);
    }
}

static void every_other_size_is_refused(void) {
    for (size_t n = 0; n < NAMES; n++) {
        size_t size = golden_find(names[n]);
        hs_node node;
        for (size_t cut = 0; cut < size; cut++) {
            uint8_t *bytes = malloc(cut ? cut : 1);
            memcpy(bytes, golden, cut);
            CHECK_EQ_INT(hs_node_open(bytes, cut, &node), HS_CORRUPT);
            free(bytes);
        }
        golden[size] = 0;
        CHECK_EQ_INT(hs_node_open(golden, size + 1, &node), HS_CORRUPT);
    }
}

/* golden "example": 3 entries, keys app/a app/b app/cc; docs/FORMAT.md shows its bytes. */
static void refuses(size_t at, uint8_t byte) {
    hs_node node;
    size_t size = golden_find("example");
    CHECK(golden[at] != byte);
    golden[at] = byte;
    CHECK_EQ_INT(hs_node_open(golden, size, &node), HS_CORRUPT);
}

static void what_breaks_a_rule_is_refused(void) {
    refuses(0, 3);    /* type */
    refuses(1, 2);    /* version */
    refuses(2, 1);    /* a leaf of level 1 */
    refuses(3, 1);    /* reserved */
    refuses(6, 3);    /* a shorter prefix than the longest common one */
    refuses(8, 3);    /* suffix ends out of order */
    refuses(14, 5);   /* kind */
    refuses(15, 65);  /* form */
    refuses(24, 'c'); /* keys out of order: c b cc */
    refuses(25, 'a'); /* a key twice */
    size_t size = golden_find("example");
    refuses(size - 16, 4); /* number of keys */
    refuses(size - 8, 1);  /* value bytes */
}

static void value_of_inline_size_may_not_be_hashed(void) {
    size_t size = golden_find("example");
    hs_node node;
    REQUIRE(hs_node_open(golden, size, &node) == HS_OK);
    unsigned at = hs_node_value_offset(&node, 2);
    CHECK_EQ_INT(hs_load_u64(golden + at), 65);
    hs_store_u64(golden + at, 64);
    hs_store_u64(golden + size - 8, hs_node_value_bytes(&node) - 1);
    CHECK_EQ_INT(hs_node_open(golden, size, &node), HS_CORRUPT);
    hs_store_u64(golden + at, HS_VALUE_SIZE_MAX + 1);
    hs_store_u64(golden + size - 8, 2 + HS_VALUE_SIZE_MAX + 1);
    CHECK_EQ_INT(hs_node_open(golden, size, &node), HS_CORRUPT);
}

/* No sum of keys may overflow, nor be more than Python's len() can say. */
static void inner_node_says_a_possible_number_of_keys(void) {
    static const struct {
        uint64_t keys;
        int status;
    } cases[] = {{1, HS_CORRUPT}, {2, HS_OK}, {HS_NODE_KEYS_MAX, HS_OK}, {HS_NODE_KEYS_MAX + 1, HS_CORRUPT}};
    size_t size = golden_find("inner");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        hs_node node;
        hs_store_u64(golden + size - 16, cases[i].keys);
        CHECK_EQ_INT(hs_node_open(golden, size, &node), cases[i].status);
    }
}

static void keys_are_ordered_by_bytes(void) {
    static const struct {
        const char *prefix, *suffix, *other;
        int order;
    } cases[] = {
        {"ab", "c", "abc", 0}, {"ab", "c", "abd", -1}, {"ab", "c", "ab", 1},
        {"ab", "", "ab", 0},   {"ab", "c", "a", 1},    {"ab", "c", "ac", -1},
        {"", "c", "b", 1},     {"", "", "a", -1},      {"b", "", "", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        hs_key key = {(const uint8_t *)cases[i].prefix, (const uint8_t *)cases[i].suffix,
                      (uint32_t)strlen(cases[i].prefix), (uint32_t)strlen(cases[i].suffix)};
        int order = hs_key_compare(&key, (const uint8_t *)cases[i].other, strlen(cases[i].other));
        CHECK_EQ_INT((order > 0) - (order < 0), cases[i].order);
    }
}

int main(void) {
    RUN(golden_nodes_are_valid_and_built_back);
    RUN(each_key_is_found_and_its_neighbours_are_not);
    RUN(every_changed_byte_is_refused_or_canonical);
    RUN(every_other_size_is_refused);
    RUN(what_breaks_a_rule_is_refused);
    RUN(value_of_inline_size_may_not_be_hashed);
    RUN(inner_node_says_a_possible_number_of_keys);
    RUN(keys_are_ordered_by_bytes);
    return hs_test_report();
}
