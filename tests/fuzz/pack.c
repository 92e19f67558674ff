/* Fuzz target: packs. Input: {flags, how many rows to drop, which, the pack's bytes}.
 *
 * A pack is validated, each of its rows is read, its ids are entered in a locator and found there, and some rows are
 * dropped: what is left must be a pack again. The flags say whether offsets, payload size and sum are set right. */
#include "hs_fuzz.h"
#include "hs_locator.h"
#include "hs_pack.h"

#include <unistd.h>

enum { FIX_OFFSETS = 1, FIX_HEADER = 2, FIX_SUM = 4 };
enum { DROP_MAX = 8, PACKS_MAX = 512 };

/* Does the header's count of rows have room in the pack? */
static bool rows_fit(const uint8_t *pack, size_t size) {
    return size >= HS_PACK_HEADER_SIZE && hs_pack_payload_start(hs_pack_count(pack)) <= size;
}

static void fix(uint8_t *pack, size_t size, unsigned flags) {
    if (!rows_fit(pack, size)) return;
    uint32_t count = hs_pack_count(pack);
    size_t offset = hs_pack_payload_start(count), start = offset;
    for (uint32_t i = 0; (flags & FIX_OFFSETS) && i < count; i++) {
        uint8_t *row = pack + hs_pack_payload_start(i);
        uint32_t stored = i + 1 == count ? (uint32_t)(size - offset) : hs_load_u32(row + 36);
        hs_store_u32(row + 32, (uint32_t)offset);
        hs_store_u32(row + 36, stored);
        if (stored > size - offset) break;
        offset += stored;
    }
    uint8_t payload[8];
    hs_store_u64(payload, flags & FIX_HEADER ? size - start : hs_load_u64(pack + 16));
    uint64_t magic = hs_load_u64(pack);
    uint32_t version = hs_load_u32(pack + 8);
    if (flags & FIX_SUM) {
        hs_pack_seal(pack, count, hs_load_u64(payload));
        if (flags & FIX_HEADER) return;
        hs_store_u64(pack, magic);
        hs_store_u32(pack + 8, version);
    }
}

static void read_rows(const uint8_t *pack, size_t size) {
    uint8_t sum = 0;
    for (uint32_t i = 0; i < hs_pack_count(pack); i++) {
        hs_pack_row row = hs_pack_row_get(pack, i);
        MUST(row.offset <= size && row.stored_size <= size - row.offset);
        for (uint32_t b = 0; b < row.stored_size; b++) sum ^= pack[row.offset + b];
        sum ^= row.id[31];
    }
    (void)*(volatile uint8_t *)&sum;
}

/* Where the locator of this process is. */
static const char *locator_path(void) {
    static char path[64];
    if (!path[0]) snprintf(path, sizeof path, "/dev/shm/helios-fuzz-pack-%d", (int)getpid());
    return path;
}

/* Every id that was entered is found again, in this pack and row. */
static void locate(const uint8_t *pack, size_t size) {
    static const uint8_t boot[16] = {7};
    uint64_t packs[PACKS_MAX];
    uint32_t rows[PACKS_MAX], count = hs_pack_count(pack);
    hs_locator *locator;
    MUST(hs_locator_create(locator_path(), 1, boot, &locator) == HS_OK);
    unlink(locator_path());
    uint32_t *seen = fuzz_memory(count * sizeof *seen);
    MUST(hs_locator_candidates(locator, pack, seen, count) == 0);
    int status = hs_locator_insert(locator, 1, pack, size);
    for (uint32_t i = 0; status == HS_OK && i < count; i++) {
        const uint8_t *id = hs_pack_row_get(pack, i).id;
        int found = hs_locator_find(locator, id, packs, rows, PACKS_MAX);
        bool here = false;
        for (int n = 0; n < found; n++) here |= packs[n] == 1 && rows[n] == i;
        MUST(here);
    }
    if (status == HS_OK) MUST(hs_locator_candidates(locator, pack, seen, count) == (int)count);
    free(seen);
    hs_locator_close(locator);
}

static void drop(uint8_t *pack, size_t size, const uint32_t *rows, uint32_t count) {
    uint32_t before = hs_pack_count(pack);
    size_t left = size;
    if (hs_pack_drop(pack, &left, rows, count) != HS_OK) return;
    MUST(left <= size && hs_pack_count(pack) == before - count);
    uint8_t *exact = fuzz_memory(left);
    memcpy(exact, pack, left);
    MUST(hs_pack_validate(exact, left) == HS_OK);
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    unsigned flags = (unsigned)fuzz_take(&in, 1);
    uint32_t rows[DROP_MAX], count = fuzz_below(&in, DROP_MAX + 1);
    for (uint32_t i = 0; i < count; i++) rows[i] = (uint32_t)fuzz_take(&in, 1);
    size_t pack_size;
    uint8_t *pack = fuzz_bytes(&in, in.left, &pack_size);
    fix(pack, pack_size, flags);
    if (hs_pack_validate(pack, pack_size) == HS_OK) {
        read_rows(pack, pack_size);
        locate(pack, pack_size);
        drop(pack, pack_size, rows, count);
    }
    free(pack);
    return 0;
}
