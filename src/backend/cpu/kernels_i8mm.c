// NEON with dot products and matrix products of bytes.
#if defined(__aarch64__)
#include "backend/cpu/neon.h"
#include "backend/cpu/arm_features.h"

static bool supported(void) {
    return arm_has_dotprod() && arm_has_i8mm();
}

#define KERNELS upg_cpu_i8mm
#define ISA     "i8mm"
#include "backend/cpu/table.h"
#endif
