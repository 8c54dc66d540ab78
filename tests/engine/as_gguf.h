// Models as GGUF files for tests: the reverse of what the reader does to names and rows; and logits of any model.
#pragma once
#include "engine_helpers.h"
#include "../format/gguf_maker.h"

static const char *const as_gguf_names[][2] = {
    {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"},       {"lm_head", "output"},
    {"input_layernorm", "attn_norm"},     {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},       {"self_attn.qkv_proj", "attn_qkv"},  {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},  {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},        {"mlp.up_proj", "ffn_up"},           {"mlp.gate_up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"}};

static inline void gguf_name(const char *hf, char out[96]) {
    int layer = -1, at = 0;
    if (sscanf(hf, "model.layers.%d.%n", &layer, &at) < 1) at = 0;
    const char *suffix = strrchr(hf, '.');
    size_t n = (size_t)(suffix - hf - at);
    for (size_t i = 0; i < COUNT(as_gguf_names); i++) {
        if (strlen(as_gguf_names[i][0]) != n || memcmp(hf + at, as_gguf_names[i][0], n)) continue;
        if (at)
            snprintf(out, 96, "blk.%d.%s%s", layer, as_gguf_names[i][1], suffix);
        else
            snprintf(out, 96, "%s%s", as_gguf_names[i][1], suffix);
        return;
    }
    fail_msg("%s has no other name", hf);
}

// Rows of halves, or values of a bias, in the order of pairs.
static inline void pair_rows(float *x, const upg_tensor *t, int heads) {
    int64_t rows = t->rows > 1 ? t->rows : t->cols, cols = t->rows > 1 ? t->cols : 1, dim = rows / heads,
            half = dim / 2;
    float *y = malloc((size_t)(rows * cols) * sizeof *y);
    assert_non_null(y);
    for (int64_t r = 0; r < rows; r++) {
        int64_t in = r % dim, to = r - in + (in < half ? 2 * in : 2 * (in - half) + 1);
        memcpy(y + to * cols, x + r * cols, (size_t)cols * sizeof *y);
    }
    memcpy(x, y, (size_t)(rows * cols) * sizeof *y);
    free(y);
}

static inline float *floats_of(const upg_tensor *t) {
    float *x = malloc((size_t)(t->rows * t->cols) * sizeof *x);
    assert_non_null(x);
    upg_tensor_floats(t, 0, t->rows * t->cols, x);
    return x;
}

// [n][vocab] logits after each of n tokens; the caller frees them.
static inline float *logits_of(const upg_model *m, const int32_t *ids, int n) {
    upg_session *s = open_session(m, &(upg_session_options){.context = n, .max_rows = n, .max_logits = n});
    size_t vocab = (size_t)upg_model_vocab_size(m);
    upg_row *rows = calloc((size_t)n, sizeof *rows);
    float *out = malloc((size_t)n * vocab * sizeof *out);
    assert_true(rows && out);
    for (int i = 0; i < n; i++) rows[i] = (upg_row){.token = ids[i], .logits = true};
    run_rows(s, rows, n);
    for (int i = 0; i < n; i++) memcpy(out + (size_t)i * vocab, upg_session_logits(s, i), vocab * sizeof *out);
    free(rows);
    upg_session_free(s);
    return out;
}
