// OpenAI's API: what its routes share, its errors, and the list of models.
#include "server/openai.h"
#include "engine/model.h"
#include "format/json.h"
#include "server/handlers.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { N_MAX = 64 };

// ---- Errors ----

static const char *error_type(int status) {
    return status == 401   ? "authentication_error"
           : status == 403 ? "permission_error"
           : status == 404 ? "not_found_error"
           : status == 429 ? "rate_limit_error"
           : status < 500  ? "invalid_request_error"
                           : "server_error";
}

static void write_error(upg_buf *out, int status, const char *message, const char *param) {
    put_quoted(out, "{\"error\":{\"message\":", message, strlen(message), "");
    upg_buf_fmt(out, ",\"type\":\"%s\",\"param\":", error_type(status));
    if (param)
        upg_json_quote(out, param, strlen(param));
    else
        upg_buf_str(out, "null");
    const char *code = status == 401   ? "\"invalid_api_key\""
                       : status == 404 ? "\"not_found\""
                       : status == 429 ? "\"queue_full\""
                                       : "null";
    upg_buf_fmt(out, ",\"code\":%s}}", code);
}

const dialect dialect_openai = {"openai", write_error};

void openai_fail(generation *g, int status, const char *message, upg_buf *out) {
    (void)g;
    upg_buf_str(out, "data: ");
    write_error(out, status, message, NULL);
    upg_buf_str(out, "\n\n");
}

void openai_done(upg_buf *out) {
    upg_buf_str(out, "data: [DONE]\n\n");
}

// ---- Models ----

void openai_fingerprint(const server *s, char out[32]) {
    snprintf(out, 32, "upg-%s-%08llx", upg_version(), (unsigned long long)s->model_hash & 0xffffffff);
}

static void write_model(const server *s, upg_buf *out) {
    const char *name = s->options->name;
    put_quoted(out, "{\"id\":", name, strlen(name), "");
    upg_buf_fmt(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"upg\",\"max_model_len\":%d}",
                (long long)s->started, upg_scheduler_context(s->scheduler));
}

void openai_models(server *s, exchange *x) {
    upg_buf b = {0};
    upg_buf_str(&b, "{\"object\":\"list\",\"data\":[");
    write_model(s, &b);
    upg_buf_str(&b, "]}");
    exchange_reply(x, 200, "application/json", &b);
}

void openai_one_model(server *s, exchange *x) {
    const char *name = exchange_path(x) + strlen("/v1/models/");
    upg_buf b = {0};
    if (strcmp(name, s->options->name)) {
        exchange_error(x, 404, "model", "there is no model %s here, only %s", name, s->options->name);
        return;
    }
    write_model(s, &b);
    exchange_reply(x, 200, "application/json", &b);
}

void openai_embeddings(server *s, exchange *x) {
    params p;
    params_open(&p, x);
    params_refuse(&p, "model", "the model %s writes text and serves no embeddings", s->options->name);
    params_close(&p);
}

void openai_model(const server *s, params *p) {
    const char *name = params_string(p, "model");
    if (p->refused || !name || !strcmp(name, s->options->name)) return;
    p->refused = true;
    exchange_error(p->x, 404, "model", "there is no model %s here, only %s", name, s->options->name);
}

// ---- Sampling ----

static void read_bias(generation *g, params *p) {
    yyjson_val *all = params_object(p, "logit_bias"), *key, *value;
    size_t i, n;
    const int vocab = upg_model_vocab_size(g->server->model);
    if (!all || p->refused) return;
    upg_error e = {""};
    if (!(g->bias = upg_alloc(yyjson_obj_size(all) + 1, sizeof *g->bias, &e))) {
        params_fail(p, &e);
        return;
    }
    yyjson_obj_foreach(all, i, n, key, value) {
        const char *text = yyjson_get_str(key);
        char *end;
        long id = strtol(text, &end, 10);
        double b = yyjson_is_num(value) ? yyjson_get_num(value) : 1000;
        bool digits = *text && strspn(text, "0123456789") == strlen(text) && strlen(text) < 10;
        if (!digits || *end || id >= vocab) {
            params_refuse(p, "logit_bias", "logit_bias: '%s' is no token of this model", text);
            return;
        }
        if (!(b >= -100 && b <= 100)) {
            params_refuse(p, "logit_bias", "logit_bias: the bias of %s is not within -100..100", text);
            return;
        }
        g->bias[g->sampling.n_bias++] = (upg_bias){(int32_t)id, (float)b};
    }
    g->sampling.bias = g->bias;
}

void openai_sampling(generation *g, params *p) {
    // Of vLLM's, with a meaning that is not here.
    static const char *const names[] = {
        "guided_json",    "guided_regex",    "guided_choice",   "guided_grammar", "structured_outputs",
        "stop_token_ids", "use_beam_search", "prompt_logprobs", "min_tokens",     NULL};
    upg_sampling *s = &g->sampling;
    params_none_of(p, names);
    params_float(p, "temperature", 0, 2, &s->temperature);
    params_float(p, "top_p", 0, 1, &s->top_p);
    params_int(p, "top_k", -1, INT32_MAX, &s->top_k);
    if (s->top_k < 0) s->top_k = 0;
    params_float(p, "min_p", 0, 1, &s->min_p);
    params_float(p, "repetition_penalty", 1 / 64.0, 100, &s->repeat_penalty);
    params_float(p, "presence_penalty", -2, 2, &s->presence_penalty);
    params_float(p, "frequency_penalty", -2, 2, &s->frequency_penalty);
    params_seed(p, "seed", &s->seed);
    params_int(p, "n", 1, N_MAX, &g->n);
    params_bool(p, "stream", &g->stream);
    params_bool(p, "ignore_eos", &g->ignore_eos);
    g->n_stops = params_strings(p, "stop", UPG_MAX_STOPS, g->stops);
    read_bias(g, p);
    yyjson_val *options = params_object(p, "stream_options"), *root = p->root;
    if (options) {
        if (!g->stream) params_refuse(p, "stream_options", "stream_options: only with stream");
        p->root = options;
        params_bool(p, "include_usage", &g->include_usage);
        p->root = root;
    }
}

void openai_usage(const generation *g, upg_buf *out) {
    upg_buf_fmt(out,
                "{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,"
                "\"prompt_tokens_details\":{\"cached_tokens\":%d}}",
                g->n_prompt_tokens, g->n_tokens, g->n_prompt_tokens + g->n_tokens, g->n_cached);
}

// ---- Messages ----

// A string, or an array of text parts, as one string.
static bool join_content(params *p, yyjson_val *content, upg_buf *out) {
    yyjson_val *part;
    size_t i, n;
    if (yyjson_is_str(content)) {
        upg_buf_add(out, yyjson_get_str(content), yyjson_get_len(content));
        return true;
    }
    if (!yyjson_is_arr(content)) {
        params_refuse(p, "messages", "messages: a content is neither a string nor an array of parts");
        return false;
    }
    yyjson_arr_foreach(content, i, n, part) {
        const char *type = yyjson_get_str(yyjson_obj_get(part, "type"));
        yyjson_val *text = yyjson_obj_get(part, "text");
        bool is_text = type && (!strcmp(type, "text") || !strcmp(type, "input_text") || !strcmp(type, "output_text"));
        if (!is_text || !yyjson_is_str(text)) {
            params_refuse(p, "messages", "messages: a part of type %s: the model reads text only",
                          type ? type : "(none)");
            return false;
        }
        if (i) upg_buf_str(out, "\n");
        upg_buf_add(out, yyjson_get_str(text), yyjson_get_len(text));
    }
    return true;
}

// Templates expect arguments as an object; clients send them as text.
static void open_arguments(yyjson_mut_doc *d, yyjson_mut_val *call) {
    yyjson_mut_val *f = yyjson_mut_obj_get(call, "function");
    yyjson_mut_val *a = yyjson_mut_obj_get(f, "arguments");
    if (!yyjson_mut_is_str(a)) return;
    yyjson_doc *read = yyjson_read(yyjson_mut_get_str(a), yyjson_mut_get_len(a), YYJSON_READ_BIGNUM_AS_RAW);
    yyjson_val *root = yyjson_doc_get_root(read);
    if (yyjson_is_obj(root)) {
        yyjson_mut_val *copy = yyjson_val_mut_copy(d, root);
        if (copy) yyjson_mut_obj_put(f, yyjson_mut_str(d, "arguments"), copy);
    }
    yyjson_doc_free(read);
}

void openai_message(params *p, yyjson_mut_doc *d, yyjson_mut_val *messages, yyjson_val *message) {
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    const char *role = yyjson_get_str(yyjson_obj_get(message, "role"));
    if (p->refused) return;
    if (role && !strcmp(role, "developer")) role = "system";
    bool known = false;
    for (int i = 0; i < 4; i++) known |= role && !strcmp(role, roles[i]);
    if (!known) {
        params_refuse(p, "messages", "messages: a role is not system, developer, user, assistant or tool");
        return;
    }
    yyjson_val *content = yyjson_obj_get(message, "content"), *calls = yyjson_obj_get(message, "tool_calls");
    upg_buf text = {0};
    if ((content && !yyjson_is_null(content)) || strcmp(role, "assistant"))
        if (!join_content(p, content, &text)) {
            upg_buf_free(&text);
            return;
        }
    yyjson_mut_val *m = yyjson_val_mut_copy(d, message), *call;
    if (!m || text.failed) params_refuse(p, NULL, "out of memory");
    if (m) {
        yyjson_mut_obj_put(m, yyjson_mut_str(d, "role"), yyjson_mut_strcpy(d, role));
        yyjson_mut_obj_put(m, yyjson_mut_str(d, "content"),
                           yyjson_mut_strncpy(d, text.data ? text.data : "", text.size));
        if (!yyjson_is_arr(calls) || !yyjson_arr_size(calls)) yyjson_mut_obj_remove_key(m, "tool_calls");
        size_t i, n;
        yyjson_mut_val *list = yyjson_mut_obj_get(m, "tool_calls");
        yyjson_mut_arr_foreach(list, i, n, call) open_arguments(d, call);
        yyjson_mut_arr_append(messages, m);
    }
    upg_buf_free(&text);
}

bool openai_tool_choice(params *p) {
    yyjson_val *wanted = params_get(p, "tool_choice");
    const char *word = yyjson_get_str(wanted);
    if (!wanted || (word && !strcmp(word, "auto"))) return true;
    if (!word || strcmp(word, "none"))
        params_refuse(p, "tool_choice", "tool_choice: only auto and none; the model cannot be made to call a tool");
    return false;
}

// ---- Log probabilities ----

static void put_logprob(const server *s, int32_t token, float logprob, upg_buf *out) {
    upg_buf_str(out, "{\"token\":");
    quote_token(s, token, out);
    upg_buf_fmt(out, ",\"logprob\":%.9g,\"bytes\":", (double)(logprob > -9999 ? logprob : -9999));
    quote_bytes(s, token, out);
}

void openai_logprob(const server *s, const upg_answer_event *e, upg_buf *out) {
    if (out->size) upg_buf_str(out, ",");
    put_logprob(s, e->token, e->logprob, out);
    upg_buf_str(out, ",\"top_logprobs\":[");
    for (int i = 0; i < e->n_top; i++) {
        if (i) upg_buf_str(out, ",");
        put_logprob(s, e->top[i].token, e->top[i].logprob, out);
        upg_buf_str(out, "}");
    }
    upg_buf_str(out, "]}");
}
