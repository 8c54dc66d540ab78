// Sessions: sequences over a pool of KV blocks, and batches. Everything is reserved in upg_session_new; a run allocates
// nothing.
#include "backend/backend.h"
#include "engine/model.h"
#include "engine/session.h"
#include "program/numbers.h"
#include "upg.h"
#include <stdlib.h>
#include <string.h>

typedef struct sequence {
    int length;
    int32_t *blocks; // [max_blocks] pool blocks; the first ceil(length/256) are taken
} sequence;

struct upg_session {
    const upg_model *model;
    upg_session_options options;
    upg_pool *pool;
    upg_backend *backend;
    sequence *sequences;  // [n_sequences]
    int32_t *tables;      // [n_sequences][max_blocks]
    int32_t *free_blocks; // stack
    int *refs;            // [n_blocks]
    int n_blocks, n_free, max_blocks;
    // The batch being run.
    int32_t *tokens, *positions;
    const int32_t **blocks;
    uint8_t *wants;
    int *grown;    // [n_sequences] rows the batch adds
    upg_row *rows; // for prefill
    upg_progress *progress;
    void *progress_ctx;
};

static int check_options(upg_session_options *o, const upg_model *m, upg_error *e) {
    if (o->context <= 0) o->context = m->config.max_positions;
    if (o->n_sequences <= 0) o->n_sequences = 1;
    if (o->max_rows <= 0) o->max_rows = 256;
    if (o->max_logits <= 0) o->max_logits = 1;
    if (o->context > m->config.max_positions)
        return upg_fail(e, "context %d: the model was made for at most %d", o->context, m->config.max_positions);
    if (o->n_sequences > 65536 || o->max_rows > 65536 || o->max_logits > o->max_rows)
        return upg_fail(e, "%d sequences, %d rows, %d logits: out of range", o->n_sequences, o->max_rows,
                        o->max_logits);
    return 0;
}

static int reserve(upg_session *s, upg_error *e) {
    const upg_session_options *o = &s->options;
    size_t rows = (size_t)o->max_rows, seqs = (size_t)o->n_sequences;
    s->max_blocks = (o->context + UPG_KV_BLOCK - 1) / UPG_KV_BLOCK;
    size_t n_entries = seqs * (size_t)s->max_blocks,
           block_bytes = upg_backend_kv_bytes(&s->model->weights, &s->model->config);
    size_t n_blocks = o->kv_bytes ? o->kv_bytes / block_bytes : n_entries;
    if (n_entries > INT32_MAX || n_blocks > INT32_MAX)
        return upg_fail(e, "%d sequences of %d positions are too many", o->n_sequences, o->context);
    if (n_blocks < (size_t)s->max_blocks)
        return upg_fail(e, "%zu bytes for keys and values; a context of %d takes %zu", o->kv_bytes, o->context,
                        (size_t)s->max_blocks * block_bytes);
    s->n_blocks = (int)n_blocks;
    if (!(s->sequences = upg_alloc(seqs, sizeof *s->sequences, e)) ||
        !(s->tables = upg_alloc(n_entries, sizeof *s->tables, e)) ||
        !(s->free_blocks = upg_alloc(n_blocks, sizeof *s->free_blocks, e)) ||
        !(s->refs = upg_alloc(n_blocks, sizeof *s->refs, e)) || !(s->tokens = upg_alloc(rows, sizeof *s->tokens, e)) ||
        !(s->positions = upg_alloc(rows, sizeof *s->positions, e)) ||
        !(s->blocks = upg_alloc(rows, sizeof *s->blocks, e)) || !(s->wants = upg_alloc(rows, 1, e)) ||
        !(s->grown = upg_alloc(seqs, sizeof *s->grown, e)) || !(s->rows = upg_alloc(rows, sizeof *s->rows, e)))
        return -1;
    for (size_t i = 0; i < seqs; i++) s->sequences[i].blocks = s->tables + i * (size_t)s->max_blocks;
    for (size_t i = 0; i < n_blocks; i++) s->free_blocks[i] = (int32_t)(n_blocks - 1 - i);
    s->n_free = (int)n_blocks;
    if (!(s->pool = upg_pool_new(o->n_threads, e)) || (o->pin && upg_pool_pin(s->pool, e))) return -1;
    upg_backend_options b = {.max_rows = o->max_rows,
                             .max_logits = o->max_logits,
                             .n_positions = o->context,
                             .n_blocks = (int)n_blocks,
                             .pool = s->pool,
                             .device = o->device,
                             .gpu_bytes = o->gpu_bytes};
    s->backend = upg_backend_new(s->model->program, &b, e);
    return s->backend ? 0 : -1;
}

upg_session *upg_session_new(const upg_model *m, const upg_session_options *options, upg_error *e) {
    upg_session *s = upg_alloc(1, sizeof *s, e);
    if (!s) return NULL;
    s->model = m;
    if (options) s->options = *options;
    if (check_options(&s->options, m, e) || reserve(s, e)) {
        upg_session_free(s);
        return NULL;
    }
    return s;
}

void upg_session_free(upg_session *s) {
    if (!s) return;
    if (s->backend) s->backend->api->destroy(s->backend);
    upg_pool_free(s->pool);
    void *all[] = {s->sequences,      s->tables, s->free_blocks, s->tokens, s->positions,
                   (void *)s->blocks, s->wants,  s->grown,       s->rows,   s->refs};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    free(s);
}

static int blocks_for(int length) {
    return (length + UPG_KV_BLOCK - 1) / UPG_KV_BLOCK;
}

static int32_t take_block(upg_session *s) {
    int32_t block = s->free_blocks[--s->n_free];
    s->refs[block] = 1;
    return block;
}

static void drop_block(upg_session *s, int32_t block) {
    if (!--s->refs[block]) s->free_blocks[s->n_free++] = block;
}

static void release(upg_session *s, sequence *q, int length) {
    for (int i = blocks_for(length); i < blocks_for(q->length); i++) drop_block(s, q->blocks[i]);
    q->length = length;
}

// Takes the blocks the batch needs and fills in positions; if there are not enough, nothing is taken.
static int place_rows(upg_session *s, const upg_row *rows, int n_rows, upg_error *e) {
    memset(s->grown, 0, (size_t)s->options.n_sequences * sizeof *s->grown);
    for (int i = 0; i < n_rows; i++) {
        int seq = rows[i].sequence;
        if (seq < 0 || seq >= s->options.n_sequences)
            return upg_fail(e, "sequence %d: not within 0..%d", seq, s->options.n_sequences - 1);
        s->positions[i] = s->sequences[seq].length + s->grown[seq]++;
        if (s->positions[i] >= s->options.context)
            return upg_fail(e, "the context of %d tokens is full", s->options.context);
        s->tokens[i] = rows[i].token;
        s->wants[i] = rows[i].logits;
        s->blocks[i] = s->sequences[seq].blocks;
    }
    int needed = 0;
    for (int seq = 0; seq < s->options.n_sequences; seq++)
        needed += blocks_for(s->sequences[seq].length + s->grown[seq]) - blocks_for(s->sequences[seq].length);
    if (needed > s->n_free)
        return upg_fail(e, "%d KV blocks are needed, and %d of %d are free", needed, s->n_free, s->n_blocks);
    for (int seq = 0; seq < s->options.n_sequences; seq++) {
        sequence *q = &s->sequences[seq];
        for (int i = blocks_for(q->length); i < blocks_for(q->length + s->grown[seq]); i++)
            q->blocks[i] = take_block(s);
        q->length += s->grown[seq];
    }
    return 0;
}

int upg_session_run(upg_session *s, const upg_row *rows, int n_rows, upg_error *e) {
    return upg_session_run_draws(s, rows, n_rows, NULL, e);
}

bool upg_session_draws(const upg_session *s) {
    return s->backend->api->drawn;
}
int32_t upg_session_drawn(const upg_session *s, int i) {
    return s->backend->api->drawn ? s->backend->api->drawn(s->backend, i) : -1;
}

int upg_session_run_draws(upg_session *s, const upg_row *rows, int n_rows, const upg_draw *draws, upg_error *e) {
    if (n_rows < 1 || n_rows > s->options.max_rows)
        return upg_fail(e, "%d rows in a batch: not within 1..%d", n_rows, s->options.max_rows);
    if (place_rows(s, rows, n_rows, e)) return -1;
    upg_batch batch = {.n_rows = n_rows,
                       .tokens = s->tokens,
                       .positions = s->positions,
                       .blocks = s->blocks,
                       .wants = s->wants,
                       .draws = draws};
    if (!s->backend->api->run(s->backend, &batch, e)) return 0;
    for (int seq = 0; seq < s->options.n_sequences; seq++)
        release(s, &s->sequences[seq], s->sequences[seq].length - s->grown[seq]);
    return -1;
}

static int prefill(upg_session *s, int seq, const int32_t *tokens, size_t n, upg_error *e) {
    for (size_t at = 0; at < n;) {
        int rows = n - at < (size_t)s->options.max_rows ? (int)(n - at) : s->options.max_rows;
        for (int i = 0; i < rows; i++) s->rows[i] = (upg_row){tokens[at + (size_t)i], seq, at + (size_t)i + 1 == n};
        if (upg_session_run(s, s->rows, rows, e)) return -1;
        for (int i = 0; i < rows; i++)
            if (upg_session_row_failed(s, i))
                return upg_fail(e, "the model met a value that is not finite at token %zu", at + (size_t)i);
        at += (size_t)rows;
        if (s->progress && !s->progress(s->progress_ctx, at, n)) return upg_fail(e, "cancelled");
    }
    return 0;
}

void upg_session_set_progress(upg_session *s, upg_progress *progress, void *ctx) {
    s->progress = progress;
    s->progress_ctx = ctx;
}

int upg_session_prefill(upg_session *s, int seq, const int32_t *tokens, size_t n, upg_error *e) {
    if (n == 0) return upg_fail(e, "no tokens to run");
    if (seq < 0 || seq >= s->options.n_sequences)
        return upg_fail(e, "sequence %d: not within 0..%d", seq, s->options.n_sequences - 1);
    int length = s->sequences[seq].length;
    int rc = prefill(s, seq, tokens, n, e);
    if (rc) release(s, &s->sequences[seq], length);
    return rc;
}

int upg_session_truncate(upg_session *s, int seq, int length, upg_error *e) {
    if (seq < 0 || seq >= s->options.n_sequences || length < 0 || length > s->sequences[seq].length)
        return upg_fail(e, "sequence %d cannot be cut to %d tokens", seq, length);
    release(s, &s->sequences[seq], length);
    return 0;
}

const float *upg_session_logits(const upg_session *s, int i) {
    return s->backend->api->logits(s->backend, i);
}
bool upg_session_row_failed(const upg_session *s, int i) {
    return s->backend->api->flags(s->backend)[i] != 0;
}
int upg_session_length(const upg_session *s, int seq) {
    return s->sequences[seq].length;
}
int upg_session_context(const upg_session *s) {
    return s->options.context;
}
int upg_session_sequences(const upg_session *s) {
    return s->options.n_sequences;
}
int upg_session_rows_ahead(const upg_session *s) {
    return s->backend->api->inexact ? 0 : s->options.max_logits - 1; // which is less than max_rows
}
const char *upg_session_device(const upg_session *s) {
    return s->backend->api->name;
}
upg_pool *upg_session_pool(const upg_session *s) {
    return s->pool;
}
const char *upg_session_path(const upg_session *s) {
    return s->backend->api->path(s->backend);
}
size_t upg_session_memory(const upg_session *s) {
    return s->backend->api->memory(s->backend);
}

// ---- Blocks ----

int upg_session_blocks(const upg_session *s) {
    return s->n_blocks;
}
int upg_session_free_blocks(const upg_session *s) {
    return s->n_free;
}
int upg_session_blocks_for(int length) {
    return blocks_for(length);
}
int32_t upg_session_block(const upg_session *s, int seq, int i) {
    return s->sequences[seq].blocks[i];
}
int upg_session_block_refs(const upg_session *s, int32_t block) {
    return s->refs[block];
}
int32_t upg_session_block_take(upg_session *s) {
    return s->n_free ? take_block(s) : -1;
}
void upg_session_block_hold(upg_session *s, int32_t block) {
    s->refs[block]++;
}
void upg_session_block_drop(upg_session *s, int32_t block) {
    drop_block(s, block);
}
void upg_session_attach(upg_session *s, int seq, int32_t block, int length) {
    sequence *q = &s->sequences[seq];
    q->blocks[blocks_for(q->length)] = block;
    q->length = length;
    s->refs[block]++;
}
void upg_session_replace_block(upg_session *s, int seq, int i, int32_t block) {
    int32_t *at = &s->sequences[seq].blocks[i];
    s->refs[block]++;
    drop_block(s, *at);
    *at = block;
}
size_t upg_session_block_bytes(const upg_session *s) {
    return s->backend->api->kv_bytes(&s->model->config);
}
const char *upg_session_kv_layout(const upg_session *s) {
    return s->backend->api->kv_layout;
}
int upg_session_block_read(const upg_session *s, int32_t block, void *to, upg_error *e) {
    return s->backend->api->kv_read(s->backend, block, to, e);
}
int upg_session_block_write(upg_session *s, int32_t block, const void *from, upg_error *e) {
    return s->backend->api->kv_write(s->backend, block, from, e);
}
int upg_session_block_copy(upg_session *s, int32_t from, int32_t to, upg_error *e) {
    return s->backend->api->kv_copy(s->backend, from, to, e);
}
