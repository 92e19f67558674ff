/* mailbox.c - see the header. A question is 7, and so is its answer; the one that comes after it in the same box is 8. */
#include "mailbox.h"
#include "hs_mailbox.h"
#include "model.h"
#include "runtime.h"

enum { QUESTION = 7, TAKER = 1, LONG_US = 1000000, MAILBOX_SIZE = 4096 };

static void *const mailbox = shared;
static hs_mailbox_item items[3];
static int taken;

static void make(uint32_t askers, uint32_t boxes_each) {
    hs_mailbox_config config = {
        .askers = askers, .boxes_each = boxes_each, .request_size_max = 8, .num_players = 1};
    runtime_begin();
    memset(shared, 0, MAILBOX_SIZE);
    hs_mailbox_format(mailbox, MAILBOX_SIZE, &config);
    for (uint32_t asker = 0; asker < askers; asker++) hs_mailbox_join(mailbox, asker);
    taken = 0;
}

static int ask(uint32_t box, uint64_t question) {
    return hs_mailbox_ask(mailbox, box, (const uint8_t *)&question, sizeof question);
}

void mailbox_begin(void) { make(2, 1); }

void mailbox_begin_asked(void) {
    make(2, 1);
    ask(0, QUESTION);
    ask(1, QUESTION);
}

void mailbox_begin_taken(void) {
    make(2, 1);
    ask(0, QUESTION);
    hs_mailbox_gather(mailbox, TAKER, 1, 0, 0, items);
}

void mailbox_begin_withdrawn(void) {
    mailbox_begin_taken();
    hs_mailbox_withdraw(mailbox, 0);
}

void mailbox_begin_with_one(void) {
    make(1, 3);
    ask(0, QUESTION);
}

/* ---- Who asks ---- */

void mailbox_ask(void) { ask(0, model_thread() == 0 ? QUESTION : QUESTION + 1); }

void mailbox_ask_two_more(void) {
    ask(1, QUESTION);
    ask(2, QUESTION);
}

void mailbox_collect(void) {
    uint32_t box;
    hs_mailbox_collect(mailbox, model_thread() == 0 ? 0 : 1, 50, &box, 1);
}

/* In the place of asker 0, whatever its thread is. */
void mailbox_read(void) {
    double value = 0;
    uint32_t values, logits;
    if (hs_mailbox_read(mailbox, 0, &value, &values, NULL, &logits) != HS_OK) return;
    promise(value == QUESTION && values == 1, "who sees that it is answered sees the answer");
}

void mailbox_close(void) { hs_mailbox_close(mailbox); }

/* ---- Who answers ---- */

static uint64_t request_of(const hs_mailbox_item *item) {
    uint64_t request;
    memcpy(&request, item->request, sizeof request);
    return request;
}

void mailbox_take_and_read(void) {
    if (hs_mailbox_gather(mailbox, TAKER, 1, 0, 0, items) != 1) return;
    promise(items[0].size == 8 && request_of(&items[0]) == QUESTION,
            "what is evaluated is the question as it was asked");
}

void mailbox_gather_one(void) { taken = hs_mailbox_gather(mailbox, TAKER, 1, LONG_US, 50, items); }

void mailbox_gather_all(void) { taken = hs_mailbox_gather(mailbox, TAKER, 3, LONG_US, 50, items); }

void mailbox_answer(void) {
    double value = QUESTION;
    hs_mailbox_answer(mailbox, TAKER, 0, items[0].generation, &value, 1, NULL, 0);
    hs_mailbox_ring(mailbox, items, 1, 0);
}

void mailbox_read_and_answer(void) {
    promise(request_of(&items[0]) == QUESTION, "nobody writes to what is still read");
    mailbox_answer();
}

void mailbox_all_are_taken(void) {
    promise(taken == 2 || taken == 3, "a batch that is complete, or does not grow, is taken");
}
