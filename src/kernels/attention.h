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
    for (uint32_t h = 1; h < b; h *= 2)
        LANES(j) {
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

KERNEL(kernel_attention, gpu_attention_args, GROUP_LANES) {
    (void)weight;
    const gpu_heads *h = &a->heads;
    const uint32_t dim = h->head_dim, D = h->D, span = GROUP_X, per_kv = h->n_heads / h->n_kv_heads,
                   skipped = GROUP_Y % a->parts * a->heads_a_group;
    if (span >= WORK(const uint32_t, a->batch.header)[2]) return;
    attention_group t;
    t.row = WORK(const uint32_t, a->batch.spans)[span];
    t.kv_head = GROUP_Y / a->parts;
    t.heads = per_kv - skipped < a->heads_a_group ? per_kv - skipped : a->heads_a_group;
    t.head = t.kv_head * per_kv + skipped;
    t.queries = (WORK(const uint32_t, a->batch.spans)[span + 1] - t.row) * t.heads;
    t.position = WORK(const uint32_t, a->batch.positions)[t.row];
    GLOBAL const uint32_t *table = WORK(const uint32_t, WORK(const uint32_t, a->batch.table)[t.row]);

    SHARED(uint32_t, qs, GPU_QUERIES * GPU_MAX_DIM / 4);
    SHARED(float, q_scale, GPU_QUERIES);
    SHARED(uint32_t, cells, GPU_QUERIES * GPU_MAX_DIM); // scores, then parts of sums, then results
    SHARED(uint32_t, pairs, GPU_QUERIES * KEY_BLOCK / 2); // weights of values, two in a word
    SHARED(float, most, 256);
    SHARED(float, most_v, 256);
    SHARED(int32_t, sums, 256);
    SHARED(float, m, GPU_QUERIES);
    SHARED(float, v_max, GPU_QUERIES);
    SHARED(int32_t, l, GPU_QUERIES);
    SHARED(float, all_m, GPU_QUERIES);
    SHARED(float, all_l, GPU_QUERIES);
    SHARED(uint32_t, begun, GPU_QUERIES);
    PRIVATE(float, o, GPU_QUERIES * GPU_MAX_DIM / GROUP_LANES);

    const uint32_t words = D / 4, lanes_dim = GROUP_LANES / dim * dim, parts = GROUP_LANES / dim;
    LANES(j) {
        for (uint32_t i = j; i < GPU_QUERIES * words; i += GROUP_LANES) {
            const uint32_t query = i / words, row = t.row + query / t.heads;
            const uint64_t place = (uint64_t)row * h->n_heads + t.head + query % t.heads;
            qs[query * words + i % words] = query < t.queries ? WORK(const uint32_t, h->q)[place * words + i % words] : 0;
            if (i % words == 0 && query < t.queries) q_scale[query] = WORK(const float, h->q_scale)[place] * a->c;
        }
        if (j < GPU_QUERIES) {
            begun[j] = 0;
            all_m[j] = all_l[j] = 0;
        }
        for (uint32_t i = 0; i < GPU_QUERIES * GPU_MAX_DIM / GROUP_LANES; i++) MINE(o, j)[i] = 0;
    }
    const uint32_t last = t.position + t.queries / t.heads - 1, low = first_seen(a, t.position) / KEY_BLOCK;
    const uint32_t from = a->n_blocks ? GROUP_Z : low, to = a->n_blocks ? GROUP_Z : last / KEY_BLOCK;
    if (a->n_blocks && (GROUP_Z < low || GROUP_Z > last / KEY_BLOCK)) return;
    for (uint32_t block = from; block <= to; block++) {
        const uint32_t base = block * KEY_BLOCK, head_bytes = KEY_BLOCK * (2 * D + 8);
        GLOBAL const uint8_t *keys =
            kv + ((uint64_t)table[block] * h->kv_stride + h->kv_layer) * 16 + t.kv_head * head_bytes;
        GLOBAL const float *k_scale = (GLOBAL const float *)(GLOBAL const void *)(keys + 2 * KEY_BLOCK * D),
                           *v_scale = k_scale + KEY_BLOCK;
        LANES(j) { // a key each
            GLOBAL const uint32_t *k = (GLOBAL const uint32_t *)(GLOBAL const void *)keys + j / 16 * words * 16 + j % 16;
            int32_t dot[GPU_QUERIES];
            for (uint32_t i = 0; i < GPU_QUERIES; i++) dot[i] = 0;
            if (base + j <= last)
                for (uint32_t c = 0; c < words; c++) {
                    const uint32_t key = k[c * 16];
                    for (uint32_t i = 0; i < GPU_QUERIES; i++) dot[i] = dot_ss(key, qs[i * words + c], dot[i]);
                }
            for (uint32_t i = 0; i < GPU_QUERIES; i++)
                if (i < t.queries && base + j <= last)
                    cells[i * KEY_BLOCK + j] = bits_of((float)dot[i] * (q_scale[i] * k_scale[j]));
        }
        LANES(j) { // 32 lanes a query
            const uint32_t query = j / 32, at = t.position + query / t.heads, first = first_seen(a, at);
            float top = -0x1p+126f, v = 0.0f;
            for (uint32_t i = j % 32; i < KEY_BLOCK && query < t.queries; i += 32)
                if (base + i <= at && base + i >= first) {
                    const float score = float_of(cells[query * KEY_BLOCK + i]);
                    top = score > top ? score : top;
                    v = v_scale[i] > v ? v_scale[i] : v;
                }
            most[j] = top;
            most_v[j] = v;
        }
        max_of_32(most, m);
        max_of_32(most_v, v_max);
        LANES(j) { // two keys, and two queries of four
            for (uint32_t query = j / 128; query < GPU_QUERIES; query += 2) {
                const uint32_t at = t.position + query / t.heads, first = first_seen(a, at);
                const float f = v_max[query] > 0.0f ? 32767.0f / v_max[query] : 0.0f;
                uint32_t pair = 0;
                int32_t sum = 0;
                for (uint32_t c = 0; c < 2; c++) {
                    const uint32_t key = j % 128 * 2 + c;
                    if (query < t.queries && base + key <= at && base + key >= first) {
                        const float p = exponential(float_of(cells[query * KEY_BLOCK + key]) - m[query]);
                        sum += (int32_t)rounded(32767.0f * p);
                        pair |= (uint32_t)(int32_t)rounded(p * (v_scale[key] * f)) << 16 * c;
                    }
                }
                pairs[query * 128 + j % 128] = pair;
                cells[query * KEY_BLOCK + j % 128 * 2] = (uint32_t)sum;
            }
        }
        LANES(j) {
            int32_t sum = 0;
            for (uint32_t i = j % 32; i < 128; i += 32) sum += (int32_t)cells[j / 32 * KEY_BLOCK + 2 * i];
            sums[j] = sum;
        }
        sum_of_32(sums, l);
        LANES(j) { // a dimension each, and a part of the keys
            const uint32_t d = j % dim, part = j / dim;
            GLOBAL const uint32_t *v =
                (GLOBAL const uint32_t *)(GLOBAL const void *)(keys + KEY_BLOCK * D) + d;
            const uint32_t quads = last - base < KEY_BLOCK ? (last - base) / 4 + 1 : 64;
            int32_t acc[GPU_QUERIES];
            for (uint32_t i = 0; i < GPU_QUERIES; i++) acc[i] = 0;
            for (uint32_t k = part; k < quads && j < lanes_dim; k += parts) {
                const uint32_t value = v[k * D];
                for (uint32_t i = 0; i < GPU_QUERIES; i++)
                    acc[i] = dot_16(pairs[i * 128 + 2 * k], pairs[i * 128 + 2 * k + 1], value, acc[i]);
            }
            for (uint32_t i = 0; i < GPU_QUERIES && j < lanes_dim; i++) cells[i * GPU_MAX_DIM + j] = (uint32_t)acc[i];
        }
        LANES(j) {
            for (uint32_t k = 0, i = j; i < t.queries * dim; k++, i += GROUP_LANES) {
                const uint32_t query = i / dim, at = t.position + query / t.heads;
                int32_t acc = 0;
                for (uint32_t part = 0; part < parts; part++)
                    acc += (int32_t)cells[query * GPU_MAX_DIM + part * dim + i % dim];
                const float next = (float)acc * v_max[query];
                if (base > at || base + KEY_BLOCK <= first_seen(a, at)) continue;
                if (!begun[query]) {
                    MINE(o, j)[k] = next;
                    continue;
                }
                const float top = m[query] > all_m[query] ? m[query] : all_m[query];
                const float x = exponential(all_m[query] - top), y = exponential(m[query] - top);
                MINE(o, j)[k] = (MINE(o, j)[k] * x) + (next * y);
            }
        }
        LANES(j) {
            const uint32_t at = t.position + j / t.heads;
            if (j < t.queries && base <= at && base + KEY_BLOCK > first_seen(a, at)) {
                const float next = (float)l[j];
                if (begun[j]) {
                    const float top = m[j] > all_m[j] ? m[j] : all_m[j];
                    all_l[j] = (all_l[j] * exponential(all_m[j] - top)) + (next * exponential(m[j] - top));
                    all_m[j] = top;
                } else {
                    all_l[j] = next;
                    all_m[j] = m[j];
                    begun[j] = 1;
                }
            }
        }
    }
    if (a->n_blocks) {
        LANES(j) {
            for (uint32_t k = 0, i = j; i < t.queries * dim; k++, i += GROUP_LANES) {
                const uint32_t query = i / dim;
                const uint64_t place = (uint64_t)(t.row + query / t.heads) * h->n_heads + t.head + query % t.heads;
                GLOBAL float *to_ = WORK(float, a->partial) + (place * a->n_blocks + GROUP_Z) * (dim + 2);
                to_[i % dim] = MINE(o, j)[k];
                if (i % dim == 0) {
                    to_[dim] = all_m[query];
                    to_[dim + 1] = all_l[query];
                }
            }
        }
        return;
    }
    LOCAL float *result = (LOCAL float *)(LOCAL void *)cells;
    LANES(j) {
        for (uint32_t k = 0, i = j; i < t.queries * dim; k++, i += GROUP_LANES)
            result[i / dim * GPU_MAX_DIM + i % dim] = MINE(o, j)[k];
    }
    attention_finish(a, t.queries, result, all_l);
    LANES(j) {
        for (uint32_t i = j; i < t.queries * dim; i += GROUP_LANES) {
            const uint32_t query = i / dim, row = t.row + query / t.heads;
            WORK(float, a->out)[(uint64_t)row * a->out_stride + (t.head + query % t.heads) * dim + i % dim] =
                result[query * GPU_MAX_DIM + i % dim];
        }
    }
}

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
