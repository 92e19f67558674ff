/* branch.pml - the table of branches: tags enter by compare-and-swap, the coordinator takes them out, heads move meanwhile.
 *
 *   window:  | tag A | tag B |  (2 slots, both names hash to both)      head word: a record's place, or IN_L2 | number
 *
 * Modelled: writers 0 and 1 commit on branch A, writer 2 on branch B; each finds its slot or inserts its tag, loads the
 *   head, reads its record or L2's row, swaps the head. The coordinator drains (L2 gets the heads) and evicts: evicting = 1,
 *   does anybody insert?, tag away, head to a fresh number, or tag back. DEATHS: writers and coordinators die at any step.
 * Left out: how a full window is asked to be emptied (the coordinator evicts when it likes), lists, waiters, chunks.
 * Properties: a swap succeeds only for the branch and the commit that its writer read; a tag stands once; L2 has what left.
 * Mutants: NOINSERTING E9 (a tag is inserted without a flag)  NOEVICTING E9 (the flag is up, nobody looks)  HEADFIRST 12
 *   (the head changes before the tag is away)  SAMEWORD 12 (evicted heads all get one number)  NORECHECK 12 (the tag is not
 *   looked at after the head)  KEEPAWAY 12 (a head that moved does not bring the tag back)  EVICTANY 12 (undrained heads
 *   leave, too)  NOUNDO (the next coordinator does not put back the tag that a dead one had taken) */
#define SLOTS 2
#define NOBODY 9
#define NAME(w) (w / 2 + 1) /* 1: A, 2: B */
byte tag[SLOTS], away[SLOTS];               /* branch_tags, evicted_tag */
byte word[SLOTS], whose[SLOTS], serial[SLOTS]; /* head word; the record that it names: branch and serial */
bool in_l2[SLOTS] = true;                   /* the word's bit: L2's row says what the head is */
byte next = 3, row[3];                      /* fresh words; L2: serial by branch */
byte truth[3];                              /* ghost: commits of each branch */
bool inserting[3], evicting, dead[3];
byte deaths, done;
#ifdef SAMEWORD
#define FRESH 1
#else
#define FRESH next; next++
#endif
#define HS_STEP(label) if :: true :: deaths < DEATHS -> deaths++; printf(#label); dead[w] = true; goto gone fi
#define STANDS(n) (tag[0] == n && tag[1] == n)
inline look() { if :: tag[0] == NAME(w) -> s = 0 :: tag[0] != NAME(w) && tag[1] == NAME(w) -> s = 1 :: else -> s = NOBODY fi }
inline insert_at(i) { /* one step of window_insert */
  if :: s == NOBODY && tag[i] == 0 -> tag[i] = NAME(w); s = i; HS_STEP(tag_after)
     :: s == NOBODY && tag[i] == NAME(w) -> s = i
     :: else fi; assert(!STANDS(NAME(w))) }

proctype Writer(byte w) { byte n, s = NOBODY, hw, ser; bool l2;
  do
  :: n == K -> break
  :: else ->
find: atomic { look(); if :: s != NOBODY -> goto load :: else fi };
#ifndef NOINSERTING
     inserting[w] = true; /* then a full fence */
#ifndef NOEVICTING
     if :: evicting -> inserting[w] = false; !evicting; goto find :: else fi;
#endif
#endif
     atomic { HS_STEP(tag_before); if :: tag[0] == NAME(w) -> s = 0 :: else fi };
     if :: s == NOBODY && tag[1] == NAME(w) -> s = 1 :: else fi;
     atomic { insert_at(0) };
     atomic { insert_at(1) };
     inserting[w] = false;
     if :: s == NOBODY -> tag[0] == 0 || tag[1] == 0 || tag[0] == NAME(w) || tag[1] == NAME(w); goto find :: else fi;
load: atomic { hw = word[s]; l2 = in_l2[s]; ser = serial[s] };
#ifndef NORECHECK
     if :: tag[s] != NAME(w) -> goto find :: else fi;
#endif
     if :: l2 -> ser = row[NAME(w)] :: else fi; /* a transaction that begins after the load */
     atomic { HS_STEP(head_before);
              if :: word[s] == hw && in_l2[s] == l2 -> assert(truth[NAME(w)] == ser); truth[NAME(w)]++; ser++;
                    in_l2[s] = false; whose[s] = NAME(w); serial[s] = ser; word[s] = next; next++; n++; HS_STEP(head_after)
                 :: else fi;
              hw = 0; ser = 0; l2 = false; s = NOBODY }
  od;
gone: done++ }

#undef HS_STEP
#define HS_STEP(label) if :: true :: deaths < DEATHS -> deaths++; printf(#label); goto start fi
#define BUSY_INSERTING(w) (inserting[w] && !dead[w])
#ifdef EVICTANY
#define DURABLE(s) true
#else
#define DURABLE(s) (in_l2[s] || known[s] == word[s])
#endif
inline drain() { /* a round: L2 gets the heads that moved, and only it */
  s = 0; do :: s < SLOTS -> if :: tag[s] != 0 && !in_l2[s] -> assert(serial[s] >= row[whose[s]]); row[whose[s]] = serial[s];
                                  known[s] = word[s] :: else fi; s++
            :: else -> break od; s = 0 }
proctype Coordinator() { byte s, hw, t, evictions, known[SLOTS];
start: atomic { s = 0; hw = 0; t = 0; known[0] = 0; known[1] = 0;
#ifndef NOUNDO
       do :: s < SLOTS -> if :: away[s] != 0 -> tag[s] = away[s]; away[s] = 0 :: else fi; s++ :: else -> break od; s = 0;
#endif
       evicting = false };
  do
  :: atomic { done == 3 -> break }
  :: atomic { tag[0] != 0 && !in_l2[0] && known[0] != word[0] || tag[1] != 0 && !in_l2[1] && known[1] != word[1] -> drain() }
  :: evictions < EVICTIONS ->
     atomic { evictions++; evicting = true; HS_STEP(evict_begun) };
     if :: BUSY_INSERTING(0) -> goto over :: else fi; 
     if :: BUSY_INSERTING(1) -> goto over :: else fi;
     if :: BUSY_INSERTING(2) -> goto over :: else fi;
     atomic { if :: s = 0 :: s = 1 fi; t = tag[s] };
     atomic { hw = word[s]; if :: t == 0 || !DURABLE(s) -> goto over :: else fi };
#ifdef HEADFIRST
     atomic { away[s] = t; if :: word[s] == hw -> word[s] = FRESH; in_l2[s] = true :: else -> t = 0 fi; HS_STEP(evict_moved) };
     atomic { if :: t != 0 -> tag[s] = 0 :: else fi; HS_STEP(evict_untagged) };
#else
     away[s] = t;
     atomic { tag[s] = 0; HS_STEP(evict_untagged) };
     atomic { if :: word[s] == hw -> word[s] = FRESH; in_l2[s] = true; t = 0 :: else fi; HS_STEP(evict_moved) };
#ifndef KEEPAWAY
     if :: t != 0 -> tag[s] = t :: else fi;
#endif
#endif
     away[s] = 0;
over: atomic { evicting = false; s = 0; hw = 0; t = 0 }
  od;
  atomic { drain(); assert(row[1] == truth[1] && row[2] == truth[2]) } }
init { atomic { word[0] = 1; word[1] = 2; run Writer(0); run Writer(1); run Writer(2); run Coordinator() } }
