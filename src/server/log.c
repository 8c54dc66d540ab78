// The access log. See log.h. Neither bodies nor headers nor queries are ever written: they hold what is private.
#include "server/log.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct access_log {
    char *path;
    int fd;
    pthread_mutex_t mutex;
};

static int open_file(const char *path, upg_error *e) {
    if (!strcmp(path, "-")) return STDERR_FILENO;
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0) upg_fail(e, "%s: %s", path, strerror(errno));
    return fd;
}

access_log *access_log_open(const char *path, upg_error *e) {
    access_log *l = upg_alloc(1, sizeof *l, e);
    if (!l) return NULL;
    pthread_mutex_init(&l->mutex, NULL);
    l->fd = -1;
    if (!(l->path = upg_strdup(path, strlen(path), e)) || (l->fd = open_file(path, e)) < 0) {
        access_log_close(l);
        return NULL;
    }
    return l;
}

int access_log_reopen(access_log *l, upg_error *e) {
    int fd = l->fd == STDERR_FILENO ? STDERR_FILENO : open_file(l->path, e);
    if (fd < 0) return -1;
    pthread_mutex_lock(&l->mutex);
    int old = l->fd;
    l->fd = fd;
    pthread_mutex_unlock(&l->mutex);
    if (old != STDERR_FILENO) close(old);
    return 0;
}

void access_log_close(access_log *l) {
    if (!l) return;
    if (l->fd >= 0 && l->fd != STDERR_FILENO) close(l->fd);
    pthread_mutex_destroy(&l->mutex);
    free(l->path);
    free(l);
}

// A path or method is whatever bytes a client sent: all but plain ones are written by number.
static void add_string(upg_buf *b, const char *text) {
    upg_buf_str(b, "\"");
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < ' ' || c > '~' || c == '"' || c == '\\')
            upg_buf_fmt(b, "\\u%04x", c);
        else
            upg_buf_add(b, text, 1);
    }
    upg_buf_str(b, "\"");
}

void access_log_write(access_log *l, const access_entry *x) {
    upg_buf b = {0};
    struct timespec now;
    struct tm utc;
    char when[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &utc);
    upg_buf_fmt(&b, "{\"time\":\"%s.%03ldZ\",\"id\":\"%016llx\",\"client\":", when, now.tv_nsec / 1000000,
                (unsigned long long)x->id);
    add_string(&b, x->address);
    upg_buf_str(&b, ",\"method\":");
    add_string(&b, x->method);
    upg_buf_str(&b, ",\"path\":");
    add_string(&b, x->path);
    upg_buf_fmt(&b, ",\"status\":%d,\"bytes\":%llu,\"seconds\":%.6f,\"complete\":%s", x->status,
                (unsigned long long)x->bytes, x->seconds, x->complete ? "true" : "false");
    if (x->usage.finish)
        upg_buf_fmt(&b,
                    ",\"finish\":\"%s\",\"prompt_tokens\":%d,\"cached_tokens\":%d,\"completion_tokens\":%d,"
                    "\"queue_seconds\":%.6f,\"first_token_seconds\":%.6f",
                    x->usage.finish, x->usage.prompt_tokens, x->usage.cached_tokens, x->usage.completion_tokens,
                    x->usage.queue_seconds, x->usage.first_token_seconds);
    upg_buf_str(&b, "}\n");
    pthread_mutex_lock(&l->mutex);
    // One call, so that lines of several writers do not mix. A full disk loses the line, not the server.
    ssize_t written = b.failed ? 0 : write(l->fd, b.data, b.size);
    (void)written;
    pthread_mutex_unlock(&l->mutex);
    upg_buf_free(&b);
}
