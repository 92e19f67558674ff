/* hs_record.c - commit records and blocks of them: encode, decode, refuse whatever is not canonical. Pure. */
#include "hs_record.h"
#include <assert.h>
#include "helios_shm.h"
#include "hs_blake3.h"

#define RECORD_TYPE    3
#define RECORD_VERSION 1
#define FLAGS_KNOWN    (HS_RECORD_DELETED | HS_RECORD_HAS_PARENT | HS_RECORD_HAS_SECOND | HS_RECORD_RESTORED)

static bool sizes_allowed(uint32_t name, uint32_t message, uint32_t metadata) {
    return name >= 1 && name <= HS_RECORD_NAME_MAX && message <= HS_RECORD_MESSAGE_MAX &&
           metadata <= HS_RECORD_METADATA_MAX;
}

size_t hs_record_encode(const hs_record *record, uint8_t *out) {
    assert(sizes_allowed(record->name_size, record->message_size, record->metadata_size) &&
           (record->flags & ~FLAGS_KNOWN) == 0);
    memset(out, 0, HS_RECORD_FIXED_SIZE);
    out[0] = RECORD_TYPE;
    out[1] = RECORD_VERSION;
    hs_store_u16(out + 2, record->flags);
    hs_store_u16(out + 4, record->name_size);
    hs_store_u32(out + 8, record->message_size);
    hs_store_u32(out + 12, record->metadata_size);
    hs_store_u64(out + 16, record->parent_word);
    hs_store_u64(out + 24, record->serial);
    hs_store_u64(out + 32, record->sequence);
    hs_store_u64(out + 40, record->incarnation);
    hs_store_u64(out + 48, (uint64_t)record->time_ns);
    hs_store_u64(out + 56, record->latency_ns);
    hs_store_u64(out + 64, record->new_bytes);
    hs_store_u64(out + 72, record->reused_bytes);
    hs_store_u32(out + 80, record->new_nodes);
    hs_store_u32(out + 84, record->changed_keys);
    hs_store_u32(out + 88, record->retries);
    memcpy(out + 96, record->root, 32);
    if (record->flags & HS_RECORD_HAS_PARENT) memcpy(out + 128, record->parent, 32);
    if (record->flags & HS_RECORD_HAS_SECOND) memcpy(out + 160, record->second, 32);
    uint8_t *end = out + HS_RECORD_FIXED_SIZE;
    memcpy(end, record->name, record->name_size);
    end += record->name_size;
    if (record->message_size > 0) memcpy(end, record->message, record->message_size);
    end += record->message_size;
    if (record->metadata_size > 0) memcpy(end, record->metadata, record->metadata_size);
    return (size_t)(end + record->metadata_size - out);
}

static bool is_zero(const uint8_t *bytes, size_t size) {
    uint8_t any = 0;
    for (size_t i = 0; i < size; i++) any |= bytes[i];
    return any == 0;
}

int hs_record_decode(const uint8_t *bytes, size_t size, hs_record *out) {
    if (size < HS_RECORD_FIXED_SIZE || bytes[0] != RECORD_TYPE || bytes[1] != RECORD_VERSION)
        return HS_CORRUPT;
    hs_record r = {.flags = hs_load_u16(bytes + 2),
                   .name_size = hs_load_u16(bytes + 4),
                   .message_size = hs_load_u32(bytes + 8),
                   .metadata_size = hs_load_u32(bytes + 12),
                   .parent_word = hs_load_u64(bytes + 16),
                   .serial = hs_load_u64(bytes + 24),
                   .sequence = hs_load_u64(bytes + 32),
                   .incarnation = hs_load_u64(bytes + 40),
                   .time_ns = (int64_t)hs_load_u64(bytes + 48),
                   .latency_ns = hs_load_u64(bytes + 56),
                   .new_bytes = hs_load_u64(bytes + 64),
                   .reused_bytes = hs_load_u64(bytes + 72),
                   .new_nodes = hs_load_u32(bytes + 80),
                   .changed_keys = hs_load_u32(bytes + 84),
                   .retries = hs_load_u32(bytes + 88)};
    if (!sizes_allowed(r.name_size, r.message_size, r.metadata_size)) return HS_CORRUPT;
    if (size != HS_RECORD_FIXED_SIZE + (size_t)r.name_size + r.message_size + r.metadata_size)
        return HS_CORRUPT;
    if ((r.flags & ~FLAGS_KNOWN) != 0 || !is_zero(bytes + 6, 2) || !is_zero(bytes + 92, 4)) return HS_CORRUPT;
    if (!(r.flags & HS_RECORD_HAS_PARENT) && !is_zero(bytes + 128, 32)) return HS_CORRUPT;
    if (!(r.flags & HS_RECORD_HAS_SECOND) && !is_zero(bytes + 160, 32)) return HS_CORRUPT;
    memcpy(r.root, bytes + 96, 32);
    memcpy(r.parent, bytes + 128, 32);
    memcpy(r.second, bytes + 160, 32);
    r.name = bytes + HS_RECORD_FIXED_SIZE;
    r.message = r.name + r.name_size;
    r.metadata = r.message + r.message_size;
    *out = r;
    return HS_OK;
}

int hs_log_validate(const uint8_t *block, size_t size) {
    if (size < hs_log_size(0, 0) || hs_load_u32(block) != HS_LOG_MAGIC) return HS_CORRUPT;
    uint64_t count = hs_load_u32(block + 4), first = hs_load_u64(block + 8), end = size - HS_LOG_SUM_SIZE;
    uint64_t offset = HS_LOG_FIXED_SIZE + 4 * (count + 1);
    if (offset > end) return HS_CORRUPT;
    uint8_t sum[HS_LOG_SUM_SIZE];
    hs_blake3(block, (size_t)end, sum);
    if (memcmp(sum, block + end, sizeof sum) != 0) return HS_CORRUPT;
    for (uint64_t i = 0; i <= count; i++) {
        const uint8_t *row = block + HS_LOG_FIXED_SIZE + 4 * i;
        uint64_t next = i == count ? end : hs_load_u32(row + 4);
        if (hs_load_u32(row) != offset || next < offset || next > end) return HS_CORRUPT;
        hs_record record;
        if (i < count && hs_record_decode(block + offset, next - offset, &record) != HS_OK) return HS_CORRUPT;
        if (i < count && record.serial != first + i) return HS_CORRUPT;
        offset = next;
    }
    return HS_OK;
}
