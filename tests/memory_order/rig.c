/* rig.c - see the header. Compiled like the product's sources, so that its calls of inline functions are explored as well. */
#include "rig.h"
#include "hs_pack.h"

hs_segment segment;
hs_participant people[3];
hs_ring rings[3];
hs_drain *drain;
hs_locator *locator;
hs_drain_round round_seen;
static hs_metrics metrics[HS_PARTICIPANTS + 1]; /* words of one process each: outside of what is explored */

static void *part(size_t *used, size_t size) {
    void *at = shared + *used;
    *used = (*used + size + 63) / 64 * 64;
    return at;
}

static void segment_make(void) {
    size_t used = 64;
    segment = (hs_segment){.base = shared,
                           .size = SHARED_SIZE,
                           .fd = -1,
                           .chunk_count = CHUNKS,
                           .index_mask = 0,
                           .seed = {UINT64_C(0x123456789abcdef1), UINT64_C(0xfedcba9876543211)},
                           .ring = shared + RING_OFFSET};
    segment.header = part(&used, sizeof(hs_segment_header));
    segment.participants = part(&used, HS_PARTICIPANTS * sizeof(hs_participant_slot));
    segment.branch_tags = part(&used, HS_BRANCH_SLOTS * sizeof(hs_word));
    segment.branches = part(&used, HS_BRANCH_SLOTS * sizeof(hs_branch_slot));
    segment.index = part(&used, sizeof(hs_index_bucket));
    segment.chunks = part(&used, CHUNKS * sizeof(hs_chunk_slot));
    segment.metrics = metrics;
    memset(shared, 0, used);
}

static void words_make(void) {
    hs_store_relaxed(&segment.header->branch_word_next, 2);
    hs_store_relaxed(&segment.header->claim_hint, CHUNKS - 1);
    for (uint32_t chunk = 0; chunk < CHUNKS; chunk++) hs_store32_relaxed(&segment.chunks[chunk].allocated, 1);
    for (uint32_t slot = 0; slot < HS_BRANCH_SLOTS; slot++)
        hs_store_relaxed(&segment.branches[slot].head, HEAD_OF_NOTHING);
    for (uint32_t slot = 0; slot < 2; slot++) hs_store_relaxed(&segment.branch_tags[slot], 1 + slot);
}

void rig_begin(void) {
    runtime_begin();
    runtime_living = ~0u;
    runtime_mortal = 0;
    segment_make();
    words_make();
    for (uint32_t n = 0; n < 3; n++) {
        people[n] =
            (hs_participant){.fd = 100, .index = n, .slot = &segment.participants[n], .metrics = &metrics[n]};
        hs_store32_relaxed(&people[n].slot->state, 1);
        hs_store32_relaxed(&people[n].slot->metrics_allocated, 1);
        hs_ring_init(&rings[n], &segment, &people[n]);
    }
    hs_drain_open(&segment, 100, &drain);
}

/* ---- Entries ---- */

const uint8_t *rig_id(char name, uint8_t id[32]) {
    memset(id, 0, 32);
    id[0] = (uint8_t)name;
    id[9] = (uint8_t)(7 * name);
    return id;
}

int rig_put(int who, char name, uint64_t value, bool *added) {
    uint8_t id[32];
    uint64_t place;
    bool unused;
    hs_ring_item item = {.kind = HS_ENTRY_VALUE,
                         .id = rig_id(name, id),
                         .payload = &value,
                         .stored_size = sizeof value,
                         .raw_size = sizeof value};
    return hs_ring_put(&rings[who], &item, &place, added != NULL ? added : &unused);
}

int rig_put_record(int who, uint64_t value, uint64_t *place) {
    bool added;
    hs_ring_item item = {
        .kind = HS_ENTRY_RECORD, .payload = &value, .stored_size = sizeof value, .raw_size = sizeof value};
    return hs_ring_put(&rings[who], &item, place, &added);
}

int rig_read(uint64_t place, uint64_t *value) {
    hs_ring_hit hit;
    return hs_ring_read(&segment, place, value, sizeof *value, &hit);
}

int rig_get(int who, char name, uint64_t *value) {
    uint8_t id[32];
    hs_ring_hit hit;
    return hs_ring_get(&rings[who], rig_id(name, id), value, sizeof *value, &hit);
}

uint64_t rig_store(int who, char name, uint64_t value) {
    uint64_t place = 0;
    if (name == 0)
        rig_put_record(who, value, &place);
    else
        rig_put(who, name, value, NULL);
    hs_ring_flush(&rings[who]);
    hs_ring_end(&rings[who]);
    return place;
}

void rig_claim(int who) { hs_chunk_claim(&segment, &people[who], &rings[who].writer, 4); }

void rig_seal(int who) {
    rig_claim(who);
    hs_chunk_release(&segment, &people[who], &rings[who].writer, true);
}

/* ---- Rounds ---- */

uint32_t rig_collect(void) {
    static uint8_t buffer[2 * HS_CHUNK_SIZE], *pack;
    size_t size;
    uint32_t entries = 0;
    hs_drain_collect(drain, &round_seen);
    hs_drain_pack(drain, buffer, sizeof buffer, &pack, &size, &entries);
    return entries;
}

void rig_drained(void) {
    rig_collect();
    hs_drain_finish(drain);
}

/* ---- Branches ---- */

static char names[3][4];

uint32_t rig_home(void) { return hs_branch_window_slot(rig_tag(0), 0); }

uint64_t rig_tag(int name) { return hs_branch_tag(&segment, (const uint8_t *)names[name], 3); }

uint32_t rig_names(void) {
    int found = 0;
    for (int i = 0; found < 3; i++) {
        char *name = names[found];
        name[0] = 'b';
        name[1] = (char)('a' + i / 26);
        name[2] = (char)('a' + i % 26);
        if (hs_branch_window_slot(rig_tag(found), 0) == rig_home()) found++;
    }
    return rig_home();
}

int rig_slot_find(int who, int name, uint32_t *slot) {
    return hs_branch_slot_find(&segment, &people[who], (const uint8_t *)names[name], 3, slot);
}

bool rig_slot_is(uint32_t slot, int name) {
    return hs_branch_slot_is(&segment, slot, (const uint8_t *)names[name], 3);
}

/* ---- The locator ---- */

static const uint8_t *boot_id(uint8_t boot) {
    static uint8_t id[16];
    memset(id, boot, sizeof id);
    return id;
}

void rig_locator(void) {
    memset(shared + LOCATOR_OFFSET, 0, SHARED_SIZE - LOCATOR_OFFSET);
    hs_locator_create("locator", HS_LOCATOR_CAPACITY_MIN, boot_id(1), &locator);
}

void rig_mark(uint64_t pack, uint8_t boot) { hs_locator_mark(locator, pack, boot_id(boot)); }

bool rig_is_boot(const hs_locator_info *info, uint8_t boot) {
    return memcmp(info->boot_id, boot_id(boot), 16) == 0;
}

void rig_locate(uint64_t pack, char name) {
    uint8_t bytes[HS_PACK_HEADER_SIZE + HS_PACK_ROW_SIZE] = {0}, id[32];
    hs_pack_row row = {.id = rig_id(name, id)};
    hs_store_u32(bytes + 12, 1);
    hs_pack_row_set(bytes, 0, &row);
    hs_locator_insert(locator, pack, bytes, sizeof bytes);
    rig_mark(pack, 1);
}

bool rig_is_located(uint64_t pack, char name) {
    uint64_t packs[4];
    uint32_t rows[4];
    uint8_t id[32];
    int found = hs_locator_find(locator, rig_id(name, id), packs, rows, 4);
    for (int i = 0; i < found; i++)
        if (packs[i] == pack) return true;
    return false;
}
