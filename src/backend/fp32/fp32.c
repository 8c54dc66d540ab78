// The fp32 backend: runs a program over original weights (F32, F16, BF16) in plain floating point, as transformers
// does. It is the reference that compressed models are measured against; its bits are not normative. Products are
// OpenBLAS's, each call on one thread, split over our pool by fixed blocks of weight rows so that the thread count does
// not change the result.
#include "backend/backend.h"
#include "program/numbers.h"
#include <cblas.h>
#include <math.h>
#include <stdlib.h>

enum { BLOCK_ROWS = 64 }; // weight rows converted and multiplied at once

typedef struct fp32_backend {
    upg_backend base;
    const upg_program *program;
    upg_backend_options options;
    upg_arena memory;     // all arrays below
    float **buffers;      // [n_buffers] of [max_rows][width]
    float **vectors;      // [n_weights] f32 copies of norms and biases, or NULL
    float *cosine, *sine; // [n_positions][rotary_dim/2]
    float *kv;            // [n_blocks][n_layers][n_kv_heads][k, v][256][head_dim]
    float **work;         // [threads] of [max(BLOCK_ROWS * max_inputs, n_positions)]
    uint8_t *flags;       // [max_rows]
    int *wanted;          // [max_logits]
    int n_wanted;
    const upg_batch *batch;
    const upg_op *op;
    int n_rows;
} fp32_backend;

static bool accepts(const upg_weights *source) {
    return !source->compressed;
}

static void *reserve(fp32_backend *b, size_t count, size_t size, upg_error *e) {
    return upg_arena_take(&b->memory, count, size, e);
}

static void destroy(upg_backend *base) {
    fp32_backend *b = (fp32_backend *)base;
    if (b) upg_arena_free(&b->memory);
    free(b);
}

static size_t kv_floats(const upg_config *c) {
    return (size_t)UPG_KV_BLOCK * 2 * (size_t)c->head_dim;
}

static int reserve_all(fp32_backend *b, upg_error *e) {
    const upg_program *p = b->program;
    const upg_config *c = p->config;
    int threads = upg_pool_threads(b->options.pool);
    b->vectors = reserve(b, (size_t)p->n_weights, sizeof *b->vectors, e);
    b->buffers = reserve(b, (size_t)p->n_buffers, sizeof *b->buffers, e);
    b->work = reserve(b, (size_t)threads, sizeof *b->work, e);
    if (!b->vectors || !b->buffers || !b->work) return -1;
    for (int i = 0; i < p->n_weights; i++) {
        if (p->weights[i]->rows != 1) continue;
        if (!(b->vectors[i] = reserve(b, (size_t)p->weights[i]->cols, sizeof(float), e))) return -1;
        upg_tensor_floats(p->weights[i], 0, p->weights[i]->cols, b->vectors[i]);
    }
    for (int i = 0; i < p->n_buffers; i++) {
        int rows = i == p->logits ? b->options.max_logits : b->options.max_rows;
        if (!(b->buffers[i] = reserve(b, (size_t)rows * (size_t)p->widths[i], sizeof(float), e))) return -1;
    }
    size_t work = (size_t)BLOCK_ROWS * (size_t)p->max_inputs, positions = (size_t)b->options.n_positions;
    for (int i = 0; i < threads; i++)
        if (!(b->work[i] = reserve(b, work > positions ? work : positions, sizeof(float), e))) return -1;
    size_t table = positions * (size_t)c->rotary_dim / 2;
    size_t kv = (size_t)b->options.n_blocks * (size_t)c->n_layers * (size_t)c->n_kv_heads;
    if (!(b->cosine = reserve(b, table, sizeof(float), e)) || !(b->sine = reserve(b, table, sizeof(float), e)) ||
        !(b->kv = reserve(b, kv, kv_floats(c) * sizeof(float), e)) ||
        !(b->flags = reserve(b, (size_t)b->options.max_rows, 1, e)) ||
        !(b->wanted = reserve(b, (size_t)b->options.max_logits, sizeof *b->wanted, e)))
        return -1;
    upg_rope_tables(c, b->options.n_positions, b->cosine, b->sine);
    return 0;
}

static upg_backend *create(const upg_program *program, const upg_backend_options *options, upg_error *e) {
    fp32_backend *b = upg_alloc(1, sizeof *b, e);
    if (!b) return NULL;
    b->base.api = &upg_backend_fp32;
    b->program = program;
    b->options = *options;
    openblas_set_num_threads(1);
    if (reserve_all(b, e)) {
        destroy(&b->base);
        return NULL;
    }
    return &b->base;
}

static float *row_of(const fp32_backend *b, int buffer, int row) {
    return b->buffers[buffer] + (size_t)row * (size_t)b->program->widths[buffer];
}

static float *kv_at(const fp32_backend *b, int row, int position, int head, int value) {
    const upg_config *c = b->program->config;
    size_t block = (size_t)b->batch->blocks[row][position / UPG_KV_BLOCK];
    size_t at = (block * (size_t)c->n_layers + (size_t)b->op->layer) * (size_t)c->n_kv_heads + (size_t)head;
    return b->kv + at * kv_floats(c) + (size_t)(value * UPG_KV_BLOCK + position % UPG_KV_BLOCK) * (size_t)c->head_dim;
}

static void embed_task(void *ctx, int row, int thread) {
    (void)thread;
    fp32_backend *b = ctx;
    upg_tensor_floats(b->program->weights[b->op->weight], (int64_t)b->batch->tokens[row] * b->op->n, b->op->n,
                      row_of(b, b->op->out, row));
}

static void rmsnorm(const fp32_backend *b, const float *x, float *y) {
    const float *w = b->vectors[b->op->weight];
    double sum = 0;
    for (int i = 0; i < b->op->n; i++) sum += (double)x[i] * x[i];
    float r = (float)(1.0 / sqrt(sum / b->op->n + (double)b->program->config->rms_eps));
    for (int i = 0; i < b->op->n; i++) y[i] = x[i] * r * w[i];
}

static void rmsnorm_task(void *ctx, int row, int thread) {
    (void)thread;
    fp32_backend *b = ctx;
    rmsnorm(b, row_of(b, b->op->in, row), row_of(b, b->op->out, row));
}

static void head_norm_task(void *ctx, int row, int thread) {
    (void)thread;
    fp32_backend *b = ctx;
    float *v = row_of(b, b->op->out, row) + b->op->out_col;
    for (int i = 0; i < b->op->count; i++, v += b->op->n) rmsnorm(b, v, v);
}

static void bias_task(void *ctx, int row, int thread) {
    (void)thread;
    fp32_backend *b = ctx;
    float *y = row_of(b, b->op->out, row) + b->op->out_col;
    for (int i = 0; i < b->op->n; i++) y[i] += b->vectors[b->op->weight][i];
}

static void linear_task(void *ctx, int block, int thread) {
    fp32_backend *b = ctx;
    const upg_tensor *w = b->program->weights[b->op->weight];
    int first = block * BLOCK_ROWS, rows = w->rows - first < BLOCK_ROWS ? (int)(w->rows - first) : BLOCK_ROWS,
        n = b->op->n;
    upg_tensor_floats(w, (int64_t)first * n, (int64_t)rows * n, b->work[thread]);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, b->n_rows, rows, n, 1.0f, row_of(b, b->op->in, 0),
                b->program->widths[b->op->in], b->work[thread], n, 0.0f,
                row_of(b, b->op->out, 0) + b->op->out_col + first, b->program->widths[b->op->out]);
}

static void kv_task(void *ctx, int row, int thread) {
    (void)thread;
    fp32_backend *b = ctx;
    const upg_config *c = b->program->config;
    int position = b->batch->positions[row], half = c->rotary_dim / 2;
    const float *co = b->cosine + (size_t)position * (size_t)half, *si = b->sine + (size_t)position * (size_t)half;
    float *v = row_of(b, b->op->in, row);
    for (int h = 0; h < c->n_heads + 2 * c->n_kv_heads; h++, v += c->head_dim) {
        int kv_head = h - c->n_heads;
        for (int j = 0; kv_head < c->n_kv_heads && j < half; j++) {
            float x = v[j], y = v[j + half];
            v[j] = x * co[j] - y * si[j];
            v[j + half] = y * co[j] + x * si[j];
        }
        if (kv_head < 0) continue;
        int value = kv_head >= c->n_kv_heads;
        memcpy(kv_at(b, row, position, kv_head - value * c->n_kv_heads, value), v, (size_t)c->head_dim * sizeof *v);
    }
}

static void attention_task(void *ctx, int task, int thread) {
    fp32_backend *b = ctx;
    const upg_config *c = b->program->config;
    int row = task / c->n_heads, h = task % c->n_heads, position = b->batch->positions[row], dim = c->head_dim;
    int kv_head = h / (c->n_heads / c->n_kv_heads);
    int window = b->op->window, first = window && position >= window ? position - window + 1 : 0;
    const float *q = row_of(b, b->op->in, row) + h * dim;
    float *p = b->work[thread], *o = row_of(b, b->op->out, row) + h * dim, scale = 1.0f / sqrtf((float)dim),
          m = -INFINITY, sum = 0;
    for (int j = first; j <= position; j++) {
        p[j] = scale * cblas_sdot(dim, q, 1, kv_at(b, row, j, kv_head, 0), 1);
        m = p[j] > m ? p[j] : m;
    }
    memset(o, 0, (size_t)dim * sizeof *o);
    for (int j = first; j <= position; j++) {
        float w = expf(p[j] - m);
        sum += w;
        const float *v = kv_at(b, row, j, kv_head, 1);
        for (int i = 0; i < dim; i++) o[i] += w * v[i];
    }
    for (int i = 0; i < dim; i++) o[i] /= sum;
}

static void swiglu_task(void *ctx, int row, int thread) {
    (void)thread;
    fp32_backend *b = ctx;
    int n = b->op->n / 2;
    const float *g = row_of(b, b->op->in, row), *u = g + n;
    float *y = row_of(b, b->op->out, row);
    for (int i = 0; i < n; i++) y[i] = g[i] / (1.0f + expf(-g[i])) * u[i];
}

static void add_task(void *ctx, int row, int thread) {
    (void)thread;
    fp32_backend *b = ctx;
    float *x = row_of(b, b->op->out, row);
    const float *y = row_of(b, b->op->in, row);
    for (int i = 0; i < b->op->n; i++) x[i] += y[i];
}

static void gather_task(void *ctx, int row, int thread) {
    (void)thread;
    fp32_backend *b = ctx;
    memcpy(row_of(b, b->op->out, row), row_of(b, b->op->in, b->wanted[row]), (size_t)b->op->n * sizeof(float));
}

static void run_op(fp32_backend *b) {
    upg_pool *pool = b->options.pool;
    switch (b->op->kind) {
    case UPG_OP_EMBED: upg_pool_run(pool, embed_task, b, b->n_rows); break;
    case UPG_OP_RMSNORM: upg_pool_run(pool, rmsnorm_task, b, b->n_rows); break;
    case UPG_OP_HEAD_NORM: upg_pool_run(pool, head_norm_task, b, b->n_rows); break;
    case UPG_OP_BIAS: upg_pool_run(pool, bias_task, b, b->n_rows); break;
    case UPG_OP_QUANTISE: break; // linear layers read the f32 values
    case UPG_OP_LINEAR:
        upg_pool_run(pool, linear_task, b,
                     (int)((b->program->weights[b->op->weight]->rows + BLOCK_ROWS - 1) / BLOCK_ROWS));
        break;
    case UPG_OP_KV: upg_pool_run(pool, kv_task, b, b->n_rows); break;
    case UPG_OP_ATTENTION: upg_pool_run(pool, attention_task, b, b->n_rows * b->program->config->n_heads); break;
    case UPG_OP_SWIGLU: upg_pool_run(pool, swiglu_task, b, b->n_rows); break;
    case UPG_OP_ADD: upg_pool_run(pool, add_task, b, b->n_rows); break;
    case UPG_OP_GATHER:
        b->n_rows = b->n_wanted;
        upg_pool_run(pool, gather_task, b, b->n_rows);
        break;
    }
}

static int run(upg_backend *base, const upg_batch *batch, upg_error *e) {
    fp32_backend *b = (fp32_backend *)base;
    if (upg_batch_check(batch, b->program->config, &b->options, e)) return -1;
    b->batch = batch;
    b->n_rows = batch->n_rows;
    b->n_wanted = 0;
    memset(b->flags, 0, (size_t)batch->n_rows);
    for (int i = 0; i < batch->n_rows; i++)
        if (batch->wants[i]) b->wanted[b->n_wanted++] = i;
    for (int i = 0; i < b->program->n_ops && b->n_rows; i++) {
        b->op = &b->program->ops[i];
        run_op(b);
    }
    size_t vocab = (size_t)b->program->config->vocab_size;
    for (int i = 0; i < b->n_wanted; i++) {
        const float *l = b->buffers[b->program->logits] + (size_t)i * vocab;
        for (size_t j = 0; j < vocab; j++) b->flags[b->wanted[i]] |= !isfinite(l[j]);
    }
    return 0;
}

static const float *logits(const upg_backend *base, int i) {
    const fp32_backend *b = (const fp32_backend *)base;
    return b->buffers[b->program->logits] + (size_t)i * (size_t)b->program->config->vocab_size;
}
static const uint8_t *flags(const upg_backend *base) {
    return ((const fp32_backend *)base)->flags;
}
static const char *path(const upg_backend *base) {
    (void)base;
    return "openblas";
}
static size_t memory(const upg_backend *base) {
    return ((const fp32_backend *)base)->memory.bytes;
}

const upg_backend_api upg_backend_fp32 = {.name = "fp32",
                                          .accepts = accepts,
                                          .create = create,
                                          .destroy = destroy,
                                          .run = run,
                                          .logits = logits,
                                          .flags = flags,
                                          .path = path,
                                          .memory = memory};
