// upg bench ops: where the time of a token goes, op by op, for one row and for a batch.
#include "cli/bench.h"
#include "format/json.h"
#include <stdlib.h>
#include <string.h>

typedef struct options {
    bench_source source;
    const char *model;
    int depth, rows, n_threads, repeats;
    bench_output output;
} options;

// Ops of one kind; linear layers apart by their tensor's name without its layer.
typedef struct group {
    char name[64];
    int n_ops;
    double weights[2];  // of its matrices: those for all rows, and for the one with logits only
    double *seconds[2]; // [repeats] for one row and for a batch
    double time[2];     // their medians
} group;

typedef struct table {
    const options *o;
    const char *model, *isa;
    int n_threads;
    group *groups; // [n]
    int n;
    double total[2];
} table;

// "model.layers.3.mlp.down_proj.weight" is "mlp.down_proj".
static void short_name(const char *tensor, char out[64]) {
    int n = 0;
    if (sscanf(tensor, "model.layers.%*d.%n", &n) == 0 && n) tensor += n;
    char plain[64];
    size_t size = strlen(cli_plain(tensor, plain, sizeof plain)), end = strlen(".weight");
    if (size > end && !strcmp(plain + size - end, ".weight")) plain[size - end] = 0;
    memcpy(out, plain, sizeof plain);
}

static void group_name(const upg_program *p, const upg_op *op, char out[64]) {
    static const char *const names[] = {
        [UPG_OP_EMBED] = "embed",         [UPG_OP_RMSNORM] = "rmsnorm", [UPG_OP_HEAD_NORM] = "head norm",
        [UPG_OP_QUANTISE] = "quantise",   [UPG_OP_BIAS] = "bias",       [UPG_OP_KV] = "kv",
        [UPG_OP_ATTENTION] = "attention", [UPG_OP_SWIGLU] = "swiglu",   [UPG_OP_ADD] = "add",
        [UPG_OP_GATHER] = "gather"};
    if (op->kind == UPG_OP_LINEAR)
        short_name(p->weights[op->weight]->name, out);
    else
        snprintf(out, 64, "%s", names[op->kind]);
}

static group *find_group(table *t, const char *name, upg_error *e) {
    for (int i = 0; i < t->n; i++)
        if (!strcmp(t->groups[i].name, name)) return &t->groups[i];
    group *g = upg_resize(t->groups, (size_t)t->n + 1, sizeof *g, e);
    if (!g) return NULL;
    t->groups = g;
    g += t->n++;
    *g = (group){0};
    snprintf(g->name, sizeof g->name, "%s", name);
    for (int k = 0; k < 2; k++)
        if (!(g->seconds[k] = upg_alloc((size_t)t->o->repeats, sizeof(double), e))) return NULL;
    return g;
}

static int make_groups(table *t, const upg_program *p, upg_error *e) {
    char name[64];
    bool gathered = false;
    for (int i = 0; i < p->n_ops; i++) {
        group_name(p, &p->ops[i], name);
        group *g = find_group(t, name, e);
        if (!g) return -1;
        gathered |= p->ops[i].kind == UPG_OP_GATHER;
        g->n_ops++;
        if (p->ops[i].kind != UPG_OP_LINEAR) continue;
        g->weights[gathered] += (double)p->weights[p->ops[i].weight]->rows * p->ops[i].n;
    }
    return 0;
}

static int measure(table *t, bench_profile *p, int repetition, int wide, upg_error *e) {
    const upg_program *program = p->model->program;
    char name[64];
    if (bench_profile_run(p, t->o->depth, wide ? t->o->rows : 1, true, e)) return -1;
    if (repetition < 0) return 0; // to warm up
    for (int i = 0; i < program->n_ops; i++) {
        group_name(program, &program->ops[i], name);
        find_group(t, name, e)->seconds[wide][repetition] += p->seconds[i];
    }
    return 0;
}

static void sum_up(table *t) {
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < t->n; i++) {
            t->groups[i].time[k] = bench_median(t->groups[i].seconds[k], t->o->repeats);
            t->total[k] += t->groups[i].time[k];
        }
}

// Weights a second for one row, products a second for a batch.
static double speed(const table *t, const group *g, int wide) {
    return (g->weights[0] * (wide ? t->o->rows : 1) + g->weights[1]) / g->time[wide];
}

// ---- The table ----

static void print_group(const table *t, const group *g, bool first) {
    char cell[2][32] = {"", ""};
    double us[2] = {g->time[0] * 1e6, g->time[1] * 1e6}, share[2];
    for (int k = 0; k < 2; k++) {
        share[k] = g->time[k] / t->total[k];
        if (g->weights[0] + g->weights[1] > 0) snprintf(cell[k], sizeof cell[k], "%.2f", speed(t, g, k) * 1e-9);
    }
    switch (t->o->output) {
    case BENCH_TEXT:
        printf("%-28s %4d  %11.1f %5.1f%% %10s  %12.1f %5.1f%% %8s\n", g->name, g->n_ops, us[0], 100 * share[0],
               cell[0], us[1], 100 * share[1], cell[1]);
        break;
    case BENCH_MARKDOWN:
        printf("| %s | %d | %.1f | %.1f%% | %s | %.1f | %.1f%% | %s |\n", g->name, g->n_ops, us[0], 100 * share[0],
               cell[0], us[1], 100 * share[1], cell[1]);
        break;
    case BENCH_CSV:
        printf("%s,%d,%.3f,%.5f,%s,%.3f,%.5f,%s\n", g->name, g->n_ops, us[0], share[0], cell[0], us[1], share[1],
               cell[1]);
        break;
    case BENCH_JSON:
        printf("%s{\"op\":\"%s\",\"ops\":%d,\"row_us\":%.3f,\"row_share\":%.5f,\"row_gweights\":%s,\"batch_us\":%.3f,"
               "\"batch_share\":%.5f,\"batch_gmacs\":%s}",
               first ? "" : ",", g->name, g->n_ops, us[0], share[0], *cell[0] ? cell[0] : "null", us[1], share[1],
               *cell[1] ? cell[1] : "null");
        break;
    }
}

static int print_table(const table *t, upg_error *e) {
    const options *o = t->o;
    char name[96];
    upg_buf quoted = {0};
    bench_source_name(&o->source, o->model, name);
    upg_json_quote(&quoted, name, strlen(name));
    int rc = upg_buf_check(&quoted, e);
    if (rc) return -1;
    switch (o->output) {
    case BENCH_TEXT:
        printf("%s; %s, %d threads; at position %d, one row and a batch of %d\n", name, t->isa, t->n_threads, o->depth,
               o->rows);
        printf("%-28s %4s  %11s %6s %10s  %12s %6s %8s\n", "op", "ops", "us a row", "share", "Gweights/s", "us a batch",
               "share", "GMAC/s");
        break;
    case BENCH_MARKDOWN:
        printf("**%s; %s, %d threads; at position %d, one row and a batch of %d**\n\n", name, t->isa, t->n_threads,
               o->depth, o->rows);
        printf("| op | ops | us a row | share | Gweights/s | us a batch | share | GMAC/s |\n"
               "|---|---:|---:|---:|---:|---:|---:|---:|\n");
        break;
    case BENCH_CSV: printf("op,ops,row_us,row_share,row_gweights,batch_us,batch_share,batch_gmacs\n"); break;
    case BENCH_JSON:
        printf("{\"model\":%s,\"isa\":\"%s\",\"threads\":%d,\"depth\":%d,\"rows\":%d,\"ops\":[", quoted.data, t->isa,
               t->n_threads, o->depth, o->rows);
        break;
    }
    upg_buf_free(&quoted);
    for (int i = 0; i < t->n; i++) print_group(t, &t->groups[i], i == 0);
    if (o->output == BENCH_JSON) printf("],\"row_us\":%.3f,\"batch_us\":%.3f}\n", t->total[0] * 1e6, t->total[1] * 1e6);
    if (o->output == BENCH_TEXT)
        printf("%-28s %4s  %11.1f %18s %12.1f\n", "all", "", t->total[0] * 1e6, "", t->total[1] * 1e6);
    if (o->output == BENCH_MARKDOWN) printf("| all | | %.1f | | | %.1f | | |\n", t->total[0] * 1e6, t->total[1] * 1e6);
    return 0;
}

// ---- The verb ----

static int measure_all(table *t, bench_profile *p, upg_error *e) {
    if (make_groups(t, p->model->program, e) || bench_profile_fill(p, t->o->depth, e)) return -1;
    for (int k = -1; k < t->o->repeats; k++)
        if (measure(t, p, k, 0, e) || measure(t, p, k, 1, e)) return -1;
    sum_up(t);
    return 0;
}

static int work(void *options_, upg_error *e) {
    const options *o = options_;
    bench_profile p = {0};
    table t = {.o = o};
    upg_model *m = bench_source_open(&o->source, o->model, e);
    int rc = m ? 0 : -1;
    if (!rc && o->depth + o->rows > m->config.max_positions)
        rc = upg_fail(e, "%d positions and %d rows: the model was made for at most %d", o->depth, o->rows,
                      m->config.max_positions);
    if (!rc) rc = bench_profile_new(&p, m, o->n_threads, o->rows, o->depth + o->rows, e);
    if (!rc) rc = measure_all(&t, &p, e);
    if (!rc) {
        t.isa = p.backend->api->path(p.backend);
        t.n_threads = upg_pool_threads(p.pool);
        rc = print_table(&t, e);
    }
    for (int i = 0; i < t.n; i++) {
        free(t.groups[i].seconds[0]);
        free(t.groups[i].seconds[1]);
    }
    free(t.groups);
    bench_profile_free(&p);
    upg_model_free(m);
    return rc;
}

#define AT(field) .offset = offsetof(options, field)
static const cli_option options_table[] = {
    {"depth", 'd', "N", "positions that are there before (default 0)", CLI_INT, AT(depth), 0, 1 << 24},
    {"rows", 0, "N", "of the batch (default 512)", CLI_INT, AT(rows), 1, 4096},
    {"threads", 't', "N", "default: one a core", CLI_INT, AT(n_threads), 1, 1024},
    {"repeats", 'r', "N", "repetitions, of which medians are shown (default 5)", CLI_INT, AT(repeats), 1, 1000},
    {"output", 'o', "FORMAT", "text (default), md, csv or json", CLI_SET, AT(output), .set = bench_set_output},
    {0}};

static int run(int argc, char **argv) {
    options o = {.rows = 512, .repeats = 5};
    int status = cli_parse(&cli_bench_ops, argc, argv, &o, &o.model);
    if (status < 0) status = bench_source_check(&o.source, o.model, &cli_bench_ops);
    return status >= 0 ? status : bench_run(work, &o);
}

const cli_verb cli_bench_ops = {
    .name = "bench ops",
    .summary = "where the time of a token goes, op by op",
    .arguments = "[MODEL] [OPTIONS]",
    .about =
        "Ops of all layers together, linear layers by their tensor; for one row at a position, and for a batch of "
        "rows\n"
        "from there on, of which the last has logits. Ops that a backend runs as one count as the first of them.\n",
    .devices = true,
    .groups = {{options_table, 0}, {bench_source_options, offsetof(options, source)}},
    .max_args = 1,
    .run = run};
