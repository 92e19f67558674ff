/* hs_files: work on many files below one directory, several at a time: list, read and hash, write, link, remove.
 *
 *   jobs   [ a/1 a/2 | b/1 b/2 b/3 | ... ]   a thread takes the next block of jobs, and keeps open the directory of the last one
 *   root --openat2(RESOLVE_BENEATH, no link followed)--> directory of the job --openat2, one name--> the file
 *
 * Invariants
 *   - Nothing outside `root` is opened, made or removed, whatever the names say and whatever others do meanwhile: every path is
 *     resolved beneath it by the kernel, without following a symbolic link, and the last step is one name in an open directory.
 *   - A file that replaces another is written under a name of its own, HS_FILES_TEMPORARY and 16 digits, and renamed. One that is
 *     new is made under its name, and removed if it could not be written to its end.
 *   - Jobs that change one directory, and stand together, are one thread's: two would only wait for each other.
 *   - Jobs of one run do not depend on each other: they are done in any order.
 *
 * Linux 5.6 or later; before, every job ends in ENOSYS. Who may call it: csrc/python, without the GIL. A run belongs to one thread. */
#ifndef HS_FILES_H
#define HS_FILES_H
#include <pthread.h>
#include "hs_atomic.h"
#include "hs_base.h"

#define HS_FILES_TEMPORARY   ".helios-tmp-"
#define HS_FILES_WORKERS_MAX 64u

enum hs_files_what {
    HS_FILES_LIST,    /* the names in a directory, each with what fstatat says of it */
    HS_FILES_READ,    /* a file, or with HS_FILES_IS_LINK the target of a symbolic link */
    HS_FILES_WRITE,   /* a file of these bytes, or with `source` of that file's */
    HS_FILES_SYMLINK, /* a link whose target is bytes, which end in a 0 that does not count */
    HS_FILES_MAKE,    /* a directory; one that is there will do */
    HS_FILES_REMOVE,  /* whatever is no directory; what is not there will do */
    HS_FILES_REMOVE_DIR,
    HS_FILES_LOOK /* is the stat of a file that of `bytes` (hs_files_stat, at any address)? ESTALE: no */
};
enum hs_files_flag {
    HS_FILES_REPLACE = 16,    /* something may be there: write beside it and rename */
    HS_FILES_EXECUTABLE = 32, /* a file with the executable bit */
    HS_FILES_HARD = 64,       /* link `source` where that can be done; else copy */
    HS_FILES_CLONE = 128,     /* share the blocks of `source` where that can be done; else copy */
    HS_FILES_KEEP = 256,      /* hand over the bytes that were read */
    HS_FILES_IS_LINK = 512
};
enum hs_files_kind { HS_FILES_OTHER = 15 }; /* beside enum hs_value_kind: a socket, a pipe, a device */

/* What a file is known by: all that changes when it does. Kept on disk as it stands (docs/FORMAT.md, worktrees). */
typedef struct hs_files_stat {
    uint64_t size;
    int64_t mtime_ns, ctime_ns;
    uint64_t inode, device;
    uint64_t kind; /* enum hs_value_kind or HS_FILES_OTHER */
} hs_files_stat;
_Static_assert(sizeof(hs_files_stat) == 48, "rows of an index have 48 bytes of it");

typedef struct hs_files_job {
    uint32_t what; /* enum hs_files_what and flags */
    int error;     /* out: an errno, or 0 */
    const char *path, *source;
    const uint8_t *bytes;
    size_t size;
    hs_files_stat stat; /* out */
    uint8_t id[32];     /* out of READ */
    uint8_t *out;       /* out of LIST: hs_files_name after hs_files_name; of READ with KEEP. From malloc */
    size_t out_size;
} hs_files_job;

/* One name of a listing; the name follows, with a 0 behind it, and what comes next begins at a multiple of 8. */
typedef struct hs_files_name {
    hs_files_stat stat;
    uint32_t name_size, size; /* of the name without its 0; of all this */
} hs_files_name;

typedef struct hs_files_run {
    int root;
    hs_files_job *jobs;
    uint64_t count;
    uint32_t *blocks; /* where each begins; one more, the end */
    uint64_t block_count;
    hs_word next;   /* the first block that nobody has taken */
    hs_word done;   /* jobs that have ended */
    hs_word32 stop; /* 1: end soon; jobs that were not done have ECANCELED */
    unsigned workers;
    pthread_t threads[HS_FILES_WORKERS_MAX];
} hs_files_run;

/* Do all jobs in this thread. */
void hs_files_do(int root, hs_files_job *jobs, size_t count);
/* Begin to do them in as many threads; what cannot be started is done without. 0 or an errno. */
int hs_files_begin(hs_files_run *run, int root, hs_files_job *jobs, size_t count, unsigned workers);
/* Wait for the end, at most wait_ms (<= 50). */
bool hs_files_wait(hs_files_run *run, unsigned wait_ms);
void hs_files_stop(hs_files_run *run);
/* Wait for the threads, after which nobody uses the jobs. */
void hs_files_end(hs_files_run *run);
/* Free what the jobs handed over. */
void hs_files_free(hs_files_job *jobs, size_t count);

/* A directory below root (".": root itself), as a descriptor, or -errno. */
int hs_files_directory(int root, const char *path);
#endif
