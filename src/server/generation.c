// Running a request through the scheduler. See generation.h.
//
// Events come from one thread, the scheduler's, so a generation needs no lock of its own; the link, which the client's
// leaving may use at any time, has one.
#include "server/generation.h"
#include "engine/model.h"
#include "format/json.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

typedef struct generation_link {
    upg_scheduler *scheduler;
    pthread_mutex_t mutex;
    uint64_t *ids; // [n]
    int n;
    bool submitted, gone;
    atomic_int refs; // of the submitter and of the events
} generation_link;

// ---- Making and freeing ----

static void drop_link(generation_link *l) {
    if (!l || atomic_fetch_sub(&l->refs, 1) > 1) return;
    pthread_mutex_destroy(&l->mutex);
    free(l->ids);
    free(l);
}

static generation_link *new_link(upg_scheduler *s, int n) {
    generation_link *l = upg_alloc(1, sizeof *l, NULL);
    if (!l) return NULL;
    l->scheduler = s;
    l->n = n;
    l->refs = 1;
    pthread_mutex_init(&l->mutex, NULL);
    l->ids = upg_alloc((size_t)n, sizeof *l->ids, NULL);
    if (l->ids) return l;
    drop_link(l);
    return NULL;
}

generation *generation_new(server *s, exchange *x, const answer_format *format) {
    generation *g = upg_alloc(1, sizeof *g, NULL);
    if (!g) {
        exchange_error(x, 500, NULL, "out of memory");
        return NULL;
    }
    *g = (generation){.server = s,
                      .x = x,
                      .format = format,
                      .n = 1,
                      .max_tokens = -1,
                      .sampling = {.temperature = 1, .top_p = 1, .repeat_penalty = 1},
                      .top_logprobs = -1,
                      .created = (int64_t)time(NULL),
                      .started = upg_now()};
    snprintf(g->model, sizeof g->model, "%s", s->options->name);
    if (getrandom(&g->sampling.seed, sizeof g->sampling.seed, 0) < 0) g->sampling.seed = (uint64_t)(upg_now() * 1e9);
    g->sampling.seed >>= 1; // so that every client can send it back
    return g;
}

void generation_free(generation *g) {
    if (!g) return;
    for (int i = 0; i < g->n_prompts; i++) free(g->prompts[i]);
    for (int i = 0; i < g->n_choices; i++) {
        upg_buf_free(&g->choices[i].text);
        upg_buf_free(&g->choices[i].logprobs);
        tool_parser_free(&g->choices[i].tools);
    }
    drop_link(g->link);
    free(g->prompts);
    free(g->lengths);
    free(g->bias);
    for (int i = 0; i < g->n_tools; i++) free(g->tool_names[i]);
    free(g->tool_names);
    free(g->echoed);
    free(g->choices);
    free(g);
}

int generation_add_prompt(generation *g, int32_t *ids, size_t n, upg_error *e) {
    size_t count = (size_t)g->n_prompts + 1;
    int32_t **prompts = upg_resize(g->prompts, count, sizeof *prompts, e);
    if (prompts) g->prompts = prompts;
    size_t *lengths = prompts ? upg_resize(g->lengths, count, sizeof *lengths, e) : NULL;
    if (!lengths) {
        free(ids);
        return -1;
    }
    g->lengths = lengths;
    g->lengths[g->n_prompts] = n;
    g->prompts[g->n_prompts++] = ids;
    return 0;
}

// ---- Prompts ----

yyjson_mut_doc *generation_messages(params *p, yyjson_mut_val **messages) {
    yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
    *messages = d ? yyjson_mut_arr(d) : NULL;
    if (*messages) yyjson_mut_doc_set_root(d, *messages);
    if (!*messages) params_refuse(p, NULL, "out of memory");
    return d;
}

void generation_chat(generation *g, params *p, yyjson_mut_doc *messages, const char *options) {
    upg_error e = {""};
    int32_t *ids;
    size_t n, n_ids;
    if (p->refused) return;
    g->chat = true;
    if (!g->server->chat) {
        params_refuse(
            p, NULL,
            "the model %s has no chat template; plain completions work, and upg serve --template FILE gives it one",
            g->model);
        return;
    }
    char *text = yyjson_mut_write(messages, 0, &n);
    int rc =
        text ? upg_chat_tokens(g->server->chat, text, n, options, &ids, &n_ids, &e) : upg_fail(&e, "out of memory");
    free(text);
    if (!rc) rc = generation_add_prompt(g, ids, n_ids, &e);
    if (rc) params_fail(p, &e);
}

void generation_text(generation *g, params *p, const char *text, size_t n) {
    upg_error e = {""};
    int32_t *ids;
    size_t n_ids;
    if (p->refused) return;
    if (upg_prompt_tokens(g->server->model, text, n, false, &ids, &n_ids, &e) ||
        generation_add_prompt(g, ids, n_ids, &e))
        params_fail(p, &e);
}

// A tool as OpenAI's chats have it, in d.
static yyjson_mut_val *make_tool(yyjson_mut_doc *d, yyjson_val *tool, const char *schema) {
    static const char *const keys[] = {"name", "description"};
    if (!schema) return yyjson_val_mut_copy(d, tool);
    yyjson_mut_val *o = yyjson_mut_obj(d), *f = yyjson_mut_obj(d);
    yyjson_val *parameters = yyjson_obj_get(tool, schema);
    for (int i = 0; i < 2; i++) {
        yyjson_val *v = yyjson_obj_get(tool, keys[i]);
        if (v) yyjson_mut_obj_add_val(d, f, keys[i], yyjson_val_mut_copy(d, v));
    }
    if (parameters) yyjson_mut_obj_add_val(d, f, "parameters", yyjson_val_mut_copy(d, parameters));
    yyjson_mut_obj_add_str(d, o, "type", "function");
    return yyjson_mut_obj_add_val(d, o, "function", f) ? o : NULL;
}

static void check_tool(params *p, yyjson_val *tool, const char *schema) {
    yyjson_val *f = schema ? tool : yyjson_obj_get(tool, "function"), *type = yyjson_obj_get(tool, "type");
    const char *name = upg_json_string(yyjson_obj_get(f, "name")), *kind = yyjson_get_str(type);
    bool is_function = !type || (kind && (!strcmp(kind, "function") || !strcmp(kind, "custom")));
    if (!is_function || !name || !*name)
        params_refuse(p, "tools", "tools: each is a function with a name; others are not supported");
}

static void keep_names(generation *g, params *p, yyjson_val *tools, const char *schema) {
    yyjson_val *tool;
    size_t i, n;
    if (p->refused || !tools) return;
    g->tool_names = upg_alloc(yyjson_arr_size(tools), sizeof *g->tool_names, NULL);
    yyjson_arr_foreach(tools, i, n, tool) {
        const char *name = yyjson_get_str(yyjson_obj_get(schema ? tool : yyjson_obj_get(tool, "function"), "name"));
        char *copy = g->tool_names ? upg_strdup(name, strlen(name), NULL) : NULL;
        if (copy) g->tool_names[g->n_tools++] = copy;
        if (!copy) params_refuse(p, NULL, "out of memory");
    }
}

char *generation_tools(generation *g, params *p, yyjson_val *tools, const char *schema, yyjson_val *extra) {
    const char *template = g->server->chat_template;
    yyjson_val *tool;
    size_t i, n, size;
    if (!yyjson_arr_size(tools)) tools = NULL;
    yyjson_arr_foreach(tools, i, n, tool) check_tool(p, tool, schema);
    if (tools && (!template || !strstr(template, "tools")))
        params_refuse(p, "tools", "tools: the chat template of %s has no words for them", g->model);
    keep_names(g, p, tools, schema);
    if (p->refused || (!tools && !extra)) return NULL;
    yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = d ? (extra ? yyjson_val_mut_copy(d, extra) : yyjson_mut_obj(d)) : NULL;
    yyjson_mut_val *list = root ? yyjson_mut_arr(d) : NULL;
    bool ok = list;
    yyjson_arr_foreach(tools, i, n, tool) ok = ok && yyjson_mut_arr_append(list, make_tool(d, tool, schema));
    if (ok && tools) ok = yyjson_mut_obj_put(root, yyjson_mut_str(d, "tools"), list);
    if (ok) yyjson_mut_doc_set_root(d, root);
    char *text = ok ? yyjson_mut_write(d, 0, &size) : NULL;
    yyjson_mut_doc_free(d);
    if (!text) params_refuse(p, NULL, "out of memory");
    g->tools = tools;
    return text;
}

// ---- Words ----

void put_quoted(upg_buf *out, const char *before, const char *text, size_t n, const char *after) {
    upg_buf_str(out, before);
    upg_json_quote(out, text, n);
    upg_buf_str(out, after);
}

void quote_token(const server *s, int32_t token, upg_buf *out) {
    upg_buf text = {0};
    upg_detokenizer d = {.midway = true};
    upg_detokenizer_push(&d, s->model->tokenizer, token, true, &text);
    upg_detokenizer_finish(&d, &text);
    upg_json_quote(out, text.data ? text.data : "", text.size);
    upg_buf_free(&text);
}

void quote_bytes(const server *s, int32_t token, upg_buf *out) {
    size_t n;
    const char *bytes = upg_tokenizer_bytes(s->model->tokenizer, token, &n);
    upg_buf_str(out, "[");
    for (size_t i = 0; i < n; i++) upg_buf_fmt(out, "%s%d", i ? "," : "", (uint8_t)bytes[i]);
    upg_buf_str(out, "]");
}

const char *generation_finish_word(const choice *c, const char *stop, const char *length, const char *calls) {
    if (c->tools.n) return calls;
    return c->finish == UPG_FINISH_LENGTH ? length : stop;
}

// ---- Events ----

static void cancel_all(generation_link *l) {
    for (int i = 0; i < l->n; i++) upg_scheduler_cancel(l->scheduler, l->ids[i]);
}

static void on_left(void *ctx) {
    generation_link *l = ctx;
    pthread_mutex_lock(&l->mutex);
    l->gone = true;
    if (l->submitted) cancel_all(l);
    pthread_mutex_unlock(&l->mutex);
}

// One answer that fails fails all that were asked for with it.
static void set_failed(generation *g, int status, const char *why) {
    if (g->status) return;
    g->status = status;
    snprintf(g->why, sizeof g->why, "%s", why);
    on_left(g->link);
}

static void begin_stream(generation *g, upg_buf *out) {
    if (g->begun) return;
    g->begun = true;
    exchange_stream(g->x, g->format->type);
    g->format->begin(g, out);
}

static void take_text(choice *c, const char *text, size_t n, bool end, upg_buf *out) {
    generation *g = c->g;
    const char *plain = text;
    size_t size = n;
    if (g->tools) tool_parser_push(&c->tools, text, n, end, &plain, &size);
    if (c->tools.failed) set_failed(g, 500, "out of memory");
    if (!g->stream) {
        upg_buf_add(&c->text, plain, size);
        return;
    }
    if (size || c->logprobs.size) {
        g->format->piece(c, plain, size, out);
        c->logprobs.size = 0;
    }
    for (; c->calls_out < c->tools.n; c->calls_out++)
        g->format->call(c, &c->tools.calls[c->calls_out], c->calls_out, out);
}

static void take_end(choice *c, const upg_answer_event *e) {
    generation *g = c->g;
    c->ended = true;
    c->finish = e->finish;
    c->n_tokens = e->n_tokens;
    snprintf(c->stop, sizeof c->stop, "%s", e->stop ? e->stop : "");
    g->n_tokens += e->n_tokens;
    if (c->index % g->n == 0) {
        g->n_prompt_tokens += e->n_prompt;
        g->n_cached += e->n_cached;
    }
    if (e->queue_seconds > g->queue_seconds) g->queue_seconds = e->queue_seconds;
    if (e->prompt_seconds > g->prompt_seconds) g->prompt_seconds = e->prompt_seconds;
    if (e->answer_seconds > g->answer_seconds) g->answer_seconds = e->answer_seconds;
    if (e->finish == UPG_FINISH_FAILED) set_failed(g, 500, e->error);
    if (e->finish == UPG_FINISH_DEADLINE) set_failed(g, 504, "the request took longer than the server allows");
    if (e->finish == UPG_FINISH_CANCELLED) set_failed(g, 503, "the server is shutting down");
}

static void report_usage(const generation *g) {
    static const char *const words[UPG_N_FINISHES] = {"stop", "length", "abort", "deadline", "error"};
    exchange_set_usage(g->x, &(exchange_usage){.finish = words[g->choices[0].finish],
                                               .prompt_tokens = g->n_prompt_tokens,
                                               .cached_tokens = g->n_cached,
                                               .completion_tokens = g->n_tokens,
                                               .queue_seconds = g->queue_seconds,
                                               .first_token_seconds = g->first_token_seconds});
}

// After the last event.
static void finish(generation *g, upg_buf *out) {
    upg_buf whole = {0};
    report_usage(g);
    if (g->stream && g->begun) {
        if (g->status)
            g->format->fail(g, g->status, g->why, out);
        else
            g->format->end(g, out);
        exchange_write(g->x, out->data, out->size);
        exchange_end(g->x);
    } else if (g->status) {
        exchange_error(g->x, g->status, NULL, "%s", g->why);
    } else {
        g->format->whole(g, &whole);
        exchange_reply(g->x, 200, "application/json", &whole);
    }
    generation_free(g);
}

static void on_event(void *ctx, const upg_answer_event *e) {
    choice *c = ctx;
    generation *g = c->g;
    upg_buf out = {0};
    if (!e->end && g->first_token_seconds == 0) g->first_token_seconds = upg_now() - g->started;
    if (e->end) take_end(c, e);
    // A request that fails before anything was said has a status of its own.
    if (g->stream && !g->status) begin_stream(g, &out);
    if (!e->end && g->top_logprobs >= 0 && g->format->logprob) g->format->logprob(c, e);
    if (g->begun || !g->stream) take_text(c, e->text, e->n_text, e->end, &out);
    if (e->end && g->begun && !g->status) g->format->end_choice(c, &out);
    if (out.failed || c->text.failed || c->logprobs.failed) set_failed(g, 500, "out of memory");
    if (e->end && !--g->n_left)
        finish(g, &out);
    else if (out.size)
        exchange_write(g->x, out.data, out.size);
    upg_buf_free(&out);
}

// ---- Starting ----

static void fill_request(const generation *g, choice *c, upg_request *r) {
    double most = g->server->options->request_seconds;
    *r = (upg_request){.prompt = g->prompts[c->prompt],
                       .n_prompt = g->lengths[c->prompt],
                       .max_tokens = g->max_tokens,
                       .sampling = g->sampling,
                       .stops = g->stops,
                       .n_stops = g->n_stops,
                       .chat = g->chat ? g->server->chat : NULL,
                       .ignore_eos = g->ignore_eos,
                       .special = g->tools, // some models write the marks of a call as control tokens
                       .midway = !g->chat,
                       .top_logprobs = g->top_logprobs,
                       .deadline = most > 0 ? g->started + most : 0,
                       .client = exchange_client(g->x),
                       .event = on_event,
                       .ctx = c};
    r->sampling.seed += (uint64_t)(c->index % g->n);
    // What is as good as greedy is, and what is as good as 0 where 0 is none.
    if (r->sampling.temperature < 1 / 64.0f) r->sampling.temperature = 0;
    if (r->sampling.top_p < 1e-6f) r->sampling.top_p = 1e-6f;
}

static upg_request *make_requests(generation *g) {
    int n = g->n_prompts * g->n;
    upg_request *requests = upg_alloc((size_t)n, sizeof *requests, NULL);
    if (requests) g->choices = upg_alloc((size_t)n, sizeof *g->choices, NULL);
    if (g->choices) g->link = new_link(g->server->scheduler, n);
    if (!g->link) {
        free(requests);
        return NULL;
    }
    g->n_choices = g->n_left = n;
    for (int i = 0; i < n; i++) {
        g->choices[i] = (choice){.g = g, .index = i, .prompt = i / g->n};
        tool_parser_init(&g->choices[i].tools, (const char *const *)g->tool_names, g->n_tools);
        fill_request(g, &g->choices[i], &requests[i]);
    }
    return requests;
}

void generation_start(generation *g, params *p) {
    static const int statuses[] = {
        [UPG_SUBMIT_INVALID] = 400, [UPG_SUBMIT_FULL] = 429, [UPG_SUBMIT_DRAINING] = 503, [UPG_SUBMIT_NO_MEMORY] = 500};
    upg_error e = {""};
    exchange *x = g->x;
    if (p->refused) {
        generation_free(g);
        return;
    }
    upg_request *requests = make_requests(g);
    if (!requests) {
        exchange_error(x, 500, NULL, "out of memory");
        generation_free(g);
        return;
    }
    generation_link *l = g->link;
    atomic_fetch_add(&l->refs, 1);
    exchange_watch(x, on_left, l);
    pthread_mutex_lock(&l->mutex);
    // Events may come before this returns, and g may be gone then.
    upg_submitted result = upg_scheduler_submit(l->scheduler, requests, l->n, l->ids, &e);
    l->submitted = !result;
    if (l->submitted && l->gone) cancel_all(l);
    pthread_mutex_unlock(&l->mutex);
    free(requests);
    if (result) {
        exchange_error(x, statuses[result], NULL, "%s", e.message);
        generation_free(g);
    }
    drop_link(l);
}
