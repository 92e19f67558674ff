/* model.h - every execution that the C11 memory model allows a small program of a few threads, each explored once.
 *
 * An execution is a graph: what each thread did in turn (events), which write each read reads from (rf), and in which order the
 * writes of each location follow each other (co).
 *
 *        thread 0                 thread 1
 *      W  data = 1              R  flag  <--- rf --- may read the 1, or the 0 that was there first:
 *      |                        |                    both graphs are explored
 *      W  flag = 1 (release)    R  data              if flag was 1 and the read acquires, then 1 only
 *
 * The model is that of C11 as repaired by Lahav and others ("Repairing sequential consistency in C/C++11", 2017), and where it
 * leaves a choice the weaker side is taken, so that what holds here holds under C11 and C20:
 *   - a read may read any write that coherence and happens-before leave it;
 *   - acquire and release, by operation and by fence; a release sequence goes on through read-modify-writes only (C20);
 *   - sequentially consistent fences are in one total order with what they see; a sequentially consistent read-modify-write
 *     is taken for an acquire and release one, no more;
 *   - nothing is read that depends on the read itself: program order and rf have no cycle. So "load buffering" between relaxed
 *     operations, which C11 and some machines allow, is not explored. A race of plain bytes is reported where happens-before does
 *     not order two accesses that ought to be ordered, which finds those cases for the bytes of chunks.
 *
 * The search is TruSt (Kokologiannakis and others, "Truly stateless, optimal dynamic partial order reduction", 2022): threads run
 * one after the other; a read tries every write that is there; a write that comes later goes back to the reads that might
 * have read it. Each graph comes up exactly once, and none that differs only in how independent steps are interleaved.
 */
#ifndef MODEL_H
#define MODEL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { THREADS_MAX = 4 };

/* What an operation asks for beyond relaxed. */
enum order { RELAXED = 0, ACQUIRE = 1, RELEASE = 2, SEQ_CST = 4 };

/* A place in the sources, for reports; and which part of its order is taken away in this run. */
typedef struct site {
    const char *file, *function;
    int line;
    unsigned weaker; /* bits of enum order that the operation does without */
    bool looked_up;
} site;

typedef struct update { /* what a read-modify-write does with the value that it read */
    enum { UPDATE_ADD, UPDATE_SWAP_IF, UPDATE_CALL } kind;
    uint64_t operand, expected;
    uint64_t (*call)(uint64_t);
} update;

typedef struct scenario {
    const char *name, *about;
    int threads;
    void (*thread[THREADS_MAX])(void);
    void (*begin)(void); /* before each execution: the initial image and private variables */
    void (*end)(void);   /* when every thread has returned or sleeps for good: judge */
    unsigned racy;       /* bit t: thread t's plain accesses may race */
} scenario;

typedef struct findings {
    uint64_t executions; /* complete and different */
    uint64_t
        abandoned; /* begun, and found to be no execution of the model, or one of a sleeper that would have woken */
    bool violated;
} findings;

/* All executions, or those up to the first that breaks a promise. */
findings explore(const scenario *what);

/* ---- For threads, by way of the hooks ---- */

/* Is this word ever written by a thread? One that never is has no events; its value is the image's. */
bool model_is_written(uintptr_t address, unsigned size);
uint64_t model_load(uintptr_t address, unsigned size, unsigned order, bool plain);
void model_store(uintptr_t address, unsigned size, uint64_t value, unsigned order, bool plain);
/* The value that was there. order_failed: of a comparison that fails. */
uint64_t model_update(uintptr_t address, unsigned size, update what, unsigned order, unsigned order_failed);
void model_fence(unsigned order);
/* Sleep for good unless the value is, or becomes, one that wakes. */
void model_await(uintptr_t address, unsigned size, bool (*awake)(uint64_t value, uint64_t from),
                 uint64_t from);
/* Size under which a location was first seen, 0 if it never was. */
unsigned model_size(uintptr_t address);
/* The value of a location that no thread writes. Given by the hooks: memory, or 0 for a location that is no memory. */
uint64_t model_image(uintptr_t address, unsigned size);

/* While begin() runs: what is done is done to memory itself, the image that the threads begin with. */
extern bool model_beginning;
/* The operation that comes next stands here in the sources. */
extern site *model_site;

/* ---- For judging ---- */

/* A promise: broken if not `holds`. In a thread, or in end(). */
void promise(bool holds, const char *sentence);
bool sleeps(int thread);                               /* in end(): does it sleep for good? */
uint64_t model_last(uintptr_t address, unsigned size); /* in end(): the last value in coherence order */
int model_thread(void);
#endif
