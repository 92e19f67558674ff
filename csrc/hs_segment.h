/* hs_segment.h - create, attach, validate and detach the shared segment. */
#ifndef HS_SEGMENT_H
#define HS_SEGMENT_H
#include "hs_base.h"
#include "hs_layout.h"

#define HS_SEGMENT_DIRECTORY "/dev/shm"

typedef struct hs_segment_config {
    uint8_t store_uuid[16], boot_id[16];
    uint64_t store_device, store_inode;
    uint64_t ring_size; /* bytes; rounded down to chunks; HS_CHUNKS_MIN .. HS_CHUNKS_MAX of them */
    uint32_t ephemeral;
    bool adopt; /* attach: nobody lives who uses it, so whoever attaches says which PID namespace it is of */
} hs_segment_config;

/* A mapping of the segment and the addresses of its parts. */
typedef struct hs_segment {
    uint8_t *base;
    size_t size;
    int fd;
    uint32_t chunk_count, index_mask;
    uint64_t seed[2];
    hs_segment_header *header;
    hs_participant_slot *participants;
    hs_word *branch_tags;
    hs_branch_slot *branches;
    hs_index_bucket *index;
    hs_chunk_slot *chunks;
    hs_chunk_heat *heat; /* by chunk */
    hs_metrics *metrics; /* by participant; the coordinator's at HS_PARTICIPANTS */
    uint8_t *ring;
} hs_segment;

/* Build a segment without a name (so that a death leaves nothing), everything but the ring allocated (posix_fallocate: a full
 * /dev/shm is HS_NO_SPACE, not a signal), then link it as `name` ("/helios-..."), mode 0600. The caller holds the gate.
 * HS_EXISTS if the name is taken. The ring's chunks are allocated when first claimed, or ahead of that by the coordinator. */
int hs_segment_create(const char *name, const hs_segment_config *config, hs_segment *out);
/* The same in private memory (memfd): for a store that cannot be written. */
int hs_segment_create_private(const hs_segment_config *config, hs_segment *out);
/* Map an existing segment: owner and mode must be the effective user and 0600; magic, version, fingerprint, sizes, uuid, boot id, device
 * and inode must be as expected (ring_size and ephemeral are ignored). HS_NOT_FOUND, HS_FORMAT, HS_NO_SPACE, HS_SYSTEM. */
int hs_segment_attach(const char *name, const hs_segment_config *expected, hs_segment *out);
/* Is it of this process's PID namespace? 1, 0 or status. */
int hs_segment_is_of_namespace(const hs_segment *segment);
/* 1: `name` still leads to this mapping's file; 0: not; < 0: status. */
int hs_segment_is_named(const hs_segment *segment, const char *name);
/* Read the header of a segment of whatever store, build and boot, without mapping it. Returns a descriptor to read on with (>= 0);
 * *is_own: it has this build's layout and size, so the offsets in it hold. HS_NOT_FOUND, HS_FORMAT (no segment), HS_SYSTEM. */
int hs_segment_peek(const char *name, hs_segment_header *header, bool *is_own);
int hs_segment_pid_namespace(uint32_t *out); /* this process's; 0: there is but one */
int hs_segment_unlink(const char *name);
/* Unmap and close. Never while another thread uses it. */
void hs_segment_detach(hs_segment *segment);
/* Make sure that the memory of a chunk exists: HS_OK, HS_NO_SPACE or HS_SYSTEM. Idempotent; any process, any time. */
int hs_segment_allocate_chunk(const hs_segment *segment, uint32_t chunk);
/* Make sure that the memory of a participant's metrics exists: the same. */
int hs_segment_allocate_metrics(const hs_segment *segment, uint32_t participant);
/* What two builds must agree on to share a segment: every size and offset of hs_layout.h, in one number. */
uint32_t hs_segment_fingerprint(void);
#endif
