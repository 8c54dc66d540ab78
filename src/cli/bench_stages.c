// upg bench stages: what a GPU loses where memory is made for every call, activations cross the bus, and the host waits
// for each kernel. The device's functions are wrapped, and each stage leaves out one of these; the last is what UPG
// does.
#include "cli/bench.h"
#include "backend/gpu/device.h"
#include "engine/shape.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { WARM = 3, POSITIONS = 256, STAGES = 5 };
static const char *const stages[STAGES] = {"memory for every call", "a layer's activations cross the bus",
                                           "the host waits for each kernel", "kernels one after another",
                                           "one graph a token"};

typedef struct options {
    bench_source source;
    int tokens;
} options;

// What the wrapped functions go by; one backend at a time.
static struct {
    const upg_gpu_api *real;
    int stage;
    size_t row; // bytes of the widest row
    uint8_t *host;
    upg_gpu_address work;
    int (*take)(uint64_t *p, size_t n), (*give)(uint64_t p); // the driver's, for memory
} with;

// ---- The device, wrapped ----

static int before(const upg_gpu_launch *l, upg_error *e) {
    with.work = l->work;
    uint64_t in, out;
    if (with.stage > 0 || !with.take) return 0;
    if (with.take(&in, with.row) || with.take(&out, with.row) || with.give(in) || with.give(out))
        return upg_fail(e, "the GPU failed to make memory");
    return 0;
}

static int after(upg_gpu *g, int rc, upg_error *e) {
    uint32_t word;
    return rc || with.stage > 2 ? rc : with.real->read(g, &word, with.work, sizeof word, e);
}

static int launch(upg_gpu *g, const upg_gpu_launch *l, upg_error *e) {
    return before(l, e) ? -1 : after(g, with.real->launch(g, l, e), e);
}
static int rows(upg_gpu *g, const upg_gpu_launch *l, upg_error *e) {
    if (!with.real->rows) return 1;
    return before(l, e) ? -1 : after(g, with.real->rows(g, l, e), e);
}
static int linear(upg_gpu *g, const upg_gpu_matrix *m, const upg_gpu_launch *l, upg_error *e) {
    if (!with.real->linear) return 1;
    return before(l, e) ? -1 : after(g, with.real->linear(g, m, l, e), e);
}
// Once a layer.
static int attention(upg_gpu *g, const upg_gpu_launch *l, upg_error *e) {
    if (with.stage < 2 &&
        (with.real->read(g, with.host, l->work, with.row, e) || with.real->write(g, l->work, with.host, with.row, e) ||
         with.real->read(g, with.host, l->work, with.row, e)))
        return -1;
    if (!with.real->attention) return 1;
    return before(l, e) ? -1 : after(g, with.real->attention(g, l, e), e);
}

// ---- A stage ----

static int run_tokens(upg_backend *b, const options *o, double *seconds, upg_error *e) {
    const int32_t zero = 0, *table = &zero;
    const uint8_t wants = 0;
    for (int i = -WARM; i < o->tokens; i++) {
        const int32_t token = i + WARM, position = i + WARM;
        const upg_batch batch = {
            .n_rows = 1, .tokens = &token, .positions = &position, .blocks = &table, .wants = &wants};
        const double start = upg_now();
        if (b->api->run(b, &batch, e)) return -1;
        if (i >= 0) seconds[i] = upg_now() - start;
        if (cli_interrupted) return upg_fail(e, "interrupted");
    }
    return 0;
}

static int time_of(const upg_backend_api *backend, int layers, const options *o, double *seconds, upg_pool *pool,
                   double *median, upg_error *e) {
    upg_model *m = upg_model_of_shape(upg_shape_find(o->source.shape), layers, o->source.layer_bits, o->source.bits, e);
    if (!m) return -1;
    upg_gpu_api api = *backend->gpu;
    with.row = (size_t)m->config.ffn_size * 8;
    api.launch = launch;
    api.rows = rows;
    api.linear = linear;
    api.attention = attention;
    if (with.stage < STAGES - 1) api.begin = NULL, api.end = NULL;
    const upg_backend_options b = {
        .max_rows = 1, .max_logits = 1, .n_positions = POSITIONS, .n_blocks = 1, .pool = pool};
    with.host = upg_alloc(1, with.row, e);
    upg_backend *made = with.host ? upg_gpu_create(backend, &api, m->program, &b, e) : NULL;
    const int rc = made ? run_tokens(made, o, seconds, e) : -1;
    if (!rc) *median = bench_median(seconds, o->tokens);
    if (made) backend->destroy(made);
    free(with.host);
    upg_model_free(m);
    return rc;
}

#ifdef UPG_CUDA
static int find_driver(upg_error *e) {
    void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    void *take = lib ? dlsym(lib, "cuMemAlloc_v2") : NULL, *give = lib ? dlsym(lib, "cuMemFree_v2") : NULL;
    if (!take || !give) return upg_fail(e, "no NVIDIA driver: libcuda.so.1 cannot be loaded");
    memcpy(&with.take, &take, sizeof take);
    memcpy(&with.give, &give, sizeof give);
    return 0;
}
#endif

static const upg_backend_api *the_gpu(upg_error *e) {
    const char *name = upg_backend_gpu(), *asked = getenv("UPG_DEVICE");
    if (asked && !strcmp(asked, "software")) return &upg_backend_software; // which has no memory to make
#ifdef UPG_CUDA
    if (name && !strcmp(name, "cuda")) return find_driver(e) ? NULL : &upg_backend_cuda;
#endif
    (void)name;
    upg_fail(e, "there is no GPU");
    return NULL;
}

static int run_stages(void *options_, upg_error *e) {
    const options *o = options_;
    const upg_backend_api *backend = the_gpu(e);
    upg_pool *pool = backend ? upg_pool_new(0, e) : NULL;
    double *seconds = pool ? upg_alloc((size_t)o->tokens, sizeof *seconds, e) : NULL;
    int rc = seconds ? 0 : -1;
    double first = 0;
    const int layers = o->source.layers;
    if (!rc) printf("%-40s %12s %8s\n", o->source.shape, "ms a layer", "of all");
    for (with.stage = 0; !rc && with.stage < STAGES; with.stage++) {
        double few = 0, many = 0;
        with.real = backend->gpu;
        rc = time_of(backend, 1, o, seconds, pool, &few, e) || time_of(backend, 1 + layers, o, seconds, pool, &many, e)
                 ? -1
                 : 0;
        const double layer = (many - few) / layers;
        if (with.stage == 0) first = layer;
        if (!rc) printf("%-40s %12.4f %7.0f%%\n", stages[with.stage], layer * 1e3, 100 * layer / first);
        fflush(stdout);
    }
    free(seconds);
    upg_pool_free(pool);
    return rc;
}

static const cli_option options_of_stages[] = {
    {"tokens", 'n', "N", "tokens of a measurement (default 50)", CLI_INT, offsetof(options, tokens), 1, 200, NULL},
    {0}};

static int run(int argc, char **argv) {
    options o = {.source = {.shape = "phi-4", .layers = 4, .layer_bits = 3, .bits = 3.2}, .tokens = 50};
    int status = cli_parse(&cli_bench_stages, argc, argv, &o, NULL);
    return status >= 0 ? status : bench_run(run_stages, &o);
}

const cli_verb cli_bench_stages = {
    .name = "bench stages",
    .summary = "what a GPU loses to memory made for every call, transfers, and waiting",
    .arguments = "[OPTIONS]",
    .about =
        "Runs layers of a shape (default phi-4, 4 layers, 3 bits) with random weights, one row at a time, in five\n"
        "stages: each leaves out one loss of the one before, and the last is how UPG runs. Medians, as the time that\n"
        "a layer more takes.\n",
    .devices = true,
    .groups = {{options_of_stages, 0}, {bench_source_options, offsetof(options, source)}},
    .run = run};
