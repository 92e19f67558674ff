/* hs_participant.c - join, leave, and the one question about others: does it live? */
#define _GNU_SOURCE
#include "hs_participant.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "hs_clock.h"
#include "hs_err.h"
#include "hs_step.h"

static struct flock byte_lock(uint32_t index) {
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)index, .l_len = 1};
}

static void slot_fill(hs_participant_slot *slot) {
    hs_store_relaxed(&slot->pid, (uint64_t)getpid());
    hs_store_relaxed(&slot->started_ns, hs_clock_ns(CLOCK_REALTIME));
    hs_store32_relaxed(&slot->inserting, 0);
    hs_store32_relaxed(&slot->committing, 0);
    hs_store32_release(&slot->state, 1); /* E17 (release end) */
}

void hs_participant_none(hs_participant *out) { *out = (hs_participant){.fd = -1, .index = HS_OWNER_NONE}; }

/* Lock the byte of some free slot. Its index, HS_FULL or another status. */
static int slot_lock(const hs_segment *segment, int fd) {
    for (uint32_t n = 0; n < HS_PARTICIPANTS; n++) {
        if (hs_load32_acquire(&segment->participants[n].state) != 0) continue; /* E16 (acquire end) */
        struct flock lock = byte_lock(n);
        if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return (int)n;
        if (errno != EAGAIN && errno != EACCES) return hs_err_system(errno);
    }
    return HS_FULL;
}

int hs_participant_join(hs_segment *segment, const char *path, hs_participant *out) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return hs_err_system(errno);
    int n = slot_lock(segment, fd);
    if (n < 0) {
        close(fd);
        return n;
    }
    HS_STEP(join_locked);
    int status = hs_segment_allocate_metrics(segment, (uint32_t)n);
    if (status != HS_OK) {
        close(fd);
        return status;
    }
    hs_participant_slot *slot = &segment->participants[n];
    slot_fill(slot);
    HS_STEP(join_after);
    *out = (hs_participant){
        .fd = fd, .index = (uint32_t)n, .slot = slot, .metrics = &segment->metrics[(uint32_t)n]};
    return HS_OK;
}

void hs_participant_slot_free(hs_participant_slot *slot) {
    hs_store32_relaxed(&slot->inserting, 0);
    hs_store32_relaxed(&slot->committing, 0);
    hs_store32_release(&slot->state, 0); /* E16 (release end) */
}

void hs_participant_leave(hs_participant *self) {
    if (self->slot != NULL) hs_participant_slot_free(self->slot);
    hs_participant_abandon(self);
}

void hs_participant_abandon(hs_participant *self) {
    if (self->fd >= 0) close(self->fd);
    hs_participant_none(self);
}

int hs_participant_alive(int fd, uint32_t index) {
    struct flock lock = byte_lock(index);
    /* E23 (second end): the kernel lets a lock fall after its owner's last store. */
    if (fcntl(fd, F_OFD_GETLK, &lock) != 0) return hs_err_system(errno);
    return lock.l_type != F_UNLCK;
}
