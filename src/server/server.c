// The server as a whole: starting, stopping, and the paths that are its own.
//
// The order of starting is what the sandbox asks for. What has to be opened, is; then the sandbox closes behind this
// thread; then come the threads, which are born into it; and only then is the first connection accepted.
#include "backend/backend.h"
#include "engine/model.h"
#include "server/handlers.h"
#include "server/http.h"
#include "server/sandbox.h"
#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PEM = 1 << 20, MAX_BODY = 16 << 20, N_PARALLEL = 8, READ_SECONDS = 30 };
#define FLUSH_SECONDS 2.0 // for answers to be taken once all have ended

typedef struct serving {
    server server; // what dialects see; first
    server_options options;
    guard *guard;
    access_log *log; // or NULL
    int n_parallel;
    upg_chat *chat;
    char *template;
    char *certificate, *key; // PEM
    atomic_bool draining;
    int listener;
} serving;

void server_log(server *s, const char *fmt, ...) {
    (void)s;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < 32 || *p == 127) *p = '?';
    fprintf(stderr, "upg serve: %s\n", line);
}

static void log_line(void *ctx, const char *line) {
    server_log(ctx, "%s", line);
}

bool server_draining(const server *s) {
    return atomic_load(&((const serving *)s)->draining);
}

int server_reload(server *s, upg_error *e) {
    serving *v = (serving *)s;
    int keys = guard_reload(v->guard, e);
    int log = v->log ? access_log_reopen(v->log, keys ? NULL : e) : 0;
    return keys || log ? -1 : 0;
}

int server_retry_after(server *s) {
    enum { LEAST = 1, MOST = 60 };
    upg_scheduler_stats t;
    upg_scheduler_stats_get(s->scheduler, &t);
    uint64_t n = 0;
    for (int i = 0; i <= t.whole.n; i++) n += t.whole.counts[i];
    // A place in the queue is free when one of those that run ends; how long they take is known from those before.
    double seconds = n ? t.whole.sum / (double)n / ((serving *)s)->n_parallel : LEAST;
    return seconds < LEAST ? LEAST : seconds > MOST ? MOST : (int)(seconds + 0.5);
}

// ---- Its own paths ----

extern const char server_openapi[], server_openapi_end[];

// For people; and Ollama's clients ask for it to see whether something is there.
void handle_root(server *s, exchange *x) {
    upg_buf body = {0};
    upg_buf_fmt(&body, "upg %s serves %s; /openapi.json describes how\n", upg_version(), s->options->name);
    exchange_reply(x, 200, "text/plain; charset=utf-8", &body);
}

void handle_health(server *s, exchange *x) {
    (void)s;
    upg_buf body = {0};
    upg_buf_str(&body, "{\"status\":\"ok\"}");
    exchange_reply(x, 200, "application/json", &body);
}

void handle_ready(server *s, exchange *x) {
    upg_buf body = {0};
    bool ready = !server_draining(s);
    upg_buf_str(&body, ready ? "{\"status\":\"ready\"}" : "{\"status\":\"draining\"}");
    exchange_reply(x, ready ? 200 : 503, "application/json", &body);
}

void handle_metrics(server *s, exchange *x) {
    upg_buf body = {0};
    server_metrics(s, &body);
    exchange_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", &body);
}

void handle_openapi(server *s, exchange *x) {
    (void)s;
    upg_buf body = {0};
    upg_buf_add(&body, server_openapi, (size_t)(server_openapi_end - server_openapi));
    exchange_reply(x, 200, "application/json", &body);
}

// ---- Starting ----

static int read_tls(serving *v, upg_error *e) {
    const server_options *o = &v->options;
    if (!o->tls_certificate != !o->tls_key) return upg_fail(e, "TLS takes both a certificate and a key");
    if (!o->tls_key) return 0;
    struct stat st;
    size_t n;
    v->certificate = upg_read_text(o->tls_certificate, MAX_PEM, &n, e);
    v->key = v->certificate ? upg_read_text(o->tls_key, MAX_PEM, &n, e) : NULL;
    if (!v->key) return -1;
    if (!strstr(v->certificate, "-----BEGIN CERTIFICATE-----"))
        return upg_fail(e, "%s: not a certificate in PEM", o->tls_certificate);
    if (!strstr(v->key, "PRIVATE KEY-----")) return upg_fail(e, "%s: not a private key in PEM", o->tls_key);
    if (!stat(o->tls_key, &st) && (st.st_mode & (S_IROTH | S_IWOTH)))
        server_log(&v->server, "%s: others can read the TLS key (chmod 600 %s)", o->tls_key, o->tls_key);
    return 0;
}

static int open_chat(serving *v, const char *template, upg_error *e) {
    server *s = &v->server;
    uint8_t hash[16];
    if (!s->model->tokenizer) return upg_fail(e, "the model has no tokenizer");
    if (upg_model_hash(s->model, hash, e)) return -1;
    s->model_hash = upg_le64(hash);
    s->model_parameters = upg_weights_parameters(&s->model->weights);
    if (template && !(v->template = upg_strdup(template, strlen(template), e))) return -1;
    s->chat_template = template ? v->template : s->model->weights.chat_template;
    if (!s->chat_template) return 0;
    return (s->chat = v->chat = upg_chat_new(s->model, template, e)) ? 0 : -1;
}

static int open_files(serving *v, const char *template, int *port, upg_error *e) {
    const server_options *o = &v->options;
    if (open_chat(v, template, e) || !(v->guard = guard_new(o, e)) || read_tls(v, e)) return -1;
    if (o->access_log && !(v->log = access_log_open(o->access_log, e))) return -1;
    v->listener = http_listen(o->host, port, e);
    return v->listener < 0 ? -1 : 0;
}

// The folder that a file is in: a file that takes its place by being renamed must be seen too.
static const char *folder_of(const char *path, char **copy) {
    *copy = path ? upg_strdup(path, strlen(path), NULL) : NULL;
    return *copy ? dirname(*copy) : NULL;
}

static int close_sandbox(serving *v, const char *kv_dir, upg_error *e) {
    const server_options *o = &v->options;
    char *keys, *log;
    // The folder of keys and values is made by the scheduler, which is not there yet.
    if (kv_dir && mkdir(kv_dir, 0700) && errno != EEXIST) return upg_fail(e, "%s: %s", kv_dir, strerror(errno));
    const char *keys_folder = folder_of(o->api_key_file, &keys);
    const char *log_folder = folder_of(o->access_log && strcmp(o->access_log, "-") ? o->access_log : NULL, &log);
    const char *read[3] = {"/proc/self", keys_folder}, *write[3] = {0};
    int n = 0;
    if (log_folder) write[n++] = log_folder;
    if (kv_dir) write[n++] = kv_dir;
    upg_buf report = {0};
    sandbox_apply(read, write, &report);
    server_log(&v->server, "%s", report.failed ? "sandbox: yes" : report.data);
    upg_buf_free(&report);
    free(keys);
    free(log);
    return 0;
}

static void free_serving(serving *v) {
    http_free(v->server.http);
    upg_scheduler_free(v->server.scheduler);
    access_log_close(v->log);
    guard_free(v->guard);
    upg_chat_free(v->chat);
    if (v->key) explicit_bzero(v->key, strlen(v->key));
    free(v->certificate);
    free(v->key);
    free(v->template);
    if (v->listener >= 0) close(v->listener);
    free(v);
}

static serving *new_serving(const server_options *options, const upg_model *m, const upg_scheduler_options *scheduler,
                            upg_error *e) {
    serving *v = upg_alloc(1, sizeof *v, e);
    if (!v) return NULL;
    v->server.model = m;
    v->server.started = (int64_t)time(NULL);
    v->server.options = &v->options;
    v->n_parallel = scheduler->n_parallel > 0 ? scheduler->n_parallel : N_PARALLEL;
    v->listener = -1;
    v->options = *options;
    if (!v->options.max_body) v->options.max_body = MAX_BODY;
    if (!(v->options.read_seconds > 0)) v->options.read_seconds = READ_SECONDS;
    return v;
}

server *server_start(const server_options *options, const upg_model *m, const char *chat_template,
                     const upg_scheduler_options *scheduler, int *port, upg_error *e) {
    serving *v = new_serving(options, m, scheduler, e);
    if (!v) return NULL;
    server *s = &v->server;
    upg_scheduler_options own = *scheduler;
    own.log = log_line;
    own.log_ctx = s;
    int taken = options->port;
    int rc = open_files(v, chat_template, &taken, e);
    if (!rc && options->sandbox) upg_backend_prepare(NULL);
    if (!rc && options->sandbox) rc = close_sandbox(v, own.kv_dir, e);
    if (!rc && !(s->scheduler = upg_scheduler_new(m, &own, e))) rc = -1;
    if (!rc && !(s->http = http_new(s, v->guard, v->log, e))) rc = -1;
    int listener = v->listener;
    if (!rc) {
        v->listener = -1;
        rc = http_start(s->http, listener, v->certificate, v->key, e);
    }
    if (!rc) {
        if (port) *port = taken;
        return s;
    }
    if (s->http) http_stop(s->http);
    free_serving(v);
    return NULL;
}

// ---- Stopping ----

static void wait_for_answers(server *s, double seconds) {
    double until = upg_now() + seconds;
    while (http_running(s->http) && upg_now() < until) nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
}

// Meanwhile connections are still answered: /ready says no, and so do requests for more.
void server_stop(server *s, double seconds) {
    if (!s) return;
    serving *v = (serving *)s;
    atomic_store(&v->draining, true);
    double until = upg_now() + seconds;
    // What the workers still hold has not been submitted: the scheduler refuses it from here on.
    upg_scheduler_drain(s->scheduler, seconds);
    http_end_jobs(s->http);
    wait_for_answers(s, until - upg_now());
    int n = http_running(s->http);
    if (n) {
        server_log(s, "%d answers that are still running after %g s are cut off", n, seconds);
        http_cancel_running(s->http);
        upg_scheduler_stop(s->scheduler);
        wait_for_answers(s, FLUSH_SECONDS);
    }
    http_stop(s->http);
    upg_scheduler_stop(s->scheduler); // every handler has ended its exchange behind this, or soon does
    free_serving(v);
}
