// HTTP by libmicrohttpd: connections, requests, and answers that are written by other threads.
//
// One thread of the library moves all bytes. A request that needs more than a look is suspended and given to a worker,
// which parses and submits it; the scheduler's thread then writes the answer, and resumes the connection when there is
// something to send. The library does not look at suspended connections, so a thread of our own, the watcher, does: it
// notices clients that go away, and shuts connections that do not deliver their request in time, which no timeout of
// inactivity would find.
//
// An exchange belongs to two: the library, until the request is completed, and the handler, until it ends the answer.
#include "server/http.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

enum {
    N_WORKERS = 2,
    N_HEADERS = 8,
    HEADER_BYTES = 32768, // of a request's head
    OUT_MAX = 8 << 20,    // bytes that may wait for a client that does not read
    IDLE_SECONDS = 60,    // of a connection between requests, or that takes nothing
    TICK_MS = 250,        // of the watcher
    SPARE_FILES = 128,    // file descriptors for all else
    BACKLOG = 1024,
};

typedef struct connection {
    struct connection *next, *previous;
    int fd;
    char address[INET6_ADDRSTRLEN];
    double since;      // it was opened, or its last request ended
    double head_since; // a request's head came; 0: it has not
    exchange *at_work; // its request is here whole
    bool shut;
} connection;

typedef enum stage { STAGE_BODY, STAGE_WAITING, STAGE_READY, STAGE_SENDING } stage;

struct exchange {
    exchange *next; // of the workers' queue
    http *http;
    connection *connection;
    struct MHD_Connection *mhd;
    const route *route;
    const dialect *dialect;
    char *method, *path;
    upg_buf body;
    bool too_large, head;
    uint64_t id, client;
    char *origin; // to be told that it may read the answer; or NULL
    double started;
    atomic_int refs;

    pthread_mutex_t mutex; // over what follows
    stage stage;
    bool suspended, stream, ended, broken, gone, completed;
    int status;
    const char *type;
    struct {
        const char *name;
        char value[128];
    } headers[N_HEADERS];
    int n_headers;
    upg_buf out;
    size_t sent; // bytes of out that have been sent
    uint64_t bytes;
    void (*left)(void *ctx);
    void *left_ctx;
    exchange_usage usage;
};

struct http {
    server *server;
    guard *guard;
    access_log *log;
    struct MHD_Daemon *daemon;
    int epoll, listener, max_connections;
    pthread_t workers[N_WORKERS], watcher;
    int n_workers;
    bool has_watcher, stopping;

    pthread_mutex_t mutex; // over what follows, and connections
    pthread_cond_t work, idle;
    exchange *queue, **queue_end;
    connection *connections; // newest first
    http_counts counts;
};

// ---- Exchanges ----

static void exchange_drop(exchange *x) {
    if (atomic_fetch_sub(&x->refs, 1) > 1) return;
    pthread_mutex_destroy(&x->mutex);
    upg_buf_free(&x->body);
    upg_buf_free(&x->out);
    free(x->method);
    free(x->path);
    free(x->origin);
    free(x);
}

static char *duplicate(const char *text) {
    return upg_strdup(text, strlen(text), NULL);
}

static exchange *exchange_new(http *h, connection *c, struct MHD_Connection *mhd, const char *method,
                              const char *path) {
    exchange *x = upg_alloc(1, sizeof *x, NULL);
    if (!x) return NULL;
    pthread_mutex_init(&x->mutex, NULL);
    x->http = h;
    x->connection = c;
    x->mhd = mhd;
    x->refs = 1;
    x->started = upg_now();
    x->head = !strcmp(method, "HEAD");
    if (getrandom(&x->id, sizeof x->id, GRND_NONBLOCK) != sizeof x->id) x->id = (uint64_t)(upg_now() * 1e9);
    if (!(x->method = duplicate(method)) || !(x->path = duplicate(path))) {
        exchange_drop(x);
        return NULL;
    }
    return x;
}

// With the mutex held: the library goes on with the connection.
static void wake(exchange *x) {
    if (!x->suspended) return;
    x->suspended = false;
    MHD_resume_connection(x->mhd);
}

const char *exchange_path(const exchange *x) {
    return x->path;
}
const char *exchange_header(const exchange *x, const char *name) {
    return MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, name);
}
const char *exchange_query(const exchange *x, const char *name) {
    return MHD_lookup_connection_value(x->mhd, MHD_GET_ARGUMENT_KIND, name);
}
const char *exchange_body(const exchange *x, size_t *n) {
    *n = x->body.size;
    return x->body.data ? x->body.data : "";
}
uint64_t exchange_id(const exchange *x) {
    return x->id;
}
uint64_t exchange_client(const exchange *x) {
    return x->client;
}
const dialect *exchange_dialect(const exchange *x) {
    return x->dialect;
}

void exchange_set_header(exchange *x, const char *name, const char *value) {
    if (x->n_headers == N_HEADERS) return;
    x->headers[x->n_headers].name = name;
    snprintf(x->headers[x->n_headers++].value, sizeof x->headers[0].value, "%s", value);
}

void exchange_set_usage(exchange *x, const exchange_usage *usage) {
    pthread_mutex_lock(&x->mutex);
    x->usage = *usage;
    pthread_mutex_unlock(&x->mutex);
}

// The handler has no more part in it.
static void end_handling(exchange *x) {
    http *h = x->http;
    pthread_mutex_lock(&h->mutex);
    if (!--h->counts.exchanges) pthread_cond_broadcast(&h->idle);
    pthread_mutex_unlock(&h->mutex);
    exchange_drop(x);
}

void exchange_reply(exchange *x, int status, const char *type, upg_buf *body) {
    pthread_mutex_lock(&x->mutex);
    x->status = status;
    x->type = type;
    x->out = *body;
    *body = (upg_buf){0};
    if (x->out.failed) {
        upg_buf_free(&x->out);
        x->out = (upg_buf){0};
        x->status = 500;
        x->type = "text/plain";
    }
    x->ended = true;
    x->left = NULL;
    x->stage = STAGE_READY;
    wake(x);
    pthread_mutex_unlock(&x->mutex);
    end_handling(x);
}

void exchange_error(exchange *x, int status, const char *param, const char *fmt, ...) {
    char message[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    upg_buf b = {0};
    x->dialect->error(&b, status, message, param);
    if (status == 429) exchange_set_header(x, "Retry-After", "1");
    if (status == 503) exchange_set_header(x, "Retry-After", "5");
    exchange_reply(x, status, "application/json", &b);
}

void exchange_stream(exchange *x, const char *type) {
    pthread_mutex_lock(&x->mutex);
    x->status = 200;
    x->type = type;
    x->stream = true;
    x->stage = STAGE_READY;
    wake(x);
    pthread_mutex_unlock(&x->mutex);
}

// With the mutex held while it is told, so that what it is about is still there: an end takes the mutex too.
static void tell_left(exchange *x) {
    pthread_mutex_lock(&x->mutex);
    if (!x->gone && x->left) x->left(x->left_ctx);
    x->gone = true;
    x->left = NULL;
    pthread_mutex_unlock(&x->mutex);
}

void exchange_write(exchange *x, const void *data, size_t n) {
    pthread_mutex_lock(&x->mutex);
    bool slow = !x->gone && x->out.size - x->sent + n > OUT_MAX;
    if (!x->gone && !slow) {
        upg_buf_add(&x->out, data, n);
        x->bytes += n;
        slow = x->out.failed;
    }
    x->broken |= slow;
    wake(x);
    pthread_mutex_unlock(&x->mutex);
    if (slow) tell_left(x);
}

void exchange_end(exchange *x) {
    pthread_mutex_lock(&x->mutex);
    x->ended = true;
    x->left = NULL;
    wake(x);
    pthread_mutex_unlock(&x->mutex);
    end_handling(x);
}

void exchange_watch(exchange *x, void (*left)(void *ctx), void *ctx) {
    pthread_mutex_lock(&x->mutex);
    x->left = left;
    x->left_ctx = ctx;
    if (x->gone) left(ctx);
    pthread_mutex_unlock(&x->mutex);
}

// ---- Sending ----

// The library's question for more of a stream. Nothing yet: it is woken when there is.
static ssize_t read_stream(void *ctx, uint64_t at, char *to, size_t most) {
    (void)at;
    exchange *x = ctx;
    ssize_t result = 0;
    pthread_mutex_lock(&x->mutex);
    size_t n = x->out.size - x->sent;
    if (x->broken) {
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (n) {
        if (n > most) n = most;
        memcpy(to, x->out.data + x->sent, n);
        x->sent += n;
        result = (ssize_t)n;
        if (x->sent == x->out.size) x->sent = x->out.size = 0;
    } else if (x->ended) {
        result = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        x->suspended = true;
        MHD_suspend_connection(x->mhd);
    }
    pthread_mutex_unlock(&x->mutex);
    return result;
}

static void drop_stream(void *ctx) {
    exchange_drop(ctx);
}

static void add_headers(exchange *x, struct MHD_Response *r) {
    char id[32];
    snprintf(id, sizeof id, "%016llx", (unsigned long long)x->id);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, x->type ? x->type : "application/json");
    MHD_add_response_header(r, "X-Request-Id", id);
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (x->origin) {
        MHD_add_response_header(r, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_ORIGIN, x->origin);
        MHD_add_response_header(r, MHD_HTTP_HEADER_VARY, "Origin");
    }
    for (int i = 0; i < x->n_headers; i++) MHD_add_response_header(r, x->headers[i].name, x->headers[i].value);
}

static enum MHD_Result send_answer(exchange *x) {
    struct MHD_Response *r;
    const bool stream = x->stream && !x->head;
    if (stream) {
        atomic_fetch_add(&x->refs, 1);
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_stream, x, drop_stream);
        if (!r) exchange_drop(x);
    } else {
        // It lives as long as the exchange, and that until the request is completed.
        r = MHD_create_response_from_buffer(x->out.size, x->out.data ? x->out.data : "", MHD_RESPMEM_PERSISTENT);
    }
    if (!r) return MHD_NO;
    add_headers(x, r);
    x->stage = STAGE_SENDING;
    if (!stream) x->bytes = x->head ? 0 : x->out.size;
    enum MHD_Result result = MHD_queue_response(x->mhd, (unsigned)x->status, r);
    MHD_destroy_response(r);
    return result;
}

// ---- Requests ----

// An exchange that a handler is to end.
static void begin_handling(exchange *x) {
    http *h = x->http;
    atomic_fetch_add(&x->refs, 1);
    pthread_mutex_lock(&h->mutex);
    h->counts.exchanges++;
    pthread_mutex_unlock(&h->mutex);
}

static bool path_is(const route *r, const char *path) {
    size_t n = strlen(r->path);
    return !strcmp(r->path, path) || (n > 1 && r->path[n - 1] == '/' && !strncmp(r->path, path, n) && path[n]);
}

// The route; NULL: none, and allowed are the methods that the path has, if any.
static const route *find_route(const char *method, const char *path, char allowed[64]) {
    const char *wanted = !strcmp(method, "HEAD") ? "GET" : method;
    *allowed = 0;
    for (const route *r = server_routes; r->path; r++) {
        if (!path_is(r, path)) continue;
        if (!strcmp(r->method, wanted)) return r;
        if (!strstr(allowed, r->method))
            snprintf(allowed + strlen(allowed), 64 - strlen(allowed), "%s%s", *allowed ? ", " : "", r->method);
    }
    return NULL;
}

// Of a path that has no route.
static const dialect *dialect_near(const char *path) {
    if (!strncmp(path, "/v1/messages", 12)) return &dialect_anthropic;
    return !strncmp(path, "/api/", 5) ? &dialect_ollama : &dialect_openai;
}

static bool too_long(const http *h, const char *length) {
    char *end;
    if (!length) return false;
    errno = 0;
    unsigned long long n = strtoull(length, &end, 10);
    return errno || n > h->server->options->max_body;
}

// Answers a browser that asks whether a page of another origin may send what it wants to.
static void answer_preflight(exchange *x) {
    upg_buf none = {0};
    exchange_set_header(x, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS");
    exchange_set_header(x, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_HEADERS,
                        "authorization, content-type, x-api-key, anthropic-version, anthropic-beta");
    exchange_set_header(x, MHD_HTTP_HEADER_ACCESS_CONTROL_MAX_AGE, "600");
    exchange_reply(x, 204, "text/plain", &none);
}

static uint64_t client_of(const exchange *x, int key) {
    return key >= 0 ? (uint64_t)key : XXH3_64bits(x->connection->address, strlen(x->connection->address)) | 1ull << 63;
}

// What can be said of a request by its head. True if it was answered.
static bool refuse(exchange *x) {
    http *h = x->http;
    const char *host = exchange_header(x, "Host"), *origin = exchange_header(x, "Origin");
    char allowed[64];
    x->route = find_route(x->method, x->path, allowed);
    x->dialect = x->route ? x->route->dialect : dialect_near(x->path);
    begin_handling(x);
    if (!host || !guard_host(h->guard, host)) {
        exchange_error(x, host ? 403 : 400, NULL,
                       host ? "the Host header names another server: upg serve --allow-host NAME lets it"
                            : "no Host header");
        return true;
    }
    guard_origin_result from = origin ? guard_origin(h->guard, origin, host) : GUARD_ORIGIN_OWN;
    if (from == GUARD_ORIGIN_FOREIGN) {
        exchange_error(x, 403, NULL, "pages of this origin may not use the server: upg serve --cors ORIGIN lets them");
        return true;
    }
    if (from == GUARD_ORIGIN_LISTED) x->origin = duplicate(origin);
    if (!strcmp(x->method, "OPTIONS") && origin && (x->route || *allowed)) {
        answer_preflight(x);
        return true;
    }
    int key = guard_key(h->guard, exchange_header(x, "Authorization"), exchange_header(x, "x-api-key"));
    x->client = client_of(x, key);
    if (key < 0 && guard_has_keys(h->guard) && !(x->route && x->route->flags & ROUTE_OPEN)) {
        exchange_set_header(x, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
        exchange_error(x, 401, NULL, "an API key is needed, as Authorization: Bearer KEY or x-api-key: KEY");
    } else if (!x->route && *allowed) {
        exchange_set_header(x, MHD_HTTP_HEADER_ALLOW, allowed);
        exchange_error(x, 405, NULL, "%s takes %s", x->path, allowed);
    } else if (!x->route) {
        exchange_error(x, 404, NULL, "there is no %s here", x->path);
    } else if (too_long(h, exchange_header(x, "Content-Length"))) {
        exchange_error(x, 413, NULL, "the body has more than %zu bytes", h->server->options->max_body);
    } else {
        end_handling(x); // nothing to say yet
        return false;
    }
    return true;
}

static void enqueue(exchange *x) {
    http *h = x->http;
    pthread_mutex_lock(&h->mutex);
    x->next = NULL;
    *h->queue_end = x;
    h->queue_end = &x->next;
    pthread_cond_signal(&h->work);
    pthread_mutex_unlock(&h->mutex);
}

// From here on the watcher looks whether the client is there, and slowness is not its fault.
static void put_to_work(exchange *x) {
    http *h = x->http;
    connection *c = x->connection;
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLHUP | EPOLLERR, .data.u64 = x->id};
    pthread_mutex_lock(&h->mutex);
    c->at_work = x;
    epoll_ctl(h->epoll, EPOLL_CTL_ADD, c->fd, &event);
    pthread_mutex_unlock(&h->mutex);
}

static enum MHD_Result handle_whole(exchange *x) {
    put_to_work(x);
    begin_handling(x);
    x->stage = STAGE_WAITING;
    if (x->too_large) {
        exchange_error(x, 413, NULL, "the body has more than %zu bytes", x->http->server->options->max_body);
        return send_answer(x);
    }
    if (x->body.failed) {
        exchange_error(x, 500, NULL, "out of memory");
        return send_answer(x);
    }
    if (x->route->flags & ROUTE_LIGHT) {
        x->route->handle(x->http->server, x);
        return send_answer(x);
    }
    x->suspended = true;
    MHD_suspend_connection(x->mhd);
    enqueue(x);
    return MHD_YES;
}

static enum MHD_Result take_body(exchange *x, const char *data, size_t *n) {
    const size_t most = x->http->server->options->max_body;
    if (x->body.size + *n > most) {
        x->too_large = true; // what follows is thrown away, within reason
        x->sent += *n;
        if (x->sent > most) return MHD_NO;
    } else {
        upg_buf_add(&x->body, data, *n);
    }
    *n = 0;
    return MHD_YES;
}

// The library's call for a request: once for its head, for each part of its body, then until it has an answer.
static enum MHD_Result on_request(void *ctx, struct MHD_Connection *mhd, const char *path, const char *method,
                                  const char *version, const char *data, size_t *n, void **state) {
    (void)version;
    http *h = ctx;
    exchange *x = *state;
    if (!x) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        connection *c = info ? info->socket_context : NULL;
        if (!c || !(x = exchange_new(h, c, mhd, method, path))) return MHD_NO;
        *state = x;
        pthread_mutex_lock(&h->mutex);
        c->head_since = x->started;
        pthread_mutex_unlock(&h->mutex);
        return refuse(x) ? send_answer(x) : MHD_YES;
    }
    if (x->stage == STAGE_SENDING) { // refused by its head: the body is of no interest
        *n = 0;
        return MHD_YES;
    }
    if (*n) return take_body(x, data, n);
    if (x->stage == STAGE_BODY) {
        x->sent = 0;
        return handle_whole(x);
    }
    pthread_mutex_lock(&x->mutex);
    bool ready = x->stage == STAGE_READY;
    if (!ready) { // woken for nothing
        x->suspended = true;
        MHD_suspend_connection(mhd);
    }
    pthread_mutex_unlock(&x->mutex);
    return ready ? send_answer(x) : MHD_YES;
}

static void log_exchange(const exchange *x, bool complete) {
    access_entry entry = {.id = x->id,
                          .address = x->connection->address,
                          .method = x->method,
                          .path = x->path,
                          .status = x->status,
                          .bytes = x->bytes,
                          .seconds = upg_now() - x->started,
                          .complete = complete,
                          .usage = x->usage};
    if (x->http->log) access_log_write(x->http->log, &entry);
}

static void on_completed(void *ctx, struct MHD_Connection *mhd, void **state, enum MHD_RequestTerminationCode code) {
    (void)mhd;
    http *h = ctx;
    exchange *x = *state;
    if (!x) return;
    *state = NULL;
    connection *c = x->connection;
    pthread_mutex_lock(&h->mutex);
    if (c->at_work) epoll_ctl(h->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    c->at_work = NULL;
    c->head_since = 0;
    c->since = upg_now();
    bool complete = code == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    if (x->status > 0 && x->status < HTTP_STATUSES) h->counts.answers[x->status]++;
    h->counts.left += !complete;
    pthread_mutex_unlock(&h->mutex);
    pthread_mutex_lock(&x->mutex);
    x->completed = true;
    x->suspended = false;
    log_exchange(x, complete);
    pthread_mutex_unlock(&x->mutex);
    if (!complete) tell_left(x);
    exchange_drop(x);
}

// ---- Connections ----

// With the mutex held. The library notices, and closes it.
static void shut(http *h, connection *c) {
    if (c->shut) return;
    c->shut = true;
    h->counts.shut++;
    shutdown(c->fd, SHUT_RDWR);
}

static void make_room(http *h) {
    connection *oldest = NULL;
    for (connection *c = h->connections; c; c = c->next)
        if (!c->at_work && !c->shut) oldest = c;
    if (oldest) shut(h, oldest);
}

static void open_connection(http *h, struct MHD_Connection *mhd, void **state) {
    connection *c = upg_alloc(1, sizeof *c, NULL);
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (!c || !info) {
        free(c);
        return; // its requests will be refused
    }
    c->fd = info->connect_fd;
    c->since = upg_now();
    info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *a = info ? info->client_addr : NULL;
    if (a && a->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)a)->sin_addr, c->address, sizeof c->address);
    if (a && a->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, c->address, sizeof c->address);
    pthread_mutex_lock(&h->mutex);
    c->next = h->connections;
    if (c->next) c->next->previous = c;
    h->connections = c;
    // An eighth of all stays free for those who come: the oldest that has not asked anything yet gives way.
    if (++h->counts.connections > h->max_connections - h->max_connections / 8) make_room(h);
    pthread_mutex_unlock(&h->mutex);
    *state = c;
}

static void on_connection(void *ctx, struct MHD_Connection *mhd, void **state,
                          enum MHD_ConnectionNotificationCode code) {
    http *h = ctx;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        open_connection(h, mhd, state);
        return;
    }
    connection *c = *state;
    if (!c) return;
    *state = NULL;
    pthread_mutex_lock(&h->mutex);
    *(c->previous ? &c->previous->next : &h->connections) = c->next;
    if (c->next) c->next->previous = c->previous;
    h->counts.connections--;
    pthread_mutex_unlock(&h->mutex);
    free(c);
}

// ---- Threads ----

static void *work(void *ctx) {
    http *h = ctx;
    for (;;) {
        pthread_mutex_lock(&h->mutex);
        while (!h->queue && !h->stopping) pthread_cond_wait(&h->work, &h->mutex);
        exchange *x = h->queue;
        if (x && !(h->queue = x->next)) h->queue_end = &h->queue;
        pthread_mutex_unlock(&h->mutex);
        if (!x) return NULL;
        x->route->handle(h->server, x);
    }
}

static void shut_slow(http *h) {
    double now = upg_now(), most = h->server->options->read_seconds;
    pthread_mutex_lock(&h->mutex);
    for (connection *c = h->connections; c; c = c->next) {
        if (c->at_work) continue;
        bool slow = c->head_since > 0 ? now - c->head_since > most : now - c->since > most;
        if (slow) shut(h, c);
    }
    pthread_mutex_unlock(&h->mutex);
}

// The exchange of that id, with a reference; NULL if it is not at work any more.
static exchange *hold_at_work(http *h, uint64_t id) {
    exchange *x = NULL;
    pthread_mutex_lock(&h->mutex);
    for (connection *c = h->connections; c && !x; c = c->next) {
        if (!c->at_work || c->at_work->id != id) continue;
        x = c->at_work;
        atomic_fetch_add(&x->refs, 1);
        epoll_ctl(h->epoll, EPOLL_CTL_DEL, c->fd, NULL); // it is said once
    }
    pthread_mutex_unlock(&h->mutex);
    return x;
}

static void *watch(void *ctx) {
    http *h = ctx;
    struct epoll_event events[64];
    double swept = 0;
    for (;;) {
        pthread_mutex_lock(&h->mutex);
        bool stop = h->stopping;
        pthread_mutex_unlock(&h->mutex);
        if (stop) return NULL;
        int n = epoll_wait(h->epoll, events, 64, TICK_MS);
        for (int i = 0; i < n; i++) {
            exchange *x = hold_at_work(h, events[i].data.u64);
            if (!x) continue;
            tell_left(x);
            exchange_drop(x);
        }
        if (upg_now() - swept < TICK_MS * 1e-3) continue;
        swept = upg_now();
        shut_slow(h);
    }
}

// ---- Starting and stopping ----

static int listen_on(const char *host, int port, int *taken, upg_error *e) {
    char service[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
    snprintf(service, sizeof service, "%d", port);
    int rc = getaddrinfo(host, service, &hints, &found);
    if (rc) return upg_fail(e, "--host %s: %s", host, gai_strerror(rc));
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_storage own;
    socklen_t n = sizeof own;
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    bool ok = fd >= 0 && !bind(fd, found->ai_addr, found->ai_addrlen) && !listen(fd, BACKLOG) &&
              !getsockname(fd, (struct sockaddr *)&own, &n);
    freeaddrinfo(found);
    if (!ok) {
        upg_fail(e, "cannot listen at %s, port %d: %s", host, port, strerror(errno));
        if (fd >= 0) close(fd);
        return -1;
    }
    *taken = ntohs(own.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&own)->sin6_port
                                             : ((struct sockaddr_in *)(void *)&own)->sin_port);
    return fd;
}

// As many connections as there may be files, beside those that are needed anyway.
static int allowed_connections(int wanted) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files)) return wanted;
    if (files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &files)) getrlimit(RLIMIT_NOFILE, &files);
    }
    if (files.rlim_cur == RLIM_INFINITY || files.rlim_cur > (rlim_t)wanted + SPARE_FILES) return wanted;
    return files.rlim_cur > 2 * SPARE_FILES ? (int)files.rlim_cur - SPARE_FILES : SPARE_FILES;
}

static void say_nothing(void *ctx, const char *fmt, va_list args) {
    (void)ctx, (void)fmt, (void)args; // the library's remarks on clients' mistakes
}

static struct MHD_Daemon *start_daemon(http *h, const char *certificate, const char *key) {
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(uintptr_t)certificate},
                                   {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(uintptr_t)key},
                                   {MHD_OPTION_END, 0, NULL}};
    if (certificate)
        flags |= MHD_USE_TLS;
    else
        tls[0] = tls[2];
    return MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, h, MHD_OPTION_EXTERNAL_LOGGER, say_nothing, NULL, MHD_OPTION_LISTEN_SOCKET,
        h->listener, MHD_OPTION_CONNECTION_LIMIT, (unsigned)h->max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)IDLE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADER_BYTES, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, h, MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
}

static int start_tls_or_plain(http *h, upg_error *e) {
    enum { PEM_MAX = 1 << 20 };
    const server_options *o = h->server->options;
    size_t n;
    char *certificate = NULL, *key = NULL;
    if (o->tls_certificate && (!(certificate = upg_read_text(o->tls_certificate, PEM_MAX, &n, e)) ||
                               !(key = upg_read_text(o->tls_key, PEM_MAX, &n, e)))) {
        free(certificate);
        return -1;
    }
    h->daemon = start_daemon(h, certificate, key);
    free(certificate);
    free(key);
    if (h->daemon) h->listener = -1; // the library's
    return h->daemon ? 0
           : o->tls_certificate
               ? upg_fail(e, "%s, %s: no certificate and key that TLS can use", o->tls_certificate, o->tls_key)
               : upg_fail(e, "the HTTP server does not start: %s", strerror(errno));
}

static int start_threads(http *h, upg_error *e) {
    int rc = 0;
    for (; !rc && h->n_workers < N_WORKERS; h->n_workers += !rc)
        rc = pthread_create(&h->workers[h->n_workers], NULL, work, h);
    if (!rc) rc = pthread_create(&h->watcher, NULL, watch, h);
    h->has_watcher = !rc;
    return rc ? upg_fail(e, "cannot start a thread: %s", strerror(rc)) : 0;
}

http *http_start(server *s, guard *g, access_log *log, int *port, upg_error *e) {
    http *h = upg_alloc(1, sizeof *h, e);
    if (!h) return NULL;
    h->server = s;
    h->guard = g;
    h->log = log;
    h->listener = -1;
    h->queue_end = &h->queue;
    h->max_connections = allowed_connections(s->options->max_connections);
    pthread_mutex_init(&h->mutex, NULL);
    pthread_cond_init(&h->work, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&h->idle, &monotonic);
    pthread_condattr_destroy(&monotonic);
    h->epoll = epoll_create1(EPOLL_CLOEXEC);
    int rc = h->epoll < 0 ? upg_fail(e, "epoll: %s", strerror(errno)) : 0;
    if (!rc) rc = (h->listener = listen_on(s->options->host, s->options->port, port, e)) < 0 ? -1 : 0;
    if (!rc) rc = start_threads(h, e);
    if (!rc) rc = start_tls_or_plain(h, e);
    if (!rc) return h;
    http_free(h);
    return NULL;
}

void http_quiesce(http *h) {
    int fd = MHD_quiesce_daemon(h->daemon);
    if (fd >= 0) close(fd);
}

bool http_wait(http *h, double seconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)seconds + 1;
    int rc = 0;
    pthread_mutex_lock(&h->mutex);
    while (h->counts.exchanges && rc != ETIMEDOUT) rc = pthread_cond_timedwait(&h->idle, &h->mutex, &until);
    bool none = !h->counts.exchanges;
    pthread_mutex_unlock(&h->mutex);
    return none;
}

// Whether an answer is still on its way to a client.
static bool sending(http *h) {
    bool any = false;
    pthread_mutex_lock(&h->mutex);
    for (const connection *c = h->connections; c && !any; c = c->next) any = c->at_work;
    pthread_mutex_unlock(&h->mutex);
    return any;
}

void http_free(http *h) {
    if (!h) return;
    for (int i = 0; h->daemon && i < 200 && sending(h); i++) usleep(10000);
    if (h->daemon) MHD_stop_daemon(h->daemon);
    pthread_mutex_lock(&h->mutex);
    h->stopping = true;
    pthread_cond_broadcast(&h->work);
    pthread_mutex_unlock(&h->mutex);
    for (int i = 0; i < h->n_workers; i++) pthread_join(h->workers[i], NULL);
    if (h->has_watcher) pthread_join(h->watcher, NULL);
    if (h->listener >= 0) close(h->listener);
    if (h->epoll >= 0) close(h->epoll);
    pthread_mutex_destroy(&h->mutex);
    pthread_cond_destroy(&h->work);
    pthread_cond_destroy(&h->idle);
    free(h);
}

void http_count(http *h, http_counts *counts) {
    pthread_mutex_lock(&h->mutex);
    *counts = h->counts;
    pthread_mutex_unlock(&h->mutex);
}
