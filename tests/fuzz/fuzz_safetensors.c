// Any bytes as a safetensors file: the parser refuses them, or returns entries that cover the data area exactly.
#include <stdlib.h>
#include <string.h>
#include "format/safetensors.h"

// After the first byte comes the file or, if that byte is odd, the text of its header; half the byte is then the size
// of the data, so that the fuzzer need not find out about lengths.
static uint8_t *make_file(const uint8_t *data, size_t size, size_t *n) {
    size_t tail = 0, text = size - 1;
    bool framed = data[0] & 1;
    if (framed) tail = data[0] >> 1;
    *n = framed ? 8 + text + tail : text;
    uint8_t *file = malloc(*n ? *n : 1);
    if (!file) return NULL;
    memset(file, 0, *n ? *n : 1);
    if (framed)
        for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)text >> 8 * i);
    memcpy(file + (framed ? 8 : 0), data + 1, text);
    return file;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    size_t n;
    uint8_t *file = make_file(data, size, &n);
    upg_safetensors st;
    upg_error e;
    if (file && !upg_safetensors_parse(&st, file, n, "fuzz", &e)) {
        size_t at = 0;
        for (size_t i = 0; i < st.n; i++) {
            if (st.entries[i].begin != at || st.entries[i].end < at || !*st.entries[i].name) abort();
            at = st.entries[i].end;
        }
        if (at != st.data_size || st.data + st.data_size != file + n) abort();
        upg_safetensors_close(&st);
    }
    free(file);
    return 0;
}
