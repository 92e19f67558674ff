/* wait.pml - the bell of the coordinator, its sleep, rounds, durable waits, and who starts a coordinator when one died.
 *
 *   writer: publish | fence | sleeping? -> sleeping = 0, bell + 1, wake      coordinator: bell = ?, sleeping = 1 | fence |
 *     target = started + 1; urgent = 1, ring; sleep on done_bell               work? urgent? -> else sleep on the bell
 *
 * Modelled: 2 writers publish; the first WAITERS of them wait until it is durable; a coordinator sleeps, collects,
 *   commits, says done; it dies at any step CRASHES times, before or after it holds its lock. A futex compares and sleeps
 *   in one step. No sleep has a time-out, so that a lost wake-up is a deadlock; but a coordinator's death stands for the
 *   time-outs of its waiters.
 * Left out: what a round does (head.pml), gathering (a shorter sleep), the error pause of a coordinator that failed.
 * Properties: nobody waits for ever (no deadlock, no non-progress cycle); what is said to be durable is; at most one
 *   process coordinates, and at most one is being started.
 * Mutants: BELLFIRST E7 (looks whether it sleeps, then publishes)  NORECHECK E7 (sleeps without looking for work)
 *   LATEBELL E7 (the bell is read after the look)  RINGORDER (the bell, then sleeping = 0)  NOWAITERS E8 (done_waiters is
 *   raised after the look at rounds_done)  THISROUND 10 (target = started)  DONEFIRST 8 (rounds_done before the
 *   transaction)  NOPROBE 14 (nobody looks whether a coordinator lives)
 *   NOSTARTLOCK (everybody who finds none starts one)  TRYPROBE (asks by taking the lock: a livelock, found with -l) */
byte work, durable, started, rounds;      /* published; in L2; rounds_started, rounds_done */
byte waiters, done, crashes;              /* done_waiters */
bool rung[3], asleep[3], sleeping, urgent; /* the bell (2: the coordinator's) has counted since it was read; in the kernel */
byte lock, starting, running;             /* coordinator lock: 1 coordinator, 2 + w prober; start lock holders; processes */
#define HURRY urgent = true; RING
#ifdef RINGORDER
#define RING rung[2] = true; asleep[2] = false; sleeping = false
#else
#define RING sleeping = false; rung[2] = true; asleep[2] = false
#endif
#ifdef NOPROBE
#define NOBODY_COORDINATES false
#else
#define NOBODY_COORDINATES (lock != 1 && starting == 0)
#endif
#ifdef THISROUND
#define TARGET started
#else
#define TARGET (started + 1)
#endif

proctype Writer(byte w) { byte mine, target; bool s;
#ifdef BELLFIRST
  s = sleeping; atomic { work++; mine = work };
#else
  atomic { work++; mine = work }; s = sleeping;
#endif
  if :: s -> RING :: else fi;
  if :: w >= WAITERS -> goto progress :: else -> target = TARGET fi;
  do
  :: rung[w] = false;
     if :: rounds >= target -> break :: else fi;
     HURRY;
#ifdef NOWAITERS
     atomic { if :: !rung[w] -> asleep[w] = true :: else fi }; waiters++;
#else
     waiters++; atomic { if :: !rung[w] -> asleep[w] = true :: else fi };
#endif
     atomic { !asleep[w] || NOBODY_COORDINATES -> asleep[w] = false; waiters-- };
#ifdef TRYPROBE
     if :: atomic { lock == 0 -> lock = 2 + w }; lock = 0; skip :: lock != 0 -> skip fi;
#endif
#ifndef NOPROBE
     if :: lock == 0 -> /* ensure_coordinator; F_OFD_GETLK looks and takes nothing */
#ifdef NOSTARTLOCK
           atomic { starting++; running++; run Coordinator(); assert(starting <= 1) }
#else
           atomic { if :: starting == 0 && lock == 0 -> starting++; running++; run Coordinator() :: else fi }
#endif
        :: else
     fi
#endif
  od;
  assert(durable >= mine);
progress: done++ }

#define WAKE asleep[0] = false; asleep[1] = false
#define DONE rung[0] = true; rung[1] = true
#define HS_STEP(label) if :: true :: crashes < CRASHES -> crashes++; printf(#label); lock = 0; DONE; WAKE; goto gone fi
#define IDLE (done == 2 && durable == work)
proctype Coordinator() { byte n;
  atomic { if :: crashes < CRASHES -> crashes++; starting--; DONE; WAKE; goto gone :: true fi }; /* without its lock */
  atomic { if :: lock == 0 -> lock = 1; sleeping = false :: else -> starting--; goto gone fi };
  starting--;
  do
  :: work > durable || urgent ->
     urgent = false; /* before the count: who asks for the next round is not erased */
     atomic { started++; HS_STEP(collect_reaped) };
     n = work;
     atomic { HS_STEP(collect_cursors) };
#ifdef DONEFIRST
     rounds = started;
#endif
     atomic { HS_STEP(txn_before); durable = n; HS_STEP(txn_after) };
     atomic { rounds = started; HS_STEP(round_done) };
     atomic { DONE };
     atomic { if :: waiters > 0 -> WAKE :: else fi; HS_STEP(round_after) };
     n = 0
  :: else ->
#ifndef LATEBELL
     rung[2] = false;
#endif
     sleeping = true;
#ifndef NORECHECK
     if :: work > durable || urgent -> goto awake :: else fi;
#endif
#ifdef LATEBELL
     rung[2] = false;
#endif
     atomic { if :: !rung[2] -> asleep[2] = true :: else fi };
     atomic { !asleep[2] || IDLE -> if :: IDLE -> lock = 0; goto gone :: else fi };
awake: atomic { sleeping = false }
  od;
gone: running-- }
init { atomic { running = 1; starting = 1; run Coordinator(); run Writer(0); run Writer(1) } }
