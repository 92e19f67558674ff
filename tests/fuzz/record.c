/* Fuzz target: commit records and log blocks. Input: {flags, bytes}.
 *
 * What hs_record_decode accepts is encoded again and must give the same bytes. For a block the flags say whether its
 * BLAKE3 is set right, since nothing but the hash would be tested otherwise. */
#include "hs_fuzz.h"
#include "hs_record.h"

enum { LOG = 1, FIX_SUM = 2, FIX_SIZES = 4 };

static void decode(const uint8_t *bytes, size_t size) {
    hs_record record;
    if (hs_record_decode(bytes, size, &record) != HS_OK) return;
    uint8_t *out = fuzz_memory(HS_RECORD_SIZE_MAX);
    MUST(hs_record_encode(&record, out) == size && memcmp(out, bytes, size) == 0);
    free(out);
}

/* The metadata takes what is left of a record. */
static void sizes_fix(uint8_t *bytes, size_t size) {
    if (size < HS_RECORD_FIXED_SIZE) return;
    size_t rest = size - HS_RECORD_FIXED_SIZE;
    uint32_t name = hs_load_u16(bytes + 4), message = hs_load_u32(bytes + 8);
    if ((size_t)name + message > rest) return;
    hs_store_u32(bytes + 12, (uint32_t)(rest - name - message));
}

static void log_read(uint8_t *block, size_t size, unsigned flags) {
    if ((flags & FIX_SUM) && size >= HS_LOG_SUM_SIZE)
        hs_blake3(block, size - HS_LOG_SUM_SIZE, block + size - HS_LOG_SUM_SIZE);
    if (hs_log_validate(block, size) != HS_OK) return;
    uint32_t count = hs_load_u32(block + 4);
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *row = block + HS_LOG_FIXED_SIZE + 4 * (size_t)i;
        uint32_t from = hs_load_u32(row), to = hs_load_u32(row + 4);
        hs_record record;
        MUST(from <= to && to <= size - HS_LOG_SUM_SIZE);
        MUST(hs_record_decode(block + from, to - from, &record) == HS_OK);
        MUST(record.serial == hs_load_u64(block + 8) + i);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    unsigned flags = (unsigned)fuzz_take(&in, 1);
    size_t bytes_size;
    uint8_t *bytes = fuzz_bytes(&in, in.left, &bytes_size);
    if (flags & LOG) {
        log_read(bytes, bytes_size, flags);
    } else {
        if (flags & FIX_SIZES) sizes_fix(bytes, bytes_size);
        decode(bytes, bytes_size);
    }
    free(bytes);
    return 0;
}
