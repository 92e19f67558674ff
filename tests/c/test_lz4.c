/* test_lz4.c - what the encoder makes is what the format says: a decoder written from its description gives the bytes back. */
#include <stdlib.h>
#include "hs_lz4.h"
#include "hs_test.h"

#define SIZE_MAX_TRIED (300u << 10)

static hs_lz4_table table;
static uint8_t raw[SIZE_MAX_TRIED], stored[SIZE_MAX_TRIED], back[SIZE_MAX_TRIED];

static bool take_length(const uint8_t **at, const uint8_t *end, size_t *length) {
    if (*length < 15) return true;
    uint8_t byte;
    do {
        if (*at == end) return false;
        byte = *(*at)++;
        *length += byte;
    } while (byte == 255);
    return true;
}

/* The bytes that a block stands for, to `back`; 0: it is none. The last sequence is literals alone, five or more of them, and no match
 * begins in the last twelve bytes. */
static size_t decode(const uint8_t *at, size_t size, size_t raw_size) {
    const uint8_t *end = at + size;
    size_t made = 0;
    while (at < end) {
        uint8_t token = *at++;
        size_t literals = token >> 4, length = token & 15, offset;
        if (!take_length(&at, end, &literals) || literals > (size_t)(end - at)) return 0;
        if (literals > raw_size - made) return 0;
        memcpy(back + made, at, literals);
        made += literals;
        at += literals;
        if (at == end) return literals >= 5 ? made : 0;
        if (end - at < 2 || made + 12 > raw_size) return 0;
        offset = at[0] | (size_t)at[1] << 8;
        at += 2;
        if (!take_length(&at, end, &length)) return 0;
        length += 4;
        if (offset == 0 || offset > made || made + length + 5 > raw_size) return 0;
        for (; length > 0; length--, made++) back[made] = back[made - offset];
    }
    return 0;
}

static uint32_t random_next(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

/* Literals of `letters` kinds amid copies of what came before, from near and far. */
static void fill(uint64_t seed, size_t size, uint32_t letters, uint32_t copies) {
    for (size_t at = 0; at < size;) {
        size_t piece = random_next(&seed) % (random_next(&seed) % 16 == 0 ? 700 : 40) + 1;
        bool copy = at > 0 && random_next(&seed) % 100 < copies;
        size_t from = copy ? random_next(&seed) % at : 0;
        for (; piece > 0 && at < size; piece--, at++, from++)
            raw[at] = (uint8_t)(copy ? raw[from] : 32 + random_next(&seed) % letters);
    }
}

static size_t round_trip(size_t size, size_t capacity) {
    stored[capacity] = 0x5a;
    size_t n = hs_lz4_encode(&table, raw, size, stored, capacity);
    CHECK(n <= capacity && stored[capacity] == 0x5a);
    if (n == 0) return 0;
    memset(back, 0, size);
    CHECK_EQ_INT(decode(stored, n, size), size);
    CHECK_EQ_MEM(back, raw, size);
    return n;
}

static void what_was_encoded_decodes_to_the_same_bytes(void) {
    uint64_t seed = 7;
    for (int i = 0; i < 3000; i++) {
        size_t size = random_next(&seed) % (i % 100 == 0 ? SIZE_MAX_TRIED - 1 : 9000);
        fill((uint64_t)i, size, random_next(&seed) % 40 + 1, random_next(&seed) % 100);
        round_trip(size, size - size / 8);
    }
}

static void text_shrinks_and_one_byte_repeated_nearly_vanishes(void) {
    fill(1, 100000, 30, 90);
    CHECK(round_trip(100000, 100000) < 50000);
    memset(raw, 7, SIZE_MAX_TRIED);
    size_t n = round_trip(SIZE_MAX_TRIED - 1, SIZE_MAX_TRIED - 1);
    CHECK(n > 0 && n < 1300);
}

static void matches_beyond_the_window_are_not_used(void) {
    fill(3, 2000, 90, 0);
    memset(raw + 2000, 1, 70000);
    memcpy(raw + 72000, raw, 2000);
    CHECK(round_trip(74000, 74000) > 4000);
}

static void nothing_is_written_beyond_the_capacity(void) {
    fill(5, 8000, 30, 60);
    size_t whole = round_trip(8000, 8000);
    CHECK(whole > 100);
    for (size_t capacity = 0; capacity <= whole; capacity += capacity < whole - 60 ? 50 : 1)
        CHECK_EQ_INT(round_trip(8000, capacity), capacity < whole ? 0 : whole);
}

static void what_looks_random_is_left_alone(void) {
    uint64_t seed = 9;
    for (int i = 0; i < 100; i++) {
        for (size_t at = 0; at < 4096; at++) raw[at] = (uint8_t)random_next(&seed);
        CHECK_EQ_INT(round_trip(4096, 4096 - 512), 0);
    }
    CHECK_EQ_INT(hs_lz4_encode(&table, raw, 47, stored, 47), 0);
    CHECK_EQ_INT(hs_lz4_encode(&table, raw, HS_LZ4_RAW_MAX + 1, stored, 47), 0);
}

static void table_that_has_counted_to_its_end_begins_anew(void) {
    fill(11, 8000, 30, 60);
    size_t before = round_trip(8000, 8000);
    table.base = UINT32_MAX - 2 * HS_LZ4_RAW_MAX;
    CHECK_EQ_INT(round_trip(8000, 8000), before);
    CHECK_EQ_INT(round_trip(8000, 8000), before);
    CHECK(table.base < 20000);
    CHECK_EQ_INT(round_trip(8000, 8000), before);
}

int main(void) {
    RUN(what_was_encoded_decodes_to_the_same_bytes);
    RUN(text_shrinks_and_one_byte_repeated_nearly_vanishes);
    RUN(matches_beyond_the_window_are_not_used);
    RUN(nothing_is_written_beyond_the_capacity);
    RUN(what_looks_random_is_left_alone);
    RUN(table_that_has_counted_to_its_end_begins_anew);
    return hs_test_report();
}
