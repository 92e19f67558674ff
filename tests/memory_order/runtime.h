/* runtime.h - the shared memory of an exploration, and which sites are weaker than written. */
#ifndef RUNTIME_H
#define RUNTIME_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The segment's tables; a table of leases; the ring of four chunks; the locator's file. */
enum {
    LEASES_OFFSET = 1 << 19,
    RING_OFFSET = 1 << 20,
    LOCATOR_OFFSET = 5 << 20,
    SHARED_SIZE = 6 << 20,
    MEMORY_SIZE = 1 << 20
};
extern uint8_t shared[SHARED_SIZE];
/* Bit n: byte n of the participants' file is locked, all the time. */
extern unsigned runtime_living;
/* Bit n: so is this one, until its owner dies. */
extern unsigned runtime_mortal;
/* In a thread: participant n dies. Its stores are done, then the kernel lets its lock fall. */
void runtime_die(int n);

/* In this run the operation at this line does without these bits of enum order. */
void runtime_weaken(const char *file, int line, unsigned bits);
/* Has each of them been run through? Prints those that have not. */
bool runtime_weakenings_were_met(void);
/* Before each execution. */
void runtime_begin(void);
#endif
