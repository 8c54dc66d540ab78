// A sparse matrix's choice of survivors. See sparse.h.
//
// A block of up to 256 x 256 weights keeps the half whose loss would hurt most. Without calibration that is |w|. With
// it columns are coded one by one from the last to the first as in SparseGPT (arXiv 2301.00774): leaving out weight w
// of column j, and letting the columns before it make up for that as well as they can, costs w^2 c_jj^2, where C is the
// Cholesky factor of the inputs' Hessian. The half is chosen for a whole group of columns when its turn comes.
#include "compress/sparse.h"
#include "codec/sparse.h"
#include "program/ops.h"
#include <cblas.h>

enum { TILE = 16, BUCKETS = 1 << 16 };

// The bit pattern of the count-th largest of n patterns of non-negative floats, and in *ties how many of that value are
// among the largest.
static uint32_t select_largest(const uint32_t *u, size_t n, size_t count, uint32_t *histogram, size_t *ties) {
    uint32_t high = BUCKETS - 1, low = BUCKETS - 1;
    memset(histogram, 0, BUCKETS * sizeof *histogram);
    for (size_t i = 0; i < n; i++) histogram[u[i] >> 16]++;
    for (; histogram[high] < count; high--) count -= histogram[high];
    memset(histogram, 0, BUCKETS * sizeof *histogram);
    for (size_t i = 0; i < n; i++)
        if (u[i] >> 16 == high) histogram[u[i] & 0xffff]++;
    for (; histogram[low] < count; low--) count -= histogram[low];
    *ties = count;
    return high << 16 | low;
}

// Keeps half of the group of columns from `first`; among equals the earlier ones.
static void choose_group(upg_sparse_rows *s, int first, bool with_sum, uint32_t *cost, uint32_t *histogram) {
    const size_t n = (size_t)s->n, b = (size_t)s->b;
    for (int r = 0; r < s->rows; r++)
        for (size_t i = 0; i < b; i++) {
            size_t column = (size_t)first + i, at = (size_t)r * n + column;
            float t = with_sum ? s->target[at] + s->sum[at] : s->target[at];
            cost[(size_t)r * b + i] = upg_bits(fabsf(s->feedback ? t * s->feedback->l[column * n + column] : t));
        }
    size_t ties, total = (size_t)s->rows * b;
    uint32_t least = select_largest(cost, total, total / 2, histogram, &ties);
    for (int r = 0; r < s->rows; r++)
        for (size_t i = 0; i < b; i++) {
            uint32_t c = cost[(size_t)r * b + i];
            bool tie = c == least && ties;
            ties -= tie;
            s->keep[(size_t)r * n + (size_t)first + i] = c > least || tie;
        }
}

static uint8_t nearest_level(float x) {
    int best = 0, sign = x < 0 ? 8 : 0;
    for (int i = 1; i < 8; i++)
        if (2 * fabsf(x) > upg_sparse_level[i - 1] + upg_sparse_level[i]) best = i;
    return (uint8_t)(sign | best);
}

// The code of a kept weight of x units of the scale.
static uint8_t code_of(const upg_sparse_rows *s, float x) {
    if (s->bits == 4) return nearest_level(x);
    return (uint8_t)((x >= 127 ? 127 : x > -127 ? (int)rintf(x) : -127) + 127);
}
static int8_t decode(const upg_sparse_rows *s, uint8_t code) {
    return s->bits == 4 ? upg_sparse_level[code] : (int8_t)(code - 127);
}

static float top_scale(const upg_sparse_rows *s, const float *x) {
    float top = 0;
    for (int i = 0; i < s->n; i++) top = fmaxf(fabsf(x[i]), top);
    return top / 127 * (s->feedback ? 1.25f : 1); // feedback makes targets larger than the weights
}

// Scale of a row of 4-bit values: the best of a few around that of a Gaussian, for what a first choice keeps.
static float level_scale(const upg_sparse_rows *s, const float *x, const uint8_t *keep) {
    double sum = 0, best = INFINITY;
    int n = 0;
    for (int i = 0; i < s->n; i++) {
        sum += keep[i] ? (double)x[i] * x[i] : 0;
        n += keep[i];
    }
    float start = n ? (float)(sqrt(sum / n) * 2.22 / 127) : 0, scale = start;
    if (!(start > 0x1p-100f)) return 0;
    for (int k = -4; k <= 8; k++) {
        float try = start * (1 + 0.08f * (float)k);
        double error = 0;
        for (int i = 0; i < s->n; i++) {
            if (!keep[i]) continue;
            float e = x[i] - try * upg_sparse_level[nearest_level(x[i] / try)];
            error += (double)e * e;
        }
        if (error < best) {
            best = error;
            scale = try;
        }
    }
    return s->feedback ? scale * 1.04f : scale;
}

// Codes columns first..first+15 of a row, the last one first. f: the feedback of all columns behind them.
static void code_tile(upg_sparse_rows *s, int r, int first) {
    const size_t n = (size_t)s->n, at = (size_t)r * n + (size_t)first;
    float inv = s->scale[r] > 0x1p-100f ? 1 / s->scale[r] : 0, missing[TILE];
    for (int j = TILE - 1; j >= 0; j--) {
        size_t k = at + (size_t)j;
        float t = s->target[k] + (s->feedback ? s->sum[k] : 0);
        if (s->feedback) {
            const float *c =
                s->feedback->l + (size_t)first * n + (size_t)(first + j); // column j of the Cholesky factor
            float more = 0;
            for (int i = j + 1; i < TILE; i++) more += missing[i] * c[(size_t)i * n];
            t += more / c[(size_t)j * n];
        }
        s->codes[k] = code_of(s, t * inv);
        s->decoded[k] = s->keep[k] ? decode(s, s->codes[k]) : 0;
        s->error[k] = s->target[k] - s->scale[r] * s->decoded[k];
        missing[j] = s->error[k] + (s->feedback ? s->sum[k] : 0);
    }
}

// Adds to the feedback of columns first..last-1 that of the errors of columns last..end-1.
static void add_feedback(upg_sparse_rows *s, int first, int last, int end) {
    const size_t n = (size_t)s->n;
    if (s->feedback && end > last)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, s->rows, last - first, end - last, 1.0f, s->error + last,
                    s->n, s->feedback->l + (size_t)last * n + first, s->n, 1.0f, s->sum + first, s->n);
}

int upg_sparse_choose(upg_sparse_rows *s, upg_error *e) {
    const size_t n = (size_t)s->n;
    uint32_t *cost = upg_alloc((size_t)s->rows * (size_t)s->b, sizeof *cost, e);
    uint32_t *histogram = cost ? upg_alloc(BUCKETS, sizeof *histogram, e) : NULL;
    int rc = histogram ? 0 : -1;
    for (int g = 0; !rc && g < s->n; g += s->b) choose_group(s, g, false, cost, histogram);
    for (int r = 0; !rc && r < s->rows; r++) {
        const float *x = s->target + (size_t)r * n;
        s->scale[r] = s->bits == 4 ? level_scale(s, x, s->keep + (size_t)r * n) : top_scale(s, x);
    }
    memset(s->sum, 0, (size_t)s->rows * n * sizeof *s->sum);
    for (int end = s->n; !rc && end > 0; end -= s->b) {
        add_feedback(s, end - s->b, end, s->n);
        if (s->feedback) choose_group(s, end - s->b, true, cost, histogram);
        for (int c = end - TILE; c >= end - s->b; c -= TILE) {
            add_feedback(s, c, c + TILE, end);
            for (int r = 0; r < s->rows; r++) code_tile(s, r, c);
        }
    }
    free(histogram);
    free(cost);
    return rc;
}

// Both sides of the symmetric h, and of c, times sign o H_b / sqrt(b), which is its own inverse.
static void unrotate(float *m, int n, int b, const uint32_t *sign) {
    float norm = 1.0f / sqrtf((float)b);
    for (int side = 0; side < 2; side++) {
        for (int r = 0; r < n; r++) {
            float *x = m + (size_t)r * (size_t)n;
            hadamard(x, n, b);
            for (int i = 0; i < n; i++) x[i] = upg_float(upg_bits(x[i] * norm) ^ sign[i]);
        }
        for (size_t r = 0; r < (size_t)n; r++)
            for (size_t i = 0; i < r; i++) {
                float swap = m[r * (size_t)n + i];
                m[r * (size_t)n + i] = m[i * (size_t)n + r];
                m[i * (size_t)n + r] = swap;
            }
    }
}

int upg_moments_unrotate(upg_moments *m, uint64_t rotation_seed, upg_error *e) {
    size_t n = (size_t)m->n;
    uint32_t *sign = upg_alloc(n, sizeof *sign, e);
    if (!sign) return -1;
    for (size_t i = 0; i < n; i++) sign[i] = upg_sign(rotation_seed, i);
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < r; i++) m->h[i * n + r] = m->h[r * n + i];
    unrotate(m->h, m->n, upg_block(m->n), sign);
    if (m->c) unrotate(m->c, m->n, upg_block(m->n), sign);
    free(sign);
    return 0;
}
