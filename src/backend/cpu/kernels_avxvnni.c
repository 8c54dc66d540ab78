// AVX2 with VNNI's multiply-add of bytes, for processors that have it without AVX-512.
#if defined(__x86_64__)
#define LANES 8
#define I(op) _mm256_##op
#define VNNI
#include "backend/cpu/x86.h"
#include <cpuid.h>

// gcc 12 has no name for it.
static bool supported(void) {
    unsigned a = 0, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid_count(7, 1, &a, &b, &c, &d) &&
           (a >> 4 & 1);
}

#define KERNELS upg_cpu_avxvnni
#define ISA     "avxvnni"
#include "backend/cpu/table.h"
#endif
