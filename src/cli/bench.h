// What benchmarks share: rows of times.
#pragma once
#include "cli/cli.h"

extern const cli_verb cli_bench_spmv;

typedef struct bench_row {
    char name[32];
    int size;
    double low, mid, high; // seconds: 5th percentile, median, 95th percentile
} bench_row;
typedef struct bench_rows {
    bench_row *row; // [n]
    size_t n;
} bench_rows;
// seconds: [n] samples, n at least 1; they are put in order.
int bench_rows_add(bench_rows *rows, const char *name, int size, double *seconds, int n, upg_error *e);
void bench_rows_free(bench_rows *rows);

const char *bench_time(double seconds, char out[32]); // "1.0812 ms"
