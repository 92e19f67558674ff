/* hs_layout.h - every struct in the shared segment; no code.
 *
 *   | header | participants | branch tags | branch slots | index | chunk slots | heat |  (page) | ring of chunks | metrics |
 *
 * Native-endian, fixed-width, offsets instead of pointers, no implicit padding. Two builds whose layout differs have
 * different fingerprints and refuse each other's segment. docs/CONCURRENCY.md says who writes which word, and when.
 */
#ifndef HS_LAYOUT_H
#define HS_LAYOUT_H
#include <stddef.h>
#include "helios_shm.h"
#include "hs_atomic.h"

#define HS_SEGMENT_MAGIC  UINT64_C(0x314d48536f696c48) /* "HlioSHM1" */
#define HS_LAYOUT_VERSION 6u

#define HS_CHUNK_SIZE                                                                                        \
    (UINT32_C(1) << 20)     /* bytes; offsets inside a chunk count 16-byte units, so 16 bits hold them */
#define HS_UNIT         16u /* bytes; entries begin at multiples of it */
#define HS_CHUNKS_MIN   4u
#define HS_CHUNKS_MAX   65535u
#define HS_PARTICIPANTS 1024u
#define HS_BRANCH_SLOTS                                                                                      \
    16384u /* the table is a cache of the list in L2: slots are evicted by the coordinator */
#define HS_BRANCH_WINDOW 32u   /* a name lives in one of this many tags from its home on */
#define HS_INDEX_WAYS    8u    /* words in a bucket: one cache line */
#define HS_HEAT_SPOT     256u  /* bytes of a chunk that share one count of hits */
#define HS_HEAT_GHOST    1024u /* bytes of the ring for each miss that is remembered */

/* The chunk word {generation:32 state:2 owner:13 cursor:17}: always changed by one compare-and-swap.
 *   FREE -(writer; generation + 1, cursor 0)-> BUSY(me) -(release)-> IDLE, or SEALED when full
 *   IDLE -(any writer)-> BUSY(me), goes on at the cursor;  BUSY(dead) -(coordinator)-> SEALED
 *   SEALED and all persisted -(coordinator)-> FREE
 * The cursor counts units; it only grows within a generation. */
enum hs_chunk_state { HS_CHUNK_FREE = 0, HS_CHUNK_BUSY = 1, HS_CHUNK_IDLE = 2, HS_CHUNK_SEALED = 3 };
#define HS_CHUNK_CURSOR_BITS      17
#define HS_CHUNK_OWNER_BITS       13
#define HS_CHUNK_STATE_BITS       2
#define HS_CHUNK_OWNER_SHIFT      17
#define HS_CHUNK_STATE_SHIFT      30
#define HS_CHUNK_GENERATION_SHIFT 32
#define HS_CHUNK_UNITS            (HS_CHUNK_SIZE / HS_UNIT)
#define HS_GENERATION_MAX UINT32_C(0x7fffffff) /* a chunk that was used so often is never claimed again */
#define HS_OWNER_NONE     8191u /* owner of a chunk whose writer has no slot: private segments only */

/* A place {0:1 generation:31 chunk:16 offset:16}: names an entry for ever, since a chunk's generation never returns.
 * It is what a branch's head word holds. Bit 63 set: the head is in L2; the other bits are a number that is never used
 * again in this segment, so that a compare-and-swap on it cannot succeed by mistake. */
#define HS_PLACE_GENERATION_SHIFT 32
#define HS_PLACE_CHUNK_SHIFT      16
#define HS_WORD_IN_L2             (UINT64_C(1) << 63)

/* An index word {tag:12 generation mod 2^20:20 chunk:16 offset:16}; 0 is empty (generations begin at 1). A word whose
 * generation is not the chunk's is stale and may be replaced; a match is only a hint, confirmed by the entry's full id. */
#define HS_INDEX_TAG_SHIFT        52
#define HS_INDEX_GENERATION_SHIFT 32
#define HS_INDEX_GENERATION_MASK  UINT64_C(0xfffff)

/* An entry in a chunk; the payload follows, padded with zeros to a unit. */
enum hs_codec { HS_CODEC_RAW = 0, HS_CODEC_LZ4 = 1 };
#define HS_ENTRY_CACHED      1u /* flag: L2 has it already (appended by a reader): the drain passes over it */
#define HS_ENTRY_PAYLOAD_MAX (HS_CHUNK_SIZE / 2)
typedef struct hs_entry {
    uint64_t
        checksum; /* hs_checksum of the 48 bytes after it, seeded by the segment's seed with the payload's own sum
                         * (same seed) exclusive-or'ed into its first half, and the chunk's generation into its second:
                         * what a writer that was wrongly taken for dead still writes is no entry of the next use */
    uint64_t raw_size; /* bytes after decoding; of the whole file for BLOB, which has no payload */
    uint32_t
        stored_size; /* bytes of payload, at most HS_ENTRY_PAYLOAD_MAX; equal to raw_size for HS_CODEC_RAW; 0 for BLOB */
    uint8_t kind, codec, flags, reserved;
    uint8_t id[32]; /* BLAKE3 of the raw bytes; zero for RECORD */
} hs_entry;
_Static_assert(sizeof(hs_entry) == 56, "an entry's header has no padding");

typedef struct hs_segment_header {
    uint64_t magic; /* written last, when the segment is whole */
    uint32_t layout_version, fingerprint;
    uint8_t store_uuid[16], boot_id[16];
    uint64_t store_device, store_inode; /* a copied store must not meet the original's segment */
    uint64_t nonce;                     /* random: names this segment */
    uint64_t seed[2];                   /* of checksums, bucket choice and branch tags */
    uint64_t segment_size, participants_offset, branch_tags_offset, branches_offset, index_offset,
        chunks_offset, ring_offset;      /* bytes */
    uint32_t chunk_count, index_buckets; /* index_buckets is a power of two */
    uint32_t ephemeral,
        pid_namespace; /* inode of the maker's pid namespace: LMDB's reader table holds within one only */
    uint64_t metrics_offset; /* bytes */
    uint8_t pad3[24];
    /* {deletions:63 | stopping:1}, written by the coordinator. While `stopping`, no commit begins; each deletion of anything from L2
     * counts. 0: nothing was ever deleted while this segment lives. Read with every lease and commit: a line of its own. */
    hs_word collection;
    uint8_t pad4[56];
    /* Words that writers and the coordinator share; a line for each group. */
    hs_word claim_hint; /* chunk where the last claim was made; a hint */
    hs_word kept;       /* units that the last claim kept of what stood there; a hint */
    hs_word32 regret;   /* share of misses that are repeated ones, of 65536, as of late; a hint */
    uint8_t pad0[44];
    hs_word rounds_started,
        rounds_done; /* of the drain: done >= started-as-I-saw-it + 1 means that all I published is in L2 */
    hs_word coordinator_epoch, coordinator_pid;
    hs_word
        branch_word_next; /* numbers for HS_WORD_IN_L2 words; only the coordinator draws them after creation */
    hs_word32 evicting;   /* the coordinator is removing branch tags: nobody may insert one */
    hs_word32 evict_wanted; /* 1 + the home of a window that was found full; 0 none */
    hs_word round_done_ns;  /* monotonic clock, when the last round was done; segments live within one boot */
    uint8_t pad1[8];
    hs_word32 bell, sleeping;          /* futex: work for the coordinator; it says that it sleeps */
    hs_word32 done_bell, done_waiters; /* futex: a round was done (chunks freed, commits durable) */
    hs_word32 urgent, closing;         /* somebody waits for a round; the segment is being given up */
    hs_word32 moved, watched; /* futex: some head has moved; somebody says that he sleeps until one does */
    uint8_t pad2[32];
} hs_segment_header;

typedef struct hs_participant_slot {
    hs_word32 state; /* 0 free, 1 taken: freed by its owner when it leaves, by the coordinator when it died */
    hs_word32 inserting; /* a branch tag is being inserted (see evicting) */
    hs_word pid, started_ns;
    hs_word32 metrics_allocated; /* 1: the memory of this slot's metrics exists; never goes back */
    hs_word32 committing;        /* it may rely on what is there without a lease: see collection */
    hs_word reserved[12];
} hs_participant_slot;

typedef struct hs_branch_slot {
    hs_word head;                 /* place of the newest commit record, or HS_WORD_IN_L2 | number */
    hs_word32 waiters, reserved0; /* processes in hs_branch_head_wait: the futex is the low half of head */
    hs_word evicted_tag; /* the tag, while the coordinator takes it out: put back if it dies meanwhile */
    hs_word
        turn; /* whom the others let go first, until when (hs_turn.h): advice; the futex is its low half */
    hs_word drained; /* the head of the last finished round: L2 has what it names */
    hs_word reserved[3];
} hs_branch_slot;

typedef struct hs_index_bucket {
    hs_word words[HS_INDEX_WAYS];
} hs_index_bucket;

typedef struct hs_chunk_slot {
    hs_word word;
    hs_word persisted;   /* {generation:32 offset in units:32}, written by the coordinator only */
    hs_word32 allocated; /* 1: the chunk's memory exists; never goes back */
    hs_word32 touched;   /* 1: something in it was hit since it was claimed; a hint */
    hs_word
        stale; /* {generation:32 offset in units:32}: below, no writer relies on what stands there; the coordinator's */
    hs_word reserved[4];
} hs_chunk_slot;

/* What was hit and what was missed lately, one byte each, four in a word: hints, whose loss costs a hit and no more.
 *   a spot   {0:1 count:3 unit:4}   the entry at that unit of the spot was hit so often since the chunk was claimed; 0 none
 *   a ghost  tag of an id that was missed; 0 none */
typedef struct hs_chunk_heat {
    hs_word32 spots[HS_CHUNK_SIZE / HS_HEAT_SPOT / 4];
    hs_word32 ghosts[HS_CHUNK_SIZE / HS_HEAT_GHOST / 4]; /* of the whole ring, wherever they stand */
} hs_chunk_heat;

/* What is counted: a set for each participant's slot, and one for the coordinator at the end. Whoever has the slot next goes
 * on where the last one stopped, so that nothing has to be carried over, or can be lost, when one leaves or dies. A set's
 * memory exists from the first time that its slot was taken; see hs_metrics.h. */
typedef struct hs_histogram {
    hs_word sum, max;
    hs_word reserved[6];
    hs_word buckets[HS_HISTOGRAM_BUCKETS];
} hs_histogram;
typedef struct hs_metrics {
    hs_word counters[HS_COUNTERS];
    hs_word reserved[256 - HS_COUNTERS];
    hs_histogram histograms[HS_HISTOGRAMS];
} hs_metrics;

_Static_assert(sizeof(hs_histogram) == 2048 && sizeof(hs_metrics) == 4 * 4096, "pages");
_Static_assert(sizeof(hs_segment_header) % 64 == 0, "lines");
_Static_assert(offsetof(hs_segment_header, collection) % 64 == 0, "lines");
_Static_assert(offsetof(hs_segment_header, claim_hint) % 64 == 0, "lines");
_Static_assert(offsetof(hs_segment_header, rounds_started) % 64 == 0, "lines");
_Static_assert(offsetof(hs_segment_header, bell) % 64 == 0, "lines");
_Static_assert(sizeof(hs_participant_slot) == 128, "two lines");
_Static_assert(sizeof(hs_branch_slot) == 64 && sizeof(hs_index_bucket) == 64 && sizeof(hs_chunk_slot) == 64,
               "lines");
_Static_assert(HS_HEAT_SPOT / HS_UNIT == 16 && sizeof(hs_chunk_heat) % 64 == 0,
               "four bits name a unit of a spot");
#endif
