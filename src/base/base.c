// Errors, memory, files, byte strings. See base.h.
#include "base/base.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

// Bytes of the UTF-8 character that text begins with; 0 if it begins with none.
static int utf8_length(const uint8_t *s) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    int n = s[0] < 0x80 ? 1 : s[0] >> 5 == 6 ? 2 : s[0] >> 4 == 14 ? 3 : s[0] >> 3 == 30 ? 4 : 0;
    uint32_t c = n > 1 ? s[0] & (0x7f >> n) : s[0];
    for (int i = 1; i < n; i++) {
        if (s[i] >> 6 != 2) return 0; // a NUL too
        c = c << 6 | (s[i] & 0x3f);
    }
    return n && c >= least[n] && c < 0x110000 && c >> 11 != 0x1b ? n : 0;
}

void upg_mend_utf8(char *text) {
    for (uint8_t *s = (uint8_t *)text; *s;) {
        int n = utf8_length(s);
        if (!n) *s = '?';
        s += n ? n : 1;
    }
}

int upg_fail(upg_error *e, const char *fmt, ...) {
    if (!e) return -1;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    for (char *p = e->message; *p; p++)
        if ((unsigned char)*p < 32 || *p == 127) *p = '?';
    upg_mend_utf8(e->message);
    return -1;
}

static atomic_uint_fast64_t n_allocs;
uint64_t upg_alloc_count(void) {
    return atomic_load(&n_allocs);
}

static void *out_of_memory(size_t count, size_t size, upg_error *e) {
    upg_fail(e, "out of memory: %zu x %zu bytes", count, size);
    return NULL;
}

void *upg_alloc(size_t count, size_t size, upg_error *e) {
    atomic_fetch_add(&n_allocs, 1);
    void *p = calloc(count ? count : 1, size ? size : 1);
    return p ? p : out_of_memory(count, size, e);
}

void *upg_resize(void *old, size_t count, size_t size, upg_error *e) {
    atomic_fetch_add(&n_allocs, 1);
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return out_of_memory(count, size, e);
    void *p = realloc(old, bytes ? bytes : 1);
    return p ? p : out_of_memory(count, size, e);
}

char *upg_strdup(const char *s, size_t n, upg_error *e) {
    char *p = n < SIZE_MAX ? upg_alloc(n + 1, 1, e) : out_of_memory(n, 1, e);
    if (p && n) memcpy(p, s, n);
    return p;
}

// calloc, so that a large block's pages are taken only when they are touched; its own pointer stands just before the
// aligned one.
// Large blocks lie in pages of 2 MiB where the system gives them when asked; if not, nothing is lost.
static void ask_for_huge_pages(void *block, size_t bytes) {
#ifdef MADV_HUGEPAGE
    enum { HUGE_PAGE = 2 << 20, PAGE = 4096 };
    uintptr_t start = ((uintptr_t)block + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
    if (bytes >= 2 * HUGE_PAGE) madvise((void *)start, bytes - PAGE, MADV_HUGEPAGE);
#else
    (void)block, (void)bytes;
#endif
}

void *upg_aligned_alloc(size_t bytes, upg_error *e) {
    atomic_fetch_add(&n_allocs, 1);
    if (bytes > SIZE_MAX / 2) return out_of_memory(bytes, 1, e);
    void *block = calloc(1, bytes + 3 * 64);
    if (!block) return out_of_memory(bytes, 1, e);
    ask_for_huge_pages(block, bytes);
    void **p = (void **)(((uintptr_t)block + 2 * 64 - 1) & ~(uintptr_t)63);
    p[-1] = block;
    return p;
}

void upg_aligned_free(void *p) {
    if (p) free(((void **)p)[-1]);
}

void *upg_arena_take(upg_arena *a, size_t count, size_t size, upg_error *e) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return out_of_memory(count, size, e);
    void **blocks = upg_resize(a->blocks, a->n + 1, sizeof *blocks, e);
    if (!blocks) return NULL;
    a->blocks = blocks;
    void *p = upg_aligned_alloc(bytes, e);
    if (p) {
        blocks[a->n++] = p;
        a->bytes += bytes;
    }
    return p;
}

void upg_arena_free(upg_arena *a) {
    for (size_t i = 0; i < a->n; i++) upg_aligned_free(a->blocks[i]);
    free(a->blocks);
    *a = (upg_arena){0};
}

enum { MOST_AT_ONCE = 1 << 30 }; // bytes; Linux takes at most 2 GiB in one call

static int read_all(int fd, upg_file *f, upg_error *e) {
    size_t capacity = 0, size = 0;
    uint8_t *data = NULL;
    for (;;) {
        if (size == capacity) {
            capacity = capacity ? capacity * 2 : 65536;
            uint8_t *p = upg_resize(data, capacity, 1, e);
            if (!p) {
                free(data);
                return -1;
            }
            data = p;
        }
        ssize_t n = read(fd, data + size, capacity - size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            free(data);
            return upg_fail(e, "%s: %s", f->path, strerror(errno));
        }
        if (n == 0) break;
        size += (size_t)n;
    }
    f->data = data;
    f->size = size;
    return 0;
}

int upg_file_open(upg_file *f, const char *path, upg_error *e) {
    *f = (upg_file){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return upg_fail(e, "%s: %s", path, strerror(errno));
    struct stat st;
    int rc = -1;
    f->path = upg_strdup(path, strlen(path), e);
    if (!f->path) goto out;
    if (fstat(fd, &st)) {
        upg_fail(e, "%s: %s", path, strerror(errno));
    } else if (S_ISDIR(st.st_mode)) {
        upg_fail(e, "%s: is a directory", path);
    } else if (S_ISREG(st.st_mode) && st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            upg_fail(e, "%s: cannot map %lld bytes: %s", path, (long long)st.st_size, strerror(errno));
        } else {
            *f = (upg_file){.data = p, .size = (size_t)st.st_size, .path = f->path, .mapped = true};
            rc = 0;
        }
    } else {
        rc = read_all(fd, f, e);
    }
out:
    close(fd);
    if (rc) upg_file_close(f);
    return rc;
}

void upg_file_close(upg_file *f) {
    if (f->mapped)
        munmap((void *)(uintptr_t)f->data, f->size);
    else
        free((void *)(uintptr_t)f->data);
    free(f->path);
    *f = (upg_file){0};
}

int upg_read_at(int fd, const char *path, void *data, size_t size, uint64_t offset, upg_error *e) {
    uint8_t *p = data;
    while (size) {
        ssize_t n = pread(fd, p, size < MOST_AT_ONCE ? size : MOST_AT_ONCE, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return upg_fail(e, "%s: cannot read: %s", path, strerror(errno));
        if (!n) return upg_fail(e, "%s: ends before byte %llu", path, (unsigned long long)(offset + size));
        p += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int upg_write_at(int fd, const char *path, const void *data, size_t size, uint64_t offset, upg_error *e) {
    const uint8_t *p = data;
    while (size) {
        ssize_t n = pwrite(fd, p, size < MOST_AT_ONCE ? size : MOST_AT_ONCE, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return upg_fail(e, "%s: cannot write: %s", path, strerror(n ? errno : ENOSPC));
        p += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

bool upg_path_is_dir(const char *path) {
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

bool upg_path_exists(const char *path) {
    return !access(path, F_OK);
}

char *upg_read_text(const char *path, size_t max, size_t *size, upg_error *e) {
    upg_file f;
    if (upg_file_open(&f, path, e)) return NULL;
    char *s = NULL;
    if (f.size > max)
        upg_fail(e, "%s: %zu bytes, more than the %zu this file may have", path, f.size, max);
    else
        s = upg_strdup((const char *)f.data, f.size, e);
    if (s && size) *size = f.size;
    upg_file_close(&f);
    return s;
}

static bool buf_reserve(upg_buf *b, size_t n) {
    if (b->failed) return false;
    size_t need;
    if (__builtin_add_overflow(b->size, n, &need) || need > SIZE_MAX / 2 - 1) {
        b->failed = true;
        return false;
    }
    if (need + 1 > b->capacity) {
        size_t capacity = b->capacity * 2 > need + 1 ? b->capacity * 2 : need + 64;
        char *p = upg_resize(b->data, capacity, 1, NULL);
        if (!p) {
            b->failed = true;
            return false;
        }
        b->data = p;
        b->capacity = capacity;
    }
    return true;
}

void upg_buf_add(upg_buf *b, const void *data, size_t n) {
    if (!buf_reserve(b, n)) return;
    if (n) memcpy(b->data + b->size, data, n);
    b->size += n;
    b->data[b->size] = 0;
}

void upg_buf_str(upg_buf *b, const char *s) {
    upg_buf_add(b, s, strlen(s));
}

void upg_buf_fmt(upg_buf *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n >= 0 && buf_reserve(b, (size_t)n)) {
        vsnprintf(b->data + b->size, (size_t)n + 1, fmt, again);
        b->size += (size_t)n;
    } else {
        b->failed = true;
    }
    va_end(again);
}

void upg_buf_free(upg_buf *b) {
    free(b->data);
    *b = (upg_buf){0};
}

int upg_buf_check(const upg_buf *b, upg_error *e) {
    return b->failed ? upg_fail(e, "out of memory") : 0;
}

double upg_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
