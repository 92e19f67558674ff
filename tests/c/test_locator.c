/* test_locator: the mapped table beside LMDB. Packs here are headers and rows without payloads: it reads no more. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "hs_base.h"
#include "hs_locator.h"
#include "hs_pack.h"
#include "hs_test.h"
#include "helios_shm.h"

enum { FOUND_MAX = 512 };
static const uint8_t boot_a[16] = "the first boot", boot_b[16] = "the second one";
static char directory[] = "/tmp/hs-locator-XXXXXX";
static char path[64];

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static void id_make(uint64_t seed, uint8_t *id) {
    for (uint64_t i = 0; i < 4; i++) hs_store_u64(id + 8 * i, mix(seed * 4 + i + 1));
}

/* A pack whose rows are ids first .. first + count - 1. */
static uint8_t *pack_make(uint64_t first, uint32_t count, size_t *size) {
    *size = hs_pack_payload_start(count);
    uint8_t *pack = calloc(1, *size);
    REQUIRE(pack != NULL);
    hs_store_u64(pack, HS_PACK_MAGIC);
    hs_store_u32(pack + 8, HS_PACK_VERSION);
    hs_store_u32(pack + 12, count);
    for (uint32_t row = 0; row < count; row++) id_make(first + row, pack + hs_pack_payload_start(row));
    return pack;
}

static int pack_enter(hs_locator *locator, uint64_t number, uint64_t first, uint32_t count) {
    size_t size;
    uint8_t *pack = pack_make(first, count, &size);
    int status = hs_locator_insert(locator, number, pack, size);
    free(pack);
    return status;
}

static hs_locator *fresh(uint64_t capacity) {
    hs_locator *locator = NULL;
    unlink(path);
    REQUIRE(hs_locator_create(path, capacity, boot_a, &locator) == HS_OK);
    return locator;
}

static bool names(const hs_locator *locator, uint64_t seed, uint64_t pack, uint32_t row) {
    uint8_t id[32];
    uint64_t packs[FOUND_MAX];
    uint32_t rows[FOUND_MAX];
    id_make(seed, id);
    int count = hs_locator_find(locator, id, packs, rows, FOUND_MAX);
    bool found = false;
    for (int i = 0; i < count; i++) found |= packs[i] == pack && rows[i] == row;
    return found;
}

static hs_locator_info info_of(const hs_locator *locator) {
    hs_locator_info info;
    hs_locator_info_get(locator, &info);
    return info;
}

static void every_entered_row_is_found_at_any_load(void) {
    hs_locator *locator = fresh(1 << 16);
    uint64_t pack = 0;
    while (pack_enter(locator, pack + 1, pack * 1000, 1000) == HS_OK) pack++;
    CHECK(pack == 45); /* 0.7 of 65536 rows */
    for (uint64_t seed = 0; seed < pack * 1000; seed++)
        CHECK(names(locator, seed, seed / 1000 + 1, (uint32_t)(seed % 1000)));
    CHECK_EQ_INT(info_of(locator).rows, pack * 1000);
    hs_locator_close(locator);
}

static void few_unknown_ids_have_candidates(void) {
    hs_locator *locator = fresh(1 << 16);
    for (uint64_t pack = 0; pack < 40; pack++)
        CHECK(pack_enter(locator, pack + 1, pack * 1000, 1000) == HS_OK);
    size_t size;
    uint8_t *pack = pack_make(UINT64_C(1) << 40, 10000, &size);
    uint32_t *rows = calloc(10000, sizeof *rows);
    REQUIRE(rows != NULL);
    int suspects = hs_locator_candidates(locator, pack, rows, 10000);
    CHECK(suspects < 50); /* expected: some 8 rows looked at, a tag of 14 bits */
    free(pack);
    pack = pack_make(500, 100, &size);
    CHECK_EQ_INT(hs_locator_candidates(locator, pack, rows, 100), 100);
    CHECK_EQ_INT(hs_locator_candidates(locator, pack, rows, 7), 7);
    CHECK_EQ_INT(rows[6], 6);
    free(pack);
    free(rows);
    hs_locator_close(locator);
}

static void entering_twice_changes_nothing(void) {
    hs_locator *locator = fresh(4096);
    CHECK_EQ_INT(pack_enter(locator, 1, 0, 100), HS_OK);
    CHECK_EQ_INT(pack_enter(locator, 1, 0, 100), HS_OK);
    CHECK_EQ_INT(info_of(locator).rows, 100);
    hs_locator_close(locator);
}

static void an_id_in_many_packs_comes_with_all_of_them_newest_last(void) {
    hs_locator *locator = fresh(4096);
    const uint64_t numbers[] = {7, 3, 9, 1};
    for (int i = 0; i < 4; i++) CHECK_EQ_INT(pack_enter(locator, numbers[i], 5, 1), HS_OK);
    uint8_t id[32];
    uint64_t packs[8];
    uint32_t rows[8];
    id_make(5, id);
    CHECK_EQ_INT(hs_locator_find(locator, id, packs, rows, 8), 4);
    CHECK(packs[0] == 1 && packs[1] == 3 && packs[2] == 7 && packs[3] == 9);
    CHECK_EQ_INT(hs_locator_find(locator, id, packs, rows, 2), 2);
    hs_locator_close(locator);
}

/* All rows with one id: the probe is bounded, the table says so, and nothing that stands is lost. */
static void a_flooded_bucket_asks_for_growth(void) {
    hs_locator *locator = fresh(1 << 16);
    uint64_t pack = 1;
    while (pack_enter(locator, pack, 5, 1) == HS_OK) pack++;
    CHECK_EQ_INT(pack - 1, HS_LOCATOR_BUCKETS * HS_LOCATOR_WAYS);
    CHECK_EQ_INT(pack_enter(locator, pack, 5, 1), HS_WAIT);
    CHECK(names(locator, 5, 1, 0) && names(locator, 5, pack - 1, 0));
    hs_locator_close(locator);
}

static void pack_numbers_beyond_their_bits_are_told_by_the_mark(void) {
    hs_locator *locator = fresh(4096);
    const uint64_t far = (UINT64_C(5) << HS_LOCATOR_PACK_BITS) + 17;
    CHECK_EQ_INT(hs_locator_mark(locator, far, boot_a), HS_OK);
    CHECK_EQ_INT(pack_enter(locator, far, 1, 1), HS_OK);
    CHECK_EQ_INT(pack_enter(locator, far + 5, 2, 1), HS_OK); /* above the mark, not marked yet */
    CHECK_EQ_INT(pack_enter(locator, far - 1000000, 3, 1), HS_OK);
    CHECK(names(locator, 1, far, 0) && names(locator, 2, far + 5, 0) && names(locator, 3, far - 1000000, 0));
    hs_locator_close(locator);
}

static void mark_boot_and_checkpoint_survive_reopening(void) {
    hs_locator *locator = fresh(4096);
    CHECK_EQ_INT(pack_enter(locator, 1, 0, 10), HS_OK);
    CHECK_EQ_INT(hs_locator_mark(locator, 1, boot_a), HS_OK);
    CHECK_EQ_INT(hs_locator_checkpoint(locator), HS_OK);
    CHECK_EQ_INT(hs_locator_mark(locator, 2, boot_b), HS_OK);
    hs_locator_close(locator);
    hs_locator *reader;
    REQUIRE(hs_locator_open(path, 0, &reader) == HS_OK);
    hs_locator_info info = info_of(reader);
    CHECK_EQ_INT(info.mark, 2);
    CHECK_EQ_INT(info.checkpoint, 1);
    CHECK_EQ_INT(info.capacity, 4096);
    CHECK_EQ_MEM(info.boot_id, boot_b, 16);
    CHECK(names(reader, 3, 1, 3));
    CHECK_EQ_INT(hs_locator_is_named(reader, path), 1);
    CHECK_EQ_INT(hs_locator_mark(reader, 3, boot_a), HS_ARGUMENT);
    CHECK_EQ_INT(hs_locator_checkpoint(reader), HS_ARGUMENT);
    CHECK_EQ_INT(pack_enter(reader, 3, 0, 1), HS_ARGUMENT);
    unlink(path);
    CHECK_EQ_INT(hs_locator_is_named(reader, path), 0);
    CHECK_EQ_INT(hs_locator_is_named(reader, "/dev/null/x"), HS_SYSTEM);
    hs_locator_close(fresh(1024));
    CHECK_EQ_INT(hs_locator_is_named(reader, path), 0);
    hs_locator_close(reader);
}

static void a_new_file_is_private_and_never_replaces_one(void) {
    hs_locator *locator = fresh(1), *other;
    struct stat status;
    REQUIRE(stat(path, &status) == 0);
    CHECK_EQ_INT(status.st_mode & 0777, 0600);
    CHECK_EQ_INT(info_of(locator).capacity, HS_LOCATOR_CAPACITY_MIN);
    CHECK_EQ_INT(hs_locator_create(path, 1024, boot_a, &other), HS_EXISTS);
    CHECK_EQ_INT(hs_locator_create("/tmp/never", HS_LOCATOR_CAPACITY_MAX + 1, boot_a, &other), HS_ARGUMENT);
    CHECK_EQ_INT(hs_locator_create("/nowhere/at/all", 1024, boot_a, &other), HS_SYSTEM);
    CHECK_EQ_INT(hs_errno(), ENOENT);
    hs_locator_close(locator);
    hs_locator_close(NULL);
}

static void write_at(off_t at, const void *bytes, size_t size) {
    int fd = open(path, O_WRONLY);
    REQUIRE(fd >= 0 && pwrite(fd, bytes, size, at) == (ssize_t)size);
    close(fd);
}

static void files_of_another_kind_are_refused(void) {
    hs_locator *locator;
    CHECK_EQ_INT(hs_locator_open("/tmp/hs-no-such-locator", 0, &locator), HS_NOT_FOUND);
    CHECK_EQ_INT(hs_locator_open(directory, 0, &locator), HS_SYSTEM);
    REQUIRE(unlink(path) == 0 && mkfifo(path, 0600) == 0); /* nobody will ever write to it */
    CHECK_EQ_INT(hs_locator_open(path, 0, &locator), HS_CORRUPT);
    REQUIRE(unlink(path) == 0);
    const uint32_t version = 9;
    const uint64_t capacity = 3000;
    hs_locator_close(fresh(1024));
    write_at(0, "garbage", 7);
    CHECK_EQ_INT(hs_locator_open(path, 0, &locator), HS_CORRUPT);
    hs_locator_close(fresh(1024));
    write_at(8, &version, 4);
    CHECK_EQ_INT(hs_locator_open(path, 0, &locator), HS_FORMAT);
    hs_locator_close(fresh(1024));
    write_at(16, &capacity, 8);
    CHECK_EQ_INT(hs_locator_open(path, 0, &locator), HS_CORRUPT);
    hs_locator_close(fresh(1024));
    REQUIRE(truncate(path, 5000) == 0);
    CHECK_EQ_INT(hs_locator_open(path, 0, &locator), HS_CORRUPT);
    REQUIRE(truncate(path, 50) == 0);
    CHECK_EQ_INT(hs_locator_open(path, 0, &locator), HS_CORRUPT);
}

static void a_torn_checkpoint_counts_as_none(void) {
    hs_locator *locator = fresh(1024);
    CHECK_EQ_INT(hs_locator_mark(locator, 5, boot_a), HS_OK);
    CHECK_EQ_INT(hs_locator_checkpoint(locator), HS_OK);
    CHECK_EQ_INT(info_of(locator).checkpoint, 5);
    const uint64_t lie = 6;
    write_at((off_t)offsetof(hs_locator_header, checkpoint), &lie, 8);
    CHECK_EQ_INT(info_of(locator).checkpoint, 0);
    hs_locator_close(locator);
}

/* A power cut kept the header and lost rows, or the other way round; a writer died having entered rows and not counted
 * them. Whoever opens the file to go on counts what is there, or the table would be taken for fuller or emptier for ever. */
static void rows_are_counted_anew_by_who_goes_on_writing(void) {
    hs_locator *locator = fresh(1024);
    CHECK_EQ_INT(pack_enter(locator, 1, 0, 100), HS_OK);
    hs_locator_close(locator);
    const uint64_t lie = 77;
    write_at((off_t)offsetof(hs_locator_header, rows), &lie, 8);
    REQUIRE(hs_locator_open(path, 0, &locator) == HS_OK);
    CHECK_EQ_INT(info_of(locator).rows, 77);
    hs_locator_close(locator);
    REQUIRE(hs_locator_open(path, 1, &locator) == HS_OK);
    CHECK_EQ_INT(info_of(locator).rows, 100);
    CHECK_EQ_INT(pack_enter(locator, 2, 100, 1024 / 10 * 7 - 100), HS_OK);
    CHECK_EQ_INT(pack_enter(locator, 3, 2000, 1), HS_WAIT);
    hs_locator_close(locator);
}

/* Whatever stands in the rows: no crash, no endless probe, answers within bounds; nothing else is promised of garbage. */
static void garbage_in_the_rows_is_harmless(void) {
    hs_locator_close(fresh(1024));
    uint64_t rows[1024];
    for (uint64_t i = 0; i < 1024; i++) rows[i] = mix(i + 77);
    write_at(HS_LOCATOR_HEADER_SIZE, rows, sizeof rows);
    hs_locator *locator;
    REQUIRE(hs_locator_open(path, 1, &locator) == HS_OK);
    for (uint64_t seed = 0; seed < 5000; seed++) {
        uint8_t id[32];
        uint64_t packs[4];
        uint32_t found[4];
        id_make(seed, id);
        int count = hs_locator_find(locator, id, packs, found, 4);
        CHECK(count >= 0 && count <= 4);
        for (int i = 0; i < count; i++) CHECK(packs[i] != 0 && found[i] < (1u << HS_LOCATOR_ROW_BITS));
    }
    CHECK_EQ_INT(pack_enter(locator, 1, 0, 1), HS_WAIT);
    hs_locator_close(locator);
}

static void packs_whose_count_lies_are_refused(void) {
    hs_locator *locator = fresh(1024);
    size_t size;
    uint8_t *pack = pack_make(0, 4, &size);
    CHECK_EQ_INT(hs_locator_insert(locator, 0, pack, size), HS_ARGUMENT);
    CHECK_EQ_INT(hs_locator_insert(locator, 1, pack, 31), HS_ARGUMENT);
    CHECK_EQ_INT(hs_locator_insert(locator, 1, pack, size - 1), HS_CORRUPT);
    hs_store_u32(pack + 12, UINT32_MAX);
    CHECK_EQ_INT(hs_locator_insert(locator, 1, pack, size), HS_CORRUPT);
    CHECK_EQ_INT(info_of(locator).rows, 0);
    free(pack);
    hs_locator_close(locator);
}

/* More rows of one id than a probe can meet: whoever builds a table doubles it until all rows are in, and these never
 * were. */
static void one_id_in_many_rows_makes_no_table_grow_for_ever(void) {
    enum { SAME = 700 };
    size_t size;
    uint8_t *pack = pack_make(1, SAME, &size);
    for (uint32_t row = 1; row < SAME; row++)
        memcpy(pack + hs_pack_payload_start(row), pack + hs_pack_payload_start(0), 32);
    uint64_t capacity = HS_LOCATOR_CAPACITY_MIN;
    int status = HS_WAIT;
    for (; status == HS_WAIT && capacity <= (1 << 20); capacity *= 2) {
        hs_locator *locator = fresh(capacity);
        status = hs_locator_insert(locator, 1, pack, size);
        if (status == HS_OK) CHECK(names(locator, 1, 1, 0));
        hs_locator_close(locator);
    }
    CHECK_EQ_INT(status, HS_OK);
    free(pack);
}

int main(void) {
    REQUIRE(mkdtemp(directory) != NULL);
    snprintf(path, sizeof path, "%s/locator", directory);
    RUN(every_entered_row_is_found_at_any_load);
    RUN(few_unknown_ids_have_candidates);
    RUN(entering_twice_changes_nothing);
    RUN(an_id_in_many_packs_comes_with_all_of_them_newest_last);
    RUN(a_flooded_bucket_asks_for_growth);
    RUN(pack_numbers_beyond_their_bits_are_told_by_the_mark);
    RUN(mark_boot_and_checkpoint_survive_reopening);
    RUN(a_new_file_is_private_and_never_replaces_one);
    RUN(files_of_another_kind_are_refused);
    RUN(a_torn_checkpoint_counts_as_none);
    RUN(rows_are_counted_anew_by_who_goes_on_writing);
    RUN(garbage_in_the_rows_is_harmless);
    RUN(packs_whose_count_lies_are_refused);
    RUN(one_id_in_many_rows_makes_no_table_grow_for_ever);
    unlink(path);
    rmdir(directory);
    return hs_test_report();
}
