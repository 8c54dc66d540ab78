// The network side: libmicrohttpd, who is let in, and the workers. Nothing here knows a dialect.
//
// A request goes through three calls of libmicrohttpd: its head (admit: everything that can refuse it is checked before
// the body is taken), its body in parts, its end (dispatch: a light route is answered at once, any other suspends the
// connection and goes to a worker). When the exchange is resumed, with an answer, there is a fourth call, which queues
// it. A refused request is read to its end and then answered, so that the connection goes on, unless its body is long
// or waits to be asked for (Expect: 100-continue): then the answer is sent at once and the connection ends.
#include "server/http.h"
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    HEAD_BYTES = 32 << 10,   // of a request, and of what libmicrohttpd remembers of it
    STALL_SECONDS = 120,     // of a client that takes nothing of its answer
    DISCARD_BYTES = 1 << 20, // of a refused request's body
    ALL_BODIES = 256 << 20,  // of all requests at a time, or 8 of the longest
    OTHER_FILES = 128,       // that are not connections
    MOST_CONNECTIONS = 4096, // if nothing else is said
    FEWEST_CONNECTIONS = 16,
};

// ---- Routes ----

static bool path_matches(const route *r, const char *path) {
    size_t n = strlen(r->path);
    if (n > 1 && r->path[n - 1] == '/') return !strncmp(path, r->path, n);
    return !strcmp(path, r->path);
}

static bool method_matches(const route *r, const char *method) {
    return !strcmp(r->method, method) || (!strcmp(method, "HEAD") && !strcmp(r->method, "GET"));
}

// The route of path and method, if there is one; the longest path counts. allowed: the methods that there are.
static const route *find_route(const char *path, const char *method, upg_buf *allowed) {
    const route *found = NULL;
    for (const route *r = server_routes; r->path; r++) {
        if (!path_matches(r, path)) continue;
        upg_buf_fmt(allowed, "%s%s%s", allowed->size ? ", " : "", r->method, strcmp(r->method, "GET") ? "" : ", HEAD");
        if (method_matches(r, method) && (!found || strlen(r->path) > strlen(found->path))) found = r;
    }
    return found;
}

static const dialect *dialect_of(const char *path) {
    if (!strncmp(path, "/v1/messages", 12)) return &dialect_anthropic;
    if (!strncmp(path, "/api/", 5)) return &dialect_ollama;
    return &dialect_openai;
}

// ---- Who is let in: each says whether the request may go on ----

static bool check_head(exchange *x) {
    const char *host = exchange_header(x, "Host");
    if (x->broken) {
        exchange_set_header(x, "Connection", "close");
        exchange_refuse(x, 400, "the request's headers contradict each other");
    } else if (!host && !x->old) {
        exchange_refuse(x, 400, "the Host header is missing");
    } else if (host && !guard_host(x->http->guard, host)) {
        exchange_refuse(x, 403, "this server does not answer to the name in the Host header (--allow-host adds names)");
    }
    return !x->response;
}

// Headers that let a page of another site read the answer, if it may.
static bool check_origin(exchange *x, bool *listed) {
    const char *origin = exchange_header(x, "Origin");
    if (!origin) return true;
    guard_origin is = guard_check_origin(x->http->guard, origin, exchange_header(x, "Host"), x->http->tls);
    *listed = is == GUARD_LISTED || is == GUARD_ANY;
    if (is == GUARD_FOREIGN) exchange_refuse(x, 403, "pages of this origin may not use this server (--cors adds some)");
    if (!*listed) return is != GUARD_FOREIGN;
    exchange_set_header(x, "Access-Control-Allow-Origin", is == GUARD_ANY ? "*" : origin);
    exchange_set_header(x, "Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
    exchange_set_header(x, "Vary", "Origin");
    return true;
}

// Of the headers that a page wants to send, only what is a list of names is repeated.
static bool is_header_list(const char *s) {
    return strlen(s) <= 1024 &&
           strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_, ") == strlen(s);
}

static void answer_options(exchange *x, const char *allowed, bool listed) {
    const char *headers = exchange_header(x, "Access-Control-Request-Headers");
    exchange_set_header(x, "Allow", allowed);
    if (listed) {
        exchange_set_header(x, "Access-Control-Allow-Methods", allowed);
        if (headers && is_header_list(headers)) exchange_set_header(x, "Access-Control-Allow-Headers", headers);
        exchange_set_header(x, "Access-Control-Max-Age", "600");
    }
    exchange_answer_empty(x, 204);
}

static bool check_route(exchange *x, bool listed) {
    upg_buf allowed = {0};
    x->route = find_route(x->path, x->method, &allowed);
    bool there = allowed.size > 0;
    upg_buf_str(&allowed, ", OPTIONS");
    if (x->route && x->route->dialect) x->dialect = x->route->dialect;
    if (!there) {
        exchange_refuse(x, 404, "there is nothing at this path");
    } else if (!strcmp(x->method, "OPTIONS")) {
        answer_options(x, allowed.failed ? "OPTIONS" : allowed.data, listed);
    } else if (!x->route) {
        if (!allowed.failed) exchange_set_header(x, "Allow", allowed.data);
        exchange_refuse(x, 405, "this path does not take %s", x->method);
    }
    upg_buf_free(&allowed);
    return !x->response;
}

static bool check_key(exchange *x) {
    guard *g = x->http->guard;
    if (x->route->flags & ROUTE_OPEN || !guard_has_keys(g)) return true;
    const char *authorization = exchange_header(x, "Authorization"), *key = exchange_header(x, "x-api-key");
    if (guard_key(g, authorization, key, &x->client)) return true;
    exchange_refuse(x, 401, "%s", authorization || key ? "this API key is not known" : "an API key is needed");
    return false;
}

static bool check_body(exchange *x) {
    const char *coding = exchange_header(x, "Content-Encoding");
    size_t max = x->http->server->options->max_body;
    if (coding && *coding && strcasecmp(coding, "identity"))
        exchange_refuse(x, 415, "request bodies in a Content-Encoding are not taken");
    else if (x->length > max)
        exchange_refuse(x, 413, "the request has more than %zu bytes", max);
    return !x->response;
}

static void admit(exchange *x) {
    bool listed = false;
    x->dialect = dialect_of(x->path);
    if (check_head(x) && check_origin(x, &listed) && check_route(x, listed) && check_key(x)) check_body(x);
}

// ---- A request's way ----

static enum MHD_Result queue(exchange *x, struct MHD_Connection *c) {
    pthread_mutex_lock(&x->lock);
    struct MHD_Response *r = x->response;
    x->response = NULL;
    pthread_mutex_unlock(&x->lock);
    if (!r) return MHD_NO;
    enum MHD_Result result = MHD_queue_response(c, (unsigned)x->status, r);
    MHD_destroy_response(r);
    return result;
}

static enum MHD_Result begin(http *h, struct MHD_Connection *c, const char *path, const char *method,
                             const char *version, void **context) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    peer *p = info ? info->socket_context : NULL;
    exchange *x = p ? exchange_new(h, c, path, method, version) : NULL;
    if (!x) return MHD_NO;
    *context = x;
    x->peer = p;
    peer_head_arrived(h, p);
    admit(x);
    bool at_once = x->broken || x->length > DISCARD_BYTES || exchange_header(x, "Expect");
    if (!x->response || !at_once) return MHD_YES;
    p->linger = true;
    return queue(x, c);
}

static enum MHD_Result receive(exchange *x, const char *data, size_t n) {
    http *h = x->http;
    size_t max = h->server->options->max_body;
    x->received += n;
    // Without a Content-Length the end is not known: what is refused is read on for a while, then cut off.
    if (x->response) return x->received <= max + DISCARD_BYTES ? MHD_YES : MHD_NO;
    size_t all = 8 * max > ALL_BODIES ? 8 * max : ALL_BODIES;
    if (x->received > max) {
        exchange_refuse(x, 413, "the request has more than %zu bytes", max);
    } else if (atomic_fetch_add(&h->body_bytes, n) + n > all) {
        atomic_fetch_sub(&h->body_bytes, n);
        exchange_refuse(x, 503, "too many long requests at a time");
    } else {
        upg_buf_add(&x->body, data, n);
        if (!x->body.failed) return MHD_YES;
        atomic_fetch_sub(&h->body_bytes, n);
        exchange_refuse(x, 503, "out of memory");
    }
    atomic_fetch_sub(&h->body_bytes, x->body.size);
    upg_buf_free(&x->body);
    return MHD_YES;
}

static void add_job(http *h, exchange *x) {
    pthread_mutex_lock(&h->jobs_lock);
    x->next_job = NULL;
    if (h->jobs)
        h->last_job->next_job = x;
    else
        h->jobs = x;
    h->last_job = x;
    pthread_cond_signal(&h->jobs_changed);
    pthread_mutex_unlock(&h->jobs_lock);
}

static enum MHD_Result dispatch(exchange *x, struct MHD_Connection *c) {
    http *h = x->http;
    if (!(x->route->flags & ROUTE_LIGHT) && server_draining(h->server)) {
        exchange_refuse(x, 503, "the server is about to stop");
        return queue(x, c);
    }
    x->dispatched = true;
    atomic_fetch_add(&x->refs, 1); // the handler's
    if (x->route->flags & ROUTE_LIGHT) {
        x->route->handle(h->server, x);
        return queue(x, c);
    }
    watch_add(h, x);
    pthread_mutex_lock(&x->lock);
    x->suspended = true;
    MHD_suspend_connection(c);
    pthread_mutex_unlock(&x->lock);
    add_job(h, x);
    return MHD_YES;
}

static enum MHD_Result handle(void *ctx, struct MHD_Connection *c, const char *path, const char *method,
                              const char *version, const char *data, size_t *n, void **context) {
    exchange *x = *context;
    if (!x) return begin(ctx, c, path, method, version, context);
    if (*n) {
        size_t size = *n;
        *n = 0;
        return receive(x, data, size);
    }
    if (!x->dispatched && !x->response) {
        peer_busy(ctx, x->peer);
        return dispatch(x, c);
    }
    if (!x->dispatched) peer_busy(ctx, x->peer);
    return queue(x, c); // also where it was resumed for the end of all connections: then there is no response
}

static void completed(void *ctx, struct MHD_Connection *c, void **context, enum MHD_RequestTerminationCode code) {
    exchange *x = *context;
    (void)c;
    if (!x) return;
    *context = NULL;
    watch_remove(ctx, x);
    exchange_completed(x, code == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    peer_waits(ctx, x->peer);
    exchange_release(x);
}

static void connected(void *ctx, struct MHD_Connection *c, void **context, enum MHD_ConnectionNotificationCode code) {
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        *context = info ? peer_new(ctx, info->connect_fd) : NULL;
    } else if (*context) {
        peer_free(ctx, *context);
        *context = NULL;
    }
}

// ---- Workers ----

static void *work(void *ctx) {
    http *h = ctx;
    for (;;) {
        pthread_mutex_lock(&h->jobs_lock);
        while (!h->jobs && !h->jobs_end) pthread_cond_wait(&h->jobs_changed, &h->jobs_lock);
        exchange *x = h->jobs;
        if (x) h->jobs = x->next_job;
        pthread_mutex_unlock(&h->jobs_lock);
        if (!x) return NULL;
        x->route->handle(h->server, x);
    }
}

static int start_workers(http *h, upg_error *e) {
    for (; h->n_workers < (int)(sizeof h->workers / sizeof *h->workers); h->n_workers++) {
        int failed = pthread_create(&h->workers[h->n_workers], NULL, work, h);
        if (failed) return upg_fail(e, "cannot make a thread: %s", strerror(failed));
    }
    return 0;
}

void http_end_jobs(http *h) {
    pthread_mutex_lock(&h->jobs_lock);
    h->jobs_end = true;
    pthread_cond_broadcast(&h->jobs_changed);
    pthread_mutex_unlock(&h->jobs_lock);
    while (h->n_workers) pthread_join(h->workers[--h->n_workers], NULL);
}

// ---- Listening ----

static int listen_at(const struct addrinfo *a) {
    int on = 1, off = 0;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a->ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off); // "::" takes IPv4 too
    if (!bind(fd, a->ai_addr, a->ai_addrlen) && !listen(fd, SOMAXCONN)) return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

int http_listen(const char *host, int *port, upg_error *e) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    char service[8];
    int fd = -1;
    snprintf(service, sizeof service, "%d", *port);
    host = host ? host : "127.0.0.1";
    int failed = getaddrinfo(host, service, &hints, &list);
    if (failed) return upg_fail(e, "%s: %s", host, failed == EAI_SYSTEM ? strerror(errno) : gai_strerror(failed));
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) fd = listen_at(a);
    int why = errno;
    freeaddrinfo(list);
    if (fd < 0) return upg_fail(e, "cannot listen at %s port %d: %s", host, *port, strerror(why));
    if (!getsockname(fd, (struct sockaddr *)&bound, &size))
        *port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&bound)->sin6_port
                                                  : ((struct sockaddr_in *)(void *)&bound)->sin_port);
    return fd;
}

// As many connections as files may be open, if nothing else is said.
static int count_connections(int wanted) {
    struct rlimit limit;
    int most = MOST_CONNECTIONS;
    if (!getrlimit(RLIMIT_NOFILE, &limit)) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < INT32_MAX)
            most = (int)limit.rlim_cur - OTHER_FILES;
    }
    int n = wanted > 0 ? wanted : MOST_CONNECTIONS;
    n = n < most ? n : most;
    return n > FEWEST_CONNECTIONS ? n : FEWEST_CONNECTIONS;
}

// ---- Starting and stopping ----

// What libmicrohttpd says while it starts is why it could not. Later it only tells of clients' mistakes.
static void note(void *ctx, const char *fmt, va_list ap) {
    upg_error *e = ctx;
    if (!e->message[0]) vsnprintf(e->message, sizeof e->message, fmt, ap);
    e->message[strcspn(e->message, "\n")] = 0;
}

http *http_new(server *s, guard *g, access_log *log, upg_error *e) {
    http *h = upg_alloc(1, sizeof *h, e);
    if (!h) return NULL;
    h->server = s;
    h->guard = g;
    h->log = log;
    h->epoll = h->wake = -1;
    h->waiting.prev = h->waiting.next = &h->waiting;
    h->max_connections = count_connections(s->options->max_connections);
    pthread_mutex_init(&h->lock, NULL);
    pthread_mutex_init(&h->jobs_lock, NULL);
    pthread_cond_init(&h->jobs_changed, NULL);
    pthread_cond_init(&h->none_left, NULL);
    if (getrandom(&h->id_seed, sizeof h->id_seed, 0) != sizeof h->id_seed) h->id_seed = (uint64_t)time(NULL);
    return h;
}

int http_start(http *h, int listener, const char *certificate, const char *key, upg_error *e) {
    if (watch_start(h, e) || start_workers(h, e)) {
        close(listener);
        return -1;
    }
    h->tls = certificate != NULL;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(uintptr_t)certificate},
                                   {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(uintptr_t)key},
                                   {MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    h->daemon = MHD_start_daemon(
        flags | (h->tls ? MHD_USE_TLS : 0), 0, NULL, NULL, handle, h, MHD_OPTION_EXTERNAL_LOGGER, note, &h->note,
        MHD_OPTION_LISTEN_SOCKET, listener, MHD_OPTION_NOTIFY_COMPLETED, completed, h, MHD_OPTION_NOTIFY_CONNECTION,
        connected, h, MHD_OPTION_CONNECTION_LIMIT, (unsigned)h->max_connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)HEAD_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)STALL_SECONDS, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_ARRAY, h->tls ? tls : none, MHD_OPTION_END);
    if (!h->daemon)
        return upg_fail(e, "cannot serve: %s", h->note.message[0] ? h->note.message : "libmicrohttpd does not start");
    return 0;
}

void http_count(http *h, http_counts *counts) {
    pthread_mutex_lock(&h->lock);
    *counts = h->counts;
    counts->connections = h->n_peers;
    pthread_mutex_unlock(&h->lock);
}

int http_running(http *h) {
    pthread_mutex_lock(&h->lock);
    int n = h->n_running;
    pthread_mutex_unlock(&h->lock);
    return n;
}

// libmicrohttpd must not be stopped while a connection is suspended.
static void resume_all(http *h) {
    pthread_mutex_lock(&h->lock);
    for (exchange *x = h->running; x; x = x->next_running) {
        pthread_mutex_lock(&x->lock);
        x->gone = true;
        if (x->suspended) MHD_resume_connection(x->connection);
        x->suspended = false;
        pthread_mutex_unlock(&x->lock);
    }
    pthread_mutex_unlock(&h->lock);
}

void http_stop(http *h) {
    if (h->daemon) {
        resume_all(h);
        MHD_stop_daemon(h->daemon);
    }
    h->daemon = NULL;
    http_end_jobs(h);
    watch_stop(h);
}

void http_free(http *h) {
    if (!h) return;
    pthread_mutex_lock(&h->lock);
    while (h->n_exchanges) pthread_cond_wait(&h->none_left, &h->lock);
    pthread_mutex_unlock(&h->lock);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->none_left);
    pthread_mutex_destroy(&h->jobs_lock);
    pthread_cond_destroy(&h->jobs_changed);
    free(h);
}
