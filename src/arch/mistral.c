// Mistral (MistralForCausalLM): the shared decoder with separate matrices. Version 0.1 has a sliding window of 4096,
// which is also what a config without the key means; later versions say null.
#include "arch/arch.h"

static int build(upg_program *p, upg_error *e) {
    return upg_build_decoder(p, &(upg_decoder_layout){0}, e);
}

const upg_arch upg_arch_mistral = {.name = "MistralForCausalLM", .sliding_window = 4096, .build = build};
