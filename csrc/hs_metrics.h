/* hs_metrics.h - what the processes of a store count and measure, each in a set of its own, and all of it together.
 *
 *   slot    0      1      2     ...   1023   | coordinator
 *         | set  | set  | set | ... |  set  |     set     |     16 KiB each, in memory from the slot's first use on
 *
 * Invariant: a set is never emptied. Its slot's owners go on one where the other stopped, so the sum over all sets only grows,
 * whoever leaves or dies, and wherever: what is lost with a process is what it was adding just then. */
#ifndef HS_METRICS_H
#define HS_METRICS_H
#include "hs_histogram.h"
#include "hs_segment.h"

static inline hs_metrics *hs_metrics_coordinator(const hs_segment *segment) {
    return &segment->metrics[HS_PARTICIPANTS];
}

/* With the lock of the engine that owns the set; nothing where there is no set. */
static inline void hs_metrics_count(hs_metrics *metrics, enum hs_counter counter, uint64_t more) {
    if (metrics != NULL) hs_word_raise(&metrics->counters[counter], more);
}
static inline void hs_metrics_measure(hs_metrics *metrics, enum hs_measure measure, uint64_t value) {
    if (metrics != NULL) hs_histogram_add(&metrics->histograms[measure], value);
}

/* All sets together. */
void hs_metrics_sum(const hs_segment *segment, hs_metrics_totals *out);
/* One counter of all sets. */
uint64_t hs_metrics_counter(const hs_segment *segment, enum hs_counter counter);
#endif
