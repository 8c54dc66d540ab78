// Every op on every instruction set of this machine against the scalar path, bit for bit, over shapes and data chosen
// to hurt: shapes at the edges of bands, superbands and groups; extreme codes and inputs; denormals, infinities and
// NaNs. The scalar linear layer is itself held against a direct evaluation of docs/arithmetic.md, section 4.
#include "paths.h"

static uint64_t counter;
static uint64_t random64(void) {
    return upg_splitmix64(20240229, counter++);
}
static int random_below(int n) {
    return (int)(random64() >> 33) % n;
}
static float uniform(void) {
    return (float)((int64_t)(random64() >> 40) - (1 << 23)) * 0x1p-22f;
} // [-2, 2)

// ---- Coded matrices

typedef enum fill {
    RANDOM,
    LOWEST,
    HIGHEST
} fill; // LOWEST: every weight -127; HIGHEST: int8 127, trellis words all ones

// What S stands for below: 4..8 a trellis, 0 int8, and sparse values of 8 or 4 bits.
enum { SPARSE8 = -8, SPARSE4 = -4 };

// Blocks that keep a random half of their weights (LOWEST, HIGHEST: every other one).
static void fill_sparse(uint8_t *data, const upg_tensor *w, fill how) {
    static uint8_t codes[65536], keep[65536];
    int n = (int)upg_pad16(w->cols), b = upg_block(n);
    for (int64_t sb = 0; sb < superbands(w); sb++)
        for (int g = 0; g < n / b; g++) {
            int nb = upg_superband_bands(w->rows, sb), total = nb * 16 * b;
            for (int i = 0; i < total; i++) {
                int lowest = w->s == 4 ? 15 : 0, highest = w->s == 4 ? 7 : 254, limit = w->s == 4 ? 16 : 255;
                codes[i] = (uint8_t)(how == RANDOM ? random_below(limit) : how == LOWEST ? lowest : highest);
                keep[i] = i % 2;
            }
            for (int i = total - 1; i > 0 && how == RANDOM; i--) {
                int other = random_below(i + 1);
                uint8_t swap = keep[i];
                keep[i] = keep[other];
                keep[other] = swap;
            }
            upg_sparse_pack(codes, keep, (size_t)b, nb, b, w->s,
                            data + upg_sparse_offset(w->rows, w->cols, w->s, sb, g));
        }
}

static upg_tensor matrix_new(int s, int64_t rows, int64_t cols, fill how) {
    upg_tensor w = {.encoding = s < 0 ? UPG_SPARSE : s ? UPG_TRELLIS : UPG_INT8, .s = abs(s), .rows = rows};
    w.cols = cols;
    w.bytes = upg_encoded_bytes(w.encoding, w.s, rows, cols);
    uint8_t *data = zeroed(w.bytes, 1);
    for (size_t i = 0; how == RANDOM && s >= 0 && i < w.bytes; i += 8) {
        uint64_t z = random64();
        memcpy(data + i, &z, w.bytes - i < 8 ? w.bytes - i : 8);
    }
    if (how == HIGHEST) memset(data, s ? 255 : 254, w.bytes);
    if (s < 0) fill_sparse(data, &w, how);
    for (size_t i = 0; !s && i < w.bytes; i++) data[i] = data[i] == 255 ? 254 : data[i];
    w.data = data;
    float *scale = zeroed((size_t)rows, sizeof *scale);
    for (int64_t r = 0; r < rows; r++) scale[r] = r % 11 == 5 ? 0.0f : ldexpf(1.0f + fabsf(uniform()), r % 50 - 30);
    w.scale = scale;
    return w;
}
static void matrix_free(upg_tensor *w) {
    upg_aligned_free((void *)w->data);
    upg_aligned_free((void *)w->scale);
}

static unsigned shifts_seen; // bit d: some group had d_g = d

// A row whose quantised values are given: every |q| = 127, sign as asked, d_g cycling.
static void extreme_row(batch *x, int row, int how) {
    int groups = x->n / x->b;
    int8_t *q = x->q + (size_t)row * (size_t)x->n;
    for (int i = 0; i < x->n; i++) q[i] = how == 0 ? 127 : how == 1 ? -127 : random64() >> 63 ? 127 : -127;
    for (int g = 0; g < groups; g++) {
        int32_t sum = 0;
        for (int i = g * x->b; i < (g + 1) * x->b; i++) sum += q[i];
        x->q_sum[(size_t)row * (size_t)groups + (size_t)g] = sum;
        x->d[(size_t)row * (size_t)groups + (size_t)g] = (uint8_t)(how == 2 ? (g + row) % 15 : 0);
    }
    x->m[row] = ldexpf(1.0f + fabsf(uniform()), random_below(60) - 30);
}

// MAX_BATCH rows: groups of one size, groups apart by powers of two, zeros, and extremes.
static batch fill_batch(int cols) {
    batch x = batch_new(MAX_BATCH, cols);
    uint32_t *sign = signs_of(7, cols);
    float *in = zeroed((size_t)cols, sizeof *in);
    for (int row = 0; row < MAX_BATCH; row++) {
        if (row % 8 >= 4 && row % 8 < 7) {
            extreme_row(&x, row, row % 8 - 4);
            continue;
        }
        for (int i = 0; i < cols; i++) {
            int g = i / x.b, down = row % 8 == 1 ? g % 16 : row % 8 == 2 ? (7 * g + 3) % 16 : 0;
            in[i] = row % 8 == 3 ? 0.0f : ldexpf(uniform(), row % 8 == 7 ? random_below(60) - 40 : 5 - down);
        }
        quantise_row(&upg_cpu_scalar, &x, row, in, sign);
    }
    for (int i = 0; i < MAX_BATCH * (x.n / x.b); i++) shifts_seen |= 1u << x.d[i];
    upg_aligned_free(in);
    upg_aligned_free(sign);
    return x;
}

// One superband: every path, every batch size up to `most` and (alone) every row against the scalar path's rows. A path
// may write the superband's rows only, so the rest of y is compared too.
static void compare_superband(const upg_tensor *w, const batch *x, int most, int64_t sb) {
    static const int sizes[] = {2, 3, 4, 5, 8, 16, 17, 33, 64, MAX_BATCH};
    size_t all = (size_t)most, stride = (size_t)w->rows + 3, bytes = stride * all * sizeof(float);
    float *want = zeroed(stride * all, sizeof *want), *y = zeroed(stride * all, sizeof *y);
    memset(want, 0xff, bytes);
    linear_rows(&upg_cpu_scalar, w, x, 0, most, sb, want, stride);
    for (int p = 0; path(p); p++) {
        at("linear %s S=%d %lldx%lld superband %lld", path(p)->isa, w->s, (long long)w->rows, (long long)w->cols,
           (long long)sb);
        memset(y, 0xff, bytes);
        for (int row = 0; row < most && (p || row < 2); row++)
            linear_rows(path(p), w, x, row, 1, sb, y + (size_t)row * stride, stride);
        same("one row", y, want, stride * (p ? all : 2), sizeof *y);
        for (size_t i = 0; p && i < sizeof sizes / sizeof *sizes && sizes[i] <= most; i++) {
            memset(y, 0xff, bytes);
            linear_rows(path(p), w, x, 0, sizes[i], sb, y, stride);
            same("a batch", y, want, stride * (size_t)sizes[i], sizeof *y);
        }
    }
    upg_aligned_free(want);
    upg_aligned_free(y);
}

enum { SMALL_BATCH = 17 };
static void compare_batch(int s, int64_t rows, int64_t cols, fill how, int most) {
    static int shapes; // every fifth must do where time is short
    if (EMULATED && shapes++ % 5) return;
    upg_tensor w = matrix_new(s, rows, cols, how);
    batch x = fill_batch((int)cols);
    compare_superband(&w, &x, most, 0);
    if (superbands(&w) > 1) compare_superband(&w, &x, most, superbands(&w) - 1);
    batch_free(&x);
    matrix_free(&w);
}

static void compare_shape(int s, int64_t rows, int64_t cols, fill how) {
    compare_batch(s, rows, cols, how, SMALL_BATCH);
}

static const int encodings[] = {0, 4, 5, 6, 7, 8, SPARSE8, SPARSE4};
enum { N_ENCODINGS = sizeof encodings / sizeof *encodings };
#define COUNT(a) (sizeof(a) / sizeof *(a))

static void linear_edges(void *ctx, int task, int thread) {
    (void)ctx, (void)task, (void)thread;
    static const int rows[] = {1, 15, 16, 17, 255, 256, 257}, cols[] = {1, 16, 64, 172, 512, 576};
    static const int few_rows[] = {1, 17, 256}, many_cols[] = {5120, 17920};
    for (int e = 0; e < N_ENCODINGS; e++) {
        for (size_t i = 0; i < COUNT(rows); i++)
            for (size_t j = 0; j < COUNT(cols); j++) compare_shape(encodings[e], rows[i], cols[j], RANDOM);
        for (size_t i = 0; i < COUNT(few_rows); i++)
            for (size_t j = 0; j < COUNT(many_cols); j++)
                compare_shape(encodings[e], few_rows[i], many_cols[j], RANDOM);
    }
}

static void linear_partial_superbands(void *ctx, int task, int thread) {
    (void)ctx, (void)task, (void)thread;
    static const int cols[] = {16, 172, 576};
    for (int e = 0; e < N_ENCODINGS; e++)
        for (int bands = 1; bands <= 16; bands++)
            for (size_t j = 0; j < COUNT(cols); j++) compare_shape(encodings[e], 4096 + 16 * bands, cols[j], RANDOM);
}

// Batches of several tiles, whatever a tile is.
static void linear_batches(void *ctx, int task, int thread) {
    (void)ctx, (void)task, (void)thread;
    static const int rows[] = {17, 256, 300}, cols[] = {64, 128, 512};
    for (int e = 0; e < N_ENCODINGS; e += 2)
        for (size_t i = 0; i < COUNT(rows); i++) compare_batch(encodings[e], rows[i], cols[i], RANDOM, MAX_BATCH);
}

static void linear_extremes(void *ctx, int task, int thread) {
    (void)ctx, (void)task, (void)thread;
    static const int rows[] = {257, 400}, cols[] = {64, 172, 512, 5120};
    for (int e = 0; e < N_ENCODINGS; e++)
        for (size_t i = 0; i < COUNT(rows); i++)
            for (size_t j = 0; j < COUNT(cols); j++)
                for (int how = LOWEST; how <= HIGHEST; how++) compare_shape(encodings[e], rows[i], cols[j], (fill)how);
}

// A matrix of a large model. The vector paths do all of it; the scalar one a sample of superbands.
static void linear_large(void *ctx, int task, int thread) {
    (void)ctx, (void)task, (void)thread;
    static const int large[] = {0, 5, SPARSE8};
    enum { ROWS = EMULATED ? 512 : 5120, COLS = 17920, BATCH = 5 };
    for (size_t e = 0; e < COUNT(large); e++) {
        upg_tensor w = matrix_new(large[e], ROWS, COLS, RANDOM);
        batch x = fill_batch(COLS);
        float *first = zeroed(ROWS * BATCH, sizeof *first), *y = zeroed(ROWS * BATCH, sizeof *y);
        const upg_cpu_kernels *reference = NULL;
        for (int n_rows = 1; n_rows <= BATCH; n_rows += BATCH - 1, reference = NULL)
            for (int p = 1; path(p); p++) {
                at("linear %s S=%d 5120x17920, %d rows", path(p)->isa, w.s, n_rows);
                float *to = reference ? y : first;
                for (int64_t sb = 0; sb < superbands(&w); sb++) linear_rows(path(p), &w, &x, 0, n_rows, sb, to, ROWS);
                if (reference)
                    same("y", y, first, (size_t)(ROWS * n_rows), sizeof *y);
                else
                    reference = path(p);
            }
        for (int64_t sb = 0; sb < superbands(&w); sb += 19) {
            at("linear scalar S=%d 5120x17920, superband %lld", w.s, (long long)sb);
            linear_rows(&upg_cpu_scalar, &w, &x, 0, 1, sb, y, ROWS);
            if (path(1)) same("y", y + sb * 256, first + sb * 256, 256, sizeof *y);
        }
        upg_aligned_free(first);
        upg_aligned_free(y);
        batch_free(&x);
        matrix_free(&w);
    }
}

// Section 4, steps 3 and 4, from its text, for row r of w and row `row` of the batch.
static float direct_linear(const upg_tensor *w, const batch *x, int row, int64_t r, const int8_t *weights) {
    int64_t acc = 0;
    for (int g = 0; g < x->n / x->b; g++) {
        int64_t dot = 0;
        for (int i = g * x->b; i < (g + 1) * x->b; i++)
            dot += weights[i] * x->q[(size_t)row * (size_t)x->n + (size_t)i];
        int64_t two_d = (int64_t)1 << x->d[(size_t)row * (size_t)(x->n / x->b) + (size_t)g], up = dot + two_d / 2;
        acc += (up - (up % two_d + two_d) % two_d) / two_d; // the floor of up / two_d
    }
    return (float)acc * (w->scale[r] * (x->m[row] * 0x1.020408p-7f));
}

static void linear_scalar_is_section_4(void *ctx, int task, int thread) {
    (void)ctx, (void)task, (void)thread;
    static const int rows[] = {1, 17, 257, 300}, cols[] = {1, 16, 64, 172, 512, 576};
    for (size_t e = 0; e < N_ENCODINGS * COUNT(rows) * COUNT(cols); e++) {
        int64_t n_rows = rows[e / N_ENCODINGS % COUNT(rows)], n_cols = cols[e / N_ENCODINGS / COUNT(rows)];
        upg_tensor w = matrix_new(encodings[e % N_ENCODINGS], n_rows, n_cols, RANDOM);
        batch x = fill_batch((int)n_cols);
        float *y = zeroed((size_t)n_rows * MAX_BATCH, sizeof *y);
        int8_t *weights = zeroed((size_t)x.n, 1);
        at("direct S=%d %lldx%lld", w.s, (long long)n_rows, (long long)n_cols);
        for (int64_t sb = 0; sb < superbands(&w); sb++)
            linear_rows(&upg_cpu_scalar, &w, &x, 0, MAX_BATCH, sb, y, (size_t)n_rows);
        for (int64_t r = 0; r < n_rows; r++) {
            for (int step = 0; step < x.n / 16; step++) upg_coded_row(&w, r, step, weights + 16 * step);
            for (int row = 0; row < MAX_BATCH; row++) {
                float want = direct_linear(&w, &x, row, r, weights);
                same("y", &y[row * n_rows + r], &want, 1, sizeof want);
            }
        }
        upg_aligned_free(y);
        upg_aligned_free(weights);
        batch_free(&x);
        matrix_free(&w);
    }
}

// Row i of the embedding is row i of W, so element j of it is y[i] for x = e_j. For such an x the group of j has
// |q| = 127 and d = 0 and the other groups q = 0, so with v the embedding's integer and c the f32 nearest to 1/127,
// y = (127 v) * (s * c), where 127 v < 2^23 is exact. c, s * c and y round once each and the embedding's v * s once:
// 4 roundings of at most 2^-24 relative, less than 5 * 2^-24 with their products.
static void embedding_is_linear(void *ctx, int task, int thread) {
    (void)ctx, (void)task, (void)thread;
    static const int cols[] = {16, 96, 172, 512};
    enum { ROWS = 40 };
    for (size_t e = 0; e < N_ENCODINGS * COUNT(cols); e++) {
        int n_cols = cols[e / N_ENCODINGS];
        upg_tensor w = matrix_new(encodings[e % N_ENCODINGS], ROWS, n_cols, RANDOM);
        w.unrotated = encodings[e % N_ENCODINGS] == SPARSE4;
        uint32_t *sign = signs_of(99, n_cols);
        batch x = batch_new(1, n_cols);
        int32_t *v = zeroed((size_t)x.n, sizeof *v);
        float *rows = zeroed((size_t)(ROWS * n_cols), sizeof *rows), *in = zeroed((size_t)n_cols, sizeof *in), y[ROWS];
        for (int i = 0; i < ROWS; i++) upg_embed(&w, i, sign, v, rows + i * n_cols);
        for (int j = 0; j < n_cols; j++) {
            in[j] = 1.0f;
            quantise_row(&upg_cpu_scalar, &x, 0, in, w.unrotated ? NULL : sign);
            in[j] = 0.0f;
            for (int p = 0; path(p); p++) {
                at("embedding %s S=%d, %d columns", path(p)->isa, w.s, n_cols);
                linear_rows(path(p), &w, &x, 0, 1, 0, y, ROWS);
                for (int i = 0; i < ROWS; i++) {
                    double want = rows[i * n_cols + j], error = fabs((double)y[i] - want);
                    if (error > 5 * 0x1p-24 * fabs(want)) differ("W[%d][%d] is %a, not %a", i, j, y[i], want);
                }
            }
        }
        upg_aligned_free(v);
        upg_aligned_free(rows);
        upg_aligned_free(in);
        upg_aligned_free(sign);
        batch_free(&x);
        matrix_free(&w);
    }
}

// Masks that claim more values than there are, or none, lead no path out of the tensor and its 64 bytes; what it
// computes is nobody's business.
static void forged_masks(void *ctx, int task, int thread) {
    (void)ctx, (void)task, (void)thread;
    static const int rows[] = {1, 17, 256, 300}, cols[] = {16, 172, 256, 512}, bits[] = {SPARSE8, SPARSE4};
    for (size_t i = 0; i < COUNT(rows) * COUNT(cols) * COUNT(bits); i++) {
        upg_tensor w = matrix_new(bits[i % 2], rows[i / 2 % 4], cols[i / 8], RANDOM);
        batch x = fill_batch((int)w.cols);
        uint8_t *file = malloc(w.bytes + 64); // for sanitizers to guard
        if (!file) exit(1);
        float *y = zeroed((size_t)(2 * w.rows + w.cols), sizeof *y);
        int32_t *v = zeroed((size_t)x.n, sizeof *v);
        uint32_t *sign = signs_of(3, (int)w.cols);
        upg_aligned_free((void *)w.data);
        w.data = file;
        for (int byte = 0; byte < 256; byte += 255) {
            memset(file, byte, w.bytes + 64);
            for (int p = 0; path(p); p++)
                for (int64_t sb = 0; sb < superbands(&w); sb++)
                    for (int n_rows = 1; n_rows <= 2; n_rows++)
                        linear_rows(path(p), &w, &x, 0, n_rows, sb, y, (size_t)w.rows);
            upg_embed(&w, (int32_t)w.rows - 1, sign, v, y);
        }
        w.data = NULL;
        free(file);
        upg_aligned_free(y);
        upg_aligned_free(v);
        upg_aligned_free(sign);
        batch_free(&x);
        matrix_free(&w);
    }
}

// ---- Ops of one row

typedef enum data { PLAIN, WIDE, TINY, MIXED, BITS, SPECIAL, ZERO, N_DATA } data;

static const uint32_t special[] = {0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007fffff, 0x807fffff, 0x00800000,
                                   0x217fffff, 0x21800000, 0x21800001, 0xa1800000, 0x587fffff, 0x58800000, 0x58800001,
                                   0xd87fffff, 0xd8800000, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7f800001,
                                   0x7fc00000, 0xffc00000, 0xffffffff, 0x3f800000, 0xbf800000, 0xc2a00000, 0x42a00000};

static float value_of(data how) {
    switch (how) {
    case PLAIN: return uniform();
    case WIDE: return ldexpf(uniform(), random_below(108) - 59);
    case TINY:
        return upg_float((uint32_t)(random64() >> 63 << 31) | (random64() & 1 ? 0x21700000u : 0) |
                         (random64() & 0x1fffff));
    case MIXED: return random_below(50) ? uniform() : upg_float(special[random_below(COUNT(special))]);
    case BITS: return upg_float((uint32_t)random64());
    case SPECIAL: return upg_float(special[random_below(COUNT(special))]);
    default: return 0.0f;
    }
}
static float *values(data how, int n) {
    float *v = zeroed((size_t)n, sizeof *v);
    for (int i = 0; i < n; i++) v[i] = value_of(how);
    return v;
}

enum { MAX_WIDTH = 17920 };
static const int widths[] = {1,   7,   8,   12,  15,  16,  17,  48,  64,   96,
                             128, 172, 240, 255, 256, 257, 512, 576, 5120, MAX_WIDTH};

// Compares a path's row ops with the scalar path's on one draw of data.
static void compare_row_ops(const upg_cpu_kernels *k, data how, int n) {
    static float want[MAX_WIDTH], got[MAX_WIDTH];
    const upg_cpu_kernels *ref = &upg_cpu_scalar;
    size_t size = (size_t)n;
    float *x = values(how, n), *other = values(how, n), *weight = values(WIDE, n);
    at("%s, %d values of kind %d", k->isa, n, how);
    float eps = n % 2 ? 1e-5f : 1e-12f;
    uint32_t a = ref->rmsnorm(x, weight, n, eps, want), b = k->rmsnorm(x, weight, n, eps, got);
    same("rmsnorm", got, want, size, sizeof *got);
    same("rmsnorm's flag", &b, &a, 1, sizeof a);
    memcpy(got, x, size * sizeof *x); // as head norms run
    k->rmsnorm(got, weight, n, eps, got);
    same("rmsnorm in place", got, want, size, sizeof *got);
    a = ref->swiglu(x, other, n, want);
    b = k->swiglu(x, other, n, got);
    same("swiglu", got, want, size, sizeof *got);
    same("swiglu's flag", &b, &a, 1, sizeof a);
    memcpy(want, x, size * sizeof *x);
    memcpy(got, x, size * sizeof *x);
    ref->add(want, other, n);
    k->add(got, other, n);
    same_values("add", got, want, size);
    memcpy(want, x, size * sizeof *x);
    memcpy(got, x, size * sizeof *x);
    ref->rope(want, other, weight, n / 2);
    k->rope(got, other, weight, n / 2);
    same_values("rope", got, want, size);
    upg_aligned_free(x);
    upg_aligned_free(other);
    upg_aligned_free(weight);
}

static void compare_quantise(const upg_cpu_kernels *k, data how, int cols, bool spread, bool rotated) {
    batch want = batch_new(1, cols), got = batch_new(1, cols);
    uint32_t *sign = signs_of(3, cols);
    float *x = values(how, cols);
    for (int i = 0; spread && i < cols; i++) x[i] = x[i] * ldexpf(1.0f, -(i / want.b % 18));
    size_t groups = (size_t)(want.n / want.b);
    uint32_t a = quantise_row(&upg_cpu_scalar, &want, 0, x, rotated ? sign : NULL),
             b = quantise_row(k, &got, 0, x, rotated ? sign : NULL);
    at("quantise %s, %d values of kind %d", k->isa, cols, how);
    same("q", got.q, want.q, (size_t)want.n, 1);
    same("d", got.d, want.d, groups, 1);
    same("q_sum", got.q_sum, want.q_sum, groups, sizeof *got.q_sum);
    same("M", got.m, want.m, 1, sizeof *got.m);
    same("flag", &b, &a, 1, sizeof a);
    for (int i = 0; i < want.n; i++)
        if (want.q[i] < -127) differ("q[%d] is below -127", i);
    upg_aligned_free(x);
    upg_aligned_free(sign);
    batch_free(&want);
    batch_free(&got);
}

static void row_ops(void *ctx, int task, int thread) {
    (void)ctx, (void)task, (void)thread;
    for (int p = 1; path(p); p++)
        for (size_t i = 0; i < COUNT(widths); i++)
            for (int how = 0; how < N_DATA; how++)
                for (int again = 0; again < (widths[i] < 1000 ? 8 : 2); again++) {
                    compare_row_ops(path(p), (data)how, widths[i]);
                    compare_quantise(path(p), (data)how, widths[i], again % 2, true);
                    compare_quantise(path(p), (data)how, widths[i], again % 2, false);
                }
}

// exp at about a million of the bit patterns that are numbers, infinities included.
static void exp_everywhere(void *ctx, int task, int thread) {
    (void)ctx, (void)task, (void)thread;
    for (int p = 1; path(p); p++) {
        at("exp %s", path(p)->isa);
        for (uint32_t u = 0; u <= 0x7f800000u; u += 2039)
            for (uint32_t negative = 0; negative < 2; negative++) {
                float x = upg_float(u | negative << 31), want = upg_cpu_scalar.exp(x), got = path(p)->exp(x);
                same("exp", &got, &want, 1, sizeof got);
            }
    }
}

// ---- Attention

static const int dims[] = {8, 12, 64, 80, 96, 100, 128, 250, 256};

// A query or key on its way: RoPE (whose NaNs may differ in payload), then quantise_head.
static void compare_heads(const upg_cpu_kernels *k, data how, int dim) {
    int8_t want_q[UPG_MAX_HEAD_DIM], q[UPG_MAX_HEAD_DIM];
    float want_scale, scale, *v = values(how, dim), *cosine = values(PLAIN, dim), *sine = values(PLAIN, dim);
    float want_v[UPG_MAX_HEAD_DIM];
    memcpy(want_v, v, (size_t)dim * sizeof *v);
    int rotated = dim * (1 + random_below(2)) / 2, b = upg_block(dim);
    upg_cpu_scalar.rope(want_v, cosine, sine, rotated / 2);
    k->rope(v, cosine, sine, rotated / 2);
    uint32_t want_flag = upg_cpu_scalar.quantise_head(want_v, dim, b, want_q, &want_scale);
    uint32_t flag = k->quantise_head(v, dim, b, q, &scale);
    at("quantise_head %s, %d values of kind %d", k->isa, dim, how);
    same("q", q, want_q, (size_t)dim, 1);
    same("scale", &scale, &want_scale, 1, sizeof scale);
    same("flag", &flag, &want_flag, 1, sizeof flag);
    upg_aligned_free(v);
    upg_aligned_free(cosine);
    upg_aligned_free(sine);
}

static void heads(void *ctx, int task, int thread) {
    (void)ctx, (void)task, (void)thread;
    for (int p = 1; path(p); p++)
        for (size_t i = 0; i < COUNT(dims); i++)
            for (int how = 0; how < N_DATA; how++)
                for (int again = 0; again < 20; again++) compare_heads(path(p), (data)how, dims[i]);
}

enum { DEPTH = 700, N_KV = 2, POOL = 7 };

// Keys and values of one sort in scattered blocks; the rest of the pool is bytes that are NaNs if read.
static upg_kv_pool fill_pool(int dim, const int32_t *blocks, data keys, data vals, bool extreme) {
    upg_kv_pool pool = {.block_stride = upg_kv_head_bytes(dim) * N_KV};
    pool.data = zeroed(POOL, pool.block_stride);
    memset(pool.data, 0xff, POOL * pool.block_stride);
    for (int j = 0; j < DEPTH; j++)
        for (int h = 0; h < N_KV; h++) {
            upg_kv_head kv = upg_kv_head_at(&pool, blocks[j / UPG_KV_BLOCK], h, dim);
            int slot = j % UPG_KV_BLOCK;
            float *key = values(keys, dim), *value = values(vals, dim);
            store(&upg_cpu_scalar, &kv, dim, slot, key, value);
            if (extreme) {
                int8_t q[UPG_MAX_HEAD_DIM];
                memset(q, j % 3 ? 127 : -127, sizeof q);
                upg_kv_store_key(&kv, dim, slot, q, j % 5 ? 0.0f : 0x1p-20f);
                memset(q, 127, sizeof q);
                upg_kv_store_value(&kv, dim, slot, q, 1.0f); // with equal keys every weight is 32767
            }
            upg_aligned_free(key);
            upg_aligned_free(value);
        }
    return pool;
}

enum { ROW_HEADS = 7, MAX_ROWS = 8 };

// Queries of MAX_ROWS rows. q: [rows][heads][dim padded].
static int8_t *fill_queries(int dim, data how, bool extreme, float *scale) {
    int D = (int)upg_pad16(dim);
    int8_t *q = zeroed((size_t)(MAX_ROWS * ROW_HEADS), (size_t)D);
    for (int i = 0; i < MAX_ROWS * ROW_HEADS; i++) {
        float *query = values(how, dim);
        upg_cpu_scalar.quantise_head(query, dim, upg_block(dim), q + i * D, scale + i);
        if (extreme) memset(q + i * D, 127, (size_t)dim);
        upg_aligned_free(query);
    }
    return q;
}

// One query after another against all at once, in spans of several rows and heads, on every path.
static void compare_attention(int dim, data keys, data vals, bool extreme) {
    static const int positions[] = {0, 1, 250, 256, 509, DEPTH - MAX_ROWS}, windows[] = {0, 1, 7, 300};
    static const struct { int rows, heads; } spans[] = {{1, 1}, {1, 4}, {3, ROW_HEADS}, {MAX_ROWS, 4}, {MAX_ROWS, 1}};
    static const int32_t blocks[] = {5, 0, 3};
    static float scale[MAX_ROWS * ROW_HEADS], want[MAX_ROWS * ROW_HEADS * UPG_MAX_HEAD_DIM],
        got[MAX_ROWS * ROW_HEADS * UPG_MAX_HEAD_DIM];
    upg_kv_pool pool = fill_pool(dim, blocks, keys, vals, extreme);
    int8_t *q = fill_queries(dim, keys, extreme, scale);
    for (size_t i = 0; i < COUNT(positions) * COUNT(windows); i++) {
        upg_attend a = {.rows = 1,
                        .heads = 1,
                        .row_heads = ROW_HEADS,
                        .out_stride = (size_t)(ROW_HEADS * dim),
                        .c = attention_constant(dim),
                        .dim = dim,
                        .b = upg_block(dim),
                        .window = windows[i / COUNT(positions)],
                        .head = (int)i % N_KV,
                        .blocks = blocks,
                        .pool = &pool};
        const int position = positions[i % COUNT(positions)];
        for (int k = 0; k < MAX_ROWS * ROW_HEADS; k++) {
            a.position = position + k / ROW_HEADS;
            a.q = q + k * (int)upg_pad16(dim);
            a.q_scale = scale + k;
            a.out = want + k * dim;
            upg_cpu_scalar.attend(&a);
        }
        a.position = position;
        a.q = q;
        a.q_scale = scale;
        a.out = got;
        for (size_t j = 0; path((int)(j / COUNT(spans))); j++) {
            const upg_cpu_kernels *k = path((int)(j / COUNT(spans)));
            a.rows = spans[j % COUNT(spans)].rows;
            a.heads = spans[j % COUNT(spans)].heads;
            at("attend %s dim %d, kinds %d and %d, position %d, window %d, %d rows of %d heads", k->isa, dim, keys,
               vals, position, a.window, a.rows, a.heads);
            k->attend(&a);
            for (int r = 0; r < a.rows; r++)
                same("out", got + r * ROW_HEADS * dim, want + r * ROW_HEADS * dim, (size_t)(a.heads * dim),
                     sizeof *got);
        }
        for (int k = 0; k < MAX_ROWS * ROW_HEADS * dim; k++)
            if (!isfinite(want[k])) differ("out[%d] is not finite", k);
    }
    upg_aligned_free(q);
    upg_aligned_free(pool.data);
}

static void attention(void *ctx, int task, int thread) {
    (void)ctx, (void)task, (void)thread;
    for (size_t i = 0; i < COUNT(dims); i++) {
        for (int how = 0; how < N_DATA; how++) compare_attention(dims[i], (data)how, (data)how, false);
        compare_attention(dims[i], PLAIN, WIDE, false);
        compare_attention(dims[i], WIDE, ZERO, false);
        compare_attention(dims[i], PLAIN, PLAIN, true);
    }
}

// ---- Properties

// Partial bands and superbands, padded columns, every group size from 16 to 256, batches of 1..17.
static void test_linear_edges(void **state) {
    (void)state;
    check_flushed(linear_edges, NULL);
    assert_int_equal(shifts_seen, 0x7fff); // every d_g 0..14 occurred
}
// A last superband of any number of bands.
static void test_linear_batches(void **state) {
    (void)state;
    check_flushed(linear_batches, NULL);
}
static void test_linear_partial_superbands(void **state) {
    (void)state;
    check_flushed(linear_partial_superbands, NULL);
}
// Nothing saturates when every code and input is as large as it can be.
static void test_linear_extremes(void **state) {
    (void)state;
    check_flushed(linear_extremes, NULL);
}
static void test_linear_large(void **state) {
    (void)state;
    check_flushed(linear_large, NULL);
}
static void test_linear_scalar_is_section_4(void **state) {
    (void)state;
    check_flushed(linear_scalar_is_section_4, NULL);
}
static void test_embedding_is_linear(void **state) {
    (void)state;
    check_flushed(embedding_is_linear, NULL);
}
static void test_forged_masks(void **state) {
    (void)state;
    check_flushed(forged_masks, NULL);
}
static void test_row_ops(void **state) {
    (void)state;
    check_flushed(row_ops, NULL);
}
static void test_exp(void **state) {
    (void)state;
    check_flushed(exp_everywhere, NULL);
}
static void test_heads(void **state) {
    (void)state;
    check_flushed(heads, NULL);
}
// Whatever the cache holds, attention's output is the same on every path, and finite.
static void test_attention(void **state) {
    (void)state;
    check_flushed(attention, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_linear_scalar_is_section_4),
                                       cmocka_unit_test(test_linear_edges),
                                       cmocka_unit_test(test_linear_batches),
                                       cmocka_unit_test(test_linear_partial_superbands),
                                       cmocka_unit_test(test_linear_extremes),
                                       cmocka_unit_test(test_linear_large),
                                       cmocka_unit_test(test_embedding_is_linear),
                                       cmocka_unit_test(test_forged_masks),
                                       cmocka_unit_test(test_row_ops),
                                       cmocka_unit_test(test_exp),
                                       cmocka_unit_test(test_heads),
                                       cmocka_unit_test(test_attention)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
