// The scalar path: the specification. Its linear layer decodes a group of a superband and multiplies it plainly.
#include "backend/cpu/cpu.h"
#include "program/ops.h"

// One group (columns step0*16 .. step1*16) of a superband as bytes w+127: [step][16 rows][4 quads][nb bands][4
// columns].
static const uint8_t *decode_group(const upg_tensor *w, int64_t sb, int step0, int step1, uint8_t *panel) {
    if (w->encoding == UPG_INT8) return w->data + upg_panel_offset(w->rows, w->cols, 64, sb, step0);
    int nb = upg_superband_bands(w->rows, sb);
    uint8_t *p = panel;
    for (int step = step0; step < step1; step++) {
        const void *words = w->data + upg_panel_offset(w->rows, w->cols, upg_trellis_words(w->s), sb, step);
        for (int i = 0; i < UPG_TRELLIS_STEPS; i++)
            for (int band = 0; band < nb; band++) {
                int8_t v[2];
                upg_trellis_weights(upg_trellis_window((const uint32_t *)words + band, (size_t)nb, w->s, i), v);
                uint8_t *at = p + ((size_t)(i / 2) * (size_t)nb + (size_t)band) * 4 + (size_t)(i % 2) * 2;
                at[0] = (uint8_t)(v[0] + 127);
                at[1] = (uint8_t)(v[1] + 127);
            }
        p += (size_t)nb * 256;
    }
    return panel;
}

// The same of a sparse matrix.
static const uint8_t *expand_group(const upg_tensor *w, int64_t sb, int g, uint8_t *panel) {
    int b = upg_block(upg_pad16(w->cols)), nb = upg_superband_bands(w->rows, sb);
    size_t n_values = upg_sparse_values(nb, b), value = 0;
    const uint8_t *values = w->data + upg_sparse_offset(w->rows, w->cols, w->s, sb, g),
                  *masks = values + n_values * (size_t)w->s / 8;
    for (int r = 0; r < 16; r++)
        for (int quad = 0; quad < b / 4; quad++, masks += 8) {
            uint64_t m = upg_sparse_mask(masks, 0);
            uint8_t *to = panel + ((size_t)(quad / 4) * 64 + (size_t)(r * 4 + quad % 4)) * (size_t)nb * 4;
            for (int bit = 0; bit < 4 * nb; bit++) {
                bool kept = m >> bit & 1 && value < n_values;
                to[bit] = kept ? upg_sparse_value(values, w->s, value++) : 127;
            }
        }
    return panel;
}

static void linear(const upg_linear *l, int64_t sb, upg_scratch *scratch) {
    int nb = upg_superband_bands(l->w->rows, sb), steps = l->b / 16;
    memset(scratch->total, 0, (size_t)l->n_rows * 256 * sizeof(int32_t));
    for (int g = l->first; g < l->end; g++) {
        const uint8_t *panel = l->w->encoding == UPG_SPARSE
                                   ? expand_group(l->w, sb, g, scratch->panel)
                                   : decode_group(l->w, sb, g * steps, (g + 1) * steps, scratch->panel);
        for (int row = 0; row < l->n_rows; row++) {
            const size_t at = (size_t)g * (size_t)l->n_rows + (size_t)row;
            const int8_t *q = l->q + at * (size_t)l->b;
            int32_t *total = scratch->total + (size_t)row * 256;
            int d = l->d[at];
            for (int r = 0; r < 16; r++)
                for (int band = 0; band < nb; band++) {
                    int32_t dot = 0;
                    for (int i = 0; i < l->b; i++) {
                        size_t word =
                            ((size_t)(i / 16) * 64 + (size_t)r * 4 + (size_t)(i % 16 / 4)) * (size_t)nb + (size_t)band;
                        dot += (panel[word * 4 + (size_t)(i % 4)] - 127) * q[i];
                    }
                    total[r * 16 + band] += (dot + ((1 << d) >> 1)) >> d;
                }
        }
    }
    upg_linear_finish(l, sb, scratch->total);
}

static bool supported(void) {
    return true;
}

#define KERNELS upg_cpu_scalar
#define ISA     "scalar"
#include "backend/cpu/table.h"
