/*
 * One-key commits in a loop in C: what the core takes without Python and cffi.
 *
 * bench/bench_hash.py compiles this, hands over hs_commit_one of the module that is measured, and holds the clock.
 */
#include <stdint.h>
#include <string.h>

typedef int64_t commit_function(void *call, void *branch, const uint8_t *base, const uint8_t *key,
                                size_t key_size, const uint8_t *value, size_t value_size);

/*
 * `keys` and `values` stand back to back. `base` {root[32], u64 incarnation} goes on from `record`, which has it at
 * byte 16. Returns how many were committed: fewer than `count` where one failed or asked for something, in *last, or
 * where the caller is to look after the store (`look_after` is set in *last).
 */
uint32_t bench_commits(commit_function *commit, void *call, void *branch, uint8_t *base,
                       const uint8_t *record, const uint8_t *keys, uint32_t key_size, const uint8_t *values,
                       uint32_t value_size, uint32_t count, uint32_t look_after, int64_t *last) {
    for (uint32_t i = 0; i < count; i++) {
        *last = commit(call, branch, base, keys + (size_t)i * key_size, key_size,
                       values + (size_t)i * value_size, value_size);
        if (*last < 0) return i;
        memcpy(base, record + 16, 40);
        if (*last & look_after) return i + 1;
    }
    return count;
}
