/* test_survey.c - what a segment is can be told from outside, whatever state it is in, and nothing of it is changed. */
#define _GNU_SOURCE
#include <sys/stat.h>
#include "hs_chunk.h"
#include "hs_rig.h"

static char name[64], path[128];
static hs_segment segment;

static void segment_make(uint64_t chunks) {
    static int n;
    hs_segment_config config = rig_config(chunks);
    snprintf(name, sizeof name, "/helios-test-survey-%d-%d", (int)getpid(), n++);
    snprintf(path, sizeof path, "/dev/shm%s", name);
    REQUIRE(hs_segment_create(name, &config, &segment) == HS_OK);
}

static void segment_break(void) {
    CHECK_EQ_INT(hs_segment_unlink(name), HS_OK);
    hs_segment_detach(&segment);
}

static void segment_says_whose_it_is_and_who_takes_part(void) {
    static hs_survey found;
    hs_participant one, two;
    char locks[] = "/tmp/helios-test-XXXXXX";
    int fd = mkstemp(locks);
    REQUIRE(fd >= 0);
    segment_make(5);
    REQUIRE(hs_participant_join(&segment, locks, &one) == HS_OK);
    REQUIRE(hs_participant_join(&segment, locks, &two) == HS_OK);
    hs_participant_leave(&one);
    CHECK_EQ_INT(hs_segment_survey(name, &found), HS_OK);
    CHECK_EQ_INT(found.is_own, 1);
    CHECK_EQ_INT(found.store_uuid[0], 0xab);
    CHECK_EQ_INT(found.boot_id[15], 0xcd);
    CHECK_EQ_INT(found.store_device, 7);
    CHECK_EQ_INT(found.store_inode, 11);
    CHECK_EQ_INT(found.ring_size, 5 * HS_CHUNK_SIZE);
    CHECK_EQ_INT(found.pid_namespace, found.own_pid_namespace);
    CHECK_EQ_INT(found.participants, 1);
    CHECK_EQ_INT(found.slots[0], two.index);
    CHECK_EQ_INT(found.pids[0], getpid());
    CHECK_EQ_INT(found.unpersisted_bytes, 0);
    hs_participant_leave(&two);
    segment_break();
    close(fd);
    unlink(locks);
}

static void bytes_that_only_the_segment_has_are_counted(void) {
    static hs_survey found;
    segment_make(4);
    hs_store_release(&segment.chunks[0].word, hs_chunk_word_make(3, HS_CHUNK_IDLE, 0, 10));
    hs_store_release(&segment.chunks[0].persisted, UINT64_C(3) << 32 | 4); /* 6 units are not in L2 */
    hs_store_release(&segment.chunks[1].word, hs_chunk_word_make(3, HS_CHUNK_SEALED, 0, 10));
    hs_store_release(&segment.chunks[1].persisted, UINT64_C(2) << 32 | 10); /* of an earlier use: all 10 */
    hs_store_release(&segment.chunks[2].word, hs_chunk_word_make(3, HS_CHUNK_FREE, 0, 10));
    CHECK_EQ_INT(hs_segment_survey(name, &found), HS_OK);
    CHECK_EQ_INT(found.unpersisted_bytes, 16 * HS_UNIT);
    segment_break();
}

static void head_that_no_round_has_seen_is_counted(void) {
    static hs_survey found;
    segment_make(4);
    CHECK_EQ_INT(hs_segment_survey(name, &found), HS_OK);
    CHECK_EQ_INT(found.unpersisted_heads, 0); /* all are in L2, if anywhere */
    hs_store_release(&segment.branches[7].head, 42);
    hs_store_release(&segment.branches[9].head, 43);
    hs_store_release(&segment.branches[9].drained, 43);
    CHECK_EQ_INT(hs_segment_survey(name, &found), HS_OK);
    CHECK_EQ_INT(found.unpersisted_heads, 1);
    CHECK_EQ_INT(found.unpersisted_bytes, 0);
    segment_break();
}

static void segment_of_another_build_is_told_from_damage(void) {
    static hs_survey found;
    segment_make(4);
    segment.header->layout_version = HS_LAYOUT_VERSION + 1;
    CHECK_EQ_INT(hs_segment_survey(name, &found), HS_OK);
    CHECK_EQ_INT(found.is_own, 0);
    CHECK_EQ_INT(found.layout_version, HS_LAYOUT_VERSION + 1);
    CHECK_EQ_INT(found.own_layout_version, HS_LAYOUT_VERSION);
    CHECK_EQ_INT(found.own_fingerprint, hs_segment_fingerprint());
    CHECK_EQ_INT(found.store_inode, 11);
    segment.header->layout_version = HS_LAYOUT_VERSION;
    segment.header->participants_offset += 8;
    CHECK_EQ_INT(hs_segment_survey(name, &found), HS_OK);
    CHECK_EQ_INT(found.is_own, 0);
    segment.header->participants_offset -= 8;
    REQUIRE(truncate(path, 4096) == 0); /* the tables are gone */
    CHECK_EQ_INT(hs_segment_survey(name, &found), HS_OK);
    CHECK_EQ_INT(found.is_own, 0);
    CHECK_EQ_INT(hs_segment_unlink(name), HS_OK);
    hs_segment_detach(&segment);
}

static void file_that_is_no_segment_is_said_to_be_none(void) {
    static hs_survey found;
    segment_make(4);
    segment.header->magic = 1;
    CHECK_EQ_INT(hs_segment_survey(name, &found), HS_FORMAT);
    REQUIRE(truncate(path, 100) == 0);
    CHECK_EQ_INT(hs_segment_survey(name, &found), HS_FORMAT);
    CHECK_EQ_INT(hs_segment_unlink(name), HS_OK);
    hs_segment_detach(&segment);
    CHECK_EQ_INT(hs_segment_survey(name, &found), HS_NOT_FOUND);
    REQUIRE(mkdir(path, 0700) == 0);
    CHECK_EQ_INT(hs_segment_survey(name, &found), HS_FORMAT);
    REQUIRE(rmdir(path) == 0);
    REQUIRE(mkfifo(path, 0600) == 0);
    CHECK_EQ_INT(hs_segment_survey(name, &found), HS_FORMAT);
    REQUIRE(unlink(path) == 0);
    CHECK_EQ_INT(hs_segment_survey("no slash", &found), HS_ARGUMENT);
}

int main(void) {
    RUN(segment_says_whose_it_is_and_who_takes_part);
    RUN(bytes_that_only_the_segment_has_are_counted);
    RUN(head_that_no_round_has_seen_is_counted);
    RUN(segment_of_another_build_is_told_from_damage);
    RUN(file_that_is_no_segment_is_said_to_be_none);
    return hs_test_report();
}
