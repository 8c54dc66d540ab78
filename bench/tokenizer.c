// Encoding and decoding speed of a tokenizer on one core: bench/tokenizer MODEL TEXT..., MODEL as for upg tokenize.
// Each text is encoded whole, again and again until a second has passed; the median round counts. Time is the process's
// CPU time, so that other work on the machine disturbs less. With --ids in front it writes the ids (int32) instead.
// bench/tokenizer.py puts other implementations beside it.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "engine/model.h"

enum { MIN_ROUNDS = 3, MAX_ROUNDS = 999 };

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    return values[n / 2];
}

static int measure(const upg_tokenizer *t, const char *path, const upg_file *text, upg_error *e) {
    static double encode[MAX_ROUNDS], decode[MAX_ROUNDS];
    double start = cpu_seconds();
    size_t n_ids = 0;
    int rounds = 0;
    while (rounds < MIN_ROUNDS || (rounds < MAX_ROUNDS && cpu_seconds() - start < 1)) {
        upg_ids ids = {0};
        upg_buf out = {0};
        upg_detokenizer d = {0};
        double begin = cpu_seconds();
        if (upg_tokenizer_encode(t, (const char *)text->data, text->size, false, &ids, e)) return -1;
        double middle = cpu_seconds();
        for (size_t i = 0; i < ids.size; i++) upg_detokenizer_push(&d, t, ids.data[i], false, &out);
        upg_detokenizer_finish(&d, &out);
        double end = cpu_seconds();
        if (upg_buf_check(&out, e)) return -1;
        encode[rounds] = middle - begin;
        decode[rounds++] = end - middle;
        n_ids = ids.size;
        upg_ids_free(&ids);
        upg_buf_free(&out);
    }
    double mb = (double)text->size / 1e6;
    printf("%s: %zu bytes, %zu ids: encode %.1f MB/s, decode %.1f MB/s\n", path, text->size, n_ids,
           mb / median(encode, rounds), mb / median(decode, rounds));
    return 0;
}

static int write_ids(const upg_tokenizer *t, const char *path, const upg_file *text, upg_error *e) {
    upg_ids ids = {0};
    int rc = upg_tokenizer_encode(t, (const char *)text->data, text->size, false, &ids, e);
    if (!rc && fwrite(ids.data, sizeof *ids.data, ids.size, stdout) != ids.size)
        rc = upg_fail(e, "cannot write the ids of %s", path);
    upg_ids_free(&ids);
    return rc;
}

int main(int argc, char **argv) {
    bool print_ids = argc > 1 && !strcmp(argv[1], "--ids");
    if (argc < 3 + print_ids) {
        fprintf(stderr, "usage: %s [--ids] MODEL TEXT...\n", argv[0]);
        return 2;
    }
    argv += print_ids;
    argc -= print_ids;
    upg_error e = {""};
    upg_weights w;
    upg_tokenizer *t = NULL;
    double start = cpu_seconds();
    if (!upg_weights_open_tokenizer(&w, argv[1], &e)) {
        if (!upg_weights_tokenizer(&w, &t, &e) && !t) upg_fail(&e, "%s: has no tokenizer", argv[1]);
        upg_weights_close(&w);
    }
    if (t && !print_ids)
        printf("%s: %d ids, read in %.1f ms\n", argv[1], (int)upg_tokenizer_size(t), (cpu_seconds() - start) * 1e3);
    int rc = t ? 0 : -1;
    for (int i = 2; i < argc && !rc; i++) {
        upg_file text = {0};
        rc = upg_file_open(&text, argv[i], &e) || (print_ids ? write_ids : measure)(t, argv[i], &text, &e) ? -1 : 0;
        upg_file_close(&text);
    }
    if (rc) fprintf(stderr, "%s\n", e.message);
    upg_tokenizer_free(t);
    return rc ? 1 : 0;
}
