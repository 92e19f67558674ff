/* hs_tree_edits: the edits of one apply, checked and in the order of their keys. Internal to hs_tree_*.c.
 *
 *   refs     {word, edit} {word, edit} {word, edit} ...        word: 8 bytes of the key, big-endian, zeros after its end
 *
 * Sorting compares words. Edits whose words are equal are sorted by the next 8 bytes, so that a prefix shared by many keys
 * is passed over once and keys themselves are hardly touched. Keys that come in order cost one comparison each.
 *
 * Invariants: the keys of refs rise strictly; refs point to the caller's edits, which outlive them. */
#ifndef HS_TREE_EDITS_H
#define HS_TREE_EDITS_H
#include "hs_tree.h"

typedef struct hs_edit_ref {
    uint64_t word; /* for sorting alone */
    const hs_edit *edit;
} hs_edit_ref;

typedef struct hs_edit_list {
    hs_edit_ref *refs, *other; /* room for `capacity` each */
    size_t count, capacity;
} hs_edit_list;

/* HS_ARGUMENT: an edit that cannot be, or two with the same key. HS_NO_MEMORY. The list begins as zeros. */
int hs_edits_take(hs_edit_list *list, const hs_edit *edits, size_t count);
void hs_edits_free(hs_edit_list *list);

/* Sizes and kind are within their bounds. */
static inline bool hs_edit_is_valid(const hs_edit *edit) {
    const hs_value *value = &edit->value;
    if (edit->key_size < 1 || edit->key_size > HS_KEY_MAX) return false;
    if (edit->remove) return true;
    return value->kind < HS_KIND_COUNT && value->size <= HS_VALUE_SIZE_MAX &&
           value->hashed == (value->size > HS_INLINE_MAX);
}
#endif
