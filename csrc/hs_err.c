/* hs_err.c - one text for each status, and the errno behind HS_SYSTEM. */
#include "hs_err.h"
#include <errno.h>

static _Thread_local int last_errno;

static const char *const texts[] = {
    [-HS_OK] = "success",
    [-HS_NOT_FOUND] = "not found",
    [-HS_MISSING] = "a node or value must be brought from L2",
    [-HS_WAIT] = "no room until the coordinator has persisted and freed some",
    [-HS_CONFLICT] = "edited keys differ between base and head",
    [-HS_MOVED] = "the head is not what was expected",
    [-HS_HEAD_IN_L2] = "the head's record is in L2 only",
    [-HS_DELETED] = "the branch was deleted",
    [-HS_EXISTS] = "exists already",
    [-HS_UNCHANGED] = "nothing to commit",
    [-HS_CORRUPT] = "bytes fail their checksum, hash or canonical form",
    [-HS_FORMAT] = "another layout, fingerprint, boot, store or owner",
    [-HS_FULL] = "no participant slot, or no branch slot, is free",
    [-HS_NO_SPACE] = "shared memory or disk is full",
    [-HS_NO_MEMORY] = "out of memory",
    [-HS_SYSTEM] = "a system call failed",
    [-HS_ARGUMENT] = "a size or pointer is out of its bounds",
    [-HS_SMALL] = "the buffer is too small",
    [-HS_TIMED_OUT] = "the wait ended without its event",
    [-HS_REAPED] = "this process was taken for dead while it appended",
    [-HS_CLOSING] = "the segment is being given up",
    [-HS_CONTENDED] = "a commit lost its race many times in a row",
    [-HS_STOPPED] = "a collection deletes just now",
    [-HS_COLLECTED] = "a collection has deleted since the values were formed",
    [-HS_YIELD] = "it is another operation's turn",
};

const char *hs_strerror(int status) {
    if (status >= 0) return texts[0];
    if (status <= -(int)(sizeof texts / sizeof *texts)) return "unknown status";
    return texts[-status];
}

int hs_errno(void) { return last_errno; }

int hs_err_system(int error) {
    last_errno = error;
    switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return HS_NO_SPACE;
    case ENOMEM:
        return HS_NO_MEMORY;
    default:
        return HS_SYSTEM;
    }
}
