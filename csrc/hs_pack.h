/* hs_pack.h - the pack: one batch of entries as L2 stores it, with its table of contents. Pure.
 *
 *    0  u64 magic | u32 version = 1 | u32 count | u64 payload_bytes | u64 sum
 *   32  rows[count] of 56 bytes:   id[32] | u32 offset (from the pack's start) | u32 stored | u64 raw | u8 kind | u8 codec | 0[6]
 *       payloads, back to back, in the order of the rows
 *
 * Little-endian. sum: the first 8 bytes of BLAKE3 over {the header's first 24 bytes, BLAKE3 of the rows}. Payloads are not
 * in it: their ids say what they are. */
#ifndef HS_PACK_H
#define HS_PACK_H
#include "hs_base.h"

#define HS_PACK_MAGIC       UINT64_C(0x314b43504f494c48) /* "HLIOPCK1" */
#define HS_PACK_VERSION     1u
#define HS_PACK_HEADER_SIZE 32u
#define HS_PACK_ROW_SIZE    56u

typedef struct hs_pack_row {
    const uint8_t *id; /* points into the pack */
    uint32_t offset, stored_size;
    uint64_t raw_size;
    uint8_t kind, codec;
} hs_pack_row;

static inline uint32_t hs_pack_count(const uint8_t *pack) { return hs_load_u32(pack + 12); }
static inline size_t hs_pack_payload_start(uint32_t count) {
    return HS_PACK_HEADER_SIZE + (size_t)count * HS_PACK_ROW_SIZE;
}
/* Row `index` (< count) of a pack that was validated. */
hs_pack_row hs_pack_row_get(const uint8_t *pack, uint32_t index);
void hs_pack_row_set(uint8_t *pack, uint32_t index, const hs_pack_row *row);
/* Write the header of a pack whose rows stand; with the sum. */
void hs_pack_seal(uint8_t *pack, uint32_t count, uint64_t payload_bytes);
#endif
