// Sampling: docs/arithmetic.md, section 13, step by step.
#include "base/base.h"
#include "program/numbers.h"
#include <math.h>
#include <stdlib.h>

enum { REPEAT_WINDOW = 64 };

struct upg_sampler {
    upg_sampling options;
    int vocab_size;
    float *logits;  // [vocab_size] after penalties and temperature
    uint64_t *keys; // [vocab_size] sort keys: best first, ties to the lower id
    float *p;       // [vocab_size] of the candidates in order
};

upg_sampler *upg_sampler_new(int vocab_size, const upg_sampling *o, upg_error *e) {
    bool temperature = o->temperature == 0 || (o->temperature >= 1 / 64.0f && o->temperature <= 100);
    bool penalty = o->repeat_penalty >= 1 / 64.0f && o->repeat_penalty <= 100;
    if (!temperature || !penalty || o->top_k < 0 || !(o->top_p > 0 && o->top_p <= 1) ||
        !(o->min_p >= 0 && o->min_p <= 1) || vocab_size < 1) {
        upg_fail(e, "sampling: temperature is 0 or 1/64..100, top_k at least 0, top_p above 0 to 1, min_p 0..1, "
                    "repeat_penalty 1/64..100");
        return NULL;
    }
    upg_sampler *s = upg_alloc(1, sizeof *s, e);
    if (!s) return NULL;
    s->options = *o;
    s->vocab_size = vocab_size;
    size_t n = (size_t)vocab_size;
    if (!(s->logits = upg_alloc(n, sizeof *s->logits, e)) || !(s->keys = upg_alloc(n, sizeof *s->keys, e)) ||
        !(s->p = upg_alloc(n, sizeof *s->p, e))) {
        upg_sampler_free(s);
        return NULL;
    }
    return s;
}

void upg_sampler_free(upg_sampler *s) {
    if (!s) return;
    free(s->logits);
    free(s->keys);
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

// The best k of keys[0..n), in order, by a bounded heap when k is small.
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

static int candidates(upg_sampler *s) {
    int n = s->vocab_size, k = s->options.top_k && s->options.top_k < n ? s->options.top_k : n;
    for (int i = 0; i < n; i++) s->keys[i] = key_of(s->logits[i], i);
    if (k < n) {
        for (int i = k / 2 - 1; i >= 0; i--) sift_down(s->keys, k, i);
        for (int i = k; i < n; i++)
            if (s->keys[i] < s->keys[0]) {
                s->keys[0] = s->keys[i];
                sift_down(s->keys, k, 0);
            }
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

int32_t upg_sample(upg_sampler *s, const float *logits, const int32_t *history, size_t n_history) {
    const upg_sampling *o = &s->options;
    for (int i = 0; i < s->vocab_size; i++) s->logits[i] = flush(logits[i]);
    if (o->repeat_penalty != 1) penalise(s, history, n_history);
    if (o->temperature == 0) {
        int best = 0;
        for (int i = 1; i < s->vocab_size; i++)
            if (s->logits[i] > s->logits[best]) best = i;
        return best;
    }
    for (int i = 0; i < s->vocab_size; i++) s->logits[i] = flush(s->logits[i] / o->temperature);
    int n = candidates(s);
    float top = s->logits[(uint32_t)s->keys[0]];
    for (int i = 0; i < n; i++) s->p[i] = upg_exp(s->logits[(uint32_t)s->keys[i]] - top);
    n = filter(s, n);
    float total = 0, sum = 0;
    for (int i = 0; i < n; i++) total = total + s->p[i];
    float u = (float)(upg_splitmix64(o->seed, n_history) >> 40) * 0x1p-24f;
    for (int i = 0; i < n; i++) {
        sum = sum + s->p[i];
        if (sum > u * total) return (int32_t)(uint32_t)s->keys[i];
    }
    return (int32_t)(uint32_t)s->keys[n - 1];
}

float upg_logprob(const float *logits, int vocab_size, int32_t token) {
    float m = logits[0];
    for (int i = 1; i < vocab_size; i++) m = logits[i] > m ? logits[i] : m;
    double sum = 0;
    for (int i = 0; i < vocab_size; i++) sum += upg_exp(logits[i] - m);
    return logits[token] - m - upg_log((float)sum);
}
