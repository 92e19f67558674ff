/* hs_futex.h - sleep on a shared 32-bit word, and wake sleepers; across processes, so never the private kind.
 *
 * A futex only saves time: every wait here has a time-out, and whoever wakes looks at the words again. */
#ifndef HS_FUTEX_H
#define HS_FUTEX_H
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "hs_atomic.h"

#define HS_WAIT_MS_MAX 50u /* nothing in C sleeps longer in one call */

/* The half of a 64-bit word that changes with it (the low one: little-endian). */
static inline hs_word32 *hs_futex_half(hs_word *word) { return (hs_word32 *)(void *)word; }

/* Sleep while *word is `expected`, at most wait_us (bounded by HS_WAIT_MS_MAX). False: the time is over. */
static inline bool hs_futex_wait_us(hs_word32 *word, uint32_t expected, uint64_t wait_us) {
    uint64_t us = wait_us < HS_WAIT_MS_MAX * 1000u ? wait_us : HS_WAIT_MS_MAX * 1000u;
    struct timespec limit = {.tv_sec = 0, .tv_nsec = (long)us * 1000L};
    return syscall(SYS_futex, word, FUTEX_WAIT, expected, &limit, NULL, 0) == 0 || errno != ETIMEDOUT;
}

static inline bool hs_futex_wait(hs_word32 *word, uint32_t expected, unsigned wait_ms) {
    return hs_futex_wait_us(word, expected, (uint64_t)wait_ms * 1000u);
}

static inline void hs_futex_wake_all(hs_word32 *word) {
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
#endif
