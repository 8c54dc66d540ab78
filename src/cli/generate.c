// Prompts and answers. See generate.h.
#include "cli/generate.h"
#include "format/json.h"
#include "engine/speculate.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { MIN_ROWS = 16, MAX_ROWS = 256 };

#define AT(field) .offset = offsetof(cli_answer, field)
static int set_greedy(const cli_option *o, void *group, const char *text, upg_error *e) {
    (void)o, (void)text, (void)e;
    ((cli_answer *)group)->sampling.temperature = 0;
    return 0;
}

const cli_option cli_answer_options[] = {
    {"predict", 'n', "N", "tokens to generate at most", CLI_INT, AT(n_predict), 0, INT32_MAX},
    {"temp", 0, "T", "temperature, 0 is greedy (default 0.8)", CLI_FLOAT, AT(sampling.temperature), 0, 100},
    {"top-k", 0, "K", "default 40, 0 is off", CLI_INT, AT(sampling.top_k), 0, INT32_MAX},
    {"top-p", 0, "P", "default 0.95, 1 is off", CLI_FLOAT, AT(sampling.top_p), 0, 1},
    {"min-p", 0, "P", "default 0.05, 0 is off", CLI_FLOAT, AT(sampling.min_p), 0, 1},
    {"repeat-penalty", 0, "R", "over the last 64 tokens (default 1, off)", CLI_FLOAT, AT(sampling.repeat_penalty), 0,
     100},
    {"seed", 0, "N", "default: from the clock; the same seed gives the same text on every machine", CLI_SEED,
     AT(sampling.seed)},
    {"greedy", 0, NULL, "the same as --temp 0", CLI_SET, .set = set_greedy},
    {0}};
#undef AT

static int set_speculate(const cli_option *o, void *group, const char *text, upg_error *e) {
    int *n = &((cli_setup *)group)->speculate;
    char *end;
    *n = !strcmp(text, "auto") ? -1 : 0;
    if (*n || !strcmp(text, "off")) return 0;
    long value = strtol(text, &end, 10);
    if (end == text || *end || value < 0 || value > UPG_DRAFT_MAX)
        return upg_fail(e, "--%s %s: not auto, off or a whole number within 0..%d", o->name, text, UPG_DRAFT_MAX);
    *n = (int)value;
    return 0;
}

const cli_option cli_setup_options[] = {
    {"context", 'c', "N", "positions (default: the model's own, at most 4096)", CLI_INT,
     .offset = offsetof(cli_setup, context), 1, INT32_MAX},
    {"threads", 't', "N", "default: one a core", CLI_INT, .offset = offsetof(cli_setup, n_threads), 1, 1024},
    {"speculate", 0, "N",
     "run at most N tokens ahead where the text repeats itself; off; default auto, where it pays. The text is the same",
     CLI_SET, .set = set_speculate},
    {"pin", 0, NULL, "keep each thread on a core of its own", CLI_FLAG, .offset = offsetof(cli_setup, pin)},
    {"mlock", 0, NULL, "keep the weights in memory", CLI_FLAG, .offset = offsetof(cli_setup, mlock)},
    {0}};

const cli_option cli_template_options[] = {
    {"system", 0, "TEXT", "system message", CLI_STRING, .offset = offsetof(cli_template, system)},
    {"template", 0, "FILE", "chat template (Jinja) instead of the model's own", CLI_STRING,
     .offset = offsetof(cli_template, file)},
    {"template-args", 0, "JSON", "what else the template asks for: {\"enable_thinking\":false}, {\"tools\":[...]}",
     CLI_STRING, .offset = offsetof(cli_template, args)},
    {0}};

cli_answer cli_answer_defaults(void) {
    return (cli_answer){.n_predict = 256,
                        .sampling = {.temperature = 0.8f,
                                     .top_k = 40,
                                     .top_p = 0.95f,
                                     .min_p = 0.05f,
                                     .repeat_penalty = 1,
                                     .seed = (uint64_t)(upg_now() * 1e6)}};
}

cli_setup cli_setup_defaults(void) {
    return (cli_setup){.speculate = -1};
}

upg_chat *cli_open_chat(const upg_model *m, const cli_template *t, upg_error *e) {
    size_t n;
    char *text = t->file ? upg_read_text(t->file, 1 << 20, &n, e) : NULL;
    if (t->file && !text) return NULL;
    upg_chat *c = upg_chat_new(m, text, e);
    free(text);
    return c;
}

int cli_generator_open(cli_generator *g, const char *model, const cli_setup *setup, const cli_answer *answer,
                       bool logprobs, upg_error *e) {
    if (!(g->model = cli_open_model(model, e))) return -1;
    int max = upg_model_max_context(g->model), context = setup->context ? setup->context : max < 4096 ? max : 4096;
    upg_session_options s = {.n_threads = setup->n_threads,
                             .context = context,
                             .max_rows = MAX_ROWS,
                             .pin = setup->pin,
                             .max_logits = 1 + (setup->speculate < 0 ? UPG_DRAFT_MAX : setup->speculate)};
    if (!(g->session = upg_session_new(g->model, &s, e)) || cli_generator_set(g, answer, e) ||
        !(g->generator = upg_generator_new(g->session, 0, setup->speculate, e)) ||
        !(g->tokens = upg_alloc((size_t)context + 1, sizeof *g->tokens, e)) ||
        (logprobs && !(g->logprobs = upg_alloc((size_t)context + 1, sizeof *g->logprobs, e))))
        return -1;
    if (setup->mlock && mlockall(MCL_CURRENT))
        return upg_fail(e, "--mlock: %s (ulimit -l raises the limit)", strerror(errno));
    return 0;
}

void cli_generator_close(cli_generator *g) {
    upg_sampler_free(g->sampler);
    upg_generator_free(g->generator);
    upg_session_free(g->session);
    upg_model_free(g->model);
    free(g->tokens);
    free(g->logprobs);
    upg_buf_free(&g->text);
}

int cli_generator_set(cli_generator *g, const cli_answer *answer, upg_error *e) {
    upg_sampler *s = upg_sampler_new(upg_model_vocab_size(g->model), &answer->sampling, e);
    if (!s) return -1;
    upg_sampler_free(g->sampler);
    g->sampler = s;
    g->answer = *answer;
    return 0;
}

// Parts grow while they are fast: a few rows at a time cost more, many at a time let Ctrl-C wait.
static int run_parts(cli_generator *g, upg_error *e) {
    size_t rows = MIN_ROWS;
    for (size_t at = g->n_reused; at < g->n_prompt && !cli_interrupted;) {
        size_t n = g->n_prompt - at < rows ? g->n_prompt - at : rows;
        double start = upg_now();
        if (upg_session_prefill(g->session, 0, g->tokens + at, n, e)) return -1;
        if (upg_now() - start < 0.25 && rows < MAX_ROWS) rows *= 2;
        at += n;
    }
    return 0;
}

int cli_generator_prompt(cli_generator *g, const int32_t *ids, size_t n, upg_error *e) {
    int context = upg_session_context(g->session);
    if (n > (size_t)context)
        return upg_fail(e, "the prompt has %zu tokens, more than the context of %d (-c)", n, context);
    if (!n) return upg_fail(e, "no tokens to run");
    // The last token is run in any case: its logits are wanted.
    size_t known = (size_t)upg_session_length(g->session, 0), common = 0;
    while (common < known && common + 1 < n && g->tokens[common] == ids[common]) common++;
    if (upg_session_truncate(g->session, 0, (int)common, e)) return -1;
    memcpy(g->tokens + common, ids + common, (n - common) * sizeof *ids);
    g->n_reused = common;
    g->n_prompt = g->n_tokens = n;
    double start = upg_now();
    int rc = run_parts(g, e);
    g->prompt_seconds = upg_now() - start;
    return rc;
}

bool cli_generator_full(const cli_generator *g) {
    return g->n_tokens > (size_t)upg_session_context(g->session);
}

static bool is_end(const cli_generator *g, int32_t token) {
    return g->chat ? upg_chat_is_end(g->chat, token) : upg_model_is_eos(g->model, token);
}

static int add_token(cli_generator *g, int32_t token, cli_show *show, void *ctx, upg_error *e) {
    float logprob = 0;
    if (g->logprobs) {
        const float *logits = upg_generator_logits(g->generator);
        if (!logits) return upg_fail(e, "the device is lost");
        logprob = g->logprobs[g->n_tokens] = upg_logprob(logits, upg_model_vocab_size(g->model), token);
    }
    g->tokens[g->n_tokens++] = token;
    size_t shown = g->text.size;
    upg_detokenizer_push(&g->detokenizer, g->model->tokenizer, token, g->special, &g->text);
    if (upg_buf_check(&g->text, e)) return -1;
    show(ctx, token, logprob, g->text.data ? g->text.data + shown : "", g->text.size - shown);
    return ferror(stdout) ? upg_fail(e, "cannot write to standard output") : 0;
}

// Draws tokens until the answer ends for whatever reason.
static int draw(cli_generator *g, cli_show *show, void *ctx, upg_error *e) {
    if (g->n_tokens != (size_t)upg_session_length(g->session, 0)) return 0; // Ctrl-C stopped the prompt
    if (upg_generator_start(g->generator, g->tokens, g->n_tokens, g->answer.n_predict, e)) return -1;
    for (int i = 0; i < g->answer.n_predict && !cli_generator_full(g) && !cli_interrupted; i++) {
        int32_t token;
        if (upg_generator_next(g->generator, g->sampler, &token, e)) return -1;
        if (is_end(g, token)) {
            g->finish = "stop";
            break;
        }
        if (add_token(g, token, show, ctx, e)) return -1;
    }
    g->counts = upg_generator_count(g->generator);
    return 0;
}

int cli_generator_run(cli_generator *g, cli_show *show, void *ctx, upg_error *e) {
    double start = upg_now();
    g->text.size = 0;
    g->detokenizer = (upg_detokenizer){.midway = !g->chat}; // without a chat the text goes on where the prompt ends
    g->finish = "length";
    g->counts = (upg_generator_counts){0};
    int rc = draw(g, show, ctx, e);
    if (upg_generator_finish(g->generator, rc ? NULL : e)) rc = -1;
    if (cli_interrupted) g->finish = "interrupted";
    g->seconds = upg_now() - start;
    if (rc < 0) return -1;
    size_t shown = g->text.size;
    upg_detokenizer_finish(&g->detokenizer, &g->text);
    if (upg_buf_check(&g->text, e)) return -1;
    show(ctx, -1, 0, g->text.data ? g->text.data + shown : "", g->text.size - shown);
    return 0;
}

void cli_generator_stats(const cli_generator *g, FILE *f) {
    size_t n = g->n_tokens - g->n_prompt, steps = n > 1 ? n - 1 : 0; // the first token comes from the prompt's run
    fprintf(f, "prompt: %zu tokens", g->n_prompt);
    if (g->n_reused) fprintf(f, " (%zu known)", g->n_reused);
    fprintf(f, ", %.1f tok/s; answer: %zu tokens", (double)(g->n_prompt - g->n_reused) / g->prompt_seconds, n);
    if (steps)
        fprintf(f, ", %.1f tok/s, %.2f GB/s of weights", (double)steps / g->seconds,
                (double)g->counts.runs * (double)upg_model_bytes_per_token(g->model) / g->seconds * 1e-9);
    if (g->counts.drafted)
        fprintf(f, ", %d drafted, %d accepted, %.2f tokens a run", g->counts.drafted, g->counts.accepted,
                (double)steps / g->counts.runs);
    fprintf(f, " (%s, seed %llu)\n", upg_session_path(g->session), (unsigned long long)g->answer.sampling.seed);
}

int cli_generator_json(const cli_generator *g, upg_error *e) {
    upg_buf b = {0};
    upg_buf_str(&b, "{\"text\":");
    upg_json_quote(&b, g->text.data ? g->text.data : "", g->text.size);
    size_t n = g->n_tokens - g->n_prompt;
    upg_buf_fmt(&b, ",\"finish_reason\":\"%s\",\"prompt_tokens\":%zu,\"reused_tokens\":%zu,\"completion_tokens\":%zu",
                g->finish, g->n_prompt, g->n_reused, n);
    upg_buf_fmt(&b, ",\"runs\":%d,\"drafted_tokens\":%d,\"accepted_tokens\":%d", g->counts.runs, g->counts.drafted,
                g->counts.accepted);
    upg_buf_fmt(&b, ",\"seed\":%llu,\"tokens\":[", (unsigned long long)g->answer.sampling.seed);
    for (size_t i = 0; i < n; i++) upg_buf_fmt(&b, "%s%d", i ? "," : "", g->tokens[g->n_prompt + i]);
    upg_buf_str(&b, "]");
    if (g->logprobs) {
        upg_buf_str(&b, ",\"logprobs\":[");
        for (size_t i = 0; i < n; i++) upg_buf_fmt(&b, "%s%.6f", i ? "," : "", (double)g->logprobs[g->n_prompt + i]);
        upg_buf_str(&b, "]");
    }
    upg_buf_fmt(&b, ",\"prompt_seconds\":%.6f,\"seconds\":%.6f,\"path\":\"%s\"}", g->prompt_seconds, g->seconds,
                upg_session_path(g->session));
    int rc = upg_buf_check(&b, e);
    if (!rc) puts(b.data);
    upg_buf_free(&b);
    return rc;
}
