/*
 * The entry sum and the key hash: what each must notice, and that neither reads or writes beside its bytes.
 */
#include "hs_checksum.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hs_test.h"

static const uint64_t seed[2] = {UINT64_C(0x0123456789ABCDEF), UINT64_C(0xFEDCBA9876543210)};

static uint8_t data[4096];

static void fill(void) {
    uint64_t z = 1;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)((z = z * UINT64_C(6364136223846793005) + 1) >> 56);
}

static int compare(const void *a, const void *b) {
    uint64_t x = hs_load_u64(a), y = hs_load_u64(b);
    return x < y ? -1 : x > y;
}

static size_t duplicates(uint64_t *values, size_t count) {
    size_t found = 0;
    qsort(values, count, sizeof *values, compare);
    for (size_t i = 1; i < count; i++) found += values[i] == values[i - 1];
    return found;
}

static void copy_gives_the_same_sum_and_exactly_the_bytes(void) {
    fill();
    for (size_t size = 0; size <= 700; size++) {
        for (size_t shift = 0; shift < 8; shift += 3) {
            uint8_t *src = malloc(size + 1), *dst = malloc(size + 16);
            REQUIRE(src && dst);
            src = realloc(src, size ? size : 1);
            REQUIRE(src);
            memcpy(src, data + shift, size);
            memset(dst, 0xA5, size + 16);
            uint64_t copied = hs_checksum_copy(seed, dst + shift, src, size);
            CHECK_EQ_INT(copied, hs_checksum(seed, src, size));
            CHECK_EQ_INT(copied, hs_checksum(seed, data + shift, size));
            CHECK_EQ_MEM(dst + shift, src, size);
            for (size_t i = 0; i < shift; i++) CHECK_EQ_INT(dst[i], 0xA5);
            for (size_t i = shift + size; i < size + 16; i++) CHECK_EQ_INT(dst[i], 0xA5);
            free(src);
            free(dst);
        }
    }
}

static void sum_of_a_header_is_the_sum_of_its_bytes(void) {
    uint64_t seed[2] = {3, 5};
    uint8_t data[64];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 37 + 11);
    for (size_t shift = 0; shift < 16; shift++) {
        seed[0] += shift;
        CHECK(hs_checksum_48(seed, data + shift) == hs_checksum(seed, data + shift, 48));
    }
}

static void sum_of_nothing_needs_no_memory(void) {
    CHECK_EQ_INT(hs_checksum(seed, NULL, 0), hs_checksum_copy(seed, NULL, NULL, 0));
    CHECK(hs_checksum(seed, NULL, 0) != 0);
}

static void every_single_bit_counts(void) {
    fill();
    for (size_t size = 1; size <= 200; size++) {
        uint64_t honest = hs_checksum(seed, data, size);
        for (size_t bit = 0; bit < 8 * size; bit++) {
            data[bit / 8] ^= (uint8_t)(1u << bit % 8);
            CHECK(hs_checksum(seed, data, size) != honest);
            data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    }
}

static void zeros_of_different_lengths_have_different_sums(void) {
    static uint64_t sums[1025];
    memset(data, 0, sizeof data);
    for (size_t size = 0; size <= 1024; size++) sums[size] = hs_checksum(seed, data, size);
    CHECK_EQ_INT(duplicates(sums, 1025), 0);
}

static void both_halves_of_the_seed_count(void) {
    fill();
    for (size_t size = 0; size <= 130; size += 13)
        for (int half = 0; half < 2; half++)
            for (int bit = 0; bit < 64; bit++) {
                uint64_t other[2] = {seed[0], seed[1]};
                other[half] ^= UINT64_C(1) << bit;
                CHECK(hs_checksum(other, data, size) != hs_checksum(seed, data, size));
            }
}

static void words_that_change_places_change_the_sum(void) {
    fill();
    uint64_t honest = hs_checksum(seed, data, 512);
    for (size_t a = 0; a < 512; a += 8)
        for (size_t b = a + 8; b < 512; b += 8) {
            uint64_t x = hs_load_u64(data + a), y = hs_load_u64(data + b);
            hs_store_u64(data + a, y);
            hs_store_u64(data + b, x);
            CHECK(hs_checksum(seed, data, 512) != honest);
            hs_store_u64(data + a, x);
            hs_store_u64(data + b, y);
        }
}

/* A word equal to its accumulator's key makes the product zero; a change before it must show all the same. */
static void a_zero_product_does_not_forget_what_came_before(void) {
    static const uint64_t pi[4] = {UINT64_C(0x243F6A8885A308D3), UINT64_C(0x13198A2E03707344),
                                   UINT64_C(0xA4093822299F31D0), UINT64_C(0x082EFA98EC4E6C89)};
    fill();
    for (size_t i = 0; i < 4; i++) hs_store_u64(data + 64 + 16 * i, seed[1] ^ pi[i]);
    uint64_t honest = hs_checksum(seed, data, 128);
    for (size_t bit = 0; bit < 8 * 64; bit++) {
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(hs_checksum(seed, data, 128) != honest);
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

/* Until it is killed, or its parent ends. */
static _Noreturn void scribble(uint8_t *shared, size_t size) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint64_t n = 0;; n++) *(volatile uint8_t *)(shared + n % size) = (uint8_t)(n >> 7);
}

/* Story: a writer that is wrongly thought dead writes into what is being copied out. */
static void sum_is_of_what_was_copied_while_another_process_writes(void) {
    enum { SIZE = 1000, CHANGES = 5000 };
    uint8_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint8_t copy[SIZE];
    REQUIRE(shared != MAP_FAILED);
    pid_t writer = fork();
    REQUIRE(writer >= 0);
    if (writer == 0) scribble(shared, SIZE);
    uint64_t before = 0;
    for (int changes = 0; changes < CHANGES;) {
        uint64_t sum = hs_checksum_copy(seed, copy, shared, SIZE);
        CHECK_EQ_INT(sum, hs_checksum(seed, copy, SIZE));
        if (sum != before)
            changes++;
        else
            sched_yield();
        before = sum;
    }
    kill(writer, SIGKILL);
    waitpid(writer, NULL, 0);
    munmap(shared, 4096);
}

static void key_hash_gives_the_golden_values(void) {
    char path[4096], line[4096], hex[2049];
    const char *slash = strrchr(__FILE__, '/');
    snprintf(path, sizeof path, "%.*s/../golden/key_hash_vectors.txt", slash ? (int)(slash - __FILE__) : 1,
             slash ? __FILE__ : ".");
    FILE *vectors = fopen(path, "r");
    REQUIRE(vectors);
    size_t count = 0;
    while (fgets(line, sizeof line, vectors)) {
        unsigned long long want[4];
        if (line[0] == '#') continue;
        REQUIRE(sscanf(line, "%2048s %llx %llx %llx %llx", hex, &want[0], &want[1], &want[2], &want[3]) == 5);
        size_t size = strlen(hex) / 2;
        uint8_t *key = malloc(size);
        REQUIRE(key);
        for (size_t i = 0; i < size; i++) {
            unsigned byte;
            REQUIRE(sscanf(hex + 2 * i, "%2x", &byte) == 1);
            key[i] = (uint8_t)byte;
        }
        uint64_t hash = hs_key_hash(key, size);
        CHECK_EQ_INT(hash, want[0]);
        CHECK_EQ_INT(hs_key_hash_level(hash, 0), want[1]);
        CHECK_EQ_INT(hs_key_hash_level(hash, 1), want[2]);
        CHECK_EQ_INT(hs_key_hash_level(hash, 7), want[3]);
        free(key);
        count++;
    }
    fclose(vectors);
    CHECK(count >= 15);
}

static void numbered_keys_never_meet_and_spread_evenly_at_every_level(void) {
    enum { KEYS = 100000, LEVELS = 12 };
    static uint64_t hashes[KEYS], at_level[KEYS];
    for (size_t i = 0; i < KEYS; i++) {
        char key[32];
        int size = snprintf(key, sizeof key, "perf/%zu/file_%zu.dat", i % 97, i);
        hashes[i] = hs_key_hash(key, (size_t)size);
    }
    for (unsigned level = 0; level < LEVELS; level++) {
        size_t ones[64] = {0};
        for (size_t i = 0; i < KEYS; i++) {
            at_level[i] = hs_key_hash_level(hashes[i], level);
            for (int bit = 0; bit < 64; bit++) ones[bit] += at_level[i] >> bit & 1;
        }
        /* Half of them, give or take six standard deviations. */
        for (int bit = 0; bit < 64; bit++) CHECK(ones[bit] > KEYS / 2 - 950 && ones[bit] < KEYS / 2 + 950);
        CHECK_EQ_INT(duplicates(at_level, KEYS), 0);
    }
}

/* Adjacent keys are in the same order at two levels half of the time, if the levels are independent. */
static void levels_order_keys_independently(void) {
    enum { KEYS = 20000 };
    size_t agree[8] = {0};
    for (size_t i = 0; i < KEYS; i++) {
        uint64_t a = 2 * i, b = 2 * i + 1;
        a = hs_key_hash(&a, 8);
        b = hs_key_hash(&b, 8);
        for (unsigned level = 1; level <= 8; level++)
            agree[level - 1] += (hs_key_hash_level(a, 0) < hs_key_hash_level(b, 0)) ==
                                (hs_key_hash_level(a, level) < hs_key_hash_level(b, level));
    }
    for (int i = 0; i < 8; i++) CHECK(agree[i] > KEYS / 2 - 430 && agree[i] < KEYS / 2 + 430);
}

int main(void) {
    RUN(copy_gives_the_same_sum_and_exactly_the_bytes);
    RUN(sum_of_a_header_is_the_sum_of_its_bytes);
    RUN(sum_of_nothing_needs_no_memory);
    RUN(every_single_bit_counts);
    RUN(zeros_of_different_lengths_have_different_sums);
    RUN(both_halves_of_the_seed_count);
    RUN(words_that_change_places_change_the_sum);
    RUN(a_zero_product_does_not_forget_what_came_before);
    RUN(sum_is_of_what_was_copied_while_another_process_writes);
    RUN(key_hash_gives_the_golden_values);
    RUN(numbered_keys_never_meet_and_spread_evenly_at_every_level);
    RUN(levels_order_keys_independently);
    return hs_test_report();
}
