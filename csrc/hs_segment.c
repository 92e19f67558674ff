/* hs_segment.c - a file in /dev/shm: sizes computed in one place, validated in one place, mapped in one place.
 *
 * Invariant: the sizes and offsets that are used are computed from chunk_count by this build; those in the header are only
 * compared with them. So a damaged header cannot lead outside of the mapping. */
#define _GNU_SOURCE
#include "hs_segment.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "hs_clock.h"
#include "hs_err.h"

#define RING_ALIGNMENT            (UINT64_C(64) << 10) /* what one page fault maps around itself */
#define RING_BYTES_PER_INDEX_WORD 256u

typedef struct parts {
    uint64_t participants, branch_tags, branches, index, chunks, heat, ring, metrics, size;
    uint32_t index_buckets;
} parts;

static parts parts_compute(uint32_t chunk_count) {
    parts p;
    uint64_t words = (uint64_t)chunk_count * (HS_CHUNK_SIZE / RING_BYTES_PER_INDEX_WORD);
    p.index_buckets = 1;
    while ((uint64_t)p.index_buckets * HS_INDEX_WAYS < words) p.index_buckets *= 2;
    p.participants = sizeof(hs_segment_header);
    p.branch_tags = p.participants + HS_PARTICIPANTS * sizeof(hs_participant_slot);
    p.branches = p.branch_tags + HS_BRANCH_SLOTS * sizeof(hs_word);
    p.index = p.branches + HS_BRANCH_SLOTS * sizeof(hs_branch_slot);
    p.chunks = p.index + p.index_buckets * sizeof(hs_index_bucket);
    p.heat = p.chunks + chunk_count * sizeof(hs_chunk_slot);
    p.ring = hs_align_up(p.heat + chunk_count * sizeof(hs_chunk_heat), RING_ALIGNMENT);
    p.metrics = p.ring + (uint64_t)chunk_count * HS_CHUNK_SIZE;
    p.size = p.metrics + (HS_PARTICIPANTS + 1) * sizeof(hs_metrics);
    return p;
}

static uint32_t fold(uint32_t hash, uint64_t value) {
    for (int i = 0; i < 8; i++, value >>= 8) hash = (hash ^ (uint32_t)(value & 0xff)) * UINT32_C(16777619);
    return hash;
}

uint32_t hs_segment_fingerprint(void) {
    static const size_t facts[] = {
        HS_LAYOUT_VERSION,
        HS_CHUNK_SIZE,
        HS_UNIT,
        HS_PARTICIPANTS,
        HS_BRANCH_SLOTS,
        HS_BRANCH_WINDOW,
        HS_INDEX_WAYS,
        RING_ALIGNMENT,
        RING_BYTES_PER_INDEX_WORD,
        HS_ENTRY_PAYLOAD_MAX,
        HS_CHUNK_STATE_SHIFT,
        HS_CHUNK_OWNER_SHIFT,
        HS_PLACE_CHUNK_SHIFT,
        HS_INDEX_TAG_SHIFT,
        HS_INDEX_GENERATION_SHIFT,
        sizeof(hs_segment_header),
        sizeof(hs_participant_slot),
        sizeof(hs_branch_slot),
        sizeof(hs_index_bucket),
        sizeof(hs_chunk_slot),
        sizeof(hs_chunk_heat),
        sizeof(hs_metrics),
        sizeof(hs_entry),
        offsetof(hs_segment_header, nonce),
        offsetof(hs_segment_header, seed),
        offsetof(hs_segment_header, segment_size),
        offsetof(hs_segment_header, chunk_count),
        offsetof(hs_segment_header, collection),
        offsetof(hs_segment_header, claim_hint),
        offsetof(hs_segment_header, kept),
        offsetof(hs_segment_header, regret),
        offsetof(hs_segment_header, rounds_done),
        offsetof(hs_segment_header, coordinator_epoch),
        offsetof(hs_segment_header, branch_word_next),
        offsetof(hs_segment_header, evicting),
        offsetof(hs_segment_header, bell),
        offsetof(hs_segment_header, done_bell),
        offsetof(hs_segment_header, urgent),
        offsetof(hs_segment_header, closing),
        offsetof(hs_segment_header, moved),
        offsetof(hs_segment_header, metrics_offset),
        offsetof(hs_participant_slot, inserting),
        offsetof(hs_participant_slot, pid),
        offsetof(hs_participant_slot, metrics_allocated),
        offsetof(hs_participant_slot, committing),
        offsetof(hs_branch_slot, waiters),
        offsetof(hs_branch_slot, evicted_tag),
        offsetof(hs_branch_slot, drained),
        offsetof(hs_chunk_slot, persisted),
        offsetof(hs_chunk_slot, allocated),
        offsetof(hs_chunk_slot, touched),
        offsetof(hs_chunk_slot, stale),
        offsetof(hs_chunk_heat, ghosts),
        offsetof(hs_metrics, histograms),
        offsetof(hs_histogram, buckets),
        HS_COUNT_L2_READS,
        HS_MEASURE_COLLECTION,
        offsetof(hs_entry, raw_size),
        offsetof(hs_entry, stored_size),
        offsetof(hs_entry, kind),
        offsetof(hs_entry, id),
    };
    uint32_t hash = UINT32_C(2166136261);
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) hash = fold(hash, facts[i]);
    return hash;
}

/* "/name" -> "/dev/shm/name"; HS_ARGUMENT if it would lead elsewhere. */
static int path_make(const char *name, char path[PATH_MAX]) {
    if (name == NULL || name[0] != '/' || name[1] == '\0' || name[1] == '.' || strchr(name + 1, '/') != NULL)
        return HS_ARGUMENT;
    int size = snprintf(path, PATH_MAX, HS_SEGMENT_DIRECTORY "%s", name);
    return size > 0 && size < NAME_MAX ? HS_OK : HS_ARGUMENT;
}

/* MADV_POPULATE_WRITE, which older C libraries do not name. */
#define MADV_POPULATE_WRITE_ 23

static int allocate(int fd, uint64_t offset, uint64_t size) {
    int error;
    do error = posix_fallocate(fd, (off_t)offset, (off_t)size);
    while (error == EINTR);
    return error == 0 ? HS_OK : hs_err_system(error);
}

static int map(int fd, const parts *p, uint32_t chunk_count, hs_segment *out) {
    uint8_t *base = mmap(NULL, p->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) return hs_err_system(errno);
    memset(out, 0, sizeof *out);
    out->base = base;
    out->size = p->size;
    out->fd = fd;
    out->chunk_count = chunk_count;
    out->index_mask = p->index_buckets - 1;
    out->header = (hs_segment_header *)(void *)base;
    out->participants = (hs_participant_slot *)(void *)(base + p->participants);
    out->branch_tags = (hs_word *)(void *)(base + p->branch_tags);
    out->branches = (hs_branch_slot *)(void *)(base + p->branches);
    out->index = (hs_index_bucket *)(void *)(base + p->index);
    out->chunks = (hs_chunk_slot *)(void *)(base + p->chunks);
    out->heat = (hs_chunk_heat *)(void *)(base + p->heat);
    out->ring = base + p->ring;
    out->metrics = (hs_metrics *)(void *)(base + p->metrics);
    memcpy(out->seed, out->header->seed, sizeof out->seed);
    /* A first touch of a page costs more than a put: take the tables' faults now, sixteen at a time where the pages were
     * touched before (by whoever made the segment). */
    for (uint64_t offset = 0; offset < p->ring; offset += RING_ALIGNMENT)
        (void)hs_load_relaxed((const hs_word *)(const void *)(base + offset));
    return HS_OK;
}

/* The inode of this process's pid namespace; 0 where there is no such file, which is so for all of this machine. Another
 * error must not pass for that: nobody else could ever attach to a segment that says 0. */
static int pid_namespace(uint32_t *out) {
    struct stat file;
    *out = 0;
    if (stat("/proc/self/ns/pid", &file) == 0)
        *out = (uint32_t)file.st_ino;
    else if (errno != ENOENT && errno != ENOTDIR)
        return hs_err_system(errno);
    return HS_OK;
}

static int random_draw(void *bytes, size_t size) {
    ssize_t got;
    do got = getrandom(bytes, size, 0);
    while (got < 0 && errno == EINTR);
    return got == (ssize_t)size ? HS_OK : hs_err_system(got < 0 ? errno : EIO);
}

/* Fill the header of a mapping of zeros; the magic comes last. */
static int header_fill(hs_segment *segment, const hs_segment_config *config, const parts *p) {
    hs_segment_header *header = segment->header;
    uint64_t random[3];
    uint32_t namespace;
    int status = random_draw(random, sizeof random);
    if (status == HS_OK) status = pid_namespace(&namespace);
    if (status != HS_OK) return status;
    header->layout_version = HS_LAYOUT_VERSION;
    header->fingerprint = hs_segment_fingerprint();
    memcpy(header->store_uuid, config->store_uuid, 16);
    memcpy(header->boot_id, config->boot_id, 16);
    header->store_device = config->store_device;
    header->store_inode = config->store_inode;
    header->nonce = random[0];
    hs_store_relaxed(&header->round_done_ns,
                     hs_clock_ns(CLOCK_MONOTONIC)); /* nothing is older than the segment */
    header->seed[0] = segment->seed[0] = random[1];
    header->seed[1] = segment->seed[1] = random[2];
    header->segment_size = p->size;
    header->participants_offset = p->participants;
    header->branch_tags_offset = p->branch_tags;
    header->branches_offset = p->branches;
    header->index_offset = p->index;
    header->chunks_offset = p->chunks;
    header->ring_offset = p->ring;
    header->metrics_offset = p->metrics;
    header->chunk_count = segment->chunk_count;
    header->index_buckets = p->index_buckets;
    header->ephemeral = config->ephemeral;
    header->pid_namespace = namespace;
    for (uint32_t i = 0; i < HS_BRANCH_SLOTS; i++)
        hs_store_relaxed(&segment->branches[i].head, HS_WORD_IN_L2 | (i + 1));
    hs_store_relaxed(&header->branch_word_next, HS_BRANCH_SLOTS + 1);
    hs_store_relaxed(&header->claim_hint, segment->chunk_count - 1u); /* so that the first claim is chunk 0 */
    hs_fence_release();
    header->magic = HS_SEGMENT_MAGIC;
    return HS_OK;
}

/* Size, allocate, map and fill an empty file; owns fd on success only. */
static int build(int fd, const hs_segment_config *config, hs_segment *out) {
    uint64_t chunks = config->ring_size / HS_CHUNK_SIZE;
    if (chunks < HS_CHUNKS_MIN || chunks > HS_CHUNKS_MAX) return HS_ARGUMENT;
    parts p = parts_compute((uint32_t)chunks);
    if (ftruncate(fd, (off_t)p.size) != 0) return hs_err_system(errno);
    int status = allocate(fd, 0, p.ring);
    uint64_t coordinators = p.size - sizeof(hs_metrics);
    if (status == HS_OK) status = allocate(fd, coordinators, sizeof(hs_metrics));
    hs_segment segment;
    if (status == HS_OK) status = map(fd, &p, (uint32_t)chunks, &segment);
    if (status != HS_OK) return status;
    (void)madvise(segment.base, p.ring, MADV_POPULATE_WRITE_);
    status = header_fill(&segment, config, &p);
    if (status != HS_OK)
        munmap(segment.base, segment.size);
    else
        *out = segment;
    return status;
}

int hs_segment_create(const char *name, const hs_segment_config *config, hs_segment *out) {
    char path[PATH_MAX], self[64];
    int status = path_make(name, path);
    if (status != HS_OK) return status;
    int fd = open(HS_SEGMENT_DIRECTORY, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) return hs_err_system(errno);
    hs_segment segment;
    status = fchmod(fd, 0600) == 0 ? build(fd, config, &segment)
                                   : hs_err_system(errno); /* whatever the umask says */
    if (status != HS_OK) {
        close(fd);
        return status;
    }
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    if (linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) != 0) {
        status = errno == EEXIST ? HS_EXISTS : hs_err_system(errno);
        hs_segment_detach(&segment);
        return status;
    }
    *out = segment;
    return HS_OK;
}

int hs_segment_create_private(const hs_segment_config *config, hs_segment *out) {
    int fd = memfd_create("helios", MFD_CLOEXEC);
    if (fd < 0) return hs_err_system(errno);
    int status = build(fd, config, out);
    if (status != HS_OK) close(fd);
    return status;
}

/* Do the file's first bytes and its size belong to a segment of this build and of that store? */
static int header_check(const hs_segment_header *header, uint64_t file_size,
                        const hs_segment_config *expected) {
    if (header->magic != HS_SEGMENT_MAGIC || header->layout_version != HS_LAYOUT_VERSION) return HS_FORMAT;
    if (header->fingerprint != hs_segment_fingerprint()) return HS_FORMAT;
    if (header->chunk_count < HS_CHUNKS_MIN || header->chunk_count > HS_CHUNKS_MAX) return HS_FORMAT;
    parts p = parts_compute(header->chunk_count);
    if (header->segment_size != p.size || file_size != p.size || header->index_buckets != p.index_buckets)
        return HS_FORMAT;
    if (header->ring_offset != p.ring || header->index_offset != p.index ||
        header->chunks_offset != p.chunks || header->metrics_offset != p.metrics)
        return HS_FORMAT;
    if (memcmp(header->store_uuid, expected->store_uuid, 16) != 0 ||
        memcmp(header->boot_id, expected->boot_id, 16) != 0)
        return HS_FORMAT;
    if (header->store_device != expected->store_device || header->store_inode != expected->store_inode)
        return HS_FORMAT;
    uint32_t namespace;
    int status = pid_namespace(&namespace);
    if (status != HS_OK) return status;
    return expected->adopt || header->pid_namespace == namespace ? HS_OK : HS_FORMAT;
}

/* From now on it is of this process's PID namespace. */
static int adopt(hs_segment *segment) {
    uint32_t namespace;
    int status = pid_namespace(&namespace);
    if (status == HS_OK) segment->header->pid_namespace = namespace;
    return status;
}

static int attach(int fd, const hs_segment_config *expected, hs_segment *out) {
    struct stat file;
    if (fstat(fd, &file) != 0) return hs_err_system(errno);
    if (!S_ISREG(file.st_mode) || file.st_uid != geteuid() || (file.st_mode & 0777) != 0600) return HS_FORMAT;
    hs_segment_header header;
    ssize_t size = pread(fd, &header, sizeof header, 0);
    if (size < 0) return hs_err_system(errno);
    if (size != (ssize_t)sizeof header) return HS_FORMAT;
    hs_fence_acquire();
    int status = header_check(&header, (uint64_t)file.st_size, expected);
    if (status != HS_OK) return status;
    parts p = parts_compute(header.chunk_count);
    status = map(fd, &p, header.chunk_count, out);
    if (status != HS_OK || !expected->adopt) return status;
    status = adopt(out);
    if (status != HS_OK) munmap(out->base, out->size);
    return status;
}

int hs_segment_is_of_namespace(const hs_segment *segment) {
    uint32_t namespace;
    int status = pid_namespace(&namespace);
    return status == HS_OK ? segment->header->pid_namespace == namespace : status;
}

int hs_segment_attach(const char *name, const hs_segment_config *expected, hs_segment *out) {
    char path[PATH_MAX];
    int status = path_make(name, path);
    if (status != HS_OK) return status;
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        if (errno == ENOENT) return HS_NOT_FOUND;
        bool is_other = errno == EACCES || errno == ELOOP || errno == EISDIR;
        return is_other ? HS_FORMAT : hs_err_system(errno);
    }
    status = attach(fd, expected, out);
    if (status != HS_OK) close(fd);
    return status;
}

int hs_segment_is_named(const hs_segment *segment, const char *name) {
    char path[PATH_MAX];
    struct stat named, mine;
    int status = path_make(name, path);
    if (status != HS_OK) return status;
    if (lstat(path, &named) != 0) return errno == ENOENT ? 0 : hs_err_system(errno);
    if (fstat(segment->fd, &mine) != 0) return hs_err_system(errno);
    return named.st_dev == mine.st_dev && named.st_ino == mine.st_ino;
}

/* Is it laid out as this build would, and whole? */
static bool header_is_own(const hs_segment_header *header, uint64_t file_size) {
    if (header->layout_version != HS_LAYOUT_VERSION || header->fingerprint != hs_segment_fingerprint())
        return false;
    if (header->chunk_count < HS_CHUNKS_MIN || header->chunk_count > HS_CHUNKS_MAX) return false;
    parts p = parts_compute(header->chunk_count);
    return header->segment_size == p.size && file_size == p.size &&
           header->participants_offset == p.participants && header->branches_offset == p.branches &&
           header->chunks_offset == p.chunks;
}

static int peek(int fd, hs_segment_header *header, bool *is_own) {
    struct stat file;
    if (fstat(fd, &file) != 0) return hs_err_system(errno);
    if (!S_ISREG(file.st_mode)) return HS_FORMAT;
    memset(header, 0, sizeof *header);
    ssize_t size = pread(fd, header, sizeof *header, 0);
    if (size < 0) return hs_err_system(errno);
    if (size != (ssize_t)sizeof *header || header->magic != HS_SEGMENT_MAGIC) return HS_FORMAT;
    *is_own = header_is_own(header, (uint64_t)file.st_size);
    return HS_OK;
}

int hs_segment_peek(const char *name, hs_segment_header *header, bool *is_own) {
    char path[PATH_MAX];
    int status = path_make(name, path);
    if (status != HS_OK) return status;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return errno == ENOENT ? HS_NOT_FOUND : hs_err_system(errno);
    status = peek(fd, header, is_own);
    if (status == HS_OK) return fd;
    close(fd);
    return status;
}

int hs_segment_pid_namespace(uint32_t *out) { return pid_namespace(out); }

int hs_segment_unlink(const char *name) {
    char path[PATH_MAX];
    int status = path_make(name, path);
    if (status != HS_OK) return status;
    if (unlink(path) == 0) return HS_OK;
    return errno == ENOENT ? HS_NOT_FOUND : hs_err_system(errno);
}

void hs_segment_detach(hs_segment *segment) {
    if (segment->base == NULL) return;
    munmap(segment->base, segment->size);
    close(segment->fd);
    memset(segment, 0, sizeof *segment);
    segment->fd = -1;
}

/* Have the memory of a part of the segment, and say so in *allocated. */
static int part_allocate(const hs_segment *segment, const void *part, size_t size, hs_word32 *allocated) {
    if (hs_load32_acquire(allocated)) return HS_OK;
    uint64_t offset = (uint64_t)((const uint8_t *)part - segment->base);
    int status = allocate(segment->fd, offset, size);
    if (status != HS_OK) return status;
    /* Allocated pages are zeroed only when first touched, one fault each, and no read fault maps 16 of them before that:
     * touch them here, all in one call. Kernels before 5.14 refuse, and pay as they go. */
    (void)madvise(segment->base + offset, size, MADV_POPULATE_WRITE_);
    hs_store32_release(allocated, 1);
    return HS_OK;
}

int hs_segment_allocate_chunk(const hs_segment *segment, uint32_t chunk) {
    const uint8_t *bytes = segment->ring + (size_t)chunk * HS_CHUNK_SIZE;
    return part_allocate(segment, bytes, HS_CHUNK_SIZE, &segment->chunks[chunk].allocated);
}

int hs_segment_allocate_metrics(const hs_segment *segment, uint32_t participant) {
    return part_allocate(segment, &segment->metrics[participant], sizeof(hs_metrics),
                         &segment->participants[participant].metrics_allocated);
}
