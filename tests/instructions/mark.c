/* mark.c - tells callgrind where a counted section begins and ends; called from Python through ctypes.
 *
 * Callgrind looks at nothing before the first section: so Python starts, and the store is opened, in a tenth of the
 * time. */
#include <valgrind/callgrind.h>

__attribute__((visibility("default"))) int section_is_countable(void) { return (int)RUNNING_ON_VALGRIND; }

__attribute__((visibility("default"))) void section_begin(void) {
    static int started;
    if (!started) {
        CALLGRIND_START_INSTRUMENTATION;
        started = 1;
    }
    CALLGRIND_ZERO_STATS;
}

/* What was counted goes to a file of its own, which has the name in it. */
__attribute__((visibility("default"))) void section_end(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
