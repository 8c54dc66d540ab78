// Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini (Phi3ForCausalLM): the shared decoder with fused q/k/v and gate/up
// matrices.
#include "arch/arch.h"

static int build(upg_program *p, upg_error *e) {
    return upg_build_decoder(p, &(upg_decoder_layout){.fused_qkv = true, .fused_gate_up = true}, e);
}

const upg_arch upg_arch_phi3 = {.name = "Phi3ForCausalLM", .build = build};
