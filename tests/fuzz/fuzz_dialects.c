// Bodies of requests to every route that takes one: the first byte chooses the route, the second what the model says.
// Whatever the body, the exchange is ended exactly once, and everything that is answered is JSON: an error, a whole
// answer, or each line of a stream. The network and the scheduler are made up here; templates and tokenizer are real.
#include "engine/model.h"
#include "server/handlers.h"
#include <stdlib.h>
#include <string.h>
#include "yyjson.h"

static const char template[] =
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    "{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

// ---- The exchange ----

struct exchange {
    const dialect *dialect;
    const char *path, *body;
    size_t size;
    int ends, status;
    bool stream;
    upg_buf out;
};

const char *exchange_path(const exchange *x) {
    return x->path;
}
const char *exchange_header(const exchange *x, const char *name) {
    (void)x, (void)name;
    return NULL;
}
const char *exchange_query(const exchange *x, const char *name) {
    (void)x, (void)name;
    return NULL;
}
const char *exchange_body(const exchange *x, size_t *n) {
    *n = x->size;
    return x->body;
}
uint64_t exchange_id(const exchange *x) {
    (void)x;
    return 1;
}
uint64_t exchange_client(const exchange *x) {
    (void)x;
    return 1;
}
const dialect *exchange_dialect(const exchange *x) {
    return x->dialect;
}
void exchange_set_header(exchange *x, const char *name, const char *value) {
    (void)x, (void)name, (void)value;
}
void exchange_reply(exchange *x, int status, const char *type, upg_buf *body) {
    (void)type;
    if (x->ends++ || x->stream) abort();
    x->status = status;
    x->out = *body;
    *body = (upg_buf){0};
}
void exchange_error(exchange *x, int status, const char *param, const char *fmt, ...) {
    char message[1024];
    upg_buf b = {0};
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    upg_mend_utf8(message); // as exchange_error does
    va_end(args);
    x->dialect->error(&b, status, message, param);
    exchange_reply(x, status, "application/json", &b);
}
void exchange_stream(exchange *x, const char *type) {
    (void)type;
    if (x->ends || x->stream) abort();
    x->stream = true;
    x->status = 200;
}
void exchange_write(exchange *x, const void *data, size_t n) {
    if (x->ends || !x->stream) abort();
    upg_buf_add(&x->out, data, n);
}
void exchange_end(exchange *x) {
    if (x->ends++ || !x->stream) abort();
}
void exchange_watch(exchange *x, void (*left)(void *ctx), void *ctx) {
    (void)x, (void)left, (void)ctx;
}
void exchange_set_usage(exchange *x, const exchange_usage *usage) {
    (void)x, (void)usage;
}
void server_log(server *s, const char *fmt, ...) {
    (void)s, (void)fmt;
}

// ---- The scheduler: answers come once the handler has returned ----

enum { MOST = 64 };
static struct {
    upg_request request;
    char stop[64];
} waiting[MOST];
static int n_waiting, says;

int upg_scheduler_context(const upg_scheduler *s) {
    (void)s;
    return 512;
}
void upg_scheduler_cancel(upg_scheduler *s, uint64_t id) {
    (void)s, (void)id;
}
upg_submitted upg_scheduler_submit(upg_scheduler *s, const upg_request *requests, int n, uint64_t *ids, upg_error *e) {
    (void)s;
    if (n > MOST) {
        upg_fail(e, "full");
        return UPG_SUBMIT_FULL;
    }
    for (int i = 0; i < n; i++) {
        const upg_request *r = &requests[i];
        if (!r->n_prompt || r->n_stops > UPG_MAX_STOPS) {
            upg_fail(e, "%zu tokens", r->n_prompt);
            return UPG_SUBMIT_INVALID;
        }
        for (int j = 0; j < r->n_stops; j++)
            if (!*r->stops[j]) abort();
        waiting[i].request = *r;
        snprintf(waiting[i].stop, sizeof waiting[i].stop, "%s", r->n_stops ? r->stops[0] : "");
        ids[i] = (uint64_t)i + 1;
    }
    n_waiting = n;
    return UPG_SUBMITTED;
}

static void answer(int i) {
    static const char *const texts[] = {"Hello",
                                        " \"world\"\n\\",
                                        "<tool_call>{\"name\":\"a\",\"argu",
                                        "ments\":{\"b\":1}}</tool_call>",
                                        "[TOOL_CALLS][{\"name\":\"a\",\"arguments\":{}}]",
                                        "{\"name\":\"a\",\"parameters\":{}}",
                                        "",
                                        "<|tool_call|>[{]<|/tool_call|>\xc3\xa9"};
    const upg_request *r = &waiting[i].request;
    upg_token_logprob top[UPG_MAX_TOP_LOGPROBS];
    for (int j = 0; j < UPG_MAX_TOP_LOGPROBS; j++) top[j] = (upg_token_logprob){j, -(float)j};
    for (int j = 0; j < says % 4; j++) {
        const char *text = texts[(says / 4 + j) % 8];
        upg_answer_event e = {.text = text, .n_text = strlen(text), .token = 300 + j, .logprob = -1};
        if (r->top_logprobs > 0) e.top = top;
        if (r->top_logprobs > 0) e.n_top = r->top_logprobs;
        r->event(r->ctx, &e);
    }
    upg_finish finish = says / 32 % 8 < UPG_N_FINISHES ? (upg_finish)(says / 32 % 8) : UPG_FINISH_STOP;
    upg_answer_event end = {.end = true,
                            .text = "",
                            .finish = finish,
                            .stop = finish == UPG_FINISH_STOP && *waiting[i].stop ? waiting[i].stop : NULL,
                            .error = finish == UPG_FINISH_FAILED ? "it \"failed\"" : NULL,
                            .n_prompt = (int)r->n_prompt,
                            .n_tokens = says % 4 + 1};
    r->event(r->ctx, &end);
}

// ---- The target ----

static void must_be_json(const char *text, size_t n) {
    yyjson_doc *d = yyjson_read(text, n, 0);
    if (!d) abort();
    yyjson_doc_free(d);
}

static void check(const exchange *x) {
    if (x->ends != 1 || x->status < 200 || x->out.failed) abort();
    if (!x->stream) {
        must_be_json(x->out.data ? x->out.data : "", x->out.size);
        return;
    }
    for (const char *line = x->out.data, *end; line && *line; line = end + 1) {
        if (!(end = strchr(line, '\n'))) abort();
        size_t n = (size_t)(end - line);
        if (!n || !strncmp(line, "event: ", 7) || !strncmp(line, "data: [DONE]", 12)) continue;
        size_t skip = strncmp(line, "data: ", 6) ? 0 : 6;
        must_be_json(line + skip, n - skip);
    }
}

static const struct {
    void (*handle)(server *s, exchange *x);
    const dialect *dialect;
} routes[] = {{openai_chat, &dialect_openai},           {openai_completions, &dialect_openai},
              {openai_responses, &dialect_openai},      {openai_embeddings, &dialect_openai},
              {anthropic_messages, &dialect_anthropic}, {anthropic_count_tokens, &dialect_anthropic},
              {ollama_chat, &dialect_ollama},           {ollama_generate, &dialect_ollama},
              {ollama_show, &dialect_ollama},           {handle_tokenize, &dialect_openai},
              {handle_detokenize, &dialect_openai}};
enum { N_ROUTES = sizeof routes / sizeof *routes };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const server_options options = {.name = "tales"};
    static server s = {.options = &options, .chat_template = template};
    if (!s.model) {
        s.model = upg_model_open("models/tales.upg", NULL);
        s.chat = s.model ? upg_chat_new(s.model, template, NULL) : NULL;
        if (!s.chat) abort();
    }
    if (size < 2) return 0;
    exchange x = {
        .dialect = routes[data[0] % N_ROUTES].dialect, .path = "/", .body = (const char *)data + 2, .size = size - 2};
    says = data[1];
    n_waiting = 0;
    routes[data[0] % N_ROUTES].handle(&s, &x);
    for (int i = 0, n = n_waiting; i < n; i++) answer(i);
    check(&x);
    upg_buf_free(&x.out);
    return 0;
}
