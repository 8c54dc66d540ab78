// The fp32 backend: runs a program over original weights (F32, F16, BF16) in plain floating point, as transformers
// does. It is the reference that compressed models are measured against; its bits are not normative. Products are
// OpenBLAS's, each call on one thread, split over our pool by fixed blocks of weight rows so that the thread count does
// not change the result.
#include "backend/fp32/fp32.h"
#include "backend/math.h"
#include "program/numbers.h"
#include <cblas.h>
#include <math.h>
#include <stdlib.h>

enum {
    BLOCK_ROWS = 64, // weight rows converted and multiplied at once
    SPAN = 64,       // query rows of one sequence that attention takes at once
};

typedef struct fp32_backend {
    upg_backend base;
    const upg_program *program;
    upg_backend_options options;
    upg_arena memory;       // all arrays below
    float **buffers;        // [n_buffers] of [max_rows][width]
    float **vectors;        // [n_weights] f32 copies of norms and biases, or NULL
    const float **replaced; // [n_weights] what upg_fp32_replace gave, or NULL
    float *cosine, *sine;   // [n_positions][rotary_dim/2]
    float *kv;              // [n_blocks][n_layers][n_kv_heads][k, v][256][head_dim]
    float **work;           // [threads] of [max(BLOCK_ROWS * max_inputs, SPAN * n_positions)]
    uint8_t *flags;         // [max_rows]
    int *wanted;            // [max_rows]
    int n_wanted;
    int *spans; // [n_spans + 1] first rows of attention's spans; [max_rows + 1]
    int n_spans;
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
    b->replaced = reserve(b, (size_t)p->n_weights, sizeof *b->replaced, e);
    b->buffers = reserve(b, (size_t)p->n_buffers, sizeof *b->buffers, e);
    b->work = reserve(b, (size_t)threads, sizeof *b->work, e);
    if (!b->vectors || !b->replaced || !b->buffers || !b->work) return -1;
    for (int i = 0; i < p->n_weights; i++) {
        if (p->weights[i]->rows != 1) continue;
        if (!(b->vectors[i] = reserve(b, (size_t)p->weights[i]->cols, sizeof(float), e))) return -1;
        upg_tensor_floats(p->weights[i], 0, p->weights[i]->cols, b->vectors[i]);
    }
    for (int i = 0; i < p->n_buffers; i++) {
        int rows = i == p->logits ? b->options.max_logits : b->options.max_rows;
        if (!(b->buffers[i] = reserve(b, (size_t)rows * (size_t)p->widths[i], sizeof(float), e))) return -1;
    }
    size_t work = (size_t)BLOCK_ROWS * (size_t)p->max_inputs, positions = (size_t)b->options.n_positions,
           scores = SPAN * positions;
    for (int i = 0; i < threads; i++)
        if (!(b->work[i] = reserve(b, work > scores ? work : scores, sizeof(float), e))) return -1;
    size_t table = positions * (size_t)c->rotary_dim / 2;
    size_t kv = (size_t)b->options.n_blocks * (size_t)c->n_layers * (size_t)c->n_kv_heads;
    if (!(b->cosine = reserve(b, table, sizeof(float), e)) || !(b->sine = reserve(b, table, sizeof(float), e)) ||
        !(b->kv = reserve(b, kv, kv_floats(c) * sizeof(float), e)) ||
        !(b->flags = reserve(b, (size_t)b->options.max_rows, 1, e)) ||
        !(b->wanted = reserve(b, (size_t)b->options.max_rows, sizeof *b->wanted, e)) ||
        !(b->spans = reserve(b, (size_t)b->options.max_rows + 1, sizeof *b->spans, e)))
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
    const float *replaced = b->replaced[b->op->weight];
    int64_t first = (int64_t)b->batch->tokens[row] * b->op->n;
    if (replaced)
        memcpy(row_of(b, b->op->out, row), replaced + first, (size_t)b->op->n * sizeof *replaced);
    else
        upg_tensor_floats(b->program->weights[b->op->weight], first, b->op->n, row_of(b, b->op->out, row));
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
    const float *values = b->replaced[b->op->weight];
    if (values) {
        values += (size_t)first * (size_t)n;
    } else {
        upg_tensor_floats(w, (int64_t)first * n, (int64_t)rows * n, b->work[thread]);
        values = b->work[thread];
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, b->n_rows, rows, n, 1.0f, row_of(b, b->op->in, 0),
                b->program->widths[b->op->in], values, n, 0.0f, row_of(b, b->op->out, 0) + b->op->out_col + first,
                b->program->widths[b->op->out]);
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

// Rows that attention takes together: of one sequence and at positions that follow one another.
static int span_end(const fp32_backend *b, int first) {
    const upg_batch *batch = b->batch;
    int i = first + 1;
    while (i < b->n_rows && i < first + SPAN && batch->blocks[i] == batch->blocks[first] &&
           batch->positions[i] == batch->positions[i - 1] + 1)
        i++;
    return i;
}

static void softmax(float *p, int first, int last, int n) {
    float m = -INFINITY, sum = 0;
    for (int j = first; j <= last; j++) m = p[j] > m ? p[j] : m;
    for (int j = 0; j < n; j++) {
        p[j] = j < first || j > last ? 0 : expf(p[j] - m);
        sum += p[j];
    }
    for (int j = first; j <= last; j++) p[j] /= sum;
}

static void attention_task(void *ctx, int task, int thread) {
    fp32_backend *b = ctx;
    const upg_config *c = b->program->config;
    int span = task / c->n_heads, h = task % c->n_heads, row = b->spans[span], rows = b->spans[span + 1] - row,
        dim = c->head_dim, kv_head = h / (c->n_heads / c->n_kv_heads), window = b->op->window;
    int last = b->batch->positions[row + rows - 1], n = last + 1, in = b->program->widths[b->op->in],
        out = b->program->widths[b->op->out];
    const float *q = row_of(b, b->op->in, row) + h * dim;
    float *p = b->work[thread], *o = row_of(b, b->op->out, row) + h * dim; // p: [rows][n]
    for (int j = 0; j < n; j += UPG_KV_BLOCK)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, n - j < UPG_KV_BLOCK ? n - j : UPG_KV_BLOCK, dim,
                    1.0f / sqrtf((float)dim), q, in, kv_at(b, row, j, kv_head, 0), dim, 0.0f, p + j, n);
    for (int i = 0; i < rows; i++) {
        int position = b->batch->positions[row + i];
        softmax(p + (size_t)i * (size_t)n, window && position >= window ? position - window + 1 : 0, position, n);
    }
    for (int j = 0; j < n; j += UPG_KV_BLOCK)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, dim, n - j < UPG_KV_BLOCK ? n - j : UPG_KV_BLOCK,
                    1.0f, p + j, n, kv_at(b, row, j, kv_head, 1), dim, j ? 1.0f : 0.0f, o, out);
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

static int multiply(fp32_backend *b, upg_error *e) {
    const int weight = b->op->weight, in = b->op->in, out = b->op->out;
    const upg_math_linear l = {.w = b->program->weights[weight],
                               .values = b->replaced[weight],
                               .x = row_of(b, in, 0),
                               .y = row_of(b, out, 0) + b->op->out_col,
                               .rows = b->n_rows,
                               .x_stride = b->program->widths[in],
                               .y_stride = b->program->widths[out]};
    if (b->options.math) return upg_math_multiply(b->options.math, &l, e);
    upg_pool_run(b->options.pool, linear_task, b, (int)((l.w->rows + BLOCK_ROWS - 1) / BLOCK_ROWS));
    return 0;
}

static int run_op(fp32_backend *b, upg_error *e) {
    upg_pool *pool = b->options.pool;
    switch (b->op->kind) {
    case UPG_OP_EMBED: upg_pool_run(pool, embed_task, b, b->n_rows); break;
    case UPG_OP_RMSNORM: upg_pool_run(pool, rmsnorm_task, b, b->n_rows); break;
    case UPG_OP_HEAD_NORM: upg_pool_run(pool, head_norm_task, b, b->n_rows); break;
    case UPG_OP_BIAS: upg_pool_run(pool, bias_task, b, b->n_rows); break;
    case UPG_OP_QUANTISE: break; // linear layers read the f32 values
    case UPG_OP_LINEAR: return multiply(b, e);
    case UPG_OP_KV: upg_pool_run(pool, kv_task, b, b->n_rows); break;
    case UPG_OP_ATTENTION: upg_pool_run(pool, attention_task, b, b->n_spans * b->program->config->n_heads); break;
    case UPG_OP_SWIGLU: upg_pool_run(pool, swiglu_task, b, b->n_rows); break;
    case UPG_OP_ADD: upg_pool_run(pool, add_task, b, b->n_rows); break;
    case UPG_OP_GATHER:
        b->n_rows = b->n_wanted;
        upg_pool_run(pool, gather_task, b, b->n_rows);
        break;
    }
    return 0;
}

static int run_ops(fp32_backend *b, const upg_batch *batch, int first, int last, const upg_fp32_tap *tap,
                   upg_error *e) {
    b->batch = batch;
    b->n_rows = batch->n_rows;
    b->n_wanted = 0;
    for (int i = 0; i < batch->n_rows; i++)
        if (batch->wants[i]) b->wanted[b->n_wanted++] = i;
    b->n_spans = 0;
    for (int i = 0; i < batch->n_rows; i = b->spans[b->n_spans]) b->spans[++b->n_spans] = span_end(b, i);
    for (int i = first; i < last && b->n_rows; i++) {
        b->op = &b->program->ops[i];
        if (tap && b->op->kind == UPG_OP_QUANTISE)
            tap->input(tap->ctx, i, row_of(b, b->op->in, 0), b->n_rows, b->program->widths[b->op->in]);
        double begin = upg_op_begin(&b->options);
        if (run_op(b, e)) return -1;
        upg_op_end(&b->options, i, begin);
    }
    return 0;
}

int upg_fp32_run_part(upg_backend *base, const upg_batch *batch, int first, int last, const upg_fp32_tap *tap,
                      upg_error *e) {
    fp32_backend *b = (fp32_backend *)base;
    upg_backend_options limits = b->options;
    limits.max_logits = limits.max_rows;
    if (upg_batch_check(batch, b->program->config, &limits, e)) return -1;
    return run_ops(b, batch, first, last, tap, e);
}

float *upg_fp32_buffer(upg_backend *base, int buffer) {
    return row_of((fp32_backend *)base, buffer, 0);
}

void upg_fp32_replace(upg_backend *base, int weight, const float *values) {
    ((fp32_backend *)base)->replaced[weight] = values;
}

static int run(upg_backend *base, const upg_batch *batch, upg_error *e) {
    fp32_backend *b = (fp32_backend *)base;
    if (upg_batch_check(batch, b->program->config, &b->options, e)) return -1;
    memset(b->flags, 0, (size_t)batch->n_rows);
    if (run_ops(b, batch, 0, b->program->n_ops, NULL, e)) return -1;
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

static size_t kv_bytes(const upg_config *c) {
    return (size_t)c->n_layers * (size_t)c->n_kv_heads * kv_floats(c) * sizeof(float);
}
static size_t block_bytes(const upg_backend *base) {
    return kv_bytes(((const fp32_backend *)base)->program->config);
}
static uint8_t *kv_block(const upg_backend *base, int32_t block) {
    return (uint8_t *)((const fp32_backend *)base)->kv + (size_t)block * block_bytes(base);
}
static int kv_read(const upg_backend *base, int32_t block, void *to, upg_error *e) {
    (void)e;
    memcpy(to, kv_block(base, block), block_bytes(base));
    return 0;
}
static int kv_write(upg_backend *base, int32_t block, const void *from, upg_error *e) {
    (void)e;
    memcpy(kv_block(base, block), from, block_bytes(base));
    return 0;
}
static int kv_copy(upg_backend *base, int32_t from, int32_t to, upg_error *e) {
    return kv_write(base, to, kv_block(base, from), e);
}

const upg_backend_api upg_backend_fp32 = {.name = "fp32",
                                          .inexact = true,
                                          .accepts = accepts,
                                          .create = create,
                                          .destroy = destroy,
                                          .run = run,
                                          .logits = logits,
                                          .flags = flags,
                                          .path = path,
                                          .memory = memory,
                                          .kv_bytes = kv_bytes,
                                          .kv_read = kv_read,
                                          .kv_write = kv_write,
                                          .kv_copy = kv_copy,
                                          .kv_layout = "fp32 1"};
