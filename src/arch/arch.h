// An architecture turns a config into a program. Adding one: a file in this folder and a line in the table of arch.c.
#pragma once
#include "arch/config.h"
#include "program/program.h"

typedef struct upg_arch {
    const char *name; // as in config.json's "architectures"
    // What its config.json may say, and what it means where it is silent.
    bool attention_bias, mlp_bias; // these keys may be true; else true is refused
    int head_dim;                  // 0: hidden_size / num_attention_heads
    int sliding_window;            // 0: none
    bool use_sliding_window;       // a window counts only where the key of this name is true
    int max_window_layers;         // without layer_types, the first layer that has the window
    // Emits the whole forward pass.
    int (*build)(upg_program *p, upg_error *e);
} upg_arch;

const upg_arch *upg_arch_find(const char *name); // or NULL

// The decoder that Llama and its relatives share: pre-norm attention and SwiGLU. The flags say how its matrices are
// stored.
typedef struct upg_decoder_layout {
    bool fused_qkv;     // self_attn.qkv_proj: q, k, v rows; else q_proj, k_proj, v_proj
    bool fused_gate_up; // mlp.gate_up_proj: gate, up rows; else gate_proj, up_proj
    bool qkv_bias, o_bias, mlp_bias;
    bool qk_norm; // self_attn.q_norm, k_norm: RMSNorm of each query and key head before RoPE
} upg_decoder_layout;
int upg_build_decoder(upg_program *p, const upg_decoder_layout *layout, upg_error *e);
