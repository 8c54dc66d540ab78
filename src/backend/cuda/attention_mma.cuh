// Attention of many rows on tensor cores: section 11 for heads of 64 or 128 dimensions. A block takes some rows of a
// span by the heads that share a KV head, 16 queries a pair of warps, through all blocks of keys. Keys and values come
// through shared memory: the values of a block of keys while its scores are made, the next block's keys while values
// are added up. Each warp of a pair makes the weights of half the keys and adds up half the dimensions of all values.
//
// Which column of a product a key or a dimension is does not matter as long as both operands agree. So a lane reads 16
// bytes at a time, and its four words belong to four products: column g of product i of 32 keys is key 4*g + i, hence
// lane t of four has the scores of keys 8*t..8*t+7, whose weights are what the next product wants of it. Likewise
// dimension 4*g + i of 32, and results of dimensions 8*t..8*t+7.
//
// Weights of values are 15 bits: the upper 7 and the lower 8 are operands of a product each.
#pragma once
#include "backend/cuda/attention_fast.cuh"

// exp of a score less the largest one; what is below -80 weighs nothing, here or as 0.
FN float exponential_of_score(float x) {
    const float y = fmaxf(x, -80.0f), t = (y * 0x1.715476p+0f) + 0x1.8p+23f, k = t - 0x1.8p+23f; // k: to the nearest
    return float_of(bits_of(exponential_part(y, k)) + (bits_of(t) << 23));
}
// 0..32767 to the nearest integer, in the lower bits.
FN uint32_t integer_bits(float x) {
    return bits_of(x + 0x1p+23f);
}
FN void wait_for_copies() {
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
}
// c += a b, four products, with what lies side by side in b0 and b1.
template <bool A_SIGNED> FN void mma_four(int32_t (*c)[4], const uint32_t *a, uint4 b0, uint4 b1) {
    mma<A_SIGNED>(c[0], a[0], a[1], a[2], a[3], b0.x, b1.x);
    mma<A_SIGNED>(c[1], a[0], a[1], a[2], a[3], b0.y, b1.y);
    mma<A_SIGNED>(c[2], a[0], a[1], a[2], a[3], b0.z, b1.z);
    mma<A_SIGNED>(c[3], a[0], a[1], a[2], a[3], b0.w, b1.w);
}
FN float largest_of_four(float v) { // neighbours
    v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
    return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
}
FN void join_pair(uint32_t pair) { // both its warps have written what the other reads
    asm volatile("bar.sync %0, 64;" ::"r"(pair + 1) : "memory");
}

// Shared memory: keys and values as the cache has them, their scales, then for a pair of warps weights (upper or lower
// bits of 32 keys at a time, as lanes want them), and of each half of its keys the largest scores and one number more.
template <int DIM> FN void attend_many(float *work, uint8_t *kv, const attend_args *all) {
    constexpr int STEPS = DIM / 32, HALF = STEPS / 2, GROUPS = KEY_BLOCK / 32, ROW = DIM / 4,
                  OWN = 8 * HALF; // ROW: pieces of a quad of values; OWN: dimensions that a lane ends up with
    const gpu_attention_args *a = &all->attention;
    const gpu_heads *h = &a->heads;
    extern __shared__ __align__(16) uint8_t attend_shared[];
    uint4 *keys = (uint4 *)attend_shared, *values = keys + KEY_BLOCK * DIM / 16;
    float4 *k_scales = (float4 *)(values + KEY_BLOCK * DIM / 16), *v_scales = k_scales + KEY_BLOCK / 4;
    const uint32_t j = threadIdx.x, lane = j % 32, g = lane / 4, t = lane % 4, pair = j / 64, half = j / 32 % 2,
                   per_kv = h->n_heads / h->n_kv_heads, skipped = blockIdx.y % a->parts * a->heads_a_group,
                   kv_head = blockIdx.y / a->parts, heads = min(per_kv - skipped, a->heads_a_group),
                   head = kv_head * per_kv + skipped;
    uint8_t *of_pair = (uint8_t *)(v_scales + KEY_BLOCK / 4) + pair * PAIR_BYTES;
    uint4 *weights = (uint4 *)of_pair + lane; // [GROUPS][upper, lower][32]
    // Largest scores and counts of each half's keys: [half][16]. Largest scales, where not all keys are seen, lie where
    // the warp that reads them puts its weights then.
    float *tops = (float *)(of_pair + PAIR_WEIGHTS) + g,
          *scales_here = (float *)(of_pair + half * (PAIR_WEIGHTS / 2)) + g,
          *scales_there = (float *)(of_pair + (half ^ 1) * (PAIR_WEIGHTS / 2)) + g;
    int32_t *counts = (int32_t *)tops + 32;
    begin();
    if (blockIdx.x >= ((const uint32_t *)work + a->batch.counts)[1]) return;
    const uint4 span = ((const uint4 *)(work + a->batch.wide_spans))[blockIdx.x]; // row, rows, position, table
    const uint32_t row = span.x, position = span.z, queries = span.y * heads, last = position + span.y - 1,
                   low = first_seen(a, position) / KEY_BLOCK, high = last / KEY_BLOCK;
    auto block_of = [&](uint32_t block) {
        const uint32_t place = ((const uint32_t *)work)[span.w + block];
        return kv + ((uint64_t)place * h->kv_stride + h->kv_layer) * 16 + kv_head * (KEY_BLOCK * (2 * DIM + 8));
    };
    // Pieces are put where eight lanes that read at once find them in different banks.
    auto load_keys = [&](uint32_t block) {
        const uint8_t *from = block_of(block);
#pragma unroll 4
        for (uint32_t i = j; i < KEY_BLOCK * DIM / 16; i += blockDim.x)
            copy_async(keys + (i ^ (i >> 2 & 2)), from + i * 16);
        for (uint32_t i = j; i < KEY_BLOCK / 2; i += blockDim.x) // those of values behind them
            copy_async(k_scales + i, from + 2 * KEY_BLOCK * DIM + i * 16);
    };
    auto load_values = [&](uint32_t block) {
        const uint8_t *from = block_of(block) + KEY_BLOCK * DIM;
#pragma unroll 4
        for (uint32_t i = j; i < KEY_BLOCK * DIM / 16; i += blockDim.x)
            copy_async(values + (i ^ (i / (2 * ROW) % 4 * 2)), from + i * 16);
    };
    load_keys(low);
    // Two queries a lane: g and g + 8 of the pair's.
    uint32_t q[STEPS][4], first[2], at[2];
    float q_scale[2];
    const uint32_t query0 = pair * 16, pair_first = position + query0 / heads,
                   pair_last = position + min(query0 + 15, queries - 1) / heads;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint32_t query = query0 + g + 8 * r, place = (row + query / heads) * h->n_heads + head + query % heads;
        const bool there = query < queries;
        at[r] = position + query / heads;
        first[r] = first_seen(a, at[r]);
        q_scale[r] = there ? work[h->q_scale + place] * a->c : 0;
#pragma unroll
        for (int s = 0; s < STEPS; s++)
#pragma unroll
            for (int k = 0; k < 2; k++)
                q[s][r + 2 * k] =
                    there ? ((const uint32_t *)work)[h->q + (uint64_t)place * (DIM / 4) + s * 8 + k * 4 + t] : 0;
    }
    float o[HALF][4][4], all_m[2] = {-0x1p+126f, -0x1p+126f}, all_l[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < HALF * 16; i++) o[i / 16][i / 4 % 4][i % 4] = 0;
    const uint4 *my_keys = keys + half * (KEY_BLOCK / 2 * DIM / 16) + g / 4 * DIM + t * 4 + (g % 4 ^ (t & 2)),
                *my_values = values + half * (HALF * 8) + 2 * t * ROW + (g ^ 2 * t);

    for (uint32_t block = low; block <= high; block++) {
        const uint32_t base = block * KEY_BLOCK;
        const bool busy = query0 < queries && base <= pair_last && base + KEY_BLOCK > first_seen(a, pair_first),
                   whole = base >= first_seen(a, pair_last) && base + KEY_BLOCK - 1 <= pair_first; // all see all
        float x[2], y[2], v_max[2] = {0, 0};
        bool sees[2];
        auto seen = [&](uint32_t key, int r) { // of this warp's half
            key += base + half * (KEY_BLOCK / 2);
            return key <= at[r] && key >= first[r];
        };
        wait_for_copies(); // and all are done with the values of the block before
        load_values(block);
        if (busy) {
            float score[GROUPS / 2][4][4], m[2] = {-0x1p+126f, -0x1p+126f}, f[2];
#pragma unroll
            for (int n = 0; n < GROUPS / 2; n++) {
                int32_t dot[4][4];
#pragma unroll
                for (int i = 0; i < 16; i++) dot[i / 4][i % 4] = 0x4b400000; // as a float 1.5 * 2^23, and products more
#pragma unroll
                for (int s = 0; s < STEPS; s++)
                    mma_four<true>(dot, q[s], my_keys[n * 2 * DIM + s * 32], my_keys[n * 2 * DIM + s * 32 + 16]);
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    const float4 k4 = k_scales[half * (KEY_BLOCK / 8) + n * 8 + 2 * t + c];
                    const float k[4] = {k4.x, k4.y, k4.z, k4.w};
#pragma unroll
                    for (int r = 0; r < 2; r++)
#pragma unroll
                        for (int i = 0; i < 4; i++)
                            score[n][i][2 * r + c] =
                                (float_of((uint32_t)dot[i][2 * r + c]) - 0x1.8p+23f) * (q_scale[r] * k[i]);
                }
                if (!whole)
#pragma unroll
                    for (int c = 0; c < 2; c++) {
                        const float4 v4 = v_scales[half * (KEY_BLOCK / 8) + n * 8 + 2 * t + c];
                        const float v[4] = {v4.x, v4.y, v4.z, v4.w};
#pragma unroll
                        for (int r = 0; r < 2; r++)
#pragma unroll
                            for (int i = 0; i < 4; i++) {
                                if (seen(n * 32 + 8 * t + 4 * c + i, r))
                                    v_max[r] = fmaxf(v_max[r], v[i]);
                                else
                                    score[n][i][2 * r + c] = -0x1p+126f;
                            }
                    }
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int c = 0; c < 4; c++) m[c / 2] = fmaxf(m[c / 2], score[n][i][c]);
            }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                m[r] = largest_of_four(m[r]);
                if (t == 0) tops[half * 16 + 8 * r] = m[r];
                if (whole) continue;
                v_max[r] = largest_of_four(v_max[r]);
                if (t == 0) scales_there[8 * r] = v_max[r];
            }
            join_pair(pair);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                m[r] = fmaxf(m[r], tops[(half ^ 1) * 16 + 8 * r]);
                if (!whole) v_max[r] = fmaxf(v_max[r], scales_here[8 * r]);
            }
            if (whole) {
                const float4 v = v_scales[lane * 2], w = v_scales[lane * 2 + 1];
                float most = fmaxf(fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)), fmaxf(fmaxf(w.x, w.y), fmaxf(w.z, w.w)));
#pragma unroll
                for (int i = 16; i; i >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, i));
                v_max[0] = v_max[1] = most;
            }
            __syncwarp(); // weights come where scales were
#pragma unroll
            for (int r = 0; r < 2; r++) f[r] = v_max[r] > 0.0f ? 32767.0f / v_max[r] : 0.0f;
            uint32_t count[2] = {0, 0};
#pragma unroll
            for (int n = 0; n < GROUPS / 2; n++) {
                uint32_t upper[4], lower[4];
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    const float4 v4 = v_scales[half * (KEY_BLOCK / 8) + n * 8 + 2 * t + c];
                    const float v[4] = {v4.x, v4.y, v4.z, v4.w};
#pragma unroll
                    for (int r = 0; r < 2; r++) {
                        uint32_t w[4];
#pragma unroll
                        for (int i = 0; i < 4; i++) {
                            const float p = exponential_of_score(score[n][i][2 * r + c] - m[r]);
                            count[r] += integer_bits(32767.0f * p);
                            w[i] = integer_bits(p * (v[i] * f[r]));
                        }
                        const uint32_t w01 = __byte_perm(w[0], w[1], 0x5410), w23 = __byte_perm(w[2], w[3], 0x5410);
                        lower[r + 2 * c] = __byte_perm(w01, w23, 0x6420);
                        upper[r + 2 * c] = __byte_perm(w01, w23, 0x7531);
                    }
                }
                if (!whole) // keys that are not seen may have any scale
#pragma unroll
                    for (int c = 0; c < 2; c++)
#pragma unroll
                        for (int r = 0; r < 2; r++) {
                            uint32_t mask = 0;
#pragma unroll
                            for (int i = 0; i < 4; i++)
                                mask |= seen(n * 32 + 8 * t + 4 * c + i, r) ? 0xffu << 8 * i : 0;
                            upper[r + 2 * c] &= mask;
                            lower[r + 2 * c] &= mask;
                        }
                uint4 *to = weights + (half * (GROUPS / 2) + n) * 64;
                to[0] = make_uint4(upper[0], upper[1], upper[2], upper[3]);
                to[32] = make_uint4(lower[0], lower[1], lower[2], lower[3]);
            }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                count[r] -= GROUPS / 2 * 8u * 0x4b000000u;
                count[r] += __shfl_xor_sync(~0u, count[r], 1);
                count[r] += __shfl_xor_sync(~0u, count[r], 2);
                if (t == 0) counts[half * 16 + 8 * r] = (int32_t)count[r];
                sees[r] = whole || (base <= at[r] && base + KEY_BLOCK > first[r]);
                const float top = fmaxf(all_m[r], m[r]);
                x[r] = exponential(all_m[r] - top); // 0 the first time
                y[r] = exponential(m[r] - top);
                if (sees[r]) all_m[r] = top;
            }
        } else {
            join_pair(pair); // as often as others: compute-sanitizer's racecheck counts
        }
        wait_for_copies(); // and all are done with the keys, and have written weights
        if (block < high) load_keys(block + 1);
        if (!busy) continue;
        int32_t up[HALF][4][4], down[HALF][4][4];
#pragma unroll
        for (int i = 0; i < HALF * 16; i++) up[i / 16][i / 4 % 4][i % 4] = down[i / 16][i / 4 % 4][i % 4] = 0;
#pragma unroll
        for (int n = 0; n < GROUPS; n++) {
            const uint4 u4 = weights[n * 64], d4 = weights[n * 64 + 32];
            const uint32_t u[4] = {u4.x, u4.y, u4.z, u4.w}, d[4] = {d4.x, d4.y, d4.z, d4.w};
#pragma unroll
            for (int s = 0; s < HALF; s++) {
                const uint4 b0 = my_values[n * 8 * ROW + s * 8], b1 = my_values[n * 8 * ROW + s * 8 + ROW];
                mma_four<false>(up[s], u, b0, b1);
                mma_four<false>(down[s], d, b0, b1);
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float l = (float)(counts[8 * r] + counts[16 + 8 * r]);
            if (sees[r]) all_l[r] = (all_l[r] * x[r]) + (l * y[r]);
        }
#pragma unroll
        for (int s = 0; s < HALF; s++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    const float next = (float)(up[s][i][c] * 256 + down[s][i][c]) * v_max[c / 2];
                    if (sees[c / 2]) o[s][i][c] = (o[s][i][c] * x[c / 2]) + (next * y[c / 2]);
                }
    }
    // H: the strides below 8 and, if there are 64 dimensions a warp, 32 are in a lane; the last is between the warps.
    __syncthreads(); // all are done with keys and values
    float *mine = (float *)attend_shared + (pair * 2 + half) * (2 * OWN * 32) + lane,
          *other = (float *)attend_shared + (pair * 2 + (half ^ 1)) * (2 * OWN * 32) + lane;
    float v[2][OWN];
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int i = 0; i < OWN; i++) v[r][i] = o[i / 8][i % 4][2 * r + i / 4 % 2] / all_l[r];
#pragma unroll
        for (int e = 1; e < 8; e *= 2) rotate_step<OWN>(v[r], e);
#pragma unroll
        for (int s = 1; s < 4; s *= 2)
#pragma unroll
            for (int i = 0; i < OWN; i++) {
                const float across = __shfl_xor_sync(~0u, v[r][i], s);
                v[r][i] = lane & s ? across - v[r][i] : v[r][i] + across;
            }
#pragma unroll
        for (int e = 8; e < OWN; e *= 2) rotate_step<OWN>(v[r], e);
#pragma unroll
        for (int i = 0; i < OWN; i++) mine[(r * OWN + i) * 32] = v[r][i];
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint32_t query = query0 + g + 8 * r;
        if (query >= queries) continue;
        float *out = work + a->out + (uint64_t)(row + query / heads) * a->out_stride + (head + query % heads) * DIM +
                     half * (DIM / 2) + 8 * t;
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const float across = other[(r * OWN + i) * 32], both = half ? across - v[r][i] : v[r][i] + across;
            out[i / 8 * 32 + i % 8] = both * (1.0f / DIM);
        }
    }
}
