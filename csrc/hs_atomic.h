/* hs_atomic.h - C11 atomics with the memory order in the name.
 *
 * Everything that two processes touch goes through these functions; a bare atomic elsewhere is an error that the style
 * test finds. Both ends of each edge carry the same label (E1, E2 ... in docs/CONCURRENCY.md) in a comment at the call.
 */
#ifndef HS_ATOMIC_H
#define HS_ATOMIC_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2,
               "64-bit words must be lock-free: they are shared between processes");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2,
               "32-bit words must be lock-free: they are shared between processes");

/* The shared words are declared with these types in hs_layout.h. */
typedef _Atomic uint64_t hs_word;
typedef _Atomic uint32_t hs_word32;

/* Relaxed: counters and hints whose value decides nothing that another word does not confirm. */
static inline uint64_t hs_load_relaxed(const hs_word *word) {
    return atomic_load_explicit((hs_word *)word, memory_order_relaxed);
}
static inline uint64_t hs_load_acquire(const hs_word *word) {
    return atomic_load_explicit((hs_word *)word, memory_order_acquire);
}
static inline void hs_store_relaxed(hs_word *word, uint64_t value) {
    atomic_store_explicit(word, value, memory_order_relaxed);
}
static inline void hs_store_release(hs_word *word, uint64_t value) {
    atomic_store_explicit(word, value, memory_order_release);
}
static inline uint64_t hs_add_relaxed(hs_word *word, uint64_t value) {
    return atomic_fetch_add_explicit(word, value, memory_order_relaxed);
}
static inline uint64_t hs_add_seq_cst(hs_word *word, uint64_t value) {
    return atomic_fetch_add_explicit(word, value, memory_order_seq_cst);
}
/* Strong compare-and-swap, sequentially consistent on success and acquire on failure; *expected receives what was found. */
static inline bool hs_cas_seq_cst(hs_word *word, uint64_t *expected, uint64_t desired) {
    return atomic_compare_exchange_strong_explicit(word, expected, desired, memory_order_seq_cst,
                                                   memory_order_acquire);
}
static inline uint32_t hs_load32_relaxed(const hs_word32 *word) {
    return atomic_load_explicit((hs_word32 *)word, memory_order_relaxed);
}
static inline uint32_t hs_load32_acquire(const hs_word32 *word) {
    return atomic_load_explicit((hs_word32 *)word, memory_order_acquire);
}
static inline void hs_store32_relaxed(hs_word32 *word, uint32_t value) {
    atomic_store_explicit(word, value, memory_order_relaxed);
}
static inline void hs_store32_release(hs_word32 *word, uint32_t value) {
    atomic_store_explicit(word, value, memory_order_release);
}
static inline uint32_t hs_add32_seq_cst(hs_word32 *word, uint32_t value) {
    return atomic_fetch_add_explicit(word, value, memory_order_seq_cst);
}
static inline bool hs_cas32_seq_cst(hs_word32 *word, uint32_t *expected, uint32_t desired) {
    return atomic_compare_exchange_strong_explicit(word, expected, desired, memory_order_seq_cst,
                                                   memory_order_acquire);
}

/* Two words that change together. Each may be loaded alone; what two loads have seen was one state only if a swap confirms it. */
typedef struct hs_pair {
    _Alignas(16) hs_word low;
    hs_word high;
} hs_pair;
_Static_assert(sizeof(hs_pair) == 16, "a pair has no padding");

/* x86-64 has the instruction since its second generation of processors, and says so by this target; aarch64 always had it. */
#ifdef __x86_64__
#define HS_PAIR_TARGET __attribute__((target("cx16")))
#else
#define HS_PAIR_TARGET
#endif
/* ThreadSanitizer would put a lock of its own, which other processes do not see, in the place of the instruction. */
#define HS_PAIR_UNWATCHED __attribute__((no_sanitize("thread")))
typedef unsigned __int128 __attribute__((may_alias)) hs_pair_value;

static inline hs_pair_value hs_pair_join(uint64_t low, uint64_t high) {
    return (hs_pair_value)high << 64 | low;
}
/* Strong compare-and-swap of both words, sequentially consistent. */
HS_PAIR_TARGET HS_PAIR_UNWATCHED static inline bool hs_cas_pair_seq_cst(hs_pair *pair, hs_pair_value expected,
                                                                        hs_pair_value desired) {
    return __sync_bool_compare_and_swap((hs_pair_value *)pair, expected, desired);
}
static inline void hs_fence_acquire(void) { atomic_thread_fence(memory_order_acquire); }
static inline void hs_fence_release(void) { atomic_thread_fence(memory_order_release); }
static inline void hs_fence_seq_cst(void) { atomic_thread_fence(memory_order_seq_cst); }
#endif
