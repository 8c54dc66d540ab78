// GGUF's metadata as the config.json of a Hugging Face folder. What an architecture's keys may say is listed here; any
// other key is refused by name, unless its value says that there is nothing of the kind, because it might change what
// the model computes.
#include "format/gguf.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct config_text {
    yyjson_mut_doc *d;
    yyjson_mut_val *root;
    const upg_gguf *g;
    const upg_gguf_arch *arch;
    const upg_weights *w;
    int64_t vocab_size;
    double head_dim; // 0: not known
} config_text;

typedef enum key_use {
    WHOLE,     // an integer of config.json
    NUMBER,    // a real number of config.json
    SOMETIMES, // an integer of config.json that is absent if zero
    READ,      // read by a function here
    IGNORED,
} key_use;

static const struct key {
    const char *name; // after the architecture's
    key_use use;
    bool needed;
    const char *hf;
} keys[] = {
    {"embedding_length", WHOLE, true, "hidden_size"},
    {"feed_forward_length", WHOLE, true, "intermediate_size"},
    {"block_count", WHOLE, true, "num_hidden_layers"},
    {"context_length", WHOLE, true, "max_position_embeddings"},
    {"attention.head_count", WHOLE, true, "num_attention_heads"},
    {"attention.head_count_kv", WHOLE, false, "num_key_value_heads"},
    {"attention.key_length", WHOLE, false, "head_dim"},
    {"attention.sliding_window", SOMETIMES, false, "sliding_window"},
    {"attention.layer_norm_rms_epsilon", NUMBER, true, "rms_norm_eps"},
    {"rope.freq_base", NUMBER, false, "rope_theta"},
    {"attention.value_length", READ, false, NULL},
    {"attention.causal", READ, false, NULL},
    {"rope.dimension_count", READ, false, NULL},
    {"rope.scale_linear", READ, false, NULL},
    {"rope.scaling.type", READ, false, NULL},
    {"rope.scaling.factor", READ, false, NULL},
    {"rope.scaling.attn_factor", READ, false, NULL},
    {"rope.scaling.original_context_length", READ, false, NULL},
    {"rope.scaling.yarn_beta_fast", READ, false, NULL},
    {"rope.scaling.yarn_beta_slow", READ, false, NULL},
    {"rope.scaling.finetuned", IGNORED, false, NULL},
    {"tensor_data_layout", IGNORED, false, NULL},
    {"vocab_size", IGNORED, false, NULL}, // the embedding has it
};

// A number of the architecture; *x stays as it is if the key is absent.
static int number(const config_text *c, const char *key, double *x, upg_error *e) {
    const upg_gguf_value *v = upg_gguf_find_in(c->g, c->arch->name, key);
    double d;
    if (!v) return 0;
    if (!upg_gguf_number(v, &d) || !isfinite(d))
        return upg_fail(e, "%s: metadata '%s.%s' is not a number", c->g->path, c->arch->name, key);
    *x = d;
    return 0;
}

// ---- Keys ----

// Zero, false or empty: a feature the model does not have.
static bool says_none(const upg_gguf_value *v) {
    double x;
    if (upg_gguf_number(v, &x)) return x == 0;
    return v->type == UPG_GGUF_STRING ? v->size == 8 : v->count == 0;
}

static int refuse_unknown(const config_text *c, upg_error *e) {
    size_t prefix = strlen(c->arch->name);
    for (size_t i = 0; i < c->g->n_values; i++) {
        const upg_gguf_value *v = &c->g->values[i];
        if (v->key_size <= prefix || memcmp(v->key, c->arch->name, prefix) || v->key[prefix] != '.') continue;
        const char *name = v->key + prefix + 1;
        size_t n = v->key_size - prefix - 1, k = 0;
        while (k < sizeof keys / sizeof *keys && (strlen(keys[k].name) != n || memcmp(keys[k].name, name, n))) k++;
        if (k == sizeof keys / sizeof *keys && !says_none(v))
            return upg_fail(e, "%s: metadata '%.*s' is not implemented", c->g->path,
                            (int)(v->key_size < 100 ? v->key_size : 100), v->key);
    }
    return 0;
}

static int add_numbers(config_text *c, upg_error *e) {
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const struct key *k = &keys[i];
        if (!k->hf) continue;
        const char *arch = c->arch->name;
        double x = 0;
        if (!upg_gguf_find_in(c->g, arch, k->name)) {
            if (k->needed) return upg_fail(e, "%s: metadata '%s.%s' is missing", c->g->path, arch, k->name);
            continue;
        }
        if (number(c, k->name, &x, e)) return -1;
        if (k->use == SOMETIMES && x == 0) continue;
        if (k->use != NUMBER && !(x >= 0 && x <= INT32_MAX && x == (double)(int64_t)x))
            return upg_fail(e, "%s: metadata '%s.%s' is no whole number of at most %d", c->g->path, arch, k->name,
                            INT32_MAX);
        if (k->use == NUMBER ? !yyjson_mut_obj_add_real(c->d, c->root, k->hf, x)
                             : !yyjson_mut_obj_add_int(c->d, c->root, k->hf, (int64_t)x))
            return upg_fail(e, "out of memory");
    }
    return 0;
}

// Sizes of heads beyond what config.json says in so many words.
static int add_head_sizes(config_text *c, upg_error *e) {
    double heads = 0, hidden = 0, value, rotary, causal = 1;
    if (number(c, "attention.head_count", &heads, e) || number(c, "embedding_length", &hidden, e)) return -1;
    c->head_dim = heads >= 1 ? floor(hidden / heads) : 0;
    if (number(c, "attention.key_length", &c->head_dim, e)) return -1;
    value = rotary = c->head_dim;
    if (number(c, "attention.value_length", &value, e) || number(c, "rope.dimension_count", &rotary, e) ||
        number(c, "attention.causal", &causal, e))
        return -1;
    const char *wrong = value != c->head_dim                      ? "attention.value_length"
                        : !(rotary >= 2 && rotary <= c->head_dim) ? "rope.dimension_count"
                        : !causal                                 ? "attention.causal"
                                                                  : NULL;
    if (wrong)
        return upg_fail(e, "%s: metadata '%s.%s' has a value that is not implemented", c->g->path, c->arch->name,
                        wrong);
    // Half a unit more than the width, for the product to round down to it.
    if (rotary < c->head_dim &&
        !yyjson_mut_obj_add_real(c->d, c->root, "partial_rotary_factor", (rotary + 0.5) / c->head_dim))
        return upg_fail(e, "out of memory");
    return 0;
}

// ---- Rope ----

enum { MAX_FACTORS = 4096 };

// Divisors of the frequencies as a list of `scaling`.
static int add_factors(config_text *c, yyjson_mut_val *scaling, const char *key, const upg_tensor *t, upg_error *e) {
    float x[MAX_FACTORS];
    if (t->rows != 1 || t->cols > MAX_FACTORS || t->encoding == UPG_GGML)
        return upg_fail(e, "%s: tensor '%s' is no short vector of floats", c->g->path, t->name);
    upg_tensor_floats(t, 0, t->cols, x);
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(c->d, scaling, key);
    for (int64_t i = 0; i < t->cols; i++) {
        if (!(x[i] > 0 && isfinite(x[i])))
            return upg_fail(e, "%s: tensor '%s': factor %lld is not positive and finite", c->g->path, t->name,
                            (long long)i);
        if (!yyjson_mut_arr_add_real(c->d, list, (double)x[i])) return upg_fail(e, "out of memory");
    }
    return 0;
}

typedef struct rope_keys {
    const char *type; // [size]; of size 0 if absent
    size_t size;
    double factor, attention, original;
} rope_keys;

static bool is(const rope_keys *k, const char *type) {
    return strlen(type) == k->size && !memcmp(type, k->type, k->size);
}

static int read_rope_keys(const config_text *c, rope_keys *k, upg_error *e) {
    const upg_gguf_value *type = upg_gguf_find_in(c->g, c->arch->name, "rope.scaling.type");
    *k = (rope_keys){.type = "", .factor = 0, .attention = 1};
    if (type && !upg_gguf_text(type, &k->type, &k->size))
        return upg_fail(e, "%s: metadata '%s.rope.scaling.type' is not a string", c->g->path, c->arch->name);
    return number(c, "rope.scale_linear", &k->factor, e) || number(c, "rope.scaling.factor", &k->factor, e) ||
                   number(c, "rope.scaling.attn_factor", &k->attention, e) ||
                   number(c, "context_length", &k->original, e) ||
                   number(c, "rope.scaling.original_context_length", &k->original, e)
               ? -1
               : 0;
}

// rope_freqs.weight divides the frequencies at any length; the other two up to the original length and beyond it.
static int add_longrope(config_text *c, const rope_keys *k, const upg_tensor *small, const upg_tensor *large,
                        upg_error *e) {
    if (!small || !large)
        return upg_fail(e, "%s: of " UPG_GGUF_ROPE_SHORT " and " UPG_GGUF_ROPE_LONG " one is missing", c->g->path);
    if (k->factor != 0 && k->factor != 1)
        return upg_fail(e, "%s: metadata '%s.rope.scaling.factor' beside tensors of factors is not implemented",
                        c->g->path, c->arch->name);
    yyjson_mut_val *s = yyjson_mut_obj_add_obj(c->d, c->root, "rope_scaling");
    if (add_factors(c, s, "short_factor", small, e) || add_factors(c, s, "long_factor", large, e)) return -1;
    bool ok = yyjson_mut_obj_add_str(c->d, s, "rope_type", "longrope") &&
              yyjson_mut_obj_add_int(c->d, s, "original_max_position_embeddings", (int64_t)k->original) &&
              yyjson_mut_obj_add_real(c->d, s, "attention_factor", k->attention);
    return ok ? 0 : upg_fail(e, "out of memory");
}

static int add_yarn(config_text *c, const rope_keys *k, upg_error *e) {
    double fast = 32, slow = 1;
    if (number(c, "rope.scaling.yarn_beta_fast", &fast, e) || number(c, "rope.scaling.yarn_beta_slow", &slow, e))
        return -1;
    yyjson_mut_val *s = yyjson_mut_obj_add_obj(c->d, c->root, "rope_scaling");
    bool ok =
        yyjson_mut_obj_add_str(c->d, s, "rope_type", "yarn") && yyjson_mut_obj_add_real(c->d, s, "factor", k->factor) &&
        yyjson_mut_obj_add_int(c->d, s, "original_max_position_embeddings", (int64_t)k->original) &&
        yyjson_mut_obj_add_real(c->d, s, "beta_fast", fast) && yyjson_mut_obj_add_real(c->d, s, "beta_slow", slow);
    return ok ? 0 : upg_fail(e, "out of memory");
}

static int add_rope_scaling(config_text *c, upg_error *e) {
    rope_keys k;
    if (read_rope_keys(c, &k, e)) return -1;
    if (!(k.original >= 1 && k.original <= INT32_MAX && k.original == floor(k.original)))
        return upg_fail(e, "%s: metadata '%s.rope.scaling.original_context_length' is no length", c->g->path,
                        c->arch->name);
    const upg_tensor *freqs = upg_weights_find(c->w, UPG_GGUF_ROPE_FREQS),
                     *small = upg_weights_find(c->w, UPG_GGUF_ROPE_SHORT),
                     *large = upg_weights_find(c->w, UPG_GGUF_ROPE_LONG);
    bool plain = is(&k, "") || is(&k, "none"), linear = is(&k, "linear") || (is(&k, "") && k.factor != 0);
    if (freqs && (small || large))
        return upg_fail(e, "%s: " UPG_GGUF_ROPE_FREQS " beside other factors is not implemented", c->g->path);
    if ((plain || is(&k, "longrope")) && freqs) return add_longrope(c, &k, freqs, freqs, e);
    if ((plain || is(&k, "longrope")) && (small || large || is(&k, "longrope")))
        return add_longrope(c, &k, small, large, e);
    if (freqs || small || large || !(plain || linear || is(&k, "yarn")))
        return upg_fail(e, "%s: metadata '%s.rope.scaling.type': %.*s is not implemented for this model", c->g->path,
                        c->arch->name, (int)(k.size < 50 ? k.size : 50), k.type);
    if (k.attention != 1)
        return upg_fail(e, "%s: metadata '%s.rope.scaling.attn_factor' without factors is not implemented", c->g->path,
                        c->arch->name);
    if (is(&k, "yarn")) return add_yarn(c, &k, e);
    if (!linear || k.factor == 0 || k.factor == 1) return 0;
    yyjson_mut_val *s = yyjson_mut_obj_add_obj(c->d, c->root, "rope_scaling");
    return yyjson_mut_obj_add_str(c->d, s, "rope_type", "linear") &&
                   yyjson_mut_obj_add_real(c->d, s, "factor", k.factor)
               ? 0
               : upg_fail(e, "out of memory");
}

// ---- Tokens ----

bool upg_gguf_token_id(const upg_gguf *g, const char *key, int64_t *id) {
    double x;
    if (!upg_gguf_number(upg_gguf_find(g, key), &x)) return false;
    *id = x >= 0 && x < 1e9 ? (int64_t)x : -1;
    return true;
}

enum { MAX_ENDS = 16 };

static bool add_end(config_text *c, yyjson_mut_val *eos, int64_t id) {
    size_t i, max;
    yyjson_mut_val *v;
    yyjson_mut_arr_foreach(eos, i, max, v) {
        if (yyjson_mut_get_sint(v) == id) return true;
    }
    return yyjson_mut_arr_add_int(c->d, eos, id);
}

// Control tokens that end a turn wherever they are used. Files name one or two of a model's ends, or none but that of
// a text, so that a conversation would not stop.
static bool add_known_ends(config_text *c, yyjson_mut_val *eos) {
    static const char *const known[] = {"<|eot_id|>", "<|eom_id|>",    "<|im_end|>",
                                        "<|end|>",    "<end_of_turn>", "<|endoftext|>"};
    const upg_gguf_value *tokens = upg_gguf_find(c->g, "tokenizer.ggml.tokens"),
                         *types = upg_gguf_find(c->g, "tokenizer.ggml.token_type");
    if (!tokens || tokens->type != UPG_GGUF_ARRAY || tokens->element != UPG_GGUF_STRING || !types ||
        types->type != UPG_GGUF_ARRAY || types->element != UPG_GGUF_I32)
        return true;
    const uint8_t *at = tokens->data;
    for (uint64_t i = 0; i < tokens->count && i < types->count && yyjson_mut_arr_size(eos) < MAX_ENDS; i++) {
        size_t n;
        const char *s = upg_gguf_string(&at, &n);
        if (upg_le32(types->data + 4 * i) != UPG_GGUF_CONTROL) continue;
        for (size_t k = 0; k < sizeof known / sizeof *known; k++)
            if (strlen(known[k]) == n && !memcmp(known[k], s, n) && !add_end(c, eos, (int64_t)i)) return false;
    }
    return true;
}

static bool add_token_ids(config_text *c) {
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    int64_t id;
    if (upg_gguf_token_id(c->g, "tokenizer.ggml.bos_token_id", &id) &&
        !yyjson_mut_obj_add_int(c->d, c->root, "bos_token_id", id))
        return false;
    yyjson_mut_val *eos = yyjson_mut_obj_add_arr(c->d, c->root, "eos_token_id");
    for (int i = 0; i < 3; i++)
        if (upg_gguf_token_id(c->g, ends[i], &id) && !add_end(c, eos, id)) return false;
    return eos && add_known_ends(c, eos);
}

char *upg_gguf_written(yyjson_mut_doc *d, bool ok, upg_error *e) {
    yyjson_write_err err = {.msg = "out of memory"};
    char *text = ok ? yyjson_mut_write_opts(d, 0, NULL, NULL, &err) : NULL;
    yyjson_mut_doc_free(d);
    if (!text) upg_fail(e, "the GGUF metadata cannot be read as text: %s", err.msg);
    return text;
}

// Says `key` if there are biases of some block of a layer.
static bool add_biases(config_text *c, const char *block, const char *key) {
    for (size_t i = 0; i < c->w->n; i++) {
        const char *name = c->w->tensors[i].name;
        if (strstr(name, block) && strstr(name, "_proj.bias")) return yyjson_mut_obj_add_bool(c->d, c->root, key, true);
    }
    return true;
}

static bool add_model(config_text *c) {
    bool ok = yyjson_mut_arr_add_str(c->d, yyjson_mut_obj_add_arr(c->d, c->root, "architectures"), c->arch->hf) &&
              yyjson_mut_obj_add_int(c->d, c->root, "vocab_size", c->vocab_size) &&
              yyjson_mut_obj_add_bool(c->d, c->root, "tie_word_embeddings", !upg_weights_find(c->w, "lm_head.weight"));
    if (!c->arch->optional_biases) return ok;
    return ok && add_biases(c, ".self_attn.", "attention_bias") && add_biases(c, ".mlp.", "mlp_bias");
}

char *upg_gguf_config(const upg_gguf *g, const upg_gguf_arch *a, const upg_weights *w, upg_error *e) {
    const upg_tensor *embedding = upg_weights_find(w, "model.embed_tokens.weight");
    if (!embedding) {
        upg_fail(e, "%s: tensor 'token_embd.weight' is missing", g->path);
        return NULL;
    }
    config_text c = {.d = yyjson_mut_doc_new(NULL), .g = g, .arch = a, .w = w, .vocab_size = embedding->rows};
    c.root = c.d ? yyjson_mut_obj(c.d) : NULL;
    if (!c.root) return upg_gguf_written(c.d, false, e);
    yyjson_mut_doc_set_root(c.d, c.root);
    if (refuse_unknown(&c, e) || add_numbers(&c, e) || add_head_sizes(&c, e) || add_rope_scaling(&c, e)) {
        yyjson_mut_doc_free(c.d);
        return NULL;
    }
    return upg_gguf_written(c.d, add_model(&c) && add_token_ids(&c), e);
}
