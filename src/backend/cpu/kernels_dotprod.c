// NEON with dot products of bytes.
#if defined(__aarch64__)
#include "backend/cpu/neon.h"
#include "backend/cpu/arm_features.h"

static bool supported(void) {
    return arm_has_dotprod();
}

#define KERNELS upg_cpu_dotprod
#define ISA     "dotprod"
#include "backend/cpu/table.h"
#endif
