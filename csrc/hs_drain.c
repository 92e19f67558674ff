/* hs_drain.c - one round after the other; what is remembered between rounds is only a cache of what the segment says. */
#include "hs_drain.h"
#include "hs_clock.h"
#include <malloc.h>
#include <stdlib.h>
#include <time.h>
#include "hs_blake3.h"
#include "hs_checksum.h"
#include "hs_futex.h"
#include "hs_metrics.h"
#include "hs_step.h"

#define PROBE_INTERVAL_NS                                                                                    \
    UINT64_C(100000000) /* the dead are looked for so often, unless asked to be thorough */
#define REJOIN_HEADS_MAX    1024u
#define REJOIN_NS_MIN       UINT64_C(100000)
#define TAGS_IN_LINE        8u
#define ENTRY_BYTES_GUESS   640u
#define COLLECTION_STOPPING UINT64_C(1)
#define STOP_PAUSE_NS       50000L
_Static_assert(HS_BRANCH_SLOTS % TAGS_IN_LINE == 0, "lines");
#define TABLE_USED_MAX  (HS_BRANCH_SLOTS / 4 * 3)
#define TABLE_USED_AIM  (HS_BRANCH_SLOTS / 2)
#define WINDOW_FREE_AIM (HS_BRANCH_WINDOW / 2)

/* What a round takes of one chunk. */
typedef struct range {
    uint32_t generation, from, to; /* units */
    uint32_t sealed_generation;    /* the chunk's if it was SEALED in the first pass; 0 if not */
} range;

/* A pack that is being filled. Payloads are copied before it is known how many there will be, so they begin where a guess leaves
 * room for the rows; the pack then begins where its rows need it to.
 *
 *   buffer |  left over  | header | rows |  payloads ...  |
 *          0             pack            payloads   end   capacity */
typedef struct filling {
    uint8_t *buffer;
    size_t payloads, end, capacity;
    uint32_t count, count_max;
} filling;

typedef struct chain_link { /* a record of a chain */
    uint64_t place;
    uint32_t size;
} chain_link;

struct hs_drain {
    hs_segment *segment;
    int participants_fd;
    bool collected;
    uint64_t round, damaged, probed_ns;
    uint64_t packed_bytes, packed_entries; /* of late: what an entry is like */
    bool probed_dead;
    bool *dead;      /* by participant: found dead by this round */
    range *ranges;   /* by chunk */
    uint64_t *known; /* by branch slot: the head word of the last finished round */
    uint64_t *heads; /* by branch slot: the head word of this round; 0: not moved */
    uint32_t *moved; /* the slots whose heads are not 0 */
    uint32_t moved_count, next_moved;
    uint32_t *before; /* those of the round before */
    uint32_t before_count, rejoin_vain, rejoin_skip;
    uint64_t collected_ns, round_ns;  /* when this round began; how long the last one took */
    uint64_t round_bytes;             /* that this round collected */
    uint32_t pack_chunk, pack_offset; /* where the next pack goes on */
    hs_entry *rows;                   /* headers of the entries of the pack at hand */
    size_t rows_capacity;
    chain_link *chain; /* the chain of chain_head, newest first */
    size_t chain_count, chain_capacity;
    uint32_t chain_slot, evict_hand;
    uint64_t chain_head, chain_serial; /* serial of chain[0] */
    bool stopped, recovers; /* by hs_drain_stop; by a coordinator that died, and may have deleted */
    uint8_t *record;        /* HS_RECORD_SIZE_MAX bytes */
};

static uint64_t word_fresh(hs_segment *segment) {
    return HS_WORD_IN_L2 | hs_add_relaxed(&segment->header->branch_word_next, 1);
}

/* The previous coordinator may have died while it took tags out: put them back, then let tags in again. */
static void eviction_undo(hs_segment *segment) {
    for (uint32_t slot = 0; slot < HS_BRANCH_SLOTS; slot++) {
        uint64_t tag = hs_load_relaxed(&segment->branches[slot].evicted_tag);
        if (tag == 0) continue;
        hs_store_release(&segment->branch_tags[slot], tag);
        hs_store_relaxed(&segment->branches[slot].evicted_tag, 0);
    }
    hs_store32_release(&segment->header->evicting, 0);
}

int hs_drain_open(hs_segment *segment, int participants_fd, hs_drain **out) {
    hs_drain *drain = calloc(1, sizeof *drain);
    if (drain == NULL) return HS_NO_MEMORY;
    drain->segment = segment;
    drain->participants_fd = participants_fd;
    drain->dead = calloc(HS_PARTICIPANTS, sizeof *drain->dead);
    drain->ranges = calloc(segment->chunk_count, sizeof *drain->ranges);
    drain->known = calloc(HS_BRANCH_SLOTS, sizeof *drain->known);
    drain->heads = calloc(HS_BRANCH_SLOTS, sizeof *drain->heads);
    drain->moved = calloc(HS_BRANCH_SLOTS, sizeof *drain->moved);
    drain->before = calloc(HS_BRANCH_SLOTS, sizeof *drain->before);
    drain->record = malloc(HS_RECORD_SIZE_MAX);
    if (!drain->dead || !drain->ranges || !drain->known || !drain->heads || !drain->moved || !drain->before ||
        !drain->record) {
        hs_drain_close(drain);
        return HS_NO_MEMORY;
    }
    eviction_undo(segment);
    drain->recovers = (hs_load_relaxed(&segment->header->collection) & COLLECTION_STOPPING) != 0;
    hs_store32_relaxed(&segment->header->sleeping, 0);
    *out = drain;
    return HS_OK;
}

void hs_drain_close(hs_drain *drain) {
    if (drain == NULL) return;
    free(drain->dead);
    free(drain->ranges);
    free(drain->known);
    free(drain->heads);
    free(drain->moved);
    free(drain->before);
    free(drain->record);
    free(drain->rows);
    free(drain->chain);
    free(drain);
}

void hs_drain_announce(hs_drain *drain, uint64_t epoch, uint64_t pid) {
    hs_store_relaxed(&drain->segment->header->coordinator_epoch, epoch);
    hs_store_release(&drain->segment->header->coordinator_pid, pid);
}

/* ---- Participants ---- */

static bool is_taken(const hs_segment *segment, uint32_t n) {
    return hs_load32_acquire(&segment->participants[n].state) != 0; /* E17 (acquire end) */
}

/* Is the owner of this taken slot dead? Its lock is free, and the slot is then still taken, by the same one: in between one
 * may have left, whose lock is free rightly, and another have joined. The state first: who sees the next owner's sees its
 * name as well. An error counts as alive. */
static bool owner_dead(const hs_drain *drain, uint32_t n) {
    const hs_participant_slot *slot = &drain->segment->participants[n];
    uint64_t pid = hs_load_acquire(&slot->pid), started_ns = hs_load_acquire(&slot->started_ns);
    if (drain->participants_fd < 0 || hs_participant_alive(drain->participants_fd, n) != 0) return false;
    return is_taken(drain->segment, n) && hs_load_relaxed(&slot->pid) == pid &&
           hs_load_relaxed(&slot->started_ns) == started_ns;
}

/* Probe every taken slot; returns how many are dead, living ones through *living. `dead` (NULL: not
 * wanted) receives each: only collect fills drain->dead, since a slot may be freed only after the chunks of its owner are sealed. */
static uint32_t participants_probe(hs_drain *drain, bool *dead, uint32_t *living) {
    uint32_t found = 0;
    *living = 0;
    for (uint32_t n = 0; n < HS_PARTICIPANTS; n++) {
        bool taken = is_taken(drain->segment, n);
        bool is_dead = taken && owner_dead(drain, n);
        if (dead != NULL) dead[n] = is_dead;
        found += is_dead;
        *living += taken && !is_dead;
    }
    drain->probed_ns = hs_clock_ns(CLOCK_MONOTONIC);
    drain->probed_dead = found > 0;
    return found;
}

int hs_drain_participants(hs_drain *drain) {
    uint32_t living;
    participants_probe(drain, NULL, &living);
    return (int)living;
}

/* Is the owner of a BUSY chunk gone: dead, or a slot that is free (its owner left without releasing)? If it is dead, all that it
 * did is seen from here on, and a head that it moved is in the second pass (E23). */
static bool owner_gone(const hs_drain *drain, uint32_t owner) {
    if (owner >= HS_PARTICIPANTS || drain->participants_fd < 0) return false;
    return drain->dead[owner] || !is_taken(drain->segment, owner);
}

/* ---- Collect ---- */

/* Pass 1 on one chunk. */
static void state_collect(hs_drain *drain, uint32_t chunk, hs_drain_round *out) {
    hs_word *slot = &drain->segment->chunks[chunk].word;
    uint64_t word = hs_load_acquire(slot); /* E5, E18 (acquire ends) */
    hs_chunk_state_word w = hs_chunk_word_decode(word);
    if (w.state == HS_CHUNK_BUSY && owner_gone(drain, w.owner)) {
        uint64_t sealed = hs_chunk_word_make(w.generation, HS_CHUNK_SEALED, 0, w.cursor);
        if (hs_cas_seq_cst(slot, &word, sealed)) word = sealed;
        w = hs_chunk_word_decode(word);
    }
    drain->ranges[chunk].sealed_generation = w.state == HS_CHUNK_SEALED ? w.generation : 0;
    out->chunks_free += w.state == HS_CHUNK_FREE;
    out->chunks_busy += w.state == HS_CHUNK_BUSY;
    out->chunks_idle += w.state == HS_CHUNK_IDLE;
    out->chunks_sealed += w.state == HS_CHUNK_SEALED;
}

/* Has this slot's head moved since it was last seen durable? Then its word, else 0. */
static uint64_t head_moved(const hs_drain *drain, uint32_t slot) {
    if (hs_load_acquire(&drain->segment->branch_tags[slot]) == 0) return 0;
    uint64_t word = hs_branch_head_load(drain->segment, slot);
    return (word & HS_WORD_IN_L2) != 0 || word == drain->known[slot] ? 0 : word;
}

/* Is there a tag in the line of tags that begins with this slot? Most lines have none. */
static bool line_has_tags(const hs_segment *segment, uint32_t first) {
    uint64_t any = 0;
    for (uint32_t i = 0; i < TAGS_IN_LINE; i++)
        any |= hs_load_relaxed(&segment->branch_tags[first + i]); /* relaxed: head_moved looks again */
    return any != 0;
}

/* Pass 2: the heads that moved. */
static uint32_t heads_collect(hs_drain *drain) {
    for (uint32_t i = 0; i < drain->moved_count; i++) drain->heads[drain->moved[i]] = 0;
    uint32_t *older = drain->before;
    drain->before = drain->moved;
    drain->before_count = drain->moved_count;
    drain->moved = older;
    drain->moved_count = drain->next_moved = 0;
    for (uint32_t line = 0; line < HS_BRANCH_SLOTS; line += TAGS_IN_LINE) {
        if (!line_has_tags(drain->segment, line)) continue;
        for (uint32_t slot = line; slot < line + TAGS_IN_LINE; slot++)
            if ((drain->heads[slot] = head_moved(drain, slot)) != 0)
                drain->moved[drain->moved_count++] = slot;
    }
    return drain->moved_count;
}

/* The part of a chunk that is published and not persisted. */
static range chunk_undrained(const hs_segment *segment, uint32_t chunk) {
    hs_chunk_state_word w =
        hs_chunk_word_decode(hs_load_acquire(&segment->chunks[chunk].word)); /* E1 (acquire end) */
    uint64_t mark = hs_load_acquire(&segment->chunks[chunk].persisted);
    uint32_t to = w.cursor < HS_CHUNK_UNITS ? w.cursor : HS_CHUNK_UNITS;
    uint32_t from = (uint32_t)(mark >> 32) == w.generation ? (uint32_t)mark : 0;
    return (range){.generation = w.generation, .from = from < to ? from : to, .to = to};
}

static void cursor_collect(hs_drain *drain, uint32_t chunk, hs_drain_round *out) {
    range *mine = &drain->ranges[chunk], now = chunk_undrained(drain->segment, chunk);
    now.sealed_generation = mine->sealed_generation;
    *mine = now;
    out->bytes += (uint64_t)(now.to - now.from) * HS_UNIT;
}

/* What an entry takes of a pack, by those packed last. */
static uint64_t entry_bytes(const hs_drain *drain) {
    return drain->packed_entries > 0 ? drain->packed_bytes / drain->packed_entries : ENTRY_BYTES_GUESS;
}

int hs_drain_collect(hs_drain *drain, hs_drain_round *out) {
    hs_segment *segment = drain->segment;
    drain->collected_ns = hs_clock_ns(CLOCK_MONOTONIC);
    /* Before the count: who asks for the next round is not erased. E22 (release end). */
    hs_store32_relaxed(&segment->header->urgent, 0);
    hs_drain_round round = {.round = hs_add_seq_cst(&segment->header->rounds_started, 1) + 1};
    hs_fence_seq_cst(); /* E20: the round has begun, before I look at what is published */
    uint32_t living;
    round.reaped = participants_probe(drain, drain->dead, &living);
    for (uint32_t chunk = 0; chunk < segment->chunk_count; chunk++) state_collect(drain, chunk, &round);
    HS_STEP(collect_reaped);
    round.heads = heads_collect(drain);
    HS_STEP(collect_heads);
    for (uint32_t chunk = 0; chunk < segment->chunk_count; chunk++) cursor_collect(drain, chunk, &round);
    HS_STEP(collect_cursors);
    uint64_t each = entry_bytes(drain);
    round.entries = (round.bytes + each - 1) / each;
    round.damaged = drain->damaged;
    drain->round = round.round;
    drain->round_bytes = round.bytes;
    drain->pack_chunk = drain->pack_offset = 0;
    drain->chain_head = 0;
    drain->collected = true;
    *out = round;
    return HS_OK;
}

/* ---- Packs ---- */

/* Room for one more row? */
static bool row_room(hs_drain *drain, uint32_t count) {
    if (count < drain->rows_capacity) return true;
    size_t capacity = drain->rows_capacity > 0 ? 2 * drain->rows_capacity : 4096;
    hs_entry *rows = realloc(drain->rows, capacity * sizeof *rows);
    if (rows == NULL) return false;
    drain->rows = rows;
    drain->rows_capacity = capacity;
    return true;
}

/* Copy the entry under this header into the pack. It counts if its sum is that of the bytes that were copied. HS_SMALL: it does
 * not fit any more. */
static int entry_take(hs_drain *drain, filling *f, uint32_t generation, const hs_entry *header,
                      const uint8_t *payload) {
    const uint64_t *seed = drain->segment->seed;
    if (f->count == f->count_max || header->stored_size > f->capacity - f->end) return HS_SMALL;
    if (!row_room(drain, f->count)) return HS_NO_MEMORY;
    uint64_t sum = hs_checksum_copy(seed, f->buffer + f->end, payload, header->stored_size);
    if (hs_ring_checksum(seed, generation, header, sum) != header->checksum) {
        drain->damaged++;
        return HS_OK;
    }
    drain->rows[f->count++] = *header;
    f->end += header->stored_size;
    return HS_OK;
}

/* Take what is wanted of the rest of one range. HS_SMALL: the next entry does not fit any more. */
static int range_take(hs_drain *drain, uint32_t chunk, filling *f) {
    const range *r = &drain->ranges[chunk];
    if (drain->pack_offset < r->from) drain->pack_offset = r->from;
    while (drain->pack_offset < r->to) {
        const uint8_t *entry = hs_chunk_address(drain->segment, chunk, drain->pack_offset);
        uint32_t left = r->to - drain->pack_offset;
        hs_entry header;
        if (left >= hs_ring_units(0)) memcpy(&header, entry, sizeof header);
        if (left < hs_ring_units(0) || !hs_ring_header_fits(&header, left)) {
            drain->damaged++; /* where the next entry begins is unknown */
            return HS_OK;
        }
        uint32_t units = hs_ring_units(header.stored_size);
        if (units < left) __builtin_prefetch(entry + (size_t)units * HS_UNIT);
        if (header.kind != HS_ENTRY_RECORD && (header.flags & HS_ENTRY_CACHED) == 0) {
            int status = entry_take(drain, f, r->generation, &header, entry + sizeof header);
            if (status != HS_OK) return status;
        }
        drain->pack_offset += units;
    }
    return HS_OK;
}

/* Where payloads begin, so that rows and payloads end about together. */
static filling filling_begin(const hs_drain *drain, uint8_t *buffer, size_t capacity) {
    uint32_t rows = (uint32_t)(capacity / entry_bytes(drain)) + 1;
    uint32_t most = (uint32_t)(capacity / 2 / HS_PACK_ROW_SIZE), least = most / 8;
    rows = rows > most ? most : rows < least ? least : rows;
    size_t payloads = hs_pack_payload_start(rows);
    return (filling){
        .buffer = buffer, .payloads = payloads, .end = payloads, .capacity = capacity, .count_max = rows};
}

/* Set header and rows before the payloads; returns where the pack begins. */
static uint8_t *filling_end(const hs_drain *drain, const filling *f) {
    uint8_t *pack = f->buffer + f->payloads - hs_pack_payload_start(f->count);
    size_t offset = hs_pack_payload_start(f->count);
    for (uint32_t i = 0; i < f->count; i++) {
        const hs_entry *header = &drain->rows[i];
        hs_pack_row row = {.id = header->id,
                           .offset = (uint32_t)offset,
                           .stored_size = header->stored_size,
                           .raw_size = header->raw_size,
                           .kind = header->kind,
                           .codec = header->codec};
        hs_pack_row_set(pack, i, &row);
        offset += header->stored_size;
    }
    hs_pack_seal(pack, f->count, f->end - f->payloads);
    return pack;
}

int hs_drain_pack(hs_drain *drain, uint8_t *buffer, size_t capacity, uint8_t **pack, size_t *size,
                  uint32_t *count) {
    if (!drain->collected || capacity < 2 * HS_CHUNK_SIZE || capacity > UINT32_MAX) return HS_ARGUMENT;
    filling f = filling_begin(drain, buffer, capacity);
    for (; drain->pack_chunk < drain->segment->chunk_count; drain->pack_chunk++, drain->pack_offset = 0) {
        int status = range_take(drain, drain->pack_chunk, &f);
        if (status == HS_SMALL) break;
        if (status != HS_OK) return status;
    }
    *count = f.count;
    *size = 0;
    if (f.count == 0) return HS_OK;
    *pack = filling_end(drain, &f);
    *size = (size_t)(f.buffer + f.end - *pack);
    drain->packed_bytes = drain->packed_bytes / 2 + *size;
    drain->packed_entries = drain->packed_entries / 2 + f.count;
    return HS_OK;
}

/* ---- Heads and chains ---- */

int hs_drain_next_head(hs_drain *drain, uint32_t *slot, uint64_t *word, uint8_t *record, size_t capacity,
                       size_t *record_size) {
    if (!drain->collected) return HS_ARGUMENT;
    for (; drain->next_moved < drain->moved_count; drain->next_moved++) {
        uint64_t head = drain->heads[drain->moved[drain->next_moved]];
        hs_ring_hit hit;
        int status = hs_ring_read(drain->segment, head, record, capacity, &hit);
        if (status == HS_NOT_FOUND)
            continue; /* its chunk was reused: an earlier coordinator has brought it to L2 */
        if (status == HS_SMALL) return status;
        hs_record decoded;
        bool good = status == HS_OK && hit.kind == HS_ENTRY_RECORD &&
                    hs_record_decode(record, hit.stored_size, &decoded) == HS_OK;
        *slot = drain->moved[drain->next_moved++];
        *word = head;
        if (!good) {
            drain->damaged++;
            return HS_CORRUPT;
        }
        *record_size = hit.stored_size;
        return HS_OK;
    }
    return HS_NOT_FOUND;
}

/* Read and decode a record into drain->record. HS_CORRUPT if it is not there. */
static int record_read(hs_drain *drain, uint64_t place, hs_record *out, size_t *size) {
    hs_ring_hit hit;
    int status = hs_ring_read(drain->segment, place, drain->record, HS_RECORD_SIZE_MAX, &hit);
    if (status != HS_OK || hit.kind != HS_ENTRY_RECORD) return HS_CORRUPT;
    *size = hit.stored_size;
    return hs_record_decode(drain->record, hit.stored_size, out);
}

static bool chain_add(hs_drain *drain, chain_link next) {
    if (drain->chain_count == drain->chain_capacity) {
        size_t capacity = drain->chain_capacity > 0 ? 2 * drain->chain_capacity : 1024;
        chain_link *chain = realloc(drain->chain, capacity * sizeof *chain);
        if (chain == NULL) return false;
        drain->chain = chain;
        drain->chain_capacity = capacity;
    }
    drain->chain[drain->chain_count++] = next;
    return true;
}

/* Walk from the head back to serial l2_serial + 1. The serials fall by one a step, so the walk ends. */
static int chain_walk(hs_drain *drain, uint32_t slot, uint64_t l2_serial) {
    drain->chain_head = 0;
    drain->chain_count = 0;
    drain->chain_serial = 0;
    uint64_t place = drain->heads[slot], expected = 0;
    for (;;) {
        hs_record record;
        size_t size;
        int status = record_read(drain, place, &record, &size);
        if (status != HS_OK) return status;
        if (expected == 0) {
            drain->chain_serial = record.serial;
            if (record.serial < l2_serial) return HS_CORRUPT;
            if (record.serial == l2_serial) break;
        } else if (record.serial != expected) {
            return HS_CORRUPT;
        }
        if (!chain_add(drain, (chain_link){place, (uint32_t)size})) return HS_NO_MEMORY;
        if (record.serial == l2_serial + 1) break;
        expected = record.serial - 1;
        place = record.parent_word;
    }
    drain->chain_slot = slot;
    drain->chain_head = drain->heads[slot];
    return HS_OK;
}

/* Copy the record, which was read before, to where it stays. HS_CORRUPT if it is not there any more. */
static int record_copy(const hs_drain *drain, chain_link from, uint8_t *to) {
    hs_ring_hit hit;
    int status = hs_ring_read(drain->segment, from.place, to, from.size, &hit);
    return status == HS_OK && hit.kind == HS_ENTRY_RECORD && hit.stored_size == from.size ? HS_OK
                                                                                          : HS_CORRUPT;
}

/* Write records of serials first, first + 1 ... as one block, as many as fit. */
static int chain_write(const hs_drain *drain, uint64_t first, uint8_t *buffer, size_t capacity, size_t *size,
                       uint32_t *count) {
    size_t total = (size_t)(drain->chain_serial - first + 1), fit = 0, bytes = 0;
    const chain_link *oldest = &drain->chain[total - 1];
    while (fit < total && hs_log_size(fit + 1, bytes + oldest[-(ptrdiff_t)fit].size) <= capacity)
        bytes += oldest[-(ptrdiff_t)fit++].size;
    if (fit == 0) return HS_SMALL;
    size_t at = HS_LOG_FIXED_SIZE + 4 * (fit + 1), end = at + bytes;
    for (size_t i = 0; i < fit; i++) {
        chain_link next = oldest[-(ptrdiff_t)i];
        if (record_copy(drain, next, buffer + at) != HS_OK) return HS_CORRUPT;
        hs_store_u32(buffer + HS_LOG_FIXED_SIZE + 4 * i, (uint32_t)at);
        at += next.size;
    }
    hs_store_u32(buffer + HS_LOG_FIXED_SIZE + 4 * fit, (uint32_t)end);
    hs_store_u32(buffer, HS_LOG_MAGIC);
    hs_store_u32(buffer + 4, (uint32_t)fit);
    hs_store_u64(buffer + 8, first);
    hs_blake3(buffer, end, buffer + end);
    *size = end + HS_LOG_SUM_SIZE;
    *count = (uint32_t)fit;
    return HS_OK;
}

int hs_drain_chain(hs_drain *drain, uint32_t slot, uint64_t l2_serial, uint8_t *buffer, size_t capacity,
                   size_t *size, uint32_t *count) {
    if (!drain->collected || slot >= HS_BRANCH_SLOTS || drain->heads[slot] == 0) return HS_ARGUMENT;
    bool walked = drain->chain_head == drain->heads[slot] && drain->chain_slot == slot &&
                  l2_serial <= drain->chain_serial && drain->chain_serial - l2_serial <= drain->chain_count;
    if (!walked) {
        int status = chain_walk(drain, slot, l2_serial);
        if (status != HS_OK) return status;
    }
    if (drain->chain_serial == l2_serial) {
        *size = 0;
        *count = 0;
        return HS_OK;
    }
    return chain_write(drain, l2_serial + 1, buffer, capacity < UINT32_MAX ? capacity : UINT32_MAX, size,
                       count);
}

/* ---- Finish ---- */

/* What lies below is in L2 and the locator. E14 (release end). */
static void mark(hs_drain *drain, uint32_t chunk) {
    const range *r = &drain->ranges[chunk];
    if (r->to > r->from)
        hs_store_release(&drain->segment->chunks[chunk].persisted, (uint64_t)r->generation << 32 | r->to);
}

/* Free a chunk that was SEALED before the heads were read, if its mark covers it. E2 (release end). */
static void chunk_free(hs_drain *drain, uint32_t chunk) {
    const range *r = &drain->ranges[chunk];
    hs_word *slot = &drain->segment->chunks[chunk].word;
    uint64_t word = hs_load_acquire(slot);
    hs_chunk_state_word w = hs_chunk_word_decode(word);
    if (r->sealed_generation == 0 || w.state != HS_CHUNK_SEALED || w.generation != r->sealed_generation)
        return;
    range left = chunk_undrained(drain->segment, chunk);
    if (left.from != left.to) return;
    hs_cas_seq_cst(slot, &word, hs_chunk_word_make(w.generation, HS_CHUNK_FREE, 0, w.cursor));
}

static void dead_free(hs_drain *drain, uint32_t n) {
    if (!drain->dead[n]) return;
    hs_participant_slot_free(&drain->segment->participants[n]);
    drain->dead[n] = false;
}

/* L2 has the heads of this round, and whoever looks at the segment from outside may know (hs_survey.c). */
static void heads_finish(hs_drain *drain) {
    for (uint32_t i = 0; i < drain->moved_count; i++) {
        uint32_t slot = drain->moved[i];
        drain->known[slot] = drain->heads[slot];
        hs_store_relaxed(&drain->segment->branches[slot].drained, drain->heads[slot]);
    }
}

int hs_drain_finish(hs_drain *drain) {
    if (!drain->collected) return HS_ARGUMENT;
    hs_segment *segment = drain->segment;
    for (uint32_t chunk = 0; chunk < segment->chunk_count; chunk++) mark(drain, chunk);
    HS_STEP(marks_after);
    for (uint32_t chunk = 0; chunk < segment->chunk_count; chunk++) chunk_free(drain, chunk);
    HS_STEP(free_after);
    for (uint32_t n = 0; n < HS_PARTICIPANTS; n++) dead_free(drain, n);
    drain->probed_dead = false;
    heads_finish(drain);
    drain->collected = false;
    uint64_t now = hs_clock_ns(CLOCK_MONOTONIC);
    drain->round_ns = now - drain->collected_ns;
    hs_metrics_measure(hs_metrics_coordinator(segment), HS_MEASURE_ROUND, drain->round_ns);
    hs_metrics_measure(hs_metrics_coordinator(segment), HS_MEASURE_ROUND_BYTES, drain->round_bytes);
    hs_store_relaxed(&segment->header->round_done_ns, now); /* for statistics */
    /* E21 and E13 (release ends): the round is done, then the bell. E8: the bell, before I look whether somebody waits. */
    hs_store_release(&segment->header->rounds_done, drain->round);
    HS_STEP(round_done);
    hs_add32_seq_cst(&segment->header->done_bell, 1);
    hs_fence_seq_cst();
    if (hs_load32_relaxed(&segment->header->done_waiters) != 0)
        hs_futex_wake_all(&segment->header->done_bell);
    HS_STEP(round_after);
    return drain->recovers ? hs_drain_go(drain, 1) : HS_OK;
}

/* ---- Between rounds ---- */

int hs_drain_has_work(hs_drain *drain, int thorough) {
    const hs_segment *segment = drain->segment;
    if (drain->recovers) return 1;
    for (uint32_t chunk = 0; chunk < segment->chunk_count; chunk++) {
        range r = chunk_undrained(segment, chunk);
        if (r.from != r.to) return 1;
        if (hs_chunk_word_decode(hs_load_acquire(&segment->chunks[chunk].word)).state == HS_CHUNK_SEALED)
            return 1;
    }
    for (uint32_t line = 0; line < HS_BRANCH_SLOTS; line += TAGS_IN_LINE)
        for (uint32_t i = 0; i < TAGS_IN_LINE && (i > 0 || line_has_tags(segment, line)); i++)
            if (head_moved(drain, line + i) != 0) return 1;
    uint32_t living;
    if (thorough || hs_clock_ns(CLOCK_MONOTONIC) - drain->probed_ns >= PROBE_INTERVAL_NS)
        participants_probe(drain, NULL, &living);
    return drain->probed_dead;
}

/* Somebody asks for a round, or for room in the branch table. */
static bool is_asked(const hs_segment *segment) {
    return hs_load32_acquire(&segment->header->urgent) != 0 ||
           hs_load32_acquire(&segment->header->evict_wanted) != 0;
}

int hs_drain_sleep(hs_drain *drain, unsigned wait_ms, int gather) {
    hs_segment_header *header = drain->segment->header;
    /* Before `sleeping`: see hs_ring_bell. E12 (acquire end). */
    uint32_t seen = hs_load32_acquire(&header->bell);
    if (!gather) {
        hs_store32_relaxed(&header->sleeping, 1);
        hs_fence_seq_cst(); /* E7: I sleep, before I look for work once more */
    }
    bool work = is_asked(drain->segment) || (!gather && hs_drain_has_work(drain, 0));
    bool rung = work || hs_futex_wait(&header->bell, seen, wait_ms);
    if (!gather) hs_store32_relaxed(&header->sleeping, 0);
    return rung ? HS_OK : HS_TIMED_OUT;
}

/* How many of these branches have not moved since the last round? */
static uint32_t still_count(const hs_drain *drain, const uint32_t *slots, uint32_t count) {
    uint32_t still = 0;
    for (uint32_t i = 0; i < count; i++)
        still += hs_load_acquire(&drain->segment->branch_tags[slots[i]]) != 0 &&
                 (hs_branch_head_load(drain->segment, slots[i]) & HS_WORD_IN_L2) == 0 &&
                 head_moved(drain, slots[i]) == 0;
    return still;
}

static uint32_t missing_count(const hs_drain *drain) {
    return still_count(drain, drain->moved, drain->moved_count) +
           still_count(drain, drain->before, drain->before_count);
}

/* Who was woken by the last round is about to ask for the next one, in which those who came during the last one wait already:
 * without a pause the two would take turns, and a round would serve half of them. */
int hs_drain_rejoin(hs_drain *drain) {
    hs_word32 *bell = &drain->segment->header->bell;
    uint64_t limit_ns = drain->round_ns / 4;
    if (drain->collected || drain->moved_count + drain->before_count > REJOIN_HEADS_MAX) return 0;
    uint32_t first = missing_count(drain), left = first;
    if (first == 0 || limit_ns < REJOIN_NS_MIN) return (int)first;
    if (drain->rejoin_skip > 0) {
        drain->rejoin_skip--;
        return (int)first;
    }
    uint64_t end = hs_clock_ns(CLOCK_MONOTONIC) + limit_ns;
    for (;;) {
        uint32_t seen = hs_load32_acquire(bell); /* before I look: who comes later rings after it */
        uint64_t now = hs_clock_ns(CLOCK_MONOTONIC);
        left = missing_count(drain);
        if (left == 0 || now >= end) break;
        hs_futex_wait(bell, seen, (unsigned)((end - now) / 1000000) + 1);
    }
    /* Where nobody came, they are not of the kind that waits: look again after 1, 3, 7 .. 63 such rounds. */
    drain->rejoin_vain = left < first ? 0 : drain->rejoin_vain < 63 ? 2 * drain->rejoin_vain + 1 : 63;
    drain->rejoin_skip = drain->rejoin_vain;
    return (int)left;
}

void hs_drain_rest(void) {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

int hs_drain_allocate_ahead(hs_drain *drain, uint32_t count) {
    const hs_segment *segment = drain->segment;
    uint64_t first = hs_load_relaxed(&segment->header->claim_hint) % segment->chunk_count;
    uint32_t made = 0;
    for (uint32_t i = 1; i <= segment->chunk_count && i <= count; i++) {
        uint32_t chunk = (uint32_t)((first + i) % segment->chunk_count);
        if (hs_load32_acquire(&segment->chunks[chunk].allocated)) continue;
        int status = hs_segment_allocate_chunk(segment, chunk);
        if (status == HS_NO_SPACE) break;
        if (status != HS_OK) return status;
        made++;
    }
    return (int)made;
}

/* ---- Stopping commits ---- */

/* Who is in a commit and lives: its slot, or HS_PARTICIPANTS. */
static uint32_t committing_find(const hs_drain *drain) {
    for (uint32_t n = 0; n < HS_PARTICIPANTS; n++) {
        const hs_participant_slot *slot = &drain->segment->participants[n];
        if (!is_taken(drain->segment, n) || hs_load32_acquire(&slot->committing) == 0) continue; /* E28 */
        if (drain->participants_fd < 0 || hs_participant_alive(drain->participants_fd, n) != 0) return n;
    }
    return HS_PARTICIPANTS;
}

/* Change the collection word, which nobody else writes, and wake those who wait for that. */
static void collection_set(hs_drain *drain, uint64_t word) {
    hs_word *collection = &drain->segment->header->collection;
    drain->stopped = drain->recovers = false;
    hs_store_release(collection, word); /* E29 (release end) */
    hs_futex_wake_all(hs_futex_half(collection));
}

int hs_drain_stop(hs_drain *drain, unsigned wait_ms, uint64_t *pid) {
    hs_word *collection = &drain->segment->header->collection;
    uint64_t word = hs_load_relaxed(collection) | COLLECTION_STOPPING, begun = hs_clock_ns(CLOCK_MONOTONIC);
    if (drain->recovers || drain->collected) return HS_ARGUMENT; /* a round comes first */
    hs_store_relaxed(collection, word);
    drain->stopped = true;
    HS_STEP(stop_raised);
    hs_fence_seq_cst(); /* E26, E27: nobody may begin, before I look who is in a commit and what is held */
    for (;;) {
        uint32_t n = committing_find(drain);
        if (n == HS_PARTICIPANTS) {
            return HS_OK;
        }
        if (hs_clock_ns(CLOCK_MONOTONIC) - begun >= wait_ms * UINT64_C(1000000)) {
            *pid = hs_load_relaxed(&drain->segment->participants[n].pid);
            collection_set(drain, word & ~COLLECTION_STOPPING);
            return HS_TIMED_OUT;
        }
        nanosleep(&(struct timespec){.tv_nsec = STOP_PAUSE_NS}, NULL);
    }
}

/* Let no writer rely on what stands below this. */
static void stale_raise(hs_segment *segment, uint32_t chunk, uint32_t generation, uint32_t offset) {
    hs_word *stale = &segment->chunks[chunk].stale;
    uint64_t mark = (uint64_t)generation << 32 | offset;
    if (mark > hs_load_relaxed(stale)) hs_store_relaxed(stale, mark); /* E29: the collection word follows */
}

int hs_drain_go(hs_drain *drain, int deleted) {
    hs_segment *segment = drain->segment;
    if (!drain->stopped && !drain->recovers) return HS_ARGUMENT;
    uint64_t word = hs_load_relaxed(&segment->header->collection) & ~COLLECTION_STOPPING;
    for (uint32_t chunk = 0; deleted && chunk < segment->chunk_count; chunk++) {
        hs_chunk_state_word w = hs_chunk_word_decode(hs_load_acquire(&segment->chunks[chunk].word));
        stale_raise(segment, chunk, w.generation, w.cursor);
    }
    HS_STEP(stop_lowered);
    collection_set(drain, deleted ? word + 2 : word);
    return HS_OK;
}

int hs_drain_age(hs_drain *drain) {
    for (uint32_t chunk = 0; chunk < drain->segment->chunk_count; chunk++) {
        uint64_t mark = hs_load_relaxed(&drain->segment->chunks[chunk].persisted);
        stale_raise(drain->segment, chunk, (uint32_t)(mark >> 32), (uint32_t)mark);
    }
    return HS_OK;
}

/* ---- Eviction ---- */

/* Nobody may be inserting: those who are have raised their flag, those who begin now see `evicting`. */
static bool eviction_begin(hs_drain *drain) {
    hs_segment *segment = drain->segment;
    hs_store32_relaxed(&segment->header->evicting, 1);
    hs_fence_seq_cst(); /* E9: I take tags out, before I look whether somebody inserts one */
    for (uint32_t n = 0; n < HS_PARTICIPANTS; n++) {
        if (!is_taken(segment, n) || hs_load32_acquire(&segment->participants[n].inserting) == 0) continue;
        if (drain->participants_fd >= 0 && hs_participant_alive(drain->participants_fd, n) == 0)
            continue; /* dead: inserts no more */
        hs_store32_release(&segment->header->evicting, 0);
        return false;
    }
    HS_STEP(evict_begun);
    return true;
}

/* Take one tag out if its head is known to be in L2. The tag goes before the head word changes, and comes back if the head has
 * moved meanwhile; whoever loads the fresh word finds the tag gone. */
static bool evict(hs_drain *drain, uint32_t slot) {
    hs_segment *segment = drain->segment;
    hs_branch_slot *branch = &segment->branches[slot];
    uint64_t tag = hs_load_acquire(&segment->branch_tags[slot]), head = hs_branch_head_load(segment, slot);
    if (tag == 0 || ((head & HS_WORD_IN_L2) == 0 && head != drain->known[slot])) return false;
    if (hs_load32_acquire(&branch->waiters) != 0) return false;
    hs_store_relaxed(&branch->evicted_tag, tag);
    hs_store_release(&segment->branch_tags[slot], 0);
    HS_STEP(evict_untagged);
    bool done =
        hs_cas_seq_cst(&branch->head, &head, word_fresh(segment)); /* E3 (release end): the tag is gone */
    HS_STEP(evict_moved);
    if (!done) hs_store_release(&segment->branch_tags[slot], tag);
    hs_store_release(&branch->evicted_tag, 0);
    hs_branch_head_wake(segment, slot);
    return done;
}

static uint32_t evict_window(hs_drain *drain, uint32_t home) {
    uint32_t free = 0, evicted = 0;
    for (uint32_t i = 0; i < HS_BRANCH_WINDOW; i++)
        free += hs_load_relaxed(&drain->segment->branch_tags[(home + i) % HS_BRANCH_SLOTS]) == 0;
    for (uint32_t i = 0; i < HS_BRANCH_WINDOW && free + evicted < WINDOW_FREE_AIM; i++)
        evicted += evict(drain, (home + i) % HS_BRANCH_SLOTS);
    return evicted;
}

static uint32_t evict_table(hs_drain *drain, uint32_t used) {
    uint32_t evicted = 0;
    for (uint32_t i = 0; i < HS_BRANCH_SLOTS && used - evicted > TABLE_USED_AIM; i++)
        evicted += evict(drain, drain->evict_hand++ % HS_BRANCH_SLOTS);
    return evicted;
}

int hs_drain_evict(hs_drain *drain) {
    hs_segment *segment = drain->segment;
    uint32_t wanted = hs_load32_acquire(&segment->header->evict_wanted), used = 0;
    for (uint32_t slot = 0; slot < HS_BRANCH_SLOTS; slot++)
        used += hs_load_relaxed(&segment->branch_tags[slot]) != 0;
    if (drain->collected || (wanted == 0 && used <= TABLE_USED_MAX) || !eviction_begin(drain)) return 0;
    hs_store32_relaxed(&segment->header->evict_wanted, 0);
    uint32_t evicted = wanted != 0 ? evict_window(drain, wanted - 1) : 0;
    if (used - evicted > TABLE_USED_MAX) evicted += evict_table(drain, used - evicted);
    /* E19 (release end). Then the bell: there is room, and those who wait look again. */
    hs_store32_release(&segment->header->evicting, 0);
    hs_add32_seq_cst(&segment->header->done_bell, 1);
    hs_futex_wake_all(&segment->header->done_bell);
    return (int)evicted;
}
