// See journal.h.
#include "compress/journal.h"
#include "format/upg_file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { MAX_JOURNAL = 1 << 28, CHECKSUM = 16 }; // checksum: hex digits before a line, and a space

// Whatever else lies in the folder is somebody else's and stays.
static const char *const names[] = {"file", "streams", "sensitivity", "original", "heldout"};
enum { N_NAMES = sizeof names / sizeof *names };

struct upg_journal {
    char *folder, *path;
    char *files[N_NAMES]; // paths asked for
    int fd;
    bool ours;    // locked, and what the journal says is of this key
    uint64_t end; // of the lines that count
    char **lines;
    size_t n;
};

static char *join(const char *folder, const char *name, upg_error *e) {
    char *path = upg_alloc(strlen(folder) + strlen(name) + 2, 1, e);
    if (path) sprintf(path, "%s/%s", folder, name);
    return path;
}

static int keep_line(upg_journal *j, const char *text, size_t n, upg_error *e) {
    char **lines = upg_resize(j->lines, j->n + 1, sizeof *lines, e);
    if (!lines) return -1;
    j->lines = lines;
    if (!(lines[j->n] = upg_strdup(text, n, e))) return -1;
    j->n++;
    return 0;
}

static void drop_lines(upg_journal *j) {
    for (size_t i = 0; i < j->n; i++) free(j->lines[i]);
    free(j->lines);
    j->lines = NULL;
    j->n = 0;
}

// Lines up to the first that is not whole.
static int read_lines(upg_journal *j, upg_error *e) {
    off_t size = lseek(j->fd, 0, SEEK_END);
    if (size < 0) return upg_fail(e, "%s: cannot read: %s", j->path, strerror(errno));
    if (!size || size > MAX_JOURNAL) return 0;
    char *text = upg_alloc((size_t)size + 1, 1, e);
    int rc = text ? upg_read_at(j->fd, j->path, text, (size_t)size, 0, e) : -1;
    for (char *at = text, *end; !rc && (end = strchr(at, '\n')); at = end + 1) {
        char hex[CHECKSUM + 1];
        if (end - at < CHECKSUM + 1) break;
        const char *line = at + CHECKSUM + 1;
        snprintf(hex, sizeof hex, "%016llx", (unsigned long long)XXH3_64bits(line, (size_t)(end - line)));
        if (memcmp(hex, at, CHECKSUM) || at[CHECKSUM] != ' ') break;
        rc = keep_line(j, line, (size_t)(end - line), e);
        j->end = (uint64_t)(end + 1 - text);
    }
    free(text);
    return rc;
}

// Removes the files that a journal speaks of and empties it.
static int start_over(upg_journal *j, upg_error *e) {
    drop_lines(j);
    j->end = 0;
    int folder = open(j->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return upg_fail(e, "%s: %s", j->folder, strerror(errno));
    for (int i = 0; i < N_NAMES; i++) unlinkat(folder, names[i], 0);
    close(folder);
    return ftruncate(j->fd, 0) ? upg_fail(e, "%s: cannot write: %s", j->path, strerror(errno)) : 0;
}

// The journal, locked. Another process may finish, and remove it, between opening and locking: then it is no file of
// the folder any more.
static int lock(upg_journal *j, upg_error *e) {
    struct stat opened, there;
    for (int tries = 0; tries < 100; tries++) {
        if (mkdir(j->folder, 0777) && errno != EEXIST)
            return upg_fail(e, "%s: cannot create: %s", j->folder, strerror(errno));
        j->fd = open(j->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
        if (j->fd < 0 && errno == ENOENT) continue;
        if (j->fd < 0) return upg_fail(e, "%s: cannot create: %s", j->path, strerror(errno));
        if (flock(j->fd, LOCK_EX | LOCK_NB))
            return errno == EWOULDBLOCK ? upg_fail(e, "%s: another process is writing there", j->folder)
                                        : upg_fail(e, "%s: cannot lock: %s", j->path, strerror(errno));
        if (!fstat(j->fd, &opened) && !S_ISREG(opened.st_mode)) return upg_fail(e, "%s: is no file", j->path);
        if (!stat(j->path, &there) && there.st_ino == opened.st_ino && there.st_dev == opened.st_dev) return 0;
        close(j->fd);
        j->fd = -1;
    }
    return upg_fail(e, "%s: cannot create: %s", j->path, strerror(ENOENT));
}

static int open_folder(upg_journal *j, const uint8_t key[16], upg_error *e) {
    char line[4 + UPG_HEX_HASH + 1] = "key ";
    upg_file_hash_to_hex(key, line + 4);
    if (lock(j, e) || read_lines(j, e)) return -1;
    j->ours = true;
    if (!j->n || strcmp(j->lines[0], line)) return start_over(j, e) || upg_journal_add(j, e, "%s", line) ? -1 : 0;
    return ftruncate(j->fd, (off_t)j->end) ? upg_fail(e, "%s: cannot write: %s", j->path, strerror(errno)) : 0;
}

upg_journal *upg_journal_open(const char *out, const uint8_t key[16], upg_error *e) {
    upg_journal *j = upg_alloc(1, sizeof *j, e);
    if (!j) return NULL;
    j->fd = -1;
    j->folder = upg_alloc(strlen(out) + 16, 1, e);
    if (j->folder) sprintf(j->folder, "%s.partial", out);
    j->path = j->folder ? join(j->folder, "journal", e) : NULL;
    if (j->path && !open_folder(j, key, e)) return j;
    upg_journal_close(j, true);
    return NULL;
}

void upg_journal_close(upg_journal *j, bool keep) {
    if (!j) return;
    if (j->ours && (!keep || j->n <= 1)) {
        start_over(j, NULL);
        unlink(j->path);
        rmdir(j->folder);
    }
    if (j->fd >= 0) close(j->fd);
    drop_lines(j);
    for (int i = 0; i < N_NAMES; i++) free(j->files[i]);
    free(j->folder);
    free(j->path);
    free(j);
}

const char *upg_journal_file(upg_journal *j, const char *name, upg_error *e) {
    int i = 0;
    while (i < N_NAMES && strcmp(names[i], name)) i++;
    if (i == N_NAMES) {
        upg_fail(e, "%s: a journal has no file '%s'", j->folder, name);
        return NULL;
    }
    return j->files[i] ? j->files[i] : (j->files[i] = join(j->folder, name, e));
}

size_t upg_journal_lines(const upg_journal *j) {
    return j->n;
}
const char *upg_journal_line(const upg_journal *j, size_t i) {
    return j->lines[i];
}

int upg_journal_add(upg_journal *j, upg_error *e, const char *fmt, ...) {
    upg_buf text = {0};
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *line = n < 0 ? NULL : upg_alloc((size_t)n + 1, 1, e);
    if (line) vsnprintf(line, (size_t)n + 1, fmt, again);
    va_end(again);
    if (!line) return -1;
    upg_buf_fmt(&text, "%016llx %s\n", (unsigned long long)XXH3_64bits(line, (size_t)n), line);
    int rc = upg_buf_check(&text, e);
    if (!rc) rc = upg_write_at(j->fd, j->path, text.data, text.size, j->end, e);
    if (!rc && fdatasync(j->fd)) rc = upg_fail(e, "%s: cannot write: %s", j->path, strerror(errno));
    if (!rc) rc = keep_line(j, line, (size_t)n, e);
    if (!rc) j->end += text.size;
    upg_buf_free(&text);
    free(line);
    return rc;
}
