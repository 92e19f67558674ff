/* mailbox.pml - questions in boxes, an evaluator that takes them in batches, and what is done in the name of the dead.
 *
 *   asker: request | ASKED, asked + 1 | evaluator asleep for so many? -> wake     waiting | answered? do all wait? -> else sleep
 *   evaluator: count, ripe? -> TAKEN | request -> answer | ANSWERED, wake          asleep until so many | ripe? -> else sleep
 *   driver: a dead asker -> its box FREE or ORPHANED, a successor                  a dead evaluator -> TAKEN: ASKED, another one
 *
 * Modelled: 2 askers with a box each ask K questions, each may die at any step, DEATHS times in all; evaluators take batches of
 *   2, or what is there when all wait, and die CRASHES times; the driver mends. A futex compares and sleeps in one step. No
 *   sleep has a time-out and no batch a time: so what goes on, goes on by wake-ups alone.
 * Left out: the generation (a box leaves its taker's hands by an answer or a death only), E46 (larger batches), close.
 * Properties: an answer fits its question; nobody writes a request that is being read, or an answer that another writes or
 *   reads; every question is answered (no deadlock).
 * Mutants: NOORPHAN 3 (a withdrawn box comes free though it is TAKEN)  BLIND (an answer is stored, not compared and swapped)
 *   NOGIVEBACK (what a dead evaluator had taken stays so)  NORING 4 (giving back wakes no asker: the dead one may have
 *   answered)  EARLYDEAD (an evaluator is taken for dead that lives)  LATELOOK E42 (answered?, then waiting, then sleep)
 *   LATESLEEP E41 (ripe?, then asleep, then sleep)  NOALL E43 (who waits last does not say so) */
#define FREE 0
#define ASKED 1
#define TAKEN 2
#define ANSWERED 3
#define ORPHANED 4
#define ABSENT 0
#define AT_WORK 1
#define WAITING 2
byte word[2], taker[2], request[2], result[2]; /* boxes */
byte asker[2] = AT_WORK, asked, sleeper;       /* sleeper: the count at which to be woken; 0: awake */
byte reading[2], writing[2], deaths, crashes, finished, life = 1;
bool dead_asker[2], dead_evaluator;
#define ALL_WAIT (asker[0] != AT_WORK && asker[1] != AT_WORK && (asker[0] == WAITING || asker[1] == WAITING))
#define COUNT ((word[0] == ASKED) + (word[1] == ASKED))
#define WAKE atomic { if :: sleeper != 0 -> sleeper = 0 :: else fi }

#define HS_STEP(label) if :: true :: deaths < DEATHS -> deaths++; printf(#label); dead_asker[b] = true; goto over fi
proctype Asker(byte b; byte rounds) { byte mine; bool answered;
  asker[b] = AT_WORK;
  do
  :: rounds > 0 ->
     word[b] == FREE;
     atomic { assert(reading[b] == 0); request[b]++; HS_STEP(box_written) };
     atomic { word[b] = ASKED; HS_STEP(box_asked) };
     atomic { asked++; mine = asked };
     atomic { if :: sleeper != 0 && mine >= sleeper -> sleeper = 0 :: else fi; mine = 0 };
     do
     :: word[b] == ANSWERED -> break
     :: else ->
#ifdef LATELOOK
        atomic { answered = (word[b] == ANSWERED) };
        asker[b] = WAITING;
#else
        asker[b] = WAITING;
        atomic { answered = (word[b] == ANSWERED) };
#endif
#ifndef NOALL
        if :: !answered && ALL_WAIT -> WAKE :: else fi;
#endif
        if :: !answered -> asker[b] != WAITING :: else fi;
        atomic { asker[b] = AT_WORK; answered = false }
     od;
     atomic { assert(writing[b] == 0 && result[b] == request[b]); word[b] = FREE; rounds--; HS_STEP(box_read) }
  :: else -> break
  od;
  atomic { asker[b] = ABSENT; finished++; rounds = 0; answered = false; mine = 0 };
  WAKE;
over: skip }

#undef HS_STEP
#define HS_STEP(label) if :: true :: crashes < CRASHES -> crashes++; printf(#label); CLEAR(0); CLEAR(1); \
                             dead_evaluator = true; goto over fi
#define CLEAR(b) reading[b] = (has[b] -> 0 : reading[b]); writing[b] = (has[b] -> 0 : writing[b])
#define TAKE(b) atomic { if :: word[b] == ASKED -> word[b] = TAKEN; taker[b] = self; has[b] = true; reading[b]++; \
                               HS_STEP(box_taken) :: else fi }
#ifdef BLIND
#define IS_MINE true
#else
#define IS_MINE (word[b] == TAKEN && taker[b] == self)
#endif
#define ANSWER(n) \
  if :: has[n] -> b = n; \
        atomic { value = request[b]; reading[b]-- }; \
        atomic { assert(writing[b] == 0); writing[b]++ }; \
        atomic { result[b] = value; value = 0; HS_STEP(box_answering) }; \
        atomic { writing[b]--; has[b] = false; \
                 if :: IS_MINE -> word[b] = ANSWERED; ours[b] = true; HS_STEP(box_answered) \
                    :: else -> if :: word[b] == ORPHANED && taker[b] == self -> word[b] = FREE :: else fi \
                 fi; b = 0 } \
     :: else fi
#define RING(b) atomic { if :: ours[b] && asker[b] == WAITING -> asker[b] = AT_WORK :: else fi; ours[b] = false }

proctype Evaluator(byte self) { byte b, value, seen, count; bool has[2], ours[2];
  do
  :: count = COUNT;
     if
     :: count == 2 || (count > 0 && ALL_WAIT) -> count = 0;
        TAKE(0); TAKE(1);
        ANSWER(0); ANSWER(1);
        RING(0); RING(1)
     :: else ->
        seen = asked; count = COUNT;
        atomic { sleeper = seen + 1; seen = 0 };
#ifndef LATESLEEP
        atomic { if :: (count == 0 && COUNT > 0) || COUNT == 2 || (COUNT > 0 && ALL_WAIT) -> goto awake :: else fi };
#endif
end:    sleeper == 0;
awake:  atomic { sleeper = 0; seen = 0; count = 0 }
     fi
  od;
over: skip }

#define WITHDRAW(b) \
  atomic { dead_asker[b] -> dead_asker[b] = false; \
    if :: word[b] == ASKED || word[b] == ANSWERED -> word[b] = FREE \
       :: word[b] == TAKEN -> word[b] = ON_WITHDRAWAL \
       :: else fi }; \
  asker[b] = ABSENT; WAKE; \
  atomic { run Asker(b, 1) }
#ifdef NOORPHAN
#define ON_WITHDRAWAL FREE
#else
#define ON_WITHDRAWAL ORPHANED
#endif
#ifdef NOGIVEBACK
#define BACK(b) skip
#else
#define BACK(b) atomic { if :: word[b] == TAKEN && taker[b] == life -> word[b] = ASKED \
                            :: word[b] == ORPHANED && taker[b] == life -> word[b] = FREE :: else fi }
#endif
#ifdef NORING
#define WOKEN(b) skip
#else
#define WOKEN(b) atomic { if :: asker[b] == WAITING -> asker[b] = AT_WORK :: else fi }
#endif
#ifdef EARLYDEAD
#define IS_DEAD (dead_evaluator || life == 1)
#else
#define IS_DEAD dead_evaluator
#endif
proctype Driver() {
end: do
  :: WITHDRAW(0)
  :: WITHDRAW(1)
  :: atomic { IS_DEAD -> dead_evaluator = false };
     BACK(0); BACK(1); sleeper = 0; WOKEN(0); WOKEN(1);
     atomic { life++; run Evaluator(life) }
  od }
init { atomic { run Asker(0, K); run Asker(1, K); run Evaluator(1); run Driver() } }
