// AVX2 with FMA. Eight 32-bit lanes are half a superband; otherwise as in kernels_avx512.c.
//
// vpmaddubsw saturates above 32767, so bytes up to 254 cannot be multiplied directly: the trellis multiplies its two
// 7-bit fields apart (at most 127*127*2), panels multiply |w| by q with w's sign.
#if defined(__x86_64__)
#include "backend/cpu/cpu.h"
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

// ---- Attention ----

INLINE __m256i quad_of(const int8_t *q) {
    int32_t x;
    memcpy(&x, q, sizeof x);
    return _mm256_set1_epi32(x);
}

// Dot products of `queries` queries from i with 8 keys, half a tile. Bytes are multiplied as |q| by k with q's sign.
INLINE void some_dots(upg_attention *t, const int8_t *keys, int i, int queries, int key) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum[4];
    for (int a = 0; a < queries; a++) sum[a] = _mm256_setzero_si256();
    for (int d = 0; d < t->D; d += 4) {
        __m256i k = _mm256_loadu_si256((const __m256i *)(keys + d * 16));
        for (int a = 0; a < queries; a++) {
            __m256i q = quad_of(t->q[i + a] + d);
            __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(k, q));
            sum[a] = _mm256_add_epi32(sum[a], _mm256_madd_epi16(pairs, ones));
        }
    }
    for (int a = 0; a < queries; a++) _mm256_store_si256((__m256i *)(t->dots[i + a] + key), sum[a]);
}

static void attention_dots(upg_attention *t, const int8_t *k, int from, int to) {
    for (int key = from; key < to; key += 8) {
        const int8_t *keys = k + (size_t)(key / 16) * (size_t)t->D * 16 + (size_t)(key % 16) * 4;
        int i = 0;
        for (; i + 4 <= t->n; i += 4) some_dots(t, keys, i, 4, key);
        for (; i < t->n; i++) some_dots(t, keys, i, 1, key);
    }
}

// Sums of `queries` queries from i for four dimensions: words of 16 bits, four positions of each dimension side by
// side.
INLINE void some_sums(upg_attention *t, int16_t (*weights)[UPG_KV_BLOCK], const int8_t *v, int i, int queries, int d,
                      int from, int to) {
    __m256i sum[4];
    for (int a = 0; a < queries; a++) sum[a] = _mm256_setzero_si256();
    for (int j = from; j < to; j += 4) {
        const int8_t *p = v + ((size_t)(j / 4) * (size_t)t->D + (size_t)d) * 4;
        __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
        for (int a = 0; a < queries; a++) {
            int64_t four;
            memcpy(&four, weights[i + a] + j, sizeof four);
            sum[a] = _mm256_add_epi32(sum[a], _mm256_madd_epi16(x, _mm256_set1_epi64x(four)));
        }
    }
    for (int a = 0; a < queries; a++) {
        __m128i pairs = _mm_hadd_epi32(_mm256_castsi256_si128(sum[a]), _mm256_extracti128_si256(sum[a], 1));
        _mm_store_si128((__m128i *)(t->acc[i + a] + d), pairs);
    }
}

static void attention_mix(upg_attention *t, const int8_t *v, int from, int to) {
    int16_t weights[UPG_ATTEND_QUERIES][UPG_KV_BLOCK];
    for (int i = 0; i < t->n; i++)
        for (int j = from; j < to; j++) weights[i][j] = (int16_t)t->dots[i][j];
    for (int d = 0; d < t->D; d += 4) {
        int i = 0;
        for (; i + 4 <= t->n; i += 4) some_sums(t, weights, v, i, 4, d, from, to);
        for (; i < t->n; i++) some_sums(t, weights, v, i, 1, d, from, to);
    }
}

#define ATTENTION_SUMS
#include "program/ops.h"

typedef struct fields {
    __m256i lo, hi; // bytes 0..127; their sum is w+127
} fields;

// Bits o..o+15 of the circular tile in the low half of each lane (high = 0) or the high half; the other half is
// garbage. w points at the tile's first word for these lanes; words are `stride` bytes apart.
INLINE __m256i window(const uint8_t *w, size_t stride, int n_words, int o, int high) {
    int k = o >> 5, bit = o & 31, from = high ? bit - 16 : bit;
    __m256i x = _mm256_loadu_si256((const __m256i *)(w + (size_t)k * stride));
    if (from < 0) return _mm256_slli_epi32(x, -from);
    if (from) x = _mm256_srli_epi32(x, from);
    if (bit <= 16) return x;
    __m256i next = _mm256_loadu_si256((const __m256i *)(w + (size_t)((k + 1) % n_words) * stride));
    return _mm256_or_si256(x, _mm256_slli_epi32(next, 32 - from));
}

INLINE fields four_weights(const uint8_t *w, size_t stride, int s, int r, int quad) {
    const __m256i mask = _mm256_set1_epi32(0x7f7f7f7f),
                  al = _mm256_set1_epi16((short)(UPG_TRELLIS_MULTIPLIER & 0xffff)),
                  ah = _mm256_set1_epi16((short)(UPG_TRELLIS_MULTIPLIER >> 16));
    int step = r * 8 + quad * 2, bits = 128 * s;
    __m256i x = _mm256_blend_epi16(window(w, stride, 4 * s, step * s % bits, 0),
                                   window(w, stride, 4 * s, (step + 1) * s % bits, 1), 0xaa);
    __m256i lo = _mm256_mullo_epi16(x, al);
    __m256i hi = _mm256_add_epi16(_mm256_mulhi_epu16(x, al), _mm256_mullo_epi16(x, ah));
    return (fields){_mm256_and_si256(lo, mask), _mm256_and_si256(hi, mask)};
}

INLINE void add_group(int32_t *total, __m256i dot, int32_t offset, int d) {
    dot = _mm256_add_epi32(dot, _mm256_set1_epi32(((1 << d) >> 1) + offset));
    __m256i *at = (__m256i *)total;
    _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), _mm256_sra_epi32(dot, _mm_cvtsi32_si128(d))));
}

// Row r of eight lanes' tiles over one group.
INLINE void one_tile_row(const uint8_t *p, int nb, int s, int r, const int8_t *q, int steps, int32_t *total,
                         int32_t q_sum, int d) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i a = _mm256_setzero_si256(), b = a;
    for (int t = 0; t < steps; t++, p += (size_t)nb * 16 * (size_t)s)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            fields f = four_weights(p, (size_t)nb * 4, s, r, i);
            __m256i x = quad_of(q + t * 16 + i * 4);
            a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_maddubs_epi16(f.lo, x), ones));
            b = _mm256_add_epi32(b, _mm256_madd_epi16(_mm256_maddubs_epi16(f.hi, x), ones));
        }
    add_group(total, _mm256_add_epi32(a, b), -127 * q_sum, d);
}

INLINE void one_row(const upg_linear *l, int64_t sb, int32_t *total, int s) {
    int nb = upg_superband_bands(l->w->rows, sb), steps = l->b / 16, groups = l->n / l->b;
    for (int g = 0; g < groups; g++) {
        const uint8_t *p = l->w->data + upg_panel_offset(l->w->rows, l->w->cols, 4 * s, sb, (int64_t)g * steps);
        const int8_t *q = l->q + g * l->b;
        for (int half = 0; half < nb; half += 8) {
#pragma GCC unroll 16
            for (int r = 0; r < 16; r++)
                one_tile_row(p + half * 4, nb, s, r, q, steps, total + r * 16 + half, l->q_sum[g], l->d[g]);
        }
    }
}

INLINE void decode(const upg_linear *l, int64_t sb, int g, uint8_t *panel, int s) {
    int nb = upg_superband_bands(l->w->rows, sb), steps = l->b / 16;
    const uint8_t *p = l->w->data + upg_panel_offset(l->w->rows, l->w->cols, 4 * s, sb, (int64_t)g * steps);
    for (int t = 0; t < steps; t++, p += (size_t)nb * 16 * (size_t)s, panel += 4096)
        for (int half = 0; half < nb; half += 8) {
#pragma GCC unroll 16
            for (int r = 0; r < 16; r++)
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    fields f = four_weights(p + half * 4, (size_t)nb * 4, s, r, i);
                    _mm256_store_si256((__m256i *)(panel + (r * 4 + i) * 64 + half * 4), _mm256_add_epi8(f.lo, f.hi));
                }
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

// rows (1..4) batch rows, tile rows r and r+1, eight lanes from `half`, over one group's panel whose words are `lanes`
// apart.
INLINE void multiply(const upg_linear *l, int g, const uint8_t *panel, int lanes, int half, int row, int rows, int r,
                     int32_t *totals) {
    const __m256i ones = _mm256_set1_epi16(1), centre = _mm256_set1_epi8(127);
    __m256i acc[4][2];
    for (int i = 0; i < rows; i++) acc[i][0] = acc[i][1] = _mm256_setzero_si256();
    const size_t at = (size_t)g * (size_t)l->n_rows + (size_t)row;
    const int8_t *q = l->q + at * (size_t)l->b;
    for (int t = 0; t < l->b / 16; t++)
        for (int i = 0; i < 4; i++)
#pragma GCC unroll 2
            for (int k = 0; k < 2; k++) {
                const uint8_t *p =
                    panel + (((size_t)t * 64 + (size_t)(r + k) * 4 + (size_t)i) * (size_t)lanes + (size_t)half) * 4;
                __m256i w = _mm256_sub_epi8(_mm256_loadu_si256((const __m256i *)p), centre),
                        magnitude = _mm256_abs_epi8(w);
                for (int j = 0; j < rows; j++) {
                    __m256i x = _mm256_sign_epi8(quad_of(q + j * l->b + t * 16 + i * 4), w);
                    acc[j][k] =
                        _mm256_add_epi32(acc[j][k], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, x), ones));
                }
            }
    for (int j = 0; j < rows; j++)
        for (int k = 0; k < 2; k++)
            add_group(totals + (size_t)(row + j) * 256 + (r + k) * 16 + half, acc[j][k], 0, l->d[at + (size_t)j]);
}

static void multiply_group(const upg_linear *l, int g, const uint8_t *panel, int lanes, int nb, int32_t *totals) {
    for (int r = 0; r < 16; r += 2)
        for (int half = 0; half < nb; half += 8) {
            int row = 0;
            for (; row + 4 <= l->n_rows; row += 4) multiply(l, g, panel, lanes, half, row, 4, r, totals);
            for (; row < l->n_rows; row++) multiply(l, g, panel, lanes, half, row, 1, r, totals);
        }
}

// A sparse block's values as bytes w+127; 4-bit ones are looked up, into `to`.
INLINE const uint8_t *byte_values(const upg_linear *l, const upg_sparse_block *s, uint8_t *to) {
    if (l->w->s == 8) return s->values;
    const __m256i levels = _mm256_add_epi8(
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)upg_sparse_level)), _mm256_set1_epi8(127));
    const __m256i low = _mm256_set1_epi8(15);
    for (size_t i = 0; i < s->n_values; i += 64) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(s->values + i / 2));
        __m256i high = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
        _mm256_store_si256((__m256i *)(to + i), _mm256_shuffle_epi8(levels, _mm256_and_si256(x, low)));
        _mm256_store_si256((__m256i *)(to + i + 32), _mm256_shuffle_epi8(levels, high));
    }
    return to;
}

// For a byte of a mask: where each of 8 weights is found among the values that follow, as vpshufb asks; 0x80 if it is
// not kept.
#define PLACE(m, i)                                                                                                    \
    ((uint64_t)((m) >> (i)&1 ? ((m) >> 0 & 1 && (i) > 0) + ((m) >> 1 & 1 && (i) > 1) + ((m) >> 2 & 1 && (i) > 2) +     \
                                   ((m) >> 3 & 1 && (i) > 3) + ((m) >> 4 & 1 && (i) > 4) + ((m) >> 5 & 1 && (i) > 5) + \
                                   ((m) >> 6 & 1 && (i) > 6)                                                           \
                             : 0x80)                                                                                   \
     << 8 * (i))
#define PLACES(m)                                                                                                      \
    (PLACE(m, 0) | PLACE(m, 1) | PLACE(m, 2) | PLACE(m, 3) | PLACE(m, 4) | PLACE(m, 5) | PLACE(m, 6) | PLACE(m, 7))
#define PLACES4(m)  PLACES(m), PLACES((m) + 1), PLACES((m) + 2), PLACES((m) + 3)
#define PLACES16(m) PLACES4(m), PLACES4((m) + 4), PLACES4((m) + 8), PLACES4((m) + 12)
#define PLACES64(m) PLACES16(m), PLACES16((m) + 16), PLACES16((m) + 32), PLACES16((m) + 48)
static const uint64_t places[256] = {PLACES64(0), PLACES64(64), PLACES64(128), PLACES64(192)};
#undef PLACES
#define PLACES(m)                                                                                                      \
    (0x0808080808080808 |                                                                                              \
     (PLACE(m, 0) | PLACE(m, 1) | PLACE(m, 2) | PLACE(m, 3) | PLACE(m, 4) | PLACE(m, 5) | PLACE(m, 6) | PLACE(m, 7)))
// The same in the upper half of a vector.
static const uint64_t places_behind[256] = {PLACES64(0), PLACES64(64), PLACES64(128), PLACES64(192)};

// 16 weights of the low 16 bits of m; p moves on.
INLINE __m128i expand16(uint32_t m, const uint8_t **p) {
    const uint8_t *second = *p + __builtin_popcount(m & 255);
    __m128 values = _mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)*p)), (const __m64 *)second);
    __m128 at = _mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)&places[m & 255])),
                             (const __m64 *)&places_behind[m >> 8 & 255]);
    *p = second + __builtin_popcount(m >> 8 & 255);
    return _mm_shuffle_epi8(_mm_sub_epi8(_mm_castps_si128(values), _mm_set1_epi8(127)), _mm_castps_si128(at));
}
INLINE __m256i expand32(const uint8_t *mask, const uint8_t **p) {
    uint32_t m;
    memcpy(&m, mask, sizeof m);
    __m128i low = expand16(m, p);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), expand16(m >> 16, p), 1);
}

static void sparse_one_row(const upg_linear *l, int64_t sb, upg_scratch *scratch) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int g = 0; g < l->n / l->b; g++) {
        upg_sparse_block s = upg_sparse_block_at(l, sb, g);
        const uint8_t *p = byte_values(l, &s, scratch->values), *end = p + s.n_values, *mask = s.masks;
        const int8_t *q = l->q + g * l->b;
        for (int r = 0; r < 16; r++) {
            p = p < end ? p : end;
            __m256i acc[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
            for (int i = 0; i < l->b; i += 4, mask += 8) {
                __m256i x = quad_of(q + i);
#pragma GCC unroll 2
                for (int k = 0; k < 2; k++) {
                    __m256i w = expand32(mask + 4 * k, &p);
                    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
                    acc[k] = _mm256_add_epi32(acc[k], _mm256_madd_epi16(pairs, ones));
                }
            }
            for (int k = 0; k < 2; k++) add_group(scratch->total + r * 16 + 8 * k, acc[k], 0, l->d[g]);
        }
    }
}

static void expand_group(const upg_linear *l, int64_t sb, int g, upg_scratch *scratch) {
    upg_sparse_block s = upg_sparse_block_at(l, sb, g);
    const uint8_t *p = byte_values(l, &s, scratch->values), *end = p + s.n_values, *mask = s.masks;
    uint8_t *panel = scratch->panel;
    const int quads = l->b / 4;
    for (int r = 0; r < 16; r++) {
        p = p < end ? p : end;
        for (int i = 0; i < quads; i++, mask += 8)
#pragma GCC unroll 2
            for (int k = 0; k < 2; k++) {
                uint8_t *to = panel + (i / 4 * 64 + r * 4 + i % 4) * 64 + 32 * k;
                _mm256_store_si256((__m256i *)to, _mm256_add_epi8(expand32(mask + 4 * k, &p), _mm256_set1_epi8(127)));
            }
    }
}

static void linear(const upg_linear *l, int64_t sb, upg_scratch *scratch) {
    int32_t *total = scratch->total;
    int nb = upg_superband_bands(l->w->rows, sb), groups = l->n / l->b;
    memset(total, 0, (size_t)l->n_rows * 256 * sizeof *total);
    if (l->w->encoding == UPG_INT8) {
        for (int g = 0; g < groups; g++)
            multiply_group(l, g,
                           l->w->data + upg_panel_offset(l->w->rows, l->w->cols, 64, sb, (int64_t)g * (l->b / 16)), nb,
                           nb, total);
    } else if (l->w->encoding == UPG_SPARSE && l->n_rows == 1) {
        sparse_one_row(l, sb, scratch);
    } else if (l->n_rows == 1) {
#define CALL(s) one_row(l, sb, total, s)
        switch (l->w->s) { FOR_EACH_S(CALL) }
#undef CALL
    } else {
        for (int g = 0; g < groups; g++) {
            if (l->w->encoding == UPG_SPARSE)
                expand_group(l, sb, g, scratch);
            else
                decode_group(l, sb, g, scratch->panel);
            multiply_group(l, g, scratch->panel, 16, nb, total);
        }
    }
    for (int row = 0; row < l->n_rows; row++) upg_linear_write(l, sb, row, total + (size_t)row * 256);
}

static bool supported(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#define KERNELS upg_cpu_avx2
#define ISA     "avx2"
#include "backend/cpu/table.h"
#endif
