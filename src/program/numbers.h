// Numbers and layouts that every backend shares: bit casts, guards, signs, block sizes, the KV cache's layout, RoPE
// tables.
#pragma once
#include "arch/config.h"
#include "codec/panel.h"
#include <string.h>

#define UPG_GUARD_HIGH 0x58800000u // bits of 2^50
#define UPG_GUARD_LOW  0x21800000u // bits of 2^-60

enum { UPG_KV_BLOCK = 256 }; // positions in a block of the KV cache

static inline uint32_t upg_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline float upg_float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline uint64_t upg_splitmix64(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
// The sign bit of input i: 0 or 0x80000000.
static inline uint32_t upg_sign(uint64_t seed, uint64_t i) {
    return (uint32_t)(upg_splitmix64(seed, i) >> 63) << 31;
}

// One layer's int8 KV cache is a pool of blocks; a block holds for each KV head, one after another, keys, values,
// k_scale [256] f32, v_scale [256] f32. Keys and values lie as the products of attention read them, with dim padded to
// D, a multiple of 16, whose padding may hold anything:
// keys [16 tiles][D/4][16 keys][4 dims], values [64 quads][D][4 positions].
typedef struct upg_kv_head {
    int8_t *k, *v;
    float *k_scale, *v_scale;
} upg_kv_head;
typedef struct upg_kv_pool {
    uint8_t *data;       // the layer's first block
    size_t block_stride; // bytes from a block to the next
} upg_kv_pool;
static inline size_t upg_kv_head_bytes(int dim) {
    return (size_t)UPG_KV_BLOCK * (2 * (size_t)upg_pad16(dim) + 2 * sizeof(float));
}
static inline upg_kv_head upg_kv_head_at(const upg_kv_pool *pool, int32_t block, int head, int dim) {
    uint8_t *p = pool->data + (size_t)block * pool->block_stride + (size_t)head * upg_kv_head_bytes(dim);
    size_t n = (size_t)UPG_KV_BLOCK * (size_t)upg_pad16(dim);
    float *scales = (float *)(void *)(p + 2 * n);
    return (upg_kv_head){(int8_t *)p, (int8_t *)p + n, scales, scales + UPG_KV_BLOCK};
}
// Where dimension i of the key, or value, in a slot 0..255 lies. D: dim padded.
static inline size_t upg_kv_key_at(int D, int slot, int i) {
    return ((size_t)(slot / 16) * (size_t)(D / 4) + (size_t)(i / 4)) * 64 + (size_t)(slot % 16 * 4 + i % 4);
}
static inline size_t upg_kv_value_at(int D, int slot, int i) {
    return ((size_t)(slot / 4) * (size_t)D + (size_t)i) * 4 + (size_t)(slot % 4);
}
// Stores a quantised key, or value. q: [dim]
static inline void upg_kv_store_key(const upg_kv_head *kv, int dim, int slot, const int8_t *q, float scale) {
    for (int i = 0; i < dim; i++) kv->k[upg_kv_key_at((int)upg_pad16(dim), slot, i)] = q[i];
    kv->k_scale[slot] = scale;
}
static inline void upg_kv_store_value(const upg_kv_head *kv, int dim, int slot, const int8_t *q, float scale) {
    for (int i = 0; i < dim; i++) kv->v[upg_kv_value_at((int)upg_pad16(dim), slot, i)] = q[i];
    kv->v_scale[slot] = scale;
}

// Attention of `rows` rows of one sequence, one position after another, for the `heads` query heads that share a KV
// head: at most UPG_ATTEND_QUERIES queries.
enum { UPG_ATTEND_QUERIES = 32 };
typedef struct upg_attend {
    int rows, heads;
    const int8_t *q;      // [rows][row_heads][dim padded to 16, zeros behind dim], from the first of the heads
    const float *q_scale; // [rows][row_heads]
    int row_heads;        // query heads of the model
    float *out;           // [rows][dim of each head], rows out_stride apart
    size_t out_stride;
    float c;
    int dim, b;            // head_dim and its block
    int position, window;  // of the first row; positions that a row sees, itself included, or 0 for all
    int head;              // KV head
    const int32_t *blocks; // the sequence's block table
    const upg_kv_pool *pool;
} upg_attend;

// The queries of one upg_attend on their way through the blocks of keys. D: head_dim padded to 16.
typedef struct upg_attention {
    int n, D;
    _Alignas(64) int8_t q[UPG_ATTEND_QUERIES][UPG_MAX_HEAD_DIM];
    _Alignas(64) int32_t dots[UPG_ATTEND_QUERIES][UPG_KV_BLOCK]; // of a block's keys; then the weights of its values
    _Alignas(64) int32_t acc[UPG_ATTEND_QUERIES][UPG_MAX_HEAD_DIM];
    float m[UPG_ATTEND_QUERIES], l[UPG_ATTEND_QUERIES];
    bool begun[UPG_ATTEND_QUERIES];
} upg_attention;

// cosine, sine: [n_positions][rotary_dim/2]. n_positions is the session's context, which also chooses longrope's
// factors.
void upg_rope_tables(const upg_config *c, int n_positions, float *cosine, float *sine);
double upg_elog(double x);
double upg_eexp(double x);
void upg_esincos(double x, double *sine, double *cosine);
float upg_exp(float x); // section 8
float upg_log(float x);
