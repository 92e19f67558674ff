/*
 * hs_test: the few macros all C tests share. A test is a static function of no arguments whose name says a
 * behaviour.
 *
 *   int main(void) { RUN(reader_sees_what_was_published); return hs_test_report(); }
 *
 * CHECK and its kin note a failure and go on; REQUIRE ends the program, for what the rest cannot do without.
 * They may be used from several threads at once.
 */
#ifndef HS_TEST_H
#define HS_TEST_H

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HS_TEST_SHOWN_MAX = 10 };

static atomic_int hs_test_failures; /* of the running test */
static int hs_test_passed, hs_test_failed;

/* Counts a failure; true if it should still be printed. */
static inline int hs_test_fail(void) { return atomic_fetch_add(&hs_test_failures, 1) < HS_TEST_SHOWN_MAX; }

#define CHECK(cond)                                                                                          \
    do {                                                                                                     \
        if (!(cond) && hs_test_fail()) printf("  %s:%d: not true: %s\n", __FILE__, __LINE__, #cond);         \
    } while (0)

/* Integers of any type; shown as signed and as hexadecimal. */
#define CHECK_EQ_INT(got, want)                                                                              \
    do {                                                                                                     \
        long long got_ = (long long)(got), want_ = (long long)(want);                                        \
        if (got_ != want_ && hs_test_fail())                                                                 \
            printf("  %s:%d: %s is %lld (0x%llx), should be %lld (0x%llx)\n", __FILE__, __LINE__, #got,      \
                   got_, (unsigned long long)got_, want_, (unsigned long long)want_);                        \
    } while (0)

#define CHECK_EQ_MEM(got, want, size)                                                                        \
    do {                                                                                                     \
        if (memcmp((got), (want), (size)) != 0 && hs_test_fail())                                            \
            printf("  %s:%d: %s differs from %s\n", __FILE__, __LINE__, #got, #want);                        \
    } while (0)

#define REQUIRE(cond)                                                                                        \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            printf("  %s:%d: cannot go on without: %s\n", __FILE__, __LINE__, #cond);                        \
            exit(2);                                                                                         \
        }                                                                                                    \
    } while (0)

#define RUN(test) hs_test_run(#test, test)

static inline void hs_test_run(const char *name, void (*test)(void)) {
    atomic_store(&hs_test_failures, 0);
    test();
    int failures = atomic_load(&hs_test_failures);
    if (failures)
        hs_test_failed++;
    else
        hs_test_passed++;
    printf("%s ", failures ? "FAIL" : "ok  ");
    for (const char *c = name; *c; c++) putchar(*c == '_' ? ' ' : *c);
    if (failures > HS_TEST_SHOWN_MAX) printf(" (%d failed checks)", failures);
    putchar('\n');
    fflush(stdout);
}

/* The last line, and the exit code of main. */
static inline int hs_test_report(void) {
    printf("%d passed, %d failed\n", hs_test_passed, hs_test_failed);
    return hs_test_failed ? 1 : 0;
}

#endif
