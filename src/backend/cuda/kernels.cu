// All kernels for CUDA: those that every device has, and linear layers on tensor cores.
#include "kernels/kernels.h"
#include "backend/cuda/attention_fast.cuh"
#include "backend/cuda/attention_mma.cuh"
#include "backend/cuda/linear_mma.cuh"
#include "backend/cuda/linear_wgmma.cuh"
#include "backend/cuda/rows_fast.cuh"

// Lines that are one macro confuse it.
// clang-format off

// N: words a lane has of a unit: bits a step of the trellis, or 16: int8.
#define ALL_N(X) X(4) X(5) X(6) X(7) X(8) X(16)
#define REORDER(n)                                                                                                     \
    extern "C" __global__ void reorder_##n(const uint32_t *from, uint32_t *to, uint32_t rows, uint32_t cols) {         \
        begin();                                                                                                       \
        reorder<n>(from, to, rows, cols);                                                                              \
    }
ALL_N(REORDER)

#if __CUDA_ARCH__ >= 800 || !defined(__CUDA_ARCH__)
// Started with 640 threads where 1024 are allowed: 64 registers each leave room on the multiprocessor for the first
// blocks of the kernels that come next.
#define GEMV(n, rows, units)                                                                                           \
    extern "C" __global__ void __launch_bounds__(n == 16 || rows == 16 ? 512 : rows == 8 ? 640 : 1024, 1)                             \
        gemv_##n##_##rows##_##units(const uint8_t *weight, float *work, const __grid_constant__ mma_args a) {          \
        gemv<n, rows, units>(weight, work, &a);                                                                        \
    }
#define TILE(n, rows, units)                                                                                           \
    extern "C" __global__ void __launch_bounds__(TILE_THREADS, 1)                                                      \
        tile_##n##_##rows##_##units(const uint8_t *weight, float *work, const __grid_constant__ mma_args a) {          \
        tile<n, rows / 8, units>(weight, work, &a);                                                                    \
    }
#define UNITS(kernel, n, rows) kernel(n, rows, 1) kernel(n, rows, 2) kernel(n, rows, 4)
#define LINEAR(n)              UNITS(GEMV, n, 8) UNITS(GEMV, n, 16) UNITS(TILE, n, 32) UNITS(TILE, n, 64)
ALL_N(LINEAR)
#define SINGLE(n)    UNITS(GEMV, n, 1)
#define TRELLIS_N(X) X(4) X(5) X(6) X(7) X(8)
TRELLIS_N(SINGLE)

#define QUANTISE(chunks)                                                                                               \
    extern "C" __global__ void __launch_bounds__(1024)                                                                 \
        quantise_##chunks(float *work, const __grid_constant__ quantise_args a) {                                      \
        quantise<chunks, 1>(work, &a);                                                                                 \
    }
QUANTISE(1)
QUANTISE(3)
#if __CUDA_ARCH__ >= 900 || !defined(__CUDA_ARCH__)
#define WIDE(n, units, rows)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256, 128 / rows)                                                      \
        wide_##n##_##units##_##rows(const uint8_t *weight, float *work, const __grid_constant__ mma_args a) {          \
        wide<n, units, rows>(weight, work, &a);                                                                        \
    }
#if __CUDA_ARCH_FEAT_SM90_ALL
extern "C" __global__ void transpose(uint32_t *q, uint32_t n) {
    begin();
    transpose_inputs(q, n);
}
#define WIDE_N(n) WIDE(n, 2, 64) WIDE(n, 4, 64) WIDE(n, 2, 128) WIDE(n, 4, 128)
ALL_N(WIDE_N)
#endif
extern "C" __global__ void __cluster_dims__(8, 1, 1) __launch_bounds__(1024)
    quantise_cluster(float *work, const __grid_constant__ quantise_args a) {
    quantise<1, 8>(work, &a);
}
#endif
// As fast as one can be, and with registers for several on a multiprocessor.
#define ATTEND(dim, q, many, blocks)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256, blocks)                                                          \
        attend_##dim##_##q##_##many(float *work, uint8_t *kv, const __grid_constant__ attend_args a) {                 \
        attend<dim, q>(work, kv, &a);                                                                                  \
    }
#define ATTEND_MANY(dim)                                                                                               \
    extern "C" __global__ void __launch_bounds__(64 * ATTEND_PAIRS, 1)                                                 \
        attend_many_##dim(float *work, uint8_t *kv, const __grid_constant__ attend_args a) {                           \
        attend_many<dim>(work, kv, &a);                                                                                \
    }
ATTEND_MANY(64)
ATTEND_MANY(128)
ATTEND(64, 4, 0, 1)
ATTEND(64, 4, 1, 4)
ATTEND(64, 8, 0, 1)
ATTEND(64, 8, 1, 3)
ATTEND(128, 4, 0, 1)
ATTEND(128, 4, 1, 2)
ATTEND(128, 8, 0, 1)
ATTEND(128, 8, 1, 2)
extern "C" __global__ void __launch_bounds__(256)
    embed_rows(const uint8_t *weight, float *work, const __grid_constant__ embed_args a) {
    embed(weight, work, &a);
}
#define HEADS(v)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        heads_##v(float *work, uint8_t *kv, const __grid_constant__ kv_args a) {                                       \
        turn_heads<v>(work, kv, &a);                                                                                   \
    }
HEADS(2)
HEADS(4)
HEADS(8)
#endif
