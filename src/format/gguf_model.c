// GGUF files as open weights: tensors under Hugging Face names with their shapes checked, config and tokenizer as JSON.
#include "format/ggml.h"
#include "format/gguf.h"
#include <stdlib.h>
#include <string.h>

enum { F32 = 0, F16 = 1, BF16 = 30, MAX_HEADS = 4096 }; // ggml_type

static int set_shape(upg_tensor *o, const upg_gguf *g, const upg_gguf_tensor *t, upg_error *e) {
    uint64_t cols = t->shape[0], rows = t->rank > 1 ? t->shape[1] : 1;
    for (int i = 2; i < t->rank; i++)
        if (t->shape[i] != 1) rows = 0;
    int values = 1, bytes = t->type == F32 ? 4 : 2;
    o->encoding = t->type == F32 ? UPG_F32 : t->type == F16 ? UPG_F16 : t->type == BF16 ? UPG_BF16 : UPG_GGML;
    o->ggml_type = t->type;
    if (o->encoding == UPG_GGML && !upg_ggml_type(t->type, &values, &bytes)) {
        const char *type = upg_ggml_name(t->type);
        return upg_fail(e, "%s: tensor '%s': type %s (%u) is not implemented", g->path, o->name,
                        type ? type : "unknown to GGUF", t->type);
    }
    if (!rows || !cols || rows > INT32_MAX || cols > INT32_MAX || rows * cols > (uint64_t)1 << 40 ||
        cols % (uint64_t)values)
        return upg_fail(e, "%s: tensor '%s': its shape is not allowed", g->path, o->name);
    if (rows == 1 && o->encoding == UPG_GGML)
        return upg_fail(e, "%s: tensor '%s': a vector in blocks is not implemented", g->path, o->name);
    uint64_t size = rows * cols / (uint64_t)values * (uint64_t)bytes;
    if (t->offset > g->data_size || size > g->data_size - t->offset)
        return upg_fail(e, "%s: tensor '%s' lies beyond the end of the file", g->path, o->name);
    o->rows = (int64_t)rows;
    o->cols = (int64_t)cols;
    o->data = g->data + t->offset;
    o->bytes = (size_t)size;
    return 0;
}

// Heads whose rows, or whose values of a bias, are interleaved in a q or k tensor.
static int set_heads(upg_tensor *t, const upg_gguf *g, const char *arch, upg_error *e) {
    double heads = 0;
    int64_t rows = t->rows > 1 ? t->rows : t->cols;
    const upg_gguf_value *v = strstr(t->name, "k_proj") ? upg_gguf_find_in(g, arch, "attention.head_count_kv") : NULL;
    if (!v) v = upg_gguf_find_in(g, arch, "attention.head_count");
    if (!upg_gguf_number(v, &heads))
        return upg_fail(e, "%s: metadata '%s.attention.head_count' is missing or no number", g->path, arch);
    if (!(heads >= 1 && heads <= MAX_HEADS) || rows % (2 * (int64_t)heads))
        return upg_fail(e, "%s: tensor '%s': its rows are no whole number of heads", g->path, t->name);
    t->rope_heads = (int)heads;
    return 0;
}

// Tensors of one part, appended to w's. names: room for all of them.
static int collect(upg_weights *w, const upg_gguf *g, const upg_gguf *first, const upg_gguf_arch *a, upg_error *e) {
    for (size_t i = 0; i < g->n_tensors; i++, w->n++) {
        upg_tensor *t = &w->tensors[w->n];
        bool heads;
        char *name = w->storage->names + w->n * UPG_GGUF_NAME;
        if (!upg_gguf_rename(a, &g->tensors[i], name, &heads))
            return upg_fail(e, "%s: tensor '%.*s' is not implemented for architecture %s", g->path,
                            (int)g->tensors[i].name_size, g->tensors[i].name, a->name);
        *t = (upg_tensor){.name = name};
        if (set_shape(t, g, &g->tensors[i], e) || (heads && a->pairs && set_heads(t, first, a->name, e))) return -1;
    }
    return 0;
}

static int by_data(const void *a, const void *b) {
    const upg_tensor *x = *(const upg_tensor *const *)a, *y = *(const upg_tensor *const *)b;
    return ((uintptr_t)x->data > (uintptr_t)y->data) - ((uintptr_t)x->data < (uintptr_t)y->data);
}

static int check_overlaps(const upg_weights *w, const char *path, upg_error *e) {
    const upg_tensor **t = upg_alloc(w->n, sizeof *t, e);
    if (!t) return -1;
    for (size_t i = 0; i < w->n; i++) t[i] = &w->tensors[i];
    qsort(t, w->n, sizeof *t, by_data);
    int rc = 0;
    for (size_t i = 1; !rc && i < w->n; i++)
        if ((uintptr_t)t[i]->data - (uintptr_t)t[i - 1]->data < t[i - 1]->bytes)
            rc = upg_fail(e, "%s: tensors '%s' and '%s' overlap", path, t[i - 1]->name, t[i]->name);
    free(t);
    return rc;
}

static int collect_all(upg_weights *w, const upg_gguf *parts, size_t n, const upg_gguf_arch *a, upg_error *e) {
    size_t total = 0;
    for (size_t i = 0; i < n; i++) total += parts[i].n_tensors;
    if (!total) return upg_fail(e, "%s: a vocabulary only: there are no tensors in it", parts[0].path);
    w->tensors = upg_alloc(total, sizeof *w->tensors, e);
    w->storage->names = upg_alloc(total, UPG_GGUF_NAME, e);
    if (!w->tensors || !w->storage->names) return -1;
    for (size_t i = 0; i < n; i++)
        if (collect(w, &parts[i], &parts[0], a, e)) return -1;
    return upg_weights_sort(w, parts[0].path, e) || check_overlaps(w, parts[0].path, e) ? -1 : 0;
}

// config.json has them, and a folder has no such tensors.
static void drop_rope_tensors(upg_weights *w) {
    size_t n = 0;
    for (size_t i = 0; i < w->n; i++)
        if (strncmp(w->tensors[i].name, "rope_", 5)) w->tensors[n++] = w->tensors[i];
    w->n = n;
}

// Whether s is UTF-8 without NUL.
static bool is_text(const char *s, size_t n) {
    yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
    char *json = NULL;
    if (d) {
        yyjson_mut_doc_set_root(d, yyjson_mut_strn(d, s, n));
        json = yyjson_mut_write(d, 0, NULL);
    }
    bool valid = json != NULL && !memchr(s, 0, n);
    yyjson_mut_doc_free(d);
    free(json);
    return valid;
}

// Metadata that must have one value if it is there at all.
static int check_general(const upg_gguf *g, upg_error *e) {
    const char *s;
    size_t n;
    const upg_gguf_value *type = upg_gguf_find(g, "general.type"),
                         *version = upg_gguf_find(g, "general.quantization_version");
    if (type && (!upg_gguf_text(type, &s, &n) || n != 5 || memcmp(s, "model", 5)))
        return upg_fail(e, "%s: general.type is not 'model'", g->path);
    double x = 0;
    if (version && (!upg_gguf_number(version, &x) || x != 2))
        return upg_fail(e, "%s: general.quantization_version %g is not implemented (2 is)", g->path, x);
    return 0;
}

static int read_template(upg_weights *w, const upg_gguf *g, upg_error *e) {
    const upg_gguf_value *template = upg_gguf_find(g, "tokenizer.chat_template");
    const char *s;
    size_t n;
    if (!template) return 0;
    if (!upg_gguf_text(template, &s, &n) || !is_text(s, n))
        return upg_fail(e, "%s: tokenizer.chat_template is no UTF-8 string without NUL", g->path);
    return (w->chat_template = upg_strdup(s, n, e)) ? 0 : -1;
}

static int open_model(upg_weights *w, const upg_gguf *parts, size_t n, upg_error *e) {
    const upg_gguf *g = &parts[0];
    const upg_gguf_arch *a = upg_gguf_arch_of(g, e);
    if (!a || upg_gguf_check_parts(parts, n, e) || check_general(g, e) || collect_all(w, parts, n, a, e)) return -1;
    if (!(w->config = upg_gguf_config(g, a, w, e)) || read_template(w, g, e)) return -1;
    drop_rope_tensors(w);
    return upg_gguf_read_tokenizer(w, g, e);
}

int upg_gguf_open_parts(upg_weights *w, upg_file *files, size_t n, upg_error *e) {
    *w = (upg_weights){0};
    struct upg_weights_storage *s = w->storage = upg_alloc(1, sizeof *s, e);
    upg_gguf *parts = s ? upg_alloc(n, sizeof *parts, e) : NULL;
    if (s) {
        s->files = files;
        s->n_files = n;
    } else {
        for (size_t i = 0; i < n; i++) upg_file_close(&files[i]);
        free(files);
    }
    int rc = parts ? 0 : -1;
    for (size_t i = 0; !rc && i < n; i++) {
        w->file_bytes += files[i].size;
        rc = upg_gguf_parse(&parts[i], files[i].data, files[i].size, files[i].path, e);
    }
    if (!rc) rc = open_model(w, parts, n, e);
    for (size_t i = 0; parts && i < n; i++) upg_gguf_free(&parts[i]);
    free(parts);
    if (rc) upg_weights_close(w);
    return rc;
}

int upg_gguf_open(upg_weights *w, upg_file *file, upg_error *e) {
    *w = (upg_weights){0};
    upg_file *files;
    size_t n;
    return upg_gguf_find_parts(file, &files, &n, e) ? -1 : upg_gguf_open_parts(w, files, n, e);
}
