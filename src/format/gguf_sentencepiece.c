// GGUF's tokenizer metadata as the files of a Hugging Face folder: model "gpt2" is byte-level BPE and becomes a
// tokenizer.json (gguf_tokenizer.c); model "llama" is SentencePiece's BPE and becomes a tokenizer.model, whose types of
// tokens are the ones GGUF took over. What neither can say stands in a tokenizer_config.json.
#include "format/gguf.h"
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 6 };

typedef struct vocabulary {
    const upg_gguf_value *tokens, *scores, *types; // types: or NULL
} vocabulary;

static const upg_gguf_value *array(const upg_gguf *g, const char *key, upg_gguf_type element, uint64_t n) {
    const upg_gguf_value *v = upg_gguf_find(g, key);
    return v && v->type == UPG_GGUF_ARRAY && v->element == element && (!n || v->count == n) ? v : NULL;
}

static int find_vocabulary(vocabulary *v, const upg_gguf *g, upg_error *e) {
    v->tokens = array(g, "tokenizer.ggml.tokens", UPG_GGUF_STRING, 0);
    if (!v->tokens)
        return upg_fail(e, "%s: metadata 'tokenizer.ggml.tokens' is missing or no array of strings", g->path);
    v->scores = array(g, "tokenizer.ggml.scores", UPG_GGUF_F32, v->tokens->count);
    v->types = array(g, "tokenizer.ggml.token_type", UPG_GGUF_I32, v->tokens->count);
    if (!v->scores)
        return upg_fail(e, "%s: metadata 'tokenizer.ggml.scores' is missing or not a number for each token", g->path);
    if (!v->types && upg_gguf_find(g, "tokenizer.ggml.token_type"))
        return upg_fail(e, "%s: metadata 'tokenizer.ggml.token_type' is not a number for each token", g->path);
    return 0;
}

// --- tokenizer.model: the fields of SentencePiece's ModelProto that its reader knows ---

static void put_varint(upg_buf *b, uint64_t v) {
    uint8_t bytes[10];
    size_t n = 0;
    for (; v >= 128; v >>= 7) bytes[n++] = (uint8_t)(v | 128);
    bytes[n++] = (uint8_t)v;
    upg_buf_add(b, bytes, n);
}

static void put_number(upg_buf *b, unsigned field, uint64_t v) {
    put_varint(b, field << 3);
    put_varint(b, v);
}

static void put_bytes(upg_buf *b, unsigned field, const void *p, size_t n) {
    put_varint(b, field << 3 | 2);
    put_varint(b, n);
    upg_buf_add(b, p, n);
}

static bool is_byte(const char *s, size_t n) {
    return n == 6 && !memcmp(s, "<0x", 3) && s[5] == '>';
}

static void put_pieces(upg_buf *b, const vocabulary *v) {
    upg_buf piece = {0};
    const uint8_t *at = v->tokens->data;
    for (uint64_t i = 0; i < v->tokens->count; i++) {
        size_t n;
        const char *s = upg_gguf_string(&at, &n);
        // Without types a token is told by its text, as llama.cpp does.
        uint32_t type = v->types ? upg_le32(v->types->data + 4 * i) : is_byte(s, n) ? BYTE : NORMAL;
        piece.size = 0;
        put_bytes(&piece, 1, s, n);
        put_varint(&piece, 2 << 3 | 5);
        upg_buf_add(&piece, v->scores->data + 4 * i, 4);
        put_number(&piece, 3, type);
        put_bytes(b, 1, piece.data, piece.size);
    }
    b->failed |= piece.failed;
    upg_buf_free(&piece);
}

static bool on(const upg_gguf *g, const char *key, bool otherwise) {
    double x = otherwise;
    upg_gguf_number(upg_gguf_find(g, key), &x);
    return x != 0;
}

static int write_model(upg_weights *w, const upg_gguf *g, const vocabulary *v, upg_error *e) {
    static const struct {
        const char *key;
        unsigned field;
    } ids[] = {{"tokenizer.ggml.unknown_token_id", 40},
               {"tokenizer.ggml.bos_token_id", 41},
               {"tokenizer.ggml.eos_token_id", 42},
               {"tokenizer.ggml.padding_token_id", 43}};
    upg_buf b = {0}, part = {0};
    put_pieces(&b, v);
    put_number(&part, 3, 2);  // BPE
    put_number(&part, 35, 1); // byte_fallback
    int64_t id;
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (upg_gguf_token_id(g, ids[i].key, &id)) put_number(&part, ids[i].field, (uint64_t)id);
    put_bytes(&b, 2, part.data, part.size);
    part.size = 0;
    const upg_gguf_value *charsmap = upg_gguf_find(g, "tokenizer.ggml.precompiled_charsmap");
    if (charsmap && charsmap->count) put_bytes(&part, 2, "?", 1); // its presence is refused
    put_number(&part, 3, on(g, "tokenizer.ggml.add_space_prefix", true));
    put_number(&part, 4, on(g, "tokenizer.ggml.remove_extra_whitespaces", false));
    put_bytes(&b, 3, part.data, part.size);
    b.failed |= part.failed;
    upg_buf_free(&part);
    if (upg_buf_check(&b, e) || !(w->tokenizer_name = upg_strdup("tokenizer.model", 15, e))) {
        upg_buf_free(&b);
        return -1;
    }
    w->tokenizer_data = b.data;
    w->tokenizer_size = b.size;
    return 0;
}

// --- tokenizer_config.json ---

static bool add_name(yyjson_mut_doc *d, yyjson_mut_val *o, const char *key, const upg_gguf *g, const char *id_key) {
    const upg_gguf_value *tokens = array(g, "tokenizer.ggml.tokens", UPG_GGUF_STRING, 0);
    int64_t id;
    if (!tokens || !upg_gguf_token_id(g, id_key, &id) || id < 0 || (uint64_t)id >= tokens->count) return true;
    const uint8_t *at = tokens->data;
    size_t n;
    const char *s = upg_gguf_string(&at, &n);
    for (int64_t i = 0; i < id; i++) s = upg_gguf_string(&at, &n);
    return yyjson_mut_obj_add_strn(d, o, key, s, n);
}

static bool is_phi3(const upg_gguf *g) {
    const upg_gguf_value *v = upg_gguf_find(g, "general.name");
    if (!v || v->type != UPG_GGUF_STRING) return false;
    const uint8_t *at = v->data;
    size_t n;
    const char *s = upg_gguf_string(&at, &n);
    for (size_t i = 0; i + 4 <= n; i++)
        if (!strncasecmp(s + i, "phi3", 4) || (i + 5 <= n && !strncasecmp(s + i, "phi-3", 5))) return true;
    return false;
}

// GGUF does not say which tokens take the whitespace behind them. Phi-3's do but for three, and llama.cpp knows that by
// the model's name as well.
static bool add_phi3_tokens(yyjson_mut_doc *d, yyjson_mut_val *o, const vocabulary *v) {
    static const char *const others[] = {"<unk>", "<s>", "<|endoftext|>"};
    yyjson_mut_val *list = yyjson_mut_obj_add_obj(d, o, "added_tokens_decoder");
    const uint8_t *at = v->tokens->data;
    for (uint64_t i = 0; list && v->types && i < v->tokens->count; i++) {
        size_t n;
        const char *s = upg_gguf_string(&at, &n);
        uint32_t type = upg_le32(v->types->data + 4 * i);
        bool strips = type == UNKNOWN || type == CONTROL || type == USER_DEFINED;
        for (int k = 0; k < 3; k++) strips = strips && !(strlen(others[k]) == n && !memcmp(others[k], s, n));
        if (!strips) continue;
        char id[24];
        snprintf(id, sizeof id, "%llu", (unsigned long long)i);
        yyjson_mut_val *key = yyjson_mut_strcpy(d, id), *token = yyjson_mut_obj(d);
        if (!key || !token || !yyjson_mut_obj_add(list, key, token) ||
            !yyjson_mut_obj_add_strn(d, token, "content", s, n) ||
            !yyjson_mut_obj_add_bool(d, token, "special", type != USER_DEFINED) ||
            !yyjson_mut_obj_add_bool(d, token, "single_word", false) ||
            !yyjson_mut_obj_add_bool(d, token, "lstrip", false) || !yyjson_mut_obj_add_bool(d, token, "rstrip", true) ||
            !yyjson_mut_obj_add_bool(d, token, "normalized", false))
            return false;
    }
    return list != NULL;
}

static int write_config(upg_weights *w, const upg_gguf *g, const vocabulary *v, upg_error *e) {
    yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *o = d ? yyjson_mut_obj(d) : NULL;
    if (o) yyjson_mut_doc_set_root(d, o);
    bool ok = o && add_name(d, o, "bos_token", g, "tokenizer.ggml.bos_token_id") &&
              add_name(d, o, "eos_token", g, "tokenizer.ggml.eos_token_id") &&
              add_name(d, o, "unk_token", g, "tokenizer.ggml.unknown_token_id") &&
              add_name(d, o, "pad_token", g, "tokenizer.ggml.padding_token_id") &&
              yyjson_mut_obj_add_bool(d, o, "add_eos_token", on(g, "tokenizer.ggml.add_eos_token", false));
    // gpt2's BOS is in the template of its tokenizer.json. llama has the default that llama.cpp has: on.
    if (ok && v && upg_gguf_find(g, "tokenizer.ggml.add_bos_token"))
        ok = yyjson_mut_obj_add_bool(d, o, "add_bos_token", on(g, "tokenizer.ggml.add_bos_token", true));
    if (ok && v && is_phi3(g)) ok = add_phi3_tokens(d, o, v);
    w->tokenizer_config = upg_gguf_written(d, ok, e);
    return w->tokenizer_config ? 0 : -1;
}

int upg_gguf_read_tokenizer(upg_weights *w, const upg_gguf *g, upg_error *e) {
    const upg_gguf_value *model = upg_gguf_find(g, "tokenizer.ggml.model");
    if (!model) return 0;
    bool llama = false;
    if (model->type == UPG_GGUF_STRING) {
        size_t n;
        const uint8_t *at = model->data;
        const char *name = upg_gguf_string(&at, &n);
        llama = n == 5 && !memcmp(name, "llama", 5);
    }
    if (!llama) {
        w->tokenizer_json = upg_gguf_tokenizer(g, e);
        return w->tokenizer_json ? write_config(w, g, NULL, e) : -1;
    }
    vocabulary v;
    return find_vocabulary(&v, g, e) || write_model(w, g, &v, e) || write_config(w, g, &v, e) ? -1 : 0;
}
