/* hs_histogram.c - the side that reads. */
#include "hs_histogram.h"

uint64_t hs_histogram_low(uint32_t bucket) {
    uint32_t parts = 1u << HS_HISTOGRAM_PART_BITS;
    if (bucket < parts) return (uint64_t)bucket << HS_HISTOGRAM_UNIT_BITS;
    uint32_t shift = bucket / parts - 1;
    return (uint64_t)(parts + bucket % parts) << (shift + HS_HISTOGRAM_UNIT_BITS);
}

void hs_histogram_sum(const hs_histogram *histogram, hs_measured *sum) {
    uint64_t max = hs_load_relaxed(&histogram->max);
    sum->sum += hs_load_relaxed(&histogram->sum);
    if (max > sum->max) sum->max = max;
    for (uint32_t i = 0; i < HS_HISTOGRAM_BUCKETS; i++)
        sum->buckets[i] += hs_load_relaxed(&histogram->buckets[i]);
}
