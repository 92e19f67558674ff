/* plain.h - the executions of a straight-line program, counted from the definition of the model with no cleverness at all. */
#ifndef PLAIN_H
#define PLAIN_H
#include <stdbool.h>
#include <stdint.h>

enum { PLAIN_THREADS = 3, PLAIN_OPERATIONS = 3 };
typedef struct plain_operation {
    enum { PLAIN_LOAD, PLAIN_STORE, PLAIN_ADD, PLAIN_FENCE } kind;
    int location; /* 0 or 1 */
    unsigned order, value;
} plain_operation;
typedef struct plain_program {
    int count[PLAIN_THREADS];
    plain_operation operations[PLAIN_THREADS][PLAIN_OPERATIONS];
} plain_program;

void plain_program_make(plain_program *program, uint64_t seed);
void plain_program_print(const plain_program *program);
uint64_t plain_executions(const plain_program *program);
#endif
