// Anthropic's API: POST /v1/messages and /v1/messages/count_tokens, https://docs.anthropic.com/en/api/messages
#include "server/generation.h"
#include "server/handlers.h"
#include "format/json.h"
#include <stdlib.h>
#include <string.h>

// ---- Errors ----

static const char *error_type(int status) {
    return status == 401   ? "authentication_error"
           : status == 403 ? "permission_error"
           : status == 404 ? "not_found_error"
           : status == 413 ? "request_too_large"
           : status == 429 ? "rate_limit_error"
           : status == 503 ? "overloaded_error"
           : status == 504 ? "timeout_error"
           : status < 500  ? "invalid_request_error"
                           : "api_error";
}

static void write_error(upg_buf *out, int status, const char *message, const char *param) {
    (void)param; // the message names it
    upg_buf_fmt(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", error_type(status));
    put_quoted(out, "", message, strlen(message), "}}");
}

const dialect dialect_anthropic = {"anthropic", write_error};

// ---- Answers. There is one choice: items counts the blocks of its content, message is whether the last is a text that
// goes on. ----

static void put_call_head(const choice *c, int index, upg_buf *out) {
    const tool_call *t = &c->tools.calls[index];
    upg_buf_fmt(out, "{\"type\":\"tool_use\",\"id\":\"toolu_%016llx_%d\",", (unsigned long long)exchange_id(c->g->x),
                index);
    put_quoted(out, "\"name\":", t->name, strlen(t->name), ",\"input\":");
}

static void put_head(const generation *g, upg_buf *out) {
    upg_buf_fmt(out, "{\"id\":\"msg_%016llx\",\"type\":\"message\",\"role\":\"assistant\",\"model\":",
                (unsigned long long)exchange_id(g->x));
    upg_json_quote(out, g->model, strlen(g->model));
}

static void put_usage(const generation *g, upg_buf *out) {
    upg_buf_fmt(
        out,
        "{\"input_tokens\":%d,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":%d,\"output_tokens\":%d}",
        g->n_prompt_tokens - g->n_cached, g->n_cached, g->n_tokens);
}

static void put_stop(const choice *c, upg_buf *out) {
    const char *reason = *c->stop ? "stop_sequence" : generation_finish_word(c, "end_turn", "max_tokens", "tool_use");
    upg_buf_fmt(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", reason);
    if (*c->stop)
        upg_json_quote(out, c->stop, strlen(c->stop));
    else
        upg_buf_str(out, "null");
}

static void event(const char *type, upg_buf *out) {
    upg_buf_fmt(out, "event: %s\ndata: {\"type\":\"%s\"", type, type);
}

static void begin(generation *g, upg_buf *out) {
    event("message_start", out);
    upg_buf_str(out, ",\"message\":");
    put_head(g, out);
    upg_buf_fmt(out,
                ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":%zu,"
                "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":0}}}\n\n",
                g->lengths[0]);
    event("ping", out);
    upg_buf_str(out, "}\n\n");
}

static void close_block(choice *c, upg_buf *out) {
    if (!c->message) return;
    event("content_block_stop", out);
    upg_buf_fmt(out, ",\"index\":%d}\n\n", c->items - 1);
    c->message = 0;
}

static void piece(choice *c, const char *text, size_t n, upg_buf *out) {
    if (!n) return;
    if (!c->message) {
        event("content_block_start", out);
        upg_buf_fmt(out, ",\"index\":%d,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n", c->items++);
        c->message = 1;
    }
    event("content_block_delta", out);
    upg_buf_fmt(out, ",\"index\":%d,\"delta\":", c->items - 1);
    put_quoted(out, "{\"type\":\"text_delta\",\"text\":", text, n, "}}\n\n");
}

static void call(choice *c, const tool_call *t, int index, upg_buf *out) {
    close_block(c, out);
    event("content_block_start", out);
    upg_buf_fmt(out, ",\"index\":%d,\"content_block\":", c->items);
    put_call_head(c, index, out);
    upg_buf_str(out, "{}}}\n\n");
    event("content_block_delta", out);
    upg_buf_fmt(out, ",\"index\":%d,\"delta\":", c->items);
    put_quoted(out, "{\"type\":\"input_json_delta\",\"partial_json\":", t->arguments, strlen(t->arguments), "}}\n\n");
    event("content_block_stop", out);
    upg_buf_fmt(out, ",\"index\":%d}\n\n", c->items++);
}

static void end_choice(choice *c, upg_buf *out) {
    close_block(c, out);
}

static void end(generation *g, upg_buf *out) {
    event("message_delta", out);
    upg_buf_str(out, ",\"delta\":{");
    put_stop(&g->choices[0], out);
    upg_buf_str(out, "},\"usage\":");
    put_usage(g, out);
    upg_buf_str(out, "}\n\n");
    event("message_stop", out);
    upg_buf_str(out, "}\n\n");
}

static void fail(generation *g, int status, const char *message, upg_buf *out) {
    (void)g;
    upg_buf_str(out, "event: error\ndata: ");
    write_error(out, status, message, NULL);
    upg_buf_str(out, "\n\n");
}

static void whole(generation *g, upg_buf *out) {
    const choice *c = &g->choices[0];
    const char *comma = "";
    put_head(g, out);
    upg_buf_str(out, ",\"content\":[");
    if (c->text.size) {
        put_quoted(out, "{\"type\":\"text\",\"text\":", c->text.data, c->text.size, "}");
        comma = ",";
    }
    for (int i = 0; i < c->tools.n; i++, comma = ",") {
        upg_buf_str(out, comma);
        put_call_head(c, i, out);
        upg_buf_fmt(out, "%s}", c->tools.calls[i].arguments);
    }
    upg_buf_str(out, "],");
    put_stop(c, out);
    upg_buf_str(out, ",\"usage\":");
    put_usage(g, out);
    upg_buf_str(out, "}");
}

static const answer_format format = {.type = "text/event-stream",
                                     .begin = begin,
                                     .piece = piece,
                                     .call = call,
                                     .end_choice = end_choice,
                                     .end = end,
                                     .whole = whole,
                                     .fail = fail};

// ---- Requests ----

// The text of a string or of an array of text blocks.
static void add_text(params *p, yyjson_val *content, const char *field, upg_buf *out) {
    yyjson_val *block;
    size_t i, n;
    if (yyjson_is_str(content)) upg_buf_add(out, yyjson_get_str(content), yyjson_get_len(content));
    if (yyjson_is_str(content)) return;
    if (!yyjson_is_arr(content)) params_refuse(p, field, "%s: neither a text nor an array of blocks", field);
    yyjson_arr_foreach(content, i, n, block) {
        const char *type = yyjson_get_str(yyjson_obj_get(block, "type"));
        yyjson_val *text = yyjson_obj_get(block, "text");
        if (!type || strcmp(type, "text") || !yyjson_is_str(text))
            params_refuse(p, field, "%s: a block of type %s: the model reads text only", field, type ? type : "(none)");
        if (out->size) upg_buf_str(out, "\n");
        upg_buf_add(out, yyjson_get_str(text), yyjson_get_len(text));
    }
}

static yyjson_mut_val *add_message(yyjson_mut_doc *d, yyjson_mut_val *messages, const char *role, const upg_buf *text) {
    yyjson_mut_val *m = yyjson_mut_arr_add_obj(d, messages);
    yyjson_mut_obj_add_strcpy(d, m, "role", role);
    yyjson_mut_obj_add_strncpy(d, m, "content", text->data ? text->data : "", text->size);
    return m;
}

static void add_use(params *p, yyjson_mut_doc *d, yyjson_mut_val *calls, yyjson_val *block) {
    const char *id = upg_json_string(yyjson_obj_get(block, "id")),
               *name = upg_json_string(yyjson_obj_get(block, "name"));
    yyjson_val *input = yyjson_obj_get(block, "input");
    if (!id || !name || !yyjson_is_obj(input)) {
        params_refuse(p, "messages", "messages: a tool_use block has an id, a name and an input");
        return;
    }
    yyjson_mut_val *one = yyjson_mut_arr_add_obj(d, calls), *f;
    yyjson_mut_obj_add_strcpy(d, one, "id", id);
    yyjson_mut_obj_add_str(d, one, "type", "function");
    f = yyjson_mut_obj_add_obj(d, one, "function");
    yyjson_mut_obj_add_strcpy(d, f, "name", name);
    yyjson_mut_obj_add_val(d, f, "arguments", yyjson_val_mut_copy(d, input));
}

static void add_result(params *p, yyjson_mut_doc *d, yyjson_mut_val *messages, yyjson_val *block) {
    const char *id = upg_json_string(yyjson_obj_get(block, "tool_use_id"));
    yyjson_val *content = yyjson_obj_get(block, "content");
    upg_buf text = {0};
    if (!id) params_refuse(p, "messages", "messages: a tool_result block has a tool_use_id");
    if (content && !yyjson_is_null(content)) add_text(p, content, "messages", &text);
    if (!p->refused) yyjson_mut_obj_add_strcpy(d, add_message(d, messages, "tool", &text), "tool_call_id", id);
    upg_buf_free(&text);
}

// Blocks of one message: results of tools become messages of their own, before its text.
static void add_blocks(params *p, yyjson_mut_doc *d, yyjson_mut_val *messages, const char *role, yyjson_val *content) {
    yyjson_mut_val *calls = yyjson_mut_arr(d);
    upg_buf text = {0};
    yyjson_val *block;
    size_t i, n;
    bool results = false;
    yyjson_arr_foreach(content, i, n, block) {
        const char *type = yyjson_get_str(yyjson_obj_get(block, "type"));
        yyjson_val *words = yyjson_obj_get(block, "text");
        bool user = !strcmp(role, "user");
        if (type && !strcmp(type, "text") && yyjson_is_str(words)) {
            if (text.size) upg_buf_str(&text, "\n");
            upg_buf_add(&text, yyjson_get_str(words), yyjson_get_len(words));
        } else if (type && !strcmp(type, "tool_use") && !user) {
            add_use(p, d, calls, block);
        } else if (type && !strcmp(type, "tool_result") && user) {
            add_result(p, d, messages, block);
            results = true;
        } else {
            params_refuse(p, "messages", "messages: a block of type %s: the model reads text only",
                          type ? type : "(none)");
        }
    }
    if (!p->refused && (text.size || !results)) {
        yyjson_mut_val *m = add_message(d, messages, role, &text);
        if (yyjson_mut_arr_size(calls)) yyjson_mut_obj_add_val(d, m, "tool_calls", calls);
    }
    upg_buf_free(&text);
}

static void read_messages(params *p, yyjson_mut_doc *d, yyjson_mut_val *messages) {
    yyjson_val *system = params_get(p, "system"), *all = params_array(p, "messages"), *m;
    upg_buf text = {0};
    size_t i, n;
    if (system) add_text(p, system, "system", &text);
    if (system) add_message(d, messages, "system", &text);
    if (!yyjson_arr_size(all)) params_refuse(p, "messages", "messages: an array of at least one is needed");
    yyjson_arr_foreach(all, i, n, m) {
        const char *role = yyjson_get_str(yyjson_obj_get(m, "role"));
        yyjson_val *content = yyjson_obj_get(m, "content");
        text.size = 0;
        if (!role || (strcmp(role, "user") && strcmp(role, "assistant")))
            params_refuse(p, "messages", "messages: a role is neither user nor assistant");
        if (p->refused) break;
        if (yyjson_is_arr(content)) {
            add_blocks(p, d, messages, role, content);
        } else {
            add_text(p, content, "messages", &text);
            add_message(d, messages, role, &text);
        }
    }
    if (text.failed) params_refuse(p, NULL, "out of memory");
    upg_buf_free(&text);
}

static bool tools_wanted(params *p) {
    yyjson_val *wanted = params_object(p, "tool_choice");
    const char *type = yyjson_get_str(yyjson_obj_get(wanted, "type"));
    if (!wanted || (type && !strcmp(type, "auto"))) return true;
    if (!type || strcmp(type, "none"))
        params_refuse(p, "tool_choice", "tool_choice: only auto and none; the model cannot be made to call a tool");
    return false;
}

// What both routes have: model, messages and tools.
static void read_prompt(generation *g, params *p) {
    const char *model = params_string(p, "model");
    if (!p->refused && model && strcmp(model, g->model)) {
        p->refused = true;
        exchange_error(p->x, 404, "model", "there is no model %s here, only %s", model, g->model);
    }
    yyjson_val *thinking = params_object(p, "thinking"), *tools = params_array(p, "tools");
    yyjson_val *output = params_object(p, "output_config");
    params_none_of(p, (const char *const[]){"mcp_servers", "container", NULL});
    if (yyjson_is_obj(yyjson_obj_get(output, "format")))
        params_refuse(p, "output_config", "output_config: a format is not supported");
    const char *type = yyjson_get_str(yyjson_obj_get(thinking, "type"));
    if (thinking && (!type || strcmp(type, "disabled"))) params_refuse(p, "thinking", "thinking is not supported");
    bool wanted = tools_wanted(p);
    char *options = generation_tools(g, p, wanted ? tools : NULL, "input_schema", NULL);
    yyjson_mut_val *messages;
    yyjson_mut_doc *d = generation_messages(p, &messages);
    if (messages) read_messages(p, d, messages);
    generation_chat(g, p, d, options);
    yyjson_mut_doc_free(d);
    free(options);
}

static void set_request_id(exchange *x) {
    char id[32];
    snprintf(id, sizeof id, "req_%016llx", (unsigned long long)exchange_id(x));
    exchange_set_header(x, "request-id", id);
}

void anthropic_messages(server *s, exchange *x) {
    params p;
    set_request_id(x);
    generation *g = generation_new(s, x, &format);
    if (!g) return;
    params_open(&p, x);
    params_int(&p, "max_tokens", 1, INT32_MAX, &g->max_tokens);
    if (g->max_tokens < 0) params_refuse(&p, "max_tokens", "max_tokens is needed");
    params_float(&p, "temperature", 0, 1, &g->sampling.temperature);
    params_float(&p, "top_p", 0, 1, &g->sampling.top_p);
    params_int(&p, "top_k", 0, INT32_MAX, &g->sampling.top_k);
    params_seed(&p, "seed", &g->sampling.seed);
    params_bool(&p, "stream", &g->stream);
    g->n_stops = params_strings(&p, "stop_sequences", UPG_MAX_STOPS, g->stops);
    read_prompt(g, &p);
    generation_start(g, &p);
    params_close(&p);
}

void anthropic_count_tokens(server *s, exchange *x) {
    params p;
    upg_buf b = {0};
    set_request_id(x);
    generation *g = generation_new(s, x, &format);
    if (!g) return;
    params_open(&p, x);
    read_prompt(g, &p);
    if (!p.refused) {
        upg_buf_fmt(&b, "{\"input_tokens\":%zu}", g->lengths[0]);
        exchange_reply(x, 200, "application/json", &b);
    }
    generation_free(g);
    params_close(&p);
}
