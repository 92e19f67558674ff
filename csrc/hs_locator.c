/* hs_locator.c - create, open, probe and enter rows of the locator file; hs_locator.h draws it.
 *
 * Thread rule: find, candidates and info_get by any thread of any process; insert, mark and checkpoint by one thread of
 * the coordinator. Nothing here recovers from a file that is cut short while it is mapped: nobody cuts it. */
#include "hs_locator.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "helios_shm.h"
#include "hs_err.h"
#include "hs_pack.h"

struct hs_locator {
    hs_locator_header *header;
    hs_word *rows;
    uint64_t bucket_mask;
    uint64_t seed[2];
    size_t size; /* of the mapping */
    dev_t device;
    ino_t inode;
    bool writable;
};

#define GROUP              32u /* rows whose buckets are loaded together */
#define PACK_MASK          ((UINT64_C(1) << HS_LOCATOR_PACK_BITS) - 1)
#define ROW_MASK           ((UINT64_C(1) << HS_LOCATOR_ROW_BITS) - 1)
#define TAG_SHIFT          (HS_LOCATOR_PACK_BITS + HS_LOCATOR_ROW_BITS)
/* Packs that may be entered above the mark; what is further away belongs to the window below it. */
#define PACKS_ABOVE_MARK   (UINT64_C(1) << 20)
/* Rows that a probe may look at. Where one pack has filled them all in a table with so few rows, its ids are all the same,
 * or made to meet: no larger table has more places for them, and nobody lacks the row that finds none. */
#define PROBED             (HS_LOCATOR_BUCKETS * HS_LOCATOR_WAYS)
#define SPARSE             64u
#define LOAD_MAX(capacity) ((capacity) / 10 * 7)

static size_t file_size(uint64_t capacity) {
    return HS_LOCATOR_HEADER_SIZE + (size_t)capacity * sizeof(hs_word);
}

static uint64_t checkpoint_sum(const hs_locator *locator, uint64_t checkpoint) {
    return (checkpoint ^ locator->seed[0]) * UINT64_C(0x9e3779b97f4a7c15) + locator->seed[1] + 1;
}

/* ---- open and close ---- */

static int file_map(int fd, size_t size, bool writable, hs_locator **out) {
    struct stat status;
    if (fstat(fd, &status) != 0) return hs_err_system(errno);
    hs_locator *locator = malloc(sizeof *locator);
    if (locator == NULL) return HS_NO_MEMORY;
    void *base = mmap(NULL, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        free(locator);
        return hs_err_system(errno);
    }
    *locator = (hs_locator){.header = base,
                            .rows = (hs_word *)((uint8_t *)base + HS_LOCATOR_HEADER_SIZE),
                            .size = size,
                            .device = status.st_dev,
                            .inode = status.st_ino,
                            .writable = writable};
    *out = locator;
    return HS_OK;
}

static void geometry_take(hs_locator *locator) {
    locator->bucket_mask = locator->header->capacity / HS_LOCATOR_WAYS - 1;
    memcpy(locator->seed, locator->header->seed, sizeof locator->seed);
}

static void boot_store(hs_locator_header *header, const uint8_t *boot_id) {
    hs_store_release(&header->boot[0], hs_load_u64(boot_id)); /* E15 (release end) */
    hs_store_release(&header->boot[1], hs_load_u64(boot_id + 8));
}

static bool boot_is(const hs_locator_header *header, const uint8_t *boot_id) {
    return hs_load_acquire(&header->boot[0]) == hs_load_u64(boot_id) &&
           hs_load_acquire(&header->boot[1]) == hs_load_u64(boot_id + 8);
}

static int seed_draw(uint64_t seed[2]) {
    ssize_t got;
    do got = getrandom(seed, 16, 0);
    while (got < 0 && errno == EINTR);
    return got == 16 ? HS_OK : hs_err_system(got < 0 ? errno : EIO);
}

static int file_fill(int fd, uint64_t capacity, const uint8_t *boot_id, hs_locator **out) {
    uint64_t seed[2];
    int status = seed_draw(seed);
    if (status != HS_OK) return status;
    if (fchmod(fd, 0600) != 0) return hs_err_system(errno);
    /* All of it is allocated now: a full disk is an error here, and not a signal at some later store. */
    int error;
    do error = posix_fallocate(fd, 0, (off_t)file_size(capacity));
    while (error == EINTR);
    if (error != 0) return hs_err_system(error);
    hs_locator *locator;
    status = file_map(fd, file_size(capacity), true, &locator);
    if (status != HS_OK) return status;
    hs_locator_header *header = locator->header;
    header->version = HS_LOCATOR_VERSION;
    header->header_size = HS_LOCATOR_HEADER_SIZE;
    header->capacity = capacity;
    memcpy(header->seed, seed, sizeof seed);
    boot_store(header, boot_id);
    geometry_take(locator);
    hs_store_release(&header->checkpoint_sum, checkpoint_sum(locator, 0));
    header->magic = HS_LOCATOR_MAGIC;
    *out = locator;
    return HS_OK;
}

int hs_locator_create(const char *path, uint64_t capacity, const uint8_t *boot_id, hs_locator **out) {
    if (capacity > HS_LOCATOR_CAPACITY_MAX) return HS_ARGUMENT;
    uint64_t rounded = HS_LOCATOR_CAPACITY_MIN;
    while (rounded < capacity) rounded *= 2;
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return errno == EEXIST ? HS_EXISTS : hs_err_system(errno);
    int status = file_fill(fd, rounded, boot_id, out);
    if (status != HS_OK) unlink(path);
    close(fd);
    return status;
}

/* Is the header that of a whole file of this size? Read from the file, not from a mapping of unknown size. */
static int header_check(int fd, uint64_t *capacity) {
    struct stat status;
    hs_locator_header header;
    if (fstat(fd, &status) != 0) return hs_err_system(errno);
    ssize_t got = pread(fd, &header, sizeof header, 0);
    if (got < 0) return errno == ESPIPE ? HS_CORRUPT : hs_err_system(errno);
    if (got != (ssize_t)sizeof header || !S_ISREG(status.st_mode)) return HS_CORRUPT;
    if (header.magic != HS_LOCATOR_MAGIC) return HS_CORRUPT;
    if (header.version != HS_LOCATOR_VERSION || header.header_size != HS_LOCATOR_HEADER_SIZE)
        return HS_FORMAT;
    uint64_t rows = header.capacity;
    if (rows < HS_LOCATOR_CAPACITY_MIN || rows > HS_LOCATOR_CAPACITY_MAX || (rows & (rows - 1)) != 0)
        return HS_CORRUPT;
    if ((uint64_t)status.st_size < file_size(rows)) return HS_CORRUPT;
    *capacity = rows;
    return HS_OK;
}

/* How many rows there are. The count in the header is what a writer that died, or a power cut, has made of it. */
static uint64_t rows_count(const hs_locator *locator) {
    uint64_t count = 0, capacity = (locator->bucket_mask + 1) * HS_LOCATOR_WAYS;
    for (uint64_t row = 0; row < capacity; row++)
        count += hs_load_relaxed(&locator->rows[row]) != 0; /* relaxed: the one who writes is the caller */
    return count;
}

int hs_locator_open(const char *path, int writable, hs_locator **out) {
    /* Not to wait, should it be a pipe. */
    int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return errno == ENOENT ? HS_NOT_FOUND : hs_err_system(errno);
    uint64_t capacity = 0;
    hs_locator *locator = NULL;
    int status = header_check(fd, &capacity);
    if (status == HS_OK) status = file_map(fd, file_size(capacity), writable != 0, &locator);
    close(fd);
    if (status != HS_OK) return status;
    geometry_take(locator);
    if (locator->bucket_mask != capacity / HS_LOCATOR_WAYS - 1) { /* written over in between */
        hs_locator_close(locator);
        return HS_CORRUPT;
    }
    if (writable) hs_store_relaxed(&locator->header->rows, rows_count(locator)); /* relaxed: a count */
    *out = locator;
    return HS_OK;
}

void hs_locator_close(hs_locator *locator) {
    if (locator == NULL) return;
    munmap(locator->header, locator->size);
    free(locator);
}

int hs_locator_is_named(const hs_locator *locator, const char *path) {
    struct stat status;
    if (stat(path, &status) != 0) return errno == ENOENT ? 0 : hs_err_system(errno);
    return status.st_dev == locator->device && status.st_ino == locator->inode;
}

void hs_locator_info_get(const hs_locator *locator, hs_locator_info *out) {
    const hs_locator_header *header = locator->header;
    /* The boot first: whoever sees the new one sees the mark that was set back before it. E15; then E11 (acquire ends). */
    hs_store_u64(out->boot_id, hs_load_acquire(&header->boot[0]));
    hs_store_u64(out->boot_id + 8, hs_load_acquire(&header->boot[1]));
    out->mark = hs_load_acquire(&header->mark);
    uint64_t checkpoint = hs_load_acquire(&header->checkpoint);
    bool whole = hs_load_acquire(&header->checkpoint_sum) == checkpoint_sum(locator, checkpoint);
    out->checkpoint = whole ? checkpoint : 0;
    out->rows = hs_load_relaxed(&header->rows); /* relaxed: a count */
    out->capacity = (locator->bucket_mask + 1) * HS_LOCATOR_WAYS;
}

/* ---- probe ---- */

/* Home bucket: a keyed multiply-fold of the id's first 16 bytes. */
static uint64_t id_bucket(const hs_locator *locator, const uint8_t *id) {
    uint64_t a = hs_load_u64(id) ^ locator->seed[0], b = hs_load_u64(id + 8) ^ locator->seed[1];
    unsigned __int128 product = (unsigned __int128)(a | 1) * (b | 1);
    return ((uint64_t)product ^ (uint64_t)(product >> 64)) & locator->bucket_mask;
}

static uint64_t id_tag(const uint8_t *id) {
    return hs_load_u64(id + 16) & ((UINT64_C(1) << HS_LOCATOR_TAG_BITS) - 1);
}

static uint64_t row_make(const uint8_t *id, uint64_t pack, uint32_t row) {
    return id_tag(id) << TAG_SHIFT | (pack & PACK_MASK) << HS_LOCATOR_ROW_BITS | ((uint64_t)row + 1);
}

/* The pack that a row's 30 bits mean: the newest number of that residue up to a little above the mark; 0: none. */
static uint64_t row_pack(uint64_t word, uint64_t mark) {
    uint64_t newest = mark + PACKS_ABOVE_MARK;
    uint64_t back = (newest - (word >> HS_LOCATOR_ROW_BITS)) & PACK_MASK;
    return back < newest ? newest - back : 0;
}

static const hs_word *bucket_at(const hs_locator *locator, uint64_t home, uint32_t step) {
    return locator->rows + ((home + step) & locator->bucket_mask) * HS_LOCATOR_WAYS;
}

typedef struct found_row {
    uint64_t pack;
    uint32_t row;
} found_row;

static void found_add(uint64_t *packs, uint32_t *rows, int count, found_row found) {
    int place = count;
    for (; place > 0 && packs[place - 1] > found.pack; place--) {
        packs[place] = packs[place - 1];
        rows[place] = rows[place - 1];
    }
    packs[place] = found.pack;
    rows[place] = found.row;
}

int hs_locator_find(const hs_locator *locator, const uint8_t *id, uint64_t *packs, uint32_t *rows,
                    uint32_t capacity) {
    uint64_t home = id_bucket(locator, id), tag = id_tag(id);
    uint64_t mark = hs_load_acquire(&locator->header->mark);
    int count = 0;
    for (uint32_t step = 0; step < HS_LOCATOR_BUCKETS; step++) {
        const hs_word *bucket = bucket_at(locator, home, step);
        for (uint32_t way = 0; way < HS_LOCATOR_WAYS; way++) {
            uint64_t word = hs_load_acquire(&bucket[way]);
            if (word == 0) return count;
            if (word >> TAG_SHIFT != tag || (word & ROW_MASK) == 0) continue;
            found_row found = {row_pack(word, mark), (uint32_t)(word & ROW_MASK) - 1};
            if (found.pack == 0) continue;
            if ((uint32_t)count == capacity) return count;
            found_add(packs, rows, count++, found);
        }
    }
    return count;
}

/* Looks at whole buckets without a branch for each row: how full a bucket is cannot be guessed. */
static bool tag_is_present(const hs_locator *locator, const uint8_t *id) {
    uint64_t home = id_bucket(locator, id), tag = id_tag(id);
    for (uint32_t step = 0; step < HS_LOCATOR_BUCKETS; step++) {
        const hs_word *bucket = bucket_at(locator, home, step);
        uint32_t present = 0, empty = 0;
        for (uint32_t way = 0; way < HS_LOCATOR_WAYS; way++) {
            uint64_t word =
                hs_load_relaxed(&bucket[way]); /* relaxed: the writer reads what it wrote itself */
            present |= (uint32_t)(word >> TAG_SHIFT == tag) & (uint32_t)(word != 0);
            empty |= (uint32_t)(word == 0);
        }
        if (present | empty) return present != 0;
    }
    return false;
}

static const uint8_t *pack_id(const uint8_t *pack, uint32_t row) { return pack + hs_pack_payload_start(row); }

/* Load the first word of the home buckets of `count` rows from `row` on. Real loads that do not depend on each other overlap their
 * cache and TLB misses; prefetches are dropped where the TLB misses, which in a large table is nearly always. */
static void home_load(const hs_locator *locator, const uint8_t *pack, uint32_t row, uint32_t count,
                      uint64_t *first) {
    const hs_word *home[GROUP];
    for (uint32_t i = 0; i < count; i++)
        home[i] = bucket_at(locator, id_bucket(locator, pack_id(pack, row + i)), 0);
    for (uint32_t i = 0; i < count; i++)
        first[i] = hs_load_relaxed(home[i]); /* relaxed: the writer reads what it wrote itself */
}

static uint32_t group_size(uint32_t row, uint32_t count) { return count - row < GROUP ? count - row : GROUP; }

int hs_locator_candidates(const hs_locator *locator, const uint8_t *pack, uint32_t *rows, uint32_t capacity) {
    uint32_t count = hs_pack_count(pack), found = 0;
    for (uint32_t row = 0; row < count; row += GROUP) {
        uint32_t size = group_size(row, count);
        uint64_t first[GROUP];
        home_load(locator, pack, row, size, first);
        for (uint32_t i = 0; i < size && found < capacity; i++)
            if (first[i] != 0 && tag_is_present(locator, pack_id(pack, row + i))) rows[found++] = row + i;
    }
    return (int)found;
}

/* ---- enter ---- */

static int row_enter(hs_locator *locator, const uint8_t *id, uint64_t word, uint64_t *entered) {
    uint64_t home = id_bucket(locator, id);
    for (uint32_t step = 0; step < HS_LOCATOR_BUCKETS; step++) {
        hs_word *bucket = (hs_word *)bucket_at(locator, home, step);
        for (uint32_t way = 0; way < HS_LOCATOR_WAYS; way++) {
            uint64_t there = hs_load_relaxed(&bucket[way]); /* relaxed: only this process writes rows */
            if (there == word) return HS_OK;
            if (there != 0) continue;
            hs_store_release(&bucket[way], word); /* edge E11 */
            ++*entered;
            return HS_OK;
        }
    }
    return HS_WAIT;
}

int hs_locator_insert(hs_locator *locator, uint64_t pack, const uint8_t *bytes, size_t size) {
    if (!locator->writable || pack == 0 || size < HS_PACK_HEADER_SIZE) return HS_ARGUMENT;
    uint32_t count = hs_pack_count(bytes);
    if (count >= ROW_MASK || hs_pack_payload_start(count) > size) return HS_CORRUPT;
    hs_locator_header *header = locator->header;
    uint64_t rows = hs_load_relaxed(&header->rows); /* relaxed: a count that only this process writes */
    uint64_t capacity = (locator->bucket_mask + 1) * HS_LOCATOR_WAYS;
    if (rows + count > LOAD_MAX(capacity)) return HS_WAIT;
    int status = HS_OK;
    uint64_t entered = 0;
    for (uint32_t row = 0; row < count && status == HS_OK; row++) {
        uint64_t first[GROUP];
        if (row % GROUP == 0) home_load(locator, bytes, row, group_size(row, count), first);
        const uint8_t *id = pack_id(bytes, row);
        status = row_enter(locator, id, row_make(id, pack, row), &entered);
        if (status == HS_WAIT && entered >= PROBED && rows + entered <= capacity / SPARSE) status = HS_OK;
    }
    hs_store_relaxed(&header->rows, rows + entered); /* relaxed: a count */
    return status;
}

int hs_locator_mark(hs_locator *locator, uint64_t pack, const uint8_t *boot_id) {
    if (!locator->writable) return HS_ARGUMENT;
    hs_store_release(&locator->header->mark, pack); /* edge E11 */
    if (!boot_is(locator->header, boot_id)) boot_store(locator->header, boot_id);
    return HS_OK;
}

int hs_locator_checkpoint(hs_locator *locator) {
    if (!locator->writable) return HS_ARGUMENT;
    hs_locator_header *header = locator->header;
    uint64_t mark = hs_load_acquire(&header->mark);
    if (msync(header, locator->size, MS_SYNC) != 0) return hs_err_system(errno);
    hs_store_release(&header->checkpoint, mark);
    hs_store_release(&header->checkpoint_sum, checkpoint_sum(locator, mark));
    return msync(header, HS_LOCATOR_HEADER_SIZE, MS_SYNC) == 0 ? HS_OK : hs_err_system(errno);
}
