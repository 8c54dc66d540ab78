// Ollama's API: https://github.com/ollama/ollama/blob/main/docs/api.md, as far as it is about answers. Streams, which
// are its default, are lines of JSON.
#include "server/generation.h"
#include "server/handlers.h"
#include "arch/arch.h"
#include "engine/model.h"
#include "format/json.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void write_error(upg_buf *out, int status, const char *message, const char *param) {
    (void)status, (void)param;
    put_quoted(out, "{\"error\":", message, strlen(message), "}");
}

const dialect dialect_ollama = {"ollama", write_error};

// ---- Answers. There is one choice. ----

static void put_time(int64_t when, upg_buf *out) {
    struct tm utc;
    char text[40];
    time_t t = (time_t)when;
    gmtime_r(&t, &utc);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S.000000Z", &utc);
    upg_buf_fmt(out, "\"%s\"", text);
}

static void put_head(const generation *g, upg_buf *out) {
    put_quoted(out, "{\"model\":", g->model, strlen(g->model), ",\"created_at\":");
    put_time(g->created, out);
}

// The answer's text, or a part of it: of a chat with tool calls from `first` on.
static void put_text(const choice *c, const char *text, size_t n, int first, int end, upg_buf *out) {
    if (!c->g->chat_api) {
        put_quoted(out, ",\"response\":", text, n, "");
        return;
    }
    put_quoted(out, ",\"message\":{\"role\":\"assistant\",\"content\":", text, n, "");
    for (int i = first; i < end; i++) {
        const tool_call *t = &c->tools.calls[i];
        put_quoted(out, i > first ? ",{\"function\":{\"name\":" : ",\"tool_calls\":[{\"function\":{\"name\":", t->name,
                   strlen(t->name), ",\"arguments\":");
        upg_buf_fmt(out, "%s}}", t->arguments);
    }
    upg_buf_str(out, first < end ? "]}" : "}");
}

static long long nanoseconds(double seconds) {
    return (long long)(seconds * 1e9);
}

static void put_done(const generation *g, upg_buf *out) {
    const choice *c = &g->choices[0];
    upg_buf_fmt(
        out,
        ",\"done\":true,\"done_reason\":\"%s\",\"total_duration\":%lld,\"load_duration\":0,\"prompt_eval_count\":%d,"
        "\"prompt_eval_duration\":%lld,\"eval_count\":%d,\"eval_duration\":%lld}",
        c->finish == UPG_FINISH_LENGTH ? "length" : "stop", nanoseconds(upg_now() - g->started), g->n_prompt_tokens,
        nanoseconds(g->prompt_seconds), g->n_tokens, nanoseconds(g->answer_seconds));
}

static void begin(generation *g, upg_buf *out) {
    (void)g, (void)out;
}

static void piece(choice *c, const char *text, size_t n, upg_buf *out) {
    if (!n) return;
    put_head(c->g, out);
    put_text(c, text, n, 0, 0, out);
    upg_buf_str(out, ",\"done\":false}\n");
}

static void call(choice *c, const tool_call *t, int index, upg_buf *out) {
    (void)t;
    put_head(c->g, out);
    put_text(c, "", 0, index, index + 1, out);
    upg_buf_str(out, ",\"done\":false}\n");
}

static void end_choice(choice *c, upg_buf *out) {
    (void)c, (void)out;
}

static void end(generation *g, upg_buf *out) {
    put_head(g, out);
    put_text(&g->choices[0], "", 0, 0, 0, out);
    put_done(g, out);
    upg_buf_str(out, "\n");
}

static void fail(generation *g, int status, const char *message, upg_buf *out) {
    (void)g;
    write_error(out, status, message, NULL);
    upg_buf_str(out, "\n");
}

static void whole(generation *g, upg_buf *out) {
    const choice *c = &g->choices[0];
    put_head(g, out);
    put_text(c, c->text.data ? c->text.data : "", c->text.size, 0, c->tools.n, out);
    put_done(g, out);
}

static const answer_format format = {.type = "application/x-ndjson",
                                     .begin = begin,
                                     .piece = piece,
                                     .call = call,
                                     .end_choice = end_choice,
                                     .end = end,
                                     .whole = whole,
                                     .fail = fail};

// ---- Requests ----

// Whether a name, with or without a tag, means the model.
static bool is_ours(const server *s, const char *name) {
    size_t n = strlen(s->options->name);
    return !strncmp(name, s->options->name, n) && (!name[n] || !strcmp(name + n, ":latest"));
}

static void read_model(const server *s, params *p) {
    const char *name = params_string(p, "model");
    if (!name) name = params_string(p, "name");
    if (p->refused) return;
    if (name && is_ours(s, name)) return;
    p->refused = true;
    exchange_error(p->x, name ? 404 : 400, "model", name ? "model '%s' not found, only %s" : "model is needed (%s%s)",
                   name ? name : "this one is ", s->options->name);
}

static void read_options(generation *g, params *p) {
    upg_sampling *s = &g->sampling;
    yyjson_val *options = params_object(p, "options"), *root = p->root;
    int context = 0, repeat_last = 64;
    s->temperature = .8f;
    s->top_k = 40;
    s->top_p = .9f;
    s->repeat_penalty = 1.1f;
    if (!options) return;
    p->root = options;
    params_float(p, "temperature", 0, 100, &s->temperature);
    params_int(p, "top_k", 0, INT32_MAX, &s->top_k);
    params_float(p, "top_p", 0, 1, &s->top_p);
    params_float(p, "min_p", 0, 1, &s->min_p);
    params_float(p, "repeat_penalty", 1 / 64.0, 100, &s->repeat_penalty);
    params_float(p, "presence_penalty", -2, 2, &s->presence_penalty);
    params_float(p, "frequency_penalty", -2, 2, &s->frequency_penalty);
    params_seed(p, "seed", &s->seed);
    params_int(p, "num_predict", -2, INT32_MAX, &g->max_tokens);
    if (g->max_tokens < 0) g->max_tokens = -1;
    params_none_of(p, (const char *const[]){"mirostat", NULL});
    params_int(p, "repeat_last_n", -1, INT32_MAX, &repeat_last);
    if (repeat_last != 64 && s->repeat_penalty != 1)
        params_refuse(p, "repeat_last_n", "repeat_last_n: the repeat penalty looks at the last 64 tokens");
    params_int(p, "num_ctx", 1, INT32_MAX, &context);
    if (context > upg_scheduler_context(g->server->scheduler))
        params_refuse(p, "num_ctx", "num_ctx: %d is more than this server's context of %d", context,
                      upg_scheduler_context(g->server->scheduler));
    g->n_stops = params_strings(p, "stop", UPG_MAX_STOPS, g->stops);
    p->root = root;
}

static generation *start(server *s, exchange *x, params *p, bool chat_api) {
    generation *g = generation_new(s, x, &format);
    if (!g) return NULL;
    g->chat_api = chat_api;
    g->stream = true;
    params_open(p, x);
    read_model(s, p);
    params_bool(p, "stream", &g->stream);
    params_none_of(p, (const char *const[]){"format", "think", NULL});
    read_options(g, p);
    return g;
}

// A message as templates expect it: it is already, but for images, and arguments that a client sends as text.
static void add_message(params *p, yyjson_mut_doc *d, yyjson_mut_val *messages, yyjson_val *m) {
    const char *role = upg_json_string(yyjson_obj_get(m, "role"));
    yyjson_val *content = yyjson_obj_get(m, "content"), *images = yyjson_obj_get(m, "images");
    if (!role || (content && !yyjson_is_null(content) && !yyjson_is_str(content)))
        params_refuse(p, "messages", "messages: each has a role, and a content that is text");
    if (yyjson_arr_size(images)) params_refuse(p, "messages", "messages: the model reads text only, no images");
    if (p->refused) return;
    yyjson_mut_val *copy = yyjson_val_mut_copy(d, m);
    yyjson_mut_obj_remove_key(copy, "images");
    if (!yyjson_is_str(content)) yyjson_mut_obj_put(copy, yyjson_mut_str(d, "content"), yyjson_mut_str(d, ""));
    if (!yyjson_arr_size(yyjson_obj_get(m, "tool_calls"))) yyjson_mut_obj_remove_key(copy, "tool_calls");
    yyjson_mut_arr_append(messages, copy);
}

// Ollama's way to load a model: a request without anything to answer.
static void reply_loaded(generation *g, params *p) {
    const choice c = {.g = g};
    upg_buf b = {0};
    if (p->refused) return;
    put_head(g, &b);
    put_text(&c, "", 0, 0, 0, &b);
    upg_buf_str(&b, ",\"done\":true,\"done_reason\":\"load\"}\n");
    exchange_reply(p->x, 200, "application/json", &b);
    p->refused = true; // it is answered
}

void ollama_chat(server *s, exchange *x) {
    params p;
    yyjson_mut_val *list;
    yyjson_val *m;
    size_t i, n;
    generation *g = start(s, x, &p, true);
    if (!g) return;
    yyjson_val *messages = params_array(&p, "messages");
    if (!yyjson_arr_size(messages)) reply_loaded(g, &p);
    char *options = generation_tools(g, &p, params_array(&p, "tools"), NULL, NULL);
    yyjson_mut_doc *d = generation_messages(&p, &list);
    yyjson_arr_foreach(messages, i, n, m) if (list) add_message(&p, d, list, m);
    if (list) generation_chat(g, &p, d, options);
    yyjson_mut_doc_free(d);
    free(options);
    generation_start(g, &p);
    params_close(&p);
}

// A prompt is a user's message, or, raw, the text itself.
static void read_prompt(generation *g, params *p) {
    static const char *const names[] = {"suffix", "images", "template", "context", NULL};
    bool raw = false;
    yyjson_mut_val *list, *m;
    params_none_of(p, names);
    params_bool(p, "raw", &raw);
    const char *prompt = params_string(p, "prompt"), *system = params_string(p, "system");
    if (!prompt || !*prompt) reply_loaded(g, p);
    if (p->refused) return;
    if (raw || !g->server->chat) {
        generation_text(g, p, prompt, strlen(prompt));
        return;
    }
    yyjson_mut_doc *d = generation_messages(p, &list);
    if (list && system) {
        m = yyjson_mut_arr_add_obj(d, list);
        yyjson_mut_obj_add_str(d, m, "role", "system");
        yyjson_mut_obj_add_str(d, m, "content", system);
    }
    if (list) {
        m = yyjson_mut_arr_add_obj(d, list);
        yyjson_mut_obj_add_str(d, m, "role", "user");
        yyjson_mut_obj_add_str(d, m, "content", prompt);
        generation_chat(g, p, d, NULL);
    }
    yyjson_mut_doc_free(d);
}

void ollama_generate(server *s, exchange *x) {
    params p;
    generation *g = start(s, x, &p, false);
    if (!g) return;
    read_prompt(g, &p);
    generation_start(g, &p);
    params_close(&p);
}

// ---- What is there ----

static void put_model(const server *s, upg_buf *out) {
    const char *name = s->options->name;
    put_quoted(out, "{\"name\":", name, strlen(name), "");
    put_quoted(out, ",\"model\":", name, strlen(name), ",\"modified_at\":");
    put_time(s->started, out);
    upg_buf_fmt(
        out,
        ",\"size\":%zu,\"digest\":\"%016llx\",\"details\":{\"parent_model\":\"\",\"format\":\"upg\",\"family\":\"%s\","
        "\"families\":[\"%s\"],\"parameter_size\":\"%.1fM\",\"quantization_level\":\"%s\"}",
        s->model->weights.file_bytes, (unsigned long long)s->model_hash, s->model->config.arch->name,
        s->model->config.arch->name, s->model_parameters * 1e-6, s->model->weights.compressed ? "upg" : "none");
}

static void reply_list(server *s, exchange *x, const char *more) {
    upg_buf b = {0};
    upg_buf_str(&b, "{\"models\":[");
    put_model(s, &b);
    upg_buf_fmt(&b, "%s}]}", more);
    exchange_reply(x, 200, "application/json", &b);
}

void ollama_tags(server *s, exchange *x) {
    reply_list(s, x, "");
}

void ollama_ps(server *s, exchange *x) {
    char more[128];
    snprintf(more, sizeof more, ",\"expires_at\":\"2318-01-01T00:00:00Z\",\"size_vram\":0,\"context_length\":%d",
             upg_scheduler_context(s->scheduler));
    reply_list(s, x, more);
}

void ollama_version(server *s, exchange *x) {
    (void)s;
    upg_buf b = {0};
    upg_buf_fmt(&b, "{\"version\":\"%s\"}", upg_version());
    exchange_reply(x, 200, "application/json", &b);
}

void ollama_show(server *s, exchange *x) {
    params p;
    upg_buf b = {0};
    params_open(&p, x);
    read_model(s, &p);
    if (!p.refused) {
        const char *template = s->chat_template ? s->chat_template : "";
        upg_buf_str(&b, "{\"license\":\"\",\"modelfile\":\"\",\"parameters\":\"\",\"template\":");
        put_quoted(&b, "", template, strlen(template), ",\"modified_at\":");
        put_time(s->started, &b);
        upg_buf_fmt(&b,
                    ",\"details\":{\"parent_model\":\"\",\"format\":\"upg\",\"family\":\"%s\",\"families\":[\"%s\"],"
                    "\"parameter_size\":\"%.1fM\",\"quantization_level\":\"%s\"},\"model_info\":{\"general."
                    "architecture\":\"%s\","
                    "\"%s.context_length\":%d},\"capabilities\":[\"completion\"%s]}",
                    s->model->config.arch->name, s->model->config.arch->name, s->model_parameters * 1e-6,
                    s->model->weights.compressed ? "upg" : "none", s->model->config.arch->name,
                    s->model->config.arch->name, upg_model_max_context(s->model),
                    strstr(template, "tools") ? ",\"tools\"" : "");
        exchange_reply(x, 200, "application/json", &b);
    }
    params_close(&p);
}
