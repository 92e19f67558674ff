/*
 * hs_base: the ground everything in csrc/ stands on.
 *
 * Branch hints, alignment, and loads and stores of canonical (little-endian) integers at any address. Pure, no state; every file may use it.
 *
 * Invariant: the machine is little-endian with 64-bit pointers, so a canonical integer is a native one and an
 * unaligned load is a memcpy. Anything else is refused here, when compiling.
 */
#ifndef HS_BASE_H
#define HS_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "helios_shm needs a little-endian machine");
_Static_assert(sizeof(void *) == 8 && sizeof(size_t) == 8, "helios_shm needs a 64-bit machine");

#define HS_LIKELY(x)   __builtin_expect(!!(x), 1)
#define HS_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Smallest multiple of `align` (a power of two) that is >= n; n must leave room for it. */
static inline uint64_t hs_align_up(uint64_t n, uint64_t align) { return (n + align - 1) & ~(align - 1); }

static inline uint16_t hs_load_u16(const void *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint32_t hs_load_u32(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint64_t hs_load_u64(const void *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void hs_store_u16(void *p, uint16_t v) { memcpy(p, &v, sizeof v); }
static inline void hs_store_u32(void *p, uint32_t v) { memcpy(p, &v, sizeof v); }
static inline void hs_store_u64(void *p, uint64_t v) { memcpy(p, &v, sizeof v); }

#endif
