// POST /v1/responses: https://platform.openai.com/docs/api-reference/responses, without what needs a store of
// responses.
#include "server/handlers.h"
#include "server/openai.h"
#include "format/json.h"
#include <stdlib.h>
#include <string.h>

// ---- Answers. There is one choice: state counts its events, items the output's items; message is the place of the
// message among them, from 1 on, or 0. ----

static void put_part(const choice *c, upg_buf *out) {
    put_quoted(out, "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":",
               c->text.data ? c->text.data : "", c->text.size, "}");
}

static void put_message(const choice *c, const char *status, bool content, upg_buf *out) {
    upg_buf_fmt(out,
                "{\"type\":\"message\",\"id\":\"msg_%016llx\",\"status\":\"%s\",\"role\":\"assistant\",\"content\":[",
                (unsigned long long)exchange_id(c->g->x), status);
    if (content) put_part(c, out);
    upg_buf_str(out, "]}");
}

static void put_call(const choice *c, int index, const char *status, bool arguments, upg_buf *out) {
    const tool_call *t = &c->tools.calls[index];
    unsigned long long id = exchange_id(c->g->x);
    upg_buf_fmt(
        out, "{\"type\":\"function_call\",\"id\":\"fc_%016llx_%d\",\"call_id\":\"call_%016llx_%d\",\"status\":\"%s\",",
        id, index, id, index, status);
    put_quoted(out, "\"name\":", t->name, strlen(t->name), "");
    put_quoted(out, ",\"arguments\":", t->arguments, arguments ? strlen(t->arguments) : 0, "}");
}

static void put_output(const choice *c, upg_buf *out) {
    int calls = 0;
    for (int i = 1; i <= c->items; i++) {
        if (i > 1) upg_buf_str(out, ",");
        if (i == c->message)
            put_message(c, c->finish == UPG_FINISH_LENGTH ? "incomplete" : "completed", true, out);
        else
            put_call(c, calls++, "completed", true, out);
    }
}

static const char *status_of(const generation *g) {
    const choice *c = &g->choices[0];
    return g->status                        ? "failed"
           : !c->ended                      ? "in_progress"
           : c->finish == UPG_FINISH_LENGTH ? "incomplete"
                                            : "completed";
}

static void put_response(const generation *g, upg_buf *out) {
    const choice *c = &g->choices[0];
    const char *status = status_of(g);
    upg_buf_fmt(out,
                "{\"id\":\"resp_%016llx\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"error\":",
                (unsigned long long)exchange_id(g->x), (long long)g->created, status);
    if (g->status)
        put_quoted(out, "{\"code\":\"server_error\",\"message\":", g->why, strlen(g->why), "}");
    else
        upg_buf_str(out, "null");
    upg_buf_fmt(out, ",\"incomplete_details\":%s,\"model\":",
                !strcmp(status, "incomplete") ? "{\"reason\":\"max_output_tokens\"}" : "null");
    upg_json_quote(out, g->model, strlen(g->model));
    upg_buf_fmt(out, ",\"max_output_tokens\":");
    upg_buf_fmt(out, g->max_tokens < 0 ? "null" : "%d", g->max_tokens);
    upg_buf_fmt(
        out,
        ",\"temperature\":%g,\"top_p\":%g,\"parallel_tool_calls\":true,\"previous_response_id\":null,\"reasoning\":"
        "{\"effort\":null,\"summary\":null},\"store\":false,\"text\":{\"format\":{\"type\":\"text\"}},"
        "\"truncation\":\"disabled\",\"metadata\":{},%s,\"output\":[",
        (double)g->sampling.temperature, (double)g->sampling.top_p, g->echoed);
    if (c->ended) put_output(c, out);
    upg_buf_str(out, "],\"usage\":");
    if (c->ended)
        upg_buf_fmt(out,
                    "{\"input_tokens\":%d,\"input_tokens_details\":{\"cached_tokens\":%d},\"output_tokens\":%d,"
                    "\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":%d}}",
                    g->n_prompt_tokens, g->n_cached, g->n_tokens, g->n_prompt_tokens + g->n_tokens);
    else
        upg_buf_str(out, "null}");
}

static void event(choice *c, const char *type, upg_buf *out) {
    upg_buf_fmt(out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%d", type, type, c->state++);
}

static void response_event(generation *g, const char *type, upg_buf *out) {
    event(&g->choices[0], type, out);
    upg_buf_str(out, ",\"response\":");
    put_response(g, out);
    upg_buf_str(out, "}\n\n");
}

static void begin(generation *g, upg_buf *out) {
    response_event(g, "response.created", out);
    response_event(g, "response.in_progress", out);
}

// An event about the message, or its only part.
static void message_event(choice *c, const char *type, bool part, upg_buf *out) {
    event(c, type, out);
    upg_buf_fmt(out, ",\"output_index\":%d", c->message - 1);
    if (part)
        upg_buf_fmt(out, ",\"item_id\":\"msg_%016llx\",\"content_index\":0", (unsigned long long)exchange_id(c->g->x));
}

static void open_message(choice *c, upg_buf *out) {
    c->message = ++c->items;
    message_event(c, "response.output_item.added", false, out);
    upg_buf_str(out, ",\"item\":");
    put_message(c, "in_progress", false, out);
    upg_buf_str(out, "}\n\n");
    message_event(c, "response.content_part.added", true, out);
    upg_buf_str(out, ",\"part\":");
    put_part(c, out);
    upg_buf_str(out, "}\n\n");
}

static void piece(choice *c, const char *text, size_t n, upg_buf *out) {
    if (!n) return;
    if (!c->message) open_message(c, out);
    upg_buf_add(&c->text, text, n);
    message_event(c, "response.output_text.delta", true, out);
    put_quoted(out, ",\"logprobs\":[],\"delta\":", text, n, "}\n\n");
}

static void call(choice *c, const tool_call *t, int index, upg_buf *out) {
    const char *id_format = ",\"item_id\":\"fc_%016llx_%d\",\"output_index\":%d";
    unsigned long long id = exchange_id(c->g->x);
    const int at = c->items++;
    event(c, "response.output_item.added", out);
    upg_buf_fmt(out, ",\"output_index\":%d,\"item\":", at);
    put_call(c, index, "in_progress", false, out);
    upg_buf_str(out, "}\n\n");
    event(c, "response.function_call_arguments.delta", out);
    upg_buf_fmt(out, id_format, id, index, at);
    put_quoted(out, ",\"delta\":", t->arguments, strlen(t->arguments), "}\n\n");
    event(c, "response.function_call_arguments.done", out);
    upg_buf_fmt(out, id_format, id, index, at);
    put_quoted(out, ",\"name\":", t->name, strlen(t->name), "");
    put_quoted(out, ",\"arguments\":", t->arguments, strlen(t->arguments), "}\n\n");
    event(c, "response.output_item.done", out);
    upg_buf_fmt(out, ",\"output_index\":%d,\"item\":", at);
    put_call(c, index, "completed", true, out);
    upg_buf_str(out, "}\n\n");
}

static void end_choice(choice *c, upg_buf *out) {
    if (!c->items) open_message(c, out); // an answer without a word is a message too
    if (!c->message) return;
    message_event(c, "response.output_text.done", true, out);
    put_quoted(out, ",\"logprobs\":[],\"text\":", c->text.data ? c->text.data : "", c->text.size, "}\n\n");
    message_event(c, "response.content_part.done", true, out);
    upg_buf_str(out, ",\"part\":");
    put_part(c, out);
    upg_buf_str(out, "}\n\n");
    message_event(c, "response.output_item.done", false, out);
    upg_buf_str(out, ",\"item\":");
    put_message(c, c->finish == UPG_FINISH_LENGTH ? "incomplete" : "completed", true, out);
    upg_buf_str(out, "}\n\n");
}

static void end(generation *g, upg_buf *out) {
    response_event(g, g->choices[0].finish == UPG_FINISH_LENGTH ? "response.incomplete" : "response.completed", out);
}

static void fail(generation *g, int status, const char *message, upg_buf *out) {
    (void)status, (void)message; // they are in g
    response_event(g, "response.failed", out);
}

static void whole(generation *g, upg_buf *out) {
    choice *c = &g->choices[0];
    if (c->text.size || !c->tools.n) c->message = ++c->items;
    c->items += c->tools.n;
    put_response(g, out);
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

static void add_text_message(yyjson_mut_doc *d, yyjson_mut_val *messages, const char *role, const char *text,
                             size_t n) {
    yyjson_mut_val *m = yyjson_mut_arr_add_obj(d, messages);
    yyjson_mut_obj_add_str(d, m, "role", role);
    yyjson_mut_obj_add_strncpy(d, m, "content", text, n);
}

static void add_call(params *p, yyjson_mut_doc *d, yyjson_mut_val *messages, yyjson_val *item) {
    const char *name = upg_json_string(yyjson_obj_get(item, "name")),
               *id = upg_json_string(yyjson_obj_get(item, "call_id"));
    yyjson_val *arguments = yyjson_obj_get(item, "arguments");
    yyjson_doc *read = yyjson_is_str(arguments) ? yyjson_read(yyjson_get_str(arguments), yyjson_get_len(arguments),
                                                              YYJSON_READ_BIGNUM_AS_RAW)
                                                : NULL;
    if (!name || !id || !yyjson_is_obj(yyjson_doc_get_root(read))) {
        params_refuse(p, "input",
                      "input: a function_call has a name, a call_id, and arguments that are a JSON object as text");
    } else {
        yyjson_mut_val *m = yyjson_mut_arr_add_obj(d, messages), *list, *one, *f;
        yyjson_mut_obj_add_str(d, m, "role", "assistant");
        yyjson_mut_obj_add_str(d, m, "content", "");
        list = yyjson_mut_obj_add_arr(d, m, "tool_calls");
        one = yyjson_mut_arr_add_obj(d, list);
        yyjson_mut_obj_add_strcpy(d, one, "id", id);
        yyjson_mut_obj_add_str(d, one, "type", "function");
        f = yyjson_mut_obj_add_obj(d, one, "function");
        yyjson_mut_obj_add_strcpy(d, f, "name", name);
        yyjson_mut_obj_add_val(d, f, "arguments", yyjson_val_mut_copy(d, yyjson_doc_get_root(read)));
    }
    yyjson_doc_free(read);
}

static void add_result(params *p, yyjson_mut_doc *d, yyjson_mut_val *messages, yyjson_val *item) {
    const char *id = upg_json_string(yyjson_obj_get(item, "call_id"));
    yyjson_val *output = yyjson_obj_get(item, "output");
    if (!id || !yyjson_is_str(output)) {
        params_refuse(p, "input", "input: a function_call_output has a call_id, and an output that is text");
        return;
    }
    add_text_message(d, messages, "tool", yyjson_get_str(output), yyjson_get_len(output));
    yyjson_mut_obj_add_strcpy(d, yyjson_mut_arr_get_last(messages), "tool_call_id", id);
}

static void read_input(params *p, yyjson_mut_doc *d, yyjson_mut_val *messages) {
    yyjson_val *input = params_get(p, "input"), *item;
    size_t i, n;
    if (yyjson_is_str(input)) add_text_message(d, messages, "user", yyjson_get_str(input), yyjson_get_len(input));
    if (yyjson_is_str(input)) return;
    if (!yyjson_is_arr(input) || !yyjson_arr_size(input)) {
        params_refuse(p, "input", "input: a text, or an array of items, is needed");
        return;
    }
    yyjson_arr_foreach(input, i, n, item) {
        const char *type = yyjson_get_str(yyjson_obj_get(item, "type"));
        if (!type || !strcmp(type, "message"))
            openai_message(p, d, messages, item);
        else if (!strcmp(type, "function_call"))
            add_call(p, d, messages, item);
        else if (!strcmp(type, "function_call_output"))
            add_result(p, d, messages, item);
        else if (strcmp(type, "reasoning"))
            params_refuse(p, "input", "input: an item of type %s is not supported", type);
    }
}

static void refuse_unsupported(params *p) {
    static const char *const names[] = {"previous_response_id", "background", "conversation", "prompt",
                                        "top_logprobs",         NULL};
    params_none_of(p, names);
    yyjson_val *wanted = yyjson_obj_get(params_object(p, "text"), "format");
    const char *type = yyjson_get_str(yyjson_obj_get(wanted, "type")), *truncation = params_string(p, "truncation");
    if (wanted && (!type || strcmp(type, "text"))) params_refuse(p, "text", "text: only the format text is supported");
    if (truncation && strcmp(truncation, "disabled"))
        params_refuse(p, "truncation", "truncation: prompts are never cut");
}

// What a response repeats of its request.
static void keep_settings(generation *g, params *p, yyjson_val *tools, bool wanted) {
    upg_buf b = {0};
    size_t n;
    yyjson_val *instructions = p->refused ? NULL : yyjson_obj_get(p->root, "instructions");
    char *text = yyjson_is_arr(tools) ? yyjson_val_write(tools, 0, &n) : NULL;
    upg_buf_str(&b, "\"instructions\":");
    if (yyjson_is_str(instructions))
        upg_json_quote(&b, yyjson_get_str(instructions), yyjson_get_len(instructions));
    else
        upg_buf_str(&b, "null");
    upg_buf_fmt(&b, ",\"tool_choice\":\"%s\",\"tools\":", wanted ? "auto" : "none");
    upg_buf_str(&b, text ? text : "[]");
    free(text);
    if (b.failed) params_refuse(p, NULL, "out of memory");
    g->echoed = b.data;
}

static void read_request(generation *g, params *p) {
    yyjson_val *tools = params_array(p, "tools");
    const char *instructions = params_string(p, "instructions");
    bool wanted = openai_tool_choice(p);
    char *options = generation_tools(g, p, wanted ? tools : NULL, "parameters", NULL);
    keep_settings(g, p, tools, wanted);
    yyjson_mut_val *messages;
    yyjson_mut_doc *d = generation_messages(p, &messages);
    if (messages && instructions) add_text_message(d, messages, "system", instructions, strlen(instructions));
    if (messages) read_input(p, d, messages);
    generation_chat(g, p, d, options);
    yyjson_mut_doc_free(d);
    free(options);
}

void openai_responses(server *s, exchange *x) {
    params p;
    generation *g = generation_new(s, x, &format);
    if (!g) return;
    params_open(&p, x);
    openai_model(s, &p);
    refuse_unsupported(&p);
    openai_sampling(g, &p);
    if (g->n > 1) params_refuse(&p, "n", "n: a response has one answer");
    params_int(&p, "max_output_tokens", 1, INT32_MAX, &g->max_tokens);
    read_request(g, &p);
    generation_start(g, &p);
    params_close(&p);
}
