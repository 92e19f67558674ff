/* hs_lease_view.c - all tables of leases, as the coordinator reads them: again and again, and only what has changed. See hs_lease.h.
 *
 * The listing is made with the directory's lock, which whoever removes a table shares: so each table that was there when the listing
 * began is read, and of two of one process, of which the later was named meanwhile, the earlier. A table of the dead is read like
 * any other: it may be the only witness of what its process's child, or parent, has held all the time. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "hs_err.h"
#include "hs_lease.h"

#define BLOCK_WORDS   512u
#define LOCK_TRIES    50
#define LOCK_PAUSE_NS 200000L

/* One table, mapped, and its words as they were at the last reading. */
typedef struct seen_table {
    struct seen_table *next;
    dev_t device;
    ino_t inode;
    const uint8_t *base;
    size_t size;
    uint64_t words;
    uint64_t *copy;
    bool listed;
} seen_table;

struct hs_lease_view {
    char *directory;
    seen_table *tables;
};

int hs_lease_view_open(const char *directory, hs_lease_view **out) {
    hs_lease_view *view = calloc(1, sizeof *view);
    if (view) view->directory = strdup(directory);
    if (!view || !view->directory) {
        free(view);
        return HS_NO_MEMORY;
    }
    *out = view;
    return HS_OK;
}

static void table_free(seen_table *table) {
    munmap((void *)(uintptr_t)table->base, table->size);
    free(table->copy);
    free(table);
}

void hs_lease_view_close(hs_lease_view *view) {
    if (!view) return;
    while (view->tables) {
        seen_table *table = view->tables;
        view->tables = table->next;
        table_free(table);
    }
    free(view->directory);
    free(view);
}

/* Take the directory's lock; who shares it holds it for microseconds, or was stopped. */
static int directory_lock(int fd) {
    for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; i++) {
        if (errno != EWOULDBLOCK && errno != EINTR) return hs_err_system(errno);
        if (i == LOCK_TRIES) return HS_TIMED_OUT;
        nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
    }
    return HS_OK;
}

static bool is_table_name(const char *name) {
    return strspn(name, "0123456789abcdef") == HS_LEASE_NAME_DIGITS && name[HS_LEASE_NAME_DIGITS] == '\0';
}

static seen_table *table_known(const hs_lease_view *view, const struct stat *status) {
    seen_table *table = view->tables;
    while (table && (table->device != status->st_dev || table->inode != status->st_ino ||
                     table->size != (size_t)status->st_size))
        table = table->next;
    return table;
}

/* Map a table that is new. HS_NOT_FOUND: it is none. */
static int table_add(hs_lease_view *view, int fd, const struct stat *status, seen_table **out) {
    size_t size = (size_t)status->st_size;
    if (!S_ISREG(status->st_mode) || size < sizeof(hs_lease_header)) return HS_NOT_FOUND;
    void *base = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) return hs_err_system(errno);
    hs_lease_header header;
    memcpy(&header, base, sizeof header);
    bool fits = header.magic == HS_LEASE_MAGIC && header.words == (size - sizeof header) / sizeof(uint64_t) &&
                header.words > 0;
    seen_table *table = fits ? calloc(1, sizeof *table) : NULL;
    if (table) table->copy = calloc(header.words, sizeof *table->copy);
    if (!table || !table->copy) {
        free(table);
        munmap(base, size);
        return fits ? HS_NO_MEMORY : HS_NOT_FOUND;
    }
    table->device = status->st_dev;
    table->inode = status->st_ino;
    table->base = base;
    table->size = size;
    table->words = header.words;
    table->next = view->tables;
    view->tables = table;
    *out = table;
    return HS_OK;
}

/* Mark the tags of a block's words that were not held at the last reading. Their owner may write meanwhile: what it holds since the
 * coordinator's fence it does not trust. */
static int64_t block_read(seen_table *table, uint64_t first, uint64_t count, hs_mark *mark) {
    const hs_word *words = (const hs_word *)(const void *)(table->base + sizeof(hs_lease_header));
    int64_t unknown = 0;
    for (uint64_t at = first; at < first + count; at++) {
        uint64_t word = hs_load_relaxed(&words[at]), before = table->copy[at];
        table->copy[at] = word;
        if (hs_lease_word_count(word) == 0) continue;
        if (hs_lease_word_count(before) != 0 && hs_lease_word_tag(before) == hs_lease_word_tag(word))
            continue;
        int status = hs_mark_lease(mark, hs_lease_word_tag(word));
        if (status < 0) return status;
        unknown += status;
    }
    return unknown;
}

static int64_t table_read(seen_table *table, hs_mark *mark) {
    int64_t unknown = 0;
    for (uint64_t at = 0; at < table->words; at += BLOCK_WORDS) {
        uint64_t count = table->words - at < BLOCK_WORDS ? table->words - at : BLOCK_WORDS;
        const uint8_t *block = table->base + sizeof(hs_lease_header) + at * sizeof(uint64_t);
        if (memcmp(block, table->copy + at, count * sizeof(uint64_t)) == 0) continue;
        int64_t found = block_read(table, at, count, mark);
        if (found < 0) return found;
        unknown += found;
    }
    return unknown;
}

/* Open what is listed. It was there when the listing began, and nobody removes it: what cannot be opened is an error. */
static int tables_open(hs_lease_view *view, int at, DIR *listing) {
    struct dirent *entry;
    while ((entry = readdir(listing)) != NULL) {
        if (!is_table_name(entry->d_name)) continue;
        int fd = openat(at, entry->d_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0) return hs_err_system(errno);
        struct stat status;
        int result = fstat(fd, &status) == 0 ? HS_OK : hs_err_system(errno);
        seen_table *table = result == HS_OK ? table_known(view, &status) : NULL;
        if (result == HS_OK && !table) result = table_add(view, fd, &status, &table);
        close(fd);
        if (table) table->listed = true;
        if (result != HS_OK && result != HS_NOT_FOUND) return result;
    }
    return HS_OK;
}

static int tables_list(hs_lease_view *view) {
    for (seen_table *table = view->tables; table; table = table->next) table->listed = false;
    DIR *listing = opendir(view->directory);
    if (!listing) return errno == ENOENT ? HS_OK : hs_err_system(errno);
    int status = directory_lock(dirfd(listing));
    if (status == HS_OK) {
        rewinddir(listing);
        status = tables_open(view, dirfd(listing), listing);
    }
    closedir(listing);
    return status;
}

/* Forget tables that have gone. */
static void tables_sweep(hs_lease_view *view) {
    for (seen_table **link = &view->tables; *link;) {
        seen_table *table = *link;
        if (table->listed) {
            link = &table->next;
            continue;
        }
        *link = table->next;
        table_free(table);
    }
}

int64_t hs_lease_view_read(hs_lease_view *view, hs_mark *mark) {
    int status = tables_list(view);
    if (status != HS_OK) return status;
    tables_sweep(view);
    int64_t unknown = 0;
    for (seen_table *table = view->tables; table; table = table->next) {
        int64_t found = table_read(table, mark);
        if (found < 0) return found;
        unknown += found;
    }
    return unknown;
}

int hs_lease_drop_dead(const char *directory) {
    DIR *listing = opendir(directory);
    if (!listing) return errno == ENOENT ? 0 : hs_err_system(errno);
    int at = dirfd(listing), dropped = 0;
    struct dirent *entry;
    while (flock(at, LOCK_SH | LOCK_NB) == 0 && (entry = readdir(listing)) != NULL) {
        if (entry->d_name[0] == '.' && strncmp(entry->d_name, ".tmp-", 5) != 0) continue;
        int fd = openat(at, entry->d_name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0) continue;
        if (flock(fd, LOCK_EX | LOCK_NB) == 0 && unlinkat(at, entry->d_name, 0) == 0) dropped++;
        close(fd);
    }
    closedir(listing);
    return dropped;
}
