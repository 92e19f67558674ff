/* hs_mailbox.c - ask, gather, answer, read; and what is taken back in the name of the dead. See hs_mailbox.h. */
#include "hs_mailbox.h"
#include "hs_clock.h"
#include "hs_futex.h"
#include "hs_step.h"

#define ASLEEP UINT64_C(1) /* the low half of `sleeper` */

static hs_mailbox_header *header_of(const void *memory) { return (hs_mailbox_header *)(uintptr_t)memory; }

static hs_mailbox_asker *asker_at(const hs_mailbox_header *header, uint32_t asker) {
    uint8_t *base = (uint8_t *)(uintptr_t)header;
    return (hs_mailbox_asker *)(void *)(base + sizeof *header) + asker;
}

static hs_box *box_at(const hs_mailbox_header *header, uint32_t box) {
    uint8_t *base = (uint8_t *)(uintptr_t)header + header->boxes_offset;
    return (hs_box *)(void *)(base + (size_t)box * header->box_size);
}

static uint32_t boxes_of(const hs_mailbox_header *header) {
    return header->config.askers * header->config.boxes_each;
}

static uint32_t asker_of(const hs_mailbox_header *header, uint32_t box) {
    return box / header->config.boxes_each;
}

static float *logits_of(const hs_mailbox_header *header, hs_box *box) {
    return (float *)(void *)(box->values + header->config.num_players);
}

static size_t request_offset(const hs_mailbox_config *config) {
    size_t numbers = sizeof(double) * config->num_players + sizeof(float) * config->logits_max;
    return hs_align_up(sizeof(hs_box) + numbers, HS_MAILBOX_LINE);
}

static uint8_t *request_of(const hs_mailbox_header *header, hs_box *box) {
    return (uint8_t *)box + request_offset(&header->config);
}

/* ---- Making one ---- */

static bool config_is_good(const hs_mailbox_config *config) {
    return config->askers > 0 && config->boxes_each > 0 &&
           (uint64_t)config->askers * config->boxes_each <= HS_MAILBOX_BOXES_MAX &&
           config->request_size_max <= HS_MAILBOX_REQUEST_MAX && config->num_players > 0 &&
           config->num_players <= HS_MAILBOX_NUMBERS_MAX && config->logits_max <= HS_MAILBOX_NUMBERS_MAX;
}

static hs_mailbox_header header_made(const hs_mailbox_config *config) {
    hs_mailbox_header header = {.config = *config};
    header.box_size = hs_align_up(request_offset(config) + config->request_size_max, HS_MAILBOX_LINE);
    header.boxes_offset = sizeof header + (uint64_t)config->askers * sizeof(hs_mailbox_asker);
    header.size = header.boxes_offset + (uint64_t)config->askers * config->boxes_each * header.box_size;
    return header;
}

int hs_mailbox_size(const hs_mailbox_config *config, uint64_t *size) {
    if (!config_is_good(config)) return HS_ARGUMENT;
    *size = header_made(config).size;
    return HS_OK;
}

int hs_mailbox_format(void *memory, uint64_t size, const hs_mailbox_config *config) {
    if (!config_is_good(config)) return HS_ARGUMENT;
    hs_mailbox_header made = header_made(config), *header = memory;
    if (size < made.size) return HS_SMALL;
    header->size = made.size;
    header->boxes_offset = made.boxes_offset;
    header->box_size = made.box_size;
    header->config = made.config;
    header->magic = HS_MAILBOX_MAGIC;
    return HS_OK;
}

int hs_mailbox_attach(const void *memory, uint64_t size, hs_mailbox_config *out) {
    const hs_mailbox_header *header = memory;
    if (size < sizeof *header || header->magic != HS_MAILBOX_MAGIC) return HS_FORMAT;
    if (!config_is_good(&header->config)) return HS_FORMAT;
    hs_mailbox_header made = header_made(&header->config);
    bool same = header->size == made.size && header->boxes_offset == made.boxes_offset &&
                header->box_size == made.box_size;
    if (!same || size < made.size) return HS_FORMAT;
    *out = made.config;
    return HS_OK;
}

/* ---- Waking ---- */

/* After a full fence. `asked`: how many questions there were; it sleeps on if it waits for more. */
static void evaluator_wake(hs_mailbox_header *header, uint32_t asked) {
    uint64_t sleeper = hs_load_relaxed(&header->sleeper);
    if (sleeper == 0 || (int32_t)(asked - (uint32_t)(sleeper >> 32)) < 0) return;
    if (hs_cas_seq_cst(&header->sleeper, &sleeper, 0)) hs_futex_wake_all(hs_futex_half(&header->sleeper));
}

static void evaluator_wake_anyway(hs_mailbox_header *header) {
    evaluator_wake(header, (uint32_t)(hs_load_relaxed(&header->sleeper) >> 32));
}

/* After a full fence. An asker that is woken is at work from here on, even before it runs. */
static void asker_wake(hs_mailbox_asker *asker) {
    uint64_t waiting = HS_ASKER_WAITING;
    if (hs_load_relaxed(&asker->state) != waiting) return;
    if (hs_cas_seq_cst(&asker->state, &waiting, HS_ASKER_AT_WORK))
        hs_futex_wake_all(hs_futex_half(&asker->state));
}

void hs_mailbox_close(void *memory) {
    hs_mailbox_header *header = header_of(memory);
    hs_store_relaxed(&header->closed, 1);
    hs_fence_seq_cst(); /* E47 (first end): closed, then does anybody sleep? */
    evaluator_wake_anyway(header);
    for (uint32_t n = 0; n < header->config.askers; n++) asker_wake(asker_at(header, n));
}

/* Somebody has joined, and nobody is at work: no batch grows any more. */
static bool all_wait(const hs_mailbox_header *header) {
    uint32_t waiting = 0;
    for (uint32_t n = 0; n < header->config.askers; n++) {
        uint64_t state = hs_load_relaxed(&asker_at(header, n)->state);
        if (state == HS_ASKER_AT_WORK) return false;
        waiting += state == HS_ASKER_WAITING;
    }
    return waiting > 0;
}

/* ---- The asker's side ---- */

int hs_mailbox_join(void *memory, uint32_t asker) {
    hs_mailbox_header *header = header_of(memory);
    if (asker >= header->config.askers) return HS_ARGUMENT;
    hs_store_relaxed(&asker_at(header, asker)->state, HS_ASKER_AT_WORK);
    return HS_OK;
}

/* Where the word of a box goes when its question is withdrawn. */
static uint64_t withdrawn(uint64_t word) {
    switch (hs_box_state(word)) {
    case HS_BOX_ASKED:
    case HS_BOX_ANSWERED:
        return hs_box_word(hs_box_generation(word), 0, HS_BOX_FREE);
    case HS_BOX_TAKEN:
        return hs_box_word(hs_box_generation(word), hs_box_taker(word), HS_BOX_ORPHANED);
    default:
        return word;
    }
}

/* True if an evaluator holds it still. */
static bool box_withdraw(hs_box *box) {
    uint64_t word = hs_load_acquire(&box->word);
    while (!hs_cas_seq_cst(&box->word, &word, withdrawn(word))) continue;
    return hs_box_state(withdrawn(word)) == HS_BOX_ORPHANED;
}

int hs_mailbox_withdraw(void *memory, uint32_t asker) {
    hs_mailbox_header *header = header_of(memory);
    if (asker >= header->config.askers) return HS_ARGUMENT;
    int held = 0;
    uint32_t first = asker * header->config.boxes_each;
    for (uint32_t n = 0; n < header->config.boxes_each; n++) held += box_withdraw(box_at(header, first + n));
    hs_store_relaxed(&asker_at(header, asker)->state, HS_ASKER_ABSENT);
    hs_fence_seq_cst();
    evaluator_wake_anyway(header); /* perhaps all others wait */
    return held;
}

int hs_mailbox_ask(void *memory, uint32_t box, const uint8_t *request, size_t size) {
    hs_mailbox_header *header = header_of(memory);
    if (box >= boxes_of(header) || size > header->config.request_size_max) return HS_ARGUMENT;
    hs_box *mine = box_at(header, box);
    uint64_t word = hs_load_acquire(&mine->word); /* E44 (second end) */
    if (hs_box_state(word) != HS_BOX_FREE) return HS_WAIT;
    memcpy(request_of(header, mine), request, size);
    hs_store_relaxed(&mine->request_size, size);
    hs_store_relaxed(&mine->asked_ns, hs_clock_ns(CLOCK_MONOTONIC));
    HS_STEP(box_written);
    uint64_t asked = hs_box_word(hs_box_generation(word) + 1, 0, HS_BOX_ASKED);
    if (!hs_cas_seq_cst(&mine->word, &word, asked)) return HS_WAIT; /* E40 (first end) */
    HS_STEP(box_asked);
    uint64_t count = hs_add_seq_cst(&header->asked, 1) + 1; /* E46 (first end) */
    hs_fence_seq_cst();                                     /* E41 (first end): asked, then is it asleep? */
    evaluator_wake(header, (uint32_t)count);
    return HS_OK;
}

static int answered(const hs_mailbox_header *header, uint32_t asker, uint32_t *boxes, uint32_t capacity) {
    uint32_t count = 0, first = asker * header->config.boxes_each;
    for (uint32_t n = first; n < first + header->config.boxes_each && count < capacity; n++)
        if (hs_box_state(hs_load_relaxed(&box_at(header, n)->word)) == HS_BOX_ANSWERED) boxes[count++] = n;
    return (int)count;
}

/* Sleep until something is answered, or all is over; who is the last to do so wakes the evaluator. */
static void asker_sleep(hs_mailbox_header *header, uint32_t asker, unsigned wait_ms) {
    hs_mailbox_asker *self = asker_at(header, asker);
    uint32_t any;
    hs_store_relaxed(&self->state, HS_ASKER_WAITING);
    hs_fence_seq_cst(); /* E42 (second end): waiting, then is anything answered? E43 (first end): does anybody work? E47 (second end) */
    if (answered(header, asker, &any, 1) == 0 && hs_load_relaxed(&header->closed) == 0) {
        if (all_wait(header)) evaluator_wake_anyway(header);
        hs_futex_wait(hs_futex_half(&self->state), HS_ASKER_WAITING, wait_ms);
    }
    hs_store_relaxed(&self->state, HS_ASKER_AT_WORK);
}

int hs_mailbox_collect(void *memory, uint32_t asker, unsigned wait_ms, uint32_t *boxes, uint32_t capacity) {
    hs_mailbox_header *header = header_of(memory);
    if (asker >= header->config.askers || capacity == 0) return HS_ARGUMENT;
    int count = answered(header, asker, boxes, capacity);
    if (count > 0 || wait_ms == 0) return count;
    asker_sleep(header, asker, wait_ms);
    count = answered(header, asker, boxes, capacity);
    if (count > 0) return count;
    return hs_load_relaxed(&header->closed) != 0 ? HS_CLOSING : HS_TIMED_OUT;
}

int hs_mailbox_read(void *memory, uint32_t box, double *values, uint32_t *value_count, float *logits,
                    uint32_t *logit_count) {
    hs_mailbox_header *header = header_of(memory);
    if (box >= boxes_of(header)) return HS_ARGUMENT;
    hs_box *mine = box_at(header, box);
    uint64_t word = hs_load_acquire(&mine->word); /* E45 (second end) */
    if (hs_box_state(word) != HS_BOX_ANSWERED) return HS_NOT_FOUND;
    uint64_t numbers = hs_load_relaxed(&mine->numbers);
    uint32_t value_number = (uint32_t)numbers, logit_number = (uint32_t)(numbers >> 32);
    if (value_number > header->config.num_players || logit_number > header->config.logits_max)
        return HS_CORRUPT;
    memcpy(values, mine->values, value_number * sizeof *values);
    memcpy(logits, logits_of(header, mine), logit_number * sizeof *logits);
    *value_count = value_number;
    *logit_count = logit_number;
    uint64_t freed = hs_box_word(hs_box_generation(word), 0, HS_BOX_FREE);
    if (!hs_cas_seq_cst(&mine->word, &word, freed)) return HS_NOT_FOUND;
    HS_STEP(box_read);
    return HS_OK;
}

/* ---- The evaluator's side ---- */

typedef struct sight {
    uint32_t count;    /* questions */
    uint64_t first_ns; /* when the oldest was asked */
} sight;

static sight look(const hs_mailbox_header *header) {
    sight seen = {.first_ns = UINT64_MAX};
    for (uint32_t n = 0; n < boxes_of(header); n++) {
        hs_box *box = box_at(header, n);
        if (hs_box_state(hs_load_relaxed(&box->word)) != HS_BOX_ASKED) continue;
        seen.count++;
        uint64_t asked_ns = hs_load_relaxed(&box->asked_ns);
        if (asked_ns < seen.first_ns) seen.first_ns = asked_ns;
    }
    return seen;
}

/* Is it time to take what is there? If not, *wait_us becomes no more than how long it will be. */
static bool is_ripe(const hs_mailbox_header *header, sight seen, uint32_t batch_size, uint64_t batch_wait_us,
                    uint64_t *wait_us) {
    if (seen.count == 0) return false;
    if (seen.count >= batch_size || all_wait(header)) return true;
    uint64_t now = hs_clock_ns(CLOCK_MONOTONIC);
    uint64_t age_us = now > seen.first_ns ? (now - seen.first_ns) / 1000u : 0;
    if (age_us >= batch_wait_us) return true;
    if (batch_wait_us - age_us < *wait_us) *wait_us = batch_wait_us - age_us;
    return false;
}

static bool box_take(const hs_mailbox_header *header, uint32_t taker, uint32_t n, hs_mailbox_item *item) {
    hs_box *box = box_at(header, n);
    uint64_t word = hs_load_acquire(&box->word);
    if (hs_box_state(word) != HS_BOX_ASKED) return false;
    uint64_t taken = hs_box_word(hs_box_generation(word), taker, HS_BOX_TAKEN);
    if (!hs_cas_seq_cst(&box->word, &word, taken)) return false; /* E40 (second end) */
    HS_STEP(box_taken);
    uint64_t size = hs_load_relaxed(&box->request_size), max = header->config.request_size_max;
    *item = (hs_mailbox_item){.box = n,
                              .generation = hs_box_generation(taken),
                              .request = request_of(header, box),
                              .size = size < max ? size : max};
    return true;
}

static uint32_t take(hs_mailbox_header *header, uint32_t taker, uint32_t batch_size, hs_mailbox_item *items) {
    uint32_t boxes = boxes_of(header), count = 0, looked = 0;
    uint32_t first = (uint32_t)hs_load_relaxed(&header->next) % boxes;
    for (; looked < boxes && count < batch_size; looked++)
        count += box_take(header, taker, (first + looked) % boxes, &items[count]);
    hs_store_relaxed(&header->next, (first + looked) % boxes);
    return count;
}

/* Sleep until enough is asked for a batch (the first question, if there is none yet), all wait, or the time is over. */
static void evaluator_sleep(hs_mailbox_header *header, uint32_t batch_size, uint64_t batch_wait_us,
                            uint64_t wait_us) {
    /* The count before the look: what is asked between the two is counted twice, and wakes too early rather than too late. */
    uint32_t asked = (uint32_t)hs_load_acquire(&header->asked); /* E46 (second end) */
    uint32_t count = look(header).count;
    uint32_t target = asked + (count == 0 || count >= batch_size ? 1 : batch_size - count);
    uint64_t sleeper = (uint64_t)target << 32 | ASLEEP;
    hs_store_relaxed(&header->sleeper, sleeper);
    hs_fence_seq_cst(); /* E41 (second end): asleep, then is it asked? E43 (second end): do all wait? E47 (second end) */
    bool is_closed = hs_load_relaxed(&header->closed) != 0;
    sight seen = look(header);
    bool first = count == 0 && seen.count > 0;
    if (!is_closed && !first && !is_ripe(header, seen, batch_size, batch_wait_us, &wait_us))
        hs_futex_wait_us(hs_futex_half(&header->sleeper), (uint32_t)ASLEEP, wait_us);
    hs_store_relaxed(&header->sleeper, 0);
}

int hs_mailbox_gather(void *memory, uint32_t taker, uint32_t batch_size, uint64_t batch_wait_us,
                      unsigned wait_ms, hs_mailbox_item *items) {
    hs_mailbox_header *header = header_of(memory);
    if (taker == 0 || taker > HS_MAILBOX_TAKER_MAX || batch_size == 0) return HS_ARGUMENT;
    unsigned bounded_ms = wait_ms < HS_WAIT_MS_MAX ? wait_ms : HS_WAIT_MS_MAX;
    uint64_t end = hs_clock_ns(CLOCK_MONOTONIC) + bounded_ms * UINT64_C(1000000);
    for (;;) {
        if (hs_load_relaxed(&header->closed) != 0) return HS_CLOSING;
        uint64_t now = hs_clock_ns(CLOCK_MONOTONIC), wait_us = now < end ? (end - now) / 1000u + 1 : 0;
        if (is_ripe(header, look(header), batch_size, batch_wait_us, &wait_us)) {
            uint32_t count = take(header, taker, batch_size, items);
            if (count > 0) return (int)count;
        }
        if (now >= end) return HS_TIMED_OUT;
        evaluator_sleep(header, batch_size, batch_wait_us, wait_us);
    }
}

/* The word of a box that this taker is to answer; false if it is not the box's taker, or the question another. */
static bool is_taken_by(uint64_t word, uint32_t taker, uint32_t generation) {
    enum hs_box_state state = hs_box_state(word);
    return (state == HS_BOX_TAKEN || state == HS_BOX_ORPHANED) && hs_box_taker(word) == taker &&
           hs_box_generation(word) == generation;
}

int hs_mailbox_answer(void *memory, uint32_t taker, uint32_t box, uint32_t generation, const double *values,
                      uint32_t value_count, const float *logits, uint32_t logit_count) {
    hs_mailbox_header *header = header_of(memory);
    if (box >= boxes_of(header) || value_count > header->config.num_players ||
        logit_count > header->config.logits_max)
        return HS_ARGUMENT;
    hs_box *it = box_at(header, box);
    uint64_t word = hs_load_relaxed(&it->word);
    if (!is_taken_by(word, taker, generation)) return HS_NOT_FOUND;
    memcpy(it->values, values, value_count * sizeof *values);
    memcpy(logits_of(header, it), logits, logit_count * sizeof *logits);
    hs_store_relaxed(&it->numbers, (uint64_t)logit_count << 32 | value_count);
    uint64_t answer = hs_box_word(generation, 0, HS_BOX_ANSWERED);
    uint64_t freed = hs_box_word(generation, 0, HS_BOX_FREE);
    HS_STEP(box_answering);
    if (hs_box_state(word) == HS_BOX_TAKEN &&
        hs_cas_seq_cst(&it->word, &word, answer)) { /* E45 (first end) */
        HS_STEP(box_answered);
        return HS_OK;
    }
    hs_cas_seq_cst(&it->word, &word, freed); /* E44 (first end): it was withdrawn */
    return HS_NOT_FOUND;
}

void hs_mailbox_ring(void *memory, const hs_mailbox_item *items, uint32_t count, uint64_t busy_ns) {
    hs_mailbox_header *header = header_of(memory);
    hs_add_relaxed(&header->batches, 1);
    hs_add_relaxed(&header->answers, count);
    hs_add_relaxed(&header->busy_ns, busy_ns);
    hs_fence_seq_cst(); /* E42 (first end): answered, then does it wait? */
    for (uint32_t n = 0; n < count; n++) asker_wake(asker_at(header, asker_of(header, items[n].box)));
}

/* Where the word of a box goes when its taker is dead. */
static uint64_t given_back(uint64_t word) {
    bool is_wanted = hs_box_state(word) == HS_BOX_TAKEN;
    return hs_box_word(hs_box_generation(word), 0, is_wanted ? HS_BOX_ASKED : HS_BOX_FREE);
}

int hs_mailbox_give_back(void *memory, uint32_t taker) {
    hs_mailbox_header *header = header_of(memory);
    int count = 0;
    for (uint32_t n = 0; n < boxes_of(header); n++) {
        hs_box *box = box_at(header, n);
        uint64_t word = hs_load_acquire(&box->word);
        /* Its asker may withdraw it meanwhile. */
        while (is_taken_by(word, taker, hs_box_generation(word))) {
            if (!hs_cas_seq_cst(&box->word, &word, given_back(word))) continue;
            count += hs_box_state(given_back(word)) == HS_BOX_ASKED;
            break;
        }
    }
    hs_store_relaxed(&header->sleeper, 0); /* it was the dead one's */
    hs_fence_seq_cst();
    /* It may have answered without ringing. */
    for (uint32_t n = 0; n < header->config.askers; n++) asker_wake(asker_at(header, n));
    return count;
}

/* ---- Looking on ---- */

static void box_count(const hs_box *box, hs_mailbox_counts *out) {
    uint32_t *const counts[] = {&out->free, &out->asked, &out->taken, &out->answered, &out->orphaned};
    enum hs_box_state state = hs_box_state(hs_load_relaxed(&box->word));
    if (state <= HS_BOX_ORPHANED) ++*counts[state];
}

void hs_mailbox_counts_get(const void *memory, hs_mailbox_counts *out) {
    const hs_mailbox_header *header = memory;
    *out = (hs_mailbox_counts){.batches = hs_load_relaxed(&header->batches),
                               .answers = hs_load_relaxed(&header->answers),
                               .busy_ns = hs_load_relaxed(&header->busy_ns)};
    for (uint32_t n = 0; n < boxes_of(header); n++) box_count(box_at(header, n), out);
    for (uint32_t n = 0; n < header->config.askers; n++) {
        uint64_t state = hs_load_relaxed(&asker_at(header, n)->state);
        out->joined += state != HS_ASKER_ABSENT;
        out->waiting += state == HS_ASKER_WAITING;
    }
}
