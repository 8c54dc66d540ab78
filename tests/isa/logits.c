// Prints a hash of a compressed model's logits for every way of cutting a text into batches, and the instruction set on
// standard error. It needs no library, so that it can be built for another processor and run under an emulator: what
// it prints there must be what it prints here. usage: logits MODEL.upg TOKENS [DEVICE]
#include "arch/arch.h"
#include "backend/backend.h"
#include "base/thread.h"
#include "format/upg_file.h"
#include "program/numbers.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX = 300 };

typedef struct run {
    upg_backend *backend;
    int vocab, n;
    float *logits; // [n][vocab]
} run;

static const upg_backend_api *backend_for(const char *device) {
#ifdef UPG_CUDA
    if (!strcmp(device, "cuda")) return &upg_backend_cuda;
#endif
    return strcmp(device, "software") ? &upg_backend_cpu : &upg_backend_software;
}

static void must(int rc, const upg_error *e) {
    if (!rc) return;
    fprintf(stderr, "logits: %s\n", e->message);
    exit(1);
}

// Rows first..first+n-1 of the text, as one batch.
static void run_rows(const run *r, int first, int n) {
    static const int32_t table[] = {1, 0}; // blocks of the cache out of order
    int32_t tokens[MAX], positions[MAX];
    const int32_t *blocks[MAX];
    uint8_t wants[MAX];
    for (int i = 0; i < n; i++) {
        uint64_t random = upg_splitmix64(11, (uint64_t)(first + i));
        tokens[i] = (int32_t)(random % (uint64_t)r->vocab);
        positions[i] = first + i;
        blocks[i] = table;
        wants[i] = 1;
    }
    upg_batch batch = {.n_rows = n, .tokens = tokens, .positions = positions, .blocks = blocks, .wants = wants};
    upg_error e = {""};
    must(r->backend->api->run(r->backend, &batch, &e), &e);
    for (int i = 0; i < n; i++)
        memcpy(r->logits + (size_t)(first + i) * (size_t)r->vocab, r->backend->api->logits(r->backend, i),
               (size_t)r->vocab * sizeof(float));
}

static void print_hash(const run *r, int chunk) {
    uint8_t hash[16];
    char hex[UPG_HEX_HASH + 1];
    for (int at = 0; at < r->n; at += chunk) run_rows(r, at, r->n - at < chunk ? r->n - at : chunk);
    upg_file_hash(r->logits, (size_t)r->n * (size_t)r->vocab * sizeof *r->logits, hash);
    upg_file_hash_to_hex(hash, hex);
    printf("%d tokens in batches of %d: %s\n", r->n, chunk, hex);
}

int main(int argc, char **argv) {
    static upg_config config;
    upg_error e = {""};
    upg_file file;
    upg_weights weights;
    run r = {.n = argc == 3 || argc == 4 ? atoi(argv[2]) : 0};
    if (r.n < 1 || r.n > MAX) return fprintf(stderr, "usage: logits MODEL.upg TOKENS [DEVICE]\n"), 2;
    must(upg_file_open(&file, argv[1], &e), &e);
    must(upg_weights_open_memory(&weights, file.data, file.size, argv[1], &e), &e);
    must(upg_config_parse(&config, weights.config, NULL, &e), &e);
    r.vocab = config.vocab_size;
    r.logits = upg_alloc((size_t)r.n * (size_t)r.vocab, sizeof *r.logits, &e);
    upg_program *program = upg_program_new(&config, &weights, &e);
    upg_pool *pool = upg_pool_new(1, &e);
    if (!r.logits || !program || !pool) must(-1, &e);
    upg_backend_options options = {.max_rows = r.n, .max_logits = r.n, .n_positions = MAX, .n_blocks = 2, .pool = pool};
    r.backend = backend_for(argc == 4 ? argv[3] : "cpu")->create(program, &options, &e);
    if (!r.backend) must(-1, &e);
    fprintf(stderr, "%s\n", r.backend->api->path(r.backend));
    static const int chunks[] = {1, 3, 16};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks && chunks[i] < r.n; i++) print_hash(&r, chunks[i]);
    print_hash(&r, r.n);
    r.backend->api->destroy(r.backend);
    upg_pool_free(pool);
    upg_program_free(program);
    upg_weights_close(&weights);
    upg_file_close(&file);
    free(r.logits);
    return 0;
}
