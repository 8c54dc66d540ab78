// Compressing: the file is a function of the original and the options alone, it keeps its budget, what it reports is
// true, and a failure leaves nothing behind but what the next run goes on with.
#include "engine_helpers.h"
#include <dirent.h>
#include "backend/cpu/cpu.h"

static char folder[64];

static upg_compress_result compress(const char *source, const char *name, upg_compress_options o) {
    char path[256];
    upg_error e = {""};
    upg_compress_result r;
    if (upg_compress(source, path_in(path, folder, name), &o, &r, &e)) fail_msg("%s", e.message);
    return r;
}

static void refused(const char *source, const char *name, upg_compress_options o, const char *message) {
    char path[256];
    upg_error e = {""};
    upg_compress_result r;
    assert_int_equal(upg_compress(source, path_in(path, folder, name), &o, &r, &e), -1);
    assert_message(e, message);
    assert_null(r.tensors);
    assert_int_equal(r.n, 0);
}

static int files_in_folder(void) {
    DIR *d = opendir(folder);
    assert_non_null(d);
    int n = -2; // . and ..
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

static void same_bytes(upg_compress_options o, bool scalar) {
    upg_compress_result r = compress(STORIES, "first.upg", o);
    upg_compress_result_free(&r);
    for (int threads = 1; threads <= 3; threads++) {
        o.n_threads = threads;
        r = compress(STORIES, "again.upg", o);
        upg_compress_result_free(&r);
        assert_same_file(folder, "first.upg", "again.upg");
    }
    for (size_t i = 0; upg_cpu_all[i]; i++) {
        const upg_cpu_kernels *k = upg_cpu_all[i];
        bool slow = strncmp(k->isa, "avx", 3) != 0; // searches as scalar does
        if (!k->supported() || (slow && !scalar)) continue;
        setenv("UPG_ISA", k->isa, 1);
        r = compress(STORIES, "again.upg", o);
        unsetenv("UPG_ISA");
        upg_compress_result_free(&r);
        assert_same_file(folder, "first.upg", "again.upg");
    }
}

// The plain search takes seconds (minutes under sanitizers); tests/codec compares it with the others for every K.
static void bytes_depend_on_options_alone(void **state) {
    (void)state;
    for (int bits2 = 4; bits2 <= (SANITIZED ? 4 : 8); bits2++)
        same_bytes((upg_compress_options){.layer_bits = bits2, .head_bits = 12 - bits2}, bits2 == 5 && !SANITIZED);
    same_bytes((upg_compress_options){.layer_bits = UPG_BITS_INT8, .head_bits = UPG_BITS_INT8},
               true); // quick everywhere
    same_bytes((upg_compress_options){.layer_bits = UPG_BITS_SPARSE | 4, .head_bits = UPG_BITS_INT8}, true);
    if (SANITIZED) return;
    same_bytes((upg_compress_options){.bits = 4.8, .rotation_seed = 5}, false);
    same_bytes((upg_compress_options){.layer_bits = 6, .exact_search = true}, false);
}

static void options_change_the_bytes(void **state) {
    (void)state;
    const upg_compress_options variants[] = {
        {.layer_bits = 6}, {.layer_bits = 6, .rotation_seed = 1}, {.layer_bits = 6, .exact_search = true}};
    upg_buf images[COUNT(variants)];
    for (size_t i = 0; i < COUNT(variants); i++) {
        char path[256];
        upg_compress_result r = compress(STORIES, "variant.upg", variants[i]);
        upg_compress_result_free(&r);
        images[i] = read_image(path_in(path, folder, "variant.upg"));
        for (size_t k = 0; k < i; k++)
            assert_true(images[k].size != images[i].size || memcmp(images[k].data, images[i].data, images[i].size));
    }
    for (size_t i = 0; i < COUNT(variants); i++) upg_buf_free(&images[i]);
}

static void budgets_are_kept(void **state) {
    (void)state;
    const double bits[] = {3.6, 4, 4.5, 5, 6, 7, 8, 9};
    uint64_t last = 0;
    for (size_t i = 0; i < COUNT(bits); i++) {
        char path[256];
        struct stat st;
        upg_compress_result r = compress(STORIES, "budget.upg", (upg_compress_options){.bits = bits[i]});
        double budget = bits[i] * (double)r.parameters / 8;
        bool at_most = true; // every matrix is int8 already
        for (size_t k = 0; k < r.n; k++) at_most &= !r.tensors[k].bits2 || r.tensors[k].bits2 == UPG_BITS_INT8;
        assert_int_equal(stat(path_in(path, folder, "budget.upg"), &st), 0);
        assert_int_equal((uint64_t)st.st_size, r.bytes);
        assert_true((double)r.bytes <= budget);
        assert_true(at_most || (double)r.bytes > 0.98 * budget);
        assert_true(r.bytes >= last);
        last = r.bytes;
        upg_compress_result_free(&r);
    }
    refused(STORIES, "budget.upg", (upg_compress_options){.bits = 2}, "but needs at least");
    refused(STORIES, "budget.upg", (upg_compress_options){.ratio = 50}, "but needs at least");
}

// A ratio and the same number of bits are the same budget.
static void ratio_and_bits_agree(void **state) {
    (void)state;
    upg_compress_result a = compress(STORIES, "ratio.upg", (upg_compress_options){.ratio = 6.4});
    upg_compress_result b = compress(STORIES, "bits.upg", (upg_compress_options){.bits = 5});
    assert_same_file(folder, "ratio.upg", "bits.upg");
    upg_compress_result_free(&a);
    upg_compress_result_free(&b);
}

// Relative errors are what the code's distortion allows, and every tensor's hash is right.
static void errors_are_small_and_hashes_right(void **state) {
    (void)state;
    const struct {
        int bits2;
        double least, most; // of |W - W'|^2 / |W|^2
    } levels[] = {{4, 0.05, 0.10},
                  {5, 0.025, 0.055},
                  {6, 0.013, 0.028},
                  {7, 0.007, 0.015},
                  {8, 0.004, 0.008},
                  {UPG_BITS_INT8, 1e-6, 1e-4},
                  {UPG_BITS_SPARSE | UPG_BITS_ROTATED | 8, 1e-3, 0.08},
                  {UPG_BITS_SPARSE | 4, 1e-3, 0.12}};
    for (size_t i = 0; i < COUNT(levels); i++) {
        char path[256];
        upg_error e = {""};
        upg_compress_options o = {.layer_bits = levels[i].bits2, .head_bits = levels[i].bits2};
        upg_compress_result r = compress(STORIES, "errors.upg", o);
        for (size_t k = 0; k < r.n; k++) {
            const upg_compressed_tensor *t = &r.tensors[k];
            if (t->rows == 1 || !t->bits2) continue;
            assert_int_equal(t->bits2, levels[i].bits2 & ~UPG_BITS_ROTATED);
            if (!(t->error > levels[i].least && t->error < levels[i].most))
                fail_msg("%s: error %g at 2K = %d", t->name, t->error, t->bits2);
        }
        upg_weights w;
        if (upg_weights_open(&w, path_in(path, folder, "errors.upg"), &e) || upg_weights_verify(&w, NULL, NULL, &e))
            fail_msg("%s", e.message);
        upg_weights_close(&w);
        upg_compress_result_free(&r);
    }
}

// ---- Failures ----

static bool stop_at_half(void *ctx, double done, const char *tensor) {
    (void)tensor;
    *(double *)ctx = done;
    return done > 0.5;
}

static void failures_leave_nothing_but_what_goes_on(void **state) {
    (void)state;
    char path[256];
    double done = 0;
    compress_model(STORIES, path_in(path, folder, "good.upg"), &(upg_compress_options){.layer_bits = 4});
    write_text(folder, "kept.upg", "precious");
    int before = files_in_folder();
    refused(STORIES, "kept.upg",
            (upg_compress_options){.layer_bits = 4, .progress = stop_at_half, .progress_ctx = &done}, "interrupted");
    assert_true(done > 0.5 && done < 1);
    refused(STORIES, "kept.upg", (upg_compress_options){.bits = 1}, "but needs at least");
    refused(path, "kept.upg", (upg_compress_options){.layer_bits = 4}, "is compressed already");
    refused("models", "kept.upg", (upg_compress_options){.layer_bits = 4}, "config.json");
    refused("no/such/model", "kept.upg", (upg_compress_options){.layer_bits = 4}, "no/such/model");
    refused(STORIES, "no/such/folder.upg", (upg_compress_options){.layer_bits = 4}, "no/such/folder.upg");
    refused(STORIES, "", (upg_compress_options){.layer_bits = 4}, "is a directory");
    assert_int_equal(files_in_folder(), before + 1); // kept.upg.partial: what was done by half
    upg_buf b = read_image(path_in(path, folder, "kept.upg"));
    assert_string_equal(b.data, "precious");
    upg_buf_free(&b);
    compress_model(STORIES, path_in(path, folder, "kept.upg"), &(upg_compress_options){.layer_bits = 4});
    assert_int_equal(files_in_folder(), before);
    assert_same_file(folder, "good.upg", "kept.upg");
}

static void copy_stories(const char *to, size_t poison, uint32_t value) {
    char path[256];
    upg_error e = {""};
    static const char *const names[] = {"config.json", "tokenizer.json", "model.safetensors"};
    assert_int_equal(mkdir(path_in(path, folder, to), 0777), 0);
    for (size_t i = 0; i < COUNT(names); i++) {
        upg_buf b = read_image(path_in(path, STORIES, names[i]));
        if (i == 2) {
            upg_weights w;
            if (upg_weights_open(&w, STORIES, &e)) fail_msg("%s", e.message);
            const upg_tensor *t = upg_weights_find(&w, "model.layers.2.mlp.up_proj.weight");
            assert_non_null(t);
            assert_int_equal(t->encoding, UPG_F32);
            // The tensor's place in the file, found by its bytes.
            char *at = memmem(b.data, b.size, t->data, t->bytes);
            assert_non_null(at);
            memcpy(at + poison * 4, &value, 4);
            upg_weights_close(&w);
        }
        char name[64];
        snprintf(name, sizeof name, "%s/%s", to, names[i]);
        write_file(folder, name, b.data, b.size);
        upg_buf_free(&b);
    }
}

static void weights_that_are_not_finite(void **state) {
    (void)state;
    const uint32_t values[] = {0x7f800000, 0xff800000, 0x7fc00000}; // inf, -inf, NaN
    for (size_t i = 0; i < COUNT(values); i++) {
        char name[16], path[256];
        snprintf(name, sizeof name, "poison%zu", i);
        copy_stories(name, 64 * 171 + 63, values[i]); // the last weight of row 171
        for (int bits2 = 6; bits2 <= UPG_BITS_INT8; bits2 += UPG_BITS_INT8 - 6)
            refused(path_in(path, folder, name), "poison.upg", (upg_compress_options){.layer_bits = bits2},
                    "tensor model.layers.2.mlp.up_proj.weight: row 171 has a value that is not finite");
        assert_false(upg_path_exists(path_in(path, folder, "poison.upg")));
    }
}

// Weights far from the usual size are coded as well as any: scales take the difference.
static void scaled_rows(void **state) {
    (void)state;
    const uint32_t values[] = {0x5f000000, 0x00000001}; // 2^63, the smallest denormal
    for (size_t i = 0; i < COUNT(values); i++) {
        char name[16], path[256], out[256];
        upg_error e = {""};
        snprintf(name, sizeof name, "scaled%zu", i);
        copy_stories(name, 5, values[i]);
        compress_model(path_in(path, folder, name), path_in(out, folder, "scaled.upg"),
                       &(upg_compress_options){.layer_bits = 6});
        upg_weights w;
        if (upg_weights_open(&w, out, &e) || upg_weights_verify(&w, NULL, NULL, &e)) fail_msg("%s", e.message);
        upg_weights_close(&w);
    }
}

static int make(void **state) {
    (void)state;
    temporary_folder(folder);
    return 0;
}

static int clean(void **state) {
    (void)state;
    remove_folder(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_depend_on_options_alone),
        cmocka_unit_test(options_change_the_bytes),
        cmocka_unit_test(budgets_are_kept),
        cmocka_unit_test(ratio_and_bits_agree),
        cmocka_unit_test(errors_are_small_and_hashes_right),
        cmocka_unit_test(failures_leave_nothing_but_what_goes_on),
        cmocka_unit_test(weights_that_are_not_finite),
        cmocka_unit_test(scaled_rows),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
