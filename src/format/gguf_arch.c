// The architectures of GGUF files: what each is called in a config.json, and the Hugging Face names of its tensors. To
// add one is to add an entry to the table.
#include "format/gguf.h"
#include <stdio.h>
#include <string.h>

#define QKV_BIASES                                                                                                     \
    {"attn_q.bias", "self_attn.q_proj.bias", true}, {"attn_k.bias", "self_attn.k_proj.bias", true}, {                  \
        "attn_v.bias", "self_attn.v_proj.bias", false                                                                  \
    }

static const upg_gguf_arch archs[] = {
    {.name = "llama",
     .hf = "LlamaForCausalLM",
     .pairs = true,
     .optional_biases = true,
     .own = {QKV_BIASES,
             {"attn_output.bias", "self_attn.o_proj.bias", false},
             {"ffn_gate.bias", "mlp.gate_proj.bias", false},
             {"ffn_up.bias", "mlp.up_proj.bias", false},
             {"ffn_down.bias", "mlp.down_proj.bias", false}}},
    {.name = "phi3",
     .hf = "Phi3ForCausalLM",
     .own = {{"attn_qkv.weight", "self_attn.qkv_proj.weight", false},
             {"ffn_up.weight", "mlp.gate_up_proj.weight", false}}},
    {.name = "qwen2", .hf = "Qwen2ForCausalLM", .own = {QKV_BIASES}},
    {.name = "qwen3",
     .hf = "Qwen3ForCausalLM",
     .own = {{"attn_q_norm.weight", "self_attn.q_norm.weight", false},
             {"attn_k_norm.weight", "self_attn.k_norm.weight", false}}},
};

static const upg_gguf_name model_names[] = {{"token_embd.weight", "model.embed_tokens.weight", false},
                                            {"output_norm.weight", "model.norm.weight", false},
                                            {"output.weight", "lm_head.weight", false},
                                            {UPG_GGUF_ROPE_FREQS, UPG_GGUF_ROPE_FREQS, false},
                                            {UPG_GGUF_ROPE_LONG, UPG_GGUF_ROPE_LONG, false},
                                            {UPG_GGUF_ROPE_SHORT, UPG_GGUF_ROPE_SHORT, false}},
                           layer_names[] = {{"attn_norm.weight", "input_layernorm.weight", false},
                                            {"attn_q.weight", "self_attn.q_proj.weight", true},
                                            {"attn_k.weight", "self_attn.k_proj.weight", true},
                                            {"attn_v.weight", "self_attn.v_proj.weight", false},
                                            {"attn_output.weight", "self_attn.o_proj.weight", false},
                                            {"ffn_norm.weight", "post_attention_layernorm.weight", false},
                                            {"ffn_gate.weight", "mlp.gate_proj.weight", false},
                                            {"ffn_up.weight", "mlp.up_proj.weight", false},
                                            {"ffn_down.weight", "mlp.down_proj.weight", false}};

#define COUNT(a) (sizeof(a) / sizeof *(a))

const upg_gguf_arch *upg_gguf_arch_of(const upg_gguf *g, upg_error *e) {
    const char *name;
    size_t n;
    if (!upg_gguf_text(upg_gguf_find(g, "general.architecture"), &name, &n)) {
        upg_fail(e, "%s: general.architecture is missing or no string", g->path);
        return NULL;
    }
    char known[256] = "";
    for (size_t i = 0; i < COUNT(archs); i++) {
        if (strlen(archs[i].name) == n && !memcmp(archs[i].name, name, n)) return &archs[i];
        size_t at = strlen(known);
        snprintf(known + at, sizeof known - at, "%s%s", !i ? "" : i + 1 < COUNT(archs) ? ", " : " and ", archs[i].name);
    }
    upg_fail(e, "%s: architecture %.*s is not implemented (%s are)", g->path, (int)(n < 50 ? n : 50), name, known);
    return NULL;
}

static const upg_gguf_name *lookup(const upg_gguf_name *table, size_t n, const char *name, size_t size) {
    for (size_t i = 0; i < n && table[i].gguf; i++)
        if (strlen(table[i].gguf) == size && !memcmp(table[i].gguf, name, size)) return &table[i];
    return NULL;
}

// The number in "blk.12.", 0 to 99999 without needless zeros; *at becomes where the name goes on. -1 if there is none.
static int layer_of(const upg_gguf_tensor *t, size_t *at) {
    if (t->name_size < 4 || memcmp(t->name, "blk.", 4)) return -1;
    int layer = 0;
    size_t i = 4;
    for (; i < t->name_size && t->name[i] >= '0' && t->name[i] <= '9' && i < 9; i++)
        layer = layer * 10 + (t->name[i] - '0');
    if (i == 4 || i >= t->name_size || t->name[i] != '.' || (t->name[4] == '0' && i > 5)) return -1;
    *at = i + 1;
    return layer;
}

bool upg_gguf_rename(const upg_gguf_arch *a, const upg_gguf_tensor *t, char out[UPG_GGUF_NAME], bool *heads) {
    const upg_gguf_name *r = lookup(model_names, COUNT(model_names), t->name, t->name_size);
    *heads = false;
    if (r) {
        snprintf(out, UPG_GGUF_NAME, "%s", r->hf);
        return true;
    }
    size_t at;
    int layer = layer_of(t, &at);
    if (layer < 0) return false;
    r = lookup(a->own, COUNT(a->own), t->name + at, t->name_size - at);
    if (!r) r = lookup(layer_names, COUNT(layer_names), t->name + at, t->name_size - at);
    if (!r) return false;
    snprintf(out, UPG_GGUF_NAME, "model.layers.%d.%s", layer, r->hf);
    *heads = r->heads;
    return true;
}
