/* life.pml - the gate: who makes the segment, joins it, and when the last coordinator removes its name and goes.
 *
 *   participant, in the gate: segment of that name? else make one; slot      coordinator, in the gate: nobody takes part and
 *     commit; wait for a coordinator to drain it; leave                        nothing is left -> remove the name, unlock
 *
 * Modelled: NP participants join, commit once, see it drained, leave; coordinators attach, drain, leave; any of them dies
 *   at any step, DEATHS in all; locks die with their holders. If all die, what is undrained is found by the next open.
 * Left out: that a coordinator who finds no segment makes one, which nobody uses; slots (slot.pml), the start lock
 *   (wait.pml), stores that are made or removed, other containers.
 * Properties: all who take part share the segment that has the name; a name goes away only when its segment is drained
 *   and nobody uses it; who closes finds a coordinator or drained commits; at most one process coordinates.
 * Mutants of "Lifecycle" in docs/CONCURRENCY.md: NOGATE (look, make, rename over it, join, without the gate)  LINKONLY (the
 *   same, but link(2), which fails if there is a name)  NOGATEEXIT (the coordinator leaves without it)  NOLOOK (it does not
 *   look again inside the gate)  NOWORK (it leaves without asking for work) */
byte name, made, gate, deaths, gone;             /* the segment that has the name; segments made; who holds the gate */
byte undrained[6], seg[NP]; bool live[NP], locked, starting;
byte coordinators;
#define HS_STEP(label) if :: true :: deaths < DEATHS -> deaths++; printf(#label); live[p] = false; \
                             gate = (gate == p + 1 -> 0 : gate); goto out fi
#define ANY (live[0] || live[1] || live[NP - 1])
#define START if :: !locked && !starting -> starting = true; run Coordinator() :: else fi /* the start lock: wait.pml */
#if defined(NOGATE) || defined(LINKONLY)
#define ENTER(x) skip
#define EXIT skip
#else
#define ENTER(x) atomic { gate == 0 -> gate = x }
#define EXIT gate = 0
#endif
proctype Participant(byte p) { byte s, t;
  ENTER(p + 1);
look: s = name;
  if
  :: s == 0 -> atomic { made++; t = made };
#ifdef LINKONLY
     atomic { if :: name == 0 -> name = t :: else -> goto look fi };
#else
     name = t;
#endif
     s = t
  :: else
  fi;
  atomic { HS_STEP(join_locked); live[p] = true; seg[p] = s; HS_STEP(join_after) };
  EXIT;
  atomic { START };
  atomic { undrained[s]++; assert(name == s && (!live[0] || !live[1] || seg[0] == seg[1])); HS_STEP(head_after) };
  do
  :: undrained[s] == 0 -> break
  :: atomic { undrained[s] > 0 && !locked && !starting -> START }
  od;
  atomic { live[p] = false; t = 0 };
out: gone++ }

#undef HS_STEP
#define HS_STEP(label) if :: true :: deaths < DEATHS -> deaths++; printf(#label); \
                             gate = (gate == NP + 1 -> 0 : gate); goto over fi
#if defined(NOGATE) || defined(LINKONLY) || defined(NOGATEEXIT)
#define CENTER skip
#define CEXIT skip
#else
#define CENTER atomic { gate == 0 -> gate = NP + 1 }
#define CEXIT gate = 0
#endif
proctype Coordinator() { byte s; bool mine;
  atomic { starting = false; if :: locked -> goto gone_already :: else -> locked = true; mine = true; coordinators++ fi;
           assert(coordinators == 1) };
  CENTER;
  s = name;
  CEXIT;
  if :: s == 0 -> goto over :: else fi;
  do
  :: undrained[s] > 0 -> atomic { HS_STEP(txn_before); undrained[s]--; HS_STEP(txn_after) }
#ifdef NOWORK
  :: !ANY ->
#else
  :: !ANY && undrained[s] == 0 ->
#endif
     CENTER;
#ifndef NOLOOK
     if :: ANY -> CEXIT; goto on :: else fi;
#ifndef NOWORK
     if :: undrained[s] > 0 -> CEXIT; goto on :: else fi;
#endif
#endif
     atomic { assert(undrained[name] == 0); name = 0; HS_STEP(leave_unlinked) };
     goto over;
on:  skip
  od;
over: atomic { if :: mine -> locked = false; coordinators-- :: else fi; gate = (gate == NP + 1 -> 0 : gate) };
gone_already: skip }
init { byte i; atomic { run Participant(0); run Participant(1);
#if NP > 2
    run Participant(2);
#endif
  }
  gone == NP && !locked && !starting && coordinators == 0;
  i = 1; do :: i < 6 -> assert(undrained[i] == 0 || name == i); i++ :: else -> break od }
