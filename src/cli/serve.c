// upg serve: a model behind HTTP. See docs/server.md.
#include "cli/generate.h"
#include "server/server.h"
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef struct options {
    const char *model, *template;
    bool no_sandbox;
    int max_body_mb;
    double drain_seconds;
    cli_setup setup;
    server_options server;
    upg_scheduler_options scheduler;
} options;

// A number of bytes: 512M, 2G, 1.5T; powers of 1024.
static int set_size(const cli_option *o, void *group, const char *text, upg_error *e) {
    char *end;
    double n = strtod(text, &end);
    const char *unit = *end ? strchr("KMGT", *end) : NULL;
    if (unit) n *= exp2(10 * (double)(unit - "KMGT" + 1));
    if (end == text || (*end && (!unit || end[1])) || !(n >= 1 && n < 0x1p50))
        return upg_fail(e, "--%s %s: not a size such as 512M or 2G", o->name, text);
    *(uint64_t *)(void *)((char *)group + o->offset) = (uint64_t)n;
    return 0;
}

#define AT(field) .offset = offsetof(options, field)
static const cli_option table[] = {
    {"host", 0, "ADDRESS", "where to listen (default 127.0.0.1); one that others reach needs an API key", CLI_STRING,
     AT(server.host)},
    {"port", 0, "N", "default 8080; 0: any free one", CLI_INT, AT(server.port), 0, 65535},
    {"name", 0, "NAME", "of the model in the APIs (default: the file's name)", CLI_STRING, AT(server.name)},
    {"template", 0, "FILE", "chat template (Jinja) instead of the model's own", CLI_STRING, AT(template)},
    {"api-key-file", 0, "FILE", "keys, one a line; UPG_API_KEY in the environment is another", CLI_STRING,
     AT(server.api_key_file)},
    {"insecure", 0, NULL, "no key needed, whoever reaches the address", CLI_FLAG, AT(server.insecure)},
    {"tls-cert", 0, "FILE", "certificate chain (PEM), with --tls-key: HTTPS", CLI_STRING, AT(server.tls_certificate)},
    {"tls-key", 0, "FILE", "its private key (PEM)", CLI_STRING, AT(server.tls_key)},
    {"cors", 0, "ORIGINS", "web pages that may use the server: https://a.example,... or *", CLI_STRING,
     AT(server.origins)},
    {"allow-host", 0, "NAMES", "names that clients may call the server by, beside its address", CLI_STRING,
     AT(server.hosts)},
    {"parallel", 0, "N", "requests at work at once (default 8)", CLI_INT, AT(scheduler.n_parallel), 1, 1024},
    {"queue", 0, "N", "requests that may wait (default 64); past it a client is told to come again", CLI_INT,
     AT(scheduler.max_queue), 1, 4096},
    {"rows", 0, "N", "rows of a step (default 256): more read prompts faster, fewer keep answers smooth", CLI_INT,
     AT(scheduler.max_rows), 1, 4096},
    {"kv-memory", 0, "SIZE", "for keys and values, cached prompts included (default: --parallel whole contexts)",
     CLI_SET, AT(scheduler.kv_bytes), .set = set_size},
    {"kv-dir", 0, "FOLDER", "keep the prompt cache there across restarts", CLI_STRING, AT(scheduler.kv_dir)},
    {"kv-disk", 0, "SIZE", "what the folder may hold (default 16G)", CLI_SET, AT(scheduler.kv_dir_bytes),
     .set = set_size},
    {"timeout", 0, "SECONDS", "a request fails after so long (default: never)", CLI_DOUBLE, AT(server.request_seconds),
     0, 1e9},
    {"read-timeout", 0, "SECONDS", "a request must have arrived after so long (default 30)", CLI_DOUBLE,
     AT(server.read_seconds), .1, 1e6},
    {"max-body", 0, "MB", "of a request (default 16)", CLI_INT, AT(max_body_mb), 1, 1024},
    {"max-connections", 0, "N", "default 4096, or as the limit of open files allows", CLI_INT,
     AT(server.max_connections), 16, 1000000},
    {"drain", 0, "SECONDS", "for running answers when the server is stopped (default 30)", CLI_DOUBLE,
     AT(drain_seconds), 0, 1e6},
    {"access-log", 0, "FILE", "a line of JSON a request; -: standard error", CLI_STRING, AT(server.access_log)},
    {"no-sandbox", 0, NULL, "without seccomp and Landlock", CLI_FLAG, AT(no_sandbox)},
    {0}};

// What the APIs call a model: the file's name without its ending.
static char *name_of(const char *model, upg_error *e) {
    if (!model) return upg_strdup("tales", 5, e);
    size_t n = strlen(model);
    while (n > 1 && model[n - 1] == '/') n--;
    const char *slash = memrchr(model, '/', n), *begin = slash ? slash + 1 : model;
    n -= (size_t)(begin - model);
    if (n > 4 && !memcmp(begin + n - 4, ".upg", 4)) n -= 4;
    if (n > 5 && !memcmp(begin + n - 5, ".gguf", 5)) n -= 5;
    return upg_strdup(begin, n, e);
}

static pthread_t waiting; // the thread that waits for signals

static void hand_on(int signal) {
    pthread_kill(waiting, signal);
}

// Libraries have threads from before main() (OpenBLAS does) that block nothing: a signal that comes while this thread
// is not waiting may go to one of them, whose default is the process's end. So it is handed on.
static void block_signals(sigset_t *set) {
    static const int all[] = {SIGTERM, SIGINT, SIGHUP};
    waiting = pthread_self();
    sigemptyset(set);
    for (int i = 0; i < 3; i++) sigaddset(set, all[i]);
    pthread_sigmask(SIG_BLOCK, set, NULL);
    for (int i = 0; i < 3; i++)
        sigaction(all[i], &(struct sigaction){.sa_handler = hand_on, .sa_flags = SA_RESTART}, NULL);
    signal(SIGPIPE, SIG_IGN);
}

// Until SIGTERM or Ctrl-C.
static void wait_for_end(server *s, const sigset_t *set) {
    for (;;) {
        int got;
        upg_error e;
        if (sigwait(set, &got)) continue;
        if (got != SIGHUP) return;
        if (server_reload(s, &e))
            server_log(s, "the old keys stay: %s", e.message);
        else
            server_log(s, "keys and log are read and opened anew");
    }
}

// A second signal ends the process at once.
static void unblock_signals(const sigset_t *set) {
    signal(SIGHUP, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, set, NULL);
}

static int serve(options *o, const upg_model *m, const char *chat_template, upg_error *e) {
    sigset_t signals;
    int port = o->server.port, max = upg_model_max_context(m);
    o->scheduler.context = o->setup.context ? o->setup.context : max < 4096 ? max : 4096;
    o->scheduler.n_threads = o->setup.n_threads;
    o->scheduler.pin = o->setup.pin;
    o->scheduler.speculate = o->setup.speculate;
    o->server.sandbox = !o->no_sandbox;
    o->server.max_body = (size_t)o->max_body_mb << 20;
    if (o->setup.mlock && mlockall(MCL_CURRENT))
        return upg_fail(e, "--mlock: %s (ulimit -l raises the limit)", strerror(errno));
    block_signals(&signals);
    server *s = server_start(&o->server, m, chat_template, &o->scheduler, &port, e);
    if (!s) return -1;
    const char *host = o->server.host ? o->server.host : "127.0.0.1", *colon = strchr(host, ':');
    printf("upg serve: %s at http%s://%s%s%s:%d (%s, %d at once, context %d)\n", o->server.name,
           o->server.tls_key ? "s" : "", colon ? "[" : "", host, colon ? "]" : "", port,
           upg_scheduler_path(s->scheduler), o->scheduler.n_parallel, o->scheduler.context);
    fflush(stdout);
    wait_for_end(s, &signals);
    server_log(s, "stopping; running answers have %.0f s", o->drain_seconds);
    unblock_signals(&signals);
    server_stop(s, o->drain_seconds);
    return 0;
}

static int run(int argc, char **argv) {
    options o = {.setup = cli_setup_defaults(),
                 .max_body_mb = 16,
                 .drain_seconds = 30,
                 .server.port = 8080,
                 .scheduler = {.n_parallel = 8, .max_queue = 64}};
    int status = cli_parse(&cli_serve, argc, argv, &o, &o.model);
    if (status >= 0) return status;
    upg_error e = {0};
    size_t n;
    char *template = o.template ? upg_read_text(o.template, 1 << 20, &n, &e) : NULL;
    char *name = o.server.name ? NULL : name_of(o.model, &e);
    upg_model *m = o.template && !template ? NULL : cli_open_model(o.model, &e);
    if (name) o.server.name = name;
    status = !m || !o.server.name || serve(&o, m, template, &e) ? cli_failed(&e) : CLI_OK;
    upg_model_free(m);
    free(template);
    free(name);
    return status;
}

const cli_verb cli_serve = {
    .name = "serve",
    .summary = "answer over HTTP: the APIs of OpenAI, Anthropic and Ollama",
    .arguments = "[MODEL] [OPTIONS]",
    .about =
        "Serves a model to many clients at once. MODEL is a .upg file, a name from upg list, or an original (folder "
        "or\n"
        "GGUF file); without it the embedded default model. An answer does not depend on load: the same request with\n"
        "the same seed gets the same bytes. SIGTERM stops it when running answers have ended, SIGHUP reads keys "
        "anew.\n",
    .devices = true,
    .groups = {{table, 0}, {cli_setup_options, AT(setup)}},
    .max_args = 1,
    .run = run};
