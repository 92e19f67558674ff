/* test_files: batches of work on files below a directory; what they must not touch is looked at by plain system calls. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include "hs_blake3.h"
#include "hs_files.h"
#include "hs_node.h"
#include "hs_test.h"

enum { MANY = 500 };
static char place[] = "/tmp/hs-files-XXXXXX";
static char inside[64], outside[64];
static int root;

static int forget(const char *path, const struct stat *status, int type, struct FTW *where) {
    (void)status, (void)type, (void)where;
    return remove(path);
}

static void begin(void) {
    strcpy(place, "/tmp/hs-files-XXXXXX");
    REQUIRE(mkdtemp(place));
    snprintf(inside, sizeof inside, "%s/in", place);
    snprintf(outside, sizeof outside, "%s/out", place);
    REQUIRE(mkdir(inside, 0755) == 0 && mkdir(outside, 0755) == 0);
    root = open(inside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    REQUIRE(root >= 0);
}

static void end(void) {
    close(root);
    nftw(place, forget, 8, FTW_DEPTH | FTW_PHYS);
}

static hs_files_job job_of(uint32_t what, const char *path, const char *bytes) {
    return (hs_files_job){
        .what = what, .path = path, .bytes = (const uint8_t *)bytes, .size = bytes ? strlen(bytes) : 0};
}

/* Do one job; its error. */
static int once(uint32_t what, const char *path, const char *bytes) {
    hs_files_job job = job_of(what, path, bytes);
    hs_files_do(root, &job, 1);
    hs_files_free(&job, 1);
    return job.error;
}

static void holds(const char *name, const char *bytes, unsigned mode) {
    char found[256] = "";
    struct stat s;
    int fd = openat(root, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    REQUIRE(fd >= 0);
    CHECK_EQ_INT(read(fd, found, sizeof found), strlen(bytes));
    CHECK_EQ_MEM(found, bytes, strlen(bytes));
    CHECK(fstat(fd, &s) == 0 && (s.st_mode & 0100) == (mode & 0100));
    close(fd);
}

static void files_are_made_replaced_and_removed(void) {
    begin();
    CHECK_EQ_INT(once(HS_FILES_MAKE, "d", NULL), 0);
    CHECK_EQ_INT(once(HS_FILES_MAKE, "d", NULL), 0);
    CHECK_EQ_INT(once(HS_FILES_WRITE, "d/a", "one"), 0);
    holds("d/a", "one", 0);
    CHECK_EQ_INT(once(HS_FILES_WRITE, "d/a", "two"), EEXIST);
    CHECK_EQ_INT(once(HS_FILES_WRITE | HS_FILES_REPLACE | HS_FILES_EXECUTABLE, "d/a", "three"), 0);
    holds("d/a", "three", 0100);
    CHECK_EQ_INT(once(HS_FILES_MAKE, "d/a", NULL), ENOTDIR);
    CHECK_EQ_INT(once(HS_FILES_REMOVE_DIR, "d", NULL), ENOTEMPTY);
    CHECK_EQ_INT(once(HS_FILES_REMOVE, "d", NULL), EISDIR);
    CHECK_EQ_INT(once(HS_FILES_REMOVE, "d/a", NULL), 0);
    CHECK_EQ_INT(once(HS_FILES_REMOVE, "d/a", NULL), 0);
    CHECK_EQ_INT(once(HS_FILES_REMOVE_DIR, "d", NULL), 0);
    CHECK_EQ_INT(once(HS_FILES_WRITE, "d/a", "x"), ENOENT);
    CHECK_EQ_INT(once(15, "a", NULL), EINVAL);
    end();
}

static void executable_bit_is_that_of_the_state_whatever_the_umask(void) {
    begin();
    mode_t before = umask(0111);
    CHECK_EQ_INT(once(HS_FILES_WRITE | HS_FILES_EXECUTABLE, "a", "x"), 0);
    umask(before);
    holds("a", "x", 0100);
    end();
}

static void links_are_made_read_and_not_followed(void) {
    begin();
    CHECK_EQ_INT(once(HS_FILES_SYMLINK, "l", "../out"), 0);
    CHECK_EQ_INT(once(HS_FILES_SYMLINK, "l", "x"), EEXIST);
    hs_files_job job = job_of(HS_FILES_READ | HS_FILES_IS_LINK | HS_FILES_KEEP, "l", NULL);
    hs_files_do(root, &job, 1);
    CHECK_EQ_INT(job.error, 0);
    CHECK_EQ_INT(job.stat.kind, HS_KIND_SYMLINK);
    CHECK_EQ_INT(job.out_size, 6);
    CHECK_EQ_MEM(job.out, "../out", 6);
    hs_files_free(&job, 1);
    CHECK_EQ_INT(once(HS_FILES_WRITE, "l/a", "x"), ENOTDIR);
    CHECK_EQ_INT(once(HS_FILES_LIST, "l", NULL), ENOTDIR);
    CHECK_EQ_INT(once(HS_FILES_READ, "l", NULL), ELOOP);
    CHECK_EQ_INT(once(HS_FILES_WRITE | HS_FILES_REPLACE, "l", "now a file"), 0);
    holds("l", "now a file", 0);
    CHECK_EQ_INT(once(HS_FILES_SYMLINK | HS_FILES_REPLACE, "l", "/etc"), 0);
    CHECK_EQ_INT(once(HS_FILES_READ | HS_FILES_IS_LINK, "gone", NULL), ENOENT);
    end();
}

static void nothing_outside_is_reached(void) {
    static const char *const paths[] = {"../out/x", "d/../../out/x", "/tmp/x", "..", ".", "", "d/..", "d/"};
    begin();
    CHECK_EQ_INT(once(HS_FILES_MAKE, "d", NULL), 0);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        CHECK(once(HS_FILES_WRITE, paths[i], "x") != 0);
        CHECK(once(HS_FILES_REMOVE, paths[i], NULL) != 0);
        CHECK(once(HS_FILES_MAKE, paths[i], NULL) != 0);
        CHECK(once(HS_FILES_SYMLINK, paths[i], "x") != 0);
    }
    CHECK(rmdir(outside) == 0); /* nothing was put there */
    end();
}

static void a_directory_is_listed(void) {
    begin();
    CHECK_EQ_INT(once(HS_FILES_WRITE | HS_FILES_EXECUTABLE, "a", "12345"), 0);
    CHECK(mkfifoat(root, "pipe", 0600) == 0);
    hs_files_job job = job_of(HS_FILES_LIST, ".", NULL);
    hs_files_do(root, &job, 1);
    CHECK_EQ_INT(job.error, 0);
    unsigned seen = 0;
    for (size_t at = 0; at < job.out_size;) {
        const hs_files_name *name = (const void *)(job.out + at);
        at += name->size;
        bool is_a = strcmp((const char *)(name + 1), "a") == 0;
        CHECK_EQ_INT(name->stat.kind, is_a ? (int)HS_KIND_EXECUTABLE : (int)HS_FILES_OTHER);
        if (is_a) CHECK_EQ_INT(name->stat.size, 5);
        seen++;
    }
    CHECK_EQ_INT(seen, 2);
    hs_files_free(&job, 1);
    CHECK_EQ_INT(once(HS_FILES_READ, "pipe", NULL), EISDIR);
    CHECK_EQ_INT(once(HS_FILES_LIST, "gone", NULL), ENOENT);
    end();
}

static void a_look_tells_whether_a_file_is_as_it_was(void) {
    begin();
    CHECK_EQ_INT(once(HS_FILES_WRITE, "a", "one"), 0);
    hs_files_job job = job_of(HS_FILES_READ, "a", NULL);
    hs_files_do(root, &job, 1);
    hs_files_stat stat = job.stat;
    hs_files_job look = {.what = HS_FILES_LOOK, .path = "a", .bytes = (const uint8_t *)&stat};
    hs_files_do(root, &look, 1);
    CHECK_EQ_INT(look.error, 0);
    CHECK_EQ_INT(once(HS_FILES_WRITE | HS_FILES_REPLACE, "a", "two"), 0);
    hs_files_do(root, &look, 1);
    CHECK_EQ_INT(look.error, ESTALE);
    CHECK_EQ_INT(once(HS_FILES_REMOVE, "a", NULL), 0);
    hs_files_do(root, &look, 1);
    CHECK_EQ_INT(look.error, ENOENT);
    stat = (hs_files_stat){.kind = HS_KIND_DIRECTORY};
    CHECK_EQ_INT(once(HS_FILES_MAKE, "a", NULL), 0);
    hs_files_do(root, &look, 1);
    CHECK_EQ_INT(look.error, 0);
    end();
}

static void sources_are_copied_cloned_or_linked(void) {
    char source[80];
    begin();
    snprintf(source, sizeof source, "%s/value", outside);
    FILE *file = fopen(source, "w");
    REQUIRE(file && fputs("a large value", file) >= 0 && fclose(file) == 0);
    hs_files_job jobs[] = {job_of(HS_FILES_WRITE, "copy", NULL),
                           job_of(HS_FILES_WRITE | HS_FILES_CLONE, "clone", NULL),
                           job_of(HS_FILES_WRITE | HS_FILES_HARD, "hard", NULL)};
    for (int i = 0; i < 3; i++) jobs[i].source = source;
    hs_files_do(root, jobs, 3);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ_INT(jobs[i].error, 0);
        holds(jobs[i].path, "a large value", 0);
    }
    struct stat s;
    CHECK(stat(source, &s) == 0 && s.st_nlink == 2);
    hs_files_job lost = job_of(HS_FILES_WRITE, "lost", NULL);
    lost.source = "/nowhere/at/all";
    hs_files_do(root, &lost, 1);
    CHECK_EQ_INT(lost.error, ENOENT);
    CHECK_EQ_INT(faccessat(root, "lost", F_OK, 0), -1); /* no half of a file stays */
    end();
}

static void many_files_by_many_threads(void) {
    static char paths[MANY][32];
    static hs_files_job jobs[MANY];
    static hs_files_run run;
    begin();
    for (int i = 0; i < 5; i++) {
        snprintf(paths[i], sizeof paths[i], "d%d", i);
        CHECK_EQ_INT(once(HS_FILES_MAKE, paths[i], NULL), 0);
    }
    for (int i = 0; i < MANY; i++) {
        snprintf(paths[i], sizeof paths[i], "d%d/f%d", i % 5, i);
        jobs[i] = job_of(HS_FILES_WRITE, paths[i], paths[i]);
    }
    CHECK_EQ_INT(hs_files_begin(&run, root, jobs, MANY, 4), 0);
    while (!hs_files_wait(&run, 50)) continue;
    hs_files_end(&run);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ_INT(jobs[i].error, 0);
        jobs[i].what = HS_FILES_READ | HS_FILES_KEEP;
    }
    CHECK_EQ_INT(hs_files_begin(&run, root, jobs, MANY, 3), 0);
    hs_files_end(&run);
    for (int i = 0; i < MANY; i++) {
        uint8_t id[32];
        hs_blake3((const uint8_t *)paths[i], strlen(paths[i]), id);
        CHECK_EQ_INT(jobs[i].error, 0);
        CHECK_EQ_MEM(jobs[i].id, id, 32);
        CHECK_EQ_INT(jobs[i].out_size, strlen(paths[i]));
    }
    hs_files_free(jobs, MANY);
    end();
}

static void a_run_that_is_stopped_ends(void) {
    static hs_files_job jobs[MANY];
    static hs_files_run run;
    begin();
    CHECK_EQ_INT(once(HS_FILES_WRITE, "a", "x"), 0);
    for (int i = 0; i < MANY; i++) jobs[i] = job_of(HS_FILES_READ, "a", NULL);
    CHECK_EQ_INT(hs_files_begin(&run, root, jobs, MANY, 2), 0);
    hs_files_stop(&run);
    hs_files_end(&run);
    for (int i = 0; i < MANY; i++) CHECK(jobs[i].error == 0 || jobs[i].error == ECANCELED);
    CHECK(hs_files_wait(&run, 0));
    end();
}

int main(void) {
    RUN(files_are_made_replaced_and_removed);
    RUN(executable_bit_is_that_of_the_state_whatever_the_umask);
    RUN(links_are_made_read_and_not_followed);
    RUN(nothing_outside_is_reached);
    RUN(a_directory_is_listed);
    RUN(a_look_tells_whether_a_file_is_as_it_was);
    RUN(sources_are_copied_cloned_or_linked);
    RUN(many_files_by_many_threads);
    RUN(a_run_that_is_stopped_ends);
    return hs_test_report();
}
