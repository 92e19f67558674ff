/* hs_commit.c - a commit, from edits to the branch's head. See helios_shm.h for the callers' side.
 *
 *   values (hash, put) -> judge against the head -> tree (apply, put nodes) -> record -> publish, index -> head CAS -> release
 *          \__ once __/   \______________________ again with the new head when the CAS is lost ______________________/
 *
 * Invariants. Everything that a head names was published before the head's compare-and-swap, the linearisation point. The chunk stays
 * BUSY until the head has moved: a chunk given up earlier could be drained and reused with the record in it. What is there already, and not
 * held by a lease, is relied on only between hs_engine_enter and hs_engine_leave, when nothing is deleted; the result is held before that. A suspended
 * commit holds no chunk and no pointer into the cache. Nothing that was put needs to be taken back when a commit ends
 * without moving the head: it is unreferenced, and harmless.
 */
#include <stdlib.h>
#include <string.h>
#include "hs_blake3.h"
#include "hs_clock.h"
#include "hs_engine.h"
#include "hs_metrics.h"
#include "hs_record.h"
#include "hs_step.h"
#include "hs_turn.h"

#define HS_SLOT_UNKNOWN       UINT32_MAX
#define HS_LOST_RACES_MAX     64u /* before the caller is asked to look at its clock */
#define HS_LOOK_AFTER_NS      UINT64_C(1000000000)
/* A commit that was passed so often, for so long, takes the turn: small ones, which lose some races in a row among many, do not. */
#define HS_PASSED_MAX         3u
#define HS_PASSED_NS_MAX      UINT64_C(1000000)
#define HS_TURN_US_MIN        2000u
#define HS_BY_ID_SIZE         (HS_HASH_SIZE + 8u)
/* The next commit writes about as much as this one, to cold memory: fetched while the caller is elsewhere. */
#define FETCH_AHEAD_BYTES_MAX 4096u
#define HS_HASH_BATCH         64u
_Static_assert(HS_VALUE_INLINE_MAX == HS_INLINE_MAX,
               "what Python hands over by id is what a leaf names by id");

struct hs_commit_state {
    hs_branch_ref *branch; /* NULL: detached */
    uint8_t base_root[HS_HASH_SIZE];
    uint64_t base_incarnation;
    uint32_t move; /* enum hs_move: to a root that exists; 0: apply edits */
    uint8_t move_root[HS_HASH_SIZE], expected_root[HS_HASH_SIZE];
    hs_edit *edits;
    uint32_t count;
    hs_edits source;              /* what the edits were made from */
    uint32_t one_sizes[2];        /* source's sizes when there is one */
    const uint8_t *forms;         /* of the edits, or NULL */
    uint8_t (*ids)[HS_HASH_SIZE]; /* of values that were hashed here */
    hs_edit one_edit;             /* storage when there is one */
    uint8_t one_id[1][HS_HASH_SIZE];
    uint32_t values_put, values_hashed;
    uint64_t new_value_bytes; /* offered; what turned out to stand already is in spared */
    hs_ring_spared spared;
    hs_head head;    /* that the edits are judged against; serial 0: none yet */
    uint32_t judged; /* edits that do not conflict with head */
    hs_apply *apply;
    bool applied; /* result holds for applied_on */
    uint8_t applied_on[HS_HASH_SIZE];
    hs_apply_result result;
    uint64_t start_ns, latency_ns, reaped;
    uint64_t
        collection; /* the word under which it was run: what it relied on under another may have been deleted */
    bool has_blobs;
    uint32_t retries, lost_in_a_row;
    uint32_t passed; /* races that were lost, and turns of others */
    uint32_t ticket; /* of the turn that was taken here; 0: none */
};

/* --- values --- */

static uint8_t form_of(const hs_commit_state *state, uint32_t i) {
    return state->forms ? state->forms[i] : 0;
}

/* What Python hands over by id: {id[32], u64 size}, perhaps followed by stored bytes. */
static bool is_by_id(uint8_t form) { return (form & (HS_EDIT_BLOB | HS_EDIT_LZ4 | HS_EDIT_KNOWN)) != 0; }

/* A single small value is hashed in the pass that copies it into the ring. */
static bool is_hashed_as_it_is_put(const hs_commit_state *state) {
    return state->count == 1 && state->edits->value.size <= HS_BLAKE3_CHUNK;
}

/* Hash the next values, many at a time, and no more than stay near until they are put. Small ones stand inline. value.bytes is what was
 * handed over until then. */
static void hash_values(hs_engine *engine, hs_commit_state *state) {
    hs_blake3_job jobs[HS_HASH_BATCH];
    size_t waiting = 0;
    uint32_t i = state->values_hashed;
    for (; i < state->count && waiting < HS_HASH_BATCH; i++) {
        const hs_value *value = &state->edits[i].value;
        if (state->edits[i].remove || is_by_id(form_of(state, i)) || value->size <= HS_INLINE_MAX) continue;
        jobs[waiting++] =
            (hs_blake3_job){.in = value->bytes, .size = value->size, .out = state->ids[i], .cv = NULL};
        engine->value_blocks += hs_blake3_blocks(value->size);
    }
    if (waiting > 0) hs_blake3_many(jobs, waiting);
    state->values_hashed = i;
}

/* Put one edit's value where the tree will name it by id; the edit then holds the id. */
static int put_edit(hs_engine *engine, hs_commit_state *state, uint32_t i) {
    hs_edit *edit = &state->edits[i];
    hs_value *value = &edit->value;
    uint8_t form = form_of(state, i);
    if (edit->remove || (!is_by_id(form) && value->size <= HS_INLINE_MAX)) {
        if (!edit->remove) state->new_value_bytes += value->size;
        return HS_OK;
    }
    hs_ring_item item = {.kind = (form & HS_EDIT_BLOB) ? HS_ENTRY_BLOB : HS_ENTRY_VALUE, .id = state->ids[i]};
    if (is_by_id(form)) {
        item.id = value->bytes;
        item.raw_size = hs_load_u64(value->bytes + HS_HASH_SIZE);
        if (form & HS_EDIT_LZ4) {
            item.codec = HS_CODEC_LZ4;
            item.payload = value->bytes + HS_BY_ID_SIZE;
            item.stored_size = (uint32_t)(value->size - HS_BY_ID_SIZE);
        }
    } else {
        item.payload = value->bytes;
        item.stored_size = (uint32_t)value->size;
        item.raw_size = value->size;
    }
    int status = HS_OK;
    bool added = false, hashes = !is_by_id(form) && is_hashed_as_it_is_put(state);
    if (hashes)
        status = hs_ring_offer_value(&engine->ring, value->bytes, item.stored_size, state->ids[i], &added);
    else if (!(form & HS_EDIT_KNOWN))
        status = hs_ring_offer(&engine->ring, &item, &added);
    if (status != HS_OK) return status;
    if (hashes) engine->value_blocks += hs_blake3_blocks(value->size);
    if (added) state->new_value_bytes += item.raw_size;
    value->hashed = true;
    value->bytes = item.id;
    value->size = item.raw_size;
    return HS_OK;
}

static int put_values(hs_engine *engine, hs_commit_state *state) {
    bool hashes = !is_hashed_as_it_is_put(state);
    for (; state->values_put < state->count; state->values_put++) {
        if (hashes && state->values_hashed == state->values_put) hash_values(engine, state);
        int status =
            state->edits[state->values_put].value.hashed ? HS_OK : put_edit(engine, state, state->values_put);
        if (status != HS_OK) return status;
    }
    return HS_OK;
}

/* --- the head --- */

/* Slot of the branch, looked up again if it was evicted. */
static int branch_slot(hs_engine *engine, hs_branch_ref *branch) {
    if (branch->slot != HS_SLOT_UNKNOWN &&
        hs_branch_slot_is(&engine->segment, branch->slot, branch->name, branch->name_size))
        return HS_OK;
    uint32_t slot;
    int status = hs_branch_slot_find(&engine->segment, &engine->self, branch->name, branch->name_size, &slot);
    if (status == HS_OK) branch->slot = slot;
    return status;
}

static int head_from_record(hs_engine *engine, const hs_branch_ref *branch, uint64_t word, hs_head *out) {
    hs_ring_hit hit;
    hs_record record;
    int status = hs_ring_read(&engine->segment, word, engine->scratch, HS_RECORD_SIZE_MAX, &hit);
    if (status != HS_OK) return status == HS_SMALL ? HS_CORRUPT : status;
    if (hit.kind != HS_ENTRY_RECORD) return HS_CORRUPT;
    status = hs_record_decode(engine->scratch, hit.stored_size, &record);
    if (status != HS_OK) return status;
    if (record.name_size != branch->name_size || memcmp(record.name, branch->name, branch->name_size) != 0)
        return HS_CORRUPT;
    *out = (hs_head){.word = word,
                     .serial = record.serial,
                     .sequence = record.sequence,
                     .incarnation = record.incarnation,
                     .known = 1,
                     .deleted = (record.flags & HS_RECORD_DELETED) != 0};
    memcpy(out->root, record.root, HS_HASH_SIZE);
    return HS_OK;
}

/* The head word, and the slot that it was read from still the branch's after the load: an evicted slot may be given to another
 * branch at any time, but not while its tag is still ours. */
static int head_word(hs_engine *engine, hs_branch_ref *branch, uint64_t *word) {
    for (;;) {
        int status = branch_slot(engine, branch);
        if (status != HS_OK) return status;
        *word = hs_branch_head_load(&engine->segment, branch->slot); /* E3 acquire */
        if (hs_branch_slot_is(&engine->segment, branch->slot, branch->name, branch->name_size)) return HS_OK;
    }
}

/* Can a commit follow? The numbers of a head are what its record or L2's row says; nobody counts as far as to the last. */
static bool has_successor(const hs_head *head) {
    return head->serial < UINT64_MAX && head->sequence < UINT64_MAX && head->incarnation < UINT64_MAX;
}

/* What the branch's head is now: from the private cache, the ring, or (HS_HEAD_IN_L2) from what Python provides. */
static int head_load(hs_call *call, hs_branch_ref *branch, hs_head *out) {
    hs_engine *engine = call->engine;
    uint64_t tried = 0;
    for (;;) {
        int status = head_word(engine, branch, &call->word);
        if (status != HS_OK) return status;
        uint64_t word = call->word;
        hs_head *known = &engine->heads[branch->slot];
        if (!known->known || known->word != word) {
            if ((word & HS_WORD_IN_L2) || word == tried) return HS_HEAD_IN_L2;
            tried = word; /* its record may be reused while we read: then the head has moved, or L2 has it */
            status = head_from_record(engine, branch, word, known);
            if (status == HS_NOT_FOUND) continue;
            if (status != HS_OK) return status;
        }
        if (!has_successor(known)) return HS_CORRUPT;
        *out = *known;
        return HS_OK;
    }
}

static bool is_absent(const hs_head *head) { return head->serial == 0 || head->deleted; }

/* --- judging --- */

/* Is this key's entry the same at both roots? 1 yes, 0 no, or a status. */
static int same_entry(hs_tree *tree, const uint8_t *a, const uint8_t *b, const hs_edit *edit) {
    hs_value in_a, in_b;
    int found_a = hs_tree_find(tree, a, edit->key, edit->key_size, &in_a);
    if (found_a != HS_OK && found_a != HS_NOT_FOUND) return found_a;
    uint8_t copy
        [HS_INLINE_MAX]; /* the second walk may add to the cache, but moves nothing; copied all the same, it is small */
    size_t bytes = 0;
    if (found_a == HS_OK) {
        bytes = in_a.hashed ? HS_HASH_SIZE : (size_t)in_a.size;
        memcpy(copy, in_a.bytes, bytes);
    }
    int found_b = hs_tree_find(tree, b, edit->key, edit->key_size, &in_b);
    if (found_b != HS_OK && found_b != HS_NOT_FOUND) return found_b;
    if (found_a != found_b) return 0;
    if (found_a == HS_NOT_FOUND) return 1;
    return in_a.kind == in_b.kind && in_a.hashed == in_b.hashed && in_a.size == in_b.size &&
           memcmp(copy, in_b.bytes, bytes) == 0;
}

static int judge_edits(hs_call *call, hs_commit_state *state) {
    for (; state->judged < state->count; state->judged++) {
        int same =
            same_entry(&call->engine->tree, state->base_root, state->head.root, &state->edits[state->judged]);
        if (same < 0) return same;
        if (same) continue;
        memcpy(call->head_root, state->head.root, HS_HASH_SIZE);
        call->conflict = state->judged;
        return HS_CONFLICT;
    }
    return HS_OK;
}

static int judge_move(hs_call *call, const hs_commit_state *state) {
    const hs_head *head = &state->head;
    switch (state->move) {
    case HS_MOVE_CREATE:
        return is_absent(head) ? HS_OK : HS_EXISTS;
    case HS_MOVE_DELETE:
        return is_absent(head) ? HS_NOT_FOUND : HS_OK;
    case HS_MOVE_COMPARE:
        memcpy(call->head_root, head->root, HS_HASH_SIZE);
        if (memcmp(head->root, state->expected_root, HS_HASH_SIZE) == 0) return HS_OK;
        return is_absent(head) ? HS_NOT_FOUND : HS_MOVED; /* the head of no branch is the empty state */
    default:
        return HS_OK;
    }
}

/* May these edits go onto the head as it is now? */
static int judge(hs_call *call, hs_commit_state *state) {
    hs_head head;
    int status = head_load(call, state->branch, &head);
    if (status != HS_OK) return status;
    if (head.word != state->head.word || !state->head.known) {
        state->head = head;
        state->judged = 0;
        if (is_absent(&head)) hs_tree_empty_root(state->head.root);
    }
    if (call->expected_serial != 0 && head.serial != call->expected_serial) {
        memcpy(call->head_root, state->head.root, HS_HASH_SIZE);
        return HS_MOVED;
    }
    if (state->move) return judge_move(call, state);
    if (state->base_incarnation != 0 && (is_absent(&head) || head.incarnation != state->base_incarnation))
        return HS_DELETED;
    if (memcmp(state->head.root, state->base_root, HS_HASH_SIZE) == 0) return HS_OK;
    if (call->no_rebase) {
        memcpy(call->head_root, state->head.root, HS_HASH_SIZE);
        return HS_MOVED;
    }
    return judge_edits(call, state);
}

/* --- the tree --- */

/* Entries that were offered and stood already are not new after all. */
static void count_spared(hs_engine *engine, hs_commit_state *state) {
    hs_ring_settle(&engine->ring);
    state->spared.nodes += engine->ring.spared.nodes;
    state->spared.node_bytes += engine->ring.spared.node_bytes;
    state->spared.value_bytes += engine->ring.spared.value_bytes;
    engine->ring.spared = (hs_ring_spared){0};
}

/* One edit is applied from its start each time: what an attempt before this one spared is no part of it. */
static void forget_spared_nodes(hs_engine *engine, hs_commit_state *state) {
    state->spared.nodes = engine->ring.spared.nodes = 0;
    state->spared.node_bytes = engine->ring.spared.node_bytes = 0;
}

static int apply_edits(hs_engine *engine, hs_commit_state *state, const uint8_t *on) {
    if (state->applied && memcmp(state->applied_on, on, HS_HASH_SIZE) == 0) return HS_OK;
    if (state->apply && memcmp(state->applied_on, on, HS_HASH_SIZE) != 0) {
        hs_apply_free(state->apply);
        state->apply = NULL;
    }
    state->applied = false;
    memcpy(state->applied_on, on, HS_HASH_SIZE);
    int status = HS_OK;
    if (state->count == 1) {
        forget_spared_nodes(engine, state);
        status = hs_tree_apply_one(&engine->tree, on, state->edits, &state->result);
    } else {
        if (!state->apply) forget_spared_nodes(engine, state);
        if (!state->apply)
            status = hs_apply_new(&engine->tree, on, state->edits, state->count, &state->apply);
        if (status == HS_OK) status = hs_apply_run(state->apply, &state->result);
    }
    state->applied = status == HS_OK;
    return status;
}

static int move_root(hs_engine *engine, hs_commit_state *state) {
    hs_apply_result *result = &state->result;
    memset(result, 0, sizeof *result);
    memcpy(result->root, state->move_root, HS_HASH_SIZE);
    return hs_tree_totals(&engine->tree, state->move_root, &result->keys, &result->value_bytes);
}

/* --- the record --- */

static size_t write_record(hs_call *call, hs_commit_state *state, uint8_t *out) {
    const hs_apply_result *result = &state->result;
    const hs_head *head = &state->head;
    uint64_t values = state->new_value_bytes - state->spared.value_bytes;
    state->latency_ns = hs_clock_ns(CLOCK_MONOTONIC) - state->start_ns;
    hs_record record = {.time_ns = call->has_time ? call->time_ns : (int64_t)hs_clock_ns(CLOCK_REALTIME),
                        .latency_ns = state->latency_ns,
                        .new_bytes = result->new_node_bytes - state->spared.node_bytes + values,
                        .reused_bytes = result->value_bytes > values ? result->value_bytes - values : 0,
                        .new_nodes = result->new_nodes - state->spared.nodes,
                        .changed_keys = result->changed_keys,
                        .retries = state->retries,
                        .message = call->message,
                        .message_size = call->message_size,
                        .metadata = call->metadata,
                        .metadata_size = call->metadata_size};
    memcpy(record.root, result->root, HS_HASH_SIZE);
    if (call->second) {
        record.flags = HS_RECORD_HAS_SECOND;
        memcpy(record.second, call->second, HS_HASH_SIZE);
    }
    if (!state->branch) {
        record.flags |= HS_RECORD_HAS_PARENT;
        memcpy(record.parent, state->base_root, HS_HASH_SIZE);
        return hs_record_encode(&record, out);
    }
    record.name = state->branch->name;
    record.name_size = (uint16_t)state->branch->name_size;
    record.parent_word = head->word;
    record.serial = head->serial + 1;
    record.incarnation = is_absent(head) ? head->incarnation + 1 : head->incarnation;
    record.sequence = is_absent(head) ? 1 : head->sequence + 1;
    if (!is_absent(head)) {
        record.flags |= HS_RECORD_HAS_PARENT;
        memcpy(record.parent, head->root, HS_HASH_SIZE);
    }
    if (state->move == HS_MOVE_DELETE) record.flags |= HS_RECORD_DELETED;
    if (state->move == HS_MOVE_RESTORE) record.flags |= HS_RECORD_RESTORED;
    return hs_record_encode(&record, out);
}

/* --- edits --- */

static bool edit_is_sound(uint8_t form, uint32_t key_size, uint32_t value_size) {
    if (key_size == 0 || key_size > HS_KEY_MAX || value_size > HS_CHUNK_SIZE / 2) return false;
    if (is_by_id(form) && value_size < HS_BY_ID_SIZE) return false;
    return (form & HS_EDIT_REMOVE) || (form & HS_EDIT_KIND) < HS_KIND_COUNT;
}

/* Tree edits from what was handed over; their values are raw until put_edit. */
static int fill_edits(hs_commit_state *state) {
    const hs_edits *edits = &state->source;
    const uint8_t *key = edits->keys, *value = edits->values;
    for (uint32_t i = 0; i < edits->count; i++) {
        uint8_t form = edits->forms ? edits->forms[i] : 0;
        if (!edit_is_sound(form, edits->key_sizes[i], edits->value_sizes[i])) return HS_ARGUMENT;
        state->edits[i] = (hs_edit){.key = edits->key_at ? edits->key_at[i] : key,
                                    .key_size = edits->key_sizes[i],
                                    .remove = (form & HS_EDIT_REMOVE) != 0,
                                    .value = {.kind = form & HS_EDIT_KIND,
                                              .size = edits->value_sizes[i],
                                              .bytes = edits->value_at ? edits->value_at[i] : value}};
        state->has_blobs |= (form & HS_EDIT_BLOB) != 0;
        key += edits->key_sizes[i];
        value += edits->value_sizes[i];
    }
    state->count = edits->count;
    state->forms = edits->forms;
    state->values_put = state->values_hashed = 0;
    state->new_value_bytes = 0;
    state->spared = (hs_ring_spared){0};
    return HS_OK;
}

/* --- running --- */

static int64_t publish_detached(hs_call *call, hs_commit_state *state) {
    count_spared(call->engine, state);
    int status = hs_ring_flush(&call->engine->ring);
    if (status != HS_OK) return status;
    return (int64_t)write_record(call, state, call->data);
}

/* Record, publish, head. HS_MOVED: the race was lost. */
static int64_t publish_on_branch(hs_call *call, hs_commit_state *state) {
    hs_engine *engine = call->engine;
    count_spared(engine, state);
    size_t size = write_record(call, state, call->data);
    hs_ring_item item = {
        .kind = HS_ENTRY_RECORD, .payload = call->data, .stored_size = (uint32_t)size, .raw_size = size};
    uint64_t place, expected = state->head.word;
    bool added;
    int status = hs_ring_put(&engine->ring, &item, &place, &added);
    if (status == HS_OK) status = hs_ring_flush(&engine->ring); /* E1, E2 */
    if (status != HS_OK) return status;
    if (!hs_branch_head_compare_and_set(&engine->segment, state->branch->slot, &expected, place))
        return HS_MOVED; /* E3: linearisation */
    hs_head *known = &engine->heads[state->branch->slot];
    bool made = is_absent(&state->head);
    known->incarnation = made ? state->head.incarnation + 1 : state->head.incarnation;
    known->sequence = made ? 1 : state->head.sequence + 1;
    known->serial = state->head.serial + 1;
    known->word = place;
    known->known = 1;
    known->deleted = state->move == HS_MOVE_DELETE;
    memcpy(known->root, state->result.root, HS_HASH_SIZE);
    call->word = place;
    return (int64_t)size;
}

static bool changes_nothing(const hs_call *call, const hs_commit_state *state) {
    return !state->move && !is_absent(&state->head) && call->message_size == 0 && call->metadata_size == 0 &&
           !call->always && memcmp(state->result.root, state->head.root, HS_HASH_SIZE) == 0;
}

/* --- turns --- */

/* {participant:10 number:6}, and never 0. */
static uint32_t draw_ticket(hs_engine *engine) {
    return 1 + ((engine->self.index << 6 | (++engine->tickets & 63)) & 0xffff) % 0xffff;
}

static uint32_t ticket_of(const hs_call *call, const hs_commit_state *state) {
    return call->ticket != 0 ? call->ticket : state->ticket;
}

/* Four times what an attempt has taken so far. */
static void take_turn(hs_call *call, hs_commit_state *state) {
    uint64_t passed_ns = hs_clock_ns(CLOCK_MONOTONIC) - state->start_ns;
    if (passed_ns < HS_PASSED_NS_MAX) return;
    uint64_t hold_us = passed_ns / 250 / state->passed;
    uint32_t ticket = state->ticket != 0 ? state->ticket : draw_ticket(call->engine);
    unsigned bounded = hold_us < HS_TURN_US_MIN   ? HS_TURN_US_MIN
                       : hold_us < HS_TURN_US_MAX ? (unsigned)hold_us
                                                  : HS_TURN_US_MAX;
    if (hs_turn_take(&call->engine->segment, state->branch->slot, ticket, bounded)) state->ticket = ticket;
}

/* Is it another operation's turn? Who was passed too often takes it first, if it is free. */
static bool yields(hs_call *call, hs_commit_state *state) {
    hs_segment *segment = &call->engine->segment;
    uint32_t slot = state->branch->slot;
    if (HS_UNLIKELY(state->passed >= HS_PASSED_MAX) && call->ticket == 0) take_turn(call, state);
    if (HS_LIKELY(hs_turn_is_nobodys(segment, slot))) return false;
    if (hs_turn_others(segment, slot, ticket_of(call, state)) == 0) return false;
    state->passed++;
    return true;
}

static void give_turn(hs_call *call, const hs_commit_state *state) {
    uint32_t ticket = ticket_of(call, state);
    if (HS_UNLIKELY(ticket != 0) && state->branch && state->branch->slot != HS_SLOT_UNKNOWN)
        hs_turn_give(&call->engine->segment, state->branch->slot, ticket);
}

/* --- running, on a branch --- */

static int64_t run_on_branch(hs_call *call, hs_commit_state *state) {
    for (;;) {
        int status = judge(call, state);
        if (status != HS_OK) return status;
        if (yields(call, state)) return HS_YIELD;
        status =
            state->move ? move_root(call->engine, state) : apply_edits(call->engine, state, state->head.root);
        if (status != HS_OK) return status;
        if (changes_nothing(call, state)) return HS_UNCHANGED;
        int64_t result = publish_on_branch(call, state);
        if (result != HS_MOVED) return result;
        state->retries++;
        state->passed++;
        hs_metrics_count(call->engine->self.metrics, HS_COUNT_LOST_RACES, 1);
        if (++state->lost_in_a_row == HS_LOST_RACES_MAX) {
            state->lost_in_a_row = 0;
            return HS_CONTENDED;
        }
    }
}

static int64_t run_once(hs_call *call, hs_commit_state *state) {
    int status = put_values(call->engine, state);
    if (status != HS_OK) return status;
    if (state->branch) return run_on_branch(call, state);
    status = apply_edits(call->engine, state, state->base_root);
    if (status != HS_OK) return status;
    return publish_detached(call, state);
}

/* This process was wrongly taken for dead: what it had put since its last publish is gone. Put everything again. */
static void begin_again(hs_engine *engine, hs_commit_state *state) {
    hs_apply_free(state->apply);
    state->apply = NULL;
    state->applied = false;
    (void)fill_edits(state); /* it was sound before */
    state->reaped = engine->reaped;
}

static bool is_suspension(int64_t result) {
    return result == HS_MISSING || result == HS_WAIT || result == HS_HEAD_IN_L2 || result == HS_CONTENDED ||
           result == HS_YIELD || result == HS_STOPPED;
}

/* Was anything deleted between the two? A stop that came to nothing changes the word as well. */
static bool deleted_between(uint64_t before, uint64_t now) { return before >> 1 != now >> 1; }

/* Be in a commit, so that nothing is deleted until hs_engine_leave. Where something was since the commit was last in one, what it had found may be
 * gone: it begins again. HS_STOPPED: something is about to be. */
static int enter(hs_call *call, hs_commit_state *state) {
    hs_engine *engine = call->engine;
    uint64_t now = call->collection = hs_engine_enter(engine);
    HS_STEP(commit_begun);
    int status = HS_OK;
    if (HS_UNLIKELY(now != engine->collection || now != state->collection)) {
        if (now & 1)
            status = HS_STOPPED;
        else if (state->has_blobs && deleted_between(call->formed_under, now))
            status = HS_COLLECTED;
        if (status == HS_OK && deleted_between(engine->collection, now)) engine->ring.pending_count = 0;
        if (status == HS_OK && deleted_between(state->collection, now)) begin_again(engine, state);
        if (status == HS_OK) engine->collection = state->collection = now;
    }
    if (status == HS_COLLECTED) hs_engine_leave(engine);
    return status;
}

/* Hold the result for those who will keep it: a workspace, and a Commit. */
static void hold_result(hs_call *call, const hs_commit_state *state) {
    hs_call_let_go(call);
    if (!call->engine->leases) return;
    if (hs_lease_add(call->engine->leases, state->result.root, 2) == HS_LEASE_NONE) return;
    memcpy(call->held_root, state->result.root, HS_HASH_SIZE);
    call->held = 2;
    HS_STEP(commit_leased);
}

static void state_free(hs_call *call, hs_commit_state *state) {
    if (HS_UNLIKELY(state->ticket != 0)) give_turn(call, state);
    hs_apply_free(state->apply);
    if (state->edits != &state->one_edit) free(state->edits);
    if (state->ids != state->one_id) free(state->ids);
    state->apply = NULL;
}

/* Has nobody looked for a second whether a coordinator runs? */
static int64_t look_after(hs_engine *engine, uint64_t start_ns) {
    if (HS_LIKELY(start_ns - engine->looked_after_ns < HS_LOOK_AFTER_NS)) return 0;
    engine->looked_after_ns = start_ns;
    return HS_LOOK_AFTER;
}

static void fetch_ahead(hs_engine *engine, const hs_commit_state *state, size_t record_size) {
    uint64_t nodes = state->result.new_node_bytes, values = state->new_value_bytes;
    uint64_t ring = nodes + values + record_size + (state->result.new_nodes + 2) * sizeof(hs_entry);
    uint64_t cache = nodes + nodes / 2; /* with heads, links and chaining values */
    hs_ring_prefetch_room(&engine->ring, ring < FETCH_AHEAD_BYTES_MAX ? ring : FETCH_AHEAD_BYTES_MAX);
    hs_cache_prefetch_room(engine->tree.cache, cache < FETCH_AHEAD_BYTES_MAX ? cache : FETCH_AHEAD_BYTES_MAX);
}

/* Run under the engine's mutex, which the caller holds; the chunk is released on every way out. */
static int64_t run_locked(hs_call *call, hs_commit_state *state) {
    hs_engine *engine = call->engine;
    int64_t result = enter(call, state);
    if (HS_UNLIKELY(result != HS_OK)) return result;
    engine->ring.spared = (hs_ring_spared){0};
    hs_cache_trim(engine->tree.cache);
    if (state->reaped != engine->reaped) begin_again(engine, state);
    while ((result = run_once(call, state)) == HS_REAPED) {
        hs_ring_end(&engine->ring);
        engine->reaped++;
        begin_again(engine, state);
    }
    /* What was put may serve when the commit goes on; if it was lost, suspended commits begin again. */
    if (result < 0 && hs_ring_flush(&engine->ring) == HS_REAPED) engine->reaped++;
    count_spared(engine, state);
    hs_ring_end(&engine->ring);
    if (result > 0) {
        fetch_ahead(engine, state, (size_t)result);
        hs_metrics_count(engine->self.metrics, HS_COUNT_COMMITS, 1);
        hs_metrics_measure(engine->self.metrics, HS_MEASURE_COMMIT, state->latency_ns);
        call->retries = state->retries;
        hold_result(call, state);
        hs_engine_leave(engine);
        hs_ring_bell(&engine->segment); /* E7 */
        give_turn(call, state);
        result |= look_after(engine, state->start_ns);
    } else {
        hs_engine_leave(engine);
    }
    if (result == HS_CONFLICT) hs_metrics_count(engine->self.metrics, HS_COUNT_CONFLICTS, 1);
    return result == HS_MISSING ? hs_call_status(call, HS_MISSING) : result;
}

static int64_t run(hs_call *call, hs_commit_state *state) {
    hs_engine_lock(call->engine);
    int64_t result = run_locked(call, state);
    hs_engine_unlock(call->engine);
    return result;
}

static void begin(hs_commit_state *state, hs_call *call, hs_branch_ref *branch, const uint8_t *base) {
    state->start_ns = hs_clock_ns(CLOCK_MONOTONIC);
    state->branch = branch;
    state->reaped = call->engine->reaped;
    state->collection = hs_engine_collection(call->engine);
    if (!base) return;
    memcpy(state->base_root, base, HS_HASH_SIZE);
    state->base_incarnation = branch ? hs_load_u64(base + HS_HASH_SIZE) : 0;
}

static void one_place(hs_commit_state *state) {
    state->edits = &state->one_edit;
    state->ids = state->one_id;
}

int64_t hs_commit_one(hs_call *call, hs_branch_ref *branch, const uint8_t *base, const uint8_t *key,
                      size_t key_size, const uint8_t *value, size_t value_size) {
    hs_engine_lock(call->engine);
    int64_t result = hs_commit_one_locked(call, branch, base, key, key_size, value, value_size);
    hs_engine_unlock(call->engine);
    return result;
}

int64_t hs_commit_one_locked(hs_call *call, hs_branch_ref *branch, const uint8_t *base, const uint8_t *key,
                             size_t key_size, const uint8_t *value, size_t value_size) {
    if (key_size > HS_KEY_MAX || value_size > HS_CHUNK_SIZE / 2) return HS_ARGUMENT;
    hs_commit_state state = {.edits = NULL};
    one_place(&state);
    state.one_sizes[0] = (uint32_t)key_size;
    state.one_sizes[1] = (uint32_t)value_size;
    state.source = (hs_edits){.count = 1,
                              .keys = key,
                              .key_sizes = &state.one_sizes[0],
                              .values = value,
                              .value_sizes = &state.one_sizes[1]};
    if (fill_edits(&state) != HS_OK) return HS_ARGUMENT;
    begin(&state, call, branch, base);
    int64_t result = run_locked(call, &state);
    if (HS_LIKELY(!is_suspension(result))) {
        state_free(call, &state);
        return result;
    }
    hs_commit_state *kept = malloc(sizeof *kept);
    if (!kept) {
        state_free(call, &state);
        return HS_NO_MEMORY;
    }
    *kept = state;
    one_place(kept);
    kept->source.key_sizes = &kept->one_sizes[0];
    kept->source.value_sizes = &kept->one_sizes[1];
    if (kept->one_edit.value.hashed) kept->one_edit.value.bytes = kept->one_id[0];
    call->state = kept;
    return result;
}

/* Run a state on the heap, and keep it only if it is suspended. */
static int64_t run_kept(hs_call *call, hs_commit_state *state) {
    int64_t result = run(call, state);
    if (is_suspension(result)) {
        call->state = state;
        return result;
    }
    call->state = NULL;
    state_free(call, state);
    free(state);
    return result;
}

int64_t hs_commit_many(hs_call *call, hs_branch_ref *branch, const uint8_t *base, const hs_edits *edits) {
    hs_commit_state *state = calloc(1, sizeof *state);
    if (!state) return HS_NO_MEMORY;
    size_t room = edits->count ? edits->count : 1;
    state->edits = malloc(room * sizeof *state->edits);
    state->ids = malloc(room * sizeof *state->ids);
    state->source = *edits;
    int status = state->edits && state->ids ? fill_edits(state) : HS_NO_MEMORY;
    if (status != HS_OK) {
        state_free(call, state);
        free(state);
        return status;
    }
    begin(state, call, branch, base);
    return run_kept(call, state);
}

int64_t hs_commit_root(hs_call *call, hs_branch_ref *branch, uint32_t move, const uint8_t *root,
                       const uint8_t *expected) {
    hs_commit_state *state = calloc(1, sizeof *state);
    if (!state) return HS_NO_MEMORY;
    begin(state, call, branch, NULL);
    state->move = move;
    memcpy(state->move_root, root, HS_HASH_SIZE);
    if (expected) memcpy(state->expected_root, expected, HS_HASH_SIZE);
    return run_kept(call, state);
}

int64_t hs_commit_continue(hs_call *call) {
    if (!call->state) return HS_ARGUMENT;
    return run_kept(call, call->state);
}

void hs_commit_cancel(hs_call *call) {
    if (!call->state) return;
    state_free(call, call->state);
    free(call->state);
    call->state = NULL;
}

/* --- branches, for Python --- */

int hs_branch_word(hs_call *call, hs_branch_ref *branch) {
    hs_engine_lock(call->engine);
    int status = head_word(call->engine, branch, &call->word);
    hs_engine_unlock(call->engine);
    return status;
}

int64_t hs_record_get(hs_call *call, uint64_t word) {
    hs_ring_hit hit;
    hs_record record;
    if (word & HS_WORD_IN_L2) return HS_NOT_FOUND;
    if (call->capacity < HS_RECORD_SIZE_MAX) return HS_ARGUMENT;
    int status = hs_ring_read(&call->engine->segment, word, call->data, HS_RECORD_SIZE_MAX, &hit);
    if (status != HS_OK) return status == HS_SMALL ? HS_CORRUPT : status;
    if (hit.kind != HS_ENTRY_RECORD) return HS_CORRUPT;
    status = hs_record_decode(call->data, hit.stored_size, &record);
    return status == HS_OK ? (int64_t)hit.stored_size : status;
}

int hs_branch_provide(hs_call *call, hs_branch_ref *branch, uint64_t word, const uint8_t *root,
                      uint64_t serial, uint64_t sequence, uint64_t incarnation, uint32_t deleted) {
    hs_engine_lock(call->engine);
    int status = branch_slot(call->engine, branch);
    if (status == HS_OK) {
        hs_head *head = &call->engine->heads[branch->slot];
        *head = (hs_head){.word = word,
                          .serial = serial,
                          .sequence = sequence,
                          .incarnation = incarnation,
                          .known = 1,
                          .deleted = deleted};
        memcpy(head->root, root, HS_HASH_SIZE);
    }
    hs_engine_unlock(call->engine);
    return status;
}

/* Has this slot no tag, nor one that the coordinator has in its hands, and puts back if the head has moved? In this order:
 * whoever sees that it is done with evicting sees what it put back. */
static bool is_untagged(const hs_segment *segment, uint32_t slot) {
    return hs_load_acquire(&segment->branch_tags[slot]) == 0 &&
           hs_load32_acquire(&segment->header->evicting) == 0 &&
           hs_load_acquire(&segment->branch_tags[slot]) == 0;
}

int hs_branch_words(hs_engine *engine, uint32_t *slot, uint64_t *words, uint32_t capacity) {
    uint32_t found = 0;
    for (; *slot < HS_BRANCH_SLOTS && found < capacity; ++*slot) {
        if (is_untagged(&engine->segment, *slot)) continue;
        uint64_t word = hs_branch_head_load(&engine->segment, *slot);
        if (!(word & HS_WORD_IN_L2)) words[found++] = word;
    }
    return (int)found;
}

/* Slot of a branch, for who holds no lock. */
static int slot_of(hs_call *call, hs_branch_ref *branch, uint32_t *slot) {
    hs_engine_lock(call->engine);
    int status = branch_slot(call->engine, branch);
    *slot = branch->slot;
    hs_engine_unlock(call->engine);
    return status;
}

int hs_branch_wait(hs_call *call, hs_branch_ref *branch, uint64_t word, unsigned wait_ms) {
    uint32_t slot;
    int status = slot_of(call, branch, &slot);
    return status == HS_OK ? hs_branch_head_wait(&call->engine->segment, slot, word, wait_ms) : status;
}

int hs_branch_turn_take(hs_call *call, hs_branch_ref *branch, uint32_t *ticket, unsigned hold_us) {
    uint32_t slot;
    int status = slot_of(call, branch, &slot);
    if (status != HS_OK) return status;
    if (*ticket == 0) {
        hs_engine_lock(call->engine);
        *ticket = draw_ticket(call->engine);
        hs_engine_unlock(call->engine);
    }
    return hs_turn_take(&call->engine->segment, slot, *ticket, hold_us) ? HS_OK : HS_YIELD;
}

void hs_branch_turn_give(hs_call *call, hs_branch_ref *branch, uint32_t ticket) {
    uint32_t slot;
    if (slot_of(call, branch, &slot) == HS_OK) hs_turn_give(&call->engine->segment, slot, ticket);
}

int hs_branch_yield(hs_call *call, hs_branch_ref *branch, uint32_t ticket, unsigned wait_ms) {
    uint32_t slot;
    int status = slot_of(call, branch, &slot);
    if (status != HS_OK) return status;
    uint64_t turn = hs_turn_others(&call->engine->segment, slot, ticket);
    if (turn != 0) hs_turn_wait(&call->engine->segment, slot, turn, wait_ms);
    return HS_OK;
}

uint32_t hs_watch_begin(hs_engine *engine) { return hs_branch_watch_begin(&engine->segment); }

int hs_watch_sleep(hs_engine *engine, uint32_t seen, unsigned wait_ms) {
    return hs_branch_watch_sleep(&engine->segment, seen, wait_ms);
}

void hs_watch_wake(hs_engine *engine) { hs_branch_watch_wake(&engine->segment); }
