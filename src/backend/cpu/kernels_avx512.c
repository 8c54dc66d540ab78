// AVX-512 with VNNI and VBMI2.
//
// One row: trellis words are decoded in registers and multiplied at once. Several rows: a group is decoded once into a
// panel (int8 matrices are bytes in the file already) and every row of the batch runs over it.
#if defined(__x86_64__)
#include "backend/cpu/avx512.h"

#define ATTENTION_SUMS
#define attention_dots vnni_dots
#define attention_mix  vnni_mix
#include "program/ops.h"

enum { AHEAD = 3072 }; // bytes that are asked for early: two steps at 3 bits; more and fewer were slower

INLINE void one_row(const upg_linear *l, int64_t sb, int32_t *total, int s) {
    int nb = upg_superband_bands(l->w->rows, sb), steps = l->b / 16;
    const uint8_t *p = l->w->data + upg_panel_offset(l->w->rows, l->w->cols, 4 * s, sb, l->first * steps);
    for (int g = l->first; g < l->end; g++) {
        __m512i acc[16];
        for (int r = 0; r < 16; r++) acc[r] = _mm512_setzero_si512();
        for (int t = g * steps; t < (g + 1) * steps; t++, p += (size_t)nb * 16 * (size_t)s) {
            __m512i w[32];
            for (int k = 0; k < 4 * s; k++) {
                w[k] = _mm512_loadu_si512(p + (size_t)k * (size_t)nb * 4);
                _mm_prefetch((const char *)p + (size_t)k * (size_t)nb * 4 + AHEAD, _MM_HINT_T0);
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

// The same with fewer instructions where s is even: vpmultishiftqb takes four windows at once, bits o..o+3s+15 of a
// tile, out of two words side by side; they lie within 64 bits from the word that o is in. (With s = 7 some do not,
// with s = 5 nothing is gained.) A vector of pairs has 8 of the 16 tiles, `even` those of lanes 4k and 4k+1, so there
// are two sums of each row, and two in each 64-bit lane of them.
typedef struct two_sums {
    __m512i even, odd;
} two_sums;

// Where the windows are: s apart from bit `at` of 64.
INLINE __m512i window_bits(int s, int at) {
    uint64_t bits = 0;
    for (int i = 0; i < 4; i++) bits |= (uint64_t)(at + i * s) << 16 * i | (uint64_t)(at + i * s + 8) << (16 * i + 8);
    return _mm512_set1_epi64((int64_t)bits);
}

INLINE __m512i eight_of(const int8_t *q) {
    int64_t x;
    memcpy(&x, q, sizeof x);
    return _mm512_set1_epi64(x);
}

// Rows first..first+7 of a superband's tiles over one group. They are in half of each step's words, so memory is not
// read in order, and the processor alone would not see what comes next: all of the next group is asked for meanwhile,
// evenly over both halves.
INLINE void half_group(const uint8_t *group, int nb, int s, int first, const int8_t *q, int steps, two_sums sum[8]) {
    for (int r = 0; r < 8; r++) sum[r].even = sum[r].odd = _mm512_setzero_si512();
    const int n_words = 4 * s;
    const size_t word = (size_t)nb * 4, step = word * (size_t)n_words;
    const uint8_t *p = group;
    for (int t = 0; t < steps; t++, p += step, q += 16) {
        const int ahead = steps + first / 8 * steps / 2 + t / 2; // steps
        const uint8_t *next = group + (size_t)ahead * step + (size_t)(t % 2 * n_words / 2) * word;
        for (int k = 0; k < n_words / 2; k++) _mm_prefetch((const char *)next + (size_t)k * word, _MM_HINT_T1);
#pragma GCC unroll 8
        for (int r = 0; r < 8; r++)
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const int o = ((first + r) * 8 + half * 4) * s, k = o >> 5;
                __m512i a = _mm512_loadu_si512(p + (size_t)k * word),
                        b = _mm512_loadu_si512(p + (size_t)((k + 1) % n_words) * word), bits = window_bits(s, o & 31),
                        x = eight_of(q + 8 * half);
                __m512i even = _mm512_multishift_epi64_epi8(bits, _mm512_unpacklo_epi32(a, b)),
                        odd = _mm512_multishift_epi64_epi8(bits, _mm512_unpackhi_epi32(a, b));
                sum[r].even = _mm512_dpbusd_epi32(sum[r].even, weights_of(even), x);
                sum[r].odd = _mm512_dpbusd_epi32(sum[r].odd, weights_of(odd), x);
            }
    }
}

INLINE __m512i join(const two_sums *s) {
    __m512 even = _mm512_castsi512_ps(s->even), odd = _mm512_castsi512_ps(s->odd);
    return _mm512_add_epi32(_mm512_castps_si512(_mm512_shuffle_ps(even, odd, 0x88)),
                            _mm512_castps_si512(_mm512_shuffle_ps(even, odd, 0xdd)));
}

INLINE void one_row_by_eights(const upg_linear *l, int64_t sb, int32_t *total, int s) {
    const int nb = upg_superband_bands(l->w->rows, sb), steps = l->b / 16;
    const uint8_t *p = l->w->data + upg_panel_offset(l->w->rows, l->w->cols, 4 * s, sb, l->first * steps);
    for (int g = l->first; g < l->end; g++, p += (size_t)nb * 16 * (size_t)s * (size_t)steps) {
        two_sums sum[8];
        half_group(p, nb, s, 0, l->q + g * l->b, steps, sum);
        for (int r = 0; r < 8; r++) add_group(total + r * 16, join(sum + r), l->q_sum[g], l->d[g]);
        half_group(p, nb, s, 8, l->q + g * l->b, steps, sum);
        for (int r = 0; r < 8; r++) add_group(total + (r + 8) * 16, join(sum + r), l->q_sum[g], l->d[g]);
    }
}

// rows (1..4) batch rows from `row`, four tile rows from r, over one group. panel: the group's bytes at tile row r,
// vectors `quad`, tile rows `apart` and tile columns `step` bytes apart.
typedef struct bytes {
    const uint8_t *panel;
    size_t quad, apart, step;
} bytes;
INLINE void multiply(const upg_linear *l, int g, const bytes *w, int row, int rows, int r, int32_t *totals) {
    __m512i acc[4][4];
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < 4; k++) acc[i][k] = _mm512_setzero_si512();
    const size_t at = (size_t)g * (size_t)l->n_rows + (size_t)row;
    const int8_t *q = l->q + at * (size_t)l->b;
    const uint8_t *p = w->panel + (size_t)r * w->apart;
    for (int t = 0; t < l->b / 16; t++, p += w->step, q += 16)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            __m512i x[4];
            for (int k = 0; k < 4; k++) x[k] = _mm512_loadu_si512(p + (size_t)k * w->apart + (size_t)i * w->quad);
            for (int j = 0; j < rows; j++) {
                __m512i xs = quad_of(q + j * l->b + i * 4);
                for (int k = 0; k < 4; k++) acc[j][k] = _mm512_dpbusd_epi32(acc[j][k], x[k], xs);
            }
        }
    for (int j = 0; j < rows; j++)
        for (int k = 0; k < 4; k++)
            add_group(totals + (size_t)(row + j) * 256 + (r + k) * 16, acc[j][k], l->q_sum[at + (size_t)j],
                      l->d[at + (size_t)j]);
}

static void multiply_group(const upg_linear *l, int g, const bytes *w, int32_t *totals) {
    for (int r = 0; r < 16; r += 4) {
        int row = 0;
        for (; row + 4 <= l->n_rows; row += 4) multiply(l, g, w, row, 4, r, totals);
        for (; row < l->n_rows; row++) multiply(l, g, w, row, 1, r, totals);
    }
}

static void multiply_panel(const upg_linear *l, int g, const uint8_t *panel, int32_t *totals) {
    bytes w = {panel, 64, (size_t)l->b * 16, 256};
    multiply_group(l, g, &w, totals);
}

static void decode_group(const upg_linear *l, int64_t sb, int g, uint8_t *panel) {
#define CALL(s) decode(l, sb, g, panel, s, 0, 16)
    switch (l->w->s) { FOR_EACH_S(CALL) }
#undef CALL
}

static void sparse_one_row(const upg_linear *l, int64_t sb, upg_scratch *scratch) {
    enum { AHEAD_VALUES = 6144 }; // bytes; masks take a quarter as many
    for (int g = l->first; g < l->end; g++) {
        upg_sparse_block s = upg_sparse_block_at(l, sb, g);
        const uint8_t *p = byte_values(l, &s, scratch->values), *end = p + s.n_values, *mask = s.masks,
                      *end_of_block = s.masks + 32 * l->b;
        const int8_t *q = l->q + g * l->b;
        for (int r = 0; r < 16; r++) {
            p = p < end ? p : end;
            __m512i acc[4];
            for (int k = 0; k < 4; k++) acc[k] = _mm512_setzero_si512();
            for (int i = 0; i < l->b; i += 16, mask += 32) {
                const uint8_t *values = p + AHEAD_VALUES, *masks = mask + AHEAD_VALUES / 4;
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

static void linear(const upg_linear *l, int64_t sb, upg_scratch *scratch) {
    int32_t *total = scratch->total;
    memset(total, 0, (size_t)l->n_rows * 256 * sizeof *total);
    if (l->w->encoding == UPG_INT8) {
        size_t quad = (size_t)upg_superband_bands(l->w->rows, sb) * 4;
        for (int g = l->first; g < l->end; g++) {
            size_t at = upg_panel_offset(l->w->rows, l->w->cols, 64, sb, (int64_t)g * (l->b / 16));
            bytes w = {l->w->data + at, quad, 4 * quad, 64 * quad};
            multiply_group(l, g, &w, total);
        }
    } else if (l->w->encoding == UPG_SPARSE && l->n_rows == 1) {
        sparse_one_row(l, sb, scratch);
    } else if (l->n_rows == 1) {
#define CALL(s) s % 2 ? one_row(l, sb, total, s) : one_row_by_eights(l, sb, total, s)
        switch (l->w->s) { FOR_EACH_S(CALL) }
#undef CALL
    } else {
        for (int g = l->first; g < l->end; g++) {
            if (l->w->encoding == UPG_SPARSE)
                expand_group(l, sb, g, scratch);
            else
                decode_group(l, sb, g, scratch->panel);
            multiply_panel(l, g, scratch->panel, total);
        }
    }
    write_rows(l, sb, total, 16, 256);
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
