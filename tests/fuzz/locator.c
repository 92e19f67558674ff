/* Fuzz target: a locator file that somebody else wrote. Input: {flags, patches of the header, rows, ids}.
 *
 *   a file of the smallest size, whole -> patches {offset, u64} -> rows {home of an id or any place, word} -> open -> use
 *
 * The flags say whether the checkpoint's sum is set right, and whether the file is cut or longer than it says. */
#include "hs_fuzz.h"
#include "hs_locator.h"
#include "hs_pack.h"

#include <fcntl.h>
#include <unistd.h>

enum { FIX_SUM = 1, CUT = 2, WRITABLE = 4, LONGER = 8 };
enum { IDS = 8, FOUND_MAX = 512, PATCHES_MAX = 16, ROWS_MAX = 96 };

static const uint8_t boot[16] = {3, 1, 4};

static const char *path(void) {
    static char name[64];
    if (!name[0]) snprintf(name, sizeof name, "/dev/shm/helios-fuzz-locator-%d", (int)getpid());
    return name;
}

static void id_make(unsigned n, uint8_t id[32]) {
    memset(id, (int)(n * 37), 32);
    id[0] = (uint8_t)n;
}

static void patch(int fd, uint64_t offset, uint64_t word) {
    MUST(pwrite(fd, &word, sizeof word, (off_t)offset) == (ssize_t)sizeof word);
}

static uint64_t header_word(int fd, size_t offset) {
    uint64_t word = 0;
    (void)!pread(fd, &word, sizeof word, (off_t)offset);
    return word;
}

static void sum_fix(int fd) {
    uint64_t checkpoint = header_word(fd, offsetof(hs_locator_header, checkpoint));
    uint64_t a = header_word(fd, offsetof(hs_locator_header, seed)),
             b = header_word(fd, offsetof(hs_locator_header, seed) + 8);
    patch(fd, offsetof(hs_locator_header, checkpoint_sum),
          (checkpoint ^ a) * UINT64_C(0x9e3779b97f4a7c15) + b + 1);
}

/* The same bucket as the library's, for rows that stand where they are looked for. */
static uint64_t home_of(int fd, const uint8_t id[32]) {
    uint64_t a = hs_load_u64(id) ^ header_word(fd, offsetof(hs_locator_header, seed)),
             b = hs_load_u64(id + 8) ^ header_word(fd, offsetof(hs_locator_header, seed) + 8);
    unsigned __int128 product = (unsigned __int128)(a | 1) * (b | 1);
    return ((uint64_t)product ^ (uint64_t)(product >> 64)) & (HS_LOCATOR_CAPACITY_MIN / HS_LOCATOR_WAYS - 1);
}

static void file_make(fuzz_input *in, unsigned flags) {
    hs_locator *locator;
    unlink(path());
    MUST(hs_locator_create(path(), 1, boot, &locator) == HS_OK);
    hs_locator_close(locator);
    int fd = open(path(), O_RDWR | O_CLOEXEC);
    MUST(fd >= 0);
    patch(fd, offsetof(hs_locator_header, seed), 1); /* the same choices for the same input */
    patch(fd, offsetof(hs_locator_header, seed) + 8, 2);
    patch(fd, offsetof(hs_locator_header, checkpoint_sum), 0);
    for (uint32_t n = fuzz_below(in, PATCHES_MAX); n > 0; n--) {
        uint64_t offset = fuzz_below(in, sizeof(hs_locator_header) / 8) * 8u;
        patch(fd, offset, fuzz_take(in, 8));
    }
    for (uint32_t n = fuzz_below(in, ROWS_MAX); n > 0; n--) {
        uint8_t id[32];
        id_make(fuzz_below(in, IDS), id);
        uint64_t way = fuzz_below(in, HS_LOCATOR_WAYS), step = fuzz_below(in, HS_LOCATOR_BUCKETS + 2);
        uint64_t bucket = (home_of(fd, id) + step) % (HS_LOCATOR_CAPACITY_MIN / HS_LOCATOR_WAYS);
        uint64_t tag = hs_load_u64(id + 16) << (64 - HS_LOCATOR_TAG_BITS);
        uint64_t word = fuzz_chance(in) ? fuzz_take(in, 8) : tag | fuzz_take(in, 6);
        patch(fd, HS_LOCATOR_HEADER_SIZE + (bucket * HS_LOCATOR_WAYS + way) * 8, word);
    }
    if (flags & FIX_SUM) sum_fix(fd);
    if (flags & CUT) MUST(ftruncate(fd, (off_t)fuzz_take(in, 2)) == 0);
    if (flags & LONGER) MUST(ftruncate(fd, (off_t)fuzz_take(in, 3)) == 0);
    close(fd);
}

static void find_all(const hs_locator *locator, uint32_t capacity) {
    uint64_t *packs = fuzz_memory(capacity * sizeof *packs);
    uint32_t *rows = fuzz_memory(capacity * sizeof *rows);
    for (unsigned n = 0; n < IDS; n++) {
        uint8_t id[32];
        id_make(n, id);
        int found = hs_locator_find(locator, id, packs, rows, capacity);
        MUST(found >= 0 && (uint32_t)found <= capacity);
        for (int i = 0; i < found; i++) {
            MUST(packs[i] != 0 && rows[i] < (1u << HS_LOCATOR_ROW_BITS));
            MUST(i == 0 || packs[i - 1] <= packs[i]);
        }
    }
    free(packs);
    free(rows);
}

/* A pack of all ids, without payloads. */
static void enter(hs_locator *locator, uint64_t number) {
    size_t size = hs_pack_payload_start(IDS);
    uint8_t *pack = fuzz_memory(size);
    uint32_t rows[IDS];
    for (unsigned n = 0; n < IDS; n++) {
        uint8_t id[32];
        id_make(n, id);
        hs_pack_row row = {.id = id, .offset = (uint32_t)size, .kind = HS_ENTRY_BLOB};
        hs_pack_row_set(pack, n, &row);
    }
    hs_pack_seal(pack, IDS, 0);
    MUST(hs_locator_candidates(locator, pack, rows, IDS) <= IDS);
    (void)hs_locator_insert(locator, number, pack, size);
    free(pack);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    unsigned flags = (unsigned)fuzz_take(&in, 1);
    uint64_t number = fuzz_take(&in, 8);
    uint32_t capacity = 1 + fuzz_below(&in, FOUND_MAX);
    hs_locator_info info;
    hs_locator *locator;
    file_make(&in, flags);
    if (hs_locator_open(path(), (flags & WRITABLE) != 0, &locator) == HS_OK) {
        hs_locator_info_get(locator, &info);
        MUST(hs_locator_is_named(locator, path()) == 1);
        find_all(locator, capacity);
        enter(locator, number);
        (void)hs_locator_mark(locator, number, boot);
        (void)hs_locator_checkpoint(locator);
        hs_locator_info_get(locator, &info);
        if (flags & WRITABLE) MUST(info.mark == number && info.checkpoint == number);
        find_all(locator, capacity);
        hs_locator_close(locator);
    }
    unlink(path());
    return 0;
}
