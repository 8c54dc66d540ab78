// Compressing a model: plan the file, code tensor after tensor, write, rename. See compress.h.
#include "compress/compress.h"
#include "arch/arch.h"
#include "compress/allocate.h"
#include "compress/calibrate.h"
#include "compress/encode.h"
#include "compress/sparse.h"
#include "engine/model.h"
#include <stdlib.h>
#include <string.h>

enum { CALIBRATION_TOKENS = 32768, CALIBRATION_WINDOW = 1024, LEAST_CALIBRATION = 256 };

// Measured on tales: docs/quality.md.
static const upg_feedback_options feedback_options = {.damping = 0.025f, .cross = 0.5f};

typedef struct job {
    const upg_compress_options *options;
    upg_model *model; // the original
    upg_buf config, tokenizer, report;
    upg_writer_tensor *out;    // [n]
    const upg_tensor **source; // [n]; NULL for the tokenizer
    double *importance;        // [n]
    size_t n;
    uint64_t parameters;
    size_t report_room;
    upg_calibration text; // no windows: none
    int32_t *tokens;      // of text
} job;

void upg_compress_result_free(upg_compress_result *r) {
    for (size_t i = 0; i < r->n; i++) free(r->tensors[i].name);
    free(r->tensors);
    *r = (upg_compress_result){0};
}

static bool is_head(const job *j, const char *name) {
    return !strcmp(name, j->model->config.tied ? "model.embed_tokens.weight" : "lm_head.weight");
}

// The bits an option fixes for a matrix, as 2K, or UPG_BITS_AUTO.
static int fixed_bits(const job *j, const char *name) {
    if (is_head(j, name)) return j->options->head_bits;
    if (!strcmp(name, "model.embed_tokens.weight")) return j->options->embedding_bits;
    return j->options->layer_bits;
}

static void set_encoding(upg_writer_tensor *o, int bits) {
    bool int8 = bits == UPG_BITS_INT8, sparse = bits & UPG_BITS_SPARSE;
    o->encoding = sparse ? UPG_SPARSE : int8 ? UPG_INT8 : UPG_TRELLIS;
    o->s = int8 ? 0 : bits & 15;
    o->unrotated = sparse && !(bits & UPG_BITS_ROTATED);
}

// Each tensor of the program once, vectors as they are, matrices with fixed or open bits; then the tokenizer.
static int list_tensors(job *j, upg_error *e) {
    const upg_program *p = j->model->program;
    size_t most = (size_t)p->n_weights + 1;
    j->out = upg_alloc(most, sizeof *j->out, e);
    j->source = upg_alloc(most, sizeof *j->source, e);
    j->importance = upg_alloc(most, sizeof *j->importance, e);
    if (!j->out || !j->source || !j->importance) return -1;
    for (int i = 0; i < p->n_weights; i++) {
        const upg_tensor *t = p->weights[i];
        bool seen = false;
        for (size_t k = 0; k < j->n && !seen; k++) seen = j->source[k] == t;
        if (seen) continue;
        j->parameters += (uint64_t)t->rows * (uint64_t)t->cols;
        upg_writer_tensor *o = &j->out[j->n];
        *o = (upg_writer_tensor){.name = t->name, .encoding = t->encoding, .rows = t->rows, .cols = t->cols};
        if (t->rows > 1) {
            int bits = fixed_bits(j, t->name);
            set_encoding(o, bits);
        }
        j->importance[j->n] = is_head(j, t->name) ? 4 : 1;
        j->source[j->n++] = t;
    }
    if (j->tokenizer.size)
        j->out[j->n++] = (upg_writer_tensor){
            .name = "tokenizer", .encoding = UPG_BYTES, .rows = 1, .cols = (int64_t)j->tokenizer.size};
    return 0;
}

static size_t planned_size(void *ctx) {
    job *j = ctx;
    return upg_writer_plan(j->config.data, j->model->weights.chat_template, j->out, j->n, j->report_room);
}

static int plan(job *j, upg_error *e) {
    const upg_compress_options *o = j->options;
    double budget = 0;
    if (o->ratio > 0) budget = 4.0 * (double)j->parameters / o->ratio;
    if (o->bits > 0) budget = o->bits * (double)j->parameters / 8;
    bool open = false;
    for (size_t i = 0; i < j->n; i++) open |= j->out[i].encoding == UPG_TRELLIS && !j->out[i].s;
    if (!budget && open) {
        // Only layers are fixed: the embedding gets 3 bits and the head 4.
        for (size_t i = 0; i < j->n; i++)
            if (j->out[i].encoding == UPG_TRELLIS && !j->out[i].s) j->out[i].s = is_head(j, j->out[i].name) ? 8 : 6;
    }
    if (!budget) return planned_size(j) ? 0 : upg_fail(e, "these tensors make no valid file");
    return upg_allocate_bits(j->out, j->importance, j->n, (size_t)budget, planned_size, j, e);
}

static int write_report(job *j, const upg_compress_result *r, upg_error *e) {
    upg_buf *b = &j->report;
    upg_buf_fmt(b, "{\"parameters\":%llu,\"fp32_bytes\":%llu,\"bytes\":%llu,\"calibration_tokens\":%d,\"errors\":[",
                (unsigned long long)r->parameters, (unsigned long long)r->parameters * 4, (unsigned long long)r->bytes,
                j->text.n_windows * j->text.window);
    bool first = true;
    for (size_t i = 0; i < r->n; i++) {
        if (!r->tensors[i].bits2) continue;
        upg_buf_fmt(b, "%s%.6f", first ? "" : ",", r->tensors[i].error);
        first = false;
    }
    upg_buf_str(b, "]}");
    return upg_buf_check(b, e);
}

// Codes or copies tensor i of the output. values: as in upg_encode_matrix.
static int put_tensor(job *j, upg_writer *w, upg_encoder *en, size_t i, const upg_feedback *feedback, float *values,
                      double *error, upg_error *e) {
    const upg_writer_tensor *o = &j->out[i];
    if (!j->source[i]) return upg_writer_put(w, i, j->tokenizer.data, NULL, e);
    if (o->rows == 1) return upg_writer_put(w, i, j->source[i]->data, NULL, e);
    uint8_t *data = upg_aligned_alloc(upg_encoded_bytes(o->encoding, o->s, o->rows, o->cols), e);
    float *scale = data ? upg_alloc((size_t)o->rows, sizeof *scale, e) : NULL;
    int rc = scale && !upg_encode_matrix(en, j->source[i], o, feedback, data, scale, values, error, e)
                 ? upg_writer_put(w, i, data, scale, e)
                 : -1;
    free(scale);
    upg_aligned_free(data);
    return rc;
}

typedef struct coding {
    job *j;
    upg_writer *w;
    upg_encoder *en;
    upg_compress_result *r; // tensors in the order of the output
    bool *done;             // [n]
    uint64_t n_done;        // parameters
} coding;

static int code_tensor(coding *c, size_t i, const upg_feedback *feedback, float *values, upg_error *e) {
    job *j = c->j;
    const upg_writer_tensor *o = &j->out[i];
    if (j->options->progress &&
        j->options->progress(j->options->progress_ctx, (double)c->n_done / (double)j->parameters, o->name))
        return upg_fail(e, "interrupted");
    upg_compressed_tensor *t = &c->r->tensors[i];
    if (put_tensor(j, c->w, c->en, i, feedback, values, &t->error, e)) return -1;
    c->n_done += j->source[i] ? (uint64_t)o->rows * (uint64_t)o->cols : 0;
    c->done[i] = true;
    t->rows = o->rows;
    t->cols = o->cols;
    if (j->source[i] && o->rows > 1)
        t->bits2 = o->encoding == UPG_INT8 ? UPG_BITS_INT8 : o->encoding == UPG_SPARSE ? UPG_BITS_SPARSE | o->s : o->s;
    t->name = upg_strdup(o->name, strlen(o->name), e);
    return t->name ? 0 : -1;
}

static size_t output_of(const job *j, int weight) {
    size_t i = 0;
    while (j->source[i] != j->model->program->weights[weight]) i++;
    return i;
}

// Codes the matrix of an op, if it is not coded yet, and tells the calibrator what it became, unless it is the last.
static int code_weight(coding *c, upg_calibrator *cal, const upg_op *op, const upg_feedback *feedback, upg_error *e) {
    const upg_program *p = c->j->model->program;
    const upg_tensor *t = p->weights[op->weight];
    bool last = op->kind == UPG_OP_LINEAR && op->out == p->logits;
    size_t i = output_of(c->j, op->weight);
    if (c->done[i]) return 0;
    float *values = last ? NULL : upg_alloc((size_t)t->rows * (size_t)t->cols, sizeof *values, e);
    if ((!last && !values) || code_tensor(c, i, feedback, values, e)) {
        free(values);
        return -1;
    }
    if (values) upg_calibrator_replace(cal, op->weight, values);
    return 0;
}

// Feedback for a weight of the program from the moments of its inputs, which are taken over, in the basis it is coded
// in.
static int make_feedback(const coding *c, int weight, upg_feedback *f, upg_moments *m, const upg_feedback_options *o,
                         upg_pool *pool, upg_error *e) {
    if (c->j->out[output_of(c->j, weight)].unrotated && upg_moments_unrotate(m, c->j->options->rotation_seed, e)) {
        upg_moments_free(m);
        return -1;
    }
    return upg_feedback_new(f, m, o, pool, e);
}

// Codes the matrices that read what the QUANTISE op at `op` gives.
static int code_inputs(coding *c, upg_calibrator *cal, int op, upg_pool *pool, upg_error *e) {
    const upg_program *p = c->j->model->program;
    upg_moments m;
    upg_feedback f;
    if (c->done[output_of(c->j, p->ops[op + 1].weight)]) return 0; // a tied head
    if (upg_calibrator_moments(cal, op, &m, e) ||
        make_feedback(c, p->ops[op + 1].weight, &f, &m, &feedback_options, pool, e))
        return -1;
    int rc = 0;
    for (int i = op + 1; !rc && i < p->n_ops && p->ops[i].kind == UPG_OP_LINEAR; i++)
        rc = code_weight(c, cal, &p->ops[i], &f, e);
    upg_feedback_free(&f);
    return rc;
}

// A tied embedding is coded before any layer, but errs most as the head: what the original model gives it there counts.
static int code_embedding(coding *c, upg_calibrator *cal, const upg_op *op, upg_pool *pool, upg_error *e) {
    const job *j = c->j;
    const upg_program *p = j->model->program;
    if (!j->model->config.tied || j->options->head_bits == UPG_BITS_INT8) return code_weight(c, cal, op, NULL, e);
    upg_calibration original = j->text;
    original.original_only = true;
    upg_calibrator *first = upg_calibrator_new(p, &original, pool, e);
    upg_moments m;
    upg_feedback f;
    int last = p->n_ops - 1;
    while (p->ops[last].kind != UPG_OP_QUANTISE) last--;
    int rc =
        first && !upg_calibrator_moments(first, last, &m, e) &&
                !make_feedback(c, op->weight, &f, &m, &(upg_feedback_options){feedback_options.damping, 0}, pool, e)
            ? 0
            : -1;
    upg_calibrator_free(first);
    if (rc) return -1;
    rc = code_weight(c, cal, op, &f, e);
    upg_feedback_free(&f);
    return rc;
}

// In the order of the program, each matrix with what calibration says of its inputs.
static int code_calibrated(coding *c, upg_pool *pool, upg_error *e) {
    const upg_program *p = c->j->model->program;
    upg_calibrator *cal = upg_calibrator_new(p, &c->j->text, pool, e);
    int rc = cal ? 0 : -1;
    for (int i = 0; !rc && i < p->n_ops; i++) {
        if (p->ops[i].kind == UPG_OP_EMBED) rc = code_embedding(c, cal, &p->ops[i], pool, e);
        if (p->ops[i].kind == UPG_OP_QUANTISE) rc = code_inputs(c, cal, i, pool, e);
    }
    upg_calibrator_free(cal);
    return rc;
}

static int code_all(coding *c, upg_pool *pool, upg_error *e) {
    const job *j = c->j;
    if (j->text.n_windows && code_calibrated(c, pool, e)) return -1;
    for (size_t i = 0; i < j->n; i++)
        if (!c->done[i] && code_tensor(c, i, NULL, NULL, e)) return -1;
    if (j->options->progress) j->options->progress(j->options->progress_ctx, 1, "");
    return 0;
}

static int tick(void *ctx, upg_error *e) {
    const coding *c = ctx;
    const upg_compress_options *o = c->j->options;
    double done = (double)c->n_done / (double)c->j->parameters;
    return o->progress && o->progress(o->progress_ctx, done, "calibrating") ? upg_fail(e, "interrupted") : 0;
}

// The calibration text as windows of tokens.
static int load_text(job *j, upg_error *e) {
    const char *path = j->options->calibration;
    if (!path) return 0;
    size_t n = strlen(path), n_tokens,
           most = j->options->calibration_tokens ? (size_t)j->options->calibration_tokens : CALIBRATION_TOKENS;
    if (upg_read_corpus(j->model, path, n > 4 && !strcmp(path + n - 4, ".u16"), &j->tokens, &n_tokens, e)) return -1;
    if (n_tokens < LEAST_CALIBRATION)
        return upg_fail(e, "%s: %zu tokens are too few to calibrate with: at least %d", path, n_tokens,
                        LEAST_CALIBRATION);
    if (n_tokens > most) n_tokens = most;
    size_t window = CALIBRATION_WINDOW;
    if (window > (size_t)j->model->config.max_positions) window = (size_t)j->model->config.max_positions;
    if (window > n_tokens) window = n_tokens;
    j->text = (upg_calibration){.tokens = j->tokens,
                                .n_windows = (int)(n_tokens / window),
                                .window = (int)window,
                                .rotation_seed = j->options->rotation_seed};
    return 0;
}

static int produce(job *j, const char *out, upg_compress_result *r, upg_error *e) {
    upg_pool *pool = upg_pool_new(j->options->n_threads, e);
    upg_search_mode mode = j->options->exact_search ? UPG_SEARCH_EXACT : UPG_SEARCH_SEAM;
    upg_encoder *en = pool ? upg_encoder_new(pool, j->options->rotation_seed, mode, e) : NULL;
    upg_writer *w = en ? upg_writer_new(out, j->config.data, j->model->weights.chat_template, j->options->rotation_seed,
                                        j->out, j->n, j->report_room, e)
                       : NULL;
    int rc = -1;
    if (w) {
        r->bytes = upg_writer_size(w);
        coding c = {j, w, en, r, upg_alloc(j->n, sizeof(bool), e), 0};
        j->text.tick = tick;
        j->text.tick_ctx = &c;
        rc = !c.done || code_all(&c, pool, e) || write_report(j, r, e) || upg_writer_finish(w, j->report.data, e) ? -1
                                                                                                                  : 0;
        free(c.done);
    }
    upg_writer_free(w);
    upg_encoder_free(en);
    upg_pool_free(pool);
    return rc;
}

int upg_compress(const char *source, const char *out, const upg_compress_options *options, upg_compress_result *result,
                 upg_error *e) {
    *result = (upg_compress_result){0};
    job j = {.options = options};
    int rc = -1;
    if (!(j.model = upg_model_open(source, e))) goto end;
    if (j.model->weights.compressed) {
        upg_fail(e, "%s: is compressed already", source);
        goto end;
    }
    if (upg_config_write(&j.model->config, &j.config, e)) goto end;
    if (j.model->tokenizer && upg_tokenizer_pack(j.model->tokenizer, &j.tokenizer, e)) goto end;
    if (list_tensors(&j, e)) goto end;
    j.report_room = 192 + 9 * j.n;
    if (plan(&j, e)) goto end;
    result->parameters = j.parameters;
    result->tensors = upg_alloc(j.n, sizeof *result->tensors, e);
    if (!result->tensors) goto end;
    result->n = j.n;
    if (!load_text(&j, e)) rc = produce(&j, out, result, e);
end:
    if (rc) upg_compress_result_free(result);
    upg_buf_free(&j.config);
    upg_buf_free(&j.tokenizer);
    upg_buf_free(&j.report);
    free(j.out);
    free(j.tokens);
    free(j.source);
    free(j.importance);
    upg_model_free(j.model);
    return rc;
}
