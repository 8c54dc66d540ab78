// What the readers of tokenizer files share: JSON, how tokens are spelled, added tokens, and what tokenizer_config.json
// says about added tokens and the roles of tokens (BOS, EOS, unknown, padding).
#include "text/tokenizer_internal.h"
#include "text/unicode.h"
#include <stdlib.h>
#include <string.h>

#define CONFIG "tokenizer_config.json"

// For messages: the first bytes of a string of the file.
static int shown(size_t n) {
    return n < 100 ? (int)n : 100;
}

bool upg_json_absent(yyjson_val *v) {
    return !v || yyjson_is_null(v);
}

yyjson_doc *upg_tokenizer_parse(const char *text, size_t n, const char *name, upg_error *e) {
    yyjson_read_err err;
    // Without YYJSON_READ_INSITU the text is only read, whatever the parameter's type says.
    yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)text, n, 0, NULL, &err);
    if (!doc) upg_fail(e, "%s: not valid JSON at byte %zu: %s", name, err.pos, err.msg);
    return doc;
}

int32_t upg_json_id(yyjson_val *v) {
    return yyjson_is_uint(v) && yyjson_get_uint(v) < UPG_MAX_IDS ? (int32_t)yyjson_get_uint(v) : -1;
}

// --- Spelling ---

// The byte that a character of the alphabet stands for, or -1.
static int alphabet_byte(uint32_t c) {
    if ((c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF)) return (int)c;
    if (c < 256 || c > 256 + 67) return -1;
    uint32_t k = c - 256; // the others, in order: 0x00..0x20, 0x7F..0xA0, 0xAD
    return (int)(k <= 0x20 ? k : k < 67 ? k - 33 + 0x7F : 0xAD);
}

int64_t upg_spelled_bytes(bool spm, const char *s, size_t n, uint8_t *out) {
    int64_t size = 0;
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t cp;
        len = (size_t)upg_utf8_decode((const uint8_t *)s + i, n - i, &cp);
        if (spm && cp != 0x2581) {
            if (cp == ' ' || cp == UPG_BAD_CHAR) return -1;
            memcpy(out + size, s + i, len);
            size += (int64_t)len;
            continue;
        }
        int b = spm ? ' ' : alphabet_byte(cp);
        if (b < 0) return -1;
        out[size++] = (uint8_t)b;
    }
    return size;
}

int upg_alloc_tokens(upg_tokenizer *t, size_t total, upg_error *e) {
    if (total > UPG_MAX_TOKEN_BYTES)
        return upg_fail(e, "tokenizer: the vocabulary has more than %d bytes", UPG_MAX_TOKEN_BYTES);
    t->bytes = upg_alloc(total + 1, 1, e);
    t->offset = upg_alloc((size_t)t->size + 1, sizeof *t->offset, e);
    t->flags = upg_alloc((size_t)t->size, 1, e);
    return t->bytes && t->offset && t->flags ? 0 : -1;
}

// --- Added tokens ---

static int read_added_flags(yyjson_val *token, uint8_t *flags, upg_error *e) {
    static const char *const names[] = {"single_word", "lstrip", "rstrip", "normalized", "special"};
    *flags = 0;
    for (int k = 0; k < 5; k++) {
        yyjson_val *v = yyjson_obj_get(token, names[k]);
        if (!yyjson_is_bool(v)) return upg_fail(e, "tokenizer: added token without %s", names[k]);
        if (yyjson_get_bool(v)) *flags |= (uint8_t)(1 << k);
    }
    return 0;
}

int upg_add_added(upg_tokenizer *t, yyjson_val *token, int32_t id, upg_error *e) {
    yyjson_val *content = yyjson_obj_get(token, "content");
    upg_added a = {.id = id, .size = (uint32_t)yyjson_get_len(content)};
    if (!yyjson_is_str(content) || id < 0)
        return upg_fail(e, "tokenizer: added token %d has no content or id", (int)t->n_added);
    if (yyjson_get_len(content) > UPG_MAX_ADDED_BYTES)
        return upg_fail(e, "tokenizer: added token %d is longer than %d bytes", (int)id, UPG_MAX_ADDED_BYTES);
    if (read_added_flags(token, &a.flags, e)) return -1;
    if (!a.size) return 0;
    a.content = upg_strdup(yyjson_get_str(content), a.size, e);
    if (!a.content) return -1;
    t->added[t->n_added++] = a;
    return 0;
}

static int by_id(const void *x, const void *y) {
    int32_t a = ((const upg_added *)x)->id, b = ((const upg_added *)y)->id;
    return (a > b) - (a < b);
}

int32_t upg_decimal_id(const char *s, size_t n) {
    int32_t id = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9' || i > 6) return -1;
        id = id * 10 + (s[i] - '0');
    }
    return n && id < UPG_MAX_IDS ? id : -1;
}

// Tokens that both lists have become one with the flags of the second.
static int merge_added(upg_tokenizer *t, upg_error *e) {
    qsort(t->added, (size_t)t->n_added, sizeof *t->added, by_id); // may swap equal ones: they have equal contents
    int32_t n = 0;
    for (int32_t i = 0; i < t->n_added; i++) {
        upg_added *a = &t->added[i];
        if (n && t->added[n - 1].id == a->id) {
            upg_added *b = &t->added[n - 1];
            if (a->size != b->size || memcmp(a->content, b->content, a->size))
                return upg_fail(e, CONFIG ": token %d is '%.*s' elsewhere", (int)a->id, shown(a->size), a->content);
            bool first = b->flags & UPG_ADDED_OVERRULED;
            if (first) b->flags = a->flags;
            free(a->content);
            a->content = NULL;
        } else {
            if (n != i) t->added[n] = *a, *a = (upg_added){0};
            n++;
        }
    }
    t->n_added = n;
    for (int32_t i = 0; i < n; i++) t->added[i].flags &= UPG_ADDED_FLAGS;
    return 0;
}

int upg_read_added_decoder(upg_tokenizer *t, yyjson_val *config, upg_error *e) {
    yyjson_val *list = yyjson_obj_get(config, "added_tokens_decoder"), *key, *token;
    if (upg_json_absent(list)) return 0;
    if (!yyjson_is_obj(list)) return upg_fail(e, CONFIG ": added_tokens_decoder is not an object");
    size_t n = (size_t)t->n_added + yyjson_obj_size(list), i, max;
    if (n > UPG_MAX_ADDED) return upg_fail(e, "tokenizer: more than %d added tokens", UPG_MAX_ADDED);
    if (!n) return 0;
    upg_added *added = upg_resize(t->added, n, sizeof *added, e);
    if (!added) return -1;
    t->added = added;
    for (i = 0; i < (size_t)t->n_added; i++) added[i].flags |= UPG_ADDED_OVERRULED;
    yyjson_obj_foreach(
        list, i, max, key,
        token) if (upg_add_added(t, token, upg_decimal_id(yyjson_get_str(key), yyjson_get_len(key)), e)) return -1;
    return merge_added(t, e);
}

int upg_count_tokens(upg_tokenizer *t, int32_t size, size_t n, yyjson_val *config, size_t *total, upg_error *e) {
    yyjson_val *list = yyjson_obj_get(config, "added_tokens_decoder"), *key, *token;
    size_t i, max, n_added = yyjson_obj_size(list);
    t->size = size;
    if (n_added) { // the loop is not for no object
        yyjson_obj_foreach(list, i, max, key, token) {
            int32_t id = upg_decimal_id(yyjson_get_str(key), yyjson_get_len(key));
            if (id >= t->size) t->size = id + 1;
            *total += yyjson_get_len(yyjson_obj_get(token, "content"));
        }
    }
    // Memory follows the largest id, so that must follow the size of the files.
    if ((size_t)t->size > 65536 + 4 * (n + n_added))
        return upg_fail(e, "tokenizer: ids go up to %d for %zu tokens", (int)t->size - 1, n + n_added);
    return 0;
}

int upg_place_added(upg_tokenizer *t, int32_t first, upg_error *e) {
    int32_t next = first;
    for (int32_t i = 0; i < t->n_added; i++) { // they are in order of ids
        const upg_added *a = &t->added[i];
        if (a->id < first) {
            if (!t->flags[a->id]) return upg_fail(e, "tokenizer: added token %d is no token", (int)a->id);
            continue;
        }
        for (; next <= a->id; next++) t->offset[next + 1] = t->offset[next];
        uint8_t *out = t->bytes + t->offset[a->id];
        memcpy(out, a->content, a->size);
        t->offset[a->id + 1] += a->size;
        t->flags[a->id] = UPG_TOKEN_ADDED;
    }
    for (; next < t->size; next++) t->offset[next + 1] = t->offset[next];
    return 0;
}

// --- Roles ---

static int32_t find_content(const upg_tokenizer *t, const char *s, size_t n) {
    for (int32_t i = 0; i < t->n_added; i++)
        if (t->added[i].size == n && !memcmp(t->added[i].content, s, n)) return t->added[i].id;
    uint8_t bytes[UPG_MAX_ADDED_BYTES];
    int64_t size = n <= sizeof bytes ? upg_spelled_bytes(t->spm.on, s, n, bytes) : -1;
    return size > 0 ? upg_piece_find(t, bytes, (size_t)size) : -1;
}

static int read_switch(yyjson_val *config, const char *key, bool *on, bool *given, upg_error *e) {
    yyjson_val *v = yyjson_obj_get(config, key);
    *given = !upg_json_absent(v);
    if (*given && !yyjson_is_bool(v)) return upg_fail(e, CONFIG ": %s is not a boolean", key);
    if (*given) *on = yyjson_get_bool(v);
    return 0;
}

int upg_read_roles(upg_tokenizer *t, yyjson_val *config, upg_error *e) {
    static const char *const names[UPG_N_ROLES] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    if (!yyjson_is_obj(config)) return upg_fail(e, CONFIG ": not an object");
    for (int i = 0; i < UPG_N_ROLES; i++) {
        yyjson_val *v = yyjson_obj_get(config, names[i]);
        if (yyjson_is_obj(v)) v = yyjson_obj_get(v, "content");
        int32_t id = yyjson_is_str(v) ? find_content(t, yyjson_get_str(v), yyjson_get_len(v)) : -1;
        if (id >= 0) t->role[i] = id;
        if (yyjson_is_str(v) && id < 0 && i == UPG_ROLE_BOS && yyjson_is_true(yyjson_obj_get(config, "add_bos_token")))
            return upg_fail(e, CONFIG ": bos_token '%.*s' is not a token", shown(yyjson_get_len(v)), yyjson_get_str(v));
    }
    bool add = false, given;
    if (read_switch(config, "add_bos_token", &add, &given, e)) return -1;
    if (given) t->bos = add ? t->role[UPG_ROLE_BOS] : -1;
    if (given && add && t->bos < 0) return upg_fail(e, CONFIG ": add_bos_token is set but there is no bos_token");
    if (read_switch(config, "add_eos_token", &add, &given, e)) return -1;
    if (given) t->add_eos = add && t->role[UPG_ROLE_EOS] >= 0;
    return 0;
}
