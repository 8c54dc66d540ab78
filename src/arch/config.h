// A decoder's hyperparameters, read from JSON text with the keys of a Hugging Face config.json, and written back the
// same way.
#pragma once
#include "base/base.h"

typedef enum upg_rope_scaling { UPG_ROPE_PLAIN, UPG_ROPE_LINEAR, UPG_ROPE_LLAMA3, UPG_ROPE_LONGROPE } upg_rope_scaling;

enum { UPG_MAX_EOS = 16, UPG_MAX_LAYERS = 1024, UPG_MAX_HEAD_DIM = 256, UPG_MAX_INPUTS = 131072 };

typedef struct upg_config {
    const struct upg_arch *arch;
    int vocab_size, hidden_size, ffn_size, n_layers;
    int n_heads, n_kv_heads, head_dim;
    int rotary_dim;                      // width of the rotated part of a head, even
    int max_positions;                   // context the model was made for
    int sliding_window;                  // 0: none
    bool full_attention[UPG_MAX_LAYERS]; // layers the window leaves out; all false without a window
    bool attention_bias, mlp_bias;       // as the architecture understands these keys
    bool tied;                           // the head is the embedding
    float rms_eps;
    double rope_theta;
    upg_rope_scaling rope_scaling;
    double rope_factor, rope_low, rope_high, rope_original;                   // as in docs/arithmetic.md, section 10
    double rope_attention;                                                    // longrope's attention factor, else 0
    double rope_short[UPG_MAX_HEAD_DIM / 2], rope_long[UPG_MAX_HEAD_DIM / 2]; // longrope: [rotary_dim/2], else 0
    int bos;                                                                  // -1: none
    int eos[UPG_MAX_EOS], n_eos;
} upg_config;

// generation: the text of generation_config.json or NULL; its eos_token_id wins over config.json's. Both are untrusted:
// anything out of range, or a feature that is not implemented, is refused by key.
int upg_config_parse(upg_config *c, const char *config, const char *generation, upg_error *e);
int upg_config_write(const upg_config *c, upg_buf *out, upg_error *e); // minified JSON that parses to an equal config
bool upg_config_is_eos(const upg_config *c, int32_t token);
