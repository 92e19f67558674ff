/*
 * hs_checksum: the 64-bit sum of a ring entry, and the hash that places node boundaries. Both are
 * multiply-folds:
 *
 *     fold(a, b) = low 64 bits of a*b  XOR  high 64 bits of a*b         (128-bit product)
 *
 * The sum is private to a segment: seeded, native, free to change with the layout fingerprint.
 * The key hash is canonical: node boundaries, hence ids, follow from it, on every machine and for ever.
 * Neither resists someone who chooses the bytes; the sum finds torn and stray bytes, and BLAKE3 says what is
 * true.
 *
 * Constants: golden = 9E3779B97F4A7C15; P0.. = the hexadecimal digits of the fraction of pi, 16 at a time:
 *   P0 243F6A8885A308D3   P1 13198A2E03707344   P2 A4093822299F31D0   P3 082EFA98EC4E6C89
 *   P4 452821E638D01377   P5 BE5466CF34E90C6C   P6 C0AC29B7C97C50DD   P7 3F84D5B5B5470917
 *
 * Sum: four accumulators, each taking 16 bytes of every 64-byte stripe.
 *
 *     | x0 x1 | x2 x3 | x4 x5 | x6 x7 |      acc[i] = fold(x[2i] ^ k[i], x[2i+1] ^ acc[i]) + rotl(acc[i], 32)
 *       acc0    acc1    acc2    acc3         the second term carries on what came before even where the
 *                                            product is zero; the last stripe is padded with zeros and the
 *                                            size is folded in at the end.
 *
 * Pure, no state; any thread. Who may call it: everyone.
 */
#ifndef HS_CHECKSUM_H
#define HS_CHECKSUM_H

#include "hs_base.h"

/* Sum of `size` bytes at any alignment; data may be NULL if size is 0. */
uint64_t hs_checksum(const uint64_t seed[2], const void *data, size_t size);

/* hs_checksum of 48 bytes that nobody else changes: what an entry's header has, several times a commit. */
uint64_t hs_checksum_48(const uint64_t seed[2], const void *data);

/*
 * Copies `size` bytes from src to dst (not overlapping) and returns the sum of what it wrote. The source may
 * be changed by another process meanwhile: each byte that enters the sum is the very byte that was stored.
 */
uint64_t hs_checksum_copy(const uint64_t seed[2], void *dst, const void *src, size_t size);

/*
 * Canonical 64-bit hash of a key; part of the node format. Integers are little-endian, arithmetic is modulo
 * 2^64.
 *
 *   blocks   size <= 16: one block, the key padded with zeros to 16 bytes;
 *            size  > 16: bytes [0,16), [16,32), .. while more than 16 bytes remain, then the last 16 bytes
 *            of the key (they may overlap the block before).
 *   h = P0 + size * golden
 *   for each block, as two words x, y:   h = fold(x ^ P1, y ^ h) + rotl(h, 32)
 *   hash = fold(h ^ P2, P3 ^ size) + h
 */
uint64_t hs_key_hash(const void *key, size_t size);

/*
 * The hash that a key shows at a level of the tree (leaves are level 0); part of the node format. For each
 * level a bijection of key hashes, so keys tie at a level only where their hashes are equal.
 *
 *   z = key_hash + (level + 1) * golden
 *   z = (z ^ z >> 32) * P7;   z = (z ^ z >> 29) * P3;   result = z ^ z >> 32
 */
uint64_t hs_key_hash_level(uint64_t key_hash, unsigned level);

#endif
