// A GPU in software: the host build of the kernels, its groups run by the thread pool. It is how the kernels are tested
// where there is no GPU, and slow.
#include "backend/gpu/device.h"
#include "codec/search_step.h"
#include "codec/trellis.h"
#include "kernels/kernels.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// What kernels say again, since they cannot include what says it.
_Static_assert((int)ROW_EMBED == UPG_OP_EMBED && (int)ROW_RMSNORM == UPG_OP_RMSNORM &&
                   (int)ROW_HEAD_NORM == UPG_OP_HEAD_NORM && (int)ROW_QUANTISE == UPG_OP_QUANTISE &&
                   (int)ROW_BIAS == UPG_OP_BIAS && (int)ROW_KV == UPG_OP_KV && (int)ROW_SWIGLU == UPG_OP_SWIGLU &&
                   (int)ROW_ADD == UPG_OP_ADD && (int)ROW_GATHER == UPG_OP_GATHER,
               "kernels/rows.h and program.h number the ops alike");
_Static_assert((int)CODED_INT8 == UPG_INT8 && (int)CODED_TRELLIS == UPG_TRELLIS && (int)CODED_SPARSE == UPG_SPARSE &&
                   TRELLIS_MULTIPLIER == UPG_TRELLIS_MULTIPLIER && (int)KEY_BLOCK == UPG_KV_BLOCK &&
                   GUARD_HIGH == UPG_GUARD_HIGH && GUARD_LOW == UPG_GUARD_LOW &&
                   (int)GPU_DRAW_EDITS == UPG_DRAW_EDITS && (int)SAMPLE_BIAS == UPG_EDIT_BIAS &&
                   (int)SAMPLE_REPEAT == UPG_EDIT_REPEAT && (int)SEARCH_CAP == UPG_STEP_CAP &&
                   (int)SEARCH_STEPS == UPG_TRELLIS_STEPS,
               "kernels have the numbers of codec and program");

typedef void kernel_fn(const uint32_t *group, uint8_t *weight, uint8_t *work, uint8_t *kv, const void *args);
// clang-format off
#define X(name, args)                                                                                                  \
    static void run_##name(const uint32_t *group, uint8_t *weight, uint8_t *work, uint8_t *kv, const void *a) {        \
        name(group, weight, work, kv, a);                                                                              \
    }
GPU_KERNELS(X)
#undef X
#define X(name, args) run_##name,
static kernel_fn *const kernels[] = {GPU_KERNELS(X)};
#undef X
// clang-format on

typedef struct software_gpu {
    upg_gpu base;
    upg_pool *pool;
    uint8_t *memory;
    size_t limit;
    const upg_gpu_launch *launch; // the one that runs
} software_gpu;

static uint8_t *pointer(upg_gpu_address at) {
    return (uint8_t *)(uintptr_t)at;
}

static const upg_gpu_api software_api;
static upg_gpu *open_device(const upg_backend_options *o, upg_error *e) {
    software_gpu *g = upg_alloc(1, sizeof *g, e);
    if (!g) return NULL;
    g->base.api = &software_api;
    g->pool = o->pool;
    g->limit = o->gpu_bytes;
    return &g->base;
}
static void close_device(upg_gpu *base) {
    software_gpu *g = (software_gpu *)base;
    upg_aligned_free(g->memory);
    free(g);
}
static const char *device_path(const upg_gpu *g) {
    (void)g;
    return "software GPU";
}
static int reserve(upg_gpu *base, size_t bytes, upg_gpu_address *at, upg_error *e) {
    software_gpu *g = (software_gpu *)base;
    if (g->limit && bytes > g->limit) return upg_gpu_no_room(bytes, g->limit, g->limit, "the software GPU", e);
    if (!(g->memory = upg_aligned_alloc(bytes, e))) return -1;
    *at = (uintptr_t)g->memory;
    return 0;
}
static int write_memory(upg_gpu *g, upg_gpu_address to, const void *from, size_t n, upg_error *e) {
    (void)g, (void)e;
    memcpy(pointer(to), from, n);
    return 0;
}
static int read_memory(upg_gpu *g, void *to, upg_gpu_address from, size_t n, upg_error *e) {
    (void)g, (void)e;
    memcpy(to, pointer(from), n);
    return 0;
}
static int copy_memory(upg_gpu *g, upg_gpu_address to, upg_gpu_address from, size_t n, upg_error *e) {
    (void)g, (void)e;
    memcpy(pointer(to), pointer(from), n);
    return 0;
}
static int clear_memory(upg_gpu *g, upg_gpu_address at, size_t n, upg_error *e) {
    (void)g, (void)e;
    memset(pointer(at), 0, n);
    return 0;
}

static void group_task(void *ctx, int task, int thread) {
    (void)thread;
    const software_gpu *g = ctx;
    const upg_gpu_launch *l = g->launch;
    const uint32_t i = (uint32_t)task, x = l->groups[0], y = l->groups[1], group[3] = {i % x, i / x % y, i / x / y};
    kernels[l->kernel](group, pointer(l->weight), pointer(l->work), pointer(l->kv), l->args);
}
static int launch(upg_gpu *base, const upg_gpu_launch *l, upg_error *e) {
    software_gpu *g = (software_gpu *)base;
    const uint64_t n = (uint64_t)l->groups[0] * l->groups[1] * l->groups[2];
    if (n > INT32_MAX) return upg_fail(e, "a kernel of %llu groups", (unsigned long long)n);
    g->launch = l;
    upg_pool_run(g->pool, group_task, g, (int)n);
    return 0;
}

static float *floats_at(upg_gpu_address at) {
    return (float *)(uintptr_t)at;
}

// Plain loops: this is linked without a BLAS, too, where the kernels are run for another processor.
static int product(upg_gpu *g, const upg_gpu_product *p, upg_error *e) {
    (void)g, (void)e;
    const float *a = floats_at(p->a), *b = floats_at(p->b);
    const size_t a_row = p->a_transposed ? 1 : p->a_stride, a_col = p->a_transposed ? p->a_stride : 1,
                 b_row = p->b_transposed ? 1 : p->b_stride, b_col = p->b_transposed ? p->b_stride : 1;
    for (size_t i = 0; i < p->m; i++)
        for (size_t j = 0; j < p->n; j++) {
            float *c = floats_at(p->c) + i * p->c_stride + j, sum = 0;
            for (size_t k = 0; k < p->k; k++) sum += a[i * a_row + k * a_col] * b[k * b_row + j * b_col];
            *c = p->add ? *c + sum : sum;
        }
    return 0;
}

// x [rows][n], `stride` apart, becomes x t^-1, or x (t^T)^-1, where t [n][n] is a lower triangle.
static void solve(float *x, size_t rows, size_t stride, const float *t, size_t t_stride, size_t n, bool transposed) {
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i++) {
            const size_t c = transposed ? i : n - 1 - i;
            float *v = x + r * stride, sum = v[c];
            for (size_t k = transposed ? 0 : c + 1; k < (transposed ? c : n); k++)
                sum -= v[k] * t[transposed ? c * t_stride + k : k * t_stride + c];
            v[c] = sum / t[c * t_stride + c];
        }
}

static int factor(upg_gpu *g, upg_gpu_address at, upg_gpu_address z, uint32_t side, upg_error *e) {
    (void)g, (void)e;
    float *l = floats_at(at);
    const size_t n = side;
    for (size_t i = 0; i < n; i++) {
        solve(l + i * n, 1, n, l, n, i, true);
        for (size_t k = 0; k < i; k++) l[i * n + i] -= l[i * n + k] * l[i * n + k];
        if (!(l[i * n + i] > 0)) return 1;
        l[i * n + i] = sqrtf(l[i * n + i]);
    }
    if (z) {
        solve(floats_at(z), n, n, l, n, n, true);
        solve(floats_at(z), n, n, l, n, n, false);
    }
    for (size_t c = 0; c + 16 < n; c += 16) solve(l + (c + 16) * n + c, n - c - 16, n, l + c * n + c, n, 16, false);
    return 0;
}

static const upg_gpu_api software_api = {.name = "software",
                                         .open = open_device,
                                         .close = close_device,
                                         .path = device_path,
                                         .reserve = reserve,
                                         .write = write_memory,
                                         .read = read_memory,
                                         .copy = copy_memory,
                                         .clear = clear_memory,
                                         .launch = launch,
                                         .product = product,
                                         .factor = factor};

static bool never(void) {
    return false;
}
static upg_backend *create(const upg_program *program, const upg_backend_options *options, upg_error *e) {
    return upg_gpu_create(&upg_backend_software, &software_api, program, options, e);
}
static upg_math *math(const upg_backend_options *options, const upg_math_sizes *sizes, upg_error *e) {
    return upg_gpu_math(&software_api, options, sizes, e);
}
const upg_backend_api upg_backend_software = UPG_GPU_BACKEND("software", &software_api, never, NULL, create, math);
