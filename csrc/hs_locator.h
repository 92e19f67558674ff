/* hs_locator.h - the bytes of the locator file: hash -> (pack, row), a mapped table beside LMDB. No code.
 *
 *   page 0: header | buckets: 8 rows of 8 bytes, one cache line each
 *   a row  {tag:14 pack:30 row + 1:20}   0 is empty; pack counts modulo 2^30
 *
 * Invariants. The table is an accelerator, never the truth: whatever it says is confirmed against the full id in the
 * pack, so garbage in it costs time and nothing else. One writer (the holder of the coordinator lock), readers in any
 * number of processes, no lock: a row is one aligned word, written once, from 0 to its value; a row is entered before
 * the mark covers its pack, and readers load the mark before they probe (edge E11). An id's rows stand in its home bucket or
 * in the next HS_LOCATOR_BUCKETS - 1; a probe ends at the first bucket with an empty row, since rows are never taken
 * out. Growth and repair are one thing: a new file, all packs entered anew, renamed over the old name. */
#ifndef HS_LOCATOR_H
#define HS_LOCATOR_H
#include "hs_atomic.h"
#include "hs_base.h"

#define HS_LOCATOR_MAGIC        UINT64_C(0x31434f4c6f696c48) /* "HlioLOC1" */
#define HS_LOCATOR_VERSION      1u
#define HS_LOCATOR_HEADER_SIZE  4096u
#define HS_LOCATOR_WAYS         8u                  /* rows in a bucket */
#define HS_LOCATOR_BUCKETS      64u                 /* buckets that a probe may visit */
#define HS_LOCATOR_CAPACITY_MIN UINT64_C(1024)      /* rows */
#define HS_LOCATOR_CAPACITY_MAX (UINT64_C(1) << 36) /* rows */
#define HS_LOCATOR_TAG_BITS     14
#define HS_LOCATOR_PACK_BITS    30
#define HS_LOCATOR_ROW_BITS     20

typedef struct hs_locator_header {
    uint64_t magic; /* written last, when the file is whole */
    uint32_t version, header_size;
    uint64_t capacity; /* rows; a power of two */
    uint64_t seed[2];  /* of the choice of buckets: a hash that was searched for does not flood one */
    uint8_t pad0[24];
    hs_word mark;    /* all packs up to here are entered, as far as this boot goes */
    hs_word boot[2]; /* the boot in which that is so */
    hs_word rows;    /* entered; a count for deciding when to grow */
    uint8_t pad1[32];
    hs_word checkpoint,
        checkpoint_sum; /* all packs up to here are on disk in this file; the sum tells a torn one */
    uint8_t pad2[48];
} hs_locator_header;
_Static_assert(sizeof(hs_locator_header) == 192, "three lines");
_Static_assert(offsetof(hs_locator_header, mark) == 64 && offsetof(hs_locator_header, checkpoint) == 128,
               "lines");
_Static_assert(HS_LOCATOR_TAG_BITS + HS_LOCATOR_PACK_BITS + HS_LOCATOR_ROW_BITS == 64, "a row is one word");
#endif
