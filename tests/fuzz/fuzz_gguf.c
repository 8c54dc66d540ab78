// GGUF files through the whole reader: whatever opens has tensors that can be read and a config and tokenizer that are
// JSON.
#include "format/gguf.h"
#include "text/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    upg_error e;
    uint8_t *copy = upg_aligned_alloc(size + 4, &e);
    if (!copy) return 0;
    memcpy(copy, "GGUF", 4); // the rest is the fuzzer's
    if (size) memcpy(copy + 4, data, size);
    upg_file file = {.data = malloc(size + 4), .size = size + 4, .path = strdup("fuzz.gguf")};
    if (file.data && file.path) {
        memcpy((void *)(uintptr_t)file.data, copy, size + 4);
        upg_weights w;
        if (!upg_gguf_open(&w, &file, &e)) {
            float row[4096];
            for (size_t i = 0; i < w.n; i++)
                if (w.tensors[i].cols <= 4096)
                    upg_tensor_floats(&w.tensors[i], w.tensors[i].cols * (w.tensors[i].rows - 1), w.tensors[i].cols,
                                      row);
            if (w.tokenizer_json)
                upg_tokenizer_free(upg_tokenizer_from_json(w.tokenizer_json, strlen(w.tokenizer_json), NULL, &e));
            upg_weights_close(&w);
        }
    }
    upg_aligned_free(copy);
    return 0;
}
