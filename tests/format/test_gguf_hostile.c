// GGUF files that are wrong in one place each: every one is refused in one line that names the key or tensor.
#include "format/gguf.h"
#include "gguf_maker.h"
#include <math.h>

#define A (uint64_t[])

static void refused(const char *dir, gguf_maker *m, const char *message) {
    upg_weights w;
    upg_error e = {""};
    if (!gguf_open(&w, m, dir, &e)) fail_msg("opened instead of: %s", message);
    assert_message(e, message);
    assert_null(strchr(e.message, '\n'));
}

static void refused_bytes(const char *dir, upg_buf *b, const char *message) {
    char path[256];
    upg_weights w;
    upg_error e = {""};
    write_file(dir, "m.gguf", b->data, b->size);
    if (!upg_weights_open(&w, path_in(path, dir, "m.gguf"), &e)) fail_msg("opened instead of: %s", message);
    assert_message(e, message);
}

static void other_containers_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        uint32_t version;
        const char *message;
    } cases[] = {{0, "GGUF version 0 is not implemented"},
                 {1, "GGUF version 1 is not implemented (2 and 3 are)"},
                 {4, "GGUF version 4 is not implemented"},
                 {0x03000000, "big-endian GGUF is not implemented"},
                 {0x02000000, "big-endian GGUF is not implemented"}};
    char dir[64];
    temporary_folder(dir);
    for (size_t i = 0; i < COUNT(cases); i++) {
        gguf_maker m = gguf_sample("llama");
        m.version = cases[i].version;
        refused(dir, &m, cases[i].message);
    }
    gguf_maker m = gguf_sample("llama");
    m.version = 2;
    upg_weights w;
    assert_int_equal(gguf_open(&w, &m, dir, NULL), 0);
    upg_weights_close(&w);
    remove_folder(dir);
}

static void metadata_that_cannot_be_is_refused(void **state) {
    (void)state;
    char dir[64];
    temporary_folder(dir);
    gguf_maker m = gguf_sample("llama");
    gguf_u32(&m, "a.key", 1);
    gguf_u32(&m, "a.key", 2);
    refused(dir, &m, "metadata 'a.key' is there twice");
    m = gguf_sample("llama");
    gguf_u32(&m, "", 1);
    refused(dir, &m, "a metadata key is empty");
    m = gguf_sample("llama");
    gguf_u32(&m, "a\nkey", 1);
    refused(dir, &m, "a metadata key has a character that is not allowed");
    m = gguf_sample("llama");
    char *long_key = calloc(1, 70000);
    assert_non_null(long_key);
    memset(long_key, 'k', 65536);
    gguf_u32(&m, long_key, 1);
    free(long_key);
    refused(dir, &m, "a metadata key is too long");
    m = gguf_sample("llama");
    put32(gguf_key(&m, "a.key", 13), 1);
    refused(dir, &m, "metadata 'a.key': type 13 is unknown");
    m = gguf_sample("llama");
    upg_buf_add(gguf_key(&m, "a.key", G_BOOL), "\2", 1);
    refused(dir, &m, "metadata 'a.key' is neither true nor false");
    m = gguf_sample("llama");
    m.n_values = 1000000;
    refused(dir, &m, "more metadata or tensors than the file can hold");
    m = gguf_sample("llama");
    m.n_values = UINT64_MAX;
    refused(dir, &m, "more metadata or tensors than the file can hold");
    m = gguf_sample("llama");
    m.n_tensors = UINT64_MAX / 32;
    refused(dir, &m, "more metadata or tensors than the file can hold");
    remove_folder(dir);
}

static void array(gguf_maker *m, uint32_t element, uint64_t count) {
    upg_buf *b = gguf_key(m, "an.array", G_ARRAY);
    put32(b, element);
    put64(b, count);
}

static void lengths_beyond_the_file_are_refused(void **state) {
    (void)state;
    static const uint64_t counts[] = {1 << 20, UINT64_MAX, UINT64_MAX / 4 + 1, UINT64_MAX / 8 + 1, (uint64_t)1 << 63};
    char dir[64];
    temporary_folder(dir);
    gguf_maker m;
    for (uint32_t element = 0; element <= G_F64; element++) {
        for (size_t i = 0; i < COUNT(counts); i++) {
            m = gguf_sample("llama");
            array(&m, element, counts[i]);
            refused(dir, &m, element == G_ARRAY ? "'an.array': arrays of arrays are not implemented" : "is cut short");
        }
        if (element == G_ARRAY) continue;
        m = gguf_sample("llama"); // none is fine
        array(&m, element, 0);
        upg_weights w;
        assert_int_equal(gguf_open(&w, &m, dir, NULL), 0);
        upg_weights_close(&w);
    }
    for (size_t i = 0; i < COUNT(counts); i++) {
        m = gguf_sample("llama");
        put64(gguf_key(&m, "a.string", G_STRING), counts[i]);
        refused(dir, &m, "is cut short");
    }
    remove_folder(dir);
}

static void alignments_are_powers_of_two(void **state) {
    (void)state;
    static const uint32_t bad[] = {0, 3, 24, 33, 1u << 21, UINT32_MAX}, good[] = {1, 8, 64, 4096};
    char dir[64];
    temporary_folder(dir);
    for (size_t i = 0; i < COUNT(bad); i++) {
        gguf_maker m = gguf_sample("llama");
        gguf_u32(&m, "general.alignment", bad[i]);
        refused(dir, &m, "general.alignment is no power of two");
    }
    gguf_maker m = gguf_sample("llama");
    gguf_string(&m, "general.alignment", "32");
    refused(dir, &m, "general.alignment is no power of two");
    for (size_t i = 0; i < COUNT(good); i++) {
        m = gguf_new();
        m.alignment = good[i];
        gguf_sample_keys(&m, "llama");
        gguf_u32(&m, "general.alignment", good[i]);
        gguf_sample_tensors(&m, false);
        upg_weights w;
        assert_int_equal(gguf_open(&w, &m, dir, NULL), 0);
        float x[32];
        upg_tensor_floats(upg_weights_find(&w, "model.norm.weight"), 0, 32, x);
        assert_true(x[31] == 31);
        upg_weights_close(&w);
    }
    remove_folder(dir);
}

static void tensors_that_cannot_be_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint32_t type, rank;
        uint64_t shape[5], offset;
        const char *message;
    } cases[] = {
        {"output.weight", 0, 0, {0}, 0, "tensor 'output.weight' has 0 dimensions"},
        {"output.weight", 0, 5, {1, 1, 1, 1, 1}, 0, "tensor 'output.weight' has 5 dimensions"},
        {"output.weight", 0, UINT32_MAX, {1}, 0, "tensor 'output.weight' has 4294967295 dimensions"},
        {"", 0, 1, {32}, 0, "a tensor's name is empty, too long or has a NUL"},
        {"output.weight", 0, 2, {0, 4}, 0, "tensor 'lm_head.weight': its shape is not allowed"},
        {"output.weight", 0, 2, {32, 0}, 0, "tensor 'lm_head.weight': its shape is not allowed"},
        {"output.weight", 0, 3, {32, 4, 2}, 0, "tensor 'lm_head.weight': its shape is not allowed"},
        {"output.weight", 0, 2, {(uint64_t)1 << 32, (uint64_t)1 << 32}, 0, "its shape is not allowed"},
        {"output.weight", 0, 2, {UINT64_MAX, 4}, 0, "its shape is not allowed"},
        {"output.weight", 0, 2, {INT32_MAX, INT32_MAX}, 0, "its shape is not allowed"},
        {"output.weight", 2, 2, {33, 4}, 0, "tensor 'lm_head.weight': its shape is not allowed"},
        {"output.weight", 2, 1, {32}, 0, "tensor 'lm_head.weight': a vector in blocks is not implemented"},
        {"output.weight", 0, 2, {1 << 20, 1 << 10}, 0, "tensor 'lm_head.weight' lies beyond the end of the file"},
        {"output.weight", 0, 2, {32, 4}, (uint64_t)1 << 40, "tensor 'lm_head.weight' lies beyond the end"},
        {"output.weight", 0, 2, {32, 4}, UINT64_MAX - 31, "tensor 'lm_head.weight' lies beyond the end"},
        {"output.weight", 0, 2, {32, 4}, 16, "tensor 'output.weight' does not start at a multiple of 32"},
        {"output.weight", 0, 2, {32, 4}, 32, "tensors 'model.embed_tokens.weight' and 'lm_head.weight' overlap"},
        {"token_embd.weight", 0, 2, {32, 4}, 4096, "tensor 'model.embed_tokens.weight' is there twice"},
        {"rope_freqs.weight", 0, 1, {8}, 32, "overlap"},
        {"blk.0.attn_qkv.weight",
         0,
         2,
         {32, 4},
         0,
         "'blk.0.attn_qkv.weight' is not implemented for architecture llama"},
        {"blk.00.attn_q.weight", 0, 2, {32, 4}, 0, "tensor 'blk.00.attn_q.weight' is not implemented"},
        {"blk.9999999999.attn_q.weight", 0, 2, {32, 4}, 0, "is not implemented"},
        {"blk.0", 0, 2, {32, 4}, 0, "tensor 'blk.0' is not implemented"},
        {"blk.", 0, 2, {32, 4}, 0, "tensor 'blk.' is not implemented"},
        {"blk.0.ffn_gate_inp.weight", 0, 2, {32, 4}, 0, "tensor 'blk.0.ffn_gate_inp.weight' is not implemented"},
        {"blk.1.attn_q.weight", 0, 2, {32, 6}, 0, "q_proj.weight': its rows are no whole number of heads"},
    };
    char dir[64];
    temporary_folder(dir);
    for (size_t i = 0; i < COUNT(cases); i++) {
        gguf_maker m = gguf_sample("llama");
        uint32_t dims = cases[i].rank > 5 ? 1 : cases[i].rank;
        put_string(&m.tensors, cases[i].name);
        put32(&m.tensors, cases[i].rank);
        for (uint32_t k = 0; k < dims; k++) put64(&m.tensors, cases[i].shape[k]);
        put32(&m.tensors, cases[i].type);
        put64(&m.tensors, cases[i].offset);
        m.n_tensors++;
        refused(dir, &m, cases[i].message);
    }
    remove_folder(dir);
}

static void types_that_cannot_be_read_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        uint32_t type;
        const char *message;
    } cases[] = {{4, "type Q4_2 (4) is not implemented"},
                 {5, "type Q4_3 (5)"},
                 {9, "type Q8_1 (9)"},
                 {15, "type Q8_K (15)"},
                 {24, "type I8 (24)"},
                 {28, "type F64 (28)"},
                 {31, "type Q4_0_4_4 (31) is not implemented"},
                 {33, "type Q4_0_8_8 (33)"},
                 {36, "type IQ4_NL_4_4 (36)"},
                 {99, "type unknown to GGUF (99) is not implemented"}};
    char dir[64];
    temporary_folder(dir);
    for (size_t i = 0; i < COUNT(cases); i++) {
        gguf_maker m = gguf_sample("llama");
        gguf_entry(&m, "output.weight", cases[i].type, 2, A{32, 4}, 0);
        refused(dir, &m, cases[i].message);
    }
    remove_folder(dir);
}

// ---- What a model of the sample's shape may say ----

static void features_that_are_not_implemented_are_refused_by_key(void **state) {
    (void)state;
    static const char *const keys[] = {
        "logit_scale",     "attn_logit_softcapping",   "final_logit_softcapping",          "expert_count",
        "attention.scale", "attention.max_alibi_bias", "attention.sliding_window_pattern", "embedding_scale",
        "residual_scale",  "use_parallel_residual",    "rope.scaling.yarn_log_multiplier", "something_of_next_year"};
    char dir[64], name[96], message[160];
    temporary_folder(dir);
    for (size_t i = 0; i < COUNT(keys); i++) {
        gguf_maker m = gguf_sample("llama");
        snprintf(name, sizeof name, "llama.%s", keys[i]);
        snprintf(message, sizeof message, "metadata '%s' is not implemented", name);
        gguf_u32(&m, name, 8);
        refused(dir, &m, message);
    }
    remove_folder(dir);
}

typedef struct value_case {
    const char *key, *text; // text: a string; else number
    float number;
    const char *message;
} value_case;

static void values_that_are_not_allowed_are_refused_by_key(void **state) {
    (void)state;
    static const value_case cases[] = {
        {"llama.attention.key_length", "16", 0, "metadata 'llama.attention.key_length' is not a number"},
        {"llama.attention.key_length", NULL, -1, "metadata 'llama.attention.key_length' is no whole number"},
        {"llama.attention.key_length", NULL, 1.5f, "metadata 'llama.attention.key_length' is no whole number"},
        {"llama.attention.key_length", NULL, 1e30f, "metadata 'llama.attention.key_length' is no whole number"},
        {"llama.rope.freq_base", NULL, (float)INFINITY, "metadata 'llama.rope.freq_base' is not a number"},
        {"llama.rope.freq_base", NULL, (float)NAN, "metadata 'llama.rope.freq_base' is not a number"},
        {"llama.attention.value_length", NULL, 8, "'llama.attention.value_length' has a value that is not implemented"},
        {"llama.rope.dimension_count", NULL, 17, "'llama.rope.dimension_count' has a value that is not implemented"},
        {"llama.rope.dimension_count", NULL, 0, "'llama.rope.dimension_count' has a value that is not implemented"},
        {"llama.attention.causal", NULL, 0, "'llama.attention.causal' has a value that is not implemented"},
        {"llama.rope.scaling.type", NULL, 1, "metadata 'llama.rope.scaling.type' is not a string"},
        {"llama.rope.scaling.type", "spiral", 0, "metadata 'llama.rope.scaling.type': spiral is not implemented"},
        {"llama.rope.scaling.type", "longrope", 0, "rope_factors_long.weight one is missing"},
        {"llama.rope.scaling.attn_factor", NULL, 2, "'llama.rope.scaling.attn_factor' without factors"},
        {"llama.rope.scaling.original_context_length", NULL, 0.5f, "original_context_length' is no length"},
        {"general.type", "adapter", 0, "general.type is not 'model'"},
        {"general.quantization_version", NULL, 1, "general.quantization_version 1 is not implemented"},
        {"tokenizer.chat_template", "\xc3(", 0, "tokenizer.chat_template is no UTF-8 string without NUL"},
        {"tokenizer.chat_template", NULL, 1, "tokenizer.chat_template is no UTF-8 string without NUL"},
        {"split.count", NULL, -1, "metadata 'split.count' is no whole number within 0..99999"},
        {"split.count", NULL, 1e6f, "metadata 'split.count' is no whole number within 0..99999"},
        {"split.count", "2", 0, "metadata 'split.count' is no whole number within 0..99999"},
        {"split.no", NULL, 1, "metadata 'split.no' is no whole number within 0..0"},
    };
    char dir[64];
    temporary_folder(dir);
    for (size_t i = 0; i < COUNT(cases); i++) {
        gguf_maker m = gguf_sample("llama");
        if (cases[i].text)
            gguf_string(&m, cases[i].key, cases[i].text);
        else
            gguf_f32(&m, cases[i].key, cases[i].number);
        refused(dir, &m, cases[i].message);
    }
    gguf_maker m = gguf_sample("llama");
    upg_buf *b = gguf_key(&m, "tokenizer.chat_template", G_STRING);
    put64(b, 3);
    upg_buf_add(b, "a\0b", 3);
    refused(dir, &m, "tokenizer.chat_template is no UTF-8 string without NUL");
    remove_folder(dir);
}

static void rope_factors_that_are_not_allowed_are_refused(void **state) {
    (void)state;
    static const float bad[][2] = {{1, 0}, {-1, 1}, {1, (float)INFINITY}, {(float)NAN, 1}};
    char dir[64];
    temporary_folder(dir);
    gguf_maker m;
    for (size_t i = 0; i < COUNT(bad); i++) {
        m = gguf_sample("llama");
        gguf_tensor(&m, "rope_freqs.weight", 0, 0, 2, bad[i], sizeof bad[i]);
        refused(dir, &m, "tensor 'rope_freqs.weight': factor");
    }
    m = gguf_sample("llama");
    gguf_counting(&m, "rope_freqs.weight", 2, 2);
    refused(dir, &m, "tensor 'rope_freqs.weight' is no short vector of floats");
    m = gguf_sample("llama");
    gguf_counting(&m, "rope_freqs.weight", 0, 5000);
    refused(dir, &m, "tensor 'rope_freqs.weight' is no short vector of floats");
    const float one[2] = {1, 1};
    m = gguf_sample("llama");
    gguf_tensor(&m, "rope_factors_long.weight", 0, 0, 2, one, sizeof one);
    refused(dir, &m, "one is missing");
    m = gguf_sample("llama");
    gguf_tensor(&m, "rope_factors_long.weight", 0, 0, 2, one, sizeof one);
    gguf_tensor(&m, "rope_factors_short.weight", 0, 0, 2, one, sizeof one);
    gguf_tensor(&m, "rope_freqs.weight", 0, 0, 2, one, sizeof one);
    refused(dir, &m, "rope_freqs.weight beside other factors is not implemented");
    m = gguf_sample("llama");
    gguf_tensor(&m, "rope_freqs.weight", 0, 0, 2, one, sizeof one);
    gguf_string(&m, "llama.rope.scaling.type", "yarn");
    refused(dir, &m, "'llama.rope.scaling.type': yarn is not implemented for this model");
    m = gguf_sample("llama");
    gguf_tensor(&m, "rope_freqs.weight", 0, 0, 2, one, sizeof one);
    gguf_f32(&m, "llama.rope.scaling.factor", 8);
    refused(dir, &m, "'llama.rope.scaling.factor' beside tensors of factors is not implemented");
    remove_folder(dir);
}

static void a_file_without_what_a_model_needs_is_refused(void **state) {
    (void)state;
    char dir[64];
    temporary_folder(dir);
    gguf_maker m = gguf_new();
    refused(dir, &m, "general.architecture is missing");
    m = gguf_new();
    gguf_u32(&m, "general.architecture", 1);
    refused(dir, &m, "general.architecture is missing or no string");
    m = gguf_new();
    gguf_string(&m, "general.architecture", "mamba");
    refused(dir, &m, "architecture mamba is not implemented (llama, phi3, qwen2 and qwen3 are)");
    m = gguf_new();
    gguf_string(&m, "general.architecture", "llama");
    gguf_sample_tensors(&m, false);
    refused(dir, &m, "metadata 'llama.attention.head_count' is missing or no number");
    m = gguf_new();
    gguf_string(&m, "general.architecture", "qwen2");
    gguf_sample_tensors(&m, false);
    refused(dir, &m, "metadata 'qwen2.embedding_length' is missing");
    m = gguf_new();
    gguf_sample_keys(&m, "llama");
    refused(dir, &m, "a vocabulary only: there are no tensors in it");
    m = gguf_new();
    gguf_sample_keys(&m, "llama");
    gguf_counting(&m, "output_norm.weight", 0, 32);
    refused(dir, &m, "tensor 'token_embd.weight' is missing");
    remove_folder(dir);
}

// The container and the tokenizer need no tensors.
static void a_vocabulary_alone_can_be_parsed(void **state) {
    (void)state;
    gguf_maker m = gguf_new();
    gguf_string(&m, "tokenizer.ggml.model", "gpt2");
    static const char *const lists[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"};
    for (size_t i = 0; i < 2; i++) {
        upg_buf *b = gguf_key(&m, lists[i], G_ARRAY);
        put32(b, G_STRING);
        put64(b, 1);
        put_string(b, i ? "a b" : "ab");
    }
    upg_buf b = gguf_image(&m);
    upg_gguf g;
    upg_error e = {""};
    assert_int_equal(upg_gguf_parse(&g, (const uint8_t *)b.data, b.size, "v.gguf", &e), 0);
    char *json = upg_gguf_tokenizer(&g, &e);
    if (!json) fail_msg("%s", e.message);
    assert_true(contains(json, "\"vocab\":{\"ab\":0}"));
    free(json);
    upg_gguf_free(&g);
    upg_buf_free(&b);
}

// ---- Anything at all ----

static void files_cut_anywhere_are_refused(void **state) {
    (void)state;
    char dir[64];
    temporary_folder(dir);
    gguf_maker m = gguf_sample("llama");
    size_t data = m.data.size;
    upg_buf b = gguf_image(&m);
    upg_buf cut = b;
    for (cut.size = 4; cut.size < b.size - data; cut.size += cut.size < 200 ? 1 : 7)
        refused_bytes(dir, &cut, "m.gguf: ");
    cut.size = b.size - 1;
    refused_bytes(dir, &cut, "tensor 'model.norm.weight' lies beyond the end of the file");
    upg_buf_free(&b);
    remove_folder(dir);
}

static void files_with_a_bit_turned_are_refused_or_read_safely(void **state) {
    (void)state;
    char dir[64], path[256];
    temporary_folder(dir);
    gguf_maker m = gguf_sample("llama");
    size_t data = m.data.size;
    upg_buf b = gguf_image(&m);
    upg_weights w;
    for (size_t bit = 32; bit < (b.size - data) * 8; bit += 3) {
        b.data[bit / 8] ^= (char)(1 << bit % 8);
        write_file(dir, "m.gguf", b.data, b.size);
        if (!upg_weights_open(&w, path_in(path, dir, "m.gguf"), NULL)) upg_weights_close(&w);
        b.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    upg_buf_free(&b);
    remove_folder(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_containers_are_refused_by_name),
        cmocka_unit_test(metadata_that_cannot_be_is_refused),
        cmocka_unit_test(lengths_beyond_the_file_are_refused),
        cmocka_unit_test(alignments_are_powers_of_two),
        cmocka_unit_test(tensors_that_cannot_be_are_refused),
        cmocka_unit_test(types_that_cannot_be_read_are_refused_by_name),
        cmocka_unit_test(features_that_are_not_implemented_are_refused_by_key),
        cmocka_unit_test(values_that_are_not_allowed_are_refused_by_key),
        cmocka_unit_test(rope_factors_that_are_not_allowed_are_refused),
        cmocka_unit_test(a_file_without_what_a_model_needs_is_refused),
        cmocka_unit_test(a_vocabulary_alone_can_be_parsed),
        cmocka_unit_test(files_cut_anywhere_are_refused),
        cmocka_unit_test(files_with_a_bit_turned_are_refused_or_read_safely),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
