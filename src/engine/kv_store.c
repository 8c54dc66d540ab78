// A folder of KV blocks. See kv_store.h.
#include "engine/kv_store.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { N_JOBS = 4, REST_SECONDS = 30, MAX_FILES = 1 << 20 };

static const char magic[8] = "UPGKV\0\0\1";

typedef struct header { // in the byte order of the machine, as the block is
    char magic[8];
    uint64_t block_bytes;
    uint8_t model[16], hash[16], parent[16];
    int32_t first, n;
    int32_t tokens[UPG_KV_TOKENS]; // zeros behind n
} header;

typedef enum job_state { JOB_FREE, JOB_FILLING, JOB_WAITING, JOB_DONE } job_state;
typedef struct job {
    job_state state;
    bool written;
    header h;
    void *data; // [block_bytes]
    void *tag;
} job;

struct upg_kv_store {
    char *folder; // of this model
    int folder_fd, lock_fd;
    uint8_t model[16];
    size_t block_bytes;
    uint64_t bytes;
    void *loaded; // [block_bytes]
    upg_kv_record *records;
    size_t n_records;
    double resting; // until then nothing is written
    upg_kv_log *log;
    void *log_ctx;
    pthread_t thread;
    bool running;
    pthread_mutex_t mutex; // over the jobs and stop
    pthread_cond_t work, done;
    job jobs[N_JOBS];
    bool stop;
};

static void say(const upg_kv_store *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(const upg_kv_store *s, const char *fmt, ...) {
    char line[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (s->log) s->log(s->log_ctx, line);
}

static void hex(const uint8_t hash[16], char out[33]) {
    for (int i = 0; i < 16; i++) snprintf(out + 2 * i, 3, "%02x", hash[i]);
}

static void file_name(const uint8_t hash[16], const char *ending, char out[48]) {
    hex(hash, out);
    snprintf(out + 32, 16, "%s", ending);
}

uint64_t upg_kv_store_file_bytes(const upg_kv_store *s) {
    return sizeof(header) + s->block_bytes + sizeof(XXH128_canonical_t);
}

static void checksum(const header *h, const void *data, size_t n, XXH128_canonical_t *out) {
    // Of the two parts' own sums, so that a block need not be copied behind its header.
    struct {
        XXH128_canonical_t parts[2];
    } both;
    XXH128_canonicalFromHash(&both.parts[0], XXH3_128bits(h, sizeof *h));
    XXH128_canonicalFromHash(&both.parts[1], XXH3_128bits(data, n));
    XXH128_canonicalFromHash(out, XXH3_128bits(&both, sizeof both));
}

// ---- Reading ----

// 0, or -1 with the reason.
static int read_header(const upg_kv_store *s, int fd, const char *name, header *h, upg_error *e) {
    struct stat st;
    if (fstat(fd, &st)) return upg_fail(e, "%s", strerror(errno));
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != upg_kv_store_file_bytes(s))
        return upg_fail(e, "%lld bytes instead of %llu", (long long)st.st_size,
                        (unsigned long long)upg_kv_store_file_bytes(s));
    if (upg_read_at(fd, name, h, sizeof *h, 0, e)) return -1;
    if (memcmp(h->magic, magic, sizeof magic)) return upg_fail(e, "another format or version");
    char expected[48];
    file_name(h->hash, ".kv", expected);
    if (h->block_bytes != s->block_bytes || memcmp(h->model, s->model, 16) || strcmp(name, expected))
        return upg_fail(e, "it belongs to another model or name");
    if (h->n < 1 || h->n > UPG_KV_TOKENS || h->first < 0 || h->first % UPG_KV_TOKENS)
        return upg_fail(e, "%d tokens at position %d", h->n, h->first);
    return 0;
}

static void drop(upg_kv_store *s, const char *name, const char *why) {
    say(s, "KV cache: %s/%s is ignored and removed: %s", s->folder, name, why);
    unlinkat(s->folder_fd, name, 0);
}

const void *upg_kv_store_load(upg_kv_store *s, const upg_kv_record *r) {
    char name[48];
    header h;
    upg_error e;
    XXH128_canonical_t stored, computed;
    file_name(r->hash, ".kv", name);
    int fd = openat(s->folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int rc = fd < 0 ? upg_fail(&e, "%s", strerror(errno)) : read_header(s, fd, name, &h, &e);
    if (!rc) rc = upg_read_at(fd, name, s->loaded, s->block_bytes, sizeof h, &e);
    if (!rc) rc = upg_read_at(fd, name, &stored, sizeof stored, sizeof h + s->block_bytes, &e);
    if (!rc) {
        checksum(&h, s->loaded, s->block_bytes, &computed);
        if (memcmp(&stored, &computed, sizeof stored)) rc = upg_fail(&e, "its checksum does not fit");
    }
    if (!rc && (h.first != r->first || h.n != r->n || memcmp(h.tokens, r->tokens, (size_t)r->n * sizeof *r->tokens)))
        rc = upg_fail(&e, "its tokens are not those of its name");
    if (fd >= 0) {
        if (!rc) futimens(fd, NULL); // how recently it was of use, for the next start
        close(fd);
    }
    if (!rc) return s->loaded;
    drop(s, name, e.message);
    return NULL;
}

// ---- Opening ----

static int by_place(const void *a, const void *b) {
    int32_t x = ((const upg_kv_record *)a)->first, y = ((const upg_kv_record *)b)->first;
    return (x > y) - (x < y);
}

// One file of the folder; what is not a block of ours goes.
static int scan_file(upg_kv_store *s, const char *name, upg_kv_record *r) {
    header h;
    upg_error e;
    struct stat st = {0};
    size_t n = strlen(name);
    if (n < 3 || strcmp(name + n - 3, ".kv")) {
        if (n > 4 && !strcmp(name + n - 4, ".new")) unlinkat(s->folder_fd, name, 0); // a write that was cut off
        return -1;
    }
    int fd = openat(s->folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int rc = fd < 0 ? upg_fail(&e, "%s", strerror(errno)) : read_header(s, fd, name, &h, &e);
    if (!rc) rc = fstat(fd, &st);
    if (fd >= 0) close(fd);
    if (rc) {
        drop(s, name, e.message);
        return -1;
    }
    *r = (upg_kv_record){
        .used = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec, .first = h.first, .n = h.n};
    memcpy(r->hash, h.hash, 16);
    memcpy(r->parent, h.parent, 16);
    memcpy(r->tokens, h.tokens, sizeof r->tokens);
    return 0;
}

static int scan(upg_kv_store *s, upg_error *e) {
    DIR *d = opendir(s->folder);
    if (!d) return upg_fail(e, "%s: %s", s->folder, strerror(errno));
    size_t capacity = 0;
    int rc = 0;
    for (const struct dirent *entry; s->n_records < MAX_FILES && (entry = readdir(d));) {
        if (*entry->d_name == '.') continue;
        if (s->n_records == capacity) {
            capacity = capacity ? 2 * capacity : 64;
            upg_kv_record *more = upg_resize(s->records, capacity, sizeof *more, e);
            if (!more) {
                rc = -1;
                break;
            }
            s->records = more;
        }
        if (!scan_file(s, entry->d_name, &s->records[s->n_records])) s->n_records++;
    }
    closedir(d);
    if (s->n_records) qsort(s->records, s->n_records, sizeof *s->records, by_place);
    s->bytes = s->n_records * upg_kv_store_file_bytes(s);
    return rc;
}

// The model's folder in the folder, locked.
static int open_folder(upg_kv_store *s, const char *folder, upg_error *e) {
    char name[33];
    upg_buf b = {0};
    hex(s->model, name);
    upg_buf_fmt(&b, "%s/%s", folder, name);
    if (upg_buf_check(&b, e)) return -1;
    s->folder = b.data;
    if (mkdir(folder, 0700) && errno != EEXIST) return upg_fail(e, "%s: %s", folder, strerror(errno));
    if (mkdir(s->folder, 0700) && errno != EEXIST) return upg_fail(e, "%s: %s", s->folder, strerror(errno));
    if ((s->folder_fd = open(s->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 ||
        (s->lock_fd = openat(s->folder_fd, ".lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0)
        return upg_fail(e, "%s: %s", s->folder, strerror(errno));
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB))
        return errno == EWOULDBLOCK ? upg_fail(e, "%s: another process uses it", s->folder)
                                    : upg_fail(e, "%s: %s", s->folder, strerror(errno));
    return 0;
}

// ---- Writing ----

static int write_file(upg_kv_store *s, const job *j, upg_error *e) {
    char name[48], temporary[48];
    XXH128_canonical_t sum;
    file_name(j->h.hash, ".kv", name);
    file_name(j->h.hash, ".new", temporary);
    checksum(&j->h, j->data, s->block_bytes, &sum);
    int fd = openat(s->folder_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return upg_fail(e, "%s: %s", s->folder, strerror(errno));
    int rc = upg_write_at(fd, s->folder, &j->h, sizeof j->h, 0, e);
    if (!rc) rc = upg_write_at(fd, s->folder, j->data, s->block_bytes, sizeof j->h, e);
    if (!rc) rc = upg_write_at(fd, s->folder, &sum, sizeof sum, sizeof j->h + s->block_bytes, e);
    if (!rc && fdatasync(fd)) rc = upg_fail(e, "%s: %s", s->folder, strerror(errno));
    if (close(fd) && !rc) rc = upg_fail(e, "%s: %s", s->folder, strerror(errno));
    if (!rc && renameat(s->folder_fd, temporary, s->folder_fd, name))
        rc = upg_fail(e, "%s: %s", s->folder, strerror(errno));
    if (rc) unlinkat(s->folder_fd, temporary, 0);
    return rc;
}

static job *find_job(upg_kv_store *s, job_state state) {
    for (int i = 0; i < N_JOBS; i++)
        if (s->jobs[i].state == state) return &s->jobs[i];
    return NULL;
}

static void *writer(void *ctx) {
    upg_kv_store *s = ctx;
    pthread_mutex_lock(&s->mutex);
    for (;;) {
        job *j = find_job(s, JOB_WAITING);
        if (!j && s->stop) break;
        if (!j) {
            pthread_cond_wait(&s->work, &s->mutex);
            continue;
        }
        pthread_mutex_unlock(&s->mutex);
        upg_error e;
        bool written = !write_file(s, j, &e);
        if (!written) say(s, "KV cache: a block could not be kept: %s", e.message);
        pthread_mutex_lock(&s->mutex);
        j->written = written;
        j->state = JOB_DONE;
        pthread_cond_signal(&s->done);
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

static int start_writer(upg_kv_store *s, upg_error *e) {
    for (int i = 0; i < N_JOBS; i++)
        if (!(s->jobs[i].data = upg_aligned_alloc(s->block_bytes, e))) return -1;
    if (!(s->loaded = upg_aligned_alloc(s->block_bytes, e))) return -1;
    int rc = pthread_create(&s->thread, NULL, writer, s);
    if (rc) return upg_fail(e, "cannot start a thread: %s", strerror(rc));
    s->running = true;
    return 0;
}

upg_kv_store *upg_kv_store_open(const char *folder, const uint8_t model[16], size_t block_bytes, upg_kv_log *log,
                                void *log_ctx, upg_error *e) {
    upg_kv_store *s = upg_alloc(1, sizeof *s, e);
    if (!s) return NULL;
    s->folder_fd = s->lock_fd = -1;
    s->block_bytes = block_bytes;
    s->log = log;
    s->log_ctx = log_ctx;
    memcpy(s->model, model, 16);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->work, NULL);
    pthread_cond_init(&s->done, NULL);
    if (open_folder(s, folder, e) || scan(s, e) || start_writer(s, e)) {
        upg_kv_store_close(s);
        return NULL;
    }
    return s;
}

void upg_kv_store_close(upg_kv_store *s) {
    if (!s) return;
    if (s->running) {
        pthread_mutex_lock(&s->mutex);
        s->stop = true;
        pthread_cond_signal(&s->work);
        pthread_mutex_unlock(&s->mutex);
        pthread_join(s->thread, NULL);
        fsync(s->folder_fd);
    }
    for (int i = 0; i < N_JOBS; i++) upg_aligned_free(s->jobs[i].data);
    upg_aligned_free(s->loaded);
    if (s->lock_fd >= 0) close(s->lock_fd);
    if (s->folder_fd >= 0) close(s->folder_fd);
    pthread_mutex_destroy(&s->mutex);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->done);
    free(s->records);
    free(s->folder);
    free(s);
}

const upg_kv_record *upg_kv_store_records(const upg_kv_store *s, size_t *n) {
    *n = s->n_records;
    return s->records;
}

uint64_t upg_kv_store_bytes(const upg_kv_store *s) {
    return s->bytes;
}

void *upg_kv_store_buffer(upg_kv_store *s, bool wait) {
    if (upg_now() < s->resting) return NULL;
    pthread_mutex_lock(&s->mutex);
    job *j = find_job(s, JOB_FREE);
    while (!j && wait && !find_job(s, JOB_DONE)) pthread_cond_wait(&s->done, &s->mutex);
    if (j) j->state = JOB_FILLING;
    pthread_mutex_unlock(&s->mutex);
    return j ? j->data : NULL;
}

void upg_kv_store_save(upg_kv_store *s, void *buffer, const upg_kv_record *r, void *tag) {
    pthread_mutex_lock(&s->mutex);
    for (int i = 0; i < N_JOBS; i++) {
        job *j = &s->jobs[i];
        if (j->data != buffer) continue;
        if (!r) {
            j->state = JOB_FREE;
            break;
        }
        j->h = (header){.block_bytes = s->block_bytes, .first = r->first, .n = r->n};
        memcpy(j->h.magic, magic, sizeof magic);
        memcpy(j->h.model, s->model, 16);
        memcpy(j->h.hash, r->hash, 16);
        memcpy(j->h.parent, r->parent, 16);
        memcpy(j->h.tokens, r->tokens, (size_t)r->n * sizeof *r->tokens);
        j->tag = tag;
        j->state = JOB_WAITING;
        s->bytes += upg_kv_store_file_bytes(s);
    }
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->mutex);
}

bool upg_kv_store_done(upg_kv_store *s, void **tag, bool *written) {
    pthread_mutex_lock(&s->mutex);
    job *j = find_job(s, JOB_DONE);
    if (j) {
        j->state = JOB_FREE;
        *tag = j->tag;
        *written = j->written;
    }
    pthread_mutex_unlock(&s->mutex);
    if (j && !*written) {
        s->bytes -= upg_kv_store_file_bytes(s);
        s->resting = upg_now() + REST_SECONDS;
    }
    return j;
}

void upg_kv_store_remove(upg_kv_store *s, const uint8_t hash[16], const char *why) {
    char name[48];
    file_name(hash, ".kv", name);
    if (why)
        drop(s, name, why);
    else
        unlinkat(s->folder_fd, name, 0);
    s->bytes -= upg_kv_store_file_bytes(s);
}
