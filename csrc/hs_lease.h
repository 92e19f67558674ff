/* hs_lease.h - leases: which states this process holds, in a table that the coordinator can read.
 *
 *   leases/<16 hex>    | header, 64 bytes | word | word | word | ...      word {tag:48 count:16}, open addressing by the tag
 *                        flock: its owner lives                           tag: the first 6 bytes of the state's root id
 *
 * The process counts in private memory, and writes each word that changes to the file as well, which nobody else writes: so a forked
 * child has the counts, whatever becomes of the file. A word of count 0 is free for any tag, and stays until the one behind it is
 * empty, so that who looks for a tag finds it behind. A count that is full goes on in another word of the same tag.
 *
 *   grown  a new file, filled, named; then the old one is let go of
 *   fork   the parent goes on in a new file; the old one belongs to the children, frozen, until each attaches for itself (and then has a
 *          file of its own), executes another program or ends: its lock is that of the open file which they share
 *   dead   who can take a table's lock may remove it, holding the directory's lock shared (the reader of all tables has it for itself)
 *
 * Invariants. A table is whole and locked before it has its name, and has its name before its predecessor is let go of: what was
 * held all the time stands in one of the two, whichever a reader meets. An entry never moves within a table. A state that is held for the
 * first time while nobody sees the table is not trusted (csrc/python/hot.h).
 *
 * Thread-safe: a lock of its own, held for nanoseconds but when the table grows; taken after the engine's mutex. */
#ifndef HS_LEASE_H
#define HS_LEASE_H
#include "helios_shm.h"
#include "hs_atomic.h"
#include "hs_base.h"

#define HS_LEASE_MAGIC       UINT64_C(0x3153454c4f494c48) /* "HLIOLES1" */
#define HS_LEASE_COUNT_BITS  16
#define HS_LEASE_COUNT_MAX   UINT64_C(0xffff)
#define HS_LEASE_WORDS_MIN   UINT64_C(512)
#define HS_LEASE_NAME_DIGITS 16u

/* What a table's file begins with; the words follow. */
typedef struct hs_lease_header {
    uint64_t magic;
    uint64_t words; /* how many: a power of two */
    uint64_t pid;   /* of who made it; for people */
    uint64_t reserved[5];
} hs_lease_header;
_Static_assert(sizeof(hs_lease_header) == 64, "words begin at a line");

static inline uint64_t hs_lease_tag(const uint8_t root[32]) {
    return hs_load_u64(root) & ((UINT64_C(1) << 48) - 1);
}
static inline uint64_t hs_lease_word_tag(uint64_t word) { return word >> HS_LEASE_COUNT_BITS; }
static inline uint64_t hs_lease_word_count(uint64_t word) { return word & HS_LEASE_COUNT_MAX; }

enum hs_lease_result {
    HS_LEASE_NONE = 0,   /* out of memory: nothing is held */
    HS_LEASE_HELD = 1,   /* held; whether the state was whole at that moment is to be found out */
    HS_LEASE_TRUSTED = 2 /* held, and nothing was ever deleted */
};
/* Hold a state `times` more (at most HS_LEASE_COUNT_MAX). */
enum hs_lease_result hs_lease_add(hs_leases *leases, const uint8_t root[32], uint32_t times);
/* Hold it so many times less. */
void hs_lease_drop(hs_leases *leases, const uint8_t root[32], uint32_t times);
/* The collection word as it is now; odd when it cannot be known. */
uint64_t hs_lease_collection(hs_leases *leases);
/* Has nothing been deleted since `collection` was loaded, nor is to be just now, and does the coordinator see what is held? Then what stood
 * when it was loaded, and is held by now, stands. */
bool hs_lease_is_under(hs_leases *leases, uint64_t collection);
/* Where the collection word is; NULL: nowhere. By the engine, when it attaches and before it detaches. */
void hs_leases_watch(hs_leases *leases, const hs_word *collection);

/* Remove a table if nobody holds it. */
void hs_lease_remove_if_free(const char *directory, const char *name);
/* Installs the handlers that take every table's lock around a fork; those of what is locked before must be installed after. */
void hs_lease_fork_handlers(void);
#endif
