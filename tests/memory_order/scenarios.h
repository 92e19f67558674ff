/* scenarios.h - what is explored. */
#ifndef SCENARIOS_H
#define SCENARIOS_H
#include "model.h"
extern const scenario scenarios[];
extern const size_t scenario_count;
#endif
