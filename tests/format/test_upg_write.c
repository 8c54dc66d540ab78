// Writing a .upg that fails: nothing of the target's name appears or changes, nothing is left behind, one line says
// why.
#include "format_helpers.h"
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>

static size_t count_files(const char *dir) {
    DIR *d = opendir(dir);
    assert_non_null(d);
    size_t n = 0;
    for (struct dirent *f; (f = readdir(d));) n += f->d_name[0] != '.';
    closedir(d);
    return n;
}

// The folder holds the target alone, as it was.
static void assert_untouched(const char *dir) {
    char path[256];
    upg_buf b = read_image(path_in(path, dir, "m.upg"));
    assert_int_equal(b.size, 8);
    assert_memory_equal(b.data, "original", 8);
    upg_buf_free(&b);
    assert_int_equal(count_files(dir), 1);
}

static upg_writer *start(const char *dir, char path[256], size_t room, upg_error *e) {
    write_text(dir, "m.upg", "original");
    *e = (upg_error){""};
    return upg_writer_new(path_in(path, dir, "m.upg"), "{}", NULL, 1, small_model, COUNT(small_model), room, e);
}

static void limit_file_size(rlim_t bytes) {
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

// A limit on file sizes stands for the full disk.
static void a_full_disk_leaves_the_target_alone(void **state) {
    (void)state;
    char dir[64], path[256];
    upg_error e;
    temporary_folder(dir);
    signal(SIGXFSZ, SIG_IGN);

    write_text(dir, "m.upg", "original");
    limit_file_size(4096);
    upg_writer *w = upg_writer_new(path_in(path, dir, "m.upg"), "{}", NULL, 1, small_model, COUNT(small_model), 0, &e);
    limit_file_size(RLIM_INFINITY);
    assert_null(w); // known before any work is done
    assert_message(e, strerror(EFBIG));
    assert_untouched(dir);

    w = start(dir, path, 0, &e);
    assert_non_null(w);
    limit_file_size(4096);
    uint8_t *data = random_bytes(upg_encoded_bytes(UPG_F32, 0, 1, 5), 1);
    int rc = upg_writer_put(w, 2, data, NULL, &e);
    limit_file_size(RLIM_INFINITY);
    assert_int_equal(rc, -1);
    assert_message(e, strerror(EFBIG));
    assert_int_equal(upg_writer_finish(w, NULL, &e), -1);
    assert_message(e, "was not written");
    assert_untouched(dir);
    upg_writer_free(w);
    free(data);

    w = start(dir, path, 0, &e);
    assert_non_null(w);
    put_all(w, small_model, COUNT(small_model), 3);
    limit_file_size(100);
    rc = upg_writer_finish(w, NULL, &e);
    limit_file_size(RLIM_INFINITY);
    assert_int_equal(rc, -1);
    assert_message(e, strerror(EFBIG));
    assert_untouched(dir);
    assert_int_equal(upg_writer_finish(w, NULL, &e), -1);
    upg_writer_free(w);
    assert_untouched(dir);
    remove_folder(dir);
}

static void an_unfinished_writer_leaves_nothing(void **state) {
    (void)state;
    char dir[64], path[256];
    upg_error e;
    upg_writer *w = start(temporary_folder(dir), path, 0, &e);
    assert_non_null(w);
    assert_int_equal(count_files(dir), 2);
    put_all(w, small_model, COUNT(small_model), 3);
    upg_writer_free(w);
    assert_untouched(dir);
    upg_writer_free(NULL);
    remove_folder(dir);
}

static void two_writers_of_one_target_do_not_meet(void **state) {
    (void)state;
    char dir[64], path[256];
    upg_error e;
    upg_writer *a = start(temporary_folder(dir), path, 0, &e), *b = start(dir, path, 0, &e);
    assert_non_null(a);
    assert_non_null(b);
    put_all(a, small_model, COUNT(small_model), 3);
    put_all(b, small_model, COUNT(small_model), 4);
    assert_int_equal(upg_writer_finish(a, NULL, &e), 0);
    upg_writer_free(a);
    upg_writer_free(b);
    upg_weights w;
    if (upg_weights_open(&w, path, &e) || upg_weights_verify(&w, NULL, NULL, &e)) fail_msg("%s", e.message);
    upg_weights_close(&w);
    assert_int_equal(count_files(dir), 1);
    remove_folder(dir);
}

static void impossible_targets_are_refused_at_once(void **state) {
    (void)state;
    char dir[64], path[256];
    upg_error e = {""};
    temporary_folder(dir);
    assert_null(upg_writer_new(dir, "{}", NULL, 1, small_model, COUNT(small_model), 0, &e));
    assert_message(e, "is a directory");
    path_in(path, dir, "no/such/folder.upg");
    assert_null(upg_writer_new(path, "{}", NULL, 1, small_model, COUNT(small_model), 0, &e));
    assert_message(e, strerror(ENOENT));
    assert_int_equal(count_files(dir), 0);
    remove_folder(dir);
}

// The target becomes a folder while the file is being written, so the rename fails.
static void a_failing_rename_removes_the_temporary_file(void **state) {
    (void)state;
    char dir[64], path[256];
    upg_error e = {""};
    temporary_folder(dir);
    upg_writer *w = upg_writer_new(path_in(path, dir, "m.upg"), "{}", NULL, 1, small_model, COUNT(small_model), 0, &e);
    assert_non_null(w);
    put_all(w, small_model, COUNT(small_model), 3);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(upg_writer_finish(w, NULL, &e), -1);
    assert_message(e, strerror(EISDIR));
    upg_writer_free(w);
    assert_int_equal(count_files(dir), 1);
    remove_folder(dir);
}

static void misuse_is_refused_with_a_reason(void **state) {
    (void)state;
    char dir[64], path[256];
    upg_error e;
    upg_writer *w = start(temporary_folder(dir), path, 20, &e);
    assert_non_null(w);
    uint8_t *data = random_bytes(upg_encoded_bytes(UPG_TRELLIS, 5, 17, 33), 1);
    float *scale = random_scale(17, 1);
    assert_int_equal(upg_writer_put(w, 6, data, NULL, &e), -1);
    assert_message(e, "tensor 6 of 6");
    assert_int_equal(upg_writer_put(w, 0, data, NULL, &e), -1);
    assert_message(e, "'a.weight': no row scales");
    assert_int_equal(upg_writer_put(w, 2, data, scale, &e), -1);
    assert_message(e, "'norm.weight': has no row scales");
    static const float bad[] = {0x1p-51f, -0.0f, -1.0f, 0x1.8p30f, -1.0f / 0.0f, 0.0f / 0.0f, 0x1p-149f};
    for (size_t i = 0; i < COUNT(bad); i++) {
        scale[11] = bad[i];
        assert_int_equal(upg_writer_put(w, 0, data, scale, &e), -1);
        assert_message(e, "of row 11 is neither 0");
    }
    scale[11] = 0x1p30f;
    scale[12] = 0x1p-50f;
    assert_int_equal(upg_writer_put(w, 0, data, scale, &e), 0);
    assert_int_equal(upg_writer_put(w, 0, data, scale, &e), -1);
    assert_message(e, "'a.weight': was written before");
    assert_int_equal(upg_writer_finish(w, NULL, &e), -1);
    assert_message(e, "'b.weight': was not written");
    assert_untouched(dir);
    upg_writer_free(w);
    free(data);
    free(scale);

    static const struct {
        const char *report, *reason;
    } reports[] = {
        {"{\"k\":\"0123456789abc\"}", "the report has 21 bytes, more than the 20 kept for it"},
        {"{", "report: not valid JSON"},
        {"[1]", "report: not a JSON object"},
    };
    for (size_t i = 0; i < COUNT(reports); i++) {
        w = start(dir, path, 20, &e);
        assert_non_null(w);
        put_all(w, small_model, COUNT(small_model), 3);
        assert_int_equal(upg_writer_finish(w, reports[i].report, &e), -1);
        assert_message(e, reports[i].reason);
        upg_writer_free(w);
        assert_untouched(dir);
    }
    remove_folder(dir);
}

static void models_that_could_not_be_read_are_not_written(void **state) {
    (void)state;
    static const struct {
        const char *config, *chat_template;
        upg_writer_tensor t;
        const char *reason;
    } cases[] = {
        {"{}", NULL, {.name = "", .encoding = UPG_F32, .rows = 1, .cols = 1}, "an empty name"},
        {"{}",
         NULL,
         {.name = "__metadata__", .encoding = UPG_F32, .rows = 1, .cols = 1},
         "a name that safetensors reserves"},
        {"{}", NULL, {.name = "pad.7", .encoding = UPG_F32, .rows = 1, .cols = 1}, "reserved for padding"},
        {"{}", NULL, {.name = "x.scale", .encoding = UPG_F32, .rows = 1, .cols = 1}, "reserved for row scales"},
        {"{}", NULL, {.name = "tokenizer", .encoding = UPG_F32, .rows = 1, .cols = 1}, "belong together"},
        {"{}", NULL, {.name = "bytes", .encoding = UPG_BYTES, .rows = 1, .cols = 1}, "belong together"},
        {"{}", NULL, {.name = "x", .encoding = UPG_TRELLIS, .s = 9, .rows = 1, .cols = 1}, "is not allowed"},
        {"{}", NULL, {.name = "x", .encoding = UPG_F32, .rows = 0, .cols = 1}, "is not allowed"},
        {"{}", NULL, {.name = "x", .encoding = UPG_F32, .rows = (int64_t)1 << 40, .cols = 1}, "is not allowed"},
        {"{}", NULL, {.name = "x", .encoding = (upg_encoding)99, .rows = 1, .cols = 1}, "is not allowed"},
        {"{}", NULL, {.name = "norm", .encoding = UPG_F32, .rows = 1, .cols = 1}, "'norm' is there twice"},
        {"{}", NULL, {.name = "\xff", .encoding = UPG_F32, .rows = 1, .cols = 1}, "utf-8"},
        {"{}", "\xc0", {.name = "x", .encoding = UPG_F32, .rows = 1, .cols = 1}, "utf-8"},
        {"[]", NULL, {.name = "x", .encoding = UPG_F32, .rows = 1, .cols = 1}, "config: not a JSON object"},
        {"{\"a\":1,\"a\":1}",
         NULL,
         {.name = "x", .encoding = UPG_F32, .rows = 1, .cols = 1},
         "config: duplicate key 'a'"},
    };
    char dir[64], path[256];
    path_in(path, temporary_folder(dir), "m.upg");
    for (size_t i = 0; i < COUNT(cases); i++) {
        upg_writer_tensor t[] = {{.name = "norm", .encoding = UPG_F32, .rows = 1, .cols = 1}, cases[i].t};
        upg_error e = {""};
        assert_null(upg_writer_new(path, cases[i].config, cases[i].chat_template, 1, t, 2, 0, &e));
        assert_message(e, cases[i].reason);
        assert_int_equal(upg_writer_plan(cases[i].config, cases[i].chat_template, t, 2, 0), 0);
    }
    upg_error e = {""};
    assert_null(upg_writer_new(path, "{}", NULL, 1, small_model, 0, 0, &e));
    assert_null(upg_writer_new(path, "{}", NULL, 1, small_model, 1, SIZE_MAX, &e));
    assert_null(upg_writer_new(path, "{}", NULL, 1, small_model, 1, 60000000, &e));
    assert_int_equal(count_files(dir), 0);
    remove_folder(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_disk_leaves_the_target_alone),
        cmocka_unit_test(an_unfinished_writer_leaves_nothing),
        cmocka_unit_test(two_writers_of_one_target_do_not_meet),
        cmocka_unit_test(impossible_targets_are_refused_at_once),
        cmocka_unit_test(a_failing_rename_removes_the_temporary_file),
        cmocka_unit_test(misuse_is_refused_with_a_reason),
        cmocka_unit_test(models_that_could_not_be_read_are_not_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
