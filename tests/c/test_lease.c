/* test_lease.c - what is held is seen from outside for as long as it is held, through growth, forks and deaths. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "hs_lease.h"
#include "hs_test.h"

static char directory[64];

static void id_make(uint64_t seed, uint8_t id[32]) {
    for (uint64_t i = 0; i < 4; i++) {
        uint64_t x = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + i * UINT64_C(0xbf58476d1ce4e5b9);
        x = (x ^ (x >> 30)) * UINT64_C(0x94d049bb133111eb);
        hs_store_u64(id + 8 * i, x ^ (x >> 31));
    }
}

static enum hs_lease_result add(hs_leases *leases, uint64_t seed, uint32_t times) {
    uint8_t id[32];
    id_make(seed, id);
    return hs_lease_add(leases, id, times);
}

static void drop(hs_leases *leases, uint64_t seed, uint32_t times) {
    uint8_t id[32];
    id_make(seed, id);
    hs_lease_drop(leases, id, times);
}

/* A row of a node without bytes: what a pack says of a leased state. */
static bool is_leased(uint64_t seed) {
    hs_lease_view *view = NULL;
    hs_mark *mark = NULL;
    uint8_t id[32];
    id_make(seed, id);
    REQUIRE(hs_lease_view_open(directory, &view) == HS_OK && hs_mark_open(&mark) == HS_OK);
    REQUIRE(hs_lease_view_read(view, mark) >= 0);
    uint8_t pack[32 + 56] = {0};
    hs_store_u32(pack + 12, 1);
    memcpy(pack + 32, id, 32);
    hs_store_u32(pack + 32 + 32, sizeof pack);
    pack[32 + 48] = HS_ENTRY_NODE;
    uint32_t row = UINT32_MAX;
    int status = hs_mark_pack(mark, pack, sizeof pack, NULL, 0, &row);
    bool leased = status == HS_CORRUPT; /* wanted, and a node of no bytes is none */
    CHECK_EQ_INT(hs_mark_has(mark, id), leased);
    hs_mark_close(mark);
    hs_lease_view_close(view);
    return leased;
}

static int tables(void) {
    DIR *listing = opendir(directory);
    int count = 0;
    REQUIRE(listing != NULL);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) count += entry->d_name[0] != '.';
    closedir(listing);
    return count;
}

static void begin(hs_leases **leases) {
    strcpy(directory, "/tmp/hs-lease-XXXXXX");
    REQUIRE(mkdtemp(directory) != NULL);
    REQUIRE(hs_leases_open(directory, leases) == HS_OK);
}

static void end(hs_leases *leases) {
    hs_leases_close(leases);
    hs_lease_drop_dead(directory);
    CHECK_EQ_INT(tables(), 0);
    CHECK_EQ_INT(rmdir(directory), 0);
}

static void what_is_held_is_seen_and_what_is_let_go_is_not(void) {
    hs_leases *leases;
    begin(&leases);
    CHECK(!is_leased(1));
    CHECK_EQ_INT(add(leases, 1, 1), HS_LEASE_HELD); /* nobody says where the collection word is */
    CHECK_EQ_INT(add(leases, 1, 2), HS_LEASE_HELD);
    CHECK(is_leased(1) && !is_leased(2));
    drop(leases, 1, 2);
    CHECK(is_leased(1));
    drop(leases, 1, 1);
    CHECK(!is_leased(1));
    drop(leases, 1, 1); /* held no more: changes nothing */
    CHECK_EQ_INT(hs_leases_count(leases), 0);
    struct stat status;
    CHECK(stat(directory, &status) == 0 && (status.st_mode & 0777) == 0700);
    end(leases);
}

static void trust_follows_the_collection_word(void) {
    hs_leases *leases;
    hs_word word = 0;
    begin(&leases);
    CHECK_EQ_INT(hs_lease_collection(leases) & 1, 1);
    hs_leases_watch(leases, &word);
    CHECK_EQ_INT(add(leases, 1, 1), HS_LEASE_TRUSTED);
    CHECK(hs_lease_is_under(leases, 0));
    hs_store_relaxed(&word, 1); /* stopping */
    CHECK_EQ_INT(add(leases, 1, 1), HS_LEASE_HELD);
    CHECK(!hs_lease_is_under(leases, 0) && !hs_lease_is_under(leases, 1));
    hs_store_relaxed(&word, 2); /* one deletion */
    CHECK_EQ_INT(add(leases, 1, 1), HS_LEASE_HELD);
    CHECK(!hs_lease_is_under(leases, 0) && hs_lease_is_under(leases, 2));
    hs_store_relaxed(&word, 0);
    hs_leases_withdraw(leases); /* nobody sees it: nothing is trusted */
    hs_leases_watch(leases, &word);
    CHECK_EQ_INT(add(leases, 2, 1), HS_LEASE_HELD);
    CHECK(!hs_lease_is_under(leases, 0));
    CHECK_EQ_INT(hs_leases_publish(leases), HS_OK);
    CHECK(hs_lease_is_under(leases, 0) && is_leased(1) && is_leased(2));
    end(leases);
}

static void one_that_nobody_could_see_is_trusted(void) {
    hs_leases *leases = NULL;
    hs_word word = 0;
    REQUIRE(hs_leases_open(NULL, &leases) == HS_OK);
    hs_leases_watch(leases, &word);
    CHECK_EQ_INT(add(leases, 1, 1), HS_LEASE_TRUSTED);
    CHECK(hs_lease_is_under(leases, 0));
    CHECK_EQ_INT(hs_leases_publish(leases), HS_OK);
    hs_leases_close(leases);
    CHECK_EQ_INT(add(NULL, 1, 1), HS_LEASE_TRUSTED); /* no table: nobody asks */
    drop(NULL, 1, 1);
}

/* Against counts in plain memory: a table that grows, empties and fills again says of each state what they say. */
static void random_holds_and_releases_agree_with_plain_counts(void) {
    enum { STATES = 3000, STEPS = 60000 };
    static uint32_t counts[STATES];
    hs_leases *leases;
    uint64_t random = 7, live = 0;
    begin(&leases);
    for (int i = 0; i < STEPS; i++) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        uint32_t state = (uint32_t)(random >> 33) % STATES;
        bool more = i < STEPS / 2 ? (random >> 20) % 3 != 0 : (random >> 20) % 3 == 0;
        if (more) {
            live += counts[state]++ == 0;
            add(leases, state, 1);
        } else if (counts[state] > 0) {
            live -= --counts[state] == 0;
            drop(leases, state, 1);
        }
        if (hs_leases_count(leases) != live) break;
    }
    CHECK_EQ_INT(hs_leases_count(leases), live);
    for (uint32_t state = 0; state < STATES; state += 97) CHECK_EQ_INT(is_leased(state), counts[state] > 0);
    for (uint32_t state = 0; state < STATES; state++)
        if (counts[state] > 0) drop(leases, state, counts[state]);
    CHECK_EQ_INT(hs_leases_count(leases), 0);
    CHECK_EQ_INT(tables(), 1);
    end(leases);
}

static void full_count_goes_on_in_another_word(void) {
    hs_leases *leases;
    begin(&leases);
    for (int i = 0; i < 5; i++) add(leases, 1, HS_LEASE_COUNT_MAX);
    CHECK_EQ_INT(hs_leases_count(leases), 5);
    for (int i = 0; i < 5; i++) {
        CHECK(is_leased(1));
        drop(leases, 1, HS_LEASE_COUNT_MAX);
    }
    CHECK(!is_leased(1));
    CHECK_EQ_INT(hs_leases_count(leases), 0);
    end(leases);
}

/* Holds one state all the time and many others in turn, so that its table grows and shrinks under who reads it. */
static void *churn(void *argument) {
    hs_leases *leases = argument;
    for (uint64_t lap = 0; lap < 4; lap++) {
        for (uint64_t n = 0; n < 4000; n++) add(leases, 100 + n, 1);
        for (uint64_t n = 0; n < 4000; n++) drop(leases, 100 + n, 1);
    }
    return NULL;
}

static void what_is_held_all_the_time_is_seen_at_any_time(void) {
    hs_leases *leases;
    begin(&leases);
    add(leases, 1, 1);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, churn, leases);
    for (int i = 0; i < 60; i++) CHECK(is_leased(1));
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    CHECK_EQ_INT(hs_leases_count(leases), 1);
    end(leases);
}

/* A child that waits until it is killed, after `what`. */
static pid_t child_of(hs_leases *leases, void (*what)(hs_leases *)) {
    int ends[2];
    char ready;
    REQUIRE(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        if (what) what(leases);
        (void)!write(ends[1], "x", 1);
        for (;;) pause();
    }
    REQUIRE(child > 0 && read(ends[0], &ready, 1) == 1);
    close(ends[0]);
    close(ends[1]);
    return child;
}

static void child_end(pid_t child) {
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void child_holds_what_it_inherited_whatever_its_parent_does(void) {
    hs_leases *leases;
    begin(&leases);
    add(leases, 1, 1);
    pid_t child = child_of(leases, NULL); /* it does nothing with it */
    drop(leases, 1, 1);
    CHECK(is_leased(1));
    CHECK_EQ_INT(hs_lease_drop_dead(directory), 0);
    hs_leases_withdraw(leases); /* the parent ends */
    CHECK(is_leased(1));
    CHECK_EQ_INT(tables(), 1);
    child_end(child);
    CHECK_EQ_INT(hs_lease_drop_dead(directory), 1);
    CHECK(!is_leased(1));
    end(leases);
}

static void child_publish(hs_leases *leases) {
    if (add(leases, 2, 1) != HS_LEASE_HELD || hs_leases_publish(leases) != HS_OK) _exit(1);
    drop(leases, 1, 1);
}

static void child_that_attaches_has_a_table_of_its_own(void) {
    hs_leases *leases;
    begin(&leases);
    add(leases, 1, 1);
    add(leases, 3, 1);
    pid_t child = child_of(leases, child_publish);
    CHECK_EQ_INT(tables(), 2); /* the one that was shared has gone with the child's hold of it */
    CHECK(is_leased(1) && is_leased(2) && is_leased(3));
    drop(leases, 1, 1);
    drop(leases, 3, 1);
    CHECK(!is_leased(1) && is_leased(2) && is_leased(3));
    child_end(child);
    CHECK(is_leased(2)); /* read to the last: who knows who else held it */
    CHECK_EQ_INT(hs_lease_drop_dead(directory), 1);
    CHECK(!is_leased(2) && !is_leased(3));
    end(leases);
}

static void program_that_a_child_executes_holds_nothing(void) {
    hs_leases *leases;
    begin(&leases);
    add(leases, 1, 1);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sleep", "sleep", "60", (char *)NULL);
        _exit(1);
    }
    drop(leases, 1, 1);
    for (int i = 0; i < 2000 && hs_lease_drop_dead(directory) == 0; i++)
        usleep(1000); /* until it has executed */
    CHECK(!is_leased(1));
    child_end(child);
    end(leases);
}

static void *hold_and_let_go(void *argument) {
    hs_leases *leases = argument;
    for (uint64_t n = 0; n < 20000; n++) {
        add(leases, n % 700, 2);
        drop(leases, n % 700, 1);
        drop(leases, n % 700, 1);
    }
    return NULL;
}

static void threads_count_each_other_right(void) {
    hs_leases *leases;
    begin(&leases);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, hold_and_let_go, leases);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    CHECK_EQ_INT(hs_leases_count(leases), 0);
    end(leases);
}

static void foreign_files_are_passed_over(void) {
    hs_leases *leases;
    begin(&leases);
    add(leases, 1, 1);
    const char *names[] = {"0123456789abcdef", "fedcba9876543210", "note", ".tmp-0123456789abcdef"};
    int at = open(directory, O_RDONLY | O_DIRECTORY), fd[4];
    for (int i = 0; i < 4; i++) {
        fd[i] = openat(at, names[i], O_RDWR | O_CREAT, 0600);
        REQUIRE(fd[i] >= 0);
        hs_lease_header header = {.magic = HS_LEASE_MAGIC, .words = UINT64_C(1) << 60};
        if (i != 1) REQUIRE(write(fd[i], &header, sizeof header) == sizeof header);
        close(fd[i]);
    }
    CHECK(is_leased(1));
    CHECK_EQ_INT(hs_lease_drop_dead(directory), 4);
    CHECK_EQ_INT(hs_lease_drop_dead("/nonexistent/helios"), 0);
    close(at);
    end(leases);
}

static void directory_that_cannot_be_is_an_error(void) {
    hs_leases *leases = NULL;
    CHECK_EQ_INT(hs_leases_open("/nonexistent/helios/leases", &leases), HS_SYSTEM);
    CHECK(leases == NULL);
    hs_leases_close(NULL);
    hs_lease_view_close(NULL);
}

int main(void) {
    RUN(what_is_held_is_seen_and_what_is_let_go_is_not);
    RUN(trust_follows_the_collection_word);
    RUN(one_that_nobody_could_see_is_trusted);
    RUN(random_holds_and_releases_agree_with_plain_counts);
    RUN(full_count_goes_on_in_another_word);
    RUN(what_is_held_all_the_time_is_seen_at_any_time);
    RUN(child_holds_what_it_inherited_whatever_its_parent_does);
    RUN(child_that_attaches_has_a_table_of_its_own);
    RUN(program_that_a_child_executes_holds_nothing);
    RUN(threads_count_each_other_right);
    RUN(foreign_files_are_passed_over);
    RUN(directory_that_cannot_be_is_an_error);
    return hs_test_report();
}
