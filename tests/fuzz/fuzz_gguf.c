// GGUF files through the whole reader: whatever opens has tensors that can be read and a config and tokenizer that are
// JSON.
#include "format/gguf.h"
#include "text/tokenizer.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    upg_error e;
    upg_weights w;
    uint8_t *image = malloc(size + 4);
    char *path = strdup("fuzz.gguf");
    if (!image || !path) {
        free(image);
        free(path);
        return 0;
    }
    memcpy(image, "GGUF", 4); // the rest is the fuzzer's
    if (size) memcpy(image + 4, data, size);
    upg_file file = {.data = image, .size = size + 4, .path = path};
    if (upg_gguf_open(&w, &file, &e)) return 0;
    float row[4096];
    for (size_t i = 0; i < w.n; i++) {
        const upg_tensor *t = &w.tensors[i];
        if (t->cols <= 4096) upg_tensor_floats(t, t->cols * (t->rows - 1), t->cols, row);
    }
    if (w.tokenizer_json)
        upg_tokenizer_free(upg_tokenizer_from_json(w.tokenizer_json, strlen(w.tokenizer_json), NULL, &e));
    upg_weights_close(&w);
    return 0;
}
