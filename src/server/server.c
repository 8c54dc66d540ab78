// Starting and stopping the server, and what it says of itself.
//
// Order matters at the start: what needs files is opened first, then the sandbox is entered, then threads are made, so
// that all of them are in it. And at the end: no new connections, no new requests, the answers that run, then the rest.
#include "engine/model.h"
#include "server/handlers.h"
#include "server/http.h"
#include "server/sandbox.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

typedef struct serving {
    server server; // what dialects see; first
    server_options options;
    guard *guard;
    access_log *log;
    bool draining;
} serving;

void server_log(server *s, const char *fmt, ...) {
    char line[1024];
    (void)s;
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    fprintf(stderr, "upg serve: %s\n", line);
}

static void log_line(void *ctx, const char *line) {
    server_log(ctx, "%s", line);
}

bool server_draining(const server *s) {
    return __atomic_load_n(&((const serving *)s)->draining, __ATOMIC_RELAXED);
}

int server_reload(server *s, upg_error *e) {
    serving *v = (serving *)s;
    int rc = guard_reload(v->guard, e);
    if (v->log && access_log_reopen(v->log, rc ? NULL : e)) rc = -1;
    return rc;
}

static int check_options(server_options *o, upg_error *e) {
    if (!o->host) o->host = "127.0.0.1";
    if (!o->max_body) o->max_body = (size_t)16 << 20;
    if (o->max_connections <= 0) o->max_connections = 4096;
    if (o->read_seconds <= 0) o->read_seconds = 30;
    if (!o->tls_certificate != !o->tls_key) return upg_fail(e, "TLS takes both a certificate and a key");
    return 0;
}

static int check_keys(const serving *v, upg_error *e) {
    if (guard_is_loopback(v->options.host) || v->options.insecure || guard_has_keys(v->guard)) return 0;
    return upg_fail(
        e,
        "--host %s can be reached from elsewhere, and there is no API key: give one (--api-key-file FILE, or "
        "UPG_API_KEY in the environment), or --insecure",
        v->options.host);
}

static int enter_sandbox(serving *v, const upg_scheduler_options *scheduler, char done[128], upg_error *e) {
    const server_options *o = &v->options;
    const char *log = o->access_log && strcmp(o->access_log, "-") ? o->access_log : NULL;
    sandbox_paths paths = {.read = {o->api_key_file, o->tls_certificate, o->tls_key},
                           .write = {scheduler->kv_dir, log}};
    snprintf(done, 128, "none");
    return o->sandbox ? sandbox_enter(&paths, done, e) : 0;
}

static int open_chat(serving *v, const char *chat_template, upg_error *e) {
    server *s = &v->server;
    uint8_t hash[16];
    if (upg_model_hash(s->model, hash, e)) return -1;
    s->model_hash = upg_le64(hash);
    s->model_parameters = upg_weights_parameters(&s->model->weights);
    s->chat_template = chat_template ? chat_template : s->model->weights.chat_template;
    if (!s->model->tokenizer) return upg_fail(e, "the model has no tokenizer");
    if (!s->chat_template) return 0;
    return (s->chat = upg_chat_new(s->model, chat_template, e)) ? 0 : -1;
}

server *server_start(const server_options *options, const upg_model *m, const char *chat_template,
                     const upg_scheduler_options *scheduler, int *port, upg_error *e) {
    serving *v = upg_alloc(1, sizeof *v, e);
    if (!v) return NULL;
    server *s = &v->server;
    v->options = *options;
    s->options = &v->options;
    s->model = m;
    s->started = (int64_t)time(NULL);
    upg_scheduler_options own = *scheduler;
    own.log = log_line;
    own.log_ctx = s;
    char sandbox[128];
    int rc = check_options(&v->options, e);
    if (!rc) rc = open_chat(v, chat_template, e);
    const server_options *o = s->options;
    if (!rc && !(v->guard = guard_new(o->host, o->api_key_file, o->hosts, o->origins, e))) rc = -1;
    if (!rc) rc = check_keys(v, e);
    if (!rc && o->access_log && !(v->log = access_log_open(o->access_log, e))) rc = -1;
    if (!rc && own.kv_dir && mkdir(own.kv_dir, 0700) && errno != EEXIST)
        rc = upg_fail(e, "%s: %s", own.kv_dir, strerror(errno));
    if (!rc) rc = enter_sandbox(v, &own, sandbox, e);
    if (!rc && !(s->scheduler = upg_scheduler_new(m, &own, e))) rc = -1;
    if (!rc && !(s->http = http_start(s, v->guard, v->log, port, e))) rc = -1;
    if (!rc) {
        server_log(s, "sandbox: %s", sandbox);
        return s;
    }
    server_stop(s, 0);
    return NULL;
}

void server_stop(server *s, double seconds) {
    if (!s) return;
    serving *v = (serving *)s;
    __atomic_store_n(&v->draining, true, __ATOMIC_RELAXED);
    if (s->http) http_quiesce(s->http);
    if (s->scheduler && s->http && !upg_scheduler_drain(s->scheduler, seconds))
        server_log(s, "answers that were still running after %.0f s are cut off", seconds);
    if (s->scheduler) upg_scheduler_stop(s->scheduler);
    // Handlers end soon after the scheduler has told them so.
    while (s->http && !http_wait(s->http, 60)) server_log(s, "waiting for requests to end");
    http_free(s->http);
    upg_scheduler_free(s->scheduler);
    guard_free(v->guard);
    access_log_close(v->log);
    upg_chat_free((upg_chat *)(uintptr_t)s->chat);
    free(v);
}

// ---- Routes of the server itself ----

static void reply_text(exchange *x, int status, const char *type, const char *text) {
    upg_buf b = {0};
    upg_buf_str(&b, text);
    exchange_reply(x, status, type, &b);
}

void handle_health(server *s, exchange *x) {
    (void)s;
    reply_text(x, 200, "application/json", "{\"status\":\"ok\"}\n");
}

void handle_ready(server *s, exchange *x) {
    if (server_draining(s))
        exchange_error(x, 503, NULL, "shutting down");
    else
        reply_text(x, 200, "application/json", "{\"status\":\"ready\"}\n");
}

void handle_metrics(server *s, exchange *x) {
    upg_buf b = {0};
    server_metrics(s, &b);
    exchange_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", &b);
}

extern const char server_openapi[], server_openapi_end[];

void handle_openapi(server *s, exchange *x) {
    (void)s;
    upg_buf b = {0};
    upg_buf_add(&b, server_openapi, (size_t)(server_openapi_end - server_openapi));
    exchange_reply(x, 200, "application/json", &b);
}
