// What the files of the HTTP layer share: the server's network side (http.c), exchanges (exchange.c) and the watcher of
// sockets (watch.c). Dialects see server.h only.
//
// Threads: the network's, which is libmicrohttpd's and calls back into http.c; two workers, which run handlers; the
// watcher; and the scheduler's, which writes answers. An exchange that a worker or the scheduler is at is suspended for
// the network's thread and resumed when there is something to send.
//
// Locks, and what may be taken inside: http.lock (exchange.lock), exchange.watch_lock (the scheduler's, exchange.lock),
// exchange.lock (libmicrohttpd's).
#pragma once
#include "server/guard.h"
#include "server/log.h"
#include "server/server.h"
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

enum { EXCHANGE_MAX_PENDING = 8 << 20 }; // bytes that wait for a slow reader before it is given up

// One TCP connection. It waits while no whole request has arrived; waiting ones have a deadline, and are closed, the
// oldest first, when connections run out.
typedef struct peer {
    struct peer *prev, *next; // in http.waiting, if waiting
    int fd;
    bool waiting, closing; // closing: shut down, for the network's thread to notice
    bool linger;           // its answer came before its request's end: see watch.c
    bool again;            // has had an answer
    double deadline;
    double look; // when to see whether the client has left behind its answer; 0: not
} peer;

typedef struct lingerer {
    int fd;
    double until;
} lingerer;
enum { MAX_LINGER = 64 };

enum { HTTP_STATUSES = 600 };
typedef struct http_counts {
    uint64_t answers[HTTP_STATUSES]; // by status
    uint64_t left;                   // clients that went before their answer's end
    uint64_t shut;                   // connections that were shut: too slow, or to make room
    int connections;
} http_counts;

typedef struct http {
    server *server;
    guard *guard;    // these two are the server's
    access_log *log; // or NULL
    struct MHD_Daemon *daemon;
    bool tls;
    int max_connections;
    uint64_t id_seed;
    _Atomic uint64_t n_ids;
    _Atomic size_t body_bytes; // of all requests being received or answered

    pthread_mutex_t lock; // of what follows
    http_counts counts;   // but for connections
    peer waiting;         // a ring, the oldest first
    int n_peers, n_closing;
    exchange *running; // those that workers and the scheduler are at
    int n_running;
    int n_exchanges; // that there are; the server is not freed before there are none
    pthread_cond_t none_left;
    lingerer lingering[MAX_LINGER];
    int n_lingering;

    pthread_mutex_t jobs_lock;
    pthread_cond_t jobs_changed;
    exchange *jobs, *last_job;
    bool jobs_end;
    pthread_t workers[2];
    int n_workers;

    pthread_t watcher;
    bool watching;
    int epoll, wake; // wake: an eventfd that ends the watcher
    upg_error note;  // of libmicrohttpd, why it does not start
} http;

struct exchange {
    http *http;
    atomic_int refs; // the network's, the handler's, that of a response in parts
    uint64_t id, client;
    const route *route; // NULL if there is none for the path and method
    const dialect *dialect;
    peer *peer;
    char method[16], address[64], *path;
    upg_buf headers, query; // name, NUL, value, NUL, ...; of the request
    int n_hosts, n_lengths; // headers of those names
    bool broken;            // something in the request's head that is not to be trusted
    bool old;               // HTTP/1.0
    uint64_t length;        // what Content-Length says
    upg_buf body;
    size_t received;
    bool dispatched;
    exchange *next_job;
    exchange *prev_running, *next_running;
    bool running;
    double started;

    pthread_mutex_t lock;                    // of what follows
    struct MHD_Connection *connection;       // NULL once the network is through with it
    bool suspended, streaming, ended, whole; // whole: the client has all of its answer
    _Atomic bool gone;
    upg_buf answer_headers;        // as headers
    struct MHD_Response *response; // that the network has not taken
    bool answered;                 // it had one
    int status;
    upg_buf out; // parts of the answer that have not been taken
    size_t out_at;
    uint64_t bytes; // of the answer's body
    exchange_usage usage;

    pthread_mutex_t watch_lock; // held while left runs; may be taken again by who holds it
    void (*left)(void *ctx);
    void *left_ctx;
};

// ---- http.c ----
// The listener is taken over, also on failure.
int http_start(http *h, int listener, const char *certificate, const char *key, upg_error *e);
void http_end_jobs(http *h); // workers do what is queued, and end
void http_stop(http *h);     // closes every connection
void http_free(http *h);     // once every handler has ended its exchange
http *http_new(server *s, guard *g, access_log *log, upg_error *e);
int http_listen(const char *host, int *port, upg_error *e); // a socket, or -1
void http_count(http *h, http_counts *counts);
int http_running(http *h);
void http_cancel_running(http *h); // as if their clients had left, but what they still write is sent

// ---- server.c ----
int server_retry_after(server *s); // seconds after which there should be room, a guess

// ---- exchange.c ----
exchange *exchange_new(http *h, struct MHD_Connection *c, const char *path, const char *method, const char *version);
void exchange_release(exchange *x);
// An answer by the network's thread itself, where no handler has the exchange.
void exchange_refuse(exchange *x, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void exchange_answer_empty(exchange *x, int status);
void exchange_gone(exchange *x);      // the client is
void exchange_call_left(exchange *x); // once
void exchange_completed(exchange *x, bool whole);

// ---- watch.c ----
int watch_start(http *h, upg_error *e);
void watch_stop(http *h);
void watch_add(http *h, exchange *x); // from here on it counts as running
void watch_remove(http *h, exchange *x);
peer *peer_new(http *h, int fd);
void peer_free(http *h, peer *p);
void peer_head_arrived(http *h, peer *p);
void peer_busy(http *h, peer *p);
void peer_waits(http *h, peer *p); // for the next request
