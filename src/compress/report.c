// What a compression says of its result. The file gets all that follows from source, texts and options; how long it
// took and how much memory is told to the caller, since a file that held it would never be the same twice.
#include "compress/job.h"
#include "engine/score.h"
#include "upg.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 256 };

typedef struct measurement {
    upg_session *session,
        *original; // the original in one of two ways: a session, or part by part if a device multiplies
    upg_runner *runner;
    const float *reference; // logits of the rows at hand
    const int32_t *targets;
    int vocab;
    upg_row_score scores[BATCH];
} measurement;

static void score_task(void *ctx, int row, int thread) {
    (void)thread;
    measurement *m = ctx;
    const float *reference =
        m->runner ? m->reference + (size_t)row * (size_t)m->vocab : upg_session_logits(m->original, row);
    m->scores[row] = upg_score_row(upg_session_logits(m->session, row), reference, m->vocab, m->targets[row]);
}

static int run_rows(upg_session *s, const upg_row *rows, int n, upg_error *e) {
    if (upg_session_run(s, rows, n, e)) return -1;
    for (int i = 0; i < n; i++)
        if (upg_session_row_failed(s, i)) return upg_fail(e, "measuring the result: a value that is not finite");
    return 0;
}

static int run_original(measurement *m, const upg_row *rows, int w, int at, int n, upg_error *e) {
    if (!m->runner) return run_rows(m->original, rows, n, e);
    m->reference = upg_runner_logits(m->runner, 0, w, at, n, NULL, e);
    return m->reference ? 0 : -1;
}

// Sums of a window, each of whose tokens predicts its next one.
static int measure_window(upg_job *j, measurement *m, int w, upg_error *e) {
    upg_compress_result *r = j->result;
    const int n = j->heldout.window, batch = m->runner ? UPG_RUNNER_LOGITS : BATCH;
    const int32_t *tokens = j->heldout.tokens + (size_t)w * (size_t)n;
    for (int at = 0; at < n; at += batch) {
        upg_row rows[BATCH];
        int count = n - at < batch ? n - at : batch;
        for (int i = 0; i < count; i++) rows[i] = (upg_row){tokens[at + i], 0, true};
        if (run_rows(m->session, rows, count, e) || run_original(m, rows, w, at, count, e)) return -1;
        m->targets = tokens + at + 1;
        upg_pool_run(j->pool, score_task, m, count);
        for (int i = 0; i < count; i++) {
            r->nll += m->scores[i].nll;
            r->original_nll += m->scores[i].reference_nll;
            r->kl += m->scores[i].kl;
            r->top1 += m->scores[i].same_top;
        }
        if (upg_job_progress(j, 2.0 * (double)j->parameters * count, "measuring", e)) return -1;
    }
    r->heldout_tokens += n;
    return upg_session_truncate(m->session, 0, 0, e) || (m->original && upg_session_truncate(m->original, 0, 0, e)) ? -1
                                                                                                                    : 0;
}

static int measure_windows(upg_job *j, measurement *m, upg_error *e) {
    upg_compress_result *r = j->result;
    for (int w = 0; w < j->heldout.n_windows; w++)
        if (measure_window(j, m, w, e)) return -1;
    r->nll /= r->heldout_tokens;
    r->original_nll /= r->heldout_tokens;
    r->kl /= r->heldout_tokens;
    r->top1 /= r->heldout_tokens;
    return 0;
}

static int tick(void *ctx, upg_error *e) {
    return upg_job_progress(ctx, 0, "measuring", e);
}

// The original up to its last part, so that each part's weights go to the device once.
static int run_parts(upg_job *j, measurement *m, upg_error *e) {
    const char *path = upg_journal_file(j->journal, "heldout", e);
    const upg_runner_options o = {j->heldout, &j->heldout.n_windows, 1, path, tick, j, j->math};
    m->runner = path ? upg_runner_new(j->model->program, &o, j->pool, e) : NULL;
    if (!m->runner) return -1;
    for (; upg_runner_at(m->runner) + 1 < upg_runner_parts(m->runner); upg_runner_next(m->runner))
        if (upg_runner_finish(m->runner, 0, 0, NULL, e)) return -1;
    return 0;
}

int upg_job_measure(upg_job *j, upg_writer *w, upg_error *e) {
    const char *path;
    if (!j->heldout.n_windows) return 0;
    measurement m = {.vocab = upg_model_vocab_size(j->model)};
    upg_session_options o = {
        .n_threads = j->options->n_threads, .context = j->heldout.window, .max_rows = BATCH, .max_logits = BATCH};
    upg_model *model = upg_writer_preview(w, &path, e) ? NULL : upg_model_open(path, e);
    if (model) m.session = upg_session_new(model, &o, e);
    int rc = m.session ? 0 : -1;
    if (!rc && j->math)
        rc = run_parts(j, &m, e);
    else if (!rc)
        rc = (m.original = upg_session_new(j->model, &o, e)) ? 0 : -1;
    if (!rc) rc = measure_windows(j, &m, e);
    upg_runner_free(m.runner);
    upg_session_free(m.session);
    upg_session_free(m.original);
    upg_model_free(model);
    return rc;
}

double upg_job_report_work(const upg_job *j) {
    return 2.0 * (double)j->parameters * j->heldout.n_windows * j->heldout.window;
}

size_t upg_job_report_room(const upg_job *j) {
    return 384 + 12 * j->n;
}

static int by_name(const void *a, const void *b) {
    const upg_compressed_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

// Errors of the matrices in the order of their names, as readers list tensors.
static int write_errors(const upg_compress_result *r, upg_buf *b, upg_error *e) {
    const upg_compressed_tensor **sorted = upg_alloc(r->n, sizeof *sorted, e);
    if (!sorted) return -1;
    for (size_t i = 0; i < r->n; i++) sorted[i] = &r->tensors[i];
    qsort(sorted, r->n, sizeof *sorted, by_name);
    const char *comma = "";
    for (size_t i = 0; i < r->n; i++)
        if (sorted[i]->bits2) {
            upg_buf_fmt(b, "%s%.3g", comma, fmax(sorted[i]->error, 0)); // rounding may leave less
            comma = ",";
        }
    free(sorted);
    return 0;
}

int upg_job_report(const upg_job *j, upg_buf *b, upg_error *e) {
    const upg_compress_result *r = j->result;
    upg_buf_fmt(b, "{\"parameters\":%llu,\"bytes\":%llu,\"calibration_tokens\":%d,\"measured_bits\":%s",
                (unsigned long long)r->parameters, (unsigned long long)r->bytes, r->calibration_tokens,
                r->measured ? "true" : "false");
    if (r->heldout_tokens)
        upg_buf_fmt(b,
                    ",\"heldout\":{\"tokens\":%d,\"original_nll\":%.6g,\"nll\":%.6g,\"ppl\":%.6g,\"kl\":%.5g,"
                    "\"top1\":%.4f}",
                    r->heldout_tokens, r->original_nll, r->nll, fmin(exp(r->nll), DBL_MAX), r->kl, r->top1);
    upg_buf_str(b, ",\"errors\":[");
    if (write_errors(r, b, e)) return -1;
    upg_buf_str(b, "]}");
    return upg_buf_check(b, e);
}
