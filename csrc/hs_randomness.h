/* hs_randomness.h - would compressing these bytes be in vain? A guess from a sample, for whoever asks before he tries. Pure.
 *
 *   value | 8 bytes ..... 8 bytes ..... 8 bytes ..... (8 samples, evenly spread)     ->  how many of the 64 bytes differ
 *
 * Random bytes have 57 +- 2 different ones among 64, text about 30. Declared in helios_shm.h: hs_looks_random. */
#ifndef HS_RANDOMNESS_H
#define HS_RANDOMNESS_H
#include "hs_base.h"
#endif
