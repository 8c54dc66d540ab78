// upg bench spmv: a square matrix times a vector in each encoding, beside NumPy, SciPy and plain Python.
//
// A product goes from an f32 vector to an f32 vector: quantising the input, and rotating it where the encoding's basis
// asks for that, is part of it. The matrix stays the same from product to product, so what fits a cache is in it.
#include "cli/bench.h"
#include "backend/cpu/cpu.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_SIZE = 32768, WARM_UP = 3, DEFAULT_REPEATS = 100, SLOW_REPEATS = 5 };

typedef struct options {
    int n_threads, repeats;
    bench_list sizes;
    bench_output output;
    bool no_baselines;
    const char *python;
    const char *gpu; // "cuda", or NULL
} options;

static const struct {
    const char *name; // behind "cpu_" and the GPUs' names
    upg_encoding encoding;
    int s;
    bool unrotated;
} kinds[] = {{"spmv", UPG_SPARSE, 8, true},
             {"sparse4", UPG_SPARSE, 4, true},
             {"int8", UPG_INT8, 0, false},
             {"trellis", UPG_TRELLIS, 6, false}};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

// A product of one kind and size.
typedef struct product {
    const upg_cpu_kernels *kernels;
    upg_pool *pool;
    upg_arena memory;
    upg_tensor w;
    upg_linear l;
    float *x, *work; // [n]
    uint32_t *sign;  // [n]
    int8_t *q;
    uint8_t *d;
    int32_t *q_sum;
    float m, *y;
    upg_scratch *scratch; // [threads]
} product;

static uint64_t next(uint64_t *state) {
    return upg_splitmix64(20260101, (*state)++);
}

// Every block keeps a random half of its weights.
static int fill_sparse(uint8_t *data, const upg_tensor *w, uint64_t *random, upg_error *e) {
    int b = upg_block(w->cols), total = 256 * b;
    uint8_t *codes = upg_alloc((size_t)total, 1, e), *keep = upg_alloc((size_t)total, 1, e);
    for (int64_t block = 0; codes && keep && block < w->rows / 256 * (w->cols / b); block++) {
        for (int i = 0; i < total; i++) {
            codes[i] = (uint8_t)(next(random) % (w->s == 4 ? 16 : 255));
            int other = (int)(next(random) % (uint64_t)(i + 1));
            keep[i] = keep[other];
            keep[other] = i % 2;
        }
        upg_sparse_pack(codes, keep, (size_t)b, 16, b, w->s,
                        data + (size_t)block * upg_sparse_block_bytes(16, b, w->s));
    }
    int rc = codes && keep ? 0 : -1;
    free(codes);
    free(keep);
    return rc;
}

static int fill_matrix(product *p, upg_error *e) {
    uint64_t random = 0;
    uint8_t *data = upg_arena_take(&p->memory, p->w.bytes + 64, 1, e);
    float *scale = upg_arena_take(&p->memory, (size_t)p->w.rows, sizeof *scale, e);
    if (!data || !scale) return -1;
    for (size_t i = 0; p->w.encoding != UPG_SPARSE && i < p->w.bytes; i++)
        data[i] = (uint8_t)(next(&random) % 255); // 255 is no int8 weight
    for (int64_t r = 0; r < p->w.rows; r++) scale[r] = 0x1p-10f;
    p->w.data = data;
    p->w.scale = scale;
    return p->w.encoding == UPG_SPARSE ? fill_sparse(data, &p->w, &random, e) : 0;
}

static int product_new(product *p, int kind, int n, const upg_cpu_kernels *kernels, upg_pool *pool, upg_error *e) {
    size_t threads = (size_t)upg_pool_threads(pool), size = (size_t)n;
    *p = (product){.kernels = kernels, .pool = pool};
    p->w = (upg_tensor){.name = kinds[kind].name,
                        .encoding = kinds[kind].encoding,
                        .s = kinds[kind].s,
                        .unrotated = kinds[kind].unrotated,
                        .rows = n,
                        .cols = n};
    p->w.bytes = upg_encoded_bytes(p->w.encoding, p->w.s, n, n);
    upg_arena *a = &p->memory;
    if (fill_matrix(p, e) || !(p->x = upg_arena_take(a, size, sizeof(float), e)) ||
        !(p->work = upg_arena_take(a, size, sizeof(float), e)) || !(p->y = upg_arena_take(a, size, sizeof(float), e)) ||
        !(p->sign = upg_arena_take(a, size, sizeof *p->sign, e)) || !(p->q = upg_arena_take(a, size, 1, e)) ||
        !(p->d = upg_arena_take(a, size / 16, 1, e)) ||
        !(p->q_sum = upg_arena_take(a, size / 16, sizeof *p->q_sum, e)) ||
        !(p->scratch = upg_arena_take(a, threads, sizeof *p->scratch, e)))
        return -1;
    for (size_t i = 0; i < threads; i++)
        if (upg_scratch_take(&p->scratch[i], a, 1, n, e)) return -1;
    for (uint64_t i = 0; i < size; i++) {
        p->x[i] = (float)((int64_t)(upg_splitmix64(7, i) >> 40) - (1 << 23)) * 0x1p-22f;
        p->sign[i] = upg_sign(1, i);
    }
    p->l = (upg_linear){.w = &p->w,
                        .n = n,
                        .b = upg_block(n),
                        .end = n / upg_block(n),
                        .n_rows = 1,
                        .q = p->q,
                        .d = p->d,
                        .q_sum = p->q_sum,
                        .m = &p->m,
                        .y = p->y,
                        .y_stride = size};
    return 0;
}

static void linear_task(void *ctx, int superband, int thread) {
    product *p = ctx;
    p->kernels->linear(&p->l, superband, &p->scratch[thread]);
}
static void quantise_task(void *ctx, int task, int thread) {
    (void)task, (void)thread;
    product *p = ctx;
    p->kernels->quantise(p->x, p->l.n, p->l.n, p->l.b, p->w.unrotated ? NULL : p->sign, p->work, p->q, p->d, p->q_sum,
                         &p->m);
}

static double multiply(product *p) {
    double start = upg_now();
    upg_pool_run(p->pool, quantise_task, p, 1);
    upg_pool_run(p->pool, linear_task, p, (int)(p->w.rows / 256));
    return upg_now() - start;
}

static int measure(product *p, const char *name, int repeats, bench_rows *rows, upg_error *e) {
    double *seconds = upg_alloc((size_t)repeats, sizeof *seconds, e);
    if (!seconds) return -1;
    for (int i = 0; i < WARM_UP; i++) multiply(p);
    for (int i = 0; i < repeats && !cli_interrupted; i++) seconds[i] = multiply(p);
    int rc = bench_rows_add(rows, name, p->l.n, seconds, repeats, e);
    free(seconds);
    return rc;
}

// ---- Baselines

// Reads n*n int8 weights, then f32: n scales, n of x, n of UPG's y. Prints lines "row NAME SECONDS..." and "note ...".
static const char script[] =
    "import sys, time\n"
    "from array import array\n"
    "path, n, repeats, slow = sys.argv[1], *map(int, sys.argv[2:])\n"
    "f = open(path, 'rb')\n"
    "raw = f.read(n * n)\n"
    "scale, x, want = (array('f', f.read(4 * n)) for _ in range(3))\n"
    "def measure(name, product, repeats):\n"
    "    product()\n"
    "    t = []\n"
    "    for _ in range(repeats):\n"
    "        start = time.perf_counter()\n"
    "        y = product()\n"
    "        t.append(time.perf_counter() - start)\n"
    "    error = (sum((float(a) - b) ** 2 for a, b in zip(y, want)) / sum(b * b for b in want)) ** 0.5\n"
    "    if not error < 0.02: sys.exit('%s: y differs by %g from that of the integer kernels' % (name, error))\n"
    "    print('row', name, *t, flush=True)\n"
    "try:\n"
    "    import numpy as np\n"
    "    w = np.frombuffer(raw, np.int8).reshape(n, n).astype(np.float32) * np.array(scale, np.float32)[:, None]\n"
    "    v = np.array(x, np.float32)\n"
    "    try:\n"
    "        import scipy.sparse\n"
    "        s = scipy.sparse.csr_matrix(w)\n"
    "        measure('scipy_csr', lambda: s @ v, repeats)\n"
    "    except ImportError: print('note SciPy is not installed: no CSR baseline')\n"
    "    measure('numpy_dense', lambda: w @ v, repeats)\n"
    "except ImportError: print('note NumPy is not installed: no NumPy and SciPy baselines')\n"
    "signed = array('b', raw)\n"
    "rows = []\n"
    "for r in range(n):\n"
    "    row = signed[r * n:(r + 1) * n]\n"
    "    at = [i for i, w in enumerate(row) if w]\n"
    "    rows.append((at, [row[i] * scale[r] for i in at]))\n"
    "v = list(x)\n"
    "def plain():\n"
    "    return [sum([w * v[i] for i, w in zip(at, values)]) for at, values in rows]\n"
    "measure('python', plain, slow)\n";

static int write_matrix(const char *path, const product *p, upg_error *e) {
    FILE *f = fopen(path, "wb");
    if (!f) return upg_fail(e, "%s: cannot write", path);
    size_t n = (size_t)p->l.n;
    int8_t row[256];
    for (int64_t r = 0; r < p->w.rows; r++)
        for (int64_t g = 0; g < p->l.n / p->l.b; g++) {
            upg_sparse_row(p->w.data, p->w.rows, p->w.cols, p->w.s, r, g, row);
            fwrite(row, 1, (size_t)p->l.b, f);
        }
    fwrite(p->w.scale, sizeof(float), n, f);
    fwrite(p->x, sizeof(float), n, f);
    fwrite(p->y, sizeof(float), n, f);
    bool bad = ferror(f);
    if (fclose(f)) bad = true;
    return bad ? upg_fail(e, "%s: cannot write", path) : 0;
}

static int baselines(const options *o, const product *p, bool notes, bench_rows *rows, upg_error *e) {
    bench_python python;
    char arguments[64];
    int slow = o->repeats < SLOW_REPEATS ? o->repeats : SLOW_REPEATS;
    snprintf(arguments, sizeof arguments, "%d %d %d", p->l.n, o->repeats, slow);
    int rc = bench_python_open(&python, o->python, e);
    if (!rc) rc = write_matrix(python.data, p, e);
    if (!rc) rc = bench_python_run(&python, script, arguments, p->l.n, notes, rows, e);
    bench_python_close(&python);
    return rc;
}

// ---- Sizes

// All kinds of one size. The first matrix also serves the baselines, which need its values.
static int one_size(const options *o, int n, bool first, const upg_cpu_kernels *kernels, upg_pool *pool, bool python,
                    bench_rows *rows, upg_error *e) {
    for (int k = 0; k < N_KINDS; k++) {
        product p;
        size_t from = rows->n;
        char name[32];
        snprintf(name, sizeof name, "cpu_%s", kinds[k].name);
        int rc = product_new(&p, k, n, kernels, pool, e) ? -1 : measure(&p, name, o->repeats, rows, e);
        snprintf(name, sizeof name, "%s_%s", o->gpu, kinds[k].name);
        if (!rc && o->gpu) rc = bench_spmv_gpu(&p.w, name, o->repeats, pool, rows, e);
        if (!rc && !k && python) rc = baselines(o, &p, first, rows, e);
        upg_arena_free(&p.memory);
        if (!rc && cli_interrupted) rc = upg_fail(e, "interrupted");
        if (rc) return -1;
        for (size_t i = from; i < rows->n; i++) bench_print_row(o->output, "UPG_SpMV", &rows->row[i], i == 0);
    }
    return 0;
}

static int run_sizes(void *options_, upg_error *e) {
    const options *o = options_;
    const upg_cpu_kernels *kernels = upg_cpu_kernels_for(NULL, e);
    upg_pool *pool = kernels ? upg_pool_new(o->n_threads, e) : NULL;
    if (!pool) return -1;
    bench_rows rows = {0};
    bool python = !o->no_baselines && bench_python_is_there(o->python);
    if (!o->no_baselines && !python) fprintf(stderr, "%s is not there: no Python baselines\n", o->python);
    int rc = 0, threads = upg_pool_threads(pool);
    if (o->output == BENCH_TEXT) printf("%s, %d threads\n", kernels->isa, threads);
    if (o->output == BENCH_MARKDOWN)
        printf("| UPG_SpMV (%s, %d threads) | low | mid | high |\n|---|---|---|---|\n", kernels->isa, threads);
    if (o->output == BENCH_CSV) printf("name,size,low,mid,high\n");
    if (o->output == BENCH_JSON) printf("{\"isa\":\"%s\",\"threads\":%d,\"rows\":[", kernels->isa, threads);
    for (int i = 0; !rc && i < o->sizes.n; i++)
        rc = one_size(o, o->sizes.value[i], i == 0, kernels, pool, python, &rows, e);
    if (!rc) bench_print_exponents(o->output, "UPG_SpMV", &rows);
    bench_rows_free(&rows);
    upg_pool_free(pool);
    return rc;
}

// ---- The verb

static int set_sizes(const cli_option *opt, void *group, const char *text, upg_error *e) {
    if (bench_set_list(opt, group, text, e)) return -1;
    const bench_list *l = &((options *)group)->sizes;
    for (int i = 0; i < l->n; i++)
        if (l->value[i] % 256) return upg_fail(e, "--%s %s: multiples of 256", opt->name, text);
    return 0;
}

#define AT(field) .offset = offsetof(options, field)
static const cli_option table[] = {
    {"sizes", 0, "N,N,...", "sides of the matrices (default 512,1024,2048,4096,5120)", CLI_SET, AT(sizes), 256,
     MAX_SIZE, set_sizes},
    {"threads", 't', "N", "default: one a core", CLI_INT, AT(n_threads), 1, 1024},
    {"repeats", 'r', "N", "products measured a row (default 100)", CLI_INT, AT(repeats), 1, 100000},
    {"output", 'o', "FORMAT", "text (default), md, csv or json", CLI_SET, AT(output), .set = bench_set_output},
    {"no-baselines", 0, NULL, "without NumPy, SciPy and plain Python", CLI_FLAG, AT(no_baselines)},
    {"python", 0, "CMD", "the interpreter for them (default python3)", CLI_STRING, AT(python)},
    {0}};

static int run(int argc, char **argv) {
    options o = {.repeats = DEFAULT_REPEATS, .sizes = {{512, 1024, 2048, 4096, 5120}, 5}, .python = "python3"};
    int status = cli_parse(&cli_bench_spmv, argc, argv, &o, NULL);
    o.gpu = upg_backend_gpu();
    return status >= 0 ? status : bench_run(run_sizes, &o);
}

const cli_verb cli_bench_spmv = {
    .name = "bench spmv",
    .summary = "a matrix times a vector in every encoding, beside NumPy, SciPy and plain Python",
    .arguments = "[OPTIONS]",
    .about =
        "Rows: cpu_spmv (sparse, int8 values), cpu_sparse4 (sparse, 4-bit values), cpu_int8, cpu_trellis (3 bits);\n"
        "cuda_spmv and so on the same on an NVIDIA GPU, where --device is or finds one;\n"
        "scipy_csr, numpy_dense and python multiply cpu_spmv's matrix in f32. Each product takes an f32 vector to\n"
        "an f32 vector. Times are [low mid high]: 5th percentile, median and 95th percentile of the products\n"
        "measured, the matrix warm from those before. The last lines fit how time grows with the side N.\n",
    .devices = true,
    .groups = {{table, 0}},
    .run = run};
