// GGUF models read as what a Hugging Face folder is: names and order of tensors, config.json, texts, models in parts.
#include "gguf_maker.h"
#include "yyjson.h"

static void opened(upg_weights *w, gguf_maker *m) {
    char dir[64];
    upg_error e = {""};
    temporary_folder(dir);
    int rc = gguf_open(w, m, dir, &e);
    remove_folder(dir);
    if (rc) fail_msg("%s", e.message);
}

static void assert_config(const upg_weights *w, const char *part) {
    if (!contains(w->config, part)) fail_msg("%s is not in %s", part, w->config);
}

static void assert_shape(const upg_weights *w, const char *name, int64_t rows, int64_t cols) {
    const upg_tensor *t = upg_weights_find(w, name);
    if (!t) fail_msg("no tensor %s", name);
    assert_int_equal(t->rows, rows);
    assert_int_equal(t->cols, cols);
}

static void llama_is_read_with_its_rope_rows_in_halves(void **state) {
    (void)state;
    gguf_maker m = gguf_sample("llama");
    gguf_counting(&m, "blk.0.attn_q.bias", 0, 32);
    gguf_counting(&m, "blk.0.attn_v.bias", 0, 16);
    upg_weights w;
    opened(&w, &m);
    assert_int_equal(w.n, 13);
    assert_false(w.compressed);
    float x[64];
    // Head 0's rows 0..15 in halves: row 1 is pair 1's first value, stored as row 2; row 8 is pair 0's second, stored
    // as row 1.
    const upg_tensor *q = upg_weights_find(&w, "model.layers.0.self_attn.q_proj.weight");
    assert_non_null(q);
    upg_tensor_floats(q, 1 * 32, 32, x);
    assert_true(x[0] == 2 * 32);
    upg_tensor_floats(q, 8 * 32, 64, x);
    assert_true(x[0] == 1 * 32 && x[32] == 3 * 32);
    upg_tensor_floats(q, (16 + 8) * 32, 32, x);
    assert_true(x[0] == 17 * 32);
    upg_tensor_floats(upg_weights_find(&w, "model.layers.0.self_attn.q_proj.bias"), 0, 32, x);
    assert_true(x[1] == 2 && x[8] == 1 && x[24] == 17);
    upg_tensor_floats(upg_weights_find(&w, "model.layers.0.self_attn.v_proj.bias"), 0, 16, x);
    assert_true(x[1] == 1 && x[8] == 8);
    assert_config(&w, "LlamaForCausalLM");
    assert_config(&w, "\"vocab_size\":4");
    assert_config(&w, "\"tie_word_embeddings\":true");
    assert_config(&w, "\"attention_bias\":true");
    assert_false(contains(w.config, "mlp_bias"));
    upg_weights_close(&w);
}

static void other_architectures_keep_their_rows(void **state) {
    (void)state;
    static const char *const archs[][2] = {
        {"qwen2", "\"Qwen2ForCausalLM\""}, {"qwen3", "\"Qwen3ForCausalLM\""}, {"phi3", "\"Phi3ForCausalLM\""}};
    for (size_t i = 0; i < COUNT(archs); i++) {
        gguf_maker m = gguf_sample(archs[i][0]);
        if (!i) {
            gguf_counting(&m, "blk.0.attn_q.bias", 0, 32);
            gguf_counting(&m, "blk.0.attn_k.bias", 0, 16);
            gguf_counting(&m, "blk.0.attn_v.bias", 0, 16);
        } else if (i == 1) {
            gguf_counting(&m, "blk.0.attn_q_norm.weight", 0, 16);
            gguf_counting(&m, "blk.0.attn_k_norm.weight", 0, 16);
        }
        gguf_counting(&m, "output.weight", 4, 32);
        upg_weights w;
        opened(&w, &m);
        for (size_t k = 0; k < w.n; k++) {
            float x[2 * 64];
            const upg_tensor *t = &w.tensors[k];
            upg_tensor_floats(t, 0, t->rows > 1 ? 2 * t->cols : t->cols, x);
            assert_true(x[1] == 1 && (t->rows == 1 || x[t->cols] == (float)t->cols));
        }
        assert_config(&w, archs[i][1]);
        assert_config(&w, "\"tie_word_embeddings\":false");
        assert_false(contains(w.config, "attention_bias"));
        if (!i) assert_shape(&w, "model.layers.0.self_attn.k_proj.bias", 1, 16);
        if (i == 1) assert_shape(&w, "model.layers.0.self_attn.q_norm.weight", 1, 16);
        if (i == 2) assert_shape(&w, "model.layers.0.self_attn.qkv_proj.weight", 64, 32);
        if (i == 2) assert_shape(&w, "model.layers.0.mlp.gate_up_proj.weight", 128, 32);
        upg_weights_close(&w);
    }
}

static void metadata_becomes_config(void **state) {
    (void)state;
    gguf_maker m = gguf_sample("llama");
    gguf_u32(&m, "llama.attention.sliding_window", 100);
    gguf_u32(&m, "llama.attention.key_length", 16);
    gguf_u32(&m, "llama.attention.value_length", 16);
    gguf_u32(&m, "llama.rope.dimension_count", 12);
    gguf_f32(&m, "llama.rope.freq_base", 5e5f);
    gguf_u32(&m, "llama.expert_count", 0);   // says that there are none
    gguf_f32(&m, "llama.logit_scale", 0);    // likewise
    gguf_u32(&m, "llama.vocab_size", 4);     // the embedding's business
    gguf_string(&m, "general.name", "\xff"); // nobody's business
    gguf_u32(&m, "tokenizer.ggml.bos_token_id", 1);
    gguf_u32(&m, "tokenizer.ggml.eos_token_id", 2);
    gguf_u32(&m, "tokenizer.ggml.eot_token_id", 3);
    gguf_u32(&m, "tokenizer.ggml.eom_token_id", 2);
    gguf_string(&m, "tokenizer.chat_template", "{{ é }}");
    upg_weights w;
    opened(&w, &m);
    assert_config(&w, "\"hidden_size\":32,\"intermediate_size\":64,\"num_hidden_layers\":1,"
                      "\"max_position_embeddings\":128,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
                      "\"head_dim\":16,\"sliding_window\":100,\"rms_norm_eps\":");
    assert_config(&w, "\"rope_theta\":500000.0,\"partial_rotary_factor\":0.78125");
    assert_config(&w, "\"bos_token_id\":1,\"eos_token_id\":[2,3]");
    assert_false(contains(w.config, "rope_scaling"));
    assert_string_equal(w.chat_template, "{{ é }}");
    upg_weights_close(&w);
}

static void put_strings(gguf_maker *m, const char *key, const char *const *s, size_t n) {
    upg_buf *b = gguf_key(m, key, G_ARRAY);
    put32(b, G_STRING);
    put64(b, n);
    for (size_t i = 0; i < n; i++) put_string(b, s[i]);
}

static void control_tokens_that_end_a_turn_are_ends(void **state) {
    (void)state;
    gguf_maker m = gguf_sample("llama");
    put_strings(&m, "tokenizer.ggml.tokens", (const char *const[]){"<|end|>", "<|end|>", "</s>", "<|im_end|>"}, 4);
    upg_buf *b = gguf_key(&m, "tokenizer.ggml.token_type", G_ARRAY);
    put32(b, G_I32);
    put64(b, 4);
    for (uint32_t i = 0; i < 4; i++) put32(b, i ? 3 : 1); // the first is ordinary text
    gguf_u32(&m, "tokenizer.ggml.eos_token_id", 2);
    upg_weights w;
    opened(&w, &m);
    assert_config(&w, "\"eos_token_id\":[2,1,3]");
    upg_weights_close(&w);
}

// ---- Rope ----

static void rope_scaling_is_what_the_keys_say(void **state) {
    (void)state;
    upg_weights w;
    gguf_maker m = gguf_sample("llama");
    gguf_string(&m, "llama.rope.scaling.type", "linear");
    gguf_f32(&m, "llama.rope.scaling.factor", 2.5f);
    opened(&w, &m);
    assert_config(&w, "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2.5}");
    upg_weights_close(&w);

    m = gguf_sample("llama"); // what files of 2023 have
    gguf_f32(&m, "llama.rope.scale_linear", 4);
    opened(&w, &m);
    assert_config(&w, "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4.0}");
    upg_weights_close(&w);

    m = gguf_sample("llama");
    gguf_string(&m, "llama.rope.scaling.type", "none");
    gguf_f32(&m, "llama.rope.scaling.factor", 4);
    opened(&w, &m);
    assert_false(contains(w.config, "rope_scaling"));
    upg_weights_close(&w);

    m = gguf_sample("qwen2");
    gguf_string(&m, "qwen2.rope.scaling.type", "yarn");
    gguf_f32(&m, "qwen2.rope.scaling.factor", 4);
    gguf_u32(&m, "qwen2.rope.scaling.original_context_length", 32);
    opened(&w, &m);
    assert_config(&w, "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
                      "\"original_max_position_embeddings\":32,\"beta_fast\":32.0,\"beta_slow\":1.0}");
    upg_weights_close(&w);
}

// The list under a key of rope_scaling must hold exactly these floats.
static void assert_factors(const upg_weights *w, const char *key, const float *want, size_t n) {
    yyjson_doc *doc = yyjson_read(w->config, strlen(w->config), 0);
    yyjson_val *list = yyjson_obj_get(yyjson_obj_get(yyjson_doc_get_root(doc), "rope_scaling"), key);
    assert_int_equal(yyjson_arr_size(list), n);
    for (size_t i = 0; i < n; i++) assert_true(yyjson_get_real(yyjson_arr_get(list, i)) == (double)want[i]);
    yyjson_doc_free(doc);
}

static void rope_factors_become_longrope(void **state) {
    (void)state;
    float small[8], large[8];
    for (int i = 0; i < 8; i++) {
        small[i] = 1 + (float)i / 3;
        large[i] = 7 * small[i];
    }
    upg_weights w;
    gguf_maker m = gguf_sample("phi3");
    gguf_u32(&m, "phi3.rope.scaling.original_context_length", 64);
    gguf_f32(&m, "phi3.rope.scaling.attn_factor", 1.25f);
    gguf_tensor(&m, "rope_factors_long.weight", 0, 0, 8, large, sizeof large);
    gguf_tensor(&m, "rope_factors_short.weight", 0, 0, 8, small, sizeof small);
    opened(&w, &m);
    assert_config(&w, "\"rope_type\":\"longrope\",\"original_max_position_embeddings\":64,\"attention_factor\":1.25");
    assert_factors(&w, "short_factor", small, 8);
    assert_factors(&w, "long_factor", large, 8);
    assert_null(upg_weights_find(&w, "rope_factors_long.weight")); // no tensor of the model
    assert_int_equal(w.n, 8);
    upg_weights_close(&w);

    m = gguf_sample("llama"); // Llama 3.1: one list for all lengths
    gguf_tensor(&m, "rope_freqs.weight", 0, 0, 8, large, sizeof large);
    opened(&w, &m);
    assert_config(&w, "\"rope_type\":\"longrope\",\"original_max_position_embeddings\":128,\"attention_factor\":1.0");
    assert_factors(&w, "short_factor", large, 8);
    assert_factors(&w, "long_factor", large, 8);
    assert_int_equal(w.n, 11);
    upg_weights_close(&w);
}

// ---- Parts ----

enum { PARTS = 3 };
#define PART(no) "m-0000" no "-of-00003.gguf"
static const char *const part_names[PARTS] = {PART("1"), PART("2"), PART("3")};

// Part `no` of the sample: all metadata and the embedding, the layer without its norms, the norms.
static gguf_maker part(int no) {
    gguf_maker m = gguf_new();
    upg_buf_add(gguf_key(&m, "split.no", G_U16), &(uint16_t){(uint16_t)no}, 2);
    upg_buf_add(gguf_key(&m, "split.count", G_U16), &(uint16_t){PARTS}, 2);
    put32(gguf_key(&m, "split.tensors.count", G_I32), 11);
    if (!no) {
        gguf_sample_keys(&m, "llama");
        gguf_counting(&m, "token_embd.weight", 4, 32);
    } else if (no == 1) {
        gguf_counting(&m, "blk.0.attn_q.weight", 32, 32);
        gguf_counting(&m, "blk.0.attn_k.weight", 16, 32);
        gguf_counting(&m, "blk.0.attn_v.weight", 16, 32);
        gguf_counting(&m, "blk.0.attn_output.weight", 32, 32);
        gguf_counting(&m, "blk.0.ffn_gate.weight", 64, 32);
        gguf_counting(&m, "blk.0.ffn_up.weight", 64, 32);
        gguf_counting(&m, "blk.0.ffn_down.weight", 32, 64);
    } else {
        gguf_counting(&m, "blk.0.attn_norm.weight", 0, 32);
        gguf_counting(&m, "blk.0.ffn_norm.weight", 0, 32);
        gguf_counting(&m, "output_norm.weight", 0, 32);
    }
    return m;
}

static void write_parts(const char *dir) {
    for (int i = 0; i < PARTS; i++) {
        gguf_maker m = part(i);
        gguf_write(&m, dir, part_names[i]);
    }
}

static void a_model_in_parts_opens_by_any_of_them(void **state) {
    (void)state;
    char dir[64], path[256];
    temporary_folder(dir);
    write_parts(dir);
    upg_weights whole, w;
    gguf_maker m = gguf_sample("llama");
    opened(&whole, &m);
    for (int i = 0; i < PARTS; i++) {
        upg_error e = {""};
        if (upg_weights_open(&w, path_in(path, dir, part_names[i]), &e)) fail_msg("%s", e.message);
        assert_string_equal(w.config, whole.config);
        assert_int_equal(w.n, whole.n);
        for (size_t k = 0; k < w.n; k++) {
            assert_string_equal(w.tensors[k].name, whole.tensors[k].name);
            assert_int_equal(w.tensors[k].bytes, whole.tensors[k].bytes);
            assert_memory_equal(w.tensors[k].data, whole.tensors[k].data, w.tensors[k].bytes);
        }
        upg_weights_close(&w);
    }
    upg_weights_close(&whole);
    remove_folder(dir);
}

static void refused_by(const char *dir, const char *name, const char *message) {
    char path[256];
    upg_weights w;
    upg_error e = {""};
    if (!upg_weights_open(&w, path_in(path, dir, name), &e)) fail_msg("opened instead of: %s", message);
    assert_message(e, message);
}

static void parts_that_do_not_belong_together_are_refused(void **state) {
    (void)state;
    char dir[64], path[256];
    temporary_folder(dir);

    gguf_maker m = part(0);
    gguf_write(&m, dir, "other.gguf");
    refused_by(dir, "other.gguf", "part 1 of 3 of a model, but its name does not end in -00001-of-00003.gguf");

    write_parts(dir);
    unlink(path_in(path, dir, part_names[1]));
    refused_by(dir, part_names[0], "m-00002-of-00003.gguf: part 2 of 3 of the model is missing");
    write_text(dir, part_names[1], "not GGUF");
    refused_by(dir, part_names[0], "m-00002-of-00003.gguf: not a GGUF file");

    write_parts(dir); // the same part twice
    m = part(2);
    gguf_write(&m, dir, part_names[1]);
    refused_by(dir, part_names[0], "it says to be part 3 of 3, not 2 of 3");

    write_parts(dir); // of no split model
    m = gguf_sample("llama");
    gguf_write(&m, dir, part_names[1]);
    refused_by(dir, part_names[0], "it says to be part 1 of 1, not 2 of 3");

    write_parts(dir); // a tensor of another part
    m = part(1);
    gguf_counting(&m, "output_norm.weight", 0, 32);
    gguf_write(&m, dir, part_names[1]);
    refused_by(dir, part_names[0], "split.tensors.count is 11, but the parts have 12 tensors");

    write_parts(dir); // the number is right, but one is there twice
    m = part(2);
    upg_buf_free(&m.tensors);
    m.n_tensors = 0;
    gguf_counting(&m, "blk.0.attn_norm.weight", 0, 32);
    gguf_counting(&m, "blk.0.ffn_norm.weight", 0, 32);
    gguf_counting(&m, "token_embd.weight", 4, 32);
    gguf_write(&m, dir, part_names[2]);
    refused_by(dir, part_names[0], "tensor 'model.embed_tokens.weight' is there twice");

    write_parts(dir); // metadata of another model
    m = part(2);
    gguf_string(&m, "general.architecture", "phi3");
    gguf_write(&m, dir, part_names[2]);
    refused_by(dir, part_names[0], "m-00003-of-00003.gguf: metadata 'general.architecture' is not what");
    m = part(2);
    gguf_u32(&m, "llama.embedding_length", 32); // the same is fine
    gguf_write(&m, dir, part_names[2]);
    upg_weights w;
    assert_int_equal(upg_weights_open(&w, path_in(path, dir, part_names[0]), NULL), 0);
    upg_weights_close(&w);
    remove_folder(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_is_read_with_its_rope_rows_in_halves),
        cmocka_unit_test(other_architectures_keep_their_rows),
        cmocka_unit_test(metadata_becomes_config),
        cmocka_unit_test(control_tokens_that_end_a_turn_are_ends),
        cmocka_unit_test(rope_scaling_is_what_the_keys_say),
        cmocka_unit_test(rope_factors_become_longrope),
        cmocka_unit_test(a_model_in_parts_opens_by_any_of_them),
        cmocka_unit_test(parts_that_do_not_belong_together_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
