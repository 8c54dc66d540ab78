// The CPU backend: runs a program's ops over a batch, each op cut into tasks for the thread pool. Rows and superbands
// are computed independently, so neither the number of threads nor the batch changes a bit.
#include "backend/cpu/cpu.h"
#include "backend/backend.h"
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

// A superband is cut only if there are fewer than 10 a thread, into parts of which there are then fewer than 14.
enum { SPLIT_ROWS = 16, MAX_PARTS = 14 };

typedef struct cpu_backend {
    upg_backend base;
    const upg_program *program;
    const upg_cpu_kernels *kernels;
    upg_backend_options options;
    upg_arena memory;     // all arrays below
    float **buffers;      // [n_buffers] of [max_rows][width]
    float **vectors;      // [n_weights] f32 copies of norms and biases, or NULL
    uint32_t *sign;       // [max_inputs]
    float *cosine, *sine; // [n_positions][rotary_dim/2]
    upg_quantised q;      // of the current op's rows, as upg_linear reads them
    float *m;             // [max_rows]
    int8_t *head_q;       // [max_rows][n_heads][head_dim padded to 16]
    float *head_scale;    // [max_rows][n_heads]
    uint8_t *kv;          // [n_blocks][n_layers][n_kv_heads] head blocks
    upg_scratch *scratch; // [threads]
    uint8_t *flags;       // [max_rows]
    int *spans;           // [max_rows + 1] where a span of rows begins that attention handles together
    int n_spans;
    int *wanted; // [max_logits] batch rows whose logits are wanted
    int n_wanted;
    float attention_c;
    // The run in progress, read by tasks.
    const upg_batch *batch;
    const upg_op *op, *end; // row ops up to the end
    int n_rows;             // rows the current op runs over
    bool gathered;          // those rows are the wanted ones
    upg_linear linear;
    int parts;              // of each superband of it
    int32_t *sums;          // [superbands][parts][rows][256] of the parts: at most MAX_PARTS a thread, SPLIT_ROWS rows
    atomic_int *parts_done; // [superbands]
} cpu_backend;

static bool accepts(const upg_weights *source) {
    return source->compressed;
}

static void *reserve(cpu_backend *b, size_t count, size_t size, upg_error *e) {
    return upg_arena_take(&b->memory, count, size, e);
}

static void destroy(upg_backend *base) {
    cpu_backend *b = (cpu_backend *)base;
    if (b) upg_arena_free(&b->memory);
    free(b);
}

// An f32 copy of a vector stored as F32, F16 or BF16; values that are not finite are refused.
static float *vector_copy(cpu_backend *b, const upg_tensor *t, upg_error *e) {
    float *v = reserve(b, (size_t)t->cols, sizeof *v, e);
    if (!v) return NULL;
    upg_tensor_floats(t, 0, t->cols, v);
    for (int64_t i = 0; i < t->cols; i++)
        if (!isfinite(v[i])) {
            upg_fail(e, "tensor %s: element %lld is not finite", t->name, (long long)i);
            return NULL;
        }
    return v;
}

static int reserve_weights(cpu_backend *b, upg_error *e) {
    const upg_program *p = b->program;
    b->vectors = reserve(b, (size_t)p->n_weights, sizeof *b->vectors, e);
    b->buffers = reserve(b, (size_t)p->n_buffers, sizeof *b->buffers, e);
    if (!b->vectors || !b->buffers) return -1;
    for (int i = 0; i < p->n_weights; i++)
        if (p->weights[i]->rows == 1 && !(b->vectors[i] = vector_copy(b, p->weights[i], e))) return -1;
    for (int i = 0; i < p->n_buffers; i++) {
        int rows = i == p->logits ? b->options.max_logits : b->options.max_rows;
        if (!(b->buffers[i] = reserve(b, (size_t)rows * (size_t)p->widths[i], sizeof(float), e))) return -1;
    }
    return 0;
}

static int reserve_rows(cpu_backend *b, upg_error *e) {
    const upg_config *c = b->program->config;
    size_t rows = (size_t)b->options.max_rows, n = (size_t)upg_pad16(b->program->max_inputs),
           heads = (size_t)c->n_heads;
    size_t kv = (size_t)b->options.n_blocks * (size_t)c->n_layers * (size_t)c->n_kv_heads;
    size_t table = (size_t)b->options.n_positions * (size_t)c->rotary_dim / 2;
    if (!(b->sign = reserve(b, n, sizeof *b->sign, e)) || !(b->q.q = reserve(b, rows * n + UPG_Q_SLACK, 1, e)) ||
        !(b->q.d = reserve(b, rows, n / 16, e)) || !(b->q.q_sum = reserve(b, rows * (n / 16), sizeof(int32_t), e)) ||
        !(b->m = reserve(b, rows, sizeof *b->m, e)) ||
        !(b->head_q = reserve(b, rows * heads, (size_t)upg_pad16(c->head_dim), e)) ||
        !(b->head_scale = reserve(b, rows * heads, sizeof *b->head_scale, e)) || !(b->flags = reserve(b, rows, 1, e)) ||
        !(b->spans = reserve(b, rows + 1, sizeof *b->spans, e)) ||
        !(b->wanted = reserve(b, (size_t)b->options.max_logits, sizeof *b->wanted, e)) ||
        !(b->cosine = reserve(b, table, sizeof *b->cosine, e)) || !(b->sine = reserve(b, table, sizeof *b->sine, e)) ||
        !(b->kv = reserve(b, kv, upg_kv_head_bytes(c->head_dim), e)))
        return -1;
    size_t threads = (size_t)upg_pool_threads(b->options.pool), few = rows < SPLIT_ROWS ? rows : SPLIT_ROWS;
    if (!(b->sums = reserve(b, MAX_PARTS * threads * few, 256 * sizeof *b->sums, e)) ||
        !(b->parts_done = reserve(b, MAX_PARTS * threads, sizeof *b->parts_done, e)))
        return -1;
    b->scratch = reserve(b, (size_t)upg_pool_threads(b->options.pool), sizeof *b->scratch, e);
    if (!b->scratch) return -1;
    for (int i = 0; i < upg_pool_threads(b->options.pool); i++)
        if (upg_scratch_take(&b->scratch[i], &b->memory, b->options.max_rows, (int)n, e)) return -1;
    for (size_t i = 0; i < n; i++) b->sign[i] = upg_sign(b->program->source->rotation_seed, i);
    upg_rope_tables(c, b->options.n_positions, b->cosine, b->sine);
    return 0;
}

static upg_backend *create(const upg_program *program, const upg_backend_options *options, upg_error *e) {
    cpu_backend *b = upg_alloc(1, sizeof *b, e);
    if (!b) return NULL;
    const upg_config *c = program->config;
    b->base.api = &upg_backend_cpu;
    b->program = program;
    b->options = *options;
    b->attention_c = (float)(1.0 / (sqrt((double)c->head_dim) * upg_block(c->head_dim)));
    b->kernels = upg_cpu_kernels_for(options->isa, e);
    if (!b->kernels || reserve_weights(b, e) || reserve_rows(b, e)) {
        destroy(&b->base);
        return NULL;
    }
    return &b->base;
}

static float *row_of(const cpu_backend *b, int buffer, int row) {
    return b->buffers[buffer] + (size_t)row * (size_t)b->program->widths[buffer];
}
static int batch_row(const cpu_backend *b, int row) {
    return b->gathered ? b->wanted[row] : row;
}

static void embed_row(cpu_backend *b, const upg_op *op, int row, int thread) {
    const upg_tensor *w = b->program->weights[op->weight];
    upg_embed(w, b->batch->tokens[row], b->sign, (int32_t *)b->scratch[thread].work, row_of(b, op->out, row));
}

static void rmsnorm_row(cpu_backend *b, const upg_op *op, int row, int thread) {
    (void)thread;
    uint32_t f = b->kernels->rmsnorm(row_of(b, op->in, row), b->vectors[op->weight], op->n, b->program->config->rms_eps,
                                     row_of(b, op->out, row));
    b->flags[batch_row(b, row)] |= (uint8_t)f;
}

static void head_norm_row(cpu_backend *b, const upg_op *op, int row, int thread) {
    (void)thread;
    float *v = row_of(b, op->out, row) + op->out_col;
    uint32_t f = 0;
    for (int i = 0; i < op->count; i++, v += op->n)
        f |= b->kernels->rmsnorm(v, b->vectors[op->weight], op->n, b->program->config->rms_eps, v);
    b->flags[batch_row(b, row)] |= (uint8_t)f;
}

static void bias_row(cpu_backend *b, const upg_op *op, int row, int thread) {
    (void)thread;
    b->kernels->add(row_of(b, op->out, row) + op->out_col, b->vectors[op->weight], op->n);
}

static void quantise_row(cpu_backend *b, const upg_op *op, int row, int thread) {
    int n = (int)upg_pad16(op->n), block = upg_block(n);
    const upg_quantised *to = b->n_rows == 1 ? &b->q : &b->scratch[thread].row;
    uint32_t f = b->kernels->quantise(row_of(b, op->in, row), op->n, n, block, op->unrotated ? NULL : b->sign,
                                      b->scratch[thread].work, to->q, to->d, to->q_sum, b->m + row);
    if (to != &b->q) upg_quantised_place(to, n, block, row, b->n_rows, &b->q);
    b->flags[batch_row(b, row)] |= (uint8_t)f;
}

// A superband, or some of its groups: whoever does the last of them adds up the sums, which are integers, so that it
// makes no difference who does what.
static void linear_task(void *ctx, int task, int thread) {
    cpu_backend *b = ctx;
    const int parts = b->parts, sb = task / parts, part = task % parts, size = b->n_rows * 256;
    upg_linear l = b->linear;
    if (parts == 1) {
        b->kernels->linear(&l, sb, &b->scratch[thread]);
        return;
    }
    int32_t *all = b->sums + (size_t)(sb * parts) * (size_t)size;
    l.first = part * b->linear.end / parts;
    l.end = (part + 1) * b->linear.end / parts;
    l.sums = all + part * size;
    b->kernels->linear(&l, sb, &b->scratch[thread]);
    if (atomic_fetch_add_explicit(&b->parts_done[sb], 1, memory_order_acq_rel) < parts - 1) return;
    for (int i = 1; i < parts; i++)
        for (int j = 0; j < size; j++) all[j] += all[i * size + j];
    for (int row = 0; row < b->n_rows; row++) upg_linear_write(&l, sb, row, all + row * 256);
}

// This layer's part of the cache.
static upg_kv_pool layer_pool(const cpu_backend *b, int layer) {
    const upg_config *c = b->program->config;
    size_t layer_bytes = (size_t)c->n_kv_heads * upg_kv_head_bytes(c->head_dim);
    return (upg_kv_pool){b->kv + (size_t)layer * layer_bytes, (size_t)c->n_layers * layer_bytes};
}

static void kv_row(cpu_backend *b, const upg_op *op, int row, int thread) {
    (void)thread;
    const upg_config *c = b->program->config;
    int dim = c->head_dim, block = upg_block(dim), position = b->batch->positions[row], slot = position % UPG_KV_BLOCK;
    const float *cosine = b->cosine + (size_t)position * (size_t)(c->rotary_dim / 2);
    const float *sine = b->sine + (size_t)position * (size_t)(c->rotary_dim / 2);
    float *v = row_of(b, op->in, row);
    upg_kv_pool pool = layer_pool(b, op->layer);
    int32_t pool_block = b->batch->blocks[row][position / UPG_KV_BLOCK];
    uint32_t f = 0;
    for (int h = 0; h < c->n_heads + 2 * c->n_kv_heads; h++, v += dim) {
        int kv_head = h - c->n_heads;
        if (kv_head < c->n_kv_heads) b->kernels->rope(v, cosine, sine, c->rotary_dim / 2);
        if (kv_head < 0) {
            size_t at = (size_t)row * (size_t)c->n_heads + (size_t)h;
            f |= b->kernels->quantise_head(v, dim, block, b->head_q + at * (size_t)upg_pad16(dim), b->head_scale + at);
            continue;
        }
        int8_t q[UPG_MAX_HEAD_DIM];
        float scale;
        bool is_key = kv_head < c->n_kv_heads;
        upg_kv_head kv = upg_kv_head_at(&pool, pool_block, is_key ? kv_head : kv_head - c->n_kv_heads, dim);
        f |= b->kernels->quantise_head(v, dim, block, q, &scale);
        (is_key ? upg_kv_store_key : upg_kv_store_value)(&kv, dim, slot, q, scale);
    }
    b->flags[row] |= (uint8_t)f;
}

// Query heads of a KV head that one task takes.
static int heads_of_task(const upg_config *c) {
    int heads = c->n_heads / c->n_kv_heads;
    return heads < UPG_ATTEND_QUERIES ? heads : UPG_ATTEND_QUERIES;
}

// A task is a span of rows and some query heads of one KV head.
static void attention_task(void *ctx, int task, int thread) {
    (void)thread;
    cpu_backend *b = ctx;
    const upg_config *c = b->program->config;
    const int per_kv = c->n_heads / c->n_kv_heads, heads = heads_of_task(c), parts = (per_kv + heads - 1) / heads,
              span = task / (c->n_kv_heads * parts), kv_head = task / parts % c->n_kv_heads,
              skipped = task % parts * heads, first = kv_head * per_kv + skipped, row = b->spans[span];
    const size_t at = (size_t)row * (size_t)c->n_heads + (size_t)first;
    upg_kv_pool pool = layer_pool(b, b->op->layer);
    upg_attend a = {.rows = b->spans[span + 1] - row,
                    .heads = per_kv - skipped < heads ? per_kv - skipped : heads,
                    .q = b->head_q + at * (size_t)upg_pad16(c->head_dim),
                    .q_scale = b->head_scale + at,
                    .row_heads = c->n_heads,
                    .out = row_of(b, b->op->out, row) + first * c->head_dim,
                    .out_stride = (size_t)b->program->widths[b->op->out],
                    .c = b->attention_c,
                    .dim = c->head_dim,
                    .b = upg_block(c->head_dim),
                    .position = b->batch->positions[row],
                    .window = b->op->window,
                    .head = kv_head,
                    .blocks = b->batch->blocks[row],
                    .pool = &pool};
    b->kernels->attend(&a);
}

static void run_attention(cpu_backend *b) {
    const upg_config *c = b->program->config;
    int heads = heads_of_task(c), parts = (c->n_heads / c->n_kv_heads + heads - 1) / heads;
    upg_pool_run(b->options.pool, attention_task, b, b->n_spans * c->n_kv_heads * parts);
}

// Cuts the batch into spans: rows of one sequence, as many as an attention task takes.
static void find_spans(cpu_backend *b) {
    const upg_batch *batch = b->batch;
    const int most = UPG_ATTEND_QUERIES / heads_of_task(b->program->config);
    b->n_spans = 0;
    for (int row = 0; row < batch->n_rows; row++) {
        bool follows = row && batch->blocks[row] == batch->blocks[row - 1] &&
                       batch->positions[row] == batch->positions[row - 1] + 1;
        if (!follows || row - b->spans[b->n_spans - 1] == most) b->spans[b->n_spans++] = row;
    }
    b->spans[b->n_spans] = batch->n_rows;
}

static void swiglu_row(cpu_backend *b, const upg_op *op, int row, int thread) {
    (void)thread;
    const float *in = row_of(b, op->in, row);
    int n = op->n / 2;
    b->flags[row] |= (uint8_t)b->kernels->swiglu(in, in + n, n, row_of(b, op->out, row));
}

static void add_row(cpu_backend *b, const upg_op *op, int row, int thread) {
    (void)thread;
    b->kernels->add(row_of(b, op->out, row), row_of(b, op->in, row), op->n);
}

static void gather_row(cpu_backend *b, const upg_op *op, int row, int thread) {
    (void)thread;
    memcpy(row_of(b, op->out, row), row_of(b, op->in, b->wanted[row]), (size_t)op->n * sizeof(float));
}

// How many parts a superband of a few rows is cut into. Threads take whole superbands where that keeps them all busy
// but for a tenth of the time.
static int parts_of(const cpu_backend *b, int superbands, int groups) {
    const int threads = upg_pool_threads(b->options.pool), rounds = (superbands + threads - 1) / threads;
    if (b->n_rows > SPLIT_ROWS || rounds * threads * 10 <= superbands * 11) return 1;
    const int parts = (4 * threads + superbands - 1) / superbands;
    return parts < groups ? parts : groups;
}

static void run_linear(cpu_backend *b) {
    const upg_op *op = b->op;
    const int n = (int)upg_pad16(op->n);
    b->linear = (upg_linear){.w = b->program->weights[op->weight],
                             .n = n,
                             .b = upg_block(n),
                             .n_rows = b->n_rows,
                             .q = b->q.q,
                             .d = b->q.d,
                             .q_sum = b->q.q_sum,
                             .m = b->m,
                             .end = n / upg_block(n),
                             .y = b->buffers[op->out] + op->out_col,
                             .y_stride = (size_t)b->program->widths[op->out]};
    const int superbands = (int)((b->linear.w->rows + 255) / 256);
    b->parts = parts_of(b, superbands, b->linear.end);
    for (int i = 0; b->parts > 1 && i < superbands; i++) atomic_init(&b->parts_done[i], 0);
    upg_pool_run(b->options.pool, linear_task, b, superbands * b->parts);
}

// Ops that take one row at a time. Several of them in a row are one task: what a row's one op wrote, the next finds in
// the cache, and threads meet once.
typedef void row_fn(cpu_backend *b, const upg_op *op, int row, int thread);
static row_fn *const row_ops[] = {
    [UPG_OP_EMBED] = embed_row,       [UPG_OP_RMSNORM] = rmsnorm_row, [UPG_OP_HEAD_NORM] = head_norm_row,
    [UPG_OP_QUANTISE] = quantise_row, [UPG_OP_BIAS] = bias_row,       [UPG_OP_KV] = kv_row,
    [UPG_OP_SWIGLU] = swiglu_row,     [UPG_OP_ADD] = add_row,         [UPG_OP_GATHER] = gather_row,
    [UPG_OP_LINEAR] = NULL,           [UPG_OP_ATTENTION] = NULL};

static void rows_task(void *ctx, int row, int thread) {
    cpu_backend *b = ctx;
    for (const upg_op *op = b->op; op < b->end; op++) row_ops[op->kind](b, op, row, thread);
}

// The end of the run of row ops that begins with ops[i]. A gather changes what a row is, so it can only be the first.
static int end_of_rows(const cpu_backend *b, int i) {
    const upg_program *p = b->program;
    if (b->options.seconds) return i + 1; // each is timed
    for (i++; i < p->n_ops && row_ops[p->ops[i].kind] && p->ops[i].kind != UPG_OP_GATHER; i++) continue;
    return i;
}

// Runs ops[i] and what goes with it; returns the op after.
static int run_ops(cpu_backend *b, int i) {
    b->op = &b->program->ops[i];
    if (b->op->kind == UPG_OP_LINEAR) {
        run_linear(b);
        return i + 1;
    }
    if (b->op->kind == UPG_OP_ATTENTION) {
        run_attention(b);
        return i + 1;
    }
    if (b->op->kind == UPG_OP_GATHER) {
        b->gathered = true;
        b->n_rows = b->n_wanted;
    }
    const int end = end_of_rows(b, i);
    b->end = &b->program->ops[end];
    upg_pool_run(b->options.pool, rows_task, b, b->n_rows);
    return end;
}

static int run(upg_backend *base, const upg_batch *batch, upg_error *e) {
    cpu_backend *b = (cpu_backend *)base;
    if (upg_batch_check(batch, b->program->config, &b->options, e)) return -1;
    b->batch = batch;
    b->n_rows = batch->n_rows;
    b->gathered = false;
    b->n_wanted = 0;
    memset(b->flags, 0, (size_t)batch->n_rows);
    for (int i = 0; i < batch->n_rows; i++)
        if (batch->wants[i]) b->wanted[b->n_wanted++] = i;
    find_spans(b);
    for (int i = 0, next; i < b->program->n_ops && b->n_rows; i = next) {
        double begin = upg_op_begin(&b->options);
        next = run_ops(b, i);
        upg_op_end(&b->options, i, begin);
    }
    size_t vocab = (size_t)b->program->config->vocab_size;
    for (int i = 0; i < b->n_wanted; i++) {
        const float *l = b->buffers[b->program->logits] + (size_t)i * vocab;
        uint32_t bad = 0;
        for (size_t j = 0; j < vocab; j++) bad |= (upg_bits(l[j]) & 0x7fffffff) >= UPG_GUARD_HIGH;
        b->flags[b->wanted[i]] |= (uint8_t)bad;
    }
    return 0;
}

static const float *rows_of(const upg_backend *base, int buffer) {
    return ((const cpu_backend *)base)->buffers[buffer];
}
static const float *logits(const upg_backend *base, int i) {
    const cpu_backend *b = (const cpu_backend *)base;
    return b->buffers[b->program->logits] + (size_t)i * (size_t)b->program->config->vocab_size;
}
static const uint8_t *flags(const upg_backend *base) {
    return ((const cpu_backend *)base)->flags;
}
static const char *path(const upg_backend *base) {
    return ((const cpu_backend *)base)->kernels->isa;
}
static size_t memory(const upg_backend *base) {
    return ((const cpu_backend *)base)->memory.bytes;
}

static size_t block_bytes(const upg_backend *base) {
    return upg_kv_block_bytes(((const cpu_backend *)base)->program->config);
}
static uint8_t *kv_block(const upg_backend *base, int32_t block) {
    return ((const cpu_backend *)base)->kv + (size_t)block * block_bytes(base);
}
static int kv_read(const upg_backend *base, int32_t block, void *to, upg_error *e) {
    (void)e;
    memcpy(to, kv_block(base, block), block_bytes(base));
    return 0;
}
static int kv_write(upg_backend *base, int32_t block, const void *from, upg_error *e) {
    if (upg_kv_check(((cpu_backend *)base)->program->config, from, e)) return -1;
    memcpy(kv_block(base, block), from, block_bytes(base));
    return 0;
}
static int kv_copy(upg_backend *base, int32_t from, int32_t to, upg_error *e) {
    (void)e;
    memcpy(kv_block(base, to), kv_block(base, from), block_bytes(base));
    return 0;
}

const upg_backend_api upg_backend_cpu = {.name = "cpu",
                                         .accepts = accepts,
                                         .create = create,
                                         .destroy = destroy,
                                         .run = run,
                                         .rows = rows_of,
                                         .logits = logits,
                                         .flags = flags,
                                         .path = path,
                                         .memory = memory,
                                         .kv_bytes = upg_kv_block_bytes,
                                         .kv_read = kv_read,
                                         .kv_write = kv_write,
                                         .kv_copy = kv_copy,
                                         .kv_layout = UPG_KV_LAYOUT};
