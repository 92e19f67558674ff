/*
 * Loops in C: one-key commits, which is what the core takes without Python and cffi; files made and looked at, and nothing else.
 *
 * bench/bench_hash.py compiles this, hands over hs_commit_one of the module that is measured, and holds the clock;
 * bench/bench_directories.py does the same with the other two.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

/*
 * The floor of bench_directories.py: `count` new files of `size` bytes each, by their names back to back, each with a 0
 * behind it, below a directory; or a look at each. Returns 0, or the errno of the first that failed.
 */
int bench_files(int directory, const char *names, uint32_t count, const uint8_t *bytes, size_t size) {
    for (uint32_t i = 0; i < count; i++, names += strlen(names) + 1) {
        int fd = openat(directory, names, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0) return errno;
        ssize_t done = write(fd, bytes + (size_t)i * size, size);
        if (close(fd) != 0 || done != (ssize_t)size) return EIO;
    }
    return 0;
}

int bench_stats(int directory, const char *names, uint32_t count) {
    struct stat s;
    for (uint32_t i = 0; i < count; i++, names += strlen(names) + 1)
        if (fstatat(directory, names, &s, AT_SYMLINK_NOFOLLOW) != 0) return errno;
    return 0;
}
