// See calibrate.h.
#include "compress/calibrate.h"
#include "backend/fp32/fp32.h"
#include "program/ops.h"
#include <cblas.h>
#include <stdlib.h>

enum { MOMENT_BLOCK = 256 }; // moments are summed in squares of this size, a task each

typedef struct job {
    upg_pool *pool;
    upg_math *math;
    upg_moments *m;
    int op, cols, n, b, window;
    float *inputs[2]; // [window][n] rotated: of the stream, of the other one
    float *rotated;   // where the stream that runs puts them
    const float *x;
    int stride;
    uint32_t *sign; // [n]
    double share;   // of a token
} job;

void upg_moments_free(upg_moments *m) {
    free(m->h);
    free(m->c);
    *m = (upg_moments){0};
}

static void rotate_task(void *ctx, int row, int thread) {
    (void)thread;
    job *j = ctx;
    const float *x = j->x + (size_t)row * (size_t)j->stride;
    float *y = j->rotated + (size_t)row * (size_t)j->n, norm = 1.0f / sqrtf((float)j->b);
    for (int i = 0; i < j->n; i++) y[i] = i < j->cols ? upg_float(upg_bits(x[i]) ^ j->sign[i]) : 0.0f;
    hadamard(y, j->n, j->b);
    for (int i = 0; i < j->n; i++) y[i] *= norm;
}

static void take_input(void *ctx, int op, const float *x, int n_rows, int stride) {
    job *j = ctx;
    if (op != j->op) return;
    j->x = x;
    j->stride = stride;
    upg_pool_run(j->pool, rotate_task, j, n_rows);
}

// A square of h (tasks of the first half; the lower triangle is enough) or of c.
static void moment_task(void *ctx, int task, int thread) {
    (void)thread;
    job *j = ctx;
    int side = (j->n + MOMENT_BLOCK - 1) / MOMENT_BLOCK, n = j->n;
    bool cross = task >= side * side;
    int row = task / side % side * MOMENT_BLOCK, col = task % side * MOMENT_BLOCK;
    int rows = n - row < MOMENT_BLOCK ? n - row : MOMENT_BLOCK, cols = n - col < MOMENT_BLOCK ? n - col : MOMENT_BLOCK;
    if (!cross && col > row) return;
    float *out = (cross ? j->m->c : j->m->h) + (size_t)row * (size_t)n + col;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, rows, cols, j->window, 1.0f, j->inputs[cross] + row, n,
                j->inputs[0] + col, n, 1.0f, out, n);
}

// A row of both moments, from sums to means.
static void mean_task(void *ctx, int row, int thread) {
    (void)thread;
    const job *j = ctx;
    const size_t n = (size_t)j->n;
    float *const all[] = {j->m->h + (size_t)row * n, j->m->c ? j->m->c + (size_t)row * n : NULL};
    for (int k = 0; k < 2 && all[k]; k++)
        for (size_t i = 0; i < n; i++) all[k][i] = (float)(all[k][i] * j->share);
}

static int add_window(job *j, upg_error *e) {
    const int side = (j->n + MOMENT_BLOCK - 1) / MOMENT_BLOCK;
    if (j->math) return upg_math_moments_add(j->math, j->inputs[0], j->inputs[1], j->window, e);
    upg_pool_run(j->pool, moment_task, j, (j->m->c ? 2 : 1) * side * side);
    return 0;
}

static int sum_moments(job *j, upg_runner *r, const upg_moments_options *o, int n_windows, upg_error *e) {
    upg_fp32_tap tap = {take_input, j};
    if (j->math && upg_math_moments_begin(j->math, j->n, e)) return -1;
    for (int w = 0; w < n_windows; w++) {
        for (int k = 0; k < (j->m->c ? 2 : 1); k++) {
            j->rotated = j->inputs[k];
            if (upg_runner_run(r, k ? o->other : o->stream, -1, w, j->op + 1, k ? NULL : o->replaced, &tap, e))
                return -1;
        }
        if (add_window(j, e)) return -1;
    }
    if (j->math && upg_math_moments_end(j->math, j->m->h, j->m->c, e)) return -1;
    j->share = 1.0 / ((double)n_windows * j->window);
    upg_pool_run(j->pool, mean_task, j, j->n);
    return 0;
}

static int reserve(job *j, const upg_moments_options *o, upg_error *e) {
    size_t n = (size_t)j->n, window = (size_t)j->window;
    if (!(j->sign = upg_alloc(n, sizeof *j->sign, e)) || !(j->m->h = upg_alloc(n * n, sizeof *j->m->h, e)) ||
        !(j->inputs[0] = upg_alloc(window * n, sizeof(float), e)))
        return -1;
    for (size_t i = 0; i < n; i++) j->sign[i] = upg_sign(o->rotation_seed, i);
    if (o->other < 0) return 0;
    if (!(j->m->c = upg_alloc(n * n, sizeof *j->m->c, e))) return -1;
    return (j->inputs[1] = upg_alloc(window * n, sizeof(float), e)) ? 0 : -1;
}

int upg_moments_measure(upg_runner *r, int op, const upg_moments_options *o, upg_pool *pool, upg_moments *m,
                        upg_error *e) {
    const upg_program *p = upg_runner_program(r);
    const upg_text *text = upg_runner_text(r);
    job j = {.pool = pool, .math = o->math, .m = m, .op = op, .cols = p->widths[p->ops[op].in], .window = text->window};
    j.n = (j.cols + 15) & ~15;
    j.b = upg_block(j.n);
    *m = (upg_moments){.n = j.n};
    int rc = reserve(&j, o, e) || sum_moments(&j, r, o, text->n_windows, e) ? -1 : 0;
    if (rc) upg_moments_free(m);
    free(j.sign);
    for (int i = 0; i < 2; i++) free(j.inputs[i]);
    return rc;
}
