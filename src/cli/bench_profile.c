// A model's ops, timed one by one. See bench.h.
#include "cli/bench.h"
#include "program/numbers.h"
#include <stdlib.h>
#include <string.h>

enum { WIDE = 512 };

int bench_profile_new(bench_profile *p, const upg_model *m, int n_threads, int max_rows, int n_positions,
                      upg_error *e) {
    size_t rows = (size_t)max_rows, n_blocks = (size_t)(n_positions + UPG_KV_BLOCK - 1) / UPG_KV_BLOCK;
    *p = (bench_profile){.model = m, .max_rows = max_rows};
    upg_arena *a = &p->memory;
    if (!(p->seconds = upg_arena_take(a, (size_t)m->program->n_ops, sizeof *p->seconds, e)) ||
        !(p->tokens = upg_arena_take(a, rows, sizeof *p->tokens, e)) ||
        !(p->positions = upg_arena_take(a, rows, sizeof *p->positions, e)) ||
        !(p->table = upg_arena_take(a, n_blocks, sizeof *p->table, e)) ||
        !(p->blocks = upg_arena_take(a, rows, sizeof *p->blocks, e)) || !(p->wants = upg_arena_take(a, rows, 1, e)) ||
        !(p->pool = upg_pool_new(n_threads, e)))
        return -1;
    for (size_t i = 0; i < n_blocks; i++) p->table[i] = (int32_t)i;
    for (size_t i = 0; i < rows; i++) p->blocks[i] = p->table;
    upg_backend_options o = {.max_rows = max_rows,
                             .max_logits = 1,
                             .n_positions = n_positions,
                             .n_blocks = (int)n_blocks,
                             .pool = p->pool,
                             .seconds = p->seconds};
    p->backend = upg_backend_new(m->program, &o, e);
    return p->backend ? 0 : -1;
}

void bench_profile_free(bench_profile *p) {
    if (p->backend) p->backend->api->destroy(p->backend);
    upg_pool_free(p->pool);
    upg_arena_free(&p->memory);
}

int bench_profile_run(bench_profile *p, int first, int n, bool logits, upg_error *e) {
    if (cli_interrupted) return upg_fail(e, "interrupted");
    memset(p->seconds, 0, (size_t)p->model->program->n_ops * sizeof *p->seconds);
    memset(p->wants, 0, (size_t)n);
    p->wants[n - 1] = logits;
    for (int i = 0; i < n; i++) {
        p->positions[i] = first + i;
        p->tokens[i] = bench_token(p->model, first + i);
    }
    upg_batch batch = {
        .n_rows = n, .tokens = p->tokens, .positions = p->positions, .blocks = p->blocks, .wants = p->wants};
    if (p->backend->api->run(p->backend, &batch, e)) return -1;
    if (p->backend->api->flags(p->backend)[n - 1]) return upg_fail(e, "the model met a value that is not finite");
    return 0;
}

int bench_profile_fill(bench_profile *p, int n, upg_error *e) {
    for (int at = 0; at < n; at += p->max_rows)
        if (bench_profile_run(p, at, n - at < p->max_rows ? n - at : p->max_rows, false, e)) return -1;
    return 0;
}

int bench_peak_products(const upg_model *m, int n_threads, double *speed, upg_error *e) {
    bench_profile p;
    int n = m->config.max_positions < WIDE ? m->config.max_positions : WIDE;
    int rc = bench_profile_new(&p, m, n_threads, n, n, e) || bench_profile_run(&p, 0, n, false, e) ? -1 : 0;
    *speed = 0;
    for (int i = 0; i < m->program->n_ops && !rc; i++) {
        const upg_op *op = &m->program->ops[i];
        if (op->kind != UPG_OP_LINEAR || !(p.seconds[i] > 0)) continue;
        double products = (double)m->program->weights[op->weight]->rows * op->n * n;
        if (products / p.seconds[i] > *speed) *speed = products / p.seconds[i];
    }
    bench_profile_free(&p);
    return rc;
}
