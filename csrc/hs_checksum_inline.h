/*
 * hs_checksum_inline: the sum's inner parts, for whoever sums what it has in its hands for another reason:
 * hs_checksum.c, and hs_blake3*.c, whose hash of a message leaves most of the processor idle. Definitions are in
 * hs_checksum.h.
 */
#ifndef HS_CHECKSUM_INLINE_H
#define HS_CHECKSUM_INLINE_H

#include "hs_checksum.h"

#define GOLDEN UINT64_C(0x9E3779B97F4A7C15)
#define P0     UINT64_C(0x243F6A8885A308D3)
#define P1     UINT64_C(0x13198A2E03707344)
#define P2     UINT64_C(0xA4093822299F31D0)
#define P3     UINT64_C(0x082EFA98EC4E6C89)
#define P4     UINT64_C(0x452821E638D01377)
#define P5     UINT64_C(0xBE5466CF34E90C6C)
#define P6     UINT64_C(0xC0AC29B7C97C50DD)
#define P7     UINT64_C(0x3F84D5B5B5470917)

static inline uint64_t fold(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t rotl32(uint64_t x) { return x << 32 | x >> 32; }

static inline uint64_t absorb(uint64_t acc, uint64_t k, uint64_t x, uint64_t y) {
    return fold(x ^ k, y ^ acc) + rotl32(acc);
}

/* One word, read once: the compiler may not go back to memory that another process can change. */
static inline uint64_t take(const uint8_t *src) {
    uint64_t word = hs_load_u64(src);
    __asm__("" : "+r"(word));
    return word;
}

typedef struct sum_state {
    uint64_t a0, a1, a2, a3, k0, k1, k2, k3;
} sum_state;

/* 16 bytes into an accumulator; with `copy` (a constant at each call) they are stored to dst as well. */
static inline __attribute__((always_inline)) uint64_t absorb_at(uint64_t acc, uint64_t k, bool copy,
                                                                uint8_t *dst, const uint8_t *src) {
    uint64_t x = take(src), y = take(src + 8);
    if (copy) {
        hs_store_u64(dst, x);
        hs_store_u64(dst + 8, y);
    }
    return absorb(acc, k, x, y);
}

/* Without a copy there is no dst to go on from. */
static inline uint8_t *further(bool copy, uint8_t *dst, size_t bytes) { return copy ? dst + bytes : NULL; }

static inline __attribute__((always_inline)) void sum_stripe(sum_state *s, bool copy, uint8_t *dst,
                                                             const uint8_t *src) {
    s->a0 = absorb_at(s->a0, s->k0, copy, dst, src);
    s->a1 = absorb_at(s->a1, s->k1, copy, further(copy, dst, 16), src + 16);
    s->a2 = absorb_at(s->a2, s->k2, copy, further(copy, dst, 32), src + 32);
    s->a3 = absorb_at(s->a3, s->k3, copy, further(copy, dst, 48), src + 48);
}

static inline sum_state sum_begin(const uint64_t seed[2]) {
    return (sum_state){seed[0] ^ P4, seed[0] ^ P5, seed[0] ^ P6, seed[0] ^ P7,
                       seed[1] ^ P0, seed[1] ^ P1, seed[1] ^ P2, seed[1] ^ P3};
}

static inline uint64_t sum_end(const sum_state *s, size_t size) {
    uint64_t h = fold(s->a0 ^ size, s->a1 ^ s->k2) + fold(s->a2 ^ s->k3, s->a3 ^ GOLDEN) +
                 rotl32(s->a0 + s->a2) + (s->a1 ^ s->a3);
    return fold(h ^ s->k0, h ^ GOLDEN) + h + size;
}

/* The last size < 64 bytes, padded with zeros: through a private buffer, which is then what is summed and what is stored. */
static inline void sum_rest(sum_state *s, bool copy, uint8_t *dst, const uint8_t *src, size_t size) {
    if (size == 0) return;
    uint8_t last[64] = {0};
    memcpy(last, src, size);
    __asm__("" : : "r"(last) : "memory");
    if (copy) memcpy(dst, last, size);
    sum_stripe(s, false, last, last);
}

#endif
