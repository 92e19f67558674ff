/*
 * BLAKE3 against vectors made with the public implementation, and each kernel against the portable one. That
 * the portable one is right at every length is shown from Python, where the other implementation lives.
 */
#include "hs_blake3.h"

#include "hs_checksum.h"
#include "hs_test.h"

enum { LENGTH_MAX = 9000 };

static uint8_t data[2 * 100001];

static const char *const kernel_names[HS_BLAKE3_KERNELS] = {"portable", "sse4.1", "avx2", "avx512"};

/* Pseudo-random and the same in every run. */
static uint64_t random_next(uint64_t *state) {
    *state += UINT64_C(0x9E3779B97F4A7C15);
    uint64_t z = *state;
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    return z ^ z >> 29;
}

/* A copy that ends where its allocation ends, so that the sanitizer sees a read beyond it. */
static uint8_t *exact_copy(const uint8_t *in, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    REQUIRE(copy);
    memcpy(copy, in, size);
    return copy;
}

static void fill_counting(void) {
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i % 251);
}

static void fill_random(void) {
    uint64_t state = 1;
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)random_next(&state);
}

static FILE *vectors_open(void) {
    char path[4096];
    const char *slash = strrchr(__FILE__, '/');
    int dir = slash ? (int)(slash - __FILE__) : 1;
    snprintf(path, sizeof path, "%.*s/../golden/blake3_vectors.txt", dir, slash ? __FILE__ : ".");
    return fopen(path, "r");
}

/* Chooses the next kernel after *k that this CPU has; false, with the best one chosen, if there is none. */
static bool kernel_next(int *k) {
    while (++*k < HS_BLAKE3_KERNELS)
        if (hs_blake3_select((hs_blake3_kernel)*k)) return true;
    return false;
}

#define FOR_EACH_KERNEL for (int k_ = -1; kernel_next(&k_);)

static void select_refuses_a_kernel_that_does_not_exist(void) {
    CHECK(!hs_blake3_select(HS_BLAKE3_KERNELS));
    CHECK(hs_blake3_select(HS_BLAKE3_PORTABLE));
    for (int k = 0; k < HS_BLAKE3_KERNELS; k++)
        printf("  kernel %s: %s\n", kernel_names[k],
               hs_blake3_select((hs_blake3_kernel)k) ? "tested" : "not here");
}

static void every_kernel_gives_the_golden_hashes(void) {
    FILE *vectors = vectors_open();
    REQUIRE(vectors);
    char line[256], hex[65];
    size_t size, count = 0;
    fill_counting();
    while (fgets(line, sizeof line, vectors)) {
        if (line[0] == '#') continue;
        REQUIRE(sscanf(line, "%zu %64s", &size, hex) == 2 && size <= sizeof data);
        uint8_t want[32], got[32];
        for (size_t i = 0; i < 32; i++) {
            unsigned byte;
            REQUIRE(sscanf(hex + 2 * i, "%2x", &byte) == 1);
            want[i] = (uint8_t)byte;
        }
        FOR_EACH_KERNEL {
            hs_blake3(data, size, got);
            CHECK_EQ_MEM(got, want, 32);
        }
        count++;
    }
    fclose(vectors);
    CHECK(count >= 50);
}

static void every_kernel_equals_the_portable_one_at_every_length(void) {
    fill_random();
    for (size_t size = 0; size <= LENGTH_MAX; size += size < 2100 ? 1 : 7) {
        uint8_t *in = exact_copy(data, size), want[32], got[32];
        hs_blake3_select(HS_BLAKE3_PORTABLE);
        hs_blake3(in, size, want);
        FOR_EACH_KERNEL {
            hs_blake3(in, size, got);
            CHECK_EQ_MEM(got, want, 32);
        }
        free(in);
    }
}

static void long_messages_are_the_same_with_every_kernel(void) {
    static const size_t sizes[] = {64 * 1024 - 1, 64 * 1024,      64 * 1024 + 1, 100001,
                                   128 * 1024,    128 * 1024 + 1, 200002};
    fill_random();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint8_t want[32], got[32];
        hs_blake3_select(HS_BLAKE3_PORTABLE);
        hs_blake3(data, sizes[i], want);
        FOR_EACH_KERNEL {
            hs_blake3(data, sizes[i], got);
            CHECK_EQ_MEM(got, want, 32);
        }
    }
}

static void alignment_of_the_message_does_not_matter(void) {
    fill_random();
    for (size_t shift = 0; shift < 64; shift++) {
        uint8_t want[32], got[32];
        uint8_t *in = exact_copy(data + shift, 1500);
        hs_blake3(in, 1500, want);
        FOR_EACH_KERNEL {
            hs_blake3(data + shift, 1500, got);
            CHECK_EQ_MEM(got, want, 32);
        }
        free(in);
    }
}

static void an_empty_message_needs_no_memory(void) {
    uint8_t want[32], got[32];
    uint32_t cv[1][8];
    hs_blake3_select(HS_BLAKE3_PORTABLE);
    hs_blake3(data, 0, want);
    hs_blake3_job job = {NULL, 0, got, NULL};
    FOR_EACH_KERNEL {
        memset(got, 0, 32);
        hs_blake3(NULL, 0, got);
        CHECK_EQ_MEM(got, want, 32);
        memset(got, 0, 32);
        hs_blake3_resume(NULL, 0, cv, 0, got);
        CHECK_EQ_MEM(got, want, 32);
        memset(got, 0, 32);
        hs_blake3_many(&job, 1);
        CHECK_EQ_MEM(got, want, 32);
    }
}

/*
 * Changes the message from block `from` on, resumes there, and compares hash and trail with a hash from the
 * start.
 */
static void resume_once(uint8_t *in, size_t size, const uint32_t (*before)[8], size_t from) {
    size_t blocks = hs_blake3_blocks(size);
    uint32_t resumed[16][8], whole[16][8];
    uint8_t got[32], want[32];
    memset(resumed, 0xEE, sizeof resumed);
    memcpy(resumed, before, 32 * (from + 1));
    for (size_t i = 64 * from; i < size; i++) in[i] = (uint8_t)(in[i] + 1 + i);
    hs_blake3_resume(in, size, resumed, from, got);
    hs_blake3(in, size, want);
    CHECK_EQ_MEM(got, want, 32);
    hs_blake3_resume(in, size, whole, 0, want);
    CHECK_EQ_MEM(got, want, 32);
    CHECK_EQ_MEM(resumed, whole, 32 * blocks);
    for (size_t i = 64 * from; i < size; i++) in[i] = (uint8_t)(in[i] - 1 - i);
}

static void resume_equals_a_whole_hash_from_every_block_of_every_length(void) {
    fill_random();
    for (size_t size = 0; size <= HS_BLAKE3_CHUNK; size++) {
        size_t blocks = hs_blake3_blocks(size);
        uint32_t (*cv)[8] = malloc(32 * blocks);
        uint8_t *in = exact_copy(data, size), out[32];
        REQUIRE(cv);
        FOR_EACH_KERNEL {
            hs_blake3_resume(in, size, cv, 0, out);
            for (size_t from = 0; from < blocks; from++)
                resume_once(in, size, (const uint32_t (*)[8])cv, from);
        }
        free(in);
        free(cv);
    }
}

static void resume_uses_the_value_it_is_given(void) {
    uint32_t cv[3][8];
    uint8_t honest[32], got[32];
    fill_random();
    FOR_EACH_KERNEL {
        hs_blake3_resume(data, 150, cv, 0, honest);
        cv[2][5] ^= 1;
        hs_blake3_resume(data, 150, cv, 2, got);
        CHECK(memcmp(got, honest, 32) != 0);
    }
}

/* `count` messages, lengths up to size_max; every other one-chunk message keeps its chaining values. */
static void copy_gives_hash_sum_and_exactly_the_bytes(void) {
    uint8_t to[HS_BLAKE3_CHUNK + 64], hash[32], honest[32];
    const uint64_t seed[2] = {7, 11};
    fill_random();
    FOR_EACH_KERNEL
    for (size_t size = 0; size <= HS_BLAKE3_CHUNK; size++) {
        uint8_t *in = exact_copy(data + size, size);
        memset(to, 0xEE, sizeof to);
        uint64_t sum = hs_blake3_copy(seed, in, size, to, hash);
        hs_blake3(in, size, honest);
        CHECK_EQ_MEM(hash, honest, 32);
        CHECK(sum == hs_checksum(seed, in, size));
        CHECK_EQ_MEM(to, in, size);
        for (size_t i = size; i < sizeof to; i++) CHECK(to[i] == 0xEE);
        free(in);
    }
}

static void many_once(size_t count, size_t size_max, uint64_t seed) {
    hs_blake3_job *jobs = calloc(count ? count : 1, sizeof *jobs);
    REQUIRE(jobs);
    for (size_t i = 0; i < count; i++) {
        size_t size = (size_t)(random_next(&seed) % (size_max + 1));
        jobs[i] = (hs_blake3_job){exact_copy(data + i, size), size, malloc(32), NULL};
        if (size <= HS_BLAKE3_CHUNK && i % 2) jobs[i].cv = malloc(32 * hs_blake3_blocks(size));
        REQUIRE(jobs[i].out && (jobs[i].cv || size > HS_BLAKE3_CHUNK || i % 2 == 0));
    }
    hs_blake3_many(jobs, count);
    for (size_t i = 0; i < count; i++) {
        uint8_t want[32];
        uint32_t cv[16][8];
        hs_blake3(jobs[i].in, jobs[i].size, want);
        CHECK_EQ_MEM(jobs[i].out, want, 32);
        if (jobs[i].cv) {
            hs_blake3_resume(jobs[i].in, jobs[i].size, cv, 0, want);
            CHECK_EQ_MEM(jobs[i].cv, cv, 32 * hs_blake3_blocks(jobs[i].size));
        }
        free((void *)jobs[i].in);
        free(jobs[i].out);
        free(jobs[i].cv);
    }
    free(jobs);
}

static void many_equals_one_at_a_time_for_any_number_and_length(void) {
    fill_random();
    for (size_t count = 0; count <= 40; count++) FOR_EACH_KERNEL {
            many_once(count, 130, count);
            many_once(count, 1024, count + 1);
            many_once(count, 3000, count + 2);
        }
    FOR_EACH_KERNEL {
        many_once(300, 1024, 7);
        many_once(30, 12000, 8);
    }
}

int main(void) {
    RUN(select_refuses_a_kernel_that_does_not_exist);
    RUN(every_kernel_gives_the_golden_hashes);
    RUN(every_kernel_equals_the_portable_one_at_every_length);
    RUN(long_messages_are_the_same_with_every_kernel);
    RUN(alignment_of_the_message_does_not_matter);
    RUN(an_empty_message_needs_no_memory);
    RUN(resume_equals_a_whole_hash_from_every_block_of_every_length);
    RUN(resume_uses_the_value_it_is_given);
    RUN(copy_gives_hash_sum_and_exactly_the_bytes);
    RUN(many_equals_one_at_a_time_for_any_number_and_length);
    return hs_test_report();
}
