// A model on two devices: the CPU has the embedding and the first layers, a GPU without room for all has the rest.
// Between them goes one buffer, so the bits are those of either.
//
// Each part is a backend of its own over a slice of the program, with a config of as many layers. A KV block lies layer
// by layer, so the parts' blocks, one behind the other, are a whole one.
#include "backend/backend.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct part {
    upg_config config;
    upg_program program; // its ops are its own, the rest the whole program's
    upg_backend *backend;
} part;

typedef struct split_backend {
    upg_backend base;
    upg_backend_api api; // the GPU's name, these functions
    part first, rest;
    int handed;        // the buffer between them
    uint8_t *no_wants; // [max_rows] zeros
    uint8_t *flags;    // [max_rows]
    char path[160];
} split_backend;

static bool reads_in(const upg_op *op) {
    return op->kind != UPG_OP_EMBED && op->kind != UPG_OP_HEAD_NORM && op->kind != UPG_OP_BIAS;
}
static bool reads_out(const upg_op *op) {
    return op->kind == UPG_OP_ADD || op->kind == UPG_OP_HEAD_NORM || op->kind == UPG_OP_BIAS;
}

// The op behind the last of layer k, or -1: then the program has no such place.
static int end_of_layer(const upg_program *p, int k) {
    int end = -1;
    for (int i = 0; i < p->n_ops; i++)
        if (p->ops[i].kind == UPG_OP_ADD && p->ops[i].layer == k) end = i + 1;
    return end;
}

// The one buffer that the ops from `from` on read before they write it, or -1 if there is another.
static int buffer_between(const upg_program *p, int from, upg_error *e) {
    bool *written = upg_alloc((size_t)p->n_buffers, 1, e);
    int live = -1;
    bool single = written != NULL;
    for (int i = from; i < p->n_ops && single; i++) {
        const upg_op *op = &p->ops[i];
        const int reads[2] = {reads_in(op) ? op->in : -1, reads_out(op) ? op->out : -1};
        for (int k = 0; k < 2; k++)
            if (reads[k] >= 0 && !written[reads[k]] && reads[k] != live) {
                single = live < 0;
                live = reads[k];
            }
        if (!reads_out(op) && op->kind != UPG_OP_QUANTISE) written[op->out] = true;
    }
    free(written);
    return single ? live : -1;
}

// Ops from..end-1, the first of which belong to layer `layer`.
static int slice(part *to, const upg_program *p, int from, int end, int layer, int n_layers, upg_error *e) {
    to->config = *p->config;
    to->config.n_layers = n_layers;
    memmove(to->config.full_attention, p->config->full_attention + layer, (size_t)n_layers * sizeof(bool));
    to->program = *p;
    to->program.config = &to->config;
    to->program.n_ops = end - from;
    to->program.ops = upg_alloc((size_t)(end - from), sizeof(upg_op), e);
    if (!to->program.ops) return -1;
    memcpy(to->program.ops, p->ops + from, (size_t)(end - from) * sizeof(upg_op));
    for (int i = 0; i < end - from; i++)
        if (to->program.ops[i].kind == UPG_OP_KV || to->program.ops[i].kind == UPG_OP_ATTENTION)
            to->program.ops[i].layer -= layer;
    return 0;
}

static void free_part(part *p) {
    if (p->backend) p->backend->api->destroy(p->backend);
    free(p->program.ops);
    *p = (part){.backend = NULL};
}

static void destroy(upg_backend *base) {
    split_backend *b = (split_backend *)base;
    if (!b) return;
    free_part(&b->first);
    free_part(&b->rest);
    free(b->no_wants);
    free(b->flags);
    free(b);
}

static int run(upg_backend *base, const upg_batch *batch, upg_error *e) {
    split_backend *b = (split_backend *)base;
    upg_batch of_part = *batch;
    of_part.wants = b->no_wants;
    of_part.draws = NULL;
    if (b->first.backend->api->run(b->first.backend, &of_part, e)) return -1;
    of_part.wants = batch->wants;
    of_part.draws = batch->draws;
    of_part.input = b->first.backend->api->rows(b->first.backend, b->handed);
    of_part.input_buffer = b->handed;
    if (b->rest.backend->api->run(b->rest.backend, &of_part, e)) return -1;
    const uint8_t *one = b->first.backend->api->flags(b->first.backend),
                  *other = b->rest.backend->api->flags(b->rest.backend);
    for (int i = 0; i < batch->n_rows; i++) b->flags[i] = one[i] | other[i];
    return 0;
}

static const float *logits(const upg_backend *base, int i) {
    const split_backend *b = (const split_backend *)base;
    return b->rest.backend->api->logits(b->rest.backend, i);
}
static int32_t drawn(const upg_backend *base, int i) {
    const split_backend *b = (const split_backend *)base;
    return b->rest.backend->api->drawn(b->rest.backend, i);
}
static const uint8_t *flags(const upg_backend *base) {
    return ((const split_backend *)base)->flags;
}
static const char *path(const upg_backend *base) {
    return ((const split_backend *)base)->path;
}
static size_t memory(const upg_backend *base) {
    const split_backend *b = (const split_backend *)base;
    return b->first.backend->api->memory(b->first.backend) + b->rest.backend->api->memory(b->rest.backend);
}

// ---- KV blocks: the first part's bytes, then the rest's ----

static size_t first_bytes(const split_backend *b) {
    return upg_kv_block_bytes(&b->first.config);
}
static int kv_read(const upg_backend *base, int32_t block, void *to, upg_error *e) {
    const split_backend *b = (const split_backend *)base;
    return b->first.backend->api->kv_read(b->first.backend, block, to, e) ||
                   b->rest.backend->api->kv_read(b->rest.backend, block, (uint8_t *)to + first_bytes(b), e)
               ? -1
               : 0;
}
static int kv_write(upg_backend *base, int32_t block, const void *from, upg_error *e) {
    split_backend *b = (split_backend *)base;
    const uint8_t *rest = (const uint8_t *)from + first_bytes(b);
    if (upg_kv_check(&b->rest.config, rest, e)) return -1; // before the first part is written
    return b->first.backend->api->kv_write(b->first.backend, block, from, e) ||
                   b->rest.backend->api->kv_write(b->rest.backend, block, rest, e)
               ? -1
               : 0;
}
static int kv_copy(upg_backend *base, int32_t from, int32_t to, upg_error *e) {
    split_backend *b = (split_backend *)base;
    return b->first.backend->api->kv_copy(b->first.backend, from, to, e) ||
                   b->rest.backend->api->kv_copy(b->rest.backend, from, to, e)
               ? -1
               : 0;
}

// ---- Making ----

// The rest from layer k on, on the GPU.
static int make_rest(split_backend *b, const upg_backend_api *gpu, const upg_program *p, int k,
                     const upg_backend_options *options, upg_error *e) {
    const int from = end_of_layer(p, k - 1);
    free_part(&b->rest);
    if (from < 0 || (b->handed = buffer_between(p, from, e)) < 0)
        return upg_fail(e, "this program cannot be split between devices");
    if (slice(&b->rest, p, from, p->n_ops, k, p->config->n_layers - k, e)) return -1;
    upg_backend_options o = *options;
    if (o.seconds) o.seconds += from;
    b->rest.backend = gpu->create(&b->rest.program, &o, e);
    return b->rest.backend ? 0 : -1;
}

// The fewest layers for the CPU with which the rest fits, found by trying: a GPU says at once if it does not.
static int place(split_backend *b, const upg_backend_api *gpu, const upg_program *p, const upg_backend_options *options,
                 upg_error *e) {
    int low = 1, high = p->config->n_layers - 1; // fits nowhere below low; high may fit
    bool no_room = false, fits = false;
    upg_backend_options o = *options;
    o.no_room = &no_room;
    o.fits = &fits;
    while (low < high) {
        const int k = (low + high) / 2;
        no_room = fits = false;
        make_rest(b, gpu, p, k, &o, e);
        if (fits)
            high = k;
        else if (no_room)
            low = k + 1;
        else
            return -1;
    }
    if (make_rest(b, gpu, p, high, options, e)) return -1;
    if (slice(&b->first, p, 0, end_of_layer(p, high - 1), 0, high, e)) return -1;
    b->first.backend = upg_backend_cpu.create(&b->first.program, options, e);
    return b->first.backend ? 0 : -1;
}

upg_backend *upg_backend_split(const upg_backend_api *gpu, const upg_program *program,
                               const upg_backend_options *options, upg_error *e) {
    const size_t rows = (size_t)options->max_rows;
    split_backend *b = program->config->n_layers > 1 ? upg_alloc(1, sizeof *b, e) : NULL;
    if (!b || !(b->no_wants = upg_alloc(rows, 1, e)) || !(b->flags = upg_alloc(rows, 1, e)) ||
        place(b, gpu, program, options, e)) {
        destroy((upg_backend *)b);
        return NULL;
    }
    b->base.api = &b->api;
    b->api = (upg_backend_api){.name = gpu->name,
                               .accepts = gpu->accepts,
                               .destroy = destroy,
                               .run = run,
                               .logits = logits,
                               .drawn = gpu->drawn ? drawn : NULL,
                               .flags = flags,
                               .path = path,
                               .memory = memory,
                               .kv_bytes = upg_kv_block_bytes,
                               .kv_read = kv_read,
                               .kv_write = kv_write,
                               .kv_copy = kv_copy,
                               .kv_layout = UPG_KV_LAYOUT};
    snprintf(b->path, sizeof b->path, "%s, %d of %d layers on the CPU", b->rest.backend->api->path(b->rest.backend),
             b->first.config.n_layers, program->config->n_layers);
    return &b->base;
}
