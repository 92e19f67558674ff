/* room.pml - can waiting for room go round in a circle? Commits larger than the ring flow through it.
 *
 *   writer: chunk full -> publish, SEAL, index -> wait for a chunk -> ...     coordinator: drain, mark, free, ring done_bell
 *
 * Modelled: 2 writers put PARTS entries each, one fills a chunk; a ring of NCH chunks; one bucket of the index with NB
 *   words. A word may be replaced when its entry is persisted or its chunk is of another generation. A waiter reads
 *   done_bell, looks for room, sleeps until the bell has another count: no time-outs, so a lost wake-up is a
 *   deadlock (but a coordinator's death stands for the time-outs of those who sleep then).
 *   STOPS writers stop for ever at a step, CRASHES coordinators die at any step; another one follows.
 * Left out: contents, heads (head.pml), who starts a coordinator (wait.pml), IDLE chunks (each entry fills its chunk).
 * Properties: no deadlock; a published entry is in the index, or pending at its living writer, or in L2; all gets into L2.
 * Mutants: HOLDWAIT 5 (waits for the next chunk with the full one still BUSY)  ONLYSEALED 5 (published entries of BUSY
 *   chunks are not drained: one stopped writer keeps them)  FORGET 6 (drops an unpersisted word)
 *   BELLLATE E8 (the bell is read after the look)  NOBELL 14 (freed without a bell: all would wait for their time-outs) */
#define FREE 0
#define BUSY 1
#define SEALED 3
#define NONE 255
#define PLACE(c, g) ((g) * NCH + (c))
byte gen[NCH], st[NCH], cur[NCH], mark[NCH]; /* chunk words; mark: the generation that is persisted */
byte ixc[NB], ixg[NB];                       /* the bucket: chunk + 1, generation */
bool l2[NCH * 9];
bool rung[2];                                /* done_bell has another count than this writer read */
byte stops, crashes, done; 
#define HS_STEP(label) if :: true :: stops < STOPS -> stops++; printf(#label); goto gone fi
#define REUSABLE(k) (ixc[k] == 0 || gen[ixc[k] - 1] != ixg[k] || mark[ixc[k] - 1] == ixg[k])
#define PERSISTED(c, g) (gen[c] != g || mark[c] == g)
#define SLEEP rung[w] /* hs_ring_wait: hurries the coordinator, sleeps on done_bell */
#ifdef BELLLATE
#define LOOK skip
#define LATE rung[w] = false
#else
#define LOOK rung[w] = false
#define LATE skip
#endif
proctype Writer(byte w) { byte part, c = NONE, g, held = NONE, pg; /* g: 0 once it is indexed */
  do
  :: part == PARTS -> break
  :: else ->
claim: LOOK; /* room_make reads the bell before it looks */
     atomic { if :: st[0] == FREE -> c = 0 :: else -> if :: st[NCH - 1] == FREE -> c = NCH - 1 :: else -> c = NONE fi fi;
              if :: c == NONE :: else -> HS_STEP(claim_before); st[c] = BUSY; gen[c]++; cur[c] = 0; g = gen[c];
                                                 HS_STEP(claim_after) fi };
     if :: c == NONE -> LATE; SLEEP; goto claim :: else fi;
     atomic { HS_STEP(append_header); HS_STEP(append_payload) };
     atomic { HS_STEP(publish_before); cur[c] = 1;
#ifdef HOLDWAIT
       if :: held != NONE -> st[held] = SEALED :: else fi; held = c; /* the one before is given up only now */
#endif
       pg = g; HS_STEP(publish_after) };
#ifndef HOLDWAIT
     atomic { HS_STEP(release_before); st[c] = SEALED; HS_STEP(release_after) };
#endif
index: LOOK;
     atomic { HS_STEP(index_before);
#ifdef FORGET
       ixc[NB - 1] = c + 1; ixg[NB - 1] = g; g = 0;
#else
       if :: PERSISTED(c, g) -> g = 0
          :: else -> if :: REUSABLE(0) -> ixc[0] = c + 1; ixg[0] = g; g = 0
                        :: else -> if :: REUSABLE(NB - 1) -> ixc[NB - 1] = c + 1; ixg[NB - 1] = g; g = 0 :: else fi fi fi;
#endif
       HS_STEP(index_after) };
     if :: g != 0 -> LATE; SLEEP; g = pg; goto index :: else fi;
     atomic { assert(l2[PLACE(c, pg)] || (ixc[0] == c + 1 && ixg[0] == pg) || (ixc[NB - 1] == c + 1 && ixg[NB - 1] == pg)) };
     atomic { part++; c = NONE; pg = 0 }
  od;
#ifdef HOLDWAIT
  st[held] = SEALED;
#endif
gone: done++ }
#undef HS_STEP
#define HS_STEP(label) if :: true :: crashes < CRASHES -> crashes++; printf(#label); RING; goto start fi
#ifdef ONLYSEALED
#define UNDRAINED(c) (cur[c] == 1 && mark[c] != gen[c] && st[c] == SEALED)
#else
#define UNDRAINED(c) (cur[c] == 1 && mark[c] != gen[c])
#endif
#define HAS_WORK(c) (UNDRAINED(c) || st[c] == SEALED)
#ifdef NOBELL
#define RING skip
#else
#define RING rung[0] = true; rung[1] = true
#endif
#define EACH(what) i = 0; do :: i < NCH -> what; i++ :: else -> break od; i = 0
proctype Coordinator() { byte i, sealed[NCH], to[NCH];
start: atomic { EACH(sealed[i] = 0; to[i] = 0) };
end: do
  :: atomic { done == 2 && !HAS_WORK(0) && !HAS_WORK(NCH - 1) -> break }
  :: atomic { HAS_WORK(0) || HAS_WORK(NCH - 1) -> EACH(sealed[i] = (st[i] == SEALED -> gen[i] : 0)); HS_STEP(collect_reaped) };
     atomic { EACH(to[i] = (UNDRAINED(i) -> gen[i] : 0)); HS_STEP(collect_cursors) };
     atomic { HS_STEP(txn_before); EACH(if :: to[i] > 0 -> l2[PLACE(i, to[i])] = true :: else fi); HS_STEP(txn_after) };
     atomic { EACH(if :: to[i] > 0 -> mark[i] = to[i] :: else fi); HS_STEP(marks_after) };
     atomic { EACH(if :: st[i] == SEALED && sealed[i] == gen[i] && (cur[i] == 0 || mark[i] == gen[i]) -> st[i] = FREE :: else fi);
              HS_STEP(free_after) };
     atomic { RING; HS_STEP(round_done); HS_STEP(round_after) }
  od;
  EACH(assert(cur[i] == 0 || l2[PLACE(i, gen[i])])) }
init { atomic { run Writer(0); run Writer(1); run Coordinator() } }
