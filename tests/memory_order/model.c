/* model.c - the execution graph, what makes it consistent, and the search for all of them. */
#include "model.h"
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EVENTS_MAX = 160, LOCATIONS_MAX = 160, WRITES_MAX = 20, FENCES_MAX = 24 };

#define CHECK(condition, what)                                                                               \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "model: %s\n", what);                                                            \
            exit(3);                                                                                         \
        }                                                                                                    \
    } while (0)

/* How many events of each thread, from its first on: those that come before something. */
typedef struct clock {
    uint8_t of[THREADS_MAX];
} clock;

typedef struct ref { /* an event; thread -1 is the initial write of a location */
    int8_t thread;
    uint8_t index;
} ref;

enum kind { READ, WRITE, FENCE };

typedef struct event {
    enum kind kind;
    bool update, plain;
    uint8_t order, order_failed;
    uint16_t location;
    uint32_t stamp; /* order of addition */
    ref from;       /* of a read */
    uint64_t value; /* read or written */
    struct update what;
    const site *site;
    clock before;    /* happens before it; itself included */
    clock prefix;    /* by program order and rf; itself included */
    clock seen;      /* would happen before an acquire fence here */
    clock fenced;    /* happens before the last release fence */
    clock handed_on; /* of a write: what happens before who acquires it */
} event;

typedef struct graph {
    struct graph *next;
    int half_done; /* thread whose last event is the read of a read-modify-write that wants its write; -1 none */
    uint32_t stamp;
    uint8_t count[THREADS_MAX];
    uint8_t co_count[LOCATIONS_MAX];
    ref co[LOCATIONS_MAX]
          [WRITES_MAX]; /* position p of the order is co[p - 1]; position 0 is the initial value */
    event events[THREADS_MAX][EVENTS_MAX];
} graph;

/* Locations are found out while exploring, and then known for the rest of the scenario. */
static struct {
    uintptr_t address;
    unsigned size;
} locations[LOCATIONS_MAX];
static int location_count;
static bool again; /* a location was found out in this execution: begin the search again */
static bool first; /* this execution replays nothing, and may find out all the locations that it meets */

static const scenario *now;
static graph *current, *waiting, *unused;
static int self;
static unsigned position; /* events of this thread that were gone through */
static jmp_buf leave;
enum { RETURNED, SLEEPING, NO_EXECUTION };
static int ended[THREADS_MAX];
static findings found;
site *model_site;
bool model_beginning;

int model_thread(void) { return self; }

/* ---- Clocks and positions ---- */

static void join(clock *to, const clock *from) {
    for (int t = 0; t < THREADS_MAX; t++)
        if (from->of[t] > to->of[t]) to->of[t] = from->of[t];
}

static bool covers(const clock *c, int thread, unsigned index) { return index < c->of[thread]; }

static event *at(graph *g, ref r) { return &g->events[r.thread][r.index]; }

static unsigned co_position(const graph *g, int location, ref write) {
    if (write.thread < 0) return 0;
    for (unsigned p = 0; p < g->co_count[location]; p++)
        if (g->co[location][p].thread == write.thread && g->co[location][p].index == write.index)
            return p + 1;
    CHECK(false, "a write has no place in its location's order");
    return 0;
}

static ref co_at(const graph *g, int location, unsigned p) {
    return p == 0 ? (ref){.thread = -1} : g->co[location][p - 1];
}

/* What is before the event that comes next in a thread. */
static event successor(const graph *g, int thread) {
    event e = {.from = {.thread = -1}};
    unsigned n = g->count[thread];
    CHECK(n < EVENTS_MAX, "a thread has too many events");
    if (n > 0) {
        const event *last = &g->events[thread][n - 1];
        e.before = last->before;
        e.prefix = last->prefix;
        e.seen = last->seen;
        e.fenced = last->fenced;
    }
    e.before.of[thread] = e.prefix.of[thread] = (uint8_t)(n + 1);
    e.site = model_site;
    return e;
}

/* The earliest position that coherence leaves to who comes after these events. */
static unsigned co_floor(const graph *g, const clock *before, int location, int thread, unsigned index) {
    unsigned least = 0;
    for (int t = 0; t < THREADS_MAX; t++)
        for (unsigned i = 0; i < before->of[t] && i < g->count[t]; i++) {
            const event *e = &g->events[t][i];
            if (e->kind == FENCE || e->location != location || (t == thread && i == index)) continue;
            unsigned p = co_position(g, location, e->kind == READ ? e->from : (ref){(int8_t)t, (uint8_t)i});
            if (p > least) least = p;
        }
    return least;
}

/* ---- Consistency of the fences: one order that agrees with what is seen on both sides of each ---- */

/* A read of position p is later than the write of it and earlier than the next write: one number for both kinds. */
static int eco_key(const graph *g, int t, unsigned i) {
    const event *e = &g->events[t][i];
    return e->kind == READ ? 2 * (int)co_position(g, e->location, e->from) + 1
                           : 2 * (int)co_position(g, e->location, (ref){(int8_t)t, (uint8_t)i});
}

static bool is_full_fence(const event *e) { return e->kind == FENCE && (e->order & SEQ_CST) != 0; }

static unsigned fences_collect(const graph *g, ref fences[FENCES_MAX]) {
    unsigned n = 0, threads = 0;
    for (int t = 0; t < THREADS_MAX; t++) {
        unsigned was = n;
        for (unsigned i = 0; i < g->count[t]; i++)
            if (is_full_fence(&g->events[t][i])) {
                CHECK(n < FENCES_MAX, "too many fences");
                fences[n++] = (ref){(int8_t)t, (uint8_t)i};
            }
        threads += n > was;
    }
    return threads > 1 ? n : 0;
}

/* The key of the last access before the fence, and of the first after it. Writes that have no place yet are left out. */
static void fence_sides(graph *g, ref f, int last[LOCATIONS_MAX], int first[LOCATIONS_MAX]) {
    for (int l = 0; l < location_count; l++) {
        last[l] = -1;
        first[l] = INT32_MAX;
    }
    const clock *before = &at(g, f)->before;
    for (int t = 0; t < THREADS_MAX; t++)
        for (unsigned i = 0; i < g->count[t]; i++) {
            const event *e = &g->events[t][i];
            if (e->kind == FENCE) continue;
            bool is_before = covers(before, t, i), is_after = covers(&e->before, f.thread, f.index);
            if (!is_before && !is_after) continue;
            int key = eco_key(g, t, i);
            if (is_before && key > last[e->location]) last[e->location] = key;
            if (is_after && key < first[e->location]) first[e->location] = key;
        }
}

static bool fences_agree(graph *g) {
    ref fences[FENCES_MAX];
    unsigned n = fences_collect(g, fences);
    static int last[FENCES_MAX][LOCATIONS_MAX], first[FENCES_MAX][LOCATIONS_MAX];
    uint32_t precedes[FENCES_MAX] = {0};
    for (unsigned i = 0; i < n; i++) fence_sides(g, fences[i], last[i], first[i]);
    for (unsigned i = 0; i < n; i++)
        for (unsigned j = 0; j < n; j++) {
            bool edge = i != j && covers(&at(g, fences[j])->before, fences[i].thread, fences[i].index);
            for (int l = 0; l < location_count && !edge; l++) edge = first[i][l] < last[j][l];
            if (edge) precedes[i] |= 1u << j;
        }
    for (unsigned k = 0; k < n; k++)
        for (unsigned i = 0; i < n; i++)
            if (precedes[i] >> k & 1) precedes[i] |= precedes[k];
    for (unsigned i = 0; i < n; i++)
        if (precedes[i] >> i & 1) return false;
    return true;
}

/* ---- Changes of a graph ---- */

static bool update_applies(const update *what, uint64_t value) {
    return what->kind != UPDATE_SWAP_IF || value == what->expected;
}

static uint64_t update_result(const update *what, uint64_t value, unsigned size) {
    uint64_t result = what->kind == UPDATE_ADD    ? value + what->operand
                      : what->kind == UPDATE_CALL ? what->call(value)
                                                  : what->operand;
    return size == 4 ? (uint32_t)result : result;
}

/* Make the last event of a thread, a read, read from position p. */
static void read_from(graph *g, int thread, unsigned p) {
    event *e = &g->events[thread][--g->count[thread]];
    site *saved = model_site;
    event base = successor(g, thread);
    model_site = saved;
    g->count[thread]++;
    e->before = base.before;
    e->prefix = base.prefix;
    e->seen = base.seen;
    e->fenced = base.fenced;
    e->from = co_at(g, e->location, p);
    if (e->from.thread < 0) {
        e->value = model_image(locations[e->location].address, locations[e->location].size);
        return;
    }
    const event *w = at(g, e->from);
    e->value = w->value;
    join(&e->prefix, &w->prefix);
    join(&e->seen, &w->handed_on);
    unsigned order = e->update && !update_applies(&e->what, e->value) ? e->order_failed : e->order;
    if ((order & ACQUIRE) != 0) join(&e->before, &w->handed_on);
}

static bool wants_write(const event *e) {
    return e->kind == READ && e->update && update_applies(&e->what, e->value);
}

static void graph_copy(graph *to, const graph *from) {
    memcpy(to, from, offsetof(graph, events));
    for (int t = 0; t < THREADS_MAX; t++)
        memcpy(to->events[t], from->events[t], from->count[t] * sizeof(event));
}

static void push(const graph *g, int half_done) {
    graph *copy = unused;
    if (copy != NULL)
        unused = copy->next;
    else
        copy = malloc(sizeof *copy);
    CHECK(copy != NULL, "no memory");
    graph_copy(copy, g);
    copy->half_done = half_done;
    copy->next = waiting;
    waiting = copy;
}

static void drop(graph *g) {
    g->next = unused;
    unused = g;
}

/* May `a` stand at position p, directly after what is at p - 1? A read-modify-write and what it read are not parted. */
static bool co_may_stand(graph *g, int location, unsigned p, const event *a, ref read_of_a) {
    if (a->update && co_position(g, location, at(g, read_of_a)->from) + 1 != p) return false;
    if (p > g->co_count[location]) return true;
    ref next = g->co[location][p - 1];
    if (!at(g, next)->update) return true;
    ref from = g->events[next.thread][next.index - 1].from; /* its read is the event before it */
    return co_position(g, location, from) + 1 != p;
}

static void co_insert(graph *g, int location, unsigned p, ref a) {
    unsigned n = g->co_count[location]++;
    CHECK(n + 1 < WRITES_MAX, "a location is written too often");
    memmove(&g->co[location][p], &g->co[location][p - 1], (n + 1 - p) * sizeof(ref));
    g->co[location][p - 1] = a;
}

static void co_remove(graph *g, int location, unsigned p) {
    unsigned n = g->co_count[location]--;
    memmove(&g->co[location][p - 1], &g->co[location][p], (n - p) * sizeof(ref));
}

/* ---- Going back: a write that comes later is read by a read that was there ---- */

/* Is e what would have been added, had `a` come first: a read of the last write then, a write put last then, whom nobody went back
 * to? Exactly one way of having added what is to be deleted satisfies this, so each graph is arrived at once. */
static bool is_maximal(graph *g, ref r, ref a) {
    const event *e = at(g, r);
    const clock *prefix = &at(g, a)->prefix;
    if (e->kind == FENCE) return true;
    ref write = e->kind == READ ? e->from : r;
    if (e->kind == WRITE)
        for (int t = 0; t < THREADS_MAX; t++)
            for (unsigned i = 0; i < g->count[t]; i++) {
                const event *other = &g->events[t][i];
                if (other->kind == READ && other->from.thread == r.thread && other->from.index == r.index &&
                    (other->stamp <= e->stamp || covers(prefix, t, i)))
                    return false;
            }
    if (write.thread >= 0 && at(g, write)->stamp > e->stamp && !covers(prefix, write.thread, write.index))
        return false;
    for (unsigned p = co_position(g, e->location, write); p < g->co_count[e->location]; p++) {
        ref later = g->co[e->location][p];
        if (at(g, later)->stamp <= e->stamp || covers(prefix, later.thread, later.index)) return false;
    }
    return true;
}

static bool stays(const graph *g, int t, unsigned i, uint32_t stamp, const clock *prefix) {
    return g->events[t][i].stamp <= stamp || covers(prefix, t, i);
}

static bool may_go_back(graph *g, ref r, ref a) {
    const clock *prefix = &at(g, a)->prefix;
    uint32_t stamp = at(g, r)->stamp;
    for (int t = 0; t < THREADS_MAX; t++)
        for (unsigned i = 0; i < g->count[t]; i++) {
            ref e = {(int8_t)t, (uint8_t)i};
            bool is_a = t == a.thread && i == a.index;
            bool is_r = t == r.thread && i == r.index;
            if (!is_a && (is_r || !stays(g, t, i, stamp, prefix)) && !is_maximal(g, e, a)) return false;
        }
    return true;
}

/* Take out what was added after r and is no cause of a. */
static void cut(graph *g, ref r, ref a) {
    clock prefix = at(g, a)->prefix;
    uint32_t stamp = at(g, r)->stamp;
    for (int l = 0; l < location_count; l++)
        for (unsigned p = g->co_count[l]; p > 0; p--) {
            ref w = g->co[l][p - 1];
            if (!stays(g, w.thread, w.index, stamp, &prefix)) co_remove(g, l, p);
        }
    for (int t = 0; t < THREADS_MAX; t++)
        while (g->count[t] > 0 && !stays(g, t, g->count[t] - 1u, stamp, &prefix)) g->count[t]--;
}

/* Put a, the last of its thread, into its location's order in every way that is consistent; the graphs go to the waiting ones. `r`
 * (thread -1: none) reads it. With `keep`, the last way stays in g and the others wait. */
static bool co_place(graph *g, ref a, ref r, bool keep) {
    const event *w = at(g, a);
    int location = w->location;
    unsigned least = co_floor(g, &w->before, location, a.thread, a.index);
    if (r.thread >= 0) {
        g->count[r.thread]--;
        event base = successor(g, r.thread);
        g->count[r.thread]++;
        unsigned also = co_floor(g, &base.before, location, r.thread, r.index);
        if (also > least) least = also;
    }
    ref read = {a.thread, (uint8_t)(a.index - 1)};
    unsigned kept = 0, end = g->co_count[location] + 1u;
    for (unsigned p = least + 1; p <= end; p++) {
        if (!co_may_stand(g, location, p, w, read)) continue;
        co_insert(g, location, p, a);
        if (r.thread >= 0) read_from(g, r.thread, p);
        bool good = fences_agree(g);
        if (good && !keep) push(g, wants_write(at(g, r)) ? r.thread : -1);
        co_remove(g, location, p);
        if (!good || !keep) continue;
        if (kept != 0) {
            co_insert(g, location, kept, a);
            push(g, -1);
            co_remove(g, location, kept);
        }
        kept = p;
    }
    if (kept != 0) co_insert(g, location, kept, a);
    return kept != 0;
}

static void go_back(ref a) {
    static graph copy;
    int location = at(current, a)->location;
    for (int t = 0; t < THREADS_MAX; t++)
        for (unsigned i = at(current, a)->prefix.of[t]; i < current->count[t]; i++) {
            const event *e = &current->events[t][i];
            ref r = {(int8_t)t, (uint8_t)i};
            if (e->kind != READ || e->location != location || !may_go_back(current, r, a)) continue;
            graph_copy(&copy, current);
            cut(&copy, r, a);
            co_place(&copy, a, r, false);
        }
}

/* ---- Adding events ---- */

static event *add(int thread, event e) {
    e.stamp = current->stamp++;
    event *place = &current->events[thread][current->count[thread]++];
    *place = e;
    return place;
}

static bool add_write(int thread, event e) {
    ref a = {(int8_t)thread, current->count[thread]};
    e.kind = WRITE;
    e.handed_on = (e.order & RELEASE) != 0 ? e.before : e.fenced;
    if (e.update) {
        const event *read = &current->events[thread][a.index - 1];
        if (read->from.thread >= 0) join(&e.handed_on, &at(current, read->from)->handed_on);
    }
    add(thread, e);
    go_back(a);
    return co_place(current, a, (ref){.thread = -1}, true);
}

/* The write of a read-modify-write whose read is the last event of its thread. */
static bool add_second_half(int thread) {
    const event *read = &current->events[thread][current->count[thread] - 1];
    event e = successor(current, thread);
    e.site = read->site;
    e.update = true;
    e.order = read->order;
    e.location = read->location;
    e.value = update_result(&read->what, read->value, locations[e.location].size);
    return add_write(thread, e);
}

static void no_execution(void) {
    found.abandoned++;
    longjmp(leave, NO_EXECUTION);
}

static void add_read(event e) {
    e.kind = READ;
    add(self, e);
    unsigned last = current->co_count[e.location];
    unsigned least = co_floor(current, &e.before, e.location, self, current->count[self] - 1u);
    for (unsigned p = least; p < last; p++) {
        read_from(current, self, p);
        if (!fences_agree(current)) continue;
        push(current, wants_write(&current->events[self][current->count[self] - 1]) ? self : -1);
    }
    read_from(current, self, last);
    if (!fences_agree(current)) no_execution();
    if (wants_write(&current->events[self][current->count[self] - 1]) && !add_second_half(self))
        no_execution();
}

/* ---- What threads do ---- */

static unsigned weakened(unsigned order) { return model_site != NULL ? order & ~model_site->weaker : order; }

static int location_of(uintptr_t address) {
    for (int l = 0; l < location_count; l++)
        if (locations[l].address == address) return l;
    return -1;
}

unsigned model_size(uintptr_t address) {
    int l = location_of(address);
    return l < 0 ? 0 : locations[l].size;
}

bool model_is_written(uintptr_t address, unsigned size) {
    int l = location_of(address);
    if (l >= 0) CHECK(locations[l].size == size, "a word is used in two sizes");
    return l >= 0;
}

static int location_make(uintptr_t address, unsigned size) {
    if (model_is_written(address, size)) return location_of(address);
    CHECK(location_count < LOCATIONS_MAX, "too many locations");
    locations[location_count].address = address;
    locations[location_count].size = size;
    again = true;
    location_count++;
    if (!first) longjmp(leave, NO_EXECUTION);
    return location_count - 1;
}

/* The event that this thread's next operation is, if the graph has it already. */
static const event *replayed(enum kind kind, int location) {
    if (position >= current->count[self]) return NULL;
    const event *e = &current->events[self][position++];
    CHECK(e->kind == kind && e->location == location, "a thread did something else than before");
    return e;
}

static void done(void) { position = current->count[self]; }

uint64_t model_load(uintptr_t address, unsigned size, unsigned order, bool plain) {
    if (!model_is_written(address, size)) return model_image(address, size);
    int l = location_of(address);
    const event *e = replayed(READ, l);
    if (e == NULL) {
        event mine = successor(current, self);
        mine.location = (uint16_t)l;
        mine.order = (uint8_t)weakened(order);
        mine.plain = plain;
        add_read(mine);
        e = &current->events[self][current->count[self] - 1];
        done();
    }
    return e->value;
}

void model_store(uintptr_t address, unsigned size, uint64_t value, unsigned order, bool plain) {
    int l = location_make(address, size);
    const event *e = replayed(WRITE, l);
    if (e != NULL) {
        CHECK(e->value == value, "a thread wrote something else than before");
        return;
    }
    event mine = successor(current, self);
    mine.location = (uint16_t)l;
    mine.order = (uint8_t)weakened(order);
    mine.plain = plain;
    mine.value = value;
    if (!add_write(self, mine)) no_execution();
    done();
}

uint64_t model_update(uintptr_t address, unsigned size, update what, unsigned order, unsigned order_failed) {
    int l = location_make(address, size);
    const event *e = replayed(READ, l);
    if (e == NULL) {
        event mine = successor(current, self);
        mine.location = (uint16_t)l;
        mine.order = (uint8_t)weakened(order);
        mine.order_failed = (uint8_t)weakened(order_failed);
        mine.update = true;
        mine.what = what;
        unsigned index = current->count[self];
        add_read(mine);
        e = &current->events[self][index];
        done();
    } else if (update_applies(&what, e->value)) {
        replayed(WRITE, l);
    }
    return e->value;
}

void model_fence(unsigned order) {
    unsigned left = weakened(order);
    if (left == RELAXED || replayed(FENCE, 0) != NULL) return;
    event mine = successor(current, self);
    mine.kind = FENCE;
    mine.order = (uint8_t)left;
    if ((left & ACQUIRE) != 0) join(&mine.before, &mine.seen);
    if ((left & RELEASE) != 0) mine.fenced = mine.before;
    add(self, mine);
    if (!fences_agree(current)) no_execution();
    done();
}

void model_await(uintptr_t address, unsigned size, bool (*awake)(uint64_t value, uint64_t from),
                 uint64_t from) {
    int l = location_make(address, size);
    const event *e = replayed(READ, l);
    if (e == NULL) {
        event mine = successor(current, self);
        mine.location = (uint16_t)l;
        mine.order = ACQUIRE;
        add_read(mine);
        e = &current->events[self][current->count[self] - 1];
        done();
    }
    if (!awake(e->value, from)) longjmp(leave, SLEEPING);
}

/* ---- Judging ---- */

static void event_print(const graph *g, int t, unsigned i) {
    const event *e = &g->events[t][i];
    static const char *const kinds[] = {"R", "W", "F"};
    printf("    %d.%-3u %s%s ", t, i, kinds[e->kind], e->update ? "u" : e->plain ? "p" : " ");
    if (e->kind != FENCE) printf("%#lx = %#lx", locations[e->location].address & 0xffffff, e->value);
    if (e->kind == READ && e->from.thread >= 0) printf(" from %d.%u", e->from.thread, e->from.index);
    if (e->kind == READ && e->from.thread < 0) printf(" from the beginning");
    if ((e->order & ~(unsigned)SEQ_CST) != 0)
        printf(" %s%s%s", (e->order & ACQUIRE) != 0 ? "acquire " : "",
               (e->order & RELEASE) != 0 ? "release" : "", is_full_fence(e) ? " full" : "");
    if (e->site != NULL) printf("   %s:%d %s", e->site->file, e->site->line, e->site->function);
    printf("\n");
}

void promise(bool holds, const char *sentence) {
    if (holds || again || found.violated) return;
    found.violated = true;
    printf("violation in %s, execution %lu: %s\n", now->name, found.executions + 1, sentence);
    for (int t = 0; t < now->threads; t++)
        for (unsigned i = 0; i < current->count[t]; i++) event_print(current, t, i);
}

bool sleeps(int thread) { return ended[thread] == SLEEPING; }

uint64_t model_last(uintptr_t address, unsigned size) {
    int l = location_of(address);
    if (l < 0 || current->co_count[l] == 0) return model_image(address, size);
    return at(current, current->co[l][current->co_count[l] - 1])->value;
}

/* Somebody sleeps who read an old value: in another execution it reads the last one, and wakes. */
static bool sleeper_would_wake(void) {
    for (int t = 0; t < now->threads; t++) {
        if (ended[t] != SLEEPING) continue;
        const event *e = &current->events[t][current->count[t] - 1];
        if (co_position(current, e->location, e->from) != current->co_count[e->location]) return true;
    }
    return false;
}

static bool race_between(int t, unsigned i, int u, unsigned j) {
    const event *a = &current->events[t][i], *b = &current->events[u][j];
    return b->plain && a->location == b->location && (a->kind == WRITE || b->kind == WRITE) &&
           !covers(&a->before, u, j) && !covers(&b->before, t, i);
}

static void races_look(void) {
    for (int t = 0; t < now->threads; t++)
        for (unsigned i = 0; i < current->count[t]; i++)
            for (int u = t + 1; u < now->threads && current->events[t][i].plain; u++)
                for (unsigned j = 0; j < current->count[u]; j++)
                    if (((now->racy >> t | now->racy >> u) & 1) == 0 && race_between(t, i, u, j))
                        promise(false, "plain accesses to bytes of a chunk race");
}

/* ---- The search ---- */

static int thread_run(int t) {
    self = t;
    position = 0;
    int how = setjmp(leave);
    if (how == 0) now->thread[t]();
    return how;
}

static void execution_run(void) {
    if (current->half_done >= 0 && !add_second_half(current->half_done)) {
        found.abandoned++;
        return;
    }
    model_beginning = true;
    now->begin();
    model_beginning = false;
    for (int t = 0; t < now->threads; t++) {
        ended[t] = thread_run(t);
        if (ended[t] == NO_EXECUTION || found.violated) return;
        CHECK(position == current->count[t], "a thread did less than before");
    }
    if (again) return;
    if (sleeper_would_wake()) {
        found.abandoned++;
        return;
    }
    races_look();
    now->end();
    found.executions++;
}

static void waiting_drop(void) {
    while (waiting != NULL) {
        graph *g = waiting;
        waiting = g->next;
        drop(g);
    }
}

findings explore(const scenario *what) {
    static graph empty;
    now = what;
    location_count = 0;
    do {
        again = false;
        found = (findings){0};
        waiting_drop();
        push(&empty, -1);
        first = true;
        while (waiting != NULL && !again && !found.violated) {
            current = waiting;
            waiting = current->next;
            execution_run();
            first = false;
            drop(current);
        }
    } while (again);
    waiting_drop();
    return found;
}
