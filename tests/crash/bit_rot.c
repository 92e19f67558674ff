/* bit_rot.c - single bits flipped in what the C core reads: one at a time, everything read through the real read paths, flipped back.
 *
 *    bit_rot SEED FLIPS DIRECTORY
 *
 *   segment          header (attached anew), participants, branch tags, head words, index words, chunk words and marks, entries
 *   from L2          nodes given to the cache, rows and header of a pack, a log block, the locator's header and rows
 *
 * The oracle is a copy of all that was written, made before the first flip. After each flip every state of the branch is read (keys
 * one by one, a scan, totals), and the branch's head and all of its records. What comes must be the bytes that were written, or a
 * status that says so: damaged, not here (then L2 is asked), of another format. A head word has no sum, so a flip may lead it to an
 * older record of its own branch; that state is whole and true, and counted apart.
 *
 * Prints "name count" lines, and one line "violation: ..." for each wrong answer, with what is needed to see it again. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "hs_blake3.h"
#include "hs_engine.h"
#include "hs_locator.h"
#include "hs_node.h"
#include "hs_pack.h"
#include "hs_record.h"

enum {
    COMMITS = 5,
    KEYS = 36,
    DATA_SIZE = 1 << 18,
    CHUNKS = 4,
    VIOLATIONS_SHOWN = 20,
    PACK_CAPACITY = 4 << 20
};

#define MUST(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "bit_rot.c:%d: cannot go on without: %s\n", __LINE__, #condition);               \
            exit(2);                                                                                         \
        }                                                                                                    \
    } while (0)

typedef struct state { /* of one commit, as it was written */
    uint8_t root[32], value[KEYS][4096];
    uint32_t size[KEYS];
    uint8_t record[4096];
    size_t record_size;
    uint64_t word;
} state;

static struct {
    char name[64], participants[256], locator[256];
    hs_engine *writer, *reader;
    hs_call write, read;
    hs_branch_ref branch;
    state states[COMMITS];
    hs_batch batch;
    uint8_t *buffer, *pack, *log;
    size_t pack_size, log_size;
    uint64_t random;
} rot;

static struct {
    uint64_t flips, right, typed, elsewhere, older, wrong;
} count;
static const char *what; /* is flipped */
static uint64_t where, bit;

static uint64_t draw(uint64_t below) { /* splitmix64 */
    uint64_t z = rot.random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (z ^ z >> 31) % below;
}

static void violate(const char *found) {
    if (count.wrong++ < VIOLATIONS_SHOWN)
        printf("violation: bit %d of byte %llu of %s flipped: %s\n", (int)bit, (unsigned long long)where,
               what, found);
}

/* --- what is written --- */

static size_t key_of(int i, uint8_t *out) { return (size_t)sprintf((char *)out, "path/%02d/%d", i, i * i); }

static void value_write(state *s, int i, int commit) {
    static const uint32_t sizes[] = {0, 3, 64, 65, 200, 4000};
    s->size[i] = sizes[(i + commit) % 6];
    for (uint32_t b = 0; b < s->size[i]; b++) s->value[i][b] = (uint8_t)draw(256);
}

/* Commit some keys upon the state before. */
static void commit_make(int commit, const uint8_t base[40]) {
    static uint8_t keys[KEYS * 32], values[KEYS * 4096];
    uint32_t key_sizes[KEYS], value_sizes[KEYS], n = 0;
    size_t key_at = 0, value_at = 0;
    state *s = &rot.states[commit];
    if (commit > 0) *s = rot.states[commit - 1];
    for (int i = 0; i < KEYS; i++) {
        if (commit > 0 && i % COMMITS != commit) continue;
        value_write(s, i, commit);
        key_sizes[n] = (uint32_t)key_of(i, keys + key_at);
        value_sizes[n] = s->size[i];
        memcpy(values + value_at, s->value[i], s->size[i]);
        key_at += key_sizes[n];
        value_at += value_sizes[n++];
    }
    hs_edits edits = {
        .count = n, .keys = keys, .key_sizes = key_sizes, .values = values, .value_sizes = value_sizes};
    int64_t size = hs_commit_many(&rot.write, &rot.branch, base, &edits);
    MUST(size > 0);
    s->record_size = (size_t)size & ~(size_t)HS_LOOK_AFTER;
    s->word = rot.write.word;
    memcpy(s->record, rot.write.data, s->record_size);
    memcpy(s->root, s->record + 16, 32);
}

static hs_call call_make(hs_engine *engine) {
    hs_call call = {.engine = engine, .data = malloc(DATA_SIZE), .capacity = DATA_SIZE};
    MUST(call.data != NULL);
    return call;
}

static void segment_make(const char *directory) {
    snprintf(rot.name, sizeof rot.name, "/helios-bit-rot-%d", (int)getpid());
    snprintf(rot.participants, sizeof rot.participants, "%s/participants-%d", directory, (int)getpid());
    snprintf(rot.locator, sizeof rot.locator, "%s/locator-%d", directory, (int)getpid());
    hs_open_args args = {.segment_name = rot.name,
                         .participants_path = rot.participants,
                         .store_device = 1,
                         .store_inode = 2,
                         .ring_size = (uint64_t)CHUNKS * HS_CHUNK_SIZE,
                         .cache_size = 1 << 20};
    MUST(hs_engine_open(&args, &rot.writer) == HS_OK);
    args.mode = HS_OPEN_COORDINATOR; /* reads without a slot: it writes nothing while we look */
    MUST(hs_engine_open(&args, &rot.reader) == HS_OK);
    rot.write = call_make(rot.writer);
    rot.read = call_make(rot.reader);
}

static void commits_make(void) {
    uint8_t base[40] = {0};
    rot.branch = (hs_branch_ref){.slot = UINT32_MAX, .name_size = 4, .name = "main"};
    hs_empty_root(base);
    MUST(hs_branch_word(&rot.write, &rot.branch) == HS_OK);
    MUST(hs_branch_provide(&rot.write, &rot.branch, rot.write.word, base, 0, 0, 0, 0) == HS_OK);
    for (int commit = 0; commit < COMMITS; commit++) {
        commit_make(commit, base);
        memcpy(base, rot.states[commit].record + 16, 40);
    }
}

/* What the coordinator would write: a pack, a log block, the locator's file. */
static void l2_make(void) {
    hs_drain *drain;
    hs_drain_round round;
    uint32_t n, slot;
    uint64_t word;
    size_t size;
    hs_locator *locator;
    rot.buffer = malloc(PACK_CAPACITY);
    rot.log = malloc(HS_CHUNK_SIZE);
    MUST(rot.buffer != NULL && rot.log != NULL);
    MUST(hs_engine_drain(rot.writer, &drain) == HS_OK && hs_drain_collect(drain, &round) == HS_OK);
    MUST(hs_drain_pack(drain, rot.buffer, PACK_CAPACITY, &rot.pack, &rot.pack_size, &n) == HS_OK && n > 0);
    MUST(hs_drain_next_head(drain, &slot, &word, rot.log, HS_CHUNK_SIZE, &size) == HS_OK);
    MUST(hs_drain_chain(drain, slot, 0, rot.log, HS_CHUNK_SIZE, &rot.log_size, &n) == HS_OK && n == COMMITS);
    hs_drain_close(drain);
    static const uint8_t boot[16];
    MUST(hs_locator_create(rot.locator, 0, boot, &locator) == HS_OK);
    MUST(hs_locator_insert(locator, 1, rot.pack, rot.pack_size) == HS_OK);
    MUST(hs_locator_mark(locator, 1, boot) == HS_OK);
    hs_locator_close(locator);
}

/* --- what is read --- */

static void cache_empty(void) {
    hs_cache_free(rot.reader->tree.cache);
    MUST(hs_cache_new(1 << 20, &rot.reader->tree.cache) == HS_OK);
}

/* A status that is no answer. */
static void answered(int64_t status) {
    if (status == HS_MISSING || status == HS_NOT_FOUND)
        count.elsewhere++;
    else if (status == HS_CORRUPT || status == HS_FORMAT)
        count.typed++;
    else
        violate("a status that nobody expects");
}

static void key_read(const state *s, int i) {
    uint8_t key[32];
    int64_t size = hs_get(&rot.read, s->root, key, key_of(i, key));
    if (size == HS_NOT_FOUND)
        violate("a key is not there any more");
    else if (size < 0)
        answered(size);
    else if ((uint64_t)size != s->size[i] || memcmp(rot.read.data, s->value[i], s->size[i]) != 0)
        violate("a key has another value");
    else
        count.right++;
}

/* Keys in order, values or their ids. */
static void batch_compare(const state *s) {
    const hs_batch *b = &rot.batch;
    uint32_t key_at = 0, value_at = 0;
    for (uint32_t i = 0; i < b->count; i++) {
        uint8_t key[32], id[32];
        size_t key_size = key_of((int)i, key), size = b->value_ends[i] - value_at;
        bool good =
            i < KEYS && b->key_ends[i] - key_at == key_size && memcmp(b->keys + key_at, key, key_size) == 0;
        if (good && b->forms[i] == HS_BATCH_BYTES)
            good = size == s->size[i] && memcmp(b->values + value_at, s->value[i], size) == 0;
        else if (good) {
            hs_blake3(s->value[i], s->size[i], id);
            good = memcmp(b->values + value_at, id, 32) == 0;
        }
        if (!good) return violate("a scan gives another entry");
        key_at = b->key_ends[i];
        value_at = b->value_ends[i];
    }
    count.right++;
}

static void state_read(const state *s) {
    int status = hs_totals(&rot.read, s->root);
    if (status != HS_OK)
        answered(status);
    else if (rot.read.keys != KEYS)
        violate("a state has another number of keys");
    status = hs_scan(&rot.read, s->root, NULL, 0, NULL, 0, 0, &rot.batch);
    if (status != HS_OK) answered(status);
    batch_compare(s);
    if (status == HS_OK && rot.batch.count != KEYS) violate("a scan ends early");
    for (int i = 0; i < KEYS; i += 5) key_read(s, i);
}

/* A record by its word, as a branch reads it: whose name it has is looked at. */
static int record_read(uint64_t word) {
    int64_t size = hs_record_get(&rot.read, word);
    if (size < 0) {
        answered(size);
        return -1;
    }
    for (int commit = 0; commit < COMMITS; commit++)
        if ((size_t)size == rot.states[commit].record_size &&
            memcmp(rot.read.data, rot.states[commit].record, (size_t)size) == 0)
            return commit;
    violate("a record that nobody wrote");
    return -1;
}

static void everything_read(void) {
    cache_empty();
    hs_branch_ref ref = rot.branch;
    ref.slot = UINT32_MAX;
    int status = hs_branch_word(&rot.read, &ref);
    if (status != HS_OK) {
        answered(status);
    } else {
        int commit = record_read(rot.read.word);
        if (commit == COMMITS - 1)
            count.right++;
        else if (commit >= 0)
            count.older++;
    }
    for (int commit = 0; commit < COMMITS; commit++) {
        if (record_read(rot.states[commit].word) != commit) continue;
        count.right++;
    }
    for (int commit = 0; commit < COMMITS; commit++) state_read(&rot.states[commit]);
}

/* --- what is flipped --- */

static void flip_begin(const char *name, uint64_t offset, unsigned which) {
    what = name;
    where = offset;
    bit = which;
    count.flips++;
}

/* A bit of shared memory, and everything read. `whole`: reading may write to the tables, so they are put back. */
static void flip_memory(const char *name, void *base, uint64_t offset, unsigned which, bool whole) {
    static uint8_t *tables;
    hs_segment *segment = &rot.reader->segment;
    size_t size = (size_t)(segment->ring - segment->base);
    if (whole && tables == NULL) MUST((tables = malloc(size)) != NULL);
    if (whole) memcpy(tables, segment->base, size);
    flip_begin(name, offset, which);
    ((uint8_t *)base)[offset] ^= (uint8_t)(1u << which);
    everything_read();
    ((uint8_t *)base)[offset] ^= (uint8_t)(1u << which);
    if (whole) memcpy(segment->base, tables, size);
}

static void flip_drawn(const char *name, void *base, uint64_t size, bool whole) {
    uint64_t at = draw(size * 8);
    flip_memory(name, base, at >> 3, (unsigned)(at & 7), whole);
}

/* The header is believed only when a process attaches: so one does. */
static void flip_header(void) {
    hs_segment *segment = &rot.reader->segment, attached, mine = *segment;
    uint64_t at = draw(sizeof(hs_segment_header) * 8);
    uint8_t *byte = segment->base + (at >> 3), before = *byte;
    hs_segment_config config = {.store_device = 1, .store_inode = 2};
    flip_begin("the segment's header", at >> 3, (unsigned)(at & 7));
    *byte ^= (uint8_t)(1u << (at & 7));
    int status = hs_segment_attach(rot.name, &config, &attached);
    if (status == HS_OK) {
        rot.reader->segment = attached;
        everything_read();
        rot.reader->segment = mine;
        hs_segment_detach(&attached);
    } else {
        answered(status);
    }
    *byte = before;
}

/* A word of the index that is in use, or (one of eight times) any. */
static void flip_index(void) {
    hs_segment *segment = &rot.reader->segment;
    uint64_t words = ((uint64_t)segment->index_mask + 1) * HS_INDEX_WAYS, n = draw(words);
    uint64_t *word = (uint64_t *)(void *)segment->index;
    if (draw(8) != 0)
        while (word[n] == 0) n = (n + 1) % words;
    flip_memory("the index", word, n * 8 + draw(8), (unsigned)draw(8), false);
}

static void flip_branches(void) {
    hs_segment *segment = &rot.reader->segment;
    uint32_t slot = rot.branch.slot;
    if (draw(4) == 0)
        flip_drawn("a branch's tag", &segment->branch_tags[slot], 8, true);
    else if (draw(4) == 0)
        flip_drawn("a branch's slot", &segment->branches[slot], sizeof(hs_branch_slot), false);
    else
        flip_drawn("a head word", &segment->branches[slot].head, 8, false);
}

static void flip_entries(void) {
    hs_segment *segment = &rot.reader->segment;
    uint64_t used =
        (uint64_t)hs_chunk_word_decode(hs_load_acquire(&segment->chunks[0].word)).cursor * HS_UNIT;
    flip_drawn("the entries", segment->ring, used, false);
}

/* A node as it comes from L2. */
static void flip_node(void) {
    static uint8_t bytes[HS_NODE_SIZE_MAX];
    uint32_t n = hs_pack_count(rot.pack), index = (uint32_t)draw(n);
    while (hs_pack_row_get(rot.pack, index).kind != HS_ENTRY_NODE) index = (index + 1) % n;
    hs_pack_row row = hs_pack_row_get(rot.pack, index);
    uint64_t at = draw((uint64_t)row.stored_size * 8);
    memcpy(bytes, rot.pack + row.offset, row.stored_size);
    bytes[at >> 3] ^= (uint8_t)(1u << (at & 7));
    flip_begin("a node of the pack", at >> 3, (unsigned)(at & 7));
    cache_empty();
    int status = hs_node_give(rot.reader, row.id, bytes, row.stored_size);
    if (status == HS_CORRUPT)
        count.typed++;
    else
        violate("a node is believed");
}

static void flip_checked(const char *name, uint8_t *bytes, uint64_t part, size_t size,
                         int (*validate)(const uint8_t *, size_t)) {
    uint64_t at = draw(part * 8);
    flip_begin(name, at >> 3, (unsigned)(at & 7));
    bytes[at >> 3] ^= (uint8_t)(1u << (at & 7));
    if (validate(bytes, size) == HS_CORRUPT)
        count.typed++;
    else
        violate("it is taken for whole");
    bytes[at >> 3] ^= (uint8_t)(1u << (at & 7));
}

static void flip_pack(void) {
    flip_checked("a pack's table of contents", rot.pack, hs_pack_payload_start(hs_pack_count(rot.pack)),
                 rot.pack_size, hs_pack_validate);
}

static void flip_log(void) {
    flip_checked("a log block", rot.log, rot.log_size, rot.log_size, hs_log_validate);
}

/* Every id is looked up; a hint that leads elsewhere is seen to by the full id in the pack. */
static void locator_read(void) {
    hs_locator *locator;
    int status = hs_locator_open(rot.locator, 0, &locator);
    if (status != HS_OK) return answered(status);
    uint32_t n = hs_pack_count(rot.pack);
    for (uint32_t i = 0; i < n; i += 3) {
        uint64_t packs[64];
        uint32_t rows[64];
        bool found = false;
        const uint8_t *id = hs_pack_row_get(rot.pack, i).id;
        int hints = hs_locator_find(locator, id, packs, rows, 64);
        for (int k = 0; k < hints; k++)
            found |=
                packs[k] == 1 && rows[k] < n && memcmp(hs_pack_row_get(rot.pack, rows[k]).id, id, 32) == 0;
        if (found)
            count.right++;
        else
            count.elsewhere++;
    }
    hs_locator_close(locator);
}

static void flip_locator(void) {
    static uint8_t *base;
    static size_t size;
    if (base == NULL) {
        struct stat status;
        int fd = open(rot.locator, O_RDWR | O_CLOEXEC);
        MUST(fd >= 0 && fstat(fd, &status) == 0);
        size = (size_t)status.st_size;
        base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        MUST(base != MAP_FAILED);
        close(fd);
    }
    uint64_t part = draw(3) == 0 ? sizeof(hs_locator_header) : size, at = draw(part * 8);
    flip_begin("the locator", at >> 3, (unsigned)(at & 7));
    base[at >> 3] ^= (uint8_t)(1u << (at & 7));
    locator_read();
    base[at >> 3] ^= (uint8_t)(1u << (at & 7));
}

static void flip_one(void) {
    hs_segment *segment = &rot.reader->segment;
    switch (draw(20)) {
    case 0:
        return flip_header();
    case 1:
        return flip_drawn("the participants", segment->participants, 4 * sizeof(hs_participant_slot), false);
    case 2:
        return flip_drawn("the chunk words", segment->chunks, CHUNKS * sizeof(hs_chunk_slot), false);
    case 3:
        return flip_branches();
    case 4:
    case 5:
        return flip_index();
    case 6:
    case 7:
    case 8:
    case 9:
    case 10:
        return flip_entries();
    case 11:
    case 12:
    case 13:
        return flip_node();
    case 14:
    case 15:
        return flip_pack();
    case 16:
    case 17:
        return flip_log();
    default:
        return flip_locator();
    }
}

static void clean_up(void) {
    if (rot.writer) (void)hs_engine_unlink(rot.writer);
    unlink(rot.participants);
    unlink(rot.locator);
}

int main(int argc, char **argv) {
    MUST(argc == 4);
    rot.random = strtoull(argv[1], NULL, 10);
    uint64_t flips = strtoull(argv[2], NULL, 10);
    atexit(clean_up);
    segment_make(argv[3]);
    commits_make();
    l2_make();
    everything_read();
    MUST(count.typed == 0 && count.elsewhere == 0 && count.older == 0 && count.wrong == 0);
    memset(&count, 0, sizeof count);
    while (count.flips < flips && count.wrong < VIOLATIONS_SHOWN) flip_one();
    printf("flips %llu\nright %llu\ntyped %llu\nelsewhere %llu\nolder %llu\nwrong %llu\n",
           (unsigned long long)count.flips, (unsigned long long)count.right, (unsigned long long)count.typed,
           (unsigned long long)count.elsewhere, (unsigned long long)count.older,
           (unsigned long long)count.wrong);
    return 0;
}
