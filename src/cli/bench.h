// What benchmarks share: rows of times, options, and what the machine gives.
#pragma once
#include "backend/backend.h"
#include "cli/cli.h"

extern const cli_verb cli_bench_layers, cli_bench_ops, cli_bench_spmv, cli_bench_stages;
// The benchmark of that name, a verb of its own, or NULL.
const cli_verb *bench_find(const char *name);

// Runs work(options) and turns its failure, or an interrupt, into an exit status.
int bench_run(int (*work)(void *options, upg_error *e), void *options);

// ---- Options ----

typedef enum bench_output { BENCH_TEXT, BENCH_MARKDOWN, BENCH_CSV, BENCH_JSON } bench_output;
int bench_set_output(const cli_option *o, void *group, const char *text, upg_error *e);

enum { BENCH_LIST = 16 };
typedef struct bench_list {
    int value[BENCH_LIST];
    int n;
} bench_list;
// "512,1024": whole numbers within the option's lo..hi.
int bench_set_list(const cli_option *o, void *group, const char *text, upg_error *e);
int bench_list_max(const bench_list *l);

typedef struct bench_source { // which model
    const char *shape;        // NULL: a file
    int layers;
    double bits, layer_bits;
} bench_source;
extern const cli_option bench_source_options[];
int bench_set_shape(const cli_option *o, void *source, const char *text, upg_error *e);
int bench_set_layer_bits(const cli_option *o, void *source, const char *text, upg_error *e);
// -1, or the exit status if options and MODEL do not go together.
int bench_source_check(const bench_source *s, const char *model, const cli_verb *verb);
upg_model *bench_source_open(const bench_source *s, const char *model, upg_error *e);
// "phi-4 shape, 2 layers", or the file's name.
const char *bench_source_name(const bench_source *s, const char *model, char out[96]);

int32_t bench_token(const upg_model *m, int position); // a random one, the same every time

// ---- Rows of times ----

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
// Adds the row of a square coded matrix times a vector on the GPU that UPG_DEVICE or "auto" leads to.
int bench_spmv_gpu(const upg_tensor *w, const char *name, int repeats, upg_pool *pool, bench_rows *rows, upg_error *e);

// "GROUP/NAME_SIZE time: [low mid high]"; then, for each name that has several sizes, how time grows with size. In JSON
// rows are elements of a list that the exponents close, and the object around it.
void bench_print_row(bench_output o, const char *group, const bench_row *row, bool first);
void bench_print_exponents(bench_output o, const char *group, const bench_rows *rows);

const char *bench_time(double seconds, char out[32]); // "1.0812 ms"
double bench_median(double *values, int n);           // they are put in order
double bench_mean(const double *values, int n);
double bench_deviation(const double *values, int n); // of the sample; 0 for one value

// ---- Python beside it (bench_python.c) ----

bool bench_python_is_there(const char *command);
typedef struct bench_python {
    const char *command;
    char folder[256], script[300], data[300]; // data: a file that the script may be given
} bench_python;
int bench_python_open(bench_python *p, const char *command, upg_error *e);
// Runs a script whose arguments are data's path and what arguments says. It prints lines "row NAME SECONDS...", which
// become rows of that size, and "note ...", which are shown on standard error if wanted.
int bench_python_run(bench_python *p, const char *script, const char *arguments, int size, bool notes, bench_rows *rows,
                     upg_error *e);
void bench_python_close(bench_python *p);

// ---- The machine (bench_machine.c) ----

enum { BENCH_MEMORY = 512 << 20 }; // bytes read to measure bandwidth, more than caches hold
// Bytes a second that all threads of a pool read from memory. block: [BENCH_MEMORY] of bench_memory_new.
double bench_bandwidth(const uint8_t *block, upg_pool *pool);
uint8_t *bench_memory_new(upg_error *e);
void bench_memory_free(uint8_t *block);

double bench_peak_memory(void); // bytes of this process that lay in memory at most

enum { BENCH_DOMAINS = 16 };
typedef struct bench_energy { // counters of the processors' packages
    struct {
        char path[288];
        double range; // where it starts again, microjoules
        double last;
    } domain[BENCH_DOMAINS];
    int n; // 0: not readable
} bench_energy;
#define BENCH_POWERCAP "/sys/class/powercap"
void bench_energy_open(bench_energy *m, const char *folder);
double bench_energy_joules(bench_energy *m); // since opened or asked before; 0 if not readable

// ---- Ops one by one (bench_profile.c) ----

// One sequence in a backend of its own, which times every op.
typedef struct bench_profile {
    const upg_model *model;
    upg_pool *pool;
    upg_backend *backend;
    double *seconds; // [n_ops] of the last run
    upg_arena memory;
    int32_t *tokens, *positions, *table; // [max_rows], [max_rows], [blocks]
    const int32_t **blocks;              // [max_rows]
    uint8_t *wants;                      // [max_rows]
    int max_rows;
} bench_profile;
int bench_profile_new(bench_profile *p, const upg_model *m, int n_threads, int max_rows, int n_positions, upg_error *e);
void bench_profile_free(bench_profile *p);
// Random tokens at positions first..first+n-1, n at most max_rows; those before must have been run. logits: of the
// last.
int bench_profile_run(bench_profile *p, int first, int n, bool logits, upg_error *e);
int bench_profile_fill(bench_profile *p, int n, upg_error *e); // positions 0..n-1
// Products a second of the fastest matrix over a batch of many rows.
int bench_peak_products(const upg_model *m, int n_threads, double *speed, upg_error *e);

// ---- Pictures (bench_roofline.c) ----

typedef struct bench_point {
    char name[96];
    double intensity, speed; // products a byte of weights, products a second
} bench_point;
// bandwidth: bytes a second; peak: products a second.
int bench_roofline_write(const char *path, const char *title, const bench_point *points, int n, double bandwidth,
                         double peak, upg_error *e);
