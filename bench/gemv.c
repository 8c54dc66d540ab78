// Speed of the linear layer alone: one row and batches, over a matrix larger than any cache, for every encoding and
// instruction set, beside the machine's read bandwidth. usage: gemv [ROWS COLS [THREADS]]
#include "backend/cpu/cpu.h"
#include "base/thread.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPEATS = 15, MAX_BATCH = 512 };

typedef struct bench {
    upg_tensor w;
    upg_linear l;
    const upg_cpu_kernels *kernels;
    upg_scratch scratch[64];
    uint64_t sums[64];
    const uint8_t *block;
    size_t chunk;
} bench;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median_seconds(upg_pool *pool, upg_task_fn *fn, void *ctx, int tasks) {
    double t[REPEATS];
    fn(ctx, 0, 0);
    for (int i = 0; i < REPEATS; i++) {
        double start = upg_now();
        upg_pool_run(pool, fn, ctx, tasks);
        t[i] = upg_now() - start;
    }
    qsort(t, REPEATS, sizeof *t, by_value);
    return t[REPEATS / 2];
}

static void linear_task(void *ctx, int sb, int thread) {
    bench *b = ctx;
    b->kernels->linear(&b->l, sb, &b->scratch[thread]);
}

static void read_task(void *ctx, int i, int thread) {
    bench *b = ctx;
    const uint64_t *p = (const uint64_t *)(const void *)(b->block + (size_t)i * b->chunk);
    uint64_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (size_t k = 0; k + 4 <= b->chunk / 8; k += 4) {
        s0 ^= p[k];
        s1 ^= p[k + 1];
        s2 ^= p[k + 2];
        s3 ^= p[k + 3];
    }
    b->sums[thread] ^= s0 ^ s1 ^ s2 ^ s3;
}

static void fill(uint8_t *p, size_t n, bool int8) {
    uint64_t s = 1;
    for (size_t i = 0; i < n; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        p[i] = int8 ? (uint8_t)((s >> 33) % 255) : (uint8_t)(s >> 40);
    }
}

static void one_encoding(bench *b, upg_pool *pool, upg_encoding encoding, int s, double bandwidth) {
    b->w.encoding = encoding;
    b->w.s = s;
    b->w.bytes = upg_encoded_bytes(encoding, s, b->w.rows, b->w.cols);
    uint8_t *data = upg_aligned_alloc(b->w.bytes, NULL);
    if (!data) return;
    fill(data, b->w.bytes, encoding == UPG_INT8);
    b->w.data = data;
    double weights = (double)b->w.rows * (double)b->w.cols;
    for (size_t i = 0; upg_cpu_all[i] != &upg_cpu_scalar; i++) {
        b->kernels = upg_cpu_all[i];
        if (!b->kernels->supported()) continue;
        for (int rows = 1; rows <= MAX_BATCH; rows *= 8) {
            b->l.n_rows = rows;
            double t = median_seconds(pool, linear_task, b, (int)((b->w.rows + 255) / 256));
            printf("%-7s K=%-3g %-7s batch %2d: %7.2f Gweights/s %7.2f GB/s of codes (%3.0f%% of read bandwidth) %8.1f "
                   "GMAC/s\n",
                   encoding == UPG_INT8 ? "int8" : "trellis", encoding == UPG_INT8 ? 8.0 : s / 2.0, b->kernels->isa,
                   rows, weights / t * 1e-9, (double)b->w.bytes / t * 1e-9, 100 * (double)b->w.bytes / t / bandwidth,
                   weights * rows / t * 1e-9);
        }
    }
    upg_aligned_free(data);
}

static double read_bandwidth(bench *b, upg_pool *pool) {
    size_t size = (size_t)512 << 20;
    uint8_t *p = upg_aligned_alloc(size, NULL);
    if (!p) return 1;
    fill(p, size, false);
    b->block = p;
    b->chunk = (size_t)1 << 20;
    double t = median_seconds(pool, read_task, b, (int)(size / b->chunk));
    upg_aligned_free(p);
    return (double)size / t;
}

int main(int argc, char **argv) {
    bench b = {
        .w = {.name = "bench", .rows = argc > 2 ? atoi(argv[1]) : 35840, .cols = argc > 2 ? atoi(argv[2]) : 5120}};
    upg_pool *pool = upg_pool_new(argc > 3 ? atoi(argv[3]) : 0, NULL);
    if (!pool || upg_pool_threads(pool) > 64 || b.w.rows < 1 || b.w.cols < 1) return 2;
    int n = (int)upg_pad16(b.w.cols);
    float *scale = upg_alloc((size_t)b.w.rows, sizeof *scale, NULL), *m = upg_alloc(MAX_BATCH, sizeof *m, NULL);
    int8_t *q = upg_aligned_alloc((size_t)n * MAX_BATCH + UPG_Q_SLACK, NULL);
    uint8_t *d = upg_alloc((size_t)n / 16 * MAX_BATCH, 1, NULL);
    int32_t *q_sum = upg_alloc((size_t)n / 16 * MAX_BATCH, sizeof *q_sum, NULL);
    b.l = (upg_linear){.w = &b.w,
                       .n = n,
                       .b = upg_block(n),
                       .end = n / upg_block(n),
                       .q = q,
                       .d = d,
                       .q_sum = q_sum,
                       .m = m,
                       .y_stride = (size_t)b.w.rows};
    b.l.y = upg_aligned_alloc((size_t)b.w.rows * MAX_BATCH * sizeof(float), NULL);
    b.w.scale = scale;
    for (int i = 0; i < n * MAX_BATCH; i++) q[i] = (int8_t)(i * 37 % 255 - 127);
    upg_arena memory = {0};
    for (int i = 0; i < upg_pool_threads(pool); i++)
        if (upg_scratch_take(&b.scratch[i], &memory, MAX_BATCH, n, NULL)) return 1;
    double bandwidth = read_bandwidth(&b, pool);
    printf("%lld x %lld, %d threads, read bandwidth %.1f GB/s, medians of %d\n", (long long)b.w.rows,
           (long long)b.w.cols, upg_pool_threads(pool), bandwidth * 1e-9, REPEATS);
    for (int s = 4; s <= 8; s++) one_encoding(&b, pool, UPG_TRELLIS, s, bandwidth);
    one_encoding(&b, pool, UPG_INT8, 0, bandwidth);
    upg_pool_free(pool);
    return 0;
}
