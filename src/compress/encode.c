// Coding one matrix, a band of 16 rows a task. See encode.h; what the code stands for is section 3 of
// docs/arithmetic.md.
#include "compress/encode.h"
#include "codec/panel.h"
#include "program/ops.h"
#include <stdatomic.h>

struct upg_encoder {
    upg_pool *pool;
    uint64_t seed;
    upg_search_mode mode;
    int n_threads;
    upg_search **search; // [threads][S - 4], made when needed
    // The matrix at hand.
    const upg_tensor *w;
    upg_encoding encoding;
    int s, n, b; // n padded columns in blocks of b
    uint32_t *sign;
    uint8_t *data;
    float *scale;
    double *errors, *energies; // [bands]
    struct band_work {
        float *rows;     // [16][n] rotated
        float *tiles;    // [n/16][256] in units of the code
        uint32_t *codes; // [n/16][4*S]
        int8_t *decoded; // [n/16][256]
    } * work;            // [threads]
    atomic_llong bad_row;
};

upg_encoder *upg_encoder_new(upg_pool *pool, uint64_t rotation_seed, upg_search_mode mode, upg_error *e) {
    upg_encoder *en = upg_alloc(1, sizeof *en, e);
    if (!en) return NULL;
    en->pool = pool;
    en->seed = rotation_seed;
    en->mode = mode;
    en->n_threads = upg_pool_threads(pool);
    en->search = upg_alloc((size_t)en->n_threads * 5, sizeof *en->search, e);
    en->work = upg_alloc((size_t)en->n_threads, sizeof *en->work, e);
    if (!en->search || !en->work) {
        upg_encoder_free(en);
        return NULL;
    }
    return en;
}

static void free_work(upg_encoder *en) {
    for (int i = 0; en->work && i < en->n_threads; i++) {
        free(en->work[i].rows);
        free(en->work[i].tiles);
        free(en->work[i].codes);
        free(en->work[i].decoded);
        en->work[i] = (struct band_work){0};
    }
    free(en->sign);
    free(en->errors);
    free(en->energies);
    en->sign = NULL;
    en->errors = en->energies = NULL;
}

void upg_encoder_free(upg_encoder *en) {
    if (!en) return;
    for (int i = 0; en->search && i < en->n_threads * 5; i++) upg_search_free(en->search[i]);
    free_work(en);
    free(en->search);
    free(en->work);
    free(en);
}

static int reserve(upg_encoder *en, upg_error *e) {
    size_t n = (size_t)en->n, bands = (size_t)upg_pad16(en->w->rows) / 16;
    if (!(en->sign = upg_alloc(n, sizeof *en->sign, e)) || !(en->errors = upg_alloc(bands, sizeof *en->errors, e)) ||
        !(en->energies = upg_alloc(bands, sizeof *en->energies, e)))
        return -1;
    for (size_t i = 0; i < n; i++) en->sign[i] = upg_sign(en->seed, i);
    for (int i = 0; i < en->n_threads; i++) {
        struct band_work *w = &en->work[i];
        if (!(w->rows = upg_alloc(n * 16, sizeof *w->rows, e)) ||
            !(w->tiles = upg_alloc(n * 16, sizeof *w->tiles, e)) ||
            !(w->codes = upg_alloc(n * 2, sizeof *w->codes, e)) || !(w->decoded = upg_alloc(n * 16, 1, e)))
            return -1;
        upg_search **search = en->encoding == UPG_TRELLIS ? &en->search[i * 5 + en->s - UPG_TRELLIS_MIN_S] : NULL;
        if (search && !*search && !(*search = upg_search_new(en->s, NULL, e))) return -1;
    }
    return 0;
}

// W' = W diag(sign) H_b / sqrt(b) for one row; padded rows and columns are zero.
static void rotate_row(upg_encoder *en, int64_t row, float *x) {
    memset(x, 0, (size_t)en->n * sizeof *x);
    if (row >= en->w->rows) return;
    int cols = (int)en->w->cols;
    upg_tensor_floats(en->w, row * cols, cols, x);
    for (int i = 0; i < cols; i++) {
        if (!isfinite(x[i])) {
            long long first = atomic_load(&en->bad_row); // the lowest, whoever finds one first
            while ((first < 0 || row < first) && !atomic_compare_exchange_weak(&en->bad_row, &first, row)) continue;
            x[i] = 0;
        }
        x[i] = upg_float(upg_bits(x[i]) ^ en->sign[i]);
    }
    hadamard(x, en->n, en->b);
    float norm = 1.0f / sqrtf((float)en->b);
    for (int i = 0; i < en->n; i++) x[i] *= norm;
}

// A scale the format allows: 0, or 2^-50..2^30 after the other 1/sqrt(b) is included.
static float stored_scale(const upg_encoder *en, double scale) {
    float s = (float)(scale / sqrt((double)en->b));
    return s < 0x1p-50f ? 0.0f : s > 0x1p+30f ? 0x1p+30f : s;
}

static double squares(const float *x, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)x[i] * x[i];
    return sum;
}

// Scale of a row of the trellis: the codebook's deviation over the weights', best measured on a Gaussian
// (docs/quality.md).
static double trellis_scale(const float *x, int n, int s) {
    static const double ratio[] = {1.04, 1.08, 1.16, 1.20, 1.28};
    return sqrt(squares(x, n) / n) * ratio[s - UPG_TRELLIS_MIN_S] / UPG_TRELLIS_STD;
}

// Codes row r of the band as int8, and returns the scale.
static double code_int8_row(const float *x, int n, int8_t *q) {
    float top = 0;
    for (int i = 0; i < n; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    float inv = top >= 0x1p-100f ? 127.0f / top : 0.0f;
    for (int i = 0; i < n; i++) q[i] = (int8_t)rintf(x[i] * inv);
    return inv > 0 ? (double)top / 127 : 0;
}

static void store_int8(const upg_encoder *en, int64_t band, int r, const int8_t *q) {
    int64_t sb = band / 16, nb = upg_superband_bands(en->w->rows, sb);
    for (int i = 0; i < en->n; i++) {
        uint8_t *step = en->data + upg_panel_offset(en->w->rows, en->w->cols, 64, sb, i / 16);
        step[((r * 4 + i % 16 / 4) * nb + band % 16) * 4 + i % 4] = (uint8_t)(q[i] + 127);
    }
}

static void store_trellis(const upg_encoder *en, int64_t band, const uint32_t *codes) {
    int64_t sb = band / 16, nb = upg_superband_bands(en->w->rows, sb);
    int words = upg_trellis_words(en->s);
    for (int step = 0; step < en->n / 16; step++) {
        uint8_t *at = en->data + upg_panel_offset(en->w->rows, en->w->cols, words, sb, step);
        for (int k = 0; k < words; k++) memcpy(at + (k * nb + band % 16) * 4, &codes[step * words + k], 4);
    }
}

// The least-squares scale of a coded row; errors of the row are added to the band's.
static void finish_row(upg_encoder *en, int64_t band, int r, const float *x, const int8_t *q, double scale,
                       bool refit) {
    double xq = 0, qq = 0;
    for (int i = 0; i < en->n; i++) {
        xq += (double)x[i] * q[i];
        qq += (double)q[i] * q[i];
    }
    if (refit) scale = qq > 0 && xq > 0 ? xq / qq : 0;
    int64_t row = band * 16 + r;
    if (row >= en->w->rows) return;
    en->scale[row] = stored_scale(en, scale);
    scale = (double)en->scale[row] * sqrt((double)en->b);
    double xx = squares(x, en->n);
    en->energies[band] += xx;
    en->errors[band] += xx - 2 * scale * xq + scale * scale * qq;
}

static void trellis_band(upg_encoder *en, int64_t band, struct band_work *w, upg_search *search) {
    int n = en->n;
    for (int r = 0; r < 16; r++) {
        const float *x = w->rows + (size_t)r * (size_t)n;
        double scale = trellis_scale(x, n, en->s);
        float inv = scale > 0x1p-100 ? (float)(1 / scale) : 0.0f;
        for (int i = 0; i < n; i++) w->tiles[i / 16 * 256 + r * 16 + i % 16] = x[i] * inv;
    }
    upg_search_tiles(search, en->mode, w->tiles, n / 16, w->codes, w->decoded);
    store_trellis(en, band, w->codes);
    int8_t *row = (int8_t *)w->tiles; // the targets are not needed any more
    for (int r = 0; r < 16; r++) {
        for (int i = 0; i < n; i++) row[i] = w->decoded[i / 16 * 256 + r * 16 + i % 16];
        finish_row(en, band, r, w->rows + (size_t)r * (size_t)n, row, 0, true);
    }
}

static void band_task(void *ctx, int band, int thread) {
    upg_encoder *en = ctx;
    struct band_work *w = &en->work[thread];
    for (int r = 0; r < 16; r++) rotate_row(en, (int64_t)band * 16 + r, w->rows + (size_t)r * (size_t)en->n);
    if (en->encoding == UPG_TRELLIS) {
        trellis_band(en, band, w, en->search[thread * 5 + en->s - UPG_TRELLIS_MIN_S]);
        return;
    }
    for (int r = 0; r < 16; r++) {
        const float *x = w->rows + (size_t)r * (size_t)en->n;
        double scale = code_int8_row(x, en->n, w->decoded);
        store_int8(en, band, r, w->decoded);
        finish_row(en, band, r, x, w->decoded, scale, false);
    }
}

int upg_encode_matrix(upg_encoder *en, const upg_tensor *w, upg_encoding encoding, int s, uint8_t *data, float *scale,
                      double *error, upg_error *e) {
    en->w = w;
    en->encoding = encoding;
    en->s = s;
    en->n = (int)upg_pad16(w->cols);
    en->b = upg_block(en->n);
    en->data = data;
    en->scale = scale;
    atomic_store(&en->bad_row, -1);
    int rc = reserve(en, e), bands = (int)(upg_pad16(w->rows) / 16);
    if (!rc) {
        upg_pool_run(en->pool, band_task, en, bands);
        double sum = 0, energy = 0;
        for (int i = 0; i < bands; i++) {
            sum += en->errors[i];
            energy += en->energies[i];
        }
        *error = energy > 0 ? sum / energy : 0;
        if (atomic_load(&en->bad_row) >= 0)
            rc = upg_fail(e, "tensor %s: row %lld has a value that is not finite", w->name,
                          (long long)atomic_load(&en->bad_row));
    }
    free_work(en);
    return rc;
}
