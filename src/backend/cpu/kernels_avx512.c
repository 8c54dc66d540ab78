// AVX-512 with VNNI and VBMI2. A 32-bit lane owns a band (16 rows); 16 lanes are a superband. See codec/panel.h.
//
// One row: trellis words are decoded in registers and multiplied at once. Several rows: a group is decoded once into a
// byte panel (what int8 matrices have in the file already) and every row of the batch runs over it.
#if defined(__x86_64__)
#include "backend/cpu/cpu.h"
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define ATTENTION_SUMS

static void attention_dots(const int8_t *q, const int8_t *keys, int n, int dim, int32_t *dots) {
    __m512i wide[UPG_MAX_HEAD_DIM / 32];
    __mmask32 tail = dim % 32 ? (1u << dim % 32) - 1 : 0xffffffffu;
    int parts = (dim + 31) / 32;
    for (int i = 0; i < parts; i++)
        wide[i] = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(i + 1 < parts ? 0xffffffffu : tail, q + 32 * i));
    for (int j = 0; j < n; j++) {
        const int8_t *k = keys + (size_t)j * (size_t)dim;
        __m512i sum = _mm512_setzero_si512();
        for (int i = 0; i < parts; i++) {
            __m256i bytes = i + 1 < parts ? _mm256_loadu_si256((const __m256i *)(k + 32 * i))
                                          : _mm256_maskz_loadu_epi8(tail, k + 32 * i);
            sum = _mm512_dpwssd_epi32(sum, wide[i], _mm512_cvtepi8_epi16(bytes));
        }
        dots[j] = _mm512_reduce_add_epi32(sum);
    }
}

// Two keys at a time: their bytes interleaved make pairs for one multiply-add.
static void attention_mix(const int32_t *weights, const int8_t *values, int n, int dim, int32_t *acc) {
    for (int i = 0; i < dim; i += 16) {
        __mmask16 mask = dim - i < 16 ? (__mmask16)((1u << (dim - i)) - 1) : 0xffff;
        __m512i sum = _mm512_setzero_si512();
        const int8_t *v = values + i;
        for (int j = 0; j < n; j += 2, v += 2 * (size_t)dim) {
            __m128i a = _mm_maskz_loadu_epi8(mask, v), b = _mm_maskz_loadu_epi8(mask, v + dim);
            __m256i pairs = _mm256_set_m128i(_mm_unpackhi_epi8(a, b), _mm_unpacklo_epi8(a, b));
            __m512i w = _mm512_set1_epi32(weights[j] | (j + 1 < n ? weights[j + 1] << 16 : 0));
            sum = _mm512_dpwssd_epi32(sum, _mm512_cvtepi8_epi16(pairs), w);
        }
        _mm512_mask_storeu_epi32(acc + i, mask, sum);
    }
}

#include "program/ops.h"

// The low 32 bits of (high:low) >> bit, 0 < bit < 32. Clang turns the plain form into one vpshrdd; gcc needs to be
// told, where it knows bit (under sanitizers it may not).
INLINE __m512i funnel(__m512i low, __m512i high, int bit) {
#if !defined(__clang__)
    if (__builtin_constant_p(bit)) return _mm512_shrdi_epi32(low, high, bit);
#endif
    return _mm512_or_si512(_mm512_srli_epi32(low, (unsigned)bit), _mm512_slli_epi32(high, (unsigned)(32 - bit)));
}

// Bits o..o+15 of the circular tile, in the low half of each lane (high = 0) or the high half; the other half is
// garbage.
INLINE __m512i window(const __m512i *w, int n_words, int o, int high) {
    int k = o >> 5, bit = o & 31;
    __m512i next = w[(k + 1) % n_words];
    if (!high) return bit == 0 ? w[k] : bit <= 16 ? _mm512_srli_epi32(w[k], (unsigned)bit) : funnel(w[k], next, bit);
    return bit == 16 ? w[k] : bit < 16 ? _mm512_slli_epi32(w[k], (unsigned)(16 - bit)) : funnel(w[k], next, bit - 16);
}

// Weights 4*quad .. 4*quad+3 of row r of each lane's tile, as bytes w+127.
INLINE __m512i four_weights(const __m512i *w, int s, int r, int quad) {
    const __m512i mask = _mm512_set1_epi32(0x7f7f7f7f),
                  al = _mm512_set1_epi16((short)(UPG_TRELLIS_MULTIPLIER & 0xffff)),
                  ah = _mm512_set1_epi16((short)(UPG_TRELLIS_MULTIPLIER >> 16));
    int step = r * 8 + quad * 2, bits = 128 * s;
    __m512i x = _mm512_mask_blend_epi16(0xaaaaaaaa, window(w, 4 * s, step * s % bits, 0),
                                        window(w, 4 * s, (step + 1) * s % bits, 1));
    __m512i lo = _mm512_mullo_epi16(x, al);
    __m512i hi = _mm512_add_epi16(_mm512_mulhi_epu16(x, al), _mm512_mullo_epi16(x, ah));
    return _mm512_add_epi8(_mm512_and_si512(lo, mask), _mm512_and_si512(hi, mask));
}

INLINE __m512i quad_of(const int8_t *q) {
    int32_t x;
    memcpy(&x, q, sizeof x);
    return _mm512_set1_epi32(x);
}

// acc holds sums of (w+127)*q. Adds (dot + half) >> d to *total.
INLINE void add_group(int32_t *total, __m512i acc, int32_t q_sum, int d) {
    __m512i dot = _mm512_add_epi32(acc, _mm512_set1_epi32(((1 << d) >> 1) - 127 * q_sum));
    __m512i sum = _mm512_add_epi32(_mm512_loadu_si512(total), _mm512_sra_epi32(dot, _mm_cvtsi32_si128(d)));
    _mm512_storeu_si512(total, sum);
}

INLINE void one_row(const upg_linear *l, int64_t sb, int32_t *total, int s) {
    int nb = upg_superband_bands(l->w->rows, sb), steps = l->b / 16, groups = l->n / l->b;
    const uint8_t *p = l->w->data + upg_panel_offset(l->w->rows, l->w->cols, 4 * s, sb, 0);
    for (int g = 0; g < groups; g++) {
        __m512i acc[16];
        for (int r = 0; r < 16; r++) acc[r] = _mm512_setzero_si512();
        for (int t = g * steps; t < (g + 1) * steps; t++, p += (size_t)nb * 16 * (size_t)s) {
            __m512i w[32];
            for (int k = 0; k < 4 * s; k++) {
                w[k] = _mm512_loadu_si512(p + (size_t)k * (size_t)nb * 4);
                _mm_prefetch((const char *)p + (size_t)(k + 24 * s) * (size_t)nb * 4, _MM_HINT_T0);
            }
            const int8_t *q = l->q + t * 16;
#pragma GCC unroll 16
            for (int r = 0; r < 16; r++)
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++)
                    acc[r] = _mm512_dpbusd_epi32(acc[r], four_weights(w, s, r, i), quad_of(q + 4 * i));
        }
        for (int r = 0; r < 16; r++) add_group(total + r * 16, acc[r], l->q_sum[g], l->d[g]);
    }
}

INLINE void decode(const upg_linear *l, int64_t sb, int g, uint8_t *panel, int s) {
    int nb = upg_superband_bands(l->w->rows, sb), steps = l->b / 16;
    const uint8_t *p = l->w->data + upg_panel_offset(l->w->rows, l->w->cols, 4 * s, sb, (int64_t)g * steps);
    for (int t = 0; t < steps; t++, p += (size_t)nb * 16 * (size_t)s, panel += 4096) {
        __m512i w[32];
        for (int k = 0; k < 4 * s; k++) w[k] = _mm512_loadu_si512(p + (size_t)k * (size_t)nb * 4);
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) _mm512_store_si512(panel + (r * 4 + i) * 64, four_weights(w, s, r, i));
    }
}

#define FOR_EACH_S(CALL)                                                                                               \
    case 4: CALL(4); break;                                                                                            \
    case 5: CALL(5); break;                                                                                            \
    case 6: CALL(6); break;                                                                                            \
    case 7: CALL(7); break;                                                                                            \
    default: CALL(8); break;

static void decode_group(const upg_linear *l, int64_t sb, int g, uint8_t *panel) {
#define CALL(s) decode(l, sb, g, panel, s)
    switch (l->w->s) { FOR_EACH_S(CALL) }
#undef CALL
}

// rows (1..4) batch rows from `row`, tile rows r..r+3, over one group's panel whose words are `lanes` apart.
INLINE void multiply(const upg_linear *l, int g, const uint8_t *panel, int lanes, int row, int rows, int r,
                     int32_t *totals) {
    __m512i acc[4][4];
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < 4; k++) acc[i][k] = _mm512_setzero_si512();
    const int8_t *q = l->q + (size_t)row * (size_t)l->n + (size_t)g * (size_t)l->b;
    for (int t = 0; t < l->b / 16; t++)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            __m512i w[4];
            for (int k = 0; k < 4; k++)
                w[k] =
                    _mm512_loadu_si512(panel + ((size_t)t * 64 + (size_t)(r + k) * 4 + (size_t)i) * (size_t)lanes * 4);
            for (int j = 0; j < rows; j++) {
                __m512i x = quad_of(q + (size_t)j * (size_t)l->n + t * 16 + i * 4);
                for (int k = 0; k < 4; k++) acc[j][k] = _mm512_dpbusd_epi32(acc[j][k], w[k], x);
            }
        }
    size_t groups = (size_t)(l->n / l->b);
    for (int j = 0; j < rows; j++) {
        size_t at = (size_t)(row + j) * groups + (size_t)g;
        for (int k = 0; k < 4; k++)
            add_group(totals + (size_t)(row + j) * 256 + (r + k) * 16, acc[j][k], l->q_sum[at], l->d[at]);
    }
}

static void multiply_group(const upg_linear *l, int g, const uint8_t *panel, int lanes, int32_t *totals) {
    for (int r = 0; r < 16; r += 4) {
        int row = 0;
        for (; row + 4 <= l->n_rows; row += 4) multiply(l, g, panel, lanes, row, 4, r, totals);
        for (; row < l->n_rows; row++) multiply(l, g, panel, lanes, row, 1, r, totals);
    }
}

// A sparse block's values as bytes w+127; 4-bit ones are looked up, into `to`.
INLINE const uint8_t *byte_values(const upg_linear *l, const upg_sparse_block *s, uint8_t *to) {
    if (l->w->s == 8) return s->values;
    const __m512i levels = _mm512_add_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)upg_sparse_level)),
                                           _mm512_set1_epi8(127));
    const __m256i low = _mm256_set1_epi8(15);
    for (size_t i = 0; i < s->n_values; i += 64) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(s->values + i / 2));
        __m256i high = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
        __m512i codes = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_and_si256(x, low)), high, 1);
        _mm512_store_si512(to + i, _mm512_shuffle_epi8(levels, codes));
    }
    return to;
}

// The 64 weights of a mask as bytes w+127; p moves on to the next mask's values.
INLINE __m512i expand(const uint8_t *mask, const uint8_t **p) {
    uint64_t m;
    memcpy(&m, mask, sizeof m);
    __m512i values = _mm512_loadu_si512(*p);
    __asm__("" : "+v"(values)); // a load of its own: what vpexpandb costs from memory differs between processors
    *p += __builtin_popcountll(m);
    return _mm512_mask_expand_epi8(_mm512_set1_epi8(127), m, values);
}

static void sparse_one_row(const upg_linear *l, int64_t sb, upg_scratch *scratch) {
    enum { AHEAD = 6144 }; // bytes of values, which take a quarter as many of masks
    for (int g = 0; g < l->n / l->b; g++) {
        upg_sparse_block s = upg_sparse_block_at(l, sb, g);
        const uint8_t *p = byte_values(l, &s, scratch->values), *end = p + s.n_values, *mask = s.masks,
                      *end_of_block = s.masks + 32 * l->b;
        const int8_t *q = l->q + g * l->b;
        for (int r = 0; r < 16; r++) {
            p = p < end ? p : end;
            __m512i acc[4];
            for (int k = 0; k < 4; k++) acc[k] = _mm512_setzero_si512();
            for (int i = 0; i < l->b; i += 16, mask += 32) {
                const uint8_t *values = p + AHEAD, *masks = mask + AHEAD / 4;
                values += values < end ? 0 : end_of_block - s.masks; // what lies ahead in the next block
                masks += masks < end_of_block ? 0 : s.masks - s.values;
                _mm_prefetch((const char *)values, _MM_HINT_T0);
                _mm_prefetch((const char *)values + 64, _MM_HINT_T0);
                _mm_prefetch((const char *)masks, _MM_HINT_T0);
#pragma GCC unroll 4
                for (int k = 0; k < 4; k++)
                    acc[k] = _mm512_dpbusd_epi32(acc[k], expand(mask + 8 * k, &p), quad_of(q + i + 4 * k));
            }
            add_group(scratch->total + r * 16,
                      _mm512_add_epi32(_mm512_add_epi32(acc[0], acc[1]), _mm512_add_epi32(acc[2], acc[3])), l->q_sum[g],
                      l->d[g]);
        }
    }
}

static void expand_group(const upg_linear *l, int64_t sb, int g, upg_scratch *scratch) {
    upg_sparse_block s = upg_sparse_block_at(l, sb, g);
    const uint8_t *p = byte_values(l, &s, scratch->values), *end = p + s.n_values, *mask = s.masks;
    uint8_t *panel = scratch->panel;
    const int steps = l->b / 16;
    for (int r = 0; r < 16; r++) {
        p = p < end ? p : end;
        for (int t = 0; t < steps; t++, mask += 32)
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) _mm512_store_si512(panel + (t * 64 + r * 4 + k) * 64, expand(mask + 8 * k, &p));
    }
}

static void linear(const upg_linear *l, int64_t sb, upg_scratch *scratch) {
    int32_t *total = scratch->total;
    memset(total, 0, (size_t)l->n_rows * 256 * sizeof *total);
    if (l->w->encoding == UPG_INT8) {
        int steps = l->b / 16, lanes = upg_superband_bands(l->w->rows, sb);
        for (int g = 0; g < l->n / l->b; g++)
            multiply_group(l, g, l->w->data + upg_panel_offset(l->w->rows, l->w->cols, 64, sb, (int64_t)g * steps),
                           lanes, total);
    } else if (l->w->encoding == UPG_SPARSE && l->n_rows == 1) {
        sparse_one_row(l, sb, scratch);
    } else if (l->n_rows == 1) {
#define CALL(s) one_row(l, sb, total, s)
        switch (l->w->s) { FOR_EACH_S(CALL) }
#undef CALL
    } else {
        for (int g = 0; g < l->n / l->b; g++) {
            if (l->w->encoding == UPG_SPARSE)
                expand_group(l, sb, g, scratch);
            else
                decode_group(l, sb, g, scratch->panel);
            multiply_group(l, g, scratch->panel, 16, total);
        }
    }
    for (int row = 0; row < l->n_rows; row++) upg_linear_write(l, sb, row, total + (size_t)row * 256);
}

static bool supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("fma");
}

#define KERNELS upg_cpu_avx512
#define ISA     "avx512"
#include "backend/cpu/table.h"
#endif
