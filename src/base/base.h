// What every module may use: errors, memory, files, text building, hashing. Nothing here knows about models.
//
// One convention everywhere: a function returns 0 on success and -1 on failure with a one-line message in the caller's
// upg_error. A pointer-returning constructor returns NULL on failure, likewise with a message.
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "upg.h"

// Writes the message (one line, no trailing newline; control characters are replaced by '?') and returns -1. e may be
// NULL.
int upg_fail(upg_error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// Puts '?' for every byte that is no part of a UTF-8 character, as one is that was cut off where room ended.
void upg_mend_utf8(char *text);

// Memory. Each returns NULL with a message when the size overflows or memory is short; free() releases all but aligned
// ones.
void *upg_alloc(size_t count, size_t size, upg_error *e); // zeroed
void *upg_resize(void *p, size_t count, size_t size, upg_error *e);
char *upg_strdup(const char *s, size_t n, upg_error *e);
void *upg_aligned_alloc(size_t bytes, upg_error *e); // zeroed, 64-byte aligned, 64 readable bytes after the end
void upg_aligned_free(void *p);
uint64_t upg_alloc_count(void); // allocations made through the functions above so far, for tests

// Blocks that live and die together, each aligned and zeroed as by upg_aligned_alloc.
typedef struct upg_arena {
    void **blocks; // [n]
    size_t n, bytes;
} upg_arena;
void *upg_arena_take(upg_arena *a, size_t count, size_t size, upg_error *e);
void upg_arena_free(upg_arena *a);

// A read-only file: mapped when it can be, read into memory when not (a pipe).
typedef struct upg_file {
    const uint8_t *data; // [size]
    size_t size;
    char *path; // for messages
    bool mapped;
} upg_file;
int upg_file_open(upg_file *f, const char *path, upg_error *e);
void upg_file_close(upg_file *f);
// All of it, at an offset of an open file. A file that ends before is an error.
int upg_read_at(int fd, const char *path, void *data, size_t size, uint64_t offset, upg_error *e);
int upg_write_at(int fd, const char *path, const void *data, size_t size, uint64_t offset, upg_error *e);
bool upg_path_is_dir(const char *path);
bool upg_path_exists(const char *path);
// Reads a whole small file (at most max bytes) into a NUL-terminated string that the caller frees.
char *upg_read_text(const char *path, size_t max, size_t *size, upg_error *e);

// A growing byte string. After a failed append `failed` is set and later appends do nothing: check once at the end.
typedef struct upg_buf {
    char *data; // NUL-terminated when size > 0
    size_t size, capacity;
    bool failed;
} upg_buf;
void upg_buf_add(upg_buf *b, const void *data, size_t n);
void upg_buf_str(upg_buf *b, const char *s);
void upg_buf_fmt(upg_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void upg_buf_free(upg_buf *b);
int upg_buf_check(const upg_buf *b, upg_error *e); // -1 with "out of memory" if an append failed

static inline uint16_t upg_le16(const void *p) {
    const uint8_t *b = p;
    return (uint16_t)(b[0] | b[1] << 8);
}
static inline uint32_t upg_le32(const void *p) {
    return upg_le16(p) | (uint32_t)upg_le16((const uint8_t *)p + 2) << 16;
}
static inline uint64_t upg_le64(const void *p) {
    return upg_le32(p) | (uint64_t)upg_le32((const uint8_t *)p + 4) << 32;
}

double upg_now(void); // seconds, monotonic
