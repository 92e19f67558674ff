/* slot.pml - a participant's slot: join, leave, die; how the coordinator finds the dead, seals their chunks, frees slots.
 *
 *   join, in the gate: state = 0? -> lock byte n -> state = 1      leave: state = 0 -> unlock       death: the kernel unlocks
 *   probe: state = 1? -> whose? -> is byte n free? -> still state = 1, and still that one's? -> dead
 *
 * Modelled: 3 processes in turn use ONE slot and own a chunk while they append; each may die at any step; a coordinator
 *   runs rounds: probe, seal the chunks of the dead, free the slots of those dead; it dies CRASHES times.
 * Left out: what is in a chunk (chunk.pml), the other slots (a process that finds this one taken waits for it).
 * Properties: a chunk of a living process is never sealed, a slot of a living process never freed; a dead one's chunk and
 *   slot come back (no deadlock: everybody gets a turn).
 * Mutants: ONELOOK 13 (probe: state, then lock; in between one leaves and another joins)  NOWHOSE 13 (looks twice, but not
 *   whose slot it is)  FREEFIRST 13 (the slot is freed before the chunk is sealed)  UNLOCKFIRST (leave: unlock, then
 *   state = 0)  FILLFIRST (join: state = 1, then the lock)
 *   NOGATE 13 (two join at once: one may take over the lock of a dead one whose chunk is not sealed) */
bool state, chunk;             /* the slot is taken; a chunk is BUSY with this slot's number as its owner */
byte lock, whose, owner;       /* who holds the byte's lock; {pid, start time} in the slot; ghost: who owns the chunk */
bool alive[4];
byte deaths, crashes, gone, gate;
#define HS_STEP(label) if :: true :: deaths < DEATHS -> deaths++; printf(#label); alive[p] = false; \
                             lock = (lock == p -> 0 : lock); \
                             gate = (gate == p -> 0 : gate); goto over fi
#ifdef NOGATE
#define GATE skip
#define UNGATE skip
#else
#define GATE atomic { gate == 0 -> gate = p }
#define UNGATE gate = 0
#endif

proctype Participant(byte p) {
again:
#ifdef FILLFIRST
  atomic { !state -> state = true; whose = p; alive[p] = true; HS_STEP(join_after) };
  atomic { if :: lock == 0 -> lock = p :: else -> goto over fi; HS_STEP(join_locked) };
#else
  GATE;
  if :: !state :: else -> UNGATE; !state; goto again fi;
  atomic { if :: lock == 0 -> lock = p :: else -> UNGATE; goto again fi; alive[p] = true; HS_STEP(join_locked) };
  whose = p;
  atomic { state = true; HS_STEP(join_after) };
  UNGATE;
#endif
  atomic { HS_STEP(claim_before); !chunk -> chunk = true; owner = p; HS_STEP(claim_after) };
  atomic { assert(chunk && owner == p && state); HS_STEP(release_before); chunk = false; owner = 0; HS_STEP(release_after) };
#ifdef UNLOCKFIRST
  atomic { alive[p] = false; lock = 0 };
  state = false;
#else
  atomic { assert(state); alive[p] = false; state = false };
  lock = 0;
#endif
over: gone++ }

#undef HS_STEP
#define HS_STEP(label) if :: true :: crashes < CRASHES -> crashes++; printf(#label); goto start fi
proctype Coordinator() { byte who; bool dead;
start: atomic { who = 0; dead = false };
end: do
  :: gone == 3 && !state && !chunk -> break
  :: state || chunk ->
     if :: state -> who = whose;
           if :: lock == 0 ->
#ifdef ONELOOK
                 dead = true
#elif defined(NOWHOSE)
                 dead = state
#else
                 if :: state -> dead = whose == who :: else fi /* in this order */
#endif
              :: else fi
        :: else fi;
#ifdef FREEFIRST
     atomic { if :: dead -> state = false :: else fi; HS_STEP(free_after) };
#endif
     atomic { if :: chunk && (dead || !state) -> assert(!alive[owner]); chunk = false; owner = 0 :: else fi;
              HS_STEP(collect_reaped) };
#ifndef FREEFIRST
     atomic { if :: dead -> assert(!state || !alive[whose]); state = false :: else fi;
              HS_STEP(free_after); HS_STEP(round_after) };
#endif
     atomic { who = 0; dead = false }
  od }
init { atomic { run Participant(1); run Participant(2); run Participant(3); run Coordinator() } }
