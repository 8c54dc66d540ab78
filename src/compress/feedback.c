// Factors of the Hessian. See feedback.h. Each call of a library runs on one thread; tasks are fixed by the size alone.
#include "compress/feedback.h"
#include <cblas.h>
#include <f77blas.h>
#include <math.h>
#include <stdlib.h>

enum { TILE = 16, RHS_ROWS = 64 };

typedef struct job {
    int n;
    float *l, *z;
    float cross;
} job;

void upg_feedback_free(upg_feedback *f) {
    free(f->l);
    free(f->z);
    *f = (upg_feedback){0};
}

// A band of z: (1 - cross) h + cross c. Squares, since half of h is read by columns.
static void mix_task(void *ctx, int band, int thread) {
    (void)thread;
    const job *j = ctx;
    const size_t n = (size_t)j->n, first = (size_t)band * RHS_ROWS, end = first + RHS_ROWS < n ? first + RHS_ROWS : n;
    for (size_t at = 0; at < n; at += RHS_ROWS)
        for (size_t col = at; col < at + RHS_ROWS && col < n; col++)
            for (size_t row = first; row < end; row++) {
                const float h = col <= row ? j->l[row * n + col] : j->l[col * n + row];
                j->z[row * n + col] = (1 - j->cross) * h + j->cross * j->z[row * n + col];
            }
}

// z = ((1 - cross) h + cross c + damping) (h + damping)^-1 starts as its numerator; l as h + damping, lower.
static int prepare(upg_feedback *f, const upg_feedback_options *o, upg_pool *pool, upg_error *e) {
    size_t n = (size_t)f->n;
    double diagonal = 0;
    for (size_t i = 0; i < n; i++) diagonal += f->l[i * n + i];
    if (!isfinite(diagonal)) return upg_fail(e, "calibration: the inputs of a linear layer are not finite");
    float damping = (float)(diagonal / (double)n * o->damping);
    if (!(damping > 0x1p-100f)) damping = 1; // inputs that are all zero: nothing matters
    job j = {f->n, f->l, f->z, o->cross};
    if (f->z) upg_pool_run(pool, mix_task, &j, (f->n + RHS_ROWS - 1) / RHS_ROWS);
    for (size_t i = 0; i < n; i++) {
        f->l[i * n + i] += damping;
        if (f->z) f->z[i * n + i] += damping;
    }
    return 0;
}

static void solve_task(void *ctx, int task, int thread) {
    (void)thread;
    job *j = ctx;
    blasint n = j->n, first = task * RHS_ROWS, rows = n - first < RHS_ROWS ? n - first : RHS_ROWS, info = 0;
    // A row-major lower triangle is a column-major upper one, and rows are columns.
    BLASFUNC(spotrs)("U", &n, &rows, j->l, &n, j->z + (size_t)first * (size_t)n, &n, &info);
}

// Columns of the Cholesky factor divided by their diagonal 16-block.
static void normalise_task(void *ctx, int block, int thread) {
    (void)thread;
    job *j = ctx;
    size_t n = (size_t)j->n, c = (size_t)block * TILE;
    float *diagonal = j->l + c * n + c;
    if (c + TILE < n)
        cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, (int)(n - c - TILE), TILE, 1.0f,
                    diagonal, j->n, diagonal + TILE * n, j->n);
}

static int factor(upg_feedback *f, upg_pool *pool) {
    blasint n = f->n, info = 0;
    BLASFUNC(spotrf)("U", &n, f->l, &n, &info);
    if (info) return 1;
    job j = {.n = f->n, .l = f->l, .z = f->z};
    if (f->z) upg_pool_run(pool, solve_task, &j, (f->n + RHS_ROWS - 1) / RHS_ROWS);
    upg_pool_run(pool, normalise_task, &j, f->n / TILE);
    return 0;
}

int upg_feedback_new(upg_feedback *f, upg_moments *m, const upg_feedback_options *o, upg_pool *pool, upg_error *e) {
    *f = (upg_feedback){m->n, m->h, m->c};
    *m = (upg_moments){0};
    if (o->cross == 0) {
        free(f->z);
        f->z = NULL;
    }
    if (prepare(f, o, pool, e)) {
        upg_feedback_free(f);
        return -1;
    }
    const int rc = o->math ? upg_math_factor(o->math, f->n, f->l, f->z, e) : factor(f, pool);
    if (rc == 1) upg_fail(e, "the Hessian of a linear layer's %d inputs is not positive definite", f->n);
    if (rc) upg_feedback_free(f);
    return rc ? -1 : 0;
}
