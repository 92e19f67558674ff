/*
 * hs_blake3_kernel: what a BLAKE3 kernel offers to the tree and the queue in hs_blake3.c. Internal to
 * hs_blake3*.c.
 *
 * The state of a compression, as BLAKE3's paper draws it, is four rows of four 32-bit words:
 *
 *      row 0   cv0 cv1 cv2 cv3          row 2   IV0 IV1 IV2 IV3
 *      row 1   cv4 cv5 cv6 cv7          row 3   counter low, counter high, block length, flags
 *
 * and only its first 32 bytes of output are ever wanted: (row0 ^ row2, row1 ^ row3).
 */
#ifndef HS_BLAKE3_KERNEL_H
#define HS_BLAKE3_KERNEL_H

#include "hs_blake3.h"
#include "hs_checksum_inline.h"

enum { HS_B3_CHUNK_START = 1, HS_B3_CHUNK_END = 2, HS_B3_PARENT = 4, HS_B3_ROOT = 8 };

#define HS_B3_LANES_MAX 16

/* A run of blocks inside one chunk: [from, blocks of size), chained. */
typedef struct hs_b3_run {
    const uint8_t *in;     /* the chunk's first byte */
    size_t size;           /* of the chunk, <= 1024 */
    uint64_t counter;      /* the chunk's number */
    uint32_t end_flags;    /* of the last block: CHUNK_END, with ROOT if the chunk is the message */
    size_t from;           /* first block to hash */
    const uint32_t *start; /* chaining value before it */
    uint32_t (*trail)[8];  /* NULL, or trail[b] receives the value before block b, from < b < blocks */
    uint8_t *out;          /* 32 bytes */
    uint8_t
        *copy; /* NULL, or where the blocks before the last are copied to, and summed by `sum` on the way */
    struct sum_state *sum;
} hs_b3_run;

/* One compression among several: to = compress(from, block, row3). `to` may be `from`. */
typedef struct hs_b3_lane {
    uint32_t row3[4];
    const uint8_t *block;    /* 64 readable bytes, zero-padded */
    const void *from;        /* 32 bytes, any alignment */
    void *to;                /* 32 bytes, any alignment */
    struct hs_b3_slot *slot; /* the queue's own; a kernel leaves it alone */
} hs_b3_lane;

typedef struct hs_b3_kernel {
    void (*run)(const hs_b3_run *run);
    void (*run_copy)(const hs_b3_run *run);
    /* n compressions, 1 <= n <= lanes. */
    void (*step)(const hs_b3_lane *lane, size_t n);
    /*
     * 8 whole chunks from `counter` on, none of them the root: 8 x 32 bytes out. NULL where step has one
     * lane.
     */
    void (*chunks8)(const uint8_t *in, uint64_t counter, uint8_t *out);
    size_t lanes;
} hs_b3_kernel;

extern const uint32_t hs_b3_iv[8];

/* clang-format off */
/* The seven rounds over v[16] and m[16], whatever a word is there: whoever uses it defines G(a, b, c, d, x, y). The sixteen numbers
 * of a round say which message word stands at each place of the schedule. */
#define HS_B3_ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15) \
    do {                                                                                  \
        G(0, 4, 8, 12, s0, s1);    G(1, 5, 9, 13, s2, s3);                                \
        G(2, 6, 10, 14, s4, s5);   G(3, 7, 11, 15, s6, s7);                               \
        G(0, 5, 10, 15, s8, s9);   G(1, 6, 11, 12, s10, s11);                             \
        G(2, 7, 8, 13, s12, s13);  G(3, 4, 9, 14, s14, s15);                              \
    } while (0)
#define HS_B3_ROUNDS()                                                         \
    do {                                                                       \
        HS_B3_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);     \
        HS_B3_ROUND(2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8);     \
        HS_B3_ROUND(3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1);     \
        HS_B3_ROUND(10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6);     \
        HS_B3_ROUND(12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4);     \
        HS_B3_ROUND(9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7);     \
        HS_B3_ROUND(11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13);     \
    } while (0)
/* clang-format on */

/* Up to `width` lanes by their parts, for kernels that take as many at a time; the lanes that are not there repeat the first one and
 * keep their result to themselves. */
typedef struct hs_b3_spread {
    const uint8_t *block[HS_B3_LANES_MAX], *from[HS_B3_LANES_MAX], *row3[HS_B3_LANES_MAX];
    uint8_t *to[HS_B3_LANES_MAX], idle[HS_HASH_SIZE];
} hs_b3_spread;

static inline __attribute__((always_inline)) void
hs_b3_spread_lanes(hs_b3_spread *spread, const hs_b3_lane *lane, size_t n, size_t width) {
    for (size_t i = 0; i < width; i++) {
        const hs_b3_lane *l = &lane[i < n ? i : 0];
        spread->block[i] = l->block;
        spread->from[i] = l->from;
        spread->row3[i] = (const uint8_t *)l->row3;
        spread->to[i] = i < n ? l->to : spread->idle;
    }
}

/* Block b of a run was hashed: the copy of it runs beside the next one's rounds, which wait for one another. */
static inline __attribute__((always_inline)) void hs_b3_copy_block(const hs_b3_run *run, size_t b) {
    sum_stripe(run->sum, true, run->copy + HS_BLAKE3_BLOCK * b, run->in + HS_BLAKE3_BLOCK * b);
}

#if defined(__x86_64__) && defined(__GNUC__)
#define HS_B3_X86 1
extern const hs_b3_kernel hs_b3_sse41, hs_b3_avx2, hs_b3_avx512;
#endif

#endif
