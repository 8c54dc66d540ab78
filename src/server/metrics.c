// Metrics in the text format of Prometheus (version 0.0.4). Names and meanings are vLLM's where it has them, with upg
// for vllm, so that its dashboards serve here too; the rest is our own.
#include "server/http.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct page {
    upg_buf *out;
    char label[320]; // model_name="..."
} page;

static void head(page *p, const char *name, const char *type, const char *help) {
    upg_buf_fmt(p->out, "# HELP upg:%s %s\n# TYPE upg:%s %s\n", name, help, name, type);
}

static void sample(page *p, const char *name, const char *more, double value) {
    upg_buf_fmt(p->out, "upg:%s{%s%s%s} %.17g\n", name, p->label, *more ? "," : "", more, value);
}

static void one(page *p, const char *name, const char *type, const char *help, double value) {
    head(p, name, type, help);
    sample(p, name, "", value);
}

static void histogram(page *p, const char *name, const char *help, const upg_histogram *h) {
    uint64_t count = 0;
    head(p, name, "histogram", help);
    for (int i = 0; i <= h->n; i++) {
        count += h->counts[i];
        if (i < h->n)
            upg_buf_fmt(p->out, "upg:%s_bucket{%s,le=\"%g\"} %llu\n", name, p->label, h->bounds[i],
                        (unsigned long long)count);
    }
    upg_buf_fmt(p->out, "upg:%s_bucket{%s,le=\"+Inf\"} %llu\n", name, p->label, (unsigned long long)count);
    upg_buf_fmt(p->out, "upg:%s_sum{%s} %.9f\nupg:%s_count{%s} %llu\n", name, p->label, h->sum, name, p->label,
                (unsigned long long)count);
}

// A label's value: backslash, quote and newline are escaped.
static void make_label(page *p, const char *name) {
    size_t n = (size_t)snprintf(p->label, sizeof p->label, "model_name=\"");
    for (; *name && n < sizeof p->label - 4; name++) {
        if (strchr("\\\"\n", *name)) p->label[n++] = '\\';
        p->label[n++] = *name == '\n' ? 'n' : *name;
    }
    p->label[n++] = '"';
    p->label[n] = 0;
}

static void add_requests(page *p, const upg_scheduler_stats *t) {
    static const char *const finishes[UPG_N_FINISHES] = {"stop", "length", "abort", "deadline", "error"};
    one(p, "num_requests_running", "gauge", "Requests whose prompt is read or answer drawn.", t->running);
    one(p, "num_requests_waiting", "gauge", "Requests in the queue.", t->waiting);
    head(p, "request_success_total", "counter", "Requests that ended, by how.");
    for (int i = 0; i < UPG_N_FINISHES; i++) {
        char more[64];
        snprintf(more, sizeof more, "finished_reason=\"%s\"", finishes[i]);
        sample(p, "request_success_total", more, (double)t->finished[i]);
    }
    one(p, "requests_rejected_total", "counter", "Requests refused because the queue was full.", (double)t->rejected);
    one(p, "num_preemptions_total", "counter", "Requests that made room for older ones, to go on later.",
        (double)t->preemptions);
    one(p, "prompt_tokens_total", "counter", "Tokens of prompts that were read.", (double)t->prompt_tokens);
    one(p, "generation_tokens_total", "counter", "Tokens drawn.", (double)t->generation_tokens);
    one(p, "steps_total", "counter", "Runs of the model's program.", (double)t->steps);
    one(p, "step_rows_total", "counter", "Rows of those runs.", (double)t->rows);
    one(p, "spec_decode_num_draft_tokens_total", "counter", "Tokens run ahead.", (double)t->drafted);
    one(p, "spec_decode_num_accepted_tokens_total", "counter", "Those of them that were drawn.", (double)t->accepted);
}

static void add_cache(page *p, const upg_scheduler_stats *t) {
    one(p, "kv_cache_usage_perc", "gauge", "Share of KV blocks that running requests hold, 1 is all.",
        t->blocks ? (double)t->blocks_used / t->blocks : 0);
    one(p, "kv_cache_cached_perc", "gauge", "Share of KV blocks that only the prefix cache holds.",
        t->blocks ? (double)t->blocks_cached / t->blocks : 0);
    one(p, "kv_cache_bytes", "gauge", "Memory of all KV blocks.", (double)t->blocks * (double)t->block_bytes);
    one(p, "prefix_cache_queries_total", "counter", "Tokens of prompts looked up in the prefix cache.",
        (double)t->prefix_queries);
    one(p, "prefix_cache_hits_total", "counter", "Tokens of prompts found there.", (double)t->prefix_hits);
    one(p, "kv_disk_saved_blocks_total", "counter", "KV blocks written to --kv-dir.", (double)t->disk_saved);
    one(p, "kv_disk_loaded_blocks_total", "counter", "KV blocks read from there.", (double)t->disk_loaded);
    one(p, "kv_disk_damaged_blocks_total", "counter", "Files there that were ignored.", (double)t->disk_damaged);
    one(p, "kv_disk_failed_blocks_total", "counter", "Writes that did not work.", (double)t->disk_failed);
}

static void add_times(page *p, const upg_scheduler_stats *t) {
    histogram(p, "time_to_first_token_seconds", "From a request's arrival to its first token.", &t->first_token);
    histogram(p, "inter_token_latency_seconds", "From a token to the next of the same request.", &t->inter_token);
    histogram(p, "e2e_request_latency_seconds", "From a request's arrival to its end.", &t->whole);
    histogram(p, "request_queue_time_seconds", "In the queue.", &t->queue);
    histogram(p, "request_prefill_time_seconds", "From leaving the queue to the first token.", &t->prompt);
    histogram(p, "request_decode_time_seconds", "From the first token to the end.", &t->answer);
}

static double resident_bytes(void) {
    char *text = upg_read_text("/proc/self/statm", 4096, &(size_t){0}, NULL);
    long pages = 0;
    if (text) sscanf(text, "%*s %ld", &pages);
    free(text);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static void add_http(page *p, server *s) {
    http_counts c;
    http_count(s->http, &c);
    head(p, "http_requests_total", "counter", "Answers by HTTP status.");
    for (int i = 0; i < HTTP_STATUSES; i++) {
        char more[32];
        snprintf(more, sizeof more, "status=\"%d\"", i);
        if (c.answers[i]) sample(p, "http_requests_total", more, (double)c.answers[i]);
    }
    one(p, "http_clients_gone_total", "counter", "Clients that left before their answer's end.", (double)c.left);
    one(p, "http_connections_shut_total", "counter", "Connections shut for slowness or for room.", (double)c.shut);
    one(p, "http_connections", "gauge", "Connections that are open.", c.connections);
    upg_buf_fmt(p->out,
                "# HELP process_resident_memory_bytes Memory of the process, mapped weights that are in memory "
                "included.\n# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes %.0f\n"
                "# HELP process_start_time_seconds When the server started, in Unix time.\n"
                "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds %lld\n",
                resident_bytes(), (long long)s->started);
}

void server_metrics(server *s, upg_buf *out) {
    page p = {.out = out};
    upg_scheduler_stats t;
    char more[128];
    make_label(&p, s->options->name);
    upg_scheduler_stats_get(s->scheduler, &t);
    snprintf(more, sizeof more, "version=\"%s\",path=\"%s\"", upg_version(), upg_scheduler_path(s->scheduler));
    head(&p, "build_info", "gauge", "Always 1; what runs.");
    sample(&p, "build_info", more, 1);
    add_requests(&p, &t);
    add_cache(&p, &t);
    add_times(&p, &t);
    add_http(&p, s);
}
