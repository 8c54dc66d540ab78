// Chats: messages through the model's template to token ids, and the tokens that end an answer.
//
// Which token ends an answer is asked of the template itself: it renders a conversation with a known answer, and the
// first control token it writes behind that is the one (<|im_end|>, <|end|>, <|eot_id|>, </s>, ...). Models whose
// eos_token_id names only the end of a text stop where they should that way, and no table of names is needed.
#include "engine/model.h"
#include "format/json.h"
#include "text/chat.h"
#include "upg.h"
#include <stdlib.h>
#include <string.h>

enum { CHAT_JSON_MAX = 64 << 20 };

struct upg_chat {
    const upg_model *model;
    upg_template *template;
    int32_t end; // -1: the template writes none
};

// The keys of the context that are the model's, and those that only the caller's messages may fill.
static bool reserved(const char *key) {
    size_t n = strlen(key);
    return !strcmp(key, "messages") || (n > 6 && !strcmp(key + n - 6, "_token"));
}

static yyjson_doc *read_part(const char *text, size_t n, const char *name, upg_error *e) {
    if (n > CHAT_JSON_MAX) {
        upg_fail(e, "%s: %zu bytes, more than a chat may have", name, n);
        return NULL;
    }
    yyjson_read_err err;
    yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)text, n, YYJSON_READ_NUMBER_AS_RAW, NULL, &err);
    if (!doc) upg_fail(e, "%s: not valid JSON at byte %zu: %s", name, err.pos, err.msg);
    return doc;
}

static int check_messages(yyjson_val *messages, upg_error *e) {
    size_t i, n;
    yyjson_val *m;
    if (!yyjson_is_arr(messages)) return upg_fail(e, "messages: not a JSON array");
    yyjson_arr_foreach(messages, i, n, m) {
        if (!yyjson_is_obj(m)) return upg_fail(e, "messages: entry %zu is not an object", i);
        if (!yyjson_is_str(yyjson_obj_get(m, "role"))) return upg_fail(e, "messages: entry %zu has no role", i);
    }
    return 0;
}

// A token's text under a key, if the model has the token.
static bool add_token_text(const upg_model *m, yyjson_mut_doc *d, yyjson_mut_val *o, const char *key, int id) {
    size_t n;
    const char *s = upg_tokenizer_bytes(m->tokenizer, id, &n);
    return !n || yyjson_mut_obj_add_strn(d, o, key, s, n);
}

static int add_options(yyjson_mut_doc *d, yyjson_mut_val *root, yyjson_val *options, upg_error *e) {
    size_t i, n;
    yyjson_val *key, *value;
    yyjson_obj_foreach(options, i, n, key, value) {
        const char *name = upg_json_string(key);
        if (!name || reserved(name))
            return upg_fail(e, "chat options: '%s' cannot be set", name ? name : yyjson_get_str(key));
        yyjson_mut_val *k = yyjson_mut_strcpy(d, name), *v = yyjson_val_mut_copy(d, value);
        if (!k || !v || !yyjson_mut_obj_put(root, k, v)) return upg_fail(e, "out of memory");
    }
    return 0;
}

// As transformers: tools and documents are defined whether given or not.
static char *make_context(const upg_chat *c, yyjson_val *messages, yyjson_val *options, size_t *n, upg_error *e) {
    const upg_config *config = &c->model->config;
    yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = d ? yyjson_mut_obj(d) : NULL;
    yyjson_mut_val *copy = root ? yyjson_val_mut_copy(d, messages) : NULL;
    char *text = NULL;
    if (copy) yyjson_mut_doc_set_root(d, root);
    if (!copy || !yyjson_mut_obj_add_val(d, root, "messages", copy) || !yyjson_mut_obj_add_null(d, root, "tools") ||
        !yyjson_mut_obj_add_null(d, root, "documents") ||
        !yyjson_mut_obj_add_bool(d, root, "add_generation_prompt", true) ||
        !add_token_text(c->model, d, root, "bos_token", config->bos) ||
        !add_token_text(c->model, d, root, "eos_token", config->n_eos ? config->eos[0] : -1))
        upg_fail(e, "out of memory");
    else if (!options || !add_options(d, root, options, e)) {
        yyjson_write_err err;
        if (!(text = yyjson_mut_write_opts(d, 0, NULL, n, &err))) upg_fail(e, "messages: %s", err.msg);
    }
    yyjson_mut_doc_free(d);
    return text;
}

static int render(const upg_chat *c, const char *messages, size_t n, const char *options, upg_template_output *out,
                  upg_error *e) {
    *out = (upg_template_output){0};
    yyjson_doc *m = read_part(messages, n, "messages", e);
    if (!m) return -1;
    yyjson_doc *o = options ? read_part(options, strlen(options), "chat options", e) : NULL;
    int rc = options && !o ? -1 : check_messages(yyjson_doc_get_root(m), e);
    if (!rc && o && !yyjson_is_obj(yyjson_doc_get_root(o))) rc = upg_fail(e, "chat options: not a JSON object");
    size_t size;
    char *json = rc ? NULL : make_context(c, yyjson_doc_get_root(m), yyjson_doc_get_root(o), &size, e);
    rc = json ? upg_template_render(c->template, json, size, NULL, out, e) : -1;
    free(json);
    yyjson_doc_free(o);
    yyjson_doc_free(m);
    return rc;
}

int upg_chat_tokens(const upg_chat *c, const char *messages, size_t n, const char *options, int32_t **ids,
                    size_t *n_ids, upg_error *e) {
    upg_template_output out;
    upg_ids list = {0};
    int rc = render(c, messages, n, options, &out, e);
    if (!rc) rc = upg_tokenizer_encode_chat(c->model->tokenizer, &out, &list, e);
    upg_template_output_free(&out);
    if (!rc && !list.size) rc = upg_fail(e, "the chat template writes nothing for these messages");
    if (rc) {
        upg_ids_free(&list);
        return -1;
    }
    *ids = list.data;
    *n_ids = list.size;
    return 0;
}

// What is left of a rendered text behind its first skip bytes; out must outlive it.
static upg_template_output behind(const upg_template_output *out, size_t skip) {
    upg_template_output rest = *out;
    rest.text.data += skip;
    rest.text.size -= skip;
    for (; rest.n_runs && skip >= rest.runs->length; rest.n_runs--) skip -= rest.runs++->length;
    if (rest.n_runs) rest.runs->length -= skip;
    return rest;
}

// The first control token that the template writes behind an answer; -1 if there is none, or if it does not like the
// conversation.
static int32_t find_end(const upg_chat *c) {
    static const char answer[] = "UPGANSWER";
    static const char messages[] = "[{\"role\":\"user\",\"content\":\"a\"},"
                                   "{\"role\":\"assistant\",\"content\":\"UPGANSWER\"},"
                                   "{\"role\":\"user\",\"content\":\"b\"}]";
    upg_template_output out;
    upg_ids ids = {0};
    int32_t end = -1;
    if (render(c, messages, sizeof messages - 1, NULL, &out, NULL)) return -1;
    const char *found = out.text.size ? strstr(out.text.data, answer) : NULL;
    if (found) {
        upg_template_output rest = behind(&out, (size_t)(found - out.text.data) + sizeof answer - 1);
        upg_tokenizer_encode_chat(c->model->tokenizer, &rest, &ids, NULL); // no ids: no end
        for (size_t i = 0; i < ids.size && end < 0; i++)
            if (upg_tokenizer_is_special(c->model->tokenizer, ids.data[i])) end = ids.data[i];
    }
    upg_ids_free(&ids);
    upg_template_output_free(&out);
    return end;
}

upg_chat *upg_chat_new(const upg_model *m, const char *template, upg_error *e) {
    if (!template) template = m->weights.chat_template;
    if (!m->tokenizer || !template) {
        upg_fail(e, m->tokenizer ? "the model has no chat template: give one, a Jinja text (--template FILE)"
                                 : "the model has no tokenizer");
        return NULL;
    }
    upg_chat *c = upg_alloc(1, sizeof *c, e);
    if (!c) return NULL;
    c->model = m;
    if (!(c->template = upg_template_parse(template, strlen(template), e))) {
        upg_chat_free(c);
        return NULL;
    }
    c->end = find_end(c);
    return c;
}

void upg_chat_free(upg_chat *c) {
    if (!c) return;
    upg_template_free(c->template);
    free(c);
}

bool upg_chat_is_end(const upg_chat *c, int32_t token) {
    return token == c->end || upg_model_is_eos(c->model, token);
}
