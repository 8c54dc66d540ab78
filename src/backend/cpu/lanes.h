// The linear layer (docs/arithmetic.md, section 4, steps 3 and 4) in vectors of LANES 32-bit lanes, a lane for a band,
// and attention's dot products, a lane for a key:
// the text that every instruction set but scalar and AVX-512 shares. Each includes it once, after it has defined
//
//   vec, LANES                a vector of uint32_t by gcc's vector extension, so that + | >> are written as they are
//   funnel(low, next, bit)    the low 32 bits of next:low >> bit, 0 < bit < 32
//   two_windows(y, s)         bits 0..15 of each lane in its low half, bits s..s+15 in its high half
//   codes_of(x)               the four weights of two windows as bytes w+127
//   weights                   what weights are multiplied as: of_codes(bytes w+127), of_signed(bytes w)
//   sums                      what adds up products: no_sums(), dots(sums) as i32 lanes
//   QUADS                     quads of columns that one call of these multiplies by q: add(sums, weights[], q), and
//                             add_windows(sums, x[], q), which decodes as well
//   CODES_OFFSET, SIGNED_OFFSET, WINDOWS_OFFSET
//                             the dot product of w is the sum of such products plus this times the sum of q
//   TILE_ROWS                 rows of tiles that a batch's multiplication has in registers
//   PAIRS                     optional, with pair_sums, no_pair, add_pair, first_of, second_of: sums of two batch rows
//   expand(mask, p)           the LANES*4 weights of a sparse mask, bytes w, 0 where none is kept; p moves on
//   attention_mix             of ops.h
//   look_up(from, to)         64 4-bit values of a sparse block (32 bytes) as bytes w+127
#include "backend/cpu/cpu.h"

typedef int32_t signed_vec __attribute__((vector_size(4 * LANES)));

INLINE vec load(const void *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(void *p, vec v) {
    memcpy(p, &v, sizeof v);
}

// ---- Attention

// Dot products of `queries` queries from i with LANES keys, part of a tile.
INLINE void some_dots(upg_attention *t, const int8_t *keys, int i, int queries, int key) {
    sums sum[4];
    for (int a = 0; a < queries; a++) sum[a] = no_sums();
    for (int d = 0; d < t->D; d += 4 * QUADS) {
        weights k[QUADS];
        for (int m = 0; m < QUADS; m++) k[m] = of_signed(load(keys + (d + 4 * m) * 16));
        for (int a = 0; a < queries; a++) sum[a] = add(sum[a], k, t->q[i + a] + d);
    }
    for (int a = 0; a < queries; a++) {
        int32_t q_sum = 0;
        for (int d = 0; SIGNED_OFFSET != 0 && d < t->D; d++) q_sum += t->q[i + a][d];
        store(t->dots[i + a] + key, (vec)((signed_vec)dots(sum[a]) + SIGNED_OFFSET * q_sum));
    }
}

static void attention_dots(upg_attention *t, const int8_t *k, int from, int to) {
    for (int key = from; key < to; key += LANES) {
        const int8_t *keys = k + (size_t)(key / 16) * (size_t)t->D * 16 + (size_t)(key % 16) * 4;
        int i = 0;
        for (; i + 4 <= t->n; i += 4) some_dots(t, keys, i, 4, key);
        for (; i < t->n; i++) some_dots(t, keys, i, 1, key);
    }
}

#define ATTENTION_SUMS
#include "program/ops.h"

// ---- Linear layers

// The windows of steps `step` and step + 1. w points at the tile's first word for these lanes; words are `stride` bytes
// apart.
INLINE vec windows(const uint8_t *w, size_t stride, int s, int step) {
    int o = step * s, k = o >> 5, bit = o & 31;
    vec y = load(w + (size_t)k * stride);
    if (bit + s + 16 > 32)
        y = funnel(y, load(w + (size_t)((k + 1) % (4 * s)) * stride), bit);
    else if (bit)
        y = y >> bit;
    return two_windows(y, s);
}

INLINE void add_group(int32_t *total, sums sum, int32_t offset, int d) {
    signed_vec dot = (signed_vec)dots(sum) + (offset + ((1 << d) >> 1));
    store(total, (vec)((signed_vec)load(total) + (dot >> d)));
}

// Row r of these lanes' tiles over one group.
INLINE void one_tile_row(const uint8_t *p, int nb, int s, int r, const int8_t *q, int steps, int32_t *total,
                         int32_t q_sum, int d) {
    sums sum = no_sums();
    for (int t = 0; t < steps; t++, p += (size_t)nb * 16 * (size_t)s)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i += QUADS) {
            vec x[QUADS];
            for (int k = 0; k < QUADS; k++) x[k] = windows(p, (size_t)nb * 4, s, r * 8 + (i + k) * 2);
            sum = add_windows(sum, x, q + t * 16 + i * 4);
        }
    add_group(total, sum, WINDOWS_OFFSET * q_sum, d);
}

INLINE void one_row(const upg_linear *l, int64_t sb, int32_t *total, int s) {
    int nb = upg_superband_bands(l->w->rows, sb), steps = l->b / 16;
    for (int g = l->first; g < l->end; g++) {
        const uint8_t *p = l->w->data + upg_panel_offset(l->w->rows, l->w->cols, 4 * s, sb, (int64_t)g * steps);
        const int8_t *q = l->q + g * l->b;
        for (int band = 0; band < nb; band += LANES) {
#pragma GCC unroll 16
            for (int r = 0; r < 16; r++)
                one_tile_row(p + band * 4, nb, s, r, q, steps, total + r * 16 + band, l->q_sum[g], l->d[g]);
        }
    }
}

INLINE void decode(const upg_linear *l, int64_t sb, int g, uint8_t *panel, int s) {
    int nb = upg_superband_bands(l->w->rows, sb), steps = l->b / 16;
    const uint8_t *p = l->w->data + upg_panel_offset(l->w->rows, l->w->cols, 4 * s, sb, (int64_t)g * steps);
    for (int t = 0; t < steps; t++, p += (size_t)nb * 16 * (size_t)s, panel += 4096)
        for (int band = 0; band < nb; band += LANES) {
#pragma GCC unroll 16
            for (int r = 0; r < 16; r++)
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++)
                    store(panel + (r * 4 + i) * 64 + band * 4,
                          codes_of(windows(p + band * 4, (size_t)nb * 4, s, r * 8 + i * 2)));
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

// The weights of TILE_ROWS rows, QUADS quads each, whose words are `lanes` apart from p on.
INLINE void tile_weights(weights w[TILE_ROWS][QUADS], const uint8_t *p, size_t lanes) {
    for (int k = 0; k < TILE_ROWS; k++)
        for (int m = 0; m < QUADS; m++) w[k][m] = of_codes(load(p + (size_t)(k * 4 + m) * lanes * 4));
}

INLINE void add_row(const upg_linear *l, int g, int row, int r, int band, sums sum, int32_t *totals) {
    size_t at = (size_t)g * (size_t)l->n_rows + (size_t)row;
    add_group(totals + (size_t)row * 256 + r * 16 + band, sum, CODES_OFFSET * l->q_sum[at], l->d[at]);
}

// One batch row, rows r..r+TILE_ROWS-1 of the tiles, lanes from `band`, over one group's panel: p is their first word,
// words are `lanes` apart.
INLINE void multiply_row(const upg_linear *l, int g, const uint8_t *p, size_t lanes, int band, int row, int r,
                         int32_t *totals) {
    sums acc[TILE_ROWS];
    for (int k = 0; k < TILE_ROWS; k++) acc[k] = no_sums();
    const int8_t *q = l->q + ((size_t)g * (size_t)l->n_rows + (size_t)row) * (size_t)l->b;
    for (int t = 0; t < l->b / 16; t++, p += 256 * lanes)
        for (int i = 0; i < 4; i += QUADS) {
            weights w[TILE_ROWS][QUADS];
            tile_weights(w, p + (size_t)i * lanes * 4, lanes);
            for (int k = 0; k < TILE_ROWS; k++) acc[k] = add(acc[k], w[k], q + t * 16 + i * 4);
        }
    for (int k = 0; k < TILE_ROWS; k++) add_row(l, g, row, r + k, band, acc[k], totals);
}

#ifndef PAIRS
typedef struct pair_sums {
    sums first, second;
} pair_sums;
INLINE pair_sums no_pair(void) {
    return (pair_sums){no_sums(), no_sums()};
}
INLINE pair_sums add_pair(pair_sums sum, const weights *w, const int8_t *q, const int8_t *next) {
    return (pair_sums){add(sum.first, w, q), add(sum.second, w, next)};
}
INLINE sums first_of(pair_sums sum) {
    return sum.first;
}
INLINE sums second_of(pair_sums sum) {
    return sum.second;
}
#endif

// The same of one or two pairs of batch rows.
INLINE void multiply_pairs(const upg_linear *l, int g, const uint8_t *p, size_t lanes, int band, int row, int pairs,
                           int r, int32_t *totals) {
    pair_sums acc[2][TILE_ROWS];
    for (int j = 0; j < pairs; j++)
        for (int k = 0; k < TILE_ROWS; k++) acc[j][k] = no_pair();
    const int8_t *q = l->q + ((size_t)g * (size_t)l->n_rows + (size_t)row) * (size_t)l->b;
    for (int t = 0; t < l->b / 16; t++, p += 256 * lanes)
        for (int i = 0; i < 4; i += QUADS) {
            weights w[TILE_ROWS][QUADS];
            tile_weights(w, p + (size_t)i * lanes * 4, lanes);
            for (int j = 0; j < pairs; j++) {
                const int8_t *at = q + 2 * j * l->b + t * 16 + i * 4;
                for (int k = 0; k < TILE_ROWS; k++) acc[j][k] = add_pair(acc[j][k], w[k], at, at + l->b);
            }
        }
    for (int j = 0; j < pairs; j++)
        for (int k = 0; k < TILE_ROWS; k++) {
            add_row(l, g, row + 2 * j, r + k, band, first_of(acc[j][k]), totals);
            add_row(l, g, row + 2 * j + 1, r + k, band, second_of(acc[j][k]), totals);
        }
}

static void multiply_group(const upg_linear *l, int g, const uint8_t *panel, int lanes, int nb, int32_t *totals) {
    size_t apart = (size_t)lanes;
    for (int r = 0; r < 16; r += TILE_ROWS)
        for (int band = 0; band < nb; band += LANES) {
            const uint8_t *p = panel + ((size_t)r * 4 * apart + (size_t)band) * 4;
            int row = 0;
            for (; row + 4 <= l->n_rows; row += 4) multiply_pairs(l, g, p, apart, band, row, 2, r, totals);
            if (row + 2 <= l->n_rows) {
                multiply_pairs(l, g, p, apart, band, row, 1, r, totals);
                row += 2;
            }
            if (row < l->n_rows) multiply_row(l, g, p, apart, band, row, r, totals);
        }
}

// A sparse block's values as bytes w+127; 4-bit ones are looked up, into `to`.
INLINE const uint8_t *byte_values(const upg_linear *l, const upg_sparse_block *s, uint8_t *to) {
    if (l->w->s == 8) return s->values;
    for (size_t i = 0; i < s->n_values; i += 64) look_up(s->values + i / 2, to + i);
    return to;
}

static void sparse_one_row(const upg_linear *l, int64_t sb, upg_scratch *scratch) {
    enum { PARTS = 16 / LANES };
    for (int g = l->first; g < l->end; g++) {
        upg_sparse_block s = upg_sparse_block_at(l, sb, g);
        const uint8_t *p = byte_values(l, &s, scratch->values), *end = p + s.n_values, *mask = s.masks;
        const int8_t *q = l->q + g * l->b;
        for (int r = 0; r < 16; r++) {
            p = p < end ? p : end;
            sums acc[PARTS];
            for (int k = 0; k < PARTS; k++) acc[k] = no_sums();
            for (int i = 0; i < l->b; i += 4 * QUADS) {
                weights w[PARTS][QUADS];
                for (int m = 0; m < QUADS; m++)
                    for (int k = 0; k < PARTS; k++, mask += LANES / 2) w[k][m] = of_signed(expand(mask, &p));
                for (int k = 0; k < PARTS; k++) acc[k] = add(acc[k], w[k], q + i);
            }
            for (int k = 0; k < PARTS; k++)
                add_group(scratch->total + r * 16 + LANES * k, acc[k], SIGNED_OFFSET * l->q_sum[g], l->d[g]);
        }
    }
}

static void expand_group(const upg_linear *l, int64_t sb, int g, upg_scratch *scratch) {
    upg_sparse_block s = upg_sparse_block_at(l, sb, g);
    const uint8_t *p = byte_values(l, &s, scratch->values), *end = p + s.n_values, *mask = s.masks;
    uint8_t *panel = scratch->panel;
    const int quads = l->b / 4;
    typedef uint8_t bytes __attribute__((vector_size(sizeof(vec))));
    for (int r = 0; r < 16; r++) {
        p = p < end ? p : end;
        for (int i = 0; i < quads; i++)
            for (int band = 0; band < 16; band += LANES, mask += LANES / 2)
                store(panel + (i / 4 * 64 + r * 4 + i % 4) * 64 + band * 4, (vec)((bytes)expand(mask, &p) + 127));
    }
}

static void linear(const upg_linear *l, int64_t sb, upg_scratch *scratch) {
    int32_t *total = scratch->total;
    int nb = upg_superband_bands(l->w->rows, sb);
    memset(total, 0, (size_t)l->n_rows * 256 * sizeof *total);
    if (l->w->encoding == UPG_INT8) {
        for (int g = l->first; g < l->end; g++)
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
        for (int g = l->first; g < l->end; g++) {
            if (l->w->encoding == UPG_SPARSE)
                expand_group(l, sb, g, scratch);
            else
                decode_group(l, sb, g, scratch->panel);
            multiply_group(l, g, scratch->panel, 16, nb, total);
        }
    }
    upg_linear_finish(l, sb, total);
}
