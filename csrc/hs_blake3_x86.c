/*
 * hs_blake3_x86: the kernels for x86-64. Internal; reached only through the tables at the end.
 *
 *              one message           2 lanes         3, 4 lanes          5..8 lanes, whole chunks    9..16 lanes
 *   sse41      rows, xmm             -               -                   -                           -
 *   avx2       rows, xmm             rows, one ymm   rows, two ymm       columns, ymm                -
 *   avx512     rows, xmm, their own  the same with rotations in one instruction and 32 registers     columns, zmm
 *
 * One message is bound by latency: 14 half rounds of four times add, xor, rotation. Up to four messages as
 * rows take hardly longer than one; from five on, eight as columns are cheaper, and sixteen take hardly longer than eight.
 *
 * Every function carries its target attribute, so the file compiles with the flags of all the others.
 */
#include "hs_blake3_kernel.h"

#ifdef HS_B3_X86
#include <immintrin.h>

#define TARGET_SSE41  __attribute__((target("sse4.1")))
#define TARGET_AVX2   __attribute__((target("avx2")))
#define TARGET_AVX512 __attribute__((target("avx2,avx512f,avx512vl,avx512bw")))
#define INLINE        static inline __attribute__((always_inline))

/* Two vectors of rows: four messages. */
typedef struct pair {
    __m256i a, b;
} pair;

/* Loads and stores of rows, at any alignment. */
#define LOAD(p)     _mm_loadu_si128((const __m128i *)(const void *)(p))
#define STORE(p, x) _mm_storeu_si128((__m128i *)(void *)(p), x)
#define LOAD2(p, q) _mm256_inserti128_si256(_mm256_castsi128_si256(LOAD(p)), LOAD(q), 1)
#define BYTES(p)    ((const uint8_t *)(p))

#define ROT16_BYTES _mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
#define ROT8_BYTES  _mm_setr_epi8(1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12)

/* ---- sse41: rows in xmm ---- */

INLINE TARGET_SSE41 __m128i sse41_rot(__m128i x, int n) {
    return _mm_or_si128(_mm_srli_epi32(x, n), _mm_slli_epi32(x, 32 - n));
}

#define V                   __m128i
#define ADD                 _mm_add_epi32
#define XOR                 _mm_xor_si128
#define SHUFFLE             _mm_shuffle_epi32
#define SHUFFLE2(a, b, imm) _mm_castps_si128(_mm_shuffle_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b), imm))
#define UNPACK_LO           _mm_unpacklo_epi32
#define UNPACK_HI           _mm_unpackhi_epi32
#define BLEND3(a, b)        _mm_blend_epi16(a, b, 0xC0)
#define PIN(x)              __asm__("" : "+x"(x))
#define ROT16(x)            _mm_shuffle_epi8(x, ROT16_BYTES)
#define ROT12(x)            sse41_rot(x, 12)
#define ROT8(x)             _mm_shuffle_epi8(x, ROT8_BYTES)
#define ROT7(x)             sse41_rot(x, 7)
#define ROWS(name)          rows_sse41_##name
#define ROWS_FN             INLINE TARGET_SSE41
#include "hs_blake3_rows.h"

/* ---- avx512: rows in xmm, for latency ---- */

/* Message words of each round in the order of the lanes (hs_blake3_rows.h): a, b, c, d. */
/* clang-format off */
static const uint32_t avx512_order[7][16] __attribute__((aligned(64))) = {
    {0, 2, 4, 6, 1, 3, 5, 7, 14, 8, 10, 12, 15, 9, 11, 13},
    {2, 3, 7, 4, 6, 10, 0, 13, 15, 1, 12, 9, 8, 11, 5, 14},
    {3, 10, 13, 7, 4, 12, 2, 14, 8, 6, 9, 11, 1, 5, 0, 15},
    {10, 12, 14, 13, 7, 9, 3, 15, 1, 4, 11, 5, 6, 0, 2, 8},
    {12, 9, 15, 14, 13, 11, 10, 8, 6, 7, 5, 0, 4, 2, 3, 1},
    {9, 11, 8, 15, 14, 5, 12, 1, 4, 13, 0, 2, 7, 3, 10, 6},
    {11, 5, 1, 8, 15, 0, 9, 6, 7, 14, 2, 3, 13, 10, 12, 4},
};
/* clang-format on */

/* row 3 turned right by 16 and by 2 lanes at once. */
#define ROT16_DIAGONAL_BYTES _mm_setr_epi8(10, 11, 8, 9, 14, 15, 12, 13, 2, 3, 0, 1, 6, 7, 4, 5)

/*
 * (x ^ y) turned right by n, given x already turned. A rotation takes two cycles on some of these CPUs and a
 * shift one; turning is linear, so x, which is ready early, is turned beforehand, and y meets it as two
 * shifts in one three-way xor: two cycles after y is known, where xor and rotation take three.
 */
#define XMM_XOR_TURNED(x_turned, y, n)                                                                       \
    _mm_ternarylogic_epi32(x_turned, _mm_srli_epi32(y, n), _mm_slli_epi32(y, 32 - (n)), 0x96)

/* As rows_sse41_state, but r3 stands turned right by 16, as the half round wants it. */
typedef struct avx512_state {
    __m128i r0, r1, r2, r3;
} avx512_state;

INLINE TARGET_AVX512 avx512_state avx512_half(avx512_state s, const uint32_t *x, const uint32_t *y) {
    __m128i t = _mm_add_epi32(s.r0, _mm_load_si128((const __m128i *)(const void *)x));
    __asm__("" : "+v"(t));
    s.r0 = _mm_add_epi32(t, s.r1);
    s.r3 = XMM_XOR_TURNED(s.r3, s.r0, 16);
    s.r2 = _mm_add_epi32(s.r2, s.r3);
    s.r1 = XMM_XOR_TURNED(_mm_ror_epi32(s.r1, 12), s.r2, 12);
    t = _mm_add_epi32(s.r0, _mm_load_si128((const __m128i *)(const void *)y));
    __asm__("" : "+v"(t));
    s.r0 = _mm_add_epi32(t, s.r1);
    s.r3 = XMM_XOR_TURNED(_mm_ror_epi32(s.r3, 8), s.r0, 8);
    s.r2 = _mm_add_epi32(s.r2, s.r3);
    s.r1 = XMM_XOR_TURNED(_mm_ror_epi32(s.r1, 7), s.r2, 7);
    return s;
}

INLINE TARGET_AVX512 avx512_state avx512_round(avx512_state s, const uint32_t words[16]) {
    const __m128i turn = ROT16_DIAGONAL_BYTES;
    s = avx512_half(s, words, words + 4);
    s.r0 = _mm_shuffle_epi32(s.r0, _MM_SHUFFLE(2, 1, 0, 3));
    s.r3 = _mm_shuffle_epi8(s.r3, turn);
    s.r2 = _mm_shuffle_epi32(s.r2, _MM_SHUFFLE(0, 3, 2, 1));
    s = avx512_half(s, words + 8, words + 12);
    s.r0 = _mm_shuffle_epi32(s.r0, _MM_SHUFFLE(0, 3, 2, 1));
    s.r3 = _mm_shuffle_epi8(s.r3, turn);
    s.r2 = _mm_shuffle_epi32(s.r2, _MM_SHUFFLE(2, 1, 0, 3));
    return s;
}

/* The new chaining value is r0, r1 of the result. r3 comes in as it is. */
INLINE TARGET_AVX512 avx512_state avx512_compress(avx512_state s, __m512i message) {
    uint32_t words[7][16] __attribute__((aligned(64)));
    for (int r = 0; r < 7; r++)
        _mm512_store_si512(words[r], _mm512_permutexvar_epi32(_mm512_load_si512(avx512_order[r]), message));
    /* Taken from memory where they are added: the shuffle units are what the rounds wait for. */
    __asm__("" : "+m"(words));
    s.r3 = _mm_ror_epi32(s.r3, 16);
    s = avx512_round(s, words[0]);
    s = avx512_round(s, words[1]);
    s = avx512_round(s, words[2]);
    s = avx512_round(s, words[3]);
    s = avx512_round(s, words[4]);
    s = avx512_round(s, words[5]);
    s = avx512_round(s, words[6]);
    s.r0 = _mm_xor_si128(s.r0, s.r2);
    s.r1 = _mm_xor_si128(s.r1, _mm_ror_epi32(s.r3, 16));
    return s;
}

/* ---- avx2: rows in ymm and pairs of ymm, columns ---- */

INLINE TARGET_AVX2 __m256i avx2_rot(__m256i x, int n) {
    return _mm256_or_si256(_mm256_srli_epi32(x, n), _mm256_slli_epi32(x, 32 - n));
}
INLINE TARGET_AVX2 __m256i avx2_rot16(__m256i x) {
    return _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(ROT16_BYTES));
}
INLINE TARGET_AVX2 __m256i avx2_rot8(__m256i x) {
    return _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(ROT8_BYTES));
}

#define YMM_SHUFFLE2(a, b, imm)                                                                              \
    _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), imm))
#define YMM_BLEND3(a, b) _mm256_blend_epi16(a, b, 0xC0)

/* f on both halves of one or two pairs. */
#define PAIR1(x, f, ...)                                                                                     \
    ({                                                                                                       \
        pair x_ = (x);                                                                                       \
        (pair){f(x_.a, ##__VA_ARGS__), f(x_.b, ##__VA_ARGS__)};                                              \
    })
#define PAIR2(x, y, f, ...)                                                                                  \
    ({                                                                                                       \
        pair x_ = (x), y_ = (y);                                                                             \
        (pair){f(x_.a, y_.a, ##__VA_ARGS__), f(x_.b, y_.b, ##__VA_ARGS__)};                                  \
    })

#define V          __m256i
#define ADD        _mm256_add_epi32
#define XOR        _mm256_xor_si256
#define SHUFFLE    _mm256_shuffle_epi32
#define SHUFFLE2   YMM_SHUFFLE2
#define UNPACK_LO  _mm256_unpacklo_epi32
#define UNPACK_HI  _mm256_unpackhi_epi32
#define BLEND3     YMM_BLEND3
#define PIN(x)     __asm__("" : "+x"(x))
#define ROT16      avx2_rot16
#define ROT12(x)   avx2_rot(x, 12)
#define ROT8       avx2_rot8
#define ROT7(x)    avx2_rot(x, 7)
#define ROWS(name) rows2_avx2_##name
#define ROWS_FN    INLINE TARGET_AVX2
#include "hs_blake3_rows.h"

#define V                   pair
#define ADD(x, y)           PAIR2(x, y, _mm256_add_epi32)
#define XOR(x, y)           PAIR2(x, y, _mm256_xor_si256)
#define SHUFFLE(x, imm)     PAIR1(x, _mm256_shuffle_epi32, imm)
#define SHUFFLE2(x, y, imm) PAIR2(x, y, YMM_SHUFFLE2, imm)
#define UNPACK_LO(x, y)     PAIR2(x, y, _mm256_unpacklo_epi32)
#define UNPACK_HI(x, y)     PAIR2(x, y, _mm256_unpackhi_epi32)
#define BLEND3(x, y)        PAIR2(x, y, YMM_BLEND3)
#define PIN(x)              __asm__("" : "+x"((x).a), "+x"((x).b))
#define ROT16(x)            PAIR1(x, avx2_rot16)
#define ROT12(x)            PAIR1(x, avx2_rot, 12)
#define ROT8(x)             PAIR1(x, avx2_rot8)
#define ROT7(x)             PAIR1(x, avx2_rot, 7)
#define ROWS(name)          rows4_avx2_##name
#define ROWS_FN             INLINE TARGET_AVX2
#include "hs_blake3_rows.h"

#define ROT16         avx2_rot16
#define ROT12(x)      avx2_rot(x, 12)
#define ROT8          avx2_rot8
#define ROT7(x)       avx2_rot(x, 7)
#define COLUMNS(name) columns_avx2_##name
#define COLUMNS_FN    INLINE TARGET_AVX2
#include "hs_blake3_columns.h"

/* ---- avx512: the same ---- */

#define V          __m256i
#define ADD        _mm256_add_epi32
#define XOR        _mm256_xor_si256
#define SHUFFLE    _mm256_shuffle_epi32
#define SHUFFLE2   YMM_SHUFFLE2
#define UNPACK_LO  _mm256_unpacklo_epi32
#define UNPACK_HI  _mm256_unpackhi_epi32
#define BLEND3     YMM_BLEND3
#define PIN(x)     __asm__("" : "+v"(x))
#define ROT16(x)   _mm256_ror_epi32(x, 16)
#define ROT12(x)   _mm256_ror_epi32(x, 12)
#define ROT8(x)    _mm256_ror_epi32(x, 8)
#define ROT7(x)    _mm256_ror_epi32(x, 7)
#define ROWS(name) rows2_avx512_##name
#define ROWS_FN    INLINE TARGET_AVX512
#include "hs_blake3_rows.h"

#define V                   pair
#define ADD(x, y)           PAIR2(x, y, _mm256_add_epi32)
#define XOR(x, y)           PAIR2(x, y, _mm256_xor_si256)
#define SHUFFLE(x, imm)     PAIR1(x, _mm256_shuffle_epi32, imm)
#define SHUFFLE2(x, y, imm) PAIR2(x, y, YMM_SHUFFLE2, imm)
#define UNPACK_LO(x, y)     PAIR2(x, y, _mm256_unpacklo_epi32)
#define UNPACK_HI(x, y)     PAIR2(x, y, _mm256_unpackhi_epi32)
#define BLEND3(x, y)        PAIR2(x, y, YMM_BLEND3)
#define PIN(x)              __asm__("" : "+v"((x).a), "+v"((x).b))
#define ROT16(x)            PAIR1(x, _mm256_ror_epi32, 16)
#define ROT12(x)            PAIR1(x, _mm256_ror_epi32, 12)
#define ROT8(x)             PAIR1(x, _mm256_ror_epi32, 8)
#define ROT7(x)             PAIR1(x, _mm256_ror_epi32, 7)
#define ROWS(name)          rows4_avx512_##name
#define ROWS_FN             INLINE TARGET_AVX512
#include "hs_blake3_rows.h"

#define ROT16(x)      _mm256_ror_epi32(x, 16)
#define ROT12(x)      _mm256_ror_epi32(x, 12)
#define ROT8(x)       _mm256_ror_epi32(x, 8)
#define ROT7(x)       _mm256_ror_epi32(x, 7)
#define COLUMNS(name) columns_avx512_##name
#define COLUMNS_FN    INLINE TARGET_AVX512
#include "hs_blake3_columns.h"

INLINE TARGET_AVX2 void store2(void *p, void *q, size_t at, __m256i x) {
    STORE((uint8_t *)p + at, _mm256_castsi256_si128(x));
    STORE((uint8_t *)q + at, _mm256_extracti128_si256(x, 1));
}

/* ---- a run: one message, its chaining value in two registers from block to block ---- */

/*
 * 16 bytes of the message from `at` on, zeros after its end. A piece that the end cuts is loaded so that it
 * ends there, then moved down: a detour through a buffer would cost a failed store forwarding, a quarter of a
 * compression.
 */
INLINE TARGET_SSE41 __m128i sse41_piece(const uint8_t *in, size_t size, size_t at) {
    static const uint8_t down[32] = {0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,
                                     11,  12,  13,  14,  15,  128, 128, 128, 128, 128, 128,
                                     128, 128, 128, 128, 128, 128, 128, 128, 128, 128};
    if (at + 16 <= size) return LOAD(in + at);
    if (at >= size) return _mm_setzero_si128();
    if (size >= 16) return _mm_shuffle_epi8(LOAD(in + size - 16), LOAD(down + 16 - (size - at)));
    uint8_t buffer[16] = {0};
    memcpy(buffer, in, size);
    return LOAD(buffer);
}

INLINE TARGET_SSE41 void sse41_blocks(const hs_b3_run *run, bool copy) {
    const size_t last = hs_blake3_blocks(run->size) - 1, tail_size = run->size - 64 * last;
    const int low = (int)(uint32_t)run->counter, high = (int)(uint32_t)(run->counter >> 32);
    const uint8_t *in = run->in;
    rows_sse41_state s = {.r0 = LOAD(run->start), .r1 = LOAD(run->start + 4)};
    int flags = run->from == 0 ? HS_B3_CHUNK_START : 0;
    for (size_t b = run->from, at = 64 * b; b < last; b++, at += HS_BLAKE3_BLOCK, flags = 0) {
        s.r2 = LOAD(hs_b3_iv);
        s.r3 = _mm_setr_epi32(low, high, HS_BLAKE3_BLOCK, flags);
        s = rows_sse41_compress(s, rows_sse41_words_first(LOAD(in + at), LOAD(in + at + 16),
                                                          LOAD(in + at + 32), LOAD(in + at + 48)));
        if (run->trail) {
            STORE(run->trail[b + 1], s.r0);
            STORE(run->trail[b + 1] + 4, s.r1);
        }
        if (copy) hs_b3_copy_block(run, b);
    }
    __m128i w[4];
    for (size_t i = 0; i < 4; i++) w[i] = sse41_piece(in, run->size, 64 * last + 16 * i);
    s.r2 = LOAD(hs_b3_iv);
    s.r3 = _mm_setr_epi32(low, high, (int)tail_size, flags | (int)run->end_flags);
    s = rows_sse41_compress(s, rows_sse41_words_first(w[0], w[1], w[2], w[3]));
    STORE(run->out, s.r0);
    STORE(run->out + 16, s.r1);
}
TARGET_SSE41 static void sse41_run(const hs_b3_run *run) { sse41_blocks(run, false); }
TARGET_SSE41 static void sse41_run_copy(const hs_b3_run *run) { sse41_blocks(run, true); }

INLINE TARGET_AVX512 void avx512_blocks(const hs_b3_run *run, bool copy) {
    const size_t last = hs_blake3_blocks(run->size) - 1, tail_size = run->size - 64 * last;
    const int low = (int)(uint32_t)run->counter, high = (int)(uint32_t)(run->counter >> 32);
    const uint8_t *block = run->in + 64 * run->from;
    avx512_state s = {.r0 = LOAD(run->start), .r1 = LOAD(run->start + 4)};
    int flags = run->from == 0 ? HS_B3_CHUNK_START : 0;
    for (size_t b = run->from; b < last; b++, block += HS_BLAKE3_BLOCK, flags = 0) {
        s.r2 = LOAD(hs_b3_iv);
        s.r3 = _mm_setr_epi32(low, high, HS_BLAKE3_BLOCK, flags);
        s = avx512_compress(s, _mm512_loadu_si512(block));
        if (run->trail) {
            STORE(run->trail[b + 1], s.r0);
            STORE(run->trail[b + 1] + 4, s.r1);
        }
        if (copy) hs_b3_copy_block(run, b);
    }
    /* The masked load touches no byte beyond the message, and gives zeros for them. */
    const __mmask64 mask = tail_size == 64 ? ~UINT64_C(0) : (UINT64_C(1) << tail_size) - 1;
    s.r2 = LOAD(hs_b3_iv);
    s.r3 = _mm_setr_epi32(low, high, (int)tail_size, flags | (int)run->end_flags);
    s = avx512_compress(s, _mm512_maskz_loadu_epi8(mask, block));
    STORE(run->out, s.r0);
    STORE(run->out + 16, s.r1);
}
TARGET_AVX512 static void avx512_run(const hs_b3_run *run) { avx512_blocks(run, false); }
TARGET_AVX512 static void avx512_run_copy(const hs_b3_run *run) { avx512_blocks(run, true); }

/* ---- a step: one block of each lane ---- */

TARGET_SSE41 static void sse41_step1(const hs_b3_lane *l) {
    rows_sse41_state s = {LOAD(l->from), LOAD(BYTES(l->from) + 16), LOAD(hs_b3_iv), LOAD(l->row3)};
    s = rows_sse41_compress(s, rows_sse41_words_first(LOAD(l->block), LOAD(l->block + 16),
                                                      LOAD(l->block + 32), LOAD(l->block + 48)));
    STORE(l->to, s.r0);
    STORE((uint8_t *)l->to + 16, s.r1);
}

TARGET_AVX512 static void avx512_step1(const hs_b3_lane *l) {
    avx512_state s = {LOAD(l->from), LOAD(BYTES(l->from) + 16), LOAD(hs_b3_iv), LOAD(l->row3)};
    s = avx512_compress(s, _mm512_loadu_si512(l->block));
    STORE(l->to, s.r0);
    STORE((uint8_t *)l->to + 16, s.r1);
}

#define FROM2(l, at)  LOAD2(BYTES((l)[0].from) + (at), BYTES((l)[1].from) + (at))
#define BLOCK2(l, at) LOAD2((l)[0].block + (at), (l)[1].block + (at))
#define ROW3_2(l)     LOAD2((l)[0].row3, (l)[1].row3)

#define DEFINE_STEP2(NAME, TARGET, ROWS)                                                                     \
    TARGET static void NAME(const hs_b3_lane *l) {                                                           \
        ROWS##_state s = {FROM2(l, 0), FROM2(l, 16), _mm256_broadcastsi128_si256(LOAD(hs_b3_iv)),            \
                          ROW3_2(l)};                                                                        \
        s = ROWS##_compress(s,                                                                               \
                            ROWS##_words_first(BLOCK2(l, 0), BLOCK2(l, 16), BLOCK2(l, 32), BLOCK2(l, 48)));  \
        store2(l[0].to, l[1].to, 0, s.r0);                                                                   \
        store2(l[0].to, l[1].to, 16, s.r1);                                                                  \
    }

DEFINE_STEP2(avx2_step2, TARGET_AVX2, rows2_avx2)
DEFINE_STEP2(avx512_step2, TARGET_AVX512, rows2_avx512)

#define FROM4(l, m, at)  ((pair){FROM2(l, at), FROM2(m, at)})
#define BLOCK4(l, m, at) ((pair){BLOCK2(l, at), BLOCK2(m, at)})

/* l: the first two lanes; m: the other two. */
#define DEFINE_STEP4(NAME, TARGET, ROWS)                                                                     \
    TARGET static void NAME(const hs_b3_lane *l, const hs_b3_lane *m) {                                      \
        __m256i iv = _mm256_broadcastsi128_si256(LOAD(hs_b3_iv));                                            \
        ROWS##_state s = {FROM4(l, m, 0), FROM4(l, m, 16), {iv, iv}, {ROW3_2(l), ROW3_2(m)}};                \
        s = ROWS##_compress(                                                                                 \
            s, ROWS##_words_first(BLOCK4(l, m, 0), BLOCK4(l, m, 16), BLOCK4(l, m, 32), BLOCK4(l, m, 48)));   \
        store2(l[0].to, l[1].to, 0, s.r0.a);                                                                 \
        store2(l[0].to, l[1].to, 16, s.r1.a);                                                                \
        store2(m[0].to, m[1].to, 0, s.r0.b);                                                                 \
        store2(m[0].to, m[1].to, 16, s.r1.b);                                                                \
    }

DEFINE_STEP4(avx2_step4, TARGET_AVX2, rows4_avx2)
DEFINE_STEP4(avx512_step4, TARGET_AVX512, rows4_avx512)

TARGET_AVX2 static void avx2_step8(const hs_b3_lane *lane, size_t n) { columns_avx2_step(lane, n); }
TARGET_AVX512 static void avx512_step8(const hs_b3_lane *lane, size_t n) { columns_avx512_step(lane, n); }

/* ---- avx512: sixteen columns in zmm ---- */

/* 16 bytes each of four lanes: vector i of four has lanes i, i + 4, i + 8, i + 12, so that word w of all sixteen lanes is
 * one vector after transpose16. */
INLINE TARGET_AVX512 __m512i load16(const uint8_t *const lane[16], int i, size_t at) {
    __m512i x = _mm512_castsi128_si512(LOAD(lane[i] + at));
    x = _mm512_mask_broadcast_i32x4(x, 0x00F0, LOAD(lane[i + 4] + at));
    x = _mm512_mask_broadcast_i32x4(x, 0x0F00, LOAD(lane[i + 8] + at));
    return _mm512_mask_broadcast_i32x4(x, 0xF000, LOAD(lane[i + 12] + at));
}

INLINE TARGET_AVX512 void store16(uint8_t *const lane[16], int i, size_t at, __m512i x) {
    STORE(lane[i] + at, _mm512_castsi512_si128(x));
    STORE(lane[i + 4] + at, _mm512_extracti32x4_epi32(x, 1));
    STORE(lane[i + 8] + at, _mm512_extracti32x4_epi32(x, 2));
    STORE(lane[i + 12] + at, _mm512_extracti32x4_epi32(x, 3));
}

/* As transpose of hs_blake3_columns.h; its own inverse. */
INLINE TARGET_AVX512 void transpose16(__m512i x[4]) {
    __m512i a = _mm512_unpacklo_epi32(x[0], x[1]), b = _mm512_unpackhi_epi32(x[0], x[1]);
    __m512i c = _mm512_unpacklo_epi32(x[2], x[3]), d = _mm512_unpackhi_epi32(x[2], x[3]);
    x[0] = _mm512_unpacklo_epi64(a, c);
    x[1] = _mm512_unpackhi_epi64(a, c);
    x[2] = _mm512_unpacklo_epi64(b, d);
    x[3] = _mm512_unpackhi_epi64(b, d);
}

/* clang-format off */
#define G(a, b, c, d, x, y)                                                   \
    do {                                                                      \
        v[a] = _mm512_add_epi32(_mm512_add_epi32(v[a], m[x]), v[b]);          \
        v[d] = _mm512_ror_epi32(_mm512_xor_si512(v[d], v[a]), 16);            \
        v[c] = _mm512_add_epi32(v[c], v[d]);                                  \
        v[b] = _mm512_ror_epi32(_mm512_xor_si512(v[b], v[c]), 12);            \
        v[a] = _mm512_add_epi32(_mm512_add_epi32(v[a], m[y]), v[b]);          \
        v[d] = _mm512_ror_epi32(_mm512_xor_si512(v[d], v[a]), 8);             \
        v[c] = _mm512_add_epi32(v[c], v[d]);                                  \
        v[b] = _mm512_ror_epi32(_mm512_xor_si512(v[b], v[c]), 7);             \
    } while (0)
/* clang-format on */

/* v: chaining values in 0..7, rows 3 in 12..15; the new chaining values in 0..7. */
INLINE TARGET_AVX512 void compress16(__m512i v[16], const __m512i m[16]) {
    for (int i = 0; i < 4; i++) v[8 + i] = _mm512_set1_epi32((int)hs_b3_iv[i]);
    HS_B3_ROUNDS();
    for (int i = 0; i < 8; i++) v[i] = _mm512_xor_si512(v[i], v[i + 8]);
}

#undef G

/* n <= 16 lanes; those that are not there repeat the first one and keep their result to themselves. */
TARGET_AVX512 static void avx512_step16(const hs_b3_lane *lane, size_t n) {
    hs_b3_spread l;
    hs_b3_spread_lanes(&l, lane, n, 16);
    __m512i m[16], v[16];
    for (int q = 0; q < 4; q++) {
        for (int i = 0; i < 4; i++) m[4 * q + i] = load16(l.block, i, 16 * (size_t)q);
        transpose16(m + 4 * q);
    }
    for (int i = 0; i < 4; i++) {
        v[i] = load16(l.from, i, 0);
        v[4 + i] = load16(l.from, i, 16);
        v[12 + i] = load16(l.row3, i, 0);
    }
    transpose16(v);
    transpose16(v + 4);
    transpose16(v + 12);
    compress16(v, m);
    transpose16(v);
    transpose16(v + 4);
    for (int i = 0; i < 4; i++) {
        store16(l.to, i, 0, v[i]);
        store16(l.to, i, 16, v[4 + i]);
    }
}

static void sse41_step(const hs_b3_lane *lane, size_t n) {
    for (size_t i = 0; i < n; i++) sse41_step1(&lane[i]);
}

/* Three lanes are done as four, the fourth being a copy of the third that writes beside. */
#define DEFINE_STEP(NAME, STEP1, STEP2, STEP4, STEP8)                                                        \
    static void NAME(const hs_b3_lane *lane, size_t n) {                                                     \
        if (n > 4) {                                                                                         \
            STEP8(lane, n);                                                                                  \
        } else if (n == 4) {                                                                                 \
            STEP4(lane, lane + 2);                                                                           \
        } else if (n == 3) {                                                                                 \
            uint8_t idle[HS_HASH_SIZE];                                                                      \
            hs_b3_lane rest[2] = {lane[2], lane[2]};                                                         \
            rest[1].to = idle;                                                                               \
            STEP4(lane, rest);                                                                               \
        } else if (n == 2) {                                                                                 \
            STEP2(lane);                                                                                     \
        } else {                                                                                             \
            STEP1(lane);                                                                                     \
        }                                                                                                    \
    }

DEFINE_STEP(avx2_step, sse41_step1, avx2_step2, avx2_step4, avx2_step8)
DEFINE_STEP(avx512_step_to_8, avx512_step1, avx512_step2, avx512_step4, avx512_step8)

static void avx512_step(const hs_b3_lane *lane, size_t n) {
    if (n > 8)
        avx512_step16(lane, n);
    else
        avx512_step_to_8(lane, n);
}

TARGET_AVX2 static void avx2_chunks8(const uint8_t *in, uint64_t counter, uint8_t *out) {
    columns_avx2_chunks(in, counter, out);
}

TARGET_AVX512 static void avx512_chunks8(const uint8_t *in, uint64_t counter, uint8_t *out) {
    columns_avx512_chunks(in, counter, out);
}

const hs_b3_kernel hs_b3_sse41 = {sse41_run, sse41_run_copy, sse41_step, NULL, 1};
const hs_b3_kernel hs_b3_avx2 = {sse41_run, sse41_run_copy, avx2_step, avx2_chunks8, 8};
const hs_b3_kernel hs_b3_avx512 = {avx512_run, avx512_run_copy, avx512_step, avx512_chunks8, 16};

#else
typedef int hs_b3_x86_is_empty;
#endif
