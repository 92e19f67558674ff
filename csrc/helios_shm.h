#ifndef HELIOS_SHM_H
#define HELIOS_SHM_H
#include <stddef.h>
#include <stdint.h>

/* helios_shm.h - the one public header of the C core, and the cffi cdef (its only # lines are guard and includes).
 *
 * Thread rule of everything that takes an hs_engine or an hs_call: any thread, cffi has dropped the GIL; the engine's own
 * mutex is held inside, never for longer than one call and never across a wait of more than 50 ms. An hs_call belongs to
 * one thread at a time. Results come through trailing out-pointers or the call's out fields, untouched on error.
 *
 * Caveats. A process that was forked must call hs_engine_after_fork before anything else. Never close the file descriptor
 * of the participants file behind the engine's back: its lock is what says that this process lives. */

/* What functions return: 0 or above is success, below is one of these. */
enum hs_status {
    HS_OK = 0,
    HS_NOT_FOUND = -1,  /* no such key, id, place or branch */
    HS_MISSING = -2,    /* a node or value must be brought from L2: call->missing names it; then call again */
    HS_WAIT = -3,       /* no room: the coordinator must persist and free first; then call again */
    HS_CONFLICT = -4,   /* keys among the edits differ between base and head: call->conflicts */
    HS_MOVED = -5,      /* the head is not what was expected */
    HS_HEAD_IN_L2 = -6, /* the head's record is in L2 only: give it by hs_branch_provide; then call again */
    HS_DELETED = -7,    /* the branch was deleted, or deleted and made anew, since the base */
    HS_EXISTS = -8,     /* a branch or segment of that name exists */
    HS_UNCHANGED = -9,  /* nothing to commit */
    HS_CORRUPT = -10,   /* bytes that fail their checksum, hash or canonical form */
    HS_FORMAT = -11,    /* another layout version, fingerprint, boot, store or magic */
    HS_FULL = -12,      /* no participant slot, or no branch slot, is free */
    HS_NO_SPACE = -13,  /* shared memory or disk is full */
    HS_NO_MEMORY = -14, /* malloc failed */
    HS_SYSTEM = -15,    /* a system call failed: hs_errno() of the thread */
    HS_ARGUMENT = -16,  /* a size or pointer is out of its bounds */
    HS_SMALL = -17,     /* the buffer is too small: call->size says what is needed */
    HS_TIMED_OUT = -18, /* a wait ended without its event */
    HS_REAPED = -19,    /* this process was taken for dead while it appended: begin again */
    HS_CLOSING = -20,   /* the segment is being given up: attach again */
    HS_CONTENDED = -21, /* a commit lost its race many times in a row: look at the clock, then call again */
    HS_STOPPED = -22,   /* a collection deletes just now: hs_collection_wait, then call again */
    HS_COLLECTED =
        -23, /* a collection has deleted since the values were formed: form them again, and begin anew */
    HS_YIELD = -24 /* it is another operation's turn at the branch: hs_branch_yield, then call again */
};
const char *hs_strerror(int status);
int hs_errno(void);

/* What an entry of the ring, or a row of a pack, is. */
enum hs_entry_kind { HS_ENTRY_NODE = 1, HS_ENTRY_VALUE = 2, HS_ENTRY_RECORD = 3, HS_ENTRY_BLOB = 4 };

/* ---- Hashing ------------------------------------------------------------------------------------------------------ */
void hs_blake3(const uint8_t *in, size_t size, uint8_t out[32]); /* any length */
int hs_looks_random(const uint8_t *bytes,
                    size_t size); /* 1: compressing would be in vain, as a sample of 64 bytes tells; 0 */
uint64_t hs_key_hash(const void *key, size_t size); /* part of the node format: see hs_checksum.h */
uint64_t hs_key_hash_level(uint64_t key_hash, unsigned level);

/* ---- Leases: which states this process holds (hs_lease.c) --------------------------------------------------------------- */
typedef struct hs_leases hs_leases;
/* directory: where the table is seen by the coordinator (made if need be); NULL: by nobody, for a store that cannot be written. */
int hs_leases_open(const char *directory, hs_leases **out);
/* Show the table under a name of its own, unless it is shown: in a forked child on first use, or after HS_NO_SPACE. */
int hs_leases_publish(hs_leases *leases);
/* Take the table's file away; what is held stays counted. */
void hs_leases_withdraw(hs_leases *leases);
void hs_leases_close(hs_leases *leases);
/* How many states are held. */
uint64_t hs_leases_count(hs_leases *leases);

/* ---- The engine: this process's attachment to a segment ------------------------------------------------------------- */
typedef struct hs_engine hs_engine;

enum hs_open_mode {
    HS_OPEN_PARTICIPANT = 0, /* attach, or create if there is none; take a slot */
    HS_OPEN_COORDINATOR = 1, /* attach, or create; no slot */
    HS_OPEN_PRIVATE = 2      /* a segment in private memory: for a store that cannot be written */
};
typedef struct hs_open_args {
    const char *segment_name;      /* "/helios-..." */
    const char *participants_path; /* the file whose byte n is slot n's lock */
    uint8_t store_uuid[16], boot_id[16];
    uint64_t store_device, store_inode;
    uint64_t ring_size, cache_size; /* bytes */
    uint32_t mode, ephemeral;
    uint32_t adopt; /* nobody uses the segment: one of another PID namespace is taken over */
    uint32_t reserved;
    hs_leases *leases; /* open for as long as the engine; NULL: it holds nothing (a coordinator) */
} hs_open_args;

/* The caller holds the gate (HS_OPEN_PRIVATE needs none). */
int hs_engine_open(const hs_open_args *args, hs_engine **out);
/* Leave the slot, unmap, free. No other thread may be inside the engine. */
void hs_engine_close(hs_engine *engine);
/* In a forked child, before anything else: the inherited slot and chunk are the parent's; take a slot of one's own. The
 * caller holds the gate. The node cache stays. HS_CLOSING: the segment is no longer the named one: open anew. */
int hs_engine_after_fork(hs_engine *engine);
/* 1 if the engine's segment is still the one its name leads to; 0 if not. */
int hs_engine_is_named(hs_engine *engine);
/* Say that the segment is being given up (a new participant that finds it waits and attaches anew), and remove its name. Under the gate only. */
int hs_engine_unlink(hs_engine *engine);

typedef struct hs_engine_stats {
    uint64_t hits, misses, puts, commits; /* of all participants that are and were */
    uint64_t blocks_hashed;               /* BLAKE3 compressions by this process's tree and values */
    uint64_t cache_nodes, cache_bytes;
    uint64_t rounds_started, rounds_done;
    uint64_t coordinator_pid;
    uint32_t participants, chunks, chunks_free, chunks_busy, chunks_idle, chunks_sealed;
    uint64_t unpersisted_bytes,
        persist_lag_ns; /* lag: since the last round was done, while anything is unpersisted */
    uint64_t ring_size;
    uint64_t segment_nonce;
} hs_engine_stats;
int hs_engine_stats_get(hs_engine *engine, hs_engine_stats *out);
/* The collection word {deletions:63 | stopping:1}: while it stands still and is even, nothing is deleted. */
uint64_t hs_engine_collection(hs_engine *engine);
/* Sleep while the collection word is this one, at most wait_ms (<= 50). HS_OK: it changed; HS_TIMED_OUT. */
int hs_collection_wait(hs_engine *engine, uint64_t collection, unsigned wait_ms);
/* Does this node stand in the ring, put since the last deletion? 1 or 0. */
int hs_root_stands(hs_engine *engine, const uint8_t *root);
/* Which participants hold a chunk now: pids, at most capacity; returns how many. */
int hs_engine_busy_pids(hs_engine *engine, uint64_t *pids, uint32_t capacity);

/* ---- A segment seen from outside, by who may not attach to it (hs_survey.c) ---------------------------------------------- */
enum { HS_SURVEY_SLOTS = 1024 };
typedef struct hs_survey {
    uint8_t store_uuid[16], boot_id[16];
    uint64_t store_device, store_inode; /* of the store's directory */
    uint32_t layout_version, fingerprint, own_layout_version, own_fingerprint;
    uint32_t is_own; /* it has this build's layout: all below is told, else zero */
    uint32_t ephemeral, pid_namespace, own_pid_namespace;
    uint64_t ring_size, unpersisted_bytes, coordinator_pid;
    uint32_t participants,
        unpersisted_heads; /* slots that are taken; branches that moved since a round was done */
    uint32_t slots[1024];  /* HS_SURVEY_SLOTS: which */
    uint64_t pids[1024];   /* and whose */
} hs_survey;
/* What the segment of a name ("/helios-...") is, and who takes part in it. It is read, not mapped: nothing in it is trusted. HS_OK,
 * HS_NOT_FOUND, HS_FORMAT (no segment), HS_NO_MEMORY, HS_SYSTEM. */
int hs_segment_survey(const char *name, hs_survey *out);

/* ---- What is counted and measured, by all processes together (hs_metrics.c) --------------------------------------------- */
enum hs_counter {
    HS_COUNT_COMMITS = 0,    /* commits that happened, detached ones as well */
    HS_COUNT_CONFLICTS = 1,  /* commits refused since a key was changed on both sides */
    HS_COUNT_LOST_RACES = 2, /* times that a commit found the head moved, and began anew on the new one */
    HS_COUNT_HITS = 3,       /* look-ups in L1 that L1 answered */
    HS_COUNT_MISSES = 4,     /* those that it did not */
    HS_COUNT_PUTS = 5,       /* entries put into L1 */
    HS_COUNT_APPENDED = 6,   /* bytes of the ring that were published */
    HS_COUNT_L2_READS = 7    /* nodes and values looked for in L2 */
};
enum hs_measure {
    HS_MEASURE_COMMIT = 0,      /* ns: commits, from the call to the record, as it says */
    HS_MEASURE_ROOM = 1,        /* ns: waits for room in the ring */
    HS_MEASURE_DURABLE = 2,     /* ns: waits until a commit, or all, is durable */
    HS_MEASURE_ROUND = 3,       /* ns: rounds of the coordinator, from its look to its end */
    HS_MEASURE_ROUND_BYTES = 4, /* bytes that a round collected, headers included */
    HS_MEASURE_L2_READ = 5,     /* ns: reads from L2, one or many at a time */
    HS_MEASURE_COLLECTION = 6   /* ns: collections */
};
/* A histogram's buckets: eight of 128 each, then eight for each power of two up to 2^40, the last without end. */
enum { HS_COUNTERS = 32, HS_HISTOGRAMS = 7, HS_HISTOGRAM_BUCKETS = 248 };
uint64_t hs_histogram_low(uint32_t bucket); /* the least value that falls into it */
typedef struct hs_measured {
    uint64_t sum, max;
    uint64_t buckets[248]; /* HS_HISTOGRAM_BUCKETS */
} hs_measured;
typedef struct hs_metrics_totals {
    uint64_t counters[32];   /* HS_COUNTERS; by enum hs_counter */
    hs_measured measured[7]; /* HS_HISTOGRAMS; by enum hs_measure */
} hs_metrics_totals;
/* And count, if `more` is not 0. */
void hs_engine_measure(hs_engine *engine, uint32_t measure, uint64_t value, uint32_t counter, uint64_t more);
/* Of all participants that are and were, and of the coordinators. */
void hs_engine_metrics_get(hs_engine *engine, hs_metrics_totals *out);

/* ---- Rounds of the drain, seen by those who wait for them ------------------------------------------------------------ */
uint64_t hs_round_target(
    hs_engine *engine); /* fence; the round that, once done, holds all that this process published so far */
/* Ask for that round and sleep until it is done, at most wait_ms. HS_OK, HS_TIMED_OUT. Probe the coordinator in between. */
int hs_round_wait(hs_engine *engine, uint64_t round, unsigned wait_ms);

/* ---- The coordinator's side (hs_drain.c) ------------------------------------------------------------------------------
 * One process at a time: the one that holds the coordinator lock. A round, in this order (docs/CONCURRENCY.md has the reasons):
 *   1 rounds_started + 1; chunk states: BUSY of a dead owner -> SEALED; remember which are SEALED   2 heads   3 cursors
 *   4 (Python) one synced L2 transaction: packs, chains of records, branch rows   5 (Python) locator
 *   6 marks   7 free those SEALED in 1 whose mark covers their cursor   8 free slots of the dead   9 rounds_done; wake */
typedef struct hs_drain hs_drain;
typedef struct hs_drain_round {
    uint64_t round;          /* its number */
    uint64_t bytes, entries; /* in the collected ranges, headers included; an estimate until packed */
    uint32_t heads;          /* branch slots whose head moved since the last finished round */
    uint32_t reaped;         /* participants found dead */
    uint32_t chunks_free, chunks_busy, chunks_idle, chunks_sealed;
    uint64_t damaged; /* entries passed over because their checksum failed, since open */
} hs_drain_round;
int hs_engine_drain(hs_engine *engine, hs_drain **out);
void hs_drain_close(hs_drain *drain);
int hs_drain_collect(hs_drain *drain, hs_drain_round *out); /* steps 1..3 */
/* The next pack of the collected ranges, whole, somewhere in buffer (capacity >= 2 MiB): *pack says where. Nodes, values and blob
 * names that are not CACHED and whose checksum holds; records are left to the chains. *size 0: none left. */
int hs_drain_pack(hs_drain *drain, uint8_t *buffer, size_t capacity, uint8_t **pack, size_t *size,
                  uint32_t *count);
/* Take rows out of a pack (ascending indices): what L2 has already. */
int hs_pack_drop(uint8_t *pack, size_t *size, const uint32_t *rows, uint32_t count);
/* Is this a whole pack of the known version? HS_OK or HS_CORRUPT; ids are not recomputed. */
int hs_pack_validate(const uint8_t *pack, size_t size);
/* The same of a log block (with its sum, and each record canonical with its serial), and of a node's canonical form. */
int hs_log_validate(const uint8_t *block, size_t size);
int hs_node_validate(const uint8_t *bytes, size_t size);
/* The next moved head (HS_NOT_FOUND: none left): its slot, word, and its record's bytes (record has 66000 bytes or more). */
int hs_drain_next_head(hs_drain *drain, uint32_t *slot, uint64_t *word, uint8_t *record, size_t capacity,
                       size_t *record_size);
/* The chain that ends in that head, from serial l2_serial + 1 on, oldest first, as one log block, as many as fit; *count 0: none. */
int hs_drain_chain(hs_drain *drain, uint32_t slot, uint64_t l2_serial, uint8_t *buffer, size_t capacity,
                   size_t *size, uint32_t *count);
int hs_drain_finish(hs_drain *drain); /* steps 6..9, after sync and locator */
/* 1: a moved head, an undrained range, a SEALED chunk or a dead participant. The dead are looked for at most every 100 ms unless thorough. */
int hs_drain_has_work(hs_drain *drain, int thorough);
int hs_drain_participants(hs_drain *drain); /* living ones, probed */
/* gather 0: say that one sleeps, look again, sleep until rung, at most wait_ms. gather 1: sleep without saying so, woken only by an urgent waiter. */
int hs_drain_sleep(hs_drain *drain, unsigned wait_ms, int gather);
/* Before a round that somebody waits for: give the branches that moved in the last two rounds a quarter of a round's time to move
 * again. Returns at once when all have; how many have not. */
int hs_drain_rejoin(hs_drain *drain);
/* Give the memory that was freed back to the system: for when there has been nothing to do for a while. */
void hs_drain_rest(void);
/* See that the `count` chunks next in ring order have memory, so that no writer waits for it; returns how many had none. */
int hs_drain_allocate_ahead(hs_drain *drain, uint32_t count);
int hs_drain_evict(
    hs_drain *drain); /* branch tags whose head is in L2, when the table fills; returns how many */
void hs_drain_announce(hs_drain *drain, uint64_t epoch, uint64_t pid); /* who coordinates */
/* Let nobody begin a commit, and wait until nobody is in one, at most wait_ms: from here to hs_drain_go nobody relies on anything that
 * is there without holding a lease of it. HS_TIMED_OUT: somebody stayed, whose *pid this is; nobody is kept from anything then. All of
 * a round may happen in between. */
int hs_drain_stop(hs_drain *drain, unsigned wait_ms, uint64_t *pid);
/* Let commits go on. deleted: something was deleted; then all that the ring has must have been persisted before the stop, or in it. */
int hs_drain_go(hs_drain *drain, int deleted);
/* No writer is to rely any more on what is persisted by now and stands in the ring: it puts it anew. */
int hs_drain_age(hs_drain *drain);

/* ---- Marking: what is reachable (hs_mark.c) ---------------------------------------------------------------------------------
 * A set of ids. A node that is wanted is searched for in the packs and expanded: its children and the states nested in it are
 * wanted then, its values marked. The empty state is ignored: it need not be anywhere. Not thread-safe. */
typedef struct hs_mark hs_mark;
int hs_mark_open(hs_mark **out);
void hs_mark_close(hs_mark *mark);
int hs_mark_add(hs_mark *mark, const uint8_t *id); /* a node is wanted: 1, or 0 if it was known; or status */
/* Every node whose id begins with these 6 bytes (a lease's tag) is wanted. 1: no marked id begins so. */
int hs_mark_lease(hs_mark *mark, uint64_t tag);
int hs_mark_has(const hs_mark *mark, const uint8_t *id); /* 1 or 0 */
/* Expand a wanted node whose bytes these are (their form is validated, their hash is not): HS_OK, HS_CORRUPT, HS_NO_MEMORY. */
int hs_mark_node(hs_mark *mark, const uint8_t *id, const uint8_t *bytes, size_t size);
enum hs_mark_flag { HS_MARK_YOUNG = 1 /* every node is wanted */ };
/* Expand the wanted nodes of a validated pack, from its last row to its first, some at a time. *row: rows still to look at (begin with
 * UINT32_MAX), 0 when done. dead: bitmap of rows that are none any more, or NULL. HS_CORRUPT: the node in *row. */
int hs_mark_pack(hs_mark *mark, const uint8_t *pack, size_t size, const uint8_t *dead, uint32_t flags,
                 uint32_t *row);
uint64_t hs_mark_pending(const hs_mark *mark); /* nodes that are wanted and not expanded */
/* Some of them, in turn: ids, at most capacity; how many. 0: all were given since the last 0. */
uint32_t hs_mark_wanted(hs_mark *mark, uint8_t *ids, uint32_t capacity);
/* From now on, remember what is marked; and what that was: ids of nodes and values, at most capacity; how many there are. */
void hs_mark_watch(hs_mark *mark);
uint64_t hs_mark_grown(const hs_mark *mark, uint8_t *ids, uint64_t capacity);
/* Which rows of a pack die: those that are dead, not marked, or whose id was placed by an earlier call. dead: bitmap, bit 0 of byte 0 is
 * row 0; *live_bytes: stored bytes of the others. */
int hs_mark_place(hs_mark *mark, const uint8_t *pack, size_t size, const uint8_t *dead_before, uint8_t *dead,
                  uint64_t *live_bytes, uint32_t *live_rows);

/* ---- The coordinator's look at leases (hs_lease_view.c) ------------------------------------------------------------------------ */
typedef struct hs_lease_view hs_lease_view;
int hs_lease_view_open(const char *directory, hs_lease_view **out);
void hs_lease_view_close(hs_lease_view *view);
/* Mark what is leased in any table, those of the dead included; what has changed since the last reading is read. Returns how
 * many tags came in that no marked id begins with, or status. */
int64_t hs_lease_view_read(hs_lease_view *view, hs_mark *mark);
/* Remove the tables that nobody holds; returns how many. Not between hs_drain_stop and hs_drain_go. */
int hs_lease_drop_dead(const char *directory);

/* ---- The locator: hash -> (pack, row), a mapped file beside LMDB (hs_locator.c) ----------------------------------------- */
typedef struct hs_locator hs_locator;
typedef struct hs_locator_info {
    uint64_t mark;       /* all packs up to here are entered */
    uint64_t checkpoint; /* all packs up to here are on disk in this file, whatever happens to the machine */
    uint64_t rows, capacity;
    uint8_t boot_id[16]; /* of the boot in which mark was last moved */
} hs_locator_info;
/* A new file under exactly this name; writable. It grows and is repaired in one way: a new file, packs entered anew, renamed over the old one. */
int hs_locator_create(const char *path, uint64_t capacity, const uint8_t *boot_id, hs_locator **out);
int hs_locator_open(const char *path, int writable, hs_locator **out);
void hs_locator_close(hs_locator *locator);
void hs_locator_info_get(const hs_locator *locator, hs_locator_info *out);
int hs_locator_is_named(const hs_locator *locator, const char *path); /* 1, 0 or status */
/* Candidates for an id, newest last: pack numbers and rows, at most capacity; returns how many. Each is confirmed against the full id in the pack. */
int hs_locator_find(const hs_locator *locator, const uint8_t *id, uint64_t *packs, uint32_t *rows,
                    uint32_t capacity);
/* Enter all rows of a pack; HS_WAIT: too full, grow first. Entering twice changes nothing. */
int hs_locator_insert(hs_locator *locator, uint64_t pack, const uint8_t *bytes, size_t size);
/* Rows of this pack whose id may be in an older one (to be confirmed). */
int hs_locator_candidates(const hs_locator *locator, const uint8_t *pack, uint32_t *rows, uint32_t capacity);
int hs_locator_mark(hs_locator *locator, uint64_t pack,
                    const uint8_t *boot_id);    /* all packs up to this one are entered */
int hs_locator_checkpoint(hs_locator *locator); /* msync; then checkpoint = mark, msync */

/* ---- Processes ---------------------------------------------------------------------------------------------------------- */
/* Start a program as a process of its own: new session, no terminal, standard input and output /dev/null, standard error
 * appended to `log_path`, `keep_fd` (-1: none) open as descriptor 3, all others closed, working directory "/"; reaped by init. argv[0] is
 * a path. HS_OK or HS_SYSTEM. */
int hs_spawn_detached(const char *const *argv, const char *const *envp, const char *log_path, int keep_fd);

/* ---- A mailbox: questions of many processes, answered in batches by one (hs_mailbox.c) ---------------------------------- */
/* `memory` is what all of them map, at a line's address. Any thread; a box, and an asker's number, belong to one at a time. Nothing here needs an engine. */
typedef struct hs_mailbox_config {
    uint32_t askers, boxes_each; /* asker a's boxes are a * boxes_each and those that follow it */
    uint32_t request_size_max;   /* bytes */
    uint32_t num_players;        /* the most values of an answer */
    uint32_t logits_max;         /* the most logits of an answer */
} hs_mailbox_config;
enum hs_mailbox_limit {
    HS_MAILBOX_BOXES_MAX = 65536,
    HS_MAILBOX_REQUEST_MAX = 1 << 26,
    HS_MAILBOX_NUMBERS_MAX = 1 << 20
};
/* How large the memory must be, in bytes. HS_ARGUMENT: a number is 0 or too large (logits_max may be 0). */
int hs_mailbox_size(const hs_mailbox_config *config, uint64_t *size);
/* Make a mailbox of memory that is all zero. */
int hs_mailbox_format(void *memory, uint64_t size, const hs_mailbox_config *config);
/* Is it one? HS_FORMAT: no. */
int hs_mailbox_attach(const void *memory, uint64_t size, hs_mailbox_config *out);
/* End all waits, now and later: they return HS_CLOSING. Answers that are there can be read. */
void hs_mailbox_close(void *memory);

/* An asker begins: from now on a batch may wait for it. */
int hs_mailbox_join(void *memory, uint32_t asker);
/* It ends, or it is dead and this is done in its name: its questions are withdrawn. Boxes that an evaluator holds come free when that has
 * answered, or is dead. Returns how many those are. */
int hs_mailbox_withdraw(void *memory, uint32_t asker);
/* Put a question into a box of one's own; never waits. HS_WAIT: the box is not free. HS_ARGUMENT: longer than request_size_max, or no such box. */
int hs_mailbox_ask(void *memory, uint32_t box, const uint8_t *request, size_t size);
/* Boxes of one's own that are answered: at most `capacity` into `boxes`; returns how many. If there is none, waits at most wait_ms (<= 50) for one:
 * HS_TIMED_OUT, HS_CLOSING. With wait_ms 0 it looks only, and returns 0. */
int hs_mailbox_collect(void *memory, uint32_t asker, unsigned wait_ms, uint32_t *boxes, uint32_t capacity);
/* Take an answer out of its box, which comes free: num_players values at the most, and logits_max logits. HS_NOT_FOUND: there is none. */
int hs_mailbox_read(void *memory, uint32_t box, double *values, uint32_t *value_count, float *logits,
                    uint32_t *logit_count);

typedef struct hs_mailbox_item {
    uint32_t box, generation; /* of what is answered */
    const uint8_t *request;   /* in the box; stays as it is until it is answered */
    uint64_t size;
} hs_mailbox_item;
/* Take questions: batch_size of them; or those that are there, when all who have joined wait, or batch_wait_us have passed since the first of them was asked.
 * Returns how many. Waits at most wait_ms (<= 50): HS_TIMED_OUT, HS_CLOSING. `taker` (1 .. 2^24 - 1) is another number for each life of an evaluator. */
int hs_mailbox_gather(void *memory, uint32_t taker, uint32_t batch_size, uint64_t batch_wait_us,
                      unsigned wait_ms, hs_mailbox_item *items);
/* Answer one of them. HS_NOT_FOUND: nobody waits for it any more, which need not concern the caller. HS_ARGUMENT: too many numbers. */
int hs_mailbox_answer(void *memory, uint32_t taker, uint32_t box, uint32_t generation, const double *values,
                      uint32_t value_count, const float *logits, uint32_t logit_count);
/* When a batch is answered: wake who waits for it, and count it as one that took busy_ns. */
void hs_mailbox_ring(void *memory, const hs_mailbox_item *items, uint32_t count, uint64_t busy_ns);
/* What a dead evaluator had taken is asked again. Returns how many. */
int hs_mailbox_give_back(void *memory, uint32_t taker);
typedef struct hs_mailbox_counts {
    uint64_t batches, answers, busy_ns;
    uint32_t free, asked, taken, answered, orphaned; /* boxes */
    uint32_t joined, waiting;                        /* askers; who waits has joined */
} hs_mailbox_counts;
void hs_mailbox_counts_get(const void *memory, hs_mailbox_counts *out);

/* ---- Crash tests ---------------------------------------------------------------------------------------------------------- */
/* Die (action 1: SIGKILL) or stop (2: SIGSTOP) at the nth time that a labelled step is reached. label NULL: disarm. Unknown: HS_ARGUMENT. */
int hs_step_arm(const char *label, int nth, int action);
int hs_step_hit(const char *label);   /* for steps that are Python's */
const char *hs_step_label(int index); /* NULL past the last */

/* ---- Calls: one a thread, from a pool ------------------------------------------------------------------------------------ */
/* What the facade's functions take from and leave to Python. `data` is Python's memory; results that are bytes go there. */
typedef struct hs_commit_state hs_commit_state;
typedef struct hs_call {
    hs_engine *engine;
    uint8_t *data;
    uint64_t capacity;
    /* In: what a commit says beside its edits; zero when it says nothing. */
    const uint8_t *message, *metadata;
    uint32_t message_size, metadata_size;
    uint32_t no_rebase;       /* fail with HS_MOVED instead of rebasing */
    uint32_t always;          /* write a record even if nothing changed */
    const uint8_t *second;    /* root of a second parent, 32 bytes */
    uint64_t expected_serial; /* fail with HS_MOVED unless the head has this serial */
    int64_t time_ns;          /* the commit's time since the epoch, if has_time */
    uint32_t has_time;
    uint32_t ticket;       /* whose turn at the branch this is (hs_branch_turn_take); 0: nobody's */
    uint64_t formed_under; /* the collection word before blob files of the edits were written or found */
    /* Out. */
    uint8_t missing[32];   /* HS_MISSING: what to bring from L2 */
    uint32_t missing_kind; /* enum hs_entry_kind: node or value */
    uint8_t value_kind, codec, reserved[2];
    uint64_t size;              /* bytes in data, or needed (HS_SMALL), or of the missing value */
    uint64_t raw_size;          /* after decoding by codec */
    uint8_t id[32];             /* hs_stat, hs_l1_put */
    uint64_t keys, value_bytes; /* hs_totals, hs_count */
    uint64_t word;              /* head word that was read or set */
    uint8_t head_root[32];      /* HS_CONFLICT, HS_MOVED: the head that the edits were judged against */
    uint32_t conflict;          /* HS_CONFLICT: index of the first edit in conflict */
    uint32_t retries;           /* of the last commit */
    hs_commit_state *
        state; /* a commit that is suspended: go on with hs_commit_continue or end it with hs_commit_cancel */
    uint64_t
        collection; /* the collection word before the head was read (hs_branch_word), or under which a suspended commit stopped */
    uint8_t
        held_root[32]; /* the result of a commit, of which the call holds this many leases: hs_call_let_go */
    uint32_t held, reserved1;
} hs_call;

enum hs_result_flag {
    HS_LOOK_AFTER = 1 << 28 /* set in a commit's result now and then: see that a coordinator runs */
};
/* Set in the size that hs_get and hs_l1_get return when data holds encoded bytes: decode by call->codec to call->raw_size bytes. */
enum hs_size_flag { HS_ENCODED = 1 << 30 };

/* ---- Reading a state -------------------------------------------------------------------------------------------------------- */
/* The value of a key: its size, the bytes in data. HS_MISSING: the node, or the value itself (missing_kind), must come from L2; for a value
 * call->size says its size. HS_SMALL: call->size is needed. Perhaps with HS_ENCODED. */
int64_t hs_get(hs_call *call, const uint8_t *root, const uint8_t *key, size_t key_size);
int hs_stat(hs_call *call, const uint8_t *root, const uint8_t *key,
            size_t key_size);                      /* value_kind, size, id */
int hs_totals(hs_call *call, const uint8_t *root); /* keys, value_bytes */
/* start inclusive, stop exclusive (NULL: none). */
int hs_count(hs_call *call, const uint8_t *root, const uint8_t *start, size_t start_size, const uint8_t *stop,
             size_t stop_size);
void hs_empty_root(uint8_t *out);

enum hs_batch_size { HS_BATCH_COUNT = 512, HS_BATCH_KEYS = 65536, HS_BATCH_VALUES = 262144 };
enum hs_batch_form {
    HS_BATCH_BYTES = 0,
    HS_BATCH_BY_ID = 1
}; /* by id: 40 bytes {id, u64 size}; ask hs_l1_get, then L2 */
typedef struct hs_batch {
    uint32_t count, reserved;
    uint32_t key_ends[512], value_ends[512]; /* HS_BATCH_COUNT */
    uint8_t forms[512];     /* scan: enum hs_batch_form; diff: 0 added, 1 changed, 2 removed */
    uint8_t keys[65536];    /* HS_BATCH_KEYS */
    uint8_t values[262144]; /* HS_BATCH_VALUES */
} hs_batch;
enum hs_scan_flag {
    HS_SCAN_REVERSE = 1,
    HS_SCAN_KEYS = 2,
    HS_SCAN_STATS =
        4 /* forms are enum hs_value_kind, perhaps with HS_BATCH_STAT_BY_ID: 40 bytes {id, u64 size}; else the value */
};
enum { HS_BATCH_STAT_BY_ID = 16 };
enum { HS_MORE = 1 };
/* The next entries of a range: HS_OK: that was all; HS_MORE: the batch is full, go on after its last key; HS_MISSING: what is in the batch stands,
 * bring the node, go on after the last key. */
int hs_scan(hs_call *call, const uint8_t *root, const uint8_t *start, size_t start_size, const uint8_t *stop,
            size_t stop_size, uint32_t flags, hs_batch *batch);
int hs_diff(hs_call *call, const uint8_t *old_root, const uint8_t *new_root, const uint8_t *start,
            size_t start_size, const uint8_t *stop, size_t stop_size, hs_batch *batch);

/* ---- L0 and L1 ---------------------------------------------------------------------------------------------------------------- */
int hs_node_give(hs_engine *engine, const uint8_t *id, const uint8_t *bytes,
                 size_t size); /* a node from L2 into the cache: verified */
/* Empty the node cache, so that what is read next is read from the ring or from L2: for a check of these. */
void hs_engine_forget(hs_engine *engine);
/* Put a value; its id in call->id. HS_WAIT as elsewhere. */
int hs_l1_put(hs_call *call, const uint8_t *bytes, size_t size);
/* Offer what was missed in L1 and found in L2: it is put if it was missed before lately, or if the ring is cold (hs_heat.h).
 * HS_WAIT: no room just now, which need not concern the caller. */
int hs_l1_put_cached(hs_call *call, uint32_t kind, const uint8_t *id, uint32_t codec, const uint8_t *stored,
                     size_t stored_size, uint64_t raw_size);
int64_t hs_l1_get(hs_call *call,
                  const uint8_t *id); /* the size, perhaps with HS_ENCODED; HS_NOT_FOUND, HS_SMALL */
/* The next damaged entry of all that is published in L1, from {*chunk, *offset} on (in units; start with zeros), which are left where to
 * go on. HS_OK: its place and its id; zeros as id: its header cannot be, and nothing behind it in that chunk can be read.
 * HS_NOT_FOUND: no more. */
int hs_l1_damage(hs_engine *engine, uint32_t *chunk, uint32_t *offset, uint64_t *place, uint8_t *id);
/* Wait until room may have been made, at most wait_ms (<= 50); for HS_WAIT. */
int hs_room_wait(hs_engine *engine, unsigned wait_ms);

/* ---- Branches -------------------------------------------------------------------------------------------------------------------- */
typedef struct hs_branch_ref {
    uint8_t name[256];
    uint32_t name_size;
    uint32_t slot; /* 0xffffffff: not looked up yet */
} hs_branch_ref;
/* The head word (also in call->word); HS_OK, HS_FULL, HS_WAIT. */
int hs_branch_word(hs_call *call, hs_branch_ref *branch);
/* The record of a word into data: its size, HS_NOT_FOUND when the ring has it no more (or the word is in L2). */
int64_t hs_record_get(hs_call *call, uint64_t word);
/* Tell what L2's row says of the head whose word is `word`: the newest record's bytes, or size 0 when L2 knows no such branch. */
int hs_branch_provide(hs_call *call, hs_branch_ref *branch, uint64_t word, const uint8_t *root,
                      uint64_t serial, uint64_t sequence, uint64_t incarnation, uint32_t deleted);
/* Heads that are in the ring: their words, from slot *slot on, at most capacity; *slot: where to go on. Returns how many. */
int hs_branch_words(hs_engine *engine, uint32_t *slot, uint64_t *words, uint32_t capacity);
/* Sleep until the head is not `word`, at most wait_ms (<= 50). HS_OK, HS_TIMED_OUT. */
int hs_branch_wait(hs_call *call, hs_branch_ref *branch, uint64_t word, unsigned wait_ms);
/* To wait for any of many branches: begin, look at their words, sleep until some head of the store has moved since the begin, at most
 * wait_ms (<= 50); begin again. HS_OK, HS_TIMED_OUT. Nothing of the engine is touched after the sleep. */
uint32_t hs_watch_begin(hs_engine *engine);
int hs_watch_sleep(hs_engine *engine, uint32_t seen, unsigned wait_ms);
void hs_watch_wake(hs_engine *engine); /* end such sleeps */

/* Turns: an operation that loses its races for too long is let go first. Take the turn (a ticket, 0 the first time, drawn then; kept by calling again)
 * for at most hold_us (<= 50000) from now: HS_OK, or HS_YIELD: it is another's. Commits with call->ticket go ahead; the one that succeeds gives the turn back. */
int hs_branch_turn_take(hs_call *call, hs_branch_ref *branch, uint32_t *ticket, unsigned hold_us);
void hs_branch_turn_give(hs_call *call, hs_branch_ref *branch, uint32_t ticket);
/* Sleep while it is another's turn, at most wait_ms (<= 50). */
int hs_branch_yield(hs_call *call, hs_branch_ref *branch, uint32_t ticket, unsigned wait_ms);

/* ---- Commits ---------------------------------------------------------------------------------------------------------------------- */
enum hs_edit_form {
    HS_EDIT_KIND = 0x0f, /* mask: enum hs_value_kind */
    HS_EDIT_REMOVE = 0x80,
    HS_EDIT_BLOB = 0x40, /* value bytes are {id[32], u64 size}: the value is a blob file */
    HS_EDIT_LZ4 = 0x20,  /* value bytes are {id[32], u64 raw size, LZ4 block} */
    HS_EDIT_KNOWN = 0x10 /* value bytes are {id[32], u64 size}: the value is stored already */
};
enum hs_value_limit {
    HS_VALUE_INLINE_MAX = 64
}; /* a value of up to this size stands in its leaf, and is never handed over by id alone */
typedef struct hs_edits {
    uint32_t count;
    const uint8_t *keys; /* back to back */
    const uint32_t *key_sizes;
    const uint8_t *values; /* back to back */
    const uint32_t *value_sizes;
    const uint8_t *forms;           /* enum hs_edit_form; NULL: all are plain files */
    const uint8_t *const *key_at;   /* where each key stands, instead of `keys`; or NULL */
    const uint8_t *const *value_at; /* the same instead of `values` */
} hs_edits;
/* Commit edits on a base: `base` is {root[32]} and, with a branch, {root[32], u64 incarnation}. branch NULL: detached. On success: the size of the commit
 * record in data (csrc/hs_record.h; for a detached commit as well, though nothing keeps that one), perhaps with HS_LOOK_AFTER.
 * HS_MISSING, HS_WAIT, HS_HEAD_IN_L2, HS_CONTENDED, HS_YIELD, HS_STOPPED: suspended (call->state set): do what is needed, then hs_commit_continue. Everything else ends it. What `edits`, message and metadata
 * point to must stay in place until then. The linearisation point is the branch head's compare-and-swap. */
int64_t hs_commit_one(hs_call *call, hs_branch_ref *branch, const uint8_t *base, const uint8_t *key,
                      size_t key_size, const uint8_t *value, size_t value_size);
int64_t hs_commit_many(hs_call *call, hs_branch_ref *branch, const uint8_t *base, const hs_edits *edits);
enum hs_move { HS_MOVE_RESTORE = 1, HS_MOVE_COMPARE = 2, HS_MOVE_CREATE = 3, HS_MOVE_DELETE = 4 };
/* Move a branch to a root that exists: RESTORE whatever the head is (a branch that is not there is made); COMPARE only if the head's root is `expected` (else HS_MOVED);
 * CREATE only if there is no branch (else HS_EXISTS); DELETE writes the branch's last record. Results as for commits. */
int64_t hs_commit_root(hs_call *call, hs_branch_ref *branch, uint32_t move, const uint8_t *root,
                       const uint8_t *expected);
int64_t hs_commit_continue(hs_call *call);
void hs_commit_cancel(hs_call *call);
/* Give up the leases of a commit's result, once those who keep it have theirs. The next commit of the call does it too. */
void hs_call_let_go(hs_call *call);

/* ---- The table of a tree search (hs_search.h) ------------------------------------------------------------------------------ */
/* memory: where the table is mapped. No lock anywhere; any thread, one user of a lane at a time. "No row" is UINT32_MAX. */
enum hs_search_limit {
    HS_SEARCH_PLAYERS_MAX = 16,
    HS_SEARCH_LANES_MAX = 1023,
    HS_SEARCH_DEPTH_MAX = 65000,
    HS_SEARCH_COUNT_MAX = 1024 /* simulations in one backup */
};
enum hs_search_kind { HS_SEARCH_CHOICE = 1, HS_SEARCH_CHANCE = 2, HS_SEARCH_TERMINAL = 3 };
enum hs_search_rule { HS_SEARCH_UCT = 0, HS_SEARCH_PUCT = 1 };
enum hs_search_in_flight { HS_SEARCH_WU_UCT = 0, HS_SEARCH_VIRTUAL_LOSS = 1 };
enum hs_search_what {
    HS_SEARCH_NONE = 0,   /* no ticket left, or stopped: the lane is idle */
    HS_SEARCH_EXPAND = 1, /* row and action: apply it, insert what it leads to, link, then resume or backup */
    HS_SEARCH_EVALUATE =
        2, /* row: it stands on this path already, or the path is depth_max long: evaluate it, backup */
    HS_SEARCH_AGAIN =
        3 /* simulations ended in terminal rows (completed of them): the lane is idle, call hs_search_begin */
};

typedef struct hs_search_config {
    uint64_t size_bytes; /* of the whole table */
    uint32_t rows_max;   /* 0 in hs_search_format: as many as size_bytes holds with 16 slots each */
    uint32_t lanes, num_players, depth_max;
    uint32_t rule;           /* enum hs_search_rule */
    uint32_t in_flight_rule; /* enum hs_search_in_flight */
    uint32_t normalize;      /* 1: Q is scaled by the least and the greatest Q met */
    double c, discount;
    double fpu; /* Q of an edge not visited yet; NaN: the mean of its row */
    double virtual_loss;
    double widening_c, widening_alpha; /* widening_c 0: all actions at once */
} hs_search_config;

typedef struct hs_search_leaf {
    uint32_t what;        /* enum hs_search_what */
    uint32_t row, action; /* EXPAND: the row that is left by action; EVALUATE: the row, action 0 */
    uint32_t depth;       /* edges on the path */
    uint64_t completed;   /* simulations that ended in terminal rows and were backed up in this call */
    uint8_t id[32];       /* of row */
} hs_search_leaf;

typedef struct hs_search_row_info {
    uint8_t id[32];
    uint32_t kind, num_actions, made_by;
    int32_t player;             /* -1: chance */
    uint32_t own_visits;        /* evaluations that ended here */
    uint32_t visits, in_flight; /* of all its edges, and own_visits: N(s) */
    uint32_t reserved;
    double own_value_sum;
    double returns[16]; /* of a terminal row */
} hs_search_row_info;

typedef struct hs_search_edge {
    uint32_t visits, in_flight;
    double value_sum;
    float prior;    /* a probability; without noise */
    uint32_t child; /* row, or UINT32_MAX */
    double rewards[16];
    uint8_t child_id[32]; /* zeros without a child; ignored by hs_search_restore */
} hs_search_edge;

typedef struct hs_search_totals {
    uint32_t rows,
        rows_max; /* row numbers 0 .. rows-1 were given out; some may never have become rows: hs_search_row says HS_NOT_FOUND */
    uint32_t slots, slots_max;
    uint32_t full, stop; /* full: an insert or link was refused since format or the last compaction */
    uint64_t tickets;    /* left */
    uint32_t lanes_busy, lanes;
} hs_search_totals;

/* bytes for rows_max rows with on average 16 slots each */
int hs_search_size(const hs_search_config *config, uint64_t *size_bytes);
/* memory: zeros (a fresh memfd), size_bytes long, mapped shared, page-aligned. HS_ARGUMENT: a setting out of its bounds. HS_EXISTS: formatted already. */
int hs_search_format(void *memory, const hs_search_config *config);
/* HS_FORMAT if it is no table of this build, or size is too small. out (may be NULL): its configuration, rows_max filled in. */
int hs_search_attach(const void *memory, uint64_t size_bytes, hs_search_config *out);

int hs_search_find(const void *memory, const uint8_t *id, uint32_t *row); /* HS_NOT_FOUND */
/* 1: new; 0: it was there (what is given is dropped, *row is that row). HS_FULL: abandon, compact. TERMINAL: n = 0, logits NULL, returns num_players doubles.
 * Else returns NULL, n >= 1, logits n floats or NULL (all alike); -inf is probability 0. made_by: a number of the caller's choice. player -1 iff CHANCE. */
int hs_search_insert(void *memory, uint32_t made_by, const uint8_t *id, uint32_t kind, int32_t player,
                     uint32_t n, const float *logits, const double *returns, uint32_t *row);
int hs_search_priors(void *memory, uint32_t row, const float *logits, uint32_t n);
/* prior used = (1 - fraction) * prior + fraction * noise[i]; kept apart from prior, so that calling again replaces it; fraction 0 (noise may be NULL): none. */
int hs_search_noise(void *memory, uint32_t row, const float *noise, uint32_t n, double fraction);

/* lane 0 .. lanes-1, one user at a time; must be idle. owner: any number that hs_search_repair is given when that process is dead.
 * HS_FULL: an edge has reached 2^28 visits. */
int hs_search_begin(void *memory, uint32_t lane, uint32_t owner, uint32_t root, uint64_t *rng,
                    hs_search_leaf *out);
/* the same, but goes by given actions as long as there are some left and rows to go on in; then EXPAND, or EVALUATE at the row where the actions end
 * (a terminal one: AGAIN). HS_ARGUMENT: no such action. */
int hs_search_replay(void *memory, uint32_t lane, uint32_t owner, uint32_t root, const uint32_t *actions,
                     uint32_t n, hs_search_leaf *out);
/* After EXPAND. rewards (num_players) NULL: all zero. The first to link an edge decides for all. 0: the edge leads to child_row; 1: another process had
 * linked it to another row, at which the lane stands now: resume. HS_FULL: no slot for rewards: abandon. */
int hs_search_link(void *memory, uint32_t lane, uint32_t child_row, const double *rewards);
/* After link, when the row was known already: goes on descending from it. A terminal row: backed up, AGAIN with completed 1. */
int hs_search_resume(void *memory, uint32_t lane, uint64_t *rng, hs_search_leaf *out);
/* After link, or after EVALUATE: values (num_players) for the row at the end of the path. count >= 1 simulations at once, values their mean; it costs
 * the lane's one ticket: the caller takes count - 1 more by hs_search_tickets if they shall count. HS_ARGUMENT: a value is not finite, or not linked. */
int hs_search_backup(void *memory, uint32_t lane, const double *values, uint32_t count);
/* All of it is taken back, THE TICKET TOO (in the same kill-safe protocol: do not give it back yourself). An idle lane: HS_OK, nothing. */
int hs_search_abandon(void *memory, uint32_t lane);
/* The rows and actions of a lane's path so far (EXPAND's action included), at most n of them: its length, 0 when idle. */
int hs_search_path(const void *memory, uint32_t lane, uint32_t *rows, uint32_t *actions, uint32_t n);

/* For each lane of owner, whose process is dead and reaped: finish its backup, or take its simulation and its ticket back. Beside living workers. */
int hs_search_repair(void *memory, uint32_t owner, uint32_t *finished, uint32_t *undone);

int64_t
hs_search_tickets(void *memory,
                  int64_t add); /* what is left then, never below 0; add 0 only looks; INT64_MIN takes all */
int hs_search_stop(void *memory, uint32_t on);
int hs_search_counts(const void *memory, hs_search_totals *out);
int hs_search_row(const void *memory, uint32_t row,
                  hs_search_row_info *out); /* HS_NOT_FOUND: that number never became a row */
int hs_search_edges(const void *memory, uint32_t row, hs_search_edge *out,
                    uint32_t n); /* how many actions the row has; the first n are written */
/* Only while nobody searches. Sets own counts and those of n = num_actions edges with visits, value_sum, prior, child (a row number) and rewards; in_flight stays. */
int hs_search_restore(void *memory, uint32_t row, uint32_t own_visits, double own_value_sum,
                      const hs_search_edge *edges, uint32_t n);
/* Only while all workers are idle (lanes may be out: asked, not told). remap_out: NULL, or totals.rows numbers: old -> new, UINT32_MAX: gone.
 * Keeps roots, paths of lanes, and of what is reachable the most visited, best first, while rows <= rows_keep_max and slots <= half. Returns how many rows stay. */
int64_t hs_search_compact(void *memory, const uint32_t *roots, uint32_t n, uint32_t rows_keep_max,
                          uint32_t *remap_out);
/* Rows *row .. rows-1 as a saved search has them (docs/FORMAT.md), those whose bytes have another sum than marks[row]; marks[row] becomes theirs. 0 is no row's.
 * Beside living workers. Into out, each as {id[32], u32 row, u32 size, bytes}, and *row to where to go on. Bytes written; 0: there are no more. HS_FULL: not even
 * one has room in size. */
int64_t hs_search_pack(const void *memory, uint32_t *row, uint32_t rows, uint64_t *marks, uint8_t *out,
                       uint64_t size);
#endif
