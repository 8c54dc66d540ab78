// The GGUF container: header, metadata, tensor list. Untrusted: every length is checked against what is left of the
// file before it is used, and nothing is allocated beyond what the file's own bytes can fill. Specification: ggml's
// docs/gguf.md.
#include "format/gguf.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAGIC = 0x46554747,
    DEFAULT_ALIGNMENT = 32,
    MAX_ALIGNMENT = 1 << 20,
    MAX_KEY = 65535,
    MAX_NAME = 200,
    MIN_VALUE = 13, // bytes that the shortest metadata and tensor take
    MIN_TENSOR = 32,
};

bool upg_is_gguf(const uint8_t *data, size_t size) {
    return size >= 4 && upg_le32(data) == MAGIC;
}

// What is left to read; once `cut` is set every read gives zeros.
typedef struct cursor {
    const uint8_t *p;
    size_t left;
    bool cut;
} cursor;

static const uint8_t *take(cursor *c, uint64_t n) {
    static const uint8_t zeros[8];
    if (n > c->left) {
        c->cut = true;
        c->left = 0;
        return zeros;
    }
    const uint8_t *p = c->p;
    c->p += n;
    c->left -= (size_t)n;
    return p;
}
static uint32_t take32(cursor *c) {
    return upg_le32(take(c, 4));
}
static uint64_t take64(cursor *c) {
    return upg_le64(take(c, 8));
}
static const char *take_string(cursor *c, size_t *n) {
    uint64_t size = take64(c);
    const uint8_t *p = take(c, size);
    *n = c->cut ? 0 : (size_t)size;
    return (const char *)p;
}

static int type_size(uint32_t type) {
    static const int sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof sizes / sizeof *sizes ? sizes[type] : -1;
}

// Skips `count` values of a scalar type or strings.
static void skip_values(cursor *c, uint32_t type, uint64_t count) {
    if (type != UPG_GGUF_STRING) {
        uint64_t size = (uint64_t)type_size(type);
        if (count > c->left / size) c->cut = true;
        take(c, c->cut ? 0 : count * size);
        return;
    }
    size_t n;
    for (uint64_t i = 0; i < count && !c->cut; i++) take_string(c, &n);
}

static const char *key_problem(const upg_gguf_value *v) {
    for (size_t i = 0; i < v->key_size; i++)
        if (v->key[i] <= ' ' || v->key[i] > '~') return "a metadata key has a character that is not allowed";
    return !v->key_size ? "a metadata key is empty" : v->key_size > MAX_KEY ? "a metadata key is too long" : NULL;
}

// A key as it is put in messages: as "%.*s".
#define KEY(v) (int)((v)->key_size < 100 ? (v)->key_size : 100), (v)->key

static int parse_value(upg_gguf_value *v, cursor *c, const char *path, upg_error *e) {
    v->key = take_string(c, &v->key_size);
    uint32_t type = take32(c), element = type;
    v->count = 1;
    if (type == UPG_GGUF_ARRAY) {
        element = take32(c);
        v->count = take64(c);
    }
    if (c->cut) return 0;
    const char *problem = key_problem(v);
    if (problem) return upg_fail(e, "%s: %s", path, problem);
    if (type_size(element) < 0) return upg_fail(e, "%s: metadata '%.*s': type %u is unknown", path, KEY(v), element);
    if (element == UPG_GGUF_ARRAY)
        return upg_fail(e, "%s: metadata '%.*s': arrays of arrays are not implemented", path, KEY(v));
    v->type = (upg_gguf_type)type;
    v->element = (upg_gguf_type)element;
    v->data = c->p;
    skip_values(c, element, v->count);
    v->size = (size_t)(c->p - v->data);
    for (size_t i = 0; element == UPG_GGUF_BOOL && i < v->size; i++)
        if (v->data[i] > 1) return upg_fail(e, "%s: metadata '%.*s' is neither true nor false", path, KEY(v));
    return 0;
}

static int parse_tensor(upg_gguf_tensor *t, cursor *c, const char *path, upg_error *e) {
    t->name = take_string(c, &t->name_size);
    uint32_t rank = take32(c);
    if (c->cut) return 0;
    if (!t->name_size || t->name_size > MAX_NAME || memchr(t->name, 0, t->name_size))
        return upg_fail(e, "%s: a tensor's name is empty, too long or has a NUL", path);
    if (rank < 1 || rank > 4)
        return upg_fail(e, "%s: tensor '%.*s' has %u dimensions", path, (int)t->name_size, t->name, rank);
    t->rank = (int)rank;
    for (uint32_t i = 0; i < rank; i++) t->shape[i] = take64(c);
    t->type = take32(c);
    t->offset = take64(c);
    return 0;
}

static int by_key(const void *a, const void *b) {
    const upg_gguf_value *x = a, *y = b;
    int d = memcmp(x->key, y->key, x->key_size < y->key_size ? x->key_size : y->key_size);
    return d ? d : (x->key_size > y->key_size) - (x->key_size < y->key_size);
}

const upg_gguf_value *upg_gguf_find(const upg_gguf *g, const char *key) {
    return upg_gguf_find_n(g, key, strlen(key));
}

const upg_gguf_value *upg_gguf_find_in(const upg_gguf *g, const char *arch, const char *key) {
    char name[96];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    return upg_gguf_find(g, name);
}

const upg_gguf_value *upg_gguf_find_n(const upg_gguf *g, const char *key, size_t size) {
    upg_gguf_value wanted = {.key = key, .key_size = size};
    return bsearch(&wanted, g->values, g->n_values, sizeof *g->values, by_key);
}

bool upg_gguf_number(const upg_gguf_value *v, double *x) {
    if (!v) return false;
    uint64_t u = type_size(v->type) == 8 ? upg_le64(v->data) : type_size(v->type) == 4 ? upg_le32(v->data) : 0;
    uint32_t bits = (uint32_t)u;
    float f;
    switch (v->type) {
    case UPG_GGUF_U8:
    case UPG_GGUF_BOOL: *x = v->data[0]; return true;
    case UPG_GGUF_I8: *x = (int8_t)v->data[0]; return true;
    case UPG_GGUF_U16: *x = upg_le16(v->data); return true;
    case UPG_GGUF_I16: *x = (int16_t)upg_le16(v->data); return true;
    case UPG_GGUF_U32: *x = bits; return true;
    case UPG_GGUF_I32: *x = (int32_t)bits; return true;
    case UPG_GGUF_U64: *x = (double)u; return true;
    case UPG_GGUF_I64: *x = (double)(int64_t)u; return true;
    case UPG_GGUF_F32:
        memcpy(&f, &bits, sizeof f);
        *x = (double)f;
        return true;
    case UPG_GGUF_F64: memcpy(x, &u, sizeof *x); return true;
    default: return false;
    }
}

bool upg_gguf_text(const upg_gguf_value *v, const char **s, size_t *n) {
    if (!v || v->type != UPG_GGUF_STRING) return false;
    const uint8_t *at = v->data;
    *s = upg_gguf_string(&at, n);
    return true;
}

const char *upg_gguf_string(const uint8_t **at, size_t *n) {
    *n = (size_t)upg_le64(*at);
    const char *s = (const char *)*at + 8;
    *at += 8 + *n;
    return s;
}

static int parse_lists(upg_gguf *g, cursor *c, uint64_t n_tensors, uint64_t n_values, upg_error *e) {
    if (n_values > c->left / MIN_VALUE || n_tensors > c->left / MIN_TENSOR)
        return upg_fail(e, "%s: more metadata or tensors than the file can hold", g->path);
    if (!(g->values = upg_alloc((size_t)n_values, sizeof *g->values, e)) ||
        !(g->tensors = upg_alloc((size_t)n_tensors, sizeof *g->tensors, e)))
        return -1;
    for (; g->n_values < n_values && !c->cut; g->n_values++)
        if (parse_value(&g->values[g->n_values], c, g->path, e)) return -1;
    for (; g->n_tensors < n_tensors && !c->cut; g->n_tensors++)
        if (parse_tensor(&g->tensors[g->n_tensors], c, g->path, e)) return -1;
    if (c->cut) return upg_fail(e, "%s: the file is cut short", g->path);
    qsort(g->values, g->n_values, sizeof *g->values, by_key);
    for (size_t i = 1; i < g->n_values; i++)
        if (!by_key(&g->values[i - 1], &g->values[i]))
            return upg_fail(e, "%s: metadata '%.*s' is there twice", g->path, KEY(&g->values[i]));
    return 0;
}

static int check_version(const char *path, uint32_t version, upg_error *e) {
    if (version && !(version & 0xffff)) return upg_fail(e, "%s: big-endian GGUF is not implemented", path);
    if (version < 2 || version > 3)
        return upg_fail(e, "%s: GGUF version %u is not implemented (2 and 3 are)", path, version);
    return 0;
}

// The data area begins at the first multiple of the alignment behind the lists, at `end`.
static int find_data(upg_gguf *g, const uint8_t *data, size_t end, size_t size, upg_error *e) {
    const upg_gguf_value *v = upg_gguf_find(g, "general.alignment");
    double alignment = DEFAULT_ALIGNMENT;
    if (v && (v->type == UPG_GGUF_F32 || v->type == UPG_GGUF_F64 || !upg_gguf_number(v, &alignment))) alignment = 0;
    uint64_t unit = alignment >= 1 && alignment <= MAX_ALIGNMENT ? (uint64_t)alignment : 0;
    if (!unit || unit & (unit - 1))
        return upg_fail(e, "%s: general.alignment is no power of two of at most %d", g->path, MAX_ALIGNMENT);
    uint64_t start = ((uint64_t)end + unit - 1) & ~(unit - 1);
    if (start > size) start = size;
    g->data = data + start;
    g->data_size = size - (size_t)start;
    for (size_t i = 0; i < g->n_tensors; i++)
        if (g->tensors[i].offset % unit)
            return upg_fail(e, "%s: tensor '%.*s' does not start at a multiple of %d", g->path,
                            (int)g->tensors[i].name_size, g->tensors[i].name, (int)unit);
    return 0;
}

int upg_gguf_parse(upg_gguf *g, const uint8_t *data, size_t size, const char *path, upg_error *e) {
    *g = (upg_gguf){.path = path};
    if (!upg_is_gguf(data, size)) return upg_fail(e, "%s: not a GGUF file", path);
    cursor c = {data + 4, size - 4, false};
    uint32_t version = take32(&c);
    if (!c.cut && check_version(path, version, e)) return -1;
    uint64_t n_tensors = take64(&c), n_values = take64(&c);
    if (c.cut) return upg_fail(e, "%s: the file is cut short", path);
    if (!parse_lists(g, &c, n_tensors, n_values, e) && !find_data(g, data, (size_t)(c.p - data), size, e)) return 0;
    upg_gguf_free(g);
    return -1;
}

void upg_gguf_free(upg_gguf *g) {
    free(g->values);
    free(g->tensors);
    *g = (upg_gguf){0};
}
