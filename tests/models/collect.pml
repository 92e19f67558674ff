/* collect.pml - a state that somebody holds, or that can still be named, is whole or not there, whatever is collected beside it.
 *
 *   committer: lease A, commit B on it (what stands in the ring is not written again), hand B on as 32 bytes, let go
 *   receiver:  lease B, validate, use          coordinator: rounds; stop, read the leases, one transaction, go
 *
 * Modelled: nodes s, a, d, b; states A = {a, s}, in L2 and the branch's head, and B = {b, d, s}. d stands in L2 and in the ring
 *   and belongs to nothing that is kept; it is a blob file as well, which the committer looks for before its commit begins. A
 *   ring entry is unpersisted, persisted or stale; the last two may be reused at any time, and the head may move away. DEATHS
 *   processes die at any step, and CRASHES coordinators; another one follows. HEADS: the committer moves the branch's
 *   head to B by compare-and-swap, and the receiver takes what it sees there.
 * Left out: growth and forks of lease tables, copies (they add), `grace` (packs that are young by it are like new ones).
 * Properties: what is used is whole while it is leased; L2 is closed: a node in it has all below it; nobody waits for ever.
 * Mutants: NOSTOP (the coordinator does not wait for commits)  NOLOOK (a commit begins though stopped)  NOSTALE (entries
 *   persisted before a deletion are trusted)  NOAGAIN (a suspended commit goes on after a deletion with what it found before)
 *   NOLEASES (they are not read)  EARLYLEASES (read before the stop only)  NOYOUNG (new packs are not marked from)  NOFINAL
 *   (no round between stop and deletion)  TWOTXN (two transactions delete)  NOVALID (used without a look)  ROOTRING (valid
 *   by any ring entry of the root)  NOWAIT (validated while stopped)  EARLYFALL (committing falls before the result is
 *   leased)  NORECOVER (the next coordinator goes on without stale marks)  HEADONCE (a head is trusted though the word has
 *   changed since it was read)  OLDFORM (a file seen before a deletion is relied upon)  FREETRASH (files go without a stop) */
#define s 0
#define a 1
#define d 2
#define b 3
#define A 1
#define B 2
#define UNPERSISTED 1
#define PERSISTED 2
#define STALE 3
bool old[4], young[4];            /* rows of L2: in packs that are collected, and in those that are new to this collection */
byte ring[4]; bool file = true;   /* file: d's bytes */
byte head = A, deletions; bool stopping, committing[2], dead[2], sent, made;
byte leases[6], deaths, crashes, done, collections; bool uses[6];
#define LEASE(p, r) leases[3 * (p) + (r)]
#define USE(p, r) uses[3 * (p) + (r)]
#define LIVE(n) (old[n] || young[n])
#define THERE(n) (LIVE(n) || ring[n] == UNPERSISTED)
#define OK assert((!(USE(0, A) || USE(1, A)) || (THERE(a) && THERE(s))) && \
  (!(USE(0, B) || USE(1, B)) || (THERE(b) && THERE(d) && THERE(s) && file)))
#define CLOSED assert((!LIVE(b) || (LIVE(d) && LIVE(s) && file)) && (!LIVE(a) || LIVE(s)))
#define DIE if :: true :: deaths < DEATHS -> deaths++; dead[p] = true; \
  USE(p, A) = false; USE(p, B) = false; LEASE(p, A) = 0; LEASE(p, B) = 0; goto gone fi
#define HS_STEP(label) DIE
#ifdef NOSTALE
#define TRUSTED(n) (ring[n] != 0)
#else
#define TRUSTED(n) (ring[n] == UNPERSISTED || ring[n] == PERSISTED)
#endif
#ifdef HEADONCE
#define UNCHANGED(w) true
#else
#define UNCHANGED(w) (w == deletions && !stopping)
#endif
#define TAKE_HEAD(r) /* leased; r is 0 if it is none of ours */ \
take: atomic { !stopping -> w = deletions; DIE }; atomic { r = head; DIE }; \
      if :: r == 0 -> goto gone :: else -> atomic { LEASE(p, r)++; DIE } fi; \
      atomic { if :: UNCHANGED(w) -> USE(p, r) = true; OK :: else -> LEASE(p, r)--; goto take fi; DIE }

proctype Committer() { byte p = 0, r, w, under, formed; bool has_file, put_d; /* Workspace.commit */
  TAKE_HEAD(r);
  if :: r != A -> goto gone :: else fi;
form: atomic { formed = deletions; has_file = file; DIE }; /* blobs.write */
  if :: has_file :: else -> file = true fi;
begin: atomic { committing[0] = true; HS_STEP(commit_begun) };
#ifndef NOLOOK
  if :: stopping -> committing[0] = false; !stopping; goto begin :: else fi;
#endif
#ifndef OLDFORM
  if :: formed != deletions -> committing[0] = false; goto form :: else fi;
#endif
#ifndef NOAGAIN
  if :: put_d && under != deletions -> put_d = false :: else fi;
#endif
  under = deletions;
  if :: put_d :: else -> atomic { if :: TRUSTED(d) :: else -> ring[d] = UNPERSISTED fi; put_d = true; HS_STEP(publish_after) }
     if :: committing[0] = false; goto begin /* suspended: a node must be brought from L2, or there is no room */ :: true fi fi;
  atomic { if :: TRUSTED(b) :: else -> ring[b] = UNPERSISTED fi; HS_STEP(publish_after) };
#ifdef HEADS
  atomic { if :: head == A -> head = B :: else -> committing[0] = false; goto gone fi; HS_STEP(head_after) };
#endif
#ifdef EARLYFALL
  committing[0] = false;
#endif
  atomic { LEASE(0, B)++; made = true; HS_STEP(commit_leased) };
  committing[0] = false;
  atomic { USE(0, B) = true; OK; sent = true; DIE };
  atomic { USE(0, A) = false; LEASE(0, A)--; DIE };
  atomic { USE(0, B) = false; LEASE(0, B)--; DIE };
gone: committing[0] = false; sent = true; done++ }

proctype Receiver() { byte p = 1, r, w; /* Snapshot._validate */
  sent; /* or the committer has gone without */
#ifdef HEADS
  TAKE_HEAD(r);
#else
  r = B; atomic { LEASE(1, B)++; DIE };
  if :: made :: else -> LEASE(1, B)--; goto gone fi;
#ifndef NOVALID
#ifndef NOWAIT
  !stopping;
#endif
  if :: deletions == 0 && !stopping -> goto valid :: else fi; /* nothing was ever deleted */
#ifdef ROOTRING
  if :: ring[b] != 0 -> goto valid :: else fi;
#else
  if :: ring[b] == UNPERSISTED -> goto valid :: else fi;
#endif
  if :: LIVE(b) -> goto valid :: else -> LEASE(1, B)--; goto gone fi;
#endif
valid: atomic { USE(1, B) = true; OK; DIE };
#endif
  atomic { USE(p, r) = false; LEASE(p, r)--; DIE };
gone: done++ }
proctype Mover() { if :: head = 0 :: true fi }
#undef HS_STEP
#define HS_STEP(label) if :: true :: crashes < CRASHES -> crashes++; goto start fi
#define EACH(what) what(s); what(a); what(d); what(b)
#define PERSIST(n) if :: ring[n] == UNPERSISTED -> young[n] = young[n] || !old[n]; ring[n] = PERSISTED :: else fi
#define PUT_OUT(n) ring[n] = (ring[n] == PERSISTED -> STALE : ring[n]) /* hs_drain_go */
#define SWEEP(n) old[n] = old[n] && mark[n]
#define AGE(n) old[n] = LIVE(n); young[n] = false; mark[n] = false
#define WORK (ring[s] == UNPERSISTED || ring[a] == UNPERSISTED || ring[d] == UNPERSISTED || ring[b] == UNPERSISTED)
#define QUIET ((dead[0] || !committing[0]) && (dead[1] || !committing[1]))
#define MARK_A mark[a] = true; mark[s] = true
#define MARK_B mark[b] = true; mark[d] = true; mark[s] = true
#define MARK(in_a, in_b) if :: in_a -> MARK_A :: else fi; if :: in_b -> MARK_B :: else fi
#ifdef NOLEASES
#define MARK_LEASES(p) skip
#else
#define MARK_LEASES(p) MARK(LEASE(p, A) > 0, LEASE(p, B) > 0)
#endif
#define STOP stopping = true; HS_STEP(stop_raised)
#define GO deletions++; stopping = false; HS_STEP(stop_lowered)
#ifdef NORECOVER
#define RECOVER GO
#else
#define RECOVER EACH(PUT_OUT); GO
#endif
proctype Coordinator() { bool mark[4];
start: if :: stopping -> atomic { RECOVER } :: else fi;
  do
  :: atomic { WORK -> EACH(PERSIST); CLOSED; HS_STEP(txn_after) }
  :: atomic { ring[d] >= PERSISTED -> ring[d] = 0 } :: atomic { ring[b] >= PERSISTED -> ring[b] = 0 } /* reused */
  :: atomic { collections < COLLECTIONS -> collections++; EACH(AGE) };
     if :: atomic { WORK -> EACH(PERSIST); CLOSED; HS_STEP(txn_after) } :: true fi;
#ifdef EARLYLEASES
     atomic { MARK_LEASES(0); MARK_LEASES(1) };
#endif
     atomic { STOP };
#ifndef NOSTOP
     if :: QUIET :: !QUIET -> stopping = false; goto over fi; /* somebody does not go on: another time */
#endif
     atomic { MARK(head == A, head == B); HS_STEP(stop_raised) };
#ifndef EARLYLEASES
     atomic { MARK_LEASES(0); HS_STEP(stop_raised) }; atomic { MARK_LEASES(1); HS_STEP(stop_raised) };
#endif
     atomic { HS_STEP(txn_before);
#ifndef NOFINAL
       EACH(PERSIST);
#endif
#ifndef NOYOUNG
       MARK(young[a], young[b]);
#endif
       SWEEP(d);
#ifdef TWOTXN
       HS_STEP(txn_after) }; atomic {
#endif
       SWEEP(s); SWEEP(a); SWEEP(b); OK; CLOSED; HS_STEP(txn_after) };
     atomic { EACH(PUT_OUT); HS_STEP(stop_lowered) };
     atomic { GO };
#ifndef FREETRASH
     atomic { STOP };
     if :: QUIET :: !QUIET -> stopping = false; goto over fi;
#endif
     if :: LIVE(d) || ring[d] == UNPERSISTED :: else -> file = false; OK fi; /* trash: no live row names it */
#ifndef FREETRASH
     atomic { GO };
#endif
over: skip
  :: done == 2 && !WORK -> break
  od }
init { atomic { old[s] = true; old[a] = true; old[d] = true; ring[d] = PERSISTED; ring[s] = PERSISTED;
                run Committer(); run Receiver(); run Mover(); run Coordinator() } }
