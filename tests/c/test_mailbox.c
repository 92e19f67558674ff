/* test_mailbox.c - a question in a box is answered once, by an evaluator that takes many at a time, whoever dies. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "hs_mailbox.h"
#include "hs_step.h"
#include "hs_test.h"

enum { ASKERS = 3, EACH = 4, REQUEST = 40, LOGITS = 5, NOW = 0, LONG_US = 60 * 1000 * 1000 };
static const hs_mailbox_config config = {.askers = ASKERS,
                                         .boxes_each = EACH,
                                         .request_size_max = REQUEST,
                                         .num_players = 2,
                                         .logits_max = LOGITS};

static void *mailbox_make(void) {
    uint64_t size;
    REQUIRE(hs_mailbox_size(&config, &size) == HS_OK);
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED && hs_mailbox_format(memory, size, &config) == HS_OK);
    return memory;
}

static void mailbox_break(void *memory) {
    uint64_t size;
    REQUIRE(hs_mailbox_size(&config, &size) == HS_OK);
    munmap(memory, size);
}

static int ask(void *memory, uint32_t box, uint64_t question) {
    return hs_mailbox_ask(memory, box, (const uint8_t *)&question, sizeof question);
}

static uint64_t question_of(const hs_mailbox_item *item) {
    CHECK_EQ_INT(item->size, sizeof(uint64_t));
    return hs_load_u64(item->request);
}

/* Two values and three logits that follow from the question. */
static int answer(void *memory, uint32_t taker, const hs_mailbox_item *item) {
    double n = (double)question_of(item), values[2] = {n, -n};
    float logits[3] = {(float)n, (float)n + 1, (float)n + 2};
    return hs_mailbox_answer(memory, taker, item->box, item->generation, values, 2, logits, 3);
}

static void check_answer(void *memory, uint32_t box, uint64_t question) {
    double values[2];
    float logits[LOGITS];
    uint32_t value_count = 0, logit_count = 0;
    CHECK_EQ_INT(hs_mailbox_read(memory, box, values, &value_count, logits, &logit_count), HS_OK);
    CHECK_EQ_INT(value_count, 2);
    CHECK_EQ_INT(logit_count, 3);
    CHECK(values[0] == (double)question && values[1] == -(double)question);
    CHECK(logits[0] == (float)question && logits[2] == (float)question + 2);
}

static hs_mailbox_counts counts_of(const void *memory) {
    hs_mailbox_counts counts;
    hs_mailbox_counts_get(memory, &counts);
    return counts;
}

static void impossible_sizes_are_refused_and_other_memory_is_no_mailbox(void) {
    hs_mailbox_config bad = config, found;
    uint64_t size = 0;
    bad.askers = 0;
    CHECK_EQ_INT(hs_mailbox_size(&bad, &size), HS_ARGUMENT);
    bad.askers = HS_MAILBOX_BOXES_MAX;
    CHECK_EQ_INT(hs_mailbox_size(&bad, &size), HS_ARGUMENT);
    bad = config;
    bad.request_size_max = UINT32_MAX;
    CHECK_EQ_INT(hs_mailbox_size(&bad, &size), HS_ARGUMENT);
    void *memory = mailbox_make();
    CHECK_EQ_INT(hs_mailbox_size(&config, &size), HS_OK);
    CHECK_EQ_INT(hs_mailbox_format(memory, size - 1, &config), HS_SMALL);
    CHECK_EQ_INT(hs_mailbox_attach(memory, size, &found), HS_OK);
    CHECK_EQ_MEM(&found, &config, sizeof found);
    CHECK_EQ_INT(hs_mailbox_attach(memory, size - 1, &found), HS_FORMAT);
    ((hs_mailbox_header *)memory)->config.num_players = 300;
    CHECK_EQ_INT(hs_mailbox_attach(memory, size, &found), HS_FORMAT);
    ((hs_mailbox_header *)memory)->magic = 0;
    CHECK_EQ_INT(hs_mailbox_attach(memory, size, &found), HS_FORMAT);
    mailbox_break(memory);
}

static void what_does_not_fit_is_refused_and_changes_nothing(void) {
    void *memory = mailbox_make();
    uint8_t longer[REQUEST + 1] = {0};
    CHECK_EQ_INT(hs_mailbox_ask(memory, 0, longer, sizeof longer), HS_ARGUMENT);
    CHECK_EQ_INT(ask(memory, ASKERS * EACH, 1), HS_ARGUMENT);
    CHECK_EQ_INT(hs_mailbox_join(memory, ASKERS), HS_ARGUMENT);
    CHECK_EQ_INT(hs_mailbox_withdraw(memory, ASKERS), HS_ARGUMENT);
    uint32_t boxes[1];
    CHECK_EQ_INT(hs_mailbox_collect(memory, ASKERS, 0, boxes, 1), HS_ARGUMENT);
    CHECK_EQ_INT(counts_of(memory).free, ASKERS * EACH);
    hs_mailbox_item item;
    CHECK_EQ_INT(hs_mailbox_gather(memory, 0, 1, NOW, 0, &item), HS_ARGUMENT);
    CHECK_EQ_INT(ask(memory, 0, 1), HS_OK);
    CHECK_EQ_INT(hs_mailbox_gather(memory, 1, 1, NOW, 0, &item), 1);
    double values[3] = {0};
    float logits[LOGITS + 1] = {0};
    CHECK_EQ_INT(hs_mailbox_answer(memory, 1, 0, item.generation, values, 3, logits, 0), HS_ARGUMENT);
    CHECK_EQ_INT(hs_mailbox_answer(memory, 1, 0, item.generation, values, 1, logits, LOGITS + 1),
                 HS_ARGUMENT);
    CHECK_EQ_INT(answer(memory, 1, &item), HS_OK);
    mailbox_break(memory);
}

static void question_is_answered_and_its_box_asked_again(void) {
    void *memory = mailbox_make();
    CHECK_EQ_INT(hs_mailbox_join(memory, 1), HS_OK);
    for (uint64_t question = 10; question < 20; question++) {
        uint32_t box = EACH + 2, found[EACH];
        hs_mailbox_item item;
        CHECK_EQ_INT(hs_mailbox_collect(memory, 1, 0, found, EACH), 0);
        CHECK_EQ_INT(ask(memory, box, question), HS_OK);
        CHECK_EQ_INT(ask(memory, box, question), HS_WAIT);
        CHECK_EQ_INT(hs_mailbox_gather(memory, 1, 8, NOW, 0, &item), 1);
        CHECK_EQ_INT(item.box, box);
        CHECK_EQ_INT(question_of(&item), question);
        CHECK_EQ_INT(ask(memory, box, question), HS_WAIT);
        CHECK_EQ_INT(answer(memory, 1, &item), HS_OK);
        CHECK_EQ_INT(answer(memory, 1, &item), HS_NOT_FOUND); /* once */
        hs_mailbox_ring(memory, &item, 1, 7);
        CHECK_EQ_INT(ask(memory, box, question), HS_WAIT);
        CHECK_EQ_INT(hs_mailbox_collect(memory, 1, 0, found, EACH), 1);
        CHECK_EQ_INT(found[0], box);
        check_answer(memory, box, question);
        uint32_t none;
        CHECK_EQ_INT(hs_mailbox_read(memory, box, NULL, &none, NULL, &none), HS_NOT_FOUND);
    }
    hs_mailbox_counts counts = counts_of(memory);
    CHECK(counts.batches == 10 && counts.answers == 10 && counts.busy_ns == 70 && counts.free == 12);
    mailbox_break(memory);
}

static void batch_waits_for_its_size_or_its_time(void) {
    void *memory = mailbox_make();
    hs_mailbox_item items[ASKERS * EACH];
    CHECK_EQ_INT(hs_mailbox_join(memory, 0), HS_OK);
    CHECK_EQ_INT(hs_mailbox_gather(memory, 1, 4, NOW, 1, items), HS_TIMED_OUT); /* nothing there */
    for (uint32_t box = 0; box < 3; box++) CHECK_EQ_INT(ask(memory, box, box), HS_OK);
    CHECK_EQ_INT(hs_mailbox_gather(memory, 1, 4, LONG_US, 1, items), HS_TIMED_OUT);
    CHECK_EQ_INT(ask(memory, 3, 3), HS_OK);
    CHECK_EQ_INT(ask(memory, EACH, 4), HS_OK);
    CHECK_EQ_INT(hs_mailbox_gather(memory, 1, 4, LONG_US, 1, items), 4);
    CHECK_EQ_INT(hs_mailbox_gather(memory, 1, 4, LONG_US, 1, items), HS_TIMED_OUT);
    CHECK_EQ_INT(hs_mailbox_gather(memory, 1, 4, 1000, 50, items), 1);
    mailbox_break(memory);
}

/* Boxes are looked at in turn, so that a batch that is smaller than what is asked leaves none out for ever. */
static void small_batches_take_all_in_turn(void) {
    enum { BOXES = ASKERS * EACH, BATCH = 5 };
    void *memory = mailbox_make();
    int taken[BOXES] = {0};
    hs_mailbox_item items[BATCH];
    for (uint32_t box = 0; box < BOXES; box++) CHECK_EQ_INT(ask(memory, box, box), HS_OK);
    for (int batch = 0; batch < 3; batch++) {
        CHECK_EQ_INT(hs_mailbox_gather(memory, 1, BATCH, NOW, 0, items), BATCH);
        for (int n = 0; n < BATCH; n++) {
            taken[items[n].box]++;
            CHECK_EQ_INT(answer(memory, 1, &items[n]), HS_OK);
            check_answer(memory, items[n].box, items[n].box);
            CHECK_EQ_INT(ask(memory, items[n].box, items[n].box),
                         HS_OK); /* and has its turn after all others */
        }
    }
    for (int box = 0; box < BOXES; box++) CHECK(taken[box] >= 1);
    mailbox_break(memory);
}

static void withdrawn_questions_are_nobodys_wherever_they_are(void) {
    void *memory = mailbox_make();
    hs_mailbox_item items[3];
    CHECK_EQ_INT(hs_mailbox_join(memory, 0), HS_OK);
    CHECK_EQ_INT(ask(memory, 0, 1), HS_OK);
    CHECK_EQ_INT(ask(memory, 1, 2), HS_OK);
    CHECK_EQ_INT(hs_mailbox_gather(memory, 1, 2, NOW, 0, items), 2);
    CHECK_EQ_INT(answer(memory, 1, &items[0]), HS_OK);
    CHECK_EQ_INT(ask(memory, 2, 3), HS_OK);
    CHECK_EQ_INT(hs_mailbox_withdraw(memory, 0), 1); /* answered, taken, asked, free */
    hs_mailbox_counts counts = counts_of(memory);
    CHECK(counts.free == 11 && counts.orphaned == 1 && counts.joined == 0);
    CHECK_EQ_INT(hs_mailbox_withdraw(memory, 0), 1);
    CHECK_EQ_INT(ask(memory, 1, 4), HS_WAIT); /* its request may still be read */
    CHECK_EQ_INT(question_of(&items[1]), 2);
    CHECK_EQ_INT(answer(memory, 1, &items[1]), HS_NOT_FOUND);
    CHECK_EQ_INT(counts_of(memory).free, 12);
    CHECK_EQ_INT(ask(memory, 1, 4), HS_OK);
    CHECK_EQ_INT(answer(memory, 1, &items[1]), HS_NOT_FOUND); /* too late for another question */
    CHECK_EQ_INT(hs_mailbox_gather(memory, 1, 2, NOW, 0, items), 1);
    CHECK_EQ_INT(question_of(&items[0]), 4);
    mailbox_break(memory);
}

static void what_a_dead_evaluator_had_taken_is_asked_again(void) {
    void *memory = mailbox_make();
    hs_mailbox_item items[4], again[4];
    for (uint32_t box = 0; box < 3; box++) CHECK_EQ_INT(ask(memory, box, box), HS_OK);
    CHECK_EQ_INT(ask(memory, EACH, 9), HS_OK);
    CHECK_EQ_INT(hs_mailbox_gather(memory, 1, 4, NOW, 0, items), 4);
    CHECK_EQ_INT(answer(memory, 1, &items[0]), HS_OK);
    CHECK_EQ_INT(hs_mailbox_withdraw(memory, 1), 1);
    CHECK_EQ_INT(hs_mailbox_give_back(memory, 2), 0); /* another's */
    CHECK_EQ_INT(hs_mailbox_give_back(memory, 1), 2);
    hs_mailbox_counts counts = counts_of(memory);
    CHECK(counts.asked == 2 && counts.answered == 1 && counts.orphaned == 0 && counts.free == 9);
    CHECK_EQ_INT(hs_mailbox_gather(memory, 2, 4, NOW, 0, again), 2);
    for (int n = 0; n < 2; n++) {
        CHECK_EQ_INT(question_of(&again[n]), again[n].box);
        CHECK_EQ_INT(answer(memory, 1, &again[n]), HS_NOT_FOUND); /* of the earlier life */
        CHECK_EQ_INT(answer(memory, 2, &again[n]), HS_OK);
    }
    for (uint32_t box = 0; box < 3; box++) check_answer(memory, box, box);
    mailbox_break(memory);
}

static void closed_mailbox_lets_nobody_wait(void) {
    void *memory = mailbox_make();
    hs_mailbox_item item;
    uint32_t box;
    CHECK_EQ_INT(hs_mailbox_join(memory, 0), HS_OK);
    CHECK_EQ_INT(ask(memory, 0, 1), HS_OK);
    CHECK_EQ_INT(hs_mailbox_gather(memory, 1, 1, NOW, 0, &item), 1);
    hs_mailbox_close(memory);
    CHECK_EQ_INT(hs_mailbox_collect(memory, 0, 50, &box, 1), HS_CLOSING);
    CHECK_EQ_INT(hs_mailbox_gather(memory, 1, 1, NOW, 50, &item), HS_CLOSING);
    CHECK_EQ_INT(answer(memory, 1, &item), HS_OK);
    CHECK_EQ_INT(hs_mailbox_collect(memory, 0, 50, &box, 1), 1);
    check_answer(memory, 0, 1);
    mailbox_break(memory);
}

/* ---- Deaths ---- */

/* Run `body` in a child that dies at the nth passing of `label`; true if it died there and not otherwise. */
static bool dies_at(const char *label, int nth, void (*body)(void *), void *memory) {
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        if (hs_step_arm(label, nth, HS_STEP_KILL) != HS_OK) _exit(3);
        body(memory);
        _exit(4);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

/* Asker 0 asks twice; what is there is evaluated here, in the place of another process; it reads what was answered. */
static void ask_and_read(void *memory) {
    hs_mailbox_item item;
    REQUIRE(hs_mailbox_join(memory, 0) == HS_OK && ask(memory, 0, 5) == HS_OK && ask(memory, 1, 6) == HS_OK);
    REQUIRE(hs_mailbox_gather(memory, 1, 1, NOW, 0, &item) == 1 && answer(memory, 1, &item) == HS_OK);
    check_answer(memory, item.box, 5 + item.box);
}

static void death_at_each_step_of_an_asker_leaves_its_boxes_to_a_successor(void) {
    const struct {
        const char *label;
        int nth;
        uint32_t asked;
    } deaths[] = {{"box_written", 1, 0},
                  {"box_written", 2, 1},
                  {"box_asked", 1, 1},
                  {"box_asked", 2, 2},
                  {"box_read", 1, 1}};
    for (size_t i = 0; i < sizeof deaths / sizeof *deaths; i++) {
        void *memory = mailbox_make();
        CHECK(dies_at(deaths[i].label, deaths[i].nth, ask_and_read, memory));
        CHECK_EQ_INT(counts_of(memory).asked, deaths[i].asked);
        CHECK_EQ_INT(hs_mailbox_withdraw(memory, 0), 0);
        CHECK_EQ_INT(counts_of(memory).free, ASKERS * EACH);
        CHECK_EQ_INT(counts_of(memory).joined, 0);
        ask_and_read(memory);
        mailbox_break(memory);
    }
}

/* The first life of an evaluator: two questions of the three. */
static void evaluate_two(void *memory) {
    hs_mailbox_item items[2];
    REQUIRE(hs_mailbox_gather(memory, 1, 2, NOW, 0, items) == 2);
    for (int n = 0; n < 2; n++) REQUIRE(answer(memory, 1, &items[n]) == HS_OK);
    hs_mailbox_ring(memory, items, 2, 0);
}

static void death_at_each_step_of_an_evaluator_leaves_each_question_answered_once(void) {
    const char *labels[] = {"box_taken", "box_answering", "box_answered"};
    for (int i = 0; i < 6; i++) {
        void *memory = mailbox_make();
        hs_mailbox_item items[ASKERS * EACH];
        for (uint32_t box = 0; box < 3; box++) CHECK_EQ_INT(ask(memory, box, box), HS_OK);
        int nth = i % 2 + 1, answered = i < 2 ? 0 : i / 4 + i % 2, taken = i < 2 ? nth : 2;
        CHECK(dies_at(labels[i / 2], nth, evaluate_two, memory));
        CHECK_EQ_INT(counts_of(memory).answered, answered);
        CHECK_EQ_INT(hs_mailbox_give_back(memory, 1), taken - answered);
        CHECK_EQ_INT(hs_mailbox_gather(memory, 2, ASKERS * EACH, NOW, 0, items), 3 - answered);
        for (int n = 0; n < 3 - answered; n++) CHECK_EQ_INT(answer(memory, 2, &items[n]), HS_OK);
        for (uint32_t box = 0; box < 3; box++) check_answer(memory, box, box);
        mailbox_break(memory);
    }
}

/* ---- Threads in the place of processes ---- */

typedef struct actor {
    void *memory;
    uint32_t asker;
    uint32_t rounds;
} actor;

/* Keep every box busy with a question that nobody else has; each answer must fit its question. */
static void *ask_many(void *argument) {
    actor *a = argument;
    uint64_t questions[EACH], next = 0;
    uint32_t boxes[EACH], first = a->asker * EACH, open = 0;
    CHECK_EQ_INT(hs_mailbox_join(a->memory, a->asker), HS_OK);
    for (uint32_t n = 0; n < EACH; n++) {
        questions[n] = (uint64_t)a->asker << 20 | next++;
        open += ask(a->memory, first + n, questions[n]) == HS_OK;
    }
    while (open > 0) {
        int count = hs_mailbox_collect(a->memory, a->asker, 50, boxes, EACH);
        CHECK(count > 0 || count == HS_TIMED_OUT);
        for (int n = 0; n < count; n++) {
            check_answer(a->memory, boxes[n], questions[boxes[n] - first]);
            questions[boxes[n] - first] = (uint64_t)a->asker << 20 | next++;
            if (next <= a->rounds)
                CHECK_EQ_INT(ask(a->memory, boxes[n], questions[boxes[n] - first]), HS_OK);
            else
                open--;
        }
    }
    CHECK_EQ_INT(hs_mailbox_withdraw(a->memory, a->asker), 0);
    return NULL;
}

static void *evaluate_until_closed(void *memory) {
    enum { BATCH = 8 };
    hs_mailbox_item items[BATCH];
    for (;;) {
        int count = hs_mailbox_gather(memory, 1, BATCH, LONG_US, 50, items);
        if (count == HS_CLOSING) return NULL;
        for (int n = 0; n < count; n++) CHECK_EQ_INT(answer(memory, 1, &items[n]), HS_OK);
        if (count > 0) hs_mailbox_ring(memory, items, (uint32_t)count, 0);
    }
}

/* A batch's time is a minute here: all goes on only because batches are full, or everybody waits. */
static void answers_fit_their_questions_while_all_ask_at_once(void) {
    enum { ROUNDS = 3000 };
    void *memory = mailbox_make();
    actor actors[ASKERS];
    pthread_t askers[ASKERS], evaluator;
    REQUIRE(pthread_create(&evaluator, NULL, evaluate_until_closed, memory) == 0);
    for (uint32_t n = 0; n < ASKERS; n++) {
        actors[n] = (actor){memory, n, ROUNDS};
        REQUIRE(pthread_create(&askers[n], NULL, ask_many, &actors[n]) == 0);
    }
    for (uint32_t n = 0; n < ASKERS; n++) pthread_join(askers[n], NULL);
    hs_mailbox_close(memory);
    pthread_join(evaluator, NULL);
    hs_mailbox_counts counts = counts_of(memory);
    CHECK_EQ_INT(counts.answers, ASKERS * ROUNDS);
    CHECK(counts.batches < counts.answers);
    CHECK_EQ_INT(counts.free, ASKERS * EACH);
    mailbox_break(memory);
}

int main(void) {
    RUN(impossible_sizes_are_refused_and_other_memory_is_no_mailbox);
    RUN(what_does_not_fit_is_refused_and_changes_nothing);
    RUN(question_is_answered_and_its_box_asked_again);
    RUN(batch_waits_for_its_size_or_its_time);
    RUN(small_batches_take_all_in_turn);
    RUN(withdrawn_questions_are_nobodys_wherever_they_are);
    RUN(what_a_dead_evaluator_had_taken_is_asked_again);
    RUN(closed_mailbox_lets_nobody_wait);
    RUN(death_at_each_step_of_an_asker_leaves_its_boxes_to_a_successor);
    RUN(death_at_each_step_of_an_evaluator_leaves_each_question_answered_once);
    RUN(answers_fit_their_questions_while_all_ask_at_once);
    return hs_test_report();
}
