// The sandbox from inside: a child enters it and tries what a server never does.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "server/sandbox.h"

static char folder[] = "/tmp/upg-sandbox-XXXXXX";
static char readable[64], writable[64], secret[64];

// Runs body in a child that has entered the sandbox; its exit status. 77: what it is about is not to be had here.
static int inside(int (*body)(const char *report)) {
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        upg_buf report = {0};
        const char *read[] = {readable, NULL}, *write[] = {writable, NULL};
        sandbox_apply(read, write, &report);
        if (strncmp(report.data, "sandbox: seccomp ", 17) || !strstr(report.data, ", landlock ")) _exit(99);
        _exit(body(report.data));
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void check(int status) {
    if (status == 77) {
        printf("the kernel has none\n");
        skip();
    }
    assert_int_equal(status, 0);
}

static int can_open(const char *folder_name, const char *file, int flags) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder_name, file);
    int fd = open(path, flags | O_CLOEXEC, 0600);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

static int opens_only_its_files(const char *report) {
    if (!strstr(report, "landlock yes")) return 77;
    if (!can_open(readable, "file", O_RDONLY)) return 1;
    if (can_open(readable, "file", O_WRONLY) || can_open(readable, "made", O_WRONLY | O_CREAT)) return 2;
    if (can_open(secret, "file", O_RDONLY) || errno != EACCES) return 3;
    if (!can_open(writable, "made", O_RDWR | O_CREAT | O_TRUNC)) return 4;
    char from[128], to[128];
    snprintf(from, sizeof from, "%s/made", writable);
    snprintf(to, sizeof to, "%s/renamed", writable);
    if (rename(from, to) || unlink(to)) return 5;
    if (can_open("/etc", "passwd", O_RDONLY)) return 6;
    return 0;
}

static int makes_no_processes(const char *report) {
    if (!strstr(report, "seccomp yes")) return 77;
    char *const argv[] = {"/bin/true", NULL};
    if (execv(argv[0], argv) != -1 || errno != EPERM) return 1;
    pid_t pid = fork();
    if (!pid) _exit(0);
    if (pid != -1 || errno != EPERM) return 2;
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != -1 || errno != EPERM) return 3;
    return 0;
}

static int connects_nowhere(const char *report) {
    if (!strstr(report, "seccomp yes")) return 77;
    if (socket(AF_INET, SOCK_STREAM, 0) != -1 || errno != EPERM) return 1;
    if (setuid(getuid()) != -1 || errno != EPERM) return 2;
    return 0;
}

static void *other_thread(void *ctx) {
    char *const argv[] = {"/bin/true", NULL};
    int refused = execv(argv[0], argv) == -1 && errno == EPERM && socket(AF_UNIX, SOCK_STREAM, 0) == -1;
    *(int *)ctx = refused && !can_open(secret, "file", O_RDONLY);
    return NULL;
}
static int threads_are_in_it(const char *report) {
    if (!strstr(report, "seccomp yes") || !strstr(report, "landlock yes")) return 77;
    pthread_t thread;
    int refused = 0;
    if (pthread_create(&thread, NULL, other_thread, &refused)) return 1;
    pthread_join(thread, NULL);
    return refused ? 0 : 2;
}

static void files(void **state) {
    (void)state;
    check(inside(opens_only_its_files));
}
static void processes(void **state) {
    (void)state;
    check(inside(makes_no_processes));
}
static void network(void **state) {
    (void)state;
    check(inside(connects_nowhere));
}
static void threads(void **state) {
    (void)state;
    check(inside(threads_are_in_it));
}

static int make_folder(char *path, size_t size, const char *name) {
    char file[128];
    snprintf(path, size, "%s/%s", folder, name);
    snprintf(file, sizeof file, "%s/file", path);
    if (mkdir(path, 0700)) return -1;
    FILE *f = fopen(file, "w");
    return f ? fclose(f) : -1;
}
static int setup(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    return make_folder(readable, sizeof readable, "readable") || make_folder(writable, sizeof writable, "writable") ||
           make_folder(secret, sizeof secret, "secret");
}
static int teardown(void **state) {
    (void)state;
    const char *const folders[] = {readable, writable, secret};
    for (int i = 0; i < 3; i++) {
        char file[128];
        snprintf(file, sizeof file, "%s/file", folders[i]);
        unlink(file);
        rmdir(folders[i]);
    }
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(files), cmocka_unit_test(processes), cmocka_unit_test(network),
                                       cmocka_unit_test(threads)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
