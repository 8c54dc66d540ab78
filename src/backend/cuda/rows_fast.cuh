// The row ops of a decoder's layer with their values in registers: what ends in QUANTISE (after SWIGLU, or after
// RMSNORM and ADD), and KV. The same numbers as kernels/rows.h; shapes that these do not take go there.
#pragma once
#include "backend/cuda/args.h"
#include "kernels/codes.h"
#include <cooperative_groups.h>

FN void load_8(const float *p, float *v) {
    const float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
FN void store_8(float *p, const float *v) {
    ((float4 *)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4 *)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

// A stride of the rotation, between what a lane has.
template <int V> FN void rotate_step(float *v, int h) {
#pragma unroll
    for (int i = 0; i < V; i++)
        if (!(i & h)) {
            const float x = v[i], y = v[i + h];
            v[i] = x + y;
            v[i + h] = x - y;
        }
}
// H_b of values that lie V a lane, in order; b at most 32*V.
template <int V> FN void rotate_lanes(float *v, uint32_t b) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 1; h < V; h *= 2)
        if (h < b) rotate_step<V>(v, h);
    for (uint32_t h = V; h < b; h *= 2)
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float other = __shfl_xor_sync(~0u, v[i], h / V);
            v[i] = lane & (h / V) ? other - v[i] : v[i] + other;
        }
}
template <int V> FN uint32_t largest_bits(const float *v) {
    uint32_t m = 0;
#pragma unroll
    for (int i = 0; i < V; i++) m = max(m, bits_of(v[i]) & 0x7fffffff);
    return m;
}

// What a lane has of a row at last: columns i..i+7 as bytes, of a group with this shift and sum.
struct quantised_8 {
    uint32_t i, group, word[2], shift;
    int32_t sum;
};

// What a lane's values are multiplied by after NORM, with the signs of the rotation: they do not depend on what runs
// before. Without NORM: the signs alone.
FN void quantise_factors(const float *work, const quantise_args *a, float *factors) {
    const uint32_t i = threadIdx.x / 32 * 256 + threadIdx.x % 32 * 8;
    uint32_t sign[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll
    for (int k = 0; k < 8; k++) factors[k] = 0;
    if (i >= a->n) return;
    if (a->what & QUANTISE_NORM) load_8(work + a->vector + i, factors);
    if (a->rotated) load_8(work + a->sign + i, (float *)sign);
#pragma unroll
    for (int k = 0; k < 8; k++) factors[k] = float_of(bits_of(factors[k]) ^ sign[k]);
}

// A row is a block, or a cluster of BLOCKS blocks; a warp has 256 of its columns at a time, CHUNKS times, a lane 8 of
// them. squares: [n] of shared memory for NORM. put takes what comes out, after all have read squares. Returns m.
//
// factors: of one chunk, quantise_factors' from before, or NULL.
template <int CHUNKS, int BLOCKS, typename PUT>
FN float quantise_row(float *work, const quantise_args *a, uint32_t row, uint32_t block, bool first, float *squares,
                      const float *factors, PUT put) {
    __shared__ float sums[256];
    __shared__ float inverse;
    __shared__ uint32_t tops[32];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32,
                   chunk = block * warps + warp, n = a->n, b = a->b;
    uint32_t flag = 0;
    float v[CHUNKS][8];
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const uint32_t i = (c * 32 + chunk) * 256 + lane * 8;
#pragma unroll
        for (int k = 0; k < 8; k++) v[c][k] = 0;
        if (i >= n) continue;
        float *x = work + a->x + (uint64_t)row * a->x_stride + i;
        load_8(x, v[c]);
        float other[8];
        if (a->what & QUANTISE_ADD) {
            load_8(work + a->delta + (uint64_t)row * a->delta_stride + i, other);
#pragma unroll
            for (int k = 0; k < 8; k++) v[c][k] = v[c][k] + other[k];
            store_8(x, v[c]);
        }
        if (a->what & QUANTISE_SWIGLU) {
            load_8(x + n, other);
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const float gate = guarded(v[c][k], &flag), up = guarded(other[k], &flag);
                v[c][k] = (gate / (1.0f + exponential(-gate))) * up;
            }
        }
    }
    if (CHUNKS == 1 && BLOCKS == 1 && a->what & QUANTISE_NORM) {
        const uint32_t i = warp * 256 + lane * 8, chunks = (n + 255) / 256;
        float s[8];
#pragma unroll
        for (int k = 0; k < 8; k++) {
            v[0][k] = guarded(v[0][k], &flag);
            s[k] = v[0][k] * v[0][k];
        }
        if (warp < chunks) store_8(squares + i, s);
        __syncthreads();
        if (threadIdx.x < 256) {
            float sum = 0;
            for (uint32_t c = 0; c < chunks; c++) sum = sum + squares[c * 256 + threadIdx.x];
            sums[threadIdx.x] = sum;
        }
        __syncthreads();
        if (warp == 0) {
            float t[4];
#pragma unroll
            for (int k = 0; k < 4; k++) t[k] = sums[lane + 32 * k] + sums[lane + 32 * k + 128];
            t[0] = t[0] + t[2];
            t[1] = t[1] + t[3];
            t[0] = t[0] + t[1];
#pragma unroll
            for (int h = 16; h; h >>= 1) t[0] = t[0] + __shfl_down_sync(~0u, t[0], h);
            if (lane == 0) inverse = 1.0f / square_root(t[0] / (float)n + a->eps);
        }
        __syncthreads();
        if (i < n) {
            float w[8];
            if (!factors) load_8(work + a->vector + i, w);
#pragma unroll
            for (int k = 0; k < 8; k++) v[0][k] = (v[0][k] * inverse) * (factors ? factors[k] : w[k]);
        }
    }
    uint32_t most[CHUNKS], top = 0;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const uint32_t i = (c * 32 + chunk) * 256 + lane * 8;
        if (first && i < n && a->what & QUANTISE_KEEP) store_8(work + a->y + (uint64_t)row * a->y_stride + i, v[c]);
        uint32_t sign[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        if (factors && !(a->what & QUANTISE_NORM)) {
#pragma unroll
            for (int k = 0; k < 8; k++) sign[k] = bits_of(factors[k]);
        } else if (!factors && i < n && a->rotated) {
            load_8(work + a->sign + i, (float *)sign);
        }
#pragma unroll
        for (int k = 0; k < 8; k++) v[c][k] = float_of(bits_of(guarded(v[c][k], &flag)) ^ sign[k]);
        if (a->rotated) rotate_lanes<8>(v[c], b);
        most[c] = largest_bits<8>(v[c]);
        for (uint32_t o = 1; o < b / 8; o *= 2) most[c] = max(most[c], __shfl_xor_sync(~0u, most[c], o));
        top = max(top, most[c]);
    }
    top = __reduce_max_sync(~0u, top);
    if (lane == 0) tops[warp] = top;
    if (__any_sync(~0u, flag) && lane == 0)
        ((uint32_t *)work + a->flags)[a->gathered ? ((const uint32_t *)work + a->wanted)[row] : row] = 1;
    __syncthreads();
    top = __reduce_max_sync(~0u, lane < warps ? tops[lane] : 0);
#if __CUDA_ARCH__ >= 900
    if (BLOCKS > 1) {
        __shared__ uint32_t of_blocks[BLOCKS];
        auto cluster = cooperative_groups::this_cluster();
        if (threadIdx.x < BLOCKS) *cluster.map_shared_rank(&of_blocks[cluster.block_rank()], threadIdx.x) = top;
        cluster.sync();
        top = __reduce_max_sync(~0u, lane < BLOCKS ? of_blocks[lane] : 0);
    }
#endif
    const bool zero = top < GUARD_LOW;
    const float inv = 127.0f / float_of(top);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        quantised_8 out = {(c * 32 + chunk) * 256 + lane * 8};
        const int32_t e = most[c] ? (int32_t)(top >> 23) - (int32_t)(most[c] >> 23) -
                                        ((most[c] & 0x7fffff) > (top & 0x7fffff) ? 1 : 0)
                                  : 14,
                      shift = e < 14 ? e : 14;
        const float two_d = (float)(1 << (shift & 15));
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const int32_t r = zero ? 0 : (int32_t)rounded((v[c][k] * inv) * two_d);
            out.word[k / 4] |= ((uint32_t)r & 255) << 8 * (k % 4);
            out.sum += r;
        }
        for (uint32_t o = 1; o < b / 8; o *= 2) out.sum += __shfl_xor_sync(~0u, out.sum, o);
        out.group = out.i / b;
        out.shift = zero ? 0 : (uint32_t)shift;
        if (out.i < n) put(out);
    }
    return zero ? 0.0f : float_of(top);
}

// A kernel of its own: rows to memory.
template <int CHUNKS, int BLOCKS> FN void quantise(float *work, const quantise_args *a) {
    __shared__ __align__(16) float squares[CHUNKS == 1 && BLOCKS == 1 ? 32 * 256 : 1];
    const uint32_t row = blockIdx.x / BLOCKS, block = blockIdx.x % BLOCKS;
    begin();
    const float m = quantise_row<CHUNKS, BLOCKS>(work, a, row, block, true, squares, NULL, [=](const quantised_8 &v) {
        uint32_t *q = (uint32_t *)work + a->to.q + (uint64_t)row * (a->n / 4);
        if (a->transposed) {
            const uint32_t place = v.i / 4 % 16;
            q += v.i / 64 * 16 + place / 4;
            q[place % 4 * 4] = v.word[0];
            q[(place + 1) % 4 * 4] = v.word[1];
        } else {
            *(uint2 *)(q + v.i / 4) = make_uint2(v.word[0], v.word[1]);
        }
        if (v.i % a->b == 0) {
            ((uint32_t *)work + a->to.d)[v.group * a->to.stride + row] = v.shift;
            ((int32_t *)work + a->to.q_sum)[v.group * a->to.stride + row] = v.sum;
        }
    });
    if (threadIdx.x == 0 && block == 0) work[a->to.m + row] = m;
}

// A warp has 256 columns of a row.
FN void embed(const uint8_t *weight, float *work, const embed_args *a) {
    begin();
    const uint32_t lane = threadIdx.x % 32, i = (blockIdx.y * 8 + threadIdx.x / 32) * 256 + lane * 8, row = blockIdx.x,
                   token = ((const uint32_t *)work + a->tokens)[row], n = a->w.cols, b = a->w.b;
    if (i == 0) ((uint32_t *)work + a->flags)[row] = 0;
    float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (i < n) {
        uint32_t q[4];
        coded_16(&a->w, (const uint32_t *)weight, token / 256, i / 16, token % 256 / 16, token % 16, q);
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = (float)((int32_t)((lane % 2 ? q[2 + k / 4] : q[k / 4]) >> 8 * (k % 4) & 255) - 127);
    }
    if (a->rotated) rotate_lanes<8>(v, b); // of integers below 2^24
    if (i >= n) return;
    const float scale = ((const float *)weight)[a->w.scale + token];
    uint32_t sign[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (a->rotated) load_8(work + a->sign + i, (float *)sign);
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = float_of(bits_of(v[k] * scale) ^ sign[k]);
    store_8(work + a->out + (uint64_t)row * a->out_stride + i, v);
}

// A head of 32*V dimensions, which is one block of the rotation, by a warp: turned, rotated and quantised. buffer:
// [dim] of the warp's. Returns the scale.
template <int V>
FN float turn_head(float *work, const kv_args *a, uint32_t row, uint32_t head, uint32_t position, float *buffer,
                   int8_t *q) {
    const gpu_heads *h = &a->heads;
    const uint32_t lane = threadIdx.x % 32, dim = 32 * V, half = h->rotary / 2, turned = h->n_heads + h->n_kv_heads;
    const float *x = work + a->x + (uint64_t)row * a->x_stride + head * dim,
                *cosine = work + h->cosine + (uint64_t)position * half,
                *sine = work + h->sine + (uint64_t)position * half;
    float v[V];
#pragma unroll
    for (int k = 0; k < V; k++) {
        v[k] = x[lane * V + k];
        buffer[lane * V + k] = v[k];
    }
    __syncwarp();
    uint32_t flag = 0;
#pragma unroll
    for (int k = 0; k < V; k++) {
        const uint32_t i = lane * V + k;
        if (head < turned && i < half) {
            v[k] = (v[k] * cosine[i]) - (buffer[i + half] * sine[i]);
        } else if (head < turned && i < 2 * half) {
            v[k] = (v[k] * cosine[i - half]) + (buffer[i - half] * sine[i - half]);
        }
        v[k] = guarded(v[k], &flag);
    }
    if (__any_sync(~0u, flag) && lane == 0) ((uint32_t *)work + a->flags)[row] = 1;
    rotate_lanes<V>(v, dim);
    const uint32_t m = __reduce_max_sync(~0u, largest_bits<V>(v));
    const bool zero = m < GUARD_LOW;
    const float inv = 127.0f / float_of(m);
#pragma unroll
    for (int k = 0; k < V; k++) q[k] = (int8_t)(zero ? 0 : (int32_t)rounded(v[k] * inv));
    return zero ? 0.0f : float_of(m) * 0x1.020408p-7f;
}

// Puts a key or a value of a KV head (kv_head: keys first, then values) into its slot of a block of the cache.
template <int V>
FN void store_head(const gpu_heads *h, uint8_t *kv, uint32_t block, uint32_t slot, uint32_t kv_head, const int8_t *q,
                   float scale) {
    const uint32_t lane = threadIdx.x % 32, dim = 32 * V, head_bytes = KEY_BLOCK * (2 * dim + 8);
    const bool value = kv_head >= h->n_kv_heads;
    uint8_t *to = kv + ((uint64_t)block * h->kv_stride + h->kv_layer) * 16 +
                  (value ? kv_head - h->n_kv_heads : kv_head) * head_bytes + (value ? KEY_BLOCK * dim : 0);
#pragma unroll
    for (int k = 0; k < V; k++) {
        const uint32_t i = lane * V + k;
        if (value)
            to[(slot / 4 * dim + i) * 4 + slot % 4] = (uint8_t)q[k];
        else
            to[(slot / 16 * (dim / 4) + i / 4) * 64 + slot % 16 * 4 + i % 4] = (uint8_t)q[k];
    }
    float *scales = (float *)(to + (value ? 1 : 2) * KEY_BLOCK * dim);
    if (lane == 0) scales[value ? KEY_BLOCK + slot : slot] = scale;
}

// All heads of a row, a warp each.
template <int V> FN void turn_heads(float *work, uint8_t *kv, const kv_args *a) {
    __shared__ float buffer[8][32 * V];
    const gpu_heads *h = &a->heads;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x, head = blockIdx.y * 8 + warp,
                   dim = 32 * V;
    begin();
    if (head >= h->n_heads + 2 * h->n_kv_heads) return;
    const uint32_t position = ((const uint32_t *)work + a->positions)[row],
                   table = ((const uint32_t *)work + a->table)[row],
                   block = ((const uint32_t *)work)[table + position / KEY_BLOCK];
    int8_t q[V];
    const float scale = turn_head<V>(work, a, row, head, position, buffer[warp], q);
    if (head >= h->n_heads) {
        store_head<V>(h, kv, block, position % KEY_BLOCK, head - h->n_heads, q, scale);
        return;
    }
    const uint64_t place = (uint64_t)row * h->n_heads + head;
    int8_t *to = (int8_t *)(work + h->q) + place * dim;
#pragma unroll
    for (int k = 0; k < V; k++) to[lane * V + k] = q[k];
    if (lane == 0) work[h->q_scale + place] = scale;
}
