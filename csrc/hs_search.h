/* hs_search.h - the table of a tree search that many processes share: its layout, and how its counts stay exact when one is killed.
 *
 * The functions are declared in helios_shm.h. hs_search_table.c: rows in and out; hs_search_cell.c: how a count changes;
 * hs_search_select.c: which action; hs_search_descend.c: down to a leaf; hs_search_backup.c: back up, taken back, repaired;
 * hs_search_compact.c: what is visited least goes; hs_search_pack.c: what has changed, as a saved search has it.
 *
 *   | header | lanes | index: u32 row + 1 | rows of 64 bytes | slots of 32 bytes |
 *
 *   row r --slots--> | edge 0 | edge 1 | ... |     an edge: {cell, child, prior, rewards, noise}
 *                        |        rewards --> | 4 doubles a slot, one number a player |
 *                        child --> row
 *
 * A row is a state, named by its 32-byte root hash; an edge is one of its actions. Equal states that several processes meet, by
 * whatever moves, share one row. Rows and slots are handed out by counting up, and stay until hs_search_compact, which runs
 * while nobody else touches the table. A row is whole before the index names it (E32), an edge's rewards before its child (E33, E34).
 *
 * What changes is in cells of 16 bytes, changed by one compare-and-swap of all 16 and by nothing else:
 *
 *   {visits:28 in_flight:10 lane:10 op:16}, double value_sum
 *
 * The count of visits of a row is nowhere: it is the sum over its cell and its edges'. A simulation goes down (in_flight + 1 in each
 * edge that it passes) and backs up (in_flight - 1, visits + 1, value_sum + G), one cell after the other.
 *
 * Whose change was it? A lane is the place of one simulation in flight: its path, and a word {serial:32 level:16 state:16}. To change
 * a cell, the lane
 *   1. writes what the change needs (the path; before the way up, the values), then its word {serial + 1, level, PENDING};
 *   2. reads the cell. If the stamp there is that of a change that its lane's word still calls PENDING, and that is to this very
 *      cell, it sets that word to DONE: who overwrites a stamp has borne witness;
 *   3. swaps the cell, with its own stamp {lane, serial mod 2^16}; from 2 again if the cell had changed;
 *   4. goes on: its next word says that this change was made.
 * So of a lane whose process is dead, in a PENDING word: the change was made iff the cell carries its stamp or the word is DONE. hs_search_repair
 * reads them in this order (E31), and then goes on in the lane's place: finishes a backup that had begun, and takes back any
 * other simulation and its ticket. What it does is what the lane would have done, by the same steps, so that it may die too.
 *
 * Stamps name 16 bits of a serial. A lane passes over a serial whose stamp the cell carries already, and a witness looks at the stamp again
 * after it has read the word. So an old stamp is never taken for a new one. One hole is left: a lane that sleeps between reading a cell and
 * swapping it, while another makes a multiple of 2^16 changes which leave that cell as it was to the last bit (so that every simulation
 * which entered it was taken back), overwrites the last of them without having borne witness; it is miscounted if its process is
 * killed before its next word.
 *
 * Invariants: while nobody is in a call, in_flight of an edge is the number of lanes whose path has passed it; a path holds no row
 * twice but as its last, so that in_flight never exceeds the lanes; tickets given = tickets left + simulations backed up + lanes that
 * are out; words of lanes, children, rewards and the index change as drawn and never back, until hs_search_compact.
 *
 * Who may call: any process, any thread; one user of a lane at a time. */
#ifndef HS_SEARCH_H
#define HS_SEARCH_H
#include "helios_shm.h"
#include "hs_atomic.h"
#include "hs_base.h"

#define HS_SEARCH_MAGIC   UINT64_C(0x316372536f696c48) /* "HlioSrc1" */
#define HS_SEARCH_VERSION 1u
#define HS_SEARCH_NO_ROW  UINT32_MAX
#define HS_SEARCH_ROOM    16u /* slots that a table has for each row, unless its size says otherwise */

/* ---- a cell's word ------------------------------------------------------------------------------------------------------ */
#define HS_SEARCH_OP_BITS         16
#define HS_SEARCH_LANE_BITS       10
#define HS_SEARCH_IN_FLIGHT_BITS  10
#define HS_SEARCH_STAMP_MASK      ((UINT64_C(1) << (HS_SEARCH_OP_BITS + HS_SEARCH_LANE_BITS)) - 1)
#define HS_SEARCH_IN_FLIGHT_SHIFT (HS_SEARCH_OP_BITS + HS_SEARCH_LANE_BITS)
#define HS_SEARCH_VISITS_SHIFT    (HS_SEARCH_IN_FLIGHT_SHIFT + HS_SEARCH_IN_FLIGHT_BITS)
#define HS_SEARCH_IN_FLIGHT_ONE   (UINT64_C(1) << HS_SEARCH_IN_FLIGHT_SHIFT)
#define HS_SEARCH_VISITS_ONE      (UINT64_C(1) << HS_SEARCH_VISITS_SHIFT)
/* An edge with so many visits is not entered any more: what is in flight may still be added. */
#define HS_SEARCH_VISITS_FULL     ((UINT32_C(1) << 28) - HS_SEARCH_COUNT_MAX * (HS_SEARCH_LANES_MAX + 1u))

static inline uint32_t hs_search_visits(uint64_t word) { return (uint32_t)(word >> HS_SEARCH_VISITS_SHIFT); }
static inline uint32_t hs_search_in_flight(uint64_t word) {
    return (uint32_t)(word >> HS_SEARCH_IN_FLIGHT_SHIFT) & ((1u << HS_SEARCH_IN_FLIGHT_BITS) - 1);
}
/* The bits of a cell's sum, of a prior, as a number. */
static inline double hs_search_double(uint64_t bits) {
    double number;
    memcpy(&number, &bits, sizeof number);
    return number;
}
static inline uint64_t hs_search_double_bits(double number) {
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}
static inline float hs_search_float(uint32_t bits) {
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}
static inline uint32_t hs_search_float_bits(float number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

/* ---- what stands in the table ----------------------------------------------------------------------------------------- */
typedef struct hs_search_row_data {
    uint8_t id[32];
    uint32_t slots; /* the first one; of a terminal row, its returns */
    uint32_t num_actions;
    hs_word32 shape; /* {kind:8 player:16}; written last: 0 is no row yet */
    hs_word32 made_by;
    hs_pair own; /* evaluations that ended here; the sum is of the row's player */
} hs_search_row_data;
_Static_assert(sizeof(hs_search_row_data) == 64 && offsetof(hs_search_row_data, own) == 48,
               "a row is a cache line, and its cell is aligned");

typedef struct hs_search_edge_data {
    hs_pair cell;
    hs_word32 child;   /* row + 1; 0: none yet. Written once */
    hs_word32 prior;   /* a float's bits: probability */
    hs_word32 rewards; /* slot + 1; 0: all zero. Written once, before child */
    hs_word32 noise;   /* a float's bits: what is added to the prior */
} hs_search_edge_data;
_Static_assert(sizeof(hs_search_edge_data) == 32, "an edge fills a slot");

enum { HS_SEARCH_SLOT_SIZE = 32, HS_SEARCH_SLOT_NUMBERS = 4 };

/* The state of a lane's word. PENDING and DONE are flags of those states that change a cell; the cell follows from state and level. */
enum hs_search_state {
    HS_SEARCH_IDLE = 0,
    HS_SEARCH_OUT = 1, /* level edges are entered; the lane's user expands or evaluates */
    HS_SEARCH_PENDING = 0x10,
    HS_SEARCH_DONE = 0x20,
    HS_SEARCH_TAKE = 0x10, /* a ticket is taken */
    HS_SEARCH_DOWN = 0x11, /* the edge of this level is entered; those above it are */
    HS_SEARCH_UP = 0x12,   /* the cell of this level gets its share; those below it have */
    HS_SEARCH_UNDO = 0x13, /* the edge of this level is left; those below it are */
    HS_SEARCH_GIVE = 0x14  /* the ticket is given back */
};

/* One step of a path: a row, and the cell that was or will be changed there: an edge's, or, where the path ends, the row's own.
 * Cells are counted in units of 16 bytes from the table's begin. */
typedef struct hs_search_step {
    hs_word32 row, cell;
} hs_search_step;

typedef struct hs_search_lane {
    hs_word word; /* {serial:32 level:16 state:16} */
    hs_word32 owner;
    uint32_t number, root, depth,
        count; /* number: of the lane; depth: edges on the path; count: simulations of this backup */
    uint32_t reserved[9];
    double values[HS_SEARCH_PLAYERS_MAX]; /* of the row at the end of the path */
    hs_search_step path[];                /* depth_max + 1 */
} hs_search_lane;
_Static_assert(offsetof(hs_search_lane, values) == 64, "a lane's words share a cache line");

typedef struct hs_search_header {
    uint64_t magic;
    uint32_t version, fingerprint;
    hs_search_config config;
    uint64_t lanes_offset, index_offset, rows_offset, slots_offset; /* bytes */
    uint32_t index_size, slots_max, lane_size, reserved;            /* index_size is a power of two */
    /* A cell: its sum is how many are left, and its visits count its changes, modulo 2^28. */
    _Alignas(64) hs_pair tickets;
    hs_word32 stop;
    _Alignas(64) hs_word rows_next;
    hs_word slots_next;
    hs_word32 full;
    _Alignas(64) hs_word q_least, q_greatest; /* doubles' bits; least > greatest: none was met yet */
} hs_search_header;

/* Where everything stands, for one call. */
typedef struct hs_search_map {
    uint8_t *memory;
    hs_search_header *header;
    hs_word32 *index;
    hs_search_row_data *rows;
    uint8_t *slots;
} hs_search_map;

static inline hs_search_map hs_search_map_of(const void *memory) {
    uint8_t *base = (uint8_t *)(uintptr_t)memory;
    hs_search_header *header = (hs_search_header *)base;
    return (hs_search_map){.memory = base,
                           .header = header,
                           .index = (hs_word32 *)(base + header->index_offset),
                           .rows = (hs_search_row_data *)(base + header->rows_offset),
                           .slots = base + header->slots_offset};
}
static inline hs_search_lane *hs_search_lane_at(const hs_search_map *map, uint32_t lane) {
    return (hs_search_lane *)(map->memory + map->header->lanes_offset +
                              (uint64_t)lane * map->header->lane_size);
}
static inline hs_search_edge_data *hs_search_edges_of(const hs_search_map *map,
                                                      const hs_search_row_data *row) {
    return (hs_search_edge_data *)(map->slots + (uint64_t)row->slots * HS_SEARCH_SLOT_SIZE);
}
static inline double *hs_search_numbers(const hs_search_map *map, uint32_t slot) {
    return (double *)(map->slots + (uint64_t)slot * HS_SEARCH_SLOT_SIZE);
}
static inline hs_pair *hs_search_cell_at(const hs_search_map *map, uint32_t cell) {
    return (hs_pair *)(map->memory + (uint64_t)cell * sizeof(hs_pair));
}
static inline uint32_t hs_search_cell_number(const hs_search_map *map, const hs_pair *cell) {
    return (uint32_t)((uint64_t)((const uint8_t *)cell - map->memory) / sizeof(hs_pair));
}
static inline uint32_t hs_search_slots_for(const hs_search_map *map) { /* of one number a player */
    return (map->header->config.num_players + HS_SEARCH_SLOT_NUMBERS - 1) / HS_SEARCH_SLOT_NUMBERS;
}
static inline uint32_t hs_search_shape(uint32_t kind, int32_t player) {
    return kind << 16 | (uint16_t)player;
}
static inline uint32_t hs_search_shape_kind(uint32_t shape) { return shape >> 16; }
static inline int32_t hs_search_shape_player(uint32_t shape) { return (int16_t)(uint16_t)shape; }
/* Whose values count in a row: chance has none, and counts those of player 0. */
static inline uint32_t hs_search_player(const hs_search_row_data *row) {
    int32_t player = hs_search_shape_player(hs_load32_relaxed(&row->shape));
    return player < 0 ? 0 : (uint32_t)player;
}

static inline uint64_t hs_search_lane_word(uint32_t serial, uint32_t level, uint32_t state) {
    return (uint64_t)serial << 32 | (uint64_t)level << 16 | state;
}
static inline uint32_t hs_search_word_serial(uint64_t word) { return (uint32_t)(word >> 32); }
static inline uint32_t hs_search_word_level(uint64_t word) { return (uint32_t)(word >> 16) & 0xffff; }
static inline uint32_t hs_search_word_state(uint64_t word) { return (uint32_t)word & 0xffff; }
static inline bool hs_search_state_is_pending(uint32_t state) {
    return (state & (HS_SEARCH_PENDING | HS_SEARCH_DONE)) == HS_SEARCH_PENDING;
}

/* ---- hs_search_table.c ------------------------------------------------------------------------------------------------ */
bool hs_search_is_row(const hs_search_map *map, uint32_t row);
/* The place of an id in the index, or the empty one where it would stand: its value in *found. */
hs_word32 *hs_search_probe(const hs_search_map *map, const uint8_t *id, uint32_t *found);
/* Hand out n slots: HS_FULL if there are not so many. */
int hs_search_take_slots(const hs_search_map *map, uint32_t n, uint32_t *first);
/* Rewards into a slot of their own: slot + 1, or 0 if they are NULL or all zero. */
int hs_search_rewards_put(const hs_search_map *map, const double *rewards, uint32_t *slot);

/* ---- hs_search_cell.c ------------------------------------------------------------------------------------------------ */
/* One change of a cell by a lane: the word PENDING, the witness, the swap. False, and the lane idle, if a sum below `least` would be left.
 * after (or NULL): the cell as it is then. */
typedef struct hs_search_change {
    enum hs_search_state state;
    uint32_t level;
    uint64_t counts; /* added to the word */
    double value;    /* added to the sum */
} hs_search_change;
typedef struct hs_search_counts_now {
    uint64_t word;
    double value;
} hs_search_counts_now;
bool hs_search_lane_change(const hs_search_map *map, hs_search_lane *lane, const hs_search_change *change,
                           hs_search_counts_now *after);
/* Was the change of a PENDING or DONE word made? Only of a lane whose process is dead. */
bool hs_search_lane_was_made(const hs_search_map *map, hs_search_lane *lane, uint64_t *word);
/* A word that changes no cell: IDLE, OUT. */
void hs_search_lane_say(hs_search_lane *lane, uint32_t level, enum hs_search_state state);

/* ---- hs_search_select.c ------------------------------------------------------------------------------------------------ */
/* The action to go on by, from a row that has not ended. */
uint32_t hs_search_select(const hs_search_map *map, const hs_search_row_data *row, uint64_t *rng);

/* ---- hs_search_backup.c -------------------------------------------------------------------------------------------------- */
/* The lane is out at the end of its path, with its values: all levels from `level` up to the root get their share; then it is idle. */
void hs_search_backup_from(const hs_search_map *map, hs_search_lane *lane, uint32_t level);
/* `entered` edges are left again, the ticket given back; then the lane is idle. */
void hs_search_undo_from(const hs_search_map *map, hs_search_lane *lane, uint32_t entered);
#endif
