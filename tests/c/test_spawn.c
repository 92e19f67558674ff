/* test_spawn: a detached process is told apart by what it writes into files, since nothing else connects us to it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "helios_shm.h"
#include "hs_base.h"
#include "hs_test.h"

static char directory[] = "/tmp/hs-spawn-XXXXXX";
static char log_path[64], fifo_path[64], script[1024];

/* What the program wrote into the fifo until it ended (all of its descriptors are closed then). */
static size_t output_read(int fd, char *out, size_t capacity) {
    size_t size = 0;
    ssize_t got;
    while ((got = read(fd, out + size, capacity - 1 - size)) > 0) size += (size_t)got;
    out[size] = 0;
    return size;
}

/* Run a shell script detached, with `keep_fd`; its output through the fifo. */
static int script_run(const char *text, int keep_fd, char *out, size_t capacity) {
    snprintf(script, sizeof script, "exec > %s; %s", fifo_path, text);
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    const char *envp[] = {"GIVEN=yes", "PATH=/usr/bin:/bin", NULL};
    int status = hs_spawn_detached(argv, envp, log_path, keep_fd);
    if (status != HS_OK) return status;
    int fd = open(fifo_path, O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    output_read(fd, out, capacity);
    close(fd);
    return HS_OK;
}

static void it_runs_detached_with_its_own_environment(void) {
    char out[512], want[64];
    CHECK_EQ_INT(script_run("echo $GIVEN; pwd; umask; echo to the log >&2; readlink /proc/$$/fd/0", -1, out,
                            sizeof out),
                 HS_OK);
    CHECK(strcmp(out, "yes\n/\n0077\n/dev/null\n") == 0);
    int fd = open(log_path, O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    CHECK(output_read(fd, out, sizeof out) > 0 && strcmp(out, "to the log\n") == 0);
    close(fd);
    struct stat status;
    CHECK(stat(log_path, &status) == 0 && (status.st_mode & 0777) == 0600);
    CHECK_EQ_INT(script_run("cut -d' ' -f6 /proc/$$/stat", -1, out, sizeof out), HS_OK);
    snprintf(want, sizeof want, "%d\n", (int)getsid(0));
    CHECK(strcmp(out, want) != 0);                              /* another session */
    CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD); /* nothing is left for us to reap */
}

static void only_the_kept_descriptor_is_inherited(void) {
    int open_here = open("/dev/zero", O_RDONLY); /* without close-on-exec */
    char out[512];
    CHECK_EQ_INT(script_run("for f in /proc/$$/fd/*; do readlink $f; done | sort -u | grep -c zero", -1, out,
                            sizeof out),
                 HS_OK);
    CHECK(strcmp(out, "0\n") == 0);
    CHECK_EQ_INT(script_run("readlink /proc/$$/fd/3", open_here, out, sizeof out), HS_OK);
    CHECK(strcmp(out, "/dev/zero\n") == 0);
    CHECK_EQ_INT(script_run("test -e /proc/$$/fd/4 || echo none", open_here, out, sizeof out), HS_OK);
    CHECK(strcmp(out, "none\n") == 0);
    close(open_here);
}

static void a_lock_travels_with_the_kept_descriptor(void) {
    char lock_path[80], out[64];
    snprintf(lock_path, sizeof lock_path, "%s/lock", directory);
    int held = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600),
        probe = open(lock_path, O_RDWR | O_CLOEXEC);
    REQUIRE(held >= 0 && probe >= 0 && flock(held, LOCK_EX | LOCK_NB) == 0);
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    const char *envp[] = {"PATH=/usr/bin:/bin", NULL};
    snprintf(script, sizeof script, "read line < %s", fifo_path);
    REQUIRE(hs_spawn_detached(argv, envp, log_path, held) == HS_OK);
    close(held);
    CHECK(flock(probe, LOCK_EX | LOCK_NB) == -1); /* the new process has it */
    int fd = open(fifo_path, O_WRONLY | O_CLOEXEC);
    REQUIRE(fd >= 0 && write(fd, "end\n", 4) == 4);
    close(fd);
    CHECK(flock(probe, LOCK_EX) == 0); /* and it dies with the process */
    close(probe);
    unlink(lock_path);
    (void)out;
}

static void signals_start_at_their_defaults(void) {
    char out[512];
    signal(SIGTERM, SIG_IGN);
    CHECK_EQ_INT(script_run("kill -TERM $$; echo survived", -1, out, sizeof out), HS_OK);
    CHECK(strcmp(out, "") == 0);
    signal(SIGTERM, SIG_DFL);
}

static void a_program_that_cannot_start_is_an_error(void) {
    const char *argv[] = {"/no/such/program", NULL}, *envp[] = {NULL};
    CHECK_EQ_INT(hs_spawn_detached(argv, envp, log_path, -1), HS_SYSTEM);
    CHECK_EQ_INT(hs_errno(), ENOENT);
    const char *shell[] = {"/bin/sh", "-c", "true", NULL};
    CHECK_EQ_INT(hs_spawn_detached(shell, envp, "/no/such/log", -1), HS_SYSTEM);
    CHECK_EQ_INT(hs_errno(), ENOENT);
    CHECK_EQ_INT(hs_spawn_detached(shell, envp, log_path, 1000), HS_SYSTEM);
    CHECK_EQ_INT(hs_errno(), EBADF);
}

int main(void) {
    REQUIRE(mkdtemp(directory) != NULL);
    snprintf(log_path, sizeof log_path, "%s/log", directory);
    snprintf(fifo_path, sizeof fifo_path, "%s/fifo", directory);
    REQUIRE(mkfifo(fifo_path, 0600) == 0);
    RUN(it_runs_detached_with_its_own_environment);
    RUN(only_the_kept_descriptor_is_inherited);
    RUN(a_lock_travels_with_the_kept_descriptor);
    RUN(signals_start_at_their_defaults);
    RUN(a_program_that_cannot_start_is_an_error);
    unlink(log_path);
    unlink(fifo_path);
    rmdir(directory);
    return hs_test_report();
}
