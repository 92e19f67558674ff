/* hs_pack.c - rows, seal, validate, drop. hs_pack_validate and hs_pack_drop are declared in helios_shm.h. */
#include "hs_pack.h"
#include "helios_shm.h"
#include "hs_blake3.h"

#define SUM_AT 24u /* where the sum stands; what is before it is in it */

hs_pack_row hs_pack_row_get(const uint8_t *pack, uint32_t index) {
    const uint8_t *row = pack + hs_pack_payload_start(index);
    return (hs_pack_row){.id = row,
                         .offset = hs_load_u32(row + 32),
                         .stored_size = hs_load_u32(row + 36),
                         .raw_size = hs_load_u64(row + 40),
                         .kind = row[48],
                         .codec = row[49]};
}

void hs_pack_row_set(uint8_t *pack, uint32_t index, const hs_pack_row *row) {
    uint8_t *to = pack + hs_pack_payload_start(index);
    if (to != row->id) memmove(to, row->id, 32);
    hs_store_u32(to + 32, row->offset);
    hs_store_u32(to + 36, row->stored_size);
    hs_store_u64(to + 40, row->raw_size);
    to[48] = row->kind;
    to[49] = row->codec;
    memset(to + 50, 0, 6);
}

static uint64_t pack_sum(const uint8_t *pack, uint32_t count) {
    uint8_t bytes[SUM_AT + 32], hash[32];
    memcpy(bytes, pack, SUM_AT);
    hs_blake3(pack + HS_PACK_HEADER_SIZE, hs_pack_payload_start(count) - HS_PACK_HEADER_SIZE, bytes + SUM_AT);
    hs_blake3(bytes, sizeof bytes, hash);
    return hs_load_u64(hash);
}

void hs_pack_seal(uint8_t *pack, uint32_t count, uint64_t payload_bytes) {
    hs_store_u64(pack, HS_PACK_MAGIC);
    hs_store_u32(pack + 8, HS_PACK_VERSION);
    hs_store_u32(pack + 12, count);
    hs_store_u64(pack + 16, payload_bytes);
    hs_store_u64(pack + SUM_AT, pack_sum(pack, count));
}

/* Rows in order, payloads back to back, sizes that agree with each other; the last payload ends the pack. */
static bool rows_agree(const uint8_t *pack, uint32_t count, uint64_t size) {
    uint64_t offset = hs_pack_payload_start(count);
    for (uint32_t i = 0; i < count; i++) {
        hs_pack_row row = hs_pack_row_get(pack, i);
        if (row.offset != offset || row.stored_size > size - offset) return false;
        offset += row.stored_size;
    }
    return offset == size;
}

int hs_pack_validate(const uint8_t *pack, size_t size) {
    if (size < HS_PACK_HEADER_SIZE || size > UINT32_MAX) return HS_CORRUPT;
    if (hs_load_u64(pack) != HS_PACK_MAGIC || hs_load_u32(pack + 8) != HS_PACK_VERSION) return HS_CORRUPT;
    uint32_t count = hs_pack_count(pack);
    if (hs_pack_payload_start(count) > size || hs_load_u64(pack + 16) != size - hs_pack_payload_start(count))
        return HS_CORRUPT;
    if (hs_load_u64(pack + SUM_AT) != pack_sum(pack, count)) return HS_CORRUPT;
    return rows_agree(pack, count, size) ? HS_OK : HS_CORRUPT;
}

/* Are the indices ascending and inside? */
static bool indices_agree(const uint32_t *rows, uint32_t count, uint32_t pack_count) {
    for (uint32_t i = 0; i < count; i++)
        if (rows[i] >= pack_count || (i > 0 && rows[i] <= rows[i - 1])) return false;
    return true;
}

int hs_pack_drop(uint8_t *pack, size_t *size, const uint32_t *rows, uint32_t count) {
    uint32_t before = hs_pack_count(pack), kept = 0, dropped = 0;
    if (!indices_agree(rows, count, before)) return HS_ARGUMENT;
    if (count == 0) return HS_OK;
    /* Everything moves towards the front, rows first: a payload's new place never reaches one that is still to move. */
    size_t end = hs_pack_payload_start(before - count);
    for (uint32_t i = 0; i < before; i++) {
        if (dropped < count && rows[dropped] == i) {
            dropped++;
            continue;
        }
        hs_pack_row row = hs_pack_row_get(pack, i);
        hs_pack_row_set(pack, kept++, &row);
    }
    for (uint32_t i = 0; i < kept; i++) {
        hs_pack_row row = hs_pack_row_get(pack, i);
        memmove(pack + end, pack + row.offset, row.stored_size);
        row.offset = (uint32_t)end;
        hs_pack_row_set(pack, i, &row);
        end += row.stored_size;
    }
    hs_pack_seal(pack, kept, end - hs_pack_payload_start(kept));
    *size = end;
    return HS_OK;
}
