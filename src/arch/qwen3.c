// Qwen 3 (Qwen3ForCausalLM): the shared decoder with RMSNorm on each query and key head. Windows as in Qwen 2.
#include "arch/arch.h"

static int build(upg_program *p, upg_error *e) {
    const upg_config *c = p->config;
    return upg_build_decoder(
        p, &(upg_decoder_layout){.qk_norm = true, .qkv_bias = c->attention_bias, .o_bias = c->attention_bias}, e);
}

const upg_arch upg_arch_qwen3 = {.name = "Qwen3ForCausalLM",
                                 .attention_bias = true,
                                 .head_dim = 128,
                                 .sliding_window = 4096,
                                 .use_sliding_window = true,
                                 .max_window_layers = 28,
                                 .build = build};
