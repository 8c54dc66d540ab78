// The row ops of a decoder's layer with their values in registers: what ends in QUANTISE (after SWIGLU, or after
// RMSNORM and ADD), and KV. The same numbers as kernels/rows.h; shapes that these do not take go there.
#pragma once
#include "backend/cuda/args.h"
#include "kernels/port.h"
#include <cooperative_groups.h>

FN void load_8(const float *p, float *v) {
    const float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
FN void store_8(float *p, const float *v) {
    ((float4 *)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4 *)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

// H_b of values that lie V a lane, in order; b at most 32*V.
template <int V> FN void rotate_lanes(float *v, uint32_t b) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 1; h < V; h *= 2)
        if (h < b)
#pragma unroll
            for (int i = 0; i < V; i++)
                if (!(i & h)) {
                    const float x = v[i], y = v[i + h];
                    v[i] = x + y;
                    v[i + h] = x - y;
                }
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

// A row is a block, or a cluster of BLOCKS blocks; a warp has 256 of its columns at a time, CHUNKS times, a lane 8 of
// them.
template <int CHUNKS, int BLOCKS> FN void quantise(float *work, const quantise_args *a) {
    __shared__ float squares[CHUNKS == 1 && BLOCKS == 1 ? 32 * 256 : 1];
    __shared__ float sums[256];
    __shared__ float inverse;
    __shared__ uint32_t tops[32];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, row = blockIdx.x / BLOCKS,
                   chunk = blockIdx.x % BLOCKS * warps + warp, n = a->n, b = a->b;
    begin();
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
            load_8(work + a->vector + i, w);
#pragma unroll
            for (int k = 0; k < 8; k++) v[0][k] = (v[0][k] * inverse) * w[k];
        }
    }
    uint32_t most[CHUNKS], top = 0;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const uint32_t i = (c * 32 + chunk) * 256 + lane * 8;
        if (i < n && a->what & QUANTISE_KEEP) store_8(work + a->y + (uint64_t)row * a->y_stride + i, v[c]);
        uint32_t sign[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        if (i < n && a->rotated) load_8(work + a->sign + i, (float *)sign);
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
        const uint32_t i = (c * 32 + chunk) * 256 + lane * 8, group = i / b;
        const int32_t e = most[c] ? (int32_t)(top >> 23) - (int32_t)(most[c] >> 23) -
                                        ((most[c] & 0x7fffff) > (top & 0x7fffff) ? 1 : 0)
                                  : 14,
                      shift = e < 14 ? e : 14;
        const float two_d = (float)(1 << (shift & 15));
        uint32_t word[2] = {0, 0};
        int32_t sum = 0;
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const int32_t r = zero ? 0 : (int32_t)rounded((v[c][k] * inv) * two_d);
            word[k / 4] |= ((uint32_t)r & 255) << 8 * (k % 4);
            sum += r;
        }
        for (uint32_t o = 1; o < b / 8; o *= 2) sum += __shfl_xor_sync(~0u, sum, o);
        if (i >= n) continue;
        ((uint2 *)((uint32_t *)work + a->to.q + (uint64_t)row * (n / 4)))[i / 8] = make_uint2(word[0], word[1]);
        if (lane % (b / 8) == 0) {
            ((uint32_t *)work + a->to.d)[group * a->to.stride + row] = zero ? 0 : (uint32_t)shift;
            ((int32_t *)work + a->to.q_sum)[group * a->to.stride + row] = sum;
        }
    }
    if (threadIdx.x == 0 && blockIdx.x % BLOCKS == 0) work[a->to.m + row] = zero ? 0.0f : float_of(top);
}

// Heads of 32*V dimensions, which are one block of the rotation: a warp each.
template <int V> FN void turn_heads(float *work, uint8_t *kv, const kv_args *a) {
    __shared__ float buffer[8][32 * V];
    const gpu_heads *h = &a->heads;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x, head = blockIdx.y * 8 + warp,
                   dim = 32 * V, half = h->rotary / 2, turned = h->n_heads + h->n_kv_heads;
    begin();
    if (head >= turned + h->n_kv_heads) return;
    const uint32_t position = ((const uint32_t *)work + a->positions)[row], slot = position % KEY_BLOCK,
                   table = ((const uint32_t *)work + a->table)[row],
                   block = ((const uint32_t *)work)[table + position / KEY_BLOCK];
    const float *x = work + a->x + (uint64_t)row * a->x_stride + head * dim,
                *cosine = work + h->cosine + (uint64_t)position * half,
                *sine = work + h->sine + (uint64_t)position * half;
    float v[V];
#pragma unroll
    for (int k = 0; k < V; k++) {
        v[k] = x[lane * V + k];
        buffer[warp][lane * V + k] = v[k];
    }
    __syncwarp();
    uint32_t flag = 0;
#pragma unroll
    for (int k = 0; k < V; k++) {
        const uint32_t i = lane * V + k;
        if (head < turned && i < half) {
            v[k] = (v[k] * cosine[i]) - (buffer[warp][i + half] * sine[i]);
        } else if (head < turned && i < 2 * half) {
            v[k] = (v[k] * cosine[i - half]) + (buffer[warp][i - half] * sine[i - half]);
        }
        v[k] = guarded(v[k], &flag);
    }
    if (__any_sync(~0u, flag) && lane == 0) ((uint32_t *)work + a->flags)[row] = 1;
    rotate_lanes<V>(v, dim);
    const uint32_t m = __reduce_max_sync(~0u, largest_bits<V>(v));
    const bool zero = m < GUARD_LOW;
    const float scale = zero ? 0.0f : float_of(m) * 0x1.020408p-7f, inv = 127.0f / float_of(m);
    int8_t q[V];
#pragma unroll
    for (int k = 0; k < V; k++) q[k] = (int8_t)(zero ? 0 : (int32_t)rounded(v[k] * inv));
    if (head < h->n_heads) {
        const uint64_t place = (uint64_t)row * h->n_heads + head;
        int8_t *to = (int8_t *)(work + h->q) + place * dim;
#pragma unroll
        for (int k = 0; k < V; k++) to[lane * V + k] = q[k];
        if (lane == 0) work[h->q_scale + place] = scale;
        return;
    }
    const uint32_t head_bytes = KEY_BLOCK * (2 * dim + 8);
    uint8_t *layer = kv + ((uint64_t)block * h->kv_stride + h->kv_layer) * 16;
    if (head < turned) {
        uint8_t *to = layer + (head - h->n_heads) * head_bytes;
#pragma unroll
        for (int k = 0; k < V; k++) {
            const uint32_t i = lane * V + k;
            to[(slot / 16 * (dim / 4) + i / 4) * 64 + slot % 16 * 4 + i % 4] = (uint8_t)q[k];
        }
        if (lane == 0) ((float *)(to + 2 * KEY_BLOCK * dim))[slot] = scale;
    } else {
        uint8_t *to = layer + (head - turned) * head_bytes + KEY_BLOCK * dim;
#pragma unroll
        for (int k = 0; k < V; k++) to[(slot / 4 * dim + lane * V + k) * 4 + slot % 4] = (uint8_t)q[k];
        if (lane == 0) ((float *)(to + KEY_BLOCK * dim))[KEY_BLOCK + slot] = scale;
    }
}
