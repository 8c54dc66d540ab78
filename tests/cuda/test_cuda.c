// The promise of docs/arithmetic.md between the CPU and the devices: the same bits of logits on the GPUs' kernels, run
// in software everywhere and on an NVIDIA GPU where there is one, for every encoding and architecture, batch and
// chunking.
#include "../engine/engine_helpers.h"
#include "backend/backend.h"
#include "engine/sample.h"
#include "engine/session.h"
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
static float *logits_within(const upg_model *m, const char *device, size_t gpu_bytes, int n, int chunk, int sequences) {
    const size_t vocab = (size_t)upg_model_vocab_size(m);
    const int rows = chunk * sequences;
    float *out = malloc((size_t)n * (size_t)sequences * vocab * sizeof *out);
    upg_session *s = open_session(m, &(upg_session_options){.device = device,
                                                            .context = n,
                                                            .n_sequences = sequences,
                                                            .max_rows = rows,
                                                            .max_logits = rows,
                                                            .gpu_bytes = gpu_bytes});
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

static float *logits_of(const upg_model *m, const char *device, int n, int chunk, int sequences) {
    return logits_within(m, device, 0, n, chunk, sequences);
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

// Logits of the rows of one batch that are wanted: every `each`-th of two sequences' in turn.
enum { MIXED = 15 };
static void logits_of_some(const upg_model *m, const char *device, int each, float *out) {
    const size_t vocab = (size_t)upg_model_vocab_size(m);
    upg_session *s = open_session(
        m, &(upg_session_options){
               .device = device, .context = MIXED, .n_sequences = 2, .max_rows = MIXED, .max_logits = MIXED});
    upg_row rows[MIXED];
    for (int i = 0; i < MIXED; i++) rows[i] = (upg_row){(int32_t)((size_t)(i * 31 + 7) % vocab), i % 2, i % each == 0};
    run_rows(s, rows, MIXED);
    for (int i = 0, k = 0; i < MIXED; i++)
        if (rows[i].logits) memcpy(out + (size_t)i * vocab, upg_session_logits(s, k++), vocab * sizeof *out);
    upg_session_free(s);
}

// What is left out for rows without logits changes nothing for the others.
static void compare_some(const upg_model *m, const char *device) {
    const size_t vocab = (size_t)upg_model_vocab_size(m);
    const char *const devices[] = {"cpu", device};
    float *want = malloc(2 * MIXED * vocab * sizeof *want), *got = want + MIXED * vocab;
    assert_non_null(want);
    logits_of_some(m, "cpu", 1, want);
    for (int d = 0; d < 2; d++) {
        logits_of_some(m, devices[d], 4, got);
        for (int i = 0; i < MIXED; i += 4)
            assert_same_logits(got + (size_t)i * vocab, want + (size_t)i * vocab, (int)vocab, devices[d], i);
    }
    free(want);
}

static void compare_tales(const char *device, int n) {
    upg_model *m = open_model(DEFAULT_MODEL);
    compare_some(m, device);
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
// Biases and norms of heads, in whole groups of columns.
static void software_shapes(void **state) {
    (void)state;
    static const int sizes[] = {1, 2};
    if (SANITIZED) return;
    compare_shape("software", "qwen2.5-0.5b", 1, 3, sizes, COUNT(sizes));
    compare_shape("software", "qwen3-0.6b", 1, 3, sizes, COUNT(sizes));
}
static void software_tales(void **state) {
    (void)state;
    compare_tales("software", SANITIZED ? 8 : 16);
}
// A GPU that has room for some layers only: the rest runs on the CPU, and the bits are the same.
static void compare_split(const char *device, size_t of_its_own) {
    upg_model *m = open_model(DEFAULT_MODEL);
    const size_t rooms[] = {8500000, 10000000, 12500000, 15000000};
    const int vocab = upg_model_vocab_size(m), n = 9;
    int different = 0;
    char before[160] = "";
    float *want = logits_of(m, "cpu", n, 3, 2);
    for (size_t i = 0; i < COUNT(rooms); i++) {
        const size_t room = rooms[i] + of_its_own;
        upg_session_options o = {
            .device = device, .gpu_bytes = room, .context = n, .n_sequences = 2, .max_rows = 6, .max_logits = 6};
        upg_session *s = open_session(m, &o);
        assert_non_null(strstr(upg_session_path(s), " of 8 layers on the CPU"));
        different += strcmp(before, upg_session_path(s)) != 0;
        snprintf(before, sizeof before, "%s", upg_session_path(s));
        upg_session_free(s);
        float *got = logits_within(m, device, room, n, 3, 2);
        for (int k = 0; k < 2 * n; k++)
            assert_same_logits(got + (size_t)k * (size_t)vocab, want + (size_t)k * (size_t)vocab, vocab, before, k);
        free(got);
    }
    assert_true(different >= 2);
    upg_error e = {""};
    assert_null(upg_session_new(m, &(upg_session_options){.device = device, .gpu_bytes = 100000, .context = n}, &e));
    assert_non_null(strstr(e.message, "of GPU memory are needed, and 0.0001 of"));
    free(want);
    upg_model_free(m);
}

// Keys and values of a block have the same bytes wherever they were computed, and one is as good as another.
static uint8_t *block_of(const upg_model *m, const char *device, size_t gpu_bytes, const uint8_t *other,
                         float *logits) {
    upg_error e = {""};
    upg_session *s = open_session(
        m, &(upg_session_options){.device = device, .gpu_bytes = gpu_bytes, .context = 260, .max_rows = 64});
    uint8_t *bytes = malloc(upg_session_block_bytes(s));
    int32_t tokens[257];
    for (int i = 0; i < 257; i++) tokens[i] = (i * 31 + 7) % upg_model_vocab_size(m);
    assert_non_null(bytes);
    if (upg_session_prefill(s, 0, tokens, 256, &e) || upg_session_block_read(s, upg_session_block(s, 0, 0), bytes, &e))
        fail_msg("%s", e.message);
    if (other && upg_session_block_write(s, upg_session_block(s, 0, 0), other, &e)) fail_msg("%s", e.message);
    run_rows(s, &(upg_row){tokens[256], 0, true}, 1);
    memcpy(logits, upg_session_logits(s, 0), (size_t)upg_model_vocab_size(m) * sizeof *logits);
    upg_session_free(s);
    return bytes;
}

static void compare_blocks(const char *device, size_t gpu_bytes) {
    if (SANITIZED) return;
    upg_model *m = open_model(DEFAULT_MODEL);
    const size_t size = upg_backend_kv_bytes(&m->weights, &m->config), vocab = (size_t)upg_model_vocab_size(m);
    float *want = malloc(2 * vocab * sizeof *want), *got = want + vocab;
    assert_non_null(want);
    uint8_t *here = block_of(m, "cpu", 0, NULL, want), *there = block_of(m, device, gpu_bytes, here, got);
    assert_memory_equal(here, there, size);
    assert_same_logits(got, want, (int)vocab, device, 256);
    free(here);
    free(there);
    free(want);
    upg_model_free(m);
}

static void software_blocks(void **state) {
    (void)state;
    compare_blocks("software", 0);
    compare_blocks("software", 15000000);
}
static void gpu_blocks(void **state) {
    (void)state;
    require_gpu();
    compare_blocks("cuda", 0);
}

static void software_split(void **state) {
    (void)state;
    compare_split("software", 0);
}
static void gpu_split(void **state) {
    (void)state;
    require_gpu();
    compare_split("cuda", 17 << 20); // sums and counts
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
    static const int few[] = {1, 3, 20, 100};
    compare_shape("cuda", "qwen2.5-0.5b", 2, 3, few, COUNT(few));
    compare_shape("cuda", "qwen3-0.6b", 2, 3.5, few, COUNT(few));
}
static void gpu_phi4(void **state) {
    (void)state;
    require_gpu();
    static const int sizes[] = {1, 16, 100};
    compare_shape("cuda", "phi-4", 4, 3, sizes, COUNT(sizes));
}

// Batches behind many blocks of keys: rows of the long sequence, and sequences of one row beside it.
enum { OTHERS = 40, BEHIND = 150 + 5 + 1 + 42 + 115 };
static const struct { int rows, others; } behind[] = {{150, 0}, {5, 0}, {1, 0}, {2, OTHERS}, {75, OTHERS}};
static float *logits_behind(const upg_model *m, const char *device, int n) {
    const size_t vocab = (size_t)upg_model_vocab_size(m);
    upg_error e = {""};
    upg_session *s = open_session(
        m,
        &(upg_session_options){
            .device = device, .context = n + BEHIND, .n_sequences = 1 + OTHERS, .max_rows = 512, .max_logits = BEHIND});
    int32_t *tokens = malloc((size_t)n * sizeof *tokens);
    float *out = malloc(BEHIND * vocab * sizeof *out), *to = out;
    assert_true(tokens && out);
    for (int i = 0; i < n; i++) tokens[i] = (int32_t)((uint64_t)(i + 1) * 0x9E3779B97F4A7C15u % vocab);
    if (upg_session_prefill(s, 0, tokens, (size_t)n, &e)) fail_msg("%s", e.message);
    for (size_t k = 0; k < COUNT(behind); k++) {
        upg_row rows[BEHIND];
        const int all = behind[k].rows + behind[k].others;
        for (int i = 0; i < all; i++) {
            const int sequence = i < behind[k].rows ? 0 : 1 + i - behind[k].rows;
            rows[i] = (upg_row){(int32_t)((size_t)(i * 31 + 7) % vocab), sequence, true};
        }
        run_rows(s, rows, all);
        for (int i = 0; i < all; i++, to += vocab) memcpy(to, upg_session_logits(s, i), vocab * sizeof *to);
    }
    assert_true(to == out + BEHIND * vocab);
    free(tokens);
    upg_session_free(s);
    return out;
}

static void compare_long(const char *device, const char *name, int layers, int n) {
    upg_error e = {""};
    upg_model *m = upg_model_of_shape(upg_shape_find(name), layers, 3, 100, &e);
    if (!m) fail_msg("%s", e.message);
    const int vocab = upg_model_vocab_size(m);
    float *want = logits_behind(m, "cpu", n), *got = logits_behind(m, device, n);
    for (int i = 0; i < BEHIND; i++)
        assert_same_logits(got + (size_t)i * (size_t)vocab, want + (size_t)i * (size_t)vocab, vocab, name, i);
    free(want);
    free(got);
    upg_model_free(m);
}

// What GPUs before Hopper run.
static void gpu_plain(void **state) {
    (void)state;
    require_gpu();
    static const int sizes[] = {1, 16, 17, 33, 64, 100};
    setenv("UPG_CUDA_PLAIN", "1", 1);
    compare_shape("cuda", "qwen3-0.6b", 2, 3.5, sizes, COUNT(sizes));
    compare_shape("cuda", "phi-4", 1, 3, sizes, COUNT(sizes));
    compare_shape("cuda", "qwen2.5-0.5b", 1, 8, sizes, COUNT(sizes));
    unsetenv("UPG_CUDA_PLAIN");
}

static void software_long(void **state) {
    (void)state;
    if (!SANITIZED) compare_long("software", "smollm2-135m", 1, 600);
}
// With more than 32 blocks, and behind a sliding window.
static void gpu_long(void **state) {
    (void)state;
    require_gpu();
    compare_long("cuda", "qwen2.5-0.5b", 1, 8500);
    compare_long("cuda", "qwen3-0.6b", 1, 8500);
    compare_long("cuda", "mistral-7b", 1, 4700);
}

// Trellis codes are the same bytes wherever they are searched for; what layers are fitted to differs by rounding.
static double compress_on(const char *device, const char *name, const upg_compress_options *o) {
    char path[160], before[64];
    upg_error e = {""};
    upg_compress_result r;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(before, sizeof before, "%s", getenv("UPG_DEVICE") ? getenv("UPG_DEVICE") : "");
    setenv("UPG_DEVICE", device, 1);
    const int rc = upg_compress(STORIES, path, o, &r, &e);
    setenv("UPG_DEVICE", before, 1);
    if (rc) fail_msg("%s", e.message);
    assert_int_equal(!strcmp(r.device, "CPU"), !strcmp(device, "cpu"));
    const double kl = r.kl;
    upg_compress_result_free(&r);
    return kl;
}

static void compare_codes(const char *device) {
    const upg_compress_options all[] = {{.layer_bits = 4, .embedding_bits = 5, .rotation_seed = 3},
                                        {.layer_bits = 7, .embedding_bits = 8, .effort = UPG_EFFORT_FAST},
                                        {.layer_bits = 6, .embedding_bits = 6, .exact_search = true},
                                        {.layer_bits = 6,
                                         .embedding_bits = 6,
                                         .effort = UPG_EFFORT_FAST,
                                         .calibration = UPG_TEXT_DEFAULT,
                                         .calibration_tokens = 256,
                                         .heldout = UPG_TEXT_DEFAULT,
                                         .heldout_tokens = 256}};
    for (size_t i = 0; i < COUNT(all); i++) {
        if (SANITIZED && i == 2) continue;
        const double there = compress_on(device, "there.upg", &all[i]), here = compress_on("cpu", "here.upg", &all[i]);
        if (!all[i].calibration)
            assert_same_file(folder, "there.upg", "here.upg");
        else if (!(here > 0 && there > 0.9 * here && there < 1.1 * here))
            fail_msg("KL %g there, %g here", there, here);
    }
}

static void software_codes(void **state) {
    (void)state;
    compare_codes("software");
}
static void gpu_codes(void **state) {
    (void)state;
    require_gpu();
    compare_codes("cuda");
}

// What a device draws is what the sampler draws from its logits, or nothing.
static void compare_draws(const char *device) {
    static const upg_bias biases[] = {{17, 3}, {18, -100}, {300, .25f}, {5, 0}};
    static const upg_sampling all[] = {
        {.top_p = 1, .repeat_penalty = 1},
        {.top_p = 1, .repeat_penalty = 1.3f, .bias = biases, .n_bias = COUNT(biases)},
        {.temperature = .3f, .top_p = 1, .repeat_penalty = 1},
        {.temperature = .7f, .top_k = 20, .top_p = .9f, .min_p = .05f, .repeat_penalty = .9f},
        {.temperature = 30, .top_k = 50, .top_p = 1, .repeat_penalty = 1},
        {.temperature = .4f, .top_p = .5f, .repeat_penalty = 1.1f, .presence_penalty = .5f, .n_prompt = 3},
        {.temperature = .5f, .min_p = .2f, .top_p = 1, .repeat_penalty = 1, .frequency_penalty = -.7f, .n_prompt = 70},
        {.temperature = 3, .top_p = .99f, .repeat_penalty = 1, .bias = biases, .n_bias = COUNT(biases)},
        {.temperature = 50, .top_p = 1, .repeat_penalty = 1}, // too many for the device
        {.temperature = .2f, .top_p = 1, .repeat_penalty = 1, .frequency_penalty = 1}};
    enum { ROWS = COUNT(all), HISTORY = 400 };
    upg_error e = {""};
    upg_model *m = open_model(DEFAULT_MODEL);
    const int vocab = upg_model_vocab_size(m);
    upg_session *s =
        open_session(m, &(upg_session_options){
                            .device = device, .context = 8, .n_sequences = ROWS, .max_rows = ROWS, .max_logits = ROWS});
    upg_draw *draws = calloc(ROWS, sizeof *draws);
    int32_t history[HISTORY];
    upg_sampler *samplers[ROWS];
    assert_non_null(draws);
    assert_true(upg_session_draws(s));
    int drawn = 0;
    for (int round = 0; round < 4; round++) {
        upg_row rows[ROWS];
        for (int i = 0; i < HISTORY; i++) history[i] = (i * i * (7 + round) + 11 * i) % (round < 3 ? 60 : vocab);
        for (int i = 0; i < ROWS; i++) {
            upg_sampling o = all[i];
            o.seed = (uint64_t)(round * ROWS + i);
            samplers[i] = upg_sampler_new(vocab, &o, &e);
            assert_non_null(samplers[i]);
            upg_sampler_prepare(samplers[i], history, HISTORY, &draws[i]);
            rows[i] = (upg_row){(i * 997 + round * 31) % vocab, i, true};
        }
        draws[2].logits = round % 2;
        if (upg_session_run_draws(s, rows, ROWS, draws, &e)) fail_msg("%s", e.message);
        for (int i = 0; i < ROWS; i++) {
            const int32_t token = upg_session_drawn(s, i),
                          want = upg_sample(samplers[i], upg_session_logits(s, i), history, HISTORY);
            if (token >= 0 && token != want) fail_msg("round %d, sampling %d: token %d, not %d", round, i, token, want);
            drawn += token >= 0;
            if (i == 8) assert_int_equal(token, -1);
            if (i == 9) assert_int_equal(token < 0, round == 3); // more tokens to edit than a device takes
            upg_sampler_free(samplers[i]);
        }
    }
    assert_true(drawn >= 4 * (ROWS - 3));
    free(draws);
    upg_session_free(s);
    upg_model_free(m);
}

static void software_draws(void **state) {
    (void)state;
    compare_draws("software");
}
static void gpu_draws(void **state) {
    (void)state;
    require_gpu();
    compare_draws("cuda");
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

// Argument: which of them, "gpu_*".
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(software_models), cmocka_unit_test(software_tales),  cmocka_unit_test(software_shapes),
        cmocka_unit_test(software_split),  cmocka_unit_test(software_blocks), cmocka_unit_test(software_codes),
        cmocka_unit_test(gpu_codes),       cmocka_unit_test(software_draws),  cmocka_unit_test(gpu_draws),
        cmocka_unit_test(gpu_blocks),      cmocka_unit_test(gpu_split),       cmocka_unit_test(gpu_models),
        cmocka_unit_test(gpu_tales),       cmocka_unit_test(gpu_shapes),      cmocka_unit_test(gpu_phi4),
        cmocka_unit_test(software_long),   cmocka_unit_test(gpu_long),        cmocka_unit_test(gpu_plain)};
    return cmocka_run_group_tests(tests, make_folder, clean_up);
}
