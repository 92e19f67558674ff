/* hs_randomness.c - would compressing these bytes be in vain? A guess from a sample, for whoever asks before he tries. Pure.
 *
 *   value | 8 bytes ..... 8 bytes ..... 8 bytes ..... (8 samples, evenly spread)     ->  how many of the 64 bytes differ
 *
 * Random bytes have 57 +- 2 different ones among 64, text about 30. */
#include "helios_shm.h"
#include "hs_base.h"

#define SAMPLES       8u
#define SAMPLE_BYTES  8u
#define DIFFERENT_MIN 49 /* of 64 */

int hs_looks_random(const uint8_t *bytes, size_t size) {
    uint64_t seen[4] = {0};
    if (size < SAMPLES * SAMPLE_BYTES) return 0;
    for (size_t i = 0; i < SAMPLES; i++) {
        uint64_t sample = hs_load_u64(bytes + (size - SAMPLE_BYTES) / (SAMPLES - 1) * i);
        for (unsigned k = 0; k < SAMPLE_BYTES; k++, sample >>= 8)
            seen[sample >> 6 & 3] |= UINT64_C(1) << (sample & 63);
    }
    int different = 0;
    for (int i = 0; i < 4; i++) different += __builtin_popcountll(seen[i]);
    return different >= DIFFERENT_MIN;
}
