/* litmus.h - the explorer against small programs whose executions are known or can be counted without it. */
#ifndef LITMUS_H
#define LITMUS_H
#include <stdbool.h>
#include <stdint.h>
/* The known programs, and `random_count` random ones from `seed` on. Prints what is wrong. */
bool litmus(uint64_t seed, uint64_t random_count);
#endif
