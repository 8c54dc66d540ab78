// Open weights: finding a tensor, sizes of encodings, and which reader a path belongs to (by content, never by name).
#include "format/gguf.h"
#include "format/upg_file.h"
#include "codec/sparse.h"
#include "codec/trellis.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_ELEMENTS_LOG2 = 40 };

size_t upg_encoded_bytes(upg_encoding encoding, int s, int64_t rows, int64_t cols) {
    if (rows < 1 || cols < 1 || rows > INT32_MAX || cols > INT32_MAX) return 0;
    if (rows > ((int64_t)1 << MAX_ELEMENTS_LOG2) / cols) return 0;
    size_t n = (size_t)rows * (size_t)cols, tiles = (size_t)(upg_pad16(rows) / 16) * (size_t)(upg_pad16(cols) / 16);
    switch (encoding) {
    case UPG_F32: return n * 4;
    case UPG_F16:
    case UPG_BF16: return n * 2;
    case UPG_INT8: return tiles * 256;
    case UPG_TRELLIS:
        return s < UPG_TRELLIS_MIN_S || s > UPG_TRELLIS_MAX_S ? 0 : tiles * 4 * (size_t)upg_trellis_words(s);
    case UPG_SPARSE: return s == 4 || s == 8 ? upg_sparse_bytes(rows, cols, s) : 0;
    case UPG_BYTES: return rows == 1 ? n : 0;
    case UPG_GGML: return 0; // never written
    }
    return 0;
}

const char *upg_encoding_name(upg_encoding encoding) {
    switch (encoding) {
    case UPG_F32: return "F32";
    case UPG_F16: return "F16";
    case UPG_BF16: return "BF16";
    case UPG_INT8: return "int8";
    case UPG_TRELLIS: return "trellis";
    case UPG_SPARSE: return "sparse";
    case UPG_BYTES: return "bytes";
    case UPG_GGML: return "GGUF blocks";
    }
    return "unknown";
}

bool upg_encoding_is_coded(upg_encoding encoding) {
    return encoding == UPG_INT8 || encoding == UPG_TRELLIS || encoding == UPG_SPARSE;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const upg_tensor *)a)->name, ((const upg_tensor *)b)->name);
}

int upg_weights_sort(upg_weights *w, const char *name, upg_error *e) {
    qsort(w->tensors, w->n, sizeof *w->tensors, by_name);
    for (size_t i = 1; i < w->n; i++)
        if (!strcmp(w->tensors[i - 1].name, w->tensors[i].name))
            return upg_fail(e, "%s: tensor '%s' is there twice", name, w->tensors[i].name);
    return 0;
}

const upg_tensor *upg_weights_find(const upg_weights *w, const char *name) {
    upg_tensor key = {.name = name};
    return w->n ? bsearch(&key, w->tensors, w->n, sizeof *w->tensors, by_name) : NULL;
}

void upg_weights_release(const upg_weights *w, const upg_tensor *t) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), data = (uintptr_t)t->data;
    for (size_t i = 0; w->storage && i < w->storage->n_files; i++) {
        const upg_file *f = &w->storage->files[i];
        if (!f->mapped || data < (uintptr_t)f->data || data >= (uintptr_t)f->data + f->size) continue;
        uintptr_t first = (data + page - 1) / page * page, end = (data + t->bytes) / page * page;
        if (end > first) madvise((void *)first, end - first, MADV_DONTNEED);
    }
}

void upg_weights_close(upg_weights *w) {
    struct upg_weights_storage *s = w->storage;
    if (s) {
        for (size_t i = 0; s->headers && i < s->n_files; i++) upg_safetensors_close(&s->headers[i]);
        for (size_t i = 0; s->files && i < s->n_files; i++) upg_file_close(&s->files[i]);
        upg_aligned_free(s->image);
        free(s->names);
        free(s->headers);
        free(s->files);
        free(s);
    }
    free(w->tensors);
    free(w->config);
    free(w->generation_config);
    free(w->tokenizer_json);
    free(w->tokenizer_data);
    free(w->tokenizer_name);
    free(w->tokenizer_config);
    free(w->chat_template);
    free(w->report);
    *w = (upg_weights){0};
}

int upg_weights_open(upg_weights *w, const char *path, upg_error *e) {
    *w = (upg_weights){0};
    if (upg_path_is_dir(path)) return upg_source_open_folder(w, path, e);
    upg_file file;
    upg_safetensors st;
    if (upg_file_open(&file, path, e)) return -1;
    if (upg_is_gguf(file.data, file.size)) return upg_gguf_open(w, &file, e);
    if (upg_safetensors_parse(&st, file.data, file.size, path, e)) {
        upg_file_close(&file);
        return -1;
    }
    bool upg = yyjson_obj_get(st.metadata, UPG_KEY_META) != NULL;
    return upg ? upg_read_open_file(w, &file, &st, e) : upg_source_open_file(w, &file, &st, e);
}

double upg_weights_parameters(const upg_weights *w) {
    double n = 0;
    for (size_t i = 0; i < w->n; i++)
        if (w->tensors[i].encoding != UPG_BYTES) n += (double)w->tensors[i].rows * (double)w->tensors[i].cols;
    return n;
}
