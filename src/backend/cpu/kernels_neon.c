// NEON, which every 64-bit Arm processor has.
#if defined(__aarch64__)
#include "backend/cpu/neon.h"

static bool supported(void) {
    return true;
}

#define KERNELS upg_cpu_neon
#define ISA     "neon"
#include "backend/cpu/table.h"
#endif
