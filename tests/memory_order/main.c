/* main.c - explore the scenarios that are named (all if none is), with some operations weaker than they are written.
 *
 *   explore [--weaken FILE:LINE:BITS]... [--litmus SEED COUNT] [SCENARIO]...
 *
 * Prints a line for each scenario, and the first execution that breaks a promise, event by event. Exit status: 0 all promises kept,
 * 1 one is broken, 2 a weakened line was not run through, 3 the explorer cannot go on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "litmus.h"
#include "runtime.h"
#include "scenarios.h"

static const char *usage =
    "usage: explore [--weaken FILE:LINE:BITS]... [--litmus SEED COUNT] [SCENARIO]...\n";

static void weaken(char *what) {
    char *line = strchr(what, ':'), *bits = line != NULL ? strchr(line + 1, ':') : NULL;
    if (bits == NULL) fputs(usage, stderr), exit(3);
    *line = 0;
    runtime_weaken(what, atoi(line + 1), (unsigned)atoi(bits + 1));
}

static bool is_asked_for(const char *name, int count, char **names) {
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0) return true;
    return count == 0;
}

int main(int count, char **arguments) {
    int i = 1;
    bool good = true;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (; i + 1 < count && strcmp(arguments[i], "--weaken") == 0; i += 2) weaken(arguments[i + 1]);
    for (; i + 2 < count && strcmp(arguments[i], "--litmus") == 0; i += 3)
        good &= litmus((uint64_t)atoll(arguments[i + 1]), (uint64_t)atoll(arguments[i + 2]));
    for (size_t s = 0; s < scenario_count; s++) {
        if (!is_asked_for(scenarios[s].name, count - i, arguments + i)) continue;
        findings found = explore(&scenarios[s]);
        printf("scenario %s (%s): %lu executions, %lu abandoned\n", scenarios[s].name, scenarios[s].about,
               found.executions, found.abandoned);
        good &= !found.violated;
    }
    if (!good) return 1;
    return runtime_weakenings_were_met() ? 0 : 2;
}
