// What the machine gives: read bandwidth, memory, energy.
#include "cli/bench.h"
#include <dirent.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum { CHUNK = 1 << 20, PASSES = 3 };

uint8_t *bench_memory_new(upg_error *e) {
    uint8_t *p = mmap(NULL, BENCH_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        upg_fail(e, "no memory for %d bytes to read", BENCH_MEMORY);
        return NULL;
    }
    madvise(p, BENCH_MEMORY, MADV_HUGEPAGE);
    memset(p, 1, BENCH_MEMORY); // pages that were never written are one page of zeros
    return p;
}

void bench_memory_free(uint8_t *block) {
    if (block) munmap(block, BENCH_MEMORY);
}

typedef struct reading {
    const uint8_t *block;
    atomic_uint_least64_t sum; // so that reading is not for nothing
} reading;

static void read_task(void *ctx, int task, int thread) {
    (void)thread;
    reading *r = ctx;
    const uint64_t *p = (const uint64_t *)(const void *)(r->block + (size_t)task * CHUNK);
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < CHUNK / 8; i += 8)
        for (size_t k = 0; k < 8; k++) sum[k] ^= p[i + k];
    for (size_t k = 0; k < 8; k++) atomic_fetch_xor_explicit(&r->sum, sum[k], memory_order_relaxed);
}

double bench_bandwidth(const uint8_t *block, upg_pool *pool) {
    reading r = {.block = block};
    double best = 0;
    for (int i = 0; i < PASSES; i++) {
        double start = upg_now();
        upg_pool_run(pool, read_task, &r, BENCH_MEMORY / CHUNK);
        double speed = BENCH_MEMORY / (upg_now() - start);
        if (speed > best) best = speed;
    }
    return best;
}

// VmHWM first: ru_maxrss also counts what the program that started us had.
double bench_peak_memory(void) {
    char line[128];
    double kilobytes = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && kilobytes < 0 && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lf kB", &kilobytes) != 1) kilobytes = -1;
    if (f) fclose(f);
    struct rusage u;
    if (kilobytes < 0 && !getrusage(RUSAGE_SELF, &u)) kilobytes = (double)u.ru_maxrss;
    return kilobytes * 1024;
}

static double read_number(const char *folder, const char *name) {
    char path[320];
    double x = -1;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%lf", &x) != 1) x = -1;
    if (f) fclose(f);
    return x;
}

// Packages are intel-rapl:N (AMD's too); intel-rapl:N:M are parts of them and would count twice.
static bool is_package(const char *name) {
    static const char prefix[] = "intel-rapl:";
    size_t n = sizeof prefix - 1;
    return !strncmp(name, prefix, n) && name[n] && !strchr(name + n, ':');
}

void bench_energy_open(bench_energy *m, const char *folder) {
    *m = (bench_energy){0};
    DIR *d = opendir(folder);
    for (struct dirent *entry; d && m->n < BENCH_DOMAINS && (entry = readdir(d));) {
        if (!is_package(entry->d_name)) continue;
        char *path = m->domain[m->n].path;
        snprintf(path, sizeof m->domain->path, "%.200s/%.80s", folder, entry->d_name);
        m->domain[m->n].last = read_number(path, "energy_uj");
        m->domain[m->n].range = read_number(path, "max_energy_range_uj");
        if (m->domain[m->n].last >= 0) m->n++;
    }
    if (d) closedir(d);
}

double bench_energy_joules(bench_energy *m) {
    double sum = 0;
    for (int i = 0; i < m->n; i++) {
        double at = read_number(m->domain[i].path, "energy_uj"), spent = at - m->domain[i].last;
        if (at < 0) continue;
        if (spent < 0) spent += m->domain[i].range;
        if (spent > 0) sum += spent * 1e-6;
        m->domain[i].last = at;
    }
    return sum;
}
