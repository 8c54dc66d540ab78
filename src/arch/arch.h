// An architecture turns a config into a program. Adding one: a file in this folder and a line in the table of arch.c.
#pragma once
#include "arch/config.h"
#include "program/program.h"

typedef struct upg_arch {
    const char *name; // as in config.json's "architectures"
    // Emits the whole forward pass.
    int (*build)(upg_program *p, upg_error *e);
} upg_arch;

const upg_arch *upg_arch_find(const char *name); // or NULL

// The decoder that Llama and its relatives share: pre-norm attention and SwiGLU. The flags say how its matrices are
// stored.
typedef struct upg_decoder_layout {
    bool fused_qkv;     // self_attn.qkv_proj: q, k, v rows; else q_proj, k_proj, v_proj
    bool fused_gate_up; // mlp.gate_up_proj: gate, up rows; else gate_proj, up_proj
} upg_decoder_layout;
int upg_build_decoder(upg_program *p, const upg_decoder_layout *layout, upg_error *e);
