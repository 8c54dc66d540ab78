// What benchmarks share, and the table of those with a name: each is a verb of its own in a file bench_NAME.c. The one
// without a name is bench_model.c.
#include "cli/bench.h"
#include "engine/shape.h"
#include "program/numbers.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    const cli_verb *verb;
} benches[] = {
    {"layers", &cli_bench_layers}, {"ops", &cli_bench_ops}, {"spmv", &cli_bench_spmv}, {"stages", &cli_bench_stages}};

const cli_verb *bench_find(const char *name) {
    for (size_t i = 0; i < sizeof benches / sizeof *benches; i++)
        if (!strcmp(name, benches[i].name)) return benches[i].verb;
    return NULL;
}

int bench_run(int (*work)(void *options, upg_error *e), void *options) {
    upg_error e = {0};
    cli_catch_interrupt(false);
    if (!work(options, &e)) return CLI_OK;
    int status = cli_failed(&e);
    return cli_interrupted ? CLI_INTERRUPTED : status;
}

// ---- Options ----

int bench_set_output(const cli_option *o, void *group, const char *text, upg_error *e) {
    static const char *const names[] = {"text", "md", "csv", "json"};
    for (int i = 0; i < 4; i++)
        if (!strcmp(text, names[i])) {
            *(bench_output *)(void *)((char *)group + o->offset) = (bench_output)i;
            return 0;
        }
    return upg_fail(e, "--%s %s: text, md, csv or json", o->name, text);
}

int bench_set_list(const cli_option *o, void *group, const char *text, upg_error *e) {
    bench_list *l = (bench_list *)(void *)((char *)group + o->offset);
    l->n = 0;
    for (const char *at = text; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        char *end;
        long n = strtol(at, &end, 10);
        if (end == at || (*end && *end != ',') || (double)n < o->lo || (double)n > o->hi)
            return upg_fail(e, "--%s %s: whole numbers within %.0f..%.0f, separated by commas", o->name, text, o->lo,
                            o->hi);
        if (l->n == BENCH_LIST) return upg_fail(e, "--%s %s: at most %d", o->name, text, BENCH_LIST);
        l->value[l->n++] = (int)n;
    }
    return 0;
}

int bench_list_max(const bench_list *l) {
    int most = 0;
    for (int i = 0; i < l->n; i++)
        if (l->value[i] > most) most = l->value[i];
    return most;
}

int bench_set_shape(const cli_option *o, void *group, const char *text, upg_error *e) {
    if (!upg_shape_find(text)) return upg_fail(e, "--%s %s: %s", o->name, text, UPG_SHAPE_NAMES);
    ((bench_source *)group)->shape = text;
    return 0;
}

int bench_set_layer_bits(const cli_option *o, void *group, const char *text, upg_error *e) {
    char *end;
    double k = strtod(text, &end);
    bool half = k >= 2 && k <= 4 && 2 * k == floor(2 * k);
    if (end == text || *end || !(half || k == 8)) return upg_fail(e, "--%s %s: 2, 2.5, 3, 3.5, 4 or 8", o->name, text);
    ((bench_source *)group)->layer_bits = k;
    return 0;
}

#define AT(field) .offset = offsetof(bench_source, field)
const cli_option bench_source_options[] = {
    {"shape", 0, "NAME", "random weights of a shape: " UPG_SHAPE_NAMES, CLI_SET, .set = bench_set_shape},
    {"layers", 0, "N", "only so many layers of the shape", CLI_INT, AT(layers), 1, 1024},
    {"bits", 0, "B", "a weight of the shape, all of it, has at most (default 3.2, the layers 3)", CLI_DOUBLE, AT(bits),
     2, 9},
    {"layer-bits", 0, "K", "bits of the shape's layers: 2, 2.5, 3, 3.5, 4 or 8", CLI_SET, .set = bench_set_layer_bits},
    {0}};
#undef AT

int bench_source_check(const bench_source *s, const char *model, const cli_verb *verb) {
    if (s->shape && model) return cli_usage(verb, "%s: with --shape there is no MODEL", model);
    if (!s->shape && (s->layers || s->bits > 0 || s->layer_bits > 0))
        return cli_usage(verb, "--layers, --bits and --layer-bits need --shape");
    return -1;
}

upg_model *bench_source_open(const bench_source *s, const char *model, upg_error *e) {
    if (!s->shape) return cli_open_model(model, e);
    bool given = s->bits > 0 || s->layer_bits > 0;
    return upg_model_of_shape(upg_shape_find(s->shape), s->layers, given ? s->layer_bits : 3, given ? s->bits : 3.2, e);
}

const char *bench_source_name(const bench_source *s, const char *model, char out[96]) {
    const char *slash = model ? strrchr(model, '/') : NULL;
    if (!s->shape) return cli_plain(!model ? "default model" : slash && slash[1] ? slash + 1 : model, out, 96);
    int n = snprintf(out, 96, "%s shape", s->shape);
    if (s->layers) snprintf(out + n, 96 - (size_t)n, ", %d layer%s", s->layers, s->layers > 1 ? "s" : "");
    return out;
}

int32_t bench_token(const upg_model *m, int position) {
    return (int32_t)(upg_splitmix64(1, (uint64_t)position) % (uint64_t)upg_model_vocab_size(m));
}

// ---- Rows of times ----

void bench_rows_free(bench_rows *rows) {
    free(rows->row);
    *rows = (bench_rows){0};
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double bench_mean(const double *values, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += values[i];
    return sum / n;
}

double bench_deviation(const double *values, int n) {
    double mean = bench_mean(values, n), sum = 0;
    for (int i = 0; i < n; i++) sum += (values[i] - mean) * (values[i] - mean);
    return n > 1 ? sqrt(sum / (n - 1)) : 0;
}

int bench_rows_add(bench_rows *rows, const char *name, int size, double *seconds, int n, upg_error *e) {
    bench_row *row = upg_resize(rows->row, rows->n + 1, sizeof *row, e);
    if (!row) return -1;
    rows->row = row;
    row += rows->n++;
    *row = (bench_row){.size = size};
    snprintf(row->name, sizeof row->name, "%s", name);
    row->mid = bench_median(seconds, n);
    row->low = seconds[(n - 1) / 20];
    row->high = seconds[n - 1 - (n - 1) / 20];
    return 0;
}

const char *bench_time(double seconds, char out[32]) {
    static const struct {
        double unit;
        const char *name;
    } units[] = {{1, "s"}, {1e-3, "ms"}, {1e-6, "\302\265s"}, {1e-9, "ns"}};
    int i = 0;
    while (i < 3 && seconds < units[i].unit) i++;
    double value = seconds / units[i].unit;
    snprintf(out, 32, "%.*f %s", value < 10 ? 4 : value < 100 ? 3 : value < 1000 ? 2 : 1, value, units[i].name);
    return out;
}

// The slope of log time over log size among rows of one name; false with fewer than two sizes.
static bool exponent(const bench_rows *rows, const char *name, double *slope) {
    double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
    for (size_t i = 0; i < rows->n; i++) {
        if (strcmp(rows->row[i].name, name)) continue;
        double x = log(rows->row[i].size), y = log(rows->row[i].mid);
        n++;
        sx += x;
        sy += y;
        sxx += x * x;
        sxy += x * y;
    }
    double spread = n * sxx - sx * sx;
    *slope = (n * sxy - sx * sy) / spread;
    return spread > 1e-9;
}

static bool seen_before(const bench_rows *rows, size_t i) {
    for (size_t k = 0; k < i; k++)
        if (!strcmp(rows->row[k].name, rows->row[i].name)) return true;
    return false;
}

void bench_print_row(bench_output o, const char *group, const bench_row *r, bool first) {
    char a[32], b[32], c[32];
    switch (o) {
    case BENCH_TEXT: {
        char name[64];
        snprintf(name, sizeof name, "%s/%s_%d", group, r->name, r->size);
        printf("%-32s time:   [%s %s %s]\n", name, bench_time(r->low, a), bench_time(r->mid, b),
               bench_time(r->high, c));
        break;
    }
    case BENCH_MARKDOWN:
        printf("| %s_%d | %s | %s | %s |\n", r->name, r->size, bench_time(r->low, a), bench_time(r->mid, b),
               bench_time(r->high, c));
        break;
    case BENCH_CSV: printf("%s_%d,%d,%.9f,%.9f,%.9f\n", r->name, r->size, r->size, r->low, r->mid, r->high); break;
    case BENCH_JSON:
        printf("%s{\"name\":\"%s_%d\",\"size\":%d,\"low\":%.9f,\"mid\":%.9f,\"high\":%.9f}", first ? "" : ",", r->name,
               r->size, r->size, r->low, r->mid, r->high);
        break;
    }
    fflush(stdout);
}

void bench_print_exponents(bench_output o, const char *group, const bench_rows *rows) {
    double slope;
    bool first = true;
    if (o == BENCH_CSV) return;
    if (o == BENCH_JSON) printf("],\"exponents\":{");
    if (o == BENCH_MARKDOWN) printf("\n| %s | time grows as N to the |\n|---|---|\n", group);
    for (size_t i = 0; i < rows->n; i++) {
        if (seen_before(rows, i) || !exponent(rows, rows->row[i].name, &slope)) continue;
        if (o == BENCH_JSON) printf("%s\"%s\":%.3f", first ? "" : ",", rows->row[i].name, slope);
        if (o == BENCH_MARKDOWN) printf("| %s | %.2f |\n", rows->row[i].name, slope);
        if (o == BENCH_TEXT)
            printf("%s/%-*s time grows as N^%.2f\n", group, (int)(31 - strlen(group)), rows->row[i].name, slope);
        first = false;
    }
    if (o == BENCH_JSON) printf("}}\n");
}
