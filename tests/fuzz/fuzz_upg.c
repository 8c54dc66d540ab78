// Any bytes as a .upg image: it is refused, or every byte that its tensors promise can be read and the verifier runs.
#include <stdlib.h>
#include <string.h>
#include "format/weights.h"

static volatile unsigned sink;

static void touch(const upg_weights *w) {
    unsigned sum = 0;
    for (size_t i = 0; i < w->n; i++) {
        const upg_tensor *t = &w->tensors[i];
        if (!t->bytes || t->bytes != upg_encoded_bytes(t->encoding, t->s, t->rows, t->cols)) abort();
        if ((uintptr_t)t->data % 64 || upg_weights_find(w, t->name) != t) abort();
        for (size_t k = 0; k < t->bytes + 64; k++) sum += t->data[k];
        for (int64_t r = 0; t->scale && r < t->rows; r++) sum += t->scale[r] != 0;
    }
    sink = sum + (unsigned)strlen(w->config);
}

static void open_image(const uint8_t *data, size_t size) {
    upg_weights w;
    upg_error e;
    if (upg_weights_open_memory(&w, data, size, "fuzz", &e)) return;
    touch(&w);
    upg_weights_verify(&w, NULL, NULL, &e);
    upg_weights_close(&w);
}

static void add_escaped(upg_buf *b, const uint8_t *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '"' || text[i] == '\\') upg_buf_add(b, "\\", 1);
        upg_buf_add(b, &text[i], 1);
    }
}

// The image of a description (the JSON in the metadata) and of the header's entries, separated by a newline, with the
// escaping, padding and lengths that the fuzzer would hardly find out about.
static void open_description(const uint8_t *text, size_t n, size_t data_size) {
    const uint8_t *newline = memchr(text, '\n', n);
    size_t meta = newline ? (size_t)(newline - text) : n;
    upg_buf b = {0};
    upg_buf_str(&b, "12345678{\"__metadata__\":{\"upg.xxh3\":\"00000000000000000000000000000000\",\"upg\":\"");
    add_escaped(&b, text, meta);
    upg_buf_str(&b, "\"}");
    if (newline) upg_buf_add(&b, newline + 1, n - meta - 1);
    upg_buf_str(&b, "}");
    while (b.size % 4096) upg_buf_add(&b, " ", 1);
    uint64_t header = b.size - 8;
    for (size_t i = 0; i < data_size; i++) upg_buf_add(&b, "", 1);
    if (!b.failed) {
        for (int i = 0; i < 8; i++) b.data[i] = (char)(header >> 8 * i);
        uint8_t *image = malloc(b.size); // of exactly the size, for the sanitizer to guard
        if (image) {
            memcpy(image, b.data, b.size);
            open_image(image, b.size);
        }
        free(image);
    }
    upg_buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    size_t data_size = (size_t)data[1] * 64; // of an assembled image
    if (data[0] & 1)
        open_description(data + 2, size - 2, data_size);
    else
        open_image(data + 2, size - 2);
    return 0;
}
