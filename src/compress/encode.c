// Coding one matrix, a group of bands a task. See encode.h; what the code stands for is section 3 of
// docs/arithmetic.md.
//
// With feedback the columns are coded from the last step of 16 to the first, and each step's targets make up for what
// the coded ones got wrong.
#include "compress/encode.h"
#include "compress/sparse.h"
#include "codec/sparse.h"
#include "program/ops.h"
#include <cblas.h>
#include <stdatomic.h>

enum {
    GROUP = 8, // bands of a task
    GROUP_ROWS = 16 * GROUP,
    PANEL = 128, // columns whose feedback from behind is summed at once
};

struct upg_encoder {
    upg_pool *pool;
    upg_math *math; // or NULL
    uint64_t seed;
    upg_search_mode mode;
    int n_threads;
    upg_search **search; // [threads][S - 4], made when needed
    // The matrix at hand.
    const upg_tensor *w;
    const upg_feedback *feedback;
    upg_encoding encoding;
    int s, n, b;   // n padded columns in blocks of b
    int task_rows; // of a group of bands; of a superband if sparse
    bool unrotated;
    uint32_t *sign;
    uint8_t *data;
    float *scale, *values;
    double *errors, *energies; // [groups]
    struct group_work {
        float *rows;            // [task_rows][n] rotated
        float *target;          // [task_rows][n] what is coded: rows times z
        float *sum;             // [task_rows][n] feedback so far
        float *error;           // [task_rows][n] target less what its code stands for
        uint32_t *codes;        // trellis: [GROUP][n/16][4*S]
        int8_t *decoded;        // [task_rows][n]
        uint8_t *values, *keep; // sparse: [task_rows][n]
    } * work;                   // [threads]
    // Rows that are coded on a device: the same arrays of many groups, from the row `first` on.
    struct group_work many;
    float *many_scales;
    int first;
    atomic_llong bad_row;
    atomic_bool no_memory;
};

upg_encoder *upg_encoder_new(upg_pool *pool, upg_math *math, uint64_t rotation_seed, upg_search_mode mode,
                             upg_error *e) {
    upg_encoder *en = upg_alloc(1, sizeof *en, e);
    if (!en) return NULL;
    en->pool = pool;
    en->math = math;
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

static void free_many(upg_encoder *en) {
    struct group_work *w = &en->many;
    if (w->target != w->rows) free(w->target);
    free(w->rows);
    free(w->codes);
    free(w->decoded);
    free(en->many_scales);
    *w = (struct group_work){0};
    en->many_scales = NULL;
}

static void free_work(upg_encoder *en) {
    free_many(en);
    for (int i = 0; en->work && i < en->n_threads; i++) {
        free(en->work[i].rows);
        free(en->work[i].target);
        free(en->work[i].sum);
        free(en->work[i].error);
        free(en->work[i].codes);
        free(en->work[i].decoded);
        free(en->work[i].values);
        free(en->work[i].keep);
        en->work[i] = (struct group_work){0};
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

static int n_groups(const upg_encoder *en) {
    return (int)((en->w->rows + en->task_rows - 1) / en->task_rows);
}

static bool on_device(const upg_encoder *en) {
    return en->math && en->encoding == UPG_TRELLIS;
}

static int reserve(upg_encoder *en, upg_error *e) {
    size_t n = (size_t)en->n, groups = (size_t)n_groups(en);
    if (!(en->sign = upg_alloc(n, sizeof *en->sign, e)) || !(en->errors = upg_alloc(groups, sizeof *en->errors, e)) ||
        !(en->energies = upg_alloc(groups, sizeof *en->energies, e)))
        return -1;
    for (size_t i = 0; i < n; i++) en->sign[i] = upg_sign(en->seed, i);
    for (int i = 0; i < en->n_threads; i++) {
        struct group_work *w = &en->work[i];
        size_t all = n * (size_t)en->task_rows;
        if (on_device(en)) { // whose rows are in `many`
            if (!(w->error = upg_alloc(all, sizeof(float), e))) return -1;
            continue;
        }
        if (!(w->rows = upg_alloc(all, sizeof(float), e)) || !(w->target = upg_alloc(all, sizeof(float), e)) ||
            !(w->sum = upg_alloc(all, sizeof(float), e)) || !(w->error = upg_alloc(all, sizeof(float), e)) ||
            !(w->codes = upg_alloc(n * 2 * GROUP, 4, e)) || !(w->decoded = upg_alloc(all, 1, e)))
            return -1;
        if (en->encoding == UPG_SPARSE && (!(w->values = upg_alloc(all, 1, e)) || !(w->keep = upg_alloc(all, 1, e))))
            return -1;
        upg_search **search = en->encoding == UPG_TRELLIS ? &en->search[i * 5 + en->s - UPG_TRELLIS_MIN_S] : NULL;
        if (search && !*search && !(*search = upg_search_new(en->s, NULL, e))) return -1;
    }
    return 0;
}

// W' = W diag(sign) H_b / sqrt(b) for one row, or W; padded rows and columns are zero.
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
    }
    if (en->unrotated) return;
    for (int i = 0; i < cols; i++) x[i] = upg_float(upg_bits(x[i]) ^ en->sign[i]);
    hadamard(x, en->n, en->b);
    float norm = 1.0f / sqrtf((float)en->b);
    for (int i = 0; i < en->n; i++) x[i] *= norm;
}

// What a stored scale is multiplied by to be the row's: it includes the other 1/sqrt(b) of the rotation.
static double basis_norm(const upg_encoder *en) {
    return en->unrotated ? 1 : sqrt((double)en->b);
}

// A scale the format allows: 0, or 2^-50..2^30.
static float stored_scale(const upg_encoder *en, double scale) {
    float s = (float)(scale / basis_norm(en));
    return s < 0x1p-50f ? 0.0f : s > 0x1p+30f ? 0x1p+30f : s;
}

static double squares(const float *x, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)x[i] * x[i];
    return sum;
}

// Scale of a row of the trellis: the codebook's deviation over the weights', best measured on a Gaussian
// (docs/quality.md). Feedback makes targets larger than the weights.
static double trellis_scale(const upg_encoder *en, const float *x) {
    static const double ratio[] = {1.04, 1.08, 1.16, 1.20, 1.28};
    const double widening = en->feedback ? 1.04 : 1;
    return sqrt(squares(x, en->n) / en->n) * ratio[en->s - UPG_TRELLIS_MIN_S] * widening / UPG_TRELLIS_STD;
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

// Finds the codes of the 16 columns of a step, given the sum of the feedback to them.
static void code_step(upg_encoder *en, struct group_work *w, upg_search *search, int rows, const float *scale,
                      int step) {
    const size_t n = (size_t)en->n, words = (size_t)upg_trellis_words(en->s), steps = n / 16, first = (size_t)step * 16;
    float tiles[GROUP][256] = {{0}};
    uint32_t codes[GROUP * 4 * UPG_TRELLIS_MAX_S];
    int8_t decoded[GROUP][256];
    for (int r = 0; r < rows; r++) {
        float inv = scale[r] > 0x1p-100f ? 1 / scale[r] : 0.0f;
        const float *t = w->target + (size_t)r * n + first, *f = w->sum + (size_t)r * n + first;
        for (int i = 0; i < 16; i++) tiles[r / 16][r % 16 * 16 + i] = (t[i] + f[i]) * inv;
    }
    upg_search_tiles(search, en->mode, tiles[0], rows / 16, codes, decoded[0]);
    for (int band = 0; band < rows / 16; band++)
        memcpy(w->codes + ((size_t)band * steps + (size_t)step) * words, codes + (size_t)band * words,
               words * sizeof *codes);
    for (int r = 0; r < rows; r++)
        for (size_t i = 0; i < 16; i++) {
            size_t at = (size_t)r * n + first + i;
            w->decoded[at] = decoded[r / 16][(size_t)(r % 16) * 16 + i];
            w->error[at] = w->target[at] - scale[r] * w->decoded[at];
        }
}

// Adds to the feedback of columns first..last-1 that of the errors of columns last..end-1.
static void add_feedback(const upg_encoder *en, struct group_work *w, int rows, int first, int last, int end) {
    const size_t n = (size_t)en->n;
    if (end > last)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, last - first, end - last, 1.0f, w->error + last,
                    en->n, en->feedback->l + (size_t)last * n + first, en->n, 1.0f, w->sum + first, en->n);
}

static void code_trellis(upg_encoder *en, struct group_work *w, upg_search *search, int rows, float *scale) {
    for (int r = 0; r < rows; r++) scale[r] = (float)trellis_scale(en, w->target + (size_t)r * (size_t)en->n);
    memset(w->sum, 0, (size_t)rows * (size_t)en->n * sizeof *w->sum);
    for (int end = en->n; end > 0;) {
        int first = (end - 1) / PANEL * PANEL;
        if (en->feedback) add_feedback(en, w, rows, first, end, en->n);
        for (int c = end - 16; c >= first; c -= 16) {
            if (en->feedback) add_feedback(en, w, rows, c, c + 16, end);
            code_step(en, w, search, rows, scale, c / 16);
        }
        end = first;
    }
}

// The least-squares scale of a coded row, unless there is feedback, which counted on the first one.
static void finish_row(upg_encoder *en, struct group_work *w, int64_t row, int r, const int8_t *q, double scale,
                       double *error, double *energy) {
    const float *x = w->rows + (size_t)r * (size_t)en->n;
    double xq = 0, qq = 0, xx = squares(x, en->n);
    for (int i = 0; i < en->n; i++) {
        xq += (double)x[i] * q[i];
        qq += (double)q[i] * q[i];
    }
    if (en->encoding != UPG_INT8 && !en->feedback) scale = qq > 0 && xq > 0 ? xq / qq : 0;
    en->scale[row] = stored_scale(en, scale);
    scale = (double)en->scale[row] * basis_norm(en);
    *energy += xx;
    *error += xx - 2 * scale * xq + scale * scale * qq;
    if (!en->values) return;
    float *y = w->error + (size_t)r * (size_t)en->n, *out = en->values + (size_t)row * (size_t)en->w->cols;
    for (int i = 0; i < en->n; i++) y[i] = q[i];
    if (!en->unrotated) hadamard(y, en->n, en->b);
    for (int i = 0; i < en->w->cols; i++)
        out[i] = upg_float(upg_bits(y[i] * en->scale[row]) ^ (en->unrotated ? 0 : en->sign[i]));
}

// Rows to code: the rotated weights, or what makes up for earlier errors instead.
static void set_targets(upg_encoder *en, struct group_work *w, int rows) {
    if (en->feedback && en->feedback->z)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, en->n, en->n, 1.0f, w->rows, en->n,
                    en->feedback->z, en->n, 0.0f, w->target, en->n);
    else
        memcpy(w->target, w->rows, (size_t)rows * (size_t)en->n * sizeof *w->rows);
}

// Chooses and stores the blocks of a superband. False if memory is short.
static bool code_sparse(upg_encoder *en, struct group_work *w, int64_t sb, int rows, float *scale) {
    upg_sparse_rows s = {.rows = rows,
                         .n = en->n,
                         .b = en->b,
                         .bits = en->s,
                         .feedback = en->feedback,
                         .target = w->target,
                         .sum = w->sum,
                         .error = w->error,
                         .codes = w->values,
                         .keep = w->keep,
                         .decoded = w->decoded,
                         .scale = scale};
    if (upg_sparse_choose(&s, NULL)) return false;
    for (int g = 0; g < en->n / en->b; g++)
        upg_sparse_pack(w->values + g * en->b, w->keep + g * en->b, (size_t)en->n, rows / 16, en->b, en->s,
                        en->data + upg_sparse_offset(en->w->rows, en->w->cols, en->s, sb, g));
    return true;
}

static int rows_of(const upg_encoder *en, int group) {
    int64_t left = upg_pad16(en->w->rows) - (int64_t)group * en->task_rows;
    return left < en->task_rows ? (int)left : en->task_rows;
}

// What is left to do with a group whose trellis codes are known.
static void finish_trellis(upg_encoder *en, struct group_work *w, int group, const float *scales) {
    const size_t n = (size_t)en->n;
    const int64_t first = (int64_t)group * en->task_rows;
    const int rows = rows_of(en, group);
    for (int band = 0; band < rows / 16; band++)
        store_trellis(en, first / 16 + band, w->codes + (size_t)band * (n / 16) * (size_t)upg_trellis_words(en->s));
    for (int r = 0; r < rows && first + r < en->w->rows; r++)
        finish_row(en, w, first + r, r, w->decoded + (size_t)r * n, (double)scales[r], &en->errors[group],
                   &en->energies[group]);
}

static void group_task(void *ctx, int group, int thread) {
    upg_encoder *en = ctx;
    struct group_work *w = &en->work[thread];
    const size_t n = (size_t)en->n;
    const int64_t first = (int64_t)group * en->task_rows;
    const int rows = rows_of(en, group);
    float scales[256];
    for (int r = 0; r < rows; r++) rotate_row(en, first + r, w->rows + (size_t)r * n);
    set_targets(en, w, rows);
    if (en->encoding == UPG_TRELLIS) {
        code_trellis(en, w, en->search[thread * 5 + en->s - UPG_TRELLIS_MIN_S], rows, scales);
        finish_trellis(en, w, group, scales);
        return;
    }
    if (en->encoding == UPG_SPARSE && !code_sparse(en, w, group, rows, scales)) {
        atomic_store(&en->no_memory, true);
        return;
    }
    for (int r = 0; r < rows; r++) {
        const float *x = w->target + (size_t)r * n;
        int8_t *q = w->decoded + (size_t)r * n;
        double scale;
        if (en->encoding == UPG_SPARSE) {
            scale = scales[r];
        } else {
            scale = code_int8_row(x, en->n, q);
            store_int8(en, first / 16 + r / 16, r % 16, q);
        }
        if (first + r < en->w->rows)
            finish_row(en, w, first + r, r, q, scale, &en->errors[group], &en->energies[group]);
    }
}

// ---- On a device ----

static struct group_work of_group(const upg_encoder *en, int group) {
    const size_t n = (size_t)en->n, row = (size_t)group * (size_t)en->task_rows - (size_t)en->first;
    return (struct group_work){.rows = en->many.rows + row * n,
                               .target = en->many.target + row * n,
                               .codes = en->many.codes + row / 16 * (n / 16) * (size_t)upg_trellis_words(en->s),
                               .decoded = en->many.decoded + row * n};
}

static void rotate_task(void *ctx, int index, int thread) {
    (void)thread;
    upg_encoder *en = ctx;
    const int group = en->first / en->task_rows + index;
    const struct group_work w = of_group(en, group);
    for (int r = 0; r < rows_of(en, group); r++)
        rotate_row(en, (int64_t)group * en->task_rows + r, w.rows + (size_t)r * (size_t)en->n);
}

static void scale_task(void *ctx, int index, int thread) {
    (void)thread;
    upg_encoder *en = ctx;
    const int group = en->first / en->task_rows + index;
    const struct group_work w = of_group(en, group);
    for (int r = 0; r < rows_of(en, group); r++)
        en->many_scales[index * en->task_rows + r] = (float)trellis_scale(en, w.target + (size_t)r * (size_t)en->n);
}

static void finish_task(void *ctx, int index, int thread) {
    upg_encoder *en = ctx;
    const int group = en->first / en->task_rows + index;
    struct group_work w = of_group(en, group);
    w.error = en->work[thread].error; // what finish_row works in
    finish_trellis(en, &w, group, en->many_scales + index * en->task_rows);
}

static int code_many(upg_encoder *en, int rows, upg_error *e) {
    const upg_feedback *f = en->feedback;
    const int groups = (rows + en->task_rows - 1) / en->task_rows;
    const upg_math_codes c = {.rows = rows,
                              .n = en->n,
                              .s = en->s,
                              .mode = en->mode,
                              .l = f ? f->l : NULL,
                              .z = f ? f->z : NULL,
                              .in = en->many.rows,
                              .target = en->many.target,
                              .scale = en->many_scales,
                              .codes = en->many.codes,
                              .decoded = en->many.decoded};
    upg_pool_run(en->pool, rotate_task, en, groups);
    if (upg_math_target(en->math, &c, e)) return -1;
    upg_pool_run(en->pool, scale_task, en, groups);
    if (upg_math_search(en->math, &c, e)) return -1;
    upg_pool_run(en->pool, finish_task, en, groups);
    return 0;
}

static int code_on_device(upg_encoder *en, upg_error *e) {
    const int all = (int)upg_pad16(en->w->rows), room = upg_math_rows(en->math, en->n) / en->task_rows * en->task_rows,
              most = all < room ? all : room;
    const size_t n = (size_t)en->n, values = (size_t)most * n;
    struct group_work *w = &en->many;
    const bool other = en->feedback && en->feedback->z;
    if (!(w->rows = upg_alloc(values, sizeof *w->rows, e)) ||
        !(w->target = other ? upg_alloc(values, sizeof *w->target, e) : w->rows) ||
        !(w->codes = upg_alloc(values / 64 * (size_t)en->s, sizeof *w->codes, e)) ||
        !(w->decoded = upg_alloc(values, 1, e)) ||
        !(en->many_scales = upg_alloc((size_t)most, sizeof *en->many_scales, e)))
        return -1;
    for (en->first = 0; en->first < all; en->first += most)
        if (code_many(en, all - en->first < most ? all - en->first : most, e)) return -1;
    return 0;
}

int upg_encode_matrix(upg_encoder *en, const upg_tensor *w, const upg_writer_tensor *as, const upg_feedback *feedback,
                      uint8_t *data, float *scale, float *values, double *error, upg_error *e) {
    en->w = w;
    en->feedback = feedback;
    en->encoding = as->encoding;
    en->s = as->s;
    en->unrotated = as->unrotated;
    en->task_rows = as->encoding == UPG_SPARSE ? 256 : GROUP_ROWS;
    en->n = (int)upg_pad16(w->cols);
    en->b = upg_block(en->n);
    en->data = data;
    en->scale = scale;
    en->values = values;
    atomic_store(&en->bad_row, -1);
    atomic_store(&en->no_memory, false);
    int rc = reserve(en, e), groups = n_groups(en);
    if (!rc && on_device(en))
        rc = code_on_device(en, e);
    else if (!rc)
        upg_pool_run(en->pool, group_task, en, groups);
    if (!rc) {
        double sum = 0, energy = 0;
        for (int i = 0; i < groups; i++) {
            sum += en->errors[i];
            energy += en->energies[i];
        }
        *error = energy > 0 ? sum / energy : 0;
        if (atomic_load(&en->no_memory)) rc = upg_fail(e, "tensor %s: out of memory", w->name);
        if (atomic_load(&en->bad_row) >= 0)
            rc = upg_fail(e, "tensor %s: row %lld has a value that is not finite", w->name,
                          (long long)atomic_load(&en->bad_row));
    }
    free_work(en);
    return rc;
}
