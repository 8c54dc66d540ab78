// What CUDA's own kernels are told, beside kernels/args.h: the same on host and device.
#pragma once
#include "kernels/args.h"

// EMBED, what ends in QUANTISE, and KV: rows_fast.cuh.
enum { QUANTISE_ADD = 1, QUANTISE_NORM = 2, QUANTISE_SWIGLU = 4, QUANTISE_KEEP = 8 };
typedef struct quantise_args {
    gpu_quantised to;
    uint32_t flags, wanted, gathered, sign;
    float eps;
    uint32_t what;                // bits of QUANTISE_...
    uint32_t x, x_stride;         // input; with ADD the sum is written there
    uint32_t delta, delta_stride; // ADD: what is added
    uint32_t vector;              // NORM: weight
    uint32_t y, y_stride;         // KEEP: what is quantised is written there
    uint32_t n, b, rotated;       // n: a multiple of 16, no padding; SWIGLU: inputs are [2][n]
    uint32_t transposed;          // the words of 64 columns are stored as linear_wgmma.cuh reads them
} quantise_args;
typedef struct embed_args {
    gpu_matrix w;
    uint32_t tokens, flags, sign, out, out_stride, rotated;
} embed_args;
typedef struct kv_args {
    gpu_heads heads;
    uint32_t flags, positions, table, x, x_stride;
} kv_args;

// Products: linear_mma.cuh, linear_wgmma.cuh.
typedef struct mma_args {
    gpu_linear_args linear;
    quantise_args quantise; // one row: what each block does first
    uint32_t quantises;
    uint64_t sums;   // address of sums of parts: 64 bits, [batch rows][rows of w padded to 32], zeros before and after;
                     // more rows on Hopper: 32 bits, a tile for each block
    uint64_t counts; // of parts of such a tile: [blocks], zeros before and after
    uint32_t whole;  // few rows: blocks take whole pairs of bands
    uint32_t stages; // more rows: groups in shared memory, 2 or 3
} mma_args;

// Attention: attention_fast.cuh, attention_mma.cuh.
enum {
    ATTEND_PAIRS = 6, // of warps of a block for many rows, at most; 16 queries each
    // Its shared memory for a pair: weights of a block of keys, and of each half of the keys two numbers a query.
    PAIR_WEIGHTS = 16 * KEY_BLOCK * 2,
    PAIR_BYTES = PAIR_WEIGHTS + 2 * 2 * 16 * 4
};
typedef struct attend_args {
    gpu_attention_args attention;
    kv_args kv;
    uint32_t turns; // heads are turned and stored by the blocks of attention, by kv
    uint64_t done;  // address of counts of blocks that are done: [spans][groups of queries], zeros before and after
} attend_args;
