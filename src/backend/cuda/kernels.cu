// All kernels for CUDA: those that every device has, and linear layers on tensor cores.
#include "kernels/kernels.h"
#include "backend/cuda/linear_mma.cuh"
#include "backend/cuda/rows_fast.cuh"

// N: words a lane has of a unit: bits a step of the trellis, or 16: int8.
#define ALL_N(X) X(4) X(5) X(6) X(7) X(8) X(16)
#define REORDER(n)                                                                                                     \
    extern "C" __global__ void reorder_##n(const uint32_t *from, uint32_t *to, uint32_t rows, uint32_t cols) {         \
        begin();                                                                                                       \
        reorder<n>(from, to, rows, cols);                                                                              \
    }
ALL_N(REORDER)

#if __CUDA_ARCH__ >= 800 || !defined(__CUDA_ARCH__)
#define GEMV(n, rows)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(512)                                                                  \
        gemv_##n##_##rows(const uint8_t *weight, float *work, const __grid_constant__ mma_args a) {                    \
        gemv<n, rows>(weight, work, &a);                                                                               \
    }
#define TILE(n, rows)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, rows <= 32 ? 2 : 1)                                              \
        tile_##n##_##rows(const uint8_t *weight, float *work, const __grid_constant__ mma_args a) {                    \
        tile<n, rows / 8>(weight, work, &a);                                                                           \
    }
#define LINEAR(n) GEMV(n, 1) GEMV(n, 8) GEMV(n, 16) TILE(n, 32) TILE(n, 64)
ALL_N(LINEAR)

#define QUANTISE(chunks)                                                                                               \
    extern "C" __global__ void __launch_bounds__(1024) quantise_##chunks(float *work, const __grid_constant__ quantise_args a) { \
        quantise<chunks>(work, &a);                                                                                    \
    }
QUANTISE(1)
QUANTISE(3)
#define HEADS(v)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256) heads_##v(float *work, uint8_t *kv, const __grid_constant__ kv_args a) { \
        turn_heads<v>(work, kv, &a);                                                                                   \
    }
HEADS(2)
HEADS(4)
HEADS(8)
#endif
