// Running text through the original and through the model compressed so far, part by part. See calibrate.h.
#include "compress/calibrate.h"
#include "backend/fp32/fp32.h"
#include "program/ops.h"
#include <cblas.h>
#include <stdlib.h>

enum { ORIGINAL, COMPRESSED }; // streams; with original_only the first is both

enum { MOMENT_BLOCK = 256 }; // moments are summed in squares of this size, a task each

typedef struct part {
    int first, last; // ops first..last-1
    int buffer;      // what is live before them, or -1
} part;

struct upg_calibrator {
    const upg_program *program;
    upg_calibration text;
    upg_pool *pool;
    upg_backend *backend;
    int n_streams;
    part *parts; // [n_parts]
    int n_parts, at;
    float *streams[2];      // ORIGINAL, COMPRESSED: [n_tokens][width of the live buffer]
    float **replaced;       // [n_weights]
    int32_t *positions;     // [window]
    int32_t *blocks;        // [window / UPG_KV_BLOCK + 1]
    const int32_t **tables; // [window]
    uint8_t *wants;         // [window]
    // The inputs at the op asked for, of one window.
    int op, n, b;
    float *inputs[2]; // [window][n] rotated
    float *rotated;   // where the stream that runs puts them
    const float *x;
    int stride;
    uint32_t *sign; // [n]
    upg_moments *moments;
};

// ---- Parts ----

static bool writes_all(const upg_op *o) {
    return o->kind == UPG_OP_EMBED || (o->in != o->out && o->kind != UPG_OP_ADD && o->out_col == 0);
}

// live: [n_buffers] what ops from here on read, becomes what ops from `op` on read.
static int step_back(const upg_op *op, uint8_t *live, int n_live) {
    if (writes_all(op) && live[op->out]) {
        live[op->out] = 0;
        n_live--;
    }
    const int reads[] = {op->kind == UPG_OP_EMBED ? -1 : op->in, op->kind == UPG_OP_ADD ? op->out : -1};
    for (int i = 0; i < 2; i++)
        if (reads[i] >= 0 && !live[reads[i]]) {
            live[reads[i]] = 1;
            n_live++;
        }
    return n_live;
}

// Parts from the last to the first, then turned round. Nothing is cut behind GATHER, where rows are no tokens any more.
static int find_parts(upg_calibrator *c, upg_error *e) {
    const upg_program *p = c->program;
    uint8_t *live = upg_alloc((size_t)p->n_buffers, 1, e);
    c->parts = upg_alloc((size_t)p->n_ops, sizeof *c->parts, e);
    if (!live || !c->parts) {
        free(live);
        return -1;
    }
    int n_live = 1, last = p->n_ops;
    bool may_cut = false;
    live[p->logits] = 1;
    for (int i = p->n_ops - 1; i >= 0; i--) {
        n_live = step_back(&p->ops[i], live, n_live);
        may_cut |= p->ops[i].kind == UPG_OP_GATHER;
        if (i > 0 && (!may_cut || n_live != 1)) continue;
        part *new_part = &c->parts[c->n_parts++];
        *new_part = (part){i, last, -1};
        for (int k = 0; i > 0 && k < p->n_buffers; k++)
            if (live[k]) new_part->buffer = k;
        last = i;
    }
    free(live);
    for (int i = 0; i < c->n_parts / 2; i++) {
        part swap = c->parts[i];
        c->parts[i] = c->parts[c->n_parts - 1 - i];
        c->parts[c->n_parts - 1 - i] = swap;
    }
    return 0;
}

// ---- Setting up ----

void upg_moments_free(upg_moments *m) {
    free(m->h);
    free(m->c);
    *m = (upg_moments){0};
}

void upg_calibrator_free(upg_calibrator *c) {
    if (!c) return;
    for (int i = 0; c->replaced && i < c->program->n_weights; i++) free(c->replaced[i]);
    if (c->backend) c->backend->api->destroy(c->backend);
    for (int i = 0; i < 2; i++) free(c->streams[i]);
    free(c->parts);
    free(c->replaced);
    free(c->positions);
    free(c->blocks);
    free(c->tables);
    free(c->wants);
    free(c);
}

static int reserve(upg_calibrator *c, upg_error *e) {
    size_t window = (size_t)c->text.window, n_blocks = (window + UPG_KV_BLOCK - 1) / UPG_KV_BLOCK;
    int width = 0;
    for (int i = 0; i < c->n_parts; i++)
        if (c->parts[i].buffer >= 0 && c->program->widths[c->parts[i].buffer] > width)
            width = c->program->widths[c->parts[i].buffer];
    for (int i = 0; i < c->n_streams; i++)
        if (!(c->streams[i] = upg_alloc((size_t)c->text.n_windows * window, (size_t)width * sizeof(float), e)))
            return -1;
    if (!(c->replaced = upg_alloc((size_t)c->program->n_weights, sizeof *c->replaced, e)) ||
        !(c->positions = upg_alloc(window, sizeof *c->positions, e)) ||
        !(c->blocks = upg_alloc(n_blocks, sizeof *c->blocks, e)) ||
        !(c->tables = upg_alloc(window, sizeof *c->tables, e)) || !(c->wants = upg_alloc(window, 1, e)))
        return -1;
    for (size_t i = 0; i < window; i++) {
        c->positions[i] = (int32_t)i;
        c->tables[i] = c->blocks;
        c->wants[i] = 1;
    }
    for (size_t i = 0; i < n_blocks; i++) c->blocks[i] = (int32_t)i;
    upg_backend_options o = {.max_rows = (int)window,
                             .max_logits = 1,
                             .n_positions = (int)window,
                             .n_blocks = (int)n_blocks,
                             .pool = c->pool};
    return (c->backend = upg_backend_fp32.create(c->program, &o, e)) ? 0 : -1;
}

upg_calibrator *upg_calibrator_new(const upg_program *program, const upg_calibration *calibration, upg_pool *pool,
                                   upg_error *e) {
    upg_calibrator *c = upg_alloc(1, sizeof *c, e);
    if (!c) return NULL;
    c->program = program;
    c->text = *calibration;
    c->n_streams = calibration->original_only ? 1 : 2;
    c->pool = pool;
    if (find_parts(c, e) || reserve(c, e)) {
        upg_calibrator_free(c);
        return NULL;
    }
    return c;
}

// ---- Running ----

// Runs ops first..last-1 of window w of a stream; what is live before them is taken from the stream if they begin a
// part, and goes back to it if they end one.
static int run_window(upg_calibrator *c, int stream, int w, int last, const upg_fp32_tap *tap, upg_error *e) {
    const part *p = &c->parts[c->at];
    const size_t window = (size_t)c->text.window, first = (size_t)w * window;
    upg_batch batch = {c->text.window, c->text.tokens + first, c->positions, c->tables, c->wants};
    for (int i = p->first; i < p->last; i++)
        if (c->program->ops[i].weight >= 0) {
            int weight = c->program->ops[i].weight;
            upg_fp32_replace(c->backend, weight, stream == COMPRESSED ? c->replaced[weight] : NULL);
        }
    if (p->buffer >= 0) {
        size_t width = (size_t)c->program->widths[p->buffer];
        memcpy(upg_fp32_buffer(c->backend, p->buffer), c->streams[stream] + first * width,
               window * width * sizeof(float));
    }
    if (upg_fp32_run_part(c->backend, &batch, p->first, last, tap, e)) return -1;
    if (last == p->last) {
        int buffer = c->parts[c->at + 1].buffer;
        size_t width = (size_t)c->program->widths[buffer];
        memcpy(c->streams[stream] + first * width, upg_fp32_buffer(c->backend, buffer), window * width * sizeof(float));
    }
    return 0;
}

// Ends the part at hand for both streams.
static int finish_part(upg_calibrator *c, upg_error *e) {
    for (int w = 0; w < c->text.n_windows; w++) {
        for (int stream = 0; stream < c->n_streams; stream++)
            if (run_window(c, stream, w, c->parts[c->at].last, NULL, e)) return -1;
        if (c->text.tick && c->text.tick(c->text.tick_ctx, e)) return -1;
    }
    for (int i = 0; i < c->program->n_weights; i++) {
        upg_fp32_replace(c->backend, i, NULL);
        free(c->replaced[i]);
        c->replaced[i] = NULL;
    }
    c->at++;
    return 0;
}

static void rotate_task(void *ctx, int row, int thread) {
    (void)thread;
    upg_calibrator *c = ctx;
    const float *x = c->x + (size_t)row * (size_t)c->stride;
    float *y = c->rotated + (size_t)row * (size_t)c->n, norm = 1.0f / sqrtf((float)c->b);
    int cols = c->program->widths[c->program->ops[c->op].in];
    for (int i = 0; i < c->n; i++) y[i] = i < cols ? upg_float(upg_bits(x[i]) ^ c->sign[i]) : 0.0f;
    hadamard(y, c->n, c->b);
    for (int i = 0; i < c->n; i++) y[i] *= norm;
}

static void take_input(void *ctx, int op, const float *x, int n_rows, int stride) {
    upg_calibrator *c = ctx;
    if (op != c->op) return;
    c->x = x;
    c->stride = stride;
    upg_pool_run(c->pool, rotate_task, c, n_rows);
}

// A square of h (tasks of the first half; the lower triangle is enough) or of c.
static void moment_task(void *ctx, int task, int thread) {
    (void)thread;
    upg_calibrator *c = ctx;
    int side = (c->n + MOMENT_BLOCK - 1) / MOMENT_BLOCK, n = c->n, last = c->n_streams - 1;
    bool cross = task >= side * side;
    int i = task / side % side * MOMENT_BLOCK, j = task % side * MOMENT_BLOCK;
    int ni = n - i < MOMENT_BLOCK ? n - i : MOMENT_BLOCK, nj = n - j < MOMENT_BLOCK ? n - j : MOMENT_BLOCK;
    if (!cross && j > i) return;
    float *out = (cross ? c->moments->c : c->moments->h) + (size_t)i * (size_t)n + j;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, ni, nj, c->text.window, 1.0f,
                c->inputs[cross ? ORIGINAL : last] + i, n, c->inputs[last] + j, n, 1.0f, out, n);
}

static void scale(float *m, size_t n, double factor) {
    for (size_t i = 0; m && i < n * n; i++) m[i] = (float)(m[i] * factor);
}

static int sum_moments(upg_calibrator *c, upg_error *e) {
    int side = (c->n + MOMENT_BLOCK - 1) / MOMENT_BLOCK;
    upg_fp32_tap tap = {take_input, c};
    for (int w = 0; w < c->text.n_windows; w++) {
        for (int stream = 0; stream < c->n_streams; stream++) {
            c->rotated = c->inputs[stream];
            if (run_window(c, stream, w, c->op + 1, &tap, e)) return -1;
        }
        upg_pool_run(c->pool, moment_task, c, c->n_streams * side * side);
        if (c->text.tick && c->text.tick(c->text.tick_ctx, e)) return -1;
    }
    double share = 1.0 / ((double)c->text.n_windows * c->text.window);
    scale(c->moments->h, (size_t)c->n, share);
    scale(c->moments->c, (size_t)c->n, share);
    return 0;
}

static int reserve_inputs(upg_calibrator *c, upg_moments *m, upg_error *e) {
    size_t n = (size_t)c->n, window = (size_t)c->text.window;
    if (!(c->sign = upg_alloc(n, sizeof *c->sign, e)) || !(m->h = upg_alloc(n * n, sizeof *m->h, e))) return -1;
    if (c->n_streams == 2 && !(m->c = upg_alloc(n * n, sizeof *m->c, e))) return -1;
    for (int i = 0; i < c->n_streams; i++)
        if (!(c->inputs[i] = upg_alloc(window * n, sizeof(float), e))) return -1;
    for (size_t i = 0; i < n; i++) c->sign[i] = upg_sign(c->text.rotation_seed, i);
    return 0;
}

int upg_calibrator_moments(upg_calibrator *c, int op, upg_moments *m, upg_error *e) {
    while (op >= c->parts[c->at].last)
        if (finish_part(c, e)) return -1;
    c->op = op;
    c->n = (c->program->widths[c->program->ops[op].in] + 15) & ~15;
    c->b = upg_block(c->n);
    c->moments = m;
    *m = (upg_moments){.n = c->n};
    int rc = reserve_inputs(c, m, e) || sum_moments(c, e) ? -1 : 0;
    if (rc) upg_moments_free(m);
    free(c->sign);
    c->sign = NULL;
    for (int i = 0; i < 2; i++) {
        free(c->inputs[i]);
        c->inputs[i] = NULL;
    }
    return rc;
}

void upg_calibrator_replace(upg_calibrator *c, int weight, float *values) {
    free(c->replaced[weight]);
    c->replaced[weight] = values;
}
