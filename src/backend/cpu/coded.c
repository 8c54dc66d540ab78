// Reading single rows of a coded matrix, for embeddings, and the table of instruction sets. Plain C on every machine.
#include "backend/cpu/cpu.h"
#include <stdlib.h>
#include <string.h>

void upg_coded_row(const upg_tensor *w, int64_t r, int64_t step, int8_t out[16]) {
    int64_t sb = r / 256;
    int band = (int)(r % 256) / 16, in_band = (int)(r % 16), nb = upg_superband_bands(w->rows, sb);
    if (w->encoding == UPG_SPARSE) {
        int8_t group[256];
        int steps = upg_block(upg_pad16(w->cols)) / 16;
        upg_sparse_row(w->data, w->rows, w->cols, w->s, r, step / steps, group);
        memcpy(out, group + step % steps * 16, 16);
        return;
    }
    if (w->encoding == UPG_INT8) {
        const uint8_t *p = w->data + upg_panel_offset(w->rows, w->cols, 64, sb, step);
        for (int q = 0; q < 4; q++)
            for (int k = 0; k < 4; k++)
                out[4 * q + k] =
                    (int8_t)(p[((size_t)(in_band * 4 + q) * (size_t)nb + (size_t)band) * 4 + (size_t)k] - 127);
        return;
    }
    const uint32_t *tile =
        (const uint32_t *)(const void *)(w->data +
                                         upg_panel_offset(w->rows, w->cols, upg_trellis_words(w->s), sb, step));
    for (int i = 0; i < 8; i++)
        upg_trellis_weights(upg_trellis_window(tile + band, (size_t)nb, w->s, in_band * 8 + i), out + 2 * i);
}

void upg_embed(const upg_tensor *w, int32_t token, const uint32_t *sign, int32_t *v, float *x) {
    int cols = (int)w->cols, n = (int)upg_pad16(cols), b = upg_block(n);
    int part = w->encoding == UPG_SPARSE ? b : 16;
    for (int at = 0; at < n; at += part) {
        int8_t c[256];
        if (w->encoding == UPG_SPARSE)
            upg_sparse_row(w->data, w->rows, w->cols, w->s, token, at / b, c);
        else
            upg_coded_row(w, token, at / 16, c);
        for (int i = 0; i < part; i++) v[at + i] = c[i];
    }
    for (int g = 0; g < n && !w->unrotated; g += b)
        for (int h = 1; h < b; h *= 2)
            for (int i = g; i < g + b; i += 2 * h)
                for (int j = i; j < i + h; j++) {
                    int32_t s = v[j] + v[j + h], t = v[j] - v[j + h];
                    v[j] = s;
                    v[j + h] = t;
                }
    for (int i = 0; i < cols; i++)
        x[i] = upg_float(upg_bits((float)v[i] * w->scale[token]) ^ (w->unrotated ? 0 : sign[i]));
}

int upg_scratch_take(upg_scratch *s, upg_arena *from, int max_rows, int max_inputs, upg_error *e) {
    const size_t rows = (size_t)upg_pad16(max_rows), n = (size_t)upg_pad16(max_inputs);
    s->panel = upg_arena_take(from, UPG_PANEL_BYTES + 64, 1, e);
    s->values = s->panel ? upg_arena_take(from, UPG_SPARSE_VALUES + UPG_SPARSE_OVERRUN, 1, e) : NULL;
    s->total = s->values ? upg_arena_take(from, rows * 256, sizeof *s->total, e) : NULL;
    s->work = s->total ? upg_arena_take(from, n, sizeof *s->work, e) : NULL;
    s->row.q = s->work ? upg_arena_take(from, n, 1, e) : NULL;
    s->row.d = s->row.q ? upg_arena_take(from, n / 16, 1, e) : NULL;
    s->row.q_sum = s->row.d ? upg_arena_take(from, n / 16, sizeof *s->row.q_sum, e) : NULL;
    return s->row.q_sum ? 0 : -1;
}

#if defined(__x86_64__)
extern const upg_cpu_kernels upg_cpu_amx, upg_cpu_avx512, upg_cpu_avxvnni, upg_cpu_avx2, upg_cpu_sse41;
#elif defined(__aarch64__)
extern const upg_cpu_kernels upg_cpu_i8mm, upg_cpu_dotprod, upg_cpu_neon;
#endif
const upg_cpu_kernels *const upg_cpu_all[] = {
#if defined(__x86_64__)
    &upg_cpu_amx,     &upg_cpu_avx512,
    &upg_cpu_avxvnni, &upg_cpu_avx2,
    &upg_cpu_sse41,
#elif defined(__aarch64__)
    &upg_cpu_i8mm,   &upg_cpu_dotprod,
    &upg_cpu_neon,
#endif
    &upg_cpu_scalar,  NULL,
};

static void unknown(const char *isa, upg_error *e) {
    char names[128] = "";
    for (size_t i = 0; upg_cpu_all[i]; i++) {
        strcat(names, i ? ", " : "");
        strcat(names, upg_cpu_all[i]->isa);
    }
    upg_fail(e, "UPG_ISA=%s: unknown; one of %s", isa, names);
}

const upg_cpu_kernels *upg_cpu_kernels_for(const char *isa, upg_error *e) {
    if (!isa) isa = getenv("UPG_ISA");
    bool any = !isa || !*isa;
    for (size_t i = 0; upg_cpu_all[i]; i++) {
        const upg_cpu_kernels *k = upg_cpu_all[i];
        if (!any && strcmp(k->isa, isa)) continue;
        if (k->supported()) return k;
        if (!any) {
            upg_fail(e, "UPG_ISA=%s: this processor has not got it", isa);
            return NULL;
        }
    }
    unknown(isa, e);
    return NULL;
}
