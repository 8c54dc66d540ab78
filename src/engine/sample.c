// Sampling: docs/arithmetic.md, section 13, step by step.
#include "base/base.h"
#include "program/numbers.h"
#include "engine/sample.h"
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { REPEAT_WINDOW = 64 };

struct upg_sampler {
    uint64_t id;
    upg_sampling options;
    int vocab_size;
    upg_bias *bias;  // [options.n_bias]
    float *logits;   // [vocab_size] after penalties and temperature
    int32_t *counts; // [vocab_size] of tokens drawn; zeros between two draws. NULL: no penalty needs them
    uint64_t *keys;  // [vocab_size] sort keys: best first, ties to the lower id
    uint64_t *spare; // [vocab_size] for sorting
    float *p;        // [vocab_size] of the candidates in order
};

static bool within(float x, float low, float high) {
    return x >= low && x <= high;
}

static int check_bias(const upg_sampling *o, int vocab_size, upg_error *e) {
    if (o->n_bias > (size_t)vocab_size) return upg_fail(e, "sampling: more biases than tokens");
    for (size_t i = 0; i < o->n_bias; i++) {
        const upg_bias *b = &o->bias[i];
        if (b->token < 0 || b->token >= vocab_size)
            return upg_fail(e, "sampling: a bias for token %d, which is not in the vocabulary of %d", b->token,
                            vocab_size);
        if (!within(b->bias, -100, 100))
            return upg_fail(e, "sampling: the bias of token %d is not within -100..100", b->token);
    }
    return 0;
}

int upg_sampling_check(const upg_sampling *o, int vocab_size, upg_error *e) {
    if (vocab_size < 1) return upg_fail(e, "sampling: no vocabulary");
    if (o->temperature != 0 && !within(o->temperature, 1 / 64.0f, 100))
        return upg_fail(e, "sampling: temperature is 0 or within 1/64..100");
    if (o->top_k < 0) return upg_fail(e, "sampling: top_k is at least 0");
    if (!(o->top_p > 0 && o->top_p <= 1)) return upg_fail(e, "sampling: top_p is above 0 to 1");
    if (!within(o->min_p, 0, 1)) return upg_fail(e, "sampling: min_p is within 0..1");
    if (!within(o->repeat_penalty, 1 / 64.0f, 100)) return upg_fail(e, "sampling: repeat_penalty is within 1/64..100");
    if (!within(o->presence_penalty, -100, 100) || !within(o->frequency_penalty, -100, 100))
        return upg_fail(e, "sampling: presence_penalty and frequency_penalty are within -100..100");
    return check_bias(o, vocab_size, e);
}

static int by_token(const void *a, const void *b) {
    int32_t x = ((const upg_bias *)a)->token, y = ((const upg_bias *)b)->token;
    return (x > y) - (x < y);
}

// In order of tokens, each once.
static int copy_bias(upg_sampler *s, const upg_sampling *o, upg_error *e) {
    if (!o->n_bias) return 0;
    if (!(s->bias = upg_alloc(o->n_bias, sizeof *s->bias, e))) return -1;
    memcpy(s->bias, o->bias, o->n_bias * sizeof *s->bias);
    qsort(s->bias, o->n_bias, sizeof *s->bias, by_token);
    for (size_t i = 1; i < o->n_bias; i++)
        if (s->bias[i].token == s->bias[i - 1].token)
            return upg_fail(e, "sampling: token %d has two biases", s->bias[i].token);
    return 0;
}

upg_sampler *upg_sampler_new(int vocab_size, const upg_sampling *o, upg_error *e) {
    if (upg_sampling_check(o, vocab_size, e)) return NULL;
    upg_sampler *s = upg_alloc(1, sizeof *s, e);
    if (!s) return NULL;
    static atomic_uint_fast64_t made;
    s->id = atomic_fetch_add(&made, 1) + 1;
    s->options = *o;
    s->vocab_size = vocab_size;
    size_t n = (size_t)vocab_size;
    bool counts = o->presence_penalty != 0 || o->frequency_penalty != 0;
    if (copy_bias(s, o, e) || !(s->logits = upg_alloc(n, sizeof *s->logits, e)) ||
        (counts && !(s->counts = upg_alloc(n, sizeof *s->counts, e))) ||
        (o->temperature != 0 &&
         (!(s->keys = upg_alloc(n, sizeof *s->keys, e)) || !(s->spare = upg_alloc(n, sizeof *s->spare, e)) ||
          !(s->p = upg_alloc(n, sizeof *s->p, e))))) {
        upg_sampler_free(s);
        return NULL;
    }
    s->options.bias = s->bias;
    return s;
}

void upg_sampler_free(upg_sampler *s) {
    if (!s) return;
    free(s->bias);
    free(s->logits);
    free(s->counts);
    free(s->keys);
    free(s->spare);
    free(s->p);
    free(s);
}

// Denormals count as zero, whatever the mode of the caller's thread.
static float flush(float x) {
    return upg_bits(x) & 0x7f800000u ? x : 0.0f;
}

static void penalise(upg_sampler *s, const int32_t *history, size_t n) {
    size_t from = n > REPEAT_WINDOW ? n - REPEAT_WINDOW : 0;
    for (size_t i = from; i < n; i++) {
        bool seen = history[i] < 0 || history[i] >= s->vocab_size;
        for (size_t j = from; j < i && !seen; j++) seen = history[j] == history[i];
        if (seen) continue;
        float *l = &s->logits[history[i]];
        *l = flush(*l > 0 ? *l / s->options.repeat_penalty : *l * s->options.repeat_penalty);
    }
}

// A product and two differences for each token that was drawn, whatever the order they are met in.
static void penalise_drawn(upg_sampler *s, const int32_t *history, size_t n) {
    const upg_sampling *o = &s->options;
    for (size_t i = o->n_prompt; i < n; i++)
        if (history[i] >= 0 && history[i] < s->vocab_size) s->counts[history[i]]++;
    for (size_t i = o->n_prompt; i < n; i++) {
        if (history[i] < 0 || history[i] >= s->vocab_size || !s->counts[history[i]]) continue;
        float *l = &s->logits[history[i]], count = (float)s->counts[history[i]];
        s->counts[history[i]] = 0;
        *l = flush(*l - flush(count * o->frequency_penalty));
        *l = flush(*l - o->presence_penalty);
    }
}

// Ascending keys are descending logits, then ascending ids. -0 and +0 are one value.
static uint64_t key_of(float logit, int id) {
    uint32_t u = upg_bits(logit == 0 ? 0.0f : logit);
    uint32_t ascending = u & 0x80000000u ? ~u : u | 0x80000000u;
    return (uint64_t)~ascending << 32 | (uint32_t)id;
}

static int by_key(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

// Sorts keys that are in order of their ids: by their upper halves, stably, 11 bits at a time.
static void sort_all(upg_sampler *s, int n) {
    enum { BITS = 11, BINS = 1 << BITS };
    uint64_t *from = s->keys, *to = s->spare;
    for (int shift = 32; shift < 64; shift += BITS) {
        uint32_t starts[BINS] = {0}, at = 0;
        for (int i = 0; i < n; i++) starts[from[i] >> shift & (BINS - 1)]++;
        for (int i = 0; i < BINS; i++) {
            uint32_t count = starts[i];
            starts[i] = at;
            at += count;
        }
        for (int i = 0; i < n; i++) to[starts[from[i] >> shift & (BINS - 1)]++] = from[i];
        uint64_t *t = from;
        from = to;
        to = t;
    }
    s->keys = from; // three passes
    s->spare = to;
}

// The best k of keys[0..n), in order, by a bounded heap.
static void sift_down(uint64_t *heap, int n, int i) {
    for (;;) {
        int child = 2 * i + 1;
        if (child >= n) return;
        if (child + 1 < n && heap[child + 1] > heap[child]) child++;
        if (heap[i] >= heap[child]) return;
        uint64_t t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
        i = child;
    }
}

// What lies further than this below the largest logit changes nothing: its p is below 2^-24, and the sum, at least 1 by
// then, stays what it is. So neither sums nor the draw see it, and only the rest is divided by the temperature and
// sorted. exp(-16.7) = 5.58e-8, 2^-24 = 5.96e-8; the difference pays for all rounding on the way.
static const float FAR = 16.7f;

enum { LANES = 16 }; // of loops that are to be vectors without a change of meaning

static float largest(const float *x, int n) {
    float most[LANES];
    for (int j = 0; j < LANES; j++) most[j] = x[0];
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) most[j] = x[i + j] > most[j] ? x[i + j] : most[j];
    for (; i < n; i++) most[0] = x[i] > most[0] ? x[i] : most[0];
    for (int j = 1; j < LANES; j++) most[0] = most[j] > most[0] ? most[j] : most[0];
    return most[0];
}

// The keys of the logits that matter, divided by the temperature; how many.
static int near_ones(upg_sampler *s) {
    const float t = s->options.temperature, *l = s->logits, least = largest(l, s->vocab_size) - FAR * t;
    int m = 0;
    for (int i = 0; i < s->vocab_size; i += LANES) {
        const int end = i + LANES < s->vocab_size ? i + LANES : s->vocab_size;
        int any = 0;
        for (int j = i; j < end; j++) any |= l[j] >= least;
        for (int j = i; any && j < end; j++) {
            if (l[j] < least) continue;
            s->logits[j] = flush(l[j] / t);
            s->keys[m++] = key_of(s->logits[j], j);
        }
    }
    return m;
}

// The candidates that matter, in order.
static int candidates(upg_sampler *s) {
    const int m = near_ones(s);
    int k = s->options.top_k;
    if (!k || k > m) k = m;
    if (k > m / 8 && m > 512) {
        sort_all(s, m);
        return k;
    }
    for (int i = k / 2 - 1; i >= 0; i--) sift_down(s->keys, k, i);
    for (int i = k; i < m; i++)
        if (s->keys[i] < s->keys[0]) {
            s->keys[0] = s->keys[i];
            sift_down(s->keys, k, 0);
        }
    qsort(s->keys, (size_t)k, sizeof *s->keys, by_key);
    return k;
}

static int filter(const upg_sampler *s, int n) {
    const upg_sampling *o = &s->options;
    if (o->top_p < 1) {
        float total = 0, sum = 0;
        for (int i = 0; i < n; i++) total = total + s->p[i];
        for (int i = 0; i < n; i++) {
            sum = sum + s->p[i];
            if (sum >= o->top_p * total) {
                n = i + 1;
                break;
            }
        }
    }
    if (o->min_p > 0)
        for (int i = 1; i < n; i++)
            if (s->p[i] < o->min_p) n = i; // p descends
    return n;
}

static float uniform(const upg_sampling *o, size_t position) {
    return (float)(upg_splitmix64(o->seed, position) >> 40) * 0x1p-24f;
}

int32_t upg_sample(upg_sampler *s, const float *logits, const int32_t *history, size_t n_history) {
    const upg_sampling *o = &s->options;
    for (int i = 0; i < s->vocab_size; i++) s->logits[i] = flush(logits[i]);
    for (size_t i = 0; i < o->n_bias; i++) {
        float *l = &s->logits[o->bias[i].token];
        *l = flush(*l + flush(o->bias[i].bias));
    }
    if (o->repeat_penalty != 1) penalise(s, history, n_history);
    if (s->counts) penalise_drawn(s, history, n_history);
    if (o->temperature == 0) {
        int best = 0;
        for (int i = 1; i < s->vocab_size; i++)
            if (s->logits[i] > s->logits[best]) best = i;
        return best;
    }
    int n = candidates(s);
    float top = s->logits[(uint32_t)s->keys[0]];
    for (int i = 0; i < n; i++) s->p[i] = upg_exp(s->logits[(uint32_t)s->keys[i]] - top);
    n = filter(s, n);
    float total = 0, sum = 0;
    for (int i = 0; i < n; i++) total = total + s->p[i];
    const float u = uniform(o, n_history);
    for (int i = 0; i < n; i++) {
        sum = sum + s->p[i];
        if (sum > u * total) return (int32_t)(uint32_t)s->keys[i];
    }
    return (int32_t)(uint32_t)s->keys[n - 1];
}

uint64_t upg_sampler_id(const upg_sampler *s) {
    return s->id;
}

// The edit of a token, made if there is none; NULL: there is no room.
static upg_draw_edit *edit_of(const upg_sampler *s, upg_draw *d, int32_t token) {
    for (int i = 0; i < d->n_edits; i++)
        if (d->edits[i].token == token) return &d->edits[i];
    if (token < 0 || token >= s->vocab_size || d->n_edits == UPG_DRAW_EDITS) return NULL;
    d->edits[d->n_edits] = (upg_draw_edit){.token = token};
    return &d->edits[d->n_edits++];
}

// How often each token was drawn. Counts are zeros again behind it.
static void prepare_drawn(const upg_sampler *s, const int32_t *history, size_t n, upg_draw *d) {
    const size_t first = s->options.n_prompt;
    for (size_t i = first; i < n; i++)
        if (history[i] >= 0 && history[i] < s->vocab_size) s->counts[history[i]]++;
    for (size_t i = first; i < n; i++) {
        if (history[i] < 0 || history[i] >= s->vocab_size || !s->counts[history[i]]) continue;
        upg_draw_edit *e = d->draws ? edit_of(s, d, history[i]) : NULL;
        d->draws = e;
        if (e) e->count = s->counts[history[i]];
        s->counts[history[i]] = 0;
    }
}

void upg_sampler_prepare(const upg_sampler *s, const int32_t *history, size_t n, upg_draw *d) {
    const upg_sampling *o = &s->options;
    d->draws = true;
    d->temperature = o->temperature;
    d->top_p = o->top_p;
    d->min_p = o->min_p;
    d->repeat_penalty = o->repeat_penalty;
    d->presence_penalty = o->presence_penalty;
    d->frequency_penalty = o->frequency_penalty;
    d->u = uniform(o, n);
    d->top_k = o->top_k;
    d->n_edits = 0;
    for (size_t i = 0; i < o->n_bias && d->draws; i++) {
        upg_draw_edit *e = edit_of(s, d, o->bias[i].token);
        d->draws = e;
        if (e) *e = (upg_draw_edit){.token = e->token, .what = UPG_EDIT_BIAS, .bias = o->bias[i].bias};
    }
    for (size_t i = n > REPEAT_WINDOW ? n - REPEAT_WINDOW : 0; i < n && o->repeat_penalty != 1 && d->draws; i++) {
        if (history[i] < 0 || history[i] >= s->vocab_size) continue;
        upg_draw_edit *e = edit_of(s, d, history[i]);
        d->draws = e;
        if (e) e->what |= UPG_EDIT_REPEAT;
    }
    if (s->counts) prepare_drawn(s, history, n, d);
}

upg_log_sum upg_log_sum_of(const float *logits, int vocab_size) {
    upg_log_sum s = {.most = logits[0]};
    for (int i = 1; i < vocab_size; i++) s.most = logits[i] > s.most ? logits[i] : s.most;
    double sum = 0;
    for (int i = 0; i < vocab_size; i++) sum += upg_exp(logits[i] - s.most);
    s.log_sum = upg_log((float)sum);
    return s;
}

float upg_logprob(const float *logits, int vocab_size, int32_t token) {
    return upg_logprob_of(upg_log_sum_of(logits, vocab_size), logits[token]);
}
