// Errors, memory, byte strings and files: what every other module takes for granted.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/base.h"

// Under a sanitizer an allocation that is too large is to return NULL, as it does without.
#define EXPORTED __attribute__((visibility("default")))
const char *__asan_default_options(void);
const char *__tsan_default_options(void);
EXPORTED const char *__asan_default_options(void) {
    return "allocator_may_return_null=1";
}
EXPORTED const char *__tsan_default_options(void) {
    return "allocator_may_return_null=1";
}

static void assert_says(const upg_error *e, const char *part) {
    if (!strstr(e->message, part)) fail_msg("message '%s' does not contain '%s'", e->message, part);
}

// ---- Errors ----

static void a_message_is_one_line(void **state) {
    (void)state;
    upg_error e;
    assert_int_equal(upg_fail(&e, "%s: %d of %zu", "weights", -3, (size_t)7), -1);
    assert_string_equal(e.message, "weights: -3 of 7");
    assert_int_equal(upg_fail(&e, "a\nb\tc\x1b[31m\x7f %s", "d\r\n"), -1);
    assert_string_equal(e.message, "a?b?c?[31m? d??");
    upg_fail(&e, "%s", "a\xc3 \xff\xe2\x82 \xc0\x80\xed\xa0\x80 \xf0\x9f\x98\x80");
    assert_string_equal(e.message, "a? ??? ????? \xf0\x9f\x98\x80"); // what is not UTF-8 does not
    upg_fail(&e, "%512s", "caf\xc3\xa9");                            // cut in the middle of a character
    assert_string_equal(e.message + 507, "caf?");
    upg_fail(&e, "%s", "caf\xc3\xa9"); // UTF-8 stays
    assert_string_equal(e.message, "caf\xc3\xa9");
    assert_int_equal(upg_fail(NULL, "nobody asks %d", 1), -1);
}

static void a_long_message_is_cut(void **state) {
    (void)state;
    struct {
        upg_error e;
        char guard;
    } s = {.guard = 'g'};
    char text[2 * sizeof s.e.message];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    upg_fail(&s.e, "%s", text);
    assert_int_equal(strlen(s.e.message), sizeof s.e.message - 1);
    assert_memory_equal(s.e.message, text, sizeof s.e.message - 1);
    assert_int_equal(s.guard, 'g');
}

// ---- Memory ----

static void memory_comes_zeroed(void **state) {
    (void)state;
    upg_error e;
    static const uint8_t zeros[4096];
    for (size_t n = 0; n < 1000; n += 37) {
        uint8_t *p = upg_alloc(n, 4, &e);
        assert_non_null(p); // also when nothing is asked for
        assert_memory_equal(p, zeros, 4 * n);
        memset(p, 0xff, 4 * n);
        free(p);
    }
    for (size_t n = 0; n < 1000; n++) {
        uint8_t *p = upg_aligned_alloc(n, &e);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        assert_memory_equal(p, zeros, n + 64); // the bytes after the end are readable
        memset(p, 0xff, n);
        upg_aligned_free(p);
    }
    upg_aligned_free(NULL);
}

// Property: a size that overflows or that no machine has is a message, never a small block.
static void too_much_memory_is_refused(void **state) {
    (void)state;
    static const size_t sizes[][2] = {{SIZE_MAX, 1},
                                      {1, SIZE_MAX},
                                      {SIZE_MAX, SIZE_MAX},
                                      {SIZE_MAX / 2 + 1, 2},
                                      {SIZE_MAX / 8 + 2, 8},
                                      {(size_t)1 << 32, (size_t)1 << 32},
                                      {((size_t)1 << 32) + 1, (size_t)1 << 32}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        upg_error e = {{0}};
        char expected[128];
        snprintf(expected, sizeof expected, "out of memory: %zu x %zu bytes", sizes[i][0], sizes[i][1]);
        assert_null(upg_alloc(sizes[i][0], sizes[i][1], &e));
        assert_string_equal(e.message, expected);
        assert_null(upg_alloc(sizes[i][0], sizes[i][1], NULL));
        e = (upg_error){{0}};
        char *old = upg_strdup("kept", 4, &e);
        assert_non_null(old);
        assert_null(upg_resize(old, sizes[i][0], sizes[i][1], &e));
        assert_string_equal(e.message, expected);
        assert_string_equal(old, "kept");
        free(old);
    }
    static const size_t bytes[] = {SIZE_MAX, SIZE_MAX - 63, SIZE_MAX - 64, SIZE_MAX - 127, SIZE_MAX / 2, SIZE_MAX / 4};
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        upg_error e = {{0}};
        assert_null(upg_aligned_alloc(bytes[i], &e));
        assert_says(&e, "out of memory");
    }
    upg_error e = {{0}};
    assert_null(upg_strdup("", SIZE_MAX, &e));
    assert_says(&e, "out of memory");
}

static void resizing_keeps_the_contents(void **state) {
    (void)state;
    upg_error e;
    uint32_t *p = NULL;
    for (uint32_t n = 1; n < 2000; n++) {
        p = upg_resize(p, n, sizeof *p, &e);
        assert_non_null(p);
        p[n - 1] = n;
    }
    p = upg_resize(p, 1000, sizeof *p, &e);
    for (uint32_t i = 0; i < 1000; i++) assert_int_equal(p[i], i + 1);
    p = upg_resize(p, 0, sizeof *p, &e);
    assert_non_null(p);
    free(p);
}

static void a_copied_string_ends_in_nul(void **state) {
    (void)state;
    upg_error e;
    char *s = upg_strdup("ab\0cd", 5, &e);
    assert_memory_equal(s, "ab\0cd\0", 6);
    free(s);
    s = upg_strdup(NULL, 0, &e);
    assert_string_equal(s, "");
    free(s);
}

static void every_allocation_is_counted(void **state) {
    (void)state;
    upg_error e;
    uint64_t before = upg_alloc_count();
    void *a = upg_alloc(1, 1, &e), *b = upg_resize(NULL, 1, 1, &e), *c = upg_strdup("", 0, &e),
         *d = upg_aligned_alloc(1, &e);
    assert_int_equal(upg_alloc_count() - before, 4);
    free(a), free(b), free(c), upg_aligned_free(d);
    assert_int_equal(upg_alloc_count() - before, 4);
}

// ---- Byte strings ----

static void a_byte_string_grows(void **state) {
    (void)state;
    upg_error e;
    upg_buf b = {0};
    char expected[20000];
    size_t n = 0;
    for (int i = 0; n < sizeof expected - 64; i++) {
        upg_buf_add(&b, "x\0y", 3);
        upg_buf_str(&b, "text");
        upg_buf_fmt(&b, "%d|%s", i, "");
        memcpy(expected + n, "x\0ytext", 7);
        n += 7;
        n += (size_t)sprintf(expected + n, "%d|", i);
        assert_int_equal(b.size, n);
        assert_true(b.size < b.capacity);
        assert_int_equal(b.data[n], 0);
    }
    assert_memory_equal(b.data, expected, n);
    assert_int_equal(upg_buf_check(&b, &e), 0);
    upg_buf_add(&b, NULL, 0);
    assert_int_equal(b.size, n);
    upg_buf_free(&b);
    assert_null(b.data);
    assert_int_equal(b.size, 0);
    upg_buf_fmt(&b, "%01000d", 7); // longer than what a new one reserves at first
    assert_int_equal(b.size, 1000);
    assert_int_equal(strlen(b.data), 1000);
    upg_buf_free(&b);
    upg_buf_free(&b);
}

// Property: after an append that fails, the string stays as it was, later appends do nothing and the check says so.
static void a_failed_append_is_remembered(void **state) {
    (void)state;
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 3, SIZE_MAX / 2, SIZE_MAX / 2 - 8, SIZE_MAX / 4};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        upg_error e = {{0}};
        upg_buf b = {0};
        upg_buf_str(&b, "kept");
        upg_buf_add(&b, "", sizes[i]); // never read: there is no room for so much
        assert_true(b.failed);
        upg_buf_str(&b, " more");
        upg_buf_fmt(&b, "%d", 1);
        upg_buf_add(&b, "z", 1);
        assert_string_equal(b.data, "kept");
        assert_int_equal(b.size, 4);
        assert_int_equal(upg_buf_check(&b, &e), -1);
        assert_says(&e, "out of memory");
        upg_buf_free(&b);
        assert_false(b.failed);
    }
}

// ---- Files ----

static char folder[64];

static char *path_of(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/upg-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    static const char *const names[] = {"file", "empty", "pipe"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unlink(path_of(names[i]));
    return rmdir(folder);
}

static void write_file(const char *name, const void *data, size_t n) {
    FILE *f = fopen(path_of(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

// The descriptor that the next open would get: the same before and after what leaves nothing open.
static int next_descriptor(void) {
    int fd = dup(0);
    if (fd < 0) fd = open("/dev/null", O_RDONLY);
    close(fd);
    return fd;
}

static uint8_t bytes[300001];

static void fill_bytes(void) {
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 2654435761u >> 13);
}

static void a_file_is_its_bytes(void **state) {
    (void)state;
    fill_bytes();
    static const size_t sizes[] = {1, 4095, 4096, 4097, sizeof bytes};
    int fd = next_descriptor();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        write_file("file", bytes, sizes[i]);
        upg_error e;
        upg_file f;
        if (upg_file_open(&f, path_of("file"), &e)) fail_msg("%s", e.message);
        assert_true(f.mapped);
        assert_int_equal(f.size, sizes[i]);
        assert_memory_equal(f.data, bytes, sizes[i]);
        assert_string_equal(f.path, path_of("file"));
        assert_int_equal(next_descriptor(), fd);
        upg_file_close(&f);
        assert_null(f.data);
        upg_file_close(&f); // harmless
    }
}

static void an_empty_file_has_no_bytes(void **state) {
    (void)state;
    upg_error e;
    upg_file f;
    size_t size = 99;
    write_file("empty", "", 0);
    if (upg_file_open(&f, path_of("empty"), &e)) fail_msg("%s", e.message);
    assert_int_equal(f.size, 0);
    assert_false(f.mapped);
    upg_file_close(&f);
    char *text = upg_read_text(path_of("empty"), 0, &size, &e);
    assert_string_equal(text, "");
    assert_int_equal(size, 0);
    free(text);
}

static void *write_pipe(void *path) {
    int fd = open(path, O_WRONLY);
    for (size_t at = 0, n; fd >= 0 && at < sizeof bytes; at += n) { // in pieces that fit nothing evenly
        n = sizeof bytes - at < 7777 ? sizeof bytes - at : 7777;
        ssize_t done = write(fd, bytes + at, n);
        if (done < 0) break;
        n = (size_t)done;
    }
    if (fd >= 0) close(fd);
    return NULL;
}

static void a_pipe_is_read_to_its_end(void **state) {
    (void)state;
    fill_bytes();
    upg_error e;
    upg_file f;
    pthread_t writer;
    int before = next_descriptor();
    char path[128];
    strcpy(path, path_of("pipe"));
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(pthread_create(&writer, NULL, write_pipe, path), 0);
    if (upg_file_open(&f, path, &e)) fail_msg("%s", e.message);
    pthread_join(writer, NULL);
    assert_false(f.mapped);
    assert_int_equal(f.size, sizeof bytes);
    assert_memory_equal(f.data, bytes, sizeof bytes);
    upg_file_close(&f);
    assert_int_equal(next_descriptor(), before);
}

static void what_cannot_be_read_is_named(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"missing", "No such file or directory"}, {"", "is a directory"}, {"file/below", "Not a directory"}};
    write_file("file", "x", 1);
    int fd = next_descriptor();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        upg_error e = {{0}};
        upg_file f;
        assert_int_equal(upg_file_open(&f, path_of(cases[i][0]), &e), -1);
        assert_says(&e, path_of(cases[i][0]));
        assert_says(&e, cases[i][1]);
        assert_null(f.data);
        assert_null(f.path);
        upg_file_close(&f);
        e = (upg_error){{0}};
        assert_null(upg_read_text(path_of(cases[i][0]), 100, NULL, &e));
        assert_says(&e, cases[i][1]);
    }
    assert_int_equal(next_descriptor(), fd);
}

static void a_small_text_is_read_whole_or_refused(void **state) {
    (void)state;
    upg_error e = {{0}};
    size_t size = 0;
    write_file("file",
               "12345\0"
               "789",
               9);
    char *text = upg_read_text(path_of("file"), 9, &size, &e);
    assert_non_null(text);
    assert_int_equal(size, 9);
    assert_memory_equal(text,
                        "12345\0"
                        "789",
                        10);
    free(text);
    assert_null(upg_read_text(path_of("file"), 8, &size, &e));
    assert_says(&e, path_of("file"));
    assert_says(&e, "9 bytes, more than the 8");
}

static void paths_are_told_apart(void **state) {
    (void)state;
    write_file("file", "x", 1);
    assert_true(upg_path_is_dir(folder));
    assert_true(upg_path_exists(folder));
    assert_false(upg_path_is_dir(path_of("file")));
    assert_true(upg_path_exists(path_of("file")));
    assert_false(upg_path_is_dir(path_of("missing")));
    assert_false(upg_path_exists(path_of("missing")));
}

static void little_endian_at_any_address(void **state) {
    (void)state;
    static const uint8_t b[] = {0, 0xf1, 0xe2, 0xd3, 0xc4, 0xb5, 0xa6, 0x97, 0x88};
    assert_int_equal(upg_le16(b + 1), 0xe2f1);
    assert_int_equal(upg_le32(b + 1), 0xc4d3e2f1);
    assert_true(upg_le64(b + 1) == 0x8897a6b5c4d3e2f1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_is_one_line),
        cmocka_unit_test(a_long_message_is_cut),
        cmocka_unit_test(memory_comes_zeroed),
        cmocka_unit_test(too_much_memory_is_refused),
        cmocka_unit_test(resizing_keeps_the_contents),
        cmocka_unit_test(a_copied_string_ends_in_nul),
        cmocka_unit_test(every_allocation_is_counted),
        cmocka_unit_test(a_byte_string_grows),
        cmocka_unit_test(a_failed_append_is_remembered),
        cmocka_unit_test_setup_teardown(a_file_is_its_bytes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(an_empty_file_has_no_bytes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_pipe_is_read_to_its_end, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(what_cannot_be_read_is_named, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_small_text_is_read_whole_or_refused, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(paths_are_told_apart, make_folder, remove_folder),
        cmocka_unit_test(little_endian_at_any_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
