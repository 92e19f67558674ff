/* test_segment.c - a segment is whole or absent, and nobody attaches to what is not his. */
#define _GNU_SOURCE
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include "hs_err.h"
#include "hs_rig.h"

static char name[64];

static void name_make(void) {
    static int n;
    snprintf(name, sizeof name, "/helios-test-%d-%d", (int)getpid(), n++);
}

static void path_of(char path[128]) { snprintf(path, 128, "/dev/shm%s", name); }

static void created_segment_is_attached_by_the_same_store(void) {
    hs_segment_config config = rig_config(4);
    hs_segment a, b;
    name_make();
    REQUIRE(hs_segment_create(name, &config, &a) == HS_OK);
    CHECK_EQ_INT(hs_segment_attach(name, &config, &b), HS_OK);
    CHECK(a.header->nonce == b.header->nonce && memcmp(a.seed, b.seed, sizeof a.seed) == 0);
    CHECK_EQ_INT(b.chunk_count, 4);
    CHECK_EQ_INT(hs_segment_is_named(&b, name), 1);
    hs_store_release(&a.chunks[3].persisted, 42);
    CHECK_EQ_INT(hs_load_acquire(&b.chunks[3].persisted), 42);
    CHECK(hs_load_relaxed(&a.branches[0].head) != hs_load_relaxed(&a.branches[1].head));
    CHECK((hs_load_relaxed(&a.branches[0].head) & HS_WORD_IN_L2) != 0);
    CHECK_EQ_INT(hs_segment_unlink(name), HS_OK);
    CHECK_EQ_INT(hs_segment_unlink(name), HS_NOT_FOUND);
    CHECK_EQ_INT(hs_segment_is_named(&a, name), 0);
    CHECK_EQ_INT(hs_segment_attach(name, &config, &b), HS_NOT_FOUND);
    hs_segment_detach(&a);
    hs_segment_detach(&a);
    hs_segment_detach(&b);
}

static void name_is_given_once(void) {
    hs_segment_config config = rig_config(4);
    hs_segment a, b;
    name_make();
    REQUIRE(hs_segment_create(name, &config, &a) == HS_OK);
    CHECK_EQ_INT(hs_segment_create(name, &config, &b), HS_EXISTS);
    hs_segment_unlink(name);
    REQUIRE(hs_segment_create(name, &config, &b) == HS_OK);
    CHECK_EQ_INT(hs_segment_is_named(&a, name), 0);
    CHECK_EQ_INT(hs_segment_is_named(&b, name), 1);
    hs_segment_unlink(name);
    hs_segment_detach(&a);
    hs_segment_detach(&b);
}

static void name_leads_nowhere_else(void) {
    hs_segment_config config = rig_config(4);
    hs_segment s;
    const char *bad[] = {"", "/", "helios", "/../tmp/x", "/a/b", "/.hidden", NULL};
    for (int i = 0; i < 7; i++) {
        CHECK_EQ_INT(hs_segment_create(bad[i], &config, &s), HS_ARGUMENT);
        CHECK_EQ_INT(hs_segment_attach(bad[i], &config, &s), HS_ARGUMENT);
        CHECK_EQ_INT(hs_segment_unlink(bad[i]), HS_ARGUMENT);
    }
    CHECK_EQ_INT(hs_segment_is_named(&s, "x"), HS_ARGUMENT);
}

static void ring_size_is_bounded(void) {
    hs_segment s;
    hs_segment_config config = rig_config(HS_CHUNKS_MIN - 1);
    CHECK_EQ_INT(hs_segment_create_private(&config, &s), HS_ARGUMENT);
    config = rig_config(HS_CHUNKS_MAX + 1);
    CHECK_EQ_INT(hs_segment_create_private(&config, &s), HS_ARGUMENT);
    config.ring_size = HS_CHUNKS_MIN * HS_CHUNK_SIZE + 12345;
    REQUIRE(hs_segment_create_private(&config, &s) == HS_OK);
    CHECK_EQ_INT(s.chunk_count, HS_CHUNKS_MIN);
    CHECK(s.ring + (size_t)s.chunk_count * HS_CHUNK_SIZE == (const uint8_t *)s.metrics);
    hs_segment_detach(&s);
}

/* Does attaching fail with HS_FORMAT once `size` bytes at `offset` of the header are these? */
static void refused_after_write(size_t offset, const void *bytes, size_t size) {
    hs_segment_config config = rig_config(4);
    hs_segment a, b;
    name_make();
    REQUIRE(hs_segment_create(name, &config, &a) == HS_OK);
    memcpy(a.base + offset, bytes, size);
    CHECK_EQ_INT(hs_segment_attach(name, &config, &b), HS_FORMAT);
    hs_segment_unlink(name);
    hs_segment_detach(&a);
}

static void damaged_header_is_refused(void) {
    uint64_t wrong = UINT64_C(0x1234567890abcdef);
    size_t fields[] = {
        offsetof(hs_segment_header, magic),         offsetof(hs_segment_header, layout_version),
        offsetof(hs_segment_header, fingerprint),   offsetof(hs_segment_header, store_uuid),
        offsetof(hs_segment_header, boot_id),       offsetof(hs_segment_header, store_device),
        offsetof(hs_segment_header, store_inode),   offsetof(hs_segment_header, segment_size),
        offsetof(hs_segment_header, chunk_count),   offsetof(hs_segment_header, index_buckets),
        offsetof(hs_segment_header, ring_offset),   offsetof(hs_segment_header, index_offset),
        offsetof(hs_segment_header, metrics_offset)};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) refused_after_write(fields[i], &wrong, 4);
    uint32_t more = 5; /* a ring that the file has not */
    refused_after_write(offsetof(hs_segment_header, chunk_count), &more, sizeof more);
}

static void another_store_or_boot_is_refused(void) {
    hs_segment_config config = rig_config(4), other;
    hs_segment a, b;
    name_make();
    REQUIRE(hs_segment_create(name, &config, &a) == HS_OK);
    other = config, other.store_uuid[15]++;
    CHECK_EQ_INT(hs_segment_attach(name, &other, &b), HS_FORMAT);
    other = config, other.boot_id[0]++;
    CHECK_EQ_INT(hs_segment_attach(name, &other, &b), HS_FORMAT);
    other = config, other.store_inode++;
    CHECK_EQ_INT(hs_segment_attach(name, &other, &b), HS_FORMAT);
    other = config, other.ring_size *= 2;
    CHECK_EQ_INT(hs_segment_attach(name, &other, &b), HS_OK);
    hs_segment_detach(&b);
    hs_segment_unlink(name);
    hs_segment_detach(&a);
}

static void file_that_is_no_segment_is_refused(void) {
    hs_segment_config config = rig_config(4);
    hs_segment s;
    char path[128];
    name_make();
    path_of(path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0);
    CHECK_EQ_INT(hs_segment_attach(name, &config, &s), HS_FORMAT); /* empty */
    REQUIRE(ftruncate(fd, 1 << 20) == 0);
    CHECK_EQ_INT(hs_segment_attach(name, &config, &s), HS_FORMAT); /* zeros */
    REQUIRE(fchmod(fd, 0644) == 0);
    CHECK_EQ_INT(hs_segment_attach(name, &config, &s), HS_FORMAT); /* readable by others */
    close(fd);
    unlink(path);
    REQUIRE(symlink("/dev/zero", path) == 0);
    CHECK_EQ_INT(hs_segment_attach(name, &config, &s), HS_FORMAT);
    unlink(path);
    REQUIRE(mkdir(path, 0700) == 0);
    CHECK_EQ_INT(hs_segment_attach(name, &config, &s), HS_FORMAT);
    rmdir(path);
}

static void segment_of_another_pid_namespace_is_taken_over_when_nobody_uses_it(void) {
    hs_segment_config config = rig_config(4), taker = rig_config(4);
    hs_segment a, b;
    taker.adopt = true;
    name_make();
    REQUIRE(hs_segment_create(name, &config, &a) == HS_OK);
    CHECK_EQ_INT(hs_segment_is_of_namespace(&a), 1);
    a.header->pid_namespace ^= 1;
    CHECK_EQ_INT(hs_segment_is_of_namespace(&a), 0);
    CHECK_EQ_INT(hs_segment_attach(name, &config, &b), HS_FORMAT);
    REQUIRE(hs_segment_attach(name, &taker, &b) == HS_OK);
    CHECK_EQ_INT(hs_segment_is_of_namespace(&a), 1);
    hs_segment_detach(&b);
    hs_segment_unlink(name);
    hs_segment_detach(&a);
}

static void another_users_segment_is_refused(void) {
    if (geteuid() != 0) return; /* only root can give a file away */
    hs_segment_config config = rig_config(4);
    hs_segment a, b;
    name_make();
    REQUIRE(hs_segment_create(name, &config, &a) == HS_OK);
    REQUIRE(fchown(a.fd, 12345, 12345) == 0);
    CHECK_EQ_INT(hs_segment_attach(name, &config, &b), HS_FORMAT);
    hs_segment_unlink(name);
    hs_segment_detach(&a);
}

/* In a child: a limit on file sizes stands for a full /dev/shm. */
static int with_file_size_limit(uint64_t bytes) {
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {.rlim_cur = bytes, .rlim_max = bytes};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 10;
    hs_segment_config config = rig_config(4);
    hs_segment s;
    return hs_segment_create("/helios-test-limit", &config, &s) == HS_NO_SPACE ? 0 : 11;
}

static int in_child(int (*body)(uint64_t), uint64_t argument) {
    pid_t child = fork();
    if (child == 0) _exit(body(argument));
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100;
}

/* A /dev/shm of its own of so many bytes. 77: not allowed to mount. */
static int with_small_shm(uint64_t bytes) {
    char options[64];
    snprintf(options, sizeof options, "size=%llu", (unsigned long long)bytes);
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return 77;
    if (mount("tmpfs", "/dev/shm", "tmpfs", 0, options) != 0) return 77;
    hs_segment_config config = rig_config(8);
    hs_segment s;
    int status = hs_segment_create("/helios-test-small", &config, &s);
    if (bytes < 1 << 20)
        return status == HS_NO_SPACE && access("/dev/shm/helios-test-small", F_OK) != 0 ? 0 : 12;
    if (status != HS_OK) return 13;
    hs_participant self;
    hs_chunk_writer writer = {0};
    hs_participant_none(&self);
    uint32_t claimed = 0;
    while ((status = hs_chunk_claim(&s, &self, &writer, 100)) == HS_OK) {
        memset(hs_chunk_address(&s, writer.chunk, 0), 1,
               HS_CHUNK_SIZE); /* memory that was promised is there */
        writer.end = HS_CHUNK_UNITS;
        if (hs_chunk_publish(&s, &self, &writer) != HS_OK) return 14;
        hs_chunk_release(&s, &self, &writer, true);
        claimed++;
    }
    hs_segment_detach(&s);
    /* Room for some of the eight: the rest of the ring waits for those; room for none is an error. */
    if (bytes < 4 << 20) return claimed == 0 && status == HS_NO_SPACE ? 0 : 15;
    return claimed > 0 && claimed < 8 && status == HS_WAIT ? 0 : 16;
}

static void full_shared_memory_is_an_error_and_no_signal(void) {
    CHECK_EQ_INT(in_child(with_file_size_limit, 1 << 20), 0);
    const uint64_t sizes[] = {512 << 10, (1 << 20) + (900 << 10), 6 << 20};
    for (int i = 0; i < 3; i++) {
        int result = in_child(with_small_shm, sizes[i]);
        CHECK(result == 0 || result == 77);
        if (result != 0) printf("  %llu bytes of /dev/shm: %d\n", (unsigned long long)sizes[i], result);
    }
}

static void chunk_is_allocated_once(void) {
    hs_segment_config config = rig_config(4);
    hs_segment s;
    REQUIRE(hs_segment_create_private(&config, &s) == HS_OK);
    struct stat before, after;
    fstat(s.fd, &before);
    CHECK_EQ_INT(hs_segment_allocate_chunk(&s, 2), HS_OK);
    CHECK_EQ_INT(hs_segment_allocate_chunk(&s, 2), HS_OK);
    fstat(s.fd, &after);
    CHECK_EQ_INT((after.st_blocks - before.st_blocks) * 512, HS_CHUNK_SIZE);
    CHECK_EQ_INT(hs_load32_relaxed(&s.chunks[2].allocated), 1);
    hs_segment_detach(&s);
}

static void every_status_has_a_text(void) {
    for (int status = HS_OK; status >= HS_YIELD; status--)
        CHECK(strcmp(hs_strerror(status), "unknown status") != 0);
    CHECK(strcmp(hs_strerror(HS_YIELD - 1), "unknown status") == 0);
    CHECK(strcmp(hs_strerror(17), hs_strerror(HS_OK)) == 0);
    CHECK_EQ_INT(hs_err_system(ENOMEM), HS_NO_MEMORY);
    CHECK_EQ_INT(hs_err_system(ENOSPC), HS_NO_SPACE);
    CHECK_EQ_INT(hs_err_system(EPERM), HS_SYSTEM);
    CHECK_EQ_INT(hs_errno(), EPERM);
}

static void steps_are_armed_by_name(void) {
    CHECK_EQ_INT(hs_step_arm("no_such_step", 1, HS_STEP_KILL), HS_ARGUMENT);
    CHECK_EQ_INT(hs_step_arm("claim_before", 0, HS_STEP_KILL), HS_ARGUMENT);
    CHECK_EQ_INT(hs_step_arm("claim_before", 1, 3), HS_ARGUMENT);
    CHECK_EQ_INT(hs_step_arm(NULL, 0, 0), HS_OK);
    CHECK_EQ_INT(hs_step_hit("no_such_step"), HS_ARGUMENT);
    CHECK_EQ_INT(hs_step_hit("txn_before"), HS_OK);
    CHECK(strcmp(hs_step_label(0), "claim_before") == 0);
    CHECK(hs_step_label(-1) == NULL && hs_step_label(HS_STEP_COUNT) == NULL);
    CHECK(hs_step_label(HS_STEP_COUNT - 1) != NULL);
}

static void pass_twice(void *context) {
    hs_step_hit(context);
    hs_step_hit(context);
}

static void armed_step_kills_at_its_nth_passing(void) {
    CHECK(dies_at("txn_before", 2, pass_twice, "txn_before"));
    CHECK(!dies_at("txn_before", 3, pass_twice, "txn_before"));
}

static void armed_step_stops_and_goes_on(void) {
    pid_t child = fork();
    if (child == 0) {
        hs_step_arm("txn_after", 1, HS_STEP_STOP);
        hs_step_hit("txn_after");
        _exit(hs_step_hit("txn_after") == HS_OK ? 5 : 6);
    }
    int status;
    REQUIRE(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    kill(child, SIGCONT);
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
}

int main(void) {
    RUN(created_segment_is_attached_by_the_same_store);
    RUN(name_is_given_once);
    RUN(name_leads_nowhere_else);
    RUN(ring_size_is_bounded);
    RUN(damaged_header_is_refused);
    RUN(another_store_or_boot_is_refused);
    RUN(file_that_is_no_segment_is_refused);
    RUN(segment_of_another_pid_namespace_is_taken_over_when_nobody_uses_it);
    RUN(another_users_segment_is_refused);
    RUN(full_shared_memory_is_an_error_and_no_signal);
    RUN(chunk_is_allocated_once);
    RUN(every_status_has_a_text);
    RUN(steps_are_armed_by_name);
    RUN(armed_step_kills_at_its_nth_passing);
    RUN(armed_step_stops_and_goes_on);
    return hs_test_report();
}
