/* head.pml - a branch's head: compare-and-swap, chains of records, the drain, coordinators that crash, durable waits.
 *
 *   head -> record C -> record B -> record A (serial 1)        L2: serial 2: {A, B}; the next round brings C
 *
 * Modelled: 2 writers commit K times each on one branch; a chunk holds one commit, {node, record}, so a place is {chunk,
 *   generation}. Writer: load the head (its record in the ring, else L2's row), write, publish, compare-and-swap, wait
 *   until a round that began later is done. Coordinator: states, heads, cursors, ONE transaction, marks, free, round done.
 * Left out: entries and index of a chunk (chunk.pml), more branches and eviction (branch.pml), sleeping (wait.pml).
 * Properties: the log in L2 is the ghost order of the swaps, each commit once; what a head names can be read, and is that
 *   head's; a commit said to be durable is in L2; in the end all commits are.
 * Mutants: FREEANY 3 (whatever is persisted may be claimed)  NOAGAIN 4 (a record is believed without a second look at the
 *   generation)  CASFIRST 7 (head before publish)  HEADLAST 8 (cursors, then heads)
 *   STATELAST 8 (heads, then states)  FREENOW 8 (frees what is SEALED by now)  ACKFIRST 8 (the round is done before the
 *   transaction)  NOIDEMP 9 (back to what memory remembers, not to L2's serial)  THISROUND 10 (waits for the round that
 *   runs, not for the next)  WAITMARK 10 (durable: the mark has passed my record) */
#ifdef CASFIRST
#define FIRST skip
#define LAST PUBLISH; RELEASE
#else
#define FIRST PUBLISH
#define LAST RELEASE
#endif
#define FREE 0
#define BUSY 1
#define SEALED 3
#define NLOG (K0 + K1 + 1)
#define WORD(c, g) ((g) * NCH + (c) + 1) /* unique for ever; 0: no commit yet */
#define CHUNK(w) (((w) - 1) % NCH)
#define GEN(w) (((w) - 1) / NCH)
byte gen[NCH], st[NCH], own[NCH], cur[NCH], mark[NCH]; /* chunk words; mark: the generation that is persisted */
byte rid[NCH], rpar[NCH], rser[NCH];                   /* the commit in a chunk: id, parent word, serial */
byte head, started, rounds, asked;                     /* head word; rounds_started, rounds_done, wanted (`urgent`) */
byte l2word, l2ser, l2log[NLOG]; bool l2node[NLOG];    /* L2: branch row, log, nodes */
byte order[NLOG], swaps, remembered;                   /* ghost: ids in the order of the swaps; NOIDEMP: a word in memory */
byte done, faults, crashes; bool dead[2];
#ifdef FREEANY
#define IS_FREE(k) (st[k] == FREE || (st[k] == SEALED && mark[k] == gen[k]))
#else
#define IS_FREE(k) (st[k] == FREE)
#endif
#define IN_L1(w) (GEN(w) == gen[CHUNK(w)])
#ifdef NOAGAIN
#define STILL_IN_L1(w) true
#else
#define STILL_IN_L1(w) IN_L1(w)
#endif
#define EACH(what) k = 0; do :: k < NCH -> what; k++ :: else -> break od; k = 0
#define HS_STEP(label) if :: true :: faults < FAULTS -> faults++; printf(#label); \
                             if :: dead[w] = true :: true fi; goto gone fi
#define PUBLISH atomic { HS_STEP(publish_before); cur[c] = 1; HS_STEP(publish_after) }
#define RELEASE atomic { HS_STEP(release_before); st[c] = SEALED; own[c] = 0; HS_STEP(release_after) }

proctype Writer(byte w) { byte n, c, hw, ser, id, k, target; bool won;
  do
  :: n == (w == 0 -> K0 : K1) -> break
  :: else -> id = w * K0 + n + 1;
load: atomic { hw = head; ser = swaps; k = 0; if :: hw == 0 -> goto claim :: else fi }; /* ser: what it must turn out to be */
     if
     :: IN_L1(hw) -> k = rser[CHUNK(hw)];
        if :: STILL_IN_L1(hw) -> assert(k == ser) :: else -> goto load fi
     :: else -> atomic { if :: l2word == hw -> assert(l2ser == ser) :: else -> assert(head != hw); goto load fi }
     fi;
claim: atomic { IS_FREE(0) || IS_FREE(1) || IS_FREE(NCH - 1) -> k = 0; HS_STEP(claim_before);
              if :: IS_FREE(0) -> c = 0 :: else -> if :: IS_FREE(1) -> c = 1 :: else -> c = NCH - 1 fi fi;
              st[c] = BUSY; own[c] = w; gen[c]++; cur[c] = 0; HS_STEP(claim_after) };
     atomic { rid[c] = id; rpar[c] = hw; rser[c] = ser + 1; HS_STEP(append_payload) };
     FIRST;
     atomic { HS_STEP(head_before); won = head == hw;
              if :: won -> head = WORD(c, gen[c]); order[swaps] = id; swaps++; HS_STEP(head_after) :: else fi };
     LAST;
     if :: won && w < WAITERS -> atomic { target = started;
#ifndef THISROUND
          target++;
#endif
          asked = (target > asked -> target : asked) };
#ifdef WAITMARK
        atomic { mark[c] == gen[c] || st[c] == FREE -> assert(l2ser > ser) };
#else
        atomic { rounds >= target -> assert(l2ser > ser) };
#endif
     :: else fi;
     atomic { n = n + won; won = false; c = 0; hw = 0; ser = 0; k = 0; id = 0; target = 0 }
  od;
gone: done++ }

#undef HS_STEP
#define HS_STEP(label) if :: true :: crashes < CRASHES -> crashes++; printf(#label); goto start fi
#define GONE(k) (st[k] == BUSY && dead[own[k]])
#define WORK(k) ((cur[k] == 1 && mark[k] != gen[k]) || st[k] == SEALED || GONE(k))
#define HAS_WORK (head != known || asked > rounds || WORK(0) || WORK(1) || WORK(NCH - 1))
#define STATES atomic { EACH(if :: GONE(k) -> st[k] = SEALED; own[k] = 0 :: else fi; s[k] = (st[k] == SEALED -> gen[k] : 0)); \
                        HS_STEP(collect_reaped) }
#define HEADS atomic { hw = head; HS_STEP(collect_heads) }
#define CURSORS atomic { EACH(e[k] = (cur[k] == 1 && mark[k] != gen[k] -> gen[k] : 0)); HS_STEP(collect_cursors) }
#if defined(HEADLAST)
#define COLLECT STATES; CURSORS; HEADS
#elif defined(STATELAST)
#define COLLECT HEADS; STATES; CURSORS
#elif defined(ACKFIRST)
#define COLLECT STATES; HEADS; CURSORS; DONE
#else
#define COLLECT STATES; HEADS; CURSORS
#endif
#define DONE atomic { if :: WAITERS > 0 -> rounds = started :: else fi; HS_STEP(round_done) }
#ifdef NOIDEMP
#define REMEMBER remembered = hw
#define IS_KNOWN(w) ((w) == remembered)
#define IS_LAST(w) (rpar[CHUNK(w)] == remembered || rpar[CHUNK(w)] == 0)
#else
#define REMEMBER skip
#define IS_KNOWN(w) (rser[CHUNK(w)] == l2ser)
#define IS_LAST(w) (rser[CHUNK(w)] == l2ser + 1)
#endif
#ifdef FREENOW
#define CAN_FREE(k) (st[k] == SEALED && (cur[k] == 0 || mark[k] == gen[k]))
#else
#define CAN_FREE(k) (st[k] == SEALED && s[k] == gen[k] && (cur[k] == 0 || mark[k] == gen[k]))
#endif
inline commit() { /* {nodes, chain, row} in one transaction */
  EACH(if :: e[k] > 0 -> l2node[rid[k] - 1] = true :: else fi);
  t = hw; m = 0;
  if :: hw == 0 || !IN_L1(hw) -> skip /* a reused record: an earlier round has brought it to L2 */
     :: else ->
        do
        :: IS_KNOWN(t) -> break
        :: else -> assert(IN_L1(t) && cur[CHUNK(t)] == 1 && l2node[rid[CHUNK(t)] - 1]); m++;
                   if :: IS_LAST(t) -> break :: else -> t = rpar[CHUNK(t)]; assert(IN_L1(t)) fi
        od;
        k = m; t = hw;
        do :: k > 0 -> k--; l2log[l2ser + k] = rid[CHUNK(t)]; t = rpar[CHUNK(t)] :: else -> break od;
        l2ser = l2ser + m; l2word = hw; assert(l2ser <= swaps && l2ser == rser[CHUNK(hw)])
  fi;
  k = 0; do :: k < l2ser -> assert(l2log[k] == order[k]); k++ :: else -> break od; k = 0; t = 0; m = 0 }

proctype Coordinator() { byte s[NCH], e[NCH], hw, known, k, t, m;
start: atomic { EACH(s[k] = 0; e[k] = 0); hw = 0; known = 0; t = 0; m = 0 };
  do
  :: atomic { done == 2 && !HAS_WORK -> break }
  :: atomic { HAS_WORK -> if :: WAITERS > 0 -> started++ :: else fi };
     COLLECT;
     atomic { HS_STEP(txn_before); commit(); HS_STEP(txn_after); REMEMBER; HS_STEP(locator_after) };
     atomic { EACH(if :: e[k] > 0 -> mark[k] = e[k] :: else fi); HS_STEP(marks_after) };
     atomic { EACH(if :: CAN_FREE(k) -> st[k] = FREE :: else fi); HS_STEP(free_after) };
     DONE;
     atomic { known = hw; HS_STEP(round_after); EACH(s[k] = 0; e[k] = 0); hw = 0 }
  od;
  assert(l2ser == swaps) }
init { atomic { run Writer(0); run Writer(1); run Coordinator() } }
