// POST /v1/completions: https://platform.openai.com/docs/api-reference/completions
#include "server/handlers.h"
#include "server/openai.h"
#include "engine/model.h"
#include "format/json.h"
#include <stdlib.h>
#include <string.h>

enum { PROMPTS_MAX = 256 };

// ---- Answers ----

static void head(const generation *g, upg_buf *out) {
    char fingerprint[32];
    openai_fingerprint(g->server, fingerprint);
    upg_buf_fmt(out, "{\"id\":\"cmpl-%016llx\",\"object\":\"text_completion\",\"created\":%lld,\"model\":",
                (unsigned long long)exchange_id(g->x), (long long)g->created);
    upg_json_quote(out, g->model, strlen(g->model));
    upg_buf_fmt(out, ",\"system_fingerprint\":\"%s\",\"choices\":[", fingerprint);
}

// c->logprobs holds four lists, one a line, each entry behind a comma: tokens, log probabilities, likeliest, offsets.
static void put_logprobs(choice *c, upg_buf *out) {
    static const char *const names[] = {"\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[",
                                        "],\"text_offset\":["};
    if (c->g->top_logprobs < 0) {
        upg_buf_str(out, ",\"logprobs\":null");
        return;
    }
    upg_buf_str(out, ",\"logprobs\":{");
    for (int list = 0; list < 4; list++) {
        upg_buf_str(out, names[list]);
        const char *at = c->logprobs.size ? c->logprobs.data : "", *end = at + c->logprobs.size;
        bool first = true;
        for (int i = 0; at < end; i++) { // lines, four a token
            const char *line = memchr(at, '\n', (size_t)(end - at));
            if (i % 4 == list) {
                if (!first) upg_buf_str(out, ",");
                upg_buf_add(out, at, (size_t)(line - at));
                first = false;
            }
            at = line + 1;
        }
    }
    upg_buf_str(out, "]}");
}

static void chunk(choice *c, const char *text, size_t n, const char *finish, upg_buf *out) {
    upg_buf_str(out, "data: ");
    head(c->g, out);
    upg_buf_fmt(out, "{\"index\":%d,", c->index);
    put_quoted(out, "\"text\":", text, n, "");
    put_logprobs(c, out);
    upg_buf_fmt(out, ",\"finish_reason\":%s%s%s}]%s}\n\n", finish ? "\"" : "", finish ? finish : "null",
                finish ? "\"" : "", c->g->include_usage ? ",\"usage\":null" : "");
}

static void begin(generation *g, upg_buf *out) {
    for (int i = 0; g->echoed && i < g->n_choices; i++) chunk(&g->choices[i], g->echoed, strlen(g->echoed), NULL, out);
}

static void piece(choice *c, const char *text, size_t n, upg_buf *out) {
    chunk(c, text, n, NULL, out);
}

static const char *finish_of(const choice *c) {
    return generation_finish_word(c, "stop", "length", "stop");
}

// One line each of a token's entries in the four lists. c->state counts the characters before it.
static void logprob(choice *c, const upg_answer_event *e) {
    const server *s = c->g->server;
    upg_buf *out = &c->logprobs;
    size_t n;
    const char *bytes = upg_tokenizer_bytes(s->model->tokenizer, e->token, &n);
    quote_token(s, e->token, out);
    upg_buf_fmt(out, "\n%.9g\n{", (double)(e->logprob > -9999 ? e->logprob : -9999));
    for (int i = 0; i < e->n_top; i++) {
        if (i) upg_buf_str(out, ",");
        quote_token(s, e->top[i].token, out);
        upg_buf_fmt(out, ":%.9g", (double)(e->top[i].logprob > -9999 ? e->top[i].logprob : -9999));
    }
    upg_buf_fmt(out, "}\n%d\n", c->state);
    for (size_t i = 0; i < n; i++) c->state += ((uint8_t)bytes[i] & 0xc0) != 0x80;
}

static void end_choice(choice *c, upg_buf *out) {
    chunk(c, "", 0, finish_of(c), out);
}

static void end(generation *g, upg_buf *out) {
    if (g->include_usage) {
        upg_buf_str(out, "data: ");
        head(g, out);
        upg_buf_str(out, "],\"usage\":");
        openai_usage(g, out);
        upg_buf_str(out, "}\n\n");
    }
    openai_done(out);
}

static void whole(generation *g, upg_buf *out) {
    head(g, out);
    for (int i = 0; i < g->n_choices; i++) {
        choice *c = &g->choices[i];
        upg_buf text = {0};
        if (g->echoed) upg_buf_str(&text, g->echoed);
        upg_buf_add(&text, c->text.data, c->text.size);
        upg_buf_fmt(out, "%s{\"index\":%d,", i ? "," : "", i);
        put_quoted(out, "\"text\":", text.data ? text.data : "", text.size, "");
        put_logprobs(c, out);
        upg_buf_fmt(out, ",\"finish_reason\":\"%s\"}", finish_of(c));
        out->failed |= text.failed;
        upg_buf_free(&text);
    }
    upg_buf_str(out, "],\"usage\":");
    openai_usage(g, out);
    upg_buf_str(out, "}");
}

static const answer_format format = {.type = "text/event-stream",
                                     .begin = begin,
                                     .piece = piece,
                                     .logprob = logprob,
                                     .end_choice = end_choice,
                                     .end = end,
                                     .whole = whole,
                                     .fail = openai_fail};

// ---- Requests ----

static void add_ids(generation *g, params *p, yyjson_val *list) {
    upg_error e = {""};
    yyjson_val *v;
    size_t i, n, size = yyjson_arr_size(list);
    int32_t *ids = p->refused ? NULL : upg_alloc(size + 1, sizeof *ids, &e);
    if (!ids) {
        params_fail(p, &e);
        return;
    }
    yyjson_arr_foreach(list, i, n, v) {
        int64_t id = yyjson_is_int(v) ? yyjson_get_sint(v) : -1;
        if (id < 0 || id >= upg_model_vocab_size(g->server->model)) {
            free(ids);
            params_refuse(p, "prompt", "prompt: entry %zu is no token of this model", i);
            return;
        }
        ids[i] = (int32_t)id;
    }
    if (generation_add_prompt(g, ids, size, &e)) params_fail(p, &e);
}

static void read_prompt(generation *g, params *p) {
    yyjson_val *prompt = params_get(p, "prompt"), *v;
    size_t i, n;
    if (yyjson_is_str(prompt)) {
        generation_text(g, p, yyjson_get_str(prompt), yyjson_get_len(prompt));
        return;
    }
    if (!yyjson_is_arr(prompt) || !yyjson_arr_size(prompt)) {
        params_refuse(p, "prompt", "prompt: a string, token ids, or an array of either is needed");
        return;
    }
    if (yyjson_is_num(yyjson_arr_get_first(prompt))) {
        add_ids(g, p, prompt);
        return;
    }
    if (yyjson_arr_size(prompt) > PROMPTS_MAX)
        params_refuse(p, "prompt", "prompt: more than %d at a time", PROMPTS_MAX);
    yyjson_arr_foreach(prompt, i, n, v) {
        if (yyjson_is_str(v))
            generation_text(g, p, yyjson_get_str(v), yyjson_get_len(v));
        else if (yyjson_is_arr(v))
            add_ids(g, p, v);
        else
            params_refuse(p, "prompt", "prompt: entry %zu is neither a string nor token ids", i);
    }
}

static void read_echo(generation *g, params *p) {
    params_bool(p, "echo", &g->echo);
    if (!g->echo) return;
    if (g->top_logprobs >= 0) params_refuse(p, "echo", "echo: not together with logprobs");
    yyjson_val *prompt = params_get(p, "prompt");
    const char *text = upg_json_string(prompt);
    if (!text) params_refuse(p, "echo", "echo: only of a prompt that is one string");
    if (text && !(g->echoed = upg_strdup(text, strlen(text), NULL))) params_refuse(p, NULL, "out of memory");
}

void openai_completions(server *s, exchange *x) {
    params p;
    int best_of = 1;
    generation *g = generation_new(s, x, &format);
    if (!g) return;
    params_open(&p, x);
    openai_model(s, &p);
    params_none_of(&p, (const char *const[]){"suffix", NULL});
    openai_sampling(g, &p);
    params_int(&p, "best_of", 1, 64, &best_of);
    if (best_of > g->n) params_refuse(&p, "best_of", "best_of is not supported");
    params_int(&p, "logprobs", 0, UPG_MAX_TOP_LOGPROBS, &g->top_logprobs);
    g->max_tokens = 16; // as OpenAI's
    params_int(&p, "max_tokens", 0, INT32_MAX, &g->max_tokens);
    read_prompt(g, &p);
    read_echo(g, &p);
    generation_start(g, &p);
    params_close(&p);
}
