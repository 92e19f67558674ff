/* hs_heat.c - counts of hits by place, and ghosts of misses. See hs_heat.h. */
#include "hs_heat.h"

#define COLD_UNITS   (HS_CHUNK_UNITS / 4) /* where a claim keeps less than this, the ring is cold */
#define GHOSTS       (HS_CHUNK_SIZE / HS_HEAT_GHOST)
#define REGRET_MAX   (65536u * 35 / 100)
#define REGRET_SHIFT 8 /* the share is of the last few hundred misses */

/* Byte `n` of an array of words. */
static uint8_t byte_load(const hs_word32 *words, uint32_t n) {
    return (uint8_t)(hs_load32_relaxed(&words[n / 4]) >> n % 4 * 8);
}
static void byte_store(hs_word32 *words, uint32_t n, uint8_t byte) {
    uint32_t word = hs_load32_relaxed(&words[n / 4]), shift = n % 4 * 8;
    hs_store32_relaxed(&words[n / 4], (word & ~(UINT32_C(0xff) << shift)) | (uint32_t)byte << shift);
}

void hs_heat_set(const hs_segment *segment, uint32_t chunk, uint32_t offset, uint32_t count) {
    byte_store(segment->heat[chunk].spots, offset / 16, (uint8_t)(count << 4 | offset % 16));
    if (hs_load32_relaxed(&segment->chunks[chunk].touched) == 0)
        hs_store32_relaxed(&segment->chunks[chunk].touched, 1);
}

void hs_heat_touch(const hs_segment *segment, uint64_t place) {
    uint32_t chunk = hs_place_chunk(place), offset = hs_place_offset(place);
    uint8_t was = byte_load(segment->heat[chunk].spots, offset / 16);
    bool same = was != 0 && was % 16 == offset % 16; /* of two that share a spot, the last hit counts */
    uint32_t count = same ? hs_heat_count(was) : 0;
    if (HS_LIKELY(count >= HS_HEAT_COUNT_MAX)) return; /* what is hot is only looked at */
    hs_heat_set(segment, chunk, offset, count + 1);
}

bool hs_heat_take(const hs_segment *segment, uint32_t chunk, uint8_t spots[HS_HEAT_SPOTS]) {
    if (hs_load32_relaxed(&segment->chunks[chunk].touched) == 0) return false;
    hs_store32_relaxed(&segment->chunks[chunk].touched, 0);
    hs_word32 *words = segment->heat[chunk].spots;
    for (uint32_t n = 0; n < HS_HEAT_SPOTS / 4; n++) {
        uint32_t word = hs_load32_relaxed(&words[n]);
        for (uint32_t i = 0; i < 4; i++) spots[4 * n + i] = (uint8_t)(word >> i * 8);
        if (word != 0) hs_store32_relaxed(&words[n], 0);
    }
    return true;
}

/* How often a miss is a repeated one, counting this one: a running mean. */
static uint32_t regret_after(const hs_segment *segment, bool again) {
    uint32_t regret = hs_load32_relaxed(&segment->header->regret);
    regret += again ? (65536u - regret) >> REGRET_SHIFT : 0;
    regret -= again ? 0 : regret >> REGRET_SHIFT;
    hs_store32_relaxed(&segment->header->regret, regret);
    return regret;
}

bool hs_heat_admit(const hs_segment *segment, const uint8_t id[32]) {
    uint64_t mixed = hs_load_u64(id + 16) ^ segment->seed[0];
    uint8_t tag = (uint8_t)(mixed % 255 + 1);
    uint64_t ghost = (mixed >> 8) % ((uint64_t)segment->chunk_count * GHOSTS);
    hs_word32 *words = segment->heat[ghost / GHOSTS].ghosts;
    bool again = byte_load(words, (uint32_t)(ghost % GHOSTS)) == tag;
    byte_store(words, (uint32_t)(ghost % GHOSTS), tag);
    uint32_t regret = regret_after(segment, again);
    return again || regret > REGRET_MAX || hs_load_relaxed(&segment->header->kept) < COLD_UNITS;
}

void hs_heat_kept(const hs_segment *segment, uint32_t units) {
    hs_store_relaxed(&segment->header->kept, units);
}
