// The GGUF container: header, metadata, tensor list. Untrusted: every length is checked against what is left of the
// file before it is used, and nothing is allocated beyond what the file's own bytes can fill. Specification: ggml's
// docs/gguf.md.
#include "format/gguf.h"
#include <stdlib.h>
#include <string.h>

enum { MAGIC = 0x46554747, DEFAULT_ALIGNMENT = 32, MAX_ALIGNMENT = 1 << 20, MIN_VALUE = 13, MIN_TENSOR = 32 };

bool upg_is_gguf(const uint8_t *data, size_t size) {
    return size >= 4 && upg_le32(data) == MAGIC;
}

// What is left to read; once `short_` is set every read gives zeros.
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

// Skips `count` values of a scalar type or strings; -1 for another type.
static int skip_values(cursor *c, uint32_t type, uint64_t count) {
    int size = type_size(type);
    if (size < 0 || type == UPG_GGUF_ARRAY) return -1;
    if (type != UPG_GGUF_STRING) {
        if (count > c->left / (size_t)size) c->cut = true;
        take(c, c->cut ? 0 : count * (uint64_t)size);
        return 0;
    }
    size_t n;
    for (uint64_t i = 0; i < count && !c->cut; i++) take_string(c, &n);
    return 0;
}

static int parse_value(upg_gguf_value *v, cursor *c, const char *path, upg_error *e) {
    v->key = take_string(c, &v->key_size);
    uint32_t type = take32(c), element = type;
    v->count = 1;
    if (type == UPG_GGUF_ARRAY) {
        element = take32(c);
        v->count = take64(c);
    }
    v->type = (upg_gguf_type)type;
    v->element = (upg_gguf_type)element;
    v->data = c->p;
    if (!c->cut && skip_values(c, element, v->count))
        return upg_fail(e, "%s: metadata '%.*s': type %u is not implemented", path,
                        (int)(v->key_size < 100 ? v->key_size : 100), v->key, element);
    return 0;
}

static int parse_tensor(upg_gguf_tensor *t, cursor *c, const char *path, upg_error *e) {
    t->name = take_string(c, &t->name_size);
    uint32_t rank = take32(c);
    if (!c->cut && (rank < 1 || rank > 4 || t->name_size > 200 || memchr(t->name, 0, t->name_size)))
        return upg_fail(e, "%s: a tensor has a bad name or %u dimensions", path, rank);
    t->rank = (int)rank;
    for (uint32_t i = 0; i < rank && !c->cut; i++) t->shape[i] = take64(c);
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
    upg_gguf_value wanted = {.key = key, .key_size = strlen(key)};
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
            return upg_fail(e, "%s: metadata '%.*s' is there twice", g->path,
                            (int)(g->values[i].key_size < 100 ? g->values[i].key_size : 100), g->values[i].key);
    return 0;
}

int upg_gguf_parse(upg_gguf *g, const uint8_t *data, size_t size, const char *path, upg_error *e) {
    *g = (upg_gguf){.path = path};
    cursor c = {data, size, false};
    take32(&c);
    uint32_t version = take32(&c);
    uint64_t n_tensors = take64(&c), n_values = take64(&c);
    if (c.cut) return upg_fail(e, "%s: the file is cut short", path);
    if (version < 2 || version > 3)
        return upg_fail(e, "%s: GGUF version %u is not implemented (2 and 3 are)", path, version);
    double alignment = DEFAULT_ALIGNMENT;
    int rc = parse_lists(g, &c, n_tensors, n_values, e);
    if (!rc && upg_gguf_find(g, "general.alignment") &&
        !upg_gguf_number(upg_gguf_find(g, "general.alignment"), &alignment))
        alignment = 0;
    uint64_t unit = alignment >= 1 && alignment <= MAX_ALIGNMENT ? (uint64_t)alignment : 0;
    if (!rc && (!unit || unit & (unit - 1))) rc = upg_fail(e, "%s: general.alignment is not a power of two", path);
    if (!rc) {
        uint64_t start = ((uint64_t)(c.p - data) + unit - 1) & ~(unit - 1);
        if (start > size) start = size;
        g->data = data + start;
        g->data_size = size - (size_t)start;
        for (size_t i = 0; !rc && i < g->n_tensors; i++)
            if (g->tensors[i].offset % unit)
                rc = upg_fail(e, "%s: tensor '%.*s' is not aligned", path, (int)g->tensors[i].name_size,
                              g->tensors[i].name);
    }
    if (rc) upg_gguf_free(g);
    return rc;
}

void upg_gguf_free(upg_gguf *g) {
    free(g->values);
    free(g->tensors);
    *g = (upg_gguf){0};
}
