// The HTTP layer with handlers made for the purpose: requests and answers as bytes on a socket. The table of routes
// here takes the place of the server's, so no dialect is needed; generation is tested with them.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "server/handlers.h"

enum { PATIENCE_MS = 20000 }; // for what is to happen; longer than anything here takes

static upg_model *model;

// ---- Handlers ----

static void error_body(upg_buf *out, int status, const char *message, const char *param) {
    (void)param;
    upg_buf_fmt(out, "{\"status\":%d,\"message\":\"%s\"}", status, message);
}
static void other_error_body(upg_buf *out, int status, const char *message, const char *param) {
    (void)status, (void)param;
    upg_buf_fmt(out, "other: %s", message);
}
const dialect dialect_openai = {"openai", error_body}, dialect_anthropic = {"anthropic", other_error_body},
              dialect_ollama = {"ollama", other_error_body};

// What a handler that goes on behind its return waits for and tells.
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    exchange *x; // the one that is being answered
    int gate;    // parts that may be written
    int left;    // calls of left
} now = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void add_to(int *value, int n) {
    pthread_mutex_lock(&now.lock);
    *value += n;
    pthread_cond_broadcast(&now.changed);
    pthread_mutex_unlock(&now.lock);
}

static bool wait_for(const int *value, int least) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_MS / 1000;
    pthread_mutex_lock(&now.lock);
    while (*value < least && !pthread_cond_timedwait(&now.changed, &now.lock, &until)) {
    }
    bool there = *value >= least;
    pthread_mutex_unlock(&now.lock);
    return there;
}

static void reset(void) {
    pthread_mutex_lock(&now.lock);
    now.gate = now.left = 0;
    pthread_mutex_unlock(&now.lock);
}

static void client_left(void *ctx) {
    (void)ctx;
    add_to(&now.left, 1);
}

static void echo(server *s, exchange *x) {
    (void)s;
    size_t n;
    const char *body = exchange_body(x, &n), *q = exchange_query(x, "q");
    upg_buf out = {0};
    upg_buf_add(&out, body, n);
    if (q) upg_buf_fmt(&out, " q=%s", q);
    exchange_reply(x, 200, "text/plain", &out);
}

static void in_thread(void *(*work)(void *), exchange *x) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, x))
        exchange_error(x, 500, NULL, "no thread");
    else
        pthread_detach(thread);
}

// Three parts, each when the test says so.
static void *write_parts(void *ctx) {
    exchange *x = ctx;
    for (int i = 1; i <= 3 && wait_for(&now.gate, i); i++) {
        char text[32];
        snprintf(text, sizeof text, "part %d\n", i);
        exchange_write(x, text, strlen(text));
    }
    exchange_end(x);
    return NULL;
}
static void parts(server *s, exchange *x) {
    (void)s;
    exchange_stream(x, "text/event-stream");
    exchange_watch(x, client_left, NULL);
    in_thread(write_parts, x);
}

static void *reply_when_left(void *ctx) {
    upg_buf out = {0};
    bool left = wait_for(&now.left, 1);
    upg_buf_str(&out, left ? "cancelled" : "forgotten");
    exchange_reply(ctx, 200, "text/plain", &out);
    return NULL;
}
static void hang(server *s, exchange *x) {
    (void)s;
    exchange_watch(x, client_left, NULL);
    add_to(&now.gate, 1);
    in_thread(reply_when_left, x);
}

// More than any buffer takes, until the client counts as gone.
static void *write_flood(void *ctx) {
    enum { PART = 64 << 10, PARTS = 4096 };
    char *part = calloc(1, PART);
    for (int i = 0; i < PARTS && part; i++) exchange_write(ctx, part, PART);
    free(part);
    exchange_end(ctx);
    return NULL;
}
static void flood(server *s, exchange *x) {
    (void)s;
    exchange_stream(x, "application/octet-stream");
    exchange_watch(x, client_left, NULL);
    in_thread(write_flood, x);
}

static void busy(server *s, exchange *x) {
    (void)s;
    exchange_error(x, 429, NULL, "the queue is full");
}

const route server_routes[] = {
    {"GET", "/health", handle_health, .dialect = &dialect_openai, .flags = ROUTE_LIGHT | ROUTE_OPEN},
    {"GET", "/metrics", handle_metrics, .dialect = &dialect_openai, .flags = ROUTE_LIGHT},
    {"GET", "/ready", handle_ready, .dialect = &dialect_openai, .flags = ROUTE_LIGHT | ROUTE_OPEN},
    {"POST", "/echo", echo, .dialect = &dialect_openai},
    {"POST", "/parts", parts, .dialect = &dialect_openai},
    {"POST", "/hang", hang, .dialect = &dialect_openai},
    {"POST", "/flood", flood, .dialect = &dialect_openai},
    {"POST", "/busy", busy, .dialect = &dialect_openai},
    {"DELETE", "/v1/things/", echo, .dialect = &dialect_openai},
    {"GET", "/v1/messages", handle_health, .dialect = &dialect_anthropic, .flags = ROUTE_LIGHT},
    {0}};

// ---- A server and its clients ----

static int port;

static server *start(server_options o) {
    upg_scheduler_options scheduling = {.n_threads = 1, .context = 64, .n_parallel = 1};
    upg_error e;
    reset();
    o.name = "a \"model\"";
    server *s = server_start(&o, model, NULL, &scheduling, &port, &e);
    if (!s) fail_msg("%s", e.message);
    return s;
}

static int dial(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static void say(int fd, const char *text) {
    for (size_t at = 0, n = strlen(text); at < n;) {
        ssize_t sent = send(fd, text + at, n - at, MSG_NOSIGNAL);
        if (sent <= 0) return; // the server has closed: what it said first is what counts
        at += (size_t)sent;
    }
}

// Reads until text is there, or (NULL) until the server closes. Fails after PATIENCE_MS.
static void hear(int fd, upg_buf *to, const char *text) {
    while (!text || !to->data || !strstr(to->data, text)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        char buf[4096];
        if (poll(&p, 1, PATIENCE_MS) != 1) fail_msg("waited for '%s', heard '%s'", text ? text : "the end", to->data);
        ssize_t n = recv(fd, buf, sizeof buf, 0);
        if (n <= 0 && text) fail_msg("the end instead of '%s'; heard '%s'", text, to->data);
        if (n <= 0) return;
        upg_buf_add(to, buf, (size_t)n);
    }
}

// A request on a connection of its own, and all that comes back.
static char *ask(const char *request) {
    upg_buf heard = {0};
    int fd = dial();
    say(fd, request);
    hear(fd, &heard, NULL);
    close(fd);
    return heard.data ? heard.data : calloc(1, 1);
}

static void expect(const char *request, const char *const *parts_of_answer) {
    char *answer = ask(request);
    for (; *parts_of_answer; parts_of_answer++)
        if (!strstr(answer, *parts_of_answer))
            fail_msg("no '%s' in the answer to %s: %s", *parts_of_answer, request, answer);
    free(answer);
}
#define EXPECT(request, ...) expect(request, (const char *const[]){__VA_ARGS__, NULL})
#define HEAD(first)          first " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"

// ---- Requests and answers ----

static void paths_and_methods(void **state) {
    (void)state;
    server *s = start((server_options){0});
    EXPECT(HEAD("GET /health") "\r\n", "HTTP/1.1 200 ", "{\"status\":\"ok\"}", "X-Request-Id: ");
    EXPECT(HEAD("GET /nothing") "\r\n", " 404 ", "\"status\":404");
    EXPECT(HEAD("GET /v1/messages/nothing") "\r\n", " 404 ", "other: ");
    EXPECT(HEAD("GET /api/nothing") "\r\n", " 404 ", "other: ");
    EXPECT(HEAD("DELETE /health") "\r\n", " 405 ", "Allow: GET, HEAD, OPTIONS\r\n");
    EXPECT(HEAD("OPTIONS /echo") "\r\n", " 204 ", "Allow: POST, OPTIONS\r\n");
    EXPECT(HEAD("DELETE /v1/things/7?q=a%20b") "\r\n", " 200 ", " q=a b");
    EXPECT(HEAD("POST /busy") "Content-Length: 0\r\n\r\n", " 429 ", "Retry-After: ", "the queue is full");
    char *head = ask(HEAD("HEAD /health") "\r\n");
    assert_non_null(strstr(head, "Content-Length: 15\r\n"));
    assert_null(strstr(head, "ok"));
    free(head);
    server_stop(s, 1);
}

static void bodies(void **state) {
    (void)state;
    server *s = start((server_options){.max_body = 100});
    EXPECT(HEAD("POST /echo") "Content-Length: 5\r\n\r\nhello", " 200 ", "\r\n\r\nhello");
    EXPECT(HEAD("POST /echo") "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", " 200 ", "hello");
    EXPECT(HEAD("POST /echo") "Content-Length: 5\r\nContent-Encoding: gzip\r\n\r\nhello", " 415 ");
    EXPECT(HEAD("POST /echo") "Content-Length: 101\r\nExpect: 100-continue\r\n\r\n", "HTTP/1.1 413 "); // at once
    EXPECT(HEAD("POST /echo") "Content-Length: 99999999999\r\n\r\n", "HTTP/1.1 413 ");
    // A refusal of what can be read to its end leaves the connection as it is.
    upg_buf heard = {0};
    int fd = dial();
    char long_body[301];
    memset(long_body, 'x', sizeof long_body - 1);
    long_body[sizeof long_body - 1] = 0;
    say(fd, "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n12c\r\n");
    say(fd, long_body);
    say(fd, "\r\n0\r\n\r\n");
    hear(fd, &heard, "HTTP/1.1 413 ");
    say(fd, HEAD("POST /echo") "Content-Length: 5\r\n\r\nagain");
    hear(fd, &heard, "again");
    close(fd);
    upg_buf_free(&heard);
    server_stop(s, 1);
}

// The answer to a request that is refused before it was read must arrive although the client goes on sending.
static void a_long_refused_body(void **state) {
    (void)state;
    server *s = start((server_options){.max_body = 1000});
    char part[4097];
    memset(part, 'x', sizeof part - 1);
    part[sizeof part - 1] = 0;
    upg_buf heard = {0};
    int fd = dial();
    say(fd, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4194304\r\n\r\n");
    for (int i = 0; i < 1024; i++) say(fd, part);
    hear(fd, &heard, NULL);
    assert_non_null(heard.data);
    assert_non_null(strstr(heard.data, "HTTP/1.1 413 "));
    upg_buf_free(&heard);
    close(fd);
    server_stop(s, 1);
}

static void pipelined(void **state) {
    (void)state;
    server *s = start((server_options){0});
    EXPECT("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\none"
           "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" HEAD("POST /echo") "Content-Length: 3\r\n\r\ntwo",
           "\r\n\r\none", "ok", "\r\n\r\ntwo");
    server_stop(s, 1);
}

static void bad_heads(void **state) {
    (void)state;
    server *s = start((server_options){0});
    EXPECT("GET /health HTTP/1.1\r\n\r\n", " 400 ");
    EXPECT("GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", " 400 ");
    EXPECT("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", " 400 ");
    EXPECT("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
           " 400 ");
    EXPECT("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", " 400 ");
    EXPECT("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", " 400 ");
    EXPECT("GET /health HTTP/1.0\r\n\r\n", " 200 ");
    upg_buf request = {0};
    upg_buf_str(&request, HEAD("GET /health") "X-Long: ");
    for (int i = 0; i < 70000; i++) upg_buf_str(&request, "x");
    upg_buf_str(&request, "\r\n\r\n");
    EXPECT(request.data, " 431 ");
    upg_buf_free(&request);
    free(ask("\x16\x03\x01\x02\r\n\r\n")); // TLS, or anything: the connection ends
    EXPECT(HEAD("GET /health") "\r\n", " 200 ");
    server_stop(s, 1);
}

// ---- Who is let in ----

static void hosts_and_origins(void **state) {
    (void)state;
    server *s = start((server_options){.hosts = "Model.example", .origins = "https://page.example"});
#define GET(headers) "GET /health HTTP/1.1\r\nConnection: close\r\n" headers "\r\n"
    EXPECT(GET("Host: 127.0.0.1:1\r\n"), " 200 ");
    EXPECT(GET("Host: [::1]\r\n"), " 200 ");
    EXPECT(GET("Host: model.example:80\r\n"), " 200 ");
    EXPECT(GET("Host: evil.example\r\n"), " 403 ");
    EXPECT(GET("Host: 192.168.1.1\r\n"), " 403 ");
    EXPECT(GET("Host: localhost.evil.example\r\n"), " 403 ");
    EXPECT(GET("Host: localhost:7\r\nOrigin: http://localhost:7\r\n"), " 200 ");
    EXPECT(GET("Host: localhost:7\r\nOrigin: http://localhost:8\r\n"), " 403 ");
    EXPECT(GET("Host: localhost\r\nOrigin: null\r\n"), " 403 ");
    EXPECT(GET("Host: localhost\r\nOrigin: https://page.example\r\n"), " 200 ",
           "Access-Control-Allow-Origin: https://page.example\r\n", "Vary: Origin\r\n");
    EXPECT(HEAD("GET /nothing") "Origin: https://page.example\r\n\r\n", " 404 ", "Access-Control-Allow-Origin: ");
    EXPECT(HEAD("OPTIONS /echo") "Origin: https://page.example\r\nAccess-Control-Request-Method: POST\r\n"
                                 "Access-Control-Request-Headers: authorization, x-stainless-os\r\n\r\n",
           " 204 ", "Access-Control-Allow-Methods: POST",
           "Access-Control-Allow-Headers: authorization, x-stainless-os");
    EXPECT(HEAD("OPTIONS /echo") "Origin: https://other.example\r\nAccess-Control-Request-Method: POST\r\n\r\n",
           " 403 ");
#undef GET
    server_stop(s, 1);
}

static void write_file(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void keys(void **state) {
    (void)state;
    char path[] = "/tmp/upg-keys-XXXXXX";
    upg_error e;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    write_file(path, "# ours\n\n  first-key  \nsecond-key\n");
    server *s = start((server_options){.api_key_file = path});
    EXPECT(HEAD("GET /health") "\r\n", " 200 ");
    EXPECT(HEAD("GET /metrics") "\r\n", " 401 ", "WWW-Authenticate: Bearer");
    EXPECT(HEAD("GET /metrics") "Authorization: Bearer first-key\r\n\r\n", " 200 ");
    EXPECT(HEAD("GET /metrics") "authorization: bearer  second-key\r\n\r\n", " 200 ");
    EXPECT(HEAD("GET /metrics") "X-Api-Key: second-key\r\n\r\n", " 200 ");
    EXPECT(HEAD("GET /metrics") "X-Api-Key: second-ke\r\n\r\n", " 401 ");
    EXPECT(HEAD("GET /metrics") "Authorization: Basic first-key\r\n\r\n", " 401 ");
    EXPECT(HEAD("GET /metrics") "Authorization: Bearer # ours\r\n\r\n", " 401 ");
    EXPECT(HEAD("POST /echo") "Content-Length: 5\r\n\r\nhello", " 401 ");
    write_file(path, "bad key\n");
    assert_int_equal(server_reload(s, &e), -1);
    EXPECT(HEAD("GET /metrics") "X-Api-Key: second-key\r\n\r\n", " 200 ");
    write_file(path, "third-key\n");
    assert_int_equal(server_reload(s, &e), 0);
    EXPECT(HEAD("GET /metrics") "X-Api-Key: second-key\r\n\r\n", " 401 ");
    EXPECT(HEAD("GET /metrics") "X-Api-Key: third-key\r\n\r\n", " 200 ");
    server_stop(s, 1);
    unlink(path);
}

static void refuses_to_start(void **state) {
    (void)state;
    upg_scheduler_options scheduling = {.n_threads = 1, .context = 64, .n_parallel = 1};
    upg_error e;
    assert_null(server_start(&(server_options){.host = "0.0.0.0"}, model, NULL, &scheduling, &port, &e));
    assert_non_null(strstr(e.message, "--api-key-file"));
    assert_null(server_start(&(server_options){.host = "no such host"}, model, NULL, &scheduling, &port, &e));
    server *s = start((server_options){0});
    assert_null(server_start(&(server_options){.port = port}, model, NULL, &scheduling, NULL, &e));
    assert_non_null(strstr(e.message, "in use"));
    assert_null(server_start(&(server_options){.tls_certificate = "README.md"}, model, NULL, &scheduling, &port, &e));
    assert_null(server_start(&(server_options){.tls_certificate = "README.md", .tls_key = "README.md"}, model, NULL,
                             &scheduling, &port, &e));
    assert_non_null(strstr(e.message, "README.md: not a certificate"));
    server_stop(s, 1);
}

// ---- Clients that are slow, many, or gone ----

static void slow_requests_end(void **state) {
    (void)state;
    server *s = start((server_options){.read_seconds = 0.5});
    upg_buf heard = {0};
    int half_head = dial(), half_body = dial(), dribble = dial();
    say(half_head, "GET /health HTTP/1.1\r\nHost: loc");
    say(half_body, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhel");
    say(dribble, "GET /health HTTP/1.1\r\nHost: localhost\r\nX: ");
    hear(half_head, &heard, NULL);
    hear(half_body, &heard, NULL);
    for (int i = 0; i < 400; i++) { // a byte now and then does not buy time
        struct pollfd p = {.fd = dribble, .events = POLLIN};
        if (poll(&p, 1, 50) == 1) break;
        say(dribble, "x");
        assert_true(i < 399);
    }
    close(half_head), close(half_body), close(dribble);
    upg_buf_free(&heard);
    server_stop(s, 1);
}

static void many_idle_connections(void **state) {
    (void)state;
    enum { N = 200 };
    server *s = start((server_options){.max_connections = 64});
    int idle[N];
    for (int i = 0; i < N; i++) {
        idle[i] = dial();
        say(idle[i], "GET /health HTTP/1.1\r\n");
    }
    for (int i = 0; i < 20; i++) EXPECT(HEAD("GET /health") "\r\n", " 200 ");
    for (int i = 0; i < N; i++) close(idle[i]);
    server_stop(s, 1);
}

static void parts_come_one_by_one(void **state) {
    (void)state;
    server *s = start((server_options){0});
    upg_buf heard = {0};
    int fd = dial();
    say(fd, HEAD("POST /parts") "Content-Length: 0\r\n\r\n");
    hear(fd, &heard, "text/event-stream\r\n");
    for (int i = 1; i <= 3; i++) {
        char text[32];
        snprintf(text, sizeof text, "part %d\n", i);
        assert_null(strstr(heard.data, text));
        add_to(&now.gate, 1);
        hear(fd, &heard, text);
    }
    hear(fd, &heard, NULL);
    assert_non_null(strstr(heard.data, "\r\n0\r\n\r\n"));
    assert_int_equal(now.left, 0);
    close(fd);
    upg_buf_free(&heard);
    server_stop(s, 1);
}

static void a_client_leaves(void **state) {
    (void)state;
    server *s = start((server_options){0});
    int fd = dial(); // while its answer is computed
    say(fd, HEAD("POST /hang") "Content-Length: 0\r\n\r\n");
    assert_true(wait_for(&now.gate, 1));
    close(fd);
    assert_true(wait_for(&now.left, 1));
    reset();
    upg_buf heard = {0};
    fd = dial(); // between two parts
    say(fd, HEAD("POST /parts") "Content-Length: 0\r\n\r\n");
    add_to(&now.gate, 1);
    hear(fd, &heard, "part 1\n");
    close(fd);
    assert_true(wait_for(&now.left, 1));
    add_to(&now.gate, 2);
    upg_buf_free(&heard);
    reset();
    fd = dial(); // or it is there but does not read
    say(fd, HEAD("POST /flood") "Content-Length: 0\r\n\r\n");
    assert_true(wait_for(&now.left, 1));
    close(fd);
    EXPECT(HEAD("GET /health") "\r\n", " 200 ");
    server_stop(s, 10);
    assert_int_equal(now.left, 1);
}

// ---- The end ----

typedef struct stopping {
    server *s;
    double seconds;
} stopping;

static void *stop(void *ctx) {
    stopping *t = ctx;
    server_stop(t->s, t->seconds);
    return NULL;
}

static void what_runs_ends_before_the_server(void **state) {
    (void)state;
    stopping t = {start((server_options){0}), 60};
    upg_buf heard = {0};
    pthread_t thread;
    int fd = dial();
    say(fd, HEAD("POST /parts") "Content-Length: 0\r\n\r\n");
    add_to(&now.gate, 1);
    hear(fd, &heard, "part 1\n");
    assert_int_equal(pthread_create(&thread, NULL, stop, &t), 0);
    for (int i = 0;; i++) {
        char *ready = ask(HEAD("GET /ready") "\r\n");
        bool draining = strstr(ready, " 503 ") != NULL;
        free(ready);
        if (draining) break;
        assert_true(i < 1000);
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    EXPECT(HEAD("POST /echo") "Content-Length: 5\r\n\r\nhello", " 503 ", "Retry-After: ");
    add_to(&now.gate, 2);
    hear(fd, &heard, NULL);
    assert_non_null(strstr(heard.data, "part 3\n"));
    assert_non_null(strstr(heard.data, "\r\n0\r\n\r\n"));
    pthread_join(thread, NULL);
    close(fd);
    upg_buf_free(&heard);
}

static void what_runs_too_long_is_cancelled(void **state) {
    (void)state;
    server *s = start((server_options){0});
    upg_buf heard = {0};
    int fd = dial();
    say(fd, HEAD("POST /hang") "Content-Length: 0\r\n\r\n");
    assert_true(wait_for(&now.gate, 1));
    server_stop(s, 0);
    hear(fd, &heard, NULL);
    assert_non_null(heard.data);
    assert_non_null(strstr(heard.data, "cancelled"));
    close(fd);
    upg_buf_free(&heard);
}

static int open_model(void **state) {
    (void)state;
    upg_error e;
    unsetenv("UPG_API_KEY");
    model = upg_model_open("models/stories260K", &e);
    if (!model) fprintf(stderr, "%s\n", e.message);
    return model ? 0 : -1;
}
static int close_model(void **state) {
    (void)state;
    upg_model_free(model);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(paths_and_methods),
                                       cmocka_unit_test(bodies),
                                       cmocka_unit_test(a_long_refused_body),
                                       cmocka_unit_test(pipelined),
                                       cmocka_unit_test(bad_heads),
                                       cmocka_unit_test(hosts_and_origins),
                                       cmocka_unit_test(keys),
                                       cmocka_unit_test(refuses_to_start),
                                       cmocka_unit_test(slow_requests_end),
                                       cmocka_unit_test(many_idle_connections),
                                       cmocka_unit_test(parts_come_one_by_one),
                                       cmocka_unit_test(a_client_leaves),
                                       cmocka_unit_test(what_runs_ends_before_the_server),
                                       cmocka_unit_test(what_runs_too_long_is_cancelled)};
    return cmocka_run_group_tests(tests, open_model, close_model);
}
