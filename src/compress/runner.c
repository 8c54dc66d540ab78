// See runner.h.
#include "compress/runner.h"
#include "backend/fp32/fp32.h"
#include "program/ops.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

typedef struct part {
    int first, last; // ops first..last-1
    int buffer;      // what is live before them, or -1
} part;

struct upg_runner {
    const upg_program *program;
    upg_runner_options options;
    upg_pool *pool;
    upg_backend *backend;
    part *parts; // [n_parts]
    int n_parts, at;
    int fd;
    char *path;
    size_t row_bytes;       // of a row of the widest live buffer
    uint64_t *begin;        // [n_streams] where a stream's two places begin in the file
    int32_t *positions;     // [window]
    int32_t *blocks;        // [window / UPG_KV_BLOCK + 1]
    const int32_t **tables; // [window]
    uint8_t *wants;         // [window]
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
static int find_parts(upg_runner *r, upg_error *e) {
    const upg_program *p = r->program;
    uint8_t *live = upg_alloc((size_t)p->n_buffers, 1, e);
    r->parts = upg_alloc((size_t)p->n_ops, sizeof *r->parts, e);
    if (!live || !r->parts) {
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
        part *new_part = &r->parts[r->n_parts++];
        *new_part = (part){i, last, -1};
        for (int k = 0; i > 0 && k < p->n_buffers; k++)
            if (live[k]) new_part->buffer = k;
        last = i;
    }
    free(live);
    for (int i = 0; i < r->n_parts / 2; i++) {
        part swap = r->parts[i];
        r->parts[i] = r->parts[r->n_parts - 1 - i];
        r->parts[r->n_parts - 1 - i] = swap;
    }
    return 0;
}

const upg_program *upg_runner_program(const upg_runner *r) {
    return r->program;
}
const upg_text *upg_runner_text(const upg_runner *r) {
    return &r->options.text;
}
int upg_runner_parts(const upg_runner *r) {
    return r->n_parts;
}
int upg_runner_at(const upg_runner *r) {
    return r->at;
}
int upg_runner_part_of(const upg_runner *r, int op) {
    int i = 0;
    while (op >= r->parts[i].last) i++;
    return i;
}
void upg_runner_part(const upg_runner *r, int index, int *first_op, int *last_op) {
    *first_op = r->parts[index].first;
    *last_op = r->parts[index].last;
}

// ---- Setting up ----

void upg_runner_free(upg_runner *r) {
    if (!r) return;
    if (r->backend) r->backend->api->destroy(r->backend);
    if (r->fd >= 0) close(r->fd);
    free(r->path);
    free(r->parts);
    free(r->begin);
    free(r->positions);
    free(r->blocks);
    free(r->tables);
    free(r->wants);
    free(r);
}

static int reserve(upg_runner *r, upg_error *e) {
    size_t window = (size_t)r->options.text.window, n_blocks = (window + UPG_KV_BLOCK - 1) / UPG_KV_BLOCK;
    for (int i = 0; i < r->n_parts; i++)
        if (r->parts[i].buffer >= 0) {
            size_t bytes = (size_t)r->program->widths[r->parts[i].buffer] * sizeof(float);
            if (bytes > r->row_bytes) r->row_bytes = bytes;
        }
    if (!(r->begin = upg_alloc((size_t)r->options.n_streams, sizeof *r->begin, e)) ||
        !(r->positions = upg_alloc(window, sizeof *r->positions, e)) ||
        !(r->blocks = upg_alloc(n_blocks, sizeof *r->blocks, e)) ||
        !(r->tables = upg_alloc(window, sizeof *r->tables, e)) || !(r->wants = upg_alloc(window, 1, e)))
        return -1;
    for (int i = 1; i < r->options.n_streams; i++)
        r->begin[i] = r->begin[i - 1] + 2 * (uint64_t)r->options.windows[i - 1] * window * r->row_bytes;
    for (size_t i = 0; i < window; i++) {
        r->positions[i] = (int32_t)i;
        r->tables[i] = r->blocks;
        r->wants[i] = 1;
    }
    for (size_t i = 0; i < n_blocks; i++) r->blocks[i] = (int32_t)i;
    upg_backend_options o = {.max_rows = (int)window,
                             .max_logits = UPG_RUNNER_LOGITS,
                             .n_positions = (int)window,
                             .n_blocks = (int)n_blocks,
                             .pool = r->pool,
                             .math = r->options.math};
    return (r->backend = upg_backend_fp32.create(r->program, &o, e)) ? 0 : -1;
}

upg_runner *upg_runner_new(const upg_program *program, const upg_runner_options *o, upg_pool *pool, upg_error *e) {
    upg_runner *r = upg_alloc(1, sizeof *r, e);
    if (!r) return NULL;
    r->fd = -1;
    r->program = program;
    r->options = *o;
    r->pool = pool;
    if (!(r->path = upg_strdup(o->path, strlen(o->path), e)) || find_parts(r, e) || reserve(r, e)) {
        upg_runner_free(r);
        return NULL;
    }
    r->fd = open(r->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (r->fd < 0) {
        upg_fail(e, "%s: cannot create: %s", r->path, strerror(errno));
        upg_runner_free(r);
        return NULL;
    }
    return r;
}

// ---- Streams ----

// Where window w of a stream lies as it is before part `at`.
static uint64_t place_of(const upg_runner *r, int stream, int at, int w) {
    uint64_t window = (uint64_t)r->options.text.window, n = (uint64_t)r->options.windows[stream] * window;
    return r->begin[stream] + ((uint64_t)(at & 1) * n + (uint64_t)w * window) * r->row_bytes;
}

static size_t live_bytes(const upg_runner *r, int at) {
    return (size_t)r->program->widths[r->parts[at].buffer] * sizeof(float);
}

// n rows of the buffer live before the part at hand, into the backend's first ones.
static int load(upg_runner *r, int stream, int w, int row, int n, upg_error *e) {
    size_t bytes = live_bytes(r, r->at);
    return upg_read_at(r->fd, r->path, upg_fp32_buffer(r->backend, r->parts[r->at].buffer), bytes * (size_t)n,
                       place_of(r, stream, r->at, w) + (uint64_t)row * bytes, e);
}

static int store(upg_runner *r, int stream, int w, upg_error *e) {
    return upg_write_at(r->fd, r->path, upg_fp32_buffer(r->backend, r->parts[r->at + 1].buffer),
                        live_bytes(r, r->at + 1) * (size_t)r->options.text.window, place_of(r, stream, r->at + 1, w),
                        e);
}

static void replace(upg_runner *r, float *const *replaced) {
    const part *p = &r->parts[r->at];
    for (int i = p->first; i < p->last; i++) {
        int weight = r->program->ops[i].weight;
        if (weight >= 0) upg_fp32_replace(r->backend, weight, replaced ? replaced[weight] : NULL);
    }
}

int upg_runner_run(upg_runner *r, int from, int to, int w, int last, float *const *replaced, const upg_fp32_tap *tap,
                   upg_error *e) {
    const part *p = &r->parts[r->at];
    const int window = r->options.text.window;
    upg_batch batch = {.n_rows = window,
                       .tokens = r->options.text.tokens + (size_t)w * (size_t)window,
                       .positions = r->positions,
                       .blocks = r->tables,
                       .wants = r->wants};
    replace(r, replaced);
    if (p->buffer >= 0 && load(r, from, w, 0, window, e)) return -1;
    if (upg_fp32_run_part(r->backend, &batch, p->first, last, tap, e)) return -1;
    if (r->options.tick && r->options.tick(r->options.tick_ctx, e)) return -1;
    return last == p->last && r->at + 1 < r->n_parts ? store(r, to, w, e) : 0;
}

int upg_runner_finish(upg_runner *r, int from, int to, float *const *replaced, upg_error *e) {
    for (int w = 0; w < r->options.windows[to]; w++)
        if (upg_runner_run(r, from, to, w, r->parts[r->at].last, replaced, NULL, e)) return -1;
    return 0;
}

void upg_runner_next(upg_runner *r) {
    const part *p = &r->parts[r->at++];
    for (int i = p->first; i < p->last; i++)
        if (r->program->ops[i].weight >= 0)
            upg_weights_release(r->program->source, r->program->weights[r->program->ops[i].weight]);
}

const float *upg_runner_logits(upg_runner *r, int stream, int w, int first, int n, float *const *replaced,
                               upg_error *e) {
    const part *p = &r->parts[r->at];
    const int32_t *tokens = r->options.text.tokens + (size_t)w * (size_t)r->options.text.window + first;
    upg_batch batch = {
        .n_rows = n, .tokens = tokens, .positions = r->positions + first, .blocks = r->tables, .wants = r->wants};
    replace(r, replaced);
    if ((p->buffer >= 0 && load(r, stream, w, first, n, e)) ||
        upg_fp32_run_part(r->backend, &batch, p->first, p->last, NULL, e) ||
        (r->options.tick && r->options.tick(r->options.tick_ctx, e)))
        return NULL;
    return upg_fp32_buffer(r->backend, r->program->logits);
}

int upg_runner_hash(upg_runner *r, int stream, uint64_t *hash, upg_error *e) {
    const int window = r->options.text.window, buffer = r->parts[r->at].buffer;
    XXH3_state_t *state = XXH3_createState();
    if (!state) return upg_fail(e, "out of memory");
    XXH3_64bits_reset(state);
    int rc = 0;
    for (int w = 0; !rc && buffer >= 0 && w < r->options.windows[stream]; w++) {
        rc = load(r, stream, w, 0, window, e);
        XXH3_64bits_update(state, upg_fp32_buffer(r->backend, buffer), live_bytes(r, r->at) * (size_t)window);
    }
    *hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return rc;
}

void upg_runner_seek(upg_runner *r, int index) {
    r->at = index;
}
