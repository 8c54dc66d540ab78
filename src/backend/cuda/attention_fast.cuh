// Attention of few rows: section 11 for heads of 64 or 128 dimensions. As in kernels/attention.h a block takes a block
// of keys for some queries of a KV head; keys and values are on their way to registers before anything is computed, and
// the last block of a span to finish puts the sums together, in the order of the keys.
#pragma once
#include "backend/cuda/linear_mma.cuh"
#include "backend/cuda/rows_fast.cuh"
#include "kernels/attention.h"

// What this block has written, and other blocks before they counted themselves, is seen after it.
FN void order_memory() {
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

// The sums of blocks from..to in their order, by a warp: o has every 32nd dimension from its lane's on. What earlier
// sums are multiplied by and what a block's own are depends on the largest scores only, so lanes find that out for a
// block each.
template <int DIM> FN void join_blocks(const float *partial, uint32_t from, uint32_t to, float *o, float *l) {
    constexpr int V = DIM / 32, AHEAD = 8;
    const uint32_t lane = threadIdx.x % 32;
    float all_m = -0x1p+126f, all_l = 0;
#pragma unroll
    for (int c = 0; c < V; c++) o[c] = 0;
    for (uint32_t base = from; base <= to; base += 32) {
        const uint32_t n = min(to - base + 1, 32);
        const float *p = partial + (uint64_t)base * (DIM + 2), *mine = p + lane * (DIM + 2);
        const float m = lane < n ? __ldcg(mine + DIM) : -0x1p+126f, sum = lane < n ? __ldcg(mine + DIM + 1) : 0;
        float top = fmaxf(m, all_m);
#pragma unroll
        for (int i = 1; i < 32; i *= 2) {
            const float before = __shfl_up_sync(~0u, top, i);
            if (lane >= i) top = fmaxf(top, before);
        }
        const float before = __shfl_up_sync(~0u, top, 1), x = exponential((lane ? before : all_m) - top),
                    y = exponential(m - top); // the very first x is 0
        all_m = __shfl_sync(~0u, top, 31);
        for (uint32_t i = 0; i < n; i += AHEAD) {
            float next[AHEAD][V];
#pragma unroll
            for (int k = 0; k < AHEAD; k++)
#pragma unroll
                for (int c = 0; c < V; c++)
                    next[k][c] = i + k < n ? __ldcg(p + (i + k) * (DIM + 2) + lane + 32 * c) : 0;
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                if (i + k >= n) break;
                const float x_k = __shfl_sync(~0u, x, i + k), y_k = __shfl_sync(~0u, y, i + k);
                all_l = (all_l * x_k) + (__shfl_sync(~0u, sum, i + k) * y_k);
#pragma unroll
                for (int c = 0; c < V; c++) o[c] = (o[c] * x_k) + (next[k][c] * y_k);
            }
        }
    }
    *l = all_l;
}

template <int DIM, int Q> FN void attend(float *work, uint8_t *kv, const attend_args *all) {
    constexpr int WORDS = DIM / 4, PIECES = WORDS / 4, ROWS = 256 / WORDS, QUADS = 64 / ROWS, V = DIM / 32;
    const gpu_attention_args *a = &all->attention;
    const gpu_heads *h = &a->heads;
    __shared__ __align__(16) uint32_t qs[WORDS * Q]; // word by word of all queries
    __shared__ __align__(16) uint16_t pairs[Q * 256];
    __shared__ __align__(16) int32_t sums[ROWS][Q][DIM];
    __shared__ float tops[8][Q], tops_v[8][Q], q_scale[Q];
    __shared__ int32_t counts[8][Q];
    __shared__ bool last_block;
    const uint32_t j = threadIdx.x, lane = j % 32, warp = j / 32, per_kv = h->n_heads / h->n_kv_heads,
                   skipped = blockIdx.y % a->parts * a->heads_a_group, kv_head = blockIdx.y / a->parts,
                   heads = min(per_kv - skipped, a->heads_a_group), head = kv_head * per_kv + skipped,
                   block = blockIdx.z, base = block * KEY_BLOCK;
    begin();
    if (blockIdx.x >= ((const uint32_t *)work + a->batch.counts)[0]) return;
    const uint4 span = ((const uint4 *)(work + a->batch.spans))[blockIdx.x]; // row, rows, position, table
    const uint32_t row = span.x, position = span.z, queries = span.y * heads, last = position + span.y - 1,
                   low = first_seen(a, position) / KEY_BLOCK, high = last / KEY_BLOCK;
    if (block < low || block > high) return;
    const uint32_t place = ((const uint32_t *)work)[span.w + block];
    const uint8_t *keys =
        kv + ((uint64_t)place * h->kv_stride + h->kv_layer) * 16 + kv_head * (KEY_BLOCK * (2 * DIM + 8));
    const float *scales = (const float *)(keys + 2 * KEY_BLOCK * DIM);
    const uint32_t end = last - base < KEY_BLOCK ? last - base + 1 : KEY_BLOCK; // keys of the block that any query sees
    // 16 bytes at a time: word 4*i + part of four keys, which four neighbours share, and of values four dimensions of
    // four keys.
    const uint32_t part = j % 4, quad = j / 4, row_of = j / WORDS;
    const uint4 *k_from = (const uint4 *)keys + quad / 4 * DIM + part * 4 + quad % 4,
                *v_from = (const uint4 *)(keys + KEY_BLOCK * DIM) + j;
    uint4 k[PIECES], v[QUADS];
#pragma unroll
    for (int i = 0; i < PIECES; i++) k[i] = quad * 4 < end ? k_from[i * 16] : uint4();
    float k_scale = j < end ? scales[j] : 0, v_scale = j < end ? scales[KEY_BLOCK + j] : 0;
#pragma unroll
    for (int i = 0; i < QUADS; i++) v[i] = (row_of + i * ROWS) * 4 < end ? v_from[i * 256] : uint4();
    if (all->turns) {
        // A warp a head: queries, and where the new key and value belong to this block, these. Keys were asked for
        // before; what is new among them is read again.
        __shared__ float turning[8][DIM];
        const uint32_t slot = position % KEY_BLOCK, jobs = heads + (block == high ? 2 : 0);
        for (uint32_t i = warp; i < jobs; i += 8) {
            const uint32_t kv_head_of = kv_head + (i > heads ? h->n_kv_heads : 0);
            int8_t q[V];
            const float scale = turn_head<V>(work, &all->kv, row, i < heads ? head + i : h->n_heads + kv_head_of,
                                             position, turning[warp], q);
            if (i >= heads) {
                store_head<V>(h, kv, place, slot, kv_head_of, q, scale);
                continue;
            }
#pragma unroll
            for (int c = 0; c < V; c++) {
                const uint32_t d = lane * V + c;
                ((int8_t *)qs)[(d / 4 * Q + i) * 4 + d % 4] = q[c];
            }
            if (lane == 0) q_scale[i] = scale * a->c;
        }
        for (uint32_t i = j; i < Q * WORDS; i += 256)
            if (i % Q >= heads) qs[i] = 0;
        if (j >= heads && j < Q) q_scale[j] = 0;
        __syncthreads();
        if (block == high) {
            if (quad == slot / 4)
#pragma unroll
                for (int i = 0; i < PIECES; i++) k[i] = k_from[i * 16];
            if (j == slot) {
                k_scale = scales[j];
                v_scale = scales[KEY_BLOCK + j];
            }
#pragma unroll
            for (int i = 0; i < QUADS; i++)
                if (row_of + i * ROWS == slot / 4) v[i] = v_from[i * 256];
        }
    }
    for (uint32_t i = j; i < Q * WORDS && !all->turns; i += 256) {
        const uint32_t query = i / WORDS, at = (row + query / heads) * h->n_heads + head + query % heads;
        qs[i % WORDS * Q + query] =
            query < queries ? ((const uint32_t *)work)[h->q + (uint64_t)at * WORDS + i % WORDS] : 0;
        if (i % WORDS == 0) q_scale[query] = query < queries ? work[h->q_scale + at] * a->c : 0;
    }
    __syncthreads();
    int32_t dots[4][Q]; // of the four keys
#pragma unroll
    for (int i = 0; i < 4 * Q; i++) dots[i / Q][i % Q] = 0;
#pragma unroll
    for (int c = 0; c < PIECES; c++)
#pragma unroll
        for (int i = 0; i < Q; i += 4) {
            const uint4 w4 = *(const uint4 *)&qs[(c * 4 + part) * Q + i];
            const uint32_t w[4] = {w4.x, w4.y, w4.z, w4.w};
#pragma unroll
            for (int n = 0; n < 4; n++) {
                dots[0][i + n] = dot_ss(k[c].x, w[n], dots[0][i + n]);
                dots[1][i + n] = dot_ss(k[c].y, w[n], dots[1][i + n]);
                dots[2][i + n] = dot_ss(k[c].z, w[n], dots[2][i + n]);
                dots[3][i + n] = dot_ss(k[c].w, w[n], dots[3][i + n]);
            }
        }
    // From here on a lane has key j, the sum of what four neighbours have of it.
    int32_t dot[Q];
    float score[Q];
    bool seen[Q];
#pragma unroll
    for (int i = 0; i < Q; i++) {
        const bool odd = part & 1, high = part & 2;
        const int32_t a = (odd ? dots[1][i] : dots[0][i]) + __shfl_xor_sync(~0u, odd ? dots[0][i] : dots[1][i], 1),
                      b = (odd ? dots[3][i] : dots[2][i]) + __shfl_xor_sync(~0u, odd ? dots[2][i] : dots[3][i], 1);
        dot[i] = (high ? b : a) + __shfl_xor_sync(~0u, high ? a : b, 2);
    }
#pragma unroll
    for (int i = 0; i < Q; i++) {
        const uint32_t at = position + i / heads;
        seen[i] = i < queries && base + j <= at && base + j >= first_seen(a, at);
        score[i] = (float)dot[i] * (q_scale[i] * k_scale);
        float top = seen[i] ? score[i] : -0x1p+126f, top_v = seen[i] ? v_scale : 0.0f;
#pragma unroll
        for (int o = 16; o; o >>= 1) {
            top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
            top_v = fmaxf(top_v, __shfl_xor_sync(~0u, top_v, o));
        }
        if (lane == 0) {
            tops[warp][i] = top;
            tops_v[warp][i] = top_v;
        }
    }
    __syncthreads();
    float m[Q], v_max[Q];
#pragma unroll
    for (int i = 0; i < Q; i++) {
        m[i] = tops[0][i];
        v_max[i] = tops_v[0][i];
#pragma unroll
        for (int o = 1; o < 8; o++) {
            m[i] = fmaxf(m[i], tops[o][i]);
            v_max[i] = fmaxf(v_max[i], tops_v[o][i]);
        }
        const float f = v_max[i] > 0.0f ? 32767.0f / v_max[i] : 0.0f, p = exponential(score[i] - m[i]);
        pairs[i * 256 + j] = seen[i] ? (uint16_t)(int32_t)rounded(p * (v_scale * f)) : 0;
        const int32_t sum = __reduce_add_sync(~0u, seen[i] ? (int32_t)rounded(32767.0f * p) : 0);
        if (lane == 0) counts[warp][i] = sum;
    }
    __syncthreads();
    int32_t acc[Q][4];
#pragma unroll
    for (int i = 0; i < 4 * Q; i++) acc[i / 4][i % 4] = 0;
#pragma unroll
    for (int n = 0; n < QUADS; n++)
#pragma unroll
        for (int i = 0; i < Q; i++) {
            const uint2 p = *(const uint2 *)&pairs[i * 256 + (row_of + n * ROWS) * 4];
            acc[i][0] = dot_16(p.x, p.y, v[n].x, acc[i][0]);
            acc[i][1] = dot_16(p.x, p.y, v[n].y, acc[i][1]);
            acc[i][2] = dot_16(p.x, p.y, v[n].z, acc[i][2]);
            acc[i][3] = dot_16(p.x, p.y, v[n].w, acc[i][3]);
        }
#pragma unroll
    for (int i = 0; i < Q; i++)
        *(int4 *)&sums[row_of][i][j % WORDS * 4] = make_int4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
    __syncthreads();
    // A warp a query.
    float o[V], all_m = 0, all_l = 0;
    const uint32_t at = position + warp / heads, place_q = (row + warp / heads) * h->n_heads + head + warp % heads;
    const bool alone = low == high;
    float *partial = work + a->partial + ((uint64_t)place_q * a->n_blocks) * (DIM + 2);
    if (warp < queries) {
        int32_t l = 0;
        float top = tops[0][warp], top_v = tops_v[0][warp];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            top = fmaxf(top, tops[i][warp]);
            top_v = fmaxf(top_v, tops_v[i][warp]);
            l += counts[i][warp];
        }
#pragma unroll
        for (int i = 0; i < V; i++) {
            int32_t sum = 0;
#pragma unroll
            for (int p = 0; p < ROWS; p++) sum += sums[p][warp][lane + 32 * i];
            o[i] = (float)sum * top_v;
        }
        all_m = top;
        all_l = (float)l;
        if (!alone) {
            float *to = partial + (uint64_t)block * (DIM + 2);
#pragma unroll
            for (int i = 0; i < V; i++) __stcg(to + lane + 32 * i, o[i]);
            if (lane == 0) {
                __stcg(to + DIM, all_m);
                __stcg(to + DIM + 1, all_l);
            }
        }
    }
    if (!alone) {
        __syncthreads();
        if (j == 0) {
            uint32_t *done = (uint32_t *)all->done + blockIdx.x * gridDim.y + blockIdx.y;
            order_memory();
            last_block = atomicAdd(done, 1) == high - low;
            if (last_block) *done = 0;
            order_memory();
        }
        __syncthreads();
        if (!last_block) return;
        if (warp < queries) join_blocks<DIM>(partial, first_seen(a, at) / KEY_BLOCK, at / KEY_BLOCK, o, &all_l);
    }
    if (warp >= queries) return;
        // H: values lie 32 apart in a lane here, so the strides below 32 are between lanes.
#pragma unroll
    for (int i = 0; i < V; i++) o[i] = o[i] / all_l;
#pragma unroll
    for (int s = 1; s < 32; s *= 2)
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float other = __shfl_xor_sync(~0u, o[i], s);
            o[i] = lane & s ? other - o[i] : o[i] + other;
        }
#pragma unroll
    for (int s = 1; s < V; s *= 2)
#pragma unroll
        for (int i = 0; i < V; i++)
            if (!(i & s)) {
                const float x = o[i], y = o[i + s];
                o[i] = x + y;
                o[i + s] = x - y;
            }
    float *out = work + a->out + (uint64_t)(row + warp / heads) * a->out_stride + (head + warp % heads) * DIM;
#pragma unroll
    for (int i = 0; i < V; i++) out[lane + 32 * i] = o[i] * (1.0f / DIM);
}
