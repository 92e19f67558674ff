/* leases.c - a table of leases whose image, which is a file's, stands in the shared memory of an exploration. */
#include "hs_lease.c"
#include "rig.h"

static struct hs_leases table;

hs_leases *rig_leases(void) {
    _Static_assert(HS_LEASE_WORDS_MIN * sizeof(uint64_t) <= RING_OFFSET - LEASES_OFFSET, "before the ring");
    table = (struct hs_leases){.table = {.fd = -1}};
    rebuild(&table);
    table.image = (hs_word *)(void *)(shared + LEASES_OFFSET);
    table.collection = &segment.header->collection;
    memset(shared + LEASES_OFFSET, 0, HS_LEASE_WORDS_MIN * sizeof(uint64_t));
    return &table;
}

bool rig_is_leased(char name) {
    uint8_t id[32];
    uint64_t tag = hs_lease_tag(rig_id(name, id));
    uint64_t word = hs_load_relaxed(&table.image[tag & table.mask]);
    return hs_lease_word_tag(word) == tag && hs_lease_word_count(word) != 0;
}
