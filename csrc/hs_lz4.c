/* hs_lz4.c - the encoder of LZ4 blocks. See hs_lz4.h. */
#include "hs_lz4.h"
#include <string.h>

#define MATCH_MIN 4u
#define TAIL 12u /* no match begins in the last 12 bytes, and none goes into the last 5: the format's rule */
#define TAIL_RAW    5u
#define CANDIDATES  3   /* compared at a position */
#define GOOD_ENOUGH 16u /* a match of this length is not put off */
#define SKIP_SHIFT  6   /* after 64 positions without a match, every second one is looked at, and so on */
#define SAMPLES     8u
#define RANDOM_MIN  49u /* different bytes among 64: random ones have 57 +- 2, text about 30 */

typedef struct encoder {
    hs_lz4_table *table;
    const uint8_t *raw;
    uint32_t size, match_end; /* where the last match may end */
    uint8_t *to, *to_end;
} encoder;

static bool looks_random(const uint8_t *raw, size_t size) {
    uint64_t seen[4] = {0};
    for (size_t i = 0; i < SAMPLES; i++) {
        uint64_t sample = hs_load_u64(raw + (size - 8) / (SAMPLES - 1) * i);
        for (int k = 0; k < 8; k++, sample >>= 8) seen[sample >> 6 & 3] |= UINT64_C(1) << (sample & 63);
    }
    int different = 0;
    for (int i = 0; i < 4; i++) different += __builtin_popcountll(seen[i]);
    return different >= (int)RANDOM_MIN;
}

static uint32_t load_u32(const uint8_t *from) {
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

/* Of five bytes: matches of four save hardly anything, and crowd out longer ones. */
static uint32_t hash_at(const uint8_t *from) {
    uint64_t five = hs_load_u64(from) << 24;
    return (uint32_t)(five * UINT64_C(0x9e3779b97f4a7c15) >> (64 - HS_LZ4_HASH_BITS));
}

/* Bytes that are the same from a and b on, up to where b ends. */
static uint32_t same_bytes(const uint8_t *a, const uint8_t *b, const uint8_t *b_end) {
    const uint8_t *start = b;
    while (b + 8 <= b_end) {
        uint64_t differ = hs_load_u64(a) ^ hs_load_u64(b);
        if (differ != 0) return (uint32_t)(b - start) + (uint32_t)__builtin_ctzll(differ) / 8;
        a += 8;
        b += 8;
    }
    while (b < b_end && *a == *b) {
        a++;
        b++;
    }
    return (uint32_t)(b - start);
}

/* Enter a position; returns how far back the one before it with the same hash lies, 0 if there is none in the window. */
static uint32_t enter(const encoder *e, uint32_t at) {
    hs_lz4_table *table = e->table;
    uint32_t *head = &table->heads[hash_at(e->raw + at)], now = table->base + at, back = now - *head;
    if (*head < table->base || back >= HS_LZ4_WINDOW) back = 0;
    *head = now;
    table->chain[at % HS_LZ4_WINDOW] = (uint16_t)back;
    return back;
}

/* The longest match for the position among the newest candidates, entering it; its length, and how far back it lies. */
static inline __attribute__((always_inline)) uint32_t longest(const encoder *e, uint32_t at,
                                                              uint32_t *offset) {
    const uint8_t *here = e->raw + at, *end = e->raw + e->match_end;
    uint32_t best = 0, from = at, first = load_u32(here);
    uint32_t back = enter(e, at);
    for (int i = 0; i < CANDIDATES && back != 0; i++) {
        from -= back;
        if (at - from >= HS_LZ4_WINDOW) break;
        const uint8_t *there = e->raw + from;
        if (load_u32(there) == first && (best == 0 || there[best] == here[best])) {
            uint32_t length = MATCH_MIN + same_bytes(there + MATCH_MIN, here + MATCH_MIN, end);
            if (length > best) {
                best = length;
                *offset = at - from;
                if (here + length == end) break;
            }
        }
        back = e->table->chain[from % HS_LZ4_WINDOW];
    }
    return best;
}

/* Bytes that a length takes beyond its four bits of the token. */
static size_t more_size(uint32_t length) { return length < 15 ? 0 : (length - 15) / 255 + 1; }

static uint8_t *put_more(uint8_t *to, uint32_t length) {
    for (; length >= 255; length -= 255) *to++ = 255;
    *to++ = (uint8_t)length;
    return to;
}

/* A sequence of literals and a match; length 0: the last, without one. False: no room. */
static bool put(encoder *e, uint32_t from, uint32_t literals, uint32_t length, uint32_t offset) {
    size_t needed = 1 + more_size(literals) + literals + (length > 0 ? 2 + more_size(length - MATCH_MIN) : 0);
    if (needed > (size_t)(e->to_end - e->to)) return false;
    uint8_t *token = e->to, *to = token + 1;
    *token = (uint8_t)((literals < 15 ? literals : 15) << 4);
    if (literals >= 15) to = put_more(to, literals - 15);
    memcpy(to, e->raw + from, literals);
    to += literals;
    if (length > 0) {
        *to++ = (uint8_t)offset;
        *to++ = (uint8_t)(offset >> 8);
        length -= MATCH_MIN;
        *token |= (uint8_t)(length < 15 ? length : 15);
        if (length >= 15) to = put_more(to, length - 15);
    }
    e->to = to;
    return true;
}

static bool encode(encoder *e) {
    uint32_t at = 0, anchor = 0, last = e->size - TAIL, misses = 0;
    while (at <= last) {
        uint32_t offset = 0, later_offset = 0;
        uint32_t length = longest(e, at, &offset);
        if (length == 0) {
            at += 1 + (misses++ >> SKIP_SHIFT);
            continue;
        }
        misses = 0;
        while (length < GOOD_ENOUGH && at < last) { /* is there a better one a byte later? */
            uint32_t later = longest(e, at + 1, &later_offset);
            if (later <= length) break;
            at++;
            length = later;
            offset = later_offset;
        }
        uint32_t before = at;
        while (at > anchor && at > offset && e->raw[at - 1] == e->raw[at - 1 - offset]) {
            at--;
            length++;
        }
        if (!put(e, anchor, at - anchor, length, offset)) return false;
        anchor = at += length;
        if (before + 2 < at && before + 2 <= last)
            enter(e, before + 2); /* two places of a match are enough */
        if (before + 4 < at && at - 2 <= last) enter(e, at - 2);
    }
    return put(e, anchor, e->size - anchor, 0, 0);
}

size_t hs_lz4_encode(hs_lz4_table *table, const uint8_t *raw, size_t size, uint8_t *stored, size_t capacity) {
    if (size < 4 * TAIL || size > HS_LZ4_RAW_MAX || looks_random(raw, size)) return 0;
    if (table->base == 0 || table->base > UINT32_MAX - 2 * HS_LZ4_RAW_MAX) {
        memset(table->heads, 0, sizeof table->heads);
        table->base = 1;
    }
    encoder e = {.table = table,
                 .raw = raw,
                 .size = (uint32_t)size,
                 .match_end = (uint32_t)size - TAIL_RAW,
                 .to = stored,
                 .to_end = stored + capacity};
    bool fits = encode(&e);
    table->base += (uint32_t)size;
    return fits ? (size_t)(e.to - stored) : 0;
}
