/* hs_survey.c - a segment seen from outside: whose it is, which build made it, who takes part, and what only it has.
 *
 * Read by pread, never mapped: it may be cut short or be without memory. What is read while others write is about no one moment. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include "hs_chunk.h"
#include "hs_err.h"

static int read_at(int fd, void *buffer, size_t size, uint64_t offset) {
    ssize_t got = pread(fd, buffer, size, (off_t)offset);
    if (got < 0) return hs_err_system(errno);
    return (size_t)got == size ? HS_OK : HS_FORMAT;
}

static int survey_participants(int fd, const hs_segment_header *header, hs_survey *out) {
    size_t size = HS_PARTICIPANTS * sizeof(hs_participant_slot);
    hs_participant_slot *slots = malloc(size);
    if (slots == NULL) return HS_NO_MEMORY;
    int status = read_at(fd, slots, size, header->participants_offset);
    for (uint32_t i = 0; status == HS_OK && i < HS_PARTICIPANTS; i++) {
        if (hs_load32_relaxed(&slots[i].state) == 0) continue;
        out->slots[out->participants] = i;
        out->pids[out->participants++] = hs_load_relaxed(&slots[i].pid);
    }
    free(slots);
    return status;
}

/* Heads that no finished round has seen: the record may be in L2, and yet not be known there as the head. */
static int survey_heads(int fd, const hs_segment_header *header, hs_survey *out) {
    size_t size = HS_BRANCH_SLOTS * sizeof(hs_branch_slot);
    hs_branch_slot *slots = malloc(size);
    if (slots == NULL) return HS_NO_MEMORY;
    int status = read_at(fd, slots, size, header->branches_offset);
    for (uint32_t i = 0; status == HS_OK && i < HS_BRANCH_SLOTS; i++) {
        uint64_t head = hs_load_relaxed(&slots[i].head);
        out->unpersisted_heads += (head & HS_WORD_IN_L2) == 0 && head != hs_load_relaxed(&slots[i].drained);
    }
    free(slots);
    return status;
}

static int survey_chunks(int fd, const hs_segment_header *header, hs_survey *out) {
    size_t size = header->chunk_count * sizeof(hs_chunk_slot);
    hs_chunk_slot *chunks = malloc(size);
    if (chunks == NULL) return HS_NO_MEMORY;
    int status = read_at(fd, chunks, size, header->chunks_offset);
    for (uint32_t i = 0; status == HS_OK && i < header->chunk_count; i++)
        out->unpersisted_bytes +=
            hs_chunk_unpersisted(hs_load_relaxed(&chunks[i].word), hs_load_relaxed(&chunks[i].persisted));
    free(chunks);
    return status;
}

static int survey(int fd, const hs_segment_header *header, bool is_own, hs_survey *out) {
    memcpy(out->store_uuid, header->store_uuid, 16);
    memcpy(out->boot_id, header->boot_id, 16);
    out->store_device = header->store_device;
    out->store_inode = header->store_inode;
    out->layout_version = header->layout_version;
    out->fingerprint = header->fingerprint;
    out->own_layout_version = HS_LAYOUT_VERSION;
    out->own_fingerprint = hs_segment_fingerprint();
    out->is_own = is_own;
    int status = hs_segment_pid_namespace(&out->own_pid_namespace);
    if (!is_own || status != HS_OK) return status;
    out->ephemeral = header->ephemeral;
    out->pid_namespace = header->pid_namespace;
    out->ring_size = (uint64_t)header->chunk_count * HS_CHUNK_SIZE;
    out->coordinator_pid = hs_load_relaxed(&header->coordinator_pid);
    status = survey_participants(fd, header, out);
    if (status == HS_OK) status = survey_heads(fd, header, out);
    return status == HS_OK ? survey_chunks(fd, header, out) : status;
}

int hs_segment_survey(const char *name, hs_survey *out) {
    hs_segment_header header;
    bool is_own;
    memset(out, 0, sizeof *out);
    int fd = hs_segment_peek(name, &header, &is_own);
    if (fd < 0) return fd;
    int status = survey(fd, &header, is_own, out);
    close(fd);
    return status;
}
