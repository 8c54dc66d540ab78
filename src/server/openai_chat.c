// POST /v1/chat/completions: https://platform.openai.com/docs/api-reference/chat
#include "server/handlers.h"
#include "server/openai.h"
#include "format/json.h"
#include <stdlib.h>
#include <string.h>

// ---- Answers ----

static void head(const generation *g, const char *object, upg_buf *out) {
    char fingerprint[32];
    openai_fingerprint(g->server, fingerprint);
    upg_buf_fmt(out, "{\"id\":\"chatcmpl-%016llx\",\"object\":\"%s\",\"created\":%lld,\"model\":",
                (unsigned long long)exchange_id(g->x), object, (long long)g->created);
    upg_json_quote(out, g->model, strlen(g->model));
    upg_buf_fmt(out, ",\"system_fingerprint\":\"%s\",\"choices\":[", fingerprint);
}

static void chunk(const choice *c, upg_buf *out) {
    upg_buf_str(out, "data: ");
    head(c->g, "chat.completion.chunk", out);
    upg_buf_fmt(out, "{\"index\":%d,\"delta\":{", c->index);
}

static void put_logprobs(const choice *c, upg_buf *out) {
    if (c->g->top_logprobs < 0) {
        upg_buf_str(out, ",\"logprobs\":null");
        return;
    }
    upg_buf_str(out, ",\"logprobs\":{\"content\":[");
    upg_buf_add(out, c->logprobs.data, c->logprobs.size);
    upg_buf_str(out, "],\"refusal\":null}");
}

// Where a request wants the usage, every chunk but the last says that it has none.
static void end_chunk(const generation *g, upg_buf *out) {
    upg_buf_fmt(out, "}]%s}\n\n", g->include_usage ? ",\"usage\":null" : "");
}

static void begin(generation *g, upg_buf *out) {
    for (int i = 0; i < g->n_choices; i++) {
        chunk(&g->choices[i], out);
        upg_buf_str(out, "\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null");
        end_chunk(g, out);
    }
}

static void piece(choice *c, const char *text, size_t n, upg_buf *out) {
    chunk(c, out);
    put_quoted(out, "\"content\":", text, n, "}");
    put_logprobs(c, out);
    upg_buf_str(out, ",\"finish_reason\":null");
    end_chunk(c->g, out);
}

static void put_call(const choice *c, const tool_call *call, int index, upg_buf *out) {
    upg_buf_fmt(out, "\"id\":\"call_%016llx_%d_%d\",\"type\":\"function\",\"function\":",
                (unsigned long long)exchange_id(c->g->x), c->index, index);
    put_quoted(out, "{\"name\":", call->name, strlen(call->name), "");
    put_quoted(out, ",\"arguments\":", call->arguments, strlen(call->arguments), "}");
}

static void call(choice *c, const tool_call *t, int index, upg_buf *out) {
    chunk(c, out);
    upg_buf_fmt(out, "\"tool_calls\":[{\"index\":%d,", index);
    put_call(c, t, index, out);
    upg_buf_str(out, "}]},\"logprobs\":null,\"finish_reason\":null");
    end_chunk(c->g, out);
}

static void logprob(choice *c, const upg_answer_event *e) {
    openai_logprob(c->g->server, e, &c->logprobs);
}

static void put_finish(const choice *c, upg_buf *out) {
    upg_buf_fmt(out, ",\"finish_reason\":\"%s\"", generation_finish_word(c, "stop", "length", "tool_calls"));
}

static void end_choice(choice *c, upg_buf *out) {
    chunk(c, out);
    upg_buf_str(out, "},\"logprobs\":null");
    put_finish(c, out);
    end_chunk(c->g, out);
}

static void end(generation *g, upg_buf *out) {
    if (g->include_usage) {
        upg_buf_str(out, "data: ");
        head(g, "chat.completion.chunk", out);
        upg_buf_str(out, "],\"usage\":");
        openai_usage(g, out);
        upg_buf_str(out, "}\n\n");
    }
    openai_done(out);
}

static void whole(generation *g, upg_buf *out) {
    head(g, "chat.completion", out);
    for (int i = 0; i < g->n_choices; i++) {
        const choice *c = &g->choices[i];
        upg_buf_fmt(
            out, "%s{\"index\":%d,\"message\":{\"role\":\"assistant\",\"refusal\":null,\"content\":", i ? "," : "", i);
        if (c->text.size || !c->tools.n)
            upg_json_quote(out, c->text.data ? c->text.data : "", c->text.size);
        else
            upg_buf_str(out, "null");
        for (int j = 0; j < c->tools.n; j++) {
            upg_buf_str(out, j ? "},{" : ",\"tool_calls\":[{");
            put_call(c, &c->tools.calls[j], j, out);
        }
        upg_buf_str(out, c->tools.n ? "}]}" : "}");
        put_logprobs(c, out);
        put_finish(c, out);
        upg_buf_str(out, "}");
    }
    upg_buf_str(out, "],\"usage\":");
    openai_usage(g, out);
    upg_buf_str(out, "}");
}

static const answer_format format = {.type = "text/event-stream",
                                     .begin = begin,
                                     .piece = piece,
                                     .call = call,
                                     .logprob = logprob,
                                     .end_choice = end_choice,
                                     .end = end,
                                     .whole = whole,
                                     .fail = openai_fail};

// ---- Requests ----

static void refuse_unsupported(params *p) {
    static const char *const names[] = {"functions",  "function_call",      "audio",
                                        "prediction", "web_search_options", NULL};
    params_none_of(p, names);
    yyjson_val *format_wanted = params_object(p, "response_format"), *modality;
    const char *type = yyjson_get_str(yyjson_obj_get(format_wanted, "type"));
    if (format_wanted && (!type || strcmp(type, "text")))
        params_refuse(p, "response_format", "response_format: only text is supported");
    size_t i, n;
    yyjson_val *modalities = params_array(p, "modalities");
    yyjson_arr_foreach(modalities, i, n, modality) if (!yyjson_equals_str(modality, "text"))
        params_refuse(p, "modalities", "modalities: only text is supported");
}

static void read_logprobs(generation *g, params *p) {
    bool wanted = false;
    int top = -1;
    params_bool(p, "logprobs", &wanted);
    params_int(p, "top_logprobs", 0, UPG_MAX_TOP_LOGPROBS, &top);
    if (top > 0 && !wanted) params_refuse(p, "top_logprobs", "top_logprobs: only with logprobs");
    if (wanted) g->top_logprobs = top < 0 ? 0 : top;
}

static void read_messages(generation *g, params *p) {
    yyjson_val *messages = params_array(p, "messages"), *m;
    size_t i, n;
    if (!messages || !yyjson_arr_size(messages))
        params_refuse(p, "messages", "messages: an array of at least one is needed");
    yyjson_val *tools = params_array(p, "tools");
    bool wanted = openai_tool_choice(p);
    char *options = generation_tools(g, p, wanted ? tools : NULL, NULL, params_object(p, "chat_template_kwargs"));
    yyjson_mut_val *list;
    yyjson_mut_doc *d = generation_messages(p, &list);
    yyjson_arr_foreach(messages, i, n, m) openai_message(p, d, list, m);
    generation_chat(g, p, d, options);
    yyjson_mut_doc_free(d);
    free(options);
}

void openai_chat(server *s, exchange *x) {
    params p;
    generation *g = generation_new(s, x, &format);
    if (!g) return;
    params_open(&p, x);
    openai_model(s, &p);
    refuse_unsupported(&p);
    openai_sampling(g, &p);
    read_logprobs(g, &p);
    params_int(&p, "max_tokens", 0, INT32_MAX, &g->max_tokens);
    params_int(&p, "max_completion_tokens", 0, INT32_MAX, &g->max_tokens);
    read_messages(g, &p);
    generation_start(g, &p);
    params_close(&p);
}
