// A tiny model, made by hand, that overflows for one token: hidden size 16, so that a row is one Hadamard block. A
// token whose embedding is one coded weight at rotated index k meets every matrix as exactly that index, whatever the
// norm does to its length; so a gate and an up row that see only index OVERFLOWING, with huge scales, overflow for that
// token and are exactly zero for all others.
#pragma once
#include "engine_helpers.h"
#include "codec/panel.h"

enum { WIDTH = 16, VOCAB = 32, OVERFLOWING = 5, BAD_TOKEN = 7, LAYERS = 2 };
#define TINY                                                                                                           \
    "{\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":32,\"hidden_size\":16,\"intermediate_size\":16,"         \
    "\"num_hidden_layers\":2,\"num_attention_heads\":1,\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5}"

// An int8 matrix of random weights; index OVERFLOWING is seen by rows of the gate and up matrix only, and token
// BAD_TOKEN is only it.
static inline void tiny_matrix(const upg_writer_tensor *t, uint64_t seed, uint8_t *data, float *scale) {
    bool embedding = contains(t->name, "embed"), gate = contains(t->name, "gate") || contains(t->name, "up_proj");
    for (int r = 0; r < t->rows; r++) {
        bool huge = gate && r == 0;
        scale[r] = huge ? 0x1p30f : 0x1p-10f;
        for (int c = 0; c < WIDTH; c++) {
            int w = (int)(next_random(&seed) % 255) - 127;
            if (huge)
                w = c == OVERFLOWING ? 127 : 0;
            else if (embedding && r == BAD_TOKEN)
                w = c == OVERFLOWING ? 127 : 0;
            else if (embedding && c == OVERFLOWING)
                w = 0;
            int nb = upg_superband_bands(t->rows, 0);
            data[upg_panel_offset(t->rows, WIDTH, 64, 0, 0) +
                 (size_t)(((r % 16 * 4 + c / 4) * nb + r / 16) * 4 + c % 4)] = (uint8_t)(w + 127);
        }
    }
    // Nothing writes to index OVERFLOWING of the residual: what attention and the MLP add is zero.
    if (contains(t->name, "o_proj") || contains(t->name, "down_proj"))
        memset(scale, 0, (size_t)t->rows * sizeof *scale);
}

static inline void write_tiny(const char *path) {
    static const char *const matrices[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                           "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                           "mlp.down_proj"};
    static const char *const norms[] = {"input_layernorm", "post_attention_layernorm"};
    char names[LAYERS * 9][64];
    upg_writer_tensor t[LAYERS * 9 + 3] = {
        {.name = "model.embed_tokens.weight", .encoding = UPG_INT8, .rows = VOCAB, .cols = WIDTH},
        {.name = "lm_head.weight", .encoding = UPG_INT8, .rows = VOCAB, .cols = WIDTH},
        {.name = "model.norm.weight", .encoding = UPG_F32, .rows = 1, .cols = WIDTH}};
    size_t n = 3;
    for (int layer = 0; layer < LAYERS; layer++)
        for (int i = 0; i < 9; i++, n++) {
            snprintf(names[n - 3], sizeof names[0], "model.layers.%d.%s.weight", layer,
                     i < 7 ? matrices[i] : norms[i - 7]);
            t[n] = (upg_writer_tensor){
                .name = names[n - 3], .encoding = i < 7 ? UPG_INT8 : UPG_F32, .rows = i < 7 ? WIDTH : 1, .cols = WIDTH};
        }
    upg_error e = {""};
    upg_writer *w = upg_writer_new(path, TINY, NULL, 42, t, n, 0, &e);
    if (!w) fail_msg("%s", e.message);
    float ones[WIDTH];
    for (int i = 0; i < WIDTH; i++) ones[i] = 1;
    for (size_t i = 0; i < n; i++) {
        uint8_t data[VOCAB * WIDTH];
        float scale[VOCAB];
        if (t[i].rows > 1) tiny_matrix(&t[i], i, data, scale);
        if (upg_writer_put(w, i, t[i].rows > 1 ? (void *)data : ones, t[i].rows > 1 ? scale : NULL, &e))
            fail_msg("%s", e.message);
    }
    if (upg_writer_finish(w, NULL, &e)) fail_msg("%s", e.message);
    upg_writer_free(w);
}
