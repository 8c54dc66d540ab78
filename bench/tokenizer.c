// Encoding and decoding speed of a tokenizer on one core: bench/tokenizer TOKENIZER.JSON TEXT. The text is encoded
// whole and again until a second has passed; the best round counts.
#include <stdio.h>
#include <stdlib.h>
#include "text/tokenizer.h"

enum { MAX_FILE = 1 << 30, MIN_ROUNDS = 3 };

static int measure(const upg_tokenizer *t, const upg_file *text, upg_error *e) {
    double best_encode = 1e9, best_decode = 1e9, start = upg_now();
    size_t n_ids = 0;
    for (int round = 0; round < MIN_ROUNDS || upg_now() - start < 1; round++) {
        upg_ids ids = {0};
        upg_buf out = {0};
        upg_detokenizer d = {0};
        double begin = upg_now();
        if (upg_tokenizer_encode(t, (const char *)text->data, text->size, false, &ids, e)) return -1;
        double middle = upg_now();
        for (size_t i = 0; i < ids.size; i++) upg_detokenizer_push(&d, t, ids.data[i], false, &out);
        upg_detokenizer_finish(&d, &out);
        double end = upg_now();
        if (upg_buf_check(&out, e)) return -1;
        if (middle - begin < best_encode) best_encode = middle - begin;
        if (end - middle < best_decode) best_decode = end - middle;
        n_ids = ids.size;
        upg_ids_free(&ids);
        upg_buf_free(&out);
    }
    double mb = (double)text->size / 1e6;
    printf("%zu bytes, %zu ids: encode %.1f MB/s, decode %.1f MB/s\n", text->size, n_ids, mb / best_encode,
           mb / best_decode);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s TOKENIZER.JSON TEXT\n", argv[0]);
        return 2;
    }
    upg_error e = {""};
    size_t n;
    upg_file text = {0};
    char *json = upg_read_text(argv[1], MAX_FILE, &n, &e);
    double start = upg_now();
    upg_tokenizer *t = json ? upg_tokenizer_from_json(json, n, NULL, &e) : NULL;
    if (t) printf("%s: %d ids, read in %.1f ms\n", argv[1], (int)upg_tokenizer_size(t), (upg_now() - start) * 1e3);
    int rc = t && !upg_file_open(&text, argv[2], &e) ? measure(t, &text, &e) : -1;
    if (rc) fprintf(stderr, "%s\n", e.message);
    upg_file_close(&text);
    upg_tokenizer_free(t);
    free(json);
    return rc ? 1 : 0;
}
