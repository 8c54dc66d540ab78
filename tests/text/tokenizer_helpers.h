// What the tokenizer's tests share: the committed vectors, tokenizer.json files composed from their parts, data from
// outside the repository, random text.
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "text/tokenizer.h"
#include "yyjson.h"

typedef struct rng {
    uint64_t state;
} rng;

static inline uint32_t random_below(rng *r, uint32_t n) { // splitmix64
    uint64_t z = r->state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ z >> 31) % n);
}

static inline yyjson_doc *read_json(const char *path) {
    yyjson_read_err err;
    yyjson_doc *doc = yyjson_read_file(path, 0, NULL, &err);
    if (!doc) print_message("%s: %s\n", path, err.msg);
    return doc;
}

static inline yyjson_doc *read_vectors(void) {
    yyjson_doc *doc = read_json("tests/vectors/tokenizer.json");
    assert_non_null(doc);
    return doc;
}

static inline yyjson_val *get(yyjson_val *object, const char *key) {
    yyjson_val *v = yyjson_obj_get(object, key);
    if (!v) fail_msg("no %s in the vectors", key);
    return v;
}

static inline void add_json(upg_buf *b, yyjson_val *v) {
    size_t n;
    char *text = yyjson_val_write(v, 0, &n);
    assert_non_null(text);
    upg_buf_add(b, text, n);
    free(text);
}

// The tokenizer.json of a case of the vectors: its parts around the shared model.
static inline upg_buf case_json(yyjson_val *vectors, yyjson_val *c) {
    upg_buf b = {0};
    size_t i, max;
    yyjson_val *key, *value;
    upg_buf_str(&b, "{");
    yyjson_obj_foreach(get(c, "spec"), i, max, key, value) {
        upg_buf_fmt(&b, "\"%s\":", yyjson_get_str(key));
        add_json(&b, value);
        upg_buf_str(&b, ",");
    }
    upg_buf_fmt(&b, "\"model\":{\"ignore_merges\":%s", yyjson_get_bool(get(c, "ignore_merges")) ? "true" : "false");
    yyjson_obj_foreach(get(vectors, "model"), i, max, key, value) {
        if (yyjson_equals_str(key, "ignore_merges")) continue;
        upg_buf_fmt(&b, ",\"%s\":", yyjson_get_str(key));
        add_json(&b, value);
    }
    upg_buf_str(&b, "}}");
    assert_false(b.failed);
    return b;
}

static inline yyjson_doc *read_spm(void) {
    yyjson_doc *doc = read_json("tests/vectors/spm.json");
    assert_non_null(doc);
    return doc;
}

// The tokenizer.json of a case of SentencePiece's kind.
static inline upg_buf spm_json(yyjson_val *vectors, yyjson_val *c) {
    upg_buf b = {0};
    size_t i, max;
    yyjson_val *key, *value;
    upg_buf_str(&b, "{");
    yyjson_obj_foreach(get(c, "spec"), i, max, key, value) {
        upg_buf_fmt(&b, "\"%s\":", yyjson_get_str(key));
        add_json(&b, value);
        upg_buf_str(&b, ",");
    }
    upg_buf_str(&b, "\"model\":{");
    yyjson_obj_foreach(get(c, "model"), i, max, key, value) {
        upg_buf_fmt(&b, "\"%s\":", yyjson_get_str(key));
        add_json(&b, value);
        upg_buf_str(&b, ",");
    }
    upg_buf_str(&b, "\"vocab\":");
    add_json(&b, get(vectors, "vocab"));
    upg_buf_str(&b, ",\"merges\":");
    add_json(&b, get(vectors, "merges"));
    upg_buf_str(&b, "}}");
    assert_false(b.failed);
    return b;
}

static inline upg_tokenizer *load(const upg_buf *json, const char *config) {
    upg_error e = {""};
    upg_tokenizer *t = upg_tokenizer_from_json(json->data, json->size, config, &e);
    if (!t) fail_msg("%s", e.message);
    return t;
}

static inline upg_tokenizer *load_case(yyjson_val *vectors, const char *name) {
    size_t i, max;
    yyjson_val *c;
    yyjson_arr_foreach(get(vectors, "cases"), i, max, c) {
        if (!yyjson_equals_str(get(c, "name"), name)) continue;
        upg_buf json = case_json(vectors, c);
        upg_tokenizer *t = load(&json, NULL);
        upg_buf_free(&json);
        return t;
    }
    fail_msg("no case %s", name);
    return NULL;
}

static inline upg_tokenizer *repack(const upg_tokenizer *t) {
    upg_error e = {""};
    upg_buf packed = {0};
    if (upg_tokenizer_pack(t, &packed, &e)) fail_msg("%s", e.message);
    upg_tokenizer *again = upg_tokenizer_unpack((const uint8_t *)packed.data, packed.size, &e);
    if (!again) fail_msg("%s", e.message);
    upg_buf_free(&packed);
    return again;
}

static inline upg_ids encode(const upg_tokenizer *t, const char *text, size_t n, bool special) {
    upg_error e = {""};
    upg_ids ids = {0};
    if (upg_tokenizer_encode(t, text, n, special, &ids, &e)) fail_msg("%s", e.message);
    return ids;
}

static inline upg_buf decode(const upg_tokenizer *t, const upg_ids *ids, bool special) {
    upg_buf b = {0};
    upg_detokenizer d = {0};
    for (size_t i = 0; i < ids->size; i++) upg_detokenizer_push(&d, t, ids->data[i], special, &b);
    upg_detokenizer_finish(&d, &b);
    assert_false(b.failed);
    return b;
}

// A file of the data that does not come with the repository; NULL, with a message, where it is absent.
static inline yyjson_doc *read_shared(const char *name) {
    const char *root = getenv("UPG_SHARED");
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", root ? root : "../shared", name);
    return upg_path_exists(path) ? read_json(path) : (print_message("%s is not here\n", path), NULL);
}

static inline char *read_shared_text(const char *name, size_t *n) {
    const char *root = getenv("UPG_SHARED");
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", root ? root : "../shared", name);
    if (upg_path_exists(path)) return upg_read_text(path, (size_t)1 << 30, n, NULL);
    print_message("%s is not here\n", path);
    return NULL;
}

static inline size_t put_utf8(char *out, uint32_t c) {
    if (c < 0x80) return out[0] = (char)c, 1;
    if (c < 0x800) return out[0] = (char)(0xC0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000)
        return out[0] = (char)(0xE0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63)), out[2] = (char)(0x80 | (c & 63)),
               3;
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

// A character that patterns care about, or, one time in eight, any at all (no surrogate).
static inline uint32_t random_char(rng *r) {
    static const uint32_t pool[] = {'a',   'e',   'l',    'L',    's',     'S',     't',    'T',  'r',    'R',
                                    'v',   'V',   'd',    'm',    '\'',    '\'',    '\'',   ' ',  ' ',    ' ',
                                    '\n',  '\r',  '\t',   '1',    '2',     '3',     '.',    '!',  '/',    '<',
                                    '|',   0x17F, 0x212A, 0xE9,   0x416,   0x4E2D,  0xA0,   0x85, 0x2028, 0x3000,
                                    0x301, 0x661, 0xBD,   0x200D, 0x1F600, 0x1D7D8, 0x2019, '_'};
    if (random_below(r, 8)) return pool[random_below(r, sizeof pool / sizeof *pool)];
    uint32_t limit = random_below(r, 2) ? 0x3000 : 0x110000, c = random_below(r, limit);
    return c >= 0xD800 && c < 0xE000 ? 'x' : c;
}

static inline size_t random_text(rng *r, char *out, size_t n_chars) {
    size_t n = 0;
    for (size_t i = 0; i < n_chars; i++) n += put_utf8(out + n, random_char(r));
    return n;
}
