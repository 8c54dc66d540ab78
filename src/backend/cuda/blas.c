// See blas.h. Their prototypes are written down here, so that the driver's header is enough to build.
#include "backend/cuda/blas.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The values of cublas_api.h that are used. Their matrices lie by columns: ours are their transposes.
enum { OP_N = 0, OP_T = 1, SIDE_LEFT = 0, FILL_UPPER = 1, DIAG_NON_UNIT = 0 };
typedef float *device_floats;
typedef void *handle;

#define CUBLAS(X)                                                                                                      \
    X(create, "cublasCreate_v2", (handle *))                                                                           \
    X(destroy, "cublasDestroy_v2", (handle))                                                                           \
    X(set_stream, "cublasSetStream_v2", (handle, void *))                                                              \
    X(sgemm, "cublasSgemm_v2",                                                                                         \
      (handle, int, int, int, int, int, const float *, const device_floats, int, const device_floats, int,             \
       const float *, device_floats, int))                                                                             \
    X(strsm, "cublasStrsm_v2",                                                                                         \
      (handle, int, int, int, int, int, int, const float *, const device_floats, int, device_floats, int))
#define CUSOLVER(X)                                                                                                    \
    X(solver_create, "cusolverDnCreate", (handle *))                                                                   \
    X(solver_destroy, "cusolverDnDestroy", (handle))                                                                   \
    X(solver_set_stream, "cusolverDnSetStream", (handle, void *))                                                      \
    X(spotrf_room, "cusolverDnSpotrf_bufferSize", (handle, int, int, device_floats, int, int *))                       \
    X(spotrf, "cusolverDnSpotrf", (handle, int, int, device_floats, int, device_floats, int, int *))                   \
    X(spotrs, "cusolverDnSpotrs", (handle, int, int, int, const device_floats, int, device_floats, int, int *))

static struct {
#define X(name, symbol, args) int(*name) args;
    CUBLAS(X) CUSOLVER(X)
#undef X
} lib;
static char problem[256]; // why they are not there, or ""

typedef struct symbol {
    void *to;
    const char *name;
} symbol;

static void load(const char *const *names, const symbol *symbols, size_t n) {
    void *from = NULL; // never closed
    for (size_t i = 0; names[i] && !from; i++) from = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!from) snprintf(problem, sizeof problem, "%s of the CUDA toolkit cannot be loaded", names[0]);
    for (size_t i = 0; i < n && from; i++) {
        void *f = dlsym(from, symbols[i].name);
        if (!f) snprintf(problem, sizeof problem, "%s has no %s", names[0], symbols[i].name);
        memcpy(symbols[i].to, &f, sizeof f);
    }
}

static void load_all(void) {
    static const char *const cublas[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so.11", NULL},
                             *const cusolver[] = {"libcusolver.so.12", "libcusolver.so.11", NULL};
#define X(name, symbol, args) {&lib.name, symbol},
    static const symbol of_cublas[] = {CUBLAS(X)}, of_cusolver[] = {CUSOLVER(X)};
#undef X
    load(cublas, of_cublas, sizeof of_cublas / sizeof *of_cublas);
    if (!*problem) load(cusolver, of_cusolver, sizeof of_cusolver / sizeof *of_cusolver);
}

int upg_cuda_blas_present(upg_error *e) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load_all);
    return *problem ? upg_fail(e, "%s", problem) : 0;
}

struct upg_cuda_blas {
    handle blas, solver;
};

static int check(int rc, const char *what, upg_error *e) {
    return rc ? upg_fail(e, "the GPU's library failed %s (%d)", what, rc) : 0;
}

upg_cuda_blas *upg_cuda_blas_new(void *stream, upg_error *e) {
    if (upg_cuda_blas_present(e)) return NULL;
    upg_cuda_blas *b = upg_alloc(1, sizeof *b, e);
    if (!b) return NULL;
    if (check(lib.create(&b->blas), "to start", e) || check(lib.set_stream(b->blas, stream), "to take a stream", e) ||
        check(lib.solver_create(&b->solver), "to start", e) ||
        check(lib.solver_set_stream(b->solver, stream), "to take a stream", e)) {
        upg_cuda_blas_free(b);
        return NULL;
    }
    return b;
}

void upg_cuda_blas_free(upg_cuda_blas *b) {
    if (!b) return;
    if (b->solver) lib.solver_destroy(b->solver);
    if (b->blas) lib.destroy(b->blas);
    free(b);
}

static device_floats floats_at(upg_gpu_address at) {
    return (device_floats)(uintptr_t)at;
}

int upg_cuda_blas_product(upg_cuda_blas *b, const upg_gpu_product *p, upg_error *e) {
    const float one = 1, add = p->add ? 1 : 0;
    return check(lib.sgemm(b->blas, p->b_transposed ? OP_T : OP_N, p->a_transposed ? OP_T : OP_N, (int)p->n, (int)p->m,
                           (int)p->k, &one, floats_at(p->b), (int)p->b_stride, floats_at(p->a), (int)p->a_stride, &add,
                           floats_at(p->c), (int)p->c_stride),
                 "to multiply", e);
}

int upg_cuda_blas_factor_room(upg_cuda_blas *b, uint32_t n, size_t *floats, upg_error *e) {
    int count = 0;
    if (check(lib.spotrf_room(b->solver, FILL_UPPER, (int)n, NULL, (int)n, &count), "to say what a factor takes", e))
        return -1;
    *floats = (size_t)count;
    return 0;
}

int upg_cuda_blas_cholesky(upg_cuda_blas *b, upg_gpu_address l, uint32_t n, upg_gpu_address work, size_t floats,
                           upg_gpu_address word, upg_error *e) {
    return check(lib.spotrf(b->solver, FILL_UPPER, (int)n, floats_at(l), (int)n, floats_at(work), (int)floats,
                            (int *)(uintptr_t)word),
                 "to factor", e);
}

int upg_cuda_blas_solve(upg_cuda_blas *b, upg_gpu_address l, upg_gpu_address z, uint32_t n, upg_gpu_address word,
                        upg_error *e) {
    const int side = (int)n;
    const float one = 1;
    if (z && check(lib.spotrs(b->solver, FILL_UPPER, side, side, floats_at(l), side, floats_at(z), side,
                              (int *)(uintptr_t)word),
                   "to solve", e))
        return -1;
    for (int c = 0; c + 16 < side; c += 16) {
        const upg_gpu_address diagonal = l + 4 * ((upg_gpu_address)c * n + (upg_gpu_address)c);
        if (check(lib.strsm(b->blas, SIDE_LEFT, FILL_UPPER, OP_N, DIAG_NON_UNIT, 16, side - c - 16, &one,
                            floats_at(diagonal), side, floats_at(diagonal + 64 * (upg_gpu_address)n), side),
                  "to solve", e))
            return -1;
    }
    return 0;
}
