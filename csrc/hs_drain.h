/* hs_drain.h - the coordinator's side of the segment: collect, pack, follow chains, mark persisted, free, reap, evict.
 *
 * The functions and the order of a round are in helios_shm.h; docs/CONCURRENCY.md has the reasons. Only one process runs
 * this: the one that holds the coordinator lock. Not thread-safe.
 *
 *   chunk:  | entry | entry | entry | entry | . . .      of each chunk a round takes [persisted, cursor); a damaged entry is
 *                   persisted               cursor       passed over, an impossible size ends the range
 *
 * Invariants: a mark moves only after what is below it was handed out by hs_drain_pack and the caller has said by hs_drain_finish
 * that it is durable; a chunk is freed only if it was SEALED before the heads of the same round were read, so that every head
 * that names a record in it was seen; nothing is read above a cursor. */
#ifndef HS_DRAIN_H
#define HS_DRAIN_H
#include "helios_shm.h"
#include "hs_branch.h"
#include "hs_pack.h"
#include "hs_record.h"
#include "hs_ring.h"

/* Take up the coordinator's work: marks and heads are read from the segment; an eviction that was left half done is undone.
 * participants_fd: any descriptor of the participants file on which no slot is locked; -1: the segment is private, nobody dies. */
int hs_drain_open(hs_segment *segment, int participants_fd, hs_drain **out);
#endif
