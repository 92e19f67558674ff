/* hs_files.c: see hs_files.h. */
#define _GNU_SOURCE
#include "hs_files.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "helios_shm.h"
#include "hs_blake3.h"
#include "hs_clock.h"
#include "hs_futex.h"
#include "hs_node.h"

#define BLOCK      32u /* jobs that change nothing: so many are taken at a time */
#define PIECE      (1u << 20)
#define LIST_BYTES (32u << 10)
#define LOOKS_MAX  8 /* at a file that others write to meanwhile */
#define OPEN_AGAIN 64
#define TARGET_MAX 4096u
#define DIRECTORY  (O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* What one thread has at hand: the directory that it looked at last, and which that is. */
typedef struct worker {
    int root, dir;
    const char *dir_path; /* inside a job's path */
    size_t dir_size;
    const hs_word32 *stop;
} worker;

/* --- opening beneath --- */

static int open_beneath(int at, const char *path, uint64_t flags, uint64_t mode) {
    struct open_how how = {.flags = flags | O_CLOEXEC,
                           .mode = mode,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    for (int i = 0; i < OPEN_AGAIN; i++) {
        long fd = syscall(SYS_openat2, at, path, &how, sizeof how);
        if (fd >= 0) return (int)fd;
        if (errno != EAGAIN && errno != EINTR) return -errno; /* EAGAIN: something was renamed on the way */
    }
    return -EAGAIN;
}

int hs_files_directory(int root, const char *path) {
    return open_beneath(root, path, O_RDONLY | DIRECTORY, 0);
}

static const char *name_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool name_is_plain(const char *name) {
    return name[0] && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* The directory that a job's path is in, open until the next one is asked for; or -errno. */
static int directory_of(worker *me, const char *path, const char *name) {
    size_t size = name == path ? 0 : (size_t)(name - path) - 1;
    if (!name_is_plain(name)) return -EINVAL;
    if (me->dir >= 0 && size == me->dir_size && memcmp(path, me->dir_path, size) == 0) return me->dir;
    if (me->dir >= 0) close(me->dir);
    char whole[PATH_MAX];
    me->dir = -1;
    if (size >= sizeof whole) return -ENAMETOOLONG;
    memcpy(whole, size ? path : ".", size ? size : 1);
    whole[size ? size : 1] = 0;
    me->dir = open_beneath(me->root, whole, O_PATH | DIRECTORY, 0);
    me->dir_path = path;
    me->dir_size = size;
    return me->dir;
}

/* --- what a file is --- */

static uint64_t kind_of(mode_t mode) {
    if (S_ISREG(mode)) return mode & S_IXUSR ? HS_KIND_EXECUTABLE : HS_KIND_FILE;
    return S_ISLNK(mode) ? HS_KIND_SYMLINK : S_ISDIR(mode) ? HS_KIND_DIRECTORY : HS_FILES_OTHER;
}

static int64_t ns_of(const struct timespec *t) { return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec; }

static void stat_take(hs_files_stat *out, const struct stat *s) {
    *out = (hs_files_stat){.size = (uint64_t)s->st_size,
                           .mtime_ns = ns_of(&s->st_mtim),
                           .ctime_ns = ns_of(&s->st_ctim),
                           .inode = s->st_ino,
                           .device = s->st_dev,
                           .kind = kind_of(s->st_mode)};
}

static int stat_at(int dir, const char *name, hs_files_stat *out) {
    struct stat s;
    if (fstatat(dir, name, &s, AT_SYMLINK_NOFOLLOW) != 0) return errno;
    stat_take(out, &s);
    return 0;
}

static int stat_fd(int fd, hs_files_stat *out) {
    struct stat s;
    if (fstat(fd, &s) != 0) return errno;
    stat_take(out, &s);
    return 0;
}

/* --- listing --- */

typedef struct linux_dirent {
    uint64_t inode;
    int64_t offset;
    uint16_t size;
    uint8_t type;
    char name[];
} linux_dirent;

static int name_add(hs_files_job *job, size_t *room, int dir, const char *name) {
    hs_files_name head = {.name_size = (uint32_t)strlen(name)};
    int error = stat_at(dir, name, &head.stat);
    if (error) return error == ENOENT ? 0 : error;
    head.size = (uint32_t)hs_align_up(sizeof head + head.name_size + 1, 8);
    if (job->out_size + head.size > *room) {
        size_t wanted = 2 * *room + LIST_BYTES;
        uint8_t *larger = realloc(job->out, wanted);
        if (!larger) return ENOMEM;
        job->out = larger;
        *room = wanted;
    }
    memcpy(job->out + job->out_size, &head, sizeof head);
    memcpy(job->out + job->out_size + sizeof head, name, head.name_size + 1);
    job->out_size += head.size;
    return 0;
}

static int list_open(hs_files_job *job, int dir) {
    _Alignas(8) char buffer[LIST_BYTES];
    size_t room = 0;
    for (;;) {
        long got = syscall(SYS_getdents64, dir, buffer, sizeof buffer);
        if (got <= 0) return got == 0 ? 0 : errno;
        for (long at = 0; at < got;) {
            const linux_dirent *entry = (const linux_dirent *)(void *)(buffer + at);
            at += entry->size;
            int error = name_is_plain(entry->name) ? name_add(job, &room, dir, entry->name) : 0;
            if (error) return error;
        }
    }
}

static int list(worker *me, hs_files_job *job) {
    int dir = hs_files_directory(me->root, job->path);
    if (dir < 0) return -dir;
    int error = list_open(job, dir);
    close(dir);
    return error;
}

/* --- reading --- */

static bool is_stopped(const worker *me) { return me->stop && hs_load32_relaxed(me->stop); }

/* To the end of the file; *size is what there is room for, and becomes what was read. One byte more than expected: too much. */
static int read_all(worker *me, int fd, uint8_t *to, size_t *size) {
    size_t done = 0;
    while (done < *size) {
        if (is_stopped(me)) return ECANCELED;
        size_t piece = *size - done < PIECE ? *size - done : PIECE;
        ssize_t got = read(fd, to + done, piece);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return errno;
        if (got == 0) break;
        done += (size_t)got;
    }
    *size = done;
    return 0;
}

/* Once: EAGAIN if the file was written to meanwhile. */
static int read_once(worker *me, int fd, hs_files_job *job) {
    hs_files_stat after;
    int error = stat_fd(fd, &job->stat);
    if (error) return error;
    if (job->stat.kind > HS_KIND_EXECUTABLE) return EISDIR;
    if (job->stat.size > HS_VALUE_SIZE_MAX) return EFBIG;
    size_t size = (size_t)job->stat.size + 1;
    uint8_t *bytes = malloc(size);
    if (!bytes) return ENOMEM;
    error = lseek(fd, 0, SEEK_SET) < 0 ? errno : read_all(me, fd, bytes, &size);
    if (!error) error = stat_fd(fd, &after);
    if (!error && (size != job->stat.size || memcmp(&after, &job->stat, sizeof after) != 0)) error = EAGAIN;
    if (!error) hs_blake3(bytes, size, job->id);
    if (error || !(job->what & HS_FILES_KEEP)) {
        free(bytes);
    } else {
        job->out = bytes;
        job->out_size = size;
    }
    return error;
}

static int read_link(hs_files_job *job, int dir, const char *name) {
    char target[TARGET_MAX];
    int error = stat_at(dir, name, &job->stat);
    if (error) return error;
    ssize_t size = readlinkat(dir, name, target, sizeof target);
    if (size < 0) return errno;
    hs_blake3((const uint8_t *)target, (size_t)size, job->id);
    if (!(job->what & HS_FILES_KEEP)) return 0;
    job->out = malloc((size_t)size + 1);
    if (!job->out) return ENOMEM;
    memcpy(job->out, target, (size_t)size);
    job->out_size = (size_t)size;
    return 0;
}

static int read_file(worker *me, hs_files_job *job, int dir, const char *name) {
    if (job->what & HS_FILES_IS_LINK) return read_link(job, dir, name);
    /* Not to wait, should it have become a pipe. */
    int fd = open_beneath(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0) return -fd;
    int error = EAGAIN;
    for (int i = 0; i < LOOKS_MAX && error == EAGAIN; i++) error = read_once(me, fd, job);
    close(fd);
    return error;
}

/* --- writing --- */

static int write_bytes(worker *me, int fd, const uint8_t *bytes, size_t size) {
    while (size > 0) {
        if (is_stopped(me)) return ECANCELED;
        ssize_t done = write(fd, bytes, size < PIECE ? size : PIECE);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return errno;
        bytes += done;
        size -= (size_t)done;
    }
    return 0;
}

static int copy_by_hand(worker *me, int fd, int from) {
    uint8_t *piece = malloc(PIECE);
    if (!piece) return ENOMEM;
    int error = 0;
    for (;;) {
        ssize_t got = read(from, piece, PIECE);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) error = errno;
        if (got <= 0 || (error = write_bytes(me, fd, piece, (size_t)got)) != 0) break;
    }
    free(piece);
    return error;
}

/* The bytes of `source`, by the kernel where it can. */
static int write_source(worker *me, int fd, const hs_files_job *job) {
    int from = open(job->source, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), error = 0;
    if (from < 0) return errno;
    if ((job->what & HS_FILES_CLONE) && ioctl(fd, FICLONE, from) == 0) {
        close(from);
        return 0;
    }
    for (;;) {
        if (is_stopped(me)) error = ECANCELED;
        ssize_t done = error ? 0 : copy_file_range(from, NULL, fd, NULL, 8 * PIECE, 0);
        if (done > 0) continue;
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) {
            bool cannot = errno == EXDEV || errno == EINVAL || errno == EOPNOTSUPP || errno == ENOSYS;
            error = cannot ? copy_by_hand(me, fd, from) : errno;
        }
        break;
    }
    close(from);
    return error;
}

/* The umask has its say in everything but the bit that the state keeps. */
static int executable_set(int fd, const hs_files_job *job, hs_files_stat *stat) {
    struct stat s;
    uint64_t wanted = job->what & HS_FILES_EXECUTABLE ? HS_KIND_EXECUTABLE : HS_KIND_FILE;
    if (stat->kind == wanted) return 0;
    if (fstat(fd, &s) != 0) return errno;
    mode_t mode = s.st_mode & 0777;
    mode = wanted == HS_KIND_EXECUTABLE ? mode | S_IXUSR : mode & (mode_t) ~(S_IXUSR | S_IXGRP | S_IXOTH);
    return fchmod(fd, mode) != 0 ? errno : stat_fd(fd, stat);
}

static int fill(worker *me, int fd, hs_files_job *job) {
    int error = job->source ? write_source(me, fd, job) : write_bytes(me, fd, job->bytes, job->size);
    if (!error) error = stat_fd(fd, &job->stat);
    return error ? error : executable_set(fd, job, &job->stat);
}

static hs_word temporaries;

static void temporary_name(char out[64]) {
    uint64_t number =
        ((uint64_t)getpid() << 32) ^ hs_add_relaxed(&temporaries, 1) ^ hs_clock_ns(CLOCK_MONOTONIC) << 8;
    snprintf(out, 64, HS_FILES_TEMPORARY "%016llx", (unsigned long long)number);
}

/* Put what was made as `made` in its place. A rename changes ctime, so the file is looked at behind it. */
static int put_in_place(int dir, const char *made, const char *name, hs_files_stat *stat) {
    if (made == name) return 0;
    int error = renameat(dir, made, dir, name) != 0 ? errno : 0;
    return error ? error : stat_at(dir, name, stat);
}

static int link_source(const hs_files_job *job, int dir, const char *name) {
    return linkat(AT_FDCWD, job->source, dir, name, 0) == 0;
}

static int write_file(worker *me, hs_files_job *job, int dir, const char *name) {
    char temporary[64];
    bool replace = (job->what & HS_FILES_REPLACE) != 0;
    if (replace) temporary_name(temporary);
    const char *made = replace ? temporary : name;
    int error;
    if ((job->what & HS_FILES_HARD) && job->source && link_source(job, dir, made)) {
        error = stat_at(dir, made, &job->stat);
    } else {
        uint64_t mode = job->what & HS_FILES_EXECUTABLE ? 0777 : 0666;
        int fd = open_beneath(dir, made, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
        if (fd < 0) return -fd;
        error = fill(me, fd, job);
        if (close(fd) != 0 && !error) error = errno;
    }
    if (!error) error = put_in_place(dir, made, name, &job->stat);
    if (error) unlinkat(dir, made, 0);
    return error;
}

static int make_link(hs_files_job *job, int dir, const char *name) {
    char temporary[64];
    bool replace = (job->what & HS_FILES_REPLACE) != 0;
    if (replace) temporary_name(temporary);
    const char *made = replace ? temporary : name;
    if (symlinkat((const char *)job->bytes, dir, made) != 0) return errno;
    int error = put_in_place(dir, made, name, &job->stat);
    if (!error && !replace) error = stat_at(dir, name, &job->stat);
    if (error) unlinkat(dir, made, 0);
    return error;
}

static int make_directory(hs_files_job *job, int dir, const char *name) {
    if (mkdirat(dir, name, 0777) != 0 && errno != EEXIST) return errno;
    int error = stat_at(dir, name, &job->stat);
    return error ? error : job->stat.kind == HS_KIND_DIRECTORY ? 0 : ENOTDIR;
}

static int remove_name(hs_files_job *job, int dir, const char *name) {
    bool directory = (job->what & 15) == HS_FILES_REMOVE_DIR;
    return unlinkat(dir, name, directory ? AT_REMOVEDIR : 0) == 0 || errno == ENOENT ? 0 : errno;
}

/* Of a directory without times, the kind is all that is asked for. */
static int look(const hs_files_job *job, int dir, const char *name) {
    hs_files_stat then, now;
    memcpy(&then, job->bytes, sizeof then);
    int error = stat_at(dir, name, &now);
    if (error) return error;
    if (then.kind == HS_KIND_DIRECTORY && then.kind == now.kind && !then.mtime_ns && !then.ctime_ns) return 0;
    return memcmp(&now, &then, sizeof now) ? ESTALE : 0;
}

/* --- jobs --- */

static int job_do(worker *me, hs_files_job *job) {
    if (is_stopped(me)) return ECANCELED;
    if ((job->what & 15) == HS_FILES_LIST) return list(me, job);
    const char *name = name_of(job->path);
    int dir = directory_of(me, job->path, name);
    if (dir < 0) return -dir;
    switch (job->what & 15) {
    case HS_FILES_READ:
        return read_file(me, job, dir, name);
    case HS_FILES_WRITE:
        return write_file(me, job, dir, name);
    case HS_FILES_SYMLINK:
        return make_link(job, dir, name);
    case HS_FILES_MAKE:
        return make_directory(job, dir, name);
    case HS_FILES_LOOK:
        return look(job, dir, name);
    case HS_FILES_REMOVE:
    case HS_FILES_REMOVE_DIR:
        return remove_name(job, dir, name);
    default:
        return EINVAL;
    }
}

static void jobs_do(worker *me, hs_files_job *jobs, size_t count) {
    for (size_t i = 0; i < count; i++) jobs[i].error = job_do(me, &jobs[i]);
    if (me->dir >= 0) close(me->dir);
    me->dir = -1;
}

void hs_files_do(int root, hs_files_job *jobs, size_t count) {
    worker me = {.root = root, .dir = -1};
    jobs_do(&me, jobs, count);
}

static void *work(void *context) {
    hs_files_run *run = context;
    worker me = {.root = run->root, .dir = -1, .stop = &run->stop};
    for (;;) {
        uint64_t block = hs_add_relaxed(&run->next, 1);
        if (block >= run->block_count) return NULL;
        uint64_t from = run->blocks[block], count = run->blocks[block + 1] - from;
        jobs_do(&me, run->jobs + from, count);
        if (hs_add_seq_cst(&run->done, count) + count == run->count)
            hs_futex_wake_all(hs_futex_half(&run->done));
    }
}

static bool changes(const hs_files_job *job) {
    uint32_t what = job->what & 15;
    return what >= HS_FILES_WRITE && what != HS_FILES_LOOK;
}

static bool same_directory(const hs_files_job *a, const hs_files_job *b) {
    size_t size = (size_t)(name_of(a->path) - a->path);
    return size == (size_t)(name_of(b->path) - b->path) && memcmp(a->path, b->path, size) == 0;
}

/* Divide the jobs into blocks. */
static bool blocks_make(hs_files_run *run) {
    run->blocks = malloc((run->count + 1) * sizeof *run->blocks);
    if (!run->blocks) return false;
    for (uint64_t i = 0, begin = 0; i < run->count; i++) {
        const hs_files_job *job = &run->jobs[i];
        bool on = i > 0 && (changes(job) ? same_directory(job - 1, job) : i - begin < BLOCK);
        if (on) continue;
        run->blocks[run->block_count++] = (uint32_t)i;
        begin = i;
    }
    run->blocks[run->block_count] = (uint32_t)run->count;
    return true;
}

/* Threads that are to see no signal: those are for who waits. */
int hs_files_begin(hs_files_run *run, int root, hs_files_job *jobs, size_t count, unsigned workers) {
    *run = (hs_files_run){.root = root, .jobs = jobs, .count = count};
    if (!blocks_make(run)) return ENOMEM;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    if (workers > HS_FILES_WORKERS_MAX) workers = HS_FILES_WORKERS_MAX;
    while (run->workers < workers && !error)
        if ((error = pthread_create(&run->threads[run->workers], NULL, work, run)) == 0) run->workers++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return run->workers ? 0 : error;
}

bool hs_files_wait(hs_files_run *run, unsigned wait_ms) {
    uint64_t done = hs_load_acquire(&run->done);
    if (done < run->count) hs_futex_wait(hs_futex_half(&run->done), (uint32_t)done, wait_ms);
    return hs_load_acquire(&run->done) >= run->count;
}

void hs_files_stop(hs_files_run *run) { hs_store32_relaxed(&run->stop, 1); }

void hs_files_end(hs_files_run *run) {
    for (unsigned i = 0; i < run->workers; i++) pthread_join(run->threads[i], NULL);
    run->workers = 0;
    free(run->blocks);
    run->blocks = NULL;
}

void hs_files_free(hs_files_job *jobs, size_t count) {
    for (size_t i = 0; i < count; i++) {
        free(jobs[i].out);
        jobs[i].out = NULL;
    }
}
