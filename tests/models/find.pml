/* find.pml - a published node is found at every instant: in the ring, else through the locator in a pack, else in the packs.
 *
 *   node: ring -> pack 1 (the transaction) -> rows in the locator -> its mark -> chunk freed, place gone from the ring
 *
 * Modelled: one node, one coordinator that may replace the locator's file by a larger one (renamed over the name), die at
 *   each step CRASHES times, and bring the locator up to L2 when it starts; a reader with a transaction of any age and
 *   possibly the old file mapped. A second pack without the node follows, so that marks can lag behind.
 * Left out: collection (packs are never removed yet), damaged packs, locators of another boot.
 * Properties: the reader finds the node; an id that nobody published is said to be missing, not looked for for ever.
 * Mutants of rule 12: OLDTXN (the miss counts in a transaction that began before the look into the ring)  NOMARK (the
 *   locator's miss counts whatever its mark)  LATEMARK E11 (the mark is read after the probe)  NOSCAN (packs
 *   above the mark are not looked through)  MARKFIRST E11 (the mark moves before the rows)
 *   NORECOVER (the next coordinator does not enter
 *   what the locator lacks, but moves its mark on) */
byte newest;                    /* L2's newest pack; pack 1 has the node, pack 2 has not */
bool ring = true;
byte row[2], mark[2], name;     /* two locator files: the pack that the node's row names, the mark; which has the name */
byte crashes;
#define HS_STEP(label) if :: true :: crashes < CRASHES -> crashes++; printf(#label); \
                             if :: newest >= 1 -> ring = false :: true fi; goto start fi /* a reboot takes the ring along */
#ifdef MARKFIRST
#define ENTER mark[name] = newest; row[name] = (newest >= 1 -> 1 : 0)
#else
#define ENTER row[name] = (newest >= 1 -> 1 : 0); mark[name] = newest
#endif
proctype Coordinator() {
start: /* LocatorKeeper._recover: what is above the mark is entered from the packs' tables of contents */
#ifdef NORECOVER
  mark[name] = newest;
#else
  ENTER;
#endif
  do
  :: newest == 0 -> atomic { HS_STEP(txn_before); newest = 1; HS_STEP(txn_after) };
     ENTER; atomic { HS_STEP(locator_after) }
  :: newest == 1 && ring -> /* marks moved, chunk freed and claimed anew */
     atomic { HS_STEP(marks_after); ring = false; HS_STEP(free_after) }
  :: newest == 1 && !ring -> atomic { newest = 2; HS_STEP(txn_before) }; ENTER
  :: name == 0 -> /* locator.next: filled, then renamed */
     mark[1] = mark[0]; row[1] = row[0]; name = 1
  :: newest == 2 -> break
  od }

proctype Reader(bool published) { byte t, f, m, r; /* l2.Reader.get */
  if :: t = newest :: t = 0 fi; /* a transaction from before, or from now */
  f = 0;                        /* a mapping from before a renaming */
  if :: ring && published -> goto found :: else fi;
again:
#ifndef OLDTXN
  t = newest;
#endif
#ifndef LATEMARK
  m = mark[f];
#endif
  r = (published -> row[f] : 0);
#ifdef LATEMARK
  m = mark[f];
#endif
#ifdef NOMARK
  m = t;
#endif
  if
  :: r > 0 && r <= t -> goto found
#ifndef OLDTXN
  :: r > t -> goto again /* in a pack that is newer than the transaction */
#endif
  :: r == 0 && m >= t -> goto missing
  :: else ->
     if :: f != name -> f = name; goto again :: else fi;
#ifndef NOSCAN
     if :: published && m < 1 && t >= 1 -> goto found :: else fi; /* look through the packs above the mark */
#endif
     goto missing
  fi;
missing: assert(!published);
found: skip }
init { atomic { run Coordinator(); run Reader(true); run Reader(false) } }
