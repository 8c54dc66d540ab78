// What the arithmetic tests share: the kernel tables of this machine, a way to run code in the floating-point mode the
// library computes in, reports of differing bits, and one call for a linear layer.
//
// Checks run inside a task of a thread pool, where denormals are flushed; leaving it by cmocka's longjmp would leave
// the mode changed. So a check only counts and prints what differs, and the test asserts afterwards that nothing did.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "backend/cpu/cpu.h"
#include "base/thread.h"

// Under an emulator, which is too slow for everything.
#ifndef EMULATED
#define EMULATED 0
#endif

// The p-th of this processor's instruction sets, or NULL. The first is scalar: the others are compared with it.
static inline const upg_cpu_kernels *path(int p) {
    static const upg_cpu_kernels *all[32]; // asking the processor takes long in a virtual machine
    static int count = -1;
    if (count < 0) {
        int n = count = 0;
        while (upg_cpu_all[n]) n++;
        while (n--)
            if (upg_cpu_all[n]->supported()) all[count++] = upg_cpu_all[n];
    }
    return p < count ? all[p] : NULL;
}

static struct report {
    char where[160]; // what is being checked
    int differences;
} report;

static inline void at(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(report.where, sizeof report.where, fmt, ap);
    va_end(ap);
}

static inline void differ(const char *fmt, ...) {
    if (++report.differences > 8) return; // a broken kernel differs everywhere
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "%s: ", report.where);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
}

// n elements of `size` bytes (at most 4) must have the same bits.
static inline void same(const char *what, const void *got, const void *want, size_t n, size_t size) {
    if (!n || !memcmp(got, want, n * size)) return;
    const uint8_t *g = got, *w = want;
    size_t i = 0;
    while (!memcmp(g + i * size, w + i * size, size)) i++;
    uint32_t a = 0, b = 0;
    memcpy(&a, g + i * size, size);
    memcpy(&b, w + i * size, size);
    differ("%s[%zu] of %zu is %08x, not %08x", what, i, n, a, b);
}

// The same, but any NaN equals any NaN: which payload survives a sum of two NaNs is not part of the arithmetic.
static inline void same_values(const char *what, const float *got, const float *want, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!(got[i] != got[i] && want[i] != want[i])) same(what, got + i, want + i, 1, sizeof *got);
}

// Runs fn(ctx, 0, 0) with denormals flushed, then asserts that it reported no difference.
static inline void check_flushed(upg_task_fn *fn, void *ctx) {
    upg_error e = {{0}};
    upg_pool *pool = upg_pool_new(1, &e);
    if (!pool) fail_msg("%s", e.message);
    report.differences = 0;
    upg_pool_run(pool, fn, ctx, 1);
    upg_pool_free(pool);
    assert_int_equal(report.differences, 0);
}

// Zeroed memory of a test, with 64 readable bytes after it as the kernels require of weights.
static inline void *zeroed(size_t count, size_t size) {
    upg_error e = {{0}};
    void *p = upg_aligned_alloc(count * size, &e);
    if (p) return p;
    fprintf(stderr, "%s\n", e.message);
    exit(1);
}

// Quantised rows, the input of a linear layer.
typedef struct batch {
    int n_rows, cols, n, b; // n: cols padded; b: the group's size
    int8_t *q;              // [n_rows][n]
    uint8_t *d;             // [n_rows][n/b]
    int32_t *q_sum;         // [n_rows][n/b]
    float *m;               // [n_rows]
} batch;

enum { MAX_BATCH = 83 };

static inline batch batch_new(int n_rows, int cols) {
    batch x = {.n_rows = n_rows, .cols = cols, .n = (int)upg_pad16(cols), .b = upg_block((int)upg_pad16(cols))};
    x.q = zeroed((size_t)n_rows, (size_t)x.n);
    x.d = zeroed((size_t)n_rows, (size_t)(x.n / x.b));
    x.q_sum = zeroed((size_t)n_rows * (size_t)(x.n / x.b), sizeof *x.q_sum);
    x.m = zeroed((size_t)n_rows, sizeof *x.m);
    return x;
}
static inline void batch_free(batch *x) {
    upg_aligned_free(x->q);
    upg_aligned_free(x->d);
    upg_aligned_free(x->q_sum);
    upg_aligned_free(x->m);
}

// The rotation's signs for `cols` inputs.
static inline uint32_t *signs_of(uint64_t seed, int cols) {
    uint32_t *sign = zeroed((size_t)cols, sizeof *sign);
    for (int i = 0; i < cols; i++) sign[i] = upg_sign(seed, (uint64_t)i);
    return sign;
}

// Quantises one row x: [cols] into row `row` of the batch. Returns the flag.
static inline uint32_t quantise_row(const upg_cpu_kernels *k, batch *to, int row, const float *x,
                                    const uint32_t *sign) {
    float *work = zeroed((size_t)to->n, sizeof *work);
    size_t groups = (size_t)(to->n / to->b), r = (size_t)row;
    uint32_t flag = k->quantise(x, to->cols, to->n, to->b, sign, work, to->q + r * (size_t)to->n, to->d + r * groups,
                                to->q_sum + r * groups, to->m + r);
    upg_aligned_free(work);
    return flag;
}

// Rows first..first+n_rows-1 of the batch times superband sb of w, into y: [n_rows], y_stride apart.
static inline void linear_rows(const upg_cpu_kernels *k, const upg_tensor *w, const batch *x, int first, int n_rows,
                               int64_t sb, float *y, size_t y_stride) {
    static upg_arena memory;
    static upg_scratch scratch;
    if (!memory.bytes && upg_scratch_take(&scratch, &memory, MAX_BATCH, 16, NULL)) exit(1);
    size_t groups = (size_t)(x->n / x->b), all = (size_t)n_rows;
    upg_quantised q = {.q = zeroed(all * (size_t)x->n + UPG_Q_SLACK, 1),
                       .d = zeroed(all, groups),
                       .q_sum = zeroed(all * groups, sizeof *q.q_sum)};
    for (int i = 0; i < n_rows; i++) {
        size_t r = (size_t)(first + i);
        upg_quantised row = {x->q + r * (size_t)x->n, x->d + r * groups, x->q_sum + r * groups};
        upg_quantised_place(&row, x->n, x->b, i, n_rows, &q);
    }
    upg_linear l = {.w = w,
                    .n = x->n,
                    .b = x->b,
                    .end = x->n / x->b,
                    .n_rows = n_rows,
                    .q = q.q,
                    .d = q.d,
                    .q_sum = q.q_sum,
                    .m = x->m + first,
                    .y = y,
                    .y_stride = y_stride};
    k->linear(&l, sb, &scratch);
    upg_aligned_free(q.q);
    upg_aligned_free(q.d);
    upg_aligned_free(q.q_sum);
}

static inline int64_t superbands(const upg_tensor *w) {
    return (w->rows + 255) / 256;
}

// A key and a value on their way into the cache.
static inline void store(const upg_cpu_kernels *k, const upg_kv_head *kv, int dim, int slot, float *key, float *value) {
    int8_t q[UPG_MAX_HEAD_DIM];
    float scale;
    k->quantise_head(key, dim, upg_block(dim), q, &scale);
    upg_kv_store_key(kv, dim, slot, q, scale);
    k->quantise_head(value, dim, upg_block(dim), q, &scale);
    upg_kv_store_value(kv, dim, slot, q, scale);
}

// Attention's constant c for a head_dim.
static inline float attention_constant(int dim) {
    return (float)(1.0 / (sqrt((double)dim) * upg_block(dim)));
}
