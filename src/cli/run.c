// upg run: continues a prompt, streaming.
#include "cli/cli.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char help[] =
    "usage: upg run [MODEL] [-p TEXT | -f FILE] [OPTIONS]\n\n"
    "Continues a prompt: TEXT, FILE, or standard input. MODEL is a .upg file, or an original (folder or GGUF\n"
    "file), which runs in fp32; without it the embedded default model tells a story.\n\n"
    "  -p, --prompt TEXT      -f, --file FILE\n"
    "  -n, --predict N        tokens to generate at most (default 256)\n"
    "  -c, --context N        positions (default: the model's own, at most 4096)\n"
    "  -t, --threads N        default: one a core\n"
    "  --temp T               temperature, 0 is greedy (default 0.8)\n"
    "  --top-k K              default 40, 0 is off\n"
    "  --top-p P              default 0.95, 1 is off\n"
    "  --min-p P              default 0.05, 0 is off\n"
    "  --repeat-penalty R     over the last 64 tokens (default 1, off)\n"
    "  --seed N               default: from the clock; the same seed gives the same text on every machine\n"
    "  --greedy               the same as --temp 0\n"
    "  --special              control tokens written in the prompt count, and are shown in the answer\n"
    "  --logprobs             print each token with its log probability instead of text\n"
    "  --mlock                keep the weights in memory\n"
    "  --json                 print one JSON object at the end instead of streaming\n"
    "  -q, --quiet            no statistics\n";

enum {
    OPT_TEMP = 256,
    OPT_TOP_K,
    OPT_TOP_P,
    OPT_MIN_P,
    OPT_REPEAT,
    OPT_SEED,
    OPT_GREEDY,
    OPT_SPECIAL,
    OPT_LOGPROBS,
    OPT_MLOCK,
    OPT_JSON
};

typedef struct options {
    const char *model, *prompt, *file;
    int n_predict, context, n_threads;
    bool special, logprobs, mlock, json, quiet;
    upg_sampling sampling;
} options;

typedef struct generation {
    const options *o;
    upg_model *model;
    upg_session *session;
    upg_sampler *sampler;
    int32_t *tokens; // [context + 1] prompt and answer
    size_t n_prompt, n_tokens;
    float *logprobs; // [context + 1]
    upg_detokenizer detokenizer;
    upg_buf text; // the answer so far (--json), or what is to be written next
    const char *finish;
    double prompt_seconds, seconds;
} generation;

static int set_int(const char *option, int lo, int *value) {
    long long n = 0;
    int rc = cli_int(&cli_run, option, optarg, lo, INT32_MAX, &n);
    *value = (int)n;
    return rc;
}

static int set_float(const char *option, double hi, float *value) {
    double x = 0;
    int rc = cli_num(&cli_run, option, optarg, 0, hi, &x);
    *value = (float)x;
    return rc;
}

static int set_seed(options *o) {
    long long n = 0;
    int rc = cli_int(&cli_run, "--seed", optarg, 0, INT64_MAX, &n);
    o->sampling.seed = (uint64_t)n;
    return rc;
}

static int parse(int argc, char **argv, options *o) {
    static const struct option longs[] = {{"prompt", 1, 0, 'p'},
                                          {"file", 1, 0, 'f'},
                                          {"predict", 1, 0, 'n'},
                                          {"context", 1, 0, 'c'},
                                          {"threads", 1, 0, 't'},
                                          {"temp", 1, 0, OPT_TEMP},
                                          {"top-k", 1, 0, OPT_TOP_K},
                                          {"top-p", 1, 0, OPT_TOP_P},
                                          {"min-p", 1, 0, OPT_MIN_P},
                                          {"repeat-penalty", 1, 0, OPT_REPEAT},
                                          {"seed", 1, 0, OPT_SEED},
                                          {"greedy", 0, 0, OPT_GREEDY},
                                          {"special", 0, 0, OPT_SPECIAL},
                                          {"logprobs", 0, 0, OPT_LOGPROBS},
                                          {"mlock", 0, 0, OPT_MLOCK},
                                          {"json", 0, 0, OPT_JSON},
                                          {"quiet", 0, 0, 'q'},
                                          {"help", 0, 0, 'h'},
                                          {0, 0, 0, 0}};
    int c, rc = 0;
    while (!rc && (c = getopt_long(argc, argv, "p:f:n:c:t:qh", longs, NULL)) != -1) switch (c) {
        case 'p': o->prompt = optarg; break;
        case 'f': o->file = optarg; break;
        case 'n': rc = set_int("-n", 0, &o->n_predict); break;
        case 'c': rc = set_int("-c", 1, &o->context); break;
        case 't': rc = set_int("-t", 1, &o->n_threads); break;
        case OPT_TEMP: rc = set_float("--temp", 100, &o->sampling.temperature); break;
        case OPT_TOP_K: rc = set_int("--top-k", 0, &o->sampling.top_k); break;
        case OPT_TOP_P: rc = set_float("--top-p", 1, &o->sampling.top_p); break;
        case OPT_MIN_P: rc = set_float("--min-p", 1, &o->sampling.min_p); break;
        case OPT_REPEAT: rc = set_float("--repeat-penalty", 100, &o->sampling.repeat_penalty); break;
        case OPT_SEED: rc = set_seed(o); break;
        case OPT_GREEDY: o->sampling.temperature = 0; break;
        case OPT_SPECIAL: o->special = true; break;
        case OPT_LOGPROBS: o->logprobs = true; break;
        case OPT_MLOCK: o->mlock = true; break;
        case OPT_JSON: o->json = true; break;
        case 'q': o->quiet = true; break;
        default: return cli_bad_option(&cli_run, c);
        }
    if (rc) return CLI_USAGE;
    if (optind + 1 < argc) return cli_usage(&cli_run, "one model at most");
    o->model = optind < argc ? argv[optind] : NULL;
    if (o->prompt && o->file) return cli_usage(&cli_run, "-p and -f exclude each other");
    return -1;
}

// The prompt's text from -p, -f or standard input. A terminal with no prompt, and the default model, starts from
// nothing.
static char *read_prompt(const options *o, size_t *n, upg_error *e) {
    if (o->prompt) return upg_strdup(o->prompt, *n = strlen(o->prompt), e);
    if (!o->file && isatty(STDIN_FILENO)) return upg_strdup("", *n = 0, e);
    if (!o->file) return cli_read_all(stdin, "standard input", n, e);
    FILE *f = fopen(o->file, "rb");
    if (!f) {
        upg_fail(e, "%s: %s", o->file, strerror(errno));
        return NULL;
    }
    char *text = cli_read_all(f, o->file, n, e);
    fclose(f);
    return text;
}

static int set_prompt(generation *g, int context, upg_error *e) {
    size_t n_text = 0, n_ids = 0;
    int32_t *ids = NULL;
    char *text = read_prompt(g->o, &n_text, e);
    if (!text || upg_tokenize(g->model, text, n_text, g->o->special, &ids, &n_ids, e)) {
        free(text);
        return -1;
    }
    free(text);
    int32_t start = upg_model_bos(g->model);
    // A model that wants no BOS still needs one token to start from nothing: the one that ends a text.
    if (start < 0 && !n_ids) start = g->model->config.n_eos ? g->model->config.eos[0] : 0;
    size_t n = n_ids + (start >= 0);
    int rc = n <= (size_t)context
                 ? 0
                 : upg_fail(e, "the prompt has %zu tokens, more than the context of %d (-c)", n, context);
    if (!rc) {
        if (start >= 0) g->tokens[g->n_tokens++] = start;
        if (n_ids) memcpy(g->tokens + g->n_tokens, ids, n_ids * sizeof *ids);
        g->n_tokens += n_ids;
        g->n_prompt = g->n_tokens;
    }
    upg_free(ids);
    return rc;
}

static int open_all(generation *g, upg_error *e) {
    const options *o = g->o;
    if (!(g->model = cli_open_model(o->model, e))) return -1;
    int max = upg_model_max_context(g->model), context = o->context ? o->context : max < 4096 ? max : 4096;
    upg_session_options s = {.n_threads = o->n_threads, .context = context};
    if (!(g->session = upg_session_new(g->model, &s, e)) ||
        !(g->sampler = upg_sampler_new(upg_model_vocab_size(g->model), &o->sampling, e)) ||
        !(g->tokens = upg_alloc((size_t)context + 1, sizeof *g->tokens, e)) ||
        !(g->logprobs = upg_alloc((size_t)context + 1, sizeof *g->logprobs, e)))
        return -1;
    if (o->mlock && mlockall(MCL_CURRENT))
        return upg_fail(e, "--mlock: %s (ulimit -l raises the limit)", strerror(errno));
    return set_prompt(g, context, e);
}

static void show_token(generation *g, int32_t token, float logprob) {
    const options *o = g->o;
    upg_detokenizer_push(&g->detokenizer, g->model->tokenizer, token, o->special, &g->text);
    if (o->json) return;
    if (o->logprobs) {
        upg_buf quoted = {0};
        cli_json_string(&quoted, g->text.data ? g->text.data : "", g->text.size);
        printf("%d\t%.6f\t%s\n", token, (double)logprob, quoted.data ? quoted.data : "");
        upg_buf_free(&quoted);
    } else if (g->text.size) {
        fwrite(g->text.data, 1, g->text.size, stdout);
    }
    fflush(stdout);
    g->text.size = 0;
}

static int generate(generation *g, upg_error *e) {
    double start = upg_now();
    if (upg_session_prefill(g->session, 0, g->tokens, g->n_prompt, e)) return -1;
    g->prompt_seconds = upg_now() - start;
    start = upg_now();
    int vocab = upg_model_vocab_size(g->model);
    g->finish = "length";
    for (int i = 0; i < g->o->n_predict; i++) {
        const float *logits = upg_session_logits(g->session, 0);
        int32_t token = upg_sample(g->sampler, logits, g->tokens, g->n_tokens);
        float logprob = g->o->logprobs ? upg_logprob(logits, vocab, token) : 0;
        if (upg_model_is_eos(g->model, token)) {
            g->finish = "stop";
            break;
        }
        g->logprobs[g->n_tokens] = logprob;
        g->tokens[g->n_tokens++] = token;
        show_token(g, token, logprob);
        if (cli_interrupted) {
            g->finish = "interrupted";
            break;
        }
        if (ferror(stdout)) return upg_fail(e, "cannot write to standard output");
        if (i + 1 == g->o->n_predict || upg_session_length(g->session, 0) == upg_session_context(g->session)) break;
        upg_row row = {token, 0, true};
        if (upg_session_run(g->session, &row, 1, e)) return -1;
        if (upg_session_row_failed(g->session, 0))
            return upg_fail(e, "the model met a value that is not finite at token %zu", g->n_tokens - 1);
    }
    g->seconds = upg_now() - start;
    return 0;
}

static int print_json(generation *g, upg_error *e) {
    upg_buf b = {0};
    upg_buf_str(&b, "{\"text\":");
    cli_json_string(&b, g->text.data ? g->text.data : "", g->text.size);
    size_t n = g->n_tokens - g->n_prompt;
    upg_buf_fmt(&b,
                ",\"finish_reason\":\"%s\",\"prompt_tokens\":%zu,\"completion_tokens\":%zu,\"seed\":%llu,\"tokens\":[",
                g->finish, g->n_prompt, n, (unsigned long long)g->o->sampling.seed);
    for (size_t i = 0; i < n; i++) upg_buf_fmt(&b, "%s%d", i ? "," : "", g->tokens[g->n_prompt + i]);
    upg_buf_str(&b, "]");
    if (g->o->logprobs) {
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

static int finish(generation *g, upg_error *e) {
    upg_detokenizer_finish(&g->detokenizer, &g->text);
    if (g->o->json) return print_json(g, e);
    if (!g->o->logprobs) {
        fwrite(g->text.data ? g->text.data : "", 1, g->text.size, stdout);
        putchar('\n');
    }
    fflush(stdout);
    if (g->o->quiet) return 0;
    size_t n = g->n_tokens - g->n_prompt, steps = n > 1 ? n - 1 : 0; // the first token comes from the prompt's run
    fprintf(stderr, "prompt: %zu tokens, %.1f tok/s; answer: %zu tokens", g->n_prompt,
            (double)g->n_prompt / g->prompt_seconds, n);
    if (steps)
        fprintf(stderr, ", %.1f tok/s, %.2f GB/s of weights", (double)steps / g->seconds,
                (double)steps * (double)upg_model_bytes_per_token(g->model) / g->seconds * 1e-9);
    fprintf(stderr, " (%s, seed %llu)\n", upg_session_path(g->session), (unsigned long long)g->o->sampling.seed);
    return 0;
}

static int run(int argc, char **argv) {
    options o = {.n_predict = 256,
                 .sampling = {.temperature = 0.8f,
                              .top_k = 40,
                              .top_p = 0.95f,
                              .min_p = 0.05f,
                              .repeat_penalty = 1,
                              .seed = (uint64_t)(upg_now() * 1e6)}};
    int status = parse(argc, argv, &o);
    if (status >= 0) return status;
    generation g = {.o = &o, .detokenizer = {.midway = true}}; // the answer goes on where the prompt ends
    upg_error e = {0};
    cli_catch_interrupt();
    status = open_all(&g, &e) || generate(&g, &e) || finish(&g, &e) ? cli_failed(&e) : CLI_OK;
    if (cli_interrupted) status = CLI_INTERRUPTED;
    upg_sampler_free(g.sampler);
    upg_session_free(g.session);
    upg_model_free(g.model);
    free(g.tokens);
    free(g.logprobs);
    upg_buf_free(&g.text);
    return status;
}

const cli_verb cli_run = {"run", "continue a prompt", help, run};
