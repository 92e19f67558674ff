/* mark.c - what the counted process is given beside its program: marks for callgrind, and a clock that nearly stands still.
 *
 * section_begin, section_end: called from Python through ctypes. Callgrind looks at nothing before the first section: so
 * Python starts, and the store is opened, in a tenth of the time.
 *
 * clock_gettime: preloaded, so that it stands before libc's. What a program does by the clock (a commit looks once a second
 * whether a coordinator runs) would make its count one of the machine's load. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

#define SEEN __attribute__((visibility("default")))
enum { NS_A_LOOK = 1000, NS_A_SECOND = 1000000000 };

SEEN int section_is_countable(void) { return (int)RUNNING_ON_VALGRIND; }

SEEN void section_begin(void) {
    static int started;
    if (!started) {
        CALLGRIND_START_INSTRUMENTATION;
        started = 1;
    }
    CALLGRIND_ZERO_STATS;
}

/* What was counted goes to a file of its own, which has the name in it. */
SEEN void section_end(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }

/* The monotonic clock begins right and goes on by a microsecond each time somebody looks; the process has one thread. */
SEEN int clock_gettime(clockid_t clock, struct timespec *now) {
    static struct timespec last;
    if (clock != CLOCK_MONOTONIC) return (int)syscall(SYS_clock_gettime, clock, now);
    if (last.tv_sec == 0 && syscall(SYS_clock_gettime, clock, &last) != 0) return -1;
    last.tv_nsec += NS_A_LOOK;
    if (last.tv_nsec >= NS_A_SECOND) {
        last.tv_nsec -= NS_A_SECOND;
        last.tv_sec++;
    }
    *now = last;
    return 0;
}
