// Reading task files. See eval_items.h.
//
// How a text becomes tokens: white space at the end of the context counts as the beginning of what follows; both
// together are tokenised, and the tokens of what follows are those behind as many as the context alone has. Where they
// are parted by no white space, and the ending has none of its own, one space comes between them ("separator" of the
// item says otherwise). The model's BOS comes first, as in the evaluation of plain texts.
#include "engine/eval_items.h"
#include "engine/model.h"
#include "format/json.h"
#include "text/unicode.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TEXTS = 4096 };

typedef struct span {
    const char *text;
    size_t n;
} span;

// ---- Tokens ----

static size_t spaces_before_end(span s) {
    size_t n = s.n;
    while (n > 0) {
        uint32_t cp;
        int size = upg_utf8_decode_last((const uint8_t *)s.text, n, &cp);
        if (!upg_char_is_space(cp)) break;
        n -= (size_t)size;
    }
    return s.n - n;
}

static size_t spaces_at_start(span s) {
    size_t n = 0;
    while (n < s.n) {
        uint32_t cp;
        int size = upg_utf8_decode((const uint8_t *)s.text + n, s.n - n, &cp);
        if (!upg_char_is_space(cp)) break;
        n += (size_t)size;
    }
    return n;
}

static size_t characters(span s) {
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) n += ((uint8_t)s.text[i] & 0xC0) != 0x80; // the JSON reader has checked the UTF-8
    return n;
}

// What stands before a text's first token: the model's BOS; without one, where there is no context, the token that
// begins or ends texts.
static int32_t prefix_token(const upg_model *m, bool needed) {
    int32_t bos = upg_model_bos(m);
    for (int role = UPG_ROLE_BOS; needed && bos < 0 && role <= UPG_ROLE_EOS; role++)
        bos = upg_tokenizer_role(m->tokenizer, role);
    return bos;
}

// Leaves out tokens behind the prefix, the oldest first, until the context holds the text.
static void cut(upg_eval_text *t, int context, bool prefix) {
    int drop = t->n - 1 - context;
    if (drop <= 0) return;
    memmove(t->tokens + prefix, t->tokens + prefix + drop, (size_t)(t->n - drop - prefix) * sizeof *t->tokens);
    t->n -= drop;
    t->first -= drop;
}

static int join(upg_eval_text *t, int32_t prefix, const int32_t *context, size_t n_context, const int32_t *ending,
                size_t n_ending, upg_error *e) {
    size_t at = 0;
    if (!(t->tokens = upg_alloc(n_context + n_ending + 1, sizeof *t->tokens, e))) return -1;
    if (prefix >= 0) t->tokens[at++] = prefix;
    if (n_context) memcpy(t->tokens + at, context, n_context * sizeof *context);
    at += n_context;
    memcpy(t->tokens + at, ending, n_ending * sizeof *ending);
    t->first = (int)at;
    t->n = (int)(at + n_ending);
    return 0;
}

// text: the context and what follows it, of which the first n_context bytes are the context.
static int make_text(const upg_eval_items *all, upg_eval_item *item, int index, span text, size_t n_context,
                     upg_error *e) {
    upg_eval_text *t = &item->texts[index];
    int32_t *whole = NULL, *context = NULL;
    size_t n_whole = 0, n = 0;
    n_context -= spaces_before_end((span){text.text, n_context});
    int rc = upg_tokenize(all->model, text.text, text.n, false, &whole, &n_whole, e);
    if (!rc && n_context) rc = upg_tokenize(all->model, text.text, n_context, false, &context, &n, e);
    int32_t prefix = prefix_token(all->model, n == 0);
    if (rc || n_whole > INT32_MAX - 1 || n > INT32_MAX - 1)
        rc = rc ? -1 : upg_fail(e, "%s:%zu: text %d has too many tokens", all->path, item->line, index);
    else if (n_whole <= n)
        rc = upg_fail(e, "%s:%zu: what follows the context of text %d adds no token to it", all->path, item->line,
                      index);
    else if (n == 0 && prefix < 0)
        rc = upg_fail(e, "%s:%zu: text %d has no context, and the model no token to begin with", all->path, item->line,
                      index);
    else if (n_whole - n > (size_t)all->context)
        rc = upg_fail(e, "%s:%zu: what is to be predicted of text %d has %zu tokens, the context %d", all->path,
                      item->line, index, n_whole - n, all->context);
    else if (!(rc = join(t, prefix, context, n, whole + n, n_whole - n, e))) {
        item->cut |= t->n - 1 > all->context;
        cut(t, all->context, prefix >= 0);
    }
    upg_free(whole);
    upg_free(context);
    return rc;
}

// ---- Lines ----

static int bad(const upg_eval_items *all, const upg_eval_item *item, const char *what, upg_error *e) {
    return upg_fail(e, "%s:%zu: %s", all->path, item->line, what);
}

// A text of an object or array; empty ones only where they mean something.
static int get_text(const upg_eval_items *all, const upg_eval_item *item, yyjson_val *v, const char *name, bool empty,
                    span *out, upg_error *e) {
    *out = (span){upg_json_string(v), yyjson_get_len(v)};
    if (!v) return upg_fail(e, "%s:%zu: no '%s'", all->path, item->line, name);
    if (!out->text)
        return upg_fail(e, "%s:%zu: '%s' is not a text%s", all->path, item->line, name,
                        yyjson_is_str(v) ? ": it holds a NUL" : "");
    if (!empty && spaces_at_start(*out) == out->n)
        return upg_fail(e, "%s:%zu: '%s' is empty", all->path, item->line, name);
    return 0;
}

static int make_choice(const upg_eval_items *all, upg_eval_item *item, int index, span context, span separator,
                       span ending, upg_error *e) {
    upg_buf b = {0};
    size_t spaces = spaces_at_start(ending);
    upg_buf_add(&b, context.text, context.n);
    if (context.n && !spaces && !spaces_before_end(context)) upg_buf_add(&b, separator.text, separator.n);
    upg_buf_add(&b, ending.text, ending.n);
    item->texts[index].n_chars = characters((span){ending.text + spaces, ending.n - spaces});
    int rc = upg_buf_check(&b, e) || make_text(all, item, index, (span){b.data, b.size}, context.n, e) ? -1 : 0;
    upg_buf_free(&b);
    return rc;
}

static int make_choices(const upg_eval_items *all, upg_eval_item *item, yyjson_val *root, upg_error *e) {
    yyjson_val *contexts = yyjson_obj_get(root, "contexts"), *endings = yyjson_obj_get(root, "endings"),
               *many = contexts ? contexts : endings;
    if (contexts && (endings || yyjson_obj_get(root, "context")))
        return bad(all, item, "'contexts' goes with one 'ending', 'context' with 'endings'", e);
    if (!many) return bad(all, item, "neither 'endings' nor 'contexts'", e);
    const char *name = contexts ? "contexts" : "endings";
    size_t n = yyjson_arr_size(many);
    if (!yyjson_is_arr(many) || n < 2 || n > MAX_TEXTS)
        return upg_fail(e, "%s:%zu: '%s' is not an array of 2 to %d texts", all->path, item->line, name, MAX_TEXTS);
    yyjson_val *label = yyjson_obj_get(root, "label"), *sep = yyjson_obj_get(root, "separator");
    if (!yyjson_is_int(label)) return bad(all, item, "'label' is not a whole number", e);
    if (!yyjson_is_uint(label) || yyjson_get_uint(label) >= n)
        return upg_fail(e, "%s:%zu: 'label' is not within 0..%zu", all->path, item->line, n - 1);
    span one, separator = {" ", 1};
    if (get_text(all, item, yyjson_obj_get(root, contexts ? "ending" : "context"), contexts ? "ending" : "context",
                 !contexts, &one, e) ||
        (sep && get_text(all, item, sep, "separator", true, &separator, e)))
        return -1;
    if (!item->texts && !(item->texts = upg_alloc(n, sizeof *item->texts, e))) return -1;
    item->n_texts = (int)n;
    item->label = (int)yyjson_get_uint(label);
    size_t i, max;
    yyjson_val *v;
    yyjson_arr_foreach(many, i, max, v) {
        span s;
        if (get_text(all, item, v, name, contexts != NULL, &s, e) ||
            make_choice(all, item, (int)i, contexts ? s : one, separator, contexts ? one : s, e))
            return -1;
    }
    return 0;
}

// The last word is what stands behind the last space, white space at the end of the text not counted.
static int make_last_word(const upg_eval_items *all, upg_eval_item *item, yyjson_val *root, upg_error *e) {
    span text;
    if (get_text(all, item, yyjson_obj_get(root, "text"), "text", false, &text, e)) return -1;
    text.n -= spaces_before_end(text);
    size_t at = text.n;
    while (at > 0 && text.text[at - 1] != ' ') at--;
    if (at == 0 || spaces_at_start((span){text.text, at}) == at)
        return bad(all, item, "'text' has only one word: nothing to predict it from", e);
    if (!item->texts && !(item->texts = upg_alloc(1, sizeof *item->texts, e))) return -1;
    item->n_texts = 1;
    item->texts[0].n_chars = characters((span){text.text + at, text.n - at});
    return make_text(all, item, 0, text, at - 1, e);
}

int upg_eval_item_load(const upg_eval_items *all, upg_eval_item *item, upg_error *e) {
    char name[256];
    snprintf(name, sizeof name, "%s:%zu", all->path, item->line);
    yyjson_doc *doc = upg_json_object(all->file + item->offset, item->size, 0, name, e);
    if (!doc) return -1;
    item->cut = false;
    yyjson_val *root = yyjson_doc_get_root(doc);
    int rc = (all->task == UPG_EVAL_CHOICES ? make_choices : make_last_word)(all, item, root, e);
    yyjson_doc_free(doc);
    if (rc) upg_eval_item_unload(item);
    return rc;
}

void upg_eval_item_unload(upg_eval_item *item) {
    for (int i = 0; item->texts && i < item->n_texts; i++) {
        free(item->texts[i].tokens);
        item->texts[i].tokens = NULL;
    }
}

static int add_item(upg_eval_items *all, size_t *capacity, const upg_eval_item *item, upg_error *e) {
    if (all->n == *capacity) {
        *capacity = *capacity ? *capacity * 2 : 256;
        upg_eval_item *p = upg_resize(all->items, *capacity, sizeof *p, e);
        if (!p) return -1;
        all->items = p;
    }
    upg_eval_item *at = &all->items[all->n++];
    *at = *item;
    if (upg_eval_item_load(all, at, e)) return -1;
    upg_eval_item_unload(at);
    for (int i = 0; i < at->n_texts; i++)
        if (at->texts[i].n - 1 > all->longest) all->longest = at->texts[i].n - 1;
    return 0;
}

static bool is_blank(const char *s, size_t n) {
    while (n && (*s == ' ' || *s == '\t' || *s == '\r')) s++, n--;
    return n == 0;
}

static void hash_to_hex(const void *data, size_t n, char hex[UPG_HEX_HASH + 1]) {
    uint8_t hash[16];
    upg_file_hash(data, n, hash);
    upg_file_hash_to_hex(hash, hex);
}

static int read_items(upg_eval_items *all, size_t limit, upg_error *e) {
    size_t size = 0, capacity = 0, line = 1;
    if (!(all->file = upg_read_text(all->path, SIZE_MAX, &size, e))) return -1;
    hash_to_hex(all->file, size, all->file_hash);
    size_t at = size >= 3 && !memcmp(all->file, "\xEF\xBB\xBF", 3) ? 3 : 0; // a byte order mark
    for (; at < size && (!limit || all->n < limit); line++) {
        const char *begin = all->file + at, *end = memchr(begin, '\n', size - at);
        size_t n = end ? (size_t)(end - begin) : size - at;
        if (!is_blank(begin, n) && add_item(all, &capacity, &(upg_eval_item){.line = line, .offset = at, .size = n}, e))
            return -1;
        at += n + 1;
    }
    return all->n ? 0 : upg_fail(e, "%s: no items", all->path);
}

int upg_eval_items_read(upg_eval_items *all, const upg_model *m, upg_eval_task task, const char *path, int context,
                        size_t limit, upg_error *e) {
    *all = (upg_eval_items){.task = task, .model = m, .path = path, .context = context};
    if (!m->tokenizer) return upg_fail(e, "the model has no tokenizer");
    if (!read_items(all, limit, e)) return 0;
    upg_eval_items_free(all);
    return -1;
}

void upg_eval_items_free(upg_eval_items *all) {
    for (size_t i = 0; i < all->n; i++) {
        upg_eval_item_unload(&all->items[i]);
        free(all->items[i].texts);
    }
    free(all->items);
    free(all->file);
    *all = (upg_eval_items){0};
}
