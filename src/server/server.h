// The HTTP server: what its parts share. http.c moves bytes and knows no dialect; a dialect (one file each, and lines
// in the table of routes.c) turns a body into requests of the scheduler and events back into its own JSON.
#pragma once
#include "engine/scheduler.h"
#include <stdio.h>

typedef struct server_options {
    const char *host;                      // NULL: 127.0.0.1
    int port;                              // 0: any free one
    const char *tls_certificate, *tls_key; // PEM files; both or none
    const char *api_key_file;              // a key a line, # begins a comment; UPG_API_KEY in the environment adds one
    bool insecure;                         // no key is asked for, whatever the address
    const char *origins;                   // comma-separated, that may read answers in a browser; "*": all
    const char *hosts;                     // comma-separated names that Host may have beside the address itself
    const char *name;                      // of the model in the APIs
    const char *access_log;                // file, "-" for standard error; NULL: none
    size_t max_body;                       // bytes; 0: 16 MiB
    int max_connections;                   // 0: 4096, or what the limit of open files leaves
    double read_seconds;                   // a request must be here whole after so long; 0: 30
    double request_seconds;                // a deadline for answers; 0: none
    bool sandbox;
} server_options;

typedef struct server server;
typedef struct exchange exchange; // one HTTP request and the answer to it

// What a dialect's errors look like.
typedef struct dialect {
    const char *name;
    // The body of an error. status: HTTP's; param: the field of the request that is at fault, or NULL.
    void (*error)(upg_buf *out, int status, const char *message, const char *param);
} dialect;
extern const dialect dialect_openai, dialect_anthropic, dialect_ollama;

enum {
    ROUTE_LIGHT = 1, // answered at once by the network's thread; others by a worker's
    ROUTE_OPEN = 2,  // needs no key
};
typedef struct route {
    const char *method, *path; // a path that ends with / takes what begins with it, but for / itself
    void (*handle)(server *s, exchange *x);
    const dialect *dialect;
    unsigned flags;
} route;
extern const route server_routes[]; // the last has no path

struct server { // what dialects may use
    const server_options *options;
    const upg_model *model;
    const struct upg_chat *chat; // NULL: the model has no chat template
    upg_scheduler *scheduler;
    int64_t started;           // Unix time
    const char *chat_template; // its text, or NULL
    uint64_t model_hash;       // the beginning of upg_model_hash
    double model_parameters;
    struct http *http;
};

// ---- An exchange, for handlers ----
// A handler, or what it starts, ends every exchange with exactly one exchange_reply, exchange_error or exchange_end, on
// any thread; behind that the exchange is not touched.

const char *exchange_path(const exchange *x);
const char *exchange_header(const exchange *x, const char *name); // NULL if it was not sent
const char *exchange_query(const exchange *x, const char *name);
const char *exchange_body(const exchange *x, size_t *n);
uint64_t exchange_id(const exchange *x);     // of its own, random-looking; for response ids
uint64_t exchange_client(const exchange *x); // tells clients apart: by key, or by address
const dialect *exchange_dialect(const exchange *x);

void exchange_set_header(exchange *x, const char *name, const char *value); // of the answer, before it begins
// body's bytes are taken over, also if it is out of memory: then the answer is a 500.
void exchange_reply(exchange *x, int status, const char *type, upg_buf *body);
void exchange_error(exchange *x, int status, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
// An answer in parts.
void exchange_stream(exchange *x, const char *type);
void exchange_write(exchange *x, const void *data, size_t n); // a client that has gone gets nothing
void exchange_end(exchange *x);
// left(ctx) is called once, by any thread, if the client goes away before the end; at once, if it has gone already. It
// may cancel, but not write or end: what it is about is there until it returns.
void exchange_watch(exchange *x, void (*left)(void *ctx), void *ctx);
// For the access log: what became of the exchange.
typedef struct exchange_usage {
    const char *finish; // static text, or NULL
    int prompt_tokens, cached_tokens, completion_tokens;
    double queue_seconds, first_token_seconds;
} exchange_usage;
void exchange_set_usage(exchange *x, const exchange_usage *usage);

// ---- The server ----

// template: a chat template instead of the model's own, or NULL. Listens when it returns; *port is what was taken.
server *server_start(const server_options *options, const upg_model *m, const char *chat_template,
                     const upg_scheduler_options *scheduler, int *port, upg_error *e);
// Takes nothing more, lets what runs end within so many seconds, and frees all.
void server_stop(server *s, double seconds);
int server_reload(server *s, upg_error *e); // API keys, and the access log's file; on failure the old ones stay
bool server_draining(const server *s);      // nothing that takes long is begun any more
void server_log(server *s, const char *fmt, ...) __attribute__((format(printf, 2, 3))); // for the operator, one line

// metrics.c: Prometheus' text format.
void server_metrics(server *s, upg_buf *out);
