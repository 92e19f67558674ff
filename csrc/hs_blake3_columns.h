/*
 * hs_blake3_columns: eight compressions side by side, word i of all eight in one 256-bit vector. A template:
 * hs_blake3_x86.c includes it once for each instruction set, after defining
 *
 *   COLUMNS(name)           the name with this instance's suffix
 *   COLUMNS_FN              static inline, always, with the target
 *   ROT16 ROT12 ROT8 ROT7   rotations to the right of eight 32-bit words
 *
 *             lane 0  lane 1 ..  lane 7
 *   v[0]       cv0     cv0        cv0        no shuffle inside the rounds; the price is turning the input
 *   v[1]       cv1     cv1        cv1        and output round, which transpose() does four words at a time
 *   ..
 */

/* Words 0..3 of lanes 0..7, as x[i] = lane i | lane i + 4, to one vector a word; it is its own inverse. */
COLUMNS_FN void COLUMNS(transpose)(__m256i x[4]) {
    __m256i a = _mm256_unpacklo_epi32(x[0], x[1]), b = _mm256_unpackhi_epi32(x[0], x[1]);
    __m256i c = _mm256_unpacklo_epi32(x[2], x[3]), d = _mm256_unpackhi_epi32(x[2], x[3]);
    x[0] = _mm256_unpacklo_epi64(a, c);
    x[1] = _mm256_unpackhi_epi64(a, c);
    x[2] = _mm256_unpacklo_epi64(b, d);
    x[3] = _mm256_unpackhi_epi64(b, d);
}

COLUMNS_FN __m256i COLUMNS(load2)(const void *lane, const void *lane4) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)lane)),
                                   _mm_loadu_si128((const __m128i *)lane4), 1);
}

COLUMNS_FN void COLUMNS(store2)(void *lane, void *lane4, __m256i x) {
    _mm_storeu_si128((__m128i *)lane, _mm256_castsi256_si128(x));
    _mm_storeu_si128((__m128i *)lane4, _mm256_extracti128_si256(x, 1));
}

/* clang-format off */
#define G(a, b, c, d, x, y)                                             \
    do {                                                                \
        v[a] = _mm256_add_epi32(_mm256_add_epi32(v[a], m[x]), v[b]);    \
        v[d] = ROT16(_mm256_xor_si256(v[d], v[a]));                     \
        v[c] = _mm256_add_epi32(v[c], v[d]);                            \
        v[b] = ROT12(_mm256_xor_si256(v[b], v[c]));                     \
        v[a] = _mm256_add_epi32(_mm256_add_epi32(v[a], m[y]), v[b]);    \
        v[d] = ROT8(_mm256_xor_si256(v[d], v[a]));                      \
        v[c] = _mm256_add_epi32(v[c], v[d]);                            \
        v[b] = ROT7(_mm256_xor_si256(v[b], v[c]));                      \
    } while (0)
/* clang-format on */

/*
 * cv -> next cv; v[12..15] come in as counter low, counter high, size, flags; all else of v is overwritten.
 */
COLUMNS_FN void COLUMNS(compress)(__m256i cv[8], const __m256i m[16], __m256i v[16]) {
    for (int i = 0; i < 8; i++) v[i] = cv[i];
    for (int i = 0; i < 4; i++) v[8 + i] = _mm256_set1_epi32((int)hs_b3_iv[i]);
    HS_B3_ROUNDS();
    for (int i = 0; i < 8; i++) cv[i] = _mm256_xor_si256(v[i], v[i + 8]);
}

#undef G

/* One block of each lane to m. */
COLUMNS_FN void COLUMNS(load_blocks)(const uint8_t *const block[8], __m256i m[16]) {
    for (int q = 0; q < 4; q++) {
        for (int i = 0; i < 4; i++) m[4 * q + i] = COLUMNS(load2)(block[i] + 16 * q, block[i + 4] + 16 * q);
        COLUMNS(transpose)(m + 4 * q);
    }
}

/* n <= 8 lanes; the lanes that are not there repeat the first one and keep their result to themselves. */
COLUMNS_FN void COLUMNS(step)(const hs_b3_lane *lane, size_t n) {
    hs_b3_spread l;
    hs_b3_spread_lanes(&l, lane, n, 8);
    __m256i cv[8], m[16], v[16];
    COLUMNS(load_blocks)(l.block, m);
    for (int i = 0; i < 4; i++) {
        cv[i] = COLUMNS(load2)(l.from[i], l.from[i + 4]);
        cv[4 + i] = COLUMNS(load2)(l.from[i] + 16, l.from[i + 4] + 16);
        v[12 + i] = COLUMNS(load2)(l.row3[i], l.row3[i + 4]);
    }
    COLUMNS(transpose)(cv);
    COLUMNS(transpose)(cv + 4);
    COLUMNS(transpose)(v + 12);
    COLUMNS(compress)(cv, m, v);
    COLUMNS(transpose)(cv);
    COLUMNS(transpose)(cv + 4);
    for (int i = 0; i < 4; i++) {
        COLUMNS(store2)(l.to[i], l.to[i + 4], cv[i]);
        COLUMNS(store2)(l.to[i] + 16, l.to[i + 4] + 16, cv[4 + i]);
    }
}

COLUMNS_FN void COLUMNS(chunks)(const uint8_t *in, uint64_t counter, uint8_t *out) {
    __m256i cv[8], m[16], v[16], low, high;
    uint32_t counters[2][8];
    const uint8_t *block[8];
    for (uint32_t i = 0; i < 8; i++) {
        counters[0][i] = (uint32_t)(counter + i);
        counters[1][i] = (uint32_t)((counter + i) >> 32);
        block[i] = in + i * HS_BLAKE3_CHUNK;
        cv[i] = _mm256_set1_epi32((int)hs_b3_iv[i]);
    }
    low = _mm256_loadu_si256((const __m256i *)counters[0]);
    high = _mm256_loadu_si256((const __m256i *)counters[1]);
    for (int b = 0; b < 16; b++) {
        COLUMNS(load_blocks)(block, m);
        v[12] = low;
        v[13] = high;
        v[14] = _mm256_set1_epi32(HS_BLAKE3_BLOCK);
        v[15] = _mm256_set1_epi32(b == 0 ? HS_B3_CHUNK_START : b == 15 ? HS_B3_CHUNK_END : 0);
        COLUMNS(compress)(cv, m, v);
        for (int i = 0; i < 8; i++) block[i] += HS_BLAKE3_BLOCK;
    }
    COLUMNS(transpose)(cv);
    COLUMNS(transpose)(cv + 4);
    for (int i = 0; i < 4; i++) {
        COLUMNS(store2)(out + 32 * i, out + 32 * (i + 4), cv[i]);
        COLUMNS(store2)(out + 32 * i + 16, out + 32 * (i + 4) + 16, cv[4 + i]);
    }
}

#undef COLUMNS
#undef COLUMNS_FN
#undef ROT16
#undef ROT12
#undef ROT8
#undef ROT7
