/* fail_io.c - a library to be preloaded: it counts the calls that the product makes of the kernel and of malloc, and lets
 * the nth of them fail.
 *
 *   product --call--> wrapper --not ours, or not the nth--> libc
 *                        \_____ the nth ____________________> -1 and an errno, NULL, or half of the bytes
 *
 * Ours is a call that comes from the C core or from LMDB (by the return address), and any call, the interpreter's too,
 * on a watched path or on a descriptor that was opened by one. What the interpreter allocates or reads for itself is let
 * through.
 *
 * What the nth call fails with is one of its kind's variants (the table below), chosen by `pick`; a burst fails the calls
 * after it, too, as a full disk or a spent limit does. Counting is by generation: each fork begins at 0, one generation
 * further on, and a fault is for one generation. A page that all descendants share says which call failed, and names the
 * files whose sync failed and has not been repeated after a new write: their bytes must be taken for lost.
 *
 * Not failed: calls that cannot fail (close does close, and then says EIO), munmap, locks of threads, clocks. */
#define _GNU_SOURCE
#define _LARGEFILE64_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define CALLER __builtin_return_address(0)

/* ---- what each kind of call may fail with ---- */

enum mode { ONCE, BURST, HALF };
enum { BURST_CALLS = 12, VARIANTS_MAX = 6, FDS = 4096, PLACES = 8, PATH_SIZE = 256, LOST_MAX = 32 };

typedef struct variant {
    int error;
    enum mode mode;
} variant;

/* clang-format off */
#define KINDS(X)                                                                                                   \
    X(OPEN, "open", {EMFILE, ONCE}, {EIO, ONCE}, {ENOMEM, ONCE}, {EINTR, ONCE}, {EMFILE, BURST})                    \
    X(CREATE, "open to create", {ENOSPC, ONCE}, {EMFILE, ONCE}, {EIO, ONCE}, {EINTR, ONCE}, {ENOSPC, BURST})        \
    X(LOOK, "stat", {EIO, ONCE}, {ENOMEM, ONCE}, {EIO, BURST})                                                      \
    X(NAME, "mkdir, link or rename", {ENOSPC, ONCE}, {EIO, ONCE}, {ENOSPC, BURST})                                  \
    X(REMOVE, "unlink", {EIO, ONCE}, {EIO, BURST})                                                                  \
    X(READ, "read", {EIO, ONCE}, {EINTR, ONCE}, {0, HALF}, {EIO, BURST})                                            \
    X(WRITE, "write", {ENOSPC, ONCE}, {EIO, ONCE}, {0, HALF}, {EINTR, ONCE}, {ENOSPC, BURST})                       \
    X(SYNC, "sync", {EIO, ONCE}, {ENOSPC, ONCE}, {EINTR, ONCE}, {EIO, BURST})                                       \
    X(SIZE, "ftruncate or fallocate", {ENOSPC, ONCE}, {EIO, ONCE}, {EINTR, ONCE}, {ENOSPC, BURST})                  \
    X(LOCK, "lock", {ENOLCK, ONCE}, {EINTR, ONCE}, {ENOLCK, BURST})                                                 \
    X(CHANGE, "chmod", {EIO, ONCE})                                                                                 \
    X(CLOSE, "close", {EIO, ONCE}, {EINTR, ONCE})                                                                   \
    X(DUPLICATE, "dup, pipe or memfd", {EMFILE, ONCE}, {EMFILE, BURST})                                             \
    X(MAP, "mmap", {ENOMEM, ONCE}, {ENOMEM, BURST})                                                                 \
    X(ADVISE, "madvise", {ENOMEM, ONCE}, {EINVAL, ONCE})                                                            \
    X(ALLOCATE, "malloc", {ENOMEM, ONCE}, {ENOMEM, BURST})                                                          \
    X(FORK, "fork", {EAGAIN, ONCE}, {ENOMEM, ONCE})                                                                 \
    X(EXECUTE, "execve or chdir", {EIO, ONCE}, {ENOMEM, ONCE})                                                      \
    X(WAIT, "waitpid or futex", {EINTR, ONCE})                                                                      \
    X(PIPE, "read of a pipe", {EINTR, ONCE})                                                                        \
    X(RANDOM, "getrandom", {EINTR, ONCE}, {0, HALF})
/* clang-format on */

#define KIND_ENUM(name, text, ...) name,
#define KIND_ROW(name, text, ...)  [name] = {text, {__VA_ARGS__}},
enum kind { KINDS(KIND_ENUM) KIND_COUNT };
static const struct {
    const char *text;
    variant variants[VARIANTS_MAX];
} kinds[KIND_COUNT] = {KINDS(KIND_ROW)};

static unsigned variants_of(enum kind kind) {
    unsigned n = 0;
    while (n < VARIANTS_MAX && (kinds[kind].variants[n].error || kinds[kind].variants[n].mode == HALF)) n++;
    return n;
}

static bool may_fail_with(enum kind kind, int error) {
    for (unsigned i = 0; i < variants_of(kind); i++)
        if (kinds[kind].variants[i].error == error) return true;
    return false;
}

/* ---- state ---- */

typedef struct lost_file { /* its sync failed */
    dev_t device;
    ino_t inode;
    bool rewritten;
    char path[PATH_SIZE];
} lost_file;

static struct page { /* shared with all descendants */
    atomic_int reached;
    int kind;
    char text[PATH_SIZE * 2];
    atomic_int lost_count;
    lost_file lost[LOST_MAX];
} *page;

static struct {
    bool armed;
    unsigned generation, wanted_generation, count, nth, pick;
    int burst_left, burst_error;
} now;

static char watched[PLACES][PATH_SIZE];
static unsigned watched_count;
static uint8_t tracked[FDS]; /* descriptors that lead to a watched file */
static struct module {
    uintptr_t from, to;
} core, lmdb;
static atomic_llong blocks, mapped; /* that the core and LMDB hold */

static bool in(const struct module *module, const void *caller) {
    return (uintptr_t)caller >= module->from && (uintptr_t)caller < module->to;
}
static bool is_from_product(const void *caller) { return in(&core, caller) || in(&lmdb, caller); }

static bool is_watched(const char *path) {
    for (unsigned i = 0; path && i < watched_count; i++)
        if (strncmp(path, watched[i], strlen(watched[i])) == 0) return true;
    return false;
}
static bool is_tracked(int fd) { return fd >= 0 && fd < FDS && tracked[fd]; }
static void track(int fd, bool is) {
    if (fd >= 0 && fd < FDS) tracked[fd] = is;
}

#define REAL(name)                                                                                           \
    static __typeof__(&name) real_##name;                                                                    \
    if (!real_##name) real_##name = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void path_of_fd(int fd, char out[PATH_SIZE]) {
    REAL(readlink);
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = real_readlink(link, out, PATH_SIZE - 1);
    out[n > 0 ? n : 0] = 0;
}

/* ---- files whose sync failed ---- */

static lost_file *lost_find(int fd) {
    REAL(fstat);
    struct stat status;
    if (!page || atomic_load(&page->lost_count) == 0 || fd < 0 || real_fstat(fd, &status) != 0) return NULL;
    for (int i = 0; i < atomic_load(&page->lost_count); i++)
        if (page->lost[i].device == status.st_dev && page->lost[i].inode == status.st_ino)
            return &page->lost[i];
    return NULL;
}

static void sync_failed(int fd) {
    REAL(fstat);
    struct stat status;
    lost_file *file = lost_find(fd);
    if (!page || fd < 0 || real_fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return;
    if (!file) {
        int n = atomic_fetch_add(&page->lost_count, 1);
        if (n >= LOST_MAX) return;
        file = &page->lost[n];
        path_of_fd(fd, file->path);
    }
    file->device = status.st_dev;
    file->inode = status.st_ino;
    file->rewritten = false;
}

static void was_written(int fd) {
    lost_file *file = lost_find(fd);
    if (file) file->rewritten = true;
}

static void was_synced(int fd) {
    lost_file *file = lost_find(fd);
    if (file && file->rewritten) file->inode = 0;
}

/* ---- the verdict ---- */

static const char *owner_of(const void *caller) {
    return in(&core, caller) ? "the core" : in(&lmdb, caller) ? "LMDB" : "Python";
}

static void say(enum kind kind, const variant *how, const void *caller, const char *path, int fd) {
    char found[PATH_SIZE] = "";
    if (!path && fd >= 0) path_of_fd(fd, found);
    snprintf(page->text, sizeof page->text, "%s by %s%s%s%s: %s", kinds[kind].text, owner_of(caller),
             path || fd >= 0 ? " of " : "", path ? path : found,
             how->mode == BURST ? " and the next ones" : "",
             how->mode == HALF ? "half of the bytes" : strerrorname_np(how->error));
    page->kind = (int)kind;
    atomic_store(&page->reached, 1);
}

enum { GO_ON = 0, SHORT = -1 };

/* GO_ON, SHORT, or the errno that this call is to fail with. */
static int fate(enum kind kind, const void *caller, const char *path, int fd) {
    if (!now.armed || now.generation != now.wanted_generation) return GO_ON;
    bool ours = is_from_product(caller) || is_watched(path) || is_tracked(fd);
    if (!ours) return GO_ON;
    now.count++;
    if (now.burst_left > 0 && may_fail_with(kind, now.burst_error)) {
        now.burst_left--;
        return now.burst_error;
    }
    if (now.count != now.nth) return GO_ON;
    const variant *how = &kinds[kind].variants[now.pick % variants_of(kind)];
    say(kind, how, caller, path, fd);
    if (how->mode == HALF) return SHORT;
    if (how->mode == BURST) {
        now.burst_left = BURST_CALLS;
        now.burst_error = how->error;
    }
    return how->error;
}

static int failed(int error) {
    errno = error;
    return -1;
}

/* ---- control ---- */

static void forked(void) {
    now.generation++;
    now.count = 0;
}

static int module_look(struct dl_phdr_info *info, size_t size, void *context) {
    (void)size, (void)context;
    struct module *module = strstr(info->dlpi_name, "helios_shm/_native") ? &core
                            : strstr(info->dlpi_name, "lmdb/cpython")     ? &lmdb
                                                                          : NULL;
    if (!module) return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
        module->from = info->dlpi_addr + part->p_vaddr;
        module->to = module->from + part->p_memsz;
    }
    return 0;
}

/* Begin to watch: find the modules, share the page. `places` are path prefixes, one a line. 0: both modules are there. */
EXPORT int fail_watch(const char *places) {
    REAL(mmap);
    char copy[PLACES * PATH_SIZE];
    snprintf(copy, sizeof copy, "%s", places);
    watched_count = 0;
    for (char *place = strtok(copy, "\n"); place && watched_count < PLACES; place = strtok(NULL, "\n"))
        snprintf(watched[watched_count++], PATH_SIZE, "%s", place);
    dl_iterate_phdr(module_look, NULL);
    if (!page) {
        void *made = real_mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (made == MAP_FAILED) return -1;
        page = made;
        pthread_atfork(NULL, NULL, forked);
    }
    return core.to && lmdb.to ? 0 : -1;
}

/* Nothing has failed yet. */
EXPORT void fail_reset(void) { memset(page, 0, sizeof *page); }

/* From now on, count; fail the nth call of the process that is `generation` forks away. nth 0: only count. */
EXPORT void fail_arm(unsigned generation, unsigned nth, unsigned pick) {
    now.generation = 0;
    now.wanted_generation = generation;
    now.count = 0;
    now.nth = nth;
    now.pick = pick;
    now.burst_left = 0;
    now.armed = true;
}

/* Fail nothing any more; returns how many calls were counted. */
EXPORT unsigned fail_disarm(void) {
    now.armed = false;
    return now.count;
}

/* Which call failed; "" if none did. */
EXPORT const char *fail_text(void) { return atomic_load(&page->reached) ? page->text : ""; }

/* Name, one a line, the files whose sync failed without a new write and sync since. */
EXPORT void fail_lost(char *out, size_t size) {
    size_t at = 0;
    out[0] = 0;
    for (int i = 0; i < atomic_load(&page->lost_count) && i < LOST_MAX; i++) {
        struct stat status;
        const lost_file *file = &page->lost[i];
        bool stands = file->inode && stat(file->path, &status) == 0 && status.st_ino == file->inode &&
                      status.st_dev == file->device;
        if (stands && at < size) at += (size_t)snprintf(out + at, size - at, "%s\n", file->path);
    }
}

/* Blocks of malloc, and bytes of mmap, that the core and LMDB hold in this process. */
EXPORT void fail_held(long long out[2]) {
    out[0] = atomic_load(&blocks);
    out[1] = atomic_load(&mapped);
}

/* In how many ways the call that failed may fail; 0 if none did. */
EXPORT unsigned fail_variants(void) {
    return atomic_load(&page->reached) ? variants_of((enum kind)page->kind) : 0;
}

/* ---- memory ---- */

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static void *taken(void *block, const void *caller) {
    if (block && is_from_product(caller)) atomic_fetch_add(&blocks, 1);
    return block;
}

static bool refused(const void *caller) {
    if (!now.armed || !is_from_product(caller)) return false;
    int error = fate(ALLOCATE, caller, NULL, -1);
    if (error) errno = error;
    return error != 0;
}

EXPORT void *malloc(size_t size) { return refused(CALLER) ? NULL : taken(__libc_malloc(size), CALLER); }
EXPORT void *calloc(size_t count, size_t size) {
    return refused(CALLER) ? NULL : taken(__libc_calloc(count, size), CALLER);
}
EXPORT void *realloc(void *block, size_t size) {
    if (refused(CALLER)) return NULL;
    void *moved = __libc_realloc(block, size);
    return block ? moved : taken(moved, CALLER);
}
EXPORT void *aligned_alloc(size_t alignment, size_t size) {
    return refused(CALLER) ? NULL : taken(__libc_memalign(alignment, size), CALLER);
}
EXPORT int posix_memalign(void **out, size_t alignment, size_t size) {
    if (refused(CALLER)) return ENOMEM;
    void *block = taken(__libc_memalign(alignment, size), CALLER);
    if (!block) return ENOMEM;
    *out = block;
    return 0;
}
EXPORT char *strdup(const char *text) {
    size_t size = strlen(text) + 1;
    char *copy = refused(CALLER) ? NULL : taken(__libc_malloc(size), CALLER);
    return copy ? memcpy(copy, text, size) : NULL;
}
EXPORT void free(void *block) {
    if (block && is_from_product(CALLER)) atomic_fetch_sub(&blocks, 1);
    __libc_free(block);
}

static void *map_any(__typeof__(&mmap) real, void *at, size_t size, int protection, int flags, int fd,
                     off_t offset, const void *caller) {
    int error = fate(MAP, caller, NULL, fd);
    if (error) {
        errno = error;
        return MAP_FAILED;
    }
    void *made = real(at, size, protection, flags, fd, offset);
    if (made != MAP_FAILED && is_from_product(caller)) atomic_fetch_add(&mapped, (long long)size);
    return made;
}
EXPORT void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    REAL(mmap);
    return map_any(real_mmap, at, size, protection, flags, fd, offset, CALLER);
}
EXPORT void *mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    REAL(mmap64);
    return map_any(real_mmap64, at, size, protection, flags, fd, offset, CALLER);
}
EXPORT int munmap(void *at, size_t size) {
    REAL(munmap);
    int result = real_munmap(at, size);
    if (result == 0 && is_from_product(CALLER)) atomic_fetch_sub(&mapped, (long long)size);
    return result;
}
EXPORT int madvise(void *at, size_t size, int advice) {
    REAL(madvise);
    int error = is_from_product(CALLER) ? fate(ADVISE, CALLER, NULL, -1) : GO_ON;
    return error ? failed(error) : real_madvise(at, size, advice);
}
EXPORT int msync(void *at, size_t size, int flags) {
    REAL(msync);
    int error = is_from_product(CALLER) ? fate(SYNC, CALLER, NULL, -1) : GO_ON;
    return error ? failed(error) : real_msync(at, size, flags);
}

/* ---- opening ---- */

static int open_any(__typeof__(&openat) real, int at, const char *path, int flags, mode_t mode,
                    const void *caller) {
    bool creates = (flags & (O_CREAT | __O_TMPFILE)) != 0;
    bool relative = path && path[0] != '/' && is_tracked(at);
    int error = fate(creates ? CREATE : OPEN, caller, path, relative ? at : -1);
    if (error) return failed(error);
    int fd = real(at, path, flags, mode);
    track(fd, relative || is_watched(path) || is_from_product(caller));
    return fd;
}
static mode_t mode_of(int flags, va_list rest) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}
#define OPENS(name, parameters, at)                                                                          \
    EXPORT int name parameters {                                                                             \
        REAL(openat);                                                                                        \
        va_list rest;                                                                                        \
        va_start(rest, flags);                                                                               \
        mode_t mode = mode_of(flags, rest);                                                                  \
        va_end(rest);                                                                                        \
        return open_any(real_openat, at, path, flags, mode, CALLER);                                         \
    }
OPENS(open, (const char *path, int flags, ...), AT_FDCWD)
OPENS(open64, (const char *path, int flags, ...), AT_FDCWD)
OPENS(openat, (int at, const char *path, int flags, ...), at)
OPENS(openat64, (int at, const char *path, int flags, ...), at)

EXPORT DIR *opendir(const char *path) {
    REAL(opendir);
    int error = fate(OPEN, CALLER, path, -1);
    if (error) {
        errno = error;
        return NULL;
    }
    DIR *made = real_opendir(path);
    if (made) track(dirfd(made), is_watched(path));
    return made;
}
EXPORT int closedir(DIR *directory) {
    REAL(closedir);
    track(dirfd(directory), false);
    return real_closedir(directory);
}
#define READS_DIRECTORY(name, type)                                                                          \
    EXPORT struct type *name(DIR *directory) {                                                               \
        REAL(name);                                                                                          \
        int error = fate(READ, CALLER, NULL, dirfd(directory));                                              \
        if (error <= 0 || error == EINTR) return real_##name(directory);                                     \
        errno = error;                                                                                       \
        return NULL;                                                                                         \
    }
READS_DIRECTORY(readdir, dirent)
READS_DIRECTORY(readdir64, dirent64)

EXPORT int close(int fd) {
    REAL(close);
    bool was = is_tracked(fd);
    int error = now.armed && (was || is_from_product(CALLER)) ? fate(CLOSE, CALLER, NULL, fd) : GO_ON;
    track(fd, false);
    int result = real_close(fd);
    return error ? failed(error) : result;
}
EXPORT int dup2(int from, int to) {
    REAL(dup2);
    int error = fate(DUPLICATE, CALLER, NULL, from);
    if (error) return failed(error);
    track(to, is_tracked(from));
    return real_dup2(from, to);
}
EXPORT int dup(int from) {
    REAL(dup);
    int error = fate(DUPLICATE, CALLER, NULL, from);
    if (error) return failed(error);
    int made = real_dup(from);
    track(made, is_tracked(from));
    return made;
}
EXPORT int pipe2(int ends[2], int flags) {
    REAL(pipe2);
    int error = is_from_product(CALLER) ? fate(DUPLICATE, CALLER, NULL, -1) : GO_ON;
    return error ? failed(error) : real_pipe2(ends, flags);
}
EXPORT int memfd_create(const char *name, unsigned flags) {
    REAL(memfd_create);
    int error = is_from_product(CALLER) ? fate(DUPLICATE, CALLER, NULL, -1) : GO_ON;
    if (error) return failed(error);
    int fd = real_memfd_create(name, flags);
    track(fd, is_from_product(CALLER));
    return fd;
}

/* ---- descriptors ---- */

static int control(__typeof__(&fcntl) real, int fd, int command, void *argument, const void *caller) {
    bool duplicates = command == F_DUPFD || command == F_DUPFD_CLOEXEC;
    bool locks = command == F_OFD_SETLK || command == F_OFD_GETLK || command == F_OFD_SETLKW ||
                 command == F_SETLK || command == F_SETLKW || command == F_GETLK;
    int error = duplicates || locks ? fate(duplicates ? DUPLICATE : LOCK, caller, NULL, fd) : GO_ON;
    if (error) return failed(error);
    int result = real(fd, command, argument);
    if (duplicates) track(result, is_tracked(fd));
    return result;
}
#define CONTROLS(name)                                                                                       \
    EXPORT int name(int fd, int command, ...) {                                                              \
        REAL(name);                                                                                          \
        va_list rest;                                                                                        \
        va_start(rest, command);                                                                             \
        void *argument = va_arg(rest, void *);                                                               \
        va_end(rest);                                                                                        \
        return control(real_##name, fd, command, argument, CALLER);                                          \
    }
CONTROLS(fcntl)
CONTROLS(fcntl64)
EXPORT int flock(int fd, int operation) {
    REAL(flock);
    int error = operation == LOCK_UN ? GO_ON : fate(LOCK, CALLER, NULL, fd);
    return error ? failed(error) : real_flock(fd, operation);
}

#define HALF_OF(size) ((size) > 1 ? (size) / 2 : (size))
/* Of what is not a file, the product reads only pipes, and a pipe knows neither full disks nor bad sectors. */
#define READS(name, parameters, arguments)                                                                   \
    EXPORT ssize_t name parameters {                                                                         \
        REAL(name);                                                                                          \
        int error = fate(is_tracked(fd) ? READ : PIPE, CALLER, NULL, fd);                                    \
        if (error > 0) return failed(error);                                                                 \
        if (error == SHORT) size = HALF_OF(size);                                                            \
        return real_##name arguments;                                                                        \
    }
READS(read, (int fd, void *bytes, size_t size), (fd, bytes, size))
READS(pread, (int fd, void *bytes, size_t size, off_t at), (fd, bytes, size, at))
READS(pread64, (int fd, void *bytes, size_t size, off_t at), (fd, bytes, size, at))

#define WRITES(name, parameters, arguments)                                                                  \
    EXPORT ssize_t name parameters {                                                                         \
        REAL(name);                                                                                          \
        int error = is_tracked(fd) ? fate(WRITE, CALLER, NULL, fd) : GO_ON;                                  \
        if (error > 0) return failed(error);                                                                 \
        if (error == SHORT) size = HALF_OF(size);                                                            \
        if (now.armed && is_tracked(fd)) was_written(fd);                                                    \
        return real_##name arguments;                                                                        \
    }
WRITES(write, (int fd, const void *bytes, size_t size), (fd, bytes, size))
WRITES(pwrite, (int fd, const void *bytes, size_t size, off_t at), (fd, bytes, size, at))
WRITES(pwrite64, (int fd, const void *bytes, size_t size, off_t at), (fd, bytes, size, at))
EXPORT ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    int error = fate(WRITE, CALLER, NULL, fd);
    if (error > 0) return failed(error);
    if (now.armed && is_tracked(fd)) was_written(fd);
    return real_writev(fd, parts, error == SHORT && count > 1 ? count / 2 : count);
}

#define SYNCS(name)                                                                                          \
    EXPORT int name(int fd) {                                                                                \
        REAL(name);                                                                                          \
        int error = fate(SYNC, CALLER, NULL, fd);                                                            \
        if (error > 0) {                                                                                     \
            if (error != EINTR) sync_failed(fd);                                                             \
            return failed(error);                                                                            \
        }                                                                                                    \
        int result = real_##name(fd);                                                                        \
        if (now.armed && result == 0 && is_tracked(fd)) was_synced(fd);                                      \
        return result;                                                                                       \
    }
SYNCS(fsync)
SYNCS(fdatasync)

/* ---- everything else is one pattern: the verdict, then the call ---- */

#define PLAIN(kind, type, name, parameters, arguments, path, fd)                                             \
    EXPORT type name parameters {                                                                            \
        REAL(name);                                                                                          \
        int error = fate(kind, CALLER, path, fd);                                                            \
        return error > 0 ? (type)failed(error) : real_##name arguments;                                      \
    }
#define LOOKS(name, parameters, arguments, path, fd) PLAIN(LOOK, int, name, parameters, arguments, path, fd)

LOOKS(stat, (const char *restrict path, struct stat *restrict out), (path, out), path, -1)
LOOKS(stat64, (const char *restrict path, struct stat64 *restrict out), (path, out), path, -1)
LOOKS(lstat, (const char *restrict path, struct stat *restrict out), (path, out), path, -1)
LOOKS(lstat64, (const char *restrict path, struct stat64 *restrict out), (path, out), path, -1)
LOOKS(fstat, (int fd, struct stat *out), (fd, out), NULL, fd)
LOOKS(fstat64, (int fd, struct stat64 *out), (fd, out), NULL, fd)
LOOKS(fstatat, (int at, const char *restrict path, struct stat *restrict out, int flags),
      (at, path, out, flags), path, at)
LOOKS(fstatat64, (int at, const char *restrict path, struct stat64 *restrict out, int flags),
      (at, path, out, flags), path, at)
LOOKS(__fxstat, (int version, int fd, struct stat *out), (version, fd, out), NULL, fd)
LOOKS(__xstat, (int version, const char *path, struct stat *out), (version, path, out), path, -1)
LOOKS(access, (const char *path, int mode), (path, mode), path, -1)
LOOKS(faccessat, (int at, const char *path, int mode, int flags), (at, path, mode, flags), path, at)
LOOKS(statfs, (const char *path, struct statfs *out), (path, out), path, -1)
LOOKS(fstatfs, (int fd, struct statfs *out), (fd, out), NULL, fd)
LOOKS(statvfs, (const char *restrict path, struct statvfs *restrict out), (path, out), path, -1)
LOOKS(statvfs64, (const char *restrict path, struct statvfs64 *restrict out), (path, out), path, -1)
PLAIN(LOOK, ssize_t, readlink, (const char *restrict path, char *restrict out, size_t size),
      (path, out, size), path, -1)
PLAIN(NAME, int, mkdir, (const char *path, mode_t mode), (path, mode), path, -1)
PLAIN(NAME, int, rename, (const char *from, const char *to), (from, to), from, -1)
PLAIN(NAME, int, linkat, (int at, const char *from, int to_at, const char *to, int flags),
      (at, from, to_at, to, flags), to, -1)
PLAIN(REMOVE, int, unlink, (const char *path), (path), path, -1)
PLAIN(REMOVE, int, unlinkat, (int at, const char *path, int flags), (at, path, flags), path, at)
PLAIN(REMOVE, int, rmdir, (const char *path), (path), path, -1)
PLAIN(CHANGE, int, chmod, (const char *path, mode_t mode), (path, mode), path, -1)
PLAIN(CHANGE, int, fchmod, (int fd, mode_t mode), (fd, mode), NULL, fd)
PLAIN(SIZE, int, ftruncate, (int fd, off_t size), (fd, size), NULL, fd)
PLAIN(SIZE, int, ftruncate64, (int fd, off64_t size), (fd, size), NULL, fd)
PLAIN(SIZE, int, truncate, (const char *path, off_t size), (path, size), path, -1)
PLAIN(SIZE, int, truncate64, (const char *path, off64_t size), (path, size), path, -1)
PLAIN(EXECUTE, int, execve, (const char *path, char *const argv[], char *const envp[]), (path, argv, envp),
      NULL, -1)
PLAIN(EXECUTE, int, chdir, (const char *path), (path), NULL, -1)
PLAIN(FORK, pid_t, fork, (void), (), NULL, -1)
PLAIN(WAIT, pid_t, waitpid, (pid_t pid, int *status, int options), (pid, status, options), NULL, -1)

EXPORT int posix_fallocate(int fd, off_t at, off_t size) {
    REAL(posix_fallocate);
    int error = fate(SIZE, CALLER, NULL, fd);
    return error ? error : real_posix_fallocate(fd, at, size);
}
EXPORT ssize_t getrandom(void *bytes, size_t size, unsigned flags) {
    REAL(getrandom);
    int error = is_from_product(CALLER) ? fate(RANDOM, CALLER, NULL, -1) : GO_ON;
    if (error > 0) return failed(error);
    return real_getrandom(bytes, error == SHORT ? HALF_OF(size) : size, flags);
}

/* The core sleeps on words of shared memory by syscall(SYS_futex, ...). */
EXPORT long syscall(long number, ...) {
    REAL(syscall);
    va_list rest;
    va_start(rest, number);
    long a[6];
    for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
    va_end(rest);
    int error = number == SYS_futex && is_from_product(CALLER) ? fate(WAIT, CALLER, NULL, -1) : GO_ON;
    return error ? failed(error) : real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
