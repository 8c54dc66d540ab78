// Llama 2 and 3, and models of their shape such as SmolLM2 (LlamaForCausalLM): the shared decoder with separate
// matrices.
#include "arch/arch.h"

static int build(upg_program *p, upg_error *e) {
    return upg_build_decoder(p, &(upg_decoder_layout){0}, e);
}

const upg_arch upg_arch_llama = {.name = "LlamaForCausalLM", .build = build};
