/* hs_engine.c - open, close and fork an engine; statistics; waiting for rounds. See hs_engine.h. */
#include "hs_engine.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "hs_blake3.h"
#include "hs_clock.h"
#include "hs_drain.h"
#include "hs_err.h"
#include "hs_futex.h"
#include "hs_metrics.h"
#include "hs_record.h"

/* All engines of this process, for the fork handlers. */
static pthread_mutex_t engines_lock = PTHREAD_MUTEX_INITIALIZER;
static hs_engine *engines;
static pthread_once_t fork_handlers_once = PTHREAD_ONCE_INIT;

void hs_engine_lock(hs_engine *engine) { pthread_mutex_lock(&engine->lock); }
bool hs_engine_try_lock(hs_engine *engine) { return pthread_mutex_trylock(&engine->lock) == 0; }
void hs_engine_unlock(hs_engine *engine) { pthread_mutex_unlock(&engine->lock); }

static void fork_prepare(void) {
    pthread_mutex_lock(&engines_lock);
    for (hs_engine *engine = engines; engine; engine = engine->next) hs_engine_lock(engine);
}

static void fork_parent(void) {
    for (hs_engine *engine = engines; engine; engine = engine->next) hs_engine_unlock(engine);
    pthread_mutex_unlock(&engines_lock);
}

/* Who appends to the ring; a coordinator does not. */
static hs_participant *writer_of(hs_engine *engine) {
    return engine->mode == HS_OPEN_COORDINATOR ? NULL : &engine->self;
}

/* The lock on the participant's byte belongs to the description that parent and child share: the child's copy is closed at
 * once, or the parent would seem alive for as long as the child is. */
static void fork_child(void) {
    for (hs_engine *engine = engines; engine; engine = engine->next) {
        hs_participant_abandon(&engine->self);
        hs_ring_init(&engine->ring, &engine->segment, writer_of(engine));
        hs_engine_unlock(engine);
    }
    pthread_mutex_unlock(&engines_lock);
}

/* Before a fork the engines' locks are taken first, then those of leases: handlers run in the opposite order of their installation. */
static void fork_handlers_install(void) {
    hs_lease_fork_handlers();
    (void)pthread_atfork(fork_prepare, fork_parent, fork_child);
}

static void engines_add(hs_engine *engine) {
    pthread_once(&fork_handlers_once, fork_handlers_install);
    pthread_mutex_lock(&engines_lock);
    engine->next = engines;
    engines = engine;
    pthread_mutex_unlock(&engines_lock);
}

static void engines_remove(hs_engine *engine) {
    pthread_mutex_lock(&engines_lock);
    for (hs_engine **link = &engines; *link; link = &(*link)->next) {
        if (*link != engine) continue;
        *link = engine->next;
        break;
    }
    pthread_mutex_unlock(&engines_lock);
}

/* --- nodes come from and go to the ring --- */

static int io_load(void *context, const uint8_t id[32], uint8_t *buffer, size_t *size) {
    hs_engine *engine = context;
    hs_ring_hit hit;
    int status = hs_engine_ring_get(engine, id, buffer, HS_NODE_SIZE_MAX, &hit);
    if (status == HS_NOT_FOUND) return HS_MISSING;
    if (status < 0) return status == HS_SMALL ? HS_CORRUPT : status;
    if (hit.kind != HS_ENTRY_NODE || hit.codec != HS_CODEC_RAW) return HS_CORRUPT;
    *size = hit.stored_size;
    return HS_OK;
}

static int io_store(void *context, const uint8_t id[32], const uint8_t *bytes, size_t size, bool *added) {
    hs_engine *engine = context;
    hs_ring_item item = {
        .kind = HS_ENTRY_NODE, .id = id, .payload = bytes, .stored_size = (uint32_t)size, .raw_size = size};
    return hs_ring_offer(&engine->ring, &item, added);
}

static void io_expect(void *context, const uint8_t id[32]) {
    const hs_engine *engine = context;
    hs_ring_expect(&engine->ring, id);
}

/* --- open and close --- */

static void config_of(const hs_open_args *args, hs_segment_config *config) {
    memset(config, 0, sizeof *config);
    memcpy(config->store_uuid, args->store_uuid, 16);
    memcpy(config->boot_id, args->boot_id, 16);
    config->store_device = args->store_device;
    config->store_inode = args->store_inode;
    config->ring_size = args->ring_size;
    config->ephemeral = args->ephemeral;
    config->adopt = args->adopt != 0;
}

static int attach_or_create(const hs_open_args *args, hs_segment *out) {
    hs_segment_config config;
    config_of(args, &config);
    if (args->mode == HS_OPEN_PRIVATE) return hs_segment_create_private(&config, out);
    int status = hs_segment_attach(args->segment_name, &config, out);
    if (status == HS_NOT_FOUND) status = hs_segment_create(args->segment_name, &config, out);
    return status;
}

/* A slot of one's own. In private memory slot 0 is ours without a lock; a coordinator has none. */
static int take_slot(hs_engine *engine) {
    engine->self = (hs_participant){.fd = -1};
    if (engine->mode == HS_OPEN_PARTICIPANT)
        return hs_participant_join(&engine->segment, engine->participants_path, &engine->self);
    if (engine->mode == HS_OPEN_COORDINATOR) {
        engine->self.metrics = hs_metrics_coordinator(&engine->segment);
        return HS_OK;
    }
    engine->self.slot = &engine->segment.participants[0];
    engine->self.metrics = &engine->segment.metrics[0];
    return hs_segment_allocate_metrics(&engine->segment, 0);
}

static void engine_free(hs_engine *engine) {
    if (engine->leases) hs_leases_watch(engine->leases, NULL);
    if (engine->tree.cache) hs_cache_free(engine->tree.cache);
    if (engine->probe_fd >= 0) close(engine->probe_fd);
    if (engine->segment.base) hs_segment_detach(&engine->segment);
    pthread_mutex_destroy(&engine->lock);
    free(engine->heads);
    free(engine->scratch);
    free(engine->segment_name);
    free(engine->participants_path);
    free(engine);
}

static int engine_fill(hs_engine *engine, const hs_open_args *args) {
    engine->mode = args->mode;
    engine->probe_fd = -1;
    engine->segment_name = strdup(args->segment_name ? args->segment_name : "");
    engine->participants_path = strdup(args->participants_path ? args->participants_path : "");
    engine->scratch = malloc(HS_RECORD_SIZE_MAX > HS_NODE_SIZE_MAX ? HS_RECORD_SIZE_MAX : HS_NODE_SIZE_MAX);
    engine->heads = calloc(HS_BRANCH_SLOTS, sizeof *engine->heads);
    if (!engine->segment_name || !engine->participants_path || !engine->scratch || !engine->heads)
        return HS_NO_MEMORY;
    int status = hs_cache_new(args->cache_size, &engine->tree.cache);
    if (status == HS_OK) status = attach_or_create(args, &engine->segment);
    if (status == HS_OK) status = take_slot(engine);
    if (status != HS_OK) return status;
    engine->tree.io =
        (hs_node_io){.context = engine, .load = io_load, .store = io_store, .expect = io_expect};
    hs_ring_init(&engine->ring, &engine->segment, writer_of(engine));
    engine->leases = args->leases;
    if (engine->leases) hs_leases_watch(engine->leases, &engine->segment.header->collection);
    return HS_OK;
}

int hs_engine_open(const hs_open_args *args, hs_engine **out) {
    hs_engine *engine = calloc(1, sizeof *engine);
    if (!engine) return HS_NO_MEMORY;
    pthread_mutex_init(&engine->lock, NULL);
    int status = engine_fill(engine, args);
    if (status != HS_OK) {
        engine_free(engine);
        return status;
    }
    engines_add(engine);
    *out = engine;
    return HS_OK;
}

void hs_engine_close(hs_engine *engine) {
    engines_remove(engine);
    if (engine->self.fd >= 0) hs_participant_leave(&engine->self);
    engine_free(engine);
}

int hs_engine_after_fork(hs_engine *engine) {
    int named = engine->mode == HS_OPEN_PARTICIPANT ? hs_engine_is_named(engine) : 1;
    if (named != 1) return named == 0 ? HS_CLOSING : named;
    int ours = engine->mode == HS_OPEN_PARTICIPANT ? hs_segment_is_of_namespace(&engine->segment) : 1;
    if (ours != 1) return ours == 0 ? HS_FORMAT : ours;
    hs_engine_lock(engine);
    int status = engine->self.fd >= 0 ? HS_OK : take_slot(engine);
    hs_cache_after_fork(engine->tree.cache);
    hs_engine_unlock(engine);
    if (status == HS_OK && engine->leases) status = hs_leases_publish(engine->leases);
    if (status == HS_OK && engine->leases)
        hs_leases_watch(engine->leases, &engine->segment.header->collection);
    return status;
}

int hs_engine_is_named(hs_engine *engine) {
    return hs_segment_is_named(&engine->segment, engine->segment_name);
}

int hs_engine_unlink(hs_engine *engine) {
    hs_store32_release(&engine->segment.header->closing, 1);
    return hs_segment_unlink(engine->segment_name);
}

/* The drain probes the participants' locks through a description of its own, which holds none. */
int hs_engine_drain(hs_engine *engine, hs_drain **out) {
    if (engine->probe_fd < 0)
        engine->probe_fd = open(engine->participants_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (engine->probe_fd < 0) return hs_err_system(errno);
    return hs_drain_open(&engine->segment, engine->probe_fd, out);
}

/* --- the ring, with counters --- */

int hs_engine_ring_get(hs_engine *engine, const uint8_t id[32], void *buffer, size_t capacity,
                       hs_ring_hit *hit) {
    int status = hs_ring_get(&engine->ring, id, buffer, capacity, hit);
    if (HS_UNLIKELY(engine->self.slot == NULL)) return status;
    hs_metrics_count(engine->self.metrics, status == HS_OK ? HS_COUNT_HITS : HS_COUNT_MISSES, 1);
    if (status == HS_OK) hs_heat_touch(&engine->segment, hit->place);
    return status;
}

/* --- statistics --- */

static void count_chunks(const hs_segment *segment, hs_engine_stats *out) {
    out->chunks = segment->chunk_count;
    for (uint32_t i = 0; i < segment->chunk_count; i++) {
        uint64_t word = hs_load_acquire(&segment->chunks[i].word),
                 mark = hs_load_acquire(&segment->chunks[i].persisted);
        hs_chunk_state_word chunk = hs_chunk_word_decode(word);
        if (chunk.state == HS_CHUNK_FREE) out->chunks_free++;
        if (chunk.state == HS_CHUNK_BUSY) out->chunks_busy++;
        if (chunk.state == HS_CHUNK_IDLE) out->chunks_idle++;
        if (chunk.state == HS_CHUNK_SEALED) out->chunks_sealed++;
        out->unpersisted_bytes += hs_chunk_unpersisted(word, mark);
    }
}

int hs_engine_stats_get(hs_engine *engine, hs_engine_stats *out) {
    const hs_segment_header *header = engine->segment.header;
    hs_cache_stats cache;
    memset(out, 0, sizeof *out);
    hs_engine_lock(engine);
    hs_cache_stats_get(engine->tree.cache, &cache);
    out->blocks_hashed = engine->tree.blocks_hashed + engine->value_blocks;
    hs_engine_unlock(engine);
    out->cache_nodes = cache.nodes;
    out->cache_bytes = cache.bytes;
    out->hits = hs_metrics_counter(&engine->segment, HS_COUNT_HITS);
    out->misses = hs_metrics_counter(&engine->segment, HS_COUNT_MISSES);
    out->puts = hs_metrics_counter(&engine->segment, HS_COUNT_PUTS);
    out->commits = hs_metrics_counter(&engine->segment, HS_COUNT_COMMITS);
    for (uint32_t i = 0; i < HS_PARTICIPANTS; i++) {
        const hs_participant_slot *slot = &engine->segment.participants[i];
        out->participants += hs_load32_acquire(&slot->state) != 0 || slot == engine->self.slot;
    }
    count_chunks(&engine->segment, out);
    uint64_t done_ns = hs_load_relaxed(&header->round_done_ns), now = hs_clock_ns(CLOCK_MONOTONIC);
    if (out->unpersisted_bytes > 0 && now > done_ns) out->persist_lag_ns = now - done_ns;
    out->rounds_started = hs_load_acquire(&header->rounds_started);
    out->rounds_done = hs_load_acquire(&header->rounds_done);
    out->coordinator_pid = hs_load_relaxed(&header->coordinator_pid);
    out->ring_size = (uint64_t)engine->segment.chunk_count * HS_CHUNK_SIZE;
    out->segment_nonce = header->nonce;
    return HS_OK;
}

void hs_engine_measure(hs_engine *engine, uint32_t measure, uint64_t value, uint32_t counter, uint64_t more) {
    if (measure >= HS_HISTOGRAMS || counter >= HS_COUNTERS) return;
    hs_engine_lock(engine);
    hs_metrics_measure(engine->self.metrics, measure, value);
    if (more > 0) hs_metrics_count(engine->self.metrics, counter, more);
    hs_engine_unlock(engine);
}

void hs_engine_metrics_get(hs_engine *engine, hs_metrics_totals *out) {
    hs_metrics_sum(&engine->segment, out);
}

int hs_engine_busy_pids(hs_engine *engine, uint64_t *pids, uint32_t capacity) {
    uint32_t found = 0;
    for (uint32_t i = 0; i < engine->segment.chunk_count && found < capacity; i++) {
        hs_chunk_state_word chunk = hs_chunk_word_decode(hs_load_acquire(&engine->segment.chunks[i].word));
        if (chunk.state != HS_CHUNK_BUSY || chunk.owner >= HS_PARTICIPANTS) continue;
        pids[found++] = hs_load_relaxed(&engine->segment.participants[chunk.owner].pid);
    }
    return (int)found;
}

/* --- rounds --- */

uint64_t hs_round_target(hs_engine *engine) {
    hs_fence_seq_cst(); /* E20: what I published is before the round that begins after this load */
    return hs_load_acquire(&engine->segment.header->rounds_started) + 1; /* E22 (acquire end) */
}

int hs_round_wait(hs_engine *engine, uint64_t round, unsigned wait_ms) {
    const hs_word *done = &engine->segment.header->rounds_done;
    uint32_t seen = hs_ring_done_bell(&engine->segment);
    if (hs_load_acquire(done) >= round) return HS_OK;
    hs_ring_hurry(&engine->segment);
    (void)hs_ring_wait_done(&engine->segment, seen, wait_ms);
    return hs_load_acquire(done) >= round ? HS_OK : HS_TIMED_OUT; /* E21 (acquire end) */
}

int hs_room_wait(hs_engine *engine, unsigned wait_ms) { return hs_ring_wait(&engine->ring, wait_ms); }

/* --- collections --- */

uint64_t hs_engine_collection(hs_engine *engine) {
    return hs_load_acquire(&engine->segment.header->collection); /* E29 (acquire end) */
}

void hs_engine_leave(hs_engine *engine) {
    if (HS_LIKELY(engine->self.slot != NULL))
        hs_store32_release(&engine->self.slot->committing, 0); /* E28 (release end) */
}

uint64_t hs_engine_enter(hs_engine *engine) {
    if (HS_LIKELY(engine->self.slot != NULL)) hs_store32_relaxed(&engine->self.slot->committing, 1);
    hs_fence_seq_cst(); /* E26: I am in a commit, before I look whether anything is deleted */
    uint64_t collection = hs_engine_collection(engine);
    if (HS_UNLIKELY(collection & 1)) hs_engine_leave(engine);
    return collection;
}

int hs_collection_wait(hs_engine *engine, uint64_t collection, unsigned wait_ms) {
    hs_word *word = &engine->segment.header->collection;
    if (hs_load_acquire(word) != collection) return HS_OK;
    hs_futex_wait(hs_futex_half(word), (uint32_t)collection, wait_ms);
    return hs_load_acquire(word) != collection ? HS_OK : HS_TIMED_OUT;
}

int hs_root_stands(hs_engine *engine, const uint8_t *root) { return hs_ring_stands(&engine->segment, root); }

void hs_call_let_go(hs_call *call) {
    if (call->held > 0) hs_lease_drop(call->engine->leases, call->held_root, call->held);
    call->held = 0;
}

int hs_call_status(hs_call *call, int status) {
    if (status != HS_MISSING) return status;
    memcpy(call->missing, call->engine->tree.missing, HS_HASH_SIZE);
    call->missing_kind = HS_ENTRY_NODE;
    return status;
}
