/* hs_lease.c - count what is held, show it, and go through a fork. See hs_lease.h. */
#define _GNU_SOURCE
#include "hs_lease.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "hs_err.h"

#define NAME_SIZE      (HS_LEASE_NAME_DIGITS + 1u)
#define TEMPORARY_SIZE (sizeof ".tmp-" + HS_LEASE_NAME_DIGITS)
#define NAME_ATTEMPTS  16
#define SPINS_MAX      100u

/* A table's file, open and locked. */
typedef struct shown_table {
    int fd; /* -1: none */
    uint8_t *base;
    size_t size;
    char name[NAME_SIZE];
} shown_table;

struct hs_leases {
    hs_word lock;
    uint64_t *words;           /* private, and what is true */
    uint64_t mask, used, live; /* used: words that are not empty; live: whose count is not 0 */
    hs_word *image;            /* words of the file, written along; NULL: nobody sees what changes */
    shown_table table;         /* without an image: frozen, of the parent or before it could not grow */
    char *directory;           /* NULL: never shown */
    const hs_word *collection;
    hs_leases *next; /* of this process, for fork */
};

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static hs_leases *all;
static pthread_once_t fork_handlers_once = PTHREAD_ONCE_INIT;

static void lock(hs_leases *leases) {
    unsigned spins = 0;
    for (uint64_t free = 0; !hs_cas_seq_cst(&leases->lock, &free, 1); free = 0)
        if (++spins > SPINS_MAX) sched_yield();
}

static void unlock(hs_leases *leases) { hs_store_release(&leases->lock, 0); }

/* ---- Files ---- */

static void name_draw(char name[NAME_SIZE]) {
    uint64_t number = 0;
    while (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number) continue;
    snprintf(name, NAME_SIZE, "%016llx", (unsigned long long)number);
}

void hs_lease_remove_if_free(const char *directory, const char *name) {
    int at = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (at < 0) return;
    int fd = -1;
    if (flock(at, LOCK_SH | LOCK_NB) == 0)
        fd = openat(at, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) (void)unlinkat(at, name, 0);
    if (fd >= 0) close(fd);
    close(at);
}

/* Let go of a table: whoever is the last to do so removes it. */
static void table_drop(hs_leases *leases, shown_table *table, bool is_shared) {
    if (table->fd < 0) return;
    munmap(table->base, table->size);
    close(table->fd);
    table->fd = -1;
    if (!is_shared) hs_lease_remove_if_free(leases->directory, table->name);
}

/* Room on the disk for all of it, or no table: a full disk must not become a signal later on. */
static int table_map(shown_table *table, size_t size) {
    int error;
    do error = posix_fallocate(table->fd, 0, (off_t)size);
    while (error == EINTR);
    if (error != 0) return hs_err_system(error);
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, table->fd, 0);
    if (base == MAP_FAILED) return hs_err_system(errno);
    table->base = base;
    table->size = size;
    return HS_OK;
}

static void table_fill(const hs_leases *leases, shown_table *table) {
    hs_lease_header header = {.magic = HS_LEASE_MAGIC, .words = leases->mask + 1, .pid = (uint64_t)getpid()};
    memcpy(table->base, &header, sizeof header);
    memcpy(table->base + sizeof header, leases->words, (size_t)(leases->mask + 1) * sizeof *leases->words);
}

/* A new table at a temporary name, locked, filled, then named. HS_NOT_FOUND: it was taken for a dead one's before it was locked. */
static int table_make(const hs_leases *leases, int at, shown_table *table) {
    char temporary[TEMPORARY_SIZE];
    name_draw(table->name);
    snprintf(temporary, sizeof temporary, ".tmp-%s", table->name);
    table->fd = openat(at, temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (table->fd < 0) return hs_err_system(errno);
    size_t size = sizeof(hs_lease_header) + (size_t)(leases->mask + 1) * sizeof *leases->words;
    (void)fchmod(table->fd, 0600);
    int status = flock(table->fd, LOCK_EX | LOCK_NB) == 0 ? table_map(table, size)
                 : errno == EWOULDBLOCK                   ? HS_NOT_FOUND
                                                          : hs_err_system(errno);
    if (status == HS_OK) {
        table_fill(leases, table);
        if (renameat(at, temporary, at, table->name) == 0) return HS_OK;
        status = errno == ENOENT ? HS_NOT_FOUND : hs_err_system(errno);
        munmap(table->base, table->size);
    }
    (void)unlinkat(at, temporary, 0);
    close(table->fd);
    table->fd = -1;
    return status;
}

/* Go on in a new table. `is_shared`: a forked child has the old one. With an error what is seen stays as it was, and is written no more. */
static int show(hs_leases *leases, bool is_shared) {
    shown_table before = leases->table, table = {.fd = -1};
    leases->image = NULL;
    int at = open(leases->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (at < 0) return hs_err_system(errno);
    int status = HS_NOT_FOUND;
    for (int i = 0; i < NAME_ATTEMPTS && status == HS_NOT_FOUND; i++) status = table_make(leases, at, &table);
    close(at);
    if (status != HS_OK) return status;
    leases->table = table;
    leases->image = (hs_word *)(void *)(table.base + sizeof(hs_lease_header));
    table_drop(leases, &before, is_shared);
    return HS_OK;
}

/* ---- Counting ---- */

static void word_set(hs_leases *leases, uint64_t at, uint64_t word) {
    leases->words[at] = word;
    if (leases->image) hs_store_relaxed(&leases->image[at], word); /* E27: the fence follows */
}

/* Enter a word into a table that has none of this tag. */
static void word_enter(uint64_t *words, uint64_t mask, uint64_t word) {
    uint64_t at = hs_lease_word_tag(word) & mask;
    while (words[at] != 0) at = (at + 1) & mask;
    words[at] = word;
}

/* Room for the live words and as many again, in another table. */
static bool rebuild(hs_leases *leases) {
    uint64_t count = HS_LEASE_WORDS_MIN;
    while (count < 2 * leases->live) count *= 2;
    uint64_t *words = calloc(count, sizeof *words);
    if (!words) return false;
    for (uint64_t at = 0; leases->words && at <= leases->mask; at++)
        if (hs_lease_word_count(leases->words[at]) != 0) word_enter(words, count - 1, leases->words[at]);
    free(leases->words);
    leases->words = words;
    leases->mask = count - 1;
    leases->used = leases->live;
    if (leases->image)
        (void)show(leases, false); /* without it nothing new is trusted; hs_leases_publish says why */
    return true;
}

/* Where this tag can be counted `times` more: a word of its own, else one that is free, else one that is empty. */
static uint64_t place_find(const hs_leases *leases, uint64_t tag, uint32_t times) {
    uint64_t none = UINT64_MAX, free = none;
    for (uint64_t at = tag & leases->mask;; at = (at + 1) & leases->mask) {
        uint64_t word = leases->words[at];
        if (word == 0) return free != none ? free : at;
        if (hs_lease_word_tag(word) == tag && hs_lease_word_count(word) + times <= HS_LEASE_COUNT_MAX)
            return at;
        if (hs_lease_word_count(word) == 0 && free == none) free = at;
    }
}

static bool count_more(hs_leases *leases, uint64_t tag, uint32_t times) {
    uint64_t room = leases->mask / 4 * 3;
    if (HS_UNLIKELY(leases->used >= room) && !rebuild(leases) && leases->used >= leases->mask) return false;
    uint64_t at = place_find(leases, tag, times), word = leases->words[at];
    leases->used += word == 0;
    leases->live += hs_lease_word_count(word) == 0;
    uint64_t before = hs_lease_word_tag(word) == tag ? hs_lease_word_count(word) : 0;
    word_set(leases, at, tag << HS_LEASE_COUNT_BITS | (before + times));
    return true;
}

/* A word's count has come to 0. If nothing stands behind it, it is empty, and so are free ones before it. */
static void word_free(hs_leases *leases, uint64_t at) {
    leases->live--;
    if (leases->words[(at + 1) & leases->mask] != 0) return;
    for (; leases->words[at] != 0 && hs_lease_word_count(leases->words[at]) == 0;
         at = (at - 1) & leases->mask) {
        word_set(leases, at, 0);
        leases->used--;
    }
}

static void count_less(hs_leases *leases, uint64_t tag, uint32_t times) {
    for (uint64_t at = tag & leases->mask; times > 0 && leases->words[at] != 0;
         at = (at + 1) & leases->mask) {
        uint64_t word = leases->words[at], count = hs_lease_word_count(word);
        if (hs_lease_word_tag(word) != tag || count == 0) continue;
        uint32_t less = count < times ? (uint32_t)count : times;
        times -= less;
        word_set(leases, at, word - less);
        if (less == count) word_free(leases, at);
    }
}

enum hs_lease_result hs_lease_add(hs_leases *leases, const uint8_t root[32], uint32_t times) {
    if (!leases) return HS_LEASE_TRUSTED;
    lock(leases);
    enum hs_lease_result result = HS_LEASE_NONE;
    if (count_more(leases, hs_lease_tag(root), times)) {
        hs_fence_seq_cst(); /* E27: I hold it, before I look whether a collection has read what is held */
        bool seen = leases->image != NULL || leases->directory == NULL;
        result = seen && leases->collection && hs_load_relaxed(leases->collection) == 0 ? HS_LEASE_TRUSTED
                                                                                        : HS_LEASE_HELD;
    }
    unlock(leases);
    return result;
}

void hs_lease_drop(hs_leases *leases, const uint8_t root[32], uint32_t times) {
    if (!leases) return;
    lock(leases);
    count_less(leases, hs_lease_tag(root), times);
    unlock(leases);
}

uint64_t hs_lease_collection(hs_leases *leases) {
    lock(leases);
    uint64_t word = leases->collection ? hs_load_acquire(leases->collection) : 1;
    unlock(leases);
    return word;
}

bool hs_lease_is_under(hs_leases *leases, uint64_t collection) {
    lock(leases);
    hs_fence_seq_cst(); /* E27 */
    bool same = (leases->image != NULL || leases->directory == NULL) && leases->collection &&
                (collection & 1) == 0 && hs_load_relaxed(leases->collection) == collection;
    unlock(leases);
    return same;
}

void hs_leases_watch(hs_leases *leases, const hs_word *collection) {
    lock(leases);
    leases->collection = collection;
    unlock(leases);
}

uint64_t hs_leases_count(hs_leases *leases) {
    lock(leases);
    uint64_t live = leases->live;
    unlock(leases);
    return live;
}

/* ---- Fork ---- */

static void fork_prepare(void) {
    pthread_mutex_lock(&all_lock);
    for (hs_leases *leases = all; leases; leases = leases->next) lock(leases);
}

static void fork_parent(void) {
    for (hs_leases *leases = all; leases; leases = leases->next) {
        if (leases->image) (void)show(leases, true);
        unlock(leases);
    }
    pthread_mutex_unlock(&all_lock);
}

static void fork_child(void) {
    for (hs_leases *leases = all; leases; leases = leases->next) {
        leases->image = NULL;
        leases->collection = NULL;
        unlock(leases);
    }
    pthread_mutex_unlock(&all_lock);
}

static void fork_handlers_install(void) { (void)pthread_atfork(fork_prepare, fork_parent, fork_child); }

void hs_lease_fork_handlers(void) { pthread_once(&fork_handlers_once, fork_handlers_install); }

/* ---- Life ---- */

static void all_add(hs_leases *leases) {
    hs_lease_fork_handlers();
    pthread_mutex_lock(&all_lock);
    leases->next = all;
    all = leases;
    pthread_mutex_unlock(&all_lock);
}

static void all_remove(hs_leases *leases) {
    pthread_mutex_lock(&all_lock);
    for (hs_leases **link = &all; *link; link = &(*link)->next) {
        if (*link != leases) continue;
        *link = leases->next;
        break;
    }
    pthread_mutex_unlock(&all_lock);
}

/* The directory, and what is made in it, are the user's alone, whatever the umask says. */
static int directory_make(const char *directory) {
    if (mkdir(directory, 0700) == 0) return chmod(directory, 0700) == 0 ? HS_OK : hs_err_system(errno);
    return errno == EEXIST ? HS_OK : hs_err_system(errno);
}

int hs_leases_open(const char *directory, hs_leases **out) {
    hs_leases *leases = calloc(1, sizeof *leases);
    if (!leases) return HS_NO_MEMORY;
    leases->table.fd = -1;
    leases->directory = directory ? strdup(directory) : NULL;
    int status = rebuild(leases) && (!directory || leases->directory) ? HS_OK : HS_NO_MEMORY;
    if (status == HS_OK && directory) {
        status = directory_make(directory);
        if (status == HS_OK) status = show(leases, false);
    }
    if (status != HS_OK) {
        free(leases->words);
        free(leases->directory);
        free(leases);
        return status;
    }
    all_add(leases);
    *out = leases;
    return HS_OK;
}

int hs_leases_publish(hs_leases *leases) {
    lock(leases);
    int status = leases->image || !leases->directory ? HS_OK : show(leases, false);
    hs_fence_seq_cst(); /* E27: it is seen, before I look at the collection word */
    unlock(leases);
    return status;
}

void hs_leases_withdraw(hs_leases *leases) {
    lock(leases);
    leases->image = NULL;
    leases->collection = NULL;
    table_drop(leases, &leases->table, false);
    unlock(leases);
}

void hs_leases_close(hs_leases *leases) {
    if (!leases) return;
    all_remove(leases);
    hs_leases_withdraw(leases);
    free(leases->words);
    free(leases->directory);
    free(leases);
}
