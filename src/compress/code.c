// Coding every tensor of a job, with calibration in the order of the program, each matrix with what its inputs look
// like behind the ones coded before. What is in the journal is taken from the file instead.
#include "backend/cpu/cpu.h"
#include "compress/job.h"
#include "compress/sparse.h"
#include "format/upg_file.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const float cross = 0.5f; // measured on tales: docs/quality.md

enum { ORIGINAL, COMPRESSED, STREAMS };
enum { SEARCH_WORK = 50000 }; // multiplications in the time a weight's search takes

typedef struct recorded {
    bool there;
    uint8_t data[16], scale[16];
    double error;
} recorded;

typedef struct coding {
    upg_job *j;
    upg_writer *w;
    upg_encoder *en;
    recorded *recorded; // [n] what the journal says
    bool *done;         // [n]
    int part;           // where the journal's streams are, or 0
    uint64_t hashes[STREAMS];
    upg_runner *runner;
    float **replaced; // [n_weights] what the matrices of the part at hand have become
    double tick_work;
} coding;

// ---- The journal ----

static void read_journal(coding *c) {
    for (size_t k = 0; k < upg_journal_lines(c->j->journal); k++) {
        const char *line = upg_journal_line(c->j->journal, k);
        size_t i;
        int part;
        char data[UPG_HEX_HASH + 1], scale[UPG_HEX_HASH + 1];
        unsigned long long a, b;
        double error;
        if (sscanf(line, "tensor %zu %32s %32s %lf", &i, data, scale, &error) == 4 && i < c->j->n) {
            recorded *r = &c->recorded[i];
            r->there =
                upg_file_hash_from_hex(data, r->data) && upg_file_hash_from_hex(scale, r->scale) && isfinite(error);
            r->error = error;
        } else if (sscanf(line, "part %d %llx %llx", &part, &a, &b) == 3) {
            c->part = part;
            c->hashes[ORIGINAL] = a;
            c->hashes[COMPRESSED] = b;
        }
    }
}

static uint8_t *coded_room(const upg_writer_tensor *o, float **scale, upg_error *e) {
    uint8_t *data = upg_aligned_alloc(upg_encoded_bytes(o->encoding, o->s, o->rows, o->cols), e);
    *scale = data ? upg_alloc((size_t)o->rows, sizeof **scale, e) : NULL;
    if (*scale) return data;
    upg_aligned_free(data);
    return NULL;
}

// Only what the file really holds counts.
static int check_recorded(coding *c, upg_error *e) {
    for (size_t i = 0; i < c->j->n; i++) {
        recorded *r = &c->recorded[i];
        if (!r->there) continue;
        float *scale;
        uint8_t *data = coded_room(&c->j->out[i], &scale, e);
        if (!data) return -1;
        r->there = upg_writer_recover(c->w, i, r->data, r->scale, data, scale);
        c->j->result->resumed |= r->there;
        free(scale);
        upg_aligned_free(data);
    }
    return 0;
}

static int record_tensor(coding *c, size_t i, upg_error *e) {
    uint8_t data[16], scale[16];
    char data_hex[UPG_HEX_HASH + 1], scale_hex[UPG_HEX_HASH + 1];
    upg_writer_hashes(c->w, i, data, scale);
    upg_file_hash_to_hex(data, data_hex);
    upg_file_hash_to_hex(scale, scale_hex);
    return upg_journal_add(c->j->journal, e, "tensor %zu %s %s %a", i, data_hex, scale_hex,
                           c->j->result->tensors[i].error);
}

static int record_part(coding *c, upg_error *e) {
    uint64_t hash[STREAMS];
    for (int i = 0; i < STREAMS; i++)
        if (upg_runner_hash(c->runner, i, &hash[i], e)) return -1;
    return upg_journal_add(c->j->journal, e, "part %d %llx %llx", upg_runner_at(c->runner),
                           (unsigned long long)hash[ORIGINAL], (unsigned long long)hash[COMPRESSED]);
}

// ---- One tensor ----

typedef struct decoding {
    upg_tensor t;
    const uint32_t *sign;
    float *values;
    int32_t *work; // [threads][n]
    size_t n;
} decoding;

static void decode_task(void *ctx, int row, int thread) {
    decoding *d = ctx;
    upg_embed(&d->t, row, d->sign, d->work + (size_t)thread * d->n, d->values + (size_t)row * (size_t)d->t.cols);
}

// What coded data stands for, in the original basis: the same values that coding gives.
static int decode(coding *c, size_t i, const uint8_t *data, const float *scale, float *values, upg_error *e) {
    const upg_writer_tensor *o = &c->j->out[i];
    size_t n = (size_t)upg_pad16(o->cols);
    uint32_t *sign = upg_alloc(n, sizeof *sign, e);
    int32_t *work = sign ? upg_alloc((size_t)upg_pool_threads(c->j->pool) * n, sizeof *work, e) : NULL;
    if (work) {
        for (size_t k = 0; k < n; k++) sign[k] = upg_sign(c->j->options->rotation_seed, k);
        decoding d = {.t = {.encoding = o->encoding,
                            .s = o->s,
                            .rows = o->rows,
                            .cols = o->cols,
                            .data = data,
                            .scale = scale,
                            .unrotated = o->unrotated},
                      .sign = sign,
                      .values = values,
                      .work = work,
                      .n = n};
        upg_pool_run(c->j->pool, decode_task, &d, (int)o->rows);
    }
    free(sign);
    free(work);
    return work ? 0 : -1;
}

// Codes matrix i, or takes it from the file. values: [rows][cols] what it becomes, or NULL.
static int code_matrix(coding *c, size_t i, const upg_feedback *f, float *values, upg_error *e) {
    const upg_writer_tensor *o = &c->j->out[i];
    const recorded *r = &c->recorded[i];
    upg_compressed_tensor *t = &c->j->result->tensors[i];
    float *scale;
    uint8_t *data = coded_room(o, &scale, e);
    if (!data) return -1;
    int rc;
    if (r->there && upg_writer_recover(c->w, i, r->data, r->scale, data, scale)) {
        t->error = r->error;
        rc = values ? decode(c, i, data, scale, values, e) : 0;
    } else {
        rc = upg_encode_matrix(c->en, c->j->source[i], o, f, data, scale, values, &t->error, e) ||
                     upg_writer_put(c->w, i, data, scale, e) || record_tensor(c, i, e)
                 ? -1
                 : 0;
    }
    free(scale);
    upg_aligned_free(data);
    return rc;
}

static int code_tensor(coding *c, size_t i, const upg_feedback *f, float *values, upg_error *e) {
    upg_job *j = c->j;
    const upg_writer_tensor *o = &j->out[i];
    const upg_tensor *source = j->source[i];
    bool matrix = source && o->rows > 1;
    if (upg_job_progress(j, 0, o->name, e)) return -1;
    int rc = matrix ? code_matrix(c, i, f, values, e)
                    : upg_writer_put(c->w, i, source ? source->data : (const void *)j->tokenizer.data, NULL, e);
    if (rc) return -1;
    c->done[i] = true;
    return matrix ? upg_job_progress(j, (double)o->rows * (double)o->cols * SEARCH_WORK, o->name, e) : 0;
}

// ---- With calibration ----

// Codes the matrix of an op, if that is not done, and keeps what it became, unless nothing comes after it.
static int code_weight(coding *c, const upg_op *op, const upg_feedback *f, upg_error *e) {
    const upg_program *p = c->j->model->program;
    const upg_tensor *t = p->weights[op->weight];
    bool last = op->kind == UPG_OP_LINEAR && op->out == p->logits;
    size_t i = upg_job_output(c->j, op->weight);
    if (c->done[i]) return 0;
    float *values = last ? NULL : upg_alloc((size_t)t->rows * (size_t)t->cols, sizeof *values, e);
    if ((!last && !values) || code_tensor(c, i, f, values, e)) {
        free(values);
        return -1;
    }
    c->replaced[op->weight] = values;
    return 0;
}

// Whether a matrix has to be coded: not so if it was done or can be taken from the file, as far as the journal knows.
static bool is_open(const coding *c, int weight) {
    size_t i = upg_job_output(c->j, weight);
    return !c->done[i] && !c->recorded[i].there;
}

static int factor_inputs(coding *c, upg_runner *r, int op, const upg_moments_options *o, float earlier, upg_feedback *f,
                         upg_error *e) {
    upg_moments m;
    upg_feedback_options fo = {UPG_JOB_DAMPING, earlier, c->j->math};
    if (upg_moments_measure(r, op, o, c->j->pool, &m, e)) return -1;
    bool unrotated = c->j->out[upg_job_output(c->j, c->j->model->program->ops[op + 1].weight)].unrotated;
    if (unrotated && upg_moments_unrotate(&m, o->rotation_seed, e)) {
        upg_moments_free(&m);
        return -1;
    }
    return upg_feedback_new(f, &m, &fo, c->j->pool, e);
}

// Codes the matrices that read what the QUANTISE op at `op` gives.
static int code_inputs(coding *c, int op, upg_error *e) {
    const upg_program *p = c->j->model->program;
    upg_moments_options o = {c->j->options->rotation_seed, COMPRESSED, ORIGINAL, c->j->math, c->replaced};
    upg_feedback f = {0};
    bool open = false;
    int end = op + 1, rc = 0;
    for (; end < p->n_ops && p->ops[end].kind == UPG_OP_LINEAR; end++) open |= is_open(c, p->ops[end].weight);
    if (open) rc = factor_inputs(c, c->runner, op, &o, cross, &f, e);
    for (int i = op + 1; !rc && i < end; i++) rc = code_weight(c, &p->ops[i], open ? &f : NULL, e);
    upg_feedback_free(&f);
    return rc;
}

static int tick(void *ctx, upg_error *e) {
    coding *c = ctx;
    return upg_job_progress(c->j, c->tick_work, "calibrating", e);
}

static upg_runner *open_runner(coding *c, const char *name, const int *windows, int n, upg_error *e) {
    const char *path = upg_journal_file(c->j->journal, name, e);
    upg_runner_options o = {c->j->text, windows, n, path, tick, c, c->j->math};
    return path ? upg_runner_new(c->j->model->program, &o, c->j->pool, e) : NULL;
}

// A tied embedding is coded before any layer, but errs most as the head: what the original model gives it there counts.
static int code_tied(coding *c, const upg_op *op, upg_error *e) {
    const upg_program *p = c->j->model->program;
    upg_feedback f = {0};
    upg_moments_options o = {c->j->options->rotation_seed, ORIGINAL, -1, c->j->math, NULL};
    int last = p->n_ops - 1;
    while (p->ops[last].kind != UPG_OP_QUANTISE) last--;
    upg_runner *r = open_runner(c, "original", &c->j->text.n_windows, 1, e);
    int rc = r ? 0 : -1;
    while (!rc && upg_runner_at(r) < upg_runner_part_of(r, last)) {
        rc = upg_runner_finish(r, ORIGINAL, ORIGINAL, NULL, e);
        upg_runner_next(r);
    }
    if (!rc) rc = factor_inputs(c, r, last, &o, 0, &f, e);
    upg_runner_free(r);
    if (!rc) rc = code_weight(c, op, &f, e);
    upg_feedback_free(&f);
    return rc;
}

static int code_part(coding *c, upg_error *e) {
    const upg_program *p = c->j->model->program;
    int first, last, rc = 0;
    upg_runner_part(c->runner, upg_runner_at(c->runner), &first, &last);
    for (int i = first; !rc && i < last; i++) {
        const upg_op *op = &p->ops[i];
        if (op->kind == UPG_OP_EMBED) {
            bool fitted = c->j->model->config.tied && is_open(c, op->weight) &&
                          c->j->out[upg_job_output(c->j, op->weight)].encoding == UPG_TRELLIS;
            rc = fitted ? code_tied(c, op, e) : code_weight(c, op, NULL, e);
        }
        if (op->kind == UPG_OP_QUANTISE) rc = code_inputs(c, i, e);
    }
    return rc;
}

// Takes both streams through the part at hand and forgets what its matrices became.
static int end_part(coding *c, upg_error *e) {
    if (upg_runner_finish(c->runner, ORIGINAL, ORIGINAL, NULL, e) ||
        upg_runner_finish(c->runner, COMPRESSED, COMPRESSED, c->replaced, e))
        return -1;
    upg_runner_next(c->runner);
    for (int i = 0; i < c->j->model->program->n_weights; i++) {
        upg_math_forget(c->j->math, c->replaced[i]);
        free(c->replaced[i]);
        c->replaced[i] = NULL;
    }
    return record_part(c, e);
}

static double calibration_work(const upg_job *j) {
    return 4.0 * (double)j->parameters * j->text.n_windows * j->text.window;
}

// Back to where the streams were, if they are what they were and everything before is in the file.
static int go_on(coding *c, upg_error *e) {
    const upg_program *p = c->j->model->program;
    int first, last;
    if (c->part < 1 || c->part >= upg_runner_parts(c->runner)) return 0;
    upg_runner_part(c->runner, c->part, &first, &last);
    for (int i = 0; i < first; i++)
        if ((p->ops[i].kind == UPG_OP_EMBED || p->ops[i].kind == UPG_OP_LINEAR) && is_open(c, p->ops[i].weight))
            return 0;
    upg_runner_seek(c->runner, c->part);
    for (int i = 0; i < STREAMS; i++) {
        uint64_t hash;
        if (!upg_runner_hash(c->runner, i, &hash, NULL) && hash == c->hashes[i]) continue;
        upg_runner_seek(c->runner, 0);
        return 0;
    }
    c->j->result->resumed = true;
    return upg_job_progress(c->j, calibration_work(c->j) * c->part / upg_runner_parts(c->runner), "calibrating", e);
}

static int ticks(const upg_job *j, int n_parts) {
    int n = n_parts - 1;
    for (int i = 0; i < j->model->program->n_ops; i++) n += j->model->program->ops[i].kind == UPG_OP_QUANTISE;
    return 2 * n * j->text.n_windows;
}

static int code_calibrated(coding *c, upg_error *e) {
    const int n = c->j->text.n_windows, windows[STREAMS] = {n, n};
    c->runner = open_runner(c, "streams", windows, STREAMS, e);
    c->replaced = upg_alloc((size_t)c->j->model->program->n_weights, sizeof *c->replaced, e);
    if (!c->runner || !c->replaced || go_on(c, e)) return -1;
    c->tick_work = calibration_work(c->j) / ticks(c->j, upg_runner_parts(c->runner));
    for (; upg_runner_at(c->runner) + 1 < upg_runner_parts(c->runner);)
        if (code_part(c, e) || end_part(c, e)) return -1;
    return code_part(c, e);
}

double upg_job_coding_work(const upg_job *j) {
    return calibration_work(j) + (double)j->parameters * SEARCH_WORK;
}

int upg_job_code(upg_job *j, upg_writer *w, upg_error *e) {
    coding c = {.j = j, .w = w};
    c.recorded = upg_alloc(j->n, sizeof *c.recorded, e);
    c.done = upg_alloc(j->n, sizeof *c.done, e);
    c.en = upg_encoder_new(j->pool, j->math, j->options->rotation_seed, j->effort.search, e);
    int rc = c.recorded && c.done && c.en ? 0 : -1;
    if (!rc) read_journal(&c);
    if (!rc) rc = check_recorded(&c, e);
    if (!rc && j->text.n_windows) rc = code_calibrated(&c, e);
    for (size_t i = 0; !rc && i < j->n; i++)
        if (!c.done[i]) rc = code_tensor(&c, i, NULL, NULL, e);
    for (int i = 0; c.replaced && i < j->model->program->n_weights; i++) free(c.replaced[i]);
    free(c.replaced);
    upg_runner_free(c.runner);
    upg_encoder_free(c.en);
    free(c.done);
    free(c.recorded);
    return rc;
}
