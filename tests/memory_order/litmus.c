/* litmus.c - is the explorer right? Small programs whose outcomes are known, and random ones against plain enumeration.
 *
 * Each known program has a set of final readings, written as a number with a digit for each read; the explorer must find
 * exactly these. The random programs are straight lines of loads, stores, additions and fences: the explorer must find as many executions
 * as there are assignments of writes to reads and orders of writes that the model's definition, spelled out below in the
 * simplest way, allows. */
#include "litmus.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "model.h"
#include "plain.h"

#define X   ((uintptr_t)0x1001)
#define Y   ((uintptr_t)0x1003)
#define REL RELEASE
#define ACQ ACQUIRE

static unsigned outcome;
static bool reached[100000];
static unsigned reads[THREADS_MAX][4];

static void W(uintptr_t a, uint64_t v, unsigned order) { model_store(a, 8, v, order, false); }
static unsigned R(uintptr_t a, unsigned order) { return (unsigned)model_load(a, 8, order, false); }
static unsigned ADD(uintptr_t a, unsigned order) {
    return (unsigned)model_update(a, 8, (update){.kind = UPDATE_ADD, .operand = 1}, order, order);
}
static void FULL(void) { model_fence(ACQUIRE | RELEASE | SEQ_CST); }
#define READ_INTO(n, value) (reads[model_thread()][n] = (value))

static void begin(void) { memset(reads, 0, sizeof reads); }
static void end(void) { reached[outcome] = true; }

#define THREAD(name, body)                                                                                   \
    static void name(void) { body }

THREAD(sb0, W(X, 1, REL); READ_INTO(0, R(Y, ACQ));)
THREAD(sb1, W(Y, 1, REL); READ_INTO(0, R(X, ACQ));)
THREAD(sbf0, W(X, 1, 0); FULL(); READ_INTO(0, R(Y, 0));)
THREAD(sbf1, W(Y, 1, 0); FULL(); READ_INTO(0, R(X, 0));)
THREAD(mp0, W(X, 1, 0); W(Y, 1, 0);)
THREAD(mp0r, W(X, 1, 0); W(Y, 1, REL);)
THREAD(mp0f, W(X, 1, 0); model_fence(RELEASE); W(Y, 1, 0);)
THREAD(mp1, READ_INTO(0, R(Y, 0)); READ_INTO(1, R(X, 0));)
THREAD(mp1a, READ_INTO(0, R(Y, ACQ)); READ_INTO(1, R(X, 0));)
THREAD(mp1f, READ_INTO(0, R(Y, 0)); model_fence(ACQUIRE); READ_INTO(1, R(X, 0));)
THREAD(mp2rmw, ADD(Y, 0);)
THREAD(lb0, READ_INTO(0, R(X, 0)); W(Y, 1, 0);)
THREAD(lb1, READ_INTO(0, R(Y, 0)); W(X, 1, 0);)
THREAD(wx, W(X, 1, 0);)
THREAD(wy, W(Y, 1, 0);)
THREAD(wxx, W(X, 1, 0); W(X, 2, 0);)
THREAD(rxy, READ_INTO(0, R(X, ACQ)); READ_INTO(1, R(Y, ACQ));)
THREAD(ryx, READ_INTO(0, R(Y, ACQ)); READ_INTO(1, R(X, ACQ));)
THREAD(rfxy, READ_INTO(0, R(X, 0)); FULL(); READ_INTO(1, R(Y, 0));)
THREAD(rfyx, READ_INTO(0, R(Y, 0)); FULL(); READ_INTO(1, R(X, 0));)
THREAD(rxx, READ_INTO(0, R(X, 0)); READ_INTO(1, R(X, 0));)
THREAD(ww0, W(X, 1, 0); W(Y, 2, 0);)
THREAD(ww1, W(Y, 1, 0); W(X, 2, 0);)
THREAD(wwf0, W(X, 1, 0); FULL(); W(Y, 2, 0);)
THREAD(wwf1, W(Y, 1, 0); FULL(); W(X, 2, 0);)
THREAD(add, READ_INTO(0, ADD(X, 0));)

static void end_of_reads(void) {
    outcome = 0;
    for (int t = 0; t < THREADS_MAX; t++)
        for (int i = 0; i < 2; i++) outcome = outcome * 3 + reads[t][i];
    end();
}
static void end_of_writes(void) {
    outcome = (unsigned)(model_last(X, 8) * 10 + model_last(Y, 8));
    end();
}

typedef struct known {
    scenario what;
    uint64_t executions, outcomes; /* 0: not compared */
} known;

#define PROGRAM(about, n, judge, executions, outcomes, ...)                                                  \
    {{"litmus", about, n, {__VA_ARGS__}, begin, judge, 0}, executions, outcomes}

static const known programs[] = {
    PROGRAM("store buffering: both may read 0", 2, end_of_reads, 4, 4, sb0, sb1),
    PROGRAM("store buffering with full fences: one reads 1", 2, end_of_reads, 3, 3, sbf0, sbf1),
    PROGRAM("message passing, relaxed: the flag without the data", 2, end_of_reads, 4, 4, mp0, mp1),
    PROGRAM("message passing: release without acquire", 2, end_of_reads, 4, 4, mp0r, mp1),
    PROGRAM("message passing: acquire without release", 2, end_of_reads, 4, 4, mp0, mp1a),
    PROGRAM("message passing by release and acquire", 2, end_of_reads, 3, 3, mp0r, mp1a),
    PROGRAM("message passing by two fences", 2, end_of_reads, 3, 3, mp0f, mp1f),
    PROGRAM("message passing: fence and acquire", 2, end_of_reads, 3, 3, mp0f, mp1a),
    PROGRAM("message passing through a relaxed addition of another", 3, end_of_reads, 0, 5, mp0r, mp2rmw,
            mp1a),
    PROGRAM("load buffering is left out", 2, end_of_reads, 3, 3, lb0, lb1),
    PROGRAM("independent reads of independent writes may differ", 4, end_of_reads, 16, 16, wx, wy, rxy, ryx),
    PROGRAM("independent reads with full fences agree", 4, end_of_reads, 15, 15, wx, wy, rfxy, rfyx),
    PROGRAM("two reads of one location do not go back", 2, end_of_reads, 6, 6, wxx, rxx),
    PROGRAM("two and two writes, relaxed: both first ones may be last", 2, end_of_writes, 4, 4, ww0, ww1),
    PROGRAM("two and two writes with full fences", 2, end_of_writes, 3, 3, wwf0, wwf1),
    PROGRAM("additions see each other", 3, end_of_reads, 6, 6, add, add, add),
};

static bool program_is_right(const known *program) {
    memset(reached, 0, sizeof reached);
    findings found = explore(&program->what);
    uint64_t outcomes = 0;
    for (size_t i = 0; i < sizeof reached; i++) outcomes += reached[i];
    bool right = (program->executions == 0 || found.executions == program->executions) &&
                 outcomes == program->outcomes;
    if (!right)
        printf("violation in litmus: %s: %lu executions (%lu expected), %lu outcomes (%lu expected)\n",
               program->what.about, found.executions, program->executions, outcomes, program->outcomes);
    return right;
}

/* ---- Random programs ---- */

static plain_program random_program;

static void random_thread(void) {
    const plain_operation *o = random_program.operations[model_thread()];
    for (int i = 0; i < random_program.count[model_thread()]; i++) {
        uintptr_t address = o[i].location != 0 ? X : Y;
        switch (o[i].kind) {
        case PLAIN_LOAD:
            R(address, o[i].order);
            break;
        case PLAIN_STORE:
            W(address, o[i].value, o[i].order);
            break;
        case PLAIN_ADD:
            ADD(address, o[i].order);
            break;
        case PLAIN_FENCE:
            model_fence(o[i].order);
            break;
        }
    }
}

static bool random_is_right(uint64_t seed) {
    static const scenario what = {"litmus", "random", 3, {random_thread, random_thread, random_thread},
                                  begin,    end,      0};
    outcome = 0;
    plain_program_make(&random_program, seed);
    uint64_t expected = plain_executions(&random_program);
    findings found = explore(&what);
    if (found.executions == expected) return true;
    printf("violation in litmus: random program %lu has %lu executions, %lu were found\n", seed, expected,
           found.executions);
    plain_program_print(&random_program);
    return false;
}

bool litmus(uint64_t seed, uint64_t random_count) {
    bool right = true;
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) right &= program_is_right(&programs[i]);
    for (uint64_t i = 0; i < random_count; i++) right &= random_is_right(seed + i);
    printf("litmus known=%zu random=%lu right=%d\n", sizeof programs / sizeof *programs, random_count, right);
    return right;
}
