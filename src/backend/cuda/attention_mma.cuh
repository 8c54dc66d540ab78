// Attention of many rows on tensor cores: section 11 for heads of 64 or 128 dimensions. A block takes 16 queries of a
// KV head, some rows of a span by the heads that share it, through all blocks of keys. Its 8 warps take 32 keys each
// while scores are made, then DIM/8 dimensions each.
//
// Weights of values are 15 bits: 7 and 8 of them are operands of a product each.
#pragma once
#include "backend/cuda/attention_fast.cuh"

template <int DIM> FN void attend_many(float *work, uint8_t *kv, const attend_args *all) {
    constexpr int Q = 16, STEPS = DIM / 32, TILES = DIM / 64, V = DIM / 32; // TILES: of 8 dimensions that a warp has
    const gpu_attention_args *a = &all->attention;
    const gpu_heads *h = &a->heads;
    __shared__ __align__(16) uint8_t parts[2][Q][KEY_BLOCK + 16]; // high and low bits of the weights of values
    __shared__ float tops[8][Q], tops_v[8][Q], k_scales[KEY_BLOCK], v_scales[KEY_BLOCK], results[Q][DIM + 4];
    __shared__ int32_t counts[8][Q];
    const uint32_t j = threadIdx.x, lane = j % 32, warp = j / 32, g = lane / 4, t = lane % 4,
                   per_kv = h->n_heads / h->n_kv_heads, skipped = blockIdx.y % a->parts * a->heads_a_group,
                   kv_head = blockIdx.y / a->parts, heads = min(per_kv - skipped, a->heads_a_group),
                   head = kv_head * per_kv + skipped;
    begin();
    if (blockIdx.x >= ((const uint32_t *)work + a->batch.counts)[1]) return;
    const uint4 span = ((const uint4 *)(work + a->batch.wide_spans))[blockIdx.x]; // row, rows, position, table
    const uint32_t row = span.x, position = span.z, queries = span.y * heads, last = position + span.y - 1,
                   low = first_seen(a, position) / KEY_BLOCK, high = last / KEY_BLOCK;
    // Two queries a lane: g and g + 8.
    uint32_t q[STEPS][4], first[2], at[2];
    float q_scale[2];
    bool there[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t query = g + 8 * i, place = (row + query / heads) * h->n_heads + head + query % heads;
        there[i] = query < queries;
        at[i] = position + query / heads;
        first[i] = first_seen(a, at[i]);
        q_scale[i] = there[i] ? work[h->q_scale + place] * a->c : 0;
#pragma unroll
        for (int s = 0; s < STEPS; s++)
#pragma unroll
            for (int k = 0; k < 2; k++)
                q[s][i + 2 * k] =
                    there[i] ? ((const uint32_t *)work)[h->q + (uint64_t)place * (DIM / 4) + s * 8 + k * 4 + t] : 0;
    }
    float o[TILES][4], all_m[2] = {0, 0}, all_l[2] = {0, 0};
    bool begun[2] = {false, false};
#pragma unroll
    for (int i = 0; i < TILES * 4; i++) o[i / 4][i % 4] = 0;
    for (uint32_t block = low; block <= high; block++) {
        const uint32_t base = block * KEY_BLOCK;
        const uint8_t *keys = kv +
                              ((uint64_t)((const uint32_t *)work)[span.w + block] * h->kv_stride + h->kv_layer) * 16 +
                              kv_head * (KEY_BLOCK * (2 * DIM + 8));
        const float *scales = (const float *)(keys + 2 * KEY_BLOCK * DIM);
        __syncthreads(); // all are done with the block before
        k_scales[j] = base + j <= last ? scales[j] : 0;
        v_scales[j] = base + j <= last ? scales[KEY_BLOCK + j] : 0;
        int32_t dot[4][4]; // for 8 keys each
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const uint32_t key = warp * 32 + n * 8; // and g
            const uint32_t *k = (const uint32_t *)keys + key / 16 * (DIM / 4 * 16) + (key % 16 + g);
#pragma unroll
            for (int i = 0; i < 4; i++) dot[n][i] = 0;
            if (base + key > last) continue;
#pragma unroll
            for (int s = 0; s < STEPS; s++)
                mma<true>(dot[n], q[s][0], q[s][1], q[s][2], q[s][3], k[(s * 8 + t) * 16], k[(s * 8 + 4 + t) * 16]);
        }
        __syncthreads();
        float score[4][4], m[2] = {-0x1p+126f, -0x1p+126f}, v_max[2] = {0, 0};
        uint32_t seen = 0; // a bit for each of the 16
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t key = warp * 32 + n * 8 + 2 * t + i % 2, r = i / 2;
                score[n][i] = (float)dot[n][i] * (q_scale[r] * k_scales[key]);
                if (!there[r] || base + key > at[r] || base + key < first[r]) continue;
                seen |= 1u << (n * 4 + i);
                m[r] = fmaxf(m[r], score[n][i]);
                v_max[r] = fmaxf(v_max[r], v_scales[key]);
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
#pragma unroll
            for (int s = 1; s < 4; s *= 2) {
                m[r] = fmaxf(m[r], __shfl_xor_sync(~0u, m[r], s));
                v_max[r] = fmaxf(v_max[r], __shfl_xor_sync(~0u, v_max[r], s));
            }
            if (t == 0) {
                tops[warp][g + 8 * r] = m[r];
                tops_v[warp][g + 8 * r] = v_max[r];
            }
        }
        __syncthreads();
        int32_t sum[2] = {0, 0};
#pragma unroll
        for (int r = 0; r < 2; r++) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                m[r] = fmaxf(m[r], tops[i][g + 8 * r]);
                v_max[r] = fmaxf(v_max[r], tops_v[i][g + 8 * r]);
            }
            const float f = v_max[r] > 0.0f ? 32767.0f / v_max[r] : 0.0f;
#pragma unroll
            for (int n = 0; n < 4; n++) {
                uint32_t weight[2];
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    const int i = 2 * r + k;
                    const bool is_seen = seen >> (n * 4 + i) & 1;
                    const float p = is_seen ? exponential(score[n][i] - m[r]) : 0.0f;
                    sum[r] += (int32_t)rounded(32767.0f * p);
                    weight[k] = (uint32_t)(int32_t)rounded(p * (v_scales[warp * 32 + n * 8 + 2 * t + k] * f));
                }
                const uint32_t key = warp * 32 + n * 8 + 2 * t;
                *(uint16_t *)&parts[0][g + 8 * r][key] = (uint16_t)(weight[0] >> 7 | weight[1] >> 7 << 8);
                *(uint16_t *)&parts[1][g + 8 * r][key] = (uint16_t)((weight[0] & 127) | (weight[1] & 127) << 8);
            }
#pragma unroll
            for (int s = 1; s < 4; s *= 2) sum[r] += __shfl_xor_sync(~0u, sum[r], s);
            if (t == 0) counts[warp][g + 8 * r] = sum[r];
        }
        __syncthreads();
        const uint32_t steps = last - base < KEY_BLOCK ? (last - base) / 32 + 1 : KEY_BLOCK / 32;
        int32_t acc[2][TILES][4];
#pragma unroll
        for (int i = 0; i < 2 * TILES * 4; i++) acc[i / TILES / 4][i / 4 % TILES][i % 4] = 0;
#pragma unroll 4
        for (uint32_t s = 0; s < steps; s++) {
            uint32_t b[TILES][2];
#pragma unroll
            for (int n = 0; n < TILES; n++)
#pragma unroll
                for (int k = 0; k < 2; k++)
                    b[n][k] =
                        ((const uint32_t *)(keys +
                                            KEY_BLOCK * DIM))[(s * 8 + k * 4 + t) * DIM + (warp * TILES + n) * 8 + g];
#pragma unroll
            for (int p = 0; p < 2; p++) {
                const uint8_t *w = &parts[p][g][s * 32 + t * 4];
                const uint32_t a0 = *(const uint32_t *)w, a1 = *(const uint32_t *)(w + 8 * sizeof parts[0][0]),
                               a2 = *(const uint32_t *)(w + 16),
                               a3 = *(const uint32_t *)(w + 8 * sizeof parts[0][0] + 16);
#pragma unroll
                for (int n = 0; n < TILES; n++) mma<false>(acc[p][n], a0, a1, a2, a3, b[n][0], b[n][1]);
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            if (!there[r] || base > at[r] || base + KEY_BLOCK <= first[r]) continue;
            int32_t l = 0;
#pragma unroll
            for (int i = 0; i < 8; i++) l += counts[i][g + 8 * r];
            const float top = !begun[r] || m[r] > all_m[r] ? m[r] : all_m[r], x = exponential(all_m[r] - top),
                        y = exponential(m[r] - top);
#pragma unroll
            for (int n = 0; n < TILES; n++)
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    const float next = (float)((acc[0][n][2 * r + k] << 7) + acc[1][n][2 * r + k]) * v_max[r];
                    o[n][2 * r + k] = begun[r] ? (o[n][2 * r + k] * x) + (next * y) : next;
                }
            all_l[r] = begun[r] ? (all_l[r] * x) + ((float)l * y) : (float)l;
            all_m[r] = top;
            begun[r] = true;
        }
    }
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            results[g + 8 * (i / 2)][(warp * TILES + n) * 8 + 2 * t + i % 2] = o[n][i] / all_l[i / 2];
    __syncthreads();
    for (uint32_t query = warp; query < queries; query += 8) {
        float v[V];
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = results[query][lane * V + i];
        rotate_lanes<V>(v, DIM);
        float *out = work + a->out + (uint64_t)(row + query / heads) * a->out_stride + (head + query % heads) * DIM;
#pragma unroll
        for (int i = 0; i < V; i++) out[lane * V + i] = v[i] * (1.0f / DIM);
    }
}
