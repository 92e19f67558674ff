/* hs_metrics.c - the sums. */
#include "hs_metrics.h"

/* The set of a slot, or NULL where there never was one. */
static const hs_metrics *metrics_of(const hs_segment *segment, uint32_t n) {
    bool there = n == HS_PARTICIPANTS || hs_load32_acquire(&segment->participants[n].metrics_allocated) != 0;
    return there ? &segment->metrics[n] : NULL;
}

void hs_metrics_sum(const hs_segment *segment, hs_metrics_totals *out) {
    memset(out, 0, sizeof *out);
    for (uint32_t n = 0; n <= HS_PARTICIPANTS; n++) {
        const hs_metrics *metrics = metrics_of(segment, n);
        if (metrics == NULL) continue;
        for (uint32_t i = 0; i < HS_COUNTERS; i++) out->counters[i] += hs_load_relaxed(&metrics->counters[i]);
        for (uint32_t i = 0; i < HS_HISTOGRAMS; i++)
            hs_histogram_sum(&metrics->histograms[i], &out->measured[i]);
    }
}

uint64_t hs_metrics_counter(const hs_segment *segment, enum hs_counter counter) {
    uint64_t sum = 0;
    for (uint32_t n = 0; n <= HS_PARTICIPANTS; n++) {
        const hs_metrics *metrics = metrics_of(segment, n);
        if (metrics != NULL) sum += hs_load_relaxed(&metrics->counters[counter]);
    }
    return sum;
}
