/* test_randomness.c - random bytes look random, text and short values do not, and nothing beyond a value is looked at. */
#include "helios_shm.h"
#include "hs_blake3.h"
#include "hs_test.h"

static void random_bytes_look_random_at_every_size(void) {
    int random = 0, all = 0;
    for (size_t size = 256; size <= 65536; size += 487, all++) {
        uint8_t *bytes = malloc(size), seed[32] = {0};
        REQUIRE(bytes);
        for (size_t at = 0; at < size; at++) {
            if (at % 32 == 0) hs_blake3((const uint8_t *)&at, sizeof at, seed);
            bytes[at] = seed[at % 32];
        }
        random += hs_looks_random(bytes, size);
        free(bytes);
    }
    CHECK(random >= all * 9 / 10); /* 49 of 64 lie four deviations below the mean */
}

static void text_and_what_is_short_do_not(void) {
    static const char text[] =
        "Whatever is written in some language has few letters, and they come back again and again. ";
    uint8_t bytes[8192];
    for (size_t at = 0; at < sizeof bytes; at++) bytes[at] = (uint8_t)text[at % (sizeof text - 1)];
    for (size_t size = 0; size <= sizeof bytes; size += 61) {
        uint8_t *exact = malloc(size ? size : 1); /* the sanitizer sees a read beyond it */
        REQUIRE(exact);
        memcpy(exact, bytes, size);
        CHECK_EQ_INT(hs_looks_random(exact, size), 0);
        free(exact);
    }
    for (size_t at = 0; at < 63; at++) bytes[at] = (uint8_t)(at * 37);
    CHECK_EQ_INT(hs_looks_random(bytes, 63), 0);
    CHECK_EQ_INT(hs_looks_random(NULL, 0), 0);
}

int main(void) {
    RUN(random_bytes_look_random_at_every_size);
    RUN(text_and_what_is_short_do_not);
    return hs_test_report();
}
