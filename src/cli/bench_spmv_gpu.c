// The products of upg bench spmv on a GPU. A program that multiplies the same matrix many times is one submission; two
// such programs of different lengths give the time of a product, without what starting and ending one takes.
#include "cli/bench.h"
#include "backend/backend.h"
#include "engine/model.h"
#include "program/numbers.h"
#include <stdlib.h>

enum { FEW = 40, MANY = 240 };

typedef struct program {
    upg_config config;
    upg_weights source;
    upg_tensor w;
    const upg_tensor *weights[1];
    int widths[2];
    upg_op ops[2 * MANY + 1];
    upg_program p;
    upg_backend *backend;
} program;

// Row 0 of the matrix is the input; then `n` times a product, its quantising and rotating included.
static int program_new(program *g, const upg_tensor *w, int n, upg_pool *pool, upg_error *e) {
    const int size = (int)w->rows;
    g->w = *w;
    g->config = (upg_config){.vocab_size = size, .hidden_size = size, .n_layers = 1, .n_heads = 1, .n_kv_heads = 1};
    g->config.head_dim = g->config.rotary_dim = 16;
    g->config.rope_theta = 10000;
    g->config.rms_eps = 1e-5f;
    g->source = (upg_weights){.tensors = &g->w, .n = 1, .compressed = true};
    g->weights[0] = &g->w;
    g->widths[0] = g->widths[1] = size;
    g->p = (upg_program){.config = &g->config,
                         .source = &g->source,
                         .weights = g->weights,
                         .ops = g->ops,
                         .widths = g->widths,
                         .n_weights = 1,
                         .n_buffers = 2,
                         .logits = 1,
                         .max_inputs = size};
    g->ops[g->p.n_ops++] = (upg_op){.kind = UPG_OP_EMBED, .n = size};
    for (int i = 0; i < n; i++) {
        g->ops[g->p.n_ops++] = (upg_op){.kind = UPG_OP_QUANTISE, .n = size, .weight = -1, .unrotated = w->unrotated};
        g->ops[g->p.n_ops++] = (upg_op){.kind = UPG_OP_LINEAR, .out = 1, .n = size};
    }
    const upg_backend_options o = {.max_rows = 1, .max_logits = 1, .n_positions = 256, .n_blocks = 1, .pool = pool};
    g->backend = upg_backend_new(&g->p, &o, e);
    return g->backend ? 0 : -1;
}

static void program_free(program *g) {
    if (g && g->backend) g->backend->api->destroy(g->backend);
    free(g);
}

static int run_program(program *g, double *seconds, upg_error *e) {
    const int32_t zero = 0, *table = &zero;
    const uint8_t wants = 0;
    const upg_batch batch = {.n_rows = 1, .tokens = &zero, .positions = &zero, .blocks = &table, .wants = &wants};
    const double start = upg_now();
    const int rc = g->backend->api->run(g->backend, &batch, e);
    *seconds = upg_now() - start;
    return rc;
}

int bench_spmv_gpu(const upg_tensor *w, const char *name, int repeats, upg_pool *pool, bench_rows *rows, upg_error *e) {
    program *few = upg_alloc(1, sizeof *few, e), *many = upg_alloc(1, sizeof *many, e);
    double *seconds = upg_alloc((size_t)repeats, sizeof *seconds, e), less, more;
    int rc =
        few && many && seconds && !program_new(few, w, FEW, pool, e) && !program_new(many, w, MANY, pool, e) ? 0 : -1;
    for (int i = -3; i < repeats && !rc; i++) { // the first make graphs
        rc = run_program(few, &less, e) || run_program(many, &more, e) ? -1 : 0;
        if (i >= 0) seconds[i] = (more - less) / (MANY - FEW);
        if (!rc && cli_interrupted) rc = upg_fail(e, "interrupted");
    }
    if (!rc) rc = bench_rows_add(rows, name, (int)w->rows, seconds, repeats, e);
    program_free(few);
    program_free(many);
    free(seconds);
    return rc;
}
