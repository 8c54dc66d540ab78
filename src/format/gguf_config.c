// GGUF's metadata as the JSON texts of a Hugging Face folder: config.json and, for byte-level BPE, tokenizer.json.
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

// A token id; one that is no small whole number is taken as -1, which the config's reader refuses or takes as none.
static bool token_id(const upg_gguf *g, const char *key, int64_t *id) {
    double x;
    if (!upg_gguf_number(upg_gguf_find(g, key), &x)) return false;
    *id = x >= 0 && x < 1e9 ? (int64_t)x : -1;
    return true;
}

static bool add_token_ids(yyjson_mut_doc *d, yyjson_mut_val *o, const upg_gguf *g) {
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"};
    int64_t id, before = -1;
    if (token_id(g, "tokenizer.ggml.bos_token_id", &id) && !yyjson_mut_obj_add_int(d, o, "bos_token_id", id))
        return false;
    yyjson_mut_val *eos = yyjson_mut_obj_add_arr(d, o, "eos_token_id");
    for (int i = 0; i < 2; i++) {
        if (!token_id(g, ends[i], &id) || id == before) continue;
        if (!eos || !yyjson_mut_arr_add_int(d, eos, id)) return false;
        before = id;
    }
    return eos != NULL;
}

static char *written(yyjson_mut_doc *d, bool ok, upg_error *e) {
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
    if (!o) return written(d, false, e);
    yyjson_mut_doc_set_root(d, o);
    bool ok = yyjson_mut_arr_add_str(d, yyjson_mut_obj_add_arr(d, o, "architectures"),
                                     phi3 ? "Phi3ForCausalLM" : "LlamaForCausalLM") &&
              yyjson_mut_obj_add_uint(d, o, "vocab_size", vocabulary(g)) &&
              yyjson_mut_obj_add_bool(d, o, "tie_word_embeddings", tied) && add_numbers(d, o, g, arch) &&
              add_rope_scaling(d, o, g, arch) && add_token_ids(d, o, g);
    return written(d, ok, e);
}

// ---- Tokenizer ----

#define LLAMA3_PATTERN                                                                                                 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "                                         \
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define QWEN2_PATTERN                                                                                                  \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "                                              \
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

// What llama.cpp calls a pre-tokenizer, as the split of tokenizer.json.
static const struct pre {
    const char *name, *split; // split NULL: none
    bool gpt2;                // ByteLevel's own pattern after it
    bool ignore_merges;
} pres[] = {{"default", NULL, true, false},
            {"gpt-2", NULL, true, false},
            {"smollm", "\\p{N}", true, false},
            {"llama-bpe", LLAMA3_PATTERN, false, true},
            {"llama3", LLAMA3_PATTERN, false, true},
            {"dbrx", LLAMA3_PATTERN, false, false},
            {"smaug-bpe", LLAMA3_PATTERN, false, true},
            {"qwen2", QWEN2_PATTERN, false, false}};

static const struct pre *find_pre(const upg_gguf *g, upg_error *e) {
    const upg_gguf_value *v = upg_gguf_find(g, "tokenizer.ggml.pre");
    size_t n = 7;
    const char *s = "default";
    if (v && v->type == UPG_GGUF_STRING) {
        const uint8_t *at = v->data;
        s = upg_gguf_string(&at, &n);
    }
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++)
        if (strlen(pres[i].name) == n && !memcmp(pres[i].name, s, n)) return &pres[i];
    upg_fail(e, "%s: pre-tokenizer '%.*s' is not implemented", g->path, (int)(n < 60 ? n : 60), s);
    return NULL;
}

static const upg_gguf_value *strings(const upg_gguf *g, const char *key, upg_error *e) {
    const upg_gguf_value *v = upg_gguf_find(g, key);
    if (v && v->type == UPG_GGUF_ARRAY && v->element == UPG_GGUF_STRING) return v;
    upg_fail(e, "%s: metadata '%s' is missing or no array of strings", g->path, key);
    return NULL;
}

static bool add_pre_tokenizer(yyjson_mut_doc *d, yyjson_mut_val *root, const struct pre *pre) {
    yyjson_mut_val *sequence = yyjson_mut_obj_add_obj(d, root, "pre_tokenizer");
    yyjson_mut_val *list = sequence && yyjson_mut_obj_add_str(d, sequence, "type", "Sequence")
                               ? yyjson_mut_obj_add_arr(d, sequence, "pretokenizers")
                               : NULL;
    if (!list) return false;
    if (pre->split) {
        yyjson_mut_val *split = yyjson_mut_arr_add_obj(d, list);
        yyjson_mut_val *pattern = split ? yyjson_mut_obj_add_obj(d, split, "pattern") : NULL;
        if (!pattern || !yyjson_mut_obj_add_str(d, pattern, "Regex", pre->split) ||
            !yyjson_mut_obj_add_str(d, split, "type", "Split") ||
            !yyjson_mut_obj_add_str(d, split, "behavior", "Isolated") ||
            !yyjson_mut_obj_add_bool(d, split, "invert", false))
            return false;
    }
    yyjson_mut_val *level = yyjson_mut_arr_add_obj(d, list);
    return level && yyjson_mut_obj_add_str(d, level, "type", "ByteLevel") &&
           yyjson_mut_obj_add_bool(d, level, "add_prefix_space", false) &&
           yyjson_mut_obj_add_bool(d, level, "use_regex", pre->gpt2);
}

// Types of GGUF tokens that are more than vocabulary.
enum { CONTROL = 3, USER_DEFINED = 4 };

static int token_type(const upg_gguf_value *types, uint64_t i) {
    return types && i < types->count ? (int)upg_le32(types->data + 4 * i) : 1;
}

static bool add_vocabulary(yyjson_mut_doc *d, yyjson_mut_val *root, yyjson_mut_val *model, const upg_gguf_value *tokens,
                           const upg_gguf_value *types) {
    yyjson_mut_val *vocab = yyjson_mut_obj_add_obj(d, model, "vocab"),
                   *added = yyjson_mut_obj_add_arr(d, root, "added_tokens");
    const uint8_t *at = tokens->data;
    for (uint64_t i = 0; vocab && added && i < tokens->count; i++) {
        size_t n;
        const char *s = upg_gguf_string(&at, &n);
        yyjson_mut_val *key = yyjson_mut_strn(d, s, n), *id = yyjson_mut_uint(d, i);
        if (!key || !id || !yyjson_mut_obj_add(vocab, key, id)) return false;
        int type = token_type(types, i);
        if (type != CONTROL && type != USER_DEFINED) continue;
        yyjson_mut_val *a = yyjson_mut_arr_add_obj(d, added);
        if (!a || !yyjson_mut_obj_add_uint(d, a, "id", i) || !yyjson_mut_obj_add_strn(d, a, "content", s, n) ||
            !yyjson_mut_obj_add_bool(d, a, "special", type == CONTROL) ||
            !yyjson_mut_obj_add_bool(d, a, "single_word", false) || !yyjson_mut_obj_add_bool(d, a, "lstrip", false) ||
            !yyjson_mut_obj_add_bool(d, a, "rstrip", false) || !yyjson_mut_obj_add_bool(d, a, "normalized", false))
            return false;
    }
    return vocab && added;
}

static bool add_merges(yyjson_mut_doc *d, yyjson_mut_val *model, const upg_gguf_value *merges) {
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(d, model, "merges");
    const uint8_t *at = merges->data;
    for (uint64_t i = 0; list && i < merges->count; i++) {
        size_t n;
        const char *s = upg_gguf_string(&at, &n);
        if (!yyjson_mut_arr_add_strn(d, list, s, n)) return false;
    }
    return list != NULL;
}

// A template that puts the BOS token in front, if the metadata asks for one.
static bool add_bos(yyjson_mut_doc *d, yyjson_mut_val *root, const upg_gguf *g) {
    double add = 0;
    int64_t bos;
    upg_gguf_number(upg_gguf_find(g, "tokenizer.ggml.add_bos_token"), &add);
    if (!add || !token_id(g, "tokenizer.ggml.bos_token_id", &bos)) return true;
    yyjson_mut_val *p = yyjson_mut_obj_add_obj(d, root, "post_processor"),
                   *single = p ? yyjson_mut_obj_add_arr(d, p, "single") : NULL;
    yyjson_mut_val *first = single ? yyjson_mut_arr_add_obj(d, single) : NULL,
                   *second = first ? yyjson_mut_arr_add_obj(d, single) : NULL;
    yyjson_mut_val *special = second ? yyjson_mut_obj_add_obj(d, first, "SpecialToken") : NULL;
    yyjson_mut_val *sequence = special ? yyjson_mut_obj_add_obj(d, second, "Sequence") : NULL;
    yyjson_mut_val *table = sequence ? yyjson_mut_obj_add_obj(d, p, "special_tokens") : NULL,
                   *entry = table ? yyjson_mut_obj_add_obj(d, table, "bos") : NULL;
    yyjson_mut_val *ids = entry ? yyjson_mut_obj_add_arr(d, entry, "ids") : NULL;
    return ids && yyjson_mut_obj_add_str(d, p, "type", "TemplateProcessing") &&
           yyjson_mut_obj_add_str(d, special, "id", "bos") && yyjson_mut_obj_add_str(d, sequence, "id", "A") &&
           yyjson_mut_arr_add_int(d, ids, bos);
}

char *upg_gguf_tokenizer(const upg_gguf *g, upg_error *e) {
    const upg_gguf_value *model_name = upg_gguf_find(g, "tokenizer.ggml.model");
    size_t n = 0;
    const uint8_t *at = model_name->type == UPG_GGUF_STRING ? model_name->data : NULL;
    const char *name = at ? upg_gguf_string(&at, &n) : "";
    if (n != 4 || memcmp(name, "gpt2", 4)) {
        upg_fail(e, "%s: tokenizer model '%.*s' is not implemented (gpt2 is)", g->path, (int)(n < 50 ? n : 50), name);
        return NULL;
    }
    const struct pre *pre = find_pre(g, e);
    const upg_gguf_value *tokens = pre ? strings(g, "tokenizer.ggml.tokens", e) : NULL,
                         *merges = tokens ? strings(g, "tokenizer.ggml.merges", e) : NULL;
    const upg_gguf_value *types = upg_gguf_find(g, "tokenizer.ggml.token_type");
    if (!merges) return NULL;
    if (types && (types->type != UPG_GGUF_ARRAY || types->element != UPG_GGUF_I32)) types = NULL;
    yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = d ? yyjson_mut_obj(d) : NULL,
                   *model = root ? yyjson_mut_obj_add_obj(d, root, "model") : NULL;
    if (!model) return written(d, false, e);
    yyjson_mut_doc_set_root(d, root);
    bool ok = yyjson_mut_obj_add_str(d, model, "type", "BPE") &&
              yyjson_mut_obj_add_bool(d, model, "ignore_merges", pre->ignore_merges) &&
              add_pre_tokenizer(d, root, pre) && add_vocabulary(d, root, model, tokens, types) &&
              add_merges(d, model, merges) && add_bos(d, root, g);
    return written(d, ok, e);
}
