// Attention, section 11. A group takes queries of one KV head: rows of a span, by query heads that share it. Its 256
// lanes are the keys of a block while scores are made, then parts of sums.
//
// Few rows are split: a group takes one block of keys and leaves its sums; kernel_join puts them together, in the order
// of the blocks. Where there are many rows, a group goes through all blocks itself.
#pragma once
#include "kernels/args.h"
#include "kernels/port.h"

typedef struct attention_group {
    uint32_t row, queries, heads, head; // first row; rows * heads; query heads of it, and the first of them
    uint32_t kv_head, position;
} attention_group;

// The first position that a row sees.
FN uint32_t first_seen(const gpu_attention_args *a, uint32_t position) {
    return a->window && position >= a->window ? position - a->window + 1 : 0;
}

// o / l, rotated back, and scaled: what a query's sums become. o: [dim] of up to 8 queries, 256 apart.
FN void attention_finish(const gpu_attention_args *a, uint32_t queries, LOCAL float *o, LOCAL const float *l) {
    const uint32_t dim = a->heads.head_dim, b = a->heads.b;
    LANES(j) {
        for (uint32_t i = j; i < queries * dim; i += GROUP_LANES)
            o[i / dim * GPU_MAX_DIM + i % dim] = o[i / dim * GPU_MAX_DIM + i % dim] / l[i / dim];
    }
    for (uint32_t h = 1; h < b; h *= 2) LANES(j) {
            for (uint32_t i = j; i < queries * (dim / 2); i += GROUP_LANES) {
                const uint32_t p = i % (dim / 2), at = i / (dim / 2) * GPU_MAX_DIM + p / h * 2 * h + p % h;
                const float x = o[at], y = o[at + h];
                o[at] = x + y;
                o[at + h] = x - y;
            }
        }
    const float back = 1.0f / (float)b;
    LANES(j) {
        for (uint32_t i = j; i < queries * dim; i += GROUP_LANES)
            o[i / dim * GPU_MAX_DIM + i % dim] = o[i / dim * GPU_MAX_DIM + i % dim] * back;
    }
}

#define QUERIES   4
#define ATTENTION kernel_attention_4
#include "kernels/attention_kernel.h"
#define QUERIES   8
#define ATTENTION kernel_attention_8
#include "kernels/attention_kernel.h"

// A row and a query head: the sums of its blocks become one.
KERNEL(kernel_join, gpu_attention_args, GROUP_LANES) {
    (void)weight;
    (void)kv;
    const uint32_t row = GROUP_X, head = GROUP_Y, dim = a->heads.head_dim,
                   position = WORK(const uint32_t, a->batch.positions)[row],
                   first = first_seen(a, position) / KEY_BLOCK;
    GLOBAL const float *partial =
        WORK(const float, a->partial) + ((uint64_t)row * a->heads.n_heads + head) * a->n_blocks * (dim + 2);
    SHARED(float, result, GPU_MAX_DIM);
    SHARED(float, l, 1);
    LANES(j) {
        if (j < dim) {
            GLOBAL const float *p = partial + first * (dim + 2);
            float o = p[j], m = p[dim], sum = p[dim + 1];
            for (uint32_t block = first + 1; block <= position / KEY_BLOCK; block++) {
                p = partial + block * (dim + 2);
                const float top = p[dim] > m ? p[dim] : m, x = exponential(m - top), y = exponential(p[dim] - top);
                o = (o * x) + (p[j] * y);
                sum = (sum * x) + (p[dim + 1] * y);
                m = top;
            }
            result[j] = o;
            if (j == 0) l[0] = sum;
        }
    }
    attention_finish(a, 1, result, l);
    LANES(j) {
        if (j < dim) WORK(float, a->out)[(uint64_t)row * a->out_stride + head * dim + j] = result[j];
    }
}
