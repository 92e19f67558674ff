/* hs_spawn.c - start a program as a process of its own, from a process with threads.
 *
 *   caller --fork--> child --setsid, fork--> grandchild --exec--> program (reaped by init)
 *      ^               | exits at once, waited for            |
 *      +------------ pipe: errno of what failed; closed by a good exec
 *
 * Invariant: between fork and exec only async-signal-safe calls; all memory that is needed was allocated before. */
#define _GNU_SOURCE /* pipe2 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "helios_shm.h"
#include "hs_base.h"
#include "hs_err.h"

enum { KEPT_FD = 3, PIPE_FD = 4, FIRST_FREE_FD = 5, FD_LIMIT_MAX = 1 << 20 };

typedef struct spawn_request {
    const char *const *argv, *const *envp;
    const char *log_path;
    int keep_fd, pipe_fd;
} spawn_request;

/* Without the handlers of a fork, which are for children that go on in this program, and would have tables of leases made for them. */
static pid_t fork_bare(void) {
#if defined __GLIBC__ && __GLIBC_PREREQ(2, 34)
    return _Fork();
#else
    return fork();
#endif
}

static _Noreturn void report_and_exit(int pipe_fd) {
    int error = errno;
    ssize_t ignored = write(pipe_fd, &error, sizeof error);
    (void)ignored;
    _exit(127);
}

static void close_from(int first) {
#ifdef SYS_close_range
    if (syscall(SYS_close_range, (unsigned)first, ~0u, 0u) == 0) return;
#endif
    struct rlimit limit;
    int end = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < FD_LIMIT_MAX ? (int)limit.rlim_cur
                                                                                     : FD_LIMIT_MAX;
    for (int fd = first; fd < end; fd++) close(fd);
}

static void signals_reset(void) {
    struct sigaction action = {.sa_handler = SIG_DFL};
    for (int number = 1; number < NSIG; number++)
        sigaction(number, &action, NULL); /* the unchangeable ones refuse */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Standard input, output, error, the kept descriptor and the pipe stand at their numbers; nothing else is open. */
static bool descriptors_arrange(const spawn_request *request, int *pipe_fd) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    /* Not to wait for a reader, should it be a pipe. */
    const int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    int log = open(request->log_path, flags, 0600);
    if (null < 0 || log < 0) return false;
    /* First out of the way of the numbers that are about to be taken. */
    int kept = request->keep_fd < 0 ? null : request->keep_fd;
    int high[4] = {null, log, kept, request->pipe_fd};
    for (int i = 0; i < 4; i++) {
        high[i] = fcntl(high[i], F_DUPFD, FIRST_FREE_FD);
        if (high[i] < 0) return false;
    }
    *pipe_fd = high[3];
    if (dup2(high[0], 0) < 0 || dup2(high[0], 1) < 0 || dup2(high[1], 2) < 0) return false;
    if (dup2(high[2], KEPT_FD) < 0 || dup2(high[3], PIPE_FD) < 0) return false;
    *pipe_fd = PIPE_FD;
    close_from(FIRST_FREE_FD);
    if (request->keep_fd < 0) close(KEPT_FD);
    return fcntl(PIPE_FD, F_SETFD, FD_CLOEXEC) == 0;
}

static _Noreturn void grandchild_run(const spawn_request *request) {
    int pipe_fd = request->pipe_fd;
    umask(077);
    if (!descriptors_arrange(request, &pipe_fd) || chdir("/") != 0) report_and_exit(pipe_fd);
    signals_reset();
    execve(request->argv[0], (char *const *)request->argv, (char *const *)request->envp);
    report_and_exit(pipe_fd);
}

static _Noreturn void child_run(const spawn_request *request) {
    if (setsid() < 0) report_and_exit(request->pipe_fd);
    pid_t pid = fork_bare();
    if (pid < 0) report_and_exit(request->pipe_fd);
    if (pid == 0) grandchild_run(request);
    _exit(0);
}

/* The errno that came through the pipe; 0: it was closed by exec. */
static int pipe_read(int fd) {
    int error = 0;
    ssize_t got;
    do got = read(fd, &error, sizeof error);
    while (got < 0 && errno == EINTR);
    return got == (ssize_t)sizeof error ? error : 0;
}

int hs_spawn_detached(const char *const *argv, const char *const *envp, const char *log_path, int keep_fd) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return hs_err_system(errno);
    spawn_request request = {
        .argv = argv, .envp = envp, .log_path = log_path, .keep_fd = keep_fd, .pipe_fd = ends[1]};
    /* A signal handler of the caller must not run in the child. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork_bare();
    if (pid == 0) child_run(&request);
    int error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(ends[1]);
    if (pid > 0) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
        }
        error = pipe_read(ends[0]);
    }
    close(ends[0]);
    return error == 0 ? HS_OK : hs_err_system(error);
}
