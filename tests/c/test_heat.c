/* test_heat.c - counts of hits by place, and ghosts of misses. */
#include "hs_rig.h"

static uint64_t at(uint32_t chunk, uint32_t offset) { return hs_place_make(1, chunk, offset); }

static void counts_rise_to_three_and_are_taken_once(void) {
    rig r;
    rig_make(&r, 4);
    uint8_t spots[HS_HEAT_SPOTS];
    CHECK(!hs_heat_take(&r.segment, 2, spots));
    hs_heat_touch(&r.segment, at(2, 0));
    for (int i = 0; i < 9; i++) hs_heat_touch(&r.segment, at(2, 65535));
    hs_heat_touch(&r.segment, at(2, 100));
    hs_heat_touch(&r.segment, at(2, 100));
    CHECK(!hs_heat_take(&r.segment, 1, spots));
    CHECK(hs_heat_take(&r.segment, 2, spots));
    for (uint32_t spot = 0; spot < HS_HEAT_SPOTS; spot++) {
        uint32_t hits = spot == 0 ? 1 : spot == 100 / 16 ? 2 : spot == HS_HEAT_SPOTS - 1 ? 3 : 0;
        CHECK_EQ_INT(hs_heat_count(spots[spot]), hits);
    }
    CHECK_EQ_INT(hs_heat_offset(0, spots[0]), 0);
    CHECK_EQ_INT(hs_heat_offset(100 / 16, spots[100 / 16]), 100);
    CHECK_EQ_INT(hs_heat_offset(HS_HEAT_SPOTS - 1, spots[HS_HEAT_SPOTS - 1]), 65535);
    CHECK(!hs_heat_take(&r.segment, 2, spots));
    hs_heat_touch(&r.segment, at(2, 0));
    CHECK(hs_heat_take(&r.segment, 2, spots));
    CHECK_EQ_INT(hs_heat_count(spots[HS_HEAT_SPOTS - 1]), 0);
    rig_break(&r);
}

static void of_two_entries_at_one_spot_the_last_hit_counts(void) {
    rig r;
    rig_make(&r, 4);
    uint8_t spots[HS_HEAT_SPOTS];
    for (int i = 0; i < 3; i++) hs_heat_touch(&r.segment, at(0, 32));
    hs_heat_touch(&r.segment, at(0, 40));
    CHECK(hs_heat_take(&r.segment, 0, spots));
    CHECK_EQ_INT(hs_heat_offset(2, spots[2]), 40);
    CHECK_EQ_INT(hs_heat_count(spots[2]), 1);
    rig_break(&r);
}

/* Is thing n, missed once more, admitted for its own sake? */
static bool admitted(rig *r, uint64_t n) {
    thing t = thing_make(n, 64);
    hs_store32_relaxed(&r->segment.header->regret, 0);
    return hs_heat_admit(&r->segment, t.id);
}

static void cold_ring_admits_any_miss_and_a_hot_one_the_second(void) {
    rig r;
    rig_make(&r, 4);
    uint32_t at_once = 0, again = 0, late = 0, forgotten = 0;
    CHECK(admitted(&r, 0));
    hs_heat_kept(&r.segment, HS_CHUNK_UNITS / 2);
    CHECK(admitted(&r, 0)); /* missed before, whatever the ring was like then */
    for (uint64_t n = 1; n <= 1000; n++) {
        at_once += admitted(&r, n);
        again += admitted(&r, n);
    }
    CHECK(at_once < 20); /* another id's ghost may look like it */
    CHECK_EQ_INT(again, 1000);
    for (uint64_t n = 1; n <= 1000; n++) late += admitted(&r, n);
    CHECK(late > 700 && late < 1000); /* newer ghosts took the places of some */
    for (uint64_t n = 2000; n < 40000; n++) admitted(&r, n);
    for (uint64_t n = 1; n <= 1000; n++) forgotten += admitted(&r, n);
    CHECK(forgotten < 50);
    rig_break(&r);
}

static void repeated_misses_open_the_ring_to_any_miss(void) {
    rig r;
    rig_make(&r, 4);
    hs_heat_kept(&r.segment, HS_CHUNK_UNITS / 2);
    for (uint64_t n = 0; n < 1000; n++) { /* all misses are first ones */
        thing t = thing_make(n, 64);
        hs_heat_admit(&r.segment, t.id);
    }
    thing t = thing_make(1000, 64);
    CHECK(!hs_heat_admit(&r.segment, t.id));
    for (int i = 0; i < 300; i++) CHECK(hs_heat_admit(&r.segment, t.id));
    uint32_t entered = 0;
    for (uint64_t n = 2000; n < 2100; n++) {
        t = thing_make(n, 64);
        entered += hs_heat_admit(&r.segment, t.id);
    }
    CHECK_EQ_INT(entered, 100);
    for (int i = 0; i < 5000; i++) hs_heat_admit(&r.segment, t.id);
    CHECK(hs_load32_relaxed(&r.segment.header->regret) <= 65536);
    rig_break(&r);
}

int main(void) {
    RUN(counts_rise_to_three_and_are_taken_once);
    RUN(of_two_entries_at_one_spot_the_last_hit_counts);
    RUN(cold_ring_admits_any_miss_and_a_hot_one_the_second);
    RUN(repeated_misses_open_the_ring_to_any_miss);
    return hs_test_report();
}
