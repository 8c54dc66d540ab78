// What the server writes about itself: an access log, a line of JSON a request, and lines for the operator.
#pragma once
#include "server/server.h"

typedef struct access_log access_log;

// path: a file that is appended to, or "-" for standard error.
access_log *access_log_open(const char *path, upg_error *e);
int access_log_reopen(access_log *l, upg_error *e); // after the file was moved away; on failure the old one stays
void access_log_close(access_log *l);

typedef struct access_entry {
    uint64_t id;
    const char *address, *method, *path;
    int status;
    uint64_t bytes; // of the answer's body
    double seconds;
    bool complete; // the client got all of it
    exchange_usage usage;
} access_entry;
void access_log_write(access_log *l, const access_entry *entry);
