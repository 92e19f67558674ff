/*
 * hs_blake3: BLAKE3, hash mode without key, 32 bytes out. Ids of values and nodes are this and nothing else.
 *
 *   message   |  chunk 0 (1 KiB)  |  chunk 1  |  chunk 2 ..|        blocks of 64 bytes inside a chunk:
 *                     cv \            / cv        | cv            IV -> b0 -> b1 -> .. -> b15 -> chunk's cv
 *                        parent(cv,cv)            |               cv[b] below is what enters block b
 *                               \_______ parent _/
 *                                          |
 *                                   root: 32 bytes
 *
 * A message of at most 1 KiB is one chunk, so it is one chain of compressions, and a chain can be taken up
 * again at any block whose incoming chaining value was kept: that is what `resume` is for.
 *
 * Invariants
 *   - Every kernel gives the same bytes; the kernel is chosen once, when the library is loaded, from what the
 *     CPU has. hs_blake3_select is for tests.
 *   - No function allocates, locks or keeps state; all may be called from any thread.
 *
 * Who may call it: everyone. Implementation: hs_blake3.c (tree, queue, portable kernel), hs_blake3_x86.c.
 */
#ifndef HS_BLAKE3_H
#define HS_BLAKE3_H

#include "hs_base.h"

#define HS_HASH_SIZE    32
#define HS_BLAKE3_BLOCK 64
#define HS_BLAKE3_CHUNK 1024

/* Hash of `size` bytes, any size. */
void hs_blake3(const uint8_t *in, size_t size, uint8_t out[32]);

/* Number of compressions of a one-chunk message; the empty message has one block. */
static inline size_t hs_blake3_blocks(size_t size) { return size == 0 ? 1 : (size + 63) / 64; }

/*
 * One-chunk messages (size <= 1024), with resumption. cv has room for hs_blake3_blocks(size) entries; cv[b]
 * is the chaining value before block b. Hashes from block `from` (< blocks) on, starting at cv[from], and
 * writes the entries after it; from == 0 starts from the IV and fills cv[0] as well. Entries before `from`
 * are not read.
 */
void hs_blake3_resume(const uint8_t *in, size_t size, uint32_t (*cv)[8], size_t from, uint8_t out[32]);

/*
 * The hash of at most 1024 bytes, which are copied to dst (not overlapping) on the way; returns their sum, as
 * hs_checksum_copy does. Costs hardly more than the hash: a chain of compressions leaves room beside it. The
 * source must stand still.
 */
uint64_t hs_blake3_copy(const uint64_t seed[2], const uint8_t *in, size_t size, uint8_t *dst,
                        uint8_t out[32]);

/* One message of hs_blake3_many. cv is NULL, or size <= 1024 and cv is filled as by resume from 0. */
typedef struct hs_blake3_job {
    const uint8_t *in;
    size_t size;
    uint8_t *out;
    uint32_t (*cv)[8];
} hs_blake3_job;

/* Hashes `count` independent messages, those of one chunk several abreast. No output overlaps an input. */
void hs_blake3_many(const hs_blake3_job *jobs, size_t count);

typedef enum hs_blake3_kernel {
    HS_BLAKE3_PORTABLE,
    HS_BLAKE3_SSE41,
    HS_BLAKE3_AVX2,
    HS_BLAKE3_AVX512,
    HS_BLAKE3_KERNELS,
} hs_blake3_kernel;

/* For tests, while nobody hashes: uses this kernel from now on; false, and no change, if the CPU lacks it. */
bool hs_blake3_select(hs_blake3_kernel kernel);

#endif
