/* chunk.pml - one chunk word {generation, state, owner, cursor}: claim, append, publish, index, release, reap, drain, free.
 *
 *   FREE -(writer; generation + 1, cursor 0)-> BUSY -(release)-> IDLE, or SEALED when full;  IDLE -(any writer)-> BUSY
 *   BUSY of a dead owner -(coordinator)-> SEALED -(coordinator, all of it in L2)-> FREE
 *
 * Modelled: 2 writers put K entries each (header and payload are written apart), a reader looks one entry up by its id,
 *   a coordinator collects (states, then cursors), commits, marks, frees. FAULTS writers are killed, or stopped for ever,
 *   at any step; CRASHES coordinators die at any step. SUSPECT: a living writer is once taken for dead.
 * Left out: heads (head.pml), a full ring or index (room.pml), how the dead are found (slot.pml), memory orders.
 * Properties: nobody is given bytes under an id that are not that id's; an acknowledged entry is found in the ring or in
 *   L2 at every instant; a chunk is claimed anew only when L2 has all of it; in the end L2 has all that was acknowledged.
 *   The late bytes of a writer that was wrongly taken for dead may destroy an entry (`hit`), but never pass for it.
 * Mutants, and the rule of docs/CONCURRENCY.md that each breaks: HOLD 1 (a chunk is its writer's until it is full)
 *   NOCAS 2 (SUSPECT: publishes by a store)  IXFIRST 2 (DEDUP: index before publish)  NOGEN 3 (marks without
 *   generation)  NOSUM 4 (SUSPECT: believes generations alone)
 *   MARKFIRST 8 (marks before the transaction)  FREENOW 8 (frees what is SEALED by now) */
#define FREE 0
#define BUSY 1
#define IDLE 2
#define SEALED 3
#define NID (2 * K + 1)
byte gen[NCH], st[NCH], own[NCH], cur[NCH];   /* the chunk word: changes in one atomic step */
byte markg[NCH], mark[NCH];                   /* persisted: {generation, offset} */
byte head[NCH * CAP], body[NCH * CAP];        /* an entry's header and payload; the sum holds when they are of one id */
byte ixp[NID], ixg[NID];                      /* the index: place + 1, generation */
bool l2[NID], acked[NID], pub[NCH * CAP];     /* pub: published in this generation (nobody's variable) */
bool dead[2], suspected, hit;
byte faults, crashes, done;
#ifdef DEDUP
#define ID(w, n) (n == 0 -> 1 : (w) * K + (n) + 1) /* all writers put the same first entry */
#else
#define ID(w, n) ((w) * K + (n) + 1)
#endif
#ifdef NOGEN
#define MARK(c) mark[c]
#else
#define MARK(c) (markg[c] == gen[c] -> mark[c] : 0)
#endif
#define CLAIMABLE(c) (st[c] == FREE || st[c] == IDLE)
#ifdef SUSPECT
#define GONE(c) (st[c] == BUSY && (dead[own[c]] || !suspected))
#else
#define GONE(c) (st[c] == BUSY && dead[own[c]])
#endif
#define HAS_WORK(c) (cur[c] != MARK(c) || st[c] == SEALED || GONE(c))
#define EACH(i, n, what) i = 0; do :: i < n -> what; i++ :: else -> break od; i = 0
#define HS_STEP(label) if :: true :: faults < FAULTS -> faults++; printf(#label); \
                             if :: dead[w] = true :: true fi; goto gone fi

inline own_chunk() { /* the compare-and-swap of a claim */
  if
  :: st[c] == FREE ->
     EACH(i, CAP, assert(!pub[c * CAP + i] || l2[head[c * CAP + i]] || hit); pub[c * CAP + i] = false);
     gen[c]++; cur[c] = 0
  :: else
  fi;
  st[c] = BUSY; own[c] = w; g = gen[c]; p = c * CAP + cur[c] }

#define MINE (st[c] == BUSY && own[c] == w && gen[c] == g)
#define LATE if :: !MINE -> hit = hit || gen[c] != g :: else fi /* bytes of one who was taken for dead */

proctype Writer(byte w) { byte n, c, g, p, i, id; bool have;
  do
  :: n == K -> break
  :: else -> id = ID(w, n);
#ifdef DEDUP
     if :: atomic { ixp[id] > 0 && ixg[id] == gen[(ixp[id] - 1) / CAP] -> goto standing } :: else fi;
#endif
again:
     atomic { HS_STEP(claim_before) } ; atomic { have || CLAIMABLE(0) || CLAIMABLE(NCH - 1) ->
              if :: have && MINE -> p = c * CAP + cur[c]
                 :: else -> if :: CLAIMABLE(0) -> c = 0 :: CLAIMABLE(NCH - 1) -> c = NCH - 1 fi; own_chunk() fi;
              HS_STEP(claim_after) };
     atomic { LATE; head[p] = id; HS_STEP(append_header) };
     atomic { LATE; body[p] = id; HS_STEP(append_payload) };
#ifdef IXFIRST
     atomic { ixp[id] = p + 1; ixg[id] = g };
#endif
#ifdef NOCAS
     atomic { HS_STEP(publish_before); cur[c] = p - c * CAP + 1; pub[p] = true; HS_STEP(publish_after) };
#else
     atomic { HS_STEP(publish_before); if :: MINE -> cur[c]++; pub[p] = true :: else -> have = false; goto again fi;
              HS_STEP(publish_after) };
#endif
     atomic { HS_STEP(index_before);
#ifndef IXFIRST
       ixp[id] = p + 1; ixg[id] = g;
#endif
       HS_STEP(index_after) };
standing:
     acked[id] = true;
     atomic { HS_STEP(release_before);
#ifdef HOLD
       have = MINE && cur[c] < CAP;
       if :: MINE && cur[c] == CAP -> st[c] = SEALED :: else fi;
#else
       if :: MINE -> st[c] = (cur[c] == CAP -> SEALED : IDLE); own[c] = 0 :: else fi;
#endif
       HS_STEP(release_after); n++; if :: !have -> c = 0; g = 0 :: else fi; p = 0; id = 0 }
  od;
gone: done++ }

#undef HS_STEP
#define HS_STEP(label) if :: true :: crashes < CRASHES -> crashes++; printf(#label); goto start fi
#ifdef FREENOW
#define CAN_FREE(c) (st[c] == SEALED)
#else
#define CAN_FREE(c) (st[c] == SEALED && sealed[c] == gen[c] && cur[c] == MARK(c))
#endif
#define COMMIT EACH(i, NCH, j = from[i]; do :: j < to[i] -> k = i * CAP + j; \
                            if :: head[k] == body[k] -> l2[head[k]] = true :: else fi; j++ :: else -> break od)
proctype Coordinator() { byte i, j, k, sealed[NCH], from[NCH], to[NCH], g[NCH];
start: atomic { EACH(i, NCH, sealed[i] = 0; from[i] = 0; to[i] = 0; g[i] = 0); j = 0; k = 0 };
  do
  :: atomic { done == 2 && !HAS_WORK(0) && !HAS_WORK(NCH - 1) -> break }
  :: atomic { HAS_WORK(0) || HAS_WORK(NCH - 1) ->
       EACH(i, NCH, if :: GONE(i) -> suspected = suspected || !dead[own[i]]; st[i] = SEALED; own[i] = 0 :: else fi;
                    sealed[i] = (st[i] == SEALED -> gen[i] : 0));
       HS_STEP(collect_reaped) };
     atomic { EACH(i, NCH, g[i] = gen[i]; to[i] = cur[i]; from[i] = (MARK(i) < to[i] -> MARK(i) : to[i]));
              HS_STEP(collect_cursors) };
#ifdef MARKFIRST
     atomic { EACH(i, NCH, markg[i] = g[i]; mark[i] = to[i]); HS_STEP(marks_after) };
#endif
     atomic { HS_STEP(txn_before); COMMIT; j = 0; k = 0; HS_STEP(txn_after) };
#ifndef MARKFIRST
     atomic { EACH(i, NCH, if :: to[i] > from[i] -> markg[i] = g[i]; mark[i] = to[i] :: else fi); HS_STEP(marks_after) };
#endif
     atomic { EACH(i, NCH, if :: CAN_FREE(i) -> st[i] = FREE :: else fi); HS_STEP(free_after); goto start }
  od;
  EACH(i, NID, assert(!acked[i] || l2[i] || hit)) }

proctype Reader(byte id) { byte p, g, a, b; bool must; /* hs_ring_get, then L2 in a transaction that begins after it */
  atomic { must = acked[id]; p = ixp[id]; g = ixg[id] };
  if
  :: p > 0 && gen[(p - 1) / CAP] == g ->
     a = head[p - 1]; b = body[p - 1];
     if
#ifdef NOSUM
     :: gen[(p - 1) / CAP] == g && a == id -> assert(b == id)
#else
     :: gen[(p - 1) / CAP] == g && a == b && a == id -> skip
#endif
     :: else -> assert(!must || l2[id] || hit)
     fi
  :: else -> assert(!must || l2[id] || hit)
  fi }
init { atomic { run Writer(0); run Writer(1); run Coordinator(); if :: READER > 0 -> run Reader(READER) :: else fi } }
