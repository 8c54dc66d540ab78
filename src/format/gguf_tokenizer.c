// GGUF's metadata as the tokenizer.json of a Hugging Face folder, for byte-level BPE.
#include "format/gguf.h"
#include "text/pretokenize.h"
#include <stdio.h>
#include <string.h>

static const upg_pre *find_pre(const upg_gguf *g, upg_error *e) {
    const upg_gguf_value *v = upg_gguf_find(g, "tokenizer.ggml.pre");
    size_t n = 7;
    const char *s = "default";
    if (v && v->type == UPG_GGUF_STRING) {
        const uint8_t *at = v->data;
        s = upg_gguf_string(&at, &n);
    }
    const upg_pre *pre = upg_pre_find(s, n);
    if (!pre) upg_fail(e, "%s: pre-tokenizer '%.*s' is not implemented", g->path, (int)(n < 60 ? n : 60), s);
    return pre;
}

static const upg_gguf_value *strings(const upg_gguf *g, const char *key, upg_error *e) {
    const upg_gguf_value *v = upg_gguf_find(g, key);
    if (v && v->type == UPG_GGUF_ARRAY && v->element == UPG_GGUF_STRING) return v;
    upg_fail(e, "%s: metadata '%s' is missing or no array of strings", g->path, key);
    return NULL;
}

static bool add_split(yyjson_mut_doc *d, yyjson_mut_val *list, const char *regex) {
    yyjson_mut_val *split = yyjson_mut_arr_add_obj(d, list);
    yyjson_mut_val *pattern = split ? yyjson_mut_obj_add_obj(d, split, "pattern") : NULL;
    return pattern && yyjson_mut_obj_add_str(d, pattern, "Regex", regex) &&
           yyjson_mut_obj_add_str(d, split, "type", "Split") &&
           yyjson_mut_obj_add_str(d, split, "behavior", "Isolated") &&
           yyjson_mut_obj_add_bool(d, split, "invert", false);
}

static bool add_pre_tokenizer(yyjson_mut_doc *d, yyjson_mut_val *root, const upg_pre *pre) {
    yyjson_mut_val *sequence = yyjson_mut_obj_add_obj(d, root, "pre_tokenizer");
    yyjson_mut_val *list = sequence && yyjson_mut_obj_add_str(d, sequence, "type", "Sequence")
                               ? yyjson_mut_obj_add_arr(d, sequence, "pretokenizers")
                               : NULL;
    for (const char *const *name = pre->patterns; list && *name; name++)
        if (!add_split(d, list, upg_pattern_by_name(*name, strlen(*name))->regexes[0])) return false;
    yyjson_mut_val *level = list ? yyjson_mut_arr_add_obj(d, list) : NULL;
    return level && yyjson_mut_obj_add_str(d, level, "type", "ByteLevel") &&
           yyjson_mut_obj_add_bool(d, level, "add_prefix_space", false) &&
           yyjson_mut_obj_add_bool(d, level, "use_regex", false);
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
static bool add_bos(yyjson_mut_doc *d, yyjson_mut_val *root, const upg_gguf *g, const upg_pre *pre) {
    double add = pre->add_bos;
    int64_t bos;
    upg_gguf_number(upg_gguf_find(g, "tokenizer.ggml.add_bos_token"), &add);
    if (!add || !upg_gguf_token_id(g, "tokenizer.ggml.bos_token_id", &bos)) return true;
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
    const upg_pre *pre = find_pre(g, e);
    const upg_gguf_value *tokens = pre ? strings(g, "tokenizer.ggml.tokens", e) : NULL,
                         *merges = tokens ? strings(g, "tokenizer.ggml.merges", e) : NULL;
    const upg_gguf_value *types = upg_gguf_find(g, "tokenizer.ggml.token_type");
    if (!merges) return NULL;
    if (types && (types->type != UPG_GGUF_ARRAY || types->element != UPG_GGUF_I32)) types = NULL;
    yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = d ? yyjson_mut_obj(d) : NULL,
                   *model = root ? yyjson_mut_obj_add_obj(d, root, "model") : NULL;
    if (!model) return upg_gguf_written(d, false, e);
    yyjson_mut_doc_set_root(d, root);
    bool ok = yyjson_mut_obj_add_str(d, model, "type", "BPE") &&
              yyjson_mut_obj_add_bool(d, model, "ignore_merges", pre->ignore_merges) &&
              add_pre_tokenizer(d, root, pre) && add_vocabulary(d, root, model, tokens, types) &&
              add_merges(d, model, merges) && add_bos(d, root, g, pre);
    return upg_gguf_written(d, ok, e);
}
