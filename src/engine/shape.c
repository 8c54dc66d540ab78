// Random models of known shapes. See shape.h.
//
// All tensors lie in one anonymous mapping of huge pages, filled by all threads. A row's scale makes a product of unit
// inputs a unit output, so that activations stay finite through any number of layers.
#include "engine/shape.h"
#include "base/thread.h"
#include "codec/trellis.h"
#include "format/upg_file.h"
#include "program/numbers.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// Longrope (Phi-4-mini) is left out: it changes what RoPE's tables hold, not what it costs.
static const upg_shape shapes[] = {
    {"phi-4", "Phi3ForCausalLM", true, false, 5120, 17920, 40, 40, 10, 128, 100352, 16384, 250000, 1},
    {"phi-4-mini", "Phi3ForCausalLM", true, true, 3072, 8192, 32, 24, 8, 128, 200064, 131072, 10000, .75},
    {"llama-3-8b", "LlamaForCausalLM", false, false, 4096, 14336, 32, 32, 8, 128, 128256, 8192, 500000, 1},
    {"mistral-7b", "MistralForCausalLM", false, false, 4096, 14336, 32, 32, 8, 128, 32000, 32768, 10000, 1},
    {"smollm2-135m", "LlamaForCausalLM", false, true, 576, 1536, 30, 9, 3, 64, 49152, 8192, 100000, 1},
    {"qwen2.5-0.5b", "Qwen2ForCausalLM", false, true, 896, 4864, 24, 14, 2, 64, 151936, 32768, 1000000, 1},
    {"qwen3-0.6b", "Qwen3ForCausalLM", false, true, 1024, 3072, 28, 16, 8, 128, 151936, 40960, 1000000, 1}};

const upg_shape *upg_shape_find(const char *name) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (!strcmp(name, shapes[i].name)) return &shapes[i];
    return NULL;
}

// ---- Bits ----

enum { INT8_S = 2 * 8 };

// Bits of two weights, as a tensor's s: 4..8 for the trellis, 16 for int8.
typedef struct bits {
    int layer, embedding, head;
} bits;

static double layer_weights(const upg_shape *s) {
    double h = s->hidden, q = (double)s->heads * s->head_dim, kv = (double)s->kv_heads * s->head_dim;
    return h * (q + 2 * kv) + q * h + 3 * h * s->ffn;
}

static double bits_a_weight(const upg_shape *s, bits b) {
    double layers = s->layers * layer_weights(s), vocabulary = (double)s->vocabulary * s->hidden;
    double weights = layers + vocabulary * (s->tied ? 1 : 2);
    return (layers * b.layer + vocabulary * (b.embedding + b.head)) / 2 / weights;
}

// The most for one of b's fields; it keeps what it has if more would be too much.
static void raise_bits(const upg_shape *s, bits *b, int *field, double most) {
    static const int steps[] = {4, 5, 6, 7, 8, INT8_S};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        int before = *field;
        if (steps[i] <= before) continue;
        *field = steps[i];
        if (bits_a_weight(s, *b) > most) {
            *field = before;
            return;
        }
    }
}

static bits choose_bits(const upg_shape *s, double layer_bits, double most) {
    bits b = {UPG_TRELLIS_MIN_S, s->tied ? INT8_S : 6, s->tied ? 0 : 8};
    if (layer_bits > 0)
        b.layer = (int)(2 * layer_bits);
    else
        raise_bits(s, &b, &b.layer, most);
    if (!s->tied) {
        raise_bits(s, &b, &b.head, most);
        raise_bits(s, &b, &b.embedding, most);
    }
    return b;
}

// ---- Tensors ----

enum { CHUNK = 1 << 20, NAME = 64 };

typedef struct builder {
    upg_weights *w;
    char (*names)[NAME];
    size_t bytes; // of the mapping
} builder;

static size_t take(builder *b, size_t bytes) {
    size_t at = b->bytes, unit = UPG_PAGE;
    b->bytes += (bytes + UPG_TAIL + unit - 1) / unit * unit;
    return at;
}

// data and scale are offsets until the mapping is there.
static void add(builder *b, int64_t rows, int64_t cols, int s, const char *name) {
    upg_tensor *t = &b->w->tensors[b->w->n];
    snprintf(b->names[b->w->n], NAME, "%s.weight", name);
    *t = (upg_tensor){.name = b->names[b->w->n++], .rows = rows, .cols = cols};
    t->encoding = rows == 1 ? UPG_F32 : s == INT8_S ? UPG_INT8 : UPG_TRELLIS;
    t->s = t->encoding == UPG_TRELLIS ? s : 0;
    t->bytes = upg_encoded_bytes(t->encoding, t->s, rows, cols);
    t->data = (const uint8_t *)take(b, t->bytes);
    if (rows > 1) t->scale = (const float *)take(b, (size_t)rows * sizeof(float));
}

static void add_vector(builder *b, int64_t n, const char *name) {
    upg_tensor *t = &b->w->tensors[b->w->n];
    snprintf(b->names[b->w->n], NAME, "%s", name);
    *t = (upg_tensor){.name = b->names[b->w->n++], .rows = 1, .cols = n, .encoding = UPG_F32};
    t->bytes = upg_encoded_bytes(UPG_F32, 0, 1, n);
    t->data = (const uint8_t *)take(b, t->bytes);
}

static void add_layer(builder *b, const upg_shape *shape, int layer, int s) {
    int h = shape->hidden, q = shape->heads * shape->head_dim, kv = shape->kv_heads * shape->head_dim, f = shape->ffn;
    const struct {
        const char *name;
        int rows, cols;
    } fused[] = {{"self_attn.qkv_proj", q + 2 * kv, h}, {"mlp.gate_up_proj", 2 * f, h}},
      apart[] = {{"self_attn.q_proj", q, h},
                 {"self_attn.k_proj", kv, h},
                 {"self_attn.v_proj", kv, h},
                 {"mlp.gate_proj", f, h},
                 {"mlp.up_proj", f, h}},
      always[] = {{"input_layernorm", 1, h},
                  {"post_attention_layernorm", 1, h},
                  {"self_attn.o_proj", h, q},
                  {"mlp.down_proj", h, f}};
    // Biases of Qwen2, norms of heads in Qwen3.
    const bool biases = !strcmp(shape->architecture, "Qwen2ForCausalLM"),
               norms = !strcmp(shape->architecture, "Qwen3ForCausalLM");
    char name[NAME];
    for (int i = 0; i < 3 && biases; i++) {
        snprintf(name, NAME, "model.layers.%d.%s.bias", layer, apart[i].name);
        add_vector(b, apart[i].rows, name);
    }
    for (int i = 0; i < 2 && norms; i++) {
        snprintf(name, NAME, "model.layers.%d.self_attn.%c_norm.weight", layer, "qk"[i]);
        add_vector(b, shape->head_dim, name);
    }
    for (int i = 0; i < (shape->fused ? 2 : 5); i++) {
        snprintf(name, NAME, "model.layers.%d.%s", layer, shape->fused ? fused[i].name : apart[i].name);
        add(b, shape->fused ? fused[i].rows : apart[i].rows, h, s, name);
    }
    for (int i = 0; i < 4; i++) {
        snprintf(name, NAME, "model.layers.%d.%s", layer, always[i].name);
        add(b, always[i].rows, always[i].cols, s, name);
    }
}

// Any bytes are codes of the trellis; an int8 weight may not be 255, and even bytes lie evenly around 127.
typedef struct fill {
    uint8_t *data;
    size_t bytes;
    uint64_t seed, mask;
} fill;

static void fill_task(void *ctx, int task, int thread) {
    (void)thread;
    const fill *f = ctx;
    size_t from = (size_t)task * CHUNK, to = from + CHUNK < f->bytes ? from + CHUNK : f->bytes;
    for (size_t at = from; at < to; at += 8) {
        uint64_t v = upg_splitmix64(f->seed, at / 8) & f->mask;
        memcpy(f->data + at, &v, to - at < 8 ? to - at : 8);
    }
}

static void fill_tensor(upg_tensor *t, uint8_t *base, uint64_t seed, upg_pool *pool) {
    uint8_t *data = base + (size_t)t->data;
    float *scale = t->scale ? (float *)(void *)(base + (size_t)t->scale) : NULL;
    t->data = data;
    t->scale = scale;
    if (!scale) {
        for (int64_t i = 0; i < t->cols; i++) ((float *)(void *)data)[i] = 1;
        return;
    }
    bool int8 = t->encoding == UPG_INT8;
    double std = int8 ? 254 / sqrt(12) : UPG_TRELLIS_STD;
    double inputs = (double)t->cols * upg_block((int)upg_pad16(t->cols)); // rotated, not normalised
    for (int64_t r = 0; r < t->rows; r++) scale[r] = (float)(1 / (std * sqrt(inputs)));
    fill f = {data, t->bytes, seed, int8 ? 0xfefefefefefefefe : UINT64_MAX};
    upg_pool_run(pool, fill_task, &f, (int)((t->bytes + CHUNK - 1) / CHUNK));
}

static int fill_all(builder *b, upg_error *e) {
    upg_file *file = &b->w->storage->files[0];
    void *base = mmap(NULL, b->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return upg_fail(e, "no memory for %zu bytes of weights", b->bytes);
    madvise(base, b->bytes, MADV_HUGEPAGE);
    *file = (upg_file){.data = base, .size = b->bytes, .mapped = true};
    b->w->file_bytes = b->bytes;
    upg_pool *pool = upg_pool_new(0, e);
    if (!pool) return -1;
    for (size_t i = 0; i < b->w->n; i++) fill_tensor(&b->w->tensors[i], base, i, pool);
    upg_pool_free(pool);
    return 0;
}

static int fill_weights(upg_weights *w, const upg_shape *shape, int layers, bits k, upg_error *e) {
    size_t most = (size_t)layers * 12 + 3; // tensors
    builder b = {.w = w};
    w->tensors = upg_alloc(most, sizeof *w->tensors, e);
    w->storage = upg_alloc(1, sizeof *w->storage, e);
    if (!w->tensors || !w->storage) return -1;
    w->storage->n_files = 1;
    b.names = upg_alloc(most, NAME, e);
    w->storage->names = (char *)b.names;
    w->storage->files = upg_alloc(1, sizeof *w->storage->files, e);
    if (!b.names || !w->storage->files) return -1;
    add(&b, shape->vocabulary, shape->hidden, k.embedding, "model.embed_tokens");
    for (int i = 0; i < layers; i++) add_layer(&b, shape, i, k.layer);
    add(&b, 1, shape->hidden, 0, "model.norm");
    if (!shape->tied) add(&b, shape->vocabulary, shape->hidden, k.head, "lm_head");
    return fill_all(&b, e) || upg_weights_sort(w, shape->name, e) ? -1 : 0;
}

static int write_config(upg_weights *w, const upg_shape *s, int layers, upg_error *e) {
    upg_buf b = {0};
    upg_buf_fmt(&b,
                "{\"architectures\":[\"%s\"],\"hidden_size\":%d,\"intermediate_size\":%d,\"num_hidden_layers\":%d,"
                "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"head_dim\":%d,\"vocab_size\":%d,"
                "\"max_position_embeddings\":%d,\"rms_norm_eps\":1e-5,\"rope_theta\":%.1f,"
                "\"partial_rotary_factor\":%g,\"tie_word_embeddings\":%s}",
                s->architecture, s->hidden, s->ffn, layers, s->heads, s->kv_heads, s->head_dim, s->vocabulary,
                s->context, s->rope_theta, s->rotary, s->tied ? "true" : "false");
    w->config = b.data;
    return upg_buf_check(&b, e);
}

upg_model *upg_model_of_shape(const upg_shape *shape, int layers, double layer_bits, double most, upg_error *e) {
    upg_model *m = upg_alloc(1, sizeof *m, e);
    if (!m) return NULL;
    upg_weights *w = &m->weights;
    w->compressed = true;
    if (layers <= 0) layers = shape->layers;
    if (!write_config(w, shape, layers, e) &&
        !fill_weights(w, shape, layers, choose_bits(shape, layer_bits, most), e) &&
        !upg_config_parse(&m->config, w->config, NULL, e) && (m->program = upg_program_new(&m->config, w, e)))
        return m;
    upg_model_free(m);
    return NULL;
}
