// An exchange without a network: handlers of src/server are given a body, and what they answer is recorded.
#pragma once
#include "server/server.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct exchange {
    const char *path, *body;
    size_t n_body;
    const dialect *dialect;
    uint64_t id;
    // What came.
    int status;
    char type[64], request_id[64], param[64];
    upg_buf out;
    int n_ends, n_writes;
    bool streamed;
    exchange_usage usage;
    // The client leaves after so many writes; 0: it stays. -1: it has left before.
    int leave_after;
    void (*left)(void *ctx);
    void *left_ctx;
    pthread_mutex_t mutex;
    pthread_cond_t ended;
};

void fake_open(exchange *x, const dialect *d, const char *path, const char *body);
void fake_wait(exchange *x); // for the end
void fake_close(exchange *x);

void fake_open(exchange *x, const dialect *d, const char *path, const char *body) {
    *x = (exchange){.path = path, .body = body, .n_body = strlen(body), .dialect = d, .id = 0x1234};
    pthread_mutex_init(&x->mutex, NULL);
    pthread_cond_init(&x->ended, NULL);
}

void fake_wait(exchange *x) {
    pthread_mutex_lock(&x->mutex);
    while (!x->n_ends) pthread_cond_wait(&x->ended, &x->mutex);
    pthread_mutex_unlock(&x->mutex);
}

void fake_close(exchange *x) {
    upg_buf_free(&x->out);
    pthread_mutex_destroy(&x->mutex);
    pthread_cond_destroy(&x->ended);
}

static void end(exchange *x) {
    pthread_mutex_lock(&x->mutex);
    x->n_ends++;
    pthread_cond_signal(&x->ended);
    pthread_mutex_unlock(&x->mutex);
}

const char *exchange_path(const exchange *x) {
    return x->path;
}
const char *exchange_header(const exchange *x, const char *name) {
    (void)x;
    (void)name;
    return NULL;
}
const char *exchange_query(const exchange *x, const char *name) {
    (void)x;
    (void)name;
    return NULL;
}
const char *exchange_body(const exchange *x, size_t *n) {
    *n = x->n_body;
    return x->body;
}
uint64_t exchange_id(const exchange *x) {
    return x->id;
}
uint64_t exchange_client(const exchange *x) {
    (void)x;
    return 1;
}
const dialect *exchange_dialect(const exchange *x) {
    return x->dialect;
}
void exchange_set_header(exchange *x, const char *name, const char *value) {
    if (!strcmp(name, "request-id")) snprintf(x->request_id, sizeof x->request_id, "%s", value);
}
void exchange_reply(exchange *x, int status, const char *type, upg_buf *body) {
    x->status = body->failed ? 500 : status;
    snprintf(x->type, sizeof x->type, "%s", type);
    upg_buf_free(&x->out);
    x->out = *body;
    *body = (upg_buf){0};
    end(x);
}
void exchange_error(exchange *x, int status, const char *param, const char *fmt, ...) {
    char message[600];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    upg_mend_utf8(message);
    va_end(args);
    snprintf(x->param, sizeof x->param, "%s", param ? param : "");
    upg_buf out = {0};
    x->dialect->error(&out, status, message, param);
    exchange_reply(x, status, "application/json", &out);
}
void exchange_stream(exchange *x, const char *type) {
    x->status = 200;
    x->streamed = true;
    snprintf(x->type, sizeof x->type, "%s", type);
}
void exchange_write(exchange *x, const void *data, size_t n) {
    upg_buf_add(&x->out, data, n);
    if (++x->n_writes == x->leave_after && x->left) x->left(x->left_ctx);
}
void exchange_end(exchange *x) {
    end(x);
}
void exchange_watch(exchange *x, void (*left)(void *ctx), void *ctx) {
    x->left = left;
    x->left_ctx = ctx;
    if (x->leave_after < 0) left(ctx);
}
void exchange_set_usage(exchange *x, const exchange_usage *usage) {
    x->usage = *usage;
}
