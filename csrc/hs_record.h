/* hs_record.h - the commit record: canonical little-endian bytes, the same in the ring and in L2's log.
 *
 *    0  u8 type = 3 | u8 version = 1 | u16 flags | u16 name_size | u16 0 | u32 message_size | u32 metadata_size
 *   16  root[32] | u64 incarnation        (these 40 bytes are what a workspace on a branch stands on)
 *   56  u64 parent_word (place of the parent's record in the segment it was made in, or HS_WORD_IN_L2 | n)
 *   64  u64 serial (1, 2, ... over all incarnations) | u64 sequence (1, 2, ... in this one)
 *   80  i64 time_ns (since the epoch) | u64 latency_ns | u64 new_bytes | u64 reused_bytes
 *  112  u32 new_nodes | u32 changed_keys | u32 retries | u32 0
 *  128  parent[32] (root of the previous head) | second parent[32]
 *  192  name | message | metadata (UTF-8; metadata is JSON)
 */
#ifndef HS_RECORD_H
#define HS_RECORD_H
#include "hs_base.h"

#define HS_RECORD_FIXED_SIZE   192u
#define HS_RECORD_BASE_OFFSET  16u /* of root and incarnation */
#define HS_RECORD_NAME_MAX     255u
#define HS_RECORD_MESSAGE_MAX  32768u
#define HS_RECORD_METADATA_MAX 32768u
#define HS_RECORD_SIZE_MAX                                                                                   \
    (HS_RECORD_FIXED_SIZE + HS_RECORD_NAME_MAX + HS_RECORD_MESSAGE_MAX + HS_RECORD_METADATA_MAX)
enum hs_record_flag {
    HS_RECORD_DELETED = 1,
    HS_RECORD_HAS_PARENT = 2,
    HS_RECORD_HAS_SECOND = 4,
    HS_RECORD_RESTORED = 8
};

typedef struct hs_record {
    uint16_t flags, name_size;
    uint32_t message_size, metadata_size;
    uint64_t parent_word, serial, sequence, incarnation;
    int64_t time_ns;
    uint64_t latency_ns, new_bytes, reused_bytes;
    uint32_t new_nodes, changed_keys, retries;
    uint8_t root[32], parent[32], second[32];
    const uint8_t *name, *message, *metadata; /* point into the bytes that were decoded */
} hs_record;

/* Bytes written; out has HS_RECORD_SIZE_MAX. Sizes are within their bounds and flags known (asserted). `parent` is written only
 * with HS_RECORD_HAS_PARENT, `second` only with HS_RECORD_HAS_SECOND; they are zeros otherwise. */
size_t hs_record_encode(const hs_record *record, uint8_t *out);
/* HS_OK; HS_CORRUPT for everything that hs_record_encode would not have written. `out` points into `bytes`. */
int hs_record_decode(const uint8_t *bytes, size_t size, hs_record *out);

/* A log block: records of one chain, oldest first, with consecutive serials.
 *
 *    0  u32 magic | u32 count | u64 serial of the first
 *   16  u32 offset[count + 1]      from the block's start; the last one is where the records end
 *       records, back to back | BLAKE3[32] of all before it */
#define HS_LOG_MAGIC      UINT32_C(0x474c4c48) /* "HLLG" */
#define HS_LOG_FIXED_SIZE 16u
#define HS_LOG_SUM_SIZE   32u
/* Bytes of a block with so many records of so many bytes together. */
static inline size_t hs_log_size(size_t count, size_t record_bytes) {
    return HS_LOG_FIXED_SIZE + 4 * (count + 1) + record_bytes + HS_LOG_SUM_SIZE;
}
/* hs_log_validate is declared in helios_shm.h. */
#endif
