// The safetensors header. See safetensors.h.
#include "format/safetensors.h"
#include "format/json.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    unsigned bits;
} dtypes[] = {
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},    {"F8_E5M2", 8},
    {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16}, {"BF16", 16}, {"I32", 32},
    {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},    {"I64", 64}, {"U64", 64},
};

// Bits of one element, 0 for an unknown dtype; *name becomes the table's own copy.
static unsigned dtype_bits(const char **name) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (!strcmp(*name, dtypes[i].name)) {
            *name = dtypes[i].name;
            return dtypes[i].bits;
        }
    return 0;
}

static int shape_bytes(yyjson_val *shape, unsigned bits, uint64_t *bytes) {
    uint64_t n = bits;
    size_t i, max;
    yyjson_val *dim;
    yyjson_arr_foreach(shape, i, max, dim) {
        if (!yyjson_is_uint(dim) || __builtin_mul_overflow(n, yyjson_get_uint(dim), &n)) return -1;
    }
    *bytes = n / 8;
    return n % 8 ? -1 : 0;
}

// One "name": {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}.
static int parse_entry(upg_safetensors_entry *t, yyjson_val *v, uint64_t data_size, const char *name, upg_error *e) {
    yyjson_val *dtype = yyjson_obj_get(v, "dtype"), *shape = yyjson_obj_get(v, "shape");
    yyjson_val *offsets = yyjson_obj_get(v, "data_offsets");
    // Three keys, and each of the three is there: so none is twice and none is unknown.
    if (yyjson_obj_size(v) != 3 || !upg_json_string(dtype) || !yyjson_is_arr(shape) || yyjson_arr_size(offsets) != 2)
        return upg_fail(e, "%s: tensor '%s': expected exactly dtype, shape and data_offsets", name, t->name);
    t->dtype = yyjson_get_str(dtype);
    unsigned bits = dtype_bits(&t->dtype);
    if (!bits) return upg_fail(e, "%s: tensor '%s': unknown dtype '%s'", name, t->name, t->dtype);
    uint64_t bytes;
    if (shape_bytes(shape, bits, &bytes))
        return upg_fail(e, "%s: tensor '%s': impossible shape (negative, too large or not integers)", name, t->name);
    t->rank = yyjson_arr_size(shape);
    for (size_t i = 0; i < 2 && i < t->rank; i++) t->shape[i] = yyjson_get_uint(yyjson_arr_get(shape, i));
    yyjson_val *begin = yyjson_arr_get_first(offsets), *end = yyjson_arr_get_last(offsets);
    if (!yyjson_is_uint(begin) || !yyjson_is_uint(end))
        return upg_fail(e, "%s: tensor '%s': data_offsets are not integers >= 0", name, t->name);
    t->begin = yyjson_get_uint(begin);
    t->end = yyjson_get_uint(end);
    if (t->begin > t->end || t->end > data_size)
        return upg_fail(
            e, "%s: tensor '%s': data_offsets %" PRIu64 "..%" PRIu64 " outside the file's %" PRIu64 " bytes of data",
            name, t->name, t->begin, t->end, data_size);
    if (t->end - t->begin != bytes)
        return upg_fail(e, "%s: tensor '%s': %" PRIu64 " bytes, but its shape needs %" PRIu64, name, t->name,
                        t->end - t->begin, bytes);
    return 0;
}

static int by_offset(const void *pa, const void *pb) {
    const upg_safetensors_entry *a = pa, *b = pb;
    if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end) return a->end < b->end ? -1 : 1;
    return strcmp(a->name, b->name);
}

static int check_cover(const upg_safetensors *st, const char *name, upg_error *e) {
    uint64_t at = 0;
    for (size_t i = 0; i < st->n; at = st->entries[i++].end)
        if (st->entries[i].begin != at)
            return upg_fail(e, "%s: tensor '%s' begins at byte %" PRIu64 " of the data, expected %" PRIu64 ": %s", name,
                            st->entries[i].name, st->entries[i].begin, at,
                            st->entries[i].begin < at ? "tensors overlap" : "a hole");
    if (at != st->data_size)
        return upg_fail(e, "%s: tensors end at byte %" PRIu64 " of the data, which has %zu", name, at, st->data_size);
    return 0;
}

static int parse_metadata(upg_safetensors *st, yyjson_val *v, const char *name, upg_error *e) {
    if (!yyjson_is_obj(v)) return upg_fail(e, "%s: __metadata__ is not an object", name);
    if (upg_json_unique_keys(v, name, e)) return -1;
    size_t i, max;
    yyjson_val *key, *value;
    yyjson_obj_foreach(v, i, max, key, value) {
        if (!yyjson_is_str(value))
            return upg_fail(e, "%s: __metadata__ key '%s' is not a string", name, yyjson_get_str(key));
    }
    st->metadata = v;
    return 0;
}

static int parse_entries(upg_safetensors *st, const char *name, upg_error *e) {
    yyjson_val *root = yyjson_doc_get_root(st->doc), *key, *value;
    size_t i, max;
    st->entries = upg_alloc(yyjson_obj_size(root), sizeof *st->entries, e);
    if (!st->entries) return -1;
    yyjson_obj_foreach(root, i, max, key, value) {
        const char *k = yyjson_get_str(key);
        if (!strcmp(k, "__metadata__")) {
            if (parse_metadata(st, value, name, e)) return -1;
            continue;
        }
        upg_safetensors_entry *t = &st->entries[st->n++];
        t->name = k;
        if (!*k) return upg_fail(e, "%s: a tensor has an empty name", name);
        if (parse_entry(t, value, st->data_size, name, e)) return -1;
    }
    qsort(st->entries, st->n, sizeof *st->entries, by_offset);
    return check_cover(st, name, e);
}

int upg_safetensors_parse(upg_safetensors *st, const uint8_t *buffer, size_t size, const char *name, upg_error *e) {
    *st = (upg_safetensors){0};
    if (size >= 4 && !memcmp(buffer, "GGUF", 4))
        return upg_fail(e, "%s: a GGUF file where a .upg or .safetensors file is needed", name);
    if (size < 8) return upg_fail(e, "%s: %zu bytes are too few for a .upg or .safetensors file", name, size);
    uint64_t header = upg_le64(buffer);
    if (header > UPG_SAFETENSORS_MAX_HEADER || header > size - 8)
        return upg_fail(
            e, "%s: not a .upg or .safetensors file, or cut short: header of %" PRIu64 " bytes in a file of %zu", name,
            header, size);
    if (!header || buffer[8] != '{') return upg_fail(e, "%s: not a .upg or .safetensors file: no header", name);
    st->data_start = 8 + (size_t)header;
    st->data_size = size - st->data_start;
    st->data = buffer + st->data_start;
    st->doc = upg_json_object((const char *)buffer + 8, (size_t)header, 0, name, e);
    if (st->doc && !parse_entries(st, name, e)) return 0;
    upg_safetensors_close(st);
    return -1;
}

void upg_safetensors_close(upg_safetensors *st) {
    free(st->entries);
    yyjson_doc_free(st->doc);
    *st = (upg_safetensors){0};
}
