/* hs_engine_rig.h - for tests of the facade: two engines over one segment, as two processes would have them, and a coordinator. */
#ifndef HS_ENGINE_RIG_H
#define HS_ENGINE_RIG_H
#include <stdio.h>
#include <unistd.h>
#include "hs_engine.h"
#include "hs_test.h"

enum { RIG_DATA = 1 << 18 };

typedef struct rig {
    char name[64], participants[64];
    hs_engine *engine[2], *coordinator;
    hs_drain *drain;
    hs_call call[2];
    uint8_t *data[2];
    uint8_t empty[32];
} rig;

static inline hs_open_args rig_args(const rig *r, uint32_t mode, uint32_t chunks) {
    hs_open_args args = {.segment_name = r->name,
                         .participants_path = r->participants,
                         .store_device = 1,
                         .store_inode = 2,
                         .ring_size = (uint64_t)chunks * HS_CHUNK_SIZE,
                         .cache_size = 8 << 20,
                         .mode = mode};
    return args;
}

static inline void rig_open(rig *r, uint32_t chunks) {
    static int number;
    memset(r, 0, sizeof *r);
    snprintf(r->name, sizeof r->name, "/helios-test-%d-%d", (int)getpid(), ++number);
    snprintf(r->participants, sizeof r->participants, "/tmp/helios-test-%d-%d", (int)getpid(), number);
    for (int i = 0; i < 2; i++) {
        hs_open_args args = rig_args(r, HS_OPEN_PARTICIPANT, chunks);
        REQUIRE(hs_engine_open(&args, &r->engine[i]) == HS_OK);
        r->data[i] = malloc(RIG_DATA);
        r->call[i] = (hs_call){.engine = r->engine[i], .data = r->data[i], .capacity = RIG_DATA};
    }
    hs_open_args args = rig_args(r, HS_OPEN_COORDINATOR, chunks);
    REQUIRE(hs_engine_open(&args, &r->coordinator) == HS_OK);
    REQUIRE(hs_engine_drain(r->coordinator, &r->drain) == HS_OK);
    hs_empty_root(r->empty);
}

static inline void rig_close(rig *r) {
    hs_drain_close(r->drain);
    CHECK_EQ_INT(hs_engine_unlink(r->coordinator), HS_OK);
    hs_engine_close(r->coordinator);
    for (int i = 0; i < 2; i++) {
        if (r->engine[i]) hs_engine_close(r->engine[i]);
        free(r->data[i]);
    }
    unlink(r->participants);
}

/* One round of the drain that "persists" to nowhere: enough for chunks to be freed. */
static inline void rig_round(rig *r) {
    hs_drain_round round;
    size_t size;
    uint32_t count, slot;
    uint64_t word;
    uint8_t *buffer = malloc(4 << 20), *pack, *record = malloc(70000);
    REQUIRE(hs_drain_collect(r->drain, &round) == HS_OK);
    do REQUIRE(hs_drain_pack(r->drain, buffer, 4 << 20, &pack, &size, &count) == HS_OK);
    while (size > 0);
    while (hs_drain_next_head(r->drain, &slot, &word, record, 70000, &size) == HS_OK) {
    }
    REQUIRE(hs_drain_finish(r->drain) == HS_OK);
    free(buffer);
    free(record);
}

static inline hs_branch_ref rig_branch(const char *name) {
    hs_branch_ref ref = {.slot = UINT32_MAX, .name_size = (uint32_t)strlen(name)};
    memcpy(ref.name, name, ref.name_size);
    return ref;
}

/* A branch that L2 does not know. */
static inline void rig_absent(rig *r, int who, hs_branch_ref *ref) {
    REQUIRE(hs_branch_word(&r->call[who], ref) == HS_OK);
    REQUIRE(hs_branch_provide(&r->call[who], ref, r->call[who].word, r->empty, 0, 0, 0, 0) == HS_OK);
}

/* The 40 bytes that a workspace stands on: out of a commit's record. */
static inline void rig_base(const uint8_t *record, uint8_t base[40]) { memcpy(base, record + 16, 40); }
#endif
