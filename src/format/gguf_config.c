// GGUF's metadata as the config.json of a Hugging Face folder.
#include "format/gguf.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// "llama." + key as a number.
static bool number(const upg_gguf *g, const char *arch, const char *key, double *x) {
    char name[96];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    return upg_gguf_number(upg_gguf_find(g, name), x);
}

static uint64_t vocabulary(const upg_gguf *g) {
    for (size_t i = 0; i < g->n_tensors; i++)
        if (g->tensors[i].name_size == 17 && !memcmp(g->tensors[i].name, "token_embd.weight", 17) &&
            g->tensors[i].rank > 1)
            return g->tensors[i].shape[1];
    return 0;
}

// Integers that config.json has and the metadata may have.
static bool add_numbers(yyjson_mut_doc *d, yyjson_mut_val *o, const upg_gguf *g, const char *arch) {
    static const struct {
        const char *gguf, *hf;
        bool real;
    } keys[] = {{"embedding_length", "hidden_size", false},
                {"feed_forward_length", "intermediate_size", false},
                {"block_count", "num_hidden_layers", false},
                {"attention.head_count", "num_attention_heads", false},
                {"attention.head_count_kv", "num_key_value_heads", false},
                {"attention.key_length", "head_dim", false},
                {"context_length", "max_position_embeddings", false},
                {"attention.sliding_window", "sliding_window", false},
                {"attention.layer_norm_rms_epsilon", "rms_norm_eps", true},
                {"rope.freq_base", "rope_theta", true}};
    double x;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!number(g, arch, keys[i].gguf, &x)) continue;
        bool whole = !keys[i].real && x >= 0 && x < 1e15 && x == (double)(int64_t)x;
        if (!whole && !keys[i].real) x = -1; // refused by the config's reader, by name
        if (!strcmp(keys[i].hf, "sliding_window") && x == 0) continue;
        if (whole ? !yyjson_mut_obj_add_int(d, o, keys[i].hf, (int64_t)x)
                  : !yyjson_mut_obj_add_real(d, o, keys[i].hf, x))
            return false;
    }
    double rotary, heads, hidden, head_dim = 0;
    if (number(g, arch, "attention.head_count", &heads) && number(g, arch, "embedding_length", &hidden) && heads >= 1)
        head_dim = hidden / heads;
    number(g, arch, "attention.key_length", &head_dim);
    if (number(g, arch, "rope.dimension_count", &rotary) && head_dim >= 1 && rotary < head_dim)
        return yyjson_mut_obj_add_real(d, o, "partial_rotary_factor", (rotary + 0.5) / head_dim);
    return true;
}

static bool add_rope_scaling(yyjson_mut_doc *d, yyjson_mut_val *o, const upg_gguf *g, const char *arch) {
    char name[96];
    snprintf(name, sizeof name, "%s.rope.scaling.type", arch);
    const upg_gguf_value *type = upg_gguf_find(g, name);
    if (!type || type->type != UPG_GGUF_STRING) return true;
    size_t n;
    const uint8_t *at = type->data;
    const char *s = upg_gguf_string(&at, &n);
    if (n == 4 && !memcmp(s, "none", 4)) return true;
    yyjson_mut_val *scaling = yyjson_mut_obj_add_obj(d, o, "rope_scaling");
    double factor = 0;
    number(g, arch, "rope.scaling.factor", &factor);
    return scaling && yyjson_mut_obj_add_strncpy(d, scaling, "rope_type", s, n) &&
           yyjson_mut_obj_add_real(d, scaling, "factor", factor);
}

bool upg_gguf_token_id(const upg_gguf *g, const char *key, int64_t *id) {
    double x;
    if (!upg_gguf_number(upg_gguf_find(g, key), &x)) return false;
    *id = x >= 0 && x < 1e9 ? (int64_t)x : -1;
    return true;
}

static bool add_token_ids(yyjson_mut_doc *d, yyjson_mut_val *o, const upg_gguf *g) {
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"};
    int64_t id, before = -1;
    if (upg_gguf_token_id(g, "tokenizer.ggml.bos_token_id", &id) && !yyjson_mut_obj_add_int(d, o, "bos_token_id", id))
        return false;
    yyjson_mut_val *eos = yyjson_mut_obj_add_arr(d, o, "eos_token_id");
    for (int i = 0; i < 2; i++) {
        if (!upg_gguf_token_id(g, ends[i], &id) || id == before) continue;
        if (!eos || !yyjson_mut_arr_add_int(d, eos, id)) return false;
        before = id;
    }
    return eos != NULL;
}

char *upg_gguf_written(yyjson_mut_doc *d, bool ok, upg_error *e) {
    yyjson_write_err err = {.msg = "out of memory"};
    char *text = ok ? yyjson_mut_write_opts(d, 0, NULL, NULL, &err) : NULL;
    yyjson_mut_doc_free(d);
    if (!text) upg_fail(e, "the GGUF metadata cannot be read as text: %s", err.msg);
    return text;
}

char *upg_gguf_config(const upg_gguf *g, bool tied, upg_error *e) {
    size_t n;
    const uint8_t *at = upg_gguf_find(g, "general.architecture")->data;
    bool phi3 = *upg_gguf_string(&at, &n) == 'p';
    const char *arch = phi3 ? "phi3" : "llama";
    yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *o = d ? yyjson_mut_obj(d) : NULL;
    if (!o) return upg_gguf_written(d, false, e);
    yyjson_mut_doc_set_root(d, o);
    bool ok = yyjson_mut_arr_add_str(d, yyjson_mut_obj_add_arr(d, o, "architectures"),
                                     phi3 ? "Phi3ForCausalLM" : "LlamaForCausalLM") &&
              yyjson_mut_obj_add_uint(d, o, "vocab_size", vocabulary(g)) &&
              yyjson_mut_obj_add_bool(d, o, "tie_word_embeddings", tied) && add_numbers(d, o, g, arch) &&
              add_rope_scaling(d, o, g, arch) && add_token_ids(d, o, g);
    return upg_gguf_written(d, ok, e);
}
