// upg bench: the table of benchmarks, each a verb of its own in a file bench_NAME.c.
#include "cli/bench.h"
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    const cli_verb *verb;
} benches[] = {{"spmv", &cli_bench_spmv}};
enum { N_BENCHES = sizeof benches / sizeof *benches };

static void help(FILE *f) {
    fprintf(f, "usage: upg bench NAME [OPTIONS]\n\n");
    for (int i = 0; i < N_BENCHES; i++) fprintf(f, "  %-10s %s\n", benches[i].name, benches[i].verb->summary);
    fprintf(f, "\nupg bench NAME --help tells more.\n");
}

static int run(int argc, char **argv) {
    if (argc < 2) {
        help(stderr);
        return CLI_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        help(stdout);
        return CLI_OK;
    }
    for (int i = 0; i < N_BENCHES; i++)
        if (!strcmp(argv[1], benches[i].name)) return benches[i].verb->run(argc - 1, argv + 1);
    return cli_usage(&cli_bench, "%s: no such benchmark", argv[1]);
}

const cli_verb cli_bench = {
    .name = "bench", .summary = "measure speed: spmv", .arguments = "NAME [OPTIONS]", .about = "", .run = run};

// ---- Rows of results

void bench_rows_free(bench_rows *rows) {
    free(rows->row);
    *rows = (bench_rows){0};
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int bench_rows_add(bench_rows *rows, const char *name, int size, double *seconds, int n, upg_error *e) {
    bench_row *row = upg_resize(rows->row, rows->n + 1, sizeof *row, e);
    if (!row) return -1;
    rows->row = row;
    row += rows->n++;
    *row = (bench_row){.size = size};
    snprintf(row->name, sizeof row->name, "%s", name);
    qsort(seconds, (size_t)n, sizeof *seconds, by_value);
    row->low = seconds[(n - 1) / 20];
    row->mid = n % 2 ? seconds[n / 2] : (seconds[n / 2 - 1] + seconds[n / 2]) / 2;
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
