/*
 * hs_blake3: the tree, the queue of lanes, and the portable kernel. See hs_blake3.h for the picture.
 *
 *   tree    groups of 64 chunks; inside a group the chaining values are paired level by level, several
 *           parents abreast, an odd one moving up as it is; roots of groups wait on a stack that holds one
 *           per set bit of the number of groups so far, as in a binary counter. Both give the tree of the
 *           specification: the left subtree of every node is the largest power of two of chunks that leaves
 *           something for the right.
 *   queue   up to 16 one-chunk messages advance together, one block a step; a lane that ends takes the next
 *           message at once, and when there is none the last lane moves into its place.
 */
#include "hs_blake3.h"

#include <assert.h>

#include "hs_blake3_kernel.h"

const uint32_t hs_b3_iv[8] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                              0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};

/* ---- portable kernel ---- */

static inline uint32_t rotr(uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

/* clang-format off */
#define G(a, b, c, d, x, y)                                                      \
    do {                                                                         \
        v[a] += v[b] + m[x]; v[d] = rotr(v[d] ^ v[a], 16);                       \
        v[c] += v[d];        v[b] = rotr(v[b] ^ v[c], 12);                       \
        v[a] += v[b] + m[y]; v[d] = rotr(v[d] ^ v[a], 8);                        \
        v[c] += v[d];        v[b] = rotr(v[b] ^ v[c], 7);                        \
    } while (0)
/* clang-format on */

static void portable_compress(const void *from, const uint8_t *block, const uint32_t row3[4], void *to) {
    uint32_t v[16], m[16], cv[8];
    memcpy(cv, from, sizeof cv);
    memcpy(v, cv, sizeof cv);
    memcpy(v + 8, hs_b3_iv, 16);
    memcpy(v + 12, row3, 16);
    memcpy(m, block, sizeof m);
    HS_B3_ROUNDS();
    for (size_t i = 0; i < 8; i++) cv[i] = v[i] ^ v[i + 8];
    memcpy(to, cv, sizeof cv);
}

static inline __attribute__((always_inline)) void portable_blocks(const hs_b3_run *run, bool copy) {
    size_t last = hs_blake3_blocks(run->size) - 1;
    uint32_t cv[8];
    memcpy(cv, run->start, sizeof cv);
    uint32_t row3[4] = {(uint32_t)run->counter, (uint32_t)(run->counter >> 32), HS_BLAKE3_BLOCK, 0};
    for (size_t b = run->from; b < last; b++) {
        row3[3] = b == 0 ? HS_B3_CHUNK_START : 0;
        portable_compress(cv, run->in + 64 * b, row3, cv);
        if (run->trail) memcpy(run->trail[b + 1], cv, sizeof cv);
        if (copy) hs_b3_copy_block(run, b);
    }
    uint8_t tail[HS_BLAKE3_BLOCK] = {0};
    size_t tail_size = run->size - 64 * last;
    if (tail_size) memcpy(tail, run->in + 64 * last, tail_size);
    row3[2] = (uint32_t)tail_size;
    row3[3] = run->end_flags | (last == 0 ? HS_B3_CHUNK_START : 0);
    portable_compress(cv, tail, row3, run->out);
}

static void portable_run(const hs_b3_run *run) { portable_blocks(run, false); }
static void portable_run_copy(const hs_b3_run *run) { portable_blocks(run, true); }

static void portable_step(const hs_b3_lane *lane, size_t n) {
    for (size_t i = 0; i < n; i++) portable_compress(lane[i].from, lane[i].block, lane[i].row3, lane[i].to);
}

static const hs_b3_kernel portable = {portable_run, portable_run_copy, portable_step, NULL, 1};

/* ---- choice of kernel ---- */

static const hs_b3_kernel *kernel = &portable;

static const hs_b3_kernel *kernel_find(hs_blake3_kernel which) {
    if (which == HS_BLAKE3_PORTABLE) return &portable;
#ifdef HS_B3_X86
    __builtin_cpu_init();
    if (which == HS_BLAKE3_SSE41 && __builtin_cpu_supports("sse4.1")) return &hs_b3_sse41;
    if (which == HS_BLAKE3_AVX2 && __builtin_cpu_supports("avx2")) return &hs_b3_avx2;
    if (which == HS_BLAKE3_AVX512 && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
        return &hs_b3_avx512;
#endif
    return NULL;
}

bool hs_blake3_select(hs_blake3_kernel which) {
    const hs_b3_kernel *found = kernel_find(which);
    if (found) kernel = found;
    return found != NULL;
}

__attribute__((constructor)) static void kernel_choose(void) {
    for (int which = HS_BLAKE3_KERNELS - 1; !hs_blake3_select((hs_blake3_kernel)which); which--) {
    }
}

/* ---- queue ---- */

/* What the queue knows about a lane beyond its next compression. */
typedef struct hs_b3_slot {
    const uint8_t *last; /* the final block, padded */
    uint8_t *out;
    size_t left; /* blocks still to do, this one included */
    uint32_t last_size, end_flags;
    bool keep; /* every chaining value has its own place: `to` moves on by 32 bytes a block */
    uint32_t cv[8];
    uint8_t tail[HS_BLAKE3_BLOCK];
} hs_b3_slot;

/*
 * Where lanes get their messages from: the one-chunk jobs of an array, or consecutive chunks of one message.
 */
typedef struct source {
    const hs_blake3_job *job, *job_end;
    const uint8_t *in;
    size_t size;
    uint64_t counter;
    uint8_t *out;
} source;

/* The next block of this lane is its last one. */
static void lane_finish(hs_b3_lane *lane) {
    lane->block = lane->slot->last;
    lane->row3[2] = lane->slot->last_size;
    lane->row3[3] |= lane->slot->end_flags;
    lane->to = lane->slot->out;
}

static void lane_start(hs_b3_lane *lane, const uint8_t *in, size_t size, uint64_t counter,
                       uint32_t (*cv)[8]) {
    hs_b3_slot *slot = lane->slot;
    slot->left = hs_blake3_blocks(size);
    slot->last_size = (uint32_t)(size - 64 * (slot->left - 1));
    slot->last = in + 64 * (slot->left - 1);
    if (slot->last_size < HS_BLAKE3_BLOCK) {
        memset(slot->tail, 0, sizeof slot->tail);
        if (slot->last_size) memcpy(slot->tail, slot->last, slot->last_size);
        slot->last = slot->tail;
    }
    slot->keep = cv != NULL;
    if (cv) memcpy(cv[0], hs_b3_iv, sizeof hs_b3_iv);
    lane->row3[0] = (uint32_t)counter;
    lane->row3[1] = (uint32_t)(counter >> 32);
    lane->row3[2] = HS_BLAKE3_BLOCK;
    lane->row3[3] = HS_B3_CHUNK_START;
    lane->block = in;
    lane->from = hs_b3_iv;
    lane->to = cv && slot->left > 1 ? cv[1] : slot->cv;
    if (slot->left == 1) lane_finish(lane);
}

/* Gives the lane the next message; false if there is none. */
static bool lane_take(hs_b3_lane *lane, source *src) {
    if (src->size) {
        size_t size = src->size < HS_BLAKE3_CHUNK ? src->size : HS_BLAKE3_CHUNK;
        lane->slot->end_flags = HS_B3_CHUNK_END;
        lane->slot->out = src->out;
        lane_start(lane, src->in, size, src->counter++, NULL);
        src->in += size;
        src->size -= size;
        src->out += HS_HASH_SIZE;
        return true;
    }
    for (; src->job < src->job_end; src->job++) {
        const hs_blake3_job *job = src->job;
        if (job->size <= HS_BLAKE3_CHUNK) {
            lane->slot->end_flags = HS_B3_CHUNK_END | HS_B3_ROOT;
            lane->slot->out = job->out;
            lane_start(lane, job->in, job->size, 0, job->cv);
            src->job++;
            return true;
        }
        assert(!job->cv);
        hs_blake3(job->in, job->size, job->out);
    }
    return false;
}

/* After a block that was not the last. */
static inline void lane_advance(hs_b3_lane *lane) {
    lane->row3[3] = 0;
    lane->block += HS_BLAKE3_BLOCK;
    lane->from = lane->to;
    if (lane->slot->keep) lane->to = (uint8_t *)lane->to + HS_HASH_SIZE;
    if (lane->slot->left == 1) lane_finish(lane);
}

static void queue_run(source *src) {
    hs_b3_slot slots[HS_B3_LANES_MAX];
    hs_b3_lane lanes[HS_B3_LANES_MAX];
    size_t n = 0;
    while (n < kernel->lanes) {
        lanes[n].slot = &slots[n];
        if (!lane_take(&lanes[n], src)) break;
        n++;
    }
    while (n > 0) {
        kernel->step(lanes, n);
        for (size_t i = 0; i < n;) {
            if (HS_LIKELY(--lanes[i].slot->left > 0))
                lane_advance(&lanes[i++]);
            else if (lane_take(&lanes[i], src))
                i++;
            else
                lanes[i] = lanes[--n];
        }
    }
}

/* ---- tree ---- */

enum { GROUP_CHUNKS = 64, GROUP_SIZE = GROUP_CHUNKS * HS_BLAKE3_CHUNK, STACK_MAX = 64 };

/*
 * n parents: in[2i], in[2i+1] -> out[i]; out may be in, as every pair is read before or when its place is
 * written.
 */
static void parents(uint8_t (*in)[HS_HASH_SIZE], size_t n, uint32_t flags, uint8_t (*out)[HS_HASH_SIZE]) {
    hs_b3_lane lanes[HS_B3_LANES_MAX];
    for (size_t done = 0; done < n;) {
        size_t now = n - done < kernel->lanes ? n - done : kernel->lanes;
        for (size_t i = 0; i < now; i++)
            lanes[i] = (hs_b3_lane){.row3 = {0, 0, HS_BLAKE3_BLOCK, flags},
                                    .block = in[2 * (done + i)],
                                    .from = hs_b3_iv,
                                    .to = out[done + i]};
        kernel->step(lanes, now);
        done += now;
    }
}

/*
 * Root of a group, 1 <= size <= GROUP_SIZE; root_flag is HS_B3_ROOT if the group, then above one chunk, is
 * the message.
 */
static void group_hash(const uint8_t *in, size_t size, uint64_t counter, uint32_t root_flag,
                       uint8_t out[32]) {
    uint8_t cv[GROUP_CHUNKS][HS_HASH_SIZE];
    size_t n = (size + HS_BLAKE3_CHUNK - 1) / HS_BLAKE3_CHUNK, done = 0;
    if (n == 0) __builtin_unreachable();
    if (kernel->chunks8)
        for (; size - done * HS_BLAKE3_CHUNK >= 8 * HS_BLAKE3_CHUNK; done += 8)
            kernel->chunks8(in + done * HS_BLAKE3_CHUNK, counter + done, cv[done]);
    if (done < n) {
        source rest = {.in = in + done * HS_BLAKE3_CHUNK,
                       .size = size - done * HS_BLAKE3_CHUNK,
                       .counter = counter + done,
                       .out = cv[done]};
        queue_run(&rest);
    }
    while (n > 2) {
        parents(cv, n / 2, HS_B3_PARENT, cv);
        if (n & 1) memcpy(cv[n / 2], cv[n - 1], HS_HASH_SIZE);
        n = (n + 1) / 2;
    }
    if (n == 2) parents(cv, 1, HS_B3_PARENT | root_flag, cv);
    memcpy(out, cv[0], HS_HASH_SIZE);
}

static void message_hash(const uint8_t *in, size_t size, uint8_t out[32]) {
    uint8_t stack[STACK_MAX][HS_HASH_SIZE];
    size_t depth = 0;
    uint64_t groups = 0;
    for (; size > GROUP_SIZE; in += GROUP_SIZE, size -= GROUP_SIZE) {
        group_hash(in, GROUP_SIZE, groups * GROUP_CHUNKS, 0, stack[depth++]);
        groups++;
        for (uint64_t n = groups; (n & 1) == 0; n >>= 1) {
            depth--;
            parents(&stack[depth - 1], 1, HS_B3_PARENT, &stack[depth - 1]);
        }
    }
    group_hash(in, size, groups * GROUP_CHUNKS, groups ? 0 : HS_B3_ROOT, stack[depth]);
    for (; depth > 0; depth--)
        parents(&stack[depth - 1], 1, HS_B3_PARENT | (depth == 1 ? HS_B3_ROOT : 0), &stack[depth - 1]);
    memcpy(out, stack[0], HS_HASH_SIZE);
}

/* ---- public ---- */

void hs_blake3(const uint8_t *in, size_t size, uint8_t out[32]) {
    if (HS_UNLIKELY(size > HS_BLAKE3_CHUNK)) {
        message_hash(in, size, out);
        return;
    }
    kernel->run(&(hs_b3_run){
        .in = in, .size = size, .end_flags = HS_B3_CHUNK_END | HS_B3_ROOT, .start = hs_b3_iv, .out = out});
}

uint64_t hs_blake3_copy(const uint64_t seed[2], const uint8_t *in, size_t size, uint8_t *dst,
                        uint8_t out[32]) {
    assert(size <= HS_BLAKE3_CHUNK);
    sum_state sum = sum_begin(seed);
    kernel->run_copy(&(hs_b3_run){.in = in,
                                  .size = size,
                                  .end_flags = HS_B3_CHUNK_END | HS_B3_ROOT,
                                  .start = hs_b3_iv,
                                  .out = out,
                                  .copy = dst,
                                  .sum = &sum});
    size_t last = HS_BLAKE3_BLOCK * (hs_blake3_blocks(size) - 1);
    if (size - last == HS_BLAKE3_BLOCK)
        sum_stripe(&sum, true, dst + last, in + last);
    else
        sum_rest(&sum, true, dst + last, in + last, size - last);
    return sum_end(&sum, size);
}

void hs_blake3_resume(const uint8_t *in, size_t size, uint32_t (*cv)[8], size_t from, uint8_t out[32]) {
    assert(size <= HS_BLAKE3_CHUNK && from < hs_blake3_blocks(size));
    if (from == 0) memcpy(cv[0], hs_b3_iv, sizeof hs_b3_iv);
    kernel->run(&(hs_b3_run){.in = in,
                             .size = size,
                             .end_flags = HS_B3_CHUNK_END | HS_B3_ROOT,
                             .from = from,
                             .start = cv[from],
                             .trail = cv,
                             .out = out});
}

void hs_blake3_many(const hs_blake3_job *jobs, size_t count) {
    if (count == 1 && !jobs->cv) {
        hs_blake3(jobs->in, jobs->size, jobs->out);
        return;
    }
    queue_run(&(source){.job = jobs, .job_end = jobs + count});
}
