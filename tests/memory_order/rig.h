/* rig.h - a small segment in the shared memory of an exploration: four chunks, three participants, one bucket, a locator. */
#ifndef RIG_H
#define RIG_H
#include "hs_branch.h"
#include "hs_drain.h"
#include "hs_lease.h"
#include "hs_locator.h"
#include "model.h"
#include "runtime.h"

#define CHUNKS          4u
#define HEAD_OF_NOTHING (HS_WORD_IN_L2 | 1)

extern hs_segment segment;
extern hs_participant people[3];
extern hs_ring rings[3];
extern hs_drain *drain;
extern hs_locator *locator;
extern hs_drain_round round_seen; /* by rig_collect */

/* All as it was created; participants 0, 1 and 2 have joined. The threads begin after the scenario's begin(), which calls this. */
void rig_begin(void);

/* Entries of eight bytes. Name 0 is that of a record, which has no id. */
const uint8_t *rig_id(char name, uint8_t id[32]);
int rig_put(int who, char name, uint64_t value, bool *added);
int rig_put_record(int who, uint64_t value, uint64_t *place);
int rig_read(uint64_t place, uint64_t *value);
int rig_get(int who, char name, uint64_t *value);

/* Put, flush and release; its place. */
uint64_t rig_store(int who, char name, uint64_t value);
void rig_claim(int who);
void rig_seal(int who);
/* A round of the drain, done. */
void rig_drained(void);
/* Collect and pack; how many entries. */
uint32_t rig_collect(void);

/* Three names of branches, 0 .. 2, whose windows have one home. */
uint32_t rig_names(void);
uint32_t rig_home(void);
uint64_t rig_tag(int name);
int rig_slot_find(int who, int name, uint32_t *slot);
bool rig_slot_is(uint32_t slot, int name);

/* A process's leases; is a state of this name held, as the coordinator reads it? */
hs_leases *rig_leases(void);
bool rig_is_leased(char name);

/* A locator, and a pack of one row in it. */
void rig_locator(void);
void rig_locate(uint64_t pack, char name);
bool rig_is_located(uint64_t pack, char name);
void rig_mark(uint64_t pack, uint8_t boot);
bool rig_is_boot(const hs_locator_info *info, uint8_t boot);
#endif
