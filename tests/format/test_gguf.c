// GGUF: a small model read whole; damaged files refused.
#include "format_helpers.h"

// ---- A model of one layer ----

static void add32(upg_buf *b, uint32_t x) {
    upg_buf_add(b, &x, 4);
}
static void add64(upg_buf *b, uint64_t x) {
    upg_buf_add(b, &x, 8);
}
static void add_name(upg_buf *b, const char *s) {
    add64(b, strlen(s));
    upg_buf_str(b, s);
}
static void add_u32(upg_buf *b, const char *key, uint32_t x) {
    add_name(b, key);
    add32(b, 4);
    add32(b, x);
}

typedef struct gguf_tensor {
    const char *name;
    uint32_t rows, cols; // rows 0: a vector
} gguf_tensor;
static const gguf_tensor sample_tensors[] = {
    {"token_embd.weight", 4, 32},      {"blk.0.attn_norm.weight", 0, 32}, {"blk.0.attn_q.weight", 32, 32},
    {"blk.0.attn_k.weight", 16, 32},   {"blk.0.attn_v.weight", 16, 32},   {"blk.0.attn_output.weight", 32, 32},
    {"blk.0.ffn_norm.weight", 0, 32},  {"blk.0.ffn_gate.weight", 64, 32}, {"blk.0.ffn_up.weight", 64, 32},
    {"blk.0.ffn_down.weight", 32, 64}, {"output_norm.weight", 0, 32}};

// Every F32 tensor holds 0, 1, 2, ...
static upg_buf sample(void) {
    upg_buf b = {0};
    upg_buf_str(&b, "GGUF");
    add32(&b, 3);
    add64(&b, COUNT(sample_tensors));
    add64(&b, 8);
    add_name(&b, "general.architecture");
    add32(&b, 8);
    add_name(&b, "llama");
    add_u32(&b, "llama.embedding_length", 32);
    add_u32(&b, "llama.feed_forward_length", 64);
    add_u32(&b, "llama.block_count", 1);
    add_u32(&b, "llama.attention.head_count", 2);
    add_u32(&b, "llama.attention.head_count_kv", 1);
    add_u32(&b, "llama.context_length", 128);
    add_name(&b, "llama.attention.layer_norm_rms_epsilon");
    add32(&b, 6);
    upg_buf_add(&b, &(float){1e-5f}, 4);
    uint64_t offset = 0;
    for (size_t i = 0; i < COUNT(sample_tensors); i++) {
        const gguf_tensor *t = &sample_tensors[i];
        add_name(&b, t->name);
        add32(&b, t->rows ? 2 : 1);
        add64(&b, t->cols);
        if (t->rows) add64(&b, t->rows);
        add32(&b, 0);
        add64(&b, offset);
        offset += (t->rows ? t->rows : 1) * (uint64_t)t->cols * 4;
    }
    while (b.size % 32) upg_buf_add(&b, "", 1);
    for (size_t i = 0; i < COUNT(sample_tensors); i++)
        for (uint32_t k = 0; k < (sample_tensors[i].rows ? sample_tensors[i].rows : 1) * sample_tensors[i].cols; k++)
            upg_buf_add(&b, &(float){(float)k}, 4);
    assert_false(b.failed);
    return b;
}

static int open_bytes(upg_weights *w, const char *dir, const void *data, size_t n, upg_error *e) {
    char path[256];
    write_file(dir, "m.gguf", data, n);
    return upg_weights_open(w, path_in(path, dir, "m.gguf"), e);
}

static void a_model_is_read_under_its_other_names(void **state) {
    (void)state;
    char dir[64];
    temporary_folder(dir);
    upg_buf b = sample();
    upg_weights w;
    upg_error e = {""};
    if (open_bytes(&w, dir, b.data, b.size, &e)) fail_msg("%s", e.message);
    assert_int_equal(w.n, COUNT(sample_tensors));
    assert_false(w.compressed);
    const upg_tensor *q = upg_weights_find(&w, "model.layers.0.self_attn.q_proj.weight");
    assert_non_null(q);
    float row[64];
    // Head 0's rows 0..15 in halves: row 1 is pair 1's first value, stored as row 2; row 8 is pair 0's second, stored
    // as row 1.
    upg_tensor_floats(q, 1 * 32, 32, row);
    assert_true(row[0] == 2 * 32);
    upg_tensor_floats(q, 8 * 32, 64, row);
    assert_true(row[0] == 1 * 32 && row[32] == 3 * 32);
    upg_tensor_floats(q, (16 + 8) * 32, 32, row);
    assert_true(row[0] == 17 * 32);
    assert_true(contains(w.config, "LlamaForCausalLM") && contains(w.config, "\"vocab_size\":4") &&
                contains(w.config, "\"tie_word_embeddings\":true"));
    upg_weights_close(&w);
    upg_buf_free(&b);
    remove_folder(dir);
}

static void damaged_files_are_refused_or_read_safely(void **state) {
    (void)state;
    char dir[64];
    temporary_folder(dir);
    upg_buf b = sample();
    upg_weights w;
    upg_error e;
    size_t header = b.size - 4 * (4 * 32 + 32 * 32 * 2 + 16 * 32 * 2 + 64 * 32 * 2 + 32 * 64 + 3 * 32);
    for (size_t n = 4; n < header; n += n < 200 ? 1 : 7) assert_int_equal(open_bytes(&w, dir, b.data, n, &e), -1);
    assert_int_equal(open_bytes(&w, dir, b.data, b.size - 1, &e), -1);
    assert_message(e, "lies beyond the end");
    for (size_t bit = 32; bit < header * 8; bit += 3) {
        b.data[bit / 8] ^= (char)(1 << bit % 8);
        if (!open_bytes(&w, dir, b.data, b.size, &e)) upg_weights_close(&w);
        b.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    upg_buf_free(&b);
    remove_folder(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_is_read_under_its_other_names),
        cmocka_unit_test(damaged_files_are_refused_or_read_safely),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
