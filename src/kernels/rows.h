// Ops that take one row of the batch at a time: a group runs several of them, one after another, over its row.
#pragma once
#include "kernels/codes.h"

enum { // upg_op_kind
    ROW_EMBED = 0,
    ROW_RMSNORM,
    ROW_HEAD_NORM,
    ROW_QUANTISE,
    ROW_BIAS = 5,
    ROW_KV,
    ROW_SWIGLU = 8,
    ROW_ADD,
    ROW_GATHER
};

// H_b on each block of v[0..n), as section 2 says.
FN void rotate(GLOBAL float *v, uint32_t n, uint32_t b) {
    for (uint32_t h = 1; h < b; h *= 2) LANES(j) {
            for (uint32_t i = j; i < n / 2; i += ROW_LANES) {
                const uint32_t at = i / h * 2 * h + i % h;
                const float x = v[at], y = v[at + h];
                v[at] = x + y;
                v[at + h] = x - y;
            }
        }
}
FN void rotate_integers(GLOBAL int32_t *v, uint32_t n, uint32_t b) {
    for (uint32_t h = 1; h < b; h *= 2) LANES(j) {
            for (uint32_t i = j; i < n / 2; i += ROW_LANES) {
                const uint32_t at = i / h * 2 * h + i % h;
                const int32_t x = v[at], y = v[at + h];
                v[at] = x + y;
                v[at + h] = x - y;
            }
        }
}

// most[i] = the largest bits(|v|) of piece i, of `size` values each.
FN void largest_of(GLOBAL const float *v, uint32_t n, uint32_t size, GLOBAL uint32_t *most) {
    LANES(j) {
        for (uint32_t i = j; i < n / size; i += ROW_LANES) {
            uint32_t m = 0;
            for (uint32_t k = i * size; k < (i + 1) * size; k++) {
                const uint32_t u = bits_of(v[k]) & 0x7fffffff;
                m = u > m ? u : m;
            }
            most[i] = m;
        }
    }
}
// The same of n pieces, `size` at a time.
FN void largest_of_largest(GLOBAL const uint32_t *in, uint32_t n, uint32_t size, GLOBAL uint32_t *most) {
    LANES(j) {
        for (uint32_t i = j; i < n / size; i += ROW_LANES) {
            uint32_t m = 0;
            for (uint32_t k = i * size; k < (i + 1) * size; k++) m = in[k] > m ? in[k] : m;
            most[i] = m;
        }
    }
}

FN void row_embed(const gpu_rows_args *a, const gpu_row_op *op, uint32_t token, GLOBAL const uint8_t *weight,
                  GLOBAL uint8_t *work, GLOBAL int32_t *v, GLOBAL float *out) {
    const gpu_matrix *w = &a->embedding;
    const uint32_t n = w->cols, b = w->b, sb = token / 256, band = token % 256 / 16, r = token % 16;
    LANES(j) {
        for (uint32_t i = j; i < n / 16; i += ROW_LANES) {
            uint32_t q[4];
            coded_16(w, (GLOBAL const uint32_t *)(GLOBAL const void *)weight, sb, i, band, r, q);
            for (uint32_t c = 0; c < 16; c++) v[16 * i + c] = (int32_t)(q[c / 4] >> 8 * (c % 4) & 255) - 127;
        }
    }
    if (op->rotated) rotate_integers(v, n, b);
    const float scale = ((GLOBAL const float *)(GLOBAL const void *)weight)[w->scale + token];
    LANES(j) {
        for (uint32_t i = j; i < op->n; i += ROW_LANES) {
            const float x = (float)v[i] * scale;
            out[i] = op->rotated ? float_of(bits_of(x) ^ WORK(const uint32_t, a->sign)[i]) : x;
        }
    }
}

// Sections 6 and 7.
FN void row_rmsnorm(GLOBAL const float *x, GLOBAL const float *weight, uint32_t n, float eps, GLOBAL float *y,
                    GLOBAL uint32_t *flag, LOCAL float *lane) {
    LANES(j) {
        if (j < 256) {
            uint32_t f = 0;
            float sum = 0;
            for (uint32_t i = j; i < n; i += 256) {
                const float g = guarded(x[i], &f);
                sum = sum + g * g;
            }
            lane[j] = sum;
            if (f) *flag = 1;
        }
    }
    for (uint32_t h = 128; h; h >>= 1) LANES(j) {
            if (j < h) lane[j] = lane[j] + lane[j + h];
        }
    LANES(j) {
        const float r = 1.0f / square_root(lane[0] / (float)n + eps);
        for (uint32_t i = j; i < n; i += ROW_LANES) {
            uint32_t ignored = 0;
            y[i] = (guarded(x[i], &ignored) * r) * weight[i];
        }
    }
}

// The same of `count` vectors of n <= 256 values, all at once and in place: each lane of a sum then has one value at
// most. lanes: [count][256].
FN void row_head_norm(GLOBAL float *v, GLOBAL const float *weight, uint32_t n, uint32_t count, float eps,
                      GLOBAL float *lanes, GLOBAL uint32_t *flag) {
    LANES(j) {
        uint32_t f = 0;
        for (uint32_t i = j; i < count * 256; i += ROW_LANES) {
            const float g = i % 256 < n ? guarded(v[i / 256 * n + i % 256], &f) : 0.0f;
            lanes[i] = g * g;
        }
        if (f) *flag = 1;
    }
    for (uint32_t h = 128; h; h >>= 1) LANES(j) {
            for (uint32_t i = j; i < count * h; i += ROW_LANES) {
                const uint32_t at = i / h * 256 + i % h;
                lanes[at] = lanes[at] + lanes[at + h];
            }
        }
    LANES(j) {
        for (uint32_t i = j; i < count * n; i += ROW_LANES) {
            uint32_t ignored = 0;
            const float r = 1.0f / square_root(lanes[i / n * 256] / (float)n + eps);
            v[i] = (guarded(v[i], &ignored) * r) * weight[i % n];
        }
    }
}

// Section 4, steps 1 and 2.
FN void row_quantise(const gpu_rows_args *a, const gpu_row_op *op, uint32_t row, GLOBAL const float *x,
                     GLOBAL uint8_t *work, GLOBAL float *v, GLOBAL uint32_t *flag, LOCAL uint32_t *top) {
    const uint32_t n = (op->n + 15) / 16 * 16, b = n & (0 - n), block = b < 256 ? b : 256, groups = n / block;
    GLOBAL uint32_t *pieces = (GLOBAL uint32_t *)(GLOBAL void *)(v + n), *most = pieces + n / 16;
    GLOBAL const uint32_t *sign = WORK(const uint32_t, a->sign);
    LANES(j) {
        uint32_t f = 0;
        for (uint32_t i = j; i < n; i += ROW_LANES) {
            const float g = i < op->n ? guarded(x[i], &f) : 0.0f;
            v[i] = op->rotated && i < op->n ? float_of(bits_of(g) ^ sign[i]) : g;
        }
        if (f) *flag = 1;
    }
    if (op->rotated) rotate(v, n, block);
    largest_of(v, n, 16, pieces);
    largest_of_largest(pieces, n / 16, block / 16, most);
    LANES(j) {
        if (j < 256) {
            uint32_t m = 0;
            for (uint32_t i = j; i < groups; i += 256) m = most[i] > m ? most[i] : m;
            top[j] = m;
        }
    }
    for (uint32_t h = 128; h; h >>= 1) LANES(j) {
            if (j < h && top[j + h] > top[j]) top[j] = top[j + h];
        }
    const uint32_t all = top[0];
    GLOBAL uint32_t *q = WORK(uint32_t, a->quantised.q) + (uint64_t)row * (n / 4),
                    *d = WORK(uint32_t, a->quantised.d) + row;
    GLOBAL int32_t *q_sum = WORK(int32_t, a->quantised.q_sum) + row;
    const uint32_t stride = a->quantised.stride;
    LANES(j) { // 16 values each
        const float m = float_of(all), inv = 127.0f / m;
        for (uint32_t i = j; i < n / 16; i += ROW_LANES) {
            const uint32_t gm = most[i * 16 / block];
            const int32_t e = gm ? (int32_t)(all >> 23) - (int32_t)(gm >> 23) -
                                       ((gm & 0x7fffff) > (all & 0x7fffff) ? 1 : 0)
                                 : 14,
                          shift = e < 14 ? e : 14;
            const float two_d = (float)(1 << shift);
            int32_t sum = 0;
            for (uint32_t k = 0; k < 4; k++) {
                uint32_t word = 0;
                for (uint32_t c = 0; c < 4 && all >= GUARD_LOW; c++) {
                    const int32_t r = (int32_t)rounded((v[16 * i + 4 * k + c] * inv) * two_d);
                    word |= ((uint32_t)r & 255) << 8 * c;
                    sum += r;
                }
                q[4 * i + k] = word;
            }
            pieces[i] = (uint32_t)sum;
            if (16 * i % block == 0) d[16 * i / block * stride] = all >= GUARD_LOW ? (uint32_t)shift : 0;
        }
    }
    LANES(j) {
        for (uint32_t g = j; g < groups; g += ROW_LANES) {
            int32_t sum = 0;
            for (uint32_t k = 0; k < block / 16; k++) sum += (int32_t)pieces[g * (block / 16) + k];
            q_sum[g * stride] = sum;
        }
        if (j == 0) WORK(float, a->quantised.m)[row] = all >= GUARD_LOW ? float_of(all) : 0.0f;
    }
}

// RoPE, quantise_head of q, k and v (sections 10 and 11); k and v to the cache. v: [heads][dim], overwritten.
FN void row_kv(const gpu_rows_args *a, uint32_t row, uint32_t position, GLOBAL float *v, GLOBAL uint8_t *work,
               GLOBAL uint8_t *kv, GLOBAL uint32_t *scratch, GLOBAL uint32_t *flag) {
    const gpu_heads *h = &a->heads;
    const uint32_t dim = h->head_dim, half = h->rotary / 2, turned = h->n_heads + h->n_kv_heads,
                   heads = turned + h->n_kv_heads, pieces = (dim + 15) / 16;
    GLOBAL const float *cosine = WORK(const float, h->cosine) + (uint64_t)position * half,
                       *sine = WORK(const float, h->sine) + (uint64_t)position * half;
    LANES(j) {
        for (uint32_t i = j; i < turned * half; i += ROW_LANES) {
            const uint32_t p = i % half, at = i / half * dim + p;
            const float x = v[at], y = v[at + half], c = cosine[p], s = sine[p];
            v[at] = (x * c) - (y * s);
            v[at + half] = (y * c) + (x * s);
        }
    }
    LANES(j) {
        uint32_t f = 0;
        for (uint32_t i = j; i < heads * dim; i += ROW_LANES) v[i] = guarded(v[i], &f);
        if (f) *flag = 1;
    }
    rotate(v, heads * dim, h->b);
    GLOBAL uint32_t *most = scratch + heads * pieces;
    LANES(j) {
        for (uint32_t i = j; i < heads * pieces; i += ROW_LANES) {
            const uint32_t from = i % pieces * 16, to = from + 16 < dim ? from + 16 : dim;
            uint32_t m = 0;
            for (uint32_t k = from; k < to; k++) {
                const uint32_t u = bits_of(v[i / pieces * dim + k]) & 0x7fffffff;
                m = u > m ? u : m;
            }
            scratch[i] = m;
        }
    }
    largest_of_largest(scratch, heads * pieces, pieces, most);
    const uint32_t slot = position % KEY_BLOCK, head_bytes = KEY_BLOCK * (2 * h->D + 8),
                   block = WORK(const uint32_t, WORK(const uint32_t, a->batch.table)[row])[position / KEY_BLOCK];
    GLOBAL uint8_t *to = kv + ((uint64_t)block * h->kv_stride + h->kv_layer) * 16;
    LANES(j) {
        for (uint32_t i = j; i < heads * dim; i += ROW_LANES) {
            const uint32_t head = i / dim, at = i % dim, m = most[head];
            const float scale = m < GUARD_LOW ? 0.0f : float_of(m) * 0x1.020408p-7f;
            const int32_t q = m < GUARD_LOW ? 0 : (int32_t)rounded(v[i] * (127.0f / float_of(m)));
            if (head < h->n_heads) {
                const uint64_t place = (uint64_t)row * h->n_heads + head;
                ((GLOBAL int8_t *)WORK(uint32_t, h->q))[place * h->D + at] = (int8_t)q;
                if (at == 0) WORK(float, h->q_scale)[place] = scale;
            } else if (head < turned) {
                GLOBAL uint8_t *k = to + (head - h->n_heads) * head_bytes;
                k[((slot / 16) * (h->D / 4) + at / 4) * 64 + slot % 16 * 4 + at % 4] = (uint8_t)q;
                if (at == 0) ((GLOBAL float *)(GLOBAL void *)(k + 2 * KEY_BLOCK * h->D))[slot] = scale;
            } else {
                GLOBAL uint8_t *values = to + (head - turned) * head_bytes + KEY_BLOCK * h->D;
                values[((slot / 4) * h->D + at) * 4 + slot % 4] = (uint8_t)q;
                if (at == 0) ((GLOBAL float *)(GLOBAL void *)(values + KEY_BLOCK * h->D))[KEY_BLOCK + slot] = scale;
            }
        }
    }
}

KERNEL(kernel_rows, gpu_rows_args, ROW_LANES) {
    SHARED(float, lane, 256);
    SHARED(uint32_t, top, 256);
    GLOBAL uint32_t *scratch = WORK(uint32_t, a->scratch) + (uint64_t)GROUP_X * a->per_scratch;
    for (uint32_t k = 0; k < a->n_ops; k++) {
        const gpu_row_op *op = &a->ops[k];
        const uint32_t row = GROUP_X, of = op->gathered ? WORK(const uint32_t, a->batch.wanted)[row] : row;
        GLOBAL float *in = WORK(float, op->in) + (uint64_t)row * op->in_stride,
                     *out = WORK(float, op->out) + (uint64_t)row * op->out_stride;
        GLOBAL uint32_t *flag = WORK(uint32_t, a->batch.flags) + of;
        GLOBAL const float *vector = WORK(const float, op->vector);
        switch (op->kind) {
        case ROW_EMBED: // a run begins
            ONCE *flag = 0;
            row_embed(a, op, WORK(const uint32_t, a->batch.tokens)[row], weight, work,
                      (GLOBAL int32_t *)(GLOBAL void *)scratch, out);
            break;
        case ROW_RMSNORM: row_rmsnorm(in, vector, op->n, a->eps, out, flag, lane); break;
        case ROW_HEAD_NORM:
            row_head_norm(out, vector, op->n, op->count, a->eps, (GLOBAL float *)(GLOBAL void *)scratch, flag);
            break;
        case ROW_QUANTISE: row_quantise(a, op, row, in, work, (GLOBAL float *)(GLOBAL void *)scratch, flag, top); break;
        case ROW_BIAS:
            LANES(j) {
                for (uint32_t i = j; i < op->n; i += ROW_LANES) out[i] = out[i] + vector[i];
            }
            break;
        case ROW_KV: row_kv(a, row, WORK(const uint32_t, a->batch.positions)[row], in, work, kv, scratch, flag); break;
        case ROW_SWIGLU:
            LANES(j) {
                uint32_t f = 0;
                for (uint32_t i = j; i < op->n / 2; i += ROW_LANES) {
                    const float g = guarded(in[i], &f), u = guarded(in[op->n / 2 + i], &f);
                    out[i] = (g / (1.0f + exponential(-g))) * u;
                }
                if (f) *flag = 1;
            }
            break;
        case ROW_ADD:
            LANES(j) {
                for (uint32_t i = j; i < op->n; i += ROW_LANES) out[i] = out[i] + in[i];
            }
            break;
        default: { // ROW_GATHER
            GLOBAL const float *from = WORK(const float, op->in) + (uint64_t)of * op->in_stride;
            LANES(j) {
                for (uint32_t i = j; i < op->n; i += ROW_LANES) out[i] = from[i];
            }
        }
        }
    }
}
