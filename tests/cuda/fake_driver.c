// A CUDA driver that is none: libcuda.so.1 for tests of backend/cuda/cuda.c where there is no GPU. Memory is the
// host's, kernels are the host build of src/kernels, run when they are launched or when the graph that recorded them
// is. The device has compute capability 7.5, so that nothing else is asked for.
//
// FAKE_CUDA_FAIL=N: call N and all after it fail, as those of a device that is lost. FAKE_CUDA_MEMORY=BYTES: what there
// is. FAKE_CUDA_COUNT=FILE: the number of calls is written there in the end.
#include "base/thread.h"
#include "kernels/kernels.h"
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef struct kernel {
    const char *name;
    void (*run)(const uint32_t *group, uint8_t *weight, uint8_t *work, uint8_t *kv, const void *args);
    size_t args_bytes;
} kernel;
// clang-format off
#define X(name_, args) static void run_##name_(const uint32_t *group, uint8_t *weight, uint8_t *work, uint8_t *kv, const void *a) { name_(group, weight, work, kv, a); }
GPU_KERNELS(X)
#undef X
#define X(name_, args) {#name_, run_##name_, sizeof(args)},
static const kernel kernels[] = {GPU_KERNELS(X)};
#undef X
// clang-format on

typedef struct launched {
    const kernel *kernel;
    uint32_t groups[3];
    uint8_t *weight, *work, *kv;
    void *args;
} launched;
struct CUgraph_st {
    launched *all; // [n]
    size_t n;
};

static long calls;
static size_t taken;
static struct CUgraph_st *recording;
static upg_pool *pool; // of one thread: its tasks run in the library's floating-point mode

static void write_count(void) {
    const char *path = getenv("FAKE_CUDA_COUNT");
    FILE *f = path ? fopen(path, "w") : NULL;
    if (f) fprintf(f, "%ld\n", calls);
    if (f) fclose(f);
}
static CUresult answer(void) {
    const char *fail = getenv("FAKE_CUDA_FAIL");
    return ++calls >= (fail ? atol(fail) : INT64_MAX) ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS;
}
#define ANSWER()                                                                                                       \
    do {                                                                                                               \
        if (answer() != CUDA_SUCCESS) return CUDA_ERROR_ILLEGAL_ADDRESS;                                               \
    } while (0)

static size_t memory(void) {
    const char *bytes = getenv("FAKE_CUDA_MEMORY");
    return bytes ? (size_t)atoll(bytes) : (size_t)1 << 30;
}
static void *host(CUdeviceptr p) {
    return (void *)(uintptr_t)p;
}

EXPORT CUresult cuInit(unsigned flags) {
    (void)flags;
    ANSWER();
    atexit(write_count);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuGetErrorString(CUresult rc, const char **text) {
    *text = rc == CUDA_SUCCESS ? "no error" : "an illegal memory access was encountered";
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetCount(int *n) {
    ANSWER();
    *n = 1;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGet(CUdevice *d, int i) {
    ANSWER();
    *d = i;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetName(char *name, int n, CUdevice d) {
    (void)d;
    ANSWER();
    snprintf(name, (size_t)n, "Fake GPU");
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) {
    (void)d;
    ANSWER();
    *v = a == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR   ? 7
         : a == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? 5
                                                             : 4;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) {
    (void)d;
    ANSWER();
    *c = (CUcontext)&calls;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice d) {
    (void)d;
    return answer();
}
EXPORT CUresult cuCtxSetCurrent(CUcontext c) {
    (void)c;
    return answer();
}
EXPORT CUresult cuModuleLoadData(CUmodule *m, const void *image) {
    (void)image;
    ANSWER();
    *m = (CUmodule)&calls;
    if (!pool) pool = upg_pool_new(1, NULL);
    return pool ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
EXPORT CUresult cuModuleUnload(CUmodule m) {
    (void)m;
    upg_pool_free(pool);
    pool = NULL;
    return answer();
}
EXPORT CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name) {
    (void)m;
    ANSWER();
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (!strcmp(name, kernels[i].name)) {
            *f = (CUfunction)(uintptr_t)&kernels[i];
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_NOT_FOUND;
}
EXPORT CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) {
    (void)f, (void)a, (void)v;
    return answer();
}
// Sizes stand before what is given out.
EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t n) {
    ANSWER();
    if (n > memory() - taken) return CUDA_ERROR_OUT_OF_MEMORY;
    uint8_t *at = upg_aligned_alloc(n + 64, NULL);
    if (!at) return CUDA_ERROR_OUT_OF_MEMORY;
    memcpy(at, &n, sizeof n);
    memset(at + 64, 0xa5, n); // nobody may rely on zeros
    taken += n;
    *p = (uintptr_t)(at + 64);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemFree_v2(CUdeviceptr p) {
    uint8_t *at = (uint8_t *)host(p) - 64;
    size_t n;
    memcpy(&n, at, sizeof n);
    taken -= n;
    upg_aligned_free(at);
    return answer();
}
EXPORT CUresult cuMemGetInfo_v2(size_t *left, size_t *all) {
    ANSWER();
    *all = memory();
    *left = *all - taken;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemHostRegister_v2(void *p, size_t n, unsigned flags) {
    (void)p, (void)n, (void)flags;
    return answer();
}
EXPORT CUresult cuMemHostUnregister(void *p) {
    (void)p;
    return answer();
}
EXPORT CUresult cuMemsetD8Async(CUdeviceptr p, unsigned char v, size_t n, CUstream s) {
    (void)s;
    ANSWER();
    memset(host(p), v, n);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t n, CUstream s) {
    (void)s;
    ANSWER();
    memcpy(host(to), from, n);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t n, CUstream s) {
    (void)s;
    ANSWER();
    memcpy(to, host(from), n);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s) {
    (void)s;
    ANSWER();
    memcpy(host(to), host(from), n);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamCreate(CUstream *s, unsigned flags) {
    (void)flags;
    ANSWER();
    *s = (CUstream)&calls;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamDestroy_v2(CUstream s) {
    (void)s;
    return answer();
}
EXPORT CUresult cuStreamSynchronize(CUstream s) {
    (void)s;
    return recording ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : answer();
}

// ---- Kernels and graphs ----

static void run_group(void *ctx, int task, int thread) {
    (void)thread;
    const launched *l = ctx;
    const uint32_t i = (uint32_t)task, x = l->groups[0], y = l->groups[1], group[3] = {i % x, i / x % y, i / x / y};
    l->kernel->run(group, l->weight, l->work, l->kv, l->args);
}
static void run_kernel(launched *l) {
    upg_pool_run(pool, run_group, l, (int)(l->groups[0] * l->groups[1] * l->groups[2]));
}

EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **params, void **extra) {
    (void)extra;
    ANSWER();
    const kernel *k = (const kernel *)(uintptr_t)f;
    launched l = {.kernel = k, .groups = {c->gridDimX, c->gridDimY, c->gridDimZ}, .args = malloc(k->args_bytes)};
    if (!l.args) return CUDA_ERROR_OUT_OF_MEMORY;
    l.weight = host(*(CUdeviceptr *)params[0]);
    l.work = host(*(CUdeviceptr *)params[1]);
    l.kv = host(*(CUdeviceptr *)params[2]);
    memcpy(l.args, params[3], k->args_bytes);
    if (!recording) {
        run_kernel(&l);
        free(l.args);
        return CUDA_SUCCESS;
    }
    launched *all = realloc(recording->all, (recording->n + 1) * sizeof *all);
    if (!all) return CUDA_ERROR_OUT_OF_MEMORY;
    recording->all = all;
    all[recording->n++] = l;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamBeginCapture_v2(CUstream s, CUstreamCaptureMode mode) {
    (void)s, (void)mode;
    ANSWER();
    if (recording) return CUDA_ERROR_ILLEGAL_STATE;
    recording = calloc(1, sizeof *recording);
    return recording ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
EXPORT CUresult cuStreamEndCapture(CUstream s, CUgraph *g) {
    (void)s;
    *g = recording; // also on a device that is lost: nothing leaks
    recording = NULL;
    return *g ? CUDA_SUCCESS : CUDA_ERROR_ILLEGAL_STATE;
}
static void free_graph(struct CUgraph_st *g) {
    for (size_t i = 0; g && i < g->n; i++) free(g->all[i].args);
    if (g) free(g->all);
    free(g);
}
EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph g, unsigned long long flags) {
    (void)flags;
    ANSWER();
    struct CUgraph_st *copy = calloc(1, sizeof *copy);
    if (!copy) return CUDA_ERROR_OUT_OF_MEMORY;
    *copy = *g;
    g->all = NULL; // the copy's now
    g->n = 0;
    *exec = (CUgraphExec)copy;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuGraphLaunch(CUgraphExec exec, CUstream s) {
    (void)s;
    ANSWER();
    struct CUgraph_st *g = (struct CUgraph_st *)exec;
    for (size_t i = 0; i < g->n; i++) run_kernel(&g->all[i]);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuGraphDestroy(CUgraph g) {
    free_graph(g);
    return answer();
}
EXPORT CUresult cuGraphExecDestroy(CUgraphExec exec) {
    free_graph((struct CUgraph_st *)exec);
    return answer();
}
