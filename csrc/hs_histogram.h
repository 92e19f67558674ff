/* hs_histogram.h - how often values of each size came, so that percentiles are known without keeping the values.
 *
 *   bucket   0 .. 7          8 .. 15                16 .. 23                    ...  240 .. 247
 *   from     0, 128 .. 896   1024, 1152 .. 1920     2048, 2304 .. 3840          ...  2^39 .. 2^39 * 15/8, and all above
 *
 * Linear within a power of two, eight parts each: a value differs from the middle of its bucket by a sixteenth of itself at most
 * (by 64 where it is below 1024). In nanoseconds that is 1 us to 18 minutes.
 *
 * Each is written by one process at a time, with its engine's lock held; others read. So additions are plain loads and
 * stores, and a sum that is read meanwhile may lag behind the buckets by what is being added. */
#ifndef HS_HISTOGRAM_H
#define HS_HISTOGRAM_H
#include "hs_layout.h"

#define HS_HISTOGRAM_UNIT_BITS 7u /* what is below 128 is one bucket */
#define HS_HISTOGRAM_PART_BITS 3u /* eight parts of a power of two */

/* The bucket that a value falls into. */
static inline uint32_t hs_histogram_bucket(uint64_t value) {
    uint64_t units = value >> HS_HISTOGRAM_UNIT_BITS;
    if (units < (1u << HS_HISTOGRAM_PART_BITS)) return (uint32_t)units;
    uint32_t shift = 63u - (uint32_t)__builtin_clzll(units) - HS_HISTOGRAM_PART_BITS;
    uint32_t bucket = (shift << HS_HISTOGRAM_PART_BITS) + (uint32_t)(units >> shift);
    return bucket < HS_HISTOGRAM_BUCKETS ? bucket : HS_HISTOGRAM_BUCKETS - 1;
}

/* More in a word that one process at a time writes. */
static inline void hs_word_raise(hs_word *word, uint64_t more) {
    hs_store_relaxed(word, hs_load_relaxed(word) + more);
}

static inline void hs_histogram_add(hs_histogram *histogram, uint64_t value) {
    hs_word_raise(&histogram->buckets[hs_histogram_bucket(value)], 1);
    hs_word_raise(&histogram->sum, value);
    if (value > hs_load_relaxed(&histogram->max)) hs_store_relaxed(&histogram->max, value);
}

/* Add what a histogram holds to a sum of histograms. */
void hs_histogram_sum(const hs_histogram *histogram, hs_measured *sum);
#endif
