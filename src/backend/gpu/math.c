// Math on a GPU: where things lie in its memory, and what is asked of it in which order. See backend/math.h.
#include "backend/math.h"
#include "backend/gpu/device.h"
#include <stdlib.h>
#include <string.h>

enum {
    ALIGN = 256,
    MAX_KEPT = 64,     // matrices
    PANEL = 128,       // columns whose feedback from behind is summed at once
    STAGED = 16 << 20, // floats that pass through pinned memory at once, at least
};
static const size_t CODED = (size_t)96 << 20, // floats of the rows that are coded at once
    COSTS = (size_t)1 << 30;                  // bytes for costs of the search

typedef struct kept {
    const upg_tensor *w;
    const float *values;
    upg_gpu_address at;
} kept;

struct upg_math {
    const upg_gpu_api *api;
    upg_gpu *gpu;
    upg_pool *pool;
    upg_math_sizes sizes;
    size_t coded, costs_bytes, weights_bytes, staged_floats, used; // used: bytes of the weights
    // half: E of the search. moments: h and c; l and z.
    upg_gpu_address base, half, x, y, moments[2], target, sum, error, scales, codes, decoded, costs, weights;
    kept kept[MAX_KEPT];
    int n_kept;
    float *staged; // [staged_floats]
    int moments_n;
    const float *factor; // whose l and z lie in moments
    // A copy that the pool does
    const float *from;
    float *to;
    size_t row, from_stride, to_stride;
    const upg_tensor *w;
    size_t first;
};

static size_t aligned(size_t bytes) {
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

// ---- Memory ----

static upg_gpu_address take(size_t *at, size_t bytes) {
    const size_t from = *at;
    *at += aligned(bytes);
    return from;
}

enum { OF_STATE = (UPG_TRELLIS_STEPS + 1) * 8 }; // bytes of a group's costs for one state, four tiles together

static size_t lay_out(upg_math *m) {
    const upg_math_sizes *s = &m->sizes;
    const size_t n = (size_t)s->inputs, most = aligned(s->matrix + 256 * n);
    size_t at = 0;
    m->coded = most < CODED ? most : CODED > 256 * n ? CODED : 256 * n;
    m->costs_bytes = m->coded / 1024 * ((size_t)OF_STATE * 4096); // of every group of tiles there is
    if (m->costs_bytes > COSTS) m->costs_bytes = COSTS;
    if (m->costs_bytes < OF_STATE * 4096) m->costs_bytes = OF_STATE * 4096;
    m->half = take(&at, 65536 * 2);
    m->x = take(&at, 2 * (size_t)s->rows * n * 4);
    m->y = take(&at, (size_t)s->rows * (size_t)s->outputs * 4);
    for (int i = 0; i < 2; i++) m->moments[i] = take(&at, n * n * 4);
    m->target = take(&at, m->coded * 4);
    m->sum = take(&at, m->coded * 4);
    m->error = take(&at, m->coded * 4);
    m->scales = take(&at, 2 * m->coded / 16 * 4);
    m->codes = take(&at, m->coded / 2);
    m->decoded = take(&at, m->coded);
    m->costs = take(&at, m->costs_bytes);
    m->weights = take(&at, 0);
    return at;
}

// Waits, so that what was staged may change.
static int wait(upg_math *m, upg_error *e) {
    uint32_t word;
    return m->api->read(m->gpu, &word, m->base + m->half, sizeof word, e);
}

static int reserve(upg_math *m, const upg_backend_options *o, upg_error *e) {
    const size_t fixed = lay_out(m), matrix = aligned(m->sizes.matrix * 4), all = aligned(2 * m->sizes.part * 4);
    if (fixed / 4 > UINT32_MAX) return upg_fail(e, "the widest layer is too wide for a GPU");
    m->weights_bytes = all > matrix ? all : matrix;
    int rc = m->api->reserve(m->gpu, fixed + m->weights_bytes, &m->base, e);
    if (rc == UPG_NO_ROOM) {
        m->weights_bytes = matrix;
        rc = m->api->reserve(m->gpu, fixed + matrix, &m->base, e);
    }
    if (rc) {
        if (o->no_room) *o->no_room = rc == UPG_NO_ROOM;
        return -1;
    }
    m->staged_floats =
        (size_t)m->sizes.rows * (size_t)(m->sizes.outputs > m->sizes.inputs ? m->sizes.outputs : m->sizes.inputs);
    if (m->staged_floats < STAGED) m->staged_floats = STAGED;
    uint16_t *half = upg_alloc(65536, sizeof *half, e);
    m->staged = half ? upg_aligned_alloc(m->staged_floats * sizeof *m->staged, e) : NULL;
    if (m->staged) {
        if (m->api->pin) m->api->pin(m->gpu, m->staged, m->staged_floats * sizeof *m->staged);
        upg_search_half_squares(half);
        rc = m->api->write(m->gpu, m->base + m->half, half, 65536 * sizeof *half, e) || wait(m, e);
    } else {
        rc = -1;
    }
    free(half);
    return rc ? -1 : 0;
}

upg_math *upg_gpu_math(const upg_gpu_api *device, const upg_backend_options *options, const upg_math_sizes *sizes,
                       upg_error *e) {
    upg_math *m = upg_alloc(1, sizeof *m, e);
    if (!m) return NULL;
    m->api = device;
    m->pool = options->pool;
    m->sizes = *sizes;
    m->gpu = device->open(options, e);
    if (m->gpu && !reserve(m, options, e)) return m;
    upg_math_free(m);
    return NULL;
}

void upg_math_free(upg_math *m) {
    if (!m) return;
    if (m->gpu) m->api->close(m->gpu); // before what it has pinned
    upg_aligned_free(m->staged);
    free(m);
}
const char *upg_math_path(const upg_math *m) {
    return m->api->path(m->gpu);
}

static void copy_task(void *ctx, int row, int thread) {
    (void)thread;
    const upg_math *m = ctx;
    memcpy(m->to + (size_t)row * m->to_stride, m->from + (size_t)row * m->from_stride, m->row * sizeof *m->to);
}
static void copy_rows(upg_math *m, float *to, size_t to_stride, const float *from, size_t from_stride, size_t row,
                      int rows) {
    m->to = to;
    m->to_stride = to_stride;
    m->from = from;
    m->from_stride = from_stride;
    m->row = row;
    upg_pool_run(m->pool, copy_task, m, rows);
}

// [rows][n] to a place on the device, through pinned memory.
static int send(upg_math *m, upg_gpu_address to, const float *from, size_t stride, size_t n, int rows, upg_error *e) {
    const int most = (int)(m->staged_floats / n);
    for (int at = 0; at < rows; at += most) {
        const int count = rows - at < most ? rows - at : most;
        copy_rows(m, m->staged, n, from + (size_t)at * stride, stride, n, count);
        if (m->api->write(m->gpu, m->base + to + (size_t)at * n * 4, m->staged, (size_t)count * n * 4, e) || wait(m, e))
            return -1;
    }
    return 0;
}
static int fetch(upg_math *m, float *to, size_t stride, upg_gpu_address from, size_t n, int rows, upg_error *e) {
    const int most = (int)(m->staged_floats / n);
    for (int at = 0; at < rows; at += most) {
        const int count = rows - at < most ? rows - at : most;
        if (m->api->read(m->gpu, m->staged, m->base + from + (size_t)at * n * 4, (size_t)count * n * 4, e)) return -1;
        copy_rows(m, to + (size_t)at * stride, stride, m->staged, n, n, count);
    }
    return 0;
}

// ---- Linear layers ----

static void floats_task(void *ctx, int row, int thread) {
    (void)thread;
    const upg_math *m = ctx;
    const size_t cols = (size_t)m->w->cols;
    upg_tensor_floats(m->w, (int64_t)((m->first + (size_t)row) * cols), m->w->cols, m->staged + (size_t)row * cols);
}

static int send_weights(upg_math *m, upg_gpu_address to, const upg_math_linear *l, upg_error *e) {
    const size_t cols = (size_t)l->w->cols, rows = (size_t)l->w->rows, most = m->staged_floats / cols;
    if (l->values) return send(m, to, l->values, cols, cols, (int)rows, e);
    m->w = l->w;
    for (m->first = 0; m->first < rows; m->first += most) {
        const size_t count = rows - m->first < most ? rows - m->first : most;
        upg_pool_run(m->pool, floats_task, m, (int)count);
        if (m->api->write(m->gpu, m->base + to + m->first * cols * 4, m->staged, count * cols * 4, e) || wait(m, e))
            return -1;
    }
    return 0;
}

// Where the matrix lies; sent if it does not yet.
static int find_weights(upg_math *m, const upg_math_linear *l, upg_gpu_address *at, upg_error *e) {
    for (int i = 0; i < m->n_kept; i++)
        if (m->kept[i].w == l->w && m->kept[i].values == l->values) {
            *at = m->kept[i].at;
            return 0;
        }
    const size_t bytes = aligned((size_t)l->w->rows * (size_t)l->w->cols * 4);
    if (m->n_kept == MAX_KEPT || m->used + bytes > m->weights_bytes) m->n_kept = 0, m->used = 0;
    if (bytes > m->weights_bytes) return upg_fail(e, "tensor %s: larger than was said", l->w->name);
    *at = m->weights + m->used;
    if (send_weights(m, *at, l, e)) return -1;
    m->used += bytes;
    m->kept[m->n_kept++] = (kept){l->w, l->values, *at};
    return 0;
}

void upg_math_forget(upg_math *m, const float *values) {
    for (int i = 0; m && values && i < m->n_kept; i++)
        if (m->kept[i].values == values) m->kept[i].w = NULL;
}

int upg_math_multiply(upg_math *m, const upg_math_linear *l, upg_error *e) {
    const size_t n = (size_t)l->w->cols, out = (size_t)l->w->rows;
    upg_gpu_address w = 0;
    if ((size_t)l->rows * n > (size_t)m->sizes.rows * (size_t)m->sizes.inputs ||
        (size_t)l->rows * out > (size_t)m->sizes.rows * (size_t)m->sizes.outputs)
        return upg_fail(e, "tensor %s: more rows than were said", l->w->name);
    if (find_weights(m, l, &w, e) || send(m, m->x, l->x, (size_t)l->x_stride, n, l->rows, e)) return -1;
    const upg_gpu_product p = {.a = m->base + m->x,
                               .b = m->base + w,
                               .c = m->base + m->y,
                               .m = (uint32_t)l->rows,
                               .n = (uint32_t)out,
                               .k = (uint32_t)n,
                               .a_stride = (uint32_t)n,
                               .b_stride = (uint32_t)n,
                               .c_stride = (uint32_t)out,
                               .b_transposed = true};
    return m->api->product(m->gpu, &p, e) || fetch(m, l->y, (size_t)l->y_stride, m->y, out, l->rows, e) ? -1 : 0;
}

// ---- Moments and factors ----

static size_t square(const upg_math *m) {
    return (size_t)m->moments_n * (size_t)m->moments_n;
}

int upg_math_moments_begin(upg_math *m, int n, upg_error *e) {
    m->factor = NULL;
    m->moments_n = n;
    for (int i = 0; i < 2; i++)
        if (m->api->clear(m->gpu, m->base + m->moments[i], square(m) * 4, e)) return -1;
    return 0;
}

int upg_math_moments_add(upg_math *m, const float *x, const float *other, int rows, upg_error *e) {
    const size_t n = (size_t)m->moments_n, bytes = (size_t)rows * n * 4;
    if (send(m, m->x, x, n, n, rows, e) || (other && send(m, m->x + bytes, other, n, n, rows, e))) return -1;
    for (int i = 0; i < (other ? 2 : 1); i++) {
        const upg_gpu_product p = {.a = m->base + m->x + (i ? bytes : 0),
                                   .b = m->base + m->x,
                                   .c = m->base + m->moments[i],
                                   .m = (uint32_t)n,
                                   .n = (uint32_t)n,
                                   .k = (uint32_t)rows,
                                   .a_stride = (uint32_t)n,
                                   .b_stride = (uint32_t)n,
                                   .c_stride = (uint32_t)n,
                                   .a_transposed = true,
                                   .add = true};
        if (m->api->product(m->gpu, &p, e)) return -1;
    }
    return 0;
}

int upg_math_moments_end(upg_math *m, float *h, float *c, upg_error *e) {
    const size_t n = (size_t)m->moments_n;
    return fetch(m, h, n, m->moments[0], n, (int)n, e) || (c && fetch(m, c, n, m->moments[1], n, (int)n, e)) ? -1 : 0;
}

int upg_math_factor(upg_math *m, int n, float *l, float *z, upg_error *e) {
    const size_t w = (size_t)n;
    m->factor = NULL;
    if (send(m, m->moments[0], l, w, w, n, e) || (z && send(m, m->moments[1], z, w, w, n, e))) return -1;
    const int rc = m->api->factor(m->gpu, m->base + m->moments[0], z ? m->base + m->moments[1] : 0, (uint32_t)n, e);
    if (rc) return rc;
    if (fetch(m, l, w, m->moments[0], w, n, e) || (z && fetch(m, z, w, m->moments[1], w, n, e))) return -1;
    m->factor = l;
    return 0;
}

// ---- Codes ----

int upg_math_rows(const upg_math *m, int n) {
    return (int)(m->coded / (size_t)n / 256 * 256);
}

static int need_factor(upg_math *m, const upg_math_codes *c, upg_error *e) {
    const size_t n = (size_t)c->n;
    if (!c->l || m->factor == c->l) return 0;
    m->factor = NULL;
    if (send(m, m->moments[0], c->l, n, n, c->n, e) || (c->z && send(m, m->moments[1], c->z, n, n, c->n, e))) return -1;
    m->factor = c->l;
    return 0;
}

int upg_math_target(upg_math *m, const upg_math_codes *c, upg_error *e) {
    const size_t n = (size_t)c->n;
    if (c->rows > upg_math_rows(m, c->n)) return upg_fail(e, "codes: more rows than were said");
    if (!c->z) return send(m, m->target, c->in, n, n, c->rows, e);
    const upg_gpu_product p = {.a = m->base + m->sum,
                               .b = m->base + m->moments[1],
                               .c = m->base + m->target,
                               .m = (uint32_t)c->rows,
                               .n = (uint32_t)n,
                               .k = (uint32_t)n,
                               .a_stride = (uint32_t)n,
                               .b_stride = (uint32_t)n,
                               .c_stride = (uint32_t)n};
    return need_factor(m, c, e) || send(m, m->sum, c->in, n, n, c->rows, e) || m->api->product(m->gpu, &p, e) ||
                   fetch(m, c->target, n, m->target, n, c->rows, e)
               ? -1
               : 0;
}

// Adds to the feedback of columns first..last-1 that of the errors of columns last..end-1.
static int add_feedback(upg_math *m, const upg_math_codes *c, int first, int last, int end, upg_error *e) {
    const uint32_t n = (uint32_t)c->n;
    const upg_gpu_product p = {.a = m->base + m->error + 4 * (size_t)last,
                               .b = m->base + m->moments[0] + 4 * ((size_t)last * n + (size_t)first),
                               .c = m->base + m->sum + 4 * (size_t)first,
                               .m = (uint32_t)c->rows,
                               .n = (uint32_t)(last - first),
                               .k = (uint32_t)(end - last),
                               .a_stride = n,
                               .b_stride = n,
                               .c_stride = n,
                               .add = true};
    return end > last ? m->api->product(m->gpu, &p, e) : 0;
}

static uint32_t word_of(upg_gpu_address at) {
    return (uint32_t)(at / 4);
}

static int search(upg_math *m, const upg_math_codes *c, uint32_t first, uint32_t steps, upg_error *e) {
    int around;
    uint16_t threshold;
    upg_search_settings(c->mode, c->s, &around, &threshold);
    const size_t of_group = (size_t)OF_STATE * (65536u >> c->s);
    const uint32_t bands = (uint32_t)c->rows / 16, tiles = bands * steps, groups = (tiles + 3) / 4,
                   room = (uint32_t)(m->costs_bytes / of_group);
    const gpu_search_args a = {.s = (uint32_t)c->s,
                               .around = (uint32_t)around,
                               .threshold = threshold ? threshold : 65535,
                               .n = (uint32_t)c->n,
                               .bands = bands,
                               .first_step = first,
                               .steps = steps,
                               .groups = groups < room ? groups : room,
                               .target = word_of(m->target),
                               .sum = c->l ? word_of(m->sum) : 0,
                               .scale = word_of(m->scales),
                               .inverse = word_of(m->scales) + (uint32_t)c->rows,
                               .codes = word_of(m->codes),
                               .decoded = word_of(m->decoded),
                               .error = c->l ? word_of(m->error) : 0};
    const upg_gpu_launch l = {.kernel = UPG_GPU_kernel_search,
                              .groups = {a.groups, 1, 1},
                              .weight = m->base + m->half,
                              .work = m->base,
                              .kv = m->base + m->costs,
                              .args = &a};
    return m->api->launch(m->gpu, &l, e);
}

// From the last column to the first, each step after its feedback.
static int search_back(upg_math *m, const upg_math_codes *c, upg_error *e) {
    if (m->api->clear(m->gpu, m->base + m->sum, (size_t)c->rows * (size_t)c->n * 4, e)) return -1;
    for (int end = c->n; end > 0;) {
        const int first = (end - 1) / PANEL * PANEL;
        if (add_feedback(m, c, first, end, c->n, e)) return -1;
        for (int at = end - 16; at >= first; at -= 16)
            if (add_feedback(m, c, at, at + 16, end, e) || search(m, c, (uint32_t)at / 16, 1, e)) return -1;
        end = first;
    }
    return 0;
}

int upg_math_search(upg_math *m, const upg_math_codes *c, upg_error *e) {
    const size_t rows = (size_t)c->rows, n = (size_t)c->n;
    for (size_t i = 0; i < rows; i++) {
        m->staged[i] = c->scale[i];
        m->staged[rows + i] = c->scale[i] > 0x1p-100f ? 1 / c->scale[i] : 0.0f;
    }
    if (need_factor(m, c, e) || m->api->write(m->gpu, m->base + m->scales, m->staged, 2 * rows * 4, e) ||
        (c->l ? search_back(m, c, e) : search(m, c, 0, (uint32_t)c->n / 16, e)))
        return -1;
    return m->api->read(m->gpu, c->codes, m->base + m->codes, rows / 16 * (n / 16) * 16 * (size_t)c->s, e) ||
                   m->api->read(m->gpu, c->decoded, m->base + m->decoded, rows * n, e)
               ? -1
               : 0;
}
