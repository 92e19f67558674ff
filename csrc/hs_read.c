/* hs_read.c - the facade's reading side: get, stat, count, scan, diff, L1 by id. See helios_shm.h.
 *
 * Each function takes the engine's mutex, trims the cache, walks, copies what it found to the call's memory, and lets go:
 * nothing points into the cache afterwards. */
#include <string.h>
#include "hs_blake3.h"
#include "hs_checksum.h"
#include "hs_engine.h"
#include "hs_read.h"

static void begin(hs_engine *engine) {
    hs_engine_lock(engine);
    hs_cache_trim(engine->tree.cache);
}

/* A value that the tree names by id, out of L1. size: what the tree says that it has; 0: nobody says. */
static int64_t get_by_id(hs_call *call, const uint8_t id[32], uint64_t size, uint8_t *to, size_t capacity) {
    hs_ring_hit hit;
    int status = hs_engine_ring_get(call->engine, id, to, capacity, &hit);
    if (HS_LIKELY(status == HS_OK) && HS_LIKELY(hit.kind == HS_ENTRY_VALUE)) {
        if (HS_UNLIKELY(size != 0 && hit.raw_size != size)) return HS_CORRUPT;
        call->codec = hit.codec;
        call->raw_size = hit.raw_size;
        return hit.codec == HS_CODEC_RAW ? (int64_t)hit.stored_size : (int64_t)hit.stored_size | HS_ENCODED;
    }
    if (status == HS_SMALL) {
        call->size = hit.stored_size;
        return HS_SMALL;
    }
    if (status != HS_OK && status != HS_NOT_FOUND) return status;
    memcpy(call->missing, id, HS_HASH_SIZE); /* not in L1, or a blob */
    call->missing_kind = HS_ENTRY_VALUE;
    call->size = size;
    return HS_MISSING;
}

int hs_read_find(hs_call *call, const uint8_t *root, const uint8_t *key, size_t key_size, hs_value *out) {
    hs_cache_trim(call->engine->tree.cache);
    int status = hs_tree_find(&call->engine->tree, root, key, key_size, out);
    if (HS_LIKELY(status == HS_OK) && out->hashed) hs_ring_expect(&call->engine->ring, out->bytes);
    return hs_call_status(call, status);
}

int64_t hs_read_value(hs_call *call, const hs_value *value, uint8_t *to, size_t capacity) {
    call->value_kind = value->kind;
    if (value->hashed) return get_by_id(call, value->bytes, value->size, to, capacity);
    call->codec = HS_CODEC_RAW;
    memcpy(to, value->bytes, value->size);
    return (int64_t)value->size;
}

int64_t hs_get(hs_call *call, const uint8_t *root, const uint8_t *key, size_t key_size) {
    hs_value value;
    hs_engine_lock(call->engine);
    int64_t result = hs_read_find(call, root, key, key_size, &value);
    if (HS_LIKELY(result == HS_OK)) result = hs_read_value(call, &value, call->data, call->capacity);
    hs_engine_unlock(call->engine);
    return result;
}

int hs_stat(hs_call *call, const uint8_t *root, const uint8_t *key, size_t key_size) {
    hs_value value;
    begin(call->engine);
    int status = hs_tree_find(&call->engine->tree, root, key, key_size, &value);
    if (status == HS_OK) {
        call->value_kind = value.kind;
        call->size = value.size;
        if (value.hashed)
            memcpy(call->id, value.bytes, HS_HASH_SIZE);
        else
            hs_blake3(value.bytes, value.size, call->id);
    }
    status = hs_call_status(call, status);
    hs_engine_unlock(call->engine);
    return status;
}

int hs_totals(hs_call *call, const uint8_t *root) {
    begin(call->engine);
    int status =
        hs_call_status(call, hs_tree_totals(&call->engine->tree, root, &call->keys, &call->value_bytes));
    hs_engine_unlock(call->engine);
    return status;
}

int hs_count(hs_call *call, const uint8_t *root, const uint8_t *start, size_t start_size, const uint8_t *stop,
             size_t stop_size) {
    hs_range range = {.start = start, .start_size = start_size, .stop = stop, .stop_size = stop_size};
    begin(call->engine);
    int status = hs_call_status(call, hs_tree_count(&call->engine->tree, root, &range, &call->keys));
    hs_engine_unlock(call->engine);
    return status;
}

void hs_empty_root(uint8_t *out) { hs_tree_empty_root(out); }

/* --- scan and diff: visitors that fill a batch --- */

int hs_read_scan(hs_call *call, const uint8_t *root, const hs_range *range, bool reverse, hs_scan_visit visit,
                 void *context) {
    hs_cache_trim(call->engine->tree.cache);
    return hs_call_status(call, hs_tree_scan(&call->engine->tree, root, range, reverse, visit, context));
}

typedef struct hs_batch_fill {
    hs_engine *engine;
    hs_batch *batch;
    uint32_t key_bytes, value_bytes;
    bool keys_only, full;
    bool stats; /* kinds and ids instead of values */
} hs_batch_fill;

static bool batch_key(hs_batch_fill *fill, const uint8_t *key, size_t key_size) {
    hs_batch *batch = fill->batch;
    if (batch->count == HS_BATCH_COUNT || fill->key_bytes + key_size > HS_BATCH_KEYS) {
        fill->full = true;
        return false;
    }
    memcpy(batch->keys + fill->key_bytes, key, key_size);
    fill->key_bytes += (uint32_t)key_size;
    batch->key_ends[batch->count] = fill->key_bytes;
    return true;
}

/* What the leaf says of the value: its kind, and the value itself where it stands inline, else its id and size. */
static bool batch_stat(hs_batch_fill *fill, const hs_value *value) {
    hs_batch *batch = fill->batch;
    uint8_t *to = batch->values + fill->value_bytes;
    uint32_t size = value->hashed ? HS_HASH_SIZE + 8 : (uint32_t)value->size;
    if (HS_BATCH_VALUES - fill->value_bytes < size) return false;
    memcpy(to, value->bytes, value->hashed ? HS_HASH_SIZE : size);
    if (value->hashed) hs_store_u64(to + HS_HASH_SIZE, value->size);
    fill->value_bytes += size;
    batch->value_ends[batch->count] = fill->value_bytes;
    batch->forms[batch->count] = (uint8_t)(value->kind | (value->hashed ? HS_BATCH_STAT_BY_ID : 0));
    return true;
}

/* The value, from the leaf or from L1; else its id and size, for Python to bring. False: no room for it in this batch. */
static bool batch_value(hs_batch_fill *fill, const hs_value *value) {
    hs_batch *batch = fill->batch;
    uint8_t *to = batch->values + fill->value_bytes;
    size_t room = HS_BATCH_VALUES - fill->value_bytes, size = value->size;
    uint8_t form = HS_BATCH_BYTES;
    if (room < HS_HASH_SIZE + 8 + HS_INLINE_MAX) return false;
    if (value->hashed) {
        hs_ring_hit hit;
        int status = hs_engine_ring_get(fill->engine, value->bytes, to, room, &hit);
        if (status == HS_SMALL && batch->count > 0) return false;
        if (status == HS_OK && hit.kind == HS_ENTRY_VALUE && hit.codec == HS_CODEC_RAW &&
            hit.raw_size == value->size) {
            size = hit.stored_size;
        } else {
            form = HS_BATCH_BY_ID;
            memcpy(to, value->bytes, HS_HASH_SIZE);
            hs_store_u64(to + HS_HASH_SIZE, value->size);
            size = HS_HASH_SIZE + 8;
        }
    } else {
        memcpy(to, value->bytes, size);
    }
    fill->value_bytes += (uint32_t)size;
    batch->value_ends[batch->count] = fill->value_bytes;
    batch->forms[batch->count] = form;
    return true;
}

static bool visit_scan(void *context, const uint8_t *key, size_t key_size, const hs_value *value) {
    hs_batch_fill *fill = context;
    uint32_t before = fill->key_bytes;
    if (!batch_key(fill, key, key_size)) return false;
    if (!fill->keys_only && !(fill->stats ? batch_stat(fill, value) : batch_value(fill, value))) {
        fill->key_bytes = before;
        fill->full = true;
        return false;
    }
    fill->batch->count++;
    return true;
}

static bool visit_diff(void *context, const uint8_t *key, size_t key_size, const hs_value *old_value,
                       const hs_value *new_value) {
    hs_batch_fill *fill = context;
    if (!batch_key(fill, key, key_size)) return false;
    fill->batch->forms[fill->batch->count++] = (uint8_t)(!old_value ? 0 : new_value ? 1 : 2);
    return true;
}

static int batch_status(hs_call *call, const hs_batch_fill *fill, int status) {
    if (status == HS_OK && fill->full) return HS_MORE;
    return hs_call_status(call, status);
}

int hs_scan(hs_call *call, const uint8_t *root, const uint8_t *start, size_t start_size, const uint8_t *stop,
            size_t stop_size, uint32_t flags, hs_batch *batch) {
    hs_range range = {.start = start, .start_size = start_size, .stop = stop, .stop_size = stop_size};
    hs_batch_fill fill = {.engine = call->engine,
                          .batch = batch,
                          .keys_only = (flags & HS_SCAN_KEYS) != 0,
                          .stats = (flags & HS_SCAN_STATS) != 0};
    batch->count = 0;
    begin(call->engine);
    int status =
        hs_tree_scan(&call->engine->tree, root, &range, (flags & HS_SCAN_REVERSE) != 0, visit_scan, &fill);
    status = batch_status(call, &fill, status);
    hs_engine_unlock(call->engine);
    return status;
}

int hs_diff(hs_call *call, const uint8_t *old_root, const uint8_t *new_root, const uint8_t *start,
            size_t start_size, const uint8_t *stop, size_t stop_size, hs_batch *batch) {
    hs_range range = {.start = start, .start_size = start_size, .stop = stop, .stop_size = stop_size};
    hs_batch_fill fill = {.engine = call->engine, .batch = batch, .keys_only = true};
    batch->count = 0;
    begin(call->engine);
    int status = hs_tree_diff(&call->engine->tree, old_root, new_root, &range, visit_diff, &fill);
    status = batch_status(call, &fill, status);
    hs_engine_unlock(call->engine);
    return status;
}

/* --- L0 and L1 by id --- */

int hs_node_give(hs_engine *engine, const uint8_t *id, const uint8_t *bytes, size_t size) {
    hs_engine_lock(engine);
    int status = hs_cache_add(engine->tree.cache, id, bytes, size, false);
    hs_engine_unlock(engine);
    return status;
}

void hs_engine_forget(hs_engine *engine) {
    hs_engine_lock(engine);
    hs_cache_clear(engine->tree.cache);
    hs_engine_unlock(engine);
}

static int put_item(hs_engine *engine, const hs_ring_item *item) {
    uint64_t place;
    bool added;
    int status = hs_ring_put(&engine->ring, item, &place, &added);
    if (status == HS_OK) status = hs_ring_flush(&engine->ring);
    hs_ring_end(&engine->ring);
    if (status == HS_REAPED) engine->reaped++;
    if (status == HS_OK) hs_ring_bell(&engine->segment);
    return status == HS_REAPED ? HS_WAIT : status;
}

int hs_l1_put_locked(hs_call *call, const uint8_t *bytes, size_t size) {
    if (size > HS_CHUNK_SIZE / 2) return HS_ARGUMENT;
    hs_ring_item item = {.kind = HS_ENTRY_VALUE,
                         .id = call->id,
                         .payload = bytes,
                         .stored_size = (uint32_t)size,
                         .raw_size = size};
    hs_blake3(bytes, size, call->id);
    return put_item(call->engine, &item);
}

int hs_l1_put(hs_call *call, const uint8_t *bytes, size_t size) {
    hs_engine_lock(call->engine);
    int status = hs_l1_put_locked(call, bytes, size);
    hs_engine_unlock(call->engine);
    return status;
}

int hs_l1_put_cached(hs_call *call, uint32_t kind, const uint8_t *id, uint32_t codec, const uint8_t *stored,
                     size_t stored_size, uint64_t raw_size) {
    if (stored_size > HS_CHUNK_SIZE / 2 || kind > UINT8_MAX || codec > UINT8_MAX) return HS_ARGUMENT;
    hs_ring_item item = {.kind = (uint8_t)kind,
                         .codec = (uint8_t)codec,
                         .flags = HS_ENTRY_CACHED,
                         .id = id,
                         .payload = stored,
                         .stored_size = (uint32_t)stored_size,
                         .raw_size = raw_size};
    hs_engine_lock(call->engine);
    bool worth = hs_heat_admit(&call->engine->segment, id);
    hs_chunk_writer *writer = &call->engine->ring.writer;
    if (worth && !writer->owned) hs_chunk_join_newest(&call->engine->segment, writer);
    int status = worth ? put_item(call->engine, &item) : HS_OK;
    if (status == HS_WAIT) hs_ring_hurry(&call->engine->segment); /* whoever comes next finds room */
    hs_engine_unlock(call->engine);
    return status;
}

int64_t hs_l1_get_locked(hs_call *call, const uint8_t *id) {
    int64_t result = get_by_id(call, id, 0, call->data, call->capacity);
    return result == HS_MISSING ? HS_NOT_FOUND : result;
}

int64_t hs_l1_get(hs_call *call, const uint8_t *id) {
    hs_engine_lock(call->engine);
    int64_t result = hs_l1_get_locked(call, id);
    hs_engine_unlock(call->engine);
    return result;
}

int hs_l1_damage(hs_engine *engine, uint32_t *chunk, uint32_t *offset, uint64_t *place, uint8_t *id) {
    return hs_ring_damage(&engine->segment, chunk, offset, place, id);
}
