// upg bench layers: milliseconds a layer of a decoder, beside NumPy and plain Python, and how they grow with the hidden
// size and the number of layers.
//
// One token at position 0, so that a layer is its matrices and what stands between them. Caches are emptied before
// each: in a whole model a layer's weights come from memory.
#include "cli/bench.h"
#include "engine/shape.h"
#include <stdlib.h>
#include <string.h>

enum { SLICE = 256, WORDS = 16 };

typedef struct options {
    bench_source source; // of which shape and layer_bits count; first, where its setters look for it
    bench_list sizes, counts;
    int n_threads, repeats;
    bench_output output;
    bool no_baselines;
    const char *python;
} options;

typedef struct bench {
    const options *o;
    upg_shape shape;
    uint8_t *block; // what empties the caches
    const char *isa;
    int n_threads;
    bench_rows engines, rows;
} bench;

// ---- UPG ----

static double layer_seconds(const bench_profile *p) {
    double sum = 0;
    for (int i = 0; i < p->model->program->n_ops; i++)
        if (p->model->program->ops[i].kind != UPG_OP_EMBED) sum += p->seconds[i];
    return sum;
}

// Without logits: the head, small as it is here, does not run.
static int measure(const bench *b, bench_profile *p, double *seconds, upg_error *e) {
    for (int k = -1; k < b->o->repeats; k++) {
        bench_bandwidth(b->block, p->pool);
        if (bench_profile_run(p, 0, 1, false, e)) return -1;
        if (k >= 0) seconds[k] = layer_seconds(p);
    }
    return 0;
}

static int add_row(bench *b, const upg_shape *shape, int layers, const char *name, int size, bench_rows *rows,
                   upg_error *e) {
    upg_shape small = *shape;
    small.vocabulary = WORDS;
    bench_profile p = {0};
    double *seconds = upg_alloc((size_t)b->o->repeats, sizeof *seconds, e);
    upg_model *m = seconds ? upg_model_of_shape(&small, layers, b->o->source.layer_bits, 0, e) : NULL;
    int rc = m ? bench_profile_new(&p, m, b->o->n_threads, 1, 1, e) : -1;
    if (!rc) rc = measure(b, &p, seconds, e);
    if (!rc) rc = bench_rows_add(rows, name, size, seconds, b->o->repeats, e);
    if (!rc) b->isa = p.backend->api->path(p.backend);
    bench_profile_free(&p);
    upg_model_free(m);
    free(seconds);
    return rc;
}

static upg_shape scaled(const upg_shape *s, int hidden) {
    upg_shape to = *s;
    to.head_dim = 128;
    to.hidden = hidden;
    to.ffn = hidden / 2 * 7;
    to.heads = hidden / to.head_dim;
    to.kv_heads = to.heads % 4 ? 1 : to.heads / 4;
    return to;
}

// ---- Baselines ----

// Arguments: the hidden and feed-forward sizes, heads, KV heads, a head's size, threads, repeats, rows for plain
// Python.
static const char script[] = "import os, sys, time, random\n"
                             "h, f, heads, kv_heads, dim, threads, repeats, part = map(int, sys.argv[2:])\n"
                             "for name in 'OPENBLAS', 'OMP', 'MKL': os.environ[name + '_NUM_THREADS'] = str(threads)\n"
                             "q, kv = heads * dim, kv_heads * dim\n"
                             "shapes = (q + 2 * kv, h), (h, q), (2 * f, h), (h, f)\n"
                             "def measure(name, run, before, scale):\n"
                             "    t = []\n"
                             "    for i in range(repeats + 1):\n"
                             "        before()\n"
                             "        start = time.perf_counter()\n"
                             "        run()\n"
                             "        if i: t.append((time.perf_counter() - start) * scale)\n"
                             "    print('row', name, *t, flush=True)\n"
                             "try:\n"
                             "    import numpy as np\n"
                             "    rng = np.random.default_rng(1)\n"
                             "    def matrix(shape):\n"
                             "        w = rng.standard_normal(shape, np.float32)\n"
                             "        w *= np.float32(shape[1] ** -.5)\n"
                             "        return w\n"
                             "    qkv, o, gate_up, down = map(matrix, shapes)\n"
                             "    x = rng.standard_normal(h, np.float32)\n"
                             "    other = np.ones(1 << 26, np.float32)\n"
                             "    def norm(x): return x / np.sqrt((x * x).mean() + np.float32(1e-5))\n"
                             "    def layer():\n"
                             "        v = (qkv @ norm(x))[q + kv:].reshape(kv_heads, dim)\n"
                             "        y = x + o @ v.repeat(heads // kv_heads, 0).ravel()\n"
                             "        g, u = np.split(gate_up @ norm(y), 2)\n"
                             "        return y + down @ (g / (1 + np.exp(-g)) * u)\n"
                             "    measure('numpy', layer, other.sum, 1)\n"
                             "    del qkv, o, gate_up, down, other\n"
                             "except ImportError: print('note NumPy is not installed: no NumPy baseline')\n"
                             "part = min(part, 2 * f)\n"
                             "rows = [[random.gauss(0, 1) for _ in range(h)] for _ in range(part)]\n"
                             "x = [random.gauss(0, 1) for _ in range(h)]\n"
                             "def plain(): return [sum([w * v for w, v in zip(row, x)]) for row in rows]\n"
                             "measure('python', plain, lambda: None, sum(r * c for r, c in shapes) / (part * h))\n";

static int baselines(bench *b, upg_error *e) {
    const options *o = b->o;
    const upg_shape *s = &b->shape;
    char arguments[160];
    if (o->no_baselines) return 0;
    if (!bench_python_is_there(o->python)) {
        fprintf(stderr, "%s is not there: no Python baselines\n", o->python);
        return 0;
    }
    snprintf(arguments, sizeof arguments, "%d %d %d %d %d %d %d %d", s->hidden, s->ffn, s->heads, s->kv_heads,
             s->head_dim, b->n_threads, o->repeats, SLICE);
    bench_python python;
    int rc = bench_python_open(&python, o->python, e);
    if (!rc) rc = bench_python_run(&python, script, arguments, s->hidden, true, &b->engines, e);
    bench_python_close(&python);
    return rc;
}

// ---- Results ----

static void describe(const bench *b, const char *name, char out[64]) {
    const upg_shape *s = &b->shape;
    int part = 2 * s->ffn < SLICE ? 2 * s->ffn : SLICE,
        rows = (s->heads + 2 * s->kv_heads) * s->head_dim + 2 * s->hidden + 2 * s->ffn;
    if (!strcmp(name, "upg"))
        snprintf(out, 64, "UPG");
    else if (!strcmp(name, "numpy"))
        snprintf(out, 64, "NumPy, dense f32");
    else
        snprintf(out, 64, "Python, from %d of %d rows", part, rows);
}

static void print_engine(const bench *b, const bench_row *r, bool first) {
    char what[64], layer[32], all[32];
    double model = r->mid * b->shape.layers;
    describe(b, r->name, what);
    bench_time(r->mid, layer);
    bench_time(model, all);
    switch (b->o->output) {
    case BENCH_TEXT: printf("%-32s %12s %12s %10.3f\n", what, layer, all, 1 / model); break;
    case BENCH_MARKDOWN: printf("| %s | %s | %s | %.3f |\n", what, layer, all, 1 / model); break;
    case BENCH_CSV: bench_print_row(BENCH_CSV, "", r, first); break;
    case BENCH_JSON:
        printf("%s{\"name\":\"%s\",\"what\":\"%s\",\"layer\":%.9f,\"model\":%.9f,\"tokens_a_second\":%.4f}",
               first ? "" : ",", r->name, what, r->mid, model, 1 / model);
        break;
    }
    fflush(stdout);
}

static void print_engines(const bench *b) {
    const upg_shape *s = &b->shape;
    bench_output o = b->o->output;
    char head[160], all[32];
    snprintf(head, sizeof head, "%s's layer, %g bits; %s, %d threads; one token at position 0", s->name,
             b->o->source.layer_bits, b->isa, b->n_threads);
    snprintf(all, sizeof all, "%d layers", s->layers);
    if (o == BENCH_TEXT) printf("%s\n%-32s %12s %12s %10s\n", head, "", "a layer", all, "tok/s");
    if (o == BENCH_MARKDOWN) printf("**%s**\n\n| | a layer | %s | tok/s |\n|---|---:|---:|---:|\n", head, all);
    if (o == BENCH_CSV) printf("name,size,low,mid,high\n");
    if (o == BENCH_JSON)
        printf("{\"shape\":\"%s\",\"layers\":%d,\"isa\":\"%s\",\"threads\":%d,\"engines\":[", s->name, s->layers,
               b->isa, b->n_threads);
    for (size_t i = 0; i < b->engines.n; i++) print_engine(b, &b->engines.row[i], i == 0);
    if (o == BENCH_TEXT) printf("\n");
    if (o == BENCH_MARKDOWN) printf("\n| UPG_Layers | low | mid | high |\n|---|---|---|---|\n");
    if (o == BENCH_JSON) printf("],\"rows\":[");
}

static int scale(bench *b, upg_error *e) {
    const options *o = b->o;
    for (int i = 0; i < o->sizes.n + o->counts.n; i++) {
        bool by_size = i < o->sizes.n;
        int n = by_size ? o->sizes.value[i] : o->counts.value[i - o->sizes.n];
        upg_shape s = by_size ? scaled(&b->shape, n) : b->shape;
        if (add_row(b, &s, by_size ? 1 : n, by_size ? "hidden" : "layers", n, &b->rows, e)) return -1;
        bench_print_row(o->output, "UPG_Layers", &b->rows.row[i], i == 0);
    }
    bench_print_exponents(o->output, "UPG_Layers", &b->rows);
    return 0;
}

static int work(void *options_, upg_error *e) {
    options *o = options_;
    bench b = {.o = o, .shape = *upg_shape_find(o->source.shape)};
    b.n_threads = o->n_threads ? o->n_threads : upg_cpu_count();
    b.block = bench_memory_new(e);
    int rc = b.block ? add_row(&b, &b.shape, 1, "upg", b.shape.hidden, &b.engines, e) : -1;
    if (!rc) rc = baselines(&b, e);
    if (!rc) print_engines(&b);
    if (!rc) rc = scale(&b, e);
    bench_rows_free(&b.engines);
    bench_rows_free(&b.rows);
    bench_memory_free(b.block);
    return rc;
}

static int set_sizes(const cli_option *o, void *group, const char *text, upg_error *e) {
    if (bench_set_list(o, group, text, e)) return -1;
    const bench_list *l = &((options *)group)->sizes;
    for (int i = 0; i < l->n; i++)
        if (l->value[i] % 128) return upg_fail(e, "--%s %s: multiples of 128", o->name, text);
    return 0;
}

#define AT(field) .offset = offsetof(options, field)
static const cli_option table[] = {
    {"shape", 0, "NAME", "default phi-4; " UPG_SHAPE_NAMES, CLI_SET, .set = bench_set_shape},
    {"layer-bits", 0, "K", "2, 2.5, 3 (default), 3.5, 4 or 8", CLI_SET, .set = bench_set_layer_bits},
    {"sizes", 0, "N,N,...", "hidden sizes to scale to (default 512,1024,2048,4096,5120)", CLI_SET, AT(sizes), 128,
     16384, set_sizes},
    {"counts", 0, "N,N,...", "numbers of layers to scale to (default 1,2,4,8)", CLI_SET, AT(counts), 1, 1024,
     bench_set_list},
    {"threads", 't', "N", "default: one a core", CLI_INT, AT(n_threads), 1, 1024},
    {"repeats", 'r', "N", "tokens measured a row (default 10)", CLI_INT, AT(repeats), 1, 100},
    {"output", 'o', "FORMAT", "text (default), md, csv or json", CLI_SET, AT(output), .set = bench_set_output},
    {"no-baselines", 0, NULL, "without NumPy and plain Python", CLI_FLAG, AT(no_baselines)},
    {"python", 0, "CMD", "the interpreter for them (default python3)", CLI_STRING, AT(python)},
    {0}};

static int run(int argc, char **argv) {
    options o = {.source = {.shape = "phi-4", .layer_bits = 3},
                 .sizes = {{512, 1024, 2048, 4096, 5120}, 5},
                 .counts = {{1, 2, 4, 8}, 4},
                 .repeats = 10,
                 .python = "python3"};
    int status = cli_parse(&cli_bench_layers, argc, argv, &o, NULL);
    return status >= 0 ? status : bench_run(work, &o);
}

const cli_verb cli_bench_layers = {
    .name = "bench layers",
    .summary = "time of a layer, beside NumPy and plain Python, and how it grows",
    .arguments = "[OPTIONS]",
    .about =
        "A layer of the shape with random weights, for one token at position 0; medians. NumPy's has dense f32\n"
        "matrices. Plain Python multiplies 256 rows of the layer's matrices, and its time is scaled to all of them.\n"
        "tok/s is that of all layers, without embedding and head. Caches are emptied before each token.\n"
        "Then a layer at several hidden sizes (feed-forward 3.5 times that, heads of 128, a fourth as many KV\n"
        "heads), and several layers, each as [low mid high]: 5th percentile, median and 95th percentile.\n",
    .groups = {{table, 0}},
    .run = run};
