// The CPU backend's kernel table: one instance an instruction set, all with the same results. docs/arithmetic.md.
#pragma once
#include "codec/sparse.h"
#include "codec/trellis.h"
#include "format/weights.h"
#include "program/numbers.h"

enum { UPG_Q_SLACK = 16 * 256 };
// A batch of quantised rows times one coded matrix: section 4, steps 3 and 4. Inputs lie group by group, so that a
// group's of all rows are side by side.
typedef struct upg_linear {
    const upg_tensor *w;
    int n, b, n_rows;     // padded inputs, group size, rows of the batch
    const int8_t *q;      // [n/b][n_rows][b], and UPG_Q_SLACK readable bytes
    const uint8_t *d;     // [n/b][n_rows]
    const int32_t *q_sum; // [n/b][n_rows]
    const float *m;       // [n_rows]
    int first, end;       // the groups to multiply
    int32_t *sums;        // NULL, or [n_rows][16 rows][16 bands] that get their sums, and y nothing
    float *y;             // [n_rows] rows, y_stride apart; weight rows 0.. are written
    size_t y_stride;
} upg_linear;

// A quantised row, as UPG_OP_QUANTISE makes it, to its place among n_rows. What upg_linear reads.
typedef struct upg_quantised {
    int8_t *q;
    uint8_t *d;
    int32_t *q_sum;
} upg_quantised;
static inline void upg_quantised_place(const upg_quantised *from, int n, int b, int row, int n_rows,
                                       const upg_quantised *to) {
    for (int g = 0; g < n / b; g++) {
        const size_t at = (size_t)g * (size_t)n_rows + (size_t)row;
        memcpy(to->q + at * (size_t)b, from->q + g * b, (size_t)b);
        to->d[at] = from->d[g];
        to->q_sum[at] = from->q_sum[g];
    }
}

// Scratch of one thread: a decoded panel (256 rows x up to 256 columns) and the sums of every batch row.
enum { UPG_PANEL_BYTES = 65536 };
typedef struct upg_scratch {
    uint8_t *panel;    // [UPG_PANEL_BYTES], 64-byte aligned, 64 readable bytes after it
    uint8_t *values;   // [UPG_SPARSE_VALUES + UPG_SPARSE_OVERRUN] of a 4-bit sparse block as bytes, 64-byte aligned
    int32_t *total;    // [max_rows padded to 16][16 rows][16 bands] in a kernel's own order, 64-byte aligned
    float *work;       // [max_inputs]
    upg_quantised row; // of max_inputs
} upg_scratch;
int upg_scratch_take(upg_scratch *s, upg_arena *from, int max_rows, int max_inputs, upg_error *e);

typedef struct upg_cpu_kernels {
    const char *isa;
    bool (*supported)(void);
    uint32_t (*rmsnorm)(const float *x, const float *weight, int n, float eps, float *y);
    // sign NULL: the input is not rotated.
    uint32_t (*quantise)(const float *x, int cols, int n, int b, const uint32_t *sign, float *work, int8_t *q,
                         uint8_t *d, int32_t *q_sum, float *m);
    uint32_t (*swiglu)(const float *gate, const float *up, int n, float *y);
    void (*add)(float *x, const float *delta, int n);
    void (*rope)(float *v, const float *cosine, const float *sine, int half);
    uint32_t (*quantise_head)(float *v, int dim, int b, int8_t *q, float *scale);
    void (*attend)(const upg_attend *a);
    float (*exp)(float x);
    // All rows of the batch times superband sb of the matrix.
    void (*linear)(const upg_linear *l, int64_t sb, upg_scratch *scratch);
} upg_cpu_kernels;

extern const upg_cpu_kernels upg_cpu_scalar;
// Every instruction set of this build, whether this processor has it or not; best first, scalar last, then NULL.
extern const upg_cpu_kernels *const upg_cpu_all[];
// isa NULL: the environment's UPG_ISA, else the best this machine has.
const upg_cpu_kernels *upg_cpu_kernels_for(const char *isa, upg_error *e);

// Section 5: row `token` of a coded matrix. v: [n] i32 work.
void upg_embed(const upg_tensor *w, int32_t token, const uint32_t *sign, int32_t *v, float *x);
// The weights of row r, columns 16*step.. of a coded matrix, each -127..127.
void upg_coded_row(const upg_tensor *w, int64_t r, int64_t step, int8_t out[16]);

// A block of a sparse matrix. Masks may claim more values than there are: codec/sparse.h says how far one may walk.
typedef struct upg_sparse_block {
    const uint8_t *values, *masks;
    size_t n_values;
} upg_sparse_block;
static inline upg_sparse_block upg_sparse_block_at(const upg_linear *l, int64_t sb, int g) {
    size_t n_values = upg_sparse_values(upg_superband_bands(l->w->rows, sb), l->b);
    const uint8_t *values = l->w->data + upg_sparse_offset(l->w->rows, l->w->cols, l->w->s, sb, g);
    return (upg_sparse_block){values, values + n_values * (size_t)l->w->s / 8, n_values};
}

// Step 4 for one superband. total: [16 rows][16 bands].
static inline void upg_linear_write(const upg_linear *l, int64_t sb, int row, const int32_t *total) {
    int bands = upg_superband_bands(l->w->rows, sb);
    float m = l->m[row] * 0x1.020408p-7f;
    float *y = l->y + (size_t)row * l->y_stride;
    for (int band = 0; band < bands; band++)
        for (int r = 0; r < 16; r++) {
            int64_t i = sb * 256 + band * 16 + r;
            if (i < l->w->rows) y[i] = (float)total[r * 16 + band] * (l->w->scale[i] * m);
        }
}
// What a kernel does with its sums of one superband: rows of the bands lie `apart`, rows of the batch `stride` apart.
static inline void upg_linear_keep(const upg_linear *l, const int32_t *totals, size_t apart, size_t stride) {
    for (int row = 0; row < l->n_rows; row++)
        for (int r = 0; r < 16; r++)
            memcpy(l->sums + row * 256 + r * 16, totals + (size_t)row * stride + (size_t)r * apart, 64);
}
static inline void upg_linear_finish(const upg_linear *l, int64_t sb, const int32_t *totals) {
    if (l->sums)
        upg_linear_keep(l, totals, 16, 256);
    else
        for (int row = 0; row < l->n_rows; row++) upg_linear_write(l, sb, row, totals + row * 256);
}
