// upg eval: how well a model predicts a text, and how far it is from a reference; or how it does on tasks
// (eval_tasks.c).
#include "cli/eval_tasks.h"
#include "base/thread.h"
#include "engine/score.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 256 };

typedef struct options {
    const char *model, *reference, *text, *tokens, *logits;
    int window, windows, n_threads; // 0: the default
    bool json;
    cli_progress progress;
    cli_tasks tasks;
} options;

#define AT(field) .offset = offsetof(options, field)
static const cli_option table[] = {
    {"text", 0, "FILE", "text, tokenised by the model's tokenizer, after its BOS if it wants one", CLI_STRING,
     AT(text)},
    {"tokens", 0, "FILE", "little-endian 16-bit token ids; nothing is added", CLI_STRING, AT(tokens)},
    {"window", 0, "N", "default 1024, or the model's context if that is less", CLI_INT, AT(window), 1, 1 << 24},
    {"windows", 0, "N", "stop after N windows (default: all)", CLI_INT, AT(windows), 1, INT32_MAX},
    {"reference", 0, "SRC", "the original, or another .upg", CLI_STRING, AT(reference)},
    {"logits", 0, "FILE", "write F32 `logits` [tokens][vocabulary] as safetensors", CLI_STRING, AT(logits)},
    {"threads", 't', "N", "default: one a core", CLI_INT, AT(n_threads), 1, 1024},
    {"json", 0, NULL, "one line of JSON: the same figures", CLI_FLAG, AT(json)},
    {"quiet", 'q', NULL, "no progress", CLI_FLAG, AT(progress.quiet)},
    {0}};

typedef struct evaluation {
    const options *o;
    upg_model *model, *reference;
    upg_session *session, *reference_session;
    upg_pool *pool;
    int32_t *tokens; // [n_tokens]
    size_t n_tokens;
    int window;
    FILE *logits;
    // The batch being scored.
    const int32_t *targets;
    upg_row_score scores[BATCH];
    double nll, kl;
    uint64_t same_top, n;
} evaluation;

static int open_session(evaluation *ev, const char *path, upg_model **m, upg_session **s, upg_error *e) {
    if (!(*m = cli_open_model(path, e))) return -1;
    int max = upg_model_max_context(*m);
    if (ev->o->window > max)
        return upg_fail(e, "%s: --window %d is more than its context of %d", path, ev->o->window, max);
    if (ev->window > max) ev->window = max;
    upg_session_options o = {
        .n_threads = ev->o->n_threads, .context = ev->window, .max_rows = BATCH, .max_logits = BATCH};
    return (*s = upg_session_new(*m, &o, e)) ? 0 : -1;
}

static int open_all(evaluation *ev, upg_error *e) {
    const options *o = ev->o;
    if (open_session(ev, o->model, &ev->model, &ev->session, e) || !(ev->pool = upg_pool_new(o->n_threads, e)))
        return -1;
    if (o->reference) {
        if (open_session(ev, o->reference, &ev->reference, &ev->reference_session, e)) return -1;
        if (upg_model_vocab_size(ev->reference) != upg_model_vocab_size(ev->model))
            return upg_fail(e, "%s has %d tokens, %s %d", o->model, upg_model_vocab_size(ev->model), o->reference,
                            upg_model_vocab_size(ev->reference));
    }
    if (upg_read_corpus(ev->model, o->text ? o->text : o->tokens, !o->text, &ev->tokens, &ev->n_tokens, e)) return -1;
    if (ev->n_tokens < 2) return upg_fail(e, "%zu tokens are too few: at least 2", ev->n_tokens);
    if ((size_t)ev->window > ev->n_tokens - 1) ev->window = (int)ev->n_tokens - 1;
    return 0;
}

static void score_task(void *ctx, int i, int thread) {
    (void)thread;
    evaluation *ev = ctx;
    ev->scores[i] = upg_score_row(upg_session_logits(ev->session, i),
                                  ev->reference ? upg_session_logits(ev->reference_session, i) : NULL,
                                  upg_model_vocab_size(ev->model), ev->targets[i]);
}

static int run_rows(upg_session *s, const upg_row *rows, int n, upg_error *e) {
    if (upg_session_run(s, rows, n, e)) return -1;
    for (int i = 0; i < n; i++)
        if (upg_session_row_failed(s, i)) return upg_fail(e, "the model met a value that is not finite");
    return 0;
}

static int window(evaluation *ev, const int32_t *tokens, upg_error *e) {
    for (int at = 0; at < ev->window; at += BATCH) {
        upg_row rows[BATCH];
        int n = ev->window - at < BATCH ? ev->window - at : BATCH;
        for (int i = 0; i < n; i++) rows[i] = (upg_row){tokens[at + i], 0, true};
        if (run_rows(ev->session, rows, n, e) || (ev->reference && run_rows(ev->reference_session, rows, n, e)))
            return -1;
        ev->targets = tokens + at + 1;
        upg_pool_run(ev->pool, score_task, ev, n);
        for (int i = 0; i < n; i++) {
            ev->nll += ev->scores[i].nll;
            ev->kl += ev->scores[i].kl;
            ev->same_top += (uint64_t)ev->scores[i].same_top;
            size_t vocab = (size_t)upg_model_vocab_size(ev->model);
            if (ev->logits && fwrite(upg_session_logits(ev->session, i), sizeof(float), vocab, ev->logits) != vocab)
                return upg_fail(e, "%s: %s", ev->o->logits, strerror(errno));
        }
        ev->n += (uint64_t)n;
    }
    if (ev->reference && upg_session_truncate(ev->reference_session, 0, 0, e)) return -1;
    return upg_session_truncate(ev->session, 0, 0, e);
}

static int open_logits(evaluation *ev, uint64_t n_rows, upg_error *e) {
    if (!(ev->logits = fopen(ev->o->logits, "wb"))) return upg_fail(e, "%s: %s", ev->o->logits, strerror(errno));
    uint64_t vocab = (uint64_t)upg_model_vocab_size(ev->model);
    char header[256];
    int n = snprintf(header, sizeof header,
                     "{\"logits\":{\"dtype\":\"F32\",\"shape\":[%llu,%llu],\"data_offsets\":[0,%llu]}}",
                     (unsigned long long)n_rows, (unsigned long long)vocab, (unsigned long long)(n_rows * vocab * 4));
    while (n % 8) header[n++] = ' ';
    uint8_t size[8] = {(uint8_t)n, (uint8_t)(n >> 8)};
    bool ok = fwrite(size, 1, 8, ev->logits) == 8 && fwrite(header, 1, (size_t)n, ev->logits) == (size_t)n;
    return ok ? 0 : upg_fail(e, "%s: %s", ev->o->logits, strerror(errno));
}

static int evaluate(evaluation *ev, upg_error *e) {
    uint64_t n = (ev->n_tokens - 1) / (size_t)ev->window, limit = (uint64_t)ev->o->windows;
    if (limit && limit < n) n = limit;
    if (ev->o->logits && open_logits(ev, n * (uint64_t)ev->window, e)) return -1;
    for (uint64_t i = 0; i < n; i++) {
        cli_progress_show(&((options *)(uintptr_t)ev->o)->progress, (double)i / (double)n, "windows");
        if (cli_interrupted) return upg_fail(e, "interrupted");
        if (window(ev, ev->tokens + i * (size_t)ev->window, e)) return -1;
    }
    if (ev->logits) {
        FILE *f = ev->logits;
        ev->logits = NULL;
        if (fclose(f)) return upg_fail(e, "%s: %s", ev->o->logits, strerror(errno));
    }
    return 0;
}

static void print_result(const evaluation *ev) {
    double n = (double)ev->n, nll = ev->nll / n;
    if (ev->o->json) {
        printf("{\"nll\":%.6f,\"ppl\":%.5f,", nll, exp(nll));
        if (ev->reference) printf("\"kl\":%.6f,\"top1\":%.5f,", ev->kl / n, (double)ev->same_top / n);
        printf("\"tokens\":%llu}\n", (unsigned long long)ev->n);
        return;
    }
    printf("nll %.5f  ppl %.4f", nll, exp(nll));
    if (ev->reference) printf("  kl %.6f  top1 %.4f", ev->kl / n, (double)ev->same_top / n);
    printf("  tokens %llu (%s)\n", (unsigned long long)ev->n, upg_session_path(ev->session));
}

// What goes together. Tasks have no windows and no reference.
static int check(const options *o) {
    if (!!o->text + !!o->tokens + !!o->tasks.choices + !!o->tasks.last_word != 1)
        return cli_usage(&cli_eval, "give one of --text, --tokens, --choices and --last-word");
    bool tasks = o->tasks.choices || o->tasks.last_word;
    if (tasks && (o->window || o->windows || o->reference || o->logits))
        return cli_usage(&cli_eval, "--window, --windows, --reference and --logits go with --text and --tokens");
    if (!tasks && (o->tasks.results || o->tasks.limit || o->tasks.context || o->tasks.batch))
        return cli_usage(&cli_eval, "--results, --limit, --context and --batch go with --choices and --last-word");
    return 0;
}

static int run_text(options *o, upg_error *e) {
    evaluation *ev = upg_alloc(1, sizeof *ev, e);
    if (!ev) return -1;
    ev->o = o;
    ev->window = o->window ? o->window : 1024;
    int rc = open_all(ev, e) || evaluate(ev, e) ? -1 : 0;
    cli_progress_end(&o->progress);
    if (!rc) print_result(ev);
    if (ev->logits) fclose(ev->logits);
    upg_session_free(ev->session);
    upg_session_free(ev->reference_session);
    upg_pool_free(ev->pool);
    upg_model_free(ev->model);
    upg_model_free(ev->reference);
    free(ev->tokens);
    free(ev);
    return rc;
}

static int run(int argc, char **argv) {
    options o = {0};
    int status = cli_parse(&cli_eval, argc, argv, &o, &o.model);
    if (status >= 0) return status;
    if ((status = check(&o))) return status;
    cli_catch_interrupt(false);
    upg_error e = {0};
    bool tasks = o.tasks.choices || o.tasks.last_word;
    cli_tasks_setup setup = {o.model, &o.tasks, o.n_threads, o.json, &o.progress};
    if (!(tasks ? cli_eval_tasks(&setup, &e) : run_text(&o, &e))) return CLI_OK;
    cli_failed(&e);
    return cli_interrupted ? CLI_INTERRUPTED : CLI_FAILED;
}

const cli_verb cli_eval = {
    .name = "eval",
    .summary = "measure perplexity, divergence from a reference, accuracy on tasks",
    .arguments = "MODEL (--text FILE | --tokens FILE.u16 | --choices FILE.jsonl | --last-word FILE.jsonl) [OPTIONS]",
    .about =
        "Negative log-likelihood and perplexity over disjoint windows of N tokens, each predicting its N next ones.\n"
        "With --reference also the mean KL divergence KL(reference || model) in nats a token, and how often both\n"
        "agree on the likeliest token.\n"
        "\n"
        "--choices: a line is {\"context\": TEXT, \"endings\": [TEXT, ..], \"label\": N}, the right one counted from "
        "0; or\n"
        "{\"contexts\": [TEXT, ..], \"ending\": TEXT, \"label\": N}. A space comes between context and ending if "
        "neither has\n"
        "white space there (\"separator\": \"\" for none). The ending of the highest log-likelihood is chosen "
        "(accuracy), or\n"
        "of the highest per character (normalised accuracy, the figure to quote where endings differ in length).\n"
        "--last-word: a line is {\"text\": TEXT}; right if every token of the last word is the likeliest one.\n",
    .devices = true,
    .groups = {{table, 0}, {cli_tasks_options, offsetof(options, tasks)}},
    .min_args = 1,
    .max_args = 1,
    .run = run};
