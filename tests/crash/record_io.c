/* record_io.c - a library to preload: writes down, in one order, what processes do to the files below a directory.
 *
 *     process  --write, rename, fsync, ...-->  [ lock | the call itself | one record in the log | unlock ]
 *
 *     RECORD_ROOT   the directory; what is done elsewhere is not looked at
 *     RECORD_LOG    the log: records one after another, appended; power_loss.py reads them
 *     RECORD_SYNC   microseconds that a sync takes at least, so that others come between its begin and its end
 *
 * The lock is a record lock of fcntl(2): the kernel's, one for all processes, not inherited by forked children, free when its
 * holder dies. The calls of all processes are thus in the order of their records. A sync has two records, and the lock is not
 * held between them: what was done before the first is on disk at the second; what comes between may be or not.
 *
 * Stores through a shared mapping make no call. The mapping is compared with a copy of it before each record that its process
 * makes, and what has changed becomes writes: so a page has the versions that it had at those instants. LMDB's lock file is
 * left out: its bytes mean nothing after a restart, and power_loss.py invents them.
 *
 * What it does not see: calls that libc makes inside itself (fopen), raw system calls, io_uring. The product uses none of them
 * on a store; a symbolic link, or a call of which the model knows nothing, is recorded as such and the model refuses the log. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    CREATE = 1,
    MKDIR,
    UNLINK,
    RMDIR,
    RENAME,
    LINK,
    WRITE,
    TRUNCATE,
    ALLOCATE,
    SYNC_BEGIN,
    SYNC_END,
    NOTE,
    UNKNOWN
};

/* power_loss.py has the same as _HEADER. Two paths and the data follow. */
typedef struct record {
    uint32_t kind, process;
    uint64_t inode, offset, size, number;
    uint32_t path_size, other_size, data_size, zero;
} record;

#define SECTOR       512u
#define MAPPINGS_MAX 16
#define LOG_FD_MIN   600
#define PATHS_SIZE   (2 * PATH_MAX)
#define WHOLE        UINT64_MAX
#define EXPORTED     __attribute__((visibility("default")))
#define REAL(name)   ((__typeof__(&name))real(#name))
#define KEEP_ERRNO(x)                                                                                        \
    do {                                                                                                     \
        int kept_ = errno;                                                                                   \
        x;                                                                                                   \
        errno = kept_;                                                                                       \
    } while (0)

typedef struct mapping {
    uint8_t *base, *copy;
    size_t size;
    uint64_t inode, offset;
} mapping;

static char root[PATH_MAX];
static size_t root_size;
static int log_fd = -1, lock_fd = -1;
static useconds_t sync_pause;
static long die_after =
    -1; /* so many records until this process is killed, at the end of a step; negative: never */
static uint64_t syncs;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static mapping mappings[MAPPINGS_MAX];

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL) abort();
    return found;
}

static void give_up(const char *what) {
    fprintf(stderr, "record_io: %s: %s\n", what, strerror(errno));
    abort();
}

/* ---- the lock and the log ---- */

static void region_lock(short kind) {
    struct flock lock = {.l_type = kind, .l_whence = SEEK_SET, .l_len = 1};
    while (fcntl(lock_fd, F_SETLKW, &lock) != 0)
        if (errno != EINTR) give_up("lock");
}

static void record_begin(void) {
    pthread_mutex_lock(&mutex);
    region_lock(F_WRLCK);
}

static void record_end(void) {
    if (die_after == 0) kill(getpid(), SIGKILL);
    region_lock(F_UNLCK);
    pthread_mutex_unlock(&mutex);
}

static void append(record head, const char *path, const char *other, const void *data, size_t data_size) {
    head.process = (uint32_t)getpid();
    head.path_size = path ? (uint32_t)strlen(path) : 0;
    head.other_size = other ? (uint32_t)strlen(other) : 0;
    head.data_size = (uint32_t)data_size;
    struct iovec parts[] = {{&head, sizeof head},
                            {(void *)path, head.path_size},
                            {(void *)other, head.other_size},
                            {(void *)data, data_size}};
    size_t whole = sizeof head + head.path_size + head.other_size + data_size;
    if (syscall(SYS_writev, log_fd, parts, 4) != (long)whole) give_up("log");
    if (die_after > 0) die_after--;
}

/* ---- which file is it ---- */

/* The path below the root; NULL: elsewhere. */
static const char *below_root(const char *path) {
    if (strncmp(path, root, root_size) != 0 || path[root_size] != '/') return NULL;
    return path + root_size + 1;
}

static bool fd_path(int fd, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    if (size <= 0) return false;
    path[size] = 0;
    return true;
}

/* The inode that a descriptor is open on, if that is below the root. */
static bool fd_inode(int fd, uint64_t *inode) {
    char path[PATH_MAX];
    struct stat status;
    if (log_fd < 0 || !fd_path(fd, path)) return false;
    if (below_root(path) == NULL && strcmp(path, root) != 0) return false;
    if (fstat(fd, &status) != 0) return false;
    *inode = status.st_ino;
    return true;
}

/* The path below the root of a name that need not exist; its directory is resolved, it is not. `place` owns the bytes. */
static const char *name_path(int directory, const char *name, char place[PATHS_SIZE]) {
    char given[PATHS_SIZE], parent[PATH_MAX];
    if (log_fd < 0 || name == NULL) return NULL;
    if (name[0] == '/') {
        snprintf(given, sizeof given, "%s", name);
    } else {
        char base[PATH_MAX] = ".";
        if (directory != AT_FDCWD && !fd_path(directory, base)) return NULL;
        snprintf(given, sizeof given, "%s/%s", base, name);
    }
    size_t size = strlen(given);
    while (size > 1 && given[size - 1] == '/') given[--size] = 0;
    char *slash = strrchr(given, '/');
    if (slash == NULL) return NULL;
    *slash = 0;
    if (realpath(given[0] ? given : "/", parent) == NULL) return NULL;
    snprintf(place, PATHS_SIZE, "%s/%s", parent, slash + 1);
    return below_root(place);
}

/* ---- mappings ---- */

static void mapping_compare(mapping *m) {
    for (size_t at = 0; at < m->size; at += SECTOR) {
        size_t end = at;
        while (end < m->size) {
            size_t step = m->size - end < SECTOR ? m->size - end : SECTOR;
            if (memcmp(m->base + end, m->copy + end, step) == 0) break;
            memcpy(m->copy + end, m->base + end, step);
            end += step;
        }
        if (end == at) continue;
        record head = {.kind = WRITE, .inode = m->inode, .offset = m->offset + at, .size = end - at};
        append(head, NULL, NULL, m->copy + at, end - at);
        at = end;
    }
}

static void mappings_compare(void) {
    for (int i = 0; i < MAPPINGS_MAX; i++)
        if (mappings[i].base != NULL) mapping_compare(&mappings[i]);
}

/* Everything that makes a record begins so. */
static void step_begin(void) {
    record_begin();
    mappings_compare();
}

static void mapping_add(void *base, size_t size, int fd, uint64_t inode, uint64_t offset) {
    char path[PATH_MAX];
    struct stat status;
    if (!fd_path(fd, path) || fstat(fd, &status) != 0) return;
    const char *slash = strrchr(path, '/');
    if (slash != NULL && strcmp(slash, "/lock.mdb") == 0) return;
    size_t there = (uint64_t)status.st_size > offset ? (size_t)status.st_size - offset : 0;
    if (size > there) size = there;
    step_begin();
    for (int i = 0; i < MAPPINGS_MAX; i++) {
        mapping *m = &mappings[i];
        if (m->base != NULL) continue;
        *m = (mapping){.base = base, .copy = calloc(1, size), .size = size, .inode = inode, .offset = offset};
        if (m->copy == NULL) give_up("malloc");
        mapping_compare(m); /* with nothing: a process that died may have stored what it made no record of */
        record_end();
        return;
    }
    errno = ENOSPC;
    give_up("too many shared mappings");
}

EXPORTED void *mmap(void *hint, size_t size, int protection, int flags, int fd, off_t offset) {
    void *base = REAL(mmap)(hint, size, protection, flags, fd, offset);
    uint64_t inode;
    bool shared = (flags & MAP_TYPE) == MAP_SHARED || (flags & MAP_TYPE) == MAP_SHARED_VALIDATE;
    if (base != MAP_FAILED && shared && protection & PROT_WRITE && fd >= 0 && fd_inode(fd, &inode))
        KEEP_ERRNO(mapping_add(base, size, fd, inode, (uint64_t)offset));
    return base;
}

EXPORTED void *mmap64(void *hint, size_t size, int protection, int flags, int fd, off_t offset) {
    return mmap(hint, size, protection, flags, fd, offset);
}

EXPORTED int munmap(void *base, size_t size) {
    for (int i = 0; i < MAPPINGS_MAX; i++) {
        if (log_fd < 0 || mappings[i].base == NULL || mappings[i].base != base) continue;
        step_begin();
        free(mappings[i].copy);
        mappings[i] = (mapping){0};
        record_end();
    }
    return REAL(munmap)(base, size);
}

/* ---- syncs ---- */

static uint64_t sync_begin(uint64_t inode, uint64_t offset, uint64_t size) {
    step_begin();
    uint64_t number = (uint64_t)getpid() << 32 | ++syncs;
    append((record){.kind = SYNC_BEGIN, .inode = inode, .offset = offset, .size = size, .number = number},
           NULL, NULL, NULL, 0);
    record_end();
    return number;
}

static void sync_end(uint64_t number) {
    if (sync_pause) usleep(sync_pause);
    step_begin();
    append((record){.kind = SYNC_END, .number = number}, NULL, NULL, NULL, 0);
    record_end();
}

static int fd_sync(int fd, int (*call)(int)) {
    uint64_t inode;
    if (!fd_inode(fd, &inode)) return call(fd);
    uint64_t number = sync_begin(inode, 0, WHOLE);
    int status = call(fd);
    if (status == 0) KEEP_ERRNO(sync_end(number));
    return status;
}

EXPORTED int fsync(int fd) { return fd_sync(fd, REAL(fsync)); }
EXPORTED int fdatasync(int fd) { return fd_sync(fd, REAL(fdatasync)); }

EXPORTED int msync(void *base, size_t size, int flags) {
    const mapping *m = NULL;
    for (int i = 0; i < MAPPINGS_MAX && log_fd >= 0; i++) {
        uint8_t *start = mappings[i].base;
        if (start != NULL && (uint8_t *)base >= start && (uint8_t *)base < start + mappings[i].size)
            m = &mappings[i];
    }
    if (m == NULL || !(flags & MS_SYNC)) return REAL(msync)(base, size, flags);
    uint64_t number = sync_begin(m->inode, m->offset + (uint64_t)((uint8_t *)base - m->base), size);
    int status = REAL(msync)(base, size, flags);
    if (status == 0) KEEP_ERRNO(sync_end(number));
    return status;
}

/* ---- writes ---- */

static uint64_t fd_place(int fd) {
    struct stat status;
    if (fcntl(fd, F_GETFL) & O_APPEND) return fstat(fd, &status) == 0 ? (uint64_t)status.st_size : 0;
    off_t at = lseek(fd, 0, SEEK_CUR);
    return at < 0 ? 0 : (uint64_t)at;
}

/* After a write under the lock: its record, and for a descriptor that writes synchronously a sync of the range. */
static void wrote(int fd, uint64_t inode, uint64_t offset, const struct iovec *parts, int count,
                  size_t size) {
    uint8_t *data = malloc(size ? size : 1);
    if (data == NULL) give_up("malloc");
    size_t at = 0;
    for (int i = 0; i < count && at < size; i++) {
        size_t part = parts[i].iov_len < size - at ? parts[i].iov_len : size - at;
        memcpy(data + at, parts[i].iov_base, part);
        at += part;
    }
    append((record){.kind = WRITE, .inode = inode, .offset = offset, .size = size}, NULL, NULL, data, size);
    free(data);
    record_end();
    if (fcntl(fd, F_GETFL) & O_DSYNC) sync_end(sync_begin(inode, offset, size));
}

/* offset < 0: at the descriptor's place. */
static ssize_t fd_write(int fd, const struct iovec *parts, int count, off_t offset) {
    uint64_t inode;
    if (!fd_inode(fd, &inode))
        return offset < 0 ? REAL(writev)(fd, parts, count) : REAL(pwritev)(fd, parts, count, offset);
    step_begin();
    uint64_t at = offset < 0 ? fd_place(fd) : (uint64_t)offset;
    ssize_t done = offset < 0 ? REAL(writev)(fd, parts, count) : REAL(pwritev)(fd, parts, count, offset);
    if (done > 0) {
        KEEP_ERRNO(wrote(fd, inode, at, parts, count, (size_t)done));
    } else {
        KEEP_ERRNO(record_end());
    }
    return done;
}

EXPORTED ssize_t write(int fd, const void *data, size_t size) {
    uint64_t inode;
    if (log_fd < 0 || !fd_inode(fd, &inode)) return REAL(write)(fd, data, size);
    return fd_write(fd, &(struct iovec){(void *)data, size}, 1, -1);
}
EXPORTED ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return fd_write(fd, &(struct iovec){(void *)data, size}, 1, offset);
}
EXPORTED ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) {
    return pwrite(fd, data, size, offset);
}
EXPORTED ssize_t writev(int fd, const struct iovec *parts, int count) {
    return fd_write(fd, parts, count, -1);
}
EXPORTED ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return fd_write(fd, parts, count, offset);
}
EXPORTED ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) {
    return fd_write(fd, parts, count, offset);
}

static int fd_resize(int fd, int kind, off_t offset, off_t size, int status) {
    uint64_t inode;
    if (status == 0 && fd_inode(fd, &inode))
        append(
            (record){
                .kind = (uint32_t)kind, .inode = inode, .offset = (uint64_t)offset, .size = (uint64_t)size},
            NULL, NULL, NULL, 0);
    record_end();
    return status;
}

EXPORTED int ftruncate(int fd, off_t size) {
    uint64_t inode;
    if (!fd_inode(fd, &inode)) return REAL(ftruncate)(fd, size);
    step_begin();
    return fd_resize(fd, TRUNCATE, 0, size, REAL(ftruncate)(fd, size));
}
EXPORTED int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

EXPORTED int truncate(const char *path, off_t size) {
    char place[PATHS_SIZE];
    if (name_path(AT_FDCWD, path, place) == NULL) return REAL(truncate)(path, size);
    int fd = REAL(open)(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    int status = ftruncate(fd, size);
    KEEP_ERRNO(REAL(close)(fd));
    return status;
}
EXPORTED int truncate64(const char *path, off_t size) { return truncate(path, size); }

EXPORTED int posix_fallocate(int fd, off_t offset, off_t size) {
    uint64_t inode;
    if (!fd_inode(fd, &inode)) return REAL(posix_fallocate)(fd, offset, size);
    step_begin();
    return fd_resize(fd, ALLOCATE, offset, size, REAL(posix_fallocate)(fd, offset, size));
}
EXPORTED int posix_fallocate64(int fd, off_t offset, off_t size) { return posix_fallocate(fd, offset, size); }

/* ---- names ---- */

static void name_append(int kind, const char *path, const char *other, uint64_t inode) {
    append((record){.kind = (uint32_t)kind, .inode = inode}, path, other, NULL, 0);
}

static uint64_t inode_of(int directory, const char *name) {
    struct stat status;
    return fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0 ? status.st_ino : 0;
}

/* Under the lock: open, and say what that did. */
static int open_and_say(int directory, const char *name, const char *path, int flags, mode_t mode) {
    bool was_there = inode_of(directory, name) != 0;
    int fd = REAL(openat)(directory, name, flags, mode);
    uint64_t inode;
    if (fd < 0 || !fd_inode(fd, &inode)) return fd;
    if (!was_there) name_append(CREATE, path, NULL, inode);
    if (was_there && flags & O_TRUNC) append((record){.kind = TRUNCATE, .inode = inode}, NULL, NULL, NULL, 0);
    return fd;
}

static int name_open(int directory, const char *name, int flags, mode_t mode) {
    char place[PATHS_SIZE];
    const char *path = flags & (O_CREAT | O_TRUNC) ? name_path(directory, name, place) : NULL;
    if (path == NULL) return REAL(openat)(directory, name, flags, mode);
    step_begin();
    int fd = open_and_say(directory, name, path, flags, mode);
    KEEP_ERRNO(record_end());
    return fd;
}

static mode_t mode_given(int flags, va_list given) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(given, mode_t) : 0;
}

#define OPENS(function)                                                                                      \
    EXPORTED int function(const char *name, int flags, ...) {                                                \
        va_list given;                                                                                       \
        va_start(given, flags);                                                                              \
        mode_t mode = mode_given(flags, given);                                                              \
        va_end(given);                                                                                       \
        return name_open(AT_FDCWD, name, flags, mode);                                                       \
    }
#define OPENS_AT(function)                                                                                   \
    EXPORTED int function(int directory, const char *name, int flags, ...) {                                 \
        va_list given;                                                                                       \
        va_start(given, flags);                                                                              \
        mode_t mode = mode_given(flags, given);                                                              \
        va_end(given);                                                                                       \
        return name_open(directory, name, flags, mode);                                                      \
    }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

EXPORTED int creat(const char *name, mode_t mode) {
    return name_open(AT_FDCWD, name, O_WRONLY | O_CREAT | O_TRUNC, mode);
}
EXPORTED int creat64(const char *name, mode_t mode) { return creat(name, mode); }

EXPORTED int mkdirat(int directory, const char *name, mode_t mode) {
    char place[PATHS_SIZE];
    const char *path = name_path(directory, name, place);
    if (path == NULL) return REAL(mkdirat)(directory, name, mode);
    step_begin();
    int status = REAL(mkdirat)(directory, name, mode);
    KEEP_ERRNO({
        if (status == 0) name_append(MKDIR, path, NULL, inode_of(directory, name));
        record_end();
    });
    return status;
}
EXPORTED int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

EXPORTED int unlinkat(int directory, const char *name, int flags) {
    char place[PATHS_SIZE];
    const char *path = name_path(directory, name, place);
    if (path == NULL) return REAL(unlinkat)(directory, name, flags);
    step_begin();
    int status = REAL(unlinkat)(directory, name, flags);
    KEEP_ERRNO({
        if (status == 0) name_append(flags & AT_REMOVEDIR ? RMDIR : UNLINK, path, NULL, 0);
        record_end();
    });
    return status;
}
EXPORTED int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
EXPORTED int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

/* A name that becomes another: both below the root, or neither. */
static int names_pair(int kind, int from, const char *old, int to, const char *new, unsigned flags) {
    char old_place[PATHS_SIZE], new_place[PATHS_SIZE];
    const char *old_path = name_path(from, old, old_place), *new_path = name_path(to, new, new_place);
    bool recorded = old_path != NULL || new_path != NULL;
    if (recorded) step_begin();
    int status = kind == LINK ? REAL(linkat)(from, old, to, new, (int)flags)
                              : REAL(renameat2)(from, old, to, new, flags);
    if (!recorded) return status;
    KEEP_ERRNO({
        bool plain = old_path != NULL && new_path != NULL && (kind == LINK || flags == 0);
        if (status == 0) name_append(plain ? kind : UNKNOWN, old_path, new_path, 0);
        record_end();
    });
    return status;
}
EXPORTED int rename(const char *old, const char *new) {
    return names_pair(RENAME, AT_FDCWD, old, AT_FDCWD, new, 0);
}
EXPORTED int renameat(int from, const char *old, int to, const char *new) {
    return names_pair(RENAME, from, old, to, new, 0);
}
EXPORTED int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    return names_pair(RENAME, from, old, to, new, flags);
}
EXPORTED int link(const char *old, const char *new) {
    return names_pair(LINK, AT_FDCWD, old, AT_FDCWD, new, 0);
}
EXPORTED int linkat(int from, const char *old, int to, const char *new, int flags) {
    return names_pair(LINK, from, old, to, new, (unsigned)flags);
}

/* ---- what the model knows nothing of ---- */

static void unknown(const char *call) {
    step_begin();
    append((record){.kind = UNKNOWN}, call, NULL, NULL, 0);
    record_end();
}

static void unknown_fd(int fd, const char *call) {
    uint64_t inode;
    if (fd_inode(fd, &inode)) KEEP_ERRNO(unknown(call));
}

EXPORTED int symlinkat(const char *target, int directory, const char *name) {
    char place[PATHS_SIZE];
    if (name_path(directory, name, place) != NULL) unknown("symlink");
    return REAL(symlinkat)(target, directory, name);
}
EXPORTED int symlink(const char *target, const char *name) { return symlinkat(target, AT_FDCWD, name); }
EXPORTED int fallocate(int fd, int mode, off_t offset, off_t size) {
    if (mode == 0) {
        int error = posix_fallocate(fd, offset, size);
        errno = error;
        return error ? -1 : 0;
    }
    unknown_fd(fd, "fallocate");
    return REAL(fallocate)(fd, mode, offset, size);
}
EXPORTED ssize_t copy_file_range(int from, off_t *at, int to, off_t *into, size_t size, unsigned flags) {
    unknown_fd(to, "copy_file_range");
    return REAL(copy_file_range)(from, at, to, into, size, flags);
}
EXPORTED ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    unknown_fd(to, "sendfile");
    return REAL(sendfile)(to, from, at, size);
}
EXPORTED ssize_t sendfile64(int to, int from, off_t *at, size_t size) { return sendfile(to, from, at, size); }
EXPORTED ssize_t splice(int from, off_t *at, int to, off_t *into, size_t size, unsigned flags) {
    unknown_fd(to, "splice");
    return REAL(splice)(from, at, to, into, size, flags);
}
EXPORTED ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    unknown_fd(fd, "pwritev2");
    return REAL(pwritev2)(fd, parts, count, offset, flags);
}

/* ---- for the program that is recorded ---- */

/* Something that the program says: what it is about to do, or what was acknowledged. */
EXPORTED void record_note(const void *data, size_t size) {
    if (log_fd < 0) return;
    step_begin();
    append((record){.kind = NOTE}, NULL, NULL, data, size);
    record_end();
}

/* This process is killed when it has made so many more records: between two calls, never inside one, and with all that it has
 * stored in mappings on record. */
EXPORTED void record_die_after(long count) { die_after = count; }

/* ---- begin ---- */

static void before_fork(void) { pthread_mutex_lock(&mutex); }
static void in_parent(void) { pthread_mutex_unlock(&mutex); }
static void in_child(void) {
    die_after = -1;
    syncs = 0;
    memset(mappings, 0, sizeof mappings);
    pthread_mutex_unlock(&mutex);
}

static int descriptor(const char *path, int flags) {
    int fd = REAL(open)(path, flags | O_CREAT | O_CLOEXEC, 0600);
    int high = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, LOG_FD_MIN);
    if (high < 0) give_up(path);
    REAL(close)(fd);
    return high;
}

static void __attribute__((constructor)) begin(void) {
    const char *directory = getenv("RECORD_ROOT"), *path = getenv("RECORD_LOG"),
               *pause = getenv("RECORD_SYNC");
    char lock[PATH_MAX];
    if (directory == NULL || path == NULL) return;
    if (realpath(directory, root) == NULL) give_up(directory);
    root_size = strlen(root);
    sync_pause = pause ? (useconds_t)atoi(pause) : 0;
    snprintf(lock, sizeof lock, "%s.lock", path);
    lock_fd = descriptor(lock, O_RDWR);
    log_fd = descriptor(path, O_WRONLY | O_APPEND);
    pthread_atfork(before_fork, in_parent, in_child);
}
