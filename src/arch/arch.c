// The table of architectures.
#include "arch/arch.h"
#include <string.h>

extern const upg_arch upg_arch_llama, upg_arch_mistral, upg_arch_phi3, upg_arch_qwen2, upg_arch_qwen3;
static const upg_arch *const archs[] = {&upg_arch_llama, &upg_arch_mistral, &upg_arch_phi3, &upg_arch_qwen2,
                                        &upg_arch_qwen3};

const upg_arch *upg_arch_find(const char *name) {
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (!strcmp(archs[i]->name, name)) return archs[i];
    return NULL;
}
