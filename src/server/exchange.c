// Exchanges: what handlers see of a request, and how they answer it. See server.h.
//
// An exchange lives as long as one of three needs it: the network (until libmicrohttpd says that it is through with the
// request), the handler (until it has ended the exchange), and a response in parts. Whoever is last writes the line of
// the access log. The request's headers are copied, so that handlers may read them on any thread.
#include "server/http.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <xxhash.h>

// ---- The request ----

typedef struct copying {
    exchange *x;
    upg_buf *to;
} copying;

static enum MHD_Result copy_value(void *ctx, enum MHD_ValueKind kind, const char *name, size_t n_name,
                                  const char *value, size_t n_value) {
    copying *c = ctx;
    exchange *x = c->x;
    (void)kind;
    if (!name || memchr(name, 0, n_name) || (value && memchr(value, 0, n_value))) {
        x->broken = true;
        return MHD_YES;
    }
    upg_buf_add(c->to, name, n_name);
    upg_buf_add(c->to, "", 1);
    if (value) upg_buf_add(c->to, value, n_value);
    upg_buf_add(c->to, "", 1);
    if (c->to != &x->headers) return MHD_YES;
    x->n_hosts += !strcasecmp(name, "host");
    x->n_lengths += !strcasecmp(name, "content-length");
    return MHD_YES;
}

static const char *find_value(const upg_buf *b, const char *name, bool any_case) {
    for (size_t at = 0; at < b->size;) {
        const char *n = b->data + at, *value = n + strlen(n) + 1;
        if (any_case ? !strcasecmp(n, name) : !strcmp(n, name)) return value;
        at = (size_t)(value + strlen(value) + 1 - b->data);
    }
    return NULL;
}

static void client_address(exchange *x, struct MHD_Connection *c) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *a = info ? info->client_addr : NULL;
    const void *bytes = NULL;
    if (a && a->sa_family == AF_INET) bytes = &((const struct sockaddr_in *)(const void *)a)->sin_addr;
    if (a && a->sa_family == AF_INET6) bytes = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
    if (!bytes || !inet_ntop(a->sa_family, bytes, x->address, sizeof x->address)) strcpy(x->address, "?");
    x->client = XXH3_64bits_withSeed(x->address, strlen(x->address), x->http->id_seed);
}

// Numbers that look random and do not repeat: splitmix64.
static uint64_t next_id(http *h) {
    uint64_t z = h->id_seed + atomic_fetch_add(&h->n_ids, 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static void read_head(exchange *x, struct MHD_Connection *c) {
    MHD_get_connection_values_n(c, MHD_HEADER_KIND, copy_value, &(copying){x, &x->headers});
    MHD_get_connection_values_n(c, MHD_GET_ARGUMENT_KIND, copy_value, &(copying){x, &x->query});
    const char *length = exchange_header(x, "Content-Length"), *coding = exchange_header(x, "Transfer-Encoding");
    if (length) x->length = strtoull(length, NULL, 10); // libmicrohttpd has refused what is no number
    // Two opinions about where the request ends are how one request is smuggled within another.
    if (x->n_hosts > 1 || x->n_lengths > 1 || (coding && (length || strcasecmp(coding, "chunked")))) x->broken = true;
}

static void free_exchange(exchange *x) {
    http *h = x->http;
    atomic_fetch_sub(&h->body_bytes, x->body.size);
    upg_buf_free(&x->headers);
    upg_buf_free(&x->query);
    upg_buf_free(&x->body);
    upg_buf_free(&x->answer_headers);
    upg_buf_free(&x->out);
    pthread_mutex_destroy(&x->lock);
    pthread_mutex_destroy(&x->watch_lock);
    free(x->path);
    free(x);
    pthread_mutex_lock(&h->lock);
    if (!--h->n_exchanges) pthread_cond_broadcast(&h->none_left);
    pthread_mutex_unlock(&h->lock);
}

exchange *exchange_new(http *h, struct MHD_Connection *c, const char *path, const char *method, const char *version) {
    exchange *x = upg_alloc(1, sizeof *x, NULL);
    if (!x) return NULL;
    x->http = h;
    pthread_mutex_lock(&h->lock);
    h->n_exchanges++;
    pthread_mutex_unlock(&h->lock);
    x->refs = 1;
    x->id = next_id(h);
    x->started = upg_now();
    x->connection = c;
    x->old = !strcmp(version, MHD_HTTP_VERSION_1_0);
    x->dialect = &dialect_openai;
    snprintf(x->method, sizeof x->method, "%s", method);
    pthread_mutex_init(&x->lock, NULL);
    pthread_mutexattr_t again;
    pthread_mutexattr_init(&again);
    pthread_mutexattr_settype(&again, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&x->watch_lock, &again);
    pthread_mutexattr_destroy(&again);
    client_address(x, c);
    read_head(x, c);
    x->path = upg_strdup(path, strlen(path), NULL);
    if (x->path && !x->headers.failed && !x->query.failed) return x;
    x->connection = NULL;
    free_exchange(x);
    return NULL;
}

static void log_exchange(exchange *x) {
    http *h = x->http;
    int status = x->answered ? x->status : 499; // as nginx calls a client that left before its answer
    pthread_mutex_lock(&h->lock);
    if (status > 0 && status < HTTP_STATUSES) h->counts.answers[status]++;
    h->counts.left += !x->whole;
    pthread_mutex_unlock(&h->lock);
    access_entry entry = {.id = x->id,
                          .address = x->address,
                          .method = x->method,
                          .path = x->path,
                          .status = status,
                          .bytes = strcmp(x->method, "HEAD") ? x->bytes : 0,
                          .seconds = upg_now() - x->started,
                          .complete = x->whole,
                          .usage = x->usage};
    if (h->log) access_log_write(h->log, &entry);
}

void exchange_release(exchange *x) {
    if (atomic_fetch_sub(&x->refs, 1) != 1) return;
    log_exchange(x);
    free_exchange(x);
}

const char *exchange_path(const exchange *x) {
    return x->path;
}
const char *exchange_header(const exchange *x, const char *name) {
    return find_value(&x->headers, name, true);
}
const char *exchange_query(const exchange *x, const char *name) {
    return find_value(&x->query, name, false);
}
const char *exchange_body(const exchange *x, size_t *n) {
    *n = x->body.size;
    return x->body.size ? x->body.data : "";
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

// ---- The answer ----

void exchange_set_header(exchange *x, const char *name, const char *value) {
    upg_buf_add(&x->answer_headers, name, strlen(name) + 1);
    upg_buf_add(&x->answer_headers, value, strlen(value) + 1);
}

static void resume(exchange *x) { // under x->lock
    if (!x->suspended) return;
    x->suspended = false;
    MHD_resume_connection(x->connection);
}

// Gives the network its response; NULL makes it close the connection. Without a client it is dropped.
static void respond(exchange *x, int status, const char *type, struct MHD_Response *r) {
    char id[17];
    snprintf(id, sizeof id, "%016llx", (unsigned long long)x->id);
    if (r) {
        if (type) MHD_add_response_header(r, "Content-Type", type);
        MHD_add_response_header(r, "X-Request-Id", id);
        MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
        if (server_draining(x->http->server)) MHD_add_response_header(r, "Connection", "close");
        for (size_t at = 0; at < x->answer_headers.size && !x->answer_headers.failed;) {
            const char *name = x->answer_headers.data + at, *value = name + strlen(name) + 1;
            MHD_add_response_header(r, name, value);
            at = (size_t)(value + strlen(value) + 1 - x->answer_headers.data);
        }
    }
    pthread_mutex_lock(&x->lock);
    bool wanted = x->connection != NULL;
    if (wanted) x->response = r;
    x->answered = wanted && r;
    x->status = status;
    resume(x);
    pthread_mutex_unlock(&x->lock);
    if (r && !wanted) MHD_destroy_response(r);
}

static void answer(exchange *x, int status, const char *type, upg_buf *body) {
    struct MHD_Response *r = NULL;
    if (body->failed) {
        static const char text[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\"}}";
        upg_buf_free(body);
        status = 500;
        type = "application/json";
        x->bytes = sizeof text - 1;
        r = MHD_create_response_from_buffer(sizeof text - 1, (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
    } else {
        x->bytes = body->size;
        r = MHD_create_response_from_buffer(body->size, body->data, MHD_RESPMEM_MUST_FREE);
        if (!r) upg_buf_free(body);
    }
    *body = (upg_buf){0};
    respond(x, status, type, r);
}

static void answer_error(exchange *x, int status, const char *param, const char *fmt, va_list ap) {
    char message[1024], seconds[16];
    vsnprintf(message, sizeof message, fmt, ap);
    upg_mend_utf8(message); // a path is whatever bytes, and long texts are cut
    if (status == 401) exchange_set_header(x, "WWW-Authenticate", "Bearer");
    if (status == 429 || status == 503) {
        snprintf(seconds, sizeof seconds, "%d", server_retry_after(x->http->server));
        exchange_set_header(x, "Retry-After", seconds);
    }
    upg_buf body = {0};
    x->dialect->error(&body, status, message, param);
    answer(x, status, "application/json", &body);
}

void exchange_refuse(exchange *x, int status, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    answer_error(x, status, NULL, fmt, ap);
    va_end(ap);
}

void exchange_answer_empty(exchange *x, int status) {
    upg_buf none = {0};
    answer(x, status, NULL, &none);
}

// The handler's last act.
static void end(exchange *x) {
    pthread_mutex_lock(&x->watch_lock);
    x->left = NULL;
    pthread_mutex_unlock(&x->watch_lock);
    pthread_mutex_lock(&x->lock);
    x->ended = true;
    if (x->streaming) resume(x);
    pthread_mutex_unlock(&x->lock);
    exchange_release(x);
}

void exchange_reply(exchange *x, int status, const char *type, upg_buf *body) {
    answer(x, status, type, body);
    end(x);
}

void exchange_error(exchange *x, int status, const char *param, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    answer_error(x, status, param, fmt, ap);
    va_end(ap);
    end(x);
}

// ---- Answers in parts ----

// Called by the network's thread when the socket takes more. With nothing to give, the connection is suspended; the
// next part resumes it.
static ssize_t next_part(void *ctx, uint64_t position, char *to, size_t max) {
    exchange *x = ctx;
    (void)position;
    ssize_t n = 0;
    pthread_mutex_lock(&x->lock);
    size_t there = x->out.size - x->out_at;
    if (x->gone || x->out.failed) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (there) {
        size_t take = there < max ? there : max;
        memcpy(to, x->out.data + x->out_at, take);
        x->out_at += take;
        if (x->out_at == x->out.size) x->out.size = x->out_at = 0;
        n = (ssize_t)take;
    } else if (x->ended) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        x->suspended = true;
        MHD_suspend_connection(x->connection);
    }
    pthread_mutex_unlock(&x->lock);
    return n;
}

static void response_freed(void *ctx) {
    exchange_release(ctx);
}

void exchange_stream(exchange *x, const char *type) {
    enum { BLOCK = 16 << 10 };
    exchange_set_header(x, "Cache-Control", "no-cache");
    exchange_set_header(x, "X-Accel-Buffering", "no"); // or nginx before us would collect the parts
    x->streaming = true;
    atomic_fetch_add(&x->refs, 1);
    struct MHD_Response *r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, next_part, x, response_freed);
    if (!r) exchange_release(x);
    respond(x, 200, type, r);
}

// Forgets what has been taken, so that the buffer is as long as what is pending.
static void compact(exchange *x) {
    if (x->out_at < x->out.size / 2) return;
    memmove(x->out.data, x->out.data + x->out_at, x->out.size - x->out_at);
    x->out.size -= x->out_at;
    x->out_at = 0;
}

void exchange_write(exchange *x, const void *data, size_t n) {
    if (!n) return;
    pthread_mutex_lock(&x->lock);
    bool lost = false;
    if (!x->gone) {
        if (x->out_at) compact(x);
        upg_buf_add(&x->out, data, n);
        x->bytes += n;
        lost = x->out.failed || x->out.size - x->out_at > EXCHANGE_MAX_PENDING;
        if (!lost) resume(x);
    }
    pthread_mutex_unlock(&x->lock);
    if (lost) exchange_gone(x);
}

void exchange_end(exchange *x) {
    end(x);
}

void exchange_set_usage(exchange *x, const exchange_usage *usage) {
    x->usage = *usage;
}

// ---- A client that leaves ----

void exchange_call_left(exchange *x) {
    pthread_mutex_lock(&x->watch_lock);
    void (*left)(void *) = x->left;
    x->left = NULL;
    if (left) left(x->left_ctx);
    pthread_mutex_unlock(&x->watch_lock);
}

void exchange_watch(exchange *x, void (*left)(void *ctx), void *ctx) {
    pthread_mutex_lock(&x->watch_lock);
    x->left = left;
    x->left_ctx = ctx;
    if (x->gone) exchange_call_left(x);
    pthread_mutex_unlock(&x->watch_lock);
}

void exchange_gone(exchange *x) {
    pthread_mutex_lock(&x->lock);
    x->gone = true;
    upg_buf_free(&x->out);
    x->out_at = 0;
    if (x->streaming && x->answered) resume(x); // for the network to see it, and close
    pthread_mutex_unlock(&x->lock);
    exchange_call_left(x);
}

void exchange_completed(exchange *x, bool whole) {
    pthread_mutex_lock(&x->lock);
    struct MHD_Response *unsent = x->response;
    x->response = NULL;
    x->connection = NULL;
    x->suspended = false;
    bool early = x->dispatched && !x->ended;
    // A client that has all of it may go before this is known.
    x->whole = whole;
    if (!whole) x->gone = true;
    pthread_mutex_unlock(&x->lock);
    if (unsent) MHD_destroy_response(unsent);
    if (early) exchange_gone(x);
}
