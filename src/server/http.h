// The network side of the server, for server.c and metrics.c. See http.c.
#pragma once
#include "server/guard.h"
#include "server/log.h"
#include "server/server.h"

typedef struct http http;

// Listens and answers from here on. guard and log (or NULL) stay the caller's.
http *http_start(server *s, guard *g, access_log *log, int *port, upg_error *e);
void http_quiesce(http *h);              // takes no new connections
bool http_wait(http *h, double seconds); // until no exchange is at work; false: there still are some
void http_free(http *h);                 // none may be at work

enum { HTTP_STATUSES = 600 };
typedef struct http_counts {
    uint64_t answers[HTTP_STATUSES]; // by status
    uint64_t left;                   // clients that went before their answer's end
    uint64_t shut;                   // connections that were shut: too slow, or to make room
    int connections, exchanges;
} http_counts;
void http_count(http *h, http_counts *counts);
