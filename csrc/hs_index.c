/* hs_index.c - probe and insert; replacement prefers what is worth least. */
#include "hs_index.h"
#include "helios_shm.h"
#include "hs_step.h"

#define TAG_BITS     12
#define SECOND_SHIFT 26 /* 26 bits a bucket are enough for the largest ring */
_Static_assert((uint64_t)HS_CHUNKS_MAX *(HS_CHUNK_SIZE / 256) / HS_INDEX_WAYS <= UINT64_C(1) << SECOND_SHIFT,
               "bits");

hs_index_key hs_index_key_make(const hs_segment *segment, const uint8_t id[32]) {
    unsigned __int128 product =
        (unsigned __int128)(hs_load_u64(id) ^ segment->seed[0]) * (hs_load_u64(id + 8) ^ segment->seed[1]);
    uint64_t mixed = (uint64_t)product ^ (uint64_t)(product >> 64);
    mixed = (mixed ^ mixed >> 32) * UINT64_C(0x9e3779b97f4a7c15);
    uint32_t a = (uint32_t)mixed & segment->index_mask,
             b = (uint32_t)(mixed >> SECOND_SHIFT) & segment->index_mask;
    return (hs_index_key){.bucket = {a, b}, .tag = (uint32_t)(mixed >> (64 - TAG_BITS))};
}

static uint32_t word_tag(uint64_t word) { return (uint32_t)(word >> HS_INDEX_TAG_SHIFT); }
static uint32_t word_chunk(uint64_t word) { return (uint32_t)(word >> HS_PLACE_CHUNK_SHIFT) & 0xffff; }

static uint64_t word_make(const hs_index_key *key, uint64_t place) {
    uint64_t generation = hs_place_generation(place) & HS_INDEX_GENERATION_MASK;
    return (uint64_t)key->tag << HS_INDEX_TAG_SHIFT | generation << HS_INDEX_GENERATION_SHIFT |
           (place & UINT32_MAX);
}

/* The place that a word means, if its chunk's generation is still that one; else 0. */
static uint64_t word_place(const hs_segment *segment, uint64_t word) {
    uint32_t chunk = word_chunk(word);
    if (chunk >= segment->chunk_count) return 0;
    uint32_t generation = hs_chunk_word_generation(hs_load_acquire(&segment->chunks[chunk].word));
    if ((generation & HS_INDEX_GENERATION_MASK) !=
        (word >> HS_INDEX_GENERATION_SHIFT & HS_INDEX_GENERATION_MASK))
        return 0;
    return hs_place_make(generation, chunk, (uint32_t)word & 0xffff);
}

/* The places of a bucket whose word carries the tag. */
static uint32_t bucket_probe(const hs_segment *segment, const hs_index_key *key, int which,
                             uint64_t *places) {
    const hs_index_bucket *bucket = &segment->index[key->bucket[which]];
    uint32_t count = 0;
    for (uint32_t i = 0; i < HS_INDEX_WAYS; i++) {
        uint64_t word = hs_load_acquire(&bucket->words[i]); /* E6 (acquire end) */
        if (HS_LIKELY(word_tag(word) != key->tag) || word == 0) continue;
        uint64_t place = word_place(segment, word);
        if (place != 0) places[count++] = place;
    }
    return count;
}

uint32_t hs_index_probe(const hs_segment *segment, const hs_index_key *key,
                        uint64_t places[HS_INDEX_CANDIDATES]) {
    uint32_t count = bucket_probe(segment, key, 0, places);
    if (key->bucket[0] == key->bucket[1]) return count;
    return count + bucket_probe(segment, key, 1, places + count);
}

uint32_t hs_index_probe_one(const hs_segment *segment, const hs_index_key *key, int which,
                            uint64_t places[HS_INDEX_WAYS]) {
    return which > 0 && key->bucket[0] == key->bucket[1] ? 0 : bucket_probe(segment, key, which, places);
}

/* Would find_stale stay with the first bucket? */
static bool first_has_room(const hs_segment *segment, const hs_index_key *key) {
    const hs_index_bucket *bucket = &segment->index[key->bucket[0]];
    for (uint32_t i = 0; i <= HS_INDEX_WAYS / 2; i++) {
        uint64_t word = hs_load_relaxed(&bucket->words[i]);
        if (word == 0 || word_place(segment, word) == 0) return true;
    }
    return false;
}

uint32_t hs_index_probe_first(const hs_segment *segment, const hs_index_key *key,
                              uint64_t places[HS_INDEX_CANDIDATES]) {
    uint32_t count = bucket_probe(segment, key, 0, places);
    if (count > 0 || first_has_room(segment, key)) return count;
    return bucket_probe(segment, key, 1, places);
}

static bool has_id(const hs_segment *segment, uint64_t place, const uint8_t id[32]) {
    if (hs_place_offset(place) + sizeof(hs_entry) / HS_UNIT >= HS_CHUNK_UNITS) return false;
    const uint8_t *entry = hs_chunk_address(segment, hs_place_chunk(place), hs_place_offset(place));
    uint8_t found[32];
    hs_chunk_copy(found, entry + offsetof(hs_entry, id), sizeof found);
    return memcmp(found, id, sizeof found) == 0;
}

/* A word, and where it stands. */
typedef struct found_word {
    hs_word *slot; /* NULL: none */
    uint64_t word;
} found_word;

/* The word under which this very id stands: replaced first, so that an id stands once; twice only if two look for it and enter it
 * at the same time, which costs a word and no more. */
static found_word find_same(hs_segment *segment, const hs_index_key *key, const uint8_t id[32]) {
    for (int k = 0; k < 2; k++) {
        hs_index_bucket *bucket = &segment->index[key->bucket[k]];
        for (uint32_t i = 0; i < HS_INDEX_WAYS; i++) {
            uint64_t word = hs_load_acquire(&bucket->words[i]);
            if (HS_LIKELY(word_tag(word) != key->tag) || word == 0) continue;
            uint64_t place = word_place(segment, word);
            if (place != 0 && has_id(segment, place, id)) return (found_word){&bucket->words[i], word};
        }
    }
    return (found_word){0};
}

/* The first word of a bucket that means nothing any more; *ahead: how many that mean something stand before it. */
static found_word bucket_stale(hs_segment *segment, hs_index_bucket *bucket, uint32_t *ahead) {
    for (uint32_t i = 0; i < HS_INDEX_WAYS; i++) {
        uint64_t word = hs_load_acquire(&bucket->words[i]);
        if (word != 0 && word_place(segment, word) != 0) continue;
        *ahead = i;
        return (found_word){&bucket->words[i], word};
    }
    *ahead = HS_INDEX_WAYS;
    return (found_word){0};
}

/* A word that means nothing any more: in the first bucket while that is at most half full, which it mostly is; else in the
 * emptier of the two, so that they fill evenly. */
static found_word find_stale(hs_segment *segment, const hs_index_key *key) {
    uint32_t ahead_a, ahead_b;
    found_word a = bucket_stale(segment, &segment->index[key->bucket[0]], &ahead_a);
    if (ahead_a <= HS_INDEX_WAYS / 2) return a;
    found_word b = bucket_stale(segment, &segment->index[key->bucket[1]], &ahead_b);
    return ahead_b < ahead_a ? b : a;
}

/* The oldest of the persisted ones. */
static found_word find_oldest(hs_segment *segment, const hs_index_key *key) {
    found_word oldest = {0};
    uint32_t oldest_age = 0;
    for (int k = 0; k < 2; k++) {
        hs_index_bucket *bucket = &segment->index[key->bucket[k]];
        for (uint32_t i = 0; i < HS_INDEX_WAYS; i++) {
            uint64_t word = hs_load_acquire(&bucket->words[i]), place = word_place(segment, word);
            uint32_t chunk = hs_place_chunk(place), age = hs_chunk_age(segment, chunk);
            if (place != 0 &&
                !hs_chunk_is_persisted(segment, chunk, hs_place_generation(place), hs_place_offset(place)))
                continue;
            if (oldest.slot && age <= oldest_age) continue;
            oldest = (found_word){&bucket->words[i], word};
            oldest_age = age;
        }
    }
    return oldest;
}

int hs_index_insert(hs_segment *segment, const hs_index_key *key, const uint8_t id[32], uint64_t place) {
    uint64_t mine = word_make(key, place);
    for (;;) { /* a failed swap means that another insert succeeded; and persisting never takes words back */
        found_word found = id ? find_same(segment, key, id) : (found_word){0};
        if (!found.slot) found = find_stale(segment, key);
        if (!found.slot) found = find_oldest(segment, key);
        if (!found.slot) return HS_WAIT;
        HS_STEP(index_before);
        if (!hs_cas_seq_cst(found.slot, &found.word, mine)) continue; /* E6 (release end) */
        HS_STEP(index_after);
        return HS_OK;
    }
}
