// A GGUF file as open weights: tensors under Hugging Face names with their shapes checked, config and tokenizer as
// JSON.
#include "format/ggml.h"
#include "format/gguf.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_ROOM = 96 };

static const struct rename {
    const char *gguf, *hf;
    bool rotary; // rows of arch llama come in interleaved pairs
} top_names[] = {{"token_embd.weight", "model.embed_tokens.weight", false},
                 {"output_norm.weight", "model.norm.weight", false},
                 {"output.weight", "lm_head.weight", false}},
  layer_names[] = {{"attn_norm.weight", "input_layernorm.weight", false},
                   {"attn_q.weight", "self_attn.q_proj.weight", true},
                   {"attn_k.weight", "self_attn.k_proj.weight", true},
                   {"attn_v.weight", "self_attn.v_proj.weight", false},
                   {"attn_qkv.weight", "self_attn.qkv_proj.weight", false},
                   {"attn_output.weight", "self_attn.o_proj.weight", false},
                   {"ffn_norm.weight", "post_attention_layernorm.weight", false},
                   {"ffn_gate.weight", "mlp.gate_proj.weight", false},
                   {"ffn_up.weight", "mlp.up_proj.weight", false},
                   {"ffn_down.weight", "mlp.down_proj.weight", false}};

static const struct rename *lookup(const struct rename *table, size_t n, const char *name, size_t size) {
    for (size_t i = 0; i < n; i++)
        if (strlen(table[i].gguf) == size && !memcmp(table[i].gguf, name, size)) return &table[i];
    return NULL;
}

// The Hugging Face name of a tensor in out; false if it has none. phi3's ffn_up is gate and up in one.
static bool rename_tensor(const upg_gguf_tensor *t, bool phi3, char out[NAME_ROOM], bool *rotary) {
    const struct rename *r = lookup(top_names, sizeof top_names / sizeof *top_names, t->name, t->name_size);
    *rotary = false;
    if (r) {
        snprintf(out, NAME_ROOM, "%s", r->hf);
        return true;
    }
    size_t at = 4, layer = 0;
    if (t->name_size < 6 || memcmp(t->name, "blk.", 4)) return false;
    for (; at < t->name_size && t->name[at] >= '0' && t->name[at] <= '9' && layer < 100000; at++)
        layer = layer * 10 + (size_t)(t->name[at] - '0');
    if (at == 4 || at >= t->name_size || t->name[at] != '.' || (t->name[4] == '0' && at > 5)) return false;
    r = lookup(layer_names, sizeof layer_names / sizeof *layer_names, t->name + at + 1, t->name_size - at - 1);
    if (!r) return false;
    bool gate_up = phi3 && !strcmp(r->hf, "mlp.up_proj.weight");
    snprintf(out, NAME_ROOM, "model.layers.%zu.%s", layer, gate_up ? "mlp.gate_up_proj.weight" : r->hf);
    *rotary = r->rotary && !phi3;
    return true;
}

static int set_shape(upg_tensor *o, const upg_gguf *g, const upg_gguf_tensor *t, upg_error *e) {
    uint64_t cols = t->shape[0], rows = t->rank > 1 ? t->shape[1] : 1;
    for (int i = 2; i < t->rank; i++)
        if (t->shape[i] != 1) rows = 0;
    int values = 1, bytes = t->type == 0 ? 4 : 2;
    o->encoding = t->type == 0 ? UPG_F32 : t->type == 1 ? UPG_F16 : t->type == 30 ? UPG_BF16 : UPG_GGML;
    o->ggml_type = t->type;
    if (o->encoding == UPG_GGML && !upg_ggml_type(t->type, &values, &bytes, NULL))
        return upg_fail(e, "%s: tensor '%s': GGUF type %u is not implemented", g->path, o->name, t->type);
    if (!rows || !cols || rows > INT32_MAX || cols > INT32_MAX || rows * cols > (uint64_t)1 << 40 ||
        cols % (uint64_t)values)
        return upg_fail(e, "%s: tensor '%s': its shape is not allowed", g->path, o->name);
    uint64_t size = rows * cols / (uint64_t)values * (uint64_t)bytes;
    if (t->offset > g->data_size || size > g->data_size - t->offset)
        return upg_fail(e, "%s: tensor '%s' lies beyond the end of the file", g->path, o->name);
    if (rows == 1 && o->encoding == UPG_GGML)
        return upg_fail(e, "%s: tensor '%s': a vector in blocks is not implemented", g->path, o->name);
    o->rows = (int64_t)rows;
    o->cols = (int64_t)cols;
    o->data = g->data + t->offset;
    o->bytes = (size_t)size;
    return 0;
}

// Heads whose rows are interleaved in a q or k tensor.
static int rotary_heads(const upg_gguf *g, const upg_tensor *t, upg_error *e) {
    double heads = 0;
    const char *key = strstr(t->name, "q_proj") ? "llama.attention.head_count" : "llama.attention.head_count_kv";
    if (!upg_gguf_number(upg_gguf_find(g, key), &heads) &&
        !upg_gguf_number(upg_gguf_find(g, "llama.attention.head_count"), &heads))
        heads = 0;
    if (!(heads >= 1 && heads <= 4096) || t->rows % (2 * (int64_t)heads))
        return upg_fail(e, "%s: tensor '%s': its rows are no whole number of heads", g->path, t->name);
    return (int)heads;
}

static int collect(upg_weights *w, const upg_gguf *g, bool phi3, upg_error *e) {
    w->tensors = upg_alloc(g->n_tensors, sizeof *w->tensors, e);
    char *names = w->storage->names = upg_alloc(g->n_tensors, NAME_ROOM, e);
    if (!w->tensors || !names) return -1;
    for (size_t i = 0; i < g->n_tensors; i++) {
        upg_tensor *t = &w->tensors[w->n];
        bool rotary;
        char *name = names + i * NAME_ROOM;
        if (!rename_tensor(&g->tensors[i], phi3, name, &rotary))
            return upg_fail(e, "%s: tensor '%.*s' is not implemented", g->path, (int)g->tensors[i].name_size,
                            g->tensors[i].name);
        *t = (upg_tensor){.name = name};
        if (set_shape(t, g, &g->tensors[i], e)) return -1;
        if (rotary && (t->rope_heads = rotary_heads(g, t, e)) < 0) return -1;
        w->n++;
    }
    return upg_weights_sort(w, g->path, e);
}

static int open_model(upg_weights *w, const upg_gguf *g, upg_error *e) {
    const upg_gguf_value *arch = upg_gguf_find(g, "general.architecture");
    if (!arch || arch->type != UPG_GGUF_STRING) return upg_fail(e, "%s: general.architecture is missing", g->path);
    size_t n;
    const uint8_t *at = arch->data;
    const char *name = upg_gguf_string(&at, &n);
    bool phi3 = n == 4 && !memcmp(name, "phi3", 4);
    if (!phi3 && !(n == 5 && !memcmp(name, "llama", 5)))
        return upg_fail(e, "%s: architecture %.*s is not implemented (llama and phi3 are)", g->path,
                        (int)(n < 50 ? n : 50), name);
    if (!g->n_tensors) return upg_fail(e, "%s: no tensors in it", g->path);
    if (collect(w, g, phi3, e)) return -1;
    if (!(w->config = upg_gguf_config(g, !upg_weights_find(w, "lm_head.weight"), e))) return -1;
    const upg_gguf_value *template = upg_gguf_find(g, "tokenizer.chat_template");
    if (template && template->type == UPG_GGUF_STRING) {
        at = template->data;
        const char *text = upg_gguf_string(&at, &n);
        if (memchr(text, 0, n)) return upg_fail(e, "%s: the chat template contains a NUL", g->path);
        if (!(w->chat_template = upg_strdup(text, n, e))) return -1;
    }
    return upg_gguf_read_tokenizer(w, g, e);
}

int upg_gguf_open(upg_weights *w, upg_file *file, upg_error *e) {
    *w = (upg_weights){0};
    struct upg_weights_storage *s = w->storage = upg_alloc(1, sizeof *s, e);
    if (s) s->files = upg_alloc(1, sizeof *s->files, e);
    if (!s || !s->files) {
        upg_file_close(file);
        upg_weights_close(w);
        return -1;
    }
    s->files[0] = *file;
    s->n_files = 1;
    w->file_bytes = file->size;
    upg_gguf g;
    int rc = upg_gguf_parse(&g, s->files[0].data, s->files[0].size, s->files[0].path, e);
    if (!rc) {
        rc = open_model(w, &g, e);
        upg_gguf_free(&g);
    }
    if (rc) upg_weights_close(w);
    return rc;
}
