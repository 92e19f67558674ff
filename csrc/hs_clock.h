/* hs_clock.h - the clocks, in nanoseconds. CLOCK_MONOTONIC is one clock for all processes of a boot, and so of a segment. */
#ifndef HS_CLOCK_H
#define HS_CLOCK_H
#include <stdint.h>
#include <time.h>

static inline uint64_t hs_clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}
#endif
