// What each op computes: docs/arithmetic.md as code, one row at a time. This is the scalar reference and, compiled
// again with other flags, the vector paths: the loops are written so that a compiler can vectorise them without
// changing a bit (no reassociation, no contraction; the order of independent elements does not matter). Include it in
// one .c file an instruction set.
//
// Functions return the row's flag: nonzero if a guard met a value that is not finite or not below 2^50.
#pragma once
#include "program/numbers.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// Largest magnitude as bits: for non-negative floats the order of bit patterns is the order of values.
static inline uint32_t max_bits(const float *v, int n) {
    uint32_t m = 0;
    for (int i = 0; i < n; i++) {
        uint32_t u = upg_bits(v[i]) & 0x7fffffff;
        m = u > m ? u : m;
    }
    return m;
}

static inline float guard(float x, uint32_t *flag) {
    uint32_t u = upg_bits(x) & 0x7fffffff;
    *flag |= u >= UPG_GUARD_HIGH;
    return u >= UPG_GUARD_HIGH || u < UPG_GUARD_LOW ? 0.0f : x;
}

static inline float op_exp(float x) {
    float y = x > 80.0f ? 80.0f : x < -80.0f ? -80.0f : x;
    float k = rintf(y * 0x1.715476p+0f);
    float r = fmaf(k, -0x1.62e400p-1f, y);
    r = fmaf(k, -0x1.7f7d1cp-20f, r);
    float p = 0x1.a01a02p-13f;
    p = fmaf(p, r, 0x1.6c16c2p-10f);
    p = fmaf(p, r, 0x1.111112p-7f);
    p = fmaf(p, r, 0x1.555556p-5f);
    p = fmaf(p, r, 0x1.555556p-3f);
    p = fmaf(p, r, 0x1p-1f);
    p = fmaf(p, r, 0x1p+0f);
    p = fmaf(p, r, 0x1p+0f);
    return x < -80.0f ? 0.0f : upg_float(upg_bits(p) + ((uint32_t)(int32_t)k << 23));
}

// The 256-lane sum of squares of the guarded x (sections 6 and 7).
static inline float sum_of_squares(const float *x, int n, uint32_t *flag) {
    float lane[256] = {0};
    uint32_t f = 0;
    for (int i = 0; i < n; i += 256) {
        int m = n - i < 256 ? n - i : 256;
        for (int j = 0; j < m; j++) {
            float g = guard(x[i + j], &f);
            lane[j] = lane[j] + g * g;
        }
    }
    for (int h = 128; h; h >>= 1)
        for (int j = 0; j < h; j++) lane[j] = lane[j] + lane[j + h];
    *flag |= f;
    return lane[0];
}

static inline uint32_t op_rmsnorm(const float *x, const float *weight, int n, float eps, float *y) {
    uint32_t flag = 0;
    float t = sum_of_squares(x, n, &flag);
    float r = 1.0f / sqrtf(t / (float)n + eps);
    for (int i = 0; i < n; i++) {
        uint32_t ignored = 0;
        y[i] = (guard(x[i], &ignored) * r) * weight[i];
    }
    return flag;
}

static inline uint32_t op_swiglu(const float *gate, const float *up, int n, float *y) {
    uint32_t flag = 0;
    for (int i = 0; i < n; i++) {
        float g = guard(gate[i], &flag), u = guard(up[i], &flag);
        y[i] = (g / (1.0f + op_exp(-g))) * u;
    }
    return flag;
}

static inline void op_add(float *x, const float *delta, int n) {
    for (int i = 0; i < n; i++) x[i] = x[i] + delta[i];
}

typedef float f32x16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t u32x16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t i32x16 __attribute__((vector_size(64), aligned(4), may_alias));
#define PICK16(v, h, set)                                                                                              \
    __builtin_shufflevector(v, v, PICK(0, h, set), PICK(1, h, set), PICK(2, h, set), PICK(3, h, set), PICK(4, h, set), \
                            PICK(5, h, set), PICK(6, h, set), PICK(7, h, set), PICK(8, h, set), PICK(9, h, set),       \
                            PICK(10, h, set), PICK(11, h, set), PICK(12, h, set), PICK(13, h, set), PICK(14, h, set),  \
                            PICK(15, h, set))
#define PICK(i, h, set) ((set) ? (i) | (h) : (i) & ~(h))
#define SIGN(i, h)      ((i) & (h) ? 0x80000000u : 0u)
#define SIGN16(h)                                                                                                      \
    (u32x16) {                                                                                                         \
        SIGN(0, h), SIGN(1, h), SIGN(2, h), SIGN(3, h), SIGN(4, h), SIGN(5, h), SIGN(6, h), SIGN(7, h), SIGN(8, h),    \
            SIGN(9, h), SIGN(10, h), SIGN(11, h), SIGN(12, h), SIGN(13, h), SIGN(14, h), SIGN(15, h)                   \
    }
// One butterfly of stride h < 16 inside 16 values: a - b as a + (-b), which is the same value.
#define BUTTERFLY16(v, h) (PICK16(v, h, 0) + (f32x16)((u32x16)PICK16(v, h, 1) ^ SIGN16(h)))

// H_b in place on one block of b values (section 2).
static inline void hadamard_block(float *v, int b) {
    int h = 1;
    if (b >= 16) {
        for (int i = 0; i < b; i += 16) {
            f32x16 x = *(f32x16 *)(v + i);
            x = BUTTERFLY16(x, 1);
            x = BUTTERFLY16(x, 2);
            x = BUTTERFLY16(x, 4);
            *(f32x16 *)(v + i) = BUTTERFLY16(x, 8);
        }
        h = 16;
    }
    for (; h < b; h *= 2)
        for (int i = 0; i < b; i += 2 * h)
            for (int j = i; j < i + h; j++) {
                float x = v[j], y = v[j + h];
                v[j] = x + y;
                v[j + h] = x - y;
            }
}

static inline void hadamard(float *v, int n, int b) {
    for (int i = 0; i < n; i += b) hadamard_block(v + i, b);
}

// Section 4, steps 1 and 2. x: [cols]; sign: [cols] 0 or 0x80000000; work: [n]; q: [n]; d, q_sum: [n/b], q_sum the sum
// of a group's q. sign NULL: the input is not rotated.
static inline uint32_t op_quantise(const float *x, int cols, int n, int b, const uint32_t *sign, float *work, int8_t *q,
                                   uint8_t *d, int32_t *q_sum, float *m) {
    uint32_t flag = 0;
    for (int i = 0; i < cols; i++) work[i] = guard(x[i], &flag);
    for (int i = cols; i < n; i++) work[i] = 0.0f;
    if (sign) {
        for (int i = 0; i < cols; i++) work[i] = upg_float(upg_bits(work[i]) ^ sign[i]);
        hadamard(work, n, b);
    }
    uint32_t mb = max_bits(work, n);
    if (mb < UPG_GUARD_LOW) {
        memset(q, 0, (size_t)n);
        memset(d, 0, (size_t)(n / b));
        memset(q_sum, 0, (size_t)(n / b) * sizeof *q_sum);
        *m = 0.0f;
        return flag;
    }
    *m = upg_float(mb);
    float inv = 127.0f / *m;
    for (int g = 0; g < n / b; g++) {
        uint32_t gb = max_bits(work + g * b, b);
        int e = gb ? (int)(mb >> 23) - (int)(gb >> 23) - ((gb & 0x7fffff) > (mb & 0x7fffff)) : 14;
        d[g] = (uint8_t)(e < 14 ? e : 14);
        float two_d = (float)(1 << d[g]);
        int32_t sum = 0;
        for (int i = g * b; i < (g + 1) * b; i++) {
            int32_t v = (int32_t)rintf((work[i] * inv) * two_d);
            q[i] = (int8_t)v;
            sum += v;
        }
        q_sum[g] = sum;
    }
    return flag;
}

static inline void op_rope(float *v, const float *cosine, const float *sine, int half) {
    for (int j = 0; j < half; j++) {
        float a = v[j], b = v[j + half], c = cosine[j], s = sine[j];
        v[j] = (a * c) - (b * s);
        v[j + half] = (b * c) + (a * s);
    }
}

// quantise_head of section 11; v is overwritten.
static inline uint32_t op_quantise_head(float *v, int dim, int b, int8_t *q, float *scale) {
    uint32_t flag = 0;
    for (int i = 0; i < dim; i++) v[i] = guard(v[i], &flag);
    hadamard(v, dim, b);
    uint32_t mb = max_bits(v, dim);
    if (mb < UPG_GUARD_LOW) {
        memset(q, 0, (size_t)dim);
        *scale = 0.0f;
        return flag;
    }
    float m = upg_float(mb), inv = 127.0f / m;
    for (int i = 0; i < dim; i++) q[i] = (int8_t)(int32_t)rintf(v[i] * inv);
    *scale = m * 0x1.020408p-7f;
    return flag;
}

// The two integer sums of attention. A file that includes this one may bring its own (exact, so the same) as
// ATTENTION_SUMS.
#ifndef ATTENTION_SUMS
// dots[i][j] = q[i] . key j, for the keys from..to-1, multiples of 64. What it is for keys that are not
// there does not matter.
static inline void attention_dots(upg_attention *t, const int8_t *k, int from, int to) {
    for (int i = 0; i < t->n; i++)
        for (int j = from; j < to; j++) {
            int32_t sum = 0;
            for (int d = 0; d < t->D; d++) sum += t->q[i][d] * k[upg_kv_key_at(t->D, j, d)];
            t->dots[i][j] = sum;
        }
}
// acc[i][d] = sum over j = from..to-1 of dots[i][j] * value j's d, where dots are weights in 0..32767, zero for values
// that are not there.
static inline void attention_mix(upg_attention *t, const int8_t *v, int from, int to) {
    memset(t->acc, 0, (size_t)t->n * sizeof *t->acc);
    for (int i = 0; i < t->n; i++)
        for (int j = from; j < to; j++)
            for (int d = 0; d < t->D; d++) t->acc[i][d] += t->dots[i][j] * v[upg_kv_value_at(t->D, j, d)];
}
#endif

// The greatest of n >= 1 values. Which zero it is of two makes no difference to what follows.
static inline float largest(const float *v, int n) {
    float m = v[0];
    int i = 0;
    if (n >= 16) {
        f32x16 top = *(const f32x16 *)v;
        for (; i + 16 <= n; i += 16) {
            f32x16 x = *(const f32x16 *)(v + i);
            i32x16 more = (i32x16)(x > top);
            top = (f32x16)(((i32x16)x & more) | ((i32x16)top & ~more));
        }
        for (int j = 0; j < 16; j++) m = top[j] > m ? top[j] : m;
    }
    for (; i < n; i++) m = v[i] > m ? v[i] : m;
    return m;
}

// Dot products of one query with the visible keys j0..j1-1 of a block, to weights of their values; zeros for the other
// keys from..to-1. Returns V, and the block's m and l.
static inline float attention_weights(int32_t *dots, float qc, const upg_kv_head *kv, int j0, int j1, int from, int to,
                                      float *m, float *l) {
    float score[UPG_KV_BLOCK];
    for (int j = j0; j < j1; j++) score[j] = (float)dots[j] * (qc * kv->k_scale[j]);
    const float top = *m = largest(score + j0, j1 - j0);
    const float v_max = largest(kv->v_scale + j0, j1 - j0), f = v_max > 0.0f ? 32767.0f / v_max : 0.0f;
    int32_t sum = 0;
    for (int j = j0; j < j1; j++) {
        float p = op_exp(score[j] - top);
        sum += (int32_t)rintf(32767.0f * p);
        dots[j] = (int32_t)rintf(p * (kv->v_scale[j] * f));
    }
    for (int j = from; j < j0; j++) dots[j] = 0;
    for (int j = j1; j < to; j++) dots[j] = 0;
    *l = (float)sum;
    return v_max;
}

// Joins the next block's sums to a query's result.
static inline void attention_join(upg_attention *t, int i, float v_max, float m, float l, int dim, float *out) {
    const int32_t *acc = t->acc[i];
    if (!t->begun[i]) {
        for (int d = 0; d < dim; d++) out[d] = (float)acc[d] * v_max;
        t->m[i] = m;
        t->l[i] = l;
        t->begun[i] = true;
        return;
    }
    float top = m > t->m[i] ? m : t->m[i], x = op_exp(t->m[i] - top), y = op_exp(m - top);
    for (int d = 0; d < dim; d++) out[d] = (out[d] * x) + (((float)acc[d] * v_max) * y);
    t->l[i] = (t->l[i] * x) + (l * y);
    t->m[i] = top;
}

static inline int first_visible(const upg_attend *a, int row) {
    int position = a->position + row;
    return a->window && position >= a->window ? position - a->window + 1 : 0;
}

// All queries over one block of keys. Each sees only its own visible keys.
static inline void attend_block(const upg_attend *a, upg_attention *t, int block) {
    const int base = block * UPG_KV_BLOCK, last = a->position + a->rows - base;
    const int low = first_visible(a, 0) > base ? first_visible(a, 0) - base : 0,
              high = last < UPG_KV_BLOCK ? last : UPG_KV_BLOCK, from = low / 64 * 64, to = (high + 63) / 64 * 64;
    const upg_kv_head kv = upg_kv_head_at(a->pool, a->blocks[block], a->head, a->dim);
    float v_max[UPG_ATTEND_QUERIES], m[UPG_ATTEND_QUERIES], l[UPG_ATTEND_QUERIES];
    bool sees[UPG_ATTEND_QUERIES];
    attention_dots(t, kv.k, from, to);
    for (int i = 0; i < t->n; i++) {
        const int row = i / a->heads, first = first_visible(a, row) - base, end = a->position + row - base + 1;
        const int j0 = first > 0 ? first : 0, j1 = end < UPG_KV_BLOCK ? end : UPG_KV_BLOCK;
        sees[i] = j0 < j1;
        if (sees[i])
            v_max[i] = attention_weights(t->dots[i], a->q_scale[row * a->row_heads + i % a->heads] * a->c, &kv, j0, j1,
                                         from, to, m + i, l + i);
        else
            memset(t->dots[i] + from, 0, (size_t)(to - from) * sizeof(int32_t));
    }
    attention_mix(t, kv.v, from, to);
    for (int i = 0; i < t->n; i++)
        if (sees[i])
            attention_join(t, i, v_max[i], m[i], l[i], a->dim,
                           a->out + (size_t)(i / a->heads) * a->out_stride + (size_t)(i % a->heads * a->dim));
}

// Section 11.
static inline void op_attend(const upg_attend *a) {
    upg_attention t;
    t.n = a->rows * a->heads;
    t.D = (int)upg_pad16(a->dim);
    for (int i = 0; i < t.n; i++) {
        const size_t at = (size_t)(i / a->heads * a->row_heads + i % a->heads);
        memcpy(t.q[i], a->q + at * (size_t)t.D, (size_t)t.D);
        t.begun[i] = false;
    }
    for (int block = first_visible(a, 0) / UPG_KV_BLOCK; block <= (a->position + a->rows - 1) / UPG_KV_BLOCK; block++)
        attend_block(a, &t, block);
    const float back = 1.0f / (float)a->b;
    for (int i = 0; i < t.n; i++) {
        float *out = a->out + (size_t)(i / a->heads) * a->out_stride + (size_t)(i % a->heads * a->dim);
        for (int d = 0; d < a->dim; d++) out[d] = out[d] / t.l[i];
        hadamard(out, a->dim, a->b);
        for (int d = 0; d < a->dim; d++) out[d] = out[d] * back;
    }
}
