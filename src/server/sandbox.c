// The sandbox: Landlock for files, seccomp for what a server never does. See sandbox.h.
//
// Both are told to the kernel once and cannot be taken back. Landlock binds the calling thread and those it makes, so
// this comes before any thread is made that opens files; seccomp is spread to all threads there are. A system call that
// is refused fails with EPERM, as on a system where the user may not do it: libraries have answers to that.
#include "server/sandbox.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// ---- Files ----

#ifndef LANDLOCK_ACCESS_FS_REFER
#define LANDLOCK_ACCESS_FS_REFER (1ULL << 13)
#endif
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif
#define BASE_RIGHTS ((1ULL << 13) - 1) // of the first version: reading, writing, executing, making and removing
#define READ_RIGHTS (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define WRITE_RIGHTS                                                                                                   \
    (READ_RIGHTS | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG |      \
     LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_TRUNCATE)

static int allow(int rules, const char *path, uint64_t rights) {
    struct stat st;
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0) return -1;
    if (!fstat(fd, &st) && !S_ISDIR(st.st_mode))
        rights &= LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE;
    struct landlock_path_beneath_attr rule = {.allowed_access = rights, .parent_fd = fd};
    long rc = syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    close(fd);
    return rc ? -1 : 0;
}

// NULL, or why not.
static const char *restrict_files(const char *const *read, const char *const *write) {
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 0)
        return errno == ENOSYS       ? "the kernel has none"
               : errno == EOPNOTSUPP ? "it is off in the kernel"
                                     : strerror(errno);
    uint64_t rights = BASE_RIGHTS;
    if (version >= 2) rights |= LANDLOCK_ACCESS_FS_REFER;
    if (version >= 3) rights |= LANDLOCK_ACCESS_FS_TRUNCATE;
    struct landlock_ruleset_attr attributes = {.handled_access_fs = rights};
    int rules = (int)syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0);
    if (rules < 0) return strerror(errno);
    bool failed = false;
    for (; *read && !failed; read++) failed = allow(rules, *read, READ_RIGHTS & rights);
    for (; *write && !failed; write++) failed = allow(rules, *write, WRITE_RIGHTS & rights);
    failed = failed || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_landlock_restrict_self, rules, 0);
    const char *why = failed ? strerror(errno) : NULL;
    close(rules);
    return why;
}

// ---- System calls ----

// Names, since not every architecture has every call: those it lacks are left out.
static const char *const refused[] = {
    // other programs and processes
    "execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp",
    "pidfd_getfd", "pidfd_open", "pidfd_send_signal",
    // the network beyond the sockets that there are
    "socket", "socketpair", "connect", "bind", "listen",
    // who we are, and where
    "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups", "capset",
    "unshare", "setns", "personality", "chroot", "pivot_root",
    // file systems
    "mount", "umount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
    "swapon", "swapoff", "quotactl", "quotactl_fd", "name_to_handle_at", "open_by_handle_at", "mknod", "mknodat",
    // the kernel
    "bpf", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "perf_event_open",
    "userfaultfd", "add_key", "request_key", "keyctl", "io_uring_setup", "io_uring_enter", "io_uring_register", "acct",
    "reboot", "syslog", "vhangup", "iopl", "ioperm", "modify_ldt", "lookup_dcookie", "nfsservctl", "uselib",
    "fanotify_init",
    // the machine's names and clocks
    "sethostname", "setdomainname", "settimeofday", "stime", "clock_settime", "clock_settime64", "clock_adjtime",
    "clock_adjtime64", "adjtimex"};

static int add_rules(scmp_filter_ctx filter) {
    int rc = 0;
    for (size_t i = 0; i < sizeof refused / sizeof *refused && !rc; i++) {
        int call = seccomp_syscall_resolve_name(refused[i]);
        if (call >= 0) rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), call, 0);
    }
    // Threads, but no processes. What clone3 makes is behind a pointer, which a filter cannot follow: glibc goes back
    // to clone where there is no clone3.
    if (!rc)
        rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                              SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
    if (!rc) rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    return rc;
}

static const char *restrict_calls(void) {
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    if (!filter) return "out of memory";
    int rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (!rc) rc = add_rules(filter);
    if (!rc) rc = seccomp_load(filter);
    seccomp_release(filter);
    return rc == -EINVAL || rc == -EOPNOTSUPP || rc == -ENOSYS ? "the kernel has none" : rc ? strerror(-rc) : NULL;
}

static void tell(upg_buf *report, const char *name, const char *why) {
    upg_buf_fmt(report, "%s %s", name, why ? "no" : "yes");
    if (why) upg_buf_fmt(report, " (%s)", why);
}

void sandbox_apply(const char *const *read, const char *const *write, upg_buf *report) {
    const char *files = restrict_files(read, write), *calls = restrict_calls();
    upg_buf_str(report, "sandbox: ");
    tell(report, "seccomp", calls);
    upg_buf_str(report, ", ");
    tell(report, "landlock", files);
}
