/* hs_checksum: see the header for both definitions. */
#include "hs_checksum_inline.h"

static inline __attribute__((always_inline)) uint64_t sum(const uint64_t seed[2], bool copy, uint8_t *dst,
                                                          const uint8_t *src, size_t size) {
    sum_state s = sum_begin(seed);
    size_t left = size;
    for (; left >= 64; left -= 64, src += 64, dst = further(copy, dst, 64)) sum_stripe(&s, copy, dst, src);
    sum_rest(&s, copy, dst, src, left);
    return sum_end(&s, size);
}

uint64_t hs_checksum(const uint64_t seed[2], const void *data, size_t size) {
    return sum(seed, false, NULL, data, size);
}

uint64_t hs_checksum_48(const uint64_t seed[2], const void *data) {
    const uint8_t *src = data;
    sum_state s = sum_begin(seed);
    s.a0 = absorb_at(s.a0, s.k0, false, NULL, src);
    s.a1 = absorb_at(s.a1, s.k1, false, NULL, src + 16);
    s.a2 = absorb_at(s.a2, s.k2, false, NULL, src + 32);
    s.a3 = absorb(s.a3, s.k3, 0, 0);
    return sum_end(&s, 48);
}

uint64_t hs_checksum_copy(const uint64_t seed[2], void *dst, const void *src, size_t size) {
    return sum(seed, true, dst, src, size);
}

/* The first size < 16 bytes at key, padded with zeros, as two words; reads nothing beyond them. */
static inline void load_short(const uint8_t *key, size_t size, uint64_t *x, uint64_t *y) {
    *y = 0;
    if (size >= 8) {
        *x = hs_load_u64(key);
        if (size > 8) *y = hs_load_u64(key + size - 8) >> (8 * (16 - size));
    } else if (size >= 4) {
        *x = hs_load_u32(key) | (uint64_t)hs_load_u32(key + size - 4) << (8 * (size - 4));
    } else {
        *x = 0;
        for (size_t i = 0; i < size; i++) *x |= (uint64_t)key[i] << (8 * i);
    }
}

uint64_t hs_key_hash(const void *key, size_t size) {
    const uint8_t *at = key;
    uint64_t h = P0 + size * GOLDEN, x, y;
    if (size < 16) {
        load_short(at, size, &x, &y);
    } else {
        const uint8_t *last = at + size - 16;
        for (; at < last; at += 16) h = absorb(h, P1, hs_load_u64(at), hs_load_u64(at + 8));
        x = hs_load_u64(last);
        y = hs_load_u64(last + 8);
    }
    h = absorb(h, P1, x, y);
    return fold(h ^ P2, P3 ^ size) + h;
}

uint64_t hs_key_hash_level(uint64_t key_hash, unsigned level) {
    uint64_t z = key_hash + ((uint64_t)level + 1) * GOLDEN;
    z = (z ^ z >> 32) * P7;
    z = (z ^ z >> 29) * P3;
    return z ^ z >> 32;
}
