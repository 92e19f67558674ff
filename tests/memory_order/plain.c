/* plain.c - relations as matrices of bits over a handful of events, and all assignments of rf and co, one after the other.
 *
 * An execution is consistent if
 *   coherence    hb ; eco? has no cycle of length one
 *   atomicity    nothing stands in co between what an addition read and what it wrote
 *   fences       [F] ; (hb | hb ; eco ; hb) ; [F] has no cycle, F the full fences
 *   causes       sb | rf has no cycle
 * with eco = (rf | co | rb)+,  rb = rf^-1 ; co,  hb = (sb | sw)+ and initial writes before everything,
 *      sw = release; (F ; sb)?  write  (rf ; addition)*  rf  read  (sb ; F)? acquire. */
#include "plain.h"
#include <stdio.h>
#include <string.h>
#include "model.h"

enum { LOADS = 1, STORES = 2, EVENTS = 2 + PLAIN_THREADS * PLAIN_OPERATIONS };

typedef struct relation {
    uint16_t row[EVENTS]; /* bit j of row[i]: i before j */
} relation;

typedef struct item {
    int kind; /* LOADS | STORES; 0: a fence */
    int thread, location;
    unsigned order;
} item;

static item items[EVENTS];
static int count;
static relation sb;
static int from[EVENTS];  /* of loads */
static int place[EVENTS]; /* of stores: position in the order of their location */
static uint64_t consistent_count;

void plain_program_make(plain_program *program, uint64_t seed) {
    uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    memset(program, 0, sizeof *program);
    int total = 0;
    for (int t = 0; t < PLAIN_THREADS; t++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        program->count[t] = 1 + (int)(state >> 33) % PLAIN_OPERATIONS;
        for (int i = 0; i < program->count[t]; i++) {
            state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            static const unsigned fences[] = {ACQUIRE, RELEASE, ACQUIRE | RELEASE | SEQ_CST,
                                              ACQUIRE | RELEASE | SEQ_CST};
            unsigned draw = (unsigned)(state >> 32);
            plain_operation *o = &program->operations[t][i];
            o->kind = draw % 4;
            if (o->kind == PLAIN_FENCE && program->count[t] < 2) o->kind = PLAIN_LOAD;
            o->location = draw >> 4 & 1;
            o->value = (unsigned)(10 + ++total);
            bool strong = (draw >> 5 & 1) != 0;
            o->order = o->kind == PLAIN_FENCE   ? fences[draw >> 6 & 3]
                       : !strong                ? RELAXED
                       : o->kind == PLAIN_LOAD  ? ACQUIRE
                       : o->kind == PLAIN_STORE ? RELEASE
                                                : ACQUIRE | RELEASE;
        }
    }
}

void plain_program_print(const plain_program *program) {
    static const char *const kinds[] = {"load", "store", "add", "fence"};
    for (int t = 0; t < PLAIN_THREADS; t++)
        for (int i = 0; i < program->count[t]; i++)
            printf("  thread %d: %s %d order %u\n", t, kinds[program->operations[t][i].kind],
                   program->operations[t][i].location, program->operations[t][i].order);
}

static void close(relation *r) {
    for (int k = 0; k < count; k++)
        for (int i = 0; i < count; i++)
            if (r->row[i] >> k & 1) r->row[i] |= r->row[k];
}

static bool has(const relation *r, int i, int j) { return (r->row[i] >> j & 1) != 0; }
static void put(relation *r, int i, int j) { r->row[i] = (uint16_t)(r->row[i] | 1u << j); }

static bool is_cyclic(relation r) {
    close(&r);
    for (int i = 0; i < count; i++)
        if (has(&r, i, i)) return true;
    return false;
}

static bool loads(int i) { return (items[i].kind & LOADS) != 0; }
static bool stores(int i) { return (items[i].kind & STORES) != 0; }
static bool is_fence(int i) { return i >= 2 && items[i].kind == 0; }
static bool asks(int i, unsigned order) { return (items[i].order & order) != 0; }

/* Does what `w` wrote reach load r: read directly, or through additions that read it? */
static bool reaches(int w, int r) {
    for (; r >= 2; r = from[r]) {
        if (from[r] == w) return true;
        if (items[from[r]].kind != (LOADS | STORES)) return false;
    }
    return false;
}

static relation happens_before(void) {
    relation hb = sb;
    for (int w = 2; w < count; w++)
        for (int r = 2; r < count; r++) {
            if (!stores(w) || !loads(r) || w == r || !reaches(w, r)) continue;
            for (int a = 2; a < count; a++)
                for (int b = 2; b < count; b++) {
                    bool hands =
                        (a == w && asks(a, RELEASE)) || (is_fence(a) && asks(a, RELEASE) && has(&sb, a, w));
                    bool takes =
                        (b == r && asks(b, ACQUIRE)) || (is_fence(b) && asks(b, ACQUIRE) && has(&sb, r, b));
                    if (hands && takes) put(&hb, a, b);
                }
        }
    close(&hb);
    return hb;
}

static relation extended_coherence(void) {
    relation eco = {0};
    for (int i = 0; i < count; i++)
        for (int j = 0; j < count; j++) {
            if (i == j || is_fence(i) || is_fence(j) || items[i].location != items[j].location) continue;
            if (stores(i) && loads(j) && from[j] == i) put(&eco, i, j);
            if (stores(i) && stores(j) && place[i] < place[j]) put(&eco, i, j);
            if (loads(i) && stores(j) && place[from[i]] < place[j]) put(&eco, i, j);
        }
    close(&eco);
    return eco;
}

static bool is_consistent(void) {
    relation causes = sb, hb, eco, fences = {0};
    for (int r = 2; r < count; r++)
        if (loads(r)) {
            if (stores(r) && place[r] != place[from[r]] + 1) return false;
            put(&causes, from[r], r);
        }
    if (is_cyclic(causes)) return false;
    hb = happens_before();
    eco = extended_coherence();
    for (int i = 0; i < count; i++)
        for (int j = 0; j < count; j++)
            if (has(&hb, i, j) && (i == j || has(&eco, j, i))) return false;
    for (int f = 2; f < count; f++)
        for (int g = 2; g < count; g++) {
            if (!is_fence(f) || !is_fence(g) || !asks(f, SEQ_CST) || !asks(g, SEQ_CST)) continue;
            if (has(&hb, f, g)) put(&fences, f, g);
            for (int i = 0; i < count; i++)
                for (int j = 0; j < count; j++)
                    if (has(&hb, f, i) && has(&eco, i, j) && has(&hb, j, g)) put(&fences, f, g);
        }
    return !is_cyclic(fences);
}

static void choose_from(int r) {
    if (r == count) {
        consistent_count += is_consistent();
        return;
    }
    if (!loads(r)) {
        choose_from(r + 1);
        return;
    }
    for (int w = 0; w < count; w++)
        if (w != r && stores(w) && items[w].location == items[r].location) {
            from[r] = w;
            choose_from(r + 1);
        }
}

/* Every order of the stores of each location: the stores are put one after the other at every place among the earlier ones. */
static void choose_place(int w) {
    if (w == count) {
        choose_from(2);
        return;
    }
    if (!stores(w)) {
        choose_place(w + 1);
        return;
    }
    int others = 0;
    for (int i = 0; i < w; i++) others += stores(i) && items[i].location == items[w].location;
    for (int p = 1; p <= others; p++) {
        int saved[EVENTS];
        memcpy(saved, place, sizeof place);
        for (int i = 0; i < w; i++)
            if (stores(i) && items[i].location == items[w].location && place[i] >= p) place[i]++;
        place[w] = p;
        choose_place(w + 1);
        memcpy(place, saved, sizeof place);
    }
}

uint64_t plain_executions(const plain_program *program) {
    count = 2; /* the initial writes */
    consistent_count = 0;
    memset(&sb, 0, sizeof sb);
    memset(place, 0, sizeof place);
    for (int l = 0; l < 2; l++) items[l] = (item){.kind = STORES, .thread = -1, .location = l};
    for (int t = 0; t < PLAIN_THREADS; t++)
        for (int i = 0; i < program->count[t]; i++, count++) {
            const plain_operation *o = &program->operations[t][i];
            static const int kinds[] = {LOADS, STORES, LOADS | STORES, 0};
            items[count] = (item){kinds[o->kind], t, o->kind == PLAIN_FENCE ? -1 : o->location, o->order};
            for (int before = 0; before < count; before++)
                if (items[before].thread == t || before < 2) put(&sb, before, count);
        }
    choose_place(2);
    return consistent_count;
}
