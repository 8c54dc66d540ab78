// GGUF files through the whole reader, in one part or, cut where the input has "GGUF" again, in several: whatever opens
// has tensors of which every row can be read, and a config and tokenizer that are JSON.
#include "format/gguf.h"
#include "arch/config.h"
#include "text/tokenizer.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_PARTS = 4, MAX_COLS = 4096, MAX_ROWS = 64 };

static upg_file make_file(const uint8_t *data, size_t size) {
    uint8_t *image = malloc(size + 4);
    char *path = strdup("fuzz.gguf");
    if (!image || !path) abort();
    memcpy(image, "GGUF", 4); // the rest is the fuzzer's
    if (size) memcpy(image + 4, data, size);
    return (upg_file){.data = image, .size = size + 4, .path = path};
}

static int open_input(upg_weights *w, const uint8_t *data, size_t size) {
    upg_error e;
    upg_file *files = calloc(MAX_PARTS, sizeof *files);
    if (!files) abort();
    size_t n = 0;
    const uint8_t *next = data;
    while (next) {
        const uint8_t *at = next;
        next = n + 1 < MAX_PARTS && size ? memmem(at, size, "GGUF", 4) : NULL;
        size_t part = next ? (size_t)(next - at) : size;
        files[n++] = make_file(at, part);
        if (!next) break;
        next += 4;
        size -= part + 4;
    }
    if (n > 1) return upg_gguf_open_parts(w, files, n, &e);
    upg_file file = files[0];
    free(files);
    return upg_gguf_open(w, &file, &e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    upg_error e;
    upg_weights w;
    upg_config c;
    if (open_input(&w, data, size)) return 0;
    float row[MAX_COLS];
    for (size_t i = 0; i < w.n; i++) {
        const upg_tensor *t = &w.tensors[i];
        for (int64_t r = 0;
             t->cols <= MAX_COLS && r<t->rows; r += t->rows> MAX_ROWS && r < t->rows - 1 ? t->rows - 1 : 1)
            upg_tensor_floats(t, t->cols * r, t->cols, row);
    }
    yyjson_doc *doc = yyjson_read(w.config, strlen(w.config), 0);
    if (!doc) abort();
    yyjson_doc_free(doc);
    (void)upg_config_parse(&c, w.config, NULL, &e);
    if (w.tokenizer_json)
        upg_tokenizer_free(upg_tokenizer_from_json(w.tokenizer_json, strlen(w.tokenizer_json), NULL, &e));
    upg_weights_close(&w);
    return 0;
}
