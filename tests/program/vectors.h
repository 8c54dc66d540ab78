// Reading tests/vectors/arithmetic.json: what an independent implementation of docs/arithmetic.md computed. The file's
// "readme" says what its fields mean. A kind of case is checked by a function; expect_* compare its results with a
// field, bit for bit.
#pragma once
#include "paths.h"
#include "yyjson.h"

#define VECTORS_PATH "tests/vectors/arithmetic.json"

static yyjson_doc *vectors;

static inline int open_vectors(void **state) {
    (void)state;
    yyjson_read_err e;
    vectors = yyjson_read_file(VECTORS_PATH, 0, NULL, &e);
    if (!vectors) fprintf(stderr, "%s: %s\n", VECTORS_PATH, e.msg);
    return vectors ? 0 : -1;
}
static inline int close_vectors(void **state) {
    (void)state;
    yyjson_doc_free(vectors);
    return 0;
}

// Memory of the case being checked, released after it.
static struct kept {
    void *p[64];
    size_t n;
} kept;

static inline void *keep(size_t count, size_t size) {
    if (kept.n == sizeof kept.p / sizeof *kept.p) exit(1);
    return kept.p[kept.n++] = zeroed(count, size);
}
static inline void release_kept(void) {
    while (kept.n) upg_aligned_free(kept.p[--kept.n]);
}

// Fields of a case.
static inline yyjson_val *field(yyjson_val *c, const char *key) {
    yyjson_val *v = yyjson_obj_get(c, key);
    if (!v) differ("there is no field %s", key);
    return v;
}
static inline size_t count(yyjson_val *c, const char *key) {
    return yyjson_arr_size(field(c, key));
}
static inline int integer(yyjson_val *c, const char *key) {
    return yyjson_get_int(field(c, key));
}
static inline double number(yyjson_val *c, const char *key) {
    return yyjson_get_num(field(c, key));
}
static inline float float_bits(yyjson_val *c, const char *key) {
    return upg_float((uint32_t)yyjson_get_uint(field(c, key)));
}
static inline uint64_t hex64(yyjson_val *v) {
    const char *s = yyjson_get_str(v);
    return s ? strtoull(s, NULL, 16) : 0;
}

// An array of integers, signed or not, as their 32 bits.
static inline uint32_t *words(yyjson_val *c, const char *key) {
    uint32_t *w = keep(count(c, key), sizeof *w);
    yyjson_val *v;
    size_t i, n;
    yyjson_arr_foreach(field(c, key), i, n, v) w[i] =
        (uint32_t)(yyjson_is_sint(v) ? (uint64_t)yyjson_get_sint(v) : yyjson_get_uint(v));
    return w;
}
static inline int32_t *integers(yyjson_val *c, const char *key) {
    size_t n = count(c, key);
    int32_t *out = keep(n, sizeof *out);
    memcpy(out, words(c, key), n * sizeof *out);
    return out;
}
static inline float *floats(yyjson_val *c, const char *key) {
    size_t n = count(c, key);
    float *out = keep(n, sizeof *out);
    memcpy(out, words(c, key), n * sizeof *out);
    return out;
}

// The floats that the generator object `key` stands for.
static inline float *generated(yyjson_val *c, const char *key, size_t *n) {
    yyjson_val *g = field(c, key), *exps = yyjson_obj_get(g, "exps");
    *n = (size_t)integer(g, "n");
    uint64_t seed = hex64(field(g, "seed"));
    float scale = float_bits(g, "scale"), *v = keep(*n, sizeof *v);
    int32_t *e = exps ? integers(g, "exps") : NULL;
    size_t row = e ? *n / count(g, "exps") : 0;
    for (size_t i = 0; i < *n; i++) {
        v[i] = ((float)((int64_t)(upg_splitmix64(seed, i) >> 40) - (1 << 23)) * 0x1p-22f) * scale;
        if (e) v[i] = e[i / row] == -999 ? 0.0f : ldexpf(v[i], e[i / row]);
        if (yyjson_obj_get(g, "rint")) v[i] = rintf(v[i]);
    }
    return v;
}

// A case's coded matrix.
static inline upg_tensor matrix(yyjson_val *c) {
    bool sparse = yyjson_obj_get(c, "sparse") != NULL;
    int s = integer(c, sparse ? "sparse" : "S");
    upg_tensor w = {.encoding = sparse ? UPG_SPARSE : s ? UPG_TRELLIS : UPG_INT8, .s = s};
    w.unrotated = sparse && !integer(c, "rotated");
    w.rows = integer(c, "rows");
    w.cols = integer(c, "cols");
    w.bytes = upg_encoded_bytes(w.encoding, s, w.rows, w.cols);
    w.scale = floats(c, "scale");
    uint8_t *data = keep(w.bytes, 1);
    w.data = data;
    yyjson_val *fill = yyjson_obj_get(c, "fill");
    if (fill) {
        memset(data, yyjson_get_int(fill), w.bytes);
        return w;
    }
    const char *hex = yyjson_get_str(field(c, "hex"));
    if (!hex || strlen(hex) != 2 * w.bytes) {
        differ("the matrix has %zu bytes, not %zu", hex ? strlen(hex) / 2 : 0, w.bytes);
        return w;
    }
    for (size_t i = 0; i < w.bytes; i++) {
        char digits[3] = {hex[2 * i], hex[2 * i + 1], 0};
        data[i] = (uint8_t)strtoul(digits, NULL, 16);
    }
    return w;
}

static inline void expect_floats(yyjson_val *c, const char *key, const float *got, size_t n) {
    if (count(c, key) == n)
        same(key, got, words(c, key), n, sizeof *got);
    else
        differ("%s has %zu values, not %zu", key, count(c, key), n);
}
static inline void expect_integers(yyjson_val *c, const char *key, const int32_t *got, size_t n) {
    if (count(c, key) == n)
        same(key, got, words(c, key), n, sizeof *got);
    else
        differ("%s has %zu values, not %zu", key, count(c, key), n);
}
static inline void expect_int8(yyjson_val *c, const char *key, const int8_t *got, size_t n) {
    int32_t *wide = keep(n, sizeof *wide);
    for (size_t i = 0; i < n; i++) wide[i] = got[i];
    expect_integers(c, key, wide, n);
}
static inline void expect_float(yyjson_val *c, const char *key, float got) {
    float want = float_bits(c, key);
    same(key, &got, &want, 1, sizeof got);
}
static inline void expect_integer(yyjson_val *c, const char *key, int got) {
    if (integer(c, key) != got) differ("%s is %d, not %d", key, got, integer(c, key));
}

// One kind of case. check is called for every case, on every path this machine has or, if it does not depend on the
// instruction set, once.
typedef struct kind {
    const char *name;
    void (*check)(yyjson_val *c, const upg_cpu_kernels *k);
    bool every_path;
} kind;

static inline void check_cases(void *ctx, int task, int thread) {
    (void)task, (void)thread;
    const kind *k = ctx;
    yyjson_val *cases = yyjson_obj_get(yyjson_doc_get_root(vectors), k->name), *c;
    at("%s", k->name);
    if (!yyjson_arr_size(cases)) differ("no cases");
    for (int p = 0; path(p) && (k->every_path || !p); p++) {
        size_t i, n;
        yyjson_arr_foreach(cases, i, n, c) {
            if (EMULATED && !k->every_path && i % 4) continue;
            at("%s case %zu, %s", k->name, i, path(p)->isa);
            k->check(c, path(p));
            release_kept();
        }
    }
}

// The cmocka test of a kind: its initial state is the kind.
static inline void test_kind(void **state) {
    check_flushed(check_cases, *state);
}
