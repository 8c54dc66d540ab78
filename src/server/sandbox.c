// Landlock by its system calls, which the C library has no functions for, and seccomp by libseccomp. See sandbox.h.
#include "server/sandbox.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// Of Landlock's first version, which every kernel that has it knows.
enum {
    READ = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR,
    WRITE = READ | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG |
            LANDLOCK_ACCESS_FS_MAKE_DIR,
    ALL = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1,
    OF_FILES = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE,
};

// The path, or, of a file, its folder: a file that is replaced has no rule of its own.
static int allow(int ruleset, const char *path, uint64_t access, upg_error *e) {
    char folder[4096];
    struct stat st;
    if (snprintf(folder, sizeof folder, "%s", path) >= (int)sizeof folder) return upg_fail(e, "%s: too long", path);
    if (stat(path, &st) || !S_ISDIR(st.st_mode)) {
        char *slash = strrchr(folder, '/');
        if (!slash)
            strcpy(folder, ".");
        else
            slash[slash == folder] = 0;
    }
    struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = open(folder, O_PATH | O_CLOEXEC)};
    if (rule.parent_fd < 0) return upg_fail(e, "%s: %s", folder, strerror(errno));
    long rc = syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    close(rule.parent_fd);
    return rc ? upg_fail(e, "landlock: %s: %s", folder, strerror(errno)) : 0;
}

// 1: done; 0: the kernel has none.
static int enter_landlock(const sandbox_paths *p, upg_error *e) {
    if (syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) < 1) return 0;
    struct landlock_ruleset_attr attr = {.handled_access_fs = ALL};
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0), rc = 0;
    if (ruleset < 0) return upg_fail(e, "landlock: %s", strerror(errno));
    // What the C library reads now and then: names and addresses of hosts, time zones.
    if (!rc && !access("/etc", R_OK)) rc = allow(ruleset, "/etc", READ, e);
    if (!rc && !access("/proc/self", R_OK)) rc = allow(ruleset, "/proc/self", READ, e);
    for (int i = 0; i < 4 && !rc; i++)
        if (p->read[i]) rc = allow(ruleset, p->read[i], READ, e);
    for (int i = 0; i < 4 && !rc; i++)
        if (p->write[i]) rc = allow(ruleset, p->write[i], WRITE, e);
    if (!rc && syscall(SYS_landlock_restrict_self, ruleset, 0)) rc = upg_fail(e, "landlock: %s", strerror(errno));
    close(ruleset);
    return rc ? rc : 1;
}

// Calls of no use to a server that are of use to somebody in it. What is not listed stays allowed: a list of what a C
// library may call would have to change with it.
static int enter_seccomp(upg_error *e) {
    static const int denied[] = {SCMP_SYS(execve),
                                 SCMP_SYS(execveat),
                                 SCMP_SYS(fork),
                                 SCMP_SYS(vfork),
                                 SCMP_SYS(ptrace),
                                 SCMP_SYS(process_vm_readv),
                                 SCMP_SYS(process_vm_writev),
                                 SCMP_SYS(mount),
                                 SCMP_SYS(umount2),
                                 SCMP_SYS(pivot_root),
                                 SCMP_SYS(chroot),
                                 SCMP_SYS(unshare),
                                 SCMP_SYS(setns),
                                 SCMP_SYS(bpf),
                                 SCMP_SYS(perf_event_open),
                                 SCMP_SYS(userfaultfd),
                                 SCMP_SYS(keyctl),
                                 SCMP_SYS(add_key),
                                 SCMP_SYS(request_key),
                                 SCMP_SYS(init_module),
                                 SCMP_SYS(finit_module),
                                 SCMP_SYS(delete_module),
                                 SCMP_SYS(kexec_load),
                                 SCMP_SYS(kexec_file_load),
                                 SCMP_SYS(reboot),
                                 SCMP_SYS(swapon),
                                 SCMP_SYS(swapoff),
                                 SCMP_SYS(setuid),
                                 SCMP_SYS(setgid),
                                 SCMP_SYS(setreuid),
                                 SCMP_SYS(setregid),
                                 SCMP_SYS(setresuid),
                                 SCMP_SYS(setresgid),
                                 SCMP_SYS(setgroups),
                                 SCMP_SYS(capset),
                                 SCMP_SYS(personality),
                                 SCMP_SYS(open_by_handle_at),
                                 SCMP_SYS(name_to_handle_at),
                                 SCMP_SYS(io_uring_setup),
                                 SCMP_SYS(acct),
                                 SCMP_SYS(quotactl),
                                 SCMP_SYS(settimeofday),
                                 SCMP_SYS(clock_settime),
                                 SCMP_SYS(adjtimex),
                                 SCMP_SYS(sethostname),
                                 SCMP_SYS(syslog),
                                 SCMP_SYS(kcmp),
                                 SCMP_SYS(lookup_dcookie),
                                 SCMP_SYS(fanotify_init),
                                 SCMP_SYS(mknodat),
                                 SCMP_SYS(symlinkat)};
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    if (!filter) return upg_fail(e, "seccomp: out of memory");
    int rc = 0;
    for (size_t i = 0; i < sizeof denied / sizeof *denied && !rc; i++) {
        rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), denied[i], 0);
        if (rc == -EDOM) rc = 0; // no such call on this machine
    }
    if (!rc) rc = seccomp_load(filter);
    seccomp_release(filter);
    if (rc == -ENOSYS || rc == -EINVAL || rc == -ECANCELED) return 0;
    return rc ? upg_fail(e, "seccomp: %s", strerror(-rc)) : 1;
}

int sandbox_enter(const sandbox_paths *paths, char done[128], upg_error *e) {
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return upg_fail(e, "no_new_privs: %s", strerror(errno));
    int landlock = enter_landlock(paths, e);
    if (landlock < 0) return -1;
    int seccomp = enter_seccomp(e);
    if (seccomp < 0) return -1;
    static const char *const words[] = {"no (the kernel has none)", "yes"};
    snprintf(done, 128, "seccomp %s, landlock %s", words[seccomp], words[landlock]);
    return 0;
}
