/* Fuzz target: a segment that somebody else wrote to. Input: {flags, changes}, and choices for what is done then.
 *
 *   a real segment of four chunks, with commits, values and branches in it
 *      -> changes: words of the header, slots, tags, heads, index, chunks; entries with any header and any payload, their
 *         sums right or wrong; bare bytes; another file size
 *      -> attach; read everything; commit; drain everything; leave
 *
 * Offsets and sizes, places, generations, cursors, owners, parents of records: all are whatever the input says. Entries
 * can be made such that they are reached: published, in the index, under a branch's head. Promises: attaching ends in an
 * engine or a typed status; nothing is read or written outside of the mapping or of the caller's memory; every call ends;
 * packs and log blocks that come out are whole. */
#include "hs_fuzz.h"
#include "hs_blake3.h"
#include "hs_checksum.h"
#include "hs_drain.h"
#include "hs_engine.h"
#include "hs_nodes.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNKS = 4, KNOWN = 12, ENTRIES = 8, NAMES = 3, CHANGES_MAX = 24, DATA = 66048, PACK = 2 << 20 };
enum { RECORD_ROOM = 66048, STEPS_MAX = 64, SMALL_MAX = 4096, CUT = 80 << 10 };

typedef struct world {
    fuzz_input in;
    char name[64], participants[64];
    uint8_t *view, *image; /* the file, mapped by us; what it held before the changes */
    size_t size;
    int fd;
    hs_segment parts; /* addresses in view: of the library's own making, before any change */
    uint8_t ids[KNOWN][32];
    unsigned known;
    uint64_t places[ENTRIES]; /* of entries that changes made */
    unsigned entries;
    hs_engine *engine;
    hs_drain *drain;
    hs_call call;
    uint8_t *data, *pack;
    hs_batch *batch;
} world;

/* Linked with --wrap=mmap,--wrap=munmap: what the library maps of a file stands between pages that nobody may touch. */
enum { GUARD = 16 << 20 };
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t size);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *at, size_t size);

static struct guarded {
    uint8_t *base;
    size_t size;
} guarded[16];

void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    unsigned n = 0;
    while (n < 16 && guarded[n].base) n++;
    if (fd < 0 || n == 16) return __real_mmap(at, size, protection, flags, fd, offset);
    uint8_t *room =
        __real_mmap(NULL, size + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) return room;
    void *base = __real_mmap(room + GUARD, size, protection, flags | MAP_FIXED, fd, offset);
    if (base == MAP_FAILED)
        __real_munmap(room, size + 2 * GUARD);
    else
        guarded[n] = (struct guarded){base, size};
    return base;
}

int __wrap_munmap(void *at, size_t size) {
    for (unsigned n = 0; n < 16; n++) {
        if (guarded[n].base != at || guarded[n].size != size) continue;
        guarded[n].base = NULL;
        return __real_munmap((uint8_t *)at - GUARD, size + 2 * GUARD);
    }
    return __real_munmap(at, size);
}

static const char *const names[NAMES] = {"main", "b", "another"};
static const char *const keys[] = {"a", "app/config", "zz", "k007", "k150"};

static void id_add(world *w, const uint8_t id[32]) {
    if (w->known < KNOWN) memcpy(w->ids[w->known++], id, 32);
}

static hs_branch_ref branch(unsigned n) {
    hs_branch_ref ref = {.slot = UINT32_MAX, .name_size = (uint32_t)strlen(names[n])};
    memcpy(ref.name, names[n], ref.name_size);
    return ref;
}

/* --- the segment as it was --- */

static hs_open_args args_of(const world *w, uint32_t mode) {
    return (hs_open_args){.segment_name = w->name,
                          .participants_path = w->participants,
                          .store_device = 1,
                          .store_inode = 2,
                          .ring_size = (uint64_t)CHUNKS * HS_CHUNK_SIZE,
                          .cache_size = 1 << 20,
                          .mode = mode};
}

static void call_begin(world *w) {
    w->call = (hs_call){.engine = w->engine, .data = w->data, .capacity = DATA};
}

/* 200 keys, so that the tree has levels; then two commits of one key. */
static void fill(world *w) {
    enum { COUNT = 200 };
    static uint8_t text[COUNT * 4], values[COUNT * 100];
    uint32_t key_sizes[COUNT], value_sizes[COUNT];
    uint8_t base[40] = {0}, root[32];
    hs_branch_ref ref = branch(0);
    for (unsigned i = 0; i < COUNT; i++) {
        char key[8];
        snprintf(key, sizeof key, "k%03u", i);
        memcpy(text + 4 * i, key, 4);
        key_sizes[i] = 4;
        value_sizes[i] = i % 8 ? 3 : 100;
    }
    hs_edits edits = {
        .count = COUNT, .keys = text, .key_sizes = key_sizes, .values = values, .value_sizes = value_sizes};
    hs_empty_root(base);
    id_add(w, base);
    MUST(hs_branch_word(&w->call, &ref) == HS_OK);
    MUST(hs_branch_provide(&w->call, &ref, w->call.word, base, 0, 0, 0, 0) == HS_OK);
    MUST(hs_commit_many(&w->call, &ref, base, &edits) > 0);
    memcpy(root, w->data + 16, 32);
    id_add(w, root);
    for (unsigned i = 0; i < 2; i++) {
        memcpy(base, w->data + 16, 40);
        MUST(hs_commit_one(&w->call, &ref, base, (const uint8_t *)keys[i], strlen(keys[i]), values, 80) > 0);
        memcpy(root, w->data + 16, 32);
        id_add(w, root);
    }
    MUST(hs_l1_put(&w->call, values, 90) == HS_OK);
    id_add(w, w->call.id);
    MUST(hs_l1_put(&w->call, text, sizeof text) == HS_OK);
    id_add(w, w->call.id);
}

/* Seeds are random for every segment; here the same input must mean the same bytes. */
static void seeds_fix(world *w) {
    hs_segment_config config = {
        .store_device = 1, .store_inode = 2, .ring_size = (uint64_t)CHUNKS * HS_CHUNK_SIZE};
    hs_segment segment;
    MUST(hs_segment_create(w->name, &config, &segment) == HS_OK);
    segment.header->seed[0] = 11;
    segment.header->seed[1] = 13;
    segment.header->nonce = 17;
    hs_segment_detach(&segment);
    MUST(hs_segment_attach(w->name, &config, &w->parts) == HS_OK);
    w->view = w->parts.base;
    w->size = w->parts.size;
    w->fd = w->parts.fd;
}

static world *world_make(void) {
    static world the_world;
    world *w = &the_world;
    if (w->view) return w;
    snprintf(w->name, sizeof w->name, "/helios-fuzz-%d", (int)getpid());
    snprintf(w->participants, sizeof w->participants, "/dev/shm/helios-fuzz-%d.participants", (int)getpid());
    w->data = fuzz_memory(DATA);
    w->pack = fuzz_memory(PACK);
    w->batch = fuzz_memory(sizeof *w->batch);
    seeds_fix(w);
    hs_open_args args = args_of(w, HS_OPEN_PARTICIPANT);
    MUST(hs_engine_open(&args, &w->engine) == HS_OK);
    call_begin(w);
    fill(w);
    hs_engine_close(w->engine);
    w->engine = NULL;
    w->image = fuzz_memory(w->size);
    memcpy(w->image, w->view, w->size);
    return w;
}

/* --- changes --- */

static uint64_t place_take(world *w) {
    unsigned how = (unsigned)fuzz_take(&w->in, 1) % 4;
    if (how == 0) return fuzz_take(&w->in, 8);
    if (how == 1) return HS_WORD_IN_L2 | fuzz_take(&w->in, 8);
    if (how == 2 || !w->entries)
        return hs_place_make((uint32_t)fuzz_take(&w->in, 1), (uint32_t)fuzz_take(&w->in, 1) % (CHUNKS + 1),
                             (uint32_t)fuzz_take(&w->in, 2));
    return w->places[fuzz_below(&w->in, w->entries)];
}

static const uint8_t *id_take(world *w) { return w->ids[fuzz_below(&w->in, w->known)]; }

static uint32_t slot_take(world *w) {
    unsigned n = (unsigned)fuzz_take(&w->in, 1);
    const char *name = names[n % NAMES];
    uint64_t tag = hs_branch_tag(&w->parts, (const uint8_t *)name, strlen(name));
    return hs_branch_window_slot(tag, n / NAMES % HS_BRANCH_WINDOW);
}

static void change_index(world *w, const uint8_t id[32], uint64_t place, unsigned where) {
    hs_index_key key = hs_index_key_make(&w->parts, id);
    uint64_t word = (uint64_t)key.tag << HS_INDEX_TAG_SHIFT |
                    (hs_place_generation(place) & HS_INDEX_GENERATION_MASK) << HS_INDEX_GENERATION_SHIFT |
                    (place & UINT32_MAX);
    w->parts.index[key.bucket[where & 1]].words[where / 2 % HS_INDEX_WAYS] = word;
}

/* A commit record; `serial` 0 is that of a detached commit. */
static size_t record_write(world *w, uint8_t *out) {
    uint64_t serial = fuzz_chance(&w->in) ? fuzz_take(&w->in, 8) : fuzz_take(&w->in, 1);
    const char *name = names[fuzz_below(&w->in, NAMES)];
    hs_record record = {.name = (const uint8_t *)name,
                        .name_size = serial ? (uint16_t)strlen(name) : 0,
                        .serial = serial,
                        .sequence = fuzz_take(&w->in, 1),
                        .incarnation = fuzz_take(&w->in, 1),
                        .parent_word = place_take(w)};
    memcpy(record.root, id_take(w), 32);
    return hs_record_encode(&record, out);
}

static size_t leaf_write(world *w, uint8_t *out) {
    const char *key = keys[fuzz_below(&w->in, sizeof keys / sizeof *keys)];
    hs_node_entry entry = {.key = {.prefix = (const uint8_t *)key,
                                   .suffix = (const uint8_t *)key,
                                   .suffix_size = (uint32_t)strlen(key)},
                           .value = {.hashed = true, .size = fuzz_take(&w->in, 5), .bytes = id_take(w)}};
    hs_node node;
    hs_node_build(0, &entry, sizeof entry, 1, 0, 0, out, &node);
    return node.size;
}

/* A payload in `out` (RECORD_ROOM bytes); its size. */
static size_t payload_take(world *w, uint8_t *out) {
    unsigned what = (unsigned)fuzz_take(&w->in, 1) % 4;
    if (what == 0) return record_write(w, out);
    if (what == 1) return leaf_write(w, out);
    if (what == 2) return memset(out, 0, SMALL_MAX), fuzz_take(&w->in, 2) % SMALL_MAX;
    size_t size;
    uint8_t *bytes = fuzz_bytes(&w->in, fuzz_take(&w->in, 1), &size);
    memcpy(out, bytes, size);
    free(bytes);
    return size;
}

enum {
    LIE_SUM = 1,
    LIE_STORED = 2,
    LIE_RAW = 4,
    LIE_KIND = 8,
    UNPUBLISHED = 16,
    NOT_INDEXED = 32,
    OWN_ID = 64,
    LAST = 128
};

static hs_entry header_take(world *w, unsigned lies, const uint8_t *payload, size_t size) {
    hs_entry header = {
        .raw_size = size, .stored_size = (uint32_t)size, .kind = (uint8_t)(1 + fuzz_below(&w->in, 4))};
    if (header.kind == HS_ENTRY_BLOB) header.stored_size = 0;
    if (lies & LIE_RAW) {
        header.codec = HS_CODEC_LZ4;
        header.raw_size = fuzz_take(&w->in, 8);
    }
    if (lies & LIE_STORED) header.stored_size = (uint32_t)fuzz_take(&w->in, 4);
    if (lies & LIE_KIND) {
        header.kind = (uint8_t)fuzz_take(&w->in, 1);
        header.codec = (uint8_t)fuzz_take(&w->in, 1);
        header.flags = (uint8_t)fuzz_take(&w->in, 1);
    }
    if (lies & OWN_ID) {
        hs_blake3(payload, size, header.id);
        id_add(w, header.id);
    } else {
        memcpy(header.id, id_take(w), 32);
    }
    return header;
}

/* An entry at a place, as far as its chunk goes; published and in the index unless the flags say otherwise. */
static void change_entry(world *w) {
    static uint8_t payload[RECORD_ROOM];
    unsigned lies = (unsigned)fuzz_take(&w->in, 1), n = (unsigned)fuzz_take(&w->in, 1);
    uint32_t chunk = n % CHUNKS, unit = (uint32_t)fuzz_take(&w->in, 2), generation = 1 + n / CHUNKS % 4;
    size_t size = payload_take(w, payload);
    if (lies & LAST) unit = HS_CHUNK_UNITS - hs_ring_units((uint32_t)size);
    hs_entry header = header_take(w, lies, payload, size);
    uint8_t *at = hs_chunk_address(&w->parts, chunk, unit);
    size_t room = (HS_CHUNK_UNITS - unit) * (size_t)HS_UNIT;
    size_t copied = size + sizeof header <= room ? size : room > sizeof header ? room - sizeof header : 0;
    if (copied) memcpy(at + sizeof header, payload, copied);
    /* The sum over what stands there, where all of that is in the ring; else it cannot be right. */
    size_t left = w->size - (size_t)(at - w->view);
    bool inside = left >= sizeof header && header.stored_size <= left - sizeof header;
    if (!(lies & LIE_SUM) && inside && header.stored_size <= HS_ENTRY_PAYLOAD_MAX)
        header.checksum =
            hs_ring_checksum(w->parts.seed, generation, &header,
                             hs_checksum(w->parts.seed, at + sizeof header, header.stored_size));
    memcpy(at, &header, room < sizeof header ? room : sizeof header);
    uint64_t place = hs_place_make(generation, chunk, unit);
    if (w->entries < ENTRIES) w->places[w->entries++] = place;
    uint32_t cursor = unit + hs_ring_units((uint32_t)copied);
    if (cursor > HS_CHUNK_UNITS) cursor = HS_CHUNK_UNITS;
    if (!(lies & UNPUBLISHED))
        w->parts.chunks[chunk].word = hs_chunk_word_make(generation, n / 16 % 4, n / 64, cursor);
    if (!(lies & NOT_INDEXED)) change_index(w, header.id, place, n);
}

static void change_chunk(world *w) {
    unsigned n = (unsigned)fuzz_take(&w->in, 1);
    hs_chunk_slot *slot = &w->parts.chunks[n % CHUNKS];
    if (n & 64)
        slot->word = hs_chunk_word_make((uint32_t)fuzz_take(&w->in, 4), n / 4 % 4,
                                        (uint32_t)fuzz_take(&w->in, 2) & 8191,
                                        (uint32_t)fuzz_take(&w->in, 3) & 0x1ffff);
    else if (n & 128)
        slot->persisted = fuzz_take(&w->in, 8);
    else
        slot->word = fuzz_take(&w->in, 8);
}

static void change_branch(world *w) {
    uint32_t slot = slot_take(w);
    unsigned what = (unsigned)fuzz_take(&w->in, 1);
    const char *name = names[what / 8 % NAMES];
    if (what & 1) w->parts.branches[slot].head = place_take(w);
    if (what & 2)
        w->parts.branch_tags[slot] =
            what & 128 ? fuzz_take(&w->in, 8) : hs_branch_tag(&w->parts, (const uint8_t *)name, strlen(name));
    if (what & 4) w->parts.branches[slot].evicted_tag = fuzz_take(&w->in, 8);
    if (what & 64) w->parts.branches[slot].waiters = (uint32_t)fuzz_take(&w->in, 4);
}

static void change_words(world *w) {
    unsigned what = (unsigned)fuzz_take(&w->in, 1) % 3;
    uint64_t *words = (uint64_t *)(void *)w->view;
    size_t at = fuzz_take(&w->in, what == 2 ? 3 : 1);
    size_t first = what == 1 ? sizeof(hs_segment_header) / 8 : 0;
    size_t count = what == 0 ? sizeof(hs_segment_header) / 8 : w->size / 8 - first;
    words[first + at % count] = fuzz_take(&w->in, 8);
}

static void change(world *w) {
    unsigned what = (unsigned)fuzz_take(&w->in, 1) % 10;
    if (what < 4)
        change_entry(w);
    else if (what == 4)
        change_chunk(w);
    else if (what < 7)
        change_branch(w);
    else if (what == 7)
        change_index(w, id_take(w), place_take(w), (unsigned)fuzz_take(&w->in, 1));
    else
        change_words(w);
}

/* --- use --- */

static void read_ids(world *w) {
    for (unsigned n = 0; n < w->known; n++) {
        call_begin(w);
        w->call.capacity = 16; /* too small for most: then in memory of exactly the size that it asks for */
        int64_t size = hs_l1_get(&w->call, w->ids[n]);
        if (size != HS_SMALL) continue;
        size_t wanted = w->call.size;
        MUST(wanted <= HS_ENTRY_PAYLOAD_MAX);
        uint8_t *exact = fuzz_memory(wanted);
        w->call = (hs_call){.engine = w->engine, .data = exact, .capacity = wanted};
        size = hs_l1_get(&w->call, w->ids[n]);
        MUST(size < 0 || (size_t)(size & (HS_ENCODED - 1)) <= wanted);
        free(exact);
    }
}

static void read_root(world *w, const uint8_t root[32], const uint8_t other[32]) {
    call_begin(w);
    (void)hs_totals(&w->call, root);
    (void)hs_count(&w->call, root, (const uint8_t *)"b", 1, (const uint8_t *)"k1", 2);
    for (unsigned i = 0; i < sizeof keys / sizeof *keys; i++) {
        const uint8_t *key = (const uint8_t *)keys[i];
        int64_t size = hs_get(&w->call, root, key, strlen(keys[i]));
        MUST(size < 0 || (size & (HS_ENCODED - 1)) <= DATA);
        (void)hs_stat(&w->call, root, key, strlen(keys[i]));
    }
    (void)hs_scan(&w->call, root, NULL, 0, NULL, 0, 0, w->batch);
    MUST(w->batch->count <= HS_BATCH_COUNT);
    (void)hs_scan(&w->call, root, NULL, 0, NULL, 0, HS_SCAN_REVERSE, w->batch);
    (void)hs_diff(&w->call, root, other, NULL, 0, NULL, 0, w->batch);
}

/* From a head along the parents, as Branch.log does. */
static void read_branches(world *w) {
    uint64_t words[NAMES + 8];
    uint32_t slot = 0;
    int count = hs_branch_words(w->engine, &slot, words, NAMES + 8);
    for (unsigned n = 0; n < NAMES; n++) {
        hs_branch_ref ref = branch(n);
        call_begin(w);
        if (hs_branch_word(&w->call, &ref) == HS_OK && count < NAMES + 8) words[count++] = w->call.word;
        (void)hs_branch_wait(&w->call, &ref, w->call.word, 0);
    }
    for (int i = 0; i < count; i++) {
        uint64_t word = words[i];
        for (unsigned step = 0; step < STEPS_MAX; step++) {
            hs_record record;
            int64_t size = hs_record_get(&w->call, word);
            if (size < 0) break;
            MUST(hs_record_decode(w->data, (size_t)size, &record) == HS_OK);
            word = record.parent_word;
        }
    }
}

/* See a commit through as attachment.py does, a little while; L2's row is another thing that the input says. */
static void commit_end(world *w, hs_branch_ref *ref, int64_t result) {
    for (unsigned tries = 0; w->call.state && tries < 4; tries++) {
        if (result == HS_HEAD_IN_L2)
            (void)hs_branch_provide(&w->call, ref, w->call.word, id_take(w), fuzz_take(&w->in, 8),
                                    fuzz_take(&w->in, 8), fuzz_take(&w->in, 8), fuzz_chance(&w->in));
        else if (result != HS_WAIT && result != HS_CONTENDED && result != HS_YIELD)
            break;
        result = hs_commit_continue(&w->call);
    }
    hs_commit_cancel(&w->call);
    hs_record record;
    int64_t size = result > 0 ? result & ~(int64_t)HS_LOOK_AFTER : 0;
    if (size) MUST(hs_record_decode(w->data, (size_t)size, &record) == HS_OK);
}

static void commit(world *w) {
    for (unsigned n = 0; n < NAMES; n++) {
        uint8_t base[40];
        const uint8_t *key = (const uint8_t *)keys[n];
        hs_branch_ref ref = branch(n);
        call_begin(w);
        memcpy(base, id_take(w), 32);
        hs_store_u64(base + 32, fuzz_take(&w->in, 1));
        commit_end(w, &ref, hs_commit_one(&w->call, &ref, base, key, strlen(keys[n]), w->pack, 70));
        uint32_t move = 1 + fuzz_below(&w->in, 4);
        commit_end(w, &ref, hs_commit_root(&w->call, &ref, move, id_take(w), id_take(w)));
    }
    (void)hs_l1_put(&w->call, w->pack, 500);
    (void)hs_round_wait(w->engine, hs_round_target(w->engine), 0);
}

static void drain_heads(world *w) {
    static uint8_t record[RECORD_ROOM];
    uint32_t slot, count;
    uint64_t word;
    size_t size;
    for (unsigned heads = 0; heads < HS_BRANCH_SLOTS; heads++) {
        int status = hs_drain_next_head(w->drain, &slot, &word, record, RECORD_ROOM, &size);
        if (status == HS_NOT_FOUND) return;
        if (status != HS_OK) continue;
        uint64_t known = fuzz_chance(&w->in) ? fuzz_take(&w->in, 8) : 0;
        size_t capacity = 600 + fuzz_take(&w->in, 2);
        uint8_t *block = fuzz_memory(capacity);
        if (hs_drain_chain(w->drain, slot, known, block, capacity, &size, &count) == HS_OK && count > 0) {
            MUST(size <= capacity);
            MUST(hs_log_validate(block, size) == HS_OK);
            MUST(hs_load_u64(block + 8) == known + 1);
        }
        free(block);
    }
}

static void drain(world *w) {
    hs_drain_round round;
    uint8_t *pack;
    size_t size = 1;
    uint32_t count;
    (void)hs_drain_has_work(w->drain, 1);
    (void)hs_drain_evict(w->drain);
    MUST(hs_drain_collect(w->drain, &round) == HS_OK);
    for (unsigned packs = 0; size > 0; packs++) {
        MUST(packs < 2 * CHUNKS);
        MUST(hs_drain_pack(w->drain, w->pack, PACK, &pack, &size, &count) == HS_OK);
        if (size > 0)
            MUST(pack >= w->pack && pack + size <= w->pack + PACK && hs_pack_validate(pack, size) == HS_OK);
    }
    drain_heads(w);
    MUST(hs_drain_finish(w->drain) == HS_OK);
    (void)hs_drain_allocate_ahead(w->drain, 3);
    (void)hs_drain_sleep(w->drain, 0, 0);
}

static void use(world *w) {
    hs_engine_stats stats;
    uint64_t pids[4];
    call_begin(w);
    MUST(hs_engine_stats_get(w->engine, &stats) == HS_OK);
    MUST(hs_engine_busy_pids(w->engine, pids, 4) <= 4);
    read_ids(w);
    for (unsigned n = 0; n < w->known; n++) read_root(w, w->ids[n], w->ids[(n + 1) % w->known]);
    read_branches(w);
    for (unsigned round = 0; round < 2; round++) {
        commit(w);
        drain(w);
    }
    read_branches(w);
}

static bool is_refusal(int status) {
    return status == HS_FORMAT || status == HS_FULL || status == HS_NO_SPACE || status == HS_CORRUPT;
}

static void attach(world *w) {
    hs_open_args args = args_of(w, HS_OPEN_PARTICIPANT);
    int status = hs_engine_open(&args, &w->engine);
    if (status != HS_OK) {
        MUST(is_refusal(status));
        return;
    }
    hs_engine *coordinator;
    args = args_of(w, HS_OPEN_COORDINATOR);
    MUST(hs_engine_open(&args, &coordinator) == HS_OK && hs_engine_drain(coordinator, &w->drain) == HS_OK);
    use(w);
    hs_drain_close(w->drain);
    hs_engine_close(coordinator);
    hs_engine_close(w->engine);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    world *w = world_make();
    unsigned known = w->known;
    w->in = (fuzz_input){data, size};
    w->entries = 0;
    unsigned flags = (unsigned)fuzz_take(&w->in, 1);
    for (unsigned n = 1 + fuzz_below(&w->in, CHANGES_MAX); n > 0 && w->in.left; n--) change(w);
    size_t cut = 1 + (flags >> 2) * (size_t)CUT;
    if (flags & 1) MUST(ftruncate(w->fd, (off_t)(flags & 2 ? w->size + cut : w->size - cut)) == 0);
    attach(w);
    if (flags & 1) MUST(ftruncate(w->fd, (off_t)w->size) == 0);
    memcpy(w->view, w->image, w->size);
    w->known = known;
    return 0;
}

__attribute__((destructor)) static void names_remove(void) {
    char path[80];
    snprintf(path, sizeof path, "/helios-fuzz-%d", (int)getpid());
    hs_segment_unlink(path);
    snprintf(path, sizeof path, "/dev/shm/helios-fuzz-%d.participants", (int)getpid());
    unlink(path);
}
