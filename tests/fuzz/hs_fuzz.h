/*
 * hs_fuzz: what the fuzz targets share. A target is one file with one function, LLVMFuzzerTestOneInput, that does with
 * some bytes what the library does with bytes that came from shared memory or from disk.
 *
 *   clang -fsanitize=fuzzer,address,undefined      libFuzzer's main drives it: bytes that reach new code are kept
 *   gcc -fsanitize=address,undefined -DHS_FUZZ_REPLAY     the main below runs every file that it is given
 *
 * A target reads its input as a stream of small choices; past its end the choices are zeros, so any bytes are an input.
 * Where a sum or a hash stands in the way, one of the choices is to set it right after everything else was set wrong.
 * What is handed to the library stands in memory of exactly its size, so that a read beyond it is seen.
 */
#ifndef HS_FUZZ_H
#define HS_FUZZ_H

#include "helios_shm.h"
#include "hs_base.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A promise of the library, whatever the bytes. */
#define MUST(cond)                                                                                           \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #cond);                       \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

typedef struct fuzz_input {
    const uint8_t *at;
    size_t left;
} fuzz_input;

/* The next `bytes` (at most 8) as a little-endian number. */
static inline uint64_t fuzz_take(fuzz_input *in, size_t bytes) {
    uint64_t value = 0;
    size_t got = bytes < in->left ? bytes : in->left;
    if (got) memcpy(&value, in->at, got);
    in->at += got;
    in->left -= got;
    return value;
}

static inline bool fuzz_chance(fuzz_input *in) { return fuzz_take(in, 1) & 1; }

/* A number below `bound` (1 or more). */
static inline uint32_t fuzz_below(fuzz_input *in, uint32_t bound) {
    return (uint32_t)(fuzz_take(in, bound <= 256 ? 1 : bound <= 65536 ? 2 : 4) % bound);
}

static inline void *fuzz_memory(size_t size) {
    void *memory = malloc(size ? size : 1);
    if (!memory) abort();
    return memory;
}

/* The next bytes, at most `most`, in memory of exactly their size; the caller frees it. */
static inline uint8_t *fuzz_bytes(fuzz_input *in, size_t most, size_t *size) {
    *size = most < in->left ? most : in->left;
    uint8_t *bytes = fuzz_memory(*size);
    if (*size) memcpy(bytes, in->at, *size);
    in->at += *size;
    in->left -= *size;
    return bytes;
}

#ifdef HS_FUZZ_REPLAY
/* Every file that is named, in turn; its name comes first, so that the last line says which one it was. */
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (!file) {
            perror(argv[i]);
            return 2;
        }
        uint8_t *bytes = fuzz_memory(1 << 20);
        size_t size = fread(bytes, 1, 1 << 20, file);
        uint8_t *exact = fuzz_memory(size);
        memcpy(exact, bytes, size);
        fclose(file);
        free(bytes);
        printf("%s\n", argv[i]);
        fflush(stdout);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    printf("%d inputs, no report\n", argc - 1);
    return 0;
}
#endif
#endif
