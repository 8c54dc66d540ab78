// Qwen 2 and 2.5 (Qwen2ForCausalLM): the shared decoder with biases on q, k and v. A sliding window is off unless the
// config turns it on, and then lower layers do without.
#include "arch/arch.h"

static int build(upg_program *p, upg_error *e) {
    return upg_build_decoder(p, &(upg_decoder_layout){.qkv_bias = true}, e);
}

const upg_arch upg_arch_qwen2 = {.name = "Qwen2ForCausalLM",
                                 .sliding_window = 4096,
                                 .use_sliding_window = true,
                                 .max_window_layers = 28,
                                 .build = build};
