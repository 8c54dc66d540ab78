// Llama 2 and 3, and models of their shape such as SmolLM2 (LlamaForCausalLM): the shared decoder with separate
// matrices, all of which may have biases.
#include "arch/arch.h"

static int build(upg_program *p, upg_error *e) {
    const upg_config *c = p->config;
    return upg_build_decoder(
        p, &(upg_decoder_layout){.qkv_bias = c->attention_bias, .o_bias = c->attention_bias, .mlp_bias = c->mlp_bias},
        e);
}

const upg_arch upg_arch_llama = {.name = "LlamaForCausalLM", .attention_bias = true, .mlp_bias = true, .build = build};
