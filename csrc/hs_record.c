/* hs_record.c - commit records and blocks of them: encode, decode, refuse whatever is not canonical. Pure. */
#include "hs_record.h"
#include <assert.h>
#include "helios_shm.h"
#include "hs_blake3.h"

#define RECORD_TYPE    3
#define RECORD_VERSION 1
#define FLAGS_KNOWN    (HS_RECORD_DELETED | HS_RECORD_HAS_PARENT | HS_RECORD_HAS_SECOND | HS_RECORD_RESTORED)

/* A record without a serial is that of a detached commit: it has no branch's name and is kept nowhere. */
static bool sizes_allowed(uint64_t serial, uint32_t name, uint32_t message, uint32_t metadata) {
    return (name >= 1) == (serial >= 1) && name <= HS_RECORD_NAME_MAX && message <= HS_RECORD_MESSAGE_MAX &&
           metadata <= HS_RECORD_METADATA_MAX;
}

size_t hs_record_encode(const hs_record *record, uint8_t *out) {
    assert(sizes_allowed(record->serial, record->name_size, record->message_size, record->metadata_size) &&
           (record->flags & ~FLAGS_KNOWN) == 0);
    memset(out, 0, HS_RECORD_FIXED_SIZE);
    out[0] = RECORD_TYPE;
    out[1] = RECORD_VERSION;
    hs_store_u16(out + 2, record->flags);
    hs_store_u16(out + 4, record->name_size);
    hs_store_u32(out + 8, record->message_size);
    hs_store_u32(out + 12, record->metadata_size);
    hs_store_u64(out + 56, record->parent_word);
    hs_store_u64(out + 64, record->serial);
    hs_store_u64(out + 72, record->sequence);
    hs_store_u64(out + 48, record->incarnation);
    hs_store_u64(out + 80, (uint64_t)record->time_ns);
    hs_store_u64(out + 88, record->latency_ns);
    hs_store_u64(out + 96, record->new_bytes);
    hs_store_u64(out + 104, record->reused_bytes);
    hs_store_u32(out + 112, record->new_nodes);
    hs_store_u32(out + 116, record->changed_keys);
    hs_store_u32(out + 120, record->retries);
    memcpy(out + 16, record->root, 32);
    if (record->flags & HS_RECORD_HAS_PARENT) memcpy(out + 128, record->parent, 32);
    if (record->flags & HS_RECORD_HAS_SECOND) memcpy(out + 160, record->second, 32);
    uint8_t *end = out + HS_RECORD_FIXED_SIZE;
    if (record->name_size > 0) memcpy(end, record->name, record->name_size);
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
                   .parent_word = hs_load_u64(bytes + 56),
                   .serial = hs_load_u64(bytes + 64),
                   .sequence = hs_load_u64(bytes + 72),
                   .incarnation = hs_load_u64(bytes + 48),
                   .time_ns = (int64_t)hs_load_u64(bytes + 80),
                   .latency_ns = hs_load_u64(bytes + 88),
                   .new_bytes = hs_load_u64(bytes + 96),
                   .reused_bytes = hs_load_u64(bytes + 104),
                   .new_nodes = hs_load_u32(bytes + 112),
                   .changed_keys = hs_load_u32(bytes + 116),
                   .retries = hs_load_u32(bytes + 120)};
    if (!sizes_allowed(r.serial, r.name_size, r.message_size, r.metadata_size)) return HS_CORRUPT;
    if (size != HS_RECORD_FIXED_SIZE + (size_t)r.name_size + r.message_size + r.metadata_size)
        return HS_CORRUPT;
    if ((r.flags & ~FLAGS_KNOWN) != 0 || !is_zero(bytes + 6, 2) || !is_zero(bytes + 124, 4))
        return HS_CORRUPT;
    if (!(r.flags & HS_RECORD_HAS_PARENT) && !is_zero(bytes + 128, 32)) return HS_CORRUPT;
    if (!(r.flags & HS_RECORD_HAS_SECOND) && !is_zero(bytes + 160, 32)) return HS_CORRUPT;
    memcpy(r.root, bytes + 16, 32);
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
