// What differs between the places a kernel is compiled for: the host, CUDA and Metal. Everything else in this folder is
// the common subset of C11, CUDA C++ and Metal's C++14, so each kernel is written once.
//
// A kernel is run by groups of lanes. Its body is a sequence of phases, LANES(j) { ... }: every lane j of the group
// does the block, then all meet. On the host a phase is a loop over the lanes, on a GPU one pass of the body and a
// barrier. What a lane keeps from a phase to the next is PRIVATE, what lanes share is SHARED; other variables have the
// same value in all lanes. ONCE is a phase that one lane does for all (not LANES with `j == 0`: clang 14 vectorises
// such a store wrongly). A phase is never inside a condition that lanes could answer differently, and is not left by
// break, goto or return.
//
// Rules: pointers say where they point (GLOBAL, LOCAL; none: a lane's own variables); no recursion, function pointers,
// double, 64-bit fields in argument structs, or knowledge of a warp's width, except here. Floating point is that of
// docs/arithmetic.md: denormals are zero, nothing is contracted, fma only where written.
#pragma once
#if defined(__CUDACC__)

#include <stdint.h>
#define GLOBAL
#define LOCAL
#define FN static __device__ __forceinline__
// A kernel may begin before the one before it has ended: what it reads of that one's results comes after begin().
FN void begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
#define KERNEL(name, args, lanes) KERNEL_(name, args, lanes)
#define KERNEL_(name, args, lanes)                                                                                     \
    FN void name##_body(uint8_t *weight, uint8_t *work, uint8_t *kv, const args *a);                                   \
    extern "C" __global__ void __launch_bounds__(lanes)                                                                \
        name(uint8_t *weight, uint8_t *work, uint8_t *kv, const __grid_constant__ args a) {                            \
        begin();                                                                                                       \
        name##_body(weight, work, kv, &a);                                                                             \
    }                                                                                                                  \
    FN void name##_body(uint8_t *weight, uint8_t *work, uint8_t *kv, const args *a)
#define GROUP_X                blockIdx.x
#define GROUP_Y                blockIdx.y
#define GROUP_Z                blockIdx.z
#define SHARED(type, name, n)  __shared__ __align__(16) type name[n]
#define PRIVATE(type, name, n) type name[1][n]
#define MINE(name, j)          name[0]
#define LANES(j)               for (uint32_t j = threadIdx.x, once_ = 1; once_; once_ = 0, __syncthreads())
#define ONCE                                                                                                           \
    for (uint32_t once_ = 1; once_; once_ = 0, __syncthreads())                                                        \
        if (threadIdx.x == 0)
#define ROW_LANES      1024
#define UNROLL_(text)  _Pragma(#text)
#define UNROLL(n)      UNROLL_(unroll n)
#define bits_of(x)     __float_as_uint(x)
#define float_of(u)    __uint_as_float(u)
#define fused(a, b, c) __fmaf_rn(a, b, c)
#define rounded(x)     rintf(x)
#define square_root(x) sqrtf(x)
#define bits_set(x)    ((uint32_t)__popcll(x))
// Sum of four products of an unsigned and a signed byte, or of two signed ones, and c.
FN int32_t dot_us(uint32_t a, uint32_t b, int32_t c) {
    int32_t d;
    asm("dp4a.u32.s32 %0,%1,%2,%3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
FN int32_t dot_ss(uint32_t a, uint32_t b, int32_t c) {
    return __dp4a((int)a, (int)b, c);
}
// Sum of four products of 16-bit numbers, 0..32767, two in a word, and signed bytes.
FN int32_t dot_16(uint32_t a01, uint32_t a23, uint32_t b, int32_t c) {
    return __dp2a_hi((int)a23, (int)b, __dp2a_lo((int)a01, (int)b, c));
}
// Sum of two products of signed 16-bit numbers, two in a word, and unsigned bytes, the lower two of b, and c.
FN int32_t dot_pair(uint32_t a, uint32_t b, int32_t c) {
    int32_t d;
    asm("dp2a.lo.s32.u32 %0,%1,%2,%3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
FN int32_t least_sum(int32_t a, int32_t b, int32_t c) { // min(a + b, c)
    return __viaddmin_s32(a, b, c);
}
// *at = min(*at, v), by all lanes; 32 neighbours have the same place.
FN void take_least(LOCAL uint32_t *at, uint32_t v) {
#if __CUDA_ARCH__ >= 800
    v = __reduce_min_sync(~0u, v);
#else
    for (int o = 16; o; o >>= 1) v = min(v, __shfl_xor_sync(~0u, v, o));
#endif
    if (threadIdx.x % 32 == 0) atomicMin(at, v);
}
FN void take_one_least(LOCAL uint32_t *at, uint32_t v) { // by some lanes
    atomicMin(at, v);
}
FN uint32_t take_place(LOCAL uint32_t *n) { // adds 1 and gives what was there
    return atomicAdd(n, 1);
}
// out[i] = the largest, or the sum, of in[32*i .. 32*i+31], for i < 8. A phase of its own.
FN void max_of_32(const float *in, float *out) {
    float v = in[threadIdx.x];
    for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
    if (threadIdx.x % 32 == 0) out[threadIdx.x / 32] = v;
    __syncthreads();
}
FN void sum_of_32(const int32_t *in, int32_t *out) {
    int32_t v = in[threadIdx.x];
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
    if (threadIdx.x % 32 == 0) out[threadIdx.x / 32] = v;
    __syncthreads();
}

#else

#include "program/numbers.h"
#include <math.h>
#include <stdint.h>
#define GLOBAL
#define LOCAL
#define FN                        static inline
#define KERNEL(name, args, lanes) KERNEL_(name, args, lanes)
#define KERNEL_(name, args, lanes)                                                                                     \
    void name(const uint32_t *group_, uint8_t *weight, uint8_t *work, uint8_t *kv, const args *a);                     \
    void name(const uint32_t *group_, uint8_t *weight, uint8_t *work, uint8_t *kv, const args *a)
#define GROUP_X                group_[0]
#define GROUP_Y                group_[1]
#define GROUP_Z                group_[2]
#define SHARED(type, name, n)  _Alignas(16) type name[n]
#define PRIVATE(type, name, n) type name[256][n]
#define MINE(name, j)          name[j]
#define LANES(j)               for (uint32_t j = 0; j < 256; j++)
#define ONCE
#define ROW_LANES 256
#define UNROLL(n)
#define bits_of(x)     upg_bits(x)
#define float_of(u)    upg_float(u)
#define fused(a, b, c) fmaf(a, b, c)
#define rounded(x)     rintf(x)
#define square_root(x) sqrtf(x)
#define bits_set(x)    ((uint32_t)__builtin_popcountll(x))
FN int32_t byte_of(uint32_t x, int i) {
    return (int8_t)(x >> 8 * i & 255);
}
FN int32_t dot_us(uint32_t a, uint32_t b, int32_t c) {
    for (int i = 0; i < 4; i++) c += (int32_t)(a >> 8 * i & 255) * byte_of(b, i);
    return c;
}
FN int32_t dot_ss(uint32_t a, uint32_t b, int32_t c) {
    for (int i = 0; i < 4; i++) c += byte_of(a, i) * byte_of(b, i);
    return c;
}
FN int32_t dot_16(uint32_t a01, uint32_t a23, uint32_t b, int32_t c) {
    return c + (int32_t)(a01 & 0xffff) * byte_of(b, 0) + (int32_t)(a01 >> 16) * byte_of(b, 1) +
           (int32_t)(a23 & 0xffff) * byte_of(b, 2) + (int32_t)(a23 >> 16) * byte_of(b, 3);
}
FN int32_t dot_pair(uint32_t a, uint32_t b, int32_t c) {
    return c + (int16_t)(a & 65535) * (int32_t)(b & 255) + (int16_t)(a >> 16) * (int32_t)(b >> 8 & 255);
}
FN int32_t least_sum(int32_t a, int32_t b, int32_t c) {
    return a + b < c ? a + b : c;
}
FN void take_least(LOCAL uint32_t *at, uint32_t v) {
    *at = v < *at ? v : *at;
}
FN void take_one_least(LOCAL uint32_t *at, uint32_t v) {
    take_least(at, v);
}
FN uint32_t take_place(LOCAL uint32_t *n) {
    return (*n)++;
}
FN void max_of_32(const float *in, float *out) {
    for (int i = 0; i < 256; i++) out[i / 32] = i % 32 && out[i / 32] > in[i] ? out[i / 32] : in[i];
}
FN void sum_of_32(const int32_t *in, int32_t *out) {
    for (int i = 0; i < 256; i++) out[i / 32] = in[i] + (i % 32 ? out[i / 32] : 0);
}

#endif

#define GUARD_HIGH 0x58800000u // bits of 2^50
#define GUARD_LOW  0x21800000u // bits of 2^-60
// An array in the work memory, whose offsets count words of 4 bytes.
#define WORK(type, offset) ((GLOBAL type *)(GLOBAL void *)(work + (uint64_t)(offset)*4))

FN float guarded(float x, uint32_t *flag) {
    const uint32_t u = bits_of(x) & 0x7fffffff;
    *flag |= u >= GUARD_HIGH;
    return u >= GUARD_HIGH || u < GUARD_LOW ? 0.0f : x;
}
// Section 8. exp(y) less the power of two that k stands for.
FN float exponential_part(float y, float k) {
    float r = fused(k, -0x1.62e400p-1f, y), p = 0x1.a01a02p-13f;
    r = fused(k, -0x1.7f7d1cp-20f, r);
    p = fused(p, r, 0x1.6c16c2p-10f);
    p = fused(p, r, 0x1.111112p-7f);
    p = fused(p, r, 0x1.555556p-5f);
    p = fused(p, r, 0x1.555556p-3f);
    p = fused(p, r, 0x1p-1f);
    p = fused(p, r, 0x1p+0f);
    return fused(p, r, 0x1p+0f);
}
FN float exponential(float x) {
    const float y = x > 80.0f ? 80.0f : x < -80.0f ? -80.0f : x, k = rounded(y * 0x1.715476p+0f);
    return x < -80.0f ? 0.0f : float_of(bits_of(exponential_part(y, k)) + ((uint32_t)(int32_t)k << 23));
}
