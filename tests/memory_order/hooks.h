/* hooks.h - put in front of the product's sources (gcc -include), which are compiled as they are: no copy, no seam in csrc.
 *
 *   atomics          gcc -fsanitize=thread turns each into a call, and runtime.c is what is called instead of ThreadSanitizer
 *   bytes of chunks  memcpy and memset, and with them hs_load_u64 and its like, go word by word through the explorer
 *   kernel           futexes, file locks, the clock and memory are those of runtime.c
 *   sizes            the branch table and the participants are few; the code is the same
 *
 * Each atomic operation carries the place where it stands, so that its order can be weakened for one run, by file and line. */
#ifndef HOOKS_H
#define HOOKS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "hs_atomic.h"
#include "hs_layout.h"
#include "model.h"

#undef HS_BRANCH_SLOTS
#undef HS_BRANCH_WINDOW
#undef HS_PARTICIPANTS
#define HS_BRANCH_SLOTS  8u
#define HS_BRANCH_WINDOW 4u
#define HS_PARTICIPANTS  3u

#define HOOK_HERE                                                                                            \
    ({                                                                                                       \
        static site here = {.file = __FILE_NAME__, .line = __LINE__};                                        \
        here.function = __func__;                                                                            \
        &here;                                                                                               \
    })

/* The arguments are evaluated before the place is set: they may hold operations of their own. */
#define HOOK_LOAD(type, word, name)                                                                          \
    static inline type hook_##name(site *here, const word *address) {                                        \
        model_site = here;                                                                                   \
        return hs_##name(address);                                                                           \
    }
#define HOOK_STORE(type, word, name)                                                                         \
    static inline void hook_##name(site *here, word *address, type value) {                                  \
        model_site = here;                                                                                   \
        hs_##name(address, value);                                                                           \
    }
#define HOOK_ADD(type, word, name)                                                                           \
    static inline type hook_##name(site *here, word *address, type value) {                                  \
        model_site = here;                                                                                   \
        return hs_##name(address, value);                                                                    \
    }
#define HOOK_FENCE(name)                                                                                     \
    static inline void hook_##name(site *here) {                                                             \
        model_site = here;                                                                                   \
        hs_##name();                                                                                         \
    }
HOOK_LOAD(uint64_t, hs_word, load_relaxed)
HOOK_LOAD(uint64_t, hs_word, load_acquire)
HOOK_LOAD(uint32_t, hs_word32, load32_relaxed)
HOOK_LOAD(uint32_t, hs_word32, load32_acquire)
HOOK_STORE(uint64_t, hs_word, store_relaxed)
HOOK_STORE(uint64_t, hs_word, store_release)
HOOK_STORE(uint32_t, hs_word32, store32_relaxed)
HOOK_STORE(uint32_t, hs_word32, store32_release)
HOOK_ADD(uint64_t, hs_word, add_relaxed)
HOOK_ADD(uint64_t, hs_word, add_seq_cst)
HOOK_ADD(uint32_t, hs_word32, add32_seq_cst)
HOOK_FENCE(fence_acquire)
HOOK_FENCE(fence_release)
HOOK_FENCE(fence_seq_cst)
static inline bool hook_cas_seq_cst(site *here, hs_word *word, uint64_t *expected, uint64_t desired) {
    model_site = here;
    return hs_cas_seq_cst(word, expected, desired);
}
static inline bool hook_cas32_seq_cst(site *here, hs_word32 *word, uint32_t *expected, uint32_t desired) {
    model_site = here;
    return hs_cas32_seq_cst(word, expected, desired);
}
/* The explorer's words are of eight bytes: the first of a pair is swapped, the second follows. No scenario rests on the second. */
static inline bool hook_cas_pair_seq_cst(site *here, hs_pair *pair, hs_pair_value expected,
                                         hs_pair_value desired) {
    uint64_t low = (uint64_t)expected;
    model_site = here;
    if (!hs_cas_seq_cst(&pair->low, &low, (uint64_t)desired)) return false;
    model_site = here;
    hs_store_relaxed(&pair->high, (uint64_t)(desired >> 64));
    return true;
}

#define hs_load_relaxed(word)                        hook_load_relaxed(HOOK_HERE, word)
#define hs_load_acquire(word)                        hook_load_acquire(HOOK_HERE, word)
#define hs_load32_relaxed(word)                      hook_load32_relaxed(HOOK_HERE, word)
#define hs_load32_acquire(word)                      hook_load32_acquire(HOOK_HERE, word)
#define hs_store_relaxed(word, value)                hook_store_relaxed(HOOK_HERE, word, value)
#define hs_store_release(word, value)                hook_store_release(HOOK_HERE, word, value)
#define hs_store32_relaxed(word, value)              hook_store32_relaxed(HOOK_HERE, word, value)
#define hs_store32_release(word, value)              hook_store32_release(HOOK_HERE, word, value)
#define hs_add_relaxed(word, value)                  hook_add_relaxed(HOOK_HERE, word, value)
#define hs_add_seq_cst(word, value)                  hook_add_seq_cst(HOOK_HERE, word, value)
#define hs_add32_seq_cst(word, value)                hook_add32_seq_cst(HOOK_HERE, word, value)
#define hs_cas_seq_cst(word, expected, desired)      hook_cas_seq_cst(HOOK_HERE, word, expected, desired)
#define hs_cas32_seq_cst(word, expected, desired)    hook_cas32_seq_cst(HOOK_HERE, word, expected, desired)
#define hs_cas_pair_seq_cst(pair, expected, desired) hook_cas_pair_seq_cst(HOOK_HERE, pair, expected, desired)
#define hs_fence_acquire()                           hook_fence_acquire(HOOK_HERE)
#define hs_fence_release()                           hook_fence_release(HOOK_HERE)
#define hs_fence_seq_cst()                           hook_fence_seq_cst(HOOK_HERE)

void *hook_memcpy(site *here, void *to, const void *from, size_t size);
void *hook_memset(site *here, void *to, int byte, size_t size);
long hook_futex(long call, ...);
int hook_file_lock(int fd, int command, struct flock *lock);
int hook_open(const char *path, int flags, ...);
int hook_close(int fd);
int hook_clock(clockid_t clock, struct timespec *out);
void *hook_memory(void *grown, size_t size);
void *hook_zeros(size_t count, size_t size);
void *hook_map(size_t size);
int hook_status(int fd, struct stat *out);
long hook_random(void *out, size_t size, unsigned flags);

#define memcpy(to, from, size)        hook_memcpy(HOOK_HERE, to, from, size)
#define memset(to, byte, size)        hook_memset(HOOK_HERE, to, byte, size)
#define syscall(...)                  hook_futex(__VA_ARGS__)
#define fcntl(fd, command, lock)      hook_file_lock(fd, command, lock)
#define open(...)                     hook_open(__VA_ARGS__)
#define close(fd)                     hook_close(fd)
#define clock_gettime(clock, out)     hook_clock(clock, out)
#define mmap(at, size, ...)           hook_map(size)
#define fstat(fd, out)                hook_status(fd, out)
#define getrandom(out, size, flags)   hook_random(out, size, flags)
#define posix_fallocate(fd, from, to) 0
#define fchmod(fd, mode)              0
#define realloc(memory, size)         hook_memory(memory, size)
#define calloc(count, size)           hook_zeros(count, size)
#define malloc(size)                  hook_memory(NULL, size)
#define free(memory)                  ((void)(memory))
#endif
