// Programs on a GPU: where everything lies in the device's memory, and which kernels a batch takes. The device itself
// is behind device.h.
//
// All tensors stay on the device: a run writes the batch (tokens, positions, block tables) and reads flags and the
// wanted logits. Memory is one allocation, made when the backend is: work, weights, KV cache.
#include "backend/gpu/device.h"
#include "program/numbers.h"
#include <math.h>
#include <stdlib.h>

enum {
    SPLIT_ROWS = 64, // attention of at most so many rows is split by blocks of keys
    GRAPH_ROWS = 64, // runs of at most so many rows are kept as graphs
    ADD_ROWS = 64,   // products of at most so many rows add to what is there
    DRAW_WORDS = sizeof(gpu_draw) / 4,
    EDIT_WORDS = sizeof(gpu_draw_edit) / 4,
    ALIGN = 256
};

typedef struct gpu_backend {
    upg_backend base;
    const upg_gpu_api *api;
    upg_gpu *gpu;
    const upg_program *program;
    upg_backend_options options;
    upg_arena host;
    size_t bytes;                        // reserved on the device
    upg_gpu_address work, kv;            // of the device
    uint32_t words;                      // of work memory, while it is laid out
    bool too_large;                      // more words than an offset counts
    uint32_t *buffers;                   // [n_buffers] offsets of [max_rows][width]
    uint32_t *vectors;                   // [n_weights] offsets of norms and biases
    bool *kept;                          // [n_buffers] read by other ops than QUANTISE
    upg_gpu_matrix *matrices, *embedded; // [n_weights]: as LINEAR reads them, and as EMBED does
    uint32_t batch_words, tables;        // written before a run: the batch, the block tables last
    uint32_t result_words;
    uint32_t max_blocks; // of a row's table
    gpu_rows_args rows;  // what does not change
    gpu_attention_args attention;
    uint32_t *staged;  // [batch_words] the batch on the host
    uint32_t *results; // what a run reads: flags, and behind them logits [max_logits][vocab_size]
    uint8_t *flags;
    bool *there; // [max_logits] results have this row's logits
    // The run in progress
    uint32_t n_rows, n_wanted, n_blocks, n_queries, staged_words; // n_queries: of a span and KV head, at most
    uint32_t n_wide, wide_queries;                                // wide spans, queries of one at most
    bool gathered;
} gpu_backend;

bool upg_gpu_accepts(const upg_weights *source) {
    return source->compressed;
}

// ---- Memory ----

// Words of work memory, 256-byte aligned.
static uint32_t take(gpu_backend *b, size_t words) {
    const size_t unit = ALIGN / 4, at = b->words, next = at + (words + unit - 1) / unit * unit;
    if (next > UINT32_MAX - unit || next < at) b->too_large = true;
    b->words = b->too_large ? 0 : (uint32_t)next;
    return (uint32_t)at;
}

static void lay_out_batch(gpu_backend *b) {
    const size_t rows = (size_t)b->options.max_rows;
    gpu_batch *t = &b->rows.batch;
    t->counts = take(b, 2);
    t->tokens = take(b, rows);
    t->positions = take(b, rows);
    t->table = take(b, rows);
    t->wanted = take(b, (size_t)b->options.max_logits);
    t->spans = take(b, 4 * rows);
    t->wide_spans = take(b, 4 * rows);
    t->draws = take(b, (size_t)b->options.max_logits * DRAW_WORDS);
    b->max_blocks = (uint32_t)((b->options.n_positions + UPG_KV_BLOCK - 1) / UPG_KV_BLOCK);
    b->tables = take(b, rows * b->max_blocks + (size_t)b->options.max_logits * GPU_DRAW_EDITS * EDIT_WORDS);
    b->batch_words = b->words;
}

static void lay_out_heads(gpu_backend *b, const upg_config *c) {
    const size_t rows = (size_t)b->options.max_rows, table = (size_t)b->options.n_positions * (size_t)c->rotary_dim / 2;
    gpu_heads *h = &b->rows.heads;
    h->n_heads = (uint32_t)c->n_heads;
    h->n_kv_heads = (uint32_t)c->n_kv_heads;
    h->head_dim = (uint32_t)c->head_dim;
    h->D = (uint32_t)upg_pad16(c->head_dim);
    h->b = (uint32_t)upg_block(c->head_dim);
    h->rotary = (uint32_t)c->rotary_dim;
    h->cosine = take(b, table);
    h->sine = take(b, table);
    h->q = take(b, rows * h->n_heads * h->D / 4);
    h->q_scale = take(b, rows * h->n_heads);
    h->kv_stride = (uint32_t)(upg_kv_block_bytes(c) / 16);

    gpu_attention_args *a = &b->attention;
    const uint32_t per_kv = h->n_heads / h->n_kv_heads;
    a->batch = b->rows.batch;
    a->heads_a_group = per_kv < GPU_QUERIES ? per_kv : GPU_QUERIES;
    a->parts = (per_kv + a->heads_a_group - 1) / a->heads_a_group;
    a->c = (float)(1.0 / (sqrt((double)c->head_dim) * upg_block(c->head_dim)));
    a->partial = take(b, (rows < SPLIT_ROWS ? rows : SPLIT_ROWS) * h->n_heads * b->max_blocks * (h->head_dim + 2));
}

static void lay_out_rows(gpu_backend *b, const upg_config *c) {
    const upg_program *p = b->program;
    const size_t rows = ((size_t)b->options.max_rows + 127) / 128 * 128, n = (size_t)upg_pad16(p->max_inputs),
                 hidden = (size_t)upg_pad16(c->hidden_size), heads = (size_t)c->n_heads + 2 * (size_t)c->n_kv_heads;
    gpu_rows_args *a = &b->rows;
    a->quantised.q = take(b, rows * n / 4);
    a->quantised.d = take(b, rows * n / 16);
    a->quantised.q_sum = take(b, rows * n / 16);
    a->quantised.m = take(b, rows);
    a->quantised.stride = (uint32_t)rows;
    a->sign = take(b, n);
    size_t scratch = n + n / 8, of_heads = heads * ((size_t)(c->head_dim + 15) / 16 + 1);
    if (scratch < of_heads) scratch = of_heads;
    if (scratch < hidden) scratch = hidden;
    if (scratch < (size_t)c->n_heads * 256) scratch = (size_t)c->n_heads * 256; // HEAD_NORM
    a->per_scratch = (uint32_t)scratch;
    a->scratch = take(b, (size_t)b->options.max_rows * scratch);
    a->eps = c->rms_eps;
    for (int i = 0; i < p->n_buffers; i++)
        if (i != p->logits) b->buffers[i] = take(b, (size_t)b->options.max_rows * (size_t)p->widths[i]);
    b->rows.batch.flags = take(b, (size_t)b->options.max_rows);
    b->rows.batch.drawn = take(b, (size_t)b->options.max_logits);
    b->buffers[p->logits] = take(b, (size_t)b->options.max_logits * (size_t)p->widths[p->logits]);
    b->result_words = b->words - b->rows.batch.flags;
    for (int i = 0; i < p->n_weights; i++)
        if (p->weights[i]->rows == 1) b->vectors[i] = take(b, (size_t)p->weights[i]->cols);
}

static size_t aligned(size_t bytes) {
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}
// Of a matrix's codes on the device, in whole pairs of bands, as a device's own order may want them, and 64 readable
// bytes. A sparse matrix is int8 there.
static size_t code_bytes(const upg_tensor *t) {
    const size_t bands = ((size_t)t->rows + 15) / 16,
                 bytes = t->encoding == UPG_SPARSE ? upg_encoded_bytes(UPG_INT8, 0, t->rows, t->cols) : t->bytes;
    return aligned(bytes / bands * (bands + bands % 2) + 64);
}
static size_t matrix_bytes(const upg_tensor *t) {
    return code_bytes(t) + aligned((size_t)t->rows * sizeof(float));
}

static bool is_in_place(const upg_op *op) {
    return op->kind == UPG_OP_ADD || op->kind == UPG_OP_BIAS || op->kind == UPG_OP_HEAD_NORM;
}

// What is read how. A tied head is a matrix in two orders.
static void find_uses(gpu_backend *b, bool *embedded, bool *multiplied) {
    b->kept[b->program->logits] = true;
    for (int i = 0; i < b->program->n_ops; i++) {
        const upg_op *op = &b->program->ops[i];
        if (op->kind != UPG_OP_QUANTISE && op->kind != UPG_OP_LINEAR && op->kind != UPG_OP_EMBED)
            b->kept[op->in] = true;
        if (is_in_place(op)) b->kept[op->out] = true;
        if (op->kind == UPG_OP_EMBED) embedded[op->weight] = true;
        if (op->kind == UPG_OP_LINEAR) multiplied[op->weight] = true;
    }
}

// Expands a sparse matrix from scratch to where it is to be.
static int expand(gpu_backend *b, upg_gpu_matrix *m, upg_gpu_address scratch, upg_error *e) {
    const upg_gpu_launch l = {.kernel = UPG_GPU_kernel_expand,
                              .groups = {(m->args.rows + 255) / 256, m->args.cols / m->args.b, 1},
                              .weight = scratch,
                              .work = b->work,
                              .kv = m->data,
                              .args = &m->args};
    if (b->api->launch(b->gpu, &l, e)) return -1;
    m->args.encoding = UPG_INT8;
    m->args.s = 0;
    return 0;
}

static int write_matrix(gpu_backend *b, const upg_tensor *t, upg_gpu_address at, upg_gpu_address scratch,
                        upg_gpu_matrix *m, upg_error *e) {
    const size_t scales = code_bytes(t);
    if (scales / 4 > UINT32_MAX) return upg_fail(e, "tensor %s: too large for a GPU", t->name);
    const uint32_t n = (uint32_t)upg_pad16(t->cols);
    const bool sparse = t->encoding == UPG_SPARSE;
    *m = (upg_gpu_matrix){.data = at,
                          .args = {.encoding = (uint32_t)t->encoding,
                                   .s = (uint32_t)t->s,
                                   .rows = (uint32_t)t->rows,
                                   .cols = n,
                                   .b = (uint32_t)upg_block(n),
                                   .scale = (uint32_t)(scales / 4)}};
    return b->api->write(b->gpu, sparse ? scratch : at, t->data, t->bytes, e) || (sparse && expand(b, m, scratch, e)) ||
                   b->api->write(b->gpu, at + scales, t->scale, (size_t)t->rows * sizeof(float), e)
               ? -1
               : 0;
}

static int write_weights(gpu_backend *b, upg_gpu_address at, upg_gpu_address scratch, const bool *embedded,
                         const bool *multiplied, upg_error *e) {
    const upg_program *p = b->program;
    for (int i = 0; i < p->n_weights; i++) {
        const upg_tensor *t = p->weights[i];
        if (embedded[i]) {
            if (write_matrix(b, t, at, scratch, &b->embedded[i], e)) return -1;
            b->rows.embedding = b->embedded[i].args;
            at += matrix_bytes(t);
        }
        if (!multiplied[i]) continue;
        if (write_matrix(b, t, at, scratch, &b->matrices[i], e) ||
            (b->api->reorder && b->api->reorder(b->gpu, &b->matrices[i], code_bytes(t), scratch, e)))
            return -1;
        at += matrix_bytes(t);
    }
    return 0;
}

// The tables and vectors of the work memory.
static int write_constants(gpu_backend *b, upg_error *e) {
    const upg_config *c = b->program->config;
    const size_t n = (size_t)upg_pad16(b->program->max_inputs),
                 table = (size_t)b->options.n_positions * (size_t)c->rotary_dim / 2;
    size_t most = n > table ? n : table;
    for (int i = 0; i < b->program->n_weights; i++)
        if (b->program->weights[i]->rows == 1 && (size_t)b->program->weights[i]->cols > most)
            most = (size_t)b->program->weights[i]->cols;
    float *v = upg_alloc(2 * most, sizeof *v, e);
    if (!v) return -1;
    upg_rope_tables(c, b->options.n_positions, v, v + most);
    int rc = b->api->write(b->gpu, b->work + 4 * (uint64_t)b->rows.heads.cosine, v, table * sizeof *v, e) ||
             b->api->write(b->gpu, b->work + 4 * (uint64_t)b->rows.heads.sine, v + most, table * sizeof *v, e);
    for (size_t i = 0; i < n; i++) v[i] = upg_float(upg_sign(b->program->source->rotation_seed, i));
    rc = rc || b->api->write(b->gpu, b->work + 4 * (uint64_t)b->rows.sign, v, n * sizeof *v, e);
    for (int i = 0; i < b->program->n_weights && !rc; i++) {
        const upg_tensor *t = b->program->weights[i];
        if (t->rows != 1) continue;
        upg_tensor_floats(t, 0, t->cols, v);
        for (int64_t j = 0; j < t->cols && !rc; j++)
            if (!isfinite(v[j])) rc = upg_fail(e, "tensor %s: element %lld is not finite", t->name, (long long)j);
        rc = rc || b->api->write(b->gpu, b->work + 4 * (uint64_t)b->vectors[i], v, (size_t)t->cols * sizeof *v, e);
    }
    free(v);
    return rc ? -1 : 0;
}

int upg_gpu_no_room(size_t needed, size_t left, size_t all, const char *device, upg_error *e) {
    upg_fail(e, "%.3g GB of GPU memory are needed, and %.3g of %.3g GB are available on %s", (double)needed * 1e-9,
             (double)left * 1e-9, (double)all * 1e-9, device);
    return UPG_NO_ROOM;
}

static int reserve(gpu_backend *b, upg_error *e) {
    const upg_program *p = b->program;
    const upg_config *c = p->config;
    size_t weights = 0, largest = 0, n = (size_t)p->n_weights;
    bool *embedded = upg_arena_take(&b->host, n, 1, e), *multiplied = upg_arena_take(&b->host, n, 1, e);
    if (!embedded || !multiplied || !(b->buffers = upg_arena_take(&b->host, (size_t)p->n_buffers, 4, e)) ||
        !(b->kept = upg_arena_take(&b->host, (size_t)p->n_buffers, 1, e)) ||
        !(b->vectors = upg_arena_take(&b->host, n, 4, e)) ||
        !(b->matrices = upg_arena_take(&b->host, n, sizeof *b->matrices, e)) ||
        !(b->embedded = upg_arena_take(&b->host, n, sizeof *b->embedded, e)))
        return -1;
    find_uses(b, embedded, multiplied);
    for (size_t i = 0; i < n; i++) {
        const size_t bytes = matrix_bytes(p->weights[i]);
        weights += bytes * ((size_t)embedded[i] + (size_t)multiplied[i]); // norms are part of the work
        if (p->weights[i]->rows > 1 && bytes > largest) largest = bytes;
        if (p->weights[i]->rows > 1 && p->weights[i]->bytes > largest) largest = aligned(p->weights[i]->bytes);
    }
    lay_out_batch(b);
    lay_out_heads(b, c);
    lay_out_rows(b, c);
    b->attention.heads = b->rows.heads;
    if (b->too_large) return upg_fail(e, "%d rows of a batch are too many for a GPU", b->options.max_rows);
    const size_t rows = (size_t)b->options.max_rows, kv = (size_t)b->options.n_blocks * upg_kv_block_bytes(c),
                 work = (size_t)b->words * 4;
    if (!(b->staged = upg_arena_take(&b->host, b->batch_words, 4, e)) ||
        !(b->results = upg_arena_take(&b->host, b->result_words, 4, e)) ||
        !(b->flags = upg_arena_take(&b->host, rows, 1, e)) ||
        !(b->there = upg_arena_take(&b->host, (size_t)b->options.max_logits, 1, e)))
        return -1;
    if (b->api->pin) b->api->pin(b->gpu, b->staged, (size_t)b->batch_words * 4);
    if (b->api->pin) b->api->pin(b->gpu, b->results, (size_t)b->result_words * 4);
    // What is expanded or put into another order passes through the KV cache's memory.
    const size_t last = aligned(kv) > largest ? aligned(kv) : largest;
    b->bytes = work + weights + last;
    const int rc = b->api->reserve(b->gpu, b->bytes, &b->work, e);
    if (rc && b->options.no_room) *b->options.no_room = rc == UPG_NO_ROOM;
    if (!rc && b->options.fits) *b->options.fits = true;
    if (rc || b->options.fits) return -1;
    b->kv = b->work + work + weights;
    return write_constants(b, e) || write_weights(b, b->work + work, b->kv, embedded, multiplied, e) ||
                   b->api->clear(b->gpu, b->kv, last, e)
               ? -1
               : 0;
}

upg_backend *upg_gpu_create(const upg_backend_api *backend, const upg_gpu_api *device, const upg_program *program,
                            const upg_backend_options *options, upg_error *e) {
    gpu_backend *b = upg_alloc(1, sizeof *b, e);
    if (!b) return NULL;
    b->base.api = backend;
    b->api = device;
    b->program = program;
    b->options = *options;
    b->gpu = device->open(options, e);
    if (b->gpu && !reserve(b, e)) return &b->base;
    upg_gpu_destroy(&b->base);
    return NULL;
}

void upg_gpu_destroy(upg_backend *base) {
    gpu_backend *b = (gpu_backend *)base;
    if (!b) return;
    if (b->gpu) b->api->close(b->gpu); // before what it has pinned
    upg_arena_free(&b->host);
    free(b);
}

// ---- Running ----

// Cuts the batch into spans of at most `most` rows. Returns how many there are.
static uint32_t stage_spans(gpu_backend *b, const upg_batch *batch, uint32_t to, uint32_t most) {
    uint32_t *s = b->staged, *span = NULL, n = 0;
    for (uint32_t i = 0; i < b->n_rows; i++) {
        const bool follows =
            i && batch->blocks[i] == batch->blocks[i - 1] && batch->positions[i] == batch->positions[i - 1] + 1;
        if (!follows || span[1] == most) {
            span = s + to + 4 * n++;
            span[0] = i;
            span[1] = 0;
            span[2] = (uint32_t)batch->positions[i];
            span[3] = s[b->rows.batch.table + i];
        }
        span[1]++;
    }
    return n;
}

static void stage_batch(gpu_backend *b, const upg_batch *batch) {
    const gpu_batch *t = &b->rows.batch;
    uint32_t *s = b->staged, n_tables = 0, blocks = 1;
    const uint32_t n = (uint32_t)batch->n_rows, heads = b->attention.heads_a_group, most = GPU_QUERIES / heads;
    b->n_rows = n;
    b->n_wanted = 0;
    for (uint32_t i = 0; i < n; i++) {
        s[t->tokens + i] = (uint32_t)batch->tokens[i];
        s[t->positions + i] = (uint32_t)batch->positions[i];
        if (batch->wants[i]) s[t->wanted + b->n_wanted++] = i;
        const uint32_t used = (uint32_t)batch->positions[i] / UPG_KV_BLOCK + 1;
        if (used > blocks) blocks = used;
        if (!i || batch->blocks[i] != batch->blocks[i - 1]) n_tables++;
        const uint32_t table = b->tables + (n_tables - 1) * b->max_blocks;
        s[t->table + i] = table;
        memcpy(s + table, batch->blocks[i], used * sizeof *s); // rows of a sequence go up: the last has it all
    }
    s[t->counts] = stage_spans(b, batch, t->spans, most);
    s[t->counts + 1] = b->n_wide = 0;
    if (b->api->wide_queries && n > SPLIT_ROWS) {
        const gpu_heads *h = &b->attention.heads;
        b->wide_queries = b->api->wide_queries(b->gpu, h->head_dim, n * heads, h->n_kv_heads * b->attention.parts);
        s[t->counts + 1] = b->n_wide = stage_spans(b, batch, t->wide_spans, b->wide_queries / heads);
    }
    b->n_queries = 0;
    for (uint32_t i = 0; i < s[t->counts]; i++) {
        const uint32_t queries = s[t->spans + 4 * i + 1] * heads;
        if (queries > b->n_queries) b->n_queries = queries;
    }
    b->n_blocks = 1;
    while (b->n_blocks < blocks) b->n_blocks *= 2;
    if (b->n_blocks > b->max_blocks) b->n_blocks = b->max_blocks;
    b->staged_words = b->tables + n_tables * b->max_blocks;
}

// Behind the block tables: what the draws change.
static void stage_draws(gpu_backend *b, const upg_draw *draws) {
    uint32_t *s = b->staged;
    for (uint32_t i = 0; draws && i < b->n_wanted; i++) {
        const upg_draw *from = &draws[i];
        gpu_draw d = {.kind = !from->draws                ? SAMPLE_NONE
                              : from->temperature == 0.0f ? SAMPLE_GREEDY
                                                          : SAMPLE_DRAW,
                      .temperature = from->temperature,
                      .top_p = from->top_p,
                      .min_p = from->min_p,
                      .repeat_penalty = from->repeat_penalty,
                      .presence_penalty = from->presence_penalty,
                      .frequency_penalty = from->frequency_penalty,
                      .u = from->u,
                      .top_k = (uint32_t)from->top_k,
                      .edits = b->staged_words,
                      .n_edits = from->draws ? (uint32_t)from->n_edits : 0};
        memcpy(s + b->rows.batch.draws + i * DRAW_WORDS, &d, sizeof d);
        for (uint32_t k = 0; k < d.n_edits; k++) {
            const upg_draw_edit *e = &from->edits[k];
            const gpu_draw_edit edit = {(uint32_t)e->token, (uint32_t)e->what, e->bias, (uint32_t)e->count};
            memcpy(s + b->staged_words, &edit, sizeof edit);
            b->staged_words += EDIT_WORDS;
        }
    }
}

static gpu_row_op row_op(const gpu_backend *b, const upg_op *op) {
    const int *widths = b->program->widths;
    gpu_row_op r = {.kind = (uint32_t)op->kind, .n = (uint32_t)op->n, .count = (uint32_t)op->count};
    r.in = b->buffers[op->in];
    r.out = b->buffers[op->out] + (uint32_t)op->out_col;
    r.in_stride = (uint32_t)widths[op->in];
    r.out_stride = (uint32_t)widths[op->out];
    if (op->weight >= 0 && op->kind != UPG_OP_EMBED) r.vector = b->vectors[op->weight];
    r.kept = b->kept[op->out];
    r.gathered = b->gathered;
    r.rotated = op->kind == UPG_OP_EMBED ? !b->program->weights[op->weight]->unrotated : !op->unrotated;
    return r;
}

static int launch_rows(gpu_backend *b, const gpu_rows_args *a, upg_gpu_address weight, upg_error *e) {
    upg_gpu_launch l = {.kernel = UPG_GPU_kernel_rows, .groups = {b->n_rows, 1, 1}, .weight = weight, .work = b->work};
    l.kv = b->kv;
    l.args = a;
    if (b->api->rows) {
        const int rc = b->api->rows(b->gpu, &l, e);
        if (rc <= 0) return rc;
    }
    return b->api->launch(b->gpu, &l, e);
}

static bool is_row_op(upg_op_kind kind) {
    return kind != UPG_OP_LINEAR && kind != UPG_OP_ATTENTION;
}

// ops[i] and the row ops that follow it, as one launch. Returns the op after them, or -1.
static int run_rows(gpu_backend *b, int i, upg_error *e) {
    const upg_program *p = b->program;
    gpu_rows_args a = b->rows;
    upg_gpu_address weight = 0;
    a.n_ops = 0;
    do {
        const upg_op *op = &p->ops[i];
        if (op->kind == UPG_OP_GATHER) {
            b->gathered = true;
            b->n_rows = b->n_wanted;
        }
        if (op->kind == UPG_OP_EMBED) weight = b->embedded[op->weight].data;
        if (op->kind == UPG_OP_KV)
            a.heads.kv_layer = (uint32_t)((size_t)op->layer * a.heads.kv_stride / (size_t)p->config->n_layers);
        a.ops[a.n_ops++] = row_op(b, op);
        i++;
    } while (i < p->n_ops && is_row_op(p->ops[i].kind) && p->ops[i].kind != UPG_OP_GATHER && a.n_ops < GPU_ROW_OPS &&
             !b->options.seconds);
    return !b->n_rows || !launch_rows(b, &a, weight, e) ? i : -1;
}

// Whether nothing reads what is in a buffer, from an op of the program on.
static bool is_done_with(const gpu_backend *b, int buffer, int from) {
    for (int i = from; i < b->program->n_ops; i++) {
        const upg_op *op = &b->program->ops[i];
        if ((op->in == buffer && op->kind != UPG_OP_EMBED) || (op->out == buffer && (is_in_place(op) || op->out_col)))
            return false;
        if (op->out == buffer) return true;
    }
    return buffer != b->program->logits;
}

// Whether the op after a LINEAR op only adds what that gives to something, which the product can do itself. (Of many
// rows it would be slower: 7 % of a prompt.)
static bool is_added(const gpu_backend *b, const upg_op *op) {
    const upg_op *next = op + 1;
    const int i = (int)(next - b->program->ops);
    return b->n_rows <= ADD_ROWS && !b->options.seconds && i < b->program->n_ops && next->kind == UPG_OP_ADD &&
           next->in == op->out && !op->out_col && !next->out_col && next->n == (int)b->matrices[op->weight].args.rows &&
           next->n == b->program->widths[op->out] && is_done_with(b, op->out, i + 1);
}

// Returns how many ops that was.
static int run_linear(gpu_backend *b, const upg_op *op, upg_error *e) {
    const upg_gpu_matrix *m = &b->matrices[op->weight];
    const bool added = is_added(b, op);
    const int out = added ? op[1].out : op->out;
    gpu_linear_args a = {.w = m->args,
                         .x = b->rows.quantised,
                         .y = b->buffers[out] + (uint32_t)op->out_col,
                         .y_stride = (uint32_t)b->program->widths[out],
                         .add = added,
                         .n_rows = b->n_rows,
                         .check = op->out == b->program->logits, // what the program ends with
                         .flags = b->rows.batch.flags,
                         .wanted = b->rows.batch.wanted};
    upg_gpu_launch l = {.kernel = UPG_GPU_kernel_linear,
                        .groups = {(m->args.rows + 255) / 256, (b->n_rows + GPU_LINEAR_ROWS - 1) / GPU_LINEAR_ROWS, 1},
                        .weight = m->data,
                        .work = b->work,
                        .args = &a};
    int rc = b->api->linear ? b->api->linear(b->gpu, m, &l, e) : 1;
    if (rc > 0) rc = b->api->launch(b->gpu, &l, e);
    return rc ? -1 : 1 + added;
}

static int run_attention(gpu_backend *b, const upg_op *op, upg_error *e) {
    gpu_attention_args a = b->attention;
    const bool split = b->n_rows <= SPLIT_ROWS;
    a.out = b->buffers[op->out];
    a.out_stride = (uint32_t)b->program->widths[op->out];
    a.window = (uint32_t)op->window;
    a.heads.kv_layer = (uint32_t)((size_t)op->layer * a.heads.kv_stride / (size_t)b->program->config->n_layers);
    a.n_blocks = split ? b->n_blocks : 0;
    a.queries = b->n_queries;
    a.n_wide = b->n_wide;
    a.wide_queries = b->wide_queries;
    upg_gpu_launch l = {.kernel = b->n_queries <= 4 ? UPG_GPU_kernel_attention_4 : UPG_GPU_kernel_attention_8,
                        .groups = {b->n_rows, a.heads.n_kv_heads * a.parts, split ? b->n_blocks : 1},
                        .work = b->work,
                        .kv = b->kv,
                        .args = &a};
    if (b->api->attention) {
        const int rc = b->api->attention(b->gpu, &l, e);
        if (rc <= 0) return rc;
    }
    if (b->api->launch(b->gpu, &l, e)) return -1;
    if (!split) return 0;
    l.kernel = UPG_GPU_kernel_join;
    l.groups[1] = a.heads.n_heads;
    l.groups[2] = 1;
    return b->api->launch(b->gpu, &l, e);
}

// Waits for what runs, to time it.
static int wait(gpu_backend *b, upg_error *e) {
    return b->options.seconds ? b->api->read(b->gpu, b->results, b->work, 4, e) : 0;
}

static int run_draws(gpu_backend *b, upg_error *e) {
    const uint32_t vocab = (uint32_t)b->program->config->vocab_size;
    const gpu_sample_args a = {.batch = b->rows.batch, .logits = b->buffers[b->program->logits], .n = vocab};
    const upg_gpu_launch l = {
        .kernel = UPG_GPU_kernel_sample, .groups = {b->n_wanted, 1, 1}, .work = b->work, .args = &a};
    return b->api->launch(b->gpu, &l, e);
}

static int run_ops(gpu_backend *b, bool draws, upg_error *e) {
    const upg_program *p = b->program;
    b->gathered = false;
    for (int i = 0, next; i < p->n_ops && b->n_rows; i = next) {
        const double begin = upg_op_begin(&b->options);
        const upg_op *op = &p->ops[i];
        if (op->kind == UPG_OP_LINEAR) {
            const int n = run_linear(b, op, e);
            if (n < 0) return -1;
            next = i + n;
        } else if (op->kind == UPG_OP_ATTENTION) {
            if (run_attention(b, op, e)) return -1;
            next = i + 1;
        } else if ((next = run_rows(b, i, e)) < 0) {
            return -1;
        }
        if (wait(b, e)) return -1;
        upg_op_end(&b->options, i, begin);
    }
    return b->n_rows && draws ? run_draws(b, e) : 0;
}

static size_t logits_at(const gpu_backend *b, size_t i) {
    return b->buffers[b->program->logits] - b->rows.batch.flags + i * (size_t)b->program->config->vocab_size;
}
static int read_logits(const gpu_backend *b, size_t i, upg_error *e) {
    const size_t at = logits_at(b, i), bytes = (size_t)b->program->config->vocab_size * sizeof(float);
    if (b->there[i]) return 0;
    if (b->api->read(b->gpu, b->results + at, b->work + 4 * (b->rows.batch.flags + at), bytes, e)) return -1;
    b->there[i] = true;
    return 0;
}

// Reads the flags, what was drawn, and the logits that are wanted here: all, or by row those that were asked for and
// those that nothing could be drawn from.
static int read_results(gpu_backend *b, const upg_batch *batch, upg_error *e) {
    const size_t rows = (size_t)batch->n_rows, wanted = b->n_wanted;
    const uint32_t flags = b->rows.batch.flags, drawn = b->rows.batch.drawn - flags;
    const size_t words = !wanted ? rows : batch->draws ? drawn + wanted : logits_at(b, wanted);
    if (b->api->read(b->gpu, b->results, b->work + 4 * (uint64_t)flags, words * 4, e)) return -1;
    for (size_t i = 0; i < rows; i++) b->flags[i] = b->results[i] != 0;
    for (size_t i = 0; i < wanted; i++) {
        b->there[i] = !batch->draws;
        if (!batch->draws) b->results[drawn + i] = UINT32_MAX;
        if ((b->results[drawn + i] == UINT32_MAX || batch->draws[i].logits) && read_logits(b, i, e)) return -1;
    }
    return 0;
}

int upg_gpu_run(upg_backend *base, const upg_batch *batch, upg_error *e) {
    gpu_backend *b = (gpu_backend *)base;
    if (upg_batch_check(batch, b->program->config, &b->options, e)) return -1;
    stage_batch(b, batch);
    stage_draws(b, batch->draws);
    if (b->api->write(b->gpu, b->work, b->staged, (size_t)b->staged_words * 4, e)) return -1;
    if (batch->input) {
        const size_t values = b->n_rows * (size_t)b->program->widths[batch->input_buffer];
        if (b->api->write(b->gpu, b->work + 4 * (uint64_t)b->buffers[batch->input_buffer], batch->input,
                          values * sizeof(float), e) ||
            b->api->clear(b->gpu, b->work + 4 * (uint64_t)b->rows.batch.flags, b->n_rows * sizeof(uint32_t), e))
            return -1; // where there is no EMBED to clear the flags
    }
    const bool draws = batch->draws && b->n_wanted;
    const bool single = b->n_queries == b->attention.heads_a_group; // spans of one row
    const uint64_t key = (uint64_t)draws << 63 | (uint64_t)single << 62 | (uint64_t)b->n_rows << 40 |
                         (uint64_t)b->n_wanted << 20 | b->n_blocks << 1 | (b->n_queries > 4);
    const bool keep = b->api->begin && b->n_rows <= GRAPH_ROWS && !b->options.seconds;
    int begun = keep ? b->api->begin(b->gpu, key, e) : 0;
    if (begun < 0) return -1;
    if (!begun && (run_ops(b, draws, e) || (keep && b->api->end(b->gpu, key, e)))) return -1;
    return read_results(b, batch, e);
}

const float *upg_gpu_logits(const upg_backend *base, int i) {
    const gpu_backend *b = (const gpu_backend *)base;
    if (read_logits(b, (size_t)i, NULL)) return NULL;
    return (const float *)(const void *)(b->results + logits_at(b, (size_t)i));
}
int32_t upg_gpu_drawn(const upg_backend *base, int i) {
    const gpu_backend *b = (const gpu_backend *)base;
    return (int32_t)b->results[b->rows.batch.drawn - b->rows.batch.flags + (uint32_t)i];
}
const uint8_t *upg_gpu_flags(const upg_backend *base) {
    return ((const gpu_backend *)base)->flags;
}
const char *upg_gpu_path(const upg_backend *base) {
    const gpu_backend *b = (const gpu_backend *)base;
    return b->api->path(b->gpu);
}
size_t upg_gpu_memory(const upg_backend *base) {
    const gpu_backend *b = (const gpu_backend *)base;
    return b->bytes + b->host.bytes;
}

// ---- The KV cache: blocks lie as the CPU's do ----

static upg_gpu_address kv_block(const gpu_backend *b, int32_t block) {
    return b->kv + (uint64_t)block * upg_kv_block_bytes(b->program->config);
}
int upg_gpu_kv_read(const upg_backend *base, int32_t block, void *to, upg_error *e) {
    const gpu_backend *b = (const gpu_backend *)base;
    return b->api->read(b->gpu, to, kv_block(b, block), upg_kv_block_bytes(b->program->config), e);
}
int upg_gpu_kv_write(upg_backend *base, int32_t block, const void *from, upg_error *e) {
    const gpu_backend *b = (const gpu_backend *)base;
    if (upg_kv_check(b->program->config, from, e)) return -1;
    return b->api->write(b->gpu, kv_block(b, block), from, upg_kv_block_bytes(b->program->config), e);
}
int upg_gpu_kv_copy(upg_backend *base, int32_t from, int32_t to, upg_error *e) {
    const gpu_backend *b = (const gpu_backend *)base;
    return b->api->copy(b->gpu, kv_block(b, to), kv_block(b, from), upg_kv_block_bytes(b->program->config), e);
}
