// Instructions that the linear kernels take for a 256 x 256 matrix, by stepping through them one at a time: exact, the
// same in every run, and for every instruction set that this processor has, which valgrind and perf are not. Prints
// lines of ISA ENCODING ROWS INSTRUCTIONS. usage: kernel_count [ISA]
//        kernel_count ISA ENCODING ROWS TIMES: only runs a kernel, for emulators that count instructions themselves
#include "backend/cpu/cpu.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIDE = 256, MAX_ROWS = 16 };
static const struct encoding {
    const char *name;
    upg_encoding encoding;
    int s;
} encodings[] = {{"3-bit", UPG_TRELLIS, 6}, {"int8", UPG_INT8, 0}, {"sparse", UPG_SPARSE, 8}};
enum { N_ENCODINGS = sizeof encodings / sizeof *encodings };

static void *take(size_t n) {
    void *p = upg_aligned_alloc(n, NULL);
    if (!p) exit(1);
    return p;
}

// A matrix of one superband and one group, and a batch.
static upg_linear make(upg_tensor *w, const struct encoding *e, int rows) {
    *w = (upg_tensor){.name = "w", .encoding = e->encoding, .s = e->s, .rows = SIDE, .cols = SIDE};
    w->bytes = upg_encoded_bytes(e->encoding, e->s, SIDE, SIDE);
    uint8_t *data = take(w->bytes);
    uint64_t random = 1;
    for (size_t i = 0; i < w->bytes; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        data[i] = (uint8_t)((random >> 33) % 255);
    }
    if (e->encoding == UPG_SPARSE) memset(data + upg_sparse_values(16, SIDE), 0x35, (size_t)SIDE * 32); // half are kept
    w->data = data;
    w->scale = take(SIDE * sizeof(float));
    return (upg_linear){.w = w,
                        .n = SIDE,
                        .b = SIDE,
                        .n_rows = rows,
                        .end = 1,
                        .q = take((size_t)rows * SIDE + UPG_Q_SLACK),
                        .d = take((size_t)rows),
                        .q_sum = take((size_t)rows * sizeof(int32_t)),
                        .m = take((size_t)rows * sizeof(float)),
                        .y = take((size_t)rows * SIDE * sizeof(float)),
                        .y_stride = SIDE};
}

static upg_scratch make_scratch(int rows) {
    static upg_arena memory;
    upg_scratch scratch;
    if (upg_scratch_take(&scratch, &memory, rows, SIDE, NULL)) exit(1);
    return scratch;
}

// The child stops before and after the kernel.
static void be_counted(const upg_cpu_kernels *k, const upg_linear *l, upg_scratch *scratch) {
    k->linear(l, 0, scratch); // so that nothing is left to be bound
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    k->linear(l, 0, scratch);
    raise(SIGSTOP);
    _exit(0);
}

static long count(const upg_cpu_kernels *k, const struct encoding *e, int rows) {
    upg_tensor w;
    upg_linear l = make(&w, e, rows);
    upg_scratch scratch = make_scratch(rows);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) be_counted(k, &l, &scratch);
    int status;
    long n = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return -1;
    do {
        if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) || waitpid(child, &status, 0) != child) return -1;
        n++;
    } while (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return n;
}

static int run(char **arg) {
    const upg_cpu_kernels *k = upg_cpu_kernels_for(arg[0], NULL);
    int rows = atoi(arg[2]);
    if (!k || rows < 1 || rows > MAX_ROWS) return 2;
    for (int i = 0; i < N_ENCODINGS; i++) {
        if (strcmp(encodings[i].name, arg[1])) continue;
        upg_tensor w;
        upg_linear l = make(&w, &encodings[i], rows);
        upg_scratch scratch = make_scratch(rows);
        for (int n = atoi(arg[3]); n > 0; n--) k->linear(&l, 0, &scratch);
        return 0;
    }
    return 2;
}

int main(int argc, char **argv) {
    if (argc == 5) return run(argv + 1);
    for (int i = 0; upg_cpu_all[i] != &upg_cpu_scalar; i++) {
        if (!upg_cpu_all[i]->supported() || (argc == 2 && strcmp(upg_cpu_all[i]->isa, argv[1]))) continue;
        for (int e = 0; e < N_ENCODINGS; e++)
            for (int rows = 1; rows <= MAX_ROWS; rows *= MAX_ROWS) {
                long n = count(upg_cpu_all[i], &encodings[e], rows);
                if (n < 0) return fprintf(stderr, "kernel_count: cannot step through a process here\n"), 1;
                printf("%s %s %d %ld\n", upg_cpu_all[i]->isa, encodings[e].name, rows, n);
            }
    }
    return 0;
}
