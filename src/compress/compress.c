// Compressing a model: read the texts, choose bits, code tensor after tensor, measure, rename. See compress.h; job.h
// has the steps.
#include "compress/compress.h"
#include "arch/arch.h"
#include "compress/allocate.h"
#include "compress/default_text.h"
#include "compress/job.h"
#include "compress/sensitivity.h"
#include "format/upg_file.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { WINDOW = 1024, LEAST_CALIBRATION = 256, JOURNAL_VERSION = 1 };

static const upg_effort_settings efforts[] = {
    [UPG_EFFORT_FAST] = {UPG_SEARCH_FAST, 8192, 4096, 0, 0},
    [UPG_EFFORT_NORMAL] = {UPG_SEARCH_SEAM, 32768, 16384, 8192, 2048},
    [UPG_EFFORT_BEST] = {UPG_SEARCH_EXACT, 131072, 32768, 16384, 8192},
};

void upg_compress_result_free(upg_compress_result *r) {
    for (size_t i = 0; i < r->n; i++) free(r->tensors[i].name);
    free(r->tensors);
    *r = (upg_compress_result){0};
}

size_t upg_job_output(const upg_job *j, int weight) {
    size_t i = 0;
    while (j->source[i] != j->model->program->weights[weight]) i++;
    return i;
}

int upg_job_progress(upg_job *j, double work, const char *what, upg_error *e) {
    const upg_compress_options *o = j->options;
    j->work_done += work;
    double done = j->work > 0 ? j->work_done / j->work : 0;
    return o->progress && o->progress(o->progress_ctx, done < 1 ? done : 1, what) ? upg_fail(e, "interrupted") : 0;
}

// ---- What the file will hold ----

static bool is_head(const upg_job *j, const char *name) {
    return !strcmp(name, j->model->config.tied ? "model.embed_tokens.weight" : "lm_head.weight");
}

// The bits an option fixes for a matrix, as 2K, or UPG_BITS_AUTO.
static int fixed_bits(const upg_job *j, const char *name) {
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

static bool is_open(const upg_writer_tensor *o) {
    return o->encoding == UPG_TRELLIS && !o->s;
}

// Each tensor of the program once, vectors as they are, matrices with fixed or open bits; then the tokenizer.
static int list_tensors(upg_job *j, upg_error *e) {
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
        if (t->rows > 1) set_encoding(o, fixed_bits(j, t->name));
        j->importance[j->n] = is_head(j, t->name) ? 4 : 1;
        j->source[j->n++] = t;
    }
    if (j->tokenizer.size)
        j->out[j->n++] = (upg_writer_tensor){
            .name = "tokenizer", .encoding = UPG_BYTES, .rows = 1, .cols = (int64_t)j->tokenizer.size};
    upg_compress_result *r = j->result;
    r->parameters = j->parameters;
    r->tensors = upg_alloc(j->n, sizeof *r->tensors, e);
    for (; r->tensors && r->n < j->n; r->n++) {
        const upg_writer_tensor *o = &j->out[r->n];
        r->tensors[r->n] = (upg_compressed_tensor){.rows = o->rows, .cols = o->cols};
        if (!(r->tensors[r->n].name = upg_strdup(o->name, strlen(o->name), e))) return -1;
    }
    return r->tensors ? 0 : -1;
}

static size_t planned_size(void *ctx) {
    upg_job *j = ctx;
    return upg_writer_plan(j->config.data, j->model->weights.chat_template, j->out, j->n, upg_job_report_room(j));
}

static double budget(const upg_job *j) {
    const upg_compress_options *o = j->options;
    return o->ratio > 0 ? 4.0 * (double)j->parameters / o->ratio : o->bits * (double)j->parameters / 8;
}

static int bits_of(const upg_writer_tensor *o) {
    return o->encoding == UPG_INT8 ? UPG_BITS_INT8 : o->encoding == UPG_SPARSE ? UPG_BITS_SPARSE | o->s : o->s;
}

// Bits of what is open, so that the file keeps the budget.
static int plan(upg_job *j, upg_error *e) {
    int rc = 0;
    if (budget(j) > 0)
        rc = upg_allocate_bits(j->out, j->importance, j->n, (size_t)budget(j), planned_size, j, e);
    else // Only layers are fixed: the embedding gets 3 bits and the head 4.
        for (size_t i = 0; i < j->n; i++)
            if (is_open(&j->out[i])) j->out[i].s = is_head(j, j->out[i].name) ? 8 : 6;
    if (rc) return -1;
    for (size_t i = 0; i < j->n; i++)
        if (j->source[i] && j->out[i].rows > 1) j->result->tensors[i].bits2 = bits_of(&j->out[i]);
    j->result->bytes = planned_size(j);
    return j->result->bytes ? 0 : upg_fail(e, "these tensors make no valid file");
}

// ---- Texts ----

// The text of an option: a file, or the one that ships. *n is 0 if there is nothing to read that with.
static int read_text(const upg_job *j, const char *path, bool heldout, int32_t **tokens, size_t *n, upg_error *e) {
    size_t size, length = strlen(path);
    *n = 0;
    if (length) return upg_read_corpus(j->model, path, length > 4 && !strcmp(path + length - 4, ".u16"), tokens, n, e);
    if (!j->model->tokenizer) return 0;
    const char *text = upg_default_text(heldout, &size);
    return upg_tokenize_corpus(j->model, text, size, tokens, n, e);
}

// As windows of tokens, at most `most` and at least `least` in all. Where each token predicts its next one (heldout),
// one more follows the last window.
static int load_text(const upg_job *j, const char *path, bool heldout, int most, size_t least, int32_t **tokens,
                     upg_text *text, upg_error *e) {
    size_t n, window = WINDOW;
    if (!path) return 0;
    if (read_text(j, path, heldout, tokens, &n, e)) return -1;
    if (!n && !*path) return 0;
    if (n < least)
        return upg_fail(e, "%s: %zu tokens are too few to %s with: at least %zu", *path ? path : "the default text", n,
                        heldout ? "measure" : "calibrate", least);
    n -= heldout;
    if (n > (size_t)most) n = (size_t)most;
    if (window > (size_t)j->model->config.max_positions) window = (size_t)j->model->config.max_positions;
    if (window > n) window = n;
    *text = (upg_text){.tokens = *tokens, .n_windows = (int)(n / window), .window = (int)window};
    return 0;
}

// Both are read before any work, so that what is wrong with them is known at once.
static int load_texts(upg_job *j, upg_error *e) {
    const upg_compress_options *o = j->options;
    int calibration = o->calibration_tokens ? o->calibration_tokens : j->effort.calibration_tokens,
        heldout = o->heldout_tokens ? o->heldout_tokens : j->effort.heldout_tokens;
    if (load_text(j, o->calibration, false, calibration, LEAST_CALIBRATION, &j->tokens, &j->text, e) ||
        load_text(j, o->heldout, true, heldout, 2, &j->heldout_tokens, &j->heldout, e))
        return -1;
    j->result->calibration_tokens = j->text.n_windows * j->text.window;
    return 0;
}

// ---- What it is the work of ----

// Whatever changes a byte that is coded.
static int make_key(const upg_job *j, uint8_t key[16], upg_error *e) {
    const upg_compress_options *o = j->options;
    uint8_t model[16];
    upg_buf b = {0};
    if (upg_model_hash(j->model, model, e)) return -1;
    upg_buf_add(&b, model, sizeof model);
    upg_buf_fmt(&b, "%s %d %a %a %d %d %d %d %d %d %llu %d ", UPG_VERSION, JOURNAL_VERSION, o->ratio, o->bits,
                o->layer_bits, o->embedding_bits, o->head_bits, j->effort.search, j->effort.shaping, j->effort.scored,
                (unsigned long long)o->rotation_seed, j->text.window);
    if (j->math && j->text.n_windows) upg_buf_str(&b, j->result->device); // whose rounding it is
    upg_buf_add(&b, j->tokens, (size_t)j->result->calibration_tokens * sizeof *j->tokens);
    int rc = upg_buf_check(&b, e);
    if (!rc) upg_file_hash(b.data, b.size, key);
    upg_buf_free(&b);
    return rc;
}

// ---- Sensitivity ----

static const double sensitivity_noise = 0.0193; // errors as of 3 bits, in the middle of what is given out

typedef struct sensing {
    upg_job *j;
    double tick_work;
} sensing;

static int sense_tick(void *ctx, upg_error *e) {
    sensing *s = ctx;
    return upg_job_progress(s->j, s->tick_work, "measuring sensitivity", e);
}

static int sense_part(void *ctx, int next, const uint64_t *hashes, int n, upg_error *e) {
    sensing *s = ctx;
    upg_buf b = {0};
    for (int i = 0; i < n; i++) upg_buf_fmt(&b, " %llx", (unsigned long long)hashes[i]);
    int rc = upg_buf_check(&b, e) ? -1 : upg_journal_add(s->j->journal, e, "sensed %d %d%s", next, n, b.data);
    upg_buf_free(&b);
    return rc;
}

// The last such line's numbers behind the first two. The caller frees.
static uint64_t *read_sensed(const upg_job *j, int *part, int *n, upg_error *e) {
    const char *last = NULL;
    int at = 0;
    for (size_t i = 0; i < upg_journal_lines(j->journal); i++)
        if (!strncmp(upg_journal_line(j->journal, i), "sensed ", 7)) last = upg_journal_line(j->journal, i);
    uint64_t *hashes = upg_alloc((size_t)j->model->program->n_ops + 1, sizeof *hashes, e);
    *n = 0;
    if (!hashes || !last || sscanf(last, "sensed %d %d%n", part, n, &at) != 2 || *n > j->model->program->n_ops) {
        *n = *part = 0;
        return hashes;
    }
    char *text = (char *)(uintptr_t)last + at;
    for (int i = 0; i < *n; i++) hashes[i] = strtoull(text, &text, 16);
    return hashes;
}

static int windows_in(const upg_text *text, int tokens) {
    int n = tokens / text->window;
    return n < 1 ? 1 : n > text->n_windows ? text->n_windows : n;
}

static double sensing_work(const upg_job *j, double *tick_work) {
    const upg_program *p = j->model->program;
    int uses = 0, inputs = 0;
    for (int i = 0; i < p->n_ops; i++) {
        uses += p->ops[i].kind == UPG_OP_LINEAR || p->ops[i].kind == UPG_OP_EMBED;
        inputs += p->ops[i].kind == UPG_OP_QUANTISE;
    }
    double shaping = windows_in(&j->text, j->effort.shaping), scored = windows_in(&j->text, j->effort.scored),
           parts = inputs / 2.0 + 1, ticks = shaping * (inputs + parts) + scored * uses * (parts / 2 + 1),
           work = (double)j->parameters * j->text.window * (2 * shaping + scored * uses / 2);
    if (tick_work) *tick_work = work / ticks;
    return work;
}

static bool wants_sensing(const upg_job *j) {
    bool open = false;
    for (size_t i = 0; i < j->n; i++) open |= is_open(&j->out[i]);
    return open && budget(j) > 0 && j->text.n_windows && j->effort.scored;
}

// Divergence per weight and unit of noise, for upg_allocate_bits.
static void set_importance(upg_job *j, const double *kl) {
    for (size_t i = 0; i < j->n; i++) {
        if (!j->source[i] || j->out[i].rows == 1) continue;
        j->importance[i] = 0;
        for (int w = 0; w < j->model->program->n_weights; w++)
            if (j->model->program->weights[w] == j->source[i]) j->importance[i] += kl[w];
        j->importance[i] /= (double)j->out[i].rows * (double)j->out[i].cols;
    }
    j->result->measured = true;
}

static int record_importance(upg_job *j, const double *kl, upg_error *e) {
    upg_buf b = {0};
    for (int w = 0; w < j->model->program->n_weights; w++) upg_buf_fmt(&b, " %a", kl[w]);
    int rc = upg_buf_check(&b, e) ? -1 : upg_journal_add(j->journal, e, "importance%s", b.data);
    upg_buf_free(&b);
    return rc;
}

static bool recorded_importance(const upg_job *j, double *kl) {
    for (size_t i = 0; i < upg_journal_lines(j->journal); i++) {
        char *text = (char *)(uintptr_t)upg_journal_line(j->journal, i);
        if (strncmp(text, "importance ", 11)) continue;
        text += 10;
        for (int w = 0; w < j->model->program->n_weights; w++) kl[w] = strtod(text, &text);
        return true;
    }
    return false;
}

static int sense(upg_job *j, double *kl, upg_error *e) {
    const upg_program *p = j->model->program;
    bool *wanted = upg_alloc((size_t)p->n_weights, sizeof *wanted, e);
    const char *path = upg_journal_file(j->journal, "sensitivity", e);
    sensing s = {.j = j};
    double work = sensing_work(j, &s.tick_work);
    int part, n_seen, rc = -1;
    uint64_t *seen = wanted && path ? read_sensed(j, &part, &n_seen, e) : NULL;
    if (seen) {
        for (int w = 0; w < p->n_weights; w++) wanted[w] = is_open(&j->out[upg_job_output(j, w)]);
        upg_sensitivity_options o = {.text = j->text,
                                     .scored = windows_in(&j->text, j->effort.scored),
                                     .rotation_seed = j->options->rotation_seed,
                                     .noise = sensitivity_noise,
                                     .damping = UPG_JOB_DAMPING,
                                     .math = j->math,
                                     .wanted = wanted,
                                     .path = path,
                                     .tick = sense_tick,
                                     .tick_ctx = &s,
                                     .part = part,
                                     .n_seen = n_seen,
                                     .seen = seen,
                                     .part_done = sense_part,
                                     .part_ctx = &s};
        o.text.n_windows = windows_in(&j->text, j->effort.shaping);
        if (o.scored > o.text.n_windows) o.text.n_windows = o.scored;
        double before = j->work_done;
        rc = upg_sensitivity_measure(p, &o, j->pool, kl, e);
        j->work_done = before + work;
    }
    free(seen);
    free(wanted);
    return rc;
}

static int measure_sensitivity(upg_job *j, upg_error *e) {
    double *kl = upg_alloc((size_t)j->model->program->n_weights, sizeof *kl, e);
    int rc = kl ? 0 : -1;
    if (!rc && recorded_importance(j, kl))
        j->result->resumed = true;
    else if (!rc)
        rc = sense(j, kl, e) || record_importance(j, kl, e) ? -1 : 0;
    const char *path = rc ? NULL : upg_journal_file(j->journal, "sensitivity", e);
    if (path) unlink(path); // its place on the disk is wanted for the streams
    rc = path ? 0 : -1;
    if (!rc) set_importance(j, kl);
    free(kl);
    return rc;
}

// ---- All of it ----

// Bytes that the widest layer needs at once: its inputs' moments, what its matrices become, a window's activations.
static double needed_memory(const upg_job *j) {
    const upg_program *p = j->model->program;
    double widest = 0, values = 0, row = 0, embedding = 0, largest = 0;
    for (size_t i = 0; i < j->n; i++)
        if (j->source[i] && !strcmp(j->out[i].name, "model.embed_tokens.weight"))
            embedding = 4.0 * (double)j->out[i].rows * (double)j->out[i].cols;
    for (size_t i = 0; i < j->n; i++)
        if (j->source[i]) largest = fmax(largest, (double)j->out[i].rows * (double)j->out[i].cols);
    for (int i = 0; i < p->n_buffers; i++) row += i == p->logits ? 0 : p->widths[i];
    for (int i = 0; i < p->n_ops; i++) {
        const upg_op *op = &p->ops[i];
        if (op->kind != UPG_OP_LINEAR || op->out == p->logits) continue;
        double size = 4.0 * (double)p->weights[op->weight]->rows * (double)p->weights[op->weight]->cols;
        if (op->n > widest) widest = op->n;
        if (size > values) values = size;
    }
    double threads = upg_pool_threads(j->pool), window = j->text.n_windows ? j->text.window : 0;
    double coding = 128 * 21 * widest * threads;
    if (j->math) // rows, targets, codes and weights of what is coded at once, and what passes to the device
        coding = 128 * 4 * widest * threads + 9.5 * fmin(largest, upg_math_rows(j->math, (int)widest) * widest) + 1e8;
    double fitting = j->text.n_windows ? 8 * widest * widest + 2.2 * values + window * 4 * (row + 2 * widest) : 0;
    return coding + (fitting > embedding ? fitting : embedding) + 2e8;
}

static int produce(upg_job *j, const char *out, upg_error *e) {
    double needed = needed_memory(j);
    if (j->options->memory > 0 && needed > j->options->memory)
        return upg_fail(e, "the widest layer needs about %.1f GB of memory, and %.1f are allowed", needed / 1e9,
                        j->options->memory / 1e9);
    bool open = wants_sensing(j);
    j->work = upg_job_coding_work(j) + upg_job_report_work(j) + (open ? sensing_work(j, NULL) : 0);
    if (open && measure_sensitivity(j, e)) return -1;
    const char *file = plan(j, e) ? NULL : upg_journal_file(j->journal, "file", e);
    upg_writer *w = file ? upg_writer_resume(out, file, j->config.data, j->model->weights.chat_template,
                                             j->options->rotation_seed, j->out, j->n, upg_job_report_room(j), e)
                         : NULL;
    upg_buf report = {0};
    int rc = w ? 0 : -1;
    if (!rc) rc = upg_job_code(j, w, e);
    if (!rc) rc = upg_job_measure(j, w, e);
    if (!rc) rc = upg_job_report(j, &report, e);
    if (!rc) rc = upg_writer_finish(w, report.data, e);
    upg_buf_free(&report);
    upg_writer_free(w);
    return rc;
}

static void matrix_sizes(const upg_job *j, int first, int last, upg_math_sizes *s) {
    const upg_program *p = j->model->program;
    const int logits = UPG_RUNNER_LOGITS < s->rows ? UPG_RUNNER_LOGITS : s->rows;
    size_t part = 0;
    for (int i = first; i < last; i++) {
        const upg_op *op = &p->ops[i];
        if (op->weight < 0 || p->weights[op->weight]->rows == 1) continue;
        const upg_tensor *t = p->weights[op->weight];
        const int n = (int)(t->cols + 15) & ~15;
        const int64_t outputs = op->out == p->logits ? (t->rows * logits + s->rows - 1) / s->rows : t->rows;
        const size_t matrix = ((size_t)t->rows + 15) / 16 * 16 * (size_t)n;
        if (op->kind == UPG_OP_LINEAR) part += matrix;
        if (op->kind == UPG_OP_LINEAR && outputs > s->outputs) s->outputs = (int)outputs;
        if (n > s->inputs) s->inputs = n;
        if (matrix > s->matrix) s->matrix = matrix;
    }
    if (part > s->part) s->part = part;
}

// Another device, if there is one that is to do what takes long.
static int open_math(upg_job *j, upg_error *e) {
    const upg_program *p = j->model->program;
    upg_math_sizes s = {.rows = 1};
    if (j->text.n_windows) s.rows = j->text.window;
    if (j->heldout.n_windows && j->heldout.window > s.rows) s.rows = j->heldout.window;
    upg_error why;
    for (int i = 0, next; i < p->n_ops; i = next) { // layers: from an addition to the next
        for (next = i + 1; next < p->n_ops && p->ops[next - 1].kind != UPG_OP_ADD; next++) continue;
        matrix_sizes(j, i, next, &s);
    }
    if (upg_math_new(&j->math, &s, j->pool, &why)) {
        *e = why;
        return -1;
    }
    if (j->math)
        snprintf(j->result->device, sizeof j->result->device, "%s", upg_math_path(j->math));
    else
        snprintf(j->result->device, sizeof j->result->device, "CPU%s%s%s", *why.message ? " (" : "", why.message,
                 *why.message ? ")" : "");
    return 0;
}

static int open_job(upg_job *j, const char *source, upg_error *e) {
    if (!(j->model = upg_model_open(source, e))) return -1;
    if (j->model->weights.compressed) return upg_fail(e, "%s: is compressed already", source);
    if (upg_config_write(&j->model->config, &j->config, e)) return -1;
    if (j->model->tokenizer && upg_tokenizer_pack(j->model->tokenizer, &j->tokenizer, e)) return -1;
    j->effort = efforts[j->options->effort];
    if (j->options->exact_search) j->effort.search = UPG_SEARCH_EXACT;
    return list_tensors(j, e) || load_texts(j, e) || !(j->pool = upg_pool_new(j->options->n_threads, e)) ||
                   open_math(j, e)
               ? -1
               : 0;
}

// That the budget can be met is known before anything is made.
static int check_budget(upg_job *j, upg_error *e) {
    if (budget(j) <= 0) return 0;
    upg_writer_tensor *saved = upg_alloc(j->n, sizeof *saved, e);
    if (!saved) return -1;
    memcpy(saved, j->out, j->n * sizeof *saved);
    int rc = upg_allocate_bits(j->out, j->importance, j->n, (size_t)budget(j), planned_size, j, e);
    memcpy(j->out, saved, j->n * sizeof *saved);
    free(saved);
    return rc;
}

int upg_compress(const char *source, const char *out, const upg_compress_options *options, upg_compress_result *result,
                 upg_error *e) {
    *result = (upg_compress_result){0};
    upg_job j = {.options = options, .result = result};
    double start = upg_now();
    uint8_t key[16];
    int rc = open_job(&j, source, e);
    if (!rc) rc = check_budget(&j, e);
    if (!rc && upg_path_is_dir(out)) rc = upg_fail(e, "%s: is a directory", out);
    if (!rc) rc = make_key(&j, key, e) || !(j.journal = upg_journal_open(out, key, e)) ? -1 : 0;
    if (!rc) rc = produce(&j, out, e);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    result->seconds = upg_now() - start;
    result->peak_memory = (size_t)usage.ru_maxrss * 1024;
    upg_journal_close(j.journal, rc != 0);
    if (rc) upg_compress_result_free(result);
    if (!rc && options->progress) options->progress(options->progress_ctx, 1, "");
    upg_buf_free(&j.config);
    upg_buf_free(&j.tokenizer);
    free(j.out);
    free(j.tokens);
    free(j.heldout_tokens);
    free(j.source);
    free(j.importance);
    upg_math_free(j.math);
    upg_pool_free(j.pool);
    upg_model_free(j.model);
    return rc;
}
