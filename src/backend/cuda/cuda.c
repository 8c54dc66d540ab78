// CUDA through the driver API: libcuda.so.1 is loaded when it is first needed, and the kernels come with the program as
// a fat binary. Trouble on the device is an error of the call that met it; a device that is lost gives errors from then
// on, and the process goes on.
#include "backend/cuda/args.h"
#include "backend/cuda/blas.h"
#include "backend/cuda/cuda.h"
#include "backend/gpu/device.h"
#include <cuda.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const unsigned char upg_cuda_kernels[]; // kernels.S

// ---- The driver ----

#define DRIVER(X)                                                                                                      \
    X(cuInit, "cuInit")                                                                                                \
    X(cuGetErrorString, "cuGetErrorString")                                                                            \
    X(cuDeviceGetCount, "cuDeviceGetCount")                                                                            \
    X(cuDeviceGet, "cuDeviceGet")                                                                                      \
    X(cuDeviceGetName, "cuDeviceGetName")                                                                              \
    X(cuDeviceGetAttribute, "cuDeviceGetAttribute")                                                                    \
    X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain")                                                            \
    X(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2")                                                       \
    X(cuCtxSetCurrent, "cuCtxSetCurrent")                                                                              \
    X(cuModuleLoadData, "cuModuleLoadData")                                                                            \
    X(cuModuleUnload, "cuModuleUnload")                                                                                \
    X(cuModuleGetFunction, "cuModuleGetFunction")                                                                      \
    X(cuFuncSetAttribute, "cuFuncSetAttribute")                                                                        \
    X(cuMemAlloc, "cuMemAlloc_v2")                                                                                     \
    X(cuMemFree, "cuMemFree_v2")                                                                                       \
    X(cuMemGetInfo, "cuMemGetInfo_v2")                                                                                 \
    X(cuMemHostRegister, "cuMemHostRegister_v2")                                                                       \
    X(cuMemHostUnregister, "cuMemHostUnregister")                                                                      \
    X(cuMemsetD8Async, "cuMemsetD8Async")                                                                              \
    X(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2")                                                                       \
    X(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2")                                                                       \
    X(cuMemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2")                                                                       \
    X(cuStreamCreate, "cuStreamCreate")                                                                                \
    X(cuStreamDestroy, "cuStreamDestroy_v2")                                                                           \
    X(cuStreamSynchronize, "cuStreamSynchronize")                                                                      \
    X(cuStreamBeginCapture, "cuStreamBeginCapture_v2")                                                                 \
    X(cuStreamEndCapture, "cuStreamEndCapture")                                                                        \
    X(cuGraphInstantiate, "cuGraphInstantiateWithFlags")                                                               \
    X(cuGraphLaunch, "cuGraphLaunch")                                                                                  \
    X(cuGraphDestroy, "cuGraphDestroy")                                                                                \
    X(cuGraphExecDestroy, "cuGraphExecDestroy")                                                                        \
    X(cuLaunchKernelEx, "cuLaunchKernelEx")

// cuda.h names some functions by macros of their newest versions: the types come before those.
#undef cuGraphInstantiate
#undef cuStreamBeginCapture
static struct driver {
    CUresult (*cuInit)(unsigned);
    CUresult (*cuGetErrorString)(CUresult, const char **);
    CUresult (*cuDeviceGetCount)(int *);
    CUresult (*cuDeviceGet)(CUdevice *, int);
    CUresult (*cuDeviceGetName)(char *, int, CUdevice);
    CUresult (*cuDeviceGetAttribute)(int *, CUdevice_attribute, CUdevice);
    CUresult (*cuDevicePrimaryCtxRetain)(CUcontext *, CUdevice);
    CUresult (*cuDevicePrimaryCtxRelease)(CUdevice);
    CUresult (*cuCtxSetCurrent)(CUcontext);
    CUresult (*cuModuleLoadData)(CUmodule *, const void *);
    CUresult (*cuModuleUnload)(CUmodule);
    CUresult (*cuModuleGetFunction)(CUfunction *, CUmodule, const char *);
    CUresult (*cuFuncSetAttribute)(CUfunction, CUfunction_attribute, int);
    CUresult (*cuMemAlloc)(CUdeviceptr *, size_t);
    CUresult (*cuMemFree)(CUdeviceptr);
    CUresult (*cuMemGetInfo)(size_t *, size_t *);
    CUresult (*cuMemHostRegister)(void *, size_t, unsigned);
    CUresult (*cuMemHostUnregister)(void *);
    CUresult (*cuMemsetD8Async)(CUdeviceptr, unsigned char, size_t, CUstream);
    CUresult (*cuMemcpyHtoDAsync)(CUdeviceptr, const void *, size_t, CUstream);
    CUresult (*cuMemcpyDtoHAsync)(void *, CUdeviceptr, size_t, CUstream);
    CUresult (*cuMemcpyDtoDAsync)(CUdeviceptr, CUdeviceptr, size_t, CUstream);
    CUresult (*cuStreamCreate)(CUstream *, unsigned);
    CUresult (*cuStreamDestroy)(CUstream);
    CUresult (*cuStreamSynchronize)(CUstream);
    CUresult (*cuStreamBeginCapture)(CUstream, CUstreamCaptureMode);
    CUresult (*cuStreamEndCapture)(CUstream, CUgraph *);
    CUresult (*cuGraphInstantiate)(CUgraphExec *, CUgraph, unsigned long long);
    CUresult (*cuGraphLaunch)(CUgraphExec, CUstream);
    CUresult (*cuGraphDestroy)(CUgraph);
    CUresult (*cuGraphExecDestroy)(CUgraphExec);
    CUresult (*cuLaunchKernelEx)(const CUlaunchConfig *, CUfunction, void **, void **);
} cu;
static char driver_problem[256]; // why there is no driver, or ""

static void load_driver(void) {
    void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL); // never closed
    if (!lib) {
        snprintf(driver_problem, sizeof driver_problem, "no NVIDIA driver: libcuda.so.1 cannot be loaded");
        return;
    }
    static const struct {
        void *to;
        const char *name;
    } all[] = {
#define X(field, name) {&cu.field, name},
        DRIVER(X)
#undef X
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        void *f = dlsym(lib, all[i].name);
        if (!f) {
            snprintf(driver_problem, sizeof driver_problem, "the NVIDIA driver is too old: it has no %s", all[i].name);
            return;
        }
        memcpy(all[i].to, &f, sizeof f);
    }
    const CUresult rc = cu.cuInit(0);
    const char *why = NULL;
    if (rc != CUDA_SUCCESS && cu.cuGetErrorString(rc, &why) != CUDA_SUCCESS) why = NULL;
    if (rc != CUDA_SUCCESS)
        snprintf(driver_problem, sizeof driver_problem, "the NVIDIA driver does not start: %s",
                 why ? why : "no reason given");
}

static int have_driver(upg_error *e) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load_driver);
    return *driver_problem ? upg_fail(e, "%s", driver_problem) : 0;
}

// 0, or -1 with what the driver says. what: "to reserve memory".
static int check(CUresult rc, const char *what, upg_error *e) {
    if (rc == CUDA_SUCCESS) return 0;
    const char *why = NULL;
    if (cu.cuGetErrorString(rc, &why) != CUDA_SUCCESS || !why) why = "unknown error";
    return upg_fail(e, "the GPU failed %s: %s (%d)", what, why, (int)rc);
}

// ---- Devices ----

int upg_cuda_count(upg_error *e) {
    int n;
    if (have_driver(e) || check(cu.cuDeviceGetCount(&n), "to count devices", e)) return -1;
    return n;
}

static int describe(CUdevice d, upg_cuda_info *info, upg_error *e) {
    if (check(cu.cuDeviceGetName(info->name, sizeof info->name, d), "to tell its name", e)) return -1;
    const struct {
        CUdevice_attribute attribute;
        int *to;
    } wanted[] = {{CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, &info->major},
                  {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, &info->minor},
                  {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &info->processors},
                  {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, &info->shared}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (check(cu.cuDeviceGetAttribute(wanted[i].to, wanted[i].attribute, d), "to tell what it is", e)) return -1;
    if (10 * info->major + info->minor < 75)
        snprintf(info->problem, sizeof info->problem, "compute capability %d.%d; 7.5 is the least", info->major,
                 info->minor);
    return 0;
}

// ---- A device that runs ----

enum { MOST_MMA_ROWS = 16 }; // rows of a batch up to which Hopper multiplies as others do
enum { MAX_GRAPHS = 128, MAX_N = 17, MAX_PINNED = 4, MAX_SHARED = 96 << 10 };
static const size_t SUMS = (size_t)16 << 20, // bytes for sums of linear layers that blocks share
    DONE = (size_t)1 << 20;                  // and for counts of blocks of attention that are done

typedef struct graph {
    uint64_t key, used;
    CUgraphExec exec;
} graph;

typedef struct cuda_gpu {
    upg_gpu base;
    CUdevice device;
    CUcontext context;
    CUmodule module;
    CUstream stream;
    CUdeviceptr memory, sums, done;
    upg_cuda_info info;
    CUfunction kernels[UPG_GPU_KERNELS], reorder[MAX_N], gemv[MAX_N][3][3], tile[MAX_N][2][3];
    CUfunction transpose, wide[MAX_N][2][2]; // wide: of groups of 128 and 256 columns, tiles of 64 and 128 rows
    bool transposed;                         // the quantised inputs are as wide kernels read them
    // Row ops that have not run yet, since what comes next may do them itself: a QUANTISE of one row, and a KV.
    struct {
        bool quantise, heads;
        quantise_args q;
        kv_args kv;
        CUdeviceptr work, cache;
        uint32_t groups[3]; // of heads
    } later;
    CUfunction embed, quantise[2], quantise_cluster;      // quantise: of 1 and 3 chunks
    CUfunction heads[3], attend[2][2][2], attend_many[2]; // heads of 64, 128, 256; attend: 4 or 8 queries, few or many
    graph graphs[MAX_GRAPHS];
    uint64_t clock;
    bool capturing;
    void *pinned[MAX_PINNED];
    int n_pinned;
    size_t limit;
    uint32_t shared;     // bytes of shared memory that a block may have
    upg_cuda_blas *blas; // made when something is multiplied
    CUdeviceptr factor;  // what factors need beside
    size_t factor_floats;
} cuda_gpu;

static const upg_gpu_api cuda_api;

static int current(cuda_gpu *g, upg_error *e) {
    return check(cu.cuCtxSetCurrent(g->context), "to make its context current", e);
}

// A kernel by its name; shared: bytes of shared memory it may be started with, 0 for what needs no asking.
static int find(cuda_gpu *g, CUfunction *f, int shared, upg_error *e, const char *fmt, ...) {
    char name[64];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    if (check(cu.cuModuleGetFunction(f, g->module, name), "to find a kernel", e)) return -1;
    if (!shared) return 0;
    return check(cu.cuFuncSetAttribute(*f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared),
                 "to set a kernel up", e);
}

// Shared memory of attention of many rows: a KV head's block of keys and values, and what pairs of warps have.
static uint32_t attention_bytes(uint32_t dim, uint32_t pairs) {
    return KEY_BLOCK * (2 * dim + 8) + pairs * PAIR_BYTES;
}

static uint32_t most_pairs(const cuda_gpu *g, uint32_t dim) {
    const uint32_t fixed = attention_bytes(dim, 0), all = (uint32_t)g->info.shared,
                   room = all > fixed ? (all - fixed) / PAIR_BYTES : 0;
    return room < ATTEND_PAIRS ? room : ATTEND_PAIRS;
}

static int find_kernels(cuda_gpu *g, upg_error *e) {
    static const char *const names[] = {
#define X(name, args) #name,
        GPU_KERNELS(X)
#undef X
    };
    for (int i = 0; i < UPG_GPU_KERNELS; i++)
        if (find(g, &g->kernels[i], 0, e, "%s", names[i])) return -1;
    if (g->info.major < 8) return 0;
    g->shared = (uint32_t)g->info.shared - 1024; // kernels have some of their own
    for (int i = 0; i < 2; i++)
        if (find(g, &g->quantise[i], 0, e, "quantise_%d", 1 + 2 * i)) return -1;
    // What only some machine code has; without it there is another way, which UPG_CUDA_PLAIN lets tests take.
    const bool plain = getenv("UPG_CUDA_PLAIN") != NULL;
    if (plain || find(g, &g->quantise_cluster, 0, NULL, "quantise_cluster")) g->quantise_cluster = NULL;
    if (plain || find(g, &g->transpose, 0, NULL, "transpose")) g->transpose = NULL;
    for (int i = 0; i < 8; i++)
        if (find(g, &g->attend[i / 4][i / 2 % 2][i % 2], 0, e, "attend_%d_%d_%d", 64 << i / 4, 4 << i / 2 % 2, i % 2))
            return -1;
    for (int i = 0; i < 2; i++)
        if (find(g, &g->attend_many[i], (int)attention_bytes(64u << i, most_pairs(g, 64u << i)), e, "attend_many_%d",
                 64 << i))
            return -1;
    if (find(g, &g->embed, 0, e, "embed_rows")) return -1;
    for (int i = 0; i < 3; i++)
        if (find(g, &g->heads[i], 0, e, "heads_%d", 2 << i)) return -1;
    static const int sizes[] = {4, 5, 6, 7, 8, 16}, of_rows[] = {1, 8, 16}, tiles[] = {32, 64};
    for (int i = 0; i < 6; i++) {
        const int n = sizes[i];
        if (find(g, &g->reorder[n], 0, e, "reorder_%d", n)) return -1;
        for (int k = n == 16; k < 3; k++)
            for (int u = 0; u < 3; u++)
                if (find(g, &g->gemv[n][k][u], MAX_SHARED, e, "gemv_%d_%d_%d", n, of_rows[k], 1 << u)) return -1;
        for (int k = 0; k < 4 && g->transpose; k++)
            if (find(g, &g->wide[n][k / 2][k % 2], (int)g->shared, NULL, "wide_%d_%d_%d", n, 2 << k / 2, 64 << k % 2))
                g->wide[n][k / 2][k % 2] = NULL;
        for (int k = 0; k < 2; k++)
            for (int u = 0; u < 3; u++)
                if (find(g, &g->tile[n][k][u], (int)g->shared, e, "tile_%d_%d_%d", n, tiles[k], 1 << u)) return -1;
    }
    return 0;
}

static void close_device(upg_gpu *base) {
    cuda_gpu *g = (cuda_gpu *)base;
    if (g->context) { // whatever a lost device answers
        cu.cuCtxSetCurrent(g->context);
        if (g->stream) cu.cuStreamSynchronize(g->stream);
        for (int i = 0; i < MAX_GRAPHS; i++)
            if (g->graphs[i].exec) cu.cuGraphExecDestroy(g->graphs[i].exec);
        upg_cuda_blas_free(g->blas);
        for (int i = 0; i < g->n_pinned; i++) cu.cuMemHostUnregister(g->pinned[i]);
        if (g->factor) cu.cuMemFree(g->factor);
        if (g->memory) cu.cuMemFree(g->memory);
        if (g->sums) cu.cuMemFree(g->sums);
        if (g->module) cu.cuModuleUnload(g->module);
        if (g->stream) cu.cuStreamDestroy(g->stream);
        cu.cuDevicePrimaryCtxRelease(g->device);
    }
    free(g);
}

// The 1 of "cuda:1"; -1: it is no number.
static int index_of(const char *device) {
    const char *colon = device ? strchr(device, ':') : NULL;
    char *end;
    const long n = colon ? strtol(colon + 1, &end, 10) : 0;
    return !colon ? 0 : end == colon + 1 || *end || n < 0 || n > INT16_MAX ? -1 : (int)n;
}

static int start_device(cuda_gpu *g, int index, upg_error *e) {
    if (check(cu.cuDeviceGet(&g->device, index), "to open", e) || describe(g->device, &g->info, e)) return -1;
    if (*g->info.problem) return upg_fail(e, "device cuda:%d, %s: %s", index, g->info.name, g->info.problem);
    return check(cu.cuDevicePrimaryCtxRetain(&g->context, g->device), "to make a context", e) || current(g, e) ||
                   check(cu.cuModuleLoadData(&g->module, upg_cuda_kernels), "to load its kernels", e) ||
                   check(cu.cuStreamCreate(&g->stream, CU_STREAM_NON_BLOCKING), "to make a stream", e) ||
                   find_kernels(g, e)
               ? -1
               : 0;
}

static upg_gpu *open_device(const upg_backend_options *o, upg_error *e) {
    const int index = index_of(o->device), n = upg_cuda_count(e);
    if (n < 0) return NULL;
    if (index < 0 || index >= n) {
        upg_fail(e, n ? "there is no device %s; NVIDIA GPUs: %d, from cuda:0 on" : "there is no NVIDIA GPU", o->device,
                 n);
        return NULL;
    }
    cuda_gpu *g = upg_alloc(1, sizeof *g, e);
    if (!g) return NULL;
    g->base.api = &cuda_api;
    g->limit = o->gpu_bytes;
    if (!start_device(g, index, e)) return &g->base;
    close_device(&g->base);
    return NULL;
}

static const char *device_path(const upg_gpu *g) {
    return ((const cuda_gpu *)g)->info.name;
}

static int reserve(upg_gpu *base, size_t bytes, upg_gpu_address *at, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    size_t left, all;
    if (current(g, e) || check(cu.cuMemGetInfo(&left, &all), "to say how much memory it has", e)) return -1;
    const size_t needed = bytes + SUMS + DONE;
    if (g->limit && g->limit < left) left = g->limit;
    const CUresult rc = needed > left ? CUDA_ERROR_OUT_OF_MEMORY : cu.cuMemAlloc(&g->memory, bytes);
    if (rc == CUDA_ERROR_OUT_OF_MEMORY) return upg_gpu_no_room(needed, left, all, g->info.name, e);
    if (check(rc, "to reserve memory", e) || check(cu.cuMemAlloc(&g->sums, SUMS + DONE), "to reserve memory", e) ||
        check(cu.cuMemsetD8Async(g->sums, 0, SUMS + DONE, g->stream), "to clear memory", e) ||
        check(cu.cuMemsetD8Async(g->memory, 0, bytes, g->stream), "to clear memory", e))
        return -1;
    g->done = g->sums + SUMS;
    *at = g->memory;
    return 0;
}

static void pin(upg_gpu *base, void *p, size_t n) {
    cuda_gpu *g = (cuda_gpu *)base;
    if (g->n_pinned < MAX_PINNED && !current(g, NULL) && cu.cuMemHostRegister(p, n, 0) == CUDA_SUCCESS)
        g->pinned[g->n_pinned++] = p;
}

static int write_memory(upg_gpu *base, upg_gpu_address to, const void *from, size_t n, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    return current(g, e) ? -1 : check(cu.cuMemcpyHtoDAsync(to, from, n, g->stream), "to take data", e);
}
static int finish(upg_gpu *base, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    return current(g, e) ? -1 : check(cu.cuStreamSynchronize(g->stream), "while it ran", e);
}
static int read_memory(upg_gpu *base, void *to, upg_gpu_address from, size_t n, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    return current(g, e) || check(cu.cuMemcpyDtoHAsync(to, from, n, g->stream), "to give data", e) ? -1
                                                                                                   : finish(base, e);
}
static int copy_memory(upg_gpu *base, upg_gpu_address to, upg_gpu_address from, size_t n, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    return current(g, e) ? -1 : check(cu.cuMemcpyDtoDAsync(to, from, n, g->stream), "to copy data", e);
}

static int clear_memory(upg_gpu *base, upg_gpu_address at, size_t n, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    return current(g, e) ? -1 : check(cu.cuMemsetD8Async(at, 0, n, g->stream), "to clear memory", e);
}

// ---- Kernels ----

// A kernel met trouble: what was being recorded is dropped.
static int stop(cuda_gpu *g) {
    CUgraph recorded = NULL;
    if (g->capturing && cu.cuStreamEndCapture(g->stream, &recorded) == CUDA_SUCCESS && recorded)
        cu.cuGraphDestroy(recorded);
    g->capturing = g->later.quantise = g->later.heads = false;
    return -1;
}

static int start(cuda_gpu *g, CUfunction f, const uint32_t groups[3], uint32_t threads, uint32_t shared, void **params,
                 upg_error *e) {
    // From Hopper on a kernel may begin while the one before it ends: all of ours wait before they read its results.
    CUlaunchAttribute early = {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION};
    early.value.programmaticStreamSerializationAllowed = 1;
    const CUlaunchConfig config = {.gridDimX = groups[0],
                                   .gridDimY = groups[1],
                                   .gridDimZ = groups[2],
                                   .blockDimX = threads,
                                   .blockDimY = 1,
                                   .blockDimZ = 1,
                                   .sharedMemBytes = shared,
                                   .hStream = g->stream,
                                   .attrs = &early,
                                   .numAttrs = g->info.major >= 9};
    const CUresult rc = cu.cuLaunchKernelEx(&config, f, params, NULL);
    return check(rc, "to start a kernel", e) ? stop(g) : 0;
}

// Whether kernels for more rows, on Hopper, are used for so many, in groups of b columns.
static bool is_wide(const cuda_gpu *g, uint32_t rows, uint32_t b) {
    return g->transpose && rows > MOST_MMA_ROWS && b >= 128;
}

static int start_quantise(cuda_gpu *g, CUdeviceptr work, quantise_args *q, uint32_t rows, upg_error *e) {
    void *params[] = {&work, q};
    q->transposed = g->transposed = is_wide(g, rows, q->b); // if who reads it is another kernel, it is put back
    const uint32_t chunks = (q->n + 255) / 256, spread[3] = {rows * 8, 1, 1}, whole[3] = {rows, 1, 1};
    if (g->quantise_cluster && chunks > 16 && !(q->what & QUANTISE_NORM))
        return start(g, g->quantise_cluster, spread, (chunks + 7) / 8 * 32, 0, params, e);
    return start(g, g->quantise[q->n > 8192], whole, q->n > 8192 ? 1024 : chunks < 8 ? 256 : chunks * 32, 0, params, e);
}

static int start_heads(cuda_gpu *g, CUdeviceptr work, CUdeviceptr cache, const kv_args *k, const uint32_t groups[3],
                       upg_error *e) {
    void *params[] = {&work, &cache, (void *)k};
    return start(g, g->heads[k->heads.head_dim / 128], groups, 256, 0, params, e);
}

// Does what was put off.
static int catch_up(cuda_gpu *g, upg_error *e) {
    if (g->later.quantise && start_quantise(g, g->later.work, &g->later.q, 1, e)) return -1;
    if (g->later.heads && start_heads(g, g->later.work, g->later.cache, &g->later.kv, g->later.groups, e)) return -1;
    g->later.quantise = g->later.heads = false;
    return 0;
}

static int launch(upg_gpu *base, const upg_gpu_launch *l, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    const bool reads = l->kernel == UPG_GPU_kernel_linear || l->kernel == UPG_GPU_kernel_attention_4 ||
                       l->kernel == UPG_GPU_kernel_attention_8;
    if (reads && catch_up(g, e)) return -1;
    CUdeviceptr weight = l->weight, work = l->work, kv = l->kv;
    void *params[] = {&weight, &work, &kv, (void *)l->args};
    const bool wide = l->kernel == UPG_GPU_kernel_rows || l->kernel == UPG_GPU_kernel_sample; // ROW_LANES
    return start(g, g->kernels[l->kernel], l->groups, wide ? 1024 : GROUP_LANES, 0, params, e);
}

static int words_of(const gpu_matrix *w) {
    return w->encoding == UPG_TRELLIS ? (int)w->s : w->encoding == UPG_INT8 ? 16 : 0;
}

static int reorder(upg_gpu *base, upg_gpu_matrix *m, size_t bytes, upg_gpu_address scratch, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    const int n = words_of(&m->args);
    const size_t sums = (size_t)(m->args.rows + 31) / 32 * 256; // of a row
    if (!n || m->args.b < 64 || g->info.major < 8 || sums > SUMS) return 0;
    m->order = 1;
    CUdeviceptr from = scratch, to = m->data;
    uint32_t rows = m->args.rows, cols = m->args.cols, groups[3] = {(uint32_t)g->info.processors * 8, 1, 1};
    void *params[] = {&from, &to, &rows, &cols};
    return copy_memory(base, scratch, m->data, bytes, e) || start(g, g->reorder[n], groups, 256, 0, params, e) ? -1 : 0;
}

// Parts that the inputs of a tile are cut into, so that the last round of blocks is not too empty.
static uint32_t parts_of(const cuda_gpu *g, uint32_t tiles, uint32_t groups, size_t bytes) {
    const uint32_t processors = (uint32_t)g->info.processors;
    uint32_t best = 1;
    double least = 1e30;
    for (uint32_t parts = 1; parts <= groups && parts <= 32; parts++) {
        const uint32_t rounds = (tiles * parts + processors - 1) / processors;
        const double cost = (double)rounds * ((groups + parts - 1) / parts + 8);
        if (cost < least && (parts == 1 || bytes <= SUMS)) {
            least = cost;
            best = parts;
        }
    }
    return best;
}

// A product that is to be started: rows of the batch from `first` on.
typedef struct product {
    const upg_gpu_matrix *m;
    const upg_gpu_launch *l;
    int n; // words of a lane
    uint32_t pairs, groups;
} product;

static int start_product(cuda_gpu *g, const product *p, CUfunction f, mma_args *a, const uint32_t grid[3],
                         uint32_t threads, uint32_t shared, upg_error *e) {
    CUdeviceptr weight = p->l->weight, work = p->l->work;
    void *params[] = {&weight, &work, a};
    a->sums = g->sums;
    return start(g, f, grid, threads, shared, params, e);
}

enum { GEMV_THREADS = 640, GEMV_MORE_THREADS = 896 };
// Whether the blocks of a product of one row can do the quantising that was put off, each for itself.
static bool can_quantise(const cuda_gpu *g, const product *p, uint32_t rows) {
    const quantise_args *q = &g->later.q;
    const gpu_linear_args *a = p->l->args;
    const uint32_t chunks = (q->n + 255) / 256, sums = (p->pairs / (uint32_t)g->info.processors + 4) * 256;
    return g->later.quantise && rows == 1 && p->n != 16 && chunks <= GEMV_THREADS / 32 &&
           chunks * 1024 + p->groups * 8 + sums <= MAX_SHARED && !(a->add && a->y == q->x) &&
           !(q->what & QUANTISE_KEEP);
}

// At most 16 rows: one kernel on all multiprocessors.
static int few_rows(cuda_gpu *g, const product *p, uint32_t first, uint32_t rows, upg_error *e) {
    mma_args a = {0};
    memcpy(&a.linear, p->l->args, sizeof a.linear);
    a.linear.x.q += first * (p->m->args.cols / 4);
    a.linear.x.d += first;
    a.linear.x.q_sum += first;
    a.linear.x.m += first;
    a.linear.y += first * a.linear.y_stride;
    a.linear.n_rows = rows;
    const uint32_t cols = p->m->args.cols;
    a.quantises = can_quantise(g, p, rows);
    if (a.quantises)
        a.quantise = g->later.q;
    else if (catch_up(g, e))
        return -1;
    const uint32_t items = p->pairs * p->groups,
                   single = (a.quantises ? (cols + 255) / 256 * 1024 : cols * 2) + p->groups * 8;
    uint32_t blocks = (uint32_t)g->info.processors, size, shared;
    for (;; blocks *= 2) { // more where a block's sums would not fit
        if (blocks > items) blocks = items;
        const uint32_t of_block = p->pairs / blocks + 3;
        const bool one = rows == 1 && p->n != 16 && single + of_block * 256 <= MAX_SHARED;
        size = one ? 1 : rows <= 8 ? 8 : 16;
        shared = of_block * (size * 128 + 128) + (one ? single : 0);
        if (shared <= MAX_SHARED || blocks == items) break;
    }
    // A warp an item where that is possible: one round, not two of which the second is nearly empty.
    const uint32_t each = (items + blocks - 1) / blocks;
    const bool few = each > GEMV_THREADS / 32 && each <= GEMV_MORE_THREADS / 32;
    a.whole = p->pairs >= 8 * blocks;
    const uint32_t grid[3] = {blocks, 1, 1}, threads = p->n == 16 || rows > 8 ? 512
                                                       : rows == 1 && few     ? GEMV_MORE_THREADS
                                                                              : GEMV_THREADS;
    return start_product(g, p, g->gemv[p->n][size / 8][p->m->args.b / 128], &a, grid, threads, shared, e);
}

// Puts the quantised inputs into the order of wide kernels, or back.
static int transpose(cuda_gpu *g, const product *p, bool wanted, upg_error *e) {
    if (g->transposed == wanted) return 0;
    const gpu_linear_args *a = p->l->args;
    CUdeviceptr q = p->l->work + 4 * (uint64_t)a->x.q;
    uint32_t n = a->n_rows * (a->w.cols / 64);
    void *params[] = {&q, &n};
    const uint32_t grid[3] = {(n + 255) / 256, 1, 1};
    g->transposed = wanted;
    return start(g, g->transpose, grid, 256, 0, params, e);
}

// Products of more rows, on Hopper. Returns 1 where is_wide says no or there is no kernel.
static int many_rows(cuda_gpu *g, const product *p, uint32_t rows, upg_error *e) {
    const uint32_t b = p->m->args.b, size = rows <= 64 ? 64 : 128,
                   stage = (size * b + 8 * size + 4 * b / 64 * 128 * (uint32_t)p->n + 1023) / 1024 * 1024,
                   items = (rows + size - 1) / size * ((p->pairs + 3) / 4) * p->groups;
    if (!is_wide(g, rows, b) || !g->wide[p->n][b / 256][size / 128] || 2 * stage + 1024 > g->shared) return 1;
    mma_args a = {.stages = 3 * stage + 1024 <= g->shared / (128 / size) ? 3 : 2, .counts = g->done};
    memcpy(&a.linear, p->l->args, sizeof a.linear);
    const uint32_t blocks = (uint32_t)g->info.processors * (128 / size), room = SUMS / (size * 128 * sizeof(int32_t)),
                   most = blocks < room ? blocks : room, grid[3] = {most < items ? most : items, 1, 1};
    if (transpose(g, p, true, e)) return -1;
    return start_product(g, p, g->wide[p->n][b / 256][size / 128], &a, grid, 256, a.stages * stage + 1024, e);
}

// Returns 1 if the device has too little shared memory for that.
static int more_rows(cuda_gpu *g, const product *p, uint32_t rows, upg_error *e) {
    const uint32_t k = rows > 32, size = 32u << k, tiles = (rows + size - 1) / size, bands = (p->pairs + 7) / 8,
                   stride = p->m->args.b == 64 ? 64 : p->m->args.b + 64,
                   stage = size * (stride + 8) + 8 * p->m->args.b / 64 * 128 * (uint32_t)p->n;
    if (2 * stage > g->shared) return 1;
    mma_args a = {.stages = 3 * stage <= g->shared ? 3 : 2};
    memcpy(&a.linear, p->l->args, sizeof a.linear);
    const uint32_t grid[3] = {
        tiles, bands, parts_of(g, tiles * bands, p->groups, rows <= 64 ? (size_t)rows * p->pairs * 256 : SIZE_MAX)};
    return start_product(g, p, g->tile[p->n][k][p->m->args.b / 128], &a, grid, 512, a.stages * stage, e);
}

static int linear(upg_gpu *base, const upg_gpu_matrix *m, const upg_gpu_launch *l, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    gpu_linear_args a;
    memcpy(&a, l->args, sizeof a);
    const product p = {m, l, words_of(&m->args), (m->args.rows + 31) / 32, m->args.cols / m->args.b};
    if ((!m->order || a.n_rows > 1) && catch_up(g, e)) return -1;
    if (!m->order) return transpose(g, &p, false, e) ? -1 : 1;
    const int rc = many_rows(g, &p, a.n_rows, e);
    if (rc <= 0) return rc;
    if (transpose(g, &p, false, e)) return -1;
    if (a.n_rows > 16) {
        const int more = more_rows(g, &p, a.n_rows, e);
        if (more <= 0) return more;
    }
    const size_t of_row = (size_t)p.pairs * 256;
    const uint32_t most = 16 * of_row <= SUMS ? 16 : 8 * of_row <= SUMS ? 8 : 1;
    for (uint32_t at = 0; at < a.n_rows; at += most)
        if (few_rows(g, &p, at, a.n_rows - at < most ? a.n_rows - at : most, e)) return -1;
    return 0;
}

// ---- Row ops ----

static int start_embed(cuda_gpu *g, const upg_gpu_launch *l, const gpu_rows_args *a, upg_error *e) {
    const gpu_row_op *op = &a->ops[0];
    const embed_args args = {a->embedding, a->batch.tokens, a->batch.flags, a->sign,
                             op->out,      op->out_stride,  op->rotated};
    CUdeviceptr weight = l->weight, work = l->work;
    void *params[] = {&weight, &work, (void *)&args};
    const uint32_t grid[3] = {l->groups[0], (op->n + 2047) / 2048, 1};
    return start(g, g->embed, grid, 256, 0, params, e);
}

// How many of the last row ops are one quantise kernel, 0 if none; fills in its arguments.
static uint32_t match_quantise(const gpu_rows_args *a, quantise_args *q) {
    uint32_t i = a->n_ops;
    if (!i || a->ops[--i].kind != UPG_OP_QUANTISE) return 0;
    const gpu_row_op *op = &a->ops[i];
    *q = (quantise_args){.to = a->quantised,
                         .flags = a->batch.flags,
                         .wanted = a->batch.wanted,
                         .gathered = op->gathered,
                         .sign = a->sign,
                         .eps = a->eps,
                         .x = op->in,
                         .x_stride = op->in_stride,
                         .n = op->n,
                         .b = op->n & (0 - op->n),
                         .rotated = op->rotated};
    if (q->b > 256) q->b = 256;
    const gpu_row_op *before = i ? op - 1 : NULL;
    if (before && before->out == op->in && before->out_stride == op->in_stride &&
        ((before->kind == UPG_OP_SWIGLU && before->n == 2 * op->n) ||
         (before->kind == UPG_OP_RMSNORM && before->n == op->n && before->in != before->out))) {
        q->what = before->kind == UPG_OP_SWIGLU ? QUANTISE_SWIGLU : QUANTISE_NORM;
        if (before->kept) q->what |= QUANTISE_KEEP;
        q->y = before->out;
        q->y_stride = before->out_stride;
        q->vector = before->vector;
        q->x = before->in;
        q->x_stride = before->in_stride;
        i--;
        const gpu_row_op *add = i ? before - 1 : NULL;
        if (add && q->what & QUANTISE_NORM && add->kind == UPG_OP_ADD && add->out == before->in &&
            add->n == before->n && add->out_stride == before->in_stride) {
            q->what |= QUANTISE_ADD;
            q->delta = add->in;
            q->delta_stride = add->in_stride;
            i--;
        }
    }
    const bool aligned =
        !((q->x | q->x_stride | q->delta | q->delta_stride | q->y | q->y_stride) % 4) && q->n % 16 == 0;
    if (!aligned || q->n > 3 * 8192 || (q->n > 8192 && q->what & QUANTISE_NORM)) return 0;
    return a->n_ops - i;
}

static int rows(upg_gpu *base, const upg_gpu_launch *l, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    g->transposed = false;
    g->later.quantise = g->later.heads = false; // who read them has done them
    gpu_rows_args head;
    memcpy(&head, l->args, sizeof head);
    const gpu_row_op *last = &head.ops[head.n_ops - 1];
    const gpu_heads *h = &head.heads;
    const bool kv = last->kind == UPG_OP_KV && h->b == h->head_dim && h->head_dim >= 64;
    quantise_args q;
    const uint32_t n = kv ? 1 : match_quantise(&head, &q);
    if (!n || g->info.major < 8) return 1;
    const gpu_row_op tail = *last;
    head.n_ops -= n;
    upg_gpu_launch first = *l;
    first.args = &head;
    if (head.n_ops == 1 && head.ops[0].kind == UPG_OP_EMBED && head.ops[0].n == head.embedding.cols &&
        head.embedding.b >= 16 && !(head.ops[0].out % 4 || head.ops[0].out_stride % 4)) {
        if (start_embed(g, &first, &head, e)) return -1;
    } else if (head.n_ops && launch(base, &first, e)) {
        return -1;
    }
    if (!kv) {
        if (l->groups[0] > 1 || q.what & (QUANTISE_ADD | QUANTISE_SWIGLU))
            return start_quantise(g, l->work, &q, l->groups[0], e);
        g->later.quantise = true;
        g->later.q = q;
        g->later.work = l->work;
        return 0;
    }
    const kv_args k = {*h, head.batch.flags, head.batch.positions, head.batch.table, tail.in, tail.in_stride};
    const uint32_t groups[3] = {l->groups[0], (h->n_heads + 2 * h->n_kv_heads + 7) / 8, 1};
    if (h->head_dim > 128) return start_heads(g, l->work, l->kv, &k, groups, e);
    g->later.heads = true;
    g->later.kv = k;
    g->later.work = l->work;
    g->later.cache = l->kv;
    memcpy(g->later.groups, groups, sizeof groups);
    return 0;
}

// How many pairs of warps the blocks of attention get, so that their waves, one on a multiprocessor, come out even: a
// wave takes about as long as a block has pairs.
static uint32_t wide_queries(const upg_gpu *base, uint32_t dim, uint32_t queries, uint32_t groups) {
    const cuda_gpu *g = (const cuda_gpu *)base;
    const uint32_t most = most_pairs(g, dim);
    uint32_t best = 1, least = UINT32_MAX;
    for (uint32_t pairs = 1; pairs <= most; pairs++) {
        const uint32_t blocks = (queries + 16 * pairs - 1) / (16 * pairs) * groups,
                       waves = (blocks - 1) / (uint32_t)g->info.processors + 1, cost = waves * (2 * pairs + 3);
        if (cost > least) continue;
        least = cost;
        best = pairs;
    }
    return 16 * best;
}

static int attention(upg_gpu *base, const upg_gpu_launch *l, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    attend_args a = {.done = g->done};
    memcpy(&a.attention, l->args, sizeof a.attention);
    const uint32_t dim = a.attention.heads.head_dim;
    if (g->info.major < 8 || (dim != 64 && dim != 128) ||
        (uint64_t)l->groups[0] * l->groups[1] * sizeof(uint32_t) > DONE)
        return catch_up(g, e) ? -1 : 1;
    // Blocks of attention turn the heads they need themselves where their queries are of one row; each its own, so they
    // must not be many.
    a.turns = g->later.heads && a.attention.n_blocks && a.attention.n_blocks <= 16 &&
              a.attention.queries <= a.attention.heads_a_group;
    if (a.turns) {
        a.kv = g->later.kv;
        g->later.heads = false;
    } else if (catch_up(g, e)) {
        return -1;
    }
    CUdeviceptr work = l->work, kv = l->kv;
    void *params[] = {&work, &kv, &a};
    const uint32_t many[3] = {a.attention.n_wide, l->groups[1], 1}, pairs = a.attention.wide_queries / 16;
    if (!a.attention.n_blocks)
        return start(g, g->attend_many[dim == 128], many, 64 * pairs, attention_bytes(dim, pairs), params, e);
    const bool crowded = l->groups[0] * l->groups[1] * l->groups[2] > (uint32_t)g->info.processors;
    return start(g, g->attend[dim == 128][a.attention.queries > 4][crowded], l->groups, 256, 0, params, e);
}

// ---- Graphs ----

static int begin(upg_gpu *base, uint64_t key, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    if (current(g, e)) return -1;
    for (int i = 0; i < MAX_GRAPHS; i++)
        if (g->graphs[i].exec && g->graphs[i].key == key) {
            g->graphs[i].used = ++g->clock;
            return check(cu.cuGraphLaunch(g->graphs[i].exec, g->stream), "to start a graph", e) ? -1 : 1;
        }
    if (check(cu.cuStreamBeginCapture(g->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "to record a graph", e))
        return -1;
    g->capturing = true;
    return 0;
}

static int end(upg_gpu *base, uint64_t key, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    CUgraph recorded = NULL;
    g->capturing = false;
    if (check(cu.cuStreamEndCapture(g->stream, &recorded), "to record a graph", e)) return -1;
    graph *to = &g->graphs[0];
    for (int i = 1; i < MAX_GRAPHS; i++)
        if (g->graphs[i].used < to->used) to = &g->graphs[i];
    if (to->exec) cu.cuGraphExecDestroy(to->exec);
    *to = (graph){.key = key, .used = ++g->clock};
    const CUresult rc = cu.cuGraphInstantiate(&to->exec, recorded, 0);
    cu.cuGraphDestroy(recorded);
    if (rc != CUDA_SUCCESS) to->exec = NULL;
    return check(rc, "to make a graph", e) || check(cu.cuGraphLaunch(to->exec, g->stream), "to start a graph", e) ? -1
                                                                                                                  : 0;
}

// ---- Math ----

static int have_blas(cuda_gpu *g, upg_error *e) {
    if (current(g, e)) return -1;
    return g->blas || (g->blas = upg_cuda_blas_new(g->stream, e)) ? 0 : -1;
}

static int multiply(upg_gpu *base, const upg_gpu_product *p, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    return have_blas(g, e) ? -1 : upg_cuda_blas_product(g->blas, p, e);
}

static int reserve_factor(cuda_gpu *g, uint32_t n, upg_error *e) {
    size_t floats;
    if (upg_cuda_blas_factor_room(g->blas, n, &floats, e)) return -1;
    if (g->factor && floats <= g->factor_floats) return 0;
    if (g->factor) cu.cuMemFree(g->factor);
    g->factor = 0;
    g->factor_floats = floats;
    return check(cu.cuMemAlloc(&g->factor, (floats + 1) * sizeof(float)), "to reserve memory", e);
}

static int factor(upg_gpu *base, upg_gpu_address l, upg_gpu_address z, uint32_t n, upg_error *e) {
    cuda_gpu *g = (cuda_gpu *)base;
    if (have_blas(g, e) || reserve_factor(g, n, e)) return -1;
    int32_t failed = 0;
    const CUdeviceptr word = g->factor + g->factor_floats * sizeof(float);
    if (upg_cuda_blas_cholesky(g->blas, l, n, g->factor, g->factor_floats, word, e) ||
        read_memory(base, &failed, word, sizeof failed, e))
        return -1;
    return failed ? 1 : upg_cuda_blas_solve(g->blas, l, z, n, word, e);
}

static const upg_gpu_api cuda_api = {.name = "cuda",
                                     .open = open_device,
                                     .close = close_device,
                                     .path = device_path,
                                     .reserve = reserve,
                                     .pin = pin,
                                     .write = write_memory,
                                     .read = read_memory,
                                     .copy = copy_memory,
                                     .clear = clear_memory,
                                     .launch = launch,
                                     .rows = rows,
                                     .wide_queries = wide_queries,
                                     .attention = attention,
                                     .linear = linear,
                                     .reorder = reorder,
                                     .begin = begin,
                                     .end = end,
                                     .product = multiply,
                                     .factor = factor};

static bool present(void) {
    return upg_cuda_count(NULL) > 0;
}
static void prepare(const char *device) {
    CUdevice d;
    CUcontext context; // never released
    if (present() && index_of(device) >= 0 && cu.cuDeviceGet(&d, index_of(device)) == CUDA_SUCCESS)
        cu.cuDevicePrimaryCtxRetain(&context, d);
}
static upg_backend *create(const upg_program *program, const upg_backend_options *options, upg_error *e) {
    return upg_gpu_create(&upg_backend_cuda, &cuda_api, program, options, e);
}
static upg_math *math(const upg_backend_options *options, const upg_math_sizes *sizes, upg_error *e) {
    return upg_cuda_blas_present(e) ? NULL : upg_gpu_math(&cuda_api, options, sizes, e);
}
const upg_backend_api upg_backend_cuda = UPG_GPU_BACKEND("cuda", &cuda_api, present, prepare, create, math);

int upg_cuda_describe(int device, upg_cuda_info *info, upg_error *e) {
    CUdevice d;
    *info = (upg_cuda_info){0};
    if (have_driver(e) || check(cu.cuDeviceGet(&d, device), "to open", e)) return -1;
    CUcontext context;
    if (describe(d, info, e) || check(cu.cuDevicePrimaryCtxRetain(&context, d), "to make a context", e)) return -1;
    int rc = check(cu.cuCtxSetCurrent(context), "to make its context current", e);
    if (!rc) rc = check(cu.cuMemGetInfo(&info->free_bytes, &info->bytes), "to say how much memory it has", e);
    cu.cuDevicePrimaryCtxRelease(d);
    return rc;
}
