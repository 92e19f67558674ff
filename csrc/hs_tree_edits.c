/* hs_tree_edits: see hs_tree_edits.h. */
#include "hs_tree_edits.h"
#include "helios_shm.h"

#include <stdlib.h>

#define SMALL      12u /* edits that are sorted by insertion */
#define WORD_BYTES 8u
#define SHORT_MAX                                                                                            \
    (WORD_BYTES + 1u) /* keys that end within one word and look alike differ in size, or are the same */

/* 8 bytes of a key from `depth` on, zeros after its end. */
static inline uint64_t word_at(const hs_edit *edit, size_t depth) {
    const uint8_t *key = edit->key;
    size_t size = edit->key_size, rest = size > depth ? size - depth : 0;
    if (rest >= WORD_BYTES) return __builtin_bswap64(hs_load_u64(key + depth));
    if (rest == 0) return 0;
    if (size >= WORD_BYTES) return __builtin_bswap64(hs_load_u64(key + size - WORD_BYTES)) << (64 - 8 * rest);
    uint64_t word = 0;
    for (size_t i = 0; i < rest; i++) word |= (uint64_t)key[depth + i] << (56 - 8 * i);
    return word;
}

static inline int order_of(const hs_edit *a, const hs_edit *b) {
    return hs_bytes_compare(a->key, a->key_size, b->key, b->key_size);
}

/* By words, by insertion. */
static void words_insert(hs_edit_ref *refs, size_t count) {
    for (size_t i = 1; i < count; i++) {
        hs_edit_ref moved = refs[i];
        size_t at = i;
        for (; at > 0 && refs[at - 1].word > moved.word; at--) refs[at] = refs[at - 1];
        refs[at] = moved;
    }
}

/* Two sorted runs to one, without a branch that depends on the words. */
static void words_merge(const hs_edit_ref *left, const hs_edit_ref *middle, const hs_edit_ref *end,
                        hs_edit_ref *out) {
    const hs_edit_ref *right = middle;
    while (left < middle && right < end) {
        bool take_right = right->word < left->word;
        *out++ = take_right ? *right : *left;
        right += take_right;
        left += !take_right;
    }
    memcpy(out, left, (size_t)((const uint8_t *)middle - (const uint8_t *)left));
    out += middle - left;
    memcpy(out, right, (size_t)((const uint8_t *)end - (const uint8_t *)right));
}

/* By words: runs sorted by insertion, then merged in pairs, from `refs` to `other` and back. */
static void words_sort(hs_edit_ref *refs, hs_edit_ref *other, size_t count) {
    for (size_t start = 0; start < count; start += SMALL)
        words_insert(refs + start, count - start < SMALL ? count - start : SMALL);
    hs_edit_ref *from = refs, *to = other;
    for (size_t width = SMALL; width < count; width *= 2) {
        for (size_t start = 0; start < count; start += 2 * width) {
            size_t middle = count - start < width ? count : start + width;
            size_t end = count - middle < width ? count : middle + width;
            words_merge(from + start, from + middle, from + end, to + start);
        }
        hs_edit_ref *swap = from;
        from = to;
        to = swap;
    }
    if (from != refs) memcpy(refs, from, count * sizeof *refs);
}

/* Of edits whose keys have the same word at `depth`: those that end within it come first, shorter ones before longer.
 * *ended: how many. */
static int short_first(hs_edit_ref *refs, size_t count, size_t depth, size_t *ended) {
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        if (refs[i].edit->key_size > depth + WORD_BYTES) continue;
        if (n == SHORT_MAX) return HS_ARGUMENT;
        hs_edit_ref moved = refs[i];
        refs[i] = refs[n];
        size_t at = n++;
        for (; at > 0 && refs[at - 1].edit->key_size > moved.edit->key_size; at--) refs[at] = refs[at - 1];
        refs[at] = moved;
        if (at > 0 && refs[at - 1].edit->key_size == moved.edit->key_size) return HS_ARGUMENT;
    }
    *ended = n;
    return HS_OK;
}

/* By whole keys, which are alike up to `depth`; HS_ARGUMENT: two are the same. */
static int keys_sort(hs_edit_ref *refs, hs_edit_ref *other, size_t count, size_t depth) {
    while (count > 1) {
        for (size_t i = 0; i < count; i++) refs[i].word = word_at(refs[i].edit, depth);
        words_sort(refs, other, count);
        size_t start = 0, end, ended;
        for (;; start = end) { /* runs of the same word; the last one goes on in this loop */
            for (end = start + 1; end < count && refs[end].word == refs[start].word; end++) {
            }
            ended = 0;
            if (end - start > 1 && short_first(refs + start, end - start, depth, &ended) != HS_OK)
                return HS_ARGUMENT;
            if (end == count) break;
            if (end - start - ended < 2) continue;
            int status = keys_sort(refs + start + ended, other + start + ended, end - start - ended,
                                   depth + WORD_BYTES);
            if (status != HS_OK) return status;
        }
        refs += start + ended;
        other += start + ended;
        count -= start + ended;
        depth += WORD_BYTES;
    }
    return HS_OK;
}

static size_t common_prefix(const hs_edit *edits, size_t count) {
    size_t common = edits[0].key_size;
    for (size_t i = 1; i < count && common; i++) {
        size_t same = 0, most = common < edits[i].key_size ? common : edits[i].key_size;
        while (same < most && edits[i].key[same] == edits[0].key[same]) same++;
        common = same;
    }
    return common;
}

static int room_for(hs_edit_list *list, size_t count) {
    if (count <= list->capacity) return HS_OK;
    hs_edits_free(list);
    list->refs = malloc(count * sizeof *list->refs);
    list->other = malloc(count * sizeof *list->other);
    if (!list->refs || !list->other) {
        hs_edits_free(list);
        return HS_NO_MEMORY;
    }
    list->capacity = count;
    return HS_OK;
}

int hs_edits_take(hs_edit_list *list, const hs_edit *edits, size_t count) {
    bool rising = true;
    for (size_t i = 0; i < count; i++) {
        if (!hs_edit_is_valid(edits + i)) return HS_ARGUMENT;
        if (i && rising) rising = order_of(edits + i - 1, edits + i) < 0;
    }
    int status = room_for(list, count);
    if (status != HS_OK) return status;
    for (size_t i = 0; i < count; i++) list->refs[i] = (hs_edit_ref){0, edits + i};
    list->count = count;
    return rising ? HS_OK : keys_sort(list->refs, list->other, count, common_prefix(edits, count));
}

void hs_edits_free(hs_edit_list *list) {
    free(list->refs);
    free(list->other);
    *list = (hs_edit_list){0};
}
