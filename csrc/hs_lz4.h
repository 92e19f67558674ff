/* hs_lz4.h - values as LZ4 blocks: the encoder. Reading them is left to the LZ4 library (helios_shm/codec.py).
 *
 *   raw  --five bytes, hashed-->  heads: newest position with that hash  --chain: how far back to the one before-->  ...
 *   stored:  {token: literals:4 match:4} [more literals] literals  {u16 offset} [more match]   ...   token literals
 *
 * A match may lie up to 64 KiB back; a few candidates are compared, and a match is put off by one byte if a longer one begins there. So
 * it stands between LZ4's fast mode and its high compression. What looks random is not tried at all: eight samples of the value tell.
 *
 * Pure but for its table, which is used by one thread at a time and says nothing from one call to the next. */
#ifndef HS_LZ4_H
#define HS_LZ4_H
#include "hs_base.h"

#define HS_LZ4_HASH_BITS 14
#define HS_LZ4_WINDOW    65536u
#define HS_LZ4_RAW_MAX   (UINT32_C(1) << 20)

typedef struct hs_lz4_table {
    uint32_t base; /* position 0 of this call; what the last calls left lies below it */
    uint32_t heads[1 << HS_LZ4_HASH_BITS];
    uint16_t chain[HS_LZ4_WINDOW];
} hs_lz4_table;

/* A table that starts as zeros is right. The size of the block; 0: it would be larger than `capacity`, or the value looks random
 * (or is larger than HS_LZ4_RAW_MAX), and stays as it is. */
size_t hs_lz4_encode(hs_lz4_table *table, const uint8_t *raw, size_t size, uint8_t *stored, size_t capacity);
#endif
