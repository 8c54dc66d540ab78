// The promise of docs/arithmetic.md between the CPU and the devices: the same bits of logits on the GPUs' kernels, run
// in software everywhere and on an NVIDIA GPU where there is one, for every encoding and architecture, batch and
// chunking.
#include "../engine/engine_helpers.h"
#include "engine/shape.h"
#ifdef UPG_CUDA
#include "backend/cuda/cuda.h"
#endif

enum { N = 280 }; // crosses a border of the cache's blocks

static char folder[64];

static bool there_is_a_gpu(char why[512]) {
#ifdef UPG_CUDA
    upg_error e = {""};
    const int n = upg_cuda_count(&e);
    snprintf(why, 512, "%s", n ? e.message : "there is no NVIDIA GPU");
    return n > 0;
#else
    snprintf(why, 512, "built without CUDA");
    return false;
#endif
}

static void require_gpu(void) {
    char why[512];
    if (there_is_a_gpu(why)) return;
    print_message("%s\n", why);
    skip();
}

// Logits behind each of n tokens, in batches of `chunk` rows; `sequences` texts at once, row by row in turn.
static float *logits_of(const upg_model *m, const char *device, int n, int chunk, int sequences) {
    const size_t vocab = (size_t)upg_model_vocab_size(m);
    const int rows = chunk * sequences;
    float *out = malloc((size_t)n * (size_t)sequences * vocab * sizeof *out);
    upg_session *s = open_session(
        m, &(upg_session_options){
               .device = device, .context = n, .n_sequences = sequences, .max_rows = rows, .max_logits = rows});
    upg_row *batch = calloc((size_t)rows, sizeof *batch);
    assert_true(out && batch);
    for (int at = 0; at < n; at += chunk) {
        int k = 0, size = n - at < chunk ? n - at : chunk;
        for (int q = 0; q < sequences; q++)
            for (int i = 0; i < size; i++) {
                const uint64_t random = (uint64_t)(at + i + 1) * 0x9E3779B97F4A7C15u * (uint64_t)(q + 1) >> 33;
                batch[k++] = (upg_row){(int32_t)(random % vocab), q, true};
            }
        run_rows(s, batch, k);
        for (int i = 0; i < k; i++) {
            assert_false(upg_session_row_failed(s, i));
            memcpy(out + ((size_t)(i / size) * (size_t)n + (size_t)(at + i % size)) * vocab, upg_session_logits(s, i),
                   vocab * sizeof *out);
        }
    }
    free(batch);
    upg_session_free(s);
    return out;
}

static void compare(const upg_model *m, const char *name, const char *device, int n, int chunk, int sequences) {
    char what[128];
    const int vocab = upg_model_vocab_size(m);
    float *want = logits_of(m, "cpu", n, chunk, sequences), *got = logits_of(m, device, n, chunk, sequences);
    snprintf(what, sizeof what, "%s on %s, %d sequences in chunks of %d", name, device, sequences, chunk);
    for (int i = 0; i < n * sequences; i++)
        assert_same_logits(got + (size_t)i * (size_t)vocab, want + (size_t)i * (size_t)vocab, vocab, what, i);
    free(want);
    free(got);
}

// ---- Models that are compressed here ----

static const struct {
    const char *source;
    upg_compress_options options;
} made[] = {{"models/stories260K", {.layer_bits = 4, .head_bits = 6}},
            {"models/stories260K", {.layer_bits = 5, .head_bits = 7, .rotation_seed = 9}},
            {"models/stories260K", {.layer_bits = UPG_BITS_INT8, .head_bits = UPG_BITS_INT8}},
            {"models/stories260K", {.layer_bits = UPG_BITS_SPARSE | UPG_BITS_ROTATED | 8, .head_bits = 8}},
            {"models/stories260K", {.layer_bits = UPG_BITS_SPARSE | 4, .head_bits = 6}},
            {"tests/vectors/arch/mistral", {.layer_bits = 7}},
            {"tests/vectors/arch/phi3", {.layer_bits = 6}},
            {"tests/vectors/arch/phi4mini", {.layer_bits = 6}},
            {"tests/vectors/arch/llama", {.layer_bits = UPG_BITS_INT8}},
            {"tests/vectors/arch/qwen2", {.layer_bits = 5}},
            {"tests/vectors/arch/qwen3",
             {.layer_bits = UPG_BITS_SPARSE | 8,
              .embedding_bits = UPG_BITS_SPARSE | 4,
              .head_bits = UPG_BITS_SPARSE | UPG_BITS_ROTATED | 4}}};

static void compare_made(const char *device) {
    for (size_t i = 0; i < COUNT(made); i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%zu.upg", folder, i);
        compress_model(made[i].source, path, &made[i].options);
        upg_model *m = open_model(path);
        compare(m, made[i].source, device, N, 1, 1);
        compare(m, made[i].source, device, N, N, 1);
        compare(m, made[i].source, device, 40, 7, 5);
        upg_model_free(m);
    }
}

static void compare_tales(const char *device, int n) {
    if (access(DEFAULT_MODEL, R_OK)) return;
    upg_model *m = open_model(DEFAULT_MODEL);
    compare(m, DEFAULT_MODEL, device, n, 1, 1);
    compare(m, DEFAULT_MODEL, device, n, n, 1);
    compare(m, DEFAULT_MODEL, device, n / 4, 1, 16);
    upg_model_free(m);
}

// Shapes of whole superbands: what a GPU has its fastest kernels for, in every encoding, with batches of their every
// size.
static void compare_shape(const char *device, const char *name, int layers, double bits, const int *sizes,
                          int n_sizes) {
    upg_error e = {""};
    upg_model *m = upg_model_of_shape(upg_shape_find(name), layers, bits, 100, &e);
    if (!m) fail_msg("%s", e.message);
    for (int i = 0; i < n_sizes; i++)
        compare(m, name, device, sizes[i] > 64 ? sizes[i] : 3, sizes[i] > 64 ? sizes[i] : 1,
                sizes[i] > 64 ? 1 : sizes[i]);
    upg_model_free(m);
}

static void software_models(void **state) {
    (void)state;
    compare_made("software");
}
static void software_tales(void **state) {
    (void)state;
    compare_tales("software", SANITIZED ? 8 : 16);
}
static void gpu_models(void **state) {
    (void)state;
    require_gpu();
    compare_made("cuda");
}
static void gpu_tales(void **state) {
    (void)state;
    require_gpu();
    compare_tales("cuda", N);
}
static void gpu_shapes(void **state) {
    (void)state;
    require_gpu();
    static const int sizes[] = {1, 2, 8, 9, 16, 17, 32, 33, 64, 65, 300};
    static const double bits[] = {2, 2.5, 3, 3.5, 4, 8};
    for (size_t i = 0; i < COUNT(bits); i++) compare_shape("cuda", "smollm2-135m", 3, bits[i], sizes, COUNT(sizes));
}
static void gpu_phi4(void **state) {
    (void)state;
    require_gpu();
    static const int sizes[] = {1, 16, 100};
    compare_shape("cuda", "phi-4", 4, 3, sizes, COUNT(sizes));
}

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/upg-cuda-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}
static int clean_up(void **state) {
    (void)state;
    remove_folder(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(software_models), cmocka_unit_test(software_tales),
                                       cmocka_unit_test(gpu_models),      cmocka_unit_test(gpu_tales),
                                       cmocka_unit_test(gpu_shapes),      cmocka_unit_test(gpu_phi4)};
    return cmocka_run_group_tests(tests, make_folder, clean_up);
}
