// Compressing a model: plan the file, code tensor after tensor, write, rename. See compress.h.
#include "compress/compress.h"
#include "arch/arch.h"
#include "compress/allocate.h"
#include "compress/encode.h"
#include "engine/model.h"
#include <stdlib.h>
#include <string.h>

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
        *o = (upg_writer_tensor){t->name, t->encoding, 0, t->rows, t->cols};
        if (t->rows > 1) {
            int bits = fixed_bits(j, t->name);
            o->encoding = bits == UPG_BITS_INT8 ? UPG_INT8 : UPG_TRELLIS;
            o->s = bits == UPG_BITS_INT8 ? 0 : bits;
        }
        j->importance[j->n] = is_head(j, t->name) ? 4 : 1;
        j->source[j->n++] = t;
    }
    if (j->tokenizer.size)
        j->out[j->n++] = (upg_writer_tensor){"tokenizer", UPG_BYTES, 0, 1, (int64_t)j->tokenizer.size};
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
    upg_buf_fmt(b, "{\"parameters\":%llu,\"fp32_bytes\":%llu,\"bytes\":%llu,\"calibration\":\"none\",\"errors\":[",
                (unsigned long long)r->parameters, (unsigned long long)r->parameters * 4, (unsigned long long)r->bytes);
    bool first = true;
    for (size_t i = 0; i < r->n; i++) {
        if (!r->tensors[i].bits2) continue;
        upg_buf_fmt(b, "%s%.6f", first ? "" : ",", r->tensors[i].error);
        first = false;
    }
    upg_buf_str(b, "]}");
    return upg_buf_check(b, e);
}

static int put_tensor(job *j, upg_writer *w, upg_encoder *en, size_t i, double *error, upg_error *e) {
    const upg_writer_tensor *o = &j->out[i];
    if (!j->source[i]) return upg_writer_put(w, i, j->tokenizer.data, NULL, e);
    if (o->rows == 1) return upg_writer_put(w, i, j->source[i]->data, NULL, e);
    uint8_t *data = upg_aligned_alloc(upg_encoded_bytes(o->encoding, o->s, o->rows, o->cols), e);
    float *scale = data ? upg_alloc((size_t)o->rows, sizeof *scale, e) : NULL;
    int rc = scale && !upg_encode_matrix(en, j->source[i], o->encoding, o->s, data, scale, error, e)
                 ? upg_writer_put(w, i, data, scale, e)
                 : -1;
    free(scale);
    upg_aligned_free(data);
    return rc;
}

static int code_all(job *j, upg_writer *w, upg_encoder *en, upg_compress_result *r, upg_error *e) {
    uint64_t done = 0;
    for (size_t i = 0; i < j->n; i++) {
        if (j->options->progress &&
            j->options->progress(j->options->progress_ctx, (double)done / (double)j->parameters, j->out[i].name))
            return upg_fail(e, "interrupted");
        double error = 0;
        if (put_tensor(j, w, en, i, &error, e)) return -1;
        done += j->source[i] ? (uint64_t)j->out[i].rows * (uint64_t)j->out[i].cols : 0;
        upg_compressed_tensor *t = &r->tensors[r->n];
        *t = (upg_compressed_tensor){upg_strdup(j->out[i].name, strlen(j->out[i].name), e), j->out[i].rows,
                                     j->out[i].cols, 0, error};
        if (!t->name) return -1;
        r->n++;
        if (j->source[i] && j->out[i].rows > 1) t->bits2 = j->out[i].encoding == UPG_INT8 ? UPG_BITS_INT8 : j->out[i].s;
    }
    if (j->options->progress) j->options->progress(j->options->progress_ctx, 1, "");
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
        rc = code_all(j, w, en, r, e) || write_report(j, r, e) || upg_writer_finish(w, j->report.data, e) ? -1 : 0;
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
    if (result->tensors) rc = produce(&j, out, result, e);
end:
    if (rc) upg_compress_result_free(result);
    upg_buf_free(&j.config);
    upg_buf_free(&j.tokenizer);
    upg_buf_free(&j.report);
    free(j.out);
    free(j.source);
    free(j.importance);
    upg_model_free(j.model);
    return rc;
}
