// What the AVX-512 kernels share: the sums of attention, codes to bytes in vectors, panels, and results to their rows.
// A 32-bit lane owns a band (16 rows); 16 lanes are a superband. See codec/panel.h.
//
// A panel is a group decoded to bytes w+127: for each row r of the bands and each four columns a vector of 16 lanes,
// [rows][b/4][16 lanes][4 columns].
#pragma once
#include "backend/cpu/cpu.h"
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m512i quad_of(const int8_t *q) {
    int32_t x;
    memcpy(&x, q, sizeof x);
    return _mm512_set1_epi32(x);
}

// Dot products of `queries` queries from i with the keys of `tiles` tiles (16 keys) from `tile`. Keys are signed bytes,
// the instruction wants unsigned ones: k + 128 is multiplied, and 128 times the sum of q taken off.
INLINE void some_dots(upg_attention *t, const int8_t *k, int i, int queries, int tile, int tiles) {
    __m512i sum[4][4];
    const size_t apart = (size_t)t->D * 16;
    for (int a = 0; a < queries; a++)
        for (int b = 0; b < tiles; b++) sum[a][b] = _mm512_setzero_si512();
    const int8_t *p = k + (size_t)tile * apart;
    int32_t q_sum[4] = {0};
    for (int d = 0; d < t->D; d += 4, p += 64) {
        __m512i keys[4];
        for (int b = 0; b < tiles; b++)
            keys[b] = _mm512_xor_si512(_mm512_loadu_si512(p + (size_t)b * apart), _mm512_set1_epi8(-128));
        for (int a = 0; a < queries; a++)
            for (int b = 0; b < tiles; b++)
                sum[a][b] = _mm512_dpbusd_epi32(sum[a][b], keys[b], quad_of(t->q[i + a] + d));
    }
    for (int a = 0; a < queries; a++) {
        for (int d = 0; d < t->D; d++) q_sum[a] += t->q[i + a][d];
        for (int b = 0; b < tiles; b++)
            _mm512_store_si512(t->dots[i + a] + (tile + b) * 16,
                               _mm512_sub_epi32(sum[a][b], _mm512_set1_epi32(128 * q_sum[a])));
    }
}

static void vnni_dots(upg_attention *t, const int8_t *k, int from, int to) {
    for (int tile = from / 16; tile < to / 16; tile += 4) {
        int i = 0;
        for (; i + 4 <= t->n; i += 4) some_dots(t, k, i, 4, tile, 4);
        for (; i < t->n; i++) some_dots(t, k, i, 1, tile, 4);
    }
}

// Weights as two bytes each.
typedef struct halves {
    _Alignas(64) uint8_t high[UPG_ATTEND_QUERIES][UPG_KV_BLOCK], low[UPG_ATTEND_QUERIES][UPG_KV_BLOCK];
} halves;
static void split_weights(const upg_attention *t, int from, int to, halves *h) {
    for (int i = 0; i < t->n; i++)
        for (int j = from; j < to; j += 16) {
            __m512i w = _mm512_load_si512(t->dots[i] + j);
            _mm_store_si128((__m128i *)(h->high[i] + j), _mm512_cvtepi32_epi8(_mm512_srli_epi32(w, 8)));
            _mm_store_si128((__m128i *)(h->low[i] + j), _mm512_cvtepi32_epi8(w));
        }
}

// Sums of `queries` queries from i, for `parts` times 16 dimensions from d.
INLINE void some_sums(upg_attention *t, const halves *h, const int8_t *v, int i, int queries, int d, int parts,
                      int from, int to) {
    __m512i high[4][4], low[4][4];
    for (int a = 0; a < queries; a++)
        for (int b = 0; b < parts; b++) high[a][b] = low[a][b] = _mm512_setzero_si512();
    for (int j = from; j < to; j += 4) {
        const int8_t *p = v + ((size_t)(j / 4) * (size_t)t->D + (size_t)d) * 4;
        for (int b = 0; b < parts; b++) {
            __m512i x = _mm512_loadu_si512(p + 64 * b);
            for (int a = 0; a < queries; a++) {
                high[a][b] = _mm512_dpbusd_epi32(high[a][b], quad_of((const int8_t *)h->high[i + a] + j), x);
                low[a][b] = _mm512_dpbusd_epi32(low[a][b], quad_of((const int8_t *)h->low[i + a] + j), x);
            }
        }
    }
    for (int a = 0; a < queries; a++)
        for (int b = 0; b < parts; b++)
            _mm512_store_si512(t->acc[i + a] + d + 16 * b,
                               _mm512_add_epi32(_mm512_slli_epi32(high[a][b], 8), low[a][b]));
}

static void vnni_mix(upg_attention *t, const int8_t *v, int from, int to) {
    halves h;
    split_weights(t, from, to, &h);
    int i = 0;
    for (; i + 4 <= t->n; i += 4)
        for (int d = 0; d < t->D; d += 16) some_sums(t, &h, v, i, 4, d, 1, from, to);
    for (; i < t->n; i++) {
        int d = 0;
        for (; d + 64 <= t->D; d += 64) some_sums(t, &h, v, i, 1, d, 4, from, to);
        for (; d < t->D; d += 16) some_sums(t, &h, v, i, 1, d, 1, from, to);
    }
}

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

// The weights of windows, two each, as bytes w+127.
INLINE __m512i weights_of(__m512i windows) {
    const __m512i mask = _mm512_set1_epi32(0x7f7f7f7f),
                  al = _mm512_set1_epi16((short)(UPG_TRELLIS_MULTIPLIER & 0xffff)),
                  ah = _mm512_set1_epi16((short)(UPG_TRELLIS_MULTIPLIER >> 16));
    __m512i lo = _mm512_mullo_epi16(windows, al);
    __m512i hi = _mm512_add_epi16(_mm512_mulhi_epu16(windows, al), _mm512_mullo_epi16(windows, ah));
    return _mm512_add_epi8(_mm512_and_si512(lo, mask), _mm512_and_si512(hi, mask));
}

// Weights 4*quad .. 4*quad+3 of row r of each lane's tile, as bytes w+127.
INLINE __m512i four_weights(const __m512i *w, int s, int r, int quad) {
    int step = r * 8 + quad * 2, bits = 128 * s;
    return weights_of(_mm512_mask_blend_epi16(0xaaaaaaaa, window(w, 4 * s, step * s % bits, 0),
                                              window(w, 4 * s, (step + 1) * s % bits, 1)));
}

// acc holds sums of (w+127)*q. Adds (dot + half) >> d to *total.
INLINE void add_group(int32_t *total, __m512i acc, int32_t q_sum, int d) {
    __m512i dot = _mm512_add_epi32(acc, _mm512_set1_epi32(((1 << d) >> 1) - 127 * q_sum));
    __m512i sum = _mm512_add_epi32(_mm512_loadu_si512(total), _mm512_sra_epi32(dot, _mm_cvtsi32_si128(d)));
    _mm512_storeu_si512(total, sum);
}

#define FOR_EACH_S(CALL)                                                                                               \
    case 4: CALL(4); break;                                                                                            \
    case 5: CALL(5); break;                                                                                            \
    case 6: CALL(6); break;                                                                                            \
    case 7: CALL(7); break;                                                                                            \
    default: CALL(8); break;

// Rows first..first+rows-1 of the bands of a group into a panel.
INLINE void decode(const upg_linear *l, int64_t sb, int g, uint8_t *panel, int s, int first, int rows) {
    int nb = upg_superband_bands(l->w->rows, sb), steps = l->b / 16;
    const uint8_t *p = l->w->data + upg_panel_offset(l->w->rows, l->w->cols, 4 * s, sb, (int64_t)g * steps);
    for (int t = 0; t < steps; t++, p += (size_t)nb * 16 * (size_t)s, panel += 256) {
        __m512i w[32];
        for (int k = 0; k < 4 * s; k++) w[k] = _mm512_loadu_si512(p + (size_t)k * (size_t)nb * 4);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                _mm512_store_si512(panel + ((size_t)r * (size_t)steps * 4 + (size_t)i) * 64,
                                   four_weights(w, s, first + r, i));
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

// A group of a sparse matrix into a panel.
static void expand_group(const upg_linear *l, int64_t sb, int g, upg_scratch *scratch) {
    upg_sparse_block s = upg_sparse_block_at(l, sb, g);
    const uint8_t *p = byte_values(l, &s, scratch->values), *end = p + s.n_values, *mask = s.masks;
    uint8_t *panel = scratch->panel;
    for (int r = 0; r < 16; r++) {
        p = p < end ? p : end;
        for (int i = 0; i < l->b / 4; i++, mask += 8, panel += 64) _mm512_store_si512(panel, expand(mask, &p));
    }
}

#define PAIR(a, b, i, unpack, to)                                                                                      \
    {                                                                                                                  \
        __m512i x = a, y = b;                                                                                          \
        (to)[i] = _mm512_unpacklo_##unpack(x, y);                                                                      \
        (to)[(i) + 1] = _mm512_unpackhi_##unpack(x, y);                                                                \
    }

// Columns become rows.
INLINE void transpose16(__m512i v[16]) {
    __m512i a[16], b[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) PAIR(v[i], v[i + 1], i, epi32, a);
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        PAIR(a[i], a[i + 2], i, epi64, b);
        PAIR(a[i + 1], a[i + 3], i + 2, epi64, b);
    }
    // b[4*i + j] holds in its part k of 128 bits column 4*k + j of rows 4*i..4*i+3.
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512i low0 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x44), high0 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xee),
                low1 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x44),
                high1 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xee);
        v[j] = _mm512_shuffle_i32x4(low0, low1, 0x88);
        v[4 + j] = _mm512_shuffle_i32x4(low0, low1, 0xdd);
        v[8 + j] = _mm512_shuffle_i32x4(high0, high1, 0x88);
        v[12 + j] = _mm512_shuffle_i32x4(high0, high1, 0xdd);
    }
}

// upg_linear_finish in vectors. Totals of rows of the bands lie `apart`, those of rows of the batch `stride` apart.
static void write_rows(const upg_linear *l, int64_t sb, const int32_t *totals, size_t apart, size_t stride) {
    if (l->sums) {
        upg_linear_keep(l, totals, apart, stride);
        return;
    }
    const int bands = upg_superband_bands(l->w->rows, sb);
    const int64_t left = l->w->rows - sb * 256;
    for (int row = 0; row < l->n_rows; row++, totals += stride) {
        const __m512 m = _mm512_set1_ps(l->m[row] * 0x1.020408p-7f);
        float *y = l->y + (size_t)row * l->y_stride + sb * 256;
        __m512i v[16];
        for (int r = 0; r < 16; r++) v[r] = _mm512_loadu_si512(totals + (size_t)r * apart);
        transpose16(v);
        for (int band = 0; band < bands; band++) {
            const int64_t n = left - band * 16;
            const __mmask16 some = n < 16 ? (__mmask16)((1u << n) - 1) : 0xffff;
            __m512 scale = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, l->w->scale + sb * 256 + band * 16), m);
            _mm512_mask_storeu_ps(y + band * 16, some, _mm512_mul_ps(_mm512_cvtepi32_ps(v[band]), scale));
        }
    }
}
