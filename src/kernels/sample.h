// Drawing a token from a row's logits: docs/arithmetic.md, section 13. A group a wanted row.
#pragma once
#include "kernels/port.h"

enum { SAMPLE_KEYS = 4096, SAMPLE_BINS = 2048 };

FN float flushed(float x) {
    return bits_of(x) & 0x7f800000u ? x : 0.0f;
}
// Ascending keys are descending logits, then ascending ids. -0 and +0 are one value.
FN uint64_t sample_key(float logit, uint32_t id) {
    const uint32_t u = bits_of(logit == 0 ? 0.0f : logit), ascending = u & 0x80000000u ? ~u : u | 0x80000000u;
    return (uint64_t)~ascending << 32 | id;
}
FN float sample_logit(uint64_t key) {
    const uint32_t ascending = ~(uint32_t)(key >> 32);
    return float_of(ascending & 0x80000000u ? ascending & 0x7fffffffu : ~ascending);
}

FN float sample_edited(const gpu_draw *d, GLOBAL const gpu_draw_edit *e, float logit) {
    float l = flushed(logit);
    if (e->what & SAMPLE_BIAS) l = flushed(l + flushed(e->bias));
    if (e->what & SAMPLE_REPEAT) l = flushed(l > 0 ? l / d->repeat_penalty : l * d->repeat_penalty);
    if (e->count) {
        l = flushed(l - flushed((float)e->count * d->frequency_penalty));
        l = flushed(l - d->presence_penalty);
    }
    return l;
}

// keys[0..size) in order; size is a power of two.
FN void sample_sort(LOCAL uint64_t *keys, uint32_t size) {
    for (uint32_t run = 2; run <= size; run *= 2)
        for (uint32_t apart = run / 2; apart; apart /= 2) LANES(j) {
                for (uint32_t t = j; t < size / 2; t += ROW_LANES) {
                    const uint32_t a = t / apart * 2 * apart + t % apart, b = a + apart;
                    const uint64_t x = keys[a], y = keys[b];
                    if ((x > y) == !(a & run)) {
                        keys[a] = y;
                        keys[b] = x;
                    }
                }
            }
}

// Logits i, i + lanes, ..., all asked for before the first is used; -infinity beyond n.
enum { SAMPLE_BATCH = 8 };
FN void sample_read(GLOBAL const float *logits, uint32_t n, uint32_t i, float *l) {
    UNROLL(8)
    for (uint32_t k = 0; k < SAMPLE_BATCH; k++)
        l[k] = i + k * ROW_LANES < n ? logits[i + k * ROW_LANES] : float_of(0xff800000u);
    UNROLL(8)
    for (uint32_t k = 0; k < SAMPLE_BATCH; k++) l[k] = flushed(l[k]);
}

FN float sample_p(uint64_t key) {
    return float_of((uint32_t)(key >> 32));
}
// One of n candidates in order, whose keys have p in place of logits.
FN uint32_t sample_pick(const gpu_draw *d, LOCAL const uint64_t *keys, uint32_t n) {
    float total = 0, sum = 0;
    if (d->top_p < 1) {
        for (uint32_t i = 0; i < n; i++) total = total + sample_p(keys[i]);
        for (uint32_t i = 0; i < n; i++) {
            sum = sum + sample_p(keys[i]);
            if (sum >= d->top_p * total) {
                n = i + 1;
                break;
            }
        }
    }
    if (d->min_p > 0)
        for (uint32_t i = 1; i < n; i++)
            if (sample_p(keys[i]) < d->min_p) n = i; // p descends
    total = sum = 0;
    for (uint32_t i = 0; i < n; i++) total = total + sample_p(keys[i]);
    for (uint32_t i = 0; i < n; i++) {
        sum = sum + sample_p(keys[i]);
        if (sum > d->u * total) return (uint32_t)keys[i];
    }
    return (uint32_t)keys[n - 1];
}

// How far a logit is from the largest one: a number of a bin, the higher the farther.
FN uint32_t sample_bin(float top, float logit, float temperature) {
    const float far = (top - logit) * (100.0f / temperature);
    return far < SAMPLE_BINS - 1 ? (uint32_t)far : SAMPLE_BINS - 1;
}

// The keys of the logits that are at least `least` and in the first bins, in no order; their number.
FN uint32_t sample_collect(GLOBAL const float *logits, uint32_t n, float top, float least, uint32_t last_bin,
                           float temperature, LOCAL uint64_t *keys, LOCAL uint32_t *count) {
    ONCE *count = 0;
    LANES(j) {
        for (uint32_t i = j; i < n; i += SAMPLE_BATCH * ROW_LANES) {
            float l[SAMPLE_BATCH];
            sample_read(logits, n, i, l);
            for (uint32_t k = 0; k < SAMPLE_BATCH; k++) {
                if (l[k] < least || sample_bin(top, l[k], temperature) > last_bin) continue;
                const uint32_t at = take_place(count);
                if (at < SAMPLE_KEYS) keys[at] = sample_key(flushed(l[k] / temperature), i + k * ROW_LANES);
            }
        }
    }
    return *count;
}

// The bin in which the wanted-th largest logit is.
FN uint32_t sample_cut(GLOBAL const float *logits, uint32_t n, float top, uint32_t wanted, float temperature,
                       LOCAL uint32_t *bins, LOCAL uint32_t *cut) {
    LANES(j) for (uint32_t i = j; i < SAMPLE_BINS; i += ROW_LANES) bins[i] = 0;
    LANES(j) {
        for (uint32_t i = j; i < n; i += SAMPLE_BATCH * ROW_LANES) {
            float l[SAMPLE_BATCH];
            sample_read(logits, n, i, l);
            for (uint32_t k = 0; k < SAMPLE_BATCH; k++) {
                const uint32_t bin = sample_bin(top, l[k], temperature);
                if (bin < SAMPLE_BINS - 1) take_place(&bins[bin]);
            }
        }
    }
    ONCE {
        uint32_t bin = 0, sum = bins[0];
        while (bin < SAMPLE_BINS - 1 && sum < wanted) sum += bins[++bin];
        *cut = bin;
    }
    return *cut;
}

// The token goes to `drawn`; -1 where there is none to draw, or so many may be drawn that the host has to.
KERNEL(kernel_sample, gpu_sample_args, ROW_LANES) {
    (void)weight, (void)kv;
    const uint32_t row = GROUP_X;
    const gpu_draw d = WORK(gpu_draw, a->batch.draws)[row];
    GLOBAL const gpu_draw_edit *edits = WORK(gpu_draw_edit, d.edits);
    GLOBAL float *logits = WORK(float, a->logits) + (uint64_t)row * a->n;
    GLOBAL int32_t *drawn = WORK(int32_t, a->batch.drawn) + row;
    SHARED(uint64_t, keys, SAMPLE_KEYS);
    SHARED(uint32_t, bins, SAMPLE_BINS);
    SHARED(float, before, GPU_DRAW_EDITS);
    SHARED(uint64_t, best, 1);
    SHARED(uint32_t, count, 1);
    SHARED(uint32_t, cut, 1);
    LANES(j) {
        for (uint32_t i = j; i < d.n_edits; i += ROW_LANES) {
            before[i] = logits[edits[i].token];
            logits[edits[i].token] = sample_edited(&d, &edits[i], before[i]);
        }
    }
    ONCE *drawn = -1;
    LANES(j) {
        uint64_t first = ~(uint64_t)0;
        for (uint32_t i = j; i < a->n; i += SAMPLE_BATCH * ROW_LANES) {
            float l[SAMPLE_BATCH];
            sample_read(logits, a->n, i, l);
            UNROLL(8)
            for (uint32_t k = 0; k < SAMPLE_BATCH; k++) {
                const uint64_t key = sample_key(l[k], i + k * ROW_LANES);
                first = key < first ? key : first;
            }
        }
        keys[j] = first;
    }
    for (uint32_t h = ROW_LANES / 2; h; h /= 2) LANES(j) if (j < h && keys[j + h] < keys[j]) keys[j] = keys[j + h];
    ONCE best[0] = keys[0];
    if (d.kind == SAMPLE_GREEDY) {
        ONCE *drawn = (int32_t)(uint32_t)best[0];
    }
    if (d.kind == SAMPLE_DRAW) {
        const float largest = sample_logit(best[0]), least = largest - 16.7f * d.temperature; // engine/sample.c: FAR
        uint32_t m = sample_collect(logits, a->n, largest, least, SAMPLE_BINS, d.temperature, keys, count);
        if (m > SAMPLE_KEYS && d.top_k && d.top_k < SAMPLE_KEYS) {
            // One bin more: what differs by an ulp may be equal when it is divided.
            const uint32_t last = sample_cut(logits, a->n, largest, d.top_k, d.temperature, bins, cut) + 1;
            m = sample_collect(logits, a->n, largest, least, last, d.temperature, keys, count);
        }
        if (m <= SAMPLE_KEYS) {
            uint32_t size = 1;
            while (size < m) size *= 2;
            LANES(j) for (uint32_t i = m + j; i < size; i += ROW_LANES) keys[i] = ~(uint64_t)0;
            sample_sort(keys, size);
            const uint32_t n = d.top_k && d.top_k < m ? d.top_k : m;
            ONCE best[0] = keys[0];
            const float top = sample_logit(best[0]);
            LANES(j) for (uint32_t i = j; i < n; i += ROW_LANES) {
                const float p = exponential(sample_logit(keys[i]) - top);
                keys[i] = (uint64_t)bits_of(p) << 32 | (uint32_t)keys[i];
            }
            ONCE *drawn = (int32_t)sample_pick(&d, keys, n);
        }
    }
    LANES(j) for (uint32_t i = j; i < d.n_edits; i += ROW_LANES) logits[edits[i].token] = before[i];
}
