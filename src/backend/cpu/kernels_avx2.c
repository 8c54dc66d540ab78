// AVX2 with FMA: eight 32-bit lanes are half a superband.
#if defined(__x86_64__)
#define LANES 8
#define I(op) _mm256_##op
#include "backend/cpu/x86.h"

static bool supported(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#define KERNELS upg_cpu_avx2
#define ISA     "avx2"
#include "backend/cpu/table.h"
#endif
