/* Edits come out in the order of their keys, whatever the keys look like and however they come in. */
#include "hs_test.h"

#include "hs_states.h"
#include "hs_tree_edits.h"

enum { EDITS_MAX = 3000, KEY_ROOM = 64 };

static hs_edit edits[EDITS_MAX], sorted[EDITS_MAX];
static uint8_t keys[EDITS_MAX][KEY_ROOM];
static hs_edit_list list;
static uint64_t seed = 88172645463325252u;

static void take_key(size_t i, const void *bytes, size_t size) {
    memcpy(keys[i], bytes, size);
    edits[i] = (hs_edit){.key = keys[i], .key_size = (uint32_t)size, .remove = true};
}

static void shuffle(size_t count) {
    for (size_t i = count; i > 1; i--) {
        size_t j = hs_random(&seed) % i;
        hs_edit swapped = edits[i - 1];
        edits[i - 1] = edits[j];
        edits[j] = swapped;
    }
}

/* Against qsort; false: there were twins, which must be refused. */
static bool check_order(size_t count) {
    bool twins = false;
    memcpy(sorted, edits, count * sizeof *edits);
    qsort(sorted, count, sizeof *sorted, hs_plain_order);
    for (size_t i = 1; i < count; i++) twins |= hs_plain_order(sorted + i - 1, sorted + i) == 0;
    CHECK_EQ_INT(hs_edits_take(&list, edits, count), twins ? HS_ARGUMENT : HS_OK);
    if (twins) return false;
    CHECK_EQ_INT(list.count, count);
    for (size_t i = 0; i < count; i++) CHECK(list.refs[i].edit->key == sorted[i].key);
    return true;
}

static void paths_with_long_common_parts(void) {
    static const char *const patterns[] = {"%05d", "a/rather/long/common/prefix/%d/and/a/tail", "%d",
                                           "%x/0123456789abcdef"};
    for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
        for (size_t count = 0; count <= EDITS_MAX; count = count * 3 + 1) {
            for (size_t i = 0; i < count; i++) {
                char path[KEY_ROOM];
                take_key(i, path, (size_t)snprintf(path, sizeof path, patterns[p], (int)(i * 7)));
            }
            CHECK(check_order(count));
            shuffle(count);
            CHECK(check_order(count));
        }
    }
}

/* Short keys over an alphabet of two bytes: prefixes of one another, zeros at their ends, and twins. */
static void keys_that_end_in_zeros_and_keys_that_come_twice(void) {
    unsigned refused = 0;
    for (unsigned round = 0; round < 4000; round++) {
        size_t count = 1 + hs_random(&seed) % 40;
        for (size_t i = 0; i < count; i++) {
            uint8_t key[KEY_ROOM];
            size_t size = 1 + hs_random(&seed) % (round % 2 ? 30 : 6);
            uint64_t bits = hs_random(&seed) & hs_random(&seed) & hs_random(&seed);
            for (size_t b = 0; b < size; b++) key[b] = (uint8_t)(bits >> b & 1);
            take_key(i, key, size);
        }
        refused += !check_order(count);
    }
    CHECK(refused > 100 && refused < 3900);
}

static void zeros_of_every_length_are_all_different(void) {
    uint8_t zeros[KEY_ROOM] = {0};
    for (size_t i = 0; i < KEY_ROOM; i++) take_key(i, zeros, i + 1);
    shuffle(KEY_ROOM);
    CHECK(check_order(KEY_ROOM));
    edits[KEY_ROOM] = edits[5];
    CHECK_EQ_INT(hs_edits_take(&list, edits, KEY_ROOM + 1), HS_ARGUMENT);
}

static void the_same_key_a_thousand_times_is_refused(void) {
    for (size_t i = 0; i < 1000; i++) take_key(i, "one and the same key", 20);
    CHECK_EQ_INT(hs_edits_take(&list, edits, 1000), HS_ARGUMENT);
}

int main(void) {
    RUN(paths_with_long_common_parts);
    RUN(keys_that_end_in_zeros_and_keys_that_come_twice);
    RUN(zeros_of_every_length_are_all_different);
    RUN(the_same_key_a_thousand_times_is_refused);
    hs_edits_free(&list);
    return hs_test_report();
}
