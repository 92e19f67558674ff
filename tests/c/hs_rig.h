/* hs_rig.h - what the tests of the shared floors stand on: a segment of their own, participants, entries with known bytes.
 *
 * Each rig has its own segment in memory without a name and its own participants file; several rigs, and several
 * participants of one rig, may live in one process. */
#ifndef HS_RIG_H
#define HS_RIG_H
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "helios_shm.h"
#include "hs_blake3.h"
#include "hs_drain.h"
#include "hs_ring.h"
#include "hs_step.h"
#include "hs_test.h"

typedef struct rig {
    hs_segment segment;
    char path[64]; /* of the participants file */
    int probe_fd;
    hs_drain *drain;
} rig;

typedef struct worker { /* one participant with its ring */
    hs_participant self;
    hs_ring ring;
} worker;

__attribute__((unused)) static hs_segment_config rig_config(uint64_t chunks) {
    hs_segment_config config = {.ring_size = chunks * HS_CHUNK_SIZE, .store_device = 7, .store_inode = 11};
    memset(config.store_uuid, 0xab, 16);
    memset(config.boot_id, 0xcd, 16);
    return config;
}

__attribute__((unused)) static void rig_make(rig *r, uint64_t chunks) {
    hs_segment_config config = rig_config(chunks);
    REQUIRE(hs_segment_create_private(&config, &r->segment) == HS_OK);
    strcpy(r->path, "/tmp/helios-test-XXXXXX");
    r->probe_fd = mkstemp(r->path);
    REQUIRE(r->probe_fd >= 0);
    REQUIRE(hs_drain_open(&r->segment, r->probe_fd, &r->drain) == HS_OK);
}

__attribute__((unused)) static void rig_break(rig *r) {
    hs_drain_close(r->drain);
    hs_segment_detach(&r->segment);
    close(r->probe_fd);
    unlink(r->path);
}

__attribute__((unused)) static void worker_join(rig *r, worker *w) {
    REQUIRE(hs_participant_join(&r->segment, r->path, &w->self) == HS_OK);
    hs_ring_init(&w->ring, &r->segment, &w->self);
}

__attribute__((unused)) static void worker_leave(worker *w) {
    hs_ring_end(&w->ring);
    hs_participant_leave(&w->self);
}

/* Value number n: its bytes follow from n, its id from its bytes. */
typedef struct thing {
    uint8_t bytes[2048];
    uint32_t size;
    uint8_t id[32];
} thing;

__attribute__((unused)) static thing thing_make(uint64_t n, uint32_t size) {
    thing t = {.size = size};
    for (uint32_t i = 0; i < size; i++) t.bytes[i] = (uint8_t)(n * 2654435761u + i * 7 + (i >> 8));
    if (size >= 8) memcpy(t.bytes, &n, 8);
    hs_blake3(t.bytes, t.size, t.id);
    return t;
}

__attribute__((unused)) static hs_ring_item thing_item(const thing *t) {
    return (hs_ring_item){.kind = HS_ENTRY_VALUE,
                          .id = t->id,
                          .payload = t->bytes,
                          .stored_size = t->size,
                          .raw_size = t->size};
}

__attribute__((unused)) static int put(worker *w, const thing *t, uint64_t *place, bool *added) {
    hs_ring_item item = thing_item(t);
    return hs_ring_put(&w->ring, &item, place, added);
}

/* Put, publish and release one thing; its place. */
__attribute__((unused)) static uint64_t store(worker *w, const thing *t) {
    uint64_t place = 0;
    bool added;
    CHECK_EQ_INT(put(w, t, &place, &added), HS_OK);
    CHECK_EQ_INT(hs_ring_flush(&w->ring), HS_OK);
    hs_ring_end(&w->ring);
    return place;
}

/* HS_OK if the thing is found with its bytes; HS_CORRUPT if with others. */
__attribute__((unused)) static int find(hs_segment *segment, const thing *t) {
    uint8_t buffer[sizeof t->bytes];
    hs_ring reader;
    hs_ring_hit hit;
    hs_ring_init(&reader, segment, NULL);
    int status = hs_ring_get(&reader, t->id, buffer, sizeof buffer, &hit);
    if (status != HS_OK) return status;
    return hit.stored_size == t->size && memcmp(buffer, t->bytes, t->size) == 0 ? HS_OK : HS_CORRUPT;
}

__attribute__((unused)) static hs_chunk_state_word chunk_of(const hs_segment *segment, uint64_t place) {
    return hs_chunk_word_decode(hs_load_acquire(&segment->chunks[hs_place_chunk(place)].word));
}

/* A record on branch `name`. */
__attribute__((unused)) static size_t record_make(const char *name, uint64_t serial, uint64_t parent_word,
                                                  uint8_t *out) {
    hs_record record = {.name = (const uint8_t *)name,
                        .name_size = (uint16_t)strlen(name),
                        .serial = serial,
                        .sequence = serial,
                        .incarnation = 1,
                        .parent_word = parent_word};
    memset(record.root, (int)(serial & 0xff), 32);
    return hs_record_encode(&record, out);
}

/* Commit a record on a branch: put, flush, head, end. HS_OK, HS_WAIT, HS_MOVED ... `serial` follows from the caller's count. */
__attribute__((unused)) static int commit(worker *w, uint32_t slot, const char *name, uint64_t serial,
                                          uint64_t expected, uint64_t *word) {
    uint8_t bytes[HS_RECORD_FIXED_SIZE + HS_RECORD_NAME_MAX];
    size_t size = record_make(name, serial, expected, bytes);
    hs_ring_item item = {
        .kind = HS_ENTRY_RECORD, .payload = bytes, .stored_size = (uint32_t)size, .raw_size = size};
    uint64_t place;
    bool added;
    int status = hs_ring_put(&w->ring, &item, &place, &added);
    if (status == HS_OK) status = hs_ring_flush(&w->ring);
    if (status == HS_OK && !hs_branch_head_compare_and_set(w->ring.segment, slot, &expected, place))
        status = HS_MOVED;
    hs_ring_end(&w->ring);
    if (status == HS_OK) *word = place;
    if (status == HS_OK) hs_ring_bell(w->ring.segment);
    return status;
}

__attribute__((unused)) static uint32_t slot_of(worker *w, const char *name) {
    uint32_t slot = 0;
    REQUIRE(hs_branch_slot_find(w->ring.segment, &w->self, (const uint8_t *)name, strlen(name), &slot) ==
            HS_OK);
    return slot;
}

/* One whole round whose packs go nowhere; rows packed. */
__attribute__((unused)) static uint32_t drain_round(rig *r, hs_drain_round *round) {
    enum { CAPACITY = 4 << 20 };
    uint8_t *buffer = malloc(CAPACITY), *pack;
    size_t size = 1;
    uint32_t rows = 0, count;
    REQUIRE(buffer != NULL && hs_drain_collect(r->drain, round) == HS_OK);
    while (size > 0) {
        REQUIRE(hs_drain_pack(r->drain, buffer, CAPACITY, &pack, &size, &count) == HS_OK);
        if (size > 0) CHECK_EQ_INT(hs_pack_validate(pack, size), HS_OK);
        rows += count;
    }
    free(buffer);
    CHECK_EQ_INT(hs_drain_finish(r->drain), HS_OK);
    return rows;
}

/* Run `body` in a child that dies at the nth passing of `label`; true if it died there and not otherwise. */
__attribute__((unused)) static bool dies_at(const char *label, int nth, void (*body)(void *), void *context) {
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        if (hs_step_arm(label, nth, HS_STEP_KILL) != HS_OK) _exit(3);
        body(context);
        _exit(4);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}
#endif
