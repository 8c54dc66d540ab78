// GGUF files for tests, made value by value, so that each can be wrong in one place.
#pragma once
#include "format_helpers.h"

typedef struct gguf_maker {
    upg_buf values, tensors, data; // metadata, tensor list, tensors' bytes
    uint64_t n_values, n_tensors;
    uint32_t version;
    size_t alignment;
} gguf_maker;

enum { G_U8, G_I8, G_U16, G_I16, G_U32, G_I32, G_F32, G_BOOL, G_STRING, G_ARRAY, G_U64, G_I64, G_F64 };

static inline gguf_maker gguf_new(void) {
    return (gguf_maker){.version = 3, .alignment = 32};
}

static inline void put32(upg_buf *b, uint32_t x) {
    for (int i = 0; i < 4; i++) upg_buf_add(b, &(uint8_t){(uint8_t)(x >> 8 * i)}, 1);
}
static inline void put64(upg_buf *b, uint64_t x) {
    put32(b, (uint32_t)x);
    put32(b, (uint32_t)(x >> 32));
}
static inline void put_string(upg_buf *b, const char *s) {
    put64(b, strlen(s));
    upg_buf_str(b, s);
}

// A key and its type; the value follows by the functions above.
static inline upg_buf *gguf_key(gguf_maker *m, const char *key, uint32_t type) {
    put_string(&m->values, key);
    put32(&m->values, type);
    m->n_values++;
    return &m->values;
}
static inline void gguf_u32(gguf_maker *m, const char *key, uint32_t x) {
    put32(gguf_key(m, key, G_U32), x);
}
static inline void gguf_f32(gguf_maker *m, const char *key, float x) {
    upg_buf_add(gguf_key(m, key, G_F32), &x, 4);
}
static inline void gguf_string(gguf_maker *m, const char *key, const char *s) {
    put_string(gguf_key(m, key, G_STRING), s);
}

// An entry of the tensor list alone. shape: fastest first.
static inline void gguf_entry(gguf_maker *m, const char *name, uint32_t type, uint32_t rank, const uint64_t *shape,
                              uint64_t offset) {
    put_string(&m->tensors, name);
    put32(&m->tensors, rank);
    for (uint32_t i = 0; i < rank; i++) put64(&m->tensors, shape[i]);
    put32(&m->tensors, type);
    put64(&m->tensors, offset);
    m->n_tensors++;
}

// rows 0: a vector.
static inline void gguf_tensor(gguf_maker *m, const char *name, uint32_t type, uint64_t rows, uint64_t cols,
                               const void *data, size_t bytes) {
    while (m->data.size % m->alignment) upg_buf_add(&m->data, "", 1);
    gguf_entry(m, name, type, rows ? 2 : 1, (uint64_t[]){cols, rows}, m->data.size);
    upg_buf_add(&m->data, data, bytes);
}

// An F32 tensor of 0, 1, 2, ...
static inline void gguf_counting(gguf_maker *m, const char *name, uint64_t rows, uint64_t cols) {
    size_t n = (size_t)((rows ? rows : 1) * cols);
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = (float)i;
    gguf_tensor(m, name, 0, rows, cols, x, n * sizeof *x);
    free(x);
}

// The file. Frees what m holds.
static inline upg_buf gguf_image(gguf_maker *m) {
    upg_buf b = {0};
    upg_buf_str(&b, "GGUF");
    put32(&b, m->version);
    put64(&b, m->n_tensors);
    put64(&b, m->n_values);
    upg_buf_add(&b, m->values.data, m->values.size);
    upg_buf_add(&b, m->tensors.data, m->tensors.size);
    while (b.size % m->alignment) upg_buf_add(&b, "", 1);
    upg_buf_add(&b, m->data.data, m->data.size);
    assert_false(b.failed || m->values.failed || m->tensors.failed || m->data.failed);
    upg_buf_free(&m->values);
    upg_buf_free(&m->tensors);
    upg_buf_free(&m->data);
    return b;
}

static inline void gguf_write(gguf_maker *m, const char *dir, const char *name) {
    upg_buf b = gguf_image(m);
    write_file(dir, name, b.data, b.size);
    upg_buf_free(&b);
}

// ---- A model of one layer: hidden size 32, two heads of 16, one KV head, 64 units, 4 tokens ----

static inline void gguf_sample_keys(gguf_maker *m, const char *arch) {
    static const struct {
        const char *key;
        uint32_t value;
    } keys[] = {{"embedding_length", 32},    {"feed_forward_length", 64},    {"block_count", 1},
                {"attention.head_count", 2}, {"attention.head_count_kv", 1}, {"context_length", 128}};
    char name[96];
    gguf_string(m, "general.architecture", arch);
    for (size_t i = 0; i < COUNT(keys); i++) {
        snprintf(name, sizeof name, "%s.%s", arch, keys[i].key);
        gguf_u32(m, name, keys[i].value);
    }
    snprintf(name, sizeof name, "%s.attention.layer_norm_rms_epsilon", arch);
    gguf_f32(m, name, 1e-5f);
}

static inline void gguf_sample_tensors(gguf_maker *m, bool fused) {
    gguf_counting(m, "token_embd.weight", 4, 32);
    gguf_counting(m, "blk.0.attn_norm.weight", 0, 32);
    if (fused) {
        gguf_counting(m, "blk.0.attn_qkv.weight", 64, 32);
    } else {
        gguf_counting(m, "blk.0.attn_q.weight", 32, 32);
        gguf_counting(m, "blk.0.attn_k.weight", 16, 32);
        gguf_counting(m, "blk.0.attn_v.weight", 16, 32);
        gguf_counting(m, "blk.0.ffn_gate.weight", 64, 32);
    }
    gguf_counting(m, "blk.0.attn_output.weight", 32, 32);
    gguf_counting(m, "blk.0.ffn_norm.weight", 0, 32);
    gguf_counting(m, "blk.0.ffn_up.weight", fused ? 128 : 64, 32);
    gguf_counting(m, "blk.0.ffn_down.weight", 32, 64);
    gguf_counting(m, "output_norm.weight", 0, 32);
}

static inline gguf_maker gguf_sample(const char *arch) {
    gguf_maker m = gguf_new();
    gguf_sample_keys(&m, arch);
    gguf_sample_tensors(&m, !strcmp(arch, "phi3"));
    return m;
}

// Opens what m makes as m.gguf in dir.
static inline int gguf_open(upg_weights *w, gguf_maker *m, const char *dir, upg_error *e) {
    char path[256];
    gguf_write(m, dir, "m.gguf");
    return upg_weights_open(w, path_in(path, dir, "m.gguf"), e);
}
