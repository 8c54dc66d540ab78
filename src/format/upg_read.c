// Reading a .upg: the safetensors header and the JSON in its metadata are two descriptions of one file
// (docs/format.md), and every word of both is checked against the other and against the file before anything is handed
// out.
//
// Opening reads the header and the row scales only, so a file of any size opens at once; the tensors' data is mapped
// and read when it is used. Whether that data is what was written is upg_weights_verify's question.
#include "format/json.h"
#include "format/upg_file.h"
#include "codec/sparse.h"
#include "codec/trellis.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- The JSON's description of one tensor ----

// A number the JSON gives, as it is spelled there.
static const char *number(yyjson_val *v) {
    return yyjson_is_raw(v) ? yyjson_get_raw(v) : NULL;
}

// Decimal digits up to 2^31-1; -1 for anything else.
static int64_t parse_size(const char *s) {
    int64_t v = 0;
    if (!s || !*s) return -1;
    for (; *s; s++) {
        if (*s < '0' || *s > '9') return -1;
        v = v * 10 + (*s - '0');
        if (v > INT32_MAX) return -1;
    }
    return v;
}

static int parse_encoding(upg_tensor *t, const char *name, const char *file, upg_error *e) {
    for (upg_encoding k = UPG_F32; k <= UPG_BYTES; k++)
        if (!strcmp(name, upg_encoding_name(k))) {
            t->encoding = k;
            return 0;
        }
    return upg_fail(e, "%s: tensor '%s': unknown encoding '%s'; a later version of upg may know it", file, t->name,
                    name);
}

// Bits a weight as spelled in the file -> bits a step; 0 for anything else.
static int parse_bits(const char *s) {
    static const char *const names[] = {"2", "2.5", "3", "3.5", "4"};
    for (int i = 0; s && i <= UPG_TRELLIS_MAX_S - UPG_TRELLIS_MIN_S; i++)
        if (!strcmp(s, names[i])) return UPG_TRELLIS_MIN_S + i;
    return 0;
}

static int parse_sparse(upg_tensor *t, const char *bits, yyjson_val *rotated, const char *file, upg_error *e) {
    t->s = bits && !strcmp(bits, "4") ? 4 : bits && !strcmp(bits, "8") ? 8 : 0;
    t->unrotated = !yyjson_get_bool(rotated);
    if (!t->s) return upg_fail(e, "%s: tensor '%s': bits must be 4 or 8", file, t->name);
    return yyjson_is_bool(rotated) ? 0 : upg_fail(e, "%s: tensor '%s': rotated is not true or false", file, t->name);
}

static int parse_hash(yyjson_val *v, uint8_t hash[16], const char *what, const char *tensor, const char *file,
                      upg_error *e) {
    const char *s = upg_json_string(v);
    if (s && upg_file_hash_from_hex(s, hash)) return 0;
    return upg_fail(e, "%s: tensor '%s': %s is not %d lower-case hex digits", file, tensor, what, UPG_HEX_HASH);
}

// t->name is set; all that the description says is filled in, and only what belongs to the encoding is allowed.
static int parse_description(upg_tensor *t, yyjson_val *v, const char *file, upg_error *e) {
    if (!yyjson_is_obj(v)) return upg_fail(e, "%s: tensor '%s': its description is not an object", file, t->name);
    if (upg_json_unique_keys(v, file, e)) return -1;
    const char *encoding = upg_json_string(yyjson_obj_get(v, "encoding"));
    if (!encoding) return upg_fail(e, "%s: tensor '%s': no encoding", file, t->name);
    if (parse_encoding(t, encoding, file, e)) return -1;
    bool trellis = t->encoding == UPG_TRELLIS, sparse = t->encoding == UPG_SPARSE,
         coded = upg_encoding_is_coded(t->encoding);
    const char *problem = upg_file_name_problem(t->name, t->encoding);
    if (problem) return upg_fail(e, "%s: tensor '%s': %s", file, t->name, problem);
    size_t i, max;
    yyjson_val *key, *value;
    yyjson_obj_foreach(v, i, max, key, value) {
        const char *k = yyjson_get_str(key);
        if (strcmp(k, "encoding") && strcmp(k, "rows") && strcmp(k, "cols") && strcmp(k, "hash") &&
            !(coded && !strcmp(k, "scale_hash")) && !((trellis || sparse) && !strcmp(k, "bits")) &&
            !(sparse && !strcmp(k, "rotated")))
            return upg_fail(e, "%s: tensor '%s': key '%s' is unknown for encoding %s", file, t->name, k, encoding);
    }
    const char *bits = number(yyjson_obj_get(v, "bits"));
    if (trellis && !(t->s = parse_bits(bits)))
        return upg_fail(e, "%s: tensor '%s': bits must be 2, 2.5, 3, 3.5 or 4", file, t->name);
    if (sparse && parse_sparse(t, bits, yyjson_obj_get(v, "rotated"), file, e)) return -1;
    t->rows = parse_size(number(yyjson_obj_get(v, "rows")));
    t->cols = parse_size(number(yyjson_obj_get(v, "cols")));
    t->bytes = upg_encoded_bytes(t->encoding, t->s, t->rows, t->cols);
    if (!t->bytes) return upg_fail(e, "%s: tensor '%s': rows or cols are missing or not allowed", file, t->name);
    if (parse_hash(yyjson_obj_get(v, "hash"), t->hash, "hash", t->name, file, e)) return -1;
    if (!coded) return 0;
    return parse_hash(yyjson_obj_get(v, "scale_hash"), t->scale_hash, "scale_hash", t->name, file, e);
}

// ---- The header's description of the same tensor ----

// Entries by name, with a mark on those that the JSON accounts for.
typedef struct entry_ref {
    const upg_safetensors_entry *entry;
    bool used;
} entry_ref;

static int by_name(const void *a, const void *b) {
    return strcmp(((const entry_ref *)a)->entry->name, ((const entry_ref *)b)->entry->name);
}

static const upg_safetensors_entry *use_entry(entry_ref *refs, size_t n, const char *name) {
    upg_safetensors_entry wanted = {.name = name};
    entry_ref key = {.entry = &wanted}, *r = n ? bsearch(&key, refs, n, sizeof *refs, by_name) : NULL;
    if (!r) return NULL;
    r->used = true;
    return r->entry;
}

// Where data that kernels read must lie: aligned, and with readable bytes after it.
static int check_place(const upg_safetensors *st, const upg_safetensors_entry *s, const char *file, upg_error *e) {
    size_t alignment = upg_file_alignment(s->end - s->begin);
    if (s->begin % alignment)
        return upg_fail(e, "%s: tensor '%s': does not start at a multiple of %zu", file, s->name, alignment);
    if (st->data_size - s->end < UPG_TAIL)
        return upg_fail(e, "%s: tensor '%s': fewer than %d bytes follow it", file, s->name, UPG_TAIL);
    return 0;
}

static bool has_shape(const upg_safetensors_entry *s, const char *dtype, uint64_t rows, uint64_t cols) {
    if (strcmp(s->dtype, dtype)) return false;
    if (s->rank == 1) return rows == 1 && s->shape[0] == cols;
    return s->rank == 2 && s->shape[0] == rows && s->shape[1] == cols;
}

static int bind_scale(upg_tensor *t, const upg_safetensors *st, entry_ref *refs, const char *file, upg_error *e) {
    upg_buf name = {0};
    upg_buf_fmt(&name, "%s.scale", t->name);
    const upg_safetensors_entry *s = name.failed ? NULL : use_entry(refs, st->n, name.data);
    int rc = upg_buf_check(&name, e);
    upg_buf_free(&name);
    if (rc) return -1;
    if (!s) return upg_fail(e, "%s: tensor '%s': its row scales are missing", file, t->name);
    if (s->rank != 1 || !has_shape(s, "F32", 1, (uint64_t)t->rows))
        return upg_fail(e, "%s: tensor '%s': must be F32 with %" PRId64 " values", file, s->name, t->rows);
    if (check_place(st, s, file, e)) return -1;
    t->scale = (const float *)(const void *)(st->data + s->begin); // a multiple of 64 in an image that is aligned to 64
    int64_t row = upg_file_bad_scale(t->scale, t->rows);
    if (row < t->rows)
        return upg_fail(e, "%s: tensor '%s': scale %g of row %" PRId64 " is neither 0 nor within 2^-50..2^30", file,
                        t->name, (double)t->scale[row], row);
    return 0;
}

// s is the header's entry of t.
static int bind_tensor(upg_tensor *t, const upg_safetensors *st, const upg_safetensors_entry *s, entry_ref *refs,
                       const char *file, upg_error *e) {
    bool coded = t->encoding >= UPG_INT8;
    bool match = coded ? s->rank == 1 && has_shape(s, "U8", 1, t->bytes)
                       : has_shape(s, upg_encoding_name(t->encoding), (uint64_t)t->rows, (uint64_t)t->cols);
    if (!match)
        return upg_fail(e,
                        "%s: tensor '%s': is %s of %" PRIu64 " bytes, which does not match %s of %" PRId64 " x %" PRId64
                        " in %zu bytes",
                        file, t->name, s->dtype, s->end - s->begin, upg_encoding_name(t->encoding), t->rows, t->cols,
                        t->bytes);
    if (check_place(st, s, file, e)) return -1;
    t->data = st->data + s->begin;
    return upg_encoding_is_coded(t->encoding) ? bind_scale(t, st, refs, file, e) : 0;
}

static bool is_pad(const upg_safetensors_entry *s) {
    return !strncmp(s->name, "pad.", 4);
}

// What the JSON does not account for must be padding: U8, numbered from 0 in the order of the file.
static int check_rest(const upg_safetensors *st, const entry_ref *refs, const char *file, upg_error *e) {
    for (size_t i = 0; i < st->n; i++)
        if (!refs[i].used && !is_pad(refs[i].entry))
            return upg_fail(e, "%s: tensor '%s': is there, but not described", file, refs[i].entry->name);
    size_t n_pads = 0;
    for (size_t i = 0; i < st->n; i++) {
        const upg_safetensors_entry *s = &st->entries[i];
        if (!is_pad(s)) continue;
        char name[32];
        snprintf(name, sizeof name, "pad.%zu", n_pads++);
        if (strcmp(name, s->name)) return upg_fail(e, "%s: padding '%s' found, expected '%s'", file, s->name, name);
        if (strcmp(s->dtype, "U8") || s->rank != 1)
            return upg_fail(e, "%s: padding '%s' is not a row of U8", file, s->name);
    }
    return 0;
}

static int read_tensors(upg_weights *w, yyjson_val *tensors, const char *file, upg_error *e) {
    const upg_safetensors *st = &w->storage->headers[0];
    size_t n = yyjson_obj_size(tensors), i, max;
    if (!n) return upg_fail(e, "%s: no tensors in it", file);
    if (upg_json_unique_keys(tensors, file, e)) return -1;
    entry_ref *refs = upg_alloc(st->n, sizeof *refs, e);
    w->tensors = upg_alloc(n, sizeof *w->tensors, e);
    int rc = refs && w->tensors ? 0 : -1;
    for (size_t j = 0; !rc && j < st->n; j++) refs[j].entry = &st->entries[j];
    if (!rc) qsort(refs, st->n, sizeof *refs, by_name);
    yyjson_val *key, *value;
    yyjson_obj_foreach(tensors, i, max, key, value) {
        if (rc) break;
        upg_tensor *t = &w->tensors[w->n++];
        const upg_safetensors_entry *s = use_entry(refs, st->n, yyjson_get_str(key));
        if (!s)
            rc = upg_fail(e, "%s: tensor '%s': is described, but not there", file, yyjson_get_str(key));
        else
            t->name = s->name; // which lives as long as the weights; the JSON does not
        if (!rc) rc = parse_description(t, value, file, e);
        if (!rc) rc = bind_tensor(t, st, s, refs, file, e);
    }
    if (!rc) rc = check_rest(st, refs, file, e);
    free(refs);
    return rc ? rc : upg_weights_sort(w, file, e);
}

// ---- The JSON ----

static int parse_seed(yyjson_val *v, uint64_t *seed, const char *file, upg_error *e) {
    const char *s = upg_json_string(v);
    if (!s || strlen(s) != 16 || strspn(s, "0123456789abcdef") != 16)
        return upg_fail(e, "%s: rotation_seed is not 16 lower-case hex digits", file);
    *seed = strtoull(s, NULL, 16);
    return 0;
}

static int copy_json(char **out, yyjson_val *v, const char *what, const char *file, upg_error *e) {
    yyjson_write_err err;
    if (!yyjson_is_obj(v)) return upg_fail(e, "%s: %s is missing or not an object", file, what);
    if (upg_json_unique_keys(v, what, e)) return -1;
    *out = yyjson_val_write_opts(v, 0, NULL, NULL, &err);
    return *out ? 0 : upg_fail(e, "%s: %s: %s", file, what, err.msg);
}

static int check_keys(yyjson_val *root, const char *file, upg_error *e) {
    static const char *const known[] = {"version", "rotation_seed", "config", "chat_template", "tensors", "report"};
    size_t i, max;
    yyjson_val *key, *value;
    yyjson_obj_foreach(root, i, max, key, value) {
        (void)value;
        size_t k = 0, n = sizeof known / sizeof *known;
        while (k < n && strcmp(known[k], yyjson_get_str(key))) k++;
        if (k == n) return upg_fail(e, "%s: unknown key '%s'", file, yyjson_get_str(key));
    }
    return 0;
}

static int read_root(upg_weights *w, yyjson_val *root, const char *file, upg_error *e) {
    int64_t version = parse_size(number(yyjson_obj_get(root, "version")));
    if (version < 0) return upg_fail(e, "%s: no format version", file);
    if (version != UPG_FILE_VERSION)
        return upg_fail(
            e, "%s: format version %" PRId64 " is unknown (this program reads %d); a later version of upg may know it",
            file, version, UPG_FILE_VERSION);
    if (check_keys(root, file, e)) return -1;
    if (parse_seed(yyjson_obj_get(root, "rotation_seed"), &w->rotation_seed, file, e)) return -1;
    if (copy_json(&w->config, yyjson_obj_get(root, "config"), "config", file, e)) return -1;
    yyjson_val *template = yyjson_obj_get(root, "chat_template"), *report = yyjson_obj_get(root, "report");
    if (report && copy_json(&w->report, report, "report", file, e)) return -1;
    if (template) {
        const char *s = upg_json_string(template);
        if (!s) return upg_fail(e, "%s: chat_template is not a string without NUL", file);
        if (!(w->chat_template = upg_strdup(s, strlen(s), e))) return -1;
    }
    yyjson_val *tensors = yyjson_obj_get(root, "tensors");
    if (!yyjson_is_obj(tensors)) return upg_fail(e, "%s: no tensors in it", file);
    return read_tensors(w, tensors, file, e);
}

static int read_file(upg_weights *w, const char *file, upg_error *e) {
    const upg_safetensors *st = &w->storage->headers[0];
    if (st->data_start % UPG_PAGE)
        return upg_fail(e, "%s: its data does not start at a multiple of %d", file, UPG_PAGE);
    yyjson_val *meta = yyjson_obj_get(st->metadata, UPG_KEY_META);
    if (!meta) return upg_fail(e, "%s: not a .upg file", file);
    uint8_t hash[16];
    const char *hex = upg_json_string(yyjson_obj_get(st->metadata, UPG_KEY_META_HASH));
    if (!hex || !upg_file_hash_from_hex(hex, hash))
        return upg_fail(e, "%s: __metadata__ key '%s' is not %d lower-case hex digits", file, UPG_KEY_META_HASH,
                        UPG_HEX_HASH);
    yyjson_doc *doc = upg_json_object(yyjson_get_str(meta), yyjson_get_len(meta), YYJSON_READ_NUMBER_AS_RAW, file, e);
    if (!doc) return -1;
    w->compressed = true;
    w->file_bytes = st->data_start + st->data_size;
    int rc = read_root(w, yyjson_doc_get_root(doc), file, e);
    yyjson_doc_free(doc);
    return rc;
}

// ---- Entry points ----

static bool is_aligned(const void *p) {
    return (uintptr_t)p % UPG_LINE == 0;
}

// Parses a copy of the image that is aligned; the caller's header of the original is closed.
static int realign(struct upg_weights_storage *s, const uint8_t *data, size_t size, const char *name, upg_error *e) {
    upg_safetensors_close(&s->headers[0]);
    s->image = upg_aligned_alloc(size, e);
    if (!s->image) return -1;
    memcpy(s->image, data, size);
    return upg_safetensors_parse(&s->headers[0], s->image, size, name, e);
}

// st, which is taken over, describes data.
static int open_image(upg_weights *w, upg_safetensors *st, const uint8_t *data, size_t size, const char *name,
                      upg_error *e) {
    struct upg_weights_storage *s = w->storage = upg_alloc(1, sizeof *s, e);
    if (s) s->headers = upg_alloc(1, sizeof *s->headers, e);
    if (!s || !s->headers) {
        upg_safetensors_close(st);
        return -1;
    }
    s->headers[0] = *st;
    s->n_files = 1;
    if (!is_aligned(data) && realign(s, data, size, name, e)) return -1;
    return read_file(w, name, e);
}

int upg_read_open_file(upg_weights *w, upg_file *file, upg_safetensors *st, upg_error *e) {
    *w = (upg_weights){0};
    int rc = open_image(w, st, file->data, file->size, file->path, e);
    if (!rc && !w->storage->image) {
        w->storage->files = upg_alloc(1, sizeof *file, e);
        if (w->storage->files)
            w->storage->files[0] = *file;
        else
            rc = -1;
    }
    if (rc || w->storage->image) upg_file_close(file);
    if (rc) upg_weights_close(w);
    return rc;
}

int upg_weights_open_memory(upg_weights *w, const uint8_t *data, size_t size, const char *name, upg_error *e) {
    *w = (upg_weights){0};
    upg_safetensors st;
    if (upg_safetensors_parse(&st, data, size, name, e)) return -1;
    if (!open_image(w, &st, data, size, name, e)) return 0;
    upg_weights_close(w);
    return -1;
}

// ---- Verifying ----

static int check_hash(const void *data, size_t size, const uint8_t want[16], const char *what, const char *name,
                      upg_error *e) {
    uint8_t hash[16];
    upg_file_hash(data, size, hash);
    if (!memcmp(hash, want, 16)) return 0;
    return upg_fail(e, "tensor '%s': its %s differs from what was written: the file is damaged", name, what);
}

int upg_weights_verify(const upg_weights *w, upg_progress *progress, void *ctx, upg_error *e) {
    if (!w->compressed) return 0;
    uint64_t done = 0, total = 0;
    for (size_t i = 0; i < w->n; i++) total += w->tensors[i].bytes;
    const upg_safetensors *st = &w->storage->headers[0];
    yyjson_val *meta = yyjson_obj_get(st->metadata, UPG_KEY_META);
    uint8_t want[16], hash[16];
    upg_file_hash(yyjson_get_str(meta), yyjson_get_len(meta), hash);
    if (!upg_file_hash_from_hex(yyjson_get_str(yyjson_obj_get(st->metadata, UPG_KEY_META_HASH)), want) ||
        memcmp(hash, want, 16))
        return upg_fail(e, "the model's description differs from what was written: the file is damaged");
    for (size_t i = 0; i < w->n; i++) {
        const upg_tensor *t = &w->tensors[i];
        if (check_hash(t->data, t->bytes, t->hash, "data", t->name, e)) return -1;
        if (t->scale && check_hash(t->scale, (size_t)t->rows * 4, t->scale_hash, "row scales", t->name, e)) return -1;
        if (t->encoding == UPG_INT8 && memchr(t->data, 255, t->bytes))
            return upg_fail(e, "tensor '%s': has a byte 255, which stands for no weight", t->name);
        if (t->encoding == UPG_SPARSE && !upg_sparse_is_valid(t->data, t->rows, t->cols, t->s))
            return upg_fail(e, "tensor '%s': a block of it is not half full, or has a byte 255", t->name);
        done += t->bytes;
        if (progress && !progress(ctx, done, total)) return upg_fail(e, "cancelled");
    }
    for (size_t i = 0; i < st->n; i++) {
        const upg_safetensors_entry *s = &st->entries[i];
        for (size_t k = s->begin; is_pad(s) && k < s->end; k++)
            if (st->data[k]) return upg_fail(e, "padding '%s' is not zero: the file is damaged", s->name);
    }
    return 0;
}
