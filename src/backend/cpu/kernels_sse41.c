// SSE4.1 with POPCNT, for processors older than AVX2: four 32-bit lanes are a quarter of a superband.
#if defined(__x86_64__)
#define LANES 4
#define I(op) _mm_##op
#include "backend/cpu/x86.h"

static bool supported(void) {
    return __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("popcnt");
}

#define KERNELS upg_cpu_sse41
#define ISA     "sse41"
#include "backend/cpu/table.h"
#endif
