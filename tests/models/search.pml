/* search.pml - changes of cells by lanes that may die: stamps, witnesses, and repair.
 *
 *   lane: word PENDING | read the cell -> whose stamp? still PENDING there? -> DONE | swap, with its own stamp     one change
 *   simulation: take a ticket, enter the edge, OUT; insert, link; the row, the edge      or: leave the edge, give it back
 *   driver: a lane whose process is dead: is its stamp there? is its word DONE? -> go on in its place
 *
 * Modelled: LANES lanes, a process each, with K simulations over three cells (tickets, an edge, the row that it leads to), any
 *   of which may be taken back instead if BACK; DEATHS of lanes and of the driver at any step. Stamps hold serials modulo OPS:
 *   the fewer, the sooner an old one looks like a new one. All lanes insert one row and link one edge.
 * Left out: values (they change with the counts, in one swap), longer paths, tickets that run out, compaction; K > 1 with BACK
 *   and few OPS, where a cell can come to be what it was, stamp and all, under a lane that is about to swap it (hs_search.h).
 * Properties: when all are done or repaired nothing is in flight, the edge and its row have as many visits, and tickets
 *   that are not left are visits; who is led to a row finds it whole, with the edge's rewards.
 * Mutants: NOHELP (who overwrites a stamp does not bear witness)  NOSTAMP (repair believes the word alone)  LATEWORD (the
 *   word after the cell)  EARLY (repair of a lane that lives)  WORDFIRST E31 (repair reads the word, then the cell)  NOSKIP (a
 *   serial is taken whose stamp stands in the cell)  ANYCELL (a witness does not look which cell the word is about)  ONELOOK (a
 *   witness does not look at the stamp again)  NAMEFIRST E32 (the index before the row)  CHILDFIRST E33 (the child
 *   before its rewards) */
#define IDLE 0
#define OUT 1
#define TAKE 2
#define DOWN 3
#define UPROW 4
#define UPEDGE 5
#define UNDO 6
#define GIVE 7
#define TICKETS 0
#define EDGE 1
#define ROW 2
#define CELL(k) ((k) == TAKE || (k) == GIVE -> TICKETS : ((k) == UPROW -> ROW : EDGE))
typedef Cell { byte count, in_flight, by, op }; /* by: the lane + 1; count: visits, or tickets that are left */
Cell cell[3];
byte serial[LANES], state[LANES]; /* a lane's word, and: */
bool done[LANES], dead[LANES], written[LANES];
byte index, child, rewards, gone, deaths;

#ifdef ANYCELL
#define IS_HERE(k) true
#else
#define IS_HERE(k) (CELL(k) == c)
#endif
#define HS_STEP(label) if :: true :: deaths < DEATHS -> deaths++; printf(#label); goto died fi
#define SEEN(l) (cell[c].by == (l) + 1 && cell[c].op == serial[l] % OPS)
#define WORD(l, k) atomic { serial[l] = next; state[l] = k; done[l] = false; HS_STEP(search_pending) }
/* One change of a cell by lane l. c, next, was, other, word: of the process. */
inline change(l, k) {
  atomic { c = CELL(k); next = serial[l] + 1;
#ifndef NOSKIP
           if :: cell[c].by == l + 1 && cell[c].op == next % OPS -> next++ :: else fi
#endif
         };
#ifndef LATEWORD
  WORD(l, k);
#endif
  do
  :: atomic { was.count = cell[c].count; was.in_flight = cell[c].in_flight; was.by = cell[c].by; was.op = cell[c].op };
#ifndef NOHELP
     if
     :: atomic { was.by != 0 -> other = was.by - 1; saw = serial[other]; doing = state[other];
                 about = doing >= TAKE && !done[other] && saw % OPS == was.op && IS_HERE(doing) };
        if
        :: about ->
#ifndef ONELOOK
           atomic { about = cell[c].by == was.by && cell[c].op == was.op };
#endif
           atomic { if :: about && serial[other] == saw && state[other] == doing -> done[other] = true;
                          HS_STEP(search_witness)
                       :: else fi }
        :: else
        fi
     :: else
     fi;
#endif
     atomic { other = 0; saw = 0; doing = 0; about = false;
       if
       :: cell[c].count == was.count && cell[c].in_flight == was.in_flight && cell[c].by == was.by && cell[c].op == was.op ->
          cell[c].count = was.count + (k == UPROW || k == UPEDGE || k == GIVE) - (k == TAKE);
          cell[c].in_flight = was.in_flight + (k == DOWN) - (k == UPEDGE || k == UNDO);
          cell[c].by = l + 1; cell[c].op = next % OPS;
          was.count = 0; was.in_flight = 0; was.by = 0; was.op = 0;
          HS_STEP(search_changed); break
       :: else -> was.count = 0; was.in_flight = 0; was.by = 0; was.op = 0
       fi }
  od;
#ifdef LATEWORD
  WORD(l, k);
#endif
  atomic { c = 0; next = 0 }
}
#define SAY(l, k) atomic { state[l] = k; done[l] = false; HS_STEP(search_said) }
#define NAME(l) atomic { if :: index == 0 -> index = l + 1 :: else fi }
#define WRITE(l) atomic { written[l] = true; HS_STEP(search_row) }
#define REWARD(l) atomic { if :: rewards == 0 -> rewards = l + 1 :: else fi; HS_STEP(search_rewards) }
#define LINK atomic { assert(written[index - 1]); if :: child == 0 -> child = index :: else fi }

proctype Lane(byte l) { byte c, next, other, saw, doing, rounds = K; bool about; Cell was;
  do
  :: rounds > 0 ->
     rounds--;
     change(l, TAKE);
     change(l, DOWN);
     SAY(l, OUT);
     if
     :: atomic { child != 0 -> assert(written[child - 1] && rewards != 0) }
     :: child == 0 ->
#ifdef NAMEFIRST
        NAME(l); WRITE(l);
#else
        WRITE(l); NAME(l);
#endif
#ifdef CHILDFIRST
        LINK; REWARD(l)
#else
        REWARD(l); LINK
#endif
     fi;
     if
     :: change(l, UPROW); change(l, UPEDGE)
     :: BACK -> change(l, UNDO); change(l, GIVE)
     fi;
     SAY(l, IDLE)
  :: else -> break
  od;
  gone++; goto over;
died: dead[l] = true;
over: skip }

#ifdef EARLY
#define IS_DEAD(l) (state[l] != IDLE && gone + deaths < LANES)
#else
#define IS_DEAD(l) dead[l]
#endif
#ifdef NOSTAMP
#define IS_STAMPED false
#else
#define IS_STAMPED (state[l] >= TAKE && SEEN(l))
#endif
#define LOOK_CELL atomic { c = CELL(state[l]); made = made || IS_STAMPED; c = 0 }
#define LOOK_WORD atomic { made = made || done[l] }
proctype Driver() { byte l, c, next, other, saw, doing; bool about, made; Cell was;
start: atomic { l = 0; c = 0; next = 0; other = 0; saw = 0; doing = 0; about = false; made = false;
                was.count = 0; was.in_flight = 0; was.by = 0; was.op = 0 };
  do
  :: gone == LANES -> break
  :: atomic { IS_DEAD(0) -> l = 0 }; goto repair
  :: atomic { IS_DEAD(1) -> l = 1 }; goto repair
#if LANES > 2
  :: atomic { IS_DEAD(2) -> l = 2 }; goto repair
#endif
  od;
  assert(cell[EDGE].in_flight == 0 && cell[EDGE].count == cell[ROW].count);
  assert(cell[TICKETS].count + cell[EDGE].count == LANES * K);
  goto over;
repair:
#ifdef WORDFIRST
  LOOK_WORD; LOOK_CELL;
#else
  LOOK_CELL; LOOK_WORD;
#endif
  if
  :: state[l] == UPROW || state[l] == UPEDGE ->
     if :: state[l] == UPROW && !made -> change(l, UPROW) :: else fi;
     if :: !(state[l] == UPEDGE && made) -> change(l, UPEDGE) :: else fi
  :: (state[l] == DOWN && made) || state[l] == OUT || (state[l] == UNDO && !made) -> change(l, UNDO); change(l, GIVE)
  :: (state[l] == DOWN && !made) || (state[l] == UNDO && made) || (state[l] == TAKE && made) || (state[l] == GIVE && !made) ->
     change(l, GIVE)
  :: else
  fi;
  SAY(l, IDLE);
  atomic { dead[l] = false; gone++ };
  goto start;
died: goto start;
over: skip }
init { atomic { cell[TICKETS].count = LANES * K; run Lane(0); run Lane(1);
#if LANES > 2
  run Lane(2);
#endif
  run Driver() } }
