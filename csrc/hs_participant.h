/* hs_participant.h - one slot a process; an OFD lock on byte n of the participants file says that slot n's owner lives.
 *
 *   file:   byte  0    1    2    3 ...        locked by the open file description that the process holds
 *   segment: slot 0    1    2    3 ...        state: freed by its owner when it leaves, by the coordinator when it died
 *
 * Invariant: a slot whose state is "taken" and whose byte is not locked belongs to a dead process. */
#ifndef HS_PARTICIPANT_H
#define HS_PARTICIPANT_H
#include "hs_segment.h"

typedef struct hs_participant {
    int fd;                    /* the open file description that holds the lock; -1: not joined */
    uint32_t index;            /* slot; HS_OWNER_NONE: not joined (private segment, coordinator) */
    hs_participant_slot *slot; /* NULL: not joined */
    hs_metrics *metrics;       /* where it counts, alone; NULL: nowhere */
} hs_participant;

/* One that has no slot: for a segment that nobody else sees. */
void hs_participant_none(hs_participant *out);
/* Open `path` (created 0600 if need be), lock the byte of a slot whose state is free, fill the slot. HS_FULL if there is none
 * (slots of the dead are freed by the coordinator, not here). HS_NO_SPACE, HS_SYSTEM. The caller holds the gate. */
int hs_participant_join(hs_segment *segment, const char *path, hs_participant *out);
/* Free the slot, then drop the lock. The chunk was released before. */
void hs_participant_leave(hs_participant *self);
/* In a forked child: close the inherited descriptor at once, since the lock belongs to the description that both share. */
void hs_participant_abandon(hs_participant *self);
/* Free a slot. By its owner, or by the coordinator when the owner is dead. What was counted stays for the next owner to add to. */
void hs_participant_slot_free(hs_participant_slot *slot);
/* Does slot n's owner live? Looks (F_OFD_GETLK) through any descriptor of the file other than the owner's; takes nothing.
 * 1 yes, 0 no, < 0 status. */
int hs_participant_alive(int fd, uint32_t index);
#endif
