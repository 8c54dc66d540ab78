// See sensitivity.h. Every use of a matrix is a stream of the runner, born in the part where the matrix is used; all
// streams pass through the model side by side, so its weights are read once. A matrix's errors are white noise in the
// rotated basis if it is coded without feedback, and with feedback what that makes of white noise: E with E L = noise.
#include "compress/sensitivity.h"
#include "compress/feedback.h"
#include "engine/score.h"
#include "program/ops.h"
#include <cblas.h>
#include <stdlib.h>

enum { ORIGINAL, ROWS = 128 }; // stream 0; rows of a task

typedef struct use {
    int op; // EMBED or LINEAR
    double kl;
} use;

typedef struct job {
    const upg_program *p;
    const upg_sensitivity_options *o;
    upg_pool *pool;
    upg_runner *r;
    use *uses; // [n_uses] in the order of the program; use i is stream i + 1
    int n_uses, n_born;
    int *windows;     // [n_uses + 1]
    float **replaced; // [n_weights] for the stream at hand
    // Errors of one matrix.
    const upg_tensor *w;
    uint64_t seed;
    const float *l; // [n][n] or NULL
    int n;
    float *values; // [rows][cols]
    float **work;  // [threads][ROWS * n]
    // Scores of a chunk.
    const float *logits, *reference;
    upg_row_score scores[UPG_RUNNER_LOGITS];
} job;

// ---- Errors ----

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

// The sum of four uniform numbers, of variance 1: near enough to a Gaussian.
static float noise_at(uint64_t seed, uint64_t i) {
    uint64_t u = mix(seed ^ mix(i));
    int sum = (int)(u & 65535) + (int)(u >> 16 & 65535) + (int)(u >> 32 & 65535) + (int)(u >> 48);
    return ((float)sum - 131070.0f) * (1.7320508f / 65536);
}

static void noise_task(void *ctx, int task, int thread) {
    job *j = ctx;
    const int cols = (int)j->w->cols, n = j->n, b = upg_block(n);
    int64_t first = (int64_t)task * ROWS, left = j->w->rows - first;
    int rows = left < ROWS ? (int)left : ROWS;
    float *values = j->values + (size_t)first * (size_t)cols, *error = j->work[thread];
    upg_tensor_floats(j->w, first * cols, (int64_t)rows * cols, values);
    for (int r = 0; r < rows; r++) {
        float *x = error + (size_t)r * (size_t)n, *w = values + (size_t)r * (size_t)cols;
        double sum = 0;
        for (int i = 0; i < cols; i++) sum += (double)w[i] * w[i];
        float size = (float)sqrt(sum / n * j->o->noise);
        for (int i = 0; i < n; i++) x[i] = size * noise_at(j->seed, (uint64_t)(first + r) * (uint64_t)n + (uint64_t)i);
    }
    if (j->l)
        cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasUnit, rows, n, 1.0f, j->l, n, error, n);
    float norm = 1.0f / sqrtf((float)b);
    for (int r = 0; r < rows; r++) {
        float *x = error + (size_t)r * (size_t)n, *w = values + (size_t)r * (size_t)cols;
        hadamard(x, n, b);
        for (int i = 0; i < cols; i++)
            w[i] += upg_float(upg_bits(x[i] * norm) ^ upg_sign(j->o->rotation_seed, (uint64_t)i));
    }
}

// Values of a use's matrix with errors, which the caller frees. f: of its inputs, or NULL.
static float *disturb(job *j, int i, const upg_feedback *f, upg_error *e) {
    j->w = j->p->weights[j->p->ops[j->uses[i].op].weight];
    j->n = (int)((j->w->cols + 15) & ~(int64_t)15);
    j->l = f ? f->l : NULL;
    j->seed = mix((uint64_t)i);
    int threads = upg_pool_threads(j->pool);
    bool ok = (j->values = upg_alloc((size_t)j->w->rows * (size_t)j->w->cols, sizeof(float), e));
    for (int t = 0; ok && t < threads; t++)
        ok = (j->work[t] = upg_alloc((size_t)ROWS * (size_t)j->n, sizeof(float), e));
    if (ok) upg_pool_run(j->pool, noise_task, j, (int)((j->w->rows + ROWS - 1) / ROWS));
    for (int t = 0; t < threads; t++) {
        free(j->work[t]);
        j->work[t] = NULL;
    }
    if (ok) return j->values;
    free(j->values);
    return NULL;
}

// The factor of the inputs of QUANTISE op, with the diagonal 16-blocks made identities: what they hold is not part of
// it.
static int factor(job *j, int op, upg_feedback *f, upg_error *e) {
    upg_moments m;
    upg_moments_options o = {.rotation_seed = j->o->rotation_seed, .stream = ORIGINAL, .other = -1, .math = j->o->math};
    upg_feedback_options fo = {.damping = j->o->damping, .math = j->o->math};
    if (upg_moments_measure(j->r, op, &o, j->pool, &m, e) || upg_feedback_new(f, &m, &fo, j->pool, e)) return -1;
    for (int row = 0; row < f->n; row++)
        for (int col = row & ~15; col < row; col++) f->l[(size_t)row * (size_t)f->n + (size_t)col] = 0;
    return 0;
}

// ---- Streams ----

static int list_uses(job *j, upg_error *e) {
    int threads = upg_pool_threads(j->pool);
    j->uses = upg_alloc((size_t)j->p->n_ops, sizeof *j->uses, e);
    j->windows = upg_alloc((size_t)j->p->n_ops + 1, sizeof *j->windows, e);
    j->replaced = upg_alloc((size_t)j->p->n_weights, sizeof *j->replaced, e);
    j->work = upg_alloc((size_t)threads, sizeof *j->work, e);
    if (!j->uses || !j->windows || !j->replaced || !j->work) return -1;
    for (int i = 0; i < j->p->n_ops; i++) {
        const upg_op *op = &j->p->ops[i];
        bool matrix = op->kind == UPG_OP_EMBED || op->kind == UPG_OP_LINEAR;
        if (matrix && j->o->wanted[op->weight]) j->uses[j->n_uses++].op = i;
    }
    j->windows[ORIGINAL] = j->o->text.n_windows;
    for (int i = 0; i < j->n_uses; i++) j->windows[i + 1] = j->o->scored;
    return 0;
}

static void score_task(void *ctx, int row, int thread) {
    (void)thread;
    job *j = ctx;
    size_t vocab = (size_t)j->p->config->vocab_size;
    j->scores[row] = upg_score_row(j->logits + (size_t)row * vocab, j->reference + (size_t)row * vocab, (int)vocab, 0);
}

// Rows first..first+n-1 of window w, for every use. head: the values with errors of the uses born in the last part,
// [n_uses], NULL for the others. reference: [UPG_RUNNER_LOGITS][vocab_size].
static int score_chunk(job *j, float **head, float *reference, int w, int first, int n, upg_error *e) {
    const float *logits = upg_runner_logits(j->r, ORIGINAL, w, first, n, NULL, e);
    if (!logits) return -1;
    memcpy(reference, logits, (size_t)n * (size_t)j->p->config->vocab_size * sizeof *logits);
    j->reference = reference;
    int rc = 0;
    for (int i = 0; !rc && i < j->n_uses; i++) {
        int weight = j->p->ops[j->uses[i].op].weight;
        j->replaced[weight] = head[i];
        j->logits = upg_runner_logits(j->r, head[i] ? ORIGINAL : i + 1, w, first, n, j->replaced, e);
        j->replaced[weight] = NULL;
        if (!j->logits) return -1;
        upg_pool_run(j->pool, score_task, j, n);
        for (int row = 0; row < n; row++) j->uses[i].kl += j->scores[row].kl;
    }
    return rc;
}

static int score_all(job *j, float **head, upg_error *e) {
    const int window = j->o->text.window;
    float *reference = upg_alloc((size_t)UPG_RUNNER_LOGITS * (size_t)j->p->config->vocab_size, sizeof *reference, e);
    int rc = reference ? 0 : -1;
    for (int w = 0; !rc && w < j->o->scored; w++)
        for (int first = 0; !rc && first < window; first += UPG_RUNNER_LOGITS)
            rc = score_chunk(j, head, reference, w, first,
                             window - first < UPG_RUNNER_LOGITS ? window - first : UPG_RUNNER_LOGITS, e);
    free(reference);
    return rc;
}

// Makes the values of the uses of the part at hand; those of inner parts run through it at once.
static int bear(job *j, float **head, upg_error *e) {
    int first, last, quantise = -1;
    upg_feedback f = {0};
    upg_runner_part(j->r, upg_runner_at(j->r), &first, &last);
    bool ends = upg_runner_at(j->r) + 1 == upg_runner_parts(j->r);
    int rc = 0;
    for (int op = first; !rc && op < last; op++) {
        if (j->p->ops[op].kind == UPG_OP_QUANTISE) quantise = op;
        if (j->n_born == j->n_uses || j->uses[j->n_born].op != op) continue;
        bool linear = j->p->ops[op].kind == UPG_OP_LINEAR;
        if (linear && quantise >= 0) {
            upg_feedback_free(&f);
            rc = factor(j, quantise, &f, e);
            quantise = -1;
        }
        float *values = rc ? NULL : disturb(j, j->n_born, linear ? &f : NULL, e);
        if (!values) {
            rc = -1;
        } else if (ends) {
            head[j->n_born] = values;
        } else {
            int weight = j->p->ops[op].weight;
            j->replaced[weight] = values;
            rc = upg_runner_finish(j->r, ORIGINAL, j->n_born + 1, j->replaced, e);
            j->replaced[weight] = NULL;
            upg_math_forget(j->o->math, values);
            free(values);
        }
        j->n_born++;
    }
    upg_feedback_free(&f);
    return rc;
}

static int end_part(job *j, upg_error *e) {
    upg_runner_next(j->r);
    if (!j->o->part_done) return 0;
    uint64_t *hashes = upg_alloc((size_t)j->n_born + 1, sizeof *hashes, e);
    int rc = hashes ? 0 : -1;
    for (int i = 0; !rc && i <= j->n_born; i++) rc = upg_runner_hash(j->r, i, &hashes[i], e);
    if (!rc) rc = j->o->part_done(j->o->part_ctx, upg_runner_at(j->r), hashes, j->n_born + 1, e);
    free(hashes);
    return rc;
}

// Back to a part if the streams are what they were when it began; else to the start.
static void go_on(job *j) {
    int born = 0, first, last;
    if (j->o->part < 1 || j->o->part >= upg_runner_parts(j->r)) return;
    upg_runner_part(j->r, j->o->part, &first, &last);
    while (born < j->n_uses && j->uses[born].op < first) born++;
    if (j->o->n_seen != born + 1) return;
    upg_runner_seek(j->r, j->o->part);
    for (int i = 0; i <= born; i++) {
        uint64_t hash;
        if (!upg_runner_hash(j->r, i, &hash, NULL) && hash == j->o->seen[i]) continue;
        upg_runner_seek(j->r, 0);
        return;
    }
    j->n_born = born;
}

static int measure(job *j, float **head, upg_error *e) {
    go_on(j);
    while (upg_runner_at(j->r) + 1 < upg_runner_parts(j->r)) {
        int old = j->n_born;
        if (bear(j, head, e)) return -1;
        for (int i = 0; i <= old; i++)
            if (upg_runner_finish(j->r, i, i, NULL, e)) return -1;
        if (end_part(j, e)) return -1;
    }
    return bear(j, head, e) || score_all(j, head, e) ? -1 : 0;
}

int upg_sensitivity_measure(const upg_program *p, const upg_sensitivity_options *o, upg_pool *pool, double *kl,
                            upg_error *e) {
    job j = {.p = p, .o = o, .pool = pool};
    float **head = NULL;
    int rc = list_uses(&j, e);
    if (!rc) {
        upg_runner_options ro = {o->text, j.windows, j.n_uses + 1, o->path, o->tick, o->tick_ctx, o->math};
        head = upg_alloc((size_t)j.n_uses + 1, sizeof *head, e);
        j.r = head ? upg_runner_new(p, &ro, pool, e) : NULL;
        rc = j.r ? measure(&j, head, e) : -1;
    }
    for (int i = 0; !rc && i < p->n_weights; i++) kl[i] = 0;
    for (int i = 0; !rc && i < j.n_uses; i++)
        kl[p->ops[j.uses[i].op].weight] += j.uses[i].kl / ((double)o->scored * o->text.window);
    for (int i = 0; head && i < j.n_uses; i++) {
        upg_math_forget(o->math, head[i]);
        free(head[i]);
    }
    free(head);
    upg_runner_free(j.r);
    free(j.uses);
    free(j.windows);
    free(j.replaced);
    free(j.work);
    return rc;
}
